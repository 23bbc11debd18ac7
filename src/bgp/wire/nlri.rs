//! Prefixes on the wire: path identifier (RFC 7911), length in bits, as many octets as needed (RFC 4271 section 4.3).

use std::net::{Ipv4Addr, Ipv6Addr};

use bytes::{BufMut, BytesMut};
use nom::{
    IResult, Parser,
    bytes::complete::take,
    number::complete::{be_u8, be_u32},
};

use super::{Nlri, Reason};
use crate::model::{Family, Ipv4Prefix, Ipv6Prefix, Prefix};

/// Reads all prefixes in `bytes`. The error's number is the offset in `bytes` of the prefix at fault.
pub fn decode_nlri(family: Family, add_path: bool, bytes: &[u8]) -> Result<Vec<Nlri>, (Reason, usize)> {
    let mut rest = bytes;
    // Few prefixes are much shorter than this; a guess too low costs one more allocation.
    let typical = match family {
        Family::Ipv4 => 4,
        Family::Ipv6 => 8,
    };
    let mut list = Vec::with_capacity(bytes.len().div_ceil(typical + if add_path { 4 } else { 0 }));
    while !rest.is_empty() {
        let parsed = match family {
            Family::Ipv4 => decode_v4(add_path, rest),
            Family::Ipv6 => decode_v6(add_path, rest),
        };
        match parsed {
            Ok((after, nlri)) => {
                list.push(nlri);
                rest = after;
            }
            Err(_) => return Err((fault(family, add_path, rest), bytes.len() - rest.len())),
        }
    }
    Ok(list)
}

fn path_id(add_path: bool, bytes: &[u8]) -> IResult<&[u8], u32, ()> {
    if add_path { be_u32(bytes) } else { Ok((bytes, 0)) }
}

fn decode_v4(add_path: bool, bytes: &[u8]) -> IResult<&[u8], Nlri, ()> {
    let (rest, (path_id, len)) = (|b| path_id(add_path, b), be_u8).parse(bytes)?;
    let (rest, addr) = if len == 32 {
        be_u32(rest)?
    } else {
        let (rest, octets) = take(octets_of(len))(rest)?;
        let mut addr = [0; 4];
        // A length of more than 32 bits fails here.
        addr.get_mut(..octets.len()).ok_or(nom::Err::Failure(()))?.copy_from_slice(octets);
        (rest, u32::from_be_bytes(addr))
    };
    if len > 32 {
        return Err(nom::Err::Failure(()));
    }
    Ok((rest, Nlri { prefix: Prefix::V4(Ipv4Prefix::new(Ipv4Addr::from_bits(addr), len)), path_id }))
}

fn decode_v6(add_path: bool, bytes: &[u8]) -> IResult<&[u8], Nlri, ()> {
    let (rest, (path_id, len)) = (|b| path_id(add_path, b), be_u8).parse(bytes)?;
    let (rest, octets) = take(octets_of(len))(rest)?;
    let mut addr = [0; 16];
    addr.get_mut(..octets.len()).ok_or(nom::Err::Failure(()))?.copy_from_slice(octets);
    if len > 128 {
        return Err(nom::Err::Failure(()));
    }
    Ok((rest, Nlri { prefix: Prefix::V6(Ipv6Prefix::new(Ipv6Addr::from(addr), len)), path_id }))
}

/// What is wrong with the first prefix of `bytes`, given that something is.
fn fault(family: Family, add_path: bool, bytes: &[u8]) -> Reason {
    match bytes.get(if add_path { 4 } else { 0 }) {
        Some(&length) if length > family.bits() => Reason::PrefixLength { length, most: family.bits() },
        _ => Reason::PrefixOverrun,
    }
}

/// Octets that hold `bits` bits.
const fn octets_of(bits: u8) -> usize {
    bits.div_ceil(8) as usize
}

/// How many octets a prefix takes.
pub(super) const fn encoded_len(nlri: &Nlri, add_path: bool) -> usize {
    1 + octets_of(nlri.prefix.len()) + if add_path { 4 } else { 0 }
}

/// Appends a prefix, with its path identifier if `add_path`.
pub fn encode_nlri(nlri: &Nlri, add_path: bool, out: &mut BytesMut) {
    if add_path {
        out.put_u32(nlri.path_id);
    }
    let len = nlri.prefix.len();
    match nlri.prefix {
        Prefix::V4(p) => {
            let [a, b, c, d] = p.addr().octets();
            out.put_slice(&[len, a, b, c, d][..=octets_of(len)]);
        }
        Prefix::V6(p) => {
            out.put_u8(len);
            out.put_slice(&p.addr().octets()[..octets_of(len)]);
        }
    }
}
