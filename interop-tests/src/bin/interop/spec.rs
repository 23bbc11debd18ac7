//! What a router is to do, in words that fit every router. Each [`Flavor`](crate::flavors::Flavor) writes its own
//! configuration from it, or says what it cannot do.

use std::fmt;

/// A router's whole job.
#[derive(Clone, Debug, Default)]
pub(crate) struct RouterSpec {
    pub(crate) asn: u32,
    /// In IPv4 form.
    pub(crate) router_id: String,
    pub(crate) neighbors: Vec<Neighbor>,
    /// Its own addresses on the hosts' Ethernet segment, where it is on one.
    pub(crate) addresses: Vec<String>,
    /// Prefixes it announces as its own: addresses of its loopback interface.
    pub(crate) networks: Vec<String>,
    /// What it announces of others' prefixes, where it passes nothing on by itself.
    pub(crate) foreign: Vec<Foreign>,
    /// Further announcements, in the router's own words: for ExaBGP, which sends what is written.
    pub(crate) odd: Vec<String>,
    /// Standard communities on its own prefixes, `AS:VALUE`.
    pub(crate) network_communities: Vec<String>,
    /// Link bandwidth (extended community) on them, bytes a second.
    pub(crate) link_bandwidth: Option<f32>,
    /// Many routes from a file's worth of static ones: 500,000 of 20.0.0.0/8 and on.
    pub(crate) multipath: bool,
    /// Graceful restart of its own, seconds.
    pub(crate) graceful_restart: Option<u32>,
    /// Long-lived stale time, seconds (RFC 9494).
    pub(crate) long_lived: Option<u32>,
}

impl RouterSpec {
    /// Its address of that family on the segment.
    pub(crate) fn address(&self, family: Family) -> Option<String> {
        self.addresses.iter().find(|address| Family::of(address) == family).cloned()
    }
}

/// A neighbour's prefix that a router announces to its other neighbours, with that one's address as the next hop.
#[derive(Clone, Debug)]
pub(crate) struct Foreign {
    pub(crate) prefix: String,
    pub(crate) next_hop: String,
    /// What the names of that neighbour's sessions begin with.
    pub(crate) owner: String,
}

/// A neighbour of a router.
#[derive(Clone, Debug)]
pub(crate) struct Neighbor {
    /// A word, no two alike.
    pub(crate) name: String,
    pub(crate) remote: Remote,
    /// The router's own address of the session.
    pub(crate) local: String,
    pub(crate) asn: u32,
    pub(crate) four: bool,
    pub(crate) six: bool,
    pub(crate) passive: bool,
    pub(crate) password: Option<String>,
    /// RFC 5082.
    pub(crate) ttl_security: bool,
    /// Hold time and keepalive interval, seconds.
    pub(crate) timers: Option<(u16, u16)>,
    /// Interval in milliseconds and multiplier.
    pub(crate) bfd: Option<(u32, u8)>,
    /// Without it the router is an old speaker (RFC 6793).
    pub(crate) four_octet_as: bool,
    pub(crate) add_path: AddPath,
    pub(crate) reflector_client: bool,
    /// Ends the session at more than so many.
    pub(crate) max_prefixes: Option<u32>,
    /// The router presents itself as next hop (iBGP).
    pub(crate) next_hop_self: bool,
    /// The limit comes with a restart after so many seconds, where the router can.
    pub(crate) enhanced_refresh: bool,
}

/// How a neighbour is told from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Remote {
    Address(String),
    /// Whoever calls from there.
    Range(String),
    /// Whoever is on that link (unnumbered).
    Interface(String),
}

/// RFC 7911, as the router does it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum AddPath {
    #[default]
    Off,
    Send,
    Receive,
}

impl Neighbor {
    pub(crate) fn new(name: &str, remote: Remote, local: &str, asn: u32) -> Self {
        Self {
            name: name.to_owned(),
            remote,
            local: local.to_owned(),
            asn,
            four: true,
            six: true,
            passive: false,
            password: None,
            ttl_security: false,
            timers: None,
            bfd: None,
            four_octet_as: true,
            add_path: AddPath::Off,
            reflector_client: false,
            max_prefixes: None,
            next_hop_self: false,
            enhanced_refresh: false,
        }
    }

    /// Its families as IPv4 and IPv6.
    pub(crate) fn families(&self) -> impl Iterator<Item = Family> {
        [(Family::Four, self.four), (Family::Six, self.six)]
            .into_iter()
            .filter_map(|(family, on)| on.then_some(family))
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Four,
    Six,
}

impl Family {
    pub(crate) const BOTH: [Self; 2] = [Self::Four, Self::Six];

    pub(crate) fn of(text: &str) -> Self {
        if text.contains(':') { Self::Six } else { Self::Four }
    }

    /// `ipv4` or `ipv6`.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Four => "ipv4",
            Self::Six => "ipv6",
        }
    }
}

/// The router cannot do what a case needs. Not a failure: it is in the table with its reason.
#[derive(Debug)]
pub(crate) struct Unsupported(pub(crate) String);

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unsupported: {}", self.0)
    }
}

impl std::error::Error for Unsupported {}

/// An error that marks the case as unsupported by the router.
pub(crate) fn unsupported<T>(why: impl Into<String>) -> anyhow::Result<T> {
    Err(anyhow::Error::new(Unsupported(why.into())))
}
