//! `lab-tool feed LOCAL TO ASN ROUTES`: a session that announces many /32s, or none, and then only keeps itself alive.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::BytesMut;
use slash32::bgp::wire::{
    AsPath, AsSegment, AsSegmentKind, EncodeContext, EncodedAttributes, Message, Nlri, Origin,
    PathAttributes, UpdatePacker, WireNextHop, encode,
};
use slash32::model::{Family, Prefix};

use super::stop_at_end_of_stdin;
use crate::establish;

/// Often enough for the shortest hold time that a router has by default, 9 s (FRR in its datacenter profile).
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// First address of what is announced.
const FIRST: u32 = 20 << 24;
/// Different AS paths among the routes, as a table of the Internet has many.
const PATHS: u32 = 500;
const LIMIT: Duration = Duration::from_secs(60);

/// Announces, prints "ready" once everything is written, and stays until stdin ends.
pub fn run(local: IpAddr, to: IpAddr, asn: u32, routes: u32) -> Result<()> {
    let updates = match local {
        _ if routes == 0 => BytesMut::new(),
        IpAddr::V4(next_hop) => updates(next_hop, asn, routes),
        IpAddr::V6(_) => bail!("only IPv4 routes can be announced"),
    };
    let start = Instant::now();
    let mut stream = loop {
        match establish(local, to, asn, 90) {
            Ok(stream) => break stream,
            Err(error) if start.elapsed() > LIMIT => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    };
    // The router talks too, and must not be made to wait.
    let mut reader = stream.try_clone().context("clone the stream")?;
    reader.set_read_timeout(None)?;
    let read = std::thread::spawn(move || {
        let mut bytes = vec![0; 1 << 16];
        while matches!(reader.read(&mut bytes), Ok(1..)) {}
    });
    stream.write_all(&updates).context("send the routes")?;
    println!("ready");
    let stop = stop_at_end_of_stdin();
    let mut keepalive = BytesMut::new();
    encode(&EncodeContext::default(), &Message::Keepalive, &mut keepalive)?;
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if read.is_finished() {
            bail!("the router ended the session");
        }
        if last.elapsed() > KEEPALIVE_INTERVAL {
            stream.write_all(&keepalive).context("send a keepalive")?;
            last = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn updates(next_hop: Ipv4Addr, asn: u32, routes: u32) -> BytesMut {
    let mut out = BytesMut::with_capacity(routes as usize * 8);
    let context = EncodeContext::default();
    let paths = PATHS.min(routes.max(1));
    for path in 0..paths {
        let segments = vec![AsSegment {
            kind: AsSegmentKind::Sequence,
            asns: vec![asn, 64_600 + path % 100, 100_000 + path],
        }];
        let attributes = PathAttributes {
            origin: Some(Origin::Igp),
            as_path: AsPath { segments },
            ..PathAttributes::default()
        };
        let encoded = EncodedAttributes::new(&context, &attributes, Family::Ipv4, WireNextHop::V4(next_hop));
        let mut packer = UpdatePacker::announce(&context, &encoded, &mut out);
        for n in (path..routes).step_by(paths as usize) {
            let prefix = Prefix::host(Ipv4Addr::from_bits(FIRST + n).into());
            packer.push(&Nlri { prefix, path_id: 0 }).expect("one prefix always fits into an UPDATE");
        }
        packer.finish();
    }
    out
}
