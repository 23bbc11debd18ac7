//! The sets that rules ask about, and which addresses are in them.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use rustc_hash::FxHashMap;

use super::{
    Engine, Families, LiveSet,
    lower::SetUse,
    sets::{Content, family_index},
};
use crate::{
    model::{EndpointId, Family, Identity, Labels, Prefix},
    policy::ir::{Data, Elements, Key, Name, Set},
};
impl Engine {
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

    /// Changes who has an address, and the sets it is in accordingly.
    pub(super) fn change_address(&mut self, prefix: Prefix, change: impl FnOnce(&mut Self, Prefix)) {
        self.change_addresses(&[prefix], |engine| change(engine, prefix));
    }

    /// The same of several at once: of one that has another identity afterwards only the difference counts.
    pub(super) fn change_addresses(&mut self, prefixes: &[Prefix], change: impl FnOnce(&mut Self)) {
        let identities = |engine: &Self| -> Vec<Option<Arc<Identity>>> {
            prefixes.iter().map(|prefix| engine.identity_of(*prefix).cloned()).collect()
        };
        let old = identities(self);
        change(self);
        let new = identities(self);
        let mut changed = Vec::new();
        for (prefix, (old, new)) in prefixes.iter().zip(old.into_iter().zip(new)) {
            let same = match (&old, &new) {
                (Some(old), Some(new)) => Arc::ptr_eq(old, new),
                (old, new) => old.is_none() && new.is_none(),
            };
            if !same {
                let family = family_index(prefix.family());
                self.population[family] += usize::from(new.is_some());
                self.population[family] -= usize::from(old.is_some());
                changed.push((*prefix, old, new));
            }
        }
        if changed.is_empty() {
            return;
        }
        if self.families_in_use() != self.families {
            self.rebuild(self.config.clone(), self.policies.clone());
        }
        // Sets that nobody was given yet are filled as a whole when they are, which is cheaper for many members.
        if self.given.sets.is_empty() {
            return;
        }
        for (prefix, old, new) in changed {
            self.change_sets(prefix, old, new);
        }
    }

    /// The sets that an address is in, when it has another identity.
    fn change_sets(&mut self, prefix: Prefix, old: Option<Arc<Identity>>, new: Option<Arc<Identity>>) {
        let family = family_index(prefix.family());
        let sets = |identity: &Option<Arc<Identity>>| {
            identity.as_ref().map_or_else(Vec::new, |identity| self.index.sets(identity, family))
        };
        let (mut before, mut after) = (sets(&old), sets(&new));
        let [known_before, known_after] = [old, new].map(|i| i.is_some_and(|identity| !identity.is_empty()));
        before.sort_unstable();
        after.sort_unstable();
        let key = Key::address(prefix.addr());
        for name in before.iter().filter(|n| after.binary_search(n).is_err()) {
            // To be no longer excluded is to be selected.
            let selects = known_after && self.is_unselected(name);
            self.revokes |= !selects || self.sets.get(name).is_some_and(|s| s.others > 0);
            self.put(name, key.clone(), Some(Data::None), None);
        }
        for name in after.iter().filter(|n| before.binary_search(n).is_err()) {
            self.revokes |= if self.is_unselected(name) {
                known_before
            } else {
                self.sets.get(name).is_some_and(|s| s.others > 0)
            };
            self.put(name, key.clone(), None, Some(Data::None));
        }
    }

    /// The families that rules have to tell endpoints apart in. Half the sets are the kernel's work saved in a network
    /// without IPv6. With pools, a family that none of them is of counts only while somebody has an address of it all
    /// the same: then everything is compiled anew when the first of them comes and the last goes.
    pub(super) fn families_in_use(&self) -> Families {
        let pools = &self.config.pools;
        Family::ALL.map(|family| {
            pools.is_empty()
                || pools.iter().any(|pool| pool.cidr.family() == family)
                || self.population[family_index(family)] > 0
        })
    }

    fn is_unselected(&self, set: &Name) -> bool {
        self.sets.get(set).is_some_and(|s| matches!(s.def.content, Content::Unselected(..)))
    }

