//! UPDATE (RFC 4271 section 4.3), read with the error handling of RFC 7606.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
};

use bytes::Bytes;
use nom::{
    multi::length_data,
    number::complete::{be_u8, be_u16},
};

use super::{
    Action, AsPath, AttributeFault, AttributeRef, Community, DecodeContext, Disposition, ExtCommunity,
    LargeCommunity, Nlri, Origin, PathAttributes, PeerKind, RawAttribute, RawAttributes, Reach, Reason,
    Unreach, Update, UpdateLayout, WireNextHop, as_path, code::attribute as attr, code::flag, decode_nlri,
    error::Errors, parse,
};
use crate::model::{Asn, Family};

/// Reads the UPDATE in a whole message whose header is checked; `None` when its fields cannot be located.
pub(super) fn decode(ctx: DecodeContext, message: &[u8], errors: &mut Errors) -> Option<Update> {
    let layout = match UpdateLayout::of(message) {
        Ok(layout) => layout,
        Err((reason, at)) => {
            errors.push(Action::Reset, reason, None, at, 0..0);
            return None;
        }
    };
    let mut decoder = Decoder { ctx, errors, parts: Parts::default() };
    let withdrawn = decoder.body_nlri(message, layout.withdrawn).unwrap_or_default();
    let block = message.get(layout.attributes.clone()).unwrap_or_default();
    decoder.attributes(block, layout.attributes.start);
    let announced = decoder.body_nlri(message, layout.nlri).unwrap_or_else(|| {
        decoder.parts.some_reach = true;
        Vec::new()
    });
    let parts = decoder.parts;
    let block = layout.attributes;
    Some(assemble(ctx, parts, withdrawn, announced, &block, errors))
}

/// What the attribute loop has found so far.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) attributes: PathAttributes,
    pub(super) next_hop: Option<NextHop>,
    reach: Option<Reach>,
    unreach: Option<Unreach>,
    as4_path: Option<AsPath>,
    as4_aggregator: Option<(u32, Ipv4Addr)>,
    /// One bit a type code: it has occurred, whether it was good or not.
    seen: [u64; 4],
    /// An attribute did not fit the block, so what is missing may have been behind it.
    cut: bool,
    /// Prefixes, announced or withdrawn, of a family that is not ours.
    foreign: bool,
    /// Prefixes are announced, perhaps foreign or unreadable ones: not nothing, in the sense of RFC 7606 section 5.2.
    some_reach: bool,
}

/// NEXT_HOP, which is looked at when it is known whether it matters.
#[derive(Clone, Copy)]
pub(super) struct NextHop {
    pub(super) address: Ipv4Addr,
    /// Where the address is in the message.
    at: usize,
    /// The attribute's offset in the message.
    attribute_at: usize,
    /// How many errors came before it.
    errors_before: usize,
}

impl Parts {
    /// Whether the type has occurred; it has from now on.
    fn note(&mut self, code: u8) -> bool {
        let word = &mut self.seen[usize::from(code >> 6)];
        let bit = 1 << (code & 63);
        let before = *word & bit != 0;
        *word |= bit;
        before
    }

    pub(super) const fn has(&self, code: u8) -> bool {
        self.seen[(code >> 6) as usize] & 1 << (code & 63) != 0
    }
}

/// Reads attributes one by one into [`Parts`].
pub(super) struct Decoder<'e> {
    pub(super) ctx: DecodeContext,
    pub(super) errors: &'e mut Errors,
    pub(super) parts: Parts,
}

