//! Neighbours: ARP and NDP entries.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};

use super::{Attrs, Batch, Error, Socket, addr::af};
use crate::model::Family;

/// `RTM_*` message types of linux/rtnetlink.h.
pub(super) const RTM_NEWNEIGH: u16 = 28;
pub(super) const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
/// `struct ndmsg` is 12 bytes: family, 3 of padding, index, state, flags, type.
const NDMSG: usize = 12;
/// Attributes of linux/neighbour.h.
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NTF_USE: u8 = 0x01;

/// A neighbour entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The device.
    pub ifindex: u32,
    /// The neighbour's address.
    pub addr: IpAddr,
    /// `NUD_*` of linux/neighbour.h.
    pub state: u16,
    /// The hardware address, while it is known.
    pub hardware: Vec<u8>,
}

impl Neighbour {
    /// `NUD_FAILED`: it did not answer.
    pub const FAILED: u16 = 0x20;
    /// `NUD_PERMANENT`: set by hand.
    pub const PERMANENT: u16 = 0x80;
    /// Incomplete: the first question is under way.
    pub const INCOMPLETE: u16 = 0x01;

    /// Whether it did not answer.
    pub const fn is_failed(&self) -> bool {
        self.state & Self::FAILED != 0
    }

    /// Whether packets can be sent to it now (`NUD_VALID`).
    pub const fn is_valid(&self) -> bool {
        // PERMANENT, NOARP, REACHABLE, PROBE, STALE, DELAY
        self.state & (0x80 | 0x40 | 0x02 | 0x10 | 0x04 | 0x08) != 0
    }

    /// Reads the payload of an `RTM_NEWNEIGH` or `RTM_DELNEIGH`; none for entries that are not IP neighbours.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let [family, _, _, _, i0, i1, i2, i3, s0, s1, ..] = *payload.first_chunk::<NDMSG>()?;
        if ![af(Family::Ipv4), af(Family::Ipv6)].contains(&family) {
            return None;
        }
        let attrs = Attrs::after(payload, NDMSG);
        Some(Self {
            ifindex: u32::from_ne_bytes([i0, i1, i2, i3]),
            addr: attrs.clone().find_kind(NDA_DST)?.ip()?,
            state: u16::from_ne_bytes([s0, s1]),
            hardware: attrs.clone().find_kind(NDA_LLADDR).map(|a| a.data.to_vec()).unwrap_or_default(),
        })
    }
}

fn ndmsg(family: u8, ifindex: u32, state: u16, flags: u8) -> [u8; NDMSG] {
    let [i0, i1, i2, i3] = ifindex.to_ne_bytes();
    let [s0, s1] = state.to_ne_bytes();
    [family, 0, 0, 0, i0, i1, i2, i3, s0, s1, flags, 0]
}

/// Lists the neighbours of both families.
pub fn list(socket: &mut Socket) -> Result<Vec<Neighbour>, Error> {
    socket.dump(
        RTM_GETNEIGH,
        |w| {
            w.raw(&ndmsg(0, 0, 0, 0));
        },
        |m| Ok(Neighbour::parse(m.payload).filter(|_| m.kind == RTM_NEWNEIGH)),
    )
}

/// Appends a message that makes the kernel ask for a neighbour now, as a packet to it would.
pub fn push_probe(batch: &mut Batch, ifindex: u32, addr: IpAddr) -> usize {
    batch.add(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, |w| {
        w.raw(&ndmsg(af(Family::of(addr)), ifindex, 0, NTF_USE)).attr_ip(NDA_DST, addr);
    })
}

/// Appends a message that writes an entry with a state (`NUD_*`) and hardware address.
pub fn push_set(batch: &mut Batch, neighbour: &Neighbour) -> usize {
    batch.add(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, |w| {
        w.raw(&ndmsg(af(Family::of(neighbour.addr)), neighbour.ifindex, neighbour.state, 0))
            .attr_ip(NDA_DST, neighbour.addr);
        if !neighbour.hardware.is_empty() {
            w.attr(NDA_LLADDR, &neighbour.hardware);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{link, ns::testing};

    #[test]
    fn set_and_list() {
        testing::private(|| {
            let mut socket = Socket::route().unwrap();
            link::create_veth(&mut socket, "va", "vb", None).unwrap();
            let dev = link::by_name(&mut socket, "va").unwrap().index;
            link::set_up(&mut socket, dev).unwrap();
            let mut batch = Batch::new();
            let entry = |addr: &str, state, hardware: &[u8]| Neighbour {
                ifindex: dev,
                addr: addr.parse().unwrap(),
                state,
                hardware: hardware.to_vec(),
            };
            let permanent = entry("192.0.2.9", Neighbour::PERMANENT, &[2, 0, 0, 0, 0, 9]);
            let failed = entry("2001:db8::9", Neighbour::FAILED, &[]);
            push_set(&mut batch, &permanent);
            push_set(&mut batch, &failed);
            push_probe(&mut batch, dev, "192.0.2.7".parse().unwrap());
            socket.execute(&mut batch).unwrap();
            let found = list(&mut socket).unwrap();
            assert!(found.contains(&permanent) && permanent.is_valid());
            assert!(found.contains(&failed) && !failed.is_valid() && failed.is_failed());
            let asked = found.iter().find(|n| n.addr.to_string() == "192.0.2.7").unwrap();
            assert!(!asked.is_valid());
        });
    }
}
