//! `slash32 bgp peers|rib|explain|clear|decode`, `slash32 peers` and `slash32 bfd`.

use std::{fmt::Write, process::ExitCode};

use clap::Subcommand;
use serde_json::Value;

use super::{Global, bgp_decode, bgp_peer, print};
use crate::{
    api::{Request, RibQuery},
    model::Prefix,
};

#[derive(Debug, Subcommand)]
pub(super) enum BgpCommand {
    /// Neighbours and their sessions.
    Peers {
        /// Everything about this one: its session, and why routes of it are missing.
        peer: Option<String>,
    },
    /// BMP collectors and their connections.
    Collectors,
    /// Routes of the RIB; `*>` marks the best path, `*=` further paths of a multipath.
    Rib {
        /// Only this prefix.
        prefix: Option<Prefix>,
        /// More specific prefixes too.
        #[arg(long, requires = "prefix")]
        longer: bool,
        /// What this neighbour sent, after import rules.
        #[arg(long, value_name = "PEER", conflicts_with = "advertised")]
        received: Option<String>,
        /// What we send to this neighbour, after export rules.
        #[arg(long, value_name = "PEER")]
        advertised: Option<String>,
        /// At most so many routes (0: all).
        #[arg(long, default_value_t = 0)]
        limit: usize,
    },
    /// Why the best path to a prefix won, step by step.
    Explain {
        /// A prefix, or an address for its longest match.
        prefix: Prefix,
    },
    /// Reset a session.
    Clear {
        /// The neighbour's address or interface, `*` for all.
        peer: String,
        /// Ask for the routes again and send ours again, without closing the session.
        #[arg(long)]
        soft: bool,
    },
    /// Write the RIB into a file as MRT (TABLE_DUMP_V2, RFC 6396): every path, after import rules.
    DumpMrt {
        /// The file; the agent writes it, and it is there as a whole or not at all.
        file: std::path::PathBuf,
    },
    /// Decode BGP messages from hex lines, MRT or pcap, with the speaker's own codec.
    Decode(bgp_decode::DecodeArgs),
}

