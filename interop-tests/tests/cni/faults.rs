//! A host on a bad day: after each, addresses in use are exactly those of living containers.

use std::thread;

use anyhow::{Context, Result, bail, ensure};
use interop_tests::{
    Agent, CniError, Container, Lab, Machine, Network, ONE_HOST, PATIENCE, Rack, Switch, check, eventually,
    example, labelled,
};

use crate::kit::{asking_for, refused, tidy};

const RUN_DIR: &str = "/run/slash32";
/// Its folders.
const FOLDERS: [&str; 3] = ["endpoints", "released", "tombstones"];

/// A host with its agent at a switch, and its run directory on a file system of its own.
fn on_a_host(name: &str, test: impl FnOnce(&Machine, Agent) -> Result<()>) {
    Lab::run(name, |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let _switch = rack.start_switch()?;
        let host = &rack.hosts[0];
        host.own(RUN_DIR)?;
        host.run(&format!("mount -t tmpfs -o size=1m,mode=755 tmpfs {RUN_DIR}"))?;
        let config = example(&Switch::Slash32.host_file(1))?.replacen(
            "[[ipam.pool]]",
            "[ipam]\nquarantine_seconds = 0\n\n[[ipam.pool]]",
            1,
        );
        let agent = Agent::start(host, &config)?;
        agent.wait_established(2)?;
        test(host, agent)
    });
}

#[test]
fn a_full_disk() {
    on_a_host("disk-full", |host, mut agent| {
        let network = Network::slash32()?.version("1.1.0");
        let old = host.container("old", &network)?;
        let problems = || Ok::<_, anyhow::Error>(agent.status()?["problems"].to_string());
        old.call("STATUS", 0, None)?;
        ensure!(!problems()?.contains("can be attached"), "{}", problems()?);
        // Filled to the last byte.
        drop(host.command("sh").args(["-c", &format!("cat /dev/zero > {RUN_DIR}/filler")]).output()?);
        host.sandbox("new")?;
        let error = refused(host.attach("new", &network))?;
        ensure!(error.code == 5 && error.details.contains("full"), "{error}");
        ensure!(!error.details.contains("rolling back"), "{error}");
        let status = old.call("STATUS", 0, None).err().context("STATUS on a full disk")?.to_string();
        ensure!(status.contains("error 50") && status.contains("full"), "{status}");
        ensure!(problems()?.contains("no container can be attached"), "{}", problems()?);
        let ends = host.command("ip").args(["-o", "link", "show"]).netns("new").run()?;
        ensure!(!ends.contains("eth0"), "{ends}");
        tidy(&agent, 1)?;
        old.check()?;
        old.remove()?;
        tidy(&agent, 0)?;
        agent.kill()?;
        agent.start_again()?;
        tidy(&agent, 0)?;
        host.run(&format!("rm {RUN_DIR}/filler"))?;
        let new = host.attach("new", &network)?;
        tidy(&agent, 1)?;
        new.remove()?;
        tidy(&agent, 0)
    });
}

#[test]
fn a_read_only_run_directory() {
    on_a_host("read-only", |host, mut agent| {
        let network = Network::slash32()?;
        let old = host.container("old", &network)?;
        let stays = host.container("stays", &network)?;
        for dir in FOLDERS {
            host.run(&format!("mount --bind {RUN_DIR}/{dir} {RUN_DIR}/{dir}"))?;
            host.run(&format!("mount -o remount,bind,ro {RUN_DIR}/{dir}"))?;
        }
        host.sandbox("new")?;
        let error = refused(host.attach("new", &network))?;
        ensure!(
            error.code == 5 && error.details.starts_with("the file system of the run directory is read-only"),
            "{error}"
        );
        old.remove()?;
        stays.check()?;
        let endpoints = agent.endpoints()?;
        ensure!(endpoints.len() == 1 && endpoints[0].container_id == "stays", "{endpoints:?}");
        for dir in FOLDERS {
            host.run(&format!("umount {RUN_DIR}/{dir}"))?;
        }
        // What could not be removed is, as soon as it can be.
        for killed in [false, true] {
            if killed {
                agent.kill()?;
                agent.start_again()?;
            }
            eventually("the left-over file is gone", PATIENCE, || tidy(&agent, 1))?;
        }
        let new = host.attach("new", &network)?;
        ensure!(new.ipv4()? != stays.ipv4()?, "an address was given twice");
        new.remove()?;
        stays.remove()?;
        tidy(&agent, 0)
    });
}

