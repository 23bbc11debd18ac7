//! `slash32 peers PEER`: one neighbour on a page, with the reasons why routes of it are missing.

use std::fmt::Write;

use serde_json::Value;

use super::print;

/// Why a received prefix is not in the RIB, in words, with what to do where something can be done here.
const REJECTED: [(&str, &str); 11] = [
    ("as_loop", "our own AS number is in the AS path (allowas_in admits it)"),
    (
        "first_as",
        "the AS path does not begin with the neighbour's AS number (enforce_first_as = false admits it)",
    ),
    ("originator_loop", "we are the originator (RFC 4456)"),
    ("cluster_loop", "our cluster is in the cluster list (RFC 4456)"),
    ("next_hop", "the next hop is an address of ours, or none that can be one"),
    ("martian", "the prefix is never routed (loopback, link-local, multicast)"),
    ("route_leak", "a route leak by the roles of RFC 9234 (role)"),
    ("policy", "an import rule (import)"),
    ("max_prefix", "over the limit of prefixes (max_prefixes)"),
    ("family", "the family is not in use on this session (families)"),
    ("malformed", "announced with an error that withdraws it (RFC 7606); the log has more"),
];

/// Why a best route is not in the kernel. `slash32 routes` shows which.
const NOT_INSTALLED: [(&str, &str); 10] = [
    ("martian", "the prefix is never routed"),
    ("local_endpoint", "the prefix is the address of a container on this host"),
    ("host_address", "the prefix is an address of this host"),
    ("own_block", "the prefix is one of this host's own address blocks"),
    ("covers_next_hop", "the route would take over the way to a next hop"),
    ("family", "an IPv6 route cannot have an IPv4 gateway"),
    ("over_limit", "the limit of routes is reached (max_routes)"),
    ("unresolved", "no next hop can be reached"),
    ("conflict", "a route of somebody else has the same prefix and metric"),
    ("refused", "the kernel refused the route"),
];

pub(super) fn page(peer: &Value) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<16}{value}");
    };
    let field = |name| print::field(peer, name);
    let seconds = |name: &str| peer[name].as_u64().map(print::duration);
    line("neighbour", format!("{}, AS {}, {}", field("peer"), field("asn"), field("description")));
    if peer["address"].is_string() {
        line("address", field("address"));
    }
    let over_limit = is_over_limit(peer);
    let state = match (seconds("uptime_seconds"), seconds("restart_seconds")) {
        (Some(up), _) => format!("{} for {up}", field("state")),
        (None, Some(wait)) => format!("{}, begins again in {wait}", field("state")),
        (None, None) if over_limit && peer["state"] == "Idle" => {
            format!("Idle until `slash32 bgp clear {}`", field("peer"))
        }
        (None, None) => field("state"),
    };
    line("state", state);
    if let Some(ago) = seconds("last_error_seconds") {
        line("last error", format!("{}, {ago} ago", field("last_error")));
    }
    line("our end", format!("{}, AS {}", field("local_address"), field("local_asn")));
    line("router id", format!("{}, host name {}", field("router_id"), field("hostname")));
    let authentication = match peer["authentication"].as_str() {
        Some("md5") => "TCP MD5 (RFC 2385)",
        Some("tcp_ao") => "TCP-AO (RFC 5925)",
        _ => "none",
    };
    line("authentication", authentication.to_owned());
    line("timers", format!("hold {} s, keepalive {} s", field("hold_time"), field("keepalive")));
    line("families", field("families"));
    line("capabilities", field("capabilities"));
    line("bfd", field("bfd"));
    line(
        "prefixes",
        format!(
            "{} accepted, {} times one was not, {} sent",
            field("prefixes_accepted"),
            field("prefixes_rejected"),
            field("prefixes_sent")
        ),
    );
    for limit in peer["prefix_limits"].as_array().into_iter().flatten() {
        let field = |name| print::field(limit, name);
        let state = match limit["state"].as_str() {
            Some("warning") => ": near the limit",
            Some("exceeded") => ": over the limit, which ended the session",
            _ => "",
        };
        line(
            "limit",
            format!(
                "{} of {} {} prefixes, warning from {}{state}",
                field("prefixes"),
                field("limit"),
                field("family"),
                field("warning")
            ),
        );
    }
    reasons(&mut text, "not accepted", &peer["rejected"], &REJECTED);
    reasons(&mut text, "not in kernel", &peer["not_installed"], &NOT_INSTALLED);
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<16}{value}");
    };
    if peer["identities_stripped"] != 0 {
        line(
            "stripped",
            format!("{} identity communities that are not believed (identity)", field("identities_stripped")),
        );
    }
    let messages = |what: &str| {
        format!(
            "{} in, {} out",
            print::field(peer, &format!("{what}_received")),
            print::field(peer, &format!("{what}_sent"))
        )
    };
    line("messages", messages("messages"));
    line("updates", messages("updates"));
    if peer["updates_withdrawn"] != 0 || peer["updates_discarded"] != 0 {
        line(
            "in error",
            format!(
                "{} updates were withdrawn, {} lost an attribute",
                field("updates_withdrawn"),
                field("updates_discarded")
            ),
        );
    }
    line("established", format!("{} times", field("established_count")));
    text
}

