//! What sessions do, rule by rule of RFC 5880.

use std::time::{Duration, Instant};

use super::{
    super::{ControlPacket, Diagnostic, Session, SessionConfig, SessionEvent, State},
    pair::{Pair, config, ms},
};

const EXPIRED: SessionEvent =
    SessionEvent::Down { diagnostic: Diagnostic::DETECTION_TIME_EXPIRED, forwarding_lost: false };
const SIGNALED: SessionEvent =
    SessionEvent::Down { diagnostic: Diagnostic::NEIGHBOR_SIGNALED_DOWN, forwarding_lost: false };

fn fast() -> SessionConfig {
    config(ms(50), 3)
}

fn gaps(times: &[Duration]) -> Vec<Duration> {
    times.windows(2).map(|w| w[1].saturating_sub(w[0])).collect()
}

#[test]
fn comes_up_quickly_and_settles_on_the_interval() {
    let mut pair = Pair::new(fast(), fast());
    pair.run(Duration::from_secs(3));
    assert_eq!(pair.states(), [State::Up; 2]);
    // Down, Init and Up are told at once, not after the slow interval.
    assert!(pair.events.iter().all(|(at, _, e)| *at < ms(20) && *e == SessionEvent::Up), "{:?}", pair.events);
    for side in 0..2 {
        let times: Vec<_> = pair.periodic(side).into_iter().filter(|t| *t > ms(1500)).collect();
        for gap in gaps(&times) {
            // Section 6.8.7: 75% to 100% of the interval.
            assert!(gap >= Duration::from_micros(37_500) && gap <= ms(50), "{gap:?}");
        }
        assert!(times.len() >= 29);
    }
    // Both poll sequences have ended.
    assert!(pair.sent.iter().any(|(.., p)| p.poll) && pair.sent.iter().any(|(.., p)| p.final_));
    assert!(pair.sent.iter().filter(|(t, ..)| *t > ms(100)).all(|(.., p)| !p.poll && !p.final_));
    assert!(pair.sent.iter().all(|(.., p)| !(p.poll && p.final_)));
}

#[test]
fn intervals_are_the_slower_of_what_both_want() {
    let slow_receiver = SessionConfig { required_min_rx: ms(200), ..fast() };
    let pair = Pair::up(fast(), slow_receiver);
    let (a, b) = (pair.sides[0].status(), pair.sides[1].status());
    assert_eq!((a.transmit_interval, b.transmit_interval), (ms(200), ms(50)));
    // Section 6.8.4: the neighbour's multiplier times the slower of what we take and it sends.
    assert_eq!((a.detection_time, b.detection_time), (ms(150), ms(600)));
    let other_multiplier = SessionConfig { multiplier: 5, ..fast() };
    assert_eq!(Pair::up(fast(), other_multiplier).sides[0].status().detection_time, ms(250));
}

#[test]
fn a_cut_is_seen_within_the_detection_time() {
    let mut pair = Pair::up(fast(), fast());
    let cut = pair.clock();
    pair.network(|_, _| None);
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.events.len(), 2);
    for (at, _, event) in &pair.events {
        assert_eq!(*event, EXPIRED);
        assert!(*at <= cut + ms(152), "{at:?} after {cut:?}");
    }
    // Section 6.8.3: slow again, with the neighbour's discriminator forgotten.
    let times: Vec<_> = pair.periodic(0).into_iter().filter(|t| *t > cut + ms(200)).collect();
    assert!(gaps(&times).iter().all(|g| *g >= ms(750)));
    let (.., last) = pair.sent.last().unwrap();
    assert_eq!((last.state, last.your_discriminator), (State::Down, 0));
    assert_eq!(last.diagnostic, Diagnostic::DETECTION_TIME_EXPIRED);
    // And back.
    pair.network(|_, _| Some(ms(1)));
    pair.run(ms(1100));
    assert_eq!(pair.states(), [State::Up; 2]);
    assert_eq!(pair.sides[0].status().diagnostic, Diagnostic::NONE);
}

#[test]
fn one_deaf_side_takes_both_down() {
    let mut pair = Pair::up(fast(), fast());
    // What side 1 sends is lost: side 0 notices and says so.
    pair.network(|side, _| (side == 0).then_some(ms(1)));
    pair.run(ms(400));
    let events: Vec<_> = pair.events.iter().map(|(_, side, event)| (*side, *event)).collect();
    assert_eq!(events[..2], [(0, EXPIRED), (1, SIGNALED)]);
}

