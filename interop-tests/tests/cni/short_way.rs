//! The plugin's short way to the agent, and the long way that it leaves to what it does not know: a runtime sees no
//! difference.

use std::{io::ErrorKind, os::unix::net::UnixListener, thread};

use anyhow::{Context, Result, ensure};
use interop_tests::{Agent, Lab, Machine, Network, ONE_HOST, Output};
use serde_json::{Value, json};

use crate::kit::tidy;

/// Makes the plugin go the long way.
const LONG: (&str, &str) = ("SLASH32_RUN_DIR", "/run/slash32");

struct Caller<'a> {
    host: &'a Machine,
    program: &'static str,
}

impl Caller<'_> {
    /// Calls the plugin like a runtime.
    fn call(&self, verb: &str, id: &str, stdin: &str, more: &[(&str, &str)]) -> Result<Output> {
        let mut command = self
            .host
            .command(self.program)
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", format!("/run/netns/{id}"))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/opt/cni/bin")
            .stdin(stdin);
        for (key, value) in more {
            command = command.env(key, value);
        }
        command.output()
    }
}

fn on_a_host(name: &str, test: impl FnOnce(&Caller<'_>, Agent) -> Result<()>) {
    Lab::run(name, |lab| {
        let host = lab.machine("host")?;
        let agent = Agent::start(&host, ONE_HOST)?;
        test(&Caller { host: &host, program: "/opt/cni/bin/slash32" }, agent)
    });
}

fn configuration(previous: Option<&Value>) -> Result<Value> {
    Network::slash32()?.label("role", "web").configuration(0, previous)
}

#[test]
fn both_ways_say_the_same() {
    on_a_host("both-ways", |plugin, agent| {
        plugin.host.sandbox("one")?;
        let conf = configuration(None)?.to_string();
        let first = plugin.call("ADD", "one", &conf, &[])?;
        ensure!(first.exit.success(), "{first:?}");
        let again = plugin.call("ADD", "one", &conf, &[LONG])?;
        ensure!(first.stdout == again.stdout, "{first:?}\n{again:?}");
        let result: Value = serde_json::from_str(&first.stdout).context("a result")?;
        let conf = configuration(Some(&result))?.to_string();
        for way in [&[][..], &[LONG]] {
            let check = plugin.call("CHECK", "one", &conf, way)?;
            ensure!(check.exit.success() && check.stdout.is_empty(), "{check:?}");
        }
        // What cannot be is told in the same words, with the same end.
        let foreign = conf
            .replace("\"type\":\"slash32\"", "\"type\":\"slash32\",\"sysctls\":{\"kernel.pid_max\":\"1\"}");
        let other = conf.replace("\"cniVersion\":\"1.0.0\"", "\"cniVersion\":\"7.0.0\"");
        plugin.host.sandbox("two")?;
        let quotes = ("CNI_ARGS", "IgnoreUnknown=1;NOMAD={\"a\":\"b;c\"}");
        for (verb, id, stdin, more) in [
            ("ADD", "two", foreign.as_str(), None),
            ("ADD", "two", other.as_str(), None),
            ("ADD", "none-such", conf.as_str(), None),
            ("ADD", "../x", conf.as_str(), None),
            ("ADD", "two", "{\"name\":", None),
            ("ADD", "two", "", None),
            ("ADD", "two", conf.as_str(), Some(("CNI_ARGS", "IP=nonsense"))),
            ("ADD", "two", conf.as_str(), Some(("CNI_NETNS", ""))),
            ("CHECK", "two", conf.as_str(), None),
            ("DEL", "two", conf.as_str(), None),
            ("DEL", "two", "[]", None),
            ("SING", "two", conf.as_str(), None),
            ("", "two", conf.as_str(), None),
            ("VERSION", "two", conf.as_str(), None),
            ("DEL", "two", conf.as_str(), Some(quotes)),
        ] {
            let more: Vec<_> = more.into_iter().collect();
            let short = plugin.call(verb, id, stdin, &more)?;
            let long = plugin.call(verb, id, stdin, &[&more[..], &[LONG]].concat())?;
            ensure!(
                short.exit.success() == long.exit.success() && short.stdout == long.stdout,
                "{verb} {id} {stdin}\n{short:?}\n{long:?}"
            );
        }
        tidy(&agent, 1)?;
        let gone = plugin.call("DEL", "one", &conf, &[])?;
        ensure!(gone.exit.success() && gone.stdout.is_empty(), "{gone:?}");
        tidy(&agent, 0)
    });
}

#[test]
fn standard_input_of_every_size() {
    on_a_host("input-sizes", |plugin, agent| {
        let mut conf = configuration(None)?;
        for (at, size) in [0, 1 << 12, 65_000, 1 << 16, 100_000, 1 << 20].into_iter().enumerate() {
            let id = format!("c{at}");
            plugin.host.sandbox(&id)?;
            conf["comment"] = json!("x".repeat(size));
            let added = plugin.call("ADD", &id, &conf.to_string(), &[])?;
            ensure!(added.exit.success(), "{size}: {} {}", added.stdout, added.stderr);
            let result: Value = serde_json::from_str(&added.stdout).context("a result")?;
            ensure!(result["ips"].as_array().is_some_and(|ips| ips.len() == 2), "{result}");
            let deleted = plugin.call("DEL", &id, &conf.to_string(), &[])?;
            ensure!(deleted.exit.success(), "{size}: {} {}", deleted.stdout, deleted.stderr);
        }
        tidy(&agent, 0)
    });
}

#[test]
fn without_an_agent_standard_input_is_not_lost() {
    on_a_host("no-agent", |plugin, mut agent| {
        plugin.host.sandbox("one")?;
        let conf = configuration(None)?.to_string();
        ensure!(plugin.call("ADD", "one", &conf, &[])?.exit.success(), "ADD");
        agent.kill()?;
        // The socket's file is there and nobody behind it.
        let refused = plugin.call("ADD", "one", &conf, &[])?;
        let error: Value = serde_json::from_str(&refused.stdout).context("an error")?;
        ensure!(error["code"] == 11 && error["cniVersion"] == "1.0.0", "{error}");
        let deleted = plugin.call("DEL", "one", &conf, &[])?;
        ensure!(deleted.exit.success(), "{deleted:?}");
        agent.start_again()?;
        tidy(&agent, 0)
    });
}

#[test]
fn an_agent_that_dies_over_a_call_is_not_asked_twice() {
    on_a_host("dies-over", |plugin, mut agent| {
        plugin.host.sandbox("one")?;
        let conf = configuration(None)?.to_string();
        agent.process().pause()?;
        let added = thread::scope(|scope| {
            let call = scope.spawn(|| plugin.call("ADD", "one", &conf, &[]));
            // One waits to be accepted: the queue of a listening socket, in the third column.
            interop_tests::eventually("the call waits", interop_tests::PATIENCE, || {
                let sockets = plugin.host.run("ss -xlH")?;
                let ours = sockets.lines().find(|line| line.contains("plugin.sock"));
                let queue = ours.and_then(|line| line.split_whitespace().nth(2));
                interop_tests::check(queue.is_some_and(|queue| queue != "0"), sockets)
            })?;
            // Whoever asks again finds somebody who listens.
            let long = plugin.host.outside("/run/slash32/agent.sock");
            std::fs::remove_file(&long)?;
            let second = UnixListener::bind(&long)?;
            agent.kill()?;
            let added = call.join().ok().context("the call ended")??;
            second.set_nonblocking(true)?;
            let asked = second.accept().map(drop).map_err(|error| error.kind());
            ensure!(asked == Err(ErrorKind::WouldBlock), "the agent was asked twice: {asked:?}");
            std::fs::remove_file(&long)?;
            Ok(added)
        })?;
        let error: Value = serde_json::from_str(&added.stdout).context("an error")?;
        ensure!(error["code"] == 11, "{error}");
        agent.start_again()?;
        tidy(&agent, 0)
    });
}

/// An answer that nobody can have had is a failure, whichever way it takes; a runtime calls DEL then.
#[test]
fn an_answer_that_cannot_be_written() {
    on_a_host("unwritten", |plugin, agent| {
        let host = plugin.host;
        host.own("/var/lib/cni")?;
        host.write("/var/lib/cni/conf", configuration(None)?.to_string())?;
        let call = |verb: &str, way: &str, output: &str| {
            let line = format!("{way} /opt/cni/bin/slash32 < /var/lib/cni/conf {output}");
            let mut command = host.command("bash").args(["-c", &line]);
            for (key, value) in [
                ("CNI_CONTAINERID", "one"),
                ("CNI_NETNS", "/run/netns/one"),
                ("CNI_IFNAME", "eth0"),
                ("CNI_COMMAND", verb),
            ] {
                command = command.env(key, value);
            }
            command.output()
        };
        host.sandbox("one")?;
        for way in ["", "SLASH32_RUN_DIR=/run/slash32"] {
            for output in ["> /dev/full", ">&-"] {
                // An error that cannot be written, too.
                for verb in ["ADD", "CHECK"] {
                    let said = call(verb, way, output)?;
                    let told = said.stderr.contains("cannot write the answer to standard output");
                    ensure!(!said.exit.success() && told, "{way} {output} {verb}: {said:?}");
                }
                tidy(&agent, 1)?;
                // Nothing to say, and nothing to fail.
                let gone = call("DEL", way, output)?;
                ensure!(gone.exit.success(), "{way} {output}: {gone:?}");
                tidy(&agent, 0)?;
            }
        }
        Ok(())
    });
}
