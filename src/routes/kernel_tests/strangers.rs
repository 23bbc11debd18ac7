//! Routes with our number that we did not write, lost notifications, interrupted reading, changed settings.

use super::*;

fn alien(w: &mut World, prefix: &str, metric: u32, target: route::Target<'_>) {
    let key = route::Key { prefix: p(prefix), table: TABLE_MAIN, protocol: 32, metric };
    let mut batch = Batch::new();
    route::push(&mut batch, &key, target, route::Mode::Create);
    w.socket.execute(&mut batch).unwrap();
}

#[test]
fn what_others_write_with_our_number_is_named_and_goes() {
    World::run(|mut w| {
        let mut fib = w.fib();
        fib.set(p("10.1.0.0/24"), &set(&["192.0.2.1"]));
        fib.set(p("fd01::/64"), &set(&["2001:db8:1::2"]));
        w.settle(&mut fib);
        let whole = w.table();
        let (a, b) = (w.a, w.b);
        let via = |gateway: &str, ifindex| nexthop::Via { gateway: ip(gateway), ifindex, onlink: false };
        alien(&mut w, "10.1.0.0/24", 0, route::Target::Via(&[(via("192.0.2.3", b), 1)]));
        alien(&mut w, "10.7.0.0/24", 9, route::Target::Via(&[(via("192.0.2.3", b), 1)]));
        alien(&mut w, "10.8.0.0/24", 0, route::Target::Device(a));
        alien(&mut w, "10.8.1.1/32", 1024, route::Target::Device(a));
        alien(&mut w, "fd07::/64", 9, route::Target::Via(&[(via("2001:db8:1::2", a), 1)]));
        alien(&mut w, "fd08::/64", 1024, route::Target::Device(a));
        let mut batch = Batch::new();
        nexthop::push_via(&mut batch, (32 << 24) + 77, 32, &via("192.0.2.3", b), nexthop::Mode::Create);
        w.socket.execute(&mut batch).unwrap();
        let found = fib.verify().unwrap();
        assert!(found.iter().all(|d| d.kind == DifferenceKind::Unexpected), "{found:?}");
        let names: Vec<_> = found.iter().map(|d| d.what.as_str()).collect();
        assert_eq!(
            names,
            [
                "10.1.0.0/24",
                "10.7.0.0/24",
                "10.8.0.0/24",
                "10.8.1.1/32",
                "fd07::/64",
                "fd08::/64",
                "next-hop object 536870989"
            ]
        );
        assert!(found[0].detail.contains("via 192.0.2.3 dev up-b, metric 0"), "{found:?}");
        w.settle(&mut fib);
        fib.resync(Instant::now());
        w.settle(&mut fib);
        assert_eq!(w.table(), whole);
        assert_eq!(fib.verify().unwrap(), []);
        // Found by the audit alone.
        alien(&mut w, "10.7.0.0/24", 9, route::Target::Device(a));
        fib.resync(Instant::now());
        while fib.step(Instant::now(), 64).unwrap().more {}
        assert_eq!(w.table(), whole);
    });
}

#[test]
fn a_conflict_is_a_difference_with_a_name() {
    World::run(|mut w| {
        let b = w.b;
        let mut fib = w.fib();
        fib.set(p("10.1.0.0/24"), &set(&["192.0.2.1"]));
        fib.set(p("10.2.0.0/24"), &set(&["192.0.2.1"]));
        fib.set(p("fd01::/64"), &set(&["2001:db8:1::2"]));
        w.settle(&mut fib);
        assert_eq!(fib.summary().problems(), [""; 0]);
        // One in place of ours, one beside it with a lower metric.
        let via = nexthop::Via { gateway: ip("192.0.2.3"), ifindex: b, onlink: false };
        let key = route::Key { prefix: p("10.1.0.0/24"), table: TABLE_MAIN, protocol: 4, metric: 1024 };
        let mut batch = Batch::new();
        route::push(&mut batch, &key, route::Target::Via(&[(via, 1)]), route::Mode::Replace);
        w.socket.execute(&mut batch).unwrap();
        w.foreign("10.2.0.0/24", 7, "192.0.2.3", b);
        w.foreign("fd01::/64", 7, "2001:db8:2::2", b);
        w.settle(&mut fib);
        let found = fib.verify().unwrap();
        let kinds: Vec<_> = found.iter().map(|d| (d.what.as_str(), d.kind)).collect();
        let shadowed = |what| (what, DifferenceKind::Shadowed);
        let conflict = ("10.1.0.0/24", DifferenceKind::Conflict);
        assert_eq!(kinds, [conflict, shadowed("10.2.0.0/24"), shadowed("fd01::/64")]);
        assert!(found[0].detail.contains("protocol 4 via 192.0.2.3 dev up-b"), "{found:?}");
        assert!(found[2].detail.contains("via 2001:db8:2::2 dev up-b has metric 7"), "{found:?}");
        let summary = fib.summary();
        assert_eq!((summary.conflicts, summary.shadowed), (1, 2));
        assert_eq!(summary.problems().len(), 2, "{:?}", summary.problems());
        assert!(summary.problems()[0].contains("10.1.0.0/24 (route of protocol 4, metric 1024)"));
        for prefix in ["10.1.0.0/24", "10.2.0.0/24", "fd01::/64"] {
            w.delete_foreign(prefix);
        }
        w.settle(&mut fib);
        assert_eq!(fib.verify().unwrap(), []);
        assert_eq!(fib.summary().problems(), [""; 0]);
    });
}

