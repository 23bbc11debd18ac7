//! Evaluates a file of expectations: without an agent, without a kernel, without root.

use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use serde::Serialize;

use super::{
    Flow, PolicySet, Protocol,
    engine::{Engine, LocalEndpoint},
    explain::View,
    language::{
        self,
        expect::{Row, Side, TestFile},
    },
};
use crate::model::Diagnostic;

/// What came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// How many checks were made: pairs of addresses, each for what a row allows or denies.
    pub checks: usize,
    /// The rows, each with what of it did not hold.
    pub rows: Vec<RowReport>,
}

/// What came out of one `[[expect]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RowReport {
    /// Where it is written: file and line.
    pub place: String,
    /// What did not hold.
    pub failures: Vec<Failure>,
}

/// An expectation that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Who opens.
    pub from: String,
    /// Where to.
    pub to: String,
    /// The addresses that were tried.
    pub addresses: String,
    /// The services for which it does not hold.
    pub services: String,
    /// Whether the row wants them allowed.
    pub expected: bool,
    /// What decided, and where it is written.
    pub because: String,
}

impl Report {
    /// Whether everything is as expected.
    pub fn holds(&self) -> bool {
        self.rows.iter().all(|row| row.failures.is_empty())
    }

    /// The failing rows for people, and a last line that counts.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for row in &self.rows {
            for failure in &row.failures {
                let Failure { from, to, addresses, services, expected, because } = failure;
                let (want, is) = if *expected { ("allowed", "refused") } else { ("refused", "allowed") };
                let _ = writeln!(
                    out,
                    "{}: {from} -> {to}: {services} should be {want} but is {is} ({addresses})\n    {because}",
                    row.place
                );
            }
        }
        let failed = self.rows.iter().filter(|r| !r.failures.is_empty()).count();
        let _ = writeln!(
            out,
            "{} expectations, {} checks: {}",
            self.rows.len(),
            self.checks,
            if failed == 0 { "all hold".to_owned() } else { format!("{failed} expectations do not hold") }
        );
        out
    }

    /// The same in the XML that continuous integration reads (the common subset of JUnit's format).
    pub fn junit(&self, suite: &str) -> String {
        let failed = self.rows.iter().filter(|r| !r.failures.is_empty()).count();
        let mut out = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n  <testsuite name=\"{}\" tests=\"{}\" failures=\"{failed}\">\n",
            xml(suite),
            self.rows.len()
        );
        for row in &self.rows {
            let _ = write!(out, "    <testcase classname=\"{}\" name=\"{}\"", xml(suite), xml(&row.place));
            if row.failures.is_empty() {
                out.push_str("/>\n");
                continue;
            }
            out.push_str(">\n");
            for failure in &row.failures {
                let want = if failure.expected { "allowed" } else { "refused" };
                let message =
                    format!("{} -> {}: {} should be {want}", failure.from, failure.to, failure.services);
                let _ = writeln!(
                    out,
                    "      <failure message=\"{}\">{}</failure>",
                    xml(&message),
                    xml(&format!("{}; {}", failure.addresses, failure.because))
                );
            }
            out.push_str("    </testcase>\n");
        }
        out.push_str("  </testsuite>\n</testsuites>\n");
        out
    }
}

fn xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The host of a test, for the ends that are called `host`.
pub const HOST: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 8)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xfffe, 0, 0, 0, 0, 8)),
];
/// Somewhere, for the ends that are called `world`.
const WORLD: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1)),
];

impl TestFile {
    /// An engine with the file's endpoints and policies. `files`: the policy files, (name, text).
    pub fn engine(&self, name: &str, files: &[(String, String)]) -> Result<Engine, Vec<Diagnostic>> {
        let namespaces = format!("{name}.toml");
        let mut all: Vec<(&str, &str)> = files.iter().map(|(n, t)| (n.as_str(), t.as_str())).collect();
        all.extend(self.inline.iter().map(|(n, t)| (n.as_str(), t.as_str())));
        if !self.namespaces.is_empty() {
            all.push((&namespaces, &self.namespaces));
        }
        let set = language::parse_with(&all, &self.options)?;
        self.need_interfaces(&set)?;
        let mut engine = Engine::new(self.config.clone());
        engine.set_policies(Arc::new(set));
        for endpoint in &self.endpoints {
            engine.upsert_local(LocalEndpoint {
                shared: Vec::new(),
                id: endpoint.id.clone(),
                addresses: endpoint.addresses.clone(),
                labels: endpoint.labels.clone(),
            });
        }
        Ok(engine)
    }

