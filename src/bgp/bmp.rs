//! BMP (RFC 7854): what a monitored speaker tells a collector. Encoding only; the collector never answers.
//!
//! A stream starts with [`initiation`]; then [`peer_up`] before anything else about a peer, [`route_monitoring`] for each
//! UPDATE, and [`peer_down`] at its end.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{BufMut, BytesMut};

use crate::model::Family;

/// The protocol's version.
const VERSION: u8 = 3;

/// Message types (RFC 7854 section 4.1).
mod kind {
    pub(super) const ROUTE_MONITORING: u8 = 0;
    pub(super) const STATISTICS: u8 = 1;
    pub(super) const PEER_DOWN: u8 = 2;
    pub(super) const PEER_UP: u8 = 3;
    pub(super) const INITIATION: u8 = 4;
    pub(super) const TERMINATION: u8 = 5;
}

/// Which of a peer's tables a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// What the peer sent, before our import policy (RFC 7854).
    AdjRibInPre,
    /// The same after it.
    AdjRibInPost,
    /// What we might send, before export policy (RFC 8671).
    AdjRibOutPre,
    /// What we send, after it.
    AdjRibOutPost,
    /// What we chose (RFC 9069). The peer is ourselves.
    LocRib,
}

/// The per-peer header (RFC 7854 section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerHeader {
    /// The table.
    pub table: Table,
    /// The peer's address; the unspecified one for [`Table::LocRib`].
    pub address: IpAddr,
    /// The peer's AS number.
    pub asn: u32,
    /// The peer's BGP identifier.
    pub router_id: Ipv4Addr,
    /// Whether AS_PATH in the UPDATEs has two-octet numbers.
    pub two_octet: bool,
    /// When it happened.
    pub time: SystemTime,
}

/// Why a session ended (RFC 7854 section 4.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerDown<'a> {
    /// We sent this NOTIFICATION, header included.
    LocalNotification(&'a [u8]),
    /// We closed without one, for this event of RFC 4271 section 8.1 (0 when none fits).
    LocalEvent(u16),
    /// The peer sent this NOTIFICATION, header included.
    RemoteNotification(&'a [u8]),
    /// The connection was lost without one.
    RemoteClosed,
    /// The peer is no longer monitored.
    Unmonitored,
}

/// A counter or gauge of a statistics report (RFC 7854 section 4.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistic {
    /// Type 0: prefixes rejected by import policy.
    RejectedPrefixes(u32),
    /// Type 3: prefixes refused for a loop in CLUSTER_LIST.
    ClusterLoops(u32),
    /// Type 4: prefixes refused for an AS path loop.
    AsPathLoops(u32),
    /// Type 5: prefixes refused as ORIGINATOR_ID is ours.
    OriginatorLoops(u32),
    /// Type 7: routes in Adj-RIB-In.
    AdjRibIn(u64),
    /// Type 8: routes in Loc-RIB.
    LocRib(u64),
    /// Type 9: routes in Adj-RIB-In of one family.
    AdjRibInFamily(Family, u64),
    /// Type 10: routes in Loc-RIB of one family.
    LocRibFamily(Family, u64),
    /// Type 11: UPDATEs that were treated as withdrawals (RFC 7606).
    TreatedAsWithdraw(u32),
    /// Type 12: prefixes that were.
    PrefixesTreatedAsWithdraw(u32),
    /// Type 14: routes in Adj-RIB-Out before export policy (RFC 8671 section 6.2).
    AdjRibOutPre(u64),
    /// Type 15: those after it.
    AdjRibOutPost(u64),
    /// Type 16: routes in Adj-RIB-Out before export policy of one family.
    AdjRibOutPreFamily(Family, u64),
    /// Type 17: those after it.
    AdjRibOutPostFamily(Family, u64),
}

/// Appends the first message of a stream: system name and description.
pub fn initiation(out: &mut BytesMut, name: &str, description: &str) {
    framed(out, kind::INITIATION, |out| {
        tlv(out, 1, description.as_bytes());
        tlv(out, 2, name.as_bytes());
    });
}

/// Appends the last message of a stream: administratively closed, and why.
pub fn termination(out: &mut BytesMut, why: &str) {
    framed(out, kind::TERMINATION, |out| {
        tlv(out, 0, why.as_bytes());
        tlv(out, 1, &[0, 0]);
    });
}

