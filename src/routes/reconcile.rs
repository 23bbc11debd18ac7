//! Reading the kernel and finding the differences: at the start, after lost notifications, in the periodic audit,
//! and for `slash32 routes verify`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hashbrown::HashMap;
use serde::Serialize;

use super::{
    Alarm, Kernel, Leftover, Reason,
    gateways::Ways,
    sets::canonical,
    state::{DeviceRoute, LinkState, State},
    table::{Target, flag},
};
use crate::{
    model::{EndpointId, Family, Prefix},
    netlink::{
        Error,
        link::Link,
        nexthop::{Kind, Object, Via},
        route::{Filter, Hop, Route, RouteKind, TABLE_MAIN},
    },
};

/// The shortest time between two resyncs that notifications ask for.
const RESYNC_PAUSE: Duration = Duration::from_millis(500);
/// `RT_TABLE_LOCAL`, the addresses of the host.
const RT_TABLE_LOCAL: u32 = 255;

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
    /// Somebody else's route is in its place.
    Conflict,
    /// The kernel has it, but prefers somebody else's route for the same prefix.
    Shadowed,
}

/// What was found beside routes that we wrote.
#[derive(Debug, Default)]
struct Found {
    foreign: super::foreign::Foreign,
    device_routes: HashMap<Prefix, DeviceRoute>,
    leftovers: Vec<Leftover>,
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

    /// A neighbour that is lost, or a link in use, ends the reading: whole tables take long.
    fn patience(&self, kernel: &mut dyn Kernel) -> Patience {
        Patience { urgent: self.urgent.clone(), alarm: kernel.alarm(&self.links_in_use()) }
    }

