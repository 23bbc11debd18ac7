//! The compiled form against the direct interpreter: random policies, endpoints, identities, connections, orders of
//! events and changes.

mod cases;
mod revocations;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use proptest::prelude::*;

use super::{
    Action, Entity, Flow, HostPolicy, NamedPort, Origin, Peer, Policy, PolicySet, Ports, Profile, Protocol,
    Rule, Service, Tier, TierDefault,
    engine::{Engine, EngineConfig, Listener, LocalEndpoint, PoolConfig},
    explain::View,
    ir::{Connection, HookPoint, Judgement, Packet, Ruleset},
    matrix::Here,
    ranges::Ranges,
    selector::Selector,
};
use crate::model::{EndpointId, Identity, Labels, Prefix};

const ADDRESSES: [&str; 18] = [
    // Four that local endpoints may have, four that remote ones may have.
    "10.32.4.2",
    "10.32.4.3",
    "10.32.4.4",
    "10.32.4.5",
    "10.32.5.2",
    "10.32.5.3",
    "fd00:32::2",
    "fd00:32::3",
    "fd00:32::4",
    "fd00:32::5",
    "fd00:32:1::2",
    "fd00:32:1::3",
    // Inside of a pool but unknown, outside, infrastructure.
    "10.32.6.1",
    "192.0.2.9",
    "192.0.2.1",
    "fd00:32:2::1",
    "2001:db8::9",
    "2001:db8::1",
];
const HOST: [&str; 2] = ["203.0.113.1", "2001:db8:ffff::1"];

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn labels() -> impl Strategy<Value = Labels> {
    let one = |values: &'static [&'static str]| prop::option::of(prop::sample::select(values));
    (one(&["a", "b", "c"]), one(&["x", "y"])).prop_map(|(role, env)| {
        let mut labels = Labels::new();
        for (key, value) in [("role", role), ("env", env)] {
            if let Some(value) = value {
                labels.insert(key, value).unwrap();
            }
        }
        labels
    })
}

/// Those of an endpoint of this host, which may be lost.
fn own_labels() -> impl Strategy<Value = Labels> {
    prop_oneof![6 => labels(), 1 => Just(Labels::unknown())]
}

fn selector() -> impl Strategy<Value = Selector> {
    let texts = [
        "all()",
        "role == 'a'",
        "role == 'b'",
        "role != 'a'",
        "role in {'a', 'c'}",
        "role not in {'a', 'b'}",
        "has(env)",
        "!has(env)",
        "role == 'a' && env == 'x'",
        "role == 'b' || env != 'y'",
        "!all()",
        "!(role == 'a' && has(env))",
    ];
    prop::sample::select(texts.to_vec()).prop_map(|t| t.parse().unwrap())
}

fn ranges() -> impl Strategy<Value = Ranges> {
    let prefixes = vec![
        "10.32.0.0/16",
        "10.32.4.0/24",
        "10.32.4.2/31",
        "10.32.5.2",
        "0.0.0.0/0",
        "::/0",
        "192.0.2.0/24",
        "fd00:32::/48",
        "fd00:32::4",
        "2001:db8::/32",
        "10.32.4.3",
        "203.0.113.0/24",
    ];
    let some = move || {
        prop::collection::vec(prop::sample::select(prefixes.clone()), 1..4)
            .prop_map(|l| l.iter().map(|t| t.parse::<Prefix>().unwrap()).collect::<Ranges>())
    };
    (some(), prop::option::of(some())).prop_map(|(a, b)| b.map_or(a.clone(), |b| a.minus(&b)))
}

fn peer() -> impl Strategy<Value = Peer> {
    let entity = prop::sample::select(vec![Entity::Myself, Entity::Host, Entity::World]);
    prop_oneof![
        4 => selector().prop_map(|s| Peer { selector: Some(s), ..Peer::default() }),
        3 => ranges().prop_map(|r| Peer { ranges: Some(r), ..Peer::default() }),
        2 => entity.clone().prop_map(|e| Peer { entity: Some(e), ..Peer::default() }),
        2 => (prop::option::of(selector()), prop::option::of(ranges()), prop::option::of(entity))
            .prop_map(|(selector, ranges, entity)| Peer { selector, ranges, entity, ..Peer::default() }),
        2 => (end(), prop::option::of(end()))
            .prop_map(|(other, own)| Peer { own: own.map(Box::new), ..other }),
    ]
}