#[test]
fn lost_notifications_lose_nothing() {
    World::run(|mut w| {
        let b = w.b;
        let mut fib = w.fib();
        fib.set(p("10.1.0.0/24"), &set(&["192.0.2.1", "192.0.2.3"]));
        fib.set(p("10.2.0.0/24"), &set(&["198.51.100.7"]));
        fib.set(p("fd01::/64"), &set(&["2001:db8:1::2"]));
        w.settle(&mut fib);
        // More notifications than the buffer holds, and what matters behind them.
        let via = nexthop::Via { gateway: ip("192.0.2.3"), ifindex: b, onlink: false };
        for round in 0..80u32 {
            let mut batch = Batch::new();
            for n in 0..512u32 {
                let addr = IpAddr::from((0x1400_0000 + round * 512 + n).to_be_bytes());
                let key =
                    route::Key { prefix: Prefix::host(addr), table: TABLE_MAIN, protocol: 4, metric: 5 };
                route::push(&mut batch, &key, route::Target::Via(&[(via, 1)]), route::Mode::Create);
            }
            w.socket.execute(&mut batch).unwrap();
        }
        w.delete("10.1.0.0/24", 32);
        w.delete("fd01::/64", 32);
        w.foreign("198.51.100.0/24", 0, "192.0.2.3", b);
        w.settle(&mut fib);
        assert!(fib.summary().counters.overruns > 0, "the buffer held it all: send more");
        // A resync waits until the one before is half a second old; time is what we say.
        let later = Instant::now() + Duration::from_secs(1);
        while fib.step(later, 64).unwrap().more {}
        let mut expected = vec![
            "10.1.0.0/24 192.0.2.1 192.0.2.3".to_owned(),
            "10.2.0.0/24 192.0.2.3".to_owned(),
            "fd01::/64 2001:db8:1::2".to_owned(),
        ];
        expected.sort();
        assert_eq!(w.table(), expected);
        assert_eq!(fib.verify().unwrap(), []);
    });
}

#[test]
fn reading_gives_way_to_what_is_urgent_and_forgets_nothing() {
    World::run(|mut w| {
        let b = w.b;
        w.foreign("198.51.100.0/24", 0, "192.0.2.3", b);
        let mut fib = w.fib();
        let both = set(&["192.0.2.1", "198.51.100.7"]);
        for i in 0..2000u32 {
            fib.set(Prefix::host(IpAddr::from((0x0a01_0000 + i).to_be_bytes())), &both);
        }
        w.settle(&mut fib);
        let resyncs = fib.summary().counters.resyncs;
        let urgent = fib.urgent();
        urgent.store(1, std::sync::atomic::Ordering::Relaxed);
        fib.resync(Instant::now());
        assert!(fib.verify().is_err());
        while fib.step(Instant::now(), 64).unwrap().more {}
        // Given up in the middle, with all that was known before.
        fib.mark_next_hop_down(ip("192.0.2.1"), 0);
        while fib.step(Instant::now(), 64).unwrap().more {}
        urgent.store(0, std::sync::atomic::Ordering::Relaxed);
        assert!(w.table().iter().all(|row| row.ends_with(" 192.0.2.3")), "{:?}", w.table().first());
        assert_eq!(w.table().len(), 2000);
        // And done soon after.
        let later = Instant::now() + Duration::from_secs(1);
        while fib.step(later, 64).unwrap().more {}
        assert!(fib.summary().counters.resyncs > resyncs + 1);
        assert_eq!(fib.verify().unwrap(), []);
    });
}

