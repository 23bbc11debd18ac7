//! IP prefixes in canonical form: the bits below the length are always zero.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An address family slash32 routes: the AFI of RFC 4760 with SAFI 1 (unicast).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4 unicast (AFI 1).
    Ipv4,
    /// IPv6 unicast (AFI 2).
    Ipv6,
}

impl Family {
    /// Both families, IPv4 first.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// The length of an address in bits: 32 or 128.
    pub const fn bits(self) -> u8 {
        match self {
            Self::Ipv4 => 32,
            Self::Ipv6 => 128,
        }
    }

    /// The family of an address.
    pub const fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        })
    }
}

/// Why a text is not a prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// The address part does not parse.
    #[error("`{0}` is not an IP prefix (expected something like 10.32.0.0/16 or fd00:32::/48)")]
    Syntax(String),
    /// The length is beyond the family's address length.
    #[error("prefix length {len} is too long: at most {max}")]
    Length {
        /// The length given.
        len: u8,
        /// The family's maximum.
        max: u8,
    },
    /// Bits are set below the prefix length.
    #[error("{given} has bits set below its length; did you mean {canonical}?")]
    HostBits {
        /// What was written.
        given: String,
        /// The same with those bits cleared.
        canonical: Prefix,
    },
}

/// An IPv4 prefix, canonical, 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv4Prefix {
    addr: u32,
    len: u8,
}

impl Ipv4Prefix {
    /// The prefix of `len` bits (at most 32; more is read as 32) that covers `addr`; bits below are cleared.
    pub const fn new(addr: Ipv4Addr, len: u8) -> Self {
        let len = if len > 32 { 32 } else { len };
        Self { addr: addr.to_bits() & mask4(len), len }
    }

    /// The network address.
    pub const fn addr(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.addr)
    }

    /// The length in bits, 0 to 32.
    #[expect(clippy::len_without_is_empty, reason = "a prefix length, not a container's")]
    pub const fn len(self) -> u8 {
        self.len
    }

    /// Whether `addr` is inside.
    pub const fn contains_addr(self, addr: Ipv4Addr) -> bool {
        addr.to_bits() & mask4(self.len) == self.addr
    }

    /// Whether every address of `other` is inside this prefix (equal prefixes cover each other).
    pub const fn covers(self, other: Self) -> bool {
        self.len <= other.len && other.addr & mask4(self.len) == self.addr
    }
}

const fn mask4(len: u8) -> u32 {
    if len == 0 { 0 } else { u32::MAX << (32 - len) }
}

/// An IPv6 prefix, canonical.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv6Prefix {
    addr: [u8; 16],
    len: u8,
}

impl Ipv6Prefix {
    /// The prefix of `len` bits (at most 128; more is read as 128) that covers `addr`; bits below are cleared.
    pub const fn new(addr: Ipv6Addr, len: u8) -> Self {
        let len = if len > 128 { 128 } else { len };
        Self { addr: (addr.to_bits() & mask6(len)).to_be_bytes(), len }
    }

    /// The network address.
    pub const fn addr(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(u128::from_be_bytes(self.addr))
    }

    /// The length in bits, 0 to 128.
    #[expect(clippy::len_without_is_empty, reason = "a prefix length, not a container's")]
    pub const fn len(self) -> u8 {
        self.len
    }

    /// Whether `addr` is inside.
    pub const fn contains_addr(self, addr: Ipv6Addr) -> bool {
        addr.to_bits() & mask6(self.len) == u128::from_be_bytes(self.addr)
    }

    /// Whether every address of `other` is inside this prefix (equal prefixes cover each other).
    pub const fn covers(self, other: Self) -> bool {
        self.len <= other.len
            && u128::from_be_bytes(other.addr) & mask6(self.len) == u128::from_be_bytes(self.addr)
    }
}

const fn mask6(len: u8) -> u128 {
    if len == 0 { 0 } else { u128::MAX << (128 - len) }
}

/// An IPv4 or IPv6 prefix in canonical form. Orders IPv4 first, then by address, then by length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Prefix {
    /// IPv4.
    V4(Ipv4Prefix),
    /// IPv6.
    V6(Ipv6Prefix),
}

impl Prefix {
    /// The prefix of `len` bits that covers `addr`; bits below the length are cleared.
    pub fn new(addr: IpAddr, len: u8) -> Result<Self, PrefixError> {
        let max = Family::of(addr).bits();
        if len > max {
            return Err(PrefixError::Length { len, max });
        }
        Ok(match addr {
            IpAddr::V4(a) => Self::V4(Ipv4Prefix::new(a, len)),
            IpAddr::V6(a) => Self::V6(Ipv6Prefix::new(a, len)),
        })
    }

