//! Graceful restart: of peers (RFC 4724 section 4.2, RFC 9494) and our own (RFC 4724 section 4.1).
//!
//! While a peer is away its routes stay, marked stale, for the time it asked for. If it does not come back they may
//! live on as long-lived stale ones, which anything else is preferred to. When it is back, what it has not announced again
//! by its End-of-RIB goes.

use std::time::{Duration, Instant};

use super::{
    Rib,
    config::{DownReason, GracefulParams, PeerParams},
    output::RibEvent,
    peer::{Peer, Phase, Stale},
    sweep::Operation,
};
use crate::{bgp::PeerId, model::Family};

/// Our own restart: what is still waited for.
#[derive(Debug)]
pub(super) struct Restarting {
    /// The first call told us the time; before that there is none.
    since: Option<Instant>,
    /// Nobody is left whose routes the selection waits for: our End-of-RIB may go out.
    selected: bool,
}

impl Restarting {
    pub(super) fn new() -> Self {
        Self { since: None, selected: false }
    }

    pub(super) fn tick(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }
}

impl Rib {
    /// Decides what becomes of a lost session's routes.
    pub(super) fn lose_session(&mut self, peer: PeerId, reason: DownReason, now: Instant) {
        for family in Family::ALL {
            let Some(entry) = self.store.peers.get_mut(&peer) else { return };
            let graceful = entry.params.families[family].and_then(|f| f.graceful);
            let state = &mut entry.families[family];
            state.end_of_rib = false;
            state.refreshing = false;
            let (operation, stale) = match (reason, graceful) {
                (DownReason::Restarting, Some(graceful)) => (
                    Operation::MarkStale,
                    Some(Stale { until: now + graceful.restart_time, phase: Phase::Restarting }),
                ),
                _ => (Operation::Flush, None),
            };
            state.stale = stale;
            self.sweep.add(peer, family, operation);
        }
    }

    /// Decides what becomes of the routes of the session before, now that there is another: they stay until End-of-RIB
    /// only if the peer has kept its forwarding state (F bit, RFC 4724 section 4.2).
    pub(super) fn regain_session(&mut self, peer: PeerId, params: &PeerParams, now: Instant) {
        for family in Family::ALL {
            let Some(entry) = self.store.peers.get_mut(&peer) else { return };
            let state = &mut entry.families[family];
            let Some(stale) = state.stale else { continue };
            let kept = params.families[family].and_then(|f| f.graceful).filter(|g| g.forwarding_preserved);
            if let Some(GracefulParams { stale_time, .. }) = kept {
                let mut until = now + stale_time;
                // RFC 9494 section 4.2: the long-lived stale timer runs on.
                if stale.phase == Phase::LongLived {
                    until = until.min(stale.until);
                }
                state.stale = Some(Stale { until, phase: Phase::Reconnected });
            } else {
                state.stale = None;
                self.sweep.add(peer, family, Operation::FlushStale);
            }
        }
    }

    /// The peer has sent all it has.
    pub(super) fn end_of_rib(&mut self, peer: PeerId, family: Family) {
        let Some(entry) = self.store.peers.get_mut(&peer) else { return };
        let state = &mut entry.families[family];
        if !std::mem::replace(&mut state.end_of_rib, true) {
            self.events.push_back(RibEvent::EndOfRib { peer, family });
        }
        if state.stale.take().is_some() {
            self.sweep.add(peer, family, Operation::FlushUntold);
        }
        self.complete(peer, family);
    }

    /// Lets stale routes go whose time is over, phase by phase.
    pub(super) fn expire_stale(&mut self, now: Instant) {
        while self.next_stale().is_some_and(|at| at <= now) {
            self.expire_phase(now);
        }
    }

