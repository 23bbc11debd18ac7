//! Getting to Established, whatever the network does to the bytes and whoever dials.

use std::time::Duration;

use super::pair::Pair;
use crate::bgp::{
    session::{Event, State, Stop},
    wire::PeerKind,
};

#[test]
fn both_dial_at_once_and_one_connection_stays() {
    let mut pair = Pair::new();
    pair.establish();
    let negotiated = pair.negotiated(0);
    assert_eq!(negotiated.peer_asn.get(), 65000);
    assert_eq!(negotiated.kind, PeerKind::External);
    assert_eq!(negotiated.hold_time, Duration::from_secs(90));
    assert!(negotiated.four_octet_as && negotiated.extended_message && negotiated.enhanced_refresh);
    // Up for long with nothing but KEEPALIVEs.
    pair.run(Duration::from_secs(3600));
    assert!(pair.is_established());
    for side in 0..2 {
        let established = pair.events[side].iter().filter(|e| matches!(e, Event::Established { .. })).count();
        assert_eq!(established, 1);
        assert!(pair.down(side).is_none());
    }
}

#[test]
fn one_side_passive() {
    for passive in 0..2 {
        let mut pair = Pair::with(|c| c.passive = passive == 0, |c| c.passive = passive == 1);
        pair.establish();
        assert_eq!(pair.failures(0), Vec::<String>::new());
    }
}

#[test]
fn bytes_in_any_pieces() {
    for chunk in 1..200 {
        let mut pair = Pair::new();
        pair.chunk = chunk;
        pair.establish();
    }
}

#[test]
fn refused_dials_go_on() {
    let mut pair = Pair::new();
    pair.refuse = true;
    pair.start();
    pair.run(Duration::from_secs(60));
    assert!(matches!(pair.states(), [State::Active | State::Connect, State::Active | State::Connect]));
    assert_eq!(pair.failures(0)[0], "connection refused");
    pair.refuse = false;
    assert!(pair.run_until(Duration::from_secs(10), Pair::is_established));
}

#[test]
fn shutdown_tells_its_reason_and_start_brings_it_back() {
    let mut pair = Pair::new();
    pair.establish();
    pair.stop(0, Stop::Shutdown("maintenance until noon".into()));
    pair.run(Duration::from_secs(300));
    assert_eq!(pair.states()[0], State::Idle);
    assert_eq!(
        pair.failures(1)[0],
        "received Cease/Hard Reset (Cease/Administrative Shutdown \"maintenance until noon\")"
    );
    pair.establish();
}
