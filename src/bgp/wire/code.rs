//! Numbers of the protocol and their names for people (IANA "BGP Parameters").

/// Message types (RFC 4271 section 4.1, RFC 2918).
pub mod message {
    /// OPEN.
    pub const OPEN: u8 = 1;
    /// UPDATE.
    pub const UPDATE: u8 = 2;
    /// NOTIFICATION.
    pub const NOTIFICATION: u8 = 3;
    /// KEEPALIVE.
    pub const KEEPALIVE: u8 = 4;
    /// ROUTE-REFRESH.
    pub const ROUTE_REFRESH: u8 = 5;
}

/// Path attribute type codes.
pub mod attribute {
    /// ORIGIN, RFC 4271.
    pub const ORIGIN: u8 = 1;
    /// AS_PATH, RFC 4271.
    pub const AS_PATH: u8 = 2;
    /// NEXT_HOP, RFC 4271.
    pub const NEXT_HOP: u8 = 3;
    /// MULTI_EXIT_DISC, RFC 4271.
    pub const MED: u8 = 4;
    /// LOCAL_PREF, RFC 4271.
    pub const LOCAL_PREF: u8 = 5;
    /// ATOMIC_AGGREGATE, RFC 4271.
    pub const ATOMIC_AGGREGATE: u8 = 6;
    /// AGGREGATOR, RFC 4271.
    pub const AGGREGATOR: u8 = 7;
    /// COMMUNITIES, RFC 1997.
    pub const COMMUNITIES: u8 = 8;
    /// ORIGINATOR_ID, RFC 4456.
    pub const ORIGINATOR_ID: u8 = 9;
    /// CLUSTER_LIST, RFC 4456.
    pub const CLUSTER_LIST: u8 = 10;
    /// MP_REACH_NLRI, RFC 4760.
    pub const MP_REACH: u8 = 14;
    /// MP_UNREACH_NLRI, RFC 4760.
    pub const MP_UNREACH: u8 = 15;
    /// EXTENDED COMMUNITIES, RFC 4360.
    pub const EXT_COMMUNITIES: u8 = 16;
    /// AS4_PATH, RFC 6793.
    pub const AS4_PATH: u8 = 17;
    /// AS4_AGGREGATOR, RFC 6793.
    pub const AS4_AGGREGATOR: u8 = 18;
    /// IPv6 Address Specific Extended Community, RFC 5701.
    pub const IPV6_EXT_COMMUNITIES: u8 = 25;
    /// LARGE_COMMUNITY, RFC 8092.
    pub const LARGE_COMMUNITIES: u8 = 32;
    /// ONLY_TO_CUSTOMER, RFC 9234.
    pub const OTC: u8 = 35;
}

/// Attribute flag bits (RFC 4271 section 4.3).
pub mod flag {
    /// Optional.
    pub const OPTIONAL: u8 = 0x80;
    /// Transitive.
    pub const TRANSITIVE: u8 = 0x40;
    /// Partial.
    pub const PARTIAL: u8 = 0x20;
    /// The length has two octets.
    pub const EXTENDED_LENGTH: u8 = 0x10;
}

/// Capability codes.
pub mod capability {
    /// Multiprotocol, RFC 4760.
    pub const MULTIPROTOCOL: u8 = 1;
    /// Route refresh, RFC 2918.
    pub const ROUTE_REFRESH: u8 = 2;
    /// Extended next hop encoding, RFC 8950.
    pub const EXTENDED_NEXT_HOP: u8 = 5;
    /// Extended message, RFC 8654.
    pub const EXTENDED_MESSAGE: u8 = 6;
    /// BGP role, RFC 9234.
    pub const ROLE: u8 = 9;
    /// Graceful restart, RFC 4724.
    pub const GRACEFUL_RESTART: u8 = 64;
    /// Four-octet AS number, RFC 6793.
    pub const FOUR_OCTET_AS: u8 = 65;
    /// ADD-PATH, RFC 7911.
    pub const ADD_PATH: u8 = 69;
    /// Enhanced route refresh, RFC 7313.
    pub const ENHANCED_ROUTE_REFRESH: u8 = 70;
    /// Long-lived graceful restart, RFC 9494.
    pub const LONG_LIVED_GRACEFUL_RESTART: u8 = 71;
    /// FQDN, draft-walton-bgp-hostname-capability.
    pub const FQDN: u8 = 73;
}

