//! Why a connection is allowed or refused: a direct interpreter of the policies, step by step.
//!
//! It reads policies as they are written, without the compiled form, so it is also the oracle that the compiled form
//! is tested against.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod host;

use std::{cell::RefCell, net::IpAddr, sync::Arc};

use rustc_hash::FxHashMap;
use serde::Serialize;

pub use self::host::{HostOutcome, HostPart, HostSide, HostStep};
use super::{
    Action, Direction, Entity, Flow, Origin, Peer, Policy, PolicySet, Ports, Protocol, Rule, Service,
    TierDefault,
    engine::{Engine, EngineConfig},
    selector::{HashedSelector, Selector},
};
use crate::model::{EndpointId, Identity, Labels, Prefix};

/// The whole answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The connection in question.
    pub flow: Flow,
    /// Who opens it.
    pub source: Party,
    /// Where it leads.
    pub destination: Party,
    /// Whether it is allowed, as far as this host can tell.
    pub allowed: bool,
    /// What decided, in one line.
    pub reason: String,
    /// The source's side, if the source is an endpoint.
    pub egress: Option<Side>,
    /// The destination's side, if the destination is an endpoint.
    pub ingress: Option<Side>,
    /// This host's say, if the destination is this host and the source is not.
    pub host: Option<HostSide>,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Party {
    /// An endpoint of this host.
    Local {
        /// Its interface.
        id: EndpointId,
        /// Its labels.
        labels: Labels,
    },
    /// An endpoint of another host, known by the hashes of its labels.
    Remote {
        /// How many hashes are known.
        hashes: usize,
    },
    /// This host.
    Host,
    /// Inside of a pool, but nobody announced who it is: it matches no selector.
    Unknown,
    /// Outside of all pools.
    World,
}

/// What the policies of one endpoint say.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Side {
    /// The direction as the endpoint sees it.
    pub direction: Direction,
    /// Whether this host enforces it. Otherwise the endpoint's own host does, by the same policies; what is said
    /// here is then a prediction from the labels' hashes.
    pub enforced_here: bool,
    /// The result.
    pub allowed: bool,
    /// What decided: a rule, a tier's default, or the profile.
    pub decided_by: String,
    /// The tiers with a policy that selects the endpoint, up to the one that decided.
    pub tiers: Vec<TierStep>,
}

impl Side {
    /// What decides where nobody knows the endpoint's labels.
    pub const UNKNOWN: &str = "nobody knows the endpoint's labels, and policies ask for labels: it is cut off \
         (unknown_labels of [policy]) until `slash32 endpoints label` tells them";
}

/// What happened in a tier.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TierStep {
    /// The tier.
    pub tier: String,
    /// The rules in turn, up to the one that decided.
    pub rules: Vec<RuleStep>,
    /// How it ended.
    pub outcome: Outcome,
}

/// What happened at a rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RuleStep {
    /// The policy, with its tier.
    pub policy: String,
    /// The rule's number, from 1.
    pub rule: usize,
    /// What it does.
    pub action: Action,
    /// Whether it matched.
    pub matched: bool,
    /// Why not, or empty.
    pub because: &'static str,
    /// Whether it only counts.
    pub staged: bool,
    /// Where it is written.
    pub origin: Origin,
}

impl RuleStep {
    /// What happened at the rule that is `at` that place of a policy; `miss`: why it did not match, if so.
    fn new(policy: String, staged: bool, at: usize, rule: &Rule, miss: Option<&'static str>) -> Self {
        Self {
            policy,
            rule: at + 1,
            action: rule.action,
            matched: miss.is_none(),
            because: miss.unwrap_or_default(),
            staged,
            origin: rule.origin.clone(),
        }
    }
}

/// How a tier ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A rule allowed it.
    Allowed,
    /// A rule refused it.
    Denied,
    /// A rule passed it on.
    Passed,
    /// No rule matched and the default of the tier allowed it.
    DefaultAllowed,
    /// No rule matched and the default of the tier refused it.
    DefaultDenied,
    /// No rule matched and the default of the tier passed it on, or all of its policies are staged.
    DefaultPassed,
}

/// What an address is to the policies.
pub(super) struct Known<'a> {
    pub(super) addr: IpAddr,
    pub(super) local: Option<(&'a EndpointId, &'a Labels)>,
    pub(super) identity: Option<&'a Arc<Identity>>,
    pub(super) host: bool,
}

