//! What the RIB is told: its own configuration, and the negotiated parameters of each peer.
//!
//! Plain values with public fields. The session fills [`PeerParams`] when it reaches Established, from its
//! configuration and from what both OPENs agreed on; the RIB never sees a capability.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use super::filter::Rule;
use crate::{
    bgp::{
        config::{IdentityMode, MaxPrefixes, NextHopCheck, NextHopMode, Role},
        wire::{Community, ExtCommunity, LargeCommunity, Origin, PeerKind, PerFamily},
    },
    model::{Asn, Identity, Prefix, RouterId},
};

/// The configuration of the whole RIB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RibConfig {
    /// Our AS number (`[bgp] asn`).
    pub asn: Asn,
    /// Our BGP identifier.
    pub router_id: RouterId,
    /// The cluster we reflect for (RFC 4456 section 7); the router id unless configured.
    pub cluster_id: Ipv4Addr,
    /// Reflect iBGP routes between clients and non-clients (RFC 4456).
    pub route_reflector: bool,
    /// Advertise learned routes to eBGP peers, and eBGP routes to iBGP peers. Off: only what we originate leaves
    /// towards them, whatever the rules say.
    pub transit: bool,
    /// The most paths used at once for one prefix; 1 disables multipath. At most `NextHopSet::MAX`.
    pub multipath: usize,
    /// Spread over paths whose AS paths differ but are equally long.
    pub multipath_relax: bool,
    /// Options of the decision process.
    pub decision: DecisionOptions,
    /// What becomes of paths whose next hop cannot be reached.
    pub next_hop_check: NextHopCheck,
    /// LOCAL_PREF of routes that come without one (RFC 4271 section 9.1.1).
    pub default_local_pref: u32,
    /// The GLOBAL part of identity communities (DESIGN section 3).
    pub identity_domain: u32,
    /// Identities are believed only for prefixes inside these pools.
    pub identity_pools: Vec<Prefix>,
    /// How long what an endpoint was known as is kept after the session it came by was lost; zero: not at all.
    pub identity_hold: Duration,
    /// The neighbours whose identities are kept so; `None`: all that are believed.
    pub tellers: Option<Tellers>,
    /// How long a peer that promises no End-of-RIB may take to send what it has, from its session on.
    pub unpromised: Duration,
    /// Our own addresses: a route that names one as its next hop is ignored (RFC 4271 section 5.1.3).
    pub local_addresses: Vec<IpAddr>,
    /// Bytes of encoded output kept for the slowest member of an update group before that member is taken out of
    /// the shared stream and catches up with deduplicated state.
    pub group_backlog: usize,
    /// Set when this process replaces one whose routes are still in the kernel.
    pub restart: Option<Restart>,
}

impl RibConfig {
    /// A speaker with these numbers and every option at its default.
    pub fn new(asn: Asn, router_id: RouterId) -> Self {
        Self {
            asn,
            router_id,
            cluster_id: router_id.addr(),
            route_reflector: false,
            transit: false,
            multipath: 64,
            multipath_relax: true,
            decision: DecisionOptions::default(),
            next_hop_check: NextHopCheck::default(),
            default_local_pref: 100,
            identity_domain: 4_200_000_000,
            identity_pools: Vec::new(),
            identity_hold: Duration::from_secs(86_400),
            tellers: None,
            unpromised: Duration::from_secs(15),
            local_addresses: Vec::new(),
            group_backlog: 4 << 20,
            restart: None,
        }
    }

    /// Whether what a neighbour of this name told may be kept when its session is lost.
    pub(super) fn may_tell(&self, name: &str) -> bool {
        self.tellers.as_ref().is_none_or(|tellers| tellers.believed(name))
    }
}

/// Neighbours, and whether their identities are believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tellers {
    /// Those that are configured, by name.
    pub listed: BTreeMap<String, bool>,
    /// Ranges of those that are not; the longest match counts.
    pub ranges: Vec<(Prefix, bool)>,
}

impl Tellers {
    /// Whether a neighbour is configured and believed.
    pub fn believed(&self, name: &str) -> bool {
        if let Some(believed) = self.listed.get(name) {
            return *believed;
        }
        let Ok(addr) = name.parse::<IpAddr>() else { return false };
        let fits = self.ranges.iter().filter(|(range, _)| range.contains_addr(addr));
        fits.max_by_key(|(range, _)| range.len()).is_some_and(|(_, believed)| *believed)
    }
}

