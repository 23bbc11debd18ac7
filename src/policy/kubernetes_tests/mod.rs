//! Kubernetes NetworkPolicy: an evaluator of our own, written after the API's documentation and straight over the
//! objects, against what becomes of the same objects as YAML: the interpreter's and the compiled form's opinion.
//!
//! Three namespaces with three pods each, two machines outside, TCP, UDP and SCTP, numbered, ranged and named ports,
//! and changes of labels of pods and namespaces on the way.

use std::{collections::BTreeMap, fmt::Write, net::IpAddr, sync::Arc};

use proptest::prelude::*;

use super::{
    Flow, Protocol,
    engine::{Engine, EngineConfig, LocalEndpoint, PoolConfig},
    ir::{Connection, HookPoint, Packet},
    language,
};
use crate::model::{EndpointId, Labels};

pub(super) type Map = BTreeMap<String, String>;

/// A `LabelSelector`.
#[derive(Clone, Debug, Default)]
pub(super) struct Sel {
    pub(super) labels: Map,
    pub(super) expressions: Vec<(String, &'static str, Vec<String>)>,
}

impl Sel {
    fn matches(&self, labels: &Map) -> bool {
        self.labels.iter().all(|(k, v)| labels.get(k) == Some(v))
            && self.expressions.iter().all(|(key, operator, values)| match *operator {
                "In" => labels.get(key).is_some_and(|v| values.contains(v)),
                "NotIn" => labels.get(key).is_none_or(|v| !values.contains(v)),
                "Exists" => labels.contains_key(key),
                _ => !labels.contains_key(key),
            })
    }

    fn yaml(&self) -> String {
        let labels: Vec<_> = self.labels.iter().map(|(k, v)| format!("{k}: \"{v}\"")).collect();
        let expressions: Vec<_> = self
            .expressions
            .iter()
            .map(|(key, operator, values)| {
                let values: Vec<_> = values.iter().map(|v| format!("\"{v}\"")).collect();
                let values = if values.is_empty() {
                    String::new()
                } else {
                    format!(", values: [{}]", values.join(", "))
                };
                format!("{{key: {key}, operator: {operator}{values}}}")
            })
            .collect();
        format!("{{matchLabels: {{{}}}, matchExpressions: [{}]}}", labels.join(", "), expressions.join(", "))
    }
}

#[derive(Clone, Debug)]
pub(super) enum PeerModel {
    Pods(Sel),
    Namespaces(Sel),
    Both(Sel, Sel),
    Block(&'static str, Vec<&'static str>),
}

#[derive(Clone, Debug)]
pub(super) struct PortModel {
    pub(super) protocol: Option<&'static str>,
    pub(super) port: Option<PortValue>,
}

#[derive(Clone, Debug)]
pub(super) enum PortValue {
    Number(u16),
    Range(u16, u16),
    Name(&'static str),
}

#[derive(Clone, Debug, Default)]
pub(super) struct RuleModel {
    pub(super) peers: Option<Vec<PeerModel>>,
    pub(super) ports: Option<Vec<PortModel>>,
}

#[derive(Clone, Debug)]
pub(super) struct Np {
    pub(super) namespace: &'static str,
    pub(super) pods: Sel,
    pub(super) types: Option<Vec<&'static str>>,
    pub(super) ingress: Option<Vec<RuleModel>>,
    pub(super) egress: Option<Vec<RuleModel>>,
}

impl Np {
    fn concerns(&self, direction: &str) -> bool {
        match &self.types {
            Some(types) if !types.is_empty() => types.contains(&direction),
            _ => direction == "Ingress" || self.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
        }
    }

    fn rules(&self, direction: &str) -> &[RuleModel] {
        let rules = if direction == "Ingress" { &self.ingress } else { &self.egress };
        rules.as_deref().unwrap_or_default()
    }

