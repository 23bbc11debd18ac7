//! The whole compiled form, and what changed since somebody was given it.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use rustc_hash::FxHashSet;

use super::{
    Engine, arriving,
    classes::{entry_of, place},
    lower::CompiledChain,
    sets::SetDef,
    skeleton::{OWN, SRC},
    source_key,
};
use crate::policy::ir::{Chain, Data, Delta, Element, Key, Name, Ruleset};

/// What the last snapshot or change left behind, and what was touched since.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) skeleton: Ruleset,
    /// The skeleton was built anew. Comparing two takes longer than all else that an endpoint needs.
    pub(super) skeleton_touched: bool,
    pub(super) chains: BTreeMap<Name, Arc<CompiledChain>>,
    pub(super) sets: BTreeMap<Name, Arc<SetDef>>,
    pub(super) touched_chains: FxHashSet<Name>,
    pub(super) touched_sets: FxHashSet<Name>,
    /// For each element touched: what it was before.
    pub(super) elements: BTreeMap<(Name, Key), (Option<Data>, Option<Data>)>,
}

impl Engine {
    /// All of the compiled form. The next [`Self::changes`] are relative to it.
    pub fn snapshot(&mut self) -> Ruleset {
        self.sweep();
        let rules = self.compiled();
        self.given = Given {
            skeleton: self.skeleton.clone(),
            chains: self.chains.iter().map(|(n, c)| (n.clone(), c.value.clone())).collect(),
            sets: self.sets.iter().map(|(n, s)| (n.clone(), s.def.clone())).collect(),
            ..Given::default()
        };
        self.limits.give();
        self.revokes = false;
        rules
    }

    /// All of the compiled form, without any effect.
    pub fn compiled(&self) -> Ruleset {
        let mut rules = self.skeleton.clone();
        for (id, local) in &self.locals {
            for key in &local.classes {
                let Some(entry) = entry_of(&self.classes, key) else { continue };
                let (name, data) = place(key.0, entry);
                if let Some(set) = rules.sets.get_mut(name) {
                    set.elements.insert(Key::interface(id.as_str()), data);
                }
            }
            for addr in &local.endpoint.addresses {
                if let Some(set) = rules.sets.get_mut(SRC[usize::from(addr.is_ipv6())]) {
                    set.elements.insert(source_key(id, *addr), Data::None);
                }
                if self.is_own(*addr)
                    && let Some(set) = rules.sets.get_mut(OWN[usize::from(addr.is_ipv6())])
                {
                    set.elements.insert(Key::address(*addr), Data::None);
                }
            }
        }
        for (addr, _) in &self.arriving {
            if let Some(set) = rules.sets.get_mut(arriving::set_of(*addr)) {
                set.elements.insert(Key::address(*addr), Data::None);
            }
        }
        for ((map, key), values) in &self.port_maps.claims {
            if let (Some(set), Some(data)) = (rules.sets.get_mut(map), values.keys().next()) {
                set.elements.insert(key.clone(), data.clone());
            }
        }
        rules.chains.extend(self.chains.iter().map(|(n, c)| (n.clone(), (*c.value.chain).clone())));
        let used = self.sets.iter().filter(|(_, s)| s.users > 0);
        rules.sets.extend(used.map(|(n, s)| (n.clone(), s.def.build())));
        rules.limits = self.limits.all();
        self.fill(&mut rules.sets);
        rules
    }

    /// What changed since the last snapshot or change.
    pub fn changes(&mut self) -> Delta {
        self.sweep();
        let skeleton = std::mem::take(&mut self.given.skeleton_touched);
        let mut delta = Delta { revokes: std::mem::take(&mut self.revokes), ..Delta::default() };
        self.set_changes(skeleton, &mut delta);
        self.chain_changes(skeleton, &mut delta);
        self.element_changes(&mut delta);
        self.limits.changes(&mut delta);
        delta
    }

    /// Sets that came and went.
    fn set_changes(&mut self, skeleton: bool, delta: &mut Delta) {
        let touched = std::mem::take(&mut self.given.touched_sets);
        let mut filled = BTreeMap::new();
        for name in touched {
            match (self.sets.get(&name), self.given.sets.contains_key(&name)) {
                (Some(live), false) => {
                    self.given.sets.insert(name.clone(), live.def.clone());
                    filled.insert(name, live.def.build());
                }
                (None, true) => {
                    self.given.sets.remove(&name);
                    delta.old_sets.push(name);
                }
                _ => {}
            }
        }
        if skeleton && self.skeleton.sets != self.given.skeleton.sets {
            for (name, set) in &self.skeleton.sets {
                match self.given.skeleton.sets.get(name) {
                    Some(old) if old.kind == set.kind => {
                        let change = delta.elements.entry(name.clone()).or_default();
                        let gone = |(k, d): &(&Key, &Data)| set.elements.get(k) != Some(*d);
                        let fresh = |(k, d): &(&Key, &Data)| old.elements.get(k) != Some(*d);
                        change.remove.extend(old.elements.iter().filter(gone).map(element));
                        change.add.extend(set.elements.iter().filter(fresh).map(element));
                        if change.remove.is_empty() && change.add.is_empty() {
                            delta.elements.remove(name);
                        }
                    }
                    _ => _ = filled.insert(name.clone(), set.clone()),
                }
            }
            let gone = self.given.skeleton.sets.keys().filter(|n| !self.skeleton.sets.contains_key(*n));
            delta.old_sets.extend(gone.cloned());
            self.given.skeleton.sets.clone_from(&self.skeleton.sets);
        }
        let needs_members = |name: &Name| self.sets.get(name).is_some_and(|live| live.def.has_members());
        if filled.keys().any(needs_members) {
            self.fill(&mut filled);
        }
        delta.old_sets.sort();
        delta.new_sets = filled.into_iter().collect();
    }

