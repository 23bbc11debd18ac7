//! Feeders and the monitor: the least of a BGP speaker that can establish a session, send and count.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bytes::BytesMut;
use interop_tests::establish;
use slash32::{
    bgp::wire::{
        AsPath, AsSegment, AsSegmentKind, EncodeContext, EncodedAttributes, LargeCommunity, Message, Nlri,
        Origin, PathAttributes, UpdatePacker, WireNextHop, encode,
    },
    model::{Family, Prefix},
};

use crate::{ASN, ROUTER};

const HEADER: usize = 19;
const UPDATE: u8 = 2;
const NOTIFICATION: u8 = 3;

/// The address of a peer: 0 is the monitor.
pub(super) fn address(peer: u32) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 1 + (peer >> 8) as u8, peer as u8)
}

/// A next hop for a feeder's routes that is not its address, which is the router's own too in one namespace.
pub(super) fn next_hop(feeder: u32) -> Ipv4Addr {
    Ipv4Addr::new(10, 98, 1 + (feeder >> 8) as u8, feeder as u8)
}

/// An established session.
#[derive(Debug)]
pub(super) struct Peer {
    stream: TcpStream,
}

impl Peer {
    /// Dials the router until it answers, and establishes the session. The hold time is the router's to choose.
    pub(super) fn connect(peer: u32) -> anyhow::Result<Self> {
        let router: Ipv4Addr = ROUTER.parse()?;
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match establish(address(peer), router, ASN, 3600) {
                Ok(stream) => return Ok(Self { stream }),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    /// Sends everything.
    pub(super) fn send(&self, updates: &[u8]) {
        if let Err(error) = (&self.stream).write_all(updates) {
            eprintln!("a feeder could not send: {error}");
        }
    }

    /// Sends a KEEPALIVE.
    pub(super) fn keepalive(&self) -> anyhow::Result<()> {
        let mut out = BytesMut::new();
        encode(&EncodeContext::default(), &Message::Keepalive, &mut out)?;
        (&self.stream).write_all(&out)?;
        Ok(())
    }

    /// Reads what there is until `until` answers that it is enough, which is asked twice a second; keeps `known` up to date.
    pub(super) fn follow(
        &self,
        known: &mut [bool],
        mut until: impl FnMut(&[bool]) -> bool,
    ) -> anyhow::Result<()> {
        self.stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        let mut buffer = vec![0; 1 << 20];
        let mut filled = 0;
        let mut asked = Instant::now();
        loop {
            if asked.elapsed() > Duration::from_millis(500) {
                asked = Instant::now();
                self.keepalive()?;
                if until(known) {
                    return Ok(());
                }
            }
            match (&self.stream).read(&mut buffer[filled..]) {
                Ok(0) => bail!("the router has closed the session"),
                Ok(read) => filled += read,
                Err(e)
                    if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
                {
                    continue;
                }
                Err(e) => return Err(e.into()),
            }
            let mut at = 0;
            while filled - at >= HEADER {
                let length = usize::from(u16::from_be_bytes([buffer[at + 16], buffer[at + 17]]));
                if filled - at < length {
                    break;
                }
                match buffer[at + 18] {
                    UPDATE => note(&buffer[at + HEADER..at + length], known),
                    NOTIFICATION => {
                        bail!("the router has ended the session: {:02x?}", &buffer[at + HEADER..at + length])
                    }
                    _ => {}
                }
                at += length;
            }
            buffer.copy_within(at..filled, 0);
            filled -= at;
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

/// UPDATEs that withdraw some of a feeder's /32s, or announce them again.
pub(super) fn churn(feeder: u32, first: u32, count: u32, next_hop: Ipv4Addr) -> [BytesMut; 2] {
    let context = EncodeContext::default();
    let prefix = |n: u32| Prefix::host(Ipv4Addr::from_bits((20 + feeder) << 24 | n).into());
    let (mut gone, mut back) = (BytesMut::new(), BytesMut::new());
    let mut packer = UpdatePacker::withdraw(&context, Family::Ipv4, &mut gone);
    let attributes = attributes(feeder, 0, true);
    let encoded = EncodedAttributes::new(&context, &attributes, Family::Ipv4, WireNextHop::V4(next_hop));
    let mut announcer = UpdatePacker::announce(&context, &encoded, &mut back);
    for n in first..first + count {
        let nlri = Nlri { prefix: prefix(n), path_id: 0 };
        packer.push(&nlri).expect("one prefix always fits into an UPDATE");
        announcer.push(&nlri).expect("one prefix always fits into an UPDATE");
    }
    packer.finish();
    announcer.finish();
    [gone, back]
}

/// Notes in a bit a route what the body of an UPDATE says of a feeder's /32s.
fn note(body: &[u8], known: &mut [bool]) {
    let withdrawn = usize::from(u16::from_be_bytes([body[0], body[1]]));
    let attributes = usize::from(u16::from_be_bytes([body[2 + withdrawn], body[3 + withdrawn]]));
    let mut set = |mut nlri: &[u8], value| {
        while let [32, _, a, b, c, rest @ ..] = nlri {
            known[usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c)] = value;
            nlri = rest;
        }
    };
    set(&body[2..2 + withdrawn], false);
    set(&body[4 + withdrawn + attributes..], true);
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
pub(super) fn updates(feeder: u32, routes: u32, attribute_sets: u32, next_hop: Ipv4Addr) -> BytesMut {
    let mut out = BytesMut::with_capacity(routes as usize * 8);
    let context = EncodeContext::default();
    let base = (20 + feeder) << 24;
    for set in 0..attribute_sets {
        let (first, last) = (set * (routes / attribute_sets), (set + 1) * (routes / attribute_sets));
        let last = if set + 1 == attribute_sets { routes } else { last };
        let attributes = attributes(feeder, set, attribute_sets > 1);
        let encoded = EncodedAttributes::new(&context, &attributes, Family::Ipv4, WireNextHop::V4(next_hop));
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
