//! Reading the kernel and finding the differences: at the start, after lost notifications, in the periodic audit,
//! and for `slash32 routes verify`.

use std::time::{Duration, Instant};

use hashbrown::HashMap;
use serde::Serialize;

use super::{
    Kernel, Reason,
    gateways::Ways,
    sets::canonical,
    state::{LinkState, State},
    table::{Target, flag},
};
use crate::{
    model::{Family, Prefix},
    netlink::{
        Error,
        link::Link,
        nexthop::{Kind, Object, Via},
        route::{Hop, Route, RouteKind, TABLE_MAIN},
    },
};

/// The shortest time between two resyncs that notifications ask for.
const RESYNC_PAUSE: Duration = Duration::from_millis(500);

/// A difference between the kernel and what we want.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Difference {
    /// The route, or the group's or object's name.
    pub what: String,
    /// Which kind of difference.
    pub kind: DifferenceKind,
    /// What the kernel has and what it should have, in words.
    pub detail: String,
}

/// Kinds of difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DifferenceKind {
    /// The kernel lacks it.
    Missing,
    /// The kernel has it and should not.
    Unexpected,
    /// The kernel has it with other contents.
    Wrong,
}

/// The objects of ours in the kernel.
#[derive(Debug, Default)]
struct Objects {
    hops: Vec<(u32, Via)>,
    groups: Vec<(u32, Ways)>,
    /// Ids in our range that are not ours, as indices of hops and of groups.
    taken: (Vec<u32>, Vec<u32>),
}

impl State {
    /// Asks for a resync soon, at most twice a second.
    pub(super) fn schedule_resync(&mut self, now: Instant) {
        let at = self.last_resync.map_or(now, |last| now.max(last + RESYNC_PAUSE));
        self.resync_at = Some(self.resync_at.map_or(at, |old| old.min(at)));
    }

    /// Reads everything, and queues all that differs.
    pub(super) fn reconcile(&mut self, kernel: &mut dyn Kernel, now: Instant) -> Result<(), Error> {
        // If reading fails, again soon.
        self.resync_at = Some(now + RESYNC_PAUSE);
        self.counters.resyncs += 1;
        self.read_links(kernel)?;
        self.read_addresses(kernel)?;
        self.told.clear();
        if self.objects {
            let objects = self.read_objects(kernel)?;
            self.adopt_objects(objects);
        }
        self.read_routes(kernel)?;
        self.read_neighbours(kernel, now)?;
        self.broken.clear();
        self.gateways.enqueue_if(|_| true);
        self.resolve_queued();
        let sets: Vec<u32> = self.sets.iter().map(|(i, _)| i).collect();
        for set in sets {
            self.retarget(set);
        }
        self.garbage = true;
        self.last_resync = Some(now);
        self.resync_at = None;
        self.audit_at = Some(now + self.config.audit);
        Ok(())
    }

    fn read_links(&mut self, kernel: &mut dyn Kernel) -> Result<(), Error> {
        let links = kernel.links()?;
        self.links = links.iter().map(|l| (l.index, LinkState::of(l))).collect();
        Ok(())
    }

    fn read_addresses(&mut self, kernel: &mut dyn Kernel) -> Result<(), Error> {
        let addresses = kernel.addresses()?;
        let old = std::mem::take(&mut self.addrs);
        for address in addresses {
            self.addrs.entry(address.addr).or_default().push(address.ifindex);
        }
        let changed = |a: &&std::net::IpAddr| old.contains_key(*a) != self.addrs.contains_key(*a);
        let touched: Vec<_> = old.keys().chain(self.addrs.keys()).filter(changed).copied().collect();
        for addr in touched {
            self.touch(Prefix::host(addr));
        }
        Ok(())
    }

    fn read_neighbours(&mut self, kernel: &mut dyn Kernel, now: Instant) -> Result<(), Error> {
        let neighbours = kernel.neighbours()?;
        self.failed = neighbours.iter().filter(|n| n.is_failed()).map(|n| (n.addr, n.ifindex)).collect();
        if !self.failed.is_empty() {
            self.probe_at = Some(now);
        }
        Ok(())
    }

