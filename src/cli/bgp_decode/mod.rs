//! `slash32 bgp decode`: what is in BGP messages, and what a speaker makes of them.
//!
//! Input is hexadecimal lines, MRT or a packet capture, told apart by their first octets. Each message gives one line, in
//! order, with `--json` an object; docs/bgp-decode.md describes its keys.

mod capture;
mod hex;
mod mrt;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;
use flate2::bufread::MultiGzDecoder;
use serde::Serialize;

use crate::bgp::{
    capture::PacketReader,
    mrt::MrtReader,
    wire::{DecodeContext, Description, PeerKind, PerFamily},
};

/// Decode BGP messages: hexadecimal lines, MRT files, packet captures
///
/// Reads hexadecimal text (a whole message a line, header included; blanks, colons and `#` comments are allowed), MRT
/// (BGP4MP, TABLE_DUMP and TABLE_DUMP_V2) or pcap and pcapng, whichever the file is, also compressed by gzip, and prints a line for each message,
/// or an object with --json. Every error is shown with what RFC 7606 demands for it; none stops the rest.
///
/// The disposition is the strongest of the errors' actions: ok (no error), discard (of an attribute or a capability),
/// withdraw (the announced prefixes count as withdrawn) or reset (a NOTIFICATION ends the session). The keys of the JSON
/// are described in docs/bgp-decode.md.
#[derive(Args, Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(super) struct DecodeArgs {
    /// The messages come from an external peer (the default, unless MRT or the OPENs of a capture say otherwise)
    #[arg(long, conflicts_with = "ibgp")]
    ebgp: bool,
    /// The messages come from an internal peer
    #[arg(long)]
    ibgp: bool,
    /// AS numbers have two octets; MRT and the OPENs of a capture say so themselves
    #[arg(long)]
    as2: bool,
    /// Prefixes have path identifiers (RFC 7911); MRT and the OPENs of a capture say so themselves
    #[arg(long)]
    add_path: bool,
    /// Allow messages of more than 4096 octets (RFC 8654); always for MRT, and when the OPENs of a capture say so
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
    let mut out = Output { json, out: BufWriter::new(io::stdout().lock()), failed: false, notes: Vec::new() };
    let done = decode_input(args, input, &mut out).and_then(|()| out.flush().map_err(anyhow::Error::from));
    for note in &out.notes {
        eprintln!("{note}");
    }
    match done {
        // Whoever reads has had enough.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        Err(error) if out.failed => Err(error.context("cannot write the result")),
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
    input.by_ref().take(2).read_to_end(&mut head)?;
    let gzip = head == GZIP;
    let whole = io::Cursor::new(head).chain(input);
    if gzip {
        // Files are often written in pieces, each compressed by itself.
        decode_plain(args, MultiGzDecoder::new(BufReader::new(whole)), out)
    } else {
        decode_plain(args, whole, out)
    }
}

fn decode_plain<W: Write>(
    args: &DecodeArgs,
    mut input: impl Read,
    out: &mut Output<W>,
) -> anyhow::Result<()> {
    let mut head = Vec::new();
    input.by_ref().take(12).read_to_end(&mut head)?;
    let whole = BufReader::new(io::Cursor::new(head.clone()).chain(input));
    if PacketReader::<io::Empty>::looks_like(&head) {
        capture::decode(args, whole, out)
    } else if MrtReader::<io::Empty>::looks_like(&head) {
        mrt::decode(args, whole, out)
    } else if [&GZIP[..], b"BZh", b"\xFD7zXZ", b"\x28\xB5\x2F\xFD"].iter().any(|m| head.starts_with(m)) {
        anyhow::bail!("the file is compressed: use `bzcat FILE | slash32 bgp decode -`, or xzcat, zstdcat")
    } else {
        hex::decode(context(args), whole, out)
    }
}

/// How a file compressed by gzip begins (RFC 1952 section 2.3.1).
const GZIP: [u8; 2] = [0x1F, 0x8B];

struct Output<W: Write> {
    json: bool,
    out: W,
    /// It was writing that failed.
    failed: bool,
    notes: Vec<String>,
}

impl<W: Write> Output<W> {
    fn line(&mut self, line: &(impl Serialize + std::fmt::Display)) -> io::Result<()> {
        let written = if self.json {
            let written = serde_json::to_writer(&mut self.out, line).map_err(io::Error::from);
            written.and_then(|()| self.out.write_all(b"\n"))
        } else {
            writeln!(self.out, "{line}")
        };
        self.failed |= written.is_err();
        written
    }

    /// For people, beside the messages: what of the input gave none.
    fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.out.flush();
        self.failed |= flushed.is_err();
        flushed
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
