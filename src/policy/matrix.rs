//! Who may talk to whom, and what a change of policies would allow and cut.
//!
//! Addresses that no policy can tell apart are one party: the same selectors match them and the same CIDR lists hold
//! them. So the answer has the size of what the policies distinguish, however many endpoints there are.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use serde::Serialize;

use super::{
    Direction, Flow, PolicySet,
    engine::Engine,
    explain::View,
    ranges::Ranges,
    reach::Services,
    selector::{HashedSelector, Selector},
};
use crate::model::{EndpointId, Family, Identity, LabelHash, Labels, Prefix};

/// More parties than this make a matrix that nobody reads and that takes minutes.
const MOST_PARTIES: usize = 500;

/// More lots of source ports than this, likewise: each is a matrix of its own.
const MOST_LOTS: usize = 64;

/// Why there is no matrix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooMany {
    /// Groups of endpoints.
    #[error(
        "the policies tell {0} groups of endpoints apart, which is too many for a matrix of all of them (at most {MOST_PARTIES})"
    )]
    Parties(usize),
    /// Lots of source ports.
    #[error(
        "the policies tell {0} lots of source ports apart, which is too many for a matrix with all of them (at most {MOST_LOTS})"
    )]
    SourcePorts(usize),
}

/// Addresses that policies do not tell apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Party {
    /// What they have in common, as far as policies ask: labels, or `world` and the CIDR lists.
    pub name: String,
    /// How many addresses of each family.
    pub addresses: usize,
    /// Some of the endpoints of this host among them, or of the addresses.
    pub examples: Vec<String>,
}

/// What one party may open towards another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// Who opens.
    pub from: String,
    /// Where to.
    pub to: String,
    /// The families it holds for.
    pub families: Vec<Family>,
    /// What is allowed.
    pub allowed: Services,
}

/// Who may talk to whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Matrix {
    /// The parties.
    pub parties: Vec<Party>,
    /// One cell for each pair, for connections from an ephemeral port.
    pub cells: Vec<Cell>,
    /// What is different for connections from other ports, if rules ask for those.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from_source_ports: Vec<SourceCell>,
}

/// What one party may open towards another from certain ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceCell {
    /// The ports: `68` or `1-1023, 2000`.
    pub source_ports: String,
    /// The rest.
    #[serde(flatten)]
    pub cell: Cell,
}

/// What a change does to one pair of parties.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Who opens.
    pub from: String,
    /// Where to.
    pub to: String,
    /// The families it holds for.
    pub families: Vec<Family>,
    /// How many pairs of addresses are concerned.
    pub pairs: usize,
    /// What was refused and would be allowed.
    pub allows: Services,
    /// What was allowed and would be cut.
    pub cuts: Services,
    /// The ports that the connections come from, `68` or `1-1023`, where it is not the same as from an ephemeral one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_ports: Option<String>,
}

/// An address, and the endpoint of this host that has it.
type Sample = (IpAddr, Option<EndpointId>);

/// A party of one family, while it is being found.
struct Group {
    name: String,
    family: Family,
    /// Two addresses of different endpoints, if there are two: a party may also talk to itself, an endpoint does without
    /// policies.
    samples: Vec<Sample>,
    count: usize,
    /// How many of the addresses each local endpoint has.
    owned: BTreeMap<EndpointId, usize>,
    examples: BTreeSet<String>,
}

