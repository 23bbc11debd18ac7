//! Every case of RFC 7606, RFC 4271 section 6.3 and the RFCs of single attributes, one line each.

use super::{
    super::*,
    build::{NLRI, as2_context, attribute, base, ebgp, hex, ibgp_context, update},
};
use crate::model::Family;

/// Base attributes and this one, announcing 10.0.0.0/8; the first error is expected to be about `code`.
struct Case {
    name: &'static str,
    context: DecodeContext,
    flags: u8,
    code: u8,
    value: &'static str,
    expect: Option<(Action, u8)>,
}

fn external(
    name: &'static str,
    flags: u8,
    code: u8,
    value: &'static str,
    expect: Option<(Action, u8)>,
) -> Case {
    Case { name, context: DecodeContext::default(), flags, code, value, expect }
}

fn internal(
    name: &'static str,
    flags: u8,
    code: u8,
    value: &'static str,
    expect: Option<(Action, u8)>,
) -> Case {
    Case { name, context: ibgp_context(), flags, code, value, expect }
}

fn two_octet(
    name: &'static str,
    flags: u8,
    code: u8,
    value: &'static str,
    expect: Option<(Action, u8)>,
) -> Case {
    Case { name, context: as2_context(), flags, code, value, expect }
}

#[test]
fn one_attribute_in_error() {
    use Action::{Discard, Reset, Withdraw};
    let cases = [
        // 7.1 ORIGIN
        external("ORIGIN", 0x40, 1, "02", None),
        external("ORIGIN undefined", 0x40, 1, "03", Some((Withdraw, 6))),
        external("ORIGIN empty", 0x40, 1, "", Some((Withdraw, 5))),
        external("ORIGIN too long", 0x40, 1, "0000", Some((Withdraw, 5))),
        external("ORIGIN optional", 0xC0, 1, "00", Some((Withdraw, 4))),
        external("ORIGIN not transitive", 0x00, 1, "00", Some((Withdraw, 4))),
        external("ORIGIN with two octets of length", 0x50, 1, "00", None),
        external("ORIGIN partial: section 3 (c) names only Optional and Transitive", 0x60, 1, "00", None),
        // 7.2 AS_PATH
        external("AS_PATH empty", 0x40, 2, "", None),
        external("AS_PATH sequence and set", 0x40, 2, "02 01 0000fde9 01 02 00000001 00000002", None),
        external("AS_PATH segment type 0", 0x40, 2, "00 01 0000fde9", Some((Withdraw, 11))),
        external("AS_PATH segment type 5", 0x40, 2, "05 01 0000fde9", Some((Withdraw, 11))),
        external("AS_PATH segment overruns", 0x40, 2, "02 02 0000fde9", Some((Withdraw, 11))),
        external("AS_PATH one octet left over", 0x40, 2, "02 01 0000fde9 02", Some((Withdraw, 11))),
        external("AS_PATH empty segment", 0x40, 2, "02 00", Some((Withdraw, 11))),
        external(
            "AS_PATH empty segment in the middle",
            0x40,
            2,
            "02 00 02 01 0000fde9",
            Some((Withdraw, 11)),
        ),
        external("AS_PATH with AS 0, RFC 7607", 0x40, 2, "02 02 0000fde9 00000000", Some((Withdraw, 11))),
        external("AS_PATH confederation from outside", 0x40, 2, "03 01 0000fde9", Some((Withdraw, 11))),
        external(
            "AS_PATH confederation set from outside",
            0x40,
            2,
            "02 01 0000fde9 04 01 00000001",
            Some((Withdraw, 11)),
        ),
        internal("AS_PATH confederation from inside", 0x40, 2, "03 01 0000fde9", None),
        external("AS_PATH flags", 0x80, 2, "02 01 0000fde9", Some((Withdraw, 4))),
        two_octet("AS_PATH of two octets", 0x40, 2, "02 02 fde9 fdea", None),
        two_octet(
            "AS_PATH of four octets on a two-octet session",
            0x40,
            2,
            "02 02 0000fde9 0000fdea",
            Some((Withdraw, 11)),
        ),
        // 7.3 NEXT_HOP
        external("NEXT_HOP too short", 0x40, 3, "c00002", Some((Withdraw, 5))),
        external("NEXT_HOP too long", 0x40, 3, "c000020100", Some((Withdraw, 5))),
        external("NEXT_HOP unspecified", 0x40, 3, "00000000", Some((Withdraw, 8))),
        external("NEXT_HOP multicast", 0x40, 3, "e0000001", Some((Withdraw, 8))),
        external("NEXT_HOP broadcast", 0x40, 3, "ffffffff", Some((Withdraw, 8))),
        external("NEXT_HOP loopback", 0x40, 3, "7f000001", Some((Withdraw, 8))),
        external("NEXT_HOP of this network", 0x40, 3, "00000001", Some((Withdraw, 8))),
        external("NEXT_HOP reserved", 0x40, 3, "f0000001", Some((Withdraw, 8))),
        external("NEXT_HOP highest", 0x40, 3, "dfffffff", None),
        external("NEXT_HOP flags", 0xC0, 3, "c0000201", Some((Withdraw, 4))),
        // 7.4 MULTI_EXIT_DISC
        external("MED", 0x80, 4, "00000064", None),
        external("MED too short", 0x80, 4, "000064", Some((Withdraw, 5))),
        external("MED empty", 0x80, 4, "", Some((Withdraw, 5))),
        external("MED transitive", 0xC0, 4, "00000064", Some((Withdraw, 4))),
        // 7.5 LOCAL_PREF
        external("LOCAL_PREF from outside", 0x40, 5, "00000064", Some((Discard, 9))),
        external("LOCAL_PREF from outside, malformed", 0x40, 5, "64", Some((Discard, 9))),
        internal("LOCAL_PREF", 0x40, 5, "00000064", None),
        internal("LOCAL_PREF too short", 0x40, 5, "000064", Some((Withdraw, 5))),
        internal("LOCAL_PREF flags", 0x80, 5, "00000064", Some((Withdraw, 4))),
        // 7.6 ATOMIC_AGGREGATE
        external("ATOMIC_AGGREGATE", 0x40, 6, "", None),
        external("ATOMIC_AGGREGATE not empty", 0x40, 6, "00", Some((Discard, 5))),
        external("ATOMIC_AGGREGATE flags", 0xC0, 6, "", Some((Withdraw, 4))),
        // 7.7 AGGREGATOR
        external("AGGREGATOR", 0xC0, 7, "0000fde9 c0000201", None),
        external("AGGREGATOR partial", 0xE0, 7, "0000fde9 c0000201", None),
        external(
            "AGGREGATOR of two octets on a four-octet session",
            0xC0,
            7,
            "fde9 c0000201",
            Some((Discard, 5)),
        ),
        two_octet("AGGREGATOR of two octets", 0xC0, 7, "fde9 c0000201", None),
        two_octet(
            "AGGREGATOR of four octets on a two-octet session",
            0xC0,
            7,
            "0000fde9 c0000201",
            Some((Discard, 5)),
        ),
        external("AGGREGATOR with AS 0, RFC 7607", 0xC0, 7, "00000000 c0000201", Some((Discard, 9))),
        external("AGGREGATOR flags", 0x40, 7, "0000fde9 c0000201", Some((Withdraw, 4))),
        // 7.8 COMMUNITIES
        external("COMMUNITIES", 0xC0, 8, "fde90064 ffffff01", None),
        external("COMMUNITIES length", 0xC0, 8, "fde900", Some((Withdraw, 5))),
        external("COMMUNITIES empty", 0xC0, 8, "", Some((Withdraw, 5))),
        external("COMMUNITIES flags", 0x80, 8, "fde90064", Some((Withdraw, 4))),
        // 7.9 ORIGINATOR_ID, 7.10 CLUSTER_LIST
        external("ORIGINATOR_ID from outside", 0x80, 9, "0a000001", Some((Discard, 9))),
        internal("ORIGINATOR_ID", 0x80, 9, "0a000001", None),
        internal("ORIGINATOR_ID length", 0x80, 9, "0a0001", Some((Withdraw, 5))),
        external("CLUSTER_LIST from outside", 0x80, 10, "0a000001", Some((Discard, 9))),
        internal("CLUSTER_LIST", 0x80, 10, "0a000001 0a000002", None),
        internal("CLUSTER_LIST length", 0x80, 10, "0a0001", Some((Withdraw, 5))),
        internal("CLUSTER_LIST empty", 0x80, 10, "", Some((Withdraw, 5))),
        internal("CLUSTER_LIST transitive", 0xC0, 10, "0a000001", Some((Withdraw, 4))),
        // 7.11 MP_REACH_NLRI, 7.12 MP_UNREACH_NLRI: 5.3 for their prefixes
        external(
            "MP_REACH_NLRI",
            0x80,
            14,
            "0002 01 10 20010db8000000000000000000000001 00 20 20010db8",
            None,
        ),
        external(
            "MP_REACH_NLRI with a link-local address too",
            0x80,
            14,
            "0002 01 20 20010db8000000000000000000000001 fe800000000000000000000000000001 00 20 20010db8",
            None,
        ),
        external("MP_REACH_NLRI too short", 0x80, 14, "0002 01", Some((Reset, 9))),
        external("MP_REACH_NLRI empty", 0x80, 14, "", Some((Reset, 9))),
        external(
            "MP_REACH_NLRI without reserved octet",
            0x80,
            14,
            "0002 01 10 20010db8000000000000000000000001",
            Some((Reset, 9)),
        ),
        external("MP_REACH_NLRI next hop of 0", 0x80, 14, "0002 01 00 00 20 20010db8", Some((Reset, 9))),
        external(
            "MP_REACH_NLRI next hop of 4 for IPv6",
            0x80,
            14,
            "0002 01 04 c0000201 00 20 20010db8",
            Some((Reset, 9)),
        ),
        external(
            "MP_REACH_NLRI next hop of 15",
            0x80,
            14,
            "0002 01 0f 20010db80000000000000000000000 00 20 20010db8",
            Some((Reset, 9)),
        ),
        external(
            "MP_REACH_NLRI next hop beyond the attribute",
            0x80,
            14,
            "0002 01 ff 20010db8",
            Some((Reset, 9)),
        ),
        external(
            "MP_REACH_NLRI next hop unspecified",
            0x80,
            14,
            "0002 01 10 00000000000000000000000000000000 00 20 20010db8",
            Some((Withdraw, 9)),
        ),
        external(
            "MP_REACH_NLRI next hop multicast",
            0x80,
            14,
            "0002 01 10 ff020000000000000000000000000001 00 20 20010db8",
            Some((Withdraw, 9)),
        ),
        external(
            "MP_REACH_NLRI prefix too long",
            0x80,
            14,
            "0002 01 10 20010db8000000000000000000000001 00 81 20010db8000000000000000000000001 00",
            Some((Reset, 9)),
        ),
        external(
            "MP_REACH_NLRI prefix overruns",
            0x80,
            14,
            "0002 01 10 20010db8000000000000000000000001 00 40 20010db8",
            Some((Reset, 9)),
        ),
        external(
            "MP_REACH_NLRI flags",
            0xC0,
            14,
            "0002 01 10 20010db8000000000000000000000001 00 20 20010db8",
            Some((Reset, 4)),
        ),
        external(
            "MP_REACH_NLRI of VPN-IPv4",
            0x80,
            14,
            "0001 80 0c 0000000000000000c0000201 00",
            Some((Discard, 9)),
        ),
        external(
            "MP_REACH_NLRI of IPv4, RFC 8950",
            0x80,
            14,
            "0001 01 10 20010db8000000000000000000000001 00 08 0b",
            None,
        ),
        external("MP_UNREACH_NLRI", 0x80, 15, "0002 01 20 20010db8", None),
        external("MP_UNREACH_NLRI too short", 0x80, 15, "0002", Some((Reset, 9))),
        external("MP_UNREACH_NLRI prefix too long", 0x80, 15, "0002 01 ff", Some((Reset, 9))),
        external("MP_UNREACH_NLRI prefix overruns", 0x80, 15, "0002 01 20 200100", Some((Reset, 9))),
        external("MP_UNREACH_NLRI flags", 0x40, 15, "0002 01 20 20010db8", Some((Reset, 4))),
        external("MP_UNREACH_NLRI of an unknown family", 0x80, 15, "4004 47", Some((Discard, 9))),
        // 7.14 extended communities, 7.15 RFC 5701, RFC 8092 section 5, RFC 9234 section 5
        external("EXTENDED COMMUNITIES", 0xC0, 16, "0002fde900000064", None),
        external("EXTENDED COMMUNITIES length", 0xC0, 16, "0002fde9000000", Some((Withdraw, 5))),
        external("EXTENDED COMMUNITIES empty", 0xC0, 16, "", Some((Withdraw, 5))),
        external("IPv6 EXTENDED COMMUNITIES", 0xC0, 25, "000220010db80000000000000000000000010064", None),
        external("IPv6 EXTENDED COMMUNITIES length", 0xC0, 25, "0002", Some((Withdraw, 5))),
        external("LARGE_COMMUNITY", 0xC0, 32, "0000fde9 00000001 00000002", None),
        external("LARGE_COMMUNITY length", 0xC0, 32, "0000fde9 00000001 000000", Some((Withdraw, 5))),
        external("LARGE_COMMUNITY empty", 0xC0, 32, "", Some((Withdraw, 5))),
        external("LARGE_COMMUNITY flags", 0x40, 32, "0000fde9 00000001 00000002", Some((Withdraw, 4))),
        external("OTC", 0xC0, 35, "0000fde9", None),
        external("OTC length", 0xC0, 35, "fde9", Some((Withdraw, 5))),
        external("OTC flags", 0x80, 35, "0000fde9", Some((Withdraw, 4))),
        // RFC 6793 sections 4.1 and 6
        external("AS4_PATH from a new speaker", 0xC0, 17, "02 01 0000fde9", Some((Discard, 9))),
        external("AS4_AGGREGATOR from a new speaker", 0xC0, 18, "0000fde9 c0000201", Some((Discard, 9))),
        two_octet("AS4_PATH", 0xC0, 17, "02 01 00010000", None),
        two_octet("AS4_PATH too short", 0xC0, 17, "", Some((Discard, 5))),
        two_octet("AS4_PATH malformed", 0xC0, 17, "02 02 00010000", Some((Discard, 11))),
        two_octet("AS4_PATH empty segment", 0xC0, 17, "02 00", Some((Discard, 11))),
        two_octet("AS4_PATH with AS 0", 0xC0, 17, "02 01 00000000", Some((Discard, 11))),
        two_octet("AS4_PATH with a confederation", 0xC0, 17, "03 01 00010000", Some((Discard, 11))),
        two_octet("AS4_AGGREGATOR length", 0xC0, 18, "0000fde9 c000", Some((Discard, 5))),
        // Unknown ones
        external("unknown optional transitive", 0xC0, 200, "0102", None),
        external("unknown optional non-transitive", 0x80, 200, "0102", None),
        external("unknown well-known", 0x40, 200, "0102", Some((Reset, 2))),
        external("type 0", 0x40, 0, "", Some((Reset, 2))),
    ];
    for Case { name, context, flags, code, value, expect } in cases {
        let mut block = Vec::new();
        let mut base = if context.four_octet {
            base()
        } else {
            hex("40 01 01 00  40 02 04 02 01 fde9  40 03 04 c0000201")
        };
        if context.peer == PeerKind::Internal {
            base.extend(hex("40 05 04 00000064"));
        }
        // The attribute under test comes first; the base's own one of that type is left out.
        block.extend(attribute(flags, code, value));
        for item in RawAttributes::new(&base, 0) {
            let item = item.unwrap();
            if item.code != code {
                block.extend(&base[item.range()]);
            }
        }
        let message = update(&[], &block, &NLRI);
        let decoded = decode(&context, &message);
        let got = decoded.errors.first().map(|e| (e.action, e.subcode));
        assert_eq!(got, expect, "{name}: {decoded:?}");
        assert!(decoded.errors.len() <= 1, "{name}: one error has one report: {:?}", decoded.errors);
        let disposition = expect.map_or(Disposition::Ok, |(action, _)| action.into());
        assert_eq!(decoded.disposition, disposition, "{name}");
        if let Some(error) = decoded.errors.first() {
            assert_eq!((error.code, error.attribute), (3, Some(code)), "{name}");
            assert!((23..message.len()).contains(&error.offset), "{name}: offset {}", error.offset);
            // RFC 4271 section 6.3: the data is the attribute in error, type, length and value.
            let wanted =
                if disposition == Disposition::Reset { attribute(flags, code, value) } else { vec![] };
            assert_eq!(error.data, wanted, "{name}");
        }
        let Some(Message::Update(update)) = decoded.message else { panic!("{name}: {:?}", decoded.message) };
        let prefix = "10.0.0.0/8".parse().unwrap();
        let holds = |list: &[Nlri]| list.iter().any(|n| n.prefix == prefix);
        match disposition {
            Disposition::Ok | Disposition::Discard => {
                assert!(update.reach.iter().any(|r| holds(&r.nlri)), "{name}: {update:?}");
            }
            Disposition::Withdraw => {
                assert!(update.reach.is_empty(), "{name}: {update:?}");
                assert!(update.unreach.iter().any(|u| holds(&u.nlri)), "{name}: {update:?}");
            }
            Disposition::Reset => {}
        }
    }
}

