//! Noticing that the other side is gone: timers, BFD, a process that hangs.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use interop_tests::{Capture, Lab, Machine, PATIENCE, Signal, eventually, steadily};

use super::{Case, case};
use crate::flavors::Flavor;
use crate::runner::remark;
use crate::site::{Plan, Site, lost, service};
use crate::spec::{Family, unsupported};

pub(super) const CASES: &[Case] = &[
    case!("timers", "keepalive 3 s and hold time 9 s are agreed on", timers).fast(),
    case!("bfd-up", "BFD at 300 ms x 3 comes up on both families", bfd_up).fast(),
    case!(
        "bfd-detect",
        "BFD ends a session whose packets vanish within 3 x 300 ms and a scheduling delay",
        bfd_detect
    )
    .fast(),
    case!(
        "bfd-admin-down-ours",
        "BFD that we take down on purpose is no failure for the router (RFC 5882)",
        bfd_admin_down_ours
    ),
    case!(
        "bfd-admin-down-theirs",
        "BFD that the router takes down on purpose is no failure for us",
        bfd_admin_down_theirs
    ),
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

/// 3 x 300 ms.
const DETECTION: Duration = Duration::from_millis(900);
/// From the kernel's time of the last packet to ours of the NOTIFICATION lie wake-ups of three threads on a computer that
/// runs other labs: one interval, no more.
const SCHEDULING: Duration = Duration::from_millis(300);

/// The time from the last BFD packet that host 1 has received from the router to its NOTIFICATION about it, as the kernel
/// took them down. `since` is before that.
fn detected_after(capture: &Capture, host: &str, router: &str, since: Duration) -> Result<Duration> {
    let (host, router): (IpAddr, IpAddr) = (host.parse()?, router.parse()?);
    let packets = capture.packets()?;
    let told = packets
        .iter()
        .find(|p| p.time > since && p.from == host && p.to == router && p.notification().is_some());
    let told = told.with_context(|| format!("no NOTIFICATION from {host}"))?;
    // Cease, BFD Down (RFC 9384), perhaps as a hard reset.
    ensure!(matches!(told.notification(), Some((6, 9 | 10))), "{told:?}");
    let mut heard = packets.iter().filter(|p| p.from == router && p.bfd().is_some() && p.time < told.time);
    let last = heard.next_back().context("no BFD packet from the router")?;
    ensure!(last.bfd().is_some_and(|(state, _)| state == 3), "the router said that it was not up: {last:?}");
    Ok(told.time.saturating_sub(last.time))
}

fn bfd_detect(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    // The hold time of 240 s is far longer than the patience of this test: only BFD can end the session in time.
    let plan = bfd(flavor).group("hold_time = 240").neighbor(|_, neighbor| neighbor.timers = Some((240, 80)));
    let site = plan.start(lab)?;
    wait_bfd(&site)?;
    site.traffic()?;
    let host = &site.hosts[0];
    let capture = host.machine.capture("up1", "tcp port 179 or udp port 3784")?;
    let (router, switch) = (site.flavor(), &site.switches[0]);
    eventually("BFD of both families is in the capture", PATIENCE, || {
        let packets = capture.packets()?;
        for family in Family::BOTH {
            let from: IpAddr = site.neighbor(1, 1, family).parse()?;
            ensure!(packets.iter().any(|p| p.from == from && p.bfd().is_some()), "none from {from}");
        }
        Ok(())
    })?;
    let mut slowest = Duration::MAX;
    // A computer that stops for a moment is no defect: one of three rounds must be in time, and none may be early.
    for _ in 0..3 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
        mute(&switch.machine)?;
        let mut round = Duration::ZERO;
        for family in Family::BOTH {
            let name = site.neighbor(1, 1, family);
            let peer =
                host.wait_peer(&name, "BFD ends the session", |peer| peer["state"] != "Established")?;
            ensure!(peer["last_error"].to_string().to_uppercase().contains("BFD"), "{peer}");
            let own = site.neighbor_of_switch(1, 1, family);
            let after = eventually("the NOTIFICATION is in the capture", PATIENCE, || {
                detected_after(&capture, &own, &name, since)
            })?;
            ensure!(
                after >= DETECTION,
                "{name}: ended {after:?} after the last packet, before {DETECTION:?}"
            );
            round = round.max(after);
        }
        slowest = slowest.min(round);
        eventually("the router notices too", PATIENCE, || {
            let up = router.established(&switch.run)?;
            ensure!(up == 2, "{up} sessions, the other host has 2");
            Ok(())
        })?;
        lost(&host.container, &service(1, Family::Four))?;
        switch.machine.run("nft delete table netdev mute")?;
        site.wait_up()?;
        wait_bfd(&site)?;
        if slowest <= DETECTION + SCHEDULING {
            break;
        }
    }
    ensure!(slowest <= DETECTION + SCHEDULING, "the quickest of three rounds took {slowest:?}");
    remark(format!("{:.2} s", slowest.as_secs_f64()));
    site.traffic()
}

