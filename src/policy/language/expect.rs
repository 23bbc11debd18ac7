//! Files of expectations for `slash32 policy test`: endpoints that do not exist, and who of them may talk to whom.

use std::{collections::BTreeMap, fmt::Write, net::IpAddr, ops::Range};

use super::{
    Options,
    kubernetes::NAMESPACE,
    name,
    tree::{self, Data, Node},
    walk::{Source, Table},
};
use crate::{
    model::{Diagnostic, EndpointId, Labels, Prefix},
    policy::{
        Flow, HostPolicy, Origin, Ports, Protocol, Service,
        engine::{EngineConfig, PoolConfig},
        reach::Services,
        selector::Selector,
    },
};

/// A file of expectations.
#[derive(Clone, Debug, Default)]
pub struct TestFile {
    /// Files and folders of policies, as written: relative to the file; and what to say of one that is not there.
    pub policies: Vec<(String, Diagnostic)>,
    /// Policies written into the file itself: (name, text).
    pub inline: Vec<(String, String)>,
    /// `[[namespace]]` tables of the file, as a policy file of their own; empty if there are none.
    pub namespaces: String,
    /// How policies are read.
    pub options: Options,
    /// Pools and defaults.
    pub config: EngineConfig,
    /// The endpoints.
    pub endpoints: Vec<TestEndpoint>,
    /// The expectations.
    pub rows: Vec<Row>,
}

/// An endpoint that exists for the test only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestEndpoint {
    /// Its name in the file.
    pub name: String,
    /// The interface it would have.
    pub id: EndpointId,
    /// Its labels, the namespace among them.
    pub labels: Labels,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// One `[[expect]]`.
#[derive(Clone, Debug)]
pub struct Row {
    /// Who opens connections.
    pub from: Vec<Side>,
    /// Where to.
    pub to: Vec<Side>,
    /// What must be allowed.
    pub allow: Services,
    /// What must be refused.
    pub deny: Services,
    /// The port that connections come from.
    pub source_port: u16,
    /// The interface by which they come in to the host; then they come from elsewhere, those of endpoints from another
    /// host.
    pub interface: Option<String>,
    /// Where it is written.
    pub origin: Origin,
    /// What to say if host policies make it matter by which interface they come in, and the row does not tell.
    pub no_interface: Diagnostic,
}

/// One end of an expectation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Side {
    /// The endpoint with this index.
    Endpoint(usize),
    /// An address.
    Address(IpAddr),
    /// The host of the other end.
    Host,
    /// Somewhere outside of the pools.
    World,
}

/// Ends of expectations and of rules that are no endpoint's name.
const RESERVED: [&str; 3] = ["host", "self", "world"];

/// The pools of a file that gives none.
const POOLS: [&str; 2] = ["100.64.0.0/10", "fd64::/48"];

impl TestFile {
    /// Reads a file.
    pub fn parse(file: &str, text: &str) -> Result<Self, Vec<Diagnostic>> {
        let document = tree::toml(file, text).map_err(|error| vec![error])?;
        let expand = std::collections::BTreeSet::new();
        let mut source = Source::new(file, text, &expand);
        let mut test = Self::default();
        if let Some(table) = source.table(&document, "a test file") {
            test.read(&mut source, table);
        }
        if source.errors.is_empty() { Ok(test) } else { Err(source.errors) }
    }

