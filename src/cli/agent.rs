//! `slash32 agent`.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::Global;
use crate::{agent, api};

#[derive(Debug, Args)]
pub(super) struct AgentArgs {
    /// The configuration file.
    #[arg(long, short, default_value = api::DEFAULT_CONFIG, value_name = "FILE")]
    config: PathBuf,
    /// Log as JSON lines.
    #[arg(long)]
    log_json: bool,
}

pub(super) fn run(global: &Global, args: AgentArgs) -> anyhow::Result<ExitCode> {
    agent::run(agent::Options {
        config: args.config,
        run_dir: global.run_dir.clone(),
        log_json: args.log_json,
    })
}
