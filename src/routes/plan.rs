//! What should be in the kernel: resolution of next hops, contents of groups, and the target of each route.

use std::net::{IpAddr, Ipv4Addr};

use smallvec::SmallVec;

use super::{
    Op,
    checks::Reason,
    foreign::ForeignRoute,
    gateways::{Unresolved, WATCHED, Ways, family_fits, is_host_address, is_link_local, last_address},
    kernel::Way,
    sets::{Set, canonical},
    state::{DeviceRoute, LinkState, State},
    table::{RouteRef, Table, Target, flag},
};
use crate::{
    model::{Family, Ipv4Prefix, NextHopSet, Prefix},
    netlink::{
        nexthop::Via,
        route::{Mode, RouteKind},
    },
};

/// How many learned routes may stand between a next hop and its first hop.
const MAX_DEPTH: usize = 4;
/// `RTNH_F_ONLINK`.
const ONLINK: u32 = 4;
/// Before all prefixes.
const FIRST: Prefix = Prefix::V4(Ipv4Prefix::new(Ipv4Addr::UNSPECIFIED, 0));

impl State {
    /// The first hops to which a set of next hops resolves now.
    pub(super) fn target_of(&self, key: &NextHopSet) -> Ways {
        let mut all: SmallVec<[(Via, u32); 4]> = SmallVec::new();
        let mut suspects: SmallVec<[(Via, u32); 4]> = SmallVec::new();
        for hop in key.hops() {
            let ways = match self.gateways.find(hop.gateway, hop.ifindex).and_then(|i| self.gateways.slot(i))
            {
                Some(gateway) if gateway.failure.is_some() || !gateway.ways.is_empty() => {
                    gateway.ways.clone()
                }
                // Not resolved yet.
                _ => self.resolve(hop.gateway, hop.ifindex).0.unwrap_or_default().0,
            };
            // A next hop's share is divided among the first hops that lead to it.
            let total: u32 = ways.iter().map(|(_, w)| u32::from(*w)).sum::<u32>().max(1);
            let share = |w: u16| if ways.len() == 1 { 1 << 12 } else { (u32::from(w) << 12) / total };
            let list =
                if self.gateways.is_suspect(hop.gateway, hop.ifindex) { &mut suspects } else { &mut all };
            list.extend(ways.iter().map(|(via, w)| (*via, u32::from(hop.weight.max(1)) * share(*w).max(1))));
        }
        let works = |(via, _): &mut (Via, u32)| !self.broken.get(via).is_some_and(|b| b.active);
        all.retain(works);
        if all.is_empty() {
            suspects.retain(works);
            all = suspects;
        }
        // A neighbour that does not answer is left out while another does.
        let answers = |via: &Via| !self.failed.contains(&(via.gateway, via.ifindex));
        if all.iter().any(|(via, _)| answers(via)) {
            all.retain(|(via, _)| answers(via));
        }
        canonical(all)
    }

    /// Resolves a next hop to first hops, with the cost. The second is whether routes of our own were asked.
    pub(super) fn resolve(&self, addr: IpAddr, ifindex: u32) -> (Result<(Ways, u32), Unresolved>, bool) {
        let mut trail = SmallVec::new();
        let mut recursive = false;
        let result = self.resolve_from(addr, ifindex, &mut trail, &mut recursive);
        (result, recursive)
    }

