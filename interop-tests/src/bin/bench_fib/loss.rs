//! Packets lost between containers of two hosts while something happens: counts, no times.

use std::time::Duration;

use anyhow::{Context, Result};
use interop_tests::{
    Container, Lab, Probe, ProbeReport, SwitchRestart, TwinRack, TwinRunning, labelled, reach,
};

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Pairs of containers, each with a probe in each family.
    #[arg(long, default_value_t = 2)]
    pairs: usize,
    /// Packets a second of each probe.
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// Runs of each.
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// Only these.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Event>,
    /// Tells on the standard error stream when each lost packet was sent (UTC), to put beside `ip -ts monitor`.
    #[arg(long)]
    when: bool,
    /// What the switches (BIRD) do about graceful restart.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "on,helper")]
    switch_gr: Vec<SwitchGr>,
}

/// Graceful restart of the switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum SwitchGr {
    /// `graceful restart on`: End-of-RIB is promised.
    On,
    /// BIRD's default: it only helps.
    Helper,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Event {
    Nothing,
    Kill,
    Restart,
    Upgrade,
    Reload,
    SwitchSilent,
    SwitchOff,
}

const EVENTS: [(Event, &str); 7] = [
    (Event::Nothing, "nothing, for comparison"),
    (Event::Kill, "agent: kill -9, start 1 s later"),
    (Event::Restart, "agent: planned restart"),
    (Event::Upgrade, "agent: binary replaced, restart"),
    (Event::Reload, "configuration reload (a neighbour and import rules more)"),
    (Event::SwitchSilent, "one of two switches stops forwarding, links stay up (BFD 100 ms x 3)"),
    (Event::SwitchOff, "one of two switches off, links down"),
];

pub(super) fn run(options: &Options) -> Result<()> {
    options.switch_gr.iter().try_for_each(|gr| measure(options, *gr))
}

fn measure(options: &Options, gr: SwitchGr) -> Result<()> {
    let (restart, title) = match gr {
        SwitchGr::On => (SwitchRestart::On, "switches with `graceful restart on`"),
        SwitchGr::Helper => (SwitchRestart::Helper, "switches with BIRD's default, which only helps"),
    };
    let lab = Lab::new("bench-loss")?;
    let rack = TwinRack::with(&lab, restart)?;
    let mut running = rack.start()?;
    let mut pairs = Vec::new();
    for n in 0..options.pairs {
        let web = rack.hosts[0].container(&format!("web{n}"), &labelled("role", "web")?)?;
        let db = rack.hosts[1].container(&format!("db{n}"), &labelled("role", "db")?)?;
        reach(&web, &db)?;
        let echo = db.echo()?;
        pairs.push((web, db, echo));
    }
    println!(
        "### Packets lost between two containers of two hosts, {} probes of {} packets/s each way, {} runs, {title}\n",
        2 * options.pairs,
        options.rate,
        options.runs
    );
    println!("| what happens | sent | lost in all | lost by the worst probe | longest gap, ms |");
    println!("|---|---|---|---|---|");
    let wanted = |event: &Event| options.only.is_empty() || options.only.contains(event);
    for (event, name) in EVENTS.into_iter().filter(|(event, _)| wanted(event)) {
        let mut reports = Vec::new();
        for run in 0..options.runs {
            for (web, db, _) in &pairs {
                rack.wait_both_ways(1, db)?;
                rack.wait_both_ways(2, web)?;
            }
            let probes = probes(&pairs, options.rate)?;
            std::thread::sleep(Duration::from_millis(500));
            let happened = happen(event, &rack, &mut running, run).with_context(|| format!("{event:?}"));
            let list: Result<Vec<ProbeReport>> = probes.into_iter().map(Probe::stop).collect();
            happened?;
            let list = list?;
            if options.when {
                for report in &list {
                    tell(event, report);
                }
            }
            reports.extend(list);
            recover(event, &rack, &running)?;
        }
        let worst = reports.iter().map(ProbeReport::lost).max().unwrap_or(0);
        let gap = reports.iter().map(|r| r.longest_gap_ms).fold(0.0, f64::max);
        println!(
            "| {name} | {} | {} | {worst} | {gap:.0} |",
            reports.iter().map(|r| r.sent).sum::<u64>(),
            reports.iter().map(ProbeReport::lost).sum::<u64>(),
        );
    }
    println!();
    Ok(())
}

