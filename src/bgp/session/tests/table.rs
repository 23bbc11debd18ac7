//! Every state with every message and event (RFC 4271 section 8.2.2, RFC 6608).

use std::time::Duration;

use bytes::Bytes;

use super::hand::{Hand, bytes_of, end_of_rib, graceful, open};
use crate::bgp::{
    session::{ConnId, Event, Failure, Input, State},
    wire::{Message, Notification, RouteRefresh},
};

#[derive(Clone, Copy, Debug)]
enum In {
    DelayOpen,
    OpenSent,
    OpenConfirm,
    Established,
}

fn get_to(state: In) -> (Hand, ConnId) {
    let mut hand = Hand::new(|config| {
        if let In::DelayOpen = state {
            config.timers.delay_open = Duration::from_secs(5);
        }
    });
    let conn = match state {
        In::DelayOpen => hand.accept(),
        In::OpenSent => hand.open_sent(),
        In::OpenConfirm => hand.open_confirm_with(open()),
        In::Established => hand.established_with(open()),
    };
    (hand, conn)
}

fn refresh() -> Message {
    Message::RouteRefresh(RouteRefresh { afi: 1, subtype: 0, safi: 1 })
}

/// The state after a message, and the NOTIFICATION it was answered with.
#[test]
fn messages() {
    use State::{Active, Established, Idle, OpenConfirm};
    type Row = (In, Message, State, Option<(u8, u8)>);
    let rows: &[Row] = &[
        (In::DelayOpen, Message::Open(open()), OpenConfirm, None),
        (In::DelayOpen, Message::Keepalive, Idle, Some((5, 0))),
        (In::DelayOpen, end_of_rib(), Idle, Some((5, 0))),
        (In::DelayOpen, Message::Notification(Notification::new(2, 1)), Idle, None),
        (In::OpenSent, Message::Open(open()), OpenConfirm, None),
        (In::OpenSent, Message::Keepalive, Idle, Some((5, 1))),
        (In::OpenSent, end_of_rib(), Idle, Some((5, 1))),
        (In::OpenSent, refresh(), Idle, Some((5, 1))),
        (In::OpenSent, Message::Notification(Notification::new(6, 5)), Idle, None),
        (In::OpenConfirm, Message::Open(open()), Idle, Some((5, 2))),
        (In::OpenConfirm, Message::Keepalive, Established, None),
        (In::OpenConfirm, end_of_rib(), Idle, Some((5, 2))),
        (In::OpenConfirm, refresh(), Idle, Some((5, 2))),
        (In::OpenConfirm, Message::Notification(Notification::new(6, 5)), Idle, None),
        // The first failure of a session does not keep the peer out (see `Next::Damp`).
        (In::Established, Message::Open(open()), Active, Some((5, 3))),
        (In::Established, Message::Keepalive, Established, None),
        (In::Established, end_of_rib(), Established, None),
        (In::Established, refresh(), Established, None),
        (In::Established, Message::Notification(Notification::new(6, 4)), Active, None),
    ];
    for (state, message, expected, notification) in rows {
        let (mut hand, conn) = get_to(*state);
        hand.receive(conn, message);
        assert_eq!(hand.session.state(), *expected, "{state:?} {message:?}");
        assert_eq!(hand.codes(), *notification, "{state:?} {message:?}");
        if let Some((5, _)) = notification {
            // RFC 6608 section 4: the data is the type of the message.
            assert_eq!(hand.notification().unwrap().data[0], bytes_of(message)[18]);
        }
        let over = *expected < State::OpenConfirm;
        assert_eq!(hand.closed(conn), over, "{state:?} {message:?}");
    }
}

/// The connection is closed by the peer, or breaks.
#[test]
fn connection_lost_in_each_state() {
    for (state, expected) in [
        (In::DelayOpen, State::Active),
        (In::OpenSent, State::Active),
        (In::OpenConfirm, State::Idle),
        (In::Established, State::Active),
    ] {
        for why in [None, Some("connection reset by peer".to_owned())] {
            let (mut hand, conn) = get_to(state);
            hand.input(Input::Closed(conn, why.clone()));
            assert_eq!(hand.session.state(), expected, "{state:?}");
            assert_eq!(hand.codes(), None);
            let failure = why.map_or(Failure::Closed, Failure::Lost);
            match state {
                In::Established => assert_eq!(hand.down(), Some((&failure, false))),
                _ => assert_eq!(hand.down(), None),
            }
            // What comes late for it does no harm.
            hand.receive(conn, &Message::Keepalive);
            hand.input(Input::Wrote { conn, progress: true, pending: true });
            hand.input(Input::ReadPaused(conn, true));
            assert_eq!(hand.session.state(), expected);
        }
    }
}

