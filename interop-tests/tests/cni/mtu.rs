//! The MTU of containers: from the way out, from the agent's configuration, from the network's, and with packets of the
//! full size that may not be cut.

use anyhow::{Context, Result, ensure};
use interop_tests::{
    Agent, Container, Lab, Machine, Network, ONE_HOST, PATIENCE, Rack, Switch, check, eventually, reach,
};
use serde_json::{Value, json};

use crate::kit::{refused, tidy};

/// The kernel tells of all that matters here; nobody waits for the next look around.
fn never_looks(config: &str) -> String {
    config.replacen("[[ipam.pool]]", "[ipam]\naudit_seconds = 86400\n[[ipam.pool]]", 1)
}

/// The network whose results tell the MTU.
fn network() -> Result<Network> {
    Ok(Network::slash32()?.version("1.1.0"))
}

/// The MTU that the kernel says of an interface.
fn of_link(shown: &str) -> Result<u32> {
    let word = shown.split_whitespace().skip_while(|word| *word != "mtu").nth(1);
    word.context(shown.to_owned())?.parse().context("an MTU")
}

/// Both ends, the result and `endpoints` say the same.
fn has_mtu(agent: &Agent, container: &Container, mtu: u32) -> Result<()> {
    let inside = of_link(&container.run("ip -o link show dev eth0")?)?;
    let rows: Vec<Value> = agent.cli("endpoints --json").json()?;
    let row = rows.iter().find(|row| row["container_id"] == container.name()).context("no endpoint")?;
    let end = row["id"].as_str().context("an id")?;
    let outside = of_link(&agent.machine().run(&format!("ip -o link show dev {end}"))?)?;
    let interfaces = container.result()["interfaces"].as_array().context("interfaces")?;
    let told: Vec<u64> = interfaces.iter().filter_map(|interface| interface["mtu"].as_u64()).collect();
    let seen = format!("inside {inside}, outside {outside}, result {told:?}, endpoints {}", row["mtu"]);
    ensure!(inside == mtu && outside == mtu && row["mtu"] == mtu, "{mtu}: {seen}");
    ensure!(told == [u64::from(mtu); 2], "{mtu}: {seen}");
    container.check()
}

/// Containers come and go until one has this MTU: the agent hears of a changed way out a moment after the kernel has
/// changed it.
fn until_new_ones_have(agent: &Agent, name: &str, mtu: u32) -> Result<Container> {
    agent.machine().sandbox(name)?;
    eventually(&format!("an MTU of {mtu}"), PATIENCE, || {
        let container = agent.machine().attach(name, &network()?)?;
        let checked = has_mtu(agent, &container, mtu);
        if checked.is_err() {
            container.detach()?;
        }
        checked.map(|()| container)
    })
}

/// Pings with this many octets of a whole IP packet, which nobody may cut.
fn whole(from: &Container, to: &str, size: u32) -> Result<()> {
    let payload = size - if to.contains(':') { 48 } else { 28 };
    let line = format!("ping -n -c 1 -W 1 -M do -s {payload} {to}");
    from.run(&line).with_context(|| format!("{size} octets")).map(drop)
}

/// Both ends of the cable of a host.
fn cable(rack: &Rack, host: usize, mtu: u32) -> Result<()> {
    rack.hosts[host].run(&format!("ip link set eth0 mtu {mtu}"))?;
    rack.tor.run(&format!("ip link set port{} mtu {mtu}", host + 1)).map(drop)
}

#[test]
fn full_packets_between_hosts_whatever_the_uplinks_take() {
    Lab::run("mtu-hosts", |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        for host in 0..2 {
            cable(&rack, host, 1450)?;
        }
        let _switch = rack.start_switch()?;
        let [host1, host2] = rack.start_hosts_with(|_, text| never_looks(&text))?;
        let before = rack.hosts[0].container("before", &network()?)?;
        has_mtu(&host1, &before, 1450)?;
        for mtu in [1450, 9000] {
            for host in 0..2 {
                cable(&rack, host, mtu)?;
            }
            let one = until_new_ones_have(&host1, "one", mtu)?;
            let two = until_new_ones_have(&host2, "two", mtu)?;
            reach(&one, &two)?;
            for (from, to) in [(&one, &two), (&two, &one)] {
                for address in [to.ipv4()?, to.ipv6()?] {
                    whole(from, &address, mtu)?;
                    ensure!(whole(from, &address, mtu + 1).is_err(), "{address}: more than {mtu} passes");
                }
            }
            one.remove()?;
            two.remove()?;
        }
        // One that lives keeps what it has.
        has_mtu(&host1, &before, 1450)?;

        // Where the other host's uplink takes less, the switch says so, and it comes to the container.
        cable(&rack, 1, 1400)?;
        let far = until_new_ones_have(&host2, "far", 1400)?;
        let near = until_new_ones_have(&host1, "near", 9000)?;
        reach(&near, &far)?;
        for address in [far.ipv4()?, far.ipv6()?] {
            whole(&near, &address, 1400)?;
            eventually("the container is told", PATIENCE, || {
                ensure!(whole(&near, &address, 9000).is_err(), "{address}: it passes");
                let way = near.run(&format!("ip route get {address}"))?;
                check(way.contains("mtu 1400"), way)
            })?;
        }
        for container in [near, before] {
            container.remove()?;
        }
        tidy(&host1, 0)?;
        far.remove()?;
        tidy(&host2, 0)
    });
}

