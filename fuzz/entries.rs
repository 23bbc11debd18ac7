//! What each fuzz target does with its octets, and what must hold whatever they are.

use bytes::BytesMut;
use slash32::bgp::{
    bfd::ControlPacket,
    capture::Messages,
    mrt::{MrtEntry, MrtReader},
    wire::{
        Action, AsSegmentKind, DecodeContext, Decoded, Disposition, EncodeContext, EncodeError, FrameReader,
        MAX_EXTENDED_MESSAGE, MAX_MESSAGE, Message, Nlri, PathAttributes, PeerKind, PerFamily, Update,
        WireNextHop, code, decode, decode_capabilities, decode_rib_attributes, describe, encode,
    },
};

/// What a target runs.
pub(crate) type Entry = fn(&[u8]);

/// All targets by name.
pub(crate) const TARGETS: [(&str, Entry); 7] = [
    ("open", open),
    ("update", update),
    ("capabilities", capabilities),
    ("message", message),
    ("bfd", bfd),
    ("mrt", mrt),
    ("capture", capture),
];

/// A message around a body, with a right header.
fn framed(kind: u8, body: &[u8], most: usize) -> Vec<u8> {
    let body = &body[..body.len().min(most - 19)];
    let mut message = vec![0xFF; 16];
    message.extend((body.len() as u16 + 19).to_be_bytes());
    message.push(kind);
    message.extend(body);
    message
}

/// What holds for every decoded message.
fn consistent(message: &[u8], decoded: &Decoded) {
    let strongest = decoded.errors.iter().map(|e| Disposition::from(e.action)).max().unwrap_or_default();
    assert_eq!(decoded.disposition, strongest);
    assert!(decoded.message.is_some() || decoded.disposition == Disposition::Reset);
    for error in &decoded.errors {
        assert!(error.offset <= message.len(), "{error:?}");
        assert!(error.data.is_empty() || error.action == Action::Reset, "{error:?}");
    }
    assert_eq!(decoded.clone().into_result().is_err(), decoded.disposition == Disposition::Reset);
}

/// The body of an OPEN.
pub(crate) fn open(data: &[u8]) {
    let ctx = DecodeContext::default();
    let message = framed(code::message::OPEN, data, MAX_MESSAGE);
    let decoded = decode(&ctx, &message);
    consistent(&message, &decoded);
    if decoded.disposition == Disposition::Reset {
        return;
    }
    let mut out = BytesMut::new();
    let original = decoded.message.expect("there without a reset");
    match encode(&EncodeContext::default(), &original, &mut out) {
        Ok(()) => assert_eq!(decode(&ctx, &out).message, Some(original)),
        // Longer lengths can make it so.
        Err(error) => assert_eq!(error, EncodeError::TooLong(code::message::OPEN)),
    }
}

/// An octet of context, then the body of an UPDATE.
pub(crate) fn update(data: &[u8]) {
    let Some((&bits, body)) = data.split_first() else { return };
    let bit = |n: u8| bits >> n & 1 != 0;
    let ctx = DecodeContext {
        peer: if bit(0) { PeerKind::Internal } else { PeerKind::External },
        four_octet: !bit(1),
        families: PerFamily { ipv4: !bit(2), ipv6: !bit(3) },
        add_path: PerFamily { ipv4: bit(4), ipv6: bit(5) },
        extended_next_hop: !bit(6),
        extended_message: true,
    };
    let message = framed(code::message::UPDATE, body, MAX_EXTENDED_MESSAGE);
    let decoded = decode(&ctx, &message);
    consistent(&message, &decoded);
    let _ = serde_json::to_string(&describe(&ctx, &message)).expect("a description is plain values");
    let _ = describe(&ctx, &message).to_string();
    if decoded.disposition == Disposition::Reset {
        return;
    }
    let Some(Message::Update(original)) = decoded.message else { panic!("an UPDATE becomes an UPDATE") };
    if decoded.disposition == Disposition::Withdraw {
        assert!(original.reach.iter().all(|r| r.nlri.is_empty()));
    }
    let encode_ctx = EncodeContext {
        four_octet: ctx.four_octet,
        add_path: ctx.add_path,
        max_message: MAX_EXTENDED_MESSAGE,
    };
    let mut out = BytesMut::new();
    match encode(&encode_ctx, &Message::Update(original.clone()), &mut out) {
        Ok(()) => compare(ctx, &original, &out),
        // A longer header, or AS4_PATH, can make it so.
        Err(error) => assert!(matches!(error, EncodeError::AttributesTooLong(_))),
    }
}

