//! Addresses by other IPAM plugins: Debian's host-local and static.

use anyhow::{Result, ensure};
use interop_tests::{
    Agent, Lab, Machine, Network, Output, PATIENCE, Rack, Switch, check, eventually, reach_each_other,
};
use serde_json::{Value, json};

use crate::kit::{refused, tidy};

/// Where host-local keeps its leases.
const LEASES: &str = "/var/lib/cni/networks/slash32";

/// A rack whose first host has one container network with this `ipam`.
fn with_ipam(name: &str, test: impl FnOnce(&Machine, &Agent, &Machine) -> Result<()>) {
    Lab::run(name, |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let (_switch, [host1, _host2]) = rack.start()?;
        rack.hosts[0].own("/var/lib/cni")?;
        test(&rack.hosts[0], &host1, &rack.hosts[1])
    });
}

fn network(version: &str, ipam: &Value) -> Result<Network> {
    Ok(Network::slash32()?.version(version).plugin_key("ipam", ipam.clone()))
}

/// GC with a list in the configuration.
fn nobody_lives(host: &Machine, network: &Network) -> Result<()> {
    let plugin = host
        .command("/opt/cni/bin/slash32")
        .env("CNI_COMMAND", "GC")
        .env("CNI_PATH", "/opt/cni/bin")
        .stdin(network.configuration(0, None)?.to_string())
        .output()?;
    ensure!(plugin.exit.success() && plugin.stdout.is_empty(), "{plugin:?}");
    Ok(())
}

/// Three addresses of IPv4, and what a range of IPv6 has.
fn host_local(six: &str) -> Value {
    json!({"type": "host-local", "dataDir": "/var/lib/cni/networks", "ranges": [
        [{"subnet": "10.32.1.64/29", "rangeStart": "10.32.1.66", "rangeEnd": "10.32.1.68"}],
        [{"subnet": six}]]})
}

/// The addresses that host-local has given.
fn leases(host: &Machine) -> Result<Vec<String>> {
    let shown = host.command("sh").args(["-c", &format!("ls {LEASES} 2>/dev/null || true")]).run()?;
    Ok(shown
        .split_whitespace()
        .filter(|f| !f.starts_with("last") && *f != "lock")
        .map(str::to_owned)
        .collect())
}

#[test]
fn host_local_gives_and_takes() {
    with_ipam("host-local", |host, agent, neighbour| {
        let other = neighbour.container("other", &Network::slash32()?)?;
        // Debian's plugins do not know 1.1.0 yet.
        for version in ["0.4.0", "1.0.0", "1.1.0"] {
            let network = network(version, &host_local("fd00:32:0:1::100/124"))?;
            let mut web = host.container("web", &network)?;
            ensure!(
                web.ipv4()?.starts_with("10.32.1.6") && web.ipv6()?.starts_with("fd00:32:0:1::1"),
                "{}",
                web.result()
            );
            ensure!(leases(host)?.len() == 2, "{:?}", leases(host)?);
            reach_each_other(&[&web, &other])?;
            web.check()?;
            // A runtime that repeats an ADD gets what there is, although host-local refuses.
            let before = (web.ipv4()?, web.ipv6()?);
            web.add()?;
            ensure!(before == (web.ipv4()?, web.ipv6()?), "{before:?} {}", web.result());
            ensure!(leases(host)?.len() == 2, "{:?}", leases(host)?);
            tidy(agent, 1)?;
            if version == "1.1.0" {
                web.call("STATUS", 0, None)?;
                // Its lease goes with it, although Debian's host-local knows nothing of GC.
                let nobody = network.clone().plugin_key("cni.dev/valid-attachments", json!([]));
                nobody_lives(host, &nobody)?;
                ensure!(leases(host)?.is_empty(), "{:?}", leases(host)?);
                tidy(agent, 0)?;
                web.add()?;
            }
            // It goes without a DEL, and the runtime begins again with an ADD; or only GC ever comes.
            host.run("ip netns delete web")?;
            eventually("it is released", PATIENCE, || check(agent.endpoints()?.is_empty(), "not yet"))?;
            host.sandbox("web")?;
            web.add()?;
            web.check()?;
            ensure!(leases(host)?.len() == 2, "{:?}", leases(host)?);
            if version == "1.1.0" {
                host.run("ip netns delete web")?;
                eventually("it is released", PATIENCE, || check(agent.endpoints()?.is_empty(), "not yet"))?;
                nobody_lives(host, &network)?;
                ensure!(leases(host)?.is_empty(), "{:?}", leases(host)?);
                host.sandbox("web")?;
                web.add()?;
            }
            web.detach()?;
            web.remove()?;
            ensure!(leases(host)?.is_empty(), "{:?}", leases(host)?);
            tidy(agent, 0)?;
        }
        Ok(())
    });
}

