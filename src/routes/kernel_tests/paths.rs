//! Many paths, mixed families, suspects, and interfaces that come back as others.

use super::*;

/// 64 next hops of both families, with weights 1 to 64.
fn many(w: &mut World) -> [Arc<NextHopSet>; 2] {
    let (a, b) = (w.a, w.b);
    w.address(a, "198.51.100.1", 24);
    w.address(b, "2001:db8:3::1", 64);
    let of = |make: &dyn Fn(u16) -> IpAddr| {
        Arc::new((1..=64).map(|n| NextHop { gateway: make(n), ifindex: 0, weight: n }).collect())
    };
    [of(&|n| ip(&format!("198.51.100.{}", n + 1))), of(&|n| ip(&format!("2001:db8:3::{:x}", n + 1)))]
}

#[test]
fn sixty_four_weighted_paths_in_groups_and_inline() {
    for objects in [true, false] {
        World::run(move |mut w| {
            w.config.nexthop_objects = objects;
            let [four, six] = many(&mut w);
            let mut fib = w.fib();
            fib.set(p("10.1.0.0/24"), &four);
            fib.set(p("fd01::/64"), &six);
            fib.set(p("10.2.0.0/24"), &six);
            w.settle(&mut fib);
            let table = w.table();
            assert_eq!(table.len(), 3, "{table:?}");
            for row in &table {
                let hops: Vec<_> = row.split(' ').skip(1).collect();
                assert_eq!(hops.len(), 64, "{row}");
                assert_eq!(hops.iter().filter(|h| h.ends_with("*64")).count(), 1, "{row}");
            }
            assert_eq!(fib.verify().unwrap(), []);
            assert_eq!(fib.summary().counters.refused, 0);
            // One less, everywhere.
            fib.mark_next_hop_down(ip("198.51.100.65"), 0);
            fib.mark_next_hop_down(ip("2001:db8:3::41"), 0);
            w.settle(&mut fib);
            assert!(w.table().iter().all(|row| row.split(' ').count() == 64), "{:?}", w.table());
            assert_eq!(fib.verify().unwrap(), []);
        });
    }
}

#[test]
fn ipv4_routes_have_next_hops_of_both_families() {
    for objects in [true, false] {
        World::run(move |mut w| {
            w.config.nexthop_objects = objects;
            let mut fib = w.fib();
            let b = w.b;
            fib.set(p("10.1.0.0/24"), &set(&["2001:db8:1::2"]));
            fib.set(p("10.2.0.0/24"), &set(&["192.0.2.1", "2001:db8:2::2*2", &format!("fe80::7%{b}")]));
            w.settle(&mut fib);
            assert_eq!(
                w.table(),
                ["10.1.0.0/24 2001:db8:1::2", "10.2.0.0/24 192.0.2.1 2001:db8:2::2*2 fe80::7"]
            );
            assert_eq!(fib.verify().unwrap(), []);
            fib.mark_next_hop_down(ip("2001:db8:2::2"), 0);
            fib.mark_next_hop_down(ip("fe80::7"), b);
            w.settle(&mut fib);
            assert_eq!(w.table(), ["10.1.0.0/24 2001:db8:1::2", "10.2.0.0/24 192.0.2.1"]);
            assert_eq!(fib.verify().unwrap(), []);
        });
    }
}

#[test]
fn a_suspect_is_used_only_where_there_is_no_other() {
    World::run(|mut w| {
        let mut fib = w.fib();
        fib.set(p("10.1.0.0/24"), &set(&["192.0.2.1", "192.0.2.3"]));
        fib.set(p("10.2.0.0/24"), &set(&["192.0.2.1"]));
        fib.set(p("203.0.113.1/32"), &set(&["192.0.2.1", "192.0.2.3"]));
        fib.set(p("10.3.0.0/24"), &set(&["203.0.113.1"]));
        fib.set(p("fd01::/64"), &set(&["2001:db8:1::2", "2001:db8:2::2"]));
        w.settle(&mut fib);
        let whole = w.table();
        let before = fib.summary().counters;
        fib.suspect_next_hop(ip("192.0.2.1"), 0);
        fib.suspect_next_hop(ip("2001:db8:1::2"), 0);
        w.settle(&mut fib);
        assert_eq!(
            w.table(),
            [
                "10.1.0.0/24 192.0.2.3",
                "10.2.0.0/24 192.0.2.1",
                "10.3.0.0/24 192.0.2.3",
                "203.0.113.1/32 192.0.2.3",
                "fd01::/64 2001:db8:2::2",
            ]
        );
        let after = fib.summary().counters;
        assert_eq!((after.created, after.changed, after.deleted), (before.created, 0, 0));
        assert_eq!(fib.verify().unwrap(), []);
        // The other one is lost for certain: better a suspect than nothing.
        fib.mark_next_hop_down(ip("192.0.2.3"), 0);
        w.settle(&mut fib);
        assert!(w.table().contains(&"10.1.0.0/24 192.0.2.1".to_owned()), "{:?}", w.table());
        for gateway in ["192.0.2.1", "192.0.2.3", "2001:db8:1::2"] {
            fib.mark_next_hop_up(ip(gateway), 0);
        }
        w.settle(&mut fib);
        assert_eq!(w.table(), whole);
        assert_eq!(fib.verify().unwrap(), []);
    });
}

