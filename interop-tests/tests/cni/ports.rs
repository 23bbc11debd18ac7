//! Port mappings under traffic: from everywhere they may be reached from, both families, TCP and UDP.

use anyhow::{Result, ensure};
use interop_tests::{
    Agent, Lab, Machine, Network, ONE_HOST, PATIENCE, Rack, Switch, check, eventually, labelled,
};
use serde_json::{Value, json};

use crate::kit::{refused, tidy};

const FOUR: &str = "192.0.2.1";
const SIX: &str = "2001:db8:0:1::2";

fn mapping(host: u16, container: u16, protocol: &str, ip: &str) -> Value {
    json!({"hostPort": host, "containerPort": container, "protocol": protocol, "hostIP": ip})
}

fn with_ports(mappings: &[Value]) -> Result<Network> {
    Ok(labelled("role", "web")?.capability("portMappings", json!(mappings)))
}

/// A TCP port answers, or does not, to a program somewhere.
fn tcp(from: &Machine, netns: Option<&str>, address: &str, port: u16) -> Result<()> {
    let command = from.command("lab-tool").args(["connect", address, &port.to_string()]);
    match netns {
        Some(name) => command.netns(name).run(),
        None => command.run(),
    }
    .map(drop)
}

/// Datagrams to a UDP echo come back.
fn udp(from: &Machine, netns: Option<&str>, address: &str, port: u16) -> Result<()> {
    let command = from.command("lab-tool").args(["probe", address, &port.to_string(), "100"]).stdin("");
    match netns {
        Some(name) => command.netns(name).run(),
        None => command.run(),
    }
    .map(drop)
}

#[test]
fn ports_are_reached_from_everywhere() {
    Lab::run("ports", |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let (_switch, [host1, _host2]) = rack.start()?;
        let host = &rack.hosts[0];
        // Who reaches the host from elsewhere is the administrator's to route.
        rack.hosts[1].run("ip route add 192.0.2.0/31 via 192.0.2.2")?;
        rack.hosts[1].run("ip -6 route add 2001:db8:0:1::/64 via 2001:db8:0:2::1")?;
        host.run("ip route add 192.0.2.2/31 via 192.0.2.0")?;
        host.run("ip -6 route add 2001:db8:0:2::/64 via 2001:db8:0:1::1")?;
        let web = host.container(
            "web",
            &with_ports(&[
                mapping(8080, 7, "tcp", ""),
                mapping(8080, 7, "udp", ""),
                mapping(9090, 7, "tcp", FOUR),
            ])?,
        )?;
        let _echo = web.echo()?;
        let near = host.container("near", &labelled("role", "near")?)?;
        let far = rack.hosts[1].container("far", &labelled("role", "far")?)?;
        let everywhere = [
            ("the switch", &rack.tor, None),
            ("the host", host, None),
            ("the container itself", host, Some(web.name())),
            ("a container of the same host", host, Some(near.name())),
            ("another host", &rack.hosts[1], None),
            ("a container of another host", &rack.hosts[1], Some(far.name())),
        ];
        for (who, machine, netns) in everywhere {
            for address in [FOUR, SIX] {
                eventually(&format!("TCP from {who} to {address}"), PATIENCE, || {
                    tcp(machine, netns, address, 8080)
                })?;
                eventually(&format!("UDP from {who} to {address}"), PATIENCE, || {
                    udp(machine, netns, address, 8080)
                })?;
            }
            eventually(&format!("9090 from {who}"), PATIENCE, || tcp(machine, netns, FOUR, 9090))?;
            // Only the address that was named.
            ensure!(tcp(machine, netns, SIX, 9090).is_err(), "{who} reaches 9090 by {SIX}");
        }
        // By both names of localhost; another port of ::1 is the host's, as ever.
        for address in ["127.0.0.1", "::1"] {
            eventually(&format!("TCP from {address}"), PATIENCE, || tcp(host, None, address, 8080))?;
            eventually(&format!("UDP from {address}"), PATIENCE, || udp(host, None, address, 8080))?;
        }
        let _own = host.command("lab-tool").args(["echo", "7070"]).spawn("echo-host")?;
        eventually("a port of the host's own", PATIENCE, || tcp(host, None, "::1", 7070))?;
        ensure!(tcp(host, None, "127.0.0.1", 9090).is_err(), "9090 is for {FOUR} only");

        // Another container takes over the port: nothing goes to the first one any more.
        web.remove()?;
        for address in [FOUR, SIX] {
            eventually("the port is closed", PATIENCE, || {
                check(tcp(&rack.tor, None, address, 8080).is_err(), "it answers")
            })?;
        }
        let second = host
            .container("second", &with_ports(&[mapping(8080, 7, "udp", ""), mapping(8080, 7, "tcp", "")])?)?;
        let _echo = second.echo()?;
        for address in [FOUR, SIX] {
            eventually("UDP to the second container", PATIENCE, || udp(&rack.tor, None, address, 8080))?;
            eventually("TCP to the second container", PATIENCE, || tcp(&rack.tor, None, address, 8080))?;
        }
        second.remove()?;
        // The last mapping is gone with its container: a service of the host's may have the port at once.
        let table = host.run("nft list table inet slash32")?;
        ensure!(!table.contains("8080"), "{table}");
        near.remove()?;
        tidy(&host1, 0)
    });
}

