//! A rule of a Calico policy.
//!
//! A rule asks of both ends, whichever direction it is for. Of the far end it becomes the rule's peers; what it asks
//! of the endpoint's own end goes with each of them. `notSelector` is the negation of the match, so it holds of
//! addresses that are no endpoint at all; a negation inside of `selector` does not.

use super::{is_empty, start_of};
use crate::{
    model::{Family, Prefix},
    policy::{
        Action, Direction, Peer, Ports, Protocol, Rule, Service,
        engine::{join, subtract},
        language::{
            Definitions,
            kubernetes::in_namespace,
            rules::DEFAULT_LOG,
            tree::{Data, Node},
            walk::Source,
        },
        ranges::Ranges,
        selector::Selector,
    },
};

/// Calico's names of protocols.
const PROTOCOLS: [(&str, Protocol); 6] = [
    ("TCP", Protocol::TCP),
    ("UDP", Protocol::UDP),
    ("ICMP", Protocol::ICMP),
    ("ICMPv6", Protocol::ICMPV6),
    ("SCTP", Protocol::SCTP),
    ("UDPLite", Protocol::UDPLITE),
];

/// Those of them that Calico lets a rule name ports of.
const WITH_PORTS: [Protocol; 3] = [Protocol::TCP, Protocol::UDP, Protocol::SCTP];

/// What a rule asks of one end.
#[derive(Default)]
struct Entity {
    /// The endpoints, and the addresses of network sets with the same labels.
    selected: Option<(Selector, Ranges)>,
    nets: Option<Ranges>,
    not_selector: Option<Selector>,
    ports: Vec<Ports>,
    not_ports: Vec<Ports>,
}

