//! Where the speaker listens: neighbours are let in and nobody else, whatever his address.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
    time::Duration,
};

use socket2::{Domain, Socket, Type};

use super::lab::{
    Lab, V4, V6,
    Via::Tcp,
    Who::{Host, Outside},
    config, ip,
};
use crate::{
    model::Prefix,
    netlink::ns::testing::NamedNetns,
    policy::{
        Flow, Protocol,
        engine::{EngineConfig, Listener},
    },
};

/// BGP and BFD on all addresses.
fn speaks() -> Vec<Listener> {
    let bfd = [3784, 3785, 4784].into_iter().flat_map(|port| Listener::anywhere(Protocol::UDP, port));
    Listener::anywhere(Protocol::TCP, 179).into_iter().chain(bfd).collect()
}

fn set(lab: &mut Lab, listeners: Vec<Listener>, neighbours: &[&str]) {
    let neighbours = neighbours.iter().map(|n| n.parse::<Prefix>().unwrap()).collect();
    lab.enforcer.engine_mut().set_config(EngineConfig { neighbours, listeners, ..config() });
    lab.enforcer.commit().unwrap();
}

/// A lab whose outside has addresses that are no neighbour's and in no pool.
fn lab() -> Lab {
    let mut lab = Lab::new(1);
    lab.know(0, &[]);
    for (addr, via) in STRANGERS.into_iter().zip(["192.0.2.2", "2001:db8::2"]) {
        let nodad = if addr.contains(':') { " nodad" } else { "" };
        ip(&lab.outside, &format!("addr add {addr} dev lo{nodad}"));
        ip(&lab.host, &format!("route add {addr} via {via}"));
    }
    lab
}

const STRANGERS: [&str; 2] = ["203.0.113.9", "2001:db8:ffff::9"];

fn connects(lab: &Lab, source: IpAddr, to: SocketAddr, hopeful: bool) -> bool {
    let domain = if to.is_ipv6() { Domain::IPV6 } else { Domain::IPV4 };
    let socket = lab.outside.run(|| Socket::new(domain, Type::STREAM, None).unwrap());
    socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
    let wait = Duration::from_millis(if hopeful { 5000 } else { 400 });
    socket.connect_timeout(&to.into(), wait).is_ok()
}

fn asks(lab: &Lab, source: IpAddr, to: SocketAddr, hopeful: bool) -> bool {
    let socket = lab.outside.run(|| UdpSocket::bind((source, 0)).unwrap());
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(250))).unwrap();
    (0..if hopeful { 20 } else { 2 }).any(|_| socket.send(b"?").is_ok() && socket.recv(&mut [0; 4]).is_ok())
}

/// Whether an address gets to a port of the host; the interpreter says the same.
fn reaches(lab: &Lab, source: IpAddr, protocol: Protocol, port: u16) -> bool {
    let to = SocketAddr::new(lab.addr(Host, source.is_ipv6()), port);
    let flow = Flow::new(source, to.ip(), protocol, port);
    let told = lab.enforcer.engine().explain(&flow, |addr| addr == to.ip());
    let way = if protocol == Protocol::TCP { connects } else { asks };
    let got = way(lab, source, to, told.allowed);
    assert_eq!(got, told.allowed, "{flow}: {told:#?}");
    got
}

