//! The part of the table that does not depend on endpoints: base chains, dispatch, anti-spoofing, host protection.
//!
//! ```text
//! prerouting (raw + 5)   s32*: an allowed source, or anti_spoof
//!                        (what claims such a source elsewhere is refused in guard and input_host: from_elsewhere)
//! forward (filter - 5)   s32*: established and stamped: accept, or guard:
//!                                              original: from_ep -> class, to_ep -> class, stamp
//!                                              reply:    the same classes, found by the other interface
//! input (filter - 5)     s32* -> input_ep:     neighbour discovery, protected ports, from_ep -> class, what is open
//!                        else -> input_host:   failsafe, host policies
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    Families,
    config::{EngineConfig, LINK_TYPES},
    lower::{SetUse, host_rules},
    nat,
    services::ServiceSet,
    sets::{SetDef, address_type, family_digit},
};
use crate::{
    model::{EndpointId, Family},
    policy::{
        HostPolicy, PolicySet, Protocol, Rate, Service,
        ir::{
            BaseHook, Chain, Data, DataType, Field, GENERATION, HookPoint, Key, KeyType, Limit, Name, Rule,
            Ruleset, Set, SetKind, Statement, Verdict,
        },
    },
};

/// The chain that refuses.
pub(super) const REFUSE: &str = "refuse";
/// The chain that refuses with an answer.
pub(super) const REJECT: &str = "refuse_answer";
/// The chain in which packets of endpoints end whose labels nobody knows.
pub const LABELS_UNKNOWN: &str = "labels_unknown";
/// The chains in which packets end. Their rules that count do nothing else but to refuse, for the reason that is their
/// comment.
pub const REFUSING: [&str; 14] = [
    "anti_spoof",
    "from_elsewhere",
    "nat_pre",
    "from_ep",
    "to_ep",
    "from_ep_reply",
    "to_ep_reply",
    REFUSE,
    REJECT,
    LABELS_UNKNOWN,
    "invalid",
    "untracked",
    "related",
    "related_ep",
];
/// Verdict maps by interface, for traffic from and to endpoints.
pub(super) const EP_OUT: &str = "ep_out";
pub(super) const EP_IN: &str = "ep_in";
/// Endpoints that no policy selects in a direction and that may do as they please. Not in the verdict maps, as the
/// kernel goes through all elements of those whenever one is added.
pub(super) const FREE_OUT: &str = "free_out";
pub(super) const FREE_IN: &str = "free_in";
/// Allowed sources by interface.
pub(super) const SRC: [&str; 2] = ["src4", "src6"];
/// Addresses that endpoints of this host have and nobody else.
pub(super) const OWN: [&str; 2] = ["own4", "own6"];
/// Addresses that do not lead to their endpoint yet.
pub(super) const ARRIVING: [&str; 2] = ["arriving4", "arriving6"];

/// `NF_IP_PRI_RAW` + 5: before connection tracking sees the packet.
const RAW_PRIORITY: i32 = -295;
/// `NF_IP_PRI_FILTER` - 5: before other tables' filters, whose drops still count.
const FILTER_PRIORITY: i32 = -5;

/// How often refused packets are logged while somebody traces.
const TRACE_RATE: Rate = Rate { events: 100, per: 1, burst: 50 };

/// ICMPv6 types that an IPv6 host cannot do without (RFC 4861): neighbour and router solicitation, neighbour
/// advertisement.
const NEIGHBOUR_TYPES: [u8; 3] = [133, 135, 136];
/// Multicast listener queries, reports and "done" (RFC 2710, RFC 3810). Every new interface sends some. Nobody here
/// listens to them, but the kernel would look for their route among those of all endpoints, one by one.
const LISTENER_TYPES: [u8; 4] = [130, 131, 132, 143];
/// Echo between link-local addresses, so that people can ping their gateway.
const ECHO_TYPES: [u8; 2] = [128, 129];

/// The fixed part and the sets of its rules that follow endpoints.
pub(super) struct Skeleton {
    pub(super) rules: Ruleset,
    pub(super) sets: Vec<SetUse>,
    /// The limits of its rules.
    pub(super) limits: BTreeMap<Name, Limit>,
}