/// Neither program nor kernel has SCTP here: an INIT by hand, which is all that a mapping looks at.
/// An ADD that is repeated with ports, or an address, that another container has fails, and the container goes on with what
/// it had.
#[test]
fn a_repeated_add_for_what_others_have() {
    Lab::run("port-again", |lab| {
        let host = lab.machine("host")?;
        host.run("ip addr add 192.0.2.1/32 dev lo")?;
        let agent = Agent::start(&host, ONE_HOST)?;
        let port = |port: u16| with_ports(&[mapping(port, 7, "tcp", "")]);
        let (web, db) = (host.container("web", &port(8080)?)?, host.container("db", &port(8081)?)?);
        let _echoes = (web.echo()?, db.echo()?);
        let as_before = || {
            for (container, other, port) in [(&web, &db, 8080), (&db, &web, 8081)] {
                eventually("its port leads to it", PATIENCE, || tcp(&host, None, FOUR, port))?;
                for address in [container.ipv4()?, container.ipv6()?] {
                    eventually("it is reached", PATIENCE, || other.ping(&address))?;
                }
                container.check()?;
            }
            tidy(&agent, 2)
        };
        as_before()?;
        for (wish, code) in [
            (port(8081)?.capability("mac", json!("02:00:00:00:00:42")), 107),
            (port(8080)?.capability("ips", json!([db.ipv4()?])), 101),
            (port(8080)?.capability("ips", json!([db.ipv6()?])), 101),
        ] {
            let error = refused(host.attach("web", &wish))?;
            ensure!(error.code == code, "{error}");
            as_before()?;
        }
        // What can be is done.
        let moved = host.attach("web", &port(8082)?.capability("mac", json!("02:00:00:00:00:42")))?;
        ensure!(moved.ipv4()? == web.ipv4()? && moved.ipv6()? == web.ipv6()?, "{}", moved.result());
        eventually("the new port leads to it", PATIENCE, || tcp(&host, None, FOUR, 8082))?;
        ensure!(tcp(&host, None, FOUR, 8080).is_err(), "the old port leads to it");
        moved.check()
    });
}

