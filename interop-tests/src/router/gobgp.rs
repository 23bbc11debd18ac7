//! GoBGP (Debian package gobgpd).

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::machine::{Machine, Process};
use crate::{PATIENCE, eventually};

/// GoBGP's number of the state ESTABLISHED in its JSON.
const ESTABLISHED: u64 = 6;

pub(super) fn start(machine: &Machine, config: &str) -> Result<Vec<Process>> {
    machine.write("/etc/gobgp/gobgpd.toml", config)?;
    let process = machine
        .command("gobgpd")
        .args(["-f", "/etc/gobgp/gobgpd.toml", "--log-plain"])
        .spawn("gobgpd")
        .context("start gobgpd (Debian package gobgpd)")?;
    eventually("gobgp answers", PATIENCE, || {
        process.check()?;
        machine.run("gobgp global")
    })?;
    Ok(vec![process])
}

pub(super) fn version(machine: &Machine) -> Result<String> {
    Ok(machine.run("gobgpd --version")?.trim().to_owned())
}

pub(super) fn established(machine: &Machine) -> Result<usize> {
    let neighbors: Value = machine.command("gobgp").args(["-j", "neighbor"]).json()?;
    let neighbors = neighbors.as_array().into_iter().flatten();
    Ok(neighbors.filter(|neighbor| neighbor["state"]["session_state"] == ESTABLISHED).count())
}

pub(super) fn prefixes(machine: &Machine) -> Result<BTreeSet<String>> {
    let mut prefixes = BTreeSet::new();
    for family in ["ipv4", "ipv6"] {
        let table: Value = machine.command("gobgp").args(["-j", "global", "rib", "-a", family]).json()?;
        prefixes.extend(table.as_object().into_iter().flatten().map(|(prefix, _)| prefix.clone()));
    }
    Ok(prefixes)
}
