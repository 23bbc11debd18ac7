//! Graceful restart (RFC 4724, RFC 8538) and connections that appear twice.

use std::time::Duration;

use super::{
    hand::{Hand, graceful, open},
    pair::{Pair, config},
};
use crate::bgp::{
    config::RemoteAs,
    session::{Event, Failure, Input, Session, State, Stop},
    wire::{Capability, Message, Notification, Open},
};

fn with_graceful(notification: bool) -> Open {
    let mut open = open();
    open.capabilities.push(graceful(notification, true));
    open
}

fn bits(open: &Open) -> (bool, Vec<bool>) {
    open.capabilities
        .iter()
        .find_map(|c| match c {
            Capability::GracefulRestart { restart_state, families, .. } => {
                Some((*restart_state, families.iter().map(|(_, _, f)| *f).collect()))
            }
            _ => None,
        })
        .unwrap()
}

/// Whether routes stay, by what the peer offered (nothing, RFC 4724, RFC 8538) and how the session ended.
#[test]
fn what_keeps_routes() {
    let offers = [open(), with_graceful(false), with_graceful(true)];
    type End = fn(&mut Hand, crate::bgp::session::ConnId);
    let rows: [(&str, End, [bool; 3]); 6] = [
        ("closed", |h, c| h.input(Input::Closed(c, None)), [false, true, true]),
        ("reset", |h, c| h.input(Input::Closed(c, Some("reset".into()))), [false, true, true]),
        ("hold timer", |h, _| h.wait(Duration::from_secs(91)), [false, false, true]),
        (
            "notification",
            |h, c| h.receive(c, &Message::Notification(Notification::new(6, 4))),
            [false, false, true],
        ),
        (
            "hard reset",
            |h, c| h.receive(c, &Message::Notification(Notification::new(6, 4).into_hard_reset())),
            [false, false, false],
        ),
        ("protocol error", |h, c| h.receive(c, &Message::Open(open())), [false, false, true]),
    ];
    for (what, end, expected) in rows {
        for (open, retain) in offers.iter().zip(expected) {
            let mut hand = Hand::new(|_| {});
            let conn = hand.established_with(open.clone());
            end(&mut hand, conn);
            assert_eq!(hand.down().unwrap().1, retain, "{what} {open:?}");
        }
    }
}

/// The R bit is sent until the first session, or until its time is over; the F bit from the first session on, or at
/// once when our forwarding state is still there.
#[test]
fn our_bits() {
    let sent = |hand: &mut Hand| {
        hand.sent.clear();
        let conn = hand.open_sent();
        let Message::Open(open) = hand.sent[0].1.clone() else { panic!() };
        (conn, bits(&open))
    };
    let mut hand = Hand::new(|_| {});
    let (conn, first) = sent(&mut hand);
    assert_eq!(first, (false, vec![false, false]));
    hand.receive(conn, &Message::Open(open()));
    hand.receive(conn, &Message::Keepalive);
    hand.input(Input::Closed(conn, None));
    assert_eq!(sent(&mut hand).1, (false, vec![true, true]));

    let mut config = config(64512, 0x100, RemoteAs::External);
    config.passive = true;
    let mut hand = Hand::new(|_| {});
    hand.session = Session::new(config.clone(), true, 1);
    hand.input(Input::Start);
    let (conn, first) = sent(&mut hand);
    assert_eq!(first, (true, vec![true, true]));
    // Not established yet: still restarting.
    hand.input(Input::Closed(conn, None));
    let (conn, second) = sent(&mut hand);
    assert_eq!(second, (true, vec![true, true]));
    hand.receive(conn, &Message::Open(open()));
    hand.receive(conn, &Message::Keepalive);
    hand.input(Input::Closed(conn, None));
    assert_eq!(sent(&mut hand).1, (false, vec![true, true]));

    let mut hand = Hand::new(|_| {});
    hand.session = Session::new(config, true, 1);
    hand.session.end_restarting();
    hand.input(Input::Start);
    assert_eq!(sent(&mut hand).1, (false, vec![true, true]));
}

/// A peer that has restarted connects while its old session still looks alive to us.
#[test]
fn a_new_connection_replaces_the_session_of_a_restarting_peer() {
    let mut hand = Hand::new(|_| {});
    let old = hand.established_with(with_graceful(false));
    hand.wait(Duration::from_secs(6));
    let new = hand.accept();
    // Nothing happens to the old one before an OPEN has come.
    assert!(!hand.closed(old) && hand.session.established() == Some(old));
    hand.receive(new, &Message::Open(with_graceful(false)));
    assert!(hand.closed(old));
    assert_eq!(hand.down(), Some((&Failure::Replaced, true)));
    assert_eq!(hand.codes(), None);
    hand.receive(new, &Message::Keepalive);
    assert_eq!(hand.session.established(), Some(new));
    // Down comes before Established.
    let order: Vec<_> = hand
        .events
        .iter()
        .filter_map(|e| match e {
            Event::Established { .. } => Some("up"),
            Event::Down { .. } => Some("down"),
            _ => None,
        })
        .collect();
    assert_eq!(order, ["up", "down", "up"]);
}

