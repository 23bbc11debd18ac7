//! The routing information base: Adj-RIB-In, decision process, Loc-RIB and Adj-RIB-Out.
//!
//! Synchronous, with one owner, no I/O and no clock: [`std::time::Instant`]s are passed in, encoded UPDATEs are pulled
//! out with [`Rib::poll_output`], best-path changes with [`Rib::poll_best`] and events with [`Rib::poll_event`].
//!
//! The way of a route: `receive` (an UPDATE) -> `import` (checks, rules; makes an attribute set of `attrs`) -> `store` and
//! `table` (paths of a prefix) -> `decision` -> marks in `best` and in every update `group` -> on demand `export` and
//! `encode` -> the members' output. `sweep` is what happens to many routes at once, `gr` decides when.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod as_path_pattern;
mod attrs;
mod best;
mod bits;
mod blob;
mod community_match;
mod config;
mod decision;
mod encode;
mod explain;
mod export;
pub mod filter;
mod gr;
mod group;
mod groups;
mod hops;
mod import;
mod limit;
mod local;
mod lost;
mod member;
mod monitor;
mod monitor_out;
mod output;
mod peer;
mod query;
mod receive;
mod sent;
mod slab;
mod stats;
mod store;
mod sweep;
mod table;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, net::IpAddr, sync::Arc, time::Instant};

use bytes::Bytes;

pub use as_path_pattern::{AsPathPattern, AsPathPatternError};
pub use community_match::{AnyCommunity, CommunityError, CommunityMatch};
pub use config::*;
pub use decision::Step;
pub use explain::{ExplainedPath, Explanation, Loss};
pub use monitor::{Change, DumpedRoute, View};
pub use monitor_out::{OutCounts, SentPrefixes};
pub use output::*;
pub use query::{RouteFilter, RouteRow, RouteSource};
pub use stats::{FamilyStats, PeerStats, RibStats};

use self::{
    best::BestQueue, gr::Restarting, groups::Groups, peer::Peer, store::Effect, store::Store,
    sweep::Operation, sweep::Sweep, table::NodeId,
};
use super::{
    PeerId,
    config::{IdentityMode, NextHopCheck},
};
use crate::model::{Family, Prefix};

/// The RIB of the speaker.
#[derive(Debug)]
pub struct Rib {
    store: Store,
    groups: Groups,
    best: BestQueue,
    sweep: Sweep,
    events: VecDeque<RibEvent>,
    restarting: Option<Restarting>,
    draining: bool,
    /// The first time seen; path ages count from here.
    epoch: Option<Instant>,
    last_tick: Option<Instant>,
    /// Stale routes whose time was over, to be reported with how many there were.
    expired: Vec<(PeerId, Family)>,
    /// Who has told all it knows of a family, to be reported behind what it told.
    completed: Vec<(Arc<str>, Family)>,
}

/// What a ROUTE-REFRESH of a peer means (RFC 2918, RFC 7313).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refresh {
    /// Subtype 0: send everything again.
    Request,
    /// Subtype 1 (BoRR): the peer begins to send everything again; what it does not send is stale.
    Begin,
    /// Subtype 2 (EoRR): the end of it.
    End,
}

impl Rib {
    /// An empty RIB.
    pub fn new(config: RibConfig) -> Self {
        Self {
            restarting: config.restart.is_some().then(Restarting::new),
            store: Store::new(config),
            groups: Groups::default(),
            best: BestQueue::default(),
            sweep: Sweep::default(),
            events: VecDeque::new(),
            draining: false,
            epoch: None,
            last_tick: None,
            expired: Vec::new(),
            completed: Vec::new(),
        }
    }

    /// The configuration.
    pub fn config(&self) -> &RibConfig {
        &self.store.config
    }

