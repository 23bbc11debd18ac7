//! Every step of the decision process, and multipath.

use super::kit::*;
use crate::bgp::{
    config::NextHopCheck,
    rib::{DecisionOptions, DownReason, FamilyParams, GracefulParams, LocalRoute, RibConfig, Step},
    wire::{
        AsPath, AsSegment, AsSegmentKind, Community, ExtCommunity, LargeCommunity, Origin, PathAttributes,
        PerFamily,
    },
};

const P: &str = "10.1.0.0/16";

/// Announces from peers 1 and 2 (both orders must agree) and returns the winner and where the other lost.
fn duel(
    config: &RibConfig,
    internal_peers: bool,
    first: &PathAttributes,
    second: &PathAttributes,
) -> (u8, Step) {
    let mut results = Vec::new();
    for order in [[1, 2], [2, 1]] {
        let mut lab = Lab::new(RibConfig { multipath: 1, ..config.clone() });
        for n in order {
            lab.up(n, if internal_peers { ibgp(n) } else { ebgp(n) });
        }
        for n in order {
            lab.update(n, announce(n, if n == 1 { first.clone() } else { second.clone() }, &[P]));
        }
        let explanation = lab.rib.explain(prefix(P)).unwrap();
        let (winner, loser) = (&explanation.paths[0], &explanation.paths[1]);
        assert!(winner.lost.is_none() && winner.route.best);
        results.push((winner.route.from.unwrap().0 as u8, loser.lost.as_ref().unwrap().step));
    }
    assert_eq!(results[0], results[1], "the order of arrival must not matter");
    results[0]
}

#[test]
fn steps_between_external_paths() {
    let path = |asns: &[u32]| PathAttributes { as_path: AsPath::sequence(asns), ..from(1) };
    let set = |lead: u32, set: &[u32]| {
        let mut attributes = path(&[lead]);
        attributes.as_path.segments.push(AsSegment { kind: AsSegmentKind::Set, asns: set.to_vec() });
        attributes
    };
    let origin = |n, origin| PathAttributes { origin: Some(origin), ..from(n) };
    let with = |n, c| PathAttributes { communities: vec![c], ..from(n) };
    let sequence = |n, number| PathAttributes {
        large_communities: vec![LargeCommunity { global: 4_200_000_000, local1: u32::MAX, local2: number }],
        ..from(n)
    };
    for (what, first, second, winner, step) in [
        ("shorter AS path", path(&[65001, 7, 8]), path(&[65002, 7]), 2, Step::AsPathLength),
        ("a set counts one", set(65001, &[3, 4, 5]), path(&[65002, 7, 8]), 1, Step::AsPathLength),
        ("origin", origin(1, Origin::Incomplete), origin(2, Origin::Egp), 2, Step::Origin),
        ("router id", from(1), from(2), 1, Step::RouterId),
        ("graceful shutdown", with(1, Community::GRACEFUL_SHUTDOWN), from(2), 2, Step::LocalPref),
        ("long-lived stale", with(1, Community::LLGR_STALE), path(&[65002, 7, 8]), 2, Step::LongLivedStale),
        ("newer attachment", sequence(1, 3), sequence(2, 4), 2, Step::Sequence),
        ("no attachment number is the oldest", from(1), sequence(2, 1), 2, Step::Sequence),
    ] {
        assert_eq!(duel(&config(), false, &first, &second), (winner, step), "{what}");
    }
}

#[test]
fn steps_between_internal_paths() {
    let local_pref = |lp| PathAttributes { local_pref: Some(lp), ..internal() };
    let originator = |n: u8| PathAttributes { originator_id: Some([10, 9, 9, n].into()), ..internal() };
    let cluster = |n: u8, clusters: usize| PathAttributes {
        cluster_list: vec![[1, 1, 1, 1].into(); clusters],
        ..originator(n)
    };
    for (what, first, second, winner, step) in [
        ("local preference", local_pref(100), local_pref(200), 2, Step::LocalPref),
        ("originator instead of router id", originator(9), originator(8), 2, Step::RouterId),
        ("cluster list", cluster(9, 2), cluster(9, 1), 2, Step::ClusterListLength),
        ("peer address", cluster(9, 1), cluster(9, 1), 1, Step::PeerAddress),
    ] {
        assert_eq!(duel(&config(), true, &first, &second), (winner, step), "{what}");
    }
}