/// The link to host 1 stays up and carries nothing: what a broken transceiver or a wrong VLAN does. Below everything
/// that a router could notice when it sends.
fn mute(switch: &Machine) -> Result<()> {
    switch.run("nft add table netdev mute")?;
    for hook in ["ingress", "egress"] {
        switch.run(&format!(
            "nft add chain netdev mute {hook} {{ type filter hook {hook} device port1 priority 0 ; policy drop ; }}"
        ))?;
    }
    Ok(())
}

/// How often each session of host 1 was established.
fn counts(site: &Site) -> Result<Vec<u64>> {
    let peers = site.hosts[0].peer_details()?;
    Ok(peers.iter().map(|peer| peer["established_count"].as_u64().unwrap_or(0)).collect())
}

fn bfd_admin_down_ours(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    let mut site = bfd(flavor).start(lab)?;
    wait_bfd(&site)?;
    site.traffic()?;
    let capture = site.hosts[0].machine.capture("up1", "tcp port 179 or udp port 3784")?;
    // BFD is taken out of the configuration of a running session.
    let before = counts(&site)?;
    site.hosts[0].reconfigure(|text| text.replace("bfd = {", "#bfd = {"))?;
    let outlives = steadily("the session outlives BFD that we take down", Duration::from_secs(2), || {
        ensure!(counts(&site)? == before, "{:?}", site.hosts[0].peer_details()?);
        ensure!(site.flavor().established(&site.switches[0].run)? == 4, "the router ended a session");
        Ok(())
    });
    for family in Family::BOTH {
        let own: IpAddr = site.neighbor_of_switch(1, 1, family).parse()?;
        let theirs: IpAddr = site.neighbor(1, 1, family).parse()?;
        // AdminDown is state 0, its diagnostic is 7.
        let said = eventually("AdminDown is in the capture", PATIENCE, || {
            let packets = capture.packets()?;
            let said = packets.into_iter().find(|p| p.from == own && p.bfd() == Some((0, 7)));
            said.with_context(|| format!("{own} did not say AdminDown"))
        })?;
        let packets = capture.packets()?;
        let ended =
            packets.iter().find(|p| p.from == theirs && matches!(p.notification(), Some((6, 9 | 10))));
        if let Some(ended) = ended
            && ended.time.saturating_sub(said.time) < Duration::from_millis(300)
        {
            return unsupported("answers AdminDown with Cease/BFD Down, against RFC 5882 section 3.2");
        }
    }
    outlives?;
    site.hosts[0].reconfigure(|text| text.replace("#bfd = {", "bfd = {"))?;
    wait_bfd(&site)?;
    site.traffic()
}

fn bfd_admin_down_theirs(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    let mut site = bfd(flavor).start(lab)?;
    wait_bfd(&site)?;
    site.traffic()?;
    let capture = site.hosts[0].machine.capture("up1", "tcp port 179 or udp port 3784")?;
    let before = counts(&site)?;
    flavor.bfd_admin_down(&mut site.switches[0])?;
    let [first, own] = [site.neighbor(1, 1, Family::Four), site.neighbor_of_switch(1, 1, Family::Four)];
    eventually("the router's BFD is down", PATIENCE, || {
        let sessions: Vec<serde_json::Value> = site.hosts[0].agent.cli("--json bfd").json()?;
        let session = sessions.iter().find(|session| session["peer"] == first.as_str());
        let up = |session: &serde_json::Value| session["state"].to_string().to_lowercase().contains("up");
        ensure!(!session.is_some_and(up), "{sessions:?}");
        Ok(())
    })?;
    let (router, host): (IpAddr, IpAddr) = (first.parse()?, own.parse()?);
    let down = eventually("our own Down is in the capture", PATIENCE, || {
        let packets = capture.packets()?;
        let down =
            packets.into_iter().find(|p| p.from == host && p.bfd().is_some_and(|(state, _)| state == 1));
        down.context("we did not say that BFD is down")
    })?;
    let packets = capture.packets()?;
    let told = packets.iter().any(|p| p.from == router && p.bfd().is_some_and(|(state, _)| state == 0));
    if !told && down.bfd() == Some((1, 1)) {
        return unsupported("falls silent instead of saying AdminDown (RFC 5880 section 6.8.16)");
    }
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
