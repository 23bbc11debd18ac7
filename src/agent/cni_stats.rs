//! How CNI verbs went and how long they took, for the metrics.

use std::{collections::BTreeMap, time::Duration};

use super::metrics::Page;
use crate::api::CniAnswer;

/// Upper bounds of the histogram, in microseconds.
const BOUNDS: [(u64, &str); 8] = [
    (250, "0.00025"),
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (10_000, "0.01"),
    (50_000, "0.05"),
    (250_000, "0.25"),
    (1_000_000, "1"),
];

/// Counts since the start of the agent.
#[derive(Clone, Debug, Default)]
pub(super) struct CniStats {
    /// By verb and error number; 0 is success.
    outcomes: BTreeMap<(String, u32), u64>,
    times: BTreeMap<String, Times>,
}

#[derive(Clone, Debug, Default)]
struct Times {
    buckets: [u64; BOUNDS.len()],
    count: u64,
    total: Duration,
}

impl CniStats {
    /// Notes one call.
    pub(super) fn note(&mut self, verb: &str, answer: &CniAnswer, took: Duration) {
        // What a caller makes up must not make the page grow.
        let verb = if ["ADD", "DEL", "CHECK", "GC", "STATUS"].contains(&verb) { verb } else { "other" };
        let code = match answer {
            CniAnswer::Success(_) => 0,
            CniAnswer::Failure(failure) => failure.code,
        };
        *self.outcomes.entry((verb.to_owned(), code)).or_default() += 1;
        let times = self.times.entry(verb.to_owned()).or_default();
        times.count += 1;
        times.total += took;
        let micros = took.as_micros();
        for (bucket, (bound, _)) in times.buckets.iter_mut().zip(BOUNDS) {
            *bucket += u64::from(micros <= u128::from(bound));
        }
    }

    /// Writes the metrics.
    pub(super) fn write(&self, page: &mut Page) {
        const REQUESTS: &str = "slash32_cni_requests_total";
        page.metric(REQUESTS, "counter", "CNI calls by verb and error number (0: success).");
        for ((verb, code), count) in &self.outcomes {
            page.sample(REQUESTS, &[("verb", verb), ("code", &code.to_string())], *count);
        }
        page.metric("slash32_cni_seconds", "histogram", "Time in the agent for one CNI call.");
        for (verb, times) in &self.times {
            for (count, (_, bound)) in times.buckets.iter().zip(BOUNDS) {
                page.sample("slash32_cni_seconds_bucket", &[("verb", verb), ("le", bound)], *count);
            }
            page.sample("slash32_cni_seconds_bucket", &[("verb", verb), ("le", "+Inf")], times.count);
            page.real("slash32_cni_seconds_sum", &[("verb", verb)], times.total.as_secs_f64());
            page.sample("slash32_cni_seconds_count", &[("verb", verb)], times.count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::CniFailure;

    #[test]
    fn a_page() {
        let mut stats = CniStats::default();
        let refused = CniAnswer::Failure(CniFailure { code: 11, msg: String::new(), details: String::new() });
        stats.note("ADD", &CniAnswer::Success(serde_json::Value::Null), Duration::from_micros(600));
        stats.note("ADD", &refused, Duration::from_secs(2));
        stats.note("made up", &refused, Duration::ZERO);
        let mut page = Page::default();
        stats.write(&mut page);
        let text = page.finish();
        for line in [
            "slash32_cni_requests_total{verb=\"ADD\",code=\"11\"} 1",
            "slash32_cni_requests_total{verb=\"other\",code=\"11\"} 1",
            "slash32_cni_seconds_bucket{verb=\"ADD\",le=\"0.0005\"} 0",
            "slash32_cni_seconds_bucket{verb=\"ADD\",le=\"0.001\"} 1",
            "slash32_cni_seconds_bucket{verb=\"ADD\",le=\"+Inf\"} 2",
            "slash32_cni_seconds_sum{verb=\"ADD\"} 2.0006",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
