//! Next-hop sets, each of which is one group in the kernel, and the hop objects that groups consist of.
//!
//! A route refers to its set's group, so that what happens to a next hop is told to the kernel once a set and not
//! once a route.

use std::{sync::Arc, time::Instant};

use hashbrown::{HashMap, HashSet};
use smallvec::SmallVec;

use super::{FibConfig, gateways::Ways};
use crate::{model::NextHopSet, netlink::nexthop::Via};

/// A next-hop set, wanted by BGP or found in the kernel.
#[derive(Debug, Default)]
pub(super) struct Set {
    /// What BGP calls it; none for a group found in the kernel that nobody has asked for yet.
    pub(super) key: Option<Arc<NextHopSet>>,
    /// The indices of its gateways, in the order of the key's next hops.
    pub(super) gateways: SmallVec<[u32; 2]>,
    /// How many routes want it.
    pub(super) wanted: u32,
    /// How many routes in the kernel use it.
    pub(super) used: u32,
    /// What it should consist of now; empty when no gateway resolves.
    pub(super) target: Ways,
    /// Whether the group is in the kernel (with inline next hops: whether routes may be written).
    pub(super) present: bool,
    /// What the group consists of in the kernel.
    pub(super) content: Ways,
    /// Whether a route was skipped because the set was not present.
    pub(super) waiting: bool,
    /// Whether the kernel has removed the group's routes.
    pub(super) lost: bool,
    /// Whether the kernel may have removed the group's routes.
    pub(super) shaken: bool,
    /// What somebody deleted of the group and its routes, unless it turns out that there is no way for them any more.
    pub(super) repairs: u64,
    /// Whether routes written inline have old contents.
    pub(super) outdated: bool,
    queued: bool,
    /// The last failure to write the group.
    pub(super) trouble: Option<SetTrouble>,
}

/// A group that the kernel refused.
#[derive(Clone, Debug)]
pub(super) struct SetTrouble {
    pub(super) attempts: u32,
    pub(super) retry: Instant,
    pub(super) error: String,
}

impl Set {
    /// Whether the kernel has what we want.
    pub(super) fn is_settled(&self) -> bool {
        if self.target.is_empty() { !self.present } else { self.present && self.content == self.target }
    }
}

/// All sets, by the index that makes up the group's id.
#[derive(Debug, Default)]
pub(super) struct Sets {
    slots: Vec<Option<Set>>,
    free: Vec<u32>,
    by_key: HashMap<Arc<NextHopSet>, u32>,
    /// Groups found in the kernel, by contents: a set that resolves to the same takes one over with its routes.
    orphans: HashMap<Ways, u32>,
    /// Ids of ours that somebody else's objects occupy.
    reserved: HashSet<u32>,
    queue: Vec<u32>,
    last: Option<u32>,
}

impl Sets {
    /// The index of a set that is known.
    pub(super) fn find(&mut self, key: &Arc<NextHopSet>) -> Option<u32> {
        // Routes come in runs with the same set.
        if let Some(last) = self.last
            && self.get(last).and_then(|s| s.key.as_ref()).is_some_and(|k| Arc::ptr_eq(k, key))
        {
            return Some(last);
        }
        let found = self.by_key.get(key).copied();
        self.last = found;
        found
    }

    /// Adds a set, in the place of a group in the kernel with the same contents if there is one. None when the range
    /// of ids is used up.
    pub(super) fn add(&mut self, key: &Arc<NextHopSet>, target: &Ways) -> Option<u32> {
        // The kernel may have changed or removed the group since it was found.
        let still = |set: &Set| set.key.is_none() && set.present && set.content == *target;
        let orphan = self.orphans.remove(target).filter(|index| self.get(*index).is_some_and(still));
        let index = match orphan {
            Some(index) => index,
            None => self.allocate()?,
        };
        if let Some(set) = self.get_mut(index) {
            set.key = Some(Arc::clone(key));
        }
        self.by_key.insert(Arc::clone(key), index);
        self.last = Some(index);
        Some(index)
    }

    fn allocate(&mut self) -> Option<u32> {
        if let Some(index) = self.free.pop() {
            self.slots[index as usize] = Some(Set::default());
            return Some(index);
        }
        loop {
            let index = self.slots.len() as u32;
            if index >= FibConfig::HALF {
                return None;
            }
            if self.reserved.contains(&index) {
                self.slots.push(None);
                continue;
            }
            self.slots.push(Some(Set::default()));
            return Some(index);
        }
    }

    /// Notes that the kernel has a group with this index, whoever wants it.
    pub(super) fn found(&mut self, index: u32, content: Ways) {
        while self.slots.len() <= index as usize {
            let next = self.slots.len() as u32;
            self.slots.push(None);
            if next != index {
                self.free.push(next);
            }
        }
        self.free.retain(|i| *i != index);
        let set = self.slots[index as usize].get_or_insert_with(Set::default);
        set.present = true;
        set.content = content;
        let orphan = set.key.is_none().then(|| set.content.clone()).filter(|c| !c.is_empty());
        if let Some(content) = orphan {
            self.orphans.insert(content, index);
        }
    }