    /// Fills the sets that endpoints are members of, as far as they are in `sets`; they must be empty.
    pub(super) fn fill(&self, sets: &mut BTreeMap<Name, Set>) {
        // Most addresses share their identity with others, and members are best put in place in one go.
        let mut members: Vec<Vec<Key>> = Vec::new();
        let mut places: FxHashMap<Name, usize> = FxHashMap::default();
        let mut known: FxHashMap<(*const Identity, usize), Vec<usize>> = FxHashMap::default();
        let local = self.owners.keys().copied();
        let remote = self.remotes.keys().copied().filter(|p| !self.owners.contains_key(p));
        for prefix in local.chain(remote) {
            let Some(identity) = self.identity_of(prefix) else { continue };
            let family = family_index(prefix.family());
            let of_identity = known.entry((Arc::as_ptr(identity), family)).or_insert_with(|| {
                let names = self.index.sets(identity, family).into_iter().filter(|n| sets.contains_key(n));
                let place = |name| {
                    *places.entry(name).or_insert_with(|| {
                        members.push(Vec::new());
                        members.len() - 1
                    })
                };
                names.map(place).collect()
            });
            for place in of_identity {
                members[*place].push(Key::address(prefix.addr()));
            }
        }
        for (name, place) in places {
            if let Some(set) = sets.get_mut(&name) {
                set.elements = Elements::of_keys(std::mem::take(&mut members[place]));
            }
        }
    }

    pub(super) fn use_sets(&mut self, uses: &[SetUse]) {
        for SetUse { set, only_allows } in uses {
            let live = match self.sets.entry(set.name.clone()) {
                Entry::Occupied(live) => live.into_mut(),
                Entry::Vacant(free) => {
                    self.given.touched_sets.insert(set.name.clone());
                    self.index.insert(&set.content, &set.name);
                    free.insert(LiveSet { def: set.clone(), users: 0, others: 0 })
                }
            };
            live.users += 1;
            live.others += usize::from(!only_allows);
        }
    }

