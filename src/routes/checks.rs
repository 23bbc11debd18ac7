//! What a learned route may never do: martians, and prefixes that would take traffic meant for the host, its
//! containers or its own next hops.

use std::net::IpAddr;

use serde::Serialize;

use crate::model::Prefix;

/// Why a wanted route is not in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Reason {
    /// The prefix is never routed: loopback, link-local, multicast, reserved.
    Martian = 1,
    /// The prefix is the address of a container on this host.
    LocalEndpoint,
    /// The prefix is an address of this host.
    HostAddress,
    /// The prefix is one of this host's own address blocks, or a part of one that is no single address.
    OwnBlock,
    /// The route would take over the way to its own next hop, or to another next hop or neighbour that is directly
    /// connected.
    CoversNextHop,
    /// An IPv6 route cannot have an IPv4 gateway.
    Family,
    /// The limit of routes is reached.
    OverLimit,
    /// No next hop can be reached now.
    Unresolved,
    /// A route of somebody else has the same prefix, table and metric.
    Conflict,
    /// The kernel refused it; it will be tried again.
    Refused,
}

impl Reason {
    const ALL: [Self; 10] = [
        Self::Martian,
        Self::LocalEndpoint,
        Self::HostAddress,
        Self::OwnBlock,
        Self::CoversNextHop,
        Self::Family,
        Self::OverLimit,
        Self::Unresolved,
        Self::Conflict,
        Self::Refused,
    ];

    /// The reason in a route's compact form; 0 is none.
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|r| *r as u8 == byte)
    }

    /// Whether the route is refused for what it is, rather than kept out for the time being.
    pub const fn is_rejection(self) -> bool {
        matches!(
            self,
            Self::Martian
                | Self::LocalEndpoint
                | Self::HostAddress
                | Self::OwnBlock
                | Self::CoversNextHop
                | Self::Family
                | Self::OverLimit
        )
    }

    /// The reason in words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Martian => "the prefix is never routed (loopback, link-local, multicast or reserved)",
            Self::LocalEndpoint => "the prefix is the address of a container on this host",
            Self::HostAddress => "the prefix is an address of this host",
            Self::OwnBlock => "the prefix is one of this host's own address blocks, or part of one",
            Self::CoversNextHop => "the route would take over the way to a next hop",
            Self::Family => "an IPv6 route cannot have an IPv4 gateway",
            Self::OverLimit => "the limit of routes (max_routes) is reached",
            Self::Unresolved => "no next hop can be reached",
            Self::Conflict => "a route of somebody else has the same prefix and metric",
            Self::Refused => "the kernel refused the route",
        }
    }
}

/// Whether no router may carry this prefix (RFC 6890 and its registries). Default routes are fine.
pub(super) fn is_martian(prefix: Prefix) -> bool {
    if prefix.is_default() {
        return false;
    }
    let len = prefix.len();
    match prefix.addr() {
        IpAddr::V4(a) => {
            let [first, second, ..] = a.octets();
            // This network, loopback, link-local, multicast and reserved; and whatever is so wide that it covers
            // them all without being a default route is left alone: more specific routes protect the host.
            (len >= 8 && (first == 0 || first == 127))
                || (len >= 16 && first == 169 && second == 254)
                || (len >= 3 && first >= 224)
        }
        IpAddr::V6(a) => {
            let bits = a.to_bits();
            let within = |net: u128, net_len: u8| len >= net_len && (bits ^ net) >> (128 - net_len) == 0;
            // ::/96 (unspecified, loopback, IPv4-compatible), ::ffff:0:0/96 (IPv4-mapped), link-local, multicast.
            within(0, 96) || within(0xffff << 32, 96) || within(0xfe80 << 112, 10) || within(0xff << 120, 8)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn martians() {
        for text in [
            "127.0.0.0/8",
            "127.0.0.1/32",
            "0.0.0.0/8",
            "0.1.2.3/32",
            "169.254.0.0/16",
            "169.254.1.1/32",
            "224.0.0.0/4",
            "239.1.1.1/32",
            "240.0.0.0/4",
            "255.255.255.255/32",
            "::/128",
            "::1/128",
            "::ffff:10.0.0.0/104",
            "fe80::/10",
            "fe80::1/128",
            "ff02::/16",
        ] {
            assert!(is_martian(text.parse().unwrap()), "{text}");
        }
        for text in [
            "0.0.0.0/0",
            "0.0.0.0/1",
            "128.0.0.0/1",
            "10.0.0.0/8",
            "169.253.0.0/16",
            "223.255.255.0/24",
            "::/0",
            "2000::/3",
            "fd00::/8",
            "64:ff9b::/96",
            "fec0::/10",
        ] {
            assert!(!is_martian(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn reasons_survive_their_byte() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_byte(reason as u8), Some(reason));
        }
        assert_eq!(Reason::from_byte(0), None);
        assert_eq!(Reason::from_byte(200), None);
    }
}
