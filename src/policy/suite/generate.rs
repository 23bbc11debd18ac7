//! The cases, one list a question of the API: each varies one thing and keeps the rest simple.

use std::{collections::BTreeMap, fmt::Write};

use super::{Case, Step, Suite, SuiteEnd};
use crate::policy::kubernetes_tests::{
    End, Map, Np, OUTSIDE, PeerModel, PortModel, PortValue, RuleModel, Sel, World,
};

const SERVICES: [(&str, u16); 6] =
    [("TCP", 80), ("TCP", 81), ("UDP", 80), ("UDP", 81), ("SCTP", 80), ("SCTP", 81)];

pub(super) fn suite() -> Suite {
    let world = World::new();
    let mut ends: Vec<SuiteEnd> = Vec::new();
    for pod in &world.pods {
        let name = format!("{}/{}", pod.namespace, pod.labels["pod"]);
        ends.push(SuiteEnd { name, namespace: Some(pod.namespace.into()), addresses: pod.addrs.to_vec() });
    }
    for (i, addresses) in OUTSIDE.iter().enumerate() {
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        ends.push(SuiteEnd { name: format!("outside{i}"), namespace: None, addresses });
    }
    let mut ports = String::new();
    for port in [80, 81] {
        for protocol in ["tcp", "udp"] {
            let _ = writeln!(
                ports,
                "[[named_port]]\nname = \"serve-{port}-{protocol}\"\nselect = \"has(namespace)\"\nprotocol = \"{protocol}\"\nport = {port}"
            );
        }
    }
    let mut cases = Vec::new();
    targets(&mut cases);
    types(&mut cases);
    peers(&mut cases);
    several_peers(&mut cases);
    ports_and_protocols(&mut cases);
    conflicts(&mut cases);
    actions(&mut cases);
    Suite { ends, ports, cases }
}

/// One state of the world, judged.
fn step(world: &World, policies: &[Np]) -> Step {
    let ends: Vec<End> =
        (0..world.pods.len()).map(End::Pod).chain((0..OUTSIDE.len()).map(End::Outside)).collect();
    let allowed = matrices(world, policies, &ends, false);
    let allowed6 = matrices(world, policies, &ends, true);
    let original = World::new();
    let labels = world.pods.iter().zip(&original.pods).filter(|(now, then)| now.labels != then.labels);
    Step {
        yaml: world.yaml(policies),
        labels: labels
            .map(|(now, then)| (format!("{}/{}", then.namespace, then.labels["pod"]), now.labels.clone()))
            .collect(),
        allowed6: (allowed6 != allowed).then_some(allowed6),
        allowed,
    }
}

/// Who may talk to whom in a family: services to lines.
fn matrices(world: &World, policies: &[Np], ends: &[End], v6: bool) -> BTreeMap<String, String> {
    let mut by_matrix: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (protocol, port) in SERVICES {
        let line = |from: &End| -> String {
            let mark = |to: &End| match (from, to) {
                _ if from == to => '-',
                (End::Outside(_), End::Outside(_)) => '-',
                _ if world.allowed(policies, (from, to, v6), protocol, port) => 'X',
                _ => '.',
            };
            ends.iter().map(mark).collect()
        };
        let matrix: Vec<String> = ends.iter().map(line).collect();
        let service = format!("{}/{port}", protocol.to_lowercase());
        by_matrix.entry(matrix.join(" ")).or_default().push(service);
    }
    by_matrix.into_iter().map(|(matrix, services)| (services.join(" "), matrix)).collect()
}

fn simple(cases: &mut Vec<Case>, name: String, policies: &[Np]) {
    cases.push(Case { name, steps: vec![step(&World::new(), policies)] });
}

fn labels(pairs: &[(&str, &str)]) -> Sel {
    Sel { labels: map(pairs), expressions: Vec::new() }
}

