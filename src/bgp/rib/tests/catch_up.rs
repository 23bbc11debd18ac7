//! Members that do not just read: new ones, slow ones, refreshes.

use super::kit::*;
use crate::{
    bgp::{
        rib::{LocalRoute, PeerParams, Refresh, RibConfig, RibEvent},
        wire::PathAttributes,
    },
    model::Family,
};

fn many(count: u32) -> Vec<String> {
    (0..count).map(|n| format!("10.{}.{}.{}/32", n >> 16, n >> 8 & 255, n & 255)).collect()
}

fn feed(lab: &mut Lab, n: u8, med: u32, prefixes: &[String]) {
    let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
    for chunk in prefixes.chunks(500) {
        lab.update(n, announce(n, PathAttributes { med: Some(med), ..internal() }, chunk));
    }
}

#[test]
fn a_slow_member_is_bounded_and_gets_the_latest_only() {
    let mut lab = Lab::new(RibConfig { route_reflector: true, group_backlog: 10_000, ..config() });
    for n in 1..=3 {
        lab.up(n, client(n));
        lab.pull(n);
    }
    let all = many(1000);
    for med in 0..20 {
        feed(&mut lab, 1, med, &all);
        lab.pull(2);
    }
    let gone: Vec<&str> = all[..100].iter().map(String::as_str).collect();
    lab.update(1, withdraw(&gone));
    lab.pull(2);
    let slow = lab.pull(3);
    assert_eq!(slow.routes.len(), 900);
    assert!(slow.routes.values().all(|r| r.attributes.med == Some(19)));
    assert!(slow.order.len() < 6000, "not everything twenty times: {}", slow.order.len());
    assert_eq!(lab.receivers[&2].routes, lab.receivers[&3].routes);
    // Both read the log again.
    feed(&mut lab, 1, 50, &all[..1]);
    let (a, b) = (lab.rib.poll_output(id(2), 9999), lab.rib.poll_output(id(3), 9999));
    assert_eq!(a[0].as_ptr(), b[0].as_ptr());
}

/// The withdrawal of a prefix that a slow member has, and whose number was given away before it reads on.
#[test]
fn a_slow_member_hears_of_prefixes_that_are_forgotten() {
    let mut lab = Lab::new(RibConfig { route_reflector: true, group_backlog: 1000, ..config() });
    for n in 1..=3 {
        lab.up(n, client(n));
        lab.pull(n);
    }
    let all = many(2000);
    let (first, second) = all.split_at(1000);
    feed(&mut lab, 1, 1, first);
    lab.pull(2);
    lab.pull(3);
    let gone: Vec<&str> = first.iter().map(String::as_str).collect();
    lab.update(1, withdraw(&gone));
    lab.pull(2);
    feed(&mut lab, 1, 2, second);
    lab.pull(2);
    assert_eq!(lab.pull(3).routes.len(), 1000);
    assert_eq!(lab.receivers[&2].routes, lab.receivers[&3].routes);
}

#[test]
fn a_new_member_gets_everything_while_others_go_on() {
    let mut lab = Lab::reflector();
    lab.up(1, client(1));
    lab.up(2, client(2));
    let all = many(40_000);
    feed(&mut lab, 1, 1, &all);
    lab.pull(2);
    lab.up(3, client(3));
    // It takes a little, then the table changes under it.
    for piece in lab.rib.poll_output(id(3), 1000) {
        lab.receivers.get_mut(&3).unwrap().take(&piece);
    }
    assert!(lab.receivers[&3].ends.is_empty());
    feed(&mut lab, 1, 2, &all[..10_000]);
    let gone: Vec<&str> = all[39_000..].iter().map(String::as_str).collect();
    lab.update(1, withdraw(&gone));
    lab.rib.originate(prefix("10.200.0.1/32"), LocalRoute::default(), lab.now);
    for piece in lab.rib.poll_output(id(2), 1 << 24) {
        lab.receivers.get_mut(&2).unwrap().take(&piece);
    }
    let receiver = lab.pull(3);
    assert_eq!(receiver.routes.len(), 39_001);
    assert_eq!(receiver.ends, [Family::Ipv4, Family::Ipv6]);
    lab.pull(2);
    assert_eq!(lab.receivers[&2].routes, lab.receivers[&3].routes);
    assert_eq!(lab.receivers[&2].ends.len(), 2);
}

/// A container's prefix does not wait behind a table transfer.
#[test]
fn ours_overtake_a_dump() {
    let mut lab = Lab::reflector();
    lab.up(1, client(1));
    feed(&mut lab, 1, 1, &many(50_000));
    lab.up(2, client(2));
    let take = |lab: &mut Lab| {
        for piece in lab.rib.poll_output(id(2), 1) {
            lab.receivers.get_mut(&2).unwrap().take(&piece);
        }
    };
    take(&mut lab);
    let wanted = prefix("10.200.0.1/32");
    lab.rib.originate(wanted, LocalRoute::default(), lab.now);
    assert!(!lab.rib.settled(wanted));
    let mut steps = 0;
    lab.pull(1);
    while !lab.rib.settled(wanted) {
        take(&mut lab);
        steps += 1;
    }
    assert!(lab.receivers[&2].order.contains(&wanted));
    assert!(lab.receivers[&2].order.len() < 40_000, "{} in {steps} steps", lab.receivers[&2].order.len());
}

