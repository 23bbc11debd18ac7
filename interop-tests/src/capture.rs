//! Packet captures, for the day a test fails.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::eventually;
use crate::machine::{Machine, Process};
use crate::pcap::{self, Packet};

/// A running capture. It ends with the lab or when dropped; the file is kept when the lab fails.
pub struct Capture {
    process: Process,
    file: PathBuf,
}

impl Machine {
    /// Captures an interface into `INTERFACE.pcap` in the machine's log directory. `filter` is
    /// tcpdump's, empty for all.
    pub fn capture(&self, interface: &str, filter: &str) -> Result<Capture> {
        let file = self.log_dir().join(format!("{interface}.pcap"));
        let process = self
            .command("tcpdump")
            // Each packet is in the file at once, not when a buffer is full or a second has passed.
            .args(["-i", interface, "-n", "-U", "--immediate-mode", "-Z", "root", "-w"])
            .arg(file.display())
            .args(filter.split_whitespace())
            .spawn(&format!("tcpdump-{interface}"))
            .context("capture (Debian package tcpdump)")?;
        eventually("tcpdump listens", Duration::from_secs(10), || {
            process.check()?;
            ensure!(process.log().contains("listening on"), "{}", process.log());
            Ok(())
        })?;
        Ok(Capture { process, file })
    }
}

impl Capture {
    /// The TCP and UDP packets seen so far.
    pub fn packets(&self) -> Result<Vec<Packet>> {
        let file = std::fs::read(&self.file).with_context(|| format!("read {}", self.file.display()))?;
        pcap::parse(&file)
    }

    /// Ends the capture with everything written.
    pub fn stop(self) -> Result<()> {
        self.process.terminate().map(drop)
    }
}
