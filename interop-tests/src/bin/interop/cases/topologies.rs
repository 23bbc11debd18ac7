//! More than one rack.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use interop_tests::{
    Agent, Capture, Container, Image, ImageRun, Lab, Machine, Network, PATIENCE, Probe, ProbeReport,
    eventually,
};

use super::{Case, case};
use crate::flavors::Flavor;
use crate::runner::remark;
use crate::site::{Plan, Sessions, pools, reach, serve};
use crate::spec::{Family, Neighbor, Remote, RouterSpec, unsupported};

pub(super) const CASES: &[Case] = &[
    case!("clos", "two racks of two switches and two spines (RFC 7938): every path is used", clos)
        .fast_with(&["bird2"]),
    case!(
        "clos-rolling-restart",
        "every box of the Clos restarts in turn under traffic; lost packets are counted",
        rolling
    )
    .heavy(),
    case!("two-reflectors", "hosts are clients of two reflectors; one dies", two_reflectors),
    case!("full-mesh-5", "an iBGP full mesh of five: three hosts and two routers", full_mesh),
    case!(
        "two-uplinks-unnumbered",
        "a host with two uplinks and no address on them; one switch dies",
        two_uplinks
    ),
];

/// Two racks: leaves 1 and 2 in rack 1, 3 and 4 in rack 2, spines 5 and 6. A link between the leaf L and the spine S is
/// 198.18.1LS.0/31, between leaf L and its rack's host 198.18.L.0/31, the upper box first; IPv6 accordingly. Each leaf has an AS
/// number of its own, the spines share one, each host has its own.
struct Clos {
    flavor: &'static dyn Flavor,
    boxes: Vec<(Machine, RouterSpec, ImageRun)>,
    hosts: Vec<(Machine, Agent, Container)>,
    _captures: Vec<Capture>,
}

const SPINE_AS: u32 = 65200;

fn leaf_as(leaf: usize) -> u32 {
    65100 + leaf as u32
}

fn host_as(rack: usize) -> u32 {
    65000 + rack as u32
}

/// Both ends of a numbered link: IPv4 and IPv6 of the upper, then of the lower box.
fn ends(number: usize) -> [[String; 2]; 2] {
    [0, 1].map(|end| [format!("198.18.{number}.{end}"), format!("2001:db8:{number}::{}", end + 1)])
}

fn port(machine: &Machine, name: &str, end: &[String; 2]) -> interop_tests::Port {
    machine.port(name).address(&format!("{}/31", end[0])).address(&format!("{}/64", end[1]))
}

/// The two sessions of a link, as the box at `local` has them.
fn sessions(name: &str, local: &[String; 2], remote: &[String; 2], asn: u32) -> [Neighbor; 2] {
    [0, 1].map(|n| {
        let name = format!("{name}{}", Family::BOTH[n].word());
        let mut neighbor = Neighbor::new(&name, Remote::Address(remote[n].clone()), &local[n], asn);
        (neighbor.four, neighbor.six) = (n == 0, n == 1);
        neighbor.timers = Some((9, 3));
        neighbor
    })
}

/// Packets of one flow take one path, different flows take all of them; each box by a hash of its own, as they share a
/// kernel here, and what a host sends to its first leaf, that leaf would else send to its first spine.
fn spread_flows(machine: &Machine, number: usize) -> Result<()> {
    // Policy 3 computes the hash from the packet: addresses, protocol and ports. Policy 1 takes the one that the sending
    // socket has left with the packet, which is the same in all boxes.
    for family in ["ipv4", "ipv6"] {
        machine.sysctl(&format!("net.{family}.fib_multipath_hash_policy"), "3")?;
        machine.sysctl(&format!("net.{family}.fib_multipath_hash_fields"), "55")?;
    }
    if own_hashes() {
        let seed = 0x9e37_79b9_u32.wrapping_mul(number as u32);
        machine.sysctl("net.ipv4.fib_multipath_hash_seed", &seed.to_string())?;
    }
    Ok(())
}

/// Whether the kernel can give a network namespace a hash of its own (Linux 6.11).
fn own_hashes() -> bool {
    std::path::Path::new("/proc/sys/net/ipv4/fib_multipath_hash_seed").exists()
}

