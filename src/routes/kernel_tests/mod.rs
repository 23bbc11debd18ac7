//! Against the real kernel, in private network namespaces.

mod changes;
mod hand;
mod paths;
mod repair;
mod safety;
mod strangers;

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
        watch::{KernelEvent, Topic, Watch},
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
        link::create_veth(&mut socket, "up-a", "s32-far-a", None).unwrap();
        link::create_veth(&mut socket, "up-b", "s32-far-b", None).unwrap();
        let index = |socket: &mut Socket, name| link::by_name(socket, name).unwrap().index;
        let [a, b, far_a, far_b] = ["up-a", "up-b", "s32-far-a", "s32-far-b"].map(|n| index(&mut socket, n));
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

    /// The notifications that are there.
    fn news(&mut self) -> Vec<KernelEvent> {
        let (runtime, watch) = self.watch.as_mut().unwrap();
        let wait = Duration::from_millis(30);
        let next = async |watch: &mut Watch| tokio::time::timeout(wait, watch.next()).await;
        std::iter::from_fn(|| runtime.block_on(next(watch)).ok().map(Result::unwrap)).collect()
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
