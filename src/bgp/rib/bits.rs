//! Sets of small numbers, as bitmaps with a summary level: one bit a route, and finding the next member skips 4096
//! empty places at a time. They hold what is dirty, so a route that changes often is in them once.

/// A growing set of `u32`.
#[derive(Clone, Debug, Default)]
pub(super) struct Bits {
    words: Vec<u64>,
    /// Bit `i` is set when `words[i]` is not zero.
    summary: Vec<u64>,
    len: usize,
}

impl Bits {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn contains(&self, number: u32) -> bool {
        let (word, bit) = split(number);
        self.words.get(word).is_some_and(|w| w & bit != 0)
    }

    /// Adds a number; false if it was there.
    pub(super) fn insert(&mut self, number: u32) -> bool {
        let (word, bit) = split(number);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
            self.summary.resize(word / 64 + 1, 0);
        }
        if self.words[word] & bit != 0 {
            return false;
        }
        self.words[word] |= bit;
        self.summary[word / 64] |= 1 << (word % 64);
        self.len += 1;
        true
    }

    /// Takes a number out; false if it was not there.
    pub(super) fn remove(&mut self, number: u32) -> bool {
        let (word, bit) = split(number);
        let Some(found) = self.words.get_mut(word).filter(|w| **w & bit != 0) else { return false };
        *found &= !bit;
        if *found == 0 {
            self.summary[word / 64] &= !(1 << (word % 64));
        }
        self.len -= 1;
        true
    }

    /// The smallest member that is at least `from`.
    pub(super) fn next(&self, from: u32) -> Option<u32> {
        let (mut word, bit) = split(from);
        let here = self.words.get(word)? & !(bit - 1);
        if here != 0 {
            return Some(join(word, here));
        }
        word += 1;
        let mut block = word / 64;
        let mut nonzero = self.summary.get(block)? & (u64::MAX << (word % 64));
        while nonzero == 0 {
            block += 1;
            nonzero = *self.summary.get(block)?;
        }
        let word = block * 64 + nonzero.trailing_zeros() as usize;
        Some(join(word, self.words[word]))
    }

    /// The members in ascending order.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let mut from = Some(0);
        std::iter::from_fn(move || {
            let number = self.next(from?)?;
            from = number.checked_add(1);
            Some(number)
        })
    }

    /// Moves at most `max` members from `cursor` on into `out`, and leaves the cursor behind the last. Returns true
    /// when nothing is left at or after the cursor; the cursor is then back at 0.
    pub(super) fn drain(&mut self, cursor: &mut u32, max: usize, out: &mut Vec<u32>) -> bool {
        for _ in 0..max {
            let Some(number) = self.next(*cursor) else { break };
            self.remove(number);
            out.push(number);
            *cursor = number.saturating_add(1);
        }
        let done = self.next(*cursor).is_none();
        if done {
            *cursor = 0;
        }
        done
    }
}

fn split(number: u32) -> (usize, u64) {
    ((number / 64) as usize, 1 << (number % 64))
}

fn join(word: usize, value: u64) -> u32 {
    word as u32 * 64 + value.trailing_zeros()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_a_set(ops in prop::collection::vec((any::<bool>(), 0u32..20_000), 0..200)) {
            let (mut bits, mut model) = (Bits::default(), BTreeSet::new());
            for (add, number) in ops {
                if add {
                    prop_assert_eq!(bits.insert(number), model.insert(number));
                } else {
                    prop_assert_eq!(bits.remove(number), model.remove(&number));
                }
                prop_assert_eq!(bits.is_empty(), model.is_empty());
                prop_assert_eq!(bits.contains(number), add);
                prop_assert_eq!(bits.next(number), model.range(number..).next().copied());
            }
            prop_assert!(bits.iter().eq(model.iter().copied()));
        }
    }

    #[test]
    fn drains_in_rounds() {
        let mut bits = Bits::default();
        for n in [5, 64, 9000, 70000] {
            bits.insert(n);
        }
        let (mut cursor, mut out) = (0, Vec::new());
        assert!(!bits.drain(&mut cursor, 2, &mut out));
        bits.insert(1);
        assert!(bits.drain(&mut cursor, 2, &mut out));
        assert_eq!((out, cursor, bits.iter().collect::<Vec<_>>()), (vec![5, 64, 9000, 70000], 0, vec![1]));
    }
}
