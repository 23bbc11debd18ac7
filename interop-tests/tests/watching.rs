//! What an operator asks a running agent about its neighbours, collectors and routes, with BIRD as the neighbour.

use anyhow::{Context, Result, ensure};
use interop_tests::{Agent, Lab, PATIENCE, Rack, Router, Switch, check, eventually, example};
use serde_json::Value;

/// A listener that reads what comes, on the switch.
const COLLECTOR: &str = "
import socket
server = socket.create_server(('192.0.2.0', 11019))
while True:
    connection, _ = server.accept()
    while connection.recv(65536):
        pass
";

/// BIRD with routes of its own and additional paths.
fn bird() -> Result<String> {
    let text = example(Switch::Bird.config_file())?;
    let with = text
        .replace("  ipv4 { import filter", "  ipv4 { add paths tx; import filter")
        .replace("  ipv6 { import filter", "  ipv6 { add paths tx; import filter");
    ensure!(with.matches("add paths tx").count() == 2, "the example has other channels now");
    Ok(with
        + "protocol static { ipv4; route 10.32.7.0/24 blackhole; route 10.32.8.0/24 blackhole; }\n\
           protocol static { ipv6; route fd00:32:0:7::/64 blackhole; }\n")
}

fn decoded(agent: &Agent, file: &str) -> Result<Vec<Value>> {
    let text = agent.cli(&format!("bgp decode --json {file}")).run()?;
    text.lines().map(|line| serde_json::from_str(line).context("a line of JSON")).collect()
}

