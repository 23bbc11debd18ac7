//! Feeders and the monitor: the least of a BGP speaker that can establish a session, send and count.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bytes::BytesMut;
use slash32::{
    bgp::wire::{
        AsPath, AsSegment, AsSegmentKind, Capability, EncodeContext, EncodedAttributes, LargeCommunity,
        Message, Nlri, Open, Origin, PathAttributes, UpdatePacker, WireNextHop, encode,
    },
    model::{Family, Prefix},
};
use socket2::{Domain, Socket, Type};

use crate::{ASN, PORT, ROUTER};

const HEADER: usize = 19;
const UPDATE: u8 = 2;
const NOTIFICATION: u8 = 3;
const KEEPALIVE: u8 = 4;

/// The address of a peer: 0 is the monitor.
pub(super) fn address(peer: u32) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 1 + (peer >> 8) as u8, peer as u8)
}

/// The next hop of a feeder's routes: not its address, which is the router's own too in this one namespace.
fn next_hop(feeder: u32) -> Ipv4Addr {
    Ipv4Addr::new(10, 98, 1 + (feeder >> 8) as u8, feeder as u8)
}

/// An established session.
#[derive(Debug)]
pub(super) struct Peer {
    stream: TcpStream,
}

impl Peer {
    /// Dials the router until it answers, and establishes the session. Hold time 0: no keepalives to think of.
    pub(super) fn connect(peer: u32) -> anyhow::Result<Self> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match Self::try_connect(peer) {
                Ok(peer) => return Ok(peer),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    fn try_connect(peer: u32) -> anyhow::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from((address(peer), 0)).into())?;
        let router: Ipv4Addr = ROUTER.parse()?;
        socket.connect(&SocketAddr::from((router, PORT)).into())?;
        socket.set_tcp_nodelay(true)?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let open = Open {
            version: 4,
            my_as: ASN as u16,
            hold_time: 0,
            router_id: address(peer),
            capabilities: vec![
                Capability::Multiprotocol { afi: 1, safi: 1 },
                Capability::RouteRefresh,
                Capability::FourOctetAs(ASN),
            ],
        };
        let mut out = BytesMut::new();
        encode(&EncodeContext::default(), &Message::Open(open), &mut out)?;
        encode(&EncodeContext::default(), &Message::Keepalive, &mut out)?;
        stream.write_all(&out)?;
        let mut message = vec![0; 65_536];
        loop {
            match read_message(&mut stream, &mut message)? {
                (KEEPALIVE, _) => return Ok(Self { stream }),
                (NOTIFICATION, body) => bail!("the router refused: {body:02x?}"),
                _ => {}
            }
        }
    }

    /// Sends everything.
    pub(super) fn send(&self, updates: &[u8]) {
        if let Err(error) = (&self.stream).write_all(updates) {
            eprintln!("a feeder could not send: {error}");
        }
    }

    /// Reads until `total` prefixes were announced; the instant the last came.
    pub(super) fn count_until(&self, total: u64, limit: Duration) -> anyhow::Result<Instant> {
        let deadline = Instant::now() + limit;
        let mut buffer = vec![0; 1 << 20];
        let (mut filled, mut announced) = (0, 0);
        while announced < total {
            let read = (&self.stream)
                .read(&mut buffer[filled..])
                .with_context(|| format!("at {announced} of {total} routes"))?;
            if read == 0 || Instant::now() > deadline {
                bail!("the session ended at {announced} of {total} routes");
            }
            filled += read;
            let mut at = 0;
            while filled - at >= HEADER {
                let length = usize::from(u16::from_be_bytes([buffer[at + 16], buffer[at + 17]]));
                if filled - at < length {
                    break;
                }
                match buffer[at + 18] {
                    UPDATE => announced += announced_in(&buffer[at + HEADER..at + length]),
                    NOTIFICATION => bail!("the router ended the session at {announced} of {total} routes"),
                    _ => {}
                }
                at += length;
            }
            buffer.copy_within(at..filled, 0);
            filled -= at;
        }
        Ok(Instant::now())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The router may have closed first.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

fn read_message<'a>(stream: &mut TcpStream, buffer: &'a mut [u8]) -> anyhow::Result<(u8, &'a [u8])> {
    stream.read_exact(&mut buffer[..HEADER])?;
    let length = usize::from(u16::from_be_bytes([buffer[16], buffer[17]]));
    stream.read_exact(&mut buffer[HEADER..length])?;
    Ok((buffer[18], &buffer[HEADER..length]))
}

/// How many IPv4 prefixes the body of an UPDATE announces.
fn announced_in(body: &[u8]) -> u64 {
    let withdrawn = usize::from(u16::from_be_bytes([body[0], body[1]]));
    let attributes = usize::from(u16::from_be_bytes([body[2 + withdrawn], body[3 + withdrawn]]));
    let mut nlri = &body[4 + withdrawn + attributes..];
    let mut count = 0;
    while let [length, rest @ ..] = nlri {
        nlri = &rest[usize::from(*length).div_ceil(8)..];
        count += 1;
    }
    count
}

/// A feeder's UPDATEs, back to back: /32s of its own, spread evenly over the attribute sets.
pub(super) fn updates(feeder: u32, routes: u32, attribute_sets: u32) -> BytesMut {
    let mut out = BytesMut::with_capacity(routes as usize * 8);
    let context = EncodeContext::default();
    let base = (20 + feeder) << 24;
    for set in 0..attribute_sets {
        let (first, last) = (set * (routes / attribute_sets), (set + 1) * (routes / attribute_sets));
        let last = if set + 1 == attribute_sets { routes } else { last };
        let attributes = attributes(feeder, set, attribute_sets > 1);
        let encoded =
            EncodedAttributes::new(&context, &attributes, Family::Ipv4, WireNextHop::V4(next_hop(feeder)));
        let mut packer = UpdatePacker::announce(&context, &encoded, &mut out);
        for n in first..last {
            let prefix = Prefix::host(Ipv4Addr::from_bits(base | n).into());
            packer.push(&Nlri { prefix, path_id: 0 }).expect("one prefix always fits into an UPDATE");
        }
        packer.finish();
    }
    out
}

/// What a host with labels announces: an AS path and, with many sets, eight large communities.
fn attributes(feeder: u32, set: u32, labelled: bool) -> PathAttributes {
    let hash = |n: u32| (set.wrapping_mul(0x9E37_79B9) ^ n.wrapping_mul(0x85EB_CA6B)).rotate_left(n);
    PathAttributes {
        origin: Some(Origin::Igp),
        as_path: AsPath {
            segments: vec![AsSegment { kind: AsSegmentKind::Sequence, asns: vec![64_600 + feeder, 64_512] }],
        },
        local_pref: Some(100),
        large_communities: if labelled {
            (0..8)
                .map(|n| LargeCommunity { global: 4_200_000_000, local1: hash(n), local2: hash(n + 8) })
                .collect()
        } else {
            Vec::new()
        },
        ..PathAttributes::default()
    }
}
