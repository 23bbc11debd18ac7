//! The ports of the three generations of policies.

use std::ops::Range;

use super::super::{tree::Node, walk::Source};
use crate::policy::{Ports, Protocol, Service};

const PROTOCOLS: [(&str, Protocol); 3] =
    [("TCP", Protocol::TCP), ("UDP", Protocol::UDP), ("SCTP", Protocol::SCTP)];

pub(super) fn network_policy_port(source: &mut Source<'_>, node: &Node) -> Option<Service> {
    let mut table = source.table(node, "a port of a NetworkPolicy")?;
    let protocol = match table.take("protocol") {
        Some(v) => source.word(v, "protocol", &PROTOCOLS),
        None => Some(Protocol::TCP),
    };
    let (port, end) = (table.take("port"), table.take("endPort"));
    table.finish(source);
    let ports = match (port, end) {
        (None, None) => Ports::Any,
        (None, Some(end)) => {
            source.error(end.span(), "`endPort` needs `port`");
            return None;
        }
        (Some(port), end) if port.is_number() => {
            let low = source.integer(port, 1..=65535, "port")?;
            let high = match end {
                Some(end) => source.integer(end, low..=65535, "endPort")?,
                None => low,
            };
            Ports::Range(low as u16, high as u16)
        }
        (Some(port), None) => Ports::Named(port_name(source, port)?),
        (Some(_), Some(end)) => {
            source.error(end.span(), "`endPort` needs a `port` with a number");
            return None;
        }
    };
    Some(Service { protocol: protocol?, ports })
}

/// The name of a port (RFC 6335): a number in quotes is none.
fn port_name(source: &mut Source<'_>, node: &Node) -> Option<String> {
    let text = source.string(node, "port")?;
    if text.parse::<u32>().is_ok() {
        source.error_with_help(
            node.span(),
            format!("\"{text}\" in quotes is the name of a port, and a name needs a letter"),
            format!("write {text} without quotes"),
        );
        return None;
    }
    let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if text.is_empty()
        || text.len() > 15
        || !text.bytes().all(fine)
        || !text.bytes().any(|b| b.is_ascii_lowercase())
        || text.contains("--")
        || text.starts_with('-')
        || text.ends_with('-')
    {
        source.error(
            node.span(),
            format!(
                "`{text}` is not the name of a port: 1 to 15 lower-case letters, digits and single `-` between them"
            ),
        );
        return None;
    }
    Some(text.to_owned())
}

/// The port a name stands for may be of any protocol.
fn named(source: &mut Source<'_>, node: &Node) -> Vec<Service> {
    let Some(name) = port_name(source, node) else { return Vec::new() };
    PROTOCOLS
        .iter()
        .map(|(_, protocol)| Service { protocol: *protocol, ports: Ports::Named(name.clone()) })
        .collect()
}

/// `portNumber`, `portRange` or `namedPort` of v1alpha1.
pub(super) fn admin_port(source: &mut Source<'_>, node: &Node) -> Vec<Service> {
    let Some(mut table) = source.table(node, "a port of a cluster-wide policy") else { return Vec::new() };
    let (number, range, name) = (table.take("portNumber"), table.take("portRange"), table.take("namedPort"));
    let span = table.span.clone();
    table.finish(source);
    match (number, range, name) {
        (Some(node), None, None) => one_port(source, node, &["port"]),
        (None, Some(node), None) => one_port(source, node, &["start", "end"]),
        (None, None, Some(node)) => named(source, node),
        _ => {
            source.error(span, "give exactly one of `portNumber`, `portRange` and `namedPort`");
            Vec::new()
        }
    }
}

fn one_port(source: &mut Source<'_>, node: &Node, keys: &[&'static str]) -> Vec<Service> {
    let Some(mut table) = source.table(node, "a port") else { return Vec::new() };
    let protocol = match table.take("protocol") {
        Some(v) => source.word(v, "protocol", &PROTOCOLS),
        None => Some(Protocol::TCP),
    };
    let numbers: Vec<_> = keys
        .iter()
        .filter_map(|key| table.need(source, key).and_then(|v| source.integer(v, 1..=65535, key)))
        .collect();
    let span = table.span.clone();
    table.finish(source);
    ports_of(source, span, protocol, &numbers, keys.len())
}

fn ports_of(
    source: &mut Source<'_>,
    span: Range<usize>,
    protocol: Option<Protocol>,
    numbers: &[i64],
    wanted: usize,
) -> Vec<Service> {
    let (Some(protocol), Some(low), Some(high)) = (protocol, numbers.first(), numbers.last()) else {
        return Vec::new();
    };
    if numbers.len() < wanted {
        return Vec::new();
    }
    if wanted == 2 && low >= high {
        source.error(span, format!("the start of a range must be less than its end, not {low} to {high}"));
        return Vec::new();
    }
    vec![Service { protocol, ports: Ports::Range(*low as u16, *high as u16) }]
}

/// `tcp`, `udp`, `sctp` or `destinationNamedPort` of v1alpha2.
pub(super) fn cluster_protocol(source: &mut Source<'_>, node: &Node) -> Vec<Service> {
    let Some(mut table) = source.table(node, "a protocol of a cluster-wide policy") else {
        return Vec::new();
    };
    let span = table.span.clone();
    let mut found = Vec::new();
    let keys = [("tcp", Protocol::TCP), ("udp", Protocol::UDP), ("sctp", Protocol::SCTP)];
    for (key, protocol) in keys {
        found.extend(table.take(key).map(|node| (protocol, node)));
    }
    let name = table.take("destinationNamedPort");
    table.finish(source);
    match (&found[..], name) {
        ([], Some(node)) => named(source, node),
        ([(protocol, node)], None) => {
            let Some(mut table) = source.table(node, "a protocol") else { return Vec::new() };
            let port = table.take("destinationPort");
            let span = table.span.clone();
            table.finish(source);
            let Some(port) = port else {
                let help = "all ports are `destinationPort: {range: {start: 1, end: 65535}}`";
                source.error_with_help(span, "a protocol needs `destinationPort`", help);
                return Vec::new();
            };
            destination_port(source, port, *protocol)
        }
        _ => {
            source.error(span, "give exactly one of `tcp`, `udp`, `sctp` and `destinationNamedPort`");
            Vec::new()
        }
    }
}

fn destination_port(source: &mut Source<'_>, node: &Node, protocol: Protocol) -> Vec<Service> {
    let Some(mut table) = source.table(node, "a destination port") else { return Vec::new() };
    let (number, range) = (table.take("number"), table.take("range"));
    let span = table.span.clone();
    table.finish(source);
    match (number, range) {
        (Some(node), None) => {
            let number = source.integer(node, 1..=65535, "number");
            ports_of(source, span, Some(protocol), &Vec::from_iter(number), 1)
        }
        (None, Some(range)) => {
            let Some(mut table) = source.table(range, "a range") else { return Vec::new() };
            let numbers: Vec<_> = ["start", "end"]
                .iter()
                .filter_map(|key| table.need(source, key).and_then(|v| source.integer(v, 1..=65535, key)))
                .collect();
            table.finish(source);
            ports_of(source, span, Some(protocol), &numbers, 2)
        }
        _ => {
            source.error(span, "give exactly one of `number` and `range`");
            Vec::new()
        }
    }
}