/// RFC 4271 section 6.8: without graceful restart the established session stays.
#[test]
fn a_new_connection_loses_against_an_established_one() {
    let mut hand = Hand::new(|_| {});
    let old = hand.established_with(open());
    hand.wait(Duration::from_secs(1));
    let new = hand.accept();
    hand.receive(new, &Message::Open(open()));
    assert!(hand.closed(new) && !hand.closed(old));
    assert_eq!(hand.codes(), Some((6, 7)));
    assert_eq!(hand.session.established(), Some(old));
    // The one that lost is no failure: it does not damp.
    hand.input(Input::Closed(old, None));
    assert_eq!(hand.session.state(), State::Active);
}

/// A connection that was on its way while the session came up is no sign of a restart.
#[test]
fn a_late_collision_is_no_restart() {
    let mut hand = Hand::new(|_| {});
    let old = hand.established_with(with_graceful(true));
    hand.wait(Duration::from_millis(200));
    let new = hand.accept();
    hand.receive(new, &Message::Open(with_graceful(true)));
    assert!(hand.closed(new) && !hand.closed(old));
    assert_eq!(hand.codes(), Some((6, 7)));
}

/// Both connections have the peer's OPEN: the higher identifier's own one stays; with equal identifiers the higher
/// AS decides (RFC 6286).
#[test]
fn collisions_in_open_confirm() {
    for (id, asn, outgoing_stays) in [
        ([0, 0, 0, 9], 65000, true),
        ([0, 0, 2, 0], 65000, false),
        ([0, 0, 1, 0], 65000, false),
        ([0, 0, 1, 0], 64511, true),
    ] {
        for outgoing_first in [true, false] {
            let mut hand = Hand::new(|c| c.passive = false);
            let [Event::Dial(dialed)] = hand.events[..] else { panic!("{:?}", hand.events) };
            hand.input(Input::Connected(dialed));
            let accepted = hand.accept();
            let mut open = open();
            open.router_id = id.into();
            open.my_as = asn;
            open.capabilities[1] = Capability::FourOctetAs(asn.into());
            let (first, second) = if outgoing_first { (dialed, accepted) } else { (accepted, dialed) };
            hand.receive(first, &Message::Open(open.clone()));
            hand.receive(second, &Message::Open(open));
            let (stays, goes) = if outgoing_stays { (dialed, accepted) } else { (accepted, dialed) };
            assert!(hand.closed(goes) && !hand.closed(stays), "{id:?} {asn} {outgoing_first}");
            assert_eq!(hand.codes(), Some((6, 7)));
            let told = hand.sent.iter().find(|(_, m)| matches!(m, Message::Notification(_)));
            assert_eq!(told.map(|(conn, _)| *conn), Some(goes));
            hand.receive(stays, &Message::Keepalive);
            assert_eq!(hand.session.established(), Some(stays));
        }
    }
}

#[test]
fn a_peer_that_connects_again_gives_up_its_first_attempt() {
    let mut hand = Hand::new(|_| {});
    let first = hand.open_sent();
    let second = hand.accept();
    assert!(hand.closed(first));
    hand.receive(second, &Message::Open(open()));
    let third = hand.accept();
    assert!(hand.closed(second) && !hand.closed(third));
}

/// A peer that connects and says nothing does not keep us from dialing.
#[test]
fn a_silent_connection_does_not_block() {
    let mut hand = Hand::new(|c| c.passive = false);
    hand.events.clear();
    hand.accept();
    hand.wait(Duration::from_secs(6));
    assert!(hand.events.iter().any(|e| matches!(e, Event::Dial(_))), "{:?}", hand.events);
}

#[test]
fn planned_restart_of_one_side() {
    let mut pair = Pair::new();
    pair.establish();
    pair.stop(0, Stop::PlannedRestart);
    pair.run(Duration::from_millis(100));
    assert_eq!(pair.down(1), Some((&Failure::Closed, true)));
    // The new process.
    let config = pair.sides[0].config().clone();
    pair.sides[0] = Session::new(config, true, 5);
    pair.input(0, Input::Start);
    assert!(pair.run_until(Duration::from_secs(30), Pair::is_established));
    let restart = pair.negotiated(1).graceful_restart.clone().unwrap();
    assert!(restart.restarting && restart.families.ipv4 == Some(true) && restart.families.ipv6 == Some(true));
}
