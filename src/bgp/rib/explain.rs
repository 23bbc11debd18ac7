//! Why the best path won, step by step.

use serde::Serialize;

use super::{
    Rib,
    attrs::{AttrSet, flag},
    decision::{Candidate, Step},
    query::{RouteRow, View},
    store::Store,
};
use crate::{bgp::PeerId, model::Prefix};

/// The paths of a prefix and the decision between them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The prefix.
    pub prefix: Prefix,
    /// Why the best path is it, in words.
    pub verdict: String,
    /// The paths: the best one, those used beside it, then the others by how far they came.
    pub paths: Vec<ExplainedPath>,
    /// The peers that it is advertised to.
    #[serde(skip)]
    pub advertised_to: Vec<PeerId>,
}

/// One path and how it fared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExplainedPath {
    /// The path.
    #[serde(flatten)]
    pub route: RouteRow,
    /// Where it lost; `None` for the best path.
    pub lost: Option<Loss>,
}

/// A loss.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// In this step.
    pub step: Step,
    /// Against what, in words.
    pub reason: String,
}

impl Rib {
    /// Explains a prefix, if there is any path for it.
    pub fn explain(&mut self, prefix: Prefix) -> Option<Explanation> {
        self.settle();
        let family = prefix.family();
        let node = self.store.tables[family].find(prefix)?;
        let store = &self.store;
        let mut lost: Vec<(usize, Step)> = Vec::new();
        let (candidates, choice) = store.explain(family, node, |i, step| lost.push((i, step)));
        if candidates.is_empty() {
            return None;
        }
        let best = choice.first().copied();
        let seconds = self.last_tick.map_or(0, |now| self.seconds(now));
        let view = View { store, group: None, seconds };
        let step_of = |i: usize| lost.iter().find(|(other, _)| *other == i).map(|(_, step)| *step);
        let mut order: Vec<usize> = (0..candidates.len()).collect();
        let place = |i: &usize| choice.iter().position(|chosen| chosen == i).unwrap_or(usize::MAX);
        order.sort_by_key(|i| (place(i), std::cmp::Reverse(step_of(*i))));
        let table = &store.tables[family];
        let paths = order.into_iter().map(|i| {
            let id = candidates[i].path;
            let loss = step_of(i).map(|step| Loss {
                step,
                reason: reason(store, step, &candidates[i], against(&candidates, best, i, step)),
            });
            ExplainedPath { route: view.path(prefix, table.best(node), id, table.paths[id]), lost: loss }
        });
        let deciding = lost.iter().map(|(_, step)| *step).filter(|step| *step != Step::Unreachable).max();
        let verdict = match (best, deciding) {
            (None, _) => "no path is usable: no next hop can be reached".to_owned(),
            (Some(best), _) if candidates[best].cost.is_none() => {
                "no next hop can be reached: not used here, and told to others only where its next hop stays as it is"
                    .to_owned()
            }
            (Some(_), None) => "it is the only usable path".to_owned(),
            (Some(_), Some(step)) => format!("the last rival lost by: {}", words(step)),
        };
        let advertised_to = self.groups.iter().flat_map(|group| {
            let sent = group.sent[family].paths(node);
            let has = move |peer: &PeerId| sent.iter().any(|(_, set)| store.attrs[*set].peer != *peer);
            group.members.keys().copied().filter(has)
        });
        let mut advertised_to: Vec<PeerId> = advertised_to.collect();
        advertised_to.sort_unstable();
        Some(Explanation { prefix, verdict, paths: paths.collect(), advertised_to })
    }
}

/// Whom a path lost against: the best path, and for MED one of its own neighbouring AS.
fn against<'a, 'b>(
    candidates: &'a [Candidate<'b>],
    best: Option<usize>,
    loser: usize,
    step: Step,
) -> Option<&'a Candidate<'b>> {
    let best = candidates.get(best?)?;
    let neighbor = candidates[loser].set.neighbor_as;
    if step == Step::Med && best.set.neighbor_as != neighbor {
        let rivals = candidates.iter().filter(|c| c.set.neighbor_as == neighbor);
        return rivals.min_by_key(|c| c.set.med);
    }
    Some(best)
}

fn words(step: Step) -> &'static str {
    match step {
        Step::Unreachable => "the next hop cannot be reached",
        Step::LongLivedStale => "long-lived stale (RFC 9494)",
        Step::Sequence => "attachment number",
        Step::LocalPref => "local preference",
        Step::Local => "originated here",
        Step::AsPathLength => "AS path length",
        Step::Origin => "origin",
        Step::Med => "MED",
        Step::External => "eBGP over iBGP",
        Step::IgpCost => "cost to the next hop",
        Step::Oldest => "age",
        Step::RouterId => "router id (or originator)",
        Step::ClusterListLength => "cluster list length",
        Step::PeerAddress => "peer address",
        Step::PathId => "path identifier",
    }
}

fn reason(store: &Store, step: Step, loser: &Candidate<'_>, winner: Option<&Candidate<'_>>) -> String {
    if step == Step::Unreachable {
        return format!("next hop {} cannot be reached", store.attrs.hops[loser.set.hop].gateway);
    }
    let Some(winner) = winner else { return words(step).to_owned() };
    let show = |c: &Candidate<'_>| value(step, c);
    format!("{}: {} against {}", words(step), show(loser), show(winner))
}

fn value(step: Step, c: &Candidate<'_>) -> String {
    let set: &AttrSet = c.set;
    let or_none = |value: Option<u32>| value.map_or_else(|| "none".to_owned(), |v| v.to_string());
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    match step {
        Step::Unreachable | Step::IgpCost => or_none(c.cost),
        Step::LongLivedStale => yes(set.has(flag::LLGR_STALE)),
        Step::Sequence => or_none(set.sequence),
        Step::LocalPref => set.local_pref.to_string(),
        Step::Local => yes(set.is_local()),
        Step::AsPathLength => set.path_len.to_string(),
        Step::Origin => format!("{:?}", set.origin).to_lowercase(),
        Step::Med => or_none(set.med()),
        Step::External => if set.has(flag::EBGP) { "eBGP" } else { "iBGP" }.to_owned(),
        Step::Oldest => format!("{} s", c.seconds),
        Step::RouterId => std::net::Ipv4Addr::from_bits(set.router_id).to_string(),
        Step::ClusterListLength => set.cluster_len.to_string(),
        Step::PeerAddress => c.peer_addr.to_string(),
        Step::PathId => c.rx_id.to_string(),
    }
}
