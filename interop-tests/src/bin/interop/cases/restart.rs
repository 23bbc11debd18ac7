//! Restarts that nobody should notice, drains, and a switch that reboots.

use std::time::Duration;

use anyhow::{Result, ensure};
use interop_tests::{Lab, PATIENCE, Probe, Process, eventually, steadily};

use super::{Case, case};
use crate::flavors::Flavor;
use crate::site::{Plan, Site, reach, service};
use crate::spec::{Family, unsupported};

pub(super) const CASES: &[Case] = &[
    case!("gr-ours-crash", "our agent is killed and comes back: no packet is lost (RFC 4724)", ours_crash)
        .fast(),
    case!("gr-ours-planned", "our agent is restarted on purpose: no packet is lost", ours_planned),
    case!("gr-theirs-crash", "the router is killed and comes back: no packet is lost", theirs_crash)
        .fast_with(&["bird2"]),
    case!("gr-theirs-planned", "the router is restarted on purpose: no packet is lost", theirs_planned),
    case!("long-lived-ours", "our agent stays away longer than the restart time (RFC 9494)", long_lived_ours),
    case!("long-lived-theirs", "the router stays away longer than the restart time", long_lived_theirs),
    case!(
        "drain",
        "slash32 drain: the router sees GRACEFUL_SHUTDOWN and no packet is lost (RFC 8326)",
        drain
    ),
    case!("drain-theirs", "a router that drains is left for the other one", drain_theirs)
        .fast_with(&["bird2", "frr", "gobgp", "openbgpd"]),
    case!("switch-reboot", "the router's box loses power and comes back", switch_reboot).fast(),
];

/// Packets from host 1's container to host 2's, both families.
struct Traffic {
    probes: Vec<Probe>,
    _echo: Process,
}

impl Traffic {
    fn start(site: &Site) -> Result<Self> {
        let [one, two] = &site.hosts[..] else { unreachable!("two hosts") };
        let echo = two.container.echo()?;
        let probes = Family::BOTH.into_iter().map(|family| one.container.probe(&two.address(family)?, 100));
        Ok(Self { probes: probes.collect::<Result<_>>()?, _echo: echo })
    }

    /// Fails when one did not come back.
    fn lost_nothing(self) -> Result<()> {
        // What went wrong last shows only in what is sent after it.
        std::thread::sleep(Duration::from_millis(300));
        for probe in self.probes {
            let report = probe.stop()?;
            ensure!(
                report.sent > 20 && report.lost() == 0,
                "{} of {} lost: {report:?}",
                report.lost(),
                report.sent
            );
        }
        Ok(())
    }
}

fn graceful(flavor: &'static dyn Flavor) -> Result<Plan> {
    if !flavor.passes_on() {
        return unsupported("passes nothing on from one host to another");
    }
    Ok(Plan::new(flavor).router(|_, spec| spec.graceful_restart = Some(60)))
}

/// The router knows the container of host 1 all the time.
fn kept(site: &Site, span: Duration) -> Result<()> {
    let prefix = site.hosts[0].prefix(Family::Four)?;
    steadily("the router keeps the route", span, || {
        let shown = site.flavor().paths(&site.switches[0].run, &prefix)?;
        ensure!(!shown.is_empty(), "the router forgot {prefix}");
        Ok(())
    })
}

fn ours_crash(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    let mut site = graceful(flavor)?.start(lab)?;
    site.traffic()?;
    let traffic = Traffic::start(&site)?;
    site.hosts[0].agent.kill()?;
    kept(&site, Duration::from_secs(1))?;
    site.hosts[0].agent.start_again()?;
    site.wait_up()?;
    traffic.lost_nothing()?;
    site.traffic()
}

fn ours_planned(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    let mut site = graceful(flavor)?.start(lab)?;
    site.traffic()?;
    let traffic = Traffic::start(&site)?;
    site.hosts[0].agent.cli("stop --restart").run()?;
    site.hosts[0].agent.process().wait(PATIENCE)?;
    kept(&site, Duration::from_secs(1))?;
    site.hosts[0].agent.start_again()?;
    site.wait_up()?;
    traffic.lost_nothing()?;
    site.traffic()
}

fn restarts(flavor: &'static dyn Flavor) -> Result<()> {
    flavor.no_graceful_restart().map_or(Ok(()), unsupported)
}

/// The router ends as `end` says, comes back, and nobody has lost a packet.
fn theirs(lab: &Lab, flavor: &'static dyn Flavor, planned: bool) -> Result<()> {
    restarts(flavor)?;
    let mut site = graceful(flavor)?.start(lab)?;
    site.traffic()?;
    let traffic = Traffic::start(&site)?;
    let switch = &mut site.switches[0];
    if planned {
        flavor.planned_restart(&mut switch.run)?;
    } else {
        switch.run.kill()?;
        let prefix = site.hosts[1].prefix(Family::Four)?;
        eventually("our route is marked stale", PATIENCE, || {
            let rows = site.hosts[0].rib(&prefix)?;
            ensure!(rows.len() == 1 && rows[0]["stale"] == true, "{rows:?}");
            Ok(())
        })?;
        flavor.start_after_end(&mut switch.run)?;
    }
    site.switches[0].wait_ready(flavor)?;
    site.wait_up()?;
    // What was stale has come again.
    let prefix = site.hosts[1].prefix(Family::Four)?;
    eventually("our route is fresh", PATIENCE, || {
        let rows = site.hosts[0].rib(&prefix)?;
        ensure!(rows.len() == 1 && rows[0]["stale"] == false, "{rows:?}");
        Ok(())
    })?;
    traffic.lost_nothing()?;
    site.traffic()
}

