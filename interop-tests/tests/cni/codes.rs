//! The numbers of errors that runtimes act by, with a host that cannot serve.

use anyhow::{Context, Result, ensure};
use interop_tests::{Agent, CniError, Container, Lab, Network, ONE_HOST, PATIENCE, check, eventually};

use crate::kit::{refused, tidy};

const POLICY_DIR: &str = "/etc/slash32/policy.d";

/// What a verb that fails says.
fn fails(container: &Container, verb: &str) -> Result<CniError> {
    let error = container.call(verb, 0, Some(container.result())).err();
    let error = error.with_context(|| format!("{verb} succeeded"))?;
    error.downcast_ref::<CniError>().cloned().context(error)
}

#[test]
fn a_host_that_does_not_forward() {
    Lab::run("not-forwarding", |lab| {
        let host = lab.machine("host")?;
        let agent = Agent::start(&host, ONE_HOST)?;
        let web = host.container("web", &Network::slash32()?.version("1.1.0"))?;
        web.call("STATUS", 0, None)?;
        for sysctl in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
            host.sysctl(sysctl, "0")?;
            let status = fails(&web, "STATUS")?;
            ensure!(status.code == 51 && status.details.contains(sysctl), "{sysctl}: {status}");
            let found = fails(&web, "CHECK")?;
            ensure!(found.code == 105 && found.details.contains("forward"), "{sysctl}: {found}");
            host.sysctl(sysctl, "1")?;
            web.call("STATUS", 0, None)?;
        }
        web.remove()?;
        tidy(&agent, 0)
    });
}

/// Nothing is known of what the policies were, and they cannot be read now.
#[test]
fn a_host_without_policies() {
    Lab::run("no-policies", |lab| {
        let host = lab.machine("host")?;
        let mut agent = Agent::start(&host, ONE_HOST)?;
        let network = Network::slash32()?.version("1.1.0");
        let web = host.container("web", &network)?;
        let broken = format!("{POLICY_DIR}/broken.toml");
        agent.write_policy("broken.toml", "[[policy]]\nselect = 'role =='\n")?;
        eventually("the agent tells", PATIENCE, || {
            let status = agent.status()?.to_string();
            check(status.contains("broken.toml"), status)
        })?;
        // The last good state is in force: no reason to refuse anything.
        web.call("STATUS", 0, None)?;
        host.container("next", &network)?.remove()?;
        // As after a reboot with a runtime that was faster, and nobody remembers.
        agent.kill()?;
        host.run("nft delete table inet slash32")?;
        host.command("sh").args(["-c", "rm /run/slash32/policies.json"]).run()?;
        agent.start_again()?;
        let status = fails(&web, "STATUS")?;
        ensure!(status.code == 51 && status.msg.contains("policies"), "{status}");
        let found = fails(&web, "CHECK")?;
        ensure!(found.code == 103, "{found}");
        host.sandbox("late")?;
        let error = refused(host.attach("late", &network))?;
        ensure!(error.code == 103 && error.details.contains("folder has errors"), "{error}");
        let ends = host.command("ip").args(["-o", "link", "show"]).netns("late").run()?;
        ensure!(!ends.contains("eth0"), "{ends}");
        host.run(&format!("rm {broken}"))?;
        eventually("the endpoint is taken up", PATIENCE, || web.check())?;
        web.call("STATUS", 0, None)?;
        let late = host.attach("late", &network)?;
        for container in [late, web] {
            container.remove()?;
        }
        tidy(&agent, 0)
    });
}