/// Builds the skeleton; the maps and sets that follow endpoints are there and empty. `mapped`: with port mappings.
pub(super) fn build(
    config: &EngineConfig,
    policies: &PolicySet,
    families: Families,
    mapped: bool,
) -> Skeleton {
    let mut builder =
        Builder { rules: Ruleset::default(), sets: Vec::new(), limits: BTreeMap::new(), families };
    builder.fixed_sets(config);
    builder.prerouting();
    builder.forward();
    builder.input_ep(config);
    builder.input(config, policies);
    builder.ends();
    nat::build(&mut builder.rules, config, mapped);
    if config.trace {
        trace(&mut builder.rules);
    }
    Skeleton { rules: builder.rules, sets: builder.sets, limits: builder.limits }
}

/// Has every rule that refuses log first.
fn trace(rules: &mut Ruleset) {
    for chain in rules.chains.values_mut() {
        let traced = |rule: Rule| {
            let is_end =
                |s: &Statement| *s == verdict(Verdict::Drop) || matches!(s, Statement::Reject { .. });
            // What is not worth counting is not worth a line either.
            let counted = rule.statements.contains(&Statement::Counter)
                || !rule.statements.contains(&verdict(Verdict::Drop));
            let log = (counted && rule.statements.last().is_some_and(is_end)).then(|| {
                let matches =
                    rule.statements.iter().filter(|s| **s != Statement::Counter && !is_end(s)).cloned();
                logged(matches, &rule.comment)
            });
            log.into_iter().chain([rule])
        };
        chain.rules = std::mem::take(&mut chain.rules).into_iter().flat_map(traced).collect();
    }
}

/// A rule that logs what it matches, for somebody who traces.
pub(super) fn logged(matches: impl IntoIterator<Item = Statement>, why: &str) -> Rule {
    let log = [Statement::Limit(TRACE_RATE), Statement::Log(why.to_owned())];
    Rule::new(matches.into_iter().chain(log).collect::<Vec<_>>())
}

struct Builder {
    rules: Ruleset,
    sets: Vec<SetUse>,
    limits: BTreeMap<Name, Limit>,
    families: Families,
}

impl Builder {
    fn set(&mut self, name: &str, key: &[KeyType], data: Option<DataType>, elements: Vec<(Key, Data)>) {
        let kind = SetKind { key: key.to_vec(), data, interval: elements.iter().any(|(k, _)| k.is_range()) };
        let set = Set { kind, comment: String::new(), elements: elements.into_iter().collect() };
        self.rules.sets.insert(name.into(), set);
    }

    fn chain(&mut self, name: &str, rules: Vec<Rule>) {
        self.rules.chains.insert(name.into(), Chain { hook: None, rules, comment: String::new() });
    }

    fn base(&mut self, name: &str, hook: HookPoint, priority: i32, rules: Vec<Rule>) {
        let hook = Some(BaseHook { nat: false, hook, priority });
        self.rules.chains.insert(name.into(), Chain { hook, rules, comment: String::new() });
    }

    fn fixed_sets(&mut self, config: &EngineConfig) {
        for map in [EP_OUT, EP_IN] {
            self.set(map, &[KeyType::Interface], Some(DataType::Verdict), Vec::new());
        }
        for set in [FREE_OUT, FREE_IN] {
            self.set(set, &[KeyType::Interface], None, Vec::new());
        }
        for family in Family::ALL {
            let name = format!("src{}", family_digit(family));
            self.set(&name, &[KeyType::Interface, address_type(family)], None, Vec::new());
            for name in ["own", "arriving"] {
                let name = format!("{name}{}", family_digit(family));
                self.set(&name, &[address_type(family)], None, Vec::new());
            }
        }
        let states = [(1, goto("invalid")), (4, Verdict::Accept), (64, goto("untracked"))];
        let states = states.map(|(bit, v)| (Key::host_u32(bit), Data::Verdict(v)));
        self.set("ct_states", &[KeyType::CtState], Some(DataType::Verdict), states.into());
        let types = |list: &[u8]| list.iter().map(|t| (Key::byte(*t), Data::None)).collect::<Vec<_>>();
        self.set("nd_types", &[KeyType::Icmpv6Type], None, types(&NEIGHBOUR_TYPES));
        self.set("mld_types", &[KeyType::Icmpv6Type], None, types(&LISTENER_TYPES));
        self.set(
            "link_types",
            &[KeyType::Icmpv6Type],
            None,
            types(&[&NEIGHBOUR_TYPES[..], &ECHO_TYPES].concat()),
        );
        let infrastructure = config.guarded();
        for family in Family::ALL {
            let set = SetDef::ranges(&infrastructure, family).build();
            let name = format!("infra{}", family_digit(family));
            self.rules.sets.insert(name.into(), set);
        }
    }

