//! Records written and read back, and files that end or lie.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;

use super::{write::Route, *};
use crate::bgp::wire::{
    AsPath, Community, Disposition, Origin, PathAttributes, WireNextHop, decode_rib_attributes,
};

fn time() -> SystemTime {
    UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_000)
}

fn read(bytes: &[u8]) -> Vec<MrtRecord> {
    MrtReader::new(bytes).collect::<Result<_, _>>().unwrap()
}

fn peers() -> Vec<PeerIndexEntry> {
    let peer = |address: &str, asn| PeerIndexEntry {
        router_id: [10, 0, 0, 1].into(),
        address: address.parse().unwrap(),
        asn,
    };
    vec![peer("192.0.2.1", 65001), peer("2001:db8::1", 4_200_000_000)]
}

fn attributes() -> PathAttributes {
    PathAttributes {
        origin: Some(Origin::Igp),
        as_path: AsPath::sequence([65001, 4_200_000_000]),
        local_pref: Some(100),
        communities: vec![Community::NO_EXPORT],
        ..PathAttributes::default()
    }
}

/// A table dump and an update log.
pub(super) fn sample() -> BytesMut {
    let mut out = BytesMut::new();
    write::peer_index(&mut out, time(), [10, 0, 0, 9].into(), "main", &peers());
    let attributes = attributes();
    let route = |peer_index, next_hop| Route {
        peer_index,
        originated: time(),
        path_id: 7,
        attributes: &attributes,
        next_hop,
    };
    let v4 = WireNextHop::V4([192, 0, 2, 1].into());
    let v6 = WireNextHop::V6("2001:db8::1".parse().unwrap());
    let both = WireNextHop::V6LinkLocal {
        global: "2001:db8::1".parse().unwrap(),
        link_local: "fe80::1".parse().unwrap(),
    };
    for add_path in [false, true] {
        write::rib(
            &mut out,
            time(),
            0,
            "10.0.0.0/8".parse().unwrap(),
            add_path,
            &[route(0, v4), route(1, v6)],
        );
        write::rib(&mut out, time(), 1, "2001:db8::/33".parse().unwrap(), add_path, &[route(1, both)]);
    }
    let session = write::Session {
        peer_asn: 65001,
        local_asn: 65002,
        ifindex: 0,
        peer: "192.0.2.1".parse().unwrap(),
        local: "192.0.2.2".parse().unwrap(),
    };
    let keepalive = hex::decode("ffffffffffffffffffffffffffffffff001304").unwrap();
    write::state_change(&mut out, time(), &session, 5, 6);
    write::message(&mut out, time(), &session, false, write::Encoding::default(), &keepalive);
    let v6 = write::Session { peer: "2001:db8::1".parse().unwrap(), ..session };
    write::message(
        &mut out,
        time(),
        &v6,
        true,
        write::Encoding { add_path: true, ..Default::default() },
        &keepalive,
    );
    out
}

#[test]
fn what_is_written_is_read() {
    let records = read(&sample());
    let entries: Vec<_> = records.iter().map(|r| r.entry().unwrap()).collect();
    let MrtEntry::PeerIndex(index) = &entries[0] else { panic!() };
    assert_eq!((index.view.as_str(), index.peers.clone()), ("main", peers()));
    for (i, path_id) in [(1, None), (3, Some(7))] {
        let MrtEntry::Rib(rib) = &entries[i] else { panic!() };
        assert_eq!((rib.sequence, rib.prefix.to_string().as_str(), rib.entries.len()), (0, "10.0.0.0/8", 2));
        assert_eq!(rib.entries[0].path_id, path_id);
        assert_eq!(rib.entries[1].originated, 1_700_000_000);
        let next_hops: Vec<_> = rib
            .entries
            .iter()
            .map(|e| {
                let decoded = decode_rib_attributes(true, &e.attributes);
                assert_eq!((decoded.disposition, decoded.errors.len()), (Disposition::Ok, 0));
                assert_eq!(decoded.attributes, attributes());
                decoded.next_hop.unwrap().global().to_string()
            })
            .collect();
        assert_eq!(next_hops, ["192.0.2.1", "2001:db8::1"]);
        let MrtEntry::Rib(rib) = &entries[i + 1] else { panic!() };
        assert_eq!(rib.prefix.to_string(), "2001:db8::/33");
        let decoded = decode_rib_attributes(true, &rib.entries[0].attributes);
        assert!(matches!(decoded.next_hop, Some(WireNextHop::V6LinkLocal { .. })));
        // The offset is that in the record.
        let record = &records[i + 1];
        let at = rib.entries[0].offset - record.header_len;
        assert_eq!(record.body[at..], rib.entries[0].attributes);
    }
    let MrtEntry::StateChange(change) = &entries[5] else { panic!() };
    assert_eq!((change.peer_asn, change.old, change.new), (65001, 5, 6));
    let MrtEntry::Message(first) = &entries[6] else { panic!() };
    assert_eq!((first.peer_asn, first.local_asn, first.sent, first.add_path), (65001, 65002, false, false));
    assert_eq!((first.message.len(), first.four_octet), (19, true));
    assert_eq!((records[6].seconds, records[6].microseconds), (1_700_000_000, Some(123_456)));
    let MrtEntry::Message(second) = &entries[7] else { panic!() };
    assert!(second.sent && second.add_path);
    assert_eq!(second.peer, Some("2001:db8::1".parse().unwrap()));
    assert_eq!(second.local, Some("::ffff:192.0.2.2".parse().unwrap()));
}

