//! Two racks: a spine, two leaves, and three hosts: 1 and 3 at the first leaf, 2 at the second. eBGP everywhere, an AS for
//! each box (RFC 7938).

use std::fmt::Write;

use anyhow::{Context, Result};
use interop_tests::{Agent, Lab, Machine, Router};

/// Whose software the switches run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Make {
    Slash32,
    Bird,
}

/// The cables: from an upper box to a lower one, by their places in [`BOXES`].
const CABLES: [(usize, usize); 5] = [(0, 1), (0, 2), (1, 3), (2, 4), (1, 5)];
/// The boxes: the spine, the leaves, the hosts.
const BOXES: [(&str, u32); 6] = [
    ("spine", 65100),
    ("leaf1", 65101),
    ("leaf2", 65102),
    ("host1", 65001),
    ("host2", 65002),
    ("host3", 65003),
];
/// The first host in [`BOXES`].
const HOSTS: usize = 3;

pub(crate) struct Fabric {
    pub(crate) hosts: Vec<Machine>,
    pub(crate) agents: Vec<Agent>,
    _switches: Vec<Switch>,
}

enum Switch {
    Slash32(#[expect(dead_code, reason = "it runs as long as this")] Agent),
    Bird(#[expect(dead_code, reason = "it runs as long as this")] Router),
}

impl Fabric {
    /// Cables and starts everything; all sessions are up.
    pub(crate) fn start(lab: &Lab, make: Make) -> Result<Self> {
        let mut boxes = Vec::new();
        for (at, (name, _)) in BOXES.iter().enumerate() {
            boxes.push(if at < HOSTS { lab.forwarder(name)? } else { lab.machine(name)? });
        }
        for (number, (upper, lower)) in CABLES.iter().enumerate() {
            let [(four1, six1), (four2, six2)] = ends(number);
            let port = boxes[*upper].port(&format!("down{number}"));
            let uplink = boxes[*lower].port(&format!("up{number}"));
            lab.link(
                port.address(&format!("{four1}/31")).address(&format!("{six1}/64")),
                uplink.address(&format!("{four2}/31")).address(&format!("{six2}/64")),
            )?;
        }
        let mut switches = Vec::new();
        for (at, machine) in boxes.iter().enumerate().take(HOSTS) {
            switches.push(match make {
                Make::Slash32 => Switch::Slash32(Agent::start(machine, &slash32(at))?),
                Make::Bird => Switch::Bird(Router::bird(machine, &bird(at))?),
            });
        }
        let hosts = boxes.split_off(HOSTS);
        let agents: Vec<Agent> = (HOSTS..)
            .zip(&hosts)
            .map(|(at, machine)| Agent::start(machine, &slash32(at)))
            .collect::<Result<_>>()?;
        for (at, agent) in (HOSTS..).zip(&agents) {
            agent.wait_established(2).with_context(|| BOXES[at].0)?;
        }
        Ok(Self { hosts, agents, _switches: switches })
    }
}

/// The addresses of a cable's upper and lower end.
fn ends(number: usize) -> [(String, String); 2] {
    [0, 1].map(|end| (format!("192.0.2.{}", number * 2 + end), format!("2001:db8:0:{number}::{}", end + 1)))
}

/// A box's neighbours: address of this end, address of the other, AS; IPv4 and IPv6.
fn neighbours(at: usize) -> Vec<(String, String, u32)> {
    let mut found = Vec::new();
    for (number, (upper, lower)) in CABLES.iter().enumerate() {
        let [up, down] = ends(number);
        let (own, other, whose) = if *upper == at {
            (up, down, *lower)
        } else if *lower == at {
            (down, up, *upper)
        } else {
            continue;
        };
        found.push((own.0, other.0, BOXES[whose].1));
        found.push((own.1, other.1, BOXES[whose].1));
    }
    found
}

fn slash32(at: usize) -> String {
    let host = at.checked_sub(HOSTS).map(|host| host + 1);
    let mut text = format!("[bgp]\nasn = {}\nrouter_id = \"10.255.0.{}\"\n", BOXES[at].1, at + 1);
    if host.is_none() {
        text.push_str("transit = true\n");
    }
    for (_, address, asn) in neighbours(at) {
        let family = if address.contains(':') { "ipv6" } else { "ipv4" };
        write!(
            text,
            "[[bgp.peer]]\naddress = \"{address}\"\nasn = {asn}\nfamilies = [\"{family}\"]\nhold_time = 9\n\
             keepalive = 3\nidentity = \"accept\"\n"
        )
        .expect("a String takes everything");
    }
    let block = |text: String| host.map(|_| format!("block = \"{text}\"\n")).unwrap_or_default();
    let number = host.unwrap_or(0);
    write!(
        text,
        "[[ipam.pool]]\ncidr = \"10.32.0.0/16\"\n{}[[ipam.pool]]\ncidr = \"fd00:32::/48\"\n{}",
        block(format!("10.32.{number}.0/24")),
        block(format!("fd00:32:0:{number}::/64"))
    )
    .expect("a String takes everything");
    if host.is_none() {
        text.push_str("[policy]\nenabled = false\n");
    }
    text
}

/// A switch that prefers announcements of addresses that have just moved: `docs/cni.md`.
fn bird(at: usize) -> String {
    let mut text = format!(
        "log stderr all;\nrouter id 10.255.0.{};\nprotocol device {{ }}\n\
         protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; merge paths on; }}\n\
         protocol kernel {{ ipv6 {{ import none; export where source = RTS_BGP; }}; merge paths on; }}\n\
         filter containers {{\n\
         if net.type = NET_IP4 then {{ if net !~ [ 10.32.0.0/16{{24,32}} ] then reject; }}\n\
         else {{ if net !~ [ fd00:32::/48{{64,128}} ] then reject; }}\n\
         if bgp_origin = ORIGIN_EGP then bgp_local_pref = 200;\n\
         if bgp_origin = ORIGIN_IGP then bgp_local_pref = 300;\n\
         accept;\n}}\n",
        at + 1
    );
    for (number, (own, address, asn)) in neighbours(at).into_iter().enumerate() {
        let family = if address.contains(':') { "ipv6" } else { "ipv4" };
        writeln!(
            text,
            "protocol bgp n{number} {{ local {own} as {}; neighbor {address} as {asn}; hold time 9; keepalive time 3; \
             connect delay time 1; {family} {{ import filter containers; export where source = RTS_BGP; }}; }}",
            BOXES[at].1
        )
        .expect("a String takes everything");
    }
    text
}
