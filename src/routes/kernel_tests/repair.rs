//! What others did to the kernel, what an audit finds, and what a start takes over.

use super::*;

#[test]
fn what_somebody_deletes_comes_back() {
    World::run(|mut w| {
        let mut fib = w.fib();
        let device = w.b;
        fib.set(p("10.1.0.0/24"), &set(&["192.0.2.1", "192.0.2.3"]));
        fib.set(p("10.2.0.0/24"), &set(&["192.0.2.3"]));
        fib.set(p("fd01::/64"), &set(&["2001:db8:1::2"]));
        fib.set_blackhole(p("10.32.0.0/24"));
        fib.set_local(p("10.32.0.7/32"), device);
        w.settle(&mut fib);
        let whole = w.table();
        assert_eq!(whole.len(), 5);
        for prefix in ["10.1.0.0/24", "fd01::/64", "10.32.0.0/24", "10.32.0.7/32"] {
            w.delete(prefix, 32);
            assert_eq!(w.table().len(), 4);
            w.settle(&mut fib);
            assert_eq!(w.table(), whole, "{prefix}");
        }
        // Every next-hop object and group, one after the other and all at once.
        for object in nexthop::list(&mut w.socket).unwrap() {
            w.delete_object(object.id);
            w.settle(&mut fib);
            assert_eq!(w.table(), whole, "{object:?}");
        }
        for object in nexthop::list(&mut w.socket).unwrap() {
            // Groups may have gone with their members.
            let mut batch = Batch::new();
            nexthop::push_delete(&mut batch, object.id);
            w.socket.transact(&mut batch).unwrap();
        }
        w.settle(&mut fib);
        assert_eq!(w.table(), whole);
        // Somebody writes something else into our objects and routes.
        let objects = nexthop::list(&mut w.socket).unwrap();
        let member = objects.iter().find(|o| matches!(o.kind, nexthop::Kind::Via(_))).unwrap();
        let group = objects.iter().find(|o| matches!(o.kind, nexthop::Kind::Group(_))).unwrap();
        let via = nexthop::Via { gateway: ip("192.0.2.3"), ifindex: device, onlink: false };
        let mut batch = Batch::new();
        nexthop::push_via(&mut batch, member.id, 32, &via, nexthop::Mode::Replace);
        nexthop::push_group(&mut batch, group.id, 32, &[(member.id, 9)], nexthop::Mode::Replace);
        let key = route::Key { prefix: p("10.2.0.0/24"), table: TABLE_MAIN, protocol: 32, metric: 1024 };
        route::push(&mut batch, &key, route::Target::Blackhole, route::Mode::Replace);
        w.socket.execute(&mut batch).unwrap();
        w.settle(&mut fib);
        assert_eq!(w.table(), whole);
        assert_eq!(fib.verify().unwrap(), []);
        // Only a first hop, while the groups that it is in stay as they are.
        let wrong = nexthop::Via { gateway: ip("192.0.2.9"), ifindex: device, onlink: true };
        for member in objects.iter().filter(|o| matches!(o.kind, nexthop::Kind::Via(_))) {
            let mut batch = Batch::new();
            nexthop::push_via(&mut batch, member.id, 32, &wrong, nexthop::Mode::Replace);
            if w.socket.execute(&mut batch).is_err() {
                // An IPv6 next hop that IPv6 routes use cannot become an IPv4 one.
                continue;
            }
            w.settle(&mut fib);
            assert_eq!(w.table(), whole, "{member:?}");
            assert_eq!(fib.verify().unwrap(), []);
        }
        // An address: the kernel removes the connected route, and with it the gateway.
        addr::delete(&mut w.socket, device, ip("192.0.2.2"), 31).unwrap();
        w.settle(&mut fib);
        assert_eq!(reason(&fib, "10.2.0.0/24"), Some(Reason::Unresolved));
        w.address(device, "192.0.2.2", 31);
        w.settle(&mut fib);
        assert_eq!(w.table(), whole);
        assert_eq!(fib.verify().unwrap(), []);
    });
}

#[test]
fn verify_tells_every_difference_and_changes_nothing() {
    World::run(|mut w| {
        let mut fib = w.fib();
        let device = w.b;
        fib.set(p("10.1.0.0/24"), &set(&["192.0.2.1", "192.0.2.3"]));
        fib.set(p("10.2.0.0/24"), &set(&["192.0.2.3"]));
        fib.set(p("fd01::/64"), &set(&["2001:db8:1::2"]));
        fib.set_local(p("10.32.0.7/32"), device);
        w.settle(&mut fib);
        assert_eq!(fib.verify().unwrap(), []);
        w.delete("10.1.0.0/24", 32);
        w.delete("10.32.0.7/32", 32);
        let key = |prefix| route::Key { prefix: p(prefix), table: TABLE_MAIN, protocol: 32, metric: 1024 };
        let mut batch = Batch::new();
        route::push(&mut batch, &key("10.2.0.0/24"), route::Target::Blackhole, route::Mode::Replace);
        route::push(&mut batch, &key("10.9.0.0/24"), route::Target::Blackhole, route::Mode::Create);
        w.socket.execute(&mut batch).unwrap();
        let found = |fib: &mut Fib<Netlink>| {
            let list = fib.verify().unwrap();
            list.into_iter().map(|d| (d.what, d.kind)).collect::<Vec<_>>()
        };
        let expected = [
            ("10.1.0.0/24".to_owned(), DifferenceKind::Missing),
            ("10.2.0.0/24".to_owned(), DifferenceKind::Wrong),
            ("10.32.0.7/32".to_owned(), DifferenceKind::Missing),
            ("10.9.0.0/24".to_owned(), DifferenceKind::Unexpected),
        ];
        assert_eq!(found(&mut fib), expected);
        assert_eq!(found(&mut fib), expected);
        let groups = nexthop::list(&mut w.socket).unwrap();
        for group in groups.iter().filter(|o| matches!(o.kind, nexthop::Kind::Group(_))) {
            w.delete_object(group.id);
        }
        let kinds: Vec<_> = found(&mut fib).into_iter().filter(|(w, _)| w.starts_with("next-hop")).collect();
        assert_eq!(kinds.len(), 3);
        // A resync, without any notification, repairs it all.
        fib.resync(Instant::now());
        while fib.step(Instant::now(), 64).unwrap().more {}
        assert_eq!(fib.verify().unwrap(), []);
    });
}

