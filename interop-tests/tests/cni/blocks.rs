//! Which blocks of which pools addresses come from, by ADD, with `ipam show` beside it.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use interop_tests::{Agent, Container, Lab, Network};
use serde_json::{Value, json};

use crate::kit::{asking_for, refused, tidy};

/// Blocks by the host's number in the first pool, lists of them in the second, none of this host's in the third.
const POOLS: &str = r#"
[ipam]
quarantine_seconds = 0
audit_seconds = 86400

[[ipam.pool]]
cidr = "10.32.0.0/16"
host_index = 5
block_len = 30
exclude = ["10.32.0.21/32", "10.32.7.0/24"]

[[ipam.pool]]
cidr = "fd00:32::/48"
host_index = 5
block_len = 126
exclude = ["fd00:32::16/127"]

[[ipam.pool]]
name = "lists"
cidr = "10.33.0.0/16"
block = ["10.33.9.0/31", "10.33.4.0/30"]
exclude = ["10.33.4.0/31"]

[[ipam.pool]]
name = "lists"
cidr = "fd00:33::/48"
block = ["fd00:33:0:9::/127", "fd00:33:0:4::/126"]

[[ipam.pool]]
name = "others"
cidr = "10.34.0.0/16"

[[ipam.pool]]
name = "single"
cidr = "10.35.0.0/16"
host_index = 65535
block_len = 32
"#;

fn network(ipam: Value) -> Result<Network> {
    Ok(Network::slash32()?.plugin_key("ipam", ipam))
}

/// The addresses of a container's result.
fn addresses(container: &Container) -> Vec<String> {
    let ips = container.result()["ips"].as_array().into_iter().flatten();
    let texts = ips.filter_map(|ip| ip["address"].as_str());
    texts.map(|text| text.split('/').next().unwrap_or_default().to_owned()).collect()
}

/// What `ipam show` says of a block: all that can be given, and how much of it is.
fn row(agent: &Agent, block: &str) -> Result<(u64, u64, u64)> {
    let rows: Vec<Value> = agent.cli("ipam show --json").json()?;
    let row = rows.iter().find(|row| row["block"] == block).with_context(|| format!("{block}: {rows:?}"))?;
    let number = |key: &str| row[key].as_u64().with_context(|| format!("{key}: {row}"));
    Ok((number("size")?, number("in_use")?, number("free")?))
}

