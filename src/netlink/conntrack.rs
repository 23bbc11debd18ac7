//! Tracked connections (ctnetlink): list those of UDP or of some addresses, and forget some.
//!
//! Address translation is decided by the first packet of a connection. UDP has no other beginning than the kernel's
//! entry, so a peer that keeps sending keeps its translation until the entry goes.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
};

use super::{Attr, Attrs, Batch, Error, Socket};

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
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
/// What of the tuple counts: `CTA_FILTER_F_CTA_PROTO_NUM` and `_DST_PORT` of net/netfilter/nf_conntrack_netlink.c.
const FILTER_PROTO_NUM: u32 = 1 << 3;
const FILTER_DST_PORT: u32 = 1 << 5;
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
    key: Key,
}

/// Lists the UDP connections of one family whose first packet was for a port.
///
/// The kernel leaves out the others (from Linux 5.8): it still goes through its table, but does not write all of it out.
pub fn list_udp_to(socket: &mut Socket, ipv4: bool, port: u16) -> Result<Vec<Flow>, Error> {
    let header = nfgenmsg(ipv4);
    socket.dump(
        MSG_GET,
        |w| {
            w.raw(&header)
                .nest(CTA_TUPLE_ORIG, |w| {
                    w.nest(CTA_TUPLE_PROTO, |w| {
                        w.attr_u8(CTA_PROTO_NUM, libc::IPPROTO_UDP as u8)
                            .attr(CTA_PROTO_DST_PORT, &port.to_be_bytes());
                    });
                })
                .nest(CTA_FILTER, |w| {
                    w.attr_u32(CTA_FILTER_ORIG_FLAGS, FILTER_PROTO_NUM | FILTER_DST_PORT);
                });
        },
        |message| {
            let flow = if message.kind == MSG_NEW { parse(message.attrs(NFGENMSG)) } else { None };
            Ok(flow.filter(|flow| flow.to.port() == port))
        },
    )
}

/// Forgets connections; those that are gone already are no error.
pub fn forget(socket: &mut Socket, flows: &[Flow]) -> Result<(), Error> {
    forget_keys(socket, flows.iter().map(|flow| (flow.to.is_ipv4(), &flow.key)))
}

/// Forgets the connections of any protocol that were opened from one of these addresses; how many there were. It takes a
/// look at every tracked connection of the family.
pub fn forget_from(
    socket: &mut Socket,
    ipv4: bool,
    opened_from: impl Fn(IpAddr) -> bool,
) -> Result<usize, Error> {
    let header = nfgenmsg(ipv4);
    let keys: Vec<Key> = socket.dump(
        MSG_GET,
        |w| _ = w.raw(&header),
        |message| {
            let attrs = message.attrs(NFGENMSG);
            let tuple = attrs.clone().find_kind(CTA_TUPLE_ORIG).filter(|_| message.kind == MSG_NEW);
            let from = tuple.and_then(|tuple| addresses(tuple.nested()).next());
            Ok(from.filter(|from| opened_from(*from)).map(|_| attrs.filter_map(key).collect()))
        },
    )?;
    forget_keys(socket, keys.iter().map(|key| (ipv4, key)))?;
    Ok(keys.len())
}

/// The addresses that tracked connections of one family have at either end, before or after translation, as far as they
/// are wanted. It takes a look at every one of them.
pub fn addresses_of_all(
    socket: &mut Socket,
    ipv4: bool,
    wanted: impl Fn(IpAddr) -> bool,
) -> Result<HashSet<IpAddr>, Error> {
    let header = nfgenmsg(ipv4);
    let mut found = HashSet::new();
    let ends = [CTA_TUPLE_ORIG, CTA_TUPLE_REPLY];
    socket.dump_once(
        MSG_GET,
        |w| _ = w.raw(&header),
        |message| {
            let tuples = message.attrs(NFGENMSG).filter(|attr| ends.contains(&attr.kind));
            found.extend(tuples.flat_map(|tuple| addresses(tuple.nested())).filter(|addr| wanted(*addr)));
            Ok(())
        },
    )?;
    Ok(found)
}

