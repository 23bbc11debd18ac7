//! One BFD session (RFC 5880 section 6): packets and time in, packets and events out.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{ControlPacket, Diagnostic, State};

/// The interval that is used unless configured: 300 ms.
pub const DEFAULT_INTERVAL: Duration = Duration::from_millis(300);
/// The detection multiplier that is used unless configured.
pub const DEFAULT_MULTIPLIER: u8 = 3;
/// The shortest transmit interval while a session is not up (RFC 5880 section 6.8.3).
const SLOW: Duration = Duration::from_secs(1);
/// How long a neighbour's wishes hold at most while nothing is up.
const FORGET: Duration = Duration::from_secs(30);

/// What a session is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// The interval at which we would like to send.
    pub desired_min_tx: Duration,
    /// The shortest interval at which we are ready to receive.
    pub required_min_rx: Duration,
    /// How many of our packets the neighbour may miss; at least 1.
    pub multiplier: u8,
    /// Our BFD survives a restart of our control plane (the C bit). An agent's thread does not.
    pub control_plane_independent: bool,
}

impl Default for SessionConfig {
    /// 300 ms x 3.
    fn default() -> Self {
        Self {
            desired_min_tx: DEFAULT_INTERVAL,
            required_min_rx: DEFAULT_INTERVAL,
            multiplier: DEFAULT_MULTIPLIER,
            control_plane_independent: false,
        }
    }
}

/// What happened to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEvent {
    /// Both directions work.
    Up,
    /// The session failed: the neighbour is unreachable, or says that it cannot hear us.
    Down {
        /// Why.
        diagnostic: Diagnostic,
        /// The neighbour's BFD is independent of its control plane (its C bit), so forwarding has failed and not only the
        /// control plane restarted: a graceful restart that is going on must not keep its routes (RFC 5882 section 4.3.1).
        forwarding_lost: bool,
    },
    /// The neighbour holds its session down on purpose: no reason to act, and none to wait for BFD before there is a
    /// session of the control protocol (RFC 5882 sections 3.2 and 4.1).
    NeighborAdminDown,
    /// It no longer does, or has fallen silent: who waits for BFD waits again. No failure.
    NeighborAdminUp,
}

/// A session as people want to see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SessionStatus {
    /// Our state.
    pub state: State,
    /// The neighbour's state, as it last said.
    pub remote_state: State,
    /// Why our session last went down.
    pub diagnostic: Diagnostic,
    /// The same from the neighbour.
    pub remote_diagnostic: Diagnostic,
    /// Our discriminator.
    pub local_discriminator: u32,
    /// The neighbour's, or 0.
    pub remote_discriminator: u32,
    /// The interval at which we send now, before jitter.
    #[serde(rename = "interval_ms", serialize_with = "milliseconds")]
    pub transmit_interval: Duration,
    /// How long a silence is tolerated; zero before the first packet.
    #[serde(rename = "detection_ms", serialize_with = "milliseconds")]
    pub detection_time: Duration,
    /// The neighbour's detection multiplier.
    pub remote_multiplier: u8,
    /// How often the session has come up.
    pub ups: u64,
    /// Packets sent.
    pub sent: u64,
    /// Packets taken in.
    pub received: u64,
}

/// As the command line shows it.
fn milliseconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// What must outlive the process, so that a restart within the detection time goes unnoticed by the neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSession {
    /// Our discriminator.
    pub local_discriminator: u32,
    /// The neighbour's.
    pub remote_discriminator: u32,
    /// Our interval, as it was last announced, in microseconds.
    pub desired_min_tx: u32,
    /// The same for receiving.
    pub required_min_rx: u32,
    /// Our multiplier.
    pub multiplier: u8,
    /// The neighbour's intervals in microseconds.
    pub remote_desired_min_tx: u32,
    /// The shortest interval at which the neighbour receives.
    pub remote_required_min_rx: u32,
    /// The neighbour's multiplier.
    pub remote_multiplier: u8,
    /// The neighbour's C bit.
    pub remote_control_plane_independent: bool,
}

