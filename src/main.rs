//! One binary: the CNI plugin when a runtime sets `CNI_COMMAND`, the command line otherwise.

use std::process::ExitCode;

fn main() -> ExitCode {
    slash32::netlink::entry::keep();
    if slash32::cni::is_plugin_call() { slash32::cni::plugin_main() } else { slash32::cli::main() }
}
