//! `slash32 policy show|explain`.

use std::{fmt::Write, process::ExitCode};

use clap::Subcommand;
use serde_json::Value;

use super::{Global, print};
use crate::api::Request;

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// The policies in force and the endpoints they select.
    Show {
        /// The compiled nftables ruleset.
        #[arg(long)]
        nft: bool,
    },
    /// Each rule that a packet would meet, and the verdict.
    Explain {
        /// Source: endpoint id, container id or address.
        src: String,
        /// Destination: endpoint id, container id or address.
        dst: String,
        /// `tcp/80`, `udp/53`, `icmp` …
        service: String,
    },
}

pub(super) fn run(global: &Global, command: PolicyCommand) -> anyhow::Result<ExitCode> {
    match command {
        PolicyCommand::Show { nft: true } => {
            global.show(&Request::PolicyShow { nft: true }, print::plain)?;
        }
        PolicyCommand::Show { nft: false } => {
            global.show(&Request::PolicyShow { nft: false }, |value| {
                let mut text = print::table(
                    &value["policies"],
                    &[
                        ("ORDER", |p| print::field(p, "order")),
                        ("POLICY", |p| print::field(p, "name")),
                        ("SELECT", |p| print::field(p, "select")),
                        ("INGRESS", |p| print::field(p, "ingress_rules")),
                        ("EGRESS", |p| print::field(p, "egress_rules")),
                        ("ENDPOINTS", |p| print::field(p, "endpoints")),
                        ("FILE", |p| print::field(p, "file")),
                    ],
                    "no policies",
                );
                for error in value["errors"].as_array().into_iter().flatten() {
                    let _ = writeln!(text, "\n{}", print::plain(error));
                }
                text
            })?;
        }
        PolicyCommand::Explain { src, dst, service } => {
            global.show(&Request::PolicyExplain { src, dst, service }, explanation)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn explanation(answer: &Value) -> String {
    let verdict = if answer["allowed"] == true { "ALLOWED" } else { "DENIED" };
    let flow = &answer["flow"];
    let mut text = format!(
        "{verdict}: {} -> {}, {}\n",
        party(&flow["source"], &answer["source"]),
        party(&flow["destination"], &answer["destination"]),
        print::field(answer, "reason")
    );
    for side in ["egress", "ingress"].map(|name| &answer[name]).into_iter().filter(|side| side.is_object()) {
        let place = if side["enforced_here"] == true {
            "enforced on this host"
        } else {
            "enforced on the other host"
        };
        let _ = writeln!(
            text,
            "\n{} ({place}): {}: {}",
            print::field(side, "direction"),
            if side["allowed"] == true { "allowed" } else { "denied" },
            print::field(side, "decided_by")
        );
        for tier in side["tiers"].as_array().into_iter().flatten() {
            let _ =
                writeln!(text, "  tier {}: {}", print::field(tier, "tier"), print::field(tier, "outcome"));
            for rule in tier["rules"].as_array().into_iter().flatten() {
                let mark = if rule["matched"] == true { "->" } else { "  " };
                let because = rule["because"].as_str().unwrap_or_default();
                let _ = writeln!(
                    text,
                    "  {mark} {} rule {} ({}) {}{}{because}",
                    print::field(rule, "policy"),
                    print::field(rule, "rule"),
                    print::field(rule, "action"),
                    if rule["matched"] == true { "matched" } else { "did not match" },
                    if because.is_empty() { "" } else { ": " },
                );
            }
        }
    }
    text
}

/// An address and who it is.
fn party(address: &Value, who: &Value) -> String {
    let address = print::plain(address);
    match who["kind"].as_str() {
        Some("local") => format!("{address} ({} {})", print::field(who, "id"), print::field(who, "labels")),
        Some(kind) => format!("{address} ({kind})"),
        None => address,
    }
}