    fn read(&mut self, source: &mut Source<'_>, mut top: Table<'_>) {
        let span = top.span.clone();
        for item in top.take("policies").map(|v| source.list(v)).unwrap_or_default() {
            let Some(text) = source.string(item, "a file or folder of policies") else { continue };
            let absent = format!("there is no file or folder `{text}`");
            let help = "paths are relative to this file";
            let absent = Diagnostic::new(source.name, source.text, item.span(), absent).with_help(help);
            self.policies.push((text.to_owned(), absent));
        }
        let expand = strings(source, top.take("expand"), "a label's key");
        self.options.expand = expand.into_iter().collect();
        let words = [("allow", true), ("deny", false)];
        let mut default = |key| top.take(key).and_then(|v| source.word(v, key, &words)).unwrap_or(true);
        self.config.default_ingress = default("default_ingress");
        self.config.default_egress = default("default_egress");
        let pools = match top.take("pools") {
            Some(node) => source.list(node).into_iter().filter_map(|n| prefix(source, n)).collect(),
            None => POOLS.iter().filter_map(|p| p.parse().ok()).collect::<Vec<Prefix>>(),
        };
        self.config.pools =
            pools.iter().map(|cidr| PoolConfig { cidr: *cidr, nat_outgoing: false }).collect();
        for node in super::tables(source, &mut top, "file") {
            let Some(mut table) = source.table(node, "[[file]]") else { continue };
            let name = table.need(source, "name").and_then(|v| source.string(v, "name"));
            let text = table.need(source, "text").and_then(|v| source.string(v, "text"));
            table.finish(source);
            self.inline.extend(name.zip(text).map(|(n, t)| (n.to_owned(), t.to_owned())));
        }
        for node in super::tables(source, &mut top, "namespace") {
            self.namespace(source, node);
        }
        let mut names = BTreeMap::new();
        for node in super::tables(source, &mut top, "endpoint") {
            self.endpoint(source, node, &mut names);
        }
        self.give_addresses(source, &pools, span.start..span.start);
        for node in super::tables(source, &mut top, "expect") {
            self.expect(source, node, &names);
        }
        top.finish(source);
        if self.rows.is_empty() && source.errors.is_empty() {
            let help = "[[expect]] with `from`, `to`, and `allow` or `deny`";
            source.error_with_help(span.start..span.start, "the test expects nothing", help);
        }
        if self.policies.is_empty() && self.inline.is_empty() && source.errors.is_empty() {
            let help = "`policies = [\"policy.d\"]`, relative to this file";
            source.error_with_help(span.start..span.start, "the test names no policies", help);
        }
    }

    /// A namespace, turned into the text of a policy file: its errors have been told here.
    fn namespace(&mut self, source: &mut Source<'_>, node: &Node) {
        let Some(mut table) = source.table(node, "[[namespace]]") else { return };
        let name = table.need(source, "name").and_then(|v| name(source, v));
        let labels = table.take("labels").map(|v| source.labels(v)).unwrap_or_default();
        table.finish(source);
        let Some(name) = name else { return };
        let labels: Vec<String> = labels.iter().map(|(k, v)| format!("\"{k}\" = \"{v}\"")).collect();
        let labels = labels.join(", ");
        let _ = writeln!(self.namespaces, "[[namespace]]\nname = \"{name}\"\nlabels = {{ {labels} }}");
    }

    fn endpoint(&mut self, source: &mut Source<'_>, node: &Node, names: &mut BTreeMap<String, usize>) {
        let Some(mut table) = source.table(node, "[[endpoint]]") else { return };
        let called = table.need(source, "name");
        let endpoint_name = called.and_then(|v| name(source, v));
        if let (Some(node), Some(text)) = (called, &endpoint_name)
            && (RESERVED.contains(&text.as_str()) || text.parse::<IpAddr>().is_ok())
        {
            source
                .error(node.span(), format!("`{text}` means something else as an end: choose another name"));
        }
        let mut labels = table.take("labels").map(|v| source.labels(v)).unwrap_or_default();
        if let Some(node) = table.take("namespace")
            && let Some(text) = source.string(node, "namespace")
        {
            if let Some(other) = labels.get(NAMESPACE).filter(|other| *other != text) {
                source.error(node.span(), format!("the labels say that the namespace is `{other}`"));
            }
            if let Err(error) = labels.insert(NAMESPACE, text) {
                source.error(node.span(), error.to_string());
            }
        }
        let mut addresses = Vec::new();
        for node in table.take("addresses").map(|v| source.list(v)).unwrap_or_default() {
            let Some(text) = source.string(node, "an address") else { continue };
            match text.parse() {
                Ok(addr) => {
                    let others = self.endpoints.iter().filter(|e| e.addresses.contains(&addr));
                    let other = others.map(|e| Some(e.name.as_str())).next();
                    match other.or_else(|| addresses.contains(&addr).then_some(endpoint_name.as_deref())) {
                        Some(owner) => source.error(
                            node.span(),
                            format!(
                                "{addr} is an address of endpoint `{}` already",
                                owner.unwrap_or_default()
                            ),
                        ),
                        None => addresses.push(addr),
                    }
                }
                Err(_) => source.error(node.span(), format!("`{text}` is not an address")),
            }
        }
        table.finish(source);
        let Some(endpoint_name) = endpoint_name else { return };
        if names.insert(endpoint_name.clone(), self.endpoints.len()).is_some() {
            let place = called.map_or(0..0, Node::span);
            source.error(place, format!("endpoint `{endpoint_name}` is there twice"));
        }
        let id = EndpointId(format!("{}{:011x}", EndpointId::PREFIX, self.endpoints.len()));
        self.endpoints.push(TestEndpoint { name: endpoint_name, id, labels, addresses });
    }

