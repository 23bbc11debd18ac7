//! Prefixes that are never routed: the one rule for BGP, the kernel's routes and the pools of a configuration.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Ipv4Prefix, Ipv6Prefix, Prefix};

/// "This network", loopback, link-local; multicast and reserved (240.0.0.0/4 with the limited broadcast) together. RFC
/// 6890 section 2.2.2: none of them may be forwarded. Private and documentation addresses may.
const V4: [Ipv4Prefix; 4] = [
    Ipv4Prefix::new(Ipv4Addr::UNSPECIFIED, 8),
    Ipv4Prefix::new(Ipv4Addr::new(127, 0, 0, 0), 8),
    Ipv4Prefix::new(Ipv4Addr::new(169, 254, 0, 0), 16),
    Ipv4Prefix::new(Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// Unspecified, loopback and IPv4-compatible; IPv4-mapped; link-local; multicast. RFC 6890 section 2.2.3.
const V6: [Ipv6Prefix; 4] = [
    Ipv6Prefix::new(Ipv6Addr::UNSPECIFIED, 96),
    Ipv6Prefix::new(Ipv6Addr::new(0, 0, 0, 0, 0, 0xFFFF, 0, 0), 96),
    Ipv6Prefix::new(Ipv6Addr::new(0xFE80, 0, 0, 0, 0, 0, 0, 0), 10),
    Ipv6Prefix::new(Ipv6Addr::new(0xFF00, 0, 0, 0, 0, 0, 0, 0), 8),
];

impl Prefix {
    /// Whether no router may carry this prefix. Default routes are fine, and so is whatever is wide enough to cover more
    /// than what is forbidden: more specific routes protect the host.
    pub fn is_martian(self) -> bool {
        match self {
            Self::V4(prefix) => V4.iter().any(|martian| martian.covers(prefix)),
            Self::V6(prefix) => V6.iter().any(|martian| martian.covers(prefix)),
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
            "224.0.0.0/3",
            "224.0.0.0/4",
            "239.1.1.1/32",
            "240.0.0.0/4",
            "240.0.0.1/32",
            "255.255.255.255/32",
            "::/128",
            "::1/128",
            "::10.0.0.1/128",
            "::ffff:10.0.0.0/104",
            "fe80::/10",
            "fe80::1/128",
            "ff02::/16",
        ] {
            assert!(text.parse::<Prefix>().unwrap().is_martian(), "{text}");
        }
        for text in [
            "0.0.0.0/0",
            "0.0.0.0/1",
            "0.0.0.0/7",
            "128.0.0.0/1",
            "192.0.0.0/2",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "169.253.0.0/16",
            "169.254.0.0/15",
            "198.18.0.0/15",
            "223.255.255.0/24",
            "::/0",
            "::/95",
            "2000::/3",
            "fd00::/8",
            "64:ff9b::/96",
            "fe00::/9",
            "fec0::/10",
        ] {
            assert!(!text.parse::<Prefix>().unwrap().is_martian(), "{text}");
        }
    }
}
