//! Path attributes of a table dump's route (RFC 6396 section 4.3.4), which no message surrounds.

use super::{
    Action, AttributeRef, DecodeContext, Disposition, PathAttributes, PeerKind, RawAttributes, Reason,
    WireError, WireNextHop,
    code::{attribute as attr, flag},
    error::Errors,
    update::{Decoder, Parts, expected_flags, merge_as4, mp_next_hop},
};

/// What [`decode_rib_attributes`] makes of a block of attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RibAttributes {
    /// The attributes.
    pub attributes: PathAttributes,
    /// Whether there is a good AS_PATH; an empty one is.
    pub has_as_path: bool,
    /// The next hop: NEXT_HOP's, or that of the shortened MP_REACH_NLRI.
    pub next_hop: Option<WireNextHop>,
    /// The strongest action that the errors demand.
    pub disposition: Disposition,
    /// Everything that is wrong; offsets count from the start of the block.
    pub errors: Vec<WireError>,
}

/// Reads the attributes of a route in a table dump. AS numbers have four octets, or two in TABLE_DUMP (RFC 6396 sections
/// 4.2 and 4.3.4).
///
/// A dump shows what a speaker keeps, so attributes of internal sessions are as good as those of external ones.
pub fn decode_rib_attributes(four_octet: bool, block: &[u8]) -> RibAttributes {
    read(four_octet, block, false)
}

/// The same for a route of the collector's own, which no peer has sent: nothing need be there, and flags of 0x00, which BIRD
/// writes where its filters have set an attribute, say nothing.
pub fn decode_own_rib_attributes(four_octet: bool, block: &[u8]) -> RibAttributes {
    read(four_octet, block, true)
}

fn read(four_octet: bool, block: &[u8], own: bool) -> RibAttributes {
    let ctx = DecodeContext { peer: PeerKind::Internal, four_octet, ..DecodeContext::default() };
    let mut errors = Errors::default();
    let mut decoder = Decoder { ctx, errors: &mut errors, parts: Parts::default() };
    let mut next_hop = None;
    for item in RawAttributes::new(block, 0) {
        match item {
            Ok(a) if a.code == attr::MP_REACH => {
                next_hop = mp_reach_next_hop(&a).or(next_hop);
                if next_hop.is_none() {
                    let reason = Reason::MpTooShort(a.value.len());
                    decoder.errors.push(Action::Withdraw, reason, Some(a.code), a.offset, 0..0);
                }
            }
            Ok(mut a) => {
                if own && a.flags & (flag::OPTIONAL | flag::TRANSITIVE) == 0 {
                    a.flags |= expected_flags(a.code).unwrap_or_default();
                }
                decoder.attribute(&a);
            }
            Err(fault) => decoder.errors.push(Action::Withdraw, fault.reason, fault.code, fault.offset, 0..0),
        }
    }
    let mut parts = decoder.parts;
    if !four_octet {
        merge_as4(&mut parts);
    }
    for (code, there) in [
        (attr::ORIGIN, parts.has(attr::ORIGIN)),
        (attr::AS_PATH, parts.has(attr::AS_PATH)),
        (attr::NEXT_HOP, parts.next_hop.is_some() || next_hop.is_some()),
    ] {
        if !there && !own {
            errors.push(Action::Withdraw, Reason::MissingAttribute(code), Some(code), 0, 0..0);
        }
    }
    let bad_path = errors.has(attr::AS_PATH);
    RibAttributes {
        has_as_path: parts.has(attr::AS_PATH) && !bad_path,
        next_hop: parts.next_hop.map(|n| WireNextHop::V4(n.address)).or(next_hop),
        attributes: parts.attributes,
        disposition: errors.disposition(),
        errors: errors.finish(block),
    }
}

/// Only the next hop's length and the next hop; some writers leave the attribute whole.
fn mp_reach_next_hop(a: &AttributeRef<'_>) -> Option<WireNextHop> {
    match a.value {
        [length, next_hop @ ..] if usize::from(*length) == next_hop.len() => mp_next_hop(next_hop),
        [0, 1 | 2, 1, length, rest @ ..] => mp_next_hop(rest.get(..usize::from(*length))?),
        _ => None,
    }
}
