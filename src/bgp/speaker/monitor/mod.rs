//! BMP collectors (RFC 7854): who is told of what happens, and how.
//!
//! ```text
//!  rib thread: Monitors ── one Feed a connected collector ──▶ Outbox ──▶ collector task ──▶ TCP
//!       ▲ what peers say, changes of the RIB, the pieces of a table dump as there is room
//! ```
//!
//! Everything that a collector reads is written by the RIB's thread, so that it is told of changes in the order in which
//! they take effect. The thread never waits. When more than its `buffer` waits for a collector, it is remembered which routes
//! have changed rather than how, and they are told as they are when there is room again; when even that is too much, the
//! collector gets the tables anew, on the same connection. One that reads nothing at all is cut off.

mod collector;
mod feed;
mod status;

pub(super) use collector::{CollectorCommand, CollectorContext, spawn};
pub(super) use feed::{CollectorId, Monitors, NewFeed, WatchedSession};
pub(super) use status::{CollectorShared, collector_status};

pub use status::CollectorStatus;
