//! The routes themselves, compactly: 16 bytes an IPv4 route and 28 an IPv6 route, and a hash index of 4-byte
//! positions. A position ([`RouteRef`]) stays valid while the route is in the table.

use std::{hash::BuildHasher, net::IpAddr};

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::model::{Family, Ipv4Prefix, Ipv6Prefix, Prefix};

/// Where a route leads: the index of a next-hop set, or one of the constants here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Target(u32);

impl Target {
    /// There is no route.
    pub(super) const NONE: Self = Self(u32::MAX);
    /// The host's own block: dropped.
    pub(super) const BLACKHOLE: Self = Self(u32::MAX - 1);
    /// A route of ours that leads somewhere we do not want.
    pub(super) const UNKNOWN: Self = Self(u32::MAX - 2);

    /// A route of ours of which we were told that it is gone. The news may be older than our own last word.
    pub(super) const DOUBTFUL: Self = Self(u32::MAX - 3);

    pub(super) const fn set(index: u32) -> Self {
        Self(index)
    }

    /// The index of the next-hop set.
    pub(super) const fn index(self) -> Option<u32> {
        if self.0 < Self::DOUBTFUL.0 { Some(self.0) } else { None }
    }
}

/// Flags of a route.
pub(super) mod flag {
    /// In the queue of routes to be looked at.
    pub(in super::super) const QUEUED: u8 = 1;
    /// Found in the kernel at start, not yet wanted by anybody.
    pub(in super::super) const STALE: u8 = 2;
    /// The prefix is one of the host's own blocks.
    pub(in super::super) const BLOCK: u8 = 4;
    /// Written inline with contents that have changed since.
    pub(in super::super) const OUTDATED: u8 = 8;
    /// Seen in the kernel by the resync that is under way.
    pub(in super::super) const SEEN: u8 = 16;
    /// Counted against the limit of routes.
    pub(in super::super) const COUNTED: u8 = 32;
    /// The last write failed; see the map of troubles.
    pub(in super::super) const TROUBLED: u8 = 64;
    /// The slot is free; `desired` is the next free one.
    pub(super) const FREE: u8 = 128;
}

/// What we know of one route.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meta {
    /// Where BGP wants it to lead.
    pub(super) desired: Target,
    /// Where the kernel's route leads.
    pub(super) actual: Target,
    len: u8,
    /// See [`flag`].
    pub(super) flags: u8,
    /// Why it is kept out of the kernel: a [`super::checks::Reason`].
    pub(super) reason: u8,
}

impl Meta {
    pub(super) const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(super) const fn put(&mut self, flag: u8, on: bool) {
        if on {
            self.flags |= flag;
        } else {
            self.flags &= !flag;
        }
    }
}

/// The position of a route: the highest bit tells the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RouteRef(u32);

const V6: u32 = 1 << 31;

/// All routes of both families.
#[derive(Debug, Default)]
pub(super) struct Table {
    v4: Half<u32>,
    v6: Half<[u8; 16]>,
}

impl Table {
    /// The position of a prefix.
    pub(super) fn find(&self, prefix: Prefix) -> Option<RouteRef> {
        match prefix {
            Prefix::V4(p) => self.v4.find(p.addr().to_bits(), p.len()).map(RouteRef),
            Prefix::V6(p) => self.v6.find(p.addr().octets(), p.len()).map(|i| RouteRef(i | V6)),
        }
    }

    /// The position of a prefix, which is added without a target when it is new.
    pub(super) fn insert(&mut self, prefix: Prefix) -> RouteRef {
        match prefix {
            Prefix::V4(p) => RouteRef(self.v4.insert(p.addr().to_bits(), p.len())),
            Prefix::V6(p) => RouteRef(self.v6.insert(p.addr().octets(), p.len()) | V6),
        }
    }

    /// Takes a route out.
    pub(super) fn remove(&mut self, route: RouteRef) {
        if route.0 & V6 == 0 { self.v4.remove(route.0) } else { self.v6.remove(route.0 & !V6) }
    }

    /// What we know of a route. Positions come from this table, so that they are never out of range.
    pub(super) fn meta(&self, route: RouteRef) -> &Meta {
        if route.0 & V6 == 0 {
            &self.v4.entries[route.0 as usize].meta
        } else {
            &self.v6.entries[(route.0 & !V6) as usize].meta
        }
    }

