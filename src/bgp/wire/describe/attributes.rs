//! Path attributes that are kept.

use std::{fmt, net::Ipv4Addr};

use serde::Serialize;

use crate::bgp::wire::{
    AsPath, AsSegment, AsSegmentKind, ExtCommunity, Origin, PathAttributes, WireNextHop, code,
};

/// Path attributes that were understood and kept.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AttributesView {
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'static str>,
    /// Numbers of sequences one after another; other segments as `{"set": [...]}`, `{"confed_sequence": [...]}` and
    /// `{"confed_set": [...]}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) as_path: Option<Vec<AsPathItem>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) as_path_segments: Option<Vec<SegmentView>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_hop: Option<Ipv4Addr>,
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
    pub(super) as4_path: Option<Vec<AsPathItem>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) as4_aggregator: Option<AggregatorView>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unknown: Vec<UnknownView>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(super) enum AsPathItem {
    Asn(u32),
    Set { set: Vec<u32> },
    ConfedSequence { confed_sequence: Vec<u32> },
    ConfedSet { confed_set: Vec<u32> },
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct SegmentView {
    #[serde(rename = "type")]
    kind: &'static str,
    asns: Vec<u32>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct AggregatorView {
    pub(super) asn: u32,
    pub(super) address: Ipv4Addr,
}

#[derive(Clone, Debug, Serialize)]
struct UnknownView {
    code: u8,
    flags: u8,
    value: String,
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
            as4_aggregator: None,
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

    /// Without a path when there is none, which is not an empty one.
    #[must_use]
    pub fn with_path_if(mut self, there: bool) -> Self {
        if !there {
            (self.as_path, self.as_path_segments) = (None, None);
        }
        self
    }
}

/// The path as its items.
pub(super) fn path_items(path: &AsPath) -> Vec<AsPathItem> {
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
    let one = |segment: &AsSegment| SegmentView {
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

impl fmt::Display for AttributesView {
    /// ` name=value` for each that is there, in the order of the type codes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(serde_json::Value::Object(map)) = serde_json::to_value(self) else { return Err(fmt::Error) };
        for name in (1..=u8::MAX).filter_map(code::attribute_name).chain(["unknown"]) {
            if let Some(value) = map.get(name) {
                write!(f, " {name}={}", value.to_string().replace(['"', '[', ']'], ""))?;
            }
        }
        Ok(())
    }
}