/// Appends a peer up: our end, ports, and both OPENs with their headers. A Loc-RIB has a name (RFC 9069 section 4.4).
pub fn peer_up(
    out: &mut BytesMut,
    peer: &PeerHeader,
    local: IpAddr,
    ports: (u16, u16),
    sent_open: &[u8],
    received_open: &[u8],
    table: Option<&str>,
) {
    framed(out, kind::PEER_UP, |out| {
        peer_header(out, peer);
        address(out, local);
        out.put_u16(ports.0);
        out.put_u16(ports.1);
        out.put_slice(sent_open);
        out.put_slice(received_open);
        if let Some(name) = table {
            tlv(out, 3, name.as_bytes());
        }
    });
}

/// Appends a peer down.
pub fn peer_down(out: &mut BytesMut, peer: &PeerHeader, reason: PeerDown<'_>) {
    framed(out, kind::PEER_DOWN, |out| {
        peer_header(out, peer);
        match reason {
            PeerDown::LocalNotification(message) => {
                out.put_u8(1);
                out.put_slice(message);
            }
            PeerDown::LocalEvent(event) => {
                out.put_u8(2);
                out.put_u16(event);
            }
            PeerDown::RemoteNotification(message) => {
                out.put_u8(3);
                out.put_slice(message);
            }
            PeerDown::RemoteClosed => out.put_u8(4),
            PeerDown::Unmonitored => out.put_u8(5),
        }
    });
}

/// Appends one UPDATE of a table, header included.
pub fn route_monitoring(out: &mut BytesMut, peer: &PeerHeader, update: &[u8]) {
    framed(out, kind::ROUTE_MONITORING, |out| {
        peer_header(out, peer);
        out.put_slice(update);
    });
}

/// Appends a statistics report.
pub fn statistics(out: &mut BytesMut, peer: &PeerHeader, statistics: &[Statistic]) {
    framed(out, kind::STATISTICS, |out| {
        peer_header(out, peer);
        out.put_u32(statistics.len() as u32);
        for one in statistics {
            match *one {
                Statistic::RejectedPrefixes(n) => tlv(out, 0, &n.to_be_bytes()),
                Statistic::ClusterLoops(n) => tlv(out, 3, &n.to_be_bytes()),
                Statistic::AsPathLoops(n) => tlv(out, 4, &n.to_be_bytes()),
                Statistic::OriginatorLoops(n) => tlv(out, 5, &n.to_be_bytes()),
                Statistic::AdjRibIn(n) => tlv(out, 7, &n.to_be_bytes()),
                Statistic::LocRib(n) => tlv(out, 8, &n.to_be_bytes()),
                Statistic::AdjRibInFamily(family, n) => family_tlv(out, 9, family, n),
                Statistic::LocRibFamily(family, n) => family_tlv(out, 10, family, n),
                Statistic::TreatedAsWithdraw(n) => tlv(out, 11, &n.to_be_bytes()),
                Statistic::PrefixesTreatedAsWithdraw(n) => tlv(out, 12, &n.to_be_bytes()),
                Statistic::AdjRibOutPre(n) => tlv(out, 14, &n.to_be_bytes()),
                Statistic::AdjRibOutPost(n) => tlv(out, 15, &n.to_be_bytes()),
                Statistic::AdjRibOutPreFamily(family, n) => family_tlv(out, 16, family, n),
                Statistic::AdjRibOutPostFamily(family, n) => family_tlv(out, 17, family, n),
            }
        }
    });
}

fn peer_header(out: &mut BytesMut, peer: &PeerHeader) {
    // RFC 9069: type 3 is Loc-RIB; 0 is a peer of the global instance.
    out.put_u8(if peer.table == Table::LocRib { 3 } else { 0 });
    let table = match peer.table {
        Table::AdjRibInPre | Table::LocRib => 0x00,
        Table::AdjRibInPost => 0x40,
        // RFC 8671 section 5.1: the O flag, with L for post-policy.
        Table::AdjRibOutPre => 0x10,
        Table::AdjRibOutPost => 0x50,
    };
    let width = if peer.two_octet { 0x20 } else { 0 };
    let family = if peer.address.is_ipv6() { 0x80 } else { 0 };
    // The flags of a Loc-RIB peer are others (RFC 9069 section 4.2): none of these.
    out.put_u8(if peer.table == Table::LocRib { 0 } else { table | width | family });
    out.put_u64(0);
    address(out, peer.address);
    out.put_u32(peer.asn);
    out.put_slice(&peer.router_id.octets());
    let since = peer.time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    out.put_u32(since.as_secs() as u32);
    out.put_u32(since.subsec_micros());
}

/// 16 octets; IPv4 in the last four.
fn address(out: &mut BytesMut, address: IpAddr) {
    match address {
        IpAddr::V4(a) => {
            out.put_bytes(0, 12);
            out.put_slice(&a.octets());
        }
        IpAddr::V6(a) => out.put_slice(&a.octets()),
    }
}

