//! How sessions end, what the peer is told, and when they come back.

use std::time::Duration;

use super::{
    hand::{Hand, graceful, open},
    pair::Pair,
};
use crate::{
    bgp::{
        session::{Event, Input, State, Stop},
        wire::{Message, Notification},
    },
    model::Family,
};

fn established(n_bit: Option<bool>) -> Hand {
    let mut hand = Hand::new(|_| {});
    let mut open = open();
    open.capabilities.extend(n_bit.map(|n| graceful(n, true)));
    hand.established_with(open);
    hand
}

/// The NOTIFICATION for each reason, without graceful restart, with it, and with RFC 8538; whether routes stay; and
/// the state that follows.
#[test]
fn stops() {
    use State::{Active, Idle};
    let max = Stop::MaxPrefixes { family: Family::Ipv6, limit: 0x0102_0304, restart: None };
    type Answer = (Option<(u8, u8)>, bool);
    let rows: Vec<(Stop, [Answer; 3], State)> = vec![
        (
            Stop::Shutdown("bye".into()),
            [(Some((6, 2)), false), (Some((6, 2)), false), (Some((6, 9)), false)],
            Idle,
        ),
        (
            Stop::Reset(String::new()),
            [(Some((6, 4)), false), (Some((6, 4)), false), (Some((6, 4)), true)],
            Active,
        ),
        (Stop::Deconfigured, [(Some((6, 3)), false), (Some((6, 3)), false), (Some((6, 9)), false)], Idle),
        (Stop::ConfigChange, [(Some((6, 6)), false), (Some((6, 6)), false), (Some((6, 6)), true)], Active),
        (max, [(Some((6, 1)), false), (Some((6, 1)), false), (Some((6, 9)), false)], Idle),
        (
            Stop::BfdDown { forwarding_lost: true },
            [(Some((6, 10)), false), (Some((6, 10)), false), (Some((6, 9)), false)],
            Idle,
        ),
        (
            Stop::BfdDown { forwarding_lost: false },
            [(Some((6, 10)), false), (Some((6, 10)), false), (Some((6, 9)), false)],
            Idle,
        ),
        (Stop::LinkDown, [(None, false), (None, false), (None, false)], Idle),
        (Stop::OutOfResources, [(Some((6, 8)), false), (Some((6, 8)), false), (Some((6, 8)), true)], Idle),
        (Stop::PlannedRestart, [(Some((6, 4)), false), (None, true), (None, true)], Idle),
    ];
    for (stop, answers, state) in rows {
        for (n_bit, (codes, retain)) in [None, Some(false), Some(true)].into_iter().zip(answers) {
            let mut hand = established(n_bit);
            hand.input(Input::Stop(stop.clone()));
            assert_eq!(hand.codes(), codes, "{stop:?} {n_bit:?}");
            assert_eq!(hand.down().map(|(_, retain)| retain), Some(retain), "{stop:?} {n_bit:?}");
            assert_eq!(hand.session.state(), state, "{stop:?}");
            assert_eq!(hand.events.iter().filter(|e| matches!(e, Event::Down { .. })).count(), 1);
        }
    }
}

#[test]
fn data_of_ceases() {
    let mut hand = established(None);
    hand.input(Input::Stop(Stop::MaxPrefixes { family: Family::Ipv6, limit: 0x0102_0304, restart: None }));
    assert_eq!(&hand.notification().unwrap().data[..], &[0, 2, 1, 1, 2, 3, 4]);
    let mut hand = established(Some(true));
    hand.input(Input::Stop(Stop::Shutdown("to the attic".into())));
    let notification = hand.notification().unwrap();
    assert_eq!(notification.hard_reset_cause().map(|n| (n.code, n.subcode)), Some((6, 2)));
    assert_eq!(notification.shutdown_text().as_deref(), Some("to the attic"));
}

