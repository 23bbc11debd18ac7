//! What the speaker is told: plain values, already validated, that can be compared to find what a reload changes.
//!
//! The agent parses files into these; group defaults and `password_file` are resolved before they get here.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use super::rib::{DecisionOptions, filter::Rule};
use crate::{
    model::{Asn, Family, Prefix, RouterId},
    netlink::tcp_ao,
};

/// The whole speaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpeakerConfig {
    /// Our AS number.
    pub asn: Asn,
    /// Our BGP identifier.
    pub router_id: RouterId,
    /// Addresses to accept connections on; empty: do not listen.
    pub listen: Vec<SocketAddr>,
    /// Host name for the FQDN capability (draft-walton-bgp-hostname-capability); not sent when absent.
    pub hostname: Option<String>,
    /// Whether routes of iBGP peers are reflected (RFC 4456) to and from peers marked as clients.
    pub route_reflector: bool,
    /// The CLUSTER_ID; the router id when absent.
    pub cluster_id: Option<Ipv4Addr>,
    /// Whether learned routes are advertised to eBGP peers. Off: a host is never transit by accident.
    pub transit: bool,
    /// The most ECMP paths of a route, 1 to 64; 1 disables multipath.
    pub multipath: u16,
    /// Whether paths with different AS paths of equal length may share a multipath.
    pub multipath_relax: bool,
    /// Options of the decision process.
    pub decision: DecisionOptions,
    /// What becomes of paths whose next hop cannot be reached.
    pub next_hop_check: NextHopCheck,
    /// The global administrator of the large communities that carry identities.
    pub identity_domain: Option<u32>,
    /// Identities are believed only for prefixes inside these.
    pub identity_pools: Vec<Prefix>,
    /// How long the identities of endpoints are kept after the session they came by was lost; zero: not at all.
    pub identity_hold: Duration,
    /// Graceful restart defaults of the speaker; a peer may switch it off.
    pub graceful_restart: GracefulRestart,
    /// Whether this process replaces one whose forwarding state is still in the kernel: the R and F bits of the
    /// first OPENs (RFC 4724 section 3), and route selection deferred until the peers' End-of-RIB (section 4.1).
    pub restarting: bool,
    /// Where BFD keeps what a restart needs, on a tmpfs (`/run/slash32/bfd`); nowhere if absent.
    pub bfd_state_dir: Option<PathBuf>,
    /// Prefixes to originate whatever endpoints exist.
    pub originate: Vec<Prefix>,
    /// Configured neighbours; addresses are unique.
    pub peers: Vec<PeerConfig>,
    /// Ranges from which neighbours may connect without being listed.
    pub listen_ranges: Vec<ListenRange>,
    /// BMP collectors; addresses with ports are unique.
    pub bmp: Vec<BmpCollector>,
    /// The log of what neighbours send, if there is to be one.
    pub mrt: Option<MrtLog>,
}

impl SpeakerConfig {
    /// Whether a neighbour or range has keys for TCP-AO.
    pub fn uses_tcp_ao(&self) -> bool {
        let peers = self.peers.iter().map(|peer| &peer.settings);
        peers.chain(self.listen_ranges.iter().map(|range| &range.settings)).any(|s| !s.tcp_ao.is_empty())
    }

    /// The BGP port (RFC 4271 section 8.2.1).
    pub const PORT: u16 = 179;

    /// A speaker with no peers that listens on port 179 of both families.
    pub fn new(asn: Asn, router_id: RouterId) -> Self {
        Self {
            asn,
            router_id,
            listen: vec![
                SocketAddr::from((Ipv4Addr::UNSPECIFIED, Self::PORT)),
                SocketAddr::from((Ipv6Addr::UNSPECIFIED, Self::PORT)),
            ],
            hostname: None,
            route_reflector: false,
            cluster_id: None,
            transit: false,
            multipath: 64,
            multipath_relax: true,
            decision: DecisionOptions::default(),
            next_hop_check: NextHopCheck::default(),
            identity_domain: None,
            identity_pools: Vec::new(),
            identity_hold: Duration::from_secs(86_400),
            graceful_restart: GracefulRestart::default(),
            restarting: false,
            bfd_state_dir: None,
            originate: Vec::new(),
            peers: Vec::new(),
            listen_ranges: Vec::new(),
            bmp: Vec::new(),
            mrt: None,
        }
    }
}

