//! The container's side: the CNI specification's types, the plugin (a thin client), attach and detach, and address
//! management.

use std::process::ExitCode;

pub mod attach;
pub mod attachment;
pub mod handler;
pub mod ipam;
pub mod store;
pub mod types;

/// Whether a runtime calls us as a plugin.
pub fn is_plugin_call() -> bool {
    std::env::var_os("CNI_COMMAND").is_some()
}

/// The plugin.
pub fn plugin_main() -> ExitCode {
    ExitCode::SUCCESS
}
