//! AS_PATH and AS4_PATH (RFC 6793).

use super::{
    super::*,
    build::{NLRI, as2_context, attribute, update},
};

/// What a two-octet session makes of AS_PATH, AS4_PATH, AGGREGATOR and AS4_AGGREGATOR values.
fn merged(as_path: &str, as4_path: &str, aggregators: Option<(&str, &str)>) -> (String, Option<u32>) {
    let mut block = attribute(0x40, 1, "00");
    block.extend(attribute(0x40, 2, as_path));
    block.extend(attribute(0x40, 3, "c0000201"));
    if let Some((old, _)) = aggregators {
        block.extend(attribute(0xC0, 7, old));
    }
    if !as4_path.is_empty() {
        block.extend(attribute(0xC0, 17, as4_path));
    }
    if let Some((_, new)) = aggregators.filter(|(_, new)| !new.is_empty()) {
        block.extend(attribute(0xC0, 18, new));
    }
    let context = DecodeContext { peer: PeerKind::Internal, ..as2_context() };
    block.extend(attribute(0x40, 5, "00000064"));
    let decoded = decode(&context, &update(&[], &block, &NLRI));
    assert_eq!(decoded.disposition, Disposition::Ok, "{decoded:?}");
    let Some(Message::Update(update)) = decoded.message else { panic!() };
    (update.attributes.as_path.to_string(), update.attributes.aggregator.map(|(asn, _)| asn))
}

#[test]
fn merging() {
    let path = |a, b| merged(a, b, None).0;
    // Without AS4_PATH, AS_TRANS stays.
    assert_eq!(path("02 02 fde9 5ba0", ""), "65001 23456");
    // The tail is replaced.
    assert_eq!(path("02 03 fde9 5ba0 5ba0", "02 02 00010001 00010002"), "65001 65537 65538");
    assert_eq!(path("02 02 5ba0 5ba0", "02 02 00010001 00010002"), "65537 65538");
    // Longer than AS_PATH: ignored.
    assert_eq!(path("02 01 5ba0", "02 02 00010001 00010002"), "23456");
    // A set counts one, wherever it is.
    assert_eq!(path("02 02 fde9 5ba0 01 02 0001 0002", "01 02 00010001 00000002"), "65001 23456 {65537,2}");
    assert_eq!(path("01 02 0001 0002 02 01 5ba0", "02 01 00010001"), "{1,2} 65537");
    // The lead ends inside a sequence.
    assert_eq!(path("02 01 0001 02 03 0002 0003 5ba0", "02 02 00000003 00010001"), "1 2 3 65537");
    // Confederation segments: leading or next to the lead they are kept, further back they cannot be.
    assert_eq!(path("03 01 fc00 02 02 fde9 5ba0", "02 01 00010001"), "(64512) 65001 65537");
    assert_eq!(path("03 01 fc00 02 01 5ba0", "02 01 00010001"), "(64512) 65537");
    // An empty AS_PATH has nothing to join.
    assert_eq!(path("", "02 01 00010001"), "");
}

#[test]
fn aggregators() {
    let both = |old, new| merged("02 01 5ba0", "02 01 00010001", Some((old, new)));
    // AS_TRANS: the new one counts, and AS4_PATH too.
    assert_eq!(both("5ba0 c0000201", "00010001 c0000201"), ("65537".into(), Some(65537)));
    // Not AS_TRANS: an old speaker has aggregated, both AS4 attributes are ignored.
    assert_eq!(both("fde9 c0000201", "00010001 c0000201"), ("23456".into(), Some(65001)));
    // AGGREGATOR alone says nothing about AS4_PATH.
    assert_eq!(both("fde9 c0000201", ""), ("65537".into(), Some(65001)));
}

#[test]
fn what_an_old_peer_is_sent() {
    let attributes = PathAttributes {
        origin: Some(Origin::Igp),
        as_path: AsPath {
            segments: vec![
                AsSegment { kind: AsSegmentKind::ConfedSequence, asns: vec![70000] },
                AsSegment { kind: AsSegmentKind::Sequence, asns: vec![65001, 65537] },
            ],
        },
        aggregator: Some((65537, [192, 0, 2, 1].into())),
        ..PathAttributes::default()
    };
    let old = EncodeContext { four_octet: false, ..EncodeContext::default() };
    let mut out = bytes::BytesMut::new();
    encode_attributes(&old, &attributes, None, &mut out);
    let expected = "40010100 40020a 03015ba0 0202fde95ba0 c00706 5ba0c0000201 \
                    c0110a 02020000fde900010001 c01208 00010001c0000201";
    assert_eq!(hex::encode(&out), expected.replace(' ', ""));
    // Nothing lost, nothing added.
    let attributes = PathAttributes { as_path: AsPath::sequence([65001]), aggregator: None, ..attributes };
    out.clear();
    encode_attributes(&old, &attributes, None, &mut out);
    assert_eq!(hex::encode(&out), "4001010040020402 01fde9".replace(' ', ""));
}