    fn yaml(&self, name: &str) -> String {
        let mut out = format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: {name}\n  namespace: {}\nspec:\n  podSelector: {}\n",
            self.namespace,
            self.pods.yaml()
        );
        if let Some(types) = &self.types {
            let _ = writeln!(out, "  policyTypes: [{}]", types.join(", "));
        }
        for (key, side, rules) in [("ingress", "from", &self.ingress), ("egress", "to", &self.egress)] {
            let Some(rules) = rules else { continue };
            if rules.is_empty() {
                let _ = writeln!(out, "  {key}: []");
                continue;
            }
            let _ = writeln!(out, "  {key}:");
            for rule in rules {
                let mut parts = Vec::new();
                if let Some(peers) = &rule.peers {
                    let peers: Vec<_> = peers
                        .iter()
                        .map(|peer| match peer {
                            PeerModel::Pods(s) => format!("{{podSelector: {}}}", s.yaml()),
                            PeerModel::Namespaces(s) => format!("{{namespaceSelector: {}}}", s.yaml()),
                            PeerModel::Both(n, p) => {
                                format!("{{namespaceSelector: {}, podSelector: {}}}", n.yaml(), p.yaml())
                            }
                            PeerModel::Block(cidr, except) => {
                                let except: Vec<_> = except.iter().map(|e| format!("\"{e}\"")).collect();
                                format!("{{ipBlock: {{cidr: \"{cidr}\", except: [{}]}}}}", except.join(", "))
                            }
                        })
                        .collect();
                    parts.push(format!("{side}: [{}]", peers.join(", ")));
                }
                if let Some(ports) = &rule.ports {
                    let ports: Vec<_> = ports
                        .iter()
                        .map(|port| {
                            let mut parts: Vec<String> =
                                port.protocol.map(|p| format!("protocol: {p}")).into_iter().collect();
                            match &port.port {
                                None => {}
                                Some(PortValue::Number(n)) => parts.push(format!("port: {n}")),
                                Some(PortValue::Range(a, b)) => {
                                    parts.push(format!("port: {a}, endPort: {b}"));
                                }
                                Some(PortValue::Name(n)) => parts.push(format!("port: {n}")),
                            }
                            format!("{{{}}}", parts.join(", "))
                        })
                        .collect();
                    parts.push(format!("ports: [{}]", ports.join(", ")));
                }
                let _ = writeln!(out, "  - {{{}}}", parts.join(", "));
            }
        }
        out
    }
}

#[derive(Clone, Debug)]
pub(super) struct Pod {
    pub(super) namespace: &'static str,
    pub(super) labels: Map,
    pub(super) addrs: [IpAddr; 2],
}

#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) namespaces: BTreeMap<&'static str, Map>,
    pub(super) pods: Vec<Pod>,
}

pub(super) const OUTSIDE: [[&str; 2]; 2] = [["192.0.2.9", "2001:db8::9"], ["192.0.2.130", "2001:db8:1::9"]];

impl World {
    pub(super) fn new() -> Self {
        let map = |key: &str, value: &str| Map::from([(key.to_owned(), value.to_owned())]);
        let mut pods = Vec::new();
        for (n, namespace) in ["x", "y", "z"].into_iter().enumerate() {
            for (p, pod) in ["a", "b", "c"].into_iter().enumerate() {
                let number = 2 + n * 3 + p;
                pods.push(Pod {
                    namespace,
                    labels: map("pod", pod),
                    addrs: [
                        format!("10.32.4.{number}").parse().unwrap(),
                        format!("fd00:32::{number}").parse().unwrap(),
                    ],
                });
            }
        }
        Self { namespaces: ["x", "y", "z"].into_iter().map(|n| (n, map("ns", n))).collect(), pods }
    }

    fn namespace_labels(&self, name: &str) -> Map {
        let mut labels = self.namespaces.get(name).cloned().unwrap_or_default();
        labels.insert("kubernetes.io/metadata.name".into(), name.into());
        labels
    }

    /// What the API's documentation says.
    pub(super) fn allowed(
        &self,
        policies: &[Np],
        (from, to, v6): (&End, &End, bool),
        protocol: &str,
        port: u16,
    ) -> bool {
        let side = |direction: &str, me: &End, other: &End| {
            let End::Pod(pod) = me else { return true };
            let pod = &self.pods[*pod];
            let mut mine = policies
                .iter()
                .filter(|p| {
                    p.namespace == pod.namespace && p.pods.matches(&pod.labels) && p.concerns(direction)
                })
                .peekable();
            mine.peek().is_none()
                || mine.any(|policy| {
                    policy.rules(direction).iter().any(|rule| {
                        self.peer(rule, policy.namespace, other, v6) && self.port(rule, to, protocol, port)
                    })
                })
        };
        side("Egress", from, to) && side("Ingress", to, from)
    }

