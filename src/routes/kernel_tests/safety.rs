//! Foreign routes, hijacks, limits, and the routes of containers.

use super::*;

#[test]
fn foreign_routes_are_never_touched() {
    World::run(|mut w| {
        let (a, b) = (w.a, w.b);
        w.foreign("10.1.0.0/24", 1024, "192.0.2.3", b);
        w.foreign("fd01::/64", 1024, "2001:db8:2::2", b);
        w.foreign("10.3.0.0/24", 5, "192.0.2.3", b);
        let mut fib = w.fib();
        for prefix in ["10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24"] {
            fib.set(p(prefix), &set(&["192.0.2.1"]));
        }
        fib.set(p("fd01::/64"), &set(&["2001:db8:1::2"]));
        w.settle(&mut fib);
        assert_eq!(w.table(), ["10.2.0.0/24 192.0.2.1", "10.3.0.0/24 192.0.2.1"]);
        assert_eq!(reason(&fib, "10.1.0.0/24"), Some(Reason::Conflict));
        assert_eq!(reason(&fib, "fd01::/64"), Some(Reason::Conflict));
        // Ours is there, but the kernel prefers theirs: told.
        let status = fib.routes(RouteFilter { prefix: Some(p("10.3.0.0/24")), ..RouteFilter::default() });
        assert!(status[0].installed && status[0].foreign.as_ref().is_some_and(|f| f.metric == 5));
        assert_eq!((fib.summary().conflicts, fib.summary().shadowed), (2, 1));
        let kinds: Vec<_> = fib.verify().unwrap().iter().map(|d| (d.what.clone(), d.kind)).collect();
        let conflict = |what: &str| (what.to_owned(), DifferenceKind::Conflict);
        let shadowed = ("10.3.0.0/24".to_owned(), DifferenceKind::Shadowed);
        assert_eq!(kinds, [conflict("10.1.0.0/24"), shadowed, conflict("fd01::/64")]);
        // One that we have not heard of yet.
        w.foreign("10.4.0.0/24", 1024, "192.0.2.1", a);
        fib.set(p("10.4.0.0/24"), &set(&["192.0.2.3"]));
        while fib.step(Instant::now(), 64).unwrap().more {}
        assert_eq!(reason(&fib, "10.4.0.0/24"), Some(Reason::Conflict));
        // They go, and ours comes.
        for prefix in ["10.1.0.0/24", "10.4.0.0/24", "fd01::/64"] {
            w.delete_foreign(prefix);
        }
        w.settle(&mut fib);
        assert_eq!(w.table().len(), 5);
        assert_eq!(fib.summary().conflicts, 0);
        // Somebody replaces ours: theirs stays until it goes.
        let key = route::Key { prefix: p("10.2.0.0/24"), table: TABLE_MAIN, protocol: 4, metric: 1024 };
        let mut batch = Batch::new();
        route::push(&mut batch, &key, route::Target::Blackhole, route::Mode::Replace);
        w.socket.execute(&mut batch).unwrap();
        w.settle(&mut fib);
        assert_eq!(reason(&fib, "10.2.0.0/24"), Some(Reason::Conflict));
        fib.remove(p("10.2.0.0/24"));
        w.settle(&mut fib);
        let theirs = Filter { table: Some(TABLE_MAIN), protocol: Some(4) };
        let left = route::list(&mut w.socket, Family::Ipv4, theirs).unwrap();
        assert_eq!(left.iter().map(|r| r.prefix).collect::<Vec<_>>(), [p("10.2.0.0/24"), p("10.3.0.0/24")]);
        w.delete_foreign("10.3.0.0/24");
        w.settle(&mut fib);
        assert_eq!(fib.verify().unwrap(), []);
    });
}

