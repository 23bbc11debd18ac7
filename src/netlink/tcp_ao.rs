//! TCP-AO (RFC 5925): keys of a socket. Linux 6.7 and later, where built with `CONFIG_TCP_AO`.
//!
//! The structures are those of `include/uapi/linux/tcp.h`. Errors are plain [`io::Error`]s; `ENOPROTOOPT` means that the
//! kernel has no TCP-AO (see [`supported`]).

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use super::{sockopt::peer_address, sys};
use crate::model::Prefix;

const TCP_AO_ADD_KEY: i32 = 38;
const TCP_AO_DEL_KEY: i32 = 39;
const TCP_AO_INFO: i32 = 40;
/// `TCP_AO_MAXKEYLEN`.
pub const MAX_SECRET: usize = 80;
/// RFC 5926 section 3.2: both algorithms are cut to 96 bits.
const MAC_LEN: u8 = 12;
/// `sizeof` of `struct tcp_ao_add`, `tcp_ao_del` and `tcp_ao_info_opt`.
const ADD_LEN: usize = 288;
const DEL_LEN: usize = 144;
const INFO_LEN: usize = 48;

/// A master key tuple (RFC 5925 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key<'a> {
    /// The MAC.
    pub algorithm: Algorithm,
    /// SendID.
    pub send_id: u8,
    /// RecvID.
    pub receive_id: u8,
    /// The secret, 1 to 80 bytes.
    pub secret: &'a [u8],
}

/// The MAC algorithms of RFC 5926, each with its key derivation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Algorithm {
    /// HMAC-SHA-1-96, which everybody must have.
    #[default]
    HmacSha1,
    /// AES-128-CMAC-96.
    Aes128Cmac,
}

impl Algorithm {
    /// The kernel's name.
    const fn name(self) -> &'static str {
        match self {
            Self::HmacSha1 => "hmac(sha1)",
            Self::Aes128Cmac => "cmac(aes128)",
        }
    }
}

/// What shall be used after a change, on a socket that is not a listener: the SendID of what we send, and the RecvID that
/// the peer is asked to send with (RNextKeyID).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InUse {
    /// SendID.
    pub current: u8,
    /// RecvID.
    pub next: u8,
}

