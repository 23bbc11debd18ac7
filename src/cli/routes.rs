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

fn next_hops(route: &Value) -> String {
    let hop = |hop: &Value| {
        let gateway = hop["gateway"].as_str().map(|g| format!("via {g}"));
        let interface = hop["interface"].as_str().or_else(|| hop["via"][0]["interface"].as_str());
        let device = interface.map(|dev| format!("dev {dev}"));
        gateway.into_iter().chain(device).collect::<Vec<_>>().join(" ")
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
