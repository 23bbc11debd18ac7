//! From a link header down to a TCP segment.

use std::net::{IpAddr, SocketAddr};

use super::fragments::{Datagram, Fragment, Key};

/// Link types (https://www.tcpdump.org/linktypes.html).
mod link {
    pub(super) const NULL: u16 = 0;
    pub(super) const ETHERNET: u16 = 1;
    pub(super) const PPP: u16 = 9;
    pub(super) const RAW_BSD: u16 = 12;
    pub(super) const RAW_OPENBSD: u16 = 14;
    pub(super) const PPP_HDLC: u16 = 50;
    pub(super) const RAW: u16 = 101;
    pub(super) const CISCO_HDLC: u16 = 104;
    pub(super) const LOOP: u16 = 108;
    pub(super) const LINUX_SLL: u16 = 113;
    pub(super) const IPV4: u16 = 228;
    pub(super) const IPV6: u16 = 229;
    pub(super) const LINUX_SLL2: u16 = 276;
}

const IPV4: u8 = 4;
const TCP: u8 = 6;
const IPV6: u8 = 41;
const GRE: u8 = 47;
pub(super) const SYN: u8 = 0x02;
pub(super) const ACK: u8 = 0x10;

/// A TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment<'a> {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) sequence: u32,
    /// The octet that the sender wants next, with the ACK flag.
    pub(super) acknowledged: u32,
    pub(super) flags: u8,
    pub(super) payload: &'a [u8],
}

/// What is in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inside<'a> {
    Tcp(Segment<'a>),
    /// A piece of a datagram.
    Fragment(Fragment<'a>),
    /// Nobody knows: the link type is none of those that are read.
    UnknownLink,
}

/// How many headers of IP and of tunnels are opened, one in another.
const MAX_DEPTH: u8 = 8;

/// The TCP segment in a packet, tunnels opened, or a piece of a datagram; `None` for anything else.
pub(super) fn inside(link: u16, packet: &[u8]) -> Option<Inside<'_>> {
    let packet = match link {
        link::ETHERNET => by_ethertype(u16_at(packet, 12)?, packet.get(14..)?)?,
        link::PPP => ppp(packet)?,
        // One or the other, by the address octet.
        link::PPP_HDLC if packet.first() == Some(&0xFF) => ppp(packet)?,
        link::PPP_HDLC | link::CISCO_HDLC => by_ethertype(u16_at(packet, 2)?, packet.get(4..)?)?,
        link::LINUX_SLL => by_ethertype(u16_at(packet, 14)?, packet.get(16..)?)?,
        link::LINUX_SLL2 => by_ethertype(u16_at(packet, 0)?, packet.get(20..)?)?,
        link::NULL | link::LOOP => packet.get(4..)?,
        link::RAW | link::RAW_BSD | link::RAW_OPENBSD | link::IPV4 | link::IPV6 => packet,
        _ => return Some(Inside::UnknownLink),
    };
    ip(packet, MAX_DEPTH)
}

/// What a datagram that was put together holds.
pub(super) fn inside_datagram(datagram: &Datagram) -> Option<Inside<'_>> {
    let Datagram { source, destination, protocol, payload } = datagram;
    transport((*source, *destination), *protocol, payload, MAX_DEPTH)
}

/// The version tells the family better than a link header does.
fn ip(packet: &[u8], depth: u8) -> Option<Inside<'_>> {
    match packet.first()? >> 4 {
        4 => ipv4(packet, depth),
        6 => ipv6(packet, depth),
        _ => None,
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk::<2>().copied().map(u16::from_be_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk::<4>().copied().map(u32::from_be_bytes)
}

fn by_ethertype(mut kind: u16, mut payload: &[u8]) -> Option<&[u8]> {
    loop {
        match kind {
            0x0800 | 0x86DD => return Some(payload),
            // VLAN tags, one in another.
            0x8100 | 0x88A8 | 0x9100 => (kind, payload) = (u16_at(payload, 2)?, payload.get(4..)?),
            // PPP over Ethernet: after six octets of its own, what PPP carries.
            0x8864 => (kind, payload) = (ppp_ethertype(u16_at(payload, 6)?)?, payload.get(8..)?),
            // MPLS labels down to the bottom of the stack; then an IP version tells itself.
            0x8847 | 0x8848 => {
                let bottom = payload.get(2)? & 1 != 0;
                payload = payload.get(4..)?;
                if bottom {
                    return Some(payload);
                }
            }
            _ => return None,
        }
    }
}

const fn ppp_ethertype(protocol: u16) -> Option<u16> {
    match protocol {
        0x0021 => Some(0x0800),
        0x0057 => Some(0x86DD),
        // MPLS (RFC 3032 section 4.3).
        0x0281 | 0x0283 => Some(0x8847),
        _ => None,
    }
}

/// PPP, with or without the address and control octets of HDLC, the protocol in two octets or (odd) in one (RFC 1661
/// section 6.5).
fn ppp(frame: &[u8]) -> Option<&[u8]> {
    let frame = frame.strip_prefix(&[0xFF, 0x03]).unwrap_or(frame);
    let (protocol, payload) = match frame.first()? {
        short if short & 1 != 0 => (u16::from(*short), frame.get(1..)?),
        _ => (u16_at(frame, 0)?, frame.get(2..)?),
    };
    by_ethertype(ppp_ethertype(protocol)?, payload)
}

fn ipv4(packet: &[u8], depth: u8) -> Option<Inside<'_>> {
    let header_len = usize::from(packet.first()? & 0x0F) * 4;
    let total = usize::from(u16_at(packet, 2)?);
    // A packet captured before segmentation offload may say 0.
    let packet = if total == 0 { packet } else { packet.get(..total.min(packet.len()))? };
    if header_len < 20 {
        return None;
    }
    let protocol = *packet.get(9)?;
    let source = IpAddr::from(*packet.get(12..)?.first_chunk::<4>()?);
    let destination = IpAddr::from(*packet.get(16..)?.first_chunk::<4>()?);
    let data = packet.get(header_len..)?;
    let place = u16_at(packet, 6)?;
    if place & 0x3FFF != 0 {
        let id = u16_at(packet, 4)?.into();
        let key = Key { source, destination, id, protocol: Some(protocol) };
        let (offset, more) = (usize::from(place & 0x1FFF) * 8, place & 0x2000 != 0);
        return Some(Inside::Fragment(Fragment { key, protocol, offset, more, data }));
    }
    transport((source, destination), protocol, data, depth)
}

