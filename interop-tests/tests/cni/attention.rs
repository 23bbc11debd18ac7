//! Endpoints that are not all they were after a restart: they live on, and a person is told what is missing.

use anyhow::{Context, Result, ensure};
use interop_tests::{
    Agent, Container, Exit, Lab, Machine, Network, ONE_HOST, PATIENCE, check, eventually, labelled,
};
use serde_json::{Value, json};

use crate::kit::{asking_for, refused, tidy};

const ENDPOINTS: &str = "/run/slash32/endpoints";

/// A container with these ports of the host, where something listens.
fn served(host: &Machine, name: &str, ports: &[u16]) -> Result<(Container, interop_tests::Process)> {
    let mappings: Vec<Value> =
        ports.iter().map(|port| json!({"hostPort": port, "containerPort": 7, "protocol": "tcp"})).collect();
    let network = labelled("role", name)?.capability("portMappings", json!(mappings));
    let container = host.container(name, &network)?;
    let echo = container.echo()?;
    Ok((container, echo))
}

/// What is said of endpoints: in `status`, `doctor`, `endpoints` and the metric of this reason.
fn told(agent: &Agent, reason: &str) -> Result<(Vec<String>, bool, Vec<String>, String)> {
    let status = agent.status()?;
    let lines = status["problems"].as_array().context("a list")?;
    let lines = lines.iter().filter_map(Value::as_str).filter(|line| line.contains("endpoint"));
    let doctor = agent.cli("doctor --json").output()?;
    let checks: Value = serde_json::from_str(&doctor.stdout)?;
    let check = checks.as_array().into_iter().flatten().find(|c| c["name"] == "endpoints");
    let check = check.context("doctor looks at endpoints")?;
    ensure!(check["ok"] == true || doctor.exit == Exit::Code(3), "{}", doctor.exit);
    let endpoints: Value = agent.cli("endpoints --json").json()?;
    let marked = endpoints.as_array().into_iter().flatten().flat_map(|e| {
        let kinds = e["attention"].as_array().cloned().unwrap_or_default();
        kinds
            .into_iter()
            .map(|a| format!("{} {}", e["container_id"], a["kind"]).replace('"', ""))
            .collect::<Vec<_>>()
    });
    let name = format!("slash32_endpoints_attention{{reason=\"{reason}\"}} ");
    let page = agent.cli("metrics").run()?;
    let count = page.lines().find_map(|line| line.strip_prefix(&name)).context(page.clone())?;
    Ok((lines.map(str::to_owned).collect(), check["ok"] == true, marked.collect(), count.to_owned()))
}

/// Nothing is said.
fn nothing_told(agent: &Agent, reason: &str) -> Result<()> {
    let told = told(agent, reason)?;
    ensure!(told.0.is_empty() && told.1 && told.2.is_empty() && told.3 == "0", "{told:?}");
    Ok(())
}

#[test]
fn a_file_that_was_lost() {
    Lab::run("lost-file", |lab| {
        let host = lab.machine("host")?;
        let mut agent = Agent::start(&host, ONE_HOST)?;
        let (web, _echo) = served(&host, "web", &[8080])?;
        let (db, _echo) = served(&host, "db", &[8081])?;
        let _kept = served(&host, "kept", &[])?;
        nothing_told(&agent, "rebuilt")?;
        agent.kill()?;
        let file = |container: &Container| -> Result<String> {
            let name = container.result()["interfaces"][0]["name"].as_str().context("a name")?;
            Ok(format!("{ENDPOINTS}/{name}.json"))
        };
        // One removed, one damaged, and no copies.
        host.command("sh").args(["-c", "rm -f /run/slash32/copies/* /var/lib/slash32/copies/*/*"]).run()?;
        host.run(&format!("rm {}", file(&web)?))?;
        host.write(&file(&db)?, "{\"endpoint\"")?;
        agent.start_again()?;
        for restarted in [false, true] {
            if restarted {
                // Until somebody has done something about it.
                agent.kill()?;
                agent.start_again()?;
            }
            let (lines, healthy, marked, count) = told(&agent, "rebuilt")?;
            let [line] = &lines[..] else { anyhow::bail!("{lines:?}") };
            ensure!(
                line.contains("/web/eth0")
                    && line.contains("/db/eth0")
                    && line.contains("slash32 endpoints label"),
                "{line}"
            );
            ensure!(!line.contains("/kept/"), "{line}");
            ensure!(
                !healthy && marked == ["db rebuilt", "web rebuilt"]
                    || marked == ["web rebuilt", "db rebuilt"]
            );
            ensure!(count == "2", "{count}");
            let text = agent.cli("endpoints").run()?;
            ensure!(text.lines().filter(|line| line.ends_with(" rebuilt")).count() == 2, "{text}");
            let text = agent.cli("status").run()?;
            ensure!(text.lines().any(|l| l.starts_with("attention") && l.contains(line.as_str())), "{text}");
        }
        web.ping(&db.ipv4()?)?;
        agent.cli("endpoints label web role=web").run()?;
        let (lines, _, marked, count) = told(&agent, "rebuilt")?;
        ensure!(lines.len() == 1 && marked == ["db rebuilt"] && count == "1", "{lines:?} {marked:?} {count}");
        agent.kill()?;
        agent.start_again()?;
        let (_, _, marked, _) = told(&agent, "rebuilt")?;
        ensure!(marked == ["db rebuilt"], "{marked:?}");
        db.remove()?;
        nothing_told(&agent, "rebuilt")?;
        web.check()?;
        tidy(&agent, 2)
    });
}

