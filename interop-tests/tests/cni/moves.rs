//! Addresses that move with their containers, under traffic, and addresses that are in several places on purpose.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use interop_tests::{
    Agent, Container, Lab, Machine, Network, PATIENCE, Process, Rack, Switch, check, eventually, labelled,
    steadily,
};
use serde_json::json;

use crate::fabric::{Fabric, Make};
use crate::kit::{asking_for, tidy};

/// Packets a second of the traffic.
const RATE: u32 = 500;

#[test]
fn moves_inside_a_rack_of_slash32() {
    inside_a_rack("move-rack", Switch::Slash32);
}

#[test]
fn moves_inside_a_rack_of_bird() {
    inside_a_rack("move-rack-bird", Switch::Bird);
}

#[test]
fn moves_across_racks_of_slash32() {
    across_racks("move-fabric", Make::Slash32);
}

#[test]
fn moves_across_racks_of_bird() {
    across_racks("move-fabric-bird", Make::Bird);
}

/// Two containers with one address, by mistake: the older one is told of, and has it again when the newer one goes.
#[test]
fn an_address_that_was_taken_by_mistake_comes_back() {
    Lab::run("taken-back", |lab| {
        let rack = Rack::new(lab, Switch::Bird)?;
        let (_switch, [mut host1, _host2]) = rack.start()?;
        let network = asking_for(&["10.32.1.99"])?;
        let own = rack.hosts[0].container("own", &network)?;
        let far = rack.hosts[1].container("far", &labelled("role", "far")?)?;
        for killed in [false, true] {
            let thief = rack.hosts[1].container("thief", &network)?;
            eventually("the older one is told of", PATIENCE, || {
                let problems = host1.status()?["problems"].to_string();
                check(problems.contains("10.32.1.99 is announced by another host"), problems)
            })?;
            let error = own.check().err().context("CHECK")?.to_string();
            ensure!(error.contains("error 105"), "{error}");
            if killed {
                host1.kill()?;
                host1.start_again()?;
                ensure!(own.check().is_err(), "it is announced by two");
                host1.wait_established(2)?;
            }
            thief.remove()?;
            eventually("it is back", PATIENCE, || {
                own.check()?;
                far.ping("10.32.1.99")
            })?;
            let status = host1.status()?["problems"].to_string();
            ensure!(!status.contains("10.32.1.99"), "{status}");
        }
        Ok(())
    });
}

/// An address of a host's block that lives elsewhere is nobody's there, however early after a start somebody asks.
#[test]
fn what_others_have_is_not_given_after_a_start() {
    Lab::run("not-given", |lab| {
        let rack = Rack::new(lab, Switch::Bird)?;
        let (_switch, [mut host1, _host2]) = rack.start()?;
        // The next one that host 1 would give.
        let probe = rack.hosts[0].container("probe", &Network::slash32()?)?;
        let last: u32 = probe.ipv4()?.rsplit('.').next().context("four numbers")?.parse()?;
        let next = format!("10.32.1.{}", last + 1);
        let far = rack.hosts[1].container("far", &asking_for(&[&next])?)?;
        let shown = || {
            Ok::<_, anyhow::Error>(host1.machine().read("/run/slash32/elsewhere.json").unwrap_or_default())
        };
        eventually("it is known there", PATIENCE, || check(shown()?.contains(&next), shown()?))?;
        host1.kill()?;
        host1.start_again()?;
        let early = rack.hosts[0].container("early", &Network::slash32()?)?;
        ensure!(early.ipv4()? != next, "{next} was given twice");
        host1.wait_established(2)?;
        probe.ping(&next)?;
        early.check()?;
        far.check()
    });
}

fn inside_a_rack(name: &str, switch: Switch) {
    Lab::run(name, |lab| {
        let rack = Rack::new(lab, switch)?;
        let (_switch, agents) = rack.start()?;
        let client = rack.hosts[1].container("client", &labelled("role", "client")?)?;
        let hosts: Vec<&Machine> = rack.hosts.iter().collect();
        let agents: Vec<&Agent> = agents.iter().collect();
        there_and_back(name, [hosts[0], hosts[1]], [agents[0], agents[1]], &client)
    });
}

fn across_racks(name: &str, make: Make) {
    Lab::run(name, |lab| {
        let fabric = Fabric::start(lab, make)?;
        // In the rack where the address was at first: nearer to the old container than to the new one.
        let client = fabric.hosts[2].container("client", &labelled("role", "client")?)?;
        let [one, two] = [0, 1].map(|at| (&fabric.hosts[at], &fabric.agents[at]));
        there_and_back(name, [one.0, two.0], [one.1, two.1], &client)
    });
}

