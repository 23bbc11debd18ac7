//! A neighbour that sends routes: the least of a BGP speaker that can establish a session and send.

use std::{
    io::Write,
    net::{Ipv4Addr, Shutdown, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bytes::BytesMut;
use interop_tests::establish;
use slash32::{
    bgp::wire::{
        AsPath, AsSegment, AsSegmentKind, EncodeContext, EncodedAttributes, Nlri, Origin, PathAttributes,
        UpdatePacker, WireNextHop,
    },
    model::{Family, Prefix},
    netlink::ns::Netns,
};

/// The first of the routes.
pub(super) const FIRST: Ipv4Addr = Ipv4Addr::new(20, 0, 0, 0);

/// The address of a route.
pub(super) fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(FIRST.to_bits() + number)
}

/// An established session.
#[derive(Debug)]
pub(super) struct Feeder {
    stream: TcpStream,
}

impl Feeder {
    /// Dials the router until it answers. Hold time 0: no keepalives to think of.
    pub(super) fn connect(ns: &Netns, local: Ipv4Addr, router: Ipv4Addr, asn: u32) -> Result<Self> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match ns.run(|| establish(local, router, asn, 0))? {
                Ok(stream) => return Ok(Self { stream }),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Sends everything.
    pub(super) fn send(&self, updates: &[u8]) -> Result<()> {
        (&self.stream).write_all(updates).context("send routes")
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        // The router may have closed first.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// UPDATEs for the first `routes` /32s, then End-of-RIB.
pub(super) fn updates(routes: u32, asn: u32, next_hop: Ipv4Addr) -> BytesMut {
    let mut out = BytesMut::with_capacity(routes as usize * 6);
    let context = EncodeContext::default();
    let attributes = PathAttributes {
        origin: Some(Origin::Igp),
        as_path: AsPath {
            segments: vec![AsSegment { kind: AsSegmentKind::Sequence, asns: vec![asn, 64_512] }],
        },
        ..PathAttributes::default()
    };
    let encoded = EncodedAttributes::new(&context, &attributes, Family::Ipv4, WireNextHop::V4(next_hop));
    let mut packer = UpdatePacker::announce(&context, &encoded, &mut out);
    for number in 0..routes {
        let prefix = Prefix::host(address(number).into());
        packer.push(&Nlri { prefix, path_id: 0 }).expect("one prefix always fits into an UPDATE");
    }
    packer.finish();
    // RFC 4724 section 2: an UPDATE with nothing in it.
    out.extend_from_slice(&[0xff; 16]);
    out.extend_from_slice(&[0, 23, 2, 0, 0, 0, 0]);
    out
}
