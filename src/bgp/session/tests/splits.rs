//! What one side sends stops at every octet in turn, for a while or for ever, whoever dials.

use std::time::Duration;

use super::{
    hand::bytes_of,
    pair::{Fate, Pair},
};
use crate::{
    bgp::{
        session::{Event, Stop},
        wire::{AsPath, Message, Nlri, Origin, PathAttributes, Reach, RouteRefresh, Update, WireNextHop},
    },
    model::Family,
};

/// Who dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dials {
    First,
    Second,
    Both,
}

fn pair(dials: Dials) -> Pair {
    Pair::with(|c| c.passive = dials == Dials::Second, |c| c.passive = dials == Dials::First)
}

fn announcement(side: usize) -> Message {
    let asn = [64512, 65000][side];
    Message::Update(Update {
        reach: vec![Reach {
            family: Family::Ipv4,
            next_hop: WireNextHop::V4([192, 0, 2, side as u8 + 1].into()),
            nlri: vec![Nlri { prefix: "10.1.0.0/16".parse().unwrap(), path_id: 0 }],
        }],
        unreach: Vec::new(),
        attributes: PathAttributes {
            origin: Some(Origin::Igp),
            as_path: AsPath::sequence([asn]),
            ..PathAttributes::default()
        },
    })
}

/// Both sides come up, tell each other something of every kind, and one of them leaves.
fn talk(pair: &mut Pair) {
    pair.start();
    pair.run_until(Duration::from_secs(20), Pair::is_established);
    // A connection that lost a collision may be on its way out.
    pair.run(Duration::from_secs(1));
    for side in 0..2 {
        let Some(conn) = pair.sides[side].established() else { continue };
        let refresh = RouteRefresh { afi: 1, safi: 1, subtype: 0 };
        let messages = [announcement(side), Message::Keepalive, Message::RouteRefresh(refresh)];
        for message in messages {
            pair.write(side, conn, bytes_of(&message));
        }
    }
    pair.run(Duration::from_secs(40));
    pair.stop(0, Stop::Reset("goodbye".into()));
    pair.run(Duration::from_secs(5));
}

fn updates(pair: &Pair, side: usize) -> usize {
    pair.events[side].iter().filter(|event| matches!(event, Event::Update { .. })).count()
}

fn resets(pair: &Pair) -> usize {
    pair.failures(1).iter().filter(|text| text.contains("goodbye")).count()
}

/// How much each side says in all.
fn lengths(dials: Dials) -> [usize; 2] {
    let mut pair = pair(dials);
    talk(&mut pair);
    assert!([updates(&pair, 0), updates(&pair, 1), resets(&pair)] == [1, 1, 1], "{:?}", pair.failures(1));
    pair.sent
}

fn every_octet(fate: Fate, check: impl Fn(&mut Pair, &str)) {
    for dials in [Dials::First, Dials::Second, Dials::Both] {
        let lengths = lengths(dials);
        assert!(lengths.iter().all(|length| *length > 150), "{lengths:?}");
        for (side, length) in lengths.into_iter().enumerate() {
            for at in 0..length {
                let mut pair = pair(dials);
                pair.fate = Some((side, at, fate));
                talk(&mut pair);
                check(&mut pair, &format!("{dials:?} dial, octet {at} of side {side}, {fate:?}"));
                // Whatever happened, there is a session in the end, and what is said on it arrives.
                let up = pair.run_until(Duration::from_secs(400), Pair::is_established);
                assert!(up, "{dials:?} {at} {side} {fate:?}: {:?} {:?}", pair.failures(0), pair.failures(1));
                pair.run(Duration::from_secs(100));
                assert!(pair.run_until(Duration::from_secs(400), Pair::is_established));
                for side in 0..2 {
                    let before = updates(&pair, 1 - side);
                    let conn = pair.sides[side].established().unwrap();
                    pair.write(side, conn, bytes_of(&announcement(side)));
                    pair.run(Duration::from_secs(1));
                    assert_eq!(updates(&pair, 1 - side), before + 1, "{dials:?} {at} {side} {fate:?}");
                }
            }
        }
    }
}

/// A pause in the middle of anything changes nothing.
#[test]
fn a_pause_at_every_octet() {
    every_octet(Fate::Late(Duration::from_secs(3)), |pair, place| {
        assert_eq!([updates(pair, 0), updates(pair, 1), resets(pair)], [1, 1, 1], "{place}");
        let harmless = |text: &String| text.contains("goodbye") || text.contains("Collision");
        for side in 0..2 {
            let failures = pair.failures(side);
            assert!(failures.iter().all(harmless), "{place}: {failures:?}");
        }
    });
}

#[test]
fn the_connection_breaks_at_every_octet() {
    every_octet(Fate::Broken, |pair, place| {
        assert!(updates(pair, 0) <= 1 && updates(pair, 1) <= 1, "{place}: nothing is heard twice");
    });
}

/// The rest of a message never comes: the hold timer ends it.
#[test]
fn silence_at_every_octet() {
    every_octet(Fate::Lost, |pair, place| {
        assert!(updates(pair, 0) <= 1 && updates(pair, 1) <= 1, "{place}: nothing is heard twice");
    });
}
