//! The rest of what a network's configuration and a runtime may say.

use anyhow::{Context, ensure};
use interop_tests::{
    Lab, Network, PATIENCE, Rack, Switch, check, eventually, example, labelled, reach_each_other,
};
use serde_json::json;

use crate::kit::tidy;

#[test]
fn everything_a_runtime_may_ask_for() {
    Lab::run("asked-for", |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let (_switch, [host1, _host2]) = rack.start()?;
        let host = &rack.hosts[0];
        let network = Network::slash32()?
            .capability("ips", json!(["10.32.1.50/24", "fd00:32:0:1::50"]))
            .capability("mac", json!("02:11:22:33:44:55"))
            .capability(
                "dns",
                json!({"servers": ["192.0.2.53"], "searches": ["example.net"], "options": ["ndots:2"]}),
            )
            .capability("aliases", json!(["shop", "store"]))
            .capability(
                "bandwidth",
                json!({"ingressRate": 8_000_000, "ingressBurst": 800_000,
                "egressRate": 4_000_000, "egressBurst": 400_000}),
            )
            .capability(
                "io.kubernetes.cri.pod-annotations",
                json!({"slash32.io/labels": r#"{"tier":"front"}"#, "other.io/what": "ever"}),
            )
            .arg("IgnoreUnknown", "1")
            .arg("K8S_POD_NAMESPACE", "shop")
            .arg("K8S_POD_NAME", "web-0");
        let web = host.container("web", &network)?;
        ensure!(web.ipv4()? == "10.32.1.50" && web.ipv6()? == "fd00:32:0:1::50", "{}", web.result());
        let dns = json!({"nameservers": ["192.0.2.53"], "search": ["example.net"], "options": ["ndots:2"]});
        ensure!(web.result()["dns"] == dns, "{}", web.result());
        let link = web.run("ip -o link show dev eth0")?;
        ensure!(link.contains("02:11:22:33:44:55"), "{link}");
        let queues = (host.run("tc qdisc show")?, web.run("tc qdisc show dev eth0")?);
        ensure!(queues.0.contains("tbf") && queues.1.contains("tbf"), "{queues:?}");
        let endpoints = host1.endpoints()?;
        let labels = &endpoints.first().context("an endpoint")?.labels;
        for (key, value) in [("tier", "front"), ("namespace", "shop"), ("pod", "web-0")] {
            ensure!(labels.get(key).is_some_and(|v| v == value), "{key}: {labels:?}");
        }
        web.check()?;
        // CNI_ARGS outrank the capability.
        web.remove()?;
        let web =
            host.container("web", &network.clone().arg("IP", "10.32.1.51").arg("MAC", "02:11:22:33:44:66"))?;
        ensure!(web.ipv4()? == "10.32.1.51", "{}", web.result());
        ensure!(web.run("ip -o link show dev eth0")?.contains("02:11:22:33:44:66"), "the MAC address");
        web.remove()?;
        tidy(&host1, 0)
    });
}

#[test]
fn everything_a_network_may_say() {
    Lab::run("configured", |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let switch = rack.start_switch()?;
        let rules = "[[label_rule]]\nmatch_name = \"db-*\"\nlabels = { role = \"db\" }\n\n\
                     [[label_rule]]\nmatch_network = \"slash32\"\nlabels = { net = \"main\" }\n";
        let [host1, _host2] = rack.start_hosts_with(|_, config| format!("{config}\n{rules}"))?;
        host1.wait_established(2)?;
        let host = &rack.hosts[0];
        let network = Network::slash32()?
            .plugin_key("mtu", json!(1400))
            .plugin_key("routes", json!([{"dst": "10.32.0.0/16"}, {"dst": "fd00:32::/48"}]))
            .plugin_key("sysctls", json!({"net.ipv4.conf.IFNAME.arp_announce": "2"}))
            .plugin_key("forwarding", json!(true))
            .plugin_key("allow_spoofing", json!(["10.99.0.0/28"]));
        let router = host.container("db-1", &network)?;
        let near = host.container("near", &labelled("role", "near")?)?;
        reach_each_other(&[&router, &near])?;
        ensure!(router.run("ip -o link show dev eth0")?.contains("mtu 1400"), "the MTU");
        let routes = router.run("ip route show")?;
        ensure!(routes.contains("10.32.0.0/16 via 169.254.1.1") && !routes.contains("default"), "{routes}");
        ensure!(router.run("cat /proc/sys/net/ipv4/conf/eth0/arp_announce")?.trim() == "2", "the sysctl");
        ensure!(router.run("cat /proc/sys/net/ipv4/ip_forward")?.trim() == "1", "forwarding");
        ensure!(near.run("cat /proc/sys/net/ipv4/ip_forward")?.trim() == "0", "nobody asked for forwarding");
        // Addresses that it may use besides its own, and one that it may not. The host needs a way back to all of them.
        for address in ["10.99.0.5", "10.99.1.5"] {
            router.run(&format!("ip address add {address}/32 dev lo"))?;
        }
        let way = host.run(&format!("ip route get {}", router.ipv4()?))?;
        let device = way.split_whitespace().skip_while(|word| *word != "dev").nth(1).context("no device")?;
        host.run(&format!("ip route add 10.99.0.0/23 dev {device}"))?;
        let from = |address: &str| -> anyhow::Result<_> {
            Ok(router.run(&format!("ping -c 1 -W 1 -I {address} {}", near.ipv4()?)))
        };
        from("10.99.0.5")??;
        ensure!(from("10.99.1.5")?.is_err(), "a forged source got through");
        let endpoints = host1.endpoints()?;
        let labels = &endpoints.iter().find(|e| e.container_id == "db-1").context("db-1")?.labels;
        ensure!(
            labels.get("role").is_some_and(|v| v == "db") && labels.get("net").is_some_and(|v| v == "main"),
            "{labels:?}"
        );
        router.remove()?;
        near.remove()?;
        drop(switch);
        tidy(&host1, 0)
    });
}

