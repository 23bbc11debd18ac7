//! Random policies and changes, for three opinions on each.

use super::*;

fn selector(key: &'static str, values: [&'static str; 3]) -> impl Strategy<Value = Sel> {
    let value = prop::sample::select(values.to_vec()).prop_map(str::to_owned);
    let key = prop_oneof![5 => Just(key), 1 => Just("tier")].prop_map(str::to_owned);
    let list = prop::collection::vec(value.clone(), 1..3);
    let expression = prop_oneof![
        (key.clone(), Just("In"), list.clone()),
        (key.clone(), Just("NotIn"), list),
        (key.clone(), Just("Exists"), Just(Vec::new())),
        (key.clone(), Just("DoesNotExist"), Just(Vec::new())),
    ];
    let labels = prop::collection::btree_map(key, value, 0..2);
    (labels, prop::collection::vec(expression, 0..2))
        .prop_map(|(labels, expressions)| Sel { labels, expressions })
}

fn pods() -> impl Strategy<Value = Sel> {
    selector("pod", ["a", "b", "c"])
}

fn namespaces() -> impl Strategy<Value = Sel> {
    prop_oneof![3 => selector("ns", ["x", "y", "z"]), 1 => selector("kubernetes.io/metadata.name", ["x", "y", "z"])]
}

fn rules() -> impl Strategy<Value = Vec<RuleModel>> {
    let block = prop::sample::select(vec![
        ("0.0.0.0/0", vec![]),
        ("10.32.4.0/24", vec!["10.32.4.2/32", "10.32.4.8/31"]),
        ("192.0.2.0/24", vec!["192.0.2.128/25"]),
        ("10.32.4.4/32", vec![]),
        ("::/0", vec![]),
    ]);
    let peer = prop_oneof![
        pods().prop_map(PeerModel::Pods),
        namespaces().prop_map(PeerModel::Namespaces),
        (namespaces(), pods()).prop_map(|(n, p)| PeerModel::Both(n, p)),
        block.prop_map(|(c, e)| PeerModel::Block(c, e)),
    ];
    let value = prop_oneof![
        prop::sample::select(vec![80u16, 81, 82]).prop_map(PortValue::Number),
        Just(PortValue::Range(79, 80)),
        Just(PortValue::Range(80, 81)),
        prop::sample::select(vec!["serve-80-tcp", "serve-81-udp", "serve-81-tcp", "unknown"])
            .prop_map(PortValue::Name),
    ];
    let protocol = prop::option::of(prop::sample::select(vec!["TCP", "UDP", "SCTP"]));
    let port = (protocol, prop::option::weighted(0.8, value))
        .prop_map(|(protocol, port)| PortModel { protocol, port });
    let rule = (
        prop::option::weighted(0.8, prop::collection::vec(peer, 0..3)),
        prop::option::weighted(0.6, prop::collection::vec(port, 0..3)),
    )
        .prop_map(|(peers, ports)| RuleModel { peers, ports });
    prop::collection::vec(rule, 0..3)
}

fn policy() -> impl Strategy<Value = Np> {
    let types = prop::sample::select(vec![
        None,
        Some(vec!["Ingress"]),
        Some(vec!["Egress"]),
        Some(vec!["Ingress", "Egress"]),
    ]);
    (
        prop::sample::select(vec!["x", "y", "z"]),
        pods(),
        types,
        prop::option::weighted(0.8, rules()),
        prop::option::weighted(0.5, rules()),
    )
        .prop_map(|(namespace, pods, types, ingress, egress)| Np {
            namespace,
            pods,
            types,
            ingress,
            egress,
        })
}

/// Something a user does.
#[derive(Clone, Debug)]
enum Change {
    Relabel(usize, Map),
    RelabelNamespace(&'static str, Map),
    Delete,
    Add(Np),
}

fn change() -> impl Strategy<Value = Change> {
    let labels = |key: &'static str, values: [&'static str; 3]| {
        let value = prop::sample::select(values.to_vec()).prop_map(str::to_owned);
        let key = prop_oneof![3 => Just(key), 1 => Just("tier")].prop_map(str::to_owned);
        prop::collection::btree_map(key, value, 0..3)
    };
    prop_oneof![
        (0..9usize, labels("pod", ["a", "b", "c"])).prop_map(|(i, l)| Change::Relabel(i, l)),
        (prop::sample::select(vec!["x", "y", "z"]), labels("ns", ["x", "y", "z"]))
            .prop_map(|(n, l)| Change::RelabelNamespace(n, l)),
        Just(Change::Delete),
        policy().prop_map(Change::Add),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(
        std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(48))
    })]

    #[test]
    fn three_opinions_agree(
        mut policies in prop::collection::vec(policy(), 1..4),
        changes in prop::collection::vec(change(), 0..3),
    ) {
        let mut world = World::new();
        let mut engine = new_engine();
        world.tell(&mut engine, &policies);
        world.check(&engine, &policies)?;
        for change in changes {
            match change {
                Change::Relabel(i, labels) => world.pods[i].labels = labels,
                Change::RelabelNamespace(name, labels) => _ = world.namespaces.insert(name, labels),
                Change::Delete => _ = policies.pop(),
                Change::Add(policy) => policies.push(policy),
            }
            world.tell(&mut engine, &policies);
            world.check(&engine, &policies)?;
        }
    }
}
