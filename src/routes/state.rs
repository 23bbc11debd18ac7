//! What is wanted and what the kernel has, and the commands that change the former.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
    net::IpAddr,
    sync::{Arc, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use hashbrown::{HashMap, HashSet};
use serde::Serialize;
use smallvec::SmallVec;

use super::{
    FibConfig, Leftover,
    foreign::Foreign,
    gateways::Gateways,
    reach::Watched,
    sets::{Hops, Sets},
    table::{RouteRef, Table, Target, flag},
};
use crate::{
    model::{Family, NextHopSet, Prefix},
    netlink::nexthop::Via,
};

/// What is wanted and what the kernel has. Never talks to the kernel itself.
#[derive(Debug)]
pub(super) struct State {
    pub(super) config: FibConfig,
    /// Whether next-hop objects are used.
    pub(super) objects: bool,
    pub(super) table: Table,
    pub(super) queue: VecDeque<RouteRef>,
    pub(super) sets: Sets,
    pub(super) hops: Hops,
    pub(super) gateways: Gateways,
    /// Next hops that somebody is told about.
    pub(super) watched: Watched,
    pub(super) links: HashMap<u32, LinkState>,
    /// The host's addresses and on how many interfaces each is.
    pub(super) addrs: HashMap<IpAddr, SmallVec<[u32; 1]>>,
    pub(super) foreign: Foreign,
    /// First hops that do not answer ARP or NDP.
    pub(super) failed: HashSet<(IpAddr, u32)>,
    /// First hops that the kernel refused, until when.
    pub(super) broken: HashMap<Via, Broken>,
    /// Ids of our next-hop objects that notifications were about, and whether they told the object's end. What the
    /// objects are is asked of the kernel: notifications may be older than our own last word.
    pub(super) told: BTreeMap<u32, bool>,
    pub(super) locals: BTreeMap<Prefix, Local>,
    /// Their prefixes by interface index.
    pub(super) locals_on: BTreeSet<(u32, Prefix)>,
    pub(super) local_queue: Vec<Prefix>,
    /// Those with a retry to come.
    pub(super) troubled_locals: BTreeSet<Prefix>,
    /// Routes of our protocol straight onto a device, as the kernel has them: those of containers.
    pub(super) device_routes: HashMap<Prefix, DeviceRoute>,
    /// The host's own blocks.
    pub(super) blocks: BTreeSet<Prefix>,
    /// Those of them that had a session, listed in the configuration or not.
    pub(super) heard: BTreeSet<IpAddr>,
    /// Neighbours' ends of sessions: no learned route may take over the way to one that is on a link.
    pub(super) sessions: BTreeSet<IpAddr>,
    /// How many urgent commands wait outside; long reading is given up for them.
    pub(super) urgent: Arc<AtomicUsize>,
    pub(super) troubles: HashMap<RouteRef, Trouble>,
    pub(super) retries: BinaryHeap<Reverse<(Instant, RouteRef)>>,
    /// Sets whose group the kernel refused.
    pub(super) troubled_sets: BTreeSet<u32>,
    /// Whether groups came, went or changed in a way that concerns their routes.
    pub(super) scan: bool,
    /// Routes of our protocol that are not as we write them: deleted when stale routes are.
    pub(super) leftovers: Vec<Leftover>,
    /// Whether other tables were looked through for routes of an earlier configuration.
    pub(super) searched_tables: bool,
    /// Whether routes found in the kernel are kept until somebody says that all wanted ones are known; IPv4, IPv6.
    pub(super) keep_stale: [bool; 2],
    /// Routes admitted under the limit.
    pub(super) counted: usize,
    /// Whether some route was refused because of the limit.
    pub(super) over_limit: bool,
    pub(super) resync_at: Option<Instant>,
    pub(super) last_resync: Option<Instant>,
    pub(super) audit_at: Option<Instant>,
    pub(super) probe_at: Option<Instant>,
    pub(super) garbage: bool,
    pub(super) counters: Counters,
    pub(super) last_error: Option<String>,
}

/// What we follow of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LinkState {
    pub(super) name: String,
    pub(super) up: bool,
    pub(super) running: bool,
    pub(super) loopback: bool,
}

/// A route straight onto a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DeviceRoute {
    pub(super) ifindex: u32,
    pub(super) metric: u32,
}

/// A local container's route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Local {
    pub(super) ifindex: u32,
    pub(super) attempts: u32,
    pub(super) retry: Option<Instant>,
    pub(super) error: Option<String>,
    /// Whether the kernel had it and has it no longer.
    pub(super) lost: bool,
}

/// A route that could not be written.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    pub(super) attempts: u32,
    pub(super) error: String,
}

/// A first hop that the kernel refused.
#[derive(Clone, Debug)]
pub(super) struct Broken {
    /// Whether it is left out; false while another attempt is made.
    pub(super) active: bool,
    pub(super) attempts: u32,
    pub(super) retry: Instant,
    pub(super) error: String,
}