    fn read_routes(&mut self, kernel: &mut dyn Kernel) -> Result<(), Error> {
        self.table.for_each_mut(|_, meta| meta.put(flag::SEEN, false));
        let mut found = Found::default();
        let mut tables = vec![self.config.table];
        if self.config.table != TABLE_MAIN {
            tables.push(TABLE_MAIN);
        }
        let mut patience = self.patience(kernel);
        for family in Family::ALL {
            for table in &tables {
                let mut read = 0usize;
                let filter = Filter { table: Some(*table), protocol: None };
                kernel.routes(family, filter, &mut |route| {
                    read += 1;
                    self.found_route(&route, &mut found);
                    patience.go_on(read)
                })?;
                tracing::debug!(%family, table, read, "read the kernel's routes");
            }
        }
        // Only now: half of what others have would be worse than what was known.
        self.foreign = found.foreign;
        self.device_routes = found.device_routes;
        self.leftovers = found.leftovers;
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
    fn found_route(&mut self, route: &Route, found: &mut Found) {
        if route.table != self.config.table || route.protocol != self.config.protocol {
            found.foreign.add(route, false);
        } else if let Some(device) = self.local_route(route) {
            found.device_routes.insert(route.prefix, device);
        } else if route.metric != self.config.metric || route.is_on_link() {
            found.leftovers.push(leftover(route));
        } else if self.table.find(route.prefix).is_some_and(|r| self.table.meta(r).has(flag::SEEN)) {
            // Which of the two is ours does not matter: one goes, and then ours is written anew.
            found.leftovers.push(leftover(route));
        } else {
            self.adopt_route(route);
        }
    }

    /// Whether a route of our protocol and metric has come beside ours for the same prefix, as `ip route append` makes
    /// them.
    pub(super) fn is_second(&self, route: &Route) -> bool {
        let Some(ours) = self.table.find(route.prefix) else { return false };
        let meta = self.table.meta(ours);
        let certain = meta.actual == Target::BLACKHOLE || meta.actual.index().is_some();
        certain && self.actual_of(route, meta.desired) != meta.actual
    }

    /// The device of a route to a container: one that we know, or another that leads onto a host end.
    pub(super) fn local_route(&self, route: &Route) -> Option<DeviceRoute> {
        let hop = route.hops.first().filter(|_| route.is_on_link())?;
        let known = self.locals.get(&route.prefix).is_some_and(|local| local.ifindex == hop.ifindex);
        let host_end = || {
            let link = self.links.get(&hop.ifindex);
            // A link of which we have not heard yet: the attachment writes link and route in one go.
            link.is_none_or(|l| l.name.starts_with(EndpointId::PREFIX))
        };
        (known || (route.prefix.is_host() && host_end()))
            .then_some(DeviceRoute { ifindex: hop.ifindex, metric: route.metric })
    }

    /// Looks for routes of ours in tables that an earlier configuration named: any but the kernel's own.
    pub(super) fn search_tables(&mut self, kernel: &mut dyn Kernel) -> Result<(), Error> {
        let mut patience = self.patience(kernel);
        for family in Family::ALL {
            let filter = Filter { table: None, protocol: Some(self.config.protocol) };
            let mut read = 0;
            let mut found = Vec::new();
            kernel.routes(family, filter, &mut |route| {
                read += 1;
                // The kernel's local table is never ours to route in; the containers' gateway address lives there.
                if ![self.config.table, RT_TABLE_LOCAL].contains(&route.table) {
                    found.push(leftover(&route));
                }
                patience.go_on(read)
            })?;
            if let Some(first) = found.first() {
                let (routes, table) = (found.len(), first.table);
                tracing::info!(%family, routes, table, "routes in a table of an earlier configuration: deleted");
            }
            self.leftovers.extend(found);
        }
        self.searched_tables = true;
        Ok(())
    }

    /// The next-hop objects that an earlier configuration's protocol number marks as ours, groups first. No route
    /// refers to them any more once stale routes are gone: all have our number now, and lead to objects of our range.
    pub(super) fn former_objects(&self, kernel: &mut dyn Kernel) -> Result<Vec<u32>, Error> {
        if !self.objects || self.config.former.is_empty() {
            return Ok(Vec::new());
        }
        let theirs =
            |o: &Object| self.config.former.contains(&o.protocol) && o.id >> 24 == u32::from(o.protocol);
        let list = kernel.objects()?;
        let (groups, hops): (Vec<_>, Vec<_>) =
            list.iter().filter(|o| theirs(o)).partition(|o| matches!(o.kind, Kind::Group(_)));
        Ok(groups.into_iter().chain(hops).map(|o| o.id).collect())
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
        let mut devices: HashMap<Prefix, DeviceRoute> = HashMap::new();
        let mut patience = self.patience(kernel);
        for family in Family::ALL {
            let mut read = 0;
            let filter = Filter { table: Some(self.config.table), protocol: Some(self.config.protocol) };
            kernel.routes(family, filter, &mut |route| {
                read += 1;
                match self.locals.get(&route.prefix).zip(route.hops.first().filter(|_| route.is_on_link())) {
                    Some((local, hop)) if local.ifindex == hop.ifindex => {
                        devices
                            .insert(route.prefix, DeviceRoute { ifindex: hop.ifindex, metric: route.metric });
                    }
                    _ => differences.extend(self.verify_route(&route)),
                }
                patience.go_on(read)
            })?;
        }
        for (route, meta) in self.table.iter() {
            let prefix = self.table.prefix(route);
            if meta.reason == Reason::Conflict as u8 {
                differences.push(self.conflict(prefix));
            } else if !meta.has(flag::SEEN) && self.expected(meta) != Target::NONE {
                differences.push(Difference {
                    what: prefix.to_string(),
                    kind: DifferenceKind::Missing,
                    detail: "the route is wanted and not in the kernel".into(),
                });
            }
        }
        for (prefix, local) in &self.locals {
            let wanted = DeviceRoute { ifindex: local.ifindex, metric: self.config.local_metric };
            let found = devices.get(prefix);
            if let Some(found) = found.filter(|found| **found != wanted) {
                differences.push(Difference {
                    what: prefix.to_string(),
                    kind: DifferenceKind::Wrong,
                    detail: format!(
                        "the route to the container has metric {} and should have {}",
                        found.metric, wanted.metric
                    ),
                });
            } else if found.is_none() {
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
        differences.extend(self.shadowed().map(|(prefix, theirs)| Difference {
            what: prefix.to_string(),
            kind: DifferenceKind::Shadowed,
            detail: format!(
                "a route of protocol {} {} has metric {}, so that the kernel prefers it to ours; it is not touched",
                theirs.protocol,
                self.leads(theirs.kind, None, &theirs.hops),
                theirs.metric
            ),
        }));
        differences.sort();
        Ok(differences)
    }

    fn conflict(&self, prefix: Prefix) -> Difference {
        let theirs = self.taken_by(prefix).map_or_else(
            || "a route of somebody else".to_owned(),
            |r| format!("a route of protocol {} {}", r.protocol, self.leads(r.kind, None, &r.hops)),
        );
        let detail =
            format!("{theirs} has metric {} too and keeps ours out; it is not touched", self.config.metric);
        Difference { what: prefix.to_string(), kind: DifferenceKind::Conflict, detail }
    }

    /// Where a route leads, in words.
    fn leads(&self, kind: RouteKind, object: Option<u32>, hops: &[Hop]) -> String {
        let hop = |hop: &Hop| {
            let gateway = hop.gateway.map(|g| format!("via {g} ")).unwrap_or_default();
            format!("{gateway}dev {}", self.link_name(hop.ifindex))
        };
        match (kind, object) {
            (RouteKind::Blackhole, _) => "to nowhere".into(),
            (_, Some(id)) => format!("to next-hop object {id}"),
            _ if hops.is_empty() => "to nowhere".into(),
            _ => hops.iter().map(hop).collect::<Vec<_>>().join(", "),
        }
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
        let leads = self.leads(found.kind, found.nexthop_id, &found.hops);
        let unexpected = || {
            let detail = format!("the kernel has it ({leads}, metric {}) and should not", found.metric);
            difference(DifferenceKind::Unexpected, detail)
        };
        if found.metric != self.config.metric || found.is_on_link() {
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
        let should = match expected.index().and_then(|i| Some((i, self.sets.get(i)?))) {
            Some((index, set)) if self.objects => {
                format!("to group {} [{}]", self.config.first_group_id() + index, describe(&set.target))
            }
            Some((_, set)) => format!("to [{}]", describe(&set.target)),
            None => "to nowhere".into(),
        };
        Some(difference(DifferenceKind::Wrong, format!("it leads {leads} and should lead {should}")))
    }

    fn verify_objects(&self, list: &[Object], differences: &mut Vec<Difference>) {
        let objects = self.sort_objects(list);
        for (index, via) in objects.hops.iter().filter(|(index, _)| self.hops.get(*index).is_none()) {
            differences.push(Difference {
                what: format!("next-hop object {}", self.config.first_hop_id() + index),
                kind: DifferenceKind::Unexpected,
                detail: format!("{} dev {}", via.gateway, self.link_name(via.ifindex)),
            });
        }
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

/// How long a list is read: until something urgent waits, which is looked at now and then.
struct Patience {
    urgent: Arc<AtomicUsize>,
    alarm: Alarm,
}

impl Patience {
    fn go_on(&mut self, read: usize) -> bool {
        !read.is_multiple_of(256) || (self.urgent.load(Ordering::Relaxed) == 0 && !(self.alarm)())
    }
}

/// What is to be deleted of a route.
pub(super) fn leftover(route: &Route) -> Leftover {
    let device = route.hops.first().filter(|_| route.is_on_link()).map(|hop| hop.ifindex);
    Leftover {
        prefix: route.prefix,
        table: route.table,
        metric: route.metric,
        kind: route.kind,
        ifindex: device,
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
