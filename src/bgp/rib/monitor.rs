//! What those who watch the RIB are told: each change of a path or of a best path once, and the tables as they are.
//!
//! A monitor reads a table with [`Rib::dump`], piece by piece, while changes come out of [`Rib::poll_journal`]. Both show
//! what is true when they are asked for, so in whatever order they are passed on, the last word on a prefix is right.

use bytes::BytesMut;

use super::{
    Rib,
    attrs::{AttrId, AttrSet, LOCAL},
    hops::OURSELVES,
    output::RibEvent,
    store::Store,
    table::{NodeId, Path},
};
use crate::{
    bgp::{
        PeerId,
        wire::{
            EncodeContext, EncodedAttributes, MAX_EXTENDED_MESSAGE, Nlri, PathAttributes, PerFamily,
            WireNextHop, pack_announce, pack_withdraw,
        },
    },
    model::{Family, Prefix},
};

/// Prefixes looked at before a piece of a dump is encoded.
const STEP: u32 = 1024;

/// Whose routes are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum View {
    /// What a peer sent, before our import rules (as far as it is kept: what they rejected is not).
    PrePolicy(PeerId),
    /// The same after them.
    PostPolicy(PeerId),
    /// Best paths.
    LocRib,
    /// What a peer might be sent, before our export rules: the best path of each prefix that may go there.
    OutPre(PeerId),
    /// What a peer is sent.
    OutPost(PeerId),
}

impl View {
    /// The peer that it is about.
    pub const fn peer(self) -> Option<PeerId> {
        match self {
            Self::LocRib => None,
            Self::PrePolicy(peer) | Self::PostPolicy(peer) | Self::OutPre(peer) | Self::OutPost(peer) => {
                Some(peer)
            }
        }
    }
}

/// Something has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A path of a peer that is up.
    Path {
        /// The peer.
        peer: PeerId,
        /// The prefix.
        prefix: Prefix,
        /// The path identifier as received; 0 without add-path.
        path_id: u32,
        /// It went although the peer did not say so: stale, or not confirmed by a refresh.
        swept: bool,
    },
    /// The best path of a prefix.
    Best(Prefix),
    /// What a peer may be sent, or how it looks: all of it counts anew.
    Regrouped(PeerId),
}

/// A route of a dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpedRoute {
    /// The peer; `None` for ours.
    pub peer: Option<PeerId>,
    /// The path identifier as received.
    pub path_id: u32,
    /// Seconds since it came or last changed.
    pub age: u32,
    /// Its attributes after import rules.
    pub attributes: PathAttributes,
    /// Its next hop; the unspecified address for ours.
    pub next_hop: WireNextHop,
}

impl Rib {
    /// Whether changes are written down for [`Rib::poll_journal`].
    pub fn set_journal(&mut self, on: bool) {
        self.settle();
        if on {
            self.store.journal.get_or_insert_default();
        } else {
            self.store.journal = None;
        }
        self.best.watch(on);
    }

    /// The changes since the last call: of paths in the order in which they happened, then of best paths.
    pub fn poll_journal(&mut self) -> Vec<Change> {
        self.settle();
        let mut changes = self.store.journal.as_mut().map(std::mem::take).unwrap_or_default();
        for family in Family::ALL {
            let table = &self.store.tables[family];
            changes.extend(self.best.take_watched(family).map(|node| Change::Best(table.prefix(node))));
        }
        self.free_nodes();
        changes
    }

    /// Appends the UPDATE that tells what a view has for a prefix now: an announcement, or a withdrawal.
    pub fn tell(&mut self, view: View, prefix: Prefix, path_id: u32, out: &mut BytesMut) {
        self.settle();
        if let View::OutPre(peer) | View::OutPost(peer) = view {
            return self.tell_out(view, peer, prefix, path_id, out);
        }
        let family = prefix.family();
        let ctx = self.view_context(view);
        let table = &self.store.tables[family];
        let path = table.find(prefix).and_then(|node| match view {
            View::LocRib | View::OutPre(_) | View::OutPost(_) => table.best(node).map(|id| table.paths[id]),
            View::PrePolicy(peer) | View::PostPolicy(peer) => {
                self.store.path_of(family, node, peer, path_id).map(|id| table.paths[id])
            }
        });
        let nlri = [Nlri { prefix, path_id }];
        let told = path.is_some_and(|path| {
            let set = self.shown(view, path);
            let attributes = self.encoded(&ctx, view, family, &self.store.attrs[set]);
            pack_announce(&ctx, &attributes, &nlri, out).is_ok()
        });
        if !told {
            pack_withdraw(&ctx, family, &nlri, out);
        }
    }

