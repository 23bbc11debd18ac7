//! The BGP speaker (RFC 4271 and its extensions).
//!
//! - [`wire`]: the codec. Bytes in, types out, and back. No I/O, no clock, no policy.
//! - [`session`]: the state machine of one neighbour, sans-IO, with a virtual clock in tests.
//! - [`bfd`]: bidirectional forwarding detection, sans-IO too.
//! - [`rib`]: Adj-RIB-In, decision process, Loc-RIB and update groups. Synchronous, single owner.

pub mod bfd;
pub mod rib;
pub mod session;
pub mod wire;
