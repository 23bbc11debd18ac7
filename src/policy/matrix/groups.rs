//! Addresses that no policy tells apart.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use super::{TooMany, host::Door, rules};
use crate::{
    model::{EndpointId, Family, Identity, LabelHash, Labels, Prefix},
    policy::{
        PolicySet,
        engine::Engine,
        explain::View,
        ranges::Ranges,
        selector::{HashedSelector, Selector},
    },
};

/// More groups than this make a matrix that nobody reads and that takes minutes.
pub(super) const MOST_PARTIES: usize = 500;

/// How many examples a party shows.
pub(super) const EXAMPLES: usize = 3;

/// An address, and the endpoint of this host that has it.
type Sample = (IpAddr, Option<EndpointId>);

/// A party of one family.
pub(super) struct Group {
    pub(super) name: String,
    pub(super) family: Family,
    /// Two addresses of different endpoints, if there are two: a party may also talk to itself, an endpoint does without
    /// policies.
    samples: Vec<Sample>,
    /// An address of an endpoint of this host, and one of something else.
    pub(super) local: Option<IpAddr>,
    pub(super) elsewhere: Option<IpAddr>,
    pub(super) count: usize,
    /// How many of the addresses each local endpoint has.
    owned: BTreeMap<EndpointId, usize>,
    pub(super) examples: BTreeSet<String>,
}

/// One party that opens connections and one that they lead to, with an address of each.
pub(super) struct Pair<'g> {
    pub(super) from: &'g str,
    pub(super) to: &'g str,
    pub(super) family: Family,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// How many pairs of addresses it stands for.
    pub(super) count: usize,
    /// How the host is reached, if it is the host that connections lead to.
    pub(super) door: Option<&'g Door>,
}

/// Every ordered pair of groups of a family.
pub(super) fn pairs(groups: &[Group]) -> impl Iterator<Item = Pair<'_>> {
    groups.iter().enumerate().flat_map(move |(i, from)| {
        groups.iter().enumerate().filter_map(move |(j, to)| {
            if from.family != to.family || (from.is_world() && to.is_world()) {
                return None;
            }
            let ends = from.samples.iter().flat_map(|a| to.samples.iter().map(move |b| (a, b)));
            let mut apart = ends.filter(|((a, of_a), (b, of_b))| a != b && (of_a.is_none() || of_a != of_b));
            let ((source, _), (destination, _)) = apart.next()?;
            let own = if i == j {
                let itself: usize = from.owned.values().map(|n| n * (n - 1)).sum();
                from.count + itself
            } else {
                from.owned.iter().filter_map(|(id, n)| to.owned.get(id).map(|m| n * m)).sum()
            };
            Some(Pair {
                from: &from.name,
                to: &to.name,
                family: from.family,
                source: *source,
                destination: *destination,
                count: from.count * to.count - own,
                door: None,
            })
        })
    })
}

impl Group {
    /// How many of the addresses are those of endpoints of this host.
    pub(super) fn locals(&self) -> usize {
        self.owned.values().sum()
    }

    fn is_world(&self) -> bool {
        self.name.starts_with(WORLD)
    }
}

const WORLD: &str = "world";

/// What policies can tell endpoints apart by.
struct Questions {
    selectors: BTreeSet<Selector>,
    ranges: Vec<Ranges>,
    /// The labels that are asked for.
    keys: BTreeSet<String>,
}

impl Questions {
    fn of(sets: &[&PolicySet]) -> Self {
        let mut selectors: BTreeSet<Selector> = BTreeSet::new();
        let mut ranges: Vec<Ranges> = Vec::new();
        for set in sets {
            selectors.extend(set.profiles.iter().map(|p| p.select.clone()));
            selectors.extend(set.named_ports.iter().map(|p| p.select.clone()));
            selectors.extend(set.policies.iter().map(|p| p.select.clone()));
            for peer in rules(set).flat_map(|r| &r.peers).flat_map(|p| [Some(p), p.own.as_deref()]).flatten()
            {
                selectors.extend(peer.selector.iter().chain(&peer.not_selector).cloned());
                ranges.extend(peer.ranges.iter().cloned());
            }
        }
        ranges.sort();
        ranges.dedup();
        let keys = selectors.iter().flat_map(|s| s.keys()).map(str::to_owned).collect();
        Self { selectors, ranges, keys }
    }
}

