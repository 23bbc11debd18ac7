//! From the file as written to the values the agent runs on: defaults, computed values, contradictions.

use std::{path::Path, time::Duration};

use super::{
    Config, PolicyConfig, Routes, Surroundings, bgp, file, ipam,
    locate::{Step, locate},
};
use crate::{
    api,
    cni::handler::LabelRule,
    model::{Diagnostic, Labels, Prefix},
    netlink::entry::AGENT_WAIT,
    policy::nft::DEFAULT_MARK_MASK,
};

/// Long enough for sessions to come up and bring a rack's routes, in seconds.
const NEIGHBOURS_WAIT: u32 = 10;
/// The plugin's patience with the agent ([`AGENT_WAIT`]), less what an ADD takes on a host that starts a hundred containers.
const MAX_NEIGHBOURS_WAIT: u32 = 12;

/// Collects errors with their places, so that all are shown at once.
pub(super) struct Errors<'a> {
    path: &'a Path,
    source: &'a str,
    list: Vec<Diagnostic>,
}

impl Errors<'_> {
    /// Notes an error at a key.
    pub(super) fn at(&mut self, place: &[Step<'_>], message: impl Into<String>) {
        self.at_with_help(place, message, "");
    }

    /// Notes an error at a key, with what to do.
    pub(super) fn at_with_help(
        &mut self,
        place: &[Step<'_>],
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let span = locate(self.source, place);
        self.list.push(Diagnostic::new(self.path, self.source, span, message).with_help(help));
    }
}

pub(super) fn resolve(
    path: &Path,
    source: &str,
    file: file::File,
    surroundings: &Surroundings,
) -> Result<Config, Vec<Diagnostic>> {
    let mut errors = Errors { path, source, list: Vec::new() };
    let hostname = file.agent.hostname.unwrap_or_else(|| surroundings.hostname.clone());
    let pools = ipam::pools(file.ipam.pool, &mut errors);
    let base = path.parent().unwrap_or(Path::new("."));
    let mut bgp =
        file.bgp.and_then(|table| bgp::speaker(table, &hostname, &pools, base, surroundings, &mut errors));
    let routes = routes(&file.routes, &mut errors);
    let mtu = file.network.mtu.unwrap_or(0);
    if mtu != 0 && !(1280..=65_535).contains(&mtu) {
        errors.at(
            &["network".into(), "mtu".into()],
            "the MTU must be 1280 (the least IPv6 allows) to 65535, or 0 for the uplink's",
        );
    }
    for (i, rule) in file.label_rule.iter().enumerate() {
        if rule.match_name.is_none() && rule.match_network.is_none() {
            errors.at_with_help(
                &["label_rule".into(), i.into()],
                "this label rule matches nothing in particular",
                "add `match_name` or `match_network`; `match_name = \"*\"` matches every endpoint",
            );
        }
    }
    let policy = policy(file.policy, &mut errors);
    if let Some(bgp) = &mut bgp {
        bgp.identity_hold = policy.identity_hold;
    }
    for (i, pool) in pools.iter().enumerate() {
        if pool.nat_outgoing && !policy.enabled {
            errors.at(
                &["ipam".into(), "pool".into(), i.into(), "nat_outgoing".into()],
                "nat_outgoing is done by the policy table: it needs `enabled = true` in [policy]",
            );
        }
    }
    let ipam_audit_seconds = u64::from(file.ipam.audit_seconds.unwrap_or(15));
    if ipam_audit_seconds == 0 {
        errors.at(&["ipam".into(), "audit_seconds".into()], "the interval must be at least one second");
    }
    let neighbours_wait = file.ipam.neighbours_wait_seconds.unwrap_or(NEIGHBOURS_WAIT);
    if neighbours_wait > MAX_NEIGHBOURS_WAIT {
        errors.at(
            &["ipam".into(), "neighbours_wait_seconds".into()],
            format!(
                "ADDs wait for the neighbours for {MAX_NEIGHBOURS_WAIT} seconds at most, as the plugin gives up after {}; 0: \
                 not at all",
                AGENT_WAIT.as_secs()
            ),
        );
    }
    if file.agent.state_dir.as_ref().is_some_and(|dir| dir.is_relative() && !dir.as_os_str().is_empty()) {
        errors.at_with_help(
            &["agent".into(), "state_dir".into()],
            "the state directory must be an absolute path",
            "say `state_dir = \"\"` to keep nothing",
        );
    }
    if !errors.list.is_empty() {
        return Err(errors.list);
    }
    Ok(Config {
        file: path.to_owned(),
        hostname,
        run_dir: file.agent.run_dir.unwrap_or_else(|| api::DEFAULT_RUN_DIR.into()),
        state: file.agent.state_dir,
        policy_dir: file.agent.policy_dir.unwrap_or_else(|| base.join("policy.d")),
        log: file.agent.log.unwrap_or_else(|| "info".to_owned()),
        metrics_listen: file.agent.metrics_listen,
        bgp,
        pools,
        quarantine_seconds: file.ipam.quarantine_seconds.unwrap_or(30).into(),
        ipam_audit_seconds,
        neighbours_wait: Duration::from_secs(neighbours_wait.into()),
        routes,
        mtu,
        label_rules: file
            .label_rule
            .into_iter()
            .map(|r| LabelRule { match_name: r.match_name, match_network: r.match_network, labels: r.labels })
            .collect(),
        policy,
    })
}

fn routes(table: &file::Routes, errors: &mut Errors<'_>) -> Routes {
    let mut place = |key, message| errors.at(&["routes".into(), Step::Key(key)], message);
    // Protocol numbers below 5 (linux/rtnetlink.h: redirect, kernel, boot, static) belong to others.
    if table.protocol.is_some_and(|p| p <= 4) {
        place("protocol", "protocol numbers 0 to 4 belong to the kernel and to static routes; use 5 to 255");
    }
    if table.table == Some(0) || table.table == Some(255) {
        place("table", "tables 0 and 255 are the kernel's own; use 1 to 252, 254 (main) or above 255");
    }
    if table.metric == Some(0) {
        place("metric", "metric 0 would take precedence over everybody else's routes; use 1 or more");
    }
    let (metric, local_metric) = (table.metric.unwrap_or(1024), table.local_metric.unwrap_or(1));
    if local_metric == 0 {
        place("local_metric", "IPv6 takes metric 0 for 1024; use 1 or more");
    } else if local_metric >= metric && table.metric != Some(0) {
        let key = if table.local_metric.is_some() { "local_metric" } else { "metric" };
        place(key, "local_metric must be lower than metric: a local container wins over a learned route");
    }
    if table.audit_seconds == Some(0) {
        place("audit_seconds", "the audit interval must be at least one second");
    }
    Routes {
        install: table.install.unwrap_or(true),
        table: table.table.unwrap_or(254),
        metric,
        local_metric,
        protocol: table.protocol.unwrap_or(32),
        max_routes: table.max_routes.unwrap_or(2_000_000),
        nexthop_objects: table.nexthop_objects.unwrap_or(true),
        audit_seconds: table.audit_seconds.unwrap_or(60).into(),
    }
}

/// A day: longer than switches are away, and longer than a night in which nobody sees that one is.
const IDENTITY_HOLD: u64 = 86_400;
/// A year.
const MAX_IDENTITY_HOLD: u64 = 365 * 86_400;

fn policy(table: file::Policy, errors: &mut Errors<'_>) -> PolicyConfig {
    let endpoint_to_host =
        table.endpoint_to_host.unwrap_or_else(|| vec!["icmp".into(), "tcp/53".into(), "udp/53".into()]);
    for (i, service) in endpoint_to_host.iter().enumerate() {
        if !is_service(service) {
            errors.at(
                &["policy".into(), "endpoint_to_host".into(), i.into()],
                format!(
                    "`{service}` is not a service: expected `icmp`, `tcp/PORT`, `udp/PORT` or `sctp/PORT`"
                ),
            );
        }
    }
    for (i, key) in table.expand.iter().enumerate() {
        if let Err(error) = Labels::new().insert(key.as_str(), "") {
            errors.at(&["policy".into(), "expand".into(), i.into()], error.to_string());
        }
    }
    let identity_hold = table.identity_hold_seconds.unwrap_or(IDENTITY_HOLD);
    if identity_hold > MAX_IDENTITY_HOLD {
        errors.at(
            &["policy".into(), "identity_hold_seconds".into()],
            "identities of lost sessions are kept for a year (31536000 seconds) at most; 0 forgets them at once",
        );
    }
    let mut infrastructure = Vec::new();
    for (i, text) in table.infrastructure.iter().enumerate() {
        match Prefix::parse_lenient(text) {
            Ok(prefix) => infrastructure.push(prefix),
            Err(error) => errors.at(&["policy".into(), "infrastructure".into(), i.into()], error.to_string()),
        }
    }
    let ct_mark_mask = table.ct_mark_mask.map_or(Some(DEFAULT_MARK_MASK), mark_mask);
    if ct_mark_mask.is_none() {
        errors.at(
            &["policy".into(), "ct_mark_mask".into()],
            "expected the bits of the 32 of the conntrack mark that are slash32's: at least 16 that follow each other, such \
             as 0xffffff00 (the default), 0x00ffff00 or 0xffff0000",
        );
    }
    let allow = |action: Option<file::DefaultAction>| action.is_none_or(|a| a == file::DefaultAction::Allow);
    PolicyConfig {
        enabled: table.enabled.unwrap_or(true),
        default_ingress: allow(table.default_ingress),
        default_egress: allow(table.default_egress),
        endpoint_to_host,
        infrastructure,
        expand: table.expand.into_iter().collect(),
        identity_hold: Duration::from_secs(identity_hold),
        deny_unknown: table.unknown_labels.is_none_or(|what| what == file::UnknownLabels::Deny),
        ct_mark_mask: ct_mark_mask.unwrap_or(DEFAULT_MARK_MASK),
        audit: Some(table.audit_seconds.unwrap_or(300))
            .filter(|s| *s > 0)
            .map(|s| Duration::from_secs(s.into())),
    }
}

/// A mask that is one run of at least 16 ones: with fewer, generations come round too soon.
fn mark_mask(number: i64) -> Option<u32> {
    let mask = u32::try_from(number).ok()?;
    let is_run = mask.leading_zeros() + mask.count_ones() + mask.trailing_zeros() == u32::BITS;
    (is_run && mask.count_ones() >= 16).then_some(mask)
}

fn is_service(text: &str) -> bool {
    match text.split_once('/') {
        None => text == "icmp",
        Some((protocol, port)) => {
            matches!(protocol, "tcp" | "udp" | "sctp") && port.parse::<u16>().is_ok_and(|port| port != 0)
        }
    }
}