/// Whether the session ended for too many prefixes.
pub(super) fn is_over_limit(peer: &Value) -> bool {
    has_limit_state(peer, "exceeded")
}

/// Whether a family is near its limit.
pub(super) fn is_near_limit(peer: &Value) -> bool {
    has_limit_state(peer, "warning")
}

fn has_limit_state(peer: &Value, state: &str) -> bool {
    peer["prefix_limits"].as_array().into_iter().flatten().any(|limit| limit["state"] == state)
}

fn reasons(text: &mut String, name: &str, counts: &Value, words: &[(&str, &str)]) {
    for (reason, count) in counts.as_object().into_iter().flatten().filter(|(_, count)| **count != 0) {
        let words =
            words.iter().find(|(known, _)| known == reason).map_or(reason.as_str(), |(_, words)| words);
        let _ = writeln!(text, "{name:<16}{}: {words}", print::plain(count));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bgp::rib::Rejection;

    #[test]
    fn every_reason_has_words() {
        for reason in Rejection::ALL {
            let name = serde_json::to_value(reason).unwrap();
            assert!(REJECTED.iter().any(|(known, _)| name == *known), "{name}");
        }
    }

    #[test]
    fn a_page_names_what_is_missing_and_why() {
        let peer = json!({
            "peer": "192.0.2.1", "asn": 65000, "state": "Established", "uptime_seconds": 61,
            "rejected": { "as_loop": 2, "policy": 0 }, "not_installed": { "unresolved": 1 },
            "identities_stripped": 3, "prefixes_accepted": 4, "prefixes_rejected": 2, "prefixes_sent": 1,
        });
        let text = page(&peer);
        assert!(text.contains("not accepted    2: our own AS number"), "{text}");
        assert!(!text.contains("import rule"), "{text}");
        assert!(text.contains("not in kernel   1: no next hop can be reached"), "{text}");
        assert!(text.contains("stripped        3 identity"), "{text}");
    }

    #[test]
    fn a_page_tells_of_limits() {
        let limit = |state: &str| json!([{ "family": "ipv4", "limit": 10, "warning": 7, "prefixes": 8, "state": state }]);
        let mut peer = json!({
            "peer": "192.0.2.1", "state": "Established", "uptime_seconds": 61, "prefix_limits": limit("warning"),
        });
        assert!(
            page(&peer).contains("limit           8 of 10 ipv4 prefixes, warning from 7: near the limit")
        );
        assert!(is_near_limit(&peer) && !is_over_limit(&peer));
        peer = json!({ "peer": "192.0.2.1", "state": "Idle", "prefix_limits": limit("exceeded") });
        assert!(page(&peer).contains("state           Idle until `slash32 bgp clear 192.0.2.1`"));
        peer["restart_seconds"] = json!(61);
        assert!(page(&peer).contains("state           Idle, begins again in"));
    }
}