#[test]
fn errors_in_an_as_path_are_where_the_number_or_the_segment_is() {
    // The attribute is the first one, at 23; its value is at 26.
    for (context, code, value, at) in [
        (DecodeContext::default(), 2, "02 03 0000fde8 00000000 0000fde9", 6),
        (DecodeContext::default(), 2, "02 01 0000fde8 02 02 0000fde8 00000000", 12),
        (DecodeContext::default(), 2, "02 01 0000fde8 03 01 0000fde9", 6),
        (DecodeContext::default(), 2, "02 01 0000fde8 02 00", 6),
        (as2_context(), 2, "02 01 fde8 02 01 0000", 6),
        (as2_context(), 2, "02 01 fde8 04 01 fde9", 4),
        (as2_context(), 17, "02 01 0000fde8 03 01 0000fde9", 6),
    ] {
        let flags = if code == 2 { 0x40 } else { 0xC0 };
        let block = [attribute(flags, code, value), hex("40 01 01 00  40 03 04 c0000201")].concat();
        let decoded = decode(&context, &update(&[], &block, &NLRI));
        let error = decoded.errors.first().unwrap();
        assert_eq!((error.attribute, error.offset), (Some(code), 26 + at), "{value}: {error:?}");
    }
}

#[test]
fn a_next_hop_that_no_route_has_is_only_logged() {
    let with = |next_hop: &str, prefixes: &str| {
        let reach = attribute(0x80, 14, &format!("0002 01 10 {next_hop} 00 {prefixes}"));
        let block = [hex("40010100 40020602010000fde9"), reach].concat();
        let decoded = ebgp(&update(&[], &block, &[]));
        assert_eq!(decoded.errors.len(), 1, "{decoded:?}");
        assert_eq!((decoded.errors[0].code, decoded.errors[0].subcode), (3, 9));
        decoded.disposition
    };
    let unspecified = "00000000000000000000000000000000";
    assert_eq!(with(unspecified, "20 20010db8"), Disposition::Withdraw);
    assert_eq!(with(unspecified, ""), Disposition::Discard);
}