impl View<'_> {
    /// Who may talk to whom.
    pub fn matrix(&self) -> Result<Matrix, TooMany> {
        let groups = groups(self.engine, &[self.set])?;
        let mut parties: BTreeMap<&str, Party> = BTreeMap::new();
        for group in &groups {
            let party = parties.entry(&group.name).or_insert_with(|| Party {
                name: group.name.clone(),
                addresses: 0,
                examples: Vec::new(),
            });
            party.addresses += group.count;
            for example in &group.examples {
                if party.examples.len() < EXAMPLES && !party.examples.contains(example) {
                    party.examples.push(example.clone());
                }
            }
        }
        let views: Vec<(Option<String>, View<'_>)> =
            std::iter::once((None, self.with_source_port(self.source_port)))
                .chain(
                    source_ports(&[self.set])?
                        .into_iter()
                        .map(|(ports, port)| (Some(ports), self.with_source_port(port))),
                )
                .collect();
        let mut cells: BTreeMap<(&Option<String>, &str, &str, Services), BTreeSet<Family>> = BTreeMap::new();
        for (from, to, source, destination, _) in pairs(&groups) {
            let usual = self.reach(source, destination);
            for (ports, view) in &views {
                let allowed = view.reach(source, destination);
                if ports.is_none() || allowed != usual {
                    cells.entry((ports, &from.name, &to.name, allowed)).or_default().insert(from.family);
                }
            }
        }
        let (mut all, mut from_source_ports) = (Vec::new(), Vec::new());
        for ((ports, from, to, allowed), families) in cells {
            let families = families.into_iter().collect();
            let cell = Cell { from: from.to_owned(), to: to.to_owned(), families, allowed };
            match ports {
                None => all.push(cell),
                Some(ports) => from_source_ports.push(SourceCell { source_ports: ports.clone(), cell }),
            }
        }
        Ok(Matrix { parties: parties.into_values().collect(), cells: all, from_source_ports })
    }

    /// The same for connections from another port.
    fn with_source_port(&self, source_port: u16) -> Self {
        let mut view = View::new(self.engine, self.set, self.host);
        view.source_port = source_port;
        view
    }

    /// What other policies would allow and cut.
    pub fn diff(&self, new: &PolicySet) -> Result<Vec<Change>, TooMany> {
        let groups = groups(self.engine, &[self.set, new])?;
        let after = View::new(self.engine, new, self.host);
        let both = |port| (self.with_source_port(port), after.with_source_port(port));
        let others: Vec<_> = source_ports(&[self.set, new])?.into_iter().map(|(p, n)| (p, both(n))).collect();
        let mut changes: BTreeMap<_, Change> = BTreeMap::new();
        for (from, to, source, destination, pairs) in pairs(&groups) {
            let changed = |(old, new): (&View<'_>, &View<'_>)| {
                let (old, new) = (old.reach(source, destination), new.reach(source, destination));
                (new.minus(&old), old.minus(&new))
            };
            let usual = changed((self, &after));
            let mut found = vec![(None, usual.clone())];
            for (ports, (old, new)) in &others {
                found.push((Some(ports.clone()), changed((old, new))));
            }
            for (ports, (allows, cuts)) in found {
                // From other ports only what is not the same as from an ephemeral one.
                let allows = if ports.is_some() { allows.minus(&usual.0) } else { allows };
                let cuts = if ports.is_some() { cuts.minus(&usual.1) } else { cuts };
                if allows.is_empty() && cuts.is_empty() {
                    continue;
                }
                let key = (ports.clone(), &from.name, &to.name, allows.clone(), cuts.clone());
                let change = changes.entry(key).or_insert(Change {
                    from: from.name.clone(),
                    to: to.name.clone(),
                    families: Vec::new(),
                    pairs: 0,
                    allows,
                    cuts,
                    source_ports: ports,
                });
                change.pairs += pairs;
                if !change.families.contains(&from.family) {
                    change.families.push(from.family);
                }
            }
        }
        Ok(changes.into_values().collect())
    }
}

/// The source ports that rules of any of the sets tell apart from ephemeral ports and from one another: each lot as text
/// and one port of it. Ports that the same rules take are one lot, in however many ranges they are.
fn source_ports(sets: &[&PolicySet]) -> Result<Vec<(String, u16)>, TooMany> {
    let mut lists: BTreeSet<&[(u16, u16)]> = BTreeSet::new();
    for policy in sets.iter().flat_map(|set| &set.policies) {
        let rules = Direction::ALL.iter().filter_map(|d| policy.rules(*d)).flatten();
        lists.extend(rules.filter_map(|r| r.source_ports.as_deref()));
    }
    // Who takes the port, changed from each edge to the next.
    let mut edges: BTreeMap<u32, Vec<usize>> = BTreeMap::from([(0, Vec::new())]);
    for (index, list) in lists.iter().enumerate() {
        for (low, high) in *list {
            edges.entry(u32::from(*low)).or_default().push(index);
            edges.entry(u32::from(*high) + 1).or_default().push(index);
        }
    }
    let ends: Vec<u32> = edges.keys().skip(1).copied().chain([u32::from(u16::MAX) + 1]).collect();
    let mut lots: BTreeMap<BTreeSet<usize>, Vec<(u16, u16)>> = BTreeMap::new();
    let mut takers: BTreeSet<usize> = BTreeSet::new();
    for ((low, changes), end) in edges.into_iter().zip(ends) {
        for index in changes {
            if !takers.remove(&index) {
                takers.insert(index);
            }
        }
        if low < end {
            lots.entry(takers.clone()).or_default().push((low as u16, (end - 1) as u16));
        }
    }
    let is_ephemeral =
        |ranges: &[(u16, u16)]| ranges.iter().any(|(low, high)| (*low..=*high).contains(&Flow::EPHEMERAL));
    let mut lots: Vec<_> = lots.into_values().filter(|ranges| !is_ephemeral(ranges)).collect();
    if lots.len() > MOST_LOTS {
        return Err(TooMany::SourcePorts(lots.len()));
    }
    lots.sort();
    let named = lots.into_iter().map(|ranges| {
        let show = |(low, high): &(u16, u16)| {
            if low == high { low.to_string() } else { format!("{low}-{high}") }
        };
        (ranges.iter().map(show).collect::<Vec<_>>().join(", "), ranges[0].0)
    });
    Ok(named.collect())
}

