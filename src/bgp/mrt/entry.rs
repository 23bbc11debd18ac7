//! What a record holds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use nom::{
    IResult, Parser,
    bytes::complete::take,
    combinator::{cond, map},
    multi::{count, length_count, length_data},
    number::complete::{be_u8, be_u16, be_u32, be_u128},
};

use super::{MrtRecord, bgp4mp, kind, table_dump};
use crate::{
    bgp::wire,
    model::{Family, Prefix},
};

/// What a record holds. Attributes and messages are left as octets, for the codec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MrtEntry {
    /// The peers that the following RIB records refer to by number.
    PeerIndex(PeerIndex),
    /// The routes of one prefix.
    Rib(RibRecord),
    /// Routes of a family whose prefixes are not IPv4 or IPv6.
    ForeignRib(ForeignRib),
    /// A BGP message.
    Message(MessageRecord),
    /// A state change of a peer.
    StateChange(StateChange),
    /// A record of a known type that has nothing for us.
    Other,
    /// A record of a type or subtype that is not known.
    Unknown,
}

/// PEER_INDEX_TABLE (RFC 6396 section 4.3.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIndex {
    /// The collector's BGP identifier.
    pub collector: Ipv4Addr,
    /// The view's name, often empty.
    pub view: String,
    /// The peers; their position is their number.
    pub peers: Vec<PeerIndexEntry>,
}

/// One peer of a table dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerIndexEntry {
    /// BGP identifier.
    pub router_id: Ipv4Addr,
    /// Address.
    pub address: IpAddr,
    /// AS number.
    pub asn: u32,
}

/// RIB_IPV4_UNICAST and its like (RFC 6396 section 4.3.2, RFC 8050 section 4), and the older TABLE_DUMP (section 4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RibRecord {
    /// Counts the records of the dump; 16 bits in TABLE_DUMP.
    pub sequence: u32,
    /// Subsequent address family identifier: 1 unicast, 2 multicast.
    pub safi: u8,
    /// Whether AS numbers in the attributes have four octets: not in TABLE_DUMP.
    pub four_octet: bool,
    /// The prefix.
    pub prefix: Prefix,
    /// Its routes.
    pub entries: Vec<RibEntry>,
}

/// RIB_GENERIC of a family that is not decoded. The length of its NLRI is not known, so its entries cannot be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignRib {
    /// Counts the records of the dump.
    pub sequence: u32,
    /// Address family identifier.
    pub afi: u16,
    /// Subsequent address family identifier.
    pub safi: u8,
    /// NLRI and entries.
    pub rest: Bytes,
}

/// One route of a table dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RibEntry {
    /// The peer's number in the [`PeerIndex`]; 0 in TABLE_DUMP, which has no index.
    pub peer_index: u16,
    /// The peer's address and AS number, in TABLE_DUMP.
    pub peer: Option<(IpAddr, u32)>,
    /// When the route came, in seconds since 1970.
    pub originated: u32,
    /// The path identifier, in the add-path subtypes.
    pub path_id: Option<u32>,
    /// The path attributes: AS numbers have four octets and MP_REACH_NLRI holds only a next hop.
    pub attributes: Bytes,
    /// Where the attributes are in the record, header included.
    pub offset: usize,
    /// Where the entry begins in the record.
    pub begins: usize,
}

/// BGP4MP_MESSAGE and its like (RFC 6396 section 4.4.2, RFC 8050 section 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageRecord {
    /// The peer's AS number.
    pub peer_asn: u32,
    /// The collector's AS number.
    pub local_asn: u32,
    /// The peer's address; `None` for an unknown address family.
    pub peer: Option<IpAddr>,
    /// The collector's address.
    pub local: Option<IpAddr>,
    /// Whether AS numbers in the message have four octets.
    pub four_octet: bool,
    /// Whether prefixes in the message have path identifiers.
    pub add_path: bool,
    /// The collector sent the message rather than received it.
    pub sent: bool,
    /// The message, header included.
    pub message: Bytes,
}

/// BGP4MP_STATE_CHANGE (RFC 6396 section 4.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// The peer's AS number.
    pub peer_asn: u32,
    /// The peer's address.
    pub peer: Option<IpAddr>,
    /// The state before: 1 Idle to 6 Established.
    pub old: u16,
    /// The state after.
    pub new: u16,
}

