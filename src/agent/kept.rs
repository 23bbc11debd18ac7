//! What containers of other hosts were known as when nobody tells it any more: of sessions that were lost, and from before
//! the agent's start.
//!
//! The RIB says why a route went ([`Told`]); this keeps account for people and for the next process, and decides about
//! what a process before us knew. Time is passed in.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use rustc_hash::FxBuildHasher;

use super::identities::Known;
use crate::model::{Family, Prefix};

/// What the RIB says of who is behind an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It is told now, be it that nobody is there.
    Told,
    /// It came by a session that was lost then, and nobody has said anything since.
    Lost(Instant),
}

/// A neighbour that has told all it knew of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Session {
    Up,
    Down,
    /// Since before the last look, and nothing is kept that it could have told.
    Forgettable,
}

/// The account.
#[derive(Debug, Default)]
pub(super) struct Kept {
    hold: Duration,
    /// Of lost sessions, since when.
    lost: HashMap<Prefix, Instant, FxBuildHasher>,
    /// From before the start and not confirmed since; since when nobody tells it.
    recalled: HashMap<Prefix, Instant, FxBuildHasher>,
    /// The neighbours that have told all they know.
    tellers: BTreeMap<(String, Family), Session>,
    /// Of the process before us, those that have not yet told all they know.
    awaited: BTreeSet<(String, Family)>,
    /// Nobody else is waited for after the start.
    converged: bool,
    /// Nothing recalled is older.
    oldest: Option<Instant>,
}

/// How much is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    /// Addresses.
    pub(super) count: usize,
    /// For how long the oldest of them has been kept.
    pub(super) age: Duration,
}

impl Kept {
    pub(super) fn new(hold: Duration) -> Self {
        Self { hold, ..Self::default() }
    }

    /// Takes what the process before us knew.
    pub(super) fn recall(&mut self, known: &Known, now: Instant) {
        for (prefix, _, lost) in &known.entries {
            // A clock that does not reach back so far has just been started.
            let since = lost.and_then(|age| now.checked_sub(age)).unwrap_or(now);
            self.recalled.insert(*prefix, since);
            self.oldest = Some(self.oldest.map_or(since, |oldest| oldest.min(since)));
        }
        self.awaited.extend(known.neighbours.iter().cloned());
    }

    /// Notes what the RIB says of an address.
    pub(super) fn note(&mut self, prefix: Prefix, news: News) {
        self.recalled.remove(&prefix);
        match news {
            News::Told => _ = self.lost.remove(&prefix),
            News::Lost(since) => _ = self.lost.insert(prefix, since),
        }
    }

    /// The address is a local container's.
    pub(super) fn taken(&mut self, prefix: Prefix) -> bool {
        self.lost.remove(&prefix).is_some() | self.recalled.remove(&prefix).is_some()
    }

    /// A neighbour has told all it knows of a family; what is to be forgotten for it.
    pub(super) fn complete(&mut self, peer: String, family: Family) -> Vec<Prefix> {
        let teller = (peer, family);
        self.awaited.remove(&teller);
        self.tellers.insert(teller, Session::Up);
        self.unconfirmed()
    }

    /// A session is over.
    pub(super) fn down(&mut self, peer: &str) {
        for (_, session) in self.tellers.iter_mut().filter(|((name, _), _)| name == peer) {
            *session = Session::Down;
        }
    }

    /// Nobody else is waited for after the start; what is to be forgotten for it.
    pub(super) fn converged(&mut self) -> Vec<Prefix> {
        self.converged = true;
        self.unconfirmed()
    }

    /// Nobody is going to confirm anything.
    pub(super) fn alone(&mut self) -> Vec<Prefix> {
        self.awaited.clear();
        self.converged()
    }

    /// What was recalled of families that all have told everything of who told anything before.
    fn unconfirmed(&mut self) -> Vec<Prefix> {
        if !self.converged || self.recalled.is_empty() {
            return Vec::new();
        }
        let awaited = |family| self.awaited.iter().any(|(_, of)| *of == family);
        let over = Family::ALL.map(|family| !awaited(family));
        self.forget(|prefix, _| over[usize::from(prefix.family() == Family::Ipv6)])
    }

