//! One member of an update group: reading the shared log, or catching up on its own.
//!
//! Catching up is one mechanism for four occasions: the initial dump, a refresh, a change of the member's parameters, and
//! a member that reads too slowly. What may differ from what the member has is one bit a prefix; it is sent from the
//! Adj-RIB-Out as that is now, so whatever happens meanwhile is sent once. Then the member joins the log at its end.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;
use smallvec::SmallVec;

use super::{
    bits::Bits,
    encode::{self, Audience, Delta, Piece},
    group::{Group, STEP},
    store::Store,
    table::NodeId,
};
use crate::{
    bgp::{
        PeerId,
        wire::{self, DecodeContext, Message, PerFamily, RouteRefresh, Update},
    },
    model::Family,
};

/// A member.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) mode: Mode,
    /// Encoded for this member alone; comes before anything else.
    queue: VecDeque<(Bytes, u32)>,
    /// End-of-RIB is still to be sent.
    end_of_rib: PerFamily<bool>,
    /// Messages pulled.
    pub(super) messages: u64,
}

/// Where a member's messages come from.
#[derive(Debug)]
pub(super) enum Mode {
    /// From the shared log; the place of the next piece.
    Reading { place: u64 },
    /// From the Adj-RIB-Out.
    Catching(Box<PerFamily<Lane>>),
}

/// The catching up in one family.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pending: Bits,
    /// Pending prefixes that go first.
    urgent: Bits,
    cursor: u32,
    /// What the member may have; only that needs withdrawing.
    known: HashMap<NodeId, SmallVec<[u32; 2]>, FxBuildHasher>,
    known_bits: Bits,
    /// Everything that was pending at the start has been sent.
    passed: bool,
    /// An EoRR is due when it has (RFC 7313).
    refresh: bool,
}

impl Lane {
    /// The prefixes have changed in the Adj-RIB-Out.
    pub(super) fn add(&mut self, nodes: &[NodeId], urgent: bool) {
        for node in nodes {
            self.pending.insert(*node);
            if urgent {
                self.urgent.insert(*node);
            }
        }
    }

    fn learn(&mut self, add_path: bool, node: NodeId, path_id: u32) {
        if add_path {
            let known = self.known.entry(node).or_default();
            if !known.contains(&path_id) {
                known.push(path_id);
            }
        } else {
            self.known_bits.insert(node);
        }
    }

    fn take_known(&mut self, node: NodeId) -> SmallVec<[u32; 2]> {
        if self.known_bits.remove(node) {
            return SmallVec::from_slice(&[0]);
        }
        self.known.remove(&node).unwrap_or_default()
    }

    fn known_nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.known_bits.iter().chain(self.known.keys().copied())
    }
}

impl Member {
    /// A member to whom nothing was sent yet.
    pub(super) fn new(group: &Group, store: &Store, peer: PeerId) -> Self {
        let mut lanes = Box::<PerFamily<Lane>>::default();
        let mut end_of_rib = PerFamily::both(false);
        for family in Family::ALL {
            want_all(group, store, peer, family, &mut lanes[family]);
            end_of_rib[family] = group.key.families[family].is_some();
        }
        Self { mode: Mode::Catching(lanes), queue: VecDeque::new(), end_of_rib, messages: 0 }
    }

    /// The place of the next piece, if the log is read.
    pub(super) fn place(&self) -> Option<u64> {
        match &self.mode {
            Mode::Reading { place } => Some(*place),
            Mode::Catching(_) => None,
        }
    }

    /// Whether the state of a node is still to be sent from the Adj-RIB-Out.
    pub(super) fn waits_for(&self, family: Family, node: NodeId) -> bool {
        matches!(&self.mode, Mode::Catching(lanes) if lanes[family].pending.contains(node))
    }

    /// Whether there may be something to pull, apart from what is dirty in the group.
    pub(super) fn has_output(&self, log_end: u64) -> bool {
        !self.queue.is_empty()
            || match &self.mode {
                Mode::Reading { place } => *place < log_end,
                Mode::Catching(_) => true,
            }
    }

    /// Whether everything up to a place of the log, and everything of its own, has been pulled.
    pub(super) fn has_pulled(&self, until: u64) -> bool {
        self.queue.is_empty() && self.place().is_none_or(|place| place >= until)
    }

    fn is_due_end_of_rib(&self) -> Option<Family> {
        Family::ALL.into_iter().find(|family| self.end_of_rib[*family])
    }

    pub(super) fn owes_end_of_rib(&self) -> bool {
        self.is_due_end_of_rib().is_some()
    }

