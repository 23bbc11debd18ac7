//! Against the real kernel, in private network namespaces.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    model::{Family, NextHop, NextHopSet, Prefix},
    netlink::{
        Batch, Socket, addr, link,
        neigh::{self, Neighbour},
        nexthop,
        ns::testing,
        route::{self, Filter, Route, TABLE_MAIN},
        watch::{Topic, Watch},
    },
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn p(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// `192.0.2.1` or `fe80::1%3`, with `*weight` behind.
fn set(hops: &[&str]) -> Arc<NextHopSet> {
    let hop = |text: &&str| {
        let (text, weight) = text.split_once('*').unwrap_or((text, "1"));
        let (gateway, ifindex) = text.split_once('%').unwrap_or((text, "0"));
        NextHop { gateway: ip(gateway), ifindex: ifindex.parse().unwrap(), weight: weight.parse().unwrap() }
    };
    Arc::new(hops.iter().map(hop).collect())
}

/// A host with two uplinks, 192.0.2.0/31 and 192.0.2.2/31 (and 2001:db8:1::/64, 2001:db8:2::/64); the far ends are
/// in the same namespace, without addresses.
struct World {
    socket: Socket,
    a: u32,
    b: u32,
    far_a: u32,
    far_b: u32,
    watch: Option<(tokio::runtime::Runtime, Watch)>,
    config: FibConfig,
}

impl World {
    fn run(test: impl FnOnce(Self) + Send) {
        testing::private(|| test(Self::new()));
    }

    fn new() -> Self {
        let mut socket = Socket::route().unwrap();
        link::create_veth(&mut socket, "up-a", "far-a", None).unwrap();
        link::create_veth(&mut socket, "up-b", "far-b", None).unwrap();
        let index = |socket: &mut Socket, name| link::by_name(socket, name).unwrap().index;
        let [a, b, far_a, far_b] = ["up-a", "up-b", "far-a", "far-b"].map(|n| index(&mut socket, n));
        let mut world = Self { socket, a, b, far_a, far_b, watch: None, config: FibConfig::default() };
        for dev in [a, b, far_a, far_b] {
            link::set_up(&mut world.socket, dev).unwrap();
        }
        world.address(a, "192.0.2.0", 31);
        world.address(b, "192.0.2.2", 31);
        world.address(a, "2001:db8:1::1", 64);
        world.address(b, "2001:db8:2::1", 64);
        world
    }

    fn address(&mut self, dev: u32, text: &str, len: u8) {
        addr::add(&mut self.socket, dev, ip(text), len).unwrap();
    }

    /// A FIB that reads this namespace, with notifications flowing from before.
    fn fib(&mut self) -> Fib<Netlink> {
        let kernel = Netlink::new(Socket::route().unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let watch = {
            let _inside = runtime.enter();
            Watch::open(&Topic::ALL, &[kernel.port().unwrap()]).unwrap()
        };
        self.watch = Some((runtime, watch));
        let mut fib = Fib::new(self.config.clone(), kernel, Instant::now()).unwrap();
        fib.sweep_stale(None);
        fib
    }

    /// Feeds the notifications that are there, and lets the FIB finish.
    fn settle(&mut self, fib: &mut Fib<Netlink>) {
        // Link changes are told by a work queue of the kernel: wait for silence.
        let (runtime, watch) = self.watch.as_mut().unwrap();
        let mut quiet = 0;
        while quiet < 2 {
            let event = runtime
                .block_on(async { tokio::time::timeout(Duration::from_millis(15), watch.next()).await });
            match event {
                Ok(event) => {
                    quiet = 0;
                    fib.handle_event(event.unwrap(), Instant::now());
                }
                Err(_) => quiet += 1,
            }
            while fib.step(Instant::now(), 64).unwrap().more {}
        }
    }

    fn ours(&mut self) -> Vec<Route> {
        let filter = Filter { table: Some(self.config.table), protocol: Some(self.config.protocol) };
        let mut routes = route::list(&mut self.socket, Family::Ipv4, filter).unwrap();
        routes.extend(route::list(&mut self.socket, Family::Ipv6, filter).unwrap());
        routes
    }

    /// Our routes as the kernel has them: prefix, and gateways with weights, or `dev`, or `drop`.
    fn table(&mut self) -> Vec<String> {
        let objects = nexthop::list(&mut self.socket).unwrap();
        let find = |id: u32| objects.iter().find(|o| o.id == id).map(|o| &o.kind);
        let mut table: Vec<String> = self
            .ours()
            .iter()
            .map(|r| {
                let way = match r.nexthop_id {
                    Some(id) => {
                        let Some(nexthop::Kind::Group(members)) = find(id) else { panic!("{r:?}") };
                        let member = |(id, weight): &(u32, u16)| match find(*id) {
                            Some(nexthop::Kind::Via(via)) => (via.gateway, *weight),
                            other => panic!("{other:?}"),
                        };
                        describe(members.iter().map(member).collect())
                    }
                    None if r.kind == route::RouteKind::Blackhole => "drop".into(),
                    None if r.is_on_link() => "dev".into(),
                    None => describe(r.hops.iter().map(|h| (h.gateway.unwrap(), h.weight)).collect()),
                };
                format!("{} {way}", r.prefix)
            })
            .collect();
        table.sort();
        table
    }

    fn foreign(&mut self, prefix: &str, metric: u32, gateway: &str, dev: u32) {
        let key = route::Key { prefix: p(prefix), table: TABLE_MAIN, protocol: 4, metric };
        let via = nexthop::Via { gateway: ip(gateway), ifindex: dev, onlink: false };
        let mut batch = Batch::new();
        route::push(&mut batch, &key, route::Target::Via(&[(via, 1)]), route::Mode::Create);
        self.socket.execute(&mut batch).unwrap();
    }

    fn delete_foreign(&mut self, prefix: &str) {
        self.delete(prefix, 4);
    }

    fn delete(&mut self, prefix: &str, protocol: u8) {
        let key = route::Key { prefix: p(prefix), table: TABLE_MAIN, protocol, metric: 0 };
        let mut batch = Batch::new();
        route::push_delete(&mut batch, &key, route::RouteKind::Other(0), None);
        self.socket.execute(&mut batch).unwrap();
    }

    fn delete_object(&mut self, id: u32) {
        let mut batch = Batch::new();
        nexthop::push_delete(&mut batch, id);
        self.socket.execute(&mut batch).unwrap();
    }
}

fn describe(mut hops: Vec<(IpAddr, u16)>) -> String {
    hops.sort_unstable();
    let one = |(gateway, weight): &(IpAddr, u16)| match weight {
        1 => gateway.to_string(),
        w => format!("{gateway}*{w}"),
    };
    hops.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn reason(fib: &Fib<Netlink>, prefix: &str) -> Option<Reason> {
    let filter = RouteFilter { prefix: Some(p(prefix)), ..RouteFilter::default() };
    fib.routes(filter).iter().find(|r| r.prefix == p(prefix)).and_then(|r| r.reason)
}

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
        assert_eq!(fib.summary().conflicts, 2);
        assert_eq!(fib.verify().unwrap(), []);
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
