//! What the RIB costs: time a route and octets a route-copy, for the shapes of FACTS.md.
//!
//! `cargo bench --bench rib [-- ROUTES FEEDERS]`. Four feeders announce distinct /32s, from one attribute set each and from
//! 10,000 each, to a route reflector with one monitor; then the best-path changes, a second monitor's dump, churn, and the
//! end of all sessions. Octets are counted by the allocator: live after the load, and the highest during it.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    hint::black_box,
    net::Ipv4Addr,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use slash32::{
    bgp::{
        PeerId,
        rib::{DownReason, LocalAddresses, PeerParams, Rib, RibConfig},
        wire::{
            AsPath, LargeCommunity, Nlri, Origin, PathAttributes, PeerKind, Reach, Unreach, Update,
            WireNextHop,
        },
    },
    model::{Asn, Family, Ipv4Prefix, Prefix, RouterId},
};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "a counting allocator; the product has none")]
// SAFETY: every call goes to the system's allocator with the same arguments; only counters are added.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(live, Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Routes in one UPDATE when nothing else limits them: what fits 4096 octets.
const PER_UPDATE: usize = 800;

fn main() {
    let numbers: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let routes = numbers.first().copied().unwrap_or(400_000);
    let feeders = numbers.get(1).copied().unwrap_or(4).clamp(1, 200);
    for sets in [1, 10_000] {
        run(routes, feeders, sets, false);
    }
    run(routes / 4, feeders, 10_000, false);
    // Every feeder announces the same prefixes: several paths each.
    run(routes, feeders, 1, true);
}

fn run(routes: usize, feeders: usize, sets: usize, same: bool) {
    let shape = if same { "the same prefixes" } else { "distinct prefixes" };
    println!("{routes} route-copies from {feeders} feeders, {shape}, {sets} attribute sets a feeder");
    let now = Instant::now();
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let mut rib = Rib::new(RibConfig {
        route_reflector: true,
        ..RibConfig::new(asn(64512), RouterId::new(Ipv4Addr::new(10, 255, 0, 1)).expect("not zero"))
    });
    let monitor = PeerId(1000);
    rib.peer_up(monitor, params(250), now);
    for feeder in 0..feeders {
        rib.peer_up(PeerId(feeder as u32), params(feeder as u8), now);
    }

    let each = routes / feeders;
    let mut updating = Duration::ZERO;
    let (mut output, mut octets) = (Duration::ZERO, 0);
    for feeder in 0..feeders {
        let base = if same { 0 } else { feeder * each };
        for (i, update) in feed(feeder, base, each, sets).enumerate() {
            let start = Instant::now();
            rib.update(PeerId(feeder as u32), update, now);
            updating += start.elapsed();
            // As the RIB's thread does: some updates, then what there is to send.
            if i % 64 == 63 {
                let start = Instant::now();
                octets += drain(&mut rib, monitor);
                for feeder in 0..feeders {
                    drain(&mut rib, PeerId(feeder as u32));
                }
                output += start.elapsed();
            }
        }
    }
    let start = Instant::now();
    octets += drain(&mut rib, monitor);
    for feeder in 0..feeders {
        drain(&mut rib, PeerId(feeder as u32));
    }
    output += start.elapsed();
    let live = LIVE.load(Relaxed) - before;
    let peak = PEAK.load(Relaxed) - before;
    report("update", routes, updating);
    report("output to all", routes, output);
    println!(
        "  memory: {} octets a route-copy live, {} at the peak ({:.1} MB); {:.1} MB to the monitor; {} attribute sets",
        live / routes,
        peak / routes,
        peak as f64 / 1e6,
        octets as f64 / 1e6,
        rib.stats().attribute_sets,
    );

    let start = Instant::now();
    let mut changes = 0;
    loop {
        let batch = rib.poll_best(1024);
        if batch.is_empty() {
            break;
        }
        changes += black_box(batch).len();
    }
    report("best-path changes", changes, start.elapsed());

    let start = Instant::now();
    rib.peer_up(PeerId(1001), params(251), now);
    drain(&mut rib, PeerId(1001));
    report("dump to a second monitor", changes, start.elapsed());

    let start = Instant::now();
    let mut churned = 0;
    for update in feed(0, 0, each / 10, sets.min(100)) {
        let nlri: Vec<Nlri> = update.reach.iter().flat_map(|reach| reach.nlri.iter().copied()).collect();
        churned += nlri.len();
        let unreach = vec![Unreach { family: Family::Ipv4, nlri }];
        rib.update(PeerId(0), Update { unreach, ..Update::default() }, now);
        drain(&mut rib, monitor);
        drain(&mut rib, PeerId(1001));
        rib.update(PeerId(0), update, now);
        drain(&mut rib, monitor);
        drain(&mut rib, PeerId(1001));
    }
    report("withdraw and announce again, to both", churned * 2, start.elapsed());

    let start = Instant::now();
    for feeder in 0..feeders {
        rib.peer_down(PeerId(feeder as u32), DownReason::Flush, now);
    }
    drain(&mut rib, monitor);
    drain(&mut rib, PeerId(1001));
    while !rib.poll_best(1024).is_empty() {}
    report("end of all sessions", routes, start.elapsed());
    println!("  memory: {} octets left\n", LIVE.load(Relaxed).saturating_sub(before));
}

