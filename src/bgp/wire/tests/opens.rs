//! OPEN and capabilities.

use super::{
    super::*,
    build::{ebgp, hex, message},
};

fn open(fixed: &str, parameters: &str) -> Decoded {
    let parameters = hex(parameters);
    let mut body = hex(fixed);
    body.push(parameters.len() as u8);
    body.extend(parameters);
    ebgp(&message(1, &body))
}

const GOOD: &str = "04 fde9 00b4 0a000001";

#[test]
fn fixed_part() {
    // (fixed part, subcode, data)
    let cases = [
        ("03 fde9 00b4 0a000001", 1, "0004"),
        ("05 fde9 00b4 0a000001", 1, "0004"),
        ("04 0000 00b4 0a000001", 2, "0000"),
        ("04 fde9 0001 0a000001", 6, "0001"),
        ("04 fde9 0002 0a000001", 6, "0002"),
        ("04 fde9 00b4 00000000", 3, "00000000"),
    ];
    for (fixed, subcode, data) in cases {
        let error = open(fixed, "").into_result().unwrap_err();
        assert_eq!(
            (error.code, error.subcode, hex::encode(&error.data)),
            (2, subcode, data.to_owned()),
            "{fixed}"
        );
    }
    for fixed in [GOOD, "04 fde9 0000 0a000001", "04 fde9 0003 e0000001", "04 5ba0 ffff ffffffff"] {
        assert_eq!(open(fixed, "").disposition, Disposition::Ok, "{fixed}");
    }
}

#[test]
fn optional_parameters() {
    // (parameters, subcode)
    let cases = [
        ("01 00", 4), // authentication, deprecated
        ("03 01 00", 4),
        ("02", 0),                   // half a header
        ("02 03 02 00", 0),          // overruns
        ("02 01 02", 0),             // half a capability
        ("02 03 02 05 00", 0),       // capability overruns its parameter
        ("02 03 02 01 00", 0),       // route refresh with a value
        ("02 05 01 03 000100", 0),   // multiprotocol too short
        ("02 04 41 02 fde9", 0),     // four-octet AS too short
        ("02 06 41 04 00000000", 2), // four-octet AS 0
        ("02 03 09 01 00 00", 0),    // trailing octet
        ("02 04 05 02 0001", 0),     // extended next hop not a multiple of 6
        ("02 03 40 01 00", 0),       // graceful restart too short
        ("02 05 40 03 000000", 0),
        ("02 03 47 01 00", 0), // long-lived not a multiple of 7
    ];
    for (parameters, subcode) in cases {
        let error = open(GOOD, parameters).into_result().unwrap_err();
        assert_eq!((error.code, error.subcode), (2, subcode), "{parameters}");
    }
    // Lengths that disagree with the message.
    for body in ["04 fde9 00b4 0a000001 01", "04 fde9 00b4 0a000001 00 02", "04 fde9 00b4 0a000001 02 02"] {
        let error = ebgp(&message(1, &hex(body))).into_result().unwrap_err();
        assert_eq!((error.code, error.subcode), (2, 0), "{body}");
    }
}

#[test]
fn errors_of_capabilities_are_where_the_capability_is() {
    // The parameters begin at 29, the first capability at 31.
    for (parameters, offset) in [
        ("02 06 41 04 00000000", 33),
        ("02 08 02 00 41 04 00000000", 35),
        ("02 02 02 00 02 06 41 04 00005ba0", 37),
        ("02 06 41 04 0000fdea", 20), // not the two-octet number, which is fine as it is
        ("02 06 09 01 00 09 01 03", 34),
        ("02 03 09 01 00 02 05 02 00 09 01 03", 38),
    ] {
        let error = open(GOOD, parameters).into_result().unwrap_err();
        assert_eq!(error.offset, offset, "{parameters}: {error:?}");
    }
}

#[test]
fn capabilities_from_several_parameters() {
    let good = "04 5ba0 00b4 0a000001";
    let decoded = open(good, "02 06 01 04 00010001  02 02 02 00  02 08 06 00 41 04 00010001  02 00");
    let Some(Message::Open(open)) = decoded.message else { panic!() };
    assert_eq!(decoded.disposition, Disposition::Ok);
    let expected = [
        Capability::Multiprotocol { afi: 1, safi: 1 },
        Capability::RouteRefresh,
        Capability::ExtendedMessage,
        Capability::FourOctetAs(65537),
    ];
    assert_eq!(open.capabilities, expected);
}