    /// Takes a new configuration; what changes by it comes out of the `poll_` methods. Sessions that present another AS
    /// number or router id are for the caller to end. `restart` is only for [`Rib::new`].
    pub fn reconfigure(&mut self, config: RibConfig, now: Instant) {
        self.tick(now);
        self.settle();
        let before = Arc::clone(&self.store.config);
        let config = Arc::new(RibConfig { restart: before.restart.clone(), ..config });
        self.store.config = Arc::clone(&config);
        let identity_changed = (before.identity_domain, &before.identity_pools)
            != (config.identity_domain, &config.identity_pools);
        let decision = |c: &RibConfig| (c.decision, c.multipath, c.multipath_relax, c.next_hop_check);
        let decide_again = decision(&before) != decision(&config);
        self.store.attrs.hops.ignore_costs(config.next_hop_check == NextHopCheck::Off);
        // What can be reached decides on what is sent, too.
        let best = before.next_hop_check != config.next_hop_check;
        if identity_changed {
            self.store.attrs.set_domain(config.identity_domain);
        }
        for family in Family::ALL {
            if decide_again || identity_changed {
                let least = Effect { best, used: identity_changed, any: true, ..Effect::default() };
                self.decide_all(family, least);
            }
            // What was stripped before may be believed now, and the other way round.
            if identity_changed
                || config.local_addresses != before.local_addresses
                || config.default_local_pref != before.default_local_pref
                || (config.asn, config.router_id, config.cluster_id)
                    != (before.asn, before.router_id, before.cluster_id)
            {
                self.ask_all_for_refresh(family);
            }
        }
        self.distrust(&config);
        self.lost_reconfigured(&before, now);
        self.regroup_all();
    }

    /// What is left of the sessions of neighbours that are no longer believed loses its identity.
    fn distrust(&mut self, config: &RibConfig) {
        for (peer, entry) in &mut self.store.peers {
            if !entry.up
                && entry.params.identity == IdentityMode::Accept
                && !config.may_tell(&entry.params.name)
            {
                Arc::make_mut(&mut entry.params).identity = IdentityMode::Ignore;
                for family in Family::ALL {
                    self.sweep.add(*peer, family, Operation::Reimport);
                }
            }
        }
    }

    /// A session has reached Established. Its initial dump, End-of-RIB included, comes out of [`Rib::poll_output`].
    pub fn peer_up(&mut self, peer: PeerId, params: PeerParams, now: Instant) {
        self.tick(now);
        if self.store.peers.get(&peer).is_some_and(|entry| entry.up) {
            self.peer_down(peer, DownReason::Flush, now);
        }
        self.settle_peer(peer);
        self.regain_session(peer, &params, now);
        // Before the parameters change: they say which families have stale routes.
        self.settle_peer(peer);
        match self.store.peers.get_mut(&peer) {
            Some(entry) => {
                let before = std::mem::replace(&mut entry.params, Arc::new(params));
                entry.up = true;
                for family in Family::ALL {
                    entry.families[family].begin_session();
                    // What is left of the session before obeys the rules of this one.
                    if (&before.import, before.identity) != (&entry.params.import, entry.params.identity) {
                        self.sweep.add(peer, family, Operation::Reimport);
                    }
                }
            }
            None => {
                self.store.peers.insert(peer, Peer::new(params));
            }
        }
        if let Some(entry) = self.store.peers.get_mut(&peer) {
            entry.up_since = Some(now);
        }
        self.join_group(peer);
        self.check_convergence(now);
    }

    /// New parameters of an established session that need no new session: rules, modes, limits. For routes that are not
    /// kept and may be wanted now, [`RibEvent::RefreshNeeded`] comes out.
    pub fn peer_changed(&mut self, peer: PeerId, params: PeerParams, now: Instant) {
        self.tick(now);
        self.settle_peer(peer);
        let Some(entry) = self.store.peers.get_mut(&peer).filter(|entry| entry.up) else { return };
        let before = std::mem::replace(&mut entry.params, Arc::new(params));
        let checks = |p: &PeerParams| (p.allowas_in, p.enforce_first_as, p.role, p.local_as);
        let checks_changed = checks(&before) != checks(&entry.params);
        let identity_changed = before.identity != entry.params.identity;
        let rules_changed = before.import != entry.params.import;
        let client_changed = before.route_reflector_client != entry.params.route_reflector_client;
        for family in Family::ALL {
            let Some(entry) = self.store.peers.get_mut(&peer) else { return };
            let state = &mut entry.families[family];
            let missing = rules_changed && state.rejected_by_rules || identity_changed && state.stripped;
            if (missing || checks_changed) && entry.params.families[family].is_some() {
                state.rejected_by_rules = false;
                state.stripped = false;
                self.events.push_back(RibEvent::RefreshNeeded { peer, family });
            }
            if rules_changed || identity_changed {
                self.sweep.add(peer, family, Operation::Reimport);
            }
            self.limit_changed(peer, family, &before);
            if client_changed {
                // Who gets the routes of this peer depends on it.
                self.decide_all(family, Effect { best: true, any: true, ..Effect::default() });
            }
        }
        self.regroup(peer);
    }

