//! Keys and elements of sets, in the layout the kernel wants them.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use smallvec::SmallVec;

use super::Verdict;

/// The type of one part of a key, which fixes its length and how people read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyType {
    /// An interface name, padded with zeros to `IFNAMSIZ` (16).
    Interface,
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// A transport protocol.
    Protocol,
    /// A port in network order.
    Port,
    /// One bit of connection tracking's state, in host order.
    CtState,
    /// Connection tracking's status bits, in host order.
    CtStatus,
    /// A direction.
    CtDirection,
    /// `NFPROTO_*`.
    NfProto,
    /// An ICMPv6 type.
    Icmpv6Type,
    /// `RTN_*`, in host order.
    FibType,
    /// A packet or connection mark, in host order.
    Mark,
}

impl KeyType {
    /// The length in bytes.
    pub const fn len(self) -> usize {
        match self {
            Self::Interface | Self::Ipv6 => 16,
            Self::Ipv4 | Self::CtState | Self::CtStatus | Self::FibType | Self::Mark => 4,
            Self::Port => 2,
            Self::Protocol | Self::CtDirection | Self::NfProto | Self::Icmpv6Type => 1,
        }
    }

    /// Never: for clippy's peace.
    pub const fn is_empty(self) -> bool {
        false
    }

    /// The length in a key of several parts, where each is padded to whole registers of 4 bytes.
    pub const fn padded(self) -> usize {
        self.len().next_multiple_of(4)
    }

    /// The kernel's userspace tools number the types so that they can print a set (nftables' datatype.h); the kernel
    /// itself only stores the number.
    pub const fn nft_type(self) -> u32 {
        match self {
            Self::NfProto => 2,
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Mark => 19,
            Self::CtState => 26,
            Self::CtDirection => 27,
            Self::CtStatus => 28,
            Self::Icmpv6Type => 29,
            Self::Interface => 41,
            Self::FibType => 38,
        }
    }

    /// The name in nft's language.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NfProto => "nf_proto",
            Self::Ipv4 => "ipv4_addr",
            Self::Ipv6 => "ipv6_addr",
            Self::Protocol => "inet_proto",
            Self::Port => "inet_service",
            Self::CtState => "ct_state",
            Self::CtDirection => "ct_dir",
            Self::CtStatus => "ct_status",
            Self::Icmpv6Type => "icmpv6_type",
            Self::Interface => "ifname",
            Self::FibType => "fib_addrtype",
            Self::Mark => "mark",
        }
    }
}

/// A value, in the kernel's byte order; several parts are padded to 4 bytes each and strung together. A key of an
/// interval set has an upper end as well.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    low: SmallVec<[u8; 16]>,
    high: Option<Box<[u8]>>,
}

impl Key {
    /// Any bytes.
    pub fn raw(bytes: &[u8]) -> Self {
        Self { low: SmallVec::from_slice(bytes), high: None }
    }

