//! Policy: who may talk to whom, from a readable file to one nftables table.

pub mod language;
pub mod ranges;
pub mod selector;
mod set;

pub use set::*;
