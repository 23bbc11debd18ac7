//! What happens to all routes of a peer at once: the end of a session, graceful restart, refreshes, new rules.
//!
//! Each needs a walk over the table. Peers fail together (a switch takes all its sessions along), so operations wait until
//! a result is asked for, and one walk serves them all. It ends as soon as every path concerned has been seen.

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;
use smallvec::SmallVec;

use super::{
    attrs::{AttrId, flag},
    hops::Changed,
    import::Announcement,
    store::{Cause, Effect, Store},
    table::{NodeId, PathId, path_flag},
};
use crate::{
    bgp::{
        PeerId,
        wire::{Community, PerFamily},
    },
    model::Family,
};

/// An operation on every path of a peer in one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// All go.
    Flush,
    /// They become stale; those that are already have had their time (RFC 4724 section 4.2).
    MarkStale,
    /// The stale ones go, as their time is over or nothing is forwarded any more.
    FlushStale,
    /// The stale ones go, as the peer has told all it knows and they were not in it.
    FlushUntold,
    /// The stale ones become long-lived stale, or go (RFC 9494 section 4.2).
    LongLived,
    /// A refresh begins: what is not confirmed until its end will go (RFC 7313 section 4).
    MarkUnconfirmed,
    /// The refresh has ended.
    FlushUnconfirmed,
    /// Import rules have changed.
    Reimport,
}

/// Operations that wait, and next hops whose cost has changed.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    operations: PerFamily<HashMap<PeerId, Operation, FxBuildHasher>>,
    hops: Vec<Changed>,
}

/// How many paths of whom went.
pub(super) type Removed = HashMap<(PeerId, Family), usize, FxBuildHasher>;

/// Sets and what they become as long-lived stale ones.
type LongLived = HashMap<AttrId, AttrId, FxBuildHasher>;

/// What one path is to become.
enum Outcome {
    Keep,
    Remove,
    Replace(AttrId),
}

impl Sweep {
    /// Whether something waits for this peer; it must be done before anything else happens to the peer's routes.
    pub(super) fn concerns(&self, peer: PeerId) -> bool {
        Family::ALL.into_iter().any(|family| self.operations[family].contains_key(&peer))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.hops.is_empty() && Family::ALL.into_iter().all(|family| self.operations[family].is_empty())
    }

    /// Lets an operation wait. The peer must not be waiting for another one in this family.
    pub(super) fn add(&mut self, peer: PeerId, family: Family, operation: Operation) {
        self.operations[family].insert(peer, operation);
    }

    pub(super) fn add_hops(&mut self, mut hops: Vec<Changed>) {
        self.hops.append(&mut hops);
    }

    /// Does what waits. `removed` counts the paths that went, by peer.
    pub(super) fn run(
        &mut self,
        store: &mut Store,
        mut changed: impl FnMut(Family, NodeId, Effect),
    ) -> Removed {
        let mut removed = Removed::default();
        // The one that turned counts, whatever came after.
        let mut hops: HashMap<u32, bool, FxBuildHasher> = HashMap::default();
        for changed in std::mem::take(&mut self.hops) {
            *hops.entry(changed.hop).or_default() |= changed.turned;
        }
        for family in Family::ALL {
            let operations = std::mem::take(&mut self.operations[family]);
            let mut left: u32 = (operations.keys())
                .filter_map(|peer| store.peers.get(peer))
                .map(|peer| peer.families[family].paths)
                .sum();
            if left == 0 && hops.is_empty() {
                continue;
            }
            // Sets are replaced alike wherever they are.
            let mut long_lived = LongLived::default();
            for node in 0..store.tables[family].places() {
                if left == 0 && hops.is_empty() {
                    break;
                }
                // Deciding reorders the list, so it is taken down first.
                let paths: SmallVec<[PathId; 8]> =
                    store.tables[family].paths_of(node).map(|(id, _)| id).collect();
                let (mut cost_changed, mut turned) = (false, false);
                for id in paths {
                    let path = store.tables[family].paths[id];
                    let set = &store.attrs[path.attrs];
                    if let Some(it_turned) = hops.get(&set.hop) {
                        cost_changed = true;
                        turned |= it_turned;
                    }
                    let peer = set.peer;
                    let Some(operation) = operations.get(&peer) else { continue };
                    left = left.saturating_sub(1);
                    let effect = match apply(store, family, node, id, *operation, &mut long_lived) {
                        Outcome::Keep => continue,
                        Outcome::Remove => {
                            *removed.entry((peer, family)).or_default() += 1;
                            let cause = match operation {
                                Operation::Reimport => Cause::Said,
                                Operation::FlushUntold | Operation::FlushUnconfirmed => Cause::Swept,
                                Operation::Flush
                                | Operation::FlushStale
                                | Operation::MarkStale
                                | Operation::MarkUnconfirmed
                                | Operation::LongLived => Cause::Lost,
                            };
                            store.remove(family, node, id, cause)
                        }
                        Outcome::Replace(set) => store.replace(family, node, id, set, None),
                    };
                    changed(family, node, effect);
                }
                if cost_changed {
                    let effect = store.decide(family, node, None, false);
                    // Whether we may offer to forward depends on it.
                    changed(family, node, Effect { any: true, best: effect.best || turned, ..effect });
                }
            }
            for set in long_lived.into_values() {
                store.attrs.release(set);
            }
        }
        removed
    }
}

