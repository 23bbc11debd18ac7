//! What every table must be once everything has settled, told plainly and without anything of the speaker's code.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use slash32::model::{Family, Prefix};

use crate::{
    node::{addresses, prefixes},
    plan::{Options, Topology},
    world::World,
};

/// Prefixes and the gateways that their traffic is spread over.
pub(crate) type Table = BTreeMap<Prefix, BTreeSet<IpAddr>>;

/// A host that announces an endpoint, as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Origin {
    host: usize,
    sequence: Option<u32>,
    draining: bool,
}

/// A path to an endpoint, by a fabric node.
#[derive(Clone, Copy, Debug)]
struct Path {
    fabric: usize,
    origin: Origin,
    draining: bool,
}

/// Which endpoint a prefix belongs to.
pub(crate) fn endpoint_of(prefix: Prefix) -> u32 {
    match prefix.addr() {
        IpAddr::V4(addr) => addr.to_bits() & 0x001F_FFFF,
        IpAddr::V6(addr) => addr.to_bits() as u32,
    }
}

/// Whether a host and a fabric node can talk.
pub(crate) fn can_talk(world: &World, host: usize, fabric: usize) -> bool {
    world.nodes[host].process.is_some()
        && world.nodes[fabric].process.is_some()
        && world.is_linked(host, fabric)
}

/// The tables of all nodes.
pub(crate) fn tables(world: &World) -> Vec<Table> {
    let mut tables = vec![Table::new(); world.nodes.len()];
    let endpoints: BTreeSet<u32> = world.nodes.iter().flat_map(|n| n.endpoints.keys().copied()).collect();
    for endpoint in endpoints {
        for (node, gateways) in ways(world, endpoint) {
            for (family, prefix) in Family::ALL.into_iter().zip(prefixes(endpoint)) {
                if family == Family::Ipv4 || world.options.ipv6 {
                    tables[node].insert(prefix, gateways(family));
                }
            }
        }
    }
    tables
}

type Gateways<'a> = Box<dyn Fn(Family) -> BTreeSet<IpAddr> + 'a>;

/// Who reaches an endpoint, and over which gateways.
fn ways(world: &World, endpoint: u32) -> Vec<(usize, Gateways<'_>)> {
    let options = &world.options;
    let mut holders: Vec<Origin> = (2..world.nodes.len())
        .filter_map(|host| {
            let node = &world.nodes[host];
            let sequence = *node.endpoints.get(&endpoint)?;
            node.process.is_some().then_some(Origin { host, sequence, draining: node.draining })
        })
        .collect();
    // A host that hears of a newer place no longer announces its own.
    holders.sort_by_key(|o| Reverse(o.sequence));
    let mut origins: Vec<Origin> = Vec::new();
    for holder in holders {
        let newer = heard(world, holder.host, &origins).iter().any(|p| p.origin.sequence > holder.sequence);
        if !newer {
            origins.push(holder);
        }
    }
    let mut ways: Vec<(usize, Gateways<'_>)> = Vec::new();
    for host in 2..world.nodes.len() {
        if world.nodes[host].process.is_none() {
            continue;
        }
        let paths = heard(world, host, &origins);
        let own = world.nodes[host].endpoints.get(&endpoint).copied();
        let Some(used) = used(options, &paths) else { continue };
        if own.is_some_and(|own| own >= used[0].origin.sequence) {
            continue;
        }
        let gateways = move |family| {
            let gateway = |path: &Path| match options.topology {
                Topology::Rack => addresses(options, host - 2, path.fabric, family).1,
                Topology::Reflectors => addresses(options, path.origin.host - 2, 0, family).0,
            };
            used.iter().map(gateway).collect()
        };
        ways.push((host, Box::new(gateways)));
    }
    if options.topology == Topology::Rack {
        for fabric in 0..2 {
            let best = best_of(origins.iter().copied().filter(|o| can_talk(world, o.host, fabric)).collect());
            if !best.is_empty() {
                let gateways = move |family| {
                    best.iter().map(|o| addresses(options, o.host - 2, fabric, family).0).collect()
                };
                ways.push((fabric, Box::new(gateways)));
            }
        }
    }
    ways
}

/// The newest place, rather one that is not being drained; the lowest identifier first.
fn best_of(mut origins: Vec<Origin>) -> Vec<Origin> {
    origins.sort_by_key(|o| (Reverse(o.sequence), o.draining, o.host));
    let Some(first) = origins.first().copied() else { return origins };
    origins.retain(|o| (o.sequence, o.draining) == (first.sequence, first.draining));
    origins
}

/// The paths that a host is told of.
fn heard(world: &World, host: usize, origins: &[Origin]) -> Vec<Path> {
    let mut paths = Vec::new();
    for fabric in (0..2).filter(|fabric| can_talk(world, host, *fabric)) {
        let draining = world.nodes[fabric].draining;
        let mut known: Vec<Origin> =
            origins.iter().copied().filter(|o| can_talk(world, o.host, fabric)).collect();
        known.sort_by_key(|o| (Reverse(o.sequence), o.draining, o.host));
        known.truncate(usize::from(world.options.add_path.max(1)));
        // Never back to where it came from.
        let told = known.into_iter().filter(|o| o.host != host);
        paths.extend(told.map(|origin| Path { fabric, origin, draining: draining || origin.draining }));
    }
    paths
}

/// The paths that are used of those: the newest place, not drained if possible, and all that is equal up to there.
fn used(options: &Options, paths: &[Path]) -> Option<Vec<Path>> {
    let mut paths = paths.to_vec();
    let tie = |p: &Path| match options.topology {
        Topology::Rack => (p.fabric, 0),
        Topology::Reflectors => (p.origin.host, p.fabric),
    };
    paths.sort_by_key(|p| (Reverse(p.origin.sequence), p.draining, tie(p)));
    let first = *paths.first()?;
    paths.retain(|p| (p.origin.sequence, p.draining) == (first.origin.sequence, first.draining));
    paths.truncate(usize::from(options.multipath));
    Some(paths)
}
