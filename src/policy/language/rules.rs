//! The rules of a policy: action, the other side, protocols and ports.

use std::ops::Range;

use super::{
    Definitions, is_yaml, place,
    tree::{Data, Node},
    walk::{Source, Table},
};
use crate::{
    model::Prefix,
    policy::{
        Action, Direction, Entity, Origin, Peer, Ports, Protocol, Rate, Rule, Service,
        engine::join,
        ranges::Ranges,
        selector::{Selector, TextOp},
    },
};

/// Where a list of rules stands, which decides what they may say.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Endpoint(Direction),
    Host,
}

impl Source<'_> {
    /// A list of rules.
    pub(super) fn rules(&mut self, value: &Node, place: Place, known: &Definitions) -> Vec<Rule> {
        let Data::List(items) = &value.data else {
            self.error(value.span(), "rules must be a list of tables, such as `[ { action = \"allow\" } ]`");
            return Vec::new();
        };
        items.iter().filter_map(|item| self.rule(item, place, known)).collect()
    }

    fn rule(&mut self, value: &Node, place: Place, known: &Definitions) -> Option<Rule> {
        let mut table = self.table(value, "a rule")?;
        let action = table.need(self, "action").and_then(|v| {
            self.word(
                v,
                "action",
                &[
                    ("allow", Action::Allow),
                    ("deny", Action::Deny),
                    ("reject", Action::Reject),
                    ("pass", Action::Pass),
                    ("log", Action::Log),
                ],
            )
        });
        if place == Place::Host && action == Some(Action::Pass) {
            self.error(table.span.clone(), "a host policy has no tier to pass to");
        }
        let (side, other) = match place {
            Place::Endpoint(Direction::Egress) => ("to", "from"),
            _ => ("from", "to"),
        };
        if let Some(wrong) = table.take(other) {
            let direction = if side == "to" { "egress" } else { "ingress" };
            self.error(wrong.span(), format!("a rule for {direction} has `{side}`, not `{other}`"));
        }
        let peers = table.take(side).map_or_else(Vec::new, |v| self.peers(v, place, known));
        let services = self.services(&mut table, ("protocol", "ports"), known);
        let not_services = self.services(&mut table, ("not_protocol", "not_ports"), known);
        let source_ports = self.source_ports(&mut table, &services);
        let log = match (table.take("log"), action) {
            (Some(v), _) => self.log(v),
            // A rule that only logs has a limit of its own, or a flood would fill the log.
            (None, Some(Action::Log)) => Some(DEFAULT_LOG),
            _ => None,
        };
        let limit = table.take("limit").and_then(|v| self.rate(v, "limit"));
        let line = self.line(table.span.start);
        table.finish(self);
        let origin = Origin { file: self.name.into(), line };
        Some(Rule { action: action?, peers, services, not_services, source_ports, log, limit, origin })
    }

    fn peers(&mut self, value: &Node, place: Place, known: &Definitions) -> Vec<Peer> {
        let items = self.list(value);
        if items.is_empty() {
            self.error_with_help(
                value.span(),
                "an empty list matches nobody",
                "leave `from` or `to` out to match anyone",
            );
        }
        items.into_iter().filter_map(|item| self.peer(item, place, known)).collect()
    }

    fn peer(&mut self, value: &Node, place: Place, known: &Definitions) -> Option<Peer> {
        if matches!(value.data, Data::String(_)) {
            return Some(Peer { entity: Some(self.entity(value, place)?), ..Peer::default() });
        }
        let before = self.errors.len();
        let mut table = self.table(value, "a peer")?;
        let mut peer = Peer::default();
        if let Some(v) = table.take("selector") {
            peer.selector = self.peer_selector(v);
        }
        if let Some(v) = table.take("entity") {
            peer.entity = self.entity(v, place);
        }
        let cidr = table.take("cidr").map(|v| self.prefixes(v));
        let sets = table.take("set").map(|v| self.network_sets(v, known));
        let mut named = sets.is_some();
        let mut inside = match (cidr, sets) {
            (None, None) => None,
            (Some(one), None) | (None, Some(one)) => Some(one),
            // All keys of a peer must hold; the items of one key's list are alternatives.
            (Some(cidr), Some(set)) => Some(cidr.intersection(&set)),
        };
        let except = table.take("except").map(|v| self.prefixes(v));
        let not_set = table.take("not_set").map(|v| self.network_sets(v, known));
        named |= not_set.is_some();
        if except.is_some() || not_set.is_some() {
            let out = except.unwrap_or_default().union(&not_set.unwrap_or_default());
            inside = Some(inside.unwrap_or_else(Ranges::everything).minus(&out));
        }
        let clean = self.errors.len() == before;
        // A set may be empty now and then. What is written out here and matches nothing is a mistake.
        if clean && !named && inside.as_ref().is_some_and(Ranges::is_empty) {
            self.error(table.span.clone(), "these addresses and exceptions leave nothing to match");
        }
        peer.ranges = inside;
        if clean && peer == Peer::default() {
            self.error(table.span.clone(), "a peer needs `selector`, `cidr`, `set`, `except` or `not_set`");
        }
        table.finish(self);
        Some(peer)
    }

    fn entity(&mut self, value: &Node, place: Place) -> Option<Entity> {
        // What people write when they forget the table.
        let text = value.text().unwrap_or_default();
        let meant = if text.parse::<Prefix>().is_ok() {
            Some(("an address", "cidr"))
        } else if text.contains(['=', '(', '{']) && text.parse::<Selector>().is_ok() {
            Some(("a selector", "selector"))
        } else {
            None
        };
        if let Some((what, key)) = meant {
            let help = format!("{{ {key} = {} }}", self.text.get(value.span()).unwrap_or("…"));
            self.error_with_help(value.span(), format!("{what} as a peer needs its key"), help);
            return None;
        }
        let entity = self.word(
            value,
            "entity",
            &[("self", Entity::Myself), ("host", Entity::Host), ("world", Entity::World)],
        )?;
        if place == Place::Host && entity != Entity::World {
            self.error(
                value.span(),
                "a host policy is about traffic from elsewhere: only `world` makes sense here",
            );
        }
        Some(entity)
    }

    /// The selector of endpoints a policy applies to; these are local, so all operators can be answered.
    pub(super) fn selector(&mut self, value: &Node) -> Option<Selector> {
        let text = self.string(value, "a selector")?;
        match text.parse() {
            Ok(selector) => Some(selector),
            Err(error) => {
                let span = self.inside(value.span(), text, error.at);
                self.error(span, error.message);
                None
            }
        }
    }

    /// A selector that must also be answered for remote endpoints, of which only hashes of labels are known.
    pub(super) fn peer_selector(&mut self, value: &Node) -> Option<Selector> {
        let selector = self.selector(value)?;
        self.answerable(value, &selector).then_some(selector)
    }

    /// Whether a selector can be answered for remote endpoints; an error at `value` if it cannot.
    pub(super) fn answerable(&mut self, value: &Node, selector: &Selector) -> bool {
        let texts = selector.texts();
        let Some((key, op)) = texts.into_iter().find(|(key, _)| !self.expand.contains(*key)) else {
            return true;
        };
        let text = value.text().unwrap_or_default();
        let span = asked_at(text, key, op).map_or(value.span(), |at| self.inside(value.span(), text, at));
        self.error_with_help(
            span,
            format!(
                "`{key} {}` cannot be answered for endpoints of other hosts: only hashes of their labels travel",
                op.as_str()
            ),
            format!(
                "list `{key}` in `expand` of [policy] on every host, so that it travels in full; or use `==` or `in {{…}}`"
            ),
        );
        false
    }

    /// The place `at` bytes into a string value.
    pub(super) fn inside(&self, span: Range<usize>, text: &str, at: usize) -> Range<usize> {
        let raw = self.text.get(span.clone()).unwrap_or_default();
        match place::inside(raw, text, at, is_yaml(self.name)) {
            Some(offset) => {
                let start = span.start + offset;
                start..(start + 1).min(span.end).max(start)
            }
            None => span,
        }
    }

    pub(super) fn prefixes(&mut self, value: &Node) -> Ranges {
        let mut list = Vec::new();
        for item in self.list(value) {
            let Some(text) = self.string(item, "an address or CIDR") else { continue };
            match text.parse::<Prefix>() {
                Ok(prefix) => list.push(prefix),
                Err(error) => self.error(item.span(), error.to_string()),
            }
        }
        list.into_iter().collect()
    }

    fn network_sets(&mut self, value: &Node, known: &Definitions) -> Ranges {
        let mut all = Ranges::default();
        for item in self.list(value) {
            let Some(name) = self.string(item, "the name of a network set") else { continue };
            match known.network_sets.get(name) {
                Some(ranges) => all = all.union(ranges),
                None => {
                    self.error(item.span(), format!("there is no [[network_set]] with the name `{name}`"));
                }
            }
        }
        all
    }

    fn services(
        &mut self,
        table: &mut Table<'_>,
        (protocol_key, ports_key): (&'static str, &'static str),
        known: &Definitions,
    ) -> Vec<Service> {
        let plain = protocol_key == "protocol";
        let icmp = if plain { (table.take("icmp_type"), table.take("icmp_code")) } else { (None, None) };
        let ports = table.take(ports_key);
        let Some(value) = table.take(protocol_key) else {
            if let Some(v) = ports {
                self.error_with_help(
                    v.span(),
                    format!("`{ports_key}` needs `{protocol_key}`"),
                    "say which: \"tcp\", \"udp\", \"sctp\" or a list of them",
                );
            }
            if let Some(v) = icmp.0.or(icmp.1) {
                self.error(v.span(), "an ICMP type or code needs `protocol = \"icmp\"` or `\"icmpv6\"`");
            }
            return Vec::new();
        };
        let protocols: Vec<Protocol> =
            self.list(value).into_iter().filter_map(|item| self.protocol(item)).collect();
        if self.list(value).is_empty() {
            self.error(value.span(), format!("an empty `{protocol_key}` matches nothing"));
        }
        let icmp_type = icmp.0.and_then(|v| self.integer(v, 0..=255, "icmp_type"));
        let icmp_code = icmp.1.and_then(|v| self.integer(v, 0..=255, "icmp_code"));
        if let (None, Some(v)) = icmp {
            self.error(v.span(), "`icmp_code` needs `icmp_type`");
        }
        if let Some(v) = icmp.0.filter(|_| !protocols.iter().all(|p| p.is_icmp())) {
            self.error(v.span(), "an ICMP type or code needs `protocol = \"icmp\"` or `\"icmpv6\"`");
        }
        let kinds: Vec<Ports> = match (ports, icmp_type) {
            (Some(v), _) => {
                if let Some(bad) = protocols.iter().find(|p| !p.has_ports()) {
                    self.error(v.span(), format!("protocol {bad} has no ports"));
                }
                let items = self.list(v);
                if items.is_empty() {
                    self.error_with_help(
                        v.span(),
                        "an empty list of ports matches nothing",
                        format!("leave `{ports_key}` out for all ports"),
                    );
                }
                let mut kinds: Vec<Ports> =
                    items.into_iter().filter_map(|item| self.port(item, known)).collect();
                if !plain && kinds.iter().any(|k| matches!(k, Ports::Named(_))) {
                    self.error(
                        v.span(),
                        "a named port cannot be negated: it is not the same number everywhere",
                    );
                    kinds.clear();
                }
                kinds
            }
            (None, Some(kind)) => vec![Ports::Icmp(kind as u8, icmp_code.map(|c| c as u8))],
            (None, None) => vec![Ports::Any],
        };
        let mut services: Vec<Service> = protocols
            .iter()
            .flat_map(|p| kinds.iter().map(|k| Service { protocol: *p, ports: k.clone() }))
            .collect();
        services.sort();
        services.dedup();
        services
    }

    /// `source_ports`: numbers and ranges, for protocols that have ports.
    fn source_ports(&mut self, table: &mut Table<'_>, services: &[Service]) -> Option<Vec<(u16, u16)>> {
        let value = table.take("source_ports")?;
        if services.is_empty() || services.iter().any(|s| !s.protocol.has_ports()) {
            self.error_with_help(
                value.span(),
                "`source_ports` needs a `protocol` with ports",
                "say which: \"tcp\", \"udp\", \"sctp\" or a list of them",
            );
        }
        let items = self.list(value);
        if items.is_empty() {
            self.error_with_help(
                value.span(),
                "an empty list of ports matches nothing",
                "leave `source_ports` out for all ports",
            );
        }
        let mut ranges = Vec::new();
        for item in items {
            match self.port(item, &Definitions::default()) {
                Some(Ports::Range(low, high)) => ranges.push((low, high)),
                _ => return None,
            }
        }
        join(&mut ranges);
        Some(ranges)
    }

    pub(super) fn protocol(&mut self, value: &Node) -> Option<Protocol> {
        if value.is_number() {
            return self.integer(value, 0..=255, "a protocol number").map(|n| Protocol(n as u8));
        }
        let text = self.string(value, "a protocol")?;
        let found = Protocol::parse(text);
        if found.is_none() {
            let lower = text.to_ascii_lowercase();
            let help =
                Protocol::parse(&lower).map_or_else(String::new, |_| format!("did you mean `{lower}`?"));
            let message =
                format!("unknown protocol `{text}`: use tcp, udp, sctp, icmp, icmpv6, udplite or a number");
            self.error_with_help(value.span(), message, help);
        }
        found
    }

    fn port(&mut self, value: &Node, known: &Definitions) -> Option<Ports> {
        if value.is_number() {
            let port = self.integer(value, 0..=65535, "a port")? as u16;
            return Some(Ports::Range(port, port));
        }
        let text = self.string(value, "a port")?;
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let (low, high) = text.split_once('-').unwrap_or((text, text));
            return match (low.trim().parse::<u16>(), high.trim().parse::<u16>()) {
                (Ok(low), Ok(high)) if low <= high => Some(Ports::Range(low, high)),
                (Ok(low), Ok(high)) => {
                    self.error(value.span(), format!("the range {low}-{high} is upside down"));
                    None
                }
                _ => {
                    self.error(
                        value.span(),
                        format!("`{text}` is not a port: use 80, \"8000-8080\" or a named port"),
                    );
                    None
                }
            };
        }
        if !known.port_names.contains(text) {
            self.error_with_help(
                value.span(),
                format!("there is no [[named_port]] with the name `{text}`"),
                "use a number, a range such as \"8000-8080\", or define the name",
            );
            return None;
        }
        Some(Ports::Named(text.to_owned()))
    }

    fn log(&mut self, value: &Node) -> Option<Rate> {
        if let Data::Boolean(on) = &value.data {
            return on.then_some(DEFAULT_LOG);
        }
        self.rate(value, "log")
    }

    /// `"100/second"`, or the same with a burst: `"100/second burst 20"`.
    fn rate(&mut self, value: &Node, what: &str) -> Option<Rate> {
        let text = self.string(value, what)?;
        let rate = parse_rate(text);
        if rate.is_none() {
            self.error(
                value.span(),
                format!("`{text}` is not a rate: write \"100/second\" (or minute, hour, day), perhaps with \"burst 20\""),
            );
        }
        rate
    }
}

