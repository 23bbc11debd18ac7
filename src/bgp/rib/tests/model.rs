//! A RIB that is too simple to be wrong: a map of what every peer says, everything else computed anew from it each time.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use super::kit::*;
use crate::{
    bgp::{
        config::{IdentityMode, NextHopCheck},
        identity,
        rib::{AddPathSend, PeerParams, RibConfig},
        wire::{AsSegmentKind, Community, PathAttributes, PeerKind, Update, WireNextHop},
    },
    model::{Family, Identity, Prefix},
};

/// Our own paths are those of peer 0.
const OURS: u8 = 0;

#[derive(Clone, Debug)]
struct Path {
    raw: PathAttributes,
    attributes: PathAttributes,
    next_hop: Option<WireNextHop>,
    external: bool,
    stale: bool,
    unconfirmed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Restarting,
    LongLived,
    Back,
}

#[derive(Debug)]
struct Peer {
    params: PeerParams,
    import: u8,
    export: u8,
    up: bool,
    stale: BTreeMap<Family, (u64, Phase)>,
    refreshing: BTreeSet<Family>,
}

type Key = (Prefix, u8, u32);

/// What is used for a prefix: gateways, whose the best path is, its identity and attachment number.
pub(super) type Used = (BTreeSet<IpAddr>, Option<u8>, Option<Identity>, Option<u32>);

/// The model.
#[derive(Debug)]
pub(super) struct Model {
    config: RibConfig,
    paths: BTreeMap<Key, Path>,
    peers: BTreeMap<u8, Peer>,
    costs: BTreeMap<IpAddr, Option<u32>>,
    draining: bool,
    now: u64,
}

impl Model {
    pub(super) fn new(config: RibConfig) -> Self {
        Self {
            config,
            paths: BTreeMap::new(),
            peers: BTreeMap::new(),
            costs: BTreeMap::new(),
            draining: false,
            now: 0,
        }
    }

    pub(super) fn up(&mut self, n: u8, params: PeerParams, import: u8, export: u8) {
        if self.is_up(n) {
            self.down(n, false);
        }
        let stale = self.peers.remove(&n).map(|peer| peer.stale).unwrap_or_default();
        let mut left = BTreeMap::new();
        for (family, (until, phase)) in stale {
            match params.families[family].and_then(|f| f.graceful).filter(|g| g.forwarding_preserved) {
                Some(graceful) => {
                    let mut end = self.now + graceful.stale_time.as_secs();
                    if phase == Phase::LongLived {
                        end = end.min(until);
                    }
                    left.insert(family, (end, Phase::Back));
                }
                None => self.sweep(n, family, |path| path.stale),
            }
        }
        let peer = Peer { params, import, export, up: true, stale: left, refreshing: BTreeSet::new() };
        self.peers.insert(n, peer);
        self.import_again(n);
    }

    pub(super) fn changed(&mut self, n: u8, params: PeerParams, import: u8, export: u8) {
        let Some(peer) = self.peers.get_mut(&n).filter(|peer| peer.up) else { return };
        (peer.params, peer.import, peer.export) = (params, import, export);
        self.import_again(n);
    }

    fn import_again(&mut self, n: u8) {
        let import = self.peers[&n].import;
        let (config, params) = (self.config.clone(), self.peers[&n].params.clone());
        self.paths.retain(|(prefix, from, _), path| {
            if *from != n {
                return true;
            }
            match imported(&config, &params, import, *prefix, &path.raw) {
                Some(attributes) => {
                    path.attributes = attributes;
                    true
                }
                None => false,
            }
        });
    }

    pub(super) fn is_up(&self, n: u8) -> bool {
        self.peers.get(&n).is_some_and(|peer| peer.up)
    }

    pub(super) fn down(&mut self, n: u8, restarting: bool) {
        if !self.is_up(n) {
            return;
        }
        for family in Family::ALL {
            let peer = self.peers.get_mut(&n).unwrap();
            peer.up = false;
            peer.refreshing.remove(&family);
            peer.stale.remove(&family);
            match peer.params.families[family].and_then(|f| f.graceful).filter(|_| restarting) {
                Some(graceful) => {
                    let until = self.now + graceful.restart_time.as_secs();
                    peer.stale.insert(family, (until, Phase::Restarting));
                    self.sweep(n, family, |path| path.stale);
                    self.each(n, family, |path| (path.stale, path.unconfirmed) = (true, false));
                }
                None => self.sweep(n, family, |_| true),
            }
        }
    }