#[test]
fn losing_fewer_than_the_multiplier_in_a_row_does_no_harm() {
    let mut pair = Pair::up(fast(), fast());
    // Every other one is lost for a minute, and the rest arrives unevenly.
    pair.network(|_, n| (n % 2 == 0).then(|| ms(n % 4)));
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.events, []);
}

#[test]
fn polls_survive_loss() {
    let mut pair = Pair::up(fast(), fast());
    // Every other packet is lost, the answers too.
    pair.network(|_, n| (n % 2 == 1).then_some(ms(1)));
    pair.sides[0].set_config(config(ms(100), 3), pair.now);
    pair.run(Duration::from_secs(3));
    assert_eq!(pair.events, []);
    assert_eq!(pair.sides[0].status().transmit_interval, ms(100));
    assert_eq!(pair.sides[1].status().detection_time, ms(300));
    assert!(!pair.sent.last().unwrap().2.poll);
}

#[test]
fn changed_intervals_hold_back_until_the_neighbour_knows() {
    let mut pair = Pair::up(fast(), fast());
    // Section 6.8.3: slower sending only after F; until then the neighbour counts on the old interval.
    pair.network(|_, _| None);
    pair.sides[0].set_config(config(ms(1000), 3), pair.now);
    assert_eq!(pair.sides[0].status().transmit_interval, ms(50));
    // Faster receiving: the neighbour may still send at the old interval.
    pair.network(|_, _| Some(ms(1)));
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.sides[0].status().transmit_interval, ms(1000));
    assert_eq!(pair.sides[0].status().detection_time, ms(3000));
    pair.sides[0].set_config(fast(), pair.now);
    assert_eq!(pair.sides[0].status().detection_time, ms(3000));
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.sides[0].status().detection_time, ms(150));
    assert_eq!(pair.events, []);
}

#[test]
fn administratively_down() {
    let mut pair = Pair::up(fast(), fast());
    pair.sides[0].set_admin_down(true);
    pair.run(ms(500));
    // Not a failure, and told at once.
    assert_eq!(pair.states(), [State::AdminDown, State::Down]);
    let events: Vec<_> = pair.events.iter().map(|(_, side, event)| (*side, *event)).collect();
    assert_eq!(events, [(1, SessionEvent::NeighborAdminDown)]);
    assert_eq!(pair.sides[1].status().diagnostic, Diagnostic::NEIGHBOR_SIGNALED_DOWN);
    pair.run(Duration::from_secs(10));
    assert_eq!(pair.states(), [State::AdminDown, State::Down]);
    pair.events.clear();
    pair.sides[0].set_admin_down(false);
    pair.run(Duration::from_secs(3));
    assert_eq!(pair.states(), [State::Up; 2]);
    let of_1: Vec<_> =
        pair.events.iter().filter(|(_, side, _)| *side == 1).map(|(.., event)| *event).collect();
    assert_eq!(of_1, [SessionEvent::NeighborAdminUp, SessionEvent::Up]);
}

#[test]
fn a_neighbour_that_is_down_on_purpose_from_the_start() {
    let mut pair = Pair::new(fast(), fast());
    pair.sides[0].set_admin_down(true);
    pair.run(Duration::from_secs(3));
    let told = |pair: &Pair| pair.events.iter().map(|(_, side, event)| (*side, *event)).collect::<Vec<_>>();
    assert_eq!(told(&pair), [(1, SessionEvent::NeighborAdminDown)]);
    // It falls silent: nobody knows any more whether it is on purpose.
    pair.network(|_, _| None);
    pair.run(Duration::from_secs(10));
    assert_eq!(told(&pair)[1..], [(1, SessionEvent::NeighborAdminUp)]);
}

#[test]
fn the_c_bit_tells_what_a_failure_means() {
    let independent = SessionConfig { control_plane_independent: true, ..fast() };
    let mut pair = Pair::up(fast(), independent);
    pair.network(|_, _| None);
    pair.run(ms(500));
    let lost = |side| {
        pair.events.iter().find_map(|(_, s, e)| match e {
            SessionEvent::Down { forwarding_lost, .. } if *s == side => Some(*forwarding_lost),
            _ => None,
        })
    };
    assert_eq!((lost(0), lost(1)), (Some(true), Some(false)));
}