#[test]
fn a_reboot_with_files_that_stay() {
    on_a_host("reboot-files", |host, mut agent| {
        let network = Network::slash32()?;
        let names = ["a", "b", "c"];
        let before: Vec<_> = names.iter().map(|n| host.container(n, &network)).collect::<Result<_>>()?;
        agent.kill()?;
        for name in names {
            host.run(&format!("ip netns delete {name}"))?;
        }
        eventually("the interfaces are gone", PATIENCE, || {
            let links = host.run("ip -o link show type veth")?;
            check(!links.contains(": s32"), links)
        })?;
        agent.start_again()?;
        tidy(&agent, 0)?;
        // The runtime knows nothing of the reboot yet.
        for container in &before {
            container.detach()?;
        }
        let again = host.container("d", &network)?;
        tidy(&agent, 1)?;
        again.remove()?;
        tidy(&agent, 0)
    });
}

#[test]
fn a_container_that_is_gone_without_a_word() {
    on_a_host("gone", |host, agent| {
        // The kernel tells: nobody waits for the next look at everything, which does not come.
        let config =
            host.read("/etc/slash32/slash32.toml")?.replacen("[ipam]", "[ipam]\naudit_seconds = 86400", 1);
        agent.reconfigure(&config)?;
        let network = Network::slash32()?;
        let gone = host.container("gone", &network)?;
        let stays = host.container("stays", &network)?;
        let address = gone.ipv4()?;
        host.run("ip netns delete gone")?;
        eventually("it is released", PATIENCE, || {
            let endpoints = agent.endpoints()?;
            check(endpoints.len() == 1, format!("{endpoints:?}"))
        })?;
        tidy(&agent, 1)?;
        let next = host.container("next", &asking_for(&[&address])?)?;
        ensure!(next.ipv4()? == address, "{}", next.result());
        gone.detach()?;
        next.check()?;
        next.remove()?;
        stays.remove()?;
        tidy(&agent, 0)
    });
}

#[test]
fn a_run_directory_that_was_emptied() {
    on_a_host("run-emptied", |host, mut agent| {
        let network = Network::slash32()?;
        let lives = host.container("lives", &network)?;
        let address = lives.ipv4()?;
        agent.kill()?;
        host.command("sh").args(["-c", &format!("rm -rf {RUN_DIR}/*")]).run()?;
        agent.start_again()?;
        // The kernel tells who lives.
        tidy(&agent, 1)?;
        let other = host.container("other", &network)?;
        ensure!(other.ipv4()? != address, "{address} was given twice");
        other.ping(&address)?;
        tidy(&agent, 2)?;
        lives.remove()?;
        other.remove()?;
        tidy(&agent, 0)
    });
}