    fn push_end_of_rib(&mut self, family: Family) {
        let mut out = BytesMut::new();
        wire::encode_end_of_rib(family, &mut out);
        self.queue.push_back((out.freeze(), 1));
        self.end_of_rib[family] = false;
    }

    fn push_refresh_mark(&mut self, family: Family, subtype: u8) {
        let afi = match family {
            Family::Ipv4 => 1,
            Family::Ipv6 => 2,
        };
        let mut out = BytesMut::new();
        let message = Message::RouteRefresh(RouteRefresh { afi, subtype, safi: 1 });
        wire::encode(&wire::EncodeContext::default(), &message, &mut out)
            .expect("a ROUTE-REFRESH of four octets fits any message");
        self.queue.push_back((out.freeze(), 0));
    }
}

/// Makes everything advertised pending, ours first.
fn want_all(group: &Group, store: &Store, peer: PeerId, family: Family, lane: &mut Lane) {
    for (node, _, set) in group.sent[family].iter() {
        let set = &store.attrs[set];
        if set.peer != peer {
            lane.pending.insert(node);
            if set.is_local() {
                lane.urgent.insert(node);
            }
        }
    }
    lane.cursor = 0;
    lane.passed = false;
}

impl Group {
    /// The next messages for a member. `converged` lets End-of-RIB out (RFC 4724 section 4.1).
    pub(super) fn pull(
        &mut self,
        store: &mut Store,
        peer: PeerId,
        max: usize,
        converged: bool,
    ) -> Vec<Bytes> {
        let converged = converged || !self.key.sends_learned();
        let mut out = Output { messages: Vec::new(), bytes: 0, max };
        while let Some(member) = self.members.get_mut(&peer) {
            if let Some((bytes, count)) = member.queue.pop_front() {
                if !out.fits(&bytes) {
                    member.queue.push_front((bytes, count));
                    break;
                }
                member.messages += u64::from(count);
                out.push(bytes);
                continue;
            }
            if out.bytes >= max {
                break;
            }
            let Mode::Reading { place } = member.mode else {
                if self.flush(store) {
                    self.bound_log(store, peer);
                } else {
                    self.catch_up(store, peer, converged);
                }
                continue;
            };
            if let Some(piece) = self.piece(place) {
                let wanted = piece.is_for(peer);
                if wanted && !out.fits(&piece.bytes) {
                    break;
                }
                let (bytes, count) = (piece.bytes.clone(), piece.messages);
                if let Some(member) = self.members.get_mut(&peer) {
                    member.mode = Mode::Reading { place: place + 1 };
                    if wanted {
                        member.messages += u64::from(count);
                        out.push(bytes);
                    }
                }
                continue;
            }
            self.trim();
            if self.flush(store) {
                self.bound_log(store, peer);
                continue;
            }
            let Some(member) = self.members.get_mut(&peer) else { break };
            match member.is_due_end_of_rib() {
                Some(family) if converged => member.push_end_of_rib(family),
                _ => break,
            }
        }
        self.trim();
        out.messages
    }

    /// Takes members out of the log that keep too much of it from being dropped. `reader` is reading just now.
    fn bound_log(&mut self, store: &mut Store, reader: PeerId) {
        while self.log_bytes() > store.config.group_backlog
            && let Some(slowest) = self.slowest().filter(|slowest| *slowest != reader)
        {
            self.leave_log(store, slowest);
            self.trim();
        }
    }

    /// Lets a member catch up instead of reading the log: what it has not read becomes pending.
    pub(super) fn leave_log(&mut self, store: &mut Store, peer: PeerId) {
        let Some(place) = self.members.get(&peer).and_then(Member::place) else { return };
        let mut lanes = Box::<PerFamily<Lane>>::default();
        let ctx = self.key.decode_context();
        for family in Family::ALL {
            let lane = &mut lanes[family];
            lane.passed = true;
            for (node, path_id, set) in self.sent[family].iter() {
                if store.attrs[set].peer != peer {
                    lane.learn(ctx.add_path[family], node, path_id);
                }
            }
        }
        for piece in self.log_from(place).filter(|piece| piece.is_for(peer)) {
            for_each_update(ctx, &piece.bytes, |update| {
                for nlri in update.prefixes() {
                    let family = nlri.prefix.family();
                    let table = &mut store.tables[family];
                    let node = table.find_or_insert(nlri.prefix);
                    table.list_if_empty(node);
                    lanes[family].pending.insert(node);
                    lanes[family].learn(ctx.add_path[family], node, nlri.path_id);
                }
            });
        }
        if let Some(member) = self.members.get_mut(&peer) {
            member.mode = Mode::Catching(lanes);
        }
    }

