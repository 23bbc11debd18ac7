//! OpenBGPD in its portable version.

use std::fmt::Write;

use anyhow::Result;
use interop_tests::{ImageRun, Signal};

use super::Flavor;
use crate::spec::{AddPath, Family, Neighbor, Remote, RouterSpec, unsupported};

pub(super) struct OpenBgpd;

impl Flavor for OpenBgpd {
    fn name(&self) -> &'static str {
        "openbgpd"
    }

    fn image(&self) -> Option<&'static str> {
        Some("openbgpd")
    }

    fn daemon(&self) -> &'static str {
        "bgpd"
    }

    fn multipath(&self) -> bool {
        false
    }

    fn example(&self) -> Option<(&'static str, &'static str)> {
        Some(("openbgpd/bgpd.conf", "openbgpd"))
    }

    fn config(&self, spec: &RouterSpec) -> Result<String> {
        let mut text =
            format!("AS {}\nrouter-id {}\nholdtime min 3\nconnect-retry 1\n", spec.asn, spec.router_id);
        if spec.multipath {
            text.push_str("rde med compare always\n");
        }
        for network in &spec.networks {
            let mut set = Vec::new();
            set.extend(spec.network_communities.iter().map(|community| format!("community {community}")));
            if let Some(bandwidth) = spec.link_bandwidth {
                let _ = bandwidth;
                return unsupported("cannot set a link bandwidth community");
            }
            let set = if set.is_empty() { String::new() } else { format!(" set {{ {} }}", set.join(" ")) };
            writeln!(text, "network {network}{set}")?;
        }
        for neighbor in &spec.neighbors {
            peer(&mut text, neighbor)?;
        }
        text.push_str("allow from any\nallow to any\n");
        Ok(text)
    }

    fn ready(&self, run: &ImageRun) -> Result<()> {
        run.command("bgpctl").args(["show", "summary"]).run().map(drop)
    }

    fn established(&self, run: &ImageRun) -> Result<usize> {
        let text = run.command("bgpctl").args(["show", "neighbor"]).run()?;
        Ok(text.matches("BGP state = Established").count())
    }

    fn paths(&self, run: &ImageRun, prefix: &str) -> Result<String> {
        let text = run.command("bgpctl").args(["show", "rib", "detail", prefix]).run()?;
        Ok(if text.contains("BGP routing table entry for") { text } else { String::new() })
    }

    fn count_paths(&self, shown: &str) -> usize {
        shown.matches("BGP routing table entry for").count()
    }

    fn reload(&self, run: &ImageRun, spec: &RouterSpec) -> Result<()> {
        run.signal(Signal::HUP)?;
        // Reads the file once more, and the control socket answers only when it has.
        std::thread::sleep(std::time::Duration::from_millis(300));
        // "After changing keys, a session needs to be reset to use the new keys" (bgpd.conf(5)).
        for neighbor in spec.neighbors.iter().filter(|neighbor| neighbor.password.is_some()) {
            if let Remote::Address(address) = &neighbor.remote {
                run.command("bgpctl").args(["neighbor", address, "clear"]).run()?;
            }
        }
        Ok(())
    }

    fn shut_down(&self, run: &ImageRun, neighbor: &str, text: &str) -> Result<()> {
        run.command("bgpctl").args(["neighbor", neighbor, "down", text]).run().map(drop)
    }

    fn was_told(&self, run: &ImageRun, text: &str) -> Result<bool> {
        Ok(run.log().contains(text) || run.command("bgpctl").args(["show", "neighbor"]).run()?.contains(text))
    }

    fn revive(&self, run: &ImageRun, neighbor: &str) -> Result<()> {
        run.command("bgpctl").args(["neighbor", neighbor, "up"]).run().map(drop)
    }

    fn forgive(&self, run: &ImageRun, neighbor: &str) -> Result<()> {
        // Each reset doubles the time it stays idle and refuses calls.
        self.revive(run, neighbor)
    }

    fn refresh(&self, run: &ImageRun, neighbor: &str) -> Result<()> {
        run.command("bgpctl").args(["neighbor", neighbor, "refresh"]).run().map(drop)
    }

    fn no_graceful_restart(&self) -> Option<&'static str> {
        Some("announces End-of-RIB only and takes its routes out of the kernel when it ends")
    }
}

fn peer(text: &mut String, neighbor: &Neighbor) -> Result<()> {
    let remote = match &neighbor.remote {
        Remote::Address(address) | Remote::Range(address) => address,
        Remote::Interface(_) => return unsupported("needs a neighbour's address: no unnumbered sessions"),
    };
    if neighbor.bfd.is_some() {
        return unsupported("has no BFD");
    }
    writeln!(text, "neighbor {remote} {{\n\tdescr \"{}\"", neighbor.name)?;
    writeln!(text, "\tremote-as {}", neighbor.asn)?;
    if matches!(neighbor.remote, Remote::Address(_)) {
        writeln!(text, "\tlocal-address {}", neighbor.local)?;
    }
    for family in Family::BOTH {
        let on = neighbor.families().any(|f| f == family);
        let name = if family == Family::Four { "IPv4" } else { "IPv6" };
        writeln!(text, "\tannounce {name} {}", if on { "unicast" } else { "none" })?;
    }
    if let Some((hold, _)) = neighbor.timers {
        writeln!(text, "\tholdtime {hold}")?;
    }
    if neighbor.passive || matches!(neighbor.remote, Remote::Range(_)) {
        text.push_str("\tpassive\n");
    }
    if let Some(password) = &neighbor.password {
        writeln!(text, "\ttcp md5sig password \"{password}\"")?;
    }
    if neighbor.ttl_security {
        text.push_str("\tttl-security yes\n");
    }
    if !neighbor.four_octet_as {
        text.push_str("\tannounce as-4byte no\n");
    }
    if neighbor.enhanced_refresh {
        text.push_str("\tannounce enhanced refresh yes\n");
    }
    match neighbor.add_path {
        AddPath::Off => {}
        AddPath::Send => text.push_str("\tannounce add-path send all\n"),
        AddPath::Receive => text.push_str("\tannounce add-path recv yes\n"),
    }
    if neighbor.reflector_client {
        text.push_str("\troute-reflector\n");
    }
    if neighbor.next_hop_self {
        text.push_str("\tset nexthop self\n");
    }
    if let Some(limit) = neighbor.max_prefixes {
        writeln!(text, "\tmax-prefix {limit}")?;
    }
    text.push_str("}\n");
    Ok(())
}
