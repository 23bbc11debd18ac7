//! Identities over BGP: a new label takes effect on other hosts, and what is forged, stray or stale is not believed.

use anyhow::{Context, Result, ensure};
use interop_tests::{
    Agent, Lab, Machine, PATIENCE, Rack, Router, Switch, check, eventually, forgotten, labelled, reach,
    unreachable,
};
use serde_json::Value;

const DB: &str = "[[policy]]\nname = 'db'\nselect = 'role == \"db\"'\n\
    ingress = [ { action = 'allow', from = { selector = 'role == \"web\"' } } ]\n";

#[test]
fn new_labels_pass_bird() {
    new_labels("labels-bird", Switch::Bird);
}

#[test]
fn new_labels_pass_frr() {
    new_labels("labels-frr", Switch::Frr);
}

#[test]
fn new_labels_pass_gobgp() {
    new_labels("labels-gobgp", Switch::Gobgp);
}

/// The switch has its default configuration, and hashes are all that travels.
fn new_labels(name: &str, switch: Switch) {
    Lab::run(name, |lab| {
        let rack = Rack::new(lab, switch)?;
        let (_switch, [host1, host2]) = rack.start()?;
        let db = rack.hosts[0].container("db", &labelled("role", "db")?)?;
        let web = rack.hosts[1].container("web", &labelled("role", "web")?)?;
        let job = rack.hosts[1].container("job", &labelled("role", "job")?)?;
        let _echo = db.echo()?;
        host1.write_policy("db.toml", DB)?;
        unreachable(&job, &db)?;
        reach(&web, &db)?;
        let addresses = [db.ipv4()?, db.ipv6()?];
        let flows = addresses.iter().map(|to| web.flow(to, 7)).collect::<Result<Vec<_>>>()?;

        // Two trade places: the one's connections are cut, the other may open some.
        host2.cli("endpoints label web role=job").run()?;
        unreachable(&web, &db)?;
        host2.cli("endpoints label job role=web").run()?;
        reach(&job, &db)?;
        for to in &addresses {
            job.connect(to, 7)?;
            ensure!(web.connect(to, 7).is_err(), "web still connects to {to}");
        }
        for flow in flows {
            let report = flow.stop()?;
            ensure!(report.error.is_some(), "a connection outlived its permission: {report:?}");
        }

        // Without the label at all, and with it among others.
        host2.cli("endpoints label job role-").run()?;
        unreachable(&job, &db)?;
        host2.cli("endpoints label web role=web env=prod").run()?;
        reach(&web, &db)
    });
}

/// The labels `role=web` and `role`, as README.md publishes them.
const ROLE_WEB: &str = "bgp_large_community.add((4200000000, 2887707938, 2663773584)); \
    bgp_large_community.add((4200000000, 1259769224, 3699845751));";

/// A host with two neighbours, of which it believes one.
struct Forged {
    host: Machine,
    trusted: Machine,
    stranger: Machine,
}

/// The third part of the neighbours' addresses.
const TRUSTED: u8 = 1;
const STRANGER: u8 = 2;

impl Forged {
    fn new(lab: &Lab) -> Result<Self> {
        let this = Self {
            host: lab.machine("host")?,
            trusted: lab.forwarder("trusted")?,
            stranger: lab.forwarder("stranger")?,
        };
        for (number, neighbour) in [(TRUSTED, &this.trusted), (STRANGER, &this.stranger)] {
            let address =
                |end: u8| [format!("192.0.2.{number}{end}/24"), format!("2001:db8:{number}::{end}/64")];
            let ([a4, a6], [b4, b6]) = (address(1), address(2));
            let (a4, b4) = (a4.replace("/24", "/31"), b4.replace("2/24", "0/31"));
            lab.link(
                this.host.port(&format!("eth{number}")).address(&a4).address(&a6),
                neighbour.port("eth0").address(&b4).address(&b6),
            )?;
        }
        Ok(this)
    }

    fn agent(&self) -> Result<Agent> {
        Agent::start(&self.host, &Self::config("identity = 'accept'"))
    }

