//! Attach and detach: the kernel's side of an endpoint.
//!
//! An endpoint is a veth pair. The container's end has the /32 and /128 and a default route to a gateway that is no
//! real machine: 169.254.1.1 and a link-local IPv6 address. The host's end has no IPv4 address, a fixed MAC, and
//! one route for each address of the container. Every host end answers for the gateway, because the gateway is a
//! local address of the host (see [`prepare`]); the container needs no permanent neighbour entry, and can ping it.
//!
//! What is ours in the kernel: links by the name prefix `s32` and the alias `slash32:NETWORK/CONTAINER/IFNAME` (see
//! [`alias`]), routes by the route protocol number. A link in the group [`RETIRED`] belongs to nobody: it is about to be deleted.
//!
//! Deleting a link makes the kernel wait for grace periods (20 ms), so detaching only sets the host end down, which
//! takes its routes out at once, and puts it into that group; a [`reaper`] deletes the group now and then.

pub mod alias;
mod inside;
mod inspect;
mod mend;
mod message;
pub mod prepare;
mod ready;
mod reaper;
mod shape;
mod uplink;

#[cfg(test)]
mod tests;

use std::{io, net::IpAddr, thread, time::Duration};

use super::{
    attachment::Attachment,
    fault,
    types::{CniError, Mac, code},
};
use crate::{
    model::{EndpointId, Family, Prefix},
    netlink::{
        self, Socket, link,
        ns::{Netns, NetnsId, NsHelper},
        route, rule, sysctl,
    },
};
pub use inside::Inside;
pub use inspect::{Finding, HostEnd};
pub use mend::{Changes, Difference, Ends};
pub use message::StepError;
use message::{Steps, Veth};
use shape::Limit;
pub use uplink::{Uplinks, uplink_mtu};

/// The device group of the host ends of living endpoints: `s32\0` and a 1.
pub const LIVING: u32 = 0x7333_3201;
/// The device group of host ends that wait for their deletion.
pub const RETIRED: u32 = 0x7333_3202;
/// What the alias of every host end starts with.
pub const ALIAS_PREFIX: &str = "slash32:";
/// Interface indices of host ends are even numbers from here; the container's end has the next odd one. Far above
/// what the kernel gives by itself.
const FIRST_INDEX: u32 = 0x0100_0000;
const LAST_INDEX: u32 = 0x3fff_fffe;

/// How endpoints are wired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachConfig {
    /// The routing table of the host's routes to its containers.
    pub table: u32,
    /// Their route protocol number.
    pub protocol: u8,
    /// Their metric, lower than that of learned routes: a local container wins over the same address elsewhere.
    pub metric: u32,
}

impl Default for AttachConfig {
    fn default() -> Self {
        Self { table: route::TABLE_MAIN, protocol: 32, metric: route::LOCAL_METRIC }
    }
}

/// Why attaching or detaching failed. A failed attach has been undone.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The namespace does not exist (any more).
    #[error("the container's network namespace is gone: {0}")]
    Gone(netlink::Error),
    /// The path is not a network namespace that can be attached to.
    #[error("{0}")]
    NotNetns(String),
    /// The container has an interface of that name already.
    #[error("the container has an interface {0} already")]
    InterfaceExists(String),
    /// The host has an interface with the name of the endpoint's host end, and it is somebody else's.
    #[error(
        "the host has an interface {0} that is not slash32's: rename or remove it (`ip link delete {0}`)"
    )]
    NameTaken(EndpointId),
    /// This process or the host has no file descriptors left, for now.
    #[error("{0}")]
    NoDescriptors(String),
    /// The interface index is in use: try with the next.
    #[error("the interface index {0} is in use")]
    IndexTaken(u32),
    /// The kernel refused a step.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The interface pair did not come up.
    #[error("{0} did not come up")]
    NoCarrier(EndpointId),
}

impl From<AttachError> for CniError {
    fn from(error: AttachError) -> Self {
        let code = match &error {
            AttachError::Gone(_) => code::UNKNOWN_CONTAINER,
            AttachError::NotNetns(_) => code::INVALID_NETNS,
            AttachError::InterfaceExists(_) => code::INVALID_ENVIRONMENT,
            AttachError::NoDescriptors(_) | AttachError::IndexTaken(_) | AttachError::NoCarrier(_) => {
                code::TRY_AGAIN_LATER
            }
            AttachError::Step(StepError { source: netlink::Error::Os { source, .. }, .. })
                if netlink::is_out_of_descriptors(source) =>
            {
                code::TRY_AGAIN_LATER
            }
            AttachError::Step(_) | AttachError::NameTaken(_) => code::ATTACH_FAILED,
        };
        Self::new(code, error.to_string())
    }
}

