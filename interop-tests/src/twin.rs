//! Two hosts, each cabled to two switches that run BIRD: every path exists twice.

use std::fmt::Write;

use anyhow::Result;

use crate::agent::Agent;
use crate::cni::Container;
use crate::eventually::check;
use crate::lab::Lab;
use crate::machine::Machine;
use crate::router::Router;
use crate::{PATIENCE, eventually};

/// What the switches do about graceful restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwitchRestart {
    /// `graceful restart on`: they restart gracefully themselves, and promise End-of-RIB.
    On,
    /// BIRD's default, and that of many switches: they help a neighbour that restarts, and promise nothing.
    Helper,
}

/// The machines. Switch `s` (0 or 1) and host `h` (1 or 2) share `192.0.2.N/31`, where N is `8 s + 2 (h - 1)` at the
/// switch and one more at the host (whose port is `eth` and `s`), and `2001:db8:s:h::/64`.
pub struct TwinRack {
    /// `switch0` and `switch1`, AS 65000.
    pub switches: [Machine; 2],
    /// `host1` and `host2`, AS 65001 and 65002.
    pub hosts: [Machine; 2],
    restart: SwitchRestart,
}

/// The software once it runs.
pub struct TwinRunning {
    /// BIRD on each switch.
    pub switches: [Router; 2],
    /// The agents.
    pub agents: [Agent; 2],
}

/// IPv4 addresses of a cable's ends: the switch's and the host's.
fn ends4(switch: usize, host: usize) -> [String; 2] {
    let low = 8 * switch + 2 * (host - 1);
    [format!("192.0.2.{low}"), format!("192.0.2.{}", low + 1)]
}

/// IPv6 addresses of a cable's ends.
fn ends6(switch: usize, host: usize) -> [String; 2] {
    [1, 2].map(|end| format!("2001:db8:{switch}:{host}::{end}"))
}

impl TwinRack {
    /// Cables it, with switches that restart gracefully.
    pub fn new(lab: &Lab) -> Result<Self> {
        Self::with(lab, SwitchRestart::On)
    }

    /// Cables it.
    pub fn with(lab: &Lab, restart: SwitchRestart) -> Result<Self> {
        let switches = [lab.forwarder("switch0")?, lab.forwarder("switch1")?];
        let hosts = [lab.machine("host1")?, lab.machine("host2")?];
        for (s, switch) in switches.iter().enumerate() {
            for (h, host) in (1..).zip(&hosts) {
                let ([theirs4, ours4], [theirs6, ours6]) = (ends4(s, h), ends6(s, h));
                lab.link(
                    switch
                        .port(&format!("port{h}"))
                        .address(&format!("{theirs4}/31"))
                        .address(&format!("{theirs6}/64")),
                    host.port(&format!("eth{s}"))
                        .address(&format!("{ours4}/31"))
                        .address(&format!("{ours6}/64")),
                )?;
            }
        }
        Ok(Self { switches, hosts, restart })
    }

    /// The configuration of a host's agent: four sessions, BFD on each.
    pub fn agent_config(host: usize) -> Result<String> {
        let mut config = format!(
            "[bgp]\nasn = {}\n[bgp.group.switch]\nasn = 65000\nhold_time = 9\nkeepalive = 3\nidentity = 'accept'\n\
             bfd = {{ interval_ms = 100, multiplier = 3 }}\n",
            65000 + host
        );
        for switch in 0..2 {
            let (four, six) = (&ends4(switch, host)[0], &ends6(switch, host)[0]);
            for (address, family) in [(four, "ipv4"), (six, "ipv6")] {
                writeln!(
                    config,
                    "[[bgp.peer]]\naddress = '{address}'\ngroup = 'switch'\nfamilies = ['{family}']"
                )?;
            }
        }
        write!(
            config,
            "[[ipam.pool]]\ncidr = '10.32.0.0/16'\nblock = '10.32.{host}.0/24'\n\
             [[ipam.pool]]\ncidr = 'fd00:32::/48'\nblock = 'fd00:32:0:{host}::/64'\n"
        )?;
        Ok(config)
    }

    /// The configuration of a switch. BFD ends a session as a restart would, so that a host whose agent restarts keeps
    /// its routes, as RFC 5882 section 4.3 wants it where BFD does not survive the restart.
    pub fn switch_config(switch: usize, restart: SwitchRestart) -> Result<String> {
        let graceful = if restart == SwitchRestart::On { "graceful restart on; " } else { "" };
        let mut config = format!(
            "log stderr all;\nrouter id 192.0.2.{};\nprotocol device {{ }}\n\
             protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; merge paths on; }}\n\
             protocol kernel {{ ipv6 {{ import none; export where source = RTS_BGP; }}; merge paths on; }}\n\
             protocol bfd {{ interface \"*\" {{ interval 100 ms; multiplier 3; }}; }}\n",
            8 * switch
        );
        for host in 1..=2 {
            let ([ours4, host4], [ours6, host6]) = (ends4(switch, host), ends6(switch, host));
            for (family, ours, theirs) in [(4, ours4, host4), (6, ours6, host6)] {
                writeln!(
                    config,
                    "protocol bgp host{host}v{family} {{ local {ours} as 65000; neighbor {theirs} as {}; bfd graceful; \
                     {graceful}hold time 9; ipv{family} {{ import all; export where source = RTS_BGP; }}; }}",
                    65000 + host
                )?;
            }
        }
        Ok(config)
    }

    /// Starts everything and waits until all eight sessions are up.
    pub fn start(&self) -> Result<TwinRunning> {
        let [zero, one] = &self.switches;
        let config = |switch| Self::switch_config(switch, self.restart);
        let switches = [Router::bird(zero, &config(0)?)?, Router::bird(one, &config(1)?)?];
        let [one, two] = &self.hosts;
        let agents =
            [Agent::start(one, &Self::agent_config(1)?)?, Agent::start(two, &Self::agent_config(2)?)?];
        for agent in &agents {
            agent.wait_established(4)?;
        }
        Ok(TwinRunning { switches, agents })
    }

    /// Waits until a host has two ways to a container of the other, in both families.
    pub fn wait_both_ways(&self, host: usize, container: &Container) -> Result<()> {
        let machine = &self.hosts[host - 1];
        for (family, address) in [("-4", container.ipv4()?), ("-6", container.ipv6()?)] {
            eventually(&format!("{} has two ways to {address}", machine.name()), PATIENCE, || {
                let route = machine.run(&format!("ip {family} route show {address}"))?;
                check(route.matches("via").count() == 2, route)
            })?;
        }
        Ok(())
    }
}
