//! Routes that are not ours: connected networks, static routes, other daemons' routes. They resolve our next hops
//! and may conflict with our routes; we never touch them.

use std::{hash::Hash, net::IpAddr};

use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::{
    model::{Family, Prefix},
    netlink::route::{Hop, Route, RouteKind},
};

/// A route of somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ForeignRoute {
    pub(super) table: u32,
    pub(super) metric: u32,
    pub(super) protocol: u8,
    pub(super) kind: RouteKind,
    pub(super) hops: SmallVec<[Hop; 1]>,
}

impl ForeignRoute {
    fn of(route: &Route) -> Self {
        Self {
            table: route.table,
            metric: route.metric,
            protocol: route.protocol,
            kind: route.kind,
            hops: route.hops.clone(),
        }
    }

    /// Whether destinations are on a link of the host.
    pub(super) fn is_on_link(&self) -> bool {
        self.kind == RouteKind::Unicast
            && !self.hops.is_empty()
            && self.hops.iter().all(|h| h.gateway.is_none())
    }
}

/// The foreign routes of the tables that matter.
#[derive(Debug, Default)]
pub(super) struct Foreign {
    routes: HashMap<Prefix, SmallVec<[ForeignRoute; 1]>>,
    /// How many prefixes there are of each length, IPv4 then IPv6.
    lengths: [LengthCounts; 2],
    uses: Uses,
}

/// What the hops lead to.
#[derive(Debug, Default)]
struct Uses {
    /// How many use a device.
    devices: HashMap<u32, u32>,
    /// How many use a gateway.
    gateways: HashMap<IpAddr, u32>,
}

#[derive(Debug)]
struct LengthCounts([u32; 129]);

impl Default for LengthCounts {
    fn default() -> Self {
        Self([0; 129])
    }
}

const fn family_index(family: Family) -> usize {
    match family {
        Family::Ipv4 => 0,
        Family::Ipv6 => 1,
    }
}

impl Foreign {
    /// Whether a route can matter to us at all: link-local and multicast destinations never resolve a next hop
    /// that has no interface.
    fn matters(prefix: Prefix) -> bool {
        match prefix.addr() {
            IpAddr::V4(a) => !a.is_multicast(),
            IpAddr::V6(a) => !a.is_unicast_link_local() && !a.is_multicast(),
        }
    }

    /// Notes a route. `replaced`: it took the place of others with the same table and metric.
    pub(super) fn add(&mut self, route: &Route, replaced: bool) {
        if !Self::matters(route.prefix) {
            return;
        }
        let list = self.routes.entry(route.prefix).or_insert_with(|| {
            self.lengths[family_index(route.prefix.family())].0[usize::from(route.prefix.len())] += 1;
            SmallVec::new()
        });
        let new = ForeignRoute::of(route);
        // IPv6 has one route for each metric, with several hops; the kernel always tells it whole.
        let whole = replaced || route.prefix.family() == Family::Ipv6;
        list.retain(|old| {
            let goes = if whole { old.table == new.table && old.metric == new.metric } else { *old == new };
            if goes {
                count(&mut self.uses, old, false);
            }
            !goes
        });
        count(&mut self.uses, &new, true);
        // The kernel prefers the lower metric, and of equals the older.
        let at = list.partition_point(|old| old.metric <= new.metric);
        list.insert(at, new);
    }

    /// Forgets a route. Answers whether it was known.
    pub(super) fn remove(&mut self, route: &Route) -> bool {
        let Some(list) = self.routes.get_mut(&route.prefix) else { return false };
        let gone = ForeignRoute::of(route);
        let same_key = |old: &ForeignRoute| {
            (old.table, old.metric, old.protocol) == (gone.table, gone.metric, gone.protocol)
        };
        let Some(at) = list.iter().position(|old| *old == gone).or_else(|| list.iter().position(same_key))
        else {
            return false;
        };
        if let Some(old) = list.get_mut(at) {
            count(&mut self.uses, old, false);
            // IPv6 tells the departure of single hops.
            if route.prefix.family() == Family::Ipv6 && !gone.hops.is_empty() {
                old.hops
                    .retain(|h| !gone.hops.iter().any(|g| (g.gateway, g.ifindex) == (h.gateway, h.ifindex)));
                if !old.hops.is_empty() {
                    count(&mut self.uses, old, true);
                    return true;
                }
            }
        }
        list.remove(at);
        self.forget_if_empty(route.prefix);
        true
    }

