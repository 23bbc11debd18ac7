//! `slash32 policy show`.

use std::fmt::Write;

use serde_json::Value;

use crate::{
    api::Request,
    cli::{Global, print},
};

pub(super) fn run(global: &Global, nft: bool) -> anyhow::Result<()> {
    if nft {
        return global.show(&Request::PolicyShow { nft: true }, print::plain);
    }
    global.show(&Request::PolicyShow { nft: false }, text)
}

fn text(value: &Value) -> String {
    let order = |p: &Value| if p["order"].is_null() { "last".to_owned() } else { print::field(p, "order") };
    let mut text = print::table(
        &value["policies"],
        &[
            ("ORDER", order),
            ("POLICY", |p| print::field(p, "name")),
            ("SELECT", |p| print::field(p, "select")),
            ("INGRESS", |p| print::field(p, "ingress_rules")),
            ("EGRESS", |p| print::field(p, "egress_rules")),
            ("STAGED", |p| if p["staged"] == true { "staged" } else { "-" }.to_owned()),
            ("ENDPOINTS", |p| print::field(p, "endpoints")),
            ("PACKETS", |p| print::field(p, "packets")),
            ("FILE", |p| print::field(p, "file")),
        ],
        "no policies",
    );
    if value["host_policies"].as_array().is_some_and(|list| !list.is_empty()) {
        let table = print::table(
            &value["host_policies"],
            &[
                ("ORDER", |p| print::field(p, "order")),
                ("HOST POLICY", |p| print::field(p, "name")),
                ("INTERFACES", |p| match print::field(p, "interfaces").as_str() {
                    "-" => "all".to_owned(),
                    some => some.to_owned(),
                }),
                ("INGRESS", |p| print::field(p, "ingress_rules")),
                ("STAGED", |p| if p["staged"] == true { "staged" } else { "-" }.to_owned()),
                ("PACKETS", |p| print::field(p, "packets")),
                ("FILE", |p| print::field(p, "file")),
            ],
            "",
        );
        let _ = write!(text, "\n{table}");
    }
    if value["profiles"].as_array().is_some_and(|list| !list.is_empty()) {
        let side = |p: &Value, key: &str| match p[key].as_bool() {
            Some(true) => "allow".to_owned(),
            Some(false) => "deny".to_owned(),
            None => "-".to_owned(),
        };
        let rows: Vec<Vec<String>> = value["profiles"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|p| {
                vec![
                    print::field(p, "name"),
                    print::field(p, "select"),
                    side(p, "ingress"),
                    side(p, "egress"),
                ]
            })
            .collect();
        let headings = ["PROFILE", "SELECT", "INGRESS", "EGRESS"].map(str::to_owned);
        let _ = write!(text, "\n{}", print::grid(&headings, &rows));
    }
    for note in value["notes"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "\nnote: {}", print::plain(note));
    }
    for error in value["errors"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "\n{}", print::plain(error));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn all_kinds_are_shown() {
        let policy = |name: &str, order: Value, staged: bool| {
            json!({
                "name": name, "order": order, "select": "role == \"web\"", "ingress_rules": 2, "egress_rules": null,
                "staged": staged, "endpoints": ["s3200000000001"], "packets": 12, "file": "web.toml:3",
            })
        };
        let value = json!({
            "policies": [policy("default/web", json!(1000), false), policy("default/calico:late", Value::Null, true)],
            "host_policies": [{"name": "ssh", "order": 1000, "interfaces": [], "ingress_rules": 1, "staged": false, "packets": 0, "file": "host.toml:1"}],
            "profiles": [{"name": "closed", "select": "has(secret)", "ingress": false, "egress": null}],
            "errors": ["the policy folder has errors; the last good policies stay in force"],
        });
        insta::assert_snapshot!(text(&value));
        insta::assert_snapshot!(text(
            &json!({"policies": [], "host_policies": [], "profiles": [], "errors": []})
        ));
    }
}