    fn peer(&self, rule: &RuleModel, namespace: &str, other: &End, v6: bool) -> bool {
        let Some(peers) = rule.peers.as_ref().filter(|p| !p.is_empty()) else { return true };
        peers.iter().any(|peer| match (peer, other) {
            (PeerModel::Block(cidr, except), _) => {
                let addr = self.addr(other, v6);
                inside(cidr, addr) && !except.iter().any(|e| inside(e, addr))
            }
            (_, End::Outside(_)) => false,
            (PeerModel::Pods(pods), End::Pod(i)) => {
                self.pods[*i].namespace == namespace && pods.matches(&self.pods[*i].labels)
            }
            (PeerModel::Namespaces(s), End::Pod(i)) => {
                s.matches(&self.namespace_labels(self.pods[*i].namespace))
            }
            (PeerModel::Both(s, pods), End::Pod(i)) => {
                s.matches(&self.namespace_labels(self.pods[*i].namespace))
                    && pods.matches(&self.pods[*i].labels)
            }
        })
    }

    #[expect(clippy::unused_self, reason = "reads like `peer`")]
    fn port(&self, rule: &RuleModel, to: &End, protocol: &str, port: u16) -> bool {
        let Some(ports) = rule.ports.as_ref().filter(|p| !p.is_empty()) else { return true };
        ports.iter().any(|p| {
            p.protocol.unwrap_or("TCP") == protocol
                && match &p.port {
                    None => true,
                    Some(PortValue::Number(n)) => *n == port,
                    Some(PortValue::Range(a, b)) => (*a..=*b).contains(&port),
                    // The pods' container ports: serve-80-tcp and the like; only TCP and UDP have names.
                    Some(PortValue::Name(name)) => {
                        matches!(to, End::Pod(_))
                            && *name == format!("serve-{port}-{}", protocol.to_lowercase())
                            && matches!(protocol, "TCP" | "UDP")
                    }
                }
        })
    }

    pub(super) fn addr(&self, end: &End, v6: bool) -> IpAddr {
        match end {
            End::Pod(i) => self.pods[*i].addrs[usize::from(v6)],
            End::Outside(i) => OUTSIDE[*i][usize::from(v6)].parse().unwrap(),
        }
    }

    pub(super) fn yaml(&self, policies: &[Np]) -> String {
        let mut out = String::new();
        for (name, labels) in &self.namespaces {
            let labels: Vec<_> = labels.iter().map(|(k, v)| format!("{k}: \"{v}\"")).collect();
            let _ = write!(
                out,
                "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{{}}}}}\n",
                labels.join(", ")
            );
        }
        for (i, policy) in policies.iter().enumerate() {
            out += &policy.yaml(&format!("p{i}"));
        }
        out
    }

    fn tell(&self, engine: &mut Engine, policies: &[Np]) {
        let mut ports = String::new();
        for port in [80, 81] {
            for protocol in ["tcp", "udp"] {
                let _ = writeln!(
                    ports,
                    "[[named_port]]\nname='serve-{port}-{protocol}'\nselect='has(namespace)'\nprotocol='{protocol}'\nport={port}"
                );
            }
        }
        let text = self.yaml(policies);
        let set = language::parse(&[("p.yaml", &text), ("ports.toml", &ports)])
            .unwrap_or_else(|e| panic!("{}\n{text}", e[0]));
        engine.set_policies(Arc::new(set));
        for (i, pod) in self.pods.iter().enumerate() {
            let mut labels = Labels::try_from(pod.labels.clone()).unwrap();
            labels.insert("namespace", pod.namespace).unwrap();
            engine.upsert_local(LocalEndpoint {
                shared: Vec::new(),
                id: interface(i),
                addresses: pod.addrs.to_vec(),
                labels,
            });
        }
    }

