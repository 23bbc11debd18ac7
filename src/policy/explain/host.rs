//! What reaches this host itself: protected ports, host policies, what endpoints may reach on their host.

use serde::Serialize;

use super::{Known, RuleStep, View, covers};
use crate::policy::{
    Action, Direction, Flow, HostPolicy, Ports, Protocol, Service, engine::LINK_TYPES, reach::Services,
};

/// What this host says of a connection to itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HostSide {
    /// The interface it comes in by, as far as it is known: host policies are for all of them or for some.
    pub interface: Option<String>,
    /// The result.
    pub allowed: bool,
    /// What decided.
    pub decided_by: String,
    /// What it meets in turn, up to what decided.
    pub steps: Vec<HostStep>,
}

/// Something that a connection to the host meets.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HostStep {
    /// What it is.
    pub what: HostPart,
    /// The name, of a host policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Why it has no say, or empty.
    pub because: String,
    /// The rules in turn, of a host policy, up to the one that decided.
    pub rules: Vec<RuleStep>,
    /// How it ended.
    pub outcome: HostOutcome,
}

/// The parts of the protection of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HostPart {
    /// Ports that no endpoint reaches: routing protocols and the agent.
    ProtectedPorts,
    /// Where the speaker listens, for neighbours only.
    Neighbours,
    /// Ports that host policies never block.
    Failsafe,
    /// Neighbour discovery and multicast listener reports of IPv6.
    NeighbourDiscovery,
    /// A host policy.
    Policy,
    /// What becomes of the rest.
    Default,
    /// What endpoints may reach on their host.
    EndpointToHost,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HostOutcome {
    /// Allowed.
    Allowed,
    /// Refused.
    Denied,
    /// On to the next step.
    Passed,
}

impl HostSide {
    fn new(interface: Option<&str>) -> Self {
        let interface = interface.map(str::to_owned);
        Self { interface, allowed: true, decided_by: String::new(), steps: Vec::new() }
    }

    /// Adds a step, and what it decided if it did.
    fn step(&mut self, what: HostPart, outcome: HostOutcome, decided_by: &str) -> bool {
        let because = String::new();
        self.steps.push(HostStep { what, policy: None, because, rules: Vec::new(), outcome });
        let decides = outcome != HostOutcome::Passed;
        if decides {
            self.allowed = outcome == HostOutcome::Allowed;
            decided_by.clone_into(&mut self.decided_by);
        }
        decides
    }

    /// Whether a protected port refused it, which comes before everything else.
    pub(super) fn is_protected(&self) -> bool {
        let last = self.steps.last();
        let guards = [HostPart::ProtectedPorts, HostPart::Neighbours];
        !self.allowed && last.is_some_and(|step| guards.contains(&step.what))
    }
}

impl HostPolicy {
    /// The interface of what the host says to itself, which host policies do not judge.
    pub const LOOPBACK: &str = "lo";

    /// Whether it is for what comes in by an interface; with none known, only if it is for all.
    pub fn applies(&self, interface: Option<&str>) -> bool {
        let named = |name| self.interfaces.iter().any(|pattern| Self::is_like(name, pattern));
        interface != Some(Self::LOOPBACK) && (self.interfaces.is_empty() || interface.is_some_and(named))
    }

    /// Whether an interface has a name, or begins with it if the name ends with `*`.
    pub fn is_like(interface: &str, pattern: &str) -> bool {
        match pattern.strip_suffix('*') {
            Some(start) => interface.starts_with(start),
            None => interface == pattern,
        }
    }
}

