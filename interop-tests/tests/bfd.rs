//! BFD with BIRD and FRR: up, detection, and restarts of the agent. (BFD that one side ends on purpose is a case of the
//! table, as these routers' versions differ in it.)
//!
//! The hold time is far longer than the patience of these tests: what ends a session here is BFD.

use std::{thread::sleep, time::Duration};

use anyhow::{Context, Result, ensure};
use interop_tests::{Agent, Lab, PATIENCE, Router, eventually, steadily};
use serde_json::Value;

const BIRD: &str = r#"
router id 192.0.2.0;
protocol device {}
protocol kernel { ipv4 { export none; }; }
protocol bfd {
    interface "*" { min rx interval 50 ms; min tx interval 50 ms; multiplier 3; };
    multihop { min rx interval 50 ms; min tx interval 50 ms; multiplier 3; };
}
protocol bgp host {
    local 192.0.2.0 as 65001;
    neighbor 192.0.2.1 as 65002;
    HOPS
    bfd on;
    hold time 240;
    connect retry time 2;
    error wait time 1, 2;
    ipv4 { import all; export none; };
}
"#;

const FRR: &str = "
bfd
 profile quick
  receive-interval 50
  transmit-interval 50
  detect-multiplier 3
 !
!
router bgp 65001
 bgp router-id 192.0.2.0
 no bgp ebgp-requires-policy
 neighbor 192.0.2.1 remote-as 65002
 neighbor 192.0.2.1 timers 80 240
 neighbor 192.0.2.1 timers connect 2
 neighbor 192.0.2.1 bfd profile quick
";

/// The agent with BFD at these values; none without.
fn agent(bfd: &str, hops: &str) -> String {
    format!(
        "[bgp]\nasn = 65002\nrouter_id = \"192.0.2.1\"\n[[bgp.peer]]\naddress = \"192.0.2.0\"\nasn = 65001\n\
         hold_time = 240\nconnect_retry = 2\n{hops}\n{bfd}\n"
    )
}

/// A router and what it says of its BFD session: whether it is up, and a number that differs by more than [`NOISE`] after
/// each failure.
struct Side {
    router: Router,
    look: fn(&Router) -> Result<(bool, i64)>,
    /// Its process that speaks BFD, counted from the last one.
    bfd: usize,
}

/// BIRD computes since when a session is up from two clocks, each time anew: the last millisecond differs.
const NOISE: i64 = 20;

impl Side {
    fn look(&self) -> Result<(bool, i64)> {
        (self.look)(&self.router)
    }

    fn wait(&self, up: bool) -> Result<i64> {
        eventually(&format!("BFD of the router is up: {up}"), PATIENCE, || {
            let (is, mark) = self.look()?;
            ensure!(is == up, "{mark}");
            Ok(mark)
        })
    }
}

/// The line `192.0.2.1 eth0 Up 12:00:00.000 0.050 0.150`.
fn look_bird(router: &Router) -> Result<(bool, i64)> {
    let table = router.machine().run("birdc show bfd sessions")?;
    let line = table.lines().find(|line| line.starts_with("192.0.2.1")).context("no session")?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let since = words.get(3).context("no time")?;
    let milliseconds =
        since.split(':').try_fold(0.0, |sum, part| part.parse().map(|n: f64| sum * 60.0 + n))? * 1e3;
    Ok((words.contains(&"Up"), milliseconds as i64))
}

fn look_frr(router: &Router) -> Result<(bool, i64)> {
    let show = |what: &str| -> Result<Value> { router.machine().command("vtysh").args(["-c", what]).json() };
    let peers = show("show bfd peers json")?;
    let counters = show("show bfd peers counters json")?;
    let downs = counters[0]["session-down"].as_i64().context("no counter")?;
    Ok((peers[0]["status"] == "up", downs * 1000))
}

fn session(agent: &Agent) -> Result<Value> {
    let list: Vec<Value> = agent.cli("--json bfd").json()?;
    list.into_iter().next().context("no BFD session")
}

