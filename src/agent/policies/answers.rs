//! What people ask about policies: show, matrix, diff, trace.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{Policies, Trace};
use crate::{
    agent::trace::{Refused, flow_of},
    api::Failure,
    model::Diagnostic,
    netlink,
    policy::{
        Direction, Flow, PolicySet,
        engine::{Engine, EngineConfig},
        explain::View,
        language,
        matrix::{Here, TooMany},
        nft::{self, Text},
    },
};

impl From<TooMany> for Failure {
    fn from(error: TooMany) -> Self {
        Self::new(error.to_string())
            .with_hint("`slash32 policy explain SRC DST SERVICE` answers for one pair of addresses")
    }
}

fn invalid(errors: &[Diagnostic]) -> Failure {
    Failure::new(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

/// This host's own addresses.
pub(super) fn host_addresses() -> Vec<IpAddr> {
    netlink::Socket::route()
        .and_then(|mut socket| netlink::addr::list(&mut socket))
        .map(|list| list.into_iter().map(|a| a.addr).collect())
        .unwrap_or_default()
}

/// Whether an address is this host's: one of its own, or that of its containers' gateways, which is on no interface.
pub(super) fn is_host(addr: IpAddr, host: &[IpAddr]) -> bool {
    host.contains(&addr) || matches!(addr, IpAddr::V4(v4) if v4.octets().starts_with(&[169, 254, 1]))
}

impl Policies {
    /// The address that `host` means: one that others can send to.
    pub(in crate::agent) fn host_address(ipv4: bool) -> Result<IpAddr, Failure> {
        let fits = |addr: &IpAddr| match addr {
            IpAddr::V4(v4) => ipv4 && !v4.is_loopback() && !v4.is_link_local(),
            IpAddr::V6(v6) => !ipv4 && !v6.is_loopback() && !v6.is_unicast_link_local(),
        };
        host_addresses().into_iter().find(fits).ok_or_else(|| {
            let family = if ipv4 { "IPv4" } else { "IPv6" };
            Failure::new(format!("this host has no {family} address that others can send to"))
        })
    }

    /// `policy show`.
    pub(in crate::agent) fn show(&mut self, nft: bool) -> Result<Value, Failure> {
        if nft {
            let Some(driver) = &self.driver else {
                return Err(
                    Failure::new("policy is switched off").with_hint("set `enabled = true` in [policy]")
                );
            };
            return Ok(Value::String(
                Text::new(&self.engine.compiled(), driver.settings(), driver.generation()).to_string(),
            ));
        }
        let mut packets: HashMap<String, u64> = HashMap::new();
        for counter in self.counters() {
            let text = counter.comment.strip_prefix("staged ").unwrap_or(&counter.comment);
            let text = text.strip_prefix("host ").unwrap_or(text);
            if let Some((name, _)) = text.split_once([' ', ':']) {
                *packets.entry(name.to_owned()).or_default() += counter.packets;
            }
        }
        let set = self.engine.policies();
        let counted = |name: &str| packets.get(name).copied().unwrap_or(0);
        let rows: Vec<Value> = set
            .policies
            .iter()
            .map(|policy| {
                let selected = self.engine.locals().filter(|e| policy.select.matches(&e.labels));
                let name = set.full_name(policy);
                json!({
                    "packets": counted(&name),
                    "name": name,
                    "order": (policy.order != i64::MAX).then_some(policy.order),
                    "select": policy.select.to_string(),
                    "ingress_rules": policy.rules(Direction::Ingress).map(<[_]>::len),
                    "egress_rules": policy.rules(Direction::Egress).map(<[_]>::len),
                    "staged": policy.staged,
                    "endpoints": selected.map(|e| e.id.to_string()).collect::<Vec<_>>(),
                    "file": policy.origin.to_string(),
                })
            })
            .collect();
        let host = set.host_policies.iter().map(|policy| {
            json!({
                "name": policy.name, "order": policy.order, "interfaces": policy.interfaces, "staged": policy.staged,
                "ingress_rules": policy.ingress.len(), "file": policy.origin.to_string(),
                "packets": counted(&policy.name),
            })
        });
        Ok(json!({
            "policies": rows,
            "host_policies": host.collect::<Vec<_>>(),
            "profiles": set.profiles,
            "tiers": set.tiers.iter().map(|t| json!({
                "name": t.name, "order": (t.order != i64::MAX).then_some(t.order), "default": t.default,
            })).collect::<Vec<_>>(),
            "notes": set.notes_in_short(),
            "errors": self.problems(),
        }))
    }

    /// The kernel's counters; none without a table of ours.
    pub(super) fn counters(&mut self) -> Vec<nft::RuleCounter> {
        let Some(driver) = &mut self.driver else { return Vec::new() };
        driver.counters().unwrap_or_else(|error| {
            tracing::warn!("the counters of the table cannot be read: {error}");
            Vec::new()
        })
    }

    /// What `policy matrix` and `diff` need: they can take seconds, which containers must not wait for.
    pub(in crate::agent) fn survey(&self) -> Survey {
        Survey {
            engine: self.engine.reader(),
            policies: self.engine.policies().clone(),
            options: self.options.clone(),
        }
    }

    /// `policy trace`: what was refused since the packet of a number.
    pub(in crate::agent) fn trace(&mut self, after: u64) -> Result<Value, Failure> {
        let now = Instant::now();
        let Some(driver) = &self.driver else {
            return Err(Failure::new("policy is switched off").with_hint("set `enabled = true` in [policy]"));
        };
        let started = self.trace.is_none();
        if started {
            let group = driver.settings().log_group;
            let trace = Trace::start(group, now).map_err(|error| {
                Failure::new(format!("cannot listen to nflog group {group}: {error}"))
                    .with_hint("another program may listen to it; a group has one listener")
            })?;
            self.trace = Some(trace);
            self.set_tracing(true)?;
        }
        // A new trace counts from the start.
        let after = if started { 0 } else { after };
        let refused = self.trace.as_mut().map(|t| t.after(after, now)).unwrap_or_default();
        let host = host_addresses();
        let last = refused.last().map_or(after, |r| r.number);
        let rows: Vec<Value> = refused.iter().map(|r| self.refused(r, &host)).collect();
        Ok(json!({ "started": started, "last": last, "packets": rows }))
    }

    pub(super) fn stop_trace(&mut self) {
        self.trace = None;
        // A failure is kept and shown.
        let _ = self.set_tracing(false);
    }

    fn set_tracing(&mut self, on: bool) -> Result<(), Failure> {
        let config = EngineConfig { trace: on, ..self.engine.config().clone() };
        self.engine.set_config(config);
        self.flush().map_err(Failure::new)
    }

    /// A refused packet and what refuses it. Of a reply, it is the connection it belongs to that is refused.
    fn refused(&self, refused: &Refused, host: &[IpAddr]) -> Value {
        let Refused { number, time, packet } = refused;
        let name = |index: Option<u32>| index.map(interface_name);
        let mut row = json!({
            "number": number,
            "time": seconds(*time),
            "iif": name(packet.iif),
            "oif": name(packet.oif),
            "chain": packet.prefix,
        });
        // What a rule logs is not refused by it; its prefix ends as people want it in a log.
        if let Some(rule) = packet.prefix.strip_suffix(": ") {
            row["chain"] = rule.into();
            row["logged"] = true.into();
        }
        let Some((flow, source_port)) = flow_of(&packet.bytes) else {
            row["reason"] = packet.prefix.as_str().into();
            return row;
        };
        row["source"] = flow.source.to_string().into();
        row["destination"] = flow.destination.to_string().into();
        row["service"] = service(&flow).into();
        row["source_port"] = source_port.into();
        let is_host = |addr: IpAddr| is_host(addr, host);
        let mut view = View::new(&self.engine, self.engine.policies(), &is_host);
        view.interface = packet.iif.map(interface_name);
        let by_policy = packet.prefix.ends_with("by policy");
        let answer = by_policy.then(|| view.explain(&flow)).filter(|a| !a.allowed);
        let reply = source_port.filter(|_| by_policy && answer.is_none()).and_then(|port| {
            let turned = Flow {
                source_port: flow.port,
                ..Flow::new(flow.destination, flow.source, flow.protocol, port)
            };
            Some(view.explain(&turned)).filter(|a| !a.allowed)
        });
        row["reason"] = match (answer, reply) {
            (Some(answer), _) => answer.reason,
            (None, Some(answer)) => format!("a reply; {}", answer.reason),
            (None, None) if by_policy => "refused by what was in force at that moment; allowed now".into(),
            (None, None) => match row["chain"].as_str() {
                Some(rule) if row["logged"] == true => format!("logged by {rule}, not refused by it"),
                _ => packet.prefix.clone(),
            },
        }
        .into();
        row
    }
}

/// This host as an end of connections.
fn here() -> Here {
    let addresses = [true, false].into_iter().filter_map(|ipv4| Policies::host_address(ipv4).ok()).collect();
    Here { addresses, endpoints_anywhere: false }
}

/// The endpoints and policies of a moment.
#[derive(Debug)]
pub(in crate::agent) struct Survey {
    engine: Engine,
    policies: Arc<PolicySet>,
    options: language::Options,
}

impl Survey {
    /// `policy matrix`.
    pub(in crate::agent) fn matrix(&self) -> Result<Value, Failure> {
        let host = host_addresses();
        let is_host = |addr: IpAddr| is_host(addr, &host);
        let matrix = View::new(&self.engine, &self.policies, &is_host).matrix(&here())?;
        serde_json::to_value(matrix).map_err(|e| Failure::new(e.to_string()))
    }

    /// `policy diff`.
    pub(in crate::agent) fn diff(
        &self,
        old: Option<&[(String, String)]>,
        new: &[(String, String)],
    ) -> Result<Value, Failure> {
        let parse = |files: &[(String, String)]| -> Result<PolicySet, Failure> {
            let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
            language::parse_with(&files, &self.options).map_err(|errors| invalid(&errors))
        };
        let before = match old {
            Some(files) => parse(files)?.into(),
            None => self.policies.clone(),
        };
        let after = parse(new)?;
        let host = host_addresses();
        let is_host = |addr: IpAddr| is_host(addr, &host);
        let changes = View::new(&self.engine, &before, &is_host).diff(&after, &here())?;
        Ok(json!({ "policies": before.differences(&after), "changes": changes }))
    }
}

fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

fn service(flow: &Flow) -> String {
    let text = flow.to_string();
    text.split_once(" -> ")
        .and_then(|(_, rest)| rest.split_once(' '))
        .map_or(text.clone(), |(_, s)| s.to_owned())
}

/// The name of an interface, or its number if it is gone.
fn interface_name(index: u32) -> String {
    netlink::Socket::route()
        .and_then(|mut socket| netlink::link::list(&mut socket))
        .ok()
        .and_then(|links| links.into_iter().find(|l| l.index == index).map(|l| l.name))
        .unwrap_or_else(|| index.to_string())
}
