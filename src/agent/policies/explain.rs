//! `policy explain`: what the interpreter says, with the rules of the kernel's table and their live counters.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde_json::{Value, json};

use super::{
    Policies,
    answers::{host_addresses, is_host},
};
use crate::{
    api::Failure,
    model::Prefix,
    netlink,
    policy::{
        Direction, Flow, Protocol,
        engine::LABELS_UNKNOWN,
        explain::{Side, View},
        ir::{Chain, Field, Key, Name, Rule, Ruleset, Statement},
        nft::{self, Text},
    },
};

impl Policies {
    /// `policy explain`. `interface`: by which it comes in, if it is to this host; otherwise the one that leads to the
    /// source.
    pub(in crate::agent) fn explain(
        &mut self,
        (source, destination): (IpAddr, IpAddr),
        service: &str,
        source_port: Option<u16>,
        interface: Option<&str>,
    ) -> Result<Value, Failure> {
        let Some((protocol, port)) = Flow::parse_service(service) else {
            return Err(Failure::new(format!("`{service}` is not a service")).with_hint(
                "expected `tcp/80`, `udp/53`, `sctp/5000`, `icmp`, `icmpv6` or `icmp/TYPE/CODE`",
            ));
        };
        let mut flow = Flow::new(source, destination, protocol, port);
        if let Some(port) = source_port {
            if !protocol.has_ports() {
                return Err(Failure::new(format!("{protocol} has no ports, so no source port either")));
            }
            flow.source_port = port;
        }
        let host = host_addresses();
        let is_host = |addr: IpAddr| is_host(addr, &host);
        let mut view = View::new(&self.engine, self.engine.policies(), &is_host);
        view.interface = interface.map(str::to_owned).or_else(|| interface_to(source));
        // The host's address and port say nothing of what policies see behind a port mapping.
        let mapped = self.engine.mapped(&flow).filter(|_| is_host(destination));
        let mut answer = match &mapped {
            Some((_, behind)) => view.explain(behind),
            None => view.tell(&flow),
        };
        if let Some((id, behind)) = &mapped {
            let to = SocketAddr::new(behind.destination, behind.port);
            let from = SocketAddr::new(destination, flow.port);
            answer.reason =
                format!("the host's port {protocol}/{from} is mapped to {to} of {id}; {}", answer.reason);
        }
        let destination = mapped.as_ref().map_or(destination, |(_, behind)| behind.destination);
        let mapped = mapped
            .map(|(id, _)| json!({ "destination": flow.destination, "port": flow.port, "endpoint": id }));
        let mut value = serde_json::to_value(answer).map_err(|e| Failure::new(e.to_string()))?;
        value["mapped"] = mapped.into();
        for (end, addr) in [("source", source), ("destination", destination)] {
            if let Some(age) = self.kept_for(addr) {
                value[end]["kept_seconds"] = age.as_secs().into();
            }
        }
        let counters = self.counters();
        let Some(driver) = &self.driver else { return Ok(value) };
        let nothing = Ruleset::default();
        let text = Text::new(&nothing, driver.settings(), driver.generation());
        for (direction, addr) in [(Direction::Egress, source), (Direction::Ingress, destination)] {
            if let Some((id, _)) = self.engine.owner_of(Prefix::host(addr))
                && value[direction.as_str()].is_object()
            {
                if value[direction.as_str()]["decided_by"] == Side::UNKNOWN {
                    let chains = self.engine.fixed_chain(LABELS_UNKNOWN).into_iter().collect();
                    let counted = Counted { text: &text, counters: &counters, chains };
                    value[direction.as_str()]["nft"] =
                        counted.find("labels of the endpoint unknown", |_| true).into();
                    continue;
                }
                let chains = self.engine.chains_of(id, direction);
                let counted = Counted { text: &text, counters: &counters, chains };
                counted.add_to_side(&mut value[direction.as_str()], direction);
            }
        }
        let fixed = |name: &str| {
            let chains = self.engine.fixed_chain(name).into_iter().collect();
            Counted { text: &text, counters: &counters, chains }
        };
        // What comes with this source and is not the endpoint's is refused before its policies are asked.
        if self.engine.is_own(source) {
            let v4 = source.is_ipv4();
            let field = if v4 { Field::HeaderSourceV4 } else { Field::HeaderSourceV6 };
            let of_family = |rule: &Rule| {
                rule.statements
                    .iter()
                    .any(|s| matches!(s, Statement::Lookup { fields, .. } if fields.contains(&field)))
            };
            let comment = "source of an endpoint of this host, from elsewhere";
            value["source"]["forged"] = fixed("from_elsewhere").find(comment, of_family).into();
        }
        let names: Vec<&str> = self.engine.policies().host_policies.iter().map(|p| p.name.as_str()).collect();
        let is_local = value["source"]["kind"] == "local";
        let interface = value["host"]["interface"].as_str().map(str::to_owned);
        let steps = value["host"].as_object_mut().and_then(|host| host["steps"].as_array_mut());
        for step in steps.into_iter().flatten() {
            add_to_step(step, &fixed, &names, &flow, (is_local, interface.as_deref()));
        }
        Ok(value)
    }
}

