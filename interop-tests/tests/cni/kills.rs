//! Killed at every step: agent and plugin die at each fault point of `src/cni`, and the kernel, nftables, the files, the
//! other IPAM plugin and the neighbour's routes are looked at afterwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};
use interop_tests::{
    Agent, Exit, Lab, Machine, Network, Output, PATIENCE, Rack, Switch, check, eventually, example,
};
use serde_json::{Value, json};

use crate::kit::tidy;

/// The container that things happen to; it has a default route of another network, so that ours makes rules.
const WEB: &str = "web";

/// The fault points whose names begin with one of these words, as the code has them.
fn points(of: &[&str]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    read_points(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../src"), &mut found)?;
    for point in &found {
        let known = ["add:", "attach:", "del:", "plugin:"];
        ensure!(
            known.iter().any(|word| point.starts_with(word)),
            "no test visits fault points like {point:?}"
        );
    }
    found.retain(|point| of.iter().any(|word| point.starts_with(word)));
    Ok(found)
}

fn read_points(dir: &Path, found: &mut Vec<String>) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
    for path in entries.map(|entry| entry.map(|e| e.path())).collect::<Result<BTreeSet<_>, _>>()? {
        if path.is_dir() {
            read_points(&path, found)?;
        } else {
            let text = fs::read_to_string(&path)?;
            let calls = text.split("fault::point(\"").skip(1);
            found.extend(calls.filter_map(|call| call.split('"').next()).map(str::to_owned));
        }
    }
    Ok(())
}

/// A host behind a switch, with a container that lives all the time.
struct World {
    host: Machine,
    switch: Agent,
    agent: Agent,
    network: Network,
    /// Its addresses.
    stays: Vec<String>,
    /// What there was before.
    before: BTreeMap<&'static str, BTreeSet<String>>,
}

/// What a call by a runtime came to.
struct Answer {
    output: Output,
    printed: Value,
}

impl Answer {
    fn code(&self) -> u64 {
        self.printed["code"].as_u64().unwrap_or_default()
    }

    fn success(self) -> Result<Value> {
        ensure!(self.output.exit.success(), "{:?}", self.output);
        Ok(self.printed)
    }
}

/// Everything that a container may ask for at once.
fn much_asked() -> Result<Network> {
    let ports = json!([
        {"hostPort": 8080, "containerPort": 7, "protocol": "tcp"},
        {"hostPort": 8080, "containerPort": 7, "protocol": "udp"},
    ]);
    let limits = json!({"ingressRate": 8_000_000, "ingressBurst": 800_000,
                        "egressRate": 4_000_000, "egressBurst": 400_000});
    Ok(Network::slash32()?
        .label("role", "web")
        .capability("portMappings", ports)
        .capability("bandwidth", limits)
        .capability("ips", json!(["10.32.1.77", "fd00:32:0:1::77"])))
}

/// Two addresses of each family, so that one given twice has no way out.
fn by_host_local() -> Result<Network> {
    let ipam = json!({"type": "host-local", "dataDir": "/var/lib/cni/networks", "ranges": [
        [{"subnet": "10.32.1.64/29", "rangeStart": "10.32.1.66", "rangeEnd": "10.32.1.67"}],
        [{"subnet": "fd00:32:0:1::100/120", "rangeStart": "fd00:32:0:1::166", "rangeEnd": "fd00:32:0:1::167"}]]});
    Ok(Network::slash32()?.label("role", "web").plugin_key("ipam", ipam))
}

