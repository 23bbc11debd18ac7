//! Cutting the byte stream into messages (RFC 4271 section 4.1).

use bytes::{Bytes, BytesMut};

use super::{Action, MAX_EXTENDED_MESSAGE, MAX_MESSAGE, Reason, WireError, code, error::Errors};

/// Octets of the message header: marker, length, type.
pub const HEADER_LEN: usize = 19;
/// Octets of the marker, all ones.
pub(super) const MARKER_LEN: usize = 16;

/// Collects bytes from a peer and hands out whole messages without copying them.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: BytesMut,
    extended_message: bool,
}

impl FrameReader {
    /// An empty reader; messages may have 4096 octets.
    pub fn new() -> Self {
        Self::default()
    }

    /// Allows messages of 65,535 octets, but never for OPEN and KEEPALIVE (RFC 8654 section 4).
    pub fn set_extended_message(&mut self, allowed: bool) {
        self.extended_message = allowed;
    }

    /// Where to append received bytes, for `read_buf` and the like.
    pub fn buffer_mut(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Appends received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// How many octets wait for the rest of their message.
    pub fn pending(&self) -> usize {
        self.buffer.len()
    }

    /// The next whole message, header included; `None` when more bytes are needed.
    ///
    /// After an error the stream has no more boundaries: send the NOTIFICATION and close.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, WireError> {
        match frame_length(&self.buffer, self.extended_message)? {
            Some(length) if self.buffer.len() >= length => Ok(Some(self.buffer.split_to(length).freeze())),
            _ => Ok(None),
        }
    }
}

/// The length of the message that `bytes` begin with, checked by RFC 4271 section 6.1; `None` below 19 octets.
pub fn frame_length(bytes: &[u8], extended_message: bool) -> Result<Option<usize>, WireError> {
    // A wrong marker shows before the header is complete.
    let marker = bytes.get(..MARKER_LEN).unwrap_or(bytes);
    if let Some(at) = marker.iter().position(|&b| b != 0xFF) {
        return Err(header_error(bytes, Reason::Marker, at, 0..0));
    }
    let Some(&[high, low, kind]) = bytes.get(MARKER_LEN..HEADER_LEN) else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    // The type comes last in section 6.1, but the bounds of the length depend on it.
    let extensible =
        matches!(kind, code::message::UPDATE | code::message::NOTIFICATION | code::message::ROUTE_REFRESH);
    let (least, mut most) = match kind {
        code::message::OPEN => (29, MAX_MESSAGE),
        code::message::UPDATE => (23, MAX_MESSAGE),
        code::message::NOTIFICATION => (21, MAX_MESSAGE),
        code::message::KEEPALIVE => (HEADER_LEN, HEADER_LEN),
        // The shortest that has a subtype: RFC 7313 then gives the error its own code.
        code::message::ROUTE_REFRESH => (22, MAX_MESSAGE),
        _ => (HEADER_LEN, MAX_MESSAGE),
    };
    if extensible && extended_message {
        most = MAX_EXTENDED_MESSAGE;
    }
    if !(least..=most).contains(&length) {
        let reason = Reason::MessageLength { length, least, most };
        return Err(header_error(bytes, reason, MARKER_LEN, MARKER_LEN..MARKER_LEN + 2));
    }
    if !matches!(kind, code::message::OPEN..=code::message::ROUTE_REFRESH) {
        return Err(header_error(bytes, Reason::MessageType(kind), 18, 18..19));
    }
    Ok(Some(length))
}

pub(super) fn header_error(
    message: &[u8],
    reason: Reason,
    offset: usize,
    data: std::ops::Range<usize>,
) -> WireError {
    let mut errors = Errors::default();
    errors.push(Action::Reset, reason, None, offset, data);
    errors.finish(message).swap_remove(0)
}
