//! Traffic that must pass and traffic that must not, while policies change.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use super::{ALWAYS, CLIENT, FORBIDDEN, SERVER, STRANGER, VISITED, VISITOR};
use crate::{
    netlink::ns::Netns,
    policy::packet_tests::lab::{Lab, V4, V6, Who::C},
};

/// How long an answer may take that must come.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Counts {
    exchanged: AtomicU64,
    lost: AtomicU64,
    tcp_exchanged: AtomicU64,
    tcp_lost: AtomicU64,
    refused: AtomicU64,
    leaked: AtomicU64,
    stop: AtomicBool,
}

/// What happened.
#[derive(Debug)]
pub(super) struct Total {
    /// Questions answered over UDP.
    pub(super) exchanged: u64,
    /// And those that were not.
    pub(super) lost: u64,
    pub(super) tcp_exchanged: u64,
    pub(super) tcp_lost: u64,
    /// What TCP had to send again at either end, because it did not arrive.
    pub(super) tcp_retransmitted: u64,
    /// Packets and connections that were tried where nobody may.
    pub(super) refused: u64,
    /// And those that arrived.
    pub(super) leaked: u64,
}

pub(super) struct Traffic {
    counts: Arc<Counts>,
    threads: Vec<thread::JoinHandle<()>>,
    ends: [Netns; 2],
    before: u64,
}

impl Traffic {
    pub(super) fn start(lab: &Lab) -> Self {
        let ends = [CLIENT, SERVER].map(|end| open(lab, end));
        // Probes for lost tails are sent again after a few milliseconds, lost or not.
        for end in [CLIENT, SERVER] {
            lab.ns(C(end)).run(|| crate::netlink::sysctl::write("net/ipv4/tcp_early_retrans", "0").unwrap());
        }
        let before = ends.iter().map(retransmitted).sum();
        let counts = Arc::new(Counts::default());
        let mut threads = vec![listen(lab, &counts), accept(lab, &counts)];
        for v6 in [V4, V6] {
            threads.push(ask(lab, v6, &counts));
            threads.push(stream(lab, v6, &counts));
            threads.push(knock(lab, CLIENT, v6, &counts));
            threads.push(knock(lab, STRANGER, v6, &counts));
            threads.push(knock_by_tcp(lab, v6, &counts));
        }
        Self { counts, threads, ends, before }
    }

    pub(super) fn stop(self) -> Total {
        self.counts.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let count = |c: &AtomicU64| c.load(Ordering::Relaxed);
        let after: u64 = self.ends.iter().map(retransmitted).sum();
        Total {
            exchanged: count(&self.counts.exchanged),
            lost: count(&self.counts.lost),
            tcp_exchanged: count(&self.counts.tcp_exchanged),
            tcp_lost: count(&self.counts.tcp_lost),
            tcp_retransmitted: after.saturating_sub(self.before),
            refused: count(&self.counts.refused),
            leaked: count(&self.counts.leaked),
        }
    }
}

fn open(lab: &Lab, container: usize) -> Netns {
    Netns::open(lab.ns(C(container)).path()).unwrap()
}

/// Segments that TCP sent again in a namespace, without those of which the other end said that it had them already
/// (RFC 2883).
fn retransmitted(ns: &Netns) -> u64 {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap();
    let (snmp, netstat) = ns.run(|| (read("snmp"), read("netstat"))).unwrap();
    let find = |text: &str, group: &str, name: &str| -> u64 {
        let lines: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix(group)).collect();
        let [names, values] = lines[..] else { panic!("{group} of {text}") };
        let at = names.split_whitespace().position(|n| n == name).expect("every kernel counts it");
        values.split_whitespace().nth(at).unwrap().parse().unwrap()
    };
    let needless = find(&netstat, "TcpExt:", "TCPDSACKRecv") + find(&netstat, "TcpExt:", "TCPDSACKOfoRecv");
    find(&snmp, "Tcp:", "RetransSegs").saturating_sub(needless)
}

/// Asks and waits for the answer, over and over; every so often from a new port, which makes a new connection.
fn ask(lab: &Lab, v6: bool, counts: &Arc<Counts>) -> thread::JoinHandle<()> {
    let to = SocketAddr::new(lab.addr(C(SERVER), v6), ALWAYS);
    let from = SocketAddr::new(lab.addr(C(CLIENT), v6), 0);
    let ns = open(lab, CLIENT);
    let counts = counts.clone();
    thread::spawn(move || {
        let open = || {
            let socket = ns.run(|| UdpSocket::bind(from).unwrap()).unwrap();
            socket.connect(to).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        };
        let mut socket = open();
        let mut number = 0u32;
        while !counts.stop.load(Ordering::Relaxed) {
            number += 1;
            if number.is_multiple_of(32) {
                socket = open();
            }
            let asked = number.to_be_bytes();
            let mut answer = [0; 8];
            let answered = socket.send(&asked).is_ok()
                && loop {
                    match socket.recv(&mut answer) {
                        Ok(4) if answer[..4] == asked => break true,
                        Ok(_) => {}
                        Err(_) => break false,
                    }
                };
            let which = if answered { &counts.exchanged } else { &counts.lost };
            which.fetch_add(1, Ordering::Relaxed);
        }
    })
}

