//! The prefixes of one family and the paths of each: the Loc-RIB, and the Adj-RIBs-In threaded through it.
//!
//! A prefix is a node with a fixed number while anything refers to it (a path, a dirty mark, something advertised), so
//! everything else can speak of nodes in one bit or one word. A path is 16 octets. Per route that makes 8 octets of prefix
//! (20 for IPv6), 8 of node, 16 of path and 5 to 10 of hash index.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::{
    attrs::AttrId,
    slab::{NIL, Slab},
};
use crate::model::{Family, Ipv4Prefix, Ipv6Prefix, Prefix};

/// A prefix's number in its table.
pub(super) type NodeId = u32;
/// A path's number in its table. One more is its path identifier on export (RFC 7911): stable while the path lives.
pub(super) type PathId = u32;

/// A prefix: its paths are a list, the best one first if any is usable.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    pub(super) head: PathId,
    pub(super) flags: u32,
}

/// Flags of a node.
pub(super) mod node_flag {
    /// The head of the list is a usable best path.
    pub(in super::super) const HAS_BEST: u32 = 1;
    /// The consumer of best paths has been told of one.
    pub(in super::super) const REPORTED: u32 = 1 << 1;
    /// In the list of nodes without paths.
    pub(in super::super) const EMPTY_LISTED: u32 = 1 << 2;
    /// The place is free.
    pub(in super::super) const FREE: u32 = 1 << 3;
}

/// A path: what one peer says of a prefix.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    /// Its attribute set, which names the peer.
    pub(super) attrs: AttrId,
    /// The path identifier it came with; 0 without add-path.
    pub(super) rx_id: u32,
    /// The next path of the prefix.
    pub(super) next: PathId,
    /// Seconds since the RIB's start in the lower 29 bits, flags above.
    stamp: u32,
}

/// Flags of a path.
pub(super) mod path_flag {
    /// From before the peer's restart (RFC 4724).
    pub(in super::super) const STALE: u32 = 1 << 31;
    /// Not yet confirmed by a refresh in progress (RFC 7313).
    pub(in super::super) const UNCONFIRMED: u32 = 1 << 30;
    /// Used: the best path or one of its multipath.
    pub(in super::super) const SELECTED: u32 = 1 << 29;
    pub(super) const ALL: u32 = STALE | UNCONFIRMED | SELECTED;
}

impl Path {
    pub(super) fn new(attrs: AttrId, rx_id: u32, seconds: u32) -> Self {
        Self { attrs, rx_id, next: NIL, stamp: seconds & !path_flag::ALL }
    }

    pub(super) fn has(self, flag: u32) -> bool {
        self.stamp & flag != 0
    }

    pub(super) fn set(&mut self, flag: u32, on: bool) {
        self.stamp = if on { self.stamp | flag } else { self.stamp & !flag };
    }

    /// When the path came or last changed, in seconds since the RIB's start.
    pub(super) fn seconds(self) -> u32 {
        self.stamp & !path_flag::ALL
    }

    pub(super) fn touch(&mut self, seconds: u32) {
        self.stamp = self.stamp & path_flag::ALL | seconds & !path_flag::ALL;
    }
}

#[derive(Debug)]
enum Keys {
    V4(Slab<Ipv4Prefix>),
    V6(Slab<Ipv6Prefix>),
}

/// The table of one family.
#[derive(Debug)]
pub(super) struct Table {
    keys: Keys,
    nodes: Slab<Node>,
    pub(super) paths: Slab<Path>,
    index: HashTable<NodeId>,
    hasher: DefaultHashBuilder,
    /// Nodes that have lost their last path and may be freed.
    empty: Vec<NodeId>,
    /// They are looked through when there are more than this.
    empty_limit: usize,
}

/// Prefixes without paths that are kept before they are looked through.
const EMPTY: usize = 256;

impl Table {
    pub(super) fn new(family: Family) -> Self {
        Self {
            keys: match family {
                Family::Ipv4 => Keys::V4(Slab::default()),
                Family::Ipv6 => Keys::V6(Slab::default()),
            },
            nodes: Slab::default(),
            paths: Slab::default(),
            index: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            empty: Vec::new(),
            empty_limit: EMPTY,
        }
    }

    fn family(&self) -> Family {
        match self.keys {
            Keys::V4(_) => Family::Ipv4,
            Keys::V6(_) => Family::Ipv6,
        }
    }

    /// How many prefixes have a number; with paths or still referred to.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Every node's number is below.
    pub(super) fn places(&self) -> u32 {
        self.nodes.places()
    }

