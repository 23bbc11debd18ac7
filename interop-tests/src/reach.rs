//! What tests ask of a network of containers, in words.

use anyhow::{Result, ensure};

use crate::agent::Agent;
use crate::cni::{Container, Network};
use crate::eventually::check;
use crate::{PATIENCE, eventually};

/// The slash32 network with one label.
pub fn labelled(key: &str, value: &str) -> Result<Network> {
    Ok(Network::slash32()?.label(key, value))
}

/// One container reaches another by both families, sooner or later.
pub fn reach(from: &Container, to: &Container) -> Result<()> {
    for address in [to.ipv4()?, to.ipv6()?] {
        eventually(&format!("{} reaches {}", from.name(), to.name()), PATIENCE, || from.ping(&address))?;
    }
    Ok(())
}

/// One container does not reach another any more, by either family, sooner or later.
pub fn unreachable(from: &Container, to: &Container) -> Result<()> {
    for address in [to.ipv4()?, to.ipv6()?] {
        eventually(&format!("{} loses {}", from.name(), to.name()), PATIENCE, || from.no_ping(&address))?;
    }
    Ok(())
}

/// Each container reaches each other one.
pub fn reach_each_other(containers: &[&Container]) -> Result<()> {
    for from in containers {
        for to in containers {
            if from.name() != to.name() {
                reach(from, to)?;
            }
        }
    }
    Ok(())
}

/// The host has no route to these addresses any more, neither in its own view nor in the kernel.
pub fn forgotten(agent: &Agent, addresses: &[&str]) -> Result<()> {
    for address in addresses {
        let family = if address.contains(':') { "-6" } else { "-4" };
        let what = format!("{} forgets {address}", agent.machine().name());
        eventually(&what, PATIENCE, || {
            let kernel = agent.machine().run(&format!("ip {family} route show"))?;
            ensure!(!kernel.split_whitespace().any(|word| word == *address), "{kernel}");
            let routes = agent.routes()?;
            let known = routes.iter().any(|route| route.prefix.split('/').next() == Some(address));
            check(!known, format!("{routes:?}"))
        })?;
    }
    Ok(())
}