    fn read_objects(&mut self, kernel: &mut dyn Kernel) -> Result<Objects, Error> {
        let list = kernel.objects()?;
        Ok(self.sort_objects(&list))
    }

    fn sort_objects(&self, list: &[Object]) -> Objects {
        let mut objects = Objects::default();
        let ours = |o: &&Object| o.protocol == self.config.protocol;
        let mut vias: HashMap<u32, Via> = HashMap::new();
        let mut taken_vias: HashMap<Via, u32> = HashMap::new();
        for object in list.iter().filter(|o| self.hop_index(o.id).is_some()) {
            let Some(index) = self.hop_index(object.id) else { continue };
            match &object.kind {
                Kind::Via(via) if ours(&object) => {
                    objects.hops.push((index, *via));
                    // Of two objects for one hop, groups must refer to the one we know.
                    let known = self.hops.find(via).unwrap_or(*taken_vias.entry(*via).or_insert(index));
                    if known == index {
                        vias.insert(object.id, *via);
                    }
                }
                _ if ours(&object) => {}
                _ => objects.taken.0.push(index),
            }
        }
        for object in list {
            let Some(index) = self.group_index(object.id) else { continue };
            match &object.kind {
                Kind::Group(members) if ours(&object) => {
                    // A member that is not ours: the contents are unknown, and written again when wanted.
                    let content: Option<Ways> =
                        members.iter().map(|(id, w)| Some((*vias.get(id)?, *w))).collect();
                    let mut content = content.unwrap_or_default();
                    content.sort_unstable();
                    objects.groups.push((index, content));
                }
                _ if ours(&object) => {}
                _ => objects.taken.1.push(index),
            }
        }
        objects
    }

    pub(super) fn hop_index(&self, id: u32) -> Option<u32> {
        id.checked_sub(self.config.first_hop_id()).filter(|i| *i < super::FibConfig::HALF)
    }

    pub(super) fn group_index(&self, id: u32) -> Option<u32> {
        id.checked_sub(self.config.first_group_id()).filter(|i| *i < super::FibConfig::HALF)
    }

    fn adopt_objects(&mut self, objects: Objects) {
        self.hops.forget_presence();
        for index in objects.taken.0 {
            self.hops.reserve(index);
        }
        for index in objects.taken.1 {
            self.sets.reserve(index);
        }
        for (index, via) in objects.hops {
            self.hops.found(index, via);
        }
        let present: HashMap<u32, Ways> = objects.groups.into_iter().collect();
        for (index, set) in self.sets.iter_mut() {
            if set.present && !present.contains_key(&index) {
                set.present = false;
                set.content.clear();
            }
        }
        for (index, content) in present {
            self.sets.found(index, content);
        }
        // A group that lost a member in the kernel has other contents; the rest is for `retarget`.
    }

    fn read_routes(&mut self, kernel: &mut dyn Kernel) -> Result<(), Error> {
        self.table.for_each_mut(|_, meta| meta.put(flag::SEEN, false));
        self.foreign = super::foreign::Foreign::default();
        self.device_routes.clear();
        self.leftovers.clear();
        let mut tables = vec![self.config.table];
        if self.config.table != TABLE_MAIN {
            tables.push(TABLE_MAIN);
        }
        for family in Family::ALL {
            for table in &tables {
                let mut read = 0usize;
                kernel.routes(family, *table, &mut |route| {
                    read += 1;
                    self.found_route(&route);
                })?;
                tracing::debug!(%family, table, read, "read the kernel's routes");
            }
        }
        let gone = self.table.collect(|m| !m.has(flag::SEEN) && m.actual != Target::NONE);
        self.counters.repaired += gone.len() as u64;
        for route in gone {
            self.set_actual(route, Target::NONE);
            self.enqueue(route);
        }
        // Whatever is not as wanted, for whatever reason.
        let differs = self.table.collect(|m| match m.has(flag::BLOCK) {
            _ if m.has(flag::QUEUED) => false,
            true => m.actual != Target::BLACKHOLE,
            false if m.desired == Target::NONE => m.actual != Target::NONE && !m.has(flag::STALE),
            false => m.actual != m.desired || m.has(flag::OUTDATED),
        });
        for route in differs {
            self.enqueue(route);
        }
        self.local_queue.extend(self.locals.keys());
        Ok(())
    }

