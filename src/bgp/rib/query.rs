//! Questions about routes, answered in text for people and JSON.

use std::net::IpAddr;

use serde::Serialize;

use super::{
    Rib,
    attrs::{AttrId, AttrSet},
    community_match::AnyCommunity,
    filter::{self, Evaluation},
    group::Group,
    hops::OURSELVES,
    store::Store,
    table::{NodeId, Path, PathId, path_flag},
};
use crate::{
    bgp::{
        PeerId, identity,
        wire::{Origin, PathAttributes, WireNextHop},
    },
    model::{Family, Prefix},
};

/// Which routes are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteFilter {
    /// Of one family only.
    pub family: Option<Family>,
    /// This prefix only.
    pub prefix: Option<Prefix>,
    /// With `prefix`: everything inside it too.
    pub longer: bool,
    /// The longest prefix that has this address in it. Goes before `prefix`.
    pub address: Option<IpAddr>,
    /// Seen from where.
    pub source: RouteSource,
    /// Prefixes after this one in order only: for reading on.
    pub after: Option<Prefix>,
    /// At most so many prefixes.
    pub limit: usize,
}

impl Default for RouteFilter {
    /// The first thousand prefixes with all their paths.
    fn default() -> Self {
        Self {
            family: None,
            prefix: None,
            longer: false,
            address: None,
            source: RouteSource::All,
            after: None,
            limit: 1000,
        }
    }
}

/// Where routes are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouteSource {
    /// Every path.
    #[default]
    All,
    /// The best path of each prefix.
    Best,
    /// What this host originates.
    Local,
    /// What was accepted from a peer, after import rules.
    Received(PeerId),
    /// What a peer is to have from us, as it looks there.
    Advertised(PeerId),
}

/// One path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteRow {
    /// The prefix.
    pub prefix: Prefix,
    /// The peer it came from; `None` for ours.
    #[serde(skip)]
    pub from: Option<PeerId>,
    /// The peer's address.
    pub peer: Option<IpAddr>,
    /// The path identifier: received, or sent for [`RouteSource::Advertised`]; 0 without add-path.
    pub path_id: u32,
    /// The best path of the prefix.
    pub best: bool,
    /// In use beside the best path.
    pub multipath: bool,
    /// Kept through a restart of the peer.
    pub stale: bool,
    /// The next hop cannot be reached.
    pub unreachable: bool,
    /// Seconds since it came or last changed.
    pub age: u32,
    /// The next hop; `None` for ours.
    pub next_hop: Option<IpAddr>,
    /// The link-local next hop beside it.
    pub next_hop_link_local: Option<IpAddr>,
    /// `igp`, `egp` or `incomplete`.
    pub origin: &'static str,
    /// AS path, nearest first; sets in braces.
    pub as_path: String,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF in effect; as sent for [`RouteSource::Advertised`].
    pub local_pref: Option<u32>,
    /// ATOMIC_AGGREGATE.
    pub atomic_aggregate: bool,
    /// AGGREGATOR.
    pub aggregator: Option<String>,
    /// Communities of all kinds but those of identities.
    pub communities: Vec<String>,
    /// Hashes of the endpoint's labels.
    pub identity: Vec<String>,
    /// The attachment number.
    pub sequence: Option<u32>,
    /// ORIGINATOR_ID.
    pub originator_id: Option<String>,
    /// CLUSTER_LIST.
    pub cluster_list: Vec<String>,
    /// ONLY_TO_CUSTOMER (RFC 9234).
    pub otc: Option<u32>,
    /// Attributes that are not known: type and value in hexadecimal.
    pub unknown: Vec<(u8, String)>,
}

impl Rib {
    /// The routes that a filter describes, in order of prefix, the best path first.
    pub fn routes(&mut self, filter: &RouteFilter) -> Vec<RouteRow> {
        self.settle();
        let group = match filter.source {
            RouteSource::Advertised(peer) => {
                let number = self.store.peers.get(&peer).and_then(|entry| entry.group);
                match number.and_then(|number| self.groups.get(number)) {
                    Some(group) => Some((peer, group)),
                    None => return Vec::new(),
                }
            }
            _ => None,
        };
        let seconds = self.last_tick.map_or(0, |now| self.seconds(now));
        let view = View { store: &self.store, group, seconds };
        let mut rows = Vec::new();
        for (prefix, node) in view.nodes(filter) {
            view.rows(prefix, node, filter.source, &mut rows);
        }
        rows
    }
}

