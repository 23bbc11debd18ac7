//! How fast routers take and pass on routes, side by side in the same run. `make bench-bgp` runs it all.
//!
//! - `reflect`: feeders send `--routes` /32s each through a route reflector to a monitor. Printed: the time from the feeders'
//!   first octet to the monitor's last route, the router's CPU time and its peak memory.
//! - `churn`: a tenth of the routes is withdrawn and announced again every second, with BFD at 50 ms x 3 and every processor
//!   busy with something else. Printed: whether sessions ended, how often BFD failed, whether the monitor is right in the end.
//! - `peers`: `--feeders` passive neighbours are dialed at once. Printed: the time until all are established, and memory.
//!
//! Medians and spread over `--runs`, and ratios to the first router named. All in a network namespace of its own.

mod churn;
mod many;
mod peer;
mod reflect;
mod router;
mod table;

use std::{fmt::Write, os::unix::process::CommandExt, process::Command, time::Duration};

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};

/// Where the router listens, in the benchmark's own namespace.
const ROUTER: &str = "10.99.0.1";
const ASN: u32 = 65000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    Reflect,
    Churn,
    Peers,
}

#[derive(Clone, Debug, Parser)]
struct Options {
    /// What to measure.
    #[arg(long, value_enum, default_value = "reflect")]
    mode: Mode,
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
    /// Seconds of churn.
    #[arg(long, default_value_t = 30)]
    seconds: u32,
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
    match options.mode {
        Mode::Reflect => reflect::run(&options),
        Mode::Churn => churn::run(&options),
        Mode::Peers => many::run(&options),
    }
}

/// Puts the router's address and those of all peers on the loopback device.
fn addresses(options: &Options) -> anyhow::Result<()> {
    let mut batch = format!("addr add {ROUTER}/32 dev lo\n");
    for peer in 0..=options.feeders {
        writeln!(batch, "addr add {}/32 dev lo", peer::address(peer))?;
    }
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), batch)?;
    run_command("ip", &["-batch", file.path().to_str().context("a path of characters")?])
}

fn run_command(program: &str, args: &[&str]) -> anyhow::Result<()> {
    let status =
        Command::new(program).args(args).status().with_context(|| format!("cannot run {program}"))?;
    if !status.success() {
        bail!("{program} {} failed", args.join(" "));
    }
    Ok(())
}