#[test]
fn a_restart_within_the_detection_time_goes_unnoticed() {
    let mut pair = Pair::up(fast(), fast());
    let saved = pair.sides[0].save().unwrap();
    assert_eq!(saved.patience(), ms(150));
    pair.stopped[0] = true;
    pair.run(ms(90));
    pair.stopped[0] = false;
    let json = serde_json::to_string(&saved).unwrap();
    pair.sides[0] = Session::resume(fast(), &serde_json::from_str(&json).unwrap(), 9, pair.now);
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.states(), [State::Up; 2]);
    // Only the new process hears that it is up.
    assert_eq!(pair.events.iter().map(|(_, s, e)| (*s, *e)).collect::<Vec<_>>(), [(0, SessionEvent::Up)]);
    assert_eq!(pair.sides[0].local_discriminator(), 11);
}

#[test]
fn a_restart_that_takes_too_long_comes_back_all_the_same() {
    let mut pair = Pair::up(fast(), fast());
    let saved = pair.sides[0].save().unwrap();
    pair.stopped[0] = true;
    pair.run(ms(400));
    assert_eq!(pair.states()[1], State::Down);
    pair.stopped[0] = false;
    pair.sides[0] = Session::resume(fast(), &saved, 9, pair.now);
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.states(), [State::Up; 2]);
    // With other intervals than before, a poll sequence brings both to them.
    let saved = pair.sides[0].save().unwrap();
    pair.events.clear();
    pair.sides[0] = Session::resume(config(ms(200), 3), &saved, 9, pair.now);
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.events.len(), 1, "{:?}", pair.events);
    assert_eq!(pair.sides[1].status().detection_time, ms(600));
    assert!(pair.sides[0].save().is_some());
    pair.sides[0].set_admin_down(true);
    assert!(pair.sides[0].save().is_none());
}

/// A session of the control protocol that has come back with the process must not be ended by what happened before.
#[test]
fn what_happened_while_we_were_away_is_no_event() {
    // The neighbour gave up just before we came back.
    let mut pair = Pair::up(fast(), fast());
    let saved = pair.sides[0].save().unwrap();
    pair.stopped[0] = true;
    pair.run(ms(300));
    assert_eq!(pair.states()[1], State::Down);
    pair.stopped[0] = false;
    pair.events.clear();
    pair.sides[0] = Session::resume(fast(), &saved, 9, pair.now);
    pair.run(Duration::from_secs(5));
    let of_0: Vec<_> =
        pair.events.iter().filter(|(_, side, _)| *side == 0).map(|(.., event)| *event).collect();
    assert_eq!(of_0, [SessionEvent::Up]);
    // It is gone for good.
    let saved = pair.sides[0].save().unwrap();
    pair.events.clear();
    pair.stopped[1] = true;
    pair.sides[0] = Session::resume(fast(), &saved, 9, pair.now);
    pair.run(Duration::from_secs(5));
    assert_eq!((pair.events.as_slice(), pair.states()[0]), ([].as_slice(), State::Down));
}

/// RFC 5882 section 4.3.2.2: a planned restart may take longer than the detection time.
#[test]
fn patience_is_asked_for_before_a_planned_restart() {
    for (time, multiplier, away) in
        [(Duration::from_secs(5), 100, ms(4900)), (Duration::from_secs(120), 255, ms(12_600))]
    {
        let mut pair = Pair::up(fast(), fast());
        assert!(pair.sides[0].ask_for_patience(time));
        pair.settle();
        assert!(pair.sides[0].ask_for_patience(time), "once more, as it may get lost");
        pair.settle();
        let saved = pair.sides[0].save().unwrap();
        assert_eq!((saved.multiplier, saved.patience()), (multiplier, ms(50) * u32::from(multiplier)));
        pair.stopped[0] = true;
        pair.run(away);
        assert_eq!(pair.states()[1], State::Up);
        pair.stopped[0] = false;
        pair.sides[0] = Session::resume(fast(), &saved, 9, pair.now);
        pair.events.clear();
        pair.run(Duration::from_secs(2));
        assert_eq!(pair.states(), [State::Up; 2]);
        assert_eq!(pair.sides[1].status().detection_time, ms(150), "as before");
        assert!(pair.events.iter().all(|(_, side, _)| *side == 0), "{:?}", pair.events);
    }
    // Nothing to ask for where a session is down, or has the patience anyway.
    let now = Instant::now();
    assert!(!Session::new(fast(), 1, 1, now).ask_for_patience(Duration::from_secs(5)));
    assert!(!Pair::up(fast(), fast()).sides[0].ask_for_patience(ms(100)));
}

