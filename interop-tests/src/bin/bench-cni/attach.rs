//! ADD and DEL: one after another, at once, on a crowded host; and what the kernel alone would take.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use interop_tests::{Agent, Floor, Machine, Network, TimedPlugin};
use serde_json::Value;

use crate::figures::{Row, milliseconds, p50, p99, quantile, ratio};

/// The reference plugins that do the same: a routed veth pair, and an address.
pub(crate) const REFERENCE: &str = r#"{"cniVersion":"1.0.0","name":"ptp","plugins":[{"type":"ptp","ipam":{"type":
    "host-local","subnet":"10.200.0.0/16","routes":[{"dst":"0.0.0.0/0"}]}}]}"#;

/// Containers without IPv6. The kernel goes through all IPv6 routes of the host whenever a link comes up.
pub(crate) const IPV4_ONLY: &str =
    r#"{"cniVersion":"1.0.0","name":"four","plugins":[{"type":"slash32","ipam":{"families":["ipv4"]}}]}"#;

/// One plugin and what it took so far, a list for each round.
pub(crate) struct Bench {
    machine: Machine,
    plugin: TimedPlugin,
    adds: Vec<Vec<Duration>>,
    deletes: Vec<Vec<Duration>>,
    /// Calls a second, one number a round.
    add_rates: Vec<f64>,
    delete_rates: Vec<f64>,
}

/// What cannot be undercut.
pub(crate) struct Limit {
    pub(crate) spawn: Vec<Duration>,
    pub(crate) attach: Vec<Duration>,
}

impl Bench {
    pub(crate) fn new(machine: &Machine, network: &Network) -> Result<Self> {
        Ok(Self {
            machine: machine.clone(),
            plugin: TimedPlugin::new(machine, network)?,
            adds: Vec::new(),
            deletes: Vec::new(),
            add_rates: Vec::new(),
            delete_rates: Vec::new(),
        })
    }
}

/// Attaches and detaches `each` containers with both, in turn, so that both meet the same noise.
pub(crate) fn alternate(ours: &mut Bench, reference: &mut Bench, each: usize) -> Result<()> {
    let ids = names("bench", each);
    for bench in [&mut *ours, &mut *reference] {
        sandboxes(&bench.machine, &ids)?;
        bench.adds.push(Vec::new());
        bench.deletes.push(Vec::new());
    }
    let mut results: Vec<[Value; 2]> = Vec::new();
    for id in &ids {
        let mut pair = [Value::Null, Value::Null];
        for (bench, result) in [&mut *ours, &mut *reference].into_iter().zip(&mut pair) {
            let (took, answer) = bench.plugin.add(id)?;
            bench.adds.last_mut().context("a round has begun")?.push(took);
            *result = answer;
        }
        results.push(pair);
    }
    for (id, pair) in ids.iter().zip(&results) {
        for (bench, result) in [&mut *ours, &mut *reference].into_iter().zip(pair) {
            let took = bench.plugin.delete(id, result)?;
            bench.deletes.last_mut().context("a round has begun")?.push(took);
        }
    }
    for bench in [ours, reference] {
        remove(&bench.machine, &ids)?;
    }
    Ok(())
}

/// The same with `workers` calls at once, one plugin after the other.
pub(crate) fn at_once(benches: &mut [&mut Bench], each: usize, workers: usize) -> Result<()> {
    let ids = names("crowd", each);
    for bench in benches {
        sandboxes(&bench.machine, &ids)?;
        let (took, results) = bench.plugin.add_all(&ids, workers)?;
        bench.add_rates.push(each as f64 / took.as_secs_f64());
        let took = bench.plugin.delete_all(&ids, &results, workers)?;
        bench.delete_rates.push(each as f64 / took.as_secs_f64());
        remove(&bench.machine, &ids)?;
    }
    Ok(())
}

/// Bare netlink and an empty process, as often as everything else.
pub(crate) fn floor(machine: &Machine, count: usize) -> Result<Limit> {
    let ids = names("floor", count);
    sandboxes(machine, &ids)?;
    let mut floor = Floor::new(machine)?;
    let mut limit = Limit { spawn: Vec::new(), attach: Vec::new() };
    for id in &ids {
        limit.spawn.push(floor.spawn()?);
        limit.attach.push(floor.attach(id)?);
    }
    remove(machine, &ids)?;
    Ok(limit)
}

pub(crate) fn one_by_one(ours: &Bench, reference: &Bench, limit: &Limit) -> Vec<Row> {
    let sums: Vec<Duration> = limit.spawn.iter().zip(&limit.attach).map(|(a, b)| *a + *b).collect();
    let (adds, deletes) = (ours.adds.concat(), ours.deletes.concat());
    let (their_adds, their_deletes) = (reference.adds.concat(), reference.deletes.concat());
    let beside = |figure: String| format!("ptp + host-local {figure}");
    vec![
        Row::new(
            "ADD p50",
            p50(&ours.adds),
            beside(p50(&reference.adds)),
            ratio(&adds, &their_adds, 50),
            "≤ 0.25",
        ),
        Row::new("ADD p99", p99(&ours.adds), beside(p99(&reference.adds)), ratio(&adds, &their_adds, 99), ""),
        Row::new(
            "ADD p50, beside the kernel's own limit",
            p50(&ours.adds),
            format!("bare netlink + an empty process {}", milliseconds(quantile(&sums, 50))),
            ratio(&adds, &sums, 50),
            "≤ 2.0",
        ),
        Row::new(
            "DEL p50",
            p50(&ours.deletes),
            beside(p50(&reference.deletes)),
            ratio(&deletes, &their_deletes, 50),
            "≤ 0.15",
        ),
        Row::new(
            "DEL p99",
            p99(&ours.deletes),
            beside(p99(&reference.deletes)),
            ratio(&deletes, &their_deletes, 99),
            "",
        ),
    ]
}

