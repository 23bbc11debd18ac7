//! Lowers policies to chains.
//!
//! A chain is named after its content and never changes: a changed policy gives another chain, and endpoints are
//! pointed at it. Endpoints with the same list of policies share all of their chains.
//!
//! Endpoints reach the first chain of their class by `goto`, so `return` leads out of the whole class: it is how a
//! chain says *allowed*. A pass is a `goto` to the chain of the next tier.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{Hash, Hasher},
    sync::Arc,
};

use sha2::{Digest, Sha256};

use super::{
    ClassKey, Families, Otherwise,
    config::EngineConfig,
    services::ServiceSet,
    sets::{SetDef, family_index, short_digest, short_hash},
    skeleton::{LABELS_UNKNOWN, REFUSE, REJECT},
};
use crate::{
    model::Family,
    policy::{
        Action, Direction, Entity, Peer, Policy, PolicySet, Ports, Rate, Rule as PolicyRule, Service,
        TierDefault,
        ir::{Chain, Field, Key, Limit, Name, Rule, Statement, Verdict},
        ranges::Ranges,
        selector::Selector,
    },
};

/// A chain and the sets its rules use.
#[derive(Debug, PartialEq)]
pub(super) struct CompiledChain {
    pub(super) name: Name,
    pub(super) chain: Arc<Chain>,
    pub(super) sets: Vec<SetUse>,
    pub(super) limits: BTreeMap<Name, Limit>,
}

/// How a rule uses a set.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SetUse {
    pub(super) set: Arc<SetDef>,
    /// Whether only rules that allow use it: then one more member cannot revoke anything.
    pub(super) only_allows: bool,
}

/// What an endpoint's element of a verdict map says, and the chains it needs, those referred to first.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) entry: Verdict,
    pub(super) chains: Vec<Arc<CompiledChain>>,
}

/// Compiles the class of endpoints that `policies` (indices, in order of evaluation) select in a direction.
pub(super) fn class(
    set: &PolicySet,
    config: &EngineConfig,
    families: Families,
    (direction, policies, otherwise): &ClassKey,
) -> Class {
    let mut chains = Vec::new();
    let direction = *direction;
    let profile = match otherwise {
        Otherwise::Allow => Verdict::Return,
        Otherwise::Deny => Verdict::Goto("profile_deny".into()),
        Otherwise::CutOff => Verdict::Goto(LABELS_UNKNOWN.into()),
    };
    let chosen: Vec<&Policy> =
        policies.iter().filter_map(|i| set.policies.get(*i as usize)).map(|p| &**p).collect();
    let mut next = profile;
    // From the last tier to the first, as each must know the name of the one after it.
    for (index, tier) in set.tiers.iter().enumerate().rev() {
        let of_tier: Vec<&Policy> = chosen.iter().copied().filter(|p| p.tier == index).collect();
        if of_tier.is_empty() {
            continue;
        }
        let mut lower = Lower {
            set,
            config,
            families,
            direction,
            rules: Vec::new(),
            sets: Vec::new(),
            limits: BTreeMap::new(),
            pass: next.clone(),
        };
        for policy in of_tier.iter().filter(|p| p.staged) {
            let staged = lower.staged(policy);
            lower.rules.push(Rule::new([Statement::Verdict(Verdict::Jump(staged.name.clone()))]));
            chains.push(staged);
        }
        for policy in of_tier.iter().filter(|p| !p.staged) {
            lower.policy(policy, false);
        }
        // A tier applies its default only if a policy that is in force selects the endpoint.
        let default = if of_tier.iter().all(|p| p.staged) { TierDefault::Pass } else { tier.default };
        lower.end(&tier.name, default);
        let names: Vec<_> = of_tier.iter().map(|p| p.name.as_str()).collect();
        let comment = format!("{} {}: {}", direction.as_str(), tier.name, names.join(", "));
        let chain = finish("cls", lower, comment);
        next = Verdict::Goto(chain.name.clone());
        chains.push(chain);
    }
    Class { entry: next, chains }
}

fn finish(kind: &str, lower: Lower<'_>, comment: String) -> Arc<CompiledChain> {
    let chain = Chain { hook: None, rules: lower.rules, comment };
    let mut content = Content(Sha256::new());
    chain.hash(&mut content);
    let name = format!("{kind}_{}", short_digest(content.0));
    let sets = used_sets(&chain.rules, lower.sets);
    Arc::new(CompiledChain { name: name.into(), chain: Arc::new(chain), sets, limits: lower.limits })
}

