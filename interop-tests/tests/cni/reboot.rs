//! The first minutes after a boot, and a run directory that is lost: addresses that live elsewhere are given to nobody.

use std::thread;

use anyhow::{Context, Result, ensure};
use interop_tests::{
    Agent, CniError, Container, Lab, Machine, Network, ONE_HOST, PATIENCE, Process, Rack, Running, Switch,
    check, eventually, labelled,
};
use serde_json::{Value, json};

use crate::kit::{asking_for, tidy};

/// Calls the plugin as a runtime does that has no container yet.
fn call(host: &Machine, verb: &str, container: &str) -> Result<interop_tests::Output> {
    let config = Network::slash32()?.version("1.1.0").configuration(0, None)?;
    host.command("/opt/cni/bin/slash32")
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", container)
        .env("CNI_NETNS", format!("/run/netns/{container}"))
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/opt/cni/bin")
        .stdin(config.to_string())
        .output()
}

fn adds_waiting(agent: &Agent) -> Result<Value> {
    Ok(agent.status()?["adds_waiting"].clone())
}

fn wait_for_adds(agent: &Agent, count: usize) -> Result<()> {
    eventually(&format!("{count} ADDs wait"), PATIENCE, || {
        let waiting = adds_waiting(agent)?;
        check(waiting["count"] == count, waiting.to_string())
    })
}

/// BIRD is there, as the kernel takes its connections, and says nothing.
fn bird(switch: &Running) -> Result<&Process> {
    switch.router().and_then(|router| router.processes().first()).context("BIRD")
}

/// Takes a container of the first host to the second with its addresses, and makes the first host forget all of it, as a
/// boot does.
fn moved(rack: &Rack, host1: &Agent) -> Result<Container> {
    let own = rack.hosts[0].container("own", &Network::slash32()?)?;
    let (four, six) = (own.ipv4()?, own.ipv6()?);
    let far = rack.hosts[1].container("far", &asking_for(&[&four, &six])?)?;
    eventually("the first host gives way", PATIENCE, || {
        let endpoints = host1.endpoints()?;
        check(endpoints.iter().all(|e| e.ipv4.is_none() && e.ipv6.is_none()), format!("{endpoints:?}"))
    })?;
    own.remove()?;
    Ok(far)
}

fn boot(host1: &mut Agent, lost: &str) -> Result<()> {
    host1.kill()?;
    host1.machine().command("sh").args(["-c", lost]).run()?;
    host1.start_again()
}

#[test]
fn adds_after_a_boot_wait_for_the_neighbours() {
    Lab::run("boot-wait", |lab| {
        let rack = Rack::new(lab, Switch::Bird)?;
        let switch = rack.start_switch()?;
        // The first session is offered both families, and BIRD takes one of them.
        let both = |_: usize, config: String| config.replacen("families = [\"ipv4\"]\n", "", 1);
        let [mut host1, host2] = rack.start_hosts_with(both)?;
        for agent in [&host1, &host2] {
            agent.wait_established(2)?;
        }
        let host = &rack.hosts[0];
        let far = moved(&rack, &host1)?;
        let (four, six) = (far.ipv4()?, far.ipv6()?);
        let bird = bird(&switch)?;
        bird.pause()?;
        boot(&mut host1, "rm -rf /run/slash32/* /var/lib/slash32/*")?;
        let names = ["one", "two", "three"];
        for name in names.iter().chain(&["doomed"]) {
            host.sandbox(name)?;
        }
        let network = Network::slash32()?;
        thread::scope(|scope| {
            let adds = names.map(|name| scope.spawn(|| host.attach(name, &network)));
            wait_for_adds(&host1, 3)?;
            let doomed = scope.spawn(|| host.attach("doomed", &network));
            wait_for_adds(&host1, 4)?;
            // Nobody else waits.
            ensure!(call(host, "DEL", "stranger")?.exit.success(), "a DEL of what is not there");
            ensure!(call(host, "STATUS", "")?.exit.success(), "STATUS");
            ensure!(!call(host, "CHECK", "one")?.exit.success(), "CHECK of what is not there yet");
            host.run("slash32 ipam check")?;
            ensure!(call(host, "DEL", "doomed")?.exit.success(), "a DEL of what waits");
            let error = doomed.join().expect("no panic").err().context("it was deleted")?;
            let error = error.downcast::<CniError>()?;
            ensure!(error.code == 11 && error.msg.contains("a DEL came"), "{error}");
            let waiting = adds_waiting(&host1)?;
            ensure!(waiting["count"] == 3, "{waiting}");
            ensure!(waiting["neighbours"][0] == "192.0.2.0 (ipv4, ipv6)", "{waiting}");
            let (doctor, page) =
                (host.command("slash32").arg("doctor").output()?, host.run("slash32 metrics")?);
            ensure!(doctor.stdout.contains("neighbours after the boot"), "{}", doctor.stdout);
            ensure!(page.contains("slash32_neighbours_awaited 2\n"), "{page}");
            ensure!(page.contains("slash32_cni_adds_waiting 3\n"), "{page}");
            bird.resume()?;
            for add in adds {
                let container = add.join().expect("no panic")?;
                ensure!(container.ipv4()? != four && container.ipv6()? != six, "{}", container.result());
                container.check()?;
            }
            Ok(())
        })?;
        ensure!(adds_waiting(&host1)?.is_null(), "nobody waits");
        let log = host1.process().log();
        ensure!(log.contains("the neighbours have told what they know"), "{log}");
        far.check()?;
        tidy(&host1, 3)?;
        // A crash loses nothing: nobody waits for a silent neighbour then.
        bird.pause()?;
        boot(&mut host1, "true")?;
        ensure!(adds_waiting(&host1)?.is_null(), "a restart has nothing to wait for");
        let crashed = host.container("four", &network)?;
        ensure!(crashed.ipv4()? != four && crashed.ipv6()? != six, "{}", crashed.result());
        bird.resume()
    });
}

