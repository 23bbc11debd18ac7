//! One agent a network namespace: a second one would undo the routes and rules of the first.

use anyhow::{Result, ensure};
use interop_tests::{Agent, Exit, Lab, Machine, Network, ONE_HOST, PATIENCE, check, eventually};

use crate::kit::tidy;

const SECOND: [&str; 5] = ["agent", "--config", "/etc/slash32/slash32.toml", "--run-dir", "/run/second"];

fn refused(host: &Machine, first: &Agent) -> Result<()> {
    let second = host.command("slash32").args(SECOND).output()?;
    let pid = first.process().pid();
    ensure!(second.exit == Exit::Code(1), "{}: {}", second.exit, second.stderr);
    for word in ["network namespace", &format!("process {pid} "), "directory /run/slash32."] {
        ensure!(second.stderr.contains(word), "{word}: {}", second.stderr);
    }
    Ok(())
}

#[test]
fn a_second_agent_is_refused() {
    Lab::run("second-agent", |lab| {
        let host = lab.machine("host")?;
        let mut first = Agent::start(&host, ONE_HOST)?;
        host.own("/run/second")?;
        let web = host.container("web", &Network::slash32()?)?;
        // It is no matter whether the first one answers.
        first.process().pause()?;
        refused(&host, &first)?;
        first.process().resume()?;
        tidy(&first, 1)?;
        // Neither a crash nor another program leaves anything behind that is in the way.
        for _ in 0..3 {
            first.kill()?;
            first.start_again()?;
        }
        first.replace_binary()?;
        first.stop()?;
        first.start_again()?;
        // One that has been told to end is waited for.
        let second = host.command("slash32").args(SECOND).spawn("second")?;
        eventually("the second one waits", PATIENCE, || {
            second.check()?;
            check(second.log().contains("waiting for its end"), second.log())
        })?;
        first.kill()?;
        eventually("the second one is ready", PATIENCE, || {
            second.check()?;
            host.run("slash32 --run-dir /run/second status").map(drop)
        })?;
        second.terminate()?;
        // A namespace of its own has room for one.
        host.sandbox("elsewhere")?;
        first.start_again()?;
        let third = host.command("slash32").args(SECOND).netns("elsewhere").spawn("third")?;
        eventually("the third one is ready", PATIENCE, || {
            third.check()?;
            host.run("slash32 --run-dir /run/second status").map(drop)
        })?;
        third.terminate()?;
        web.remove()?;
        tidy(&first, 0)
    });
}

/// Anybody can take the name of a socket. It must not keep the agent from starting.
#[test]
fn a_user_cannot_keep_the_agent_out() {
    Lab::run("taken-name", |lab| {
        let host = lab.machine("host")?;
        let program = "import os, socket, time\nos.setuid(65534)\ns = socket.socket(socket.AF_UNIX)\n\
            s.bind(b'\\0slash32-agent')\ns.listen(0)\nprint('taken', flush=True)\ntime.sleep(600)";
        let user = host.command("python3").args(["-c", program]).spawn("user")?;
        eventually("the name is taken", PATIENCE, || check(user.log().contains("taken"), user.log()))?;
        let mut agent = Agent::start(&host, ONE_HOST)?;
        let log = agent.process().log();
        ensure!(log.contains("user 65534") && log.contains("going on without"), "{log}");
        user.kill()?;
        agent.stop()?;
        agent.start_again()
    });
}