impl MrtRecord {
    /// What the record holds; `None` when it is malformed.
    pub fn entry(&self) -> Option<MrtEntry> {
        let at = |rest: &[u8]| self.header_len + self.body.len() - rest.len();
        let body = &self.body[..];
        match (self.kind, self.subtype) {
            (kind::TABLE_DUMP_V2, table_dump::PEER_INDEX_TABLE) => peer_index(body).map(MrtEntry::PeerIndex),
            (kind::TABLE_DUMP_V2, subtype) => {
                use table_dump as t;
                let family = match subtype {
                    t::RIB_IPV4_UNICAST | t::RIB_IPV4_UNICAST_ADDPATH => Some((Family::Ipv4, 1)),
                    t::RIB_IPV4_MULTICAST | t::RIB_IPV4_MULTICAST_ADDPATH => Some((Family::Ipv4, 2)),
                    t::RIB_IPV6_UNICAST | t::RIB_IPV6_UNICAST_ADDPATH => Some((Family::Ipv6, 1)),
                    t::RIB_IPV6_MULTICAST | t::RIB_IPV6_MULTICAST_ADDPATH => Some((Family::Ipv6, 2)),
                    t::RIB_GENERIC | t::RIB_GENERIC_ADDPATH => None,
                    _ => return Some(MrtEntry::Unknown),
                };
                let add_path = subtype >= t::RIB_IPV4_UNICAST_ADDPATH;
                if subtype == t::RIB_GENERIC_ADDPATH {
                    // RFC 8050 section 4.2 puts the identifier into the NLRI; some writers put it into the entries, as
                    // in the other subtypes. The one that fills the record is meant.
                    rib(family, PathId::InNlri, body, at).or_else(|| rib(family, PathId::InEntry, body, at))
                } else {
                    rib(family, if add_path { PathId::InEntry } else { PathId::None }, body, at)
                }
            }
            // The subtype is the address family.
            (kind::TABLE_DUMP, 1) => old_rib(Family::Ipv4, body, at),
            (kind::TABLE_DUMP, 2) => old_rib(Family::Ipv6, body, at),
            (kind::BGP4MP | kind::BGP4MP_ET, subtype) => bgp4mp_entry(subtype, body),
            // The routes of other protocols: OSPFv2, IS-IS, OSPFv3.
            (11 | 32 | 33 | 48 | 49, _) => Some(MrtEntry::Other),
            _ => Some(MrtEntry::Unknown),
        }
    }
}

type Parsed<'a, T> = IResult<&'a [u8], T, ()>;

fn v4(bytes: &[u8]) -> Parsed<'_, Ipv4Addr> {
    map(be_u32, Ipv4Addr::from_bits).parse(bytes)
}

fn address(v6: bool, bytes: &[u8]) -> Parsed<'_, IpAddr> {
    if v6 {
        map(be_u128, |a| IpAddr::V6(Ipv6Addr::from_bits(a))).parse(bytes)
    } else {
        map(v4, IpAddr::V4).parse(bytes)
    }
}

fn asn(four_octet: bool, bytes: &[u8]) -> Parsed<'_, u32> {
    if four_octet { be_u32(bytes) } else { map(be_u16, u32::from).parse(bytes) }
}

fn peer_index(body: &[u8]) -> Option<PeerIndex> {
    let peer = |bytes| -> Parsed<'_, PeerIndexEntry> {
        let (rest, (kind, router_id)) = (be_u8, v4).parse(bytes)?;
        let (rest, address) = address(kind & 1 != 0, rest)?;
        let (rest, asn) = asn(kind & 2 != 0, rest)?;
        Ok((rest, PeerIndexEntry { router_id, address, asn }))
    };
    let parsed: Parsed<'_, _> = (v4, length_data(be_u16), length_count(be_u16, peer)).parse(body);
    let (_, (collector, view, peers)) = parsed.ok()?;
    Some(PeerIndex { collector, view: String::from_utf8_lossy(view).into_owned(), peers })
}

/// Where the path identifiers of a table dump's record are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PathId {
    None,
    InNlri,
    InEntry,
}

fn rib(
    family: Option<(Family, u8)>,
    path_id: PathId,
    body: &[u8],
    at: impl Fn(&[u8]) -> usize,
) -> Option<MrtEntry> {
    let head: Parsed<'_, _> = (be_u32, cond(family.is_none(), (be_u16, be_u8))).parse(body);
    let (rest, (sequence, generic)) = head.ok()?;
    let (family, safi) = match (family, generic) {
        (Some(family), _) => family,
        (None, Some((1, safi @ 1..=2))) => (Family::Ipv4, safi),
        (None, Some((2, safi @ 1..=2))) => (Family::Ipv6, safi),
        (None, generic) => {
            let (afi, safi) = generic?;
            let rest = Bytes::copy_from_slice(rest);
            return Some(MrtEntry::ForeignRib(ForeignRib { sequence, afi, safi, rest }));
        }
    };
    let head: Parsed<'_, _> = (cond(path_id == PathId::InNlri, be_u32), be_u8).parse(rest);
    let (rest, (of_prefix, bits)) = head.ok()?;
    let octets: Parsed<'_, &[u8]> = take(bits.div_ceil(8)).parse(rest);
    let (rest, octets) = octets.ok()?;
    let addr = match family {
        Family::Ipv4 => {
            let mut a = [0; 4];
            a.get_mut(..octets.len())?.copy_from_slice(octets);
            IpAddr::from(a)
        }
        Family::Ipv6 => {
            let mut a = [0; 16];
            a.get_mut(..octets.len())?.copy_from_slice(octets);
            IpAddr::from(a)
        }
    };
    let prefix = Prefix::new(addr, bits).ok()?;
    let entry = |bytes| -> Parsed<'_, RibEntry> {
        let (rest, (peer_index, originated, of_entry, attributes)) =
            (be_u16, be_u32, cond(path_id == PathId::InEntry, be_u32), length_data(be_u16)).parse(bytes)?;
        let (offset, begins) = (at(rest).saturating_sub(attributes.len()), at(bytes));
        Ok((
            rest,
            RibEntry {
                peer_index,
                peer: None,
                originated,
                path_id: of_entry.or(of_prefix),
                attributes: Bytes::copy_from_slice(attributes),
                offset,
                begins,
            },
        ))
    };
    let entries: Parsed<'_, _> = length_count(be_u16, entry).parse(rest);
    let (rest, entries) = entries.ok()?;
    if path_id == PathId::InNlri && !rest.is_empty() {
        return None;
    }
    Some(MrtEntry::Rib(RibRecord { sequence, safi, four_octet: true, prefix, entries }))
}