#[test]
fn a_discarded_attribute_leaves_no_trace() {
    let mut block = base();
    for (flags, code, value) in [
        (0x40, 5, "00000064"),
        (0xC0, 7, "00"),
        (0x80, 9, "0a000001"),
        (0x80, 10, "0a000001"),
        (0x40, 6, "00"),
    ] {
        block.extend(attribute(flags, code, value));
    }
    let decoded = ebgp(&update(&[], &block, &NLRI));
    assert_eq!(decoded.disposition, Disposition::Discard);
    assert_eq!(decoded.errors.len(), 5);
    let Some(Message::Update(update)) = decoded.message else { panic!() };
    let expected = PathAttributes {
        origin: Some(Origin::Igp),
        as_path: AsPath::sequence([65001]),
        ..PathAttributes::default()
    };
    assert_eq!(update.attributes, expected);
}

#[test]
fn missing_well_known_attributes() {
    let full = [(1, hex("40010100")), (2, hex("40020602010000fde9")), (3, hex("400304c0000201"))];
    for (missing, _) in &full {
        let block: Vec<u8> = full.iter().filter(|(c, _)| c != missing).flat_map(|(_, b)| b.clone()).collect();
        let decoded = ebgp(&update(&[], &block, &NLRI));
        assert_eq!(decoded.disposition, Disposition::Withdraw, "{missing}");
        let error = &decoded.errors[0];
        assert_eq!((error.code, error.subcode, error.attribute), (3, 3, Some(*missing)));
    }
    // No attributes at all.
    let decoded = ebgp(&update(&[], &[], &NLRI));
    assert_eq!((decoded.disposition, decoded.errors.len()), (Disposition::Withdraw, 3));
    // LOCAL_PREF is required from internal peers.
    let decoded = decode(&ibgp_context(), &update(&[], &base(), &NLRI));
    assert_eq!(decoded.disposition, Disposition::Withdraw);
    assert_eq!(decoded.errors[0].attribute, Some(5));
    // NEXT_HOP is not required, nor looked at, without NLRI in the body.
    let mp = attribute(0x80, 14, "0002 01 10 20010db8000000000000000000000001 00 20 20010db8");
    let mut block = hex("40010100 40020602010000fde9");
    block.extend(&mp);
    assert_eq!(ebgp(&update(&[], &block, &[])).disposition, Disposition::Ok);
    block.extend(hex("400304 00000000"));
    assert_eq!(ebgp(&update(&[], &block, &[])).disposition, Disposition::Ok);
}