fn apply(
    store: &mut Store,
    family: Family,
    node: NodeId,
    id: PathId,
    operation: Operation,
    long_lived: &mut LongLived,
) -> Outcome {
    let path = &mut store.tables[family].paths[id];
    let (is_stale, is_unconfirmed) = (path.has(path_flag::STALE), path.has(path_flag::UNCONFIRMED));
    let remove_if = |gone| if gone { Outcome::Remove } else { Outcome::Keep };
    match operation {
        Operation::Flush => Outcome::Remove,
        Operation::MarkStale => {
            path.set(path_flag::STALE, true);
            path.set(path_flag::UNCONFIRMED, false);
            remove_if(is_stale)
        }
        Operation::FlushStale | Operation::FlushUntold => remove_if(is_stale),
        Operation::MarkUnconfirmed => {
            path.set(path_flag::UNCONFIRMED, true);
            Outcome::Keep
        }
        Operation::FlushUnconfirmed => remove_if(is_unconfirmed),
        Operation::LongLived if is_stale => {
            let set = path.attrs;
            make_long_lived(store, set, long_lived)
        }
        Operation::LongLived => Outcome::Keep,
        Operation::Reimport => {
            let set = path.attrs;
            reimport(store, family, node, set)
        }
    }
}

/// RFC 9494 section 4.2: marked with LLGR_STALE, unless NO_LLGR forbids that it be kept.
fn make_long_lived(store: &mut Store, id: AttrId, known: &mut LongLived) -> Outcome {
    let set = &store.attrs[id];
    if set.has(flag::NO_LLGR) {
        return Outcome::Remove;
    }
    if set.has(flag::LLGR_STALE) {
        return Outcome::Keep;
    }
    if let Some(&stale) = known.get(&id) {
        store.attrs.retain(stale);
        return Outcome::Replace(stale);
    }
    let mut attributes = set.attributes();
    attributes.communities.push(Community::LLGR_STALE);
    let from = set.origination();
    store.attrs.hops.retain(from.hop);
    if from.original != 0 {
        store.attrs.retain(from.original);
    }
    let stale = store.attrs.intern(&attributes, from);
    // One reference for the path, one for the table of known ones.
    store.attrs.retain(stale);
    known.insert(id, stale);
    Outcome::Replace(stale)
}

/// Puts a path through the import rules again, as it was before they changed it.
fn reimport(store: &mut Store, family: Family, node: NodeId, id: AttrId) -> Outcome {
    let set = &store.attrs[id];
    let Some(peer) = store.peers.get_mut(&set.peer) else { return Outcome::Keep };
    let original = match set.original {
        0 => set,
        original => &store.attrs[original],
    };
    let (mut attributes, next_hop) = (original.attributes(), store.attrs.hops[original.hop].wire);
    // Long-lived stale it became after it was received, and that no rule ends.
    if set.has(flag::LLGR_STALE) && !attributes.communities.contains(&Community::LLGR_STALE) {
        attributes.communities.push(Community::LLGR_STALE);
    }
    let prefix = store.tables[family].prefix(node);
    let mut again = Announcement::again(&store.config, &peer.params, set.peer, attributes, next_hop);
    let imported = again.import(&mut store.attrs, prefix);
    let outcome = match imported {
        Ok(imported) if imported.set == id => Outcome::Keep,
        Ok(imported) => {
            store.attrs.retain(imported.set);
            Outcome::Replace(imported.set)
        }
        Err(_) => Outcome::Remove,
    };
    again.finish(&mut store.attrs);
    if let Err(reason) = imported {
        let counters = &mut peer.families[family];
        counters.rejected_by_rules = true;
        counters.rejected = true;
        counters.counters.reject(reason);
    }
    outcome
}
