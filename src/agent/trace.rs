//! `policy trace`: refused packets as they happen.
//!
//! While somebody traces, the rules that refuse also log, at most so often, to an nflog group, and a thread listens to
//! it. Tracing ends when nobody has asked for a while; then the rules are without log statements again.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    netlink::{LoggedPacket, NfLog},
    policy::{Flow, Protocol},
};

/// How long tracing goes on without anybody asking.
const LEASE: Duration = Duration::from_secs(10);
/// How many packets wait to be fetched; older ones are lost and counted.
const ROOM: usize = 4096;

/// A packet with its number and the time it was refused.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    pub(super) number: u64,
    /// Since the epoch.
    pub(super) time: Duration,
    pub(super) packet: LoggedPacket,
}

/// A running trace.
#[derive(Debug)]
pub(super) struct Trace {
    queue: Arc<Mutex<VecDeque<Refused>>>,
    stop: Arc<AtomicBool>,
    until: Instant,
}

impl Trace {
    /// Starts listening in the calling thread's network namespace.
    pub(super) fn start(group: u16, now: Instant) -> Result<Self, String> {
        let mut log = NfLog::open(group).map_err(|e| e.to_string())?;
        let trace = Self { queue: Arc::default(), stop: Arc::default(), until: now + LEASE };
        let (queue, stop) = (trace.queue.clone(), trace.stop.clone());
        let listen = move || {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                match log.wait(Duration::from_millis(250)) {
                    Ok(packets) => {
                        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                        let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
                        for packet in packets {
                            number += 1;
                            if queue.len() == ROOM {
                                queue.pop_front();
                            }
                            queue.push_back(Refused { number, time, packet });
                        }
                    }
                    Err(error) => {
                        tracing::error!("trace: {error}");
                        return;
                    }
                }
            }
        };
        std::thread::Builder::new()
            .name("trace".into())
            .spawn(listen)
            .map_err(|e| format!("cannot start a thread: {e}"))?;
        Ok(trace)
    }

    /// The packets after a number; goes on for a while.
    pub(super) fn after(&mut self, number: u64, now: Instant) -> Vec<Refused> {
        self.until = now + LEASE;
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.iter().filter(|p| p.number > number).cloned().collect()
    }

    /// When it ends unless somebody asks.
    pub(super) fn until(&self) -> Instant {
        self.until
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Who sends what to whom, from the beginning of a packet; and the source port, where there is one.
pub(super) fn flow_of(bytes: &[u8]) -> Option<(Flow, Option<u16>)> {
    let (source, destination, protocol, rest): (IpAddr, IpAddr, u8, &[u8]) = match bytes.first()? >> 4 {
        4 => {
            let header = usize::from(bytes.first()? & 0xf) * 4;
            let addr = |at: usize| Some(Ipv4Addr::from(*bytes.get(at..)?.first_chunk::<4>()?).into());
            (addr(12)?, addr(16)?, *bytes.get(9)?, bytes.get(header..)?)
        }
        6 => {
            let addr = |at: usize| Some(Ipv6Addr::from(*bytes.get(at..)?.first_chunk::<16>()?).into());
            let (protocol, rest) = skip_extensions(*bytes.get(6)?, bytes.get(40..)?);
            (addr(8)?, addr(24)?, protocol, rest)
        }
        _ => return None,
    };
    let protocol = Protocol(protocol);
    let word = |at: usize| Some(u16::from_be_bytes(*rest.get(at..)?.first_chunk::<2>()?));
    let (port, from) = if protocol.has_ports() {
        (word(2).unwrap_or(0), word(0))
    } else if protocol.is_icmp() {
        (word(0).unwrap_or(0), None)
    } else {
        (0, None)
    };
    let flow = Flow::new(source, destination, protocol, port);
    Some((Flow { source_port: from.unwrap_or(flow.source_port), ..flow }, from))
}

/// The transport protocol behind the extension headers (RFC 8200, section 4).
fn skip_extensions(mut next: u8, mut rest: &[u8]) -> (u8, &[u8]) {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;
    while let (HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION, [following, length, ..]) = (next, rest) {
        let size = if next == FRAGMENT { 8 } else { (usize::from(*length) + 1) * 8 };
        let Some(behind) = rest.get(size..) else { break };
        (next, rest) = (*following, behind);
    }
    (next, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_read() {
        let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 0]);
        let (flow, from) = flow_of(&packet).unwrap();
        assert_eq!(flow.to_string(), "10.0.0.1 -> 10.0.0.2 tcp/80");
        assert_eq!(from, Some(40_000));
        let mut packet = vec![0x60, 0, 0, 0, 0, 16, 0, 64];
        packet.extend("fd00::1".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend("fd00::2".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend([58, 0, 0, 0, 0, 0, 0, 0, 128, 0, 0, 0]);
        let (flow, from) = flow_of(&packet).unwrap();
        assert_eq!(flow.to_string(), "fd00::1 -> fd00::2 icmpv6 type 128 code 0");
        assert_eq!(from, None);
        for end in 0..packet.len() {
            let _ = flow_of(&packet[..end]);
        }
    }
}
