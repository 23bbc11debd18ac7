//! Everything we know of one attachment: what ADD was asked for and what it made.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::types::{AddResult, Bandwidth, Dns, Interface, IpConfig, Mac, PortMapping, REMOVED_KEY, Route};
use crate::{
    model::{Endpoint, Prefix, gateway6},
    netlink::ns::NetnsId,
};

/// How long the announcement of an address that has moved is made better than others, see [`Attachment::takes_over`].
/// Afterwards it is like all, so that the address can move on.
pub const TAKEOVER: Duration = Duration::from_secs(60);

/// An attachment as ADD made it. Written to disk before the kernel is touched, so nothing in it is learned later.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    /// Name, addresses and labels.
    pub endpoint: Endpoint,
    /// Which namespace `endpoint.netns` was at the time of ADD: a path can be used again by another container.
    pub netns_id: NetnsId,
    /// The host end's interface index.
    pub ifindex: u32,
    /// The container interface's hardware address.
    pub mac: Mac,
    /// The MTU of both ends.
    pub mtu: u32,
    /// The number of the gateway: the IPv4 gateway is 169.254.1.`gateway`. 1 for a container's first network.
    pub gateway: u8,
    /// Routes inside the container; none: the default routes.
    #[serde(default)]
    pub routes: Option<Vec<Route>>,
    /// Name servers for the result.
    #[serde(default)]
    pub dns: Dns,
    /// Kernel settings inside the container.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// Source addresses the container may use besides its own.
    #[serde(default)]
    pub allow_spoofing: Vec<Prefix>,
    /// Whether the container forwards packets.
    #[serde(default)]
    pub forwarding: bool,
    /// Ports of the host that lead into the container.
    #[serde(default)]
    pub port_mappings: Vec<PortMapping>,
    /// Port mappings that another network of the same container serves, as long as it is there.
    #[serde(default)]
    pub spare_mappings: Vec<PortMapping>,
    /// Rate limits.
    #[serde(default)]
    pub bandwidth: Option<Bandwidth>,
    /// Further names of the container.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Addresses that were requested and lie outside this host's blocks: they moved here with their container, and
    /// go back to no block of ours.
    #[serde(default)]
    pub moved: Vec<IpAddr>,
    /// Addresses that it had until another host announced them with a higher number. The container has them still, and
    /// gets them back when nobody else announces them.
    #[serde(default)]
    pub given_up: Vec<IpAddr>,
    /// The least attachment number of addresses that moved here: one more than that of the host they came from, whose
    /// clock may be ahead of ours.
    #[serde(default)]
    pub number: Option<u32>,
    /// Whether the host they came from had taken them over only moments before: the announcement must be better still.
    #[serde(default)]
    pub moved_again: bool,
    /// Whether other hosts may announce the same addresses at the same time.
    #[serde(default)]
    pub anycast: bool,
    /// The plugin that manages the addresses instead of us.
    #[serde(default)]
    pub delegate: Option<String>,
    /// The network's configuration as that plugin had it, so that it can be told of the attachment's end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegate_config: Option<Value>,
    /// Whether its file was lost, and it is known from the kernel alone: its port mappings and so on are not, and perhaps
    /// not its labels, until somebody gives it labels again.
    #[serde(default)]
    pub rebuilt: bool,
    /// Whether the kernel has told its labels, be it that there are none.
    #[serde(default)]
    pub labels_told: bool,
    /// When it was made, in microseconds since 1970, and strictly increasing on this host: names this incarnation of
    /// the attachment, and tells which of two hosts that hold one address is the newer.
    pub sequence: u64,
}

impl Attachment {
    /// The IPv4 gateway inside the container; link-local (RFC 3927), and different for each network of a container.
    pub const fn gateway4(&self) -> Ipv4Addr {
        Ipv4Addr::new(169, 254, 1, self.gateway)
    }

    /// The attachment number to announce an address with: only addresses that moved here have one. It is the time of
    /// the attachment in seconds, or more if it has to be: the newest attachment of an address has the highest.
    pub fn number(&self, addr: IpAddr) -> Option<u32> {
        let moved = self.moved.contains(&addr) && !self.anycast;
        let time = u32::try_from(self.sequence / 1_000_000).unwrap_or(u32::MAX);
        moved.then(|| self.number.map_or(time, |least| least.max(time)))
    }

