//! Which sets an identity belongs to, without asking all selectors.

use rustc_hash::FxHashMap;

use super::sets::{Content, family_index};
use crate::{
    model::{Identity, LabelHash},
    policy::{
        ir::Name,
        selector::{HashedSelector, Selector},
    },
};

/// The selectors that rules in force ask about, by the hashes that a member of their set cannot do without: for a set of
/// selected addresses those that a match needs, for a set of unselected ones those that exclude.
#[derive(Debug, Default)]
pub(super) struct SelectorIndex {
    entries: FxHashMap<Asked, usize>,
    slots: Vec<Option<Entry>>,
    free: Vec<usize>,
    by_hash: FxHashMap<LabelHash, Vec<usize>>,
    /// What every identity belongs to: the set of all that are known, and no other.
    always: Vec<usize>,
}

/// A selector, and whether the set has those that it does not select.
type Asked = (Selector, bool);

#[derive(Debug)]
struct Entry {
    hashed: HashedSelector,
    unselected: bool,
    /// What it is found by; `None` if always.
    hashes: Option<Vec<LabelHash>>,
    /// The set of its IPv4 and of its IPv6 members, if rules use them.
    sets: [Option<Name>; 2],
}

impl SelectorIndex {
    /// Has members of a set be found. Sets whose members are no endpoints are no concern of ours.
    pub(super) fn insert(&mut self, content: &Content, set: &Name) {
        let Some((asked, family)) = asked(content) else { return };
        let slot = match self.entries.get(&asked) {
            Some(slot) => *slot,
            None => self.new_slot(asked),
        };
        if let Some(Some(entry)) = self.slots.get_mut(slot)
            && let Some(place) = entry.sets.get_mut(family)
        {
            *place = Some(set.clone());
        }
    }

    /// Forgets a set; the selector goes with the last of its sets.
    pub(super) fn remove(&mut self, content: &Content) {
        let Some((asked, family)) = asked(content) else { return };
        let Some(&slot) = self.entries.get(&asked) else { return };
        let Some(Some(entry)) = self.slots.get_mut(slot) else { return };
        if let Some(place) = entry.sets.get_mut(family) {
            *place = None;
        }
        if entry.sets.iter().any(Option::is_some) {
            return;
        }
        match entry.hashes.take() {
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
        self.entries.remove(&asked);
    }

    /// The sets of one family that an address with this identity belongs to, each once, in no particular order.
    ///
    /// Costs one lookup a hash of the identity, and one evaluation for each selector found.
    pub(super) fn sets(&self, identity: &Identity, family: usize) -> Vec<Name> {
        self.candidates(identity)
            .into_iter()
            .filter_map(|slot| self.slots.get(slot)?.as_ref())
            .filter(|entry| entry.hashed.matches(identity) != entry.unselected)
            .filter_map(|entry| entry.sets.get(family)?.clone())
            .collect()
    }

    /// The selectors to ask about an identity.
    fn candidates(&self, identity: &Identity) -> Vec<usize> {
        // What is not known matches nothing, not even `role != "web"`.
        if identity.is_empty() {
            return Vec::new();
        }
        let mut found: Vec<usize> =
            identity.hashes().iter().filter_map(|h| self.by_hash.get(h)).flatten().copied().collect();
        found.extend(&self.always);
        found.sort_unstable();
        found.dedup();
        found
    }

    /// How many selectors an identity is compared with.
    #[cfg(test)]
    pub(super) fn comparisons(&self, identity: &Identity) -> usize {
        self.candidates(identity).len()
    }

    /// How many selectors are in force.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn new_slot(&mut self, asked: Asked) -> usize {
        let (selector, unselected) = &asked;
        let unselected = *unselected;
        let hashed = selector.hashed();
        // Of `env == "prod" && app == "shop"` the label that fewer other selectors are found by.
        let weight = |hash: LabelHash| self.by_hash.get(&hash).map_or(0, Vec::len);
        let hashes = if unselected { hashed.excluded(&weight) } else { hashed.required(&weight) };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        match &hashes {
            None => self.always.push(slot),
            Some(hashes) => {
                for hash in hashes {
                    self.by_hash.entry(*hash).or_default().push(slot);
                }
            }
        }
        self.slots[slot] = Some(Entry { hashed, unselected, hashes, sets: [None, None] });
        self.entries.insert(asked, slot);
        slot
    }
}

fn asked(content: &Content) -> Option<(Asked, usize)> {
    match content {
        Content::Selector(selector, family) => Some(((selector.clone(), false), family_index(*family))),
        Content::Unselected(selector, family) => Some(((selector.clone(), true), family_index(*family))),
        Content::Ranges(..) | Content::Ports(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Family, Labels};

    #[test]
    fn finds_and_forgets() {
        let mut index = SelectorIndex::default();
        let selectors = [
            ("role == 'web'", false),
            ("role in {'web', 'db'}", false),
            ("env != 'dev'", true),
            ("role != 'web'", true),
            ("all()", false),
            ("has(env) || role == 'db'", false),
            ("!(role contains 'w')", true),
            ("role not in {'db'} && env != 'dev'", true),
        ];
        let content = |i: usize, family| {
            let (text, unselected) = selectors[i];
            let selector = text.parse().unwrap();
            if unselected {
                Content::Unselected(selector, family)
            } else {
                Content::Selector(selector, family)
            }
        };
        let contents: Vec<_> =
            (0..selectors.len()).map(|i| content(i, Family::ALL[usize::from(i >= 6)])).collect();
        for (i, content) in contents.iter().enumerate() {
            index.insert(content, &format!("set{i}").into());
        }
        let identity = Identity::of(&Labels::try_from([("role", "web")]).unwrap());
        let found = |index: &SelectorIndex, family| {
            let mut found: Vec<_> = index.sets(&identity, family).iter().map(ToString::to_string).collect();
            found.sort();
            found
        };
        assert_eq!(found(&index, 0), ["set0", "set1", "set3", "set4"]);
        assert_eq!(found(&index, 1), ["set6"], "what cannot be told is not selected");
        assert_eq!(index.sets(&Identity::default(), 0).len(), 0, "what is unknown is in no set");
        for content in &contents {
            index.remove(content);
        }
        assert_eq!(index.len(), 0);
        assert!(index.by_hash.is_empty() && index.always.is_empty());
        index.insert(&content(4, Family::Ipv4), &"again".into());
        assert_eq!(found(&index, 0), ["again"]);
    }

    #[test]
    fn a_common_label_does_not_gather_all_selectors() {
        let mut index = SelectorIndex::default();
        for i in 0..100 {
            let selector = format!("env == 'prod' && zone == 'z{i}'").parse().unwrap();
            index.insert(&Content::Selector(selector, Family::Ipv4), &format!("set{i}").into());
        }
        let identity = Identity::of(&Labels::try_from([("env", "prod"), ("zone", "z7")]).unwrap());
        assert!(index.comparisons(&identity) <= 2);
        assert_eq!(index.sets(&identity, 0), ["set7".into()]);
    }
}
