//! Policy: who may talk to whom, from a readable file to one nftables table.
//!
//! ```text
//! language  files            -> PolicySet, or errors with their places
//! engine    PolicySet, local endpoints, remote identities -> ir::Ruleset, ir::Delta
//! nft       Ruleset, Delta   -> text, or transactions in the kernel
//! enforcer  engine and nft in step: what the agent holds
//!
//! explain, reach     a direct interpreter of PolicySet: one connection step by step, all services between two addresses
//! matrix             who may talk to whom, what a change would allow and cut: reach over what policies tell apart
//! expectations       files of `policy test`
//! notes              what is written and does nothing
//! ```
//!
//! All but `nft` and `enforcer` is without I/O.

mod enforcer;
pub mod engine;
pub mod expectations;
pub mod explain;
pub mod ir;
pub mod language;
pub mod matrix;
pub mod nft;
pub mod notes;
pub mod ranges;
pub mod reach;
pub mod selector;
mod set;

pub use enforcer::{Commits, Enforcer};
pub use set::*;

#[cfg(test)]
mod figures;
#[cfg(test)]
mod kubernetes_tests;
#[cfg(test)]
mod oracle_tests;
#[cfg(test)]
mod packet_tests;
#[cfg(test)]
mod suite;
