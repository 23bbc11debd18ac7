//! Addresses that somebody had who is gone: connections with them may live on, judged while they were another's.

use rustc_hash::FxHashSet;

use crate::model::Prefix;

/// More are not told apart.
const MOST: usize = 1 << 16;

/// The addresses that were somebody's.
#[derive(Debug, Default)]
pub(super) struct Departed {
    known: FxHashSet<Prefix>,
    /// Any address may have been somebody's: a process before this one knew which.
    any: bool,
    /// There were too many to tell apart.
    lost: bool,
}

impl Departed {
    pub(super) fn note(&mut self, prefix: Prefix) {
        if self.lost {
            return;
        }
        self.known.insert(prefix);
        if self.known.len() > MOST {
            self.lost = true;
            self.known = FxHashSet::default();
        }
    }

    /// Any address may have been somebody's, until [`Self::only`] says which.
    pub(super) fn note_any(&mut self) {
        self.any = true;
        // From here on it is known who goes.
        self.lost = false;
    }

    /// Before the last [`Self::note_any`] only these may have been somebody's.
    pub(super) fn only(&mut self, prefixes: impl Iterator<Item = Prefix>) {
        self.any = false;
        for prefix in prefixes {
            self.note(prefix);
        }
    }

    pub(super) fn is_any(&self) -> bool {
        self.any || self.lost
    }

    /// Whether somebody may have had the address.
    pub(super) fn contains(&self, prefix: Prefix) -> bool {
        self.is_any() || self.known.contains(&prefix)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn bounded_and_on_the_safe_side() {
        let at = |n: usize| Prefix::host(Ipv4Addr::from_bits(n as u32).into());
        let mut departed = Departed::default();
        for n in 0..MOST {
            departed.note(at(n));
        }
        assert!(departed.contains(at(0)) && !departed.contains(at(MOST)));
        departed.note(at(MOST));
        assert!(departed.contains(at(MOST + 1)), "too many to tell: any may have been somebody's");
        assert!(departed.known.is_empty());
    }

    #[test]
    fn after_a_restart_any_address_counts_until_it_is_known_which() {
        let at = |n: u32| Prefix::host(Ipv4Addr::from_bits(n).into());
        let mut departed = Departed::default();
        departed.note_any();
        departed.note(at(1));
        assert!(departed.contains(at(3)));
        departed.only([at(2)].into_iter());
        assert!(departed.contains(at(1)) && departed.contains(at(2)), "who went meanwhile is not forgotten");
        assert!(!departed.contains(at(3)));
        departed.only((0..=MOST as u32).map(at));
        assert!(departed.contains(at(u32::MAX)), "too many to tell");
        departed.note_any();
        departed.only([at(2)].into_iter());
        assert!(!departed.contains(at(3)), "all of them were looked up again");
    }
}