#[test]
fn med_is_compared_within_a_neighbouring_as() {
    let path = |asn: u32, med: Option<u32>| PathAttributes {
        as_path: AsPath::sequence([asn, 9]),
        med,
        ..internal()
    };
    let always = RibConfig {
        decision: DecisionOptions { always_compare_med: true, ..DecisionOptions::default() },
        ..config()
    };
    let worst = RibConfig {
        decision: DecisionOptions { missing_med_worst: true, ..DecisionOptions::default() },
        ..config()
    };
    let ours = config();
    for (what, config, first, second, winner, step) in [
        ("same AS", &ours, path(7, Some(10)), path(7, Some(5)), 2, Step::Med),
        ("missing is 0", &ours, path(7, Some(10)), path(7, None), 2, Step::Med),
        ("missing is worst", &worst, path(7, Some(10)), path(7, None), 1, Step::Med),
        ("other AS", &ours, path(7, Some(10)), path(8, Some(5)), 1, Step::RouterId),
        ("always", &always, path(7, Some(10)), path(8, Some(5)), 2, Step::Med),
    ] {
        assert_eq!(duel(config, true, &first, &second), (winner, step), "{what}");
    }
}

/// The example of RFC 3345: with pairwise comparison the result depends on the order; here it must not.
#[test]
fn med_does_not_depend_on_the_order_of_arrival() {
    let paths = [(1, 7, 10), (2, 8, 0), (3, 7, 0)];
    let mut winners = Vec::new();
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut lab = Lab::new(RibConfig { multipath: 1, ..config() });
        for place in order {
            let (n, asn, med) = paths[place];
            lab.up(n, ibgp(n));
            let attributes =
                PathAttributes { as_path: AsPath::sequence([asn]), med: Some(med), ..internal() };
            lab.update(n, announce(n, attributes, &[P]));
        }
        winners.push(lab.best(P).unwrap());
    }
    assert_eq!(winners, vec!["192.0.2.2"; 6]);
}

#[test]
fn external_before_internal_and_ours_before_learned() {
    let mut lab = Lab::new(config());
    lab.up(1, ibgp(1));
    lab.up(2, ebgp(2));
    let inside = PathAttributes { as_path: AsPath::sequence([7]), ..internal() };
    lab.update(1, announce(1, inside.clone(), &[P]));
    lab.update(2, announce(2, from(2), &[P]));
    assert_eq!(lab.best(P).unwrap(), "192.0.2.2");
    let explanation = lab.rib.explain(prefix(P)).unwrap();
    assert_eq!(explanation.paths[1].lost.as_ref().unwrap().step, Step::External);
    assert_eq!(explanation.paths[1].lost.as_ref().unwrap().reason, "eBGP over iBGP: iBGP against eBGP");

    lab.rib.originate(prefix(P), LocalRoute::default(), lab.now);
    assert_eq!(lab.best(P).unwrap(), "ours");
    // A higher preference goes before that (RFC 4271 section 9.1.1).
    lab.update(1, announce(1, PathAttributes { local_pref: Some(200), ..inside }, &[P]));
    assert_eq!(lab.best(P).unwrap(), "192.0.2.1");
}

#[test]
fn cost_and_reachability_of_next_hops() {
    let mut lab = Lab::new(RibConfig { next_hop_check: NextHopCheck::Require, ..config() });
    for n in 1..=3 {
        lab.up(n, ibgp(n));
        lab.update(n, announce(n, internal(), &[P]));
    }
    assert_eq!(lab.best(P).unwrap(), "192.0.2.1");
    assert_eq!(lab.rib.poll_best(9)[0].best.as_ref().unwrap().next_hops.hops().len(), 3);
    lab.rib.set_next_hop_cost(addr(1), 0, Some(10));
    assert_eq!(lab.best(P).unwrap(), "192.0.2.2");
    assert_eq!(lab.rib.poll_best(9)[0].best.as_ref().unwrap().next_hops.to_string(), "192.0.2.2, 192.0.2.3");
    lab.rib.set_next_hop_cost(addr(2), 0, None);
    lab.rib.set_next_hop_cost(addr(3), 0, None);
    assert_eq!(lab.best(P).unwrap(), "192.0.2.1");
    lab.rib.set_next_hop_cost(addr(1), 0, None);
    assert_eq!(lab.best(P), None);
    assert_eq!(lab.rib.explain(prefix(P)).unwrap().paths[0].lost.as_ref().unwrap().step, Step::Unreachable);
    assert_eq!(lab.rib.poll_best(9)[0].best, None);
    lab.rib.set_next_hop_cost(addr(3), 0, Some(7));
    assert_eq!(lab.best(P).unwrap(), "192.0.2.3");
}

