//! UPDATE and its attributes.

use std::{
    collections::HashSet,
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    ops::Range,
};

use nom::{
    multi::length_data,
    number::complete::{be_u8, be_u16},
};
use serde::Serialize;

use super::attributes::{AggregatorView, AttributesView, path_items};
use crate::{
    bgp::wire::{
        AttributeRef, DecodeContext, Decoded, Disposition, Nlri, PerFamily, RawAttributes, Update,
        UpdateLayout, WireError, as_path, code, decode_nlri, error::Errors, parse, update,
    },
    model::{Family, Prefix},
};

/// Fields of an UPDATE.
#[derive(Clone, Debug, Serialize)]
pub struct UpdateView {
    withdrawn: Vec<NlriView>,
    /// The field's octets, when they are not all prefixes; those before the fault are in `withdrawn`.
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_withdrawn: Option<String>,
    attributes: AttributesView,
    nlri: Vec<NlriView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_nlri: Option<String>,
    mp_reach: Option<MpReachView>,
    mp_unreach: Option<MpUnreachView>,
    /// The family whose End-of-RIB marker this is.
    end_of_rib: Option<Family>,
    /// What a speaker does with the message.
    effect: Effect,
    /// Every attribute as it came, in order.
    raw_attributes: Vec<RawAttributeView>,
    /// What follows them and is no whole attribute.
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_rest: Option<String>,
}

/// A prefix, with its path identifier when add-path is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(untagged)]
enum NlriView {
    Plain(Prefix),
    Path { prefix: Prefix, path_id: u32 },
}

#[derive(Clone, Debug, Serialize)]
struct RawAttributeView {
    code: u8,
    name: Option<&'static str>,
    flags: u8,
    optional: bool,
    transitive: bool,
    partial: bool,
    extended_length: bool,
    offset: usize,
    length: usize,
    value: String,
}

#[derive(Clone, Debug, Serialize)]
struct MpReachView {
    afi: u16,
    safi: u8,
    /// An address, or hexadecimal digits when its length is none of an address.
    next_hop: String,
    link_local: Option<String>,
    nlri: Vec<NlriView>,
    /// The prefixes of a family that slash32 does not speak, or those that are malformed.
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_nlri: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
struct MpUnreachView {
    afi: u16,
    safi: u8,
    nlri: Vec<NlriView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_nlri: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize)]
struct Effect {
    announce: Vec<NlriView>,
    withdraw: Vec<NlriView>,
}

/// Puts together what is on the wire and what the decoder made of it.
pub(super) fn update_view(
    ctx: DecodeContext,
    message: &[u8],
    update: Option<&Update>,
    decoded: &Decoded,
) -> UpdateView {
    let layout = UpdateLayout::of(message).ok();
    let field = |range: Option<Range<usize>>| range.and_then(|r| message.get(r)).unwrap_or_default();
    let body = |range| nlri_views(Some(Family::Ipv4), ctx.add_path, field(range));
    let block_at = layout.as_ref().map_or(0, |l| l.attributes.start);
    let block = field(layout.as_ref().map(|l| l.attributes.clone()));
    let raw: Vec<AttributeRef<'_>> = RawAttributes::new(block, block_at).map_while(Result::ok).collect();
    let rest = raw.last().map_or(0, |a| a.range().end - block_at);
    let first = |code| raw.iter().find(|a| a.code == code);
    // Of a message with a wrong length nothing is used, but what can be read is shown.
    let unused = if update.is_none() { readable(ctx, message) } else { None };
    let errors = unused.as_ref().map_or(decoded.errors.as_slice(), |(_, errors)| errors);
    let refused = |code| errors.iter().any(|e| e.is_of_first(code));
    let mut attributes = update
        .or(unused.as_ref().map(|(update, _)| update))
        .map(|u| AttributesView::from(&u.attributes))
        .unwrap_or_default()
        .with_path_if(first(code::attribute::AS_PATH).is_some() && !refused(code::attribute::AS_PATH));
    attributes.next_hop =
        first(code::attribute::NEXT_HOP).and_then(|a| <[u8; 4]>::try_from(a.value).ok()).map(Ipv4Addr::from);
    attributes.as4_path = first(code::attribute::AS4_PATH)
        .filter(|_| !ctx.four_octet)
        .and_then(|a| as_path::decode(a.value, true).ok())
        .map(|path| path_items(&path));
    attributes.as4_aggregator = first(code::attribute::AS4_AGGREGATOR)
        .filter(|a| !ctx.four_octet && !refused(a.code))
        .and_then(|a| match *a.value {
            [a, b, c, d, ref address @ ..] => {
                let address = <[u8; 4]>::try_from(address).ok()?.into();
                Some(AggregatorView { asn: u32::from_be_bytes([a, b, c, d]), address })
            }
            _ => None,
        });
    let mut effect = Effect::default();
    let mut end_of_rib = None;
    if let Some(update) = update.filter(|_| decoded.disposition < Disposition::Reset) {
        let views = |family, list: &[Nlri]| -> Vec<NlriView> {
            list.iter().map(|n| nlri_view(ctx.add_path[family], n)).collect()
        };
        effect.announce = update.reach.iter().flat_map(|r| views(r.family, &r.nlri)).collect();
        effect.withdraw = update.unreach.iter().flat_map(|u| views(u.family, &u.nlri)).collect();
        // RFC 4271 section 4.3: a prefix that is withdrawn and announced counts as announced only.
        let mut told: HashSet<NlriView> = effect.announce.iter().copied().collect();
        effect.withdraw.retain(|nlri| told.insert(*nlri));
        end_of_rib = update.end_of_rib();
    }
    let (withdrawn, raw_withdrawn) = body(layout.as_ref().map(|l| l.withdrawn.clone()));
    let (nlri, raw_nlri) = body(layout.map(|l| l.nlri));
    UpdateView {
        withdrawn,
        raw_withdrawn,
        nlri,
        raw_nlri,
        mp_reach: first(code::attribute::MP_REACH).and_then(|a| mp_reach_view(ctx, a.value)),
        mp_unreach: first(code::attribute::MP_UNREACH).and_then(|a| mp_unreach_view(ctx, a.value)),
        attributes,
        end_of_rib,
        effect,
        raw_attributes: raw.iter().map(RawAttributeView::from).collect(),
        raw_rest: block.get(rest..).filter(|b| !b.is_empty()).map(hex::encode),
    }
}

