//! The engine: policies, local endpoints and remote identities in, the compiled form and its changes out.
//!
//! Pure and synchronous. What is compiled depends on the present inputs only, never on the order in which they came.
//! [`Engine::snapshot`] gives all of it; [`Engine::changes`] what is different since the last of either. Sets exist
//! only for selectors that some rule of some local endpoint asks about, and one address that joins or leaves costs a
//! lookup for each hash of its labels, however many policies there are.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod config;
mod index;
mod lower;
mod nat;
mod services;
mod sets;
mod skeleton;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use rustc_hash::{FxHashMap, FxHashSet};

pub use self::{
    config::{EngineConfig, PoolConfig},
    nat::{PortMap, PortMapError},
};
use self::{
    index::SelectorIndex,
    lower::{Class, CompiledChain, SetUse},
    nat::PortMaps,
    sets::{Content, SetDef, family_index},
    skeleton::{EP_IN, EP_OUT, FREE_IN, FREE_OUT, SRC, Skeleton},
};
use super::{
    Direction, PolicySet,
    ir::{Chain, Data, Delta, Element, Key, Name, Ruleset, Verdict},
};
use crate::model::{EndpointId, Identity, LabelHash, Labels, Prefix};

/// A local endpoint, as far as policy is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalEndpoint {
    /// The host end's interface name.
    pub id: EndpointId,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its labels.
    pub labels: Labels,
}

impl From<&crate::model::Endpoint> for LocalEndpoint {
    fn from(endpoint: &crate::model::Endpoint) -> Self {
        Self {
            id: endpoint.id.clone(),
            addresses: endpoint.addresses().collect(),
            labels: endpoint.labels.clone(),
        }
    }
}

/// See the module's description.
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
    policies: Arc<PolicySet>,
    skeleton: Ruleset,
    skeleton_sets: Vec<SetUse>,
    locals: BTreeMap<EndpointId, Local>,
    /// Which local endpoints have an address: one, unless somebody made a mistake.
    owners: FxHashMap<Prefix, BTreeSet<EndpointId>>,
    remotes: FxHashMap<Prefix, Arc<Identity>>,
    classes: FxHashMap<ClassKey, Live<Class>>,
    chains: BTreeMap<Name, Live<CompiledChain>>,
    sets: BTreeMap<Name, LiveSet>,
    index: SelectorIndex,
    given: Given,
    revokes: bool,
    port_maps: PortMaps,
    /// Whether there is a port mapping, for which the skeleton has chains of its own.
    mapped: bool,
}

/// Direction, policies in order, and what applies when none of them decides.
type ClassKey = (Direction, Box<[u32]>, bool);

#[derive(Debug)]
struct Local {
    endpoint: LocalEndpoint,
    identity: Arc<Identity>,
    /// Ingress and egress.
    classes: [ClassKey; 2],
}

#[derive(Debug)]
struct Live<T> {
    value: Arc<T>,
    users: usize,
}

#[derive(Debug)]
struct LiveSet {
    def: Arc<SetDef>,
    users: usize,
    /// Users that do something else than allow.
    others: usize,
}

/// What the last snapshot or change left behind, and what was touched since.
#[derive(Debug, Default)]
struct Given {
    skeleton: Ruleset,
    chains: BTreeMap<Name, Arc<CompiledChain>>,
    sets: BTreeMap<Name, Arc<SetDef>>,
    touched_chains: FxHashSet<Name>,
    touched_sets: FxHashSet<Name>,
    /// For each element touched: what it was before.
    elements: BTreeMap<(Name, Key), (Option<Data>, Option<Data>)>,
}