fn map(pairs: &[(&str, &str)]) -> Map {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn expression(key: &str, operator: &'static str, values: &[&str]) -> Sel {
    let values = values.iter().map(|v| (*v).to_owned()).collect();
    Sel { labels: Map::new(), expressions: vec![(key.to_owned(), operator, values)] }
}

/// Every kind of selector over one label.
fn selectors(key: &str, [a, b, c]: [&str; 3]) -> Vec<(String, Sel)> {
    let both = Sel { labels: map(&[(key, a)]), ..expression(key, "NotIn", &[b]) };
    let nobody = Sel { labels: map(&[(key, a)]), ..expression(key, "NotIn", &[a]) };
    vec![
        ("everything".into(), Sel::default()),
        (format!("{key}={a}"), labels(&[(key, a)])),
        (format!("{key}=nothing"), labels(&[(key, "nothing")])),
        (format!("{key} in {a},{c}"), expression(key, "In", &[a, c])),
        (format!("{key} not in {a},{c}"), expression(key, "NotIn", &[a, c])),
        (format!("{key} exists"), expression(key, "Exists", &[])),
        (format!("{key} does not exist"), expression(key, "DoesNotExist", &[])),
        ("a missing label is not in a list".into(), expression("missing", "NotIn", &[a])),
        ("a missing label is in no list".into(), expression("missing", "In", &[a])),
        ("a missing label does not exist".into(), expression("missing", "DoesNotExist", &[])),
        (format!("{key}={a} and not in {b}"), both),
        (format!("{key}={a} and not in {a}"), nobody),
    ]
}

/// A policy of namespace x for its pod a, about one direction.
fn about(direction: &'static str, rules: Vec<RuleModel>) -> Np {
    let (ingress, egress) = match direction {
        "Ingress" => (Some(rules), None),
        _ => (None, Some(rules)),
    };
    Np { namespace: "x", pods: labels(&[("pod", "a")]), types: Some(vec![direction]), ingress, egress }
}

const DIRECTIONS: [&str; 2] = ["Ingress", "Egress"];

fn targets(cases: &mut Vec<Case>) {
    for (name, pods) in selectors("pod", ["a", "b", "c"]) {
        for direction in DIRECTIONS {
            for (what, rules) in [("nothing", Vec::new()), ("everything", vec![RuleModel::default()])] {
                let policy = Np { pods: pods.clone(), ..about(direction, rules) };
                let name = format!("target {name}: {direction} allows {what}");
                simple(cases, name, &[policy]);
            }
        }
    }
    for namespace in ["y", "z"] {
        for direction in DIRECTIONS {
            let policy = Np { namespace, pods: Sel::default(), ..about(direction, Vec::new()) };
            simple(cases, format!("target namespace {namespace}: {direction} allows nothing"), &[policy]);
        }
    }
}

fn types(cases: &mut Vec<Case>) {
    let lists = [None, Some(vec![]), Some(vec!["Ingress"]), Some(vec!["Egress"]), Some(DIRECTIONS.to_vec())];
    let rules = [("absent", None), ("empty", Some(vec![])), ("all", Some(vec![RuleModel::default()]))];
    for types in lists {
        for (in_name, ingress) in &rules {
            for (out_name, egress) in &rules {
                let policy = Np {
                    types: types.clone(),
                    ingress: ingress.clone(),
                    egress: egress.clone(),
                    ..about("Ingress", Vec::new())
                };
                let shown = types.as_ref().map_or("absent".into(), |t| format!("[{}]", t.join(",")));
                simple(cases, format!("types {shown}, ingress {in_name}, egress {out_name}"), &[policy]);
            }
        }
    }
}

fn all_peers() -> Vec<(String, PeerModel)> {
    let mut peers = Vec::new();
    for (name, pods) in selectors("pod", ["a", "b", "c"]) {
        peers.push((format!("pods with {name}"), PeerModel::Pods(pods)));
    }
    for (name, namespaces) in selectors("ns", ["x", "y", "z"]) {
        peers.push((format!("namespaces with {name}"), PeerModel::Namespaces(namespaces)));
    }
    let by_name = labels(&[("kubernetes.io/metadata.name", "y")]);
    peers.push(("the namespace called y".into(), PeerModel::Namespaces(by_name.clone())));
    peers.push((
        "every namespace but the one called y".into(),
        PeerModel::Namespaces(expression("kubernetes.io/metadata.name", "NotIn", &["y"])),
    ));
    for (name, pods) in selectors("pod", ["b", "a", "c"]).into_iter().take(6) {
        peers
            .push((format!("in y, pods with {name}"), PeerModel::Both(labels(&[("ns", "y")]), pods.clone())));
        peers.push((format!("anywhere, pods with {name}"), PeerModel::Both(Sel::default(), pods)));
    }
    for (cidr, except) in [
        ("0.0.0.0/0", vec![]),
        ("0.0.0.0/0", vec!["10.32.4.0/24"]),
        ("0.0.0.0/1", vec![]),
        ("128.0.0.0/1", vec!["192.0.2.0/24"]),
        ("10.32.4.0/24", vec![]),
        ("10.32.4.0/24", vec!["10.32.4.2/32", "10.32.4.8/31"]),
        ("10.32.4.0/29", vec!["10.32.4.4/30", "10.32.4.5/32"]),
        ("10.32.4.5/32", vec![]),
        ("10.32.4.5/24", vec![]),
        ("192.0.2.0/24", vec!["192.0.2.128/25"]),
        ("192.0.2.9/32", vec![]),
        ("::/0", vec![]),
        ("fd00:32::/48", vec!["fd00:32::2/128"]),
        ("::/0", vec!["fd00:32::/48"]),
        ("::/1", vec![]),
        ("8000::/1", vec!["fd00:32::8/125"]),
        ("fd00:32::/125", vec!["fd00:32::4/126", "fd00:32::5/128"]),
        ("fd00:32::5/128", vec![]),
        ("fd00:32::5/64", vec![]),
        ("2001:db8::/32", vec!["2001:db8:1::/48"]),
        ("2001:db8::9/128", vec![]),
    ] {
        let name = format!("block {cidr} except [{}]", except.join(","));
        peers.push((name, PeerModel::Block(cidr, except)));
    }
    peers
}

fn port(protocol: Option<&'static str>, port: Option<PortValue>) -> PortModel {
    PortModel { protocol, port }
}

fn peers(cases: &mut Vec<Case>) {
    for (name, peer) in all_peers() {
        for direction in DIRECTIONS {
            let rule = RuleModel { peers: Some(vec![peer.clone()]), ports: None };
            simple(cases, format!("{direction} {name}"), &[about(direction, vec![rule])]);
        }
        let tcp = vec![port(None, Some(PortValue::Number(80)))];
        let rule = RuleModel { peers: Some(vec![peer]), ports: Some(tcp) };
        simple(cases, format!("Ingress {name}, TCP 80"), &[about("Ingress", vec![rule])]);
    }
}

fn several_peers(cases: &mut Vec<Case>) {
    let all = all_peers();
    // Neighbours far apart in the list are of different kinds.
    for i in (0..all.len()).step_by(3) {
        let (first, second) = (&all[i], &all[(i + 17) % all.len()]);
        for direction in DIRECTIONS {
            let name = format!("{direction} {}, or {}", first.0, second.0);
            let together = RuleModel { peers: Some(vec![first.1.clone(), second.1.clone()]), ports: None };
            simple(cases, format!("{name}, in one rule"), &[about(direction, vec![together])]);
            let rule = |peer: &PeerModel, number: u16| RuleModel {
                peers: Some(vec![peer.clone()]),
                ports: Some(vec![port(None, Some(PortValue::Number(number)))]),
            };
            let rules = vec![rule(&first.1, 80), rule(&second.1, 81)];
            simple(cases, format!("{name}, each with a port"), &[about(direction, rules)]);
        }
    }
    for direction in DIRECTIONS {
        for (name, peers) in [("absent", None), ("empty", Some(Vec::new()))] {
            for (ports_name, ports) in [("absent", None), ("empty", Some(Vec::new()))] {
                let rule = RuleModel { peers: peers.clone(), ports: ports.clone() };
                simple(
                    cases,
                    format!("{direction} peers {name}, ports {ports_name}"),
                    &[about(direction, vec![rule])],
                );
            }
        }
    }
}

fn ports_and_protocols(cases: &mut Vec<Case>) {
    let mut lists: Vec<(String, Vec<PortModel>)> = Vec::new();
    for protocol in [None, Some("TCP"), Some("UDP"), Some("SCTP")] {
        let shown = protocol.unwrap_or("no protocol");
        lists.push((format!("{shown}, all ports"), vec![port(protocol, None)]));
        lists.push((format!("{shown} 80"), vec![port(protocol, Some(PortValue::Number(80)))]));
        for (low, high) in [(79, 80), (80, 81), (81, 65535), (80, 80), (1, 79)] {
            let range = PortValue::Range(low, high);
            lists.push((format!("{shown} {low} to {high}"), vec![port(protocol, Some(range))]));
        }
        for name in ["serve-80-tcp", "serve-81-udp", "unknown"] {
            lists.push((format!("{shown} {name}"), vec![port(protocol, Some(PortValue::Name(name)))]));
        }
    }
    let number = |protocol, n| port(Some(protocol), Some(PortValue::Number(n)));
    lists.push(("TCP 80 or UDP 81".into(), vec![number("TCP", 80), number("UDP", 81)]));
    lists.push(("TCP 80 twice".into(), vec![number("TCP", 80), number("TCP", 80)]));
    lists
        .push(("all three protocols".into(), vec![number("TCP", 81), number("UDP", 81), number("SCTP", 81)]));
    for (name, ports) in lists {
        for direction in DIRECTIONS {
            let rule = |peers| RuleModel { peers, ports: Some(ports.clone()) };
            simple(cases, format!("{direction} {name}"), &[about(direction, vec![rule(None)])]);
            let peer = PeerModel::Both(labels(&[("ns", "y")]), labels(&[("pod", "b")]));
            let policy = about(direction, vec![rule(Some(vec![peer]))]);
            simple(cases, format!("{direction} {name}, y/b only"), &[policy]);
        }
    }
}

fn conflicts(cases: &mut Vec<Case>) {
    let everyone = |direction, rules| Np { pods: Sel::default(), ..about(direction, rules) };
    let from = |peer: PeerModel| vec![RuleModel { peers: Some(vec![peer]), ports: None }];
    let (x, y) = (labels(&[("ns", "x")]), labels(&[("ns", "y")]));
    for direction in DIRECTIONS {
        let nothing = everyone(direction, Vec::new());
        let all = about(direction, vec![RuleModel::default()]);
        simple(cases, format!("{direction} deny all and allow all"), &[nothing.clone(), all.clone()]);
        simple(cases, format!("{direction} allow all and deny all"), &[all.clone(), nothing.clone()]);
        let one = about(direction, from(PeerModel::Namespaces(x.clone())));
        let other = about(direction, from(PeerModel::Namespaces(y.clone())));
        simple(cases, format!("{direction} two policies add up"), &[one.clone(), other.clone()]);
        simple(cases, format!("{direction} three policies"), &[one.clone(), other.clone(), nothing.clone()]);
        simple(cases, format!("{direction} the same policy twice"), &[one.clone(), one.clone()]);
        let block = about(direction, from(PeerModel::Block("10.32.4.0/24", vec!["10.32.4.5/32"])));
        let hole = about(direction, from(PeerModel::Block("10.32.4.5/32", vec![])));
        simple(cases, format!("{direction} an exception that another policy allows"), &[block, hole]);
    }
    // Both ends must agree.
    for (name, out, into) in [
        ("only egress allows", true, false),
        ("only ingress allows", false, true),
        ("both allow", true, true),
        ("neither allows", false, false),
    ] {
        let rules = |open: bool| if open { vec![RuleModel::default()] } else { Vec::new() };
        let sender = Np { namespace: "y", ..everyone("Egress", rules(out)) };
        let receiver = everyone("Ingress", rules(into));
        simple(cases, format!("from y to x, {name}"), &[sender, receiver]);
    }
    let sctp = vec![port(Some("SCTP"), None)];
    let rule = RuleModel { peers: None, ports: Some(sctp) };
    simple(cases, "a rule for SCTP isolates from everything else".into(), &[everyone("Ingress", vec![rule])]);
}

/// What happens to pods and namespaces, and the policies there are then.
type State<'a> = (&'a dyn Fn(&mut World), &'a [Np]);

fn actions(cases: &mut Vec<Case>) {
    let from_b = RuleModel { peers: Some(vec![PeerModel::Pods(labels(&[("pod", "b")]))]), ports: None };
    let from_y = RuleModel { peers: Some(vec![PeerModel::Namespaces(labels(&[("ns", "y")]))]), ports: None };
    for direction in DIRECTIONS {
        let pods = about(direction, vec![from_b.clone()]);
        let namespaces = about(direction, vec![from_y.clone()]);
        let nothing = about(direction, Vec::new());
        let mut add = |name: &str, states: &[State<'_>]| {
            let mut world = World::new();
            let mut steps = Vec::new();
            for (change, policies) in states {
                change(&mut world);
                steps.push(step(&world, policies));
            }
            cases.push(Case { name: format!("{direction}: {name}"), steps });
        };
        let same: &dyn Fn(&mut World) = &|_| {};
        let one = std::slice::from_ref(&pods);
        let two = std::slice::from_ref(&namespaces);
        add("create and delete", &[(same, &[]), (same, one), (same, &[])]);
        add("update", &[(same, one), (same, two), (same, std::slice::from_ref(&nothing)), (same, one)]);
        add(
            "add and remove a second",
            &[(same, one), (same, &[pods.clone(), namespaces.clone()]), (same, two)],
        );
        // Pods 0 to 2 are x/a to x/c.
        add(
            "relabel the target and back",
            &[
                (same, one),
                (&|w| w.pods[0].labels = map(&[("pod", "other")]), one),
                (&|w| w.pods[0].labels = map(&[("pod", "a")]), one),
            ],
        );
        add(
            "a second pod becomes a target",
            &[(same, one), (&|w| w.pods[2].labels = map(&[("pod", "a"), ("extra", "yes")]), one)],
        );
        add(
            "a peer loses its label, another gets it",
            &[
                (same, one),
                (&|w| w.pods[1].labels = Map::new(), one),
                (&|w| w.pods[2].labels = map(&[("pod", "b")]), one),
            ],
        );
        add(
            "a namespace loses its label, another gets it",
            &[
                (same, two),
                (&|w| _ = w.namespaces.insert("y", Map::new()), two),
                (&|w| _ = w.namespaces.insert("z", map(&[("ns", "y")])), two),
                (&|w| _ = w.namespaces.insert("y", map(&[("ns", "y"), ("more", "labels")])), two),
            ],
        );
    }
}