    fn sweep(&mut self, n: u8, family: Family, gone: impl Fn(&Path) -> bool) {
        self.paths.retain(|(p, from, _), path| !(*from == n && p.family() == family && gone(path)));
    }

    fn each(&mut self, n: u8, family: Family, mut change: impl FnMut(&mut Path)) {
        for (_, path) in self.paths.iter_mut().filter(|((p, from, _), _)| *from == n && p.family() == family)
        {
            change(path);
        }
    }

    pub(super) fn update(&mut self, n: u8, update: &Update) {
        if !self.is_up(n) {
            return;
        }
        if let Some(family) = update.end_of_rib() {
            if self.peers.get_mut(&n).unwrap().stale.remove(&family).is_some() {
                self.sweep(n, family, |path| path.stale);
            }
            return;
        }
        for nlri in update.unreach.iter().flat_map(|u| &u.nlri) {
            self.paths.remove(&(nlri.prefix, n, nlri.path_id));
        }
        for reach in &update.reach {
            for nlri in &reach.nlri {
                let key = (nlri.prefix, n, nlri.path_id);
                let peer = &self.peers[&n];
                match imported(&self.config, &peer.params, peer.import, nlri.prefix, &update.attributes) {
                    Some(attributes) => {
                        let path = Path {
                            raw: update.attributes.clone(),
                            attributes,
                            next_hop: Some(reach.next_hop),
                            external: peer.params.kind == PeerKind::External,
                            stale: false,
                            unconfirmed: false,
                        };
                        self.paths.insert(key, path);
                    }
                    None => {
                        self.paths.remove(&key);
                    }
                }
            }
        }
    }

    pub(super) fn refresh(&mut self, n: u8, family: Family, begin: bool) {
        let Some(peer) = self.peers.get_mut(&n).filter(|peer| peer.up) else { return };
        if begin {
            peer.refreshing.insert(family);
            self.each(n, family, |path| path.unconfirmed = true);
        } else if peer.refreshing.remove(&family) {
            self.sweep(n, family, |path| path.unconfirmed);
        }
    }

    pub(super) fn originate(&mut self, prefix: Prefix, attributes: PathAttributes) {
        let attributes = PathAttributes { local_pref: Some(self.config.default_local_pref), ..attributes };
        let path = Path {
            raw: attributes.clone(),
            attributes,
            next_hop: None,
            external: false,
            stale: false,
            unconfirmed: false,
        };
        self.paths.insert((prefix, OURS, 0), path);
    }

    pub(super) fn withdraw_local(&mut self, prefix: Prefix) -> bool {
        self.paths.remove(&(prefix, OURS, 0)).is_some()
    }

    pub(super) fn set_cost(&mut self, addr: IpAddr, cost: Option<u32>) {
        self.costs.insert(addr, cost);
    }

    pub(super) fn set_draining(&mut self, draining: bool) {
        self.draining = draining;
    }

    pub(super) fn wait(&mut self, seconds: u64) {
        self.now += seconds;
        loop {
            let due = self.peers.iter().find_map(|(n, peer)| {
                let stale = peer.stale.iter().find(|(_, (until, _))| *until <= self.now)?;
                Some((*n, *stale.0, *stale.1))
            });
            let Some((n, family, (until, phase))) = due else { return };
            let peer = self.peers.get_mut(&n).unwrap();
            peer.stale.remove(&family);
            let long_lived = peer.params.families[family].and_then(|f| f.graceful?.long_lived);
            match long_lived.filter(|_| phase == Phase::Restarting) {
                Some(time) => {
                    peer.stale.insert(family, (until + time.as_secs(), Phase::LongLived));
                    self.sweep(n, family, |path| {
                        path.stale && path.attributes.communities.contains(&Community::NO_LLGR)
                    });
                    self.each(n, family, |path| {
                        for attributes in [&mut path.raw, &mut path.attributes] {
                            if path.stale && !attributes.communities.contains(&Community::LLGR_STALE) {
                                attributes.communities.push(Community::LLGR_STALE);
                            }
                        }
                    });
                }
                None => self.sweep(n, family, |path| path.stale),
            }
        }
    }