    /// As [`Self::meta`].
    pub(super) fn meta_mut(&mut self, route: RouteRef) -> &mut Meta {
        if route.0 & V6 == 0 {
            &mut self.v4.entries[route.0 as usize].meta
        } else {
            &mut self.v6.entries[(route.0 & !V6) as usize].meta
        }
    }

    /// The prefix of a route.
    pub(super) fn prefix(&self, route: RouteRef) -> Prefix {
        if route.0 & V6 == 0 {
            let entry = &self.v4.entries[route.0 as usize];
            Prefix::V4(Ipv4Prefix::new(entry.addr.into(), entry.meta.len))
        } else {
            let entry = &self.v6.entries[(route.0 & !V6) as usize];
            Prefix::V6(Ipv6Prefix::new(entry.addr.into(), entry.meta.len))
        }
    }

    /// The family of a route.
    pub(super) const fn family(route: RouteRef) -> Family {
        if route.0 & V6 == 0 { Family::Ipv4 } else { Family::Ipv6 }
    }

    /// The bytes of memory held.
    pub(super) fn memory(&self) -> usize {
        self.v4.memory() + self.v6.memory()
    }

    /// All positions, in no order. The table may not be changed meanwhile; see [`Self::collect`].
    pub(super) fn iter(&self) -> impl Iterator<Item = (RouteRef, &Meta)> {
        let v4 = self.v4.iter().map(|(i, meta)| (RouteRef(i), meta));
        v4.chain(self.v6.iter().map(|(i, meta)| (RouteRef(i | V6), meta)))
    }

    /// Changes what we know of every route.
    pub(super) fn for_each_mut(&mut self, mut each: impl FnMut(RouteRef, &mut Meta)) {
        self.v4.for_each_mut(|i, meta| each(RouteRef(i), meta));
        self.v6.for_each_mut(|i, meta| each(RouteRef(i | V6), meta));
    }

    /// The positions for which `keep` holds.
    pub(super) fn collect(&self, mut keep: impl FnMut(&Meta) -> bool) -> Vec<RouteRef> {
        self.iter().filter(|(_, meta)| keep(meta)).map(|(route, _)| route).collect()
    }

    /// The most specific route that covers an address and for which `keep` holds.
    pub(super) fn longest_match(
        &self,
        addr: IpAddr,
        mut keep: impl FnMut(RouteRef, &Meta) -> bool,
    ) -> Option<RouteRef> {
        match addr {
            IpAddr::V4(a) => self.v4.lengths().find_map(|len| {
                let key = Ipv4Prefix::new(a, len).addr().to_bits();
                let i = self.v4.find(key, len)?;
                keep(RouteRef(i), &self.v4.entries[i as usize].meta).then_some(RouteRef(i))
            }),
            IpAddr::V6(a) => self.v6.lengths().find_map(|len| {
                let key = Ipv6Prefix::new(a, len).addr().octets();
                let i = self.v6.find(key, len)?;
                keep(RouteRef(i | V6), &self.v6.entries[i as usize].meta).then_some(RouteRef(i | V6))
            }),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry<A> {
    addr: A,
    meta: Meta,
}

/// The routes of one family.
#[derive(Debug)]
struct Half<A> {
    entries: Vec<Entry<A>>,
    /// The first free slot, or `u32::MAX`.
    free: u32,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// How many routes there are of each length.
    lengths: [u32; 129],
}

impl<A> Default for Half<A> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            free: u32::MAX,
            index: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            lengths: [0; 129],
        }
    }
}

impl<A: Copy + Eq + std::hash::Hash> Half<A> {
    fn find(&self, addr: A, len: u8) -> Option<u32> {
        let hash = self.hasher.hash_one((addr, len));
        let same = |i: &u32| {
            let entry = &self.entries[*i as usize];
            entry.addr == addr && entry.meta.len == len
        };
        self.index.find(hash, same).copied()
    }