    /// Gives endpoints without addresses one of the first pool of each family. `place`: for the error that there are not
    /// enough of them.
    fn give_addresses(&mut self, source: &mut Source<'_>, pools: &[Prefix], place: Range<usize>) {
        let taken: Vec<IpAddr> = self.endpoints.iter().flat_map(|e| e.addresses.clone()).collect();
        let mut next = [1u128, 1];
        for endpoint in self.endpoints.iter_mut().filter(|e| e.addresses.is_empty()) {
            for (ipv4, number) in [true, false].into_iter().zip(&mut next) {
                let Some(pool) = pools.iter().find(|p| p.addr().is_ipv4() == ipv4) else { continue };
                loop {
                    let addr: IpAddr = match pool.addr() {
                        IpAddr::V4(a) => IpAddr::V4(a.to_bits().wrapping_add(*number as u32).into()),
                        IpAddr::V6(a) => IpAddr::V6(a.to_bits().wrapping_add(*number).into()),
                    };
                    *number += 1;
                    if !pool.contains_addr(addr) {
                        let message = format!("{pool} has no address left for endpoint `{}`", endpoint.name);
                        source.error_with_help(
                            place,
                            message,
                            "give it `addresses`, or the file larger `pools`",
                        );
                        return;
                    }
                    if !taken.contains(&addr) {
                        endpoint.addresses.push(addr);
                        break;
                    }
                }
            }
        }
    }

    fn expect(&mut self, source: &mut Source<'_>, node: &Node, names: &BTreeMap<String, usize>) {
        let Some(mut table) = source.table(node, "[[expect]]") else { return };
        let span = table.span.clone();
        let before = source.errors.len();
        let from = table.need(source, "from").map(|v| self.sides(source, v, names)).unwrap_or_default();
        let to = table.need(source, "to").map(|v| self.sides(source, v, names)).unwrap_or_default();
        let (allow, deny) = (table.take("allow"), table.take("deny"));
        if allow.is_none() && deny.is_none() {
            source.error_with_help(
                span.clone(),
                "the row expects nothing",
                "add `allow = [\"tcp/80\"]` or `deny = \"*\"`",
            );
        }
        let allow = allow.map(|v| services(source, v)).unwrap_or_default();
        let deny = deny.map(|v| services(source, v)).unwrap_or_default();
        let source_port = table.take("source_port").and_then(|v| source.integer(v, 0..=65535, "source_port"));
        let source_port = source_port.map_or(Flow::EPHEMERAL, |port| port as u16);
        let written = table.take("interface");
        let interface = written.and_then(|node| way_in(source, node, &from, &to));
        table.finish(source);
        if source.errors.len() == before {
            if allow.is_empty() && deny.is_empty() {
                source.error(span.clone(), "the row expects nothing: its lists are empty");
            }
            let nobody = |side: &Side| match side {
                Side::World => true,
                Side::Address(addr) => !self.endpoints.iter().any(|e| e.addresses.contains(addr)),
                Side::Endpoint(_) | Side::Host => false,
            };
            if from.iter().any(nobody) && to.iter().any(nobody) {
                source.error_with_help(
                    span.clone(),
                    "neither end is an endpoint: no policy has anything to say",
                    "name an [[endpoint]] in `from` or in `to`",
                );
            }
            let both = allow.intersection(&deny);
            if !both.is_empty() {
                source.error(span.clone(), format!("the row expects {both} to be both allowed and refused"));
            }
            let origin = Origin { file: source.name.into(), line: source.line(span.start) };
            let message = "by which interface it comes in makes a difference here";
            let no_interface = Diagnostic::new(source.name, source.text, span, message)
                .with_help("add `interface = \"eth0\"` or another one to the row");
            self.rows.push(Row { from, to, allow, deny, source_port, interface, origin, no_interface });
        }
    }