#[test]
fn a_late_process_does_not_blame_the_neighbour() {
    // The neighbour has the patience for it; we look again long after our own detection time, but packets wait.
    let mut pair = Pair::up(config(ms(50), 10), fast());
    assert_eq!(pair.sides[0].status().detection_time, ms(150));
    pair.stopped[0] = true;
    pair.run(ms(400));
    pair.stopped[0] = false;
    pair.run(Duration::from_secs(2));
    assert_eq!(pair.events, []);
}

#[test]
fn every_state_and_what_it_hears() {
    use State::{AdminDown, Down, Init, Up};
    // Rows: our state; columns: AdminDown, Down, Init, Up heard (RFC 5880 sections 6.2 and 6.8.6).
    let table = [
        (AdminDown, [AdminDown; 4]),
        (Down, [Down, Init, Up, Down]),
        (Init, [Down, Init, Up, Up]),
        (Up, [Down, Down, Up, Up]),
    ];
    for (ours, expected) in table {
        for (heard, expected) in [AdminDown, Down, Init, Up].into_iter().zip(expected) {
            let now = Instant::now();
            let mut session = Session::new(fast(), 1, 1, now);
            let say = |session: &mut Session, state| {
                let packet = ControlPacket { state, poll: false, ..super::packet() };
                session.handle_packet(&packet, now);
            };
            match ours {
                AdminDown => session.set_admin_down(true),
                Down => {}
                Init => say(&mut session, Down),
                Up => {
                    say(&mut session, Down);
                    say(&mut session, Up);
                }
            }
            assert_eq!(session.state(), ours);
            say(&mut session, heard);
            assert_eq!(session.state(), expected, "{ours} hears {heard}");
        }
    }
}

#[test]
fn a_neighbour_that_wants_no_packets_gets_none() {
    let now = Instant::now();
    let mut session = Session::new(fast(), 1, 1, now);
    session.handle_packet(
        &ControlPacket { required_min_rx: 0, state: State::Down, poll: false, ..super::packet() },
        now,
    );
    assert_eq!(session.poll_transmit(now), None);
    // But an answer to a poll.
    session.handle_packet(&ControlPacket { required_min_rx: 0, state: State::Down, ..super::packet() }, now);
    assert!(session.poll_transmit(now).unwrap().final_);
    assert_eq!(session.poll_transmit(now), None);
    // Demand mode: quiet once both are up and our poll is answered.
    let mut session = Session::new(fast(), 1, 1, now);
    let say = |session: &mut Session, state, final_| {
        let packet = ControlPacket { state, poll: false, final_, demand: true, ..super::packet() };
        session.handle_packet(&packet, now);
    };
    say(&mut session, State::Init, false);
    assert!(session.poll_transmit(now).unwrap().poll);
    say(&mut session, State::Up, true);
    assert_eq!(session.poll_transmit(now + Duration::from_secs(1)), None);
}

#[test]
fn a_multiplier_of_one_jitters_less() {
    let mut pair = Pair::new(config(ms(100), 1), config(ms(100), 1));
    pair.network(|_, _| Some(Duration::ZERO));
    pair.run(Duration::from_secs(30));
    let times: Vec<_> = pair.periodic(0).into_iter().filter(|t| *t > ms(2000)).collect();
    assert!(gaps(&times).iter().all(|g| *g >= ms(75) && *g <= ms(90)), "{:?}", gaps(&times));
    assert_eq!(pair.states(), [State::Up; 2]);
}

/// Each side is told that the other is down on purpose, wants to hear nothing and speaks once in 12 days.
#[test]
fn forged_wishes_are_forgotten_where_nothing_is_up() {
    let mut pair = Pair::up(config(ms(50), 3), config(ms(50), 3));
    for side in 0..2 {
        let forged = ControlPacket {
            state: State::AdminDown,
            detect_multiplier: 255,
            my_discriminator: 77,
            your_discriminator: pair.sides[side].local_discriminator(),
            desired_min_tx: u32::MAX,
            required_min_rx: 0,
            poll: false,
            ..super::packet()
        };
        let now = pair.now;
        pair.sides[side].handle_packet(&forged, now);
    }
    pair.settle();
    pair.run(Duration::from_secs(25));
    assert_eq!(pair.states(), [State::Down; 2]);
    pair.run(Duration::from_secs(10));
    assert_eq!(pair.states(), [State::Up; 2]);
}