#[test]
fn duplicates_keep_the_first() {
    let mut block = base();
    block.extend(hex("800404 00000001  800404 00000002  40 01 01 07  c0c801 01  c0c801 02"));
    let decoded = ebgp(&update(&[], &block, &NLRI));
    assert_eq!(decoded.disposition, Disposition::Discard);
    let got: Vec<_> = decoded.errors.iter().map(|e| (e.action, e.subcode, e.attribute)).collect();
    let expected = [4, 1, 200].map(|code| (Action::Discard, 1, Some(code)));
    assert_eq!(got, expected);
    let Some(Message::Update(update_)) = decoded.message else { panic!() };
    assert_eq!(update_.attributes.med, Some(1));
    assert_eq!(update_.attributes.origin, Some(Origin::Igp));
    assert_eq!(update_.attributes.unknown.len(), 1);
    assert_eq!(&update_.attributes.unknown[0].value[..], [1]);

    for code in [14, 15] {
        let value = if code == 14 {
            "0002 01 10 20010db8000000000000000000000001 00 20 20010db8"
        } else {
            "0002 01 20 20010db8"
        };
        let block = [base(), attribute(0x80, code, value), attribute(0x80, code, value)].concat();
        let decoded = ebgp(&update(&[], &block, &NLRI));
        assert_eq!(decoded.disposition, Disposition::Reset);
        assert_eq!((decoded.errors[0].code, decoded.errors[0].subcode), (3, 1));
    }
}

