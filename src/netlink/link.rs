//! Links (network interfaces).

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};

use super::{
    Attr, Attrs, Batch, Error, RawMessage, Socket,
    devconf::{self, Ipv4Settings, Ipv6Settings},
    ns::Netns,
};
use std::os::fd::AsRawFd;

/// `RTM_*` message types of linux/rtnetlink.h.
pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
/// `struct ifinfomsg` is 16 bytes: family, pad, type, index, flags, change.
const IFINFOMSG: usize = 16;
/// Attributes of linux/if_link.h.
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;

/// `IFF_LOWER_UP` of linux/if.h: the carrier.
const IFF_LOWER_UP: u32 = 1 << 16;

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The interface index.
    pub index: u32,
    /// The name.
    pub name: String,
    /// The alias (`ip link set … alias`).
    pub alias: Option<String>,
    /// The kind (`veth`, `bridge` …); none for a physical device or loopback.
    pub kind: Option<String>,
    /// Flags of linux/if.h: `IFF_UP`, `IFF_RUNNING`, `IFF_LOWER_UP` …
    pub flags: u32,
    /// The MTU in bytes.
    pub mtu: u32,
    /// The hardware address.
    pub address: Vec<u8>,
    /// The index of the bridge, bond or VRF it belongs to, or 0.
    pub master: u32,
    /// Of a veth the index of its other end, which may be in another namespace; or 0.
    pub peer: u32,
    /// The device group (`ip link set … group`).
    pub group: u32,
    /// `IF_OPER_*` of linux/if.h (6 is up, 2 is down, 0 unknown).
    pub oper_state: u8,
    /// Its IPv4 settings, if the kernel has told them.
    pub ipv4: Option<Ipv4Settings>,
    /// Its IPv6 settings, if the kernel has told them.
    pub ipv6: Option<Ipv6Settings>,
}

impl Link {
    /// Whether it is administratively up.
    pub const fn is_up(&self) -> bool {
        self.flags & libc::IFF_UP as u32 != 0
    }

    /// Whether it is up and has a carrier, so that the kernel accepts next hops on it. Not `IFF_RUNNING`, which
    /// follows the carrier up to a second later.
    pub const fn is_running(&self) -> bool {
        self.is_up() && self.flags & IFF_LOWER_UP != 0
    }

    /// Whether it is the loopback interface.
    pub const fn is_loopback(&self) -> bool {
        self.flags & libc::IFF_LOOPBACK as u32 != 0
    }

    /// Reads the payload of an `RTM_NEWLINK` or `RTM_DELLINK`.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let header = payload.first_chunk::<IFINFOMSG>()?;
        let [_, _, _, _, i0, i1, i2, i3, f0, f1, f2, f3, ..] = *header;
        let mut link = Self {
            index: u32::from_ne_bytes([i0, i1, i2, i3]),
            flags: u32::from_ne_bytes([f0, f1, f2, f3]),
            ..Self::default()
        };
        for attr in Attrs::after(payload, IFINFOMSG) {
            match attr.kind {
                IFLA_ADDRESS => link.address = attr.data.to_vec(),
                IFLA_IFNAME => attr.str()?.clone_into(&mut link.name),
                IFLA_MTU => link.mtu = attr.u32()?,
                IFLA_MASTER => link.master = attr.u32()?,
                IFLA_LINK => link.peer = attr.u32()?,
                IFLA_AF_SPEC => (link.ipv4, link.ipv6) = devconf::of_link(attr),
                IFLA_OPERSTATE => link.oper_state = attr.u8()?,
                IFLA_IFALIAS => link.alias = attr.str().map(str::to_owned),
                IFLA_GROUP => link.group = attr.u32()?,
                IFLA_LINKINFO => {
                    link.kind =
                        attr.nested().find_kind(IFLA_INFO_KIND).and_then(Attr::str).map(str::to_owned);
                }
                _ => {}
            }
        }
        Some(link)
    }
}