#[test]
fn header_errors_in_each_state() {
    let mut marker = bytes_of(&Message::Keepalive).to_vec();
    marker[3] = 0;
    let mut length = bytes_of(&Message::Keepalive).to_vec();
    length[17] = 18;
    let mut kind = bytes_of(&Message::Keepalive).to_vec();
    kind[18] = 9;
    for state in [In::DelayOpen, In::OpenSent, In::OpenConfirm, In::Established] {
        for (bytes, codes, data) in
            [(&marker, (1, 1), &[][..]), (&length, (1, 2), &[0, 18]), (&kind, (1, 3), &[9])]
        {
            let (mut hand, conn) = get_to(state);
            hand.input(Input::Bytes(conn, Bytes::copy_from_slice(bytes)));
            assert_eq!(hand.codes(), Some(codes), "{state:?}");
            assert_eq!(&hand.notification().unwrap().data[..], data);
            assert!(hand.closed(conn));
        }
    }
}

/// A message of the wrong kind is the graver fault, whatever is in it.
#[test]
fn a_broken_update_before_established_is_a_state_error() {
    let mut bytes = bytes_of(&end_of_rib()).to_vec();
    bytes[20] = 200;
    let (mut hand, conn) = get_to(In::OpenConfirm);
    hand.input(Input::Bytes(conn, Bytes::from(bytes.clone())));
    assert_eq!(hand.codes(), Some((5, 2)));
    let (mut hand, conn) = get_to(In::Established);
    hand.input(Input::Bytes(conn, Bytes::from(bytes)));
    assert_eq!(hand.codes(), Some((3, 1)));
}

#[test]
fn hold_timer() {
    let mut hand = Hand::new(|_| {});
    let conn = hand.open_sent();
    hand.wait(Duration::from_secs(239));
    assert_eq!(hand.session.state(), State::OpenSent);
    hand.wait(Duration::from_secs(2));
    assert_eq!(hand.codes(), Some((4, 0)));
    assert!(hand.closed(conn));

    for state in [In::OpenConfirm, In::Established] {
        let (mut hand, conn) = get_to(state);
        hand.wait(Duration::from_secs(89));
        assert!(!hand.closed(conn));
        hand.wait(Duration::from_secs(1));
        assert_eq!(hand.codes(), Some((4, 0)));
    }
    // KEEPALIVE and UPDATE put it off.
    let (mut hand, conn) = get_to(In::Established);
    for message in [Message::Keepalive, end_of_rib(), refresh()] {
        hand.wait(Duration::from_secs(80));
        hand.receive(conn, &message);
    }
    assert_eq!(hand.session.state(), State::Established);
    // While we do not read, silence means nothing.
    hand.input(Input::ReadPaused(conn, true));
    hand.wait(Duration::from_secs(1000));
    assert_eq!(hand.session.state(), State::Established);
    hand.input(Input::ReadPaused(conn, false));
    hand.wait(Duration::from_secs(91));
    assert_eq!(hand.codes(), Some((4, 0)));
}

#[test]
fn keepalives_are_sent_in_time_and_with_jitter() {
    let (mut hand, conn) = get_to(In::Established);
    for _ in 0..20 {
        hand.wait(Duration::from_secs(30));
        hand.receive(conn, &Message::Keepalive);
    }
    let sent = hand.sent.iter().filter(|(_, m)| *m == Message::Keepalive).count();
    // 600 s, every 22.5 to 30 s.
    assert!((20..=26).contains(&sent), "{sent}");
}

#[test]
fn hold_time_zero_means_no_timers() {
    let mut hand = Hand::new(|config| config.timers.hold_time = Duration::ZERO);
    let conn = hand.open_confirm_with(open());
    // Until Established something must bound the wait, but not at once.
    hand.wait(Duration::from_secs(239));
    assert_eq!(hand.session.state(), State::OpenConfirm);
    assert!(hand.session.poll_timeout().is_some());
    hand.receive(conn, &Message::Keepalive);
    assert_eq!(hand.session.poll_timeout(), None);
    hand.wait(Duration::from_secs(100_000));
    assert_eq!(hand.session.state(), State::Established);
}

