//! Messages to bytes.

use std::net::Ipv4Addr;

use bytes::{BufMut, BytesMut};

use super::{
    EncodeContext, EncodedAttributes, MAX_MESSAGE, Message, Origin, PathAttributes, RawAttribute, Update,
    as_path,
    code::{attribute as attr, flag, message as kind},
    open, pack,
};
use crate::model::Asn;

/// Why something cannot be put on the wire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The message is longer than allowed and cannot be split.
    #[error("message of type {0} is too long")]
    TooLong(u8),
    /// The attributes leave no room for a prefix: such a route must not be announced (RFC 8654 section 4).
    #[error("attributes of {0} octets leave no room for a prefix")]
    AttributesTooLong(usize),
    /// A capability's value is longer than 255 octets.
    #[error("capability {0} is too long")]
    Capability(u8),
}

/// Appends a message. An UPDATE with more than fits becomes several, withdrawals first; one that neither announces nor
/// withdraws, nor is an End-of-RIB marker, becomes none. On an error nothing is appended.
pub fn encode(ctx: &EncodeContext, message: &Message, out: &mut BytesMut) -> Result<(), EncodeError> {
    let start = out.len();
    let written = encode_whole(ctx, message, out);
    if written.is_err() {
        out.truncate(start);
    }
    written
}

fn encode_whole(ctx: &EncodeContext, message: &Message, out: &mut BytesMut) -> Result<(), EncodeError> {
    match message {
        // RFC 8654 section 4: OPEN and KEEPALIVE are never extended.
        Message::Open(open) => framed(out, kind::OPEN, MAX_MESSAGE, |out| open::encode(open, out)),
        Message::Update(update) => encode_update(ctx, update, out),
        Message::Notification(n) => framed(out, kind::NOTIFICATION, ctx.max_message, |out| {
            out.put_slice(&[n.code, n.subcode]);
            out.put_slice(&n.data);
            Ok(())
        }),
        Message::Keepalive => framed(out, kind::KEEPALIVE, MAX_MESSAGE, |_| Ok(())),
        Message::RouteRefresh(refresh) => framed(out, kind::ROUTE_REFRESH, ctx.max_message, |out| {
            out.put_u16(refresh.afi);
            out.put_slice(&[refresh.subtype, refresh.safi]);
            Ok(())
        }),
    }
}

fn encode_update(ctx: &EncodeContext, update: &Update, out: &mut BytesMut) -> Result<(), EncodeError> {
    if let Some(family) = update.end_of_rib() {
        pack::encode_end_of_rib(family, out);
        return Ok(());
    }
    for unreach in &update.unreach {
        pack::pack_withdraw(ctx, unreach.family, &unreach.nlri, out);
    }
    for reach in update.reach.iter().filter(|r| !r.nlri.is_empty()) {
        let attributes = EncodedAttributes::new(ctx, &update.attributes, reach.family, reach.next_hop);
        pack::pack_announce(ctx, &attributes, &reach.nlri, out)?;
    }
    Ok(())
}

/// Appends a header and what `body` writes, then fills in the length.
fn framed(
    out: &mut BytesMut,
    kind: u8,
    most: usize,
    body: impl FnOnce(&mut BytesMut) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = out.len();
    put_header(out, kind);
    body(out)?;
    if out.len() - start > most {
        return Err(EncodeError::TooLong(kind));
    }
    set_length(out, start);
    Ok(())
}

/// Appends a header whose length is still to be set.
pub(super) fn put_header(out: &mut BytesMut, kind: u8) {
    let mut header = [0xFF; super::HEADER_LEN];
    header[16..].copy_from_slice(&[0, 0, kind]);
    out.put_slice(&header);
}

/// Writes the length of the message that starts at `start` and ends here.
pub(super) fn set_length(out: &mut BytesMut, start: usize) {
    let length = (out.len() - start) as u16;
    out[start + 16..start + 18].copy_from_slice(&length.to_be_bytes());
}

