//! TCP sockets with the options a BGP session needs.

use std::{
    io,
    net::{IpAddr, SocketAddr, SocketAddrV6},
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::{SpeakerError, auth};
use crate::{
    bgp::config::{PeerSettings, SpeakerConfig},
    model::{Asn, Family},
    netlink::sockopt,
};

/// Connections waiting to be accepted: a reflector's peers may all come back at once.
const BACKLOG: i32 = 1024;
/// The TTL of packets that GTSM lets through (RFC 5082 section 3).
const MAX_TTL: u8 = 255;

/// The TTL of what is sent to a peer and the least one of what it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ttl {
    send: Option<u8>,
    least: u8,
}

impl Ttl {
    pub(super) fn of(local_asn: Asn, peer: &PeerSettings) -> Self {
        if let Some(hops) = peer.ttl_security {
            return Self { send: Some(MAX_TTL), least: MAX_TTL.saturating_sub(hops.saturating_sub(1)) };
        }
        let internal_only = !may_be_external(local_asn, peer);
        Self { send: peer.multihop.or(if internal_only { None } else { Some(1) }), least: 0 }
    }

    fn apply(self, socket: &impl std::os::fd::AsFd, family: Family) -> io::Result<()> {
        if let Some(ttl) = self.send {
            sockopt::set_ttl(socket, family, ttl)?;
        }
        if self.least > 0 {
            sockopt::set_min_ttl(socket, family, self.least)?;
        }
        Ok(())
    }
}

fn may_be_external(local_asn: Asn, peer: &PeerSettings) -> bool {
    use crate::bgp::config::RemoteAs;
    match &peer.asn {
        RemoteAs::Is(asn) => *asn != peer.local_asn.unwrap_or(local_asn),
        RemoteAs::Internal => false,
        RemoteAs::External => true,
        RemoteAs::OneOf(list) => list.iter().any(|asn| *asn != peer.local_asn.unwrap_or(local_asn)),
    }
}

/// An address without the IPv4-mapped form that IPv6 sockets give.
pub(super) fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::from((v4, v6.port())),
            None => addr,
        },
        SocketAddr::V4(_) => addr,
    }
}

/// The scope of an address: the interface of a link-local one.
pub(super) fn scope(addr: SocketAddr) -> u32 {
    match addr {
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => v6.scope_id(),
        _ => 0,
    }
}

/// Connects to a peer.
pub(super) async fn dial(to: SocketAddr, local_asn: Asn, peer: &PeerSettings) -> io::Result<TcpStream> {
    let family = Family::of(to.ip());
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    common(&socket, family)?;
    Ttl::of(local_asn, peer).apply(&socket, family)?;
    if let Some(device) = &peer.bind_device {
        sockopt::bind_device(&socket, Some(device)).map_err(|e| named(e, &format!("device {device}")))?;
    }
    if let Some(source) = peer.local_address {
        let source = match (source, to) {
            (IpAddr::V6(v6), SocketAddr::V6(to)) if v6.is_unicast_link_local() => {
                SocketAddr::V6(SocketAddrV6::new(v6, 0, 0, to.scope_id()))
            }
            _ => SocketAddr::new(source, 0),
        };
        socket.bind(&source.into()).map_err(|e| named(e, &format!("source address {}", source.ip())))?;
    }
    auth::before_dial(&socket, to.ip(), peer)?;
    TcpSocket::from_std_stream(socket.into()).connect(to).await
}

pub(super) fn named(error: io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// What holds for every BGP connection.
fn common(socket: &impl std::os::fd::AsFd, family: Family) -> io::Result<()> {
    let reference = SockRef::from(socket);
    // Messages are gathered before they are written; what is written shall go out.
    reference.set_tcp_nodelay(true)?;
    sockopt::set_tos(socket, family, sockopt::TOS_CS6)
}

/// Prepares an accepted connection of a known peer.
pub(super) fn adopt(stream: &TcpStream, local_asn: Asn, peer: &PeerSettings) -> io::Result<()> {
    let family = match stream.local_addr()? {
        SocketAddr::V4(_) => Family::Ipv4,
        SocketAddr::V6(_) => Family::Ipv6,
    };
    auth::accepted(stream, peer)?;
    common(stream, family)?;
    Ttl::of(local_asn, peer).apply(stream, family)
}

/// Opens a listening socket. `None`: the host does not have that family, and the address is its wildcard.
pub(super) fn listen(addr: SocketAddr) -> Result<Option<TcpListener>, SpeakerError> {
    let bound = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        // A restart must not wait for the old connections' TIME_WAIT.
        socket.set_reuse_address(true)?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        let family = Family::of(addr.ip());
        sockopt::set_tos(&socket, family, sockopt::TOS_CS6)?;
        // The SYN-ACK goes out before the peer is known; one that uses GTSM would drop it with a lower TTL.
        sockopt::set_ttl(&socket, family, MAX_TTL)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    match bound() {
        Ok(listener) => Ok(Some(listener)),
        Err(e)
            if addr.ip().is_unspecified()
                && matches!(e.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) =>
        {
            Ok(None)
        }
        Err(source) => Err(SpeakerError::Listen { addr, source }),
    }
}

/// Lets a listener drop what comes from too far away, if every peer that may connect to it uses TTL security. With
/// others among them, only the accepted connection can be told to, which lets an OPEN slip through, but no session.
pub(super) fn set_listener_ttl(listener: &TcpListener, config: &SpeakerConfig) -> io::Result<()> {
    let family = Family::of(listener.local_addr()?.ip());
    let peers = config.peers.iter().map(|p| &p.settings);
    let ranges = config.listen_ranges.iter().map(|r| &r.settings);
    let least = peers.chain(ranges).map(|settings| Ttl::of(config.asn, settings).least).min();
    sockopt::set_min_ttl(listener, family, least.unwrap_or(0))
}