    /// Every node.
    pub(super) fn ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        (0..self.nodes.places()).filter(|id| self.nodes[*id].flags & node_flag::FREE == 0)
    }

    /// The nodes with a best path among `count` numbers from `start` on.
    pub(super) fn with_best(&self, start: NodeId, count: u32) -> impl Iterator<Item = NodeId> + '_ {
        let end = self.nodes.places().min(start.saturating_add(count));
        (start..end).filter(|id| self.nodes[*id].flags & node_flag::HAS_BEST != 0)
    }

    pub(super) fn prefix(&self, id: NodeId) -> Prefix {
        match &self.keys {
            Keys::V4(keys) => Prefix::V4(keys[id]),
            Keys::V6(keys) => Prefix::V6(keys[id]),
        }
    }

    pub(super) fn find(&self, prefix: Prefix) -> Option<NodeId> {
        let hash = hash(&self.hasher, prefix);
        match (&self.keys, prefix) {
            (Keys::V4(keys), Prefix::V4(prefix)) => self.index.find(hash, |id| keys[*id] == prefix),
            (Keys::V6(keys), Prefix::V6(prefix)) => self.index.find(hash, |id| keys[*id] == prefix),
            _ => None,
        }
        .copied()
    }

    /// The node of a prefix of this family, made if it is not there.
    pub(super) fn find_or_insert(&mut self, prefix: Prefix) -> NodeId {
        let hash = hash(&self.hasher, prefix);
        let (hasher, index, nodes) = (&self.hasher, &mut self.index, &mut self.nodes);
        let node = Node { head: NIL, flags: 0 };
        match (&mut self.keys, prefix) {
            (Keys::V4(keys), Prefix::V4(key)) => {
                if let Some(id) = index.find(hash, |id| keys[*id] == key) {
                    return *id;
                }
                let id = nodes.insert(node);
                keys.insert(key);
                index.insert_unique(hash, id, |id| hash_of(hasher, keys[*id]));
                id
            }
            (Keys::V6(keys), Prefix::V6(key)) => {
                if let Some(id) = index.find(hash, |id| keys[*id] == key) {
                    return *id;
                }
                let id = nodes.insert(node);
                keys.insert(key);
                index.insert_unique(hash, id, |id| hash_of(hasher, keys[*id]));
                id
            }
            _ => unreachable!("callers choose the table by the prefix's family"),
        }
    }

    pub(super) fn node(&self, id: NodeId) -> Node {
        self.nodes[id]
    }

    pub(super) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id]
    }

    /// The best path of a node.
    pub(super) fn best(&self, id: NodeId) -> Option<PathId> {
        let node = self.nodes[id];
        (node.flags & node_flag::HAS_BEST != 0).then_some(node.head)
    }

    /// The paths of a node, the best first if there is one.
    pub(super) fn paths_of(&self, id: NodeId) -> impl Iterator<Item = (PathId, Path)> + '_ {
        let mut next = self.nodes[id].head;
        std::iter::from_fn(move || {
            if next == NIL {
                return None;
            }
            let id = next;
            let path = self.paths[id];
            next = path.next;
            Some((id, path))
        })
    }

    /// Puts a new path behind the first one of a node.
    pub(super) fn add_path(&mut self, node: NodeId, mut path: Path) -> PathId {
        let head = self.nodes[node].head;
        if head == NIL {
            let id = self.paths.insert(path);
            self.nodes[node].head = id;
            return id;
        }
        path.next = self.paths[head].next;
        let id = self.paths.insert(path);
        self.paths[head].next = id;
        id
    }

    /// Takes a path out of a node's list and frees it. The best path, if it was this one, is gone until the next decision.
    pub(super) fn remove_path(&mut self, node: NodeId, path: PathId) {
        let next = self.paths[path].next;
        if self.nodes[node].head == path {
            self.nodes[node].head = next;
            self.nodes[node].flags &= !node_flag::HAS_BEST;
        } else if let Some(before) = self.before(node, path) {
            self.paths[before].next = next;
        }
        self.paths.release(path);
        let entry = &mut self.nodes[node];
        if entry.head == NIL && entry.flags & node_flag::EMPTY_LISTED == 0 {
            entry.flags |= node_flag::EMPTY_LISTED;
            self.empty.push(node);
        }
    }

    /// Makes a path the first of its node's list.
    pub(super) fn move_to_front(&mut self, node: NodeId, path: PathId) {
        let head = self.nodes[node].head;
        if head == path {
            return;
        }
        if let Some(before) = self.before(node, path) {
            self.paths[before].next = self.paths[path].next;
            self.paths[path].next = head;
            self.nodes[node].head = path;
        }
    }

    fn before(&self, node: NodeId, path: PathId) -> Option<PathId> {
        self.paths_of(node).find(|(_, p)| p.next == path).map(|(id, _)| id)
    }

    /// A node that was made only to say that something is to be withdrawn.
    pub(super) fn list_if_empty(&mut self, node: NodeId) {
        let entry = &mut self.nodes[node];
        if entry.head == NIL && entry.flags & node_flag::EMPTY_LISTED == 0 {
            entry.flags |= node_flag::EMPTY_LISTED;
            self.empty.push(node);
        }
    }

    /// Whether enough nodes have lost their paths that looking through them is worth while.
    pub(super) fn wants_freeing(&self, idle: bool) -> bool {
        self.empty.len() > if idle { 0 } else { self.empty_limit }
    }

    /// Frees nodes without paths unless something else refers to them.
    pub(super) fn free_empty(&mut self, mut in_use: impl FnMut(NodeId) -> bool) {
        let mut kept = Vec::new();
        for id in std::mem::take(&mut self.empty) {
            if self.nodes[id].head != NIL {
                self.nodes[id].flags &= !node_flag::EMPTY_LISTED;
            } else if in_use(id) {
                kept.push(id);
            } else {
                let hash = hash(&self.hasher, self.prefix(id));
                if let Ok(entry) = self.index.find_entry(hash, |other| *other == id) {
                    entry.remove();
                }
                self.nodes[id].flags = node_flag::FREE;
                self.nodes.release(id);
                match &mut self.keys {
                    Keys::V4(keys) => keys.release(id),
                    Keys::V6(keys) => keys.release(id),
                }
            }
        }
        if kept.is_empty() && self.nodes.len() == 0 {
            // Nothing is left: give the memory back.
            *self = Self::new(self.family());
            return;
        }
        // Those that are still in use are not looked at again until as many have come.
        self.empty_limit = (kept.len() * 2).max(EMPTY);
        self.empty = kept;
    }
}

