//! Address translation.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use super::lab::{
    Lab, V4, V6,
    Via::{Tcp, Udp},
    Who::{C, Host, Outside},
    config, ip,
};
use crate::policy::{
    Protocol,
    engine::{EngineConfig, PortMap, PortMapError},
    ir::{Statement, Verdict},
};

/// A mapping of a loopback address is for the host; packets to loopback addresses from elsewhere are dropped before
/// they are translated.
#[test]
fn loopback_addresses_are_the_hosts_own() {
    let mut lab = Lab::new(1);
    lab.know(0, &[]);
    let local: IpAddr = [127, 0, 0, 1].into();
    let maps = vec![map(Some(local), Protocol::UDP, 9000, lab.addr(C(0), V4), 5555)];
    let id = lab.containers[0].id.clone();
    lab.enforcer.engine_mut().set_port_maps(&id, maps).unwrap();
    lab.enforcer.commit().unwrap();
    ip(&lab.host, "link set lo up");
    let path = format!("net/ipv4/conf/{}/route_localnet", lab.containers[0].id.as_str());
    lab.host.run(|| crate::netlink::sysctl::write(&path, "1").unwrap());
    let hear = |ns: &crate::netlink::ns::testing::NamedNetns, addr: SocketAddr| {
        let socket = ns.run(|| UdpSocket::bind(addr).unwrap());
        socket.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
        socket
    };
    let mapped = hear(&lab.containers[0].ns, ([0, 0, 0, 0], 5555).into());
    let service = hear(&lab.host, ([127, 0, 0, 53], 5353).into());
    let rules = lab.enforcer.engine_mut().compiled();
    let first = &rules.chains["nat_pre"].rules[0];
    assert_eq!(&*first.comment, "a loopback address from outside");
    assert_eq!(first.statements.last(), Some(&Statement::Verdict(Verdict::Drop)));
    let mut word = [0; 8];
    let sender = lab.host.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    sender.send_to(b"lo", "127.0.0.1:9000").unwrap();
    sender.send_to(b"lo", "127.0.0.53:5353").unwrap();
    assert_eq!(mapped.recv(&mut word).unwrap(), 2, "the host reaches both");
    assert_eq!(service.recv(&mut word).unwrap(), 2);
}

/// The address that the outside machine sees when a container sends to it.
fn seen_outside(lab: &Lab, container: usize, v6: bool) -> IpAddr {
    seen_at(lab, container, v6, 7777)
}

/// The same at a port that nobody serves.
fn seen_at(lab: &Lab, container: usize, v6: bool, port: u16) -> IpAddr {
    let addr = SocketAddr::new(lab.addr(Outside, v6), port);
    let server = lab.outside.run(|| UdpSocket::bind(addr).unwrap());
    server.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    let any: SocketAddr = if v6 { "[::]:0" } else { "0.0.0.0:0" }.parse().unwrap();
    let client = lab.ns(C(container)).run(|| UdpSocket::bind(any).unwrap());
    for _ in 0..5 {
        client.send_to(b"?", addr).unwrap();
        let mut buf = [0; 4];
        if let Ok((_, from)) = server.recv_from(&mut buf) {
            return from.ip();
        }
    }
    panic!("nothing arrived");
}

#[test]
fn pools_with_nat_outgoing_are_masqueraded_towards_the_world_only() {
    let mut lab = Lab::new(2);
    lab.know(0, &[]);
    lab.know(1, &[]);
    for v6 in [V4, V6] {
        assert_eq!(seen_outside(&lab, 0, v6), lab.addr(C(0), v6));
    }
    let mut config = config();
    for pool in &mut config.pools {
        pool.nat_outgoing = true;
    }
    lab.enforcer.engine_mut().set_config(config);
    lab.enforcer.commit().unwrap();
    for v6 in [V4, V6] {
        assert_eq!(seen_outside(&lab, 0, v6), lab.addr(Host, v6));
    }
    // Between endpoints nothing is translated: policies by label still know who it is.
    lab.policies(
        "[[policy]]\nname='p'\nselect='all()'\ningress=[{action='allow',from={cidr=['10.32.4.2','fd00:32::2']}}]",
    );
    lab.expect(C(0), C(1), Tcp, 80, true);
    lab.expect(Outside, C(1), Tcp, 80, false);
    lab.expect(C(0), Outside, Tcp, 80, true);
    // Switched off, it is off at once.
    lab.enforcer.engine_mut().set_config(super::lab::config());
    lab.enforcer.commit().unwrap();
    for v6 in [V4, V6] {
        assert_eq!(seen_outside(&lab, 0, v6), lab.addr(C(0), v6));
    }
    assert_eq!(lab.enforcer.repair().unwrap(), []);
}