/// The interpreter: the endpoints of an engine, and policies that need not be the engine's own.
pub struct View<'a> {
    pub(super) engine: &'a Engine,
    pub(super) set: &'a PolicySet,
    pub(super) host: &'a dyn Fn(IpAddr) -> bool,
    /// The source port of connections of which only the two ends are given.
    pub(super) source_port: u16,
    /// The interface by which connections to the host come in that are not of its own endpoints, if it is known.
    pub interface: Option<String>,
    /// Whether the engine's endpoints are taken for those of other hosts.
    pub(super) elsewhere: bool,
    /// The set's selectors, hashed when they are first asked; by their places, as the set is borrowed.
    hashed: RefCell<FxHashMap<*const Selector, HashedSelector>>,
}

impl std::fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("set", &self.set).finish_non_exhaustive()
    }
}

impl Engine {
    /// Why a new connection is allowed or refused. `host` tells this host's own addresses.
    pub fn explain(&self, flow: &Flow, host: impl Fn(IpAddr) -> bool) -> Explanation {
        View::new(self, self.policies(), &host).explain(flow)
    }
}

impl<'a> View<'a> {
    /// The engine's endpoints under a set of policies. `host` tells the host's own addresses.
    pub fn new(engine: &'a Engine, set: &'a PolicySet, host: &'a dyn Fn(IpAddr) -> bool) -> Self {
        let source_port = Flow::EPHEMERAL;
        Self { engine, set, host, source_port, interface: None, elsewhere: false, hashed: RefCell::default() }
    }

    /// Whether one of the set's selectors selects the endpoint behind an address; what is unknown matches nothing.
    pub(super) fn is_selected(&self, selector: &'a Selector, known: &Known<'_>) -> bool {
        let Some(identity) = known.identity.filter(|identity| !identity.is_empty()) else { return false };
        let mut hashed = self.hashed.borrow_mut();
        hashed.entry(std::ptr::from_ref(selector)).or_insert_with(|| selector.hashed()).matches(identity)
    }

    /// Why a new connection is allowed or refused.
    pub fn explain(&self, flow: &Flow) -> Explanation {
        let source = self.known(flow.source);
        let destination = self.known(flow.destination);
        let mut answer = Explanation {
            flow: *flow,
            source: self.party(&source),
            destination: self.party(&destination),
            allowed: true,
            reason: String::new(),
            egress: None,
            ingress: None,
            host: None,
        };
        if source.host {
            answer.reason = "the host opens it, and a host always reaches everything".into();
            return answer;
        }
        answer.egress = self.side(Direction::Egress, &source, &destination, flow);
        if destination.host {
            answer.host = Some(self.host_side(&source, &destination, flow));
        } else {
            answer.ingress = self.side(Direction::Ingress, &destination, &source, flow);
        }
        let (allowed, reason) = self.conclude(&answer, &source, flow);
        answer.allowed = allowed;
        answer.reason = reason;
        answer
    }

    /// The same for people: what an endpoint says to itself never leaves it, unless it comes back by a port mapping, which
    /// is what [`Self::explain`] is about then.
    pub fn tell(&self, flow: &Flow) -> Explanation {
        let mut answer = self.explain(flow);
        if self.is_itself(flow.source, flow.destination) {
            let mapped = if answer.allowed { "allowed" } else { "refused" };
            answer.reason = format!(
                "what an endpoint says to itself does not leave it; by a port mapping of the host it is {mapped}: {}",
                answer.reason
            );
            answer.allowed = true;
        }
        answer
    }

    /// Whether both are addresses of one endpoint of this host.
    pub(super) fn is_itself(&self, source: IpAddr, destination: IpAddr) -> bool {
        let owner = |addr| self.known(addr).local.map(|(id, _)| id);
        owner(source).is_some() && owner(source) == owner(destination)
    }