/// Sockets and files, and that the directory is ours.
#[test]
fn a_run_directory_that_is_removed_while_the_agent_runs() {
    Lab::run("run-removed", |lab| {
        let host = lab.machine("host")?;
        let mut agent = Agent::start(&host, ONE_HOST)?;
        let network = labelled("role", "web")?;
        let web = host.container("web", &network)?;
        for whole in [true, false] {
            let before = host.run(&format!("ls {RUN_DIR}"))?;
            let what = if whole { RUN_DIR.to_owned() } else { format!("{RUN_DIR}/*") };
            host.command("sh").args(["-c", &format!("rm -rf {what}")]).run()?;
            eventually("the agent answers again", PATIENCE, || agent.status().map(drop))?;
            // The files follow at once; what is known of other hosts is written a second later.
            eventually("everything is there again", PATIENCE, || {
                let after = host.run(&format!("ls {RUN_DIR}"))?;
                let lost = before.lines().find(|name| !after.lines().any(|there| there == *name));
                check(lost.is_none(), format!("{lost:?} is not"))
            })?;
            for socket in ["agent.sock", "plugin.sock"] {
                let mode = host.run(&format!("stat -c %a {RUN_DIR}/{socket}"))?;
                ensure!(mode.trim() == "600", "{socket} has mode {mode}");
            }
            let folder = host.run(&format!("stat -c %a {RUN_DIR}/endpoints"))?;
            ensure!(folder.trim() == "700", "the folder of endpoints has mode {folder}");
            let other = host.container("other", &network)?;
            other.ping(&web.ipv4()?)?;
            web.check()?;
            other.remove()?;
            // A second agent is kept out as before.
            let second =
                host.command("slash32").args(["agent"]).run().err().context("a second agent")?.to_string();
            ensure!(second.contains("another agent"), "{second}");
        }
        agent.kill()?;
        agent.start_again()?;
        let labels = agent.endpoints()?.into_iter().map(|e| e.labels).collect::<Vec<_>>();
        ensure!(labels.len() == 1 && labels[0].get("role").is_some_and(|role| role == "web"), "{labels:?}");
        web.check()?;
        web.remove()?;
        tidy(&agent, 0)
    });
}

#[test]
fn an_agent_that_hangs_and_one_that_is_gone() {
    on_a_host("hung", |host, mut agent| {
        let network = Network::slash32()?.version("1.1.0");
        let one = host.container("one", &network)?;
        let two = host.container("two", &network)?;
        host.sandbox("late")?;
        agent.process().pause()?;
        // All at once, as each waits for as long as it may.
        let (late, gone, check, status) = thread::scope(|scope| {
            let late = scope.spawn(|| refused(host.attach("late", &network)));
            let gone = scope.spawn(|| one.detach());
            let check = scope.spawn(|| one.check().err());
            let status = scope.spawn(|| one.call("STATUS", 0, None).err());
            (late.join(), gone.join(), check.join(), status.join())
        });
        let joined = "the call ended";
        let late = late.ok().context(joined)??;
        ensure!(late.code == 11, "{late}");
        gone.ok().context(joined)??;
        let code = |error: Option<anyhow::Error>| {
            error.as_ref().and_then(|e| e.downcast_ref::<CniError>()).map(|e| e.code)
        };
        ensure!(code(check.ok().context(joined)?) == Some(11), "CHECK");
        ensure!(code(status.ok().context(joined)?) == Some(50), "STATUS");
        ensure!(one.ping(&two.ipv4()?).is_err(), "a deleted container still sends");
        agent.process().resume()?;
        // The ADD that nobody waits for is not made, the DEL is.
        eventually("the DEL is honoured", PATIENCE, || tidy(&agent, 1))?;
        let ends = host.command("ip").args(["-o", "link", "show"]).netns("late").run()?;
        ensure!(!ends.contains("eth0"), "{ends}");
        let late = host.attach("late", &network)?;
        late.ping(&two.ipv4()?)?;

        agent.kill()?;
        late.remove()?;
        host.sandbox("later")?;
        let error = refused(host.attach("later", &network))?;
        ensure!(error.code == 11, "{error}");
        agent.start_again()?;
        tidy(&agent, 1)?;
        two.remove()?;
        tidy(&agent, 0)
    });
}

