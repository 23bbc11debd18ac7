//! Random schedules, compared with the model: what is kept, what is used, and what every peer has been told.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use proptest::prelude::*;

use super::{
    kit::*,
    model::{Model, Used},
};
use crate::{
    bgp::{
        config::{IdentityMode, NextHopCheck},
        identity,
        rib::{
            AddPathSend, DownReason, FamilyParams, GracefulParams, LocalRoute, PeerParams, Refresh,
            RibConfig, RouteFilter, filter::Rule,
        },
        wire::{
            AsPath, Community, Nlri, Origin, PathAttributes, PeerKind, PerFamily, Reach, Unreach, Update,
            WireNextHop,
        },
    },
    model::{Family, Identity, Labels, Prefix},
};

const PREFIXES: [&str; 9] = [
    "10.1.0.1/32",
    "10.1.0.2/32",
    "10.1.0.0/24",
    "10.2.0.1/32",
    "10.2.0.0/16",
    "172.16.0.0/12",
    "fd00::1/128",
    "fd00::2/128",
    "fd00::/64",
];

const PEERS: u8 = 9;

#[derive(Clone, Debug)]
enum Op {
    Up { n: u8, preserved: bool, import: u8, export: u8 },
    Changed { n: u8, import: u8, export: u8 },
    Down { n: u8, restarting: bool },
    Announce { n: u8, kind: u8, hop: u8, rx_id: u32, prefixes: Vec<u8> },
    Withdraw { n: u8, rx_id: u32, prefixes: Vec<u8> },
    EndOfRib { n: u8, family: bool },
    Refresh { n: u8, family: bool, what: u8 },
    Originate { prefix: u8, kind: u8 },
    WithdrawLocal { prefix: u8 },
    Cost { hop: u8, cost: Option<u32> },
    Wait(u64),
    Drain(bool),
    Pull { n: u8, times: u8 },
    PollBest(usize),
    Check,
}

fn op() -> impl Strategy<Value = Op> {
    let n = 1..=PEERS;
    let export = || prop_oneof![4 => Just(0u8), 1 => Just(1), 1 => Just(2)];
    let prefixes = prop::collection::vec(0..PREFIXES.len() as u8, 1..5);
    prop_oneof![
        4 => (n.clone(), any::<bool>(), 0..3u8, export())
            .prop_map(|(n, preserved, import, export)| Op::Up { n, preserved, import, export }),
        1 => (n.clone(), 0..3u8, export()).prop_map(|(n, import, export)| Op::Changed { n, import, export }),
        2 => (n.clone(), any::<bool>()).prop_map(|(n, restarting)| Op::Down { n, restarting }),
        24 => (n.clone(), 0..12u8, 0..3u8, 0..3u32, prefixes.clone())
            .prop_map(|(n, kind, hop, rx_id, prefixes)| Op::Announce { n, kind, hop, rx_id, prefixes }),
        8 => (n.clone(), 0..3u32, prefixes).prop_map(|(n, rx_id, prefixes)| Op::Withdraw { n, rx_id, prefixes }),
        2 => (n.clone(), any::<bool>()).prop_map(|(n, family)| Op::EndOfRib { n, family }),
        3 => (n.clone(), any::<bool>(), 0..3u8).prop_map(|(n, family, what)| Op::Refresh { n, family, what }),
        4 => (0..PREFIXES.len() as u8, 0..4u8).prop_map(|(prefix, kind)| Op::Originate { prefix, kind }),
        2 => (0..PREFIXES.len() as u8).prop_map(|prefix| Op::WithdrawLocal { prefix }),
        2 => (1..=PEERS, prop::option::of(0..3u32)).prop_map(|(hop, cost)| Op::Cost { hop, cost }),
        2 => (1..12u64).prop_map(Op::Wait),
        1 => any::<bool>().prop_map(Op::Drain),
        12 => (n, 1..4u8).prop_map(|(n, times)| Op::Pull { n, times }),
        3 => (1..6usize).prop_map(Op::PollBest),
        2 => Just(Op::Check),
    ]
}

