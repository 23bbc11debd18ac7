//! A neighbour that lies: what it may not take over, and how much it may send. It is an injector, as routers refuse to
//! say half of this; beside it is an honest BIRD.

use std::fmt::Write;

use anyhow::{Context, Result, bail, ensure};
use interop_tests::{
    Agent, Container, Heard, Injector, Lab, Machine, PATIENCE, Router, check, eventually, labelled,
};
use serde_json::Value;

/// Sessions and links: the liar is on `eth0`, BIRD on `eth1`.
const AGENT: &str = "[bgp]\nasn = 65001\nrouter_id = '192.0.2.1'\n\
    [[bgp.peer]]\naddress = '192.0.2.0'\nasn = 65100\npassive = true\nidle_hold = 0\nadd_path = 'receive'\n\
    graceful_restart = false\nmax_prefixes = 100\nmax_prefixes_restart = 1\n\
    [[bgp.peer]]\naddress = '192.0.2.2'\nasn = 65000\nfamilies = ['ipv4']\n\
    [[bgp.peer]]\naddress = '2001:db8:2::1'\nasn = 65000\nfamilies = ['ipv6']\n\
    [ipam]\nneighbours_wait_seconds = 0\n\
    [[ipam.pool]]\ncidr = '10.32.0.0/16'\nblock = '10.32.1.0/24'\n\
    [[ipam.pool]]\ncidr = 'fd00:32::/48'\nblock = 'fd00:32:0:1::/64'\n\
    [routes]\nmax_routes = 200\n";

/// The honest one's services, which it announces beside a default route.
const SERVICES: [&str; 2] = ["198.51.100.1", "2001:db8:a::1"];

const OPEN: u8 = 1;
const UPDATE: u8 = 2;
const NOTIFICATION: u8 = 3;
const KEEPALIVE: u8 = 4;

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = ((body.len() + 19) as u16).to_be_bytes();
    [&[0xff; 16][..], &length, &[kind], body].concat()
}

/// AS 65100, hold time 0, both families, add-path sent for IPv4.
fn open() -> Vec<u8> {
    let capabilities =
        [&[1, 4, 0, 1, 0, 1][..], &[1, 4, 0, 2, 0, 1], &[65, 4, 0, 0, 0xfe, 0x4c], &[69, 4, 0, 1, 1, 2]]
            .concat();
    let length = capabilities.len() as u8;
    let head = [4, 0xfe, 0x4c, 0, 0, 192, 0, 2, 0, length + 2, 2, length];
    message(OPEN, &[&head[..], &capabilities].concat())
}

/// One prefix as it travels.
fn nlri(prefix: &str) -> Vec<u8> {
    let (address, length) = prefix.split_once('/').expect("the tests write prefixes");
    let length: usize = length.parse().expect("the tests write prefixes");
    let octets = match address.parse().expect("the tests write prefixes") {
        std::net::IpAddr::V4(a) => a.octets().to_vec(),
        std::net::IpAddr::V6(a) => a.octets().to_vec(),
    };
    [&[length as u8][..], &octets[..length.div_ceil(8)]].concat()
}

/// An UPDATE with ORIGIN IGP, AS_PATH 65100 and these attributes and routes.
fn update(attributes: &[u8], routes: &[u8]) -> Vec<u8> {
    let common = [0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xfe, 0x4c];
    let length = ((common.len() + attributes.len()) as u16).to_be_bytes();
    message(UPDATE, &[&[0, 0][..], &length, &common, attributes, routes].concat())
}

/// IPv4 routes by a next hop, with path identifier 1.
fn ipv4<S: AsRef<str>>(next_hop: [u8; 4], prefixes: &[S]) -> Vec<u8> {
    let routes: Vec<u8> =
        prefixes.iter().flat_map(|p| [&[0, 0, 0, 1][..], &nlri(p.as_ref())].concat()).collect();
    update(&[&[0x40, 3, 4][..], &next_hop].concat(), &routes)
}

