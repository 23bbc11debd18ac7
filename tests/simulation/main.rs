//! Whole networks in one thread: hundreds of hosts, two switches or two route reflectors, driven from a seed, with the
//! speaker's own sessions and RIB and the agent's own FIB code, on a virtual clock, with no socket.
//!
//! Cables break, processes crash, restart and stand still, machines lose power, endpoints come, go and move, peers send too
//! much or want everything again, and kernels refuse writes. When all has settled, every host's table must be the one that
//! `model` works out from who can reach whom; and all the time nothing may be lost whose path was left alone, and nothing
//! may lead where nothing can come through (`check`).
//!
//! `SEED=7 cargo test --test simulation` runs one seed with a trace, `SEEDS=500` so many, `HOSTS=50` larger ones, and
//! `LARGE=300` sets the size of the large ones;
//! `make sim` runs many in a release build. A failing seed tells the shortest schedule found that fails too.

mod check;
mod model;
mod net;
mod node;
mod plan;
mod random;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use plan::{Options, Schedule};
use world::World;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// How a run ended, and a digest of what happened in it.
fn run(options: &Options, schedule: &Schedule, trace: bool) -> (Result<(), String>, World) {
    let mut world = World::new(options.clone(), schedule.clone(), trace);
    let result = catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("after {:.3} s: panic: {}", world.seconds(), text.unwrap_or_default()))
    });
    (result, world)
}

/// Leaves out what is not needed for a failure, as long as that is cheap.
fn shrink(options: &Options, schedule: &Schedule) -> Schedule {
    let mut best = schedule.clone();
    let mut runs = 0;
    let mut size = best.len() / 2;
    while size > 0 && runs < 200 {
        let mut at = 0;
        while at < best.len() && runs < 200 {
            let mut less = best.clone();
            less.drain(at..(at + size).min(less.len()));
            runs += 1;
            if run(options, &less, false).0.is_err() {
                best = less;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
    best
}

fn try_seed(seed: u64, hosts: usize, rounds: usize, trace: bool) -> World {
    let (options, schedule) = plan::plan(seed, hosts, rounds);
    if trace {
        eprintln!("{options:#?}");
    }
    let (result, world) = run(&options, &schedule, trace);
    if let Err(error) = result {
        let short = shrink(&options, &schedule);
        if trace {
            eprintln!("the shortest schedule:");
            drop(run(&options, &short, true));
        }
        let steps: Vec<String> = short.iter().map(|(at, action)| format!("  {at:?}: {action:?}")).collect();
        panic!(
            "seed {seed}: {error}\n{options:?}\nto see it again: SEED={seed} HOSTS={hosts} ROUNDS={rounds} cargo test --test \
             simulation seeds -- --nocapture\nthe shortest schedule that fails ({}):\n{}",
            run(&options, &short, false).0.expect_err("it has failed before"),
            steps.join("\n")
        );
    }
    world
}

/// Small networks, many of them.
#[test]
fn seeds() {
    let hosts = number("HOSTS").map(|n| n as usize);
    let rounds = number("ROUNDS").unwrap_or(3) as usize;
    if let Some(seed) = number("SEED") {
        try_seed(seed, hosts.unwrap_or(size(seed)), rounds, true);
        return;
    }
    let (mut steps, mut compared) = (0, 0);
    let first = number("FIRST").unwrap_or(0);
    let count = number("SEEDS").unwrap_or(30);
    for seed in first..first + count {
        let world = try_seed(seed, hosts.unwrap_or(size(seed)), rounds, false);
        steps += world.steps;
        compared += world.compared;
    }
    println!("{count} networks, {steps} events, {compared} routes compared");
    assert!(compared > 0, "nothing was compared");
}

const fn size(seed: u64) -> usize {
    [3, 4, 6, 10, 16][(seed % 5) as usize]
}

/// Both topologies with hundreds of hosts.
#[test]
fn hundreds_of_hosts() {
    let hosts = number("LARGE").unwrap_or(100) as usize;
    for topology in [plan::Topology::Rack, plan::Topology::Reflectors] {
        let is_wanted = |seed: &u64| plan::plan(*seed, hosts, 1).0.topology == topology;
        let seeds: Vec<u64> = (1000..1100).collect();
        let seed = *seeds.iter().find(|seed| is_wanted(seed)).expect("one of a hundred seeds");
        let world = try_seed(seed, hosts, 1, false);
        println!("{topology:?}, {hosts} hosts: {} events, {} routes compared", world.steps, world.compared);
    }
}

/// What a seed does is the same each time.
#[test]
fn a_seed_repeats() {
    for seed in [3, 8] {
        let digests = [0, 1].map(|_| try_seed(seed, 8, 2, false).digest);
        assert_eq!(digests[0], digests[1], "seed {seed}");
    }
}