    fn resolve_from(
        &self,
        addr: IpAddr,
        ifindex: u32,
        trail: &mut SmallVec<[IpAddr; MAX_DEPTH]>,
        recursive: &mut bool,
    ) -> Result<(Ways, u32), Unresolved> {
        if self.gateways.is_down(addr, ifindex) {
            return Err(Unresolved::Down);
        }
        if !is_host_address(addr) {
            return Err(Unresolved::Invalid);
        }
        if ifindex != 0 {
            return self.resolve_on_link(addr, ifindex).map(|ways| (ways, 0));
        }
        if is_link_local(addr) {
            return Err(Unresolved::NoInterface);
        }
        if self.addrs.contains_key(&addr) {
            return Err(Unresolved::OwnAddress);
        }
        if trail.contains(&addr) || trail.len() >= MAX_DEPTH {
            return Err(Unresolved::Loop);
        }
        let works = |route: &ForeignRoute| {
            route.kind != RouteKind::Unicast
                || route.hops.iter().any(|hop| self.links.get(&hop.ifindex).is_some_and(|link| link.running))
        };
        let foreign = self.foreign.longest_working_match(addr, works);
        trail.push(addr);
        let learned =
            self.resolve_through_learned(addr, foreign.map(|(p, r)| (p, r.metric)), trail, recursive);
        trail.pop();
        if let Some(ways) = learned {
            return Ok((ways, self.config.metric));
        }
        let Some((_, route)) = foreign else { return Err(Unresolved::NoRoute) };
        if route.kind != RouteKind::Unicast {
            return Err(Unresolved::Unreachable);
        }
        let mut loopback = false;
        let ways: Ways = route
            .hops
            .iter()
            .filter(|hop| {
                let link = self.links.get(&hop.ifindex);
                loopback |= link.is_some_and(|l| l.loopback);
                link.is_some_and(|l| l.running && !l.loopback)
            })
            .map(|hop| {
                let onlink = hop.gateway.is_some() && hop.flags & ONLINK != 0;
                (Via { gateway: hop.gateway.unwrap_or(addr), ifindex: hop.ifindex, onlink }, hop.weight)
            })
            .collect();
        match ways.is_empty() {
            true if loopback => Err(Unresolved::OwnAddress),
            true => Err(Unresolved::LinkDown),
            false if route.is_on_link() => Ok((ways, 0)),
            false => Ok((ways, route.metric.max(1))),
        }
    }

    fn resolve_on_link(&self, addr: IpAddr, ifindex: u32) -> Result<Ways, Unresolved> {
        if !self.links.get(&ifindex).is_some_and(|l| l.running) {
            return Err(Unresolved::LinkDown);
        }
        if self.addrs.get(&addr).is_some_and(|on| !is_link_local(addr) || on.contains(&ifindex)) {
            return Err(Unresolved::OwnAddress);
        }
        // Where no connected route says so, the kernel must be told that the gateway is on the link.
        let connected = || {
            let found = self.foreign.longest_match(addr);
            found.is_some_and(|(_, r)| r.is_on_link() && r.hops.iter().any(|h| h.ifindex == ifindex))
        };
        let onlink = !is_link_local(addr) && !connected();
        Ok(Ways::from_iter([(Via { gateway: addr, ifindex, onlink }, 1)]))
    }

    /// Through the most specific learned route that the kernel would prefer to the best route of others.
    fn resolve_through_learned(
        &self,
        addr: IpAddr,
        foreign: Option<(Prefix, u32)>,
        trail: &mut SmallVec<[IpAddr; MAX_DEPTH]>,
        recursive: &mut bool,
    ) -> Option<Ways> {
        let mut found = None;
        self.table.longest_match(addr, |route, meta| {
            let prefix = self.table.prefix(route);
            if let Some((theirs, metric)) = foreign
                && (prefix.len() < theirs.len()
                    || (prefix.len() == theirs.len() && metric <= self.config.metric))
            {
                // Shorter ones follow: nothing more to be found.
                return true;
            }
            let Some(set) = meta.desired.index().and_then(|i| self.sets.get(i)) else { return false };
            let Some(key) = &set.key else { return false };
            *recursive = true;
            if meta.has(flag::BLOCK) || self.rejection(prefix, set).is_some() {
                return false;
            }
            let mut ways: SmallVec<[(Via, u32); 4]> = SmallVec::new();
            for suspect in [false, true] {
                let of = |hop: &&crate::model::NextHop| {
                    self.gateways.is_suspect(hop.gateway, hop.ifindex) == suspect && ways.is_empty()
                };
                for hop in key.hops().iter().filter(of).collect::<SmallVec<[_; 4]>>() {
                    let resolved = self.resolve_from(hop.gateway, hop.ifindex, trail, recursive);
                    let (resolved, _) = resolved.unwrap_or_default();
                    ways.extend(
                        resolved.iter().map(|(via, w)| (*via, u32::from(*w) * u32::from(hop.weight))),
                    );
                }
            }
            if ways.is_empty() {
                return false;
            }
            found = Some(canonical(ways));
            true
        });
        found
    }