#[test]
fn attributes_that_overrun_the_block() {
    // Section 4: both cases are treat-as-withdraw, and the NLRI is found by Total Attribute Length.
    for tail in ["c0", "c008", "d00800", "c00805 fde90064", "c0 08 ff", "d0 08 ffff 00"] {
        let block = [base(), hex(tail)].concat();
        let decoded = ebgp(&update(&[], &block, &NLRI));
        assert_eq!(decoded.disposition, Disposition::Withdraw, "{tail}: {decoded:?}");
        assert_eq!(decoded.errors.len(), 1, "{tail}");
        assert_eq!((decoded.errors[0].code, decoded.errors[0].subcode), (3, 1));
        assert_eq!(decoded.errors[0].offset, 23 + base().len());
        let Some(Message::Update(update)) = decoded.message else { panic!() };
        assert_eq!(update.unreach[0].nlri[0].prefix.to_string(), "10.0.0.0/8");
    }
    // Section 3 (j): prefixes in a cut MP_REACH_NLRI are lost, so nothing less than a reset will do.
    let block = [base(), hex("800e20 0002 01")].concat();
    assert_eq!(ebgp(&update(&[], &block, &NLRI)).disposition, Disposition::Reset);
}

#[test]
fn nothing_to_withdraw_is_a_reset() {
    // Section 5.2: withdrawals and attributes in error, but no reachable prefixes.
    let bad_origin = attribute(0x40, 1, "07");
    let decoded = ebgp(&update(&NLRI, &bad_origin, &[]));
    assert_eq!(decoded.disposition, Disposition::Reset);
    assert_eq!(decoded.errors[0].subcode, 6);
    assert_eq!(decoded.errors[0].data, bad_origin);
    // Attribute discard stays what it is.
    let decoded = ebgp(&update(&NLRI, &attribute(0x40, 6, "07"), &[]));
    assert_eq!(decoded.disposition, Disposition::Discard);
    // MP_REACH_NLRI with a prefix is something to withdraw.
    let mp = attribute(0x80, 14, "0002 01 10 20010db8000000000000000000000001 00 20 20010db8");
    let decoded = ebgp(&update(&[], &[mp, bad_origin].concat(), &[]));
    assert_eq!(decoded.disposition, Disposition::Withdraw);
    let Some(Message::Update(update)) = decoded.message else { panic!() };
    assert_eq!(update.unreach[0].family, Family::Ipv6);
    assert_eq!(update.unreach[0].nlri[0].prefix.to_string(), "2001:db8::/32");
}

