//! Host ends that somebody has changed: what differs from what ADD made, and how it is put right.
//!
//! Only the host's end. What happens to the container's own end is the runtime's business, which CHECK tells.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::IpAddr,
};

use super::{
    AttachError, Attacher, LIVING, RETIRED, alias,
    inspect::HostEnd,
    message::{StepError, Steps},
    shape::Limit,
};
use crate::{
    cni::{attachment::Attachment, types::Mac},
    model::EndpointId,
    netlink::{
        addr,
        devconf::Ipv6Settings,
        link::{self, Link},
        sysctl,
        watch::KernelEvent,
    },
};

/// `IFF_NOARP` of linux/if.h.
const IFF_NOARP: u32 = libc::IFF_NOARP as u32;

/// One thing about a host end that is not as it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Rules and DEL go by the name.
    Name,
    /// What is ours is known by the group.
    Group,
    /// And by the alias, which says whose it is.
    Alias,
    /// Down.
    Down,
    /// It belongs to a bridge, a bond or a VRF.
    Master,
    /// It does not speak ARP.
    NoArp,
    /// Another MAC address.
    Mac,
    /// Another MTU.
    Mtu,
    /// IPv4 packets of the container are not forwarded.
    Forwarding4,
    /// ARP for the gateway is not answered.
    ProxyArp,
    /// The check of source addresses.
    RpFilter,
    /// Answers to 127.0.0.1 of mapped ports.
    RouteLocalnet,
    /// IPv6 is switched off.
    Ipv6Off,
    /// IPv6 packets of the container are not forwarded.
    Forwarding6,
    /// The host takes routes from the container's router advertisements.
    AcceptRa,
    /// The container's IPv6 gateway.
    GatewayAddress,
    /// The rate limit towards the container.
    RateLimit,
}

impl Difference {
    /// The file below `net/ipv6/conf/IFNAME/` that puts it right, and what to write there.
    pub(super) const fn ipv6_setting(self) -> Option<(&'static str, &'static str)> {
        match self {
            // An address that was configured for the pool says that IPv6 is wanted.
            Self::Ipv6Off => Some(("disable_ipv6", "0")),
            Self::Forwarding6 => Some(("forwarding", "1")),
            Self::AcceptRa => Some(("accept_ra", "0")),
            _ => None,
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "has another name",
            Self::Group => "is in another group",
            Self::Alias => "has another alias",
            Self::Down => "is down",
            Self::Master => "belongs to a bridge, bond or VRF",
            Self::NoArp => "does not speak ARP",
            Self::Mac => "has a changed MAC address",
            Self::Mtu => "has a changed MTU",
            Self::Forwarding4 => "does not forward IPv4",
            Self::ProxyArp => "does not answer ARP (proxy_arp)",
            Self::RpFilter => "has another rp_filter",
            Self::RouteLocalnet => "has another route_localnet",
            Self::Ipv6Off => "has IPv6 switched off",
            Self::Forwarding6 => "does not forward IPv6",
            Self::AcceptRa => "listens to router advertisements (accept_ra)",
            Self::GatewayAddress => "lacks the IPv6 gateway's address",
            Self::RateLimit => "lacks the rate limit",
        })
    }
}

/// What the host has of interfaces and addresses, read at once.
#[derive(Debug, Default)]
pub struct Ends {
    links: HashMap<u32, Link>,
    addresses: HashSet<(u32, IpAddr)>,
}

impl Ends {
    /// The host end of an attachment, whatever it is called by now.
    pub fn of(&self, attachment: &Attachment) -> Option<&Link> {
        self.links.get(&attachment.ifindex).filter(|link| is_end_of(link, attachment))
    }
}

/// Whether a link is an attachment's host end: by the indices of the pair, which nobody else uses.
pub(super) fn is_end_of(link: &Link, attachment: &Attachment) -> bool {
    link.index == attachment.ifindex
        && link.kind.as_deref() == Some("veth")
        && link.peer == attachment.ifindex + 1
}

/// Finds in the kernel's notifications what may have been done to a host end. Cheap and a little too eager: an ADD is
/// told of once, too.
#[derive(Debug, Default)]
pub struct Changes {
    /// What each host end was like when it was heard of last: MTU, name and alias.
    last: HashMap<u32, (u32, String, Option<String>)>,
}

