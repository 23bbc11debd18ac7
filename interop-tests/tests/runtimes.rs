//! Real containers by real runtimes.

use anyhow::{Context, Result, ensure};
use interop_tests::{
    Agent, Containerd, Cri, EndpointRow, Lab, Machine, Network, PATIENCE, PodSpec, Podman, Rack, Switch,
    check, eventually, labelled, reach_each_other,
};
use serde_json::json;

/// The reference plugin, to see that the lab's containerd works whatever slash32 does.
const PTP: &str = r#"{"cniVersion":"1.0.0","name":"ptp","plugins":[{"type":"ptp","ipam":{"type":"host-local",
    "subnet":"10.9.0.0/24","routes":[{"dst":"0.0.0.0/0"}]}}]}"#;

#[test]
fn containerd_with_the_reference_plugin() {
    Lab::run("ctr-ptp", |lab| {
        let host = lab.machine("host")?;
        let containerd = Containerd::start(&host, &Network::parse(PTP)?)?;
        let one = containerd.run("one")?;
        let two = containerd.run("two")?;
        let address = two.address(false)?;
        ensure!(address.starts_with("10.9.0."), "{address}");
        one.ping(&address)?;
        host.ping(&address)?;
        two.remove()?;
        ensure!(host.ping(&address).is_err(), "{address} still answers");
        one.remove()
    });
}

#[test]
fn podman_by_its_cni_backend() {
    Lab::run("podman", |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let (_switch, [host1, _host2]) = rack.start()?;
        let podman = Podman::set_up(&rack.hosts[0], &Network::slash32()?)?;
        let other = rack.hosts[1].container("other", &labelled("role", "db")?)?;

        let web = podman.run("web", &["-p", "8080:7"])?;
        let (four, six, mac) = web.network()?;
        let endpoint = the_endpoint(&host1)?;
        ensure!(
            endpoint.ipv4.as_deref() == Some(&four) && endpoint.ipv6.as_deref() == Some(&six),
            "{endpoint:?}"
        );
        ensure!(endpoint.labels.get("pod").is_some_and(|pod| pod == "web"), "{endpoint:?}");
        let seen = web.command("ip").args(["-o", "link", "show", "dev", "eth0"]).run()?;
        ensure!(seen.contains(&mac), "podman says {mac}, the container has {seen}");
        for address in [other.ipv4()?, other.ipv6()?] {
            eventually(&format!("web reaches {address}"), PATIENCE, || web.ping(&address))?;
        }
        for address in [&four, &six] {
            eventually(&format!("other reaches {address}"), PATIENCE, || other.ping(address))?;
        }
        web.start("lab-tool echo 7")?;
        mapped(&rack.tor, "192.0.2.1", 8080)?;
        mapped(&rack.tor, "2001:db8:0:1::2", 8080)?;
        mapped(&rack.hosts[0], "127.0.0.1", 8080)?;
        web.remove()?;
        ensure!(host1.endpoints()?.is_empty(), "{:?}", host1.endpoints()?);

        let fixed = podman.run("fixed", &["--ip", "10.32.1.77", "--mac-address", "02:00:00:00:00:77"])?;
        let (four, _, mac) = fixed.network()?;
        ensure!(four == "10.32.1.77" && mac == "02:00:00:00:00:77", "{four} {mac}");
        eventually("other reaches the fixed address", PATIENCE, || other.ping(&four))?;
        fixed.remove()?;
        clean(&host1)
    });
}