/// How many examples a party shows.
const EXAMPLES: usize = 3;

/// Every ordered pair of groups of a family with an address of each, and how many pairs of addresses it stands for.
fn pairs(groups: &[Group]) -> impl Iterator<Item = (&Group, &Group, IpAddr, IpAddr, usize)> {
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
            Some((from, to, *source, *destination, from.count * to.count - own))
        })
    })
}

impl Group {
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
            for policy in &set.policies {
                selectors.insert(policy.select.clone());
                let rules = Direction::ALL.iter().filter_map(|d| policy.rules(*d)).flatten();
                for peer in rules.flat_map(|r| &r.peers).flat_map(|p| [Some(p), p.own.as_deref()]).flatten() {
                    selectors.extend(peer.selector.iter().chain(&peer.not_selector).cloned());
                    ranges.extend(peer.ranges.iter().cloned());
                }
            }
        }
        ranges.sort();
        ranges.dedup();
        let keys = selectors.iter().flat_map(|s| s.keys()).map(str::to_owned).collect();
        Self { selectors, ranges, keys }
    }
}

fn groups(engine: &Engine, sets: &[&PolicySet]) -> Result<Vec<Group>, TooMany> {
    let questions = Questions::of(sets);
    let names = Names::new(engine, &questions);
    let host = |_: IpAddr| false;
    let view = View::new(engine, sets[0], &host);
    let hashed: Vec<HashedSelector> = questions.selectors.iter().map(Selector::hashed).collect();
    // Equal identities are the same allocation as a rule, and thousands of endpoints have equal ones.
    let mut answers: HashMap<*const Identity, Vec<bool>> = HashMap::new();
    let mut found: BTreeMap<(Family, String, Vec<bool>), Group> = BTreeMap::new();
    let locals = engine.locals().flat_map(|e| e.addresses.iter().map(move |a| (*a, e.id.to_string())));
    let remotes = engine.remotes().map(|(p, _)| (p.addr(), p.addr().to_string()));
    let world = outside(engine, &questions.ranges).into_iter().map(|a| (a, a.to_string()));
    let mut seen = HashSet::new();
    for (addr, example) in locals.chain(remotes).chain(world) {
        if !seen.insert(addr) {
            continue;
        }
        let known = view.known(addr);
        let labels = known.local.map(|(_, labels)| labels);
        // A local endpoint may have another's address by mistake; then both are one.
        let mut bits: Vec<bool> = Vec::with_capacity(questions.selectors.len() + questions.ranges.len() + 3);
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
        bits.push(known.identity.is_some());
        bits.push(engine.config().pools.iter().any(|p| p.cidr.contains_addr(addr)));
        let name = match (labels, known.identity) {
            (Some(labels), _) => names.of_labels(labels),
            (None, Some(identity)) => names.of_hashes(identity.hashes()),
            (None, None) => names.of_outside(addr),
        };
        let family = Family::of(addr);
        let group = found.entry((family, name.clone(), bits)).or_insert_with(|| Group {
            name,
            family,
            samples: Vec::new(),
            count: 0,
            owned: BTreeMap::new(),
            examples: BTreeSet::new(),
        });
        group.count += 1;
        let owner = known.local.map(|(id, _)| id);
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

/// Addresses outside of all pools, at least one for each way in which CIDR lists can hold them.
fn outside(engine: &Engine, ranges: &[Ranges]) -> Vec<IpAddr> {
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
        let inside = engine.config().pools.iter().any(|p| p.cidr.contains_addr(*addr));
        let known = engine.identity_of(Prefix::host(*addr)).is_some();
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
