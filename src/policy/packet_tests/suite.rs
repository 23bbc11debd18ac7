//! The suite of NetworkPolicy cases, with real packets: every question in both families, of TCP and SCTP the packet that
//! begins a connection, and now and then whole TCP connections.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

use super::{
    lab::{
        Lab, V6,
        Who::{self, C, Outside},
        ip,
    },
    opening,
};
use crate::policy::{
    Protocol,
    engine::{EngineConfig, LocalEndpoint},
    language,
    suite::{Question, Suite},
};

/// Every so many steps TCP is connected as well, which takes longer.
const TCP_EVERY: usize = 16;
/// The first source port of packets that begin connections. Each step has one of its own, so that connection tracking
/// takes none for an answer to what was before.
const SOURCE_PORT: u16 = 20_000;

fn who(suite: &Suite, end: usize) -> Who {
    if suite.ends[end].namespace.is_some() { C(end) } else { Outside }
}

#[test]
fn the_kernel_agrees_with_the_suite() {
    let suite = Suite::load();
    let pods = suite.ends.iter().filter(|e| e.namespace.is_some()).count();
    assert!(suite.ends[..pods].iter().all(|e| e.namespace.is_some()), "the pods come first");
    let mut lab = Lab::silent(u8::try_from(pods).unwrap());
    for (i, end) in suite.ends.iter().enumerate().take(pods) {
        assert_eq!(end.addresses[0], lab.addr(C(i), false), "the lab has the suite's addresses");
        assert_eq!(end.addresses[1], lab.addr(C(i), V6));
    }
    for addr in suite.ends[pods..].iter().flat_map(|e| &e.addresses) {
        let (len, nodad) = if addr.is_ipv6() { (128, " nodad") } else { (32, "") };
        ip(&lab.outside, &format!("addr add {addr}/{len} dev lo{nodad}"));
        let via = lab.addr(Outside, addr.is_ipv6());
        ip(&lab.host, &format!("route add {addr}/{len} via {via}"));
    }
    let steps: Vec<_> =
        suite.cases.iter().flat_map(|case| case.steps.iter().map(move |s| (case, s))).collect();
    let questions: Vec<Vec<Question>> = steps.iter().map(|(_, step)| step.questions()).collect();
    let ports: BTreeSet<u16> = questions.iter().flatten().map(|q| q.port).collect();
    let bind = |end: usize, port: u16| -> Vec<UdpSocket> {
        let each = suite.ends[end].addresses.iter().map(|addr| {
            let socket = lab.ns(who(&suite, end)).run(|| UdpSocket::bind((*addr, port)).unwrap());
            socket.set_nonblocking(true).unwrap();
            socket
        });
        each.collect()
    };
    let ends = || 0..suite.ends.len();
    let senders: Vec<Vec<UdpSocket>> = ends().map(|end| bind(end, 0)).collect();
    let receivers: Vec<(usize, UdpSocket)> = ends()
        .flat_map(|end| ports.iter().flat_map(move |p| [(end, *p)]))
        .flat_map(|(end, port)| bind(end, port).into_iter().map(move |socket| (end, socket)))
        .collect();
    // TCP and SCTP, IPv4 and IPv6.
    let raw: Vec<[Vec<Socket>; 2]> = ends()
        .map(|end| {
            let open = |protocol: Protocol| {
                let sockets = suite.ends[end]
                    .addresses
                    .iter()
                    .map(|addr| lab.ns(who(&suite, end)).run(|| opening::socket(*addr, protocol)));
                sockets.collect()
            };
            [Protocol::TCP, Protocol::SCTP].map(open)
        })
        .collect();
    let config = EngineConfig { protected: Vec::new(), infrastructure: Vec::new(), ..super::lab::config() };
    lab.enforcer.engine_mut().set_config(config);
    let mut packets = [0; opening::KINDS.len()];
    for (number, ((case, step), questions)) in steps.iter().zip(&questions).enumerate() {
        let set = language::parse(&[("case.yaml", &step.yaml), ("ports.toml", &suite.ports)]).unwrap();
        lab.enforcer.engine_mut().set_policies(Arc::new(set));
        for end in 0..pods {
            let (id, addresses) = (lab.containers[end].id.clone(), suite.ends[end].addresses.clone());
            let labels = suite.labels(step, end).unwrap();
            lab.enforcer.engine_mut().upsert_local(LocalEndpoint {
                shared: Vec::new(),
                id,
                addresses,
                labels,
            });
        }
        lab.enforcer.commit().unwrap();
        let mut missing: BTreeSet<usize> = BTreeSet::new();
        for (i, q) in questions.iter().enumerate() {
            let family = usize::from(q.v6);
            let [from, to] = [q.from, q.to].map(|end| suite.ends[end].addresses[family]);
            let mark = (number as u32) << 16 | i as u32;
            let ports = [SOURCE_PORT + number as u16, q.port];
            let sent = match q.protocol {
                Protocol::TCP => raw[q.from][0][family]
                    .send_to(&opening::tcp(from, to, ports, mark), &SocketAddr::new(to, 0).into()),
                Protocol::SCTP => raw[q.from][1][family]
                    .send_to(&opening::sctp(ports, mark), &SocketAddr::new(to, 0).into()),
                _ => senders[q.from][family].send_to(&mark.to_be_bytes(), SocketAddr::new(to, q.port)),
            };
            sent.unwrap();
            packets[opening::KINDS.iter().position(|k| *k == q.protocol).unwrap()] += 1;
            if q.allowed {
                missing.insert(i);
            }
        }
        let told = |i: usize| {
            let q = &questions[i];
            let name = |end: usize| suite.ends[end].name.clone();
            format!(
                "{}: {} to {} {}/{} IPv{}\n{}",
                case.name,
                name(q.from),
                name(q.to),
                q.protocol,
                q.port,
                if q.v6 { 6 } else { 4 },
                step.yaml
            )
        };
        let heard = |end: usize, protocol: Protocol, mark: u32| {
            let (step, i) = ((mark >> 16) as usize, (mark & 0xffff) as usize);
            assert_eq!(step, number, "{}: a packet of an earlier step came late, or after all", case.name);
            let q = &questions[i];
            assert!(q.to == end && q.protocol == protocol, "elsewhere: {}", told(i));
            assert!(q.allowed, "passed: {}", told(i));
            i
        };
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            for (end, receiver) in &receivers {
                let mut message = [0; 4];
                while let Ok(4) = receiver.recv(&mut message) {
                    missing.remove(&heard(*end, Protocol::UDP, u32::from_be_bytes(message)));
                }
            }
            for (end, sockets) in raw.iter().enumerate() {
                for (socket, protocol) in sockets
                    .iter()
                    .zip([Protocol::TCP, Protocol::SCTP])
                    .flat_map(|(of, p)| of.iter().map(move |s| (s, p)))
                {
                    while let Some(packet) = opening::next(socket) {
                        if let Some(mark) = opening::mark(protocol, &packet) {
                            missing.remove(&heard(end, protocol, mark));
                        }
                    }
                }
            }
            if missing.is_empty() {
                break;
            }
            assert!(Instant::now() < until, "refused: {}", told(*missing.first().unwrap()));
            thread::sleep(Duration::from_millis(1));
        }
        if number.is_multiple_of(TCP_EVERY) {
            tcp(&lab, &suite, questions, &case.name);
        }
        if number % 100 == 99 {
            eprintln!("{} of {} steps", number + 1, steps.len());
        }
    }
    for (kind, count) in opening::KINDS.iter().zip(packets) {
        eprintln!("{count} packets of {kind}");
        assert!(count > 200_000, "{count} of {kind}");
    }
    assert_eq!(lab.enforcer.repair().unwrap(), []);
}