/// A way out of its own for a family.
fn way_out(host: &Machine, name: &str, mtu: u32, address: &str, gateway: &str) -> Result<()> {
    host.run(&format!("ip link add {name} type veth peer name peer-{name}"))?;
    host.run(&format!("ip link set {name} mtu {mtu} up"))?;
    host.run(&format!("ip link set peer-{name} mtu 65535 up"))?;
    host.run(&format!("ip address add {address} dev {name} nodad"))?;
    host.run(&format!("ip route add default via {gateway} dev {name}")).map(drop)
}

#[test]
fn what_says_the_mtu() {
    Lab::run("mtu-said", |lab| {
        let host = lab.machine("host")?;
        let agent = Agent::start(&host, &never_looks(ONE_HOST))?;
        // Nothing but a loopback device.
        until_new_ones_have(&agent, "alone", 1500)?.remove()?;
        // Of all that are up, with nothing that leads out.
        host.run("ip link add small type veth peer name large")?;
        host.run("ip link set small mtu 1300 up")?;
        host.run("ip link set large mtu 9000 up")?;
        until_new_ones_have(&agent, "links", 1300)?.remove()?;
        // A default route decides, and of two the one with less.
        way_out(&host, "four", 2000, "198.51.100.1/24", "198.51.100.2")?;
        until_new_ones_have(&agent, "four", 2000)?.remove()?;
        way_out(&host, "six", 1600, "2001:db8:1::1/64", "2001:db8:1::2")?;
        until_new_ones_have(&agent, "six", 1600)?.remove()?;
        host.run("ip link set six mtu 9000")?;
        until_new_ones_have(&agent, "larger", 2000)?.remove()?;
        // Less than IPv6 needs is given to nobody: the way out is one for IPv4 then, and packets are cut for it.
        host.run("ip link set four mtu 1000")?;
        let least = until_new_ones_have(&agent, "least", 1280)?;
        let neighbour = host.container("neighbour", &network()?)?;
        for address in [neighbour.ipv4()?, neighbour.ipv6()?] {
            eventually("a neighbour", PATIENCE, || whole(&least, &address, 1280))?;
        }
        least.remove()?;
        neighbour.remove()?;

        // What the agent's configuration says outranks the way out, and what the network's says outranks both.
        agent.reconfigure(&format!("{}\n[network]\nmtu = 1350\n", never_looks(ONE_HOST)))?;
        let configured = host.container("configured", &network()?)?;
        has_mtu(&agent, &configured, 1350)?;
        for mtu in [1280, 65535] {
            let own = host.container("own", &network()?.plugin_key("mtu", json!(mtu)))?;
            has_mtu(&agent, &own, mtu)?;
            own.remove()?;
        }
        let auto = host.container("auto", &network()?.plugin_key("mtu", json!(0)))?;
        has_mtu(&agent, &auto, 1350)?;
        host.sandbox("refused")?;
        for wrong in [json!(1279), json!(65536), json!(-1), json!("1500"), json!(1500.5)] {
            let error = refused(host.attach("refused", &network()?.plugin_key("mtu", wrong.clone())))?;
            ensure!(error.code == 7 && error.msg.starts_with("mtu"), "{wrong}: {error}");
        }
        tidy(&agent, 2)?;
        // Those who live keep theirs across a reload and a restart.
        agent.reconfigure(&never_looks(ONE_HOST))?;
        let mut agent = agent;
        agent.kill()?;
        agent.start_again()?;
        for container in [configured, auto] {
            has_mtu(&agent, &container, 1350)?;
            container.remove()?;
        }
        tidy(&agent, 0)
    });
}
