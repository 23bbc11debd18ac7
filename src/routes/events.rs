//! What the kernel tells us happened.

use std::time::Instant;

use super::{
    state::{LinkState, State},
    table::{Target, flag},
};
use crate::{
    model::{Family, Prefix},
    netlink::{
        addr::Address,
        nexthop::{Kind, Object},
        route::Route,
        watch::KernelEvent,
    },
};

impl State {
    /// Notes what happened in the kernel and queues what it touches.
    pub(super) fn handle_event(&mut self, event: KernelEvent, now: Instant) {
        match event {
            KernelEvent::Link(link) => self.set_link(link.index, Some(LinkState::of(&link))),
            KernelEvent::LinkGone(link) => self.set_link(link.index, None),
            KernelEvent::Address(address) => self.address(&address, true, now),
            KernelEvent::AddressGone(address) => self.address(&address, false, now),
            KernelEvent::Route { route, replaced } => self.route_appeared(&route, replaced),
            KernelEvent::RouteGone(route) => self.route_gone(&route),
            KernelEvent::NextHop(object) => self.object_changed(&object, now),
            KernelEvent::NextHopGone(object) => self.object_gone(&object),
            KernelEvent::Neighbour(neighbour) => {
                // While it is being asked for, nothing is known: what was, stays.
                if neighbour.is_failed() || neighbour.is_valid() {
                    self.set_failed(neighbour.addr, neighbour.ifindex, neighbour.is_failed(), now);
                }
            }
            // A forgotten neighbour that had failed has still failed: our question makes a new entry.
            KernelEvent::NeighbourGone(_) | KernelEvent::Rules => {}
            KernelEvent::Overrun => {
                self.counters.overruns += 1;
                self.schedule_resync(now);
            }
        }
    }

    fn address(&mut self, address: &Address, there: bool, now: Instant) {
        let on = self.addrs.entry(address.addr).or_default();
        on.retain(|dev| *dev != address.ifindex);
        if there {
            on.push(address.ifindex);
        }
        if on.is_empty() {
            self.addrs.remove(&address.addr);
        }
        // A learned route to it, or a next hop that it is, may be possible no longer, or again.
        self.touch(Prefix::host(address.addr));
        let addr = address.addr;
        self.gateways.enqueue_if(|g| g.addr == addr);
        let ifindex = address.ifindex;
        let bare = || !self.addrs.iter().any(|(a, on)| a.is_ipv4() && on.contains(&ifindex));
        if !there && addr.is_ipv4() && bare() {
            // With a device's last IPv4 address the kernel removes all IPv4 routes on it, without a word.
            self.device_flushed(ifindex, Some(Family::Ipv4));
            if !self.objects {
                // Ours among them.
                self.schedule_resync(now);
            }
        }
    }

    fn route_appeared(&mut self, route: &Route, replaced: bool) {
        if !self.config.follows_table(route.table) {
            return;
        }
        let in_our_table = route.table == self.config.table;
        if !in_our_table || route.protocol != self.config.protocol {
            self.foreign.add(route, replaced);
            // Somebody replaced our route with theirs.
            if in_our_table
                && replaced
                && route.metric == self.config.metric
                && let Some(ours) = self.table.find(route.prefix)
                && self.table.meta(ours).actual != Target::NONE
            {
                tracing::warn!(prefix = %route.prefix, "somebody replaced our route by another");
                self.set_actual(ours, Target::NONE);
            }
            self.foreign_changed(route.prefix);
            return;
        }
        if let (true, Some(hop)) = (route.is_on_link(), route.hops.first()) {
            self.device_routes.insert(route.prefix, hop.ifindex);
            if self.locals.contains_key(&route.prefix) {
                self.local_queue.push(route.prefix);
            }
        } else if route.metric == self.config.metric {
            // Not by us: our own changes are filtered out of the notifications.
            self.adopt_route(route);
        }
    }

    fn route_gone(&mut self, route: &Route) {
        if !self.config.follows_table(route.table) {
            return;
        }
        if route.table != self.config.table || route.protocol != self.config.protocol {
            if self.foreign.remove(route) {
                self.foreign_changed(route.prefix);
            }
            return;
        }
        if let (true, Some(hop)) = (route.is_on_link(), route.hops.first()) {
            if self.device_routes.get(&route.prefix) == Some(&hop.ifindex) {
                self.device_routes.remove(&route.prefix);
            }
            if self.locals.contains_key(&route.prefix) {
                self.counters.repaired += 1;
                self.local_queue.push(route.prefix);
            }
        } else if route.metric == self.config.metric
            && let Some(ours) = self.table.find(route.prefix)
        {
            let meta = *self.table.meta(ours);
            if meta.actual == Target::NONE {
                return;
            }
            self.counters.repaired += u64::from(meta.desired != Target::NONE || meta.has(flag::BLOCK));
            self.set_actual(ours, Target::NONE);
            self.table.meta_mut(ours).put(flag::STALE, false);
            self.enqueue(ours);
        }
    }

    /// A next-hop object was written by somebody else, or the kernel took members out of a group.
    fn object_changed(&mut self, object: &Object, now: Instant) {
        if let Some(index) = self.hop_index(object.id) {
            let Some(hop) = self.hops.get_mut(index) else { return };
            let as_ours = object.protocol == self.config.protocol
                && matches!(&object.kind, Kind::Via(via) if *via == hop.via);
            if hop.present && !as_ours {
                hop.present = false;
                let via = hop.via;
                self.rewrite_groups_with(&via);
            }
        } else if let Some(index) = self.group_index(object.id) {
            let Some(set) = self.sets.get_mut(index) else {
                if object.protocol == self.config.protocol {
                    // In our range, and not by us.
                    self.schedule_resync(now);
                }
                return;
            };
            set.content.clear();
            set.present = true;
            if let Kind::Group(members) = &object.kind {
                let hops = &self.hops;
                let first = self.config.first_hop_id();
                let named = members.iter().map(|(id, weight)| {
                    Some((hops.get(id.checked_sub(first)?).filter(|h| h.present)?.via, *weight))
                });
                let mut content = named.collect::<Option<super::gateways::Ways>>().unwrap_or_default();
                content.sort_unstable();
                if let Some(set) = self.sets.get_mut(index) {
                    set.content = content;
                }
            }
            self.retarget(index);
        }
    }

    fn object_gone(&mut self, object: &Object) {
        if let Some(index) = self.hop_index(object.id) {
            let Some(hop) = self.hops.get_mut(index) else { return };
            hop.present = false;
            let via = hop.via;
            // The kernel took it out of its groups; those that became empty follow with notifications of their own.
            for (_, set) in self.sets.iter_mut() {
                set.content.retain(|(v, _)| *v != via);
            }
            self.rewrite_groups_with(&via);
        } else if let Some(index) = self.group_index(object.id) {
            let Some(set) = self.sets.get_mut(index) else { return };
            set.present = false;
            set.content.clear();
            set.lost = set.used > 0;
            self.counters.repaired += u64::from(set.wanted > 0);
            self.scan |= set.lost;
            self.retarget(index);
        }
    }

    /// Queues the sets that should contain a first hop, although their contents seem to be right.
    fn rewrite_groups_with(&mut self, via: &crate::netlink::nexthop::Via) {
        let mut sets = Vec::new();
        for (index, set) in self.sets.iter_mut() {
            if set.target.iter().any(|(v, _)| v == via) {
                set.content.clear();
                sets.push(index);
            }
        }
        sets.into_iter().for_each(|index| self.sets.enqueue(index));
    }
}
