//! Many prefixes into UPDATEs.

use std::net::Ipv4Addr;

use bytes::BytesMut;

use super::{
    super::*,
    build::{base, ebgp, hex, update},
};
use crate::model::{Family, Ipv4Prefix, Ipv6Prefix};

fn v4(n: u32) -> Vec<Nlri> {
    (0..n)
        .map(|i| Nlri {
            prefix: Ipv4Prefix::new(Ipv4Addr::from_bits(0x0A00_0000 + i), 32).into(),
            path_id: i,
        })
        .collect()
}

fn v6(n: u16) -> Vec<Nlri> {
    (0..n)
        .map(|i| Nlri {
            prefix: Ipv6Prefix::new([0xFD00, 0x32, 0, 0, 0, 0, 0, i].into(), 128).into(),
            path_id: 7,
        })
        .collect()
}

fn attributes() -> PathAttributes {
    PathAttributes {
        origin: Some(Origin::Igp),
        as_path: AsPath::sequence([65001]),
        large_communities: vec![LargeCommunity { global: 1, local1: 2, local2: 3 }; 10],
        ..PathAttributes::default()
    }
}

/// Decodes back-to-back messages; all must be good.
fn decode_all(ctx: DecodeContext, out: &BytesMut) -> Vec<(usize, Update)> {
    let mut reader = FrameReader::new();
    reader.set_extended_message(ctx.extended_message);
    reader.push(out);
    let mut list = Vec::new();
    while let Some(frame) = reader.next_frame().unwrap() {
        let decoded = decode(&ctx, &frame);
        assert_eq!(decoded.disposition, Disposition::Ok, "{:?}", decoded.errors);
        let Some(Message::Update(update)) = decoded.message else { panic!() };
        list.push((frame.len(), update));
    }
    assert_eq!(reader.pending(), 0);
    list
}

#[test]
fn messages_are_full_and_none_is_too_long() {
    let next_hops = [
        (Family::Ipv4, WireNextHop::V4([192, 0, 2, 1].into()), v4(3000)),
        (Family::Ipv4, WireNextHop::V6("2001:db8::1".parse().unwrap()), v4(3000)),
        (Family::Ipv6, WireNextHop::V6("2001:db8::1".parse().unwrap()), v6(3000)),
        (
            Family::Ipv6,
            WireNextHop::V6LinkLocal {
                global: "2001:db8::1".parse().unwrap(),
                link_local: "fe80::1".parse().unwrap(),
            },
            v6(3000),
        ),
    ];
    for (add_path, max_message) in [(false, 4096), (true, 4096), (true, 65535), (false, 65535)] {
        let encode_ctx =
            EncodeContext { add_path: PerFamily::both(add_path), max_message, ..EncodeContext::default() };
        let decode_ctx = DecodeContext {
            add_path: PerFamily::both(add_path),
            extended_message: max_message > 4096,
            ..DecodeContext::default()
        };
        for (family, next_hop, list) in &next_hops {
            let width = 1 + usize::from(family.bits() / 8) + if add_path { 4 } else { 0 };
            let expected: Vec<_> =
                list.iter().map(|n| Nlri { path_id: if add_path { n.path_id } else { 0 }, ..*n }).collect();
            let encoded = EncodedAttributes::new(&encode_ctx, &attributes(), *family, *next_hop);
            for announce in [true, false] {
                let mut out = BytesMut::new();
                let messages = if announce {
                    pack_announce(&encode_ctx, &encoded, list, &mut out).unwrap()
                } else {
                    pack_withdraw(&encode_ctx, *family, list, &mut out)
                };
                let updates = decode_all(decode_ctx, &out);
                assert_eq!(updates.len(), messages);
                let mut got = Vec::new();
                for (i, (length, update)) in updates.iter().enumerate() {
                    assert!(*length <= max_message);
                    assert!(
                        i + 1 == messages || length + width > max_message,
                        "message {i} has room: {length}"
                    );
                    if announce {
                        assert_eq!(update.attributes, attributes());
                        assert_eq!(update.reach[0].next_hop, *next_hop);
                        got.extend(update.reach[0].nlri.iter().copied());
                    } else {
                        got.extend(update.unreach[0].nlri.iter().copied());
                    }
                }
                assert_eq!(got, expected);
            }
        }
    }
}

