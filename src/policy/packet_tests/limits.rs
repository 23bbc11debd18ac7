//! Limits: how often a rule matches, and how often it logs. They last a day, so that the time a test takes adds nothing.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use socket2::{Domain, Socket, Type};

use super::{
    LB, OTHER, WEB,
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
          { action = "deny", from = { selector = 'role == "lb"' }, protocol = "udp", ports = 7003, log = "3/day burst 3" },
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

/// Two containers that one rule is for, in classes of their own.
struct Both {
    udp: [UdpSocket; 2],
    tcp: [Socket; 2],
}

const MORE: usize = 3;

impl Both {
    fn listen(lab: &Lab) -> Self {
        let each = |number: usize| {
            lab.ns(C([WEB, MORE][number])).run(|| {
                let udp = UdpSocket::bind(("::", 7000)).unwrap();
                udp.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
                let tcp = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
                tcp.bind(&SocketAddr::from(([0u16; 8], 7000)).into()).unwrap();
                tcp.listen(100).unwrap();
                tcp.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
                (udp, tcp)
            })
        };
        let [(udp, tcp), (udp2, tcp2)] = [each(0), each(1)];
        Self { udp: [udp, udp2], tcp: [tcp, tcp2] }
    }

    /// Of so many rounds of new flows of every kind, how many arrive of UDP and of TCP. The sockets that were opened stay
    /// in `open`: what a connection leaves behind when it ends is not counted.
    fn arrivals(&self, lab: &Lab, rounds: usize, open: &mut Vec<Socket>) -> [usize; 2] {
        for _ in 0..rounds {
            for (v6, tcp) in [(V4, true), (V6, true), (V4, false), (V6, false)] {
                // By the selector, and by the address.
                for (from, to) in [(LB, WEB), (OTHER, MORE), (OTHER, WEB), (LB, MORE)] {
                    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
                    let kind = if tcp { Type::STREAM } else { Type::DGRAM };
                    let socket = lab.ns(C(from)).run(|| Socket::new(domain, kind, None)).unwrap();
                    socket.set_nonblocking(true).unwrap();
                    let to = SocketAddr::new(lab.addr(C(to), v6), 7000);
                    // Under way, or refused much later.
                    let _ = socket.connect(&to.into());
                    if !tcp {
                        socket.send(b"new").unwrap();
                    }
                    open.push(socket);
                }
            }
        }
        let heard = |socket: &UdpSocket| std::iter::from_fn(|| socket.recv(&mut [0; 8]).ok()).count();
        let accepted = |socket: &Socket| std::iter::from_fn(|| socket.accept().ok()).count();
        [self.udp.iter().map(heard).sum(), self.tcp.iter().map(accepted).sum()]
    }
}

#[test]
fn a_rule_has_one_limit_for_all_that_it_is_about() {
    let mut lab = Lab::new(4);
    for (container, role) in [(WEB, "web"), (LB, "lb"), (OTHER, "other"), (MORE, "more")] {
        lab.know(container, &[("role", role)]);
    }
    let of_other = [V4, V6].map(|v6| lab.addr(C(OTHER), v6));
    let with = |limit: &str, more: &str| {
        format!(
            r#"[[policy]]
            name = "web"
            select = 'role in {{"web", "more"}}'
            ingress = [{{ action = "allow", from = [{{ selector = 'role == "lb"' }}, {{ cidr = ["{}", "{}"] }}],
                         protocol = ["tcp", "udp"], ports = 7000, limit = "{limit}" }}]
            [[policy]]
            name = "more"
            select = 'role == "more"'
            ingress = [{{ action = "allow", protocol = "tcp", ports = {more} }}]"#,
            of_other[0], of_other[1]
        )
    };
    lab.policies(&with("10/day burst 10", "1"));
    let both = Both::listen(&lab);
    let mut open = Vec::new();
    let [udp, tcp] = both.arrivals(&lab, 3, &mut open);
    assert_eq!(udp + tcp, 10, "{udp} of UDP, {tcp} of TCP");
    // What is used up stays so while other policies, and with them the chain that the rule is in, change.
    lab.policies(&with("10/day burst 10", "2"));
    assert_eq!(both.arrivals(&lab, 1, &mut open), [0, 0]);
    let text = format!("{}\n[[policy]]\nname='x'\nselect='all()'\ningress=[]", with("10/day burst 10", "2"));
    lab.policies(&text);
    assert_eq!(both.arrivals(&lab, 1, &mut open), [0, 0]);
    assert_eq!(lab.enforcer.repair().unwrap(), [], "nor is it a difference");
    // Another rate is another limit, and of the old one nothing is left.
    lab.policies(&with("20/day burst 20", "2"));
    let [udp, tcp] = both.arrivals(&lab, 3, &mut open);
    assert_eq!(udp + tcp, 20, "{udp} of UDP, {tcp} of TCP");
    lab.policies("");
    assert_eq!(lab.enforcer.repair().unwrap(), [], "nothing is left");
}
