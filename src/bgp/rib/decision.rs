//! The decision process (RFC 4271 section 9.1.2), step by step.
//!
//! Each step takes out the candidates that are worse than the best in it, as section 9.1.2.2 is written. MED compares only
//! within a neighbouring AS and so is no order over all routes; taking out keeps the result independent of the order in
//! which routes came ("deterministic MED").

use std::{cmp::Reverse, net::IpAddr};

use serde::Serialize;
use smallvec::SmallVec;

use super::{
    attrs::{AttrSet, flag},
    config::DecisionOptions,
    table::PathId,
};

/// A step of the decision process; the order of the variants is the order of the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The next hop cannot be reached: no candidate (RFC 4271 section 9.1.2.1), or only among its like
    /// ([`crate::bgp::config::NextHopCheck`]).
    Unreachable,
    /// Long-lived stale: worse than any that is not (RFC 9494 section 4.3).
    LongLivedStale,
    /// The higher attachment number: the newer place of an address that moved (see `bgp::identity`).
    Sequence,
    /// The higher LOCAL_PREF.
    LocalPref,
    /// What we originate ourselves.
    Local,
    /// The shorter AS path; a set counts 1, confederation segments nothing.
    AsPathLength,
    /// The lower ORIGIN.
    Origin,
    /// The lower MULTI_EXIT_DISC among routes of one neighbouring AS.
    Med,
    /// Learned by eBGP rather than iBGP.
    External,
    /// The lower interior cost to the next hop. What is equal up to here is multipath.
    IgpCost,
    /// The older one, where configured.
    Oldest,
    /// The lower BGP identifier, or ORIGINATOR_ID (RFC 4456 section 9).
    RouterId,
    /// The shorter CLUSTER_LIST (RFC 4456 section 9).
    ClusterListLength,
    /// The lower address of the peer.
    PeerAddress,
    /// The lower path identifier, between paths of one peer.
    PathId,
}

/// One path that takes part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) path: PathId,
    pub(super) set: &'a AttrSet,
    /// The interior cost of its next hop; `None` when that cannot be reached.
    pub(super) cost: Option<u32>,
    pub(super) seconds: u32,
    pub(super) rx_id: u32,
    pub(super) peer_addr: IpAddr,
}

/// How to decide.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) options: DecisionOptions,
    pub(super) multipath: usize,
    pub(super) relax: bool,
    /// Whether paths whose next hop cannot be reached are candidates where there are no others.
    pub(super) unreachable_last: bool,
}

/// The paths in use, as places in the candidates' list: the best first, multipath behind it. Empty when there is no
/// candidate that can be used.
pub(super) type Choice = SmallVec<[usize; 8]>;

/// Decides, and tells `lost` in which step each other candidate went out.
pub(super) fn choose(rules: Rules, all: &[Candidate<'_>], lost: impl FnMut(usize, Step)) -> Choice {
    let mut contest = Contest { all, left: (0..all.len()).collect(), lost };
    if !rules.unreachable_last || all.iter().any(|c| c.cost.is_some()) {
        contest.retain(Step::Unreachable, |c| c.cost.is_some());
    }
    contest.keep_lowest(Step::LongLivedStale, |c| c.set.has(flag::LLGR_STALE));
    contest.keep_lowest(Step::Sequence, |c| Reverse(c.set.sequence));
    contest.keep_lowest(Step::LocalPref, |c| Reverse(c.set.local_pref));
    contest.keep_lowest(Step::Local, |c| !c.set.is_local());
    contest.keep_lowest(Step::AsPathLength, |c| c.set.path_len);
    contest.keep_lowest(Step::Origin, |c| c.set.origin);
    if rules.options.always_compare_med {
        contest.keep_lowest(Step::Med, |c| med(rules, c));
    } else if contest.left.len() > 1 {
        let before = contest.left.clone();
        contest.retain(Step::Med, |c| {
            let mine = med(rules, c);
            !before
                .iter()
                .any(|i| all[*i].set.neighbor_as == c.set.neighbor_as && med(rules, &all[*i]) < mine)
        });
    }
    contest.keep_lowest(Step::External, |c| !c.set.has(flag::EBGP));
    contest.keep_lowest(Step::IgpCost, |c| c.cost);
    let equal = contest.left.clone();
    if rules.options.prefer_oldest {
        contest.keep_lowest(Step::Oldest, |c| if c.set.has(flag::EBGP) { c.seconds } else { 0 });
    }
    contest.keep_lowest(Step::RouterId, |c| c.set.router_id);
    contest.keep_lowest(Step::ClusterListLength, |c| c.set.cluster_len);
    contest.keep_lowest(Step::PeerAddress, |c| c.peer_addr);
    contest.keep_lowest(Step::PathId, |c| (c.rx_id, c.path));
    let mut chosen = contest.left;
    if let Some(&best) = chosen.first() {
        add_multipath(rules, all, best, equal, &mut chosen);
    }
    chosen
}

/// Candidates that are still in.
struct Contest<'a, 'b, F> {
    all: &'a [Candidate<'b>],
    left: Choice,
    lost: F,
}

