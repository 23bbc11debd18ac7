//! More than one path, and what travels with a path.

use anyhow::{Result, ensure};
use interop_tests::{Agent, Lab, PATIENCE, eventually};

use super::{Case, case};
use crate::flavors::Flavor;
use crate::site::{Plan, Sessions, Site, reach, service};
use crate::spec::{AddPath, Family, Neighbor, Remote, unsupported};

/// An address that several announce.
const ANYCAST: [&str; 2] = ["10.99.1.1", "fd00:99:1::1"];
/// The same for hosts: inside the pools, outside every block.
const HOST_ANYCAST: [&str; 2] = ["10.32.200.1", "fd00:32:0:c8::1"];

pub(super) const CASES: &[Case] = &[
    case!(
        "add-path-receive",
        "the router sends us both paths to an address of two hosts (RFC 7911)",
        add_path_receive
    ),
    case!("add-path-send", "we send the router both paths, as a reflector", add_path_send),
    case!("ecmp-2", "two switches share the load; one dies, the other carries on", ecmp_2).fast(),
    case!("ecmp-4", "four switches share the load", ecmp_4),
    case!("weighted-ecmp", "link bandwidth communities become weights in the kernel", weighted_ecmp),
    case!(
        "allowas-in",
        "hosts of one AS number behind a switch take each other's routes with allowas_in",
        allowas_in
    ),
    case!(
        "same-as-racks",
        "two racks with one AS number for all switches of that tier (RFC 7938)",
        same_as_racks
    ),
    case!("communities", "standard, extended and large communities are passed on", communities).fast(),
    case!("anycast", "two hosts announce one address; the one that stays answers", anycast),
];

/// Gives a host an address to announce beside its containers'.
fn announce(site: &mut Site, host: usize) -> Result<()> {
    for address in HOST_ANYCAST {
        site.hosts[host].machine.run(&format!("ip address add {address} dev lo"))?;
    }
    let list =
        format!("originate = [\"{}/32\", \"{}/128\"]\n[bgp.group.switch]", HOST_ANYCAST[0], HOST_ANYCAST[1]);
    site.hosts[host].reconfigure(|text| text.replace("[bgp.group.switch]", &list)).map(drop)
}

fn add_path_receive(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    if !flavor.passes_on() {
        return unsupported("passes nothing on from one host to another");
    }
    let plan = Plan::new(flavor).hosts(3).group("add_path = \"receive\"").neighbor(|_, neighbor| {
        neighbor.add_path = AddPath::Send;
    });
    let mut site = plan.start(lab)?;
    announce(&mut site, 0)?;
    announce(&mut site, 1)?;
    for (address, length) in HOST_ANYCAST.iter().zip([32, 128]) {
        let prefix = format!("{address}/{length}");
        eventually(&format!("two paths to {prefix}"), PATIENCE, || {
            let rows = site.hosts[2].rib(&prefix)?;
            let mut ids: Vec<_> = rows.iter().map(|row| row["path_id"].to_string()).collect();
            ids.sort_unstable();
            ids.dedup();
            ensure!(ids.len() == 2, "{rows:?}");
            Ok(())
        })?;
        reach(&site.hosts[2].container, address)?;
    }
    site.traffic()
}

fn add_path_send(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    // A slash32 in the reflector's place, two slash32 hosts behind it, and the router as a client with add-path.
    let plan = Plan::new(flavor)
        .internal()
        .hosts(1)
        .sessions(Sessions::OnlyFour)
        .bgp("route_reflector = true")
        .group("add_path = \"send\"\nroute_reflector_client = true\nnext_hop_self = true")
        .neighbor(|_, neighbor| {
            neighbor.add_path = AddPath::Receive;
            neighbor.reflector_client = false;
        });
    let mut site = plan.start(lab)?;
    let reflector = &mut site.hosts[0];
    let mut leaves = Vec::new();
    for n in 1..=2 {
        let leaf = lab.machine(&format!("leaf{n}"))?;
        lab.link(
            leaf.port("eth0").address(&format!("198.18.9.{}/31", 2 * n + 1)),
            reflector.machine.port(&format!("leaf{n}")).address(&format!("198.18.9.{}/31", 2 * n)),
        )?;
        leaf.run(&format!("ip address add {} dev lo", HOST_ANYCAST[0]))?;
        let config = format!(
            "[bgp]\nasn = 65100\nrouter_id = \"198.19.1.{n}\"\noriginate = [\"{}/32\"]\n\
             [[bgp.peer]]\naddress = \"198.18.9.{}\"\nasn = 65100\nfamilies = [\"ipv4\"]\n",
            HOST_ANYCAST[0],
            2 * n
        );
        leaves.push((Agent::start(&leaf, &config)?, leaf));
    }
    let more = (1..=2).map(|n| {
        format!(
            "[[bgp.peer]]\naddress = \"198.18.9.{}\"\nasn = 65100\nroute_reflector_client = true\nfamilies = [\"ipv4\"]\n",
            2 * n + 1
        )
    });
    let more: String = more.collect();
    reflector.reconfigure(|text| format!("{text}{more}"))?;
    reflector.wait_up()?;
    let prefix = format!("{}/32", HOST_ANYCAST[0]);
    site.switches[0].wait_paths(flavor, &prefix, 2)?;
    // One of the two goes, the other path stays.
    // For good: after a planned restart its path would rightly stay for the restart time.
    leaves[0].0.cli("stop").run()?;
    leaves[0].0.process().wait(PATIENCE)?;
    leaves[0].1.link_down("eth0")?;
    eventually("one path is left", PATIENCE, || {
        let shown = flavor.paths(&site.switches[0].run, &prefix)?;
        ensure!(flavor.count_paths(&shown) == 1, "{shown}");
        Ok(())
    })?;
    reach(&site.hosts[0].container, HOST_ANYCAST[0])?;
    site.services_reached()
}