impl Clos {
    fn start(lab: &Lab, flavor: &'static dyn Flavor) -> Result<Self> {
        if !flavor.forwards() {
            return unsupported("writes no kernel routes: it cannot be a switch of several tiers");
        }
        let image = Image::find(flavor.image().unwrap_or_default())?;
        let names = ["leaf1", "leaf2", "leaf3", "leaf4", "spine1", "spine2"];
        let machines = names.iter().map(|name| lab.forwarder(name)).collect::<Result<Vec<_>>>()?;
        let mut specs: Vec<RouterSpec> = (1..=6)
            .map(|n| RouterSpec {
                asn: if n <= 4 { leaf_as(n) } else { SPINE_AS },
                router_id: format!("198.19.1.{n}"),
                networks: vec![format!("10.99.0.{n}/32"), format!("fd00:99::{n}/128")],
                multipath: true,
                graceful_restart: Some(60),
                ..RouterSpec::default()
            })
            .collect();
        for (n, machine) in (1..).zip(&machines) {
            spread_flows(machine, n)?;
            machine.run(&format!("ip address add 10.99.0.{n}/32 dev lo"))?;
            machine.run(&format!("ip address add fd00:99::{n}/128 dev lo"))?;
        }
        for leaf in 1..=4 {
            for spine in 1..=2 {
                let [upper, lower] = ends(100 + 10 * leaf + spine);
                let (top, bottom) = (&machines[3 + spine], &machines[leaf - 1]);
                lab.link(
                    port(top, &format!("leaf{leaf}"), &upper),
                    port(bottom, &format!("spine{spine}"), &lower),
                )?;
                specs[3 + spine].neighbors.extend(sessions(
                    &format!("leaf{leaf}"),
                    &upper,
                    &lower,
                    leaf_as(leaf),
                ));
                specs[leaf - 1].neighbors.extend(sessions(
                    &format!("spine{spine}"),
                    &lower,
                    &upper,
                    SPINE_AS,
                ));
            }
        }
        let mut host_machines = Vec::new();
        for rack in 1..=2 {
            let host = lab.machine(&format!("host{rack}"))?;
            spread_flows(&host, 10 + rack)?;
            for side in 1..=2 {
                let leaf = 2 * rack - 2 + side;
                let [upper, lower] = ends(leaf);
                lab.link(
                    port(&machines[leaf - 1], "host", &upper),
                    port(&host, &format!("up{side}"), &lower),
                )?;
                specs[leaf - 1].neighbors.extend(sessions("host", &upper, &lower, host_as(rack)));
            }
            host_machines.push(host);
        }
        let captures = vec![
            machines[4].capture("any", "tcp port 179")?,
            host_machines[0].capture("any", "tcp port 179")?,
        ];
        let mut boxes = Vec::new();
        for (machine, spec) in machines.into_iter().zip(specs) {
            let run = ImageRun::start(&machine, &image, &flavor.config(&spec)?, flavor.env())?;
            boxes.push((machine, spec, run));
        }
        for (_, spec, run) in &boxes {
            ready(flavor, spec, run)?;
        }
        let mut hosts = Vec::new();
        for (rack, machine) in (1..).zip(host_machines) {
            let agent = Agent::start(&machine, &clos_host(rack))?;
            let container = machine.container(&format!("c{rack}"), &Network::slash32()?)?;
            hosts.push((machine, agent, container));
        }
        let clos = Self { flavor, boxes, hosts, _captures: captures };
        clos.wait_up()?;
        Ok(clos)
    }

    fn wait_up(&self) -> Result<()> {
        for (machine, spec, run) in &self.boxes {
            eventually(&format!("all sessions of {} are up", machine.name()), PATIENCE * 2, || {
                run.check()?;
                let up = self.flavor.established(run)?;
                ensure!(up == spec.neighbors.len(), "{up} of {}", spec.neighbors.len());
                Ok(())
            })?;
        }
        for (_, agent, _) in &self.hosts {
            agent.wait_established(4)?;
        }
        Ok(())
    }

    fn traffic(&self) -> Result<()> {
        let (one, two) = (&self.hosts[0].2, &self.hosts[1].2);
        for (from, to) in [(one, two), (two, one)] {
            reach(from, &to.ipv4()?)?;
            reach(from, &to.ipv6()?)?;
        }
        Ok(())
    }
}

