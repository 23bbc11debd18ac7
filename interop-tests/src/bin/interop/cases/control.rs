//! What operators do to running sessions, and limits.

use anyhow::{Result, ensure};
use interop_tests::{Lab, PATIENCE, eventually};

use super::{Case, case};
use crate::flavors::Flavor;
use crate::site::{Plan, Sessions, Site};
use crate::spec::{Family, unsupported};

pub(super) const CASES: &[Case] = &[
    case!("route-refresh", "each side asks the other for its routes again (RFC 2918)", route_refresh).fast(),
    case!("enhanced-refresh", "a refresh between begin and end markers (RFC 7313)", enhanced_refresh),
    case!("max-prefix", "the router sends more than our limit: the session ends, and recovers", max_prefix)
        .fast(),
    case!(
        "max-prefix-theirs",
        "we send more than the router's limit: we say why, and recover",
        max_prefix_theirs
    ),
    case!("shutdown-text", "the text of a shutdown arrives, both ways (RFC 9003)", shutdown_text),
    case!("flap-100", "the session is reset a hundred times", flap_100),
    case!("collision", "both sides call at the same moment, ten times", collision),
];

/// UPDATEs that host 1 has received from the router over the IPv4 session.
fn updates(site: &Site, key: &str) -> Result<u64> {
    let peer = site.hosts[0].peer(&site.neighbor(1, 1, Family::Four))?;
    Ok(peer[key].as_u64().unwrap_or(0))
}

fn route_refresh(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    let site = Plan::new(flavor).start(lab)?;
    site.traffic()?;
    // Theirs.
    let before = updates(&site, "updates_sent")?;
    site.flavor().refresh(&site.switches[0].run, &site.session_name(1, 1, Family::Four))?;
    eventually("we send ours again", PATIENCE, || {
        let now = updates(&site, "updates_sent")?;
        ensure!(now > before, "{now} UPDATEs, {before} before");
        Ok(())
    })?;
    ours_refreshed(&site)?;
    site.traffic()
}

/// We ask for the router's routes, and it sends them again over the same session.
fn ours_refreshed(site: &Site) -> Result<()> {
    let name = site.neighbor(1, 1, Family::Four);
    let count = site.hosts[0].peer(&name)?["established_count"].clone();
    let before = updates(site, "updates_received")?;
    site.hosts[0].agent.cli("bgp clear --soft").arg(&name).run()?;
    eventually("the router sends its routes again", PATIENCE, || {
        let now = updates(site, "updates_received")?;
        ensure!(now > before, "{now} UPDATEs, {before} before");
        Ok(())
    })?;
    site.traffic()?;
    let peer = site.hosts[0].peer(&name)?;
    if site.flavor().name() == "exabgp" && peer["established_count"] != count {
        return unsupported(
            "closes the connection when asked for a refresh: it takes its own begin marker for an UPDATE",
        );
    }
    ensure!(peer["established_count"] == count, "the session is another one: {peer}");
    Ok(())
}

fn enhanced_refresh(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    let site = Plan::new(flavor).neighbor(|_, neighbor| neighbor.enhanced_refresh = true).start(lab)?;
    let name = site.neighbor(1, 1, Family::Four);
    let capabilities = site.hosts[0].peer(&name)?["capabilities"].to_string();
    if !capabilities.to_lowercase().contains("enhanced") {
        return unsupported("does not offer enhanced route refresh");
    }
    // After the end marker nothing that was sent again is swept.
    ours_refreshed(&site)
}

fn max_prefix(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    let plan = Plan::new(flavor).hosts(1).sessions(Sessions::OnlyFour).group("max_prefixes = 2").anycast(&[
        "10.99.1.1",
        "10.99.1.2",
        "10.99.1.3",
    ]);
    let mut site = plan.start_unconnected(lab)?;
    let name = site.neighbor(1, 1, Family::Four);
    let reached = |peer: &serde_json::Value| {
        peer["state"] != "Established" && peer["last_error"].to_string().to_lowercase().contains("prefix")
    };
    site.hosts[0].wait_peer(&name, "the limit ends the session", reached)?;
    site.hosts[0].reconfigure(|text| text.replace("max_prefixes = 2", "max_prefixes = 100"))?;
    site.hosts[0].agent.cli("bgp clear").arg(&name).run()?;
    site.wait_up()?;
    site.traffic()
}

