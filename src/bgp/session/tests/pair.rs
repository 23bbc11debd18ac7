//! Two sessions on a virtual network with a virtual clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    bgp::{
        config::{PeerSettings, RemoteAs, SpeakerConfig},
        session::{ConnId, Event, Failure, Input, Negotiated, Session, SessionConfig, State, Stop},
    },
    model::{Asn, RouterId},
};

/// What is on its way.
#[derive(Debug)]
enum Parcel {
    /// A SYN.
    Dial {
        conn: ConnId,
    },
    Data {
        to: usize,
        conn: ConnId,
        bytes: Bytes,
    },
    Fin {
        to: usize,
        conn: ConnId,
    },
    Connected {
        to: usize,
        conn: ConnId,
    },
    Refused {
        to: usize,
        conn: ConnId,
    },
    Break,
}

/// What befalls a side's octets from some place on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    /// They come later.
    Late(Duration),
    /// The connection breaks, and both ends notice.
    Broken,
    /// They never come, nor does anything else on that connection, and nobody notices.
    Lost,
}

pub(super) struct Pair {
    pub(super) now: Instant,
    pub(super) sides: [Session; 2],
    /// All that came out, in order.
    pub(super) events: [Vec<Event>; 2],
    /// All connections there ever were.
    pub(super) conns: [BTreeSet<ConnId>; 2],
    /// (side, connection) to the other end.
    wires: BTreeMap<(usize, ConnId), ConnId>,
    in_flight: BTreeMap<(Instant, u64), (usize, Parcel)>,
    sequence: u64,
    pub(super) latency: Duration,
    /// Bytes at a time.
    pub(super) chunk: usize,
    /// Nothing passes; what is sent is lost without anybody noticing.
    pub(super) black_hole: bool,
    /// Dials are refused.
    pub(super) refuse: bool,
    /// What befalls the octets of a side, counted over all its connections, from here on; once.
    pub(super) fate: Option<(usize, usize, Fate)>,
    /// Octets sent.
    pub(super) sent: [usize; 2],
    /// What a side sends arrives no sooner.
    not_before: [Option<Instant>; 2],
    /// Connections, by their number at a side, on which that side's octets are lost.
    dead: BTreeSet<(usize, ConnId)>,
}

pub(super) fn config(asn: u32, id: u32, remote: RemoteAs) -> SessionConfig {
    let speaker = SpeakerConfig::new(Asn::new(asn).unwrap(), RouterId::new(id.into()).unwrap());
    SessionConfig::new(&speaker, &PeerSettings::new(remote))
}

impl Pair {
    /// An eBGP pair of AS 64512 and 65000, router ids 1 and 2.
    pub(super) fn new() -> Self {
        Self::with(|_| {}, |_| {})
    }

    pub(super) fn with(a: impl FnOnce(&mut SessionConfig), b: impl FnOnce(&mut SessionConfig)) -> Self {
        let mut configs = [config(64512, 1, RemoteAs::External), config(65000, 2, RemoteAs::External)];
        a(&mut configs[0]);
        b(&mut configs[1]);
        let now = Instant::now();
        let [a, b] = configs;
        Self {
            now,
            sides: [Session::new(a, false, 11), Session::new(b, false, 22)],
            events: [Vec::new(), Vec::new()],
            conns: [BTreeSet::new(), BTreeSet::new()],
            wires: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            sequence: 0,
            latency: Duration::from_millis(10),
            chunk: usize::MAX,
            black_hole: false,
            refuse: false,
            fate: None,
            sent: [0; 2],
            not_before: [None; 2],
            dead: BTreeSet::new(),
        }
    }

    pub(super) fn input(&mut self, side: usize, input: Input) {
        self.sides[side].handle_input(self.now, input);
        self.collect(side);
    }

    pub(super) fn start(&mut self) {
        self.input(0, Input::Start);
        self.input(1, Input::Start);
    }

    pub(super) fn stop(&mut self, side: usize, stop: Stop) {
        self.input(side, Input::Stop(stop));
    }

    fn send(&mut self, from: usize, parcel: Parcel) {
        if !self.black_hole {
            self.sequence += 1;
            let at = self.now + self.latency;
            let at = self.not_before[from].map_or(at, |earliest| at.max(earliest));
            self.in_flight.insert((at, self.sequence), (from, parcel));
        }
    }

    /// Everything that a side wants done.
    pub(super) fn collect(&mut self, side: usize) {
        while let Some(transmit) = self.sides[side].poll_transmit() {
            self.write(side, transmit.conn, transmit.bytes);
        }
        while let Some(event) = self.sides[side].poll_event() {
            match &event {
                Event::Dial(conn) => {
                    self.conns[side].insert(*conn);
                    self.send(side, Parcel::Dial { conn: *conn });
                }
                Event::Close { conn, .. } => {
                    if let Some(peer) = self.wires.remove(&(side, *conn))
                        && !self.dead.contains(&(side, *conn))
                    {
                        self.send(side, Parcel::Fin { to: 1 - side, conn: peer });
                    }
                }
                _ => {}
            }
            self.events[side].push(event);
        }
    }

