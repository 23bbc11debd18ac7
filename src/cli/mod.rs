//! The command line: one file a command, one printer.
//!
//! Every command that asks the running agent does so through the control socket and prints a table for people or,
//! with `--json`, the agent's answer as it is. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the check that was
//! asked for found a difference. No command waits without end: an agent that is stopped or hangs is told after five
//! seconds, one that works on the answer has `--timeout`.

mod agent;
mod bgp;
mod bgp_decode;
mod bgp_peer;
mod cni;
mod config;
mod doctor;
mod endpoints;
mod ipam;
mod metrics;
mod policy;
mod print;
mod reach;
mod routes;
mod status;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand};
use serde_json::Value;

use crate::{
    api::{self, Request, client::Client},
    netlink::sockopt::unix_peer_pid,
};

/// BGP-routed, layer-3 container networking.
#[derive(Debug, Parser)]
#[command(name = "slash32", version, about, max_term_width = 100, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
struct Global {
    /// Print JSON instead of tables.
    #[arg(long, global = true)]
    json: bool,
    /// The agent's run directory; its socket is `agent.sock` inside.
    #[arg(long, global = true, env = "SLASH32_RUN_DIR", value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// The agent's socket, when it is not in the run directory.
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// How long to wait for an answer, in seconds. An agent that is stopped or hangs is told after 5 at most.
    #[arg(long, global = true, default_value_t = 30, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the host agent in the foreground.
    Agent(agent::AgentArgs),
    /// Readiness, sessions, endpoints and anything that needs attention, on one page.
    Status,
    /// BGP neighbours (short for `bgp peers`).
    Peers {
        /// Everything about this one: its session, and why routes of it are missing.
        peer: Option<String>,
    },
    /// The BGP speaker: peers, RIB, explain, decode.
    #[command(subcommand)]
    Bgp(bgp::BgpCommand),
    /// BFD sessions.
    Bfd,
    /// The kernel's routes as the agent wants them.
    Routes(routes::RoutesArgs),
    /// Local endpoints, and their labels.
    Endpoints(endpoints::EndpointsArgs),
    /// Address pools: used, free, resting, leaked.
    #[command(subcommand)]
    Ipam(ipam::IpamCommand),
    /// Policies: show, explain, matrix, diff, trace; test and check files.
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Install or remove the CNI plugin and its network configuration.
    #[command(subcommand)]
    Cni(cni::CniCommand),
    /// Check configuration files without touching anything.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Read configuration and policies again.
    Reload,
    /// Announce everything with GRACEFUL_SHUTDOWN (RFC 8326), so that neighbours move traffic away first.
    Drain {
        /// Stop draining.
        #[arg(long)]
        off: bool,
    },
    /// Look for everything that commonly goes wrong, and say what to do.
    Doctor,
    /// Counters in the Prometheus text format.
    Metrics,
    /// End the agent. Containers and their routes in the kernel stay.
    Stop {
        /// We will be back: leave neighbours' graceful restart to keep our routes.
        #[arg(long)]
        restart: bool,
    },
}

/// The exit code of a check that was asked for and found something.
const DIFFERENT: u8 = 3;

/// Something on the command line that is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// Runs the command line and returns the process's exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let Some(command) = cli.command else {
        // Runtimes call a plugin without CNI_COMMAND to learn its version (Nomad parses the line).
        println!("{}", crate::cni::about());
        println!("Try `slash32 --help`.");
        return ExitCode::SUCCESS;
    };
    match run(&cli.global, command) {
        Ok(code) => code,
        Err(error) => {
            if cli.global.json {
                print::json(&print::failure(&error));
            }
            eprintln!("slash32: {error:#}");
            if error.is::<Usage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

fn run(global: &Global, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Agent(args) => return agent::run(global, args),
        Command::Config(command) => return Ok(config::run(global, &command)),
        Command::Bgp(command) => return bgp::run(global, command),
        Command::Cni(command) => return cni::run(global, command),
        Command::Status => return status::run(global),
        Command::Doctor => return doctor::run(global),
        Command::Routes(args) => return routes::run(global, &args),
        Command::Peers { peer } => return bgp::peers(global, peer.as_deref()),
        Command::Bfd => bgp::bfd(global)?,
        Command::Endpoints(args) => endpoints::run(global, args)?,
        Command::Ipam(command) => return ipam::run(global, &command),
        Command::Policy(command) => return policy::run(global, command),
        Command::Reload => status::reload(global)?,
        Command::Drain { off } => status::drain(global, !off)?,
        Command::Metrics => metrics::run(global)?,
        Command::Stop { restart } => status::stop(global, restart)?,
    }
    Ok(ExitCode::SUCCESS)
}

impl Global {
    fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| {
            self.run_dir.clone().unwrap_or_else(|| api::DEFAULT_RUN_DIR.into()).join(api::SOCKET_NAME)
        })
    }

    /// Asks the agent.
    fn call(&self, request: &Request) -> anyhow::Result<Value> {
        let socket = self.socket();
        let mut client = Client::watch(&socket, Duration::from_secs(self.timeout))
            .map_err(|error| reach::explain(error, None))?;
        let pid = unix_peer_pid(&client).ok().flatten();
        client.call(request).map_err(|error| reach::explain(error, pid))
    }

    /// Asks the agent and prints the answer: as JSON, or as `table` makes it.
    fn show(&self, request: &Request, table: impl FnOnce(&Value) -> String) -> anyhow::Result<()> {
        let value = self.call(request)?;
        self.print(&value, table);
        Ok(())
    }

    fn print(&self, value: &Value, table: impl FnOnce(&Value) -> String) {
        if self.json {
            print::json(value);
        } else {
            print::text(&table(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