/// IPv6 routes in MP_REACH_NLRI.
fn ipv6(next_hop: &str, prefixes: &[&str]) -> Vec<u8> {
    let next_hop: std::net::Ipv6Addr = next_hop.parse().expect("the tests write addresses");
    let routes: Vec<u8> = prefixes.iter().flat_map(|p| nlri(p)).collect();
    let value = [&[0, 2, 1, 16][..], &next_hop.octets(), &[0], &routes].concat();
    let length = (value.len() as u16).to_be_bytes();
    update(&[&[0x90, 14][..], &length, &value].concat(), &[])
}

struct Site {
    host: Machine,
    honest: Machine,
    agent: Agent,
    liar: Injector,
    container: Container,
    _bird: Router,
}

impl Site {
    fn start(lab: &Lab) -> Result<Self> {
        let host = lab.machine("host")?;
        let (liar, honest) = (lab.forwarder("liar")?, lab.forwarder("honest")?);
        lab.link(
            liar.port("eth0").address("192.0.2.0/31").address("2001:db8:1::1/64"),
            host.port("eth0").address("192.0.2.1/31").address("2001:db8:1::2/64"),
        )?;
        lab.link(
            honest.port("eth0").address("192.0.2.2/31").address("2001:db8:2::1/64"),
            host.port("eth1").address("192.0.2.3/31").address("2001:db8:2::2/64"),
        )?;
        let mut config = "log stderr all;\nrouter id 192.0.2.2;\nprotocol device { }\n".to_owned();
        let ends =
            [(4, "192.0.2.2", "192.0.2.3", "0.0.0.0/0"), (6, "2001:db8:2::1", "2001:db8:2::2", "::/0")];
        for ((family, ours, theirs, default), service) in ends.into_iter().zip(SERVICES) {
            let bits = if family == 4 { 32 } else { 128 };
            honest.run(&format!("ip address add {service}/{bits} dev lo"))?;
            writeln!(
                config,
                "protocol static {{ ipv{family}; route {service}/{bits} blackhole; route {default} blackhole; }}\n\
                 protocol kernel {{ ipv{family} {{ import none; export where source = RTS_BGP; }}; }}\n\
                 protocol bgp host{family} {{ local {ours} as 65000; neighbor {theirs} as 65001; \
                 ipv{family} {{ import all; export where source = RTS_STATIC; next hop self; }}; }}"
            )?;
        }
        let bird = Router::bird(&honest, &config)?;
        let agent = Agent::start(&host, AGENT)?;
        let container = host.container("web", &labelled("role", "web")?)?;
        let liar = liar.injector()?;
        let mut site = Self { host, honest, agent, liar, container, _bird: bird };
        site.establish()?;
        site.agent.wait_established(3)?;
        site.serves()?;
        Ok(site)
    }

    fn establish(&mut self) -> Result<()> {
        eventually("a session with the liar", PATIENCE, || {
            self.liar.connect("192.0.2.1")?;
            self.liar.send(&[open(), message(KEEPALIVE, &[])].concat())?;
            loop {
                match self.liar.receive(2_000)? {
                    Heard::Message(KEEPALIVE, _) => return Ok(()),
                    Heard::Message(OPEN, _) => {}
                    other => bail!("instead of a KEEPALIVE: {other:?}"),
                }
            }
        })
    }

    /// The container reaches the honest one's services, and they it.
    fn serves(&self) -> Result<()> {
        SERVICES.iter().try_for_each(|service| {
            eventually(&format!("the container reaches {service}"), PATIENCE, || self.container.ping(service))
        })
    }

    /// The row of a prefix in `slash32 routes --json`.
    fn row(&self, prefix: &str) -> Result<Option<Value>> {
        let routes: Value = self.agent.cli("routes --json").json()?;
        let mut rows = routes.as_array().into_iter().flatten();
        Ok(rows.find(|row| row["prefix"] == prefix).cloned())
    }