/// A file that goes while the agent runs is written again, before anything is lost.
#[test]
fn a_file_that_goes_while_the_agent_runs() {
    Lab::run("file-back", |lab| {
        let host = lab.machine("host")?;
        let mut agent = Agent::start(
            &host,
            &ONE_HOST.replacen("[[ipam.pool]]", "[ipam]\naudit_seconds = 1\n[[ipam.pool]]", 1),
        )?;
        let (web, _echo) = served(&host, "web", &[8080])?;
        host.command("sh").args(["-c", &format!("rm {ENDPOINTS}/*")]).run()?;
        eventually("the file is back", PATIENCE, || {
            check(!host.run(&format!("ls {ENDPOINTS}"))?.is_empty(), "none")
        })?;
        agent.kill()?;
        agent.start_again()?;
        nothing_told(&agent, "rebuilt")?;
        let labels = agent.endpoints()?.into_iter().map(|e| e.labels).collect::<Vec<_>>();
        ensure!(labels.len() == 1 && labels[0].get("role").is_some_and(|role| role == "web"), "{labels:?}");
        web.check()
    });
}

fn connects(host: &Machine, port: u16) -> bool {
    host.command("lab-tool").args(["connect", "127.0.0.1", &port.to_string()]).run().is_ok()
}

/// A port of the host that a container has, and that is the agent's now.
#[test]
fn a_host_port_that_is_reserved_now() {
    Lab::run("reserved-now", |lab| {
        let host = lab.machine("host")?;
        // From localhost is from this address.
        host.run("ip addr add 192.0.2.10/32 dev lo")?;
        let mut agent = Agent::start(&host, ONE_HOST)?;
        let (web, _echo) = served(&host, "web", &[9179, 8080])?;
        let (other, _echo) = served(&host, "other", &[])?;
        eventually("both ports lead to it", PATIENCE, || {
            check(connects(&host, 9179) && connects(&host, 8080), "not yet")
        })?;
        let reserving = format!("[agent]\nmetrics_listen = \"[::1]:9179\"\n{ONE_HOST}");
        for live in [false, true] {
            if live {
                agent.reconfigure(&reserving)?;
            } else {
                agent.kill()?;
                host.write("/etc/slash32/slash32.toml", &reserving)?;
                agent.start_again()?;
            }
            let (lines, healthy, marked, count) = told(&agent, "host_port")?;
            let [line] = &lines[..] else { anyhow::bail!("{lines:?}") };
            ensure!(line.contains("/web/eth0") && line.contains("tcp/9179 is reserved"), "{line}");
            ensure!(!healthy && marked == ["web host_port"] && count == "1", "{marked:?} {count}");
            ensure!(!connects(&host, 9179), "the container has the agent's port");
            ensure!(connects(&host, 8080), "the other mapping is not in force");
            // The endpoint is taken up as any other.
            web.ping(&other.ipv4()?)?;
            tidy(&agent, 2)?;
            let error = web.check().err().context("CHECK")?.to_string();
            ensure!(error.contains("error 105") && error.contains("9179"), "{error}");
            agent.cli("endpoints label web role=www").run()?;
            let (again, ..) = told(&agent, "host_port")?;
            ensure!(again == lines, "{again:?}");
            // It is free again.
            agent.reconfigure(ONE_HOST)?;
            nothing_told(&agent, "host_port")?;
            eventually("the port leads to it again", PATIENCE, || check(connects(&host, 9179), "not yet"))?;
            web.check()?;
        }
        // A reload moves the metrics at once, so the port that they had is anybody's.
        let serves =
            |port: u16| host.command("lab-tool").args(["connect", "::1", &port.to_string()]).run().is_ok();
        agent.reconfigure(&reserving)?;
        ensure!(serves(9179), "metrics_listen is not in force");
        agent.reconfigure(&reserving.replacen("9179", "9180", 1))?;
        ensure!(serves(9180), "the metrics have not moved");
        nothing_told(&agent, "host_port")?;
        eventually("the port leads to it again", PATIENCE, || check(connects(&host, 9179), "not yet"))?;
        let error = agent
            .reconfigure(&reserving.replacen("::1", "2001:db8::77", 1))
            .err()
            .context("reload")?
            .to_string();
        ensure!(error.contains("metrics_listen: cannot listen on [2001:db8::77]:9179"), "{error}");
        ensure!(serves(9180), "the metrics are gone");
        agent.reconfigure(&reserving)?;
        web.remove()?;
        nothing_told(&agent, "host_port")?;
        tidy(&agent, 1)
    });
}