/// What Calico's rules can ask of an end.
fn end() -> impl Strategy<Value = Peer> {
    (prop::option::of(selector()), prop::option::of(ranges()), prop::option::of(selector())).prop_map(
        |(selector, ranges, not_selector)| Peer { selector, ranges, not_selector, ..Peer::default() },
    )
}

fn service() -> impl Strategy<Value = Service> {
    prop_oneof![
        6 => numbered_service(),
        1 => prop::sample::select(vec![Protocol::TCP, Protocol::UDP])
            .prop_map(|protocol| Service { protocol, ports: Ports::Named("web".into()) }),
    ]
}

fn numbered_service() -> impl Strategy<Value = Service> {
    let port = prop::sample::select(vec![53u16, 80, 179, 8080]);
    let protocol = prop::sample::select(vec![Protocol::TCP, Protocol::UDP]);
    prop_oneof![
        4 => (protocol.clone(), port.clone(), port.clone())
            .prop_map(|(protocol, a, b)| Service { protocol, ports: Ports::Range(a.min(b), a.max(b)) }),
        2 => protocol.prop_map(|protocol| Service { protocol, ports: Ports::Any }),
        1 => prop::option::of(0u8..2).prop_map(|code| Service { protocol: Protocol::ICMP, ports: Ports::Icmp(8, code) }),
        1 => Just(Service { protocol: Protocol(47), ports: Ports::Any }),
    ]
}

fn source_ports() -> impl Strategy<Value = Vec<(u16, u16)>> {
    prop::sample::select(vec![
        vec![],
        vec![(0, u16::MAX)],
        vec![(53, 53)],
        vec![(1024, u16::MAX)],
        vec![(0, 100), (1024, 49_999)],
    ])
}

fn rule() -> impl Strategy<Value = Rule> {
    let action = prop::sample::select(vec![
        Action::Allow,
        Action::Allow,
        Action::Allow,
        Action::Deny,
        Action::Reject,
        Action::Pass,
        Action::Log,
    ]);
    (
        action,
        prop::collection::vec(peer(), 0..3),
        prop::collection::vec(service(), 0..4),
        prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(numbered_service(), 1..3)],
        prop_oneof![5 => Just(None), 1 => source_ports().prop_map(Some)],
    )
        .prop_map(|(action, peers, services, not_services, source_ports)| Rule {
            action,
            peers,
            services,
            not_services,
            source_ports,
            log: None,
            limit: None,
            origin: Origin::default(),
        })
}

fn policy(tiers: usize) -> impl Strategy<Value = Policy> {
    let rules = || prop::option::weighted(0.7, prop::collection::vec(rule(), 0..4));
    (0..tiers, selector(), rules(), rules(), prop::bool::weighted(0.15)).prop_map(
        |(tier, select, ingress, egress, staged)| Policy {
            name: String::new(),
            tier,
            order: 0,
            select,
            ingress,
            egress,
            staged,
            origin: Origin::default(),
        },
    )
}

fn policy_set() -> impl Strategy<Value = PolicySet> {
    let default = prop::sample::select(vec![
        TierDefault::Deny,
        TierDefault::Deny,
        TierDefault::Pass,
        TierDefault::Allow,
    ]);
    let tiers = prop::collection::vec(default, 1..4);
    let verdict = || prop::option::of(any::<bool>());
    let profiles = prop::collection::vec((selector(), verdict(), verdict()), 0..2);
    let ports = prop::collection::vec((selector(), prop::sample::select(vec![80u16, 8080])), 0..3);
    let hosts = prop::collection::vec(host_policy(), 0..3);
    (tiers, prop::collection::vec(policy(3), 0..6), profiles, ports, hosts).prop_map(
        |(tiers, mut policies, profiles, ports, hosts)| {
            let last = tiers.len() - 1;
            for (i, policy) in policies.iter_mut().enumerate() {
                policy.tier = policy.tier.min(last);
                policy.name = format!("p{i}");
            }
            policies.sort_by_key(|p| p.tier);
            PolicySet {
                tiers: tiers
                    .into_iter()
                    .enumerate()
                    .map(|(i, default)| Tier { name: format!("t{i}"), order: i as i64, default })
                    .collect(),
                policies: policies.into_iter().map(Arc::new).collect(),
                profiles: profiles
                    .into_iter()
                    .map(|(select, ingress, egress)| Profile { name: "p".into(), select, ingress, egress })
                    .collect(),
                named_ports: ports
                    .into_iter()
                    .map(|(select, port)| NamedPort {
                        name: "web".into(),
                        select,
                        protocol: Protocol::TCP,
                        port,
                    })
                    .collect(),
                host_policies: hosts
                    .into_iter()
                    .enumerate()
                    .map(|(i, policy)| Arc::new(HostPolicy { name: format!("h{i}"), ..policy }))
                    .collect(),
            }
        },
    )
}