/// What becomes of paths whose next hop no route leads to (RFC 4271 section 9.1.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NextHopCheck {
    /// They lose against any whose next hop can be reached. Where there is no other, the prefix is not forwarded and not
    /// offered with ourselves as next hop; a reflector, whose clients may know a way, passes it on.
    #[default]
    Prefer,
    /// They are never eligible, and nobody is told of them.
    Require,
    /// Every next hop counts as reached, at cost 0.
    Off,
}

/// Who is told of sessions and routes by BMP (RFC 7854). We dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BmpCollector {
    /// Where it listens.
    pub address: SocketAddr,
    /// The source address of our connection.
    pub local_address: Option<IpAddr>,
    /// The neighbours that it hears of, as configured or by address; all when empty.
    pub peers: Vec<String>,
    /// Whether it gets what neighbours send, before import rules.
    pub pre_policy: bool,
    /// Whether it gets what import rules leave of it.
    pub post_policy: bool,
    /// Whether it gets our best paths (RFC 9069).
    pub loc_rib: bool,
    /// Whether it gets what neighbours might be sent, before export rules (RFC 8671).
    pub out_pre_policy: bool,
    /// Whether it gets what neighbours are sent.
    pub out_post_policy: bool,
    /// Between statistics reports; zero: none.
    pub statistics: Duration,
    /// The first wait after a failure; it doubles with every one up to two minutes.
    pub reconnect: Duration,
    /// The octets that may wait for it before changes are merged; what is remembered of those takes as much again.
    pub buffer: usize,
}

impl BmpCollector {
    /// The port registered for BMP.
    pub const PORT: u16 = 11019;

    /// One that gets what all neighbours send, and statistics once a minute.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            local_address: None,
            peers: Vec::new(),
            pre_policy: true,
            post_policy: false,
            loc_rib: false,
            out_pre_policy: false,
            out_post_policy: false,
            statistics: Duration::from_secs(60),
            reconnect: Duration::from_secs(5),
            buffer: 64 << 20,
        }
    }
}

/// A log of received UPDATEs and of state changes, as MRT (RFC 6396).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MrtLog {
    /// Where it is written. Older files get the time of their end as another ending.
    pub file: PathBuf,
    /// Another file is begun when this one has so many octets; 0: never.
    pub rotate_bytes: u64,
    /// ... and when it is so old; zero: never.
    pub rotate_after: Duration,
    /// How many older files are kept; 0: all.
    pub keep: usize,
}

/// Where a neighbour is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerAddress {
    /// An address of either family.
    Ip(IpAddr),
    /// A link-local address, which needs its interface.
    LinkLocal {
        /// The address.
        addr: Ipv6Addr,
        /// The interface's name.
        interface: String,
    },
    /// BGP unnumbered: whoever is on that interface, by its link-local address, learned at run time.
    Interface(String),
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(addr) => f.pad(&addr.to_string()),
            Self::LinkLocal { addr, interface } => f.pad(&format!("{addr}%{interface}")),
            Self::Interface(name) => f.pad(name),
        }
    }
}

/// One configured neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Where it is; the key by which two configurations are compared.
    pub address: PeerAddress,
    /// The port to dial.
    pub port: u16,
    /// Everything else.
    pub settings: PeerSettings,
}

impl PeerConfig {
    /// A neighbour with default settings on port 179.
    pub fn new(address: PeerAddress, asn: RemoteAs) -> Self {
        Self { address, port: SpeakerConfig::PORT, settings: PeerSettings::new(asn) }
    }
}

/// Neighbours that are not listed but may connect from a range ("dynamic neighbours"). We never dial them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenRange {
    /// The source addresses it stands for; the longest match wins, a listed peer before any range.
    pub prefix: Prefix,
    /// The most neighbours from this range at a time.
    pub limit: u32,
    /// What they get; [`RemoteAs::OneOf`] lists several AS numbers.
    pub settings: PeerSettings,
}

/// Which AS number a neighbour must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoteAs {
    /// Exactly this one.
    Is(Asn),
    /// Ours.
    Internal,
    /// Any but ours.
    External,
    /// One of several; empty matches none.
    OneOf(Vec<Asn>),
}

