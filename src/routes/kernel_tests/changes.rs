//! Routes come, change and go; next hops are lost and found.

use super::*;

#[test]
fn routes_of_both_families_come_change_and_go() {
    World::run(|mut w| {
        let mut fib = w.fib();
        fib.set(p("10.1.0.0/24"), &set(&["192.0.2.1", "192.0.2.3*3"]));
        fib.set(p("10.1.1.1/32"), &set(&["192.0.2.1"]));
        fib.set(p("10.1.2.0/24"), &set(&[&format!("fe80::99%{}", w.a)]));
        fib.set(p("fd01::/64"), &set(&["2001:db8:1::2", "2001:db8:2::2"]));
        fib.set(p("fd02::1/128"), &set(&[&format!("fe80::99%{}", w.b)]));
        fib.set_blackhole(p("10.32.4.0/24"));
        fib.set_blackhole(p("fd00:32::/64"));
        w.settle(&mut fib);
        assert_eq!(
            w.table(),
            [
                "10.1.0.0/24 192.0.2.1 192.0.2.3*3",
                "10.1.1.1/32 192.0.2.1",
                "10.1.2.0/24 fe80::99",
                "10.32.4.0/24 drop",
                "fd00:32::/64 drop",
                "fd01::/64 2001:db8:1::2 2001:db8:2::2",
                "fd02::1/128 fe80::99",
            ]
        );
        assert_eq!(fib.verify().unwrap(), []);
        let summary = fib.summary();
        assert_eq!((summary.ipv4, summary.ipv6, summary.installed, summary.blackholes), (3, 2, 5, 2));

        fib.set(p("10.1.1.1/32"), &set(&["192.0.2.3"]));
        fib.set(p("fd02::1/128"), &set(&["2001:db8:1::2"]));
        fib.remove(p("10.1.0.0/24"));
        fib.remove(p("10.1.2.0/24"));
        fib.remove_blackhole(p("fd00:32::/64"));
        fib.set(p("10.32.4.0/24"), &set(&["192.0.2.3"]));
        w.settle(&mut fib);
        assert_eq!(reason(&fib, "10.32.4.0/24"), Some(Reason::OwnBlock));
        fib.remove_blackhole(p("10.32.4.0/24"));
        w.settle(&mut fib);
        assert_eq!(
            w.table(),
            [
                "10.1.1.1/32 192.0.2.3",
                "10.32.4.0/24 192.0.2.3",
                "fd01::/64 2001:db8:1::2 2001:db8:2::2",
                "fd02::1/128 2001:db8:1::2",
            ]
        );
        assert_eq!(fib.verify().unwrap(), []);
        fib.clear();
        w.settle(&mut fib);
        assert_eq!(w.table(), [""; 0]);
        assert_eq!(nexthop::list(&mut w.socket).unwrap(), []);
        assert_eq!(fib.summary().counters.refused, 0);
    });
}

#[test]
fn a_lost_next_hop_costs_one_message_a_set() {
    World::run(|mut w| {
        let mut fib = w.fib();
        let both = set(&["192.0.2.1", "192.0.2.3"]);
        for i in 0..300u32 {
            fib.set(Prefix::host(IpAddr::from((0x0a01_0000 + i).to_be_bytes())), &both);
        }
        w.settle(&mut fib);
        let before = fib.summary().counters;
        assert_eq!(before.created, 300);
        fib.mark_next_hop_down(ip("192.0.2.1"), 0);
        w.settle(&mut fib);
        let after = fib.summary().counters;
        assert_eq!((after.created, after.changed, after.deleted), (300, 0, 0));
        // The group, and the object that nothing uses any more.
        assert_eq!(after.objects_written - before.objects_written, 2);
        assert!(w.table().iter().all(|r| r.ends_with(" 192.0.2.3")));
        // The last one too: the routes leave the kernel, and come back.
        fib.mark_next_hop_down(ip("192.0.2.3"), 0);
        w.settle(&mut fib);
        assert_eq!(w.table(), [""; 0]);
        assert_eq!(fib.summary().unresolved, 300);
        assert_eq!(reason(&fib, "10.1.0.7/32"), Some(Reason::Unresolved));
        assert_eq!(fib.verify().unwrap(), []);
        fib.mark_next_hop_up(ip("192.0.2.1"), 0);
        fib.mark_next_hop_up(ip("192.0.2.3"), 0);
        w.settle(&mut fib);
        assert_eq!(w.table().len(), 300);
        assert!(w.table().iter().all(|r| r.ends_with(" 192.0.2.1 192.0.2.3")));
        assert_eq!(fib.verify().unwrap(), []);
        assert_eq!(fib.summary().counters.refused, 0);
    });
}

