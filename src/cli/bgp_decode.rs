//! `slash32 bgp decode`: what is in BGP messages, and what a speaker makes of them.
//!
//! Input is hexadecimal lines, MRT or a packet capture, told apart by their first octets. Each message gives one line, in
//! order, with `--json` an object of these fields:
//!
//! - `type`: `OPEN`, `UPDATE`, `NOTIFICATION`, `KEEPALIVE` or `ROUTE-REFRESH`; `UNKNOWN` for other type codes; `RIB` for a
//!   route of an MRT table dump; `invalid` for what is no message at all. `type_code`, `length` (octets).
//! - OPEN: `version`, `asn` (four-octet if given), `my_as`, `hold_time`, `router_id`, `capabilities` (`code`, `name`, and the
//!   capability's own fields).
//! - UPDATE: `withdrawn`, `nlri`, `mp_reach` (`afi`, `safi`, `next_hop`, `link_local`, `nlri`), `mp_unreach` (`afi`, `safi`,
//!   `nlri`): as they are on the wire, prefixes as `"10.0.0.0/8"`, with add-path as `{"prefix", "path_id"}`. `attributes`:
//!   those that are kept: `origin` (`IGP`, `EGP`, `INCOMPLETE`), `as_path` (numbers; `{"set": […]}` and the like),
//!   `as_path_segments`, `next_hop`, `med`, `local_pref`, `atomic_aggregate`, `aggregator` (`asn`, `address`), `communities`
//!   (`"65001:1"`), `originator_id`, `cluster_list`, `ext_communities`, `ipv6_ext_communities`, `large_communities`
//!   (`"1:2:3"`), `otc`, `as4_path`, `unknown` (`code`, `flags`, `value`). `raw_attributes`: all, as they came. `effect`:
//!   what is announced and withdrawn after RFC 7606. `end_of_rib`: `ipv4`, `ipv6` or null.
//! - NOTIFICATION: `code`, `subcode`, `name`, `subcode_name`, `data` (hexadecimal), `shutdown_text`, `cause`.
//! - ROUTE-REFRESH: `afi`, `safi`, `subtype`, `subtype_name`.
//! - RIB: `prefix`, `path_id`, `originated`, `next_hop`, `link_local`, `attributes`.
//! - `disposition`: `ok`, `discard`, `withdraw` or `reset`, the strongest of `errors`: objects of `action`, `code`,
//!   `subcode`, `name`, `attribute` (type code), `attribute_name`, `reason`, `offset` (octets from the message's start).
//! - Where it comes from: `line`; or `timestamp` (seconds), `peer`, `peer_asn`, `local`, `local_asn`, `sent`; or `timestamp`,
//!   `source`, `destination`.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    net::IpAddr,
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use crate::{
    bgp::{
        capture::{Messages, PacketReader},
        mrt::{MessageRecord, MrtEntry, MrtReader, MrtRecord, PeerIndex, RibEntry, RibRecord},
        wire::{
            AttributesView, DecodeContext, Description, Disposition, ErrorView, PeerKind, PerFamily,
            WireNextHop, decode_rib_attributes, describe,
        },
    },
    model::Prefix,
};

/// Decode BGP messages: hexadecimal lines, MRT files, packet captures
///
/// Reads hexadecimal text (a whole message a line, header included; blanks, colons and `#` comments are allowed), MRT
/// (BGP4MP and TABLE_DUMP_V2) or pcap and pcapng, whichever the file is, and prints a line for each message. Every error
/// is shown with what RFC 7606 demands for it; none stops the rest.
#[derive(Args, Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(super) struct DecodeArgs {
    /// The messages come from an external peer (the default)
    #[arg(long, conflicts_with = "ibgp")]
    ebgp: bool,
    /// The messages come from an internal peer
    #[arg(long)]
    ibgp: bool,
    /// AS numbers have two octets; MRT says so itself
    #[arg(long)]
    as2: bool,
    /// Prefixes have path identifiers (RFC 7911); MRT says so itself
    #[arg(long)]
    add_path: bool,
    /// Allow messages of more than 4096 octets (RFC 8654)
    #[arg(long)]
    extended_message: bool,
    /// The TCP port to look for in packet captures
    #[arg(long, default_value_t = 179)]
    port: u16,
    /// The file; `-` is standard input
    file: PathBuf,
}

