//! A process running in a machine.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Exit, Machine, Signal};

/// How long a process gets to obey a SIGTERM.
const TERM: Duration = Duration::from_secs(20);

/// A process that was started in the background, leader of its own group. Dropping the handle
/// kills the group.
pub struct Process {
    machine: Machine,
    pid: i32,
    line: String,
    log: Option<PathBuf>,
}

impl Process {
    pub(super) fn new(machine: Machine, pid: i32, line: String, log: Option<PathBuf>) -> Self {
        Self { machine, pid, line, log }
    }

    /// Its pid inside the machine.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The machine it runs in.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// How it ended, if it has.
    pub fn exit(&self) -> Option<Exit> {
        self.machine.exit(self.pid, Some(Duration::ZERO))
    }

    /// Whether it still runs.
    pub fn running(&self) -> bool {
        self.exit().is_none()
    }

    /// Fails when it has ended, with the end of its log.
    pub fn check(&self) -> Result<()> {
        match self.exit() {
            None => Ok(()),
            Some(exit) => {
                bail!("{}: `{}` ended with {exit}:\n{}", self.machine.name(), self.line, self.log_tail(20))
            }
        }
    }

    /// Sends a signal to it alone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.machine.signal(self.pid, signal, false)
    }

    /// Freezes it, as a hung or swapped-out process is.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets a frozen process go on.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Kills it (`kill -9`) and waits for its end: a crash.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.wait(TERM).map(drop)
    }

    /// Asks it to end (SIGTERM) and waits for it.
    pub fn terminate(&self) -> Result<Exit> {
        self.signal(Signal::TERM)?;
        self.wait(TERM)
    }

    /// Waits for its end.
    pub fn wait(&self, limit: Duration) -> Result<Exit> {
        self.machine
            .exit(self.pid, Some(limit))
            .with_context(|| format!("{}: `{}` still runs after {limit:?}", self.machine.name(), self.line))
    }

    /// Everything it has logged, over all starts with the same log name.
    pub fn log(&self) -> String {
        let bytes = self.log.as_ref().and_then(|path| std::fs::read(path).ok()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        crate::tail(&self.log(), lines)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.running() {
            drop(self.machine.signal(self.pid, Signal::KILL, true));
        }
    }
}