impl World {
    fn run(name: &str, network: Network, test: impl FnOnce(&mut Self) -> Result<()>) {
        Lab::run(name, |lab| {
            let rack = Rack::new(lab, Switch::Slash32)?;
            // Both ends dial again at once: the agent dies more often than neighbours are patient.
            let config = |file: &str| {
                let text = example(file)?;
                Ok::<_, anyhow::Error>(
                    text.replace("hold_time = 9", "hold_time = 9\nconnect_retry = 1\nidle_hold = 0"),
                )
            };
            let switch = Agent::start(&rack.tor, &config(Switch::Slash32.config_file())?)?;
            let host = rack.hosts[0].clone();
            host.own("/var/lib/cni")?;
            let config = config(&Switch::Slash32.host_file(1))?.replacen(
                "[[ipam.pool]]",
                "[ipam]\nquarantine_seconds = 0\n\n[[ipam.pool]]",
                1,
            );
            let agent = Agent::start(&host, &config)?;
            agent.wait_established(2)?;
            // Its port keeps what mappings need in the table, which comes with the first and goes with the last.
            let port = json!([{"hostPort": 8888, "containerPort": 7, "protocol": "tcp"}]);
            let stays = host.container("stays", &Network::slash32()?.capability("portMappings", port))?;
            for sandbox in [WEB, "one", "two"] {
                host.sandbox(sandbox)?;
            }
            for line in [
                "link add other0 type veth peer name other1",
                "addr add 198.51.100.2/24 dev other0",
                "addr add 2001:db8:ff::2/64 dev other0 nodad",
                "link set other0 up",
                "link set other1 up",
                "route add default via 198.51.100.1",
                "-6 route add default via 2001:db8:ff::1",
            ] {
                host.run(&format!("ip -n {WEB} {line}"))?;
            }
            let stays = vec![stays.ipv4()?, stays.ipv6()?];
            let mut world = Self { host, switch, agent, network, stays, before: BTreeMap::new() };
            world.before = world.traces()?;
            // Once without a kill. Chains of the table that come with the first of something may stay.
            let result = world.call("ADD", WEB, None, None)?.success()?;
            world.call("CHECK", WEB, Some(&result), None)?.success()?;
            let inside = world.traces()?.remove("inside").unwrap_or_default();
            ensure!(inside.iter().any(|line| line.contains("lookup 3201")), "no rules: {inside:#?}");
            world.call("DEL", WEB, None, None)?.success()?;
            world.agent.kill()?;
            world.agent.start_again()?;
            let table = world.traces()?.remove("nftables").unwrap_or_default();
            world.before.insert("nftables", table);
            world.as_before("without a kill")?;
            for (what, needed) in [("routes", world.stays[0].as_str()), ("neighbour", &world.stays[1])] {
                let seen = world.before.get(what).into_iter().flatten();
                ensure!(seen.into_iter().any(|line| line.contains(needed)), "{what}: {:#?}", world.before);
            }
            test(&mut world)
        });
    }

    /// Calls the plugin as a runtime does; with a fault it dies there.
    fn call(&self, verb: &str, name: &str, previous: Option<&Value>, fault: Option<&str>) -> Result<Answer> {
        self.call_with(&self.network, verb, name, previous, fault)
    }

    fn call_with(
        &self,
        network: &Network,
        verb: &str,
        name: &str,
        previous: Option<&Value>,
        fault: Option<&str>,
    ) -> Result<Answer> {
        let mut plugin = self
            .host
            .command("/opt/cni/bin/slash32")
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", name)
            .env("CNI_NETNS", format!("/run/netns/{name}"))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/opt/cni/bin")
            .stdin(network.configuration(0, previous)?.to_string());
        if let Some(point) = fault {
            // With the directory the plugin goes its long way, where the fault points are.
            plugin = plugin.env("SLASH32_FAULT", point).env("SLASH32_RUN_DIR", "/run/slash32");
        }
        let output = plugin.output()?;
        if let Some(point) = fault {
            let died = matches!(output.exit, Exit::Signal(_))
                && output.stderr.contains(&format!("dying at {point}"));
            ensure!(died && output.stdout.is_empty(), "the plugin did not die at {point}: {output:?}");
        }
        let printed = serde_json::from_str(&output.stdout).unwrap_or_default();
        Ok(Answer { output, printed })
    }

    /// The agent dies at a point in this verb, and another one takes its place.
    fn agent_dies(&mut self, point: &str, verb: &str) -> Result<()> {
        self.agent.kill()?;
        self.agent.start_again_to_die_at(point)?;
        self.agent.wait_established(2)?;
        if verb == "DEL" {
            self.call("ADD", WEB, None, None)?.success()?;
        }
        let answer = self.call(verb, WEB, None, None)?;
        self.agent.process().wait(PATIENCE).with_context(|| format!("{point} was not reached"))?;
        if verb == "ADD" {
            ensure!(answer.code() == 11, "ADD at {point}: {:?}", answer.output);
        } else {
            answer.success()?;
        }
        self.agent.start_again()
    }