impl RemoteAs {
    /// Whether a neighbour that says it is `remote` is acceptable to us, who are `local`.
    pub fn accepts(&self, local: Asn, remote: Asn) -> bool {
        match self {
            Self::Is(asn) => *asn == remote,
            Self::Internal => remote == local,
            Self::External => remote != local,
            Self::OneOf(list) => list.contains(&remote),
        }
    }
}

impl fmt::Display for RemoteAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(asn) => write!(f, "AS {asn}"),
            Self::Internal => f.write_str("our own AS"),
            Self::External => f.write_str("another AS than ours"),
            Self::OneOf(list) => {
                f.write_str("one of AS")?;
                list.iter()
                    .enumerate()
                    .try_for_each(|(i, asn)| write!(f, "{} {asn}", if i == 0 { "" } else { "," }))
            }
        }
    }
}

/// What holds for a neighbour or a range of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// The neighbour's AS number.
    pub asn: RemoteAs,
    /// The group it was configured in; shown only.
    pub group: Option<String>,
    /// For people; shown only.
    pub description: Option<String>,
    /// The AS number we present instead of our own, which is also prepended (local-as).
    pub local_asn: Option<Asn>,
    /// The source address of our connections, and the only local address connections are accepted on.
    pub local_address: Option<IpAddr>,
    /// The device to bind to.
    pub bind_device: Option<String>,
    /// Never dial.
    pub passive: bool,
    /// The TTL of a neighbour that is not directly connected (1 to 255); absent: 1 for eBGP, the system's for iBGP.
    pub multihop: Option<u8>,
    /// Generalized TTL security (RFC 5082): the most hops away the neighbour may be, 1 for directly connected.
    /// Excludes `multihop`.
    pub ttl_security: Option<u8>,
    /// TCP MD5 (RFC 2385).
    pub password: Option<Secret>,
    /// TCP-AO (RFC 5925), the key to use first. Excludes `password`.
    pub tcp_ao: Vec<TcpAoKey>,
    /// Timers.
    pub timers: Timers,
    /// The families offered.
    pub families: Vec<Family>,
    /// Whether it is a client of ours as route reflector.
    pub route_reflector_client: bool,
    /// What is done to the next hop of routes advertised to it.
    pub next_hop: NextHopMode,
    /// How many times our own AS number may be in a received AS_PATH.
    pub allowas_in: u8,
    /// Whether the neighbour's AS number in the AS_PATH is replaced by ours when advertising to it.
    pub as_override: bool,
    /// Whether private AS numbers are removed from the AS_PATH when advertising to it.
    pub remove_private: bool,
    /// Whether an eBGP neighbour's AS_PATH must begin with its own AS number (RFC 4271 section 6.3); off for
    /// route servers.
    pub enforce_first_as: bool,
    /// Additional paths (RFC 7911).
    pub add_path: AddPathConfig,
    /// The most prefixes accepted of each family.
    pub max_prefixes: Option<MaxPrefixes>,
    /// Bidirectional forwarding detection.
    pub bfd: Option<BfdConfig>,
    /// What is done with identities it sends; `None`: accept on iBGP, ignore on eBGP.
    pub identity: Option<IdentityMode>,
    /// Graceful restart with this neighbour; `None`: as the speaker.
    pub graceful_restart: Option<GracefulRestart>,
    /// Our role towards it (RFC 9234).
    pub role: Option<RoleConfig>,
    /// Rules for what it sends.
    pub import: Arc<[Rule]>,
    /// Rules for what is sent to it.
    pub export: Arc<[Rule]>,
    /// Whether link bandwidth extended communities are sent to it although they are not transitive.
    pub send_link_bandwidth: bool,
    /// Kept down by the administrator; the text goes into the Cease (RFC 9003).
    pub shutdown: Option<String>,
}

impl PeerSettings {
    /// The defaults for a neighbour with this AS number.
    pub fn new(asn: RemoteAs) -> Self {
        Self { asn, ..Self::default() }
    }
}

impl Default for PeerSettings {
    /// Any external AS, both families, RFC 4271's timers where a host does not need better.
    fn default() -> Self {
        Self {
            asn: RemoteAs::External,
            group: None,
            description: None,
            local_asn: None,
            local_address: None,
            bind_device: None,
            passive: false,
            multihop: None,
            ttl_security: None,
            password: None,
            tcp_ao: Vec::new(),
            timers: Timers::default(),
            families: Family::ALL.to_vec(),
            route_reflector_client: false,
            next_hop: NextHopMode::Auto,
            allowas_in: 0,
            as_override: false,
            remove_private: false,
            enforce_first_as: true,
            add_path: AddPathConfig::default(),
            max_prefixes: None,
            bfd: None,
            identity: None,
            graceful_restart: None,
            role: None,
            import: Arc::new([]),
            export: Arc::new([]),
            send_link_bandwidth: false,
            shutdown: None,
        }
    }
}

