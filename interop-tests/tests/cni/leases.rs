//! `slash32 ipam` by the command line: what does not fit is found and mended, and an address is released when it may be.

use anyhow::{Context, Result, ensure};
use interop_tests::{Agent, Container, Exit, Lab, Machine, Network, ONE_HOST, PATIENCE, check, eventually};
use serde_json::Value;

use crate::kit::tidy;

/// The groups of host ends (`src/cni/attach`): in service, and in the middle of a DEL.
const LIVING: u32 = 0x7333_3201;
const RETIRED: u32 = 0x7333_3202;

fn on_a_host(name: &str, test: impl FnOnce(&Machine, Agent) -> Result<()>) {
    Lab::run(name, |lab| {
        let host = lab.machine("host")?;
        // Nothing is looked after meanwhile, and what is released stays in sight.
        let text = format!("[ipam]\naudit_seconds = 86400\nquarantine_seconds = 3600\n{ONE_HOST}");
        let agent = Agent::start(&host, &text)?;
        test(&host, agent)
    });
}

/// The kinds of what `ipam check` finds, and whether all of it is mended; by its exit code too.
fn found(agent: &Agent, arguments: &str) -> Result<(Vec<String>, bool)> {
    let output = agent.cli(&format!("ipam check {arguments} --json")).output()?;
    let rows: Vec<Value> = serde_json::from_str(&output.stdout).with_context(|| format!("{output:?}"))?;
    let mended = rows.iter().all(|row| row["fixed"] == true);
    ensure!(output.exit == Exit::Code(if mended { 0 } else { 3 }), "{output:?}");
    let mut kinds: Vec<String> =
        rows.iter().map(|row| row["kind"].as_str().unwrap_or_default().to_owned()).collect();
    kinds.sort();
    Ok((kinds, mended))
}

/// The name of a container's host end.
fn host_end(agent: &Agent, container: &Container) -> Result<String> {
    let rows: Vec<Value> = agent.cli("endpoints --json").json()?;
    let row = rows.iter().find(|row| row["container_id"] == container.name()).context("no such endpoint")?;
    Ok(row["id"].as_str().context("an id")?.to_owned())
}

/// An endpoint whose interface has gone without a word: a DEL that was cut off in the middle.
fn leak(agent: &Agent, container: &Container) -> Result<()> {
    let end = host_end(agent, container)?;
    agent.machine().run(&format!("ip link set dev {end} group {RETIRED}")).map(drop)
}

/// `ipam release` of an address: what it said, and its exit code.
fn release(agent: &Agent, address: &str) -> Result<(String, Exit)> {
    let output = agent.cli(&format!("ipam release {address}")).output()?;
    Ok((format!("{}{}", output.stdout, output.stderr), output.exit))
}

/// A number of `ipam show` for the block of a family.
fn count(agent: &Agent, family: &str, what: &str) -> Result<u64> {
    let rows: Vec<Value> = agent.cli("ipam show --json").json()?;
    let row = rows.iter().find(|row| row["block"].as_str().is_some_and(|b| b.contains(family)));
    row.and_then(|row| row[what].as_u64()).with_context(|| format!("{what} of {family}: {rows:?}"))
}

#[test]
fn a_check_finds_and_mends() {
    on_a_host("ipam-check", |host, agent| {
        let network = Network::slash32()?;
        let lives = host.container("lives", &network)?;
        let leaks = host.container("leaks", &network)?;
        ensure!(found(&agent, "")? == (vec![], true), "{:?}", found(&agent, "")?);
        let (end, endpoints) = (host_end(&agent, &lives)?, "/run/slash32/endpoints");
        leak(&agent, &leaks)?;
        host.run(&format!("cp {endpoints}/{end}.json {endpoints}/s32nobody00000.json"))?;
        host.run("ip link add s32stray000000 type veth peer name peer0")?;
        host.run(&format!("ip link set dev s32stray000000 group {LIVING}"))?;
        let (kinds, mended) = found(&agent, "")?;
        ensure!(kinds == ["leaked", "stray_file", "stray_link"] && !mended, "{kinds:?}");
        let table = agent.cli("ipam check").output()?;
        ensure!(table.exit == Exit::Code(3) && table.stdout.contains("its interface is gone"), "{table:?}");
        // Told again: to look changes nothing.
        ensure!(found(&agent, "")?.0 == kinds, "{:?}", found(&agent, "")?);
        ensure!(found(&agent, "--fix")? == (kinds, true), "not all is mended");
        ensure!(found(&agent, "")? == (vec![], true), "{:?}", found(&agent, "")?);
        eventually("all is gone", PATIENCE, || tidy(&agent, 1))?;
        lives.check()?;
        lives.remove()?;
        tidy(&agent, 0)
    });
}

