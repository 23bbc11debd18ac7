//! Next hops, interned: what they cost, and the sets of them that best paths use.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use hashbrown::{HashMap, HashSet};
use rustc_hash::FxBuildHasher;

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
    /// The interior cost; `None` when the next hop cannot be reached.
    pub(super) cost: Option<u32>,
    /// The set that consists of it alone.
    single: Option<Arc<NextHopSet>>,
}

/// All next hops in use.
#[derive(Debug)]
#[expect(clippy::struct_field_names, reason = "the next hops among what is kept about them")]
pub(super) struct Hops {
    hops: Slab<Hop>,
    index: HashMap<(WireNextHop, u32), u32, FxBuildHasher>,
    /// Costs that were set; all others are 0.
    costs: HashMap<IpAddr, Option<u32>, FxBuildHasher>,
    sets: HashSet<Arc<NextHopSet>, FxBuildHasher>,
    /// Sets are looked through for unused ones when there are this many.
    sets_limit: usize,
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
            costs: HashMap::default(),
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
        let cost = self.costs.get(&gateway).copied().unwrap_or(Some(0));
        let id = self.hops.insert(Hop { refs: 1, wire, gateway, ifindex, cost, single: None });
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
            self.hops.release(id);
        }
    }

    /// Sets the cost of an address; the next hops that it changes.
    pub(super) fn set_cost(&mut self, addr: IpAddr, cost: Option<u32>) -> Vec<u32> {
        if cost == Some(0) {
            self.costs.remove(&addr);
        } else {
            self.costs.insert(addr, cost);
        }
        let changed: Vec<u32> = self
            .index
            .values()
            .copied()
            .filter(|id| self.hops[*id].gateway == addr && self.hops[*id].cost != cost)
            .collect();
        for id in &changed {
            self.hops[*id].cost = cost;
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
        assert_eq!(hops.set_cost("192.0.2.2".parse().unwrap(), None), [b]);
        assert_eq!(hops.set_cost("192.0.2.2".parse().unwrap(), None), [0; 0]);
        hops.release(b);
        let b = hops.intern(WireNextHop::V4(Ipv4Addr::new(192, 0, 2, 2)), 0);
        assert_eq!(hops[b].cost, None, "costs outlive the routes that use them");
    }
}
