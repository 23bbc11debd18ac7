//! Tracked connections (ctnetlink): list those of UDP, and forget some.
//!
//! Address translation is decided by the first packet of a connection. UDP has no other beginning than the kernel's
//! entry, so a peer that keeps sending keeps its translation until the entry goes.

use std::net::{IpAddr, SocketAddr};

use super::{Attrs, Batch, Error, Socket};

/// `NFNL_SUBSYS_CTNETLINK` in the high byte, and `IPCTNL_MSG_CT_*` of linux/netfilter/nfnetlink_conntrack.h.
const SUBSYSTEM: u16 = 1 << 8;
const MSG_NEW: u16 = SUBSYSTEM;
const MSG_GET: u16 = SUBSYSTEM | 1;
const MSG_DELETE: u16 = SUBSYSTEM | 2;
/// `struct nfgenmsg`.
const NFGENMSG: usize = 4;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;

/// A tracked UDP connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Who sent the first packet.
    pub from: SocketAddr,
    /// Where it was sent, before any translation.
    pub to: SocketAddr,
    /// Who answers: where it was translated to, or the same as `to`.
    pub answers: SocketAddr,
    key: Vec<(u16, Vec<u8>)>,
}

/// Lists the UDP connections of one family.
pub fn list_udp(socket: &mut Socket, ipv4: bool) -> Result<Vec<Flow>, Error> {
    let header = nfgenmsg(ipv4);
    socket.dump(
        MSG_GET,
        |w| {
            w.raw(&header);
        },
        |message| Ok(if message.kind == MSG_NEW { parse(message.attrs(NFGENMSG)) } else { None }),
    )
}

/// Forgets connections; those that are gone already are no error.
pub fn forget(socket: &mut Socket, flows: &[Flow]) -> Result<(), Error> {
    let mut batch = Batch::new();
    for flow in flows {
        batch.add(MSG_DELETE, 0, |w| {
            w.raw(&nfgenmsg(flow.to.is_ipv4()));
            for (kind, data) in &flow.key {
                w.attr(*kind, data);
            }
        });
    }
    if batch.is_empty() {
        return Ok(());
    }
    let report = socket.transact(&mut batch)?;
    match report.errors.into_iter().map(Error::Kernel).find(|error| !error.is_missing()) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn nfgenmsg(ipv4: bool) -> [u8; NFGENMSG] {
    [if ipv4 { libc::AF_INET } else { libc::AF_INET6 } as u8, 0, 0, 0]
}

fn parse(attrs: Attrs<'_>) -> Option<Flow> {
    let (mut original, mut reply) = (None, None);
    let mut key = Vec::new();
    for attr in attrs {
        match attr.kind {
            CTA_TUPLE_ORIG => {
                original = Some(tuple(attr.nested())?);
                key.push((CTA_TUPLE_ORIG | NESTED, attr.data.to_vec()));
            }
            CTA_TUPLE_REPLY => reply = Some(tuple(attr.nested())?),
            // The same addresses and ports may have been used again meanwhile.
            CTA_ID | CTA_ZONE => key.push((attr.kind, attr.data.to_vec())),
            _ => {}
        }
    }
    let ((from, to), (answers, _)) = (original?, reply?);
    Some(Flow { from, to, answers, key })
}

/// Source and destination; none for other protocols than UDP.
fn tuple(attrs: Attrs<'_>) -> Option<(SocketAddr, SocketAddr)> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    let (mut protocol, mut source, mut destination) = (0, None, None);
    for attr in attrs {
        match attr.kind {
            // Source, then destination: 1 and 2 for IPv4, 3 and 4 for IPv6.
            CTA_TUPLE_IP => addresses.extend(attr.nested().filter_map(super::Attr::ip)),
            CTA_TUPLE_PROTO => {
                for attr in attr.nested() {
                    match attr.kind {
                        CTA_PROTO_NUM => protocol = attr.u8()?,
                        CTA_PROTO_SRC_PORT => source = attr.be16(),
                        CTA_PROTO_DST_PORT => destination = attr.be16(),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let [from, to] = addresses[..] else { return None };
    (protocol == libc::IPPROTO_UDP as u8)
        .then_some((SocketAddr::new(from, source?), SocketAddr::new(to, destination?)))
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, process::Command};

    use super::*;
    use crate::netlink::ns::testing::private;

    #[test]
    fn flows_are_listed_and_forgotten() {
        private(|| {
            // Nothing is tracked until something asks for it.
            let rules =
                "table inet t { chain c { type filter hook output priority 0; ct state new accept; }\n}";
            assert!(Command::new("nft").arg(rules).status().unwrap().success());
            let mut socket = Socket::netfilter().unwrap();
            for (ipv4, address) in [(true, "127.0.0.1:0"), (false, "[::1]:0")] {
                let (a, b) = (UdpSocket::bind(address).unwrap(), UdpSocket::bind(address).unwrap());
                a.send_to(b"x", b.local_addr().unwrap()).unwrap();
                let flows = list_udp(&mut socket, ipv4).unwrap();
                let [flow] = &flows[..] else { panic!("{flows:?}") };
                assert_eq!((flow.from, flow.to), (a.local_addr().unwrap(), b.local_addr().unwrap()));
                assert_eq!(flow.answers, flow.to);
                forget(&mut socket, &flows).unwrap();
                forget(&mut socket, &flows).unwrap();
                assert_eq!(list_udp(&mut socket, ipv4).unwrap(), []);
            }
        });
    }
}
