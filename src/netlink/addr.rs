//! Addresses of the host's interfaces.

use std::net::{IpAddr, Ipv6Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};

use super::{Attrs, Batch, Error, Socket};
use crate::model::{Family, Prefix};

/// `RTM_*` message types of linux/rtnetlink.h.
pub(super) const RTM_NEWADDR: u16 = 20;
pub(super) const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
/// `struct ifaddrmsg` is 8 bytes: family, prefix length, flags, scope, index.
const IFADDRMSG: usize = 8;
/// Attributes of linux/if_addr.h.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
/// No duplicate address detection: the address works at once.
const IFA_F_NODAD: u32 = 0x02;
/// No route to the address's prefix.
const IFA_F_NOPREFIXROUTE: u32 = 0x200;

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// The interface.
    pub ifindex: u32,
    /// The host's address.
    pub addr: IpAddr,
    /// The length of the on-link prefix.
    pub prefix_len: u8,
    /// `RT_SCOPE_*` of linux/rtnetlink.h (0 global, 253 link, 254 host).
    pub scope: u8,
    /// `IFA_F_*` (0x40 is tentative, 0x08 is a failed duplicate check).
    pub flags: u32,
}

impl Address {
    /// Whether it is usable beyond its link and host.
    pub const fn is_global(&self) -> bool {
        self.scope == 0
    }

    /// The on-link prefix, if the kernel gave a sound length.
    pub fn prefix(&self) -> Option<Prefix> {
        Prefix::new(self.addr, self.prefix_len).ok()
    }

    /// Reads the payload of an `RTM_NEWADDR` or `RTM_DELADDR`.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let [_, prefix_len, flags, scope, i0, i1, i2, i3] = *payload.first_chunk::<IFADDRMSG>()?;
        let (mut local, mut address) = (None, None);
        let mut flags = u32::from(flags);
        for attr in Attrs::after(payload, IFADDRMSG) {
            match attr.kind {
                IFA_LOCAL => local = attr.ip(),
                IFA_ADDRESS => address = attr.ip(),
                IFA_FLAGS => flags = attr.u32()?,
                _ => {}
            }
        }
        // On point-to-point links IFA_ADDRESS is the peer's; IPv6 without a peer has no IFA_LOCAL.
        let addr = local.or(address)?;
        Some(Self { ifindex: u32::from_ne_bytes([i0, i1, i2, i3]), addr, prefix_len, scope, flags })
    }
}

fn ifaddrmsg(family: u8, prefix_len: u8, scope: u8, ifindex: u32) -> [u8; IFADDRMSG] {
    let [i0, i1, i2, i3] = ifindex.to_ne_bytes();
    [family, prefix_len, 0, scope, i0, i1, i2, i3]
}

/// `AF_INET` or `AF_INET6`.
pub(super) const fn af(family: Family) -> u8 {
    match family {
        Family::Ipv4 => libc::AF_INET as u8,
        Family::Ipv6 => libc::AF_INET6 as u8,
    }
}

/// Lists the addresses of all interfaces, of both families.
pub fn list(socket: &mut Socket) -> Result<Vec<Address>, Error> {
    socket.dump(
        RTM_GETADDR,
        |w| {
            w.raw(&ifaddrmsg(0, 0, 0, 0));
        },
        |m| {
            if m.kind != RTM_NEWADDR {
                return Ok(None);
            }
            Address::parse(m.payload).map(Some).ok_or_else(|| Error::Malformed("RTM_NEWADDR".into()))
        },
    )
}