#[test]
fn sixty_four_at_once_and_again() {
    on_a_host("at-once", |host, agent| {
        let network = Network::slash32()?;
        let names: Vec<String> = (0..64).map(|n| format!("c{n}")).collect();
        for name in &names {
            host.sandbox(name)?;
        }
        for round in 0..2 {
            // Each ADD is called twice at the same time.
            let added: Vec<Result<Container>> = thread::scope(|scope| {
                let calls: Vec<_> = names
                    .iter()
                    .flat_map(|name| [name, name])
                    .map(|name| scope.spawn(|| host.attach(name, &network)))
                    .collect();
                calls.into_iter().map(|call| call.join().unwrap_or_else(|_| bail!("a panic"))).collect()
            });
            let containers: Vec<Container> = added.into_iter().collect::<Result<_>>()?;
            let mut addresses = Vec::new();
            for pair in containers.chunks(2) {
                ensure!(
                    pair[0].ipv4()? == pair[1].ipv4()?,
                    "two answers: {} {}",
                    pair[0].result(),
                    pair[1].result()
                );
                addresses.extend([pair[0].ipv4()?, pair[0].ipv6()?]);
            }
            addresses.sort();
            addresses.dedup();
            ensure!(addresses.len() == 128, "round {round}: an address was given twice");
            tidy(&agent, 64)?;
            // Half of them go and come at the same time, the others go twice.
            let outcomes: Vec<Result<()>> = thread::scope(|scope| {
                let calls: Vec<_> =
                    containers.iter().map(|container| scope.spawn(|| container.detach())).collect();
                calls.into_iter().map(|call| call.join().unwrap_or_else(|_| bail!("a panic"))).collect()
            });
            outcomes.into_iter().collect::<Result<Vec<()>>>()?;
            tidy(&agent, 0)?;
        }
        // ADD and DEL of the same containers in any order: whatever wins, all fits together.
        thread::scope(|scope| {
            for name in &names {
                let (one, two) = (host.clone(), host.clone());
                let (first, second) = (network.clone(), network.clone());
                scope.spawn(move || one.attach(name, &first).map(drop));
                scope.spawn(move || two.attach(name, &second).and_then(|c| c.detach()));
            }
        });
        let living = agent.endpoints()?.len();
        tidy(&agent, living)?;
        for name in &names {
            host.run(&format!("ip netns delete {name}"))?;
        }
        eventually("all is released", PATIENCE, || tidy(&agent, 0))
    });
}

#[test]
fn more_containers_than_addresses() {
    on_a_host("exhausted", |host, agent| {
        let config = example(&Switch::Slash32.host_file(1))?
            .replace("10.32.1.0/24", "10.32.1.0/28")
            .replacen("[[ipam.pool]]", "[ipam]\nquarantine_seconds = 3600\n\n[[ipam.pool]]", 1);
        agent.reconfigure(&config)?;
        let network = Network::slash32()?.version("1.1.0");
        let names: Vec<String> = (0..32).map(|n| format!("c{n}")).collect();
        for name in &names {
            host.sandbox(name)?;
        }
        let added: Vec<Result<Container>> = thread::scope(|scope| {
            let calls: Vec<_> =
                names.iter().map(|name| scope.spawn(|| host.attach(name, &network))).collect();
            calls.into_iter().map(|call| call.join().unwrap_or_else(|_| bail!("a panic"))).collect()
        });
        let (given, refused): (Vec<_>, Vec<_>) = added.into_iter().partition(Result::is_ok);
        ensure!(given.len() == 16, "{} of 16 addresses were given", given.len());
        for outcome in refused {
            let error = crate::kit::refused(outcome)?;
            ensure!(error.code == 100 && error.msg.contains("16 in use"), "{error}");
        }
        tidy(&agent, 16)?;
        let containers: Vec<Container> = given.into_iter().collect::<Result<_>>()?;
        let status = containers[0].call("STATUS", 0, None).err().context("STATUS with no address left")?;
        ensure!(status.to_string().contains("error 50"), "{status}");
        for container in &containers {
            container.detach()?;
        }
        tidy(&agent, 0)?;
        let resting = crate::kit::refused(host.attach("c0", &network))?;
        ensure!(resting.code == 11 && resting.msg.contains("16 resting"), "{resting}");
        tidy(&agent, 0)
    });
}
