//! What goes into a session and what comes out of it.

use std::{fmt, time::Duration};

use bytes::Bytes;
use serde::{Serialize, Serializer};

use super::Negotiated;
use crate::{
    bgp::wire::{Notification, Update, WireError, code},
    model::Family,
};

/// A connection of a session. Never used twice, so what arrives late for an old one is recognised and ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u32);

/// The states of RFC 4271 section 8.2.2. Of two connections the further one counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Stopped, or waiting to start again.
    #[default]
    Idle,
    /// Dialing.
    Connect,
    /// Waiting for the peer's connection, or to dial again.
    Active,
    /// Our OPEN is sent.
    OpenSent,
    /// The peer's OPEN is accepted.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
}

impl State {
    /// Its number in RFC 6396 section 4.4.1: 1 Idle to 6 Established.
    pub const fn number(self) -> u16 {
        self as u16 + 1
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Idle => "Idle",
            Self::Connect => "Connect",
            Self::Active => "Active",
            Self::OpenSent => "OpenSent",
            Self::OpenConfirm => "OpenConfirm",
            Self::Established => "Established",
        })
    }
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What happened to a session from outside.
#[derive(Clone, Debug)]
pub enum Input {
    /// ManualStart or AutomaticStart; also ends a wait in Idle.
    Start,
    /// The session shall end.
    Stop(Stop),
    /// The dial succeeded.
    Connected(ConnId),
    /// The dial failed, and why.
    DialFailed(ConnId, String),
    /// Bytes came.
    Bytes(ConnId, Bytes),
    /// The connection is closed, by the peer or by an error, which is given.
    Closed(ConnId, Option<String>),
    /// Writing: whether all that was handed out is written. Say it after each write that made progress, and when
    /// one could not make any.
    Wrote {
        /// The connection.
        conn: ConnId,
        /// Whether bytes went out.
        progress: bool,
        /// Whether more wait.
        pending: bool,
    },
    /// We stop or go on reading. The hold timer does not count what we do not read.
    ReadPaused(ConnId, bool),
    /// Dial now instead of at the next ConnectRetryTimer, as something has changed that makes it worth trying.
    RetryNow,
    /// Ask the peer for its routes again (RFC 2918).
    RequestRefresh(Family),
    /// BFD is up, or the neighbour holds its BFD down on purpose: a session with strict BFD may start (RFC 5882
    /// section 4.1).
    BfdUp,
    /// BFD has to come up first, or once more; no failure, so a session there is stays.
    BfdWaiting,
}

/// Why a session shall end, and what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// By the administrator, until started again. The text is for the peer's administrator (RFC 9003).
    Shutdown(String),
    /// By the administrator, to start again at once.
    Reset(String),
    /// The neighbour is no longer configured.
    Deconfigured,
    /// To start again with another configuration (Cease/6).
    ConfigChange,
    /// The neighbour sent more prefixes than allowed.
    MaxPrefixes {
        /// Of this family.
        family: Family,
        /// The limit.
        limit: u32,
        /// When to start again; `None`: not before [`Input::Start`].
        restart: Option<Duration>,
    },
    /// BFD says that the neighbour is gone (Cease/10, RFC 9384). An established session ends and its routes go: had
    /// only the neighbour's process restarted, its kernel would have closed the connection before BFD noticed, so the
    /// way there is broken (RFC 5882 section 4.3.2.2). With `bfd_graceful` it counts as the beginning of a graceful
    /// restart instead, where the neighbour offers one and its BFD may fail with its control plane (section 4.3.2).
    BfdDown {
        /// The neighbour's BFD is independent of its control plane (C bit): what is kept while it restarts goes too
        /// (RFC 5882 section 4.3.1). Otherwise its BFD is expected to fail then (section 4.3.2).
        forwarding_lost: bool,
    },
    /// The link to the neighbour is down. Nothing can be sent there: an established session ends without a word, and
    /// its routes go at once, those kept for a restart too, as nothing is forwarded over a dead link.
    LinkDown,
    /// Something of ours cannot take more (Cease/8); starts again later.
    OutOfResources,
    /// This process will be replaced by another: where graceful restart is negotiated the connection is closed with
    /// no NOTIFICATION, so that the neighbour keeps our routes (RFC 4724 section 4.1); elsewhere a Cease/4 is sent.
    PlannedRestart,
}