#[test]
fn refresh_for_the_peer() {
    for marks in [false, true] {
        let mut lab = Lab::reflector();
        lab.up(1, client(1));
        lab.up(2, PeerParams { enhanced_refresh: marks, ..client(2) });
        feed(&mut lab, 1, 1, &many(10));
        assert_eq!(lab.pull(2).order.len(), 10);
        lab.rib.refresh(id(2), Family::Ipv4, Refresh::Request, lab.now);
        let receiver = lab.pull(2);
        assert_eq!(receiver.order.len(), 20);
        assert_eq!(receiver.ends.len(), 2, "End-of-RIB is for sessions");
        let expected: &[_] = if marks { &[(Family::Ipv4, 1), (Family::Ipv4, 2)] } else { &[] };
        assert_eq!(receiver.marks, expected);
        feed(&mut lab, 1, 2, &many(1));
        assert_eq!(lab.pull(2).order.len(), 21);
        // Of a family with nothing to tell.
        lab.rib.refresh(id(2), Family::Ipv6, Refresh::Request, lab.now);
        assert_eq!(lab.pull(2).marks.len(), expected.len() * 2);
    }
}

#[test]
fn refresh_by_the_peer_sweeps_what_was_not_confirmed() {
    let mut lab = Lab::new(config());
    lab.up(1, ibgp(1));
    let all = many(4);
    feed(&mut lab, 1, 1, &all);
    lab.rib.refresh(id(1), Family::Ipv4, Refresh::End, lab.now);
    assert_eq!(lab.rib.poll_best(9).len(), 4, "an end without a beginning means nothing");
    lab.rib.refresh(id(1), Family::Ipv4, Refresh::Begin, lab.now);
    feed(&mut lab, 1, 1, &all[..2]);
    feed(&mut lab, 1, 2, &all[2..3]);
    lab.rib.poll_best(9);
    lab.rib.refresh(id(1), Family::Ipv4, Refresh::End, lab.now);
    let changes = lab.rib.poll_best(9);
    assert_eq!(changes.len(), 1);
    assert_eq!((changes[0].prefix.to_string(), changes[0].best.is_none()), (all[3].clone(), true));
}

#[test]
fn changed_import_rules() {
    let rules = |text: &str| {
        #[derive(serde::Deserialize)]
        struct File {
            rule: Vec<crate::bgp::rib::filter::Rule>,
        }
        toml::from_str::<File>(text).unwrap().rule.into()
    };
    let with = |import| PeerParams { import, ..ibgp(1) };
    let mut lab = Lab::new(config());
    lab.up(1, with(rules(r#"rule = [{ prefix = "10.0.0.1/32", set_local_pref = 200, prepend = 1 }]"#)));
    feed(&mut lab, 1, 1, &many(4));
    let prefs = |lab: &mut Lab| {
        let rows = lab.rib.routes(&crate::bgp::rib::RouteFilter::default());
        rows.iter().map(|r| (r.local_pref.unwrap(), r.as_path.clone())).collect::<Vec<_>>()
    };
    let plain = (100, String::new());
    assert_eq!(prefs(&mut lab), [plain.clone(), (200, "64512".into()), plain.clone(), plain.clone()]);
    // Another rule works on what was received, not on what the first has made of it.
    lab.rib.peer_changed(
        id(1),
        with(rules(
            r#"rule = [{ prefix = "10.0.0.2/32", set_local_pref = 50 }, { prefix = "10.0.0.3/32", action = "reject" }]"#,
        )),
        lab.now,
    );
    assert_eq!(prefs(&mut lab), [plain.clone(), plain.clone(), (50, String::new())]);
    assert_eq!(lab.rib.poll_event(), None, "nothing had been rejected");
    // What was rejected is not kept: the peer is asked for it.
    lab.rib.peer_changed(id(1), ibgp(1), lab.now);
    assert_eq!(prefs(&mut lab).len(), 3);
    assert_eq!(lab.rib.poll_event(), Some(RibEvent::RefreshNeeded { peer: id(1), family: Family::Ipv4 }));
    assert_eq!(lab.rib.poll_event(), None);
}

#[test]
fn everything_is_given_back() {
    let mut lab = Lab::reflector();
    for round in 0..3 {
        for n in 1..=3 {
            lab.up(n, client(n));
        }
        for n in 1..=2 {
            feed(&mut lab, n, round, &many(5000));
        }
        lab.pull(3);
        while !lab.rib.poll_best(1000).is_empty() {}
        for n in 1..=3 {
            lab.rib.peer_removed(id(n), lab.now);
        }
        while !lab.rib.poll_best(1000).is_empty() {}
        let stats = lab.rib.stats();
        assert_eq!(stats.attribute_sets, 0);
        assert_eq!(stats.update_groups, 0);
        assert_eq!((stats.prefixes[&Family::Ipv4], stats.paths[&Family::Ipv4]), (0, 0));
    }
}
