//! Packets by hand: with a source that is not the sender's, or of a kind that no ordinary socket sends.

use std::{
    io::Read,
    net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket},
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};

use super::{
    LB, OTHER, WEB,
    lab::{
        Lab, V4, V6,
        Who::{self, C, Host, Outside},
        config, ip,
    },
    three,
};
use crate::{
    netlink::{self, link, ns::testing::NamedNetns},
    policy::{Flow, Ports, Protocol as Transport, Service, engine::EngineConfig},
};

/// How long what must arrive may take.
const PATIENCE: Duration = Duration::from_secs(5);
const PORT: u16 = 7777;

/// A UDP packet with its IP header.
pub(super) fn udp(source: IpAddr, destination: IpAddr, word: &[u8]) -> Vec<u8> {
    let length = 8 + word.len() as u16;
    let mut datagram = Vec::new();
    for field in [4000, PORT, length, 0] {
        datagram.extend(field.to_be_bytes());
    }
    datagram.extend(word);
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            // The kernel fills in length and checksum of the header; UDP needs no checksum.
            let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
            packet.extend(source.octets().into_iter().chain(destination.octets()));
            [packet, datagram].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let addresses = [source.octets(), destination.octets()].concat();
            let pseudo =
                [&addresses[..], &u32::from(length).to_be_bytes(), &[0, 0, 0, 17], &datagram].concat();
            datagram[6..8].copy_from_slice(&checksum(&pseudo).to_be_bytes());
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend(length.to_be_bytes());
            packet.extend([17, 64]);
            [packet, addresses, datagram].concat()
        }
        _ => panic!("{source} to {destination}"),
    }
}

fn raw(ns: &NamedNetns, v6: bool, protocol: i32) -> Socket {
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    ns.run(|| Socket::new(domain, Type::RAW, Some(Protocol::from(protocol))).unwrap())
}

/// With IPPROTO_RAW, what is sent has its header already.
pub(super) const WITH_HEADER: i32 = 255;

#[test]
fn no_source_but_the_own_addresses_leaves_a_container() {
    let mut lab = Lab::new(2);
    lab.know(0, &[]);
    lab.know(1, &[]);
    let receivers: Vec<(Who, UdpSocket)> = [C(1), Host, Outside]
        .map(|who| (who, lab.ns(who).run(|| UdpSocket::bind(("::", PORT)).unwrap())))
        .into();
    // The host lets its endpoints in, or nothing would show.
    let endpoint_to_host = vec![Service { protocol: Transport::UDP, ports: Ports::Any }];
    lab.enforcer.engine_mut().set_config(EngineConfig { endpoint_to_host, ..config() });
    lab.enforcer.commit().unwrap();
    let forged = [
        // The other container, the host, the machine outside, an address of the pool that nobody has.
        vec!["10.32.4.3", "192.0.2.1", "192.0.2.2", "10.32.200.200", "203.0.113.1"],
        // Loopback, link-local, the gateway, multicast, broadcast, no address.
        vec!["127.0.0.1", "169.254.1.1", "169.254.7.7", "224.0.0.1", "255.255.255.255", "0.0.0.1"],
        vec!["fd00:32::3", "2001:db8::1", "2001:db8::2", "fd00:32:0:ffff::1", "2001:db8:ffff::1"],
        vec!["::1", "::", "fe80::1", "fe80::dead:beef", "ff02::1", "::ffff:10.32.4.2", "::10.32.4.2"],
    ];
    let before = spoofed(&lab);
    let mut sent = 0;
    for (number, source) in forged.iter().flatten().enumerate() {
        let source: IpAddr = source.parse().unwrap();
        let v6 = source.is_ipv6();
        let socket = raw(&lab.containers[0].ns, v6, WITH_HEADER);
        for (who, receiver) in &receivers {
            let to = lab.addr(*who, v6);
            let target = SocketAddr::new(to, 0).into();
            socket.send_to(&udp(source, to, b"forged"), &target).unwrap();
            sent += 1;
            // What has the right source comes after it, on the same way.
            let word = format!("true {number}");
            let until = Instant::now() + PATIENCE;
            receiver.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            'true_one: loop {
                let own = lab.addr(C(0), v6);
                socket.send_to(&udp(own, to, word.as_bytes()), &target).unwrap();
                let mut heard = [0; 32];
                while let Ok((length, from)) = receiver.recv_from(&mut heard) {
                    assert_ne!(&heard[..length], b"forged", "{who:?} hears {source} as {from}");
                    if &heard[..length] == word.as_bytes() {
                        break 'true_one;
                    }
                }
                assert!(Instant::now() < until, "{who:?} hears nothing of {own}");
            }
        }
    }
    // The kernel itself drops some before they leave the container.
    let counted = spoofed(&lab) - before;
    assert!(counted > 0 && counted <= sent + 20, "{counted} counted of {sent}");
    let most = sent * 2 / 3;
    assert!(counted >= most, "{counted} counted of {sent}: the others never came to the rule");
}