fn report(what: &str, routes: usize, took: Duration) {
    let each = took.as_nanos() as f64 / routes.max(1) as f64;
    println!("  {what}: {:.1} ms, {each:.0} ns a route, {:.2} M/s", took.as_secs_f64() * 1e3, 1e3 / each);
}

fn drain(rib: &mut Rib, peer: PeerId) -> usize {
    let mut octets = 0;
    loop {
        let pieces = rib.poll_output(peer, 64 << 10);
        if pieces.is_empty() {
            return octets;
        }
        octets += black_box(pieces).iter().map(bytes::Bytes::len).sum::<usize>();
    }
}

fn asn(number: u32) -> Asn {
    Asn::new(number).expect("not zero")
}

fn params(n: u8) -> PeerParams {
    let id = RouterId::new(Ipv4Addr::new(10, 255, 1, n)).expect("not zero");
    PeerParams {
        route_reflector_client: true,
        local: LocalAddresses { ipv4: Some(Ipv4Addr::new(192, 0, 2, 254)), ..LocalAddresses::default() },
        ..PeerParams::new(PeerKind::Internal, asn(64512), asn(64512), id, Ipv4Addr::new(192, 0, 2, n).into())
    }
}

/// The UPDATEs of a feeder: `routes` /32s spread evenly over `sets` attribute sets.
fn feed(feeder: usize, base: usize, routes: usize, sets: usize) -> impl Iterator<Item = Update> {
    let per_set = routes.div_ceil(sets).min(PER_UPDATE);
    (0..routes).step_by(per_set).enumerate().map(move |(i, first)| {
        let last = (first + per_set).min(routes);
        let nlri = (first..last).map(|n| Nlri { prefix: host(base + n), path_id: 0 }).collect();
        let next_hop = WireNextHop::V4(Ipv4Addr::new(192, 0, 2, feeder as u8));
        Update {
            reach: vec![Reach { family: Family::Ipv4, next_hop, nlri }],
            unreach: Vec::new(),
            attributes: attributes(i % sets),
        }
    })
}

fn host(n: usize) -> Prefix {
    Prefix::V4(Ipv4Prefix::new(Ipv4Addr::from_bits(0x0A00_0000 + n as u32), 32))
}

/// A route of a container: four label communities that differ by set.
fn attributes(set: usize) -> PathAttributes {
    let large = |k: u32| LargeCommunity { global: 65000, local1: set as u32 * 7919 + k, local2: k };
    PathAttributes {
        origin: Some(Origin::Igp),
        as_path: AsPath::default(),
        local_pref: Some(100),
        large_communities: (0..4).map(large).collect(),
        ..PathAttributes::default()
    }
}