#[test]
fn send_hold_timer() {
    let (mut hand, conn) = get_to(In::Established);
    let blocked = Input::Wrote { conn, progress: false, pending: true };
    let keep = |hand: &mut Hand, seconds: u64| {
        for _ in 0..seconds / 10 {
            hand.wait(Duration::from_secs(10));
            hand.receive(conn, &Message::Keepalive);
        }
    };
    hand.input(blocked.clone());
    keep(&mut hand, 400);
    hand.input(Input::Wrote { conn, progress: true, pending: true });
    keep(&mut hand, 400);
    hand.input(blocked.clone());
    assert_eq!(hand.session.state(), State::Established);
    hand.input(Input::Wrote { conn, progress: true, pending: false });
    keep(&mut hand, 1000);
    // To be told again that nothing moves puts nothing off.
    hand.input(blocked.clone());
    keep(&mut hand, 400);
    hand.input(blocked);
    keep(&mut hand, 90);
    assert_eq!(hand.down(), Some((&Failure::SendHold, false)));
    assert_eq!(hand.codes(), None);
}

/// It counts as a NOTIFICATION that could not be sent: routes stay only where such a one would not take them (RFC 8538).
#[test]
fn routes_after_a_send_hold_by_the_n_bit() {
    for notification in [false, true] {
        let mut theirs = open();
        theirs.capabilities.push(graceful(notification, true));
        let mut hand = Hand::new(|_| {});
        let conn = hand.established_with(theirs);
        hand.input(Input::Wrote { conn, progress: false, pending: true });
        for _ in 0..49 {
            hand.wait(Duration::from_secs(10));
            hand.receive(conn, &Message::Keepalive);
        }
        assert_eq!(hand.down(), Some((&Failure::SendHold, notification)));
    }
}

/// RFC 2918 section 4: a request for a family that is not in use is ignored; so is a subtype that was not agreed on.
#[test]
fn refreshes_that_are_not_for_us() {
    for (afi, subtype) in [(2, 0), (3, 0), (1, 1), (1, 2), (1, 9)] {
        let (mut hand, conn) = get_to(In::Established);
        hand.receive(conn, &Message::RouteRefresh(RouteRefresh { afi, subtype, safi: 1 }));
        let told = hand.events.iter().any(|event| matches!(event, Event::Refresh(..)));
        assert!(!told, "{afi} {subtype}");
        assert_eq!(hand.session.state(), State::Established);
    }
}

/// An OPEN that is accepted ends the wait for the next dial: no second connection is opened beside it.
#[test]
fn nothing_is_dialed_beside_a_connection_that_goes_on() {
    let mut hand = Hand::new(|config| config.passive = false);
    let dials = |hand: &Hand| hand.events.iter().filter(|event| matches!(event, Event::Dial(_))).count();
    let Some(Event::Dial(dialed)) = hand.events.iter().find(|event| matches!(event, Event::Dial(_))) else {
        panic!("{:?}", hand.events)
    };
    let dialed = *dialed;
    hand.input(Input::DialFailed(dialed, "connection refused".to_owned()));
    assert_eq!(dials(&hand), 1);
    let conn = hand.accept();
    hand.receive(conn, &Message::Open(open()));
    assert_eq!(hand.session.state(), State::OpenConfirm);
    hand.wait(Duration::from_secs(80));
    assert_eq!((dials(&hand), hand.session.state()), (1, State::OpenConfirm));
}

#[test]
fn delay_open_expires() {
    let (mut hand, conn) = get_to(In::DelayOpen);
    assert_eq!(hand.session.state(), State::Active);
    assert_eq!(hand.sent, []);
    hand.wait(Duration::from_secs(5));
    assert!(matches!(hand.sent[..], [(c, Message::Open(_))] if c == conn));
    assert_eq!(hand.session.state(), State::OpenSent);
}

#[test]
fn a_refresh_is_asked_for_only_where_it_was_negotiated() {
    use crate::model::Family;
    let (mut hand, _) = get_to(In::Established);
    hand.input(Input::RequestRefresh(Family::Ipv6));
    assert_eq!(hand.sent, []);
    hand.input(Input::RequestRefresh(Family::Ipv4));
    assert!(
        matches!(hand.sent[..], [(_, Message::RouteRefresh(r))] if (r.afi, r.safi, r.subtype) == (1, 1, 0))
    );
    let mut open = open();
    open.capabilities.pop();
    let mut hand = Hand::new(|_| {});
    hand.established_with(open);
    hand.input(Input::RequestRefresh(Family::Ipv4));
    assert_eq!(hand.sent, []);
}
