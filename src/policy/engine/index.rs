//! Which selectors match an identity, without asking all of them.

use rustc_hash::FxHashMap;

use crate::{
    model::{Identity, LabelHash},
    policy::{
        ir::Name,
        selector::{HashedSelector, Selector},
    },
};

/// The selectors that rules in force ask about, by the hashes that a match cannot do without.
#[derive(Debug, Default)]
pub(super) struct SelectorIndex {
    entries: FxHashMap<Selector, usize>,
    slots: Vec<Option<Entry>>,
    free: Vec<usize>,
    by_hash: FxHashMap<LabelHash, Vec<usize>>,
    /// Selectors that need no particular label, such as `env != "dev"`.
    always: Vec<usize>,
}

#[derive(Debug)]
struct Entry {
    hashed: HashedSelector,
    /// The set of its IPv4 and of its IPv6 members, if rules use them.
    sets: [Option<Name>; 2],
}

impl SelectorIndex {
    /// Has matches of `selector` include the set of one family (0 for IPv4, 1 for IPv6).
    pub(super) fn insert(&mut self, selector: &Selector, family: usize, set: Name) {
        let slot = match self.entries.get(selector) {
            Some(slot) => *slot,
            None => self.new_slot(selector),
        };
        if let Some(Some(entry)) = self.slots.get_mut(slot)
            && let Some(place) = entry.sets.get_mut(family)
        {
            *place = Some(set);
        }
    }

    /// Forgets the set of one family; the selector goes with the last of them.
    pub(super) fn remove(&mut self, selector: &Selector, family: usize) {
        let Some(&slot) = self.entries.get(selector) else { return };
        let Some(Some(entry)) = self.slots.get_mut(slot) else { return };
        if let Some(place) = entry.sets.get_mut(family) {
            *place = None;
        }
        if entry.sets.iter().any(Option::is_some) {
            return;
        }
        match entry.hashed.required() {
            None => self.always.retain(|s| *s != slot),
            Some(hashes) => {
                for hash in hashes {
                    if let Some(list) = self.by_hash.get_mut(&hash) {
                        list.retain(|s| *s != slot);
                        if list.is_empty() {
                            self.by_hash.remove(&hash);
                        }
                    }
                }
            }
        }
        self.slots[slot] = None;
        self.free.push(slot);
        self.entries.remove(selector);
    }

    /// The sets of one family that an address with this identity belongs to, each once, in no particular order.
    ///
    /// Costs one lookup a hash of the identity, and one evaluation for each selector found or without an index.
    pub(super) fn sets(&self, identity: &Identity, family: usize) -> Vec<Name> {
        // What is not known matches nothing, not even `role != "web"`.
        if identity.is_empty() {
            return Vec::new();
        }
        let mut found: Vec<usize> =
            identity.hashes().iter().filter_map(|h| self.by_hash.get(h)).flatten().copied().collect();
        found.sort_unstable();
        found.dedup();
        let candidates = found.into_iter().chain(self.always.iter().copied());
        candidates
            .filter_map(|slot| self.slots.get(slot)?.as_ref())
            .filter(|entry| entry.hashed.matches(identity))
            .filter_map(|entry| entry.sets.get(family)?.clone())
            .collect()
    }

    /// How many selectors are in force.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn new_slot(&mut self, selector: &Selector) -> usize {
        let hashed = selector.hashed();
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        match hashed.required() {
            None => self.always.push(slot),
            Some(hashes) => {
                for hash in hashes {
                    self.by_hash.entry(hash).or_default().push(slot);
                }
            }
        }
        self.slots[slot] = Some(Entry { hashed, sets: [None, None] });
        self.entries.insert(selector.clone(), slot);
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Labels;

    #[test]
    fn finds_and_forgets() {
        let mut index = SelectorIndex::default();
        let selectors =
            ["role == 'web'", "role in {'web', 'db'}", "env != 'dev'", "all()", "has(env) || role == 'db'"];
        for (i, text) in selectors.iter().enumerate() {
            index.insert(&text.parse().unwrap(), i % 2, format!("set{i}").into());
        }
        let identity = Identity::of(&Labels::try_from([("role", "web")]).unwrap());
        let found = |index: &SelectorIndex, family| {
            let mut found: Vec<_> = index.sets(&identity, family).iter().map(ToString::to_string).collect();
            found.sort();
            found
        };
        assert_eq!(found(&index, 0), ["set0", "set2"]);
        assert_eq!(found(&index, 1), ["set1", "set3"]);
        assert_eq!(index.sets(&Identity::default(), 1).len(), 0, "what is unknown matches nothing");
        for (i, text) in selectors.iter().enumerate() {
            index.remove(&text.parse().unwrap(), i % 2);
        }
        assert_eq!(index.len(), 0);
        assert!(index.by_hash.is_empty() && index.always.is_empty());
        index.insert(&"all()".parse().unwrap(), 0, "again".into());
        assert_eq!(found(&index, 0), ["again"]);
    }
}