#[test]
fn neighbours_that_fail_in_ipv6_are_left_out_too() {
    World::run(|mut w| {
        let mut fib = w.fib();
        fib.set(p("fd01::/64"), &set(&["2001:db8:1::2", "2001:db8:2::2"]));
        fib.set(p("10.1.0.0/24"), &set(&["2001:db8:1::2", "192.0.2.3"]));
        w.settle(&mut fib);
        let entry = |dev, state| Neighbour {
            ifindex: dev,
            addr: ip("2001:db8:1::2"),
            state,
            hardware: if state == Neighbour::FAILED { vec![] } else { vec![2, 0, 0, 0, 0, 1] },
        };
        let mut batch = Batch::new();
        neigh::push_set(&mut batch, &entry(w.a, Neighbour::PERMANENT));
        neigh::push_set(&mut batch, &entry(w.a, Neighbour::FAILED));
        w.socket.execute(&mut batch).unwrap();
        w.settle(&mut fib);
        assert_eq!(w.table(), ["10.1.0.0/24 192.0.2.3", "fd01::/64 2001:db8:2::2"]);
        let mut batch = Batch::new();
        neigh::push_set(&mut batch, &entry(w.a, Neighbour::PERMANENT));
        w.socket.execute(&mut batch).unwrap();
        w.settle(&mut fib);
        assert_eq!(
            w.table(),
            ["10.1.0.0/24 192.0.2.3 2001:db8:1::2", "fd01::/64 2001:db8:1::2 2001:db8:2::2"]
        );
    });
}

#[test]
fn an_interface_that_is_made_anew_is_used_again() {
    World::run(|mut w| {
        let mut fib = w.fib();
        fib.set(p("10.1.0.0/24"), &set(&["192.0.2.1", "192.0.2.3"]));
        fib.set(p("10.2.0.0/24"), &set(&["192.0.2.1"]));
        fib.set(p("fd01::/64"), &set(&["2001:db8:1::2"]));
        w.settle(&mut fib);
        let whole = w.table();
        let old = w.a;
        link::delete(&mut w.socket, old).unwrap();
        link::create_veth(&mut w.socket, "up-a", "s32-far-a", None).unwrap();
        let new = link::by_name(&mut w.socket, "up-a").unwrap().index;
        assert_ne!(new, old);
        let far = link::by_name(&mut w.socket, "s32-far-a").unwrap().index;
        for dev in [new, far] {
            link::set_up(&mut w.socket, dev).unwrap();
        }
        // All of it before we look, and then step by step.
        w.address(new, "192.0.2.0", 31);
        w.settle(&mut fib);
        assert_eq!(w.table(), ["10.1.0.0/24 192.0.2.1 192.0.2.3", "10.2.0.0/24 192.0.2.1"]);
        w.address(new, "2001:db8:1::1", 64);
        w.settle(&mut fib);
        assert_eq!(w.table(), whole);
        assert_eq!(fib.verify().unwrap(), []);
        // An IPv6 address goes, and with it the connected network.
        addr::delete(&mut w.socket, new, ip("2001:db8:1::1"), 64).unwrap();
        w.settle(&mut fib);
        assert_eq!(reason(&fib, "fd01::/64"), Some(Reason::Unresolved));
        w.address(new, "2001:db8:1::1", 64);
        w.settle(&mut fib);
        assert_eq!(w.table(), whole);
    });
}

