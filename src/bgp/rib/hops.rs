//! Next hops, interned: what they cost, and the sets of them that best paths use.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use hashbrown::{HashMap, HashSet};
use rustc_hash::FxBuildHasher;
use smallvec::SmallVec;

use super::slab::Slab;
use crate::{
    bgp::wire::WireNextHop,
    model::{NextHop, NextHopSet},
};

/// One next hop.
#[derive(Debug)]
pub(super) struct Hop {
    refs: u32,
    /// As it was received.
    pub(super) wire: WireNextHop,
    /// Where packets go.
    pub(super) gateway: IpAddr,
    /// The interface of a link-local gateway, else 0.
    pub(super) ifindex: u32,
    /// The interior cost as it was told; `None` when the next hop cannot be reached.
    cost: Option<u32>,
    /// The set that consists of it alone.
    single: Option<Arc<NextHopSet>>,
}

/// All next hops in use.
#[derive(Debug)]
#[expect(clippy::struct_field_names, reason = "the next hops among what is kept about them")]
pub(super) struct Hops {
    hops: Slab<Hop>,
    index: HashMap<(WireNextHop, u32), u32, FxBuildHasher>,
    /// Gateways with their interfaces: several next hops may lead to one.
    gateways: HashMap<(IpAddr, u32), Gateway, FxBuildHasher>,
    /// Gateways that may have come into use, or gone out of it, since it was last told.
    restless: HashSet<(IpAddr, u32), FxBuildHasher>,
    /// Whether costs count. If not, every next hop costs 0.
    ignored: bool,
    sets: HashSet<Arc<NextHopSet>, FxBuildHasher>,
    /// Sets are looked through for unused ones when there are this many.
    sets_limit: usize,
}

/// A gateway, and who leads there.
#[derive(Debug)]
struct Gateway {
    hops: SmallVec<[u32; 1]>,
    cost: Option<u32>,
    /// Whether it was told that the gateway is in use.
    told: bool,
}

impl Default for Gateway {
    fn default() -> Self {
        // Until something else is known.
        Self { hops: SmallVec::new(), cost: Some(0), told: false }
    }
}

/// A next hop whose cost has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) hop: u32,
    /// It can be reached now and could not before, or the other way round.
    pub(super) turned: bool,
}

/// The next hop of what this host originates with itself as next hop.
pub(super) const OURSELVES: u32 = 0;

impl Default for Hops {
    fn default() -> Self {
        let mut hops = Slab::default();
        let addr = Ipv4Addr::UNSPECIFIED;
        hops.insert(Hop {
            refs: 1,
            wire: WireNextHop::V4(addr),
            gateway: addr.into(),
            ifindex: 0,
            cost: Some(0),
            single: Some(Arc::default()),
        });
        Self {
            hops,
            index: HashMap::default(),
            gateways: HashMap::default(),
            restless: HashSet::default(),
            ignored: false,
            sets: HashSet::default(),
            sets_limit: 1024,
        }
    }
}

impl std::ops::Index<u32> for Hops {
    type Output = Hop;
    fn index(&self, id: u32) -> &Hop {
        &self.hops[id]
    }
}

impl Hops {
    /// The number of a next hop learned from a peer on `ifindex` (0 when the peer is not link-local), with one more
    /// reference to it.
    pub(super) fn intern(&mut self, wire: WireNextHop, ifindex: u32) -> u32 {
        let (gateway, ifindex) = resolve(wire, ifindex);
        if let Some(&id) = self.index.get(&(wire, ifindex)) {
            self.hops[id].refs += 1;
            return id;
        }
        let entry = self.gateways.entry((gateway, ifindex)).or_default();
        let hop = Hop { refs: 1, wire, gateway, ifindex, cost: entry.cost, single: None };
        let id = self.hops.insert(hop);
        entry.hops.push(id);
        if !entry.told {
            self.restless.insert((gateway, ifindex));
        }
        self.index.insert((wire, ifindex), id);
        id
    }

    /// One more user of a next hop.
    pub(super) fn retain(&mut self, id: u32) {
        self.hops[id].refs += 1;
    }

