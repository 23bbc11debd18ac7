//! `make bench-cni`: ADD and DEL of slash32 beside ptp + host-local in the same run, the time until a new container answers
//! another host, memory and size. Prints Markdown.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use interop_tests::{Agent, Lab, Machine, Network, Rack, Switch, TimedPlugin, slash32};
use serde_json::Value;

/// Times CNI against the reference plugins and prints a table.
#[derive(Parser)]
struct Options {
    /// Attachments in all, spread over the rounds.
    #[arg(long, default_value_t = 200)]
    attachments: usize,
    /// Rounds; the spread of their medians shows the noise of the computer.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Attachments timed until their first answer.
    #[arg(long, default_value_t = 100)]
    pings: usize,
}

const REFERENCE: &str = r#"{"cniVersion":"1.0.0","name":"ptp","plugins":[{"type":"ptp","ipam":{"type":"host-local",
    "subnet":"10.200.0.0/16","routes":[{"dst":"0.0.0.0/0"}]}}]}"#;

fn main() -> Result<()> {
    let options = Options::parse();
    let lab = Lab::new("bench-cni")?;
    let rack = Rack::new(&lab, Switch::Slash32)?;
    let _switch = rack.start_switch()?;
    // A larger block than the example's: released addresses rest for a while, and here hundreds are released in seconds.
    let hosts = rack.start_hosts_with(|host, config| {
        config.replace(&format!("10.32.{host}.0/24"), &format!("10.32.{}.0/18", host * 64))
    })?;
    let [host1, host2] = &hosts;
    for host in &hosts {
        host.wait_established(2)?;
    }
    let idle = settled_rss(host1)?;

    // On a machine of its own: no agent listens to its links, and none of its links are the agent's.
    let other = lab.machine("reference")?;
    other.own("/var/lib/cni")?;
    let mut ours = Bench::new(host1.machine(), &Network::slash32()?.label("role", "bench"))?;
    let mut reference = Bench::new(&other, &Network::parse(REFERENCE)?)?;
    let each = options.attachments.div_ceil(options.rounds);
    for round in 0..options.rounds {
        eprintln!("round {} of {}: {each} attachments", round + 1, options.rounds);
        rounds(&mut ours, &mut reference, each)?;
    }
    let used = settled_rss(host1)?;

    eprintln!("{} attachments until the first answer", options.pings);
    let first = first_answers(host1, host2, options.pings)?;
    print(&options, &ours, &reference, &first, idle, used)
}

/// One plugin and what it took so far, a list for each round.
struct Bench {
    machine: Machine,
    plugin: TimedPlugin,
    adds: Vec<Vec<Duration>>,
    deletes: Vec<Vec<Duration>>,
}

impl Bench {
    fn new(machine: &Machine, network: &Network) -> Result<Self> {
        let plugin = TimedPlugin::new(machine, network)?;
        let bench = Self { machine: machine.clone(), plugin, adds: Vec::new(), deletes: Vec::new() };
        ensure!(bench.machine.run("ip -brief link show lo")?.contains("LOOPBACK"), "the machine has no lo");
        Ok(bench)
    }
}

/// Attaches and detaches `each` containers with both, in turn, so that both meet the same noise.
fn rounds(ours: &mut Bench, reference: &mut Bench, each: usize) -> Result<()> {
    let ids: Vec<String> = (0..each).map(|number| format!("bench-{number}")).collect();
    for bench in [&mut *ours, &mut *reference] {
        bench.adds.push(Vec::new());
        bench.deletes.push(Vec::new());
        for id in &ids {
            bench.machine.sandbox(id)?;
        }
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
        for id in &ids {
            bench.machine.run(&format!("ip netns delete {id}"))?;
        }
    }
    Ok(())
}