    /// Notes a route that the kernel has.
    fn found_route(&mut self, route: &Route) {
        if route.table != self.config.table || route.protocol != self.config.protocol {
            self.foreign.add(route, false);
            return;
        }
        if let (true, Some(hop)) = (route.is_on_link(), route.hops.first()) {
            self.device_routes.insert(route.prefix, hop.ifindex);
            return;
        }
        if route.metric != self.config.metric {
            self.leftovers.push((route.prefix, route.metric));
            return;
        }
        self.adopt_route(route);
    }

    /// Notes a route of ours that the kernel has.
    pub(super) fn adopt_route(&mut self, found: &Route) {
        let route = self.table.insert(found.prefix);
        let meta = *self.table.meta(route);
        let actual = self.actual_of(found, meta.desired);
        let meta = self.table.meta_mut(route);
        meta.put(flag::SEEN, true);
        let unwanted = meta.desired == Target::NONE && !meta.has(flag::BLOCK);
        if unwanted && meta.actual == Target::NONE {
            meta.put(flag::STALE, self.keep_stale[Self::family_index(route)]);
        }
        let changed = meta.actual != actual;
        self.set_actual(route, actual);
        if changed {
            self.enqueue(route);
        }
    }

    /// Where a route of ours in the kernel leads, in our terms.
    fn actual_of(&self, found: &Route, desired: Target) -> Target {
        if found.kind == RouteKind::Blackhole {
            return Target::BLACKHOLE;
        }
        if self.objects {
            let index = found.nexthop_id.and_then(|id| self.group_index(id));
            return match index {
                Some(index) if self.sets.get(index).is_some_and(|s| s.present) => Target::set(index),
                _ => Target::UNKNOWN,
            };
        }
        let set = desired.index().and_then(|i| self.sets.get(i));
        match set {
            Some(set)
                if found.nexthop_id.is_none() && set.present && set.content == inline_ways(&found.hops) =>
            {
                desired
            }
            _ => Target::UNKNOWN,
        }
    }

