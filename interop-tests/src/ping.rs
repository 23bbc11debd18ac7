//! Reachability by ICMP echo.

use anyhow::{Result, bail, ensure};

use crate::machine::{Cmd, Machine};

/// Seconds to wait for one answer.
const WAIT: &str = "1";

impl Machine {
    /// Pings once; an error when no answer comes within a second.
    pub fn ping(&self, address: &str) -> Result<()> {
        ping(self.command("ping"), address)
    }
}

/// Pings `address` once with a prepared `ping` command.
pub(crate) fn ping(command: Cmd, address: &str) -> Result<()> {
    let output = command.args(["-n", "-c", "1", "-W", WAIT, address]).output()?;
    if output.exit.success() {
        return Ok(());
    }
    bail!("no answer from {address}: {}{}", output.stdout.trim(), output.stderr.trim())
}

/// The opposite of [`ping`]: an error when an answer comes.
pub(crate) fn no_ping(command: Cmd, address: &str) -> Result<()> {
    ensure!(ping(command, address).is_err(), "{address} answers, and should not");
    Ok(())
}