#[test]
fn a_port_of_sctp() {
    /// A packet with an INIT chunk that announces this tag.
    fn init(port: u16, tag: [u8; 4]) -> Vec<u8> {
        let header = [&40_000_u16.to_be_bytes()[..], &port.to_be_bytes(), &[0; 8]].concat();
        [&header[..], &[1, 0, 0, 20], &tag, &[0, 0, 0x10, 0], &[0, 1, 0, 1], &[0, 0, 0, 1]].concat()
    }
    const SCTP: u8 = 132;
    Lab::run("ports-sctp", |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let (_switch, [host1, _host2]) = rack.start()?;
        let web = rack.hosts[0].container("web", &with_ports(&[mapping(5000, 3868, "sctp", "")])?)?;
        let (mut ears, mut switch) = (web.raw(SCTP)?, rack.tor.raw(SCTP)?);
        for (number, address) in (1..).zip([FOUR, SIX]) {
            let mapped = [0xfe, 0xed, number, 1];
            eventually(&format!("SCTP to {address}"), PATIENCE, || {
                switch.send(address, &init(5000, mapped))?;
                check(ears.hears(&mapped, 200)?, "nothing")
            })?;
            let other = [0xfe, 0xed, number, 2];
            switch.send(address, &init(5001, other))?;
            ensure!(!ears.hears(&other, 200)?, "a port that is not mapped leads to the container");
        }
        web.remove()?;
        tidy(&host1, 0)
    });
}

#[test]
fn a_port_has_one_owner() {
    Lab::run("port-conflict", |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let (_switch, [host1, _host2]) = rack.start()?;
        let host = &rack.hosts[0];
        let one = host.container("one", &with_ports(&[mapping(8080, 80, "tcp", "")])?)?;
        for (name, taken) in [
            ("same", mapping(8080, 81, "tcp", "")),
            ("any-address", mapping(8080, 80, "tcp", "0.0.0.0")),
            ("any-six", mapping(8080, 80, "tcp", "::")),
        ] {
            host.sandbox(name)?;
            let error = refused(host.attach(name, &with_ports(&[mapping(9000, 80, "tcp", ""), taken])?))?;
            ensure!(error.code == 107 && error.msg.contains("8080"), "{name}: {error}");
            tidy(&host1, 1)?;
        }
        // The agent's own are nobody's: whoever had 179 would be the host's BGP speaker to its switch. And a host address
        // must lead somewhere.
        let four_only = json!({"families": ["ipv4"]});
        for (n, (bad, ipam, why)) in [
            (mapping(179, 179, "tcp", ""), json!({}), "reserved"),
            (mapping(3784, 80, "udp", FOUR), json!({}), "reserved"),
            (mapping(8081, 80, "tcp", SIX), four_only, "no ipv6 address"),
        ]
        .into_iter()
        .enumerate()
        {
            let name = format!("bad{n}");
            host.sandbox(&name)?;
            let error = refused(host.attach(&name, &with_ports(&[bad])?.plugin_key("ipam", ipam)))?;
            ensure!(error.code == 107 && error.msg.contains(why), "{name}: {error}");
            tidy(&host1, 1)?;
        }
        // Another protocol or port is another matter; and what was refused holds nothing.
        let two = host.container(
            "two",
            &with_ports(&[
                mapping(8080, 80, "udp", ""),
                mapping(9000, 80, "tcp", ""),
                mapping(9001, 80, "tcp", FOUR),
            ])?,
        )?;
        let three = host.container("three", &with_ports(&[mapping(9001, 80, "tcp", SIX)])?)?;
        tidy(&host1, 3)?;
        for container in [one, two, three] {
            container.remove()?;
        }
        let again = host.container("again", &with_ports(&[mapping(8080, 80, "tcp", FOUR)])?)?;
        again.remove()?;
        // All addresses of one family.
        let four = host.container("four", &with_ports(&[mapping(8080, 7, "tcp", "0.0.0.0")])?)?;
        let six = host.container("six", &with_ports(&[mapping(8080, 8, "tcp", "::")])?)?;
        let _echo4 = four.echo()?;
        for address in [FOUR, "127.0.0.1"] {
            eventually(address, PATIENCE, || tcp(host, None, address, 8080))?;
        }
        for address in [SIX, "::1"] {
            ensure!(tcp(host, None, address, 8080).is_err(), "{address} leads to the container of IPv4");
        }
        let _echo6 = six.echo_on(8)?;
        for address in [SIX, "::1"] {
            eventually(address, PATIENCE, || tcp(host, None, address, 8080))?;
        }
        six.remove()?;
        four.remove()?;
        tidy(&host1, 0)
    });
}