impl Decoder<'_> {
    /// The IPv4 prefixes of the Withdrawn Routes or NLRI field; `None` when they are not ours or not readable.
    fn body_nlri(&mut self, message: &[u8], range: Range<usize>) -> Option<Vec<Nlri>> {
        let bytes = message.get(range.clone()).unwrap_or_default();
        match decode_nlri(Family::Ipv4, self.ctx.add_path.ipv4, bytes) {
            Ok(list) if list.is_empty() || self.ctx.families.ipv4 => Some(list),
            Ok(_) => {
                let reason = Reason::Family { afi: 1, safi: 1 };
                self.errors.push(Action::Discard, reason, None, range.start, 0..0);
                self.parts.foreign = true;
                None
            }
            // RFC 7606 section 5.3: syntactically incorrect prefixes end the session.
            Err((reason, at)) => {
                self.errors.push(Action::Reset, reason, None, range.start + at, 0..0);
                None
            }
        }
    }

    fn attributes(&mut self, block: &[u8], offset: usize) {
        for item in RawAttributes::new(block, offset) {
            match item {
                Ok(attribute) => self.attribute(&attribute),
                Err(AttributeFault { offset, code, reason }) => {
                    self.parts.cut = true;
                    // RFC 7606 section 4: treat as withdraw, the NLRI field is where the block's length says. But
                    // prefixes inside a cut MP attribute are lost, so section 3 (j) leaves only a reset.
                    let lost = matches!(code, Some(attr::MP_REACH | attr::MP_UNREACH));
                    self.parts.some_reach |= code == Some(attr::MP_REACH);
                    let action = if lost { Action::Reset } else { Action::Withdraw };
                    self.errors.push(action, reason, code, offset, 0..0);
                }
            }
        }
    }

    fn fail(&mut self, action: Action, reason: Reason, attribute: &AttributeRef<'_>, offset: usize) {
        self.errors.push(action, reason, Some(attribute.code), offset, attribute.range());
    }

    /// Takes in one attribute that fits its block.
    pub(super) fn attribute(&mut self, a: &AttributeRef<'_>) {
        let is_mp = matches!(a.code, attr::MP_REACH | attr::MP_UNREACH);
        if self.parts.note(a.code) {
            // RFC 7606 section 3 (g).
            let action = if is_mp { Action::Reset } else { Action::Discard };
            return self.fail(action, Reason::DuplicateAttribute, a, a.offset);
        }
        let Some(expected) = expected_flags(a.code) else { return self.unknown(a) };
        if a.flags & (flag::OPTIONAL | flag::TRANSITIVE) != expected {
            // RFC 7606 section 3 (c); prefixes in an MP attribute cannot be trusted then.
            let action = if is_mp { Action::Reset } else { Action::Withdraw };
            self.parts.some_reach |= a.code == attr::MP_REACH;
            return self.fail(action, Reason::AttributeFlags { flags: a.flags, expected }, a, a.offset);
        }
        if let Err((action, reason, at)) = self.value(a) {
            return self.fail(action, reason, a, a.value_offset() + at);
        }
        // AS4_PATH and AS4_AGGREGATOR have gone into what they complete, and are made anew when sent on.
        let kept = !matches!(a.code, attr::AS4_PATH | attr::AS4_AGGREGATOR);
        if kept && a.flags & flag::PARTIAL != 0 && expected == flag::OPTIONAL | flag::TRANSITIVE {
            self.parts.attributes.partial |= 1 << (a.code & 63);
        }
    }

    fn unknown(&mut self, a: &AttributeRef<'_>) {
        if a.flags & flag::OPTIONAL == 0 {
            // RFC 4271 section 6.3, which RFC 7606 leaves as it is.
            self.fail(Action::Reset, Reason::UnrecognizedWellKnown(a.code), a, a.offset);
        } else if a.flags & flag::TRANSITIVE != 0 {
            // Copied, so that a kept route does not keep the whole read buffer.
            let value = Bytes::copy_from_slice(a.value);
            let flags = a.flags & !flag::EXTENDED_LENGTH;
            self.parts.attributes.unknown.push(RawAttribute { code: a.code, flags, value });
        }
        // RFC 4271 section 5: unrecognized optional non-transitive attributes are quietly ignored.
    }

    /// Reads the value of a known attribute. The error's number is an offset in the value.
    fn value(&mut self, a: &AttributeRef<'_>) -> Result<(), (Action, Reason, usize)> {
        use Action::{Discard, Withdraw};
        let parts = &mut self.parts;
        let out = &mut parts.attributes;
        let value = a.value;
        let external = self.ctx.peer == PeerKind::External;
        // RFC 7606 sections 7.5, 7.9, 7.10: meaningless from outside, so discarded whatever they hold.
        let internal_only = || {
            if external {
                Err((Discard, Reason::Unexpected("attribute from an external peer"), 0))
            } else {
                Ok(())
            }
        };
        match a.code {
            attr::ORIGIN => {
                out.origin = Some(match fixed::<1>(value, Withdraw, "1")? {
                    [0] => Origin::Igp,
                    [1] => Origin::Egp,
                    [2] => Origin::Incomplete,
                    [other] => return Err((Withdraw, Reason::Origin(other), 0)),
                });
            }
            attr::AS_PATH => {
                let path = as_path::decode(value, self.ctx.four_octet)
                    .map_err(|(reason, at)| (Withdraw, reason, at))?;
                // RFC 5065 section 5, RFC 7606 section 7.2: we are in no confederation, so from outside it is wrong.
                if external && let Some(at) = as_path::confed_at(&path, self.ctx.four_octet) {
                    return Err((Withdraw, Reason::AsPathConfed, at));
                }
                out.as_path = path;
            }
            attr::NEXT_HOP => {
                parts.next_hop = Some(NextHop {
                    address: Ipv4Addr::from(fixed::<4>(value, Withdraw, "4")?),
                    at: a.value_offset(),
                    attribute_at: a.offset,
                    errors_before: self.errors.len(),
                });
            }
            attr::MED => out.med = Some(number(value, Withdraw)?),
            attr::LOCAL_PREF => {
                internal_only()?;
                out.local_pref = Some(number(value, Withdraw)?);
            }
            attr::ATOMIC_AGGREGATE => {
                fixed::<0>(value, Discard, "0")?;
                out.atomic_aggregate = true;
            }
            attr::AGGREGATOR => {
                out.aggregator = Some(if self.ctx.four_octet {
                    aggregator4(value)?
                } else {
                    let [a, b, addr @ ..] = fixed::<6>(value, Discard, "6")?;
                    aggregator(u32::from(u16::from_be_bytes([a, b])), addr)?
                });
            }
            attr::COMMUNITIES => {
                out.communities =
                    list(value, "a multiple of 4, not 0", |c| Community(u32::from_be_bytes(c)))?;
            }
            attr::ORIGINATOR_ID => {
                internal_only()?;
                out.originator_id = Some(Ipv4Addr::from(fixed::<4>(value, Withdraw, "4")?));
            }
            attr::CLUSTER_LIST => {
                internal_only()?;
                out.cluster_list = list(value, "a multiple of 4, not 0", Ipv4Addr::from)?;
            }
            attr::MP_REACH => self.mp_reach(value)?,
            attr::MP_UNREACH => self.mp_unreach(value)?,
            attr::EXT_COMMUNITIES => {
                out.ext_communities = list(value, "a multiple of 8, not 0", ExtCommunity)?;
            }
            attr::AS4_PATH | attr::AS4_AGGREGATOR if self.ctx.four_octet => {
                // RFC 6793 section 4.1.
                return Err((
                    Discard,
                    Reason::Unexpected("attribute on a session with four-octet AS numbers"),
                    0,
                ));
            }
            // RFC 6793 section 6: too short for one AS number.
            attr::AS4_PATH if value.is_empty() => {
                return Err((Discard, Reason::AttributeLength { length: 0, expected: "at least 6" }, 0));
            }
            attr::AS4_PATH => {
                let mut path = as_path::decode(value, true).map_err(|(reason, at)| (Discard, reason, at))?;
                let confed = as_path::confed_at(&path, true);
                path.segments.retain(|s| !s.kind.is_confed());
                parts.as4_path = Some(path);
                if let Some(at) = confed {
                    // RFC 6793 section 6: drop those segments, use the rest.
                    return Err((Discard, Reason::As4PathConfed, at));
                }
            }
            attr::AS4_AGGREGATOR => parts.as4_aggregator = Some(aggregator4(value)?),
            attr::IPV6_EXT_COMMUNITIES => {
                out.ipv6_ext_communities = list(value, "a multiple of 20, not 0", |c: [u8; 20]| c)?;
            }
            attr::LARGE_COMMUNITIES => {
                out.large_communities = list(value, "a multiple of 12, not 0", |c: [u8; 12]| {
                    let [g, l1, l2] =
                        [0, 4, 8].map(|i| u32::from_be_bytes([c[i], c[i + 1], c[i + 2], c[i + 3]]));
                    LargeCommunity { global: g, local1: l1, local2: l2 }
                })?;
            }
            attr::OTC => out.otc = Some(number(value, Withdraw)?),
            // `expected_flags` knows exactly the codes above.
            _ => {}
        }
        Ok(())
    }

    /// MP_REACH_NLRI (RFC 4760 section 3, RFC 2545, RFC 8950).
    fn mp_reach(&mut self, value: &[u8]) -> Result<(), (Action, Reason, usize)> {
        let head = parse((be_u16, be_u8, length_data(be_u8), be_u8), value);
        let Some((nlri, (afi, safi, next_hop, _reserved))) = head else {
            self.parts.some_reach = true;
            return Err((Action::Reset, Reason::MpTooShort(value.len()), 0));
        };
        // Whatever comes of them.
        self.parts.some_reach |= !nlri.is_empty();
        let family = self.family(afi, safi)?;
        let length = next_hop.len() as u8;
        let next_hop = match (family, length) {
            (Family::Ipv4, 16 | 32) if !self.ctx.extended_next_hop => None,
            (Family::Ipv6, 4) => None,
            _ => mp_next_hop(next_hop),
        };
        // RFC 7606 section 7.11: the prefixes cannot be located reliably.
        let next_hop = next_hop.ok_or((Action::Reset, Reason::MpNextHopLength { length, afi }, 3))?;
        let at = value.len() - nlri.len();
        let nlri = decode_nlri(family, self.ctx.add_path[family], nlri)
            .map_err(|(reason, offset)| (Action::Reset, reason, at + offset))?;
        // The prefixes are known, so a bad address only withdraws them. Where there are none it is of no route: logged
        // (RFC 4271 section 6.3), as NEXT_HOP without NLRI is ignored.
        let action = if nlri.is_empty() { Action::Discard } else { Action::Withdraw };
        self.parts.reach = Some(Reach { family, next_hop, nlri });
        if valid_next_hop(next_hop) { Ok(()) } else { Err((action, Reason::NextHop(next_hop.global()), 4)) }
    }

    /// MP_UNREACH_NLRI (RFC 4760 section 4).
    fn mp_unreach(&mut self, value: &[u8]) -> Result<(), (Action, Reason, usize)> {
        let Some((nlri, (afi, safi))) = parse((be_u16, be_u8), value) else {
            return Err((Action::Reset, Reason::MpTooShort(value.len()), 0));
        };
        let family = self.family(afi, safi)?;
        let nlri = decode_nlri(family, self.ctx.add_path[family], nlri)
            .map_err(|(reason, offset)| (Action::Reset, reason, 3 + offset))?;
        self.parts.unreach = Some(Unreach { family, nlri });
        Ok(())
    }

    /// The family, if it is negotiated; the rest of the attribute is ignored otherwise.
    fn family(&mut self, afi: u16, safi: u8) -> Result<Family, (Action, Reason, usize)> {
        let family = match (afi, safi) {
            (1, 1) => Some(Family::Ipv4),
            (2, 1) => Some(Family::Ipv6),
            _ => None,
        };
        match family {
            Some(family) if self.ctx.families[family] => Ok(family),
            _ => {
                self.parts.foreign = true;
                Err((Action::Discard, Reason::Family { afi, safi }, 0))
            }
        }
    }
}

