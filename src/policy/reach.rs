//! What two addresses may say to each other, as a set of protocols and ports: the interpreter over all services at
//! once. `policy test`, `matrix` and `diff` ask it.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

use std::{collections::BTreeMap, fmt, net::IpAddr};

use serde::{Serialize, Serializer};

use super::{
    Action, Direction, NamedPort, Ports, Protocol, Rule, Service, TierDefault,
    explain::{Known, View},
};

/// Both ends inclusive, ascending, not touching.
type PortRanges = Vec<(u16, u16)>;

const FULL: (u16, u16) = (0, u16::MAX);

/// A set of (protocol, port). For ICMP the port is the type in the high and the code in the low byte.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Services {
    /// Protocols that differ from the others.
    listed: BTreeMap<Protocol, PortRanges>,
    /// Whether all protocols that are not listed are in the set, with all their ports.
    others: bool,
}

impl Services {
    /// No service.
    pub const fn nothing() -> Self {
        Self { listed: BTreeMap::new(), others: false }
    }

    /// Every service.
    pub const fn everything() -> Self {
        Self { listed: BTreeMap::new(), others: true }
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        *self == Self::nothing()
    }

    /// Whether everything is in the set.
    pub fn is_everything(&self) -> bool {
        *self == Self::everything()
    }

    /// Whether a port of a protocol is in the set.
    pub fn contains(&self, protocol: Protocol, port: u16) -> bool {
        self.ranges(protocol).iter().any(|(low, high)| (*low..=*high).contains(&port))
    }

    /// One member, if there is any.
    pub fn sample(&self) -> Option<(Protocol, u16)> {
        let listed = self.listed.iter().find_map(|(p, ranges)| ranges.first().map(|(low, _)| (*p, *low)));
        let usual = [Protocol::TCP, Protocol::UDP, Protocol::ICMP, Protocol::SCTP, Protocol(253)];
        let other = || usual.into_iter().find(|p| self.others && !self.listed.contains_key(p));
        listed.or_else(|| {
            other().map(|p| (p, if p.has_ports() { 80 } else { u16::from(p.is_icmp()) * (8 << 8) }))
        })
    }

    /// Members of either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a || b)
    }

    /// Members of both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a && b)
    }

    /// Members of this one that are not in the other.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a && !b)
    }

    /// The union of services with numbers; names are looked up among `ports`.
    pub fn of(services: &[Service], ports: &[&NamedPort]) -> Self {
        let mut all = Self::nothing();
        for service in services {
            let ranges: PortRanges = match &service.ports {
                Ports::Any => vec![FULL],
                Ports::Range(low, high) => vec![(*low, *high)],
                Ports::Icmp(kind, code) => {
                    let code = code.map_or((0, 255), |c| (c, c));
                    vec![(u16::from_be_bytes([*kind, code.0]), u16::from_be_bytes([*kind, code.1]))]
                }
                Ports::Named(name) => ports
                    .iter()
                    .filter(|p| p.name == *name && p.protocol == service.protocol)
                    .map(|p| (p.port, p.port))
                    .collect(),
            };
            for range in ranges {
                let one = Self { listed: [(service.protocol, vec![range])].into(), others: false };
                all = all.union(&one);
            }
        }
        all
    }

    fn ranges(&self, protocol: Protocol) -> &[(u16, u16)] {
        match self.listed.get(&protocol) {
            Some(ranges) => ranges,
            None if self.others => &[FULL],
            None => &[],
        }
    }

    fn combine(&self, other: &Self, both: impl Fn(bool, bool) -> bool + Copy) -> Self {
        let mut out = Self { listed: BTreeMap::new(), others: both(self.others, other.others) };
        for protocol in self.listed.keys().chain(other.listed.keys()) {
            let ranges = sweep(self.ranges(*protocol), other.ranges(*protocol), both);
            let like_others = if out.others { ranges == [FULL] } else { ranges.is_empty() };
            if !like_others {
                out.listed.insert(*protocol, ranges);
            }
        }
        out
    }
}

/// Combines two lists of ranges port by port, stepping from edge to edge.
fn sweep(a: &[(u16, u16)], b: &[(u16, u16)], both: impl Fn(bool, bool) -> bool) -> PortRanges {
    let edges = |list: &[(u16, u16)]| -> Vec<u32> {
        list.iter().flat_map(|(low, high)| [u32::from(*low), u32::from(*high) + 1]).collect()
    };
    let mut at: Vec<u32> = [0].into_iter().chain(edges(a)).chain(edges(b)).chain([65536]).collect();
    at.sort_unstable();
    at.dedup();
    let inside = |list: &[(u16, u16)], port: u32| {
        list.iter().any(|(low, high)| (u32::from(*low)..=u32::from(*high)).contains(&port))
    };
    let mut out: PortRanges = Vec::new();
    for pair in at.windows(2) {
        let &[start, end] = pair else { continue };
        if !both(inside(a, start), inside(b, start)) {
            continue;
        }
        let last = (end - 1) as u16;
        match out.last_mut() {
            Some((_, high)) if u32::from(*high) + 1 == start => *high = last,
            _ => out.push((start as u16, last)),
        }
    }
    out
}

