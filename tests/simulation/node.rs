//! One machine: its kernel, and the process with sessions, RIB and FIB that comes and goes.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use slash32::{
    bgp::{
        PeerId,
        config::{
            AddPathConfig, GracefulRestart, IdentityMode, MaxPrefixes, PeerSettings, RemoteAs, SpeakerConfig,
            Timers,
        },
        rib::{LocalRoute, Rib},
        session::{ConnId, Session, SessionConfig},
        speaker::{HostAddresses, rib_config},
    },
    model::{Asn, Family, Identity, Labels, Prefix, RouterId},
    netlink::addr::Address,
    routes::{Fib, FibConfig, fake::Fake},
};

use crate::plan::{AsScheme, HOLD, LONG_LIVED, MAX_PREFIXES, Options, RESTART, STALE, Topology};

/// The protocol number of our routes.
pub(crate) const PROTOCOL: u8 = 32;
/// Interfaces of IPv6 networks are numbered from here: the kernel of the simulation has one network an interface.
const V6: u32 = 10_000;

pub(crate) const fn peer_id(index: usize) -> PeerId {
    PeerId(index as u32)
}

/// Who is at the other end of a session.
#[derive(Clone, Debug)]
pub(crate) struct Neighbour {
    pub(crate) node: usize,
    /// Our place among its neighbours.
    pub(crate) index: usize,
    /// The cable on which the session depends.
    pub(crate) cable: usize,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) settings: PeerSettings,
}

/// An interface with its address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interface {
    pub(crate) cable: usize,
    pub(crate) ifindex: u32,
    pub(crate) network: Prefix,
}

pub(crate) struct Node {
    pub(crate) config: SpeakerConfig,
    pub(crate) addresses: HostAddresses,
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) neighbours: Vec<Neighbour>,
    /// Whether it forwards by what it learns.
    pub(crate) installs: bool,
    /// The kernel while no process has it.
    pub(crate) kernel: Fake,
    pub(crate) process: Option<Process>,
    pub(crate) powered: bool,
    /// Processes so far.
    pub(crate) generation: u32,
    pub(crate) stalled: Option<Instant>,
    pub(crate) draining: bool,
    /// Endpoints, with their attachment numbers.
    pub(crate) endpoints: BTreeMap<u32, Option<u32>>,
}

pub(crate) struct Process {
    pub(crate) started: Instant,
    pub(crate) rib: Rib,
    pub(crate) fib: Option<Fib<Fake>>,
    pub(crate) peers: Vec<Peer>,
    /// The identities of learned routes, as policy would use them.
    pub(crate) identities: BTreeMap<Prefix, Option<Arc<Identity>>>,
    /// When its RIB and FIB are looked at next.
    pub(crate) run_at: Option<Instant>,
}

pub(crate) struct Peer {
    pub(crate) session: Session,
    /// When its timers are looked at next.
    pub(crate) timer: Option<Instant>,
    /// Connections by their number in the network.
    pub(crate) conns: BTreeMap<ConnId, usize>,
    /// When the session came up.
    pub(crate) since: Option<Instant>,
    /// What BFD last said.
    pub(crate) bfd_up: bool,
}

impl Process {
    pub(crate) fn new(node: &mut Node, restarting: bool, seed: u64, now: Instant) -> Self {
        let mut config = node.config.clone();
        config.restarting = restarting;
        let mut rib_config = rib_config(&config, &node.addresses, restarting);
        if let Some(restart) = &mut rib_config.restart {
            // Peers of a simulation are not in the list of the configuration.
            restart.peers = node.neighbours.len();
        }
        let mut rib = Rib::new(rib_config);
        rib.set_draining(node.draining, now);
        for (endpoint, sequence) in &node.endpoints {
            for prefix in prefixes(*endpoint) {
                rib.originate(prefix, local_route(*endpoint, *sequence), now);
            }
        }
        let fib = node.installs.then(|| {
            let mut kernel = std::mem::take(&mut node.kernel);
            // A socket hears nothing of the time before it.
            while kernel.event().is_some() {}
            let mut fib =
                Fib::new(FibConfig::default(), kernel, now).expect("the kernel of maps can be read");
            if !restarting {
                fib.sweep_stale(None);
            }
            fib
        });
        let peers = node.neighbours.iter().enumerate().map(|(i, neighbour)| {
            let session = SessionConfig::new(&config, &neighbour.settings);
            Peer {
                session: Session::new(session, restarting, seed ^ (i as u64) << 32),
                timer: None,
                conns: BTreeMap::new(),
                since: None,
                bfd_up: false,
            }
        });
        let peers = peers.collect();
        Self { started: now, rib, fib, peers, identities: BTreeMap::new(), run_at: None }
    }
}

