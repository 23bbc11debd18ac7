//! Communities as people write them in filter rules, and patterns over them.
//!
//! `65000:100` or `no-export` is a standard community, `65000:1:2` a large one, `rt:65000:100`, `soo:192.0.2.1:5` and
//! `0x0002fde800000064` an extended one. In a pattern any field may be `*`.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use serde::{Deserialize, Deserializer, de};

use crate::bgp::wire::{Community, ExtCommunity, LargeCommunity, PathAttributes};

/// A community of any of the three kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AnyCommunity {
    /// RFC 1997.
    Standard(Community),
    /// RFC 8092.
    Large(LargeCommunity),
    /// RFC 4360.
    Extended(ExtCommunity),
}

/// A pattern over communities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CommunityMatch {
    /// A standard community; `None` is any value.
    Standard(Option<u16>, Option<u16>),
    /// A large community; `None` is any value.
    Large(Option<u32>, Option<u32>, Option<u32>),
    /// Exactly this extended community.
    Extended(ExtCommunity),
}

/// Why a text is not a community.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a community (65000:100, 65000:1:2, rt:65000:100, soo:65000:100, 0x and 16 hex digits, no-export, no-advertise, no-export-subconfed, graceful-shutdown, blackhole, llgr-stale, no-llgr)"
)]
pub struct CommunityError(String);

/// The well-known communities and their names.
pub(super) const WELL_KNOWN: [(&str, Community); 7] = [
    ("graceful-shutdown", Community::GRACEFUL_SHUTDOWN),
    ("llgr-stale", Community::LLGR_STALE),
    ("no-llgr", Community::NO_LLGR),
    ("blackhole", Community::BLACKHOLE),
    ("no-export", Community::NO_EXPORT),
    ("no-advertise", Community::NO_ADVERTISE),
    ("no-export-subconfed", Community::NO_EXPORT_SUBCONFED),
];

impl CommunityMatch {
    /// Whether some community among the attributes matches.
    pub fn matches(&self, attributes: &PathAttributes) -> bool {
        match self {
            Self::Standard(..) => attributes.communities.iter().any(|c| self.is_standard(*c)),
            Self::Large(..) => attributes.large_communities.iter().any(|c| self.is_large(*c)),
            Self::Extended(wanted) => attributes.ext_communities.contains(wanted),
        }
    }

    /// Takes every community that matches out of the attributes.
    pub fn remove_from(&self, attributes: &mut PathAttributes) {
        match self {
            Self::Standard(..) => attributes.communities.retain(|c| !self.is_standard(*c)),
            Self::Large(..) => attributes.large_communities.retain(|c| !self.is_large(*c)),
            Self::Extended(gone) => attributes.ext_communities.retain(|c| c != gone),
        }
    }

    fn is_standard(&self, community: Community) -> bool {
        let (high, low) = ((community.0 >> 16) as u16, community.0 as u16);
        matches!(self, Self::Standard(h, l) if h.is_none_or(|h| h == high) && l.is_none_or(|l| l == low))
    }

    fn is_large(&self, c: LargeCommunity) -> bool {
        let fits = |pattern: &Option<u32>, value| pattern.is_none_or(|p| p == value);
        matches!(self, Self::Large(g, a, b) if fits(g, c.global) && fits(a, c.local1) && fits(b, c.local2))
    }
}

impl AnyCommunity {
    /// Adds the community unless it is there already.
    pub fn add_to(self, attributes: &mut PathAttributes) {
        fn push<T: PartialEq>(list: &mut Vec<T>, item: T) {
            if !list.contains(&item) {
                list.push(item);
            }
        }
        match self {
            Self::Standard(c) => push(&mut attributes.communities, c),
            Self::Large(c) => push(&mut attributes.large_communities, c),
            Self::Extended(c) => push(&mut attributes.ext_communities, c),
        }
    }
}

impl FromStr for CommunityMatch {
    type Err = CommunityError;

    fn from_str(text: &str) -> Result<Self, CommunityError> {
        #[expect(clippy::option_option, reason = "a field that does not parse, any value, or one value")]
        fn field<T: FromStr>(text: &str) -> Option<Option<T>> {
            if text == "*" { Some(None) } else { text.parse().ok().map(Some) }
        }
        let parsed = || {
            let fields: Vec<&str> = text.split(':').collect();
            match fields.as_slice() {
                [high, low] => Some(Self::Standard(field(high)?, field(low)?)),
                [g, a, b] if !g.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                    Some(Self::Large(field(g)?, field(a)?, field(b)?))
                }
                _ => None,
            }
        };
        if let Some(pattern) = parsed() {
            return Ok(pattern);
        }
        Ok(match text.parse()? {
            AnyCommunity::Standard(c) => Self::Standard(Some((c.0 >> 16) as u16), Some(c.0 as u16)),
            AnyCommunity::Large(c) => Self::Large(Some(c.global), Some(c.local1), Some(c.local2)),
            AnyCommunity::Extended(c) => Self::Extended(c),
        })
    }
}

impl FromStr for AnyCommunity {
    type Err = CommunityError;

