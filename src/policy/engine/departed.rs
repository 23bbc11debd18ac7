//! Addresses that somebody had who is gone: connections with them may live on, judged while they were another's.

use rustc_hash::FxHashSet;

use crate::model::Prefix;

/// More are not told apart.
const MOST: usize = 1 << 16;

/// The addresses that were somebody's.
#[derive(Debug, Default)]
pub(super) struct Departed {
    known: FxHashSet<Prefix>,
    /// Any address may have been somebody's: a process before this one knew which, or there were too many.
    any: bool,
}

impl Departed {
    pub(super) fn note(&mut self, prefix: Prefix) {
        if self.any {
            return;
        }
        self.known.insert(prefix);
        if self.known.len() > MOST {
            self.note_any();
        }
    }

    pub(super) fn note_any(&mut self) {
        self.any = true;
        self.known = FxHashSet::default();
    }

    /// Whether somebody may have had the address.
    pub(super) fn contains(&self, prefix: Prefix) -> bool {
        self.any || self.known.contains(&prefix)
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
}
