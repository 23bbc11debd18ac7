//! What was shown on one host only: tiers that decide early, and translation, with packets between two hosts. Each in IPv4
//! and IPv6.

use anyhow::{Result, ensure};
use interop_tests::{Container, Lab, PATIENCE, Rack, Switch, check, eventually, labelled, reach};

use super::{UDP, udp};

const TIERS: &str = r#"
[[tier]]
name = "early"
order = 10
default = "deny"

[[policy]]
name = "final"
tier = "early"
select = 'role == "srv"'
ingress = [
  { action = "allow", protocol = "tcp", ports = 7 },
  { action = "pass", protocol = "tcp", ports = [8, 10] },
]

[[policy]]
name = "late"
select = 'role == "srv"'
ingress = [
  { action = "deny", protocol = "tcp", ports = 7 },
  { action = "allow", protocol = "tcp", ports = [8, 9] },
]

[[policy]]
name = "out"
tier = "early"
select = 'role == "job"'
egress = [
  { action = "allow", to = { selector = 'role == "srv"' }, protocol = "tcp", ports = 7 },
]
"#;

#[test]
fn an_early_tier_has_the_last_word_across_hosts() {
    Lab::run("policy-tiers", |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let (_switch, hosts) = rack.start()?;
        let srv = rack.hosts[0].container("srv", &labelled("role", "srv")?)?;
        let web = rack.hosts[1].container("web", &labelled("role", "web")?)?;
        let job = rack.hosts[1].container("job", &labelled("role", "job")?)?;
        reach(&web, &srv)?;
        reach(&job, &srv)?;
        let mut echoes = Vec::new();
        for port in [7, 8, 9, 10] {
            echoes.push(srv.echo_on(port)?);
        }
        let connects = |from: &Container, port: u16, wanted: bool| -> Result<()> {
            for address in [srv.ipv4()?, srv.ipv6()?] {
                let what = format!("{} to {address} tcp/{port}: {wanted}", from.name());
                eventually(&what, PATIENCE, || {
                    check(from.connect(&address, port).is_ok() == wanted, "it is not so")
                })?;
            }
            Ok(())
        };
        for port in [7, 8, 9, 10] {
            connects(&web, port, true)?;
            connects(&job, port, true)?;
        }
        hosts.iter().try_for_each(|host| host.write_policy("tiers.toml", TIERS))?;
        // An allow of the early tier is final; what passes is the later one's; what no rule of the early tier decides is
        // denied, whatever the later one would say; and what passes and nobody allows is denied too.
        for (port, wanted) in [(9, false), (10, false), (7, true), (8, true)] {
            connects(&web, port, wanted)?;
        }
        // At the other end as well, by the other host.
        for (port, wanted) in [(8, false), (7, true)] {
            connects(&job, port, wanted)?;
        }
        Ok(())
    });
}

/// What leaves the pools has the host's address, and what stays in them has the container's.
#[test]
fn what_leaves_the_pools_is_translated() {
    Lab::run("policy-translated", |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let _switch = rack.start_switch()?;
        let hosts = rack.start_hosts_with(|host, config| match host {
            1 => config.replace("[[ipam.pool]]", "[[ipam.pool]]\nnat_outgoing = true"),
            _ => config,
        })?;
        hosts.iter().try_for_each(|host| host.wait_established(2))?;
        let here = rack.hosts[0].container("here", &labelled("role", "here")?)?;
        let far = rack.hosts[1].container("far", &labelled("role", "far")?)?;
        reach(&here, &far)?;
        reach(&far, &here)?;
        let capture = rack.tor.capture("port1", "udp")?;
        let (mut mouth, mut back) = (here.raw(UDP)?, far.raw(UDP)?);
        let outside = [("192.0.2.0", "192.0.2.1"), ("2001:db8:0:1::1", "2001:db8:0:1::2")];
        let inside = [(far.ipv4()?, here.ipv4()?), (far.ipv6()?, here.ipv6()?)];
        let inside = inside.each_ref().map(|(to, from)| (to.as_str(), from.as_str()));
        for (number, (to, wanted)) in (1..).zip([outside, inside].concat()) {
            let mark = [0x5a, 0, 0, number];
            eventually(&format!("{to} hears {wanted}"), PATIENCE, || {
                mouth.send(to, &udp(4000 + u16::from(number), 7777, mark))?;
                let heard: Vec<String> = capture
                    .packets()?
                    .into_iter()
                    .filter(|p| p.data.starts_with(&mark))
                    .map(|p| p.from.to_string())
                    .collect();
                check(!heard.is_empty(), "nothing is heard")?;
                ensure!(heard.iter().all(|from| from == wanted), "{heard:?}");
                Ok(())
            })?;
        }
        // Host 2 was not told to.
        let mark = [0x5a, 0, 0, 99];
        let mut ears = rack.tor.raw(UDP)?;
        back.send("192.0.2.2", &udp(4000, 7777, mark))?;
        ensure!(ears.hears(&mark, 10_000)?, "the switch hears nothing of far");
        capture.stop()
    });
}