    /// Where host policies are for some interfaces only, rows about what reaches the host from elsewhere must say by which
    /// one: they would hold or fail for nothing.
    fn need_interfaces(&self, set: &PolicySet) -> Result<(), Vec<Diagnostic>> {
        let Some(policy) = set.host_policies.iter().find(|p| !p.staged && !p.interfaces.is_empty()) else {
            return Ok(());
        };
        let outside = |side: &Side| matches!(side, Side::World | Side::Address(_));
        let unclear = |row: &&Row| {
            row.interface.is_none() && row.to.contains(&Side::Host) && row.from.iter().any(outside)
        };
        let told = |row: &Row| {
            let (names, origin) = (policy.interfaces.join(", "), &policy.origin);
            let reason = format!("host policy `{}` at {origin} is for {names} only", policy.name);
            let mut error = row.no_interface.clone();
            error.message = format!("{}: {reason}", error.message);
            error
        };
        let errors: Vec<_> = self.rows.iter().filter(unclear).map(told).collect();
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Checks every row.
    pub fn run(&self, engine: &Engine) -> Report {
        let is_host = |addr: IpAddr| HOST.contains(&addr);
        let mut view = View::new(engine, engine.policies(), &is_host);
        let mut report = Report { checks: 0, rows: Vec::new() };
        for row in &self.rows {
            view.source_port = row.source_port;
            view.interface.clone_from(&row.interface);
            view.elsewhere = row.interface.is_some();
            let mut failures = Vec::new();
            for (from, to) in row.from.iter().flat_map(|f| row.to.iter().map(move |t| (f, t))) {
                // A selector that also finds the other end does not ask whether somebody reaches himself.
                if from == to && (row.from.len() > 1 || row.to.len() > 1) {
                    continue;
                }
                let before = report.checks;
                let to_name = match &row.interface {
                    Some(interface) => format!("{} by {interface}", self.name(to)),
                    None => self.name(to),
                };
                for source in self.addresses(from) {
                    for destination in self.addresses(to) {
                        if source.is_ipv4() == destination.is_ipv4() {
                            report.checks +=
                                usize::from(!row.allow.is_empty()) + usize::from(!row.deny.is_empty());
                            let reach = if view.is_itself(source, destination) {
                                super::reach::Services::everything()
                            } else {
                                view.reach(source, destination)
                            };
                            let wrong =
                                [(true, row.allow.minus(&reach)), (false, row.deny.intersection(&reach))];
                            for (expected, services) in wrong {
                                let services = of_family(services, source.is_ipv4());
                                let Some((protocol, port)) = services.sample() else { continue };
                                let flow = Flow {
                                    source_port: row.source_port,
                                    ..Flow::new(source, destination, protocol, port)
                                };
                                failures.push(Failure {
                                    from: self.name(from),
                                    to: to_name.clone(),
                                    addresses: format!("{source} -> {destination}"),
                                    services: services.to_string(),
                                    expected,
                                    because: view.tell(&flow).reason,
                                });
                            }
                        }
                    }
                }
                if report.checks == before {
                    failures.push(Failure {
                        from: self.name(from),
                        to: to_name.clone(),
                        addresses: "no address of the same family".into(),
                        services: "nothing".into(),
                        expected: !row.allow.is_empty(),
                        because: "the two ends have no address family in common".into(),
                    });
                }
            }
            report.rows.push(RowReport { place: row.origin.to_string(), failures });
        }
        report
    }

    fn addresses(&self, side: &Side) -> Vec<IpAddr> {
        match side {
            Side::Endpoint(index) => self.endpoints[*index].addresses.clone(),
            Side::Address(addr) => vec![*addr],
            Side::Host => HOST.to_vec(),
            Side::World => WORLD.to_vec(),
        }
    }

    fn name(&self, side: &Side) -> String {
        match side {
            Side::Endpoint(index) => self.endpoints[*index].name.clone(),
            Side::Address(addr) => addr.to_string(),
            Side::Host => "host".into(),
            Side::World => "world".into(),
        }
    }
}

/// Without the ICMP of the other family, which says nothing.
fn of_family(services: super::reach::Services, ipv4: bool) -> super::reach::Services {
    let foreign = if ipv4 { Protocol::ICMPV6 } else { Protocol::ICMP };
    let foreign = super::Service { protocol: foreign, ports: super::Ports::Any };
    services.minus(&super::reach::Services::of(&[foreign], &[]))
}

#[cfg(test)]
mod tests;