/// It takes a container's packets away, whatever else is right.
#[test]
fn a_better_route_of_others_for_a_container_is_told() {
    World::run(|mut w| {
        let (a, dev) = (w.a, w.far_b);
        let mut fib = w.fib();
        fib.set_local(p("10.32.0.7/32"), dev);
        fib.set_local(p("10.32.0.8/32"), dev);
        fib.set_blackhole(p("10.32.0.0/24"));
        w.settle(&mut fib);
        let whole = w.table();
        for prefix in ["10.32.0.7/32", "10.32.0.0/24"] {
            w.foreign(prefix, 0, "192.0.2.1", a);
            w.settle(&mut fib);
            assert_eq!(w.table(), whole);
            let differences = fib.verify().unwrap();
            assert_eq!(differences.len(), 1, "{differences:?}");
            assert_eq!(differences[0].kind, DifferenceKind::Shadowed);
            assert!(differences[0].detail.contains("via 192.0.2.1 dev up-a has metric 0"), "{differences:?}");
            let problems = fib.summary().problems().join("\n");
            assert!(problems.contains(&format!("{prefix} (route of protocol 4, metric 0)")), "{problems}");
            let routes = fib.routes(RouteFilter::default());
            let told: Vec<_> = routes.iter().filter(|r| r.foreign.is_some()).map(|r| r.prefix).collect();
            assert_eq!(told, [p(prefix)]);
            w.delete_foreign(prefix);
            w.settle(&mut fib);
            assert_eq!(fib.verify().unwrap(), []);
            assert_eq!(fib.summary().problems(), [""; 0]);
        }
    });
}

#[test]
fn learned_routes_cover_nothing_of_ours() {
    World::run(|mut w| {
        let mut fib = w.fib();
        let way = set(&["192.0.2.1"]);
        fib.set_local(p("10.32.0.7/32"), w.far_b);
        for prefix in [
            "10.32.0.7/32", // a container
            "192.0.2.0/32", // the host
            "192.0.2.1/32", // the route's own next hop
            "192.0.2.0/31", // the network of its next hop
            "127.0.0.0/8",
            "0.0.0.0/0",
            "192.0.0.0/16",
            "10.32.0.8/32",
        ] {
            fib.set(p(prefix), &way);
        }
        fib.set(p("2001:db8:1::1/128"), &set(&["2001:db8:1::2"]));
        fib.set(p("fd01::/64"), &way);
        w.settle(&mut fib);
        assert_eq!(
            w.table(),
            ["0.0.0.0/0 192.0.2.1", "10.32.0.7/32 dev", "10.32.0.8/32 192.0.2.1", "192.0.0.0/16 192.0.2.1"]
        );
        for (prefix, why) in [
            ("192.0.2.0/32", Reason::HostAddress),
            ("192.0.2.1/32", Reason::CoversNextHop),
            ("192.0.2.0/31", Reason::CoversNextHop),
            ("127.0.0.0/8", Reason::Martian),
            ("2001:db8:1::1/128", Reason::HostAddress),
            ("fd01::/64", Reason::Family),
        ] {
            assert_eq!(reason(&fib, prefix), Some(why), "{prefix}");
        }
        // Neighbours announce such things all the time: no cause for alarm.
        assert_eq!(fib.summary().problems(), [""; 0]);
        // One that somebody else's next hop needs is refused as soon as it is one; and possible when it is none.
        fib.set(p("192.0.2.3/32"), &way);
        w.settle(&mut fib);
        assert_eq!(reason(&fib, "192.0.2.3/32"), None);
        fib.set(p("10.9.0.0/24"), &set(&["192.0.2.3"]));
        w.settle(&mut fib);
        assert_eq!(reason(&fib, "192.0.2.3/32"), Some(Reason::CoversNextHop));
        fib.remove(p("10.9.0.0/24"));
        w.settle(&mut fib);
        assert_eq!(reason(&fib, "192.0.2.3/32"), None);
        // The container goes, an address comes.
        fib.remove_local(p("10.32.0.7/32"));
        let dev = w.b;
        w.address(dev, "10.32.0.8", 32);
        w.settle(&mut fib);
        assert!(w.table().contains(&"10.32.0.7/32 192.0.2.1".to_owned()));
        assert_eq!(reason(&fib, "10.32.0.8/32"), Some(Reason::HostAddress));
        assert_eq!(fib.verify().unwrap(), []);
    });
}

