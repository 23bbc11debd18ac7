//! What a seed stands for: a network, and what happens to it.

use std::time::Duration;

use crate::random::Random;

/// The restart time that everybody offers.
pub(crate) const RESTART: Duration = Duration::from_secs(30);
/// How long stale routes wait for End-of-RIB.
pub(crate) const STALE: Duration = Duration::from_secs(60);
/// The stale time of long-lived graceful restart.
pub(crate) const LONG_LIVED: Duration = Duration::from_secs(60);
/// The hold time.
pub(crate) const HOLD: Duration = Duration::from_secs(30);
/// After so long with nothing new, everything has settled: a hold time, the restart times, the wait for End-of-RIB, the
/// longest wait in Idle, and some dials.
pub(crate) const SETTLE: Duration = Duration::from_secs(30 + 30 + 60 + 60 + 60 + 60);
/// Prefixes of one family that a switch takes from one host.
pub(crate) const MAX_PREFIXES: u32 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topology {
    /// Hosts with a link to each of two switches, eBGP, the switches are the next hops.
    Rack,
    /// Hosts on one network, iBGP to two reflectors, the hosts are the next hops.
    Reflectors,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AsScheme {
    /// Each host has an AS of its own.
    Distinct,
    /// All have one AS, and accept it in a path.
    AllowOwn,
    /// All have one AS, and the switch puts its own in its place.
    Override,
}

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) seed: u64,
    pub(crate) topology: Topology,
    pub(crate) hosts: usize,
    pub(crate) as_scheme: AsScheme,
    pub(crate) ipv6: bool,
    pub(crate) graceful: bool,
    pub(crate) long_lived: bool,
    pub(crate) bfd: bool,
    /// Paths that reflectors send; 0 without add-path.
    pub(crate) add_path: u16,
    pub(crate) multipath: u16,
    /// The fabric never dials.
    pub(crate) passive: bool,
    /// The longest latency, in milliseconds.
    pub(crate) latency: u64,
    /// Octets that are delivered at once, at most.
    pub(crate) chunk: usize,
    /// Octets on their way on a connection before the RIB is asked for no more.
    pub(crate) window: usize,
}

/// Something that is done to the network. Nodes 0 and 1 are the fabric, hosts come behind.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Cable {
        cable: usize,
        up: bool,
    },
    /// The process ends and comes back, its kernel lives on.
    Restart {
        node: usize,
        planned: bool,
        outage: Duration,
    },
    /// The whole machine, and its containers with it.
    PowerOff {
        node: usize,
        outage: Duration,
    },
    /// The process does nothing for a while.
    Stall {
        node: usize,
        time: Duration,
    },
    Refresh {
        node: usize,
        peer: usize,
    },
    Reset {
        node: usize,
        peer: usize,
    },
    Drain {
        node: usize,
        on: bool,
    },
    Attach {
        host: usize,
        endpoint: u32,
    },
    Detach {
        host: usize,
        endpoint: u32,
    },
    /// To another host, with a higher attachment number; the old place goes so much later.
    Move {
        endpoint: u32,
        to: usize,
        overlap: Duration,
    },
    /// More prefixes than the switches take, for a while.
    Flood {
        host: usize,
        time: Duration,
    },
    /// One write to the kernel goes wrong.
    Fault {
        node: usize,
        kind: u8,
    },
    /// Everything that is broken is mended.
    Heal,
    /// Nothing more happens until all has settled; then every table is compared.
    Check,
}

pub(crate) type Schedule = Vec<(Duration, Action)>;

/// The options and the schedule of a seed, with so many hosts at most.
pub(crate) fn plan(seed: u64, hosts: usize, rounds: usize) -> (Options, Schedule) {
    let mut random = Random::new(seed);
    let options = options(&mut random, seed, hosts);
    let schedule = schedule(&mut random, &options, rounds);
    (options, schedule)
}

