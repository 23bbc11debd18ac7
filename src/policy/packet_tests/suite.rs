//! The suite of NetworkPolicy cases, with real packets: every question over UDP in both families, some over TCP.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

use super::lab::{
    Lab, V6,
    Who::{self, C, Outside},
    ip,
};
use crate::policy::{
    Protocol,
    engine::{EngineConfig, LocalEndpoint},
    language,
    suite::{Question, Suite},
};

/// Every so many steps TCP is asked as well, which takes longer.
const TCP_EVERY: usize = 16;

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
    let udp = |q: &&Question| q.protocol == Protocol::UDP;
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
    let receivers: Vec<UdpSocket> = ends()
        .flat_map(|end| ports.iter().flat_map(move |p| [(end, *p)]))
        .flat_map(|(end, port)| bind(end, port))
        .collect();
    let config = EngineConfig { protected: Vec::new(), infrastructure: Vec::new(), ..super::lab::config() };
    lab.enforcer.engine_mut().set_config(config);
    let mut packets = 0;
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
        let asked: Vec<&Question> = questions.iter().filter(udp).collect();
        let mut missing: BTreeSet<usize> = BTreeSet::new();
        for (i, q) in asked.iter().enumerate() {
            let family = usize::from(q.v6);
            let message = [number as u32, i as u32].map(u32::to_be_bytes).concat();
            let to = SocketAddr::new(suite.ends[q.to].addresses[family], q.port);
            senders[q.from][family].send_to(&message, to).unwrap();
            packets += 1;
            if q.allowed {
                missing.insert(i);
            }
        }
        let told = |i: usize| {
            let q = asked[i];
            let name = |end: usize| suite.ends[end].name.clone();
            format!(
                "{}: {} to {} udp/{} IPv{}\n{}",
                case.name,
                name(q.from),
                name(q.to),
                q.port,
                if q.v6 { 6 } else { 4 },
                step.yaml
            )
        };
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            for receiver in &receivers {
                let mut message = [0; 8];
                while let Ok(8) = receiver.recv(&mut message) {
                    let word =
                        |at: usize| u32::from_be_bytes(message[at..at + 4].try_into().unwrap()) as usize;
                    assert_eq!(
                        word(0),
                        number,
                        "{}: a packet of an earlier step came late, or after all",
                        case.name
                    );
                    let i = word(4);
                    assert!(asked[i].allowed, "passed: {}", told(i));
                    missing.remove(&i);
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
    eprintln!("{packets} packets");
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
