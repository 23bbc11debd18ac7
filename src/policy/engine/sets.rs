//! Sets that rules refer to: named after their content, so that equal ones are shared and a changed one is another.

use std::{fmt::Write, sync::Arc};

use sha2::{Digest, Sha256};

use super::services::PortRanges;
use crate::{
    model::Family,
    policy::{
        ir::{Data, Elements, Field, Key, KeyType, Name, Set, SetKind},
        ranges::Ranges,
        selector::Selector,
    },
};

/// A set by what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SetDef {
    pub(super) name: Name,
    pub(super) content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Addresses of endpoints that a selector selects: grows and shrinks.
    Selector(Selector, Family),
    /// Addresses of the endpoints that have an identity and are not selected: all that a rule needs to know of a selector
    /// that nearly everything matches, such as `env != "dev"`. So an endpoint is only in sets that its own labels
    /// put it in, and a change of it costs nothing for all the selectors that merely do not exclude it.
    Unselected(Selector, Family),
    /// Addresses from files: never changes.
    Ranges(Ranges, Family),
    /// Ports: never changes.
    Ports(PortRanges),
}

/// 0 for IPv4, 1 for IPv6.
pub(super) fn family_index(family: Family) -> usize {
    usize::from(family == Family::Ipv6)
}

/// The digit in names of sets.
pub(super) fn family_digit(family: Family) -> char {
    if family == Family::Ipv4 { '4' } else { '6' }
}

/// The first 48 bits of a hash, for names. A name also has its kind in front; two different contents with one name
/// would need some 2^24 sets on a host.
pub(super) fn short_hash(text: &str) -> String {
    short_digest(Sha256::new_with_prefix(text.as_bytes()))
}

/// The same of what a digest has been fed with.
pub(super) fn short_digest(digest: Sha256) -> String {
    hex::encode(digest.finalize().get(..6).unwrap_or_default())
}

impl SetDef {
    pub(super) fn selector(selector: &Selector, family: Family) -> Arc<Self> {
        let name = format!("sel{}_{}", family_digit(family), short_hash(&selector.to_string()));
        Arc::new(Self { name: name.into(), content: Content::Selector(selector.clone(), family) })
    }

    /// The addresses of all endpoints with an identity.
    pub(super) fn known(family: Family) -> Arc<Self> {
        Self::selector(&Selector::All, family)
    }

    pub(super) fn unselected(selector: &Selector, family: Family) -> Arc<Self> {
        let name = format!("not{}_{}", family_digit(family), short_hash(&selector.to_string()));
        Arc::new(Self { name: name.into(), content: Content::Unselected(selector.clone(), family) })
    }

    /// Whether endpoints decide what is in it.
    pub(super) fn has_members(&self) -> bool {
        matches!(self.content, Content::Selector(..) | Content::Unselected(..))
    }

    pub(super) fn ranges(ranges: &Ranges, family: Family) -> Arc<Self> {
        let one = match family {
            Family::Ipv4 => ranges.minus(&["::/0".parse().expect("a valid prefix")].into_iter().collect()),
            Family::Ipv6 => {
                ranges.minus(&["0.0.0.0/0".parse().expect("a valid prefix")].into_iter().collect())
            }
        };
        let name = format!("net{}_{}", family_digit(family), short_hash(&one.to_string()));
        Arc::new(Self { name: name.into(), content: Content::Ranges(one, family) })
    }

    pub(super) fn ports(ranges: &[(u16, u16)]) -> Arc<Self> {
        let mut text = String::new();
        for (low, high) in ranges {
            let _ = write!(text, "{low}-{high},");
        }
        Arc::new(Self {
            name: format!("port_{}", short_hash(&text)).into(),
            content: Content::Ports(ranges.to_vec()),
        })
    }

    /// The fields to look up, given the field of the address or port.
    pub(super) fn fields(&self, field: Field) -> Vec<Field> {
        match self.content {
            Content::Ranges(..) => vec![field, Field::L4Proto],
            _ => vec![field],
        }
    }

    /// The set with its elements; of a selector's set they are left out, as endpoints decide them.
    pub(super) fn build(&self) -> Set {
        let members = |family: Family, comment: String| Set {
            kind: SetKind { key: vec![address_type(family)], data: None, interval: false },
            comment,
            elements: Elements::default(),
        };
        match &self.content {
            Content::Selector(selector, family) => members(*family, selector.to_string()),
            Content::Unselected(selector, family) => members(*family, format!("not: {selector}")),
            // Intervals of two parts live in a set that is some hundred times cheaper to load and change than one
            // for plain intervals and as fast to look up; the protocol is only there to make it two.
            Content::Ranges(ranges, family) => {
                let any = Key::range(&Key::byte(0), &Key::byte(255));
                let key = |low: std::net::IpAddr, high: std::net::IpAddr| {
                    Key::join(&[&Key::range(&Key::address(low), &Key::address(high)), &any])
                };
                let elements = match family {
                    Family::Ipv4 => ranges.v4().map(|(a, b)| (key(a.into(), b.into()), Data::None)).collect(),
                    Family::Ipv6 => ranges.v6().map(|(a, b)| (key(a.into(), b.into()), Data::None)).collect(),
                };
                Set {
                    kind: SetKind {
                        key: vec![address_type(*family), KeyType::Protocol],
                        data: None,
                        interval: true,
                    },
                    comment: String::new(),
                    elements,
                }
            }
            Content::Ports(ranges) => {
                let interval = ranges.iter().any(|(a, b)| a != b);
                let key = |(low, high): &(u16, u16)| {
                    if interval { Key::range(&Key::port(*low), &Key::port(*high)) } else { Key::port(*low) }
                };
                Set {
                    kind: SetKind { key: vec![KeyType::Port], data: None, interval },
                    comment: String::new(),
                    elements: ranges.iter().map(|r| (key(r), Data::None)).collect(),
                }
            }
        }
    }
}

pub(super) fn address_type(family: Family) -> KeyType {
    match family {
        Family::Ipv4 => KeyType::Ipv4,
        Family::Ipv6 => KeyType::Ipv6,
    }
}
