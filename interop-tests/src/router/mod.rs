//! Other people's routers on a machine, each with a real configuration file in its usual place.

mod bird;
mod frr;
mod gobgp;

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use crate::machine::{Machine, Process};
use crate::{PATIENCE, eventually};

/// A running router.
pub struct Router {
    machine: Machine,
    kind: Kind,
    processes: Vec<Process>,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Bird,
    Frr,
    Gobgp,
}

impl Router {
    /// Starts BIRD with this text as `/etc/bird/bird.conf`.
    pub fn bird(machine: &Machine, config: &str) -> Result<Self> {
        bird::start(machine, config).map(|processes| Self::started(machine, Kind::Bird, processes))
    }

    /// Starts FRR's zebra and bgpd with this text as `/etc/frr/frr.conf`.
    pub fn frr(machine: &Machine, config: &str) -> Result<Self> {
        frr::start(machine, config).map(|processes| Self::started(machine, Kind::Frr, processes))
    }

    /// Starts GoBGP with this text as `/etc/gobgp/gobgpd.toml`.
    pub fn gobgp(machine: &Machine, config: &str) -> Result<Self> {
        gobgp::start(machine, config).map(|processes| Self::started(machine, Kind::Gobgp, processes))
    }

    fn started(machine: &Machine, kind: Kind, processes: Vec<Process>) -> Self {
        Self { machine: machine.clone(), kind, processes }
    }

    /// The machine it runs on.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Its processes; the last one speaks BGP.
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// Name and version, as the router prints them.
    pub fn version(&self) -> Result<String> {
        match self.kind {
            Kind::Bird => bird::version(&self.machine),
            Kind::Frr => frr::version(&self.machine),
            Kind::Gobgp => gobgp::version(&self.machine),
        }
    }

    /// How many BGP sessions are up.
    pub fn established(&self) -> Result<usize> {
        match self.kind {
            Kind::Bird => bird::established(&self.machine),
            Kind::Frr => frr::established(&self.machine),
            Kind::Gobgp => gobgp::established(&self.machine),
        }
    }

    /// The prefixes it has in its BGP tables, IPv4 and IPv6.
    pub fn prefixes(&self) -> Result<BTreeSet<String>> {
        match self.kind {
            Kind::Bird => bird::prefixes(&self.machine),
            Kind::Frr => frr::prefixes(&self.machine),
            Kind::Gobgp => gobgp::prefixes(&self.machine),
        }
    }

    /// What an operator would type to see its sessions, and what it answers.
    pub fn show_sessions(&self) -> Result<(String, String)> {
        let line = match self.kind {
            Kind::Bird => "birdc show protocols",
            Kind::Frr => return Ok(("vtysh -c 'show bgp summary'".into(), frr::summary(&self.machine)?)),
            Kind::Gobgp => "gobgp neighbor",
        };
        Ok((line.to_owned(), self.machine.run(line)?))
    }

    /// Waits until `count` sessions are up.
    pub fn wait_established(&self, count: usize) -> Result<()> {
        eventually(&format!("{count} sessions of {} are up", self.machine.name()), PATIENCE, || {
            for process in &self.processes {
                process.check()?;
            }
            let up = self.established()?;
            ensure!(up == count, "{up} of {count} up");
            Ok(())
        })
    }

    /// Waits until it has learned a prefix.
    pub fn wait_prefix(&self, prefix: &str) -> Result<()> {
        eventually(&format!("{} knows {prefix}", self.machine.name()), PATIENCE, || {
            let prefixes = self.prefixes()?;
            ensure!(prefixes.contains(prefix), "it knows {prefixes:?}");
            Ok(())
        })
    }

    /// Waits until it has forgotten a prefix.
    pub fn wait_no_prefix(&self, prefix: &str) -> Result<()> {
        eventually(&format!("{} forgets {prefix}", self.machine.name()), PATIENCE, || {
            let prefixes = self.prefixes()?;
            ensure!(!prefixes.contains(prefix), "it knows {prefixes:?}");
            Ok(())
        })
    }
}
