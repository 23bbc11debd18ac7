//! Random histories against the fake kernel: whatever happens, in the end the kernel has what is wanted.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::{
    fake::{Fake, Fault, STATIC},
    *,
};
use crate::{
    model::{NextHop, NextHopSet, Prefix},
    netlink::nexthop::Via,
};

const LINKS: u32 = 3;
const METRIC: u32 = 1024;

#[derive(Clone, Debug)]
enum Action {
    Set(u8, u8),
    Remove(u8),
    Block(u8, bool),
    Mark(u8, bool),
    Link(u8, bool),
    ForeignAdd(u8, bool),
    ForeignDelete(u8),
    DeleteOurs(u8),
    DeleteObject(u8),
    LoseEvents,
    Deliver,
    Step(u8),
    Fail(u8),
    Later(u8),
    Restart,
}

fn action() -> impl Strategy<Value = Action> {
    let prefix = 0u8..10;
    prop_oneof![
        6 => (prefix.clone(), 0u8..8).prop_map(|(p, s)| Action::Set(p, s)),
        2 => prefix.clone().prop_map(Action::Remove),
        1 => (prefix.clone(), any::<bool>()).prop_map(|(p, on)| Action::Block(p, on)),
        2 => (0u8..6, any::<bool>()).prop_map(|(g, down)| Action::Mark(g, down)),
        2 => (0u8..3, any::<bool>()).prop_map(|(l, up)| Action::Link(l, up)),
        1 => (prefix.clone(), any::<bool>()).prop_map(|(p, force)| Action::ForeignAdd(p, force)),
        1 => prefix.clone().prop_map(Action::ForeignDelete),
        1 => prefix.prop_map(Action::DeleteOurs),
        1 => (0u8..12).prop_map(Action::DeleteObject),
        1 => Just(Action::LoseEvents),
        3 => Just(Action::Deliver),
        5 => (1u8..6).prop_map(Action::Step),
        1 => (0u8..3).prop_map(Action::Fail),
        1 => (1u8..60).prop_map(Action::Later),
        1 => Just(Action::Restart),
    ]
}

/// Half of them IPv6. None covers a next hop.
fn prefix(n: u8) -> Prefix {
    let text = if n.is_multiple_of(2) { format!("10.1.{n}.0/24") } else { format!("fd01:0:0:{n}::/64") };
    text.parse().unwrap()
}

/// 0 to 2: by the connected network of a link; 3 to 5: link-local on a link.
fn gateway(n: u8) -> (IpAddr, u32) {
    let link = u32::from(n % 3) + 1;
    if n < 3 {
        (format!("2001:db8:{link}::9").parse().unwrap(), 0)
    } else {
        (format!("fe80::{link}").parse().unwrap(), link)
    }
}

fn members(set: u8) -> &'static [(u8, u16)] {
    const SETS: [&[(u8, u16)]; 8] = [
        &[(0, 1)],
        &[(1, 1)],
        &[(0, 1), (1, 1)],
        &[(0, 1), (1, 2), (2, 3)],
        &[(3, 1)],
        &[(3, 1), (4, 1), (5, 1)],
        &[(0, 5), (3, 1)],
        &[(2, 1), (4, 1)],
    ];
    SETS[usize::from(set)]
}

fn next_hops(set: u8) -> Arc<NextHopSet> {
    let hop = |(n, weight): &(u8, u16)| {
        let (gateway, ifindex) = gateway(*n);
        NextHop { gateway, ifindex, weight: *weight }
    };
    Arc::new(members(set).iter().map(hop).collect())
}

/// What is wanted and what others did, told plainly.
#[derive(Debug, Default)]
struct Oracle {
    routes: BTreeMap<u8, u8>,
    blocks: BTreeSet<u8>,
    down: BTreeSet<u8>,
    links_down: BTreeSet<u32>,
    foreign: BTreeSet<u8>,
}

impl Oracle {
    fn expected(&self) -> BTreeMap<Prefix, Vec<(Via, u16)>> {
        let mut table = BTreeMap::new();
        for (p, set) in &self.routes {
            if self.foreign.contains(p) || self.blocks.contains(p) {
                continue;
            }
            let ways = self.ways(*set);
            if !ways.is_empty() {
                table.insert(prefix(*p), ways);
            }
        }
        for p in self.blocks.difference(&self.foreign) {
            table.insert(prefix(*p), Vec::new());
        }
        table
    }

