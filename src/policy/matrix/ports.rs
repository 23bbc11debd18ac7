//! Which source ports the rules tell apart.

use std::collections::{BTreeMap, BTreeSet};

use super::{TooMany, rules};
use crate::policy::{Flow, PolicySet};

/// More lots of source ports than this are not looked at: each is a matrix of its own.
pub(super) const MOST_LOTS: usize = 64;

/// The source ports that rules of any of the sets tell apart from ephemeral ports and from one another: each lot as text
/// and one port of it. Ports that the same rules take are one lot, in however many ranges they are.
pub(super) fn source_ports(sets: &[&PolicySet]) -> Result<Vec<(String, u16)>, TooMany> {
    let mut lists: BTreeSet<&[(u16, u16)]> = BTreeSet::new();
    for set in sets {
        lists.extend(rules(set).filter_map(|r| r.source_ports.as_deref()));
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