impl Engine {
    /// An engine without policies and endpoints.
    pub fn new(config: EngineConfig) -> Self {
        let policies = Arc::new(PolicySet::default());
        let Skeleton { rules, sets } = skeleton::build(&config, &policies, false);
        let mut engine = Self {
            config,
            policies,
            skeleton: rules,
            skeleton_sets: Vec::new(),
            locals: BTreeMap::new(),
            owners: FxHashMap::default(),
            remotes: FxHashMap::default(),
            classes: FxHashMap::default(),
            chains: BTreeMap::new(),
            sets: BTreeMap::new(),
            index: SelectorIndex::default(),
            given: Given::default(),
            revokes: false,
            port_maps: PortMaps::default(),
            mapped: false,
        };
        engine.use_sets(&sets);
        engine.skeleton_sets = sets;
        engine
    }

    /// The present settings.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// The present policies.
    pub fn policies(&self) -> &Arc<PolicySet> {
        &self.policies
    }

    /// The local endpoints in order of their ids.
    pub fn locals(&self) -> impl Iterator<Item = &LocalEndpoint> {
        self.locals.values().map(|l| &l.endpoint)
    }

    /// What is known of the endpoints of other hosts.
    pub fn remotes(&self) -> impl Iterator<Item = (Prefix, &Arc<Identity>)> {
        self.remotes.iter().map(|(prefix, identity)| (*prefix, identity))
    }

    /// How many remote addresses have an identity.
    pub fn remote_count(&self) -> usize {
        self.remotes.len()
    }

    /// Another engine with the same endpoints and settings and no policies, for questions that take longer than the owner of
    /// this one can wait.
    #[must_use]
    pub fn reader(&self) -> Self {
        let mut reader = Self::new(self.config.clone());
        for (id, local) in &self.locals {
            let classes = reader.classes_of(&local.endpoint.labels);
            for address in &local.endpoint.addresses {
                reader.owners.entry(Prefix::host(*address)).or_default().insert(id.clone());
            }
            let (endpoint, identity) = (local.endpoint.clone(), local.identity.clone());
            reader.locals.insert(id.clone(), Local { endpoint, identity, classes });
        }
        reader.remotes.clone_from(&self.remotes);
        reader
    }

    /// The chains that judge a local endpoint's connections in a direction, the first one last.
    pub fn chains_of(&self, id: &EndpointId, direction: Direction) -> Vec<(Name, Arc<Chain>)> {
        let Some(local) = self.locals.get(id) else { return Vec::new() };
        let keys = local.classes.iter().filter(|(d, ..)| *d == direction);
        let classes = keys.filter_map(|key| self.classes.get(key));
        classes.flat_map(|live| &live.value.chains).map(|c| (c.name.clone(), c.chain.clone())).collect()
    }

    /// Labels whose values policies ask for, with the number of remote addresses that have the label but not in full:
    /// they match no selector that depends on it.
    pub fn unanswered(&self) -> BTreeMap<String, usize> {
        let mut keys = BTreeSet::new();
        for policy in &self.policies.policies {
            let rules = Direction::ALL.iter().filter_map(|d| policy.rules(*d)).flatten();
            for peer in rules.flat_map(|r| &r.peers) {
                for selector in peer.selector.iter().chain(&peer.not_selector) {
                    keys.extend(selector.texts().into_iter().map(|(key, _)| key));
                }
            }
        }
        for port in &self.policies.named_ports {
            keys.extend(port.select.texts().into_iter().map(|(key, _)| key));
        }
        let mut found = BTreeMap::new();
        for key in keys {
            let hash = LabelHash::of_key(key);
            let silent = self.remotes.values().filter(|i| i.contains(hash) && i.value(key).is_none()).count();
            if silent > 0 {
                found.insert(key.to_owned(), silent);
            }
        }
        found
    }

    /// How many distinct selectors rules in force ask about.
    pub fn selector_count(&self) -> usize {
        self.index.len()
    }

    /// Replaces the settings.
    pub fn set_config(&mut self, config: EngineConfig) {
        if config != self.config {
            let policies = self.policies.clone();
            self.rebuild(config, policies);
        }
    }

    /// Replaces the policies.
    pub fn set_policies(&mut self, policies: Arc<PolicySet>) {
        if *policies != *self.policies {
            let config = self.config.clone();
            self.rebuild(config, policies);
        }
    }

