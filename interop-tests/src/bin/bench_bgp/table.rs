//! The result: one line a router, medians with spread, ratios to the first.

use std::fmt::Write;

use crate::Sample;

/// A markdown table. `copies` is the number of route copies each router held.
pub(super) fn render(names: &[String], samples: &[Vec<Sample>], copies: u64) -> String {
    let mut text = String::from(
        "| router | wall s (min to max) | ratio | CPU s | ratio | peak MiB | ratio | bytes a route-copy |\n|---|---|---|---|---|---|---|---|\n",
    );
    let wall = |s: &Sample| s.wall.as_secs_f64();
    let cpu = |s: &Sample| s.cpu.as_secs_f64();
    let memory = |s: &Sample| s.peak_kib as f64 / 1024.0;
    let Some(first) = samples.first() else { return text };
    for (name, runs) in names.iter().zip(samples) {
        let (low, mid, high) = spread(runs, wall);
        let grown = spread(runs, |s| s.peak_kib.saturating_sub(s.idle_kib) as f64 * 1024.0).1;
        let _ = writeln!(
            text,
            "| {name} | {mid:.2} ({low:.2} to {high:.2}) | {:.2} | {:.2} | {:.2} | {:.0} | {:.2} | {:.0} |",
            mid / spread(first, wall).1,
            spread(runs, cpu).1,
            spread(runs, cpu).1 / spread(first, cpu).1.max(0.01),
            spread(runs, memory).1,
            spread(runs, memory).1 / spread(first, memory).1,
            grown / copies as f64,
        );
    }
    text
}

/// Least, median and greatest.
pub(super) fn spread<T>(samples: &[T], value: impl Fn(&T) -> f64) -> (f64, f64, f64) {
    let mut values: Vec<f64> = samples.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    match values.as_slice() {
        [] => (0.0, 0.0, 0.0),
        all => (all[0], all[all.len() / 2], all[all.len() - 1]),
    }
}