impl Source<'_> {
    /// A rule; `namespace` is the policy's, if it is in one.
    pub(super) fn calico_rule(
        &mut self,
        node: &Node,
        direction: Direction,
        namespace: Option<&str>,
        known: &Definitions,
    ) -> Option<Rule> {
        let before = self.errors.len();
        let mut table = self.table(node, "a rule of a Calico policy")?;
        let actions =
            [("Allow", Action::Allow), ("Deny", Action::Deny), ("Log", Action::Log), ("Pass", Action::Pass)];
        let action = table.need(self, "action").and_then(|v| self.word(v, "action", &actions));
        table.take("metadata");
        self.refuse(&mut table, "http", "slash32 works on layers 3 and 4");
        let family = match table.take("ipVersion") {
            Some(v) if !matches!(v.data, Data::Null) => match v.data {
                Data::Integer(Some(4)) => Some(Family::Ipv4),
                Data::Integer(Some(6)) => Some(Family::Ipv6),
                _ => {
                    self.error(v.span(), "ipVersion must be 4 or 6");
                    None
                }
            },
            _ => None,
        };
        let protocol = table.take("protocol").filter(|v| !is_empty(v)).and_then(|v| self.calico_protocol(v));
        let not_protocol =
            table.take("notProtocol").filter(|v| !is_empty(v)).and_then(|v| self.calico_protocol(v));
        let of_other_family = |protocol: &Protocol| {
            let is_v4 = *protocol == Protocol::ICMP;
            protocol.is_icmp() && family.is_some_and(|family| is_v4 != (family == Family::Ipv4))
        };
        if protocol.iter().chain(&not_protocol).any(of_other_family) {
            self.error(
                start_of(node),
                "`protocol` and `ipVersion` exclude each other: ICMP is of 4, ICMPv6 of 6",
            );
        }
        let (icmp, not_icmp) = (table.take("icmp"), table.take("notICMP"));
        let icmp = icmp.and_then(|v| self.calico_icmp(v, protocol));
        let not_icmp = not_icmp.and_then(|v| self.calico_icmp(v, protocol));
        let source_node = table.take("source");
        let destination_node = table.take("destination");
        table.finish(self);
        let mut seen = family;
        let source = self.entity_rule(source_node, namespace, (family, &mut seen), known);
        let destination = self.entity_rule(destination_node, namespace, (family, &mut seen), known);
        for (end, node_of_end) in [(&source, source_node), (&destination, destination_node)] {
            let has_ports = !(end.ports.is_empty() && end.not_ports.is_empty());
            if has_ports && !protocol.is_some_and(|p| WITH_PORTS.contains(&p)) {
                let place = node_of_end.map_or_else(|| start_of(node), Node::span);
                self.error(place, "`ports` need `protocol` TCP, UDP or SCTP");
            }
        }
        if source.ports.iter().any(|p| matches!(p, Ports::Named(_))) {
            let place = source_node.map_or_else(|| start_of(node), Node::span);
            self.error(
                place,
                "a name in `ports` of the source is not supported: names are of ports that are served",
            );
        }
        let source_ports = source_ports(&source);
        let (services, not_services) = services(protocol, not_protocol, icmp, not_icmp, &destination);
        if self.errors.len() > before {
            return None;
        }
        let (other, own) = match direction {
            Direction::Ingress => (source, destination),
            Direction::Egress => (destination, source),
        };
        let peers = peers(other, own, family, known);
        let mut rule = self.rule_from(node, action?, peers, services);
        rule.not_services = not_services;
        rule.source_ports = source_ports;
        if rule.action == Action::Log {
            rule.log = Some(DEFAULT_LOG);
        }
        Some(rule)
    }

    fn calico_protocol(&mut self, node: &Node) -> Option<Protocol> {
        if matches!(node.data, Data::Integer(_)) {
            return self.integer(node, 1..=255, "a protocol number").map(|n| Protocol(n as u8));
        }
        let text = self.string(node, "a protocol")?;
        let number = text.parse().ok().filter(|n| *n != 0).map(Protocol);
        let found = number
            .or_else(|| PROTOCOLS.iter().find_map(|(name, p)| name.eq_ignore_ascii_case(text).then_some(*p)));
        if found.is_none() {
            let message =
                format!("unknown protocol `{text}`: use TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite or 1 to 255");
            self.error(node.span(), message);
        }
        found
    }

    fn calico_icmp(&mut self, node: &Node, protocol: Option<Protocol>) -> Option<Ports> {
        if matches!(node.data, Data::Null) {
            return None;
        }
        if !protocol.is_some_and(Protocol::is_icmp) {
            self.error(node.span(), "ICMP type and code need `protocol: ICMP` or `ICMPv6`");
        }
        let mut table = self.table(node, "ICMP")?;
        let kind = table.take("type").and_then(|v| self.integer(v, 0..=254, "an ICMP type"));
        let code = table.take("code");
        if kind.is_none()
            && let Some(code) = code
        {
            self.error(code.span(), "an ICMP `code` needs a `type`");
        }
        let code = code.and_then(|v| self.integer(v, 0..=255, "an ICMP code"));
        table.finish(self);
        Some(kind.map_or(Ports::Any, |kind| Ports::Icmp(kind as u8, code.map(|c| c as u8))))
    }

    fn entity_rule(
        &mut self,
        node: Option<&Node>,
        namespace: Option<&str>,
        (family, seen): (Option<Family>, &mut Option<Family>),
        known: &Definitions,
    ) -> Entity {
        let mut entity = Entity::default();
        let Some(node) = node.filter(|n| !matches!(n.data, Data::Null)) else { return entity };
        let Some(mut table) = self.table(node, "`source` or `destination`") else { return entity };
        let accounts = table.take("serviceAccounts").filter(|n| !is_empty(n));
        let accounts = accounts.and_then(|node| Some((node, self.calico_accounts(node)?)));
        // With neither names nor a selector it says nothing.
        let accounts = accounts.filter(|(node, selector)| {
            *selector != Selector::All || node.get("selector").is_some_and(|n| !is_empty(n))
        });
        self.refuse(&mut table, "services", "slash32 knows no services; select the endpoints behind it");
        self.refuse(&mut table, "domains", "names of domains are not resolved here");
        let selector = table.take("selector").filter(|n| !is_empty(n));
        let namespaces = table.take("namespaceSelector").filter(|n| !is_empty(n));
        let not_selector = table.take("notSelector").filter(|n| !is_empty(n));
        // Any of the four limits the rule to endpoints of the policy's or of the selected namespaces.
        if selector.is_some()
            || namespaces.is_some()
            || accounts.is_some()
            || (not_selector.is_some() && namespace.is_some())
        {
            let place = match (namespaces, namespace) {
                (Some(node), _) => self.calico_namespace_selector(node, known),
                (None, Some(namespace)) => Some(in_namespace(namespace)),
                (None, None) => Some(Selector::All),
            };
            let labels = match selector {
                Some(node) => self.calico_selector(node, known),
                None => Some(Selector::All),
            };
            let (account_at, account) = accounts.unwrap_or((node, Selector::All));
            if let (Some(place), Some(labels)) = (place, labels) {
                self.answerable(namespaces.unwrap_or(node), &place);
                self.answerable(selector.unwrap_or(node), &labels);
                self.answerable(account_at, &account);
                let both = Selector::and([place, labels, account]);
                entity.selected = Some((both.clone(), known.set_ranges(&both)));
            }
        }
        if let Some(node) = not_selector
            && let Some(selector) = self.calico_selector(node, known)
        {
            self.answerable(node, &selector);
            entity.not_selector = Some(selector);
        }
        entity.nets = self.calico_nets(table.take("nets"), Some(&mut *seen));
        let not_nets = self.calico_nets(table.take("notNets"), Some(seen));
        if not_nets.is_some() || family.is_some() {
            let all = entity.nets.take().unwrap_or_else(Ranges::everything);
            let of_family = family.map_or_else(Ranges::everything, everything_in);
            entity.nets = Some(all.intersection(&of_family).minus(&not_nets.unwrap_or_default()));
        }
        entity.ports = self.calico_ports(table.take("ports"));
        let not_ports = table.take("notPorts");
        entity.not_ports = self.calico_ports(not_ports);
        if let Some(node) =
            not_ports.filter(|_| entity.not_ports.iter().any(|p| matches!(p, Ports::Named(_))))
        {
            self.error(node.span(), "a named port cannot be negated: it is not the same number everywhere");
        }
        table.finish(self);
        entity
    }

    /// Numbers, `"low:high"` and names.
    fn calico_ports(&mut self, node: Option<&Node>) -> Vec<Ports> {
        let mut ports = Vec::new();
        for item in node.map(|n| self.items(n)).unwrap_or_default() {
            if item.is_number() {
                let number = self.integer(item, 1..=65535, "a port");
                ports.extend(number.map(|n| Ports::Range(n as u16, n as u16)));
                continue;
            }
            let Some(text) = self.string(item, "a port") else { continue };
            let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
            let like_a_name = !text.starts_with(|c: char| c.is_ascii_digit())
                || text.contains(|c: char| c.is_ascii_alphabetic());
            if like_a_name && (1..=128).contains(&text.len()) && text.bytes().all(fine) {
                ports.push(Ports::Named(text.to_owned()));
                continue;
            }
            let (low, high) = text.split_once(':').unwrap_or((text, text));
            match (low.parse::<u16>(), high.parse::<u16>()) {
                (Ok(0), Ok(_)) => self.error(item.span(), "a port must be between 1 and 65535"),
                (Ok(low), Ok(high)) if low <= high => ports.push(Ports::Range(low, high)),
                (Ok(low), Ok(high)) => {
                    self.error(item.span(), format!("the range {low}:{high} is upside down"));
                }
                _ => self.error(
                    item.span(),
                    format!("`{text}` is not a port: use 80, \"8000:8080\" or the name of a port"),
                ),
            }
        }
        ports
    }
}