    /// Sends octets on a connection of a side, in chunks, as far as their fate lets them.
    pub(super) fn write(&mut self, side: usize, id: ConnId, mut bytes: Bytes) {
        let Some(&conn) = self.wires.get(&(side, id)) else { return };
        let before = self.sent[side];
        self.sent[side] += bytes.len();
        let mut struck = None;
        if let Some((whose, at, fate)) = self.fate
            && whose == side
            && at < self.sent[side]
        {
            self.fate = None;
            struck = Some((bytes.split_off(at - before), fate));
        }
        self.pieces(side, id, conn, bytes);
        match struck {
            Some((rest, Fate::Late(time))) => {
                self.not_before[side] = Some(self.now + self.latency + time);
                self.pieces(side, id, conn, rest);
            }
            Some((_, Fate::Broken)) => self.send(side, Parcel::Break),
            Some((_, Fate::Lost)) => _ = self.dead.insert((side, id)),
            None => {}
        }
    }

    fn pieces(&mut self, side: usize, id: ConnId, conn: ConnId, mut rest: Bytes) {
        while !rest.is_empty() && !self.dead.contains(&(side, id)) {
            let bytes = rest.split_to(self.chunk.min(rest.len()));
            self.send(side, Parcel::Data { to: 1 - side, conn, bytes });
        }
    }

    fn deliver(&mut self, from: usize, parcel: Parcel) {
        match parcel {
            Parcel::Dial { conn } => {
                let to = 1 - from;
                let accepted = if self.refuse { None } else { self.sides[to].accept(self.now) };
                let answer = match accepted {
                    Some(id) => {
                        self.conns[to].insert(id);
                        self.wires.insert((from, conn), id);
                        self.wires.insert((to, id), conn);
                        Parcel::Connected { to: from, conn }
                    }
                    None => Parcel::Refused { to: from, conn },
                };
                self.send(to, answer);
                self.collect(to);
            }
            Parcel::Connected { to, conn } => self.input(to, Input::Connected(conn)),
            Parcel::Refused { to, conn } => {
                self.input(to, Input::DialFailed(conn, "connection refused".into()));
            }
            Parcel::Data { to, conn, bytes } => self.input(to, Input::Bytes(conn, bytes)),
            Parcel::Break => self.cut(),
            Parcel::Fin { to, conn } => {
                self.wires.remove(&(to, conn));
                self.input(to, Input::Closed(conn, None));
            }
        }
    }

    /// Breaks every connection, as both kernels would after a RST.
    pub(super) fn cut(&mut self) {
        self.in_flight.clear();
        for (side, conn) in std::mem::take(&mut self.wires).into_keys() {
            self.input(side, Input::Closed(conn, Some("connection reset by peer".into())));
        }
    }

    /// Runs until nothing is due any more within `time`.
    pub(super) fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Runs until `done` or for at most `time`; whether it is done.
    pub(super) fn run_until(&mut self, time: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + time;
        for _ in 0..1_000_000 {
            if done(self) {
                return true;
            }
            let parcel = self.in_flight.keys().next().map(|(at, _)| *at);
            let timer = self.sides.iter().filter_map(Session::poll_timeout).min();
            let Some(next) = [parcel, timer].into_iter().flatten().min().filter(|at| *at <= end) else {
                self.now = end;
                return done(self);
            };
            self.now = self.now.max(next);
            if parcel == Some(next) {
                let (_, (from, parcel)) = self.in_flight.pop_first().unwrap();
                self.deliver(from, parcel);
            } else {
                for side in 0..2 {
                    self.sides[side].handle_timeout(self.now);
                    self.collect(side);
                }
            }
        }
        panic!("the pair does not come to rest");
    }

    pub(super) fn states(&self) -> [State; 2] {
        [self.sides[0].state(), self.sides[1].state()]
    }

    pub(super) fn is_established(&self) -> bool {
        self.states() == [State::Established; 2]
    }

    pub(super) fn establish(&mut self) {
        self.start();
        assert!(self.run_until(Duration::from_secs(120), Self::is_established), "{:?}", self.states());
        // Connections that lost a collision are gone by then.
        self.run(Duration::from_secs(1));
        assert!(self.is_established());
    }

    pub(super) fn negotiated(&self, side: usize) -> &Negotiated {
        self.sides[side].negotiated().unwrap()
    }

    /// The failures told by a side, as text.
    pub(super) fn failures(&self, side: usize) -> Vec<String> {
        let text = |event: &Event| match event {
            Event::Down { reason, .. } | Event::Failed(reason) => Some(reason.to_string()),
            _ => None,
        };
        self.events[side].iter().filter_map(text).collect()
    }

    /// The last end of an established session.
    pub(super) fn down(&self, side: usize) -> Option<(&Failure, bool)> {
        self.events[side].iter().rev().find_map(|event| match event {
            Event::Down { reason, retain } => Some((reason, *retain)),
            _ => None,
        })
    }
}
