//! Sessions of every kind, and packets over what they carry.

use anyhow::{Context, Result, ensure};
use interop_tests::{
    Agent, Image, ImageRun, Lab, PATIENCE, Rack, Switch as Wiring, eventually, example, labelled, reach,
    unreachable,
};

use super::{Case, case};
use crate::flavors::Flavor;
use crate::site::{Plan, Sessions, Site, serve, service};
use crate::spec::{Family, unsupported};

pub(super) const CASES: &[Case] = &[
    case!(
        "example",
        "the files of config/examples: sessions, packets, policy by the labels of other hosts",
        self::example_files
    )
    .fast(),
    case!(
        "example-sonic",
        "SONiC's file of config/examples in FRR, with BFD and listen ranges",
        example_sonic
    )
    .only(&["frr-datacenter"]),
    case!("ebgp", "eBGP, a session for each family", ebgp).fast(),
    case!("ibgp", "iBGP", ibgp).fast(),
    case!("reflector-client", "hosts as clients of a route reflector", reflector_client).fast(),
    case!("ipv4", "IPv4 alone", ipv4),
    case!("ipv6", "IPv6 alone", ipv6),
    case!("shared-session", "both families over one IPv4 session", shared_session).fast(),
    case!("four-octet-as", "AS numbers above 65535", four_octet_as),
    case!("two-octet-as", "a router without the 4-octet AS capability (RFC 6793)", two_octet_as),
    case!(
        "listen-range",
        "the router is passive and listens on a range, as SONiC's template has it",
        listen_range
    )
    // Not ExaBGP: of two that call a range at the same moment by IPv4 and IPv6 it leaves one unanswered until somebody
    // else calls (4.2.25, reactor/listener.py: new_connections returns after the first).
    .fast_with(&["bird2", "bird3", "frr", "frr-datacenter", "gobgp", "openbgpd"]),
    case!("unnumbered", "no addresses on the link, IPv4 with IPv6 next hops (RFC 8950)", unnumbered).fast(),
    case!("identity", "labels survive a router without any setting for communities", identity).fast(),
];

fn ebgp(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    Plan::new(flavor).start(lab)?.traffic()
}

fn ibgp(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    // One host: an iBGP speaker that reflects nothing tells one client nothing of another.
    let plan =
        Plan::new(flavor).internal().hosts(1).neighbor(|_, neighbor| neighbor.reflector_client = false);
    let site = plan.start(lab)?;
    for family in Family::BOTH {
        let peer = site.hosts[0].peer(&site.neighbor(1, 1, family))?;
        ensure!(peer["kind"] == "internal", "{peer}");
    }
    site.traffic()
}

fn reflector_client(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    if !flavor.passes_on() {
        return unsupported("passes nothing on from one host to another");
    }
    let plan = Plan::new(flavor).internal();
    // The next hop of a reflected route is the other host, which its neighbour sees across the switch only.
    let plan =
        if flavor.forwards() { plan.neighbor(|_, neighbor| neighbor.next_hop_self = true) } else { plan };
    let site = plan.start(lab)?;
    site.traffic()?;
    // Reflected, not merely passed on: the originator is named (RFC 4456 section 8).
    let rows = site.hosts[0].rib(&site.hosts[1].prefix(Family::Four)?)?;
    ensure!(rows.iter().any(|row| row["originator_id"] == "198.19.0.2"), "{rows:?}");
    Ok(())
}

fn ipv4(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    Plan::new(flavor).sessions(Sessions::OnlyFour).start(lab)?.traffic()
}

fn ipv6(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    Plan::new(flavor).sessions(Sessions::OnlySix).start(lab)?.traffic()
}

fn shared_session(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    let site = Plan::new(flavor).sessions(Sessions::Shared).start(lab)?;
    let families = site.hosts[0].peer(&site.neighbor(1, 1, Family::Four))?["families"].clone();
    ensure!(families.as_array().is_some_and(|list| list.len() == 2), "{families}");
    site.traffic()
}

fn four_octet_as(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    let mut plan = Plan::new(flavor).host_as(|host| 4_200_000_100 + host as u32);
    plan.switch_as = 4_200_000_001;
    let site = plan.start(lab)?;
    site.traffic()?;
    path_is(&site, "4200000001 4200000102")
}