    fn config(trusted: &str) -> String {
        let peer = |number: u8, identity: &str| {
            format!(
                "[[bgp.peer]]\naddress = '192.0.2.{number}0'\nasn = 6500{number}\nfamilies = ['ipv4']\n{identity}\n\
                 [[bgp.peer]]\naddress = '2001:db8:{number}::2'\nasn = 6500{number}\nfamilies = ['ipv6']\n{identity}\n"
            )
        };
        format!(
            "[agent]\nmetrics_listen = '127.0.0.1:9179'\n[bgp]\nasn = 65100\n{}{}\
             [[ipam.pool]]\ncidr = '10.32.0.0/16'\nblock = '10.32.1.0/24'\n\
             [[ipam.pool]]\ncidr = 'fd00:32::/48'\nblock = 'fd00:32:0:1::/64'\n",
            peer(TRUSTED, trusted),
            // An eBGP neighbour is not believed unless the configuration says so.
            peer(STRANGER, ""),
        )
    }
}

/// BIRD that announces `routes`, (protocol, last part of the addresses, outside of the pools, with labels), and has the
/// addresses itself, to send from.
fn announcing(machine: &Machine, number: u8, routes: &[(&str, u32, bool, bool)]) -> Result<Router> {
    let mut config = format!(
        "log stderr all;\nrouter id 192.0.2.{number}0;\nprotocol device {{ }}\n\
         protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; }}\n\
         protocol kernel {{ ipv6 {{ import none; export where source = RTS_BGP; }}; }}\n\
         protocol bgp host4 {{ local as 6500{number}; neighbor 192.0.2.{number}1 as 65100; \
         ipv4 {{ import all; export where source = RTS_STATIC; next hop self; }}; }}\n\
         protocol bgp host6 {{ local 2001:db8:{number}::2 as 6500{number}; neighbor 2001:db8:{number}::1 as 65100; \
         ipv6 {{ import all; export where source = RTS_STATIC; next hop self; }}; }}\n"
    );
    for (protocol, part, outside, labels) in routes {
        for (address, family) in addresses(*part, *outside).iter().zip([4, 6]) {
            let labels = if *labels { ROLE_WEB } else { "" };
            // What has labels goes before what has none.
            let preference = if labels.is_empty() { 100 } else { 200 };
            let length = if family == 4 { 32 } else { 128 };
            config.extend([format!(
                "protocol static {protocol}_{family} {{ ipv{family} {{ preference {preference}; \
                 import filter {{ {labels} accept; }}; }}; route {address}/{length} blackhole; }}\n"
            )]);
            if !machine.run("ip address show dev lo")?.contains(address.as_str()) {
                machine.run(&format!("ip address add {address}/{length} dev lo"))?;
            }
        }
    }
    Router::bird(machine, &config)
}

fn addresses(part: u32, outside: bool) -> [String; 2] {
    if outside {
        [format!("203.0.113.{part}"), format!("2001:db8:f::{part}")]
    } else {
        [format!("10.32.77.{part}"), format!("fd00:32:0:77::{part}")]
    }
}

fn asks(machine: &Machine, from: &str, to: &str) -> Result<()> {
    let output = machine.command("ping").args(["-n", "-c", "1", "-W", "1", "-I", from, to]).output()?;
    check(output.exit.success(), format!("no answer from {to} to {from}: {}", output.stdout))
}

fn metric(host: &Machine, peer: &str) -> Result<f64> {
    let fetch = "exec 3<>/dev/tcp/127.0.0.1/9179; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";
    let text = host.command("bash").args(["-c", fetch]).run()?;
    let name = "slash32_bgp_peer_identities_stripped_total{";
    let line = text.lines().find(|l| l.starts_with(name) && l.contains(&format!("\"{peer}\"")));
    let value = line.and_then(|l| l.rsplit(' ').next()).with_context(|| format!("{peer}:\n{text}"))?;
    Ok(value.parse()?)
}