    fn ways(&self, set: u8) -> Vec<(Via, u16)> {
        let mut ways: Vec<(Via, u16)> = Vec::new();
        for (n, weight) in members(set) {
            let (gateway, _) = gateway(*n);
            let ifindex = u32::from(n % 3) + 1;
            if !self.down.contains(n) && !self.links_down.contains(&ifindex) {
                ways.push((Via { gateway, ifindex, onlink: false }, *weight));
            }
        }
        ways.sort_unstable();
        let gcd = |mut a: u16, mut b: u16| {
            while b != 0 {
                (a, b) = (b, a % b);
            }
            a
        };
        if let Some(divisor) = ways.iter().map(|(_, w)| *w).reduce(gcd) {
            for (_, w) in &mut ways {
                *w /= divisor;
            }
        }
        ways
    }
}

struct Game {
    fib: Fib<Fake>,
    oracle: Oracle,
    now: Instant,
}

impl Game {
    fn new() -> Self {
        let mut kernel = Fake::default();
        for link in 1..=LINKS {
            kernel.add_link(link, format!("2001:db8:{link}::/64").parse().unwrap());
        }
        while kernel.event().is_some() {}
        let now = Instant::now();
        let mut fib = Fib::new(FibConfig::default(), kernel, now).unwrap();
        fib.sweep_stale(None);
        Self { fib, oracle: Oracle::default(), now }
    }

    fn play(&mut self, action: &Action) {
        let fib = &mut self.fib;
        let oracle = &mut self.oracle;
        match *action {
            Action::Set(p, s) => {
                fib.set(prefix(p), &next_hops(s));
                oracle.routes.insert(p, s);
            }
            Action::Remove(p) => {
                fib.remove(prefix(p));
                oracle.routes.remove(&p);
            }
            Action::Block(p, true) => {
                fib.set_blackhole(prefix(p));
                oracle.blocks.insert(p);
            }
            Action::Block(p, false) => {
                fib.remove_blackhole(prefix(p));
                oracle.blocks.remove(&p);
            }
            Action::Mark(g, down) => {
                let (addr, ifindex) = gateway(g);
                if down {
                    fib.mark_next_hop_down(addr, ifindex);
                    oracle.down.insert(g);
                } else {
                    fib.mark_next_hop_up(addr, ifindex);
                    oracle.down.remove(&g);
                }
            }
            Action::Link(l, up) => {
                let ifindex = u32::from(l) + 1;
                fib.kernel_mut().set_link(ifindex, up);
                if up {
                    oracle.links_down.remove(&ifindex);
                } else {
                    oracle.links_down.insert(ifindex);
                }
            }
            Action::ForeignAdd(p, force) => {
                if fib.kernel_mut().write_foreign(prefix(p), METRIC, force) {
                    oracle.foreign.insert(p);
                    // The kernel cannot be told to change a route only if it is ours: a foreign route that takes the
                    // place of ours is safe from the moment we hear of it.
                    self.deliver();
                }
            }
            Action::ForeignDelete(p) => {
                fib.kernel_mut().delete(prefix(p), METRIC, STATIC);
                oracle.foreign.remove(&p);
            }
            Action::DeleteOurs(p) => fib.kernel_mut().delete(prefix(p), METRIC, 32),
            Action::DeleteObject(n) => fib.kernel_mut().delete_object(n.into()),
            Action::LoseEvents => fib.kernel_mut().lose_events(),
            Action::Deliver => self.deliver(),
            Action::Step(n) => {
                let _ = fib.step(self.now, n.into());
            }
            Action::Fail(n) => {
                let faults = [Fault::LostAnswer, Fault::HalfDone, Fault::NoMemory];
                fib.kernel_mut().fail_next(faults.get(usize::from(n)).copied());
            }
            Action::Later(n) => self.now += Duration::from_millis(100) * u32::from(n),
            Action::Restart => self.restart(),
        }
    }

