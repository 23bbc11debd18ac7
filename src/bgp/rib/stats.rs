//! Counters for people and for metrics.

use std::{collections::BTreeMap, net::IpAddr};

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;
use serde::Serialize;

use super::{
    Rib,
    attrs::LOCAL,
    group::Group,
    output::Rejection,
    peer::{Peer, Phase},
    store::Store,
};
use crate::{
    bgp::{PeerId, wire::PerFamily},
    model::Family,
};

/// The whole RIB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RibStats {
    /// Prefixes with at least one path, or that wait to be withdrawn somewhere.
    pub prefixes: BTreeMap<Family, usize>,
    /// Paths kept, ours included.
    pub paths: BTreeMap<Family, usize>,
    /// Distinct attribute sets.
    pub attribute_sets: usize,
    /// Distinct next hops of received paths.
    pub next_hops: usize,
    /// Those that no route leads to.
    pub next_hops_unreachable: usize,
    /// Update groups: distinct contents of what is sent.
    pub update_groups: usize,
    /// Peers that are up.
    pub peers_up: usize,
    /// Nothing is waited for after our own restart.
    pub converged: bool,
    /// Everything sent asks neighbours to use other ways (RFC 8326).
    pub draining: bool,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerStats {
    /// Its address.
    pub address: IpAddr,
    /// The session is established.
    pub up: bool,
    /// UPDATE messages handed out to it in this session.
    pub updates_sent: u64,
    /// By family; families never negotiated are all zero.
    pub families: BTreeMap<Family, FamilyStats>,
}

/// One family of a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FamilyStats {
    /// Paths kept: those that were accepted.
    pub accepted: u32,
    /// Prefixes announced by the peer since it was first up, repetitions included.
    pub announced: u64,
    /// Prefixes withdrawn by it.
    pub withdrawn: u64,
    /// Announced prefixes that were not accepted, by reason.
    pub rejected: BTreeMap<Rejection, u64>,
    /// Identity communities that were not believed.
    pub identities_stripped: u64,
    /// Paths that the peer is to have of us, as far as changes were looked at.
    pub sent: usize,
    /// There were more than `max_prefixes`, in the last session that there was.
    pub over_limit: bool,
    /// The peer has sent End-of-RIB.
    pub end_of_rib: bool,
    /// Kept from a session before: `restarting`, `long_lived` or `reconnected`.
    pub stale: Option<&'static str>,
}

/// How many paths a group has advertised, in all and by where they come from.
#[derive(Default)]
struct SentCounts {
    total: usize,
    by_source: HashMap<PeerId, usize, FxBuildHasher>,
}

impl Rib {
    /// Figures of the whole RIB.
    pub fn stats(&self) -> RibStats {
        let tables = &self.store.tables;
        let (next_hops, next_hops_unreachable) = self.store.attrs.hops.reachability();
        RibStats {
            next_hops,
            next_hops_unreachable,
            prefixes: Family::ALL.map(|f| (f, tables[f].len())).into(),
            paths: Family::ALL.map(|f| (f, tables[f].paths.len())).into(),
            attribute_sets: self.store.attrs.len(),
            update_groups: self.groups.iter().count(),
            peers_up: self.store.peers.values().filter(|peer| peer.up).count(),
            converged: self.has_converged(),
            draining: self.draining,
        }
    }

    /// Figures of one peer. Costs a walk over what its group has advertised.
    pub fn peer_stats(&mut self, peer: PeerId) -> Option<PeerStats> {
        self.settle();
        let entry = self.store.peers.get(&peer)?;
        let group = entry.group.and_then(|number| self.groups.get(number));
        let counts = group.map(|group| sent_counts(group, &self.store));
        Some(stats_of(peer, entry, group, counts.as_ref()))
    }

    /// What has come from a peer that is up, by family. Cheap: what is sent is not counted.
    pub fn received_stats(&mut self, peer: PeerId) -> Option<Vec<(Family, FamilyStats)>> {
        self.settle();
        let entry = self.store.peers.get(&peer).filter(|entry| entry.up)?;
        Some(stats_of(peer, entry, None, None).families.into_iter().collect())
    }

    /// The peer that the best path of a prefix came from.
    pub fn best_from(&mut self, prefix: crate::model::Prefix) -> Option<PeerId> {
        self.settle();
        let table = &self.store.tables[prefix.family()];
        let path = table.paths[table.best(table.find(prefix)?)?];
        Some(self.store.attrs[path.attrs].peer).filter(|peer| *peer != LOCAL)
    }

    /// How many prefixes have a best path.
    pub fn best_counts(&mut self) -> [(Family, u64); 2] {
        self.settle();
        let tables = &self.store.tables;
        Family::ALL.map(|f| (f, tables[f].with_best(0, u32::MAX).count() as u64))
    }

    /// Figures of every peer, in order of id; the walk is made once a group.
    pub fn all_peer_stats(&mut self) -> Vec<(PeerId, PeerStats)> {
        self.settle();
        let mut counts: HashMap<usize, PerFamily<SentCounts>, FxBuildHasher> = HashMap::default();
        let mut all = Vec::new();
        for (peer, entry) in &self.store.peers {
            let group = entry.group.and_then(|number| Some((number, self.groups.get(number)?)));
            let counts = group.map(|(number, group)| {
                &*counts.entry(number).or_insert_with(|| sent_counts(group, &self.store))
            });
            all.push((*peer, stats_of(*peer, entry, group.map(|(_, group)| group), counts)));
        }
        all.sort_unstable_by_key(|(peer, _)| *peer);
        all
    }
}

fn sent_counts(group: &Group, store: &Store) -> PerFamily<SentCounts> {
    let mut counts = PerFamily::<SentCounts>::default();
    for family in Family::ALL {
        let counts = &mut counts[family];
        for (_, _, set) in group.sent[family].iter() {
            counts.total += 1;
            let source = store.attrs[set].peer;
            if source != LOCAL {
                *counts.by_source.entry(source).or_default() += 1;
            }
        }
    }
    counts
}

fn stats_of(
    peer: PeerId,
    entry: &Peer,
    group: Option<&Group>,
    counts: Option<&PerFamily<SentCounts>>,
) -> PeerStats {
    let families = Family::ALL.map(|family| {
        let state = &entry.families[family];
        let sent = counts.map_or(0, |counts| {
            let counts = &counts[family];
            counts.total - counts.by_source.get(&peer).copied().unwrap_or(0)
        });
        let rejected =
            Rejection::ALL.into_iter().zip(state.counters.rejected).filter(|(_, count)| *count > 0);
        let stats = FamilyStats {
            accepted: state.paths,
            announced: state.counters.announced,
            withdrawn: state.counters.withdrawn,
            rejected: rejected.collect(),
            identities_stripped: state.counters.identities_stripped,
            sent,
            over_limit: state.limit.is_exceeded(),
            end_of_rib: state.end_of_rib,
            stale: state.stale.map(|stale| match stale.phase {
                Phase::Restarting => "restarting",
                Phase::LongLived => "long_lived",
                Phase::Reconnected => "reconnected",
            }),
        };
        (family, stats)
    });
    let messages = group.and_then(|group| group.members.get(&peer)).map_or(0, |member| member.messages);
    PeerStats {
        address: entry.params.peer_addr,
        up: entry.up,
        updates_sent: messages,
        families: families.into(),
    }
}