#[test]
fn changed_settings_leave_nothing_behind() {
    World::run(|mut w| {
        let dev = w.far_b;
        let mut fib = w.fib();
        let fill = |fib: &mut Fib<Netlink>| {
            fib.set(p("10.1.0.0/24"), &set(&["192.0.2.1"]));
            fib.set(p("fd01::/64"), &set(&["2001:db8:1::2"]));
            fib.set_local(p("10.32.0.7/32"), dev);
            fib.set_local(p("fd00:32::7/128"), dev);
            fib.set_blackhole(p("10.32.0.0/24"));
        };
        fill(&mut fib);
        w.settle(&mut fib);
        let whole = w.table();
        assert_eq!(whole.len(), 5);
        drop(fib);
        // The containers' metric: the new routes are there before the old ones go.
        w.config.local_metric = 50;
        let mut fib = w.fib();
        fill(&mut fib);
        w.settle(&mut fib);
        assert_eq!(w.table(), whole);
        let local = |r: &&Route| r.is_on_link();
        assert!(w.ours().iter().filter(local).all(|r| r.metric == 50), "{:?}", w.ours());
        assert_eq!(fib.verify().unwrap(), []);
        drop(fib);
        // The table: what is in the old one goes, when stale routes may.
        w.config.table = 1032;
        let kernel = Netlink::new(Socket::route().unwrap());
        let mut fib = Fib::new(w.config.clone(), kernel, Instant::now()).unwrap();
        fill(&mut fib);
        while fib.step(Instant::now(), 64).unwrap().more {}
        let in_main = |w: &mut World| {
            let filter = Filter { table: Some(TABLE_MAIN), protocol: Some(32) };
            let four = route::list(&mut w.socket, Family::Ipv4, filter).unwrap();
            four.len() + route::list(&mut w.socket, Family::Ipv6, filter).unwrap().len()
        };
        assert_eq!((w.table(), in_main(&mut w)), (whole.clone(), 5));
        fib.sweep_stale(None);
        while fib.step(Instant::now(), 64).unwrap().more {}
        assert_eq!((w.table(), in_main(&mut w)), (whole, 0));
        assert_eq!(fib.verify().unwrap(), []);
    });
}

#[test]
fn blocks_and_neighbours_are_not_taken_over() {
    World::run(|mut w| {
        let mut fib = w.fib();
        let way = set(&["192.0.2.1"]);
        // Before and after the block is known.
        fib.set(p("10.32.4.0/25"), &way);
        fib.set_blackhole(p("10.32.4.0/24"));
        fib.set_blackhole(p("fd00:32:0:4::/64"));
        for prefix in ["10.32.4.128/25", "10.32.4.9/32", "10.32.0.0/16", "192.0.2.3/32", "192.0.2.2/31"] {
            fib.set(p(prefix), &way);
        }
        fib.set(p("fd00:32:0:4:8000::/65"), &set(&["2001:db8:1::2"]));
        fib.set(p("2001:db8:2::2/128"), &set(&["2001:db8:1::2"]));
        fib.protect([ip("192.0.2.3"), ip("2001:db8:2::2"), ip("203.0.113.1")]);
        w.settle(&mut fib);
        assert_eq!(
            w.table(),
            [
                "10.32.0.0/16 192.0.2.1",
                "10.32.4.0/24 drop",
                "10.32.4.9/32 192.0.2.1",
                "fd00:32:0:4::/64 drop",
            ]
        );
        for (prefix, why) in [
            ("10.32.4.0/25", Reason::OwnBlock),
            ("10.32.4.128/25", Reason::OwnBlock),
            ("fd00:32:0:4:8000::/65", Reason::OwnBlock),
            ("192.0.2.3/32", Reason::CoversNextHop),
            ("192.0.2.2/31", Reason::CoversNextHop),
            ("2001:db8:2::2/128", Reason::CoversNextHop),
        ] {
            assert_eq!(reason(&fib, prefix), Some(why), "{prefix}");
        }
        // The way to a neighbour several hops away may be learned.
        fib.set(p("203.0.113.1/32"), &way);
        fib.remove_blackhole(p("10.32.4.0/24"));
        fib.protect([ip("203.0.113.1")]);
        w.settle(&mut fib);
        for prefix in ["203.0.113.1/32", "10.32.4.0/25", "192.0.2.3/32", "2001:db8:2::2/128"] {
            assert_eq!(reason(&fib, prefix), None, "{prefix}");
        }
        // A session that is up protects too.
        fib.mark_next_hop_up(ip("192.0.2.3"), 0);
        w.settle(&mut fib);
        assert_eq!(reason(&fib, "192.0.2.3/32"), Some(Reason::CoversNextHop));
        assert_eq!(fib.verify().unwrap(), []);
    });
}