#[test]
fn the_limit_holds_and_room_is_filled() {
    World::run(|mut w| {
        w.config.max_routes = 10;
        let mut fib = w.fib();
        let way = set(&["192.0.2.1"]);
        for i in 0..15u8 {
            fib.set(Prefix::host([10, 1, 0, i].into()), &way);
        }
        w.settle(&mut fib);
        assert_eq!(w.table().len(), 10);
        assert_eq!(fib.summary().rejected, 5);
        for i in 0..3u8 {
            fib.remove(Prefix::host([10, 1, 0, i].into()));
        }
        w.settle(&mut fib);
        assert_eq!(w.table().len(), 10);
        assert_eq!(fib.summary().rejected, 2);
        assert_eq!(fib.verify().unwrap(), []);
    });
}

#[test]
fn containers_routes_are_kept_and_never_swept() {
    World::run(|mut w| {
        let dev = w.far_a;
        // Written by the attachment before the FIB hears of it.
        let key = |prefix| route::Key { prefix: p(prefix), table: TABLE_MAIN, protocol: 32, metric: 1 };
        let mut batch = Batch::new();
        route::push(&mut batch, &key("10.32.0.1/32"), route::Target::Device(dev), route::Mode::Create);
        route::push(&mut batch, &key("fd00:32::1/128"), route::Target::Device(dev), route::Mode::Create);
        w.socket.execute(&mut batch).unwrap();
        let mut fib = w.fib();
        let mut batch = Batch::new();
        route::push(&mut batch, &key("10.32.0.2/32"), route::Target::Device(dev), route::Mode::Create);
        w.socket.execute(&mut batch).unwrap();
        w.settle(&mut fib);
        assert_eq!(w.table(), ["10.32.0.1/32 dev", "10.32.0.2/32 dev", "fd00:32::1/128 dev"]);
        // The command may overtake the notification.
        let mut batch = Batch::new();
        route::push(&mut batch, &key("10.32.0.3/32"), route::Target::Device(dev), route::Mode::Create);
        w.socket.execute(&mut batch).unwrap();
        for prefix in ["10.32.0.1/32", "fd00:32::1/128", "10.32.0.2/32", "10.32.0.3/32"] {
            fib.set_local(p(prefix), dev);
        }
        while fib.step(Instant::now(), 64).unwrap().more {}
        w.settle(&mut fib);
        assert_eq!(w.table().len(), 4);
        assert_eq!(fib.verify().unwrap(), []);
        // Another device; and the link's own ways.
        let other = w.far_b;
        fib.set_local(p("10.32.0.1/32"), other);
        fib.remove_local(p("10.32.0.2/32"));
        w.settle(&mut fib);
        assert_eq!(w.table(), ["10.32.0.1/32 dev", "10.32.0.3/32 dev", "fd00:32::1/128 dev"]);
        link::set_down(&mut w.socket, dev).unwrap();
        w.settle(&mut fib);
        assert_eq!(w.table(), ["10.32.0.1/32 dev"]);
        link::set_up(&mut w.socket, dev).unwrap();
        w.settle(&mut fib);
        assert_eq!(w.table(), ["10.32.0.1/32 dev", "10.32.0.3/32 dev", "fd00:32::1/128 dev"]);
        assert_eq!(fib.verify().unwrap(), []);
    });
}