#[test]
fn numbers_and_roles_that_contradict() {
    // (two-octet number, capabilities, subcode): RFC 6793 section 4.2.1, RFC 9234 section 4.2.
    let cases = [
        ("fde9", "41 04 0000fde9", None),
        ("5ba0", "41 04 00010001", None),
        ("5ba0", "41 04 0000fde9", None),
        ("fde9", "41 04 0000fdea", Some(2)),
        ("fde9", "41 04 00010001", Some(2)),
        ("5ba0", "41 04 00005ba0", Some(2)),
        ("5ba0", "41 04 00000000", Some(2)),
        ("fde9", "09 01 03 09 01 03", None),
        ("fde9", "09 01 03 09 01 04", Some(11)),
    ];
    for (my_as, capabilities, subcode) in cases {
        let parameter = format!("02 {:02x} {capabilities}", hex(capabilities).len());
        let decoded = open(&format!("04 {my_as} 00b4 0a000001"), &parameter);
        let got = decoded.errors.first().map(|e| (e.code, e.subcode));
        assert_eq!(got, subcode.map(|s| (2, s)), "{my_as} {capabilities}");
    }
}

#[test]
fn capability_values() {
    // RFC 7911 section 4: a send/receive of 0 or 4 makes the capability unknown, not the OPEN wrong.
    let decoded = open(GOOD, "02 0a 45 08 00010103 00020104");
    assert_eq!(decoded.disposition, Disposition::Discard);
    let (Message::Open(open_), errors) = decoded.into_result().unwrap() else { panic!() };
    assert_eq!(errors.len(), 1);
    assert!(matches!(&open_.capabilities[..], [Capability::Unknown { code: 69, .. }]));
    // A host name that is not UTF-8, or does not fit, is only shown.
    for value in ["49 03 01 ff 00", "49 02 05 61", "49 04 01 61 00 00"] {
        let parameter = format!("02 {:02x} {value}", hex(value).len());
        let decoded = open(GOOD, &parameter);
        assert_eq!(decoded.disposition, Disposition::Ok, "{value}");
    }
}

#[test]
fn extended_optional_parameters() {
    let capability = "41 04 0000fde9";
    for (length, rest, ok) in [
        ("ff", format!("ff 0009 02 0006 {capability}"), true),
        // RFC 9072 section 2: the old length does not matter, unless it is 0.
        ("01", format!("ff 0009 02 0006 {capability}"), true),
        ("00", format!("ff 0009 02 0006 {capability}"), false),
        ("ff", "ff 0000".to_owned(), true),
        ("ff", "ff 00".to_owned(), false),
        ("ff", "ff".to_owned(), false),
        ("ff", format!("ff 000a 02 0006 {capability}"), false),
        ("ff", format!("ff 0008 02 0006 {capability}"), false),
        ("ff", format!("ff 0009 02 0007 {capability}"), false),
        ("ff", format!("ff 0009 ff 0006 {capability}"), false),
        ("ff", "ff 0002 02 00".to_owned(), false),
    ] {
        let decoded = ebgp(&message(1, &hex(&format!("{GOOD} {length} {rest}"))));
        assert_eq!(decoded.disposition == Disposition::Ok, ok, "{length} {rest}: {decoded:?}");
    }
    // We write it when the capabilities need more than 255 octets, and read it back.
    let capabilities =
        (0..40).map(|i| Capability::Unknown { code: 200 + i, value: vec![i; 8].into() }).collect();
    let open = Message::Open(Open {
        version: 4,
        my_as: 65001,
        hold_time: 90,
        router_id: [10, 0, 0, 1].into(),
        capabilities,
    });
    let mut out = bytes::BytesMut::new();
    encode(&EncodeContext::default(), &open, &mut out).unwrap();
    assert_eq!(out[28..32], [255, 255, 1, 147]);
    assert_eq!(ebgp(&out).message, Some(open));
}
