//! BGP messages as types.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;

use super::PathAttributes;
use crate::model::{Family, Prefix};

/// A whole BGP message (RFC 4271 section 4).
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every message is an UPDATE: boxing it would cost, not save"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Type 1.
    Open(Open),
    /// Type 2.
    Update(Update),
    /// Type 3.
    Notification(Notification),
    /// Type 4.
    Keepalive,
    /// Type 5 (RFC 2918, RFC 7313).
    RouteRefresh(RouteRefresh),
}

/// An OPEN message (RFC 4271 section 4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The version, 4.
    pub version: u8,
    /// "My Autonomous System", two octets; AS_TRANS when the number does not fit.
    pub my_as: u16,
    /// Seconds: 0, or 3 and more.
    pub hold_time: u16,
    /// The BGP identifier.
    pub router_id: Ipv4Addr,
    /// Capabilities in the order they came (RFC 5492), from all optional parameters.
    pub capabilities: Vec<Capability>,
}

/// A capability (RFC 5492). One value a TLV, as it was on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Code 1, RFC 4760. AFI and SAFI as numbers: unknown ones are kept.
    Multiprotocol {
        /// Address family identifier.
        afi: u16,
        /// Subsequent address family identifier.
        safi: u8,
    },
    /// Code 2, RFC 2918.
    RouteRefresh,
    /// Code 5, RFC 8950: (NLRI AFI, NLRI SAFI, next hop AFI).
    ExtendedNextHop(Vec<(u16, u16, u16)>),
    /// Code 6, RFC 8654.
    ExtendedMessage,
    /// Code 9, RFC 9234: 0 provider, 1 route server, 2 RS client, 3 customer, 4 peer.
    Role(u8),
    /// Code 64, RFC 4724.
    GracefulRestart {
        /// R bit: the speaker has restarted.
        restart_state: bool,
        /// N bit (RFC 8538): NOTIFICATION and hold time expiry keep the routes.
        notification: bool,
        /// Seconds, 12 bits.
        restart_time: u16,
        /// (AFI, SAFI, F bit).
        families: Vec<(u16, u8, bool)>,
    },
    /// Code 65, RFC 6793.
    FourOctetAs(u32),
    /// Code 69, RFC 7911: (AFI, SAFI, 1 receive / 2 send / 3 both).
    AddPath(Vec<(u16, u8, u8)>),
    /// Code 70, RFC 7313.
    EnhancedRouteRefresh,
    /// Code 71, RFC 9494: (AFI, SAFI, F bit, stale time in seconds, 24 bits).
    LongLivedGracefulRestart(Vec<(u16, u8, bool, u32)>),
    /// Code 73 (hostname, domain), draft-walton-bgp-hostname-capability; shown, never relied on.
    Fqdn {
        /// Host name.
        hostname: String,
        /// Domain name.
        domain: String,
    },
    /// Anything else, byte for byte.
    Unknown {
        /// The code.
        code: u8,
        /// The value.
        value: Bytes,
    },
}

/// One NLRI: a prefix, with its path identifier when add-path is in use (RFC 7911).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nlri {
    /// The prefix.
    pub prefix: Prefix,
    /// The path identifier; 0 without add-path.
    pub path_id: u32,
}

/// The next hop of a set of announced prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WireNextHop {
    /// NEXT_HOP, or a 4-octet MP next hop.
    V4(Ipv4Addr),
    /// A 16-octet MP next hop; for IPv4 NLRI too (RFC 8950).
    V6(Ipv6Addr),
    /// A 32-octet MP next hop: global and link-local (RFC 2545 section 3).
    V6LinkLocal {
        /// The global address (or `::` or a link-local again from some implementations).
        global: Ipv6Addr,
        /// The link-local address.
        link_local: Ipv6Addr,
    },
}

impl WireNextHop {
    /// The address to forward to when the link-local one is not usable: the global one.
    pub const fn global(self) -> IpAddr {
        match self {
            Self::V4(a) => IpAddr::V4(a),
            Self::V6(a) | Self::V6LinkLocal { global: a, .. } => IpAddr::V6(a),
        }
    }
}

/// Prefixes announced in one family with one next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The family of the prefixes.
    pub family: Family,
    /// Their next hop.
    pub next_hop: WireNextHop,
    /// The prefixes.
    pub nlri: Vec<Nlri>,
}

/// Prefixes withdrawn in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreach {
    /// The family of the prefixes.
    pub family: Family,
    /// The prefixes.
    pub nlri: Vec<Nlri>,
}

/// An UPDATE in normal form: the IPv4 fields of the message body and the MP attributes are treated alike.
///
/// At most two entries in each list: the body's and the MP attribute's. `attributes` excludes MP_REACH_NLRI,
/// MP_UNREACH_NLRI and NEXT_HOP, which are in `reach` and `unreach`. AS_PATH is four-octet, AS4_PATH already merged
/// (RFC 6793). When treat-as-withdraw applies (RFC 7606) the decoder has moved the prefixes of `reach` to `unreach`.
///
/// Handle `unreach` before `reach`: a prefix in both is announced (RFC 4271 section 4.3). An UPDATE of which nothing is
/// left, such as one for families that are not ours, has one entry without prefixes in `reach`, so that it does not pass
/// for an End-of-RIB marker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Announcements.
    pub reach: Vec<Reach>,
    /// Withdrawals.
    pub unreach: Vec<Unreach>,
    /// The path attributes of the announcements.
    pub attributes: PathAttributes,
}

impl Update {
    /// Every prefix that is announced, then every one that is withdrawn.
    pub fn prefixes(&self) -> impl Iterator<Item = &Nlri> {
        let announced = self.reach.iter().flat_map(|reach| &reach.nlri);
        announced.chain(self.unreach.iter().flat_map(|unreach| &unreach.nlri))
    }

    /// The family this UPDATE is the End-of-RIB marker of (RFC 4724 section 2), if it is one.
    ///
    /// An IPv4 marker is an UPDATE with nothing in it; an IPv6 one has an empty MP_UNREACH_NLRI and nothing else.
    pub fn end_of_rib(&self) -> Option<Family> {
        if !self.reach.is_empty() || self.attributes != PathAttributes::default() {
            return None;
        }
        match self.unreach.as_slice() {
            [] => Some(Family::Ipv4),
            [only] if only.nlri.is_empty() => Some(only.family),
            _ => None,
        }
    }
}

/// A NOTIFICATION (RFC 4271 section 4.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Error code.
    pub code: u8,
    /// Error subcode.
    pub subcode: u8,
    /// Data, whose meaning depends on code and subcode.
    pub data: Bytes,
}

/// A ROUTE-REFRESH (RFC 2918); the subtype is RFC 7313's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRefresh {
    /// Address family identifier.
    pub afi: u16,
    /// 0 request, 1 begin of refresh, 2 end of refresh.
    pub subtype: u8,
    /// Subsequent address family identifier.
    pub safi: u8,
}
