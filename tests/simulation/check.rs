//! What must be true: when everything has settled, and all the time.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use slash32::{
    model::{Family, Prefix},
    routes::{RouteFilter, fake::Fake},
};

use crate::{
    model::{self, Table, endpoint_of},
    node::{Node, PROTOCOL, addresses, cable_of, identity},
    plan::{HOLD, Options, Topology},
    world::World,
};

/// How long news may take through a network that is busy, detection included.
const SPELL: Duration = Duration::from_secs(10);
/// A stall that BFD surely does not see.
const UNSEEN: Duration = Duration::from_millis(290);

/// What has been left alone since everything had settled, and what was true then.
#[derive(Debug, Default)]
pub(crate) struct Calm {
    /// What the kernels had. Empty before the first check.
    baseline: Vec<Table>,
    /// Cables, and how often each came or went.
    pub(crate) cables: BTreeMap<usize, u32>,
    /// Processes that ended and came back in time.
    pub(crate) restarts: BTreeMap<usize, u32>,
    /// Nodes to which something else was done.
    pub(crate) broken: BTreeSet<usize>,
    pub(crate) faulted: BTreeSet<usize>,
    /// Some node is no longer preferred, or is again.
    pub(crate) drained: bool,
    /// Endpoints that came, went or moved: when last, and who was concerned.
    endpoints: BTreeMap<u32, (Instant, BTreeSet<usize>)>,
}

impl Calm {
    pub(crate) fn touched(&mut self, endpoint: u32, host: usize, now: Instant) {
        let entry = self.endpoints.entry(endpoint).or_insert((now, BTreeSet::new()));
        entry.0 = now;
        entry.1.insert(host);
    }

    pub(crate) fn stalled(&mut self, node: usize, time: Duration, options: &Options) {
        if time > if options.bfd { UNSEEN } else { HOLD / 3 } {
            self.broken.insert(node);
        }
    }

    /// Whether nothing but one restart was done to the nodes of a path, of which a helper knows how to deal with.
    fn is_whole(&self, options: &Options, host: usize, fabric: usize, origin: usize) -> bool {
        let path = [host, fabric, origin];
        if path.iter().any(|node| self.broken.contains(node)) {
            return false;
        }
        let cables = [cable_of(options, host - 2, fabric), cable_of(options, origin - 2, fabric)];
        if cables.iter().any(|cable| self.cables.contains_key(cable)) {
            return false;
        }
        let count = |node: &usize| self.restarts.get(node).copied().unwrap_or(0);
        let total: u32 = path.iter().map(count).sum();
        // Without graceful restart nobody keeps anything. A switch that has restarted knows nothing that it could
        // tell of a host that is not back.
        total == 0
            || options.graceful
                && path.iter().all(|node| count(node) <= 1)
                && (count(&fabric) == 0 || total == 1)
    }
}

/// The kernel of a node, whoever has it now.
fn kernel(node: &Node) -> Option<&Fake> {
    match &node.process {
        Some(process) => process.fib.as_ref().map(slash32::routes::Fib::kernel),
        None => node.installs.then_some(&node.kernel),
    }
}

fn table(node: &Node) -> Table {
    // What its kernel had is gone with the power.
    if !node.powered {
        return Table::new();
    }
    let Some(kernel) = kernel(node) else { return Table::new() };
    let gateways =
        |ways: Vec<(slash32::netlink::nexthop::Via, u16)>| ways.iter().map(|(via, _)| via.gateway).collect();
    kernel.table(PROTOCOL).into_iter().map(|(prefix, ways)| (prefix, gateways(ways))).collect()
}

/// The fabric node whose address towards a host this is.
fn fabric_of(options: &Options, host: usize, gateway: IpAddr) -> Option<usize> {
    (0..2)
        .find(|f| Family::ALL.into_iter().any(|family| addresses(options, host - 2, *f, family).1 == gateway))
}

