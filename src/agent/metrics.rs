//! Counters in the Prometheus text format, and the small HTTP server that hands them out.

use std::{fmt::Write, net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::service::Service;
use crate::{
    api::Failure,
    bgp::{
        bfd::{SessionStatus, State, driver::BfdStatus},
        rib::RibStats,
        speaker::UpdateLogStatus,
    },
    cni::ipam::BlockUse,
    routes::Summary,
};

/// Builds the text: one `# TYPE` line a metric, then its samples.
#[derive(Debug, Default)]
pub(super) struct Page {
    text: String,
}

impl Page {
    /// Begins a metric; `kind` is `gauge` or `counter`.
    pub(super) fn metric(&mut self, name: &str, kind: &str, help: &str) -> &mut Self {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        self
    }

    /// Adds a sample with labels.
    pub(super) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) -> &mut Self {
        self.line(name, labels, &value)
    }

    /// As [`Page::sample`], of a real number.
    pub(super) fn real(&mut self, name: &str, labels: &[(&str, &str)], value: f64) -> &mut Self {
        self.line(name, labels, &value)
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: &dyn std::fmt::Display) -> &mut Self {
        let labels: Vec<String> =
            labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escape(value))).collect();
        let braces = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.text, "{name}{braces} {value}");
        self
    }

    /// The whole text.
    pub(super) fn finish(self) -> String {
        self.text
    }
}

/// A metric with one sample and no labels.
pub(super) fn gauge(page: &mut Page, name: &str, help: &str, value: u64) {
    page.metric(name, "gauge", help).sample(name, &[], value);
}

/// How full the address blocks are.
pub(super) fn addresses(page: &mut Page, usage: &[BlockUse]) {
    const NAME: &str = "slash32_ipam_addresses";
    page.metric(NAME, "gauge", "Addresses of this host's blocks, by what they are doing.");
    for block in usage.iter().filter(|b| b.local) {
        let prefix = block.block.to_string();
        let states = [
            ("used", block.used),
            ("resting", block.resting),
            ("elsewhere", block.elsewhere),
            ("reserved", block.reserved),
            ("free", block.free),
        ];
        for (state, count) in states {
            let labels = [("pool", block.pool.as_str()), ("block", &prefix), ("state", state)];
            page.sample(NAME, &labels, count);
        }
    }
}

/// How many endpoints need a person, by why.
pub(super) fn attention(page: &mut Page, counts: &[(&str, u64)]) {
    const NAME: &str = "slash32_endpoints_attention";
    page.metric(NAME, "gauge", "Containers that `slash32 status` asks attention for, by reason.");
    for (reason, count) in counts {
        page.sample(NAME, &[("reason", reason)], *count);
    }
}

/// How often a host end was put right.
pub(super) fn mended(page: &mut Page, count: u64) {
    const NAME: &str = "slash32_endpoints_repaired_total";
    page.metric(NAME, "counter", "Host ends that somebody else had changed and that were put right.");
    page.sample(NAME, &[], count);
}

/// What every neighbour counts.
pub(super) fn peers(page: &mut Page, peers: &[Value]) {
    const COUNTERS: [(&str, &str, &str, &str); 11] = [
        (
            "slash32_bgp_peer_prefixes_received",
            "gauge",
            "prefixes_received",
            "Prefixes the neighbour announces.",
        ),
        (
            "slash32_bgp_peer_prefixes_accepted",
            "gauge",
            "prefixes_accepted",
            "Prefixes of it that may be used.",
        ),
        ("slash32_bgp_peer_prefixes_sent", "gauge", "prefixes_sent", "Prefixes announced to the neighbour."),
        ("slash32_bgp_peer_messages_received_total", "counter", "messages_received", "Messages received."),
        ("slash32_bgp_peer_messages_sent_total", "counter", "messages_sent", "Messages sent."),
        ("slash32_bgp_peer_updates_received_total", "counter", "updates_received", "UPDATEs received."),
        ("slash32_bgp_peer_updates_sent_total", "counter", "updates_sent", "UPDATEs sent."),
        (
            "slash32_bgp_peer_updates_withdrawn_total",
            "counter",
            "updates_withdrawn",
            "UPDATEs with an error for which their routes were withdrawn.",
        ),
        (
            "slash32_bgp_peer_updates_discarded_total",
            "counter",
            "updates_discarded",
            "UPDATEs that lost an attribute for an error.",
        ),
        (
            "slash32_bgp_peer_identities_stripped_total",
            "counter",
            "identities_stripped",
            "Identity communities that were not believed.",
        ),
        ("slash32_bgp_peer_established_total", "counter", "established_count", "Times the session came up."),
    ];
    let name = |peer: &Value| peer["peer"].as_str().unwrap_or_default().to_owned();
    page.metric("slash32_bgp_peer_up", "gauge", "1 while the session is established.");
    for peer in peers {
        page.sample("slash32_bgp_peer_up", &[("peer", &name(peer))], (peer["state"] == "Established").into());
    }
    page.metric(
        "slash32_bgp_peer_authentication",
        "gauge",
        "1 for the kind of authentication that the connection must have: md5, tcp_ao or none.",
    );
    for peer in peers {
        let kind = peer["authentication"].as_str().unwrap_or("none");
        page.sample("slash32_bgp_peer_authentication", &[("peer", &name(peer)), ("kind", kind)], 1);
    }
    prefix_limits(page, peers);
    for (metric, kind, field, help) in COUNTERS {
        page.metric(metric, kind, help);
        for peer in peers {
            page.sample(metric, &[("peer", &name(peer))], peer[field].as_u64().unwrap_or(0));
        }
    }
}