    fn prerouting(&mut self) {
        // What nearly every packet needs is in the base chain itself: each jump costs every packet.
        let allowed = |family: u8, field: Field, set: &str| {
            Rule::new([
                Statement::is(Field::NfProto, Key::byte(family)),
                Statement::lookup([Field::IifName, field], &set.into()),
                verdict(Verdict::Return),
            ])
        };
        let rules = vec![
            Rule::new([not_from_endpoint(), verdict(Verdict::Return)]),
            allowed(2, Field::HeaderSourceV4, SRC[0]),
            allowed(10, Field::HeaderSourceV6, SRC[1]),
            Rule::new([verdict(goto("anti_spoof"))]),
        ];
        self.base("prerouting", HookPoint::Prerouting, RAW_PRIORITY, rules);
        let ipv6 = || Statement::is(Field::NfProto, Key::byte(10));
        let icmpv6 = || Statement::is(Field::L4Proto, Key::byte(Protocol::ICMPV6.0));
        let typed = |set: &str| Statement::lookup([Field::Icmpv6Type], &set.into());
        let link_local = || Statement::in_prefix(Field::HeaderSourceV6, ip("fe80::"), 10);
        self.chain(
            "anti_spoof",
            vec![
                Rule::new([ipv6(), icmpv6(), typed("mld_types"), verdict(Verdict::Drop)])
                    .comment("multicast listener message"),
                // Duplicate address detection comes from the unspecified address.
                Rule::new([
                    ipv6(),
                    Statement::is(Field::HeaderSourceV6, Key::address(ip("::"))),
                    icmpv6(),
                    typed("nd_types"),
                    verdict(Verdict::Return),
                ]),
                Rule::new([ipv6(), link_local(), icmpv6(), typed("link_types"), verdict(Verdict::Return)]),
                dropped("spoofed source"),
            ],
        );
    }