/// Everything has settled: every table is the model's, and nothing is left over.
pub(crate) fn settled(world: &mut World) -> Result<(), String> {
    let expected = model::tables(world);
    let mut baseline = Vec::new();
    for (node, expected) in expected.iter().enumerate() {
        let actual = table(&world.nodes[node]);
        if world.nodes[node].process.is_some() {
            if world.nodes[node].installs && actual != *expected {
                let wrong = difference(node, &actual, expected);
                return Err(format!("{wrong}{}", inside(world, node, &actual, expected)));
            }
            world.compared += actual.len() as u64;
            settled_process(world, node, expected)?;
        }
        baseline.push(actual);
    }
    world.calm = Calm { baseline, ..Calm::default() };
    Ok(())
}

fn difference(node: usize, actual: &Table, expected: &Table) -> String {
    let all: BTreeSet<&Prefix> = actual.keys().chain(expected.keys()).collect();
    let wrong: Vec<String> = all
        .into_iter()
        .filter(|prefix| actual.get(*prefix) != expected.get(*prefix))
        .map(|prefix| {
            format!("{prefix}: has {:?}, should have {:?}", actual.get(prefix), expected.get(prefix))
        })
        .collect();
    format!("node {node}: {} routes are wrong: {}", wrong.len(), wrong[..wrong.len().min(5)].join("; "))
}

/// What RIB and FIB know of the first route that is wrong.
fn inside(world: &mut World, node: usize, actual: &Table, expected: &Table) -> String {
    let wrong = actual.keys().chain(expected.keys()).find(|p| actual.get(*p) != expected.get(*p)).copied();
    let (Some(prefix), Some(process)) = (wrong, &mut world.nodes[node].process) else { return String::new() };
    let paths = process.rib.explain(prefix).map(|e| e.paths.len());
    let fib = process.fib.as_ref().map(|fib| fib.routes(RouteFilter::default()));
    let route = fib.into_iter().flatten().find(|r| r.prefix == prefix);
    format!("; paths of {prefix} in the RIB: {paths:?}; in the FIB: {route:?}")
}

fn settled_process(world: &mut World, node: usize, expected: &Table) -> Result<(), String> {
    for peer in 0..world.nodes[node].neighbours.len() {
        let other = world.nodes[node].neighbours[peer].node;
        let should = world.is_linked(node, peer) && world.nodes[other].process.is_some();
        if world.is_up(node, peer) != should {
            let state = world.nodes[node].process.as_ref().map(|p| p.peers[peer].session.state());
            return Err(format!(
                "node {node}: the session with node {other} is {state:?}, should be up: {should}"
            ));
        }
    }
    let Some(process) = &mut world.nodes[node].process else { return Ok(()) };
    for (peer, stats) in process.rib.all_peer_stats() {
        for (family, stats) in stats.families {
            if stats.stale.is_some() {
                return Err(format!("node {node}: {family} routes of {peer} are {:?}", stats.stale));
            }
        }
    }
    if let Some(fib) = &mut process.fib {
        let differences = fib.verify().map_err(|e| e.to_string())?;
        if !differences.is_empty() {
            return Err(format!("node {node}: the FIB differs from its kernel: {differences:?}"));
        }
        for prefix in expected.keys() {
            let known = process.identities.get(prefix).cloned().flatten();
            if known != identity(endpoint_of(*prefix)) {
                return Err(format!("node {node}: {prefix} has the identity {known:?}"));
            }
        }
    }
    Ok(())
}

/// What holds at any time, looked at for some hosts.
pub(crate) fn sample(world: &mut World) -> Result<(), String> {
    if world.calm.baseline.is_empty() {
        return Ok(());
    }
    let hosts = world.options.hosts;
    for _ in 0..4 {
        let host = world.random.below(hosts) + 2;
        let now = table(&world.nodes[host]);
        lost(world, host, &now)?;
        dead(world, host, &now)?;
    }
    Ok(())
}

