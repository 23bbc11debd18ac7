//! What the codec costs: nanoseconds a prefix to decode and to encode, beside bgpkit-parser in the same run.
//!
//! `cargo bench --bench wire [-- PREFIXES]`. Shapes: full UPDATEs that share one attribute set, as a table transfer has them;
//! and one prefix an UPDATE with ten large communities, as a host's labelled containers have them.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use bgpkit_parser::{models::AsnLength, parser::bgp::parse_bgp_message};
use bytes::{Bytes, BytesMut};
use slash32::{
    bgp::wire::{
        AsPath, DecodeContext, EncodeContext, EncodedAttributes, FrameReader, LargeCommunity, Nlri, Origin,
        PathAttributes, WireNextHop, decode, pack_announce,
    },
    model::{Family, Ipv4Prefix, Ipv6Prefix},
};

/// Each figure is the best of as many passes; the machine's noise only ever adds.
const PASSES: usize = 5;

struct Shape {
    name: &'static str,
    family: Family,
    per_update: usize,
    communities: u32,
}

fn main() {
    let prefixes = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(100_000_usize).max(1);
    println!("{:<34}{:>10}{:>10}{:>12}{:>8}", "ns a prefix", "encode", "decode", "bgpkit", "ratio");
    let shapes = [
        Shape {
            name: "IPv4 /32, full UPDATEs",
            family: Family::Ipv4,
            per_update: usize::MAX,
            communities: 0,
        },
        Shape {
            name: "IPv6 /128, full UPDATEs",
            family: Family::Ipv6,
            per_update: usize::MAX,
            communities: 0,
        },
        Shape {
            name: "IPv4 /32, one an UPDATE, 10 labels",
            family: Family::Ipv4,
            per_update: 1,
            communities: 10,
        },
        Shape {
            name: "IPv6 /128, one an UPDATE, 10 labels",
            family: Family::Ipv6,
            per_update: 1,
            communities: 10,
        },
    ];
    for shape in shapes {
        run(&shape, prefixes);
    }
}

fn run(shape: &Shape, prefixes: usize) {
    let list: Vec<Nlri> = (0..prefixes as u32).map(|i| nlri(shape.family, i)).collect();
    let mut stream = BytesMut::new();
    let encoding = best(|| {
        stream.clear();
        encode(shape, &list, &mut stream);
    });
    let mut reader = FrameReader::new();
    reader.push(&stream);
    let frames: Vec<Bytes> = std::iter::from_fn(|| reader.next_frame().expect("our own framing")).collect();
    let ctx = DecodeContext::default();
    let decoding = best(|| {
        for frame in &frames {
            black_box(decode(&ctx, frame));
        }
    });
    let theirs = best(|| {
        for frame in &frames {
            black_box(parse_bgp_message(&mut frame.clone(), false, &AsnLength::Bits32)).ok();
        }
    });
    let each = |time: Duration| time.as_secs_f64() * 1e9 / prefixes as f64;
    println!(
        "{:<34}{:>10.1}{:>10.1}{:>12.1}{:>8.2}",
        shape.name,
        each(encoding),
        each(decoding),
        each(theirs),
        decoding.as_secs_f64() / theirs.as_secs_f64()
    );
}

fn best(mut pass: impl FnMut()) -> Duration {
    let times = (0..PASSES).map(|_| {
        let start = Instant::now();
        pass();
        start.elapsed()
    });
    times.min().unwrap_or_default()
}

fn nlri(family: Family, i: u32) -> Nlri {
    let prefix = match family {
        Family::Ipv4 => Ipv4Prefix::new((0x0A00_0000 + i).into(), 32).into(),
        Family::Ipv6 => Ipv6Prefix::new((0xFD00_u128 << 112 | u128::from(i)).into(), 128).into(),
    };
    Nlri { prefix, path_id: 0 }
}

/// Attributes are encoded once for as many prefixes as share them.
fn encode(shape: &Shape, list: &[Nlri], out: &mut BytesMut) {
    let ctx = EncodeContext::default();
    let next_hop = match shape.family {
        Family::Ipv4 => WireNextHop::V4([192, 0, 2, 1].into()),
        Family::Ipv6 => WireNextHop::V6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into()),
    };
    for (i, part) in list.chunks(shape.per_update.min(list.len())).enumerate() {
        let label = |n| LargeCommunity { global: 4_200_000_000, local1: i as u32, local2: n };
        let attributes = PathAttributes {
            origin: Some(Origin::Igp),
            as_path: AsPath::sequence([65001, 65002]),
            large_communities: (0..shape.communities).map(label).collect(),
            ..PathAttributes::default()
        };
        let encoded = EncodedAttributes::new(&ctx, &attributes, shape.family, next_hop);
        pack_announce(&ctx, &encoded, part, out).expect("the attributes are short");
    }
}
