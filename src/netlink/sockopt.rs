//! Socket options for BGP and BFD that neither the standard library nor `socket2` has.
//!
//! All functions take any socket by reference (`impl AsFd`): `std`, `socket2` or `tokio`. Errors are plain
//! [`io::Error`]s; `ENOPROTOOPT` means that the kernel was built without the feature.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use super::sys::{self, Control};
use crate::model::{Family, Prefix};

/// `TCP_MD5SIG_EXT` and its flag, of linux/tcp.h.
const TCP_MD5SIG_EXT: i32 = 32;
const TCP_MD5SIG_FLAG_PREFIX: u8 = 1;
/// `TCP_MD5SIG_MAXKEYLEN`.
const MAX_KEY: usize = 80;
/// `IPV6_MINHOPCOUNT` of linux/in6.h.
const IPV6_MINHOPCOUNT: i32 = 73;
/// The class selector that routers give to routing protocols (RFC 4594 section 3.1: CS6), as an IPv4 TOS or IPv6
/// traffic class byte.
pub const TOS_CS6: u8 = 0xc0;

/// Sets the TCP MD5 key (RFC 2385) for peers inside `peers`, or removes it when `key` is `None`.
///
/// On a listener, set it before the peer's SYN can arrive; on a dialing socket, before `connect`. A host prefix
/// replaces or removes exactly that peer's key. Removing a key that is not set fails with `ENOENT`; a key longer
/// than 80 bytes or empty with `InvalidInput`.
pub fn set_tcp_md5(socket: &impl AsFd, peers: Prefix, key: Option<&[u8]>) -> io::Result<()> {
    let key = key.unwrap_or_default();
    let length = key_length(key)?;
    let (addr, prefix_len) = peer_address(socket, peers)?;
    // struct tcp_md5sig: sockaddr_storage, flags, prefixlen, keylen, ifindex, key.
    let mut option = [0; 128 + 8 + MAX_KEY];
    option[..addr.len()].copy_from_slice(&addr);
    option[130..132].copy_from_slice(&u16::from(length).to_ne_bytes());
    option[136..136 + key.len()].copy_from_slice(key);
    let name = if peers.is_host() {
        libc::TCP_MD5SIG
    } else {
        option[128] = TCP_MD5SIG_FLAG_PREFIX;
        option[129] = prefix_len;
        TCP_MD5SIG_EXT
    };
    sys::setsockopt(socket.as_fd().as_raw_fd(), libc::IPPROTO_TCP, name, &option)
}

fn key_length(key: &[u8]) -> io::Result<u8> {
    u8::try_from(key.len()).ok().filter(|len| usize::from(*len) <= MAX_KEY).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "a TCP authentication key has at most 80 bytes")
    })
}

/// The peer's `sockaddr` and prefix length for a key. On an IPv6 socket an IPv4 peer goes by its mapped address;
/// its prefix length stays that of IPv4.
pub(super) fn peer_address(socket: &impl AsFd, peers: Prefix) -> io::Result<(Vec<u8>, u8)> {
    let domain = sys::getsockopt_int(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_DOMAIN)?;
    let addr = match peers.addr() {
        IpAddr::V4(v4) if domain == libc::AF_INET6 => IpAddr::V6(v4.to_ipv6_mapped()),
        other => other,
    };
    let mut bytes = Vec::with_capacity(28);
    match addr {
        IpAddr::V4(v4) => {
            bytes.extend_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            bytes.extend_from_slice(&[0, 0]);
            bytes.extend_from_slice(&v4.octets());
        }
        IpAddr::V6(v6) => {
            bytes.extend_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            bytes.extend_from_slice(&[0; 6]);
            bytes.extend_from_slice(&v6.octets());
        }
    }
    Ok((bytes, peers.len()))
}

fn set(socket: &impl AsFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    sys::setsockopt_int(socket.as_fd().as_raw_fd(), level, name, value)
}

/// Sets the TTL or hop limit of what is sent. An IPv6 socket that may carry IPv4 gets both.
pub fn set_ttl(socket: &impl AsFd, family: Family, ttl: u8) -> io::Result<()> {
    match family {
        Family::Ipv4 => set(socket, libc::IPPROTO_IP, libc::IP_TTL, ttl.into()),
        Family::Ipv6 => {
            set(socket, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, ttl.into())?;
            // Only matters to mapped addresses.
            set(socket, libc::IPPROTO_IP, libc::IP_TTL, ttl.into())
        }
    }
}

