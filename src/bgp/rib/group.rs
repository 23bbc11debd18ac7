//! Update groups: one Adj-RIB-Out for all peers that get the same bytes, encoded once and shared.
//!
//! What changes is marked dirty, one bit a prefix. [`Group::flush`] compares the dirty prefixes with what was sent and
//! appends the difference, encoded, to a log that members read at their own pace. A member that is new, wants a refresh or
//! has fallen too far behind reads no log: it catches up from the Adj-RIB-Out itself ([`super::member`]), which needs
//! one bit a prefix and not a copy of every message it has missed.

use std::collections::VecDeque;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use super::{
    attrs::{AttrId, LOCAL},
    bits::Bits,
    config::AddPathSend,
    encode::{self, Announce, Audience, Delta, Piece},
    export::ExportKey,
    filter::{Evaluation, Matched},
    member::{Member, Mode},
    sent::{Paths, Sent},
    store::{Effect, Store},
    table::NodeId,
};
use crate::{
    bgp::{PeerId, wire::PerFamily},
    model::Family,
};

/// Prefixes looked at in one step. Large, since more prefixes with equal attributes then meet in one message.
pub(super) const STEP: usize = 16 << 10;

/// One update group.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) key: ExportKey,
    pub(super) sent: PerFamily<Sent>,
    dirty: PerFamily<Bits>,
    cursor: PerFamily<u32>,
    /// Dirty prefixes that we originate, or did: they go first.
    urgent: PerFamily<Bits>,
    log: VecDeque<Piece>,
    /// The place of the log's first piece in the stream of all pieces.
    log_start: u64,
    log_bytes: usize,
    /// The place behind the last piece with urgent prefixes.
    urgent_end: u64,
    pub(super) members: HashMap<PeerId, Member, FxBuildHasher>,
    delta: Delta,
}

impl Group {
    /// A group that has told nobody anything, with an Adj-RIB-Out that says what it would tell.
    pub(super) fn new(key: ExportKey, store: &mut Store) -> Self {
        let sent = |family| Sent::new(key.add_path(family).is_some());
        let mut group = Self {
            sent: PerFamily { ipv4: sent(Family::Ipv4), ipv6: sent(Family::Ipv6) },
            key,
            dirty: PerFamily::default(),
            cursor: PerFamily::default(),
            urgent: PerFamily::default(),
            log: VecDeque::new(),
            log_start: 0,
            log_bytes: 0,
            urgent_end: 0,
            members: HashMap::default(),
            delta: Delta::default(),
        };
        let families = group.key.families;
        for family in Family::ALL.into_iter().filter(|f| families[*f].is_some()) {
            for start in (0..store.tables[family].places()).step_by(STEP) {
                let nodes: Vec<NodeId> = store.tables[family].with_best(start, STEP as u32).collect();
                group.compare(store, family, &nodes);
                group.delta.clear();
            }
        }
        group
    }

    /// Gives back every reference to attribute sets.
    pub(super) fn dissolve(self, store: &mut Store) {
        for family in Family::ALL {
            for (_, _, set) in self.sent[family].iter() {
                store.attrs.release(set);
            }
        }
    }

    /// Takes note of a change.
    pub(super) fn mark(&mut self, family: Family, node: NodeId, effect: Effect) {
        if self.key.families[family].is_none() || !effect.local && !self.key.sends_learned() {
            return;
        }
        let add_path = self.key.add_path(family).is_some();
        if effect.best || add_path && effect.any {
            self.dirty[family].insert(node);
            if effect.local {
                self.urgent[family].insert(node);
            }
        }
    }

    pub(super) fn is_dirty(&self) -> bool {
        Family::ALL.into_iter().any(|family| !self.dirty[family].is_empty())
    }

    /// Whether a node is needed beyond its paths.
    pub(super) fn refers_to(&self, family: Family, node: NodeId) -> bool {
        self.sent[family].contains(node)
            || self.dirty[family].contains(node)
            || self.members.values().any(|member| member.waits_for(family, node))
    }

