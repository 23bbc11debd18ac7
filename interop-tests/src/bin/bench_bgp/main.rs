//! How fast routers take and pass on routes, side by side in the same run.
//!
//! Feeders send `--routes` /32s each through a route reflector to a monitor, all in one network namespace over
//! addresses of the loopback device. Printed: the time from the feeders' first byte to the monitor's last route, the
//! router's CPU time and its peak memory; medians and spread over `--runs`, and ratios to the first router named.
//!
//! `cargo run --release -p interop-tests --bin bench_bgp -- --routers bird,slash32 --feeders 4 --routes 100000`

mod peer;
mod router;
mod table;

use std::{
    os::unix::process::CommandExt,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Parser;

/// Where the router listens, in the benchmark's own namespace.
const ROUTER: &str = "10.99.0.1";
const PORT: u16 = 1790;
const ASN: u32 = 65000;

#[derive(Clone, Debug, Parser)]
struct Options {
    /// Routers to compare, in order; ratios are to the first.
    #[arg(long, value_delimiter = ',', default_value = "bird,slash32")]
    routers: Vec<String>,
    /// Peers that send.
    #[arg(long, default_value_t = 4)]
    feeders: u32,
    /// Routes that each of them sends.
    #[arg(long, default_value_t = 100_000)]
    routes: u32,
    /// Different sets of path attributes in each feeder's routes.
    #[arg(long, default_value_t = 1)]
    attribute_sets: u32,
    /// Runs of each router, interleaved.
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// The slash32 binary.
    #[arg(long, default_value = "target/release/slash32")]
    slash32: std::path::PathBuf,
    /// Already inside the namespace.
    #[arg(long, hide = true)]
    inside: bool,
}

/// One run of one router.
#[derive(Clone, Copy, Debug)]
struct Sample {
    wall: Duration,
    cpu: Duration,
    peak_kib: u64,
    idle_kib: u64,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if !options.inside {
        // A namespace of our own, which ends with us.
        let error = Command::new("unshare")
            .args(["--net", "--"])
            .arg(std::env::current_exe()?)
            .args(std::env::args().skip(1))
            .arg("--inside")
            .exec();
        bail!("cannot run unshare: {error}");
    }
    run_command("ip", &["link", "set", "lo", "up"])?;
    run_command("ip", &["addr", "add", &format!("{ROUTER}/32"), "dev", "lo"])?;
    for peer in 0..=options.feeders {
        run_command("ip", &["addr", "add", &format!("{}/32", peer::address(peer)), "dev", "lo"])?;
    }
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); options.routers.len()];
    let mut versions = vec![String::new(); options.routers.len()];
    for run in 0..options.runs {
        for (i, name) in options.routers.iter().enumerate() {
            let sample =
                measure(&options, name, &mut versions[i]).with_context(|| format!("{name}, run {run}"))?;
            eprintln!(
                "{name} run {}: {:.2} s, CPU {:.2} s, {} MiB",
                run + 1,
                sample.wall.as_secs_f64(),
                sample.cpu.as_secs_f64(),
                sample.peak_kib / 1024
            );
            samples[i].push(sample);
        }
    }
    let copies = u64::from(options.feeders) * u64::from(options.routes);
    println!(
        "{} feeders x {} routes ({} attribute sets each) to one monitor, {} runs\n",
        options.feeders, options.routes, options.attribute_sets, options.runs
    );
    print!("{}", table::render(&versions, &samples, copies));
    Ok(())
}

fn measure(options: &Options, name: &str, version: &mut String) -> anyhow::Result<Sample> {
    let router = router::Router::start(name, options)?;
    version.clone_from(&router.version);
    let monitor = peer::Peer::connect(0).context("the monitor")?;
    let mut feeders = Vec::new();
    for feeder in 1..=options.feeders {
        let peer = peer::Peer::connect(feeder).with_context(|| format!("feeder {feeder}"))?;
        feeders.push((peer, peer::updates(feeder, options.routes, options.attribute_sets)));
    }
    std::thread::sleep(Duration::from_millis(500));
    let idle_kib = router.memory_kib("VmRSS")?;
    let cpu_before = router.cpu()?;
    let start = Instant::now();
    let total = u64::from(options.feeders) * u64::from(options.routes);
    let finished = std::thread::scope(|scope| -> anyhow::Result<Instant> {
        for (peer, updates) in &feeders {
            scope.spawn(move || peer.send(updates));
        }
        monitor.count_until(total, Duration::from_secs(300))
    })?;
    let sample = Sample {
        wall: finished - start,
        cpu: router.cpu()?.saturating_sub(cpu_before),
        peak_kib: router.memory_kib("VmHWM")?,
        idle_kib,
    };
    Ok(sample)
}

fn run_command(program: &str, args: &[&str]) -> anyhow::Result<()> {
    let status =
        Command::new(program).args(args).status().with_context(|| format!("cannot run {program}"))?;
    if !status.success() {
        bail!("{program} {} failed", args.join(" "));
    }
    Ok(())
}