/// Drops what arrives with a smaller TTL or hop limit: generalised TTL security (RFC 5082). 0 turns it off. The
/// kernel does so for TCP only; a UDP receiver looks at [`Packet::ttl`].
pub fn set_min_ttl(socket: &impl AsFd, family: Family, ttl: u8) -> io::Result<()> {
    match family {
        Family::Ipv4 => set(socket, libc::IPPROTO_IP, libc::IP_MINTTL, ttl.into()),
        Family::Ipv6 => {
            set(socket, libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, ttl.into())?;
            set(socket, libc::IPPROTO_IP, libc::IP_MINTTL, ttl.into())
        }
    }
}

/// Sets the TOS or traffic class byte of what is sent (see [`TOS_CS6`]).
pub fn set_tos(socket: &impl AsFd, family: Family, tos: u8) -> io::Result<()> {
    match family {
        Family::Ipv4 => set(socket, libc::IPPROTO_IP, libc::IP_TOS, tos.into()),
        Family::Ipv6 => {
            set(socket, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, tos.into())?;
            set(socket, libc::IPPROTO_IP, libc::IP_TOS, tos.into())
        }
    }
}

/// Sets the queueing priority on the way out, 0 to 7 (`SO_PRIORITY`; 7 needs CAP_NET_ADMIN). Set it after the TOS,
/// which resets it.
pub fn set_priority(socket: &impl AsFd, priority: u8) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_PRIORITY, priority.into())
}

/// Ties the socket to an interface by name, or releases it.
pub fn bind_device(socket: &impl AsFd, device: Option<&str>) -> io::Result<()> {
    let mut name = device.unwrap_or_default().as_bytes().to_vec();
    name.push(0);
    sys::setsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_BINDTODEVICE, &name)
}

/// Lets the socket bind an address that the host does not have yet (`IP_FREEBIND`, `IPV6_FREEBIND`).
pub fn set_freebind(socket: &impl AsFd, family: Family, on: bool) -> io::Result<()> {
    match family {
        Family::Ipv4 => set(socket, libc::IPPROTO_IP, libc::IP_FREEBIND, on.into()),
        Family::Ipv6 => set(socket, libc::IPPROTO_IPV6, libc::IPV6_FREEBIND, on.into()),
    }
}

/// How long sent data may stay unacknowledged before the connection fails (RFC 5482); zero is the system's default.
pub fn set_tcp_user_timeout(socket: &impl AsFd, timeout: Duration) -> io::Result<()> {
    let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    set(socket, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, millis)
}

/// Asks for TTL, interface and destination address with every datagram, for [`recv_packet`].
pub fn enable_packet_info(socket: &impl AsFd, family: Family) -> io::Result<()> {
    match family {
        Family::Ipv4 => {
            set(socket, libc::IPPROTO_IP, libc::IP_RECVTTL, 1)?;
            set(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
        }
        Family::Ipv6 => {
            set(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, 1)?;
            set(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)
        }
    }
}

/// A datagram's circumstances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Bytes written to the buffer.
    pub len: usize,
    /// Whether the datagram was longer than the buffer.
    pub truncated: bool,
    /// Who sent it.
    pub from: SocketAddr,
    /// The TTL or hop limit with which it arrived.
    pub ttl: Option<u8>,
    /// The interface on which it arrived, or 0.
    pub ifindex: u32,
    /// The address to which it was sent.
    pub local: Option<IpAddr>,
}

/// Receives one datagram with its circumstances; [`enable_packet_info`] first. Blocks or fails with `WouldBlock` as
/// the socket is set (with tokio: inside `try_io`).
pub fn recv_packet(socket: &impl AsFd, buf: &mut [u8]) -> io::Result<Packet> {
    let mut control = Control([0; 256]);
    let received = sys::recvmsg(socket.as_fd().as_raw_fd(), buf, &mut control)?;
    let from = received.from.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    let mut packet = Packet {
        len: received.len,
        truncated: received.flags & libc::MSG_TRUNC != 0,
        from,
        ttl: None,
        ifindex: 0,
        local: None,
    };
    let control = control.0.get(..received.control_len).unwrap_or_default();
    for (level, kind, data) in ControlMessages(control) {
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                packet.ttl = word(data, 0).and_then(|ttl| u8::try_from(ttl).ok());
            }
            // struct in_pktinfo: ifindex, spec_dst, addr (the header's destination).
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                packet.ifindex = word(data, 0).unwrap_or(0);
                packet.local = data.get(8..12).and_then(|b| <[u8; 4]>::try_from(b).ok()).map(IpAddr::from);
            }
            // struct in6_pktinfo: addr, ifindex.
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                packet.ifindex = word(data, 16).unwrap_or(0);
                packet.local = data.get(..16).and_then(|b| <[u8; 16]>::try_from(b).ok()).map(IpAddr::from);
            }
            _ => {}
        }
    }
    Ok(packet)
}