fn wait_both(agent: &Agent, side: &Side) -> Result<()> {
    agent.wait_established(1)?;
    side.router.wait_established(1)?;
    side.wait(true)?;
    eventually("BFD of the agent is up", PATIENCE, || {
        let session = session(agent)?;
        ensure!(session["state"].to_string().to_lowercase().contains("up"), "{session}");
        Ok(())
    })
}

/// A router whose BFD stands still is noticed, and taken back.
fn detection(agent: &Agent, side: &Side) -> Result<()> {
    let processes = side.router.processes();
    let process = &processes[processes.len() - 1 - side.bfd];
    process.pause()?;
    eventually("BFD ends the session", PATIENCE, || {
        let peers = agent.peers()?;
        let why = peers[0].last_error.clone().unwrap_or_default();
        ensure!(peers[0].state != "Established" && why.contains("BFD"), "{peers:?}");
        Ok(())
    })?;
    process.resume()?;
    wait_both(agent, side)
}

/// Restarts of the agent and what the router sees of them.
fn restarts(agent: &mut Agent, side: &Side) -> Result<()> {
    let settled = |agent: &Agent, interval: u64| {
        eventually("the poll sequence ends", PATIENCE, || {
            let session = session(agent)?;
            ensure!(session["interval_ms"] == interval, "{session}");
            Ok(())
        })
    };
    let unseen = |agent: &Agent, before: i64, what: &str| -> Result<()> {
        wait_both(agent, side)?;
        steadily(what, Duration::from_secs(2), || {
            let (up, mark) = side.look()?;
            ensure!(up && (mark - before).abs() <= NOISE, "{before} has become {mark}");
            Ok(())
        })
    };
    // A crash: well within 30 s.
    agent.reconfigure(&agent_config("{ interval_ms = 300, multiplier = 100 }"))?;
    settled(agent, 300)?;
    let before = side.wait(true)?;
    agent.kill()?;
    agent.start_again()?;
    unseen(agent, before, "a crash goes unseen")?;
    // A planned restart that takes longer than the detection time: the router is asked for patience.
    agent.reconfigure(&agent_config("{ interval_ms = 300, multiplier = 3 }"))?;
    wait_both(agent, side)?;
    let before = side.wait(true)?;
    agent.stop()?;
    sleep(Duration::from_secs(3));
    agent.start_again()?;
    unseen(agent, before, "a planned restart goes unseen")?;
    // A crash that takes longer: noticed, and then as before.
    agent.kill()?;
    side.wait(false)?;
    agent.start_again()?;
    wait_both(agent, side)
}

fn agent_config(bfd: &str) -> String {
    agent(&format!("bfd = {bfd}"), "")
}

fn lab(name: &str, hops: &str, start: impl FnOnce(&interop_tests::Machine) -> Result<Side>, restart: bool) {
    Lab::run(name, |lab| {
        let (switch, host) = (lab.forwarder("router")?, lab.machine("host")?);
        lab.link(switch.port("eth0").address("192.0.2.0/31"), host.port("eth0").address("192.0.2.1/31"))?;
        let side = start(&switch)?;
        let mut agent = Agent::start(&host, &agent("bfd = { interval_ms = 50, multiplier = 3 }", hops))?;
        wait_both(&agent, &side)?;
        detection(&agent, &side)?;
        if restart { restarts(&mut agent, &side) } else { Ok(()) }
    });
}

fn bird(machine: &interop_tests::Machine, hops: &str) -> Result<Side> {
    let router = Router::bird(machine, &BIRD.replace("HOPS", hops))?;
    Ok(Side { router, look: look_bird, bfd: 0 })
}

#[test]
fn bird_and_restarts() {
    lab("bfd-bird", "", |machine| bird(machine, "direct;"), true);
}

#[test]
fn frr_and_restarts() {
    let start = |machine: &interop_tests::Machine| {
        Ok(Side { router: Router::frr(machine, FRR)?, look: look_frr, bfd: 1 })
    };
    lab("bfd-frr", "", start, true);
}

#[test]
fn multihop_with_bird() {
    lab("bfd-multihop", "multihop = 4", |machine| bird(machine, "multihop 4;"), false);
}
