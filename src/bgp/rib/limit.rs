//! The bound on prefixes from one peer in one family.

use crate::bgp::config::MaxPrefixes;

/// How much of the limit has been reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MaxPrefixState {
    warned: bool,
    exceeded: bool,
}

/// What one more prefix means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Fine,
    /// Keep it; report that the warning share has been reached.
    Warn,
    /// Drop it; report that the limit is exceeded.
    Exceeded,
    /// Drop it; that has been reported.
    Drop,
}

impl MaxPrefixState {
    /// Whether one more fits beside `count` kept ones. Nothing is kept beyond the limit.
    pub(super) fn one_more(&mut self, limit: Option<MaxPrefixes>, count: u32) -> Verdict {
        let Some(limit) = limit else { return Verdict::Fine };
        if count >= limit.limit {
            return if std::mem::replace(&mut self.exceeded, true) {
                Verdict::Drop
            } else {
                Verdict::Exceeded
            };
        }
        let share = u64::from(limit.limit) * u64::from(limit.warning_percent) / 100;
        if limit.warning_percent > 0
            && u64::from(count) + 1 >= share
            && !std::mem::replace(&mut self.warned, true)
        {
            return Verdict::Warn;
        }
        Verdict::Fine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warns_once_then_drops() {
        let limit = Some(MaxPrefixes { limit: 4, warning_percent: 75, restart: None });
        let mut state = MaxPrefixState::default();
        let verdicts: Vec<_> = (0..4).map(|count| state.one_more(limit, count)).collect();
        assert_eq!(verdicts, [Verdict::Fine, Verdict::Fine, Verdict::Warn, Verdict::Fine]);
        assert_eq!(state.one_more(limit, 4), Verdict::Exceeded);
        assert_eq!(state.one_more(limit, 4), Verdict::Drop);
        assert_eq!(MaxPrefixState::default().one_more(None, u32::MAX), Verdict::Fine);
    }
}