impl Changes {
    /// The index of the interface to look at, if there is one.
    pub fn concerns(&mut self, event: KernelEvent) -> Option<u32> {
        let ours =
            |index: &u32| (super::FIRST_INDEX..=super::LAST_INDEX).contains(index) && index.is_multiple_of(2);
        match event {
            KernelEvent::Link(link) if ours(&link.index) && link.group != RETIRED => {
                let index = link.index;
                let well = link.is_up()
                    && link.flags & IFF_NOARP == 0
                    && (link.master, link.group) == (0, LIVING)
                    && link.address == Mac::HOST_END.octets()
                    && link.ipv4.is_none_or(|ipv4| ipv4.forwarding && ipv4.proxy_arp);
                let now = (link.mtu, link.name, link.alias);
                let same = self.last.get(&index) == Some(&now);
                if !same {
                    self.last.insert(index, now);
                }
                (!well || !same).then_some(index)
            }
            KernelEvent::LinkGone(link) => {
                self.last.remove(&link.index);
                None
            }
            KernelEvent::AddressGone(address) => Some(address.ifindex).filter(ours),
            KernelEvent::Settings(_, index) => Some(index).filter(ours),
            _ => None,
        }
    }
}

/// `rp_filter` of a host end. Strict: a source address is accepted only where its route leads. Loose (2 outranks a 1 of
/// `all`) where the container may use others; the policy checks those.
pub(super) const fn rp_filter(attachment: &Attachment) -> u32 {
    if attachment.allow_spoofing.is_empty() { 1 } else { 2 }
}

fn differences(attachment: &Attachment, link: &Link, has_gateway: bool) -> Vec<Difference> {
    let ipv6 = attachment.endpoint.ipv6.is_some();
    let alias_is_right = link.alias.as_deref().is_some_and(|is| alias::is_of(is, attachment));
    let mut list = vec![
        (Difference::Name, link.name != attachment.endpoint.id.as_str()),
        (Difference::Group, link.group != LIVING),
        (Difference::Alias, !alias_is_right),
        (Difference::Down, !link.is_up()),
        (Difference::Master, link.master != 0),
        (Difference::NoArp, link.flags & IFF_NOARP != 0),
        (Difference::Mac, link.address != Mac::HOST_END.octets()),
        (Difference::Mtu, link.mtu != attachment.mtu),
        (Difference::GatewayAddress, ipv6 && !has_gateway),
    ];
    if let Some(ipv4) = link.ipv4 {
        let localnet = !attachment.port_mappings.is_empty();
        // Of others it is not known what they may use and where they are mapped to.
        let known = !attachment.is_from_kernel();
        list.extend([
            (Difference::Forwarding4, !ipv4.forwarding && host_forwards("net/ipv4/ip_forward")),
            (Difference::ProxyArp, !ipv4.proxy_arp),
            (Difference::RpFilter, known && ipv4.rp_filter != rp_filter(attachment)),
            (Difference::RouteLocalnet, known && ipv4.route_localnet != localnet),
        ]);
    }
    if let Some(settings) = link.ipv6 {
        list.extend(ipv6_differences(attachment, settings).into_iter().map(|difference| (difference, true)));
    }
    list.into_iter().filter_map(|(difference, is)| is.then_some(difference)).collect()
}

/// Where somebody has switched it off for the whole host, which `status` tells, it is not for us to do it for our interfaces.
fn host_forwards(setting: &str) -> bool {
    !sysctl::read(setting).is_ok_and(|value| value != "1")
}

/// What of a host end's IPv6 settings is not as it should be.
pub(super) fn ipv6_differences(attachment: &Attachment, settings: Ipv6Settings) -> Vec<Difference> {
    let ipv6 = attachment.endpoint.ipv6.is_some();
    let forwards = settings.forwarding || !host_forwards("net/ipv6/conf/all/forwarding");
    let list = [
        (Difference::Ipv6Off, ipv6 && settings.off),
        (Difference::Forwarding6, ipv6 && !forwards),
        // 1 means nothing where packets are forwarded.
        (Difference::AcceptRa, settings.accept_ra > 1),
    ];
    list.into_iter().filter_map(|(difference, is)| is.then_some(difference)).collect()
}