    fn forward(&mut self) {
        // One way into the guard, not one for each direction: whenever a verdict map changes, the kernel follows every
        // way to every one of its elements.
        let rules = vec![
            // First, as nearly every packet is of a connection that was judged, and what is no endpoint's has no stamp.
            current(),
            Rule::new([not_from_endpoint(), not_to_endpoint(), verdict(Verdict::Return)]),
            Rule::new([verdict(goto("guard"))]),
        ];
        self.base("forward", HookPoint::Forward, FILTER_PRIORITY, rules);
        self.chain(
            "guard",
            vec![
                Rule::new([Statement::has(Field::CtState, 4), verdict(jump("related"))]),
                related_from_endpoint(),
                Rule::new([not_from_endpoint(), verdict(jump("from_elsewhere"))]),
                exceptional(),
                Rule::new([Statement::is(Field::CtDirection, Key::byte(1)), verdict(goto("guard_reply"))]),
                Rule::new([from_endpoint(), verdict(jump("infra_guard"))]),
                Rule::new([from_endpoint(), verdict(jump("from_ep"))]),
                Rule::new([to_endpoint(), verdict(jump("to_ep"))]),
                Rule::new([verdict(goto("pass"))]),
            ],
        );
        // Errors are about a packet that passed. Those of a connection that has not been judged since the last revocation
        // would go on telling things when it is cut; where it is allowed, its next packet renews the stamp, and the next
        // error passes. Other related connections have their first packet judged nowhere, and their stamp is that of
        // the first one.
        let late = |protocol: Protocol| {
            let protocol = Statement::is(Field::L4Proto, Key::byte(protocol.0));
            dropped_if(vec![protocol], "error of a connection that is to be judged anew")
        };
        self.chain(
            "related",
            vec![
                Rule::new([Statement::GenerationIsCurrent, verdict(Verdict::Return)]),
                late(Protocol::ICMP),
                late(Protocol::ICMPV6),
            ],
        );
        // What an endpoint sends comes by its own interface, whatever a packet says. Established connections do not come
        // here: who forges a packet of one must know its ports, and for TCP where it stands.
        let forged = |family: u8, field: Field, set: &str| {
            let family = Statement::is(Field::NfProto, Key::byte(family));
            let source = Statement::lookup([field], &set.into());
            dropped_if(vec![family, source], "source of an endpoint of this host, from elsewhere")
        };
        self.chain(
            "from_elsewhere",
            vec![forged(2, Field::HeaderSourceV4, OWN[0]), forged(10, Field::HeaderSourceV6, OWN[1])],
        );
        // A reply of a connection whose stamp is old: judge the connection again, from the endpoint that opened it
        // (which the reply goes to) to the one that answers (which it comes from).
        self.chain(
            "guard_reply",
            vec![
                Rule::new([to_endpoint(), verdict(jump("infra_guard"))]),
                Rule::new([to_endpoint(), verdict(jump("from_ep_reply"))]),
                Rule::new([from_endpoint(), verdict(jump("to_ep_reply"))]),
                Rule::new([verdict(goto("pass"))]),
            ],
        );
        for (chain, field, map, free) in [
            ("from_ep", Field::IifName, EP_OUT, FREE_OUT),
            ("to_ep", Field::OifName, EP_IN, FREE_IN),
            ("from_ep_reply", Field::OifName, EP_OUT, FREE_OUT),
            ("to_ep_reply", Field::IifName, EP_IN, FREE_IN),
        ] {
            let dispatch = Rule::new([Statement::Vmap(vec![field], map.into())]);
            // Asked before and after: an endpoint that moves from the map to the set or back while a packet is here is
            // found in one of them.
            let is_free = || Rule::new([Statement::lookup([field], &free.into()), verdict(Verdict::Return)]);
            self.chain(chain, vec![is_free(), dispatch, is_free(), dropped("unknown interface")]);
        }
        self.set(GENERATION, &[KeyType::Mark], None, Vec::new());
        // Rewritten for every generation, so without a verdict: see `GENERATION`.
        self.chain("stamp", vec![Rule::new([Statement::StampGeneration])]);
        // Judged for one end only, as the other one's policies are not on the way yet.
        let half = |field: Field, set: &str| {
            Rule::new([Statement::lookup([field], &set.into()), verdict(Verdict::Accept)])
        };
        self.chain(
            "pass",
            vec![
                half(Field::DestinationV4, ARRIVING[0]),
                half(Field::DestinationV6, ARRIVING[1]),
                half(Field::SourceV4, ARRIVING[0]),
                half(Field::SourceV6, ARRIVING[1]),
                Rule::new([verdict(jump("stamp"))]),
                Rule::new([verdict(Verdict::Accept)]),
            ],
        );
    }