/// NOTIFICATION error codes (RFC 4271 section 4.5, RFC 7313).
pub mod error {
    /// Message Header Error.
    pub const HEADER: u8 = 1;
    /// OPEN Message Error.
    pub const OPEN: u8 = 2;
    /// UPDATE Message Error.
    pub const UPDATE: u8 = 3;
    /// Hold Timer Expired.
    pub const HOLD_TIMER: u8 = 4;
    /// Finite State Machine Error (subcodes: RFC 6608).
    pub const FSM: u8 = 5;
    /// Cease (subcodes: RFC 4486).
    pub const CEASE: u8 = 6;
    /// ROUTE-REFRESH Message Error (RFC 7313).
    pub const ROUTE_REFRESH: u8 = 7;
    /// Send Hold Timer Expired (RFC 9687).
    pub const SEND_HOLD_TIMER: u8 = 8;
}

/// Cease subcodes (RFC 4486, RFC 8538, RFC 9384).
pub mod cease {
    /// Maximum Number of Prefixes Reached.
    pub const MAX_PREFIXES: u8 = 1;
    /// Administrative Shutdown.
    pub const SHUTDOWN: u8 = 2;
    /// Peer De-configured.
    pub const DECONFIGURED: u8 = 3;
    /// Administrative Reset.
    pub const RESET: u8 = 4;
    /// Connection Rejected.
    pub const REJECTED: u8 = 5;
    /// Other Configuration Change.
    pub const CONFIG_CHANGE: u8 = 6;
    /// Connection Collision Resolution.
    pub const COLLISION: u8 = 7;
    /// Out of Resources.
    pub const OUT_OF_RESOURCES: u8 = 8;
    /// Hard Reset (RFC 8538).
    pub const HARD_RESET: u8 = 9;
    /// BFD Down (RFC 9384).
    pub const BFD_DOWN: u8 = 10;
}

/// The name of a message type, as RFC 4271 writes it.
pub const fn message_name(kind: u8) -> &'static str {
    match kind {
        message::OPEN => "OPEN",
        message::UPDATE => "UPDATE",
        message::NOTIFICATION => "NOTIFICATION",
        message::KEEPALIVE => "KEEPALIVE",
        message::ROUTE_REFRESH => "ROUTE_REFRESH",
        _ => "UNKNOWN",
    }
}

/// The name of a path attribute, lower case with underscores as in our JSON; `None` for codes that IANA has no name for.
/// Not all that have a name are more to slash32 than octets.
pub const fn attribute_name(code: u8) -> Option<&'static str> {
    Some(match code {
        1 => "origin",
        2 => "as_path",
        3 => "next_hop",
        4 => "med",
        5 => "local_pref",
        6 => "atomic_aggregate",
        7 => "aggregator",
        8 => "communities",
        9 => "originator_id",
        10 => "cluster_list",
        14 => "mp_reach",
        15 => "mp_unreach",
        16 => "ext_communities",
        17 => "as4_path",
        18 => "as4_aggregator",
        22 => "pmsi_tunnel",
        23 => "tunnel_encapsulation",
        24 => "traffic_engineering",
        26 => "aigp",
        27 => "pe_distinguisher_labels",
        29 => "bgp_ls",
        25 => "ipv6_ext_communities",
        32 => "large_communities",
        33 => "bgpsec_path",
        35 => "otc",
        36 => "domain_path",
        37 => "sfp",
        38 => "bfd_discriminator",
        40 => "prefix_sid",
        128 => "attr_set",
        _ => return None,
    })
}

