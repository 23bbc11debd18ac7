//! A neighbour that sends routes: the least of a BGP speaker that can establish a session and send.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use bytes::BytesMut;
use slash32::{
    bgp::wire::{
        AsPath, AsSegment, AsSegmentKind, Capability, EncodeContext, EncodedAttributes, Message, Nlri, Open,
        Origin, PathAttributes, UpdatePacker, WireNextHop, encode,
    },
    model::{Family, Prefix},
    netlink::ns::Netns,
};
use socket2::{Domain, Socket, Type};

const HEADER: usize = 19;
const NOTIFICATION: u8 = 3;
const KEEPALIVE: u8 = 4;
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
            match ns.run(|| Self::try_connect(local, router, asn))? {
                Ok(feeder) => return Ok(feeder),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    fn try_connect(local: Ipv4Addr, router: Ipv4Addr, asn: u32) -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from((local, 0)).into())?;
        socket.connect_timeout(&SocketAddr::from((router, 179)).into(), Duration::from_secs(2))?;
        socket.set_tcp_nodelay(true)?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let open = Open {
            version: 4,
            my_as: u16::try_from(asn).context("an AS number of 16 bits")?,
            hold_time: 0,
            router_id: local,
            capabilities: vec![
                Capability::Multiprotocol { afi: 1, safi: 1 },
                Capability::RouteRefresh,
                Capability::FourOctetAs(asn),
            ],
        };
        let mut out = BytesMut::new();
        encode(&EncodeContext::default(), &Message::Open(open), &mut out)?;
        encode(&EncodeContext::default(), &Message::Keepalive, &mut out)?;
        stream.write_all(&out)?;
        let mut message = vec![0; 65_536];
        loop {
            stream.read_exact(&mut message[..HEADER])?;
            let length = usize::from(u16::from_be_bytes([message[16], message[17]]));
            let kind = message[18];
            stream.read_exact(&mut message[HEADER..length])?;
            match kind {
                KEEPALIVE => return Ok(Self { stream }),
                NOTIFICATION => bail!("the router refused: {:02x?}", &message[HEADER..length]),
                _ => {}
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
