//! Many prefixes into as few UPDATEs as possible.

use std::net::{Ipv4Addr, Ipv6Addr};

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    EncodeContext, EncodeError, Nlri, PathAttributes, WireNextHop,
    code::{attribute as attr, flag, message as kind},
    encode::{encode_attributes, put_header, set_length},
    nlri,
};
use crate::model::Family;

/// Path attributes and next hop, encoded once for every UPDATE that carries them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EncodedAttributes {
    family: Family,
    /// AFI, SAFI, next hop and reserved octet of MP_REACH_NLRI; empty when the prefixes go into the body.
    mp_head: Bytes,
    /// All attributes but MP_REACH_NLRI.
    block: Bytes,
}

impl EncodedAttributes {
    /// Encodes the attributes for prefixes of `family`.
    ///
    /// IPv4 prefixes with an IPv4 next hop go into the message's body; everything else into MP_REACH_NLRI. Whether the
    /// peer takes an IPv6 next hop for IPv4 (RFC 8950) is for the caller to know. An IPv4 next hop for IPv6 prefixes is
    /// written as an IPv4-mapped address.
    pub fn new(
        ctx: &EncodeContext,
        attributes: &PathAttributes,
        family: Family,
        next_hop: WireNextHop,
    ) -> Self {
        let (afi, body) = match (family, next_hop) {
            (Family::Ipv4, WireNextHop::V4(addr)) => (1, Some(addr)),
            (Family::Ipv4, _) => (1, None),
            (Family::Ipv6, _) => (2, None),
        };
        let mut out = BytesMut::with_capacity(256);
        if body.is_none() {
            put_mp_head(&mut out, afi, next_hop);
        }
        let mp_head = out.split().freeze();
        encode_attributes(ctx, attributes, body, &mut out);
        Self { family, mp_head, block: out.freeze() }
    }

    /// The family of the prefixes these attributes are for.
    pub const fn family(&self) -> Family {
        self.family
    }

    /// Octets kept.
    pub fn size(&self) -> usize {
        self.mp_head.len() + self.block.len()
    }
}

fn put_mp_head(out: &mut BytesMut, afi: u16, next_hop: WireNextHop) {
    out.put_u16(afi);
    out.put_u8(1);
    let put = |out: &mut BytesMut, addrs: &[Ipv6Addr]| {
        out.put_u8(addrs.len() as u8 * 16);
        for addr in addrs {
            out.put_slice(&addr.octets());
        }
    };
    match next_hop {
        WireNextHop::V4(addr) => put(out, &[Ipv4Addr::to_ipv6_mapped(&addr)]),
        WireNextHop::V6(addr) => put(out, &[addr]),
        WireNextHop::V6LinkLocal { global, link_local } => put(out, &[global, link_local]),
    }
    out.put_u8(0);
}

/// Fills UPDATEs with prefixes that share one set of attributes, or that are all withdrawn.
///
/// Messages are appended to one buffer, back to back, each as full as the context allows.
#[derive(Debug)]
#[must_use = "the last message is complete only after `finish`"]
pub struct UpdatePacker<'a> {
    out: &'a mut BytesMut,
    attributes: Option<&'a EncodedAttributes>,
    family: Family,
    add_path: bool,
    max_message: usize,
    /// Start of the message being filled.
    start: Option<usize>,
    /// Octets that follow the prefixes.
    tail: usize,
    /// Octets of the family's longest prefix.
    longest: usize,
    messages: usize,
}

impl<'a> UpdatePacker<'a> {
    /// Announces prefixes with `attributes`.
    pub fn announce(ctx: &EncodeContext, attributes: &'a EncodedAttributes, out: &'a mut BytesMut) -> Self {
        // In the body prefixes come last; in MP_REACH_NLRI the other attributes follow.
        let tail = if attributes.mp_head.is_empty() { 0 } else { attributes.block.len() };
        Self::new(ctx, Some(attributes), attributes.family, tail, out)
    }

    /// Withdraws prefixes of `family`.
    pub fn withdraw(ctx: &EncodeContext, family: Family, out: &'a mut BytesMut) -> Self {
        // The empty attribute block's length follows IPv4's Withdrawn Routes.
        let tail = if family == Family::Ipv4 { 2 } else { 0 };
        Self::new(ctx, None, family, tail, out)
    }

    fn new(
        ctx: &EncodeContext,
        attributes: Option<&'a EncodedAttributes>,
        family: Family,
        tail: usize,
        out: &'a mut BytesMut,
    ) -> Self {
        let add_path = ctx.add_path[family];
        let longest = 1 + usize::from(family.bits() / 8) + if add_path { 4 } else { 0 };
        let max_message = ctx.max_message;
        Self { out, attributes, family, add_path, max_message, start: None, tail, longest, messages: 0 }
    }