    /// What the kernel has from us, prefixes only.
    fn kernel(&self) -> Result<Vec<String>> {
        let mut list = Vec::new();
        for (option, bits) in [("-4", "/32"), ("-6", "/128")] {
            let text = self.host.run(&format!("ip {option} route show proto 32"))?;
            // `ip` names the type first where it is not unicast, and leaves out the length of a single address.
            let lines = text.lines().filter(|line| !line.starts_with([' ', '\t']));
            let prefix =
                lines.filter_map(|line| line.split(' ').find(|w| w.contains(['.', ':']) || *w == "default"));
            list.extend(prefix.map(|p| match p {
                "default" if bits == "/32" => "0.0.0.0/0".to_owned(),
                "default" => "::/0".to_owned(),
                p if p.contains('/') => p.to_owned(),
                p => format!("{p}{bits}"),
            }));
        }
        Ok(list)
    }

    fn verify(&self) -> Result<()> {
        let verify = self.agent.cli("routes verify").output()?;
        ensure!(verify.exit.success(), "{}{}", verify.stdout, verify.stderr);
        Ok(())
    }
}

#[test]
fn a_liar_takes_over_nothing() {
    Lab::run("liar", |lab| {
        let mut site = Site::start(lab)?;
        let own = [site.container.ipv4()?, site.container.ipv6()?];
        let own = [format!("{}/32", own[0]), format!("{}/128", own[1])];
        let lies = [
            // Never routed (RFC 6890), the containers' gateway among them.
            ("martian", "127.0.0.0/8"),
            ("martian", "127.0.0.1/32"),
            ("martian", "0.0.0.0/8"),
            ("martian", "169.254.0.0/16"),
            ("martian", "169.254.1.1/32"),
            ("martian", "224.0.0.0/4"),
            ("martian", "239.1.2.3/32"),
            ("martian", "240.0.0.0/4"),
            ("martian", "255.255.255.255/32"),
            ("martian", "::1/128"),
            ("martian", "::ffff:0:0/96"),
            ("martian", "fe80::/10"),
            ("martian", "fe80::1/128"),
            ("martian", "ff00::/8"),
            ("martian", "ff02::1/128"),
            ("host_address", "192.0.2.1/32"),
            ("host_address", "192.0.2.3/32"),
            ("host_address", "2001:db8:1::2/128"),
            ("host_address", "2001:db8:2::2/128"),
            // Containers, and the blocks they come from.
            ("local_endpoint", &own[0]),
            ("local_endpoint", &own[1]),
            ("own_block", "10.32.1.0/24"),
            ("own_block", "10.32.1.0/25"),
            ("own_block", "10.32.1.128/25"),
            ("own_block", "fd00:32:0:1::/64"),
            ("own_block", "fd00:32:0:1:8000::/65"),
            // The ways to itself and to the other neighbour.
            ("covers_next_hop", "192.0.2.0/32"),
            ("covers_next_hop", "192.0.2.2/32"),
            ("covers_next_hop", "192.0.2.2/31"),
            ("covers_next_hop", "2001:db8:1::1/128"),
            ("covers_next_hop", "2001:db8:2::1/128"),
            ("covers_next_hop", "2001:db8:2::/64"),
        ];
        let truths = ["203.0.113.0/24", "10.32.0.0/16", "2001:db8:e::/48", "fd00:32::/48"];
        let of = |six: bool, list: &[&str]| -> Vec<String> {
            list.iter().filter(|p| p.contains(':') == six).map(|p| (*p).to_owned()).collect()
        };
        let lying: Vec<&str> = lies.iter().map(|(_, prefix)| *prefix).collect();
        let all: Vec<&str> = lying.iter().chain(&truths).copied().collect();
        site.liar.send(&ipv4([192, 0, 2, 0], &of(false, &all)))?;
        let six = of(true, &all);
        site.liar.send(&ipv6("2001:db8:1::1", &six.iter().map(String::as_str).collect::<Vec<_>>()))?;
        eventually("what is true is in the kernel", PATIENCE, || {
            let kernel = site.kernel()?;
            check(truths.iter().all(|p| kernel.iter().any(|k| k == p)), format!("{kernel:?}"))
        })?;
        for (reason, prefix) in lies {
            match site.row(prefix)? {
                // A container's own route and the host's own blocks have rows of their own.
                Some(row) if matches!(row["kind"].as_str(), Some("local" | "blackhole")) => {}
                Some(row) => {
                    ensure!(row["reason"] == reason && row["installed"] == false, "{prefix}: {row}");
                }
                // Most of these the RIB does not even take.
                None => ensure!(reason == "martian", "{prefix} has no row"),
            }
            let way = site.host.run(&format!("ip route show {prefix} proto 32"))?;
            ensure!(!way.contains("via"), "{prefix} is in the kernel: {way}");
        }
        // Nobody noticed: packets, the other sessions, the containers' gateways.
        site.serves()?;
        site.host.run(&format!("ping -c 1 -W 5 {}", site.container.ipv4()?))?;
        site.host.run(&format!("ping -c 1 -W 5 {}", site.container.ipv6()?))?;
        site.agent.wait_established(3)?;
        site.verify()?;
        let told: Value = site.agent.cli("peers 192.0.2.0 --json").json()?;
        for reason in ["martian", "host_address", "covers_next_hop"] {
            let count =
                [&told["rejected"][reason], &told["not_installed"][reason]].map(|n| n.as_u64().unwrap_or(0));
            let lied = lies.iter().filter(|(why, _)| *why == reason).count() as u64;
            ensure!(count[0] + count[1] == lied, "{reason}, {lied}: {told}");
        }
        Ok(())
    });
}