    /// Names, addresses, `host`, `world`, `*` for all endpoints, or `{ selector = "…" }`; one or a list.
    fn sides(&self, source: &mut Source<'_>, node: &Node, names: &BTreeMap<String, usize>) -> Vec<Side> {
        let mut sides = Vec::new();
        for item in source.list(node) {
            if matches!(item.data, Data::Table(_)) {
                sides.extend(self.selected(source, item));
                continue;
            }
            let Some(text) = source.string(item, "an end") else { continue };
            match text {
                "host" => sides.push(Side::Host),
                "world" => sides.push(Side::World),
                "*" => sides.extend((0..self.endpoints.len()).map(Side::Endpoint)),
                text => match (names.get(text), text.parse()) {
                    (Some(index), _) => sides.push(Side::Endpoint(*index)),
                    (None, Ok(addr)) => sides.push(Side::Address(addr)),
                    (None, Err(_)) => {
                        let known: Vec<_> = names.keys().map(String::as_str).collect();
                        source.error_with_help(
                            item.span(),
                            format!("there is no [[endpoint]] with the name `{text}`"),
                            format!(
                                "known: {}, host, world, *, an address, or {{ selector = \"…\" }}",
                                known.join(", ")
                            ),
                        );
                    }
                },
            }
        }
        if sides.is_empty() && source.errors.is_empty() {
            source.error(node.span(), "this means no endpoint at all");
        }
        sides
    }

    fn selected(&self, source: &mut Source<'_>, node: &Node) -> Vec<Side> {
        let Some(mut table) = source.table(node, "an end") else { return Vec::new() };
        let selector: Option<Selector> = table.need(source, "selector").and_then(|v| source.selector(v));
        table.finish(source);
        let Some(selector) = selector else { return Vec::new() };
        let matching = self.endpoints.iter().enumerate().filter(|(_, e)| selector.matches(&e.labels));
        matching.map(|(i, _)| Side::Endpoint(i)).collect()
    }
}

/// The interface by which connections from elsewhere come in to the host.
fn way_in(source: &mut Source<'_>, node: &Node, from: &[Side], to: &[Side]) -> Option<String> {
    let interface = super::interface(source, node)?;
    let is_host = |side: &Side| *side == Side::Host;
    let (message, help) = if interface.ends_with('*') {
        (format!("`{interface}` is a pattern: name one interface that is like it"), "")
    } else if interface == HostPolicy::LOOPBACK {
        ("what the host says to itself is not judged".to_owned(), "")
    } else if interface.starts_with(EndpointId::PREFIX) {
        let help = "leave `interface` out: then an endpoint as `from` is one of this host";
        (format!("`{interface}` is like an endpoint's interface, for which host policies are not"), help)
    } else if !to.iter().all(is_host) {
        (
            "an interface makes a difference for what reaches the host only".to_owned(),
            "the row needs `to = \"host\"`",
        )
    } else if from.iter().any(is_host) {
        ("what the host says to itself comes in by no interface".to_owned(), "name another `from`")
    } else {
        return Some(interface);
    };
    source.error_with_help(node.span(), message, help);
    None
}

fn strings(source: &mut Source<'_>, node: Option<&Node>, what: &str) -> Vec<String> {
    let items = node.map(|n| source.list(n)).unwrap_or_default();
    items.into_iter().filter_map(|item| source.string(item, what).map(str::to_owned)).collect()
}

fn prefix(source: &mut Source<'_>, node: &Node) -> Option<Prefix> {
    let text = source.string(node, "a CIDR")?;
    text.parse().map_err(|error: crate::model::PrefixError| source.error(node.span(), error.to_string())).ok()
}

/// `tcp/80`, `tcp/8000-8080`, `udp`, `icmp`, `*`; one or a list.
fn services(source: &mut Source<'_>, node: &Node) -> Services {
    let mut all = Services::nothing();
    for item in source.list(node) {
        let Some(text) = source.string(item, "a service") else { continue };
        match service(text) {
            Some(services) => all = all.union(&services),
            None => source.error_with_help(
                item.span(),
                format!("`{text}` is not a service"),
                "write tcp/80, tcp/8000-8080, udp, icmp, a protocol's number, or * for everything",
            ),
        }
    }
    all
}

fn service(text: &str) -> Option<Services> {
    if text == "*" {
        return Some(Services::everything());
    }
    let ports = |protocol, ports| Services::of(&[Service { protocol, ports }], &[]);
    let Some((name, range)) = text.split_once('/') else {
        return Some(match Protocol::parse(text)? {
            // What people mean is ping: an echo request, of either family.
            Protocol::ICMP => {
                ports(Protocol::ICMP, Ports::Icmp(8, Some(0))).union(&service("icmpv6").unwrap_or_default())
            }
            Protocol::ICMPV6 => ports(Protocol::ICMPV6, Ports::Icmp(128, Some(0))),
            protocol => ports(protocol, Ports::Any),
        });
    };
    let protocol = Protocol::parse(name).filter(|p| p.has_ports())?;
    let (low, high) = range.split_once('-').unwrap_or((range, range));
    let (low, high) = (low.parse().ok()?, high.parse().ok()?);
    (low <= high).then(|| ports(protocol, Ports::Range(low, high)))
}