#[test]
fn max_prefixes_comes_back_in_its_own_time_or_when_started() {
    let max = |restart| Stop::MaxPrefixes { family: Family::Ipv4, limit: 10, restart };
    let mut hand = established(None);
    hand.input(Input::Stop(max(Some(Duration::from_secs(300)))));
    hand.wait(Duration::from_secs(299));
    assert!(hand.session.accept(hand.now).is_none());
    hand.wait(Duration::from_secs(1));
    hand.established_with(open());
    hand.input(Input::Stop(max(None)));
    hand.wait(Duration::from_secs(100_000));
    assert!(hand.session.is_stopped() && hand.session.accept(hand.now).is_none());
    hand.input(Input::Start);
    hand.established_with(open());
}

#[test]
fn a_stop_in_every_state() {
    for steps in 0..4 {
        let mut hand = Hand::new(|_| {});
        let conn = match steps {
            0 => None,
            1 => Some(hand.open_sent()),
            2 => Some(hand.open_confirm_with(open())),
            _ => Some(hand.established_with(open())),
        };
        hand.input(Input::Stop(Stop::Shutdown(String::new())));
        assert_eq!(hand.codes(), conn.map(|_| (6, 2)));
        assert_eq!(hand.session.state(), State::Idle);
        assert_eq!(hand.session.poll_timeout(), None);
        assert!(conn.is_none_or(|conn| hand.closed(conn)));
        // A stopped session stays so.
        for stop in [Stop::Reset(String::new()), Stop::ConfigChange, Stop::BfdDown { forwarding_lost: false }]
        {
            hand.input(Input::Stop(stop));
            assert!(hand.session.is_stopped());
            assert_eq!(hand.session.poll_timeout(), None);
        }
    }
}

/// DampPeerOscillations: the wait doubles up to its maximum, and starts over after a session that stayed up.
#[test]
fn damping() {
    let mut hand = Hand::new(|_| {});
    let mut waits = Vec::new();
    for _ in 0..9 {
        let conn = hand.open_sent();
        hand.receive(conn, &Message::Notification(Notification::new(2, 2)));
        assert_eq!(hand.session.state(), State::Idle);
        assert!(hand.session.accept(hand.now).is_none());
        let wait = hand.session.poll_timeout().unwrap() - hand.now;
        waits.push(wait.as_secs_f32());
        hand.wait(wait);
        assert_eq!(hand.session.state(), State::Active);
    }
    for (wait, nominal) in waits.iter().zip([1., 2., 4., 8., 16., 32., 60., 60., 60.]) {
        assert!((nominal * 0.75..=nominal).contains(wait), "{waits:?}");
    }
    let conn = hand.established_with(open());
    hand.wait(Duration::from_secs(80));
    hand.input(Input::Closed(conn, None));
    assert_eq!(hand.session.state(), State::Active);
    // Down again at once: Idle, for a second.
    let conn = hand.established_with(open());
    hand.input(Input::Closed(conn, None));
    assert_eq!(hand.session.state(), State::Idle);
    assert!(hand.session.poll_timeout().unwrap() - hand.now <= Duration::from_secs(2));
}

#[test]
fn strict_bfd_is_waited_for() {
    let mut pair = Pair::with(|c| c.bfd_strict = true, |_| {});
    pair.start();
    pair.run(Duration::from_secs(600));
    assert_eq!(pair.states()[0], State::Idle);
    pair.input(0, Input::BfdUp);
    assert!(pair.run_until(Duration::from_secs(30), Pair::is_established));
    pair.stop(0, Stop::BfdDown { forwarding_lost: true });
    pair.run(Duration::from_secs(600));
    assert_eq!(pair.states()[0], State::Idle);
    let text = pair.down(1).unwrap().0.to_string();
    assert!(text.contains("BFD Down"), "{text}");
    pair.input(0, Input::BfdUp);
    assert!(pair.run_until(Duration::from_secs(30), Pair::is_established));
}

#[test]
fn bfd_down_without_strict_comes_back_by_itself() {
    let mut pair = Pair::new();
    pair.establish();
    pair.stop(1, Stop::BfdDown { forwarding_lost: false });
    pair.run(Duration::from_millis(50));
    assert_eq!(pair.down(0).map(|(_, retain)| retain), Some(false));
    assert!(pair.run_until(Duration::from_secs(30), Pair::is_established));
    let (failure, retain) = pair.down(1).unwrap();
    assert!(failure.neighbour_is_gone() && !retain, "{failure}");
}

