//! Two sessions and the network between them.

use std::time::{Duration, Instant};

use super::super::{ControlPacket, Session, SessionConfig, SessionEvent, State};

pub(super) const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(super) fn config(interval: Duration, multiplier: u8) -> SessionConfig {
    SessionConfig {
        desired_min_tx: interval,
        required_min_rx: interval,
        multiplier,
        ..SessionConfig::default()
    }
}

/// A packet on its way.
#[derive(Debug)]
struct InFlight {
    at: Instant,
    to: usize,
    packet: ControlPacket,
}

/// What the network does with the `n`th packet of a side: how long it takes, or `None` for lost.
type Network = Box<dyn FnMut(usize, u64) -> Option<Duration>>;

pub(super) struct Pair {
    pub(super) sides: [Session; 2],
    pub(super) start: Instant,
    pub(super) now: Instant,
    network: Network,
    in_flight: Vec<InFlight>,
    /// Every packet sent: when, by whom.
    pub(super) sent: Vec<(Duration, usize, ControlPacket)>,
    pub(super) events: Vec<(Duration, usize, SessionEvent)>,
    counts: [u64; 2],
    /// A side that is stopped, as a process can be.
    pub(super) stopped: [bool; 2],
}

impl Pair {
    pub(super) fn new(a: SessionConfig, b: SessionConfig) -> Self {
        let now = Instant::now();
        Self {
            sides: [Session::new(a, 11, 1, now), Session::new(b, 22, 2, now)],
            start: now,
            now,
            network: Box::new(|_, _| Some(ms(1))),
            in_flight: Vec::new(),
            sent: Vec::new(),
            events: Vec::new(),
            counts: [0; 2],
            stopped: [false; 2],
        }
    }

    /// A pair that has come up, with the records emptied.
    pub(super) fn up(a: SessionConfig, b: SessionConfig) -> Self {
        let mut pair = Self::new(a, b);
        pair.run(Duration::from_secs(10));
        assert_eq!(pair.states(), [State::Up; 2]);
        pair.sent.clear();
        pair.events.clear();
        pair
    }

    pub(super) fn network(&mut self, network: impl FnMut(usize, u64) -> Option<Duration> + 'static) {
        self.network = Box::new(network);
    }

    pub(super) fn states(&self) -> [State; 2] {
        [self.sides[0].state(), self.sides[1].state()]
    }

    /// Since the start.
    pub(super) fn clock(&self) -> Duration {
        self.now - self.start
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.settle();
            let timers =
                (0..2).filter(|&i| !self.stopped[i]).filter_map(|i| self.sides[i].poll_timeout(self.now));
            let packets = self.in_flight.iter().filter(|p| !self.stopped[p.to]).map(|p| p.at);
            let next = timers.chain(packets).min();
            match next {
                Some(at) if at <= end => {
                    self.now = self.now.max(at);
                }
                _ => {
                    self.now = end;
                    return;
                }
            }
        }
    }

    /// Delivers and does what is due now.
    pub(super) fn settle(&mut self) {
        let now = self.now;
        // Those for a stopped side wait, as in a socket's buffer.
        let (due, later) = std::mem::take(&mut self.in_flight)
            .into_iter()
            .partition(|p: &InFlight| p.at <= now && !self.stopped[p.to]);
        self.in_flight = later;
        for InFlight { to, packet, .. } in due {
            self.sides[to].handle_packet(&packet, now);
        }
        for i in 0..2 {
            if self.stopped[i] {
                continue;
            }
            self.sides[i].handle_timeout(now);
            let mut burst = 0;
            while let Some(packet) = self.sides[i].poll_transmit(now) {
                burst += 1;
                assert!(burst <= 3, "never a storm");
                self.sent.push((now - self.start, i, packet));
                let n = self.counts[i];
                self.counts[i] += 1;
                if let Some(delay) = (self.network)(i, n) {
                    // Through the codec, as on the wire.
                    let packet = ControlPacket::decode(&packet.encode()).expect("what we send is valid");
                    self.in_flight.push(InFlight { at: now + delay, to: 1 - i, packet });
                }
            }
            while let Some(event) = self.sides[i].poll_event() {
                self.events.push((now - self.start, i, event));
            }
        }
    }

    /// When packets without F of one side were sent.
    pub(super) fn periodic(&self, side: usize) -> Vec<Duration> {
        self.sent.iter().filter(|(_, s, p)| *s == side && !p.final_).map(|(t, ..)| *t).collect()
    }
}
