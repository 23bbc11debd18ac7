//! Medians, spreads, and the table of them.

use std::fmt;

/// Rows of a Markdown table.
pub(crate) struct Table(Vec<[String; 4]>);

impl Table {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds the median of the samples and how far from it the middle 80% are.
    pub(crate) fn row(&mut self, what: &str, unit: &str, samples: &[f64], target: &str) {
        let (low, median, high) = spread(samples);
        let row = [
            what.to_owned(),
            format!("{} {unit}", number(median)),
            format!("{} to {}", number(low), number(high)),
            target.to_owned(),
        ];
        eprintln!("{}", row.join(" | "));
        self.0.push(row);
    }

    /// Adds the median of ratios that were measured in turn.
    pub(crate) fn ratio(&mut self, what: &str, samples: &[f64], target: &str) {
        self.row(&format!("**{what}**"), "x", samples, target);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| what | median | 10% to 90% | target |\n|---|---|---|---|")?;
        for row in &self.0 {
            writeln!(f, "| {} |", row.join(" | "))?;
        }
        Ok(())
    }
}

fn number(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v if v >= 0.1 => format!("{v:.2}"),
        v => format!("{v:.4}"),
    }
}

/// The values at 10%, 50% and 90%.
fn spread(samples: &[f64]) -> (f64, f64, f64) {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |q: f64| sorted[((sorted.len() - 1) as f64 * q).round() as usize];
    (at(0.1), at(0.5), at(0.9))
}
