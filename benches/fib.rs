//! The FIB beside a bare netlink sender of the same messages, in the same run and in private network namespaces.
//!
//! `cargo bench --bench fib [-- ROUTES RUNS]`, as root. For each family: routes a second of both, their ratio (median,
//! lowest and highest over the runs), and what the loss of one of two next hops costs.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use slash32::{
    model::{Family, NextHop, NextHopSet, Prefix},
    netlink::{Batch, Socket, addr, link, nexthop, ns::testing, route},
    routes::{Fib, FibConfig, Netlink},
};

/// Messages in one send of the bare sender.
const BATCH: usize = 256;

fn main() {
    let numbers: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let routes = numbers.first().copied().unwrap_or(100_000);
    let runs = numbers.get(1).copied().unwrap_or(5).max(1);
    for family in Family::ALL {
        compare(family, routes, runs);
    }
}

fn compare(family: Family, routes: usize, runs: usize) {
    let (mut ratios, mut bytes) = (Vec::new(), 0);
    println!("{routes} {family} host routes, {runs} runs");
    for run in 0..runs {
        // In turn first and second, so that neither profits from the other's caches every time.
        let (bare, fib) = if run % 2 == 0 {
            let bare = testing::private(|| bare(family, routes));
            (bare, testing::private(|| fib(family, routes)))
        } else {
            let fib = testing::private(|| fib(family, routes));
            (testing::private(|| bare(family, routes)), fib)
        };
        let ratio = bare.as_secs_f64() / fib.write.as_secs_f64();
        let rate = |time: Duration| routes as f64 / time.as_secs_f64() / 1000.0;
        println!(
            "  bare {:.0}k/s, fib {:.0}k/s, ratio {ratio:.2}; next hop lost: {:.2} ms; {} bytes a route; restart {:.0} ms",
            rate(bare),
            rate(fib.write),
            fib.lost.as_secs_f64() * 1000.0,
            fib.bytes / routes.max(1),
            fib.restart.as_secs_f64() * 1000.0,
        );
        ratios.push(ratio);
        bytes = fib.bytes / routes.max(1);
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "ratio to the bare sender: median {:.2}, {:.2} to {:.2} (target 0.80); {bytes} bytes of memory a route",
        ratios[ratios.len() / 2],
        ratios[0],
        ratios[ratios.len() - 1],
    );
}

/// Two links with connected networks; answers the device indices.
fn links(socket: &mut Socket) -> [u32; 2] {
    [("a", "192.0.2.0"), ("b", "192.0.2.2")].map(|(name, address)| {
        let (near, far) = (format!("near-{name}"), format!("far-{name}"));
        link::create_veth(socket, &near, &far, None).expect("a veth pair can be made in a namespace of ours");
        for name in [&far, &near] {
            let index = link::by_name(socket, name).expect("the link was just made").index;
            link::set_up(socket, index).expect("a link of ours can be set up");
        }
        let index = link::by_name(socket, &near).expect("the link was just made").index;
        let address = address.parse().expect("a literal address");
        addr::add(socket, index, address, 31).expect("an address can be added in a namespace of ours");
        let address = format!("2001:db8:{name}::1").parse().expect("a literal address");
        addr::add(socket, index, address, 64).expect("an address can be added in a namespace of ours");
        index
    })
}

/// The far ends of the links.
fn gateways(family: Family) -> [IpAddr; 2] {
    let gateways = match family {
        Family::Ipv4 => ["192.0.2.1", "192.0.2.3"],
        Family::Ipv6 => ["2001:db8:a::2", "2001:db8:b::2"],
    };
    gateways.map(|gateway| gateway.parse().expect("a literal address"))
}

fn prefix(family: Family, i: usize) -> Prefix {
    Prefix::host(match family {
        Family::Ipv4 => IpAddr::from((0x0a00_0000 + i as u32).to_be_bytes()),
        Family::Ipv6 => IpAddr::from(((0xfd00_0032_u128 << 96) + i as u128).to_be_bytes()),
    })
}

fn bare(family: Family, routes: usize) -> Duration {
    let mut socket = Socket::route().expect("a netlink socket");
    let [a, b] = links(&mut socket);
    let [first, second] = gateways(family);
    let mut batch = Batch::new();
    for (id, (gateway, ifindex)) in [(first, a), (second, b)].into_iter().enumerate() {
        let via = nexthop::Via { gateway, ifindex, onlink: false };
        nexthop::push_via(&mut batch, id as u32 + 1, 32, &via, nexthop::Mode::Create);
    }
    nexthop::push_group(&mut batch, 10, 32, &[(1, 1), (2, 1)], nexthop::Mode::Create);
    socket.execute(&mut batch).expect("next-hop objects");
    let start = Instant::now();
    let mut i = 0;
    while i < routes {
        batch.clear();
        let end = routes.min(i + BATCH);
        for n in i..end {
            let key = route::Key {
                prefix: prefix(family, n),
                table: route::TABLE_MAIN,
                protocol: 32,
                metric: 1024,
            };
            route::push(&mut batch, &key, route::Target::Object(10), route::Mode::Create);
        }
        let report = socket.transact(&mut batch).expect("the routes are sent");
        assert!(report.errors.is_empty(), "{:?}", report.errors.first());
        i = end;
    }
    start.elapsed()
}

struct Measured {
    write: Duration,
    lost: Duration,
    restart: Duration,
    bytes: usize,
}

fn fib(family: Family, routes: usize) -> Measured {
    let mut socket = Socket::route().expect("a netlink socket");
    links(&mut socket);
    let gateways = gateways(family);
    let set: Arc<NextHopSet> = Arc::new(gateways.into_iter().map(NextHop::via).collect());
    let new = || {
        let kernel = Netlink::new(Socket::route().expect("a netlink socket"));
        Fib::new(FibConfig { max_routes: usize::MAX, ..FibConfig::default() }, kernel, Instant::now())
            .expect("the kernel can be read")
    };
    let settle = |fib: &mut Fib<Netlink>| {
        while fib.step(Instant::now(), 512).expect("the kernel can be written").more {}
    };
    let mut fib = new();
    fib.sweep_stale(None);
    let start = Instant::now();
    for i in 0..routes {
        fib.set(prefix(family, i), &set);
        if i % 4096 == 0 {
            fib.step(Instant::now(), 512).expect("the kernel can be written");
        }
    }
    settle(&mut fib);
    let write = start.elapsed();
    let summary = fib.summary();
    assert_eq!(summary.installed, routes, "{:?}", summary.last_error);
    let start = Instant::now();
    fib.mark_next_hop_down(gateways[0], 0);
    settle(&mut fib);
    let lost = start.elapsed();
    fib.mark_next_hop_up(gateways[0], 0);
    settle(&mut fib);
    drop(fib);
    let start = Instant::now();
    let mut fib = new();
    for i in 0..routes {
        fib.set(prefix(family, i), &set);
    }
    fib.sweep_stale(None);
    settle(&mut fib);
    let restart = start.elapsed();
    assert_eq!(fib.summary().counters.created, 0, "a restart writes only what differs");
    Measured { write, lost, restart, bytes: summary.table_bytes }
}
