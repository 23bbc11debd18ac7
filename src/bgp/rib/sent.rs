//! The Adj-RIB-Out of an update group: what its members have been told, by the number of the attribute set.
//!
//! The set as it was received stands for the bytes that were sent: what is exported is a function of it, the prefix and the
//! group's key. Four octets a prefix then suffice, and nothing is sent twice.

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;
use smallvec::SmallVec;

use super::{attrs::AttrId, slab::Sparse, table::NodeId};

/// Advertised paths of one prefix: path identifier (0 without add-path) and set, ascending by identifier.
pub(super) type Paths = SmallVec<[(u32, AttrId); 2]>;

/// The Adj-RIB-Out of one family.
#[derive(Debug)]
pub(super) enum Sent {
    /// One path a prefix.
    One(Sparse),
    /// Several, with add-path (RFC 7911).
    Many(HashMap<NodeId, Paths, FxBuildHasher>),
}

impl Sent {
    pub(super) fn new(add_path: bool) -> Self {
        if add_path { Self::Many(HashMap::default()) } else { Self::One(Sparse::default()) }
    }

    pub(super) fn paths(&self, node: NodeId) -> Paths {
        match self {
            Self::One(sent) => match sent.get(node) {
                0 => Paths::new(),
                set => Paths::from_slice(&[(0, set)]),
            },
            Self::Many(sent) => sent.get(&node).cloned().unwrap_or_default(),
        }
    }

    pub(super) fn contains(&self, node: NodeId) -> bool {
        match self {
            Self::One(sent) => sent.get(node) != 0,
            Self::Many(sent) => sent.contains_key(&node),
        }
    }

    pub(super) fn replace(&mut self, node: NodeId, paths: &Paths) {
        match self {
            Self::One(sent) => {
                sent.set(node, paths.first().map_or(0, |(_, set)| *set));
            }
            Self::Many(sent) if paths.is_empty() => {
                sent.remove(&node);
            }
            Self::Many(sent) => {
                sent.insert(node, paths.clone());
            }
        }
    }

    /// Every advertised path: node, path identifier, set.
    pub(super) fn iter(&self) -> Box<dyn Iterator<Item = (NodeId, u32, AttrId)> + '_> {
        match self {
            Self::One(sent) => Box::new(sent.iter().map(|(node, set)| (node, 0, set))),
            Self::Many(sent) => Box::new(
                sent.iter().flat_map(|(node, paths)| paths.iter().map(move |(id, set)| (*node, *id, *set))),
            ),
        }
    }
}
