//! The plain way of routes: in, chosen, out.

use super::kit::*;
use crate::{
    bgp::{
        rib::{Best, BestChange, DownReason, LocalRoute},
        wire::WireNextHop,
    },
    model::Family,
};

fn changes(lab: &mut Lab) -> Vec<(String, Option<Best>)> {
    lab.rib
        .poll_best(100)
        .into_iter()
        .map(|BestChange { prefix, best, .. }| (prefix.to_string(), best))
        .collect()
}

#[test]
fn learned_routes_come_out_as_best_paths() {
    let mut lab = Lab::new(config());
    lab.up(1, ebgp(1));
    lab.up(2, ebgp(2));
    lab.update(1, announce(1, from(1), &["10.1.0.0/16", "10.2.0.0/16"]));
    lab.update(2, announce(2, from(2), &["10.1.0.0/16"]));
    let seen = changes(&mut lab);
    assert_eq!(seen.len(), 2);
    let best = seen[0].1.as_ref().unwrap();
    assert_eq!(best.next_hops.to_string(), "192.0.2.1, 192.0.2.2");
    assert_eq!((best.from, best.local, best.stale), (Some(id(1)), false, false));
    assert_eq!(seen[1].1.as_ref().unwrap().next_hops.to_string(), "192.0.2.1");
    assert_eq!(changes(&mut lab), []);

    // The same again changes nothing; a withdrawal leaves the other path; the end of a session takes the rest.
    lab.update(1, announce(1, from(1), &["10.1.0.0/16"]));
    assert_eq!(changes(&mut lab), []);
    lab.update(1, withdraw(&["10.1.0.0/16"]));
    let seen = changes(&mut lab);
    assert_eq!(seen[0].1.as_ref().unwrap().next_hops.to_string(), "192.0.2.2");
    lab.rib.peer_down(id(1), DownReason::Flush, lab.now);
    assert_eq!(changes(&mut lab), [("10.2.0.0/16".to_owned(), None)]);
    // What comes and goes unseen is not told of.
    lab.update(2, announce(2, from(2), &["10.3.0.0/16"]));
    lab.update(2, withdraw(&["10.3.0.0/16"]));
    assert_eq!(changes(&mut lab), []);
}

#[test]
fn a_host_sends_only_its_own() {
    let mut lab = Lab::new(config());
    lab.up(1, ebgp(1));
    lab.up(2, ebgp(2));
    lab.up(3, ibgp(3));
    lab.up(4, ibgp(4));
    lab.update(1, announce(1, from(1), &["10.1.0.0/16"]));
    lab.update(3, announce(3, internal(), &["10.3.0.0/16"]));
    lab.rib.originate(prefix("10.9.0.1/32"), LocalRoute::default(), lab.now);
    lab.rib.originate(prefix("fd00::1/128"), LocalRoute::default(), lab.now);
    for n in 1..=4 {
        let receiver = lab.pull(n);
        assert_eq!(receiver.prefixes(), ["10.9.0.1/32", "fd00::1/128"], "peer {n}");
        assert_eq!(receiver.ends, [Family::Ipv4, Family::Ipv6]);
    }
    let route = lab.receivers[&1].route("10.9.0.1/32").unwrap();
    assert_eq!(route.next_hop, WireNextHop::V4("192.0.2.100".parse().unwrap()));
    assert_eq!(route.attributes.as_path.to_string(), "64512");
    assert_eq!(route.attributes.local_pref, None);
    let route = lab.receivers[&3].route("fd00::1/128").unwrap();
    assert_eq!(route.next_hop, WireNextHop::V6("2001:db8::100".parse().unwrap()));
    assert_eq!(
        (route.attributes.as_path.to_string(), route.attributes.local_pref),
        (String::new(), Some(100))
    );
    assert!(lab.rib.settled(prefix("10.9.0.1/32")));

    assert!(lab.rib.withdraw_local(prefix("10.9.0.1/32"), lab.now));
    assert!(!lab.rib.withdraw_local(prefix("10.9.0.1/32"), lab.now));
    assert!(!lab.rib.settled(prefix("10.9.0.1/32")));
    for n in 1..=4 {
        assert_eq!(lab.pull(n).prefixes(), ["fd00::1/128"]);
    }
    assert!(lab.rib.settled(prefix("10.9.0.1/32")));
}

#[test]
fn our_own_come_first_in_a_dump() {
    let mut lab = Lab::transit();
    lab.up(1, ebgp(1));
    lab.update(1, announce(1, from(1), &["10.1.0.0/16", "10.2.0.0/16"]));
    lab.rib.originate(prefix("10.9.0.1/32"), LocalRoute::default(), lab.now);
    lab.up(2, ebgp(2));
    assert_eq!(lab.pull(2).order[0], prefix("10.9.0.1/32"));
    assert_eq!(lab.receivers[&2].routes.len(), 3);
}