impl SavedSession {
    /// How long the neighbour tolerates our silence: its detection time for us.
    pub fn patience(&self) -> Duration {
        micros(self.desired_min_tx.max(self.remote_required_min_rx)) * u32::from(self.multiplier)
    }
}

/// A session. Single and multihop ones are alike; what differs is in the sockets.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    state: State,
    diagnostic: Diagnostic,
    local_discriminator: u32,
    /// What the neighbour last said.
    remote: Remote,
    /// A poll sequence is under way (RFC 5880 section 6.5).
    polling: bool,
    /// Values of before a change that hold until the poll sequence ends (section 6.8.3).
    held_tx: Option<Duration>,
    held_rx: Option<Duration>,
    /// An F packet is due.
    answer: bool,
    /// A packet is due at once: what it says has changed (section 6.8.7).
    urgent: bool,
    last_sent: Option<Instant>,
    next_send: Option<Instant>,
    /// When the neighbour is given up.
    deadline: Option<Instant>,
    events: VecDeque<SessionEvent>,
    /// Taken over from the last process, and the neighbour may have given up on that: until it answers our poll. One that
    /// answers none and says until this time that it is up has not.
    unconfirmed: Option<Instant>,
    /// [`SessionEvent::NeighborAdminDown`] has been told, and its end not.
    neighbor_admin_down: bool,
    random: u64,
    ups: u64,
    sent: u64,
    received: u64,
}

#[derive(Clone, Copy, Debug)]
struct Remote {
    discriminator: u32,
    state: State,
    diagnostic: Diagnostic,
    desired_min_tx: u32,
    required_min_rx: u32,
    multiplier: u8,
    demand: bool,
    control_plane_independent: bool,
}

impl Remote {
    /// RFC 5880 section 6.8.1: what is assumed before anything is heard.
    const UNKNOWN: Self = Self {
        discriminator: 0,
        state: State::Down,
        diagnostic: Diagnostic::NONE,
        desired_min_tx: 0,
        required_min_rx: 1,
        multiplier: 0,
        demand: false,
        control_plane_independent: false,
    };
}

impl Session {
    /// A session that starts down and sends at once.
    ///
    /// `local_discriminator` is not 0 and unique on this host. `seed` is for the jitter alone.
    pub fn new(config: SessionConfig, local_discriminator: u32, seed: u64, now: Instant) -> Self {
        let config = SessionConfig { multiplier: config.multiplier.max(1), ..config };
        Self {
            config,
            state: State::Down,
            diagnostic: Diagnostic::NONE,
            local_discriminator,
            remote: Remote::UNKNOWN,
            polling: false,
            held_tx: None,
            held_rx: None,
            answer: false,
            urgent: false,
            last_sent: None,
            next_send: Some(now),
            deadline: None,
            events: VecDeque::new(),
            unconfirmed: None,
            neighbor_admin_down: false,
            // xorshift must not start at 0.
            random: seed | 1,
            ups: 0,
            sent: 0,
            received: 0,
        }
    }

    /// A session that goes on where the last process left it: up, with the old discriminators.
    ///
    /// Only for a restart within [`SavedSession::patience`]. [`SessionEvent::Up`] comes when the neighbour has heard us.
    /// Should it have given up all the same, or be gone, that is no event: nothing hangs on the session yet but what the
    /// last process had, and a session of the control protocol that has just come back must not be torn down for it.
    pub fn resume(config: SessionConfig, saved: &SavedSession, seed: u64, now: Instant) -> Self {
        let mut session = Self::new(config, saved.local_discriminator, seed, now);
        session.state = State::Up;
        session.ups = 1;
        session.remote = Remote {
            discriminator: saved.remote_discriminator,
            state: State::Up,
            desired_min_tx: saved.remote_desired_min_tx,
            required_min_rx: saved.remote_required_min_rx,
            multiplier: saved.remote_multiplier,
            control_plane_independent: saved.remote_control_plane_independent,
            ..Remote::UNKNOWN
        };
        // The neighbour knows the old intervals: changed ones need a poll sequence.
        let (tx, rx) = (micros(saved.desired_min_tx), micros(saved.required_min_rx));
        session.change_intervals(tx, rx);
        // Even if not: the last process may have stopped in the middle of one.
        session.polling = true;
        session.deadline = Some(now + session.detection_time());
        session.unconfirmed = Some(now + session.patience());
        session
    }