fn everything_in(family: Family) -> Ranges {
    let all = match family {
        Family::Ipv4 => "0.0.0.0/0",
        Family::Ipv6 => "::/0",
    };
    all.parse::<Prefix>().into_iter().collect()
}

/// What matches and what must not, of protocols and ports.
fn services(
    protocol: Option<Protocol>,
    not_protocol: Option<Protocol>,
    icmp: Option<Ports>,
    not_icmp: Option<Ports>,
    destination: &Entity,
) -> (Vec<Service>, Vec<Service>) {
    let (mut services, mut not) = (Vec::new(), Vec::new());
    if let Some(protocol) = protocol {
        let of = |ports: &Ports| Service { protocol, ports: ports.clone() };
        services.extend(destination.ports.iter().map(of));
        if services.is_empty() {
            services.push(of(&icmp.unwrap_or(Ports::Any)));
        }
        not.extend(destination.not_ports.iter().map(of));
        not.extend(not_icmp.iter().map(of));
    }
    not.extend(not_protocol.map(|protocol| Service { protocol, ports: Ports::Any }));
    services.sort();
    services.dedup();
    (services, not)
}

/// The numbers of the ports that a connection must come from.
fn source_ports(source: &Entity) -> Option<Vec<(u16, u16)>> {
    if source.ports.is_empty() && source.not_ports.is_empty() {
        return None;
    }
    let numbers = |list: &[Ports]| {
        let numbers = list.iter().filter_map(|ports| match ports {
            Ports::Range(low, high) => Some((*low, *high)),
            _ => None,
        });
        let mut numbers: Vec<_> = numbers.collect();
        join(&mut numbers);
        numbers
    };
    let inside = if source.ports.is_empty() { vec![(0, u16::MAX)] } else { numbers(&source.ports) };
    Some(subtract(&inside, &numbers(&source.not_ports)))
}