/// Only of neighbours that have a limit.
fn prefix_limits(page: &mut Page, peers: &[Value]) {
    type Of = fn(&Value) -> u64;
    let metrics: [(&str, &str, Of); 3] = [
        (
            "slash32_bgp_peer_prefix_limit",
            "Prefixes beyond which the session ends (max_prefixes).",
            |limit| limit["limit"].as_u64().unwrap_or(0),
        ),
        (
            "slash32_bgp_peer_prefix_limit_warning",
            "1 while there are as many as max_prefixes_warning says, or too many.",
            |limit| (limit["state"] != "ok").into(),
        ),
        (
            "slash32_bgp_peer_prefix_limit_exceeded",
            "1 from when the session ended for too many prefixes until there is a new one.",
            |limit| (limit["state"] == "exceeded").into(),
        ),
    ];
    for (metric, help, value) in metrics {
        page.metric(metric, "gauge", help);
        for peer in peers {
            let name = peer["peer"].as_str().unwrap_or_default();
            for limit in peer["prefix_limits"].as_array().into_iter().flatten() {
                let family = limit["family"].as_str().unwrap_or_default();
                page.sample(metric, &[("peer", name), ("family", family)], value(limit));
            }
        }
    }
}

/// The speaker's tables.
pub(super) fn rib(page: &mut Page, stats: &RibStats) {
    let by_family = [
        ("slash32_bgp_rib_prefixes", "Prefixes with at least one path.", &stats.prefixes),
        ("slash32_bgp_rib_paths", "Paths kept, this host's own included.", &stats.paths),
    ];
    for (name, help, counts) in by_family {
        page.metric(name, "gauge", help);
        for (family, count) in counts {
            page.sample(name, &[("family", &family.to_string())], *count as u64);
        }
    }
    let gauges = [
        ("attribute_sets", "Distinct sets of path attributes.", stats.attribute_sets),
        ("update_groups", "Groups of neighbours that are sent the same.", stats.update_groups),
        ("next_hops", "Distinct next hops of received paths.", stats.next_hops),
        (
            "next_hops_unreachable",
            "Next hops of received paths that no kernel route leads to.",
            stats.next_hops_unreachable,
        ),
    ];
    for (name, help, value) in gauges {
        gauge(page, &format!("slash32_bgp_rib_{name}"), help, value as u64);
    }
}