fn ifinfomsg(index: u32, flags: u32, change: u32) -> [u8; IFINFOMSG] {
    let mut header = [0; IFINFOMSG];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// Lists all links of the socket's namespace.
pub fn list(socket: &mut Socket) -> Result<Vec<Link>, Error> {
    socket.dump(
        RTM_GETLINK,
        |w| {
            w.raw(&ifinfomsg(0, 0, 0));
        },
        |m| Ok(if m.kind == RTM_NEWLINK { Some(parsed(m)?) } else { None }),
    )
}

fn parsed(message: &RawMessage<'_>) -> Result<Link, Error> {
    Link::parse(message.payload).ok_or_else(|| Error::Malformed("RTM_NEWLINK".into()))
}

/// One link. Since Linux 6.9 the kernel first takes note of a change of its carrier that it would otherwise tell up to a
/// second later, with all that follows from it.
pub fn by_index(socket: &mut Socket, index: u32) -> Result<Link, Error> {
    let report = socket.request(RTM_GETLINK, 0, |w| {
        w.raw(&ifinfomsg(index, 0, 0));
    })?;
    let (_, _, payload) =
        report.replies.first().ok_or_else(|| Error::Malformed("no link in the answer".into()))?;
    Link::parse(payload).ok_or_else(|| Error::Malformed("RTM_NEWLINK".into()))
}

/// The link of a name.
pub fn by_name(socket: &mut Socket, name: &str) -> Result<Link, Error> {
    let report = socket.request(RTM_GETLINK, 0, |w| {
        w.raw(&ifinfomsg(0, 0, 0)).attr_str(IFLA_IFNAME, name);
    })?;
    let (_, _, payload) =
        report.replies.first().ok_or_else(|| Error::Malformed("no link in the answer".into()))?;
    Link::parse(payload).ok_or_else(|| Error::Malformed("RTM_NEWLINK".into()))
}

/// Appends a message that sets a link up.
pub fn push_up(batch: &mut Batch, index: u32) -> usize {
    batch.add(RTM_NEWLINK, 0, |w| {
        w.raw(&ifinfomsg(index, libc::IFF_UP as u32, libc::IFF_UP as u32));
    })
}

/// Appends a message that sets a link down.
pub fn push_down(batch: &mut Batch, index: u32) -> usize {
    batch.add(RTM_NEWLINK, 0, |w| {
        w.raw(&ifinfomsg(index, 0, libc::IFF_UP as u32));
    })
}

/// Appends a message that deletes a link.
pub fn push_delete(batch: &mut Batch, index: u32) -> usize {
    batch.add(RTM_DELLINK, 0, |w| {
        w.raw(&ifinfomsg(index, 0, 0));
    })
}

/// Sets a link up.
pub fn set_up(socket: &mut Socket, index: u32) -> Result<(), Error> {
    let mut batch = Batch::new();
    push_up(&mut batch, index);
    socket.execute(&mut batch).map(drop)
}

/// Sets a link down.
pub fn set_down(socket: &mut Socket, index: u32) -> Result<(), Error> {
    let mut batch = Batch::new();
    push_down(&mut batch, index);
    socket.execute(&mut batch).map(drop)
}

/// Deletes a link. On the kernel this waits for grace periods: about 20 ms.
pub fn delete(socket: &mut Socket, index: u32) -> Result<(), Error> {
    let mut batch = Batch::new();
    push_delete(&mut batch, index);
    socket.execute(&mut batch).map(drop)
}

/// Creates a veth pair, the peer directly in `peer_ns` if given (moving it there later costs 20 ms more).
pub fn create_veth(
    socket: &mut Socket,
    name: &str,
    peer: &str,
    peer_ns: Option<&Netns>,
) -> Result<(), Error> {
    let mut batch = Batch::new();
    batch.add(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, |w| {
        w.raw(&ifinfomsg(0, 0, 0)).attr_str(IFLA_IFNAME, name).nest(IFLA_LINKINFO, |w| {
            w.attr_str(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |w| {
                w.nest(VETH_INFO_PEER, |w| {
                    w.raw(&ifinfomsg(0, 0, 0)).attr_str(IFLA_IFNAME, peer);
                    if let Some(ns) = peer_ns {
                        w.attr_u32(IFLA_NET_NS_FD, ns.as_raw_fd() as u32);
                    }
                });
            });
        });
    });
    socket.execute(&mut batch).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::ns::testing;

    #[test]
    fn veth_life() {
        testing::private(|| {
            let mut socket = Socket::route().unwrap();
            create_veth(&mut socket, "va", "vb", None).unwrap();
            let error = create_veth(&mut socket, "va", "vc", None).unwrap_err();
            assert!(error.is_exists(), "{error}");
            let a = by_name(&mut socket, "va").unwrap();
            let b = by_name(&mut socket, "vb").unwrap();
            assert_eq!(a.kind.as_deref(), Some("veth"));
            assert_eq!(a.address.len(), 6);
            assert!(!a.is_up());
            set_up(&mut socket, a.index).unwrap();
            set_up(&mut socket, b.index).unwrap();
            assert!(by_name(&mut socket, "va").unwrap().is_running());
            set_down(&mut socket, b.index).unwrap();
            let a = by_name(&mut socket, "va").unwrap();
            assert!(a.is_up() && !a.is_running());
            delete(&mut socket, a.index).unwrap();
            assert_eq!(list(&mut socket).unwrap().iter().filter(|l| !l.is_loopback()).count(), 0);
            assert!(by_name(&mut socket, "va").unwrap_err().is_missing());
        });
    }
}
