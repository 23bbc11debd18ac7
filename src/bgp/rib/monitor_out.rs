//! What those who watch the RIB are told of what neighbours are sent (RFC 8671).
//!
//! After export rules it is the Adj-RIB-Out of the peer's update group, and a monitor passes on the messages that the peer
//! gets. Before them it is worked out when it is asked for: the best path of each prefix, where it may go to the peer at all
//! (which only our own routes may, unless `transit` or `route_reflector` says otherwise), with the attributes that it would
//! go with. On a session with add-path it is the best path too, with the path identifier 1.

use bytes::{Bytes, BytesMut};

use super::{
    Rib, View,
    encode::{self, Announce, Audience, Delta},
    group::Group,
    member::for_each_update,
    table::NodeId,
};
use crate::{
    bgp::{
        PeerId,
        wire::{Nlri, pack_withdraw},
    },
    model::{Family, Prefix},
};

/// Prefixes looked at before a piece of a dump is encoded.
const STEP: u32 = 1024;

/// How many routes of a family a peer may be sent and is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutCounts {
    /// The family.
    pub family: Family,
    /// Before export rules.
    pub pre: u64,
    /// After them.
    pub post: u64,
}

/// What is in messages that a peer is sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SentPrefixes {
    /// Prefixes announced and withdrawn, with path identifiers.
    pub prefixes: Vec<(Prefix, u32)>,
    /// Families whose End-of-RIB is among them.
    pub ends: Vec<Family>,
}

impl Rib {
    /// As [`Rib::dump`] does, with withdrawals of what may not go to the peer: for one who has heard otherwise.
    pub fn dump_again(
        &mut self,
        view: View,
        family: Family,
        cursor: &mut NodeId,
        budget: usize,
        out: &mut BytesMut,
    ) -> bool {
        match view {
            View::OutPre(peer) | View::OutPost(peer) => {
                self.dump_out(view, peer, family, cursor, budget, true, out)
            }
            _ => self.dump(view, family, cursor, budget, out),
        }
    }

    /// Figures of what a peer is sent. Costs a walk over the table.
    pub fn out_counts(&mut self, peer: PeerId) -> Option<[OutCounts; 2]> {
        let stats = self.peer_stats(peer).filter(|stats| stats.up)?;
        let group = self.group_of(peer)?;
        Some(Family::ALL.map(|family| {
            let table = &self.store.tables[family];
            let nodes = table.with_best(0, table.places());
            let pre = nodes.filter(|node| self.before_rules(group, peer, family, *node).is_some()).count();
            let post = stats.families.get(&family).map_or(0, |stats| stats.sent);
            OutCounts { family, pre: pre as u64, post: post as u64 }
        }))
    }

    /// What is in messages that came out of [`Rib::poll_output`].
    pub fn sent_prefixes(&self, peer: PeerId, messages: &[Bytes]) -> SentPrefixes {
        let mut sent = SentPrefixes::default();
        let Some(group) = self.group_of(peer) else { return sent };
        let ctx = group.key.decode_context();
        for bytes in messages {
            for_each_update(ctx, bytes, |update| {
                sent.ends.extend(update.end_of_rib());
                sent.prefixes.extend(update.prefixes().map(|nlri| (nlri.prefix, nlri.path_id)));
            });
        }
        sent
    }

    pub(super) fn tell_out(
        &self,
        view: View,
        peer: PeerId,
        prefix: Prefix,
        path_id: u32,
        out: &mut BytesMut,
    ) {
        let family = prefix.family();
        let Some(group) = self.group_of(peer).filter(|group| group.key.families[family].is_some()) else {
            return;
        };
        let path_id = if let View::OutPre(_) = view { only_path(group, family) } else { path_id };
        let mut delta = Delta::default();
        if let Some(node) = self.store.tables[family].find(prefix) {
            self.add_out(view, group, peer, family, node, &mut delta);
            delta.announce.retain(|announce| announce.path_id == path_id);
        }
        let pieces = encode::encode(&group.key, &self.store, family, &mut delta);
        if pieces.is_empty() {
            pack_withdraw(&group.key.encode_context(), family, &[Nlri { prefix, path_id }], out);
        }
        for piece in pieces {
            out.extend_from_slice(&piece.bytes);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "those of `dump`, and two that choose")]
    pub(super) fn dump_out(
        &self,
        view: View,
        peer: PeerId,
        family: Family,
        cursor: &mut NodeId,
        budget: usize,
        again: bool,
        out: &mut BytesMut,
    ) -> bool {
        let Some(group) = self.group_of(peer).filter(|group| group.key.families[family].is_some()) else {
            return true;
        };
        let until = out.len() + budget;
        let places = self.store.tables[family].places();
        while out.len() < until {
            if *cursor >= places {
                return true;
            }
            let end = places.min(*cursor + STEP);
            let mut delta = Delta::default();
            for node in *cursor..end {
                let before = delta.announce.len();
                self.add_out(view, group, peer, family, node, &mut delta);
                let has_path = self.store.tables[family].best(node).is_some();
                if again && has_path && delta.announce.len() == before {
                    delta.withdraw.push((Audience::All, node, only_path(group, family)));
                }
            }
            *cursor = end;
            for piece in encode::encode(&group.key, &self.store, family, &mut delta) {
                out.extend_from_slice(&piece.bytes);
            }
        }
        false
    }

    fn add_out(
        &self,
        view: View,
        group: &Group,
        peer: PeerId,
        family: Family,
        node: NodeId,
        delta: &mut Delta,
    ) {
        if let View::OutPost(_) = view {
            group.for_member(&self.store, family, peer, node, delta);
        } else if let Some(set) = self.before_rules(group, peer, family, node) {
            let path_id = only_path(group, family);
            delta.announce.push(Announce { audience: Audience::All, set, matched: 0, node, path_id });
        }
    }

    /// The attributes of the best path, if it may go to the peer.
    fn before_rules(&self, group: &Group, peer: PeerId, family: Family, node: NodeId) -> Option<u32> {
        let table = &self.store.tables[family];
        let set = table.paths[table.best(node)?].attrs;
        let entry = &self.store.attrs[set];
        (entry.peer != peer && group.key.allows(&self.store, family, entry)).then_some(set)
    }

    fn group_of(&self, peer: PeerId) -> Option<&Group> {
        self.groups.get(self.store.peers.get(&peer)?.group?)
    }
}

/// The path identifier of what is told before rules.
fn only_path(group: &Group, family: Family) -> u32 {
    u32::from(group.key.add_path(family).is_some())
}
