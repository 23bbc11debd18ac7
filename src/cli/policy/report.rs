//! `slash32 policy matrix` and `diff`.

use std::{fmt::Write, net::IpAddr, path::Path, process::ExitCode};

use serde_json::{Value, json};

use super::offline::{files, load};
use crate::cli::Usage;
use crate::{
    api::Request,
    cli::{
        DIFFERENT, Global,
        print::{self, Unusable},
    },
    policy::{Flow, PolicySet, Protocol, expectations::HOST, explain::View, language, matrix::Here},
};

fn is_host(addr: IpAddr) -> bool {
    HOST.contains(&addr)
}

/// The host of a file of `policy test`, whose endpoints may be on any host.
fn here() -> Here {
    Here { addresses: HOST.to_vec(), endpoints_anywhere: true }
}

/// A service by its name.
pub(super) fn service(text: &str) -> Result<(Protocol, u16), Usage> {
    Flow::parse_service(text).ok_or_else(|| {
        Usage(format!(
            "`{text}` is not a service: write tcp/80, udp/53, sctp/5000, icmp, icmpv6 or icmp/TYPE/CODE"
        ))
    })
}

pub(super) fn matrix(global: &Global, service: Option<&str>, endpoints: Option<&Path>) -> anyhow::Result<()> {
    let wanted = service.map(self::service).transpose()?;
    let value = match endpoints {
        Some(path) => {
            let (test, engine) = load(path)?;
            let mut matrix = View::new(&engine, engine.policies(), &is_host).matrix(&here())?;
            for example in matrix.parties.iter_mut().flat_map(|p| &mut p.examples) {
                if let Some(endpoint) = test.endpoints.iter().find(|e| e.id.as_str() == example) {
                    example.clone_from(&endpoint.name);
                }
            }
            serde_json::to_value(matrix)?
        }
        None => global.call(&Request::PolicyMatrix)?,
    };
    let mut value = value;
    if let (Some((protocol, port)), Some(text)) = (wanted, service) {
        value["service"] = text.into();
        answer(&mut value, &|allowed| contains(allowed, &protocol.to_string(), port));
    }
    global.print(&value, |value| match wanted {
        None => list(value),
        Some((protocol, port)) => grid(value, &|allowed| contains(allowed, &protocol.to_string(), port)),
    });
    Ok(())
}

/// Says of each cell whether it holds the one service that was asked for.
fn answer(value: &mut Value, allowed: &dyn Fn(&str) -> bool) {
    for key in ["cells", "from_source_ports"] {
        for cell in value.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten() {
            let holds = allowed(cell["allowed"].as_str().unwrap_or_default());
            cell["service_allowed"] = holds.into();
        }
    }
}

fn list(value: &Value) -> String {
    let mut text = print::table(
        &value["parties"],
        &[
            ("PARTY", |p| print::field(p, "name")),
            ("ADDRESSES", |p| print::field(p, "addresses")),
            ("SUCH AS", |p| print::field(p, "examples")),
        ],
        "no endpoints",
    );
    let cells = print::table(
        &value["cells"],
        &[
            ("FROM", |c| print::field(c, "from")),
            ("TO", |c| print::field(c, "to")),
            ("FAMILY", |c| print::field(c, "families")),
            ("ALLOWED", |c| print::field(c, "allowed")),
        ],
        "",
    );
    let _ = write!(text, "\n{cells}");
    let others = print::table(
        &value["from_source_ports"],
        &[
            ("FROM", |c| print::field(c, "from")),
            ("FROM PORT", |c| print::field(c, "source_ports")),
            ("TO", |c| print::field(c, "to")),
            ("FAMILY", |c| print::field(c, "families")),
            ("ALLOWED", |c| print::field(c, "allowed")),
        ],
        "",
    );
    if value["from_source_ports"].as_array().is_some_and(|list| !list.is_empty()) {
        let _ = write!(text, "\nThe above is for connections from an ephemeral port. From others:\n{others}");
    }
    text
}