    /// Whether an address has moved here so recently that its announcement must be the best one everywhere: switches
    /// do not know attachment numbers, and whoever had the address hears of its move by their choice of path only.
    pub fn takes_over(&self, now: SystemTime) -> bool {
        let made = UNIX_EPOCH + Duration::from_micros(self.sequence);
        // Clocks are set back now and then.
        let age = now.duration_since(made).unwrap_or_else(|ahead| ahead.duration());
        let recent = age < TAKEOVER;
        recent && !self.moved.is_empty() && !self.anycast
    }

    /// Every single address of `allow_spoofing`; the configuration has kept the prefixes small.
    pub fn spoofed(&self) -> impl Iterator<Item = IpAddr> + use<'_> {
        self.allow_spoofing.iter().flat_map(|prefix| {
            let count = 1u32 << (prefix.family().bits() - prefix.len()).min(16);
            (0..count).map(|offset| match prefix.addr() {
                IpAddr::V4(first) => IpAddr::V4((first.to_bits() + offset).into()),
                IpAddr::V6(first) => IpAddr::V6((first.to_bits() + u128::from(offset)).into()),
            })
        })
    }

    /// The IPv6 gateway inside the container: the host end's link-local address.
    pub const fn gateway6(&self) -> Ipv6Addr {
        gateway6(self.ifindex)
    }

    /// Whether it was found in the kernel, without a file: then not all of it is known.
    pub const fn is_from_kernel(&self) -> bool {
        self.sequence == 0
    }

    /// Whether nobody knows its labels, which is something else than to have none.
    pub fn lacks_labels(&self) -> bool {
        self.rebuilt && !self.labels_told && self.endpoint.labels.is_empty()
    }

    /// The routes to make inside the container, each with its gateway.
    pub fn container_routes(&self) -> Vec<Route> {
        let default = |addr: IpAddr| Route::new((addr, 0), None);
        let wanted = self.routes.clone().unwrap_or_else(|| {
            vec![default(Ipv4Addr::UNSPECIFIED.into()), default(Ipv6Addr::UNSPECIFIED.into())]
        });
        wanted
            .into_iter()
            .filter_map(|mut route| {
                // Asked for right behind the interface.
                if route.is_near() && route.gw.is_none() {
                    let has = if route.dst.0.is_ipv4() {
                        self.endpoint.ipv4.is_some()
                    } else {
                        self.endpoint.ipv6.is_some()
                    };
                    return has.then_some(route);
                }
                let gateway = if route.dst.0.is_ipv4() {
                    self.endpoint.ipv4.map(|_| IpAddr::V4(self.gateway4()))
                } else {
                    self.endpoint.ipv6.map(|_| IpAddr::V6(self.gateway6()))
                };
                route.gw = Some(route.gw.or(gateway)?);
                Some(route)
            })
            .collect()
    }

    /// Whether the other IPAM plugin that gave its addresses is the one that gave another's, configured alike.
    pub fn has_giver_of(&self, other: &Self) -> bool {
        let ipam = |a: &Self| a.delegate_config.as_ref().and_then(|config| config.get("ipam").cloned());
        self.delegate.is_some() && self.delegate == other.delegate && ipam(self) == ipam(other)
    }

    /// As an entry of what other IPAM plugins are to be told of ([`REMOVED_KEY`]).
    pub fn entry(&self) -> Value {
        let key = &self.endpoint.key;
        json!({"containerID": key.container_id, "ifname": key.ifname, "config": self.delegate_config})
    }

    /// The whole answer to DEL of what is owed for these; nothing if nothing is.
    pub fn owed_answer<'a>(list: impl IntoIterator<Item = &'a Self>) -> Value {
        let mut entries: Vec<Value> = Vec::new();
        for attachment in list.into_iter().filter(|a| a.delegate.is_some()) {
            let entry = attachment.entry();
            if !entries.contains(&entry) {
                entries.push(entry);
            }
        }
        if entries.is_empty() { Value::Null } else { json!({ REMOVED_KEY: entries }) }
    }

    /// The result of ADD.
    pub fn result(&self) -> AddResult {
        let ips = self.endpoint.addresses().map(|addr| IpConfig {
            interface: Some(1),
            address: (addr, if addr.is_ipv4() { 32 } else { 128 }),
            gateway: Some(if addr.is_ipv4() { self.gateway4().into() } else { self.gateway6().into() }),
        });
        AddResult {
            // portmap, bandwidth, podman and containerd look for both ends, and tell them apart by `sandbox`.
            interfaces: vec![
                Interface {
                    name: self.endpoint.id.to_string(),
                    mac: Mac::HOST_END.to_string(),
                    mtu: self.mtu,
                    sandbox: String::new(),
                },
                Interface {
                    name: self.endpoint.key.ifname.clone(),
                    mac: self.mac.to_string(),
                    mtu: self.mtu,
                    sandbox: self.endpoint.netns.clone(),
                },
            ],
            ips: ips.collect(),
            routes: self.container_routes(),
            dns: self.dns.clone(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::{EndpointId, EndpointKey, Labels};

    /// An attachment for tests.
    pub(in crate::cni) fn sample(container: &str, sequence: u64) -> Attachment {
        let key =
            EndpointKey { network: "net".into(), container_id: container.into(), ifname: "eth0".into() };
        Attachment {
            endpoint: Endpoint {
                id: EndpointId::of(&key),
                key,
                netns: "/run/netns/x".into(),
                ipv4: Some(Ipv4Addr::new(10, 32, 4, 7)),
                ipv6: Some("fd00:32::7".parse().unwrap()),
                labels: Labels::try_from([("role", "web")]).unwrap(),
            },
            netns_id: NetnsId { dev: 4, inode: 4_026_531_840 },
            ifindex: 1000,
            mac: "02:00:00:00:00:07".parse().unwrap(),
            mtu: 1500,
            gateway: 1,
            routes: None,
            dns: Dns::default(),
            sysctls: BTreeMap::new(),
            allow_spoofing: Vec::new(),
            forwarding: false,
            port_mappings: Vec::new(),
            spare_mappings: Vec::new(),
            bandwidth: None,
            aliases: Vec::new(),
            moved: Vec::new(),
            given_up: Vec::new(),
            number: None,
            moved_again: false,
            anycast: false,
            delegate: None,
            delegate_config: None,
            rebuilt: false,
            labels_told: false,
            sequence,
        }
    }

    #[test]
    fn routes_follow_the_addresses() {
        let mut attachment = sample("c", 1);
        attachment.gateway = 2;
        let routes = attachment.container_routes();
        assert_eq!(routes[0].gw.unwrap().to_string(), "169.254.1.2");
        assert_eq!(routes[1].gw.unwrap(), IpAddr::V6(attachment.gateway6()));
        let near = |dst: &str| Route { scope: Some(253), ..Route::new((dst.parse().unwrap(), 16), None) };
        attachment.endpoint.ipv6 = None;
        assert_eq!(attachment.container_routes().len(), 1);
        attachment.routes = Some(vec![near("10.3.0.0"), near("fd00::")]);
        assert_eq!(attachment.container_routes(), [near("10.3.0.0")]);
        attachment.routes = Some(vec![]);
        assert!(attachment.container_routes().is_empty());
    }

    #[test]
    fn spoofed_addresses_are_listed() {
        let mut attachment = sample("c", 1);
        attachment.allow_spoofing =
            ["10.9.9.9/32", "255.255.255.254/31", "fd00::fffe/127"].map(|p| p.parse().unwrap()).to_vec();
        let list: Vec<String> = attachment.spoofed().map(|a| a.to_string()).collect();
        assert_eq!(list, ["10.9.9.9", "255.255.255.254", "255.255.255.255", "fd00::fffe", "fd00::ffff"]);
    }

    #[test]
    fn a_move_wins_for_a_while() {
        let mut attachment = sample("c", 1_800_000_000_000_000);
        let addr = IpAddr::V4(attachment.endpoint.ipv4.unwrap());
        let after = |seconds: u64| UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds);
        assert!(attachment.number(addr).is_none() && !attachment.takes_over(after(1)));
        attachment.moved = vec![addr];
        assert_eq!(attachment.number(addr), Some(1_800_000_000));
        attachment.number = Some(1_800_000_009);
        assert_eq!(attachment.number(addr), Some(1_800_000_009));
        assert!(attachment.takes_over(after(59)) && !attachment.takes_over(after(60)));
        attachment.anycast = true;
        assert!(attachment.number(addr).is_none() && !attachment.takes_over(after(1)));
    }

    #[test]
    fn the_file_comes_back() {
        let attachment = sample("c", 1);
        let text = serde_json::to_string(&attachment).unwrap();
        assert_eq!(serde_json::from_str::<Attachment>(&text).unwrap(), attachment);
    }
}