/// What is waited for after our own restart (RFC 4724 section 4.1). Nothing of it holds up what we originate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restart {
    /// How many peers are configured.
    pub peers: usize,
    /// How long a peer may take to reach Established; one that does not is waited for no longer.
    pub connect_wait: Duration,
    /// How long changed best paths are held back for neighbours that are still to come or to send all they have: a route
    /// over several of them shall not narrow to the first one that is back. The kernel has what it had.
    pub gather: Duration,
    /// How long in all End-of-RIB of the peers is waited for (Selection_Deferral_Timer).
    pub deferral: Duration,
}

impl Restart {
    /// How long a peer that promises no End-of-RIB may take to send what it has, from its session on.
    pub(super) fn unpromised(&self) -> Duration {
        self.connect_wait / 2
    }
}

/// Options of the decision process (RFC 4271 section 9.1.2.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DecisionOptions {
    /// Compare MED between routes of different neighbouring ASes too.
    pub always_compare_med: bool,
    /// A route without MED is the worst one instead of the best (the RFC says lowest, i.e. 0).
    pub missing_med_worst: bool,
    /// Between eBGP routes, keep the oldest before comparing router ids (less churn, not deterministic).
    pub prefer_oldest: bool,
}

/// A peer's parameters, as configured and negotiated, for the time of one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerParams {
    /// The peer as configured, which outlives its number.
    pub name: Arc<str>,
    /// Internal or external.
    pub kind: PeerKind,
    /// The peer's AS.
    pub peer_asn: Asn,
    /// The AS that we opened the session with: `local_as.asn` where that is set, else `[bgp] asn`.
    pub local_asn: Asn,
    /// Set when the session uses another AS number than ours (`local_asn` of the peer's configuration).
    pub local_as: Option<LocalAs>,
    /// The peer's BGP identifier.
    pub peer_router_id: RouterId,
    /// The peer's address, without scope.
    pub peer_addr: IpAddr,
    /// The interface of a link-local peer, else 0.
    pub ifindex: u32,
    /// Our addresses on the session, used as the next hop of what we send.
    pub local: LocalAddresses,
    /// The networks of the link that we share with an eBGP peer; empty if it is not on a link of ours. A next hop inside
    /// them is passed on as it is (third party, RFC 4271 section 5.1.3).
    pub shared_networks: Vec<Prefix>,
    /// Negotiated families; `None` is not exchanged.
    pub families: PerFamily<Option<FamilyParams>>,
    /// Both sides use four-octet AS numbers (RFC 6793).
    pub four_octet_as: bool,
    /// Both sides accept messages of up to 65535 octets (RFC 8654).
    pub extended_message: bool,
    /// The peer has restarted and waits for our routes before it sends its own (R bit, RFC 4724 section 3).
    pub restarting: bool,
    /// The peer understands enhanced route refresh (RFC 7313).
    pub enhanced_refresh: bool,
    /// The peer is our route reflector client.
    pub route_reflector_client: bool,
    /// What we put in as next hop.
    pub next_hop: NextHopMode,
    /// How often our own AS may be in a received AS_PATH.
    pub allowas_in: u8,
    /// Refuse routes whose AS_PATH does not begin with the peer's AS (RFC 4271 section 6.3); eBGP only.
    pub enforce_first_as: bool,
    /// Replace the peer's AS in the AS_PATH by ours when sending.
    pub as_override: bool,
    /// Take private AS numbers out of the AS_PATH when sending (RFC 6996).
    pub remove_private: RemovePrivate,
    /// Whether identities that come from this peer are believed.
    pub identity: IdentityMode,
    /// Our role on this session (RFC 9234).
    pub role: Option<Role>,
    /// Rules for what we receive; without a match the route is accepted. `Arc`, since many peers share one list.
    pub import: Arc<[Rule]>,
    /// Rules for what we send, applied to what the export mode lets out; without a match it is sent.
    pub export: Arc<[Rule]>,
    /// Pass a link-bandwidth extended community on although it is non-transitive (eBGP) or made for another next hop.
    pub send_link_bandwidth: bool,
}

/// How a session poses as another AS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LocalAs {
    /// The AS that the peer sees.
    pub asn: Asn,
    /// Do not put it in front of routes received from the peer.
    pub no_prepend: bool,
    /// When sending, put only this AS in front and not our real one behind it.
    pub replace_as: bool,
}