    /// Another configuration; what is to be forgotten for it.
    pub(super) fn reconfigure(
        &mut self,
        hold: Duration,
        believed: impl Fn(&str) -> bool,
        in_pools: impl Fn(Prefix) -> bool,
        now: Instant,
    ) -> Vec<Prefix> {
        self.hold = hold;
        self.awaited.retain(|(name, _)| believed(name));
        self.tellers.retain(|(name, _), _| believed(name));
        let mut gone = self.unconfirmed();
        gone.extend(self.forget(|prefix, _| !in_pools(prefix)));
        gone.extend(self.expire(now));
        gone
    }

    /// What was recalled and has been kept for long enough. Of lost sessions the RIB tells itself.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Prefix> {
        if self.next().is_none_or(|at| at > now) {
            return Vec::new();
        }
        let hold = self.hold;
        let gone = self.forget(|_, since| now.saturating_duration_since(since) >= hold);
        self.oldest = self.recalled.values().min().copied();
        gone
    }

    /// When [`Self::expire`] wants to be called.
    pub(super) fn next(&self) -> Option<Instant> {
        // Whoever restarts in good order keeps what it knew until it has heard everybody, whatever the time says.
        self.oldest.filter(|_| self.converged)?.checked_add(self.hold)
    }

    fn forget(&mut self, gone: impl Fn(Prefix, Instant) -> bool) -> Vec<Prefix> {
        self.recalled.extract_if(|prefix, since| gone(*prefix, *since)).map(|(prefix, _)| prefix).collect()
    }

    /// Whom the next process has to hear before it forgets anything. A neighbour that is gone is no longer among them when
    /// nothing is kept.
    pub(super) fn tellers(&mut self) -> Vec<(String, Family)> {
        let kept = |family| {
            let mut all = self.lost.keys().chain(self.recalled.keys());
            all.any(|prefix| prefix.family() == family)
        };
        let kept = Family::ALL.map(kept);
        self.tellers.retain(|(_, family), session| {
            match session {
                _ if kept[usize::from(*family == Family::Ipv6)] => {}
                Session::Up => {}
                Session::Down => *session = Session::Forgettable,
                Session::Forgettable => return false,
            }
            true
        });
        self.tellers.keys().chain(&self.awaited).cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Since when nobody tells who is behind an address; `None` if somebody does.
    pub(super) fn since(&self, prefix: Prefix) -> Option<Instant> {
        self.lost.get(&prefix).or_else(|| self.recalled.get(&prefix)).copied()
    }

    /// How much is kept.
    pub(super) fn amount(&self, now: Instant) -> Amount {
        let since = self.lost.values().chain(self.recalled.values()).min();
        Amount {
            count: self.lost.len() + self.recalled.len(),
            age: since.map_or(Duration::ZERO, |since| now.saturating_duration_since(*since)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    const HOLD: u64 = 30;
    const P: [&str; 3] = ["10.32.1.1/32", "10.32.1.2/32", "fd00::1/128"];
    const NAMES: [&str; 3] = ["192.0.2.1", "fe80::1%eth0", "198.51.100.7"];

    fn at(p: usize) -> Prefix {
        P[p].parse().unwrap()
    }

    #[derive(Clone, Debug)]
    enum Op {
        Told(usize),
        Lost(usize),
        Taken(usize),
        Complete(usize, bool),
        Converged,
        Distrust(usize),
        Wait(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            1 => (0..3usize).prop_map(Op::Told),
            1 => (0..3usize).prop_map(Op::Lost),
            1 => (0..3usize).prop_map(Op::Taken),
            4 => (0..3usize, any::<bool>()).prop_map(|(n, six)| Op::Complete(n, six)),
            2 => Just(Op::Converged),
            1 => (0..3usize).prop_map(Op::Distrust),
            2 => (1..20u64).prop_map(Op::Wait),
        ]
    }

    fn family(six: bool) -> Family {
        if six { Family::Ipv6 } else { Family::Ipv4 }
    }

    proptest! {
        /// What is recalled goes when, and only when, one of the reasons holds, whatever came before.
        #[test]
        fn recalled_until_there_is_a_reason(
            ages in prop::collection::vec(prop::option::of(0..50u64), 3),
            told in prop::collection::vec((0..3usize, any::<bool>()), 0..5),
            ops in prop::collection::vec(op(), 0..25),
        ) {
            // Far enough from the boot.
            let start = Instant::now() + Duration::from_secs(1000);
            let known = Known {
                entries: (0..3).map(|p| (at(p), Arc::default(), ages[p].map(Duration::from_secs))).collect(),
                neighbours: told.iter().map(|(n, six)| (NAMES[*n].to_owned(), family(*six))).collect(),
            };
            let mut kept = Kept::new(Duration::from_secs(HOLD));
            kept.recall(&known, start);
            let mut now = start;
            let (mut awaited, mut converged) = (told.clone(), false);
            let mut left: BTreeSet<usize> = (0..3).collect();
            for op in &ops {
                let mut gone = match *op {
                    Op::Told(p) | Op::Lost(p) | Op::Taken(p) => {
                        match op {
                            Op::Told(_) => kept.note(at(p), News::Told),
                            Op::Lost(_) => kept.note(at(p), News::Lost(now)),
                            _ => _ = kept.taken(at(p)),
                        }
                        prop_assert_eq!(kept.since(at(p)).is_some(), matches!(op, Op::Lost(_)));
                        left.remove(&p);
                        Vec::new()
                    }
                    Op::Complete(n, six) => {
                        awaited.retain(|of| *of != (n, six));
                        kept.complete(NAMES[n].to_owned(), family(six))
                    }
                    Op::Converged => {
                        converged = true;
                        kept.converged()
                    }
                    Op::Distrust(n) => {
                        awaited.retain(|(of, _)| *of != n);
                        let hold = Duration::from_secs(HOLD);
                        kept.reconfigure(hold, |name| name != NAMES[n], |_| true, now)
                    }
                    Op::Wait(seconds) => {
                        now += Duration::from_secs(seconds);
                        Vec::new()
                    }
                };
                gone.extend(kept.expire(now));
                gone.sort();
                let over = |p: &usize| {
                    let all_told = !awaited.iter().any(|(_, six)| family(*six) == at(*p).family());
                    let age = (now - start).as_secs() + ages[*p].unwrap_or(0);
                    converged && (all_told || age >= HOLD)
                };
                let mut expected: Vec<Prefix> = left.iter().filter(|p| over(p)).map(|p| at(*p)).collect();
                expected.sort();
                left.retain(|p| !over(p));
                prop_assert_eq!(gone, expected, "after {:?}", op);
                prop_assert!(left.iter().all(|p| kept.since(at(*p)).is_some()));
            }
        }
    }

    #[test]
    fn whom_the_next_process_waits_for() {
        let teller = |n: usize, six| (NAMES[n].to_owned(), family(six));
        let mut kept = Kept::new(Duration::from_secs(HOLD));
        kept.recall(&Known { neighbours: vec![teller(2, false)], ..Known::default() }, Instant::now());
        kept.complete(NAMES[0].to_owned(), family(false));
        kept.complete(NAMES[1].to_owned(), family(true));
        assert_eq!(kept.tellers(), [teller(0, false), teller(2, false), teller(1, true)]);
        // One that is gone is waited for while there is anything that it could have told.
        kept.down(NAMES[0]);
        kept.note(at(0), News::Lost(Instant::now()));
        for _ in 0..3 {
            assert_eq!(kept.tellers().len(), 3);
        }
        kept.note(at(0), News::Told);
        assert_eq!(kept.tellers().len(), 3, "its last words may still be on their way");
        assert_eq!(kept.tellers(), [teller(2, false), teller(1, true)]);
        assert_eq!(kept.amount(Instant::now()).count, 0);
    }

    #[test]
    fn nobody_to_wait_for() {
        let mut kept = Kept::new(Duration::ZERO);
        let known = Known {
            entries: vec![(at(0), Arc::default(), None)],
            neighbours: vec![(NAMES[0].to_owned(), Family::Ipv4)],
        };
        kept.recall(&known, Instant::now());
        assert!(
            kept.expire(Instant::now()).is_empty(),
            "not in an ordinary restart, even when nothing is kept"
        );
        assert_eq!(kept.alone(), [at(0)]);
    }
}