    pub(super) fn release(&mut self, id: u32) {
        let hop = &mut self.hops[id];
        hop.refs -= 1;
        if hop.refs == 0 {
            hop.single = None;
            self.index.remove(&(hop.wire, hop.ifindex));
            let key = (hop.gateway, hop.ifindex);
            if let Some(gateway) = self.gateways.get_mut(&key) {
                gateway.hops.retain(|other| *other != id);
                if gateway.hops.is_empty() {
                    self.restless.insert(key);
                }
            }
            self.hops.release(id);
        }
    }

    /// The interior cost of a next hop; `None` when it cannot be reached.
    pub(super) fn cost(&self, id: u32) -> Option<u32> {
        if self.ignored { Some(0) } else { self.hops[id].cost }
    }

    /// Lets costs count, or not.
    pub(super) fn ignore_costs(&mut self, ignored: bool) {
        self.ignored = ignored;
    }

    /// The gateways that came into use (`true`) or went out of it since the last call.
    pub(super) fn poll_uses(&mut self) -> Vec<(IpAddr, u32, bool)> {
        let mut uses = Vec::new();
        for key in self.restless.drain() {
            let Some(gateway) = self.gateways.get_mut(&key) else { continue };
            let used = !gateway.hops.is_empty();
            if used != gateway.told {
                uses.push((key.0, key.1, used));
                gateway.told = used;
            }
            if !used {
                self.gateways.remove(&key);
            }
        }
        uses
    }

    /// How many gateways are in use, and how many of them cannot be reached.
    pub(super) fn reachability(&self) -> (usize, usize) {
        let used = || self.gateways.values().filter(|gateway| !gateway.hops.is_empty());
        (used().count(), used().filter(|gateway| gateway.cost.is_none() && !self.ignored).count())
    }

    /// Sets the cost of a gateway; the next hops that it changes.
    pub(super) fn set_cost(&mut self, addr: IpAddr, ifindex: u32, cost: Option<u32>) -> Vec<Changed> {
        let gateway = self.gateways.entry((addr, ifindex)).or_default();
        gateway.cost = cost;
        if gateway.hops.is_empty() {
            // Forgotten again if nobody needs it.
            self.restless.insert((addr, ifindex));
        }
        let mut changed = Vec::new();
        for &hop in &gateway.hops {
            let before = std::mem::replace(&mut self.hops[hop].cost, cost);
            if before != cost && !self.ignored {
                changed.push(Changed { hop, turned: before.is_some() != cost.is_some() });
            }
        }
        changed
    }

    /// The shared set of these next hops and weights.
    pub(super) fn set(&mut self, hops: &[(u32, u16)]) -> Arc<NextHopSet> {
        if let [(id, 1)] = hops
            && let Some(single) = &self.hops[*id].single
        {
            return single.clone();
        }
        let ours = |(id, _): &&(u32, u16)| *id != OURSELVES;
        let set: NextHopSet = (hops.iter().filter(ours))
            .map(|(id, weight)| {
                let hop = &self.hops[*id];
                NextHop { gateway: hop.gateway, ifindex: hop.ifindex, weight: *weight }
            })
            .collect();
        let set = self.shared(set);
        if let [(id, 1)] = hops {
            self.hops[*id].single = Some(set.clone());
        }
        set
    }

    fn shared(&mut self, set: NextHopSet) -> Arc<NextHopSet> {
        if let Some(known) = self.sets.get(&set) {
            return known.clone();
        }
        if self.sets.len() >= self.sets_limit {
            self.sets.retain(|known| Arc::strong_count(known) > 1);
            self.sets_limit = (self.sets.len() * 2).max(1024);
        }
        let set = Arc::new(set);
        self.sets.insert(set.clone());
        set
    }
}

/// The address to forward to, and the interface if that address needs one. On a link the link-local address is
/// preferred: it works without any address being configured (RFC 2545 section 3).
fn resolve(wire: WireNextHop, ifindex: u32) -> (IpAddr, u32) {
    match wire {
        WireNextHop::V6LinkLocal { global, link_local } => {
            if ifindex != 0 || !usable_global(global) {
                (link_local.into(), ifindex)
            } else {
                (global.into(), 0)
            }
        }
        WireNextHop::V6(addr) if addr.is_unicast_link_local() => (addr.into(), ifindex),
        other => match other.global() {
            IpAddr::V6(addr) => (addr.to_ipv4_mapped().map_or(addr.into(), IpAddr::V4), 0),
            v4 @ IpAddr::V4(_) => (v4, 0),
        },
    }
}

