//! Graceful restart, of peers and our own.

use std::time::Duration;

use super::kit::*;
use crate::{
    bgp::{
        rib::{
            DownReason, FamilyParams, GracefulParams, LocalRoute, PeerParams, Restart, RibConfig, RibEvent,
            RouteFilter,
        },
        wire::{Community, PathAttributes, PerFamily},
    },
    model::Family,
};

const P: &str = "10.1.0.0/16";
const Q: &str = "10.2.0.0/16";

fn graceful(n: u8, preserved: bool, long_lived: Option<u64>) -> PeerParams {
    let graceful = GracefulParams {
        forwarding_preserved: preserved,
        restart_time: Duration::from_secs(10),
        long_lived: long_lived.map(Duration::from_secs),
        stale_time: Duration::from_secs(30),
    };
    let family = FamilyParams { graceful: Some(graceful), sends_end_of_rib: true, ..FamilyParams::default() };
    PeerParams { families: PerFamily::both(Some(family)), ..ibgp(n) }
}

fn kept(lab: &mut Lab) -> Vec<(String, bool)> {
    let rows = lab.rib.routes(&RouteFilter::default());
    rows.iter().map(|row| (row.prefix.to_string(), row.stale)).collect()
}

fn lost(preserved: bool, long_lived: Option<u64>) -> Lab {
    let mut lab = Lab::new(config());
    lab.up(1, graceful(1, preserved, long_lived));
    lab.update(1, announce(1, internal(), &[P, Q]));
    lab.rib.poll_best(9);
    lab.rib.peer_down(id(1), DownReason::Restarting, lab.now);
    assert_eq!(kept(&mut lab), [(P.to_owned(), true), (Q.to_owned(), true)]);
    assert!(lab.rib.poll_best(9).is_empty(), "forwarding goes on");
    lab
}

#[test]
fn a_peer_that_does_not_come_back() {
    let mut lab = lost(true, None);
    lab.wait(9);
    assert_eq!(kept(&mut lab).len(), 2);
    assert_eq!(lab.rib.poll_timeout(), Some(lab.now + Duration::from_secs(1)));
    lab.wait(1);
    assert!(kept(&mut lab).is_empty());
    let expired = RibEvent::StaleExpired { peer: id(1), family: Family::Ipv4, paths: 2 };
    assert_eq!(lab.rib.poll_event(), Some(expired));
    assert_eq!(lab.rib.poll_timeout(), None);
}

#[test]
fn a_peer_that_comes_back_and_sends_less() {
    let mut lab = lost(true, None);
    lab.wait(5);
    lab.up(1, graceful(1, true, None));
    lab.update(1, announce(1, internal(), &[P]));
    assert_eq!(kept(&mut lab), [(P.to_owned(), false), (Q.to_owned(), true)]);
    assert!(lab.rib.poll_best(9).is_empty(), "what is announced again the same is no change");
    lab.update(1, end_of_rib(Family::Ipv4));
    assert_eq!(kept(&mut lab), [(P.to_owned(), false)]);
    assert_eq!(lab.rib.poll_event(), Some(RibEvent::EndOfRib { peer: id(1), family: Family::Ipv4 }));
    assert_eq!(lab.rib.poll_best(9).len(), 1);
    lab.wait(100);
    assert_eq!(kept(&mut lab).len(), 1);
}

#[test]
fn a_peer_that_comes_back_without_its_forwarding_state() {
    let mut lab = lost(true, None);
    lab.up(1, graceful(1, false, None));
    assert!(kept(&mut lab).is_empty());
    let mut lab = lost(true, None);
    lab.up(1, ibgp(1));
    assert!(kept(&mut lab).is_empty(), "nor without the capability");
}

#[test]
fn a_peer_that_comes_back_but_never_ends() {
    let mut lab = lost(true, None);
    lab.up(1, graceful(1, true, None));
    lab.wait(29);
    assert_eq!(kept(&mut lab).len(), 2);
    lab.wait(1);
    assert!(kept(&mut lab).is_empty());
}

/// RFC 4724 section 4.2: routes that were stale already do not survive a second restart.
#[test]
fn a_peer_that_restarts_twice() {
    let mut lab = lost(true, None);
    lab.up(1, graceful(1, true, None));
    lab.update(1, announce(1, internal(), &[P]));
    lab.rib.peer_down(id(1), DownReason::Restarting, lab.now);
    assert_eq!(kept(&mut lab), [(P.to_owned(), true)]);
}

