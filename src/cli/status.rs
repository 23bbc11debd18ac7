//! `slash32 status`, `reload`, `drain` and `stop`.

use std::{fmt::Write, process::ExitCode};

use serde_json::Value;

use super::{Global, print};
use crate::api::{Request, ShutdownMode};

/// One page: exit code 1 when the agent is not ready, so that scripts can wait for it.
pub(super) fn run(global: &Global) -> anyhow::Result<ExitCode> {
    let value = global.call(&Request::Status)?;
    global.print(&value, page);
    Ok(if value["ready"] == true { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn page(status: &Value) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<12}{value}");
    };
    let field = |name| print::field(status, name);
    line("slash32", format!("{} on {}, {}", field("version"), field("hostname"), ready(status)));
    line("up", print::duration(status["uptime_seconds"].as_u64().unwrap_or(0)));
    line("config", field("config"));
    line("speaker", format!("AS {}, router id {}", field("asn"), field("router_id")));
    let (up, all) = (&status["peers_established"], &status["peers"]);
    line("peers", format!("{} of {} established", print::plain(up), print::plain(all)));
    line("endpoints", field("endpoints"));
    line(
        "routes",
        format!("{} learned, {} in the kernel", field("routes_learned"), field("routes_installed")),
    );
    line("policies", field("policies"));
    let kept = &status["identities_kept"];
    if kept["count"].as_u64().is_some_and(|count| count > 0) {
        let oldest = print::duration(kept["oldest_seconds"].as_u64().unwrap_or(0));
        let count = print::field(kept, "count");
        line("identities", format!("{count} kept of lost sessions, the oldest for {oldest}"));
    }
    for problem in status["problems"].as_array().into_iter().flatten() {
        line("attention", print::plain(problem));
    }
    text
}

fn ready(status: &Value) -> &'static str {
    if status["ready"] == true { "ready" } else { "not ready" }
}

/// Reads configuration and policies again; the answer says what changed and what it reset.
pub(super) fn reload(global: &Global) -> anyhow::Result<()> {
    global.show(&Request::Reload, |answer| {
        let changes = answer["changes"].as_array().map_or(&[][..], Vec::as_slice);
        if changes.is_empty() {
            return "nothing changed".to_owned();
        }
        changes.iter().map(print::plain).collect::<Vec<_>>().join("\n")
    })
}

pub(super) fn drain(global: &Global, on: bool) -> anyhow::Result<()> {
    global.show(&Request::Drain { on }, |_| {
        if on { "draining: announcing with GRACEFUL_SHUTDOWN" } else { "no longer draining" }.to_owned()
    })
}

pub(super) fn stop(global: &Global, restart: bool) -> anyhow::Result<()> {
    let mode = if restart { ShutdownMode::Restart } else { ShutdownMode::Leave };
    global.show(&Request::Shutdown { mode }, |_| "stopping".to_owned())
}
