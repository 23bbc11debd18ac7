//! Reading back what is in the kernel.

use std::{
    collections::{HashMap, HashSet},
    fmt, io,
    net::IpAddr,
};

use super::{
    ALIAS_PREFIX, AttachConfig, AttachError, Attacher, RETIRED,
    mend::{Difference, is_end_of},
    message::{StepError, Steps, TABLE_LOCAL},
    shape::Limit,
};
use crate::{
    cni::{attachment::Attachment, fault, types::Mac},
    model::{EndpointId, Family, Prefix},
    netlink::{
        Error, Socket, addr,
        link::{self, Link},
        ns::Netns,
        route::{self, RouteKind},
    },
};

/// A host end in the kernel.
#[derive(Clone, Debug)]
pub struct HostEnd {
    /// Whose it is, by its name.
    pub id: EndpointId,
    /// The link.
    pub link: Link,
    /// Whether it waits for its deletion.
    pub retired: bool,
}

/// A difference between an attachment and the kernel, for CHECK and `slash32 ipam check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The container's namespace is gone, or its path leads to another.
    Namespace(String),
    /// The host end is missing, retired, or not up.
    HostEnd(String),
    /// The host's route to an address is missing.
    HostRoute(IpAddr),
    /// The container's interface is missing or not as it was made.
    Interface(String),
    /// The container's interface lacks an address.
    Address(IpAddr),
    /// The container lacks a route.
    Route(Prefix),
    /// A rate limit is gone or another.
    RateLimit(String),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(what) | Self::HostEnd(what) | Self::Interface(what) | Self::RateLimit(what) => {
                f.write_str(what)
            }
            Self::HostRoute(addr) => write!(f, "the host has no route to {addr} on its interface"),
            Self::Address(addr) => write!(f, "the container's interface does not have the address {addr}"),
            Self::Route(prefix) => write!(f, "the container's route to {prefix} is gone or leads elsewhere"),
        }
    }
}

/// The host end of an endpoint. A link that only happens to have the name is none.
pub(super) fn find(socket: &mut Socket, id: &EndpointId) -> Result<Option<HostEnd>, StepError> {
    match link::by_name(socket, id.as_str()) {
        Ok(link) => Ok(HostEnd::of(link)),
        Err(error) if error.is_missing() => Ok(None),
        Err(source) => Err(StepError { what: "read the host end", source }),
    }
}

/// Whether an interface index belongs to a link other than the host end of `id`.
pub(super) fn has_index(socket: &mut Socket, index: u32, id: &EndpointId) -> Result<bool, StepError> {
    let links = link::list(socket).map_err(|source| StepError { what: "list links", source })?;
    Ok(links.iter().any(|l| l.index == index && l.name != id.as_str()))
}

impl HostEnd {
    /// Ours by its name, kind and group or alias. (The alias comes a moment after the group.)
    fn of(link: Link) -> Option<Self> {
        let ours = link.name.starts_with(EndpointId::PREFIX)
            && link.kind.as_deref() == Some("veth")
            && (link.group == super::LIVING
                || link.group == RETIRED
                || link.alias.as_deref().is_some_and(|a| a.starts_with(ALIAS_PREFIX)));
        ours.then(|| Self::known(EndpointId(link.name.clone()), link))
    }

    /// A link that is known to be the host end of `id`.
    pub(super) const fn known(id: EndpointId, link: Link) -> Self {
        Self { id, retired: link.group == RETIRED, link }
    }
}

impl Attacher {
    /// All host ends of ours, by what they look like.
    pub fn list_ours(&mut self) -> Result<Vec<HostEnd>, AttachError> {
        self.list_ours_and(&[])
    }