    fn input_ep(&mut self, config: &EngineConfig) {
        let mut guard = Vec::new();
        let mut rules = vec![
            current(),
            // Nobody tracks it.
            Rule::new([
                Statement::is(Field::L4Proto, Key::byte(Protocol::ICMPV6.0)),
                Statement::lookup([Field::Icmpv6Type], &"nd_types".into()),
                verdict(Verdict::Accept),
            ]),
            related_from_endpoint(),
            exceptional(),
            // The host opened it, and the host may always reach its endpoints.
            Rule::new([Statement::is(Field::CtDirection, Key::byte(1)), verdict(goto("pass"))]),
        ];
        for statements in self.services(&config.protected) {
            let refuse = [Statement::Counter, verdict(goto(REFUSE))];
            rules.push(
                Rule::new([&statements[..], &refuse].concat())
                    .comment("endpoint to a protected port of the host"),
            );
            for (family, field) in [(4, Field::DestinationV4), (6, Field::DestinationV6)] {
                let infra = Statement::lookup([field, Field::L4Proto], &format!("infra{family}").into());
                let rule = Rule::new([&statements[..], &[infra], &refuse].concat());
                guard.push(rule.comment("endpoint to a protected port of the infrastructure"));
            }
        }
        rules.push(Rule::new([verdict(jump("from_ep"))]));
        for statements in self.services(&config.endpoint_to_host) {
            let open = [Statement::Counter, verdict(goto("pass"))];
            rules.push(Rule::new([&statements[..], &open].concat()).comment("endpoint to host: open"));
        }
        rules.push(
            Rule::new([Statement::Counter, verdict(goto(REFUSE))])
                .comment("endpoint to host: not in endpoint_to_host"),
        );
        self.chain("input_ep", rules);
        self.chain("infra_guard", guard);
    }

    fn input(&mut self, config: &EngineConfig, policies: &PolicySet) {
        let mut rules = vec![Rule::new([from_endpoint(), verdict(goto("input_ep"))])];
        self.remote_guard(config, &mut rules);
        self.neighbour_guard(config, &mut rules);
        if !policies.host_policies.is_empty() {
            // Loopback is not traffic from elsewhere.
            rules.push(Rule::new([
                Statement::is_not(Field::IifName, Key::interface("lo")),
                verdict(goto("input_host")),
            ]));
            self.input_host(config, policies);
        }
        self.base("input", HookPoint::Input, FILTER_PRIORITY, rules);
    }

    /// Endpoints of other hosts reach the routing protocols here no more than ours do. What the host sends to itself
    /// may have an address of a pool.
    fn remote_guard(&mut self, config: &EngineConfig, rules: &mut Vec<Rule>) {
        let strangers = config.strangers();
        for (family, field) in [(Family::Ipv4, Field::SourceV4), (Family::Ipv6, Field::SourceV6)] {
            if strangers.is_empty_in(family) {
                continue;
            }
            let name = format!("strangers{}", family_digit(family));
            self.rules.sets.insert(name.as_str().into(), SetDef::ranges(&strangers, family).build());
            for statements in self.services(&config.protected) {
                let enter = [
                    Statement::is(Field::CtDirection, Key::byte(0)),
                    Statement::is_not(Field::IifName, Key::interface("lo")),
                    Statement::lookup([field, Field::L4Proto], &name.as_str().into()),
                    verdict(goto("remote_guard")),
                ];
                rules.push(Rule::new([&statements[..], &enter].concat()));
            }
        }
        if !strangers.is_empty() {
            let refuse = Rule::new([Statement::Counter, verdict(goto(REFUSE))]);
            let refuse = refuse.comment("endpoint of another host to a protected port");
            self.chain("remote_guard", vec![current(), exceptional(), refuse]);
        }
    }

    /// Where the speaker listens, only neighbours are let in: a container of another host may have an address that nobody
    /// here knows as one.
    fn neighbour_guard(&mut self, config: &EngineConfig, rules: &mut Vec<Rule>) {
        let admitted = config.admitted();
        let mut guarded = false;
        for (family, source, destination) in [
            (Family::Ipv4, Field::SourceV4, Field::DestinationV4),
            (Family::Ipv6, Field::SourceV6, Field::DestinationV6),
        ] {
            let mut by_address: BTreeMap<IpAddr, Vec<Service>> = BTreeMap::new();
            for listener in config.listeners.iter().filter(|l| Family::of(l.address) == family) {
                by_address.entry(listener.address).or_default().push(listener.service());
            }
            if by_address.is_empty() || admitted.is_everything_in(family) {
                continue;
            }
            guarded = true;
            let name = format!("neighbours{}", family_digit(family));
            self.rules.sets.insert(name.as_str().into(), SetDef::ranges(&admitted, family).build());
            for (address, services) in by_address {
                for mut statements in self.services(&services) {
                    if !address.is_unspecified() {
                        statements.push(Statement::is(destination, Key::address(address)));
                    }
                    statements.extend([
                        Statement::is(Field::CtDirection, Key::byte(0)),
                        Statement::is_not(Field::IifName, Key::interface("lo")),
                        Statement::Lookup {
                            fields: vec![source, Field::L4Proto],
                            set: name.as_str().into(),
                            negate: true,
                        },
                        verdict(goto("neighbour_guard")),
                    ]);
                    rules.push(Rule::new(statements));
                }
            }
        }
        if guarded {
            let refuse = Rule::new([Statement::Counter, verdict(goto(REFUSE))]);
            let refuse = refuse.comment("no neighbour to a port of the speaker");
            self.chain("neighbour_guard", vec![current(), exceptional(), refuse]);
        }
    }