#[test]
fn what_a_container_listens_to_is_nobodys_business() {
    let mut lab = Lab::new(1);
    lab.know(0, &[]);
    let receiver = raw(&lab.host, true, 58);
    receiver.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let inside = &lab.containers[0].ns;
    // What listener messages are sent from (RFC 3810 section 5.1.14).
    ip(inside, "addr add fe80::51/64 dev eth0 nodad");
    let links = inside.run(|| link::list(&mut netlink::Socket::route().unwrap()).unwrap());
    let index = links.iter().find(|l| l.name == "eth0").unwrap().index;
    let gateway = SocketAddrV6::new("fe80::1".parse().unwrap(), 0, 0, index);
    let sender = raw(inside, true, 58);
    let before = spoofed(&lab);
    for number in 0..20 {
        // Reports and a query, and then an echo, which may pass.
        for kind in [131, 132, 143, 130, 128] {
            let message = [kind, 0, 0, 0, 0x51, number, 0, 0];
            sender.send_to(&[&message[..], b"slash32"].concat(), &SocketAddr::V6(gateway).into()).unwrap();
        }
        let mut heard = [0; 64];
        while let Ok(length) = (&receiver).read(&mut heard) {
            let ours = heard[..length].ends_with(b"slash32");
            assert!(!ours || [128, 129].contains(&heard[0]), "type {} arrives", heard[0]);
            if ours && heard[0] == 128 {
                assert_eq!(spoofed(&lab), before, "a report is no spoofed packet");
                return;
            }
        }
    }
    panic!("the echo does not arrive");
}

