//! GoBGP: a route server or reflector on the hosts' Ethernet segment, as it writes no kernel routes.

use std::fmt::Write;

use anyhow::{Context, Result};
use interop_tests::ImageRun;
use serde_json::Value;

use super::Flavor;
use crate::spec::{AddPath, Family, Neighbor, Remote, RouterSpec, unsupported};

/// Its number of the state ESTABLISHED.
const ESTABLISHED: u64 = 6;

pub(super) struct Gobgp;

impl Flavor for Gobgp {
    fn name(&self) -> &'static str {
        "gobgp"
    }

    fn image(&self) -> Option<&'static str> {
        Some("gobgp")
    }

    fn daemon(&self) -> &'static str {
        "gobgpd"
    }

    fn forwards(&self) -> bool {
        false
    }

    fn example(&self) -> Option<(&'static str, &'static str)> {
        Some(("gobgp/gobgpd.toml", "gobgp"))
    }

    fn config(&self, spec: &RouterSpec) -> Result<String> {
        let mut text = format!("[global.config]\nas = {}\nrouter-id = \"{}\"\n", spec.asn, spec.router_id);
        if spec.multipath {
            text.push_str("[global.use-multiple-paths.config]\nenabled = true\n");
        }
        // Hosts send to each other directly.
        text.push_str(
            "[global.apply-policy.config]\nexport-policy-list = [\"keep\"]\ndefault-export-policy = \"accept-route\"\n\
             [[policy-definitions]]\nname = \"keep\"\n[[policy-definitions.statements]]\n\
             [policy-definitions.statements.actions]\nroute-disposition = \"accept-route\"\n\
             [policy-definitions.statements.actions.bgp-actions]\nset-next-hop = \"unchanged\"\n",
        );
        if let Some(bandwidth) = spec.link_bandwidth {
            // Its command line cannot (3.36 wants two words and reads three), a policy can.
            writeln!(
                text,
                "[policy-definitions.statements.actions.bgp-actions.set-ext-community]\noptions = \"add\"\n\
                 [policy-definitions.statements.actions.bgp-actions.set-ext-community.set-ext-community-method]\n\
                 communities-list = [\"lb:{}:{bandwidth:.0}\"]",
                spec.asn
            )?;
        }
        for neighbor in &spec.neighbors {
            peer(&mut text, spec, neighbor)?;
        }
        Ok(text)
    }

    fn started(&self, run: &ImageRun, spec: &RouterSpec) -> Result<()> {
        for network in &spec.networks {
            let family = Family::of(network);
            // The router's own address of that family on the segment.
            let local = spec
                .neighbors
                .iter()
                .find(|n| !n.local.is_empty() && Family::of(&n.local) == family)
                .map(|n| n.local.clone());
            let next_hop = local.or_else(|| spec.address(family)).context("no address on the segment")?;
            let mut command =
                run.command("gobgp").args(["global", "rib", "add", "-a", family.word(), network]);
            command = command.args(["nexthop", &next_hop]);
            if !spec.network_communities.is_empty() {
                command = command.args(["community", &spec.network_communities.join(",")]);
            }
            command.run()?;
        }
        Ok(())
    }

    fn ready(&self, run: &ImageRun) -> Result<()> {
        run.command("gobgp").arg("global").run().map(drop)
    }

    fn established(&self, run: &ImageRun) -> Result<usize> {
        let neighbors: Value = run.command("gobgp").args(["-j", "neighbor"]).json()?;
        let neighbors = neighbors.as_array().into_iter().flatten();
        Ok(neighbors.filter(|neighbor| neighbor["state"]["session_state"] == ESTABLISHED).count())
    }

    fn paths(&self, run: &ImageRun, prefix: &str) -> Result<String> {
        let family = Family::of(prefix).word();
        let output = run.command("gobgp").args(["global", "rib", "-a", family, prefix]).output()?;
        Ok(if output.exit.success() && output.stdout.contains(prefix) {
            output.stdout
        } else {
            String::new()
        })
    }

    fn count_paths(&self, shown: &str) -> usize {
        shown.lines().filter(|line| line.trim_start().starts_with('*')).count()
    }

    fn reload(&self, run: &ImageRun, _spec: &RouterSpec) -> Result<()> {
        run.signal(interop_tests::Signal::HUP)
    }

    // Not `disable`, which 3.36 sends without the reason given.
    fn shut_down(&self, run: &ImageRun, neighbor: &str, text: &str) -> Result<()> {
        run.command("gobgp").args(["neighbor", neighbor, "shutdown", "--reason", text]).run().map(drop)
    }

    fn revive(&self, run: &ImageRun, neighbor: &str) -> Result<()> {
        run.command("gobgp").args(["neighbor", neighbor, "enable"]).run().map(drop)
    }

    fn refresh(&self, _run: &ImageRun, _neighbor: &str) -> Result<()> {
        unsupported("softresetin reads what it has kept instead of asking the neighbour")
    }

    fn start_after_end(&self, run: &mut ImageRun) -> Result<()> {
        run.start_again(&["-r"])
    }

    fn no_graceful_restart(&self) -> Option<&'static str> {
        Some(
            "waits after its restart only for neighbours that are back already (pkg/server/peer.go, recvedAllEOR): the first gets End-of-RIB without the routes of the others",
        )
    }
}