/// Whether the running kernel has TCP-AO.
pub fn supported() -> io::Result<bool> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    match has_keys(&socket) {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether a socket uses TCP-AO.
pub fn has_keys(socket: &impl AsFd) -> io::Result<bool> {
    let mut info = [0; INFO_LEN];
    match sys::getsockopt(socket.as_fd().as_raw_fd(), libc::IPPROTO_TCP, TCP_AO_INFO, &mut info) {
        Ok(_) => Ok(true),
        // A socket that never had a key has no such information.
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Adds a key for peers inside `peers`: on a listener before the peer's SYN can arrive, on a dialling socket before
/// `connect`, on a connection that has a key already at any time. `first`: the key is used from now on, and the peer is
/// asked to use it; not for listeners, which use what each peer uses.
pub fn add_key(socket: &impl AsFd, peers: Prefix, key: Key<'_>, first: bool) -> io::Result<()> {
    let (addr, prefix_len) = peer_address(socket, peers)?;
    let option = add_option(&addr, prefix_len, key, first)?;
    sys::setsockopt(socket.as_fd().as_raw_fd(), libc::IPPROTO_TCP, TCP_AO_ADD_KEY, &option)
}

/// Removes a key that was added for the same `peers`. A connection must be told what it uses instead.
pub fn delete_key(
    socket: &impl AsFd,
    peers: Prefix,
    (send_id, receive_id): (u8, u8),
    instead: Option<InUse>,
) -> io::Result<()> {
    let (addr, prefix_len) = peer_address(socket, peers)?;
    let option = delete_option(&addr, prefix_len, (send_id, receive_id), instead);
    sys::setsockopt(socket.as_fd().as_raw_fd(), libc::IPPROTO_TCP, TCP_AO_DEL_KEY, &option)
}

/// Asks the peer of a connection to send with the key of this RecvID; ours follows when the peer asks for it.
pub fn ask_for_key(socket: &impl AsFd, receive_id: u8) -> io::Result<()> {
    sys::setsockopt(socket.as_fd().as_raw_fd(), libc::IPPROTO_TCP, TCP_AO_INFO, &info_option(receive_id))
}

/// The word of bit fields: the `n`th from the least significant bit on little endian, from the most significant on big.
const fn bits(set: &[u32]) -> [u8; 4] {
    let mut word = 0;
    let mut i = 0;
    while i < set.len() {
        word |= if cfg!(target_endian = "little") { 1 << set[i] } else { 1 << (31 - set[i]) };
        i += 1;
    }
    u32::to_ne_bytes(word)
}

fn add_option(addr: &[u8], prefix_len: u8, key: Key<'_>, first: bool) -> io::Result<[u8; ADD_LEN]> {
    let length = u8::try_from(key.secret.len()).unwrap_or(u8::MAX);
    if length == 0 || usize::from(length) > MAX_SECRET {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a TCP-AO secret has 1 to 80 bytes"));
    }
    let mut option = [0; ADD_LEN];
    option[..addr.len()].copy_from_slice(addr);
    let name = key.algorithm.name().as_bytes();
    option[128..128 + name.len()].copy_from_slice(name);
    if first {
        option[196..200].copy_from_slice(&bits(&[0, 1]));
    }
    option[202..208].copy_from_slice(&[prefix_len, key.send_id, key.receive_id, MAC_LEN, 0, length]);
    option[208..208 + key.secret.len()].copy_from_slice(key.secret);
    Ok(option)
}

fn delete_option(
    addr: &[u8],
    prefix_len: u8,
    (send_id, receive_id): (u8, u8),
    instead: Option<InUse>,
) -> [u8; DEL_LEN] {
    let mut option = [0; DEL_LEN];
    option[..addr.len()].copy_from_slice(addr);
    let (mut current, mut next) = (0, 0);
    if let Some(in_use) = instead {
        option[132..136].copy_from_slice(&bits(&[0, 1]));
        (current, next) = (in_use.current, in_use.next);
    }
    option[138..143].copy_from_slice(&[prefix_len, send_id, receive_id, current, next]);
    option
}

fn info_option(receive_id: u8) -> [u8; INFO_LEN] {
    let mut option = [0; INFO_LEN];
    // set_rnext. Segments without a MAC are dropped wherever there is a key for the peer: ao_required is for others.
    option[0..4].copy_from_slice(&bits(&[1]));
    option[7] = receive_id;
    option
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;
    use crate::netlink::ns::testing;

    /// The structures as the header has them, bit fields as one word.
    #[repr(C, align(8))]
    struct Add {
        addr: libc::sockaddr_storage,
        alg_name: [u8; 64],
        ifindex: i32,
        flags: u32,
        reserved2: u16,
        prefix: u8,
        sndid: u8,
        rcvid: u8,
        maclen: u8,
        keyflags: u8,
        keylen: u8,
        key: [u8; MAX_SECRET],
    }

    #[repr(C, align(8))]
    struct Del {
        addr: libc::sockaddr_storage,
        ifindex: i32,
        flags: u32,
        reserved2: u16,
        prefix: u8,
        sndid: u8,
        rcvid: u8,
        current_key: u8,
        rnext: u8,
        keyflags: u8,
    }

    #[repr(C, align(8))]
    struct InfoOpt {
        flags: u32,
        reserved2: u16,
        current_key: u8,
        rnext: u8,
        pkt_good: u64,
        pkt_bad: u64,
        pkt_key_not_found: u64,
        pkt_ao_required: u64,
        pkt_dropped_icmp: u64,
    }

    #[test]
    fn sizes_are_those_of_the_header() {
        assert_eq!((size_of::<Add>(), size_of::<Del>(), size_of::<InfoOpt>()), (ADD_LEN, DEL_LEN, INFO_LEN));
    }

    #[test]
    fn every_field_is_where_the_header_has_it() {
        let (ip4, ip6) = ([2, 0, 0, 0, 192, 0, 2, 1], [9; 28]);
        for addr in [ip4.as_slice(), ip6.as_slice()] {
            let key = Key { algorithm: Algorithm::Aes128Cmac, send_id: 3, receive_id: 4, secret: b"abc" };
            for (first, flags) in [(true, [0, 1].as_slice()), (false, &[])] {
                let option = add_option(addr, 24, key, first).unwrap();
                let mut expected = [0; ADD_LEN];
                let mut put = |at: usize, bytes: &[u8]| expected[at..at + bytes.len()].copy_from_slice(bytes);
                put(offset_of!(Add, addr), addr);
                put(offset_of!(Add, alg_name), b"cmac(aes128)");
                put(offset_of!(Add, flags), &bits(flags));
                put(offset_of!(Add, prefix), &[24]);
                put(offset_of!(Add, sndid), &[3]);
                put(offset_of!(Add, rcvid), &[4]);
                put(offset_of!(Add, maclen), &[12]);
                put(offset_of!(Add, keylen), &[3]);
                put(offset_of!(Add, key), b"abc");
                assert_eq!(option, expected);
            }
            for (instead, flags, ids) in
                [(None, [].as_slice(), [0, 0]), (Some(InUse { current: 5, next: 6 }), &[0, 1], [5, 6])]
            {
                let option = delete_option(addr, 24, (3, 4), instead);
                let mut expected = [0; DEL_LEN];
                let mut put = |at: usize, bytes: &[u8]| expected[at..at + bytes.len()].copy_from_slice(bytes);
                put(offset_of!(Del, addr), addr);
                put(offset_of!(Del, flags), &bits(flags));
                put(offset_of!(Del, prefix), &[24]);
                put(offset_of!(Del, sndid), &[3]);
                put(offset_of!(Del, rcvid), &[4]);
                put(offset_of!(Del, current_key), &ids[..1]);
                put(offset_of!(Del, rnext), &ids[1..]);
                assert_eq!(option, expected);
            }
        }
        let mut expected = [0; INFO_LEN];
        expected[offset_of!(InfoOpt, flags)..][..4].copy_from_slice(&bits(&[1]));
        expected[offset_of!(InfoOpt, rnext)] = 7;
        assert_eq!(info_option(7), expected);
    }

    #[test]
    fn secrets_have_1_to_80_bytes() {
        for (length, good) in [(0, false), (1, true), (80, true), (81, false), (300, false)] {
            let secret = vec![1; length];
            let key = Key { algorithm: Algorithm::HmacSha1, send_id: 1, receive_id: 1, secret: &secret };
            assert_eq!(add_option(&[], 32, key, true).is_ok(), good, "{length}");
        }
    }

    /// What the kernel says agrees with what it then does; where it has TCP-AO, keys admit and refuse.
    #[test]
    fn the_probe_is_right() {
        testing::private(|| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let to = listener.local_addr().unwrap();
            let key =
                |id, secret| Key { algorithm: Algorithm::HmacSha1, send_id: id, receive_id: id, secret };
            let peers: Prefix = "127.0.0.0/8".parse().unwrap();
            let added = add_key(&listener, peers, key(1, b"secret"), false);
            if !supported().unwrap() {
                assert_eq!(added.unwrap_err().raw_os_error(), Some(libc::ENOPROTOOPT));
                return;
            }
            added.unwrap();
            let dial = |key: Option<Key<'_>>| -> io::Result<std::net::TcpStream> {
                let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
                if let Some(key) = key {
                    add_key(&socket, Prefix::host(to.ip()), key, true)?;
                }
                socket.connect_timeout(&to.into(), std::time::Duration::from_millis(300))?;
                Ok(socket.into())
            };
            let client = dial(Some(key(1, b"secret"))).unwrap();
            let (server, _) = listener.accept().unwrap();
            assert!(has_keys(&client).unwrap() && has_keys(&server).unwrap());
            assert!(dial(Some(key(1, b"wrong"))).is_err() && dial(None).is_err());
            // Another key, and the first one goes.
            let host = Prefix::host(to.ip());
            add_key(&client, host, key(2, b"other"), false).unwrap();
            ask_for_key(&client, 2).unwrap();
            delete_key(&client, host, (1, 1), Some(InUse { current: 2, next: 2 })).unwrap();
            delete_key(&listener, peers, (1, 1), None).unwrap();
        });
    }
}
