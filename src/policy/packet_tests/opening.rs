//! The packets that begin TCP connections and SCTP associations, by raw sockets: whether one arrives is the answer, and
//! nobody has to wait for what does not.

use std::{
    io::Read,
    net::{IpAddr, SocketAddr},
};

use socket2::{Domain, Protocol as IpProtocol, Socket, Type};

use super::raw::checksum;
use crate::policy::Protocol;

/// The protocols with ports.
pub(super) const KINDS: [Protocol; 3] = [Protocol::UDP, Protocol::TCP, Protocol::SCTP];

/// The flags of a TCP header (RFC 9293 section 3.1).
const SYN: u8 = 2;
/// A TCP header of five words, in the upper half of the octet.
const NO_OPTIONS: u8 = 5 << 4;
/// The chunk that begins an association (RFC 9260 section 3.3.2).
const INIT: u8 = 1;

/// A socket for all packets of a protocol to an address, which sends from there; it never waits.
pub(super) fn socket(addr: IpAddr, protocol: Protocol) -> Socket {
    let domain = if addr.is_ipv6() { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::RAW, Some(IpProtocol::from(i32::from(protocol.0)))).unwrap();
    socket.bind(&SocketAddr::new(addr, 0).into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// A SYN with `mark` as its sequence number.
pub(super) fn tcp(from: IpAddr, to: IpAddr, ports: [u16; 2], mark: u32) -> Vec<u8> {
    let mut segment = header(ports);
    segment.extend(mark.to_be_bytes());
    segment.extend([0, 0, 0, 0, NO_OPTIONS, SYN, 0xff, 0xff, 0, 0, 0, 0]);
    let octets = |addr: IpAddr| match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    };
    let pseudo = [octets(from), octets(to), vec![0, Protocol::TCP.0, 0, segment.len() as u8]].concat();
    let sum = checksum(&[pseudo, segment.clone()].concat());
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// An INIT with `mark` as its initial TSN.
pub(super) fn sctp(ports: [u16; 2], mark: u32) -> Vec<u8> {
    let mut packet = header(ports);
    // Verification tag 0, the checksum, the chunk: type, flags, length, initiate tag, window, streams, TSN.
    packet.extend([0; 8]);
    packet.extend([INIT, 0, 0, 20, 0x51, 0x51, 0x51, 0x51, 0, 1, 0, 0, 0, 1, 0, 1]);
    packet.extend(mark.to_be_bytes());
    let checksum = crc32c(&packet);
    packet[8..12].copy_from_slice(&checksum.to_le_bytes());
    packet
}

/// The next packet behind its IP header, if there is one.
pub(super) fn next(mut socket: &Socket) -> Option<Vec<u8>> {
    let mut buffer = [0; 256];
    let length = socket.read(&mut buffer).ok()?;
    // IPv4 hands over the header as well.
    let from = if socket.domain().unwrap() == Domain::IPV4 { 20 } else { 0 };
    Some(buffer[from..length].to_vec())
}

/// The mark in a packet of [`tcp`] or [`sctp`]; none in others, such as a RST, or a SYN of the kernel's, which has options.
pub(super) fn mark(protocol: Protocol, packet: &[u8]) -> Option<u32> {
    let (begins, at) = if protocol == Protocol::TCP {
        (packet.get(12..14) == Some(&[NO_OPTIONS, SYN]), 4)
    } else {
        (packet.get(12) == Some(&INIT), 28)
    };
    begins.then(|| u32::from_be_bytes(packet[at..at + 4].try_into().unwrap()))
}

fn header(ports: [u16; 2]) -> Vec<u8> {
    ports.into_iter().flat_map(u16::to_be_bytes).collect()
}

/// CRC-32C (RFC 9260 appendix A), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ (0x82f6_3b78 & 0u32.wrapping_sub(crc & 1)))
    })
}

#[test]
fn the_check_value_of_the_crc() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}
