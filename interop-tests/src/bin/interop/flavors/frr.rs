//! FRR, with either set of defaults.

use std::fmt::Write;

use anyhow::{Context, Result};
use interop_tests::ImageRun;
use serde_json::Value;

use super::Flavor;
use crate::site::Switch;
use crate::spec::{AddPath, Family, Neighbor, Remote, RouterSpec, unsupported};

pub(super) struct Frr {
    pub(super) name: &'static str,
    pub(super) profile: &'static str,
}

impl Flavor for Frr {
    fn name(&self) -> &'static str {
        self.name
    }

    fn image(&self) -> Option<&'static str> {
        Some("frr")
    }

    fn daemon(&self) -> &'static str {
        "bgpd"
    }

    fn env(&self) -> &'static [(&'static str, &'static str)] {
        // As an operator who wants graceful restart has it: zebra leaves the kernel's routes there when it ends (-r), and
        // takes over those of a former run for so long (-K).
        match self.profile {
            "datacenter" => &[("FRR_PROFILE", "datacenter"), ("FRR_ZEBRA_OPTIONS", "-r -K 30")],
            _ => &[("FRR_PROFILE", "traditional"), ("FRR_ZEBRA_OPTIONS", "-r -K 30")],
        }
    }

    fn example(&self) -> Option<(&'static str, &'static str)> {
        Some(("frr/frr.conf", "rack"))
    }

    fn config(&self, spec: &RouterSpec) -> Result<String> {
        let mut text = String::from("log stdout informational\nip forwarding\nipv6 forwarding\n!\n");
        if !spec.network_communities.is_empty() || spec.link_bandwidth.is_some() {
            text.push_str("route-map OWN permit 10\n");
            if !spec.network_communities.is_empty() {
                writeln!(text, " set community {}", spec.network_communities.join(" "))?;
            }
            if let Some(bandwidth) = spec.link_bandwidth {
                // In Mbit/s here, in bytes a second on the wire.
                writeln!(text, " set extcommunity bandwidth {}", (bandwidth * 8.0 / 1e6).round() as u32)?;
            }
            text.push_str("!\n");
        }
        writeln!(text, "router bgp {}\n bgp router-id {}", spec.asn, spec.router_id)?;
        text.push_str(" no bgp default ipv4-unicast\n no bgp ebgp-requires-policy\n bgp bestpath as-path multipath-relax\n");
        text.push_str(" bgp log-neighbor-changes\n");
        if let Some(seconds) = spec.graceful_restart {
            writeln!(
                text,
                " bgp graceful-restart\n bgp graceful-restart preserve-fw-state\n bgp graceful-restart restart-time {seconds}\n \
                 bgp graceful-restart select-defer-time 5"
            )?;
        }
        if let Some(seconds) = spec.long_lived {
            writeln!(text, " bgp long-lived-graceful-restart stale-time {seconds}")?;
        }
        for neighbor in &spec.neighbors {
            peer(&mut text, neighbor)?;
        }
        for family in Family::BOTH {
            writeln!(text, " address-family {} unicast", family.word())?;
            let policy = if spec.network_communities.is_empty() && spec.link_bandwidth.is_none() {
                ""
            } else {
                " route-map OWN"
            };
            for network in spec.networks.iter().filter(|network| Family::of(network) == family) {
                writeln!(text, "  network {network}{policy}")?;
            }
            if !spec.multipath {
                text.push_str("  maximum-paths 1\n");
            }
            for neighbor in &spec.neighbors {
                let name = name(neighbor);
                if !neighbor.families().any(|f| f == family) {
                    continue;
                }
                writeln!(text, "  neighbor {name} activate")?;
                if neighbor.reflector_client {
                    writeln!(text, "  neighbor {name} route-reflector-client")?;
                }
                if neighbor.next_hop_self {
                    writeln!(text, "  neighbor {name} next-hop-self force")?;
                }
                if neighbor.add_path == AddPath::Send {
                    writeln!(text, "  neighbor {name} addpath-tx-all-paths")?;
                }
                if let Some(limit) = neighbor.max_prefixes {
                    writeln!(text, "  neighbor {name} maximum-prefix {limit}")?;
                }
            }
            text.push_str(" exit-address-family\n");
        }
        Ok(text)
    }

    fn ready(&self, run: &ImageRun) -> Result<()> {
        // The configuration is loaded last, after all daemons have started.
        let running = vtysh(run, &["show running-config"])?;
        anyhow::ensure!(running.contains("router bgp"), "not configured yet");
        Ok(())
    }

    fn established(&self, run: &ImageRun) -> Result<usize> {
        let json: Value =
            serde_json::from_str(&vtysh(run, &["show bgp neighbors json"])?).context("neighbors")?;
        let neighbors = json.as_object().into_iter().flatten();
        Ok(neighbors.filter(|(_, neighbor)| neighbor["bgpState"] == "Established").count())
    }

    fn paths(&self, run: &ImageRun, prefix: &str) -> Result<String> {
        let family = Family::of(prefix).word();
        let text = vtysh(run, &[&format!("show bgp {family} unicast {prefix}")])?;
        Ok(if text.contains("BGP routing table entry for") { text } else { String::new() })
    }

    fn count_paths(&self, shown: &str) -> usize {
        // Each path ends with the line of when it last changed.
        shown.matches("Last update:").count()
    }

    fn reload(&self, run: &ImageRun, spec: &RouterSpec) -> Result<()> {
        // Lines are added or replaced, as `vtysh -f` does; nothing here needs one removed but a password.
        let mut lines = vec!["configure terminal".to_owned(), format!("router bgp {}", spec.asn)];
        for neighbor in &spec.neighbors {
            if neighbor.password.is_none() {
                lines.push(format!("no neighbor {} password", name(neighbor)));
            }
        }
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        drop(vtysh(run, &lines));
        run.command("vtysh").args(["-f", "/config/frr.conf"]).run().map(drop)
    }

    fn shut_down(&self, run: &ImageRun, neighbor: &str, text: &str) -> Result<()> {
        let asn = asn(run)?;
        let line = format!("neighbor {neighbor} shutdown message {text}");
        vtysh(run, &["configure terminal", &format!("router bgp {asn}"), &line]).map(drop)
    }

    fn was_told(&self, run: &ImageRun, text: &str) -> Result<bool> {
        Ok(run.log().contains(text) || vtysh(run, &["show bgp neighbors"])?.contains(text))
    }

    fn revive(&self, run: &ImageRun, neighbor: &str) -> Result<()> {
        let asn = asn(run)?;
        let line = format!("no neighbor {neighbor} shutdown");
        // Fails when it was not shut down but has reached a limit.
        drop(vtysh(run, &["configure terminal", &format!("router bgp {asn}"), &line]));
        vtysh(run, &[&format!("clear bgp {neighbor}")]).map(drop)
    }

    fn refresh(&self, run: &ImageRun, neighbor: &str) -> Result<()> {
        vtysh(run, &[&format!("clear bgp ipv4 unicast {neighbor} soft in")]).map(drop)
    }

    fn bfd_admin_down(&self, switch: &mut Switch) -> Result<()> {
        let run = &switch.run;
        let neighbor = name(switch.spec.neighbors.first().context("a neighbour")?);
        let shown = vtysh(run, &["show bfd peers json"])?;
        let json: Value = serde_json::from_str(&shown).context("BFD peers")?;
        let peers = json.as_array().cloned().unwrap_or_default();
        let peer = peers.iter().find(|peer| peer["peer"] == neighbor).context("no such BFD peer")?;
        let place = match (peer["local"].as_str(), peer["interface"].as_str()) {
            (Some(local), Some(port)) => format!(" local-address {local} interface {port}"),
            (Some(local), None) => format!(" local-address {local}"),
            (None, Some(port)) => format!(" interface {port}"),
            (None, None) => String::new(),
        };
        vtysh(run, &["configure terminal", "bfd", &format!("peer {neighbor}{place}"), "shutdown"]).map(drop)
    }
}