/// Sends one datagram from a given source address (if any) and interface (if not 0).
pub fn send_packet(
    socket: &impl AsFd,
    buf: &[u8],
    to: SocketAddr,
    from: Option<IpAddr>,
    ifindex: u32,
) -> io::Result<usize> {
    let mut control = Control([0; 256]);
    let mut data = Vec::with_capacity(20);
    let (level, kind) = match to {
        SocketAddr::V4(_) => {
            data.extend_from_slice(&ifindex.to_ne_bytes());
            let source = match from {
                Some(IpAddr::V4(v4)) => v4.octets(),
                None => [0; 4],
                Some(IpAddr::V6(_)) => return Err(io::ErrorKind::InvalidInput.into()),
            };
            data.extend_from_slice(&source);
            data.extend_from_slice(&[0; 4]);
            (libc::IPPROTO_IP, libc::IP_PKTINFO)
        }
        SocketAddr::V6(_) => {
            let source = match from {
                Some(IpAddr::V6(v6)) => v6,
                None => Ipv6Addr::UNSPECIFIED,
                Some(IpAddr::V4(_)) => return Err(io::ErrorKind::InvalidInput.into()),
            };
            data.extend_from_slice(&source.octets());
            data.extend_from_slice(&ifindex.to_ne_bytes());
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO)
        }
    };
    let len = if from.is_some() || ifindex != 0 { put_control(&mut control, level, kind, &data) } else { 0 };
    sys::sendmsg(socket.as_fd().as_raw_fd(), buf, to, &mut control, len)
}

/// Whether the other end has closed a TCP connection, or reset it, even if what it sent before is not read yet.
pub fn tcp_closed_by_peer(socket: &impl AsFd) -> io::Result<bool> {
    /// `TCP_ESTABLISHED` of `linux/tcp_states.h`; the state is the first byte of `struct tcp_info`.
    const ESTABLISHED: u8 = 1;
    let mut info = [0; 8];
    sys::getsockopt(socket.as_fd().as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
    Ok(info[0] != ESTABLISHED)
}

/// The process that listens at the other end of a connected Unix socket; none when it is outside of our PID namespace.
pub fn unix_peer_pid(socket: &impl AsFd) -> io::Result<Option<u32>> {
    Ok(unix_peer(socket)?.0)
}

/// The process that listens at the other end of a connected Unix socket, if our PID namespace has it, and its user.
pub fn unix_peer(socket: &impl AsFd) -> io::Result<(Option<u32>, u32)> {
    // struct ucred: pid, uid, gid.
    let mut cred = [0; 12];
    sys::getsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, &mut cred)?;
    Ok((word(&cred, 0).filter(|pid| *pid != 0), word(&cred, 4).unwrap_or(u32::MAX)))
}

