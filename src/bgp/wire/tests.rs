//! Tests of the codec as a whole.

use super::*;

#[test]
fn keepalive_round_trip() {
    let mut out = bytes::BytesMut::new();
    encode(&EncodeContext::default(), &Message::Keepalive, &mut out).unwrap();
    assert_eq!(hex::encode(&out), "ffffffffffffffffffffffffffffffff001304");
    let decoded = decode(&DecodeContext::default(), &out);
    assert_eq!(decoded.message, Some(Message::Keepalive));
}