fn host_policy() -> impl Strategy<Value = HostPolicy> {
    let interfaces =
        prop::sample::select(vec![&[][..], &[], &["eth0"], &["eth*"], &["wan", "e*"], &["wan*"], &["eth"]]);
    let rules =
        prop::collection::vec(rule().prop_filter("there is no tier", |r| r.action != Action::Pass), 0..4);
    (interfaces, rules, prop::bool::weighted(0.2)).prop_map(|(interfaces, ingress, staged)| HostPolicy {
        name: String::new(),
        order: 0,
        interfaces: interfaces.iter().map(|i| (*i).to_owned()).collect(),
        ingress,
        staged,
        origin: Origin::default(),
    })
}

fn listener(address: &str) -> Vec<Listener> {
    vec![Listener { address: addr(address), protocol: Protocol::TCP, port: 179 }]
}

fn config(default_ingress: bool, default_egress: bool) -> EngineConfig {
    let nat_outgoing = default_ingress && !default_egress;
    let pool = |cidr: &str| PoolConfig { cidr: cidr.parse().unwrap(), nat_outgoing };
    let mut pools = vec![pool("10.32.0.0/16"), pool("fd00:32::/32")];
    // At times endpoints have addresses of a family that no pool is of.
    if default_ingress == default_egress {
        pools.truncate(1);
    }
    EngineConfig {
        default_ingress,
        default_egress,
        pools,
        infrastructure: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        // At times everywhere, at times at one address only.
        listeners: [Listener::anywhere(Protocol::UDP, 3784).to_vec(), listener(HOST[0]), listener(HOST[1])]
            .concat()
            .into_iter()
            .filter(|l| default_egress || !l.address.is_unspecified())
            .collect(),
        deny_unknown: default_ingress || default_egress,
        ..EngineConfig::default()
    }
}

/// Something that happens to an engine.
#[derive(Clone, Debug)]
enum Event {
    Local(u8, Labels),
    LocalGone(u8),
    Remote(u8, Labels),
    RemoteGone(u8),
    Policies(PolicySet),
    Config(bool, bool),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0u8..4, own_labels()).prop_map(|(i, l)| Event::Local(i, l)),
        2 => (0u8..4).prop_map(Event::LocalGone),
        6 => (0u8..12, labels()).prop_map(|(i, l)| Event::Remote(i, l)),
        2 => (0u8..12).prop_map(Event::RemoteGone),
        1 => policy_set().prop_map(Event::Policies),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(a, b)| Event::Config(a, b)),
    ]
}

fn interface(i: u8) -> EndpointId {
    EndpointId(format!("s32{i:011x}"))
}

impl Event {
    fn apply(&self, engine: &mut Engine) {
        match self {
            Self::Local(i, labels) => {
                engine.upsert_local(LocalEndpoint {
                    shared: Vec::new(),
                    id: interface(*i),
                    addresses: vec![addr(ADDRESSES[usize::from(*i)]), addr(ADDRESSES[usize::from(*i) + 6])],
                    labels: labels.clone(),
                });
                engine.arrived(&interface(*i));
            }
            Self::LocalGone(i) => _ = engine.remove_local(&interface(*i)),
            // Remote identities may also claim a local address: the local endpoint wins.
            Self::Remote(i, labels) => {
                let prefix = Prefix::host(addr(ADDRESSES[usize::from(*i)]));
                assert!(engine.upsert_remote(prefix, Arc::new(Identity::of(labels))));
            }
            Self::RemoteGone(i) => engine.remove_remote(Prefix::host(addr(ADDRESSES[usize::from(*i)]))),
            Self::Policies(set) => engine.set_policies(Arc::new(set.clone())),
            Self::Config(a, b) => engine.set_config(config(*a, *b)),
        }
    }