impl Clos {
    /// Packets of many flows from rack 1 to rack 2: sooner or later each of the four ways up carries some, and each packet
    /// crosses one spine.
    fn every_path_carries(&self) -> Result<()> {
        // Where a router keeps one path, or all boxes choose alike, the leaves still are two ways.
        let want = if self.flavor.multipath() && own_hashes() { 4 } else { 2 };
        eventually(&format!("{want} ways carry packets"), PATIENCE, || {
            let counts = self.flows_by_way()?;
            let used = counts.iter().filter(|count| **count > 0).count();
            ensure!(used >= want, "{used}: {counts:?} by spine and leaf");
            Ok(())
        })
    }

    /// Sends packets of many flows; how many crossed spine 1 from leaf 1, from leaf 2, spine 2 from leaf 1, from leaf 2.
    fn flows_by_way(&self) -> Result<Vec<usize>> {
        // That one of four ways is left out by chance has a probability of 4 x 0.75^FLOWS, 4 in 100 million.
        const FLOWS: usize = 64;
        const PORT: u16 = 9999;
        let spines = &self.boxes[4..6];
        for (spine, ..) in spines {
            // Adding it first makes deleting it no error.
            let rules = ["leaf1", "leaf2"]
                .map(|way| format!("add rule inet ways up iifname {way} udp dport {PORT} counter\n"));
            let table = "add table inet ways\ndelete table inet ways\nadd table inet ways\n\
                         add chain inet ways up { type filter hook forward priority 0 ; }\n";
            spine.command("nft").args(["-f", "-"]).stdin(format!("{table}{}", rules.concat())).run()?;
        }
        let (from, to) = (&self.hosts[0].2, &self.hosts[1].2);
        for address in [to.ipv4()?, to.ipv6()?] {
            // Each line is a socket of its own, with another source port.
            let script = format!("for i in $(seq {FLOWS}); do echo > /dev/udp/{address}/{PORT}; done");
            // Port unreachable comes back, which is no matter.
            drop(from.command("bash").args(["-c", &script]).output()?);
        }
        let mut counts = Vec::new();
        for (spine, ..) in spines {
            let shown = spine.run("nft list table inet ways")?;
            let mut words = shown.split_whitespace();
            while words.any(|word| word == "packets") {
                counts.push(words.next().unwrap_or_default().parse::<usize>()?);
            }
        }
        ensure!(counts.iter().sum::<usize>() == 2 * FLOWS, "{counts:?} of {} packets", 2 * FLOWS);
        Ok(counts)
    }
}

fn ready(flavor: &dyn Flavor, spec: &RouterSpec, run: &ImageRun) -> Result<()> {
    eventually(&format!("{} answers", flavor.name()), PATIENCE, || {
        run.check()?;
        flavor.ready(run)
    })?;
    flavor.started(run, spec)
}

fn clos_host(rack: usize) -> String {
    let mut text = format!(
        "[bgp]\nasn = {}\nrouter_id = \"198.19.0.{rack}\"\n[bgp.group.leaf]\nhold_time = 9\nkeepalive = 3\n\
         connect_retry = 1\nidentity = \"accept\"\n",
        host_as(rack)
    );
    for side in 1..=2 {
        let leaf = 2 * rack - 2 + side;
        let [upper, _] = ends(leaf);
        for (address, family) in upper.iter().zip(Family::BOTH) {
            text += &format!(
                "[[bgp.peer]]\naddress = \"{address}\"\nasn = {}\ngroup = \"leaf\"\nfamilies = [\"{}\"]\n",
                leaf_as(leaf),
                family.word()
            );
        }
    }
    text + &pools(rack)
}

