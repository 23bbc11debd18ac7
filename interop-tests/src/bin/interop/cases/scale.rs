//! Many routes.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use interop_tests::{Lab, Network, PATIENCE, TimedPlugin, eventually};

use super::{Case, case};
use crate::flavors::Flavor;
use crate::runner::remark;
use crate::site::{Plan, Sessions};
use crate::spec::{Family, Neighbor, Remote, unsupported};

pub(super) const CASES: &[Case] = &[case!(
    "full-table",
    "500,000 routes from the router while 1,000 local addresses come and go",
    full_table
)
.heavy()];

const ROUTES: u64 = 500_000;
/// Room for every address of the churn: one that was given back rests for a while.
const BLOCK: &str = "10.32.16.0/20";
/// Namespaces that are attached and detached in turn, and how often.
const SANDBOXES: usize = 100;
const ROUNDS: usize = 10;

fn full_table(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    if !flavor.passes_on() {
        return unsupported("passes nothing on from one host to another");
    }
    // Behind a cable of its own; on the hosts' segment where the router leaves next hops as they are.
    let forwards = flavor.forwards();
    let (feed, length, towards) =
        if forwards { ("198.18.100.1", 31, "198.18.100.0") } else { ("198.18.1.200", 24, "198.18.1.1") };
    let mut plan = Plan::new(flavor).hosts(1).sessions(Sessions::OnlyFour).router(move |_, spec| {
        let mut feed = Neighbor::new("feed", Remote::Address(feed.into()), towards, 65099);
        feed.six = false;
        feed.passive = true;
        spec.neighbors.push(feed);
    });
    plan = plan.group("hold_time = 90");
    let mut site = plan.start_unconnected(lab)?;
    site.hosts[0].reconfigure(|text| text.replace("10.32.1.0/24", BLOCK))?;
    let (host, switch) = (&site.hosts[0], &site.switches[0]);
    host.wait_up()?;
    if !flavor.forwards() {
        let via = site.neighbor_of_switch(1, 1, Family::Four);
        switch.machine.run(&format!("ip route replace {BLOCK} via {via}"))?;
    }
    let feeder = lab.machine("feeder")?;
    let port = switch.machine.port("feed");
    let port = if forwards { port.address(&format!("{towards}/{length}")) } else { port.on_bridge("br0") };
    lab.link(feeder.port("eth0").address(&format!("{feed}/{length}")), port)?;

    let network = Network::slash32()?;
    let names: Vec<String> = (0..SANDBOXES).map(|n| format!("churn{n}")).collect();
    for name in &names {
        host.machine.sandbox(name)?;
    }
    let name = site.neighbor(1, 1, Family::Four);
    let before = host.peer(&name)?["established_count"].clone();
    let start = Instant::now();
    let _feed = feeder.feed(feed, towards, 65099, ROUTES as u32)?;
    let mut plugin = TimedPlugin::new(&host.machine, &network)?;
    let (mut slowest, mut added) = (0.0_f64, Vec::new());
    for _ in 0..ROUNDS {
        for name in &names {
            let (took, result) = plugin.add(name)?;
            slowest = slowest.max(took.as_secs_f64());
            added.push(result);
        }
        for (name, result) in names.iter().zip(added.drain(..)) {
            plugin.delete(name, &result)?;
        }
    }
    eventually("all routes are here", PATIENCE * 6, || {
        let peer = host.peer(&name)?;
        ensure!(peer["prefixes_accepted"].as_u64() >= Some(ROUTES), "{peer}");
        Ok(())
    })?;
    let took = start.elapsed().as_secs_f64();
    // One more address, announced behind a table of this size, and packets.
    let late = host.machine.container("late", &network)?;
    switch.wait_paths(flavor, &format!("{}/32", late.ipv4()?), 1)?;
    crate::site::reach(&late, "10.99.0.1")?;
    eventually("the kernel has them all", PATIENCE * 2, || {
        let status: serde_json::Value = host.agent.cli("--json routes verify").json()?;
        let routes = host.machine.run("ip -4 route show proto 32")?;
        let count = routes.lines().count() as u64;
        ensure!(count >= ROUTES, "{count} in the kernel; {status}");
        Ok(())
    })?;
    let peer = host.peer(&name)?;
    ensure!(peer["established_count"] == before, "the session was lost on the way: {peer}");
    let gone = host.agent.endpoints()?.len();
    ensure!(gone == 2, "{gone} endpoints instead of 2");
    remark(format!("{took:.0} s, slowest ADD {:.0} ms", slowest * 1000.0));
    host.agent.process().check().context("the agent")
}
