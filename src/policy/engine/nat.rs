//! Address translation: sources of pools with `nat_outgoing`, and port mappings from the host to endpoints.
//!
//! The chains are there from when something first needs them. Mappings are elements of maps, so a packet costs the same
//! with one and with ten thousand.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use super::{
    config::EngineConfig,
    services::ServiceSet,
    sets::{SetDef, address_type, family_digit, family_index},
    skeleton::dropped_if,
};
use crate::{
    model::{EndpointId, Family},
    policy::{
        Protocol,
        ir::{
            BaseHook, Chain, Data, DataType, Elements, Field, HookPoint, Key, KeyType, Name, Rule, Ruleset,
            Set, SetKind, Statement, Verdict,
        },
        ranges::Ranges,
    },
};

/// `NF_IP_PRI_NAT_DST` - 5 and `NF_IP_PRI_NAT_SRC` - 5.
const DSTNAT_PRIORITY: i32 = -105;
const SRCNAT_PRIORITY: i32 = 95;
/// `IPS_DST_NAT` of linux/netfilter/nf_conntrack_common.h.
const IPS_DST_NAT: u32 = 0x20;
/// `RTN_LOCAL`.
const RTN_LOCAL: u32 = 2;

/// A port of the host that leads to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortMap {
    /// The host's address, or any of its addresses.
    pub host: Option<IpAddr>,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The host's port.
    pub host_port: u16,
    /// Where it leads: an address of the endpoint and a port.
    pub target: SocketAddr,
}

/// Why a port mapping is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortMapError {
    /// Another endpoint has it.
    #[error("host port {0} is mapped to endpoint {1} already")]
    Taken(String, EndpointId),
    /// The same endpoint wants it for two ports.
    #[error("host port {0} is mapped to two ports of the container")]
    Twice(String),
    /// Address families differ.
    #[error("host address {0} cannot lead to {1}")]
    Family(IpAddr, IpAddr),
    /// A port of the agent, which no container may take over.
    #[error("host port {0} is reserved: containers never have the ports of BGP, BFD and the agent")]
    Reserved(String),
    /// The protocol has no ports.
    #[error("protocol {0} has no ports to map")]
    Protocol(Protocol),
}

/// Which map an entry goes to, and its key.
pub(super) type PortKey = (Name, Key);

impl PortMap {
    /// Whether it can be made at all.
    pub(super) fn check(&self) -> Result<(), PortMapError> {
        let target = self.target.ip();
        if !matches!(self.protocol, Protocol::TCP | Protocol::UDP | Protocol::SCTP) {
            return Err(PortMapError::Protocol(self.protocol));
        }
        match self.host {
            Some(host) if host.is_ipv4() != target.is_ipv4() => Err(PortMapError::Family(host, target)),
            _ => Ok(()),
        }
    }

    pub(super) fn key(&self) -> PortKey {
        let digit = family_digit(Family::of(self.target.ip()));
        let (protocol, port) = (Key::byte(self.protocol.0), Key::port(self.host_port));
        match self.host.filter(|h| !h.is_unspecified()) {
            Some(host) => {
                (format!("portmap_at{digit}").into(), Key::join(&[&Key::address(host), &protocol, &port]))
            }
            None => (format!("portmap{digit}").into(), Key::join(&[&protocol, &port])),
        }
    }

    pub(super) fn data(&self) -> Data {
        let (addr, port) = (Key::address(self.target.ip()), Key::port(self.target.port()));
        Data::Value(Key::join(&[&addr, &port]))
    }

    /// The element that says that the endpoint may reach itself by its own mapping.
    pub(super) fn hairpin(&self) -> PortKey {
        let addr = Key::address(self.target.ip());
        let digit = family_digit(Family::of(self.target.ip()));
        (format!("hairpin{digit}").into(), Key::join(&[&addr, &addr]))
    }
}

