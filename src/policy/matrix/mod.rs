//! Who may talk to whom, and what a change of policies would allow and cut.
//!
//! Addresses that no policy can tell apart are one party: the same selectors match them and the same CIDR lists hold
//! them. So the answer has the size of what the policies distinguish, however many endpoints there are. The host is a
//! party that connections lead to; what it opens itself is always allowed and not told.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod groups;
mod host;
mod ports;

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
};

use serde::Serialize;

pub use self::host::Here;
use self::{
    groups::{EXAMPLES, Group, MOST_PARTIES, Pair, groups},
    host::{Door, doors},
    ports::{MOST_LOTS, source_ports},
};
use super::{Direction, PolicySet, Rule, explain::View, reach::Services};
use crate::model::Family;

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

/// All rules of a set.
fn rules(set: &PolicySet) -> impl Iterator<Item = &Rule> {
    let of_endpoints =
        set.policies.iter().flat_map(|p| Direction::ALL.iter().filter_map(|d| p.rules(*d)).flatten());
    of_endpoints.chain(set.host_policies.iter().flat_map(|p| &p.ingress))
}

/// Who opens connections to whom, the host behind its doors included.
fn all_pairs<'g>(groups: &'g [Group], doors: &'g [Door], here: &Here) -> impl Iterator<Item = Pair<'g>> {
    groups::pairs(groups).chain(host::pairs(groups, doors, here))
}

impl View<'_> {
    /// Who may talk to whom.
    pub fn matrix(&self, here: &Here) -> Result<Matrix, TooMany> {
        let groups = groups(self, &[self.set])?;
        let doors = doors(&[self.set]);
        let mut parties: BTreeMap<&str, Party> = BTreeMap::new();
        let party = |name: &str| Party { name: name.to_owned(), addresses: 0, examples: Vec::new() };
        for group in &groups {
            let party = parties.entry(&group.name).or_insert_with(|| party(&group.name));
            party.addresses += group.count;
            for example in &group.examples {
                if party.examples.len() < EXAMPLES && !party.examples.contains(example) {
                    party.examples.push(example.clone());
                }
            }
        }
        let usual = (None, self.with_source_port(self.source_port));
        let ports = source_ports(&[self.set])?;
        let others = ports.into_iter().map(|(ports, port)| (Some(ports), self.with_source_port(port)));
        let mut views: Vec<(Option<String>, View<'_>)> = iter::once(usual).chain(others).collect();
        let mut cells: BTreeMap<(Option<String>, &str, &str, Services), BTreeSet<Family>> = BTreeMap::new();
        for pair in all_pairs(&groups, &doors, here) {
            if pair.door.is_some() {
                parties
                    .entry(pair.to)
                    .or_insert_with(|| Party { addresses: here.addresses.len(), ..party(pair.to) });
            }
            let mut usual = None;
            for (ports, view) in &mut views {
                let allowed = view.pair(&pair);
                let usual = usual.get_or_insert_with(|| allowed.clone());
                if ports.is_none() || allowed != *usual {
                    cells
                        .entry((ports.clone(), pair.from, pair.to, allowed))
                        .or_default()
                        .insert(pair.family);
                }
            }
        }
        let (mut all, mut from_source_ports) = (Vec::new(), Vec::new());
        for ((ports, from, to, allowed), families) in cells {
            let families = families.into_iter().collect();
            let cell = Cell { from: from.to_owned(), to: to.to_owned(), families, allowed };
            match ports {
                None => all.push(cell),
                Some(source_ports) => from_source_ports.push(SourceCell { source_ports, cell }),
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

    /// What one party may open towards another.
    fn pair(&mut self, pair: &Pair<'_>) -> Services {
        self.interface.clone_from(&pair.door.and_then(|door| door.interface.clone()));
        self.elsewhere = pair.door.is_some_and(|door| door.outside);
        self.reach(pair.source, pair.destination)
    }

    /// What other policies would allow and cut.
    pub fn diff(&self, new: &PolicySet, here: &Here) -> Result<Vec<Change>, TooMany> {
        let groups = groups(self, &[self.set, new])?;
        let doors = doors(&[self.set, new]);
        let after = View::new(self.engine, new, self.host);
        let both = |port| (self.with_source_port(port), after.with_source_port(port));
        let mut usual_views = both(self.source_port);
        let mut others: Vec<_> =
            source_ports(&[self.set, new])?.into_iter().map(|(p, n)| (p, both(n))).collect();
        let mut changes: BTreeMap<_, Change> = BTreeMap::new();
        for pair in all_pairs(&groups, &doors, here) {
            let changed = |(old, new): &mut (View<'_>, View<'_>)| {
                let (old, new) = (old.pair(&pair), new.pair(&pair));
                (new.minus(&old), old.minus(&new))
            };
            let usual = changed(&mut usual_views);
            let mut found = vec![(None, usual.clone())];
            for (ports, views) in &mut others {
                found.push((Some(ports.clone()), changed(views)));
            }
            for (ports, (allows, cuts)) in found {
                // From other ports only what is not the same as from an ephemeral one.
                let allows = if ports.is_some() { allows.minus(&usual.0) } else { allows };
                let cuts = if ports.is_some() { cuts.minus(&usual.1) } else { cuts };
                if allows.is_empty() && cuts.is_empty() {
                    continue;
                }
                let key = (ports.clone(), pair.from, pair.to, allows.clone(), cuts.clone());
                let change = changes.entry(key).or_insert(Change {
                    from: pair.from.to_owned(),
                    to: pair.to.to_owned(),
                    families: Vec::new(),
                    pairs: 0,
                    allows,
                    cuts,
                    source_ports: ports,
                });
                change.pairs += pair.count;
                if !change.families.contains(&pair.family) {
                    change.families.push(pair.family);
                }
            }
        }
        Ok(changes.into_values().collect())
    }
}
