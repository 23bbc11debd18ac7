//! The sockets: one to listen on for each family and port, one to send from for each session.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
};

use socket2::{Domain, Protocol, Socket, Type};

use super::SessionKey;
use crate::{
    model::Family,
    netlink::{ns, sockopt},
};

/// RFC 5881 section 5: sent with 255, so that nobody further away can fake it.
const TTL: u8 = 255;
/// Source ports (RFC 5881 section 4): 49152 to 65535.
const FIRST_PORT: u16 = 49152;
const PORTS: u16 = 65535 - FIRST_PORT + 1;
/// The priority of control traffic in queueing disciplines (TC_PRIO_CONTROL of linux/pkt_sched.h).
const PRIORITY: u8 = 7;

const fn domain(family: Family) -> Domain {
    match family {
        Family::Ipv4 => Domain::IPV4,
        Family::Ipv6 => Domain::IPV6,
    }
}

const fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// A socket that receives all sessions' packets of one family on one port.
pub(super) fn listen(family: Family, port: u16) -> io::Result<Socket> {
    let socket = Socket::new(domain(family), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if family == Family::Ipv6 {
        socket.set_only_v6(true)?;
    }
    sockopt::enable_packet_info(&socket, family)?;
    let address = SocketAddr::new(unspecified(family), port);
    socket.bind(&address.into()).map_err(|e| {
        io::Error::new(
            e.kind(),
            format!("cannot listen for BFD on UDP port {port}: {e}; is another BFD daemon running?"),
        )
    })?;
    Ok(socket)
}

/// A session's sending end.
#[derive(Debug)]
pub(super) struct Sender {
    socket: Socket,
    to: SocketAddr,
    port: u16,
}

impl Sender {
    /// Opens a socket for the session, from `port` if that is free and else from some other of the range.
    pub(super) fn open(key: &SessionKey, destination_port: u16, port: u16) -> io::Result<Self> {
        let family = Family::of(key.peer);
        let socket = Socket::new(domain(family), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        sockopt::set_ttl(&socket, family, TTL)?;
        sockopt::set_tos(&socket, family, sockopt::TOS_CS6)?;
        sockopt::set_priority(&socket, PRIORITY)?;
        // The address may come a moment later than the session.
        sockopt::set_freebind(&socket, family, true)?;
        if family == Family::Ipv6 {
            socket.set_only_v6(true)?;
        }
        if let Some(interface) = &key.interface {
            sockopt::bind_device(&socket, Some(interface))?;
        }
        let ifindex = interface_index(key);
        let port = bind(&socket, key.local.unwrap_or(unspecified(family)), ifindex, port)?;
        let to = scoped(key.peer, destination_port, ifindex);
        Ok(Self { socket, to, port })
    }

    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn send(&self, packet: &[u8]) -> io::Result<()> {
        self.socket.send_to(packet, &self.to.into()).map(drop)
    }
}

/// The index of the session's interface; 0 when it has none, or the interface is not there.
pub(super) fn interface_index(key: &SessionKey) -> u32 {
    key.interface.as_deref().and_then(|name| ns::ifindex(name).ok()).unwrap_or(0)
}

fn scoped(address: IpAddr, port: u16, ifindex: u32) -> SocketAddr {
    match address {
        IpAddr::V6(a) if a.is_unicast_link_local() => SocketAddrV6::new(a, port, 0, ifindex).into(),
        _ => SocketAddr::new(address, port),
    }
}

/// Binds to the first free port of the range, from `wanted` on.
fn bind(socket: &Socket, address: IpAddr, ifindex: u32, wanted: u16) -> io::Result<u16> {
    let start = wanted.saturating_sub(FIRST_PORT);
    for i in 0..PORTS {
        let port = FIRST_PORT + (start % PORTS + i) % PORTS;
        match socket.bind(&scoped(address, port, ifindex).into()) {
            Ok(()) => return Ok(port),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}
