//! Messages put together by hand, so that they can be wrong in any way.

use super::super::{DecodeContext, Decoded, PeerKind, code::message as kind, decode};

/// A whole message of a type around a body.
pub(super) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xFF; 16];
    bytes.extend((body.len() as u16 + 19).to_be_bytes());
    bytes.push(kind);
    bytes.extend(body);
    bytes
}

/// Bytes from hexadecimal text with spaces.
pub(super) fn hex(text: &str) -> Vec<u8> {
    hex::decode(text.replace(' ', "")).expect("the test's hexadecimal text is right")
}

/// One attribute with its header.
pub(super) fn attribute(flags: u8, code: u8, value: &str) -> Vec<u8> {
    let value = hex(value);
    let mut bytes = vec![flags, code];
    if flags & 0x10 == 0 {
        bytes.push(value.len() as u8);
    } else {
        bytes.extend((value.len() as u16).to_be_bytes());
    }
    bytes.extend(value);
    bytes
}

/// An UPDATE from its three fields.
pub(super) fn update(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let mut body = (withdrawn.len() as u16).to_be_bytes().to_vec();
    body.extend(withdrawn);
    body.extend((attributes.len() as u16).to_be_bytes());
    body.extend(attributes);
    body.extend(nlri);
    message(kind::UPDATE, &body)
}

/// ORIGIN IGP, AS_PATH 65001, NEXT_HOP 192.0.2.1: what an announcement from an external peer needs.
pub(super) fn base() -> Vec<u8> {
    hex("40 01 01 00  40 02 06 02 01 0000fde9  40 03 04 c0000201")
}

/// 10.0.0.0/8.
pub(super) const NLRI: [u8; 2] = [8, 10];

pub(super) fn ebgp(message: &[u8]) -> Decoded {
    decode(&DecodeContext::default(), message)
}

pub(super) fn ibgp_context() -> DecodeContext {
    DecodeContext { peer: PeerKind::Internal, ..DecodeContext::default() }
}

pub(super) fn as2_context() -> DecodeContext {
    DecodeContext { four_octet: false, ..DecodeContext::default() }
}