/// Seeded: peers choose what is hashed.
fn hash(hasher: &DefaultHashBuilder, prefix: Prefix) -> u64 {
    match prefix {
        Prefix::V4(prefix) => hash_of(hasher, prefix),
        Prefix::V6(prefix) => hash_of(hasher, prefix),
    }
}

fn hash_of<K: std::hash::Hash>(hasher: &DefaultHashBuilder, key: K) -> u64 {
    hasher.hash_one(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(n: u32) -> Prefix {
        Prefix::host(std::net::Ipv4Addr::from_bits(n).into())
    }

    #[test]
    fn lists_and_places() {
        let mut table = Table::new(Family::Ipv4);
        let node = table.find_or_insert(prefix(1));
        assert_eq!(table.find_or_insert(prefix(1)), node);
        let paths: Vec<_> = (1..=3).map(|n| table.add_path(node, Path::new(n, 0, 0))).collect();
        let order = |table: &Table| table.paths_of(node).map(|(_, p)| p.attrs).collect::<Vec<_>>();
        assert_eq!(order(&table), [1, 3, 2]);
        table.move_to_front(node, paths[1]);
        assert_eq!(order(&table), [2, 1, 3]);
        table.move_to_front(node, paths[2]);
        assert_eq!(order(&table), [3, 2, 1]);
        table.remove_path(node, paths[1]);
        table.remove_path(node, paths[2]);
        assert_eq!(order(&table), [1]);
        table.free_empty(|_| false);
        assert_eq!(table.find(prefix(1)), Some(node));
        table.remove_path(node, paths[0]);
        table.free_empty(|_| true);
        assert_eq!((table.find(prefix(1)), table.len()), (Some(node), 1));
        table.free_empty(|_| false);
        assert_eq!((table.find(prefix(1)), table.len()), (None, 0));
        let other = table.find_or_insert(prefix(2));
        let path = table.add_path(node, Path::new(1, 0, 0));
        table.remove_path(node, path);
        table.find_or_insert(prefix(3));
        table.free_empty(|_| false);
        assert_eq!(table.find_or_insert(prefix(4)), other, "the place is used again");
        assert_eq!(table.ids().count(), 2);
    }

    #[test]
    fn sizes() {
        assert_eq!((size_of::<Node>(), size_of::<Path>()), (8, 16));
    }
}
