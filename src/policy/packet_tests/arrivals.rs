//! Addresses that become a container's, or the host's, while somebody goes on sending to them.

use std::{
    net::{IpAddr, UdpSocket},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use super::lab::{
    Lab, V4, V6,
    Who::{self, C, Host, Outside},
    config, ip,
};
use crate::policy::engine::EngineConfig;

const SENDER: usize = 0;
const NEWCOMER: usize = 1;
const CLOSED: &str = "[[policy]]\nname='p'\nselect='role == \"closed\"'\ningress=[]\negress=[]\n";

fn bind(lab: &Lab, who: Who, addr: IpAddr, port: u16) -> UdpSocket {
    let socket = lab.ns(who).run(|| UdpSocket::bind((addr, port)).unwrap());
    socket.set_read_timeout(Some(Duration::from_millis(250))).unwrap();
    socket
}

/// Whether what one sends to an address gets to the other; of what must arrive the first may be lost, or late.
fn gets(from: &UdpSocket, to: (IpAddr, u16), at: &UdpSocket, hopeful: bool) -> bool {
    static WORDS: AtomicU32 = AtomicU32::new(0);
    (0..if hopeful { 20 } else { 2 }).any(|_| {
        let word = WORDS.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        from.send_to(&word, to).unwrap();
        let mut heard = [0; 4];
        std::iter::from_fn(|| at.recv(&mut heard).is_ok().then_some(heard)).any(|heard| heard == word)
    })
}

/// Gives the machine outside an address, and has the host's packets to it go there.
fn leads_outside(lab: &Lab, addr: IpAddr) {
    let v6 = addr.is_ipv6();
    ip(&lab.outside, &format!("addr add {addr} dev lo{}", if v6 { " nodad" } else { "" }));
    ip(&lab.host, &format!("route replace {addr} via {}", if v6 { "2001:db8::2" } else { "192.0.2.2" }));
}

/// The rules of a container are in force before its route exists. What is judged in between is judged by its other end
/// alone, wherever it goes, and must not count as judged when the route is there: neither what is sent to the address,
/// nor answers to what was sent from it.
#[test]
fn connections_in_the_gap_before_the_route_are_judged_anew() {
    for (known_before, forward) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut lab = Lab::silent(2);
        lab.know(SENDER, &[("role", "sender")]);
        lab.policies(CLOSED);
        if known_before {
            lab.know(NEWCOMER, &[("role", "open")]);
            let id = lab.containers[NEWCOMER].id.clone();
            lab.enforcer.engine_mut().remove_local(&id);
            lab.enforcer.commit().unwrap();
        } else {
            // An address of no pool, which policy has never heard of.
            lab.enforcer.engine_mut().set_config(EngineConfig { pools: Vec::new(), ..config() });
            lab.enforcer.commit().unwrap();
        }
        let mut flows = Vec::new();
        for v6 in [V4, V6] {
            let addr = lab.addr(C(NEWCOMER), v6);
            leads_outside(&lab, addr);
            let (mine, theirs) = (lab.addr(C(SENDER), v6), bind(&lab, Outside, addr, 5300));
            let own = bind(&lab, C(SENDER), mine, 5301);
            // Who speaks first decides which way the connection is judged.
            let (first, second) = ((&own, (addr, 5300), &theirs), (&theirs, (mine, 5301), &own));
            let turns = if forward { [first, second] } else { [second, first] };
            for (from, to, at) in turns {
                assert!(gets(from, to, at, true), "a connection with who has the address now");
            }
            flows.push((v6, addr, own, theirs));
        }
        lab.expect_container(NEWCOMER, &[("role", "closed")]);
        for (_, addr, own, theirs) in &flows {
            assert!(gets(own, (*addr, 5300), theirs, true), "there is no other way yet");
        }
        let id = lab.containers[NEWCOMER].id.clone();
        let check = |lab: &Lab, allowed: bool| {
            for (v6, addr, own, _) in &flows {
                let server = bind(lab, C(NEWCOMER), *addr, 5300);
                let what = format!("IPv6 {v6}, sent to it {forward}, known {known_before}");
                assert_eq!(gets(own, (*addr, 5300), &server, allowed), allowed, "{what}");
                let mine = lab.addr(C(SENDER), *v6);
                assert_eq!(gets(&server, (mine, 5301), own, allowed), allowed, "its answers: {what}");
            }
        };
        for (_, addr, ..) in &flows {
            ip(&lab.host, &format!("route replace {addr} dev {id}"));
        }
        check(&lab, false);
        lab.arrived(NEWCOMER);
        check(&lab, false);
        lab.policies("");
        check(&lab, true);
        assert_eq!(lab.enforcer.repair().unwrap(), []);
    }
}

