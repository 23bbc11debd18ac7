//! What packets cost between containers of two hosts: beside the hosts' own path, a bridge with address translation,
//! VXLAN, and a routed pair without anything else. All paths run over the same kind of cables and switch, and take turns.

use std::time::Duration;

use anyhow::{Context, Result};
use interop_tests::{Cmd, Lab, Machine, Network, Process, Rack, eventually};
use serde_json::Value;

use crate::Options;
use crate::figures::{Row, median};

/// How often each path is measured.
const ROUNDS: usize = 3;
/// Pings of one measurement of latency, a millisecond apart.
const PINGS: u32 = 300;

/// Where packets go from and to.
struct Path {
    name: &'static str,
    client: Box<dyn Fn(&str) -> Cmd>,
    /// Where the server is, for pings and for iperf3.
    server: String,
    _listener: Process,
    bits: Vec<f64>,
    micros: Vec<f64>,
}

impl Path {
    fn new(
        name: &'static str,
        client: impl Fn(&str) -> Cmd + 'static,
        server: &str,
        listener: Cmd,
    ) -> Result<Self> {
        let listener = listener.args(["-s"]).spawn(&format!("iperf3-{}", name.replace(' ', "-")))?;
        let path = Self {
            name,
            client: Box::new(client),
            server: server.to_owned(),
            _listener: listener,
            bits: Vec::new(),
            micros: Vec::new(),
        };
        eventually(&format!("{name} works"), Duration::from_secs(20), || path.throughput(0))?;
        Ok(path)
    }

    /// Bits a second by one TCP connection.
    fn throughput(&self, seconds: u32) -> Result<f64> {
        let command = (self.client)("iperf3").args(["-J", "-c", &self.server]);
        let command = if seconds == 0 {
            command.args(["-n", "1M"])
        } else {
            command.args(["-t", &seconds.to_string()])
        };
        let report: Value = serde_json::from_str(&command.run()?).context("iperf3's report")?;
        report["end"]["sum_received"]["bits_per_second"].as_f64().context("bits per second")
    }

    /// The median round trip in microseconds.
    fn latency(&self) -> Result<f64> {
        let count = PINGS.to_string();
        let shown = (self.client)("ping").args(["-n", "-i", "0.001", "-c", &count, &self.server]).run()?;
        let times: Vec<f64> = shown
            .lines()
            .filter_map(|line| line.split_once("time=")?.1.split(' ').next()?.parse().ok())
            .collect();
        anyhow::ensure!(times.len() * 10 > PINGS as usize * 9, "{} of {PINGS} answered", times.len());
        Ok(median(&times) * 1000.0)
    }
}

pub(crate) fn measure(lab: &Lab, rack: &Rack, options: &Options) -> Result<Vec<Row>> {
    let network = Network::slash32()?.label("role", "bench");
    let [one, two] = &rack.hosts;
    let from = one.container("from", &network)?;
    let to = two.container("to", &network)?;
    // The switch announces the containers only; the hosts' own addresses are the administrator's to route.
    one.run("ip route add 192.0.2.2/31 via 192.0.2.0")?;
    two.run("ip route add 192.0.2.0/31 via 192.0.2.2")?;
    let (client, listener) = (one.clone(), two.command("iperf3"));
    let mut paths = vec![
        Path::new("slash32", netns(one, "from"), &to.ipv4()?, to.command("iperf3"))?,
        Path::new("the hosts' own path", move |p| client.command(p), "192.0.2.3", listener)?,
    ];
    paths.extend(others(lab)?);
    for round in 1..=ROUNDS {
        eprintln!("round {round} of {ROUNDS}: throughput and latency of {} paths", paths.len());
        for path in &mut paths {
            path.bits.push(path.throughput(options.seconds)?);
            path.micros.push(path.latency()?);
        }
    }
    from.remove()?;
    to.remove()?;
    Ok(rows(&paths))
}

fn rows(paths: &[Path]) -> Vec<Row> {
    let Some((ours, rest)) = paths.split_first() else { return Vec::new() };
    let gigabits = |path: &Path| format!("{:.1} Gbit/s", median(&path.bits) / 1e9);
    let micros = |path: &Path| format!("{:.0} µs", median(&path.micros));
    let mut rows = Vec::new();
    for path in rest {
        // Rounds are compared one by one: what slows the computer down slows both.
        let by_round: Vec<f64> = ours.bits.iter().zip(&path.bits).map(|(a, b)| a / b).collect();
        let target = if path.name.contains("own") { "≥ 0.95" } else { "" };
        rows.push(Row::new(
            "throughput between containers of two hosts",
            gigabits(ours),
            format!("{} {}", path.name, gigabits(path)),
            Some(median(&by_round)),
            target,
        ));
    }
    for path in rest {
        let by_round: Vec<f64> = ours.micros.iter().zip(&path.micros).map(|(a, b)| a / b).collect();
        rows.push(Row::new(
            "round trip between containers of two hosts, p50",
            micros(ours),
            format!("{} {}", path.name, micros(path)),
            Some(median(&by_round)),
            "",
        ));
    }
    rows
}