    /// Forgets what leads through a device (of one family, or of both), because the kernel removes IPv4 routes with
    /// their device, or with its last address, without a word. Answers the prefixes concerned.
    pub(super) fn remove_device(&mut self, ifindex: u32, family: Option<Family>) -> Vec<Prefix> {
        if !self.uses_device(ifindex) {
            return Vec::new();
        }
        let mut touched = Vec::new();
        for (prefix, list) in &mut self.routes {
            let uses = |r: &ForeignRoute| r.hops.iter().any(|h| h.ifindex == ifindex);
            if family.is_some_and(|f| f != prefix.family()) || !list.iter().any(uses) {
                continue;
            }
            touched.push(*prefix);
            list.retain(|route| {
                if !uses(route) {
                    return true;
                }
                count(&mut self.uses, route, false);
                route.hops.retain(|h| h.ifindex != ifindex);
                count(&mut self.uses, route, true);
                !route.hops.is_empty()
            });
        }
        for prefix in &touched {
            self.forget_if_empty(*prefix);
        }
        touched
    }

    fn forget_if_empty(&mut self, prefix: Prefix) {
        if self.routes.get(&prefix).is_some_and(SmallVec::is_empty) {
            self.routes.remove(&prefix);
            self.lengths[family_index(prefix.family())].0[usize::from(prefix.len())] -= 1;
        }
    }

    /// Whether any route leads through a device.
    pub(super) fn uses_device(&self, ifindex: u32) -> bool {
        self.uses.devices.contains_key(&ifindex)
    }

    /// The gateways that routes lead to, each once.
    pub(super) fn gateways(&self) -> impl Iterator<Item = IpAddr> {
        self.uses.gateways.keys().copied()
    }

    /// The routes for exactly this prefix, best first.
    pub(super) fn of(&self, prefix: Prefix) -> &[ForeignRoute] {
        self.routes.get(&prefix).map(SmallVec::as_slice).unwrap_or_default()
    }

    /// The most specific route that covers an address, of equals the one that the kernel prefers.
    pub(super) fn longest_match(&self, addr: IpAddr) -> Option<(Prefix, &ForeignRoute)> {
        let family = Family::of(addr);
        let counts = &self.lengths[family_index(family)].0;
        (0..=family.bits()).rev().filter(|len| counts[usize::from(*len)] > 0).find_map(|len| {
            let prefix = Prefix::new(addr, len).ok()?;
            Some((prefix, self.of(prefix).first()?))
        })
    }

    /// As [`Self::longest_match`], but of the routes for that prefix the best that `works`, if any does. The kernel
    /// passes over routes on links without a carrier only where it is told to (`ignore_routes_with_linkdown`), but there
    /// is nothing to gain by following it onto a dead link.
    pub(super) fn longest_working_match(
        &self,
        addr: IpAddr,
        works: impl Fn(&ForeignRoute) -> bool,
    ) -> Option<(Prefix, &ForeignRoute)> {
        let (prefix, best) = self.longest_match(addr)?;
        Some((prefix, self.of(prefix).iter().find(|route| works(route)).unwrap_or(best)))
    }

    /// All prefixes with their routes, best first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Prefix, &[ForeignRoute])> {
        self.routes.iter().map(|(prefix, list)| (prefix, list.as_slice()))
    }

    /// The number of prefixes.
    pub(super) fn len(&self) -> usize {
        self.routes.len()
    }
}