fn spoofed(lab: &Lab) -> u64 {
    let text = lab
        .host
        .run(|| crate::policy::nft::tests::nft(&["list", "chain", "inet", "slash32", "anti_spoof"], ""))
        .unwrap();
    let line = text.lines().find(|l| l.contains("spoofed")).unwrap();
    line.split("packets ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap()
}

/// Sends an ICMP message of a type and code with a word in it, and looks whether it arrives.
fn icmp_arrives(lab: &Lab, from: Who, to: Who, v6: bool, (kind, code): (u8, u8), hopeful: bool) -> bool {
    let protocol = if v6 { 58 } else { 1 };
    let receiver = raw(lab.ns(to), v6, protocol);
    let sender = raw(lab.ns(from), v6, protocol);
    let target = SocketAddr::new(lab.addr(to, v6), 0);
    let mut message = vec![kind, code, 0, 0, 0x51, kind, 0, code];
    message.extend(b"slash32 ");
    if !v6 {
        message = with_checksum(message);
    }
    receiver.set_read_timeout(Some(Duration::from_millis(250))).unwrap();
    for _ in 0..if hopeful { 20 } else { 1 } {
        sender.send_to(&message, &target.into()).unwrap();
        let mut buffer = [0; 256];
        while let Ok(length) = (&receiver).read(&mut buffer) {
            // IPv4 hands over the header as well.
            let heard = &buffer[if v6 { 0 } else { 20 }..length];
            if heard.starts_with(&[kind, code]) && heard.ends_with(b"slash32 ") {
                return true;
            }
        }
    }
    false
}

#[test]
fn icmp_by_type_and_code() {
    let mut lab = three();
    lab.policies(
        r#"[[policy]]
        name = "web"
        select = 'role == "web"'
        ingress = [
          { action = "allow", protocol = "icmp", icmp_type = 8, icmp_code = 5 },
          { action = "allow", protocol = "icmp", icmp_type = 13 },
          { action = "allow", protocol = "icmpv6", icmp_type = 128, icmp_code = 3 },
          { action = "allow", protocol = "icmpv6", icmp_type = 139 },
        ]"#,
    );
    let (from, web) = (C(LB), C(WEB));
    for (v6, message, passes) in [
        (V4, (8, 5), true),
        (V4, (8, 0), false),
        (V4, (13, 0), true),
        (V4, (13, 9), true),
        (V4, (15, 0), false),
        (V6, (128, 3), true),
        (V6, (128, 0), false),
        (V6, (139, 0), true),
        (V6, (139, 1), true),
    ] {
        assert_eq!(icmp_arrives(&lab, from, web, v6, message, passes), passes, "{message:?} IPv6: {v6}");
    }
    // The other one is not selected.
    assert!(icmp_arrives(&lab, from, C(OTHER), V4, (8, 0), true));
    assert!(icmp_arrives(&lab, from, C(OTHER), V6, (128, 0), true));
}

/// Conntrack does not track neighbour discovery, so no rule that asks for its source would see it. It is for one link.
#[test]
fn neighbour_discovery_is_not_forwarded() {
    let lab = three();
    for kind in [130, 133, 134, 135, 136, 143] {
        assert!(!icmp_arrives(&lab, C(LB), C(WEB), V6, (kind, 0), false), "type {kind}");
        assert!(!icmp_arrives(&lab, Outside, C(WEB), V6, (kind, 0), false), "type {kind} from outside");
    }
    assert!(icmp_arrives(&lab, C(LB), C(WEB), V6, (128, 0), true));
}

/// What host policies do not judge is the same in the kernel and in what `policy explain` says.
#[test]
fn what_a_link_needs_reaches_a_closed_host() {
    let mut lab = three();
    lab.policies("[[host_policy]]\nname='closed'\ningress=[]\n");
    let [source, host] = [Outside, Host].map(|who| lab.addr(who, V6));
    for (kind, needed) in [(128, false), (130, true), (137, true), (138, false), (142, false), (143, true)] {
        let flow = Flow::new(source, host, Transport::ICMPV6, u16::from_be_bytes([kind, 0]));
        let told = lab.enforcer.engine().explain(&flow, |addr| addr == host);
        assert_eq!(told.allowed, needed, "type {kind}: {}", told.reason);
        assert_eq!(icmp_arrives(&lab, Outside, Host, V6, (kind, 0), needed), needed, "type {kind}");
    }
}

/// The Internet checksum (RFC 1071).
pub(super) fn checksum(bytes: &[u8]) -> u16 {
    let word = |c: &[u8]| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !sum as u16
}

/// An ICMP message with its checksum in its place.
fn with_checksum(mut message: Vec<u8>) -> Vec<u8> {
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// A UDP connection from the load balancer, port 4000, to the other container, with an answer.
fn connection(lab: &Lab, v6: bool) -> [UdpSocket; 2] {
    let [lb, other] = [LB, OTHER].map(|c| lab.addr(C(c), v6));
    let client = lab.ns(C(LB)).run(|| UdpSocket::bind((lb, 4000)).unwrap());
    let server = lab.ns(C(OTHER)).run(|| UdpSocket::bind((other, PORT)).unwrap());
    client.connect((other, PORT)).unwrap();
    for socket in [&client, &server] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    client.send(b"?").unwrap();
    let (_, from) = server.recv_from(&mut [0; 4]).unwrap();
    server.send_to(b"!", from).unwrap();
    client.recv(&mut [0; 4]).unwrap();
    [client, server]
}

/// Port unreachable: the protocol, and the message up to what it quotes.
const fn unreachable(v6: bool) -> (i32, [u8; 8]) {
    if v6 { (58, [1, 4, 0, 0, 0, 0, 0, 0]) } else { (1, [3, 3, 0, 0, 0, 0, 0, 0]) }
}

/// Whether a packet with these bytes comes before there is silence for so long.
fn hears_within(mut socket: &Socket, bytes: &[u8], silence: Duration) -> bool {
    socket.set_read_timeout(Some(silence)).unwrap();
    let mut buffer = [0; 256];
    std::iter::from_fn(|| socket.read(&mut buffer).ok().map(|n| buffer[..n].to_vec()))
        .any(|packet| packet.windows(bytes.len()).any(|w| w == bytes))
}

/// An endpoint tells of errors of its own connections; what it says about those of others is what it likes.
#[test]
fn errors_are_of_own_connections() {
    const SECRET: &[u8] = b"what must not get out";
    let mut lab = three();
    lab.policies("[[policy]]\nname='p'\nselect='role == \"web\"'\ningress=[]\negress=[]\n");
    for v6 in [V4, V6] {
        let [lb, other] = [LB, OTHER].map(|c| lab.addr(C(c), v6));
        let _sockets = connection(&lab, v6);
        // Who is no party: quotes the connection both ways, with a word.
        let (protocol, head) = unreachable(v6);
        let receivers = [LB, OTHER].map(|c| raw(lab.ns(C(c)), v6, protocol));
        let sends = |from: Who| {
            let sender = raw(lab.ns(from), v6, protocol);
            let to_client = [&head[..], &udp(lb, other, SECRET)].concat();
            let to_server = [&head[..], &udp(other, lb, SECRET)].concat();
            for (to, message) in [(lb, to_client), (other, to_server)] {
                sender.send_to(&with_checksum(message), &SocketAddr::new(to, 0).into()).unwrap();
            }
        };
        let hears = |socket: &Socket| hears_within(socket, SECRET, Duration::from_millis(250));
        sends(C(WEB));
        assert!(!receivers.iter().any(hears), "IPv6: {v6}");
        // A party may: the server about what it was sent.
        sends(C(OTHER));
        assert!(hears(&receivers[0]), "IPv6: {v6}");
        // And the errors of everyday life arrive.
        let closed = lab.ns(C(LB)).run(|| UdpSocket::bind((lb, 0)).unwrap());
        closed.set_read_timeout(Some(PATIENCE)).unwrap();
        closed.connect((other, 9)).unwrap();
        closed.send(b"?").unwrap();
        assert_eq!(closed.recv(&mut [0; 4]).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    }
}

/// What is cut is no way for words in errors about it, in either direction.
#[test]
fn errors_of_a_revoked_connection_do_not_pass() {
    const SECRET: &[u8] = b"what must not get out";
    let mut lab = three();
    let cut = "[[policy]]\nname='p'\nselect='role == \"other\"'\ningress=[]\negress=[]\n";
    for v6 in [V4, V6] {
        lab.policies("");
        let [lb, other] = [LB, OTHER].map(|c| lab.addr(C(c), v6));
        let _sockets = connection(&lab, v6);
        let (protocol, head) = unreachable(v6);
        // Each about what the other has sent.
        let passes = |lab: &Lab, from: usize, to: usize, quoted: Vec<u8>| {
            let receiver = raw(lab.ns(C(to)), v6, protocol);
            let sender = raw(lab.ns(C(from)), v6, protocol);
            let message = with_checksum([&head[..], &quoted].concat());
            sender.send_to(&message, &SocketAddr::new(lab.addr(C(to), v6), 0).into()).unwrap();
            hears_within(&receiver, SECRET, Duration::from_millis(250))
        };
        assert!(passes(&lab, OTHER, LB, udp(lb, other, SECRET)), "IPv6: {v6}");
        lab.policies(cut);
        assert!(!passes(&lab, OTHER, LB, udp(lb, other, SECRET)), "IPv6: {v6}");
        assert!(!passes(&lab, LB, OTHER, udp(other, lb, SECRET)), "IPv6: {v6}");
    }
}

/// A container of another host: an address of the pool, beyond the uplink.
#[test]
fn endpoints_of_other_hosts_do_not_reach_routing_protocols() {
    let mut lab = Lab::new(1);
    lab.know(0, &[]);
    for (addr, via) in [("10.32.9.9/32", "192.0.2.2"), ("fd00:32::9:9/128", "2001:db8::2")] {
        let nodad = if addr.contains(':') { " nodad" } else { "" };
        ip(&lab.outside, &format!("addr add {addr} dev lo{nodad}"));
        ip(&lab.host, &format!("route add {addr} via {via}"));
    }
    let asks = |source: Option<&str>, v6: bool, port: u16, hopeful: bool| {
        let to = SocketAddr::new(lab.addr(Host, v6), port);
        let from = source.map_or_else(|| lab.addr(Outside, v6), |s| s.parse().unwrap());
        let socket = lab.outside.run(|| UdpSocket::bind((from, 0)).unwrap());
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(250))).unwrap();
        (0..if hopeful { 20 } else { 1 })
            .any(|_| socket.send(b"?").is_ok() && socket.recv(&mut [0; 4]).is_ok())
    };
    let connects = |source: &str, v6: bool, port: u16| {
        let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
        let socket = lab.outside.run(|| Socket::new(domain, Type::STREAM, None).unwrap());
        socket.bind(&SocketAddr::new(source.parse().unwrap(), 0).into()).unwrap();
        let to = SocketAddr::new(lab.addr(Host, v6), port).into();
        socket.connect_timeout(&to, Duration::from_millis(500)).is_ok()
    };
    for (v6, source) in [(V4, "10.32.9.9"), (V6, "fd00:32::9:9")] {
        assert!(asks(Some(source), v6, 53, true), "{source} reaches what is no routing protocol");
        assert!(connects(source, v6, 80));
        for port in [3784, 3785, 4784] {
            assert!(!asks(Some(source), v6, port, false), "{source} reaches udp/{port}");
            // The neighbour does.
            assert!(asks(None, v6, port, true));
        }
        for port in [179, 9179] {
            assert!(!connects(source, v6, port), "{source} reaches tcp/{port}");
            assert!(connects(&lab.addr(Outside, v6).to_string(), v6, port));
        }
    }
}
