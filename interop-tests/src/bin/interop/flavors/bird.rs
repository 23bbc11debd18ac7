//! BIRD 2 and BIRD 3: one configuration language.

use std::fmt::Write;

use anyhow::{Result, ensure};
use interop_tests::ImageRun;

use super::Flavor;
use crate::site::Switch;
use crate::spec::{AddPath, Family, Neighbor, Remote, RouterSpec};

pub(super) struct Bird {
    pub(super) image: &'static str,
}

impl Flavor for Bird {
    fn name(&self) -> &'static str {
        self.image
    }

    fn image(&self) -> Option<&'static str> {
        Some(self.image)
    }

    fn daemon(&self) -> &'static str {
        "bird"
    }

    fn example(&self) -> Option<(&'static str, &'static str)> {
        Some(("bird2/bird.conf", "rack"))
    }

    fn config(&self, spec: &RouterSpec) -> Result<String> {
        let mut text = format!(
            "log stderr all;\nrouter id {};\nprotocol device {{ }}\nprotocol direct {{ ipv4; ipv6; interface \"-lo\", \"*\"; }}\n",
            spec.router_id
        );
        for family in Family::BOTH {
            let word = family.word();
            let merge = if spec.multipath { "merge paths on; " } else { "" };
            writeln!(
                text,
                "protocol kernel {{ {word} {{ import none; export where source = RTS_BGP; }}; {merge}graceful restart on; }}"
            )?;
            writeln!(text, "protocol static own_{word} {{ {word};")?;
            for network in spec.networks.iter().filter(|network| Family::of(network) == family) {
                writeln!(text, "  route {network} blackhole {{ {} }};", attributes(spec))?;
            }
            text.push_str("}\n");
        }
        if spec.neighbors.iter().any(|n| n.bfd.is_some()) {
            text.push_str("protocol bfd bfd1 { }\n");
        }
        if spec.neighbors.iter().any(|n| matches!(n.remote, Remote::Interface(_))) {
            // The neighbour finds us by our router advertisements; we are nobody's default router.
            text.push_str(
                "protocol radv { interface \"port*\" { default lifetime 0; max ra interval 4; }; }\n",
            );
        }
        for neighbor in &spec.neighbors {
            protocol(&mut text, spec, neighbor)?;
        }
        Ok(text)
    }

    fn ready(&self, run: &ImageRun) -> Result<()> {
        run.command("birdc").args(["show", "status"]).run().map(drop)
    }

    fn established(&self, run: &ImageRun) -> Result<usize> {
        let table = run.command("birdc").args(["show", "protocols"]).run()?;
        let up = |line: &&str| line.contains(" BGP ") && line.trim_end().ends_with("Established");
        Ok(table.lines().filter(up).count())
    }

    fn paths(&self, run: &ImageRun, prefix: &str) -> Result<String> {
        // Prints "Network not found" and fails when there is none.
        let output = run.command("birdc").args(["show", "route", "all", "for", prefix]).output()?;
        let lines =
            output.stdout.lines().filter(|line| !line.starts_with("BIRD ") && !line.starts_with("Access"));
        let text = lines.collect::<Vec<_>>().join("\n");
        Ok(if text.contains(prefix) { text } else { String::new() })
    }

    fn count_paths(&self, shown: &str) -> usize {
        shown.lines().filter(|line| line.contains(" unicast [")).count()
    }

    fn reload(&self, run: &ImageRun, _spec: &RouterSpec) -> Result<()> {
        let said = run.command("birdc").arg("configure").run()?;
        ensure!(said.contains("econfigur"), "{said}");
        Ok(())
    }

    fn shut_down(&self, run: &ImageRun, neighbor: &str, text: &str) -> Result<()> {
        run.command("birdc").args(["disable", neighbor, &format!("\"{text}\"")]).run().map(drop)
    }

    fn revive(&self, run: &ImageRun, neighbor: &str) -> Result<()> {
        run.command("birdc").args(["enable", neighbor]).run().map(drop)
    }

    fn refresh(&self, run: &ImageRun, neighbor: &str) -> Result<()> {
        // BIRD 3 has another word order.
        let line: &[&str] =
            if self.image == "bird3" { &["reload", "filters", "in"] } else { &["reload", "in"] };
        let said = run.command("birdc").args(line).arg(neighbor).run()?;
        ensure!(said.contains("eloading"), "{said}");
        Ok(())
    }

    fn planned_restart(&self, run: &mut ImageRun) -> Result<()> {
        // The command line may end with the container that it ends.
        drop(run.command("birdc").args(["graceful", "restart"]).output()?);
        run.wait_end()?;
        self.start_after_end(run)
    }

    fn start_after_end(&self, run: &mut ImageRun) -> Result<()> {
        run.start_again(&["-R"])
    }

    fn bfd_admin_down(&self, switch: &mut Switch) -> Result<()> {
        // It has no command for one session, and ends one that no protocol asks for any more.
        switch.reconfigure(self, |spec| {
            for neighbor in spec.neighbors.iter_mut().filter(|neighbor| neighbor.name.starts_with("h1")) {
                neighbor.bfd = None;
            }
        })
    }
}

