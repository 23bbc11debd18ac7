//! The numbers of errors that runtimes act by, with a host that cannot serve.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use interop_tests::{
    Agent, CniError, Container, Lab, Machine, Network, ONE_HOST, PATIENCE, check, eventually,
};
use serde_json::{Value, json};

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

/// Calls the plugin by hand, with its standard input from a file and a limit of the shell's; the error's code and text.
fn call(host: &Machine, before: &str, more: &[(&str, &str)]) -> Result<(i64, String)> {
    let line = format!("{before} /opt/cni/bin/slash32 < /var/lib/cni/conf");
    let mut command = host.command("bash").args(["-c", &line]);
    for (key, value) in [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "web"),
        ("CNI_NETNS", "/run/netns/web"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin"),
    ]
    .iter()
    .chain(more)
    {
        command = command.env(key, value);
    }
    let output = command.output()?;
    let answer: Value = serde_json::from_str(&output.stdout).with_context(|| format!("{output:?}"))?;
    ensure!(output.exit.success() == answer["code"].is_null(), "{output:?}");
    Ok((answer["code"].as_i64().unwrap_or(0), answer["msg"].as_str().unwrap_or_default().to_owned()))
}

/// Each number with its message, by both ways to the agent.
#[test]
fn numbers_and_their_messages() {
    Lab::run("numbers", |lab| {
        let host = lab.machine("host")?;
        host.own("/var/lib/cni")?;
        let agent = Agent::start(&host, ONE_HOST)?;
        let good = Network::slash32()?;
        let lives = host.container("lives", &good)?;
        host.sandbox("web")?;
        host.write("/var/lib/cni/no-netns", "something")?;
        let with = |key: &str, value: Value| -> Result<String> {
            Ok(good.clone().plugin_key(key, value).configuration(0, None)?.to_string())
        };
        let conf = good.configuration(0, None)?.to_string();
        let asks = |address: &str| -> Result<String> {
            let network = good.clone().capability("ips", json!([address]));
            Ok(network.configuration(0, None)?.to_string())
        };
        let ports = good.clone().capability(
            "portMappings",
            json!([{"hostPort": 179, "containerPort": 1,
            "protocol": "tcp"}]),
        );
        let shape = |text: &str| text.replace("1.0.0", "7.0.0");
        let cases = [
            (shape(&conf), [("A", ""); 1], 1, "7.0.0"),
            (conf.clone(), [("CNI_NETNS", "/run/netns/nowhere")], 3, "/run/netns/nowhere"),
            (conf.clone(), [("CNI_NETNS", "")], 4, "CNI_NETNS is not set"),
            (conf.clone(), [("CNI_IFNAME", "a/b")], 4, "a/b"),
            (conf.clone(), [("CNI_CONTAINERID", "-x")], 4, "-x"),
            (conf.clone(), [("CNI_COMMAND", "SING")], 4, "unknown CNI_COMMAND \"SING\""),
            ("{\"name\":".to_owned(), [("A", "")], 6, "JSON"),
            (with("mtu", json!(5))?, [("A", "")], 7, "mtu: 5 is not a usable MTU"),
            (with("ipam", json!({"type": "no-such"}))?, [("A", "")], 7, "there is no plugin \"no-such\""),
            (conf.clone(), [("CNI_NETNS", "/var/lib/cni/no-netns")], 8, "/var/lib/cni/no-netns"),
            (with("ipam", json!({"pools": ["none"]}))?, [("A", "")], 7, "none"),
            (asks(&lives.ipv4()?)?, [("A", "")], 101, "is in use by"),
            (asks(&lives.ipv6()?)?, [("A", "")], 101, "is in use by"),
            (asks("192.0.2.77")?, [("A", "")], 101, "192.0.2.77 is in none of the network's pools"),
            (ports.configuration(0, None)?.to_string(), [("A", "")], 107, "179"),
        ];
        for way in ["", "SLASH32_RUN_DIR=/run/slash32"] {
            for (stdin, more, code, words) in &cases {
                host.write("/var/lib/cni/conf", stdin)?;
                let (is, msg) = call(&host, way, more)?;
                ensure!(is == *code && msg.contains(words), "{code} {words}: {is} {msg}");
            }
            // An interface that is somebody else's, inside and on the host.
            host.write("/var/lib/cni/conf", &conf)?;
            host.run("ip -n web link add eth0 type veth peer name other")?;
            let (is, msg) = call(&host, way, &[])?;
            ensure!(is == 4 && msg.contains("eth0"), "{is} {msg}");
            host.run("ip -n web link del eth0")?;
        }
        tidy(&agent, 1)?;
        lives.remove()?;
        tidy(&agent, 0)
    });
}