/// The groups that any of the sets tells apart; `view`: the endpoints, and the addresses that are the host's.
pub(super) fn groups(view: &View<'_>, sets: &[&PolicySet]) -> Result<Vec<Group>, TooMany> {
    let engine = view.engine;
    let questions = Questions::of(sets);
    let names = Names::new(engine, &questions);
    let hashed: Vec<HashedSelector> = questions.selectors.iter().map(Selector::hashed).collect();
    // Equal identities are the same allocation as a rule, and thousands of endpoints have equal ones.
    let mut answers: HashMap<*const Identity, Vec<bool>> = HashMap::new();
    let mut found: BTreeMap<(Family, String, Vec<bool>), Group> = BTreeMap::new();
    let locals = engine.locals().flat_map(|e| e.addresses.iter().map(move |a| (*a, e.id.to_string())));
    let remotes = engine.remotes().map(|(p, _)| (p.addr(), p.addr().to_string()));
    let strangers = engine.config().strangers();
    let admitted = engine.config().admitted();
    let listens = !engine.config().listeners.is_empty();
    let world = outside(view, &questions.ranges).into_iter().map(|a| (a, a.to_string()));
    let mut seen = HashSet::new();
    for (addr, example) in locals.chain(remotes).chain(world) {
        if !seen.insert(addr) {
            continue;
        }
        let known = view.known(addr);
        let labels = known.local.map(|(_, labels)| labels);
        // A local endpoint may have another's address by mistake; then both are one.
        let mut bits: Vec<bool> = Vec::with_capacity(questions.selectors.len() + questions.ranges.len() + 5);
        match (labels, known.identity) {
            (Some(labels), _) => bits.extend(questions.selectors.iter().map(|s| s.matches(labels))),
            (None, Some(identity)) => {
                // What tells nothing is selected by nothing.
                let ask = || hashed.iter().map(|s| !identity.is_empty() && s.matches(identity)).collect();
                bits.extend(answers.entry(Arc::as_ptr(identity)).or_insert_with(ask).iter());
            }
            (None, None) => bits.extend(hashed.iter().map(|_| false)),
        }
        bits.extend(questions.ranges.iter().map(|r| r.contains(addr)));
        let unknown = labels.is_some_and(|labels| labels.are_unknown() && engine.config().deny_unknown);
        bits.push(unknown);
        bits.push(known.identity.is_some());
        bits.push(engine.config().pools.iter().any(|p| p.cidr.contains_addr(addr)));
        bits.push(strangers.contains(addr));
        bits.push(listens && admitted.contains(addr));
        let name = match (labels, known.identity) {
            _ if unknown => "labels unknown".to_owned(),
            (Some(labels), _) => names.of_labels(labels),
            (None, Some(identity)) => names.of_hashes(identity.hashes()),
            (None, None) => names.of_outside(addr),
        };
        let family = Family::of(addr);
        let group = found.entry((family, name.clone(), bits)).or_insert_with(|| Group {
            name,
            family,
            samples: Vec::new(),
            local: None,
            elsewhere: None,
            count: 0,
            owned: BTreeMap::new(),
            examples: BTreeSet::new(),
        });
        group.count += 1;
        let owner = known.local.map(|(id, _)| id);
        let sample = if owner.is_some() { &mut group.local } else { &mut group.elsewhere };
        sample.get_or_insert(addr);
        if let Some(id) = owner {
            *group.owned.entry(id.clone()).or_default() += 1;
        }
        if group.samples.len() < 2
            && group.samples.iter().all(|(_, other)| owner.is_none() || other.as_ref() != owner)
        {
            group.samples.push((addr, owner.cloned()));
        }
        if group.examples.len() < EXAMPLES {
            group.examples.insert(example);
        }
    }
    if found.len() > MOST_PARTIES {
        return Err(TooMany::Parties(found.len()));
    }
    Ok(found.into_values().collect())
}