/// Session timers. The RFC's names; all are jittered where RFC 4271 section 10 asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// The hold time offered: zero (no keepalives) or 3 s to 65535 s; the smaller of both sides' holds.
    pub hold_time: Duration,
    /// Between KEEPALIVEs; `None`: a third of the negotiated hold time, which also bounds it.
    pub keepalive: Option<Duration>,
    /// Between dials, and the longest wait for one to connect.
    pub connect_retry: Duration,
    /// How long to wait for the neighbour's OPEN before sending ours (DelayOpen); zero: not at all.
    pub delay_open: Duration,
    /// The first wait in Idle after a failure; it doubles with every failure up to [`Timers::idle_hold_max`] and
    /// starts again after a session that stayed up.
    pub idle_hold: Duration,
    /// The longest wait in Idle (DampPeerOscillations).
    pub idle_hold_max: Duration,
    /// The hold time before the neighbour's OPEN: "a large value", 4 minutes suggested (RFC 4271 section 8.2.2).
    pub open_hold: Duration,
    /// How long the neighbour may take nothing from us before we give up (RFC 9687); `None`: the greater of 8 minutes
    /// and twice the hold time. Zero disables.
    pub send_hold: Option<Duration>,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            hold_time: Duration::from_secs(90),
            keepalive: None,
            connect_retry: Duration::from_secs(5),
            delay_open: Duration::ZERO,
            idle_hold: Duration::from_secs(1),
            idle_hold_max: Duration::from_secs(60),
            open_hold: Duration::from_secs(240),
            send_hold: None,
        }
    }
}

/// The next hop in what is advertised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum NextHopMode {
    /// RFC 4271 section 5.1.3: ourselves to eBGP peers (a third party on a shared subnet is kept) and for our own
    /// routes, unchanged otherwise.
    #[default]
    Auto,
    /// Always ourselves.
    Ourselves,
    /// Never changed, except for our own routes.
    Unchanged,
}

/// Additional paths (RFC 7911), for every family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct AddPathConfig {
    /// Ready to receive several paths of a prefix.
    pub receive: bool,
    /// The most paths of a prefix to send; 0 does not offer to send.
    pub send: u16,
}

/// The bound on accepted prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPrefixes {
    /// More than this many of one family ends the session with Cease/1 (RFC 4486).
    pub limit: u32,
    /// The share of the limit, in percent, from which a warning is logged.
    pub warning_percent: u8,
    /// When the session may come back; `None`: after a manual reset only.
    pub restart: Option<Duration>,
}

impl MaxPrefixes {
    /// From how many prefixes on there is a warning; `None` when there is none.
    pub fn warning(self) -> Option<u32> {
        let share = u64::from(self.limit) * u64::from(self.warning_percent) / 100;
        (self.warning_percent > 0).then(|| u32::try_from(share).unwrap_or(u32::MAX).max(1))
    }

    /// Whether so many are enough for a warning.
    pub fn is_near(self, count: u32) -> bool {
        self.warning().is_some_and(|warning| count >= warning)
    }
}

/// BFD for a neighbour (RFC 5880 to 5883).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BfdConfig {
    /// Desired transmit and required receive interval.
    pub interval: Duration,
    /// Detection multiplier.
    pub multiplier: u8,
    /// RFC 5883 (port 4784) instead of single hop (port 3784).
    pub multihop: bool,
    /// The BGP session is not established, and not kept, without BFD up.
    pub strict: bool,
    /// A failure counts as the beginning of a graceful restart where the neighbour offers one, unless its BFD does not
    /// depend on its control plane (the C bit): its routes stay for its restart time, for want of better ones.
    pub graceful: bool,
}

impl Default for BfdConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(300),
            multiplier: 3,
            multihop: false,
            strict: false,
            graceful: false,
        }
    }
}

/// What is done with identities (endpoint labels as large communities) a neighbour sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IdentityMode {
    /// Believed, for prefixes inside the pools.
    Accept,
    /// Stripped.
    Ignore,
}

