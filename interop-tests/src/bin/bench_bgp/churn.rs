//! Routes that come and go while every processor is busy, with BFD watching.

use std::{
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use slash32::bgp::bfd::{
    SessionConfig, SessionEvent,
    driver::{BfdHandle, DriverConfig, SessionKey, SessionParams, Shutdown},
};

use crate::{
    Options, peer,
    router::{Router, Setup},
    run_command,
};

/// The feeder's number.
const FEEDER: u32 = 1;
/// Steps a second.
const STEPS: u32 = 10;

/// What was seen in one run.
struct Seen {
    sessions_lost: u32,
    flaps: u64,
    late: Duration,
    cpu: Duration,
    wrong: usize,
}

pub(super) fn run(options: &Options) -> anyhow::Result<()> {
    println!(
        "### {} routes, 10% withdrawn and announced again every second for {} s, BFD 50 ms x 3, every processor busy\n",
        options.routes, options.seconds
    );
    println!(
        "| router | run | sessions lost | BFD failures | routes wrong in the end | right after s | CPU s |"
    );
    println!("|---|---|---|---|---|---|---|");
    for run in 1..=options.runs {
        for name in &options.routers {
            let mut version = String::new();
            let seen = measure(options, name, &mut version).with_context(|| name.clone())?;
            println!(
                "| {version} | {run} | {} | {} | {} | {:.1} | {:.2} |",
                seen.sessions_lost,
                seen.flaps,
                seen.wrong,
                seen.late.as_secs_f64(),
                seen.cpu.as_secs_f64()
            );
        }
    }
    println!();
    Ok(())
}

/// A network namespace for the router, with a link to ours.
struct Link(Child);

impl Link {
    fn new() -> anyhow::Result<Self> {
        let link = Self(Command::new("unshare").args(["--net", "--", "sleep", "3600"]).spawn()?);
        let pid = link.0.id().to_string();
        let own = std::fs::read_link("/proc/self/ns/net")?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|ns| ns == own) {
            if Instant::now() > deadline {
                bail!("unshare makes no namespace");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        run_command(
            "ip",
            &["link", "add", "peers", "type", "veth", "peer", "name", "router", "netns", &pid],
        )?;
        for peer in 0..=FEEDER {
            run_command("ip", &["addr", "add", &format!("{}/16", peer::address(peer)), "dev", "peers"])?;
        }
        run_command("ip", &["link", "set", "peers", "up"])?;
        let inside = |args: &[&str]| {
            run_command("nsenter", &[&["--net", "--target", &pid, "--", "ip"], args].concat())
        };
        inside(&["link", "set", "lo", "up"])?;
        inside(&["addr", "add", &format!("{}/16", crate::ROUTER), "dev", "router"])?;
        inside(&["link", "set", "router", "up"])?;
        Ok(link)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The link would go with the namespace, but some time after the process: the next router wants the name at once.
        let _ = Command::new("ip").args(["link", "del", "peers"]).stderr(Stdio::null()).status();
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn measure(options: &Options, name: &str, version: &mut String) -> anyhow::Result<Seen> {
    let link = Link::new()?;
    let setup = Setup {
        slash32: &options.slash32,
        peers: FEEDER,
        monitor_only: true,
        bfd: true,
        hold: 9,
        namespace: Some(link.0.id()),
    };
    let router = Router::start(name, &setup)?;
    version.clone_from(&router.version);
    let flaps = Arc::new(AtomicU64::new(0));
    let ups = Arc::new(AtomicU64::new(0));
    let bfd = start_bfd(&flaps, &ups)?;
    let monitor = peer::Peer::connect(0).with_context(|| format!("the log:\n{}", router.log()))?;
    let feeder = peer::Peer::connect(FEEDER)?;
    let next_hop = peer::address(FEEDER);
    feeder.send(&peer::updates(FEEDER, options.routes, 1, next_hop));
    let mut known = vec![false; 1 << 24];
    let all = |known: &[bool]| known[..options.routes as usize].iter().all(|k| *k);
    let deadline = Instant::now() + Duration::from_secs(60);
    monitor.follow(&mut known, |known| all(known) && ups.load(Relaxed) >= 2 || Instant::now() > deadline)?;
    if !all(&known) || ups.load(Relaxed) < 2 {
        bail!("no start: BFD sessions up: {}, the log:\n{}", ups.load(Relaxed), router.log());
    }
    flaps.store(0, Relaxed);
    let cpu = router.cpu()?;
    let stop = Arc::new(AtomicBool::new(false));
    let burners: Vec<_> = (0..std::thread::available_parallelism()?.get())
        .map(|_| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                while !stop.load(Relaxed) {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    let step = options.routes / 10 / STEPS;
    let (sent, ended) = (AtomicBool::new(false), std::sync::Mutex::new(None));
    let results = std::thread::scope(|scope| {
        let feeding = scope.spawn(|| {
            let start = Instant::now();
            for i in 0..options.seconds * STEPS {
                let first = (i * step) % (options.routes - options.routes % step.max(1));
                let [gone, back] = peer::churn(FEEDER, first, step, next_hop);
                feeder.send(&gone);
                let next = start + Duration::from_millis(u64::from(i + 1) * 1000 / u64::from(STEPS));
                std::thread::sleep(next.saturating_duration_since(Instant::now()) / 2);
                feeder.send(&back);
                if i % STEPS == 0 && feeder.keepalive().is_err() {
                    break;
                }
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            *ended.lock().expect("nobody panics with it") = Some(Instant::now());
            sent.store(true, Relaxed);
            // The session must live on.
            feeder.keepalive()
        });
        let followed = monitor.follow(&mut known, |known| {
            let over = ended.lock().expect("nobody panics with it").map(|at: Instant| at.elapsed());
            sent.load(Relaxed) && (all(known) || over.is_some_and(|over| over > Duration::from_secs(20)))
        });
        (feeding.join().map_or(true, |fed| fed.is_err()), followed.is_err())
    });
    let late = ended.lock().expect("nobody panics with it").map_or(Duration::ZERO, |at| at.elapsed());
    stop.store(true, Relaxed);
    for burner in burners {
        let _ = burner.join();
    }
    let wrong = known[..options.routes as usize].iter().filter(|k| !**k).count();
    let cpu = router.cpu()?.saturating_sub(cpu);
    bfd.shutdown(Shutdown::AdminDown);
    Ok(Seen {
        sessions_lost: u32::from(results.0) + u32::from(results.1),
        flaps: flaps.load(Relaxed),
        late,
        cpu,
        wrong,
    })
}

/// The other end of the router's BFD sessions.
fn start_bfd(flaps: &Arc<AtomicU64>, ups: &Arc<AtomicU64>) -> anyhow::Result<BfdHandle> {
    let (flaps, ups) = (flaps.clone(), ups.clone());
    let bfd = BfdHandle::start(DriverConfig::default(), move |event| {
        match event.event {
            SessionEvent::Up => ups.fetch_add(1, Relaxed),
            SessionEvent::Down { .. } => flaps.fetch_add(1, Relaxed),
            SessionEvent::NeighborAdminDown | SessionEvent::NeighborAdminUp => 0,
        };
    })?;
    let interval = Duration::from_millis(50);
    let session = SessionConfig {
        desired_min_tx: interval,
        required_min_rx: interval,
        multiplier: 3,
        ..SessionConfig::default()
    };
    for peer in 0..=FEEDER {
        let key = SessionKey {
            peer: crate::ROUTER.parse()?,
            local: Some(peer::address(peer).into()),
            interface: None,
            multihop: false,
        };
        bfd.set(key, SessionParams { session, min_ttl: 0 })?;
    }
    Ok(bfd)
}
