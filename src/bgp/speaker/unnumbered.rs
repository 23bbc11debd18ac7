//! BGP unnumbered: finding the neighbour on an interface by router advertisements (RFC 4861), and letting it find us.
//!
//! Our advertisements have a router lifetime of 0: they say that we are here, not that we are anybody's default router.
//! A raw socket is used since the kernel ignores advertisements on hosts that forward.

use std::{
    io,
    net::{Ipv6Addr, SocketAddr, SocketAddrV6},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{io::Interest, net::UdpSocket, sync::mpsc, time::Instant};

use super::peer::FromTask;
use crate::{
    bgp::PeerId,
    model::Family,
    netlink::{ns::ifindex, sockopt},
};

/// ff02::1
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// ff02::2
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// Message types (RFC 4861 section 4).
const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
/// Every neighbour discovery message must arrive with this hop limit (RFC 4861 section 6.1).
const HOP_LIMIT: u8 = 255;
/// Between advertisements: as FRR does for unnumbered neighbours.
const INTERVAL: Duration = Duration::from_secs(10);
/// Between the first ones, and between attempts.
const SOON: Duration = Duration::from_secs(1);
/// How many first ones (MAX_INITIAL_RTR_ADVERTISEMENTS, RFC 4861 section 10).
const FIRST: u32 = 3;

/// Looks for the neighbour on an interface until aborted. The interface may come and go.
pub(super) async fn discover(peer: PeerId, interface: String, found: mpsc::UnboundedSender<FromTask>) {
    let mut told: Option<String> = None;
    loop {
        let Err(error) = watch(peer, &interface, &found).await;
        let error = error.to_string();
        if told.as_deref() != Some(error.as_str()) {
            tracing::warn!(%interface, %error, "cannot look for a BGP neighbour yet");
            told = Some(error);
        }
        tokio::time::sleep(SOON).await;
    }
}

/// Sends and receives on the interface as long as it can.
async fn watch(
    peer: PeerId,
    interface: &str,
    found: &mpsc::UnboundedSender<FromTask>,
) -> io::Result<std::convert::Infallible> {
    let index = ifindex(interface).map_err(io::Error::other)?;
    let socket = open(interface, index)?;
    let mut known = None;
    let mut sent = 0;
    // A neighbour that is there already answers at once.
    let mut solicit = true;
    let mut next = Instant::now();
    loop {
        let mut advertise = false;
        tokio::select! {
            () = tokio::time::sleep_until(next) => advertise = true,
            message = receive(&socket, index) => match message? {
                Some(Heard::Router(addr)) if known != Some(addr) => {
                    known = Some(addr);
                    tracing::info!(interface, %addr, "BGP neighbour found");
                    let address = SocketAddr::V6(SocketAddrV6::new(addr, 0, 0, index));
                    // The manager outlives this task, except when the runtime is shut down under it.
                    let _ = found.send(FromTask::Neighbour { peer, address });
                }
                Some(Heard::Solicitation) => next = next.min(Instant::now() + Duration::from_millis(50)),
                _ => {}
            },
        }
        if advertise {
            let result = send(&socket, index, ALL_NODES, &advertisement()).and_then(|()| {
                if solicit { send(&socket, index, ALL_ROUTERS, &solicitation()) } else { Ok(()) }
            });
            match result {
                Ok(()) => {
                    sent += 1;
                    solicit = known.is_none();
                }
                // The link-local address is not ready yet.
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
                Err(error) => return Err(error),
            }
            next = Instant::now() + if sent < FIRST || known.is_none() { SOON } else { INTERVAL };
        }
    }
}

/// A raw socket in the clothes of a datagram socket, which to the event loop it is.
fn open(interface: &str, index: u32) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.set_nonblocking(true)?;
    sockopt::bind_device(&socket, Some(interface))?;
    sockopt::enable_packet_info(&socket, Family::Ipv6)?;
    socket.set_multicast_hops_v6(HOP_LIMIT.into())?;
    socket.set_multicast_if_v6(index)?;
    socket.set_multicast_loop_v6(false)?;
    socket.join_multicast_v6(&ALL_ROUTERS, index)?;
    UdpSocket::from_std(socket.into())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// A router, by its link-local address.
    Router(Ipv6Addr),
    /// Somebody wants to know who is here.
    Solicitation,
}

async fn receive(socket: &UdpSocket, index: u32) -> io::Result<Option<Heard>> {
    let mut buffer = [0; 1500];
    let packet = socket.async_io(Interest::READABLE, || sockopt::recv_packet(socket, &mut buffer)).await?;
    let bytes = buffer.get(..packet.len).unwrap_or_default();
    Ok(parse(bytes, packet.from, packet.ttl).filter(|_| packet.ifindex == index))
}

/// What a message says, if it is valid (RFC 4861 sections 6.1.1 and 6.1.2). The kernel has verified the checksum.
fn parse(message: &[u8], from: SocketAddr, hop_limit: Option<u8>) -> Option<Heard> {
    let SocketAddr::V6(from) = from else { return None };
    let (&[kind, code, _, _], rest) = message.split_first_chunk::<4>()?;
    if code != 0 || hop_limit != Some(HOP_LIMIT) {
        return None;
    }
    match kind {
        ADVERTISEMENT if rest.len() >= 12 && from.ip().is_unicast_link_local() => {
            Some(Heard::Router(*from.ip()))
        }
        SOLICITATION if rest.len() >= 4 => Some(Heard::Solicitation),
        _ => None,
    }
}

fn send(socket: &UdpSocket, index: u32, to: Ipv6Addr, message: &[u8]) -> io::Result<()> {
    let to = SocketAddrV6::new(to, 0, 0, index);
    match socket.try_send_to(message, to.into()) {
        // The queue of the interface is full; there will be another one.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        result => result.map(drop),
    }
}

/// Type, code, checksum (the kernel's work); hop limit, flags, router lifetime 0, reachable time, retransmission timer.
fn advertisement() -> [u8; 16] {
    let mut message = [0; 16];
    message[0] = ADVERTISEMENT;
    message
}

/// Type, code, checksum, reserved.
fn solicitation() -> [u8; 8] {
    let mut message = [0; 8];
    message[0] = SOLICITATION;
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_valid_messages_count() {
        let from: SocketAddr = "[fe80::1%3]:0".parse().unwrap();
        let router = Some(Heard::Router("fe80::1".parse().unwrap()));
        assert_eq!(parse(&advertisement(), from, Some(255)), router);
        assert_eq!(parse(&solicitation(), from, Some(255)), Some(Heard::Solicitation));
        // Forwarded, so not from the link.
        assert_eq!(parse(&advertisement(), from, Some(254)), None);
        assert_eq!(parse(&advertisement(), from, None), None);
        // Not from a link-local address.
        assert_eq!(parse(&advertisement(), "[2001:db8::1]:0".parse().unwrap(), Some(255)), None);
        assert_eq!(parse(&advertisement(), "192.0.2.1:0".parse().unwrap(), Some(255)), None);
        assert_eq!(parse(&advertisement()[..15], from, Some(255)), None);
        assert_eq!(parse(&[], from, Some(255)), None);
        let mut odd = advertisement();
        odd[1] = 1;
        assert_eq!(parse(&odd, from, Some(255)), None);
    }
}
