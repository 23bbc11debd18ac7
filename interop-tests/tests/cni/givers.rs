//! IPAM plugins that misbehave, and Debian's `dhcp`: a clear error, what was given is given back, nothing is left.

use std::thread;

use anyhow::{Context, Result, ensure};
use interop_tests::{Agent, CniError, Lab, Machine, Network, ONE_HOST, PATIENCE, check, eventually};
use serde_json::json;

use crate::kit::{refused, tidy};

/// Where each call is noted.
const CALLS: &str = "/var/lib/cni/calls";

/// A plugin that does this at ADD, and as it is told at DEL.
fn plugin(host: &Machine, name: &str, at_add: &str) -> Result<Network> {
    let path = format!("/opt/cni/bin/{name}");
    let script = format!(
        "#!/bin/sh\ncat > /dev/null\necho $CNI_COMMAND >> {CALLS}.{name}\n[ $CNI_COMMAND = ADD ] || exit 0\n{at_add}\n"
    );
    host.write(&path, script)?;
    host.run(&format!("chmod 755 {path}"))?;
    Ok(Network::slash32()?.plugin_key("ipam", json!({ "type": name })))
}

/// What an ADD with such a plugin says, in a namespace in which nothing is left, nor on the host.
fn outcome(agent: &Agent, name: &str, at_add: &str, living: usize) -> Result<CniError> {
    let host = agent.machine();
    let network = plugin(host, name, at_add)?;
    host.sandbox(name)?;
    let error = refused(host.attach(name, &network))?;
    let links = host.command("ip").args(["-o", "link", "show"]).netns(name).run()?;
    ensure!(!links.contains("eth0"), "{name}: {links}");
    let calls = host.read(&format!("{CALLS}.{name}"))?;
    // Its own error says that it has given nothing; it is asked again after a DEL all the same.
    ensure!(calls.starts_with("ADD\nDEL\n"), "{name}: {calls}");
    eventually(&format!("nothing is left of {name}"), PATIENCE, || tidy(agent, living))?;
    Ok(error)
}

#[test]
fn plugins_that_misbehave() {
    Lab::run("givers", |lab| {
        let host = lab.machine("host")?;
        host.own("/var/lib/cni")?;
        let agent = Agent::start(&host, ONE_HOST)?;
        let lives = host.container("lives", &Network::slash32()?)?;
        let gives = |ips: &[&str]| {
            let ips: Vec<_> = ips.iter().map(|ip| json!({ "address": ip })).collect();
            format!("echo '{}'", json!({"cniVersion": "1.0.0", "ips": ips}))
        };
        let taken = |address: String| gives(&[&address]);
        let cases = [
            ("nonsense", "echo hello".to_owned(), 106, "its answer is not JSON"),
            ("endless", "exec yes".to_owned(), 106, "SIGPIPE"),
            ("killed", "kill -9 $$".to_owned(), 106, "signal: 9"),
            ("silent", "exit 3".to_owned(), 106, "exit status: 3: no error on standard output"),
            ("words", "echo out of luck; exit 1".to_owned(), 106, "out of luck"),
            ("own-error", "echo '{\"code\":117,\"msg\":\"no room\"}'; exit 1".to_owned(), 117, "no room"),
            ("nothing", "exit 0".to_owned(), 106, "given no addresses"),
            ("no-ips", gives(&[]), 106, "gave no address"),
            ("a-list", "echo '[1]'".to_owned(), 7, "ipam"),
            ("no-address", gives(&["10.32.4.300/32"]), 7, "10.32.4.300"),
            ("twice", gives(&["10.32.9.1/32", "10.32.9.2/32"]), 2, "a second address of a family, 10.32.9.2"),
            ("in-use4", taken(format!("{}/32", lives.ipv4()?)), 101, "in use"),
            ("in-use6", taken(format!("{}/128", lives.ipv6()?)), 101, "in use"),
            ("loopback", gives(&["127.0.0.9/32"]), 101, "127.0.0.9"),
            ("multicast", gives(&["ff02::5/128"]), 101, "ff02::5"),
            ("link-local", gives(&["fe80::5/128"]), 101, "fe80::5"),
        ];
        let hangs = plugin(&host, "hangs", "exec sleep 600")?;
        host.sandbox("hangs")?;
        thread::scope(|scope| {
            // The rest is done while this one takes its time.
            let hung = scope.spawn(|| refused(host.attach("hangs", &hangs)));
            for (name, at_add, code, words) in &cases {
                let error = outcome(&agent, name, at_add, 1)?;
                let said = error.msg.contains(words) && error.code == *code;
                ensure!(said && !error.details.contains("rolling back"), "{name}: {error}");
            }
            let hung = hung.join().ok().context("the call ended")??;
            ensure!(hung.code == 106 && hung.msg.contains("no answer within 25 s"), "{hung}");
            ensure!(host.read(&format!("{CALLS}.hangs"))? == "ADD\nDEL\n", "it got no DEL");
            Ok(())
        })?;
        tidy(&agent, 1)?;
        lives.check()?;
        // One that is well, by the same shell.
        let well = plugin(&host, "well", &gives(&["10.32.9.1/32", "fd00:32:0:9::1/128"]))?;
        let well = host.container("well", &well)?;
        ensure!(well.ipv4()? == "10.32.9.1" && well.ipv6()? == "fd00:32:0:9::1", "{}", well.result());
        tidy(&agent, 2)?;
        for container in [well, lives] {
            container.remove()?;
        }
        tidy(&agent, 0)
    });
}

/// Debian's dhcp wants the interface before there are addresses (`docs/cni.md`). It says so, and nothing is left.
#[test]
fn dhcp_does_not_work_and_says_so() {
    Lab::run("dhcp", |lab| {
        let host = lab.machine("host")?;
        host.own("/run/cni")?;
        let agent = Agent::start(&host, ONE_HOST)?;
        let network = Network::slash32()?.plugin_key("ipam", json!({"type": "dhcp"}));
        host.sandbox("web")?;
        let without = refused(host.attach("web", &network))?;
        ensure!(without.msg.contains("dhcp.sock"), "{without}");
        tidy(&agent, 0)?;
        let daemon = host.command("/opt/cni/bin/dhcp").args(["daemon"]).spawn("dhcp")?;
        eventually("the daemon listens", PATIENCE, || {
            daemon.check()?;
            check(host.run("ls /run/cni")?.contains("dhcp.sock"), "no socket")
        })?;
        let with = refused(host.attach("web", &network))?;
        ensure!(with.msg.contains("eth0"), "{with}");
        let links = host.command("ip").args(["-o", "link", "show"]).netns("web").run()?;
        ensure!(!links.contains("eth0"), "{links}");
        tidy(&agent, 0)?;
        daemon.kill()
    });
}