impl Attacher {
    /// Reads all interfaces and addresses of the host.
    pub fn ends(&mut self) -> Result<Ends, AttachError> {
        let step = |what| move |source| StepError { what, source };
        let links = link::list(&mut self.socket).map_err(step("list links"))?;
        let addresses = addr::list(&mut self.socket).map_err(step("list addresses"))?;
        Ok(Ends {
            links: links.into_iter().map(|link| (link.index, link)).collect(),
            addresses: addresses.into_iter().map(|a| (a.ifindex, a.addr)).collect(),
        })
    }

    /// The host end of an attachment, whatever it is called by now.
    pub fn end_of(&mut self, attachment: &Attachment) -> Result<Option<HostEnd>, AttachError> {
        match link::by_index(&mut self.socket, attachment.ifindex) {
            Ok(link) => {
                Ok(is_end_of(&link, attachment).then(|| HostEnd::known(attachment.endpoint.id.clone(), link)))
            }
            Err(error) if error.is_missing() => Ok(None),
            Err(source) => Err(StepError { what: "read the host end", source }.into()),
        }
    }

    /// What of a living endpoint's host end is not as it was made. Nothing of one that is gone or retired.
    pub fn end_differences(&mut self, attachment: &Attachment, ends: &Ends) -> Vec<Difference> {
        let Some(link) = ends.of(attachment).filter(|link| link.group != RETIRED) else {
            return Vec::new();
        };
        let gateway = (attachment.ifindex, IpAddr::V6(attachment.gateway6()));
        self.differences(attachment, link, ends.addresses.contains(&gateway))
    }

    /// The same of one that was read just now.
    pub(super) fn differences_of(
        &mut self,
        attachment: &Attachment,
        link: &Link,
    ) -> Result<Vec<Difference>, AttachError> {
        // Cheaper than to list all addresses of the host.
        let has_gateway = attachment.endpoint.ipv6.is_none()
            || addr::has(&mut self.socket, link.index, attachment.gateway6())
                .map_err(|source| StepError { what: "look for the gateway's address", source })?;
        Ok(self.differences(attachment, link, has_gateway))
    }

    fn differences(&mut self, attachment: &Attachment, link: &Link, has_gateway: bool) -> Vec<Difference> {
        let mut list = differences(attachment, link, has_gateway);
        let limit = Limit::towards(attachment);
        if limit.is_some_and(|limit| !limit.is_in_force(&mut self.socket, attachment.ifindex)) {
            list.push(Difference::RateLimit);
        }
        list
    }

    /// What of one endpoint's host end is not as it was made.
    pub fn differences_now(&mut self, attachment: &Attachment) -> Result<Vec<Difference>, AttachError> {
        match self.end_of(attachment)? {
            Some(end) if !end.retired => self.differences_of(attachment, &end.link),
            _ => Ok(Vec::new()),
        }
    }

    /// Puts right what [`Self::end_differences`] has found, and the host's routes to the container, which go when a link
    /// is down.
    pub fn mend_end(
        &mut self,
        attachment: &Attachment,
        differences: &[Difference],
    ) -> Result<(), AttachError> {
        let has = |difference| differences.contains(&difference);
        let (index, id) = (attachment.ifindex, &attachment.endpoint.id);
        let claim = [Difference::Group, Difference::Master, Difference::NoArp];
        if claim.into_iter().any(has) {
            let mut steps = Steps::default();
            steps.claim(index, LIVING, has(Difference::Master), IFF_NOARP);
            steps.execute(&mut self.socket)?;
        }
        if has(Difference::Name) {
            self.rename_end(index, id)?;
        }
        self.repair_host_side(attachment)
    }

    fn rename_end(&mut self, index: u32, id: &EndpointId) -> Result<(), StepError> {
        let mut rename = |down: bool| {
            let mut steps = Steps::default();
            steps.rename(index, id.as_str(), down);
            steps.execute(&mut self.socket)
        };
        match rename(false) {
            // Before Linux 6.2 only a link that is down gets another name.
            Err(error) if error.source.errno() == Some(libc::EBUSY) => rename(true),
            other => other,
        }
    }

    /// [`Attacher::detach`] of an attachment whose host end may have another name by now.
    pub fn detach_end(&mut self, attachment: &Attachment) -> Result<(), AttachError> {
        let mut found = super::retire(&mut self.socket, &attachment.endpoint.id)?;
        if !found && let Some(end) = self.end_of(attachment)? {
            found = super::retire(&mut self.socket, &EndpointId(end.link.name))?;
        }
        if found {
            self.reaper.notify();
        }
        Ok(())
    }
}