/// The kernel's routes.
pub(super) fn routes(page: &mut Page, fib: &Summary) {
    let gauges: [(&str, &str, usize); 16] = [
        ("desired", "Learned routes that should be in the kernel.", fib.ipv4 + fib.ipv6),
        ("installed", "Learned routes that are in the kernel.", fib.installed),
        ("pending", "Routes waiting to be written.", fib.pending),
        ("stale", "Routes from before the start that no neighbour has confirmed yet.", fib.stale),
        ("unresolved", "Learned routes without a reachable next hop.", fib.unresolved),
        ("rejected", "Learned routes refused for what they are, or over the limit.", fib.rejected),
        ("over_limit", "Learned routes over the limit of the kernel's routes.", fib.over_limit),
        ("conflicts", "Learned routes kept out by somebody else's with the same metric.", fib.conflicts),
        ("shadowed", "Learned routes to which the kernel prefers somebody else's.", fib.shadowed),
        ("refused", "Learned routes that the kernel refused.", fib.refused),
        ("local", "Routes to containers of this host.", fib.local),
        ("blackholes", "Blackhole routes for the host's own blocks.", fib.blackholes),
        ("local_refused", "Routes to containers that the kernel refused.", fib.local_refused),
        (
            "local_shadowed",
            "Routes to containers and of the host's blocks to which the kernel prefers somebody else's.",
            fib.local_shadowed,
        ),
        ("nexthop_groups", "Sets of next hops, each a group in the kernel.", fib.groups),
        ("nexthops_unresolved", "Next hops that resolve to nothing.", fib.next_hops_unresolved),
    ];
    for (name, help, value) in gauges {
        gauge(page, &format!("slash32_routes_{name}"), help, value as u64);
    }
    let counters = &fib.counters;
    let totals: [(&str, &str, u64); 8] = [
        ("created", "Routes created in the kernel.", counters.created),
        ("changed", "Routes changed in the kernel.", counters.changed),
        ("deleted", "Routes deleted from the kernel.", counters.deleted),
        ("objects_written", "Next-hop objects and groups written.", counters.objects_written),
        ("kernel_errors", "Messages that the kernel refused.", counters.refused),
        ("resyncs", "Times the kernel was read and compared.", counters.resyncs),
        ("overruns", "Losses of the kernel's notifications, each followed by a resync.", counters.overruns),
        ("repaired", "What somebody else deleted or changed and was put right.", counters.repaired),
    ];
    for (name, help, value) in totals {
        let name = format!("slash32_routes_{name}_total");
        page.metric(&name, "counter", help).sample(&name, &[], value);
    }
}

/// What is missing of each neighbour's routes, by reason.
pub(super) fn refusals(page: &mut Page, peers: &[Value]) {
    const REFUSALS: [(&str, &str, &str, &str); 2] = [
        (
            "slash32_bgp_peer_prefixes_rejected_total",
            "counter",
            "rejected",
            "Prefixes received and not accepted, by reason.",
        ),
        (
            "slash32_bgp_peer_routes_not_installed",
            "gauge",
            "not_installed",
            "Best routes of the neighbour that are not in the kernel, by reason.",
        ),
    ];
    for (metric, kind, field, help) in REFUSALS {
        page.metric(metric, kind, help);
        for peer in peers {
            let name = peer["peer"].as_str().unwrap_or_default();
            for (reason, count) in peer[field].as_object().into_iter().flatten() {
                page.sample(metric, &[("peer", name), ("reason", reason)], count.as_u64().unwrap_or(0));
            }
        }
    }
}

/// Every BFD session.
pub(super) fn bfd(page: &mut Page, sessions: &[BfdStatus]) {
    type Of = fn(&SessionStatus) -> f64;
    const FIGURES: [(&str, &str, &str, Of); 6] = [
        ("slash32_bfd_up", "gauge", "1 while the session is up.", |s| (s.state == State::Up).into()),
        ("slash32_bfd_ups_total", "counter", "Times the session came up.", |s| s.ups as f64),
        ("slash32_bfd_packets_sent_total", "counter", "Packets sent.", |s| s.sent as f64),
        ("slash32_bfd_packets_received_total", "counter", "Packets taken in.", |s| s.received as f64),
        ("slash32_bfd_interval_seconds", "gauge", "The interval at which packets are sent.", |s| {
            s.transmit_interval.as_secs_f64()
        }),
        ("slash32_bfd_detection_seconds", "gauge", "How long a silence is tolerated.", |s| {
            s.detection_time.as_secs_f64()
        }),
    ];
    if sessions.is_empty() {
        return;
    }
    for (metric, kind, help, value) in FIGURES {
        page.metric(metric, kind, help);
        for session in sessions {
            page.real(metric, &[("peer", &session.key.to_string())], value(&session.status));
        }
    }
}

