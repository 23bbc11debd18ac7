//! Captured packets, with the kernel's time of each: what was said when, whatever the computer was busy with.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// Link types of <https://www.tcpdump.org/linktypes.html>.
const ETHERNET: u32 = 1;
const COOKED_V2: u32 = 276;

/// A TCP or UDP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Since 1970.
    pub time: Duration,
    /// The source address.
    pub from: IpAddr,
    /// The destination address.
    pub to: IpAddr,
    /// The destination port.
    pub port: u16,
    /// 6 for TCP, 17 for UDP.
    pub protocol: u8,
    /// What TCP or UDP carries.
    pub data: Vec<u8>,
}

/// The TCP and UDP packets of a file in pcap format with microseconds, as tcpdump writes it. What is cut off at its end
/// is not there yet.
pub(crate) fn parse(file: &[u8]) -> Result<Vec<Packet>> {
    let word = |at: usize| -> Option<u32> { Some(u32::from_le_bytes(*file.get(at..)?.first_chunk()?)) };
    ensure!(word(0) == Some(0xa1b2_c3d4), "no pcap file of this computer");
    let link = word(20).context("the header is cut off")?;
    let mut packets = Vec::new();
    let mut at = 24;
    while let (Some(seconds), Some(micros), Some(length)) = (word(at), word(at + 4), word(at + 8)) {
        let Some(frame) = file.get(at + 16..at + 16 + length as usize) else { break };
        let time = Duration::from_secs(seconds.into()) + Duration::from_micros(micros.into());
        let payload = match link {
            ETHERNET => frame.get(14..),
            COOKED_V2 => frame.get(20..),
            other => anyhow::bail!("link type {other}"),
        };
        packets.extend(payload.and_then(|payload| packet(time, payload)));
        at += 16 + length as usize;
    }
    Ok(packets)
}

/// No fragments, no extension headers: neither BGP nor BFD has them here.
fn packet(time: Duration, ip: &[u8]) -> Option<Packet> {
    let (from, to, protocol, transport): (IpAddr, IpAddr, u8, &[u8]) = match ip.first()? >> 4 {
        4 => {
            let end = usize::from(u16::from_be_bytes(*ip.get(2..)?.first_chunk()?));
            let from = *ip.get(12..)?.first_chunk::<4>()?;
            let to = *ip.get(16..)?.first_chunk::<4>()?;
            (from.into(), to.into(), *ip.get(9)?, ip.get(usize::from(ip[0] & 0xf) * 4..end)?)
        }
        6 => {
            let end = 40 + usize::from(u16::from_be_bytes(*ip.get(4..)?.first_chunk()?));
            let from = *ip.get(8..)?.first_chunk::<16>()?;
            let to = *ip.get(24..)?.first_chunk::<16>()?;
            (from.into(), to.into(), *ip.get(6)?, ip.get(40..end)?)
        }
        _ => return None,
    };
    let port = u16::from_be_bytes(*transport.get(2..)?.first_chunk()?);
    let header = match protocol {
        6 => usize::from(transport.get(12)? >> 4) * 4,
        17 => 8,
        _ => return None,
    };
    Some(Packet { time, from, to, port, protocol, data: transport.get(header..)?.to_vec() })
}

impl Packet {
    /// The state and the diagnostic of a BFD control packet (RFC 5880 section 4.1).
    pub fn bfd(&self) -> Option<(u8, u8)> {
        let [first, second, ..] = *self.data else { return None };
        (self.protocol == 17 && self.port == 3784).then_some((second >> 6, first & 0x1f))
    }

    /// Code and subcode of a BGP NOTIFICATION that the segment begins with.
    pub fn notification(&self) -> Option<(u8, u8)> {
        let message = self.data.strip_prefix(&[0xff; 16])?;
        let [_, _, 3, code, subcode, ..] = *message else { return None };
        Some((code, subcode))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_bfd_and_notifications() {
        let mut file = hex::decode("d4c3b2a1020004000000000000000000000004001400000000").unwrap();
        file.truncate(20);
        file.extend(276_u32.to_le_bytes());
        let mut record = |ip: &[u8]| {
            let length = (20 + ip.len()) as u32;
            for word in [7, 5, length, length] {
                file.extend(u32::to_le_bytes(word));
            }
            file.extend([0; 20]);
            file.extend(ip);
        };
        // IPv4, UDP to 3784: BFD, Down, detection time expired.
        let mut udp = hex::decode("45c0003400000000ff110000c6120103c6120102c0000ec800200000").unwrap();
        udp.extend([0x21, 0x40]);
        udp.extend([0; 22]);
        record(&udp);
        // IPv6, TCP: Cease/10, and padding that is not the packet's.
        let mut tcp = hex::decode("6000000000290640").unwrap();
        tcp.extend([0x20; 32]);
        tcp.extend(hex::decode("0100 00b3 00000000 00000000 50180000 00000000".replace(' ', "")).unwrap());
        tcp.extend([0xff; 16]);
        tcp.extend([0, 21, 3, 6, 10, 0, 0]);
        record(&tcp);
        let packets = parse(&file).unwrap();
        assert_eq!(packets.len(), 2);
        assert_eq!(packets[0].time, Duration::new(7, 5000));
        assert_eq!(packets[0].from.to_string(), "198.18.1.3");
        assert_eq!(packets[0].bfd(), Some((1, 1)));
        assert_eq!(packets[1].notification(), Some((6, 10)));
        assert_eq!(packets[1].data.len(), 21);
        // The last record is not whole yet.
        assert_eq!(parse(&file[..file.len() - 1]).unwrap().len(), 1);
    }
}