/// The Optional and Transitive bits that a known attribute must have.
pub(super) const fn expected_flags(code: u8) -> Option<u8> {
    Some(match code {
        attr::ORIGIN | attr::AS_PATH | attr::NEXT_HOP | attr::LOCAL_PREF | attr::ATOMIC_AGGREGATE => {
            flag::TRANSITIVE
        }
        attr::MED | attr::ORIGINATOR_ID | attr::CLUSTER_LIST | attr::MP_REACH | attr::MP_UNREACH => {
            flag::OPTIONAL
        }
        attr::AGGREGATOR
        | attr::COMMUNITIES
        | attr::EXT_COMMUNITIES
        | attr::AS4_PATH
        | attr::AS4_AGGREGATOR
        | attr::IPV6_EXT_COMMUNITIES
        | attr::LARGE_COMMUNITIES
        | attr::OTC => flag::OPTIONAL | flag::TRANSITIVE,
        _ => return None,
    })
}

fn fixed<const N: usize>(
    value: &[u8],
    action: Action,
    expected: &'static str,
) -> Result<[u8; N], (Action, Reason, usize)> {
    value.try_into().map_err(|_| (action, Reason::AttributeLength { length: value.len(), expected }, 0))
}

fn number(value: &[u8], action: Action) -> Result<u32, (Action, Reason, usize)> {
    fixed::<4>(value, action, "4").map(u32::from_be_bytes)
}