/// The prefixes of an endpoint; that of IPv6 goes nowhere in a network without.
pub(crate) fn prefixes(endpoint: u32) -> [Prefix; 2] {
    let v4 = Ipv4Addr::from_bits(0x0A20_0000 | endpoint);
    let v6 = Ipv6Addr::from_bits(0xFD32_u128 << 112 | u128::from(endpoint));
    [Prefix::host(v4.into()), Prefix::host(v6.into())]
}

/// Some endpoints have labels.
pub(crate) fn identity(endpoint: u32) -> Option<Arc<Identity>> {
    if endpoint.is_multiple_of(3) {
        return None;
    }
    let mut labels = Labels::default();
    labels.insert("role", format!("r{}", endpoint % 5)).expect("a sound label");
    Some(Arc::new(Identity::of_endpoint(&labels)))
}

pub(crate) fn local_route(endpoint: u32, sequence: Option<u32>) -> LocalRoute {
    LocalRoute { identity: identity(endpoint), sequence, ..LocalRoute::default() }
}

fn asn(number: u32) -> Asn {
    Asn::new(number).expect("not zero")
}

/// The address of the host's end and of the fabric's end of a session.
pub(crate) fn addresses(options: &Options, host: usize, fabric: usize, family: Family) -> (IpAddr, IpAddr) {
    let (h, f) = (host as u32, fabric as u32);
    match (options.topology, family) {
        (Topology::Rack, Family::Ipv4) => {
            let base = 0x0A64_0000 + (f << 16) + (h << 1);
            (Ipv4Addr::from_bits(base + 1).into(), Ipv4Addr::from_bits(base).into())
        }
        (Topology::Rack, Family::Ipv6) => {
            let base = 0xFD64_u128 << 112 | u128::from(f) << 64 | u128::from(h) << 16;
            (Ipv6Addr::from_bits(base + 1).into(), Ipv6Addr::from_bits(base).into())
        }
        (Topology::Reflectors, Family::Ipv4) => {
            (Ipv4Addr::from_bits(0x0A64_0100 + h).into(), Ipv4Addr::from_bits(0x0A64_FF00 + f).into())
        }
        (Topology::Reflectors, Family::Ipv6) => {
            let base = 0xFD64_u128 << 112;
            (
                Ipv6Addr::from_bits(base + 0x100 + u128::from(h)).into(),
                Ipv6Addr::from_bits(base + 0xFF00 + u128::from(f)).into(),
            )
        }
    }
}

/// The network of a session.
fn network(options: &Options, host: usize, fabric: usize, family: Family) -> Prefix {
    let length = match (options.topology, family) {
        (Topology::Rack, Family::Ipv4) => 31,
        (Topology::Rack, Family::Ipv6) => 127,
        (Topology::Reflectors, Family::Ipv4) => 16,
        (Topology::Reflectors, Family::Ipv6) => 64,
    };
    let (_, addr) = addresses(options, host, fabric, family);
    let masked = match addr {
        IpAddr::V4(a) => IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() & (u32::MAX << (32 - length)))),
        IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() & (u128::MAX << (128 - length)))),
    };
    Prefix::new(masked, length as u8).expect("masked")
}

pub(crate) fn cable_of(options: &Options, host: usize, fabric: usize) -> usize {
    match options.topology {
        Topology::Rack => 2 * host + fabric,
        Topology::Reflectors => host,
    }
}

/// All machines, with nothing running.
pub(crate) fn build(options: &Options) -> Vec<Node> {
    (0..options.hosts + 2).map(|node| build_node(options, node)).collect()
}