/// Nothing is lost whose whole path has been left alone, or has only restarted gracefully.
fn lost(world: &World, host: usize, now: &Table) -> Result<(), String> {
    let (calm, options) = (&world.calm, &world.options);
    for (prefix, gateways) in &calm.baseline[host] {
        let endpoint = endpoint_of(*prefix);
        // What has moved to the host itself, perhaps while its agent was away, needs no way through the fabric.
        if calm.endpoints.contains_key(&endpoint) || world.nodes[host].endpoints.contains_key(&endpoint) {
            continue;
        }
        let origins: Vec<usize> =
            (2..world.nodes.len()).filter(|n| world.nodes[*n].endpoints.contains_key(&endpoint)).collect();
        // Where one path of several may be chosen, another choice is no loss. Nor is it when a host that has restarted
        // hears of one path before the others.
        let strict = options.multipath > 1
            && !calm.drained
            && !calm.restarts.contains_key(&host)
            && (options.topology == Topology::Rack || origins.len() == 1);
        for gateway in gateways {
            let whole = |fabric: usize| origins.iter().any(|o| calm.is_whole(options, host, fabric, *o));
            let whole = match options.topology {
                Topology::Rack => fabric_of(options, host, *gateway).is_some_and(whole),
                Topology::Reflectors => origins.len() == 1 && (0..2).any(whole),
            };
            let has = now.get(prefix);
            let kept = if strict { has.is_some_and(|g| g.contains(gateway)) } else { has.is_some() };
            if whole && !kept {
                return Err(format!("node {host} has lost {prefix} via {gateway}: {has:?}"));
            }
        }
    }
    Ok(())
}

/// Nothing leads where nothing can come through, once that could be noticed.
fn dead(world: &World, host: usize, now: &Table) -> Result<(), String> {
    let (calm, options) = (&world.calm, &world.options);
    let node = &world.nodes[host];
    let Some(process) = &node.process else { return Ok(()) };
    let awake = node.stalled.is_none_or(|until| until + Duration::from_secs(1) < world.now);
    let settled_in = process.started + Duration::from_secs(1) < world.now;
    if !awake || !settled_in || calm.faulted.contains(&host) {
        return Ok(());
    }
    let long = |at: Option<&Instant>, time: Duration| at.is_some_and(|at| *at + time < world.now);
    let disturbed = |n: usize| calm.broken.contains(&n) || calm.restarts.contains_key(&n);
    for (prefix, gateways) in now {
        let endpoint = endpoint_of(*prefix);
        for gateway in gateways {
            let fabrics: Vec<usize> = match options.topology {
                Topology::Rack => fabric_of(options, host, *gateway).into_iter().collect(),
                Topology::Reflectors => vec![0, 1],
            };
            if fabrics.iter().all(|f| long(world.dead_since.get(&(host, *f)), Duration::from_millis(100)))
                && (options.topology == Topology::Rack || !world.cables[host - 2])
            {
                return Err(format!("node {host} sends {prefix} to {gateway} over a dead link"));
            }
            // Only BFD notices what is further away within a spell.
            if !options.bfd || disturbed(host) {
                continue;
            }
            let (touched, mut holders) =
                calm.endpoints.get(&endpoint).cloned().unwrap_or((world.start, BTreeSet::new()));
            holders
                .extend((2..world.nodes.len()).filter(|n| world.nodes[*n].endpoints.contains_key(&endpoint)));
            let gone = |fabric: usize, holder: usize| {
                let cable = cable_of(options, holder - 2, fabric);
                let once = calm.cables.get(&cable).copied().unwrap_or(0) <= 1;
                let cut = once && long(world.dead_since.get(&(holder, fabric)), SPELL);
                let up = world.nodes[holder].process.as_ref().and_then(|p| p.peers[fabric].since.as_ref());
                let left = !world.nodes[holder].endpoints.contains_key(&endpoint)
                    && touched + SPELL < world.now
                    && long(up, SPELL);
                !disturbed(holder) && (cut || left)
            };
            let hears =
                |fabric: usize| long(process.peers[fabric].since.as_ref(), SPELL) && !disturbed(fabric);
            let dead_by = |f: usize| hears(f) && holders.iter().all(|holder| gone(f, *holder));
            if fabrics.iter().all(|f| dead_by(*f)) {
                return Err(format!("node {host} still sends {prefix} to {gateway}, where it is no more"));
            }
        }
    }
    Ok(())
}