/// Bytes to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where.
    pub conn: ConnId,
    /// One or more whole messages.
    pub bytes: Bytes,
}

/// What a session wants or tells.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are updates; an allocation for each costs more")]
pub enum Event {
    /// Dial; answer with [`Input::Connected`] or [`Input::DialFailed`].
    Dial(ConnId),
    /// Close, after writing what was handed out before. Also ends a dial.
    Close {
        /// The connection, of which the session has already forgotten.
        conn: ConnId,
        /// Do not wait for what is unwritten.
        abort: bool,
    },
    /// The session is up.
    Established {
        /// Its connection.
        conn: ConnId,
        /// What both sides agreed on.
        negotiated: Box<Negotiated>,
        /// The OPENs that led to it.
        opens: Box<Opens>,
    },
    /// Routes. Errors that do not end the session are given for the log; the update has been dealt with accordingly.
    Update {
        /// The update.
        update: Update,
        /// What was wrong with it (RFC 7606).
        errors: Vec<WireError>,
        /// The message as it came, header included.
        raw: Bytes,
    },
    /// The peer wants our routes again, or tells where its own refresh begins and ends (RFC 7313).
    Refresh(Family, Refresh),
    /// The established session is over.
    Down {
        /// Why.
        reason: Failure,
        /// Keep the peer's routes as stale where it offered graceful restart; else all go.
        retain: bool,
    },
    /// While there is no session, and the neighbour's routes are perhaps kept, its forwarding was lost.
    ForwardingLost,
    /// An attempt to establish a session failed.
    Failed(Failure),
}

/// Both OPENs of a session as they were on the wire, headers included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opens {
    /// Ours.
    pub sent: Bytes,
    /// The peer's.
    pub received: Bytes,
}

/// The kinds of ROUTE-REFRESH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// Send all routes again.
    Request,
    /// A refresh begins (BoRR).
    Begin,
    /// A refresh ends (EoRR): what was not sent again is gone.
    End,
}

/// Why a connection or session ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The dial failed.
    #[error("{0}")]
    Dial(String),
    /// The peer closed the connection with no NOTIFICATION.
    #[error("connection closed by the peer")]
    Closed,
    /// The connection broke.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The peer sent a NOTIFICATION.
    #[error("received {0}")]
    Received(Notification),
    /// We sent one.
    #[error("sent {notification}{}", Detail(detail))]
    Sent {
        /// The NOTIFICATION.
        notification: Notification,
        /// What was wrong; may be empty.
        detail: String,
    },
    /// The peer took nothing from us for too long (RFC 9687).
    #[error("send hold timer expired: the peer does not read")]
    SendHold,
    /// Closed without NOTIFICATION for our planned restart.
    #[error("closed for a planned restart")]
    PlannedRestart,
    /// The link to the neighbour is down.
    #[error("the link to the neighbour is down")]
    LinkDown,
    /// The peer connected again, which tells that it has restarted (RFC 4724 section 4.2).
    #[error("the peer has restarted")]
    Replaced,
}

impl Failure {
    /// The text of [`Failure::Lost`] when BFD ends a session without a NOTIFICATION.
    pub const BFD_DOWN: &'static str = "BFD down";

    /// Whether the way a session ended tells that the neighbour may forward nothing any more: BFD, or silence.
    pub fn neighbour_is_gone(&self) -> bool {
        match self {
            Self::LinkDown => true,
            Self::Lost(text) => text == Self::BFD_DOWN,
            Self::Sent { notification, .. } => {
                let cause = notification.hard_reset_cause();
                let n = cause.as_ref().unwrap_or(notification);
                n.code == code::error::HOLD_TIMER
                    || (n.code, n.subcode) == (code::error::CEASE, code::cease::BFD_DOWN)
            }
            _ => false,
        }
    }
}

struct Detail<'a>(&'a str);

impl fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, ": {}", self.0) }
    }
}
