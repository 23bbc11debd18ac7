//! Best-path changes for the FIB and for policy.

use std::cmp::Reverse;

use smallvec::SmallVec;

use super::{
    attrs::AttrId,
    bits::Bits,
    decision,
    output::{Best, BestChange, Told},
    store::Store,
    table::{NodeId, node_flag, path_flag},
};
use crate::{bgp::wire::PerFamily, model::Family};

/// The prefixes whose use has changed since it was last told.
#[derive(Debug, Default)]
pub(super) struct BestQueue {
    dirty: PerFamily<Bits>,
    cursor: PerFamily<u32>,
    /// The same for those who watch, who learn of changes that mean nothing for forwarding too.
    watched: Option<PerFamily<Bits>>,
}

impl BestQueue {
    pub(super) fn mark(&mut self, family: Family, node: NodeId) {
        self.dirty[family].insert(node);
    }

    pub(super) fn contains(&self, family: Family, node: NodeId) -> bool {
        self.dirty[family].contains(node)
            || self.watched.as_ref().is_some_and(|watched| watched[family].contains(node))
    }

    /// Whether [`Self::take_watched`] is to have anything.
    pub(super) fn watch(&mut self, on: bool) {
        if !on {
            self.watched = None;
        } else if self.watched.is_none() {
            self.watched = Some(PerFamily::default());
        }
    }

    pub(super) fn mark_watched(&mut self, family: Family, node: NodeId) {
        if let Some(watched) = &mut self.watched {
            watched[family].insert(node);
        }
    }

    /// The nodes whose best path has changed since the last call.
    pub(super) fn take_watched(&mut self, family: Family) -> impl Iterator<Item = NodeId> + use<> {
        let taken =
            self.watched.as_mut().map(|watched| std::mem::take(&mut watched[family])).unwrap_or_default();
        taken.iter().collect::<Vec<_>>().into_iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        Family::ALL.into_iter().all(|family| self.dirty[family].is_empty())
    }

    /// At most `max` changes; fewer only when there are no more.
    pub(super) fn poll(&mut self, store: &mut Store, max: usize) -> Vec<BestChange> {
        let mut changes = Vec::new();
        let mut nodes = Vec::new();
        for family in Family::ALL {
            while changes.len() < max && !self.dirty[family].is_empty() {
                nodes.clear();
                self.dirty[family].drain(&mut self.cursor[family], max - changes.len(), &mut nodes);
                changes.extend(nodes.iter().filter_map(|node| change(store, family, *node)));
            }
        }
        changes
    }
}

/// The state of a node as a change; nothing when it never came to anything.
fn change(store: &mut Store, family: Family, node: NodeId) -> Option<BestChange> {
    let prefix = store.tables[family].prefix(node);
    let best = best(store, family, node);
    let told = if best.is_none() { told(store, family, node) } else { None };
    let flags = &mut store.tables[family].node_mut(node).flags;
    let reported = *flags & node_flag::REPORTED != 0;
    if best.is_some() || told.is_some() {
        *flags |= node_flag::REPORTED;
    } else {
        *flags &= !node_flag::REPORTED;
    }
    (reported || best.is_some() || told.is_some()).then_some(BestChange { prefix, best, told })
}

/// What is known of the endpoint behind a node without best path: what neighbours tell of next hops that cannot be
/// reached, else what they told before their session was lost.
fn told(store: &mut Store, family: Family, node: NodeId) -> Option<Told> {
    let paths: SmallVec<[AttrId; 8]> =
        store.tables[family].paths_of(node).map(|(_, path)| path.attrs).collect();
    if paths.is_empty() {
        return store.lost.best(store.tables[family].prefix(node)).map(Told::from);
    }
    // The newest attachment; of equal ones that of the lowest peer, so that the answer is always the same.
    let newest = paths.into_iter().min_by_key(|id| {
        let set = &store.attrs[*id];
        (Reverse(set.sequence), set.peer)
    })?;
    store.attrs.identity(newest).map(|identity| Told { identity, lost: None })
}

/// The best path of a node with what is used beside it.
pub(super) fn best(store: &mut Store, family: Family, node: NodeId) -> Option<Best> {
    let table = &store.tables[family];
    let path = table.paths[table.best(node)?];
    let set = &store.attrs[path.attrs];
    let (local, from, sequence) = (set.is_local(), set.peer, set.sequence);
    let mut hops: SmallVec<[u32; 8]> = SmallVec::new();
    let mut bandwidths: SmallVec<[f32; 8]> = SmallVec::new();
    for (_, path) in table.paths_of(node).filter(|(_, path)| path.has(path_flag::SELECTED)) {
        let set = &store.attrs[path.attrs];
        // Two reflectors tell of the same next hop: that is one.
        if !hops.contains(&set.hop) {
            hops.push(set.hop);
            bandwidths.push(set.bandwidth);
        }
    }
    let weighted: SmallVec<[(u32, u16); 8]> = hops.into_iter().zip(decision::weights(&bandwidths)).collect();
    let stale = path.has(path_flag::STALE);
    Some(Best {
        next_hops: store.attrs.hops.set(&weighted),
        identity: store.attrs.identity(path.attrs),
        sequence,
        from: (!local).then_some(from),
        local,
        stale,
    })
}
