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
    let mut out = Output { json, out: Vec::new(), failed: false, notes: Vec::new() };
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

/// What each RFC demands, a message a line, judged by hand and not by this code. `errors` are action, code, subcode and
/// attribute, left out where the RFC leaves a choice; `expect` are JSON pointers and what is there, null for nothing.
#[test]
fn cases_from_the_rfcs() {
    let text = include_str!("../../../tests/golden/bgp/cases.jsonl");
    let mut wrong = Vec::new();
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let options: Vec<_> =
            case["options"].as_array().unwrap().iter().map(|o| o.as_str().unwrap()).collect();
        let got = objects(&options, case["hex"].as_str().unwrap().as_bytes());
        let [got] = &got[..] else { panic!("{} gives {} lines", case["name"], got.len()) };
        let errors: Value = got["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| serde_json::json!([e["action"], e["code"], e["subcode"], e["attribute"]]))
            .collect();
        let mut differ = got["disposition"] != case["disposition"];
        differ |= case.get("errors").is_some_and(|e| *e != errors);
        for (pointer, wanted) in case.get("expect").and_then(Value::as_object).into_iter().flatten() {
            differ |= got.pointer(pointer).unwrap_or(&Value::Null) != wanted;
        }
        if differ {
            wrong.push(format!("{}: {} {errors}", case["name"], got["disposition"]));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(text.lines().count() > 480);
}

const KEEPALIVE: &str = "ffffffffffffffffffffffffffffffff001304";

#[test]
fn odd_lines() {
    let input = [
        b"\xEF\xBB\xBF".as_slice(),
        KEEPALIVE.as_bytes(),
        b"\n0x\n:\n\x00\n\xFF\xFE\n \t\r\n0X",
        KEEPALIVE.as_bytes(),
    ]
    .concat();
    let got = objects(&[], &input);
    let lines: Vec<_> = got.iter().map(|o| (o["line"].as_u64().unwrap(), o["disposition"] == "ok")).collect();
    assert_eq!(lines, [(1, true), (2, false), (3, false), (4, false), (5, false), (7, true)]);
}

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
    write::message(
        &mut file,
        time,
        &session,
        false,
        write::Encoding::default(),
        &::hex::decode(KEEPALIVE).unwrap(),
    );
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

/// A pcap file of raw IPv4 packets between 10.0.0.1:179 and 10.0.0.2:40000, each with a message.
fn pcap(messages: &[(bool, String)]) -> Vec<u8> {
    let mut file = ::hex::decode("a1b2c3d400020004000000000000000000040000000000e4").unwrap();
    let mut sequence = [1_u32; 2];
    for (i, (back, message)) in messages.iter().enumerate() {
        let message = ::hex::decode(message).unwrap();
        let ends = if *back { "0a0000020a0000019c4000b3" } else { "0a0000010a00000200b39c40" };
        let next = &mut sequence[usize::from(*back)];
        let packet = format!(
            "4500{:04x}0000000040060000{ends}{next:08x}0000000050000000000000000",
            message.len() + 40
        );
        *next += message.len() as u32;
        let packet = [::hex::decode(&packet[..80]).unwrap(), message].concat();
        for word in [i as u32, 0, packet.len() as u32, packet.len() as u32] {
            file.extend(word.to_be_bytes());
        }
        file.extend(packet);
    }
    file
}

#[test]
fn captures_tell_what_was_negotiated() {
    let open = |capabilities: &str, id: u8| {
        let n = capabilities.len() / 2;
        let body = format!("04fde900b40a0000{id:02x}{:02x}02{n:02x}{capabilities}", n + 2);
        format!("{}{:04x}01{body}", "ff".repeat(16), 19 + body.len() / 2)
    };
    let update = |path: &str, nlri: &str| {
        let attributes = format!("40010100{path}400304c000020140050400000064");
        let body = format!("0000{:04x}{attributes}{nlri}", attributes.len() / 2);
        format!("{}{:04x}02{body}", "ff".repeat(16), 19 + body.len() / 2)
    };
    let as4 = update("40020602010000fde9", "080a");
    let as2 = update("4002040201fde9", "080a");
    let path_id = update("40020602010000fde9", "00000007080a");
    let last = |options: &[&str], ours: &str, theirs: &str, message: &String| {
        let file = pcap(&[(false, open(theirs, 1)), (true, open(ours, 2)), (false, message.clone())]);
        let got = objects(options, &file);
        assert_eq!(got.len(), 3);
        got[2]["disposition"].as_str().unwrap().to_owned()
    };
    let four = "41040000fde9";
    // One AS with two identifiers is iBGP, unless told otherwise.
    assert_eq!(last(&[], four, four, &as4), "ok");
    assert_eq!(last(&["--ebgp"], four, four, &as4), "discard");
    assert_eq!(last(&[], "0200", four, &as2), "ok");
    // The sender sends and the receiver receives: not the other way round.
    assert_eq!(last(&[], &format!("{four}450400010101"), &format!("{four}450400010102"), &path_id), "ok");
    assert_eq!(last(&[], &format!("{four}450400010102"), &format!("{four}450400010101"), &as4), "ok");
    // OPENs without capabilities: two octets (RFC 6793 section 3), unless only four make sense.
    assert_eq!(last(&[], "", "", &as2), "ok");
    assert_eq!(last(&[], "", "", &as4), "ok");
    // One OPEN that lacks the capability is enough to know.
    let half = pcap(&[(false, open("0200", 1)), (true, as2.clone())]);
    assert_eq!(objects(&["--ibgp"], &half)[1]["disposition"], "ok");
    // Who has advertised it takes extended messages (RFC 8654 section 4), whatever the sender takes.
    let long = update(&format!("40020602010000fde9d063{:04x}{}", 4400, "00".repeat(4400)), "080a");
    assert_eq!(last(&[], &format!("{four}0600"), four, &long), "ok");
    assert_eq!(last(&[], four, &format!("{four}0600"), &long), "reset");
    // Without OPENs the command line alone counts.
    assert_eq!(objects(&["--ibgp"], &pcap(&[(false, as4)]))[0]["disposition"], "ok");
}

#[test]
fn a_cut_capture_gives_what_is_there_first() {
    let mut file = pcap(&[(false, KEEPALIVE.to_owned()), (true, KEEPALIVE.to_owned())]);
    file.truncate(file.len() - 3);
    let kinds: Vec<_> = objects(&[], &file).iter().map(|o| o["type"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds, ["KEEPALIVE", "invalid"]);
}

#[test]
fn mrt_of_internal_peers_and_other_families() {
    let update = "ffffffffffffffffffffffffffffffff0034020000001b4001010040020602010000fde9400304c000020140050400000064080a";
    let mut file = Vec::new();
    for (kind, subtype, body) in [
        (16, 4, format!("0000fde90000fde900000001c0000201c0000202{update}")),
        (16, 4, format!("0000fde90000fdea00000001c0000201c0000202{update}")),
        (13, 6, "00000005000180 70".replace(' ', "")),
        (13, 3, "0000000604e00001000000000001000440010100".replace(' ', "")),
    ] {
        let body = ::hex::decode(body).unwrap();
        for word in [1_u32, kind << 16 | subtype, body.len() as u32] {
            file.extend(word.to_be_bytes());
        }
        file.extend(body);
    }
    let shown = |options: &[&str]| -> Vec<_> {
        objects(options, &file).iter().map(|o| o["disposition"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(shown(&[]), ["ok", "discard", "discard", "withdraw"]);
    assert_eq!(shown(&["--ebgp"])[0], "discard");
    let got = objects(&[], &file);
    assert_eq!(
        (&got[2]["type"], &got[2]["safi"], &got[2]["raw"]),
        (&"RIB".into(), &128.into(), &"70".into())
    );
}

#[test]
fn compressed_files_are_named() {
    let Cli { json: _, args } = clap::Parser::try_parse_from(["decode", "-"]).unwrap();
    let mut out = Output { json: true, out: Vec::new(), failed: false, notes: Vec::new() };
    let error = decode_input(&args, &b"BZh9"[..], &mut out).unwrap_err();
    assert!(error.to_string().contains("bzcat"));
}

/// What cannot be made sense of in a table dump is told with its place, and a file of unknown records is no text.
#[test]
fn mrt_records_have_their_place() {
    let record = |kind: u32, subtype: u32, body: &str| {
        let body = ::hex::decode(body.replace(' ', "")).unwrap();
        let words = [0x6500_0000, kind << 16 | subtype, body.len() as u32];
        [words.iter().flat_map(|w| w.to_be_bytes()).collect(), body].concat()
    };
    let attributes = "40010100 40020602010000fde9 400304c0000201";
    let rib = format!("00000001 08 0a 0001 0007 00000000 0014 {attributes}");
    // RFC 8050 section 4.2, and as others write it.
    let generic = format!("00000001 0001 01 0000004d 08 0a 0001 0007 00000000 0014 {attributes}");
    let other = format!("00000001 0001 01 08 0a 0001 0007 00000000 0000004d 0014 {attributes}");
    let peers = format!("0a000001 0000 0008{}", "00 0a000001 c0000201 fde9".repeat(8));
    let file = [
        record(13, 2, &rib),
        record(13, 12, &generic),
        record(13, 1, &peers),
        record(13, 12, &other),
        record(13, 2, "00000001 21"),
        record(13, 2, &rib.replace("0001 0007", "0001 0008")),
        vec![0; 5],
    ]
    .concat();
    let got = objects(&[], &file);
    let records: Vec<_> = got.iter().map(|o| o["record"].as_u64()).collect();
    assert_eq!(records, [Some(1), Some(2), Some(4), Some(5), Some(6), None]);
    let reason = |i: usize| got[i]["errors"][0]["reason"].as_str().unwrap_or_default().to_owned();
    assert_eq!(reason(0), "no peer index table has come before");
    assert_eq!(got[0]["errors"][0]["offset"], 20);
    assert_eq!((&got[1]["path_id"], &got[1]["prefix"]), (&77.into(), &"10.0.0.0/8".into()));
    assert_eq!((&got[2]["path_id"], &got[2]["disposition"]), (&77.into(), &"ok".into()));
    assert_eq!(got[2]["peer"], "192.0.2.1");
    assert!(reason(3).contains("of type 13, subtype 2, at octet "), "{}", reason(3));
    assert_eq!(reason(4), "there is no peer 8 among the 8 of the peer index table");
    assert!(reason(5).contains("record 7, at octet "), "{}", reason(5));

    // The collector's own, as BIRD writes what its filters have set; from a peer it is an error of the dump.
    for (asn, disposition, med) in [("0000", "ok", 5.into()), ("fde9", "withdraw", Value::Null)] {
        let peers = record(13, 1, &format!("0a000001 0000 0001 00 0a000001 c0000201 {asn}"));
        let rib = record(13, 2, "00000001 08 0a 0001 0000 00000000 000e 00040400000005 00050400000064");
        let got = &objects(&[], &[peers, rib].concat())[0];
        assert_eq!((&got["disposition"], &got["attributes"]["med"]), (&disposition.into(), &med));
    }

    let Cli { json: _, args } = clap::Parser::try_parse_from(["decode", "-"]).unwrap();
    let mut out = Output { json: true, out: Vec::new(), failed: false, notes: Vec::new() };
    decode_input(&args, &record(64, 3, "00").repeat(2)[..], &mut out).unwrap();
    assert_eq!(out.notes, ["2 records of type 64, subtype 3, which is not known, were passed over"]);
    assert!(out.out.is_empty());
    let mut out = Output { json: true, out: Vec::new(), failed: false, notes: Vec::new() };
    decode_input(&args, &pcap(&[])[..], &mut out).unwrap();
    assert_eq!(out.notes, ["none of 0 packets is of TCP port 179 (--port for another one)"]);
}

/// Compressed by gzip, also in several pieces one after another, it is read as if it were not; cut, what is there is.
#[test]
fn gzip_is_read() {
    let gzip = |text: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    };
    let keepalive = format!("{}001304\n", "ff".repeat(16));
    let twice = [gzip(keepalive.as_bytes()), gzip(keepalive.as_bytes())].concat();
    assert_eq!(objects(&[], &twice), objects(&[], keepalive.repeat(2).as_bytes()));
    let capture = pcap(&[(false, KEEPALIVE.to_owned())]);
    assert_eq!(objects(&[], &gzip(&capture)), objects(&[], &capture));
    let Cli { json: _, args } = clap::Parser::try_parse_from(["decode", "-"]).unwrap();
    let mut out = Output { json: true, out: Vec::new(), failed: false, notes: Vec::new() };
    let long = gzip(keepalive.repeat(10_000).as_bytes());
    decode_input(&args, &long[..long.len() / 2], &mut out).unwrap_err();
    assert!(!out.out.is_empty());
}