    /// Why a learned route is refused for what it is.
    pub(super) fn rejection(&self, prefix: Prefix, set: &Set) -> Option<Reason> {
        if prefix.is_martian() {
            return Some(Reason::Martian);
        }
        if prefix.is_host() {
            if self.locals.contains_key(&prefix) {
                return Some(Reason::LocalEndpoint);
            }
            if self.addrs.contains_key(&prefix.addr()) {
                return Some(Reason::HostAddress);
            }
        }
        // More specific than the block, it would send addresses that no container has to the network and back.
        if !prefix.is_host() && self.blocks.iter().any(|block| *block != prefix && block.covers(prefix)) {
            return Some(Reason::OwnBlock);
        }
        let hops = set.key.as_ref().map(|k| k.hops()).unwrap_or_default();
        if !hops.iter().all(|hop| family_fits(prefix.family(), hop.gateway)) {
            return Some(Reason::Family);
        }
        for index in self.gateways.within(prefix) {
            let Some(gateway) = self.gateways.slot(index) else { continue };
            let own = set.gateways.contains(&index);
            let takes_over = match self.foreign.longest_match(gateway.addr) {
                // A connected network may not be taken over even by a route of equal length.
                Some((theirs, route)) if route.is_on_link() => theirs.len() <= prefix.len(),
                Some((theirs, route)) => {
                    own && (theirs.len() < prefix.len()
                        || (theirs.len() == prefix.len() && route.metric > self.config.metric))
                }
                None => own,
            };
            if takes_over {
                return Some(Reason::CoversNextHop);
            }
        }
        // The neighbour of a session is a next hop to be, even while nobody uses it.
        for addr in self.sessions.range(prefix.addr()..=last_address(prefix)) {
            let connected = self.foreign.longest_match(*addr);
            if connected.is_some_and(|(theirs, route)| route.is_on_link() && theirs.len() <= prefix.len()) {
                return Some(Reason::CoversNextHop);
            }
        }
        None
    }

    /// Where a route should lead in the kernel now, and why nowhere.
    fn want(&mut self, route: RouteRef) -> (Target, Option<Reason>) {
        let meta = *self.table.meta(route);
        if meta.has(flag::BLOCK) {
            return (Target::BLACKHOLE, (meta.desired != Target::NONE).then_some(Reason::OwnBlock));
        }
        let Some(index) = meta.desired.index() else {
            return (if meta.has(flag::STALE) { meta.actual } else { Target::NONE }, None);
        };
        let prefix = self.table.prefix(route);
        if let Some(reason) = self.sets.get(index).and_then(|set| self.rejection(prefix, set)) {
            return (Target::NONE, Some(reason));
        }
        if !meta.has(flag::COUNTED) {
            if self.counted >= self.config.max_routes {
                self.over_limit = true;
                return (Target::NONE, Some(Reason::OverLimit));
            }
            self.counted += 1;
            self.table.meta_mut(route).put(flag::COUNTED, true);
        }
        match self.sets.get_mut(index) {
            Some(set) if set.present => (Target::set(index), None),
            Some(set) => {
                set.waiting = true; // until the set is there, when all routes are looked through
                if set.target.is_empty() {
                    (Target::NONE, Some(Reason::Unresolved))
                } else {
                    // Only the group is missing: until it is there, an old way is better than none.
                    (meta.actual, Some(Reason::Refused))
                }
            }
            None => (Target::NONE, Some(Reason::Unresolved)),
        }
    }

