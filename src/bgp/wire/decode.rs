//! A whole message from bytes.

use bytes::Bytes;

use super::{
    Action, Capability, DecodeContext, Disposition, HEADER_LEN, Message, Notification, Reason, RouteRefresh,
    WireError, capability, code, error::Errors, frame, open, update,
};

/// What [`decode`] makes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The message, as far as it could be read: never trust it with [`Disposition::Reset`], and always there without.
    pub message: Option<Message>,
    /// The strongest action that the errors demand.
    pub disposition: Disposition,
    /// Everything that is wrong, in the order it was found.
    pub errors: Vec<WireError>,
}

impl Decoded {
    /// The message to act on with the errors to log, or the error that ends the session.
    pub fn into_result(self) -> Result<(Message, Vec<WireError>), WireError> {
        let Self { message, errors, .. } = self;
        let fatal = errors.iter().position(|e| e.action == Action::Reset);
        match (fatal, message) {
            (None, Some(message)) => Ok((message, errors)),
            (Some(i), _) => Err(errors.into_iter().nth(i).expect("position() has found it")),
            (None, None) => Err(frame::header_error(&[], Reason::HeaderTruncated(0), 0, 0..0)),
        }
    }
}

/// Reads one whole message, header included.
pub fn decode(ctx: &DecodeContext, message: &[u8]) -> Decoded {
    match frame::frame_length(message, ctx.extended_message) {
        Ok(Some(length)) if length == message.len() => {}
        Ok(Some(length)) => {
            let reason = Reason::LengthMismatch { length, given: message.len() };
            return refused(frame::header_error(message, reason, 16, 16..18));
        }
        Ok(None) => {
            return refused(frame::header_error(message, Reason::HeaderTruncated(message.len()), 0, 0..0));
        }
        Err(error) => return refused(error),
    }
    let mut errors = Errors::default();
    let decoded = match message.get(HEADER_LEN - 1) {
        Some(&code::message::OPEN) => open::decode(ctx.peer, message, &mut errors).map(Message::Open),
        Some(&code::message::UPDATE) => update::decode(*ctx, message, &mut errors).map(Message::Update),
        Some(&code::message::NOTIFICATION) => notification(message).map(Message::Notification),
        Some(&code::message::ROUTE_REFRESH) => route_refresh(message, &mut errors).map(Message::RouteRefresh),
        // `frame_length` lets only the five types pass.
        _ => Some(Message::Keepalive),
    };
    Decoded { message: decoded, disposition: errors.disposition(), errors: errors.finish(message) }
}

/// Reads the capabilities of one RFC 5492 parameter, without a message around them.
pub fn decode_capabilities(bytes: &[u8]) -> (Vec<Capability>, Vec<WireError>) {
    let mut errors = Errors::default();
    let mut capabilities = Vec::new();
    capability::decode(bytes, 0, &mut capabilities, &mut errors);
    (capabilities.into_iter().map(|(_, capability)| capability).collect(), errors.finish(bytes))
}

fn refused(error: WireError) -> Decoded {
    Decoded { message: None, disposition: Disposition::Reset, errors: vec![error] }
}

fn notification(message: &[u8]) -> Option<Notification> {
    let (&[code, subcode], data) = message.get(HEADER_LEN..)?.split_first_chunk::<2>()?;
    Some(Notification { code, subcode, data: Bytes::copy_from_slice(data) })
}

fn route_refresh(message: &[u8], errors: &mut Errors) -> Option<RouteRefresh> {
    let body = message.get(HEADER_LEN..)?;
    let (&[high, low, subtype], rest) = body.split_first_chunk::<3>()?;
    match (subtype, rest) {
        (0..=2, [_]) => {}
        // RFC 2918 has no error of its own, so RFC 4271 section 6.1 speaks. RFC 5291's filters, which make a request
        // longer, are not ours, so their length is wrong too.
        (0, _) => {
            let reason = Reason::MessageLength { length: message.len(), least: 23, most: 23 };
            errors.push(Action::Reset, reason, None, 16, 16..18);
            return None;
        }
        // RFC 7313 section 5: the data is the whole message.
        (1 | 2, _) => {
            errors.push(Action::Reset, Reason::RefreshLength(message.len()), None, 16, 0..message.len());
            return None;
        }
        // The same section: other subtypes MUST be ignored, whatever their length.
        _ => errors.push(Action::Discard, Reason::RefreshSubtype(subtype), None, HEADER_LEN + 2, 0..0),
    }
    let safi = rest.first().copied().unwrap_or_default();
    Some(RouteRefresh { afi: u16::from_be_bytes([high, low]), subtype, safi })
}