/// Digests all that a value feeds to a hasher, which is all that makes it differ from another.
struct Content(Sha256);

impl Hasher for Content {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        unreachable!("the digest is taken instead")
    }
}

/// The sets that rules mention after all: an alternative that cannot hold leaves no rule behind.
fn used_sets(rules: &[Rule], mut sets: Vec<SetUse>) -> Vec<SetUse> {
    let names: HashSet<&Name> =
        rules.iter().flat_map(|r| &r.statements).filter_map(Statement::refers_to).collect();
    sets.retain(|used| names.contains(&used.set.name));
    sets
}

/// Rules for host policies, to be put into the chain for traffic to the host, and the sets and limits they refer to.
pub(super) fn host_rules(
    set: &PolicySet,
    config: &EngineConfig,
    families: Families,
    (rules, name, staged): (&[PolicyRule], &str, bool),
) -> (Vec<Rule>, Vec<SetUse>, BTreeMap<Name, Limit>) {
    let mut lower = Lower {
        set,
        config,
        families,
        direction: Direction::Ingress,
        rules: Vec::new(),
        sets: Vec::new(),
        limits: BTreeMap::new(),
        pass: Verdict::Return,
    };
    for (index, rule) in rules.iter().enumerate() {
        let label = format!("host {name} {}", index + 1);
        lower.rule(rule, &label, staged, &Verdict::Goto("pass".into()));
    }
    let sets = used_sets(&lower.rules, lower.sets);
    (lower.rules, sets, lower.limits)
}

/// One way in which a rule can match, in one family or in both.
#[derive(Clone)]
struct Alternative {
    family: Option<Family>,
    statements: Vec<Statement>,
}

impl Alternative {
    const fn always() -> Self {
        Self { family: None, statements: Vec::new() }
    }

    /// Both hold; `None` if their families exclude each other.
    fn and(&self, other: &Self) -> Option<Self> {
        let family = match (self.family, other.family) {
            (Some(a), Some(b)) if a != b => return None,
            (a, b) => a.or(b),
        };
        let statements = self.statements.iter().chain(&other.statements).cloned().collect();
        Some(Self { family, statements })
    }
}

/// Each way of the one together with each of the other.
fn both(a: &[Alternative], b: &[Alternative]) -> Vec<Alternative> {
    a.iter().flat_map(|a| b.iter().filter_map(|b| a.and(b))).collect()
}

/// One end of a connection, as a rule sees it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Other,
    Own,
}

struct Lower<'a> {
    set: &'a PolicySet,
    config: &'a EngineConfig,
    families: Families,
    direction: Direction,
    rules: Vec<Rule>,
    sets: Vec<SetUse>,
    limits: BTreeMap<Name, Limit>,
    /// What `pass` does.
    pass: Verdict,
}