pub(crate) fn rates(what: &str, ours: &Bench, reference: &Bench, target: &'static str) -> Row {
    let middle = crate::figures::median;
    let figure =
        |bench: &Bench| format!("{:.0} ({:.0})", middle(&bench.add_rates), middle(&bench.delete_rates));
    let ratio = middle(&ours.add_rates) / middle(&reference.add_rates);
    Row::new(
        format!("8 at once{what}, ADD/s (DEL/s)"),
        figure(ours),
        format!("ptp + host-local {}", figure(reference)),
        Some(ratio),
        target,
    )
}

/// From before the plugin starts on one host until a ping from a container of the other is answered.
pub(crate) fn first_answers(host1: &Agent, host2: &Agent, count: usize) -> Result<Row> {
    let network = Network::slash32()?.label("role", "bench");
    let watching = host2.machine().container("watching", &network)?;
    let mut watcher = watching.watcher()?;
    let mut plugin = TimedPlugin::new(host1.machine(), &network)?;
    let ids = names("first", count);
    sandboxes(host1.machine(), &ids)?;
    let mut times = Vec::new();
    for id in &ids {
        let start = Instant::now();
        let (_, result) = plugin.add(id)?;
        let address = result["ips"][0]["address"].as_str().and_then(|text| text.split('/').next());
        watcher.wait(address.context("an address in the result")?)?;
        times.push(start.elapsed());
        plugin.delete(id, &result)?;
    }
    remove(host1.machine(), &ids)?;
    watching.remove()?;
    let figure = format!("{} / {}", milliseconds(quantile(&times, 50)), milliseconds(quantile(&times, 99)));
    Ok(Row::plain("ADD to first answered ping from another host, p50 / p99", figure))
}

/// ADD on an empty host and on one with a crowd of endpoints like these.
pub(crate) fn crowd(bench: &mut Bench, what: &str, crowd: usize, each: usize) -> Result<Row> {
    let ids = names("alone", each);
    let alone = few(bench, &ids)?;
    let many = names("many", crowd);
    sandboxes(&bench.machine, &many)?;
    let (_, results) = bench.plugin.add_all(&many, 2)?;
    eprintln!("{each} attachments beside them{what}");
    let crowded = few(bench, &ids)?;
    bench.plugin.delete_all(&many, &results, 2)?;
    remove(&bench.machine, &many)?;
    Ok(crowd_row(&format!("ADD p50{what}"), crowd, &alone, &crowded, "≤ 1.3"))
}

/// The same for bare netlink and an empty process: what the kernel alone needs more when there are many.
pub(crate) fn crowded_floor(machine: &Machine, crowd: usize, each: usize) -> Result<Row> {
    let mut floor = Floor::new(machine)?;
    let (ids, many, more) = (names("alone", each), names("many", crowd), names("more", each));
    let mut attach = |ids: &[String]| -> Result<Vec<Duration>> {
        sandboxes(machine, ids)?;
        ids.iter().map(|id| Ok(floor.spawn()? + floor.attach(id)?)).collect()
    };
    let alone = attach(&ids)?;
    attach(&many)?;
    let crowded = attach(&more)?;
    for ids in [&ids, &many, &more] {
        remove(machine, ids)?;
    }
    Ok(crowd_row("bare netlink + an empty process", crowd, &alone, &crowded, ""))
}

fn crowd_row(
    what: &str,
    crowd: usize,
    alone: &[Duration],
    crowded: &[Duration],
    target: &'static str,
) -> Row {
    Row::new(
        format!("{what} with {crowd} endpoints on the host"),
        milliseconds(quantile(crowded, 50)),
        format!("with none {}", milliseconds(quantile(alone, 50))),
        ratio(crowded, alone, 50),
        target,
    )
}

fn few(bench: &mut Bench, ids: &[String]) -> Result<Vec<Duration>> {
    sandboxes(&bench.machine, ids)?;
    let mut times = Vec::new();
    let mut results = Vec::new();
    for id in ids {
        let (took, result) = bench.plugin.add(id)?;
        times.push(took);
        results.push(result);
    }
    bench.plugin.delete_all(ids, &results, 1)?;
    remove(&bench.machine, ids)?;
    Ok(times)
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}-{number}")).collect()
}

/// Network namespaces, as runtimes make them: with nothing up.
fn sandboxes(machine: &Machine, ids: &[String]) -> Result<()> {
    batch(machine, ids, "add")
}

fn remove(machine: &Machine, ids: &[String]) -> Result<()> {
    batch(machine, ids, "delete")
}

fn batch(machine: &Machine, ids: &[String], verb: &str) -> Result<()> {
    let lines: Vec<String> = ids.iter().map(|id| format!("netns {verb} {id}")).collect();
    machine.command("ip").args(["-batch", "-"]).stdin(lines.join("\n")).run().map(drop)
}

/// Resident memory when nothing has happened for a while, in KiB.
pub(crate) fn settled_rss(agent: &Agent) -> Result<u64> {
    std::thread::sleep(Duration::from_secs(2));
    agent.rss_kib()
}