/// The interface by which this host would answer.
fn interface_to(addr: IpAddr) -> Option<String> {
    let mut socket = netlink::Socket::route().ok()?;
    let index = netlink::route::way_to(&mut socket, addr, None).ok()??.interface?;
    netlink::link::by_index(&mut socket, index).ok().map(|link| link.name)
}

/// Adds to a step of the host's protection the nftables rules it became.
fn add_to_step<'a>(
    step: &mut Value,
    fixed: &dyn Fn(&str) -> Counted<'a>,
    policies: &[&str],
    flow: &Flow,
    (is_local, interface): (bool, Option<&str>),
) {
    let of_protocol = |rule: &Rule| names(rule, flow.protocol);
    let outcome = step["outcome"].as_str().unwrap_or_default().to_owned();
    let rules = match step["what"].as_str().unwrap_or_default() {
        "protected_ports" if is_local => {
            fixed("input_ep").find("endpoint to a protected port of the host", of_protocol)
        }
        "protected_ports" if outcome == "denied" => {
            fixed("remote_guard").find("endpoint of another host to a protected port", |_| true)
        }
        "neighbours" => fixed("neighbour_guard").find("no neighbour to a port of the speaker", |_| true),
        "failsafe" => fixed("input_host").find("host failsafe", of_protocol),
        "endpoint_to_host" if outcome == "allowed" => {
            fixed("input_ep").find("endpoint to host: open", of_protocol)
        }
        "endpoint_to_host" => fixed("input_ep").find("endpoint to host: not in endpoint_to_host", |_| true),
        "default" if outcome == "denied" => {
            let mut rules = fixed("input_host").find("host default deny", |rule| enters_by(rule, interface));
            // The first one refuses.
            rules.truncate(1);
            rules
        }
        "policy" => {
            let name = step["policy"].as_str().unwrap_or_default().to_owned();
            let Some(index) = policies.iter().position(|policy| *policy == name) else { return };
            let chain = fixed(&format!("host_{index}"));
            for rule in step["rules"].as_array_mut().into_iter().flatten() {
                let comment = format!(
                    "{}host {name} {} {}",
                    if rule["staged"] == true { "staged " } else { "" },
                    rule["rule"],
                    rule["action"].as_str().unwrap_or_default()
                );
                rule["nft"] = chain.find(&comment, |_| true).into();
            }
            return;
        }
        _ => return,
    };
    step["nft"] = rules.into();
}

/// Whether a rule is for a protocol.
fn names(rule: &Rule, protocol: Protocol) -> bool {
    rule.statements.contains(&Statement::is(Field::L4Proto, Key::byte(protocol.0)))
}