    /// Compares all three opinions for everybody with everybody.
    fn check(&self, engine: &Engine, policies: &[Np]) -> Result<(), TestCaseError> {
        let rules = engine.compiled();
        let ends: Vec<End> = (0..9).map(End::Pod).chain((0..2).map(End::Outside)).collect();
        for from in &ends {
            for to in &ends {
                if matches!((from, to), (End::Outside(_), End::Outside(_))) || from == to {
                    continue;
                }
                for (name, protocol) in
                    [("TCP", Protocol::TCP), ("UDP", Protocol::UDP), ("SCTP", Protocol::SCTP)]
                {
                    for (port, v6) in [(80, false), (80, true), (81, false), (81, true)] {
                        let want = self.allowed(policies, (from, to, v6), name, port);
                        let (source, destination) = (self.addr(from, v6), self.addr(to, v6));
                        let flow = Flow::new(source, destination, protocol, port);
                        let explanation = engine.explain(&flow, |_| false);
                        let shown =
                            || format!("{flow} wants {want}\n{}\n{explanation:#?}", self.yaml(policies));
                        prop_assert_eq!(explanation.allowed, want, "interpreter: {}", shown());
                        let name_of = |end: &End| match end {
                            End::Pod(i) => interface(*i).0,
                            End::Outside(_) => "eth0".into(),
                        };
                        let packet = Packet {
                            iif: name_of(from),
                            oif: name_of(to),
                            source: flow.source,
                            destination: flow.destination,
                            protocol: protocol.0,
                            port,
                            to_host: false,
                            connection: Some(Connection {
                                state: 8,
                                reply: false,
                                dnat: false,
                                flow,
                                stamp: 0,
                            }),
                        };
                        let got = rules.judge(HookPoint::Forward, &packet, 1).accepted;
                        prop_assert_eq!(got, want, "compiled: {}", shown());
                    }
                }
            }
        }
        Ok(())
    }
}

/// Whether an address is in a CIDR, bit by bit: nothing of this crate's.
fn inside(cidr: &str, addr: IpAddr) -> bool {
    let (base, length) = cidr.split_once('/').unwrap();
    let length: usize = length.parse().unwrap();
    let bits = |addr: IpAddr| match addr {
        IpAddr::V4(addr) => format!("{:032b}", addr.to_bits()),
        IpAddr::V6(addr) => format!("{:0128b}", addr.to_bits()),
    };
    let (base, addr) = (bits(base.parse().unwrap()), bits(addr));
    base.len() == addr.len() && base[..length] == addr[..length]
}

