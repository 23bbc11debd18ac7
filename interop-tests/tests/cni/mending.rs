//! Host ends that somebody changes behind the agent's back.

use anyhow::{Context, Result};
use interop_tests::{Agent, Lab, ONE_HOST, PATIENCE, check, eventually, labelled};

use crate::kit::tidy;

/// The kernel tells of these, so the audit is not waited for.
#[test]
fn a_changed_host_end_is_put_right() {
    Lab::run("mending", |lab| {
        let host = lab.machine("host")?;
        host.run("ip addr add 192.0.2.10/32 dev lo")?;
        host.run("ip addr add 2001:db8::10/128 dev lo")?;
        let agent = Agent::start(
            &host,
            &ONE_HOST.replacen("[[ipam.pool]]", "[ipam]\naudit_seconds = 3600\n[[ipam.pool]]", 1),
        )?;
        let (one, two) = (
            host.container("one", &labelled("role", "web")?)?,
            host.container("two", &labelled("role", "db")?)?,
        );
        let rows: serde_json::Value = agent.cli("endpoints --json").json()?;
        let end = rows.as_array().into_iter().flatten().find(|row| row["container_id"] == "one");
        let end = end.and_then(|row| row["id"].as_str()).context("the endpoint's id")?.to_owned();
        for line in [
            "ip link set IF down",
            "ip link set IF mtu 1300",
            "ip link set IF address 02:00:00:00:00:77",
            "ip -6 addr flush dev IF",
            "sysctl -qw net.ipv4.conf.IF.proxy_arp=0",
            "sysctl -qw net.ipv4.conf.IF.forwarding=0",
            "sysctl -qw net.ipv6.conf.IF.forwarding=0",
            "ip link set IF name other0 alias none group 0",
        ] {
            let before = repaired(&agent)?;
            host.run(&line.replace("IF", &end)).with_context(|| line.to_owned())?;
            eventually(line, PATIENCE, || check(repaired(&agent)? > before, "not put right"))?;
            // A neighbour that the container has forgotten is asked for anew.
            for address in [two.ipv4()?, two.ipv6()?] {
                eventually(line, PATIENCE, || one.ping(&address))?;
            }
            tidy(&agent, 2)?;
            one.check()?;
        }
        one.remove()?;
        two.remove()?;
        tidy(&agent, 0)
    });
}

fn repaired(agent: &Agent) -> Result<u64> {
    agent.status()?["endpoints_repaired"].as_u64().context("no count")
}