#[test]
fn links_go_and_come_back() {
    World::run(|mut w| {
        let mut fib = w.fib();
        let device = w.a;
        fib.set(p("10.1.0.0/24"), &set(&["192.0.2.1", "192.0.2.3"]));
        fib.set(p("10.2.0.0/24"), &set(&["192.0.2.1"]));
        fib.set(p("fd01::/64"), &set(&["2001:db8:1::2", "2001:db8:2::2"]));
        fib.set(p("fd02::/64"), &set(&[&format!("fe80::1%{device}")]));
        w.settle(&mut fib);
        let whole = w.table();
        assert_eq!(whole.len(), 4);
        fib.look_at_links();
        assert!(fib.uses_links());
        // The carrier.
        let far = w.far_a;
        link::set_down(&mut w.socket, far).unwrap();
        w.settle(&mut fib);
        assert_eq!(w.table(), ["10.1.0.0/24 192.0.2.3", "fd01::/64 2001:db8:2::2"]);
        assert_eq!(fib.verify().unwrap(), []);
        link::set_up(&mut w.socket, far).unwrap();
        w.settle(&mut fib);
        assert_eq!(w.table(), whole);
        // Down and up before we look.
        link::set_down(&mut w.socket, device).unwrap();
        link::set_up(&mut w.socket, device).unwrap();
        w.address(device, "2001:db8:1::1", 64);
        w.settle(&mut fib);
        assert_eq!(w.table(), whole);
        assert_eq!(fib.verify().unwrap(), []);
        // The link itself; the kernel forgets its IPv6 addresses.
        link::set_down(&mut w.socket, device).unwrap();
        w.settle(&mut fib);
        assert_eq!(w.table(), ["10.1.0.0/24 192.0.2.3", "fd01::/64 2001:db8:2::2"]);
        link::set_up(&mut w.socket, device).unwrap();
        w.address(device, "2001:db8:1::1", 64);
        w.settle(&mut fib);
        assert_eq!(w.table(), whole);
        // Both.
        let far_b = w.far_b;
        link::set_down(&mut w.socket, far).unwrap();
        link::set_down(&mut w.socket, far_b).unwrap();
        w.settle(&mut fib);
        assert_eq!(w.table(), [""; 0]);
        fib.look_at_links();
        assert!(!fib.uses_links());
        link::set_up(&mut w.socket, far).unwrap();
        link::set_up(&mut w.socket, far_b).unwrap();
        w.settle(&mut fib);
        assert_eq!(w.table(), whole);
        assert_eq!(fib.verify().unwrap(), []);
        // Gone for good.
        link::delete(&mut w.socket, device).unwrap();
        w.settle(&mut fib);
        assert_eq!(w.table(), ["10.1.0.0/24 192.0.2.3", "fd01::/64 2001:db8:2::2"]);
        assert_eq!(fib.verify().unwrap(), []);
    });
}

#[test]
fn next_hops_resolve_through_other_routes() {
    World::run(|mut w| {
        let b = w.b;
        w.foreign("198.51.100.0/24", 0, "192.0.2.3", b);
        let mut fib = w.fib();
        // Through a static route, through a learned route, through a chain of them, and not at all.
        fib.set(p("10.1.0.0/24"), &set(&["198.51.100.7"]));
        fib.set(p("203.0.113.1/32"), &set(&["192.0.2.1", "192.0.2.3"]));
        fib.set(p("10.2.0.0/24"), &set(&["203.0.113.1"]));
        fib.set(p("203.0.113.2/32"), &set(&["203.0.113.1"]));
        fib.set(p("10.3.0.0/24"), &set(&["203.0.113.2"]));
        fib.set(p("10.4.0.0/24"), &set(&["203.0.113.9"]));
        fib.set(p("10.5.0.0/24"), &set(&["192.0.2.0"]));
        w.settle(&mut fib);
        let expected = [
            "10.1.0.0/24 192.0.2.3",
            "10.2.0.0/24 192.0.2.1 192.0.2.3",
            "10.3.0.0/24 192.0.2.1 192.0.2.3",
            "203.0.113.1/32 192.0.2.1 192.0.2.3",
            "203.0.113.2/32 192.0.2.1 192.0.2.3",
        ];
        assert_eq!(w.table(), expected);
        assert_eq!(reason(&fib, "10.4.0.0/24"), Some(Reason::Unresolved));
        let status = fib.routes(RouteFilter { prefix: Some(p("10.5.0.0/24")), ..RouteFilter::default() });
        assert_eq!(status[0].next_hops[0].unresolved, Some(Unresolved::OwnAddress));
        // The learned route's next hop is lost: everything behind it follows.
        fib.mark_next_hop_down(ip("192.0.2.1"), 0);
        w.settle(&mut fib);
        assert!(w.table().iter().all(|r| r.ends_with(" 192.0.2.3")), "{:?}", w.table());
        fib.mark_next_hop_up(ip("192.0.2.1"), 0);
        fib.remove(p("203.0.113.1/32"));
        w.settle(&mut fib);
        assert_eq!(w.table(), ["10.1.0.0/24 192.0.2.3"]);
        fib.set(p("203.0.113.1/32"), &set(&["192.0.2.1"]));
        w.settle(&mut fib);
        assert_eq!(w.table().len(), 5);
        // A static route appears and goes.
        w.foreign("203.0.113.9/32", 0, "192.0.2.3", b);
        w.settle(&mut fib);
        assert!(w.table().contains(&"10.4.0.0/24 192.0.2.3".to_owned()));
        w.delete_foreign("203.0.113.9/32");
        w.delete_foreign("198.51.100.0/24");
        w.settle(&mut fib);
        assert_eq!(reason(&fib, "10.4.0.0/24"), Some(Reason::Unresolved));
        assert_eq!(reason(&fib, "10.1.0.0/24"), Some(Reason::Unresolved));
        // A circle.
        fib.set(p("198.51.100.1/32"), &set(&["198.51.100.2"]));
        fib.set(p("198.51.100.2/32"), &set(&["198.51.100.1"]));
        w.settle(&mut fib);
        assert_eq!(reason(&fib, "198.51.100.1/32"), Some(Reason::Unresolved));
        assert_eq!(fib.verify().unwrap(), []);
    });
}

