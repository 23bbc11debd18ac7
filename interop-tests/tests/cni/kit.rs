//! What several of these tests need.

use anyhow::{Context, Result, ensure};
use interop_tests::{Agent, CniError, Container, Network, PATIENCE, check, eventually};
use serde_json::json;

/// The network of slash32 with addresses asked for by the runtime.
pub(crate) fn asking_for(addresses: &[&str]) -> Result<Network> {
    Ok(Network::slash32()?.capability("ips", json!(addresses)))
}

/// The host says that everything fits together, and has no interface or lease but those of `living` containers.
pub(crate) fn tidy(agent: &Agent, living: usize) -> Result<()> {
    let machine = agent.machine();
    eventually("interfaces and containers agree", PATIENCE, || {
        let links = machine.run("ip -o link show type veth")?;
        check(links.lines().filter(|line| line.contains(": s32")).count() == living, links)
    })?;
    let endpoints = agent.endpoints()?;
    ensure!(endpoints.len() == living, "{living} live: {endpoints:?}");
    let shown: serde_json::Value = agent.cli("ipam show --json").json()?;
    for family in [".", ":"] {
        let held = endpoints.iter().flat_map(|e| [&e.ipv4, &e.ipv6]).flatten();
        let held = held.filter(|address| address.contains(family)).count() as u64;
        let blocks = shown.as_array().context("a list")?.iter();
        let of_family = blocks.filter(|b| b["cidr"].as_str().is_some_and(|c| c.contains(family)));
        let used: u64 = of_family.filter_map(|block| block["in_use"].as_u64()).sum();
        ensure!(used == held, "{used} in use, {held} held: {shown}");
    }
    machine.run("slash32 ipam check").map(drop)
}

/// What an ADD that fails says.
pub(crate) fn refused(outcome: Result<Container>) -> Result<CniError> {
    let error = outcome.err().context("ADD succeeded")?;
    error.downcast_ref::<CniError>().cloned().context(error)
}