#[test]
fn the_end_of_a_session_without_grace() {
    let mut lab = Lab::new(config());
    lab.up(1, graceful(1, true, None));
    lab.update(1, announce(1, internal(), &[P]));
    lab.rib.peer_down(id(1), DownReason::Flush, lab.now);
    assert!(kept(&mut lab).is_empty());
    // The other peer never asked for it.
    lab.up(2, ibgp(2));
    lab.update(2, announce(2, internal(), &[P]));
    lab.rib.peer_down(id(2), DownReason::Restarting, lab.now);
    assert!(kept(&mut lab).is_empty());
}

/// RFC 9494 section 4.2 and 4.3.
#[test]
fn long_lived() {
    let mut lab = Lab::new(config());
    lab.up(1, graceful(1, true, Some(100)));
    lab.up(2, ibgp(2));
    let unwanted = PathAttributes { communities: vec![Community::NO_LLGR], ..internal() };
    lab.update(1, announce(1, internal(), &[P]));
    lab.update(1, announce(1, unwanted, &[Q]));
    let worse = PathAttributes { local_pref: Some(1), ..internal() };
    lab.update(2, announce(2, worse, &[P]));
    lab.rib.peer_down(id(1), DownReason::Restarting, lab.now);
    assert_eq!(lab.best(P).unwrap(), "192.0.2.1");
    lab.wait(10);
    assert_eq!(lab.best(P).unwrap(), "192.0.2.2", "anything is better than long-lived stale");
    assert_eq!(lab.best(Q), None, "NO_LLGR");
    let rows = lab.rib.routes(&RouteFilter::default());
    assert_eq!(rows[1].communities, ["llgr-stale"]);
    lab.wait(99);
    assert_eq!(kept(&mut lab).len(), 2);
    lab.wait(1);
    assert_eq!(kept(&mut lab), [(P.to_owned(), false)]);
}

#[test]
fn long_lived_and_back() {
    let mut lab = lost(true, Some(20));
    lab.wait(10);
    lab.up(1, graceful(1, true, Some(20)));
    assert_eq!(kept(&mut lab).len(), 2);
    lab.update(1, announce(1, internal(), &[P]));
    assert_eq!(lab.rib.routes(&RouteFilter::default())[0].communities, [""; 0]);
    // The long-lived timer has gone on.
    lab.wait(20);
    assert_eq!(kept(&mut lab), [(P.to_owned(), false)]);
}

fn restarting(peers: usize) -> Lab {
    let restart = Some(Restart {
        peers,
        connect_wait: Duration::from_secs(20),
        gather: Duration::from_secs(5),
        deferral: Duration::from_secs(60),
    });
    Lab::new(RibConfig { restart, route_reflector: true, ..config() })
}

fn converged(lab: &mut Lab) -> bool {
    std::iter::from_fn(|| lab.rib.poll_event()).any(|event| event == RibEvent::Converged)
}

#[test]
fn our_restart_ends_when_all_have_sent_all() {
    let mut lab = restarting(2);
    lab.rib.originate(prefix("10.9.0.1/32"), LocalRoute::default(), lab.now);
    lab.up(1, graceful(1, true, None));
    for family in Family::ALL {
        lab.update(1, end_of_rib(family));
    }
    assert!(!converged(&mut lab), "the second peer is not here yet");
    // Our own prefixes do not wait; End-of-RIB does, since what we reflect is not complete.
    assert_eq!(lab.pull(1).prefixes(), ["10.9.0.1/32"]);
    assert!(lab.receivers[&1].ends.is_empty());
    lab.up(2, graceful(2, true, None));
    lab.update(2, end_of_rib(Family::Ipv4));
    assert!(!converged(&mut lab));
    lab.update(2, end_of_rib(Family::Ipv6));
    assert!(converged(&mut lab));
    assert!(lab.rib.peers_with_output().contains(&id(1)));
    assert_eq!(lab.pull(1).ends.len(), 2);
    assert_eq!(lab.pull(2).ends.len(), 2);
}

#[test]
fn our_restart_does_not_wait_for_the_dead() {
    let mut lab = restarting(2);
    lab.wait(0);
    lab.up(1, graceful(1, true, None));
    for family in Family::ALL {
        lab.update(1, end_of_rib(family));
    }
    assert_eq!(lab.rib.poll_timeout(), Some(lab.now + Duration::from_secs(5)));
    lab.wait(19);
    assert!(!converged(&mut lab));
    lab.wait(1);
    assert!(converged(&mut lab));
}

#[test]
fn our_restart_does_not_wait_for_ever() {
    let mut lab = restarting(1);
    lab.wait(0);
    lab.up(1, graceful(1, true, None));
    lab.wait(59);
    assert!(!converged(&mut lab));
    lab.wait(1);
    assert!(converged(&mut lab));
    assert_eq!(lab.rib.poll_timeout(), None);
}