#[test]
fn attributes_that_fill_the_message() {
    let ctx = EncodeContext::default();
    let with = |n: usize| PathAttributes { communities: vec![Community(1); n], ..attributes() };
    let next_hop = WireNextHop::V4([192, 0, 2, 1].into());
    let mut out = BytesMut::from(&b"before"[..]);
    let mut fits = 0;
    for n in 900..1024 {
        let encoded = EncodedAttributes::new(&ctx, &with(n), Family::Ipv4, next_hop);
        // Whether it fits does not depend on the prefix, so nothing is ever written and then given up.
        let default_route = Nlri { prefix: "0.0.0.0/0".parse().unwrap(), path_id: 0 };
        let list = [vec![default_route], v4(3)].concat();
        match pack_announce(&ctx, &encoded, &list, &mut out) {
            Ok(messages) => {
                fits = n;
                assert!(messages >= 1);
                out.truncate(6);
            }
            Err(error) => {
                assert_eq!(error, EncodeError::AttributesTooLong(encoded.size()));
                assert_eq!(&out[..], b"before");
            }
        }
    }
    assert!((900..1023).contains(&fits), "{fits}");
    // Beyond any message: an attribute of more than 65,535 octets.
    let encoded = EncodedAttributes::new(&ctx, &with(20_000), Family::Ipv4, next_hop);
    assert!(pack_announce(&ctx, &encoded, &v4(1), &mut out).is_err());
    let extended = EncodeContext { max_message: 65535, ..ctx };
    let encoded = EncodedAttributes::new(&extended, &with(15_000), Family::Ipv4, next_hop);
    assert_eq!(pack_announce(&extended, &encoded, &v4(1), &mut out), Ok(1));
}

#[test]
fn ascending_order_with_unknown_ones_in_their_place() {
    let raw = |code, flags, value: &str| RawAttribute { code, flags, value: hex(value).into() };
    let attributes = PathAttributes {
        med: Some(1),
        local_pref: Some(100),
        communities: vec![Community::NO_EXPORT],
        otc: Some(65001),
        unknown: vec![raw(11, 0xC0, "aa"), raw(28, 0xF0, "bb"), raw(255, 0xC0, "cc")],
        partial: 1 << 8,
        ..attributes()
    };
    let mut out = BytesMut::new();
    encode_attributes(&EncodeContext::default(), &attributes, Some([192, 0, 2, 1].into()), &mut out);
    let got: Vec<_> = RawAttributes::new(&out, 0).map(|a| a.unwrap()).map(|a| (a.code, a.flags)).collect();
    let expected = [
        (1, 0x40),
        (2, 0x40),
        (3, 0x40),
        (4, 0x80),
        (5, 0x40),
        (8, 0xE0),
        (11, 0xE0),
        (28, 0xE0),
        (32, 0xC0),
        (35, 0xC0),
        (255, 0xE0),
    ];
    assert_eq!(got, expected);
    // A value of more than 255 octets has two octets of length.
    let long =
        PathAttributes { unknown: vec![raw(200, 0xC0, &"00".repeat(256))], ..PathAttributes::default() };
    out.clear();
    encode_attributes(&EncodeContext::default(), &long, None, &mut out);
    assert_eq!(out[..4], [0xF0, 200, 1, 0]);
}

#[test]
fn end_of_rib_and_mixed_updates() {
    for family in Family::ALL {
        let mut out = BytesMut::new();
        encode_end_of_rib(family, &mut out);
        let Some(Message::Update(update)) = ebgp(&out).message else { panic!() };
        assert_eq!(update.end_of_rib(), Some(family));
        let mut again = BytesMut::new();
        encode(&EncodeContext::default(), &Message::Update(update), &mut again).unwrap();
        assert_eq!(out, again);
    }
    // Withdrawals and announcements of both families in one message come apart and say the same.
    let mp = hex(
        "800f 08 0002 01 20 20010db8  900e 001a 0002 01 10 20010db8000000000000000000000001 00 20 20010db9",
    );
    let message = update(&[8, 11], &[mp, base()].concat(), &[8, 10]);
    let original = ebgp(&message);
    assert_eq!(original.disposition, Disposition::Ok, "{original:?}");
    let Some(Message::Update(original)) = original.message else { panic!() };
    let mut out = BytesMut::new();
    encode(&EncodeContext::default(), &Message::Update(original.clone()), &mut out).unwrap();
    let parts = decode_all(DecodeContext::default(), &out);
    let reach: Vec<_> = parts.iter().flat_map(|(_, u)| u.reach.clone()).collect();
    let unreach: Vec<_> = parts.iter().flat_map(|(_, u)| u.unreach.clone()).collect();
    assert_eq!((reach, unreach), (original.reach, original.unreach));
}