pub(super) fn run(global: &Global, command: BgpCommand) -> anyhow::Result<ExitCode> {
    match command {
        BgpCommand::Peers { peer } => return peers(global, peer.as_deref()),
        BgpCommand::Collectors => collectors(global)?,
        BgpCommand::Rib { prefix, longer, received, advertised, limit } => {
            let query = RibQuery { prefix, longer, received, advertised, limit };
            global.show(&Request::Rib(query), rib)?;
        }
        BgpCommand::Explain { prefix } => global.show(&Request::Explain { prefix }, explain)?,
        BgpCommand::Clear { peer, soft } => {
            global.show(&Request::ClearPeer { peer, soft }, |answer| {
                format!(
                    "{} session(s) {}",
                    print::field(answer, "count"),
                    if soft { "refreshed" } else { "reset" }
                )
            })?;
        }
        BgpCommand::DumpMrt { file } => {
            let file = std::path::absolute(file)?;
            global.show(&Request::DumpMrt { file }, |answer| {
                let field = |name| print::field(answer, name);
                format!(
                    "{} routes to {} prefixes written to {}",
                    field("routes"),
                    field("prefixes"),
                    field("file")
                )
            })?;
        }
        BgpCommand::Decode(args) => return bgp_decode::run(&args, global.json),
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn peers(global: &Global, peer: Option<&str>) -> anyhow::Result<ExitCode> {
    let peers = global.call(&Request::Peers)?;
    let Some(name) = peer else {
        global.print(&peers, peer_table);
        return Ok(ExitCode::SUCCESS);
    };
    let found = (peers.as_array().into_iter().flatten()).find(|p| p["peer"] == name || p["address"] == name);
    let Some(found) = found else {
        anyhow::bail!("there is no neighbour {name}\n`slash32 peers` lists them");
    };
    global.print(found, bgp_peer::page);
    Ok(ExitCode::SUCCESS)
}

fn collectors(global: &Global) -> anyhow::Result<()> {
    global.show(&Request::Collectors, |collectors| {
        print::table(
            collectors,
            &[
                ("COLLECTOR", |c| print::field(c, "collector")),
                ("STATE", |c| print::field(c, "state")),
                ("UP", |c| c["uptime_seconds"].as_u64().map_or_else(|| "-".to_owned(), print::duration)),
                ("TABLES", |c| print::field(c, "tables")),
                ("MESSAGES", |c| print::field(c, "messages_sent")),
                ("BYTES", |c| print::field(c, "bytes_sent")),
                ("WAITING", |c| print::field(c, "bytes_waiting")),
                ("MERGED", |c| print::field(c, "changes_waiting")),
                ("LAST ERROR", |c| print::field(c, "last_error")),
            ],
            "no collectors: add [[bgp.bmp]] to the configuration",
        )
    })
}

fn peer_table(peers: &Value) -> String {
    print::table(
        peers,
        &[
            ("NEIGHBOR", |p| print::field(p, "peer")),
            ("AS", |p| print::field(p, "asn")),
            ("UP/DOWN", |p| p["uptime_seconds"].as_u64().map_or_else(|| "never".to_owned(), print::duration)),
            ("STATE/PFXRCD", |p| {
                if p["state"] != "Established" {
                    // In the words of other routers: the limit of prefixes keeps it there.
                    let why = if bgp_peer::is_over_limit(p) { " (PfxCt)" } else { "" };
                    format!("{}{why}", print::field(p, "state"))
                } else if bgp_peer::is_near_limit(p) {
                    format!("{} (near limit)", print::field(p, "prefixes_received"))
                } else {
                    print::field(p, "prefixes_received")
                }
            }),
            ("PFXSNT", |p| print::field(p, "prefixes_sent")),
            ("AUTH", |p| print::field(p, "authentication")),
            ("DESCRIPTION", |p| print::field(p, "description")),
            // What was before the session that there is, `slash32 peers PEER` tells, with its time.
            ("LAST ERROR", |p| match p["state"].as_str() {
                Some("Established") => "-".to_owned(),
                _ => print::field(p, "last_error"),
            }),
        ],
        "no neighbours: add [[bgp.peer]] to the configuration",
    )
}

pub(super) fn bfd(global: &Global) -> anyhow::Result<()> {
    global.show(&Request::Bfd, |sessions| {
        print::table(
            sessions,
            &[
                ("NEIGHBOR", |s| print::field(s, "peer")),
                ("STATE", |s| print::field(s, "state")),
                ("INTERVAL", |s| print::field(s, "interval_ms")),
                ("DETECT", |s| print::field(s, "detection_ms")),
                ("DIAGNOSTIC", |s| print::field(s, "diagnostic")),
            ],
            "no BFD sessions",
        )
    })
}

fn rib(routes: &Value) -> String {
    print::table(
        routes,
        &[
            ("", |r| {
                match (r["best"] == true, r["multipath"] == true, r["unreachable"] == true) {
                    (true, ..) => "*>",
                    (_, true, _) => "*=",
                    (.., true) => "  ",
                    _ => "* ",
                }
                .to_owned()
            }),
            ("PREFIX", |r| print::field(r, "prefix")),
            ("NEXT HOP", |r| print::field(r, "next_hop")),
            ("FROM", |r| print::field(r, "peer")),
            ("PREF", |r| print::field(r, "local_pref")),
            ("MED", |r| print::field(r, "med")),
            ("AS PATH", |r| {
                // The origin in the letters of other routers' tables.
                let origin = match r["origin"].as_str() {
                    Some("igp") => "i",
                    Some("egp") => "e",
                    _ => "?",
                };
                match print::field(r, "as_path") {
                    path if path == "-" => origin.to_owned(),
                    path => format!("{path} {origin}"),
                }
            }),
            ("COMMUNITIES", |r| print::field(r, "communities")),
            ("LABELS", |r| match r["identity"].as_array().map_or(0, Vec::len) {
                0 => "-".to_owned(),
                hashes => format!("{hashes} hashes"),
            }),
        ],
        "no routes",
    )
}

fn explain(answer: &Value) -> String {
    let mut text = format!("{}: {}\n", print::field(answer, "prefix"), print::field(answer, "verdict"));
    for path in answer["paths"].as_array().into_iter().flatten() {
        let mark = match (path["best"] == true, path["multipath"] == true) {
            (true, _) => "*>",
            (_, true) => "*=",
            _ => "  ",
        };
        let (peer, next_hop) = (print::field(path, "peer"), print::field(path, "next_hop"));
        let _ = match peer.as_str() {
            "-" => writeln!(text, "{mark} ours"),
            peer => writeln!(text, "{mark} from {peer} via {next_hop}"),
        };
        let _ = writeln!(
            text,
            "     local preference {}, AS path {}, MED {}",
            print::field(path, "local_pref"),
            print::field(path, "as_path"),
            print::field(path, "med")
        );
        if let Some(reason) = path["lost"]["reason"].as_str() {
            let _ = writeln!(text, "     {reason}");
        }
    }
    let peers = print::field(answer, "advertised_to");
    if peers != "-" {
        let _ = writeln!(text, "advertised to {peers}");
    }
    let kernel = &answer["kernel"];
    if kernel["installed"] == false {
        let why = kernel["detail"].as_str().or_else(|| kernel["reason"].as_str());
        let _ = writeln!(text, "not in the kernel: {}", why.unwrap_or("it is still to be written"));
    } else if kernel["foreign"].is_object() {
        let protocol = &kernel["foreign"]["protocol"];
        let _ = writeln!(text, "in the kernel, which prefers a route of protocol {protocol}");
    } else if kernel["installed"] == true {
        let _ = writeln!(text, "in the kernel");
    }
    text
}
