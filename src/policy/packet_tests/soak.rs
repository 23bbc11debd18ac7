//! Changes without end under traffic: what every state allows always passes, and what every state refuses never does.
//!
//! `SLASH32_SOAK=10000 cargo test --lib policy::packet_tests::soak` makes so many changes instead of a few.

use std::{
    fmt::Write as _,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use super::lab::{
    Lab, V4, V6,
    Via::{Tcp, Udp},
    Who::C,
    config,
};
use crate::{
    model::{Identity, Labels, Prefix},
    policy::{Enforcer, nft::Settings},
};

const SERVER: usize = 0;
const CLIENT: usize = 1;
const STRANGER: usize = 2;
const EXTRA: usize = 3;
/// Where nobody may send to in any state.
const FORBIDDEN: u16 = 9999;
/// The port that the client may always use, and one that only some states allow.
const ALWAYS: u16 = 80;
const SOMETIMES: u16 = 8080;

/// A small generator (xorshift), so that a run can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Policies of which all have in common that the client reaches the server's port and nobody the forbidden one.
fn policies(random: &mut Random) -> (String, bool) {
    let sometimes = random.below(2) == 0;
    let mut out = String::from("[[tier]]\nname = 'first'\norder = 1\ndefault = 'pass'\n");
    let mut noise = |out: &mut String| {
        for _ in 0..random.below(4) {
            let peer =
                ["role == 'client'", "has(x)", "x == 'x1'", "role != 'server'"][random.below(4) as usize];
            let action = ["allow", "deny", "reject", "log", "allow"][random.below(5) as usize];
            let port = 1000 + random.below(50);
            let _ = writeln!(
                out,
                "{{ action = '{action}', from = {{ selector = \"{peer}\" }}, protocol = 'udp', ports = {port} }},"
            );
        }
    };
    // Who is asked first, by what it ends, and what else is there differs.
    let _ = writeln!(
        out,
        "[[policy]]\nname = 'always'\ntier = 'first'\nselect = \"role == 'server'\"\ningress = ["
    );
    noise(&mut out);
    let _ = writeln!(out, "{{ action = 'deny', protocol = 'udp', ports = {FORBIDDEN} }},");
    noise(&mut out);
    let _ = writeln!(
        out,
        "{{ action = 'pass' }}]\n[[policy]]\nname = 'server'\nselect = \"role == 'server'\"\ningress = ["
    );
    noise(&mut out);
    let _ = writeln!(
        out,
        "{{ action = 'allow', from = {{ selector = \"role == 'client'\" }}, protocol = ['udp', 'tcp'], ports = {ALWAYS} }},"
    );
    if sometimes {
        let _ = writeln!(out, "{{ action = 'allow', protocol = ['udp', 'tcp'], ports = {SOMETIMES} }},");
    }
    noise(&mut out);
    out.push_str("]\n");
    for i in 0..random.below(4) {
        let select = ["all()", "has(x)", "x == 'x1'", "role == 'client'"][random.below(4) as usize];
        let _ = writeln!(
            out,
            "[[policy]]\nname = 'more{i}'\nselect = \"{select}\"\negress = [{{ action = 'allow' }}]"
        );
    }
    (out, sometimes)
}

#[derive(Default)]
struct Counts {
    exchanged: AtomicU64,
    lost: AtomicU64,
    refused: AtomicU64,
    leaked: AtomicU64,
    stop: AtomicBool,
}

/// Asks and waits for the answer, over and over; every so often from a new port, which makes a new connection.
fn ask(lab: &Lab, v6: bool, counts: &Arc<Counts>) -> thread::JoinHandle<()> {
    let to = SocketAddr::new(lab.addr(C(SERVER), v6), ALWAYS);
    let from = SocketAddr::new(lab.addr(C(CLIENT), v6), 0);
    let ns = crate::netlink::ns::Netns::open(lab.ns(C(CLIENT)).path()).unwrap();
    let counts = counts.clone();
    thread::spawn(move || {
        let open = || {
            let socket = ns.run(|| UdpSocket::bind(from).unwrap()).unwrap();
            socket.connect(to).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
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

#[test]
fn changes_without_end_pass_and_drop_nothing_wrongly() {
    let changes: u64 = std::env::var("SLASH32_SOAK").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    let mut random = Random(0x5eed_5eed_5eed_5eed);
    let mut lab = Lab::new(4);
    let (mut text, mut sometimes) = policies(&mut random);
    lab.policies(&text);
    let role = ["server", "client", "stranger", "extra"];
    let mut extra = [String::from("x0"), String::from("x0"), String::from("x0"), String::from("x0")];
    for i in [SERVER, CLIENT, STRANGER, EXTRA] {
        lab.know(i, &[("role", role[i]), ("x", "x0")]);
    }
    lab.expect(C(CLIENT), C(SERVER), Udp, ALWAYS, true);
    lab.expect(C(CLIENT), C(SERVER), Tcp, ALWAYS, true);
    let counts = Arc::new(Counts::default());
    let mut threads = vec![listen(&lab, &counts)];
    for v6 in [V4, V6] {
        threads.push(ask(&lab, v6, &counts));
        threads.push(knock(&lab, CLIENT, v6, &counts));
        threads.push(knock(&lab, STRANGER, v6, &counts));
    }
    for change in 0..changes {
        match random.below(10) {
            0..5 => {
                (text, sometimes) = policies(&mut random);
                lab.policies(&text);
            }
            5 | 6 => {
                let i = random.below(4) as usize;
                extra[i] = format!("x{}", random.below(3));
                lab.know(i, &[("role", role[i]), ("x", &extra[i])]);
            }
            7 | 8 => {
                let prefix: Prefix = format!("10.32.9.{}", random.below(20)).parse().unwrap();
                let labels = Labels::try_from([("role", "client"), ("x", "x1")]).unwrap();
                if random.below(2) == 0 {
                    lab.enforcer.engine_mut().upsert_remote(prefix, Arc::new(Identity::of(&labels)));
                } else {
                    lab.enforcer.engine_mut().remove_remote(prefix);
                }
                lab.enforcer.commit().unwrap();
            }
            // Another agent takes over, with other policies.
            _ => {
                (text, sometimes) = policies(&mut random);
                let next = lab.host.run(|| Enforcer::open(config(), Settings::default())).unwrap();
                let locals: Vec<_> = lab.enforcer.engine().locals().cloned().collect();
                lab.enforcer = next;
                let set = crate::policy::language::parse(&[("test.toml", &text)]).unwrap();
                lab.enforcer.engine_mut().set_policies(Arc::new(set));
                for local in locals {
                    lab.enforcer.engine_mut().upsert_local(local);
                }
                lab.enforcer.commit().unwrap();
            }
        }
        // What only some states allow is as the present one says.
        if change.is_multiple_of(50) {
            lab.expect(C(STRANGER), C(SERVER), Udp, SOMETIMES, sometimes);
        }
        if change % 1000 == 999 {
            eprintln!("{} changes", change + 1);
        }
    }
    counts.stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().unwrap();
    }
    let count = |c: &AtomicU64| c.load(Ordering::Relaxed);
    let (exchanged, refused) = (count(&counts.exchanged), count(&counts.refused));
    eprintln!("{changes} changes, {exchanged} exchanges, {refused} refused packets");
    assert!(exchanged > 100 && refused > 1000, "there was traffic");
    assert_eq!((count(&counts.lost), count(&counts.leaked)), (0, 0), "lost and leaked");
    assert_eq!(lab.enforcer.repair().unwrap(), []);
}