fn peer(text: &mut String, spec: &RouterSpec, neighbor: &Neighbor) -> Result<()> {
    let (table, fields) = match &neighbor.remote {
        Remote::Address(address) => {
            ("neighbors", format!("neighbor-address = \"{address}\"\npeer-as = {}\n", neighbor.asn))
        }
        Remote::Interface(port) => {
            ("neighbors", format!("neighbor-interface = \"{port}\"\npeer-as = {}\n", neighbor.asn))
        }
        Remote::Range(range) => {
            writeln!(
                text,
                "[[dynamic-neighbors]]\n[dynamic-neighbors.config]\nprefix = \"{range}\"\npeer-group = \"{}\"",
                neighbor.name
            )?;
            ("peer-groups", format!("peer-group-name = \"{}\"\npeer-as = {}\n", neighbor.name, neighbor.asn))
        }
    };
    if neighbor.bfd.is_some() {
        return unsupported("has no BFD");
    }
    if !neighbor.four_octet_as {
        return unsupported("always offers the 4-octet AS capability");
    }
    write!(text, "[[{table}]]\n[{table}.config]\n{fields}")?;
    if let Some(password) = &neighbor.password {
        writeln!(text, "auth-password = \"{password}\"")?;
    }
    writeln!(text, "[{table}.timers.config]\nconnect-retry = 1\nidle-hold-time-after-reset = 1")?;
    if let Some((hold, keepalive)) = neighbor.timers {
        writeln!(text, "hold-time = {hold}\nkeepalive-interval = {keepalive}")?;
    }
    if matches!(neighbor.remote, Remote::Address(_)) {
        writeln!(
            text,
            "[{table}.transport.config]\nlocal-address = \"{}\"\npassive-mode = {}",
            neighbor.local, neighbor.passive
        )?;
    }
    if neighbor.ttl_security {
        writeln!(text, "[{table}.ttl-security.config]\nenabled = true\nttl-min = 255")?;
    }
    if neighbor.reflector_client {
        writeln!(
            text,
            "[{table}.route-reflector.config]\nroute-reflector-client = true\nroute-reflector-cluster-id = \"{}\"",
            spec.router_id
        )?;
    }
    if let Some(seconds) = spec.graceful_restart {
        writeln!(text, "[{table}.graceful-restart.config]\nenabled = true\nrestart-time = {seconds}")?;
        if spec.long_lived.is_some() {
            text.push_str("long-lived-enabled = true\n");
        }
    }
    for family in neighbor.families() {
        writeln!(
            text,
            "[[{table}.afi-safis]]\n[{table}.afi-safis.config]\nafi-safi-name = \"{}-unicast\"",
            family.word()
        )?;
        if spec.graceful_restart.is_some() {
            writeln!(text, "[{table}.afi-safis.mp-graceful-restart.config]\nenabled = true")?;
        }
        if let Some(seconds) = spec.long_lived {
            writeln!(
                text,
                "[{table}.afi-safis.long-lived-graceful-restart.config]\nenabled = true\nrestart-time = {seconds}"
            )?;
        }
        match neighbor.add_path {
            AddPath::Off => {}
            AddPath::Send => writeln!(text, "[{table}.afi-safis.add-paths.config]\nsend-max = 8")?,
            AddPath::Receive => writeln!(text, "[{table}.afi-safis.add-paths.config]\nreceive = true")?,
        }
        if let Some(limit) = neighbor.max_prefixes {
            writeln!(text, "[{table}.afi-safis.prefix-limit.config]\nmax-prefixes = {limit}")?;
        }
    }
    Ok(())
}
