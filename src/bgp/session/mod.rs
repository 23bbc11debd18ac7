//! The session with one neighbour (RFC 4271 section 8), with no I/O and no clock.
//!
//! A driver owns the sockets. It tells what happened ([`Session::handle_input`], [`Session::accept`]), lets timers
//! expire ([`Session::handle_timeout`] at [`Session::poll_timeout`]), and after each of these does what comes out:
//! first everything of [`Session::poll_transmit`], then everything of [`Session::poll_event`].
//!
//! A session may have two connections for a while, one dialed and one accepted; `collision` decides which stays.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod collision;
mod config;
mod connection;
mod event;
mod fsm;
mod jitter;
mod negotiate;
#[cfg(test)]
mod tests;
mod timer;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

pub use config::SessionConfig;
pub use event::{ConnId, Event, Failure, Input, Opens, Refresh, State, Stop, Transmit};
pub use negotiate::{Negotiated, PeerRestart};

use self::{
    connection::{Connection, Direction, Stage},
    jitter::Jitter,
    timer::{Slot, TimerTable},
};

/// The session with one neighbour.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    phase: Phase,
    connections: [Option<Connection>; 2],
    timers: TimerTable,
    jitter: Jitter,
    next_conn: u32,
    /// Failures since the last session that stayed up: the exponent of the wait in Idle.
    failures: u32,
    bfd_up: bool,
    /// The peer has refused our optional parameters: the next OPEN has none (RFC 5492 section 3).
    bare: bool,
    /// For R and F bits.
    restarting: bool,
    forwarding: bool,
    counters: Counters,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
}

/// Where the session as a whole is, beside its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Idle until told to start.
    Stopped,
    /// Idle until IdleHoldTimer expires or BFD comes up.
    Waiting,
    /// Connect, Active and further.
    Running,
}

/// Messages counted by direction. What the driver writes by itself it adds with [`Session::count_sent`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages received, of any type.
    pub messages_received: u64,
    /// UPDATEs received.
    pub updates_received: u64,
    /// Of these, the ones with an error for which their routes were withdrawn (RFC 7606 section 2).
    pub updates_withdrawn: u64,
    /// Of these, the ones that lost an attribute, or routes of a family that is not in use, for an error.
    pub updates_discarded: u64,
    /// Messages sent, of any type.
    pub messages_sent: u64,
    /// UPDATEs sent.
    pub updates_sent: u64,
    /// How many times the session was established.
    pub established: u64,
}

impl Session {
    /// A session in Idle. `seed` is for jitter; `restarting` says that this process takes over from one whose
    /// forwarding state is still in place (RFC 4724).
    pub fn new(config: SessionConfig, restarting: bool, seed: u64) -> Self {
        Self {
            config,
            phase: Phase::Stopped,
            connections: [None, None],
            timers: TimerTable::default(),
            jitter: Jitter::new(seed),
            next_conn: 0,
            failures: 0,
            bfd_up: false,
            bare: false,
            restarting,
            forwarding: restarting,
            counters: Counters::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// The state.
    pub fn state(&self) -> State {
        let of_connection = self.connections.iter().flatten().map(Connection::state).max();
        match (self.phase, of_connection) {
            (_, Some(state)) => state,
            (Phase::Running, None) => State::Active,
            (Phase::Stopped | Phase::Waiting, None) => State::Idle,
        }
    }

    /// Whether the session waits to be started by somebody.
    pub fn is_stopped(&self) -> bool {
        self.phase == Phase::Stopped
    }

    /// What was agreed on, while Established.
    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.connections.iter().flatten().find_map(|c| match &c.stage {
            Stage::Established { negotiated, .. } => Some(&**negotiated),
            _ => None,
        })
    }

    /// The established connection.
    pub fn established(&self) -> Option<ConnId> {
        self.connections.iter().flatten().find(|c| c.is_established()).map(|c| c.id)
    }

    /// When a session that is Idle begins again by itself, if it does.
    pub fn idle_until(&self) -> Option<Instant> {
        self.timers.deadline(timer::Timer::IdleHold).filter(|_| self.phase == Phase::Waiting)
    }

    /// Message counters.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Adds UPDATEs that the driver wrote itself.
    pub fn count_sent(&mut self, updates: u64) {
        self.counters.messages_sent += updates;
        self.counters.updates_sent += updates;
    }

    /// The configuration.
    pub fn config(&self) -> &SessionConfig {
        &self.config
    }

    /// Replaces the configuration. But for the time between KEEPALIVEs, it counts from the next OPEN on; whether the
    /// session must end for it is for the caller to decide.
    pub fn set_config(&mut self, now: Instant, config: SessionConfig) {
        self.config = config;
        fsm::reconfigured(self, now);
    }

    /// The time of restarting is over: R bits are no longer sent (RFC 4724 section 4.1).
    pub fn end_restarting(&mut self) {
        self.restarting = false;
    }

    /// A neighbour has connected to us. `None`: not now; close it.
    pub fn accept(&mut self, now: Instant) -> Option<ConnId> {
        fsm::accept(self, now)
    }

    /// Something happened.
    pub fn handle_input(&mut self, now: Instant, input: Input) {
        fsm::handle(self, now, input);
    }

    /// Lets the timers that are due expire.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.take_expired(now) {
            fsm::expire(self, now, timer);
        }
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// What to write next.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// What to do or to know next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn connection(&self, slot: Slot) -> Option<&Connection> {
        self.connections[slot as usize].as_ref()
    }

    fn connection_mut(&mut self, slot: Slot) -> Option<&mut Connection> {
        self.connections[slot as usize].as_mut()
    }

    fn slot_of(&self, id: ConnId) -> Option<Slot> {
        Slot::BOTH.into_iter().find(|slot| self.connection(*slot).is_some_and(|c| c.id == id))
    }

    fn free_slot(&self) -> Option<Slot> {
        Slot::BOTH.into_iter().find(|slot| self.connection(*slot).is_none())
    }

    fn open_connection(&mut self, slot: Slot, direction: Direction, now: Instant) -> ConnId {
        let id = ConnId(self.next_conn);
        self.next_conn = self.next_conn.wrapping_add(1);
        self.connections[slot as usize] = Some(Connection::new(id, direction, now));
        id
    }

    fn transmit(&mut self, conn: ConnId, bytes: Bytes) {
        self.counters.messages_sent += 1;
        self.transmits.push_back(Transmit { conn, bytes });
    }

    /// The wait in Idle after as many failures: doubles each time, up to a maximum.
    fn idle_hold(&self) -> Duration {
        let timers = &self.config.timers;
        let doublings = self.failures.saturating_sub(1).min(16);
        timers.idle_hold.saturating_mul(1 << doublings).min(timers.idle_hold_max.max(timers.idle_hold))
    }
}