#[test]
fn what_host_local_gave_goes_back_when_something_fails() {
    with_ipam("host-local-fails", |host, agent, _| {
        // No IPv4 address left.
        let network4 = network("1.0.0", &host_local("fd00:32:0:1::100/124"))?;
        let full: Vec<_> =
            ["a", "b", "c"].iter().map(|n| host.container(n, &network4)).collect::<Result<_>>()?;
        host.sandbox("d")?;
        let error = refused(host.attach("d", &network4))?;
        ensure!(error.msg.contains("no IP addresses available"), "{error}");
        ensure!(leases(host)?.len() == 6, "{:?}", leases(host)?);
        tidy(agent, 3)?;
        for container in full {
            container.remove()?;
        }
        ensure!(leases(host)?.is_empty(), "{:?}", leases(host)?);

        // The first family is given, the second is not: too few IPv6 addresses.
        let network6 = network("1.0.0", &host_local("fd00:32:0:1::200/126"))?;
        let e = host.container("e", &network6)?;
        let f = host.container("f", &network6);
        let held = leases(host)?.len();
        ensure!(held == if f.is_ok() { 4 } else { 2 }, "{:?}", leases(host)?);
        host.sandbox("g")?;
        refused(host.attach("g", &network6))?;
        ensure!(leases(host)?.len() == held, "{:?}", leases(host)?);
        if let Ok(f) = f {
            f.remove()?;
        }
        e.remove()?;

        // Ours fails after it: an address that a container of slash32 has already. What it gave goes back.
        let taken: Vec<_> = ["10.32.1.66", "10.32.1.67", "10.32.1.68"]
            .iter()
            .enumerate()
            .map(|(n, address)| {
                host.container(&format!("h{n}"), &Network::slash32()?.capability("ips", json!([address])))
            })
            .collect::<Result<_>>()?;
        host.sandbox("i")?;
        let error = refused(host.attach("i", &network4))?;
        ensure!(error.code == 101 && error.msg.contains("in use"), "{error}");
        ensure!(leases(host)?.is_empty(), "{:?}", leases(host)?);
        tidy(agent, 3)?;
        for container in taken {
            container.remove()?;
        }

        // A DEL whose plugin fails takes the interface away all the same, and says that something is left.
        host.sandbox("j")?;
        let j = host.attach("j", &network4)?;
        let (four, six) = (j.ipv4()?, j.ipv6()?);
        host.run(&format!("mv {LEASES} {LEASES}.away"))?;
        host.write(LEASES, "not a folder")?;
        ensure!(
            j.detach().is_err(),
            "host-local could not give {four} and {six} back, and DEL did not say so"
        );
        ensure!(agent.endpoints()?.iter().all(|e| e.container_id != "j"), "{:?}", agent.endpoints()?);
        host.run(&format!("rm {LEASES}"))?;
        host.run(&format!("mv {LEASES}.away {LEASES}"))?;
        j.remove()?;
        ensure!(leases(host)?.iter().all(|l| *l != four && *l != six), "{:?}", leases(host)?);
        Ok(())
    });
}

#[test]
fn static_addresses_are_what_the_configuration_says() {
    with_ipam("static", |host, agent, neighbour| {
        let ipam = json!({"type": "static", "addresses": [
            {"address": "10.32.1.200/32"}, {"address": "fd00:32:0:1::c8/128"}],
            "routes": [{"dst": "10.32.0.0/16"}, {"dst": "fd00:32::/48"}], "dns": {"nameservers": ["192.0.2.53"]}});
        let other = neighbour.container("other", &Network::slash32()?)?;
        let web = host.container("web", &network("1.0.0", &ipam)?)?;
        ensure!(web.ipv4()? == "10.32.1.200" && web.ipv6()? == "fd00:32:0:1::c8", "{}", web.result());
        ensure!(web.result()["dns"]["nameservers"] == json!(["192.0.2.53"]), "{}", web.result());
        let routes = web.run("ip route show")?;
        ensure!(routes.contains("10.32.0.0/16 via 169.254.1.1") && !routes.contains("default"), "{routes}");
        reach_each_other(&[&web, &other])?;
        // The same address a second time is refused, and the first container keeps it.
        host.sandbox("twin")?;
        let error = refused(host.attach("twin", &network("1.0.0", &ipam)?))?;
        ensure!(error.code == 101 && error.msg.contains("in use"), "{error}");
        tidy(agent, 1)?;
        web.check()?;
        web.remove()?;
        tidy(agent, 0)
    });
}

/// What a call of the plugin is about, as a line of the shell.
fn shell(host: &Machine, name: &str, script: &str, network: &Network) -> Result<Output> {
    host.write("/var/lib/cni/conf", network.configuration(0, None)?.to_string())?;
    let mut command = host.command("sh").args(["-c", script]);
    for (key, value) in [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", name),
        ("CNI_NETNS", &format!("/run/netns/{name}")),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/var/lib/cni/bin:/opt/cni/bin"),
    ] {
        command = command.env(key, value);
    }
    command.output()
}

/// One endpoint has what host-local has given, and nothing else is given.
fn as_leased(host: &Machine, agent: &Agent) -> Result<()> {
    let endpoints = agent.endpoints()?;
    ensure!(endpoints.len() == 1, "{endpoints:?}");
    let mut held: Vec<String> =
        endpoints.iter().flat_map(|e| [&e.ipv4, &e.ipv6]).flatten().cloned().collect();
    let mut leased = leases(host)?;
    held.sort();
    leased.sort();
    ensure!(held == leased, "held {held:?}, leased {leased:?}");
    tidy(agent, 1)
}