#[test]
fn pods_by_the_container_runtime_interface() {
    Lab::run("cri", |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let (_switch, [host1, host2]) = rack.start()?;
        let cri = Cri::start(&rack.hosts[0], &Network::slash32()?)?;
        let web = rack.hosts[1].container("web", &labelled("role", "web")?)?;
        let job = rack.hosts[1].container("job", &labelled("role", "job")?)?;

        let spec = PodSpec {
            namespace: "shop".to_owned(),
            annotations: vec![("slash32.io/labels".to_owned(), r#"{"role":"db"}"#.to_owned())],
            ports: vec![(8080, 7)],
        };
        let db = cri.pod("db-0", &spec)?;
        let endpoint = the_endpoint(&host1)?;
        ensure!(endpoint.container_id == db.id(), "{endpoint:?}");
        for (key, value) in [("role", "db"), ("namespace", "shop"), ("pod", "db-0")] {
            ensure!(endpoint.labels.get(key).is_some_and(|v| v == value), "{key}: {endpoint:?}");
        }
        let addresses = db.addresses()?;
        let four = endpoint.ipv4.clone().context("no IPv4 address")?;
        let six = endpoint.ipv6.clone().context("no IPv6 address")?;
        ensure!(addresses == [four.clone(), six.clone()], "{addresses:?} {endpoint:?}");
        for (from, address) in [(&web, &four), (&web, &six), (&job, &four)] {
            eventually(&format!("{} reaches {address}", from.name()), PATIENCE, || from.ping(address))?;
        }
        for address in [web.ipv4()?, web.ipv6()?] {
            eventually(&format!("the pod reaches {address}"), PATIENCE, || db.ping(&address))?;
        }
        // The pod's port, from another machine.
        let rows: Vec<serde_json::Value> = host1.cli("endpoints --json").json()?;
        let netns =
            rows[0]["netns"].as_str().and_then(|path| path.rsplit('/').next()).context("a namespace")?;
        let echo = rack.hosts[0].command("lab-tool").args(["echo", "7"]).netns(netns).spawn("echo-db")?;
        for address in ["192.0.2.1", "2001:db8:0:1::2"] {
            mapped(&rack.tor, address, 8080)?;
            eventually(&format!("UDP to {address}"), PATIENCE, || {
                echo.check()?;
                rack.tor.command("lab-tool").args(["probe", address, "8080", "100"]).stdin("").run()
            })?;
        }

        // The labels of the annotation are what policies select, here and over BGP.
        host1.write_policy(
            "db.toml",
            "[[policy]]\nname = 'db'\nselect = 'role == \"db\" && namespace == \"shop\"'\n\
             ingress = [ { action = 'allow', from = { selector = 'role == \"web\"' } } ]\n",
        )?;
        eventually("job is refused", PATIENCE, || job.no_ping(&four))?;
        eventually("web is not", PATIENCE, || web.ping(&four))?;
        host2.write_policy(
            "web.toml",
            "[[policy]]\nname = 'web'\nselect = 'role == \"web\"'\n\
             egress = [ { action = 'deny', to = { selector = 'namespace == \"shop\"' } }, { action = 'allow' } ]\n",
        )?;
        eventually("web is kept from the shop", PATIENCE, || web.no_ping(&four))?;

        echo.kill()?;
        db.remove()?;
        let closed = || rack.tor.command("lab-tool").args(["connect", "192.0.2.1", "8080"]).run();
        ensure!(closed().is_err(), "the port of a pod that is gone answers");
        clean(&host1)
    });
}

/// The only endpoint of a host.
fn the_endpoint(agent: &Agent) -> Result<EndpointRow> {
    let mut endpoints = agent.endpoints()?;
    ensure!(endpoints.len() == 1, "{endpoints:?}");
    endpoints.pop().context("one endpoint")
}

/// A mapped port answers.
fn mapped(from: &Machine, address: &str, port: u16) -> Result<()> {
    eventually(&format!("{} reaches {address} port {port}", from.name()), PATIENCE, || {
        from.command("lab-tool").args(["connect", address, &port.to_string()]).run()
    })
    .map(drop)
}

/// Nothing of any container is left: no endpoint, link or lease.
fn clean(agent: &Agent) -> Result<()> {
    ensure!(agent.endpoints()?.is_empty(), "{:?}", agent.endpoints()?);
    let machine = agent.machine();
    eventually("the links are gone", PATIENCE, || {
        let links = machine.run("ip -o link show type veth")?;
        check(!links.contains(": s32"), links)
    })?;
    machine.run("slash32 ipam check").map(drop)
}

/// Each reference plugin gets our result as `prevResult` and works on the interfaces it names.
#[test]
fn reference_plugins_behind_ours() {
    Lab::run("chained", |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let (_switch, [host1, _host2]) = rack.start()?;
        let host = &rack.hosts[0];
        let network = Network::parse(
            r#"{"cniVersion":"1.0.0","name":"chained","plugins":[{"type":"slash32"},
                {"type":"portmap","capabilities":{"portMappings":true}},
                {"type":"bandwidth","capabilities":{"bandwidth":true}},
                {"type":"tuning","sysctl":{"net.ipv4.conf.eth0.arp_announce":"2"},"mtu":1400},
                {"type":"firewall"}]}"#,
        )?
        .capability("portMappings", json!([{"hostPort": 8080, "containerPort": 7, "protocol": "tcp"}]))
        .capability(
            "bandwidth",
            json!({"ingressRate": 8_000_000, "ingressBurst": 800_000,
            "egressRate": 8_000_000, "egressBurst": 800_000}),
        );
        let web = host.container("web", &network)?;
        let other = rack.hosts[1].container("other", &Network::slash32()?)?;
        reach_each_other(&[&web, &other])?;
        let _echo = web.echo()?;
        mapped(&rack.tor, "192.0.2.1", 8080)?;
        let announce = web.run("cat /proc/sys/net/ipv4/conf/eth0/arp_announce")?;
        ensure!(announce.trim() == "2", "{announce}");
        let link = web.run("ip -o link show dev eth0")?;
        ensure!(link.contains("mtu 1400"), "{link}");
        let queues = host.run("tc qdisc show")?;
        ensure!(queues.lines().filter(|line| line.contains("tbf")).count() == 2, "{queues}");
        let rules = host.run("iptables -S CNI-FORWARD")?;
        ensure!(rules.contains(&format!("{}/32", web.ipv4()?)), "{rules}");
        // portmap 1.1 looks for its IPv4 rules among those of IPv6 when a container has both: its CHECK always fails.
        for plugin in [0, 2, 3, 4] {
            web.call("CHECK", plugin, Some(web.result()))?;
        }

        let address = web.ipv4()?;
        web.remove()?;
        // The interface, and its queues with it, go a moment later.
        eventually("the queues are gone", PATIENCE, || {
            let queues = host.run("tc qdisc show")?;
            check(!queues.contains("tbf"), queues)
        })?;
        for table in ["filter", "nat"] {
            let rules = host.run(&format!("iptables -t {table} -S"))?;
            ensure!(!rules.contains(&address), "{rules}");
        }
        clean(&host1)
    });
}
