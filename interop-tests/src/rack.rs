//! The rack of `config/examples/`: a switch of any make and two hosts with slash32, from exactly the files that
//! users copy.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::agent::Agent;
use crate::lab::Lab;
use crate::machine::Machine;
use crate::programs;
use crate::router::Router;

/// What is in the switch's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// slash32 itself, as a plain eBGP switch.
    Slash32,
    /// BIRD 2.
    Bird,
    /// FRR.
    Frr,
    /// GoBGP as a route server on an Ethernet segment.
    Gobgp,
}

/// The cabling of a rack, before anything runs on it.
pub struct Rack {
    /// What the switch is to be.
    pub switch: Switch,
    /// The switch.
    pub tor: Machine,
    /// `host1` and `host2`.
    pub hosts: [Machine; 2],
}

/// The switch's software once it runs.
pub enum Running {
    /// slash32.
    Slash32(Agent),
    /// Somebody else's.
    Router(Router),
}

impl std::str::FromStr for Switch {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "" | "slash32" => Ok(Self::Slash32),
            "bird" | "bird2" => Ok(Self::Bird),
            "frr" => Ok(Self::Frr),
            "gobgp" => Ok(Self::Gobgp),
            _ => anyhow::bail!("SWITCH={name}: choose slash32, bird, frr or gobgp"),
        }
    }
}

impl std::fmt::Display for Switch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Slash32 => "slash32",
            Self::Bird => "BIRD 2",
            Self::Frr => "FRR",
            Self::Gobgp => "GoBGP",
        })
    }
}

impl Switch {
    /// The example with the switch's configuration, relative to `config/examples/`.
    pub fn config_file(self) -> &'static str {
        match self {
            Self::Slash32 => "slash32/switch.toml",
            Self::Bird => "bird2/bird.conf",
            Self::Frr => "frr/frr.conf",
            Self::Gobgp => "gobgp/gobgpd.toml",
        }
    }

    /// The example with the configuration of host 1 or 2, relative to `config/examples/`.
    pub fn host_file(self, host: usize) -> String {
        let dir = if self == Self::Gobgp { "gobgp" } else { "rack" };
        format!("{dir}/host{host}.toml")
    }
}

/// The path of a file in `config/examples/`.
pub fn example_path(file: &str) -> PathBuf {
    programs::repository().join("config/examples").join(file)
}

/// The text of a file in `config/examples/`.
pub fn example(file: &str) -> Result<String> {
    let path = example_path(file);
    std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

impl Rack {
    /// Cables a rack as the README of `config/examples/` draws it.
    pub fn new(lab: &Lab, switch: Switch) -> Result<Self> {
        let tor = lab.forwarder("switch")?;
        let hosts = [lab.machine("host1")?, lab.machine("host2")?];
        if switch == Switch::Gobgp {
            tor.bridge("br0", &["192.0.2.1/24", "2001:db8::1/64"])?;
        }
        for (number, host) in (1..).zip(&hosts) {
            let (port, uplink) = (tor.port(&format!("port{number}")), host.port("eth0"));
            let (port, uplink) = if switch == Switch::Gobgp {
                let (four, six) = (format!("192.0.2.1{number}/24"), format!("2001:db8::1{number}/64"));
                (port.on_bridge("br0"), uplink.address(&four).address(&six))
            } else {
                let (low, high) = (number * 2 - 2, number * 2 - 1);
                (
                    port.address(&format!("192.0.2.{low}/31")).address(&format!("2001:db8:0:{number}::1/64")),
                    uplink
                        .address(&format!("192.0.2.{high}/31"))
                        .address(&format!("2001:db8:0:{number}::2/64")),
                )
            };
            lab.link(port, uplink)?;
        }
        Ok(Self { switch, tor, hosts })
    }

    /// Starts the switch's software.
    pub fn start_switch(&self) -> Result<Running> {
        let config = example(self.switch.config_file())?;
        Ok(match self.switch {
            Switch::Slash32 => Running::Slash32(Agent::start(&self.tor, &config)?),
            Switch::Bird => Running::Router(Router::bird(&self.tor, &config)?),
            Switch::Frr => Running::Router(Router::frr(&self.tor, &config)?),
            Switch::Gobgp => Running::Router(Router::gobgp(&self.tor, &config)?),
        })
    }

    /// Starts the agents of both hosts.
    pub fn start_hosts(&self) -> Result<[Agent; 2]> {
        self.start_hosts_with(|_, config| config)
    }

    /// Starts the agents of both hosts with their configurations changed: `change` gets the host's number, 1 or 2, and the text.
    pub fn start_hosts_with(&self, change: impl Fn(usize, String) -> String) -> Result<[Agent; 2]> {
        let [one, two] = &self.hosts;
        let config = |host| example(&self.switch.host_file(host)).map(|text| change(host, text));
        Ok([Agent::start(one, &config(1)?)?, Agent::start(two, &config(2)?)?])
    }

    /// Starts everything and waits until all sessions are up: an IPv4 and an IPv6 one for each host.
    pub fn start(&self) -> Result<(Running, [Agent; 2])> {
        let switch = self.start_switch()?;
        let hosts = self.start_hosts()?;
        for host in &hosts {
            host.wait_established(2)?;
        }
        Ok((switch, hosts))
    }
}

impl Running {
    /// slash32's agent, when it is the switch.
    pub fn agent(&self) -> Option<&Agent> {
        match self {
            Self::Slash32(agent) => Some(agent),
            Self::Router(_) => None,
        }
    }

    /// The router, when it is somebody else's.
    pub fn router(&self) -> Option<&Router> {
        match self {
            Self::Slash32(_) => None,
            Self::Router(router) => Some(router),
        }
    }
}
