//! What the engine must know beside policies and endpoints.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    model::{Labels, Prefix},
    policy::{Direction, PolicySet, Ports, Profile, Protocol, Service, ranges::Ranges, selector::Selector},
};

/// ICMPv6 types that host policies do not judge, first and last: neighbour discovery and what belongs to it (RFC 4861),
/// and multicast listener messages (RFC 2710, RFC 3810).
pub(in crate::policy) const LINK_TYPES: [(u8, u8); 2] = [(130, 137), (143, 143)];

/// The engine's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Whether traffic to endpoints that no policy selects for ingress is allowed.
    pub default_ingress: bool,
    /// Whether traffic from endpoints that no policy selects for egress is allowed.
    pub default_egress: bool,
    /// The address pools of the whole cluster; what is outside of them is `world`.
    pub pools: Vec<PoolConfig>,
    /// What endpoints may reach on their own host, if their egress policy does not object.
    pub endpoint_to_host: Vec<Service>,
    /// What endpoints never reach, neither on their host nor on [`Self::infrastructure`].
    pub protected: Vec<Service>,
    /// Addresses of switches, route reflectors and other hosts: BGP neighbours, and what else the operator lists.
    pub infrastructure: Vec<Prefix>,
    /// Where BGP neighbours may connect from that are not listed one by one. Inside of a pool, such addresses and those
    /// of [`Self::infrastructure`] are no endpoints as far as [`Self::protected`] ports of this host are concerned.
    pub neighbours: Vec<Prefix>,
    /// Where the speaker of this host and its BFD listen: besides the host itself only [`Self::infrastructure`] and
    /// [`Self::neighbours`] get there, and who is on the link with a link-local address.
    pub listeners: Vec<Listener>,
    /// What host policies never block, so that nobody locks himself out.
    pub failsafe: Vec<Service>,
    /// Endpoints of this host whose labels nobody knows ([`Labels::unknown`]) are cut off while policies ask for labels.
    pub deny_unknown: bool,
    /// Log refused packets (at most so many a second) to the driver's nflog group.
    pub trace: bool,
}

/// A port on which the speaker listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listener {
    /// The host's address, or the unspecified one for all of its family.
    pub address: IpAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

impl Listener {
    /// For all of the host's addresses.
    pub fn anywhere(protocol: Protocol, port: u16) -> [Self; 2] {
        let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        any.map(|address| Self { address, protocol, port })
    }

    /// Whether it is for what comes to an address of the host.
    pub(in crate::policy) fn hears(&self, destination: IpAddr) -> bool {
        self.address == destination
            || (self.address.is_unspecified() && self.address.is_ipv4() == destination.is_ipv4())
    }

    pub(in crate::policy) fn service(&self) -> Service {
        Service { protocol: self.protocol, ports: Ports::Range(self.port, self.port) }
    }
}

/// One pool of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolConfig {
    /// Its addresses.
    pub cidr: Prefix,
    /// Whether traffic from it to the world gets the host's address.
    pub nat_outgoing: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        let port = |protocol, port| Service { protocol, ports: Ports::Range(port, port) };
        let any = |protocol| Service { protocol, ports: Ports::Any };
        Self {
            default_ingress: true,
            default_egress: true,
            pools: Vec::new(),
            endpoint_to_host: vec![
                any(Protocol::ICMP),
                any(Protocol::ICMPV6),
                port(Protocol::TCP, 53),
                port(Protocol::UDP, 53),
            ],
            protected: Self::protected_ports(&[]),
            infrastructure: Vec::new(),
            neighbours: Vec::new(),
            listeners: Vec::new(),
            failsafe: vec![
                port(Protocol::TCP, 22),
                port(Protocol::TCP, 179),
                port(Protocol::UDP, 3784),
                port(Protocol::UDP, 3785),
                port(Protocol::UDP, 4784),
                port(Protocol::UDP, 68),
                port(Protocol::UDP, 546),
            ],
            deny_unknown: true,
            trace: false,
        }
    }
}

impl EngineConfig {
    /// BFD in a single hop, its echo, and over several hops (RFC 5881 and 5883).
    pub const BFD_PORTS: [u16; 3] = [3784, 3785, 4784];

    /// BGP (179), BFD, and TCP ports of the agent.
    pub fn protected_ports(agent: &[u16]) -> Vec<Service> {
        let tcp = [179].iter().chain(agent).map(|p| (Protocol::TCP, *p));
        tcp.chain(Self::BFD_PORTS.map(|port| (Protocol::UDP, port)))
            .map(|(protocol, port)| Service { protocol, ports: Ports::Range(port, port) })
            .collect()
    }

    /// Whether an endpoint of this host is cut off, in both directions, as nobody knows what policies say of it.
    pub(in crate::policy) fn cuts_off(&self, policies: &PolicySet, labels: &Labels) -> bool {
        self.deny_unknown && labels.are_unknown() && policies.asks_for_labels()
    }

    /// What an endpoint may do in a direction where no policy decides: the first profile that says, or the default.
    pub(in crate::policy) fn default_allow<'a>(
        &self,
        profiles: &'a [Profile],
        direction: Direction,
        selects: impl Fn(&'a Selector) -> bool,
    ) -> bool {
        let (default, profile): (bool, fn(&Profile) -> Option<bool>) = match direction {
            Direction::Ingress => (self.default_ingress, |p| p.ingress),
            Direction::Egress => (self.default_egress, |p| p.egress),
        };
        let mut matching = profiles.iter().filter(|p| selects(&p.select));
        matching.find_map(profile).unwrap_or(default)
    }

    /// Who gets to [`Self::listeners`]. What is link-local is on the link: nobody forwards it, and endpoints of this host
    /// come by their own interfaces.
    pub(in crate::policy) fn admitted(&self) -> Ranges {
        let link_local = Prefix::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0).into(), 10);
        let known = self.infrastructure.iter().chain(&self.neighbours).copied();
        known.chain(link_local.ok()).collect()
    }

    /// What of a host's address only those get to that are [`Self::admitted`].
    pub(in crate::policy) fn listening(&self, destination: IpAddr) -> Vec<Service> {
        let here = self.listeners.iter().filter(|listener| listener.hears(destination));
        here.map(Listener::service).collect()
    }

    /// Addresses of the pools that endpoints of other hosts have, and no BGP neighbour.
    pub(in crate::policy) fn strangers(&self) -> Ranges {
        let pools: Ranges = self.pools.iter().map(|p| p.cidr).collect();
        pools.minus(&self.infrastructure.iter().chain(&self.neighbours).copied().collect())
    }

    /// Where endpoints do not reach [`Self::protected`] ports: the infrastructure, and what of [`Self::neighbours`] is
    /// outside of the pools. Inside of them are endpoints too.
    pub(in crate::policy) fn guarded(&self) -> Ranges {
        let neighbours: Ranges = self.neighbours.iter().copied().collect();
        let pools: Ranges = self.pools.iter().map(|p| p.cidr).collect();
        self.infrastructure.iter().copied().collect::<Ranges>().union(&neighbours.minus(&pools))
    }

    /// All addresses outside of the pools.
    pub(in crate::policy) fn world(&self) -> Ranges {
        Ranges::everything().minus(&self.pools.iter().map(|p| p.cidr).collect())
    }
}