    /// Sends everything of a family again (RFC 2918), between marks if the peer knows them (RFC 7313).
    pub(super) fn send_again(&mut self, store: &mut Store, peer: PeerId, family: Family, marks: bool) {
        self.leave_log(store, peer);
        let Some(mut member) = self.members.remove(&peer) else { return };
        if let Mode::Catching(lanes) = &mut member.mode {
            let lane = &mut lanes[family];
            want_all(self, store, peer, family, lane);
            if marks && !std::mem::replace(&mut lane.refresh, true) {
                member.push_refresh_mark(family, 1);
            }
        }
        self.members.insert(peer, member);
    }

    /// Takes over a member of another group: everything that differs there may be wrong here.
    pub(super) fn adopt(&mut self, store: &Store, peer: PeerId, mut member: Member) {
        if let Mode::Catching(lanes) = &mut member.mode {
            for family in Family::ALL {
                let lane = &mut lanes[family];
                let passed = lane.passed;
                want_all(self, store, peer, family, lane);
                lane.passed = passed;
                let known: Vec<NodeId> = lane.known_nodes().collect();
                lane.add(&known, false);
            }
        }
        self.members.insert(peer, member);
    }

    /// Encodes a step of what a member has pending, or ends its catching up.
    fn catch_up(&mut self, store: &mut Store, peer: PeerId, converged: bool) {
        let end = self.log_end();
        let Some(member) = self.members.get_mut(&peer) else { return };
        let Mode::Catching(mut lanes) = std::mem::replace(&mut member.mode, Mode::Reading { place: end })
        else {
            return;
        };
        let first = |wanted: &dyn Fn(&Lane) -> bool| Family::ALL.into_iter().find(|f| wanted(&lanes[*f]));
        let Some(family) = first(&|lane| !lane.urgent.is_empty())
            .or_else(|| first(&|lane| !lane.passed))
            .or_else(|| first(&|lane| !lane.pending.is_empty()))
        else {
            return;
        };
        let lane = &mut lanes[family];
        let mut nodes = Vec::new();
        let mut done = false;
        if lane.urgent.is_empty() {
            done = lane.pending.drain(&mut lane.cursor, STEP, &mut nodes);
        } else {
            lane.urgent.drain(&mut 0, STEP, &mut nodes);
            nodes.retain(|node| lane.pending.remove(*node));
        }
        let mut delta = Delta::default();
        let add_path = self.key.add_path(family).is_some();
        for &node in &nodes {
            let paths = self.for_member(store, family, peer, node, &mut delta);
            for path_id in lane.take_known(node) {
                if !paths.iter().any(|(id, _)| *id == path_id) {
                    delta.withdraw.push((Audience::All, node, path_id));
                }
            }
            for (path_id, _) in paths {
                lane.learn(add_path, node, path_id);
            }
        }
        let pieces = encode::encode(&self.key, store, family, &mut delta);
        let Some(member) = self.members.get_mut(&peer) else { return };
        member.queue.extend(pieces.into_iter().map(|piece| (piece.bytes, piece.messages)));
        if done {
            lane.passed = true;
            if std::mem::take(&mut lane.refresh) {
                member.push_refresh_mark(family, 2);
            }
            if member.end_of_rib[family] && converged {
                member.push_end_of_rib(family);
            }
        }
        member.mode = Mode::Catching(lanes);
    }
}

impl Piece {
    fn is_for(&self, member: PeerId) -> bool {
        match self.audience {
            Audience::All => true,
            Audience::Only(only) => only == member,
            Audience::Except(source) => source != member,
        }
    }
}

/// Messages being collected for one pull.
struct Output {
    messages: Vec<Bytes>,
    bytes: usize,
    max: usize,
}

impl Output {
    fn fits(&self, bytes: &Bytes) -> bool {
        self.messages.is_empty() || self.bytes + bytes.len() <= self.max
    }

    fn push(&mut self, bytes: Bytes) {
        self.bytes += bytes.len();
        self.messages.push(bytes);
    }
}

/// Every UPDATE in messages that we have encoded ourselves.
pub(super) fn for_each_update(ctx: DecodeContext, mut bytes: &[u8], mut each: impl FnMut(&Update)) {
    while let Ok(Some(length)) = wire::frame_length(bytes, true)
        && let Some((message, rest)) = bytes.split_at_checked(length)
    {
        if let Ok((Message::Update(update), _)) = wire::decode(&ctx, message).into_result() {
            each(&update);
        }
        bytes = rest;
    }
}
