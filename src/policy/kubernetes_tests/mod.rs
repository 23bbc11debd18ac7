//! Kubernetes NetworkPolicy: an evaluator of our own, written after the API's documentation and straight over the
//! objects, against what becomes of the same objects as YAML: the interpreter's and the compiled form's opinion.
//!
//! Three namespaces with three pods each, two machines outside, TCP, UDP and SCTP, numbered, ranged and named ports,
//! and changes of labels of pods and namespaces on the way.

mod calico;
mod cluster;
mod mistakes;
mod random;

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
