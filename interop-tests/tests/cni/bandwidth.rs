//! Rate limits, by the octets that arrive.

use anyhow::{Context, Result, ensure};
use interop_tests::{Agent, Container, Lab, Network, ONE_HOST, PATIENCE, Process, check, eventually, reach};
use serde_json::{Value, json};

use crate::kit::tidy;

/// Prints how many octets of a connection arrive within a second, from the first one on.
const SINK: &str = "
import socket, time
s = socket.create_server(('::', 9), family=socket.AF_INET6, dualstack_ipv6=True)
print('ready', flush=True)
while True:
    c, _ = s.accept()
    c.settimeout(0.1)
    total, end = 0, None
    while end is None or time.monotonic() < end:
        try:
            got = len(c.recv(1 << 20))
        except TimeoutError:
            continue
        total, end = total + got, end or time.monotonic() + 1
        if not got:
            break
    c.close()
    print('octets', total, flush=True)
";

/// Sends until nobody wants more.
const SOURCE: &str = "
import socket, sys
c = socket.create_connection((sys.argv[1], 9))
try:
    while True:
        c.sendall(bytes(1 << 16))
except OSError:
    pass
";

/// The network with limits in bits a second, and bursts in bits.
fn limited(limits: Value) -> Result<Network> {
    Ok(Network::slash32()?.capability("bandwidth", limits))
}

/// A container whose port 9 counts what arrives.
fn counting(container: &Container) -> Result<(&Container, Process)> {
    let name = format!("sink-{}", container.name());
    let sink = container.command("python3").args(["-c", SINK]).spawn(&name)?;
    eventually("the sink listens", PATIENCE, || {
        sink.check()?;
        check(sink.log().contains("ready"), sink.log())
    })?;
    Ok((container, sink))
}

/// The octets of a stream within a second.
fn stream(from: &Container, (to, sink): &(&Container, Process), six: bool) -> Result<u64> {
    let counts = || -> Vec<u64> {
        sink.log().lines().filter_map(|line| line.strip_prefix("octets ")?.parse().ok()).collect()
    };
    let before = counts().len();
    let address = if six { to.ipv6()? } else { to.ipv4()? };
    from.command("python3").args(["-c", SOURCE, &address]).run()?;
    eventually("the count", PATIENCE, || counts().get(before).copied().context("none"))
}

/// The name of a container's host end.
fn host_end(agent: &Agent, container: &Container) -> Result<String> {
    let rows: Vec<Value> = agent.cli("endpoints --json").json()?;
    let row = rows.iter().find(|row| row["container_id"] == container.name()).context("no such endpoint")?;
    Ok(row["id"].as_str().context("an id")?.to_owned())
}

#[test]
fn streams_are_held_to_their_rates() {
    Lab::run("bandwidth", |lab| {
        let host = lab.machine("host")?;
        let agent = Agent::start(&host, ONE_HOST)?;
        let free = host.container("free", &Network::slash32()?)?;
        let also_free = host.container("also-free", &Network::slash32()?)?;
        // 1 MB/s towards it, 4 MB/s from it.
        let rates = json!({"ingressRate": 8_000_000, "ingressBurst": 400_000,
            "egressRate": 32_000_000, "egressBurst": 400_000});
        let slow = host.container("slow", &limited(rates)?)?;
        reach(&free, &slow)?;
        let (at_free, at_also, at_slow) = (counting(&free)?, counting(&also_free)?, counting(&slow)?);
        for six in [false, true] {
            let open = stream(&free, &at_also, six)?;
            let towards = stream(&free, &at_slow, six)?;
            let from = stream(&slow, &at_free, six)?;
            let seen = format!("unlimited {open}, towards it {towards}, from it {from}");
            // Broad, as others use this computer.
            ensure!((200_000..2_000_000).contains(&towards), "{seen}");
            ensure!((800_000..8_000_000).contains(&from) && from > towards * 3 / 2, "{seen}");
            ensure!(open > towards * 10, "{seen}");
        }
        slow.check()?;

        // A burst goes at once: far more than the rate carries, and no more than has been said.
        let burst = json!({"ingressRate": 1_000_000, "ingressBurst": 16_000_000});
        for (name, six) in [("burst4", false), ("burst6", true)] {
            let bursty = host.container(name, &limited(burst.clone())?)?;
            let octets = stream(&free, &counting(&bursty)?, six)?;
            ensure!((600_000..4_000_000).contains(&octets), "{name}: {octets} octets");
            bursty.remove()?;
        }

        // Whoever takes one away is found, and the host's is put back.
        let end = host_end(&agent, &slow)?;
        host.run(&format!("tc qdisc del dev {end} root"))?;
        let found = slow.check().err().context("CHECK without the host's limit")?.to_string();
        ensure!(found.contains("error 105") && found.contains("rate"), "{found}");
        host.run("slash32 ipam check --fix")?;
        slow.check()?;
        let towards = stream(&free, &at_slow, false)?;
        ensure!(towards < 2_000_000, "{towards} octets towards it");
        slow.run("tc qdisc del dev eth0 root")?;
        let found = slow.check().err().context("CHECK without the container's limit")?.to_string();
        ensure!(found.contains("error 105") && found.contains("rate"), "{found}");
        drop((at_free, at_also, at_slow));
        for container in [free, also_free, slow] {
            container.remove()?;
        }
        tidy(&agent, 0)
    });
}