/// Appends path attributes in ascending order of type (RFC 4271 section 5), with NEXT_HOP if given.
///
/// MP_REACH_NLRI is not among them; [`UpdatePacker`](super::UpdatePacker) writes it first (RFC 7606 section 5.1).
pub fn encode_attributes(
    ctx: &EncodeContext,
    attributes: &PathAttributes,
    next_hop: Option<Ipv4Addr>,
    out: &mut BytesMut,
) {
    let a = attributes;
    let mut w = Writer { out, unknown: a.unknown.iter(), partial: a.partial };
    if let Some(origin) = a.origin {
        let value = match origin {
            Origin::Igp => 0,
            Origin::Egp => 1,
            Origin::Incomplete => 2,
        };
        w.put(attr::ORIGIN, flag::TRANSITIVE, &[value]);
    }
    // Mandatory even when empty, which is what a local route has on iBGP. Without ORIGIN nothing is announced.
    if a.origin.is_some() || !a.as_path.segments.is_empty() {
        w.header(attr::AS_PATH, flag::TRANSITIVE, as_path::encoded_len(&a.as_path, ctx.four_octet));
        as_path::encode(&a.as_path, ctx.four_octet, w.out);
    }
    if let Some(next_hop) = next_hop {
        w.put(attr::NEXT_HOP, flag::TRANSITIVE, &next_hop.octets());
    }
    if let Some(med) = a.med {
        w.put(attr::MED, flag::OPTIONAL, &med.to_be_bytes());
    }
    if let Some(local_pref) = a.local_pref {
        w.put(attr::LOCAL_PREF, flag::TRANSITIVE, &local_pref.to_be_bytes());
    }
    if a.atomic_aggregate {
        w.put(attr::ATOMIC_AGGREGATE, flag::TRANSITIVE, &[]);
    }
    const OPTIONAL_TRANSITIVE: u8 = flag::OPTIONAL | flag::TRANSITIVE;
    if let Some((asn, addr)) = a.aggregator {
        w.header(attr::AGGREGATOR, OPTIONAL_TRANSITIVE, if ctx.four_octet { 8 } else { 6 });
        if ctx.four_octet {
            w.out.put_u32(asn);
        } else {
            w.out.put_u16(as_path::two_octet(asn));
        }
        w.out.put_slice(&addr.octets());
    }
    w.list(attr::COMMUNITIES, OPTIONAL_TRANSITIVE, &a.communities, |c| c.0.to_be_bytes());
    if let Some(id) = a.originator_id {
        w.put(attr::ORIGINATOR_ID, flag::OPTIONAL, &id.octets());
    }
    w.list(attr::CLUSTER_LIST, flag::OPTIONAL, &a.cluster_list, Ipv4Addr::octets);
    w.list(attr::EXT_COMMUNITIES, OPTIONAL_TRANSITIVE, &a.ext_communities, |c| c.0);
    if !ctx.four_octet {
        if let Some(path) = as_path::as4_path(&a.as_path) {
            w.header(attr::AS4_PATH, OPTIONAL_TRANSITIVE, as_path::encoded_len(&path, true));
            as_path::encode(&path, true, w.out);
        }
        if let Some((asn, addr)) = a.aggregator.filter(|&(asn, _)| asn > u32::from(u16::MAX)) {
            w.header(attr::AS4_AGGREGATOR, OPTIONAL_TRANSITIVE, 8);
            w.out.put_u32(asn);
            w.out.put_slice(&addr.octets());
        }
    }
    w.list(attr::IPV6_EXT_COMMUNITIES, OPTIONAL_TRANSITIVE, &a.ipv6_ext_communities, |c| *c);
    w.list(attr::LARGE_COMMUNITIES, OPTIONAL_TRANSITIVE, &a.large_communities, |c| {
        let mut bytes = [0; 12];
        for (part, value) in bytes.chunks_exact_mut(4).zip([c.global, c.local1, c.local2]) {
            part.copy_from_slice(&value.to_be_bytes());
        }
        bytes
    });
    if let Some(asn) = a.otc {
        w.put(attr::OTC, OPTIONAL_TRANSITIVE, &asn.to_be_bytes());
    }
    w.unknown_below(u8::MAX);
}

struct Writer<'a> {
    out: &'a mut BytesMut,
    unknown: std::slice::Iter<'a, RawAttribute>,
    partial: u64,
}

impl Writer<'_> {
    /// Writes the header of a known attribute, and before it the unknown ones of lower type.
    fn header(&mut self, code: u8, flags: u8, length: usize) {
        if self.unknown.as_slice().first().is_some_and(|u| u.code < code) {
            self.unknown_below(code - 1);
        }
        let partial = if self.partial & 1 << (code & 63) != 0 { flag::PARTIAL } else { 0 };
        put_attribute_header(self.out, flags | partial, code, length);
    }

    fn put(&mut self, code: u8, flags: u8, value: &[u8]) {
        self.header(code, flags, value.len());
        self.out.put_slice(value);
    }

    fn list<T, const N: usize>(&mut self, code: u8, flags: u8, items: &[T], octets: impl Fn(&T) -> [u8; N]) {
        if items.is_empty() {
            return;
        }
        self.header(code, flags, items.len() * N);
        for item in items {
            self.out.put_slice(&octets(item));
        }
    }

    /// RFC 4271 section 5: an unrecognized optional transitive attribute is passed on with the Partial bit set.
    fn unknown_below(&mut self, most: u8) {
        while let [first, ..] = self.unknown.as_slice()
            && first.code <= most
        {
            let flags = first.flags & !flag::EXTENDED_LENGTH | flag::PARTIAL;
            put_attribute_header(self.out, flags, first.code, first.value.len());
            self.out.put_slice(&first.value);
            self.unknown.next();
        }
    }
}

/// Appends flags, type and length, with two octets of length where needed.
///
/// A value of more than 65,535 octets has no valid header; its message is refused for its length.
pub(super) fn put_attribute_header(out: &mut BytesMut, flags: u8, code: u8, length: usize) {
    if let Ok(short) = u8::try_from(length) {
        out.put_slice(&[flags, code, short]);
    } else {
        out.put_slice(&[flags | flag::EXTENDED_LENGTH, code]);
        out.put_u16(length as u16);
    }
}

const _: () = assert!(Asn::TRANS.get() <= u16::MAX as u32, "AS_TRANS is written in two octets");