    /// Reads the kernel and tells how it differs from what is wanted, without changing anything. What waits to be
    /// written counts as a difference, so let the queue run empty first.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub(super) fn verify(&mut self, kernel: &mut dyn Kernel) -> Result<Vec<Difference>, Error> {
        let mut differences = Vec::new();
        if self.objects {
            let list = kernel.objects()?;
            self.verify_objects(&list, &mut differences);
        }
        self.table.for_each_mut(|_, meta| meta.put(flag::SEEN, false));
        let mut devices: HashMap<Prefix, u32> = HashMap::new();
        for family in Family::ALL {
            let (table, protocol) = (self.config.table, self.config.protocol);
            kernel.routes(family, table, &mut |route| {
                if route.protocol != protocol || route.table != table {
                    return;
                }
                if let (true, Some(hop)) = (route.is_on_link(), route.hops.first()) {
                    devices.insert(route.prefix, hop.ifindex);
                } else {
                    differences.extend(self.verify_route(&route));
                }
            })?;
        }
        for (route, meta) in self.table.iter() {
            if !meta.has(flag::SEEN) && self.expected(meta) != Target::NONE {
                differences.push(Difference {
                    what: self.table.prefix(route).to_string(),
                    kind: DifferenceKind::Missing,
                    detail: "the route is wanted and not in the kernel".into(),
                });
            }
        }
        for (prefix, local) in &self.locals {
            if devices.get(prefix) != Some(&local.ifindex) {
                differences.push(Difference {
                    what: prefix.to_string(),
                    kind: DifferenceKind::Missing,
                    detail: format!(
                        "the route to the container on {} is missing",
                        self.link_name(local.ifindex)
                    ),
                });
            }
        }
        differences.sort();
        Ok(differences)
    }

    /// What the kernel should have for a route, given what is known to keep it out.
    fn expected(&self, meta: &super::table::Meta) -> Target {
        if meta.reason == Reason::Conflict as u8 {
            return Target::NONE;
        }
        if meta.has(flag::BLOCK) {
            return Target::BLACKHOLE;
        }
        if meta.desired == Target::NONE {
            return if meta.has(flag::STALE) { meta.actual } else { Target::NONE };
        }
        if meta.reason != 0 && !meta.has(flag::TROUBLED) {
            let waits = meta.reason == Reason::Refused as u8;
            return if waits { meta.actual } else { Target::NONE };
        }
        let set = meta.desired.index().and_then(|i| self.sets.get(i));
        if set.is_none_or(|s| s.target.is_empty()) { Target::NONE } else { meta.desired }
    }

    fn verify_route(&mut self, found: &Route) -> Option<Difference> {
        let difference = |kind, detail: String| Difference { what: found.prefix.to_string(), kind, detail };
        let unexpected =
            || difference(DifferenceKind::Unexpected, "the kernel has the route and should not".into());
        if found.metric != self.config.metric {
            return Some(unexpected());
        }
        let Some(route) = self.table.find(found.prefix) else { return Some(unexpected()) };
        self.table.meta_mut(route).put(flag::SEEN, true);
        let meta = *self.table.meta(route);
        let expected = self.expected(&meta);
        if expected == Target::NONE {
            return Some(unexpected());
        }
        if self.actual_of(found, meta.desired) == expected
            || (meta.has(flag::STALE) && meta.desired == Target::NONE)
        {
            return None;
        }
        let leads = match (found.kind, found.nexthop_id) {
            (RouteKind::Blackhole, _) => "nowhere".into(),
            (_, Some(id)) => format!("to next-hop object {id}"),
            _ => format!("to {} inline next hops", found.hops.len()),
        };
        let should = match expected.index() {
            Some(index) if self.objects => format!("to group {}", self.config.first_group_id() + index),
            Some(_) => "to other next hops".into(),
            None => "nowhere".into(),
        };
        Some(difference(DifferenceKind::Wrong, format!("it leads {leads} and should lead {should}")))
    }

    fn verify_objects(&self, list: &[Object], differences: &mut Vec<Difference>) {
        let objects = self.sort_objects(list);
        let groups: HashMap<u32, Ways> = objects.groups.into_iter().collect();
        let name = |index| format!("next-hop group {}", self.config.first_group_id() + index);
        for (index, set) in self.sets.iter().filter(|(_, s)| s.key.is_some() && s.wanted > 0) {
            let (kind, detail) = match groups.get(&index) {
                None if set.target.is_empty() => continue,
                None => (DifferenceKind::Missing, describe(&set.target)),
                Some(content) if *content == set.target => continue,
                Some(content) => (
                    DifferenceKind::Wrong,
                    format!("it has [{}] and should have [{}]", describe(content), describe(&set.target)),
                ),
            };
            differences.push(Difference { what: name(index), kind, detail });
        }
        for (index, content) in &groups {
            if self.sets.get(*index).is_none() {
                let detail = describe(content);
                differences.push(Difference { what: name(*index), kind: DifferenceKind::Unexpected, detail });
            }
        }
    }

    /// The name of a link, for people.
    pub(super) fn link_name(&self, ifindex: u32) -> String {
        self.links.get(&ifindex).map_or_else(|| format!("if{ifindex}"), |l| l.name.clone())
    }
}

impl LinkState {
    pub(super) fn of(link: &Link) -> Self {
        Self {
            name: link.name.clone(),
            up: link.is_up(),
            running: link.is_running(),
            loopback: link.is_loopback(),
        }
    }
}

/// The next hops of a route without an object, in our terms.
fn inline_ways(hops: &[Hop]) -> Ways {
    const ONLINK: u32 = 4;
    canonical(hops.iter().filter_map(|hop| {
        let via = Via { gateway: hop.gateway?, ifindex: hop.ifindex, onlink: hop.flags & ONLINK != 0 };
        Some((via, u32::from(hop.weight)))
    }))
}

fn describe(ways: &Ways) -> String {
    let one = |(via, weight): &(Via, u16)| format!("{} dev {} weight {weight}", via.gateway, via.ifindex);
    ways.iter().map(one).collect::<Vec<_>>().join(", ")
}
