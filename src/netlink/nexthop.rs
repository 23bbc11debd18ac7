//! Next-hop objects and groups (`ip nexthop`, kernel 5.3): encoded here, as `netlink-packet-route` lacks them.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};

use super::{Attrs, Batch, Error, Socket, addr::af};
use crate::model::Family;

/// `RTM_*` message types of linux/rtnetlink.h.
pub(super) const RTM_NEWNEXTHOP: u16 = 104;
pub(super) const RTM_DELNEXTHOP: u16 = 105;
const RTM_GETNEXTHOP: u16 = 106;
/// `struct nhmsg` is 8 bytes: family, scope, protocol, reserved, flags.
const NHMSG: usize = 8;
/// Attributes of linux/nexthop.h.
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_BLACKHOLE: u16 = 4;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
/// `RTNH_F_ONLINK` of linux/rtnetlink.h: the gateway is on the link though no address of ours says so.
pub(super) const RTNH_F_ONLINK: u32 = 4;

/// A next-hop object of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its number, which routes and groups refer to.
    pub id: u32,
    /// The routing protocol that made it.
    pub protocol: u8,
    /// What it is.
    pub kind: Kind,
}

/// What a next-hop object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A gateway on a device.
    Via(Via),
    /// Several objects with weights 1 to 256, in ascending order of their ids.
    Group(Vec<(u32, u16)>),
    /// Another kind: a device without gateway, a blackhole, an encapsulation.
    Other,
}

/// A gateway on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Via {
    /// The gateway, of either family.
    pub gateway: IpAddr,
    /// The device.
    pub ifindex: u32,
    /// Whether the gateway is on the link though no address of ours says so.
    pub onlink: bool,
}

impl Object {
    /// Reads the payload of an `RTM_NEWNEXTHOP` or `RTM_DELNEXTHOP`.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let [_, _, protocol, _, f0, f1, f2, f3] = *payload.first_chunk::<NHMSG>()?;
        let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
        let (mut id, mut ifindex, mut gateway, mut group, mut blackhole) = (None, None, None, None, false);
        for attr in Attrs::after(payload, NHMSG) {
            match attr.kind {
                NHA_ID => id = attr.u32(),
                NHA_OIF => ifindex = attr.u32(),
                NHA_GATEWAY => gateway = attr.ip(),
                NHA_BLACKHOLE => blackhole = true,
                NHA_GROUP => group = Some(parse_group(attr.data)),
                _ => {}
            }
        }
        let kind = match (group, gateway, ifindex) {
            (Some(group), _, _) => Kind::Group(group),
            (None, Some(gateway), Some(ifindex)) if !blackhole => {
                Kind::Via(Via { gateway, ifindex, onlink: flags & RTNH_F_ONLINK != 0 })
            }
            _ => Kind::Other,
        };
        Some(Self { id: id?, protocol, kind })
    }
}

/// `struct nexthop_grp`: id, weight less one, 3 bytes reserved (the first of them the weight's high byte since 6.12).
fn parse_group(data: &[u8]) -> Vec<(u32, u16)> {
    let mut group: Vec<_> = data
        .chunks_exact(8)
        .filter_map(|entry| {
            let [i0, i1, i2, i3, weight, ..] = *entry.first_chunk::<8>()?;
            Some((u32::from_ne_bytes([i0, i1, i2, i3]), u16::from(weight) + 1))
        })
        .collect();
    group.sort_unstable();
    group
}

/// Lists all next-hop objects. Fails with [`Error::is_unsupported`] on kernels without them.
pub fn list(socket: &mut Socket) -> Result<Vec<Object>, Error> {
    socket.dump(
        RTM_GETNEXTHOP,
        |w| {
            w.raw(&[0; NHMSG]);
        },
        |m| {
            if m.kind != RTM_NEWNEXTHOP {
                return Ok(None);
            }
            Object::parse(m.payload).map(Some).ok_or_else(|| Error::Malformed("RTM_NEWNEXTHOP".into()))
        },
    )
}

/// The object with an id, if there is one.
pub fn fetch(socket: &mut Socket, id: u32) -> Result<Option<Object>, Error> {
    let report = socket.request(RTM_GETNEXTHOP, 0, |w| {
        w.raw(&[0; NHMSG]).attr_u32(NHA_ID, id);
    });
    match report {
        Ok(report) => Ok(report.replies.iter().find_map(|(_, _, payload)| Object::parse(payload))),
        Err(e) if e.is_missing() => Ok(None),
        Err(e) => Err(e),
    }
}

/// How an object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Fails with `EEXIST` when the id is taken.
    Create,
    /// Creates it or changes it in place; everything that refers to it follows at once.
    Replace,
}

