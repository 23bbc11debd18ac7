//! `slash32 policy …`: what is in force, why, and what a change would do.

mod explain;
mod offline;
mod report;
mod show;
mod trace;

use std::{path::PathBuf, process::ExitCode};

use clap::Subcommand;

use super::Global;
use crate::api::Request;

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// The policies in force, the endpoints they select and the packets they matched.
    Show {
        /// The compiled nftables ruleset.
        #[arg(long)]
        nft: bool,
    },
    /// Each rule that a packet would meet, the nftables rule it became with its live counter, and the verdict.
    Explain {
        /// Source: endpoint id, container id, address, or `host`.
        src: String,
        /// Destination: endpoint id, container id, address, or `host`.
        dst: String,
        /// `tcp/80`, `udp/53`, `icmp` …
        service: String,
        /// The source port, for rules that ask for it; otherwise an ephemeral one is assumed.
        #[arg(long)]
        source_port: Option<u16>,
        /// The interface by which it reaches the host, for host policies; otherwise the one that leads to the source.
        #[arg(long, value_name = "NAME")]
        interface: Option<String>,
    },
    /// Who may talk to whom, for the endpoints this host knows of.
    Matrix {
        /// Only one service, as a grid: `tcp/80`, `udp/53`, `icmp` …
        service: Option<String>,
        /// Take the endpoints and policies from a file of `policy test` instead of the agent.
        #[arg(long, value_name = "FILE")]
        endpoints: Option<PathBuf>,
    },
    /// What a changed folder would allow and cut, against the policies in force or against another folder.
    ///
    /// Exit code 3 when there is a difference.
    Diff {
        /// A folder or file of policies; with a second one, the old state.
        policies: PathBuf,
        /// The new state, if the first one is the old state.
        new: Option<PathBuf>,
        /// Take the endpoints from a file of `policy test` instead of the agent; needs both folders.
        #[arg(long, value_name = "FILE")]
        endpoints: Option<PathBuf>,
    },
    /// Refused packets as they happen, with the rule that refuses them. Ends with Ctrl-C.
    Trace {
        /// End after so many packets.
        #[arg(long, value_name = "N")]
        count: Option<u64>,
        /// End after so many seconds.
        #[arg(long, value_name = "SECONDS")]
        seconds: Option<u64>,
    },
    /// Evaluate files of expectations: who must be able to talk to whom, and who must not. Needs no agent and no root.
    ///
    /// Exit code 3 when an expectation does not hold.
    Test {
        /// The files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Write a report in JUnit's format as well.
        #[arg(long, value_name = "FILE")]
        junit: Option<PathBuf>,
    },
    /// Read policy files and folders and show every error with its place. Needs no agent.
    Check {
        /// Folders and files; several are read together.
        #[arg(required = true)]
        policies: Vec<PathBuf>,
        /// Labels that travel in full, as `expand` in the configuration.
        #[arg(long, value_name = "LABEL")]
        expand: Vec<String>,
    },
}

pub(super) fn run(global: &Global, command: PolicyCommand) -> anyhow::Result<ExitCode> {
    match command {
        PolicyCommand::Show { nft } => show::run(global, nft)?,
        PolicyCommand::Explain { src, dst, service, source_port, interface } => {
            report::service(&service)?;
            let request = Request::PolicyExplain { src, dst, service, source_port, interface };
            global.show(&request, explain::text)?;
        }
        PolicyCommand::Matrix { service, endpoints } => {
            report::matrix(global, service.as_deref(), endpoints.as_deref())?;
        }
        PolicyCommand::Diff { policies, new, endpoints } => {
            return report::diff(global, &policies, new.as_deref(), endpoints.as_deref());
        }
        PolicyCommand::Trace { count, seconds } => trace::run(global, count, seconds)?,
        PolicyCommand::Test { files, junit } => return offline::test(global, &files, junit.as_deref()),
        PolicyCommand::Check { policies, expand } => return offline::check(global, &policies, expand),
    }
    Ok(ExitCode::SUCCESS)
}