    /// Adds an endpoint, or gives it new labels or addresses.
    pub fn upsert_local(&mut self, endpoint: LocalEndpoint) {
        if self.locals.get(&endpoint.id).is_some_and(|l| l.endpoint == endpoint) {
            return;
        }
        let id = endpoint.id.clone();
        self.drop_local(&id);
        let identity = Arc::new(Identity::in_full(&endpoint.labels));
        let classes = self.classes_of(&endpoint.labels);
        for key in &classes {
            let entry = self.use_class(key);
            self.dispatch(key.0, &id, None, Some(entry));
        }
        for addr in &endpoint.addresses {
            self.put(SRC[usize::from(addr.is_ipv6())], source_key(&id, *addr), None, Some(Data::None));
        }
        let addresses = endpoint.addresses.clone();
        self.locals.insert(id.clone(), Local { endpoint, identity, classes });
        for addr in addresses {
            self.change_address(Prefix::host(addr), |engine, prefix| {
                engine.owners.entry(prefix).or_default().insert(id.clone());
            });
        }
    }

    /// Removes an endpoint; false if it was not there.
    pub fn remove_local(&mut self, id: &EndpointId) -> bool {
        self.replace_port_maps(id, Vec::new());
        self.drop_local(id)
    }

    /// Gives an endpoint its port mappings, instead of those that it has. They go when the endpoint is removed.
    pub fn set_port_maps(&mut self, id: &EndpointId, maps: Vec<PortMap>) -> Result<(), PortMapError> {
        for map in &maps {
            map.check()?;
            if let Some(other) = self.port_maps.taken(id, map) {
                let host = map.host.map(|h| format!("{h} ")).unwrap_or_default();
                let what = format!("{host}{}/{}", map.protocol, map.host_port);
                return Err(PortMapError::Taken(what, other.clone()));
            }
        }
        self.replace_port_maps(id, maps);
        Ok(())
    }

    /// The port mappings of all endpoints.
    pub fn port_maps(&self) -> impl Iterator<Item = (&EndpointId, &PortMap)> {
        self.port_maps.by_endpoint.iter().flat_map(|(id, maps)| maps.iter().map(move |m| (id, m)))
    }

    /// Learns the identity of a remote address. Only single addresses (/32, /128) have one: false for others.
    pub fn upsert_remote(&mut self, prefix: Prefix, identity: Arc<Identity>) -> bool {
        if !prefix.is_host() {
            return false;
        }
        self.change_address(prefix, |engine, prefix| {
            engine.remotes.insert(prefix, identity);
        });
        true
    }

