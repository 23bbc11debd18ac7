//! Classes: what endpoints with the same policies share, and which class each endpoint has.

use std::{collections::btree_map::Entry, sync::Arc};

use rustc_hash::FxHashMap;

use super::{
    ClassKey, Engine, EngineConfig, Live, Otherwise,
    lower::{self, Class},
    skeleton::{self, EP_IN, EP_OUT, FREE_IN, FREE_OUT, Skeleton},
};
use crate::{
    model::{EndpointId, Identity, LabelHash, Labels},
    policy::{
        Direction, Policy, PolicySet,
        ir::{Data, Key, Verdict},
        selector::Selector,
    },
};

impl Engine {
    /// Compiles everything anew; what stays the same keeps its name and is not touched in the kernel.
    pub(super) fn rebuild(&mut self, config: EngineConfig, policies: Arc<PolicySet>) {
        self.config = config;
        if !Arc::ptr_eq(&self.policies, &policies) {
            self.selects = Selects::new(&policies);
            self.policies = policies;
        }
        self.families = self.families_in_use();
        let before = self.skeleton.clone();
        self.rebuild_skeleton();
        self.revokes |= self.skeleton != before;
        let old_classes = std::mem::take(&mut self.classes);
        let ids: Vec<EndpointId> = self.locals.keys().cloned().collect();
        for id in ids {
            let Some(local) = self.locals.get(&id) else { continue };
            let before = local.classes.each_ref().map(|key| entry_of(&old_classes, key));
            let classes = self.classes_of(&local.endpoint.labels, &local.identity);
            for (key, before) in classes.iter().zip(before) {
                let after = self.use_class(key);
                self.dispatch(key.0, &id, before, Some(after));
            }
            if let Some(local) = self.locals.get_mut(&id) {
                local.classes = classes;
            }
        }
        for (_, class) in old_classes {
            self.release_chains(&class.value);
        }
    }

    /// Compiles only the part that does not depend on endpoints, for a change that no class notices and that permits or
    /// forbids nothing.
    pub(super) fn rebuild_skeleton(&mut self) {
        let Skeleton { rules, sets, limits } =
            skeleton::build(&self.config, &self.policies, self.families, self.mapped);
        self.skeleton = rules;
        self.given.skeleton_touched = true;
        self.use_sets(&sets);
        let old = std::mem::replace(&mut self.skeleton_sets, sets);
        self.release_sets(&old);
        self.limits.hold(&limits);
        let old = std::mem::replace(&mut self.skeleton_limits, limits);
        self.limits.release(&old);
    }

    /// The policies that select an endpoint, for ingress and egress.
    pub(super) fn classes_of(&self, labels: &Labels, identity: &Identity) -> [ClassKey; 2] {
        if self.config.cuts_off(&self.policies, labels) {
            return Direction::ALL.map(|direction| (direction, Box::default(), Otherwise::CutOff));
        }
        let candidates = self.selects.candidates(identity);
        let candidates =
            candidates.iter().filter_map(|i| Some((*i, &**self.policies.policies.get(*i as usize)?)));
        let selected: Vec<(u32, &Policy)> = candidates.filter(|(_, p)| p.select.matches(labels)).collect();
        Direction::ALL.map(|direction| {
            let policies = selected.iter().filter(|(_, p)| p.rules(direction).is_some()).map(|(i, _)| *i);
            let allow = self.default_allow(direction, labels);
            (direction, policies.collect(), if allow { Otherwise::Allow } else { Otherwise::Deny })
        })
    }

    /// What an endpoint may do in a direction where no policy decides.
    pub(in crate::policy) fn default_allow(&self, direction: Direction, labels: &Labels) -> bool {
        let selects = |select: &Selector| select.matches(labels);
        self.config.default_allow(&self.policies.profiles, direction, selects)
    }

