//! The routes: every change of a path goes through here, and so does the decision after it.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Instant,
};

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;
use smallvec::SmallVec;

use super::{
    attrs::{AttrId, Attrs, LOCAL},
    config::RibConfig,
    decision::{self, Candidate, Choice, Rules, Step},
    lost::{Lost, Word},
    monitor::Change,
    peer::Peer,
    table::{NodeId, Path, PathId, Table, node_flag, path_flag},
};
use crate::{
    bgp::{PeerId, config::NextHopCheck, wire::PerFamily},
    model::{Family, Prefix},
};

/// Attribute sets, tables and peers.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) config: Arc<RibConfig>,
    pub(super) attrs: Attrs,
    pub(super) tables: PerFamily<Table>,
    pub(super) peers: HashMap<PeerId, Peer, FxBuildHasher>,
    /// Changes of paths for those who watch; `None` when nobody does.
    pub(super) journal: Option<Vec<Change>>,
    /// What lost sessions told.
    pub(super) lost: Lost,
    /// The last time told.
    pub(super) now: Option<Instant>,
}

/// Why a path goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The peer said so, or rules refuse it now.
    Said,
    /// The peer did not speak of it any more.
    Swept,
    /// The session was lost that it came by: nobody said anything.
    Lost,
}

/// What a change of a node's paths means for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// Another best path, or another attribute set of it: what is exported of one path a prefix.
    pub(super) best: bool,
    /// What is used for forwarding: the best path or its multipath.
    pub(super) used: bool,
    /// Some path: what is exported to those who take several.
    pub(super) any: bool,
    /// A path of ours took part.
    pub(super) local: bool,
}

impl Store {
    pub(super) fn new(config: RibConfig) -> Self {
        let mut attrs = Attrs::new(config.identity_domain);
        attrs.hops.ignore_costs(config.next_hop_check == NextHopCheck::Off);
        Self {
            attrs,
            config: Arc::new(config),
            tables: PerFamily { ipv4: Table::new(Family::Ipv4), ipv6: Table::new(Family::Ipv6) },
            peers: HashMap::default(),
            journal: None,
            lost: Lost::default(),
            now: None,
        }
    }