    /// What the event is about: of several about the same, the last one counts.
    fn subject(&self) -> (u8, u8) {
        match self {
            Self::Local(i, _) | Self::LocalGone(i) => (0, *i),
            Self::Remote(i, _) | Self::RemoteGone(i) => (1, *i),
            Self::Policies(_) => (2, 0),
            Self::Config(..) => (3, 0),
        }
    }
}

fn flow() -> impl Strategy<Value = Flow> {
    let what = prop::sample::select(vec![
        (Protocol::TCP, 80),
        (Protocol::TCP, 8080),
        (Protocol::TCP, 179),
        (Protocol::TCP, 443),
        (Protocol::UDP, 53),
        (Protocol::UDP, 3784),
        (Protocol::ICMP, 8 << 8),
        (Protocol::ICMP, 8 << 8 | 1),
        (Protocol(47), 0),
    ]);
    let ends = |v6: bool| {
        let all: Vec<IpAddr> =
            ADDRESSES.iter().chain(&HOST).map(|t| addr(t)).filter(|a| a.is_ipv6() == v6).collect();
        (prop::sample::select(all.clone()), prop::sample::select(all))
    };
    let source_port = prop::sample::select(vec![Flow::EPHEMERAL, Flow::EPHEMERAL, 53, 1023, 1024, 49_999]);
    (any::<bool>().prop_flat_map(ends), what, source_port).prop_map(
        |((source, destination), (protocol, port), source_port)| Flow {
            source,
            destination,
            protocol,
            port,
            source_port,
        },
    )
}

const NOW: u32 = 7;

/// Whether the kernel would pass a packet of a connection: its first, or a reply.
fn passes(
    engine: &Engine,
    rules: &Ruleset,
    flow: &Flow,
    state: u32,
    reply: bool,
    stamp: u32,
) -> Option<bool> {
    judged(engine, rules, flow, state, reply, stamp).map(|judgement| judgement.accepted)
}

fn judged(
    engine: &Engine,
    rules: &Ruleset,
    flow: &Flow,
    state: u32,
    reply: bool,
    stamp: u32,
) -> Option<Judgement> {
    let host = |a: IpAddr| HOST.iter().any(|h| addr(h) == a);
    let interface_of = |a: IpAddr| match engine.owner_of(Prefix::host(a)) {
        Some((id, _)) => id.as_str().to_owned(),
        None if host(a) => String::new(),
        None => "eth0".to_owned(),
    };
    let (from, to) = if reply { (flow.destination, flow.source) } else { (flow.source, flow.destination) };
    let hook = match (host(from), host(to)) {
        // What the host sends is not filtered.
        (true, _) => return None,
        (false, true) => HookPoint::Input,
        (false, false) => HookPoint::Forward,
    };
    let packet = Packet {
        iif: interface_of(from),
        oif: interface_of(to),
        source: from,
        destination: to,
        protocol: flow.protocol.0,
        port: flow.port,
        to_host: host(to),
        connection: Some(Connection { state, reply, dnat: false, flow: *flow, stamp }),
    };
    if !reply && !host(from) && interface_of(from) != "eth0" {
        let forged = Packet { iif: "eth0".into(), ..packet.clone() };
        let of_judged = state == 2 && stamp == NOW;
        if hook == HookPoint::Forward && interface_of(to) != "eth0" && !of_judged {
            assert!(!rules.judge(hook, &forged, NOW).accepted, "forged: {flow}");
        }
    }
    let judgement = rules.judge(hook, &packet, NOW);
    if judgement.accepted && !interface_of(from).starts_with("eth") {
        assert_eq!(judgement.stamp, Some(NOW), "what passes is stamped");
    }
    Some(judgement)
}

