//! The kernel's notifications as typed events.
//!
//! The receive buffer bounds the memory: when we read too slowly the kernel drops notifications and says so, which
//! arrives as [`KernelEvent::Overrun`] and asks for a resync. What a given socket changes itself can be left out by
//! a filter in the kernel, so that a million routes of our own do not come back as a million notifications.

use std::{collections::VecDeque, io, os::fd::AsRawFd, thread};

use bytes::BytesMut;
use rtnetlink::{
    MulticastGroup,
    sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE},
};

use super::{
    Error, RawMessage,
    addr::{Address, RTM_DELADDR, RTM_NEWADDR},
    devconf::{self, RTM_NEWNETCONF},
    link::{Link, RTM_DELLINK, RTM_NEWLINK},
    neigh::{Neighbour, RTM_DELNEIGH, RTM_NEWNEIGH},
    nexthop::{self, RTM_DELNEXTHOP, RTM_NEWNEXTHOP},
    route::{RTM_DELROUTE, RTM_NEWROUTE, Route},
    rule::{RTM_DELRULE, RTM_NEWRULE},
    socket::{Messages, force_buffer},
    sys,
};
use crate::model::Family;

/// `NLM_F_REPLACE` in a notification: the object took the place of another.
const NLM_F_REPLACE: u16 = 0x100;
/// Room for a burst of about 10,000 route notifications.
const RECEIVE_BUFFER: usize = 8 << 20;
const DATAGRAM: usize = 64 << 10;

/// Something that happened in the kernel's routing state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelEvent {
    /// A link is new or has changed.
    Link(Link),
    /// A link is gone.
    LinkGone(Link),
    /// An address is new or has changed.
    Address(Address),
    /// An address is gone.
    AddressGone(Address),
    /// A route is new.
    Route {
        /// The route.
        route: Route,
        /// Whether it took the place of another with the same prefix, table and metric.
        replaced: bool,
    },
    /// A route is gone. IPv4 routes that the kernel flushes with their link or next hop go without this.
    RouteGone(Route),
    /// A next-hop object is new or has changed.
    NextHop(nexthop::Object),
    /// A next-hop object is gone, and with it all routes that referred to it.
    NextHopGone(nexthop::Object),
    /// A neighbour is new or has changed.
    Neighbour(Neighbour),
    /// A neighbour is gone.
    NeighbourGone(Neighbour),
    /// The routing policy rules have changed.
    Rules,
    /// Settings of an interface (by its index) may have changed: forwarding, the answering for others, the check of sources.
    Settings(Family, u32),
    /// Notifications were lost: read the state anew.
    Overrun,
}

impl KernelEvent {
    /// The event in a message; none for what we do not follow.
    fn parse(message: &RawMessage<'_>) -> Option<Self> {
        let payload = message.payload;
        let is_ip_link = payload.first() == Some(&0); // AF_BRIDGE messages tell about a bridge's ports
        Some(match message.kind {
            RTM_NEWLINK if is_ip_link => Self::Link(Link::parse(payload)?),
            RTM_DELLINK if is_ip_link => Self::LinkGone(Link::parse(payload)?),
            RTM_NEWADDR => Self::Address(Address::parse(payload)?),
            RTM_DELADDR => Self::AddressGone(Address::parse(payload)?),
            RTM_NEWROUTE => {
                Self::Route { route: Route::parse(payload)?, replaced: message.flags & NLM_F_REPLACE != 0 }
            }
            RTM_DELROUTE => Self::RouteGone(Route::parse(payload)?),
            RTM_NEWNEXTHOP => Self::NextHop(nexthop::Object::parse(payload)?),
            RTM_DELNEXTHOP => Self::NextHopGone(nexthop::Object::parse(payload)?),
            RTM_NEWNEIGH => Self::Neighbour(Neighbour::parse(payload)?),
            RTM_DELNEIGH => Self::NeighbourGone(Neighbour::parse(payload)?),
            RTM_NEWRULE | RTM_DELRULE => Self::Rules,
            RTM_NEWNETCONF => devconf::told(payload).map(|(family, index)| Self::Settings(family, index))?,
            _ => return None,
        })
    }
}