/// However two ADDs of a container come together, and if one of them is killed: one endpoint, with what was given.
#[test]
fn two_adds_at_once() {
    with_ipam("two-adds", |host, agent, _| {
        host.run("mkdir -p /var/lib/cni/bin")?;
        // Takes its time before and after.
        host.write(
            "/var/lib/cni/bin/slow-local",
            "#!/bin/sh\nsleep 0.0$(($$ % 7))\n/opt/cni/bin/host-local\ncode=$?\nsleep 0.0$(($$ % 5))\nexit $code\n",
        )?;
        host.run("chmod 755 /var/lib/cni/bin/slow-local")?;
        let mut ipam = host_local("fd00:32:0:1::100/124");
        ipam["type"] = json!("slow-local");
        let network = network("1.0.0", &ipam)?;
        let call = "/opt/cni/bin/slash32 < /var/lib/cni/conf";
        for round in 0..8 {
            let name = format!("c{round}");
            host.sandbox(&name)?;
            let both = format!("{call} > /dev/null & {call} > /dev/null & wait");
            shell(host, &name, &both, &network)?;
            as_leased(host, agent)?;
            shell(host, &name, &format!("export CNI_COMMAND=DEL; {call}"), &network)?;
            ensure!(leases(host)?.is_empty(), "{:?}", leases(host)?);
            tidy(agent, 0)?;
            // Killed in between, wherever that is; the runtime's other one goes on.
            let killed = format!(
                "{call} > /dev/null & one=$!; {call} > /dev/null & sleep 0.0{round}; kill -9 $one; wait"
            );
            shell(host, &name, &killed, &network)?;
            as_leased(host, agent)?;
            shell(host, &name, &format!("export CNI_COMMAND=DEL; {call} & {call} & wait"), &network)?;
            ensure!(leases(host)?.is_empty(), "{:?}", leases(host)?);
            tidy(agent, 0)?;
        }
        Ok(())
    });
}

/// The configuration is another one at DEL than it was at ADD.
#[test]
fn whoever_gave_addresses_gets_them_back() {
    with_ipam("ipam-changes", |host, agent, _| {
        let given = network("1.0.0", &host_local("fd00:32:0:1::100/124"))?;
        let call = "/opt/cni/bin/slash32 < /var/lib/cni/conf";
        let changed = [Network::slash32()?, network("1.0.0", &json!({"type": "no-such-plugin"}))?];
        for (round, later) in changed.iter().cycle().take(4).enumerate() {
            let name = format!("c{round}");
            host.sandbox(&name)?;
            let added = shell(host, &name, call, &given)?;
            ensure!(added.exit.success() && leases(host)?.len() == 2, "{added:?}");
            if round >= 2 {
                agent.process().pause()?;
            }
            let deleted = shell(host, &name, &format!("export CNI_COMMAND=DEL; {call}"), later)?;
            agent.process().resume()?;
            ensure!(deleted.exit.success(), "{deleted:?}");
            ensure!(leases(host)?.is_empty(), "{round}: {:?}", leases(host)?);
            eventually("it is gone", PATIENCE, || tidy(agent, 0))?;
        }
        Ok(())
    });
}

/// A plugin that calls slash32 again would do so without end.
#[test]
fn an_ipam_plugin_that_calls_us_is_refused() {
    with_ipam("ipam-circle", |host, agent, _| {
        host.run("mkdir -p /var/lib/cni/bin")?;
        host.run("ln -s /opt/cni/bin/slash32 /var/lib/cni/bin/alias")?;
        host.run("cp -L /opt/cni/bin/slash32 /var/lib/cni/bin/copy")?;
        host.write("/var/lib/cni/bin/wrapper", "#!/bin/sh\nexec /opt/cni/bin/slash32\n")?;
        // One that leaves itself out of the configuration.
        let without = "#!/bin/sh\nsed 's/\"ipam\":{[^}]*}/\"x\":0/' | /opt/cni/bin/slash32\n";
        host.write("/var/lib/cni/bin/without", without)?;
        host.run("chmod 755 /var/lib/cni/bin/wrapper /var/lib/cni/bin/without")?;
        host.sandbox("web")?;
        let call = "/opt/cni/bin/slash32 < /var/lib/cni/conf";
        for kind in ["alias", "copy", "wrapper", "without"] {
            let network = network("1.0.0", &json!({ "type": kind }))?;
            let refused = shell(host, "web", call, &network)?;
            let error: Value = serde_json::from_str(&refused.stdout)?;
            ensure!(!refused.exit.success() && error["code"] == 7, "{kind}: {refused:?}");
            let msg = error["msg"].as_str().unwrap_or_default();
            ensure!(msg.contains(kind) && msg.contains("calls slash32 again"), "{kind}: {msg}");
            let deleted = shell(host, "web", &format!("export CNI_COMMAND=DEL; {call}"), &network)?;
            ensure!(deleted.exit.success(), "{kind}: {deleted:?}");
            tidy(agent, 0)?;
        }
        Ok(())
    });
}