    /// The same, with those of these attachments whatever somebody has made of them.
    pub fn list_ours_and<'a>(
        &mut self,
        known: impl IntoIterator<Item = &'a Attachment>,
    ) -> Result<Vec<HostEnd>, AttachError> {
        if fault::fails("list-links") {
            let source = Error::Os { call: "netlink", source: io::ErrorKind::Interrupted.into() };
            return Err(StepError { what: "list links", source }.into());
        }
        let links =
            link::list(&mut self.socket).map_err(|source| StepError { what: "list links", source })?;
        let known: HashMap<u32, &Attachment> = known.into_iter().map(|a| (a.ifindex, a)).collect();
        let end = |link: Link| match known.get(&link.index) {
            Some(attachment) if is_end_of(&link, attachment) => {
                Some(HostEnd::known(attachment.endpoint.id.clone(), link))
            }
            _ => HostEnd::of(link),
        };
        Ok(links.into_iter().filter_map(end).collect())
    }

    /// The addresses that the host's routes lead to through its own host ends, by interface index.
    pub fn host_routes(&mut self) -> Result<Vec<(u32, IpAddr)>, AttachError> {
        let routes = self.device_routes()?;
        Ok(routes.into_iter().map(|(index, key)| (index, key.prefix.addr())).collect())
    }

    /// The routes of ours to single addresses right on an interface, with the interface's index.
    pub fn device_routes(&mut self) -> Result<Vec<(u32, route::Key)>, AttachError> {
        let AttachConfig { table, protocol, .. } = self.config;
        let filter = route::Filter { table: Some(table), protocol: Some(protocol) };
        let mut found = Vec::new();
        for family in Family::ALL {
            let visited = route::visit(&mut self.socket, family, filter, |route| {
                if route.is_on_link() && route.prefix.is_host() {
                    let key = route::Key { prefix: route.prefix, table, protocol, metric: route.metric };
                    found.extend(route.hops.iter().map(|hop| (hop.ifindex, key)));
                }
            });
            visited.map_err(|source| StepError { what: "list routes", source })?;
        }
        Ok(found)
    }

    /// Removes routes that [`Self::device_routes`] has found.
    pub fn drop_device_routes(&mut self, routes: &[(u32, route::Key)]) -> Result<(), AttachError> {
        let mut steps = Steps::default();
        for (index, key) in routes {
            steps.remove_device_route(key, *index);
        }
        match steps.errors(&mut self.socket)?.into_iter().find(|error| !error.source.is_missing()) {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// Removes host routes of ours to containers that have another metric than the configured one: from before it was
    /// changed.
    pub fn drop_other_metrics(&mut self) -> Result<(), AttachError> {
        let ends: HashSet<u32> = self.list_ours()?.into_iter().map(|end| end.link.index).collect();
        let mut routes = self.device_routes()?;
        routes.retain(|(index, key)| ends.contains(index) && key.metric != self.config.metric);
        self.drop_device_routes(&routes)
    }

    /// Whether an attachment's host end is there and not retired, at the cost of one question to the kernel. One that
    /// somebody has set down or renamed is: it is going to be put right.
    pub fn is_alive(&mut self, attachment: &Attachment) -> Result<bool, AttachError> {
        Ok(self.end_of(attachment)?.is_some_and(|end| !end.retired))
    }

    /// Compares an attachment with the kernel. Addresses and routes that others added do not matter.
    pub fn check(&mut self, attachment: &Attachment) -> Result<Vec<Finding>, AttachError> {
        self.check_against(attachment, None)
    }

    /// The same with the container's MAC address: `mac` is the one it must have, which a plugin chained behind us may
    /// have been told to change (`tuning`).
    pub fn check_against(
        &mut self,
        attachment: &Attachment,
        mac: Option<Mac>,
    ) -> Result<Vec<Finding>, AttachError> {
        let mut findings = Vec::new();
        self.check_host(attachment, &mut findings)?;
        let path = &attachment.endpoint.netns;
        // Of what is known from the kernel alone, after the files were lost, nobody has told where its namespace is.
        if path.is_empty() {
            return Ok(findings);
        }
        match self.open(path) {
            Ok(ns) if ns.id() == attachment.netns_id => {
                self.check_container(attachment, &ns, mac, &mut findings)?;
            }
            Ok(_) => findings.push(Finding::Namespace(format!("{path} is another namespace than at ADD"))),
            Err(error) => findings.push(Finding::Namespace(error.to_string())),
        }
        Ok(findings)
    }

    fn check_host(
        &mut self,
        attachment: &Attachment,
        findings: &mut Vec<Finding>,
    ) -> Result<(), AttachError> {
        let id = &attachment.endpoint.id;
        let wrong = |what: &dyn fmt::Display| Finding::HostEnd(format!("the host end {id} {what}"));
        match self.end_of(attachment)? {
            None => findings.push(wrong(&"is missing")),
            Some(end) if end.retired => findings.push(wrong(&"has been retired")),
            Some(end) => {
                let differences = self.differences_of(attachment, &end.link)?;
                findings.extend(differences.iter().map(|difference| match difference {
                    Difference::RateLimit => {
                        Finding::RateLimit("the rate limit towards the container is not in force".into())
                    }
                    other => wrong(other),
                }));
            }
        }
        // The kernel can only be asked what its rules lead to, and those lead to the main table.
        let addresses = attachment.endpoint.addresses().filter(|_| self.config.table == route::TABLE_MAIN);
        for addr in addresses.collect::<Vec<_>>() {
            let via = super::uplink::device_towards(&mut self.socket, addr);
            if !matches!(via, Ok(Some(index)) if index == attachment.ifindex) {
                findings.push(Finding::HostRoute(addr));
            }
        }
        Ok(())
    }

    fn check_container(
        &self,
        attachment: &Attachment,
        ns: &Netns,
        mac: Option<Mac>,
        findings: &mut Vec<Finding>,
    ) -> Result<(), AttachError> {
        let failed = |source: Error| StepError { what: "read the container's interface", source };
        let mut socket = self.helper.route_socket(ns).map_err(failed)?;
        let ifname = &attachment.endpoint.key.ifname;
        let link = match link::by_name(&mut socket, ifname) {
            Ok(link) => link,
            Err(error) if error.is_missing() => {
                findings.push(Finding::Interface(format!("the container has no interface {ifname}")));
                return Ok(());
            }
            Err(error) => return Err(failed(error).into()),
        };
        if link.index != attachment.ifindex + 1 {
            findings.push(Finding::Interface(format!("the container's {ifname} is another interface")));
            return Ok(());
        }
        if !link.is_up() {
            findings.push(Finding::Interface(format!("the container's {ifname} is down")));
        }
        if mac.is_some_and(|mac| link.address != mac.octets()) {
            findings.push(Finding::Interface(format!("the container's {ifname} has a changed MAC address")));
        }
        // A smaller one does no harm, and `tuning` may have been told to set it, of which results do not tell.
        if link.mtu > attachment.mtu {
            let (is, was) = (link.mtu, attachment.mtu);
            findings.push(Finding::Interface(format!("the container's {ifname} has MTU {is}, not {was}")));
        }
        if Limit::from_container(attachment).is_some_and(|limit| !limit.is_in_force(&mut socket, link.index))
        {
            findings.push(Finding::RateLimit("the rate limit from the container is not in force".into()));
        }
        let addresses: HashSet<IpAddr> = addr::list(&mut socket)
            .map_err(failed)?
            .into_iter()
            .filter(|a| a.ifindex == link.index)
            .map(|a| a.addr)
            .collect();
        findings
            .extend(attachment.endpoint.addresses().filter(|a| !addresses.contains(a)).map(Finding::Address));
        let mut routes = HashSet::new();
        for family in Family::ALL {
            let filter = route::Filter::default();
            route::visit(&mut socket, family, filter, |route| {
                if route.kind == RouteKind::Unicast && route.table != TABLE_LOCAL {
                    let here = route.hops.iter().filter(|h| h.ifindex == link.index);
                    routes.extend(here.map(|hop| (route.prefix, hop.gateway)));
                }
            })
            .map_err(failed)?;
        }
        for route in attachment.container_routes() {
            let (dst, len) = route.dst;
            if let Ok(prefix) = Prefix::new(dst, len)
                && !routes.contains(&(prefix, route.gw))
            {
                findings.push(Finding::Route(prefix));
            }
        }
        Ok(())
    }
}