/// What names a connection to the kernel: attributes with their types.
type Key = Vec<(u16, Vec<u8>)>;

fn forget_keys<'a>(
    socket: &mut Socket,
    keys: impl IntoIterator<Item = (bool, &'a Key)>,
) -> Result<(), Error> {
    let mut batch = Batch::new();
    for (ipv4, key) in keys {
        batch.add(MSG_DELETE, 0, |w| {
            w.raw(&nfgenmsg(ipv4));
            for (kind, data) in key {
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
    let mut name = Vec::new();
    for attr in attrs {
        match attr.kind {
            CTA_TUPLE_ORIG => original = Some(tuple(attr.nested())?),
            CTA_TUPLE_REPLY => reply = Some(tuple(attr.nested())?),
            _ => {}
        }
        name.extend(key(attr));
    }
    let ((from, to), (answers, _)) = (original?, reply?);
    Some(Flow { from, to, answers, key: name })
}

/// The part of a connection's name that an attribute is. With its number, as the same addresses and ports may have been
/// used again meanwhile.
fn key(attr: Attr<'_>) -> Option<(u16, Vec<u8>)> {
    match attr.kind {
        CTA_TUPLE_ORIG => Some((CTA_TUPLE_ORIG | NESTED, attr.data.to_vec())),
        CTA_ID | CTA_ZONE => Some((attr.kind, attr.data.to_vec())),
        _ => None,
    }
}

/// The addresses of a tuple: source, then destination; 1 and 2 for IPv4, 3 and 4 for IPv6.
fn addresses(tuple: Attrs<'_>) -> impl Iterator<Item = IpAddr> {
    tuple.filter(|attr| attr.kind == CTA_TUPLE_IP).flat_map(Attr::nested).filter_map(Attr::ip)
}

/// Source and destination; none for other protocols than UDP.
fn tuple(attrs: Attrs<'_>) -> Option<(SocketAddr, SocketAddr)> {
    let mut ends = addresses(attrs.clone());
    let (from, to) = (ends.next()?, ends.next()?);
    let (mut protocol, mut source, mut destination) = (0, None, None);
    for attr in attrs.filter(|attr| attr.kind == CTA_TUPLE_PROTO).flat_map(Attr::nested) {
        match attr.kind {
            CTA_PROTO_NUM => protocol = attr.u8()?,
            CTA_PROTO_SRC_PORT => source = attr.be16(),
            CTA_PROTO_DST_PORT => destination = attr.be16(),
            _ => {}
        }
    }
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
                let port = b.local_addr().unwrap().port();
                // To another port, and of another protocol to this one.
                a.send_to(b"x", a.local_addr().unwrap()).unwrap();
                let listener = std::net::TcpListener::bind((b.local_addr().unwrap().ip(), port)).unwrap();
                let _stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let flows = list_udp_to(&mut socket, ipv4, port).unwrap();
                let [flow] = &flows[..] else { panic!("{flows:?}") };
                assert_eq!((flow.from, flow.to), (a.local_addr().unwrap(), b.local_addr().unwrap()));
                assert_eq!(flow.answers, flow.to);
                forget(&mut socket, &flows).unwrap();
                forget(&mut socket, &flows).unwrap();
                assert_eq!(list_udp_to(&mut socket, ipv4, port).unwrap(), []);
                // By address, whatever the protocol.
                a.send_to(b"x", b.local_addr().unwrap()).unwrap();
                let ours = a.local_addr().unwrap().ip();
                let of_all =
                    |wanted| addresses_of_all(&mut Socket::netfilter().unwrap(), ipv4, |_| wanted).unwrap();
                assert_eq!((of_all(true), of_all(false)), ([ours].into(), HashSet::new()));
                assert_eq!(forget_from(&mut socket, ipv4, |from| from != ours).unwrap(), 0);
                assert_eq!(forget_from(&mut socket, ipv4, |from| from == ours).unwrap(), 3);
                assert_eq!(list_udp_to(&mut socket, ipv4, port).unwrap(), []);
                assert_eq!(forget_from(&mut socket, ipv4, |_| true).unwrap(), 0);
            }
        });
    }
}