    fn from_str(text: &str) -> Result<Self, CommunityError> {
        parse(text.trim()).ok_or_else(|| CommunityError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<AnyCommunity> {
    if let Some((_, community)) = WELL_KNOWN.iter().find(|(name, _)| *name == text) {
        return Some(AnyCommunity::Standard(*community));
    }
    if let Some(digits) = text.strip_prefix("0x") {
        let mut octets = [0; 8];
        hex::decode_to_slice(digits, &mut octets).ok()?;
        return Some(AnyCommunity::Extended(ExtCommunity(octets)));
    }
    let fields: Vec<&str> = text.split(':').collect();
    match fields.as_slice() {
        ["rt", admin, number] => extended(0x02, admin, number),
        ["soo", admin, number] => extended(0x03, admin, number),
        [high, low] => {
            let (high, low): (u16, u16) = (high.parse().ok()?, low.parse().ok()?);
            Some(AnyCommunity::Standard(Community(u32::from(high) << 16 | u32::from(low))))
        }
        [global, local1, local2] => Some(AnyCommunity::Large(LargeCommunity {
            global: global.parse().ok()?,
            local1: local1.parse().ok()?,
            local2: local2.parse().ok()?,
        })),
        _ => None,
    }
}

/// Route target and route origin in the three encodings of RFC 4360 section 3 and RFC 5668.
fn extended(subtype: u8, admin: &str, number: &str) -> Option<AnyCommunity> {
    let mut octets = [0; 8];
    octets[1] = subtype;
    if let Ok(addr) = admin.parse::<Ipv4Addr>() {
        octets[0] = 0x01;
        octets[2..6].copy_from_slice(&addr.octets());
        octets[6..].copy_from_slice(&number.parse::<u16>().ok()?.to_be_bytes());
    } else if let Ok(asn) = admin.parse::<u16>() {
        octets[2..4].copy_from_slice(&asn.to_be_bytes());
        octets[4..].copy_from_slice(&number.parse::<u32>().ok()?.to_be_bytes());
    } else {
        octets[0] = 0x02;
        octets[2..6].copy_from_slice(&admin.parse::<u32>().ok()?.to_be_bytes());
        octets[6..].copy_from_slice(&number.parse::<u16>().ok()?.to_be_bytes());
    }
    Some(AnyCommunity::Extended(ExtCommunity(octets)))
}

impl fmt::Display for AnyCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard(c) => match WELL_KNOWN.iter().find(|(_, known)| known == c) {
                Some((name, _)) => f.write_str(name),
                None => c.fmt(f),
            },
            Self::Large(c) => c.fmt(f),
            Self::Extended(c) => {
                let [kind, subtype, a, b, c, d, e, g] = c.0;
                let name = match subtype {
                    0x02 => "rt",
                    0x03 => "soo",
                    _ => "",
                };
                match (kind, name) {
                    (0x00, "rt" | "soo") => {
                        let (asn, number) = (u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, g]));
                        write!(f, "{name}:{asn}:{number}")
                    }
                    (0x01, "rt" | "soo") => {
                        write!(f, "{name}:{}:{}", Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([e, g]))
                    }
                    // A two-octet number in the four-octet form is written in hex: as decimal it would read back as type 0.
                    (0x02, "rt" | "soo") if u32::from_be_bytes([a, b, c, d]) > u32::from(u16::MAX) => {
                        let (asn, number) = (u32::from_be_bytes([a, b, c, d]), u16::from_be_bytes([e, g]));
                        write!(f, "{name}:{asn}:{number}")
                    }
                    _ => write!(f, "0x{}", hex::encode([kind, subtype, a, b, c, d, e, g])),
                }
            }
        }
    }
}

impl<'de> Deserialize<'de> for AnyCommunity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for CommunityMatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        for text in [
            "65000:100",
            "no-export",
            "65000:1:2",
            "rt:65000:100",
            "soo:192.0.2.1:5",
            "rt:4200000000:7",
            "0x030b000000000000",
            "0x0202000000010002",
        ] {
            assert_eq!(text.parse::<AnyCommunity>().unwrap().to_string(), text);
        }
        for text in ["", "1", "65536:1", "1:2:3:4", "rt:1", "rt:1:x", "0x12", "no-way", "-1:1"] {
            assert!(text.parse::<AnyCommunity>().is_err(), "{text}");
        }
    }

    #[test]
    fn patterns() {
        let attributes = PathAttributes {
            communities: vec![Community((65000 << 16) + 100)],
            large_communities: vec![LargeCommunity { global: 5, local1: 6, local2: 7 }],
            ext_communities: vec![ExtCommunity([0, 2, 0xFD, 0xE8, 0, 0, 0, 100])],
            ..Default::default()
        };
        for (text, expected) in [
            ("65000:100", true),
            ("65000:*", true),
            ("*:*", true),
            ("65000:101", false),
            ("5:6:7", true),
            ("5:*:7", true),
            ("5:*:8", false),
            ("rt:65000:100", true),
            ("soo:65000:100", false),
            ("no-export", false),
        ] {
            let pattern: CommunityMatch = text.parse().unwrap();
            assert_eq!(pattern.matches(&attributes), expected, "{text}");
            let mut left = attributes.clone();
            pattern.remove_from(&mut left);
            assert!(!pattern.matches(&left), "{text}");
            assert_eq!(left != attributes, expected, "{text}");
        }
    }
}