pub(super) fn interface(i: usize) -> EndpointId {
    EndpointId(format!("s32{i:011x}"))
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum End {
    Pod(usize),
    Outside(usize),
}

pub(super) fn new_engine() -> Engine {
    let pool = |cidr: &str| PoolConfig { cidr: cidr.parse().unwrap(), nat_outgoing: false };
    Engine::new(EngineConfig {
        pools: vec![pool("10.32.0.0/16"), pool("fd00:32::/48")],
        protected: Vec::new(),
        ..EngineConfig::default()
    })
}

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

#[test]
fn mistakes_in_objects_have_their_place() {
    let np = |spec: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: n}}\nspec: {spec}\n"
        )
    };
    let cluster_peer = |peer: &str| {
        format!(
            "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: n}}\nspec:\n\
             \x20 tier: Admin\n  priority: 1\n  subject: {{namespaces: {{}}}}\n\
             \x20 egress: [{{action: Deny, to: [{peer}]}}]\n"
        )
    };
    let cluster_rule = |rule: &str| cluster_peer("{namespaces: {}}").replace("]}]", &format!("], {rule}}}]"));
    let admin = |subject: &str, peer: &str| {
        format!(
            "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {{name: n}}\nspec:\n\
             \x20 priority: 1\n  subject: {subject}\n  egress: [{{action: Deny, to: [{peer}]}}]\n"
        )
    };
    let block = |selector: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: n}}\nspec:\n  selector: {selector}\n"
        )
    };
    let beta = |text: String| text.replace("v1alpha2", "v1beta1");
    let calico = |rule: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: n}}\nspec:\n\
             \x20 {{types: [Ingress], ingress: [{{action: Allow, {rule}}}]}}\n"
        )
    };
    let tier = |name: &str, spec: &str| {
        format!("apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {{name: {name}}}\nspec: {spec}\n")
    };
    for (text, at, part) in [
        ("kind: Pod\n".to_owned(), "1:1", "needs both `apiVersion`"),
        ("apiVersion: v1\nkind: Pod\n".to_owned(), "2:7", "do not belong"),
        (
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nspec: {}\n".to_owned(),
            "1:1",
            "no `metadata`",
        ),
        (format!("{}ingress: []\n", np("{podSelector: {}}")), "5:1", "unknown key `ingress` in an object"),
        (np("{podSelector: {matchLabels: {version: 1}}}"), "4:45", "put it in quotes: \"1\""),
        (np("{podSelektor: {}}"), "4:8", "did you mean `podSelector`"),
        (np("{podSelector: {}, ingress: [{ports: [{port: \"80\"}]}]}"), "4:51", "a name needs a letter"),
        (np("{podSelector: {}, ingres: []}"), "4:25", "did you mean `ingress`"),
        (np("{podSelector: {}, ingress: [{from: [{}]}]}"), "4:43", "a peer needs"),
        (np("{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]}"), "4:60", "not a CIDR"),
        (
            np("{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/9]}}]}]}"),
            "4:81",
            "not inside",
        ),
        (
            np("{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]}"),
            "4:53",
            "cannot be combined",
        ),
        (np("{podSelector: {}, ingress: [{ports: [{endPort: 3}]}]}"), "4:54", "needs `port`"),
        (np("{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 3}]}]}"), "4:64", "between 80"),
        (
            np("{podSelector: {}, ingress: [{ports: [{port: 80, protocol: ICMP}]}]}"),
            "4:65",
            "unknown protocol",
        ),
        (np("{podSelector: {matchLabels: {a: 1}}}"), "4:39", "must be a string"),
        (np("{podSelector: {matchExpressions: [{key: a, operator: In}]}}"), "4:41", "needs values"),
        (
            np("{podSelector: {matchExpressions: [{key: a, operator: Gt, values: [b]}]}}"),
            "4:60",
            "unknown operator",
        ),
        (np("{podSelector: {}, policyTypes: [Both]}"), "4:39", "unknown policy type"),
        (np("{podSelector: {}, ingress: [{ports: [{port: 010}]}]}"), "4:51", "octal"),
        (np("{}").replace("name: n", "name: n, namspace: x"), "3:21", "did you mean `namespace`"),
        (np("{}").replace("name: n", "name: \"\""), "3:18", "1 to 253"),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: n, lables: {a: b}}\n".to_owned(),
            "3:21",
            "unknown key `lables`",
        ),
        (cluster_peer("{nodes: {matchLabels: {a: b}}}"), "8:40", "use `networks` with the hosts' addresses"),
        (cluster_peer("{domainNames: [example.org]}"), "8:46", "use `networks`"),
        (beta(cluster_peer("{networks: [10.0.0.1/8]}")), "8:44", "did you mean 10.0.0.0/8"),
        (cluster_peer("{networks: [10.0.0.1/8]}"), "", ""),
        (admin("{namespaces: {}}", "{networks: [10.0.0.1/8]}"), "", ""),
        (cluster_rule("protocols: []"), "8:62", "leave it out for all"),
        (cluster_peer("{namespaces: {sameLabels: [a]}}"), "8:46", "unknown key `sameLabels`"),
        (admin("{namespaces: {}}", "{namespaces: {sameLabels: [a]}}"), "", ""),
        (cluster_peer("{pods: {namespaces: {}, podSelector: {}}}"), "8:40", "unknown key `namespaces`"),
        (cluster_peer("{pods: {podSelector: {}}}"), "", ""),
        (cluster_peer("{pods: {namespaceSelector: {}}}"), "8:39", "needs `podSelector`"),
        (admin("{namespaces: {}}", "{pods: {podSelector: {}}}"), "7:39", "needs `namespaceSelector`"),
        (admin("{pods: {podSelector: {}}}", "{namespaces: {}}"), "6:19", "needs `namespaceSelector`"),
        (admin("{namespaces: {}}", "{pods: {namespaceSelector: {}}}"), "7:39", "needs `podSelector`"),
        (np("{podSelector: {}, ingress: [{ports: [{port: 8e1}]}]}"), "4:51", "write 80"),
        (calico("protocol: TCP, destination: {ports: [8e1]}"), "5:85", "write 80"),
        (block("|\n    app == 'x' &&\n    foo ==== 'b'\n"), "7:11", "in quotes"),
        (block(">-\n    app == 'x' &&\n\n    foo == 'b' &&& x\n"), "8:18", "label key"),
        (block("\"app == \\\"x\\\" && foo ==== 'b'\""), "5:36", "in quotes"),
        (block("'app == @x@ && foo ==== @b@'").replace('@', "''"), "5:36", "in quotes"),
        (calico("source: {services: {name: a}}"), "5:67", "select the endpoints behind it"),
        (calico("source: {domains: [a.example]}"), "5:66", "names of domains are not resolved"),
        (calico("protocol: TCP, source: {ports: [http]}"), "5:71", "names are of ports that are served"),
        (calico("protocol: TCP, destination: {ports: [\":90\"]}"), "5:85", "is not a port"),
        (calico("protocol: ICMP, ipVersion: 6"), "5:32", "exclude each other"),
        (
            calico("source: {selector: has(a), namespaceSelector: projectcalico.org/name starts with 'a'}"),
            "5:94",
            "cannot be answered",
        ),
        (tier("admin", "{}"), "", ""),
        (tier("default", "{defaultAction: Pass}"), "3:18", "cannot be changed"),
        (tier("default", "{order: 7}"), "3:18", "cannot be changed"),
        (tier("kube-admin", "{order: 1000, defaultAction: Deny}"), "3:18", "cannot be changed"),
    ] {
        if part.is_empty() {
            assert!(language::parse(&[("a.yaml", &text)]).is_ok(), "{text}");
            continue;
        }
        let errors = language::parse(&[("a.yaml", &text)]).expect_err(&text);
        let shown: Vec<_> = errors.iter().map(ToString::to_string).collect();
        let place = format!("a.yaml:{at}:");
        assert!(
            shown.iter().any(|e| e.starts_with(&place) && e.contains(part)),
            "{text}wants {place} {part}\ngot {}",
            shown.join("\n")
        );
    }
}