/// What a container's end takes with it is not repaired while it is down, and nothing is asked that the kernel refuses.
#[test]
fn a_containers_interface_goes_down_and_up() {
    World::run(|mut w| {
        let dev = w.far_b;
        let mut fib = w.fib();
        fib.set_local(p("10.32.0.7/32"), dev);
        fib.set_local(p("fd00:32::7/128"), dev);
        fib.set_blackhole(p("10.32.0.0/24"));
        w.settle(&mut fib);
        let whole = w.table();
        assert_eq!(whole.len(), 3);
        let counters = |fib: &Fib<Netlink>| (fib.summary().counters.repaired, fib.summary().counters.refused);
        assert_eq!(counters(&fib), (0, 0));
        link::set_down(&mut w.socket, dev).unwrap();
        w.settle(&mut fib);
        assert_eq!(w.table(), ["10.32.0.0/24 drop"]);
        assert_eq!(counters(&fib), (0, 0));
        let problems = fib.summary().problems().join("\n");
        assert!(
            problems.contains("2 routes to containers") && problems.contains("s32-far-b is down"),
            "{problems}"
        );
        link::set_up(&mut w.socket, dev).unwrap();
        w.settle(&mut fib);
        assert_eq!(w.table(), whole);
        assert_eq!(counters(&fib), (2, 0));
        assert_eq!(fib.summary().problems(), [""; 0]);
        // Without a carrier, too.
        let far = w.b;
        link::set_down(&mut w.socket, far).unwrap();
        w.settle(&mut fib);
        link::set_down(&mut w.socket, dev).unwrap();
        w.settle(&mut fib);
        assert_eq!(w.table(), ["10.32.0.0/24 drop"]);
        link::set_up(&mut w.socket, dev).unwrap();
        w.settle(&mut fib);
        assert_eq!(w.table(), whole);
        assert_eq!(counters(&fib), (4, 0));
        // The kernel tells of the routes before it tells of the link.
        link::set_down(&mut w.socket, dev).unwrap();
        let (routes, others): (Vec<_>, Vec<_>) =
            w.news().into_iter().partition(|event| matches!(event, KernelEvent::RouteGone(_)));
        assert!(!routes.is_empty() && !others.is_empty());
        for event in routes {
            fib.handle_event(event, Instant::now());
            while fib.step(Instant::now(), 64).unwrap().more {}
        }
        assert_eq!(counters(&fib), (4, 0));
        for event in others {
            fib.handle_event(event, Instant::now());
        }
        link::set_up(&mut w.socket, dev).unwrap();
        w.settle(&mut fib);
        assert_eq!(w.table(), whole);
        assert_eq!(counters(&fib), (6, 0));
        // As a detachment does it.
        link::set_down(&mut w.socket, dev).unwrap();
        fib.remove_local(p("10.32.0.7/32"));
        fib.remove_local(p("fd00:32::7/128"));
        w.settle(&mut fib);
        link::delete(&mut w.socket, dev).unwrap();
        w.settle(&mut fib);
        assert_eq!(counters(&fib), (6, 0));
        assert_eq!(fib.verify().unwrap(), []);
    });
}

/// What goes with a link is no damage by somebody; what somebody deletes is.
#[test]
fn only_what_others_did_counts_as_repaired() {
    World::run(|mut w| {
        let (a, mut fib) = (w.a, w.fib());
        for i in 0..20u8 {
            fib.set(Prefix::host([10, 1, 0, i].into()), &set(&["192.0.2.1", "192.0.2.3"]));
            fib.set(Prefix::host(ip(&format!("fd01::{i}"))), &set(&["2001:db8:1::2"]));
        }
        w.settle(&mut fib);
        assert_eq!(fib.summary().installed, 40);
        link::set_down(&mut w.socket, a).unwrap();
        w.settle(&mut fib);
        assert_eq!(fib.summary().installed, 20);
        assert_eq!((fib.summary().counters.repaired, fib.summary().counters.refused), (0, 0));
        link::set_up(&mut w.socket, a).unwrap();
        w.address(a, "2001:db8:1::1", 64);
        w.settle(&mut fib);
        assert_eq!(fib.summary().installed, 40);
        assert_eq!((fib.summary().counters.repaired, fib.summary().counters.refused), (0, 0));
        w.delete("fd01::7/128", 32);
        w.delete("10.1.0.7/32", 32);
        w.settle(&mut fib);
        assert_eq!(fib.summary().installed, 40);
        assert_eq!(fib.summary().counters.repaired, 2);
        // What is to go and has gone is not refused.
        for prefix in ["fd01::7/128", "10.1.0.7/32"] {
            w.delete(prefix, 32);
            fib.remove(p(prefix));
            while fib.step(Instant::now(), 64).unwrap().more {}
        }
        w.settle(&mut fib);
        assert_eq!((fib.summary().installed, fib.summary().counters.refused), (38, 0));
        assert_eq!(fib.summary().last_error, None);
    });
}