/// 1, 2 and 8 external, 3 internal, 4, 5 and 9 clients, 6 a client with add-path both ways, 7 external with the two best.
/// 1 and 8, and 4, 5 and 9, are alike and share a group while their rules are the same.
fn peer(n: u8, preserved: bool, import: u8, export: u8) -> PeerParams {
    let kind = if matches!(n, 1 | 2 | 7 | 8) { PeerKind::External } else { PeerKind::Internal };
    let graceful = (n != 2).then(|| GracefulParams {
        forwarding_preserved: preserved,
        restart_time: Duration::from_secs(10),
        long_lived: matches!(n, 1 | 4 | 5 | 6 | 8 | 9).then(|| Duration::from_secs(20)),
        stale_time: Duration::from_secs(15),
    });
    let family = FamilyParams {
        add_path_rx: n == 6,
        add_path_tx: match n {
            6 => Some(AddPathSend::All),
            7 => Some(AddPathSend::Best(2)),
            _ => None,
        },
        graceful,
        ..FamilyParams::default()
    };
    PeerParams {
        families: PerFamily::both(Some(family)),
        route_reflector_client: matches!(n, 4..=6 | 9),
        identity: if n.is_multiple_of(2) { IdentityMode::Accept } else { IdentityMode::Ignore },
        enhanced_refresh: n % 2 == 1,
        import: rule(import, r#"{ prefix = "10.1.0.0/16", le = 32, set_local_pref = 200 }"#),
        export: rule(export, r#"{ prefix = "10.1.0.0/16", le = 32, set_med = 7 }"#),
        ..params(n, kind)
    }
}

/// 0 nothing, 1 the change, 2 the rejection of 10.2.0.0/16.
fn rule(variant: u8, change: &str) -> Arc<[Rule]> {
    #[derive(serde::Deserialize)]
    struct File {
        rule: Vec<Rule>,
    }
    let text = match variant {
        0 => return Arc::default(),
        1 => change,
        _ => r#"{ prefix = "10.2.0.0/16", le = 32, action = "reject" }"#,
    };
    toml::from_str::<File>(&format!("rule = [{text}]")).unwrap().rule.into()
}

fn attributes(n: u8, kind: u8) -> PathAttributes {
    let external = matches!(n, 1 | 2 | 7 | 8);
    let plain = if external { from(n) } else { internal() };
    let path = |tail: &[u32]| {
        let mut asns = plain.as_path.segments.first().map_or(vec![], |s| s.asns.clone());
        asns.extend(tail);
        AsPath::sequence(asns)
    };
    let community = |c| PathAttributes { communities: vec![c], ..plain.clone() };
    match kind {
        1 => PathAttributes { as_path: path(&[7]), ..plain.clone() },
        2 => PathAttributes { as_path: path(&[7]), med: Some(5), ..plain.clone() },
        3 => PathAttributes { as_path: path(&[8]), med: Some(9), ..plain.clone() },
        4 => PathAttributes { as_path: path(&[OUR_AS]), ..plain.clone() },
        5 => community(Community::NO_EXPORT),
        6 => community(Community::GRACEFUL_SHUTDOWN),
        7 => community(Community::NO_LLGR),
        8 => PathAttributes { large_communities: identified(Some(1)), ..plain.clone() },
        9 => PathAttributes { large_communities: identified(None), ..plain.clone() },
        10 if !external => PathAttributes {
            originator_id: Some([10, 9, 9, n].into()),
            cluster_list: vec![[1, 1, 1, 1].into()],
            local_pref: Some(150),
            ..plain.clone()
        },
        11 => PathAttributes { origin: Some(Origin::Incomplete), ..plain.clone() },
        _ => plain.clone(),
    }
}

fn identified(sequence: Option<u32>) -> Vec<crate::bgp::wire::LargeCommunity> {
    let identity = Identity::of(&Labels::try_from([("role", "web")]).unwrap());
    identity::to_communities(config().identity_domain, Some(&identity), sequence).collect()
}

fn prefix_of(place: u8) -> Prefix {
    prefix(PREFIXES[usize::from(place)])
}

fn nlri(prefixes: &[u8], family: Family, path_id: u32) -> Vec<Nlri> {
    let wanted = prefixes.iter().map(|p| prefix_of(*p)).filter(|p| p.family() == family);
    wanted.map(|prefix| Nlri { prefix, path_id }).collect()
}

fn hop(n: u8, family: Family) -> WireNextHop {
    match family {
        Family::Ipv4 => WireNextHop::V4([192, 0, 2, n].into()),
        Family::Ipv6 => WireNextHop::V6(format!("2001:db8::{n}").parse().unwrap()),
    }
}

fn family_of(second: bool) -> Family {
    if second { Family::Ipv6 } else { Family::Ipv4 }
}

struct Run {
    lab: Lab,
    model: Model,
    /// What the changes of best paths add up to.
    used: BTreeMap<Prefix, Used>,
}

impl Run {
    fn apply(&mut self, op: &Op) {
        let now = self.lab.now;
        match op {
            Op::Up { n, preserved, import, export } => {
                let params = peer(*n, *preserved, *import, *export);
                self.model.up(*n, params.clone(), *import, *export);
                self.lab.up(*n, params);
            }
            Op::Changed { n, import, export } => {
                let params = peer(*n, true, *import, *export);
                self.model.changed(*n, params.clone(), *import, *export);
                self.lab.rib.peer_changed(id(*n), params, now);
            }
            Op::Down { n, restarting } => {
                self.model.down(*n, *restarting);
                let reason = if *restarting { DownReason::Restarting } else { DownReason::Flush };
                self.lab.rib.peer_down(id(*n), reason, now);
            }
            Op::Announce { n, kind, hop: place, rx_id, prefixes } => {
                let path_id = if *n == 6 { *rx_id } else { 0 };
                for family in Family::ALL {
                    let reach = Reach {
                        family,
                        next_hop: hop(*n + place % 2, family),
                        nlri: nlri(prefixes, family, path_id),
                    };
                    let update =
                        Update { reach: vec![reach], unreach: vec![], attributes: attributes(*n, *kind) };
                    self.model.update(*n, &update);
                    self.lab.update(*n, update);
                }
            }
            Op::Withdraw { n, rx_id, prefixes } => {
                let path_id = if *n == 6 { *rx_id } else { 0 };
                for family in Family::ALL {
                    let nlri = nlri(prefixes, family, path_id);
                    if !nlri.is_empty() {
                        let update = Update { unreach: vec![Unreach { family, nlri }], ..Update::default() };
                        self.model.update(*n, &update);
                        self.lab.update(*n, update);
                    }
                }
            }
            Op::EndOfRib { n, family } => {
                let update = end_of_rib(family_of(*family));
                self.model.update(*n, &update);
                self.lab.update(*n, update);
            }
            Op::Refresh { n, family, what } => {
                let family = family_of(*family);
                let refresh = [Refresh::Request, Refresh::Begin, Refresh::End][usize::from(*what)];
                if refresh != Refresh::Request {
                    self.model.refresh(*n, family, refresh == Refresh::Begin);
                }
                self.lab.rib.refresh(id(*n), family, refresh, now);
            }
            Op::Originate { prefix, kind } => {
                let med = (*kind == 1).then_some(3);
                let identity = (*kind == 2).then(|| Identity::of(&Labels::try_from([("a", "b")]).unwrap()));
                let sequence = (*kind == 3).then_some(1);
                let domain = config().identity_domain;
                let attributes = PathAttributes {
                    origin: Some(Origin::Igp),
                    med,
                    large_communities: identity::to_communities(domain, identity.as_ref(), sequence)
                        .collect(),
                    ..PathAttributes::default()
                };
                self.model.originate(prefix_of(*prefix), attributes);
                let route =
                    LocalRoute { med, identity: identity.map(Arc::new), sequence, ..LocalRoute::default() };
                self.lab.rib.originate(prefix_of(*prefix), route, now);
            }
            Op::WithdrawLocal { prefix } => {
                let had = self.model.withdraw_local(prefix_of(*prefix));
                assert_eq!(self.lab.rib.withdraw_local(prefix_of(*prefix), now), had);
            }
            Op::Cost { hop: place, cost } => {
                for family in Family::ALL {
                    let addr = hop(*place, family).global();
                    self.model.set_cost(addr, *cost);
                    self.lab.rib.set_next_hop_cost(addr, 0, *cost);
                }
            }
            Op::Wait(seconds) => {
                self.model.wait(*seconds);
                self.lab.wait(*seconds);
            }
            Op::Drain(draining) => {
                self.model.set_draining(*draining);
                self.lab.rib.set_draining(*draining, now);
            }
            Op::Pull { n, times } => {
                if self.model.is_up(*n) {
                    for _ in 0..*times {
                        for piece in self.lab.rib.poll_output(id(*n), 1) {
                            self.lab.receivers.get_mut(n).unwrap().take(&piece);
                        }
                    }
                }
            }
            Op::PollBest(max) => self.poll_best(*max),
            Op::Check => self.check(),
        }
    }

    fn poll_best(&mut self, max: usize) {
        for change in self.lab.rib.poll_best(max) {
            match change.best {
                Some(best) => {
                    assert_eq!(best.local, best.from.is_none());
                    let used = (
                        best.next_hops.hops().iter().map(|hop| hop.gateway).collect(),
                        best.from.map(|peer| peer.0 as u8),
                        best.identity.as_deref().cloned(),
                        best.sequence,
                    );
                    self.used.insert(change.prefix, used);
                }
                // Told again when what is known of it has changed.
                None => _ = self.used.remove(&change.prefix),
            }
        }
    }

    fn check(&mut self) {
        while self.lab.rib.has_best_changes() {
            self.poll_best(3);
        }
        assert_eq!(self.used, self.model.used(), "what is used");
        let rows = self.lab.rib.routes(&RouteFilter::default());
        let kept = rows
            .iter()
            .map(|row| (row.prefix, row.from.map_or(0, |peer| peer.0 as u8), row.path_id, row.stale))
            .collect();
        assert_eq!(self.model.kept(), kept, "what is kept");
        for n in (1..=PEERS).filter(|n| self.model.is_up(*n)) {
            let receiver = self.lab.pull(n);
            let mut told: BTreeMap<Prefix, Vec<Received>> = BTreeMap::new();
            for ((prefix, _), received) in &receiver.routes {
                told.entry(*prefix).or_default().push(received.clone());
            }
            for received in told.values_mut() {
                received.sort_by_key(|received| format!("{received:?}"));
            }
            assert_eq!(receiver.ends.len(), 2, "End-of-RIB once a family and session");
            let mut expected = self.model.advertised(n);
            for received in expected.values_mut() {
                received.sort_by_key(|received| format!("{received:?}"));
            }
            assert_eq!(told, expected, "what peer {n} has");
            let stats = self.lab.rib.peer_stats(id(n)).unwrap();
            let sent: usize = stats.families.values().map(|family| family.sent).sum();
            assert_eq!(sent, expected.values().map(Vec::len).sum::<usize>());
        }
    }
}

fn run(backlog: usize, multipath: usize, relax: bool, next_hop_check: NextHopCheck, ops: &[Op]) {
    let config = RibConfig {
        transit: true,
        route_reflector: true,
        group_backlog: backlog,
        multipath,
        multipath_relax: relax,
        next_hop_check,
        identity_pools: vec![prefix("10.1.0.0/16"), prefix("fd00::/64")],
        ..config()
    };
    let mut run = Run { lab: Lab::new(config.clone()), model: Model::new(config), used: BTreeMap::new() };
    for n in 1..=PEERS {
        run.apply(&Op::Up { n, preserved: true, import: 0, export: 0 });
    }
    for op in ops {
        run.apply(op);
    }
    run.check();
    // Nothing is left when everybody has gone.
    for n in 1..=PEERS {
        run.lab.rib.peer_removed(id(n), run.lab.now);
    }
    for prefix in PREFIXES {
        run.lab.rib.withdraw_local(super::kit::prefix(prefix), run.lab.now);
    }
    while run.lab.rib.has_best_changes() {
        run.lab.rib.poll_best(100);
    }
    run.lab.rib.poll_best(1);
    let stats = run.lab.rib.stats();
    assert_eq!((stats.attribute_sets, stats.update_groups, stats.next_hops), (0, 0, 0));
    assert!(stats.prefixes.values().all(|n| *n == 0) && stats.paths.values().all(|n| *n == 0), "{stats:?}");
}

proptest! {
    #[test]
    fn equals_the_model(
        backlog in prop_oneof![Just(0usize), Just(300), Just(1 << 20)],
        multipath in 1..4usize,
        check in prop::sample::select(vec![NextHopCheck::Prefer, NextHopCheck::Require, NextHopCheck::Off]),
        relax in any::<bool>(),
        ops in prop::collection::vec(op(), 1..150),
    ) {
        run(backlog, multipath, relax, check, &ops);
    }
}