    /// Brings a step of dirty prefixes into the Adj-RIB-Out and the log; ours first. False when nothing was dirty.
    pub(super) fn flush(&mut self, store: &mut Store) -> bool {
        let Some(family) = Family::ALL
            .into_iter()
            .find(|f| !self.urgent[*f].is_empty())
            .or_else(|| Family::ALL.into_iter().find(|f| !self.dirty[*f].is_empty()))
        else {
            return false;
        };
        let mut nodes = Vec::new();
        let urgent = !self.urgent[family].is_empty();
        if urgent {
            self.urgent[family].drain(&mut 0, STEP, &mut nodes);
            nodes.retain(|node| self.dirty[family].remove(*node));
        } else {
            self.dirty[family].drain(&mut self.cursor[family], STEP, &mut nodes);
        }
        self.compare(store, family, &nodes);
        let changed: Vec<NodeId> = self.delta_nodes();
        let mut readers = false;
        for member in self.members.values_mut() {
            match &mut member.mode {
                Mode::Reading { .. } => readers = true,
                Mode::Catching(lanes) => lanes[family].add(&changed, urgent),
            }
        }
        if readers {
            for piece in encode::encode(&self.key, store, family, &mut self.delta) {
                self.log_bytes += piece.bytes.len();
                self.log.push_back(piece);
            }
        }
        if urgent {
            self.urgent_end = self.log_end();
        }
        self.delta.clear();
        true
    }

    fn delta_nodes(&self) -> Vec<NodeId> {
        let announced = self.delta.announce.iter().map(|a| a.node);
        announced.chain(self.delta.withdraw.iter().map(|(_, node, _)| *node)).collect()
    }

    /// Brings the Adj-RIB-Out up to date for some nodes; the difference is left in `self.delta`.
    fn compare(&mut self, store: &mut Store, family: Family, nodes: &[NodeId]) {
        let mut selection = Selection { key: &self.key, family, last: None };
        for &node in nodes {
            let before = self.sent[family].paths(node);
            let now = selection.paths(store, node, &mut self.delta.matched);
            let same = |(id, set): &(u32, AttrId)| now.iter().any(|(path, _)| path == &(*id, *set));
            if before.len() == now.len() && before.iter().all(same) {
                continue;
            }
            for (path_id, set) in &before {
                if !now.iter().any(|((id, _), _)| id == path_id) {
                    // The member that the route comes from never had it.
                    let source = store.attrs[*set].peer;
                    self.delta.withdraw.push((self.all_but(source), node, *path_id));
                }
            }
            for ((path_id, set), matched) in &now {
                let old = before.iter().find(|(id, _)| id == path_id).map(|(_, old)| *old);
                if old == Some(*set) {
                    continue;
                }
                let source = store.attrs[*set].peer;
                self.delta.announce.push(Announce {
                    audience: self.all_but(source),
                    set: *set,
                    matched: *matched,
                    node,
                    path_id: *path_id,
                });
                if old.is_some_and(|old| store.attrs[old].peer != source)
                    && self.members.contains_key(&source)
                {
                    self.delta.withdraw.push((Audience::Only(source), node, *path_id));
                }
            }
            let now: Paths = now.into_iter().map(|(path, _)| path).collect();
            for (_, set) in &now {
                store.attrs.retain(*set);
            }
            for (_, set) in &before {
                store.attrs.release(*set);
            }
            self.sent[family].replace(node, &now);
        }
    }

    fn all_but(&self, source: PeerId) -> Audience {
        if source != LOCAL && self.members.contains_key(&source) {
            Audience::Except(source)
        } else {
            Audience::All
        }
    }

    /// What is advertised of some nodes to one member, as a delta to encode.
    pub(super) fn for_member(
        &self,
        store: &Store,
        family: Family,
        member: PeerId,
        node: NodeId,
        delta: &mut Delta,
    ) -> Paths {
        let mut paths = self.sent[family].paths(node);
        paths.retain(|(_, set)| store.attrs[*set].peer != member);
        let mut selection = Selection { key: &self.key, family, last: None };
        for (path_id, set) in &paths {
            let matched = selection.rules(store, *set, node, &mut delta.matched).unwrap_or(0);
            delta.announce.push(Announce {
                audience: Audience::All,
                set: *set,
                matched,
                node,
                path_id: *path_id,
            });
        }
        paths
    }