/// What is added to each of the router's own routes.
fn attributes(spec: &RouterSpec) -> String {
    let mut text = String::new();
    for community in &spec.network_communities {
        text += &format!("bgp_community.add(({})); ", community.replace(':', ","));
    }
    if let Some(bandwidth) = spec.link_bandwidth {
        // draft-ietf-idr-link-bandwidth: type 0x4004, AS number, IEEE float.
        let key = 0x4004_0000 | (spec.asn & 0xffff);
        text += &format!("bgp_ext_community.add((generic, {key:#x}, {:#x})); ", bandwidth.to_bits());
    }
    text
}

fn protocol(text: &mut String, spec: &RouterSpec, neighbor: &Neighbor) -> Result<()> {
    writeln!(text, "protocol bgp {} {{", neighbor.name)?;
    writeln!(text, "  local as {};", spec.asn)?;
    match &neighbor.remote {
        Remote::Address(address) => {
            // Without the 4-octet capability it refuses to be told a large number, and takes it from the neighbour all the same.
            let who = if neighbor.four_octet_as || neighbor.asn <= 0xffff {
                format!("as {}", neighbor.asn)
            } else {
                "external".to_owned()
            };
            writeln!(text, "  neighbor {address} {who};\n  source address {};", neighbor.local)?;
        }
        Remote::Range(range) => {
            writeln!(text, "  neighbor range {range} external;\n  dynamic name \"{}_\";", neighbor.name)?;
        }
        Remote::Interface(port) => {
            writeln!(
                text,
                "  neighbor range fe80::/10 external;\n  interface \"{port}\";\n  dynamic name \"{}_\";",
                neighbor.name
            )?;
        }
    }
    text.push_str("  connect delay time 0;\n  connect retry time 1;\n  error wait time 1, 2;\n");
    if let Some((hold, keepalive)) = neighbor.timers {
        writeln!(text, "  hold time {hold};\n  keepalive time {keepalive};")?;
    }
    if neighbor.passive {
        text.push_str("  passive on;\n");
    }
    if let Some(password) = &neighbor.password {
        writeln!(text, "  password \"{password}\";")?;
    }
    if neighbor.ttl_security {
        text.push_str("  ttl security on;\n");
    }
    if let Some((interval, multiplier)) = neighbor.bfd {
        writeln!(text, "  bfd {{ interval {interval} ms; multiplier {multiplier}; }};")?;
    }
    if !neighbor.four_octet_as {
        text.push_str("  enable as4 off;\n");
    }
    if neighbor.reflector_client {
        text.push_str("  rr client;\n");
    }
    if let Some(seconds) = spec.graceful_restart {
        writeln!(text, "  graceful restart on;\n  graceful restart time {seconds};")?;
    }
    if let Some(seconds) = spec.long_lived {
        writeln!(text, "  long lived graceful restart on;\n  long lived stale time {seconds};")?;
    }
    for family in neighbor.families() {
        let mut options = String::from("import all; export where source = RTS_BGP || source = RTS_STATIC; ");
        options += match neighbor.add_path {
            AddPath::Off => "",
            AddPath::Send => "add paths tx; ",
            AddPath::Receive => "add paths rx; ",
        };
        if neighbor.next_hop_self {
            options += "next hop self; ";
        }
        if let Some(limit) = neighbor.max_prefixes {
            options += &format!("receive limit {limit} action disable; ");
        }
        if family == Family::Four && matches!(neighbor.remote, Remote::Interface(_)) {
            options += "extended next hop on; ";
        }
        writeln!(text, "  {} {{ {options}}};", family.word())?;
    }
    text.push_str("}\n");
    Ok(())
}