/// With the host's address a container could speak BGP to whom the host may speak to.
#[test]
fn protected_ports_are_not_masqueraded() {
    let mut lab = Lab::silent(1);
    lab.know(0, &[]);
    let mut config = EngineConfig { infrastructure: Vec::new(), ..config() };
    for pool in &mut config.pools {
        pool.nat_outgoing = true;
    }
    lab.enforcer.engine_mut().set_config(config);
    lab.enforcer.commit().unwrap();
    for v6 in [V4, V6] {
        assert_eq!(seen_outside(&lab, 0, v6), lab.addr(Host, v6));
        for port in [3784, 3785, 4784] {
            assert_eq!(seen_at(&lab, 0, v6, port), lab.addr(C(0), v6), "udp/{port}");
        }
    }
}

fn map(host: Option<IpAddr>, protocol: Protocol, host_port: u16, target: IpAddr, port: u16) -> PortMap {
    PortMap { host, protocol, host_port, target: SocketAddr::new(target, port) }
}

#[test]
fn port_mappings_lead_to_containers_from_everywhere() {
    let mut lab = Lab::new(2);
    lab.know(0, &[("role", "web")]);
    lab.know(1, &[("role", "other")]);
    let mut maps = Vec::new();
    for v6 in [V4, V6] {
        let target = lab.addr(C(0), v6);
        maps.push(map(None, Protocol::TCP, 9000, target, 80));
        maps.push(map(None, Protocol::UDP, 9000, target, 53));
        maps.push(map(Some(lab.addr(Host, v6)), Protocol::TCP, 9001, target, 443));
        maps.push(map(Some(lab.addr(Outside, v6)), Protocol::TCP, 9002, target, 443));
    }
    let id = lab.containers[0].id.clone();
    lab.enforcer.engine_mut().set_port_maps(&id, maps.clone()).unwrap();
    lab.enforcer.commit().unwrap();
    let other = lab.containers[1].id.clone();
    let taken = lab.enforcer.engine_mut().set_port_maps(&other, vec![maps[0].clone()]);
    assert_eq!(taken, Err(PortMapError::Taken("tcp/9000".into(), id.clone())));
    // From outside, from another container, from the container itself, and from the host.
    for from in [Outside, C(1), C(0), Host] {
        lab.expect(from, Host, Tcp, 9000, true);
        lab.expect(from, Host, Udp, 9000, true);
        lab.expect(from, Host, Tcp, 9001, true);
        lab.expect(from, Host, Tcp, 9002, false);
    }
    // Policies see the container and its port, and the true source.
    let allow = |cidr: &str, port| {
        format!(
            "[[policy]]\nname='web'\nselect='role == \"web\"'\ningress=[{{action='allow',from={{cidr=[{cidr}]}},protocol='tcp',ports={port}}}]"
        )
    };
    lab.policies(&allow("'192.0.2.2','2001:db8::2'", 80));
    lab.expect(Outside, Host, Tcp, 9000, true);
    lab.expect(Outside, Host, Tcp, 9001, false);
    lab.expect(C(1), Host, Tcp, 9000, false);
    lab.policies(&allow("'192.0.2.2','2001:db8::2'", 9000));
    lab.expect(Outside, Host, Tcp, 9000, false);
    // An established connection through a mapping is cut and comes back like any other.
    lab.policies("");
    let mut talk = lab.talk_to(Outside, Host, V4, 9000);
    assert!(talk.works(true));
    lab.policies(&allow("'203.0.113.1'", 80));
    assert!(!talk.works(false));
    lab.policies(&allow("'192.0.2.2'", 80));
    assert!(talk.works(true));
    // Mappings go with their endpoint.
    lab.policies("");
    lab.enforcer.engine_mut().remove_local(&id);
    lab.enforcer.commit().unwrap();
    lab.expect(Outside, Host, Tcp, 9000, false);
    assert_eq!(lab.enforcer.repair().unwrap(), []);
}
