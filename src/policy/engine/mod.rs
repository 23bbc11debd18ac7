//! The engine: policies, local endpoints and remote identities in, the compiled form and its changes out.
//!
//! Pure and synchronous. What is compiled depends on the present inputs only, never on the order in which they came.
//! [`Engine::snapshot`] gives all of it; [`Engine::changes`] what is different since the last of either. Sets exist
//! only for selectors that some rule of some local endpoint asks about, and one address that joins or leaves costs a
//! lookup for each hash of its labels, however many policies there are.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod arriving;
mod changes;
mod classes;
mod config;
mod departed;
mod index;
mod limits;
mod lower;
mod members;
mod nat;
mod services;
mod sets;
mod skeleton;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use rustc_hash::FxHashMap;

use self::{
    changes::Given,
    classes::{Selects, entry_of},
    departed::Departed,
    index::SelectorIndex,
    limits::Limits,
    lower::{Class, CompiledChain, SetUse},
    nat::PortMaps,
    sets::SetDef,
    skeleton::{OWN, SRC, Skeleton},
};
pub(super) use self::{
    config::LINK_TYPES,
    services::{join, subtract},
};
pub use self::{
    config::{EngineConfig, Listener, PoolConfig},
    nat::{PortMap, PortMapError},
    skeleton::{LABELS_UNKNOWN, REFUSING},
};
use super::{
    Direction, Flow, PolicySet, Ports, Service,
    ir::{Chain, Data, Key, Limit, Name, Ruleset, Verdict},
};
use crate::model::{EndpointId, Family, Identity, LabelHash, Labels, Prefix};

/// A local endpoint, as far as policy is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalEndpoint {
    /// The host end's interface name.
    pub id: EndpointId,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its labels.
    pub labels: Labels,
    /// Those of its addresses that others elsewhere may have as well: packets from there with these sources are not forged.
    pub shared: Vec<IpAddr>,
}

impl From<&crate::model::Endpoint> for LocalEndpoint {
    fn from(endpoint: &crate::model::Endpoint) -> Self {
        Self {
            id: endpoint.id.clone(),
            addresses: endpoint.addresses().collect(),
            labels: endpoint.labels.clone(),
            shared: Vec::new(),
        }
    }
}

/// See the module's description.
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
    policies: Arc<PolicySet>,
    selects: Selects,
    skeleton: Ruleset,
    skeleton_sets: Vec<SetUse>,
    skeleton_limits: BTreeMap<Name, Limit>,
    locals: BTreeMap<EndpointId, Local>,
    /// Which local endpoints have an address: one, unless somebody made a mistake.
    owners: FxHashMap<Prefix, BTreeSet<EndpointId>>,
    remotes: FxHashMap<Prefix, Arc<Identity>>,
    /// Addresses that were in it, or a local endpoint's: connections outlive routes.
    departed: Departed,
    /// Addresses whose endpoint's rules are in force and that do not lead to it yet.
    arriving: BTreeSet<(IpAddr, EndpointId)>,
    classes: FxHashMap<ClassKey, Live<Class>>,
    chains: BTreeMap<Name, Live<CompiledChain>>,
    sets: BTreeMap<Name, LiveSet>,
    limits: Limits,
    index: SelectorIndex,
    /// How many addresses have an identity.
    population: [usize; 2],
    /// For which there are sets of addresses.
    families: Families,
    given: Given,
    revokes: bool,
    port_maps: PortMaps,
    /// Whether there has been a port mapping, for which the skeleton has chains of its own.
    mapped: bool,
}

/// Whether there are, or may soon be, endpoints with IPv4 and with IPv6 addresses.
type Families = [bool; 2];

/// Direction, policies in order, and what applies when none of them decides.
type ClassKey = (Direction, Box<[u32]>, Otherwise);

/// What becomes of what no policy decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Otherwise {
    Allow,
    Deny,
    /// Nobody knows which policies there are: refused, for that reason.
    CutOff,
}

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