    pub(super) fn use_class(&mut self, key: &ClassKey) -> Data {
        if let Some(live) = self.classes.get_mut(key) {
            live.users += 1;
            return Data::Verdict(live.value.entry.clone());
        }
        let class = lower::class(&self.policies, &self.config, self.families, key);
        for chain in &class.chains {
            match self.chains.entry(chain.name.clone()) {
                Entry::Occupied(mut live) => live.get_mut().users += 1,
                Entry::Vacant(free) => {
                    free.insert(Live { value: chain.clone(), users: 1 });
                    self.given.touched_chains.insert(chain.name.clone());
                    let sets = chain.sets.clone();
                    self.use_sets(&sets);
                    self.limits.hold(&chain.limits);
                }
            }
        }
        let entry = Data::Verdict(class.entry.clone());
        self.classes.insert(key.clone(), Live { value: Arc::new(class), users: 1 });
        entry
    }

    pub(super) fn release_class(&mut self, key: &ClassKey) {
        let Some(live) = self.classes.get_mut(key) else { return };
        live.users -= 1;
        if live.users == 0
            && let Some(live) = self.classes.remove(key)
        {
            self.release_chains(&live.value);
        }
    }

    pub(super) fn release_chains(&mut self, class: &Class) {
        for chain in &class.chains {
            let Entry::Occupied(mut live) = self.chains.entry(chain.name.clone()) else { continue };
            live.get_mut().users -= 1;
            if live.get().users == 0 {
                let live = live.remove();
                self.given.touched_chains.insert(chain.name.clone());
                self.release_sets(&live.value.sets);
                self.limits.release(&live.value.limits);
            }
        }
    }

    /// Notes that an endpoint's class in a direction changes.
    pub(super) fn dispatch(
        &mut self,
        direction: Direction,
        id: &EndpointId,
        before: Option<Data>,
        after: Option<Data>,
    ) {
        // Who may do as he pleases from now on loses nothing.
        let frees = after == Some(Data::Verdict(Verdict::Return));
        self.revokes |= before.is_some() && after.is_some() && before != after && !frees;
        let key = Key::interface(id.as_str());
        let [before, after] = [before, after].map(|entry| entry.map(|entry| place(direction, entry)));
        match (before, after) {
            (Some((from, old)), Some((to, new))) if from == to => self.put(to, key, Some(old), Some(new)),
            (before, after) => {
                if let Some((set, data)) = before {
                    self.put(set, key.clone(), Some(data), None);
                }
                if let Some((set, data)) = after {
                    self.put(set, key, None, Some(data));
                }
            }
        }
    }
}

/// Which policies may select an endpoint, by the hashes of labels that their selectors need.
#[derive(Debug, Default)]
pub(super) struct Selects {
    by_hash: FxHashMap<LabelHash, Vec<u32>>,
    /// Those that need no particular label.
    always: Vec<u32>,
}

impl Selects {
    fn new(policies: &PolicySet) -> Self {
        let mut selects = Self::default();
        for (i, policy) in policies.policies.iter().enumerate() {
            let weight = |hash: LabelHash| selects.by_hash.get(&hash).map_or(0, Vec::len);
            match policy.select.hashed().required(&weight) {
                None => selects.always.push(i as u32),
                Some(hashes) => {
                    for hash in hashes {
                        selects.by_hash.entry(hash).or_default().push(i as u32);
                    }
                }
            }
        }
        selects
    }

    /// Numbers of policies in order, each once.
    fn candidates(&self, identity: &Identity) -> Vec<u32> {
        let found = identity.hashes().iter().filter_map(|h| self.by_hash.get(h)).flatten();
        let mut all: Vec<u32> = found.chain(&self.always).copied().collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

pub(super) fn entry_of(classes: &FxHashMap<ClassKey, Live<Class>>, key: &ClassKey) -> Option<Data> {
    classes.get(key).map(|live| Data::Verdict(live.value.entry.clone()))
}

/// Where the endpoints of a class are, and with what.
pub(super) fn place(direction: Direction, entry: Data) -> (&'static str, Data) {
    let (map, free) = match direction {
        Direction::Ingress => (EP_IN, FREE_IN),
        Direction::Egress => (EP_OUT, FREE_OUT),
    };
    if entry == Data::Verdict(Verdict::Return) { (free, Data::None) } else { (map, entry) }
}
