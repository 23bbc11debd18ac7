//! What the command prints.

use std::{fs, path::Path};

use bytes::BytesMut;
use serde_json::Value;

use super::*;
use crate::bgp::{
    mrt::write,
    wire::{PathAttributes, WireNextHop},
};

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
    let octets: Vec<_> = ::hex::decode(KEEPALIVE).unwrap().iter().map(|b| format!("{b:02x}")).collect();
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
    write::message(&mut file, time, &session, false, false, &::hex::decode(KEEPALIVE).unwrap());
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