/// Addresses outside of all pools that are not the host's, at least one for each way in which CIDR lists can hold them.
fn outside(view: &View<'_>, ranges: &[Ranges]) -> Vec<IpAddr> {
    let mut candidates: BTreeSet<IpAddr> =
        ["198.51.100.1", "2001:db8:ffff::1"].iter().filter_map(|a| a.parse().ok()).collect();
    for ranges in ranges {
        for (low, high) in ranges.v4() {
            candidates.insert(low.into());
            candidates.extend(high.to_bits().checked_add(1).map(|a| IpAddr::V4(a.into())));
        }
        for (low, high) in ranges.v6() {
            candidates.insert(low.into());
            candidates.extend(high.to_bits().checked_add(1).map(|a| IpAddr::V6(a.into())));
        }
    }
    let mut seen = BTreeSet::new();
    let fresh = |addr: &IpAddr| {
        let inside = view.config().pools.iter().any(|p| p.cidr.contains_addr(*addr)) || (view.host)(*addr);
        let known = view.engine.identity_of(Prefix::host(*addr)).is_some();
        let signature: Vec<bool> = ranges.iter().map(|r| r.contains(*addr)).collect();
        !inside && !known && seen.insert((addr.is_ipv4(), signature))
    };
    // The usual address first, so that it stands for what no list holds.
    let usual: Vec<IpAddr> = candidates.iter().copied().filter(|a| is_usual(*a)).collect();
    usual.into_iter().chain(candidates.into_iter().filter(|a| !is_usual(*a))).filter(fresh).collect()
}

fn is_usual(addr: IpAddr) -> bool {
    addr.to_string().starts_with("198.51.100.") || addr.to_string().starts_with("2001:db8:ffff:")
}

/// How parties are called.
struct Names<'a> {
    questions: &'a Questions,
    /// Labels by their hashes, as far as anything on this host mentions them.
    by_hash: HashMap<LabelHash, String>,
}

impl<'a> Names<'a> {
    fn new(engine: &Engine, questions: &'a Questions) -> Self {
        let mut by_hash = HashMap::new();
        let mut learn = |key: &str, value: &str| {
            by_hash.insert(LabelHash::of_label(key, value), format!("{key}={value}"));
        };
        for selector in &questions.selectors {
            selector.for_values(&mut learn);
        }
        for local in engine.locals() {
            local.labels.iter().filter(|(k, _)| questions.keys.contains(*k)).for_each(|(k, v)| learn(k, v));
        }
        Self { questions, by_hash }
    }

    /// The labels that any policy asks for.
    fn of_labels(&self, labels: &Labels) -> String {
        let asked = labels.iter().filter(|(k, _)| self.questions.keys.contains(*k));
        joined(asked.map(|(k, v)| format!("{k}={v}")).collect())
    }

    /// The same of a remote endpoint: what a value is that nobody here mentions cannot be told.
    fn of_hashes(&self, hashes: &[LabelHash]) -> String {
        let mut parts: Vec<String> = hashes.iter().filter_map(|h| self.by_hash.get(h).cloned()).collect();
        for key in &self.questions.keys {
            let known =
                parts.iter().any(|p| p.strip_prefix(key.as_str()).is_some_and(|r| r.starts_with('=')));
            if !known && hashes.contains(&LabelHash::of_key(key)) {
                parts.push(format!("{key}=?"));
            }
        }
        parts.sort();
        joined(parts)
    }

    fn of_outside(&self, addr: IpAddr) -> String {
        let mut holding: Vec<String> = self
            .questions
            .ranges
            .iter()
            .filter(|r| r.contains(addr) && !r.is_everything_in(Family::of(addr)))
            .map(ToString::to_string)
            .collect();
        holding.sort_by_key(String::len);
        match &holding[..] {
            [] => WORLD.to_owned(),
            lists => format!("{WORLD} in {}", lists.join(" and ")),
        }
    }
}

fn joined(parts: Vec<String>) -> String {
    if parts.is_empty() { "other endpoints".to_owned() } else { parts.join(",") }
}