/// What an UPDATE whose header is wrong would have said, and what would be wrong with that.
fn readable(ctx: DecodeContext, message: &[u8]) -> Option<(Update, Vec<WireError>)> {
    let mut errors = Errors::default();
    let update = update::decode(ctx, message, &mut errors)?;
    Some((update, errors.finish(message)))
}

/// The prefixes of a field up to the first malformed one, and all of it in hexadecimal when that is not everything.
fn nlri_views(
    family: Option<Family>,
    add_path: PerFamily<bool>,
    bytes: &[u8],
) -> (Vec<NlriView>, Option<String>) {
    let Some(family) = family else { return (Vec::new(), Some(hex::encode(bytes))) };
    let read = |bytes| decode_nlri(family, add_path[family], bytes);
    let (list, raw) = match read(bytes) {
        Ok(list) => (list, None),
        Err((_, at)) => {
            (bytes.get(..at).and_then(|good| read(good).ok()).unwrap_or_default(), Some(hex::encode(bytes)))
        }
    };
    (list.iter().map(|n| nlri_view(add_path[family], n)).collect(), raw)
}

const fn nlri_view(add_path: bool, nlri: &Nlri) -> NlriView {
    if add_path {
        NlriView::Path { prefix: nlri.prefix, path_id: nlri.path_id }
    } else {
        NlriView::Plain(nlri.prefix)
    }
}

const fn family_of(afi: u16, safi: u8) -> Option<Family> {
    match (afi, safi) {
        (1, 1) => Some(Family::Ipv4),
        (2, 1) => Some(Family::Ipv6),
        _ => None,
    }
}

fn mp_reach_view(ctx: DecodeContext, value: &[u8]) -> Option<MpReachView> {
    let (nlri, (afi, safi, next_hop, _reserved)) = parse((be_u16, be_u8, length_data(be_u8), be_u8), value)?;
    let (shown, link_local) = next_hop_text(next_hop);
    let (nlri, raw_nlri) = nlri_views(family_of(afi, safi), ctx.add_path, nlri);
    Some(MpReachView { afi, safi, next_hop: shown, link_local, nlri, raw_nlri })
}

/// The next hop, and the link-local address that may follow it.
fn next_hop_text(bytes: &[u8]) -> (String, Option<String>) {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return (Ipv4Addr::from(octets).to_string(), None);
    }
    match bytes.as_chunks::<16>() {
        ([one], []) => (Ipv6Addr::from(*one).to_string(), None),
        ([one, two], []) => (Ipv6Addr::from(*one).to_string(), Some(Ipv6Addr::from(*two).to_string())),
        _ => (hex::encode(bytes), None),
    }
}

fn mp_unreach_view(ctx: DecodeContext, value: &[u8]) -> Option<MpUnreachView> {
    let (nlri, (afi, safi)) = parse((be_u16, be_u8), value)?;
    let (nlri, raw_nlri) = nlri_views(family_of(afi, safi), ctx.add_path, nlri);
    Some(MpUnreachView { afi, safi, nlri, raw_nlri })
}

impl From<&AttributeRef<'_>> for RawAttributeView {
    fn from(a: &AttributeRef<'_>) -> Self {
        use code::flag;
        Self {
            code: a.code,
            name: code::attribute_name(a.code),
            flags: a.flags,
            optional: a.flags & flag::OPTIONAL != 0,
            transitive: a.flags & flag::TRANSITIVE != 0,
            partial: a.flags & flag::PARTIAL != 0,
            extended_length: a.flags & flag::EXTENDED_LENGTH != 0,
            offset: a.offset,
            length: a.value.len(),
            value: hex::encode(a.value),
        }
    }
}

impl fmt::Display for NlriView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(prefix) => write!(f, "{prefix}"),
            Self::Path { prefix, path_id } => write!(f, "{prefix}#{path_id}"),
        }
    }
}

impl fmt::Display for UpdateView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(family) = self.end_of_rib {
            write!(f, " End-of-RIB {family}")?;
        }
        self.effect.announce.iter().try_for_each(|n| write!(f, " +{n}"))?;
        self.effect.withdraw.iter().try_for_each(|n| write!(f, " -{n}"))?;
        if let Some(mp) = &self.mp_reach {
            write!(f, " via={}", mp.next_hop)?;
        }
        write!(f, "{}", self.attributes)
    }
}