#[test]
fn several_networks_of_one_container() {
    Lab::run("several", |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let _switch = rack.start_switch()?;
        let more = "
            [[ipam.pool]]
            name = 'storage'
            cidr = '10.32.128.0/17'
            block = '10.32.129.0/24'
            [[ipam.pool]]
            name = 'storage6'
            cidr = 'fd00:32:0:8000::/49'
            block = 'fd00:32:0:8001::/64'
        ";
        let config = example(&Switch::Slash32.host_file(1))?
            .replace("10.32.0.0/16", "10.32.0.0/17")
            .replace("fd00:32::/48", "fd00:32::/49")
            + more;
        let host = &rack.hosts[0];
        let host1 = interop_tests::Agent::start(host, &config)?;
        let host2 = interop_tests::Agent::start(&rack.hosts[1], &example(&Switch::Slash32.host_file(2))?)?;
        for agent in [&host1, &host2] {
            agent.wait_established(2)?;
        }
        let main = host.container("app", &labelled("role", "app")?)?;
        let storage = Network::parse(
            r#"{"cniVersion":"1.0.0","name":"storage","plugins":[{"type":"slash32","ipam":{"pools":["storage","storage6"]}}]}"#,
        )?;
        let further = host.attach_as("app", "net1", &storage)?;
        ensure!(
            further.ipv4()?.starts_with("10.32.129.") && further.ipv6()?.starts_with("fd00:32:0:8001::"),
            "{}",
            further.result()
        );
        let gateways =
            |family: usize| [&main, &further].map(|c| c.result()["ips"][family]["gateway"].clone());
        ensure!(gateways(0) == [json!("169.254.1.1"), json!("169.254.1.2")], "{:?}", gateways(0));
        let [one, two] = gateways(1);
        for gateway in [&one, &two] {
            ensure!(gateway.as_str().is_some_and(|g| g.starts_with("fe80::")), "{gateway}");
        }
        ensure!(one != two, "both networks have the gateway {one}");
        let other = rack.hosts[1].container("other", &labelled("role", "other")?)?;
        for address in [main.ipv4()?, main.ipv6()?, further.ipv4()?, further.ipv6()?] {
            eventually(&format!("{address} answers"), PATIENCE, || other.ping(&address))?;
        }
        // What is sent from an address leaves by its interface, to its gateway; and arrives.
        for (source, device, gateway, to) in [
            (main.ipv4()?, "eth0", json!("169.254.1.1"), other.ipv4()?),
            (further.ipv4()?, "net1", json!("169.254.1.2"), other.ipv4()?),
            (main.ipv6()?, "eth0", one, other.ipv6()?),
            (further.ipv6()?, "net1", two, other.ipv6()?),
        ] {
            let route = main.run(&format!("ip route get {to} from {source}"))?;
            let gateway = gateway.as_str().context("an address")?;
            ensure!(route.contains(&format!("via {gateway} dev {device}")), "{route}");
            eventually(&format!("from {source}"), PATIENCE, || {
                main.run(&format!("ping -n -c 1 -W 1 -I {source} {to}"))
            })?;
        }
        main.check()?;
        further.check()?;
        further.detach()?;
        for address in [main.ipv4()?, main.ipv6()?] {
            eventually("the first network goes on", PATIENCE, || other.ping(&address))?;
        }
        let rules = main.run("ip rule")? + &main.run("ip -6 rule")?;
        ensure!(!rules.contains(&further.ipv4()?) && !rules.contains(&further.ipv6()?), "{rules}");
        eventually("net1 is gone", PATIENCE, || {
            let links = main.run("ip -o link show")?;
            check(!links.contains("net1"), links)
        })?;
        main.remove()?;
        other.remove()?;
        tidy(&host1, 0)
    });
}
