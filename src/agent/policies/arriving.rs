//! When connections are stamped again, or judged anew, as addresses get or lose their way.

use std::time::{Duration, Instant};

use super::Policies;
use crate::model::EndpointId;

/// How long after an endpoint has its routes the last packet is gone that was on another way.
const SETTLED: Duration = Duration::from_millis(10);

/// How long after it has them the kernel is told, if no other change tells it.
const IDLE: Duration = Duration::from_millis(500);

impl Policies {
    /// An endpoint has its routes.
    pub(in crate::agent) fn arrived(&mut self, id: &EndpointId) {
        if !self.engine.arriving_of(id).is_empty() {
            self.arrived.push((id.clone(), Instant::now()));
        }
    }

    /// Connections with what has arrived long enough ago are stamped again. Not urgent: until then they are judged packet
    /// by packet.
    pub(super) fn note_arrived(&mut self) {
        for (id, _) in self.arrived.extract_if(.., |(_, since)| since.elapsed() >= SETTLED) {
            self.engine.arrived(&id);
        }
    }

    /// The host has got or lost an address: traffic with it that was judged as the one kind is of the other now.
    pub(in crate::agent) fn host_addresses_changed(&mut self) {
        self.engine.judge_anew();
        // A failure is kept and tried again.
        let _ = self.flush();
    }

    /// When the kernel is to be told of what has arrived.
    pub(super) fn arrived_at(&self) -> Option<Instant> {
        self.arrived.first().map(|(_, since)| *since + IDLE)
    }
}