#[test]
fn foreign_prefixes_are_something_to_withdraw_only_when_announced() {
    let bad_origin = attribute(0x40, 1, "07");
    let disposition =
        |attributes: Vec<u8>| ebgp(&update(&[], &[attributes, bad_origin.clone()].concat(), &[])).disposition;
    let reach = |nlri: &str| attribute(0x80, 14, &format!("0001 80 0c 0000000000000000c0000201 00 {nlri}"));
    assert_eq!(disposition(reach("20 00000a")), Disposition::Withdraw);
    assert_eq!(disposition(reach("")), Disposition::Reset);
    assert_eq!(disposition(attribute(0x80, 15, "0001 80 20 00000a")), Disposition::Reset);
}

#[test]
fn errors_are_in_the_order_of_the_message() {
    let block = [
        attribute(0x40, 6, "00"),
        hex("400304 e0000001 40010107 40020602010000fde9"),
        attribute(0xC0, 8, "00"),
    ]
    .concat();
    let got: Vec<_> =
        ebgp(&update(&[], &block, &NLRI)).errors.iter().map(|e| (e.attribute, e.offset)).collect();
    assert_eq!(got, [(Some(6), 26), (Some(3), 30), (Some(1), 37), (Some(8), 50)]);
}

#[test]
fn unreadable_prefixes_do_not_make_other_errors_worse() {
    let bad = attribute(0xC0, 8, "00");
    let actions = |attributes: &[u8], nlri: &[u8]| -> Vec<_> {
        ebgp(&update(&[], attributes, nlri)).errors.iter().map(|e| e.action).collect()
    };
    let both = [Action::Withdraw, Action::Reset];
    assert_eq!(actions(&[base(), bad.clone()].concat(), &[33]), both);
    assert_eq!(actions(&[base(), bad, attribute(0x80, 14, "0002 01")].concat(), &[]), both);
}