/// One line a source, one column a destination.
fn grid(value: &Value, allowed: &dyn Fn(&str) -> bool) -> String {
    let names: Vec<String> =
        value["parties"].as_array().into_iter().flatten().map(|p| print::field(p, "name")).collect();
    let cell = |from: &str, to: &str| {
        let cells = value["cells"].as_array().into_iter().flatten();
        let answers: Vec<bool> = cells
            .filter(|c| c["from"] == from && c["to"] == to)
            .map(|c| allowed(c["allowed"].as_str().unwrap_or_default()))
            .collect();
        match &answers[..] {
            [] => " ",
            list if list.iter().all(|a| *a) => "yes",
            list if list.iter().any(|a| *a) => "partly",
            _ => "-",
        }
        .to_owned()
    };
    let mut headings = vec!["FROM \\ TO".to_owned()];
    headings.extend((1..=names.len()).map(|n| n.to_string()));
    let row = |(n, from): (usize, &String)| {
        let mut row = vec![format!("{} {from}", n + 1)];
        row.extend(names.iter().map(|to| cell(from, to)));
        row
    };
    print::grid(&headings, &names.iter().enumerate().map(row).collect::<Vec<_>>())
}

/// Whether a printed set of services holds one.
fn contains(services: &str, protocol: &str, port: u16) -> bool {
    let (others, list) = match services.strip_prefix("everything") {
        Some(rest) => (true, rest.strip_prefix(" but ").unwrap_or_default()),
        None => (false, services),
    };
    let [kind, code] = port.to_be_bytes();
    let listed = list.split(", ").any(|part| {
        let Some(rest) = part.strip_prefix(protocol) else { return false };
        if let Some(range) = rest.strip_prefix('/') {
            let (low, high) = range.split_once('-').unwrap_or((range, range));
            return low.parse().is_ok_and(|low: u16| low <= port)
                && high.parse().is_ok_and(|high: u16| port <= high);
        }
        match rest.strip_prefix(" type ") {
            None => rest.is_empty(),
            Some(rest) => {
                if let Some((t, c)) = rest.split_once(" code ") {
                    return t.parse() == Ok(kind) && c.parse() == Ok(code);
                }
                let (low, high) = rest.split_once('-').unwrap_or((rest, rest));
                low.parse().is_ok_and(|low: u8| low <= kind) && high.parse().is_ok_and(|h: u8| kind <= h)
            }
        }
    });
    others != listed
}

pub(super) fn diff(
    global: &Global,
    first: &Path,
    second: Option<&Path>,
    endpoints: Option<&Path>,
) -> anyhow::Result<ExitCode> {
    let value = match (second, endpoints) {
        (None, Some(_)) => anyhow::bail!("with --endpoints, name two folders: the old and the new one"),
        (None, None) => global.call(&Request::PolicyDiff { old: None, new: files(first)? })?,
        (Some(new), None) => {
            global.call(&Request::PolicyDiff { old: Some(files(first)?), new: files(new)? })?
        }
        (Some(new), Some(path)) => {
            let (test, engine) = load(path)?;
            let parse = |path: &Path| -> anyhow::Result<PolicySet> {
                let mut all = files(path)?;
                if !test.namespaces.is_empty() {
                    all.push((format!("{}.toml", path.display()), test.namespaces.clone()));
                }
                let all: Vec<_> = all.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
                language::parse_with(&all, &test.options).map_err(|errors| Unusable(errors).into())
            };
            let (before, after) = (parse(first)?, parse(new)?);
            let changes = View::new(&engine, &before, &is_host).diff(&after, &here())?;
            json!({ "policies": before.differences(&after), "changes": changes })
        }
    };
    global.print(&value, changes);
    let same = value["changes"].as_array().is_none_or(Vec::is_empty);
    Ok(if same { ExitCode::SUCCESS } else { ExitCode::from(DIFFERENT) })
}

