//! BIRD 2 (Debian package bird2).

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use crate::machine::{Machine, Process};
use crate::{PATIENCE, eventually};

pub(super) fn start(machine: &Machine, config: &str) -> Result<Vec<Process>> {
    machine.write("/etc/bird/bird.conf", config)?;
    machine.own("/run/bird")?;
    machine
        .run("bird -p -c /etc/bird/bird.conf")
        .context("BIRD refuses the configuration (or install the Debian package bird2)")?;
    let process = machine.command("bird").args(["-f", "-c", "/etc/bird/bird.conf"]).spawn("bird")?;
    eventually("birdc answers", PATIENCE, || {
        process.check()?;
        machine.run("birdc show status")
    })?;
    Ok(vec![process])
}

pub(super) fn version(machine: &Machine) -> Result<String> {
    let output = machine.command("bird").arg("--version").output()?;
    Ok(format!("{}{}", output.stdout, output.stderr).trim().to_owned())
}

/// Lines like `host1  BGP  ---  up  12:00:00.000  Established`.
pub(super) fn established(machine: &Machine) -> Result<usize> {
    let table = machine.run("birdc show protocols")?;
    Ok(table
        .lines()
        .filter(|line| line.contains(" BGP ") && line.trim_end().ends_with("Established"))
        .count())
}

/// Lines of routes start with their prefix; more paths of the same prefix start with blanks.
pub(super) fn prefixes(machine: &Machine) -> Result<BTreeSet<String>> {
    let table = machine.command("birdc").args(["show route where source = RTS_BGP"]).run()?;
    let first = table.lines().filter_map(|line| line.split_whitespace().next());
    Ok(first.filter(|word| word.contains('/')).map(str::to_owned).collect())
}
