//! The BGP speaker (RFC 4271 and its extensions).
//!
//! - [`config`]: what the speaker is told, as plain values.
//! - [`wire`]: the codec. Bytes in, types out, and back. No I/O, no clock, no policy.
//! - [`session`]: the state machine of one neighbour, sans-IO, with a virtual clock in tests.
//! - [`bfd`]: bidirectional forwarding detection, sans-IO too.
//! - [`mrt`] and [`bmp`]: dumps of routes and messages, for files and collectors.
//! - [`speaker`]: sockets, tasks and the thread that owns the RIB; the only place here with tokio.
//! - [`capture`]: BGP messages out of packet captures.
//! - [`identity`]: endpoint labels as large communities.
//! - [`rib`]: Adj-RIB-In, decision process, Loc-RIB and update groups. Synchronous, single owner.

use std::fmt;

pub mod bfd;
pub mod bmp;
pub mod capture;
pub mod config;
pub mod identity;
pub mod mrt;
pub mod rib;
pub mod session;
pub mod speaker;
pub mod wire;

/// A neighbour, as the parts of the speaker name it to one another: small, never reused while the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peer {}", self.0)
    }
}