    /// Never uses the index of an object that is not ours.
    pub(super) fn reserve(&mut self, index: u32) {
        self.reserved.insert(index);
        self.free.retain(|i| *i != index);
    }

    /// Forgets a set that no route wants or uses.
    pub(super) fn remove(&mut self, index: u32) -> Option<Set> {
        let set = self.slots.get_mut(index as usize)?.take()?;
        if let Some(key) = &set.key {
            self.by_key.remove(key);
        }
        if set.key.is_none() {
            // Its contents may be others than those it was found with.
            self.orphans.retain(|_, orphan| *orphan != index);
        }
        self.queue.retain(|i| *i != index);
        self.last = None;
        if !self.reserved.contains(&index) {
            self.free.push(index);
        }
        Some(set)
    }

    pub(super) fn get(&self, index: u32) -> Option<&Set> {
        self.slots.get(index as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut Set> {
        self.slots.get_mut(index as usize)?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Set)> {
        self.slots.iter().enumerate().filter_map(|(i, slot)| Some((i as u32, slot.as_ref()?)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Set)> {
        self.slots.iter_mut().enumerate().filter_map(|(i, slot)| Some((i as u32, slot.as_mut()?)))
    }

    /// The number of sets that BGP wants.
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Queues a set to be compared with the kernel.
    pub(super) fn enqueue(&mut self, index: u32) {
        if let Some(set) = self.get_mut(index)
            && !set.queued
        {
            set.queued = true;
            self.queue.push(index);
        }
    }

    /// All queued sets.
    pub(super) fn take_queue(&mut self) -> Vec<u32> {
        let queue = std::mem::take(&mut self.queue);
        for index in &queue {
            if let Some(set) = self.get_mut(*index) {
                set.queued = false;
            }
        }
        queue
    }

    /// Whether any set is queued.
    pub(super) fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The sets that no route wants or uses.
    pub(super) fn idle(&self) -> Vec<u32> {
        self.iter().filter(|(_, s)| s.wanted == 0 && s.used == 0).map(|(i, _)| i).collect()
    }
}

/// The objects for first hops, by the index that makes up the object's id.
#[derive(Debug, Default)]
pub(super) struct Hops {
    slots: Vec<Option<HopObject>>,
    free: Vec<u32>,
    by_via: HashMap<Via, u32>,
    reserved: HashSet<u32>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct HopObject {
    pub(super) via: Via,
    /// Whether the kernel has it.
    pub(super) present: bool,
    /// Whether the kernel may have it although we are not sure.
    pub(super) doubtful: bool,
}

impl Hops {
    /// The index for a first hop, which is added when it is new. None when the range of ids is used up.
    pub(super) fn intern(&mut self, via: &Via) -> Option<u32> {
        if let Some(index) = self.by_via.get(via) {
            return Some(*index);
        }
        let index = match self.free.pop() {
            Some(index) => index,
            None => loop {
                let index = self.slots.len() as u32;
                if index + 1 >= FibConfig::HALF {
                    return None;
                }
                self.slots.push(None);
                // An id of 0 would mean "choose one".
                if index != 0 && !self.reserved.contains(&index) {
                    break index;
                }
            },
        };
        self.slots[index as usize] = Some(HopObject { via: *via, present: false, doubtful: false });
        self.by_via.insert(*via, index);
        Some(index)
    }

    /// Notes that the kernel has a first hop with this index.
    pub(super) fn found(&mut self, index: u32, via: Via) {
        while self.slots.len() <= index as usize {
            let next = self.slots.len() as u32;
            self.slots.push(None);
            if next != index && next != 0 {
                self.free.push(next);
            }
        }
        self.free.retain(|i| *i != index);
        match &mut self.slots[index as usize] {
            Some(hop) if hop.via == via => hop.present = true,
            // Ours says something else: it is written again when it is used.
            Some(hop) => (hop.present, hop.doubtful) = (false, true),
            slot => {
                *slot = Some(HopObject { via, present: true, doubtful: false });
                // Two objects for one hop: the second is swept as unused.
                self.by_via.entry(via).or_insert(index);
            }
        }
    }

    /// Never uses the index of an object that is not ours.
    pub(super) fn reserve(&mut self, index: u32) {
        self.reserved.insert(index);
        self.free.retain(|i| *i != index);
    }

    pub(super) fn get(&self, index: u32) -> Option<&HopObject> {
        self.slots.get(index as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut HopObject> {
        self.slots.get_mut(index as usize)?.as_mut()
    }

    /// The index of a known first hop.
    pub(super) fn find(&self, via: &Via) -> Option<u32> {
        self.by_via.get(via).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &HopObject)> {
        self.slots.iter().enumerate().filter_map(|(i, slot)| Some((i as u32, slot.as_ref()?)))
    }

    pub(super) fn forget_presence(&mut self) {
        for hop in self.slots.iter_mut().flatten() {
            (hop.present, hop.doubtful) = (false, false);
        }
    }

    /// Forgets a first hop.
    pub(super) fn remove(&mut self, index: u32) {
        if let Some(hop) = self.slots.get_mut(index as usize).and_then(Option::take) {
            if self.by_via.get(&hop.via) == Some(&index) {
                self.by_via.remove(&hop.via);
            }
            if !self.reserved.contains(&index) {
                self.free.push(index);
            }
        }
    }

    /// The number of objects in the kernel.
    pub(super) fn len(&self) -> usize {
        self.slots.iter().flatten().filter(|h| h.present).count()
    }
}

/// Merges equal first hops, brings the weights into the kernel's range (1 to 256) and sorts.
pub(super) fn canonical(ways: impl IntoIterator<Item = (Via, u32)>) -> Ways {
    let mut merged: SmallVec<[(Via, u32); 4]> = SmallVec::new();
    for (via, weight) in ways {
        match merged.iter_mut().find(|(v, _)| *v == via) {
            Some((_, sum)) => *sum = sum.saturating_add(weight),
            None => merged.push((via, weight)),
        }
    }
    merged.sort_unstable();
    let heaviest = merged.iter().map(|(_, w)| *w).max().unwrap_or(1).max(1);
    let divisor = merged.iter().map(|(_, w)| *w).reduce(gcd).unwrap_or(1).max(1);
    let scale = |w: u32| {
        let w = w / divisor;
        let heaviest = heaviest / divisor;
        let scaled = if heaviest > 256 { u64::from(w) * 256 / u64::from(heaviest) } else { w.into() };
        scaled.clamp(1, 256) as u16
    };
    // Only what came together is reduced: a single next hop of weight 7 and one of weight 1 are the same.
    merged.into_iter().map(|(via, w)| (via, scale(w))).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn via(n: u8) -> Via {
        Via { gateway: [192, 0, 2, n].into(), ifindex: 2, onlink: false }
    }

    fn weights(list: &[(u8, u32)]) -> Vec<(u8, u16)> {
        let ways = canonical(list.iter().map(|(n, w)| (via(*n), *w)));
        ways.iter()
            .map(|(v, w)| {
                let std::net::IpAddr::V4(a) = v.gateway else { unreachable!() };
                (a.octets()[3], *w)
            })
            .collect()
    }

    #[test]
    fn weights_are_merged_reduced_and_bounded() {
        assert_eq!(weights(&[]), []);
        assert_eq!(weights(&[(2, 7)]), [(2, 1)]);
        assert_eq!(weights(&[(2, 1), (1, 1)]), [(1, 1), (2, 1)]);
        assert_eq!(weights(&[(1, 1), (2, 2), (1, 1)]), [(1, 1), (2, 1)]);
        assert_eq!(weights(&[(1, 30), (2, 20)]), [(1, 3), (2, 2)]);
        assert_eq!(weights(&[(1, 512), (2, 1)]), [(1, 256), (2, 1)]);
        assert_eq!(weights(&[(1, u32::MAX), (2, u32::MAX - 1), (1, 5)]), [(1, 256), (2, 255)]);
        assert_eq!(weights(&[(1, 0), (2, 0)]), [(1, 1), (2, 1)]);
    }

    /// The group was there at the start and has gone since: nobody may be given its place for what it once was.
    #[test]
    fn groups_that_are_gone_are_not_taken_over() {
        let content = canonical([(via(1), 1)]);
        let key = Arc::new(NextHopSet::default());
        for changed in [false, true] {
            let mut sets = Sets::default();
            sets.found(5, content.clone());
            let set = sets.get_mut(5).unwrap();
            (set.present, set.content) = (false, Ways::new());
            if !changed {
                sets.remove(5);
            }
            let index = sets.add(&key, &content).unwrap();
            assert!(sets.get(index).is_some_and(|set| set.key.is_some() && !set.present));
        }
    }

    #[test]
    fn sets_take_over_groups_with_the_same_contents() {
        let mut sets = Sets::default();
        let content = canonical([(via(1), 1), (via(2), 1)]);
        sets.found(5, content.clone());
        let key = Arc::new(NextHopSet::default());
        assert_eq!(sets.add(&key, &content), Some(5));
        assert_eq!(sets.find(&key), Some(5));
        let other: Arc<NextHopSet> =
            Arc::new([crate::model::NextHop::via([192, 0, 2, 1].into())].into_iter().collect());
        sets.reserve(4);
        let index = sets.add(&other, &content).unwrap();
        assert!(index < 4, "{index}");
        assert!(sets.remove(5).is_some());
        assert_eq!(sets.find(&key), None);
        assert_eq!(sets.idle(), [index]);
    }

    #[test]
    fn hops_have_one_object_each() {
        let mut hops = Hops::default();
        hops.found(2, via(1));
        assert_eq!(hops.intern(&via(1)), Some(2));
        assert!(hops.get(2).unwrap().present);
        hops.reserve(1);
        let other = hops.intern(&via(2)).unwrap();
        assert_eq!(other, 3);
        hops.found(3, via(9));
        assert!(!hops.get(3).unwrap().present);
        hops.remove(2);
        assert_eq!(hops.find(&via(1)), None);
        assert_eq!(hops.intern(&via(1)), Some(2));
    }
}
