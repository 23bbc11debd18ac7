//! OPEN (RFC 4271 section 4.2, RFC 5492, RFC 9072).

use std::{net::Ipv4Addr, ops::Range};

use bytes::{BufMut, BytesMut};
use nom::{
    multi::length_data,
    number::complete::{be_u8, be_u16, be_u32},
};

use super::{
    Action, Capability, EncodeError, HEADER_LEN, Open, PeerKind, Reason, capability, code, error::Errors,
    parse,
};
use crate::model::Asn;

/// Optional parameter type of RFC 5492.
const CAPABILITIES: u8 = 2;
/// Optional parameter type that announces RFC 9072's two-octet lengths.
const EXTENDED_LENGTH: u8 = 255;

/// Reads the OPEN in a whole message whose header is checked.
pub(super) fn decode(peer: PeerKind, message: &[u8], errors: &mut Errors) -> Option<Open> {
    let body = message.get(HEADER_LEN..)?;
    let (rest, (version, my_as, hold_time, router_id, parameters_length)) =
        parse((be_u8, be_u16, be_u16, be_u32, be_u8), body)?;
    let mut open = Open {
        version,
        my_as,
        hold_time,
        router_id: Ipv4Addr::from_bits(router_id),
        capabilities: Vec::new(),
    };
    if version != 4 {
        // Nothing after the version can be trusted to be where version 4 puts it.
        errors.push(Action::Reset, Reason::Version(version), None, HEADER_LEN, 0..0);
        return Some(open);
    }
    if my_as == 0 {
        errors.push(Action::Reset, Reason::ZeroAs, None, HEADER_LEN + 1, 20..22);
    }
    if matches!(hold_time, 1 | 2) {
        errors.push(Action::Reset, Reason::HoldTime(hold_time), None, HEADER_LEN + 3, 22..24);
    }
    if router_id == 0 {
        errors.push(Action::Reset, Reason::ZeroRouterId, None, HEADER_LEN + 5, 24..28);
    }
    let mut placed = Vec::new();
    decode_parameters(rest, usize::from(parameters_length), HEADER_LEN + 10, &mut placed, errors);
    if my_as != 0
        && let Some((reason, at, data)) = as_number_fault(my_as, &placed)
    {
        errors.push(Action::Reset, reason, None, at, data);
    }
    // RFC 9234 section 4.2: several equal roles are one, different ones end the session. Roles are for eBGP only.
    let mut roles = placed.iter().filter_map(|(at, c)| match c {
        Capability::Role(role) => Some((*at, *role)),
        _ => None,
    });
    if peer == PeerKind::External
        && let Some((_, first)) = roles.next()
        && let Some((at, other)) = roles.find(|(_, role)| *role != first)
    {
        errors.push(Action::Reset, Reason::Roles(first, other), None, at, 0..0);
    }
    open.capabilities = placed.into_iter().map(|(_, capability)| capability).collect();
    Some(open)
}

/// What the four-octet number has against the two-octet one (RFC 6793 section 4.2.1, RFC 7607 section 2), where it is in
/// the message, and the octets that a NOTIFICATION shows.
fn as_number_fault(my_as: u16, placed: &[(usize, Capability)]) -> Option<(Reason, usize, Range<usize>)> {
    let (at, asn) = placed.iter().find_map(|(at, c)| match c {
        Capability::FourOctetAs(asn) => Some((*at, *asn)),
        _ => None,
    })?;
    // Behind the code and the length of the capability.
    let number = at + 2..at + 6;
    if asn == 0 {
        Some((Reason::ZeroAs, number.start, number))
    } else if asn == Asn::TRANS.get() {
        Some((Reason::AsTrans, number.start, number))
    } else if u32::from(my_as) != asn && u32::from(my_as) != Asn::TRANS.get() {
        Some((Reason::AsMismatch { my_as, asn }, HEADER_LEN + 1, 20..22))
    } else {
        None
    }
}

/// `bytes` is what follows the optional parameters' length octet, at `at` of the message.
fn decode_parameters(
    bytes: &[u8],
    length: usize,
    at: usize,
    capabilities: &mut Vec<(usize, Capability)>,
    errors: &mut Errors,
) {
    let malformed =
        |errors: &mut Errors, at| errors.push(Action::Reset, Reason::OptionalParameterLength, None, at, 0..0);
    // RFC 9072 section 2: type 255 first means two-octet lengths, and the one-octet length is then ignored unless 0.
    let extended = length != 0 && bytes.first() == Some(&EXTENDED_LENGTH);
    let (mut rest, mut at) = if extended {
        let Some((&[_, high, low], rest)) = bytes.split_first_chunk::<3>() else {
            return malformed(errors, at);
        };
        if usize::from(u16::from_be_bytes([high, low])) != rest.len() {
            return malformed(errors, at + 1);
        }
        (rest, at + 3)
    } else {
        if length != bytes.len() {
            return malformed(errors, at - 1);
        }
        (bytes, at)
    };
    while !rest.is_empty() {
        let parameter = if extended {
            parse((be_u8, length_data(be_u16)), rest)
        } else {
            parse((be_u8, length_data(be_u8)), rest)
        };
        let Some((after, (kind, value))) = parameter else { return malformed(errors, at) };
        let end = at + rest.len() - after.len();
        if kind == CAPABILITIES {
            if !capability::decode(value, end - value.len(), capabilities, errors) {
                return;
            }
        } else {
            errors.push(Action::Reset, Reason::OptionalParameter(kind), None, at, at..end);
        }
        (rest, at) = (after, end);
    }
}

/// Appends the body of an OPEN: all capabilities in one parameter, by RFC 9072 when they need it.
pub(super) fn encode(open: &Open, out: &mut BytesMut) -> Result<(), EncodeError> {
    let mut capabilities = BytesMut::new();
    for one in &open.capabilities {
        capability::encode(one, &mut capabilities)?;
    }
    out.put_u8(open.version);
    out.put_u16(open.my_as);
    out.put_u16(open.hold_time);
    out.put_slice(&open.router_id.octets());
    match capabilities.len() {
        0 => out.put_u8(0),
        n @ 1..=253 => out.put_slice(&[n as u8 + 2, CAPABILITIES, n as u8]),
        n => {
            out.put_slice(&[EXTENDED_LENGTH, EXTENDED_LENGTH]);
            let too_long = |_| EncodeError::TooLong(code::message::OPEN);
            out.put_u16(u16::try_from(n + 3).map_err(too_long)?);
            out.put_u8(CAPABILITIES);
            out.put_u16(u16::try_from(n).map_err(too_long)?);
        }
    }
    out.put_slice(&capabilities);
    Ok(())
}