    pub(super) fn log_end(&self) -> u64 {
        self.log_start + self.log.len() as u64
    }

    pub(super) fn urgent_end(&self) -> u64 {
        self.urgent_end
    }

    /// The pieces from a place of the stream on.
    pub(super) fn log_from(&self, place: u64) -> impl Iterator<Item = &Piece> {
        self.log.iter().skip(place.saturating_sub(self.log_start) as usize)
    }

    pub(super) fn piece(&self, place: u64) -> Option<&Piece> {
        self.log.get(place.checked_sub(self.log_start)? as usize)
    }

    pub(super) fn log_bytes(&self) -> usize {
        self.log_bytes
    }

    /// Drops what every member has read.
    pub(super) fn trim(&mut self) {
        let read = self.members.values().filter_map(Member::place).min().unwrap_or(u64::MAX);
        while self.log_start < read
            && let Some(piece) = self.log.pop_front()
        {
            self.log_bytes -= piece.bytes.len();
            self.log_start += 1;
        }
    }

    /// The member that has read least of the log, if any is behind.
    pub(super) fn slowest(&self) -> Option<PeerId> {
        let places = self.members.iter().filter_map(|(id, member)| Some((member.place()?, *id)));
        places.min().filter(|(place, _)| *place < self.log_end()).map(|(_, id)| id)
    }

    pub(super) fn is_node_dirty(&self, family: Family, node: NodeId) -> bool {
        self.dirty[family].contains(node)
    }
}

/// Which paths of a node go out.
struct Selection<'a> {
    key: &'a ExportKey,
    family: Family,
    /// The last set asked for: neighbours in a table mostly share one.
    last: Option<(AttrId, Option<Evaluation<'a>>)>,
}

type Selected = smallvec::SmallVec<[((u32, AttrId), u32); 2]>;

impl Selection<'_> {
    /// The paths of a node, by identifier, each with its matched rules.
    fn paths(&mut self, store: &Store, node: NodeId, matched: &mut Vec<Matched>) -> Selected {
        let table = &store.tables[self.family];
        let mut selected = Selected::new();
        let Some(best) = table.best(node) else { return selected };
        let Some(send) = self.key.add_path(self.family) else {
            let set = table.paths[best].attrs;
            if let Some(rules) = self.rules(store, set, node, matched) {
                selected.push(((0, set), rules));
            }
            return selected;
        };
        for path in store.ranked(self.family, node) {
            if matches!(send, AddPathSend::Best(most) if selected.len() >= usize::from(most)) {
                break;
            }
            let set = table.paths[path].attrs;
            if let Some(rules) = self.rules(store, set, node, matched) {
                selected.push(((path + 1, set), rules));
            }
        }
        selected.sort_unstable_by_key(|((id, _), _)| *id);
        selected
    }

    /// The rules that change this set for this node, as a place in `matched` plus one; `None` when it may not go out.
    fn rules(&mut self, store: &Store, set: AttrId, node: NodeId, matched: &mut Vec<Matched>) -> Option<u32> {
        if self.last.as_ref().is_none_or(|(last, _)| *last != set) {
            let entry = &store.attrs[set];
            let evaluation = self.key.allows(store, self.family, entry).then(|| {
                if self.key.rules.is_empty() {
                    return Evaluation::none();
                }
                let next_hop = store.attrs.hops[entry.hop].wire.global();
                Evaluation::new(&self.key.rules, &entry.attributes(), Some(next_hop))
            });
            self.last = Some((set, evaluation));
        }
        let (_, Some(evaluation)) = self.last.as_ref()? else { return None };
        if self.key.rules.is_empty() {
            return Some(0);
        }
        let rules = evaluation.verdict(store.tables[self.family].prefix(node))?;
        if rules.is_empty() {
            return Some(0);
        }
        let place = matched.iter().position(|known| *known == rules).unwrap_or_else(|| {
            matched.push(rules);
            matched.len() - 1
        });
        Some(place as u32 + 1)
    }
}