type Flat = Vec<(Option<WireNextHop>, Nlri)>;

fn flat(update: &Update) -> Flat {
    let unreach = update.unreach.iter().flat_map(|u| u.nlri.iter().map(|n| (None, *n)));
    let reach = update.reach.iter().flat_map(|r| r.nlri.iter().map(move |n| (Some(r.next_hop), *n)));
    unreach.chain(reach).collect()
}

/// What was encoded says the same, however many messages it took.
fn compare(ctx: DecodeContext, original: &Update, encoded: &BytesMut) {
    let mut frames = FrameReader::new();
    frames.set_extended_message(true);
    frames.push(encoded);
    let mut seen = Flat::new();
    while let Some(frame) = frames.next_frame().expect("our own framing is right") {
        let decoded = decode(&ctx, &frame);
        // Families that are not negotiated may be in an End-of-RIB marker; nothing else can be wrong.
        assert_eq!(
            decoded.errors.iter().filter(|e| e.action > Action::Discard).count(),
            0,
            "{:?}",
            decoded.errors
        );
        let Some(Message::Update(update)) = decoded.message else { panic!("an UPDATE stays one") };
        if update.reach.iter().any(|r| !r.nlri.is_empty()) {
            same_attributes(ctx, &original.attributes, &update.attributes);
        }
        seen.extend(flat(&update));
    }
    assert_eq!(frames.pending(), 0);
    assert_eq!(seen, flat(original));
}

fn same_attributes(ctx: DecodeContext, before: &PathAttributes, after: &PathAttributes) {
    let mut before = before.clone();
    for unknown in &mut before.unknown {
        unknown.flags |= code::flag::PARTIAL;
    }
    let confed = before
        .as_path
        .segments
        .iter()
        .any(|s| matches!(s.kind, AsSegmentKind::ConfedSequence | AsSegmentKind::ConfedSet));
    // Confederation segments do not survive AS4_PATH (RFC 6793 section 4.2.2).
    if confed && !ctx.four_octet {
        before.as_path.clone_from(&after.as_path);
    }
    assert_eq!(&before, after);
}

/// The capabilities of one optional parameter.
pub(crate) fn capabilities(data: &[u8]) {
    let (capabilities, errors) = decode_capabilities(data);
    assert!(capabilities.len() <= data.len() / 2);
    for error in errors {
        assert!(error.offset <= data.len());
    }
}

/// Anything at all, as one message and as a stream.
pub(crate) fn message(data: &[u8]) {
    for extended_message in [false, true] {
        let ctx = DecodeContext { extended_message, ..DecodeContext::default() };
        consistent(data, &decode(&ctx, data));
        let _ = serde_json::to_string(&describe(&ctx, data)).expect("a description is plain values");
        let mut frames = FrameReader::new();
        frames.set_extended_message(extended_message);
        for part in data.chunks(7) {
            frames.push(part);
            while let Ok(Some(frame)) = frames.next_frame() {
                consistent(&frame, &decode(&ctx, &frame));
            }
        }
    }
}

/// A BFD packet.
pub(crate) fn bfd(data: &[u8]) {
    if let Ok(packet) = ControlPacket::decode(data) {
        assert_eq!(ControlPacket::decode(&packet.encode()), Ok(packet));
    }
}

/// An MRT file.
pub(crate) fn mrt(data: &[u8]) {
    for record in MrtReader::new(data).map_while(Result::ok) {
        match record.entry() {
            Some(MrtEntry::Message(message)) => {
                let ctx = message.context(DecodeContext::default());
                consistent(&message.message, &decode(&ctx, &message.message));
            }
            Some(MrtEntry::Rib(rib)) => {
                for entry in rib.entries {
                    decode_rib_attributes(rib.four_octet, &entry.attributes);
                }
            }
            _ => {}
        }
    }
}

/// A packet capture.
pub(crate) fn capture(data: &[u8]) {
    for message in Messages::new(data, 179).map_while(Result::ok) {
        let decoded = decode(&DecodeContext::default(), &message.message);
        consistent(&message.message, &decoded);
    }
}