#[test]
fn neighbours_that_fail_are_left_out_while_others_answer() {
    World::run(|mut w| {
        let mut fib = w.fib();
        fib.set(p("10.1.0.0/24"), &set(&["192.0.2.1", "192.0.2.3"]));
        fib.set(p("10.2.0.0/24"), &set(&["192.0.2.1"]));
        w.settle(&mut fib);
        let entry = |dev, state| Neighbour {
            ifindex: dev,
            addr: ip("192.0.2.1"),
            state,
            hardware: if state == Neighbour::FAILED { vec![] } else { vec![2, 0, 0, 0, 0, 1] },
        };
        let mut batch = Batch::new();
        neigh::push_set(&mut batch, &entry(w.a, Neighbour::PERMANENT));
        neigh::push_set(&mut batch, &entry(w.a, Neighbour::FAILED));
        w.socket.execute(&mut batch).unwrap();
        w.settle(&mut fib);
        // The only one stays: better a bad way than none.
        assert_eq!(w.table(), ["10.1.0.0/24 192.0.2.3", "10.2.0.0/24 192.0.2.1"]);
        assert_eq!(fib.verify().unwrap(), []);
        let mut batch = Batch::new();
        neigh::push_set(&mut batch, &entry(w.a, Neighbour::PERMANENT));
        w.socket.execute(&mut batch).unwrap();
        w.settle(&mut fib);
        assert_eq!(w.table(), ["10.1.0.0/24 192.0.2.1 192.0.2.3", "10.2.0.0/24 192.0.2.1"]);
    });
}

#[test]
fn without_next_hop_objects_routes_carry_their_next_hops() {
    World::run(|mut w| {
        w.config.nexthop_objects = false;
        let mut fib = w.fib();
        let device = w.a;
        fib.set(p("10.1.0.0/24"), &set(&["192.0.2.1", "192.0.2.3*2"]));
        fib.set(p("10.2.0.0/24"), &set(&["192.0.2.1"]));
        fib.set(p("10.3.0.0/24"), &set(&[&format!("fe80::9%{device}")]));
        fib.set(p("fd01::/64"), &set(&["2001:db8:1::2", "2001:db8:2::2"]));
        w.settle(&mut fib);
        let whole = w.table();
        assert_eq!(
            whole,
            [
                "10.1.0.0/24 192.0.2.1 192.0.2.3*2",
                "10.2.0.0/24 192.0.2.1",
                "10.3.0.0/24 fe80::9",
                "fd01::/64 2001:db8:1::2 2001:db8:2::2",
            ]
        );
        assert_eq!(fib.verify().unwrap(), []);
        assert_eq!(nexthop::list(&mut w.socket).unwrap(), []);
        fib.mark_next_hop_down(ip("192.0.2.1"), 0);
        fib.mark_next_hop_down(ip("2001:db8:1::2"), 0);
        w.settle(&mut fib);
        assert_eq!(w.table(), ["10.1.0.0/24 192.0.2.3", "10.3.0.0/24 fe80::9", "fd01::/64 2001:db8:2::2"]);
        assert_eq!(fib.verify().unwrap(), []);
        fib.mark_next_hop_up(ip("192.0.2.1"), 0);
        fib.mark_next_hop_up(ip("2001:db8:1::2"), 0);
        w.settle(&mut fib);
        assert_eq!(w.table(), whole);
        w.delete("10.1.0.0/24", 32);
        w.settle(&mut fib);
        assert_eq!(w.table(), whole);
        fib.resync(Instant::now());
        let before = fib.summary().counters;
        w.settle(&mut fib);
        let after = fib.summary().counters;
        assert_eq!((after.created, after.changed), (before.created, before.changed));
    });
}
