//! A neighbour that sends routes: the least of a BGP speaker that can establish a session and send.

use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, TcpStream},
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
const FIRST4: Ipv4Addr = Ipv4Addr::new(20, 0, 0, 0);
const FIRST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x20, 0, 0, 0, 0, 0);

/// The address of a route.
pub(super) fn address(family: Family, number: u32) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::from_bits(FIRST4.to_bits() + number).into(),
        Family::Ipv6 => Ipv6Addr::from_bits(FIRST6.to_bits() + u128::from(number)).into(),
    }
}

/// Whether a prefix is one of the routes.
pub(super) fn is_one(prefix: Prefix) -> bool {
    prefix.is_host()
        && match prefix.addr() {
            IpAddr::V4(a) => a.octets()[0] == FIRST4.octets()[0],
            IpAddr::V6(a) => a.segments()[..3] == FIRST6.segments()[..3],
        }
}

/// An established session.
#[derive(Debug)]
pub(super) struct Feeder {
    stream: TcpStream,
}

impl Feeder {
    /// Dials the router until it answers, for routes of the family of the addresses. Hold time 0: no keepalives to think
    /// of.
    pub(super) fn connect(ns: &Netns, local: IpAddr, router: IpAddr, asn: u32) -> Result<Self> {
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

/// UPDATEs for the first `routes` routes of the next hop's family, then End-of-RIB.
pub(super) fn updates(routes: u32, asn: u32, next_hop: IpAddr) -> BytesMut {
    let family = Family::of(next_hop);
    let wire = match next_hop {
        IpAddr::V4(addr) => WireNextHop::V4(addr),
        IpAddr::V6(addr) => WireNextHop::V6(addr),
    };
    let mut out = BytesMut::with_capacity(routes as usize * 6);
    let context = EncodeContext::default();
    let attributes = PathAttributes {
        origin: Some(Origin::Igp),
        as_path: AsPath {
            segments: vec![AsSegment { kind: AsSegmentKind::Sequence, asns: vec![asn, 64_512] }],
        },
        ..PathAttributes::default()
    };
    let encoded = EncodedAttributes::new(&context, &attributes, family, wire);
    let mut packer = UpdatePacker::announce(&context, &encoded, &mut out);
    for number in 0..routes {
        let prefix = Prefix::host(address(family, number));
        packer.push(&Nlri { prefix, path_id: 0 }).expect("one prefix always fits into an UPDATE");
    }
    packer.finish();
    // RFC 4724 section 2: an UPDATE with nothing in it, or with an empty MP_UNREACH_NLRI.
    out.extend_from_slice(&[0xff; 16]);
    out.extend_from_slice(match family {
        Family::Ipv4 => &[0, 23, 2, 0, 0, 0, 0][..],
        Family::Ipv6 => &[0, 29, 2, 0, 0, 0, 6, 0x80, 15, 3, 0, 2, 1],
    });
    out
}
