//! `slash32 policy explain`.

use std::fmt::Write;

use serde_json::Value;

use crate::cli::print;

pub(super) fn text(answer: &Value) -> String {
    let verdict = if answer["allowed"] == true { "ALLOWED" } else { "DENIED" };
    let flow = &answer["flow"];
    let mut text = format!(
        "{verdict}: {} -> {}, {}\n",
        party(&flow["source"], &answer["source"]),
        party(&flow["destination"], &answer["destination"]),
        print::field(answer, "reason")
    );
    for side in ["egress", "ingress"].map(|name| &answer[name]).into_iter().filter(|side| side.is_object()) {
        let place = match (side["enforced_here"] == true, side["host"].as_str()) {
            (true, _) => "enforced on this host".to_owned(),
            (false, Some(host)) => format!("enforced on the other host, behind {host}; a prediction"),
            (false, None) => "enforced on the other host; a prediction".to_owned(),
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
            rules(&mut text, tier);
            nft(&mut text, tier);
        }
    }
    host(&mut text, &answer["host"]);
    forged(&mut text, &answer["source"]);
    text
}

/// What this host says of what is meant for itself.
fn host(text: &mut String, host: &Value) {
    if !host.is_object() {
        return;
    }
    let place = host["interface"].as_str().map_or_else(String::new, |name| format!(", in by {name}"));
    let decided_by = print::field(host, "decided_by");
    let _ = writeln!(
        text,
        "\nhost (enforced on this host{place}): {}: {}",
        if host["allowed"] == true { "allowed" } else { "denied" },
        decided_by.strip_prefix("host: ").unwrap_or(&decided_by)
    );
    for step in host["steps"].as_array().into_iter().flatten() {
        let what = match step["policy"].as_str() {
            Some(name) => format!("host policy {name}"),
            None => print::field(step, "what").replace('_', " "),
        };
        let because = step["because"].as_str().unwrap_or_default();
        let sep = if because.is_empty() { "" } else { ": " };
        let _ = writeln!(text, "  {what}: {}{sep}{because}", print::field(step, "outcome"));
        rules(text, step);
        nft(text, step);
    }
}

/// What becomes of packets from elsewhere with the source's address, if it is an endpoint of this host.
fn forged(text: &mut String, source: &Value) {
    let rules = source["forged"].as_array().map_or(&[][..], Vec::as_slice);
    if !rules.is_empty() {
        text.push_str("\nfrom elsewhere with this source (forged): denied\n");
        nft(text, &serde_json::json!({ "nft": rules }));
    }
}

/// The rules of a tier or of a host policy, each with what became of it.
fn rules(text: &mut String, of: &Value) {
    for rule in of["rules"].as_array().into_iter().flatten() {
        let mark = if rule["matched"] == true { "->" } else { "  " };
        let because = rule["because"].as_str().unwrap_or_default();
        let _ = writeln!(
            text,
            "  {mark} {} rule {} ({}{}) {}{}{because}",
            print::field(rule, "policy"),
            print::field(rule, "rule"),
            if rule["staged"] == true { "staged " } else { "" },
            print::field(rule, "action"),
            if rule["matched"] == true { "matched" } else { "did not match" },
            if because.is_empty() { "" } else { ": " },
        );
        nft(text, rule);
    }
}

/// The nftables rules of something, with their counters.
fn nft(text: &mut String, of: &Value) {
    for rule in of["nft"].as_array().into_iter().flatten() {
        let packets = match rule["packets"].as_u64() {
            Some(1) => "1 packet".to_owned(),
            Some(packets) => format!("{packets} packets"),
            None => "not in the kernel".to_owned(),
        };
        let body = rule["rule"].as_str().unwrap_or_default();
        // The comment repeats what the line above says.
        let body = body.split(" comment \"").next().unwrap_or(body);
        let _ = writeln!(text, "       {packets}: {}: {body}", print::field(rule, "chain"));
    }
}