/// The ways one end can match: as an endpoint, or by an address of a network set.
fn alternatives(entity: &Entity, known: &Definitions) -> Vec<Peer> {
    let mut limit = entity.nets.clone();
    if let Some(not) = &entity.not_selector {
        let sets = known.set_ranges(not);
        if !sets.is_empty() {
            limit = Some(limit.unwrap_or_else(Ranges::everything).minus(&sets));
        }
    }
    let not_selector = entity.not_selector.clone();
    let Some((selector, sets)) = &entity.selected else {
        return if limit.is_some() || not_selector.is_some() {
            vec![Peer { ranges: limit, not_selector, ..Peer::default() }]
        } else {
            Vec::new()
        };
    };
    let mut found = vec![Peer {
        selector: Some(selector.clone()),
        ranges: limit.clone(),
        not_selector: not_selector.clone(),
        ..Peer::default()
    }];
    let sets = limit.map_or_else(|| sets.clone(), |limit| sets.intersection(&limit));
    if !sets.is_empty() {
        found.push(Peer { ranges: Some(sets), not_selector, ..Peer::default() });
    }
    found
}

/// Both ends as peers: each way of the far end with each of the near one.
fn peers(other: Entity, own: Entity, family: Option<Family>, known: &Definitions) -> Vec<Peer> {
    let mut other = alternatives(&other, known);
    let own = alternatives(&own, known);
    if other.is_empty()
        && let Some(family) = family
    {
        other.push(Peer { ranges: Some(everything_in(family)), ..Peer::default() });
    }
    if own.is_empty() {
        return other;
    }
    if other.is_empty() {
        other.push(Peer::default());
    }
    let with = |far: &Peer, near: &Peer| Peer { own: Some(Box::new(near.clone())), ..far.clone() };
    other.iter().flat_map(|far| own.iter().map(|near| with(far, near))).collect()
}