impl fmt::Display for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        let show = |protocol: Protocol, low: u16, high: u16| {
            let [kind, code] = low.to_be_bytes();
            let [last, last_code] = high.to_be_bytes();
            match () {
                () if (low, high) == FULL => protocol.to_string(),
                () if protocol.is_icmp() && (code, last_code) == (0, 255) && kind == last => {
                    format!("{protocol} type {kind}")
                }
                () if protocol.is_icmp() && (code, last_code) == (0, 255) => {
                    format!("{protocol} type {kind}-{last}")
                }
                () if protocol.is_icmp() && low == high => format!("{protocol} type {kind} code {code}"),
                () if protocol.is_icmp() => {
                    format!("{protocol} type {kind} code {code} to type {last} code {last_code}")
                }
                () if low == high => format!("{protocol}/{low}"),
                () => format!("{protocol}/{low}-{high}"),
            }
        };
        if !self.others {
            for (protocol, ranges) in &self.listed {
                parts.extend(ranges.iter().map(|(low, high)| show(*protocol, *low, *high)));
            }
            return f.write_str(&if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") });
        }
        for (protocol, ranges) in &self.listed {
            let missing = sweep(ranges, &[], |a, _| !a);
            parts.extend(missing.iter().map(|(low, high)| show(*protocol, *low, *high)));
        }
        f.write_str("everything")?;
        if parts.is_empty() { Ok(()) } else { write!(f, " but {}", parts.join(", ")) }
    }
}

impl Serialize for Services {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What became of services that met some rules.
#[derive(Debug, Default)]
pub(super) struct Met {
    pub(super) allowed: Services,
    pub(super) passed: Services,
    /// What no rule matched.
    pub(super) rest: Services,
}

impl<'a> View<'a> {
    /// The new connections that are allowed from one address to another, as far as this host can tell, from an ephemeral
    /// port.
    pub fn reach(&self, source: IpAddr, destination: IpAddr) -> Services {
        let (from, to) = (self.known(source), self.known(destination));
        // A host always reaches everything.
        if from.host {
            return Services::everything();
        }
        let mut allowed = self.reach_side(Direction::Egress, &from, &to);
        if !to.host {
            allowed = allowed.intersection(&self.reach_side(Direction::Ingress, &to, &from));
        }
        if from.local.is_some() {
            let config = self.config();
            if to.host || config.guarded().contains(destination) {
                allowed = allowed.minus(&Services::of(&config.protected, &[]));
            }
            if to.host {
                allowed = allowed.intersection(&Services::of(&config.endpoint_to_host, &[]));
            }
        }
        if to.host && from.local.is_none() {
            if self.config().strangers().contains(source) {
                allowed = allowed.minus(&Services::of(&self.config().protected, &[]));
            }
            let listening = self.config().listening(destination);
            if !listening.is_empty() && !self.config().admitted().contains(source) {
                allowed = allowed.minus(&Services::of(&listening, &[]));
            }
            allowed = allowed.intersection(&self.host_reach(&from, &to));
        }
        allowed
    }

    /// What rules do to services, each to those that are left.
    pub(super) fn rules_reach(
        &self,
        rules: &'a [Rule],
        direction: Direction,
        me: &Known<'_>,
        other: &Known<'_>,
        services: Services,
    ) -> Met {
        let destination = if direction == Direction::Ingress { me } else { other };
        let ports: Vec<&NamedPort> =
            self.set.named_ports.iter().filter(|p| self.is_selected(&p.select, destination)).collect();
        let mut met = Met { rest: services, ..Met::default() };
        for rule in rules {
            if rule.action == Action::Log
                || !rule.takes_source_port(self.source_port)
                || !self.matches_peer(rule, direction, me, other)
            {
                continue;
            }
            let matched = met.rest.intersection(&services_of(rule, &ports));
            match rule.action {
                Action::Allow => met.allowed = met.allowed.union(&matched),
                Action::Pass => met.passed = met.passed.union(&matched),
                Action::Deny | Action::Reject | Action::Log => {}
            }
            met.rest = met.rest.minus(&matched);
        }
        met
    }

