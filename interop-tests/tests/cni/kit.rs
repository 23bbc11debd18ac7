//! What several of these tests need.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use interop_tests::{Agent, CniError, Container, Network, PATIENCE, check, eventually};
use serde_json::json;

/// The network of slash32 with addresses asked for by the runtime.
pub(crate) fn asking_for(addresses: &[&str]) -> Result<Network> {
    Ok(Network::slash32()?.capability("ips", json!(addresses)))
}

/// The host says that everything fits together, and has no interface, lease, route or element of a set but those of
/// `living` containers.
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
    eventually("routes and containers agree", PATIENCE, || {
        let held: BTreeSet<&str> =
            endpoints.iter().flat_map(|e| [&e.ipv4, &e.ipv6]).flatten().map(String::as_str).collect();
        let shown = machine.run("ip route show proto 32")? + &machine.run("ip -6 route show proto 32")?;
        let ours = shown.lines().filter(|line| line.contains(" dev s32"));
        let led: BTreeSet<&str> = ours.filter_map(|line| line.split([' ', '/']).next()).collect();
        check(led == held, format!("routes to {led:?}, containers with {held:?}"))
    })?;
    eventually("nftables and containers agree", PATIENCE, || {
        let rows: Vec<serde_json::Value> = agent.cli("endpoints --json").json()?;
        let living: BTreeSet<&str> = rows.iter().filter_map(|row| row["id"].as_str()).collect();
        let table = machine.run("nft list tables")?;
        let table =
            if table.contains("slash32") { machine.run("nft list table inet slash32")? } else { table };
        let named = table.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| is_host_end(word));
        let named: BTreeSet<&str> = named.collect();
        check(named.is_subset(&living), format!("elements of {named:?}, containers {living:?}"))
    })?;
    machine.run("slash32 ipam check").map(drop)
}

/// Whether a word looks like the name of a host end, which is that of its endpoint.
fn is_host_end(word: &str) -> bool {
    word.strip_prefix("s32").is_some_and(|rest| rest.len() > 8 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// What an ADD that fails says.
pub(crate) fn refused(outcome: Result<Container>) -> Result<CniError> {
    let error = outcome.err().context("ADD succeeded")?;
    error.downcast_ref::<CniError>().cloned().context(error)
}