fn max_prefix_theirs(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    let plan = Plan::new(flavor)
        .hosts(1)
        .sessions(Sessions::OnlyFour)
        .neighbor(|_, neighbor| neighbor.max_prefixes = Some(3));
    let mut site = plan.start(lab)?;
    site.traffic()?;
    let name = site.neighbor(1, 1, Family::Four);
    let many = "originate = [\"10.32.201.1/32\", \"10.32.201.2/32\", \"10.32.201.3/32\", \"10.32.201.4/32\"]\n\
                [bgp.group.switch]";
    site.hosts[0].reconfigure(|text| text.replace("[bgp.group.switch]", many))?;
    let told = site.hosts[0]
        .wait_peer(&name, "the router ends the session", |peer| peer["state"] != "Established")?;
    ensure!(told["last_error"].to_string().to_lowercase().contains("prefix"), "{told}");
    site.hosts[0].reconfigure(|text| {
        text.lines().filter(|line| !line.starts_with("originate")).collect::<Vec<_>>().join("\n")
    })?;
    site.flavor().revive(&site.switches[0].run, &site.session_name(1, 1, Family::Four))?;
    site.wait_up()?;
    site.traffic()
}

fn shutdown_text(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    let mut site = Plan::new(flavor).hosts(1).start(lab)?;
    site.traffic()?;
    let text = "moving to rack 7";
    let session = site.session_name(1, 1, Family::Four);
    site.flavor().shut_down(&site.switches[0].run, &session, text)?;
    let name = site.neighbor(1, 1, Family::Four);
    // In the log too, as a router that calls again at once gives another reason soon.
    eventually("the text arrives", PATIENCE, || {
        let peer = site.hosts[0].peer(&name)?;
        let told = peer["last_error"].to_string().contains(text);
        ensure!(told || site.hosts[0].agent.process().log().contains(text), "{peer}");
        Ok(())
    })?;
    site.flavor().revive(&site.switches[0].run, &session)?;
    site.hosts[0].agent.cli("bgp clear").arg(&name).run()?;
    site.wait_up()?;
    // Ours, to the router.
    site.hosts[0].agent.cli("stop").run()?;
    site.hosts[0].agent.process().wait(PATIENCE)?;
    eventually("the router has our text", PATIENCE, || {
        ensure!(flavor.was_told(&site.switches[0].run, "stopped by its administrator")?, "not yet");
        Ok(())
    })?;
    site.hosts[0].agent.start_again()?;
    // Two resets in a row, and OpenBGPD keeps away for a minute.
    for family in Family::BOTH {
        flavor.forgive(&site.switches[0].run, &site.session_name(1, 1, family))?;
    }
    site.wait_up()?;
    site.traffic()
}

fn flap_100(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    // ExaBGP calls later after each reset, up to a minute, and forgets that only when it is called.
    let called = !flavor.passes_on();
    let plan = Plan::new(flavor).hosts(1).sessions(Sessions::Shared);
    let site = plan.neighbor(move |_, neighbor| neighbor.passive = called).start(lab)?;
    let name = site.neighbor(1, 1, Family::Four);
    let session = site.session_name(1, 1, Family::Four);
    let host = &site.hosts[0];
    for flap in 1..=100 {
        host.agent.cli("bgp clear").arg(&name).run()?;
        flavor.forgive(&site.switches[0].run, &session)?;
        host.wait_peer(&name, &format!("flap {flap}"), |peer| {
            peer["state"] == "Established" && peer["established_count"].as_u64() > Some(flap)
        })?;
        // On both sides: what is reset before the router knows of it is no session.
        site.wait_up()?;
    }
    site.traffic()
}

fn collision(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    let site = Plan::new(flavor).hosts(1).sessions(Sessions::OnlyFour).start(lab)?;
    let name = site.neighbor(1, 1, Family::Four);
    let session = site.session_name(1, 1, Family::Four);
    let (host, machine) = (&site.hosts[0], &site.switches[0].machine);
    // Calls are held up on both sides until both have called; then they meet.
    machine.run("nft add table inet hold")?;
    machine.run("nft add chain inet hold in { type filter hook input priority 0 ; }")?;
    machine.run("nft add chain inet hold out { type filter hook output priority 0 ; }")?;
    for _ in 0..10 {
        for chain in ["in", "out"] {
            machine
                .run(&format!("nft add rule inet hold {chain} tcp dport 179 tcp flags syn / syn,ack drop"))?;
        }
        host.agent.cli("bgp clear").arg(&name).run()?;
        std::thread::sleep(std::time::Duration::from_millis(1500));
        machine.run("nft flush chain inet hold in")?;
        machine.run("nft flush chain inet hold out")?;
        flavor.forgive(&site.switches[0].run, &session)?;
        host.wait_peer(&name, "a session after the collision", |peer| peer["state"] == "Established")?;
        eventually("one connection is left", PATIENCE, || {
            let shown = host.machine.run("ss -Htn state established ( sport = :179 or dport = :179 )")?;
            ensure!(shown.lines().count() == 1, "{shown}");
            Ok(())
        })?;
    }
    site.wait_up()?;
    site.traffic()
}