#[test]
fn forged_stray_and_stale_identities_are_not_believed() {
    Lab::run("identity-forged", |lab| {
        let lab = Forged::new(lab)?;
        let _trusted = announcing(
            &lab.trusted,
            TRUSTED,
            &[
                ("bare", 1, false, false),
                ("web", 1, false, true),
                ("stray", 7, true, true),
                ("none", 2, false, false),
            ],
        )?;
        let _stranger =
            announcing(&lab.stranger, STRANGER, &[("forged", 3, false, true), ("stray", 8, true, true)])?;
        let agent = lab.agent()?;
        agent.wait_established(4)?;
        let db = lab.host.container("db", &labelled("role", "db")?)?;
        let to = [db.ipv4()?, db.ipv6()?];
        let everybody = [
            (&lab.trusted, 1, false),
            (&lab.trusted, 2, false),
            (&lab.trusted, 7, true),
            (&lab.stranger, 3, false),
            (&lab.stranger, 8, true),
        ];
        // Without a policy all of them reach the container: the routes are there.
        for (machine, part, outside) in everybody {
            for (from, to) in addresses(part, outside).iter().zip(&to) {
                eventually(&format!("{from} reaches db"), PATIENCE, || asks(machine, from, to))?;
            }
        }

        agent.write_policy("db.toml", DB)?;
        for (machine, part, outside) in everybody {
            for (from, to) in addresses(part, outside).iter().zip(&to) {
                // Only what a believed neighbour says about an address of a pool counts.
                let believed = part == 1;
                eventually(&format!("{from} and db, {believed}"), PATIENCE, || {
                    check(asks(machine, from, to).is_ok() == believed, "not as the policy says")
                })?;
                let explained: Value = serde_json::from_str(
                    &agent.cli(&format!("--json policy explain {from} {to} tcp/5432")).run()?,
                )?;
                ensure!(explained["allowed"] == believed, "{explained}");
            }
        }
        // Two communities each: of one stray route of the believed neighbour, of both routes of the other.
        for (peer, least) in
            [("192.0.2.10", 2.0), ("2001:db8:1::2", 2.0), ("192.0.2.20", 4.0), ("2001:db8:2::2", 4.0)]
        {
            let counted = metric(&lab.host, peer)?;
            ensure!(counted >= least, "{peer}: {counted} identity communities stripped");
        }

        // The same route without the labels, in place of the one with them: what was believed is stale.
        let [four, six] = addresses(1, false);
        let each = [(&four, &to[0]), (&six, &to[1])];
        let becomes = |what: &str, reaches: bool| -> Result<()> {
            for (from, to) in each {
                eventually(&format!("{from} {what}"), PATIENCE, || {
                    check(asks(&lab.trusted, from, to).is_ok() == reaches, "not yet")
                })?;
            }
            Ok(())
        };
        for family in [4, 6] {
            lab.trusted.run(&format!("birdc disable web_{family}"))?;
        }
        becomes("has lost its labels", false)?;
        for family in [4, 6] {
            lab.trusted.run(&format!("birdc enable web_{family}"))?;
        }
        becomes("has its labels again", true)?;

        // The session goes, and the identity stays.
        let known = |what: &str, kept: bool, allowed: bool| -> Result<()> {
            for (from, to) in each {
                eventually(&format!("{from} {what}"), PATIENCE, || {
                    let line = format!("--json policy explain {from} {to} tcp/5432");
                    let explained: Value = serde_json::from_str(&agent.cli(&line).run()?)?;
                    let age = explained["source"]["kept_seconds"].as_u64();
                    check(explained["allowed"] == allowed && age.is_some() == kept, explained.to_string())
                })?;
            }
            Ok(())
        };
        known("is told", false, true)?;
        for family in [4, 6] {
            lab.trusted.run(&format!("birdc disable host{family}"))?;
        }
        known("is what it was", true, true)?;
        // Until the operator takes the trust away.
        let distrust =
            |on: bool| Forged::config(if on { "identity = 'ignore'" } else { "identity = 'accept'" });
        agent.reconfigure(&distrust(true))?;
        known("is nobody", false, false)?;
        agent.reconfigure(&distrust(false))?;
        for family in [4, 6] {
            lab.trusted.run(&format!("birdc enable host{family}"))?;
        }
        known("is told again", false, true)
    });
}

const ALLOW: &str = "[[policy]]\nname = 'allow'\nselect = 'app == \"allow\"'\n\
    ingress = [ { action = 'allow', from = { selector = 'role == \"web\"' } } ]\n";
