//! Making records: table dumps (TABLE_DUMP_V2) and update logs (BGP4MP_ET).

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{BufMut, BytesMut};

use super::{PeerIndexEntry, bgp4mp, kind, table_dump};
use crate::{
    bgp::wire::{EncodeContext, Nlri, PathAttributes, WireNextHop, encode_attributes, encode_nlri},
    model::{Asn, Family, Prefix},
};

/// One route to write into a table dump.
#[derive(Clone, Copy, Debug)]
pub struct Route<'a> {
    /// The peer's number in the peer index.
    pub peer_index: u16,
    /// When it came.
    pub originated: SystemTime,
    /// The path identifier; written only into add-path records.
    pub path_id: u32,
    /// Its attributes.
    pub attributes: &'a PathAttributes,
    /// Its next hop.
    pub next_hop: WireNextHop,
}

/// What a message of an update log must be read with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// AS numbers have two octets, also those of the session's ends.
    pub two_octet: bool,
    /// Prefixes carry path identifiers.
    pub add_path: bool,
}

/// The two ends of a session, for records of an update log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// The peer's AS number.
    pub peer_asn: u32,
    /// Ours.
    pub local_asn: u32,
    /// The interface index; 0 when it does not matter.
    pub ifindex: u16,
    /// The peer's address.
    pub peer: IpAddr,
    /// Ours, of the same family.
    pub local: IpAddr,
}

/// Appends the peer index that every table dump starts with (RFC 6396 section 4.3.1).
///
/// At most 65,535 peers and octets of the view's name are written.
pub fn peer_index(
    out: &mut BytesMut,
    time: SystemTime,
    collector: Ipv4Addr,
    view: &str,
    peers: &[PeerIndexEntry],
) {
    let most = usize::from(u16::MAX);
    let (view, peers) = (&view.as_bytes()[..view.len().min(most)], &peers[..peers.len().min(most)]);
    record(out, time, kind::TABLE_DUMP_V2, table_dump::PEER_INDEX_TABLE, |out| {
        out.put_slice(&collector.octets());
        out.put_u16(view.len() as u16);
        out.put_slice(view);
        out.put_u16(peers.len() as u16);
        for peer in peers {
            // Bit 0: the address is IPv6. Bit 1: the AS number has four octets.
            out.put_u8(2 | u8::from(peer.address.is_ipv6()));
            out.put_slice(&peer.router_id.octets());
            put_address(out, peer.address);
            out.put_u32(peer.asn);
        }
    });
}

