//! What commonly goes wrong, looked for one by one: a pure function from facts to findings.

use serde::Serialize;
use serde_json::Value;

/// One check and its outcome.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    name: &'static str,
    ok: bool,
    message: String,
    hint: String,
}

/// What the checks look at, gathered from the owners.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Sysctls that are not as they should be.
    pub(super) sysctls: Vec<String>,
    /// Peers as `slash32 peers --json` shows them.
    pub(super) peers: Vec<Value>,
    /// Whether a speaker is configured.
    pub(super) bgp: bool,
    /// Differences between the kernel's routes and the intent.
    pub(super) route_differences: usize,
    /// What keeps learned routes out of the kernel or out of use, one line each.
    pub(super) route_problems: Vec<String>,
    /// What keeps the kernel from looking into our table, one line each.
    pub(super) rules: Vec<String>,
    /// Neighbours behind a VRF, one line each.
    pub(super) vrf: Vec<String>,
    /// Limits of the kernel that are too close, one line each.
    pub(super) limits: Vec<String>,
    /// Learned routes that were refused for what they are: martians, own addresses and blocks.
    pub(super) routes_rejected: usize,
    /// Learned host routes inside the pools, and how many of them carry no identity.
    pub(super) pool_routes: (usize, usize),
    /// Addresses of other hosts' containers whose identity nobody tells any more, and for how many seconds the oldest is kept.
    pub(super) kept_identities: (usize, u64),
    /// Findings of the address check.
    pub(super) leases: Vec<String>,
    /// Endpoints that are not all they were, and what to do about each.
    pub(super) attention: Vec<String>,
    /// Drop rules of others that packets of containers would meet, and what to do about each.
    pub(super) foreign_drops: Vec<(String, String)>,
    /// Rules of others that write over stamps in the conntrack mark, one line each.
    pub(super) foreign_marks: Vec<String>,
    /// Packets from elsewhere that claimed to be of an endpoint of this host, since the table was loaded.
    pub(super) forged: u64,
    /// Whether there is to be a policy table.
    pub(super) policy: bool,
    /// Why the policy table is not in force, if it is not.
    pub(super) policy_error: Option<String>,
    /// Errors in configuration and policy files on disk.
    pub(super) file_errors: Vec<String>,
    /// Whether next-hop objects are in use.
    pub(super) nexthop_objects: bool,
    /// Whether the kernel has TCP-AO, if a neighbour's configuration asks for it.
    pub(super) tcp_ao: Option<bool>,
    /// `slash32 drain` is in force.
    pub(super) draining: bool,
    /// What other hosts give of this host's blocks, one line each.
    pub(super) shared: Vec<String>,
    /// Addresses of the blocks that no container gets, as they are somebody's, one line each.
    pub(super) left_out: Vec<String>,
    /// That ADDs wait for neighbours.
    pub(super) adds_wait: Option<String>,
    /// How many pools are configured.
    pub(super) pools: usize,
    /// Configured pools that give this host no addresses.
    pub(super) pools_without_block: Vec<String>,
}

impl Check {
    fn new(name: &'static str, ok: bool, message: impl Into<String>, hint: impl Into<String>) -> Self {
        let hint = if ok { String::new() } else { hint.into() };
        Self { name, ok, message: message.into(), hint }
    }
}

/// Every check, in the order a person would look.
pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    let mut list = vec![files(facts), sysctls(facts)];
    list.extend(peers(facts));
    list.extend(facts.tcp_ao.map(tcp_ao));
    if facts.draining {
        let hint = "`slash32 drain --off` ends it";
        list.push(Check::new("drain", false, "this host is being drained: neighbours avoid it", hint));
    }
    list.push(routes(facts));
    list.push(rules(facts));
    list.push(vrf(facts));
    list.push(limits(facts));
    list.push(learned(facts));
    list.push(identities(facts));
    list.push(kept_identities(facts));
    list.push(policy(facts));
    list.extend(foreign_drops(facts));
    list.push(foreign_marks(facts));
    list.push(forged(facts));
    list.extend(facts.adds_wait.as_ref().map(|wait| {
        let hint = "it ends by itself; with a neighbour that sends no End-of-RIB, `neighbours_wait_seconds` of [ipam] may be less";
        Check::new("neighbours after the boot", false, wait, hint)
    }));
    list.push(leases(facts));
    list.push(endpoints(facts));
    list.push(pools(facts));
    list.push(blocks(facts));
    list.push(shared(facts));
    list.push(Check::new(
        "next-hop objects",
        facts.nexthop_objects,
        if facts.nexthop_objects {
            "in use"
        } else {
            "not in use: a lost neighbour costs one message a route"
        },
        "needs Linux 5.3 and `[routes] nexthop_objects = true`",
    ));
    list
}