/// The RIB as a question sees it.
pub(super) struct View<'a> {
    pub(super) store: &'a Store,
    /// A peer whose Adj-RIB-Out is looked at.
    pub(super) group: Option<(PeerId, &'a Group)>,
    /// Now, since the RIB's start.
    pub(super) seconds: u32,
}

impl View<'_> {
    /// The nodes of a filter, in order of prefix.
    fn nodes(&self, filter: &RouteFilter) -> Vec<(Prefix, NodeId)> {
        let exact = |prefix: Prefix| {
            // Who reads on after it has seen it all.
            if filter.after.is_some_and(|after| prefix <= after) {
                return None;
            }
            let node = self.store.tables[prefix.family()].find(prefix)?;
            self.has(prefix.family(), node, filter.source).then_some((prefix, node))
        };
        if let Some(addr) = filter.address {
            let lengths = (0..=Family::of(addr).bits()).rev();
            return lengths.filter_map(|len| exact(Prefix::new(addr, len).ok()?)).take(1).collect();
        }
        if let Some(prefix) = filter.prefix.filter(|_| !filter.longer) {
            return exact(prefix).into_iter().collect();
        }
        let mut nodes = Vec::new();
        let in_prefix = filter.prefix.map(Prefix::family);
        let wanted = |family: &Family| [filter.family, in_prefix].into_iter().flatten().all(|f| f == *family);
        for family in Family::ALL.into_iter().filter(wanted) {
            let table = &self.store.tables[family];
            nodes.extend(table.ids().map(|node| (table.prefix(node), node)).filter(|(prefix, node)| {
                filter.after.is_none_or(|after| *prefix > after)
                    && filter.prefix.is_none_or(|wanted| wanted.covers(*prefix))
                    && self.has(family, *node, filter.source)
            }));
        }
        if filter.limit < nodes.len() {
            nodes.select_nth_unstable(filter.limit);
            nodes.truncate(filter.limit);
        }
        nodes.sort_unstable();
        nodes
    }

    fn has(&self, family: Family, node: NodeId, source: RouteSource) -> bool {
        let from = |peer: PeerId| {
            let attrs = &self.store.attrs;
            self.store.tables[family].paths_of(node).any(|(_, path)| attrs[path.attrs].peer == peer)
        };
        match source {
            RouteSource::All => self.store.tables[family].paths_of(node).next().is_some(),
            RouteSource::Best => self.store.tables[family].best(node).is_some(),
            RouteSource::Local => from(super::attrs::LOCAL),
            RouteSource::Received(peer) => from(peer),
            RouteSource::Advertised(peer) => self.group.is_some_and(|(_, group)| {
                let paths = group.sent[family].paths(node);
                paths.iter().any(|(_, set)| self.store.attrs[*set].peer != peer)
            }),
        }
    }

    fn rows(&self, prefix: Prefix, node: NodeId, source: RouteSource, rows: &mut Vec<RouteRow>) {
        let family = prefix.family();
        let table = &self.store.tables[family];
        if let (RouteSource::Advertised(peer), Some((_, group))) = (source, self.group) {
            for (path_id, set) in group.sent[family].paths(node) {
                if self.store.attrs[set].peer != peer {
                    rows.extend(self.advertised(group, prefix, node, path_id, set));
                }
            }
            return;
        }
        let best = table.best(node);
        for (id, path) in table.paths_of(node) {
            let peer = self.store.attrs[path.attrs].peer;
            let wanted = match source {
                RouteSource::Best => best == Some(id),
                RouteSource::Local => peer == super::attrs::LOCAL,
                RouteSource::Received(from) => peer == from,
                RouteSource::All | RouteSource::Advertised(_) => true,
            };
            if wanted {
                rows.push(self.path(prefix, best, id, path));
            }
        }
    }

    /// A path as it was received.
    pub(super) fn path(&self, prefix: Prefix, best: Option<PathId>, id: PathId, path: Path) -> RouteRow {
        let set = &self.store.attrs[path.attrs];
        let hop = &self.store.attrs.hops[set.hop];
        let mut row = self.row(prefix, set, &set.attributes());
        row.path_id = path.rx_id;
        row.best = best == Some(id);
        row.multipath = path.has(path_flag::SELECTED) && !row.best;
        row.stale = path.has(path_flag::STALE);
        row.unreachable = self.store.attrs.hops.cost(set.hop).is_none();
        row.age = self.seconds.saturating_sub(path.seconds());
        if set.hop != OURSELVES {
            set_next_hop(&mut row, hop.wire);
        }
        row
    }

    /// A path as a peer gets it.
    fn advertised(
        &self,
        group: &Group,
        prefix: Prefix,
        node: NodeId,
        path_id: u32,
        id: AttrId,
    ) -> Option<RouteRow> {
        let (key, family) = (&group.key, prefix.family());
        let set = &self.store.attrs[id];
        let next_hop = key.next_hop(&self.store.attrs, family, set)?;
        let received = self.store.attrs.hops[set.hop].wire.global();
        let evaluation = Evaluation::new(&key.rules, &set.attributes(), Some(received));
        let matched = evaluation.verdict(prefix)?;
        let attributes = key.attributes(set, |attributes| {
            filter::apply(&key.rules, &matched, attributes, key.prepended());
        });
        let mut row = self.row(prefix, set, &attributes);
        row.path_id = path_id;
        let table = &self.store.tables[family];
        row.best = table.best(node).is_some_and(|best| table.paths[best].attrs == id);
        set_next_hop(&mut row, next_hop);
        Some(row)
    }

    fn row(&self, prefix: Prefix, set: &AttrSet, attributes: &PathAttributes) -> RouteRow {
        let domain = self.store.config.identity_domain;
        let (identity, sequence) = identity::from_communities(domain, &attributes.large_communities);
        let large = attributes.large_communities.iter().filter(|c| c.global != domain);
        let communities = (attributes.communities.iter().map(|c| AnyCommunity::Standard(*c)))
            .chain(large.map(|c| AnyCommunity::Large(*c)))
            .map(|c| c.to_string())
            .chain(attributes.ext_communities.iter().map(ToString::to_string))
            .chain(attributes.ipv6_ext_communities.iter().map(hex::encode));
        let identity = identity.map(|identity| identity.hashes().iter().map(ToString::to_string).collect());
        RouteRow {
            prefix,
            from: (!set.is_local()).then_some(set.peer),
            peer: self.store.peers.get(&set.peer).map(|peer| peer.params.peer_addr),
            path_id: 0,
            best: false,
            multipath: false,
            stale: false,
            unreachable: false,
            age: 0,
            next_hop: None,
            next_hop_link_local: None,
            origin: match attributes.origin {
                Some(Origin::Igp) => "igp",
                Some(Origin::Egp) => "egp",
                Some(Origin::Incomplete) | None => "incomplete",
            },
            as_path: attributes.as_path.to_string(),
            med: attributes.med,
            local_pref: attributes.local_pref,
            atomic_aggregate: attributes.atomic_aggregate,
            aggregator: attributes.aggregator.map(|(asn, addr)| format!("{asn} {addr}")),
            communities: communities.collect(),
            identity: identity.unwrap_or_default(),
            sequence,
            originator_id: attributes.originator_id.map(|id| id.to_string()),
            cluster_list: attributes.cluster_list.iter().map(ToString::to_string).collect(),
            otc: attributes.otc,
            unknown: attributes.unknown.iter().map(|raw| (raw.code, hex::encode(&raw.value))).collect(),
        }
    }
}

fn set_next_hop(row: &mut RouteRow, wire: WireNextHop) {
    row.next_hop = Some(wire.global());
    if let WireNextHop::V6LinkLocal { link_local, .. } = wire {
        row.next_hop_link_local = Some(link_local.into());
    }
}