/// The port mappings of all endpoints, and who has which key.
#[derive(Debug, Default)]
pub(super) struct PortMaps {
    pub(super) by_endpoint: BTreeMap<EndpointId, Vec<PortMap>>,
    /// How many mappings want an element, and with which values; the first value is in force.
    pub(super) claims: BTreeMap<PortKey, BTreeMap<Data, usize>>,
}

impl PortMaps {
    /// Who has the key of a mapping, other than `id`.
    pub(super) fn taken(&self, id: &EndpointId, map: &PortMap) -> Option<&EndpointId> {
        let key = map.key();
        // Nobody has it, mostly: then nobody has to be found.
        self.claims.get(&key)?;
        self.by_endpoint
            .iter()
            .find(|(other, maps)| *other != id && maps.iter().any(|m| m.key() == key))
            .map(|(other, _)| other)
    }

    /// What is in force for a key.
    pub(super) fn value(&self, key: &PortKey) -> Option<&Data> {
        self.claims.get(key)?.keys().next()
    }

    pub(super) fn claim(&mut self, key: PortKey, data: Data) {
        *self.claims.entry(key).or_default().entry(data).or_default() += 1;
    }

    pub(super) fn release(&mut self, key: &PortKey, data: &Data) {
        let Some(values) = self.claims.get_mut(key) else { return };
        if let Some(count) = values.get_mut(data) {
            *count -= 1;
            if *count == 0 {
                values.remove(data);
            }
        }
        if values.is_empty() {
            self.claims.remove(key);
        }
    }
}

/// Adds what translation needs to the skeleton.
pub(super) fn build(rules: &mut Ruleset, config: &EngineConfig, mapped: bool) {
    let outgoing = config.pools.iter().any(|p| p.nat_outgoing);
    if !outgoing && !mapped {
        return;
    }
    let mut post = Vec::new();
    if outgoing {
        let all: Ranges = config.pools.iter().map(|p| p.cidr).collect();
        let from: Ranges = config.pools.iter().filter(|p| p.nat_outgoing).map(|p| p.cidr).collect();
        for family in Family::ALL {
            let digit = family_digit(family);
            let (source, destination) = header_fields(family);
            for (name, ranges) in [(format!("nat_pools{digit}"), &from), (format!("pools{digit}"), &all)] {
                rules.sets.insert(name.into(), SetDef::ranges(ranges, family).build());
            }
            let inside = |field, set: String| Statement::lookup([field, Field::L4Proto], &set.into());
            let outside = Statement::Lookup {
                fields: vec![destination, Field::L4Proto],
                set: format!("pools{digit}").into(),
                negate: true,
            };
            let masquerade = Statement::Masquerade;
            let from_pool = inside(source, format!("nat_pools{digit}"));
            // With the host's address they would be the host to its neighbours and to other hosts, which refuse
            // containers' own.
            for (protocol, ports) in ServiceSet::of(&config.protected, &[]).listed {
                let set = SetDef::ports(&ports);
                rules.sets.insert(set.name.clone(), set.build());
                let protected = Rule::new([
                    is_family(family),
                    Statement::is(Field::L4Proto, Key::byte(protocol.0)),
                    Statement::lookup([Field::HeaderDestinationPort], &set.name),
                    from_pool.clone(),
                    outside.clone(),
                    Statement::Verdict(Verdict::Return),
                ]);
                post.push(protected.comment("nat_outgoing: not for protected ports"));
            }
            post.push(Rule::new([is_family(family), from_pool, outside, masquerade]).comment("nat_outgoing"));
        }
    }
    if mapped {
        post.extend(port_maps(rules));
    }
    nat_chain(rules, "nat_post", HookPoint::Postrouting, SRCNAT_PRIORITY, post);
}