/// RFC 4271 section 9.1.2.1, and what to do where no next hop can be reached.
#[test]
fn unreachable_next_hops_come_last() {
    for check in [NextHopCheck::Prefer, NextHopCheck::Require, NextHopCheck::Off] {
        let transit_reflector =
            RibConfig { next_hop_check: check, route_reflector: true, transit: true, ..config() };
        let mut lab = Lab::new(transit_reflector);
        lab.up(1, client(1));
        lab.up(2, client(2));
        lab.up(3, client(3));
        lab.up(4, ebgp(4));
        // Better in every later step, but not to be reached.
        lab.update(1, announce(1, PathAttributes { local_pref: Some(300), ..internal() }, &[P]));
        lab.update(2, announce(2, internal(), &[P]));
        let reached = |lab: &mut Lab| {
            let best = lab.best(P).unwrap_or_default();
            let client = lab.pull(3).route(P).map(|r| r.next_hop.global().to_string()).unwrap_or_default();
            let external = lab.pull(4).route(P).is_some();
            (best, client, external)
        };
        let (one, two) = ("192.0.2.1".to_owned(), "192.0.2.2".to_owned());
        assert_eq!(reached(&mut lab), (one.clone(), one.clone(), true));
        lab.rib.set_next_hop_cost(addr(1), 0, None);
        let ignored = check == NextHopCheck::Off;
        let second = if ignored { &one } else { &two };
        assert_eq!(reached(&mut lab), (second.clone(), second.clone(), true), "{check:?}");
        lab.rib.set_next_hop_cost(addr(2), 0, None);
        let expected = match check {
            NextHopCheck::Off => (one.clone(), one.clone(), true),
            // Clients may know a way; whoever would send to us may not be led astray.
            NextHopCheck::Prefer => (one.clone(), one.clone(), false),
            NextHopCheck::Require => (String::new(), String::new(), false),
        };
        assert_eq!(reached(&mut lab), expected, "{check:?}");
        let verdict = lab.rib.explain(prefix(P)).unwrap().verdict;
        assert_eq!(verdict.contains("no next hop can be reached"), !ignored, "{verdict}");
        assert_eq!(lab.rib.stats().next_hops_unreachable, if ignored { 0 } else { 2 });
        // The same path as before, which can be reached now.
        lab.rib.set_next_hop_cost(addr(1), 0, Some(5));
        assert_eq!(reached(&mut lab), (one.clone(), one, true), "{check:?}");
    }
}

/// A change of the rule reaches what was decided and sent by the one before.
#[test]
fn the_check_of_next_hops_can_be_changed() {
    let config = RibConfig { route_reflector: true, ..config() };
    let mut lab = Lab::new(config.clone());
    lab.up(1, client(1));
    lab.up(2, client(2));
    lab.update(1, announce(1, internal(), &[P]));
    lab.rib.set_next_hop_cost(addr(1), 0, None);
    assert!(lab.pull(2).route(P).is_some());
    for (check, expected) in
        [(NextHopCheck::Require, false), (NextHopCheck::Off, true), (NextHopCheck::Require, false)]
    {
        lab.rib.reconfigure(RibConfig { next_hop_check: check, ..config.clone() }, lab.now);
        assert_eq!(lab.pull(2).route(P).is_some(), expected, "{check:?}");
    }
}

#[test]
fn the_oldest_external_path_stays_where_wanted() {
    let decision = DecisionOptions { prefer_oldest: true, ..DecisionOptions::default() };
    let mut lab = Lab::new(RibConfig { decision, multipath: 1, ..config() });
    lab.up(1, ebgp(1));
    lab.up(2, ebgp(2));
    lab.update(2, announce(2, from(2), &[P]));
    lab.wait(5);
    lab.update(1, announce(1, from(1), &[P]));
    assert_eq!(lab.best(P).unwrap(), "192.0.2.2");
}