#[test]
fn a_container_gets_its_ipv6_gateway_back() {
    World::run(|mut w| {
        let dev = w.far_b;
        let gateway = crate::model::gateway6(dev);
        w.config.gateway6 = true;
        w.address(dev, &gateway.to_string(), 128);
        let mut fib = w.fib();
        fib.set_local(p("fd00:32::7/128"), dev);
        fib.set_local(p("10.32.0.7/32"), dev);
        w.settle(&mut fib);
        let there = |w: &mut World| {
            let list = addr::list(&mut w.socket).unwrap();
            list.iter().filter(|a| a.ifindex == dev && a.addr == IpAddr::V6(gateway)).count()
        };
        addr::delete(&mut w.socket, dev, gateway.into(), 128).unwrap();
        assert_eq!(there(&mut w), 0);
        w.settle(&mut fib);
        assert_eq!(there(&mut w), 1);
        // A link that is set down loses it without a word about each.
        link::set_down(&mut w.socket, dev).unwrap();
        w.settle(&mut fib);
        link::set_up(&mut w.socket, dev).unwrap();
        w.settle(&mut fib);
        assert_eq!(there(&mut w), 1);
        assert_eq!(w.table(), ["10.32.0.7/32 dev", "fd00:32::7/128 dev"]);
        // The audit finds it too.
        addr::delete(&mut w.socket, dev, gateway.into(), 128).unwrap();
        fib.resync(Instant::now());
        while fib.step(Instant::now(), 64).unwrap().more {}
        assert_eq!(there(&mut w), 1);
    });
}

#[test]
fn another_protocol_number_takes_the_routes_over() {
    World::run(|mut w| {
        let mut fib = w.fib();
        fib.set(p("10.1.0.0/24"), &set(&["192.0.2.1", "192.0.2.3"]));
        fib.set(p("10.2.0.0/24"), &set(&["192.0.2.1"]));
        fib.set(p("fd01::/64"), &set(&["2001:db8:1::2"]));
        fib.set_blackhole(p("10.9.0.0/24"));
        w.settle(&mut fib);
        let whole = w.table();
        assert_eq!(whole.len(), 4);
        drop(fib);
        assert_eq!(crate::netlink::relabel(&mut w.socket, 32, 77).unwrap(), 4);
        (w.config.protocol, w.config.former) = (77, vec![32]);
        let kernel = Netlink::new(Socket::route().unwrap());
        let mut fib = Fib::new(w.config.clone(), kernel, Instant::now()).unwrap();
        while fib.step(Instant::now(), 64).unwrap().more {}
        // As after any restart: what is there stays until all is known, and leads where it led.
        assert_eq!(w.table(), whole);
        fib.set(p("10.1.0.0/24"), &set(&["192.0.2.1", "192.0.2.3"]));
        fib.set(p("fd01::/64"), &set(&["2001:db8:1::2"]));
        fib.set_blackhole(p("10.9.0.0/24"));
        while fib.step(Instant::now(), 1).unwrap().more {}
        fib.sweep_stale(None);
        while fib.step(Instant::now(), 1).unwrap().more {}
        let without: Vec<_> = whole.iter().filter(|r| !r.starts_with("10.2.")).cloned().collect();
        assert_eq!(w.table(), without);
        assert_eq!(fib.verify().unwrap(), []);
        let objects = nexthop::list(&mut w.socket).unwrap();
        assert!(objects.iter().all(|o| o.protocol == 77 && o.id >> 24 == 77), "{objects:?}");
        assert!(!objects.is_empty());
    });
}