/// An address and who it is.
fn party(address: &Value, who: &Value) -> String {
    let address = print::plain(address);
    match who["kind"].as_str() {
        Some("local") => format!("{address} ({} {})", print::field(who, "id"), print::field(who, "labels")),
        Some(kind) => match who["kept_seconds"].as_u64() {
            Some(seconds) => {
                let ago = print::duration(seconds);
                format!("{address} ({kind}, identity kept since its session was lost {ago} ago)")
            }
            None => format!("{address} ({kind})"),
        },
        None => address,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_step_is_shown() {
        let rule = |n: u64, matched: bool, packets: Option<u64>| {
            json!({
                "policy": "default/web", "rule": n, "action": "allow", "matched": matched,
                "because": if matched { "" } else { "another peer" }, "staged": n == 1,
                "nft": [{"chain": "cls_1", "rule": "meta l4proto 6 counter return comment \"default/web\"", "packets": packets, "bytes": 0}],
            })
        };
        let side = |direction: &str, here: bool, tiers: Value| json!({"direction": direction, "enforced_here": here, "host": "192.0.2.1", "allowed": true, "decided_by": "rule 2 of default/web (web.toml:3)", "tiers": tiers});
        let answer = json!({
            "allowed": true, "reason": "egress: no policy; ingress: rule 2",
            "flow": {"source": "10.32.1.1", "destination": "10.32.4.2", "protocol": "tcp", "port": 80},
            "source": {"kind": "remote", "hashes": 5},
            "destination": {"kind": "local", "id": "s32a", "labels": {"role": "web"}},
            "egress": side("egress", false, json!([])),
            "ingress": side("ingress", true, json!([{
                "tier": "default", "outcome": "allowed", "rules": [rule(1, false, None), rule(2, true, Some(1))],
                "nft": [{"chain": "cls_1", "rule": "counter goto refuse comment \"x\"", "packets": 3, "bytes": 0}],
            }])),
        });
        insta::assert_snapshot!(text(&answer));
        let step = |what: &str, outcome: &str, nft: Value| json!({"what": what, "because": "", "rules": [], "outcome": outcome, "nft": nft});
        let policy = |name: &str, because: &str, rules: Value| json!({"what": "policy", "policy": name, "because": because, "rules": rules, "outcome": "passed"});
        let answer = json!({
            "allowed": false, "reason": "host: no rule of a host policy matches",
            "flow": {"source": "192.0.2.9", "destination": "192.0.2.1", "protocol": "tcp", "port": 80},
            "source": {"kind": "world"}, "destination": {"kind": "host"}, "egress": null, "ingress": null,
            "host": {"interface": "eth0", "allowed": false, "decided_by": "host: no rule of a host policy matches", "steps": [
                step("failsafe", "passed", json!([])),
                policy("wan", "for wan* only", json!([])),
                policy("lan", "", json!([rule(1, true, Some(4))])),
                step("default", "denied", json!([{"chain": "input_host", "rule": "counter goto refuse", "packets": 2, "bytes": 0}])),
            ]},
        });
        insta::assert_snapshot!(text(&answer));
        let answer = json!({
            "allowed": true, "reason": "egress: no policy selects the endpoint, default allow",
            "flow": {"source": "10.32.4.2", "destination": "192.0.2.9", "protocol": "tcp", "port": 80},
            "source": {"kind": "local", "id": "s32a", "labels": {}, "forged": [
                {"chain": "from_elsewhere", "rule": "ip saddr @own4 counter drop", "packets": 7, "bytes": 0},
            ]},
            "destination": {"kind": "world"}, "egress": null, "ingress": null, "host": null,
        });
        let shown = text(&answer);
        assert!(
            shown.ends_with(
                "\nfrom elsewhere with this source (forged): denied\n       7 packets: from_elsewhere: ip saddr @own4 counter drop\n"
            ),
            "{shown}"
        );
    }
}
