//! The limits of rules in force: one a rule, however many ways it has to match and classes it is in.

use std::collections::{BTreeMap, btree_map::Entry};

use crate::policy::ir::{Delta, Limit, Name};

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct Limits {
    /// With how many chains ask them.
    live: BTreeMap<Name, (Limit, usize)>,
    given: BTreeMap<Name, Limit>,
    /// Something came or went since they were given.
    touched: bool,
}

impl Limits {
    /// A chain asks these.
    pub(super) fn hold(&mut self, limits: &BTreeMap<Name, Limit>) {
        for (name, limit) in limits {
            self.live.entry(name.clone()).or_insert_with(|| (limit.clone(), 0)).1 += 1;
            self.touched = true;
        }
    }

    /// A chain that asked these is gone.
    pub(super) fn release(&mut self, limits: &BTreeMap<Name, Limit>) {
        for name in limits.keys() {
            let Entry::Occupied(mut live) = self.live.entry(name.clone()) else { continue };
            live.get_mut().1 -= 1;
            if live.get().1 == 0 {
                live.remove();
            }
            self.touched = true;
        }
    }

    pub(super) fn all(&self) -> BTreeMap<Name, Limit> {
        self.live.iter().map(|(name, (limit, _))| (name.clone(), limit.clone())).collect()
    }

    /// All of them are given; the answer is what was there before.
    pub(super) fn give(&mut self) -> BTreeMap<Name, Limit> {
        self.touched = false;
        let all = self.all();
        std::mem::replace(&mut self.given, all)
    }

    /// Those that came and went. One that is released and held again in between is neither.
    pub(super) fn changes(&mut self, delta: &mut Delta) {
        if !self.touched {
            return;
        }
        let before = self.give();
        let fresh = self.given.iter().filter(|(name, _)| !before.contains_key(*name));
        delta.new_limits = fresh.map(|(name, limit)| (name.clone(), limit.clone())).collect();
        delta.old_limits = before.into_keys().filter(|name| !self.given.contains_key(name)).collect();
    }
}
