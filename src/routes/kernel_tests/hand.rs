//! What people do with `ip`, and what links do by themselves.

use std::process::Command;

use super::*;

fn ip_command(line: &str) {
    let output = Command::new("ip").args(line.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
}

fn fill(w: &World, fib: &mut Fib<Netlink>) {
    fib.set(p("0.0.0.0/0"), &set(&["192.0.2.1", "192.0.2.3"]));
    fib.set(p("10.1.0.0/24"), &set(&["192.0.2.1", "192.0.2.3*3"]));
    fib.set(p("10.2.0.0/24"), &set(&["2001:db8:1::2", "192.0.2.3"]));
    fib.set(p("::/0"), &set(&["2001:db8:1::2"]));
    fib.set(p("fd01::1/128"), &set(&["2001:db8:1::2", "2001:db8:2::2"]));
    fib.set_blackhole(p("10.32.0.0/24"));
    fib.set_blackhole(p("fd00:32::/64"));
    fib.set_local(p("10.32.0.7/32"), w.far_b);
    fib.set_local(p("fd00:32::7/128"), w.far_b);
}

#[test]
fn flushes_by_hand_are_undone() {
    for objects in [true, false] {
        World::run(move |mut w| {
            w.config.nexthop_objects = objects;
            let mut fib = w.fib();
            fill(&w, &mut fib);
            w.settle(&mut fib);
            let whole = w.table();
            assert_eq!(whole.len(), 9);
            let flushes = [
                "route flush proto 32",
                "-6 route flush proto 32",
                "nexthop flush proto 32",
                "nexthop flush",
            ];
            // With next-hop objects some versions of `ip` cannot flush routes: whatever they do, it is undone.
            let flush = |line: &str| drop(Command::new("ip").args(line.split(' ')).output().unwrap());
            for line in flushes {
                flush(line);
                w.settle(&mut fib);
                assert_eq!(w.table(), whole, "{line}");
                assert_eq!(fib.verify().unwrap(), [], "{line}");
            }
            // All of it before anybody looks.
            for line in flushes {
                flush(line);
            }
            w.settle(&mut fib);
            assert_eq!(w.table(), whole);
            assert_eq!(fib.verify().unwrap(), []);
            // Every route by itself.
            for row in &whole {
                w.delete(row.split(' ').next().unwrap(), 32);
            }
            assert_eq!(w.table(), [""; 0]);
            w.settle(&mut fib);
            assert_eq!(w.table(), whole);
            assert_eq!(fib.verify().unwrap(), []);
        });
    }
}

/// A second route beside one of ours, and another in its place: `ip route append` and `replace`.
#[test]
fn routes_beside_and_instead_of_ours_are_undone() {
    for objects in [true, false] {
        World::run(move |mut w| {
            ip_command("link set lo up");
            w.config.nexthop_objects = objects;
            let mut fib = w.fib();
            fill(&w, &mut fib);
            w.settle(&mut fib);
            let whole = w.table();
            let lines = [
                "route append 10.1.0.0/24 via 192.0.2.1 proto 32 metric 1024",
                "route append blackhole 10.1.0.0/24 proto 32 metric 1024",
                "route append 10.32.0.0/24 via 192.0.2.3 proto 32 metric 1024",
                "route append 10.32.0.7/32 dev lo proto 32 metric 1",
                "route prepend 10.1.0.0/24 via 192.0.2.1 proto 32 metric 1024",
                "route replace 10.1.0.0/24 via 192.0.2.1 proto 32 metric 1024",
                "route replace blackhole 10.1.0.0/24 proto 32 metric 1024",
                "route replace 10.32.0.0/24 via 192.0.2.3 proto 32 metric 1024",
                "route replace 10.32.0.7/32 dev lo proto 32 metric 1",
                "route replace 10.32.0.7/32 via 192.0.2.1 proto 32 metric 1",
                "-6 route append fd01::1/128 via 2001:db8:1::9 proto 32 metric 1024",
                "-6 route append fd00:32::/64 via 2001:db8:2::2 proto 32 metric 1024",
                "-6 route append fd00:32::7/128 dev lo proto 32 metric 1",
                "-6 route replace fd01::1/128 via 2001:db8:2::2 proto 32 metric 1024",
                "-6 route replace fd00:32::/64 via 2001:db8:2::2 proto 32 metric 1024",
                "-6 route replace fd00:32::7/128 dev lo proto 32 metric 1",
            ];
            for line in lines {
                ip_command(line);
                w.settle(&mut fib);
                assert_eq!(w.table(), whole, "{line}, objects {objects}");
                assert_eq!(fib.verify().unwrap(), [], "{line}, objects {objects}");
            }
            // Found by the audit alone.
            for line in lines {
                // Some are there already, as nobody undoes what was before.
                drop(Command::new("ip").args(line.split(' ')).output().unwrap());
            }
            drop(w.watch.take());
            fib.resync(Instant::now());
            while fib.step(Instant::now(), 64).unwrap().more {}
            assert_eq!(w.table(), whole, "objects {objects}");
            assert_eq!(fib.verify().unwrap(), [], "objects {objects}");
        });
    }
}

/// A route of somebody else in the place of a container's is told and left alone, and does not come back with it.
#[test]
fn a_foreign_route_in_place_of_a_containers_is_told() {
    World::run(|mut w| {
        ip_command("link set lo up");
        let mut fib = w.fib();
        fill(&w, &mut fib);
        w.settle(&mut fib);
        let whole = w.table();
        for (ip, prefix) in [("", "10.32.0.7/32"), ("-6 ", "fd00:32::7/128")] {
            ip_command(&format!("{ip}route replace {prefix} dev lo metric 1"));
            w.settle(&mut fib);
            let without: Vec<_> = whole.iter().filter(|row| !row.starts_with(prefix)).cloned().collect();
            assert_eq!(w.table(), without);
            assert_eq!(reason(&fib, prefix), Some(Reason::Refused));
            let problems = fib.summary().problems();
            assert!(problems.iter().any(|p| p.contains("1 route to a container")), "{problems:?}");
            assert_eq!(fib.verify().unwrap().len(), 1);
            ip_command(&format!("{ip}route delete {prefix} dev lo metric 1"));
            w.settle(&mut fib);
            assert_eq!(w.table(), whole);
            assert_eq!(fib.summary().problems(), [""; 0]);
        }
    });
}

#[test]
fn storms_of_links_and_addresses_end_as_they_began() {
    for objects in [true, false] {
        World::run(move |mut w| {
            w.config.nexthop_objects = objects;
            let mut fib = w.fib();
            fill(&w, &mut fib);
            w.settle(&mut fib);
            let whole = w.table();
            let (a, far) = (w.a, w.far_a);
            for round in 0..40 {
                link::set_down(&mut w.socket, far).unwrap();
                if round % 3 == 0 {
                    while fib.step(Instant::now(), 2).unwrap().more {}
                }
                link::set_up(&mut w.socket, far).unwrap();
            }
            for round in 0..20 {
                addr::delete(&mut w.socket, a, ip("192.0.2.0"), 31).unwrap();
                addr::delete(&mut w.socket, a, ip("2001:db8:1::1"), 64).unwrap();
                if round % 3 == 0 {
                    while fib.step(Instant::now(), 2).unwrap().more {}
                }
                w.address(a, "192.0.2.0", 31);
                w.address(a, "2001:db8:1::1", 64);
            }
            w.settle(&mut fib);
            // What the kernel refused in between is tried again; time is what we say.
            let later = Instant::now() + Duration::from_secs(120);
            while fib.step(later, 64).unwrap().more {}
            w.settle(&mut fib);
            assert_eq!(w.table(), whole);
            assert_eq!(fib.verify().unwrap(), []);
        });
    }
}

#[test]
fn a_next_hop_behind_a_default_route_follows_it() {
    World::run(|mut w| {
        let (a, b) = (w.a, w.b);
        w.foreign("0.0.0.0/0", 0, "192.0.2.3", b);
        w.foreign("::/0", 5, "2001:db8:2::2", b);
        let mut fib = w.fib();
        fib.set(p("10.1.0.0/24"), &set(&["203.0.113.9"]));
        fib.set(p("fd01::/64"), &set(&["2001:db8:f::9"]));
        w.settle(&mut fib);
        assert_eq!(w.table(), ["10.1.0.0/24 192.0.2.3", "fd01::/64 2001:db8:2::2"]);
        // Another one that the kernel prefers, of the same metric: replaced by hand.
        ip_command("route replace default via 192.0.2.1 proto 4");
        w.foreign("::/0", 4, "2001:db8:1::2", a);
        w.settle(&mut fib);
        assert_eq!(w.table(), ["10.1.0.0/24 192.0.2.1", "fd01::/64 2001:db8:1::2"]);
        // Somebody's more specific way, and a learned one that is more specific still.
        w.foreign("203.0.113.0/24", 0, "192.0.2.3", b);
        w.settle(&mut fib);
        assert_eq!(w.table()[0], "10.1.0.0/24 192.0.2.3");
        fib.set(p("203.0.113.8/30"), &set(&["192.0.2.1"]));
        w.settle(&mut fib);
        assert!(w.table().contains(&"10.1.0.0/24 192.0.2.1".to_owned()), "{:?}", w.table());
        fib.remove(p("203.0.113.8/30"));
        for prefix in ["203.0.113.0/24", "0.0.0.0/0", "::/0", "::/0"] {
            w.delete_foreign(prefix);
        }
        w.settle(&mut fib);
        assert_eq!(w.table(), [""; 0]);
        // Only a learned default route is left; it may not lead to itself.
        fib.set(p("0.0.0.0/0"), &set(&["192.0.2.1"]));
        fib.set(p("::/0"), &set(&["2001:db8:f::9"]));
        w.settle(&mut fib);
        assert_eq!(w.table(), ["0.0.0.0/0 192.0.2.1", "10.1.0.0/24 192.0.2.1"]);
        assert_eq!(reason(&fib, "fd01::/64"), Some(Reason::Unresolved));
        assert_eq!(fib.verify().unwrap(), []);
    });
}

#[test]
fn routes_with_an_old_metric_go_when_the_new_ones_are_there() {
    World::run(|mut w| {
        let both = set(&["192.0.2.1", "192.0.2.3"]);
        let fill = |fib: &mut Fib<Netlink>| {
            for i in 0..60u8 {
                fib.set(Prefix::host([10, 1, 0, i].into()), &both);
            }
        };
        let mut fib = w.fib();
        fill(&mut fib);
        w.settle(&mut fib);
        drop(fib);
        w.config.metric = 77;
        let kernel = Netlink::new(Socket::route().unwrap());
        let mut fib = Fib::new(w.config.clone(), kernel, Instant::now()).unwrap();
        fill(&mut fib);
        fib.sweep_stale(None);
        loop {
            let more = fib.step(Instant::now(), 7).unwrap().more;
            let mut there: Vec<Prefix> = w.ours().iter().map(|route| route.prefix).collect();
            there.sort_unstable();
            there.dedup();
            assert_eq!(there.len(), 60);
            if !more {
                break;
            }
        }
        assert!(w.ours().iter().all(|route| route.metric == 77));
        assert_eq!(w.ours().len(), 60);
    });
}
