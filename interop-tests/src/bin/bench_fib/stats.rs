//! Medians and spread.

use std::time::Duration;

/// Least, median and greatest.
pub(super) fn spread(values: impl IntoIterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.as_slice() {
        [] => [f64::NAN; 3],
        all => [all[0], all[all.len() / 2], all[all.len() - 1]],
    }
}

/// `median (least to greatest)` with two decimals.
pub(super) fn show(values: impl IntoIterator<Item = f64>) -> String {
    let [low, middle, high] = spread(values);
    format!("{middle:.2} ({low:.2} to {high:.2})")
}

/// The same with one decimal.
pub(super) fn tenths(values: impl IntoIterator<Item = f64>) -> String {
    let [low, middle, high] = spread(values);
    format!("{middle:.1} ({low:.1} to {high:.1})")
}

pub(super) fn milliseconds(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}