    /// What to keep for [`Session::resume`]; `None` unless the session is up.
    pub fn save(&self) -> Option<SavedSession> {
        (self.state == State::Up).then(|| SavedSession {
            local_discriminator: self.local_discriminator,
            remote_discriminator: self.remote.discriminator,
            desired_min_tx: to_micros(self.advertised_tx()),
            required_min_rx: to_micros(self.config.required_min_rx),
            multiplier: self.config.multiplier,
            remote_desired_min_tx: self.remote.desired_min_tx,
            remote_required_min_rx: self.remote.required_min_rx,
            remote_multiplier: self.remote.multiplier,
            remote_control_plane_independent: self.remote.control_plane_independent,
        })
    }

    /// Takes a packet that is for this session (RFC 5880 section 6.8.6).
    pub fn handle_packet(&mut self, packet: &ControlPacket, now: Instant) {
        self.received += 1;
        let interval_before = self.transmit_interval();
        self.remote = Remote {
            discriminator: packet.my_discriminator,
            state: packet.state,
            diagnostic: packet.diagnostic,
            desired_min_tx: packet.desired_min_tx,
            required_min_rx: packet.required_min_rx,
            multiplier: packet.detect_multiplier,
            demand: packet.demand,
            control_plane_independent: packet.control_plane_independent,
        };
        let answered = packet.final_ && self.polling;
        if answered {
            self.polling = false;
            self.held_tx = None;
            self.held_rx = None;
        }
        if self.state != State::AdminDown {
            self.handle_state(packet.state);
        }
        self.deadline = Some(now + self.tolerance());
        if self.state == State::AdminDown {
            return self.reschedule(interval_before, now);
        }
        if self.state == State::Up && self.unconfirmed.is_some_and(|until| answered || until <= now) {
            self.unconfirmed = None;
            self.events.push_back(SessionEvent::Up);
        }
        self.tell_admin_down();
        // Even in a state that has just changed: section 6.8.6 answers a poll last.
        self.answer |= packet.poll;
        self.reschedule(interval_before, now);
    }