    /// Forgets the identity of a remote address.
    pub fn remove_remote(&mut self, prefix: Prefix) {
        self.change_address(prefix, |engine, prefix| {
            engine.remotes.remove(&prefix);
        });
    }

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
        self.for_members(|set, key| {
            if let Some(set) = rules.sets.get_mut(set) {
                set.elements.insert(key, Data::None);
            }
        });
        rules
    }

    /// What changed since the last snapshot or change.
    pub fn changes(&mut self) -> Delta {
        self.sweep();
        let mut delta = Delta { revokes: std::mem::take(&mut self.revokes), ..Delta::default() };
        self.set_changes(&mut delta);
        self.chain_changes(&mut delta);
        self.element_changes(&mut delta);
        delta
    }

    /// Sets that came and went.
    fn set_changes(&mut self, delta: &mut Delta) {
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
        if self.skeleton.sets != self.given.skeleton.sets {
            for (name, set) in &self.skeleton.sets {
                match self.given.skeleton.sets.get(name) {
                    Some(old) if old.kind == set.kind => {
                        let change = delta.elements.entry(name.clone()).or_default();
                        let gone = |(k, d): &(&Key, &Data)| set.elements.get(*k) != Some(*d);
                        let fresh = |(k, d): &(&Key, &Data)| old.elements.get(*k) != Some(*d);
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
        let needs_members = |name: &Name| {
            self.sets.get(name).is_some_and(|live| matches!(live.def.content, Content::Selector(..)))
        };
        if filled.keys().any(needs_members) {
            self.for_members(|name, key| {
                if let Some(set) = filled.get_mut(name) {
                    set.elements.insert(key, Data::None);
                }
            });
        }
        delta.old_sets.sort();
        delta.new_sets = filled.into_iter().collect();
    }

    /// Chains that came and went, and those of the skeleton that changed.
    fn chain_changes(&mut self, delta: &mut Delta) {
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
        if self.skeleton.chains != self.given.skeleton.chains {
            for (name, chain) in &self.skeleton.chains {
                match self.given.skeleton.chains.get(name) {
                    Some(old) if old == chain => {}
                    Some(_) => delta.changed_chains.push((name.clone(), chain.clone())),
                    None => _ = fresh.insert(name.clone(), chain.clone()),
                }
            }
            for (name, chain) in &self.given.skeleton.chains {
                if !self.skeleton.chains.contains_key(name) {
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

    /// Compiles everything anew; what stays the same keeps its name and is not touched in the kernel.
    fn rebuild(&mut self, config: EngineConfig, policies: Arc<PolicySet>) {
        self.config = config;
        self.policies = policies;
        let Skeleton { rules, sets } = skeleton::build(&self.config, &self.policies, self.mapped);
        self.revokes |= rules.chains != self.skeleton.chains || rules.sets != self.skeleton.sets;
        self.skeleton = rules;
        // The new sets and classes first, so that what both use does not come and go.
        self.use_sets(&sets);
        let old_sets = std::mem::replace(&mut self.skeleton_sets, sets);
        let old_classes = std::mem::take(&mut self.classes);
        let ids: Vec<EndpointId> = self.locals.keys().cloned().collect();
        for id in ids {
            let Some(local) = self.locals.get(&id) else { continue };
            let before = local.classes.each_ref().map(|key| entry_of(&old_classes, key));
            let classes = self.classes_of(&local.endpoint.labels);
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
        self.release_sets(&old_sets);
    }

    fn drop_local(&mut self, id: &EndpointId) -> bool {
        let Some(addresses) = self.locals.get(id).map(|l| l.endpoint.addresses.clone()) else { return false };
        for addr in &addresses {
            self.change_address(Prefix::host(*addr), |engine, prefix| {
                if let Some(owners) = engine.owners.get_mut(&prefix) {
                    owners.remove(id);
                    if owners.is_empty() {
                        engine.owners.remove(&prefix);
                    }
                }
            });
        }
        let Some(local) = self.locals.remove(id) else { return false };
        for addr in &addresses {
            self.put(SRC[usize::from(addr.is_ipv6())], source_key(id, *addr), Some(Data::None), None);
        }
        for key in &local.classes {
            let before = entry_of(&self.classes, key);
            self.dispatch(key.0, id, before, None);
            self.release_class(key);
        }
        // Its address may be another's soon, for which old connections must not count.
        self.revokes = true;
        true
    }

    fn replace_port_maps(&mut self, id: &EndpointId, maps: Vec<PortMap>) {
        let old = self.port_maps.by_endpoint.remove(id).unwrap_or_default();
        let will_be_mapped = !maps.is_empty() || !self.port_maps.by_endpoint.is_empty();
        // The maps must be there before their elements, and go after them.
        if will_be_mapped && !self.mapped {
            self.mapped = true;
            self.rebuild(self.config.clone(), self.policies.clone());
        }
        let elements = |map: &PortMap| [(map.key(), map.data()), (map.hairpin(), Data::None)];
        let mut touched: Vec<_> = Vec::new();
        for (key, data) in old.iter().flat_map(elements) {
            touched.push((key.clone(), self.port_maps.value(&key).cloned()));
            self.port_maps.release(&key, &data);
        }
        for (key, data) in maps.iter().flat_map(elements) {
            touched.push((key.clone(), self.port_maps.value(&key).cloned()));
            self.port_maps.claim(key, data);
        }
        // Of a key touched twice, what it was at first counts.
        let mut before = BTreeMap::new();
        for (key, value) in touched {
            before.entry(key).or_insert(value);
        }
        for ((map, key), value) in before {
            let after = self.port_maps.value(&(map.clone(), key.clone())).cloned();
            let revokes = self.revokes;
            self.put(&map, key, value, after);
            // Connections that exist keep their translation; no permission hangs on it.
            self.revokes = revokes;
        }
        if !maps.is_empty() {
            self.port_maps.by_endpoint.insert(id.clone(), maps);
        }
        if !will_be_mapped && self.mapped {
            self.mapped = false;
            self.rebuild(self.config.clone(), self.policies.clone());
        }
    }

    /// The policies that select an endpoint, for ingress and egress.
    fn classes_of(&self, labels: &Labels) -> [ClassKey; 2] {
        let selected: Vec<(u32, &super::Policy)> = self
            .policies
            .policies
            .iter()
            .enumerate()
            .filter(|(_, p)| p.select.matches(labels))
            .map(|(i, p)| (i as u32, &**p))
            .collect();
        Direction::ALL.map(|direction| {
            let policies = selected.iter().filter(|(_, p)| p.rules(direction).is_some()).map(|(i, _)| *i);
            (direction, policies.collect(), self.default_allow(direction, labels))
        })
    }

    /// What an endpoint may do in a direction where no policy decides.
    pub(in crate::policy) fn default_allow(&self, direction: Direction, labels: &Labels) -> bool {
        self.config.default_allow(&self.policies.profiles, direction, labels)
    }

    fn use_class(&mut self, key: &ClassKey) -> Data {
        if let Some(live) = self.classes.get_mut(key) {
            live.users += 1;
            return Data::Verdict(live.value.entry.clone());
        }
        let (direction, policies, allow) = key;
        let class = lower::class(&self.policies, &self.config, *direction, policies, *allow);
        for chain in &class.chains {
            match self.chains.entry(chain.name.clone()) {
                Entry::Occupied(mut live) => live.get_mut().users += 1,
                Entry::Vacant(free) => {
                    free.insert(Live { value: chain.clone(), users: 1 });
                    self.given.touched_chains.insert(chain.name.clone());
                    let sets = chain.sets.clone();
                    self.use_sets(&sets);
                }
            }
        }
        let entry = Data::Verdict(class.entry.clone());
        self.classes.insert(key.clone(), Live { value: Arc::new(class), users: 1 });
        entry
    }

    fn release_class(&mut self, key: &ClassKey) {
        let Some(live) = self.classes.get_mut(key) else { return };
        live.users -= 1;
        if live.users == 0
            && let Some(live) = self.classes.remove(key)
        {
            self.release_chains(&live.value);
        }
    }

    fn release_chains(&mut self, class: &Class) {
        for chain in &class.chains {
            let Entry::Occupied(mut live) = self.chains.entry(chain.name.clone()) else { continue };
            live.get_mut().users -= 1;
            if live.get().users == 0 {
                let live = live.remove();
                self.given.touched_chains.insert(chain.name.clone());
                self.release_sets(&live.value.sets);
            }
        }
    }

    fn use_sets(&mut self, uses: &[SetUse]) {
        for SetUse { set, only_allows } in uses {
            let live = match self.sets.entry(set.name.clone()) {
                Entry::Occupied(live) => live.into_mut(),
                Entry::Vacant(free) => {
                    self.given.touched_sets.insert(set.name.clone());
                    if let Content::Selector(selector, family) = &set.content {
                        self.index.insert(selector, family_index(*family), set.name.clone());
                    }
                    free.insert(LiveSet { def: set.clone(), users: 0, others: 0 })
                }
            };
            live.users += 1;
            live.others += usize::from(!only_allows);
        }
    }

    /// A set without users stays until [`Self::sweep`], and its membership is kept up: it may be wanted again before
    /// the kernel hears that it was not.
    fn release_sets(&mut self, uses: &[SetUse]) {
        for SetUse { set, only_allows } in uses {
            let Some(live) = self.sets.get_mut(&set.name) else { continue };
            live.users -= 1;
            live.others -= usize::from(!only_allows);
            if live.users == 0 {
                self.given.touched_sets.insert(set.name.clone());
            }
        }
    }

    /// Forgets sets that nobody uses.
    fn sweep(&mut self) {
        for name in &self.given.touched_sets {
            if let Entry::Occupied(entry) = self.sets.entry(name.clone())
                && entry.get().users == 0
            {
                let live = entry.remove();
                if let Content::Selector(selector, family) = &live.def.content {
                    self.index.remove(selector, family_index(*family));
                }
            }
        }
    }

    /// Whose labels count for an address: a local endpoint's before a remote one's.
    pub(in crate::policy) fn identity_of(&self, prefix: Prefix) -> Option<&Arc<Identity>> {
        let owner = self.owners.get(&prefix).and_then(|owners| owners.first());
        match owner {
            Some(id) => self.locals.get(id).map(|l| &l.identity),
            None => self.remotes.get(&prefix),
        }
    }

    /// The local endpoint with an address.
    pub fn owner_of(&self, prefix: Prefix) -> Option<(&EndpointId, &Labels)> {
        let id = self.owners.get(&prefix)?.first()?;
        self.locals.get(id).map(|l| (&l.endpoint.id, &l.endpoint.labels))
    }

    fn sets_of(&self, prefix: Prefix) -> Vec<Name> {
        let family = family_index(prefix.family());
        self.identity_of(prefix).map_or_else(Vec::new, |identity| self.index.sets(identity, family))
    }

    /// Changes who has an address, and the sets it is in accordingly.
    fn change_address(&mut self, prefix: Prefix, change: impl FnOnce(&mut Self, Prefix)) {
        let before = self.sets_of(prefix);
        change(self, prefix);
        let after = self.sets_of(prefix);
        let key = Key::address(prefix.addr());
        for name in before.iter().filter(|n| !after.contains(n)) {
            self.revokes = true;
            self.put(name, key.clone(), Some(Data::None), None);
        }
        for name in after.iter().filter(|n| !before.contains(n)) {
            self.revokes |= self.sets.get(name).is_some_and(|s| s.others > 0);
            self.put(name, key.clone(), None, Some(Data::None));
        }
    }

    /// Notes that an endpoint's class in a direction changes.
    fn dispatch(&mut self, direction: Direction, id: &EndpointId, before: Option<Data>, after: Option<Data>) {
        self.revokes |= before.is_some() && after.is_some() && before != after;
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

    /// Notes that an element changes from one value to another.
    fn put(&mut self, set: &str, key: Key, before: Option<Data>, after: Option<Data>) {
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

    /// Calls back for every member of every selector's set.
    fn for_members(&self, mut each: impl FnMut(&Name, Key)) {
        let local = self.owners.keys().copied();
        let remote = self.remotes.keys().copied().filter(|p| !self.owners.contains_key(p));
        for prefix in local.chain(remote) {
            for name in self.sets_of(prefix) {
                each(&name, Key::address(prefix.addr()));
            }
        }
    }
}

fn entry_of(classes: &FxHashMap<ClassKey, Live<Class>>, key: &ClassKey) -> Option<Data> {
    classes.get(key).map(|live| Data::Verdict(live.value.entry.clone()))
}

/// Where the endpoints of a class are, and with what.
fn place(direction: Direction, entry: Data) -> (&'static str, Data) {
    let (map, free) = match direction {
        Direction::Ingress => (EP_IN, FREE_IN),
        Direction::Egress => (EP_OUT, FREE_OUT),
    };
    if entry == Data::Verdict(Verdict::Return) { (free, Data::None) } else { (map, entry) }
}

fn element((key, data): (&Key, &Data)) -> Element {
    Element { key: key.clone(), data: data.clone() }
}

fn source_key(id: &EndpointId, addr: IpAddr) -> Key {
    Key::join(&[&Key::interface(id.as_str()), &Key::address(addr)])
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