#[test]
fn files_that_end_early() {
    let whole = sample();
    let first = MrtReader::new(&whole[..]).next().unwrap().unwrap();
    let first_len = first.header_len + first.body.len();
    for cut in 1..first_len {
        let mut reader = MrtReader::new(&whole[..cut]);
        assert!(matches!(reader.next(), Some(Err(MrtError::Truncated { .. }))), "{cut}");
        assert!(reader.next().is_none());
    }
    assert_eq!(MrtReader::new(&whole[..first_len]).count(), 1);
    let lying = hex::decode("00000000000d0001ffffffff").unwrap();
    assert!(matches!(MrtReader::new(&lying[..]).next(), Some(Err(MrtError::TooLong(_)))));
}

#[test]
fn entries_cut_anywhere_do_no_harm() {
    for record in read(&sample()) {
        for cut in 0..record.body.len() {
            let cut = MrtRecord { body: record.body.slice(..cut), ..record.clone() };
            if let Some(MrtEntry::Rib(rib)) = cut.entry() {
                for entry in rib.entries {
                    decode_rib_attributes(true, &entry.attributes);
                }
            }
        }
    }
}

#[test]
fn records_of_others() {
    // BGP4MP_MESSAGE with two-octet AS numbers; RIB_GENERIC of IPv6; a type of no use.
    let record = |kind, subtype, body: &str| MrtRecord {
        seconds: 0,
        microseconds: None,
        kind,
        subtype,
        body: hex::decode(body.replace(' ', "")).unwrap().into(),
        header_len: 12,
    };
    let message = "fde9 fdea 0000 0001 c0000201 c0000202 ffffffffffffffffffffffffffffffff001304";
    let Some(MrtEntry::Message(m)) = record(16, 1, message).entry() else { panic!() };
    assert_eq!((m.peer_asn, m.four_octet, m.message.len()), (65001, false, 19));
    let generic = "00000005 0002 01 20 20010db8 0001 0000 00000001 0004 40010100";
    let Some(MrtEntry::Rib(rib)) = record(13, 6, generic).entry() else { panic!() };
    assert_eq!((rib.prefix.to_string().as_str(), rib.entries.len()), ("2001:db8::/32", 1));
    let Some(MrtEntry::ForeignRib(rib)) = record(13, 6, "00000005 0001 80 00").entry() else { panic!() };
    assert_eq!((rib.sequence, rib.afi, rib.safi, &rib.rest[..]), (5, 1, 128, &[0][..]));
    for (subtype, safi, path) in [(2, 1, ""), (3, 2, ""), (8, 1, "00000007"), (9, 2, "00000007")] {
        let body = format!("00000005 08 0a 0001 0000 00000001 {path} 0004 40010100");
        let Some(MrtEntry::Rib(rib)) = record(13, subtype, &body).entry() else { panic!("{subtype}") };
        assert_eq!((rib.prefix.to_string().as_str(), rib.safi), ("10.0.0.0/8", safi));
        assert_eq!(rib.entries[0].path_id.is_some(), !path.is_empty());
    }
    // TABLE_DUMP: two-octet AS numbers, and the peer in the record.
    let attributes = "40010100 4002040201 5ba0 400304c0000201 c01106020100010001";
    let old = format!("0000 0009 0a000000 08 01 00000001 c0000201 fde9 {:04x} {attributes}", 27);
    let dump = record(12, 1, &old);
    let Some(MrtEntry::Rib(rib)) = dump.entry() else { panic!() };
    assert_eq!((rib.sequence, rib.prefix.to_string().as_str(), rib.four_octet), (9, "10.0.0.0/8", false));
    assert_eq!(rib.entries[0].peer, Some(("192.0.2.1".parse().unwrap(), 65001)));
    assert_eq!(dump.body[rib.entries[0].offset - 12..], rib.entries[0].attributes);
    let decoded = decode_rib_attributes(rib.four_octet, &rib.entries[0].attributes);
    assert_eq!(
        (decoded.disposition, decoded.attributes.as_path),
        (Disposition::Ok, AsPath::sequence([65537]))
    );
    let v6 = "0000 0000 20010db8000000000000000000000000 20 01 00000001 \
              20010db8000000000000000000000001 fde9 0000";
    let Some(MrtEntry::Rib(rib)) = record(12, 2, v6).entry() else { panic!() };
    assert_eq!(rib.prefix.to_string(), "2001:db8::/32");
    assert_eq!(record(12, 1, &old.replace(' ', "")[..60]).entry(), None);
    assert_eq!(record(11, 0, "").entry(), Some(MrtEntry::Other));
    assert_eq!(record(13, 2, "00000005 21 0a000000 00 0000").entry(), None);
}

#[test]
fn messages_with_two_octet_numbers() {
    let keepalive = hex::decode("ffffffffffffffffffffffffffffffff001304").unwrap();
    let session = write::Session {
        peer_asn: 4_200_000_000,
        local_asn: 65002,
        ifindex: 3,
        peer: "192.0.2.1".parse().unwrap(),
        local: "192.0.2.2".parse().unwrap(),
    };
    for (sent, add_path) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut out = BytesMut::new();
        let encoding = write::Encoding { two_octet: true, add_path };
        write::message(&mut out, time(), &session, sent, encoding, &keepalive);
        let records = read(&out);
        let MrtEntry::Message(message) = records[0].entry().unwrap() else { panic!() };
        assert!(!message.four_octet);
        assert_eq!((message.peer_asn, message.local_asn), (23456, 65002));
        assert_eq!((message.sent, message.add_path, &message.message[..]), (sent, add_path, &keepalive[..]));
    }
}