/// Runs the command. A malformed message is a result, not a failure; a file that cannot be read is one.
pub(super) fn run(args: &DecodeArgs, json: bool) -> anyhow::Result<ExitCode> {
    let name = args.file.display();
    let input: Box<dyn Read> = if args.file.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(&args.file).with_context(|| format!("cannot open {name}"))?)
    };
    let mut out = Output { json, out: BufWriter::new(io::stdout().lock()) };
    let done = decode_input(args, input, &mut out).and_then(|()| Ok(out.out.flush()?));
    match done {
        // Whoever reads has had enough.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error.context(format!("cannot decode {name}"))),
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

fn context(args: &DecodeArgs) -> DecodeContext {
    DecodeContext {
        peer: if args.ibgp { PeerKind::Internal } else { PeerKind::External },
        four_octet: !args.as2,
        add_path: PerFamily::both(args.add_path),
        extended_message: args.extended_message,
        ..DecodeContext::default()
    }
}

/// Tells the format by the first octets and decodes all of it.
fn decode_input<W: Write>(
    args: &DecodeArgs,
    mut input: impl Read,
    out: &mut Output<W>,
) -> anyhow::Result<()> {
    let mut head = Vec::new();
    input.by_ref().take(12).read_to_end(&mut head)?;
    let ctx = context(args);
    let whole = BufReader::new(io::Cursor::new(head.clone()).chain(input));
    if PacketReader::<io::Empty>::looks_like(&head) {
        captured(ctx, args.port, whole, out)
    } else if MrtReader::<io::Empty>::looks_like(&head) {
        mrt(ctx, whole, out)
    } else if head.starts_with(&[0x1F, 0x8B]) || head.starts_with(b"BZh") {
        anyhow::bail!("the file is compressed: use `zcat FILE | slash32 bgp decode -`, or bzcat")
    } else {
        hex_lines(ctx, whole, out)
    }
}

struct Output<W: Write> {
    json: bool,
    out: W,
}

impl<W: Write> Output<W> {
    fn line(&mut self, line: &(impl Serialize + std::fmt::Display)) -> io::Result<()> {
        if self.json {
            serde_json::to_writer(&mut self.out, line)?;
            self.out.write_all(b"\n")
        } else {
            writeln!(self.out, "{line}")
        }
    }
}

/// A message with where it comes from.
#[derive(Serialize)]
struct Line<S> {
    #[serde(flatten)]
    message: Description,
    #[serde(flatten)]
    origin: S,
}

impl<S: std::fmt::Display> std::fmt::Display for Line<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.origin, self.message)
    }
}

#[derive(Serialize)]
struct HexOrigin {
    line: usize,
}

impl std::fmt::Display for HexOrigin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.line)
    }
}

fn hex_lines<W: Write>(
    ctx: DecodeContext,
    mut input: BufReader<impl Read>,
    out: &mut Output<W>,
) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        if input.read_until(b'\n', &mut bytes)? == 0 {
            break;
        }
        let message = match hex_octets(&bytes) {
            Ok(octets) if octets.is_empty() => continue,
            Ok(octets) => describe(&ctx, &octets),
            Err((reason, offset)) => Description::invalid(&reason, offset),
        };
        out.line(&Line { message, origin: HexOrigin { line } })?;
        // Whoever types or pipes lines one by one sees each answer at once.
        if input.buffer().is_empty() {
            out.out.flush()?;
        }
    }
    Ok(())
}

/// The octets of a line; none for a blank one. The error's number is how many octets came before it.
fn hex_octets(line: &[u8]) -> Result<Vec<u8>, (String, usize)> {
    let text = line.split(|&b| b == b'#').next().unwrap_or_default();
    let text = text.trim_ascii();
    let text = text.strip_prefix(b"0x").unwrap_or(text);
    let mut octets = Vec::with_capacity(text.len() / 2);
    let mut high = None;
    for &byte in text.iter().filter(|b| !b.is_ascii_whitespace() && **b != b':') {
        let Some(digit) = char::from(byte).to_digit(16) else {
            return Err((format!("{:?} is no hexadecimal digit", char::from(byte)), octets.len()));
        };
        match high.take() {
            None => high = Some(digit as u8),
            Some(high) => octets.push(high << 4 | digit as u8),
        }
    }
    match high {
        None => Ok(octets),
        Some(_) => Err(("an odd number of hexadecimal digits".to_owned(), octets.len())),
    }
}