    fn expire_phase(&mut self, now: Instant) {
        let mut due = Vec::new();
        for (peer, entry) in &self.store.peers {
            for family in Family::ALL {
                if let Some(stale) = entry.families[family].stale.filter(|stale| stale.until <= now) {
                    due.push((*peer, family, stale));
                }
            }
        }
        due.sort_unstable_by_key(|(peer, family, _)| (*peer, *family));
        for (peer, family, stale) in due {
            self.settle_peer(peer);
            let Some(entry) = self.store.peers.get_mut(&peer) else { continue };
            let long_lived = entry.params.families[family].and_then(|f| f.graceful?.long_lived);
            entry.families[family].stale = match (stale.phase, long_lived) {
                (Phase::Restarting, Some(time)) if !time.is_zero() => {
                    self.sweep.add(peer, family, Operation::LongLived);
                    Some(Stale { until: stale.until + time, phase: Phase::LongLived })
                }
                _ => {
                    self.sweep.add(peer, family, Operation::FlushStale);
                    self.expired.push((peer, family));
                    None
                }
            };
        }
        self.settle();
    }

    /// The earliest time at which stale routes expire.
    pub(super) fn next_stale(&self) -> Option<Instant> {
        let entries = self.store.peers.values();
        entries.flat_map(|peer| Family::ALL.map(|f| peer.families[f].stale)).flatten().map(|s| s.until).min()
    }

    /// Whether no routes are waited for after our own restart before ours are complete (RFC 4724 section 4.1).
    pub(super) fn has_converged(&self) -> bool {
        self.restarting.as_ref().is_none_or(|restarting| restarting.selected)
    }

    /// Ends the waiting if everybody has sent everything, or time is over.
    ///
    /// A peer that is restarting itself holds up nothing of what we announce, as it waits for our End-of-RIB. But what
    /// the kernel has from before stays until that peer's own has come, too: a router that has just been started says
    /// that it restarts, and its routes may take seconds.
    pub(super) fn check_convergence(&mut self, now: Instant) {
        let Some(restarting) = &mut self.restarting else { return };
        restarting.tick(now);
        let since = restarting.since.unwrap_or(now);
        let Some(restart) = &self.store.config.restart else {
            self.converge();
            return;
        };
        let waited = now.saturating_duration_since(since);
        let up = || self.store.peers.values().filter(|entry| entry.up);
        // A peer that does not come is not waited for.
        let all_here = up().count() >= restart.peers || waited >= restart.connect_wait;
        let over = waited >= restart.deferral;
        let owes = |peer: &Peer| owes_routes(peer, restart.unpromised(), now);
        let selected = over || all_here && !up().any(|peer| !peer.params.restarting && owes(peer));
        let complete = over || all_here && !up().any(owes);
        restarting.selected |= selected;
        if complete {
            self.converge();
        }
    }

    fn converge(&mut self) {
        self.restarting = None;
        self.events.push_back(RibEvent::Converged);
    }

    /// The next time at which waiting may end.
    pub(super) fn next_convergence(&self) -> Option<Instant> {
        let since = self.restarting.as_ref()?.since?;
        let restart = self.store.config.restart.as_ref()?;
        // A connect wait that is over has been seen by `check_convergence`.
        let wakes = [since + restart.gather, since + restart.connect_wait, since + restart.deferral];
        // Of those who promise no End-of-RIB.
        let silent = self.store.peers.values().filter(|peer| peer.up).filter_map(|peer| peer.up_since);
        let wakes = wakes.into_iter().chain(silent.map(|at| at + restart.unpromised()));
        wakes.clone().filter(|at| Some(*at) > self.last_tick).min().or(wakes.max())
    }

    /// Whether best paths are held back, as more may come.
    pub(super) fn is_gathering(&self) -> bool {
        let Some(since) = self.restarting.as_ref().map(|restarting| restarting.since) else { return false };
        let gather = self.store.config.restart.as_ref().map_or(Duration::ZERO, |restart| restart.gather);
        since.is_none_or(|since| self.last_tick.is_none_or(|now| now < since + gather))
    }
}

/// Whether a peer has not sent all it has. One without graceful restart does not promise any End-of-RIB, though some send
/// it: it gets so much time from its session on.
fn owes_routes(peer: &Peer, time: Duration, now: Instant) -> bool {
    let in_time = peer.up_since.is_none_or(|since| now.saturating_duration_since(since) < time);
    Family::ALL.into_iter().any(|family| {
        peer.params.families[family].is_some_and(|f| f.sends_end_of_rib || in_time)
            && !peer.families[family].end_of_rib
    })
}
