//! One TCP connection of a session.

use std::time::Instant;

use super::{ConnId, Negotiated, Opens, State};
use crate::bgp::wire::FrameReader;

/// Who opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Outgoing,
    Incoming,
}

/// How far it is.
#[derive(Debug)]
pub(super) enum Stage {
    /// TCP is being set up.
    Dialing,
    /// Waiting for the peer's OPEN before sending ours.
    DelayOpen,
    /// Ours is sent.
    OpenSent,
    /// The peer's is accepted.
    OpenConfirm(Box<Negotiated>),
    /// The peer's KEEPALIVE has come.
    Established { negotiated: Box<Negotiated>, since: Instant },
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: ConnId,
    pub(super) direction: Direction,
    pub(super) stage: Stage,
    pub(super) reader: FrameReader,
    /// When it was dialed or accepted.
    pub(super) opened: Instant,
    /// The driver does not read, so silence means nothing.
    pub(super) read_paused: bool,
    /// The OPENs so far, for those who watch.
    pub(super) opens: Opens,
}

impl Connection {
    pub(super) fn new(id: ConnId, direction: Direction, now: Instant) -> Self {
        Self {
            id,
            direction,
            stage: Stage::Dialing,
            reader: FrameReader::new(),
            opened: now,
            read_paused: false,
            opens: Opens::default(),
        }
    }

    /// The RFC's state. While OPEN is delayed it is still Connect or Active.
    pub(super) fn state(&self) -> State {
        match (&self.stage, self.direction) {
            (Stage::Dialing, _) | (Stage::DelayOpen, Direction::Outgoing) => State::Connect,
            (Stage::DelayOpen, Direction::Incoming) => State::Active,
            (Stage::OpenSent, _) => State::OpenSent,
            (Stage::OpenConfirm(_), _) => State::OpenConfirm,
            (Stage::Established { .. }, _) => State::Established,
        }
    }

    pub(super) fn is_established(&self) -> bool {
        matches!(self.stage, Stage::Established { .. })
    }

    /// What was agreed on, from OpenConfirm on.
    pub(super) fn negotiated(&self) -> Option<&Negotiated> {
        match &self.stage {
            Stage::OpenConfirm(negotiated) | Stage::Established { negotiated, .. } => Some(negotiated),
            Stage::Dialing | Stage::DelayOpen | Stage::OpenSent => None,
        }
    }

    /// Whether the peer may expect a NOTIFICATION before the connection is closed: it has had our OPEN.
    pub(super) fn is_open_sent(&self) -> bool {
        !matches!(self.stage, Stage::Dialing | Stage::DelayOpen)
    }
}
