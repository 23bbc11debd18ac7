//! Framing and the header checks of RFC 4271 section 6.1.

use super::{
    super::*,
    build::{hex, message},
};

#[test]
fn messages_come_out_whole_however_the_stream_is_cut() {
    let stream: Vec<u8> = [
        message(1, &hex("04 fde9 00b4 0a000001 00")),
        message(4, &[]),
        message(2, &[0; 4]),
        message(3, &[6, 2]),
        message(5, &[0, 1, 0, 1]),
    ]
    .concat();
    for step in 1..stream.len() {
        let mut reader = FrameReader::new();
        let mut lengths = Vec::new();
        for part in stream.chunks(step) {
            reader.push(part);
            while let Some(frame) = reader.next_frame().unwrap() {
                lengths.push(frame.len());
            }
        }
        assert_eq!(lengths, [29, 19, 23, 21, 23], "step {step}");
        assert_eq!(reader.pending(), 0);
    }
}

#[test]
fn header_errors() {
    let header = |length: u16, kind: u8| {
        let mut bytes = vec![0xFF; 16];
        bytes.extend(length.to_be_bytes());
        bytes.push(kind);
        bytes
    };
    // (length, type, extended, expected subcode, data)
    let cases: [(u16, u8, bool, Option<u8>, &str); 24] = [
        (29, 1, false, None, ""),
        (28, 1, false, Some(2), "001c"),
        (4096, 1, false, None, ""),
        (4097, 1, false, Some(2), "1001"),
        (4097, 1, true, Some(2), "1001"),
        (23, 2, false, None, ""),
        (22, 2, false, Some(2), "0016"),
        (4096, 2, false, None, ""),
        (4097, 2, false, Some(2), "1001"),
        (65535, 2, true, None, ""),
        (21, 3, false, None, ""),
        (20, 3, false, Some(2), "0014"),
        (65535, 3, true, None, ""),
        (19, 4, false, None, ""),
        (18, 4, false, Some(2), "0012"),
        (20, 4, false, Some(2), "0014"),
        (20, 4, true, Some(2), "0014"),
        (23, 5, false, None, ""),
        (21, 5, false, Some(2), "0015"),
        (0, 2, false, Some(2), "0000"),
        (18, 9, false, Some(2), "0012"),
        (19, 0, false, Some(3), "00"),
        (19, 6, false, Some(3), "06"),
        (19, 255, true, Some(3), "ff"),
    ];
    for (length, kind, extended, expect, data) in cases {
        let got = frame_length(&header(length, kind), extended);
        match expect {
            None => assert_eq!(got, Ok(Some(usize::from(length))), "{length} {kind}"),
            Some(subcode) => {
                let error = got.unwrap_err();
                assert_eq!(
                    (error.action, error.code, error.subcode),
                    (Action::Reset, 1, subcode),
                    "{length} {kind}"
                );
                assert_eq!(hex::encode(&error.data), data);
                assert_eq!(error.notification().data, error.data);
            }
        }
    }
}

#[test]
fn a_wrong_marker_is_seen_at_once() {
    let mut reader = FrameReader::new();
    reader.push(&[0xFF; 3]);
    assert_eq!(reader.next_frame(), Ok(None));
    reader.push(b"GET / HTTP/1.1");
    let error = reader.next_frame().unwrap_err();
    assert_eq!((error.code, error.subcode, error.offset), (1, 1, 3));
}

#[test]
fn decode_wants_exactly_one_message() {
    let whole = message(4, &[]);
    for (bytes, subcode) in
        [(&whole[..18], 2), (&[][..], 2), (&[whole.clone(), vec![0]].concat()[..], 2), (&[0; 19][..], 1)]
    {
        let decoded = decode(&DecodeContext::default(), bytes);
        assert_eq!((decoded.disposition, decoded.message.is_some()), (Disposition::Reset, false));
        assert_eq!((decoded.errors[0].code, decoded.errors[0].subcode), (1, subcode), "{bytes:02x?}");
        assert_eq!(decoded.into_result().unwrap_err().code, 1);
    }
}

#[test]
fn route_refresh() {
    let decode_body = |body: &[u8]| decode(&DecodeContext::default(), &message(5, body));
    for subtype in 0..=2 {
        let decoded = decode_body(&[0, 2, subtype, 1]);
        assert_eq!(decoded.message, Some(Message::RouteRefresh(RouteRefresh { afi: 2, subtype, safi: 1 })));
        assert_eq!(decoded.disposition, Disposition::Ok);
    }
    // RFC 7313 section 5: unknown subtypes are ignored, whatever their length.
    for body in [&[0, 2, 3, 1][..], &[0, 2, 255], &[0, 2, 3, 1, 7]] {
        let decoded = decode_body(body);
        assert_eq!(
            (decoded.disposition, decoded.message.is_some()),
            (Disposition::Discard, true),
            "{body:?}"
        );
    }
    // The length of a plain request is RFC 4271's matter.
    for body in [&[0, 1, 0][..], &[0, 1, 0, 1, 1, 128, 0, 0]] {
        let error = decode_body(body).into_result().unwrap_err();
        assert_eq!((error.code, error.subcode), (1, 2), "{body:?}");
        assert_eq!(error.data[..], message(5, body)[16..18]);
    }
    // That of the others is error 7, subcode 1, with the whole message.
    for body in [&[0, 1, 1][..], &[0, 1, 2, 1, 0]] {
        let error = decode_body(body).into_result().unwrap_err();
        assert_eq!((error.code, error.subcode), (7, 1), "{body:?}");
        assert_eq!(error.data, message(5, body));
    }
}
