//! Assertions about what becomes true in its own time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How long to wait for what should take a second: long enough for a loaded computer, so that
/// only what never happens fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Between two attempts at first; grows to [`SLOWEST`].
const QUICKEST: Duration = Duration::from_millis(10);
const SLOWEST: Duration = Duration::from_millis(200);

/// Tries until `attempt` succeeds, at most for `limit` (but at least twice). The error is the last attempt's, with what
/// was waited for.
pub fn eventually<T>(what: &str, limit: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let mut pause = QUICKEST;
    let mut tries = 0;
    loop {
        tries += 1;
        let outcome = attempt();
        if outcome.is_ok() || (start.elapsed() >= limit && tries > 1) {
            return outcome
                .with_context(|| format!("{what}: not within {limit:?} ({tries} attempts); the last said"));
        }
        std::thread::sleep(pause);
        pause = (pause * 3 / 2).min(SLOWEST);
    }
}

/// An error that says what was seen, unless `holds`. For attempts of one line.
pub fn check(holds: bool, seen: impl std::fmt::Display) -> Result<()> {
    if holds { Ok(()) } else { Err(anyhow::anyhow!("seen: {seen}")) }
}

/// Checks that `holds` stays true for all of `span`.
pub fn steadily(what: &str, span: Duration, mut holds: impl FnMut() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    loop {
        holds().with_context(|| format!("{what}: no longer true after {:?}", start.elapsed()))?;
        if start.elapsed() >= span {
            return Ok(());
        }
        std::thread::sleep(SLOWEST / 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_ends_the_wait() {
        let mut left = 3;
        let value = eventually("three attempts", PATIENCE, || {
            left -= 1;
            anyhow::ensure!(left == 0, "{left} left");
            Ok("done")
        });
        assert_eq!(value.ok(), Some("done"));
    }

    #[test]
    fn the_error_says_what_was_seen_last() {
        let error = eventually::<()>("the impossible", Duration::ZERO, || anyhow::bail!("seen: 4 routes"));
        let text = format!("{:#}", error.expect_err("the attempt always fails"));
        assert!(text.contains("the impossible") && text.contains("seen: 4 routes"), "{text}");
    }

    #[test]
    fn steadily_notices_the_end() {
        let mut left = 2;
        let outcome = steadily("two checks", PATIENCE, || {
            left -= 1;
            anyhow::ensure!(left >= 0, "over");
            Ok(())
        });
        assert!(outcome.is_err());
    }
}
