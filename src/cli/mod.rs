//! The command line.

pub mod bgp_decode;

use std::process::ExitCode;
/// Runs the command line.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
