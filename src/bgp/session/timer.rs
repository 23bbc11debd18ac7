//! The timers of a session as a table: what is not in it is not running.

use std::time::Instant;

/// Which of the two connections a session may have at once (RFC 4271 section 6.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    A,
    B,
}

impl Slot {
    pub(super) const BOTH: [Self; 2] = [Self::A, Self::B];

    pub(super) const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// RFC 4271 section 8.1.3 and RFC 9687.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// The wait in Idle before starting again.
    IdleHold,
    /// The wait in Connect and Active before dialing again.
    ConnectRetry,
    /// The wait for the peer's OPEN before sending ours.
    DelayOpen(Slot),
    /// The peer must be heard before it expires.
    Hold(Slot),
    /// The next KEEPALIVE is due.
    Keepalive(Slot),
    /// The peer must take what we send before it expires.
    SendHold(Slot),
}

impl Timer {
    const COUNT: usize = 10;

    const ALL: [Self; Self::COUNT] = [
        Self::IdleHold,
        Self::ConnectRetry,
        Self::DelayOpen(Slot::A),
        Self::DelayOpen(Slot::B),
        Self::Hold(Slot::A),
        Self::Hold(Slot::B),
        Self::Keepalive(Slot::A),
        Self::Keepalive(Slot::B),
        Self::SendHold(Slot::A),
        Self::SendHold(Slot::B),
    ];

    const fn index(self) -> usize {
        match self {
            Self::IdleHold => 0,
            Self::ConnectRetry => 1,
            Self::DelayOpen(slot) => 2 + slot as usize,
            Self::Hold(slot) => 4 + slot as usize,
            Self::Keepalive(slot) => 6 + slot as usize,
            Self::SendHold(slot) => 8 + slot as usize,
        }
    }
}

/// When each running timer expires.
#[derive(Debug, Default)]
pub(super) struct TimerTable {
    deadlines: [Option<Instant>; Timer::COUNT],
}

impl TimerTable {
    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        self.deadlines[timer.index()] = Some(at);
    }

    pub(super) fn stop(&mut self, timer: Timer) {
        self.deadlines[timer.index()] = None;
    }

    pub(super) fn stop_slot(&mut self, slot: Slot) {
        for timer in
            [Timer::DelayOpen(slot), Timer::Hold(slot), Timer::Keepalive(slot), Timer::SendHold(slot)]
        {
            self.stop(timer);
        }
    }

    pub(super) fn deadline(&self, timer: Timer) -> Option<Instant> {
        self.deadlines[timer.index()]
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        self.deadlines.iter().flatten().min().copied()
    }

    /// Takes the timer that expired first, if one has at `now`.
    pub(super) fn take_expired(&mut self, now: Instant) -> Option<Timer> {
        let due = |timer: &Timer| self.deadline(*timer).filter(|at| *at <= now);
        let timer = Timer::ALL.into_iter().filter(|t| due(t).is_some()).min_by_key(due)?;
        self.stop(timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn indices_are_distinct_and_expiry_is_in_order() {
        let start = Instant::now();
        let at = |n: usize| start + Duration::from_secs(n as u64);
        let mut table = TimerTable::default();
        for (i, timer) in Timer::ALL.into_iter().enumerate() {
            assert_eq!(timer.index(), i);
            table.set(timer, at(Timer::COUNT - i));
        }
        assert_eq!(table.next(), Some(at(1)));
        assert_eq!(table.take_expired(start), None);
        for timer in Timer::ALL.into_iter().rev() {
            assert_eq!(table.take_expired(at(99)), Some(timer));
        }
        assert_eq!((table.take_expired(at(99)), table.next()), (None, None));
    }
}
