//! Who may speak at all: TCP MD5 (RFC 2385), TTL security (RFC 5082).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use interop_tests::{Lab, steadily};

use super::{Case, case};
use crate::flavors::Flavor;
use crate::site::{Plan, Sessions, Site};
use crate::spec::Family;

pub(super) const CASES: &[Case] = &[
    case!("md5", "TCP MD5 with the right password", right).fast(),
    case!("md5-wrong", "TCP MD5 with different passwords, then with the same", wrong)
        .fast_with(&["bird2", "frr", "openbgpd"]),
    case!("md5-change", "the password changes on both sides of a running session", change),
    case!("gtsm", "TTL security, and none without it on the other side", gtsm).fast(),
];

fn with_password(flavor: &'static dyn Flavor, ours: &str, theirs: &'static str) -> Plan {
    Plan::new(flavor)
        .group(&format!("password = \"{ours}\""))
        .neighbor(|_, neighbor| neighbor.password = Some(theirs.to_owned()))
}

fn right(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    with_password(flavor, "correct-horse", "correct-horse").start(lab)?.traffic()
}

fn wrong(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    let mut site = with_password(flavor, "correct", "battery").hosts(1).start_unconnected(lab)?;
    steadily("no session", Duration::from_secs(2), || {
        let peers = site.hosts[0].agent.peers()?;
        ensure!(!peers.iter().any(crate::site::is_up), "{peers:?}");
        ensure!(site.flavor().established(&site.switches[0].run)? == 0, "the router has a session");
        Ok(())
    })?;
    site.hosts[0].container.no_ping(&crate::site::service(1, Family::Four))?;
    site.hosts[0].reconfigure(|text| text.replace("correct", "battery"))?;
    site.wait_up()?;
    site.traffic()
}

fn change(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    let mut plan = with_password(flavor, "old", "old");
    if flavor.name() == "gobgp" {
        // 3.36 stops in the middle of a reload that changes the passwords of several neighbours.
        plan = plan.hosts(1).sessions(Sessions::OnlyFour);
    }
    let mut site = plan.start(lab)?;
    site.traffic()?;
    let flavor = site.flavor();
    site.switches[0].reconfigure(flavor, |spec| {
        for neighbor in &mut spec.neighbors {
            neighbor.password = Some("new".to_owned());
        }
    })?;
    for host in &mut site.hosts {
        host.reconfigure(|text| text.replace("password = \"old\"", "password = \"new\""))?;
    }
    for host in &site.hosts {
        for family in site.plan.families() {
            let name = site.neighbor(1, if host.machine.name() == "host1" { 1 } else { 2 }, family);
            host.wait_peer(&name, "a second session", |peer| {
                peer["state"] == "Established" && peer["established_count"].as_u64() >= Some(2)
            })?;
        }
    }
    site.wait_up()?;
    site.traffic()
}

fn gtsm(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    let plan =
        Plan::new(flavor).group("ttl_security = true").neighbor(|_, neighbor| neighbor.ttl_security = true);
    let site = plan.start(lab)?;
    // Every packet of the session leaves with 255: the switch drops those that do not, and nothing changes.
    let machine = &site.switches[0].machine;
    machine.run("nft add table inet ttl")?;
    machine.run("nft add chain inet ttl in { type filter hook input priority 0 ; }")?;
    machine.run("nft add rule inet ttl in tcp dport 179 ip ttl != 255 counter drop")?;
    machine.run("nft add rule inet ttl in tcp sport 179 ip ttl != 255 counter drop")?;
    machine.run("nft add rule inet ttl in tcp dport 179 ip6 hoplimit != 255 counter drop")?;
    machine.run("nft add rule inet ttl in tcp sport 179 ip6 hoplimit != 255 counter drop")?;
    site.hosts[0].agent.cli("bgp clear *").run()?;
    site.wait_up()?;
    site.traffic()?;
    let counted = machine.run("nft list table inet ttl")?;
    ensure!(counted.matches("packets 0 ").count() == 4, "packets with another TTL: {counted}");
    from_afar(&site)
}

/// Packets that have crossed one more router than allowed are dropped by the kernel before we see them.
fn from_afar(site: &Site) -> Result<()> {
    let (host, machine) = (&site.hosts[0], &site.switches[0].machine);
    let dropped = || -> Result<u64> {
        let shown = host.machine.run("nstat -asz TcpExtTCPMinTTLDrop")?;
        let line = shown.lines().find(|line| line.starts_with("TcpExtTCPMinTTLDrop")).unwrap_or_default();
        line.split_whitespace().nth(1).unwrap_or_default().parse().with_context(|| shown.clone())
    };
    machine.run("nft delete table inet ttl")?;
    machine.run("nft add table inet afar")?;
    machine.run("nft add chain inet afar out { type filter hook postrouting priority 0 ; }")?;
    for ports in ["dport", "sport"] {
        machine.run(&format!("nft add rule inet afar out tcp {ports} 179 ip ttl set 254"))?;
        machine.run(&format!("nft add rule inet afar out tcp {ports} 179 ip6 hoplimit set 254"))?;
    }
    let before = dropped()?;
    host.agent.cli("bgp clear *").run()?;
    steadily("no session with a neighbour behind another router", Duration::from_secs(3), || {
        let peers = host.agent.peers()?;
        ensure!(!peers.iter().any(crate::site::is_up), "{peers:?}");
        Ok(())
    })?;
    ensure!(dropped()? > before, "nothing was dropped: nobody has tried");
    machine.run("nft delete table inet afar")?;
    site.wait_up()?;
    site.traffic()
}
