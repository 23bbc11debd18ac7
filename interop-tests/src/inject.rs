//! A BGP speaker that says exactly what it is told, right or wrong.

use anyhow::{Context, Result, bail, ensure};

use crate::machine::Machine;
use crate::probe::Helper;

/// One TCP connection to a speaker's port 179, byte by byte.
pub struct Injector {
    helper: Helper,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A message: its type and body.
    Message(u8, Vec<u8>),
    /// The other side closed or reset the connection.
    Closed,
    /// Nothing in the time given.
    Silence,
}

impl Machine {
    /// Starts an injector on this machine; nothing is sent yet.
    pub fn injector(&self) -> Result<Injector> {
        Ok(Injector { helper: Helper::start(self.command("lab-tool").arg("inject"), "inject")? })
    }

    /// Starts a speaker that establishes a session from `local` to `to` and announces `routes` /32s of 20.0.0.0 and on
    /// (by IPv6: none). Ready when all are sent; the session lasts as long as the handle. What comes is read and
    /// forgotten.
    pub fn feed(&self, local: &str, to: &str, asn: u32, routes: u32) -> Result<Feed> {
        let command = self.command("lab-tool").args(["feed", local, to]).args([asn, routes]);
        Ok(Feed { _helper: Helper::start(command, "feed")? })
    }
}

/// A running feed.
pub struct Feed {
    _helper: Helper,
}

impl Injector {
    /// Opens a connection, closing the one before.
    pub fn connect(&mut self, to: &str) -> Result<()> {
        self.tell(&format!("connect {to}"))
    }

    /// Waits for a connection on port 179 of this machine, closing the one before.
    pub fn accept(&mut self) -> Result<()> {
        self.tell("accept")
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.tell(&format!("send {}", hex::encode(bytes)))
    }

    /// Closes the connection.
    pub fn close(&mut self) -> Result<()> {
        self.tell("close")
    }

    /// The next message, waiting for it so many milliseconds at most.
    pub fn receive(&mut self, milliseconds: u64) -> Result<Heard> {
        let answer = self.helper.ask(&format!("receive {milliseconds}"))?;
        let mut words = answer.split_whitespace();
        Ok(match words.next() {
            Some("message") => {
                let kind = words.next().context("a type")?.parse().context("a type")?;
                Heard::Message(kind, hex::decode(words.next().unwrap_or_default()).context("a body")?)
            }
            Some("closed") => Heard::Closed,
            Some("silence") => Heard::Silence,
            _ => bail!("the injector said {answer:?}"),
        })
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        let answer = self.helper.ask(line)?;
        ensure!(answer == "ok", "{}: {answer}", line.split_whitespace().next().unwrap_or_default());
        Ok(())
    }
}