/// Appends all routes of one prefix (RFC 6396 section 4.3.2; RFC 8050 section 4 with `add_path`).
///
/// A route whose attributes do not fit 65,535 octets, which no session can have carried, is left out.
pub fn rib(
    out: &mut BytesMut,
    time: SystemTime,
    sequence: u32,
    prefix: Prefix,
    add_path: bool,
    routes: &[Route<'_>],
) {
    let subtype = match (prefix.family(), add_path) {
        (Family::Ipv4, false) => table_dump::RIB_IPV4_UNICAST,
        (Family::Ipv6, false) => table_dump::RIB_IPV6_UNICAST,
        (Family::Ipv4, true) => table_dump::RIB_IPV4_UNICAST_ADDPATH,
        (Family::Ipv6, true) => table_dump::RIB_IPV6_UNICAST_ADDPATH,
    };
    record(out, time, kind::TABLE_DUMP_V2, subtype, |out| {
        out.put_u32(sequence);
        encode_nlri(&Nlri { prefix, path_id: 0 }, false, out);
        let count_at = out.len();
        out.put_u16(0);
        let mut count: u16 = 0;
        for route in routes.iter().take(usize::from(u16::MAX)) {
            let start = out.len();
            out.put_u16(route.peer_index);
            out.put_u32(seconds(route.originated).0);
            if add_path {
                out.put_u32(route.path_id);
            }
            let length_at = out.len();
            out.put_u16(0);
            put_attributes(out, prefix.family(), route);
            if let Ok(length) = u16::try_from(out.len() - length_at - 2) {
                out[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
                count += 1;
            } else {
                out.truncate(start);
            }
        }
        out[count_at..count_at + 2].copy_from_slice(&count.to_be_bytes());
    });
}

/// AS numbers always have four octets, and MP_REACH_NLRI is only its next hop (RFC 6396 section 4.3.4).
fn put_attributes(out: &mut BytesMut, family: Family, route: &Route<'_>) {
    let body_next_hop = match (family, route.next_hop) {
        (Family::Ipv4, WireNextHop::V4(addr)) => Some(addr),
        (_, next_hop) => {
            let (global, link_local) = match next_hop {
                WireNextHop::V4(addr) => (addr.to_ipv6_mapped(), None),
                WireNextHop::V6(addr) => (addr, None),
                WireNextHop::V6LinkLocal { global, link_local } => (global, Some(link_local)),
            };
            let length = if link_local.is_some() { 32 } else { 16 };
            out.put_slice(&[0x80, 14, length + 1, length]);
            out.put_slice(&global.octets());
            if let Some(link_local) = link_local {
                out.put_slice(&link_local.octets());
            }
            None
        }
    };
    encode_attributes(&EncodeContext::default(), route.attributes, body_next_hop, out);
}

/// Appends a message that came or went, as BGP4MP_ET (RFC 6396 section 4.4, RFC 8050 section 3).
///
/// `message` includes its header, and has AS numbers as the encoding says.
pub fn message(
    out: &mut BytesMut,
    time: SystemTime,
    session: &Session,
    sent: bool,
    encoding: Encoding,
    message: &[u8],
) {
    let subtype = match (encoding.two_octet, sent, encoding.add_path) {
        (false, false, false) => bgp4mp::MESSAGE_AS4,
        (false, true, false) => bgp4mp::MESSAGE_AS4_LOCAL,
        (false, false, true) => bgp4mp::MESSAGE_AS4_ADDPATH,
        (false, true, true) => bgp4mp::MESSAGE_AS4_LOCAL_ADDPATH,
        (true, false, false) => bgp4mp::MESSAGE,
        (true, true, false) => bgp4mp::MESSAGE_LOCAL,
        (true, false, true) => bgp4mp::MESSAGE_ADDPATH,
        (true, true, true) => bgp4mp::MESSAGE_LOCAL_ADDPATH,
    };
    record(out, time, kind::BGP4MP_ET, subtype, |out| {
        put_session(out, time, session, encoding.two_octet);
        out.put_slice(message);
    });
}

/// Appends a state change of a peer, as BGP4MP_ET (RFC 6396 section 4.4.1): 1 Idle to 6 Established.
pub fn state_change(out: &mut BytesMut, time: SystemTime, session: &Session, old: u16, new: u16) {
    record(out, time, kind::BGP4MP_ET, bgp4mp::STATE_CHANGE_AS4, |out| {
        put_session(out, time, session, false);
        out.put_u16(old);
        out.put_u16(new);
    });
}

fn put_session(out: &mut BytesMut, time: SystemTime, session: &Session, two_octet: bool) {
    out.put_u32(seconds(time).1);
    for asn in [session.peer_asn, session.local_asn] {
        if two_octet {
            out.put_u16(u16::try_from(asn).unwrap_or(Asn::TRANS.get() as u16));
        } else {
            out.put_u32(asn);
        }
    }
    out.put_u16(session.ifindex);
    // Both addresses have one family; a pair of two is written as IPv6 with a mapped address.
    let both = [session.peer, session.local];
    if both.iter().all(IpAddr::is_ipv4) {
        out.put_u16(1);
        for address in both {
            put_address(out, address);
        }
    } else {
        out.put_u16(2);
        for address in both {
            put_address(out, IpAddr::V6(mapped(address)));
        }
    }
}

fn mapped(address: IpAddr) -> std::net::Ipv6Addr {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped(),
        IpAddr::V6(a) => a,
    }
}

fn put_address(out: &mut BytesMut, address: IpAddr) {
    match address {
        IpAddr::V4(a) => out.put_slice(&a.octets()),
        IpAddr::V6(a) => out.put_slice(&a.octets()),
    }
}

/// Seconds and microseconds since 1970; a clock before that counts as 1970.
fn seconds(time: SystemTime) -> (u32, u32) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    (since.as_secs() as u32, since.subsec_micros())
}

fn record(out: &mut BytesMut, time: SystemTime, kind: u16, subtype: u16, body: impl FnOnce(&mut BytesMut)) {
    out.put_u32(seconds(time).0);
    out.put_u16(kind);
    out.put_u16(subtype);
    let length_at = out.len();
    out.put_u32(0);
    body(out);
    let length = (out.len() - length_at - 4) as u32;
    out[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
}