#[test]
fn a_restart_writes_only_the_difference() {
    World::run(|mut w| {
        let mut fib = w.fib();
        let both = set(&["192.0.2.1", "192.0.2.3"]);
        for i in 0..50u8 {
            fib.set(Prefix::host([10, 1, 0, i].into()), &both);
        }
        fib.set(p("10.2.0.0/24"), &set(&["192.0.2.1"]));
        fib.set(p("fd01::/64"), &set(&["2001:db8:1::2"]));
        fib.set_blackhole(p("10.32.0.0/24"));
        w.settle(&mut fib);
        let objects = nexthop::list(&mut w.socket).unwrap();
        let whole = w.table();
        drop(fib);
        // The same again: nothing is written, and nothing is deleted before the sweep.
        let mut fib =
            Fib::new(w.config.clone(), Netlink::new(Socket::route().unwrap()), Instant::now()).unwrap();
        while fib.step(Instant::now(), 64).unwrap().more {}
        assert_eq!(w.table(), whole);
        assert_eq!(fib.summary().stale, 53);
        assert_eq!(fib.verify().unwrap(), []);
        let status = fib.routes(RouteFilter { prefix: Some(p("10.2.0.0/24")), ..RouteFilter::default() });
        assert!(status[0].stale && status[0].installed);
        assert_eq!(status[0].next_hops[0].gateway, Some(ip("192.0.2.1")));
        let both = set(&["192.0.2.1", "192.0.2.3"]);
        for i in 0..49u8 {
            fib.set(Prefix::host([10, 1, 0, i].into()), &both);
        }
        fib.set(p("10.2.0.0/24"), &set(&["192.0.2.3"]));
        fib.set_blackhole(p("10.32.0.0/24"));
        while fib.step(Instant::now(), 64).unwrap().more {}
        let counters = fib.summary().counters;
        assert_eq!((counters.created, counters.changed, counters.deleted), (0, 1, 0));
        assert_eq!(fib.summary().stale, 2);
        fib.sweep_stale(Some(Family::Ipv6));
        while fib.step(Instant::now(), 64).unwrap().more {}
        assert_eq!(fib.summary().stale, 1);
        fib.sweep_stale(None);
        while fib.step(Instant::now(), 64).unwrap().more {}
        let counters = fib.summary().counters;
        assert_eq!((counters.created, counters.changed, counters.deleted, counters.refused), (0, 1, 2, 0));
        assert_eq!(w.table().len(), 51);
        assert_eq!(fib.verify().unwrap(), []);
        // The group of the two next hops is the one from before.
        let group = |list: &[nexthop::Object]| {
            let is_both = |o: &&nexthop::Object| matches!(&o.kind, nexthop::Kind::Group(m) if m.len() == 2);
            list.iter().find(is_both).map(|o| o.id)
        };
        assert_eq!(group(&nexthop::list(&mut w.socket).unwrap()), group(&objects));
    });
}

#[test]
fn another_table_and_an_old_metric() {
    World::run(|mut w| {
        let mut fib = w.fib();
        fib.set(p("10.1.0.0/24"), &set(&["192.0.2.1"]));
        w.settle(&mut fib);
        drop(fib);
        // The metric was changed in the configuration: the old routes go with the stale ones.
        w.config.metric = 77;
        let mut fib =
            Fib::new(w.config.clone(), Netlink::new(Socket::route().unwrap()), Instant::now()).unwrap();
        fib.set(p("10.1.0.0/24"), &set(&["192.0.2.1"]));
        while fib.step(Instant::now(), 64).unwrap().more {}
        assert_eq!(w.ours().len(), 2);
        fib.sweep_stale(None);
        while fib.step(Instant::now(), 64).unwrap().more {}
        assert_eq!(w.ours().iter().map(|r| r.metric).collect::<Vec<_>>(), [77]);
        fib.clear();
        while fib.step(Instant::now(), 64).unwrap().more {}
        drop(fib);
        w.config.table = 1032;
        let mut fib = w.fib();
        fib.set(p("10.1.0.0/24"), &set(&["192.0.2.1"]));
        fib.set(p("fd01::/64"), &set(&["2001:db8:1::2"]));
        w.settle(&mut fib);
        assert_eq!(w.table(), ["10.1.0.0/24 192.0.2.1", "fd01::/64 2001:db8:1::2"]);
        assert_eq!(fib.verify().unwrap(), []);
    });
}