impl<'a> View<'a> {
    /// What the host says of a connection to itself that does not come from itself.
    pub(super) fn host_side(&self, source: &Known<'_>, host: &Known<'_>, flow: &Flow) -> HostSide {
        let any = |services: &[Service]| services.iter().any(|s| covers(s, flow));
        let outcome = |denied| if denied { HostOutcome::Denied } else { HostOutcome::Passed };
        let allowed = |allowed| if allowed { HostOutcome::Allowed } else { HostOutcome::Passed };
        let mut side = HostSide::new(self.interface.as_deref());
        if source.local.is_some() {
            let denied = outcome(any(&self.config().protected));
            if !side.step(HostPart::ProtectedPorts, denied, "endpoints never reach this port of their host") {
                let (end, why) = if any(&self.config().endpoint_to_host) {
                    (HostOutcome::Allowed, "endpoint to host: in `endpoint_to_host`")
                } else {
                    (HostOutcome::Denied, "endpoint to host: not in `endpoint_to_host`")
                };
                side.step(HostPart::EndpointToHost, end, why);
            }
            return side;
        }
        if self.config().strangers().contains(source.addr) {
            let why = "endpoints of other hosts never reach this port of the host";
            if side.step(HostPart::ProtectedPorts, outcome(any(&self.config().protected)), why) {
                return side;
            }
        }
        let listening = self.config().listening(host.addr);
        if any(&listening) && !self.config().admitted().contains(source.addr) {
            let why = "only neighbours, and what `infrastructure` lists, reach this port of the speaker";
            side.step(HostPart::Neighbours, HostOutcome::Denied, why);
            return side;
        }
        if self.set.host_policies.is_empty() {
            side.step(HostPart::Default, HostOutcome::Allowed, "host: there is no host policy");
            return side;
        }
        let failsafe = allowed(any(&self.config().failsafe));
        if side.step(HostPart::Failsafe, failsafe, "host: a failsafe port, which host policies never block") {
            return side;
        }
        let [kind, _] = flow.port.to_be_bytes();
        if flow.protocol == Protocol::ICMPV6
            && LINK_TYPES.iter().any(|(first, last)| (*first..=*last).contains(&kind))
        {
            let why = "host: neighbour discovery, which host policies never block";
            side.step(HostPart::NeighbourDiscovery, HostOutcome::Allowed, why);
            return side;
        }
        for policy in &self.set.host_policies {
            if self.host_policy(policy, &mut side, source, host, flow) {
                return side;
            }
        }
        let mut in_force = self.set.host_policies.iter().filter(|p| !p.staged);
        let (end, why) = if in_force.any(|p| p.applies(self.interface.as_deref())) {
            (HostOutcome::Denied, "host: no rule of a host policy matches")
        } else {
            (HostOutcome::Allowed, "host: no host policy is in force for this interface")
        };
        side.step(HostPart::Default, end, why);
        side
    }

    /// Adds the step of a policy; whether it decided.
    fn host_policy(
        &self,
        policy: &'a HostPolicy,
        side: &mut HostSide,
        source: &Known<'_>,
        host: &Known<'_>,
        flow: &Flow,
    ) -> bool {
        let mut step = HostStep {
            what: HostPart::Policy,
            policy: Some(policy.name.clone()),
            because: String::new(),
            rules: Vec::new(),
            outcome: HostOutcome::Passed,
        };
        if policy.applies(self.interface.as_deref()) {
            for (n, rule) in policy.ingress.iter().enumerate() {
                let miss = self.mismatch(rule, Direction::Ingress, host, source, flow);
                step.rules.push(RuleStep::new(policy.name.clone(), policy.staged, n, rule, miss));
                if miss.is_some() || (rule.action == Action::Log && !policy.staged) {
                    continue;
                }
                step.outcome = match rule.action {
                    _ if policy.staged => HostOutcome::Passed,
                    Action::Allow => HostOutcome::Allowed,
                    Action::Deny | Action::Reject => HostOutcome::Denied,
                    Action::Pass | Action::Log => HostOutcome::Passed,
                };
                if step.outcome != HostOutcome::Passed {
                    side.allowed = step.outcome == HostOutcome::Allowed;
                    side.decided_by =
                        format!("host: rule {} of host policy {} ({})", n + 1, policy.name, rule.origin);
                }
                break;
            }
        } else {
            step.because = format!("for {} only", policy.interfaces.join(", "));
        }
        let decided = step.outcome != HostOutcome::Passed;
        side.steps.push(step);
        decided
    }

    /// All services at once that the host lets in from a source that is not its own endpoint.
    pub(in crate::policy) fn host_reach(&self, source: &Known<'_>, host: &Known<'_>) -> Services {
        let set = self.set;
        if set.host_policies.is_empty() {
            return Services::everything();
        }
        let neighbours: Vec<Service> = LINK_TYPES
            .into_iter()
            .flat_map(|(first, last)| first..=last)
            .map(|kind| Service { protocol: Protocol::ICMPV6, ports: Ports::Icmp(kind, None) })
            .collect();
        let mut allowed = Services::of(&self.config().failsafe, &[]).union(&Services::of(&neighbours, &[]));
        let mut remaining = Services::everything().minus(&allowed);
        let mut closed = false;
        for policy in set.host_policies.iter().filter(|p| !p.staged) {
            if !policy.applies(self.interface.as_deref()) {
                continue;
            }
            closed = true;
            let met = self.rules_reach(&policy.ingress, Direction::Ingress, host, source, remaining);
            allowed = allowed.union(&met.allowed);
            // What passes leaves the policy, not the protection of the host.
            remaining = met.rest.union(&met.passed);
        }
        if closed { allowed } else { allowed.union(&remaining) }
    }
}
