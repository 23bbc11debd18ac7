//! Traffic that counts what it loses, and connections that notice being cut.

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::cni::Container;
use crate::eventually;
use crate::machine::{Cmd, Process};

/// Port of the echo servers.
pub(crate) const ECHO_PORT: u16 = 7;
/// How long to wait for a helper to say it is ready.
const START: Duration = Duration::from_secs(10);

/// What a [`Probe`] saw.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProbeReport {
    /// When the first packet was sent, in seconds since 1970.
    pub started: f64,
    /// Packets sent.
    pub sent: u64,
    /// Packets that came back.
    pub received: u64,
    /// Longest time without an answer, in milliseconds.
    pub longest_gap_ms: f64,
    /// When the packets that did not come back were sent, in milliseconds since the first; at most the first hundred.
    pub lost_at_ms: Vec<f64>,
}

impl ProbeReport {
    /// Packets that did not come back.
    pub fn lost(&self) -> u64 {
        self.sent - self.received
    }
}

/// UDP packets at a steady rate to an echo server, until [`stop`](Self::stop).
pub struct Probe {
    helper: Helper,
}

/// What a [`Flow`] saw.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FlowReport {
    /// Lines sent and echoed.
    pub echoed: u64,
    /// Longest time a line took, in milliseconds.
    pub slowest_ms: f64,
    /// What ended the connection, if something did.
    pub error: Option<String>,
}

/// One TCP connection that carries a line every few milliseconds, until [`stop`](Self::stop).
pub struct Flow {
    helper: Helper,
}

/// A process that waits for addresses to come alive, started ahead of what is measured.
pub struct Watcher {
    helper: Helper,
}

/// A `lab-tool` that is talked to by lines.
pub(crate) struct Helper {
    process: Process,
    stdin: PipeWriter,
    stdout: BufReader<PipeReader>,
}

impl Container {
    /// Starts UDP and TCP echo servers on port 7, both address families.
    pub fn echo(&self) -> Result<Process> {
        self.echo_on(ECHO_PORT)
    }

    /// Starts UDP and TCP echo servers on a port, both address families.
    pub fn echo_on(&self, port: u16) -> Result<Process> {
        let process = self
            .command("lab-tool")
            .args(["echo", &port.to_string()])
            .spawn(&format!("echo-{}", self.name()))?;
        eventually("the echo server listens", START, || {
            process.check()?;
            ensure!(process.log().contains(&format!("listening on {port}")), "{}", process.log());
            Ok(())
        })?;
        Ok(process)
    }

    /// Sends `rate` packets a second to the echo server of `to`, starting when the first came back.
    pub fn probe(&self, to: &str, rate: u32) -> Result<Probe> {
        let command = self.command("lab-tool").args(["probe", to, &ECHO_PORT.to_string(), &rate.to_string()]);
        let helper = Helper::start(command, &format!("probe-{}", self.name()))?;
        Ok(Probe { helper })
    }

    /// Opens a TCP connection to the echo server of `to` and keeps it busy.
    pub fn flow(&self, to: &str, port: u16) -> Result<Flow> {
        let command = self.command("lab-tool").args(["flow", to, &port.to_string()]);
        let helper = Helper::start(command, &format!("flow-{}", self.name()))?;
        Ok(Flow { helper })
    }

    /// Starts a process that pings what [`Watcher::wait`] names.
    pub fn watcher(&self) -> Result<Watcher> {
        let helper =
            Helper::start(self.command("lab-tool").arg("first-answer"), &format!("watcher-{}", self.name()))?;
        Ok(Watcher { helper })
    }

    /// Opens a TCP connection; an error says whether it was refused or never answered.
    pub fn connect(&self, to: &str, port: u16) -> Result<()> {
        self.command("lab-tool").args(["connect", to, &port.to_string()]).run().map(drop)
    }
}

impl Probe {
    /// Ends the traffic; what was lost.
    pub fn stop(self) -> Result<ProbeReport> {
        self.helper.finish()
    }
}

impl Flow {
    /// Closes the connection; what it saw.
    pub fn stop(self) -> Result<FlowReport> {
        self.helper.finish()
    }
}

impl Watcher {
    /// Pings an address every half millisecond until it answers.
    pub fn wait(&mut self, address: &str) -> Result<()> {
        let answer = self.helper.ask(address)?;
        ensure!(answer == address, "{address}: {answer} {}", self.helper.process.log_tail(3));
        Ok(())
    }
}

impl Helper {
    /// Starts a helper and waits for its line "ready".
    pub(crate) fn start(command: Cmd, log: &str) -> Result<Self> {
        let (process, stdin, stdout) = command.spawn_piped(log)?;
        let mut helper = Self { process, stdin, stdout: BufReader::new(stdout) };
        let line = helper.line()?;
        if line != "ready" {
            bail!("the helper said {line:?}: {}", helper.process.log_tail(5));
        }
        Ok(helper)
    }

    /// Writes a line and reads one.
    pub(crate) fn ask(&mut self, line: &str) -> Result<String> {
        writeln!(self.stdin, "{line}").context("write to the helper")?;
        let answer = self.line()?;
        ensure!(!answer.is_empty(), "the helper ended: {}", self.process.log_tail(5));
        Ok(answer)
    }

    /// Closes its stdin, which ends it, and reads its report.
    fn finish<T: serde::de::DeserializeOwned>(self) -> Result<T> {
        let Self { process, stdin, mut stdout } = self;
        drop(stdin);
        let mut line = String::new();
        stdout.read_line(&mut line).context("read the report")?;
        process.wait(START)?;
        serde_json::from_str(&line).with_context(|| format!("report {line:?}: {}", process.log_tail(5)))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line).context("read from the helper")?;
        Ok(line.trim_end().to_owned())
    }
}