/// The name of a capability; "Unknown" when it has none here.
pub const fn capability_name(code: u8) -> &'static str {
    match code {
        1 => "Multiprotocol",
        2 => "Route Refresh",
        3 => "Outbound Route Filtering",
        5 => "Extended Next Hop",
        6 => "Extended Message",
        7 => "BGPsec",
        8 => "Multiple Labels",
        9 => "Role",
        64 => "Graceful Restart",
        65 => "Four-octet AS",
        67 => "Dynamic",
        68 => "Multisession",
        69 => "ADD-PATH",
        70 => "Enhanced Route Refresh",
        71 => "Long-lived Graceful Restart",
        72 => "Routing Policy Distribution",
        73 => "FQDN",
        74 => "BFD Strict",
        75 => "Software Version",
        76 => "Paths Limit",
        128 => "Route Refresh (Cisco)",
        130 => "Outbound Route Filtering (Cisco)",
        131 => "Multisession (Cisco)",
        _ => "Unknown",
    }
}

/// The name of a NOTIFICATION error code.
pub const fn error_name(code: u8) -> &'static str {
    match code {
        error::HEADER => "Message Header Error",
        error::OPEN => "OPEN Message Error",
        error::UPDATE => "UPDATE Message Error",
        error::HOLD_TIMER => "Hold Timer Expired",
        error::FSM => "Finite State Machine Error",
        error::CEASE => "Cease",
        error::ROUTE_REFRESH => "ROUTE-REFRESH Message Error",
        error::SEND_HOLD_TIMER => "Send Hold Timer Expired",
        _ => "Unknown Error",
    }
}

/// The name of a NOTIFICATION error subcode; `None` for 0 (unspecific) and for numbers without a meaning.
pub const fn subcode_name(code: u8, subcode: u8) -> Option<&'static str> {
    Some(match (code, subcode) {
        (error::HEADER, 1) => "Connection Not Synchronized",
        (error::HEADER, 2) => "Bad Message Length",
        (error::HEADER, 3) => "Bad Message Type",
        (error::OPEN, 1) => "Unsupported Version Number",
        (error::OPEN, 2) => "Bad Peer AS",
        (error::OPEN, 3) => "Bad BGP Identifier",
        (error::OPEN, 4) => "Unsupported Optional Parameter",
        (error::OPEN, 5) => "Authentication Failure",
        (error::OPEN, 6) => "Unacceptable Hold Time",
        (error::OPEN, 7) => "Unsupported Capability",
        (error::OPEN, 11) => "Role Mismatch",
        (error::UPDATE, 1) => "Malformed Attribute List",
        (error::UPDATE, 2) => "Unrecognized Well-known Attribute",
        (error::UPDATE, 3) => "Missing Well-known Attribute",
        (error::UPDATE, 4) => "Attribute Flags Error",
        (error::UPDATE, 5) => "Attribute Length Error",
        (error::UPDATE, 6) => "Invalid ORIGIN Attribute",
        (error::UPDATE, 7) => "AS Routing Loop",
        (error::UPDATE, 8) => "Invalid NEXT_HOP Attribute",
        (error::UPDATE, 9) => "Optional Attribute Error",
        (error::UPDATE, 10) => "Invalid Network Field",
        (error::UPDATE, 11) => "Malformed AS_PATH",
        (error::FSM, 1) => "Unexpected Message in OpenSent",
        (error::FSM, 2) => "Unexpected Message in OpenConfirm",
        (error::FSM, 3) => "Unexpected Message in Established",
        (error::CEASE, cease::MAX_PREFIXES) => "Maximum Number of Prefixes Reached",
        (error::CEASE, cease::SHUTDOWN) => "Administrative Shutdown",
        (error::CEASE, cease::DECONFIGURED) => "Peer De-configured",
        (error::CEASE, cease::RESET) => "Administrative Reset",
        (error::CEASE, cease::REJECTED) => "Connection Rejected",
        (error::CEASE, cease::CONFIG_CHANGE) => "Other Configuration Change",
        (error::CEASE, cease::COLLISION) => "Connection Collision Resolution",
        (error::CEASE, cease::OUT_OF_RESOURCES) => "Out of Resources",
        (error::CEASE, cease::HARD_RESET) => "Hard Reset",
        (error::CEASE, cease::BFD_DOWN) => "BFD Down",
        (error::ROUTE_REFRESH, 1) => "Invalid Message Length",
        _ => return None,
    })
}
