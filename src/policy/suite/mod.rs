//! Several hundred cases of Kubernetes NetworkPolicy as data: targets, peers, ports, protocols, types, conflicts, and
//! actions on policies, pods and namespaces.
//!
//! The data, `tests/policy/networkpolicy.json`, was made by [`generate`] with an evaluator that is written after the
//! API's documentation and knows nothing of this crate's language. Here the interpreter and the compiled form are held to
//! it; [`Suite::load`] gives the same data to whoever can hold others to it.

mod generate;

use std::{collections::BTreeMap, fs, net::IpAddr, path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    Flow, Protocol,
    engine::LocalEndpoint,
    explain::View,
    ir::{Connection, HookPoint, Packet},
    kubernetes_tests::{interface, new_engine},
    language,
};
use crate::model::Labels;

/// The whole suite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Suite {
    /// Everybody who talks, in the order of the matrices' lines and columns.
    pub(super) ends: Vec<SuiteEnd>,
    /// Named ports, as a TOML policy file.
    pub(super) ports: String,
    pub(super) cases: Vec<Case>,
}

/// A pod, or a machine outside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SuiteEnd {
    pub(super) name: String,
    /// None: outside.
    pub(super) namespace: Option<String>,
    /// IPv4 and IPv6.
    pub(super) addresses: Vec<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Case {
    pub(super) name: String,
    /// One after the other, without starting anew.
    pub(super) steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Step {
    /// Namespaces and policies, all that there are.
    pub(super) yaml: String,
    /// The labels of pods that have others than `pod=NAME`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) labels: BTreeMap<String, BTreeMap<String, String>>,
    /// Who may talk to whom: services, separated by spaces, to lines of `X` (allowed), `.` (refused) and `-` (not
    /// asked), one line a source, separated by spaces.
    pub(super) allowed: BTreeMap<String, String>,
    /// The same over IPv6, where it is something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) allowed6: Option<BTreeMap<String, String>>,
}

/// One question with its answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Question {
    /// Indices of ends.
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) v6: bool,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    pub(super) allowed: bool,
}

impl Suite {
    fn path() -> PathBuf {
        [env!("CARGO_MANIFEST_DIR"), "tests", "policy", "networkpolicy.json"].iter().collect()
    }

    /// Reads the data.
    pub(super) fn load() -> Self {
        let text = fs::read_to_string(Self::path()).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// The labels of an end in a step, with the namespace; none outside.
    pub(super) fn labels(&self, step: &Step, end: usize) -> Option<Labels> {
        let end = &self.ends[end];
        let namespace = end.namespace.as_ref()?;
        let pod = || BTreeMap::from([("pod".to_owned(), end.name.rsplit('/').next().unwrap().to_owned())]);
        let labels = step.labels.get(&end.name).cloned().unwrap_or_else(pod);
        let mut labels = Labels::try_from(labels).unwrap();
        labels.insert("namespace", namespace.as_str()).unwrap();
        Some(labels)
    }
}

impl Step {
    /// All questions with their answers.
    pub(super) fn questions(&self) -> Vec<Question> {
        let mut out = Vec::new();
        let families = [(false, &self.allowed), (true, self.allowed6.as_ref().unwrap_or(&self.allowed))];
        let lines =
            families.into_iter().flat_map(|(v6, allowed)| allowed.iter().map(move |(s, l)| (v6, s, l)));
        for (v6, services, lines) in lines {
            for service in services.split(' ') {
                let (protocol, port) = Flow::parse_service(service).unwrap();
                for (from, line) in lines.split(' ').enumerate() {
                    for (to, mark) in line.bytes().enumerate().filter(|(_, mark)| *mark != b'-') {
                        out.push(Question { from, to, v6, protocol, port, allowed: mark == b'X' });
                    }
                }
            }
        }
        out
    }
}

#[test]
fn the_interpreter_and_the_compiled_form_agree_with_the_data() {
    let suite = Suite::load();
    assert!(suite.cases.len() >= 300, "{}", suite.cases.len());
    let mut engine = new_engine();
    let nowhere = |_: IpAddr| false;
    let mut asked = 0;
    for case in &suite.cases {
        for (number, step) in case.steps.iter().enumerate() {
            let set = language::parse(&[("case.yaml", &step.yaml), ("ports.toml", &suite.ports)])
                .unwrap_or_else(|e| panic!("{}: {}\n{}", case.name, e[0], step.yaml));
            engine.set_policies(Arc::new(set));
            for (i, end) in suite.ends.iter().enumerate() {
                if let Some(labels) = suite.labels(step, i) {
                    let addresses = end.addresses.clone();
                    engine.upsert_local(LocalEndpoint {
                        shared: Vec::new(),
                        id: interface(i),
                        addresses,
                        labels,
                    });
                }
            }
            let rules = engine.compiled();
            let view = View::new(&engine, engine.policies(), &nowhere);
            let name = |end: usize| {
                if suite.ends[end].namespace.is_some() { interface(end).0 } else { "eth0".to_owned() }
            };
            let mut reach = BTreeMap::new();
            for Question { from, to, v6, protocol, port, allowed } in step.questions() {
                let [source, destination] = [from, to].map(|end| suite.ends[end].addresses[usize::from(v6)]);
                let flow = Flow::new(source, destination, protocol, port);
                let shown = || format!("{} step {number}: {flow}\n{}", case.name, step.yaml);
                assert_eq!(view.explain(&flow).allowed, allowed, "interpreter: {}", shown());
                assert_eq!(
                    reach
                        .entry((from, to, v6))
                        .or_insert_with(|| view.reach(flow.source, flow.destination))
                        .contains(protocol, port),
                    allowed,
                    "all services at once: {}",
                    shown()
                );
                let packet = Packet {
                    iif: name(from),
                    oif: name(to),
                    source: flow.source,
                    destination: flow.destination,
                    protocol: protocol.0,
                    port,
                    to_host: false,
                    connection: Some(Connection { state: 8, reply: false, dnat: false, flow, stamp: 0 }),
                };
                let got = rules.judge(HookPoint::Forward, &packet, 1).accepted;
                assert_eq!(got, allowed, "compiled: {}", shown());
                asked += 1;
            }
        }
    }
    assert!(asked > 500_000, "{asked}");
}

/// `UPDATE_SUITE=1 cargo test the_data_is_what_is_generated` writes the file anew.
#[test]
fn the_data_is_what_is_generated() {
    let suite = generate::suite();
    if std::env::var_os("UPDATE_SUITE").is_some() {
        let mut text = serde_json::to_string_pretty(&suite).unwrap();
        text.push('\n');
        fs::write(Suite::path(), text).unwrap();
    }
    assert!(suite == Suite::load(), "tests/policy/networkpolicy.json is not what is generated");
}