/// What was done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Routes created in the kernel.
    pub created: u64,
    /// Routes changed in the kernel.
    pub changed: u64,
    /// Routes deleted from the kernel.
    pub deleted: u64,
    /// Next-hop objects and groups written.
    pub objects_written: u64,
    /// Messages that the kernel refused, but for deletions of what was gone already.
    pub refused: u64,
    /// Times the kernel was read and compared, whatever the cause.
    pub resyncs: u64,
    /// Losses of notifications.
    pub overruns: u64,
    /// Routes that somebody else deleted or changed and that were restored.
    pub repaired: u64,
    /// Times that the carriers of the links in use were looked at.
    pub looks: u64,
}

impl State {
    /// Nothing wanted, nothing known.
    pub(super) fn new(config: FibConfig, objects: bool) -> Self {
        Self {
            config,
            objects,
            table: Table::default(),
            queue: VecDeque::new(),
            sets: Sets::default(),
            hops: Hops::default(),
            gateways: Gateways::default(),
            watched: Watched::default(),
            links: HashMap::new(),
            addrs: HashMap::new(),
            foreign: Foreign::default(),
            failed: HashSet::new(),
            broken: HashMap::new(),
            told: BTreeMap::new(),
            locals: BTreeMap::new(),
            locals_on: BTreeSet::new(),
            local_queue: Vec::new(),
            troubled_locals: BTreeSet::new(),
            device_routes: HashMap::new(),
            blocks: BTreeSet::new(),
            heard: BTreeSet::new(),
            sessions: BTreeSet::new(),
            urgent: Arc::default(),
            troubles: HashMap::new(),
            retries: BinaryHeap::new(),
            troubled_sets: BTreeSet::new(),
            scan: false,
            leftovers: Vec::new(),
            searched_tables: false,
            keep_stale: [true; 2],
            counted: 0,
            over_limit: false,
            resync_at: None,
            last_resync: None,
            audit_at: None,
            probe_at: None,
            garbage: false,
            counters: Counters::default(),
            last_error: None,
        }
    }

    /// Wants a learned route. A set without next hops is as good as [`Self::remove`].
    pub(super) fn set(&mut self, prefix: Prefix, next_hops: &Arc<NextHopSet>) {
        if next_hops.is_empty() {
            self.remove(prefix);
            return;
        }
        let Some(index) = self.intern(next_hops) else {
            // Eight million different sets: cannot be told from an attack.
            tracing::error!(%prefix, "out of next-hop group ids");
            self.remove(prefix);
            return;
        };
        let route = self.table.insert(prefix);
        let meta = self.table.meta_mut(route);
        meta.put(flag::STALE, false);
        let old = std::mem::replace(&mut meta.desired, Target::set(index));
        if old == Target::set(index) {
            return;
        }
        self.release_wanted(old);
        if let Some(set) = self.sets.get_mut(index) {
            set.wanted += 1;
        }
        self.enqueue(route);
        // Next hops may resolve through this route.
        self.gateways.enqueue_within(prefix);
    }

    /// No longer wants a learned route.
    pub(super) fn remove(&mut self, prefix: Prefix) {
        let Some(route) = self.table.find(prefix) else { return };
        let meta = self.table.meta_mut(route);
        let old = std::mem::replace(&mut meta.desired, Target::NONE);
        if old != Target::NONE {
            self.release_wanted(old);
            self.enqueue(route);
            self.gateways.enqueue_within(prefix);
        }
    }

    /// Wants the route to a local container: straight onto the device, better than any learned route.
    pub(super) fn set_local(&mut self, prefix: Prefix, ifindex: u32) {
        let local = self.locals.entry(prefix).or_default();
        if local.ifindex != ifindex {
            let before = std::mem::replace(local, Local { ifindex, ..Local::default() }).ifindex;
            self.locals_on.remove(&(before, prefix));
            self.locals_on.insert((ifindex, prefix));
        }
        self.local_queue.push(prefix);
        self.touch(prefix);
    }

    /// No longer wants the route to a local container.
    pub(super) fn remove_local(&mut self, prefix: Prefix) {
        if let Some(local) = self.locals.remove(&prefix) {
            self.locals_on.remove(&(local.ifindex, prefix));
            self.local_queue.push(prefix);
            self.touch(prefix);
        }
    }

    /// Wants traffic to a prefix dropped unless something more specific is known: the host's own block.
    pub(super) fn set_blackhole(&mut self, prefix: Prefix) {
        let route = self.table.insert(prefix);
        let meta = self.table.meta_mut(route);
        if !meta.has(flag::BLOCK) {
            meta.put(flag::BLOCK, true);
            meta.put(flag::STALE, false);
            self.enqueue(route);
        }
        if self.blocks.insert(prefix) {
            self.touch_inside(prefix);
        }
    }

    /// No longer wants traffic to a prefix dropped.
    pub(super) fn remove_blackhole(&mut self, prefix: Prefix) {
        if let Some(route) = self.table.find(prefix) {
            self.table.meta_mut(route).put(flag::BLOCK, false);
            self.enqueue(route);
        }
        if self.blocks.remove(&prefix) {
            self.touch_inside(prefix);
        }
    }

