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
        let end = |name: &str| {
            let row = rows.as_array().into_iter().flatten().find(|row| row["container_id"] == name);
            row.and_then(|row| row["id"].as_str()).context("the endpoint's id").map(str::to_owned)
        };
        // By turns, as whoever changes the same one again and again is not raced with.
        let mut turns = [(&one, &two, end("one")?), (&two, &one, end("two")?)].into_iter().cycle();
        for line in [
            "ip link set IF down",
            "ip link set IF mtu 1300",
            "ip link set IF address 02:00:00:00:00:77",
            // Not `flush`, which goes on until there is none: it is back before.
            "ip -6 addr del $(ip -6 -o addr show dev IF | awk '{print $4}') dev IF",
            "sysctl -qw net.ipv4.conf.IF.proxy_arp=0",
            "sysctl -qw net.ipv4.conf.IF.forwarding=0",
            "sysctl -qw net.ipv6.conf.IF.forwarding=0",
            "ip link set IF name other0 alias none group 0",
        ] {
            let (one, two, end) = turns.next().context("an endless circle")?;
            let before = repaired(&agent)?;
            host.command("sh")
                .args(["-c", &line.replace("IF", &end)])
                .run()
                .with_context(|| line.to_owned())?;
            // The gateway's address is put back by the thread of routes, and not counted here.
            if line.contains("addr del") {
                eventually(line, PATIENCE, || one.check())?;
            } else {
                eventually(line, PATIENCE, || check(repaired(&agent)? > before, "not put right"))?;
            }
            // A neighbour that the container has forgotten is asked for anew.
            for address in [two.ipv4()?, two.ipv6()?] {
                eventually(line, PATIENCE, || one.ping(&address))?;
            }
            tidy(&agent, 2)?;
            one.check()?;
        }
        drop(turns);
        one.remove()?;
        two.remove()?;
        tidy(&agent, 0)
    });
}

fn repaired(agent: &Agent) -> Result<u64> {
    agent.status()?["endpoints_repaired"].as_u64().context("no count")
}
