//! Bidirectional forwarding detection (RFC 5880, 5881, 5883): is the neighbour still there, asked many times a second.
//!
//! - [`ControlPacket`]: the packet and its codec.
//! - [`Session`]: the state machine, without socket and clock. Asynchronous mode; demand mode is obeyed, never asked for; no
//!   echo, no authentication.
//! - [`driver`]: a thread of its own with sockets and timers, so that detection never waits behind route work.

pub mod driver;
mod packet;
mod session;
#[cfg(test)]
mod tests;

pub use packet::{ControlPacket, Diagnostic, PACKET_LEN, PacketError, State};
pub use session::{
    DEFAULT_INTERVAL, DEFAULT_MULTIPLIER, SavedSession, Session, SessionConfig, SessionEvent, SessionStatus,
};