    pub(super) fn config(&self) -> &'a EngineConfig {
        self.engine.config()
    }

    fn conclude(&self, answer: &Explanation, source: &Known<'_>, flow: &Flow) -> (bool, String) {
        if let Some(host) = answer.host.as_ref().filter(|host| host.is_protected()) {
            return (false, host.decided_by.clone());
        }
        if source.local.is_some()
            && answer.host.is_none()
            && self.config().protected.iter().any(|s| covers(s, flow))
            && self.config().guarded().contains(flow.destination)
        {
            return (false, "endpoints never reach this port of the infrastructure".into());
        }
        let sides = [&answer.egress, &answer.ingress].into_iter().flatten();
        let sides = sides.map(|s| (s.allowed, format!("{}: {}", s.direction.as_str(), s.decided_by)));
        let host = answer.host.iter().map(|host| (host.allowed, host.decided_by.clone()));
        let opinions: Vec<(bool, String)> = sides.chain(host).collect();
        if let Some((_, refusal)) = opinions.iter().find(|(allowed, _)| !allowed) {
            return (false, refusal.clone());
        }
        let reasons: Vec<String> = opinions.into_iter().map(|(_, reason)| reason).collect();
        let reason = if reasons.is_empty() { "no endpoint is concerned".into() } else { reasons.join("; ") };
        (true, reason)
    }

    pub(super) fn known(&self, addr: IpAddr) -> Known<'a> {
        let prefix = Prefix::host(addr);
        Known {
            addr,
            local: self.engine.owner_of(prefix).filter(|_| !self.elsewhere),
            identity: self.engine.identity_of(prefix),
            host: (self.host)(addr),
        }
    }

    /// Whether a policy applies to an endpoint.
    pub(super) fn selects(&self, policy: &'a Policy, me: &Known<'_>) -> bool {
        match me.local {
            Some((_, labels)) => policy.select.matches(labels),
            None => self.is_selected(&policy.select, me),
        }
    }

    /// What an endpoint may do in a direction where no policy decides.
    pub(super) fn default_allow(&self, direction: Direction, me: &Known<'_>) -> bool {
        self.config().default_allow(&self.set.profiles, direction, |select| match me.local {
            Some((_, labels)) => select.matches(labels),
            None => self.is_selected(select, me),
        })
    }

    /// Whether it is an endpoint that is cut off because nobody knows its labels.
    pub(super) fn is_cut_off(&self, me: &Known<'_>) -> bool {
        me.local.is_some_and(|(_, labels)| self.config().cuts_off(self.set, labels))
    }

    fn party(&self, known: &Known<'_>) -> Party {
        match (known.local, known.identity) {
            _ if known.host => Party::Host,
            (Some((id, labels)), _) => Party::Local { id: id.clone(), labels: labels.clone() },
            (None, Some(identity)) => Party::Remote { hashes: identity.hashes().len() },
            (None, None) if self.config().pools.iter().any(|p| p.cidr.contains_addr(known.addr)) => {
                Party::Unknown
            }
            (None, None) => Party::World,
        }
    }

    /// What the policies of one endpoint say of a connection with another address.
    fn side(&self, direction: Direction, me: &Known<'_>, other: &Known<'_>, flow: &Flow) -> Option<Side> {
        if me.host {
            return None;
        }
        me.identity?;
        let set = self.set;
        let mut side = Side {
            direction,
            enforced_here: me.local.is_some(),
            allowed: false,
            decided_by: String::new(),
            tiers: Vec::new(),
        };
        if self.is_cut_off(me) {
            return Some(Side { decided_by: Side::UNKNOWN.to_owned(), ..side });
        }
        for index in 0..set.tiers.len() {
            let policies: Vec<&'a Policy> = set
                .policies
                .iter()
                .map(|p| &**p)
                .filter(|p| p.tier == index && p.rules(direction).is_some() && self.selects(p, me))
                .collect();
            if policies.is_empty() {
                continue;
            }
            let (step, decided_by) = self.tier(direction, index, &policies, me, other, flow);
            let outcome = step.outcome;
            side.tiers.push(step);
            match outcome {
                Outcome::Passed | Outcome::DefaultPassed => {}
                Outcome::Allowed | Outcome::DefaultAllowed => {
                    return Some(Side { allowed: true, decided_by, ..side });
                }
                Outcome::Denied | Outcome::DefaultDenied => return Some(Side { decided_by, ..side }),
            }
        }
        side.allowed = self.default_allow(direction, me);
        let what = if side.tiers.is_empty() { "no policy selects the endpoint" } else { "no tier decided" };
        side.decided_by = format!("{what}, default {}", if side.allowed { "allow" } else { "deny" });
        Some(side)
    }

    fn tier(
        &self,
        direction: Direction,
        index: usize,
        policies: &[&'a Policy],
        me: &Known<'_>,
        other: &Known<'_>,
        flow: &Flow,
    ) -> (TierStep, String) {
        let set = self.set;
        let tier = &set.tiers[index];
        let mut step =
            TierStep { tier: tier.name.clone(), rules: Vec::new(), outcome: Outcome::DefaultPassed };
        for policy in policies {
            for (n, rule) in policy.rules(direction).unwrap_or_default().iter().enumerate() {
                let miss = self.mismatch(rule, direction, me, other, flow);
                step.rules.push(RuleStep::new(set.full_name(policy), policy.staged, n, rule, miss));
                if miss.is_some() || policy.staged {
                    // A staged policy that has matched is done with.
                    if miss.is_none() && rule.action != Action::Log {
                        break;
                    }
                    continue;
                }
                step.outcome = match rule.action {
                    Action::Allow => Outcome::Allowed,
                    Action::Deny | Action::Reject => Outcome::Denied,
                    Action::Pass => Outcome::Passed,
                    Action::Log => continue,
                };
                let by = format!("rule {} of {} ({})", n + 1, set.full_name(policy), rule.origin);
                return (step, by);
            }
        }
        if policies.iter().any(|p| !p.staged) {
            step.outcome = match tier.default {
                TierDefault::Allow => Outcome::DefaultAllowed,
                TierDefault::Deny => Outcome::DefaultDenied,
                TierDefault::Pass => Outcome::DefaultPassed,
            };
        }
        (step, format!("no rule of tier {} matches, and its default is {}", tier.name, tier.default.as_str()))
    }

    /// Why a rule does not match; none if it does.
    fn mismatch(
        &self,
        rule: &'a Rule,
        direction: Direction,
        me: &Known<'_>,
        other: &Known<'_>,
        flow: &Flow,
    ) -> Option<&'static str> {
        let destination = if direction == Direction::Ingress { me } else { other };
        if !rule.services.is_empty() && !rule.services.iter().any(|s| self.serves(s, flow, destination)) {
            return Some("another protocol or port");
        }
        if rule.not_services.iter().any(|s| self.serves(s, flow, destination)) {
            return Some("an excluded protocol or port");
        }
        if !rule.takes_source_port(flow.source_port) {
            return Some("another source port");
        }
        (!self.matches_peer(rule, direction, me, other)).then_some("another peer")
    }

    /// Whether the two ends are what a rule asks for.
    pub(super) fn matches_peer(
        &self,
        rule: &'a Rule,
        direction: Direction,
        me: &Known<'_>,
        other: &Known<'_>,
    ) -> bool {
        rule.peers.is_empty() || rule.peers.iter().any(|p| self.is_peer(p, direction, me, other))
    }

    /// Whether a service covers a connection, with names looked up at the destination.
    fn serves(&self, service: &Service, flow: &Flow, destination: &Known<'_>) -> bool {
        let Ports::Named(name) = &service.ports else { return covers(service, flow) };
        service.protocol == flow.protocol
            && self.set.named_ports.iter().any(|port| {
                port.name == *name
                    && port.protocol == flow.protocol
                    && port.port == flow.port
                    && self.is_selected(&port.select, destination)
            })
    }

    fn is_peer(&self, peer: &'a Peer, direction: Direction, me: &Known<'_>, other: &Known<'_>) -> bool {
        let fits = |peer: &'a Peer, end: &Known<'_>| {
            let selected = |s: &'a Selector| self.is_selected(s, end);
            peer.selector.as_ref().is_none_or(selected)
                && peer.ranges.as_ref().is_none_or(|r| r.contains(end.addr))
                && !peer.not_selector.as_ref().is_some_and(selected)
        };
        let there = peer.entity.is_none_or(|entity| match entity {
            Entity::World => !self.config().pools.iter().any(|p| p.cidr.contains_addr(other.addr)),
            // The endpoint's own: another host's endpoint is not on this one.
            Entity::Host => direction == Direction::Egress && other.host && me.local.is_some(),
            Entity::Myself => match (me.local, other.local) {
                (Some((a, _)), Some((b, _))) => a == b,
                _ => false,
            },
        });
        there && fits(peer, other) && peer.own.as_ref().is_none_or(|own| fits(own, me))
    }
}

