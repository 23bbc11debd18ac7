//! What the metrics tell of policies.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::Policies;
use crate::{
    agent::{
        kept::Amount,
        metrics::{Page, gauge},
    },
    policy::engine::REFUSING,
};

/// What the kernel's table was changed for since the start of the agent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Work {
    changes: u64,
    took: Duration,
    repairs: u64,
}

impl Work {
    /// Notes a change that has been made, or refused, since `start`.
    pub(super) fn changed(&mut self, start: Instant) {
        self.changes += 1;
        self.took += start.elapsed();
    }

    /// Notes that what somebody else did was put right.
    pub(super) fn repaired(&mut self) {
        self.repairs += 1;
    }
}

/// A moment's figures.
#[derive(Debug)]
pub(in crate::agent) struct Figures {
    policies: usize,
    host_policies: usize,
    remote: usize,
    /// Of these, what is known of lost sessions only.
    kept: Amount,
    file_errors: usize,
    /// Chains of others that drop packets of containers.
    foreign_drops: usize,
    failed: bool,
    work: Work,
    /// Packets refused, by why.
    refused: BTreeMap<String, u64>,
}

impl Policies {
    /// The figures; counters are read from the kernel.
    pub(in crate::agent) fn figures(&mut self) -> Figures {
        let mut refused: BTreeMap<String, u64> = BTreeMap::new();
        let counters = self.driver.as_mut().map(|driver| driver.counters_of(&REFUSING));
        match counters {
            Some(Ok(list)) => {
                for counter in list {
                    *refused.entry(counter.comment).or_default() += counter.packets;
                }
            }
            Some(Err(error)) => tracing::warn!("the counters of the table cannot be read: {error}"),
            None => {}
        }
        let kept = self.kept();
        let set = self.engine.policies();
        Figures {
            policies: set.policies.len(),
            host_policies: set.host_policies.len(),
            remote: self.engine.remote_count(),
            kept,
            file_errors: self.file_errors.len(),
            foreign_drops: self.known_foreign_drops().len(),
            failed: self.error.is_some(),
            work: self.work,
            refused,
        }
    }
}

impl Figures {
    /// Writes the metrics.
    pub(in crate::agent) fn write(&self, page: &mut Page) {
        let gauges = [
            ("slash32_policies", "Policies in force.", self.policies),
            ("slash32_host_policies", "Host policies in force.", self.host_policies),
            (
                "slash32_policy_remote_endpoints",
                "Prefixes of other hosts' containers whose identity is known.",
                self.remote,
            ),
            (
                "slash32_identities_kept",
                "Addresses of other hosts' containers whose identity is kept of a lost session.",
                self.kept.count,
            ),
            (
                "slash32_policy_file_errors",
                "Errors in the policy folder; with any, the last good policies stay in force.",
                self.file_errors,
            ),
            (
                "slash32_policy_foreign_drops",
                "Chains of other firewalls that drop packets of containers.",
                self.foreign_drops,
            ),
            ("slash32_policy_failed", "1 when the kernel does not have the policies.", self.failed.into()),
        ];
        for (name, help, value) in gauges {
            gauge(page, name, help, value as u64);
        }
        gauge(
            page,
            "slash32_identities_kept_oldest_seconds",
            "Seconds since the first of these sessions was lost.",
            self.kept.age.as_secs(),
        );
        let counters = [
            ("slash32_policy_changes_total", "Changes of the kernel's table.", self.work.changes),
            (
                "slash32_policy_repairs_total",
                "Times somebody else had changed the table and it was put right.",
                self.work.repairs,
            ),
        ];
        for (name, help, value) in counters {
            page.metric(name, "counter", help).sample(name, &[], value);
        }
        const SECONDS: &str = "slash32_policy_change_seconds_total";
        page.metric(SECONDS, "counter", "Time that changes of the kernel's table took.").real(
            SECONDS,
            &[],
            self.work.took.as_secs_f64(),
        );
        const REFUSED: &str = "slash32_policy_refused_packets_total";
        page.metric(
            REFUSED,
            "counter",
            "Packets refused, by reason, as the kernel counts them: from 0 again when the table is made anew.",
        );
        for (reason, packets) in &self.refused {
            page.sample(REFUSED, &[("reason", reason)], *packets);
        }
    }
}