#[derive(Serialize)]
struct CaptureOrigin {
    timestamp: Option<f64>,
    source: String,
    destination: String,
}

impl std::fmt::Display for CaptureOrigin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.6} {} > {}", self.timestamp.unwrap_or_default(), self.source, self.destination)
    }
}

fn captured<W: Write>(
    ctx: DecodeContext,
    port: u16,
    input: impl Read,
    out: &mut Output<W>,
) -> anyhow::Result<()> {
    for message in Messages::new(input, port) {
        let message = match message {
            Ok(message) => message,
            Err(error) => return broken(&error.to_string(), out),
        };
        let origin = CaptureOrigin {
            timestamp: message.time.map(|t| t.as_secs_f64()),
            source: message.source.to_string(),
            destination: message.destination.to_string(),
        };
        out.line(&Line { message: describe(&ctx, &message.message), origin })?;
    }
    Ok(())
}

/// What follows in the file cannot be found: said in a line of its own.
fn broken<W: Write>(reason: &str, out: &mut Output<W>) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Nowhere {}
    impl std::fmt::Display for Nowhere {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("end")
        }
    }
    Ok(out.line(&Line { message: Description::invalid(reason, 0), origin: Nowhere {} })?)
}

#[derive(Serialize)]
struct MrtOrigin {
    timestamp: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_asn: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    local: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    local_asn: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent: Option<bool>,
}

impl MrtOrigin {
    fn new(record: &MrtRecord) -> Self {
        let micros = record.microseconds.unwrap_or(0);
        let timestamp = f64::from(record.seconds) + f64::from(micros) / 1e6;
        Self { timestamp, peer: None, peer_asn: None, local: None, local_asn: None, sent: None }
    }

    fn of_message(record: &MrtRecord, message: &MessageRecord) -> Self {
        Self {
            peer: message.peer,
            peer_asn: Some(message.peer_asn),
            local: message.local,
            local_asn: Some(message.local_asn),
            sent: Some(message.sent),
            ..Self::new(record)
        }
    }
}

impl std::fmt::Display for MrtOrigin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.6}", self.timestamp)?;
        if let Some(peer) = self.peer {
            write!(f, " {peer}")?;
        }
        if let Some(asn) = self.peer_asn {
            write!(f, " AS{asn}")?;
        }
        Ok(())
    }
}

/// A route of a table dump.
#[derive(Serialize)]
struct RibLine {
    #[serde(rename = "type")]
    kind: &'static str,
    length: usize,
    prefix: Prefix,
    path_id: Option<u32>,
    originated: u32,
    next_hop: Option<IpAddr>,
    link_local: Option<IpAddr>,
    attributes: AttributesView,
    disposition: String,
    errors: Vec<ErrorView>,
    #[serde(flatten)]
    origin: MrtOrigin,
}

