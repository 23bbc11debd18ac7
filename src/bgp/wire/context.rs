//! What a session has negotiated, as far as the codec must know it.

use std::ops::{Index, IndexMut};

use crate::model::Family;

/// The most octets a message may have (RFC 4271 section 4.1).
pub const MAX_MESSAGE: usize = 4096;
/// The most octets a message may have with the extended message capability (RFC 8654).
pub const MAX_EXTENDED_MESSAGE: usize = 65535;

/// One value for each address family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PerFamily<T> {
    /// For IPv4 unicast.
    pub ipv4: T,
    /// For IPv6 unicast.
    pub ipv6: T,
}

impl<T: Copy> PerFamily<T> {
    /// The same value for both.
    pub const fn both(value: T) -> Self {
        Self { ipv4: value, ipv6: value }
    }
}

impl<T> Index<Family> for PerFamily<T> {
    type Output = T;
    fn index(&self, family: Family) -> &T {
        match family {
            Family::Ipv4 => &self.ipv4,
            Family::Ipv6 => &self.ipv6,
        }
    }
}

impl<T> IndexMut<Family> for PerFamily<T> {
    fn index_mut(&mut self, family: Family) -> &mut T {
        match family {
            Family::Ipv4 => &mut self.ipv4,
            Family::Ipv6 => &mut self.ipv6,
        }
    }
}

/// On which side of our AS's border the peer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PeerKind {
    /// Another AS: eBGP.
    #[default]
    External,
    /// Our AS: iBGP.
    Internal,
}

/// How to read what a peer sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DecodeContext {
    /// eBGP or iBGP.
    pub peer: PeerKind,
    /// AS numbers have four octets: both sides sent the capability (RFC 6793).
    pub four_octet: bool,
    /// The negotiated families. Prefixes of others are ignored, with an error of [`super::Action::Discard`].
    pub families: PerFamily<bool>,
    /// Prefixes carry path identifiers: we receive and the peer sends (RFC 7911).
    pub add_path: PerFamily<bool>,
    /// IPv4 prefixes may have IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// UPDATE, NOTIFICATION and ROUTE-REFRESH may have up to 65,535 octets (RFC 8654).
    pub extended_message: bool,
}

impl Default for DecodeContext {
    /// An external peer with four-octet AS numbers, both families, no path identifiers, RFC 8950 next hops, and
    /// messages of at most 4096 octets.
    fn default() -> Self {
        Self {
            peer: PeerKind::External,
            four_octet: true,
            families: PerFamily::both(true),
            add_path: PerFamily::both(false),
            extended_next_hop: true,
            extended_message: false,
        }
    }
}

/// How to write what a peer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EncodeContext {
    /// AS numbers have four octets; otherwise AS_TRANS and AS4_PATH are used (RFC 6793).
    pub four_octet: bool,
    /// Prefixes carry path identifiers: we send and the peer receives (RFC 7911).
    pub add_path: PerFamily<bool>,
    /// The most octets an UPDATE may have: [`MAX_MESSAGE`] or [`MAX_EXTENDED_MESSAGE`].
    pub max_message: usize,
}

impl Default for EncodeContext {
    /// Four-octet AS numbers, no path identifiers, messages of at most 4096 octets.
    fn default() -> Self {
        Self { four_octet: true, add_path: PerFamily::both(false), max_message: MAX_MESSAGE }
    }
}
