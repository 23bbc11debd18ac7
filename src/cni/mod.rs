//! The container's side.
use std::process::ExitCode;
/// Whether a runtime calls us as a plugin.
pub fn is_plugin_call() -> bool {
    std::env::var_os("CNI_COMMAND").is_some()
}
/// The plugin.
pub fn plugin_main() -> ExitCode {
    ExitCode::SUCCESS
}