/// Two hosts at a switch like the rack's, with a bridge for containers each; by hand, so that nothing of a plugin's
/// is in the way.
fn others(lab: &Lab) -> Result<Vec<Path>> {
    let switch = lab.forwarder("other-switch")?;
    let hosts = [lab.forwarder("other1")?, lab.forwarder("other2")?];
    for (number, host) in (0..).zip(&hosts) {
        let (low, high) = (number * 2, number * 2 + 1);
        lab.link(
            switch.port(&format!("port{number}")).address(&format!("192.0.2.{low}/31")),
            host.port("eth0").address(&format!("192.0.2.{high}/31")),
        )?;
        host.run(&format!("ip route add default via 192.0.2.{low}"))?;
    }
    let [one, two] = &hosts;
    for (number, host) in (1..).zip(&hosts) {
        host.bridge("nat0", &[&format!("10.201.{number}.1/24")])?;
        plug(host, "nat", "nat0", &format!("10.201.{number}.2/24"), 1500)?;
        let default = format!("default via 10.201.{number}.1");
        host.command("ip").args(["route", "add"]).args(default.split(' ')).netns("nat").run()?;
        // What Docker and the bridge plugin with portmap make of it: masquerading out, a published port in.
        let rules = format!(
            "table ip nat {{ chain out {{ type nat hook postrouting priority srcnat; ip saddr 10.201.{number}.0/24 \
             oifname eth0 masquerade; }}\n chain in {{ type nat hook prerouting priority dstnat; iifname eth0 tcp dport \
             5201 dnat to 10.201.{number}.2; iifname eth0 icmp type echo-request dnat to 10.201.{number}.2; }}\n}}"
        );
        host.command("nft").args(["-f", "-"]).stdin(rules).run()?;
        let (local, remote) =
            if number == 1 { ("192.0.2.1", "192.0.2.3") } else { ("192.0.2.3", "192.0.2.1") };
        host.run("ip link add wide0 type bridge")?;
        host.run(&format!("ip link add vx0 type vxlan id 42 local {local} remote {remote} dstport 4789"))?;
        host.run("ip link set vx0 master wide0 up")?;
        host.run("ip link set wide0 up")?;
        plug(host, "wide", "wide0", &format!("10.202.0.{number}/24"), 1450)?;
        // What a pair and two more decisions of the kernel cost by themselves, with no rule anywhere.
        cable(host, "plain", 1500)?;
        host.run(&format!("ip address add 10.203.{number}.1/24 dev v-plain"))?;
        dress(host, "plain", &format!("10.203.{number}.2/24"))?;
        let default = format!("default via 10.203.{number}.1");
        host.command("ip").args(["route", "add"]).args(default.split(' ')).netns("plain").run()?;
        switch.run(&format!("ip route add 10.203.{number}.0/24 via 192.0.2.{}", (number - 1) * 2 + 1))?;
    }
    let server = |name: &str| two.command("iperf3").netns(name);
    Ok(vec![
        Path::new("bridge + NAT", netns(one, "nat"), "192.0.2.3", server("nat"))?,
        Path::new("VXLAN", netns(one, "wide"), "10.202.0.2", server("wide"))?,
        Path::new("a plain routed pair without rules", netns(one, "plain"), "10.203.2.2", server("plain"))?,
    ])
}

/// A network namespace at a bridge.
fn plug(host: &Machine, name: &str, bridge: &str, address: &str, mtu: u32) -> Result<()> {
    cable(host, name, mtu)?;
    host.run(&format!("ip link set v-{name} master {bridge}"))?;
    dress(host, name, address)
}

/// A network namespace and a pair into it, up on this side.
fn cable(host: &Machine, name: &str, mtu: u32) -> Result<()> {
    host.sandbox(name)?;
    host.run(&format!("ip link add v-{name} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {name}"))?;
    host.run(&format!("ip link set v-{name} up")).map(drop)
}

/// An address inside.
fn dress(host: &Machine, name: &str, address: &str) -> Result<()> {
    let lines = format!("address add {address} dev eth0\nlink set eth0 up\n");
    host.command("ip").args(["-batch", "-"]).stdin(lines).netns(name).run().map(drop)
}

fn netns(machine: &Machine, name: &str) -> impl Fn(&str) -> Cmd + 'static {
    let (machine, name) = (machine.clone(), name.to_owned());
    move |program| machine.command(program).netns(&name)
}