impl Engine {
    /// An engine without policies and endpoints.
    pub fn new(config: EngineConfig) -> Self {
        let policies = Arc::new(PolicySet::default());
        let Skeleton { rules, sets, limits } = skeleton::build(&config, &policies, [true; 2], false);
        let mut engine = Self {
            config,
            policies,
            selects: Selects::default(),
            skeleton: rules,
            skeleton_sets: Vec::new(),
            skeleton_limits: BTreeMap::new(),
            locals: BTreeMap::new(),
            owners: FxHashMap::default(),
            remotes: FxHashMap::default(),
            departed: Departed::default(),
            arriving: BTreeSet::new(),
            classes: FxHashMap::default(),
            chains: BTreeMap::new(),
            sets: BTreeMap::new(),
            limits: Limits::default(),
            index: SelectorIndex::default(),
            population: [0; 2],
            families: [true; 2],
            given: Given { skeleton_touched: true, ..Given::default() },
            revokes: false,
            port_maps: PortMaps::default(),
            mapped: false,
        };
        engine.use_sets(&sets);
        engine.skeleton_sets = sets;
        engine.limits.hold(&limits);
        engine.skeleton_limits = limits;
        engine.families = engine.families_in_use();
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
            let classes = reader.classes_of(&local.endpoint.labels, &local.identity);
            for address in &local.endpoint.addresses {
                reader.owners.entry(Prefix::host(*address)).or_default().insert(id.clone());
            }
            let (endpoint, identity) = (local.endpoint.clone(), local.identity.clone());
            reader.locals.insert(id.clone(), Local { endpoint, identity, classes });
        }
        reader.remotes.clone_from(&self.remotes);
        (reader.population, reader.families) = (self.population, self.families);
        reader
    }

    /// The chains that judge a local endpoint's connections in a direction, the first one last.
    pub fn chains_of(&self, id: &EndpointId, direction: Direction) -> Vec<(Name, Arc<Chain>)> {
        let Some(local) = self.locals.get(id) else { return Vec::new() };
        let keys = local.classes.iter().filter(|(d, ..)| *d == direction);
        let classes = keys.filter_map(|key| self.classes.get(key));
        classes.flat_map(|live| &live.value.chains).map(|c| (c.name.clone(), c.chain.clone())).collect()
    }

    /// A chain that does not depend on endpoints.
    pub fn fixed_chain(&self, name: &str) -> Option<(Name, Arc<Chain>)> {
        let (name, chain) = self.skeleton.chains.get_key_value(name)?;
        Some((name.clone(), Arc::new(chain.clone())))
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
        // Nobody kept count of who left addresses that were of no pool.
        if config.pools != self.config.pools {
            self.departed.note_any();
        }
        if (EngineConfig { trace: config.trace, ..self.config.clone() }) == config {
            if config.trace != self.config.trace {
                self.config = config;
                self.rebuild_skeleton();
            }
        } else {
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

    /// Adds an endpoint, or gives it new labels or addresses. Those that connections may be known with wait for
    /// [`Self::arrived`].
    pub fn upsert_local(&mut self, endpoint: LocalEndpoint) {
        if self.locals.get(&endpoint.id).is_some_and(|l| l.endpoint == endpoint) {
            return;
        }
        let id = endpoint.id.clone();
        self.replace_local(&id, Some(endpoint));
    }

    /// Removes an endpoint; false if it was not there.
    pub fn remove_local(&mut self, id: &EndpointId) -> bool {
        self.replace_port_maps(id, Vec::new());
        self.replace_local(id, None)
    }

    /// Gives an endpoint its port mappings, instead of those that it has. They go when the endpoint is removed.
    pub fn set_port_maps(&mut self, id: &EndpointId, maps: Vec<PortMap>) -> Result<(), PortMapError> {
        let mut targets = HashMap::with_capacity(maps.len());
        for map in &maps {
            self.port_map_possible(id, map)?;
            if *targets.entry(map.key()).or_insert(map.target) != map.target {
                return Err(PortMapError::Twice(format!("{}/{}", map.protocol, map.host_port)));
            }
        }
        self.replace_port_maps(id, maps);
        Ok(())
    }

    /// Whether an endpoint could have a port mapping.
    pub fn port_map_possible(&self, id: &EndpointId, map: &PortMap) -> Result<(), PortMapError> {
        map.check()?;
        let is_it = |s: &Service| {
            s.protocol == map.protocol
                && matches!(s.ports, Ports::Range(first, last) if (first..=last).contains(&map.host_port))
        };
        if self.config.protected.iter().any(is_it) {
            return Err(PortMapError::Reserved(format!("{}/{}", map.protocol, map.host_port)));
        }
        match self.port_maps.taken(id, map) {
            Some(other) => {
                let host = map.host.map(|h| format!("{h} ")).unwrap_or_default();
                let what = format!("{host}{}/{}", map.protocol, map.host_port);
                Err(PortMapError::Taken(what, other.clone()))
            }
            None => Ok(()),
        }
    }

    /// Where a port mapping leads what is sent to an address of the host: the endpoint, and the connection as policies
    /// see it.
    pub fn mapped(&self, flow: &Flow) -> Option<(&EndpointId, Flow)> {
        let fits = |map: &PortMap| {
            map.protocol == flow.protocol
                && map.host_port == flow.port
                && map.target.is_ipv4() == flow.destination.is_ipv4()
                && map.host.is_none_or(|host| host == flow.destination)
        };
        let found = self.port_maps().filter(|(_, map)| fits(map));
        // A mapping of one address goes before one of all.
        let (id, map) = found.max_by_key(|(_, map)| map.host.is_some())?;
        Some((id, Flow { destination: map.target.ip(), port: map.target.port(), ..*flow }))
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
        let family = usize::from(prefix.family() == Family::Ipv6);
        // The whole of a network's identities at start: nobody has been given a set that they could be in, the family is
        // in use already, and a local endpoint's labels count before theirs.
        if self.given.sets.is_empty() && self.population[family] > 0 && !self.owners.contains_key(&prefix) {
            let is_new = self.remotes.insert(prefix, identity).is_none();
            self.population[family] += usize::from(is_new);
            return true;
        }
        self.change_address(prefix, |engine, prefix| {
            engine.remotes.insert(prefix, identity);
        });
        true
    }

    /// Another process has used this table before: connections may live with addresses of which only that one knew that
    /// they were somebody's.
    pub fn continued(&mut self) {
        self.departed.note_any();
    }

    /// These are all the addresses that connections are known with, as far as they are of pools: of others nobody need
    /// suspect that they were somebody's. Whoever went since [`Self::continued`] is remembered beside them.
    pub fn known_connections(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.departed.only(addresses.into_iter().map(Prefix::host));
    }

    /// Whether any address may have been somebody's, as far as is known.
    pub fn suspects_all(&self) -> bool {
        self.departed.is_any()
    }

    /// Forgets the identity of a remote address.
    pub fn remove_remote(&mut self, prefix: Prefix) {
        self.change_address(prefix, |engine, prefix| {
            if engine.remotes.remove(&prefix).is_some() {
                engine.departed.note(prefix);
            }
        });
    }

    /// Puts an endpoint in the place of the one with its id, or nothing; false if there is neither.
    ///
    /// A new generation begins only if this can take a permission away from a connection that has one:
    ///
    /// - in a direction in which it could do as it pleased, or had other policies, it has policies now (`dispatch`);
    /// - one of its addresses leaves a set that permissions hang on, or joins one that refusals hang on
    ///   (`change_addresses`);
    /// - an address is new here, and connections may be known with whoever had it before, who were not asked these
    ///   policies;
    /// - host policies are in force, which judge what comes to the host from elsewhere and not what endpoints send: an
    ///   address that comes, and may be known, or goes is judged by the other rules.
    ///
    /// That an endpoint goes is no reason by itself. Nothing comes from its interface any more that has one of its
    /// addresses as the source, and what is sent to them is judged for its other end alone: that end's rules say the same
    /// as before of an address that left no set, and the policies of the one that goes could only refuse. Who has the
    /// address next is the third case.
    fn replace_local(&mut self, id: &EndpointId, endpoint: Option<LocalEndpoint>) -> bool {
        let before = self.locals.get(id).map(|l| (l.endpoint.addresses.clone(), l.classes.clone()));
        if before.is_none() && endpoint.is_none() {
            return false;
        }
        let (here, old_classes) = before.unzip();
        let here = here.unwrap_or_default();
        let there = endpoint.as_ref().map_or_else(Vec::new, |e| e.addresses.clone());
        // Those with who had the address elsewhere, or before, were not asked its own policies.
        let arriving = self.arriving_of(id);
        let known: Vec<IpAddr> = there.iter().copied().filter(|addr| self.may_be_known(*addr)).collect();
        let moved = known.iter().any(|addr| !here.contains(addr));
        self.arrived(id);
        for addr in known.iter().filter(|addr| !here.contains(addr) || arriving.contains(addr)) {
            self.arrives(id, *addr);
        }
        let leaves = here.iter().any(|addr| !there.contains(addr));
        self.revokes |= (moved || leaves) && !self.policies.host_policies.is_empty();
        let mut after = [None, None];
        let local = endpoint.map(|endpoint| {
            let identity = Arc::new(Identity::in_full(&endpoint.labels));
            let classes = self.classes_of(&endpoint.labels, &identity);
            after = classes.each_ref().map(|key| Some(self.use_class(key)));
            Local { endpoint, identity, classes }
        });
        self.revokes |= moved && after.iter().flatten().any(|entry| *entry != Data::Verdict(Verdict::Return));
        for (direction, after) in Direction::ALL.into_iter().zip(after) {
            let key = old_classes.iter().flatten().find(|(of, ..)| *of == direction);
            let before = key.and_then(|key| entry_of(&self.classes, key));
            self.dispatch(direction, id, before, after);
        }
        for key in old_classes.iter().flatten() {
            self.release_class(key);
        }
        let all: BTreeSet<IpAddr> = here.iter().chain(&there).copied().collect();
        let own: Vec<(IpAddr, bool)> = all.iter().map(|addr| (*addr, self.is_own(*addr))).collect();
        for addr in &all {
            let had = |list: &[IpAddr]| list.contains(addr).then_some(Data::None);
            self.put(SRC[usize::from(addr.is_ipv6())], source_key(id, *addr), had(&here), had(&there));
            // Until the next endpoint has it, packets to it may leave the host.
            if !there.contains(addr) {
                self.departed.note(Prefix::host(*addr));
            }
        }
        let prefixes: Vec<Prefix> = all.iter().copied().map(Prefix::host).collect();
        self.change_addresses(&prefixes, |engine| {
            for addr in &all {
                let owners = engine.owners.entry(Prefix::host(*addr)).or_default();
                if there.contains(addr) {
                    owners.insert(id.clone());
                } else {
                    owners.remove(id);
                    if owners.is_empty() {
                        engine.owners.remove(&Prefix::host(*addr));
                    }
                }
            }
            match local {
                Some(local) => _ = engine.locals.insert(id.clone(), local),
                None => _ = engine.locals.remove(id),
            }
        });
        for (addr, was) in own {
            self.own_changed(addr, was);
        }
        true
    }

    /// Whether packets with this source come from endpoints of this host alone.
    pub fn is_own(&self, addr: IpAddr) -> bool {
        let owners = self.owners.get(&Prefix::host(addr));
        let mut owners = owners.into_iter().flatten().filter_map(|id| self.locals.get(id)).peekable();
        owners.peek().is_some() && owners.all(|local| !local.endpoint.shared.contains(&addr))
    }

    fn own_changed(&mut self, addr: IpAddr, was: bool) {
        let is = self.is_own(addr);
        if was != is {
            let data = |own: bool| own.then_some(Data::None);
            self.put(OWN[usize::from(addr.is_ipv6())], Key::address(addr), data(was), data(is));
        }
    }

    fn replace_port_maps(&mut self, id: &EndpointId, maps: Vec<PortMap>) {
        let old = self.port_maps.by_endpoint.remove(id).unwrap_or_default();
        // The maps must be there before their elements. They stay when the last element goes: that frees the port at once,
        // and a chain that is attached is not something to be tidied up later.
        if !maps.is_empty() && !self.mapped {
            self.mapped = true;
            self.rebuild_skeleton();
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
    }
}

fn source_key(id: &EndpointId, addr: IpAddr) -> Key {
    Key::join(&[&Key::interface(id.as_str()), &Key::address(addr)])
}