    /// Appends UPDATEs with the next piece of what a view has in a family, about `budget` octets, and moves the cursor.
    /// True when that was all.
    pub fn dump(
        &mut self,
        view: View,
        family: Family,
        cursor: &mut NodeId,
        budget: usize,
        out: &mut BytesMut,
    ) -> bool {
        self.settle();
        if let View::OutPre(peer) | View::OutPost(peer) = view {
            return self.dump_out(view, peer, family, cursor, budget, false, out);
        }
        let ctx = self.view_context(view);
        let until = out.len() + budget;
        let mut found: Vec<(AttrId, Nlri)> = Vec::new();
        while out.len() < until {
            let table = &self.store.tables[family];
            if *cursor >= table.places() {
                return true;
            }
            let end = table.places().min(*cursor + STEP);
            for node in *cursor..end {
                let nlri = |path: Path, path_id| {
                    (self.shown(view, path), Nlri { prefix: table.prefix(node), path_id })
                };
                match view {
                    View::LocRib | View::OutPre(_) | View::OutPost(_) => {
                        found.extend(table.best(node).map(|id| nlri(table.paths[id], 0)));
                    }
                    View::PrePolicy(peer) | View::PostPolicy(peer) => found.extend(
                        table
                            .paths_of(node)
                            .filter(|(_, path)| self.store.attrs[path.attrs].peer == peer)
                            .map(|(_, path)| nlri(path, path.rx_id)),
                    ),
                }
            }
            *cursor = end;
            found.sort_unstable();
            for run in found.chunk_by(|a, b| a.0 == b.0) {
                let attributes = self.encoded(&ctx, view, family, &self.store.attrs[run[0].0]);
                // What has no room in a message of the peer's has not come in one.
                let _ = pack_announce(&ctx, &attributes, run.iter().map(|(_, nlri)| nlri), out);
            }
            found.clear();
        }
        false
    }

    /// Asks a peer for its routes again where some were not kept.
    pub fn refresh_rejected(&mut self, peer: PeerId) {
        let Some(entry) = self.store.peers.get(&peer).filter(|entry| entry.up) else { return };
        for family in Family::ALL {
            if entry.params.families[family].is_some() && entry.families[family].rejected {
                self.events.push_back(RibEvent::RefreshNeeded { peer, family });
            }
        }
    }

    /// All paths of the next prefixes that have any, at most `most` prefixes. The cursor moves on; `None` at the end.
    pub fn dump_paths(
        &mut self,
        family: Family,
        cursor: &mut NodeId,
        most: usize,
    ) -> Option<Vec<(Prefix, Vec<DumpedRoute>)>> {
        self.settle();
        let seconds = self.last_tick.map_or(0, |now| self.seconds(now));
        let table = &self.store.tables[family];
        if *cursor >= table.places() {
            return None;
        }
        let mut list = Vec::new();
        while *cursor < table.places() && list.len() < most {
            let node = *cursor;
            *cursor += 1;
            let paths: Vec<DumpedRoute> =
                table.paths_of(node).map(|(_, path)| dumped(&self.store, family, path, seconds)).collect();
            if !paths.is_empty() {
                list.push((table.prefix(node), paths));
            }
        }
        Some(list)
    }

    /// What a view shows of a path.
    fn shown(&self, view: View, path: Path) -> AttrId {
        match (view, self.store.attrs[path.attrs].original) {
            (View::PrePolicy(_), original) if original != 0 => original,
            _ => path.attrs,
        }
    }

    fn encoded(&self, ctx: &EncodeContext, view: View, family: Family, set: &AttrSet) -> EncodedAttributes {
        let mut attributes = set.attributes();
        if let View::PrePolicy(peer) = view
            && set.is_external()
        {
            // There is none on an external session; the set has the one in effect.
            attributes.local_pref = None;
            // Nor was the AS number in whose name we hold the session in the path: import has put it there.
            let local_as = self.store.peers.get(&peer).and_then(|peer| peer.params.local_as);
            if let Some(local) = local_as.filter(|local| !local.no_prepend) {
                attributes.as_path.strip_first(local.asn.get());
            }
        }
        EncodedAttributes::new(ctx, &attributes, family, next_hop(&self.store, family, set))
    }

    /// A view is encoded as the peer's own UPDATEs are (RFC 7854 section 4.6); Loc-RIB as RFC 9069 section 5.3 says.
    fn view_context(&self, view: View) -> EncodeContext {
        let peer = view.peer().and_then(|peer| self.store.peers.get(&peer));
        let Some(params) = peer.map(|peer| &peer.params) else {
            return EncodeContext { max_message: MAX_EXTENDED_MESSAGE, ..EncodeContext::default() };
        };
        let mut add_path = PerFamily::both(false);
        for family in Family::ALL {
            add_path[family] = params.families[family].is_some_and(|f| f.add_path_rx);
        }
        // What our rules add must have room too.
        EncodeContext { four_octet: params.four_octet_as, add_path, max_message: MAX_EXTENDED_MESSAGE }
    }
}

fn dumped(store: &Store, family: Family, path: Path, seconds: u32) -> DumpedRoute {
    let set = &store.attrs[path.attrs];
    DumpedRoute {
        peer: (set.peer != LOCAL).then_some(set.peer),
        path_id: path.rx_id,
        age: seconds.saturating_sub(path.seconds()),
        attributes: set.attributes(),
        next_hop: next_hop(store, family, set),
    }
}

fn next_hop(store: &Store, family: Family, set: &AttrSet) -> WireNextHop {
    match (set.hop, family) {
        (OURSELVES, Family::Ipv6) => WireNextHop::V6(std::net::Ipv6Addr::UNSPECIFIED),
        (hop, _) => store.attrs.hops[hop].wire,
    }
}