/// Gives the calling thread a real-time priority (1 to 99, `SCHED_FIFO`), so that BFD keeps time on a loaded host.
/// Needs CAP_SYS_NICE; callers go on without.
pub fn set_thread_realtime(priority: u8) -> io::Result<()> {
    sys::sched_fifo(priority.into())
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// `struct cmsghdr`: a size_t length that includes the header, level, type.
const CMSG_HDRLEN: usize = size_of::<usize>() + 8;

const fn cmsg_align(len: usize) -> usize {
    (len + size_of::<usize>() - 1) & !(size_of::<usize>() - 1)
}

/// Writes one control message; returns the room it takes. `data` is far smaller than the buffer.
fn put_control(control: &mut Control, level: i32, kind: i32, data: &[u8]) -> usize {
    let len = CMSG_HDRLEN + data.len();
    let mut bytes = Vec::with_capacity(64);
    bytes.extend_from_slice(&len.to_ne_bytes());
    bytes.extend_from_slice(&level.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(data);
    bytes.resize(cmsg_align(len), 0);
    control.0[..bytes.len()].copy_from_slice(&bytes);
    bytes.len()
}

struct ControlMessages<'a>(&'a [u8]);

impl<'a> Iterator for ControlMessages<'a> {
    type Item = (i32, i32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (len, rest) = self.0.split_first_chunk::<{ size_of::<usize>() }>()?;
        let len = usize::from_ne_bytes(*len);
        let level = word(rest, 0)? as i32;
        let kind = word(rest, 4)? as i32;
        let data = self.0.get(CMSG_HDRLEN..len)?;
        self.0 = self.0.get(cmsg_align(len)..).unwrap_or_default();
        Some((level, kind, data))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream, UdpSocket},
    };

    use super::*;
    use crate::netlink::ns::testing;

    fn dial(to: SocketAddr, key: Option<&[u8]>) -> io::Result<TcpStream> {
        let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None)?;
        if let Some(key) = key {
            set_tcp_md5(&socket, Prefix::host(to.ip()), Some(key))?;
        }
        socket.connect_timeout(&to.into(), Duration::from_millis(300))?;
        Ok(socket.into())
    }

    #[test]
    fn md5_keys_admit_and_refuse() {
        testing::private(|| {
            for (addr, range) in [("127.0.0.1", "127.0.0.0/8"), ("::1", "::/64")] {
                let listener = TcpListener::bind((addr.parse::<IpAddr>().unwrap(), 0)).unwrap();
                let to = listener.local_addr().unwrap();
                for peers in [Prefix::host(to.ip()), range.parse().unwrap()] {
                    set_tcp_md5(&listener, peers, Some(b"secret")).unwrap();
                    let mut client = dial(to, Some(b"secret")).unwrap();
                    let (mut server, _) = listener.accept().unwrap();
                    client.write_all(b"hello").unwrap();
                    let mut buf = [0; 5];
                    server.read_exact(&mut buf).unwrap();
                    assert_eq!(&buf, b"hello");
                    assert!(dial(to, Some(b"wrong")).is_err());
                    assert!(dial(to, None).is_err());
                    set_tcp_md5(&listener, peers, None).unwrap();
                    dial(to, None).unwrap();
                    listener.accept().unwrap();
                    let again = set_tcp_md5(&listener, peers, None).unwrap_err();
                    assert_eq!(again.raw_os_error(), Some(libc::ENOENT));
                }
                let long = [0; 81];
                let error = set_tcp_md5(&listener, Prefix::host(to.ip()), Some(&long)).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            }
        });
    }

    #[test]
    fn ttl_security_drops_what_came_far() {
        testing::private(|| {
            for (addr, family) in [("127.0.0.1", Family::Ipv4), ("::1", Family::Ipv6)] {
                let listener = TcpListener::bind((addr.parse::<IpAddr>().unwrap(), 0)).unwrap();
                let to = listener.local_addr().unwrap();
                set_min_ttl(&listener, family, 255).unwrap();
                let connect = |ttl| {
                    let socket =
                        socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None)?;
                    set_ttl(&socket, family, ttl)?;
                    socket.connect_timeout(&to.into(), Duration::from_millis(100))
                };
                connect(255).unwrap();
                assert!(connect(254).is_err());
            }
        });
    }

    #[test]
    fn datagrams_tell_where_they_came_from() {
        testing::private(|| {
            for (addr, family) in [("127.0.0.1", Family::Ipv4), ("::1", Family::Ipv6)] {
                let addr: IpAddr = addr.parse().unwrap();
                let server = UdpSocket::bind((addr, 0)).unwrap();
                let to = server.local_addr().unwrap();
                server.set_nonblocking(true).unwrap();
                enable_packet_info(&server, family).unwrap();
                let client = UdpSocket::bind((addr, 0)).unwrap();
                let mut buf = [0; 4];
                set_ttl(&client, family, 254).unwrap();
                client.send_to(b"12345", to).unwrap();
                let packet = recv_packet(&server, &mut buf).unwrap();
                assert_eq!(packet.ttl, Some(254));
                assert_eq!((packet.len, packet.truncated), (4, true));
                assert_eq!(
                    (packet.from, packet.ifindex, packet.local),
                    (client.local_addr().unwrap(), 1, Some(addr))
                );
                set_ttl(&client, family, 255).unwrap();
                send_packet(&client, b"1", to, Some(addr), 1).unwrap();
                assert_eq!(recv_packet(&server, &mut buf).unwrap().ttl, Some(255));
                send_packet(&client, b"2", to, None, 0).unwrap();
                assert_eq!(recv_packet(&server, &mut buf).unwrap().len, 1);
            }
        });
    }

    #[test]
    fn plain_options_are_accepted() {
        testing::private(|| {
            for (addr, family) in [("192.0.2.7:0", Family::Ipv4), ("[2001:db8::7]:0", Family::Ipv6)] {
                let addr: SocketAddr = addr.parse().unwrap();
                let socket =
                    socket2::Socket::new(socket2::Domain::for_address(addr), socket2::Type::STREAM, None)
                        .unwrap();
                assert!(socket.bind(&addr.into()).is_err());
                set_freebind(&socket, family, true).unwrap();
                socket.bind(&addr.into()).unwrap();
                set_tos(&socket, family, TOS_CS6).unwrap();
                set_priority(&socket, 6).unwrap();
                set_tcp_user_timeout(&socket, Duration::from_secs(9)).unwrap();
                bind_device(&socket, Some("lo")).unwrap();
                bind_device(&socket, None).unwrap();
                assert!(bind_device(&socket, Some("none")).is_err());
            }
        });
    }

    #[test]
    fn control_messages_with_bad_lengths_end_the_iteration() {
        for bytes in [&[][..], &[0; 16], &[255; 32], &[16, 0, 0, 0, 0, 0, 0, 0, 1]] {
            assert_eq!(ControlMessages(bytes).count(), 0);
        }
    }
}