fn count(uses: &mut Uses, route: &ForeignRoute, up: bool) {
    for hop in &route.hops {
        count_one(&mut uses.devices, hop.ifindex, up);
        if let Some(gateway) = hop.gateway {
            count_one(&mut uses.gateways, gateway, up);
        }
    }
}

fn count_one<K: Eq + Hash>(counts: &mut HashMap<K, u32>, of: K, up: bool) {
    if up {
        *counts.entry(of).or_insert(0) += 1;
    } else if let Some(uses) = counts.get_mut(&of) {
        *uses -= 1;
        if *uses == 0 {
            counts.remove(&of);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(prefix: &str, metric: u32, hops: &[(&str, u32)]) -> Route {
        let hop = |(gateway, ifindex): &(&str, u32)| Hop {
            gateway: gateway.parse().ok(),
            ifindex: *ifindex,
            weight: 1,
            flags: 0,
        };
        Route {
            prefix: prefix.parse().unwrap(),
            table: 254,
            protocol: 4,
            scope: 0,
            kind: RouteKind::Unicast,
            metric,
            nexthop_id: None,
            hops: hops.iter().map(hop).collect(),
            source: None,
        }
    }

    #[test]
    fn the_kernels_preference_is_kept() {
        let mut foreign = Foreign::default();
        foreign.add(&route("0.0.0.0/0", 100, &[("192.0.2.1", 2)]), false);
        foreign.add(&route("0.0.0.0/0", 50, &[("192.0.2.2", 3)]), false);
        foreign.add(&route("192.0.2.0/24", 0, &[("", 2)]), false);
        let via = |foreign: &Foreign, addr: &str| {
            foreign.longest_match(addr.parse().unwrap()).map(|(_, r)| (r.metric, r.hops[0].ifindex))
        };
        assert_eq!(via(&foreign, "10.0.0.1"), Some((50, 3)));
        assert_eq!(via(&foreign, "192.0.2.9"), Some((0, 2)));
        assert!(foreign.longest_match("192.0.2.9".parse().unwrap()).unwrap().1.is_on_link());
        foreign.add(&route("0.0.0.0/0", 50, &[("192.0.2.3", 4)]), true);
        assert_eq!(via(&foreign, "10.0.0.1"), Some((50, 4)));
        assert!(!foreign.uses_device(3));
        let mut gateways: Vec<String> = foreign.gateways().map(|g| g.to_string()).collect();
        gateways.sort();
        assert_eq!(gateways, ["192.0.2.1", "192.0.2.3"]);
        assert!(foreign.remove(&route("0.0.0.0/0", 50, &[])));
        assert!(!foreign.remove(&route("0.0.0.0/0", 50, &[])));
        assert_eq!(via(&foreign, "10.0.0.1"), Some((100, 2)));
        assert_eq!(foreign.remove_device(2, Some(Family::Ipv4)).len(), 2);
        assert_eq!((foreign.len(), foreign.gateways().count()), (0, 0));
        assert_eq!(foreign.longest_match("192.0.2.9".parse().unwrap()), None);
    }

    #[test]
    fn ipv6_hops_come_together_and_leave_one_by_one() {
        let mut foreign = Foreign::default();
        foreign.add(&route("2001:db8::/32", 1024, &[("fe80::1", 2)]), false);
        foreign.add(&route("2001:db8::/32", 1024, &[("fe80::1", 2), ("fe80::2", 3)]), false);
        assert_eq!(foreign.of("2001:db8::/32".parse().unwrap()).len(), 1);
        assert!(foreign.remove(&route("2001:db8::/32", 1024, &[("fe80::1", 2)])));
        assert!(foreign.uses_device(3) && !foreign.uses_device(2));
        assert!(foreign.remove(&route("2001:db8::/32", 1024, &[("fe80::2", 3)])));
        assert_eq!(foreign.len(), 0);
        foreign.add(&route("fe80::/64", 256, &[("", 2)]), false);
        assert_eq!(foreign.len(), 0);
    }
}