/// Whether a service with numbers covers a connection.
fn covers(service: &Service, flow: &Flow) -> bool {
    service.protocol == flow.protocol
        && match service.ports {
            Ports::Any => true,
            Ports::Range(low, high) => (low..=high).contains(&flow.port),
            Ports::Icmp(kind, code) => {
                let [found, found_code] = flow.port.to_be_bytes();
                found == kind && code.is_none_or(|c| c == found_code)
            }
            Ports::Named(_) => false,
        }
}

impl Flow {
    /// A connection from a text such as `tcp/80`, `icmp` or `udp/53`: protocol and port. ICMP without more is an echo
    /// request; `icmp/3` is a type of it with code 0, `icmp/3/1` has a code as well.
    pub fn parse_service(text: &str) -> Option<(Protocol, u16)> {
        let (name, rest) = text.split_once('/').map_or((text, None), |(name, rest)| (name, Some(rest)));
        let protocol = Protocol::parse(name)?;
        let port = match (protocol, rest) {
            (Protocol::ICMP, None) => 8 << 8,
            (Protocol::ICMPV6, None) => 128 << 8,
            (p, Some(rest)) if p.is_icmp() => {
                let (kind, code) = rest.split_once('/').unwrap_or((rest, "0"));
                u16::from_be_bytes([kind.parse().ok()?, code.parse().ok()?])
            }
            (p, Some(port)) if p.has_ports() => port.parse().ok()?,
            (p, None) if !p.has_ports() => 0,
            _ => return None,
        };
        Some((protocol, port))
    }
}