    fn insert(&mut self, addr: A, len: u8) -> u32 {
        if let Some(found) = self.find(addr, len) {
            return found;
        }
        let meta = Meta { desired: Target::NONE, actual: Target::NONE, len, flags: 0, reason: 0 };
        let entry = Entry { addr, meta };
        let slot = if self.free == u32::MAX {
            self.entries.push(entry);
            (self.entries.len() - 1) as u32
        } else {
            let slot = self.free;
            self.free = self.entries[slot as usize].meta.desired.0;
            self.entries[slot as usize] = entry;
            slot
        };
        let hash = self.hasher.hash_one((addr, len));
        let Self { entries, hasher, index, .. } = self;
        index.insert_unique(hash, slot, |i| {
            let entry = &entries[*i as usize];
            hasher.hash_one((entry.addr, entry.meta.len))
        });
        self.lengths[usize::from(len)] += 1;
        slot
    }

    fn remove(&mut self, slot: u32) {
        let Entry { addr, meta } = self.entries[slot as usize];
        let hash = self.hasher.hash_one((addr, meta.len));
        if let Ok(found) = self.index.find_entry(hash, |i| *i == slot) {
            found.remove();
            self.lengths[usize::from(meta.len)] -= 1;
            let meta = &mut self.entries[slot as usize].meta;
            meta.flags = flag::FREE;
            meta.desired = Target(self.free);
            self.free = slot;
        }
    }

    /// The lengths in use, longest first.
    fn lengths(&self) -> impl Iterator<Item = u8> {
        (0..=128u8).rev().filter(|len| self.lengths[usize::from(*len)] > 0)
    }

    fn iter(&self) -> impl Iterator<Item = (u32, &Meta)> {
        let used = self.entries.iter().enumerate().filter(|(_, e)| !e.meta.has(flag::FREE));
        used.map(|(i, e)| (i as u32, &e.meta))
    }

    fn for_each_mut(&mut self, mut each: impl FnMut(u32, &mut Meta)) {
        for (i, entry) in self.entries.iter_mut().enumerate() {
            if !entry.meta.has(flag::FREE) {
                each(i as u32, &mut entry.meta);
            }
        }
    }

    fn memory(&self) -> usize {
        self.entries.capacity() * size_of::<Entry<A>>() + self.index.capacity() * 8 / 7 * 5
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn routes_are_small() {
        assert_eq!(size_of::<Entry<u32>>(), 16);
        assert_eq!(size_of::<Entry<[u8; 16]>>(), 28);
    }

    fn prefix() -> impl Strategy<Value = Prefix> {
        let v4 = (0u32..64, 0u8..=32).prop_map(|(a, len)| (IpAddr::from((a << 26).to_be_bytes()), len));
        let v6 = (0u128..64, 0u8..=128).prop_map(|(a, len)| (IpAddr::from((a << 122).to_be_bytes()), len));
        prop_oneof![v4, v6].prop_map(|(addr, len)| Prefix::new(addr, len).unwrap())
    }

    proptest! {
        /// Against a map: insertion, removal, reuse of slots and longest match.
        #[test]
        fn behaves_as_a_map(steps in prop::collection::vec((any::<bool>(), prefix(), 0u32..5), 1..200)) {
            let mut table = Table::default();
            let mut model: HashMap<Prefix, u32> = HashMap::new();
            for (add, prefix, value) in steps {
                if add {
                    let route = table.insert(prefix);
                    prop_assert_eq!(table.prefix(route), prefix);
                    table.meta_mut(route).desired = Target::set(value);
                    model.insert(prefix, value);
                } else {
                    let found = table.find(prefix);
                    prop_assert_eq!(found.is_some(), model.remove(&prefix).is_some());
                    if let Some(route) = found {
                        table.remove(route);
                    }
                }
                let addr = prefix.addr();
                let found = table.longest_match(addr, |_, m| m.desired != Target::set(0));
                let best = model.iter().filter(|(p, v)| p.contains_addr(addr) && **v != 0).max_by_key(|(p, _)| p.len());
                prop_assert_eq!(found.map(|r| table.prefix(r)), best.map(|(p, _)| *p));
            }
            let mut left: Vec<_> = table.iter().map(|(r, m)| (table.prefix(r), m.desired.index().unwrap())).collect();
            let mut expected: Vec<_> = model.into_iter().collect();
            left.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(left, expected);
        }
    }
}