    fn prefixes(&self) -> BTreeSet<Prefix> {
        self.paths.keys().map(|(prefix, _, _)| *prefix).collect()
    }

    fn cost(&self, path: &Path) -> Option<u32> {
        match path.next_hop {
            _ if self.config.next_hop_check == NextHopCheck::Off => Some(0),
            Some(next_hop) => self.costs.get(&next_hop.global()).copied().unwrap_or(Some(0)),
            None => Some(0),
        }
    }

    fn router_id(&self, n: u8, path: &Path) -> u32 {
        let own = if n == OURS { self.config.router_id } else { self.peers[&n].params.peer_router_id };
        path.attributes.originator_id.map_or(own.get(), Ipv4Addr::to_bits)
    }

    /// The paths in use, the best one first. `ignored` takes no part.
    fn choose(&self, prefix: Prefix, ignored: &BTreeSet<Key>) -> Vec<(Key, &Path)> {
        let all = || self.paths.iter().filter(|(key, _)| key.0 == prefix);
        let some = all().any(|(_, path)| self.cost(path).is_some());
        let anyhow = self.config.next_hop_check == NextHopCheck::Prefer && !some;
        let mut left: Vec<(Key, &Path)> = all()
            .filter(|(key, path)| !ignored.contains(*key) && (anyhow || self.cost(path).is_some()))
            .map(|(key, path)| (*key, path))
            .collect();
        let first = |((_, n, _), path): &(Key, &Path)| {
            let a = &path.attributes;
            let domain = self.config.identity_domain;
            (
                a.communities.contains(&Community::LLGR_STALE),
                Reverse(identity::sequence(domain, &a.large_communities)),
                Reverse(a.local_pref),
                *n != OURS,
                a.as_path.hop_count(),
                a.origin,
            )
        };
        let lowest = left.iter().map(first).min();
        left.retain(|path| Some(first(path)) == lowest);
        let neighbor = |path: &Path| path.attributes.as_path.segments.first().map(|s| s.asns[0]);
        let med = |path: &Path| path.attributes.med.unwrap_or(0);
        let all = left.clone();
        left.retain(|(_, path)| {
            !all.iter().any(|(_, other)| neighbor(other) == neighbor(path) && med(other) < med(path))
        });
        let second = |(_, path): &(Key, &Path)| (!path.external, self.cost(path));
        let lowest = left.iter().map(second).min();
        left.retain(|path| Some(second(path)) == lowest);
        left.sort_by_key(|((_, n, rx_id), path)| {
            let peer_addr = self.peers.get(n).map(|peer| peer.params.peer_addr);
            (self.router_id(*n, path), path.attributes.cluster_list.len(), peer_addr, *rx_id)
        });
        if let Some((_, best)) = left.first().copied() {
            left.retain(|(_, path)| {
                self.config.multipath_relax || path.attributes.as_path == best.attributes.as_path
            });
            left.truncate(if best.next_hop.is_none() { 1 } else { self.config.multipath.max(1) });
        }
        left
    }

    /// What is used for every prefix.
    pub(super) fn used(&self) -> BTreeMap<Prefix, Used> {
        let mut used = BTreeMap::new();
        for prefix in self.prefixes() {
            let chosen = self.choose(prefix, &BTreeSet::new());
            if let Some(((_, n, _), best)) = chosen.first() {
                let gateways = chosen.iter().filter_map(|(_, path)| Some(path.next_hop?.global())).collect();
                let (identity, sequence) = identity::from_communities(
                    self.config.identity_domain,
                    &best.attributes.large_communities,
                );
                used.insert(prefix, (gateways, (*n != OURS).then_some(*n), identity, sequence));
            }
        }
        used
    }

    /// The keys of all paths, and whether they are stale.
    pub(super) fn kept(&self) -> BTreeSet<(Prefix, u8, u32, bool)> {
        self.paths.iter().map(|((prefix, n, rx_id), path)| (*prefix, *n, *rx_id, path.stale)).collect()
    }