/// Where in the text of a selector an operator asks for a label.
fn asked_at(text: &str, key: &str, op: TextOp) -> Option<usize> {
    let of_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    let operator = op.as_str().split(' ').next().unwrap_or_default();
    let mut found = text.match_indices(key).map(|(at, _)| text.split_at(at));
    let (before, _) = found.find(|(before, rest)| {
        let after = rest.get(key.len()..).unwrap_or_default();
        !before.ends_with(of_key) && !after.starts_with(of_key) && after.trim_start().starts_with(operator)
    })?;
    Some(before.len())
}

/// How often a rule logs unless it says otherwise.
pub(super) const DEFAULT_LOG: Rate = Rate { events: 10, per: 1, burst: 5 };

fn parse_rate(text: &str) -> Option<Rate> {
    let (rate, burst) = match text.split_once(" burst ") {
        Some((rate, burst)) => (rate.trim(), burst.trim().parse().ok().filter(|b| *b > 0)?),
        None => (text.trim(), 5),
    };
    let (events, unit) = rate.split_once('/')?;
    let per = match unit.trim() {
        "second" => 1,
        "minute" => 60,
        "hour" => 3600,
        "day" => 86400,
        _ => return None,
    };
    let events = events.trim().parse().ok().filter(|n| *n > 0)?;
    Some(Rate { events, per, burst })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_an_operator() {
        for (text, key, want) in [
            ("has(a) && a contains 'a'", "a", Some(10)),
            ("x == 'a' || (b-a != 'c' && a/b contains 'd' && a  contains 'e')", "a", Some(47)),
            ("a contains 'b'", "a", Some(0)),
            ("pcns.a contains 'b'", "a", None),
        ] {
            assert_eq!(asked_at(text, key, TextOp::Contains), want, "{text}");
        }
        assert_eq!(asked_at("a contains 'b' && a startswith 'c'", "a", TextOp::StartsWith), Some(18));
    }

    #[test]
    fn rates() {
        assert_eq!(parse_rate("100/second"), Some(Rate { events: 100, per: 1, burst: 5 }));
        assert_eq!(parse_rate("6 / hour burst 20"), Some(Rate { events: 6, per: 3600, burst: 20 }));
        for bad in ["", "0/second", "1/s", "x/second", "1/second burst 0", "1/second burst"] {
            assert_eq!(parse_rate(bad), None, "{bad}");
        }
    }
}