    /// A session is lost. Output not yet pulled is dropped.
    pub fn peer_down(&mut self, peer: PeerId, reason: DownReason, now: Instant) {
        self.tick(now);
        if !self.store.peers.get(&peer).is_some_and(|entry| entry.up) {
            return;
        }
        self.settle_peer(peer);
        self.leave_group(peer);
        if let Some(entry) = self.store.peers.get_mut(&peer) {
            entry.up = false;
        }
        self.lose_session(peer, reason, now);
        self.check_convergence(now);
    }

    /// A peer that is not up is known to forward nothing: what is kept for its restart goes (RFC 5882 section 4.3.1).
    pub fn forwarding_lost(&mut self, peer: PeerId, now: Instant) {
        self.tick(now);
        self.settle_peer(peer);
        if let Some(entry) = self.store.peers.get_mut(&peer).filter(|entry| !entry.up) {
            for family in Family::ALL {
                if entry.families[family].stale.take().is_some() {
                    self.sweep.add(peer, family, Operation::FlushStale);
                }
            }
        }
    }

    /// A peer is no longer configured: all that is known of it goes, stale routes and counters included.
    pub fn peer_removed(&mut self, peer: PeerId, now: Instant) {
        self.peer_down(peer, DownReason::Flush, now);
        self.settle_peer(peer);
        if self.store.peers.contains_key(&peer) {
            for family in Family::ALL {
                self.sweep.add(peer, family, Operation::Flush);
            }
            self.settle();
            self.store.peers.remove(&peer);
        }
    }

    /// A ROUTE-REFRESH of an established peer.
    pub fn refresh(&mut self, peer: PeerId, family: Family, refresh: Refresh, now: Instant) {
        self.tick(now);
        self.settle_peer(peer);
        let Some(entry) = self.store.peers.get_mut(&peer).filter(|entry| entry.up) else { return };
        if entry.params.families[family].is_none() {
            return;
        }
        match refresh {
            Refresh::Request => self.send_again(peer, family),
            Refresh::Begin => {
                entry.families[family].refreshing = true;
                self.sweep.add(peer, family, Operation::MarkUnconfirmed);
            }
            Refresh::End => {
                if std::mem::take(&mut entry.families[family].refreshing) {
                    self.sweep.add(peer, family, Operation::FlushUnconfirmed);
                }
            }
        }
    }

    /// While draining, everything that is sent carries GRACEFUL_SHUTDOWN (RFC 8326), with LOCAL_PREF 0 to iBGP peers.
    pub fn set_draining(&mut self, draining: bool, now: Instant) {
        self.tick(now);
        if std::mem::replace(&mut self.draining, draining) != draining {
            self.settle();
            self.regroup_all();
        }
    }

    /// The interior cost to a next hop (`ifindex` is 0 unless that is link-local); `None` when no route leads there, which
    /// means what [`RibConfig::next_hop_check`] says. A next hop never mentioned costs 0.
    pub fn set_next_hop_cost(&mut self, next_hop: IpAddr, ifindex: u32, cost: Option<u32>) {
        let changed = self.store.attrs.hops.set_cost(next_hop, ifindex, cost);
        self.sweep.add_hops(changed);
    }

    /// The next hops, with the interface of link-local ones (else 0), that came into use (`true`) or went out of it since
    /// the last call: those whose cost is of interest.
    pub fn poll_next_hops(&mut self) -> Vec<(IpAddr, u32, bool)> {
        self.store.attrs.hops.poll_uses()
    }

    /// At most `max` changed best paths, coalesced. Fewer only when there are no more, or while neighbours are waited for
    /// after a restart of ours ([`Restart::gather`]).
    pub fn poll_best(&mut self, max: usize) -> Vec<BestChange> {
        self.settle();
        if self.is_gathering() {
            return Vec::new();
        }
        let changes = self.best.poll(&mut self.store, max);
        self.free_nodes();
        changes
    }

    /// The next output for a peer: whole messages (UPDATEs, and the ROUTE-REFRESH marks of RFC 7313), one or several in
    /// each piece, at most `max_bytes` in all but at least one piece if there is any. Empty when the peer has everything.
    pub fn poll_output(&mut self, peer: PeerId, max_bytes: usize) -> Vec<Bytes> {
        self.settle();
        let converged = self.has_converged();
        let Some(group) = self.store.peers.get(&peer).and_then(|entry| entry.group) else {
            return Vec::new();
        };
        let pieces = self.groups.pull(&mut self.store, group, peer, max_bytes, converged);
        self.free_nodes();
        pieces
    }

