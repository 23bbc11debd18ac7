//! FRR: zebra and bgpd (Debian package frr), started as its own init script does, without systemd.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::machine::{Machine, Process};
use crate::{PATIENCE, eventually};

/// Where Debian has the daemons.
const DAEMONS: &str = "/usr/lib/frr";

pub(super) fn start(machine: &Machine, config: &str) -> Result<Vec<Process>> {
    machine.write("/etc/frr/frr.conf", config)?;
    machine.write("/etc/frr/vtysh.conf", "service integrated-vtysh-config\n")?;
    for dir in ["/run/frr", "/var/lib/frr"] {
        machine.own(dir)?;
        machine.run(&format!("chown frr:frr {dir}")).context("install the Debian package frr")?;
    }
    let mut processes = Vec::new();
    // mgmtd appeared in FRR 9; later versions hand it part of the configuration.
    for daemon in ["mgmtd", "zebra", "bfdd", "bgpd"] {
        let path = format!("{DAEMONS}/{daemon}");
        if daemon == "bfdd" && !config.contains(" bfd") {
            continue;
        }
        if daemon == "mgmtd" && !machine.outside(&path).exists() {
            continue;
        }
        let process = machine.command(&path).args(["--log", "stdout", "-A", "127.0.0.1"]).spawn(daemon)?;
        eventually(&format!("{daemon} answers"), PATIENCE, || {
            process.check()?;
            machine.command("vtysh").args(["-d", daemon, "-c", "show version"]).run()
        })?;
        processes.push(process);
    }
    machine.run("vtysh -b").context("load frr.conf")?;
    Ok(processes)
}

pub(super) fn version(machine: &Machine) -> Result<String> {
    let text = vtysh(machine, "show version")?;
    Ok(text.lines().next().unwrap_or_default().split(" (").next().unwrap_or_default().to_owned())
}

pub(super) fn established(machine: &Machine) -> Result<usize> {
    // One peer counts once for each family it has up; sessions are told apart by neighbour.
    let json: Value =
        serde_json::from_str(&vtysh(machine, "show bgp neighbors json")?).context("neighbors")?;
    let neighbors = json.as_object().into_iter().flatten();
    Ok(neighbors.filter(|(_, neighbor)| neighbor["bgpState"] == "Established").count())
}

pub(super) fn prefixes(machine: &Machine) -> Result<BTreeSet<String>> {
    let mut prefixes = BTreeSet::new();
    for family in ["ipv4", "ipv6"] {
        let text = vtysh(machine, &format!("show bgp {family} unicast json"))?;
        let json: Value = serde_json::from_str(&text).context("routes")?;
        prefixes.extend(json["routes"].as_object().into_iter().flatten().map(|(prefix, _)| prefix.clone()));
    }
    Ok(prefixes)
}

pub(super) fn summary(machine: &Machine) -> Result<String> {
    vtysh(machine, "show bgp summary")
}

fn vtysh(machine: &Machine, command: &str) -> Result<String> {
    machine.command("vtysh").args(["-c", command]).run()
}