#[test]
fn blocks_are_used_one_after_the_other() {
    Lab::run("blocks", |lab| {
        let host = lab.machine("host")?;
        let mut agent = Agent::start(&host, POOLS)?;
        let shown = |rows: &[(&str, (u64, u64, u64))]| -> Result<()> {
            for (block, wanted) in rows {
                let seen = row(&agent, block)?;
                ensure!(seen == *wanted, "{block}: {seen:?}, not {wanted:?}");
            }
            Ok(())
        };
        // Without the excluded ones, and without an IPv6 block's first, which is its routers' anycast address.
        shown(&[
            ("10.32.0.20/30", (3, 0, 3)),
            ("fd00:32::14/126", (1, 0, 1)),
            ("10.33.9.0/31", (2, 0, 2)),
            ("10.33.4.0/30", (2, 0, 2)),
            ("fd00:33:0:9::/127", (1, 0, 1)),
            ("fd00:33:0:4::/126", (3, 0, 3)),
            ("10.35.255.255/32", (1, 0, 1)),
        ])?;

        // Of a list one block after the other, as they are written; a family is full when all of its blocks are.
        let lists = network(json!({"pools": ["lists"]}))?;
        let mut of_lists = Vec::new();
        for (name, four, six) in [
            ("a", "10.33.9.0", "fd00:33:0:9::1"),
            ("b", "10.33.9.1", "fd00:33:0:4::1"),
            ("c", "10.33.4.2", "fd00:33:0:4::2"),
            ("d", "10.33.4.3", "fd00:33:0:4::3"),
        ] {
            let container = host.container(name, &lists)?;
            ensure!(addresses(&container) == [four, six], "{name}: {}", container.result());
            of_lists.push(container);
        }
        host.sandbox("e")?;
        let full = refused(host.attach("e", &lists))?;
        ensure!(full.code == 100 && full.msg.contains("4 in use"), "{full}");
        tidy(&agent, 4)?;
        shown(&[("10.33.9.0/31", (2, 2, 0)), ("10.33.4.0/30", (2, 2, 0)), ("fd00:33:0:4::/126", (3, 3, 0))])?;
        // One of the first block that has come back is given before anything is said to be full.
        of_lists.remove(1).remove()?;
        let again = host.attach("e", &lists)?;
        ensure!(addresses(&again) == ["10.33.9.1", "fd00:33:0:4::1"], "{}", again.result());
        of_lists.push(again);
        // Of another pool when this one is full, in the order that the network says.
        let both = network(json!({"pools": ["lists", "default"]}))?;
        let over = host.container("over", &both)?;
        ensure!(addresses(&over) == ["10.32.0.20", "fd00:32::15"], "{}", over.result());
        tidy(&agent, 5)?;
        shown(&[("10.32.0.20/30", (3, 1, 2)), ("fd00:32::14/126", (1, 1, 0))])?;

        // IPv6 is full, so there is nothing for both families, and the IPv4 address stays free.
        host.sandbox("f")?;
        let default = network(json!({"pool": "default"}))?;
        let full = refused(host.attach("f", &default))?;
        ensure!(full.code == 100 && full.msg.contains("ipv6"), "{full}");
        tidy(&agent, 5)?;
        shown(&[("10.32.0.20/30", (3, 1, 2))])?;
        // A network of one family goes on. The excluded address is left out.
        let four = network(json!({"pool": "default", "families": ["ipv4"]}))?;
        for (name, address) in [("f", "10.32.0.22"), ("g", "10.32.0.23")] {
            if name != "f" {
                host.sandbox(name)?;
            }
            let container = host.attach(name, &four)?;
            ensure!(addresses(&container) == [address], "{name}: {}", container.result());
            of_lists.push(container);
        }
        shown(&[("10.32.0.20/30", (3, 3, 0))])?;

        // What is excluded cannot be asked for either, inside and outside of this host's block.
        host.sandbox("h")?;
        for address in ["10.32.0.21", "10.32.7.9", "fd00:32::16", "fd00:32::17", "fd00:32::14"] {
            let error = refused(host.attach("h", &asking_for(&[address])?))?;
            ensure!(error.code == 101 && error.msg.contains(address), "{address}: {error}");
        }
        // Of another host's share by name alone: there is no block to choose from.
        let others = network(json!({"pools": ["others"]}))?;
        let none = refused(host.attach("h", &others))?;
        ensure!(none.code == 100, "{none}");
        let moved = host.attach("h", &others.capability("ips", json!(["10.34.3.3"])))?;
        ensure!(addresses(&moved) == ["10.34.3.3"], "{}", moved.result());
        let outside = refused(host.attach_as("h", "net1", &lists.capability("ips", json!(["10.34.3.4"]))))?;
        ensure!(outside.code == 101 && outside.msg.contains("none of the network's pools"), "{outside}");
        let unknown = refused(host.attach_as("h", "net1", &network(json!({"pools": ["no-such"]}))?))?;
        ensure!(unknown.code == 7 && unknown.msg.contains("no-such"), "{unknown}");
        let single = host.attach_as("h", "net1", &network(json!({"pool": "single"}))?)?;
        ensure!(addresses(&single) == ["10.35.255.255"], "{}", single.result());
        moved.check()?;
        single.check()?;

        // One block fewer, after a crash: those who live keep what they have, and nobody else gets it.
        agent.kill()?;
        let fewer = POOLS.replace("\"10.33.9.0/31\", ", "").replace("\"fd00:33:0:9::/127\", ", "");
        host.write("/etc/slash32/slash32.toml", &fewer)?;
        agent.start_again()?;
        let held: BTreeSet<String> = of_lists.iter().flat_map(addresses).collect();
        let living = agent.endpoints()?;
        let known: BTreeSet<String> =
            living.iter().flat_map(|e| [e.ipv4.clone(), e.ipv6.clone()]).flatten().collect();
        ensure!(held.is_subset(&known), "{held:?}, known {known:?}");
        for container in &of_lists {
            container.check()?;
        }
        host.sandbox("i")?;
        let lists = network(json!({"pools": ["lists"]}))?;
        let full = refused(host.attach("i", &lists))?;
        ensure!(full.code == 100, "{full}");
        // And one more, by a reload.
        agent.reconfigure(&fewer.replace("\"10.33.4.0/30\"", "\"10.33.4.0/30\", \"10.33.8.0/31\""))?;
        of_lists.remove(0).remove()?;
        let more = host.attach("i", &network(json!({"pools": ["lists"], "families": ["ipv4"]}))?)?;
        ensure!(addresses(&more) == ["10.33.8.0"], "{}", more.result());
        for container in of_lists.into_iter().chain([over, moved, more]) {
            container.detach()?;
        }
        single.remove()?;
        tidy(&agent, 0)
    });
}
