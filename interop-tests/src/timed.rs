//! CNI calls timed at the place where the plugin runs, for benches.

use std::time::Duration;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cni::Network;
use crate::machine::Machine;
use crate::probe::Helper;

/// One call of a plugin.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Call {
    pub(crate) command: String,
    pub(crate) id: String,
    pub(crate) config: Value,
}

/// How it went.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Timed {
    pub(crate) nanoseconds: u64,
    pub(crate) result: Value,
    pub(crate) error: Option<String>,
}

/// Calls the plugin of a network on a machine and tells how long it took, start of the process included.
pub struct TimedPlugin {
    helper: Helper,
    network: Network,
}

impl TimedPlugin {
    /// Prepares calls for a network of one plugin.
    pub fn new(machine: &Machine, network: &Network) -> Result<Self> {
        let helper = Helper::start(machine.command("lab-tool").arg("cni-call"), "cni-call")?;
        Ok(Self { helper, network: network.clone() })
    }

    /// ADD on the namespace called `id`: the time and the result.
    pub fn add(&mut self, id: &str) -> Result<(Duration, Value)> {
        self.call("ADD", id, None)
    }

    /// DEL on the namespace called `id`, with what ADD had answered.
    pub fn delete(&mut self, id: &str, added: &Value) -> Result<Duration> {
        Ok(self.call("DEL", id, Some(added))?.0)
    }

    fn call(&mut self, command: &str, id: &str, previous: Option<&Value>) -> Result<(Duration, Value)> {
        let config = self.network.configuration(0, previous)?;
        let call = Call { command: command.to_owned(), id: id.to_owned(), config };
        let timed: Timed = serde_json::from_str(&self.helper.ask(&serde_json::to_string(&call)?)?)?;
        if let Some(error) = timed.error {
            bail!("{id}: {error}");
        }
        Ok((Duration::from_nanos(timed.nanoseconds), timed.result))
    }
}