fn vtysh(run: &ImageRun, lines: &[&str]) -> Result<String> {
    run.command("vtysh").args(lines.iter().flat_map(|line| ["-c", line])).run()
}

fn asn(run: &ImageRun) -> Result<String> {
    let running = vtysh(run, &["show running-config"])?;
    let line = running.lines().find_map(|line| line.strip_prefix("router bgp "));
    Ok(line.context("no router bgp")?.trim().to_owned())
}

/// What a neighbour is called in commands.
fn name(neighbor: &Neighbor) -> String {
    match &neighbor.remote {
        Remote::Address(address) => address.clone(),
        Remote::Range(_) => neighbor.name.to_uppercase(),
        Remote::Interface(port) => port.clone(),
    }
}

fn peer(text: &mut String, neighbor: &Neighbor) -> Result<()> {
    let name = name(neighbor);
    match &neighbor.remote {
        Remote::Address(_) => writeln!(text, " neighbor {name} remote-as {}", neighbor.asn)?,
        Remote::Range(_) => {
            writeln!(text, " neighbor {name} peer-group\n neighbor {name} remote-as external")?;
        }
        Remote::Interface(_) => writeln!(text, " neighbor {name} interface remote-as external")?,
    }
    writeln!(text, " neighbor {name} timers connect 1")?;
    if let Some((hold, keepalive)) = neighbor.timers {
        writeln!(text, " neighbor {name} timers {keepalive} {hold}")?;
    }
    if neighbor.passive {
        writeln!(text, " neighbor {name} passive")?;
    }
    if let Some(password) = &neighbor.password {
        writeln!(text, " neighbor {name} password {password}")?;
    }
    if neighbor.ttl_security {
        writeln!(text, " neighbor {name} ttl-security hops 1")?;
    }
    if let Some((interval, multiplier)) = neighbor.bfd {
        writeln!(text, " neighbor {name} bfd {multiplier} {interval} {interval}")?;
    }
    if matches!(neighbor.remote, Remote::Interface(_)) {
        writeln!(text, " neighbor {name} capability extended-nexthop")?;
    }
    if let Remote::Range(range) = &neighbor.remote {
        writeln!(text, " bgp listen range {range} peer-group {name}")?;
    }
    if !neighbor.four_octet_as {
        return unsupported("cannot leave out the 4-octet AS capability alone");
    }
    Ok(())
}
