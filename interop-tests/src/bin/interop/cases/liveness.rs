//! Noticing that the other side is gone: timers, BFD, a process that hangs.

use std::time::Duration;

use anyhow::{Result, ensure};
use interop_tests::{Lab, PATIENCE, Signal, eventually, steadily};

use super::{Case, case};
use crate::flavors::Flavor;
use crate::site::{Plan, Site, lost, service};
use crate::spec::Family;

pub(super) const CASES: &[Case] = &[
    case!("timers", "keepalive 3 s and hold time 9 s are agreed on", timers).fast(),
    case!("bfd-up", "BFD at 300 ms x 3 comes up on both families", bfd_up).fast(),
    case!("bfd-detect", "BFD ends a session whose packets vanish, long before the hold time", bfd_detect)
        .fast(),
    case!("bfd-admin-down", "BFD taken down on purpose is no failure, by them and by us", bfd_admin_down),
    case!(
        "hold-expiry",
        "a process that hangs, theirs and ours: the hold timer ends the session",
        hold_expiry
    ),
];

fn timers(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    let plan = Plan::new(flavor)
        .group("hold_time = 9\nkeepalive = 3")
        .neighbor(|_, neighbor| neighbor.timers = Some((9, 3)));
    let site = plan.start(lab)?;
    for family in Family::BOTH {
        let peer = site.hosts[0].peer(&site.neighbor(1, 1, family))?;
        ensure!(peer["hold_time"] == 9 && peer["keepalive"] == 3, "{peer}");
    }
    site.traffic()
}

fn bfd(flavor: &'static dyn Flavor) -> Plan {
    Plan::new(flavor)
        .group("bfd = { interval_ms = 300, multiplier = 3 }")
        .neighbor(|_, neighbor| neighbor.bfd = Some((300, 3)))
}

/// All BFD sessions of host 1 are up, with a detection time of 3 x 300 ms.
fn wait_bfd(site: &Site) -> Result<()> {
    for host in &site.hosts {
        eventually("BFD is up", PATIENCE, || {
            let sessions: Vec<serde_json::Value> = host.agent.cli("--json bfd").json()?;
            let up = |s: &&serde_json::Value| {
                s["state"].to_string().to_lowercase().contains("up") && s["detection_ms"] == 900
            };
            ensure!(sessions.len() == 2 && sessions.iter().filter(up).count() == 2, "{sessions:?}");
            Ok(())
        })?;
    }
    Ok(())
}

fn bfd_up(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    let site = bfd(flavor).start(lab)?;
    wait_bfd(&site)?;
    site.traffic()
}

fn bfd_detect(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    // The hold time of 240 s is far longer than the patience of this test: only BFD can end the session in time.
    let plan = bfd(flavor).group("hold_time = 240").neighbor(|_, neighbor| neighbor.timers = Some((240, 80)));
    let site = plan.start(lab)?;
    wait_bfd(&site)?;
    site.traffic()?;
    let host = &site.hosts[0];
    // The link stays up and carries nothing: what a broken transceiver or a wrong VLAN does.
    host.machine.run("nft add table inet mute")?;
    host.machine.run("nft add chain inet mute in { type filter hook input priority -300 ; }")?;
    host.machine.run("nft add chain inet mute out { type filter hook output priority -300 ; }")?;
    host.machine.run("nft add rule inet mute in iifname up1 drop")?;
    host.machine.run("nft add rule inet mute out oifname up1 drop")?;
    for family in Family::BOTH {
        let name = site.neighbor(1, 1, family);
        let peer = host.wait_peer(&name, "BFD ends the session", |peer| peer["state"] != "Established")?;
        ensure!(peer["last_error"].to_string().to_uppercase().contains("BFD"), "{peer}");
    }
    let (router, machine) = (site.flavor(), &site.switches[0]);
    eventually("the router notices too", PATIENCE, || {
        let up = router.established(&machine.run)?;
        ensure!(up == 2, "{up} sessions, the other host has 2");
        Ok(())
    })?;
    lost(&host.container, &service(1, Family::Four))?;
    host.machine.run("nft delete table inet mute")?;
    site.wait_up()?;
    wait_bfd(&site)?;
    site.traffic()
}

fn bfd_admin_down(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    let mut site = bfd(flavor).start(lab)?;
    wait_bfd(&site)?;
    site.traffic()?;
    let counts = |site: &Site| -> Result<Vec<u64>> {
        let peers = site.hosts[0].peer_details()?;
        Ok(peers.iter().map(|peer| peer["established_count"].as_u64().unwrap_or(0)).collect())
    };
    // Ours: BFD is taken out of the configuration of a running session.
    let before = counts(&site)?;
    site.hosts[0].reconfigure(|text| text.replace("bfd = {", "#bfd = {"))?;
    steadily("the session outlives BFD that we take down", Duration::from_secs(2), || {
        ensure!(counts(&site)? == before, "{:?}", site.hosts[0].peer_details()?);
        ensure!(site.flavor().established(&site.switches[0].run)? == 4, "the router ended a session");
        Ok(())
    })?;
    site.hosts[0].reconfigure(|text| text.replace("#bfd = {", "bfd = {"))?;
    wait_bfd(&site)?;
    // Theirs.
    let name = site.neighbor_of_switch(1, 1, Family::Four);
    site.flavor().bfd_admin_down(&site.switches[0].run, &name)?;
    let first = site.neighbor(1, 1, Family::Four);
    eventually("the router's BFD is down on purpose", PATIENCE, || {
        let sessions: Vec<serde_json::Value> = site.hosts[0].agent.cli("--json bfd").json()?;
        let session = sessions.iter().find(|session| session["peer"] == first.as_str());
        ensure!(
            session.is_none_or(|session| !session["state"].to_string().to_lowercase().contains("up")),
            "{sessions:?}"
        );
        Ok(())
    })?;
    let before = counts(&site)?;
    steadily("the session outlives BFD that they take down", Duration::from_secs(2), || {
        let peer = site.hosts[0].peer(&first)?;
        ensure!(peer["state"] == "Established" && counts(&site)? == before, "{peer}");
        Ok(())
    })?;
    site.traffic()
}

fn hold_expiry(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    let plan = Plan::new(flavor)
        .hosts(1)
        .group("hold_time = 3\nkeepalive = 1\ngraceful_restart = false")
        .neighbor(|_, neighbor| neighbor.timers = Some((3, 1)));
    let site = plan.start(lab)?;
    site.traffic()?;
    let (host, switch, router) = (&site.hosts[0], &site.switches[0], site.flavor());
    switch.run.signal_daemon(router.daemon(), Signal::STOP)?;
    for family in Family::BOTH {
        let name = site.neighbor(1, 1, family);
        let peer =
            host.wait_peer(&name, "the hold timer ends the session", |peer| peer["state"] != "Established")?;
        ensure!(peer["last_error"].to_string().to_lowercase().contains("hold"), "{peer}");
    }
    lost(&host.container, &service(1, Family::Four))?;
    switch.run.signal_daemon(router.daemon(), Signal::CONT)?;
    site.wait_up()?;
    site.traffic()?;
    // And ours: the kernel goes on, the router gives up.
    host.agent.process().pause()?;
    eventually("the router's hold timer ends the sessions", PATIENCE, || {
        let up = router.established(&switch.run)?;
        ensure!(up == 0, "{up} sessions");
        Ok(())
    })?;
    host.agent.process().resume()?;
    site.wait_up()?;
    site.traffic()
}