/// What BFD's word does to routes, by what the neighbour offers, by its C bit, and by what is configured.
#[test]
fn bfd_down_and_graceful_restart() {
    let offers = |notification| {
        let mut open = open();
        open.capabilities.push(graceful(notification, true));
        open
    };
    let hard = Some((6, 9));
    let cease = Some((6, 10));
    // Graceful configured, the C bit, what the neighbour offers: whether routes stay, and what it is told.
    let rows = [
        (false, false, open(), false, cease),
        (false, false, offers(false), false, cease),
        (false, false, offers(true), false, hard),
        (false, true, offers(true), false, hard),
        (true, false, open(), false, cease),
        // RFC 4724: a NOTIFICATION would take the routes away at the neighbour.
        (true, false, offers(false), true, None),
        (true, false, offers(true), true, cease),
        // Its BFD does not fail for a restart: forwarding has.
        (true, true, offers(false), false, cease),
        (true, true, offers(true), false, hard),
    ];
    for (graceful, forwarding_lost, open, retain, told) in rows {
        let what = format!("{graceful} {forwarding_lost} {:?}", open.capabilities);
        let mut hand = Hand::new(|c| c.bfd_graceful = graceful);
        hand.established_with(open);
        hand.input(Input::Stop(Stop::BfdDown { forwarding_lost }));
        let (failure, kept) = hand.down().unwrap();
        assert_eq!(kept, retain, "{what}");
        assert!(failure.neighbour_is_gone(), "{what}: {failure}");
        assert_eq!(hand.codes(), told, "{what}");
        // And it comes back by itself.
        hand.wait(Duration::from_secs(2));
        assert_eq!(hand.session.state(), State::Active, "{what}");
    }
}

/// The neighbour's BFD is down on purpose, then no longer, and has not come up yet.
#[test]
fn strict_bfd_waits_again() {
    let mut pair = Pair::with(|c| c.bfd_strict = true, |_| {});
    pair.start();
    pair.input(0, Input::BfdUp);
    assert!(pair.run_until(Duration::from_secs(30), Pair::is_established));
    pair.input(0, Input::BfdWaiting);
    pair.run(Duration::from_secs(200));
    assert!(pair.is_established(), "it is no failure");
    pair.stop(1, Stop::Reset(String::new()));
    pair.run(Duration::from_secs(200));
    assert_eq!(pair.states()[0], State::Idle);
    pair.input(0, Input::BfdUp);
    assert!(pair.run_until(Duration::from_secs(30), Pair::is_established));
}

/// Whatever was kept for a restart is not forwarded to over a dead link.
#[test]
fn link_down_during_a_restart() {
    let mut pair = Pair::new();
    pair.establish();
    pair.stop(0, Stop::PlannedRestart);
    pair.run(Duration::from_millis(100));
    assert_eq!(pair.down(1).map(|(_, retain)| retain), Some(true));
    pair.refuse = true;
    pair.stop(1, Stop::LinkDown);
    assert!(pair.events[1].iter().any(|event| matches!(event, Event::ForwardingLost)));
}

/// RFC 5882 section 4.3: while a neighbour restarts, its BFD fails as well unless it is independent of what restarts.
#[test]
fn bfd_down_during_a_restart() {
    for forwarding_lost in [false, true] {
        let mut pair = Pair::new();
        pair.establish();
        pair.stop(0, Stop::PlannedRestart);
        pair.run(Duration::from_millis(100));
        assert_eq!(pair.down(1).map(|(_, retain)| retain), Some(true));
        pair.refuse = true;
        pair.stop(1, Stop::BfdDown { forwarding_lost });
        let told = pair.events[1].iter().any(|event| matches!(event, Event::ForwardingLost));
        assert_eq!(told, forwarding_lost);
    }
}