fn files(facts: &Facts) -> Check {
    let ok = facts.file_errors.is_empty();
    let message =
        if ok { "configuration and policies are valid".to_owned() } else { facts.file_errors.join("\n") };
    Check::new(
        "files",
        ok,
        message,
        "the agent runs on with the last good state; correct the file and it is read again",
    )
}

fn sysctls(facts: &Facts) -> Check {
    let ok = facts.sysctls.is_empty();
    let message = if ok { "forwarding is on".to_owned() } else { facts.sysctls.join(", ") };
    Check::new("forwarding", ok, message, "another program changed it; the agent sets it at start")
}

fn peers(facts: &Facts) -> Vec<Check> {
    if !facts.bgp || facts.peers.is_empty() {
        let hint = "add [[bgp.peer]] to the configuration, or nobody learns the containers' addresses";
        return vec![Check::new("neighbours", false, "no BGP neighbour is configured", hint)];
    }
    facts.peers.iter().map(peer).collect()
}

fn peer(peer: &Value) -> Check {
    let text = |name: &str| peer[name].as_str().unwrap_or_default().to_owned();
    let (state, error) = (text("state"), text("last_error"));
    let up = state == "Established";
    let rejected = peer["prefixes_received"].as_u64().unwrap_or(0)
        - peer["prefixes_accepted"]
            .as_u64()
            .unwrap_or(0)
            .min(peer["prefixes_received"].as_u64().unwrap_or(0));
    let message = if up {
        format!("{} is established", text("peer"))
    } else {
        format!(
            "{} is {state}{}",
            text("peer"),
            if error.is_empty() { String::new() } else { format!(": {error}") }
        )
    };
    if up && rejected > 0 {
        let message = format!("{message}, but {rejected} of its prefixes were not accepted");
        return Check::new("neighbour", false, message, "see `slash32 peers --json` for the reasons");
    }
    let limited = |state: &str| {
        (peer["prefix_limits"].as_array().into_iter().flatten()).any(|limit| limit["state"] == state)
    };
    if up && limited("warning") {
        let message = format!("{message}, but near its limit of prefixes");
        return Check::new("neighbour", false, message, "raise max_prefixes before the session ends for it");
    }
    if limited("exceeded") {
        let hint = "find out why it announces so many, or raise max_prefixes; then `slash32 bgp clear`";
        return Check::new("neighbour", false, message, hint);
    }
    Check::new(
        "neighbour",
        up,
        message,
        "compare address, AS number and password with the neighbour's configuration; can it be pinged?",
    )
}

fn tcp_ao(supported: bool) -> Check {
    Check::new(
        "TCP-AO",
        supported,
        if supported {
            "the kernel has it"
        } else {
            "the kernel has none: neighbours with `tcp_ao` have no session, as there is none without authentication"
        },
        "needs Linux 6.7 built with CONFIG_TCP_AO; TCP MD5 (`password`) works everywhere",
    )
}

fn routes(facts: &Facts) -> Check {
    let ok = facts.route_differences == 0;
    let message = if ok {
        "the kernel is as intended".to_owned()
    } else {
        format!("{} differences", facts.route_differences)
    };
    Check::new("kernel routes", ok, message, "see `slash32 routes verify`")
}

fn rules(facts: &Facts) -> Check {
    let ok = facts.rules.is_empty();
    let message = if ok { "packets of containers find our table".to_owned() } else { facts.rules.join("\n") };
    Check::new(
        "routing rules",
        ok,
        message,
        "a table other than main needs a rule before it, such as `ip rule add pref 1000 lookup TABLE` (and `ip -6 rule \
         …`). A rule that takes packets of containers away belongs behind that, or needs a condition (`from`, `iif`, a \
         mark) that spares them",
    )
}