    /// The peers for which [`Rib::poll_output`] may have something; it can turn out to be nothing.
    pub fn peers_with_output(&mut self) -> Vec<PeerId> {
        self.settle();
        self.groups.with_output(self.has_converged())
    }

    /// Whether [`Rib::poll_best`] may have something.
    pub fn has_best_changes(&mut self) -> bool {
        self.settle();
        !self.best.is_empty() && !self.is_gathering()
    }

    /// Whether every established peer has pulled the current state of `prefix`.
    pub fn settled(&mut self, prefix: Prefix) -> bool {
        self.settle();
        let family = prefix.family();
        match self.store.tables[family].find(prefix) {
            Some(node) => self.groups.settled(family, node),
            None => self.groups.all_urgent_pulled(),
        }
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<RibEvent> {
        self.settle();
        self.events.pop_front()
    }

    /// When [`Rib::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let lost = [self.next_lost(), self.next_complete()];
        [self.next_stale(), self.next_convergence()].into_iter().chain(lost).flatten().min()
    }

    /// Lets timers that are due expire.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.tick(now);
        self.settle();
        self.expire_stale(now);
        self.complete_unpromised(now);
        self.expire_lost(now);
        self.check_convergence(now);
    }

    fn tick(&mut self, now: Instant) {
        self.epoch.get_or_insert(now);
        self.last_tick = self.last_tick.max(Some(now));
        // What waits in the sweep happened when it was put there.
        if self.sweep.is_empty() {
            self.store.now = self.last_tick;
        }
        if let Some(restarting) = &mut self.restarting {
            restarting.tick(now);
        }
    }

    /// Seconds since the RIB's start.
    fn seconds(&self, now: Instant) -> u32 {
        let since = self.epoch.map_or(0, |epoch| now.saturating_duration_since(epoch).as_secs());
        since.try_into().unwrap_or(u32::MAX)
    }

    /// Does what waits in the sweep.
    fn settle(&mut self) {
        if self.sweep.is_empty() {
            return;
        }
        let Self { store, groups, best, sweep, .. } = self;
        let removed = sweep.run(store, |family, node, effect| mark(groups, best, family, node, effect));
        self.store.now = self.last_tick;
        for (peer, family) in std::mem::take(&mut self.expired) {
            let paths = removed.get(&(peer, family)).copied().unwrap_or(0);
            self.events.push_back(RibEvent::StaleExpired { peer, family, paths });
        }
    }

    /// Does what waits in the sweep if it concerns the peer.
    fn settle_peer(&mut self, peer: PeerId) {
        if self.sweep.concerns(peer) {
            self.settle();
        }
    }

    fn mark(&mut self, family: Family, node: NodeId, effect: Effect) {
        mark(&mut self.groups, &mut self.best, family, node, effect);
    }

    /// Decides on every prefix again; at least `least` has changed.
    fn decide_all(&mut self, family: Family, least: Effect) {
        let nodes: Vec<NodeId> = self.store.tables[family].ids().collect();
        for node in nodes {
            let mut effect = self.store.decide(family, node, None, false);
            effect.best |= least.best;
            effect.used |= least.used;
            effect.any |= least.any;
            self.mark(family, node, effect);
        }
    }

    fn ask_all_for_refresh(&mut self, family: Family) {
        for (peer, entry) in &self.store.peers {
            if entry.up && entry.params.families[family].is_some() {
                self.events.push_back(RibEvent::RefreshNeeded { peer: *peer, family });
            }
        }
    }

    /// Frees prefixes that nobody needs any more, now and then.
    fn free_nodes(&mut self) {
        if Family::ALL.into_iter().all(|family| !self.store.tables[family].wants_freeing(true)) {
            return;
        }
        // When nothing waits anywhere, all of them can go.
        let idle = self.best.is_empty() && self.groups.are_idle();
        for family in Family::ALL {
            let table = &mut self.store.tables[family];
            if table.wants_freeing(idle) {
                let (groups, best) = (&self.groups, &self.best);
                table.free_empty(|node| best.contains(family, node) || groups.refer_to(family, node));
            }
        }
    }
}

fn mark(groups: &mut Groups, best: &mut BestQueue, family: Family, node: NodeId, effect: Effect) {
    if effect.used {
        best.mark(family, node);
    }
    if effect.used || effect.best {
        best.mark_watched(family, node);
    }
    if effect.best || effect.any {
        groups.mark(family, node, effect);
    }
}
