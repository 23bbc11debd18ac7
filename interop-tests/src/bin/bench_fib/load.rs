//! Routes from a neighbour by BGP into the kernel: the time from the first UPDATE to the last route.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use interop_tests::Lab;
use slash32::{model::Family, netlink::ns::Netns};

use super::{
    feed::{self, Feeder},
    router::{Configs, FamilyName, Kind},
    stats::{show, spread},
    watch::Watch,
};

/// The feeder's address and the router's.
fn ends(family: Family) -> [IpAddr; 2] {
    match family {
        Family::Ipv4 => ["192.0.2.0", "192.0.2.1"],
        Family::Ipv6 => ["2001:db8::1", "2001:db8::2"],
    }
    .map(|text| text.parse().expect("a literal address"))
}

const ROUTER_ID: &str = "192.0.2.1";
const FEEDER_ASN: u32 = 64_600;

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Routes.
    #[arg(long, default_value_t = 100_000)]
    routes: u32,
    /// Runs of each router, interleaved.
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// Routers to compare, in order; ratios are to the fastest of the others.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "slash32,bird2,bird3,frr")]
    routers: Vec<Kind>,
    /// The family of the routes, and of the session.
    #[arg(long, value_enum, default_value = "ipv4")]
    family: FamilyName,
}

/// One run of one router.
struct Sample {
    wall: Duration,
    cpu: Duration,
    grown_kib: u64,
    peak_kib: u64,
}

pub(super) fn run(options: &Options) -> Result<()> {
    let mut kinds = options.routers.clone();
    kinds.retain(|kind| kind.missing().inspect(|why| eprintln!("{why}")).is_none());
    let mut samples: Vec<(String, Vec<Sample>)> = kinds.iter().map(|_| Default::default()).collect();
    for run in 0..options.runs {
        for (kind, (version, list)) in kinds.iter().zip(&mut samples) {
            let sample = measure(*kind, options.family.family(), options.routes, version)
                .with_context(|| format!("{kind:?}, run {run}"))?;
            eprintln!("{version}: {:.2} s", sample.wall.as_secs_f64());
            list.push(sample);
        }
    }
    let wall = |list: &[Sample]| spread(list.iter().map(|s| s.wall.as_secs_f64()))[1];
    let others = kinds.iter().zip(&samples).filter(|(kind, _)| **kind != Kind::Slash32);
    let fastest = others.map(|(_, (_, list))| wall(list)).fold(f64::INFINITY, f64::min);
    let bits = options.family.family().bits();
    println!("### {} /{bits} routes by BGP into the kernel, {} runs\n", options.routes, options.runs);
    println!(
        "| router | first UPDATE to last route, s | ratio to the fastest other | routes/s | CPU, s | RSS a route, bytes | peak MiB |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (version, list) in &samples {
        println!(
            "| {version} | {} | {:.2} | {:.0} k | {:.2} | {:.0} | {:.0} |",
            show(list.iter().map(|s| s.wall.as_secs_f64())),
            wall(list) / fastest,
            f64::from(options.routes) / wall(list) / 1000.0,
            spread(list.iter().map(|s| s.cpu.as_secs_f64()))[1],
            spread(list.iter().map(|s| s.grown_kib as f64 * 1024.0 / f64::from(options.routes)))[1],
            spread(list.iter().map(|s| s.peak_kib as f64 / 1024.0))[1],
        );
    }
    println!();
    Ok(())
}

fn measure(kind: Kind, family: Family, routes: u32, version: &mut String) -> Result<Sample> {
    let [feeder_address, router_address] = ends(family);
    let link = if family == Family::Ipv4 { 31 } else { 64 };
    let lab = Lab::new("bench-fib")?;
    let (feeder, machine) = (lab.machine("feeder")?, lab.machine("router")?);
    lab.link(
        feeder.port("eth0").address(&format!("{feeder_address}/{link}")),
        machine.port("eth0").address(&format!("{router_address}/{link}")),
    )?;
    let running = kind.start(&machine, &configs(family))?;
    *version = running.version()?;
    let pid = |machine: &interop_tests::Machine| machine.host_pid().cast_unsigned();
    let session =
        Feeder::connect(&Netns::of_process(pid(&feeder))?, feeder_address, router_address, FEEDER_ASN)?;
    let updates = feed::updates(routes, FEEDER_ASN, feeder_address);
    let mut watch = Watch::open(&Netns::of_process(pid(&machine))?, family, Duration::from_secs(120))?;
    std::thread::sleep(Duration::from_millis(500));
    let idle_kib = running.memory_kib("VmRSS")?;
    let cpu = running.cpu()?;
    let start = Instant::now();
    let end = std::thread::scope(|scope| {
        let sender = scope.spawn(|| session.send(&updates));
        let end = watch.present(routes);
        sender.join().ok().context("the feeder panicked")??;
        end
    })?;
    let wall = end - start;
    let cpu = running.cpu()?.saturating_sub(cpu);
    std::thread::sleep(Duration::from_secs(1));
    let grown_kib = running.memory_kib("VmRSS")?.saturating_sub(idle_kib);
    Ok(Sample { wall, cpu, grown_kib, peak_kib: running.memory_kib("VmHWM")? })
}

fn configs(family: Family) -> Configs {
    let [feeder, router] = ends(family);
    let activate = if family == Family::Ipv4 {
        String::new()
    } else {
        format!(" address-family ipv6 unicast\n  neighbor {feeder} activate\n exit-address-family\n")
    };
    Configs {
        slash32: format!(
            "[agent]\nlog = 'warn'\n[bgp]\nasn = 65000\nrouter_id = '{ROUTER_ID}'\n[policy]\nenabled = false\n\
             [[bgp.peer]]\naddress = '{feeder}'\nasn = {FEEDER_ASN}\npassive = true\nfamilies = ['{family}']\n"
        ),
        bird: format!(
            "log stderr all;\nrouter id {ROUTER_ID};\nprotocol device {{}}\n\
             protocol kernel {{ {family} {{ import none; export where source = RTS_BGP; }}; merge paths on; }}\n\
             protocol bgp feeder {{ local {router} as 65000; neighbor {feeder} as {FEEDER_ASN}; passive; hold time 0;\n\
             {family} {{ import all; export none; }}; }}\n"
        ),
        frr: format!(
            "router bgp 65000\n bgp router-id {ROUTER_ID}\n no bgp ebgp-requires-policy\n timers bgp 0 0\n \
             neighbor {feeder} remote-as {FEEDER_ASN}\n neighbor {feeder} passive\n{activate}"
        ),
    }
}
