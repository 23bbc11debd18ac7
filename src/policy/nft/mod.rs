//! nftables: how a compiled form gets into the kernel and back.
//!
//! Everything of ours is in one table, `inet slash32`; nothing else is ever changed or flushed. [`Text`] prints a
//! compiled form in nft's language; `Driver` loads it by netlink, and every change is one transaction.

mod driver;
mod dump;
mod encode;
mod foreign;
mod text;

pub use self::{
    driver::{Driver, Error, Look, Looked},
    dump::{Difference, RuleCounter},
    foreign::ForeignDrop,
    text::Text,
};

/// How the table is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The table's name.
    pub table: String,
    /// The bits of the connection mark that hold the generation stamp: a run of ones. Others use the mark too; ours
    /// is read and written under this mask only. With fewer bits, generations wrap sooner.
    pub mark_mask: u32,
    /// The nflog group that logged packets go to.
    pub log_group: u16,
}

/// The upper 24 bits: small numbers, which people and other programs tend to use, stay free.
pub const DEFAULT_MARK_MASK: u32 = 0xffff_ff00;

/// How many generations back connections are taken for living when the mask changes.
const REMEMBERED: usize = 4096;

impl Default for Settings {
    fn default() -> Self {
        Self { table: "slash32".into(), mark_mask: DEFAULT_MARK_MASK, log_group: 32 }
    }
}

impl Settings {
    /// The mark of a generation, within the mask. Never 0, which is what unstamped connections have.
    pub const fn stamp(&self, generation: u32) -> u32 {
        let most = self.generations();
        // Of a generation that an agent with a wider mask left behind, what fits.
        let fits = if generation == 0 || most == 0 { 1 } else { (generation - 1) % most + 1 };
        fits << (self.mark_mask.trailing_zeros() & 31)
    }

    /// The generation after this one; 1 after the last that the mask can hold. A connection that was silent for a
    /// whole round, 16 million revocations with the default mask, would be taken for a fresh one.
    pub const fn next_generation(&self, generation: u32) -> u32 {
        if generation >= self.generations() { 1 } else { generation + 1 }
    }

    /// A generation to go on from after one that was stamped under another mask: connections that the last ones stamped
    /// there must not look here as if this one's successor had.
    fn apart_from(&self, before: &Self, generation: u32) -> u32 {
        let mut earlier = generation;
        let mut seen: Vec<u32> = Vec::with_capacity(REMEMBERED);
        for _ in 0..REMEMBERED {
            seen.push(before.stamp(earlier) & self.mark_mask);
            earlier = if earlier <= 1 { before.generations() } else { earlier - 1 };
        }
        seen.sort_unstable();
        let mut candidate = self.random_generation();
        for _ in 0..=REMEMBERED {
            if seen.binary_search(&self.stamp(self.next_generation(candidate))).is_err() {
                break;
            }
            candidate = self.next_generation(candidate);
        }
        candidate
    }

    /// Any generation.
    fn random_generation(&self) -> u32 {
        use std::hash::{BuildHasher, RandomState};
        let random = RandomState::new().hash_one(self.log_group);
        (random % u64::from(self.generations())) as u32 + 1
    }

    const fn generations(&self) -> u32 {
        self.mark_mask >> (self.mark_mask.trailing_zeros() & 31)
    }

    /// Whether the mask is one run of at least 8 ones, so that it can hold stamps.
    pub const fn mask_is_usable(&self) -> bool {
        let run = self.generations();
        run >= 0xff && (run & run.wrapping_add(1)) == 0
    }
}

#[cfg(test)]
pub(super) mod tests;