fn clos(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    let clos = Clos::start(lab, flavor)?;
    clos.traffic()?;
    // Both leaves of the rack lead to the other rack.
    let prefix = format!("{}/32", clos.hosts[1].2.ipv4()?);
    let agent = &clos.hosts[0].1;
    eventually("two next hops to the other rack", PATIENCE, || {
        let rows: Vec<serde_json::Value> = agent.cli(&format!("--json bgp rib {prefix}")).json()?;
        let used = rows.iter().filter(|row| row["best"] == true || row["multipath"] == true).count();
        ensure!(used == 2, "{rows:?}");
        Ok(())
    })?;
    clos.every_path_carries()?;
    // A spine and a leaf go; what is left carries everything.
    clos.boxes[4].2.kill()?;
    clos.boxes[0].2.kill()?;
    for dead in [&clos.boxes[4].0, &clos.boxes[0].0] {
        let links = dead.run("ip -o link show")?;
        for name in links.lines().filter_map(|line| line.split_whitespace().nth(1)) {
            let name = name.trim_end_matches(':').split('@').next().unwrap_or_default();
            if name != "lo" {
                dead.link_down(name)?;
            }
        }
    }
    clos.traffic()
}

/// Packets from rack 1 to rack 2, many flows in either family, so that every path carries some.
struct Flows {
    probes: Vec<Probe>,
}

impl Flows {
    fn start(clos: &Clos) -> Result<Self> {
        const FLOWS: usize = 4;
        const RATE: u32 = 100;
        let (from, to) = (&clos.hosts[0].2, &clos.hosts[1].2);
        let addresses = [to.ipv4()?, to.ipv6()?];
        let flows = (0..FLOWS).flat_map(|_| &addresses).map(|address| from.probe(address, RATE));
        Ok(Self { probes: flows.collect::<Result<_>>()? })
    }

    /// How many did not come back, of how many.
    fn stop(self) -> Result<(u64, u64)> {
        // What went wrong last shows only in what is sent after it.
        std::thread::sleep(Duration::from_millis(300));
        let reports = self.probes.into_iter().map(Probe::stop).collect::<Result<Vec<_>>>()?;
        Ok((reports.iter().map(ProbeReport::lost).sum(), reports.iter().map(|report| report.sent).sum()))
    }
}

fn rolling(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    let mut clos = Clos::start(lab, flavor)?;
    clos.traffic()?;
    let _echo = clos.hosts[1].2.echo()?;
    let start = Instant::now();
    let mut lost = Vec::new();
    let mut all = 0;
    for n in 0..clos.boxes.len() {
        let flows = Flows::start(&clos)?;
        let (_, spec, run) = &mut clos.boxes[n];
        flavor.planned_restart(run)?;
        ready(flavor, spec, run)?;
        clos.wait_up()?;
        let (gone, sent) = flows.stop()?;
        let name = clos.boxes[n].0.name().to_owned();
        // However a router restarts, the other paths are there: most packets must have arrived.
        ensure!(gone * 2 < sent, "{name} restarts: {gone} of {sent} packets lost");
        lost.push(format!("{name} {gone}"));
        all += sent;
    }
    for n in 0..clos.hosts.len() {
        let flows = Flows::start(&clos)?;
        let agent = &mut clos.hosts[n].1;
        agent.cli("stop --restart").run()?;
        agent.process().wait(PATIENCE)?;
        agent.start_again()?;
        clos.wait_up()?;
        let (gone, sent) = flows.stop()?;
        // A host has no other path than its own kernel, which must never lose a route.
        ensure!(gone == 0, "our agent on host {} restarts: {gone} of {sent} packets lost", n + 1);
        lost.push(format!("host{} {gone}", n + 1));
        all += sent;
    }
    clos.traffic()?;
    let took = start.elapsed().as_secs();
    remark(format!("lost of {all} packets, by the box that restarts: {}; {took} s", lost.join(", ")));
    Ok(())
}

fn two_reflectors(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    if !flavor.passes_on() {
        return unsupported("passes nothing on from one host to another");
    }
    let plan = Plan::new(flavor).internal().switches(2);
    let plan =
        if flavor.forwards() { plan.neighbor(|_, neighbor| neighbor.next_hop_self = true) } else { plan };
    let site = plan.start(lab)?;
    site.traffic()?;
    let prefix = site.hosts[1].prefix(Family::Four)?;
    eventually("a path by each reflector", PATIENCE, || {
        let rows = site.hosts[0].rib(&prefix)?;
        ensure!(rows.len() == 2, "{rows:?}");
        Ok(())
    })?;
    site.switches[0].power_off()?;
    site.containers_reach_each_other()
}

