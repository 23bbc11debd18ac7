//! slash32 on a machine: the agent and the command line.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::machine::{Cmd, Exit, Machine, Process};
use crate::{PATIENCE, eventually};

/// Where the agent looks for its configuration unless told otherwise.
const CONFIG: &str = "/etc/slash32/slash32.toml";
/// Where it looks for policies.
const POLICY_DIR: &str = "/etc/slash32/policy.d";

/// The configuration of a host without neighbours: a block of each family.
pub const ONE_HOST: &str = "
[[ipam.pool]]
cidr = \"10.32.0.0/16\"
block = \"10.32.4.0/24\"

[[ipam.pool]]
cidr = \"fd00:32::/48\"
block = \"fd00:32:0:4::/64\"
";

/// A running agent, with its configuration, socket and state in the usual places of its machine.
pub struct Agent {
    machine: Machine,
    process: Process,
}

/// A neighbour, as `slash32 peers --json` prints it.
#[derive(Debug, Clone, Deserialize)]
pub struct PeerRow {
    /// Its address or interface.
    pub peer: String,
    /// The session's state, `Established` when up.
    pub state: String,
    /// Prefixes received and accepted.
    #[serde(default)]
    pub prefixes_received: u64,
    /// Prefixes sent.
    #[serde(default)]
    pub prefixes_sent: u64,
    /// Why the session last failed.
    #[serde(default)]
    pub last_error: Option<String>,
}

/// A route of the FIB, as `slash32 routes --json` prints it.
#[derive(Debug, Clone, Deserialize)]
pub struct RouteRow {
    /// Destination.
    pub prefix: String,
    /// Whether the kernel has it.
    #[serde(default)]
    pub installed: bool,
}

/// A local endpoint, as `slash32 endpoints --json` prints it.
#[derive(Debug, Clone, Deserialize)]
pub struct EndpointRow {
    /// The runtime's id of the container.
    pub container_id: String,
    /// IPv4 address.
    #[serde(default)]
    pub ipv4: Option<String>,
    /// IPv6 address.
    #[serde(default)]
    pub ipv6: Option<String>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl Agent {
    /// Writes the configuration, starts the agent and waits until it is ready.
    pub fn start(machine: &Machine, config: &str) -> Result<Self> {
        machine.write(CONFIG, config)?;
        machine.own(POLICY_DIR)?;
        let agent = Self { machine: machine.clone(), process: launch(machine)? };
        agent.wait_ready()?;
        Ok(agent)
    }

    /// The machine it runs on.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// A command line of `slash32` on this machine.
    pub fn cli(&self, line: &str) -> Cmd {
        self.machine.command("slash32").args(line.split_whitespace())
    }

    /// `slash32 status --json`.
    pub fn status(&self) -> Result<Value> {
        self.cli("status --json").json()
    }

    /// The neighbours.
    pub fn peers(&self) -> Result<Vec<PeerRow>> {
        self.cli("peers --json").json()
    }

    /// The routes.
    pub fn routes(&self) -> Result<Vec<RouteRow>> {
        self.cli("routes --json").json()
    }

    /// The local endpoints.
    pub fn endpoints(&self) -> Result<Vec<EndpointRow>> {
        self.cli("endpoints --json").json()
    }

    /// Waits until all of `count` neighbours are up.
    pub fn wait_established(&self, count: usize) -> Result<()> {
        let what = format!("{count} sessions of {} are up", self.machine.name());
        eventually(&what, PATIENCE, || {
            self.process.check()?;
            let peers = self.peers()?;
            let up = peers.iter().filter(|peer| peer.state.eq_ignore_ascii_case("established")).count();
            ensure!(up == count, "{up} of {count} up: {peers:?}");
            Ok(())
        })
    }

    /// Waits until `slash32 status` says it is ready.
    pub fn wait_ready(&self) -> Result<()> {
        eventually("the agent is ready", PATIENCE, || {
            self.process.check()?;
            let status = self.status()?;
            ensure!(status["ready"] == true, "{status}");
            Ok(())
        })
    }

    /// Crashes it: `kill -9`.
    pub fn kill(&self) -> Result<()> {
        self.process.kill()
    }

    /// Ends it in the ordinary way: SIGTERM.
    pub fn stop(&self) -> Result<Exit> {
        self.process.terminate()
    }

    /// Starts it again after [`kill`](Self::kill) or [`stop`](Self::stop), and waits until it is ready.
    pub fn start_again(&mut self) -> Result<()> {
        if self.process.running() {
            bail!("the agent of {} still runs", self.machine.name());
        }
        self.process = launch(&self.machine)?;
        self.wait_ready()
    }

    /// Starts it again as one that dies at a fault point of `src/cni/fault.rs`, which debug builds have.
    pub fn start_again_to_die_at(&mut self, point: &str) -> Result<()> {
        self.process = command(&self.machine).env("SLASH32_FAULT", point).spawn("slash32")?;
        self.wait_ready()
    }

    /// Puts another file in the place of the program, as an installer does, while it runs: the next start is another
    /// program.
    pub fn replace_binary(&self) -> Result<()> {
        let bin = "/run/lab/bin/slash32";
        self.machine.run(&format!("cp --dereference {bin} {bin}.new"))?;
        self.machine.run(&format!("mv {bin}.new {bin}")).map(drop)
    }

    /// Replaces the configuration and has it read.
    pub fn reconfigure(&self, config: &str) -> Result<String> {
        self.machine.write(CONFIG, config)?;
        self.cli("reload").run()
    }

    /// Writes a policy file. The agent notices by itself; see [`wait_policy`](Self::wait_policy).
    pub fn write_policy(&self, file: &str, text: &str) -> Result<()> {
        // By a rename, so that the agent never reads half a file.
        let path = format!("{POLICY_DIR}/{file}");
        self.machine.write(&format!("{path}.new"), text)?;
        self.machine.run(&format!("mv {path}.new {path}")).map(drop)
    }

    /// Removes a policy file.
    pub fn remove_policy(&self, file: &str) -> Result<()> {
        self.machine.run(&format!("rm {POLICY_DIR}/{file}")).map(drop)
    }

    /// Resident memory of the agent in KiB.
    pub fn rss_kib(&self) -> Result<u64> {
        let status = self.machine.read(&format!("/proc/{}/status", self.process.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        line.trim().trim_end_matches("kB").trim().parse().context("VmRSS")
    }

    /// How long the agent takes from its start to ready, for benches: kill it first.
    pub fn timed_start(&mut self) -> Result<Duration> {
        let start = Instant::now();
        self.start_again()?;
        Ok(start.elapsed())
    }
}

fn launch(machine: &Machine) -> Result<Process> {
    command(machine).spawn("slash32")
}

fn command(machine: &Machine) -> Cmd {
    machine.command("slash32").args(["agent", "--config", CONFIG])
}
