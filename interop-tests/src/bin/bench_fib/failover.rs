//! A host behind two switches; one dies. How long until no route of the host uses it, from the event and from its
//! detection.

use std::{
    fmt::Write,
    sync::mpsc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use interop_tests::{Lab, Router};
use slash32::{
    model::Family,
    netlink::{
        self, Socket, link,
        ns::Netns,
        sockopt,
        watch::{KernelEvent, Topic},
    },
};

use super::{
    feed,
    router::{Configs, FamilyName, Kind},
    stats::{milliseconds, spread, tenths},
    watch::Watch,
};

/// The ends of switch `n`'s link: the switch's and the host's.
fn ends(family: Family, n: usize) -> [String; 2] {
    match family {
        Family::Ipv4 => [format!("192.0.2.{}", 2 * n), format!("192.0.2.{}", 2 * n + 1)],
        Family::Ipv6 => [format!("2001:db8:{n}::1"), format!("2001:db8:{n}::2")],
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Routes that both switches announce: a small and a large number, of which the ratio is printed.
    #[arg(long, value_delimiter = ',', default_value = "1000,100000")]
    routes: Vec<u32>,
    /// Runs of each.
    #[arg(long, default_value_t = 5)]
    runs: u32,
    /// How it dies.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "bfd,link")]
    death: Vec<Death>,
    /// Routers to compare.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "slash32,bird2")]
    routers: Vec<Kind>,
    /// The family of the routes, and of the sessions.
    #[arg(long, value_enum, default_value = "ipv4")]
    family: FamilyName,
}

/// How the switch dies.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Death {
    /// Its control plane freezes: BFD, 100 ms x 3, finds out.
    Bfd,
    /// It is dead, and so are its links.
    Link,
}

struct Sample {
    from_event: Duration,
    from_detection: Option<Duration>,
}

pub(super) fn run(options: &Options) -> Result<()> {
    // Whoever looks must not wait for a processor behind those it looks at; what it starts has an ordinary priority.
    if let Err(error) = sockopt::set_thread_realtime(1) {
        eprintln!("no real-time priority ({error}): times include what this program waits for a processor");
    }
    println!(
        "### Two switches, ECMP, one dies: ms until no route uses it, {:?}, {} runs\n",
        options.family, options.runs
    );
    println!(
        "| router | how | routes | from the event | from the detection | ratio to {} routes |",
        options.routes[0]
    );
    println!("|---|---|---|---|---|---|");
    for death in options.death.iter().copied() {
        for kind in &options.routers {
            let mut first = None;
            for routes in &options.routes {
                let mut samples = Vec::new();
                for run in 0..options.runs {
                    let sample = measure(*kind, death, options.family.family(), *routes);
                    samples.push(
                        sample.with_context(|| format!("{kind:?}, {death:?}, {routes} routes, run {run}"))?,
                    );
                }
                let total = |s: &Sample| milliseconds(s.from_event);
                let middle = spread(samples.iter().map(total))[1];
                let reaction: Vec<f64> =
                    samples.iter().filter_map(|s| s.from_detection).map(milliseconds).collect();
                let reaction = if reaction.is_empty() { "-".to_owned() } else { tenths(reaction) };
                let ratio = middle / *first.get_or_insert(middle);
                println!(
                    "| {kind:?} | {} | {routes} | {} | {reaction} | {ratio:.2} |",
                    match death {
                        Death::Bfd => "BFD 100 ms x 3",
                        Death::Link => "link down",
                    },
                    tenths(samples.iter().map(total)),
                );
            }
        }
    }
    println!();
    Ok(())
}

fn measure(kind: Kind, death: Death, family: Family, routes: u32) -> Result<Sample> {
    let link = if family == Family::Ipv4 { 31 } else { 64 };
    let lab = Lab::new("bench-failover")?;
    let host = lab.machine("host")?;
    let mut switches = Vec::new();
    for n in 0..2 {
        let switch = lab.machine(&format!("switch{n}"))?;
        let [theirs, ours] = ends(family, n);
        lab.link(
            switch.port("eth0").address(&format!("{theirs}/{link}")),
            host.port(&format!("eth{n}")).address(&format!("{ours}/{link}")),
        )?;
        switches.push(Router::bird(&switch, &switch_config(family, n, routes)?)?);
    }
    let running = kind.start(&host, &configs(family)?)?;
    let mut watch =
        Watch::open(&Netns::of_process(host.host_pid().cast_unsigned())?, family, Duration::from_secs(60))?;
    let device: u32 = host.read("/sys/class/net/eth0/ifindex")?.trim().parse()?;
    watch.present(routes)?;
    // Both paths, BFD up, and quiet.
    let start = Instant::now();
    while watch.count(|route| route.hops.len() == 2)? < routes {
        ensure!(start.elapsed() < Duration::from_secs(60), "no ECMP");
        std::thread::sleep(Duration::from_millis(100));
    }
    for switch in &switches {
        while !switch.machine().run("birdc show bfd sessions")?.contains(" Up ") {
            ensure!(start.elapsed() < Duration::from_secs(60), "no BFD");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    std::thread::sleep(Duration::from_millis(1500));
    let notice = match death {
        Death::Bfd => None,
        Death::Link => Some(Notice::of(&Netns::of_process(host.host_pid().cast_unsigned())?, device)?),
    };
    let logged = running.log().len();
    if matches!(death, Death::Link) {
        // A dead switch takes no notice of its links, which here would keep our processors busy.
        switches[0].processes().last().context("a process")?.pause()?;
    }
    let (event, wall) = (Instant::now(), SystemTime::now());
    match death {
        Death::Bfd => switches[0].processes().last().context("a process")?.pause()?,
        // Not by a program, whose start takes longer than all that follows.
        Death::Link => {
            Netns::of_process(switches[0].machine().host_pid().cast_unsigned())?.run(|| {
                let mut socket = Socket::route()?;
                let index = link::by_name(&mut socket, "eth0")?.index;
                link::set_down(&mut socket, index)
            })??;
        }
    }
    let end = watch.left(routes, device)?;
    std::thread::sleep(Duration::from_millis(300));
    let log = running.log();
    let detected = match death {
        Death::Bfd => Some(detection(&log[logged..], &ends(family, 0)[0], wall)?),
        Death::Link => notice.and_then(Notice::at).map(|at| at - event),
    };
    let from_event = end - event;
    Ok(Sample { from_event, from_detection: detected.map(|d| from_event.saturating_sub(d)) })
}

/// When the kernel of the host tells that a link's carrier is lost.
struct Notice(mpsc::Receiver<Instant>);

impl Notice {
    fn of(ns: &Netns, device: u32) -> Result<Self> {
        let (sender, at) = mpsc::channel();
        let lost = move |event: KernelEvent| match event {
            KernelEvent::Link(link) if link.index == device && !link.is_running() => {
                // Once is enough: the receiver may be gone.
                let _ = sender.send(Instant::now());
                false
            }
            _ => true,
        };
        ns.run(|| netlink::watch::spawn("notice", &[Topic::Links], &[], lost))??;
        Ok(Self(at))
    }

    fn at(self) -> Option<Instant> {
        self.0.recv_timeout(Duration::from_secs(5)).ok()
    }
}

/// How long after the event the router's log says that BFD went down.
fn detection(log: &str, dead: &str, event: SystemTime) -> Result<Duration> {
    let line = log
        .lines()
        .find(|line| {
            (line.contains("session down") && line.contains(dead))
                || (line.contains("bfd") && line.contains("to Down"))
        })
        .with_context(|| format!("no detection in the log:\n{log}"))?;
    // The time of day, with a fraction: both log UTC.
    let clock = line
        .split(|c: char| !(c.is_ascii_digit() || c == ':' || c == '.'))
        .find(|word| word.matches(':').count() == 2)
        .with_context(|| format!("no time in {line}"))?;
    let mut seconds = 0.0;
    for part in clock.split(':') {
        seconds = seconds * 60.0 + part.parse::<f64>()?;
    }
    let day = event.duration_since(UNIX_EPOCH)?.as_secs_f64() % 86_400.0;
    Ok(Duration::from_secs_f64((seconds - day).rem_euclid(86_400.0)))
}

fn switch_config(family: Family, n: usize, routes: u32) -> Result<String> {
    let [ours, host] = ends(family, n);
    let mut config = format!(
        "log stderr all;\nrouter id 192.0.2.{};\nprotocol device {{}}\n\
         protocol bfd {{ interface \"*\" {{ interval 100 ms; multiplier 3; }}; }}\n\
         protocol bgp host {{ local {ours} as 65000; neighbor {host} as 65001; bfd on;\n\
         {family} {{ import none; export all; next hop self; }}; }}\nprotocol static {{ {family};\n",
        2 * n
    );
    for number in 0..routes {
        writeln!(config, "route {}/{} blackhole;", feed::address(family, number), family.bits())?;
    }
    config.push_str("}\n");
    Ok(config)
}

fn configs(family: Family) -> Result<Configs> {
    let mut slash32 = format!(
        "[agent]\nlog = 'info'\n[bgp]\nasn = 65001\nrouter_id = '192.0.2.1'\n[policy]\nenabled = false\n[bgp.group.switch]\nasn = 65000\n\
         families = ['{family}']\nbfd = {{ interval_ms = 100, multiplier = 3 }}\n",
    );
    let mut bird = format!(
        "log stderr all;\ntimeformat log iso long us;\nrouter id 192.0.2.1;\nprotocol device {{}}\n\
         protocol kernel {{ {family} {{ import none; export where source = RTS_BGP; }}; merge paths on; }}\n\
         protocol bfd {{ debug {{ events, states }}; interface \"*\" {{ interval 100 ms; multiplier 3; }}; }}\n",
    );
    for n in 0..2 {
        let [theirs, ours] = ends(family, n);
        writeln!(slash32, "[[bgp.peer]]\naddress = '{theirs}'\ngroup = 'switch'")?;
        writeln!(
            bird,
            "protocol bgp switch{n} {{ local {ours} as 65001; neighbor {theirs} as 65000; bfd on;\n\
             {family} {{ import all; export none; }}; }}"
        )?;
    }
    Ok(Configs { slash32, bird, frr: String::new() })
}