    /// The /32 or /128 of one address.
    pub const fn host(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(a) => Self::V4(Ipv4Prefix::new(a, 32)),
            IpAddr::V6(a) => Self::V6(Ipv6Prefix::new(a, 128)),
        }
    }

    /// The network address.
    pub const fn addr(self) -> IpAddr {
        match self {
            Self::V4(p) => IpAddr::V4(p.addr()),
            Self::V6(p) => IpAddr::V6(p.addr()),
        }
    }

    /// The length in bits.
    #[expect(clippy::len_without_is_empty, reason = "a prefix length, not a container's")]
    pub const fn len(self) -> u8 {
        match self {
            Self::V4(p) => p.len(),
            Self::V6(p) => p.len(),
        }
    }

    /// The address family.
    pub const fn family(self) -> Family {
        match self {
            Self::V4(_) => Family::Ipv4,
            Self::V6(_) => Family::Ipv6,
        }
    }

    /// Whether this is a /32 or /128.
    pub const fn is_host(self) -> bool {
        self.len() == self.family().bits()
    }

    /// Whether this is 0.0.0.0/0 or ::/0.
    pub const fn is_default(self) -> bool {
        self.len() == 0
    }

    /// Whether `addr` is inside; false across families.
    pub const fn contains_addr(self, addr: IpAddr) -> bool {
        match (self, addr) {
            (Self::V4(p), IpAddr::V4(a)) => p.contains_addr(a),
            (Self::V6(p), IpAddr::V6(a)) => p.contains_addr(a),
            _ => false,
        }
    }

    /// Whether every address of `other` is inside this prefix; false across families.
    pub const fn covers(self, other: Self) -> bool {
        match (self, other) {
            (Self::V4(a), Self::V4(b)) => a.covers(b),
            (Self::V6(a), Self::V6(b)) => a.covers(b),
            _ => false,
        }
    }

    /// Whether some address is inside both; false across families.
    pub const fn overlaps(self, other: Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// Parses `ADDRESS/LEN`, clearing bits below the length; a bare address is its host prefix.
    pub fn parse_lenient(text: &str) -> Result<Self, PrefixError> {
        let syntax = || PrefixError::Syntax(text.to_owned());
        let (addr, len) = match text.split_once('/') {
            Some((a, l)) => (a, Some(l)),
            None => (text, None),
        };
        let addr: IpAddr = addr.parse().map_err(|_| syntax())?;
        match len {
            None => Ok(Self::host(addr)),
            Some(l) if !l.is_empty() && l.bytes().all(|b| b.is_ascii_digit()) => {
                Self::new(addr, l.parse().map_err(|_| syntax())?)
            }
            Some(_) => Err(syntax()),
        }
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    /// Parses `ADDRESS/LEN` or a bare address; bits set below the length are refused, as they hide typing errors.
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let canonical = Self::parse_lenient(text)?;
        let given: IpAddr =
            text.split('/').next().unwrap_or(text).parse().map_err(|_| PrefixError::Syntax(text.into()))?;
        if given == canonical.addr() {
            Ok(canonical)
        } else {
            Err(PrefixError::HostBits { given: text.to_owned(), canonical })
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Through `pad`, so that tables can align it.
        f.pad(&format!("{}/{}", self.addr(), self.len()))
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Ipv4Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Prefix::V4(*self), f)
    }
}

impl fmt::Debug for Ipv4Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Ipv6Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Prefix::V6(*self), f)
    }
}

impl fmt::Debug for Ipv6Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Ipv4Prefix> for Prefix {
    fn from(p: Ipv4Prefix) -> Self {
        Self::V4(p)
    }
}

impl From<Ipv6Prefix> for Prefix {
    fn from(p: Ipv6Prefix) -> Self {
        Self::V6(p)
    }
}

impl From<IpAddr> for Prefix {
    fn from(addr: IpAddr) -> Self {
        Self::host(addr)
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_prints_and_refuses_host_bits() {
        for text in ["0.0.0.0/0", "10.32.4.7/32", "10.0.0.0/8", "::/0", "fd00:32::1/128", "2001:db8::/33"] {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), text);
        }
        assert_eq!("10.32.4.7".parse::<Prefix>().unwrap().to_string(), "10.32.4.7/32");
        let error = "10.32.4.7/16".parse::<Prefix>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "10.32.4.7/16 has bits set below its length; did you mean 10.32.0.0/16?"
        );
        for text in
            ["", "/", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/256", "a/1"]
        {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }

    #[test]
    fn covers_and_contains() {
        let p = |t: &str| t.parse::<Prefix>().unwrap();
        assert!(p("0.0.0.0/0").covers(p("10.0.0.0/8")));
        assert!(p("10.0.0.0/8").covers(p("10.0.0.0/8")));
        assert!(!p("10.0.0.0/8").covers(p("0.0.0.0/0")));
        assert!(!p("0.0.0.0/0").covers(p("::/0")));
        assert!(p("fd00::/8").contains_addr("fd12::1".parse().unwrap()));
        assert!(!p("fd00::/8").contains_addr("10.0.0.1".parse().unwrap()));
        assert_eq!(std::mem::size_of::<Ipv4Prefix>(), 8);
    }
}