impl<F: FnMut(usize, Step)> Contest<'_, '_, F> {
    fn retain(&mut self, step: Step, stays: impl Fn(&Candidate<'_>) -> bool) {
        let (all, lost) = (self.all, &mut self.lost);
        self.left.retain(|i| {
            let stays = stays(&all[*i]);
            if !stays {
                lost(*i, step);
            }
            stays
        });
    }

    fn keep_lowest<V: Ord>(&mut self, step: Step, value: impl Fn(&Candidate<'_>) -> V) {
        if self.left.len() > 1 {
            let lowest = self.left.iter().map(|i| value(&self.all[*i])).min();
            self.retain(step, |c| Some(value(c)) == lowest);
        }
    }
}

/// What is used beside the best path: paths that went out only by a tie-break. Without `multipath_relax` the AS paths
/// must be the same, not only equally long.
fn add_multipath(rules: Rules, all: &[Candidate<'_>], best: usize, equal: Choice, chosen: &mut Choice) {
    if rules.multipath < 2 || equal.len() < 2 || all[best].set.is_local() {
        return;
    }
    let mut others: Choice = equal
        .into_iter()
        .filter(|i| *i != best)
        .filter(|i| rules.relax || all[*i].set.as_path_octets() == all[best].set.as_path_octets())
        .collect();
    // A fixed order, so that the same paths are used whichever came first.
    others.sort_unstable_by_key(|i| {
        let c = &all[*i];
        (c.set.router_id, c.set.cluster_len, c.peer_addr, c.rx_id, c.path)
    });
    others.truncate(rules.multipath - 1);
    chosen.extend(others);
}

fn med(rules: Rules, candidate: &Candidate<'_>) -> u64 {
    match candidate.set.med() {
        Some(med) => med.into(),
        None if rules.options.missing_med_worst => u64::MAX,
        None => 0,
    }
}

/// The most that weights are spread over: divisible by much, below the kernel's 256.
const FINEST: f32 = 240.0;

/// Weights for the chosen paths from their link bandwidths; all 1 unless every path has one
/// (draft-ietf-idr-link-bandwidth section 3).
pub(super) fn weights(bandwidths: &[f32]) -> SmallVec<[u16; 8]> {
    let most = bandwidths.iter().copied().fold(0.0, f32::max);
    if bandwidths.len() < 2 || bandwidths.iter().any(|b| *b <= 0.0) {
        return bandwidths.iter().map(|_| 1).collect();
    }
    let fine: SmallVec<[u16; 8]> =
        bandwidths.iter().map(|b| (b / most * FINEST).round().clamp(1.0, FINEST) as u16).collect();
    let divisor = fine.iter().copied().fold(0, greatest_common_divisor);
    fine.into_iter().map(|weight| weight / divisor.max(1)).collect()
}

fn greatest_common_divisor(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}