const DENY: &str = "[[policy]]\nname = 'deny'\nselect = 'app == \"deny\"'\n\
    ingress = [ { action = 'deny', from = { selector = 'role == \"job\"' } }, { action = 'allow' } ]\n";

/// The switch's BGP dies and its forwarding does not, as hosts have a default route: rules by selector go on as before.
#[test]
fn rules_by_selector_outlive_the_session() {
    Lab::run("identity-lost", |lab| {
        let rack = Rack::new(lab, Switch::Bird)?;
        let (switch, [mut host1, host2]) = rack.start()?;
        for (host, number, via) in [(&rack.hosts[0], 1, "192.0.2.0"), (&rack.hosts[1], 2, "192.0.2.2")] {
            host.run(&format!("ip route add default via {via}"))?;
            host.run(&format!("ip route add default via 2001:db8:0:{number}::1"))?;
        }
        let allow = rack.hosts[0].container("allow", &labelled("app", "allow")?)?;
        let deny = rack.hosts[0].container("deny", &labelled("app", "deny")?)?;
        let [web, job] = ["web", "job"].map(|role| rack.hosts[1].container(role, &labelled("role", role)?));
        let (web, job) = (web?, job?);
        let late = rack.hosts[1].container("late", &labelled("role", "web")?)?;
        host1.write_policy("allow.toml", ALLOW)?;
        host1.write_policy("deny.toml", DENY)?;
        // At once: nothing is to open or to close for a moment.
        let as_before = || -> Result<()> {
            for (from, to, passes) in
                [(&web, &allow, true), (&job, &allow, false), (&job, &deny, false), (&web, &deny, true)]
            {
                for address in [to.ipv4()?, to.ipv6()?] {
                    let answer = if passes { from.ping(&address) } else { from.no_ping(&address) };
                    answer.with_context(|| format!("{} to {address}", from.name()))?;
                }
            }
            Ok(())
        };
        let kept = |agent: &Agent| -> Result<Option<u64>> {
            Ok(agent.status()?["identities_kept"]["count"].as_u64())
        };
        let doctor = |agent: &Agent| agent.cli("--json doctor").output().map(|output| output.stdout);
        reach(&late, &allow)?;
        eventually("the policies are in force", PATIENCE, as_before)?;
        ensure!(kept(&host1)? == Some(0));

        let router = switch.router().context("BIRD is the switch")?;
        for process in router.processes() {
            process.kill()?;
        }
        let gone = [web.ipv4()?, web.ipv6()?, job.ipv4()?, job.ipv6()?, late.ipv4()?, late.ipv6()?];
        forgotten(&host1, &gone.each_ref().map(String::as_str))?;
        as_before()?;
        ensure!(kept(&host1)? == Some(6), "{:?}", kept(&host1)?);
        let explain = format!("policy explain {} {} tcp/80", job.ipv4()?, deny.ipv4()?);
        let explained = host1.cli(&explain).run()?;
        ensure!(explained.starts_with("DENIED") && explained.contains("identity kept since"), "{explained}");
        let text = host1.cli("status").output()?.stdout;
        ensure!(text.contains("6 kept of lost sessions"), "{text}");
        ensure!(doctor(&host1)?.contains("6 are kept though no neighbour tells them"));

        // The agent restarts meanwhile, and waits for those who told its predecessor.
        std::thread::sleep(std::time::Duration::from_secs(2));
        host1.kill()?;
        as_before()?;
        host1.start_again()?;
        as_before()?;
        ensure!(kept(&host1)? == Some(6), "{:?}", kept(&host1)?);

        // One goes meanwhile, and nobody can say so before BGP is back.
        late.remove()?;
        let _switch = rack.start_switch()?;
        for host in [&host1, &host2] {
            host.wait_established(2)?;
        }
        eventually("only what went is forgotten", PATIENCE, || {
            let count = kept(&host1)?;
            check(count == Some(0), format!("{count:?}"))
        })?;
        for (address, to) in [(&gone[4], allow.ipv4()?), (&gone[5], allow.ipv6()?)] {
            let line = format!("--json policy explain {address} {to} tcp/80");
            let explained: Value = serde_json::from_str(&host1.cli(&line).run()?)?;
            ensure!(explained["allowed"] == false && explained["source"]["kind"] == "unknown", "{explained}");
        }
        eventually("as before", PATIENCE, as_before)
    });
}