fn two_octet_as(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    // The second host's number needs four octets: the router calls it AS 23456 and hands the truth on in AS4_PATH.
    let host_as = |host| if host == 2 { 4_200_000_102 } else { 65001 };
    let plan = Plan::new(flavor).host_as(host_as).neighbor(|_, neighbor| neighbor.four_octet_as = false);
    let site = plan.start(lab)?;
    let capabilities = site.hosts[0].peer(&site.neighbor(1, 1, Family::Four))?["capabilities"].to_string();
    ensure!(!capabilities.to_lowercase().contains("four"), "{capabilities}");
    site.traffic()?;
    path_is(&site, "65100 4200000102")
}

/// The AS path of host 2's container as host 1 knows it, where the router passes routes on.
fn path_is(site: &Site, path: &str) -> Result<()> {
    if site.flavor().passes_on() {
        let rows = site.hosts[0].rib(&site.hosts[1].prefix(Family::Four)?)?;
        ensure!(rows.iter().any(|row| row["as_path"] == path), "{rows:?}");
    }
    Ok(())
}

fn listen_range(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    // SONiC's shape: one AS number for all hosts, which take their own back once (`allowas-in 1`), timers 3 and 9.
    let plan = Plan::new(flavor)
        .sessions(Sessions::Range)
        .host_as(|_| 65001)
        .group("hold_time = 9\nkeepalive = 3\nallowas_in = 1")
        .router(|_, spec| {
            for neighbor in &mut spec.neighbors {
                neighbor.timers = Some((9, 3));
            }
        });
    let site = plan.start(lab)?;
    site.services_reached()?;
    if flavor.name() == "gobgp" {
        // It withholds routes from neighbours of the AS they come from; the sessions and the services are what it can do.
        return Ok(());
    }
    site.traffic()
}

fn unnumbered(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    if !flavor.forwards() && flavor.passes_on() {
        return unsupported("writes no kernel routes: with no addresses there is no segment to share");
    }
    let site = Plan::new(flavor).sessions(Sessions::Unnumbered).start(lab)?;
    for host in &site.hosts {
        let addresses = host.machine.run("ip -o address show dev up1 scope global")?;
        ensure!(addresses.trim().is_empty(), "{addresses}");
    }
    site.traffic()?;
    // IPv4 goes by an IPv6 next hop.
    let rows = site.hosts[0].rib(&format!("{}/32", service(1, Family::Four)))?;
    let next_hop = rows.first().map(|row| row["next_hop"].to_string()).unwrap_or_default();
    ensure!(next_hop.contains(':'), "{rows:?}");
    Ok(())
}

fn identity(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    let site = Plan::new(flavor).start(lab)?;
    site.needs_passing_on()?;
    site.traffic()?;
    let [host1, host2] = &site.hosts[..] else { unreachable!("two hosts") };
    let web = host2.machine.container("web", &labelled("role", "web")?)?;
    reach(&web, &host1.container)?;
    host1.agent.write_policy(
        "db.toml",
        "[[policy]]\nname = 'db'\nselect = 'host == \"h1\"'\n\
         ingress = [ { action = 'allow', from = { selector = 'role == \"web\"' } } ]\n",
    )?;
    unreachable(&host2.container, &host1.container)?;
    reach(&web, &host1.container)
}

/// The files that users copy, as they are.
fn example_files(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    if flavor.name() == "exabgp" {
        return example_exabgp(lab, flavor);
    }
    let (file, hosts) = flavor.example().context("no example")?;
    let rack = Rack::new(lab, if flavor.forwards() { Wiring::Slash32 } else { Wiring::Gobgp })?;
    let _capture = rack.tor.capture("any", "tcp port 179 or udp port 3784 or icmp or icmp6")?;
    let run = start_image(&rack.tor, flavor, file)?;
    let agents = [
        Agent::start(&rack.hosts[0], &example(&format!("{hosts}/host1.toml"))?)?,
        Agent::start(&rack.hosts[1], &example(&format!("{hosts}/host2.toml"))?)?,
    ];
    rack_works(&rack, &agents, flavor, &run)
}