impl Mode {
    const fn flags(self) -> u16 {
        match self {
            Self::Create => NLM_F_CREATE | NLM_F_EXCL,
            Self::Replace => NLM_F_CREATE | NLM_F_REPLACE,
        }
    }
}

/// Appends a message that writes a gateway object.
pub fn push_via(batch: &mut Batch, id: u32, protocol: u8, via: &Via, mode: Mode) -> usize {
    batch.add(RTM_NEWNEXTHOP, mode.flags(), |w| {
        let [f0, f1, f2, f3] = if via.onlink { RTNH_F_ONLINK } else { 0 }.to_ne_bytes();
        w.raw(&[af(Family::of(via.gateway)), 0, protocol, 0, f0, f1, f2, f3])
            .attr_u32(NHA_ID, id)
            .attr_u32(NHA_OIF, via.ifindex)
            .attr_ip(NHA_GATEWAY, via.gateway);
    })
}

/// Appends a message that writes a group. `members` are ids and weights (1 to 256; others are brought into range)
/// without duplicate ids; it may not be empty.
pub fn push_group(batch: &mut Batch, id: u32, protocol: u8, members: &[(u32, u16)], mode: Mode) -> usize {
    batch.add(RTM_NEWNEXTHOP, mode.flags(), |w| {
        let mut group = Vec::with_capacity(members.len() * 8);
        for (member, weight) in members {
            group.extend_from_slice(&member.to_ne_bytes());
            group.extend_from_slice(&[(weight.clamp(&1, &256) - 1) as u8, 0, 0, 0]);
        }
        w.raw(&[0, 0, protocol, 0, 0, 0, 0, 0]).attr_u32(NHA_ID, id).attr(NHA_GROUP, &group);
    })
}

/// Appends a message that deletes an object. The kernel takes it out of its groups, and removes every route that
/// refers to it and every group that becomes empty.
pub fn push_delete(batch: &mut Batch, id: u32) -> usize {
    batch.add(RTM_DELNEXTHOP, 0, |w| {
        w.raw(&[0; NHMSG]).attr_u32(NHA_ID, id);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{addr, link, ns::testing};

    #[test]
    fn objects_and_groups() {
        testing::private(|| {
            let mut socket = Socket::route().unwrap();
            link::create_veth(&mut socket, "va", "vb", None).unwrap();
            let dev = link::by_name(&mut socket, "va").unwrap().index;
            let peer = link::by_name(&mut socket, "vb").unwrap().index;
            link::set_up(&mut socket, dev).unwrap();
            link::set_up(&mut socket, peer).unwrap();
            addr::add(&mut socket, dev, "192.0.2.0".parse().unwrap(), 31).unwrap();
            let via = |gateway: &str, onlink| Via { gateway: gateway.parse().unwrap(), ifindex: dev, onlink };
            let a = via("192.0.2.1", false);
            let b = via("fe80::9", false);
            let c = via("198.51.100.1", true);
            let mut batch = Batch::new();
            push_via(&mut batch, 1, 32, &a, Mode::Create);
            push_via(&mut batch, 2, 32, &b, Mode::Create);
            push_via(&mut batch, 3, 32, &c, Mode::Create);
            push_group(&mut batch, 10, 32, &[(1, 1), (2, 256)], Mode::Create);
            push_group(&mut batch, 10, 32, &[(3, 7), (2, 256), (1, 1)], Mode::Replace);
            socket.execute(&mut batch).unwrap();
            let object = |id, kind| Object { id, protocol: 32, kind };
            assert_eq!(
                list(&mut socket).unwrap(),
                [
                    object(1, Kind::Via(a)),
                    object(2, Kind::Via(b)),
                    object(3, Kind::Via(c)),
                    object(10, Kind::Group(vec![(1, 1), (2, 256), (3, 7)])),
                ]
            );
            assert_eq!(fetch(&mut socket, 3).unwrap(), Some(object(3, Kind::Via(c))));
            assert_eq!(fetch(&mut socket, 4).unwrap(), None);
            let mut batch = Batch::new();
            push_via(&mut batch, 1, 32, &a, Mode::Create);
            push_delete(&mut batch, 2);
            push_delete(&mut batch, 77);
            let errors = socket.transact(&mut batch).unwrap().errors;
            assert_eq!(errors.len(), 2);
            assert!(errors[0].is_exists() && errors[1].is_missing());
            // The carrier goes: the kernel removes the gateways, and the group with the last of them.
            link::set_down(&mut socket, peer).unwrap();
            // A work queue of the kernel does it, within a second.
            let gone = (0..500).any(|_| {
                std::thread::sleep(std::time::Duration::from_millis(10));
                list(&mut socket).unwrap().is_empty()
            });
            assert!(gone);
        });
    }
}