    /// All that an endpoint may leave behind, each as words or lines in a fixed order.
    fn traces(&self) -> Result<BTreeMap<&'static str, BTreeSet<String>>> {
        let mut all = BTreeMap::new();
        let looks = [
            // But for the generation of what has been judged.
            ("nftables", "nft -s list table inet slash32 | sed 's/0x[0-9a-f]\\{8\\}/MARK/g'"),
            ("routes", "ip route show table all proto 32; ip -6 route show table all proto 32"),
            ("rules", "ip rule; ip -6 rule"),
            ("links", "ip -br link show type veth | cut -d@ -f1; ip -br link show type ifb | cut -d@ -f1"),
            ("files", "cd /run/slash32 && find endpoints tombstones damaged -type f"),
            ("host-local", "ls /var/lib/cni/networks/slash32 2>/dev/null | grep -v -e ^last -e lock"),
            (
                "inside",
                "for n in web one two; do ip -n $n -o addr; ip -n $n rule; ip -n $n -6 rule; \
                        ip -n $n route show table all; ip -n $n -6 route show table all; done | grep -v fe80:",
            ),
        ];
        for (what, line) in looks {
            let output = self.host.command("sh").args(["-c", line]).output()?;
            let by_word = what == "nftables";
            let parts = output.stdout.split(move |c| c == '\n' || (by_word && c == ','));
            all.insert(
                what,
                parts.map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect(),
            );
        }
        let rib: Value = self.switch.cli("bgp rib --json").json()?;
        let rows = rib.as_array().context("a list")?.iter();
        all.insert("neighbour", rows.map(|row| row["prefix"].to_string()).collect());
        Ok(all)
    }

    /// Nothing has come and nothing is missing, but what may take a moment.
    fn as_before(&self, when: &str) -> Result<()> {
        eventually(&format!("all is as before, {when}"), PATIENCE, || {
            let now = self.traces()?;
            let mut differs = Vec::new();
            for (what, before) in &self.before {
                let here = now.get(what).context("looked at")?;
                differs.extend(here.difference(before).map(|line| format!("{what}: more: {line}")));
                differs.extend(before.difference(here).map(|line| format!("{what}: less: {line}")));
            }
            check(differs.is_empty(), differs.join("\n"))
        })?;
        tidy(&self.agent, 1)
    }

    /// Others come while the dead call's container is in whatever state it is in: no address is anybody else's.
    fn others_come(&self, network: &Network) -> Result<usize> {
        let mut living = 0;
        for name in ["one", "two"] {
            let answer = self.call_with(network, "ADD", name, None, None)?;
            // Nothing is free for as long as the dead call holds it.
            let may_fail = *network.conflist() == self.network.conflist();
            ensure!(answer.output.exit.success() || may_fail, "{:?}", answer.output);
            living += usize::from(answer.output.exit.success());
        }
        let mut seen: BTreeMap<String, &str> = BTreeMap::new();
        for name in ["stays", WEB, "one", "two"] {
            // With its carrier, or it is no address that anybody reaches.
            let shown: Value =
                self.host.command("ip").args(["-n", name, "-j", "addr", "show", "up"]).json()?;
            for link in shown.as_array().into_iter().flatten().filter(|l| l["ifname"] == "eth0") {
                for address in
                    link["addr_info"].as_array().into_iter().flatten().filter(|a| a["scope"] == "global")
                {
                    let address = address["local"].as_str().context("an address")?.to_owned();
                    if let Some(other) = seen.insert(address.clone(), name) {
                        bail!("{address} is both {other}'s and {name}'s");
                    }
                }
            }
        }
        for address in &self.stays {
            ensure!(seen.get(address) == Some(&"stays"), "{address}: {seen:?}");
        }
        Ok(living)
    }

    fn others_go(&self, network: &Network) -> Result<()> {
        for name in ["one", "two"] {
            self.call_with(network, "DEL", name, None, None)?.success()?;
        }
        Ok(())
    }

    /// What host-local has given is what the containers have.
    fn leases_fit(&self) -> Result<()> {
        let endpoints = self.agent.endpoints()?;
        let held = endpoints.iter().filter(|e| e.container_id != "stays");
        let held: BTreeSet<String> = held.flat_map(|e| [&e.ipv4, &e.ipv6]).flatten().cloned().collect();
        let given = self.traces()?.remove("host-local").unwrap_or_default();
        ensure!(given == held, "host-local has given {given:?}, containers have {held:?}");
        Ok(())
    }
}

/// What happens after the death: the runtime gives the container up, or tries again.
const NEXT: [&str; 2] = ["DEL", "ADD"];