#[test]
fn too_many_routes_are_too_many() {
    Lab::run("too-many", |lab| {
        let mut site = Site::start(lab)?;
        let many = |from: u32, to: u32| -> Vec<String> {
            (from..to).map(|n| format!("20.0.{}.{}/32", n >> 8, n & 255)).collect()
        };
        let in_kernel = |site: &Site| -> Result<usize> {
            Ok(site.kernel()?.iter().filter(|p| p.starts_with("20.0.")).count())
        };
        site.liar.send(&ipv4([192, 0, 2, 0], &many(0, 100)))?;
        eventually("as many as may be", PATIENCE, || {
            check(in_kernel(&site)? == 100, site.kernel()?.join(" "))
        })?;
        // One more: Cease, Maximum Number of Prefixes Reached (RFC 4486), and none is left.
        site.liar.send(&ipv4([192, 0, 2, 0], &many(100, 101)))?;
        loop {
            match site.liar.receive(20_000)? {
                Heard::Message(NOTIFICATION, body) => {
                    ensure!(body.starts_with(&[6, 1]), "{body:?}");
                    break;
                }
                Heard::Message(..) => {}
                other => bail!("no NOTIFICATION but {other:?}"),
            }
        }
        eventually("none is left", PATIENCE, || check(in_kernel(&site)? == 0, site.kernel()?.join(" ")))?;
        site.serves()?;
        // It may come back after a while, and if it has less to say it stays.
        site.establish()?;
        site.liar.send(&ipv4([192, 0, 2, 0], &many(0, 3)))?;
        eventually("it is back", PATIENCE, || check(in_kernel(&site)? == 3, site.kernel()?.join(" ")))?;
        // The limit of all: what is over it stays out, is told, and comes in when there is room.
        site.agent.reconfigure(&AGENT.replace("max_prefixes = 100", "max_prefixes = 1000"))?;
        site.establish()?;
        site.liar.send(&ipv4([192, 0, 2, 0], &many(0, 300)))?;
        // The honest one's four count too.
        eventually("the limit holds", PATIENCE, || {
            let count = site.agent.status()?["routes_installed"].as_u64();
            check(count == Some(200), format!("{count:?}"))
        })?;
        ensure!(in_kernel(&site)? == 196, "{}", in_kernel(&site)?);
        let status = site.agent.cli("status").run()?;
        ensure!(status.contains("104 learned routes are over the limit ([routes] max_routes)"), "{status}");
        site.verify()?;
        site.serves()?;
        site.agent.reconfigure(&AGENT.replace("max_prefixes = 100", "max_prefixes = 500"))?;
        site.establish()?;
        site.liar.send(&ipv4([192, 0, 2, 0], &many(200, 250)))?;
        eventually("there is room for all", PATIENCE, || {
            check(in_kernel(&site)? == 50, site.kernel()?.join(" "))
        })?;
        site.serves()
    });
}

