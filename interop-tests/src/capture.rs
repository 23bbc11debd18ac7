//! Packet captures, for the day a test fails.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::eventually;
use crate::machine::{Machine, Process};

/// A running capture. It ends with the lab or when dropped; the file is kept when the lab fails.
pub struct Capture {
    process: Process,
}

impl Machine {
    /// Captures an interface into `INTERFACE.pcap` in the machine's log directory. `filter` is
    /// tcpdump's, empty for all.
    pub fn capture(&self, interface: &str, filter: &str) -> Result<Capture> {
        let file = self.log_dir().join(format!("{interface}.pcap"));
        let process = self
            .command("tcpdump")
            .args(["-i", interface, "-n", "-U", "-Z", "root", "-w"])
            .arg(file.display())
            .args(filter.split_whitespace())
            .spawn(&format!("tcpdump-{interface}"))
            .context("capture (Debian package tcpdump)")?;
        eventually("tcpdump listens", Duration::from_secs(10), || {
            process.check()?;
            ensure!(process.log().contains("listening on"), "{}", process.log());
            Ok(())
        })?;
        Ok(Capture { process })
    }
}

impl Capture {
    /// Ends the capture with everything written.
    pub fn stop(self) -> Result<()> {
        self.process.terminate().map(drop)
    }
}
