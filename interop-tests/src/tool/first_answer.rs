//! `lab-tool first-answer`: for each address on stdin, pings until it answers and prints it.
//!
//! It is started ahead of the moment that is measured, so the start of a process is no part of
//! the figure; the resolution is one [`PAUSE`].

use std::io::{BufRead, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};

/// Between two echo requests.
const PAUSE: Duration = Duration::from_micros(500);
/// Between two looks for an answer. Socket timeouts are as coarse as the kernel's tick; sleeping is not.
const LOOK: Duration = Duration::from_micros(50);
const LIMIT: Duration = Duration::from_secs(20);

/// ICMP types (RFC 792, RFC 4443).
const ECHO_REQUEST: [u8; 2] = [8, 128];
const ECHO_REPLY: [u8; 2] = [0, 129];

/// Serves until stdin ends.
pub fn run() -> Result<()> {
    let stdin = std::io::stdin().lock();
    println!("ready");
    for line in stdin.lines() {
        let address: IpAddr = line.context("read an address")?.trim().parse().context("an address")?;
        wait_for(address)?;
        println!("{address}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn wait_for(address: IpAddr) -> Result<()> {
    let (domain, protocol) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let mut socket = Socket::new(domain, Type::RAW, Some(protocol)).context("raw socket")?;
    socket.set_nonblocking(true)?;
    let to = SocketAddr::new(address, 0).into();
    let id = (std::process::id() as u16).to_be_bytes();
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        // An error here is a route that is not there yet.
        drop(socket.send_to(&echo_request(address, id), &to));
        let until = Instant::now() + PAUSE;
        while Instant::now() < until {
            let mut packet = [0; 256];
            let Ok(length) = socket.read(&mut packet) else {
                std::thread::sleep(LOOK);
                continue;
            };
            if is_answer(&packet[..length], address, id) {
                return Ok(());
            }
        }
    }
    bail!("{address} does not answer within {LIMIT:?}")
}

/// An echo request. The kernel fills in the ICMPv6 checksum, not the ICMPv4 one.
fn echo_request(to: IpAddr, id: [u8; 2]) -> [u8; 8] {
    let kind = if to.is_ipv4() { ECHO_REQUEST[0] } else { ECHO_REQUEST[1] };
    let mut packet = [kind, 0, 0, 0, id[0], id[1], 0, 1];
    if to.is_ipv4() {
        let words = packet.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
        let sum: u32 = words.sum();
        let folded = !((sum & 0xffff) + (sum >> 16)) as u16;
        packet[2..4].copy_from_slice(&folded.to_be_bytes());
    }
    packet
}

/// Whether a packet is the reply to our request. Raw IPv4 sockets deliver the IP header too.
fn is_answer(packet: &[u8], from: IpAddr, id: [u8; 2]) -> bool {
    let (icmp, kind) = match from {
        IpAddr::V4(from) => {
            let header = usize::from(packet.first().unwrap_or(&0) & 0xf) * 4;
            if packet.get(12..16) != Some(&from.octets()[..]) {
                return false;
            }
            (packet.get(header..).unwrap_or_default(), ECHO_REPLY[0])
        }
        IpAddr::V6(_) => (packet, ECHO_REPLY[1]),
    };
    icmp.first() == Some(&kind) && icmp.get(4..6) == Some(&id[..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_carry_a_valid_checksum() {
        let packet = echo_request("192.0.2.1".parse().unwrap(), [0xff, 0xfe]);
        let sum: u32 = packet.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }

    #[test]
    fn only_the_reply_to_our_id_counts() {
        let from = "192.0.2.1".parse().unwrap();
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
        packet.extend([0, 0, 0, 0, 7, 7, 0, 1]);
        assert!(is_answer(&packet, from, [7, 7]));
        assert!(!is_answer(&packet, from, [7, 8]));
        assert!(!is_answer(&packet[..21], from, [7, 7]));
        assert!(!is_answer(&[], from, [7, 7]));
        assert!(is_answer(&[129, 0, 0, 0, 7, 7, 0, 1], "2001:db8::1".parse().unwrap(), [7, 7]));
    }
}