/// The same over TCP: one connection lives as long as the test, another one is made anew all the time.
fn stream(lab: &Lab, v6: bool, counts: &Arc<Counts>) -> thread::JoinHandle<()> {
    let to = SocketAddr::new(lab.addr(C(SERVER), v6), ALWAYS);
    let ns = open(lab, CLIENT);
    let counts = counts.clone();
    thread::spawn(move || {
        let open = || ns.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap().ok();
        let exchange = |stream: &mut Option<TcpStream>, number: u32| {
            let asked = number.to_be_bytes();
            let mut answer = [0; 4];
            let works = |s: &mut TcpStream| {
                s.set_read_timeout(Some(PATIENCE)).is_ok()
                    && s.write_all(&asked).is_ok()
                    && s.read_exact(&mut answer).is_ok()
                    && answer == asked
            };
            let works = stream.as_mut().is_some_and(works);
            let which = if works { &counts.tcp_exchanged } else { &counts.tcp_lost };
            which.fetch_add(1, Ordering::Relaxed);
            works
        };
        let mut long = open();
        let mut short = open();
        let mut number = 0u32;
        while !counts.stop.load(Ordering::Relaxed) {
            number += 1;
            if number.is_multiple_of(32) {
                short = open();
            }
            if !exchange(&mut long, number) {
                long = open();
            }
            exchange(&mut short, number);
        }
    })
}

/// Sends where nobody may, from the client and from a stranger.
fn knock(lab: &Lab, from: usize, v6: bool, counts: &Arc<Counts>) -> thread::JoinHandle<()> {
    let to = SocketAddr::new(lab.addr(C(SERVER), v6), FORBIDDEN);
    let from_addr = SocketAddr::new(lab.addr(C(from), v6), 0);
    let socket = lab.ns(C(from)).run(|| UdpSocket::bind(from_addr).unwrap());
    let counts = counts.clone();
    thread::spawn(move || {
        while !counts.stop.load(Ordering::Relaxed) {
            // Rejections come back as errors, which do not matter.
            for _ in 0..64 {
                let _ = socket.send_to(b"let me in", to);
            }
            counts.refused.fetch_add(64, Ordering::Relaxed);
            thread::sleep(Duration::from_micros(200));
        }
    })
}

/// Opens connections where nobody may.
fn knock_by_tcp(lab: &Lab, v6: bool, counts: &Arc<Counts>) -> thread::JoinHandle<()> {
    let to = SocketAddr::new(lab.addr(C(SERVER), v6), FORBIDDEN);
    let ns = open(lab, STRANGER);
    let counts = counts.clone();
    thread::spawn(move || {
        while !counts.stop.load(Ordering::Relaxed) {
            let _ = ns.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(5))).unwrap();
            counts.refused.fetch_add(1, Ordering::Relaxed);
        }
    })
}

/// Counts what arrives although it is forbidden.
fn listen(lab: &Lab, counts: &Arc<Counts>) -> thread::JoinHandle<()> {
    let socket = lab.ns(C(SERVER)).run(|| UdpSocket::bind(("::", FORBIDDEN)).unwrap());
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let counts = counts.clone();
    thread::spawn(move || {
        while !counts.stop.load(Ordering::Relaxed) {
            if socket.recv(&mut [0; 16]).is_ok() {
                counts.leaked.fetch_add(1, Ordering::Relaxed);
            }
        }
    })
}

fn accept(lab: &Lab, counts: &Arc<Counts>) -> thread::JoinHandle<()> {
    let listener = lab.ns(C(SERVER)).run(|| TcpListener::bind(("::", FORBIDDEN)).unwrap());
    listener.set_nonblocking(true).unwrap();
    let counts = counts.clone();
    thread::spawn(move || {
        while !counts.stop.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok(_) => _ = counts.leaked.fetch_add(1, Ordering::Relaxed),
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    })
}

/// An endpoint that comes and goes: what it says arrives exactly while it is there.
pub(super) struct Visitor {
    pub(super) is_there: bool,
    /// Messages that arrived although it was not there.
    pub(super) leaked: u64,
    /// Messages that arrived, all that should.
    pub(super) arrived: u64,
    senders: [UdpSocket; 2],
    receiver: UdpSocket,
    to: [SocketAddr; 2],
}

impl Visitor {
    /// Not known to policy yet, but about to be.
    pub(super) fn new(lab: &Lab) -> Self {
        let sender = |v6| {
            let from = SocketAddr::new(lab.addr(C(VISITOR), v6), 0);
            lab.ns(C(VISITOR)).run(|| UdpSocket::bind(from).unwrap())
        };
        // Who is away gets no answer about the gateway's address either, and what waits for one would come late.
        lab.ns(C(VISITOR)).run(|| {
            for family in ["ipv4", "ipv6"] {
                let setting = format!("net/{family}/neigh/eth0/base_reachable_time_ms");
                crate::netlink::sysctl::write(&setting, "36000000").unwrap();
            }
        });
        let receiver = lab.ns(C(SERVER)).run(|| UdpSocket::bind(("::", VISITED)).unwrap());
        receiver.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            is_there: true,
            leaked: 0,
            arrived: 0,
            senders: [V4, V6].map(sender),
            receiver,
            to: [V4, V6].map(|v6| SocketAddr::new(lab.addr(C(SERVER), v6), VISITED)),
        }
    }

    /// Says something in both families. When it is there it must arrive, and nothing else before that.
    pub(super) fn knock(&mut self, lab: &Lab) {
        let word: &[u8] = if self.is_there { b"here" } else { b"away" };
        for (sender, to) in self.senders.iter().zip(self.to) {
            sender.send_to(word, to).unwrap();
            let mut heard = [0; 8];
            while self.is_there {
                let length = self.receiver.recv(&mut heard).expect("what the visitor says arrives");
                if &heard[..length] == word {
                    self.arrived += 1;
                    break;
                }
                self.leaked += 1;
            }
        }
        if !self.is_there {
            // Whatever is on the way has been judged when a later exchange is over.
            assert!(lab.chat(C(CLIENT), C(SERVER), V4, ALWAYS).works(true));
        }
    }
}