    /// What an established peer is to have.
    pub(super) fn advertised(&self, to: u8) -> BTreeMap<Prefix, Vec<Received>> {
        let mut all = BTreeMap::new();
        for prefix in self.prefixes() {
            let send = self.peers[&to].params.families[prefix.family()].unwrap().add_path_tx;
            let mut ignored = BTreeSet::new();
            let mut found = Vec::new();
            let mut sent = 0;
            while let Some((key, path)) = self.choose(prefix, &ignored).first() {
                ignored.insert(*key);
                if let Some(received) = self.sent(to, *key, path) {
                    sent += 1;
                    if key.1 != to {
                        found.push(received);
                    }
                }
                let enough = match send {
                    None => true,
                    Some(AddPathSend::All) => false,
                    Some(AddPathSend::Best(most)) => sent >= usize::from(most),
                };
                if enough {
                    break;
                }
            }
            if !found.is_empty() {
                found.sort_by_key(|received| format!("{received:?}"));
                all.insert(prefix, found);
            }
        }
        all
    }

    fn sent(&self, to: u8, (prefix, from, _): Key, path: &Path) -> Option<Received> {
        let peer = &self.peers[&to];
        let params = &peer.params;
        let external = params.kind == PeerKind::External;
        let has = |c| path.attributes.communities.contains(&c);
        let client = |n: &u8| self.peers.get(n).is_some_and(|peer| peer.params.route_reflector_client);
        if has(Community::NO_ADVERTISE) || external && has(Community::NO_EXPORT) {
            return None;
        }
        let reflected = from != OURS && !external && !path.external;
        if reflected && !client(&from) && !client(&to) {
            return None;
        }
        let graceful = params.families[prefix.family()]?.graceful;
        if has(Community::LLGR_STALE) && graceful.is_none_or(|g| g.long_lived.is_none()) {
            return None;
        }
        if peer.export == 2 && super::kit::prefix("10.2.0.0/16").covers(prefix) {
            return None;
        }
        let ourselves = match prefix.family() {
            Family::Ipv4 => WireNextHop::V4(params.local.ipv4?),
            Family::Ipv6 => WireNextHop::V6(params.local.ipv6?),
        };
        if external && from != OURS && self.cost(path).is_none() {
            return None;
        }
        let next_hop = if external { ourselves } else { path.next_hop.unwrap_or(ourselves) };
        let mut attributes = path.attributes.clone();
        if external {
            attributes.local_pref = None;
            if from != OURS {
                attributes.med = None;
            }
            attributes.originator_id = None;
            attributes.cluster_list.clear();
            let mut asns = vec![OUR_AS];
            for segment in &attributes.as_path.segments {
                assert_eq!(segment.kind, AsSegmentKind::Sequence);
                asns.extend(&segment.asns);
            }
            attributes.as_path = crate::bgp::wire::AsPath::sequence(asns);
        } else if reflected {
            attributes.originator_id = Some(Ipv4Addr::from_bits(self.router_id(from, path)));
            attributes.cluster_list.insert(0, self.config.cluster_id);
        }
        if peer.export == 1 && super::kit::prefix("10.1.0.0/16").covers(prefix) {
            attributes.med = Some(7);
        }
        if self.draining {
            if !external {
                attributes.local_pref = Some(0);
            }
            if !attributes.communities.contains(&Community::GRACEFUL_SHUTDOWN) {
                attributes.communities.push(Community::GRACEFUL_SHUTDOWN);
            }
        }
        Some(Received { next_hop, attributes })
    }
}

/// The attributes as they are kept; `None` if they are not.
fn imported(
    config: &RibConfig,
    params: &PeerParams,
    import: u8,
    prefix: Prefix,
    raw: &PathAttributes,
) -> Option<PathAttributes> {
    let external = params.kind == PeerKind::External;
    let mut attributes = raw.clone();
    if attributes.as_path.segments.iter().any(|s| s.asns.contains(&OUR_AS)) {
        return None;
    }
    if external {
        attributes.local_pref = None;
    }
    let trusted =
        params.identity == IdentityMode::Accept && config.identity_pools.iter().any(|p| p.covers(prefix));
    if !trusted {
        identity::strip(config.identity_domain, &mut attributes.large_communities);
    }
    if import == 1 && super::kit::prefix("10.1.0.0/16").covers(prefix) {
        attributes.local_pref = Some(200);
    }
    if import == 2 && super::kit::prefix("10.2.0.0/16").covers(prefix) {
        return None;
    }
    attributes.local_pref = attributes.local_pref.or(Some(config.default_local_pref));
    if external && attributes.communities.contains(&Community::GRACEFUL_SHUTDOWN) {
        attributes.local_pref = Some(0);
    }
    Some(attributes)
}
