//! Messages as JSON and as one line of text, for `slash32 bgp decode`.
//!
//! The fields of the message body are shown as they are on the wire; what RFC 7606 makes of them is in `effect`.

use std::{fmt::Write as _, net::Ipv4Addr};

use nom::{
    multi::length_data,
    number::complete::{be_u8, be_u16},
};
use serde::{Serialize, Serializer};

use super::{
    AsPath, AsSegmentKind, AttributeRef, Capability, DecodeContext, Decoded, Disposition, ExtCommunity,
    HEADER_LEN, Message, Nlri, Notification, Open, Origin, PathAttributes, PerFamily, RawAttributes,
    RouteRefresh, Update, UpdateLayout, WireError, WireNextHop, as_path, code, decode, decode_nlri, parse,
};
use crate::model::{Family, Prefix};

/// A message decoded for people and programs. Serializes to one JSON object; `Display` is one line.
#[derive(Clone, Debug, Serialize)]
pub struct Description {
    /// `OPEN`, `UPDATE`, `NOTIFICATION`, `KEEPALIVE`, `ROUTE-REFRESH`; `UNKNOWN` for other type codes, and `invalid` for
    /// what has no BGP header.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The type octet of the header, if there is one.
    pub type_code: Option<u8>,
    /// Octets given, header included.
    pub length: usize,
    /// The message's own fields.
    #[serde(flatten)]
    pub body: Body,
    /// The strongest action that the errors demand.
    #[serde(serialize_with = "as_text")]
    pub disposition: Disposition,
    /// Everything that is wrong.
    pub errors: Vec<ErrorView>,
}

fn as_text<S: Serializer>(value: &impl std::fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// One error.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorView {
    /// `discard`, `withdraw` or `reset`.
    pub action: String,
    /// NOTIFICATION error code.
    pub code: u8,
    /// NOTIFICATION error subcode.
    pub subcode: u8,
    /// The name of code and subcode.
    pub name: String,
    /// Type code of the path attribute in error.
    pub attribute: Option<u8>,
    /// Its name.
    pub attribute_name: Option<&'static str>,
    /// What is wrong.
    pub reason: String,
    /// Octets from the start of the message.
    pub offset: usize,
}

impl From<&WireError> for ErrorView {
    fn from(e: &WireError) -> Self {
        Self {
            action: e.action.to_string(),
            code: e.code,
            subcode: e.subcode,
            name: Notification::new(e.code, e.subcode).to_string(),
            attribute: e.attribute,
            attribute_name: e.attribute.and_then(code::attribute_name),
            reason: e.reason.to_string(),
            offset: e.offset,
        }
    }
}

/// The fields of one kind of message.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
#[expect(clippy::large_enum_variant, reason = "one value at a time, printed and dropped")]
pub enum Body {
    /// OPEN.
    Open(OpenView),
    /// UPDATE.
    Update(UpdateView),
    /// NOTIFICATION.
    Notification(NotificationView),
    /// ROUTE-REFRESH.
    RouteRefresh(RouteRefreshView),
    /// KEEPALIVE, and what could not be read.
    Empty {},
}

/// Fields of an OPEN.
#[derive(Clone, Debug, Serialize)]
pub struct OpenView {
    version: u8,
    /// The four-octet number where the capability gives one.
    asn: u32,
    /// The two-octet field.
    my_as: u16,
    hold_time: u16,
    router_id: Ipv4Addr,
    capabilities: Vec<CapabilityView>,
}

/// A capability: code, name and its own fields.
#[derive(Clone, Debug, Serialize)]
pub(super) struct CapabilityView {
    code: u8,
    name: &'static str,
    #[serde(flatten)]
    fields: CapabilityFields,
}

