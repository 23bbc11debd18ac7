//! Packets by hand: of kinds that no ordinary socket sends, or with a source that is not the sender's.

use anyhow::{Result, ensure};

use crate::cni::Container;
use crate::machine::{Cmd, Machine};
use crate::probe::Helper;

/// Sends and hears packets of one protocol, both address families.
pub struct Raw {
    helper: Helper,
}

impl Container {
    /// Starts one in the container. What it hears is kept from then on.
    pub fn raw(&self, protocol: u8) -> Result<Raw> {
        Raw::start(self.command("lab-tool"), protocol, self.name())
    }
}

impl Machine {
    /// Starts one on the machine.
    pub fn raw(&self, protocol: u8) -> Result<Raw> {
        Raw::start(self.command("lab-tool"), protocol, self.name())
    }
}

impl Raw {
    fn start(command: Cmd, protocol: u8, name: &str) -> Result<Self> {
        let command = command.args(["raw", &protocol.to_string()]);
        Ok(Self { helper: Helper::start(command, &format!("raw-{name}"))? })
    }

    /// Sends a packet; `payload` begins with the transport's header, of which the checksum is filled in.
    pub fn send(&mut self, to: &str, payload: &[u8]) -> Result<()> {
        self.tell(&format!("send {to} {}", hex::encode(payload)))
    }

    /// Sends a packet with any source. An error is the sending kernel's refusal.
    pub fn forge(&mut self, from: &str, to: &str, payload: &[u8]) -> Result<()> {
        self.tell(&format!("forge {from} {to} {}", hex::encode(payload)))
    }

    /// Whether a packet with these bytes has come, or comes within so many milliseconds.
    pub fn hears(&mut self, mark: &[u8], milliseconds: u32) -> Result<bool> {
        let answer = self.helper.ask(&format!("hears {} {milliseconds}", hex::encode(mark)))?;
        ensure!(matches!(&*answer, "yes" | "no"), "{answer}");
        Ok(answer == "yes")
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        let answer = self.helper.ask(line)?;
        ensure!(answer == "ok", "{line}: {answer}");
        Ok(())
    }
}
