//! CNI calls timed at the place where the plugin runs, for benches.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cni::Network;
use crate::machine::Machine;
use crate::probe::Helper;

/// Calls of plugins.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    /// How many run at once.
    pub(crate) workers: usize,
    pub(crate) calls: Vec<Call>,
}

/// One call of a plugin.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Call {
    pub(crate) command: String,
    pub(crate) id: String,
    pub(crate) config: Value,
}

/// How a job went.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    /// From the first start to the last end.
    pub(crate) nanoseconds: u64,
    pub(crate) calls: Vec<Timed>,
}

/// How a call went.
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
        let (_, mut calls) = self.job("ADD", 1, &[(id, None)])?;
        calls.pop().context("one call, one answer")
    }

    /// DEL on the namespace called `id`, with what ADD had answered.
    pub fn delete(&mut self, id: &str, added: &Value) -> Result<Duration> {
        let (_, mut calls) = self.job("DEL", 1, &[(id, Some(added))])?;
        Ok(calls.pop().context("one call, one answer")?.0)
    }

    /// ADD on many namespaces, `workers` at once: the time of all together, and the results.
    pub fn add_all(&mut self, ids: &[String], workers: usize) -> Result<(Duration, Vec<Value>)> {
        let pairs: Vec<_> = ids.iter().map(|id| (id.as_str(), None)).collect();
        let (took, calls) = self.job("ADD", workers, &pairs)?;
        Ok((took, calls.into_iter().map(|(_, result)| result).collect()))
    }

    /// DEL on many namespaces, `workers` at once: the time of all together.
    pub fn delete_all(&mut self, ids: &[String], added: &[Value], workers: usize) -> Result<Duration> {
        let pairs: Vec<_> = ids.iter().zip(added).map(|(id, result)| (id.as_str(), Some(result))).collect();
        Ok(self.job("DEL", workers, &pairs)?.0)
    }

    fn job(
        &mut self,
        command: &str,
        workers: usize,
        ids: &[(&str, Option<&Value>)],
    ) -> Result<(Duration, Vec<(Duration, Value)>)> {
        let call = |(id, previous): &(&str, Option<&Value>)| {
            let config = self.network.configuration(0, *previous)?;
            anyhow::Ok(Call { command: command.to_owned(), id: (*id).to_owned(), config })
        };
        let job = Job { workers, calls: ids.iter().map(call).collect::<Result<_>>()? };
        let done: Done = serde_json::from_str(&self.helper.ask(&serde_json::to_string(&job)?)?)?;
        let mut calls = Vec::new();
        for (timed, (id, _)) in done.calls.into_iter().zip(ids) {
            if let Some(error) = timed.error {
                bail!("{id}: {error}");
            }
            calls.push((Duration::from_nanos(timed.nanoseconds), timed.result));
        }
        Ok((Duration::from_nanos(done.nanoseconds), calls))
    }
}

/// What the kernel and the start of a process cost by themselves, for benches.
pub struct Floor {
    helper: Helper,
}

impl Floor {
    /// Prepares to measure on a machine.
    pub fn new(machine: &Machine) -> Result<Self> {
        Ok(Self { helper: Helper::start(machine.command("lab-tool").arg("floor"), "floor")? })
    }

    /// Starts an empty program, with pipes as a plugin has them, and waits for its end.
    pub fn spawn(&mut self) -> Result<Duration> {
        self.ask("spawn")
    }

    /// Wires the namespace called `id` by bare netlink messages: a veth pair, addresses, routes, and nothing else.
    pub fn attach(&mut self, id: &str) -> Result<Duration> {
        self.ask(&format!("/run/netns/{id}"))
    }

    fn ask(&mut self, line: &str) -> Result<Duration> {
        let answer = self.helper.ask(line)?;
        Ok(Duration::from_nanos(answer.parse().with_context(|| format!("floor: {answer}"))?))
    }
}