    /// Stores what `peer` says of a prefix; `known` is what it said before. The reference to the set is the store's from
    /// here on.
    #[expect(
        clippy::too_many_arguments,
        reason = "one call in the hottest loop; a struct would only rename them"
    )]
    pub(super) fn announce(
        &mut self,
        family: Family,
        node: NodeId,
        known: Option<PathId>,
        peer: PeerId,
        rx_id: u32,
        set: AttrId,
        seconds: u32,
    ) -> Effect {
        let Some(path) = known else {
            self.note(family, node, peer, rx_id, Cause::Said);
            let path = self.tables[family].add_path(node, Path::new(set, rx_id, seconds));
            self.count(peer, family, 1);
            return self.decide(family, node, Some(path), false);
        };
        let entry = &mut self.tables[family].paths[path];
        entry.set(path_flag::STALE, false);
        entry.set(path_flag::UNCONFIRMED, false);
        if entry.attrs == set {
            self.attrs.release(set);
            // Told again, as the watcher may not know that it was kept through a restart.
            self.note(family, node, peer, rx_id, Cause::Said);
            return Effect::default();
        }
        self.replace(family, node, path, set, Some(seconds))
    }

    /// Gives a path another set, whose reference is handed over.
    pub(super) fn replace(
        &mut self,
        family: Family,
        node: NodeId,
        path: PathId,
        set: AttrId,
        seconds: Option<u32>,
    ) -> Effect {
        let entry = &mut self.tables[family].paths[path];
        let before = std::mem::replace(&mut entry.attrs, set);
        if let Some(seconds) = seconds {
            entry.touch(seconds);
        }
        let (local, peer, rx_id) = (self.attrs[before].is_local(), self.attrs[before].peer, entry.rx_id);
        self.note(family, node, peer, rx_id, Cause::Said);
        let mut effect = self.decide(family, node, Some(path), true);
        effect.local |= local;
        self.attrs.release(before);
        effect
    }

    /// Takes away what `peer` said of a prefix, if it said anything.
    pub(super) fn withdraw(&mut self, peer: PeerId, prefix: Prefix, rx_id: u32) -> Option<(NodeId, Effect)> {
        let family = prefix.family();
        let node = self.tables[family].find(prefix)?;
        let path = self.path_of(family, node, peer, rx_id)?;
        Some((node, self.remove(family, node, path, Cause::Said)))
    }

    /// Writes down that a path has changed, if anybody watches.
    fn note(&mut self, family: Family, node: NodeId, peer: PeerId, path_id: u32, cause: Cause) {
        let Some(journal) = &mut self.journal else { return };
        // What happens to the routes of a peer that is down is no news of it.
        if self.peers.get(&peer).is_some_and(|peer| peer.up) {
            let (prefix, swept) = (self.tables[family].prefix(node), cause != Cause::Said);
            journal.push(Change::Path { peer, prefix, path_id, swept });
        }
    }

    /// Takes a path away.
    pub(super) fn remove(&mut self, family: Family, node: NodeId, path: PathId, cause: Cause) -> Effect {
        let table = &mut self.tables[family];
        let was_best = table.best(node) == Some(path);
        let entry = table.paths[path];
        let (peer, local) = (self.attrs[entry.attrs].peer, self.attrs[entry.attrs].is_local());
        table.remove_path(node, path);
        self.note(family, node, peer, entry.rx_id, cause);
        self.count(peer, family, -1);
        if cause == Cause::Lost {
            self.keep_word(family, node, entry);
        }
        let mut effect = self.decide(family, node, None, false);
        effect.any = true;
        effect.best |= was_best;
        effect.used |= entry.has(path_flag::SELECTED) || self.tables[family].best(node).is_none();
        effect.local |= local;
        self.attrs.release(entry.attrs);
        effect
    }

    /// Keeps what a path told of an endpoint, unless the address is one of ours or the neighbour is not believed.
    fn keep_word(&mut self, family: Family, node: NodeId, path: Path) {
        let prefix = self.tables[family].prefix(node);
        if self.config.identity_hold.is_zero() || !prefix.is_host() {
            return;
        }
        let Some(identity) = self.attrs.identity(path.attrs) else { return };
        let set = &self.attrs[path.attrs];
        let (sequence, peer) = (set.sequence, set.peer);
        let Some(teller) = self.peers.get(&peer).map(|peer| peer.params.name.clone()) else { return };
        let Some(since) = self.now.filter(|_| self.config.may_tell(&teller)) else { return };
        if !self.tables[family].paths_of(node).any(|(_, path)| self.attrs[path.attrs].is_local()) {
            self.lost.keep(prefix, Word { teller, since, sequence, identity });
        }
    }

    pub(super) fn path_of(&self, family: Family, node: NodeId, peer: PeerId, rx_id: u32) -> Option<PathId> {
        let ours = |path: &Path| path.rx_id == rx_id && self.attrs[path.attrs].peer == peer;
        self.tables[family].paths_of(node).find(|(_, path)| ours(path)).map(|(id, _)| id)
    }

    fn count(&mut self, peer: PeerId, family: Family, change: i32) {
        if peer != LOCAL
            && let Some(peer) = self.peers.get_mut(&peer)
        {
            let paths = &mut peer.families[family].paths;
            *paths = paths.saturating_add_signed(change);
        }
    }

    /// Decides on a node after a change of `changed` (`replaced` if it was there before, with another set).
    pub(super) fn decide(
        &mut self,
        family: Family,
        node: NodeId,
        changed: Option<PathId>,
        replaced: bool,
    ) -> Effect {
        let before = self.tables[family].best(node);
        let chosen = self.chosen_paths(family, node);
        let table = &mut self.tables[family];
        let best = chosen.first().copied();
        let mut effect = Effect {
            best: best != before || replaced && best.is_some() && best == changed,
            // What is told of a prefix that cannot be reached is news, too.
            used: best != before || best.is_none() && changed.is_some(),
            any: changed.is_some(),
            local: false,
        };
        match best {
            Some(best) => {
                table.move_to_front(node, best);
                table.node_mut(node).flags |= node_flag::HAS_BEST;
            }
            None => table.node_mut(node).flags &= !node_flag::HAS_BEST,
        }
        let mut next = table.node(node).head;
        while next != super::slab::NIL {
            let path = &mut table.paths[next];
            let (was, is) = (path.has(path_flag::SELECTED), chosen.contains(&next));
            effect.used |= was != is || replaced && (was || is) && changed == Some(next);
            path.set(path_flag::SELECTED, is);
            effect.local |= self.attrs[path.attrs].is_local();
            next = path.next;
        }
        effect
    }

    /// The paths in use of a node: the best first.
    fn chosen_paths(&self, family: Family, node: NodeId) -> SmallVec<[PathId; 8]> {
        let table = &self.tables[family];
        let head = table.node(node).head;
        // Most prefixes have one path.
        if head != super::slab::NIL && table.paths[head].next == super::slab::NIL {
            let hop = self.attrs[table.paths[head].attrs].hop;
            let usable = self.rules().unreachable_last || self.attrs.hops.cost(hop).is_some();
            return usable.then_some(head).into_iter().collect();
        }
        let (candidates, choice) = self.explain(family, node, |_, _| ());
        choice.into_iter().map(|i| candidates[i].path).collect()
    }

    /// The candidates of a node and the choice among them.
    pub(super) fn explain(
        &self,
        family: Family,
        node: NodeId,
        lost: impl FnMut(usize, Step),
    ) -> (SmallVec<[Candidate<'_>; 8]>, Choice) {
        let candidates: SmallVec<[Candidate<'_>; 8]> =
            self.tables[family].paths_of(node).map(|(id, path)| self.candidate(id, path)).collect();
        let choice = decision::choose(self.rules(), &candidates, lost);
        (candidates, choice)
    }

    /// The usable paths of a node, the best first.
    pub(super) fn ranked(&self, family: Family, node: NodeId) -> SmallVec<[PathId; 8]> {
        let rules = Rules { multipath: 1, ..self.rules() };
        let mut left: SmallVec<[Candidate<'_>; 8]> =
            self.tables[family].paths_of(node).map(|(id, path)| self.candidate(id, path)).collect();
        // Where one can be reached, the others are not even second best.
        if left.iter().any(|c| c.cost.is_some()) {
            left.retain(|c| c.cost.is_some());
        }
        let mut ranked = SmallVec::new();
        while let Some(&best) = decision::choose(rules, &left, |_, _| ()).first() {
            ranked.push(left.remove(best).path);
        }
        ranked
    }

    pub(super) fn rules(&self) -> Rules {
        let config = &self.config;
        Rules {
            options: config.decision,
            multipath: config.multipath,
            relax: config.multipath_relax,
            unreachable_last: config.next_hop_check == NextHopCheck::Prefer,
        }
    }

    pub(super) fn candidate(&self, path: PathId, entry: Path) -> Candidate<'_> {
        let set = &self.attrs[entry.attrs];
        let peer_addr = match self.peers.get(&set.peer) {
            Some(peer) => peer.params.peer_addr,
            None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        Candidate {
            path,
            set,
            cost: self.attrs.hops.cost(set.hop),
            seconds: entry.seconds(),
            rx_id: entry.rx_id,
            peer_addr,
        }
    }
}