    /// An address.
    pub fn address(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(a) => Self::raw(&a.octets()),
            IpAddr::V6(a) => Self::raw(&a.octets()),
        }
    }

    /// An interface's whole name, cut at 15 bytes, as no interface has a longer one.
    pub fn interface(name: &str) -> Self {
        let mut bytes = [0; 16];
        for (to, from) in bytes.iter_mut().take(15).zip(name.bytes()) {
            *to = from;
        }
        Self::raw(&bytes)
    }

    /// The beginning of an interface's name.
    pub fn interface_prefix(prefix: &str) -> Self {
        Self::raw(prefix.as_bytes())
    }

    /// One byte.
    pub fn byte(value: u8) -> Self {
        Self::raw(&[value])
    }

    /// A port.
    pub fn port(value: u16) -> Self {
        Self::raw(&value.to_be_bytes())
    }

    /// A word in host order.
    pub fn host_u32(value: u32) -> Self {
        Self::raw(&value.to_ne_bytes())
    }

    /// A key of several parts.
    pub fn join(parts: &[&Self]) -> Self {
        let mut low = SmallVec::new();
        for part in parts {
            low.extend_from_slice(&part.low);
            low.resize(low.len().next_multiple_of(4), 0);
        }
        let high = parts.iter().any(|p| p.high.is_some()).then(|| {
            let mut high = Vec::new();
            for part in parts {
                high.extend_from_slice(part.high.as_deref().unwrap_or(&part.low));
                high.resize(high.len().next_multiple_of(4), 0);
            }
            high.into()
        });
        Self { low, high }
    }

    /// A range, both ends inclusive.
    pub fn range(low: &Self, high: &Self) -> Self {
        Self { low: low.low.clone(), high: Some(high.low.to_vec().into()) }
    }

    /// The value, or the lower end.
    pub fn bytes(&self) -> &[u8] {
        &self.low
    }

    /// The upper end, if it is a range; otherwise the value.
    pub fn upper(&self) -> &[u8] {
        self.high.as_deref().unwrap_or(&self.low)
    }

    /// Whether it is a range.
    pub fn is_range(&self) -> bool {
        self.high.is_some()
    }

    /// Whether a value of the given parts is this one or inside of it.
    pub(super) fn covers(&self, value: &[u8], parts: &[KeyType]) -> bool {
        if self.high.is_none() {
            return self.low[..] == *value;
        }
        let mut at = 0;
        parts.iter().all(|part| {
            let range = at..at + part.len();
            at += if parts.len() == 1 { part.len() } else { part.padded() };
            match (self.low.get(range.clone()), value.get(range.clone()), self.upper().get(range)) {
                (Some(low), Some(value), Some(high)) => low <= value && value <= high,
                _ => false,
            }
        })
    }

    /// A mask of the key's length with `len` leading ones.
    pub(super) fn prefix_mask(&self, len: u8) -> Self {
        let ones = usize::from(len);
        let bytes: SmallVec<[u8; 16]> = (0..self.low.len())
            .map(|i| match ones.saturating_sub(i * 8) {
                0 => 0,
                bits @ 1..8 => !(0xff >> bits),
                _ => 0xff,
            })
            .collect();
        Self { low: bytes, high: None }
    }

    /// The parts as people read them.
    pub fn show(&self, parts: &[KeyType]) -> String {
        let mut out = String::new();
        let mut at = 0;
        for (i, part) in parts.iter().enumerate() {
            if i > 0 {
                out.push_str(" . ");
            }
            let range = at..at + part.len();
            at += if parts.len() == 1 { part.len() } else { part.padded() };
            let low = self.low.get(range.clone()).unwrap_or_default();
            let high = self.upper().get(range).unwrap_or_default();
            out.push_str(&show_part(*part, low));
            // Even a range of one is written as a range where sets insist on ranges; nft takes both.
            if low != high {
                out.push('-');
                out.push_str(&show_part(*part, high));
            }
        }
        out
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.low))?;
        match &self.high {
            Some(high) => write!(f, "-{}", hex::encode(high)),
            None => Ok(()),
        }
    }
}

fn show_part(kind: KeyType, bytes: &[u8]) -> String {
    let number = || u32::from_ne_bytes(bytes.try_into().unwrap_or_default());
    match (kind, bytes) {
        (KeyType::Interface, _) => {
            let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
            format!("\"{}\"", String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()))
        }
        (KeyType::Ipv4, &[a, b, c, d]) => Ipv4Addr::new(a, b, c, d).to_string(),
        (KeyType::Ipv6, _) => match <[u8; 16]>::try_from(bytes) {
            Ok(octets) => Ipv6Addr::from(octets).to_string(),
            Err(_) => hex::encode(bytes),
        },
        (KeyType::Port, &[a, b]) => u16::from_be_bytes([a, b]).to_string(),
        (KeyType::CtDirection, [0]) => "original".into(),
        (KeyType::CtDirection, [1]) => "reply".into(),
        (KeyType::NfProto, [2]) => "ipv4".into(),
        (KeyType::NfProto, [10]) => "ipv6".into(),
        (KeyType::CtState, _) => match number() {
            1 => "invalid".into(),
            2 => "established".into(),
            4 => "related".into(),
            8 => "new".into(),
            64 => "untracked".into(),
            other => other.to_string(),
        },
        (KeyType::CtStatus, _) if number() == 0x08 => "confirmed".into(),
        (KeyType::CtStatus, _) if number() == 0x20 => "dnat".into(),
        (KeyType::FibType, _) if number() == 2 => "local".into(),
        (KeyType::Mark, _) => format!("{:#010x}", number()),
        (_, &[one]) => one.to_string(),
        _ => number().to_string(),
    }
}

/// An element of a set, or of a map with what it maps to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// The key.
    pub key: Key,
    /// The value.
    pub data: Data,
}

/// What an element maps to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Data {
    /// Nothing: the element of a plain set.
    None,
    /// A verdict.
    Verdict(Verdict),
    /// A value.
    Value(Key),
}

impl Data {
    /// The chain it leads to, if any.
    pub fn target(&self) -> Option<&super::Name> {
        match self {
            Self::Verdict(verdict) => verdict.target(),
            _ => None,
        }
    }
}

impl From<Key> for Element {
    fn from(key: Key) -> Self {
        Self { key, data: Data::None }
    }
}