fn ipv6(packet: &[u8], depth: u8) -> Option<Inside<'_>> {
    let length = usize::from(u16_at(packet, 4)?);
    let next = *packet.get(6)?;
    let source = IpAddr::from(*packet.get(8..)?.first_chunk::<16>()?);
    let destination = IpAddr::from(*packet.get(24..)?.first_chunk::<16>()?);
    let mut rest = packet.get(40..)?;
    if length != 0 {
        rest = &rest[..length.min(rest.len())];
    }
    transport((source, destination), next, rest, depth)
}

/// What follows an IP header: through the extension headers of IPv6 and through tunnels.
fn transport(
    (source, destination): (IpAddr, IpAddr),
    mut next: u8,
    mut rest: &[u8],
    depth: u8,
) -> Option<Inside<'_>> {
    let depth = depth.checked_sub(1)?;
    loop {
        let header_len = match next {
            TCP => return tcp(source, destination, rest).map(Inside::Tcp),
            IPV4 | IPV6 => return ip(rest, depth),
            GRE => return gre(rest, depth),
            // Hop-by-hop, routing, destination options.
            0 | 43 | 60 => usize::from(*rest.get(1)?) * 8 + 8,
            // A fragment header, which may say that nothing is fragmented.
            44 => {
                let (place, id) = (u16_at(rest, 2)?, u32_at(rest, 4)?);
                if place & 0xFFF9 != 0 {
                    let key = Key { source, destination, id, protocol: None };
                    let (offset, more) = (usize::from(place & 0xFFF8), place & 1 != 0);
                    let (protocol, data) = (*rest.first()?, rest.get(8..)?);
                    return Some(Inside::Fragment(Fragment { key, protocol, offset, more, data }));
                }
                8
            }
            // Authentication header.
            51 => usize::from(*rest.get(1)?) * 4 + 8,
            _ => return None,
        };
        next = *rest.first()?;
        rest = rest.get(header_len..)?;
    }
}

/// GRE (RFC 2784, RFC 2890), as tunnels and as switches that mirror packets use it.
fn gre(packet: &[u8], depth: u8) -> Option<Inside<'_>> {
    let (flags, kind) = (u16_at(packet, 0)?, u16_at(packet, 2)?);
    // Version 0; source routes (RFC 1701) are of the past.
    if flags & 0x4007 != 0 {
        return None;
    }
    let options: usize = [0x8000, 0x2000, 0x1000].into_iter().filter(|bit| flags & bit != 0).map(|_| 4).sum();
    let payload = packet.get(4 + options..)?;
    let ethernet = match kind {
        0x6558 => payload,
        // ERSPAN: type I has no header of its own and no sequence number; type II has eight octets, type III twelve
        // and perhaps eight more.
        0x88BE if flags & 0x1000 == 0 => payload,
        0x88BE => payload.get(8..)?,
        0x22EB => payload.get(if payload.get(11)? & 1 != 0 { 20 } else { 12 }..)?,
        _ => return ip(by_ethertype(kind, payload)?, depth),
    };
    ip(by_ethertype(u16_at(ethernet, 12)?, ethernet.get(14..)?)?, depth)
}

fn tcp(source: IpAddr, destination: IpAddr, bytes: &[u8]) -> Option<Segment<'_>> {
    let header_len = usize::from(*bytes.get(12)? >> 4) * 4;
    if header_len < 20 {
        return None;
    }
    Some(Segment {
        source: SocketAddr::new(source, u16_at(bytes, 0)?),
        destination: SocketAddr::new(destination, u16_at(bytes, 2)?),
        sequence: u32_at(bytes, 4)?,
        acknowledged: u32_at(bytes, 8)?,
        flags: *bytes.get(13)?,
        payload: bytes.get(header_len..)?,
    })
}
