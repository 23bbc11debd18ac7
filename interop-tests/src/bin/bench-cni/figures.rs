//! Quantiles and the table.

use std::time::Duration;

/// A line of the table.
pub(crate) struct Row {
    what: String,
    slash32: String,
    beside: String,
    ratio: String,
    target: &'static str,
}

impl Row {
    pub(crate) fn new(
        what: impl Into<String>,
        slash32: impl Into<String>,
        beside: impl Into<String>,
        ratio: Option<f64>,
        target: &'static str,
    ) -> Self {
        let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        Self { what: what.into(), slash32: slash32.into(), beside: beside.into(), ratio, target }
    }

    /// A figure that nothing stands beside.
    pub(crate) fn plain(what: &str, slash32: impl Into<String>) -> Self {
        Self::new(what, slash32, "", None, "")
    }
}

pub(crate) fn print(rows: &[Row]) {
    println!("| | slash32 | beside it | ratio | target |");
    println!("|---|---|---|---|---|");
    for row in rows {
        println!("| {} | {} | {} | {} | {} |", row.what, row.slash32, row.beside, row.ratio, row.target);
    }
}

/// The median of all, and in brackets the lowest and highest of the rounds' medians.
pub(crate) fn p50(rounds: &[Vec<Duration>]) -> String {
    let mut medians: Vec<Duration> = rounds.iter().map(|round| quantile(round, 50)).collect();
    medians.sort();
    let ends = [medians.first(), medians.last()].map(|m| milliseconds(m.copied().unwrap_or_default()));
    format!("{} ({} – {})", milliseconds(quantile(&rounds.concat(), 50)), ends[0], ends[1])
}

pub(crate) fn p99(rounds: &[Vec<Duration>]) -> String {
    milliseconds(quantile(&rounds.concat(), 99))
}

/// How the quantiles of two lists compare.
pub(crate) fn ratio(ours: &[Duration], theirs: &[Duration], part: usize) -> Option<f64> {
    let theirs = quantile(theirs, part).as_secs_f64();
    (theirs > 0.0).then(|| quantile(ours, part).as_secs_f64() / theirs)
}

/// The value that `part` percent of a list do not exceed.
pub(crate) fn quantile(times: &[Duration], part: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    let rank = (sorted.len() * part).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// The middle of a list of numbers.
pub(crate) fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

pub(crate) fn milliseconds(span: Duration) -> String {
    format!("{:.2} ms", span.as_secs_f64() * 1000.0)
}