    fn input_host(&mut self, config: &EngineConfig, policies: &PolicySet) {
        let mut rules = vec![current()];
        // Nobody tracks these.
        rules.extend(LINK_TYPES.map(|(first, last)| {
            let kind = if first == last {
                Statement::is(Field::Icmpv6Type, Key::byte(first))
            } else {
                Statement::Range(Field::Icmpv6Type, Key::byte(first), Key::byte(last))
            };
            let icmpv6 = Statement::is(Field::L4Proto, Key::byte(Protocol::ICMPV6.0));
            Rule::new([icmpv6, kind, verdict(Verdict::Accept)])
        }));
        rules.extend([
            Rule::new([verdict(jump("from_elsewhere"))]),
            exceptional(),
            Rule::new([Statement::is(Field::CtDirection, Key::byte(1)), verdict(goto("pass"))]),
        ]);
        for statements in self.services(&config.failsafe) {
            let open = [Statement::Counter, verdict(goto("pass"))];
            rules.push(Rule::new([&statements[..], &open].concat()).comment("host failsafe"));
        }
        // Each policy is a chain of its own, entered by the interfaces it is for; the last resort for an interface
        // with policies is refusal.
        let mut ends: BTreeSet<Option<&str>> = BTreeSet::new();
        for (index, policy) in policies.host_policies.iter().enumerate() {
            let name = format!("host_{index}");
            let (body, sets, limits) =
                host_rules(policies, config, self.families, (&policy.ingress, &policy.name, policy.staged));
            self.sets.extend(sets);
            self.limits.extend(limits);
            self.chain(&name, body);
            for condition in interfaces(policy) {
                rules
                    .push(Rule::new(condition.into_iter().chain([verdict(jump(&name))]).collect::<Vec<_>>()));
            }
            if !policy.staged {
                if policy.interfaces.is_empty() {
                    ends.insert(None);
                }
                ends.extend(policy.interfaces.iter().map(|i| Some(i.as_str())));
            }
        }
        for interface in &ends {
            let mut statements: Vec<_> = interface.map(compare_interface).into_iter().collect();
            statements.extend([Statement::Counter, verdict(goto(REFUSE))]);
            rules.push(Rule::new(statements).comment("host default deny"));
        }
        self.chain("input_host", rules);
    }

    fn ends(&mut self) {
        self.chain(REFUSE, vec![dropped("refused by policy")]);
        let tcp = Statement::is(Field::L4Proto, Key::byte(Protocol::TCP.0));
        self.chain(
            REJECT,
            vec![
                Rule::new([tcp, Statement::Counter, Statement::Reject { tcp_reset: true }])
                    .comment("rejected by policy"),
                Rule::new([Statement::Counter, Statement::Reject { tcp_reset: false }])
                    .comment("rejected by policy"),
            ],
        );
        self.chain(LABELS_UNKNOWN, vec![dropped("labels of the endpoint unknown")]);
        self.chain("invalid", vec![dropped("invalid connection state")]);
        // Rules ask for the connection, so what has none would pass by those that refuse.
        self.chain("untracked", vec![dropped("untracked packet")]);
        // An endpoint is no router: it tells of errors of its own connections only. Else it could send whatever it likes
        // about those of others.
        let own = |family: u8, direction: u8, field: Field, set: &str| {
            Rule::new([
                Statement::is(Field::NfProto, Key::byte(family)),
                Statement::is(Field::CtDirection, Key::byte(direction)),
                Statement::lookup([Field::IifName, field], &set.into()),
                verdict(Verdict::Accept),
            ])
        };
        self.chain(
            "related_ep",
            vec![
                own(2, 1, Field::DestinationV4, SRC[0]),
                own(10, 1, Field::DestinationV6, SRC[1]),
                own(2, 0, Field::SourceV4, SRC[0]),
                own(10, 0, Field::SourceV6, SRC[1]),
                dropped("error of a connection of others"),
            ],
        );
        let deny = Rule::new([Statement::Counter, verdict(goto(REFUSE))]).comment("profile default deny");
        self.chain("profile_deny", vec![deny]);
    }

