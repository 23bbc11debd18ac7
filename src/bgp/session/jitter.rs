//! Jitter for timers (RFC 4271 section 10), from a seed so that a run can be repeated.

use std::time::Duration;

/// A small pseudo-random generator (SplitMix64). Not for secrets.
#[derive(Clone, Debug)]
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// `base` times a factor from 0.75 to 1.0.
    pub(super) fn apply(&mut self, base: Duration) -> Duration {
        let factor = 768 + (self.next() % 257) as u32;
        base / 1024 * factor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_in_bounds_and_varies() {
        let base = Duration::from_secs(4);
        let mut jitter = Jitter::new(1);
        let values: Vec<_> = (0..100).map(|_| jitter.apply(base)).collect();
        assert!(values.iter().all(|v| (base * 3 / 4..=base).contains(v)));
        assert!(values.iter().any(|v| *v != values[0]));
        assert_eq!(Jitter::new(1).apply(base), values[0]);
    }
}