/// A container that is ready before it has an address, as one that is restored elsewhere: its address, and the name of
/// whoever answers.
struct Service {
    container: Container,
    _echo: Process,
}

impl Service {
    fn start(host: &Machine, name: &str, network: &Network) -> Result<Self> {
        host.sandbox(name)?;
        let echo = host.command("lab-tool").args(["echo", "7"]).netns(name).spawn(&format!("echo-{name}"))?;
        eventually("the echo server listens", PATIENCE, || {
            echo.check()?;
            check(echo.log().contains("listening"), echo.log())
        })?;
        Ok(Self { container: host.attach(name, network)?, _echo: echo })
    }
}

/// An address goes from the first host to the second while the old container runs; back again at once, in the same
/// way; and to the second host once more after the old container has been deleted.
fn there_and_back(name: &str, hosts: [&Machine; 2], agents: [&Agent; 2], client: &Container) -> Result<()> {
    let first = Service::start(hosts[0], "first", &labelled("role", "service")?)?;
    let (four, six) = (first.container.ipv4()?, first.container.ipv6()?);
    let network = asking_for(&[&four, &six])?.label("role", "service");
    let traffic = || -> Result<_> { Ok([client.probe(&four, RATE)?, client.probe(&six, RATE)?]) };
    let report = |what: &str, probes: [interop_tests::Probe; 2]| -> Result<()> {
        for (family, probe) in ["IPv4", "IPv6"].iter().zip(probes) {
            let seen = probe.stop()?;
            println!(
                "{name}: {what}, {family}: {} of {} packets lost, longest gap {:.1} ms",
                seen.lost(),
                seen.sent,
                seen.longest_gap_ms
            );
        }
        Ok(())
    };

    let probes = traffic()?;
    let second = Service::start(hosts[1], "second", &network)?;
    gave_way(agents[0], &first.container, client)?;
    reaches(client, &second.container)?;
    report("started on another host while the old container runs", probes)?;
    // What is left of the old one takes nothing along when it goes.
    first.container.remove()?;
    steadily("the new container answers", Duration::from_secs(1), || {
        client.ping(&four).and(client.ping(&six))
    })?;
    tidy(agents[0], 0)?;

    let probes = traffic()?;
    let third = Service::start(hosts[0], "third", &network)?;
    gave_way(agents[1], &second.container, client)?;
    reaches(client, &third.container)?;
    report("back again moments later", probes)?;
    second.container.remove()?;
    steadily("the new container answers", Duration::from_secs(1), || {
        client.ping(&four).and(client.ping(&six))
    })?;

    let probes = traffic()?;
    third.container.remove()?;
    let fourth = Service::start(hosts[1], "fourth", &network)?;
    reaches(client, &fourth.container)?;
    report("started on another host after the old container has been deleted", probes)?;
    let other = hosts[0].container("other", &labelled("role", "other")?)?;
    ensure!(other.ipv4()? != four, "an address that is elsewhere was given again");
    other.remove()?;
    fourth.container.remove()?;
    for address in [&four, &six] {
        eventually("nobody answers any more", PATIENCE, || client.no_ping(address))?;
    }
    tidy(agents[0], 0)
}

/// The container has lost its addresses, its host says so, and it cannot use them any more.
fn gave_way(agent: &Agent, container: &Container, client: &Container) -> Result<()> {
    eventually("the old host gives way", PATIENCE, || {
        let endpoints = agent.endpoints()?;
        let old = endpoints.iter().find(|e| e.container_id == container.name());
        check(old.is_some_and(|e| e.ipv4.is_none() && e.ipv6.is_none()), format!("{endpoints:?}"))
    })?;
    let log = agent.process().log();
    ensure!(
        log.contains("has moved to another host"),
        "the agent does not say so: {}",
        agent.process().log_tail(20)
    );
    for address in [client.ipv4()?, client.ipv6()?] {
        container.no_ping(&address)?;
    }
    Ok(())
}

/// The addresses lead to this container and to no other.
fn reaches(client: &Container, service: &Container) -> Result<()> {
    for address in [service.ipv4()?, service.ipv6()?] {
        eventually(&format!("the client reaches {address}"), PATIENCE, || client.ping(&address))?;
    }
    for address in [client.ipv4()?, client.ipv6()?] {
        eventually(&format!("{} reaches the client", service.name()), PATIENCE, || service.ping(&address))?;
    }
    Ok(())
}