    /// The state machine of RFC 5880 section 6.2.
    fn handle_state(&mut self, heard: State) {
        match (self.state, heard) {
            (State::Down, State::Down) => self.enter(State::Init, Diagnostic::NONE),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                self.enter(State::Up, Diagnostic::NONE);
            }
            (State::Up | State::Init, State::AdminDown) | (State::Up, State::Down) => {
                self.enter(State::Down, Diagnostic::NEIGHBOR_SIGNALED_DOWN);
            }
            _ => {}
        }
    }

    fn enter(&mut self, state: State, diagnostic: Diagnostic) {
        let before = self.state;
        self.state = state;
        // Kept while coming up, so that the neighbour learns why (section 4.1).
        if diagnostic != Diagnostic::NONE || state == State::Up {
            self.diagnostic = diagnostic;
        }
        self.urgent = true;
        match (before, state) {
            (_, State::Up) => {
                self.ups += 1;
                // The interval is no longer the slow one: section 6.8.3 wants a poll sequence.
                self.polling = true;
                self.events.push_back(SessionEvent::Up);
            }
            (State::Up, State::Down) => {
                self.stop_poll();
                let on_purpose =
                    self.remote.state == State::AdminDown && diagnostic == Diagnostic::NEIGHBOR_SIGNALED_DOWN;
                // What is on purpose is told by `tell_admin_down`.
                if self.unconfirmed.take().is_none() && !on_purpose {
                    let forwarding_lost = self.remote.control_plane_independent;
                    self.events.push_back(SessionEvent::Down { diagnostic, forwarding_lost });
                }
            }
            _ => self.stop_poll(),
        }
    }

    /// Tells when the neighbour begins or ceases to hold its session down.
    fn tell_admin_down(&mut self) {
        let held = self.remote.state == State::AdminDown;
        if std::mem::replace(&mut self.neighbor_admin_down, held) != held {
            if held {
                self.events.push_back(SessionEvent::NeighborAdminDown);
            } else if self.state != State::Up {
                self.events.push_back(SessionEvent::NeighborAdminUp);
            }
        }
    }

    fn stop_poll(&mut self) {
        self.polling = false;
        self.held_tx = None;
        self.held_rx = None;
    }

    /// Does what is due at `now`. Hand in packets that have arrived before: a late thread must not blame the neighbour.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.deadline.is_none_or(|deadline| deadline > now) {
            return;
        }
        self.deadline = None;
        let interval_before = self.transmit_interval();
        // Section 6.8.4; the event still knows the neighbour's C bit.
        if matches!(self.state, State::Init | State::Up) {
            self.enter(State::Down, Diagnostic::DETECTION_TIME_EXPIRED);
        }
        // Section 6.8.1: a silent neighbour's discriminator is forgotten.
        self.remote = Remote { diagnostic: self.remote.diagnostic, ..Remote::UNKNOWN };
        self.tell_admin_down();
        // What it wanted to receive at most is forgotten too, or its next process would wait as long for us.
        self.reschedule(interval_before, now);
    }

    /// Asks the neighbour for patience before a planned restart, so that its session does not time out meanwhile (RFC 5882
    /// section 4.3.2.2): the next packet, due at once, has a multiplier that covers `time`, as far as 255 intervals do. The
    /// next process goes back to the configured one. Whether there is anything to ask for.
    pub fn ask_for_patience(&mut self, time: Duration) -> bool {
        let interval = self.transmit_interval().max(Duration::from_micros(1));
        let wanted = u8::try_from(time.as_micros().div_ceil(interval.as_micros())).unwrap_or(u8::MAX);
        if self.state != State::Up || wanted < self.config.multiplier {
            return false;
        }
        self.config.multiplier = wanted;
        self.urgent = true;
        true
    }

    /// The next packet to send at `now`, if one is due.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<ControlPacket> {
        if std::mem::take(&mut self.answer) {
            // Section 6.5: F at once, regardless of the interval, and never with P.
            self.sent += 1;
            return Some(self.packet(false, true));
        }
        let due = self.next_send.is_some_and(|at| at <= now);
        if !(due || self.urgent) || self.silent() {
            return None;
        }
        self.urgent = false;
        self.last_sent = Some(now);
        self.next_send = Some(now + self.jittered());
        self.sent += 1;
        Some(self.packet(self.polling, false))
    }

    /// Section 6.8.7: when nothing may be sent periodically.
    fn silent(&self) -> bool {
        let both_up = self.state == State::Up && self.remote.state == State::Up;
        self.remote.required_min_rx == 0 || self.remote.demand && both_up && !self.polling
    }

    /// When to call [`Session::handle_timeout`] and [`Session::poll_transmit`] next.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let send = match (self.answer, self.silent(), self.urgent) {
            (true, ..) | (_, false, true) => Some(now),
            (_, true, _) => None,
            _ => self.next_send,
        };
        match (send, self.deadline) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// What has happened since the last call.
    pub fn poll_event(&mut self) -> Option<SessionEvent> {
        self.events.pop_front()
    }

    /// Holds the session down, or lets it go.
    pub fn set_admin_down(&mut self, down: bool) {
        match (self.state, down) {
            (State::AdminDown, false) => self.enter(State::Down, Diagnostic::NONE),
            (State::AdminDown, true) | (_, false) => {}
            (_, true) => {
                self.unconfirmed = None;
                self.stop_poll();
                self.state = State::AdminDown;
                self.diagnostic = Diagnostic::ADMINISTRATIVELY_DOWN;
                self.urgent = true;
            }
        }
    }

    /// Changes the intervals or the multiplier of a running session (RFC 5880 section 6.8.3): nothing is reset.
    pub fn set_config(&mut self, config: SessionConfig, now: Instant) {
        let config = SessionConfig { multiplier: config.multiplier.max(1), ..config };
        let before = std::mem::replace(&mut self.config, config);
        let interval_before = self.transmit_interval();
        self.change_intervals(before.desired_min_tx, before.required_min_rx);
        self.reschedule(interval_before, now);
    }

    /// Starts a poll sequence if the intervals differ from those that the neighbour knows.
    fn change_intervals(&mut self, tx_before: Duration, rx_before: Duration) {
        let (tx, rx) = (self.config.desired_min_tx, self.config.required_min_rx);
        if self.state != State::Up || (tx_before, rx_before) == (tx, rx) {
            return;
        }
        self.polling = true;
        self.urgent = true;
        if tx > tx_before {
            self.held_tx = Some(self.held_tx.map_or(tx_before, |held| held.min(tx_before)));
        }
        if rx < rx_before {
            self.held_rx = Some(self.held_rx.map_or(rx_before, |held| held.max(rx_before)));
        }
    }

    /// A shorter interval takes effect at once (section 6.8.2).
    fn reschedule(&mut self, interval_before: Duration, now: Instant) {
        if self.transmit_interval() < interval_before
            && let Some(last) = self.last_sent
        {
            let next = (last + self.jittered()).max(now);
            self.next_send = Some(self.next_send.map_or(next, |at| at.min(next)));
        }
    }

    fn packet(&self, poll: bool, final_: bool) -> ControlPacket {
        ControlPacket {
            diagnostic: self.diagnostic,
            state: self.state,
            poll,
            final_,
            control_plane_independent: self.config.control_plane_independent,
            demand: false,
            detect_multiplier: self.config.multiplier,
            my_discriminator: self.local_discriminator,
            your_discriminator: self.remote.discriminator,
            desired_min_tx: to_micros(self.advertised_tx()),
            required_min_rx: to_micros(self.config.required_min_rx),
            required_min_echo_rx: 0,
        }
    }

    /// Section 6.8.3: at least a second unless up.
    fn advertised_tx(&self) -> Duration {
        if self.state == State::Up {
            self.config.desired_min_tx
        } else {
            self.config.desired_min_tx.max(SLOW)
        }
    }

    /// The interval at which we send, before jitter (section 6.8.2).
    fn transmit_interval(&self) -> Duration {
        self.held_tx.unwrap_or(self.advertised_tx()).max(micros(self.remote.required_min_rx))
    }

    /// How long the neighbour may be silent (section 6.8.4).
    fn detection_time(&self) -> Duration {
        let rx = self.held_rx.unwrap_or(self.config.required_min_rx);
        rx.max(micros(self.remote.desired_min_tx)) * u32::from(self.remote.multiplier)
    }

    /// The same, but where nothing is up, what the last packet asked for is forgotten after [`FORGET`] at the latest. It
    /// may be forged, and ask both sides to say nothing for days.
    fn tolerance(&self) -> Duration {
        let time = self.detection_time();
        if self.state == State::Up { time } else { time.min(FORGET) }
    }

    /// 75% to 100% of the interval, at most 90% with a multiplier of 1 (section 6.8.7).
    fn jittered(&mut self) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let span = if self.config.multiplier == 1 { 150 } else { 250 };
        let permille = 750 + (self.random >> 33) as u32 % (span + 1);
        self.transmit_interval() / 1000 * permille
    }

    /// Our state.
    pub const fn state(&self) -> State {
        self.state
    }

    /// Our discriminator.
    pub const fn local_discriminator(&self) -> u32 {
        self.local_discriminator
    }

    /// How long the neighbour tolerates our silence.
    pub fn patience(&self) -> Duration {
        self.transmit_interval() * u32::from(self.config.multiplier)
    }

    /// The session for people.
    pub fn status(&self) -> SessionStatus {
        SessionStatus {
            state: self.state,
            remote_state: self.remote.state,
            diagnostic: self.diagnostic,
            remote_diagnostic: self.remote.diagnostic,
            local_discriminator: self.local_discriminator,
            remote_discriminator: self.remote.discriminator,
            transmit_interval: self.transmit_interval(),
            detection_time: self.detection_time(),
            remote_multiplier: self.remote.multiplier,
            ups: self.ups,
            sent: self.sent,
            received: self.received,
        }
    }
}

fn micros(value: u32) -> Duration {
    Duration::from_micros(u64::from(value))
}

/// Microseconds for the wire; more than 71 minutes are cut.
fn to_micros(value: Duration) -> u32 {
    u32::try_from(value.as_micros()).unwrap_or(u32::MAX)
}
