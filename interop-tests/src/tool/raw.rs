//! `lab-tool raw PROTOCOL`: packets by hand, driven by lines on stdin: `send TO HEX`, `forge FROM TO HEX`,
//! `hears HEX MILLISECONDS`. Payloads begin with the transport's header; its checksum is filled in.

use std::io::{BufRead, Read};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};

const ICMP: u8 = 1;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;
/// With IPPROTO_RAW, what is sent has its IP header already.
const WITH_HEADER: i32 = 255;
/// How long one look at a socket takes.
const LOOK: Duration = Duration::from_millis(5);

/// What listens, and what was heard.
struct Ears {
    sockets: Vec<Socket>,
    heard: Vec<Vec<u8>>,
}

/// Serves until stdin ends.
pub fn run(protocol: u8) -> Result<()> {
    let mut ears = Ears { sockets: Vec::new(), heard: Vec::new() };
    for domain in [Domain::IPV4, Domain::IPV6] {
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(protocol))))?;
        socket.set_read_timeout(Some(LOOK))?;
        ears.sockets.push(socket);
    }
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match words[..] {
            ["send", to, payload] => send(protocol, None, to, payload).map(|()| "ok".to_owned()),
            ["forge", from, to, payload] => send(protocol, Some(from), to, payload).map(|()| "ok".to_owned()),
            ["hears", mark, milliseconds] => ears.hear(mark, milliseconds),
            _ => Err(anyhow::anyhow!("{line:?} is no command")),
        };
        println!("{}", answer.unwrap_or_else(|error| format!("error {error:#}")));
    }
    Ok(())
}

impl Ears {
    /// Whether a packet with these bytes came, waiting for it so long.
    fn hear(&mut self, mark: &str, milliseconds: &str) -> Result<String> {
        let mark = hex::decode(mark)?;
        let until = Instant::now() + Duration::from_millis(milliseconds.parse()?);
        loop {
            for mut socket in &self.sockets {
                let mut buffer = [0; 2048];
                while let Ok(length) = socket.read(&mut buffer) {
                    self.heard.push(buffer[..length].to_vec());
                }
            }
            let found = self.heard.iter().any(|packet| packet.windows(mark.len()).any(|w| w == mark));
            if found || Instant::now() >= until {
                return Ok(if found { "yes" } else { "no" }.to_owned());
            }
        }
    }
}

fn send(protocol: u8, from: Option<&str>, to: &str, payload: &str) -> Result<()> {
    let to: IpAddr = to.parse().context("an address")?;
    let mut payload = hex::decode(payload)?;
    let source = match from {
        Some(from) => from.parse().context("an address")?,
        None => source_towards(to)?,
    };
    fill_in(protocol, source, to, &mut payload)?;
    let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let (number, packet) = match from {
        Some(_) => (WITH_HEADER, [header(protocol, source, to, payload.len())?, payload].concat()),
        None => (i32::from(protocol), payload),
    };
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(number)))?;
    socket.send_to(&packet, &SocketAddr::new(to, 0).into()).context("send")?;
    Ok(())
}

/// The address that the kernel would choose.
fn source_towards(to: IpAddr) -> Result<IpAddr> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect((to, 9)).context("no route")?;
    Ok(socket.local_addr()?.ip())
}

fn header(protocol: u8, from: IpAddr, to: IpAddr, length: usize) -> Result<Vec<u8>> {
    Ok(match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            // The kernel fills in length, number and checksum.
            let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
            bytes.extend(from.octets().into_iter().chain(to.octets()));
            bytes
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut bytes = vec![0x60, 0, 0, 0];
            bytes.extend(u16::try_from(length)?.to_be_bytes());
            // Neighbour discovery is only heard with the full hop limit.
            bytes.extend([protocol, 255]);
            bytes.extend(from.octets().into_iter().chain(to.octets()));
            bytes
        }
        _ => bail!("{from} and {to} are not of one family"),
    })
}

/// Puts the checksum into its place.
fn fill_in(protocol: u8, from: IpAddr, to: IpAddr, payload: &mut [u8]) -> Result<()> {
    let place = match protocol {
        ICMP | ICMPV6 => 2..4,
        UDP => 6..8,
        SCTP => 8..12,
        _ => return Ok(()),
    };
    let length = payload.len();
    payload.get_mut(place.clone()).context("the payload is too short")?.fill(0);
    let sum = match (protocol, from, to) {
        // Of UDP over IPv4 none is needed.
        (UDP, IpAddr::V4(_), _) => return Ok(()),
        (SCTP, ..) => crc32c(payload).to_le_bytes().to_vec(),
        (UDP | ICMPV6, IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut pseudo = [from.octets(), to.octets()].concat();
            pseudo.extend(u32::try_from(length)?.to_be_bytes());
            pseudo.extend([0, 0, 0, protocol]);
            pseudo.extend_from_slice(payload);
            checksum(&pseudo).to_be_bytes().to_vec()
        }
        _ => checksum(payload).to_be_bytes().to_vec(),
    };
    payload[place].copy_from_slice(&sum);
    Ok(())
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// The checksum of SCTP (RFC 9260, appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283, "the check value of the CRC's definition");
        assert_eq!(checksum(&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2, "RFC 1071, section 3");
    }
}
