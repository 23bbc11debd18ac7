//! What ADD answers, to the letter, in every version of the specification.

use anyhow::{Context, Result, ensure};
use interop_tests::{Agent, Container, Lab, Network, ONE_HOST};
use serde_json::{Value, json};

use crate::kit::{refused, tidy};

/// What the kernel says of an interface: MAC and MTU.
fn link(shown: &str) -> Result<(Value, Value)> {
    let list: Value = serde_json::from_str(shown)?;
    Ok((list[0]["address"].clone(), list[0]["mtu"].clone()))
}

/// The result as the specification has it, from what the kernel has.
fn expected(agent: &Agent, container: &Container, version: &str) -> Result<Value> {
    let rows: Vec<Value> = agent.cli("endpoints --json").json()?;
    let row = rows.iter().find(|row| row["container_id"] == container.name()).context("no endpoint")?;
    let end = row["id"].as_str().context("an id")?;
    let shown: Value =
        serde_json::from_str(&agent.machine().run(&format!("ip -6 -j address show dev {end}"))?)?;
    let gateway6 = &shown[0]["addr_info"][0]["local"];
    let (four, six) = (format!("{}/32", row["ipv4"].as_str().context("IPv4")?), row["ipv6"].as_str());
    let six = format!("{}/128", six.context("IPv6")?);
    let routes = [json!({"dst": "0.0.0.0/0", "gw": "169.254.1.1"}), json!({"dst": "::/0", "gw": gateway6})];
    let dns = json!({"nameservers": ["192.0.2.53", "2001:db8::53"], "search": ["example.net"],
        "options": ["ndots:2"]});
    if version < "0.3" {
        return Ok(json!({"cniVersion": version, "dns": dns,
            "ip4": {"ip": four, "gateway": "169.254.1.1", "routes": [routes[0]]},
            "ip6": {"ip": six, "gateway": gateway6, "routes": [routes[1]]}}));
    }
    let (mac, mtu) = link(&agent.machine().run(&format!("ip -j link show dev {end}"))?)?;
    let (inner_mac, inner_mtu) = link(&container.run("ip -j link show dev eth0")?)?;
    let sandbox = format!("/run/netns/{}", container.name());
    let mut result = json!({"cniVersion": version, "dns": dns, "routes": routes,
        "interfaces": [{"name": end, "mac": mac}, {"name": "eth0", "mac": inner_mac, "sandbox": sandbox}],
        "ips": [{"address": four, "gateway": "169.254.1.1", "interface": 1},
            {"address": six, "gateway": gateway6, "interface": 1}]});
    if version < "1" {
        result["ips"][0]["version"] = json!("4");
        result["ips"][1]["version"] = json!("6");
    }
    if version == "1.1.0" {
        result["interfaces"][0]["mtu"] = mtu;
        result["interfaces"][1]["mtu"] = inner_mtu;
    }
    Ok(result)
}

#[test]
fn results_of_every_version() {
    Lab::run("results", |lab| {
        let host = lab.machine("host")?;
        let agent = Agent::start(&host, ONE_HOST)?;
        let dns = json!({"servers": ["192.0.2.53", "2001:db8::53"], "searches": ["example.net"],
            "options": ["ndots:2"]});
        for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            let network = Network::slash32()?
                .version(version)
                .capability("dns", dns.clone())
                .capability("aliases", json!(["shop", "store"]));
            let name = format!("v{}", version.replace('.', "-"));
            let mut web = host.container(&name, &network)?;
            let wanted = expected(&agent, &web, version)?;
            ensure!(*web.result() == wanted, "{version}:\n{}\n{wanted}", web.result());
            // And again, to a runtime that has not heard it.
            web.add()?;
            ensure!(*web.result() == wanted, "{version}:\n{}\n{wanted}", web.result());
            // Names are for whoever feeds a name server: no version of the result has a place for them.
            let rows: Vec<Value> = agent.cli("endpoints --json").json()?;
            ensure!(rows.len() == 1 && rows[0]["aliases"] == json!(["shop", "store"]), "{rows:?}");
            if version >= "0.4" {
                web.check()?;
            }
            web.remove()?;
            tidy(&agent, 0)?;
        }
        // Each key of a route that 1.1.0 has, in the kernel and in the result; the versions before do not know them.
        let route = json!([{"dst": "10.99.0.0/16", "mtu": 1400, "advmss": 1300, "priority": 77, "table": 1234,
            "scope": 0}, {"dst": "fd00:99::/48", "mtu": 1400, "priority": 78}]);
        let network = Network::slash32()?.plugin_key("routes", route);
        let new = host.container("new", &network.clone().version("1.1.0"))?;
        let told = &new.result()["routes"];
        for (key, number) in
            [("mtu", 1400), ("advmss", 1300), ("priority", 77), ("table", 1234), ("scope", 0)]
        {
            ensure!(told[0][key] == number, "{key}: {told}");
        }
        ensure!(told[1]["priority"] == 78 && told[1]["mtu"] == 1400, "{told}");
        let four = new.run("ip route show table 1234")?;
        for words in ["10.99.0.0/16 via 169.254.1.1", "metric 77", "mtu 1400", "advmss 1300"] {
            ensure!(four.contains(words), "{words}: {four}");
        }
        let six = new.run("ip -6 route show")?;
        ensure!(six.contains("fd00:99::/48 via fe80::") && six.contains("metric 78"), "{six}");
        new.check()?;
        new.remove()?;
        let old = host.container("old", &network.version("1.0.0"))?;
        let told = &old.result()["routes"][0];
        let keys: Vec<&String> = told.as_object().context("a route")?.keys().collect();
        ensure!(keys == ["dst", "gw"], "{told}");
        old.remove()?;
        // What is no name is refused.
        host.sandbox("bad")?;
        for alias in ["", "a b", "-a", "a..b", "ü"] {
            let bad = Network::slash32()?.capability("aliases", json!(["good", alias]));
            let error = refused(host.attach("bad", &bad))?;
            ensure!(error.code == 7 && error.msg.contains("alias"), "{alias:?}: {error}");
        }
        tidy(&agent, 0)
    });
}