    /// What the policies of one endpoint allow with another address.
    fn reach_side(&self, direction: Direction, me: &Known<'_>, other: &Known<'_>) -> Services {
        if me.host || me.identity.is_none() {
            return Services::everything();
        }
        if self.is_cut_off(me) {
            return Services::nothing();
        }
        let set = self.set;
        let mut remaining = Services::everything();
        let mut allowed = Services::nothing();
        for (index, tier) in set.tiers.iter().enumerate() {
            let policies = set.policies.iter().filter(|p| {
                p.tier == index && p.rules(direction).is_some() && self.selects(p, me) && !p.staged
            });
            let mut here = remaining.clone();
            let mut passed = Services::nothing();
            let mut selected = false;
            for policy in policies {
                selected = true;
                let rules = policy.rules(direction).unwrap_or_default();
                let met = self.rules_reach(rules, direction, me, other, here);
                allowed = allowed.union(&met.allowed);
                passed = passed.union(&met.passed);
                here = met.rest;
            }
            if !selected {
                continue;
            }
            match tier.default {
                TierDefault::Allow => allowed = allowed.union(&here),
                TierDefault::Pass => passed = passed.union(&here),
                TierDefault::Deny => {}
            }
            remaining = passed;
        }
        if self.default_allow(direction, me) { allowed.union(&remaining) } else { allowed }
    }
}

fn services_of(rule: &Rule, ports: &[&NamedPort]) -> Services {
    let wanted =
        if rule.services.is_empty() { Services::everything() } else { Services::of(&rule.services, ports) };
    wanted.minus(&Services::of(&rule.not_services, &[]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(protocol: Protocol, ports: Ports) -> Services {
        Services::of(&[Service { protocol, ports }], &[])
    }

    #[test]
    fn prints() {
        let web =
            one(Protocol::TCP, Ports::Range(80, 80)).union(&one(Protocol::TCP, Ports::Range(8000, 8080)));
        assert_eq!(web.to_string(), "tcp/80, tcp/8000-8080");
        assert_eq!(Services::everything().minus(&web).to_string(), "everything but tcp/80, tcp/8000-8080");
        assert_eq!(Services::nothing().to_string(), "nothing");
        assert_eq!(one(Protocol::ICMP, Ports::Icmp(8, None)).to_string(), "icmp type 8");
        assert_eq!(one(Protocol::ICMP, Ports::Icmp(8, Some(1))).to_string(), "icmp type 8 code 1");
        assert_eq!(one(Protocol(47), Ports::Any).to_string(), "47");
        assert_eq!(web.sample(), Some((Protocol::TCP, 80)));
    }

    fn services() -> impl Strategy<Value = Services> {
        let edge = prop::sample::select(vec![0u16, 1, 2, 79, 80, 81, 65534, 65535]);
        let protocol = prop::sample::select(vec![Protocol::TCP, Protocol::UDP]);
        let some = prop::collection::vec((protocol, edge.clone(), edge), 0..4).prop_map(|list| {
            let service = |(protocol, a, b): (Protocol, u16, u16)| Service {
                protocol,
                ports: Ports::Range(a.min(b), a.max(b)),
            };
            Services::of(&list.into_iter().map(service).collect::<Vec<_>>(), &[])
        });
        (some, any::<bool>())
            .prop_map(|(s, negate)| if negate { Services::everything().minus(&s) } else { s })
    }

    proptest! {
        #[test]
        fn algebra_is_membership(
            a in services(),
            b in services(),
            port in prop::sample::select(vec![0u16, 1, 2, 3, 78, 79, 80, 81, 82, 65533, 65534, 65535]),
            protocol in prop::sample::select(vec![Protocol::TCP, Protocol::UDP, Protocol::SCTP]),
        ) {
            let (in_a, in_b) = (a.contains(protocol, port), b.contains(protocol, port));
            prop_assert_eq!(a.union(&b).contains(protocol, port), in_a || in_b);
            prop_assert_eq!(a.intersection(&b).contains(protocol, port), in_a && in_b);
            prop_assert_eq!(a.minus(&b).contains(protocol, port), in_a && !in_b);
            prop_assert_eq!(a.minus(&a), Services::nothing());
            prop_assert_eq!(a.union(&Services::everything().minus(&a)), Services::everything());
            prop_assert_eq!(a.minus(&b).union(&a.intersection(&b)), a.clone());
            if let Some((protocol, port)) = a.sample() {
                prop_assert!(a.contains(protocol, port));
            } else {
                prop_assert!(a.is_empty());
            }
        }
    }
}