    /// Compares a route with the kernel; appends what is to be written, in the form (route, wanted target).
    pub(super) fn plan_route(
        &mut self,
        route: RouteRef,
        ops: &mut Vec<Op>,
        of: &mut Vec<(RouteRef, Target)>,
    ) {
        self.table.meta_mut(route).put(flag::QUEUED, false);
        let (want, reason) = self.want(route);
        let prefix = self.table.prefix(route);
        let meta = self.table.meta_mut(route);
        let rejected = |r: Option<Reason>| r.is_some_and(Reason::is_rejection);
        let turned = rejected(Reason::from_byte(meta.reason)) != rejected(reason);
        meta.reason = reason.map_or(0, |r| r as u8);
        if turned {
            // Next hops resolve only through routes that are not rejected.
            self.gateways.enqueue_within(prefix);
        }
        let meta = self.table.meta_mut(route);
        if meta.has(flag::COUNTED) && (meta.desired == Target::NONE || rejected(reason)) {
            meta.put(flag::COUNTED, false);
            self.counted -= 1;
        }
        let meta = *self.table.meta(route);
        let push = |ops: &mut Vec<Op>, of: &mut Vec<_>, op| {
            ops.push(op);
            of.push((route, want));
        };
        let drop = Op::DropRoute { prefix, metric: self.config.metric };
        match (meta.actual, want) {
            (actual, want) if actual == want && !meta.has(flag::OUTDATED) => self.settle(route),
            (_, Target::NONE) => push(ops, of, drop),
            (Target::NONE, _) if self.is_taken(prefix) => {
                let meta = self.table.meta_mut(route);
                meta.reason = Reason::Conflict as u8;
            }
            (Target::NONE | Target::DOUBTFUL, _) if !self.is_taken(prefix) => {
                let Some(way) = self.way(want) else { return };
                push(ops, of, Op::Route { prefix, way, mode: Mode::Create });
            }
            _ => {
                let Some(way) = self.way(want) else { return };
                if self.is_taken(prefix) {
                    // Changing could hit the other's route: ours goes, and comes back only if there is room.
                    push(ops, of, drop);
                    push(ops, of, Op::Route { prefix, way, mode: Mode::Create });
                } else {
                    push(ops, of, Op::Route { prefix, way, mode: Mode::Change });
                }
            }
        }
    }

    /// The kernel has what is wanted.
    fn settle(&mut self, route: RouteRef) {
        let meta = self.table.meta_mut(route);
        if meta.has(flag::TROUBLED) {
            meta.put(flag::TROUBLED, false);
            self.troubles.remove(&route);
        }
        let meta = *self.table.meta(route);
        let idle = meta.desired == Target::NONE && meta.actual == Target::NONE;
        if idle && !meta.has(flag::BLOCK) {
            self.table.remove(route);
        }
    }

    /// Whether somebody else has a route with our prefix, table and metric.
    pub(super) fn is_taken(&self, prefix: Prefix) -> bool {
        self.taken_by(prefix).is_some()
    }

    /// Somebody else's route with our prefix, table and metric.
    pub(super) fn taken_by(&self, prefix: Prefix) -> Option<&ForeignRoute> {
        let ours = |r: &&ForeignRoute| r.table == self.config.table && r.metric == self.config.metric;
        self.foreign.of(prefix).iter().find(ours)
    }

    /// How the kernel is told about a target.
    pub(super) fn way(&self, target: Target) -> Option<Way> {
        if target == Target::BLACKHOLE {
            return Some(Way::Blackhole);
        }
        let index = target.index()?;
        if self.objects {
            return Some(Way::Object(self.config.first_group_id() + index));
        }
        Some(Way::Via(self.sets.get(index)?.content.to_vec()))
    }