fn theirs_crash(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    theirs(lab, flavor, false)
}

fn theirs_planned(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    theirs(lab, flavor, true)
}

fn long_lived(flavor: &'static dyn Flavor) -> Result<Plan> {
    if flavor.name() == "openbgpd" {
        return unsupported("has no long-lived graceful restart");
    }
    let plan = graceful(flavor)?.bgp("restart_time = 2\nlong_lived_stale_time = 300");
    Ok(plan.router(|_, spec| {
        spec.graceful_restart = Some(2);
        spec.long_lived = Some(300);
    }))
}

fn long_lived_ours(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    let mut site = long_lived(flavor)?.start(lab)?;
    site.traffic()?;
    let traffic = Traffic::start(&site)?;
    site.hosts[0].agent.kill()?;
    // LLGR_STALE is 65535:6; each router has a way to print it.
    let prefix = site.hosts[0].prefix(Family::Four)?;
    eventually("the route is long-lived stale", PATIENCE, || {
        let shown = flavor.paths(&site.switches[0].run, &prefix)?.to_lowercase();
        let marks = ["65535:6", "65535,6", "65535, 6", "llgr"];
        ensure!(marks.iter().any(|mark| shown.contains(mark)), "{shown}");
        Ok(())
    })?;
    kept(&site, Duration::from_secs(1))?;
    site.hosts[0].agent.start_again()?;
    site.wait_up()?;
    traffic.lost_nothing()?;
    site.traffic()
}

fn long_lived_theirs(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    restarts(flavor)?;
    let mut site = long_lived(flavor)?.start(lab)?;
    site.traffic()?;
    let traffic = Traffic::start(&site)?;
    site.switches[0].run.kill()?;
    let prefix = site.hosts[1].prefix(Family::Four)?;
    eventually("our route is long-lived stale", PATIENCE, || {
        let rows = site.hosts[0].rib(&prefix)?;
        let stale = |row: &serde_json::Value| row["communities"].to_string().to_lowercase();
        let marked = rows.iter().any(|row| stale(row).contains("65535:6") || stale(row).contains("llgr"));
        ensure!(marked, "{rows:?}");
        Ok(())
    })?;
    flavor.start_after_end(&mut site.switches[0].run)?;
    site.switches[0].wait_ready(flavor)?;
    site.wait_up()?;
    traffic.lost_nothing()?;
    site.traffic()
}

fn drain(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    let site = Plan::new(flavor).start(lab)?;
    site.traffic()?;
    let traffic = if flavor.passes_on() { Some(Traffic::start(&site)?) } else { None };
    let prefix = site.hosts[0].prefix(Family::Four)?;
    let marked = |want: bool| {
        eventually("GRACEFUL_SHUTDOWN is there or gone", PATIENCE, || {
            let shown = flavor.paths(&site.switches[0].run, &prefix)?.to_lowercase().replace('_', "-");
            let marks = ["65535:0", "65535,0", "65535, 0", "graceful-shutdown", "planned-shut"];
            let seen = marks.iter().any(|mark| shown.contains(mark));
            ensure!(seen == want && !shown.is_empty(), "{shown}");
            Ok(())
        })
    };
    site.hosts[0].agent.cli("drain").run()?;
    marked(true)?;
    site.hosts[0].agent.cli("drain --off").run()?;
    marked(false)?;
    if let Some(traffic) = traffic {
        traffic.lost_nothing()?;
    }
    site.traffic()
}

fn drain_theirs(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    let plan = Plan::new(flavor).switches(2).hosts(1).anycast(&["10.99.1.1"]).router(|switch, spec| {
        if switch == 1 {
            spec.network_communities = vec!["65535:0".to_owned()];
        }
    });
    let site = plan.start(lab)?;
    let host = &site.hosts[0];
    let other = site.neighbor(2, 1, Family::Four);
    eventually("both switches' routes, the draining one's not in use", PATIENCE, || {
        let rows = host.rib("10.99.1.1/32")?;
        ensure!(rows.len() == 2, "{rows:?}");
        let used = |row: &&serde_json::Value| row["best"] == true || row["multipath"] == true;
        let used: Vec<&serde_json::Value> = rows.iter().filter(used).collect();
        ensure!(used.len() == 1 && used[0]["peer"] == other.as_str(), "{rows:?}");
        Ok(())
    })?;
    host.wait_kernel_paths("10.99.1.1/32", 1)?;
    reach(&host.container, "10.99.1.1")?;
    site.traffic()
}

fn switch_reboot(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    let mut site = Plan::new(flavor).group("graceful_restart = false").start(lab)?;
    site.traffic()?;
    site.switches[0].power_off()?;
    for host in &site.hosts {
        eventually("the sessions end with the link", PATIENCE, || {
            let peers = host.agent.peers()?;
            ensure!(!peers.iter().any(crate::site::is_up), "{peers:?}");
            Ok(())
        })?;
        host.container.no_ping(&service(1, Family::Four))?;
    }
    site.switches[0].power_on(flavor)?;
    site.wait_up()?;
    site.traffic()
}