/// Who promises no End-of-RIB gets some time, and no more once it has sent one all the same.
#[test]
fn our_restart_waits_a_while_for_those_who_promise_nothing() {
    let mut lab = restarting(1);
    lab.wait(5);
    lab.up(1, ibgp(1));
    lab.wait(9);
    assert!(!converged(&mut lab), "its routes may still be on their way");
    assert_eq!(lab.rib.poll_timeout(), Some(lab.now + Duration::from_secs(1)));
    lab.wait(1);
    assert!(converged(&mut lab));
    let mut lab = restarting(1);
    lab.up(1, ibgp(1));
    for family in Family::ALL {
        assert!(!converged(&mut lab));
        lab.update(1, end_of_rib(family));
    }
    assert!(converged(&mut lab));
}

/// RFC 4724 section 3: a capability without families promises End-of-RIB all the same. What the kernel has is kept
/// until the routes are there, however long the peer takes to send them.
#[test]
fn our_restart_waits_for_those_who_help_only() {
    let mut lab = restarting(1);
    let family = FamilyParams { sends_end_of_rib: true, ..FamilyParams::default() };
    lab.up(1, PeerParams { families: PerFamily::both(Some(family)), ..ibgp(1) });
    assert!(!converged(&mut lab), "its routes are still to come");
    for family in Family::ALL {
        lab.update(1, end_of_rib(family));
    }
    assert!(converged(&mut lab));
}

/// A route over two neighbours does not narrow to the one that is back first, for a while.
#[test]
fn best_paths_are_held_back_after_our_restart() {
    let mut lab = restarting(2);
    lab.wait(0);
    lab.up(1, graceful(1, true, None));
    lab.update(1, announce(1, internal(), &[P]));
    for family in Family::ALL {
        lab.update(1, end_of_rib(family));
    }
    assert!(!lab.rib.has_best_changes() && lab.rib.poll_best(10).is_empty(), "the other one is not here yet");
    let mut late = restarting(2);
    std::mem::swap(&mut lab, &mut late);
    // The second one comes: at once when it has sent all.
    late.up(2, graceful(2, true, None));
    late.update(2, announce(2, internal(), &[P]));
    assert!(late.rib.poll_best(10).is_empty());
    for family in Family::ALL {
        late.update(2, end_of_rib(family));
    }
    let changes = late.rib.poll_best(10);
    assert_eq!((changes.len(), converged(&mut late)), (1, true));
    // It does not come: after five seconds, while what is stale in the kernel stays for longer.
    lab.wait(0);
    lab.up(1, graceful(1, true, None));
    lab.update(1, announce(1, internal(), &[P]));
    assert_eq!(lab.rib.poll_timeout(), Some(lab.now + Duration::from_secs(5)));
    lab.wait(5);
    assert_eq!((lab.rib.poll_best(10).len(), converged(&mut lab)), (1, false));
}

/// Two that restart at the same time must not wait for each other's End-of-RIB; what the kernel has waits for theirs.
#[test]
fn a_restarting_neighbour_gets_end_of_rib_at_once_and_is_waited_for() {
    let mut lab = restarting(1);
    lab.up(1, PeerParams { restarting: true, ..graceful(1, true, None) });
    assert_eq!(lab.pull(1).ends.len(), 2);
    assert!(!converged(&mut lab), "its routes are still to come");
    for family in Family::ALL {
        lab.update(1, end_of_rib(family));
    }
    assert!(converged(&mut lab));
}

/// A host reflects nothing: its End-of-RIB needs nobody.
#[test]
fn a_host_sends_end_of_rib_at_once() {
    let restart = Some(Restart {
        peers: 1,
        connect_wait: Duration::from_secs(20),
        gather: Duration::from_secs(5),
        deferral: Duration::from_secs(60),
    });
    let mut lab = Lab::new(RibConfig { restart, ..config() });
    lab.rib.originate(prefix("10.9.0.1/32"), LocalRoute::default(), lab.now);
    lab.up(1, graceful(1, true, None));
    assert_eq!(lab.pull(1).ends.len(), 2);
}

/// RFC 5882 section 4.3.1: a neighbour whose forwarding is lost while it restarts.
#[test]
fn lost_forwarding_ends_the_grace() {
    let mut lab = lost(true, Some(60));
    lab.rib.forwarding_lost(id(1), lab.now);
    assert_eq!(kept(&mut lab), []);
    // Of a peer that is up it says nothing.
    let mut lab = lost(true, None);
    lab.up(1, graceful(1, true, None));
    lab.rib.forwarding_lost(id(1), lab.now);
    assert!(!kept(&mut lab).is_empty());
}