/// A neighbour that never comes is waited for as long as is configured. What asks for no address of ours does not wait.
#[test]
fn adds_after_a_boot_do_not_wait_for_ever() {
    Lab::run("boot-bound", |lab| {
        let host = lab.machine("host")?;
        let link = |line: &str| host.run(line).map(drop);
        link("ip link add up0 type veth peer name down0")?;
        link("ip link set down0 up")?;
        link("ip link set up0 up")?;
        link("ip address add 192.0.2.1/24 dev up0")?;
        let config = |seconds: u32| {
            format!(
                "[bgp]\nasn = 64512\n[[bgp.peer]]\naddress = \"192.0.2.9\"\nasn = 65000\n\
                 [ipam]\nneighbours_wait_seconds = {seconds}\n{ONE_HOST}"
            )
        };
        let mut agent = Agent::start(&host, &config(12))?;
        host.sandbox("patient")?;
        thread::scope(|scope| {
            let patient = scope.spawn(|| host.attach("patient", &Network::slash32()?));
            wait_for_adds(&agent, 1)?;
            let delegated = json!({"type": "host-local", "ranges": [[{"subnet": "10.32.4.0/24", "rangeStart": "10.32.4.200"}]]});
            let other = Network::slash32()?.plugin_key("ipam", delegated).plugin_key("name", json!("other"));
            host.container("delegated", &other)?.remove()?;
            let waiting = adds_waiting(&agent)?;
            ensure!(
                waiting["count"] == 1 && waiting["neighbours"][0] == "192.0.2.9 (ipv4, ipv6)",
                "{waiting}"
            );
            // A reload that says so ends it.
            agent.reconfigure(&config(0))?;
            patient.join().expect("no panic")?.remove()
        })?;
        ensure!(adds_waiting(&agent)?.is_null(), "the wait is over");
        agent.kill()?;
        host.write("/etc/slash32/slash32.toml", config(1))?;
        host.run("rm /run/slash32/neighbours.told")?;
        agent.start_again()?;
        let late = host.container("late", &Network::slash32()?)?;
        let log = agent.process().log();
        ensure!(log.contains("have not told what they know: 192.0.2.9 (ipv4, ipv6)"), "{log}");
        ensure!(adds_waiting(&agent)?.is_null(), "the wait is over");
        late.remove()?;
        // Who was sent away does not know what has happened since; who has crashed is back before anything has.
        agent.kill()?;
        host.write("/etc/slash32/slash32.toml", config(12))?;
        agent.start_again()?;
        ensure!(adds_waiting(&agent)?.is_null(), "after a crash");
        agent.cli("stop").run()?;
        agent.process().wait(PATIENCE)?;
        agent.start_again()?;
        ensure!(adds_waiting(&agent)?["count"] == 0, "{}", adds_waiting(&agent)?);
        tidy(&agent, 0)
    });
}

