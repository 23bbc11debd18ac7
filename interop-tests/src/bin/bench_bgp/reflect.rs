//! Routes from feeders through a reflector to a monitor.

use std::time::{Duration, Instant};

use anyhow::Context;

use crate::{
    Options, Sample, peer,
    router::{Router, Setup},
    table,
};

pub(super) fn run(options: &Options) -> anyhow::Result<()> {
    crate::addresses(options)?;
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); options.routers.len()];
    let mut versions = vec![String::new(); options.routers.len()];
    for run in 0..options.runs {
        for (i, name) in options.routers.iter().enumerate() {
            let sample =
                measure(options, name, &mut versions[i]).with_context(|| format!("{name}, run {run}"))?;
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
        "### {} routes from {} feeders to one monitor, {} attribute sets a feeder, {} runs\n",
        copies, options.feeders, options.attribute_sets, options.runs
    );
    println!("{}", table::render(&versions, &samples, copies));
    Ok(())
}

fn measure(options: &Options, name: &str, version: &mut String) -> anyhow::Result<Sample> {
    let setup = Setup {
        slash32: &options.slash32,
        peers: options.feeders,
        monitor_only: true,
        bfd: false,
        hold: 0,
        namespace: None,
    };
    let router = Router::start(name, &setup)?;
    version.clone_from(&router.version);
    let monitor =
        peer::Peer::connect(0).with_context(|| format!("the monitor; the log:\n{}", router.log()))?;
    let mut feeders = Vec::new();
    for feeder in 1..=options.feeders {
        let peer = peer::Peer::connect(feeder).with_context(|| format!("feeder {feeder}"))?;
        let next_hop = peer::next_hop(feeder);
        feeders.push((peer, peer::updates(feeder, options.routes, options.attribute_sets, next_hop)));
    }
    std::thread::sleep(Duration::from_millis(500));
    let idle_kib = router.memory_kib("VmRSS")?;
    let cpu_before = router.cpu()?;
    let start = Instant::now();
    let total = u64::from(options.feeders) * u64::from(options.routes);
    let finished = std::thread::scope(|scope| {
        for (peer, updates) in &feeders {
            scope.spawn(move || peer.send(updates));
        }
        monitor.count_until(total, Duration::from_secs(120))
    })
    .with_context(|| format!("the log:\n{}", router.log()))?;
    Ok(Sample {
        wall: finished - start,
        cpu: router.cpu()?.saturating_sub(cpu_before),
        peak_kib: router.memory_kib("VmHWM")?,
        idle_kib,
    })
}