fn vrf(facts: &Facts) -> Check {
    let ok = facts.vrf.is_empty();
    let message = if ok { "no neighbour is behind one".to_owned() } else { facts.vrf.join("\n") };
    Check::new(
        "VRF",
        ok,
        message,
        "take the interface out of the VRF (`ip link set DEV nomaster`); containers inside a VRF are not supported",
    )
}

fn limits(facts: &Facts) -> Check {
    let ok = facts.limits.is_empty();
    let message =
        if ok { "neighbour and route tables have room".to_owned() } else { facts.limits.join("\n") };
    Check::new(
        "kernel limits",
        ok,
        message,
        "set them in /etc/sysctl.d, in the host's first network namespace; the agent does not, as they hold for all \
         of the host",
    )
}

fn learned(facts: &Facts) -> Check {
    let ok = facts.route_problems.is_empty();
    let message = match facts.routes_rejected {
        _ if !ok => facts.route_problems.join("\n"),
        0 => "all are in use".to_owned(),
        n => format!(
            "all are in use but {n} that were refused: martians, or addresses and blocks of this host"
        ),
    };
    Check::new(
        "learned routes",
        ok,
        message,
        "`slash32 routes` names each and the reason. Routes of others are never touched: delete them, or change \
         `[routes] metric` (the lower one wins) or `[routes] table`",
    )
}

fn identities(facts: &Facts) -> Check {
    let (all, without) = facts.pool_routes;
    let ok = without == 0;
    let message = if ok {
        format!("all {all} learned container routes carry one")
    } else {
        format!(
            "{without} of {all} learned container routes carry none: selectors will not match these containers"
        )
    };
    let hint = "set `identity = \"accept\"` on the peer, and make the switches in between send large communities \
                (`send-community large` or the like)";
    Check::new("identities", ok, message, hint)
}

fn kept_identities(facts: &Facts) -> Check {
    let (count, seconds) = facts.kept_identities;
    let ok = count == 0;
    let message = if ok {
        "none is kept of a lost session".to_owned()
    } else {
        format!("{count} are kept though no neighbour tells them any more, the oldest for {seconds} s")
    };
    let hint = "rules by selector judge these containers as before until the neighbours that told of them are back, or \
                for `identity_hold_seconds` of [policy]; take a neighbour that does not come back out of the configuration";
    Check::new("kept identities", ok, message, hint)
}

fn policy(facts: &Facts) -> Check {
    let message = match &facts.policy_error {
        Some(error) => error.clone(),
        None if facts.policy => "the policy table is in force".to_owned(),
        None => "switched off in [policy]".to_owned(),
    };
    Check::new(
        "policy",
        facts.policy_error.is_none(),
        message,
        "containers are not protected until this is solved",
    )
}

fn foreign_drops(facts: &Facts) -> Vec<Check> {
    if facts.foreign_drops.is_empty() {
        return vec![Check::new("other firewalls", true, "none drops forwarded packets", "")];
    }
    facts
        .foreign_drops
        .iter()
        .map(|(what, todo)| Check::new("other firewalls", false, what.clone(), todo.clone()))
        .collect()
}

fn foreign_marks(facts: &Facts) -> Check {
    let ok = facts.foreign_marks.is_empty();
    let message =
        if ok { "no rule of others writes over ours".to_owned() } else { facts.foreign_marks.join("\n") };
    let hint = "connections whose stamp is written over are judged packet by packet, or are taken for judged: give other \
                bits to one of both, here by `ct_mark_mask` of [policy]";
    Check::new("conntrack mark", ok, message, hint)
}

fn forged(facts: &Facts) -> Check {
    let ok = facts.forged == 0;
    let message = if ok {
        "none came from elsewhere with the address of a container of this host".to_owned()
    } else {
        format!("{} packets from elsewhere claimed to be of containers of this host", facts.forged)
    };
    let hint = "they were refused (`nft list chain inet slash32 from_elsewhere`; `slash32 policy trace` shows them as they \
                come): somebody forges sources, or an address is used on another host as well without `anycast`";
    Check::new("forged sources", ok, message, hint)
}