impl std::fmt::Display for RibLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: RIB {} {} +{}", self.origin, self.length, self.disposition, self.prefix)?;
        if let Some(next_hop) = self.next_hop {
            write!(f, " via={next_hop}")?;
        }
        write!(f, "{}", self.attributes)?;
        for error in &self.errors {
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

fn mrt<W: Write>(ctx: DecodeContext, input: impl Read, out: &mut Output<W>) -> anyhow::Result<()> {
    let mut peers: Option<PeerIndex> = None;
    for record in MrtReader::new(input) {
        let record = match record {
            Ok(record) => record,
            Err(error) => return broken(&error.to_string(), out),
        };
        match record.entry() {
            None => {
                let message = Description::invalid("malformed MRT record", record.header_len);
                out.line(&Line { message, origin: MrtOrigin::new(&record) })?;
            }
            Some(MrtEntry::PeerIndex(index)) => peers = Some(index),
            Some(MrtEntry::Rib(rib)) => {
                for entry in &rib.entries {
                    out.line(&rib_line(&record, &rib, entry, peers.as_ref()))?;
                }
            }
            Some(MrtEntry::Message(message)) => {
                let described = describe(&message.context(ctx), &message.message);
                out.line(&Line { message: described, origin: MrtOrigin::of_message(&record, &message) })?;
            }
            // No BGP message.
            Some(MrtEntry::StateChange(_) | MrtEntry::Other) => {}
        }
    }
    Ok(())
}

fn rib_line(record: &MrtRecord, rib: &RibRecord, entry: &RibEntry, peers: Option<&PeerIndex>) -> RibLine {
    let decoded = decode_rib_attributes(&entry.attributes);
    let peer = peers.and_then(|p| p.peers.get(usize::from(entry.peer_index)));
    let mut errors: Vec<ErrorView> = decoded.errors.iter().map(ErrorView::from).collect();
    for error in &mut errors {
        error.offset += entry.offset;
    }
    let link_local = match decoded.next_hop {
        Some(WireNextHop::V6LinkLocal { link_local, .. }) => Some(IpAddr::V6(link_local)),
        _ => None,
    };
    RibLine {
        kind: "RIB",
        length: entry.attributes.len(),
        prefix: rib.prefix,
        path_id: entry.path_id,
        originated: entry.originated,
        next_hop: decoded.next_hop.map(WireNextHop::global),
        link_local,
        attributes: AttributesView::from(&decoded.attributes).with_next_hop(decoded.next_hop),
        disposition: Disposition::to_string(&decoded.disposition),
        errors,
        origin: MrtOrigin {
            peer: peer.map(|p| p.address),
            peer_asn: peer.map(|p| p.asn),
            ..MrtOrigin::new(record)
        },
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use bytes::BytesMut;
    use serde_json::Value;

    use super::*;
    use crate::bgp::{mrt::write, wire::PathAttributes};

    #[derive(clap::Parser)]
    struct Cli {
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        args: DecodeArgs,
    }

    fn decode_with(options: &[&str], input: &[u8]) -> String {
        let line = ["decode"].into_iter().chain(options.iter().copied()).chain(["-"]);
        let Cli { json, args } = clap::Parser::try_parse_from(line).unwrap();
        let mut out = Output { json, out: Vec::new() };
        decode_input(&args, input, &mut out).unwrap();
        String::from_utf8(out.out).unwrap()
    }

    fn objects(options: &[&str], input: &[u8]) -> Vec<Value> {
        let options = [&["--json"], options].concat();
        decode_with(&options, input).lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    /// Every `NAME.hex` of tests/golden/bgp has `NAME.json` and `NAME.txt`: what the command prints with the options that
    /// the file's first comment names. `UPDATE_GOLDEN=1 cargo test` writes them anew.
    #[test]
    fn golden_files() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bgp");
        let mut seen = 0;
        for file in fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_none_or(|e| e != "hex") {
                continue;
            }
            let input = fs::read_to_string(&path).unwrap();
            let options: Vec<_> =
                input.lines().next().unwrap().trim_start_matches('#').split_whitespace().collect();
            for (json, extension) in [(true, "json"), (false, "txt")] {
                let options = if json { [&["--json"], &options[..]].concat() } else { options.clone() };
                let got = decode_with(&options, input.as_bytes());
                let golden = path.with_extension(extension);
                if std::env::var_os("UPDATE_GOLDEN").is_some() {
                    fs::write(&golden, &got).unwrap();
                }
                let expected = fs::read_to_string(&golden).unwrap_or_default();
                assert_eq!(got, expected, "{} differs", golden.display());
            }
            seen += 1;
        }
        assert!(seen >= 5, "one file a message kind at least");
    }

    const KEEPALIVE: &str = "ffffffffffffffffffffffffffffffff001304";

    #[test]
    fn lines_of_every_shape() {
        let octets: Vec<_> = hex::decode(KEEPALIVE).unwrap().iter().map(|b| format!("{b:02x}")).collect();
        let spaced = octets.join(": ");
        let input = format!(
            "# a comment\n\n{KEEPALIVE}\n  {}\r\n{spaced} # and why\n0x{KEEPALIVE}\nxyz\n{}0\né\n00\n{KEEPALIVE}",
            KEEPALIVE.to_uppercase(),
            KEEPALIVE,
        );
        let got = objects(&[], input.as_bytes());
        let kinds: Vec<_> =
            got.iter().map(|o| (o["line"].as_u64().unwrap(), o["type"].as_str().unwrap())).collect();
        let (k, i) = ("KEEPALIVE", "invalid");
        assert_eq!(kinds, [(3, k), (4, k), (5, k), (6, k), (7, i), (8, i), (9, i), (10, i), (11, k)]);
        for object in got {
            let reset = object["type"] == "invalid";
            assert_eq!(object["disposition"], if reset { "reset" } else { "ok" });
            assert_eq!(object["errors"].as_array().unwrap().len(), usize::from(reset));
        }
        assert!(objects(&[], b"").is_empty());
    }

    #[test]
    fn options_change_the_reading() {
        let update = |path: &str, rest: &str| {
            let attributes = format!("40010100 4002{path} 400304c0000201{rest}").replace(' ', "");
            let nlri = "080a";
            let body = format!("0000{:04x}{attributes}{nlri}", attributes.len() / 2);
            format!("{}{:04x}02{body}", "ff".repeat(16), 19 + body.len() / 2)
        };
        let disposition =
            |options: &[&str], line: &str| objects(options, line.as_bytes())[0]["disposition"].clone();
        let as4 = update("0602010000fde9", "");
        let as2 = update("040201fde9", "");
        assert_eq!(disposition(&[], &as4), "ok");
        assert_eq!(disposition(&["--as2"], &as4), "withdraw");
        assert_eq!(disposition(&["--as2"], &as2), "ok");
        let with_local_pref = update("0602010000fde9", "40050400000064");
        assert_eq!(disposition(&["--ebgp"], &with_local_pref), "discard");
        assert_eq!(disposition(&["--ibgp"], &with_local_pref), "ok");
        assert_eq!(disposition(&["--ibgp"], &as4), "withdraw");
        assert_eq!(disposition(&["--add-path"], &as4), "reset");
    }

    #[test]
    fn mrt_files() {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(1_700_000_000_250);
        let mut file = BytesMut::new();
        let peer = crate::bgp::mrt::PeerIndexEntry {
            router_id: [10, 0, 0, 1].into(),
            address: "192.0.2.1".parse().unwrap(),
            asn: 65001,
        };
        write::peer_index(&mut file, time, [10, 0, 0, 2].into(), "", &[peer]);
        let attributes =
            PathAttributes { origin: Some(crate::bgp::wire::Origin::Igp), ..PathAttributes::default() };
        let next_hop = WireNextHop::V6("2001:db8::1".parse().unwrap());
        let route =
            write::Route { peer_index: 0, originated: time, path_id: 0, attributes: &attributes, next_hop };
        write::rib(&mut file, time, 0, "2001:db8::/32".parse().unwrap(), false, &[route]);
        let session = write::Session {
            peer_asn: 65001,
            local_asn: 65002,
            ifindex: 0,
            peer: "192.0.2.1".parse().unwrap(),
            local: "192.0.2.2".parse().unwrap(),
        };
        write::state_change(&mut file, time, &session, 5, 6);
        write::message(&mut file, time, &session, false, false, &hex::decode(KEEPALIVE).unwrap());
        file.extend_from_slice(&[0; 5]);
        let got = objects(&[], &file);
        let kinds: Vec<_> = got.iter().map(|o| o["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["RIB", "KEEPALIVE", "invalid"]);
        assert_eq!(got[0]["prefix"], "2001:db8::/32");
        assert_eq!(got[0]["next_hop"], "2001:db8::1");
        assert_eq!(got[0]["peer"], "192.0.2.1");
        assert_eq!(got[1]["timestamp"], 1_700_000_000.25);
        assert_eq!(got[1]["peer_asn"], 65001);
        assert!(decode_with(&[], &file).starts_with("1700000000.000000 192.0.2.1 AS65001: RIB "));
    }

    #[test]
    fn compressed_files_are_named() {
        let Cli { json: _, args } = clap::Parser::try_parse_from(["decode", "-"]).unwrap();
        let mut out = Output { json: true, out: Vec::new() };
        let error = decode_input(&args, &[0x1F, 0x8B, 8, 0][..], &mut out).unwrap_err();
        assert!(error.to_string().contains("zcat"));
    }
}