/// Without its run directory an agent knows its endpoints from the state directory; after a boot none of them comes back,
/// and what other hosts have is given to nobody, even where nobody is waited for.
#[test]
fn the_state_directory_outlives_the_run_directory() {
    Lab::run("state-dir", |lab| {
        let rack = Rack::new(lab, Switch::Bird)?;
        let switch = rack.start_switch()?;
        let quick = |_: usize, config: String| {
            config.replacen("[[ipam.pool]]", "[ipam]\nneighbours_wait_seconds = 0\n\n[[ipam.pool]]", 1)
        };
        let [mut host1, host2] = rack.start_hosts_with(quick)?;
        host1.wait_established(2)?;
        host2.wait_established(2)?;
        let host = &rack.hosts[0];
        let far = moved(&rack, &host1)?;
        let ports = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
        let web = host.container("web", &labelled("role", "web")?.capability("portMappings", ports))?;
        let any = asking_for(&["10.32.200.1", "fd00:32:0:c8::1"])?.plugin_key("anycast", json!(true));
        let one = host.container("one", &any)?;
        let before: Value = host1.cli("endpoints --json").json()?;
        let copies = || host.command("sh").args(["-c", "cat /var/lib/slash32/copies/*/*"]).output();
        eventually("both have copies, and the addresses are noted", PATIENCE, || {
            let (copies, noted) = (copies()?.stdout, host.read("/var/lib/slash32/elsewhere.json")?);
            check(
                copies.matches("\"container_id\"").count() == 2 && noted.contains(&far.ipv6()?),
                format!("{copies} {noted}"),
            )
        })?;

        boot(&mut host1, "rm -rf /run/slash32")?;
        let after: Value = host1.cli("endpoints --json").json()?;
        ensure!(after == before, "{after}\nbefore: {before}");
        host1.wait_established(2)?;
        web.check()?;
        let two = rack.hosts[1].container("two", &any)?;
        one.check()?;
        let status = host1.status()?["problems"].to_string();
        ensure!(!status.contains("endpoint"), "{status}");
        two.remove()?;

        // A boot: no interface of a container, nothing in /run, another boot's copies, and no neighbour that says anything.
        bird(&switch)?.pause()?;
        let gone = "for link in $(ip -o link show type veth | grep -o 's32[^:@]*'); do ip link delete $link; done; \
                    rm -rf /run/slash32; cd /var/lib/slash32/copies && mv * 00000000-0000-0000-0000-000000000000";
        boot(&mut host1, gone)?;
        ensure!(host1.endpoints()?.is_empty(), "{:?}", host1.endpoints()?);
        eventually("nothing is left of the former boot", PATIENCE, || {
            let left = copies()?.stdout;
            check(left.is_empty(), left)
        })?;
        let early = host.container("early", &Network::slash32()?)?;
        ensure!(early.ipv4()? != far.ipv4()? && early.ipv6()? != far.ipv6()?, "{}", early.result());
        bird(&switch)?.resume()?;
        host1.wait_established(2)?;
        far.check()?;
        early.check()?;
        tidy(&host1, 1)?;

        // Where nothing can be kept that is said, and nothing fails.
        host1.kill()?;
        host.run(
            "rm -rf /var/lib/slash32/copies /var/lib/slash32/agent.lock /var/lib/slash32/elsewhere.json",
        )?;
        let file = "/etc/slash32/slash32.toml";
        let named = host.read(file)?.replacen("[agent]", "[agent]\nstate_dir = \"/proc/nothing\"", 1);
        let named = if named.contains("state_dir") {
            named
        } else {
            format!("[agent]\nstate_dir = \"/proc/nothing\"\n{named}")
        };
        host.write(file, named)?;
        host1.start_again()?;
        let status = host1.status()?["problems"].to_string();
        ensure!(status.contains("the state directory cannot be used (/proc/nothing: "), "{status}");
        host.container("last", &Network::slash32()?)?.remove()?;
        tidy(&host1, 1)
    });
}
