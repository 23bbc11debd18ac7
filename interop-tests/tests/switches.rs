//! Other people's routers as the switch, with the configurations of `config/examples/`.

use anyhow::{Context, Result, ensure};
use interop_tests::{
    Agent, Containerd, Lab, Machine, Network, PATIENCE, Rack, Router, Switch, check, eventually, labelled,
    reach, reach_each_other, unreachable,
};

/// Sessions up, /32 and /128 through the switch and back out, packets across, withdrawal, and identities: a policy on one
/// host selects containers of the other by label.
fn rack_behind(switch: Switch) {
    Lab::run(&format!("switch-{switch:?}"), |lab| {
        let rack = Rack::new(lab, switch)?;
        let (running, [host1, _host2]) = rack.start()?;
        let router = running.router().context("somebody else's router")?;
        router.wait_established(4)?;
        let db = rack.hosts[0].container("db", &labelled("role", "db")?)?;
        let web = rack.hosts[1].container("web", &labelled("role", "web")?)?;
        let job = rack.hosts[1].container("job", &labelled("role", "job")?)?;
        let prefixes = [format!("{}/32", db.ipv4()?), format!("{}/128", db.ipv6()?)];
        for prefix in &prefixes {
            router.wait_prefix(prefix)?;
        }
        reach_each_other(&[&db, &web, &job])?;

        host1.write_policy(
            "db.toml",
            "[[policy]]\nname = 'db'\nselect = 'role == \"db\"'\n\
             ingress = [ { action = 'allow', from = { selector = 'role == \"web\"' } } ]\n",
        )?;
        unreachable(&job, &db)?;
        reach(&web, &db)?;

        db.remove()?;
        for prefix in &prefixes {
            router.wait_no_prefix(prefix)?;
        }
        Ok(())
    });
}

#[test]
fn bird_is_the_switch() {
    rack_behind(Switch::Bird);
}

#[test]
fn frr_is_the_switch() {
    rack_behind(Switch::Frr);
}

#[test]
fn gobgp_is_the_route_server() {
    rack_behind(Switch::Gobgp);
}

#[test]
fn real_containers_behind_bird() {
    Lab::run("ctr-bird", |lab| {
        let rack = Rack::new(lab, Switch::Bird)?;
        let (switch, [host1, host2]) = rack.start()?;
        let router = switch.router().context("BIRD is the switch")?;
        let network = Network::slash32()?;
        let left = Containerd::start(&rack.hosts[0], &network)?;
        let right = Containerd::start(&rack.hosts[1], &network)?;
        let web = left.run("web")?;
        let db = right.run("db")?;
        for (container, agent, block) in [(&web, &host1, 1), (&db, &host2, 2)] {
            let endpoints = agent.endpoints()?;
            ensure!(endpoints.len() == 1, "{endpoints:?}");
            let four = container.address(false)?;
            ensure!(four.starts_with(&format!("10.32.{block}.")), "{four}");
            ensure!(endpoints[0].ipv4.as_deref() == Some(&four), "{endpoints:?}");
            router.wait_prefix(&format!("{four}/32"))?;
            router.wait_prefix(&format!("{}/128", container.address(true)?))?;
        }
        for (from, to) in [(&web, &db), (&db, &web)] {
            for six in [false, true] {
                let address = to.address(six)?;
                eventually(&format!("{} reaches {}", from.id(), to.id()), PATIENCE, || from.ping(&address))?;
            }
        }
        let prefix = format!("{}/32", web.address(false)?);
        web.remove()?;
        router.wait_no_prefix(&prefix)?;
        ensure!(host1.endpoints()?.is_empty(), "{:?}", host1.endpoints()?);
        db.remove()
    });
}

#[test]
fn gobgp_and_the_agent_learn_from_each_other() {
    Lab::run("gobgp-learns", |lab| {
        let host = lab.machine("host")?;
        let gobgp = lab.machine("gobgp")?;
        lab.link(
            host.port("eth0").address("192.0.2.1/31").address("2001:db8::1/64"),
            gobgp.port("eth0").address("192.0.2.0/31").address("2001:db8::2/64"),
        )?;
        let router = start_gobgp(&gobgp)?;
        let agent = Agent::start(
            &host,
            "[bgp]\nasn = 65001\n\
             [[bgp.peer]]\naddress = '192.0.2.0'\nasn = 65000\n\
             [[ipam.pool]]\ncidr = '10.32.0.0/16'\nblock = '10.32.1.0/24'\n\
             [[ipam.pool]]\ncidr = 'fd00:32::/48'\nblock = 'fd00:32:0:1::/64'\n",
        )?;
        agent.wait_established(1)?;

        let web = host.container("web", &labelled("role", "web")?)?;
        router.wait_prefix(&format!("{}/32", web.ipv4()?))?;
        router.wait_prefix(&format!("{}/128", web.ipv6()?))?;

        gobgp.run("gobgp global rib add 198.51.100.0/24 nexthop 192.0.2.0")?;
        gobgp.run("gobgp global rib add -a ipv6 2001:db8:f::/48 nexthop 2001:db8::2")?;
        for (family, prefix) in [("-4", "198.51.100.0/24"), ("-6", "2001:db8:f::/48")] {
            eventually(&format!("{prefix} is in the kernel"), PATIENCE, || {
                let routes = host.run(&format!("ip {family} route show proto 32"))?;
                check(routes.contains(prefix), routes)
            })?;
        }
        gobgp.run("gobgp global rib del 198.51.100.0/24")?;
        eventually("the withdrawn route is gone", PATIENCE, || {
            let routes = host.run("ip route show proto 32")?;
            check(!routes.contains("198.51.100.0/24"), routes)
        })?;
        let prefix = format!("{}/32", web.ipv4()?);
        web.remove()?;
        router.wait_no_prefix(&prefix)
    });
}

/// Both families over one IPv4 session.
fn start_gobgp(machine: &Machine) -> Result<Router> {
    Router::gobgp(
        machine,
        "[global.config]\nas = 65000\nrouter-id = '192.0.2.0'\n\
         [[neighbors]]\n[neighbors.config]\nneighbor-address = '192.0.2.1'\npeer-as = 65001\n\
         [neighbors.transport.config]\npassive-mode = true\n\
         [[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = 'ipv4-unicast'\n\
         [[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = 'ipv6-unicast'\n",
    )
}