/// As many switches, each with the same address behind it.
fn ecmp(lab: &Lab, flavor: &'static dyn Flavor, switches: usize) -> Result<Site> {
    let plan = Plan::new(flavor).switches(switches).hosts(1).anycast(&ANYCAST);
    let site = plan.router(|_, spec| spec.multipath = true).start(lab)?;
    let host = &site.hosts[0];
    host.wait_kernel_paths("10.99.1.1/32", switches)?;
    host.wait_kernel_paths("fd00:99:1::1/128", switches)?;
    for address in ANYCAST {
        reach(&host.container, address)?;
    }
    site.traffic()?;
    Ok(site)
}

fn ecmp_2(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    let site = ecmp(lab, flavor, 2)?;
    let host = &site.hosts[0];
    site.switches[0].power_off()?;
    host.wait_kernel_paths("10.99.1.1/32", 1)?;
    host.wait_kernel_paths("fd00:99:1::1/128", 1)?;
    for address in ANYCAST {
        reach(&host.container, address)?;
    }
    Ok(())
}

fn ecmp_4(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    ecmp(lab, flavor, 4).map(drop)
}

fn weighted_ecmp(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    // The community is not transitive: between AS numbers it may be dropped, so all are of one.
    let plan = Plan::new(flavor).internal().switches(2).hosts(1).anycast(&ANYCAST).router(|switch, spec| {
        spec.multipath = true;
        // 1 and 3 Gbit/s.
        spec.link_bandwidth = Some(if switch == 1 { 125e6 } else { 375e6 });
        for neighbor in &mut spec.neighbors {
            neighbor.reflector_client = false;
        }
    });
    let site = plan.start(lab)?;
    let host = &site.hosts[0];
    eventually("weights of 1 to 3 in the kernel", PATIENCE, || {
        let shown = host.machine.run("ip nexthop show")?;
        let weights: Vec<u32> = shown
            .lines()
            .filter_map(|line| line.split_whitespace().skip_while(|word| *word != "group").nth(1))
            .filter(|group| group.contains('/'))
            .flat_map(|group| group.split('/'))
            .map(|member| member.split(',').nth(1).map_or(1, |weight| weight.parse().unwrap_or(0)))
            .collect();
        let ratio = |pair: &[u32]| {
            let (low, high) = (pair[0].min(pair[1]), pair[0].max(pair[1]));
            low > 0 && (2.9..=3.1).contains(&(f64::from(high) / f64::from(low)))
        };
        ensure!(weights.len() == 4 && weights.chunks(2).all(ratio), "{shown}");
        Ok(())
    })?;
    for address in ANYCAST {
        reach(&host.container, address)?;
    }
    site.traffic()
}

fn allowas_in(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    if flavor.name() == "gobgp" {
        // As a route server too: it checks the path for each neighbour's table.
        return unsupported(
            "withholds routes from neighbours whose AS is in their path, with no setting against it but for its own (pkg/server/server.go, filterpath)",
        );
    }
    let plan = Plan::new(flavor).host_as(|_| 65001).group("allowas_in = 1");
    let site = plan.start(lab)?;
    site.needs_passing_on()?;
    site.traffic()
}

