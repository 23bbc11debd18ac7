//! What can be asked about collectors.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use serde::Serialize;

use crate::bgp::config::BmpCollector;

/// A collector as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CollectorStatus {
    /// Address and port.
    pub collector: String,
    /// `connected`, `connecting`, or `waiting` for the next attempt.
    pub state: &'static str,
    /// Seconds since it is connected; null when it is not.
    pub uptime_seconds: Option<u64>,
    /// What is sent: `pre_policy`, `post_policy`, `loc_rib`, `out_pre_policy`, `out_post_policy`.
    pub tables: Vec<&'static str>,
    /// How many times the connection was established.
    pub connects: u64,
    /// How many times the buffer was full because the collector did not read fast enough.
    pub overflows: u64,
    /// How many times so much changed meanwhile that it got all tables anew.
    pub restarts: u64,
    /// Messages handed out, over all connections.
    pub messages_sent: u64,
    /// Octets written, over all connections.
    pub bytes_sent: u64,
    /// Octets that wait to be written.
    pub bytes_waiting: u64,
    /// Changes that are told, merged, when those are written.
    pub changes_waiting: u64,
    /// Why the last connection or attempt ended.
    pub last_error: Option<String>,
    /// Seconds since then.
    pub last_error_seconds: Option<u64>,
}

/// What the collector's task and the RIB's thread tell.
#[derive(Debug, Default)]
pub(in crate::bgp::speaker) struct CollectorState {
    pub(super) connected: Option<Instant>,
    pub(super) connecting: bool,
    pub(super) connects: u64,
    pub(super) overflows: u64,
    pub(super) restarts: u64,
    pub(super) changes_waiting: u64,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) waiting: u64,
    pub(super) last_error: Option<(String, Instant)>,
}

/// The shared copy of it.
#[derive(Clone, Debug, Default)]
pub(in crate::bgp::speaker) struct CollectorShared(Arc<Mutex<CollectorState>>);

impl CollectorShared {
    pub(super) fn update<T>(&self, change: impl FnOnce(&mut CollectorState) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The status of a collector.
pub(in crate::bgp::speaker) fn collector_status(
    config: &BmpCollector,
    shared: &CollectorShared,
) -> CollectorStatus {
    let tables = [
        (config.pre_policy, "pre_policy"),
        (config.post_policy, "post_policy"),
        (config.loc_rib, "loc_rib"),
        (config.out_pre_policy, "out_pre_policy"),
        (config.out_post_policy, "out_post_policy"),
    ];
    shared.update(|state| CollectorStatus {
        collector: config.address.to_string(),
        state: match (state.connected, state.connecting) {
            (Some(_), _) => "connected",
            (None, true) => "connecting",
            (None, false) => "waiting",
        },
        uptime_seconds: state.connected.map(|since| since.elapsed().as_secs()),
        tables: tables.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect(),
        connects: state.connects,
        overflows: state.overflows,
        restarts: state.restarts,
        messages_sent: state.messages,
        bytes_sent: state.bytes,
        bytes_waiting: state.waiting,
        changes_waiting: state.changes_waiting,
        last_error: state.last_error.as_ref().map(|(text, _)| text.clone()),
        last_error_seconds: state.last_error.as_ref().map(|(_, at)| at.elapsed().as_secs()),
    })
}
