//! Many neighbours that dial a passive router at once.

use std::time::{Duration, Instant};

use anyhow::Context;

use crate::{
    Options, peer,
    router::{Router, Setup},
    table::spread,
};

pub(super) fn run(options: &Options) -> anyhow::Result<()> {
    crate::addresses(options)?;
    println!("### {} passive neighbours, dialed at once, {} runs\n", options.feeders, options.runs);
    println!("| router | all established after s (min to max) | KiB a neighbour |\n|---|---|---|");
    let mut results = vec![Vec::new(); options.routers.len()];
    let mut versions = vec![String::new(); options.routers.len()];
    for _ in 0..options.runs {
        for (i, name) in options.routers.iter().enumerate() {
            results[i].push(measure(options, name, &mut versions[i]).with_context(|| name.clone())?);
        }
    }
    for (version, runs) in versions.iter().zip(&results) {
        let (low, mid, high) = spread(runs, |r| r.0.as_secs_f64());
        println!("| {version} | {mid:.2} ({low:.2} to {high:.2}) | {:.1} |", spread(runs, |r| r.1).1);
    }
    println!();
    Ok(())
}

/// The time until the last is established, and the memory that each has cost, in KiB.
fn measure(options: &Options, name: &str, version: &mut String) -> anyhow::Result<(Duration, f64)> {
    let setup = Setup {
        slash32: &options.slash32,
        peers: options.feeders,
        monitor_only: false,
        bfd: false,
        hold: 0,
        namespace: None,
    };
    let router = Router::start(name, &setup)?;
    version.clone_from(&router.version);
    let first = peer::Peer::connect(0).with_context(|| format!("the log:\n{}", router.log()))?;
    std::thread::sleep(Duration::from_millis(500));
    let before = router.memory_kib("VmRSS")?;
    let start = Instant::now();
    let threads: Vec<_> = (0..16)
        .map(|thread| {
            let last = options.feeders;
            std::thread::spawn(move || {
                (1..=last)
                    .filter(|n| n % 16 == thread)
                    .map(peer::Peer::connect)
                    .collect::<Result<Vec<_>, _>>()
            })
        })
        .collect();
    let mut peers = vec![first];
    for thread in threads {
        peers.extend(thread.join().map_err(|_| anyhow::anyhow!("a dialing thread panicked"))??);
    }
    let took = start.elapsed();
    std::thread::sleep(Duration::from_secs(1));
    let grown = router.memory_kib("VmRSS")?.saturating_sub(before);
    Ok((took, grown as f64 / f64::from(options.feeders)))
}