/// Graceful restart (RFC 4724, RFC 8538, RFC 9494).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GracefulRestart {
    /// Whether the capability is offered at all.
    pub enabled: bool,
    /// The time within which we come back, told to the neighbour; at most 4095 s.
    pub restart_time: Duration,
    /// How long stale routes are kept after the session is back, waiting for the End-of-RIB; also the longest
    /// that our own route selection waits after a restart.
    pub stale_time: Duration,
    /// Long-lived graceful restart: the stale time offered, at most 2^24-1 s; `None`: not offered.
    pub long_lived: Option<Duration>,
}

impl GracefulRestart {
    /// How long a configured peer may take to come back after our own restart, while the kernel keeps what it had by it.
    ///
    /// With long-lived restart, neighbours keep our routes beyond the restart time, so what the kernel has is kept for
    /// as long as a neighbour in its idle hold takes, whatever the restart time.
    pub fn connect_wait(&self) -> Duration {
        const WAIT: Duration = Duration::from_secs(30);
        if self.long_lived.is_some() { WAIT } else { self.restart_time.min(WAIT) }
    }

    /// How long after our own restart sessions say that we restarted and have kept our forwarding state.
    pub fn restarting_time(&self) -> Duration {
        self.restart_time.max(self.connect_wait())
    }
}

impl Default for GracefulRestart {
    fn default() -> Self {
        Self {
            enabled: true,
            restart_time: Duration::from_secs(120),
            stale_time: Duration::from_secs(360),
            long_lived: None,
        }
    }
}

/// Our BGP role (RFC 9234 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleConfig {
    /// What we are to the neighbour.
    pub role: Role,
    /// Refuse a neighbour that sends no role.
    pub strict: bool,
}

/// The roles of RFC 9234: what the local speaker is to its neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// 0: the neighbour is our customer.
    Provider = 0,
    /// 1.
    RouteServer = 1,
    /// 2.
    RouteServerClient = 2,
    /// 3: the neighbour is our provider.
    Customer = 3,
    /// 4: lateral.
    Peer = 4,
}

impl Role {
    /// The role of a capability's value, if it is one that exists.
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Provider,
            1 => Self::RouteServer,
            2 => Self::RouteServerClient,
            3 => Self::Customer,
            4 => Self::Peer,
            _ => return None,
        })
    }

    /// The only role that the neighbour may have (RFC 9234 section 4.2, table 2).
    #[must_use]
    pub const fn counterpart(self) -> Self {
        match self {
            Self::Provider => Self::Customer,
            Self::RouteServer => Self::RouteServerClient,
            Self::RouteServerClient => Self::RouteServer,
            Self::Customer => Self::Provider,
            Self::Peer => Self::Peer,
        }
    }
}

/// A master key tuple of TCP-AO (RFC 5925 section 3.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpAoKey {
    /// The KeyID of what we send.
    pub send_id: u8,
    /// The KeyID of what the neighbour sends.
    pub receive_id: u8,
    /// The MAC.
    pub algorithm: tcp_ao::Algorithm,
    /// 1 to 80 bytes.
    pub secret: Secret,
}

/// A text that is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_as() {
        let (a, b) = (Asn::new(64512).unwrap(), Asn::new(65000).unwrap());
        assert!(RemoteAs::Is(b).accepts(a, b) && !RemoteAs::Is(b).accepts(a, a));
        assert!(RemoteAs::Internal.accepts(a, a) && !RemoteAs::Internal.accepts(a, b));
        assert!(RemoteAs::External.accepts(a, b) && !RemoteAs::External.accepts(a, a));
        assert!(RemoteAs::OneOf(vec![a, b]).accepts(a, b) && !RemoteAs::OneOf(vec![]).accepts(a, b));
    }

    #[test]
    fn secrets_are_not_printed() {
        let settings = PeerSettings { password: Some(Secret("hunter2".into())), ..PeerSettings::default() };
        assert!(!format!("{settings:?}").contains("hunter2"));
    }

    #[test]
    fn roles_pair_up() {
        for code in 0..=4 {
            let role = Role::from_code(code).unwrap();
            assert_eq!(role as u8, code);
            assert_eq!(role.counterpart().counterpart(), role);
        }
        assert_eq!(Role::from_code(5), None);
    }
}
