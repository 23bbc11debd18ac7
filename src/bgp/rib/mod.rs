//! The routing information base: Adj-RIB-In, decision process, Loc-RIB and Adj-RIB-Out.
//!
//! Synchronous, with one owner, no I/O and no clock: [`std::time::Instant`]s are passed in, encoded UPDATEs are pulled
//! out with [`Rib::poll_output`], best-path changes with [`Rib::poll_best`] and events with [`Rib::poll_event`].

mod as_path_pattern;
mod community_match;
mod config;
pub mod filter;
mod output;

use std::{collections::VecDeque, net::IpAddr, time::Instant};

use bytes::Bytes;

pub use as_path_pattern::{AsPathPattern, AsPathPatternError};
pub use community_match::{AnyCommunity, CommunityError, CommunityMatch};
pub use config::*;
pub use output::*;

use super::{PeerId, wire::Update};
use crate::model::{Family, Prefix};

/// The RIB of the speaker.
#[derive(Debug)]
pub struct Rib {
    config: RibConfig,
    events: VecDeque<RibEvent>,
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
        Self { config, events: VecDeque::new() }
    }

    /// Takes a new configuration; what changes by it comes out of the `poll_` methods. Our AS number and router id must
    /// stay: they are fixed in sessions.
    pub fn reconfigure(&mut self, config: RibConfig, now: Instant) {
        let _ = now;
        self.config = config;
    }

    /// A session has reached Established. Its initial dump, End-of-RIB included, comes out of [`Rib::poll_output`].
    pub fn peer_up(&mut self, peer: PeerId, params: PeerParams, now: Instant) {
        let _ = (peer, params, now);
    }

    /// New parameters of an established session that need no new session: rules, modes, limits.
    pub fn peer_changed(&mut self, peer: PeerId, params: PeerParams, now: Instant) {
        let _ = (peer, params, now);
    }

    /// A session is lost. Output not yet pulled is dropped.
    pub fn peer_down(&mut self, peer: PeerId, reason: DownReason, now: Instant) {
        let _ = (peer, reason, now);
    }

    /// A peer is no longer configured: all that is known of it goes, stale routes and counters included.
    pub fn peer_removed(&mut self, peer: PeerId, now: Instant) {
        let _ = (peer, now);
    }

    /// An UPDATE of an established peer.
    pub fn update(&mut self, peer: PeerId, update: Update, now: Instant) {
        let _ = (peer, update, now);
    }

    /// A ROUTE-REFRESH of an established peer.
    pub fn refresh(&mut self, peer: PeerId, family: Family, refresh: Refresh, now: Instant) {
        let _ = (peer, family, refresh, now);
    }

    /// Originates a prefix, or changes what it carries. It goes out before anything learned.
    pub fn originate(&mut self, prefix: Prefix, route: LocalRoute, now: Instant) {
        let _ = (prefix, route, now);
    }

    /// Ends the origination of a prefix; false if there was none.
    pub fn withdraw_local(&mut self, prefix: Prefix, now: Instant) -> bool {
        let _ = (prefix, now);
        false
    }

    /// Whether each established peer's share of [`Rib::poll_output`] with the current state of `prefix` has been pulled.
    pub fn settled(&self, prefix: Prefix) -> bool {
        let _ = prefix;
        true
    }

    /// While draining, everything sent to eBGP peers carries GRACEFUL_SHUTDOWN (RFC 8326), and LOCAL_PREF 0 to iBGP peers.
    pub fn set_draining(&mut self, draining: bool, now: Instant) {
        let _ = (draining, now);
    }

    /// The interior cost to a next hop; `None` makes paths over it ineligible. A next hop never mentioned costs 0.
    pub fn set_next_hop_cost(&mut self, next_hop: IpAddr, cost: Option<u32>) {
        let _ = (next_hop, cost);
    }

    /// At most `max` changed best paths, coalesced. Empty when there are no more.
    pub fn poll_best(&mut self, max: usize) -> Vec<BestChange> {
        let _ = max;
        Vec::new()
    }

    /// The next messages for a peer, whole UPDATEs (and the ROUTE-REFRESH marks of RFC 7313), at most `max_bytes` but at
    /// least one message if there is any. Empty when the peer has everything.
    pub fn poll_output(&mut self, peer: PeerId, max_bytes: usize) -> Vec<Bytes> {
        let _ = (peer, max_bytes);
        Vec::new()
    }

    /// The peers for which [`Rib::poll_output`] would return something.
    pub fn peers_with_output(&mut self) -> Vec<PeerId> {
        Vec::new()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<RibEvent> {
        self.events.pop_front()
    }

    /// When [`Rib::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Lets timers that are due expire.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }
}