#[test]
fn the_strongest_wins() {
    let block = [
        attribute(0x40, 6, "00"),          // discard
        attribute(0x80, 4, "00"),          // withdraw
        attribute(0x80, 15, "0002 01 ff"), // reset
        base(),
    ];
    let strongest = |parts: &[&Vec<u8>]| {
        let block: Vec<u8> = parts.iter().flat_map(|p| p.iter().copied()).collect();
        ebgp(&update(&[], &block, &NLRI)).disposition
    };
    let [discard, withdraw, reset, base] = &block;
    assert_eq!(strongest(&[base]), Disposition::Ok);
    assert_eq!(strongest(&[base, discard]), Disposition::Discard);
    assert_eq!(strongest(&[base, discard, withdraw]), Disposition::Withdraw);
    assert_eq!(strongest(&[withdraw, base, discard]), Disposition::Withdraw);
    assert_eq!(strongest(&[withdraw, reset, base, discard]), Disposition::Reset);
}

#[test]
fn lengths_of_the_fields() {
    // The sum of both lengths wraps in 16 bits: 0xFFFF + 5 + 23 is small.
    for body in ["ffff 0005 0000000000", "0001 0000", "0000 0001", "0002 0000", "0000 ffff 00", "00ff 0000"] {
        let decoded = ebgp(&super::build::message(2, &hex(body)));
        assert_eq!(decoded.disposition, Disposition::Reset, "{body}");
        assert_eq!((decoded.errors[0].code, decoded.errors[0].subcode), (3, 1), "{body}");
        assert_eq!(decoded.message, None);
    }
}