fn leases(facts: &Facts) -> Check {
    let ok = facts.leases.is_empty();
    let message = if ok { "leases, namespaces and links agree".to_owned() } else { facts.leases.join("; ") };
    Check::new("addresses", ok, message, "`slash32 ipam check --fix` repairs it")
}

fn endpoints(facts: &Facts) -> Check {
    let ok = facts.attention.is_empty();
    let message = if ok { "all are as they were made".to_owned() } else { facts.attention.join("\n") };
    Check::new("endpoints", ok, message, "`slash32 endpoints --json` has each, with what to do")
}

fn pools(facts: &Facts) -> Check {
    let without = facts.pools_without_block.len();
    // A host that is a switch has no containers.
    let ok = without == 0 || without == facts.pools;
    let message = if without == 0 {
        "every pool has a block on this host".to_owned()
    } else if ok {
        "no pool has a block on this host: it gives no addresses to containers".to_owned()
    } else {
        format!("no block on this host in: {}", facts.pools_without_block.join(", "))
    };
    Check::new(
        "pools",
        ok,
        message,
        "add `block` or `host_index` if containers of this host should use the pool",
    )
}

fn blocks(facts: &Facts) -> Check {
    let ok = facts.left_out.is_empty();
    let message =
        if ok { "none has an address of somebody else's".to_owned() } else { facts.left_out.join("\n") };
    let hint =
        "a block should be of containers alone: choose another, or list the address in the pool's `exclude`";
    Check::new("blocks", ok, message, hint)
}

fn shared(facts: &Facts) -> Check {
    let ok = facts.shared.is_empty();
    let message =
        if ok { "no other host gives addresses of them".to_owned() } else { facts.shared.join("\n") };
    let hint = "compare `block` or `host_index` of [[ipam.pool]] on both hosts; `slash32 bgp explain ADDRESS` has both ways";
    Check::new("blocks of this host alone", ok, message, hint)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_healthy_host_has_nothing_to_report() {
        let facts = Facts {
            bgp: true,
            peers: vec![
                json!({"peer": "192.0.2.1", "state": "Established", "prefixes_received": 4, "prefixes_accepted": 4}),
            ],
            nexthop_objects: true,
            ..Facts::default()
        };
        assert!(checks(&facts).iter().all(|c| c.ok), "{:?}", checks(&facts));
    }

    #[test]
    fn every_problem_is_found_and_has_a_hint() {
        let facts = Facts {
            sysctls: vec!["net.ipv4.ip_forward should be 1".into()],
            bgp: true,
            peers: vec![
                json!({"peer": "192.0.2.1", "state": "Active", "last_error": "connection refused"}),
                json!({"peer": "192.0.2.2", "state": "Established", "prefixes_received": 4, "prefixes_accepted": 1}),
            ],
            tcp_ao: Some(false),
            route_differences: 2,
            routes_rejected: 1,
            rules: vec!["no rule".into()],
            vrf: vec!["eth0 is in red".into()],
            limits: vec!["gc_thresh3 is small".into()],
            route_problems: vec!["1 learned route is over the limit".into()],
            pool_routes: (5, 1),
            kept_identities: (3, 60),
            leases: vec!["x".into()],
            attention: vec!["y".into()],
            foreign_drops: vec![("ip filter FORWARD drops".into(), "do this".into())],
            foreign_marks: vec!["ip mangle x writes".into()],
            forged: 2,
            policy: true,
            policy_error: Some("no nftables".into()),
            file_errors: vec!["a.toml:1:1: no".into()],
            nexthop_objects: false,
            draining: true,
            shared: vec!["another host".into()],
            adds_wait: Some("ADDs wait".into()),
            left_out: vec!["10.0.0.1 is an address of this host".into()],
            pools: 2,
            pools_without_block: vec!["10.0.0.0/8".into()],
        };
        for check in checks(&facts) {
            assert!(!check.ok && !check.hint.is_empty() && !check.message.is_empty(), "{check:?}");
        }
    }
}