/// What to be told about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// Links.
    Links,
    /// Addresses of both families.
    Addresses,
    /// Routes of both families.
    Routes,
    /// Next-hop objects.
    NextHops,
    /// Neighbours of both families.
    Neighbours,
    /// Routing policy rules of both families.
    Rules,
    /// Settings of interfaces, of both families.
    Settings,
}

impl Topic {
    /// All that routes depend on.
    pub const ALL: [Self; 6] =
        [Self::Links, Self::Addresses, Self::Routes, Self::NextHops, Self::Neighbours, Self::Rules];

    const fn groups(self) -> &'static [MulticastGroup] {
        match self {
            Self::Links => &[MulticastGroup::Link],
            Self::Addresses => &[MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr],
            Self::Routes => &[MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route],
            Self::NextHops => &[MulticastGroup::Nexthop],
            Self::Neighbours => &[MulticastGroup::Neigh],
            Self::Rules => &[MulticastGroup::Ipv4Rule, MulticastGroup::Ipv6Rule],
            Self::Settings => &[MulticastGroup::Ipv4Netconf, MulticastGroup::Ipv6Netconf],
        }
    }
}

/// A stream of notifications from the network namespace in which it was opened.
pub struct Watch {
    socket: TokioSocket,
    buf: BytesMut,
    queue: VecDeque<KernelEvent>,
}

impl Watch {
    /// Subscribes; call it inside a tokio runtime. Changes made by the sockets with these ports ([`Socket::port`])
    /// are not reported.
    ///
    /// Subscribe first and read the state then, so that no change falls between.
    ///
    /// [`Socket::port`]: super::Socket::port
    pub fn open(topics: &[Topic], ignore_ports: &[u32]) -> Result<Self, Error> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(|e| Error::os("socket(AF_NETLINK)", e))?;
        let fd = socket.socket_ref().as_raw_fd();
        force_buffer(fd, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER)
            .map_err(|e| Error::os("setsockopt(SO_RCVBUF)", e))?;
        if !ignore_ports.is_empty() {
            sys::attach_filter(fd, &ignore_program(ignore_ports))
                .map_err(|e| Error::os("setsockopt(SO_ATTACH_FILTER)", e))?;
        }
        socket.socket_mut().bind_auto().map_err(|e| Error::os("bind(AF_NETLINK)", e))?;
        for group in topics.iter().flat_map(|t| t.groups()) {
            if let Err(error) = socket.socket_mut().add_membership(*group as u32) {
                // A kernel without next-hop objects has no such group.
                if *group != MulticastGroup::Nexthop {
                    return Err(Error::os("setsockopt(NETLINK_ADD_MEMBERSHIP)", error));
                }
            }
        }
        Ok(Self { socket, buf: BytesMut::new(), queue: VecDeque::new() })
    }

    /// The next event. Losing the future loses no event.
    pub async fn next(&mut self) -> Result<KernelEvent, Error> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Ok(event);
            }
            self.make_room();
            let from = self.socket.recv_from(&mut self.buf).await;
            if let Some(event) = self.received(from)? {
                return Ok(event);
            }
        }
    }

    /// An event that is there already. Asks the kernel itself: a task that is busy and never gives way to its runtime
    /// does not learn from [`Self::next`] that something has come.
    pub fn try_next(&mut self) -> Result<Option<KernelEvent>, Error> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Ok(Some(event));
            }
            self.make_room();
            let from = self.socket.socket_ref().recv_from(&mut self.buf, libc::MSG_DONTWAIT);
            match from {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                from => {
                    if let Some(event) = self.received(from.map(|(_, from)| from))? {
                        return Ok(Some(event));
                    }
                }
            }
        }
    }

    fn make_room(&mut self) {
        self.buf.clear();
        self.buf.reserve(DATAGRAM);
    }

    /// Takes apart what is in the buffer; the event that is not from the kernel's messages, if there is one.
    fn received(&mut self, from: io::Result<SocketAddr>) -> Result<Option<KernelEvent>, Error> {
        match from.map_err(|e| Error::os("recv(netlink)", e)) {
            // Only the kernel's own word counts.
            Ok(from) if from == SocketAddr::new(0, from.multicast_groups()) => {
                self.queue.extend(Messages(&self.buf).filter_map(|m| KernelEvent::parse(&m)));
                Ok(None)
            }
            Ok(_) => Ok(None),
            Err(Error::Overrun) => Ok(Some(KernelEvent::Overrun)),
            Err(error) => Err(error),
        }
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("queue", &self.queue.len()).finish_non_exhaustive()
    }
}