#[test]
fn neighbours_collectors_and_dumps() {
    Lab::run("watching", |lab| {
        let rack = Rack::new(lab, Switch::Bird)?;
        let router = Router::bird(&rack.tor, &bird()?)?;
        let _collector = rack.tor.command("python3").args(["-c", COLLECTOR]).spawn("collector")?;
        let hosts = rack.start_hosts_with(|host, text| {
            let text = text.replace("hold_time = 9", "add_path = \"receive\"\nhold_time = 9");
            if host == 1 {
                text + "\n[[bgp.bmp]]\naddress = \"192.0.2.0\"\npost_policy = true\nloc_rib = true\nreconnect = 1\n"
            } else {
                // The same prefix as BIRD's: two paths at host 1.
                text.replacen("[bgp]", "[bgp]\noriginate = [\"10.32.7.0/24\"]", 1)
            }
        })?;
        let [host1, host2] = &hosts;
        for host in &hosts {
            host.wait_established(2)?;
        }
        router.wait_established(4)?;
        router.wait_prefix("10.32.7.0/24")?;

        let rib = |line: &str| host1.cli(line).json::<Vec<Value>>();
        eventually("host 1 has both paths and the rest", PATIENCE, || {
            let both = rib("bgp rib 10.32.7.0/24 --json")?;
            let others = [rib("bgp rib 10.32.8.0/24 --json")?, rib("bgp rib fd00:32:0:7::/64 --json")?];
            check(
                both.len() == 2 && others.iter().all(|list| list.len() == 1),
                format!("{both:?} {others:?}"),
            )
        })?;
        let received = rib("bgp rib --received 192.0.2.0 --json")?;
        ensure!(received.iter().filter(|r| r["prefix"] == "10.32.7.0/24").count() == 2, "{received:?}");
        let advertised = host2.cli("bgp rib --advertised 192.0.2.2 --json").json::<Vec<Value>>()?;
        ensure!(advertised.iter().any(|r| r["prefix"] == "10.32.7.0/24"), "{advertised:?}");

        // One neighbour on a page.
        let peer: Value = host1.cli("peers 192.0.2.0 --json").json()?;
        ensure!(peer["state"] == "Established" && peer["asn"] == 65000, "{peer}");
        // Two paths of one prefix, and another prefix.
        ensure!(peer["prefixes_accepted"] == 3 && peer["established_count"] == 1, "{peer}");
        let page = host1.cli("peers 2001:db8:0:1::1").run()?;
        for line in
            ["neighbour       2001:db8:0:1::1, AS 65000", "state           Established for", "router id"]
        {
            ensure!(page.contains(line), "no {line:?} in\n{page}");
        }
        let error = host1.cli("peers 192.0.2.77").run().expect_err("there is none").to_string();
        ensure!(error.contains("there is no neighbour 192.0.2.77"), "{error}");
        let explained = host1.cli("bgp explain 10.32.7.0/24").run()?;
        ensure!(explained.matches("from 192.0.2.0").count() == 2, "{explained}");

        // The collector.
        eventually("the collector has got everything", PATIENCE, || {
            let collectors = rib("bgp collectors --json")?;
            let fits = matches!(&collectors[..], [one] if one["state"] == "connected"
                && one["collector"] == "192.0.2.0:11019" && one["bytes_waiting"] == 0
                && one["messages_sent"].as_u64() > Some(10));
            check(fits, format!("{collectors:?}"))
        })?;
        let table = host1.cli("bgp collectors").run()?;
        ensure!(table.contains("192.0.2.0:11019") && table.contains("connected"), "{table}");

        // The RIB as MRT, read by ourselves.
        let said = host1.cli("bgp dump-mrt /run/rib.mrt").run()?;
        ensure!(said.contains("written to /run/rib.mrt"), "{said}");
        let routes = decoded(host1, "/run/rib.mrt")?;
        ensure!(routes.iter().all(|r| r["type"] == "RIB" && r["disposition"] == "ok"), "{routes:?}");
        let of = |prefix: &str| routes.iter().filter(|r| r["prefix"] == prefix).cloned().collect::<Vec<_>>();
        let both = of("10.32.7.0/24");
        ensure!(both.len() == 2 && both[0]["path_id"] != both[1]["path_id"], "{both:?}");
        ensure!(both.iter().all(|r| r["peer"] == "192.0.2.0" && r["peer_asn"] == 65000), "{both:?}");
        let paths: Vec<_> = both.iter().map(|r| r["attributes"]["as_path"].to_string()).collect();
        ensure!(paths.contains(&"[65000]".into()) && paths.contains(&"[65000,65002]".into()), "{paths:?}");
        let six = of("fd00:32:0:7::/64");
        ensure!(six.len() == 1 && six[0]["next_hop"] == "2001:db8:0:1::1", "{six:?}");
        let error = host1.cli("bgp dump-mrt /no/such/folder/x").run().expect_err("no folder").to_string();
        ensure!(error.contains("cannot write"), "{error}");

        // What somebody may have forgotten stays in sight.
        let attention = || host1.cli("status").run();
        let drained = |page: &str| page.contains("this host is being drained");
        host1.cli("drain").run()?;
        ensure!(drained(&attention()?) && host1.cli("doctor").run().is_err(), "{}", attention()?);
        host1.cli("drain --off").run()?;
        ensure!(!drained(&attention()?), "{}", attention()?);
        let file =
            host1.cli("status --json").json::<Value>()?["config"].as_str().unwrap_or_default().to_owned();
        let good = rack.hosts[0].run(&format!("cat {file}"))?;
        host1.reconfigure(&good.replace("hold_time = 9", "hold_time = 1")).expect_err("1 is too short");
        let refused = "the last reload failed";
        ensure!(attention()?.contains(refused), "{}", attention()?);
        host1.reconfigure(&good)?;
        ensure!(!attention()?.contains(refused), "{}", attention()?);

        // Metrics for programs.
        let metrics = host1.cli("metrics --json").json::<Vec<Value>>()?;
        let uptime = metrics.iter().find(|m| m["name"] == "slash32_uptime_seconds");
        ensure!(
            uptime.is_some_and(|m| m["type"] == "gauge" && m["samples"][0]["value"].is_u64()),
            "{metrics:?}"
        );
        ensure!(metrics.iter().any(|m| m["samples"][0]["labels"]["peer"].is_string()), "{metrics:?}");
        let document = include_str!("../../docs/metrics.md");
        for metric in &metrics {
            let (name, kind) = (metric["name"].as_str().unwrap_or_default(), &metric["type"]);
            let row = format!("| `{name}` | {} |", kind.as_str().unwrap_or_default());
            ensure!(document.contains(&row), "docs/metrics.md does not have {row}");
        }
        // All but those of what is not configured here.
        let told = |name: &&str| {
            let elsewhere = ["slash32_bfd_", "slash32_bmp_", "slash32_mrt_"];
            !elsewhere.iter().any(|prefix| name.starts_with(prefix))
        };
        let documented = document.lines().filter_map(|l| l.strip_prefix("| `slash32_")?.split_once('`'));
        let missing: Vec<String> = documented
            .map(|(name, _)| format!("slash32_{name}"))
            .filter(|name| told(&name.as_str()) && !metrics.iter().any(|m| m["name"] == **name))
            .collect();
        ensure!(missing.is_empty(), "documented and not there: {missing:?}");
        Ok(())
    });
}