    /// Lets no learned route take over the way to these addresses, as long as they are on a link.
    pub(super) fn protect(&mut self, mut sessions: BTreeSet<IpAddr>) {
        sessions.extend(&self.heard);
        let old = std::mem::replace(&mut self.sessions, sessions);
        let changed: Vec<IpAddr> = old.symmetric_difference(&self.sessions).copied().collect();
        for addr in changed {
            self.touch_covering(addr);
        }
    }

    /// A neighbour has a session, and needs protection as one that is listed.
    pub(super) fn heard(&mut self, addr: IpAddr) {
        if self.heard.insert(addr) && self.sessions.insert(addr) {
            self.touch_covering(addr);
        }
    }

    /// Uses a next hop only where there is no other, or again as any.
    pub(super) fn suspect(&mut self, addr: IpAddr, ifindex: u32, on: bool) {
        for set in self.gateways.suspect(addr, ifindex, on) {
            self.retarget(set);
        }
    }

    /// Queues the routes inside a prefix that are not single addresses.
    fn touch_inside(&mut self, prefix: Prefix) {
        let inside = |r: &RouteRef| {
            let route = self.table.prefix(*r);
            !route.is_host() && prefix.covers(route)
        };
        let found: Vec<RouteRef> = self.table.iter().map(|(r, _)| r).filter(inside).collect();
        for route in found {
            self.enqueue(route);
        }
    }

    /// Says that all wanted routes of a family (or of both) are known: those found in the kernel at the start and
    /// not wanted since are deleted, now and from now on.
    pub(super) fn sweep_stale(&mut self, family: Option<Family>) {
        for (i, one) in Family::ALL.into_iter().enumerate() {
            if family.is_some_and(|f| f != one) {
                continue;
            }
            self.keep_stale[i] = false;
            let stale = self.table.collect(|meta| meta.has(flag::STALE));
            for route in stale.into_iter().filter(|r| Table::family(*r) == one) {
                self.table.meta_mut(route).put(flag::STALE, false);
                self.enqueue(route);
            }
        }
    }

    /// No longer wants any learned or blackhole route, nor those found at the start.
    pub(super) fn clear(&mut self) {
        for route in self.table.collect(|_| true) {
            let meta = self.table.meta_mut(route);
            meta.put(flag::BLOCK | flag::STALE, false);
            let old = std::mem::replace(&mut meta.desired, Target::NONE);
            self.release_wanted(old);
            self.enqueue(route);
        }
        self.blocks.clear();
        self.keep_stale = [false; 2];
        self.garbage = true;
    }

    /// Queues a route to be compared with the kernel.
    pub(super) fn enqueue(&mut self, route: RouteRef) {
        let meta = self.table.meta_mut(route);
        if !meta.has(flag::QUEUED) {
            meta.put(flag::QUEUED, true);
            self.queue.push_back(route);
        }
    }

    /// Queues the learned route for exactly this prefix, if there is one.
    pub(super) fn touch(&mut self, prefix: Prefix) {
        if let Some(route) = self.table.find(prefix) {
            self.enqueue(route);
        }
    }

    /// Queues the learned routes that cover an address.
    pub(super) fn touch_covering(&mut self, addr: IpAddr) {
        let mut found: SmallVec<[RouteRef; 8]> = SmallVec::new();
        self.table.longest_match(addr, |route, _| {
            found.push(route);
            false
        });
        for route in found {
            self.enqueue(route);
        }
    }

    fn release_wanted(&mut self, target: Target) {
        if let Some(set) = target.index().and_then(|i| self.sets.get_mut(i)) {
            set.wanted -= 1;
            self.garbage |= set.wanted == 0;
        }
    }

    /// Notes where the kernel's route leads now.
    pub(super) fn set_actual(&mut self, route: RouteRef, actual: Target) {
        let meta = self.table.meta_mut(route);
        let old = std::mem::replace(&mut meta.actual, actual);
        if old == actual {
            return;
        }
        if let Some(set) = old.index().and_then(|i| self.sets.get_mut(i)) {
            set.used -= 1;
            self.garbage |= set.used == 0;
        }
        if let Some(set) = actual.index().and_then(|i| self.sets.get_mut(i)) {
            set.used += 1;
        }
    }

    /// The index of a next-hop set, which is added and resolved when it is new.
    fn intern(&mut self, key: &Arc<NextHopSet>) -> Option<u32> {
        if let Some(index) = self.sets.find(key) {
            return Some(index);
        }
        let target = self.target_of(key);
        let index = self.sets.add(key, &target)?;
        let mut gateways = SmallVec::new();
        for hop in key.hops() {
            let (gateway, new) = self.gateways.acquire(hop.gateway, hop.ifindex, index);
            gateways.push(gateway);
            if new && hop.ifindex == 0 {
                // A learned route that covers it may have to go.
                self.touch_covering(hop.gateway);
            }
        }
        if let Some(set) = self.sets.get_mut(index) {
            set.gateways = gateways;
            set.target = target;
        }
        self.sets.enqueue(index);
        Some(index)
    }

    /// How long to wait before another attempt.
    pub(super) fn backoff(attempts: u32) -> Duration {
        Duration::from_millis(50 << attempts.min(9)).min(Duration::from_secs(20))
    }
}