#[test]
fn multipath() {
    let build = |config: RibConfig, paths: &[(u8, PathAttributes)]| {
        let mut lab = Lab::new(config);
        for (n, attributes) in paths {
            lab.up(*n, ebgp(*n));
            lab.update(*n, announce(*n, attributes.clone(), &[P]));
        }
        let changes = lab.rib.poll_best(9);
        changes[0].best.as_ref().unwrap().next_hops.to_string()
    };
    let three = [(1, from(1)), (2, from(2)), (3, from(3))];
    assert_eq!(build(config(), &three), "192.0.2.1, 192.0.2.2, 192.0.2.3");
    assert_eq!(build(RibConfig { multipath: 2, ..config() }, &three), "192.0.2.1, 192.0.2.2");
    assert_eq!(build(RibConfig { multipath: 1, ..config() }, &three), "192.0.2.1");
    // Other AS paths of equal length only when relaxed.
    assert_eq!(build(RibConfig { multipath_relax: false, ..config() }, &three), "192.0.2.1");
    let longer = PathAttributes { as_path: AsPath::sequence([65003, 9]), ..from(3) };
    assert_eq!(build(config(), &[(1, from(1)), (3, longer)]), "192.0.2.1");
}

#[test]
fn bandwidth_makes_weights() {
    let weigh = |bandwidths: &[Option<f32>]| {
        let mut lab = Lab::new(config());
        for (i, bandwidth) in bandwidths.iter().enumerate() {
            let n = i as u8 + 1;
            let ext = bandwidth.map(|b| ExtCommunity::link_bandwidth(1, b));
            lab.up(n, ibgp(n));
            let attributes = PathAttributes { ext_communities: ext.into_iter().collect(), ..internal() };
            lab.update(n, announce(n, attributes, &[P]));
        }
        let changes = lab.rib.poll_best(9);
        changes[0].best.as_ref().unwrap().next_hops.hops().iter().map(|hop| hop.weight).collect::<Vec<_>>()
    };
    assert_eq!(weigh(&[Some(1e9), Some(2e9), Some(3e9)]), [1, 2, 3]);
    assert_eq!(weigh(&[Some(5e9), Some(5e9)]), [1, 1]);
    assert_eq!(weigh(&[Some(1e9), None]), [1, 1], "one without bandwidth: all are equal");
    assert_eq!(weigh(&[Some(1.0), Some(1e12)]), [1, 240], "never 0");
    assert_eq!(weigh(&[Some(0.0), Some(1e9)]), [1, 1]);
    assert_eq!(weigh(&[Some(7e9)]), [1]);
}

/// A newer place of an address that we hold wins here, and we stop announcing it.
#[test]
fn an_address_that_has_moved() {
    let mut lab = Lab::new(config());
    lab.up(1, ebgp(1));
    lab.up(2, ebgp(2));
    let here = |sequence| LocalRoute { sequence: Some(sequence), ..LocalRoute::default() };
    let there = PathAttributes {
        large_communities: vec![LargeCommunity { global: 4_200_000_000, local1: u32::MAX, local2: 8 }],
        ..from(1)
    };
    lab.rib.originate(prefix("10.9.0.1/32"), here(7), lab.now);
    assert_eq!(lab.pull(2).prefixes(), ["10.9.0.1/32"]);
    lab.rib.poll_best(9);
    lab.update(1, announce(1, there, &["10.9.0.1/32"]));
    let changes = lab.rib.poll_best(9);
    let best = changes[0].best.as_ref().unwrap();
    assert_eq!((best.local, best.sequence), (false, Some(8)));
    assert_eq!(lab.pull(2).prefixes(), [""; 0]);
    lab.rib.originate(prefix("10.9.0.1/32"), here(9), lab.now);
    assert!(lab.rib.poll_best(9)[0].best.as_ref().unwrap().local);
    assert_eq!(lab.pull(2).prefixes(), ["10.9.0.1/32"]);
}

#[test]
fn a_stale_path_is_not_worse_until_long_lived() {
    let graceful = GracefulParams {
        restart_time: std::time::Duration::from_secs(10),
        long_lived: Some(std::time::Duration::from_secs(100)),
        ..GracefulParams::default()
    };
    let families =
        PerFamily::both(Some(FamilyParams { graceful: Some(graceful), ..FamilyParams::default() }));
    let mut lab = Lab::new(RibConfig { multipath: 1, ..config() });
    lab.up(1, crate::bgp::rib::PeerParams { families, ..ebgp(1) });
    lab.up(2, ebgp(2));
    for n in [1, 2] {
        lab.update(n, announce(n, from(n), &[P]));
    }
    lab.rib.peer_down(id(1), DownReason::Restarting, lab.now);
    assert_eq!(lab.best(P).unwrap(), "192.0.2.1");
    lab.wait(10);
    assert_eq!(lab.best(P).unwrap(), "192.0.2.2");
}