    /// Chains that came and went, and those of the skeleton that changed.
    fn chain_changes(&mut self, skeleton: bool, delta: &mut Delta) {
        let touched = std::mem::take(&mut self.given.touched_chains);
        let mut fresh: BTreeMap<Name, Chain> = BTreeMap::new();
        let mut gone: BTreeMap<Name, Chain> = BTreeMap::new();
        for name in touched {
            match (self.chains.get(&name), self.given.chains.contains_key(&name)) {
                (Some(live), false) => {
                    fresh.insert(name.clone(), (*live.value.chain).clone());
                    self.given.chains.insert(name, live.value.clone());
                }
                (None, true) => {
                    if let Some(old) = self.given.chains.remove(&name) {
                        gone.insert(name, (*old.chain).clone());
                    }
                }
                _ => {}
            }
        }
        if skeleton && self.skeleton.chains != self.given.skeleton.chains {
            for (name, chain) in &self.skeleton.chains {
                match self.given.skeleton.chains.get(name) {
                    Some(old) if old == chain => {}
                    Some(_) => delta.changed_chains.push((name.clone(), chain.clone())),
                    None => _ = fresh.insert(name.clone(), chain.clone()),
                }
            }
            for (name, chain) in &self.given.skeleton.chains {
                if !self.skeleton.chains.contains_key(name) {
                    // What is attached to a hook must do nothing from now on; removed it is a little later.
                    if chain.hook.is_some() {
                        let emptied = Chain { rules: Vec::new(), ..chain.clone() };
                        delta.changed_chains.push((name.clone(), emptied));
                    }
                    gone.insert(name.clone(), chain.clone());
                }
            }
            self.given.skeleton.chains.clone_from(&self.skeleton.chains);
        }
        delta.new_chains = dependencies_first(fresh);
        delta.old_chains = dependencies_first(gone).into_iter().rev().map(|(name, _)| name).collect();
    }

    /// Elements of sets that were there before and stay.
    fn element_changes(&mut self, delta: &mut Delta) {
        let fresh: FxHashSet<Name> = delta.new_sets.iter().map(|(name, _)| name.clone()).collect();
        for ((name, key), (before, after)) in std::mem::take(&mut self.given.elements) {
            let stays = self.skeleton.sets.contains_key(&name) || self.given.sets.contains_key(&name);
            // A map or set of the skeleton that is new has no endpoints' elements yet; others came with their members.
            if before == after || !stays || (fresh.contains(&name) && self.given.sets.contains_key(&name)) {
                continue;
            }
            let change = delta.elements.entry(name.clone()).or_default();
            if let Some(data) = before
                && !fresh.contains(&name)
            {
                change.remove.push(Element { key: key.clone(), data });
            }
            if let Some(data) = after {
                change.add.push(Element { key, data });
            }
        }
    }

    /// Notes that an element changes from one value to another.
    pub(super) fn put(&mut self, set: &str, key: Key, before: Option<Data>, after: Option<Data>) {
        self.revokes |= before.is_some() && after.is_some() && before != after;
        // A set that the kernel does not have yet is filled as a whole when it is made.
        if self.given.touched_sets.contains(set) && !self.given.sets.contains_key(set) {
            return;
        }
        match self.given.elements.entry((set.into(), key)) {
            Entry::Vacant(free) => {
                if before != after {
                    free.insert((before, after));
                }
            }
            Entry::Occupied(mut known) => {
                known.get_mut().1 = after;
                let (first, last) = known.get();
                if first == last {
                    known.remove();
                }
            }
        }
    }
}

fn element((key, data): (&Key, &Data)) -> Element {
    Element { key: key.clone(), data: data.clone() }
}

/// Orders chains so that each comes after those it leads to, and otherwise by name.
fn dependencies_first(mut chains: BTreeMap<Name, Chain>) -> Vec<(Name, Chain)> {
    fn visit(name: &Name, chains: &mut BTreeMap<Name, Chain>, out: &mut Vec<(Name, Chain)>) {
        let Some(chain) = chains.remove(name) else { return };
        for other in chain.rules.iter().flat_map(|r| &r.statements).filter_map(|s| s.refers_to()) {
            visit(other, chains, out);
        }
        out.push((name.clone(), chain));
    }
    let mut out = Vec::with_capacity(chains.len());
    while let Some(name) = chains.keys().next().cloned() {
        visit(&name, &mut chains, &mut out);
    }
    out
}
