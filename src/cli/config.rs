//! `slash32 config check`.

use std::{path::PathBuf, process::ExitCode};

use clap::Subcommand;
use serde_json::json;

use super::Global;
use crate::{agent::config, api};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Parse and validate a configuration file and its policy folder.
    Check {
        /// The file.
        #[arg(default_value = api::DEFAULT_CONFIG)]
        file: PathBuf,
    },
}

pub(super) fn run(global: &Global, command: &ConfigCommand) -> ExitCode {
    let ConfigCommand::Check { file } = command;
    let mut errors = Vec::new();
    match config::check(file) {
        Ok(policy_errors) => errors.extend(policy_errors),
        Err(error) => errors.push(error.to_string()),
    }
    let value = json!({ "file": file, "valid": errors.is_empty(), "errors": errors });
    global.print(&value, |_| {
        if errors.is_empty() { format!("{} is valid", file.display()) } else { errors.join("\n") }
    });
    ExitCode::from(u8::from(!errors.is_empty()))
}