#[test]
fn the_agent_dies_at_every_step() -> Result<()> {
    let (points, ours) = (points(&["add:", "attach:", "del:"])?, Network::slash32()?);
    ensure!(points.len() >= 13, "{points:?}");
    World::run("kills-agent", much_asked()?, |world| {
        for (point, next) in points.iter().flat_map(|point| NEXT.map(|next| (point, next))) {
            let verb = if point.starts_with("del:") { "DEL" } else { "ADD" };
            world.agent_dies(point, verb)?;
            world.others_come(&ours)?;
            if next == "ADD" {
                let result = world.call("ADD", WEB, None, None)?.success()?;
                world.call("CHECK", WEB, Some(&result), None)?.success()?;
                let addresses = ["10.32.1.77/32", "fd00:32:0:1::77/128"];
                let got = result["ips"].as_array().context("addresses")?;
                ensure!(got.iter().map(|ip| &ip["address"]).eq(&addresses), "{point}: {result}");
            }
            world.call("DEL", WEB, None, None)?.success()?;
            world.others_go(&ours)?;
            world.as_before(&format!("{point} and {next}"))?;
        }
        Ok(())
    });
    Ok(())
}

#[test]
fn the_agent_dies_and_another_plugin_has_given_the_addresses() -> Result<()> {
    let (points, network) = (points(&["add:", "attach:", "del:"])?, by_host_local()?);
    World::run("kills-delegate", network.clone(), |world| {
        for (point, next) in points.iter().flat_map(|point| NEXT.map(|next| (point, next))) {
            let verb = if point.starts_with("del:") { "DEL" } else { "ADD" };
            world.agent_dies(point, verb)?;
            let leases = world.traces()?.remove("host-local").unwrap_or_default();
            ensure!(leases.is_empty(), "{point}: host-local has still given {leases:?}");
            if next == "ADD" {
                let result = world.call("ADD", WEB, None, None)?.success()?;
                world.call("CHECK", WEB, Some(&result), None)?.success()?;
                world.leases_fit().with_context(|| format!("after {point} and ADD"))?;
            }
            let living = world.others_come(&network)?;
            ensure!(living > 0, "{point}, {next}: none came");
            if next == "ADD" {
                world.leases_fit().with_context(|| format!("after {point}, ADD and others"))?;
            }
            world.call("DEL", WEB, None, None)?.success()?;
            world.leases_fit().with_context(|| format!("after {point}, {next} and DEL"))?;
            world.others_go(&network)?;
            world.as_before(&format!("{point} and {next}"))?;
        }
        Ok(())
    });
    Ok(())
}

#[test]
fn the_plugin_dies_at_every_step() -> Result<()> {
    let points = points(&["plugin:"])?;
    World::run("kills-plugin", by_host_local()?, |world| {
        for point in &points {
            let verbs: &[&str] = match point.as_str() {
                "plugin:called" | "plugin:answered" => &["ADD", "DEL"],
                "plugin:addresses" => &["ADD"],
                "plugin:deleted" | "plugin:retired" => &["DEL"],
                other => bail!("no test visits {other}"),
            };
            // Without the agent, which comes back after the runtime's next call, or before.
            let cases = [(false, false), (true, false), (true, true)];
            for (verb, (away, back)) in verbs.iter().flat_map(|verb| cases.map(|case| (*verb, case))) {
                if point == "plugin:retired" && !away {
                    continue;
                }
                let when = format!("{verb} dead at {point}, away {away}, back {back}");
                if verb == "DEL" {
                    world.call("ADD", WEB, None, None)?.success()?;
                }
                if away {
                    world.agent.kill()?;
                }
                world.call(verb, WEB, None, Some(point)).context(when.clone())?;
                if back {
                    world.agent.start_again()?;
                }
                world.call("DEL", WEB, None, None)?.success().context(when.clone())?;
                let leases = world.traces()?.remove("host-local").unwrap_or_default();
                ensure!(leases.is_empty(), "{when}: host-local has still given {leases:?}");
                if away && !back {
                    world.agent.start_again()?;
                }
                world.as_before(&when)?;
                ensure!(world.others_come(&world.network)? == 2, "{when}: an address is lost");
                world.leases_fit().context(when)?;
                world.others_go(&world.network)?;
            }
        }
        // Nobody is killed: the agent is away, that is all.
        world.call("ADD", WEB, None, None)?.success()?;
        world.agent.kill()?;
        world.call("DEL", WEB, None, None)?.success()?;
        world.agent.start_again()?;
        world.as_before("a DEL without the agent")
    });
    Ok(())
}