fn changes(value: &Value) -> String {
    let mut text = String::new();
    for line in value["policies"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "{}", print::plain(line));
    }
    let rows = value["changes"].as_array().map_or(&[][..], Vec::as_slice);
    if rows.is_empty() {
        text.push_str(
            "no connection is allowed or cut that was not before, between the endpoints that are known\n",
        );
        return text;
    }
    if !text.is_empty() {
        text.push('\n');
    }
    let mut table = Vec::new();
    for (mark, key) in [("allows", "allows"), ("cuts", "cuts")] {
        for row in rows.iter().filter(|row| row[key] != "nothing") {
            let from = row["source_ports"].as_str();
            table.push(vec![
                mark.to_owned(),
                from.map_or_else(
                    || print::field(row, "from"),
                    |ports| format!("{} from port {ports}", print::field(row, "from")),
                ),
                print::field(row, "to"),
                print::field(row, key),
                print::field(row, "families"),
                print::field(row, "pairs"),
            ]);
        }
    }
    let headings = ["", "FROM", "TO", "SERVICES", "FAMILY", "PAIRS"].map(str::to_owned);
    text.push_str(&print::grid(&headings, &table));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value() -> Value {
        let cell = |from: &str, to: &str, allowed: &str| json!({"from": from, "to": to, "families": ["ipv4", "ipv6"], "allowed": allowed});
        json!({
            "parties": [
                {"name": "role=web", "addresses": 4, "examples": ["s32a", "s32b"]},
                {"name": "world", "addresses": 2, "examples": ["198.51.100.1"]},
            ],
            "cells": [
                cell("role=web", "role=web", "everything but tcp/1-99"),
                cell("role=web", "world", "nothing"),
                cell("world", "role=web", "tcp/80, udp/1000-2000, icmp type 8"),
            ],
        })
    }

    #[test]
    fn matrices() {
        insta::assert_snapshot!(list(&value()));
        insta::assert_snapshot!(grid(&value(), &|a| contains(a, "tcp", 80)));
    }

    #[test]
    fn one_service_is_answered_in_json_too() {
        let mut value = value();
        answer(&mut value, &|a| contains(a, "tcp", 80));
        let told: Vec<_> =
            value["cells"].as_array().unwrap().iter().map(|c| c["service_allowed"] == true).collect();
        assert_eq!(told, [false, false, true], "{value}");
        assert!(value.get("from_source_ports").is_none());
    }

    #[test]
    fn printed_sets_are_read() {
        for (text, protocol, port, want) in [
            ("everything", "tcp", 80, true),
            ("nothing", "tcp", 80, false),
            ("tcp/80, tcp/8000-8080", "tcp", 8001, true),
            ("tcp/80, tcp/8000-8080", "udp", 80, false),
            ("tcp", "tcp", 1, true),
            ("everything but tcp/80, icmp", "tcp", 81, true),
            ("everything but tcp/80, icmp", "icmp", 8 << 8, false),
            ("icmp type 8", "icmp", 8 << 8 | 1, true),
            ("icmp type 8 code 0", "icmp", 8 << 8 | 1, false),
            ("icmp type 0-8", "icmp", 3 << 8, true),
            ("icmp type 8", "icmpv6", 8 << 8, false),
        ] {
            assert_eq!(contains(text, protocol, port), want, "{text} {protocol}/{port}");
        }
    }

    #[test]
    fn differences() {
        let change = |from: &str, allows: &str, cuts: &str| json!({"from": from, "to": "role=web", "families": ["ipv4"], "pairs": 6, "allows": allows, "cuts": cuts});
        let value = json!({
            "policies": ["policy default/web changed"],
            "changes": [change("role=lb", "tcp/443", "nothing"), change("world", "nothing", "everything but tcp/443")],
        });
        insta::assert_snapshot!(changes(&value));
        insta::assert_snapshot!(changes(&json!({"policies": [], "changes": []})));
    }
}