#[test]
fn a_release_does_what_it_says_and_nothing_else() {
    on_a_host("ipam-release", |host, mut agent| {
        let network = Network::slash32()?;
        let lives = host.container("lives", &network)?;
        let leaks = host.container("leaks", &network)?;
        let (four, six) = (leaks.ipv4()?, leaks.ipv6()?);
        // Something else that is not as it should be, which nobody asks to be mended.
        let (end, endpoints) = (host_end(&agent, &lives)?, "/run/slash32/endpoints");
        host.run(&format!("cp {endpoints}/{end}.json {endpoints}/s32nobody00000.json"))?;
        for address in [lives.ipv4()?, lives.ipv6()?, four.clone(), six.clone()] {
            let (said, exit) = release(&agent, &address)?;
            ensure!(exit == Exit::Code(1) && said.contains("is in use by endpoint s32"), "{exit}: {said}");
            ensure!(said.contains("remove the container"), "{said}");
        }
        host.run("ip addr add 10.32.4.201/32 dev lo")?;
        eventually("the host's own", PATIENCE, || {
            let (said, _) = release(&agent, "10.32.4.201")?;
            check(said.contains("no container gets it"), said)
        })?;
        for (address, why) in [
            ("10.99.0.1", "is not leased on this host"),
            ("fd00:99::1", "is not leased on this host"),
            ("10.32.4.200", "is free already"),
            ("fd00:32:0:4::200", "is free already"),
        ] {
            let (said, exit) = release(&agent, address)?;
            ensure!(exit == Exit::Code(1) && said.contains(why), "{address}: {exit}: {said}");
        }
        let wrong = agent.cli("ipam release 10.32.4").output()?;
        ensure!(wrong.exit == Exit::Code(2), "{wrong:?}");
        leak(&agent, &leaks)?;
        let (said, exit) = release(&agent, &four)?;
        ensure!(exit == Exit::Code(0) && said.contains(&format!("released {four}")), "{exit}: {said}");
        // All that the endpoint had is gone with it and rests; the file is still there, as is the container that lives.
        ensure!(found(&agent, "")? == (vec!["stray_file".to_owned()], false), "{:?}", found(&agent, "")?);
        ensure!(agent.endpoints()?.len() == 1, "{:?}", agent.endpoints()?);
        lives.check()?;
        for family in [".", ":"] {
            ensure!(count(&agent, family, "resting")? == 1, "{family}: resting");
            ensure!(count(&agent, family, "in_use")? == 1, "{family}: in use");
        }
        // The rest of one of them ends, and stays ended.
        let (said, exit) = release(&agent, &four)?;
        ensure!(exit == Exit::Code(0) && said.contains(&format!("released {four}")), "{exit}: {said}");
        for again in [false, true] {
            if again {
                found(&agent, "--fix")?;
                agent.kill()?;
                agent.start_again()?;
            }
            let resting = [count(&agent, ".", "resting")?, count(&agent, ":", "resting")?];
            ensure!(resting == [0, 1], "resting: {resting:?}, after a restart: {again}");
            let (said, _) = release(&agent, &four)?;
            ensure!(said.contains("is free already"), "{said}");
        }
        let (said, exit) = release(&agent, &six)?;
        ensure!(exit == Exit::Code(0), "{exit}: {said}");
        eventually("the other is released", PATIENCE, || {
            check(count(&agent, ":", "resting")? == 0, "it rests")
        })?;
        lives.remove()?;
        tidy(&agent, 0)
    });
}
