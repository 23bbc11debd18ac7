//! The BGP wire format. No I/O, no clock, no policy.
//!
//! Bytes in: [`FrameReader`] cuts the stream into messages, [`decode`] turns one into a [`Message`] with the
//! [`Disposition`] of RFC 7606 and every error found. Bytes out: [`encode`] writes a message; for many prefixes with the
//! same attributes, [`EncodedAttributes`] is made once and [`UpdatePacker`] fills messages with prefixes.
//! What a session has negotiated comes in as [`DecodeContext`] and [`EncodeContext`].

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod as_path;
mod attribute;
mod capability;
pub mod code;
mod community;
mod context;
mod decode;
mod describe;
mod encode;
mod error;
mod frame;
mod layout;
mod message;
mod nlri;
mod notification;
mod open;
mod pack;
mod rib_entry;
#[cfg(test)]
mod tests;
mod update;

pub use attribute::*;
pub use context::{DecodeContext, EncodeContext, MAX_EXTENDED_MESSAGE, MAX_MESSAGE, PeerKind, PerFamily};
pub use decode::{Decoded, decode, decode_capabilities};
pub use describe::{
    AttributesView, Body, Description, ErrorView, NotificationView, OpenView, RouteRefreshView, UpdateView,
    describe, describe_decoded,
};
pub use encode::{EncodeError, encode, encode_attributes};
pub use error::{Action, Disposition, Reason, WireError};
pub use frame::{FrameReader, HEADER_LEN, frame_length};
pub use layout::{AttributeFault, AttributeRef, RawAttributes, UpdateLayout};
pub use message::*;
pub use nlri::{decode_nlri, encode_nlri};
pub use pack::{EncodedAttributes, UpdatePacker, encode_end_of_rib, pack_announce, pack_withdraw};
pub use rib_entry::{RibAttributes, decode_own_rib_attributes, decode_rib_attributes};

/// What `parser` makes of the start of `input`, and the rest; `None` when it does not fit.
fn parse<'a, P>(mut parser: P, input: &'a [u8]) -> Option<(&'a [u8], P::Output)>
where
    P: nom::Parser<&'a [u8], Error = ()>,
{
    parser.parse(input).ok()
}
