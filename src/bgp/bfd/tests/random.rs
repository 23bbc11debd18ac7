//! Anything may happen in any order: no panic, no storm, timers within bounds, events that fit together, and in the end a
//! session.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{
    super::{ControlPacket, SavedSession, Session, SessionConfig, SessionEvent, State},
    pair::{Pair, config, ms},
};

#[derive(Clone, Debug)]
enum Step {
    Run(u64),
    /// A network that loses so many of 8 packets and delays the others by up to so many milliseconds.
    Network(u64, u64),
    AdminDown(usize, bool),
    Configure(usize, u64, u64, u8),
    Stop(usize, bool),
    /// The process ends without a word, and another begins after so many milliseconds.
    Restart(usize, u64),
    /// The same with patience asked for.
    PlannedRestart(usize, u64),
    /// A packet out of nowhere.
    Inject(usize, Box<ControlPacket>),
}

fn packet() -> impl Strategy<Value = ControlPacket> {
    let states = prop_oneof![Just(State::AdminDown), Just(State::Down), Just(State::Init), Just(State::Up)];
    let interval = prop_oneof![Just(0_u32), Just(1), 10_000..2_000_000_u32, Just(u32::MAX)];
    (states, any::<[bool; 4]>(), 1..=255_u8, 1..u32::MAX, interval.clone(), interval).prop_map(
        |(state, [poll, final_, demand, independent], multiplier, discriminator, tx, rx)| ControlPacket {
            state,
            poll: poll && !final_,
            final_,
            demand,
            control_plane_independent: independent,
            detect_multiplier: multiplier,
            my_discriminator: discriminator,
            desired_min_tx: tx,
            required_min_rx: rx,
            ..super::packet()
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let side = 0..2_usize;
    let step = prop_oneof![
        6 => (0..3_000_u64).prop_map(Step::Run),
        3 => (0..100_u64).prop_map(Step::Run),
        3 => (0..=8_u64, 0..80_u64).prop_map(|(lost, delay)| Step::Network(lost, delay)),
        2 => (side.clone(), any::<bool>()).prop_map(|(s, down)| Step::AdminDown(s, down)),
        2 => (side.clone(), 10..2_000_u64, 10..2_000_u64, 1..10_u8).prop_map(|(s, t, r, m)| Step::Configure(s, t, r, m)),
        2 => (side.clone(), any::<bool>()).prop_map(|(s, stop)| Step::Stop(s, stop)),
        2 => (side.clone(), 0..400_u64).prop_map(|(s, t)| Step::Restart(s, t)),
        1 => (side.clone(), 0..8_000_u64).prop_map(|(s, t)| Step::PlannedRestart(s, t)),
        2 => (side, packet()).prop_map(|(s, p)| Step::Inject(s, Box::new(p))),
    ];
    proptest::collection::vec(step, 0..40)
}

/// A pair, and what each side's configuration is, which a new process gets.
struct World {
    pair: Pair,
    configs: [SessionConfig; 2],
    /// What each process has told, since it began.
    told: [Told; 2],
    processes: u64,
    /// How many packets each side had received when it was last looked at, and what it might wait for then.
    bounds: [(u64, Duration); 2],
}

#[derive(Clone, Copy, Default)]
struct Told {
    up: bool,
    held: bool,
}

impl World {
    fn apply(&mut self, step: Step) {
        let now = self.pair.now;
        // A stopped process does nothing and is told nothing.
        let busy = match &step {
            Step::AdminDown(side, _)
            | Step::Configure(side, ..)
            | Step::Inject(side, _)
            | Step::PlannedRestart(side, _) => Some(*side),
            _ => None,
        };
        if busy.is_some_and(|side| self.pair.stopped[side]) {
            return;
        }
        match step {
            Step::Run(time) => self.run(ms(time)),
            Step::Network(lost, delay) => self.pair.network(move |side, n| {
                // Some pattern that is not the same for both.
                let draw = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15 + side as u64) >> 40;
                (draw % 8 >= lost).then(|| ms(draw / 8 % (delay + 1)))
            }),
            Step::AdminDown(side, down) => {
                self.pair.sides[side].set_admin_down(down);
                // Whoever does so needs no event.
                self.told[side].up &= !down;
            }
            Step::Configure(side, tx, rx, multiplier) => {
                self.configs[side] = SessionConfig { required_min_rx: ms(rx), ..config(ms(tx), multiplier) };
                self.pair.sides[side].set_config(self.configs[side], now);
            }
            Step::Stop(side, stop) => self.pair.stopped[side] = stop,
            Step::Restart(side, away) => self.restart(side, ms(away)),
            Step::PlannedRestart(side, away) => {
                self.pair.sides[side].ask_for_patience(Duration::from_secs(6));
                self.run(Duration::ZERO);
                self.restart(side, ms(away));
            }
            Step::Inject(side, packet) => self.pair.sides[side].handle_packet(&packet, now),
        }
        self.run(Duration::ZERO);
    }

    fn run(&mut self, time: Duration) {
        self.pair.run(time);
        // Not kept: a long run sends many.
        self.pair.sent.clear();
        for (_, side, event) in std::mem::take(&mut self.pair.events) {
            let told = &mut self.told[side];
            match event {
                SessionEvent::Up => assert!(!std::mem::replace(&mut told.up, true), "up twice"),
                SessionEvent::Down { .. } => {
                    assert!(std::mem::replace(&mut told.up, false), "down without up");
                }
                SessionEvent::NeighborAdminDown => {
                    assert!(!std::mem::replace(&mut told.held, true), "held down twice");
                    told.up = false;
                }
                SessionEvent::NeighborAdminUp => {
                    assert!(std::mem::take(&mut told.held), "let go without being held");
                }
            }
            if event == SessionEvent::Up {
                told.held = false;
            }
        }
        for (side, session) in self.pair.sides.iter().enumerate() {
            if self.pair.stopped[side] {
                continue;
            }
            let status = session.status();
            // Whoever has told that it is up and does not say otherwise is up; taken over ones are silent at first.
            if self.told[side].up && status.state != State::Up {
                assert_eq!(status.state, State::AdminDown, "lost without a word");
            }
            // What moves it on is never further away than what both sides have asked for.
            if let Some(at) = session.poll_timeout(self.pair.now) {
                let longest = status.transmit_interval.max(status.detection_time).max(Duration::from_secs(1));
                // The slowest of the configured intervals may still hold, until the end of a poll sequence.
                let longest = longest.max(ms(2000) * u32::from(status.remote_multiplier));
                // How long silence is tolerated was decided when the last packet came.
                let (received, then) = self.bounds[side];
                let longest = if received == status.received { longest.max(then) } else { longest };
                self.bounds[side] = (status.received, longest);
                assert!(at <= self.pair.now + longest, "{at:?} is too far away: {status:?}");
            } else {
                assert_eq!(status.detection_time, Duration::ZERO, "nothing left to wait for: {status:?}");
            }
        }
    }

    fn restart(&mut self, side: usize, away: Duration) {
        let saved = self.pair.sides[side].save();
        let gone = self.pair.now;
        self.pair.stopped[side] = true;
        self.run(away);
        self.pair.stopped[side] = false;
        self.processes += 1;
        let in_time = |saved: &SavedSession| self.pair.now - gone < saved.patience();
        let (now, seed) = (self.pair.now, self.processes);
        self.pair.sides[side] = match saved.filter(in_time) {
            Some(saved) => Session::resume(self.configs[side], &saved, seed, now),
            None => Session::new(self.configs[side], 1000 + seed as u32, seed, now),
        };
        self.told[side] = Told::default();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn always_recovers(steps in steps()) {
        let configs = [config(ms(50), 3), config(ms(80), 4)];
        let pair = Pair::new(configs[0], configs[1]);
        let mut world = World { pair, configs, told: [Told::default(); 2], processes: 0, bounds: [(0, Duration::ZERO); 2] };
        for step in steps {
            world.apply(step);
        }
        // Everything is well again: sooner or later both are up, and stay so.
        world.pair.network(|_, _| Some(ms(1)));
        for side in 0..2 {
            world.pair.stopped[side] = false;
            world.pair.sides[side].set_admin_down(false);
            world.configs[side] = config(ms(50), 3);
            world.pair.sides[side].set_config(world.configs[side], world.pair.now);
        }
        world.run(Duration::from_secs(1));
        // Both may have been told to be silent while up, for as long as each tolerates it.
        let silence = world.pair.sides.iter().map(|s| s.status().detection_time).max().unwrap_or_default();
        world.run(silence + Duration::from_secs(60));
        prop_assert_eq!(world.pair.states(), [State::Up; 2]);
        let before: Vec<u64> = world.pair.sides.iter().map(|s| s.status().ups).collect();
        world.run(Duration::from_secs(60));
        let after: Vec<u64> = world.pair.sides.iter().map(|s| s.status().ups).collect();
        prop_assert_eq!(before, after);
        for session in &world.pair.sides {
            prop_assert_eq!(session.status().detection_time, ms(150));
            prop_assert_eq!(session.status().transmit_interval, ms(50));
        }
    }

    /// Whatever bytes come: a session is never brought to send faster than it may.
    #[test]
    fn a_hostile_neighbour_is_not_flooded(packets in proptest::collection::vec((packet(), 0..30_u64), 0..100)) {
        let mut now = Instant::now();
        let mut session = Session::new(config(ms(50), 3), 1, 1, now);
        let mut heard = 0_u64;
        let mut sent = 0_u64;
        let start = now;
        for (packet, wait) in packets {
            session.handle_packet(&packet, now);
            heard += 1;
            let end = now + ms(wait);
            loop {
                session.handle_timeout(now);
                while session.poll_transmit(now).is_some() {
                    sent += 1;
                }
                match session.poll_timeout(now) {
                    Some(at) if at <= end => now = now.max(at),
                    _ => break,
                }
            }
            now = end;
        }
        // An answer to each poll, a packet for each change of state, and those that are due.
        let due = (now - start).as_millis() as u64 / 37 + 2;
        prop_assert!(sent <= 2 * heard + due, "{sent} packets for {heard} in {:?}", now - start);
    }
}