fn usable_global(addr: std::net::Ipv6Addr) -> bool {
    !addr.is_unspecified() && !addr.is_unicast_link_local()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways() {
        let v6 = |t: &str| t.parse::<std::net::Ipv6Addr>().unwrap();
        let both = |g: &str| WireNextHop::V6LinkLocal { global: v6(g), link_local: v6("fe80::1") };
        for (wire, ifindex, gateway, expected) in [
            (WireNextHop::V4(Ipv4Addr::new(192, 0, 2, 1)), 7, "192.0.2.1", 0),
            (WireNextHop::V6(v6("2001:db8::1")), 7, "2001:db8::1", 0),
            (WireNextHop::V6(v6("fe80::2")), 7, "fe80::2", 7),
            (WireNextHop::V6(v6("::ffff:192.0.2.1")), 0, "192.0.2.1", 0),
            (both("2001:db8::1"), 7, "fe80::1", 7),
            (both("2001:db8::1"), 0, "2001:db8::1", 0),
            (both("::"), 7, "fe80::1", 7),
        ] {
            assert_eq!(resolve(wire, ifindex), (gateway.parse().unwrap(), expected), "{wire:?}");
        }
    }

    #[test]
    fn sets_are_shared_and_costs_reach_hops() {
        let mut hops = Hops::default();
        let a = hops.intern(WireNextHop::V4(Ipv4Addr::new(192, 0, 2, 1)), 0);
        let b = hops.intern(WireNextHop::V4(Ipv4Addr::new(192, 0, 2, 2)), 0);
        assert!(Arc::ptr_eq(&hops.set(&[(a, 1)]), &hops.set(&[(a, 1)])));
        assert!(Arc::ptr_eq(&hops.set(&[(a, 1), (b, 1)]), &hops.set(&[(b, 1), (a, 1)])));
        let addr: IpAddr = "192.0.2.2".parse().unwrap();
        assert_eq!(hops.set_cost(addr, 0, None), [Changed { hop: b, turned: true }]);
        assert_eq!(hops.set_cost(addr, 0, None), []);
        assert_eq!(hops.set_cost(addr, 7, Some(3)), [], "another gateway");
        hops.release(b);
        let b = hops.intern(WireNextHop::V4(Ipv4Addr::new(192, 0, 2, 2)), 0);
        assert_eq!(hops.cost(b), None, "costs outlive the routes that use them for a moment");
        hops.ignore_costs(true);
        assert_eq!(hops.cost(b), Some(0));
        assert_eq!(hops.set_cost(addr, 0, Some(5)), []);
        hops.ignore_costs(false);
        assert_eq!(hops.cost(b), Some(5));
    }

    #[test]
    fn tells_which_gateways_are_in_use() {
        let mut hops = Hops::default();
        let v6 = |t: &str| WireNextHop::V6(t.parse().unwrap());
        let a = hops.intern(WireNextHop::V4(Ipv4Addr::new(192, 0, 2, 1)), 0);
        let mapped = hops.intern(v6("::ffff:192.0.2.1"), 0);
        let link_local = hops.intern(v6("fe80::1"), 7);
        let (one, other): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "fe80::1".parse().unwrap());
        let told = |hops: &mut Hops| {
            let mut uses = hops.poll_uses();
            uses.sort_unstable();
            uses
        };
        assert_eq!(told(&mut hops), [(one, 0, true), (other, 7, true)]);
        assert_eq!(hops.set_cost(one, 0, Some(9)).len(), 2, "two next hops, one gateway");
        hops.release(a);
        assert_eq!(told(&mut hops), []);
        hops.release(mapped);
        hops.release(link_local);
        let again = hops.intern(v6("fe80::1"), 7);
        assert_eq!(told(&mut hops), [(one, 0, false)], "what is back before anybody asks was never away");
        assert_eq!(hops.reachability(), (1, 0));
        hops.set_cost(other, 7, None);
        assert_eq!(hops.reachability(), (1, 1));
        hops.release(again);
        assert_eq!(told(&mut hops), [(other, 7, false)]);
        let again = hops.intern(v6("fe80::1"), 7);
        assert_eq!(hops.cost(again), Some(0), "forgotten");
    }
}