    /// One list of matches for each way the services can match.
    fn services(&mut self, services: &[Service]) -> Vec<Vec<Statement>> {
        if services.is_empty() {
            return Vec::new();
        }
        let mut out = Vec::new();
        for (protocol, ranges) in ServiceSet::of(services, &[]).listed {
            let mut statements = vec![Statement::is(Field::L4Proto, Key::byte(protocol.0))];
            let field = if protocol.is_icmp() { Field::IcmpTypeCode } else { Field::DestinationPort };
            match ranges[..] {
                _ if ServiceSet::is_full(&ranges) => {}
                [(low, high)] if low == high => statements.push(Statement::is(field, Key::port(low))),
                [(low, high)] => statements.push(Statement::Range(field, Key::port(low), Key::port(high))),
                _ => {
                    let set = SetDef::ports(&ranges);
                    statements.push(Statement::lookup([field], &set.name));
                    self.rules.sets.insert(set.name.clone(), set.build());
                }
            }
            out.push(statements);
        }
        out
    }
}

/// The conditions under which a host policy applies, one list of statements each.
fn interfaces(policy: &HostPolicy) -> Vec<Vec<Statement>> {
    if policy.interfaces.is_empty() {
        return vec![Vec::new()];
    }
    policy.interfaces.iter().map(|i| vec![compare_interface(i)]).collect()
}

fn compare_interface(name: &str) -> Statement {
    match name.strip_suffix('*') {
        Some(prefix) => Statement::is(Field::IifName, Key::interface_prefix(prefix)),
        None => Statement::is(Field::IifName, Key::interface(name)),
    }
}

fn from_endpoint() -> Statement {
    Statement::is(Field::IifName, Key::interface_prefix(EndpointId::PREFIX))
}

fn to_endpoint() -> Statement {
    Statement::is(Field::OifName, Key::interface_prefix(EndpointId::PREFIX))
}

fn not_from_endpoint() -> Statement {
    Statement::is_not(Field::IifName, Key::interface_prefix(EndpointId::PREFIX))
}

fn not_to_endpoint() -> Statement {
    Statement::is_not(Field::OifName, Key::interface_prefix(EndpointId::PREFIX))
}

/// Accepts what belongs to a connection that was judged since the last revocation.
fn current() -> Rule {
    Rule::new([Statement::has(Field::CtState, 2), Statement::GenerationIsCurrent, verdict(Verdict::Accept)])
}

/// Errors that an endpoint sends.
fn related_from_endpoint() -> Rule {
    Rule::new([from_endpoint(), Statement::has(Field::CtState, 4), verdict(goto("related_ep"))])
}

/// What is neither new nor of a connection that it could be judged by.
fn exceptional() -> Rule {
    Rule::new([Statement::Vmap(vec![Field::CtState], "ct_states".into())])
}

fn dropped(comment: &str) -> Rule {
    dropped_if(Vec::new(), comment)
}

/// Refuses and counts what all of this holds for; the comment is the reason.
pub(super) fn dropped_if(mut all: Vec<Statement>, comment: &str) -> Rule {
    all.extend([Statement::Counter, verdict(Verdict::Drop)]);
    Rule::new(all).comment(comment)
}

const fn verdict(verdict: Verdict) -> Statement {
    Statement::Verdict(verdict)
}

fn jump(chain: &str) -> Verdict {
    Verdict::Jump(Name::from(chain))
}

fn goto(chain: &str) -> Verdict {
    Verdict::Goto(Name::from(chain))
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}