/// The times of lost packets.
fn tell(event: Event, report: &ProbeReport) {
    for after in &report.lost_at_ms {
        let day = (report.started + after / 1000.0) % 86_400.0;
        let (hour, minute) = (day / 3600.0, day % 3600.0 / 60.0);
        eprintln!("{event:?}: lost one of {:02.0}:{:02.0}:{:09.6}", hour.floor(), minute.floor(), day % 60.0);
    }
}

fn probes<T>(pairs: &[(Container, Container, T)], rate: u32) -> Result<Vec<Probe>> {
    let mut probes = Vec::new();
    for (web, db, _) in pairs {
        probes.push(web.probe(&db.ipv4()?, rate)?);
        probes.push(web.probe(&db.ipv6()?, rate)?);
    }
    Ok(probes)
}

/// Until the traffic has met everything that follows from it.
fn happen(event: Event, rack: &TwinRack, running: &mut TwinRunning, run: u32) -> Result<()> {
    // Not always the same switch: which one a flow takes is a matter of its hash.
    let switch = run as usize % 2;
    let agent = &mut running.agents[0];
    match event {
        Event::Nothing => {}
        Event::Kill => {
            agent.kill()?;
            std::thread::sleep(Duration::from_secs(1));
            agent.start_again()?;
        }
        Event::Restart | Event::Upgrade => {
            if matches!(event, Event::Upgrade) {
                agent.replace_binary()?;
            }
            agent.stop()?;
            agent.start_again()?;
        }
        Event::Reload => {
            let more = "[[bgp.peer]]\naddress = '203.0.113.1'\nasn = 64999\npassive = true\nimport = [ { action = 'accept' } ]\n";
            let config = TwinRack::agent_config(1)?;
            let (with, without) = (format!("{config}{more}"), config);
            agent.reconfigure(&with)?;
            std::thread::sleep(Duration::from_millis(500));
            agent.reconfigure(&without)?;
        }
        Event::SwitchSilent => {
            let machine = &rack.switches[switch];
            for family in ["ipv4.ip_forward", "ipv6.conf.all.forwarding"] {
                machine.sysctl(&format!("net.{family}"), "0")?;
            }
            running.switches[switch].processes().last().context("a process")?.pause()?;
        }
        Event::SwitchOff => {
            for port in ["port1", "port2"] {
                rack.switches[switch].link_down(port)?;
            }
        }
    }
    if matches!(event, Event::Kill | Event::Restart | Event::Upgrade) {
        running.agents[0].wait_established(4)?;
    }
    std::thread::sleep(Duration::from_secs(2));
    Ok(())
}

/// Everything as it was.
fn recover(event: Event, rack: &TwinRack, running: &TwinRunning) -> Result<()> {
    match event {
        Event::SwitchSilent => {
            for (machine, router) in rack.switches.iter().zip(&running.switches) {
                for family in ["ipv4.ip_forward", "ipv6.conf.all.forwarding"] {
                    machine.sysctl(&format!("net.{family}"), "1")?;
                }
                router.processes().last().context("a process")?.resume()?;
            }
        }
        Event::SwitchOff => {
            for (s, machine) in rack.switches.iter().enumerate() {
                for host in 1..=2 {
                    machine.link_up(&format!("port{host}"))?;
                    // With the link the kernel drops its IPv6 addresses.
                    machine
                        .run(&format!("ip -6 address replace 2001:db8:{s}:{host}::1/64 dev port{host}"))?;
                }
            }
        }
        _ => {}
    }
    for agent in &running.agents {
        agent.wait_established(4)?;
    }
    Ok(())
}