/// Does the kernel's work for endpoints, from a thread in the host's network namespace. Not for several threads.
#[derive(Debug)]
pub struct Attacher {
    config: AttachConfig,
    socket: Socket,
    helper: NsHelper,
    home: NetnsId,
    next_index: u32,
    /// The kernel was built with IPv6.
    ipv6: bool,
    gateways: prepare::Gateways,
    reaper: reaper::Reaper,
}

impl Attacher {
    /// Works in the network namespace of the calling thread, and starts a helper and a reaper there.
    pub fn start(config: AttachConfig) -> Result<Self, netlink::Error> {
        let mut socket = Socket::route()?;
        let home = Netns::current()?.id();
        let next_index = link::list(&mut socket)?
            .iter()
            .map(|l| l.index)
            .filter(|i| (FIRST_INDEX..LAST_INDEX).contains(i))
            .max()
            .map_or(FIRST_INDEX, |i| (i & !1) + 2);
        Ok(Self {
            config,
            helper: NsHelper::start()?,
            home,
            next_index,
            ipv6: std::path::Path::new("/proc/sys/net/ipv6").exists(),
            gateways: prepare::Gateways::default(),
            reaper: reaper::Reaper::start()?,
            socket,
        })
    }

    /// Opens a container's namespace.
    pub fn open(&self, path: &str) -> Result<Netns, AttachError> {
        let ns = Netns::open(path).map_err(|error| match &error {
            netlink::Error::OpenNetns { source, .. }
                if source.kind() == io::ErrorKind::NotFound
                    || source.raw_os_error() == Some(libc::ENOTDIR) =>
            {
                AttachError::Gone(error)
            }
            netlink::Error::OpenNetns { source, .. } if netlink::is_out_of_descriptors(source) => {
                AttachError::NoDescriptors(error.to_string())
            }
            // `ip netns` and runtimes leave an empty file where a namespace was mounted.
            netlink::Error::NotNetns { path, .. }
                if path.metadata().is_ok_and(|m| m.is_file() && m.len() == 0) =>
            {
                AttachError::Gone(error)
            }
            _ => AttachError::NotNetns(error.to_string()),
        })?;
        if ns.id() == self.home {
            return Err(AttachError::NotNetns(format!("{path} is the host's own network namespace")));
        }
        Ok(ns)
    }

    /// Begins to open a socket in a container's namespace; it takes a thread of its own, and time that can be used.
    pub fn enter(&self, ns: &Netns) -> Inside {
        Inside::open(&self.helper, ns)
    }

    /// An interface index for a new endpoint.
    pub fn next_index(&mut self) -> u32 {
        let index = self.next_index;
        self.next_index = if index + 2 > LAST_INDEX { FIRST_INDEX } else { index + 2 };
        index
    }

    /// Whether the host has a host end of this name: ours, and not somebody else's interface.
    pub fn has_end(&mut self, id: &EndpointId) -> Result<bool, AttachError> {
        Ok(inspect::find(&mut self.socket, id)?.is_some())
    }

    /// Whether connections to an address can arrive here.
    pub fn is_local(&mut self, addr: IpAddr) -> bool {
        uplink::kind_of(&mut self.socket, addr) == Some(libc::RTN_LOCAL)
    }

    /// Whether an address is the host's own.
    pub fn is_own(&mut self, addr: IpAddr) -> bool {
        uplink::is_own(&mut self.socket, addr)
    }

    /// The largest packet the way out takes; see [`uplink_mtu`].
    pub fn uplink_mtu(&mut self) -> u32 {
        uplink_mtu(&mut self.socket)
    }

    /// Makes everything the attachment describes, or nothing. `created` is called when little can go wrong any more.
    pub fn attach(
        &mut self,
        attachment: &Attachment,
        ns: &Netns,
        inside: &mut Inside,
        created: impl FnOnce(),
    ) -> Result<(), AttachError> {
        self.gateways.ensure(attachment.gateway, self.config, &mut self.socket)?;
        self.create(attachment, ns)?;
        created();
        fault::point("attach:created");
        let made = self.wire(attachment, ns, inside);
        if made.is_err() {
            // The container's end must be gone at once, as the runtime may try again with the same name.
            let mut undo = Steps::default();
            undo.delete(attachment.endpoint.id.as_str());
            if let Err(error) = undo.execute(&mut self.socket)
                && !error.source.is_missing()
            {
                tracing::warn!(endpoint = %attachment.endpoint.id, %error, "cannot undo an attach");
            }
        }
        made
    }