fn full_mesh(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    const ASN: u32 = 65100;
    let hub = lab.machine("hub")?;
    hub.bridge("br0", &[])?;
    let image = Image::find(flavor.image().unwrap_or_default())?;
    let address = |n: usize| [format!("198.18.1.{n}"), format!("2001:db8:1::{n}")];
    let cable = |machine: &Machine, n: usize| {
        let [four, six] = address(n);
        let port = machine.port("eth0").address(&format!("{four}/24")).address(&format!("{six}/64"));
        lab.link(port, hub.port(&format!("port{n}")).on_bridge("br0"))
    };
    // Members 1 and 2 are routers, 3 to 5 are hosts. One session a pair, both families over it.
    let mut routers = Vec::new();
    for n in 1..=2 {
        let machine = lab.forwarder(&format!("router{n}"))?;
        cable(&machine, n)?;
        let networks = vec![format!("10.99.0.{n}/32"), format!("fd00:99::{n}/128")];
        serve(&machine, &networks)?;
        if !flavor.forwards() {
            for host in 3..=5 {
                let [four, six] = address(host);
                machine.run(&format!("ip route add 10.32.{host}.0/24 via {four}"))?;
                machine.run(&format!("ip route add fd00:32:0:{host}::/64 via {six}"))?;
            }
        }
        let others = (1..=5).filter(|other| *other != n).map(|other| {
            let remote = Remote::Address(address(other)[0].clone());
            let mut neighbor = Neighbor::new(&format!("m{other}"), remote, &address(n)[0], ASN);
            // Two that only call would never meet: ExaBGP listens where it is told to be passive.
            neighbor.passive = (n, other) == (2, 1) && !flavor.passes_on();
            neighbor
        });
        let spec = RouterSpec {
            asn: ASN,
            router_id: address(n)[0].clone(),
            neighbors: others.collect(),
            addresses: address(n).to_vec(),
            networks,
            ..RouterSpec::default()
        };
        let run = ImageRun::start(&machine, &image, &flavor.config(&spec)?, flavor.env())?;
        ready(flavor, &spec, &run)?;
        routers.push(run);
    }
    let _capture = hub.capture("br0", "tcp port 179 or icmp or icmp6")?;
    let mut hosts = Vec::new();
    for n in 3..=5 {
        let machine = lab.machine(&format!("host{n}"))?;
        cable(&machine, n)?;
        let mut config = format!("[bgp]\nasn = {ASN}\nrouter_id = \"198.19.0.{n}\"\n");
        for other in (1..=5).filter(|other| *other != n) {
            config += &format!(
                "[[bgp.peer]]\naddress = \"{}\"\nasn = {ASN}\nconnect_retry = 1\n",
                address(other)[0]
            );
        }
        let agent = Agent::start(&machine, &(config + &pools(n)))?;
        let container = machine.container(&format!("c{n}"), &Network::slash32()?)?;
        hosts.push((agent, container));
    }
    for (agent, _) in &hosts {
        agent.wait_established(4)?;
    }
    for run in &routers {
        eventually("all sessions of the router are up", PATIENCE, || {
            let up = flavor.established(run)?;
            ensure!(up == 4, "{up} of 4");
            Ok(())
        })?;
    }
    let containers: Vec<&Container> = hosts.iter().map(|(_, container)| container).collect();
    interop_tests::reach_each_other(&containers)?;
    for container in containers {
        for n in 1..=2 {
            reach(container, &format!("10.99.0.{n}"))?;
            reach(container, &format!("fd00:99::{n}"))?;
        }
    }
    Ok(())
}

fn two_uplinks(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    if !flavor.forwards() {
        return unsupported("writes no kernel routes: with no addresses there is no segment to share");
    }
    let anycast = ["10.99.1.1", "fd00:99:1::1"];
    let plan = Plan::new(flavor).sessions(Sessions::Unnumbered).switches(2).hosts(1).anycast(&anycast);
    let site = plan.start(lab)?;
    let host = &site.hosts[0];
    host.wait_kernel_paths("10.99.1.1/32", 2)?;
    host.wait_kernel_paths("fd00:99:1::1/128", 2)?;
    site.traffic()?;
    site.switches[0].power_off()?;
    host.wait_kernel_paths("10.99.1.1/32", 1)?;
    host.wait_kernel_paths("fd00:99:1::1/128", 1)?;
    for address in anycast {
        reach(&host.container, address)?;
    }
    Ok(())
}