impl Lower<'_> {
    fn policy(&mut self, policy: &Policy, staged: bool) {
        let tier = self.set.tier_of(policy).map_or("?", |t| &t.name);
        for (index, rule) in policy.rules(self.direction).unwrap_or_default().iter().enumerate() {
            let label = format!("{tier}/{} {} {}", policy.name, self.direction.as_str(), index + 1);
            self.rule(rule, &label, staged, &Verdict::Return);
        }
    }

    /// A chain of its own that counts what a policy would do and always returns.
    fn staged(&mut self, policy: &Policy) -> Arc<CompiledChain> {
        let mut inner = Lower {
            set: self.set,
            config: self.config,
            families: self.families,
            direction: self.direction,
            rules: Vec::new(),
            sets: Vec::new(),
            limits: BTreeMap::new(),
            pass: Verdict::Return,
        };
        inner.policy(policy, true);
        let name = self.set.full_name(policy);
        inner.rules.push(Rule::new([Statement::Counter]).comment(format!("staged {name}: no rule")));
        finish("stg", inner, format!("staged {name}"))
    }

    fn end(&mut self, tier: &str, default: TierDefault) {
        let (verdict, what) = match default {
            TierDefault::Deny => (Verdict::Goto(REFUSE.into()), "deny"),
            TierDefault::Allow => (Verdict::Return, "allow"),
            TierDefault::Pass => (self.pass.clone(), "pass"),
        };
        let rule = Rule::new([Statement::Counter, Statement::Verdict(verdict)]);
        self.rules.push(rule.comment(format!("{tier} default {what}")));
    }

    fn rule(&mut self, rule: &PolicyRule, label: &str, staged: bool, allow: &Verdict) {
        let first_set = self.sets.len();
        let peers = self.peers(rule);
        let mut services = self.services(rule);
        if let Some(ranges) = &rule.source_ports {
            services = both(&services, &self.source_ports(ranges));
        }
        let action = match rule.action {
            Action::Allow => "allow",
            Action::Deny => "deny",
            Action::Reject => "reject",
            Action::Pass => "pass",
            Action::Log => "log",
        };
        let comment = format!("{}{label} {action}", if staged { "staged " } else { "" });
        for service in &services {
            for peer in &peers {
                // Protocol and port first: they are the cheaper question.
                let Some(both) = service.and(peer) else { continue };
                let mut start = both.statements;
                if let Some(rate) = rule.log {
                    let mut log = start.clone();
                    log.extend([self.limit("log", &comment, rate), Statement::Log(format!("{comment}: "))]);
                    self.rules.push(Rule::new(log));
                }
                if rule.action == Action::Allow && !staged && rule.limit.is_some() {
                    // A limit is for new connections. One that passed before is judged again when policies change, and
                    // is not asked for another token.
                    let mut passed = start.clone();
                    let confirmed = Statement::has(Field::CtStatus, IPS_CONFIRMED);
                    passed.extend([confirmed, Statement::Counter, Statement::Verdict(allow.clone())]);
                    self.rules.push(Rule::new(passed).comment(&comment));
                }
                start.extend(rule.limit.map(|rate| self.limit("limit", &comment, rate)));
                let verdict = match rule.action {
                    _ if staged => Verdict::Return,
                    Action::Allow => allow.clone(),
                    Action::Deny => Verdict::Goto(REFUSE.into()),
                    Action::Pass => self.pass.clone(),
                    Action::Log => {
                        start.push(Statement::Counter);
                        self.rules.push(Rule::new(start).comment(&comment));
                        continue;
                    }
                    Action::Reject => Verdict::Goto(REJECT.into()),
                };
                start.extend([Statement::Counter, Statement::Verdict(verdict)]);
                self.rules.push(Rule::new(start).comment(&comment));
            }
        }
        let excludes = rule.peers.iter().any(Peer::excludes);
        let only_allows = (rule.action == Action::Allow && !excludes) || staged;
        for used in self.sets.iter_mut().skip(first_set) {
            used.only_allows = only_allows;
        }
    }

    /// The ways the other side can match. Plain selectors and plain addresses are merged into one each.
    fn peers(&mut self, rule: &PolicyRule) -> Vec<Alternative> {
        if rule.peers.is_empty() {
            return vec![Alternative::always()];
        }
        let world = self.config.world();
        let mut selectors = Vec::new();
        let mut ranges: Option<Ranges> = None;
        let mut out = Vec::new();
        for peer in &rule.peers {
            let addresses = match (peer.entity, &peer.ranges) {
                (Some(Entity::World), Some(r)) => Some(world.intersection(r)),
                (Some(Entity::World), None) => Some(world.clone()),
                (_, r) => r.clone(),
            };
            let special = peer.entity.filter(|e| *e != Entity::World);
            let plain = special.is_none() && peer.not_selector.is_none() && peer.own.is_none();
            match (&peer.selector, &addresses) {
                (Some(selector), None) if plain => selectors.push(selector.clone()),
                (None, Some(more)) if plain => {
                    ranges = Some(ranges.map_or_else(|| more.clone(), |r| r.union(more)));
                }
                (selector, _) => {
                    let mut all = self.endpoint(
                        End::Other,
                        selector.as_ref(),
                        addresses.as_ref(),
                        peer.not_selector.as_ref(),
                    );
                    if let Some(special) = special {
                        all = both(&all, &self.entity(special));
                    }
                    if let Some(own) = &peer.own {
                        let more = self.endpoint(
                            End::Own,
                            own.selector.as_ref(),
                            own.ranges.as_ref(),
                            own.not_selector.as_ref(),
                        );
                        all = both(&all, &more);
                    }
                    out.extend(all);
                }
            }
        }
        if let Some(ranges) = ranges {
            out.extend(self.addresses(End::Other, &ranges));
        }
        if !selectors.is_empty() {
            out.extend(self.selector(End::Other, &Selector::or(selectors), false));
        }
        out
    }

    /// The ways one end can be all that is asked of it.
    fn endpoint(
        &mut self,
        end: End,
        selector: Option<&Selector>,
        addresses: Option<&Ranges>,
        not_selector: Option<&Selector>,
    ) -> Vec<Alternative> {
        let mut all = vec![Alternative::always()];
        if let Some(selector) = selector {
            all = both(&all, &self.selector(end, selector, false));
        }
        if let Some(addresses) = addresses {
            all = both(&all, &self.addresses(end, addresses));
        }
        if let Some(selector) = not_selector {
            all = both(&all, &self.selector(end, selector, true));
        }
        all
    }

    /// The field with the address of an end.
    fn field(&self, end: End, family: Family) -> Field {
        let source = (self.direction == Direction::Ingress) == (end == End::Other);
        match (source, family) {
            (true, Family::Ipv4) => Field::SourceV4,
            (true, Family::Ipv6) => Field::SourceV6,
            (false, Family::Ipv4) => Field::DestinationV4,
            (false, Family::Ipv6) => Field::DestinationV6,
        }
    }

    fn selector(&mut self, end: End, selector: &Selector, not: bool) -> Vec<Alternative> {
        if *selector == Selector::Nothing {
            return if not { vec![Alternative::always()] } else { Vec::new() };
        }
        let mut out = Vec::new();
        for family in Family::ALL {
            let field = self.field(end, family);
            let ways = if !self.families[family_index(family)] {
                // Nobody with an identity is of this family, so nobody is selected.
                if !not {
                    continue;
                }
                vec![vec![is_family(family)]]
            } else if not {
                self.outside(selector, family, field)
            } else {
                vec![self.members(selector, family, field)]
            };
            out.extend(ways.into_iter().map(|statements| Alternative { family: Some(family), statements }));
        }
        out
    }

    /// What holds of an address that the selector selects.
    fn members(&mut self, selector: &Selector, family: Family, field: Field) -> Vec<Statement> {
        if is_indexed(selector) {
            return vec![self.lookup(SetDef::selector(selector, family), field)];
        }
        let known = self.lookup(SetDef::known(family), field);
        if *selector == Selector::All {
            return vec![known];
        }
        let unselected = negated(self.lookup(SetDef::unselected(selector, family), field));
        // Asked before and after: of an address that joins or leaves both sets at the very moment, one of the two says
        // that it is not known.
        vec![known.clone(), unselected, known]
    }

    /// The ways in which an address is not selected.
    fn outside(&mut self, selector: &Selector, family: Family, field: Field) -> Vec<Vec<Statement>> {
        if is_indexed(selector) {
            return vec![vec![negated(self.lookup(SetDef::selector(selector, family), field))]];
        }
        let unknown = vec![negated(self.lookup(SetDef::known(family), field))];
        if *selector == Selector::All {
            return vec![unknown];
        }
        vec![vec![self.lookup(SetDef::unselected(selector, family), field)], unknown]
    }

    fn addresses(&mut self, end: End, ranges: &Ranges) -> Vec<Alternative> {
        if Family::ALL.iter().all(|f| ranges.is_everything_in(*f)) {
            return vec![Alternative::always()];
        }
        let mut out = Vec::new();
        for family in Family::ALL {
            if ranges.is_empty_in(family) {
                continue;
            }
            let field = self.field(end, family);
            let statement = if ranges.is_everything_in(family) {
                is_family(family)
            } else if let Some(prefix) = ranges.as_prefix(family) {
                Statement::in_prefix(field, prefix.addr(), prefix.len())
            } else {
                self.lookup(SetDef::ranges(ranges, family), field)
            };
            out.push(Alternative { family: Some(family), statements: vec![statement] });
        }
        out
    }

    fn entity(&self, entity: Entity) -> Vec<Alternative> {
        match entity {
            // A host always reaches its own endpoints, before any policy; and `world` is an address range.
            Entity::Host if self.direction == Direction::Egress => vec![Alternative {
                family: None,
                statements: vec![Statement::is(Field::DestinationKind, Key::host_u32(RTN_LOCAL))],
            }],
            Entity::Host | Entity::World => Vec::new(),
            // An endpoint reaches itself only by way of a port mapping: in and out of the same interface. That the
            // source belongs to both interfaces says so, for the packet and for the reply.
            Entity::Myself => {
                [(Family::Ipv4, Field::SourceV4, "src4"), (Family::Ipv6, Field::SourceV6, "src6")]
                    .map(|(family, field, set)| Alternative {
                        family: Some(family),
                        statements: vec![
                            Statement::lookup([Field::IifName, field], &set.into()),
                            Statement::lookup([Field::OifName, field], &set.into()),
                        ],
                    })
                    .into()
            }
        }
    }

    fn services(&mut self, rule: &PolicyRule) -> Vec<Alternative> {
        let numbered = ServiceSet::of(&rule.services, &rule.not_services);
        if numbered.is_everything() {
            return vec![Alternative::always()];
        }
        let mut out = Vec::new();
        for (protocol, ranges) in &numbered.listed {
            let mut statements = vec![Statement::is(Field::L4Proto, Key::byte(protocol.0))];
            let field = if protocol.is_icmp() { Field::IcmpTypeCode } else { Field::DestinationPort };
            match ranges[..] {
                [] => continue,
                _ if ServiceSet::is_full(ranges) => {}
                [(low, high)] if low == high => statements.push(Statement::is(field, Key::port(low))),
                [(low, high)] => statements.push(Statement::Range(field, Key::port(low), Key::port(high))),
                _ => statements.push(self.lookup(SetDef::ports(ranges), field)),
            }
            out.push(Alternative { family: None, statements });
        }
        if numbered.others {
            let statements =
                numbered.listed.keys().map(|p| Statement::is_not(Field::L4Proto, Key::byte(p.0))).collect();
            out.push(Alternative { family: None, statements });
        }
        for service in &rule.services {
            if let Ports::Named(name) = &service.ports {
                out.extend(self.named(service, name, &rule.not_services));
            }
        }
        out
    }

    /// The way to come from one of the ports; none if there are none.
    fn source_ports(&mut self, ranges: &[(u16, u16)]) -> Vec<Alternative> {
        let statement = match ranges {
            [] => return Vec::new(),
            [one] if ServiceSet::is_full(&[*one]) => return vec![Alternative::always()],
            [(low, high)] if low == high => Statement::is(Field::SourcePort, Key::port(*low)),
            [(low, high)] => Statement::Range(Field::SourcePort, Key::port(*low), Key::port(*high)),
            several => self.lookup(SetDef::ports(several), Field::SourcePort),
        };
        vec![Alternative { family: None, statements: vec![statement] }]
    }

    /// A named port is a number at some endpoints: one way to match for every definition.
    fn named(&mut self, service: &Service, name: &str, not: &[Service]) -> Vec<Alternative> {
        let mut out = Vec::new();
        for port in self.set.named_ports.iter().filter(|p| p.name == name && p.protocol == service.protocol) {
            let one = Service { protocol: port.protocol, ports: Ports::Range(port.port, port.port) };
            if ServiceSet::of(&[one], not).listed.is_empty() {
                continue;
            }
            for (family, field) in
                [(Family::Ipv4, Field::DestinationV4), (Family::Ipv6, Field::DestinationV6)]
            {
                if !self.families[family_index(family)] {
                    continue;
                }
                let mut statements = vec![
                    Statement::is(Field::L4Proto, Key::byte(port.protocol.0)),
                    Statement::is(Field::DestinationPort, Key::port(port.port)),
                ];
                statements.extend(self.members(&port.select, family, field));
                out.push(Alternative { family: Some(family), statements });
            }
        }
        out
    }

    /// One limit for all the ways in which a rule can match, whichever endpoints it is of: told apart by the rule's name, so
    /// that a change of others leaves it as it is.
    fn limit(&mut self, what: &str, rule: &str, rate: Rate) -> Statement {
        let text = format!("{what} {rule} {} {} {}", rate.events, rate.per, rate.burst);
        let name: Name = format!("{what}_{}", short_hash(&text)).into();
        let comment = format!("{what} of {rule}");
        self.limits.entry(name.clone()).or_insert_with(|| Limit { rate, comment });
        Statement::SharedLimit(name)
    }

    fn lookup(&mut self, set: Arc<SetDef>, field: Field) -> Statement {
        let statement = Statement::lookup(set.fields(field), &set.name);
        self.sets.push(SetUse { set, only_allows: false });
        statement
    }
}

/// Whether a match needs one of finitely many labels, so that addresses can be in the selector's set at the cost of their
/// own labels only.
fn is_indexed(selector: &Selector) -> bool {
    selector.hashed().required(&|_| 0).is_some()
}

fn is_family(family: Family) -> Statement {
    Statement::is(Field::NfProto, Key::byte(if family == Family::Ipv4 { 2 } else { 10 }))
}

fn negated(mut statement: Statement) -> Statement {
    if let Statement::Lookup { negate, .. } = &mut statement {
        *negate = true;
    }
    statement
}

/// `RTN_LOCAL` of linux/rtnetlink.h.
const RTN_LOCAL: u32 = 2;

/// `IPS_CONFIRMED` of linux/netfilter/nf_conntrack_common.h: a packet of the connection has passed before.
const IPS_CONFIRMED: u32 = 1 << 3;
