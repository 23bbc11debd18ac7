//! Limits: how often a rule matches, and how often it logs. They last a day, so that the time a test takes adds nothing.

use std::{net::UdpSocket, time::Duration};

use super::{
    LB, WEB,
    lab::{Lab, V4, V6, Who::C},
    three,
};
use crate::netlink::NfLog;

/// So many new flows are tried in each family.
const TRIES: usize = 30;
/// What is always allowed.
const FREE: u16 = 7999;

fn policies(lab: &mut Lab) {
    lab.policies(
        r#"[[policy]]
        name = "web"
        select = 'role == "web"'
        ingress = [
          { action = "allow", protocol = "udp", ports = 7000, limit = "6/day burst 6" },
          { action = "allow", protocol = "udp", ports = [7001, 7002], limit = "4/day burst 4" },
          { action = "allow", protocol = "udp", ports = 7002 },
          { action = "deny", protocol = "udp", ports = 7003, log = "3/day burst 3" },
          { action = "allow", protocol = "udp", ports = 7999 },
        ]"#,
    );
}

/// How many of many new flows to a port arrive.
fn arrivals(lab: &Lab, port: u16) -> usize {
    let bind = |port| lab.ns(C(WEB)).run(|| UdpSocket::bind(("::", port)).unwrap());
    let (receiver, free) = (bind(port), bind(FREE));
    free.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    receiver.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut heard = [0; 8];
    for v6 in [V4, V6] {
        let (from, to) = (lab.addr(C(LB), v6), lab.addr(C(WEB), v6));
        for _ in 0..TRIES {
            let socket = lab.ns(C(LB)).run(|| UdpSocket::bind((from, 0)).unwrap());
            socket.send_to(b"new", (to, port)).unwrap();
        }
        // What comes later on the same way has arrived.
        let socket = lab.ns(C(LB)).run(|| UdpSocket::bind((from, 0)).unwrap());
        let arrives = |_| socket.send_to(b"after", (to, FREE)).is_ok() && free.recv(&mut heard).is_ok();
        assert!((0..50).any(arrives), "what is allowed arrives");
    }
    std::iter::from_fn(|| receiver.recv(&mut heard).ok()).count()
}

#[test]
fn a_limited_rule_matches_so_often_and_no_more() {
    let mut lab = three();
    policies(&mut lab);
    assert_eq!(arrivals(&lab, 7000), 6, "of both families together");
    // What is beyond the limit goes on to the next rule: refused on the one port, allowed on the other.
    assert_eq!(arrivals(&lab, 7001), 4);
    assert_eq!(arrivals(&lab, 7002), 2 * TRIES);
    assert_eq!(arrivals(&lab, 7003), 0);
}

#[test]
fn a_flow_that_was_let_in_is_not_limited() {
    let mut lab = three();
    policies(&mut lab);
    let server = lab.ns(C(WEB)).run(|| UdpSocket::bind(("::", 7000)).unwrap());
    server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let client = lab.ns(C(LB)).run(|| UdpSocket::bind((lab.addr(C(LB), V6), 0)).unwrap());
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    client.connect((lab.addr(C(WEB), V6), 7000)).unwrap();
    let mut heard = [0; 8];
    for _ in 0..50 {
        client.send(b"more").unwrap();
        let (_, from) = server.recv_from(&mut heard).expect("of a flow that was let in, everything arrives");
        // The answer makes the flow an established one.
        server.send_to(b"well", from).unwrap();
        client.recv(&mut heard).expect("answers arrive");
    }
}

#[test]
fn a_flow_that_was_let_in_is_judged_again_without_a_token() {
    let mut lab = three();
    let with = |other: &str| {
        let limited = "{ action = 'allow', protocol = 'udp', ports = 7000, limit = '3/day burst 3' }";
        format!("[[policy]]\nname='web'\nselect='role == \"web\"'\ningress=[{limited}]\n{other}")
    };
    lab.policies(&with(""));
    let server = lab.ns(C(WEB)).run(|| UdpSocket::bind(("::", 7000)).unwrap());
    server.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let client = || {
        let socket = lab.ns(C(LB)).run(|| UdpSocket::bind((lab.addr(C(LB), V6), 0)).unwrap());
        socket.connect((lab.addr(C(WEB), V6), 7000)).unwrap();
        socket
    };
    let arrives = |socket: &UdpSocket| {
        socket.send(b"one").unwrap();
        server.recv(&mut [0; 8]).is_ok()
    };
    let flows = [client(), client(), client()];
    let late = client();
    assert!(flows.iter().all(arrives), "three have a token");
    assert!(!arrives(&late), "the fourth has none");
    for ports in [9000, 9001] {
        let other = format!(
            "[[policy]]\nname='other'\nselect='role == \"lb\"'\ningress=[{{action='allow',protocol='tcp',ports={ports}}}]"
        );
        lab.policies(&with(&other));
        assert!(flows.iter().all(arrives), "a change of other policies cuts nobody");
        assert!(!arrives(&late));
    }
}

#[test]
fn a_rule_logs_so_often_and_no_more() {
    let mut lab = three();
    let group = lab.enforcer.driver().settings().log_group;
    let mut log = lab.host.run(|| NfLog::open(group)).unwrap();
    policies(&mut lab);
    assert_eq!(arrivals(&lab, 7003), 0);
    let mut prefixes = Vec::new();
    loop {
        let more = log.wait(Duration::from_millis(300)).unwrap();
        if more.is_empty() {
            break;
        }
        prefixes.extend(more.into_iter().map(|p| p.prefix));
    }
    assert_eq!(prefixes.len(), 3, "{prefixes:?}");
    assert!(prefixes.iter().all(|p| p.contains("default/web ingress 4")), "{prefixes:?}");
}