/// Neither on the host, nor on the switch, nor on another host does a container reach what routing is done with.
#[test]
fn containers_reach_no_routing_protocol_anywhere() {
    Lab::run("identity-guard", |lab| {
        let rack = Rack::new(lab, Switch::Bird)?;
        let switch = rack.start_switch()?;
        let hosts =
            rack.start_hosts_with(|_, config| format!("[agent]\nmetrics_listen = '[::]:9179'\n{config}"))?;
        for host in &hosts {
            host.wait_established(2)?;
        }
        // The links between switch and hosts are not announced.
        for (host, four, six) in [
            (&rack.hosts[0], "192.0.2.0", "2001:db8:0:1::1"),
            (&rack.hosts[1], "192.0.2.2", "2001:db8:0:2::1"),
        ] {
            host.run(&format!("ip route add default via {four}"))?;
            host.run(&format!("ip route add default via {six}"))?;
        }
        let router = switch.router().context("BIRD is the switch")?;
        let web = rack.hosts[0].container("web", &labelled("role", "web")?)?;
        router.wait_prefix(&format!("{}/32", web.ipv4()?))?;
        router.wait_prefix(&format!("{}/128", web.ipv6()?))?;
        // The addresses of its own host, of the other one, and of the switch towards each.
        let places = [
            ("192.0.2.1", true),
            ("2001:db8:0:1::2", true),
            ("192.0.2.3", true),
            ("2001:db8:0:2::2", true),
            ("192.0.2.0", false),
            ("2001:db8:0:1::1", false),
        ];
        for (address, is_host) in places {
            eventually(&format!("web reaches {address}"), PATIENCE, || web.ping(address))?;
            let ports: &[u16] = if is_host { &[179, 9179] } else { &[179] };
            for port in ports {
                ensure!(web.connect(address, *port).is_err(), "web reaches {address} port {port}");
            }
        }
        // BFD, by packets that nobody need answer. What is open comes later by the same way: DNS at a host, anything at the
        // switch and beyond.
        let mut mouth = web.raw(17)?;
        let mut ears = [rack.hosts[0].raw(17)?, rack.hosts[1].raw(17)?, rack.tor.raw(17)?];
        let mut number = 0u8;
        for (index, (address, _)) in places.iter().enumerate() {
            let ears = &mut ears[index / 2];
            for port in [3784u16, 3785, 4784] {
                number += 1;
                let packet = |port: u16, mark: &[u8]| {
                    let head = [4000 + u16::from(number), port, 12, 0].map(u16::to_be_bytes).concat();
                    [&head[..], mark].concat()
                };
                let (bfd, open) = ([0xbf, 0xd0, 0x5e, number], [0x0d, 0x05, 0x5e, number]);
                mouth.send(address, &packet(port, &bfd))?;
                mouth.send(address, &packet(53, &open))?;
                ensure!(ears.hears(&open, 10_000)?, "web does not reach {address} udp/53");
                ensure!(!ears.hears(&bfd, 0)?, "web reaches {address} udp/{port}");
            }
        }
        // By the gateway's link-local address, which only its own containers see.
        let route = web.run("ip -6 route show default")?;
        let gateway = route.split_whitespace().nth(2).context("a gateway")?;
        for port in [179, 9179] {
            let connect = format!("exec 3<>/dev/tcp/{gateway}%eth0/{port}");
            let outcome = web.command("timeout").args(["2", "bash", "-c", &connect]).output()?;
            ensure!(!outcome.exit.success(), "web reaches {gateway} port {port}");
        }
        // The hosts themselves do: somebody listens there.
        for address in ["192.0.2.3", "2001:db8:0:2::2"] {
            let scrape = format!(
                "exec 3<>/dev/tcp/{address}/9179; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
            );
            let text = rack.hosts[0].command("bash").args(["-c", scrape.as_str()]).run()?;
            ensure!(text.contains("slash32_"), "{text}");
        }
        Ok(())
    });
}
