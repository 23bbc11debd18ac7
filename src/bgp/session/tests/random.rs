//! Anything may happen in any order: no panic, no timer without end, and in the end a session.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    hand::{bytes_of, end_of_rib, open},
    pair::Pair,
};
use crate::{
    bgp::{
        session::{Event, Input, State, Stop},
        wire::{Message, Notification},
    },
    model::Family,
};

#[derive(Clone, Debug)]
enum Step {
    Run(u64),
    Cut,
    BlackHole(bool),
    Refuse(bool),
    Chunk(usize),
    Latency(u64),
    Stop(usize, u8),
    Start(usize),
    /// A message out of nowhere on some connection of a side.
    Inject(usize, usize, u8),
    Garbage(usize, usize, Vec<u8>),
    Accept(usize),
    Wrote(usize, usize, bool, bool),
    Paused(usize, usize, bool),
    Refresh(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let side = 0..2_usize;
    let conn = 0..6_usize;
    let step = prop_oneof![
        6 => (0..120_000_u64).prop_map(Step::Run),
        4 => (0..200_u64).prop_map(Step::Run),
        2 => Just(Step::Cut),
        1 => any::<bool>().prop_map(Step::BlackHole),
        1 => any::<bool>().prop_map(Step::Refuse),
        1 => (1..100_usize).prop_map(Step::Chunk),
        1 => (0..3_000_u64).prop_map(Step::Latency),
        2 => (side.clone(), 0..8_u8).prop_map(|(s, k)| Step::Stop(s, k)),
        2 => side.clone().prop_map(Step::Start),
        2 => (side.clone(), conn.clone(), 0..6_u8).prop_map(|(s, c, k)| Step::Inject(s, c, k)),
        1 => (side.clone(), conn.clone(), proptest::collection::vec(any::<u8>(), 0..60))
            .prop_map(|(s, c, b)| Step::Garbage(s, c, b)),
        1 => side.clone().prop_map(Step::Accept),
        1 => (side.clone(), conn.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(s, c, a, b)| Step::Wrote(s, c, a, b)),
        1 => (side.clone(), conn, any::<bool>()).prop_map(|(s, c, p)| Step::Paused(s, c, p)),
        1 => side.prop_map(Step::Refresh),
    ];
    proptest::collection::vec(step, 0..40)
}

fn stop(kind: u8) -> Stop {
    match kind {
        0 => Stop::Shutdown("x".into()),
        1 => Stop::Reset("y".into()),
        2 => Stop::Deconfigured,
        3 => Stop::ConfigChange,
        4 => Stop::MaxPrefixes { family: Family::Ipv4, limit: 1, restart: Some(Duration::from_secs(7)) },
        5 => Stop::BfdDown { forwarding_lost: true },
        6 => Stop::OutOfResources,
        _ => Stop::PlannedRestart,
    }
}

fn message(kind: u8) -> Message {
    match kind {
        0 => Message::Open(open()),
        1 => Message::Keepalive,
        2 => end_of_rib(),
        3 => Message::Notification(Notification::new(6, 2)),
        4 => Message::Notification(Notification::new(2, 4)),
        _ => Message::Notification(Notification::new(6, 7)),
    }
}

fn apply(pair: &mut Pair, step: Step) {
    let conn = |pair: &Pair, side: usize, nth: usize| {
        // Old ones too: they must be ignored.
        let seen: Vec<_> = pair.conns[side].iter().copied().collect();
        seen.get(seen.len().wrapping_sub(1 + nth)).copied()
    };
    match step {
        Step::Run(ms) => pair.run(Duration::from_millis(ms)),
        Step::Cut => pair.cut(),
        Step::BlackHole(on) => pair.black_hole = on,
        Step::Refuse(on) => pair.refuse = on,
        Step::Chunk(chunk) => pair.chunk = chunk,
        Step::Latency(ms) => pair.latency = Duration::from_millis(ms),
        Step::Stop(side, kind) => pair.stop(side, stop(kind)),
        Step::Start(side) => pair.input(side, Input::Start),
        Step::Inject(side, nth, kind) => {
            if let Some(conn) = conn(pair, side, nth) {
                pair.input(side, Input::Bytes(conn, bytes_of(&message(kind))));
            }
        }
        Step::Garbage(side, nth, bytes) => {
            if let Some(conn) = conn(pair, side, nth) {
                pair.input(side, Input::Bytes(conn, Bytes::from(bytes)));
            }
        }
        Step::Accept(side) => {
            // From nowhere, and nobody at the other end.
            if let Some(id) = pair.sides[side].accept(pair.now) {
                pair.conns[side].insert(id);
            }
            pair.collect(side);
        }
        Step::Wrote(side, nth, progress, pending) => {
            if let Some(conn) = conn(pair, side, nth) {
                pair.input(side, Input::Wrote { conn, progress, pending });
            }
        }
        Step::Paused(side, nth, paused) => {
            if let Some(conn) = conn(pair, side, nth) {
                pair.input(side, Input::ReadPaused(conn, paused));
            }
        }
        Step::Refresh(side) => pair.input(side, Input::RequestRefresh(Family::Ipv4)),
    }
}

fn check(pair: &Pair) {
    for (session, events) in pair.sides.iter().zip(&pair.events) {
        // A session that is neither stopped nor passive has something that moves it on.
        let running = !session.is_stopped() && !session.config().passive;
        if running && session.state() != State::Established {
            assert!(session.poll_timeout().is_some(), "stuck in {}", session.state());
        }
        if let Some(at) = session.poll_timeout() {
            // The longest timer is the send hold timer, 8 minutes.
            assert!(at <= pair.now + Duration::from_secs(481));
        }
        // Established and Down alternate.
        let mut up = false;
        for event in events {
            match event {
                Event::Established { .. } => assert!(!std::mem::replace(&mut up, true)),
                Event::Down { .. } => assert!(std::mem::replace(&mut up, false)),
                _ => {}
            }
        }
        assert_eq!(up, session.state() == State::Established);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn always_recovers(steps in steps(), passive in 0..3_usize) {
        let mut pair = Pair::with(|c| c.passive = passive == 1, |c| c.passive = passive == 2);
        pair.start();
        for step in steps {
            apply(&mut pair, step);
            check(&pair);
        }
        // The network and the administrators come to reason.
        pair.black_hole = false;
        pair.refuse = false;
        pair.chunk = usize::MAX;
        pair.latency = Duration::from_millis(5);
        for side in 0..2 {
            for conn in pair.conns[side].clone() {
                pair.input(side, Input::ReadPaused(conn, false));
                pair.input(side, Input::Wrote { conn, progress: true, pending: false });
            }
            pair.input(side, Input::Start);
        }
        // A connection from nowhere may last until the hold time of an unanswered OPEN.
        let up = pair.run_until(Duration::from_secs(600), Pair::is_established);
        prop_assert!(up, "{:?} {:?} {:?}", pair.states(), pair.failures(0), pair.failures(1));
        // And stays.
        pair.run(Duration::from_secs(500));
        pair.run_until(Duration::from_secs(600), Pair::is_established);
        let before = pair.sides[0].counters().established;
        pair.run(Duration::from_secs(600));
        prop_assert!(pair.is_established());
        prop_assert_eq!(pair.sides[0].counters().established, before);
        check(&pair);
    }
}