fn options(random: &mut Random, seed: u64, hosts: usize) -> Options {
    let topology = random.pick(&[Topology::Rack, Topology::Reflectors]);
    let reflectors = topology == Topology::Reflectors;
    Options {
        seed,
        topology,
        hosts,
        as_scheme: random.pick(&[AsScheme::Distinct, AsScheme::AllowOwn, AsScheme::Override]),
        ipv6: random.one_in(2),
        graceful: !random.one_in(5),
        long_lived: random.one_in(3),
        bfd: !random.one_in(3),
        add_path: if reflectors { random.pick(&[0, 0, 2, 64]) } else { 0 },
        multipath: random.pick(&[64, 64, 64, 1]),
        passive: random.one_in(2),
        latency: random.pick(&[1, 20, 300]),
        chunk: random.pick(&[usize::MAX, usize::MAX, 4096, 100, 7]),
        window: random.pick(&[1 << 20, 64 << 10, 4 << 10]),
    }
}

/// Cables are numbered host by host: two a host in a rack, one otherwise.
pub(crate) fn cables(options: &Options) -> usize {
    match options.topology {
        Topology::Rack => 2 * options.hosts,
        Topology::Reflectors => options.hosts,
    }
}

fn schedule(random: &mut Random, options: &Options, rounds: usize) -> Schedule {
    let mut schedule = Schedule::new();
    let mut endpoint = 0;
    for host in 0..options.hosts {
        for _ in 0..random.between(0, 2) {
            schedule.push((random.millis(0, 5000), Action::Attach { host: host + 2, endpoint }));
            endpoint += 1;
        }
    }
    let mut at = Duration::from_secs(10);
    schedule.push((at, Action::Check));
    for round in 0..rounds {
        at += SETTLE + Duration::from_secs(1);
        // Few things at once show more than many: what is not disturbed must not change.
        let most = random.pick(&[1, 3, 8, 8 + options.hosts as u64 / 4]);
        let span = random.pick(&[200, 5_000, 60_000]);
        for _ in 0..random.between(1, most) {
            let action = action(random, options, &mut endpoint);
            schedule.push((at + random.millis(0, span), action));
        }
        at += Duration::from_secs(90);
        if round + 1 == rounds || random.one_in(2) {
            schedule.push((at, Action::Heal));
        }
        schedule.push((at, Action::Check));
    }
    schedule.sort_by_key(|(at, _)| *at);
    schedule
}

fn action(random: &mut Random, options: &Options, endpoints: &mut u32) -> Action {
    let hosts = options.hosts;
    let host = random.below(hosts) + 2;
    let node = if random.one_in(3) { random.below(2) } else { host };
    let peer = if node < 2 { random.below(hosts) } else { random.below(2) };
    let endpoint = random.below((*endpoints).max(1) as usize) as u32;
    let mut outage = || match random.below(6) {
        0..=3 => random.millis(50, RESTART.as_millis() as u64 / 2),
        4 => RESTART + random.millis(10_000, 40_000),
        _ => Duration::from_secs(100_000),
    };
    let outage = outage();
    match random.below(26) {
        0..=2 => Action::Cable { cable: random.below(cables(options)), up: false },
        3..=4 => Action::Cable { cable: random.below(cables(options)), up: true },
        5..=8 => Action::Restart { node, planned: random.one_in(2), outage },
        9 => Action::PowerOff { node, outage },
        10..=11 => {
            Action::Stall { node, time: random.millis(20, random.clone().pick(&[500, 10_000, 45_000])) }
        }
        12..=13 => Action::Refresh { node, peer },
        14 => Action::Reset { node, peer },
        15..=16 => Action::Drain { node, on: !random.one_in(3) },
        17..=19 => {
            // A new address, or one that is already elsewhere.
            let endpoint = if random.one_in(3) { endpoint } else { *endpoints };
            *endpoints = (*endpoints).max(endpoint + 1);
            Action::Attach { host, endpoint }
        }
        20..=21 => Action::Detach { host, endpoint },
        22..=23 => Action::Move { endpoint, to: host, overlap: random.millis(0, 3000) },
        24 => Action::Flood { host, time: random.millis(1_000, 30_000) },
        _ => Action::Fault { node, kind: random.below(3) as u8 },
    }
}