/// Whether an interface has an IPv6 address, at the cost of one question to the kernel.
pub fn has(socket: &mut Socket, ifindex: u32, addr: Ipv6Addr) -> Result<bool, Error> {
    let report = socket.request(RTM_GETADDR, 0, |w| {
        w.raw(&ifaddrmsg(af(Family::Ipv6), 0, 0, ifindex)).attr_ip(IFA_ADDRESS, addr.into());
    });
    match report {
        Ok(_) => Ok(true),
        Err(error) if error.is_missing() || error.errno() == Some(libc::EADDRNOTAVAIL) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Appends a message that gives an interface an address, usable at once (no duplicate address detection). The scope
/// of a link-local address is set as the kernel expects it.
pub fn push_add(batch: &mut Batch, ifindex: u32, addr: IpAddr, prefix_len: u8) -> usize {
    push(batch, ifindex, addr, prefix_len, IFA_F_NODAD)
}

/// Like [`push_add`], without a route to anything but the address itself.
pub fn push_add_alone(batch: &mut Batch, ifindex: u32, addr: IpAddr) -> usize {
    push(batch, ifindex, addr, Family::of(addr).bits(), IFA_F_NODAD | IFA_F_NOPREFIXROUTE)
}

fn push(batch: &mut Batch, ifindex: u32, addr: IpAddr, prefix_len: u8, flags: u32) -> usize {
    let scope = match addr {
        IpAddr::V4(a) if a.is_link_local() => libc::RT_SCOPE_LINK,
        IpAddr::V6(a) if a.is_unicast_link_local() => libc::RT_SCOPE_LINK,
        _ => libc::RT_SCOPE_UNIVERSE,
    };
    batch.add(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, |w| {
        w.raw(&ifaddrmsg(af(Family::of(addr)), prefix_len, scope, ifindex))
            .attr_ip(IFA_LOCAL, addr)
            .attr_ip(IFA_ADDRESS, addr)
            .attr_u32(IFA_FLAGS, flags);
    })
}

/// Appends a message that takes an address from an interface.
pub fn push_delete(batch: &mut Batch, ifindex: u32, addr: IpAddr, prefix_len: u8) -> usize {
    batch.add(RTM_DELADDR, 0, |w| {
        w.raw(&ifaddrmsg(af(Family::of(addr)), prefix_len, 0, ifindex)).attr_ip(IFA_LOCAL, addr);
    })
}

/// Gives an interface an address; see [`push_add`].
pub fn add(socket: &mut Socket, ifindex: u32, addr: IpAddr, prefix_len: u8) -> Result<(), Error> {
    let mut batch = Batch::new();
    push_add(&mut batch, ifindex, addr, prefix_len);
    socket.execute(&mut batch).map(drop)
}

/// Takes an address from an interface.
pub fn delete(socket: &mut Socket, ifindex: u32, addr: IpAddr, prefix_len: u8) -> Result<(), Error> {
    let mut batch = Batch::new();
    push_delete(&mut batch, ifindex, addr, prefix_len);
    socket.execute(&mut batch).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::ns::testing;

    #[test]
    fn add_list_delete() {
        testing::private(|| {
            let mut socket = Socket::route().unwrap();
            for (text, len, scope) in
                [("192.0.2.1", 24, 0), ("2001:db8::1", 64, 0), ("fe80::7", 64, 253), ("169.254.1.1", 32, 253)]
            {
                let addr: IpAddr = text.parse().unwrap();
                add(&mut socket, 1, addr, len).unwrap();
                assert!(add(&mut socket, 1, addr, len).unwrap_err().is_exists());
                let found = list(&mut socket).unwrap().into_iter().find(|a| a.addr == addr).unwrap();
                assert_eq!((found.ifindex, found.prefix_len, found.scope), (1, len, scope));
                let there = |socket: &mut Socket| match addr {
                    IpAddr::V6(addr) => Some(has(socket, 1, addr).unwrap()),
                    IpAddr::V4(_) => None,
                };
                assert_ne!(there(&mut socket), Some(false));
                delete(&mut socket, 1, addr, len).unwrap();
                assert_ne!(there(&mut socket), Some(true));
                assert!(delete(&mut socket, 1, addr, len).unwrap_err().is_missing());
            }
        });
    }
}