/// TABLE_DUMP (RFC 6396 section 4.2): one route a record, AS numbers of two octets.
fn old_rib(family: Family, body: &[u8], at: impl Fn(&[u8]) -> usize) -> Option<MrtEntry> {
    let v6 = family == Family::Ipv6;
    let parsed: Parsed<'_, _> = (
        be_u16,
        be_u16,
        |bytes| address(v6, bytes),
        be_u8,
        be_u8,
        be_u32,
        |bytes| address(v6, bytes),
        be_u16,
        length_data(be_u16),
    )
        .parse(body);
    let (rest, (_view, sequence, addr, bits, _status, originated, peer, asn, attributes)) = parsed.ok()?;
    let entry = RibEntry {
        peer_index: 0,
        peer: Some((peer, u32::from(asn))),
        originated,
        path_id: None,
        offset: at(rest).saturating_sub(attributes.len()),
        begins: at(body),
        attributes: Bytes::copy_from_slice(attributes),
    };
    let prefix = Prefix::new(addr, bits).ok()?;
    let sequence = u32::from(sequence);
    Some(MrtEntry::Rib(RibRecord { sequence, safi: 1, four_octet: false, prefix, entries: vec![entry] }))
}

fn bgp4mp_entry(subtype: u16, body: &[u8]) -> Option<MrtEntry> {
    use bgp4mp as b;
    let four_octet = matches!(
        subtype,
        b::MESSAGE_AS4
            | b::STATE_CHANGE_AS4
            | b::MESSAGE_AS4_LOCAL
            | b::MESSAGE_AS4_ADDPATH
            | b::MESSAGE_AS4_LOCAL_ADDPATH
    );
    let add_path = (b::MESSAGE_ADDPATH..=b::MESSAGE_AS4_LOCAL_ADDPATH).contains(&subtype);
    let sent = matches!(
        subtype,
        b::MESSAGE_LOCAL | b::MESSAGE_AS4_LOCAL | b::MESSAGE_LOCAL_ADDPATH | b::MESSAGE_AS4_LOCAL_ADDPATH
    );
    let state_change = matches!(subtype, b::STATE_CHANGE | b::STATE_CHANGE_AS4);
    if !(state_change || sent || add_path || matches!(subtype, b::MESSAGE | b::MESSAGE_AS4)) {
        return Some(MrtEntry::Unknown);
    }
    let number = |bytes| asn(four_octet, bytes);
    let head: Parsed<'_, _> = (number, number, be_u16, be_u16).parse(body);
    let (rest, (peer_asn, local_asn, _interface, afi)) = head.ok()?;
    let (rest, peer, local) = match afi {
        1 | 2 => {
            let (rest, both) = count(|bytes| address(afi == 2, bytes), 2).parse(rest).ok()?;
            (rest, both.first().copied(), both.get(1).copied())
        }
        // Some writers leave the addresses out when they do not know them.
        _ => (rest, None, None),
    };
    if state_change {
        let states: Parsed<'_, _> = (be_u16, be_u16).parse(rest);
        // FRR writes them short when it does not know the addresses. No message is lost with them.
        let Ok((_, (old, new))) = states else { return Some(MrtEntry::Other) };
        return Some(MrtEntry::StateChange(StateChange { peer_asn, peer, old, new }));
    }
    let message = Bytes::copy_from_slice(rest);
    Some(MrtEntry::Message(MessageRecord {
        peer_asn,
        local_asn,
        peer,
        local,
        four_octet,
        add_path,
        sent,
        message,
    }))
}

impl MessageRecord {
    /// How to read the message: as `base`, with the widths that the record's subtype tells. Its length is what the
    /// session allowed, or it would not have been recorded.
    pub fn context(&self, base: wire::DecodeContext) -> wire::DecodeContext {
        wire::DecodeContext {
            four_octet: self.four_octet,
            add_path: if self.add_path { wire::PerFamily::both(true) } else { base.add_path },
            extended_message: true,
            ..base
        }
    }

    /// Whether both ends are in the same AS.
    pub const fn is_internal(&self) -> bool {
        self.peer_asn == self.local_asn && self.peer_asn != 0
    }
}