    /// Adds a prefix, of the packer's family. When the attributes leave no room the first call fails, and appends nothing.
    pub fn push(&mut self, nlri: &Nlri) -> Result<(), EncodeError> {
        debug_assert_eq!(nlri.prefix.family(), self.family, "a packer is for one family");
        let needed = nlri::encoded_len(nlri, self.add_path) + self.tail;
        if self.start.is_some_and(|start| self.out.len() - start + needed > self.max_message) {
            self.close();
        }
        if self.start.is_none() {
            let start = self.open();
            // Whether there is room must not depend on the prefix, so only the first one ever fails.
            if self.out.len() - start + self.longest + self.tail > self.max_message {
                self.out.truncate(start);
                return Err(EncodeError::AttributesTooLong(
                    self.attributes.map_or(0, EncodedAttributes::size),
                ));
            }
            self.start = Some(start);
        }
        nlri::encode_nlri(nlri, self.add_path, self.out);
        Ok(())
    }

    /// Completes the last message and tells how many were written.
    pub fn finish(mut self) -> usize {
        self.close();
        self.messages
    }

    /// Writes what comes before the prefixes; lengths are filled in later.
    fn open(&mut self) -> usize {
        let out = &mut *self.out;
        let start = out.len();
        put_header(out, kind::UPDATE);
        match self.attributes {
            None if self.family == Family::Ipv4 => out.put_u16(0),
            None => {
                out.put_u32(0);
                out.put_slice(&[flag::OPTIONAL | flag::EXTENDED_LENGTH, attr::MP_UNREACH, 0, 0, 0, 2, 1]);
            }
            Some(a) if a.mp_head.is_empty() => {
                out.put_u16(0);
                out.put_u16(a.block.len() as u16);
                out.put_slice(&a.block);
            }
            Some(a) => {
                out.put_u32(0);
                out.put_slice(&[flag::OPTIONAL | flag::EXTENDED_LENGTH, attr::MP_REACH, 0, 0]);
                out.put_slice(&a.mp_head);
            }
        }
        start
    }

    fn close(&mut self) {
        let Some(start) = self.start.take() else { return };
        let out = &mut *self.out;
        // Offsets: 19 withdrawn length, 21 attributes length (when nothing is in Withdrawn Routes), 23 the first
        // attribute, whose length is at 25 and whose value starts at 27.
        match self.attributes {
            None if self.family == Family::Ipv4 => {
                set_u16(out, start + 19, start + 21);
                out.put_u16(0);
            }
            Some(a) if a.mp_head.is_empty() => {}
            mp => {
                set_u16(out, start + 25, start + 27);
                if let Some(a) = mp {
                    out.put_slice(&a.block);
                }
                set_u16(out, start + 21, start + 23);
            }
        }
        set_length(out, start);
        self.messages += 1;
    }
}

/// Writes at `at` how many octets there are from `from` to the end.
fn set_u16(out: &mut BytesMut, at: usize, from: usize) {
    let length = (out.len() - from) as u16;
    out[at..at + 2].copy_from_slice(&length.to_be_bytes());
}

/// Appends UPDATEs that announce `nlri`, and tells how many. On an error nothing is appended.
pub fn pack_announce<'a>(
    ctx: &EncodeContext,
    attributes: &EncodedAttributes,
    nlri: impl IntoIterator<Item = &'a Nlri>,
    out: &mut BytesMut,
) -> Result<usize, EncodeError> {
    let mut packer = UpdatePacker::announce(ctx, attributes, out);
    nlri.into_iter().try_for_each(|n| packer.push(n))?;
    Ok(packer.finish())
}

/// Appends UPDATEs that withdraw `nlri`, and tells how many.
pub fn pack_withdraw<'a>(
    ctx: &EncodeContext,
    family: Family,
    nlri: impl IntoIterator<Item = &'a Nlri>,
    out: &mut BytesMut,
) -> usize {
    let mut packer = UpdatePacker::withdraw(ctx, family, out);
    for n in nlri {
        packer.push(n).expect("a prefix fits any message: without attributes 4096 octets are ample");
    }
    packer.finish()
}

/// Appends the End-of-RIB marker of a family (RFC 4724 section 2).
pub fn encode_end_of_rib(family: Family, out: &mut BytesMut) {
    let start = out.len();
    put_header(out, kind::UPDATE);
    match family {
        Family::Ipv4 => out.put_u32(0),
        Family::Ipv6 => out.put_slice(&[0, 0, 0, 6, flag::OPTIONAL, attr::MP_UNREACH, 3, 0, 2, 1]),
    }
    set_length(out, start);
}