/// A classic BPF program that drops messages whose `nlmsg_pid` is one of the ports.
pub(super) fn ignore_program(ports: &[u32]) -> Vec<(u16, u8, u8, u32)> {
    const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const NLMSG_PID: u32 = 12;
    // Jumps reach 255 instructions; nobody has as many sockets.
    let ports = &ports[..ports.len().min(250)];
    let mut program = vec![(LOAD_WORD, 0, 0, NLMSG_PID)];
    for (i, port) in ports.iter().enumerate() {
        // The load takes the word for network order.
        program.push((JUMP_EQUAL, (ports.len() - i) as u8, 0, port.to_be()));
    }
    program.push((RETURN, 0, 0, u32::MAX));
    program.push((RETURN, 0, 0, 0));
    program
}

/// Watches on a thread of its own, in the caller's network namespace, until `sink` answers false.
pub fn spawn(
    name: &str,
    topics: &[Topic],
    ignore_ports: &[u32],
    mut sink: impl FnMut(KernelEvent) -> bool + Send + 'static,
) -> Result<thread::JoinHandle<()>, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(|e| Error::os("tokio runtime", e))?;
    let mut watch = {
        let _inside = runtime.enter();
        Watch::open(topics, ignore_ports)?
    };
    let run = move || {
        runtime.block_on(async {
            loop {
                match watch.next().await {
                    Ok(event) => {
                        if !sink(event) {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::error!(%error, "cannot read the kernel's notifications");
                        // Whatever it was, events may be lost; do not spin.
                        if !sink(KernelEvent::Overrun) {
                            return;
                        }
                        thread::sleep(std::time::Duration::from_secs(1));
                    }
                }
            }
        });
    };
    thread::Builder::new().name(name.into()).spawn(run).map_err(|e| Error::os("spawn thread", e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Prefix,
        netlink::{Batch, Socket, addr, link, ns::testing, route},
    };

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(future)
    }

    /// All events up to the one that `last` recognises.
    async fn until(watch: &mut Watch, mut last: impl FnMut(&KernelEvent) -> bool) -> Vec<KernelEvent> {
        let mut events = Vec::new();
        loop {
            let event = watch.next().await.unwrap();
            let done = last(&event);
            events.push(event);
            if done {
                return events;
            }
        }
    }

    fn key(prefix: Prefix) -> route::Key {
        route::Key { prefix, table: route::TABLE_MAIN, protocol: 32, metric: 7 }
    }

    #[test]
    fn every_kind_of_change_is_seen() {
        testing::private(|| {
            block_on(async {
                let mut watch = Watch::open(&Topic::ALL, &[]).unwrap();
                let mut socket = Socket::route().unwrap();
                link::create_veth(&mut socket, "va", "vb", None).unwrap();
                let dev = link::by_name(&mut socket, "va").unwrap().index;
                let peer = link::by_name(&mut socket, "vb").unwrap().index;
                link::set_up(&mut socket, peer).unwrap();
                link::set_up(&mut socket, dev).unwrap();
                addr::add(&mut socket, dev, "192.0.2.0".parse().unwrap(), 31).unwrap();
                let via = nexthop::Via { gateway: "192.0.2.1".parse().unwrap(), ifindex: dev, onlink: false };
                let mut batch = Batch::new();
                nexthop::push_via(&mut batch, 5, 32, &via, nexthop::Mode::Create);
                for prefix in ["10.0.0.0/24", "fd00::/64"] {
                    let key = key(prefix.parse().unwrap());
                    route::push(&mut batch, &key, route::Target::Blackhole, route::Mode::Create);
                    if key.prefix.family() == Family::Ipv4 {
                        route::push(&mut batch, &key, route::Target::Object(5), route::Mode::Replace);
                    }
                    route::push_delete(&mut batch, &key, route::RouteKind::Other(0), None);
                }
                let neighbour = Neighbour {
                    ifindex: dev,
                    addr: via.gateway,
                    state: Neighbour::PERMANENT,
                    hardware: vec![2, 0, 0, 0, 0, 1],
                };
                crate::netlink::neigh::push_set(&mut batch, &neighbour);
                nexthop::push_delete(&mut batch, 5);
                socket.execute(&mut batch).unwrap();
                addr::delete(&mut socket, dev, "192.0.2.0".parse().unwrap(), 31).unwrap();
                link::delete(&mut socket, dev).unwrap();
                let gone = |e: &KernelEvent| matches!(e, KernelEvent::LinkGone(l) if l.index == dev);
                let events = until(&mut watch, gone).await;
                let count = |f: fn(&KernelEvent) -> bool| events.iter().filter(|e| f(e)).count();
                assert!(count(|e| matches!(e, KernelEvent::Link(l) if l.name == "va" && l.is_running())) > 0);
                let ours = |p: &str| {
                    let prefix: Prefix = p.parse().unwrap();
                    let of = events.iter().filter(move |e| match e {
                        KernelEvent::Route { route, .. } | KernelEvent::RouteGone(route) => {
                            route.prefix == prefix
                        }
                        _ => false,
                    });
                    of.map(|e| match e {
                        KernelEvent::Route { replaced: true, .. } => "replaced",
                        KernelEvent::Route { .. } => "new",
                        _ => "gone",
                    })
                    .collect::<Vec<_>>()
                };
                assert_eq!(ours("10.0.0.0/24"), ["new", "replaced", "gone"]);
                assert_eq!(ours("fd00::/64"), ["new", "gone"]);
                assert_eq!(count(|e| matches!(e, KernelEvent::NextHop(o) if o.id == 5)), 1);
                assert_eq!(count(|e| matches!(e, KernelEvent::NextHopGone(o) if o.id == 5)), 1);
                assert!(count(|e| matches!(e, KernelEvent::Address(a) if a.prefix_len == 31)) > 0);
                assert!(count(|e| matches!(e, KernelEvent::AddressGone(a) if a.prefix_len == 31)) > 0);
                assert!(count(|e| matches!(e, KernelEvent::Neighbour(n) if n.is_valid())) > 0);
                assert!(count(|e| matches!(e, KernelEvent::NeighbourGone(_))) > 0);
            });
        });
    }

    #[test]
    fn own_changes_can_be_left_out() {
        testing::private(|| {
            block_on(async {
                let mut own = Socket::route().unwrap();
                let mut other = Socket::route().unwrap();
                let mut watch = Watch::open(&[Topic::Routes], &[1, own.port().unwrap()]).unwrap();
                for (socket, prefix) in [(&mut own, "10.0.1.0/24"), (&mut other, "10.0.2.0/24")] {
                    let mut batch = Batch::new();
                    let key = key(prefix.parse().unwrap());
                    route::push(&mut batch, &key, route::Target::Blackhole, route::Mode::Create);
                    socket.execute(&mut batch).unwrap();
                }
                let KernelEvent::Route { route, .. } = watch.next().await.unwrap() else { panic!() };
                assert_eq!(route.prefix.to_string(), "10.0.2.0/24");
            });
        });
    }

    #[test]
    fn lost_notifications_are_told() {
        testing::private(|| {
            block_on(async {
                let mut watch = Watch::open(&[Topic::Routes], &[]).unwrap();
                let fd = watch.socket.socket_ref().as_raw_fd();
                sys::setsockopt_int(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 4096).unwrap();
                let mut socket = Socket::route().unwrap();
                let mut batch = Batch::new();
                for i in 0..100 {
                    let key = key(Prefix::new([10, 0, i, 0].into(), 24).unwrap());
                    route::push(&mut batch, &key, route::Target::Blackhole, route::Mode::Create);
                }
                socket.execute(&mut batch).unwrap();
                let events = until(&mut watch, |e| *e == KernelEvent::Overrun).await;
                assert!(events.len() < 100);
            });
        });
    }

    #[test]
    fn a_thread_delivers() {
        testing::private(|| {
            let (tx, rx) = std::sync::mpsc::channel();
            let thread = spawn("test-watch", &[Topic::Links], &[], move |e| tx.send(e).is_ok()).unwrap();
            let mut socket = Socket::route().unwrap();
            link::create_veth(&mut socket, "va", "vb", None).unwrap();
            assert!(matches!(rx.recv().unwrap(), KernelEvent::Link(_)));
            drop(rx);
            link::set_up(&mut socket, 2).unwrap();
            thread.join().unwrap();
        });
    }
}