#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
enum CapabilityFields {
    None {},
    Family { afi: u16, safi: u8 },
    NextHops { families: Vec<NextHopFamily> },
    Role { role: u8, role_name: &'static str },
    Restart { restart_state: bool, notification: bool, restart_time: u16, families: Vec<RestartFamily> },
    Asn { asn: u32 },
    AddPath { families: Vec<AddPathFamily> },
    LongLived { families: Vec<LongLivedFamily> },
    Fqdn { hostname: String, domain: String },
    Raw { value: String },
}

#[derive(Clone, Debug, Serialize)]
struct NextHopFamily {
    afi: u16,
    safi: u16,
    next_hop_afi: u16,
}

#[derive(Clone, Debug, Serialize)]
struct RestartFamily {
    afi: u16,
    safi: u8,
    forwarding: bool,
}

#[derive(Clone, Debug, Serialize)]
struct AddPathFamily {
    afi: u16,
    safi: u8,
    mode: &'static str,
}

#[derive(Clone, Debug, Serialize)]
struct LongLivedFamily {
    afi: u16,
    safi: u8,
    forwarding: bool,
    stale_time: u32,
}

/// Fields of an UPDATE.
#[derive(Clone, Debug, Serialize)]
pub struct UpdateView {
    withdrawn: Vec<NlriView>,
    attributes: AttributesView,
    nlri: Vec<NlriView>,
    mp_reach: Option<MpReachView>,
    mp_unreach: Option<MpUnreachView>,
    /// The family whose End-of-RIB marker this is.
    end_of_rib: Option<Family>,
    /// What a speaker does with the message.
    effect: Effect,
    /// Every attribute as it came, in order.
    raw_attributes: Vec<RawAttributeView>,
}

/// A prefix, with its path identifier when add-path is on.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
enum NlriView {
    Plain(Prefix),
    Path { prefix: Prefix, path_id: u32 },
}

/// Path attributes that were understood and kept.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AttributesView {
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'static str>,
    /// Numbers of sequences one after another; other segments as `{"set": [...]}`, `{"confed_sequence": [...]}` and
    /// `{"confed_set": [...]}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    as_path: Option<Vec<AsPathItem>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    as_path_segments: Option<Vec<SegmentView>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_hop: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    med: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    local_pref: Option<u32>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    atomic_aggregate: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    aggregator: Option<AggregatorView>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    communities: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    originator_id: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cluster_list: Vec<Ipv4Addr>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ext_communities: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ipv6_ext_communities: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    large_communities: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    otc: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    as4_path: Option<Vec<AsPathItem>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unknown: Vec<UnknownView>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
enum AsPathItem {
    Asn(u32),
    Set { set: Vec<u32> },
    ConfedSequence { confed_sequence: Vec<u32> },
    ConfedSet { confed_set: Vec<u32> },
}

#[derive(Clone, Debug, Serialize)]
struct SegmentView {
    #[serde(rename = "type")]
    kind: &'static str,
    asns: Vec<u32>,
}

#[derive(Clone, Debug, Serialize)]
struct AggregatorView {
    asn: u32,
    address: Ipv4Addr,
}

#[derive(Clone, Debug, Serialize)]
struct UnknownView {
    code: u8,
    flags: u8,
    value: String,
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
    /// The prefixes of a family that slash32 does not speak.
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

/// Fields of a NOTIFICATION.
#[derive(Clone, Debug, Serialize)]
pub struct NotificationView {
    code: u8,
    subcode: u8,
    name: &'static str,
    subcode_name: Option<&'static str>,
    data: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    shutdown_text: Option<String>,
    /// What a Hard Reset wraps.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<Box<NotificationView>>,
}

/// Fields of a ROUTE-REFRESH.
#[derive(Clone, Debug, Serialize)]
pub struct RouteRefreshView {
    afi: u16,
    safi: u8,
    subtype: u8,
    subtype_name: &'static str,
}

/// Decodes one whole message, header included.
pub fn describe(ctx: &DecodeContext, message: &[u8]) -> Description {
    describe_decoded(ctx, message, &decode(ctx, message))
}

/// Describes a message that has been decoded already, from the same bytes with the same context.
pub fn describe_decoded(ctx: &DecodeContext, message: &[u8], decoded: &Decoded) -> Description {
    let type_code = message.get(HEADER_LEN - 1).copied();
    let body = match (&decoded.message, type_code) {
        (Some(Message::Open(open)), _) => Body::Open(open.into()),
        (Some(Message::Notification(n)), _) => Body::Notification(n.into()),
        (Some(Message::RouteRefresh(r)), _) => Body::RouteRefresh(r.into()),
        (Some(Message::Update(update)), _) => {
            Body::Update(update_view(ctx, message, Some(update), decoded.disposition))
        }
        // What can be located is shown even when the message is useless.
        (None, Some(code::message::UPDATE)) => {
            Body::Update(update_view(ctx, message, None, decoded.disposition))
        }
        _ => Body::Empty {},
    };
    Description {
        kind: match type_code {
            Some(code::message::ROUTE_REFRESH) => "ROUTE-REFRESH",
            Some(kind) => code::message_name(kind),
            None => "invalid",
        },
        type_code,
        length: message.len(),
        body,
        disposition: decoded.disposition,
        errors: decoded.errors.iter().map(ErrorView::from).collect(),
    }
}

impl Description {
    /// Something that should have been a message but is not even octets.
    pub fn invalid(reason: &str, offset: usize) -> Self {
        let error = ErrorView {
            action: Disposition::Reset.to_string(),
            code: code::error::HEADER,
            subcode: 0,
            name: code::error_name(code::error::HEADER).to_owned(),
            attribute: None,
            attribute_name: None,
            reason: reason.to_owned(),
            offset,
        };
        Self {
            kind: "invalid",
            type_code: None,
            length: 0,
            body: Body::Empty {},
            disposition: Disposition::Reset,
            errors: vec![error],
        }
    }
}

impl From<&Open> for OpenView {
    fn from(open: &Open) -> Self {
        let four_octet = open.capabilities.iter().find_map(|c| match c {
            Capability::FourOctetAs(asn) => Some(*asn),
            _ => None,
        });
        Self {
            version: open.version,
            asn: four_octet.unwrap_or(u32::from(open.my_as)),
            my_as: open.my_as,
            hold_time: open.hold_time,
            router_id: open.router_id,
            capabilities: open.capabilities.iter().map(CapabilityView::from).collect(),
        }
    }
}

impl From<&Capability> for CapabilityView {
    fn from(capability: &Capability) -> Self {
        let fields = match capability {
            Capability::Multiprotocol { afi, safi } => CapabilityFields::Family { afi: *afi, safi: *safi },
            Capability::RouteRefresh | Capability::ExtendedMessage | Capability::EnhancedRouteRefresh => {
                CapabilityFields::None {}
            }
            Capability::ExtendedNextHop(list) => {
                let one = |&(afi, safi, next_hop_afi): &_| NextHopFamily { afi, safi, next_hop_afi };
                CapabilityFields::NextHops { families: list.iter().map(one).collect() }
            }
            Capability::Role(role) => CapabilityFields::Role {
                role: *role,
                role_name: match role {
                    0 => "provider",
                    1 => "route-server",
                    2 => "route-server-client",
                    3 => "customer",
                    4 => "peer",
                    _ => "unknown",
                },
            },
            Capability::GracefulRestart { restart_state, notification, restart_time, families } => {
                let one = |&(afi, safi, forwarding): &_| RestartFamily { afi, safi, forwarding };
                CapabilityFields::Restart {
                    restart_state: *restart_state,
                    notification: *notification,
                    restart_time: *restart_time,
                    families: families.iter().map(one).collect(),
                }
            }
            Capability::FourOctetAs(asn) => CapabilityFields::Asn { asn: *asn },
            Capability::AddPath(list) => {
                let one = |&(afi, safi, mode): &_| AddPathFamily {
                    afi,
                    safi,
                    mode: match mode {
                        1 => "receive",
                        2 => "send",
                        _ => "both",
                    },
                };
                CapabilityFields::AddPath { families: list.iter().map(one).collect() }
            }
            Capability::LongLivedGracefulRestart(list) => {
                let one = |&(afi, safi, forwarding, stale_time): &_| LongLivedFamily {
                    afi,
                    safi,
                    forwarding,
                    stale_time,
                };
                CapabilityFields::LongLived { families: list.iter().map(one).collect() }
            }
            Capability::Fqdn { hostname, domain } => {
                CapabilityFields::Fqdn { hostname: hostname.clone(), domain: domain.clone() }
            }
            Capability::Unknown { value, .. } => CapabilityFields::Raw { value: hex::encode(value) },
        };
        Self { code: capability.code(), name: code::capability_name(capability.code()), fields }
    }
}

impl From<&Notification> for NotificationView {
    fn from(n: &Notification) -> Self {
        Self {
            code: n.code,
            subcode: n.subcode,
            name: code::error_name(n.code),
            subcode_name: code::subcode_name(n.code, n.subcode),
            data: hex::encode(&n.data),
            shutdown_text: n.shutdown_text().map(Into::into),
            cause: n.hard_reset_cause().map(|cause| {
                // One level is all there is: a Hard Reset in a Hard Reset is shown by its numbers and data.
                Box::new(Self {
                    code: cause.code,
                    subcode: cause.subcode,
                    name: code::error_name(cause.code),
                    subcode_name: code::subcode_name(cause.code, cause.subcode),
                    data: hex::encode(&cause.data),
                    shutdown_text: None,
                    cause: None,
                })
            }),
        }
    }
}

impl From<&RouteRefresh> for RouteRefreshView {
    fn from(r: &RouteRefresh) -> Self {
        let subtype_name = match r.subtype {
            0 => "request",
            1 => "begin",
            2 => "end",
            _ => "unknown",
        };
        Self { afi: r.afi, safi: r.safi, subtype: r.subtype, subtype_name }
    }
}

fn update_view(
    ctx: &DecodeContext,
    message: &[u8],
    update: Option<&Update>,
    disposition: Disposition,
) -> UpdateView {
    let layout = UpdateLayout::of(message).ok();
    let field =
        |range: Option<std::ops::Range<usize>>| range.and_then(|r| message.get(r)).unwrap_or_default();
    let body = |range| nlri_views(Family::Ipv4, ctx.add_path, field(range));
    let block_at = layout.as_ref().map_or(0, |l| l.attributes.start);
    let block = field(layout.as_ref().map(|l| l.attributes.clone()));
    let raw: Vec<AttributeRef<'_>> = RawAttributes::new(block, block_at).map_while(Result::ok).collect();
    let first = |code| raw.iter().find(|a| a.code == code);
    let mut attributes = update.map(|u| AttributesView::from(&u.attributes)).unwrap_or_default();
    if first(code::attribute::AS_PATH).is_none() {
        (attributes.as_path, attributes.as_path_segments) = (None, None);
    }
    attributes.next_hop =
        first(code::attribute::NEXT_HOP).and_then(|a| <[u8; 4]>::try_from(a.value).ok()).map(Ipv4Addr::from);
    attributes.as4_path = first(code::attribute::AS4_PATH)
        .filter(|_| !ctx.four_octet)
        .and_then(|a| as_path::decode(a.value, true).ok())
        .map(|path| path_items(&path));
    let mut effect = Effect::default();
    let mut end_of_rib = None;
    if let Some(update) = update.filter(|_| disposition < Disposition::Reset) {
        let views = |family, list: &[Nlri]| -> Vec<NlriView> {
            list.iter().map(|n| nlri_view(ctx.add_path[family], n)).collect()
        };
        effect.announce = update.reach.iter().flat_map(|r| views(r.family, &r.nlri)).collect();
        effect.withdraw = update.unreach.iter().flat_map(|u| views(u.family, &u.nlri)).collect();
        end_of_rib = update.end_of_rib();
    }
    UpdateView {
        withdrawn: body(layout.as_ref().map(|l| l.withdrawn.clone())),
        nlri: body(layout.map(|l| l.nlri)),
        mp_reach: first(code::attribute::MP_REACH).and_then(|a| mp_reach_view(ctx, a.value)),
        mp_unreach: first(code::attribute::MP_UNREACH).and_then(|a| mp_unreach_view(ctx, a.value)),
        attributes,
        end_of_rib,
        effect,
        raw_attributes: raw.iter().map(RawAttributeView::from).collect(),
    }
}

/// The prefixes of a field; none when it cannot be parsed.
fn nlri_views(family: Family, add_path: PerFamily<bool>, bytes: &[u8]) -> Vec<NlriView> {
    let list = decode_nlri(family, add_path[family], bytes).unwrap_or_default();
    list.iter().map(|n| nlri_view(add_path[family], n)).collect()
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

fn mp_reach_view(ctx: &DecodeContext, value: &[u8]) -> Option<MpReachView> {
    let (nlri, (afi, safi, next_hop, _reserved)) = parse((be_u16, be_u8, length_data(be_u8), be_u8), value)?;
    let family = family_of(afi, safi);
    let (shown, link_local) = next_hop_text(next_hop);
    Some(MpReachView {
        afi,
        safi,
        next_hop: shown,
        link_local,
        nlri: family.map(|f| nlri_views(f, ctx.add_path, nlri)).unwrap_or_default(),
        raw_nlri: family.is_none().then(|| hex::encode(nlri)),
    })
}

/// The next hop, and the link-local address that may follow it.
pub(super) fn next_hop_text(bytes: &[u8]) -> (String, Option<String>) {
    use std::net::Ipv6Addr;
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return (Ipv4Addr::from(octets).to_string(), None);
    }
    match bytes.as_chunks::<16>() {
        ([one], []) => (Ipv6Addr::from(*one).to_string(), None),
        ([one, two], []) => (Ipv6Addr::from(*one).to_string(), Some(Ipv6Addr::from(*two).to_string())),
        _ => (hex::encode(bytes), None),
    }
}

fn mp_unreach_view(ctx: &DecodeContext, value: &[u8]) -> Option<MpUnreachView> {
    let (nlri, (afi, safi)) = parse((be_u16, be_u8), value)?;
    let family = family_of(afi, safi);
    Some(MpUnreachView {
        afi,
        safi,
        nlri: family.map(|f| nlri_views(f, ctx.add_path, nlri)).unwrap_or_default(),
        raw_nlri: family.is_none().then(|| hex::encode(nlri)),
    })
}

impl From<&PathAttributes> for AttributesView {
    fn from(a: &PathAttributes) -> Self {
        Self {
            origin: a.origin.map(|origin| match origin {
                Origin::Igp => "IGP",
                Origin::Egp => "EGP",
                Origin::Incomplete => "INCOMPLETE",
            }),
            as_path: Some(path_items(&a.as_path)),
            as_path_segments: Some(segment_views(&a.as_path)),
            next_hop: None,
            med: a.med,
            local_pref: a.local_pref,
            atomic_aggregate: a.atomic_aggregate,
            aggregator: a.aggregator.map(|(asn, address)| AggregatorView { asn, address }),
            communities: a.communities.iter().map(ToString::to_string).collect(),
            originator_id: a.originator_id,
            cluster_list: a.cluster_list.clone(),
            ext_communities: a.ext_communities.iter().map(ExtCommunity::to_string).collect(),
            ipv6_ext_communities: a.ipv6_ext_communities.iter().map(hex::encode).collect(),
            large_communities: a.large_communities.iter().map(ToString::to_string).collect(),
            otc: a.otc,
            as4_path: None,
            unknown: a
                .unknown
                .iter()
                .map(|u| UnknownView { code: u.code, flags: u.flags, value: hex::encode(&u.value) })
                .collect(),
        }
    }
}

impl AttributesView {
    /// The same with a NEXT_HOP.
    #[must_use]
    pub fn with_next_hop(mut self, next_hop: Option<WireNextHop>) -> Self {
        if let Some(WireNextHop::V4(addr)) = next_hop {
            self.next_hop = Some(addr);
        }
        self
    }
}

fn path_items(path: &AsPath) -> Vec<AsPathItem> {
    let mut items = Vec::new();
    for segment in &path.segments {
        let asns = segment.asns.clone();
        match segment.kind {
            AsSegmentKind::Sequence => items.extend(asns.into_iter().map(AsPathItem::Asn)),
            AsSegmentKind::Set => items.push(AsPathItem::Set { set: asns }),
            AsSegmentKind::ConfedSequence => items.push(AsPathItem::ConfedSequence { confed_sequence: asns }),
            AsSegmentKind::ConfedSet => items.push(AsPathItem::ConfedSet { confed_set: asns }),
        }
    }
    items
}

fn segment_views(path: &AsPath) -> Vec<SegmentView> {
    let one = |segment: &super::AsSegment| SegmentView {
        kind: match segment.kind {
            AsSegmentKind::Sequence => "sequence",
            AsSegmentKind::Set => "set",
            AsSegmentKind::ConfedSequence => "confed_sequence",
            AsSegmentKind::ConfedSet => "confed_set",
        },
        asns: segment.asns.clone(),
    };
    path.segments.iter().map(one).collect()
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

impl std::fmt::Display for NlriView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Plain(prefix) => write!(f, "{prefix}"),
            Self::Path { prefix, path_id } => write!(f, "{prefix}#{path_id}"),
        }
    }
}

