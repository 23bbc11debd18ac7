//! What the RIB hands out: best-path changes and events.

use std::{sync::Arc, time::Instant};

use serde::Serialize;

use crate::{
    bgp::PeerId,
    model::{Family, Identity, NextHopSet, Prefix},
};

/// The best path of one prefix is now this. Changes are coalesced: only the latest state of a prefix comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BestChange {
    /// The prefix.
    pub prefix: Prefix,
    /// Its best path, or nothing when it is gone.
    pub best: Option<Best>,
    /// What is known of the endpoint behind a prefix without best path.
    pub told: Option<Told>,
}

/// What a neighbour told of an endpoint that no usable route leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The endpoint's identity.
    pub identity: Arc<Identity>,
    /// When the session was lost that it came by; `None` while a neighbour tells it of a next hop that cannot be reached.
    pub lost: Option<Instant>,
}

/// The best path of a prefix, with the paths used beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Best {
    /// Where to send: empty for a prefix of ours without explicit next hop. Equal sets are the same allocation.
    pub next_hops: Arc<NextHopSet>,
    /// The endpoint's identity, if the route carries one that is believed. Equal identities are the same allocation.
    pub identity: Option<Arc<Identity>>,
    /// The attachment number of the endpoint (see `bgp::identity`), if the route carries one that is believed.
    pub sequence: Option<u32>,
    /// The peer the best path came from; `None` for ours.
    pub from: Option<PeerId>,
    /// Originated by this host.
    pub local: bool,
    /// Kept through a restart of the peer (RFC 4724, RFC 9494), not confirmed since.
    pub stale: bool,
}

/// Something that the speaker must act upon or tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RibEvent {
    /// A peer sent more prefixes than allowed: end the session with Cease/1 (RFC 4486). Further prefixes of it are
    /// dropped until then.
    MaxPrefixExceeded {
        /// The peer.
        peer: PeerId,
        /// In this family.
        family: Family,
        /// The limit.
        limit: u32,
    },
    /// A peer reached the warning share of its limit, or exceeds a limit that only warns.
    MaxPrefixWarning {
        /// The peer.
        peer: PeerId,
        /// In this family.
        family: Family,
        /// Prefixes kept now.
        count: u32,
        /// The limit.
        limit: u32,
    },
    /// Import rules changed and routes that were rejected before may be wanted now: ask the peer for a refresh.
    RefreshNeeded {
        /// The peer.
        peer: PeerId,
        /// Of this family.
        family: Family,
    },
    /// The peer has sent End-of-RIB.
    EndOfRib {
        /// The peer.
        peer: PeerId,
        /// In this family.
        family: Family,
    },
    /// Stale routes of a peer are gone because no End-of-RIB (or no session) came in time.
    StaleExpired {
        /// The peer.
        peer: PeerId,
        /// In this family.
        family: Family,
        /// How many paths went.
        paths: usize,
    },
    /// Every peer that was to be waited for after our restart has sent its routes, or the time is over: what is
    /// not known now is not coming, and left-over kernel routes can go.
    Converged,
}

/// Why a received prefix was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    /// Our AS is in the AS_PATH more often than `allowas_in` permits (RFC 4271 section 9.1.2).
    AsLoop,
    /// The AS_PATH does not begin with the peer's AS (RFC 4271 section 6.3).
    FirstAs,
    /// ORIGINATOR_ID is ours (RFC 4456 section 8).
    OriginatorLoop,
    /// Our cluster is in CLUSTER_LIST (RFC 4456 section 8).
    ClusterLoop,
    /// The next hop is one of our own addresses, or not a usable unicast address (RFC 4271 section 5.1.3).
    NextHop,
    /// The prefix is one that is never routed (loopback, link-local, multicast).
    Martian,
    /// A route leak by RFC 9234 section 5.
    RouteLeak,
    /// An import rule.
    Policy,
    /// Over the prefix limit.
    MaxPrefix,
    /// The family was not negotiated.
    Family,
    /// Announced with an error for which RFC 7606 withdraws it.
    Malformed,
}

impl Rejection {
    /// Every reason, in the order of the variants.
    pub const ALL: [Self; 11] = [
        Self::AsLoop,
        Self::FirstAs,
        Self::OriginatorLoop,
        Self::ClusterLoop,
        Self::NextHop,
        Self::Martian,
        Self::RouteLeak,
        Self::Policy,
        Self::MaxPrefix,
        Self::Family,
        Self::Malformed,
    ];
}