#[test]
fn anycast_addresses_stay_where_they_are() {
    Lab::run("anycast", |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let (_switch, agents) = rack.start()?;
        let (four, six) = ("10.32.200.1", "fd00:32:0:c8::1");
        let network = asking_for(&[four, six])?.plugin_key("anycast", json!(true));
        let one = rack.hosts[0].container("one", &network)?;
        let two = rack.hosts[1].container("two", &network)?;
        let paths = |expected: usize| {
            for prefix in ["10.32.200.1/32", "fd00:32:0:c8::1/128"] {
                eventually(&format!("the switch has {expected} paths to {prefix}"), PATIENCE, || {
                    let shown = rack.tor.run(&format!("slash32 bgp rib {prefix} --json"))?;
                    check(shown.matches("\"next_hop").count() >= expected, &shown)
                })?;
            }
            Ok::<_, anyhow::Error>(())
        };
        paths(2)?;
        steadily("both keep their addresses", Duration::from_secs(2), || {
            for agent in &agents {
                let endpoints = agent.endpoints()?;
                let kept = |e: &interop_tests::EndpointRow| {
                    e.ipv4.as_deref() == Some(four) && e.ipv6.as_deref() == Some(six)
                };
                ensure!(endpoints.len() == 1 && endpoints.iter().all(kept), "{endpoints:?}");
            }
            Ok(())
        })?;
        let near = [0, 1].map(|at| rack.hosts[at].container("near", &labelled("role", "near")?));
        let [near1, near2] = near;
        let (near1, near2) = (near1?, near2?);
        for (near, answers) in [(&near1, &one), (&near2, &two)] {
            let before = packets(answers)?;
            near.ping(four)?;
            near.ping(six)?;
            ensure!(packets(answers)? > before, "another one answered {}", near.name());
        }
        // The one that stays serves all.
        one.remove()?;
        for address in [four, six] {
            eventually("the other one answers", PATIENCE, || near1.ping(address))?;
            eventually("and the switch too", PATIENCE, || rack.tor.ping(address))?;
        }
        two.remove()?;
        near1.remove()?;
        near2.remove()?;
        for agent in &agents {
            tidy(agent, 0)?;
        }
        Ok(())
    });
}

fn packets(container: &Container) -> Result<u64> {
    let shown: serde_json::Value =
        container.command("ip").args(["-s", "-j", "link", "show", "eth0"]).json()?;
    shown[0]["stats64"]["rx"]["packets"].as_u64().context("a counter")
}

/// Two hosts with the same block: both are told, until one of them has another.
#[test]
fn two_hosts_with_the_same_block() {
    Lab::run("same-block", |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let _switch = rack.start_switch()?;
        let same = |text: String| {
            text.replace("10.32.2.0/24", "10.32.1.0/24").replace("fd00:32:0:2::", "fd00:32:0:1::")
        };
        let agents = rack.start_hosts_with(|_, text| same(text))?;
        for agent in &agents {
            agent.wait_established(2)?;
        }
        let told = |agent: &Agent, block: &str| -> Result<bool> {
            let problems = agent.status()?["problems"].to_string();
            let doctor = agent.cli("doctor").output()?.stdout;
            let line = format!("gives addresses of this host's block {block}");
            let metric = format!("slash32_ipam_shared_addresses{{block=\"{block}\"}} ");
            let page = agent.cli("metrics").run()?;
            let count = page.lines().find_map(|l| l.strip_prefix(&metric)).context(page.clone())?;
            let all = [problems.contains(&line), doctor.contains(&line), count != "0"];
            ensure!(all.iter().all(|one| *one == all[0]), "{all:?}: {problems} {doctor} {count}");
            Ok(all[0])
        };
        let blocks = ["10.32.1.0/24", "fd00:32:0:1::/64"];
        let everywhere = |wanted: &[bool]| {
            for (agent, wanted) in agents.iter().zip(wanted) {
                for block in blocks {
                    check(
                        told(agent, block)? == *wanted,
                        format!("{block}: {}", agent.status()?["problems"]),
                    )?;
                }
            }
            Ok(())
        };
        let first: Vec<_> =
            rack.hosts.iter().map(|h| h.container("a", &Network::slash32()?)).collect::<Result<_>>()?;
        ensure!(first[0].ipv4()? != first[1].ipv4()?, "the second has heard of what the first one gave");
        eventually("both are told", PATIENCE, || everywhere(&[true, true]))?;
        for container in first {
            container.remove()?;
        }
        eventually("it is over", PATIENCE, || everywhere(&[false, false]))
    });
}