/// Whether a rule is for what comes in by an interface, or for all of them.
fn enters_by(rule: &Rule, interface: Option<&str>) -> bool {
    let mut conditions = rule.statements.iter().filter_map(|statement| match statement {
        Statement::Compare { field: Field::IifName, value, .. } => Some(value),
        _ => None,
    });
    // Names end with a zero byte where they are compared as a whole.
    conditions
        .all(|value| interface.is_some_and(|name| Key::interface(name).bytes().starts_with(value.bytes())))
}

/// Chains with their counters in the kernel.
struct Counted<'a> {
    text: &'a Text<'a>,
    counters: &'a [nft::RuleCounter],
    chains: Vec<(Name, Arc<Chain>)>,
}

impl Counted<'_> {
    /// The rules with a comment that are wanted.
    fn find(&self, comment: &str, wanted: impl Fn(&Rule) -> bool) -> Vec<Value> {
        let mut found = Vec::new();
        for (chain, rules) in &self.chains {
            // By their places, as comments may be cut in the kernel where they differ.
            let mut live = self.counters.iter().filter(|c| *c.chain == **chain);
            for rule in rules.rules.iter().filter(|rule| rule.statements.contains(&Statement::Counter)) {
                let counter = live.next();
                if rule.comment == comment && wanted(rule) {
                    found.push(json!({
                        "chain": chain, "rule": self.text.rule(rule),
                        "packets": counter.map(|c| c.packets), "bytes": counter.map(|c| c.bytes),
                    }));
                }
            }
        }
        found
    }

    /// Adds to each rule of an endpoint's side the nftables rules it became.
    fn add_to_side(&self, side: &mut Value, direction: Direction) {
        for tier in side["tiers"].as_array_mut().into_iter().flatten() {
            let name = tier["tier"].as_str().unwrap_or_default().to_owned();
            let outcome = tier["outcome"].as_str().unwrap_or_default();
            if let Some(default) = outcome.strip_prefix("default_") {
                let word = match default {
                    "allowed" => "allow",
                    "denied" => "deny",
                    _ => "pass",
                };
                tier["nft"] = self.find(&format!("{name} default {word}"), |_| true).into();
            }
            for rule in tier["rules"].as_array_mut().into_iter().flatten() {
                let text = |key: &str| rule[key].as_str().unwrap_or_default().to_owned();
                let comment = format!(
                    "{}{} {} {} {}",
                    if rule["staged"] == true { "staged " } else { "" },
                    text("policy"),
                    direction.as_str(),
                    rule["rule"],
                    text("action")
                );
                rule["nft"] = self.find(&comment, |_| true).into();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{
        ir::Verdict,
        nft::{RuleCounter, Settings},
    };

    /// Rules whose comments differ only behind what the kernel keeps of them.
    #[test]
    fn long_names_have_their_own_counters() {
        let long = "x".repeat(140);
        let rule = |comment: &str| {
            Rule::new([Statement::Counter, Statement::Verdict(Verdict::Drop)]).comment(comment)
        };
        let comments = [format!("{long} 1"), format!("{long} 2"), "short".to_owned()];
        let rules = comments.iter().map(|c| rule(c)).collect::<Vec<_>>();
        // One without a counter is not among what the kernel tells.
        let silent = Rule::new([Statement::Verdict(Verdict::Return)]).comment("short");
        let chain = Chain { rules: [vec![silent], rules].concat(), ..Chain::default() };
        let counters: Vec<_> = (7..)
            .zip(&comments)
            .map(|(packets, comment)| RuleCounter {
                chain: "cls".into(),
                comment: comment.chars().take(127).collect(),
                packets,
                bytes: 0,
            })
            .collect();
        let (nothing, settings) = (Ruleset::default(), Settings::default());
        let text = Text::new(&nothing, &settings, 1);
        let counted =
            Counted { text: &text, counters: &counters, chains: vec![("cls".into(), Arc::new(chain))] };
        for (comment, packets) in comments.iter().zip(7..) {
            let found = counted.find(comment, |_| true);
            assert_eq!(found.iter().map(|f| f["packets"].as_u64()).collect::<Vec<_>>(), [Some(packets)]);
        }
        assert!(counted.find(&long, |_| true).is_empty());
    }
}