/// The cluster-wide kinds, and how tiers follow one another.
#[test]
fn cluster_wide_policies() {
    let text = r#"
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: admin}
spec:
  priority: 5
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress:
  - {name: no-z, action: Deny, from: [{namespaces: {matchLabels: {ns: z}}}]}
  - {action: Pass, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {pod: b}}}}]}
  - {action: Allow, from: [{namespaces: {}}], ports: [{portNumber: {protocol: TCP, port: 81}}, {portRange: {start: 90, end: 99}}, {namedPort: web}]}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: later}
spec:
  tier: Admin
  priority: 7
  subject: {pods: {podSelector: {matchLabels: {pod: a}}}}
  egress:
  - {action: Deny, to: [{networks: ["192.0.2.0/25", "2001:db8::/48"]}], protocols: [{tcp: {destinationPort: {number: 80}}}, {udp: {}}]}
  - {action: Accept, to: [{networks: ["192.0.2.0/24"]}], protocols: [{tcp: {destinationPort: {range: {start: 80, end: 81}}}}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: lock, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {}}]}]}
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: BaselineAdminNetworkPolicy
metadata: {name: default}
spec:
  subject: {namespaces: {}}
  ingress: [{action: Deny, from: [{namespaces: {matchLabels: {ns: y}}}]}]
"#;
    let world = World::new();
    let mut engine = new_engine();
    let namespaces = world.yaml(&[]);
    let set =
        language::parse(&[("n.yaml", &namespaces), ("p.yaml", text)]).unwrap_or_else(|e| panic!("{}", e[0]));
    let names: Vec<_> = set.policies.iter().map(|p| set.full_name(p)).collect();
    assert_eq!(names, ["admin/admin", "admin/later", "default/x/lock", "baseline/default"]);
    world.tell(&mut engine, &[]);
    engine.set_policies(Arc::new(set));
    let pod = |namespace: &str, pod: &str| {
        world
            .pods
            .iter()
            .position(|p| p.namespace == namespace && p.labels["pod"] == pod)
            .map(End::Pod)
            .unwrap()
    };
    for (from, to, protocol, port, want) in [
        // Denied by the administrator before anything else.
        (pod("z", "a"), pod("x", "b"), Protocol::TCP, 81, false),
        // Passed on; the namespace's own policy decides, or the baseline.
        (pod("x", "b"), pod("x", "a"), Protocol::TCP, 80, true),
        (pod("y", "b"), pod("x", "a"), Protocol::TCP, 81, false),
        (pod("y", "b"), pod("x", "b"), Protocol::TCP, 81, false),
        // Allowed by the administrator: the policy of the namespace has no say.
        (pod("y", "a"), pod("x", "a"), Protocol::TCP, 81, true),
        (pod("y", "a"), pod("x", "a"), Protocol::TCP, 95, true),
        (pod("y", "a"), pod("x", "a"), Protocol::TCP, 80, false),
        // The baseline only counts where no policy of a namespace selects.
        (pod("y", "c"), pod("z", "a"), Protocol::TCP, 80, false),
        (pod("x", "c"), pod("z", "a"), Protocol::TCP, 80, true),
        (pod("x", "c"), pod("x", "a"), Protocol::TCP, 80, true),
        // Egress of pods with `pod: a`.
        (pod("y", "a"), End::Outside(0), Protocol::TCP, 80, false),
        (pod("y", "a"), End::Outside(0), Protocol::UDP, 9, false),
        (pod("y", "a"), End::Outside(1), Protocol::TCP, 80, true),
        (pod("y", "a"), End::Outside(0), Protocol::TCP, 82, true),
    ] {
        let flow = Flow::new(world.addr(&from, false), world.addr(&to, false), protocol, port);
        let explanation = engine.explain(&flow, |_| false);
        assert_eq!(explanation.allowed, want, "{flow}: {explanation:#?}");
    }
}