fn same_as_racks(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    if !flavor.passes_on() {
        return unsupported("passes nothing on from one host to another");
    }
    if !flavor.forwards() {
        return unsupported("writes no kernel routes: it cannot be the switch of two tiers");
    }
    // Two leaves of AS 65100 and a spine of AS 65200 above them, all this router; a rack's routes come to the other leaf with
    // its own number in the path. Hosts of both racks are in AS 65001: `allowas_in` on both tiers.
    // The spine here is slash32, with as_override: the leaves need no setting, and the paths stay short.
    let plan = Plan::new(flavor).switches(2).hosts(1).host_as(|_| 65001).router(|switch, spec| {
        let mut up = Neighbor::new(
            "spine4",
            Remote::Address(format!("198.18.20{switch}.1")),
            &format!("198.18.20{switch}.0"),
            65200,
        );
        up.six = false;
        spec.neighbors.push(up);
    });
    // The host of rack 1 only: a second host for rack 2 is added below.
    let mut plan = plan.group("allowas_in = 1\nhold_time = 9\nkeepalive = 3");
    plan.switch_as = 65100;
    let site = plan.start_unconnected(lab)?;
    let spine = lab.forwarder("spine")?;
    for s in 1..=2 {
        lab.link(
            site.switches[s - 1].machine.port("up1").address(&format!("198.18.20{s}.0/31")),
            spine.port(&format!("leaf{s}")).address(&format!("198.18.20{s}.1/31")),
        )?;
    }
    let config = "[bgp]\nasn = 65200\nrouter_id = \"198.19.9.9\"\ntransit = true\n\
         [bgp.group.leaf]\nasn = 65100\nas_override = true\nfamilies = [\"ipv4\"]\n\
         [[bgp.peer]]\naddress = \"198.18.201.0\"\ngroup = \"leaf\"\n\
         [[bgp.peer]]\naddress = \"198.18.202.0\"\ngroup = \"leaf\"\n[policy]\nenabled = false\n";
    let agent = Agent::start(&spine, config)?;
    agent.wait_established(2)?;
    // The host is cabled to both leaves; take one cable away, so that its packets to the other rack cross the spine.
    site.hosts[0].machine.link_down("up2")?;
    site.switches[1].machine.link_down("port1")?;
    let address = service(2, Family::Four);
    // OpenBGPD looks at no link: it takes the other way back when the hold time is over, and then some.
    let way = format!("c1 reaches {address} by the spine");
    eventually(&way, PATIENCE * 2, || site.hosts[0].container.ping(&address))?;
    let rows = site.hosts[0].rib(&format!("{address}/32"))?;
    ensure!(
        rows.iter().any(|row| row["as_path"].to_string().contains("65200")),
        "not by the spine: {rows:?}"
    );
    Ok(())
}

fn communities(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    // A rule on the way out adds one of each kind: a route target is the extended community everybody passes.
    let all = ["65001:77", "rt:65001:88", "65001:1:2"];
    let rule = format!(
        "export = [ {{ action = \"accept\", add_community = [{}] }} ]",
        all.map(|community| format!("\"{community}\"")).join(", ")
    );
    let site = Plan::new(flavor).group(&rule).start(lab)?;
    let prefix = site.hosts[1].prefix(Family::Four)?;
    let shown = site.switches[0].wait_paths(flavor, &prefix, 1)?;
    ensure!(flavor.shows_large_community(&shown, [65001, 1, 2]), "no large community: {shown}");
    ensure!(shown.contains("65001:77") || shown.contains("65001,77"), "no standard community: {shown}");
    site.traffic()?;
    if !flavor.passes_on() {
        return Ok(());
    }
    for (host, other) in [(0, 1), (1, 0)] {
        for family in Family::BOTH {
            let rows = site.hosts[host].rib(&site.hosts[other].prefix(family)?)?;
            let seen = rows.first().map(|row| row["communities"].to_string()).unwrap_or_default();
            ensure!(all.iter().all(|community| seen.contains(community)), "{seen} of {all:?}");
        }
    }
    Ok(())
}

fn anycast(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    if !flavor.passes_on() {
        return unsupported("passes nothing on from one host to another");
    }
    let plan = Plan::new(flavor).hosts(3).router(|_, spec| spec.multipath = true);
    let mut site = plan.start(lab)?;
    announce(&mut site, 0)?;
    announce(&mut site, 1)?;
    for (address, length) in HOST_ANYCAST.iter().zip([32, 128]) {
        site.switches[0].wait_paths(flavor, &format!("{address}/{length}"), 2)?;
        reach(&site.hosts[2].container, address)?;
    }
    // One of the two leaves, whichever carried the packets: the other answers.
    for gone in 0..2 {
        let host = &mut site.hosts[gone];
        host.reconfigure(|text| {
            text.lines().filter(|line| !line.starts_with("originate")).collect::<Vec<_>>().join("\n")
        })?;
        for address in HOST_ANYCAST {
            host.machine.run(&format!("ip address del {address} dev lo"))?;
        }
        for address in HOST_ANYCAST {
            reach(&site.hosts[2].container, address)?;
        }
        announce(&mut site, gone)?;
        for (address, length) in HOST_ANYCAST.iter().zip([32, 128]) {
            site.switches[0].wait_paths(flavor, &format!("{address}/{length}"), 2)?;
        }
    }
    Ok(())
}