fn check(engine: &Engine, flows: &[Flow]) -> Result<(), TestCaseError> {
    let rules = engine.compiled();
    let host = |a: IpAddr| HOST.iter().any(|h| addr(h) == a);
    for flow in flows {
        let mut view = View::new(engine, engine.policies(), &host);
        view.interface = Some("eth0".into());
        let explanation = view.explain(flow);
        let reach = view.reach(flow.source, flow.destination);
        // All services at once are of a connection from an ephemeral port.
        if flow.source_port == Flow::EPHEMERAL {
            prop_assert_eq!(
                reach.contains(flow.protocol, flow.port),
                explanation.allowed,
                "{} of {}\n{:#?}",
                flow,
                reach,
                explanation
            );
        }
        // The other host's side is a prediction; this host's table does not enforce it.
        let here =
            |side: &Option<super::explain::Side>| side.as_ref().is_none_or(|s| !s.enforced_here || s.allowed);
        let refused_elsewhere = here(&explanation.egress) && here(&explanation.ingress);
        let elsewhere = [&explanation.egress, &explanation.ingress]
            .into_iter()
            .flatten()
            .any(|s| !s.enforced_here && !s.allowed);
        let by_host = explanation.host.as_ref().is_none_or(|host| host.allowed);
        let want = explanation.allowed
            || (elsewhere && refused_elsewhere && by_host && reason_is_a_side(&explanation.reason));
        for (state, reply, stamp) in
            [(8, false, 0), (2, false, 0), (2, false, NOW - 1), (2, true, NOW - 1), (2, true, 0)]
        {
            if let Some(got) = passes(engine, &rules, flow, state, reply, stamp) {
                // A reply to the host is to a connection that it opened; those are always allowed.
                let want = want || host(flow.source);
                prop_assert_eq!(got, want, "{} state {} reply {}\n{:#?}", flow, state, reply, explanation);
            }
        }
        for reply in [false, true] {
            if let Some(got) = passes(engine, &rules, flow, 2, reply, NOW) {
                prop_assert!(got, "a connection with the present stamp passes: {}", flow);
            }
        }
    }
    Ok(())
}

fn reason_is_a_side(reason: &str) -> bool {
    reason.starts_with("egress: ") || reason.starts_with("ingress: ")
}

/// An engine after what events say of endpoints.
fn endpoints_of(events: &[Event]) -> Engine {
    let mut engine = Engine::new(config(true, true));
    for event in events.iter().filter(|e| !matches!(e, Event::Policies(_))) {
        event.apply(&mut engine);
    }
    engine
}