    /// The agent dies and starts again: everything wanted is told anew, in the middle of which nothing may be lost.
    fn restart(&mut self) {
        let mut kernel = std::mem::take(self.fib.kernel_mut());
        kernel.fail_next(None);
        while kernel.event().is_some() {}
        let mut fib = Fib::new(FibConfig::default(), kernel, self.now).unwrap();
        let before = fib.kernel_mut().table(32);
        let _ = fib.step(self.now, 100);
        // Links that went down before are all that may have changed what is there.
        assert_eq!(fib.kernel_mut().table(32).len(), before.len());
        for g in &self.oracle.down {
            let (addr, ifindex) = gateway(*g);
            fib.mark_next_hop_down(addr, ifindex);
        }
        for (p, s) in &self.oracle.routes {
            fib.set(prefix(*p), &next_hops(*s));
        }
        for p in &self.oracle.blocks {
            fib.set_blackhole(prefix(*p));
        }
        fib.sweep_stale(None);
        self.fib = fib;
    }

    fn deliver(&mut self) {
        while let Some(event) = self.fib.kernel_mut().event() {
            self.fib.handle_event(event, self.now);
        }
    }

    /// No more faults; time passes.
    fn settle(&mut self) {
        self.fib.kernel_mut().fail_next(None);
        for _ in 0..4 {
            self.deliver();
            let mut steps = 0;
            while self.fib.step(self.now, 4).map_or(true, |s| s.more) {
                steps += 1;
                assert!(steps < 500, "it never rests");
                self.now += Duration::from_millis(1);
            }
            self.now += Duration::from_secs(25);
        }
    }

    fn check(&mut self) {
        let expected = self.oracle.expected();
        let kernel = self.fib.kernel_mut();
        let theirs: BTreeSet<Prefix> = kernel.table(STATIC).into_keys().collect();
        assert_eq!(theirs, self.oracle.foreign.iter().map(|p| prefix(*p)).collect(), "foreign routes");
        assert_eq!(kernel.table(32), expected);
        // What others keep out is the only difference.
        for difference in self.fib.verify().unwrap() {
            assert_eq!(difference.kind, DifferenceKind::Conflict);
            let taken = |p: &u8| prefix(*p).to_string() == difference.what;
            assert!(self.oracle.foreign.iter().any(taken), "{difference:?}");
        }
        for status in self.fib.routes(RouteFilter::default()) {
            assert_eq!(status.installed, expected.contains_key(&status.prefix), "{status:?}");
            assert_eq!(status.installed, status.reason.is_none_or(|r| r == Reason::OwnBlock), "{status:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn in_the_end_the_kernel_has_what_is_wanted(actions in prop::collection::vec(action(), 1..60)) {
        let mut game = Game::new();
        for action in &actions {
            game.play(action);
        }
        game.settle();
        game.check();
        // At rest, an audit writes nothing.
        let messages = game.fib.kernel_mut().log.len();
        game.fib.resync(game.now);
        game.settle();
        let log = &game.fib.kernel_mut().log;
        prop_assert_eq!(log.len(), messages, "{:#?}", log);
        // And nothing is left behind.
        game.fib.clear();
        game.settle();
        prop_assert!(game.fib.kernel_mut().table(32).is_empty());
        prop_assert_eq!(game.fib.kernel_mut().object_count(), 0);
    }
}

#[test]
fn losing_a_next_hop_costs_the_same_at_any_number_of_routes() {
    let cost = |routes: u32| {
        let mut game = Game::new();
        let set = next_hops(2);
        for i in 0..routes {
            game.fib.set(Prefix::host(IpAddr::from((0x0b00_0000 + i).to_be_bytes())), &set);
        }
        while game.fib.step(game.now, 256).unwrap().more {}
        let before = game.fib.kernel_mut().log.len();
        let (addr, ifindex) = gateway(0);
        game.fib.mark_next_hop_down(addr, ifindex);
        while game.fib.step(game.now, 256).unwrap().more {}
        game.fib.kernel_mut().log.len() - before
    };
    assert_eq!(cost(10), cost(20_000));
    assert!(cost(10) <= 2);
}

#[test]
fn a_learned_route_costs_little_memory() {
    let mut game = Game::new();
    let set = next_hops(2);
    let routes = 200_000u32;
    for i in 0..routes {
        game.fib.set(Prefix::host(IpAddr::from((0x0b00_0000 + i).to_be_bytes())), &set);
    }
    let bytes = game.fib.summary().table_bytes;
    assert!(bytes / routes as usize <= 48, "{bytes}");
}