#[test]
fn only_neighbours_reach_the_speaker() {
    let mut lab = lab();
    let strangers: Vec<IpAddr> = STRANGERS.iter().map(|a| a.parse().unwrap()).collect();
    let bgp = |lab: &Lab, addr: IpAddr| reaches(lab, addr, Protocol::TCP, 179);
    let bfd = |lab: &Lab, addr: IpAddr| reaches(lab, addr, Protocol::UDP, 3784);
    // While nobody here listens, the ports may be another daemon's.
    for addr in &strangers {
        assert!(bgp(&lab, *addr) && bfd(&lab, *addr), "{addr}: it is not ours");
    }
    set(&mut lab, Listener::anywhere(Protocol::TCP, 179).to_vec(), &[]);
    for addr in &strangers {
        assert!(!bgp(&lab, *addr), "{addr} reaches BGP");
        assert!(bfd(&lab, *addr), "{addr}: there is no BFD");
    }
    set(&mut lab, speaks(), &[]);
    for addr in &strangers {
        let v6 = addr.is_ipv6();
        assert!(!bgp(&lab, *addr) && !bfd(&lab, *addr), "{addr} reaches the speaker");
        assert!(!reaches(&lab, *addr, Protocol::UDP, 4784));
        // What is not the speaker's: metrics are for who collects them, wherever he is.
        assert!(reaches(&lab, *addr, Protocol::TCP, 80) && reaches(&lab, *addr, Protocol::TCP, 9179));
        assert!(reaches(&lab, *addr, Protocol::UDP, 53));
        let neighbour = lab.addr(Outside, v6);
        assert!(bgp(&lab, neighbour) && bfd(&lab, neighbour));
        // The host may dial whom it likes, and itself.
        assert!(lab.reaches(Host, Outside, v6, Tcp, 179, true));
        assert!(lab.reaches(Host, Host, v6, Tcp, 179, true));
    }
    let counters = lab.enforcer.driver().counters().unwrap();
    let refused: u64 =
        counters.iter().filter(|c| c.comment.starts_with("no neighbour")).map(|c| c.packets).sum();
    assert!(refused >= 6, "{counters:#?}");
    // An unnumbered neighbour is on the link.
    let to = SocketAddrV6::new(link_local(&lab.host).0, 179, 0, link_local(&lab.outside).1);
    let socket = lab.outside.run(|| Socket::new(Domain::IPV6, Type::STREAM, None).unwrap());
    socket.connect_timeout(&SocketAddr::V6(to).into(), Duration::from_secs(5)).unwrap();
    // Dynamic neighbours come and go with a reload.
    set(&mut lab, speaks(), &["203.0.113.0/24", "2001:db8:ffff::/48"]);
    for addr in &strangers {
        assert!(bgp(&lab, *addr) && bfd(&lab, *addr), "{addr} may be a neighbour");
    }
    set(&mut lab, speaks(), &["0.0.0.0/0"]);
    assert!(bgp(&lab, strangers[0]) && !bgp(&lab, strangers[1]), "everybody, in one family");
    set(&mut lab, speaks(), &[]);
    for addr in &strangers {
        assert!(!bgp(&lab, *addr) && !bfd(&lab, *addr));
    }
    // One address of the host's.
    let at = Listener { address: lab.addr(Host, V4), protocol: Protocol::TCP, port: 179 };
    set(&mut lab, vec![at], &[]);
    assert!(!bgp(&lab, strangers[0]) && bgp(&lab, strangers[1]));
    let at = Listener { address: lab.addr(Host, V6), ..at };
    set(&mut lab, vec![at], &[]);
    assert!(bgp(&lab, strangers[0]) && !bgp(&lab, strangers[1]));
    // Another address than the one that is asked, where another daemon may have the port.
    let elsewhere =
        ["198.51.100.7", "2001:db8:7::7"].map(|addr| Listener { address: addr.parse().unwrap(), ..at });
    set(&mut lab, elsewhere.to_vec(), &[]);
    assert!(bgp(&lab, strangers[0]) && bgp(&lab, strangers[1]));
    assert_eq!(lab.enforcer.repair().unwrap(), []);
}

/// The link-local address of a machine's uplink, and the interface's index.
fn link_local(ns: &NamedNetns) -> (Ipv6Addr, u32) {
    let text = ns.run(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap());
    let line = text.lines().find(|l| l.starts_with("fe80") && l.ends_with(" eth0")).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    (u128::from_str_radix(words[0], 16).unwrap().into(), u32::from_str_radix(words[1], 16).unwrap())
}