/// From before the plugin starts on one host until a ping from a container of the other is answered.
fn first_answers(host1: &Agent, host2: &Agent, count: usize) -> Result<Vec<Duration>> {
    let network = Network::slash32()?.label("role", "bench");
    let watching = host2.machine().container("watching", &network)?;
    let mut watcher = watching.watcher()?;
    let mut plugin = TimedPlugin::new(host1.machine(), &network)?;
    let mut times = Vec::new();
    for number in 0..count {
        let id = format!("first-{number}");
        host1.machine().sandbox(&id)?;
        let start = Instant::now();
        let (_, result) = plugin.add(&id)?;
        let address = result["ips"][0]["address"].as_str().and_then(|text| text.split('/').next());
        watcher.wait(address.context("an address in the result")?)?;
        times.push(start.elapsed());
        plugin.delete(&id, &result)?;
        host1.machine().run(&format!("ip netns delete {id}"))?;
    }
    Ok(times)
}

/// Resident memory when nothing has happened for a while, in KiB.
fn settled_rss(agent: &Agent) -> Result<u64> {
    std::thread::sleep(Duration::from_secs(2));
    agent.rss_kib()
}

fn print(
    options: &Options,
    ours: &Bench,
    reference: &Bench,
    first: &[Duration],
    idle: u64,
    used: u64,
) -> Result<()> {
    let size = std::fs::metadata(slash32()?).context("size of the binary")?.len();
    println!(
        "### CNI, {} attachments in {} rounds, start of the plugin included\n",
        options.attachments, options.rounds
    );
    println!("| | ADD p50 | ADD p99 | DEL p50 | DEL p99 |");
    println!("|---|---|---|---|---|");
    for (name, bench) in [("slash32", ours), ("ptp + host-local", reference)] {
        let (adds, deletes) = (&bench.adds, &bench.deletes);
        println!("| {name} | {} | {} | {} | {} |", p50(adds), p99(adds), p50(deletes), p99(deletes));
    }
    let ratio = |ours: &[Vec<Duration>], theirs: &[Vec<Duration>], part| {
        format!(
            "{:.2}",
            quantile(&all(ours), part).as_secs_f64() / quantile(&all(theirs), part).as_secs_f64()
        )
    };
    println!(
        "| ratio | {} | {} | {} | {} |\n",
        ratio(&ours.adds, &reference.adds, 50),
        ratio(&ours.adds, &reference.adds, 99),
        ratio(&ours.deletes, &reference.deletes, 50),
        ratio(&ours.deletes, &reference.deletes, 99)
    );
    println!("In brackets: the medians of the rounds, lowest to highest.\n");
    println!("| | |");
    println!("|---|---|");
    let mut first = first.to_vec();
    first.sort();
    println!(
        "| start of the plugin to first ping answered on the other host, p50 / p99 of {} | {} / {} |",
        first.len(),
        milliseconds(quantile(&first, 50)),
        milliseconds(quantile(&first, 99))
    );
    println!("| agent's resident memory, idle with two BGP sessions | {:.1} MiB |", idle as f64 / 1024.0);
    println!("| the same {} attachments later | {:.1} MiB |", options.attachments, used as f64 / 1024.0);
    println!("| size of the binary | {:.1} MiB |", size as f64 / 1_048_576.0);
    Ok(())
}

fn p50(rounds: &[Vec<Duration>]) -> String {
    let mut medians: Vec<Duration> = rounds.iter().map(|round| quantile(&sorted(round), 50)).collect();
    medians.sort();
    let lowest = milliseconds(medians[0]);
    let highest = milliseconds(medians[medians.len() - 1]);
    format!("{} ({} – {})", milliseconds(quantile(&all(rounds), 50)), lowest, highest)
}

fn p99(rounds: &[Vec<Duration>]) -> String {
    milliseconds(quantile(&all(rounds), 99))
}

fn all(rounds: &[Vec<Duration>]) -> Vec<Duration> {
    sorted(&rounds.concat())
}

fn sorted(times: &[Duration]) -> Vec<Duration> {
    let mut times = times.to_vec();
    times.sort();
    times
}

/// The value that `part` percent of a sorted list do not exceed.
fn quantile(sorted: &[Duration], part: usize) -> Duration {
    let rank = (sorted.len() * part).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

fn milliseconds(span: Duration) -> String {
    format!("{:.2} ms", span.as_secs_f64() * 1000.0)
}
