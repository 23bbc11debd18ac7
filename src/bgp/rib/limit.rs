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
        if limit.is_near(count + 1) && !std::mem::replace(&mut self.warned, true) {
            return Verdict::Warn;
        }
        Verdict::Fine
    }

    /// The limit is another one while `count` are kept: what that means at once.
    pub(super) fn changed(&mut self, limit: Option<MaxPrefixes>, count: u32) -> Verdict {
        *self = Self::default();
        // As if the last of them came now.
        count.checked_sub(1).map_or(Verdict::Fine, |others| self.one_more(limit, others))
    }

    /// Whether there were too many, in the last session that there was.
    pub(super) const fn is_exceeded(self) -> bool {
        self.exceeded
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

    #[test]
    fn another_limit_counts_at_once_and_warns_anew() {
        let of = |limit| Some(MaxPrefixes { limit, warning_percent: 50, restart: None });
        let mut state = MaxPrefixState::default();
        assert_eq!(state.one_more(of(4), 1), Verdict::Warn);
        assert_eq!(state.changed(of(8), 2), Verdict::Fine);
        assert_eq!(state.one_more(of(8), 3), Verdict::Warn);
        assert_eq!(state.changed(of(4), 4), Verdict::Warn);
        assert!(!state.is_exceeded());
        assert_eq!(state.changed(of(3), 4), Verdict::Exceeded);
        assert!(state.is_exceeded());
        assert_eq!(state.changed(None, 4), Verdict::Fine);
        assert_eq!(state.changed(of(0), 0), Verdict::Fine);
    }
}