/// Maps and chains for port mappings; the answer is what postrouting must do.
fn port_maps(rules: &mut Ruleset) -> Vec<Rule> {
    let mut lookups = Vec::new();
    let mut post = Vec::new();
    for family in Family::ALL {
        let digit = family_digit(family);
        let (source, destination) = header_fields(family);
        let address = address_type(family);
        let data = Some(DataType::Parts(vec![address, KeyType::Port]));
        let mut map = |name: &str, key: Vec<KeyType>, data: Option<DataType>| {
            let kind = SetKind { key, data, interval: false };
            let set = Set { kind, comment: String::new(), elements: Elements::default() };
            rules.sets.insert(name.into(), set);
        };
        let (at, any, hairpin) =
            (format!("portmap_at{digit}"), format!("portmap{digit}"), format!("hairpin{digit}"));
        map(&at, vec![address, KeyType::Protocol, KeyType::Port], data.clone());
        map(&any, vec![KeyType::Protocol, KeyType::Port], data);
        map(&hairpin, vec![address, address], None);
        let ipv6 = family == Family::Ipv6;
        let port = Field::HeaderDestinationPort;
        // A mapping of one address goes before one of all.
        for (map, fields) in
            [(at, vec![destination, Field::L4Proto, port]), (any, vec![Field::L4Proto, port])]
        {
            let dnat = Statement::DnatMap { ipv6, fields, map: map.into() };
            lookups.push(Rule::new([is_family(family), dnat]));
        }
        let translated = Statement::has(Field::CtStatus, IPS_DST_NAT);
        let itself = Statement::lookup([source, destination], &hairpin.into());
        // An endpoint that reaches itself by its mapping would answer itself directly.
        let rule = Rule::new([is_family(family), translated.clone(), itself, Statement::Masquerade]);
        post.push(rule.comment("port mapping: hairpin"));
        // From the host's loopback address, which must not leave the host. The way back needs `route_localnet` on the
        // endpoint's interface, and for IPv6 a local route to ::1 there.
        let loopback = match family {
            Family::Ipv4 => Statement::in_prefix(source, IpAddr::from([127, 0, 0, 0]), 8),
            Family::Ipv6 => Statement::is(source, Key::address(Ipv6Addr::LOCALHOST.into())),
        };
        let rule = Rule::new([is_family(family), translated, loopback, Statement::Masquerade]);
        post.push(rule.comment("port mapping: from loopback"));
    }
    rules.chains.insert("port_maps".into(), Chain { hook: None, rules: lookups, comment: String::new() });
    let local = || {
        Rule::new([
            Statement::is(Field::DestinationKind, Key::host_u32(RTN_LOCAL)),
            Statement::Verdict(Verdict::Jump("port_maps".into())),
        ])
    };
    // The kernel would refuse these after translation only, and not at all on an interface with `route_localnet`: what a
    // mapping or a service offers to the host alone stays with the host.
    let loopback = vec![
        is_family(Family::Ipv4),
        Statement::is_not(Field::IifName, Key::interface("lo")),
        Statement::in_prefix(Field::HeaderDestinationV4, IpAddr::from([127, 0, 0, 0]), 8),
    ];
    let loopback = dropped_if(loopback, "a loopback address from outside");
    nat_chain(rules, "nat_pre", HookPoint::Prerouting, DSTNAT_PRIORITY, vec![loopback, local()]);
    nat_chain(rules, "nat_out", HookPoint::Output, DSTNAT_PRIORITY, vec![local()]);
    post
}

fn nat_chain(rules: &mut Ruleset, name: &str, hook: HookPoint, priority: i32, body: Vec<Rule>) {
    let hook = Some(BaseHook { nat: true, hook, priority });
    rules.chains.insert(name.into(), Chain { hook, rules: body, comment: String::new() });
}

fn is_family(family: Family) -> Statement {
    Statement::is(Field::NfProto, Key::byte([2, 10][family_index(family)]))
}

/// The packet's own source and destination. Translation looks at the packet, as it decides what the connection is.
fn header_fields(family: Family) -> (Field, Field) {
    match family {
        Family::Ipv4 => (Field::HeaderSourceV4, Field::HeaderDestinationV4),
        Family::Ipv6 => (Field::HeaderSourceV6, Field::HeaderDestinationV6),
    }
}