/// Objects of different kinds may have one name, objects of one kind may not.
#[test]
fn one_name_for_several_kinds() {
    let admin = "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {name: p}\n\
        spec: {priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}\n";
    let cluster = |tier: &str| {
        format!(
            "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: p}}\n\
             spec: {{tier: {tier}, priority: 1, subject: {{namespaces: {{}}}}, ingress: [{{action: Deny, from: [{{namespaces: {{}}}}]}}]}}\n"
        )
    };
    let parsed = |files: &[(&str, &str)]| {
        let set = language::parse(files).map_err(|errors| errors[0].to_string())?;
        Ok::<_, String>(set.policies.iter().map(|p| set.full_name(p)).collect::<Vec<_>>())
    };
    let both = parsed(&[("a.yaml", admin), ("b.yaml", &cluster("Admin"))]).unwrap();
    assert_eq!(both, ["admin/ClusterNetworkPolicy:p", "admin/p"]);
    let twice = parsed(&[("a.yaml", &cluster("Admin")), ("b.yaml", &cluster("Baseline"))]).unwrap_err();
    assert!(twice.contains("ClusterNetworkPolicy `p` is defined twice, first at a.yaml:3"), "{twice}");
    let twice = parsed(&[("a.yaml", admin), ("b.yaml", admin)]).unwrap_err();
    assert!(twice.contains("AdminNetworkPolicy `p` is defined twice"), "{twice}");
}

/// `all()` of a namespaceSelector is what is in a namespace, within an expression too.
#[test]
fn all_namespaces_leave_global_sets_out() {
    let sets = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {name: g, labels: {role: lb}}\nspec: {nets: [192.0.2.7/32]}\n";
    let reaches = |selector: &str| {
        let policy = format!(
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: p}}\nspec:\n  selector: all()\n  \
             ingress: [{{action: Allow, source: {{namespaceSelector: \"{selector}\"}}}}]\n"
        );
        let set =
            language::parse(&[("s.yaml", sets), ("p.yaml", &policy)]).unwrap_or_else(|e| panic!("{}", e[0]));
        let peers = &set.policies[0].ingress.as_ref().unwrap()[0].peers;
        peers.iter().any(|p| p.ranges.as_ref().is_some_and(|r| r.contains("192.0.2.7".parse().unwrap())))
    };
    for (selector, wanted) in [
        ("all()", false),
        ("all() && env != 'dev'", false),
        ("env != 'dev'", true),
        ("all() || global()", true),
        ("!all()", true),
        ("global()", true),
        ("has(env)", false),
    ] {
        assert_eq!(reaches(selector), wanted, "{selector}");
    }
}

/// Service accounts that are neither named nor selected say nothing.
#[test]
fn empty_service_accounts_say_nothing() {
    let peers = |accounts: &str| {
        let policy = format!(
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: p}}\nspec:\n  selector: all()\n  \
             ingress: [{{action: Allow, source: {{serviceAccounts: {accounts}}}}}]\n"
        );
        let set = language::parse(&[("p.yaml", &policy)]).unwrap_or_else(|e| panic!("{}", e[0]));
        set.policies[0].ingress.as_ref().unwrap()[0].peers.len()
    };
    assert_eq!([peers("{}"), peers("{names: []}"), peers("{selector: \"\"}")], [0; 3]);
    assert_eq!([peers("{names: [a]}"), peers("{selector: all()}")], [1; 2]);
}