impl std::fmt::Display for Description {
    /// `UPDATE 45 ok +10.0.0.0/8 -10.1.0.0/16 origin=IGP as_path=65001,65002 …`, and one `! …` for each error.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.kind, self.length, self.disposition)?;
        f.write_str(&self.body.text())?;
        for e in &self.errors {
            write!(f, " ! {} {}/{} at {}: ", e.action, e.code, e.subcode, e.offset)?;
            if let Some(name) = e.attribute_name {
                write!(f, "{name}: ")?;
            }
            f.write_str(&e.reason)?;
        }
        Ok(())
    }
}

impl Body {
    fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail, so results are not looked at.
        match self {
            Self::Open(o) => {
                let _ = write!(text, " AS{} id {} hold {} s", o.asn, o.router_id, o.hold_time);
                for capability in &o.capabilities {
                    let _ = write!(text, " [{}]", capability.name);
                }
            }
            Self::Update(u) => {
                if let Some(family) = u.end_of_rib {
                    let _ = write!(text, " End-of-RIB {family}");
                }
                for n in &u.effect.announce {
                    let _ = write!(text, " +{n}");
                }
                for n in &u.effect.withdraw {
                    let _ = write!(text, " -{n}");
                }
                if let Some(mp) = &u.mp_reach {
                    let _ = write!(text, " via={}", mp.next_hop);
                }
                text.push_str(&attribute_text(&u.attributes));
            }
            Self::Notification(n) => {
                let _ = write!(text, " {}/{} {}", n.code, n.subcode, n.name);
                if let Some(name) = n.subcode_name {
                    let _ = write!(text, "/{name}");
                }
                if let Some(shutdown) = &n.shutdown_text {
                    let _ = write!(text, " {shutdown:?}");
                }
            }
            Self::RouteRefresh(r) => {
                let _ = write!(text, " AFI {} SAFI {} {}", r.afi, r.safi, r.subtype_name);
            }
            Self::Empty {} => {}
        }
        text
    }
}

/// Attributes as ` name=value` each, in the order of their codes.
pub(super) fn attribute_text(attributes: &AttributesView) -> String {
    let mut text = String::new();
    if let Ok(serde_json::Value::Object(map)) = serde_json::to_value(attributes) {
        let names = (1..=u8::MAX).filter_map(code::attribute_name).chain(["unknown"]);
        for name in names {
            if let Some(value) = map.get(name) {
                let plain = value.to_string().replace(['"', '[', ']'], "");
                let _ = write!(text, " {name}={plain}");
            }
        }
    }
    text
}
