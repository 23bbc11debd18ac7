//! ExaBGP: announces what is written and passes nothing on.

use std::fmt::Write;

use anyhow::{Context, Result};
use interop_tests::{ImageRun, Signal};

use super::Flavor;
use crate::spec::{AddPath, Family, Neighbor, Remote, RouterSpec, unsupported};

pub(super) struct ExaBgp;

impl Flavor for ExaBgp {
    fn name(&self) -> &'static str {
        "exabgp"
    }

    fn image(&self) -> Option<&'static str> {
        Some("exabgp")
    }

    fn daemon(&self) -> &'static str {
        "exabgp"
    }

    fn forwards(&self) -> bool {
        false
    }

    fn passes_on(&self) -> bool {
        false
    }

    fn config(&self, spec: &RouterSpec) -> Result<String> {
        let mut text =
            String::from("process watch {\n\trun /bin/sh -c \"cat >&2; :\";\n\tencoder json;\n}\n");
        for neighbor in &spec.neighbors {
            peer(&mut text, spec, neighbor)?;
        }
        Ok(text)
    }

    fn ready(&self, run: &ImageRun) -> Result<()> {
        run.command("exabgpcli").args(["show", "neighbor", "summary"]).run().map(drop)
    }

    fn established(&self, run: &ImageRun) -> Result<usize> {
        let text = run.command("exabgpcli").args(["show", "neighbor", "summary"]).run()?;
        Ok(text.lines().filter(|line| line.contains("established")).count())
    }

    fn paths(&self, run: &ImageRun, prefix: &str) -> Result<String> {
        let text = run.command("exabgpcli").args(["show", "adj-rib", "in", "extensive"]).run()?;
        let word = format!(" {prefix} ");
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(&word)).collect();
        Ok(lines.join("\n"))
    }

    fn count_paths(&self, shown: &str) -> usize {
        shown.lines().count()
    }

    fn reload(&self, run: &ImageRun, _spec: &RouterSpec) -> Result<()> {
        run.signal(Signal::USR1)
    }

    fn shut_down(&self, run: &ImageRun, neighbor: &str, _text: &str) -> Result<()> {
        let _ = (run, neighbor);
        unsupported("its teardown command takes a code and no text")
    }

    fn revive(&self, _run: &ImageRun, _neighbor: &str) -> Result<()> {
        unsupported("has no command that brings a session back")
    }

    fn refresh(&self, run: &ImageRun, _neighbor: &str) -> Result<()> {
        run.command("exabgpcli").args(["announce", "route-refresh", "ipv4", "unicast"]).run().map(drop)
    }

    fn no_graceful_restart(&self) -> Option<&'static str> {
        Some("holds no table: nothing of it forwards while it restarts")
    }
}

fn peer(text: &mut String, spec: &RouterSpec, neighbor: &Neighbor) -> Result<()> {
    let (Remote::Address(address) | Remote::Range(address)) = &neighbor.remote else {
        return unsupported("is configured by neighbour's address");
    };
    let local = if neighbor.local.is_empty() {
        let family = if neighbor.four { Family::Four } else { Family::Six };
        spec.address(family).context("no address on the segment")?
    } else {
        neighbor.local.clone()
    };
    if neighbor.bfd.is_some() {
        return unsupported("has no BFD");
    }
    if neighbor.reflector_client || neighbor.next_hop_self {
        return unsupported("passes nothing on");
    }
    if neighbor.max_prefixes.is_some() {
        return unsupported("has no prefix limit");
    }
    // Without the 4-octet capability it knows a large number as AS_TRANS only (RFC 6793).
    let asn = if neighbor.four_octet_as || neighbor.asn <= 0xffff { neighbor.asn } else { 23456 };
    writeln!(
        text,
        "neighbor {address} {{\n\trouter-id {};\n\tlocal-address {};\n\tlocal-as {};\n\tpeer-as {};",
        spec.router_id, local, spec.asn, asn
    )?;
    text.push_str("\tadj-rib-in true;\n");
    writeln!(text, "\thold-time {};", neighbor.timers.map_or(180, |(hold, _)| hold))?;
    if neighbor.passive {
        text.push_str("\tpassive true;\n\tlisten 179;\n");
    }
    if let Some(password) = &neighbor.password {
        writeln!(text, "\tmd5-password \"{password}\";")?;
    }
    if neighbor.ttl_security {
        text.push_str("\tincoming-ttl 255;\n\toutgoing-ttl 255;\n");
    }
    text.push_str("\tcapability {\n\t\troute-refresh enable;\n");
    writeln!(text, "\t\tasn4 {};", if neighbor.four_octet_as { "enable" } else { "disable" })?;
    if let Some(seconds) = spec.graceful_restart {
        writeln!(text, "\t\tgraceful-restart {seconds};")?;
    }
    match neighbor.add_path {
        AddPath::Off => {}
        AddPath::Send => text.push_str("\t\tadd-path send;\n"),
        AddPath::Receive => text.push_str("\t\tadd-path receive;\n"),
    }
    text.push_str("\t}\n\tapi {\n\t\tprocesses [ watch ];\n\t\tneighbor-changes;\n\t\treceive { parsed; notification; }\n\t}\n\tfamily {\n");
    for family in neighbor.families() {
        writeln!(text, "\t\t{} unicast;", family.word())?;
    }
    text.push_str("\t}\n\tstatic {\n");
    for network in &spec.networks {
        let family = Family::of(network);
        if !neighbor.families().any(|f| f == family) {
            continue;
        }
        let next_hop = if Family::of(&local) == family {
            "self".to_owned()
        } else {
            spec.address(family).context("no address on the segment")?
        };
        let mut attributes = String::new();
        if !spec.network_communities.is_empty() {
            write!(attributes, " community [ {} ]", spec.network_communities.join(" "))?;
        }
        if let Some(bandwidth) = spec.link_bandwidth {
            // Type 0x4004, AS number, IEEE float.
            write!(
                attributes,
                " extended-community [ 0x4004{:04x}{:08x} ]",
                spec.asn & 0xffff,
                bandwidth.to_bits()
            )?;
        }
        writeln!(text, "\t\troute {network} next-hop {next_hop}{attributes};")?;
    }
    for route in &spec.odd {
        writeln!(text, "\t\troute {route};")?;
    }
    for foreign in spec.foreign.iter().filter(|foreign| !neighbor.name.starts_with(&foreign.owner)) {
        if neighbor.families().any(|family| family == Family::of(&foreign.prefix)) {
            writeln!(text, "\t\troute {} next-hop {};", foreign.prefix, foreign.next_hop)?;
        }
    }
    text.push_str("\t}\n}\n");
    Ok(())
}
