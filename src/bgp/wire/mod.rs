//! The BGP wire format. No I/O, no clock, no policy.

mod attribute;
mod message;

pub use attribute::*;
pub use message::*;
