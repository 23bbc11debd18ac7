//! Restarts: with an error in the policy folder nothing opens that was closed; with policy switched off, everything.

use anyhow::{Context, Result, bail, ensure};
use interop_tests::{Agent, Container, Lab, ONE_HOST, PATIENCE, check, eventually, labelled, reach};
use serde_json::json;

const WEB: &str = "[[policy]]\nname = 'web'\nselect = 'app == \"web\"'\n\
    ingress = [ { action = 'allow', from = { selector = 'app == \"front\"' } } ]\n";
const KEPT: &str = "/run/slash32/policies.json";

/// Once, without patience: it was closed, and is not to open for a moment.
fn closed(from: &Container, to: &Container) -> Result<()> {
    for address in [to.ipv4()?, to.ipv6()?] {
        from.no_ping(&address).with_context(|| format!("{} to {address}", from.name()))?;
    }
    Ok(())
}

fn problems(agent: &Agent) -> Result<String> {
    Ok(agent.status()?["problems"].to_string())
}

#[test]
fn a_restart_with_an_error_in_the_folder_opens_nothing() {
    Lab::run("policy-restart", |lab| {
        let host = lab.machine("host")?;
        let mut agent = Agent::start(&host, ONE_HOST)?;
        let web = host.container("web", &labelled("app", "web")?)?;
        let other = host.container("other", &labelled("app", "other")?)?;
        reach(&other, &web)?;
        agent.write_policy("web.toml", WEB)?;
        eventually("the policy is in force", PATIENCE, || closed(&other, &web))?;
        agent.write_policy("wrong.toml", "[[polcy]]\nname = 'x'\n")?;
        let told = |agent: &Agent| {
            eventually("the error is told", PATIENCE, || {
                let problems = problems(agent)?;
                check(problems.contains("wrong.toml:1:") && problems.contains("stay in force"), problems)
            })
        };
        told(&agent)?;
        for planned in [false, true] {
            if planned {
                agent.stop()?;
            } else {
                agent.kill()?;
            }
            closed(&other, &web)?;
            agent.start_again()?;
            closed(&other, &web)?;
            told(&agent)?;
            // Also what comes new.
            let late = host.container("late", &labelled("app", "web")?)?;
            closed(&other, &late)?;
            late.remove()?;
        }

        // Nobody knows any more what was in force: what the kernel has stays, and nobody is let in.
        agent.kill()?;
        host.run(&format!("rm {KEPT}"))?;
        agent.start_again()?;
        closed(&other, &web)?;
        let told = problems(&agent)?;
        ensure!(told.contains("no container is attached until") && !told.contains("stay in force"), "{told}");
        ensure!(
            host.container("late", &labelled("app", "web")?).is_err(),
            "a container is attached without policies"
        );
        ensure!(agent.cli("doctor").output()?.exit != interop_tests::Exit::Code(0));
        // Endpoints may go, and the table is not put back as if there were no policies.
        other.remove()?;
        host.run("nft add chain inet slash32 strange")?;
        let front = {
            agent.remove_policy("wrong.toml")?;
            eventually("the error is gone", PATIENCE, || {
                let problems = problems(&agent)?;
                check(problems == "[]", problems)
            })?;
            host.container("front", &labelled("app", "front")?)?
        };
        reach(&front, &web)?;
        let stranger = host.container("stranger", &labelled("app", "other")?)?;
        closed(&stranger, &web)
    });
}

#[test]
fn policy_that_is_switched_off_leaves_nothing_in_force() {
    Lab::run("policy-off", |lab| {
        let host = lab.machine("host")?;
        let mut agent = Agent::start(&host, ONE_HOST)?;
        let web = host.container("web", &labelled("app", "web")?)?;
        let other = host.container("other", &labelled("app", "other")?)?;
        agent.write_policy("web.toml", WEB)?;
        eventually("the policy is in force", PATIENCE, || closed(&other, &web))?;
        agent.reconfigure(&format!("{ONE_HOST}[policy]\nenabled = false\n"))?;
        closed(&other, &web)?;
        agent.stop()?;
        agent.start_again()?;
        ensure!(!host.run("nft list tables")?.contains("slash32"), "the table is still there");
        // What was there before and what comes now has its network.
        let late = host.container("late", &labelled("app", "late")?)?;
        for (from, to) in [(&other, &web), (&late, &web), (&web, &late)] {
            reach(from, to)?;
        }
        let mapped = labelled("app", "mapped")?
            .capability("portMappings", json!([{"hostPort": 8080, "containerPort": 7, "protocol": "tcp"}]));
        let Err(error) = host.container("mapped", &mapped) else {
            bail!("a port is promised that nobody maps")
        };
        ensure!(format!("{error:#}").contains("policy is switched off"), "{error:#}");
        agent.reconfigure(ONE_HOST)?;
        agent.stop()?;
        agent.start_again()?;
        closed(&other, &web)?;
        closed(&late, &web)
    });
}
