//! What the kernel tells us happened.

use std::{net::IpAddr, time::Instant};

use hashbrown::HashMap;

use super::{
    Kernel,
    gateways::Ways,
    reconcile::leftover,
    state::{DeviceRoute, LinkState, State},
    table::{Target, flag},
};
use crate::{
    model::{Family, Prefix, gateway6},
    netlink::{
        Error,
        addr::Address,
        nexthop::{Kind, Object, Via},
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
            KernelEvent::NextHop(object) => self.object_told(object.id, false),
            KernelEvent::NextHopGone(object) => self.object_told(object.id, true),
            KernelEvent::Neighbour(neighbour) => {
                // While it is being asked for, nothing is known: what was, stays.
                if neighbour.is_failed() || neighbour.is_valid() {
                    self.set_failed(neighbour.addr, neighbour.ifindex, neighbour.is_failed(), now);
                }
            }
            // A forgotten neighbour that had failed has still failed: our question makes a new entry.
            KernelEvent::NeighbourGone(_) | KernelEvent::Rules | KernelEvent::Settings(..) => {}
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
        if !there && self.config.gateway6 && addr == IpAddr::V6(gateway6(ifindex)) {
            self.queue_locals_on(ifindex);
        }
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
        if in_our_table && replaced && self.local_route(route).is_none() {
            self.local_replaced(route);
        }
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
        if let Some(device) = self.local_route(route) {
            self.device_routes.insert(route.prefix, device);
            if self.locals.contains_key(&route.prefix) {
                self.local_queue.push(route.prefix);
            }
        } else if route.metric == self.config.metric
            && !route.is_on_link()
            && (replaced || !self.is_second(route))
        {
            // Not by us: our own changes are filtered out of the notifications.
            self.adopt_route(route);
        } else {
            tracing::warn!(prefix = %route.prefix, "somebody wrote a route with our protocol number: it is deleted");
            self.counters.repaired += 1;
            self.leftovers.push(leftover(route));
        }
    }

    /// Somebody put another route in the place of one to a container, of which the kernel says nothing else.
    fn local_replaced(&mut self, route: &Route) {
        let same = |ours: &DeviceRoute| ours.metric == route.metric;
        if self.device_routes.get(&route.prefix).is_some_and(same) {
            tracing::warn!(prefix = %route.prefix, "somebody replaced the route to a container by another");
            self.device_routes.remove(&route.prefix);
            self.local_lost(route.prefix);
        }
    }

    /// The kernel has the route to a container no longer.
    pub(super) fn local_lost(&mut self, prefix: Prefix) {
        if let Some(local) = self.locals.get_mut(&prefix) {
            local.lost = true;
            self.local_queue.push(prefix);
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
        if let Some(device) = self.local_route(route) {
            if self.device_routes.get(&route.prefix) == Some(&device) {
                self.device_routes.remove(&route.prefix);
            }
            self.local_lost(route.prefix);
        } else if route.metric == self.config.metric
            && !route.is_on_link()
            && let Some(ours) = self.table.find(route.prefix)
        {
            let meta = *self.table.meta(ours);
            if meta.actual == Target::NONE {
                return;
            }
            let wanted = u64::from(meta.desired != Target::NONE || meta.has(flag::BLOCK));
            match meta.actual.index().filter(|_| self.objects) {
                Some(index) => {
                    // IPv6 tells the end of every route when its group goes.
                    self.told.entry(self.config.first_group_id() + index).or_default();
                    if let Some(set) = self.sets.get_mut(index) {
                        set.repairs += wanted;
                    }
                }
                None => self.counters.repaired += wanted,
            }
            // Not certain: we may have written it again since.
            self.set_actual(ours, Target::DOUBTFUL);
            self.table.meta_mut(ours).put(flag::STALE, false);
            self.enqueue(ours);
        }
    }

    /// The kernel removes the next-hop objects of a link that goes down, without a word.
    pub(super) fn objects_flushed(&mut self, ifindex: u32) {
        if !self.objects {
            return;
        }
        let mut hit = Vec::new();
        for (index, set) in self.sets.iter().filter(|(_, s)| s.present) {
            let on_link = |(via, _): &(Via, u16)| via.ifindex == ifindex;
            if set.content.iter().any(on_link) {
                // A group with other members only shrinks, and keeps its routes.
                hit.push((self.config.first_group_id() + index, set.content.iter().all(on_link)));
            }
        }
        for (id, gone) in hit {
            self.object_told(id, gone);
        }
        let hops: Vec<u32> =
            self.hops.iter().filter(|(_, h)| h.via.ifindex == ifindex).map(|(i, _)| i).collect();
        for index in hops {
            self.object_told(self.config.first_hop_id() + index, true);
        }
    }

    fn object_told(&mut self, id: u32, gone: bool) {
        if self.objects && (self.hop_index(id).is_some() || self.group_index(id).is_some()) {
            *self.told.entry(id).or_default() |= gone;
        }
    }

    /// Asks the kernel about the next-hop objects that notifications were about.
    pub(super) fn look_at_told(&mut self, kernel: &mut dyn Kernel, now: Instant) -> Result<(), Error> {
        /// From so many on, all are read at once.
        const MANY: usize = 32;
        if self.told.is_empty() {
            return Ok(());
        }
        let mut all: HashMap<u32, Object> = HashMap::new();
        if self.told.len() > MANY {
            all.extend(kernel.objects()?.into_iter().map(|o| (o.id, o)));
        } else {
            for id in self.told.keys() {
                all.extend(kernel.object(*id)?.map(|o| (*id, o)));
            }
        }
        // Hops come first: they have the lower ids, and groups are told in terms of them.
        for (id, gone) in std::mem::take(&mut self.told) {
            let object = all.get(&id);
            if let Some(index) = self.hop_index(id) {
                self.hop_is(index, object);
            } else if let Some(index) = self.group_index(id) {
                self.group_is(index, object, gone, now);
            }
        }
        Ok(())
    }

    fn hop_is(&mut self, index: u32, object: Option<&Object>) {
        let Some(hop) = self.hops.get_mut(index) else { return };
        let ours = object.is_some_and(|o| {
            o.protocol == self.config.protocol && matches!(&o.kind, Kind::Via(via) if *via == hop.via)
        });
        let was = hop.present;
        (hop.present, hop.doubtful) = (ours, !ours && object.is_some());
        let via = hop.via;
        if was && !ours {
            self.rewrite_groups_with(&via);
        }
    }

    fn group_is(&mut self, index: u32, object: Option<&Object>, gone: bool, now: Instant) {
        let Some(set) = self.sets.get_mut(index) else {
            if object.is_some_and(|o| o.protocol == self.config.protocol) {
                // In our range, and not by us.
                self.schedule_resync(now);
            }
            return;
        };
        set.content.clear();
        set.present = object.is_some();
        set.lost |= object.is_none() && set.used > 0;
        // It was gone, and is there again: by our own hand, but its routes went with it.
        set.shaken |= object.is_some() && gone && set.used > 0;
        self.scan |= set.lost || set.shaken;
        if object.is_some() {
            self.counters.repaired += std::mem::take(&mut set.repairs);
        } else {
            set.repairs += u64::from(set.wanted > 0);
        }
        if let Some(Kind::Group(members)) = object.map(|o| &o.kind) {
            let (hops, first) = (&self.hops, self.config.first_hop_id());
            let named = members.iter().map(|(id, weight)| {
                Some((hops.get(id.checked_sub(first)?).filter(|h| h.present)?.via, *weight))
            });
            let mut content = named.collect::<Option<Ways>>().unwrap_or_default();
            content.sort_unstable();
            set.content = content;
        }
        self.retarget(index);
    }

    /// Queues the sets that should contain a first hop, although their contents seem to be right.
    fn rewrite_groups_with(&mut self, via: &Via) {
        let mut sets = Vec::new();
        for (index, set) in self.sets.iter_mut() {
            if set.target.iter().any(|(v, _)| v == via) {
                set.content.clear();
                sets.push(index);
            }
        }
        for index in sets {
            self.sets.enqueue(index);
        }
    }
}