fn aggregator4(value: &[u8]) -> Result<(u32, Ipv4Addr), (Action, Reason, usize)> {
    let [a, b, c, d, addr @ ..] = fixed::<8>(value, Action::Discard, "8")?;
    aggregator(u32::from_be_bytes([a, b, c, d]), addr)
}

fn aggregator(asn: u32, addr: [u8; 4]) -> Result<(u32, Ipv4Addr), (Action, Reason, usize)> {
    // RFC 7607 section 2.
    if asn == 0 { Err((Action::Discard, Reason::AsPathZero, 0)) } else { Ok((asn, Ipv4Addr::from(addr))) }
}

fn list<const N: usize, T>(
    value: &[u8],
    expected: &'static str,
    convert: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>, (Action, Reason, usize)> {
    match value.as_chunks::<N>() {
        (chunks, []) if !chunks.is_empty() => Ok(chunks.iter().copied().map(convert).collect()),
        _ => Err((Action::Withdraw, Reason::AttributeLength { length: value.len(), expected }, 0)),
    }
}

/// A next hop of 4, 16 or 32 octets.
pub(super) fn mp_next_hop(bytes: &[u8]) -> Option<WireNextHop> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(WireNextHop::V4(octets.into()));
    }
    match bytes.as_chunks::<16>() {
        ([only], []) => Some(WireNextHop::V6((*only).into())),
        ([global, second], []) => {
            let (global, link_local) = (Ipv6Addr::from(*global), Ipv6Addr::from(*second));
            // RFC 2545 section 3 wants a link-local address there; some send the global one twice, or zeros.
            Some(if link_local.is_unicast_link_local() {
                WireNextHop::V6LinkLocal { global, link_local }
            } else {
                WireNextHop::V6(global)
            })
        }
        _ => None,
    }
}