    /// Resolves the queued next hops, and queues the sets whose first hops change.
    pub(super) fn resolve_queued(&mut self) {
        // Resolving one may queue others, which settle in turn; a bound, should they not.
        let mut left = 16 * self.gateways.len() + 64;
        while let Some(index) = self.gateways.dequeue() {
            left -= 1;
            if left == 0 {
                tracing::warn!("next hops keep changing while they are resolved");
                self.gateways.enqueue(index);
                return;
            }
            self.resolve_one(index);
        }
    }

    fn resolve_one(&mut self, index: u32) {
        let Some(gateway) = self.gateways.slot(index) else { return };
        let (addr, ifindex) = (gateway.addr, gateway.ifindex);
        let (result, recursive) = self.resolve(addr, ifindex);
        let (ways, cost, failure) = match result {
            Ok((ways, cost)) => (ways, cost, None),
            Err(failure) => (Ways::new(), 0, Some(failure)),
        };
        let Some(gateway) = self.gateways.slot_mut(index) else { return };
        gateway.recursive = recursive;
        let changed = gateway.ways != ways || gateway.failure != failure;
        gateway.ways = ways;
        gateway.failure = failure;
        gateway.cost = cost;
        if gateway.sets.contains(&WATCHED) {
            self.watched.note(addr, ifindex, failure.is_none().then_some(cost));
        }
        let sets: Vec<u32> = gateway.sets.iter().copied().collect();
        if changed {
            for set in sets {
                self.retarget(set);
            }
            // Those that resolve through routes that lead here.
            self.gateways.enqueue_if(|g| g.recursive && (g.addr, g.ifindex) != (addr, ifindex));
        }
    }

    /// Tells from now on whether a next hop can be reached.
    pub(super) fn watch_next_hop(&mut self, addr: IpAddr, ifindex: u32) {
        if !self.watched.add(addr, ifindex) {
            return;
        }
        let (index, new) = self.gateways.acquire(addr, ifindex, WATCHED);
        // One that is known already was looked at before.
        self.gateways.enqueue(index);
        if new && ifindex == 0 {
            self.touch_covering(addr);
        }
    }

    /// Tells of a next hop no longer.
    pub(super) fn unwatch_next_hop(&mut self, addr: IpAddr, ifindex: u32) {
        if !self.watched.remove(addr, ifindex) {
            return;
        }
        if let Some(index) = self.gateways.find(addr, ifindex)
            && let Some(addr) = self.gateways.release(index, WATCHED)
        {
            self.touch_covering(addr);
        }
    }

    /// Computes what a set should consist of, and queues it when the kernel has something else.
    pub(super) fn retarget(&mut self, index: u32) {
        let Some(key) = self.sets.get(index).and_then(|s| s.key.clone()) else { return };
        let target = self.target_of(&key);
        let Some(set) = self.sets.get_mut(index) else { return };
        if set.target != target {
            set.target = target;
            // What was refused was something else; and some first hop may be of no use now.
            set.trouble = None;
            self.garbage = true;
            // Routes that kept their old way until the group would be there wait no longer.
            self.scan |= set.waiting && set.target.is_empty();
        }
        if !set.is_settled() {
            self.sets.enqueue(index);
        }
    }

    /// Computes all sets that use a first hop.
    pub(super) fn retarget_users(&mut self, uses: impl Fn(&Via) -> bool) {
        let mut sets: Vec<u32> = Vec::new();
        for (_, gateway) in self.gateways.iter() {
            if gateway.ways.iter().any(|(via, _)| uses(via)) {
                sets.extend(&gateway.sets);
            }
        }
        sets.sort_unstable();
        sets.dedup();
        for set in sets {
            self.retarget(set);
        }
    }

    /// The running links of first hops.
    pub(super) fn links_in_use(&self) -> SmallVec<[u32; 4]> {
        let mut links: SmallVec<[u32; 4]> = SmallVec::new();
        for (_, gateway) in self.gateways.iter() {
            for (via, _) in &gateway.ways {
                let runs = || self.links.get(&via.ifindex).is_some_and(|link| link.running);
                if !links.contains(&via.ifindex) && runs() {
                    links.push(via.ifindex);
                }
            }
        }
        links
    }

