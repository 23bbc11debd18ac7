//! Changes of an Adj-RIB-Out to UPDATE messages: withdrawals first, then announcements, packed by attribute set.

use bytes::{Bytes, BytesMut};

use super::{
    attrs::AttrId,
    export::ExportKey,
    filter::{self, Matched},
    store::Store,
    table::NodeId,
};
use crate::{
    bgp::{
        PeerId,
        wire::{EncodedAttributes, Nlri, UpdatePacker},
    },
    model::Family,
};

/// Messages are cut into pieces of about this size: one write to a socket, and one step of pulling.
const PIECE: usize = 16 << 10;

/// Who gets a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Audience {
    /// Only this member: it is where the route now comes from, and what it had is withdrawn.
    Only(PeerId),
    /// Every member but the one where the routes come from.
    Except(PeerId),
    /// Every member.
    All,
}

/// One or more whole messages.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) bytes: Bytes,
    pub(super) messages: u32,
    pub(super) audience: Audience,
}

/// An announcement to encode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Announce {
    pub(super) audience: Audience,
    pub(super) set: AttrId,
    /// Place of the matched rules in [`Delta::matched`], plus one; 0 when no rule changes anything.
    pub(super) matched: u32,
    pub(super) node: NodeId,
    pub(super) path_id: u32,
}

/// What has changed in one family.
#[derive(Debug, Default)]
pub(super) struct Delta {
    pub(super) announce: Vec<Announce>,
    pub(super) withdraw: Vec<(Audience, NodeId, u32)>,
    pub(super) matched: Vec<Matched>,
}

impl Delta {
    pub(super) fn clear(&mut self) {
        self.announce.clear();
        self.withdraw.clear();
        self.matched.clear();
    }
}

/// Encodes a delta. What cannot be announced because its attributes leave no room in a message is withdrawn.
pub(super) fn encode(key: &ExportKey, store: &Store, family: Family, delta: &mut Delta) -> Vec<Piece> {
    let ctx = key.encode_context();
    let table = &store.tables[family];
    let mut pieces = Pieces { out: BytesMut::new(), done: Vec::new(), audience: Audience::All, messages: 0 };
    let mut too_long = Vec::new();

    // Announcements are encoded after the withdrawals, but what does not fit must join those.
    let mut announced =
        Pieces { out: BytesMut::new(), done: Vec::new(), audience: Audience::All, messages: 0 };
    delta.announce.sort_unstable();
    for run in
        delta.announce.chunk_by(|a, b| (a.audience, a.set, a.matched) == (b.audience, b.set, b.matched))
    {
        let first = run[0];
        let set = &store.attrs[first.set];
        // `allows` has seen a next hop; it cannot be gone in between.
        let Some(next_hop) = key.next_hop(&store.attrs, family, set) else { continue };
        let attributes = key.attributes(set, |attributes| {
            if let Some(matched) = first.matched.checked_sub(1).and_then(|i| delta.matched.get(i as usize)) {
                filter::apply(&key.rules, matched, attributes, key.prepended());
            }
        });
        let attributes = EncodedAttributes::new(&ctx, &attributes, family, next_hop);
        announced.begin(first.audience);
        let mut packer = UpdatePacker::announce(&ctx, &attributes, &mut announced.out);
        let fits = run
            .iter()
            .all(|a| packer.push(&Nlri { prefix: table.prefix(a.node), path_id: a.path_id }).is_ok());
        announced.messages += packer.finish() as u32;
        if fits {
            announced.cut();
        } else {
            too_long.extend(run.iter().map(|a| (a.audience, a.node, a.path_id)));
        }
    }
    announced.end();

    delta.withdraw.append(&mut too_long);
    delta.withdraw.sort_unstable();
    for run in delta.withdraw.chunk_by(|a, b| a.0 == b.0) {
        pieces.begin(run[0].0);
        let mut packer = UpdatePacker::withdraw(&ctx, family, &mut pieces.out);
        for (_, node, path_id) in run {
            packer
                .push(&Nlri { prefix: table.prefix(*node), path_id: *path_id })
                .expect("a withdrawal has no attributes that could leave no room");
        }
        pieces.messages += packer.finish() as u32;
        pieces.cut();
    }
    pieces.end();
    pieces.done.append(&mut announced.done);
    pieces.done
}

/// Pieces being filled.
struct Pieces {
    out: BytesMut,
    done: Vec<Piece>,
    audience: Audience,
    messages: u32,
}

impl Pieces {
    fn begin(&mut self, audience: Audience) {
        if self.audience != audience {
            self.end();
            self.audience = audience;
        }
    }

    fn cut(&mut self) {
        if self.out.len() >= PIECE {
            self.end();
        }
    }

    fn end(&mut self) {
        if !self.out.is_empty() {
            let bytes = self.out.split().freeze();
            self.done.push(Piece { bytes, messages: self.messages, audience: self.audience });
        }
        self.messages = 0;
    }
}