/// Whether it is the address of a host (RFC 4271 section 6.3): not 0.0.0.0/8, loopback, multicast or the reserved
/// 240.0.0.0/4 (RFC 1122 section 3.2.1.3, RFC 4291 section 2.5).
fn valid_next_hop(next_hop: WireNextHop) -> bool {
    match next_hop {
        WireNextHop::V4(a) => matches!(a.octets()[0], 1..=126 | 128..=223),
        WireNextHop::V6(a) => !a.is_unspecified() && !a.is_loopback() && !a.is_multicast(),
        // Unnumbered peers may have no global address to give.
        WireNextHop::V6LinkLocal { global, .. } => !global.is_multicast(),
    }
}

/// Checks what only the whole message shows, and brings it into normal form.
fn assemble(
    ctx: DecodeContext,
    mut parts: Parts,
    withdrawn: Vec<Nlri>,
    announced: Vec<Nlri>,
    block: &Range<usize>,
    errors: &mut Errors,
) -> Update {
    let body_reach = !announced.is_empty();
    let any_reach = body_reach || parts.reach.as_ref().is_some_and(|r| !r.nlri.is_empty());
    if any_reach {
        missing(ctx, &parts, body_reach, block.start, errors);
    }
    let mut next_hop = WireNextHop::V4(Ipv4Addr::UNSPECIFIED);
    // RFC 4760 section 3: without NLRI in the body, NEXT_HOP is ignored.
    if let Some(NextHop { address, at, attribute_at, errors_before }) = parts.next_hop
        && body_reach
    {
        next_hop = WireNextHop::V4(address);
        if !valid_next_hop(next_hop) {
            let reason = Reason::NextHop(IpAddr::V4(address));
            let before = Some(errors_before);
            errors.insert(before, Action::Withdraw, reason, Some(attr::NEXT_HOP), at, attribute_at..at + 4);
        }
    }
    if !ctx.four_octet {
        merge_as4(&mut parts);
    }
    parts.attributes.unknown.sort_by_key(|a| a.code);

    if !any_reach && !parts.some_reach {
        errors.escalate_withdraw();
    }
    let mut reach = Vec::new();
    if body_reach {
        reach.push(Reach { family: Family::Ipv4, next_hop, nlri: announced });
    }
    reach.extend(parts.reach);
    let mut unreach = Vec::new();
    if !withdrawn.is_empty() {
        unreach.push(Unreach { family: Family::Ipv4, nlri: withdrawn });
    }
    unreach.extend(parts.unreach);
    if errors.disposition() >= Disposition::Withdraw {
        unreach.extend(reach.drain(..).map(|r| Unreach { family: r.family, nlri: r.nlri }));
    }
    // An UPDATE whose attributes came to nothing must not pass for an End-of-RIB marker.
    let marker = !parts.foreign && (block.is_empty() || parts.seen == only(attr::MP_UNREACH));
    let says_nothing = reach.is_empty()
        && unreach.iter().all(|u| u.nlri.is_empty())
        && parts.attributes == PathAttributes::default();
    if says_nothing && !marker {
        reach.push(Reach { family: Family::Ipv4, next_hop, nlri: Vec::new() });
    }
    Update { reach, unreach, attributes: parts.attributes }
}