    /// A link came, went, or changed its state.
    pub(super) fn set_link(&mut self, ifindex: u32, state: Option<LinkState>) {
        let old = match state.clone() {
            Some(state) => self.links.insert(ifindex, state),
            None => self.links.remove(&ifindex),
        };
        let running = |s: &Option<LinkState>| s.as_ref().is_some_and(|s| s.running);
        let up = |s: &Option<LinkState>| s.as_ref().is_some_and(|s| s.up);
        if up(&old) && !up(&state) {
            // The kernel removes the routes of a link that is set down, IPv4 ones without a word.
            self.device_flushed(ifindex, None);
        }
        if running(&old) && !running(&state) {
            self.objects_flushed(ifindex);
        }
        if up(&old) != up(&state) {
            self.queue_locals_on(ifindex);
        }
        if running(&old) != running(&state) {
            let before = self.broken.len() + self.failed.len();
            self.broken.retain(|via, _| via.ifindex != ifindex);
            self.failed.retain(|(_, dev)| *dev != ifindex);
            if before != self.broken.len() + self.failed.len() {
                self.retarget_users(|via| via.ifindex == ifindex);
            }
            let foreign = self.foreign.uses_device(ifindex);
            self.gateways.enqueue_if(|g| {
                g.ifindex == ifindex
                    || g.ways.iter().any(|(via, _)| via.ifindex == ifindex)
                    || (foreign && g.ifindex == 0)
            });
            self.queue_locals_on(ifindex);
        }
    }

    /// Has the routes to the containers behind an interface looked at.
    pub(super) fn queue_locals_on(&mut self, ifindex: u32) {
        let from = (ifindex, FIRST);
        let here = self.locals_on.range(from..).take_while(|(dev, _)| *dev == ifindex);
        self.local_queue.extend(here.map(|(_, prefix)| *prefix));
    }

    /// The kernel removed the routes of a device, of one family or of both.
    pub(super) fn device_flushed(&mut self, ifindex: u32, family: Option<Family>) {
        for prefix in self.foreign.remove_device(ifindex, family) {
            self.foreign_changed(prefix);
        }
        let hit = |p: &Prefix, route: &DeviceRoute| {
            route.ifindex == ifindex && family.is_none_or(|f| f == p.family())
        };
        let (device_routes, locals) = (&mut self.device_routes, &mut self.locals);
        for (prefix, _) in device_routes.extract_if(|p, route| hit(p, route)) {
            if let Some(local) = locals.get_mut(&prefix) {
                local.lost = true;
                self.local_queue.push(prefix);
            }
        }
    }

    /// The routes of others for a prefix changed: ours may conflict now or no longer, and next hops may resolve
    /// otherwise.
    pub(super) fn foreign_changed(&mut self, prefix: Prefix) {
        self.touch(prefix);
        if self.locals.contains_key(&prefix) {
            self.local_queue.push(prefix);
        }
        let inside: SmallVec<[u32; 8]> = self.gateways.within(prefix).collect();
        for index in inside {
            self.gateways.enqueue(index);
            if let Some(addr) = self.gateways.slot(index).map(|g| g.addr) {
                // Whether a learned route may cover a next hop depends on how that is reached.
                self.touch_covering(addr);
            }
        }
        // Gateways with an interface need the on-link flag where no connected route covers them.
        self.gateways
            .enqueue_if(|g| g.ifindex != 0 && prefix.contains_addr(g.addr) && !is_link_local(g.addr));
    }

    /// The family's place in small arrays.
    pub(super) const fn family_index(route: RouteRef) -> usize {
        match Table::family(route) {
            Family::Ipv4 => 0,
            Family::Ipv6 => 1,
        }
    }
}
