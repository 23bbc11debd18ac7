//! A UDP client that never stops sending, while who has the port changes: the kernel would have it stay with whom it
//! spoke first.

use anyhow::{Context, Result, ensure};
use interop_tests::{
    Agent, Container, Lab, Machine, PATIENCE, Process, Rack, Switch, check, eventually, example, labelled,
};
use serde_json::json;

use crate::kit::tidy;

const FOUR: &str = "192.0.2.1";
const SIX: &str = "2001:db8:0:1::2";
/// Mapped for all addresses of the host, and by address.
const PORTS: [u16; 2] = [8080, 9090];

/// Somebody who answers with a name.
fn named(command: interop_tests::Cmd, port: u16, name: &str) -> Result<Process> {
    let process = command.args(["name", &port.to_string(), name]).spawn(&format!("{name}-{port}"))?;
    eventually("it listens", PATIENCE, || check(process.log().contains("listening"), process.log()))?;
    Ok(process)
}

/// A container that both ports lead to.
fn mapped(host: &Machine, name: &str) -> Result<(Container, Process)> {
    let mapping =
        |port: u16, ip: &str| json!({"hostPort": port, "containerPort": 7, "protocol": "udp", "hostIP": ip});
    let mappings = json!([mapping(PORTS[0], ""), mapping(PORTS[1], FOUR), mapping(PORTS[1], SIX)]);
    let container = host.container(name, &labelled("role", "web")?.capability("portMappings", mappings))?;
    let server = named(container.command("lab-tool"), 7, name)?;
    Ok((container, server))
}

/// Clients of both families and ports, each with one socket.
struct Clients(Vec<(String, Process)>);

impl Clients {
    fn start(machine: &Machine) -> Result<Self> {
        let mut all = Vec::new();
        for (address, port) in [FOUR, SIX].into_iter().flat_map(|a| PORTS.map(|p| (a, p))) {
            let command = machine.command("lab-tool").args(["ask", address, &port.to_string()]);
            all.push((format!("{address} {port}"), command.spawn(&format!("ask-{}-{port}", address.len()))?));
        }
        Ok(Self(all))
    }

    /// Everybody is answered by `who`, sooner or later.
    fn hear(&self, who: &str) -> Result<()> {
        for (to, client) in &self.0 {
            eventually(&format!("{to}: {who} answers"), PATIENCE, || {
                client.check()?;
                let log = client.log();
                check(log.lines().last() == Some(who), log.lines().collect::<Vec<_>>().join(", "))
            })?;
        }
        Ok(())
    }

    /// Who has answered each, in order.
    fn heard(&self) -> Vec<Vec<String>> {
        let lines = |log: String| log.lines().filter(|who| *who != "nobody").map(str::to_owned).collect();
        self.0.iter().map(|(_, client)| lines(client.log())).collect()
    }
}

#[test]
fn a_client_that_never_stops_is_answered_by_who_has_the_port() {
    Lab::run("udp-changes", |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let _switch = rack.start_switch()?;
        let host = &rack.hosts[0];
        let mut agent = Agent::start(host, &example(&Switch::Slash32.host_file(1))?)?;
        agent.wait_established(2)?;
        // Before there is any mapping, the host itself has the ports.
        let _services: Vec<Process> =
            PORTS.iter().map(|port| named(host.command("lab-tool"), *port, "host")).collect::<Result<_>>()?;
        let clients = Clients::start(&rack.tor)?;
        clients.hear("host")?;
        let (a, _a) = mapped(host, "a")?;
        clients.hear("a")?;
        a.remove()?;
        clients.hear("host")?;
        let (b, _b) = mapped(host, "b")?;
        clients.hear("b")?;
        // A restart changes nothing for anybody.
        let before = clients.heard();
        agent.kill()?;
        agent.start_again()?;
        clients.hear("b")?;
        ensure!(clients.heard() == before, "{:?} became {:?}", before, clients.heard());
        // It goes while the agent is away.
        agent.kill()?;
        b.detach()?;
        clients.hear("nobody")?;
        agent.start_again()?;
        clients.hear("host")?;
        // And the next one comes at once where the one before was.
        let (c, _c) = mapped(host, "c")?;
        clients.hear("c")?;
        c.detach()?;
        let (d, _d) = mapped(host, "d")?;
        clients.hear("d")?;
        let last = clients.heard().into_iter().map(|who| who.last().cloned()).collect::<Option<Vec<_>>>();
        ensure!(last.context("answers")?.iter().all(|who| who == "d"), "{:?}", clients.heard());
        d.remove()?;
        clients.hear("host")?;
        tidy(&agent, 0)
    });
}