/// A plugin with hardly any file descriptors works. An agent without any is busy, and makes no ADD later that its plugin
/// has given up.
#[test]
fn no_file_descriptors_left() {
    Lab::run("descriptors", |lab| {
        let host = lab.machine("host")?;
        host.own("/var/lib/cni")?;
        let agent = Agent::start(&host, ONE_HOST)?;
        let network = Network::slash32()?;
        let lives = host.container("lives", &network)?;
        host.sandbox("web")?;
        host.write("/var/lib/cni/conf", network.configuration(0, None)?.to_string())?;
        let del = [("CNI_COMMAND", "DEL")];
        // The plugin, with one more than standard input, output and error, or a few; the shell opens its file with one.
        for limit in 4..9 {
            let (code, msg) = call(&host, &format!("ulimit -n {limit};"), &[])?;
            ensure!(code == 0 || code == 11, "{limit}: {code} {msg}");
            ensure!(call(&host, "true;", &del).is_err(), "DEL says something");
            tidy(&agent, 1)?;
        }
        // The agent.
        let pid = agent.process().pid();
        let open = host.run(&format!("ls /proc/{pid}/fd"))?;
        let open: BTreeSet<u32> = open.split_whitespace().filter_map(|fd| fd.parse().ok()).collect();
        // A limit is one more than the largest number that may be given.
        let free: Vec<u32> = (0..1024).filter(|fd| !open.contains(fd)).collect();
        let limit = |soft: u32| host.run(&format!("prlimit --pid {pid} --nofile={soft}:")).map(drop);
        let before = host.run(&format!("prlimit --pid {pid} --nofile --output SOFT --noheadings --raw"))?;
        // By the long way, on which nobody may be there any more when the agent can read.
        limit(free[0])?;
        let (code, msg) = call(&host, "SLASH32_RUN_DIR=/run/slash32", &[])?;
        limit(before.trim().parse()?)?;
        ensure!(code == 11, "{code} {msg}");
        // What waited has been read by the time that somebody who came later is served.
        host.container("later", &network)?.remove()?;
        tidy(&agent, 1)?;
        let links = host.command("ip").args(["-o", "link", "show"]).netns("web").run()?;
        ensure!(!links.contains("eth0"), "{links}");
        lives.check()?;
        lives.remove()?;
        tidy(&agent, 0)
    });
}

/// Many at once, as it is a matter of luck whether the agent sees in time that one of them is gone.
#[test]
fn an_add_that_was_given_up_is_not_made() {
    Lab::run("given-up", |lab| {
        let host = lab.machine("host")?;
        host.own("/var/lib/cni")?;
        let agent = Agent::start(&host, ONE_HOST)?;
        let network = Network::slash32()?;
        host.sandbox("web")?;
        host.write("/var/lib/cni/conf", network.configuration(0, None)?.to_string())?;
        agent.process().pause()?;
        let line =
            "for n in $(seq 48); do CNI_IFNAME=eth$n /opt/cni/bin/slash32 < /var/lib/cni/conf & done; wait";
        let said = host
            .command("bash")
            .args(["-c", line])
            .env("CNI_COMMAND", "ADD")
            .env("CNI_CONTAINERID", "web")
            .env("CNI_NETNS", "/run/netns/web")
            .env("CNI_PATH", "/opt/cni/bin")
            // The long way.
            .env("SLASH32_RUN_DIR", "/run/slash32")
            .output()?;
        agent.process().resume()?;
        ensure!(said.stdout.matches("\"code\":11").count() == 48, "{}", said.stdout);
        // By the same way, after them.
        agent.status()?;
        host.container("later", &network)?.remove()?;
        tidy(&agent, 0)
    });
}