fn build_node(options: &Options, node: usize) -> Node {
    let is_fabric = node < 2;
    let rack = options.topology == Topology::Rack;
    let number = if is_fabric {
        if rack { 65_000 + node as u32 } else { 64_512 }
    } else if rack && options.as_scheme == AsScheme::Distinct {
        4_200_000_000 + node as u32
    } else {
        64_512
    };
    let id = if is_fabric { 0x0200_0001 + node as u32 } else { 0x0100_0000 + node as u32 };
    let router_id = RouterId::new(Ipv4Addr::from_bits(id)).expect("not zero");
    let mut config = SpeakerConfig::new(asn(number), router_id);
    config.route_reflector = is_fabric && !rack;
    config.transit = is_fabric && rack;
    config.multipath = if is_fabric { 64 } else { options.multipath };
    config.identity_pools = ["10.32.0.0/11", "fd32::/16"].map(|p| p.parse().expect("a prefix")).to_vec();
    config.graceful_restart = GracefulRestart {
        enabled: options.graceful,
        restart_time: RESTART,
        stale_time: STALE,
        long_lived: options.long_lived.then_some(LONG_LIVED),
    };
    let others: Vec<usize> = if is_fabric { (2..options.hosts + 2).collect() } else { vec![0, 1] };
    let mut neighbours = Vec::new();
    let mut interfaces = Vec::new();
    let mut list = Vec::new();
    for other in others {
        let (host, fabric) = if is_fabric { (other - 2, node) } else { (node - 2, other) };
        let cable = cable_of(options, host, fabric);
        let mut ends = Vec::new();
        for family in Family::ALL {
            let (of_host, of_fabric) = addresses(options, host, fabric, family);
            let (local, remote) = if is_fabric { (of_fabric, of_host) } else { (of_host, of_fabric) };
            let place = match (rack, is_fabric) {
                (true, true) => host as u32 + 1,
                (true, false) => fabric as u32 + 1,
                (false, _) => 1,
            };
            let ifindex = place + if family == Family::Ipv6 { V6 } else { 0 };
            let network = network(options, host, fabric, family);
            let known = interfaces.iter().any(|i: &Interface| i.ifindex == ifindex);
            if !known {
                interfaces.push(Interface { cable, ifindex, network });
                // To the speaker both addresses of a link are on one interface.
                let address =
                    Address { ifindex: place, addr: local, prefix_len: network.len(), scope: 0, flags: 0 };
                list.push(address);
            }
            ends.push((local, remote));
        }
        neighbours.push(Neighbour {
            node: other,
            index: if is_fabric { node } else { host },
            cable,
            local: SocketAddr::new(ends[0].0, 179),
            remote: SocketAddr::new(ends[0].1, 179),
            settings: settings(options, is_fabric),
        });
    }
    let mut kernel = Fake::default();
    for interface in &interfaces {
        kernel.add_link(interface.ifindex, interface.network);
    }
    Node {
        config,
        addresses: HostAddresses::fixed(list),
        interfaces,
        neighbours,
        installs: rack || !is_fabric,
        kernel,
        process: None,
        powered: true,
        generation: 0,
        stalled: None,
        draining: false,
        endpoints: BTreeMap::new(),
    }
}

fn settings(options: &Options, is_fabric: bool) -> PeerSettings {
    use std::time::Duration;
    let rack = options.topology == Topology::Rack;
    let mut settings = PeerSettings::new(if rack { RemoteAs::External } else { RemoteAs::Internal });
    settings.families = if options.ipv6 { Family::ALL.to_vec() } else { vec![Family::Ipv4] };
    settings.identity = Some(IdentityMode::Accept);
    settings.timers = Timers {
        hold_time: HOLD,
        idle_hold_max: Duration::from_secs(20),
        open_hold: Duration::from_secs(60),
        ..Timers::default()
    };
    settings.passive = is_fabric && options.passive;
    settings.route_reflector_client = is_fabric && !rack;
    settings.as_override = is_fabric && rack && options.as_scheme == AsScheme::Override;
    settings.allowas_in = u8::from(!is_fabric && rack && options.as_scheme == AsScheme::AllowOwn);
    settings.add_path = AddPathConfig {
        receive: options.add_path > 0 && !is_fabric,
        send: if is_fabric { options.add_path } else { 0 },
    };
    settings.max_prefixes = is_fabric.then_some(MaxPrefixes {
        limit: MAX_PREFIXES,
        warning_percent: 90,
        restart: Some(Duration::from_secs(5)),
    });
    settings
}
