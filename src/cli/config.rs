//! `slash32 config check`.

use std::{path::PathBuf, process::ExitCode};

use clap::Subcommand;
use serde_json::json;

use super::{DIFFERENT, Global, print};
use crate::{
    agent::config::{self, ConfigError},
    api,
};

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
    let (errors, warnings, unread) = match config::check(file) {
        Ok((errors, warnings)) => (errors, warnings, None),
        Err(ConfigError::Invalid(errors)) => (errors, Vec::new(), None),
        Err(error @ ConfigError::Read(..)) => (Vec::new(), Vec::new(), Some(error.to_string())),
    };
    let valid = errors.is_empty() && unread.is_none();
    let mut list = print::diagnostics(&errors);
    list.extend(unread.iter().map(|message| json!({ "file": file, "message": message })));
    let told = json!({ "file": file, "valid": valid, "errors": list, "warnings": warnings });
    global.print(&told, |_| {
        if valid {
            let warnings = warnings.iter().map(|line| format!("\nwarning: {line}"));
            return format!("{} is valid{}", file.display(), warnings.collect::<String>());
        }
        errors.iter().map(ToString::to_string).chain(unread.iter().cloned()).collect::<Vec<_>>().join("\n")
    });
    if unread.is_some() { ExitCode::FAILURE } else { ExitCode::from(if valid { 0 } else { DIFFERENT }) }
}