/// What every BMP collector counts.
pub(super) fn collectors(page: &mut Page, collectors: &[Value]) {
    const FIGURES: [(&str, &str, &str, &str); 7] = [
        ("slash32_bmp_connects_total", "counter", "connects", "Times the collector was connected to."),
        (
            "slash32_bmp_overflows_total",
            "counter",
            "overflows",
            "Times the buffer was full as the collector was too slow.",
        ),
        ("slash32_bmp_messages_sent_total", "counter", "messages_sent", "BMP messages handed out."),
        ("slash32_bmp_bytes_sent_total", "counter", "bytes_sent", "Bytes written to the collector."),
        (
            "slash32_bmp_restarts_total",
            "counter",
            "restarts",
            "Times it was so slow that it got all tables anew.",
        ),
        ("slash32_bmp_bytes_waiting", "gauge", "bytes_waiting", "Bytes that wait for the collector."),
        (
            "slash32_bmp_changes_waiting",
            "gauge",
            "changes_waiting",
            "Merged changes that wait for the collector.",
        ),
    ];
    if collectors.is_empty() {
        return;
    }
    let name = |collector: &Value| collector["collector"].as_str().unwrap_or_default().to_owned();
    page.metric("slash32_bmp_up", "gauge", "1 while the collector is connected.");
    for collector in collectors {
        let up = collector["state"] == "connected";
        page.sample("slash32_bmp_up", &[("collector", &name(collector))], up.into());
    }
    for (metric, kind, field, help) in FIGURES {
        page.metric(metric, kind, help);
        for collector in collectors {
            let value = collector[field].as_u64().unwrap_or(0);
            page.sample(metric, &[("collector", &name(collector))], value);
        }
    }
}

/// What the log of updates counts.
pub(super) fn update_log(page: &mut Page, log: &UpdateLogStatus) {
    for (name, help, value) in [
        ("slash32_mrt_records_total", "Records written to the log of updates.", log.records),
        ("slash32_mrt_bytes_total", "Bytes written to the log of updates.", log.bytes),
        ("slash32_mrt_dropped_total", "Records that the disk did not take in time.", log.dropped),
    ] {
        page.metric(name, "counter", help).sample(name, &[], value);
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Where the metrics are served.
#[derive(Debug)]
pub(super) struct MetricsPage {
    address: Option<SocketAddr>,
    task: Option<JoinHandle<()>>,
}

impl MetricsPage {
    /// Serves them there, if anywhere.
    pub(super) async fn start(address: Option<SocketAddr>, service: &Service) -> anyhow::Result<Self> {
        let mut page = Self { address: None, task: None };
        page.serve(address, service).await.map_err(anyhow::Error::msg)?;
        Ok(page)
    }

    /// Serves them elsewhere, or no longer. If that is not possible they stay where they were.
    pub(super) async fn listen(
        &mut self,
        address: Option<SocketAddr>,
        service: &Service,
    ) -> Result<(), Failure> {
        let before = self.address;
        let Err(why) = self.serve(address, service).await else { return Ok(()) };
        if let Err(why) = self.serve(before, service).await {
            tracing::error!("{why}");
        }
        Err(Failure::new(why).with_hint("the agent goes on with the configuration it has"))
    }

    async fn serve(&mut self, address: Option<SocketAddr>, service: &Service) -> Result<(), String> {
        // The old socket goes first: the new address may be the same port of another host address.
        if let Some(task) = self.task.take() {
            task.abort();
            _ = task.await;
        }
        self.address = None;
        let Some(wanted) = address else { return Ok(()) };
        let listener = TcpListener::bind(wanted)
            .await
            .map_err(|e| format!("metrics_listen: cannot listen on {wanted}: {e}"))?;
        (self.address, self.task) = (address, Some(tokio::spawn(serve(listener, service.clone()))));
        Ok(())
    }
}

/// Answers every request with the metrics, one request a connection.
async fn serve(listener: TcpListener, service: Service) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let service = service.clone();
        tokio::spawn(async move {
            // A client that sends nothing must not hold the connection for ever.
            let _ = tokio::time::timeout(Duration::from_secs(10), answer(stream, service)).await;
        });
    }
}

async fn answer(mut stream: TcpStream, service: Service) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|w| w == b"\r\n\r\n") && head.len() < 16_384 {
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    let (status, body) = match head.split(|b| *b == b' ').nth(1) {
        Some(b"/metrics" | b"/") => ("200 OK", service.metrics().await),
        _ => ("404 Not Found", "the metrics are at /metrics\n".to_owned()),
    };
    let response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_format() {
        let mut page = Page::default();
        page.metric("slash32_x", "gauge", "An x.").sample("slash32_x", &[("peer", "a\"b")], 3);
        assert_eq!(
            page.finish(),
            "# HELP slash32_x An x.\n# TYPE slash32_x gauge\nslash32_x{peer=\"a\\\"b\"} 3\n"
        );
    }
}