fn example_sonic(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    let rack = Rack::new(lab, Wiring::Slash32)?;
    let _capture = rack.tor.capture("any", "tcp port 179 or udp port 3784 or icmp or icmp6")?;
    let run = start_image(&rack.tor, flavor, "sonic/frr.conf")?;
    let agents = [
        Agent::start(&rack.hosts[0], &example("sonic/host1.toml")?)?,
        Agent::start(&rack.hosts[1], &example("sonic/host2.toml")?)?,
    ];
    rack_works(&rack, &agents, flavor, &run)?;
    for agent in &agents {
        let sessions: Vec<serde_json::Value> = agent.cli("--json bfd").json()?;
        ensure!(
            sessions.len() == 2
                && sessions.iter().all(|s| s["state"].to_string().to_lowercase().contains("up")),
            "{sessions:?}"
        );
    }
    Ok(())
}

fn start_image(machine: &interop_tests::Machine, flavor: &dyn Flavor, file: &str) -> Result<ImageRun> {
    let image = Image::find(flavor.image().context("no image")?)?;
    let run = ImageRun::start(machine, &image, &example(file)?, flavor.env())?;
    eventually(&format!("{} answers", flavor.name()), PATIENCE, || {
        run.check()?;
        flavor.ready(&run)
    })?;
    Ok(run)
}

/// Sessions, packets, a policy by label across hosts, and withdrawal.
fn rack_works(rack: &Rack, agents: &[Agent; 2], flavor: &dyn Flavor, run: &ImageRun) -> Result<()> {
    for agent in agents {
        agent.wait_established(2)?;
    }
    let db = rack.hosts[0].container("db", &labelled("role", "db")?)?;
    let web = rack.hosts[1].container("web", &labelled("role", "web")?)?;
    let job = rack.hosts[1].container("job", &labelled("role", "job")?)?;
    interop_tests::reach_each_other(&[&db, &web, &job])?;
    agents[0].write_policy(
        "db.toml",
        "[[policy]]\nname = 'db'\nselect = 'role == \"db\"'\n\
         ingress = [ { action = 'allow', from = { selector = 'role == \"web\"' } } ]\n",
    )?;
    unreachable(&job, &db)?;
    reach(&web, &db)?;
    let prefixes = [format!("{}/32", db.ipv4()?), format!("{}/128", db.ipv6()?)];
    for prefix in &prefixes {
        ensure!(!flavor.paths(run, prefix)?.is_empty(), "the router does not know {prefix}");
    }
    db.remove()?;
    for prefix in &prefixes {
        eventually(&format!("the router forgets {prefix}"), PATIENCE, || {
            let shown = flavor.paths(run, prefix)?;
            ensure!(shown.is_empty(), "{shown}");
            Ok(())
        })?;
    }
    Ok(())
}

/// ExaBGP beside the host; the box is the gateway of its example too.
fn example_exabgp(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    let rack = Rack::new(lab, Wiring::Gobgp)?;
    let _capture = rack.tor.capture("any", "tcp port 179 or icmp or icmp6")?;
    for line in [
        "ip address add 192.0.2.10/24 dev br0",
        "ip address add 2001:db8::10/64 dev br0 nodad",
        "ip route add 10.32.1.0/24 via 192.0.2.11",
        "ip route add fd00:32:0:1::/64 via 2001:db8::11",
    ] {
        rack.tor.run(line)?;
    }
    serve(&rack.tor, &["10.32.200.1/32".to_owned(), "fd00:32:0:c8::1/128".to_owned()])?;
    let run = start_image(&rack.tor, flavor, "exabgp/exabgp.conf")?;
    let agent = Agent::start(&rack.hosts[0], &example("exabgp/host1.toml")?)?;
    agent.wait_established(2)?;
    let web = rack.hosts[0].container("web", &labelled("role", "web")?)?;
    for address in ["10.32.200.1", "fd00:32:0:c8::1"] {
        crate::site::reach(&web, address)?;
    }
    let route: Vec<serde_json::Value> = agent.cli("--json bgp rib 0.0.0.0/0").json()?;
    ensure!(!route.is_empty(), "no default route");
    // What the host announces comes out of ExaBGP's watcher, a JSON line a message.
    let address = web.ipv4()?;
    eventually("ExaBGP tells of the container", PATIENCE, || {
        run.check()?;
        ensure!(run.log().contains(&address), "not yet");
        Ok(())
    })
}
