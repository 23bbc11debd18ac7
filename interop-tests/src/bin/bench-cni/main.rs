//! `make bench-cni`: what it costs to attach and detach containers, and what their packets cost, beside the reference
//! plugins, the kernel's own limit and the hosts' own path, all in the same run. Prints one Markdown table.

mod alone;
mod attach;
mod figures;
mod paths;

use anyhow::Result;
use clap::Parser;
use interop_tests::{Lab, Network, Rack, Switch, slash32};

use alone::Alone;
use attach::Bench;
use figures::{Row, milliseconds};

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
    /// Endpoints on the host for the last comparison of ADD.
    #[arg(long, default_value_t = 2000)]
    crowd: usize,
    /// Seconds of each measurement of throughput; 0 leaves the paths out.
    #[arg(long, default_value_t = 2)]
    seconds: u32,
}

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
    let mut rows = Vec::new();
    let idle = attach::settled_rss(host1)?;

    let network = Network::slash32()?.label("role", "bench");
    // On a machine of its own: no agent listens to its links, and none of its links are the agent's.
    let other = lab.machine("reference")?;
    other.own("/var/lib/cni")?;
    let mut ours = Bench::new(host1.machine(), &network)?;
    let alone = Alone::start(&lab)?;
    let mut by_itself = Bench::new(alone.machine(), &network)?;
    let mut reference = Bench::new(&other, &Network::parse(attach::REFERENCE)?)?;
    let each = options.attachments.div_ceil(options.rounds);
    for round in 0..options.rounds {
        eprintln!("round {} of {}: {each} attachments, one after another", round + 1, options.rounds);
        attach::alternate(&mut ours, &mut reference, each)?;
    }
    eprintln!("the kernel's own limit");
    let floor = attach::floor(&lab.machine("floor")?, options.attachments)?;
    rows.extend(attach::one_by_one(&ours, &reference, &floor));
    for round in 0..options.rounds {
        eprintln!("round {} of {}: {each} attachments, 8 at once", round + 1, options.rounds);
        attach::at_once(&mut [&mut by_itself, &mut ours, &mut reference], each, 8)?;
    }
    rows.push(attach::rates("", &by_itself, &reference, "≥ 4"));
    rows.push(attach::rates(
        " with the switch and another host on the same processors",
        &ours,
        &reference,
        "",
    ));
    eprintln!("{} attachments until the first answer", options.pings);
    rows.push(attach::first_answers(host1, host2, options.pings)?);
    let used = attach::settled_rss(host1)?;
    eprintln!("{} endpoints on the host", options.crowd);
    rows.push(attach::crowd(&mut by_itself, "", options.crowd, each)?);
    let ipv4 = Network::parse(attach::IPV4_ONLY)?.label("role", "bench");
    let mut ipv4 = Bench::new(alone.machine(), &ipv4)?;
    rows.push(attach::crowd(&mut ipv4, ", IPv4 only,", options.crowd, each)?);
    rows.push(attach::crowded_floor(&lab.machine("crowded-floor")?, options.crowd, each)?);
    if options.seconds > 0 {
        rows.extend(paths::measure(&lab, &rack, &options)?);
    }
    let size = std::fs::metadata(slash32()?)?.len();
    let mib = |bytes: f64| format!("{:.1} MiB", bytes / 1_048_576.0);
    rows.push(Row::plain("agent's resident memory, idle with two BGP sessions", mib(idle as f64 * 1024.0)));
    rows.push(Row::plain(
        &format!("the same after {} attachments", options.attachments * 2 + options.pings),
        mib(used as f64 * 1024.0),
    ));
    rows.push(Row::plain("size of the binary", mib(size as f64)));

    println!(
        "### CNI: {} attachments in {} rounds, start of the plugin included\n",
        options.attachments, options.rounds
    );
    figures::print(&rows);
    println!("\nIn brackets: the medians of the rounds, lowest to highest. An empty process alone: {}.", {
        milliseconds(figures::quantile(&floor.spawn, 50))
    });
    Ok(())
}