/// Our addresses on one session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LocalAddresses {
    /// The IPv4 address: next hop of IPv4 routes.
    pub ipv4: Option<Ipv4Addr>,
    /// The global IPv6 address: next hop of IPv6 routes, and of IPv4 ones with RFC 8950.
    pub ipv6: Option<Ipv6Addr>,
    /// The link-local address, when the peer is on the link (RFC 2545 section 3).
    pub link_local: Option<Ipv6Addr>,
}

/// What was negotiated for one address family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FamilyParams {
    /// The peer sends path identifiers (RFC 7911).
    pub add_path_rx: bool,
    /// We send path identifiers, and which paths.
    pub add_path_tx: Option<AddPathSend>,
    /// IPv4 prefixes may be sent with an IPv6 next hop (RFC 8950). Meaningless for IPv6.
    pub extended_next_hop: bool,
    /// The limit on prefixes. Counts what is kept: accepted paths.
    pub max_prefixes: Option<MaxPrefixes>,
    /// Graceful restart, when the peer announced it for this family.
    pub graceful: Option<GracefulParams>,
    /// The peer has the graceful restart capability, with this family in it or not: it ends its first routes with
    /// End-of-RIB (RFC 4724 section 3).
    pub sends_end_of_rib: bool,
}

/// Which paths go to a peer that receives several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddPathSend {
    /// Every eligible path.
    All,
    /// The best so many.
    Best(u8),
}

/// What the peer's graceful restart capabilities say about one family (RFC 4724, RFC 9494).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct GracefulParams {
    /// F bit of the current session: the peer kept its forwarding state. Decides whether stale routes of the previous
    /// session live on until End-of-RIB.
    pub forwarding_preserved: bool,
    /// How long routes are kept after the session is lost, without a new session (Restart Time).
    pub restart_time: Duration,
    /// How long they are kept further as long-lived stale; `None` without RFC 9494.
    pub long_lived: Option<Duration>,
    /// After the session is back: how long we wait for End-of-RIB before stale routes go.
    pub stale_time: Duration,
}

/// What happens to private AS numbers on export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RemovePrivate {
    /// They stay.
    #[default]
    Off,
    /// They go if the path consists of nothing else.
    OnlyIfAll,
    /// All go.
    All,
    /// Each is replaced by our AS, which keeps the length.
    Replace,
}

/// How a session ended, as far as its routes are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DownReason {
    /// The routes go at once: a NOTIFICATION without RFC 8538, a hard reset, an administrative end, BFD.
    Flush,
    /// The peer is restarting (or lost) and its routes stay for the times in [`GracefulParams`]; families without
    /// graceful restart are flushed.
    Restarting,
}

impl PeerParams {
    /// A plain session for IPv4 and IPv6 with four-octet AS numbers and defaults for the rest.
    pub fn new(
        kind: PeerKind,
        local_asn: Asn,
        peer_asn: Asn,
        peer_router_id: RouterId,
        peer_addr: IpAddr,
    ) -> Self {
        Self {
            name: peer_addr.to_string().into(),
            kind,
            peer_asn,
            local_asn,
            local_as: None,
            peer_router_id,
            peer_addr,
            ifindex: 0,
            local: LocalAddresses::default(),
            shared_networks: Vec::new(),
            families: PerFamily::both(Some(FamilyParams::default())),
            four_octet_as: true,
            extended_message: false,
            restarting: false,
            enhanced_refresh: false,
            route_reflector_client: false,
            next_hop: NextHopMode::Auto,
            allowas_in: 0,
            enforce_first_as: true,
            as_override: false,
            remove_private: RemovePrivate::Off,
            identity: IdentityMode::Ignore,
            role: None,
            import: Arc::default(),
            export: Arc::default(),
            send_link_bandwidth: false,
        }
    }
}

/// A prefix that this host originates, beyond the prefix itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalRoute {
    /// The endpoint's labels as hashes, sent as large communities.
    pub identity: Option<Arc<Identity>>,
    /// The endpoint's attachment number, higher for the newer place of an address that moved.
    pub sequence: Option<u32>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF towards iBGP peers; the configured default if `None`.
    pub local_pref: Option<u32>,
    /// ORIGIN; IGP if `None`.
    pub origin: Option<Origin>,
    /// The next hop, if it is not this host.
    pub next_hop: Option<IpAddr>,
    /// Further communities.
    pub communities: Vec<Community>,
    /// Further large communities.
    pub large_communities: Vec<LargeCommunity>,
    /// Further extended communities.
    pub ext_communities: Vec<ExtCommunity>,
}
