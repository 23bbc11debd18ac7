//! Cables between machines.

use anyhow::{Context, Result, bail, ensure};

use crate::lab::Lab;
use crate::machine::Machine;
use crate::{PATIENCE, eventually};

/// One end of a cable: a network interface to be.
#[must_use = "a port is made by Lab::link"]
pub struct Port {
    machine: Machine,
    name: String,
    addresses: Vec<String>,
    bridge: Option<String>,
    mtu: Option<u32>,
}

impl Machine {
    /// An end of a cable, for [`Lab::link`].
    pub fn port(&self, name: &str) -> Port {
        Port { machine: self.clone(), name: name.to_owned(), addresses: Vec::new(), bridge: None, mtu: None }
    }

    /// Adds a bridge: the machine becomes an Ethernet switch for the ports put on it.
    pub fn bridge(&self, name: &str, addresses: &[&str]) -> Result<()> {
        self.run(&format!("ip link add {name} type bridge"))?;
        configure(self, name, addresses)
    }
}

impl Port {
    /// Adds an address with its prefix length, IPv4 or IPv6.
    pub fn address(mut self, address: &str) -> Self {
        self.addresses.push(address.to_owned());
        self
    }

    /// Puts the port on a bridge of its machine.
    pub fn on_bridge(mut self, bridge: &str) -> Self {
        self.bridge = Some(bridge.to_owned());
        self
    }

    /// Sets the MTU, in bytes.
    pub fn mtu(mut self, bytes: u32) -> Self {
        self.mtu = Some(bytes);
        self
    }

    fn configure(&self) -> Result<()> {
        if let Some(bytes) = self.mtu {
            self.machine.run(&format!("ip link set {} mtu {bytes}", self.name))?;
        }
        if let Some(bridge) = &self.bridge {
            self.machine.run(&format!("ip link set {} master {bridge}", self.name))?;
        }
        let addresses: Vec<&str> = self.addresses.iter().map(String::as_str).collect();
        configure(&self.machine, &self.name, &addresses)
    }

    /// Waits until the kernel has noticed the carrier: IPv6 starts only then.
    fn wait_up(&self) -> Result<()> {
        eventually(&format!("{}:{} is up", self.machine.name(), self.name), PATIENCE, || {
            let state = self.machine.run(&format!("cat /sys/class/net/{}/operstate", self.name))?;
            ensure!(state.trim() == "up", "it is {}", state.trim());
            Ok(())
        })
    }
}

impl Lab {
    /// Joins two machines by a cable (a veth pair), sets the addresses and brings it up.
    pub fn link(&self, left: Port, right: Port) -> Result<()> {
        let output = std::process::Command::new("ip")
            .args(["link", "add", "name", &left.name, "netns", &left.machine.host_pid().to_string()])
            .args(["type", "veth", "peer", "name", &right.name])
            .args(["netns", &right.machine.host_pid().to_string()])
            .output()
            .context("start ip (Debian package iproute2)")?;
        if !output.status.success() {
            bail!(
                "link {}:{} to {}:{}: {}",
                left.machine.name(),
                left.name,
                right.machine.name(),
                right.name,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        left.configure()?;
        right.configure()?;
        left.wait_up()?;
        right.wait_up()
    }
}

/// Adds addresses and brings the interface up, ready at once: no duplicate address detection.
fn configure(machine: &Machine, name: &str, addresses: &[&str]) -> Result<()> {
    machine.sysctl(&format!("net/ipv6/conf/{name}/accept_dad"), "0")?;
    let mut batch = String::new();
    for address in addresses {
        batch.extend(["address add ", address, " dev ", name, "\n"]);
    }
    batch.extend(["link set ", name, " up\n"]);
    machine.command("ip").args(["-batch", "-"]).stdin(batch).run().map(drop)
}