    /// A set without users stays until [`Self::sweep`], and its membership is kept up: it may be wanted again before
    /// the kernel hears that it was not.
    pub(super) fn release_sets(&mut self, uses: &[SetUse]) {
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
    pub(super) fn sweep(&mut self) {
        for name in &self.given.touched_sets {
            if let Entry::Occupied(entry) = self.sets.entry(name.clone())
                && entry.get().users == 0
            {
                let live = entry.remove();
                self.index.remove(&live.def.content);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;
    use crate::policy::engine::{EngineConfig, LocalEndpoint, PoolConfig};

    /// An engine in which one endpoint is selected by so many policies, each with rules about other labels, most of them
    /// negations.
    fn engine(policies: usize) -> Engine {
        let mut text = String::new();
        for i in 0..policies {
            let _ = write!(
                text,
                r#"[[policy]]
                name = "p{i}"
                select = 'all()'
                ingress = [
                    {{ action = "allow", from = {{ selector = 'env != "dev{i}"' }}, protocol = "tcp", ports = 1 }},
                    {{ action = "allow", from = {{ selector = '!has(secret{i})' }}, protocol = "tcp", ports = 2 }},
                    {{ action = "allow", from = {{ selector = 'zone not in {{"a{i}", "b{i}"}}' }}, protocol = "tcp", ports = 3 }},
                    {{ action = "allow", from = {{ selector = 'role == "r{i}" || env != "dev{i}"' }}, protocol = "tcp", ports = 4 }},
                    {{ action = "deny", from = {{ selector = '!(has(name) && env != "dev{i}")' }}, protocol = "tcp", ports = 5 }},
                    {{ action = "allow", from = {{ selector = 'env == "prod" && role == "r{i}"' }}, protocol = "tcp", ports = 6 }},
                    {{ action = "allow", from = {{ selector = 'all()' }}, protocol = "tcp", ports = 7 }},
                ]
                "#
            );
        }
        let set =
            crate::policy::language::parse(&[("test.toml", &text)]).unwrap_or_else(|e| panic!("{}", e[0]));
        let mut engine = Engine::new(EngineConfig::default());
        engine.set_policies(Arc::new(set));
        let labels = Labels::try_from([("role", "local")]).unwrap();
        let addresses = vec!["10.32.0.1".parse().unwrap(), "fd00:32::1".parse().unwrap()];
        engine.upsert_local(LocalEndpoint {
            shared: Vec::new(),
            id: EndpointId("s32a".into()),
            addresses,
            labels,
        });
        engine.changes();
        engine
    }

    #[test]
    fn a_remote_endpoint_costs_its_labels_not_the_policies() {
        let costs = [10, 100, 1000].map(|policies| {
            let mut engine = engine(policies);
            let identity =
                |pairs: [(&str, &str); 3]| Arc::new(Identity::of(&Labels::try_from(pairs).unwrap()));
            let prod = identity([("role", "r1"), ("env", "prod"), ("zone", "z")]);
            let dev = identity([("role", "r2"), ("env", "dev3"), ("zone", "a4")]);
            let comparisons = [&prod, &dev].map(|i| engine.index.comparisons(i));
            let mut changed = Vec::new();
            for prefix in ["10.64.0.1/32", "fd00:64::1/128"] {
                let prefix: Prefix = prefix.parse().unwrap();
                for step in [Some(&prod), Some(&dev), None] {
                    match step {
                        Some(identity) => _ = engine.upsert_remote(prefix, identity.clone()),
                        None => engine.remove_remote(prefix),
                    }
                    let elements = engine.changes().elements;
                    let count = elements.values().map(|c| c.add.len() + c.remove.len()).sum::<usize>();
                    assert!(count > 0);
                    changed.push(count);
                }
            }
            (comparisons, changed)
        });
        assert_eq!(costs[0], costs[1]);
        assert_eq!(costs[0], costs[2]);
        assert!(costs[0].0.iter().all(|n| *n < 20), "{costs:?}");
    }

    #[test]
    fn tracing_and_port_mappings_leave_classes_alone() {
        let mut engine = engine(10);
        let before = engine.compiled();
        engine.set_config(EngineConfig { trace: true, ..EngineConfig::default() });
        let delta = engine.changes();
        assert!(delta.new_chains.is_empty() && delta.old_chains.is_empty() && !delta.revokes, "{delta:?}");
        assert!(delta.changed_chains.iter().any(|(name, _)| &**name == "refuse"));
        assert!(!delta.changed_chains.iter().any(|(name, _)| name.starts_with("cls_")));
        engine.set_config(EngineConfig::default());
        assert!(!engine.changes().revokes);
        assert_eq!(engine.compiled(), before);
    }

    /// Between two endpoints with one address packets to it may have left the host, judged for their sender alone.
    #[test]
    fn an_address_that_is_used_again_is_judged_anew() {
        let pool = PoolConfig { cidr: "10.0.0.0/24".parse().unwrap(), nat_outgoing: false };
        let mut engine = Engine::new(EngineConfig { pools: vec![pool], ..EngineConfig::default() });
        let closed = "[[policy]]\nname='p'\nselect='zone == \"closed\"'\ningress=[]\n";
        engine.set_policies(Arc::new(crate::policy::language::parse(&[("a.toml", closed)]).unwrap()));
        let at = |id: &str, net: u8, last: u8, zone: &str| {
            let mut labels = Labels::new();
            labels.insert("zone", zone).unwrap();
            let addresses = vec![[10, 0, net, last].into()];
            LocalEndpoint { shared: Vec::new(), id: EndpointId(id.into()), addresses, labels }
        };
        let endpoint = |id: &str, last: u8, zone: &str| at(id, 0, last, zone);
        engine.upsert_local(endpoint("s32a", 1, "open"));
        engine.changes();
        engine.remove_local(&EndpointId("s32a".into()));
        engine.changes();
        engine.upsert_local(endpoint("s32b", 2, "closed"));
        assert!(!engine.changes().revokes, "a new address");
        engine.upsert_local(endpoint("s32c", 1, "closed"));
        assert!(engine.changes().revokes, "one that was used before");
        engine.upsert_local(at("s32e", 1, 4, "closed"));
        assert!(engine.changes().revokes, "one of no pool: it may have been anybody's");
        let arriving = |engine: &Engine| {
            ["s32b", "s32c", "s32e"].map(|id| engine.arriving_of(&EndpointId(id.into())).len())
        };
        assert_eq!(arriving(&engine), [0, 1, 1]);
        let mut labels = endpoint("s32c", 1, "closed");
        labels.labels.insert("more", "labels").unwrap();
        engine.upsert_local(labels);
        assert_eq!(arriving(&engine), [0, 1, 1], "new labels are no route");
        engine.arrived(&EndpointId("s32c".into()));
        engine.remove_local(&EndpointId("s32e".into()));
        assert_eq!(arriving(&engine), [0; 3]);
        engine.upsert_local(endpoint("s32c", 1, "closed"));
        assert_eq!(arriving(&engine), [0; 3], "it has its route");
        engine.changes();
        engine.continued();
        engine.upsert_local(endpoint("s32d", 3, "closed"));
        assert!(engine.changes().revokes, "nobody knows what a process before this one has seen");
        assert!(engine.suspects_all());
        engine.remove_local(&EndpointId("s32d".into()));
        engine.known_connections(["10.0.0.4".parse().unwrap()]);
        engine.changes();
        assert!(!engine.suspects_all());
        engine.upsert_local(endpoint("s32f", 5, "closed"));
        assert!(!engine.changes().revokes, "there is no connection with it");
        engine.upsert_local(endpoint("s32g", 4, "closed"));
        assert!(engine.changes().revokes, "there is one with this");
        engine.upsert_local(endpoint("s32d", 3, "closed"));
        assert!(engine.changes().revokes, "who had this one went after the look had begun");
        let more = PoolConfig { cidr: "10.0.2.0/24".parse().unwrap(), nat_outgoing: false };
        let pools = vec![pool, more];
        engine.set_config(EngineConfig { pools, ..EngineConfig::default() });
        assert!(engine.suspects_all(), "of an address that was of no pool nobody has noted who had it");
    }

    /// What is no reason to judge connections anew, and the like that is.
    #[test]
    fn a_generation_begins_only_when_a_permission_may_go() {
        let pool = PoolConfig { cidr: "10.0.0.0/24".parse().unwrap(), nat_outgoing: false };
        let mut engine = Engine::new(EngineConfig { pools: vec![pool], ..EngineConfig::default() });
        let text = "[[policy]]\nname='p'\nselect='zone == \"closed\"'\ningress=[{action='allow',from={selector='role == \"lb\"'}}]\n\
             [[policy]]\nname='q'\nselect='zone == \"other\"'\ningress=[{action='deny',from={selector='role == \"bad\"'}}]\n";
        engine.set_policies(Arc::new(crate::policy::language::parse(&[("a.toml", text)]).unwrap()));
        let mut label = |id: u8, labels: &[(&str, &str)]| {
            let mut all = Labels::new();
            for (key, value) in labels {
                all.insert(*key, *value).unwrap();
            }
            let addresses = vec![[10, 0, 0, id].into()];
            let id = EndpointId(format!("s32{id}"));
            engine.upsert_local(LocalEndpoint { shared: Vec::new(), id, addresses, labels: all });
            engine.changes().revokes
        };
        assert!(!label(1, &[("zone", "closed")]));
        assert!(!label(2, &[("zone", "other")]));
        assert!(!label(1, &[("zone", "closed"), ("more", "labels")]), "labels that nobody asks for");
        assert!(!label(3, &[("role", "lb")]), "one that may more");
        assert!(!label(3, &[("role", "lb"), ("more", "labels")]));
        assert!(label(3, &[]), "one that may no more");
        assert!(!label(3, &[]));
        assert!(label(3, &[("role", "bad")]), "one that is refused now");
        // That its address is refused no longer would be none, if the set did not tell more than that.
        assert!(label(3, &[("zone", "closed")]), "one that is judged now");
        assert!(!label(3, &[("role", "lb")]), "one that is judged no longer");
        for (id, revokes, why) in [
            (2, false, "nobody asks for its labels"),
            (1, false, "nor for its"),
            (3, true, "by its labels it was allowed"),
        ] {
            // Another that is asked for stays, so that the sets do.
            label_others(&mut engine);
            engine.changes();
            assert!(engine.remove_local(&EndpointId(format!("s32{id}"))));
            assert_eq!(engine.changes().revokes, revokes, "{why}");
        }
        // What a host policy judges comes by other interfaces than those of endpoints.
        let text = format!("{text}[[host_policy]]\nname='h'\ningress=[]\n");
        engine.set_policies(Arc::new(crate::policy::language::parse(&[("a.toml", &text)]).unwrap()));
        engine.changes();
        let address = |last: u8, zone| LocalEndpoint {
            shared: Vec::new(),
            id: EndpointId("s32host".into()),
            addresses: vec![[10, 0, 0, last].into()],
            labels: Labels::try_from([("zone", zone)]).unwrap(),
        };
        engine.upsert_local(address(20, "x"));
        assert!(!engine.changes().revokes, "nobody can have a connection with it");
        engine.upsert_local(address(20, "y"));
        assert!(!engine.changes().revokes, "the same address");
        engine.upsert_local(address(21, "y"));
        assert!(engine.changes().revokes, "it has left one");
        engine.upsert_local(LocalEndpoint { id: EndpointId("s32more".into()), ..address(20, "x") });
        assert!(engine.changes().revokes, "which another gets");
        engine.remove_local(&EndpointId("s32host".into()));
        assert!(engine.changes().revokes);
    }

    fn label_others(engine: &mut Engine) {
        for (last, zone) in [(8, "closed"), (9, "other")] {
            let labels = Labels::try_from([("zone", zone)]).unwrap();
            let (id, addresses) = (EndpointId(format!("s32x{last}")), vec![[10, 0, 0, last].into()]);
            engine.upsert_local(LocalEndpoint { shared: Vec::new(), id, addresses, labels });
        }
    }
}