/// Addresses of the block that are the host's, its gateway's or a neighbour's: no container gets one, and a person is told.
#[test]
fn addresses_that_are_somebodys() {
    Lab::run("somebodys", |lab| {
        let host = lab.machine("host")?;
        let link = |line: &str| host.run(line).map(drop);
        link("ip link add wan type veth peer name nwan")?;
        link("ip link set nwan up")?;
        link("ip link set wan up")?;
        for (own, gateway) in [("10.32.4.0/24", "10.32.4.2"), ("fd00:32:0:4::1/64", "fd00:32:0:4::3")] {
            link(&format!("ip address add {own} dev wan nodad"))?;
            link(&format!("ip route add default via {gateway} dev wan"))?;
        }
        let neighbours = "\n[ipam]\nneighbours_wait_seconds = 0\n[bgp]\nasn = 64512\n[[bgp.peer]]\naddress = \"10.32.4.1\"\nasn = 65000\n[[bgp.peer]]\n\
                          address = \"fd00:32:0:4::2\"\nasn = 65000\n";
        let agent = Agent::start(&host, &format!("{ONE_HOST}{neighbours}"))?;
        let web = host.container("web", &Network::slash32()?)?;
        ensure!(web.ipv4()? == "10.32.4.3" && web.ipv6()? == "fd00:32:0:4::4", "{}", web.result());
        let lines = [
            "10.32.4.0 in the block 10.32.4.0/24 is an address of this host",
            "10.32.4.1 in the block 10.32.4.0/24 is a BGP neighbour's address",
            "10.32.4.2 in the block 10.32.4.0/24 is a gateway of this host's routes",
            "fd00:32:0:4::1 in the block fd00:32:0:4::/64 is an address of this host",
            "fd00:32:0:4::2 in the block fd00:32:0:4::/64 is a BGP neighbour's address",
            "fd00:32:0:4::3 in the block fd00:32:0:4::/64 is a gateway of this host's routes",
        ];
        let doctor = agent.cli("doctor").output()?;
        let checked = agent.cli("config check /etc/slash32/slash32.toml").run()?;
        for line in lines {
            let address = line.split(' ').next().unwrap_or_default();
            let whose = line.split(" is ").last().unwrap_or_default();
            ensure!(doctor.stdout.contains(line), "{line}: {}", doctor.stdout);
            ensure!(checked.contains(line), "{line}: {checked}");
            host.sandbox("asks")?;
            let asking = asking_for(&[address])?;
            let error = refused(host.attach("asks", &asking))?;
            ensure!(error.code == 101 && error.msg.contains(whose), "{error}");
            host.run("ip netns delete asks")?;
        }
        let shown: Value = agent.cli("ipam show --json").json()?;
        ensure!(shown[0]["reserved"] == 3 && shown[1]["reserved"] == 3, "{shown}");
        // One comes to where a container is.
        nothing_told(&agent, "address_taken")?;
        host.run("ip address add 10.32.4.3/32 dev wan")?;
        eventually("it is told", PATIENCE, || {
            let (lines, healthy, marked, count) = told(&agent, "address_taken")?;
            let told = lines.iter().any(|l| l.contains("10.32.4.3 is an address of this host, too"));
            let seen = format!("{lines:?} {marked:?} {count}");
            check(told && !healthy && marked == ["web address_taken"] && count == "1", seen)
        })?;
        host.run("ip address del 10.32.4.3/32 dev wan")?;
        eventually("it is over", PATIENCE, || nothing_told(&agent, "address_taken"))?;
        web.remove()?;
        tidy(&agent, 0)
    });
}
