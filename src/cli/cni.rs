//! `slash32 cni install|uninstall`.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};
use serde_json::json;

use super::Global;
use crate::{api, cni::install};

#[derive(Debug, Subcommand)]
pub(super) enum CniCommand {
    /// Put the plugin and its network configuration in place, each by an atomic rename.
    Install(Places),
    /// Remove what `install` put there.
    Uninstall(Places),
}

#[derive(Debug, Args)]
pub(super) struct Places {
    /// Where runtimes look for plugins.
    #[arg(long, default_value = "/opt/cni/bin", value_name = "DIR")]
    bin_dir: PathBuf,
    /// Where runtimes look for network configurations.
    #[arg(long, default_value = "/etc/cni/net.d", value_name = "DIR")]
    conf_dir: PathBuf,
    /// The network's name.
    #[arg(long, default_value = "slash32")]
    network: String,
    /// Replace or remove what is in the place and not slash32's.
    #[arg(long)]
    force: bool,
}

pub(super) fn run(global: &Global, command: CniCommand) -> anyhow::Result<ExitCode> {
    let run_dir = global.run_dir.clone().unwrap_or_else(|| api::DEFAULT_RUN_DIR.into());
    let (done, changed) = match command {
        CniCommand::Install(p) => {
            ("installed", install::install(&p.bin_dir, &p.conf_dir, &p.network, &run_dir, p.force)?)
        }
        CniCommand::Uninstall(p) => ("removed", install::uninstall(&p.bin_dir, &p.conf_dir, p.force)?),
    };
    global.print(&json!({ done: changed }), |_| {
        let lines: Vec<String> = changed.iter().map(|path| format!("{done} {}", path.display())).collect();
        if lines.is_empty() { format!("nothing {done}") } else { lines.join("\n") }
    });
    Ok(ExitCode::SUCCESS)
}