/// An unused address of the host's block, asked for from the network: the packet comes once and goes nowhere, although
/// both sides would send it to each other.
#[test]
fn a_packet_for_nobody_does_not_circle() {
    Lab::run("no-loop", |lab| {
        let site = Site::start(lab)?;
        let unused = ["10.32.1.222", "fd00:32:0:1::dddd"];
        site.honest.run("ip route add 10.32.1.0/24 via 192.0.2.3")?;
        site.honest.run("ip route add fd00:32:0:1::/64 via 2001:db8:2::2")?;
        let (host, honest) = (&site.host, &site.honest);
        // The default route is the honest one's: without the host's own blocks the packet would go back there.
        let way = host.run("ip route get 203.0.113.9")? + &host.run("ip route get 2001:db8:99::9")?;
        ensure!(way.contains("via 192.0.2.2 ") && way.contains("via 2001:db8:2::1 "), "{way}");
        for machine in [host, honest] {
            machine.run("nft add table inet loop")?;
            machine.run("nft add chain inet loop in { type filter hook prerouting priority -400 ; }")?;
            for (word, address) in ["ip", "ip6"].into_iter().zip(unused) {
                machine.run(&format!("nft add rule inet loop in {word} daddr {address} counter"))?;
            }
        }
        for address in unused {
            honest.command("ping").args(["-c", "3", "-i", "0.2", "-W", "1", address]).output()?;
        }
        let at_host = host.run("nft list table inet loop")?;
        ensure!(at_host.matches("counter packets 3 ").count() == 2, "each comes once: {at_host}");
        let back = honest.run("nft list table inet loop")?;
        ensure!(back.matches("counter packets 0 ").count() == 2, "none goes back: {back}");
        // Nor does one of a container.
        for address in unused {
            site.container.no_ping(address)?;
        }
        let back = honest.run("nft list table inet loop")?;
        ensure!(back.matches("counter packets 0 ").count() == 2, "none of a container goes out: {back}");
        site.serves()
    });
}

/// Sixty-four paths (RFC 7911) with link bandwidths become one group in the kernel, with their weights.
#[test]
fn sixty_four_paths_keep_their_weights() {
    Lab::run("sixty-four", |lab| {
        let mut site = Site::start(lab)?;
        site.host.run("ip address add 192.168.64.254/24 dev eth0")?;
        for n in 1..=64u8 {
            // Type 0x40 0x04: link bandwidth of AS 65100, bytes a second as a float.
            let bandwidth = (f32::from(n) * 1.0e6).to_be_bytes();
            let community = [&[0xc0, 16, 8, 0x40, 4, 0xfe, 0x4c][..], &bandwidth].concat();
            let attributes = [&[0x40, 3, 4, 192, 168, 64, n][..], &community].concat();
            let routes = [&[0, 0, 0, n][..], &nlri("203.0.113.64/32")].concat();
            site.liar.send(&update(&attributes, &routes))?;
        }
        let weights = || -> Result<Vec<(u8, u32)>> {
            let text = site.host.run("ip route show 203.0.113.64 proto 32")?;
            let mut list = Vec::new();
            for line in text.lines().filter(|line| line.contains("nexthop via 192.168.64.")) {
                let after = |word: &str| line.split(' ').skip_while(|w| *w != word).nth(1).context("a word");
                let hop = after("via")?.rsplit('.').next().context("an octet")?.parse()?;
                list.push((hop, after("weight")?.parse()?));
            }
            list.sort_unstable();
            Ok(list)
        };
        eventually("all are in the kernel, each with its weight", PATIENCE, || {
            let weights = weights()?;
            let most = weights.last().map_or(0, |(_, weight)| *weight);
            // The kernel takes 1 to 256, so that they are rounded.
            let share = |hop: u8| (u32::from(hop) * most + 32) / 64;
            let right = weights.iter().all(|(hop, weight)| weight.abs_diff(share(*hop)) <= 1);
            check(weights.len() == 64 && most > 64 && right, format!("{weights:?}"))
        })?;
        site.verify()
    });
}
