//! What the RIB keeps of a peer beside its paths.

use std::{sync::Arc, time::Instant};

use super::{config::PeerParams, limit::MaxPrefixState, output::Rejection};
use crate::bgp::wire::PerFamily;

/// A peer that is up, or down with stale routes left.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) params: Arc<PeerParams>,
    pub(super) up: bool,
    /// Since when; `None` before the first call that tells the time.
    pub(super) up_since: Option<std::time::Instant>,
    /// The update group that it is a member of while it is up.
    pub(super) group: Option<usize>,
    pub(super) families: PerFamily<PeerFamily>,
}

/// One family of a peer.
#[derive(Debug, Default)]
pub(super) struct PeerFamily {
    /// Paths kept.
    pub(super) paths: u32,
    pub(super) counters: Counters,
    /// End-of-RIB has come in this session.
    pub(super) end_of_rib: bool,
    /// It has told all it knows: End-of-RIB, or time enough where that is not promised.
    pub(super) complete: bool,
    /// When stale routes go or change state.
    pub(super) stale: Option<Stale>,
    /// A refresh is being received (RFC 7313).
    pub(super) refreshing: bool,
    /// Rules have rejected something in this session: other rules may want it.
    pub(super) rejected_by_rules: bool,
    /// Something was not kept in this session: it can be had again by a refresh only.
    pub(super) rejected: bool,
    /// Identities were stripped in this session: another mode may want them.
    pub(super) stripped: bool,
    pub(super) limit: MaxPrefixState,
}

/// Stale routes of a family and what comes next for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stale {
    pub(super) until: Instant,
    pub(super) phase: Phase,
}

/// How far graceful restart has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No session yet; then long-lived stale, or gone (RFC 4724 section 4.2).
    Restarting,
    /// No session yet, and long-lived stale (RFC 9494 section 4.2).
    LongLived,
    /// A session again; End-of-RIB is waited for.
    Reconnected,
}

/// What has happened in one family, since the peer was first up.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    pub(super) announced: u64,
    pub(super) withdrawn: u64,
    pub(super) rejected: [u64; Rejection::ALL.len()],
    pub(super) identities_stripped: u64,
}

impl Counters {
    pub(super) fn reject(&mut self, reason: Rejection) {
        self.rejected[reason as usize] += 1;
    }
}

impl PeerFamily {
    /// Forgets what was true of the session before.
    pub(super) fn begin_session(&mut self) {
        self.end_of_rib = false;
        self.complete = false;
        self.refreshing = false;
        self.rejected_by_rules = false;
        self.rejected = false;
        self.stripped = false;
        self.limit = MaxPrefixState::default();
    }
}

impl Peer {
    pub(super) fn new(params: PeerParams) -> Self {
        Self {
            params: Arc::new(params),
            up: true,
            up_since: None,
            group: None,
            families: PerFamily::default(),
        }
    }
}