/// Begins all connections at once and looks which of them came about.
fn tcp(lab: &Lab, suite: &Suite, questions: &[Question], case: &str) {
    let tcp: Vec<&Question> = questions.iter().filter(|q| q.protocol == Protocol::TCP).collect();
    let places: BTreeSet<(usize, u16)> = tcp.iter().map(|q| (q.to, q.port)).collect();
    let mut listeners = Vec::new();
    for (end, port) in places {
        for addr in &suite.ends[end].addresses {
            listeners.push(lab.ns(who(suite, end)).run(|| TcpListener::bind((*addr, port)).unwrap()));
        }
    }
    let begin = |from: IpAddr, to: SocketAddr, who: Who| {
        lab.ns(who).run(|| {
            let domain = if to.is_ipv6() { Domain::IPV6 } else { Domain::IPV4 };
            let socket = Socket::new(domain, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
            let _ = socket.connect(&to.into());
            socket
        })
    };
    let mut begun = Vec::new();
    for q in tcp {
        let family = usize::from(q.v6);
        let to = SocketAddr::new(suite.ends[q.to].addresses[family], q.port);
        begun.push((q, to, begin(suite.ends[q.from].addresses[family], to, who(suite, q.from))));
    }
    let open = |socket: &Socket| socket.peer_addr().is_ok();
    let until = Instant::now() + Duration::from_secs(5);
    while begun.iter().any(|(q, _, s)| q.allowed && !open(s)) && Instant::now() < until {
        thread::sleep(Duration::from_millis(2));
    }
    for (q, to, socket) in &begun {
        assert_eq!(open(socket), q.allowed, "{case}: {} to {to} tcp", suite.ends[q.from].name);
    }
}