/// The `seen` set with one type code.
const fn only(code: u8) -> [u64; 4] {
    let mut set = [0; 4];
    set[(code >> 6) as usize] = 1 << (code & 63);
    set
}

/// RFC 7606 section 3 (d); LOCAL_PREF is required from internal peers (RFC 4271 section 5.1.5).
fn missing(ctx: DecodeContext, parts: &Parts, body_reach: bool, at: usize, errors: &mut Errors) {
    let required = [
        (attr::ORIGIN, true),
        (attr::AS_PATH, true),
        (attr::NEXT_HOP, body_reach),
        (attr::LOCAL_PREF, ctx.peer == PeerKind::Internal),
    ];
    for (code, required) in required {
        // What a cut block lacks has been reported by the cut.
        if required && !parts.has(code) && !parts.cut {
            errors.push(Action::Withdraw, Reason::MissingAttribute(code), Some(code), at, 0..0);
        }
    }
}

/// RFC 6793 section 4.2.3.
pub(super) fn merge_as4(parts: &mut Parts) {
    let out = &mut parts.attributes;
    match (out.aggregator, parts.as4_aggregator) {
        // An old speaker has aggregated again since: both AS4 attributes are out of date.
        (Some((asn, _)), Some(_)) if asn != Asn::TRANS.get() => return,
        (Some(_), Some(aggregator)) => out.aggregator = Some(aggregator),
        _ => {}
    }
    if let Some(as4) = parts.as4_path.take() {
        out.as_path = as_path::merge(std::mem::take(&mut out.as_path), as4);
    }
}