    /// Makes what is missing on the host's side of a living endpoint: routes, the gateway's address, settings.
    pub fn repair_host_side(&mut self, attachment: &Attachment) -> Result<(), AttachError> {
        self.gateways.ensure(attachment.gateway, self.config, &mut self.socket)?;
        self.host_side(attachment)?;
        self.host_up(attachment)?;
        Ok(self.host_routes_of(attachment)?)
    }

    /// Has the alias tell what an attachment is now. That there is no host end is no error.
    pub fn write_alias(&mut self, attachment: &Attachment) -> Result<(), AttachError> {
        let mut steps = Steps::default();
        steps.alias(attachment.ifindex, &alias::of(attachment));
        match steps.execute(&mut self.socket) {
            Err(error) if !error.source.is_missing() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Removes the host's route to one address of an endpoint that goes on living.
    pub fn drop_host_route(&mut self, addr: IpAddr, ifindex: u32) -> Result<(), AttachError> {
        let mut steps = Steps::default();
        steps.remove_device_route(&self.host_route(addr), ifindex);
        match steps.execute(&mut self.socket) {
            Err(error) if !error.source.is_missing() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Takes a host end out of service: down, its routes gone. Deletion follows in the background. Nothing to do is
    /// no error.
    pub fn detach(&mut self, id: &EndpointId) -> Result<(), AttachError> {
        if retire(&mut self.socket, id)? {
            self.reaper.notify();
        }
        Ok(())
    }

    /// Whether the container's end is in this namespace.
    pub fn is_inside(&self, attachment: &Attachment, ns: &Netns) -> bool {
        let link = self
            .helper
            .route_socket(ns)
            .and_then(|mut socket| link::by_index(&mut socket, attachment.ifindex + 1));
        link.is_ok_and(|link| link.kind.as_deref() == Some("veth") && link.peer == attachment.ifindex)
    }

    /// What [`Attacher::hide`] will need; none when the container's namespace is gone.
    pub fn enter_again(&self, attachment: &Attachment) -> Option<Inside> {
        let ns = Netns::open(&attachment.endpoint.netns).ok()?;
        (ns.id() == attachment.netns_id && attachment.ifindex >= FIRST_INDEX).then(|| self.enter(&ns))
    }

    /// Takes the container's interface out of sight, so that to its programs, and to a plugin that is to make another
    /// of the same name, it is gone already. For after [`Attacher::detach`].
    pub fn hide(&self, attachment: &Attachment, inside: &mut Inside) -> Result<(), AttachError> {
        let socket = inside.socket()?;
        let mut steps = Steps::default();
        steps.hide(attachment.ifindex + 1, attachment.endpoint.id.as_str());
        if attachment.is_from_kernel() {
            remove_found_rules(&mut steps, attachment, socket)?;
        } else {
            remove_rules(&mut steps, attachment);
        }
        match steps.errors(socket)?.into_iter().find(|e| !e.source.is_missing()) {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// Deletes all retired links now. For tests, and for the end of the agent.
    pub fn reap(&mut self) -> Result<(), AttachError> {
        Ok(reaper::reap(&mut self.socket)?)
    }

    /// Everything is prepared while the pair has no carrier; then the host end goes up, and all there is to do is little
    /// and quick. What IPv6 does when it sees the carrier takes longer the more routes the host has (it goes through
    /// all), and holds the lock that every change of an interface needs; but nobody has to wait for it.
    fn wire(&mut self, attachment: &Attachment, ns: &Netns, inside: &mut Inside) -> Result<(), AttachError> {
        self.host_side(attachment)?;
        fault::point("attach:host");
        self.container_side(attachment, ns, inside)?;
        fault::point("attach:container");
        self.host_up(attachment)?;
        settle(attachment, inside.socket()?)?;
        // Last: the kernel asks for the MAC address of a container that packets wait for, and asks again only a second
        // later if it was not there yet.
        self.host_routes_of(attachment)?;
        Ok(ready::wait(attachment, &mut self.socket, inside.socket()?)?)
    }

    fn create(&mut self, attachment: &Attachment, ns: &Netns) -> Result<(), AttachError> {
        let id = &attachment.endpoint.id;
        let veth = Veth {
            name: id.as_str(),
            index: attachment.ifindex,
            peer: &attachment.endpoint.key.ifname,
            peer_index: attachment.ifindex + 1,
            peer_ns: ns,
            peer_mac: attachment.mac,
            mtu: attachment.mtu,
            group: LIVING,
        };
        let mut cleaned = false;
        loop {
            // Alone, because the messages that follow name the index: if it belonged to another link, they would
            // change that one.
            let mut steps = Steps::default();
            steps.create(&veth);
            let error = match steps.execute(&mut self.socket) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            match error.source.errno() {
                Some(libc::EBUSY) => return Err(AttachError::IndexTaken(veth.index)),
                Some(libc::EEXIST) if inspect::has_index(&mut self.socket, veth.index, id)? => {
                    return Err(AttachError::IndexTaken(veth.index));
                }
                Some(libc::EEXIST) if !cleaned => {
                    // What is left of an earlier incarnation, or of another network's interface of the same name.
                    cleaned = true;
                    let mut steps = Steps::default();
                    if inspect::find(&mut self.socket, id)?.is_some() {
                        steps.delete(id.as_str());
                    }
                    steps.delete_group(RETIRED);
                    let errors = steps.errors(&mut self.socket)?;
                    if let Some(error) = errors.into_iter().find(|e| !e.source.is_missing()) {
                        return Err(error.into());
                    }
                }
                Some(libc::EEXIST) if link::by_name(&mut self.socket, id.as_str()).is_ok() => {
                    return Err(AttachError::NameTaken(id.clone()));
                }
                Some(libc::EEXIST) => {
                    return Err(AttachError::InterfaceExists(veth.peer.to_owned()));
                }
                _ => return Err(error.into()),
            }
        }
    }

    /// Prepares the host end, which may be down.
    fn host_side(&mut self, attachment: &Attachment) -> Result<(), StepError> {
        let index = attachment.ifindex;
        let mut steps = Steps::default();
        let localnet = !attachment.port_mappings.is_empty();
        steps.configure_host_end(
            index,
            &alias::of(attachment),
            mend::rp_filter(attachment),
            localnet,
            self.ipv6,
        );
        if let Some(limit) = Limit::towards(attachment) {
            steps.limit(index, limit);
        }
        // Asking also makes the kernel (from 6.8) note that there is no carrier yet. Otherwise IPv6 would take the link
        // for ready as soon as it is up, and do at once what can wait.
        steps.look(index);
        let report = steps.report(&mut self.socket)?;
        let link = report.link();
        let differs =
            |link: &link::Link| link.address != Mac::HOST_END.octets() || link.mtu != attachment.mtu;
        if link.as_ref().is_some_and(differs) {
            // The kernel sometimes keeps a random address instead of the one asked for (seen by Calico); and people
            // change what they should not.
            let mut steps = Steps::default();
            steps.set_host_end(index, attachment.mtu);
            steps.execute(&mut self.socket)?;
        }
        // By their files, as the kernel takes none of them in a message; and only where the host has something else for new
        // interfaces, or somebody has changed them.
        let settings = link.and_then(|link| link.ipv6);
        for difference in settings.map(|is| mend::ipv6_differences(attachment, is)).unwrap_or_default() {
            let Some((key, value)) = difference.ipv6_setting() else { continue };
            sysctl::write(&format!("net/ipv6/conf/{}/{key}", attachment.endpoint.id), value)
                .map_err(|source| StepError { what: "put a setting of the host end right", source })?;
        }
        // What exists already is well: this also repairs.
        report.errors.into_iter().find(|e| !e.source.is_exists()).map_or(Ok(()), Err)
    }

    /// Sets the host end up and gives it the gateway's address, in this order: with the first address of an interface
    /// that is up the kernel also makes the route by which neighbour solicitations come in. Otherwise it does so when it
    /// has seen the carrier, which may be after the container's first packet.
    fn host_up(&mut self, attachment: &Attachment) -> Result<(), StepError> {
        let (index, ipv6) = (attachment.ifindex, attachment.endpoint.ipv6.is_some());
        let mut steps = Steps::default();
        steps.up(index);
        if ipv6 {
            steps.gateway_address(index, attachment.gateway6());
        }
        let errors = steps.errors(&mut self.socket)?;
        errors.into_iter().find(|e| !e.source.is_exists()).map_or(Ok(()), Err)
    }

    /// Replaces what is there: a learned route of the same metric must not keep a local container from working.
    fn host_routes_of(&mut self, attachment: &Attachment) -> Result<(), StepError> {
        let mut steps = Steps::default();
        for addr in attachment.endpoint.addresses() {
            let key = self.host_route(addr);
            steps.device_route("add the route to the container", &key, attachment.ifindex, true);
        }
        if attachment.endpoint.ipv6.is_some() && !attachment.port_mappings.is_empty() {
            steps.loopback_route(attachment.ifindex);
        }
        let errors = steps.errors(&mut self.socket)?;
        errors.into_iter().find(|error| !error.source.is_exists()).map_or(Ok(()), Err)
    }

    const fn host_route(&self, addr: IpAddr) -> route::Key {
        route::Key {
            prefix: Prefix::host(addr),
            table: self.config.table,
            protocol: self.config.protocol,
            metric: self.config.metric,
        }
    }

    fn container_side(
        &self,
        attachment: &Attachment,
        ns: &Netns,
        inside: &mut Inside,
    ) -> Result<(), StepError> {
        let socket = inside.socket()?;
        let index = attachment.ifindex + 1;
        let mut steps = Steps::default();
        steps.up(message::LOOPBACK);
        if self.ipv6 {
            steps.no_automatic_ipv6(index);
        }
        let ipv6_addresses = |steps: &mut Steps| {
            if let Some(ipv6) = attachment.endpoint.ipv6 {
                steps.address(index, attachment.mac.link_local().into(), 64);
                steps.address(index, ipv6.into(), 128);
            }
        };
        // Early, as the kernel takes a moment to make them work.
        ipv6_addresses(&mut steps);
        steps.up(index);
        if let Some(ipv4) = attachment.endpoint.ipv4 {
            steps.address(index, ipv4.into(), 32);
            let key = route::Key {
                prefix: Prefix::host(attachment.gateway4().into()),
                table: route::TABLE_MAIN,
                protocol: message::RTPROT_STATIC,
                metric: 0,
            };
            steps.device_route("add the gateway's route in the container", &key, index, false);
            push_family(&mut steps, attachment, true);
        }
        if let Some(limit) = Limit::from_container(attachment) {
            steps.limit(index, limit);
        }
        if attachment.endpoint.ipv6.is_some() {
            push_family(&mut steps, attachment, false);
        }
        let (taken, errors): (Vec<_>, Vec<_>) =
            steps.errors(socket)?.into_iter().partition(|e| is_route_of_others(e, attachment));
        for ipv4 in [true, false] {
            if taken.iter().any(|e| e.what == message::container_route_words(ipv4)) {
                yield_to_others(attachment, ipv4, socket)?;
            }
        }
        if let Some(first) = errors.into_iter().next() {
            if attachment.endpoint.ipv6.is_none() || first.source.errno() != Some(libc::EACCES) {
                return Err(first);
            }
            // Docker and others switch IPv6 off in new namespaces.
            let path = format!("net/ipv6/conf/{}/disable_ipv6", attachment.endpoint.key.ifname);
            self.helper
                .write_sysctl(ns, &path, "0")
                .map_err(|source| StepError { what: "switch IPv6 on in the container", source })?;
            let mut steps = Steps::default();
            ipv6_addresses(&mut steps);
            push_family(&mut steps, attachment, false);
            steps.execute(socket)?;
        }
        self.write_sysctls(attachment, ns)
    }

    fn write_sysctls(&self, attachment: &Attachment, ns: &Netns) -> Result<(), StepError> {
        let mut settings: Vec<(String, String)> = Vec::new();
        if attachment.forwarding {
            settings.push(("net/ipv4/ip_forward".into(), "1".into()));
            if attachment.endpoint.ipv6.is_some() {
                settings.push(("net/ipv6/conf/all/forwarding".into(), "1".into()));
            }
        }
        for (name, value) in &attachment.sysctls {
            settings.push((prepare::sysctl_path(name, &attachment.endpoint.key.ifname), value.clone()));
        }
        if settings.is_empty() {
            return Ok(());
        }
        let write = move || settings.iter().try_for_each(|(path, value)| sysctl::write(path, value));
        let written = self.helper.run(ns, write).and_then(|result| result);
        written.map_err(|source| StepError { what: "write a sysctl in the container", source })
    }
}

/// Waits until the container can send.
fn settle(attachment: &Attachment, inside: &mut Socket) -> Result<(), AttachError> {
    for attempt in 0..100 {
        // Asking makes the kernel (from 6.8) finish the change of carrier that the host end's coming up has begun; older
        // ones do it soon.
        let mut steps = Steps::default();
        steps.look(attachment.ifindex + 1);
        if steps.report(inside)?.link().is_some_and(|link| link.is_running()) {
            return Ok(());
        }
        if attempt > 3 {
            thread::sleep(Duration::from_millis(5));
        }
    }
    Err(AttachError::NoCarrier(attachment.endpoint.id.clone()))
}

/// Sets a host end down and retires it; false when there is none. Also used by the plugin while the agent is away.
pub fn retire(socket: &mut Socket, id: &EndpointId) -> Result<bool, StepError> {
    let mut steps = Steps::default();
    steps.retire(id.as_str(), RETIRED);
    match steps.execute(socket) {
        Ok(()) => Ok(true),
        Err(error) if error.source.is_missing() => Ok(false),
        Err(error) => Err(error),
    }
}

/// The container's routes of one family. Those of a further network get a worse metric, so that the first network
/// keeps the default route, and a table of their own for what is sent from their address.
fn push_family(steps: &mut Steps, attachment: &Attachment, ipv4: bool) {
    if let (false, Some(ipv6)) = (ipv4, attachment.endpoint.ipv6) {
        steps.gateway_route(attachment.ifindex + 1, attachment.gateway6(), ipv6);
    }
    push_routes(steps, attachment, ipv4, attachment.gateway > 1);
}

/// Whether a step has failed because the container has such a route already, of a network that is not ours and came
/// first. Where the configuration gives metrics or tables, nothing else than they will do.
fn is_route_of_others(error: &StepError, attachment: &Attachment) -> bool {
    let route = [true, false].iter().any(|ipv4| error.what == message::container_route_words(*ipv4));
    let plain = || attachment.container_routes().iter().all(|r| r.priority.is_none() && r.table.is_none());
    route && error.source.is_exists() && attachment.gateway == 1 && plain()
}

/// Makes the routes of one family as those of a further network: the first one keeps its default route.
fn yield_to_others(attachment: &Attachment, ipv4: bool, inside: &mut Socket) -> Result<(), StepError> {
    let mut steps = Steps::default();
    push_routes(&mut steps, attachment, ipv4, true);
    steps.execute(inside)
}

fn push_routes(steps: &mut Steps, attachment: &Attachment, ipv4: bool, further: bool) {
    let index = attachment.ifindex + 1;
    let number = u32::from(attachment.gateway);
    for route in attachment.container_routes().iter().filter(|r| r.dst.0.is_ipv4() == ipv4) {
        // The kernel reads 0 as 1024 for IPv6.
        let metric = route.priority.unwrap_or(match (further, ipv4) {
            (false, _) => 0,
            (true, true) => 1000 + number,
            (true, false) => 2000 + number,
        });
        steps.container_route(index, route, metric, None);
        if further && route.table.is_none() {
            steps.container_route(index, route, 0, Some(FURTHER_TABLE + number));
        }
    }
    let address: Option<IpAddr> = if ipv4 {
        attachment.endpoint.ipv4.map(Into::into)
    } else {
        attachment.endpoint.ipv6.map(Into::into)
    };
    if let (true, Some(address)) = (further, address) {
        steps.source_rule(address, FURTHER_TABLE + number, FURTHER_TABLE + number);
    }
}

/// The rules that [`push_family`] made; they do not vanish with the interface.
fn remove_rules(steps: &mut Steps, attachment: &Attachment) {
    let number = FURTHER_TABLE + u32::from(attachment.gateway);
    for address in attachment.endpoint.addresses() {
        steps.remove_source_rule(address, number, number);
    }
}

/// The same where nobody knows which number the network had in the container.
fn remove_found_rules(
    steps: &mut Steps,
    attachment: &Attachment,
    inside: &mut Socket,
) -> Result<(), StepError> {
    for address in attachment.endpoint.addresses() {
        let rules = rule::list(inside, Family::of(address))
            .map_err(|source| StepError { what: "list the rules in the container", source })?;
        for rule in rules.iter().filter(|rule| rule.from == Some(Prefix::host(address))) {
            let ours = FURTHER_TABLE + 1..=FURTHER_TABLE + u32::from(u8::MAX);
            if let Some(table) = rule.table().filter(|t| *t == rule.priority && ours.contains(t)) {
                steps.remove_source_rule(address, table, table);
            }
        }
    }
    Ok(())
}

/// Inside a container, the table and rule priority of its `n`th network is this plus `n`.
const FURTHER_TABLE: u32 = 3200;
