//! `lab-tool member LOCAL TO ASN MEMBERS ROUNDS`: what an UPDATE about one endpoint takes until nftables has it.
//!
//! On the agent's own machine, where nftables' notifications can be heard: a neighbour with another address of that
//! machine announces many endpoints with the label `role=web`, and then, one at a time, one more and one less.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use slash32::bgp::identity::to_communities;
use slash32::bgp::wire::{
    AsPath, EncodeContext, EncodedAttributes, Nlri, Origin, PathAttributes, UpdatePacker, WireNextHop,
    encode_end_of_rib,
};
use slash32::model::{Family, Identity, Labels, Prefix};
use slash32::netlink::{NftEvent, NftWatch};

use crate::establish;

/// The identity domain where none is configured.
const DOMAIN: u32 = 4_200_000_000;
/// The first member.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 40, 0, 0);
const TABLE: &str = "slash32";
/// So long nothing is told when all there was to do is done.
const QUIET: Duration = Duration::from_secs(2);
/// Between two UPDATEs.
const PAUSE: Duration = Duration::from_millis(20);
const LIMIT: Duration = Duration::from_secs(120);

/// Milliseconds from the writing of an UPDATE to the notification of the change that it has caused.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Until all members were there, counted from the first UPDATE.
    pub filled: f64,
    /// An endpoint came.
    pub joins: Vec<f64>,
    /// An endpoint went.
    pub leaves: Vec<f64>,
}

/// Prints a [`Report`] as JSON.
pub fn run(local: Ipv4Addr, to: Ipv4Addr, asn: u32, members: u32, rounds: u32) -> Result<()> {
    let (tell, told) = channel();
    NftWatch::spawn("member", &[], move |event| match event {
        NftEvent::Changed { table, .. } if table != TABLE => true,
        _ => tell.send(Instant::now()).is_ok(),
    })?;
    let mut stream = establish(local, to, asn, 0)?;
    let mut reader = stream.try_clone().context("clone the stream")?;
    reader.set_read_timeout(None)?;
    std::thread::spawn(move || {
        let mut bytes = vec![0; 1 << 16];
        while matches!(reader.read(&mut bytes), Ok(1..)) {}
    });
    let speaker = Speaker { next_hop: Ipv4Addr::from_bits(local.to_bits() + 2), asn };
    let start = Instant::now();
    let mut last = start;
    let mut all = speaker.announce(0..members)?;
    encode_end_of_rib(Family::Ipv4, &mut all);
    stream.write_all(&all).context("send the members")?;
    while let Some(at) = next(&told, QUIET)? {
        last = at;
        if start.elapsed() > LIMIT {
            bail!("nftables is not quiet within {LIMIT:?}");
        }
    }
    let mut report = Report { filled: super::milliseconds(last - start), ..Report::default() };
    for round in 0..rounds {
        let one = members + round..members + round + 1;
        let update = speaker.announce(one.clone())?;
        report.joins.push(time(&mut stream, &update, &told)?);
        let update = withdraw(one)?;
        report.leaves.push(time(&mut stream, &update, &told)?);
    }
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// When the next change was told; none if there was none for so long.
fn next(told: &Receiver<Instant>, wait: Duration) -> Result<Option<Instant>> {
    match told.recv_timeout(wait) {
        Ok(at) => Ok(Some(at)),
        Err(RecvTimeoutError::Timeout) => Ok(None),
        Err(RecvTimeoutError::Disconnected) => bail!("the notifications have ended"),
    }
}

fn time(stream: &mut TcpStream, update: &[u8], told: &Receiver<Instant>) -> Result<f64> {
    std::thread::sleep(PAUSE);
    while told.try_recv().is_ok() {}
    let start = Instant::now();
    stream.write_all(update).context("send an UPDATE")?;
    let at = next(told, QUIET)?.context("the UPDATE has changed nothing")?;
    Ok(super::milliseconds(at - start))
}

struct Speaker {
    next_hop: Ipv4Addr,
    asn: u32,
}

impl Speaker {
    fn announce(&self, members: std::ops::Range<u32>) -> Result<BytesMut> {
        let identity = Identity::of_endpoint(&Labels::try_from([("role", "web"), ("env", "bench")])?);
        let attributes = PathAttributes {
            origin: Some(Origin::Igp),
            as_path: AsPath::sequence([self.asn]),
            large_communities: to_communities(DOMAIN, Some(&identity), None).collect(),
            ..PathAttributes::default()
        };
        let context = EncodeContext::default();
        let next_hop = WireNextHop::V4(self.next_hop);
        let encoded = EncodedAttributes::new(&context, &attributes, Family::Ipv4, next_hop);
        let mut out = BytesMut::new();
        fill(UpdatePacker::announce(&context, &encoded, &mut out), members)?;
        Ok(out)
    }
}

fn withdraw(members: std::ops::Range<u32>) -> Result<BytesMut> {
    let mut out = BytesMut::new();
    fill(UpdatePacker::withdraw(&EncodeContext::default(), Family::Ipv4, &mut out), members)?;
    Ok(out)
}

fn fill(mut packer: UpdatePacker<'_>, members: std::ops::Range<u32>) -> Result<()> {
    for n in members {
        let prefix = Prefix::host(Ipv4Addr::from_bits(FIRST.to_bits() + n).into());
        packer.push(&Nlri { prefix, path_id: 0 })?;
    }
    packer.finish();
    Ok(())
}