/// What is told of next hops follows whatever leads there: connected networks, routes of others, our own.
#[test]
fn who_watches_next_hops_is_told_what_leads_there() {
    World::run(|mut w| {
        let (a, b) = (w.a, w.b);
        let mut fib = w.fib();
        let told = |w: &mut World, fib: &mut Fib<Netlink>| {
            w.settle(fib);
            let (news, _) = fib.poll_reach(Instant::now());
            news.iter().map(|r| format!("{} {:?}", r.gateway, r.cost)).collect::<Vec<_>>()
        };
        let link_local = ("fe80::7", b);
        for hop in ["192.0.2.1", "203.0.113.1", "2001:db8:9::1", "2001:db8:1::2", "10.0.0.1"] {
            fib.watch_next_hop(ip(hop), 0);
        }
        fib.watch_next_hop(ip(link_local.0), link_local.1);
        assert_eq!(
            told(&mut w, &mut fib),
            [
                "10.0.0.1 None",
                "192.0.2.1 Some(0)",
                "203.0.113.1 None",
                "2001:db8:1::2 Some(0)",
                "2001:db8:9::1 None",
                "fe80::7 Some(0)",
            ]
        );
        assert_eq!(fib.summary().next_hops, 0, "no route uses them");
        w.foreign("203.0.113.0/24", 50, "192.0.2.1", a);
        w.foreign("2001:db8:9::/64", 70, "2001:db8:2::2", b);
        assert_eq!(told(&mut w, &mut fib), ["203.0.113.1 Some(50)", "2001:db8:9::1 Some(70)"]);
        assert_eq!(told(&mut w, &mut fib), [""; 0], "nothing is told twice");
        w.foreign("203.0.113.0/24", 20, "192.0.2.3", b);
        assert_eq!(told(&mut w, &mut fib), ["203.0.113.1 Some(20)"]);
        // A learned route leads there too, with the metric that ours have.
        fib.set(p("10.0.0.0/8"), &set(&["192.0.2.3"]));
        assert_eq!(told(&mut w, &mut fib), ["10.0.0.1 Some(1024)"]);
        fib.unwatch_next_hop(ip("203.0.113.1"), 0);
        link::set_down(&mut w.socket, b).unwrap();
        assert_eq!(
            told(&mut w, &mut fib),
            ["10.0.0.1 None", "2001:db8:9::1 None", "fe80::7 None"],
            "and nothing of what is no longer watched"
        );
        fib.mark_next_hop_down(ip("192.0.2.1"), 0);
        assert_eq!(told(&mut w, &mut fib), ["192.0.2.1 None"]);
        fib.mark_next_hop_up(ip("192.0.2.1"), 0);
        assert_eq!(told(&mut w, &mut fib), ["192.0.2.1 Some(0)"]);
        assert_eq!(fib.verify().unwrap(), []);
    });
}

/// A next hop that the kernel refuses does not keep the others from being used, and is tried again.
#[test]
fn a_refused_next_hop_is_left_out_until_it_is_taken() {
    World::run(|mut w| {
        let a = w.a;
        let mut fib = w.fib();
        let setting = "net/ipv6/conf/up-a/disable_ipv6";
        crate::netlink::sysctl::write(setting, "1").unwrap();
        let far = format!("fe80::1%{a}");
        fib.set(p("10.1.0.0/24"), &set(&[&far, "192.0.2.3"]));
        fib.set(p("10.2.0.0/24"), &set(&[&far]));
        w.settle(&mut fib);
        assert_eq!(w.table(), ["10.1.0.0/24 192.0.2.3"]);
        let routes = fib.routes(RouteFilter::default());
        let first_hop =
            &routes[0].next_hops.iter().find(|hop| hop.gateway == Some(ip("fe80::1"))).unwrap().via[0];
        assert!(!first_hop.usable && first_hop.error.is_some(), "{first_hop:?}");
        assert!(fib.summary().counters.refused > 0);
        crate::netlink::sysctl::write(setting, "0").unwrap();
        // Much later.
        let later = Instant::now() + Duration::from_secs(60);
        while fib.step(later, 64).unwrap().more {}
        w.settle(&mut fib);
        while fib.step(later, 64).unwrap().more {}
        assert_eq!(w.table(), ["10.1.0.0/24 192.0.2.3 fe80::1", "10.2.0.0/24 fe80::1"]);
        assert_eq!(fib.verify().unwrap(), []);
    });
}

/// A gateway named with its interface needs no network there.
#[test]
fn gateways_outside_of_all_networks_are_on_their_link() {
    World::run(|mut w| {
        let (a, b) = (w.a, w.b);
        let mut fib = w.fib();
        fib.set(p("10.1.0.0/24"), &set(&[&format!("203.0.113.7%{a}"), &format!("203.0.113.7%{b}")]));
        fib.set(p("fd01::/64"), &set(&[&format!("2001:db8:ffff::7%{a}")]));
        w.settle(&mut fib);
        assert_eq!(w.table(), ["10.1.0.0/24 203.0.113.7 203.0.113.7", "fd01::/64 2001:db8:ffff::7"]);
        assert_eq!(fib.verify().unwrap(), []);
    });
}

#[test]
fn an_alarm_tells_of_a_lost_carrier() {
    World::run(|mut w| {
        let mut kernel = Netlink::new(Socket::route().unwrap());
        let mut alarm = kernel.alarm(&[w.a, w.b]);
        std::thread::sleep(Duration::from_millis(50));
        assert!(!alarm());
        let far = w.far_b;
        link::set_down(&mut w.socket, far).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !alarm() {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(5));
        }
    });
}