#[test]
fn prefixes_of_the_body() {
    for bad in ["21 0a000000 00", "20 0a0000", "08", "ff"] {
        for message in [update(&[], &base(), &hex(bad)), update(&hex(bad), &[], &[])] {
            let decoded = ebgp(&message);
            assert_eq!(decoded.disposition, Disposition::Reset, "{bad}");
            assert_eq!((decoded.errors[0].code, decoded.errors[0].subcode), (3, 10), "{bad}");
        }
    }
    // Bits below the length are of no relevance (RFC 4271 section 4.3).
    let decoded = ebgp(&update(&[], &base(), &hex("09 0aff 00 20 0a000001")));
    let Some(Message::Update(update)) = decoded.message else { panic!() };
    let got: Vec<_> = update.reach[0].nlri.iter().map(|n| n.prefix.to_string()).collect();
    assert_eq!(got, ["10.128.0.0/9", "0.0.0.0/0", "10.0.0.1/32"]);
}

#[test]
fn families_that_are_not_negotiated_are_ignored() {
    let only_v6 =
        DecodeContext { families: PerFamily { ipv4: false, ipv6: true }, ..DecodeContext::default() };
    let mut with_v4 = base();
    with_v4.extend(attribute(0x80, 14, "0002 01 10 20010db8000000000000000000000001 00 20 20010db8"));
    let decoded = decode(&only_v6, &update(&NLRI, &with_v4, &NLRI));
    assert_eq!(decoded.disposition, Disposition::Discard);
    let Some(Message::Update(update_)) = decoded.message else { panic!() };
    assert_eq!(update_.reach.len(), 1);
    assert_eq!(update_.reach[0].family, Family::Ipv6);
    assert!(update_.unreach.is_empty());
    // RFC 8950 not negotiated: the next hop's length is wrong.
    let no_v6_next_hop = DecodeContext { extended_next_hop: false, ..DecodeContext::default() };
    let block =
        [base(), attribute(0x80, 14, "0001 01 10 20010db8000000000000000000000001 00 08 0b")].concat();
    assert_eq!(decode(&no_v6_next_hop, &update(&[], &block, &[])).disposition, Disposition::Reset);
}

#[test]
fn end_of_rib_is_never_mistaken() {
    let marker = |ctx: &DecodeContext, message: &[u8]| match decode(ctx, message).message {
        Some(Message::Update(update)) => update.end_of_rib(),
        _ => None,
    };
    let default = DecodeContext::default();
    assert_eq!(marker(&default, &update(&[], &[], &[])), Some(Family::Ipv4));
    let v6 = attribute(0x80, 15, "0002 01");
    assert_eq!(marker(&default, &update(&[], &v6, &[])), Some(Family::Ipv6));
    let v4 = attribute(0x80, 15, "0001 01");
    assert_eq!(marker(&default, &update(&[], &v4, &[])), Some(Family::Ipv4));
    let no = [
        attribute(0x80, 15, "0001 80"), // VPN-IPv4's
        attribute(0x80, 14, "0001 80 0c 0000000000000000c0000201 00"),
        attribute(0x40, 5, "00000064"), // discarded
        attribute(0x80, 200, "00"),     // not kept
        attribute(0x40, 6, "01"),
        base(),
    ];
    for block in no {
        let message = update(&[], &block, &[]);
        assert_eq!(marker(&default, &message), None, "{block:02x?}");
    }
    let only_v6 = DecodeContext { families: PerFamily { ipv4: false, ipv6: true }, ..default };
    assert_eq!(marker(&only_v6, &update(&NLRI, &[], &[])), None);
}