/// Nothing is left unstamped: when the route is there, what is allowed is judged once and not packet by packet.
#[test]
fn after_the_arrival_connections_are_judged_once() {
    let mut lab = Lab::new(2);
    lab.know(SENDER, &[("role", "sender")]);
    lab.know(NEWCOMER, &[("role", "server")]);
    let id = lab.containers[NEWCOMER].id.clone();
    lab.enforcer.engine_mut().remove_local(&id);
    lab.policies(
        "[[policy]]\nname='p'\nselect='role == \"server\"'\ningress=[{action='allow', protocol='udp'}]\n",
    );
    let judged = |lab: &mut Lab| -> u64 {
        let counters = lab.enforcer.driver().counters().unwrap();
        counters.iter().filter(|c| c.comment.contains("p ingress 1")).map(|c| c.packets).sum()
    };
    lab.expect_container(NEWCOMER, &[("role", "server")]);
    let mut chats = [V4, V6].map(|v6| lab.chat(C(SENDER), C(NEWCOMER), v6, 53));
    assert!(chats.iter_mut().all(|chat| chat.works(true)));
    let before = judged(&mut lab);
    assert!(chats.iter_mut().all(|chat| chat.works(true)));
    assert!(judged(&mut lab) > before, "not stamped while it arrives");
    lab.arrived(NEWCOMER);
    assert!(chats.iter_mut().all(|chat| chat.works(true)));
    let before = judged(&mut lab);
    for _ in 0..3 {
        assert!(chats.iter_mut().all(|chat| chat.works(true)));
    }
    assert_eq!(judged(&mut lab), before);
}

/// A connection through the host is none to the host, and the other way round.
#[test]
fn an_address_that_becomes_the_hosts_or_is_so_no_more_is_judged_anew() {
    let mut lab = Lab::silent(2);
    lab.know(SENDER, &[("role", "sender")]);
    lab.know(NEWCOMER, &[("role", "other")]);
    lab.policies(
        "[[policy]]\nname='p'\nselect='role == \"sender\"'\negress=[{action='allow'}]\n\
         [[policy]]\nname='q'\nselect='role == \"other\"'\negress=[{action='allow', to='host'}]\n",
    );
    for (v6, addr, via) in [(V4, "10.99.0.1", "192.0.2.2"), (V6, "fd00:99::1", "2001:db8::2")] {
        let nodad = if v6 { " nodad" } else { "" };
        let to: IpAddr = addr.parse().unwrap();
        leads_outside(&lab, to);
        let outside = bind(&lab, Outside, to, 5300);
        let own = bind(&lab, C(SENDER), lab.addr(C(SENDER), v6), 5301);
        assert!(gets(&own, (to, 5300), &outside, true));
        assert!(gets(&outside, (lab.addr(C(SENDER), v6), 5301), &own, true), "an answer");
        // Not among what endpoints may reach on their host.
        ip(&lab.host, &format!("route del {addr}{}", if v6 { String::new() } else { format!(" via {via}") }));
        ip(&lab.host, &format!("addr add {addr} dev lo{nodad}"));
        lab.enforcer.engine_mut().judge_anew();
        lab.enforcer.commit().unwrap();
        let host = bind(&lab, Host, to, 5300);
        assert!(!gets(&own, (to, 5300), &host, false), "{addr} is the host's now");
        // One that may reach the host and nothing else.
        let dns = bind(&lab, Host, to, 53);
        let other = bind(&lab, C(NEWCOMER), lab.addr(C(NEWCOMER), v6), 5302);
        assert!(gets(&other, (to, 53), &dns, true));
        assert!(gets(&dns, (lab.addr(C(NEWCOMER), v6), 5302), &other, true), "an answer");
        drop(dns);
        ip(&lab.host, &format!("addr del {addr} dev lo"));
        ip(&lab.host, &format!("route replace {addr} via {via}"));
        lab.enforcer.engine_mut().judge_anew();
        lab.enforcer.commit().unwrap();
        let elsewhere = bind(&lab, Outside, to, 53);
        assert!(!gets(&other, (to, 53), &elsewhere, false), "{addr} is the host's no more");
        assert!(gets(&own, (to, 5300), &outside, true), "what is allowed goes on");
    }
}
