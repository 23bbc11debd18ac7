//! A neighbour two hops away: learned routes lead to the real first hop, and follow when that changes.

use std::fmt::Write;

use anyhow::{Result, ensure};
use interop_tests::{Agent, Lab, Machine, PATIENCE, Router, check, eventually};

/// One family's addresses. Router `r` (1 or 2) stands between the host and the neighbour.
struct Addresses {
    /// The option of `ip`.
    option: &'static str,
    /// The routers' ends of the host's links.
    routers: [&'static str; 2],
    /// The host's ends.
    host: [&'static str; 2],
    /// The neighbour's ends of the routers' far links, and the routers' ends.
    far: [[&'static str; 2]; 2],
    /// Loopback addresses, between which the session runs.
    neighbour: &'static str,
    own: &'static str,
    /// What the neighbour announces, an address of its own.
    learned: &'static str,
    /// Length of a host's prefix and of a link's.
    bits: [u8; 2],
}

const FAMILIES: [Addresses; 2] = [
    Addresses {
        option: "-4",
        routers: ["192.0.2.0", "192.0.2.2"],
        host: ["192.0.2.1", "192.0.2.3"],
        far: [["198.18.0.1", "198.18.0.0"], ["198.18.0.3", "198.18.0.2"]],
        neighbour: "203.0.113.1",
        own: "203.0.113.2",
        learned: "198.51.100.1",
        bits: [32, 31],
    },
    Addresses {
        option: "-6",
        routers: ["2001:db8:1::1", "2001:db8:2::1"],
        host: ["2001:db8:1::2", "2001:db8:2::2"],
        far: [["2001:db8:11::2", "2001:db8:11::1"], ["2001:db8:12::2", "2001:db8:12::1"]],
        neighbour: "2001:db8:f::1",
        own: "2001:db8:f::2",
        learned: "2001:db8:a::1",
        bits: [128, 64],
    },
];

struct Site {
    host: Machine,
    routers: [Machine; 2],
    neighbour: Machine,
    agent: Agent,
    _bird: Router,
}

impl Site {
    fn start(lab: &Lab) -> Result<Self> {
        let (host, neighbour) = (lab.machine("host")?, lab.machine("neighbour")?);
        let routers = [lab.forwarder("router1")?, lab.forwarder("router2")?];
        for (r, router) in routers.iter().enumerate() {
            // Otherwise a link that goes down takes its IPv6 addresses along.
            router.sysctl("net.ipv6.conf.all.keep_addr_on_down", "1")?;
            let (mut near, mut ours) = (router.port("near"), host.port(&format!("eth{r}")));
            let (mut far, mut theirs) = (router.port("far"), neighbour.port(&format!("eth{r}")));
            for a in &FAMILIES {
                let link = a.bits[1];
                near = near.address(&format!("{}/{link}", a.routers[r]));
                ours = ours.address(&format!("{}/{link}", a.host[r]));
                theirs = theirs.address(&format!("{}/{link}", a.far[r][0]));
                far = far.address(&format!("{}/{link}", a.far[r][1]));
            }
            lab.link(near, ours)?;
            lab.link(far, theirs)?;
        }
        let (mut bird, mut statics, mut config) = (String::new(), String::new(), String::new());
        for (family, a) in [4, 6].into_iter().zip(&FAMILIES) {
            let Addresses { option, neighbour: theirs, own, learned, bits: [bits, _], .. } = a;
            for (r, router) in routers.iter().enumerate() {
                router.run(&format!("ip {option} route add {own} via {}", a.host[r]))?;
                for to in [theirs, learned] {
                    router.run(&format!("ip {option} route add {to} via {}", a.far[r][0]))?;
                }
            }
            host.run(&format!("ip {option} address add {own}/{bits} dev lo"))?;
            for address in [theirs, learned] {
                neighbour.run(&format!("ip {option} address add {address}/{bits} dev lo"))?;
            }
            // The way back stays on one side, so that the session is up whatever happens to the way there.
            neighbour.run(&format!("ip {option} route add {own} via {}", a.far[1][1]))?;
            writeln!(
                bird,
                "protocol bgp host{family} {{ local {theirs} as 65000; neighbor {own} as 65001; multihop 2; \
                 ipv{family} {{ import none; export where source = RTS_STATIC; next hop self; }}; }}"
            )?;
            writeln!(statics, "protocol static {{ ipv{family}; route {learned}/{bits} blackhole; }}")?;
            writeln!(
                config,
                "[[bgp.peer]]\naddress = '{theirs}'\nasn = 65000\nlocal_address = '{own}'\nmultihop = 2\n\
                 families = ['ipv{family}']"
            )?;
        }
        // As on a router: a route over a dead link gives way to one with a higher metric.
        for family in ["ipv4", "ipv6"] {
            for name in ["all", "eth0", "eth1"] {
                host.sysctl(&format!("net.{family}.conf.{name}.ignore_routes_with_linkdown"), "1")?;
            }
        }
        let config = format!("[bgp]\nasn = 65001\nrouter_id = '203.0.113.2'\n{config}");
        let bird = format!("log stderr all;\nrouter id 203.0.113.1;\nprotocol device {{ }}\n{statics}{bird}");
        let bird = Router::bird(&neighbour, &bird)?;
        for r in [0, 1] {
            way(&host, "add", r)?;
        }
        let agent = Agent::start(&host, &config)?;
        let site = Self { host, routers, neighbour, agent, _bird: bird };
        site.agent.wait_established(2)?;
        Ok(site)
    }

    fn way(&self, verb: &str, r: usize) -> Result<()> {
        way(&self.host, verb, r)
    }

    fn each(&self, line: impl Fn(&Addresses) -> String) -> Result<()> {
        each(&self.host, line)
    }

    /// Waits until the kernel's learned routes lead through these routers and no others, as a packet shows.
    fn leads(&self, when: &str, through: &[usize]) -> Result<()> {
        for a in &FAMILIES {
            eventually(&format!("{when}: the way to {} is by {through:?}", a.learned), PATIENCE, || {
                let route = self.host.run(&format!("ip {} route show {} proto 32", a.option, a.learned))?;
                let by = |r: usize| route.contains(&format!("via {} dev eth{r} ", a.routers[r]));
                check((0..2).all(|r| by(r) == through.contains(&r)), route)
            })?;
            if !through.is_empty() {
                eventually(&format!("{when}: {} answers", a.learned), PATIENCE, || {
                    self.host.run(&format!("ping -c 1 -W 2 -I {} {}", a.own, a.learned)).map(drop)
                })?;
            }
        }
        let verify = self.agent.cli("routes verify").output()?;
        ensure!(verify.exit.success(), "{when}: {}{}", verify.stdout, verify.stderr);
        Ok(())
    }
}

/// Changes the host's static route to the neighbour by router `r`; that by the second is the reserve.
fn way(host: &Machine, verb: &str, r: usize) -> Result<()> {
    let metric = 10 * (r + 1);
    each(host, |a| format!("route {verb} {} via {} metric {metric}", a.neighbour, a.routers[r]))
}

/// Runs `ip` on the host for each family.
fn each(host: &Machine, line: impl Fn(&Addresses) -> String) -> Result<()> {
    FAMILIES.iter().try_for_each(|a| host.run(&format!("ip {} {}", a.option, line(a))).map(drop))
}

#[test]
fn the_first_hop_to_a_distant_neighbour_is_followed() {
    Lab::run("multihop", |lab| {
        let site = Site::start(lab)?;
        site.leads("at first", &[0])?;
        let routes = site.agent.cli("routes").run()?;
        ensure!(routes.contains("via 203.0.113.1 (192.0.2.0 dev eth0)"), "{routes}");
        // Each of these is told by a notification.
        site.each(|a| format!("route replace {} via {} metric 10", a.neighbour, a.routers[1]))?;
        site.leads("the route is replaced", &[1])?;
        site.way("replace", 0)?;
        site.leads("and again", &[0])?;
        site.each(|a| {
            let [one, two] = a.routers;
            format!("route replace {} metric 10 nexthop via {one} nexthop via {two}", a.neighbour)
        })?;
        site.leads("it has two ways", &[0, 1])?;
        site.way("replace", 0)?;
        site.leads("it has one", &[0])?;
        site.way("delete", 0)?;
        site.leads("the better one is deleted", &[1])?;
        site.way("add", 0)?;
        site.leads("and added", &[0])?;
        // The first link loses its carrier, and then is set down, with which its routes go.
        site.routers[0].link_down("near")?;
        site.leads("no carrier", &[1])?;
        site.routers[0].link_up("near")?;
        site.leads("a carrier", &[0])?;
        site.host.link_down("eth0")?;
        site.leads("link down", &[1])?;
        site.host.link_up("eth0")?;
        let six = FAMILIES[1].host[0];
        site.host.run(&format!("ip address replace {six}/64 dev eth0 nodad"))?;
        site.way("add", 0)?;
        site.leads("link up", &[0])?;
        // A shorter route will do, and none will not.
        site.each(|a| format!("route add default via {}", a.routers[1]))?;
        site.way("delete", 0)?;
        site.way("delete", 1)?;
        site.leads("only a default route", &[1])?;
        site.each(|_| "route delete default".to_owned())?;
        site.leads("no route", &[])?;
        let routes = site.agent.cli("routes").run()?;
        ensure!(routes.contains("203.0.113.1: no route leads there"), "{routes}");
        site.way("add", 0)?;
        site.leads("a route again", &[0])?;
        // The sessions of the beginning are still up: none of it was a matter of BGP.
        let peers: serde_json::Value = site.agent.cli("peers --json").json()?;
        let sessions = peers.as_array().into_iter().flatten();
        ensure!(sessions.clone().count() == 2, "{peers}");
        ensure!(
            sessions.clone().all(|p| p["established_count"] == 1 && p["state"] == "Established"),
            "{peers}"
        );
        site.neighbour.run("birdc show protocols").map(drop)
    });
}