proptest! {
    // `PROPTEST_CASES=20000 cargo test` digs deeper.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn compiled_and_interpreted_agree(
        set in policy_set(),
        events in prop::collection::vec(event(), 4..16),
        flows in prop::collection::vec(flow(), 48),
        defaults in any::<(bool, bool)>(),
    ) {
        let mut engine = Engine::new(config(defaults.0, defaults.1));
        engine.set_policies(Arc::new(set));
        for event in &events {
            event.apply(&mut engine);
        }
        check(&engine, &flows)?;
    }

    #[test]
    fn changes_lead_where_a_fresh_start_does(
        set in policy_set(),
        batches in prop::collection::vec(prop::collection::vec(event(), 1..6), 1..8),
    ) {
        let mut engine = Engine::new(config(true, true));
        engine.set_policies(Arc::new(set.clone()));
        let mut mirror = engine.snapshot();
        let mut last: BTreeMap<(u8, u8), Event> = BTreeMap::new();
        last.insert((2, 0), Event::Policies(set));
        for batch in &batches {
            for event in batch {
                event.apply(&mut engine);
                last.insert(event.subject(), event.clone());
            }
            let delta = engine.changes();
            let applied = mirror.apply(&delta);
            prop_assert!(applied.is_ok(), "{applied:?}\n{delta:#?}");
            prop_assert_eq!(&mirror, &engine.compiled());
            prop_assert!(engine.changes().is_empty());
        }
        // The same inputs in another order, without any history, give the same form.
        let mut fresh = Engine::new(config(true, true));
        for event in last.values().rev() {
            event.apply(&mut fresh);
        }
        prop_assert_eq!(&fresh.compiled(), &mirror);
        // From nothing, one change makes all of it.
        let mut nothing = Ruleset::default();
        prop_assert_eq!(nothing.apply(&fresh.changes()), Ok(()));
        prop_assert_eq!(&nothing, &mirror);
    }

    /// A difference of policies is told for exactly the pairs of addresses that it concerns, and a matrix says of each
    /// pair what the interpreter says.
    #[test]
    fn parties_stand_for_their_addresses(
        set in policy_set(),
        other in policy_set(),
        events in prop::collection::vec(event(), 4..20),
    ) {
        let mut engine = endpoints_of(&events);
        engine.set_policies(Arc::new(set));
        let host = |_: IpAddr| false;
        let reader = engine.reader();
        let old = View::new(&reader, engine.policies(), &host);
        let new = View::new(&engine, &other, &host);
        let (changes, by_port): (Vec<_>, Vec<_>) =
            old.diff(&other, &Here::default()).unwrap().into_iter().partition(|c| c.source_ports.is_none());
        let cells = old.matrix(&Here::default()).unwrap().cells;
        let known: Vec<IpAddr> = ADDRESSES.iter().map(|a| addr(a)).filter(|a| {
            engine.identity_of(Prefix::host(*a)).is_some()
        }).collect();
        let mut differing = 0;
        for source in &known {
            for destination in known.iter().filter(|d| *d != source && d.is_ipv4() == source.is_ipv4()) {
                let (before, after) = (old.reach(*source, *destination), new.reach(*source, *destination));
                prop_assert!(cells.iter().any(|c| c.allowed == before), "{source} {destination} {before}");
                if before != after {
                    differing += 1;
                    let (allows, cuts) = (after.minus(&before), before.minus(&after));
                    prop_assert!(
                        changes.iter().any(|c| (&c.allows, &c.cuts) == (&allows, &cuts)),
                        "{} {} allows {} cuts {}\n{:#?}", source, destination, allows, cuts, changes
                    );
                }
            }
        }
        let world = |name: &str| name.starts_with("world");
        let told: usize = changes.iter().filter(|c| !world(&c.from) && !world(&c.to)).map(|c| c.pairs).sum();
        prop_assert_eq!(told, differing, "{:#?}", changes);
        // From other ports: what is different there and not from an ephemeral one, all of it and nothing else.
        let view = |set, port| {
            let mut view = View::new(&engine, set, &host);
            view.source_port = port;
            view
        };
        let ports: BTreeSet<u16> = by_port.iter().flat_map(|c| low_ports(c.source_ports.as_deref().unwrap_or_default())).collect();
        for port in ports.into_iter().chain([0, 1, 53, 79, 80, 81, 1023, 65535]) {
            let (before, after) = (view(engine.policies(), port), view(&other, port));
            let mut differing = 0;
            for source in &known {
                for destination in known.iter().filter(|d| *d != source && d.is_ipv4() == source.is_ipv4()) {
                    let change = |(a, b): (&View<'_>, &View<'_>)| {
                        let (a, b) = (a.reach(*source, *destination), b.reach(*source, *destination));
                        (b.minus(&a), a.minus(&b))
                    };
                    let (usual, here) = (change((&old, &new)), change((&before, &after)));
                    let more = (here.0.minus(&usual.0), here.1.minus(&usual.1));
                    differing += usize::from(!(more.0.is_empty() && more.1.is_empty()));
                }
            }
            let of_port = by_port.iter().filter(|c| covers_port(c.source_ports.as_deref(), port));
            let told: usize = of_port.filter(|c| !world(&c.from) && !world(&c.to)).map(|c| c.pairs).sum();
            prop_assert_eq!(told, differing, "from port {}: {:#?}", port, by_port);
        }
        prop_assert_eq!(old.diff(engine.policies(), &Here::default()).unwrap(), []);
    }

    /// The same of the host: by each interface, from its own endpoints and from elsewhere.
    #[test]
    fn doors_stand_for_their_interfaces(
        set in policy_set(),
        other in policy_set(),
        events in prop::collection::vec(event(), 4..20),
    ) {
        let engine = endpoints_of(&events);
        let host = |a: IpAddr| HOST.iter().any(|h| addr(h) == a);
        let here = Here { addresses: HOST.map(addr).to_vec(), endpoints_anywhere: false };
        let mut views = [&set, &other].map(|set| View::new(&engine, set, &host));
        let cells = views[0].matrix(&here).unwrap().cells;
        let changes = views[0].diff(&other, &here).unwrap();
        let mut differing = 0;
        for source in ADDRESSES.map(addr) {
            let local = engine.owner_of(Prefix::host(source)).is_some();
            if !local && engine.identity_of(Prefix::host(source)).is_none() {
                continue;
            }
            let destination = addr(HOST[usize::from(source.is_ipv6())]);
            let interfaces = if local { &["s32a"][..] } else { &["eth0", "eth", "eth7", "e", "wan", "wan0", "x", "en"] };
            for interface in interfaces {
                let [before, after] = &mut views;
                for view in [&mut *before, &mut *after] {
                    view.interface = Some((*interface).to_owned());
                }
                let (before, after) = (before.reach(source, destination), after.reach(source, destination));
                let to_host = |to: &str| if local { to == "host" } else { to.starts_with("host by ") };
                prop_assert!(
                    cells.iter().any(|c| to_host(&c.to) && c.allowed == before),
                    "{} by {}: {}\n{:#?}", source, interface, before, cells
                );
                if before != after {
                    differing += usize::from(local);
                    let (allows, cuts) = (after.minus(&before), before.minus(&after));
                    prop_assert!(
                        changes.iter().any(|c| to_host(&c.to) && (&c.allows, &c.cuts) == (&allows, &cuts)),
                        "{} by {}: allows {} cuts {}\n{:#?}", source, interface, allows, cuts, changes
                    );
                }
            }
        }
        let usual = changes.iter().filter(|c| c.to == "host" && c.source_ports.is_none());
        prop_assert_eq!(usual.map(|c| c.pairs).sum::<usize>(), differing, "{:#?}", changes);
        prop_assert_eq!(View::new(&engine, &set, &host).diff(&set, &here).unwrap(), []);
    }

    /// What was allowed and is so no longer must be judged anew: one of the changes since then says so. What a connection
    /// is not allowed at the moment it was at a former one, unless a generation has begun in between: so is one with an
    /// address that is nobody's for a while.
    #[test]
    fn revocations_are_announced(
        set in policy_set(),
        before in prop::collection::vec(event(), 4..12),
        changes in prop::collection::vec(event(), 1..6),
        flows in prop::collection::vec(flow(), 32),
    ) {
        let mut engine = Engine::new(config(true, true));
        engine.set_policies(Arc::new(set));
        // Who has been heard of: with anybody else nobody can have a connection.
        let mut heard: BTreeSet<IpAddr> = BTreeSet::new();
        let addresses = |event: &Event| -> Vec<IpAddr> {
            match event {
                Event::Local(i, _) => [*i, *i + 6].map(|i| addr(ADDRESSES[usize::from(i)])).to_vec(),
                Event::Remote(i, _) => vec![addr(ADDRESSES[usize::from(*i)])],
                _ => Vec::new(),
            }
        };
        for event in &before {
            event.apply(&mut engine);
            heard.extend(addresses(event));
        }
        let rules = engine.snapshot();
        // Whether it passes, and whether that counts for its next packets: between others the host only forwards.
        let pass = |engine: &Engine, rules: &Ruleset, f: &Flow| {
            let judgement = judged(engine, rules, f, 8, false, 0)?;
            Some((judgement.accepted, judgement.accepted && judgement.stamp == Some(NOW)))
        };
        let counts = |pass: Option<(bool, bool)>| pass.is_some_and(|(_, counts)| counts);
        let mut stamped: Vec<_> = flows.iter().map(|f| counts(pass(&engine, &rules, f))).collect();
        for change in &changes {
            change.apply(&mut engine);
            let delta = engine.changes();
            let rules = engine.compiled();
            for (flow, stamped) in flows.iter().zip(&mut stamped) {
                let now = pass(&engine, &rules, flow);
                let new = |end: IpAddr| addresses(change).contains(&end) && !heard.contains(&end);
                let begins = new(flow.source) || new(flow.destination);
                // What the host sends is not judged.
                let refused = now.is_some_and(|(passes, _)| !passes);
                let silently = *stamped && !delta.revokes && !begins && refused;
                prop_assert!(!silently, "{flow} was revoked silently by {change:?} of {changes:#?}");
                *stamped = counts(now) || *stamped && !delta.revokes && !begins;
            }
            heard.extend(addresses(change));
        }
    }
}

/// The ranges of a text such as `68, 1000-1023`.
fn ranges_of(text: &str) -> Vec<(u16, u16)> {
    let range = |part: &str| {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        (low.parse().unwrap(), high.parse().unwrap())
    };
    text.split(", ").filter(|part| !part.is_empty()).map(range).collect()
}

fn low_ports(text: &str) -> Vec<u16> {
    ranges_of(text).into_iter().map(|(low, _)| low).collect()
}

fn covers_port(text: Option<&str>, port: u16) -> bool {
    ranges_of(text.unwrap_or_default()).iter().any(|(low, high)| (*low..=*high).contains(&port))
}
