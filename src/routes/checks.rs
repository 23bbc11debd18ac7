//! Why a learned route is kept out: martians ([`Prefix::is_martian`](crate::model::Prefix::is_martian)), and prefixes
//! that would take traffic meant for the host, its containers or its own next hops, among them.

use serde::Serialize;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_survive_their_byte() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_byte(reason as u8), Some(reason));
        }
        assert_eq!(Reason::from_byte(0), None);
        assert_eq!(Reason::from_byte(200), None);
    }
}
