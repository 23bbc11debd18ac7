//! A container's attachment to the network.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

use super::Labels;

/// What names an attachment in the CNI specification: network, container and interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EndpointKey {
    /// The network's name (`name` of the network configuration).
    pub network: String,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`, the interface's name inside the container.
    pub ifname: String,
}

impl fmt::Display for EndpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.network, self.container_id, self.ifname)
    }
}

/// The host end's interface name, `s32` and eleven hexadecimal digits; unique on the host, so it serves as the
/// endpoint's short identifier in tables, logs and nftables maps.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EndpointId(pub String);

impl EndpointId {
    /// The prefix of every host-end interface of ours.
    pub const PREFIX: &str = "s32";

    /// The identifier that belongs to a key: the same key has the same name across restarts (IFNAMSIZ is 16).
    pub fn of(key: &EndpointKey) -> Self {
        use sha2::{Digest, Sha256};
        let mut sha = Sha256::new();
        for part in [&key.network, &key.container_id, &key.ifname] {
            sha.update(part.as_bytes());
            sha.update([0]);
        }
        let digest = sha.finalize();
        let number = digest.iter().take(8).fold(0u64, |n, byte| n << 8 | u64::from(*byte));
        // Eleven hexadecimal digits: the first 44 bits.
        Self(format!("{}{:011x}", Self::PREFIX, number >> 20))
    }

    /// The interface name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The IPv6 gateway of a container: a link-local address (RFC 4291 section 2.5.6) that its host end alone has, made of
/// that interface's index. Not the same on every link: the kernel would keep all of them, and their routes, in one list,
/// and look through it for each new container.
pub const fn gateway6(host_end: u32) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, (host_end >> 16) as u16, host_end as u16)
}

/// A local endpoint: an attached container interface with its addresses and labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// What the runtime calls it.
    pub key: EndpointKey,
    /// The host end's interface name.
    pub id: EndpointId,
    /// The container's namespace as the runtime gave it.
    pub netns: String,
    /// The container's IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// The container's IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// The labels that policies select on.
    #[serde(default)]
    pub labels: Labels,
}

impl Endpoint {
    /// The addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.ipv4.map(IpAddr::V4).into_iter().chain(self.ipv6.map(IpAddr::V6))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_differ_by_every_part() {
        let key = |n: &str, c: &str, i: &str| EndpointKey {
            network: n.into(),
            container_id: c.into(),
            ifname: i.into(),
        };
        let id = EndpointId::of(&key("net", "c1", "eth0"));
        assert_eq!(id.as_str().len(), 14);
        assert!(id.as_str().starts_with(EndpointId::PREFIX));
        for other in [
            key("net2", "c1", "eth0"),
            key("net", "c2", "eth0"),
            key("net", "c1", "net1"),
            key("netc", "1", "eth0"),
        ] {
            assert_ne!(EndpointId::of(&other), id);
        }
    }
}
