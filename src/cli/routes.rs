//! `slash32 routes [verify]`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Global, print};
use crate::api::Request;

#[derive(Debug, Args)]
pub(super) struct RoutesArgs {
    #[command(subcommand)]
    command: Option<RoutesCommand>,
}

#[derive(Debug, Subcommand)]
enum RoutesCommand {
    /// Compare the kernel with the intent; exit code 3 on any difference.
    Verify,
}

pub(super) fn run(global: &Global, args: &RoutesArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        None => {
            global.show(&Request::Routes, |routes| {
                print::table(
                    routes,
                    &[
                        ("PREFIX", |r| print::field(r, "prefix")),
                        ("KIND", |r| print::field(r, "kind")),
                        ("NEXT HOP", next_hops),
                        ("KERNEL", |r| {
                            if r["installed"] == true { "installed" } else { "missing" }.to_owned()
                        }),
                        ("NOTE", note),
                    ],
                    "no routes",
                )
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Some(RoutesCommand::Verify) => {
            let value = global.call(&Request::RoutesVerify)?;
            global.print(&value, |differences| {
                print::table(
                    differences,
                    &[
                        ("WHAT", |d| print::field(d, "what")),
                        ("DIFFERENCE", |d| print::field(d, "kind")),
                        ("DETAIL", |d| print::field(d, "detail")),
                    ],
                    "the kernel is as intended",
                )
            });
            Ok(ExitCode::from(if value.as_array().is_some_and(|d| !d.is_empty()) { 3 } else { 0 }))
        }
    }
}

/// Each next hop with its link; one that is further away with the first hops that lead there.
fn next_hops(route: &Value) -> String {
    let hop = |hop: &Value| {
        let ways = hop["via"].as_array().map_or(&[][..], Vec::as_slice);
        let way = |way: &Value| {
            let unused = if way["usable"] == false { " unused" } else { "" };
            format!("dev {}{unused}", print::field(way, "interface"))
        };
        let Some(gateway) = hop["gateway"].as_str() else {
            return format!("dev {}", print::field(hop, "interface"));
        };
        let first_hops = match ways {
            [] if hop["interface"].is_string() => format!(" dev {}", print::field(hop, "interface")),
            [] => String::new(),
            [one] if one["gateway"] == gateway => format!(" {}", way(one)),
            several => {
                let list = several.iter().map(|w| format!("{} {}", print::field(w, "gateway"), way(w)));
                format!(" ({})", list.collect::<Vec<_>>().join(", "))
            }
        };
        format!("via {gateway}{first_hops}")
    };
    let hops: Vec<String> = route["next_hops"].as_array().into_iter().flatten().map(hop).collect();
    if hops.is_empty() { "-".to_owned() } else { hops.join(", ") }
}

/// Why it is not in the kernel, or what else is to be known.
fn note(route: &Value) -> String {
    let stale = (route["stale"] == true).then(|| "stale".to_owned());
    let detail = route["detail"].as_str().or_else(|| route["reason"].as_str()).map(str::to_owned);
    let foreign = route["foreign"]
        .is_object()
        .then(|| format!("route of protocol {} is in the way", route["foreign"]["protocol"]));
    let notes: Vec<String> = stale.into_iter().chain(detail).chain(foreign).collect();
    if notes.is_empty() { "-".to_owned() } else { notes.join("; ") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn next_hops_name_the_links() {
        let show = |hops: Value| next_hops(&json!({ "next_hops": hops }));
        let way = |gateway: &str, usable: bool| json!({ "gateway": gateway, "interface": "eth0", "usable": usable });
        assert_eq!(show(json!([])), "-");
        assert_eq!(show(json!([{ "interface": "s32a" }])), "dev s32a");
        assert_eq!(
            show(json!([{ "gateway": "192.0.2.0", "via": [way("192.0.2.0", true)] }])),
            "via 192.0.2.0 dev eth0"
        );
        assert_eq!(show(json!([{ "gateway": "192.0.2.0" }])), "via 192.0.2.0");
        assert_eq!(show(json!([{ "gateway": "fe80::1", "interface": "eth1" }])), "via fe80::1 dev eth1");
        assert_eq!(
            show(
                json!([{ "gateway": "203.0.113.1", "via": [way("192.0.2.0", true), way("192.0.2.2", false)] }])
            ),
            "via 203.0.113.1 (192.0.2.0 dev eth0, 192.0.2.2 dev eth0 unused)"
        );
    }
}