/// A value of more than 65,535 octets, which only a text could have, is cut.
fn tlv(out: &mut BytesMut, kind: u16, value: &[u8]) {
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    out.put_u16(kind);
    out.put_u16(value.len() as u16);
    out.put_slice(value);
}

/// AFI, SAFI unicast, and a gauge.
fn family_tlv(out: &mut BytesMut, kind: u16, family: Family, value: u64) {
    let afi: u8 = match family {
        Family::Ipv4 => 1,
        Family::Ipv6 => 2,
    };
    let mut octets = [0, afi, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    octets[3..].copy_from_slice(&value.to_be_bytes());
    tlv(out, kind, &octets);
}

fn framed(out: &mut BytesMut, kind: u8, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u8(VERSION);
    out.put_u32(0);
    out.put_u8(kind);
    body(out);
    let length = (out.len() - start) as u32;
    out[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> PeerHeader {
        PeerHeader {
            table: Table::AdjRibInPre,
            address: "192.0.2.1".parse().unwrap(),
            asn: 65001,
            router_id: Ipv4Addr::new(10, 0, 0, 1),
            two_octet: false,
            time: UNIX_EPOCH + Duration::from_micros(1_000_002),
        }
    }

    fn hex_of(write: impl FnOnce(&mut BytesMut)) -> String {
        let mut out = BytesMut::new();
        write(&mut out);
        hex::encode(out)
    }

    #[test]
    fn octets_of_each_message() {
        let peer =
            "0000 0000000000000000 000000000000000000000000c0000201 0000fde9 0a000001 00000001 00000002";
        let cases = [
            (
                hex_of(|o| initiation(o, "h1", "s32")),
                "03 00000013 04 0001 0003 733332 0002 0002 6831".to_owned(),
            ),
            (hex_of(|o| termination(o, "")), "03 00000010 05 0000 0000 0001 0002 0000".to_owned()),
            (hex_of(|o| route_monitoring(o, &header(), &[1, 2])), format!("03 00000032 00 {peer} 0102")),
            (
                hex_of(|o| {
                    peer_up(o, &header(), "10.0.0.2".parse().unwrap(), (179, 40000), &[1], &[2], None);
                }),
                format!("03 00000046 03 {peer} 0000000000000000000000000a000002 00b3 9c40 01 02"),
            ),
            (
                hex_of(|o| peer_down(o, &header(), PeerDown::LocalEvent(2))),
                format!("03 00000033 02 {peer} 02 0002"),
            ),
            (
                hex_of(|o| peer_down(o, &header(), PeerDown::RemoteClosed)),
                format!("03 00000031 02 {peer} 04"),
            ),
            (
                hex_of(|o| peer_down(o, &header(), PeerDown::RemoteNotification(&[9]))),
                format!("03 00000032 02 {peer} 03 09"),
            ),
            (
                hex_of(|o| {
                    statistics(o, &header(), &[Statistic::RejectedPrefixes(1), Statistic::AdjRibIn(2)]);
                }),
                format!("03 00000048 01 {peer} 00000002 0000 0004 00000001 0007 0008 0000000000000002"),
            ),
            (
                hex_of(|o| {
                    let list = [
                        Statistic::AdjRibOutPre(1),
                        Statistic::AdjRibOutPost(2),
                        Statistic::AdjRibOutPreFamily(Family::Ipv4, 3),
                        Statistic::AdjRibOutPostFamily(Family::Ipv6, 4),
                    ];
                    statistics(o, &header(), &list);
                }),
                format!(
                    "03 0000006a 01 {peer} 00000004 000e 0008 0000000000000001 000f 0008 0000000000000002 \
                     0010 000b 0001 01 0000000000000003 0011 000b 0002 01 0000000000000004"
                ),
            ),
        ];
        for (got, expected) in cases {
            assert_eq!(got, expected.replace(' ', ""));
        }
    }

    #[test]
    fn flags_of_the_tables() {
        let flags = |table, address: &str, two_octet| {
            let header = PeerHeader { table, address: address.parse().unwrap(), two_octet, ..header() };
            let mut out = BytesMut::new();
            peer_header(&mut out, &header);
            assert_eq!(out.len(), 42);
            (out[0], out[1])
        };
        assert_eq!(flags(Table::AdjRibInPre, "::1", false), (0, 0x80));
        assert_eq!(flags(Table::AdjRibInPost, "10.0.0.1", true), (0, 0x60));
        assert_eq!(flags(Table::AdjRibOutPre, "10.0.0.1", true), (0, 0x30));
        assert_eq!(flags(Table::AdjRibOutPost, "10.0.0.1", false), (0, 0x50));
        assert_eq!(flags(Table::LocRib, "0.0.0.0", false), (3, 0));
    }
}
