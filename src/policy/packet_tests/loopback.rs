//! Loopback addresses and host policies: what the host says to itself is free, and nobody else gets at it.

use std::{
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

use super::{
    lab::{
        Lab, V4, V6,
        Via::Tcp,
        Who::{C, Host, Outside},
        ip,
    },
    raw::{WITH_HEADER, udp},
};
use crate::netlink::{ns::testing::NamedNetns, sysctl};

const CLOSED: &str = "[[host_policy]]\nname = 'closed'\ningress = []\n";

fn connects(ns: &NamedNetns, to: &str, port: u16, wait: u64) -> bool {
    let to = SocketAddr::new(to.parse().unwrap(), port);
    ns.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(wait))).is_ok()
}

/// Has a machine take packets to 127.0.0.0/8 for what may be routed.
fn route_localnet(ns: &NamedNetns, dev: &str) {
    ns.run(|| sysctl::write(&format!("net/ipv4/conf/{dev}/route_localnet"), "1").unwrap());
}

#[test]
fn the_host_talks_to_itself_whatever_its_policies_say() {
    let mut lab = Lab::new(1);
    lab.know(0, &[]);
    lab.policies(CLOSED);
    for to in ["127.0.0.1", "127.3.2.1", "::1", "192.0.2.1", "2001:db8::1"] {
        assert!(connects(&lab.host, to, 443, 5000), "{to}");
    }
    // A policy that is for this interface by name has no say either.
    lab.policies("[[host_policy]]\nname = 'closed'\ninterfaces = ['lo', 'l*']\ningress = []\n");
    for to in ["127.0.0.1", "::1", "192.0.2.1", "2001:db8::1"] {
        assert!(connects(&lab.host, to, 443, 5000), "{to}");
    }
    lab.expect(Outside, Host, Tcp, 443, true);
}

/// The kernel drops packets to 127.0.0.0/8 that come by a cable, unless `route_localnet` says otherwise, which others
/// switch on (kube-proxy does).
#[test]
fn who_is_elsewhere_does_not_get_to_loopback_addresses() {
    let mut lab = Lab::new(1);
    lab.know(0, &[]);
    let dev = lab.containers[0].id.as_str().to_owned();
    for dev in ["eth0", dev.as_str()] {
        route_localnet(&lab.host, dev);
    }
    for (ns, via) in [(&lab.outside, "192.0.2.1"), (&lab.containers[0].ns, "169.254.1.1")] {
        route_localnet(ns, "eth0");
        ip(ns, "addr del 127.0.0.1/8 dev lo");
        let source = if via == "192.0.2.1" { "192.0.2.2" } else { "10.32.4.2" };
        ip(ns, &format!("route add 127.0.0.9/32 via {via} dev eth0 src {source}"));
    }
    assert!(connects(&lab.outside, "127.0.0.9", 443, 5000), "the way there is open");
    let container = &lab.containers[0].ns;
    assert!(!connects(container, "127.0.0.9", 443, 300), "what is not in endpoint_to_host");
    assert!(connects(container, "127.0.0.9", 53, 5000), "what is");
    lab.policies(CLOSED);
    assert!(!connects(&lab.outside, "127.0.0.9", 443, 300), "a host policy closes it");
    assert!(connects(&lab.host, "127.0.0.9", 443, 5000), "for others");
    lab.expect(C(0), Host, Tcp, 53, true);
}

/// Nobody but the host has a loopback address for a source.
#[test]
fn a_loopback_source_comes_from_nowhere() {
    let mut lab = Lab::silent(1);
    lab.know(0, &[]);
    lab.policies(
        "[[host_policy]]\nname = 'open'\n\
         ingress = [{ action = 'allow', from = { cidr = ['127.0.0.0/8', '::1/128', '192.0.2.0/24', '2001:db8::/64'] } }]\n",
    );
    for v6 in [V4, V6] {
        let ears = lab.host.run(|| UdpSocket::bind((lab.addr(Host, v6), 7777)).unwrap());
        ears.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
        let mouth =
            lab.outside.run(|| Socket::new(domain, Type::RAW, Some(Protocol::from(WITH_HEADER))).unwrap());
        let to = lab.addr(Host, v6);
        let send = |source: IpAddr, word: &[u8]| {
            // The kernel may refuse to send what is forged.
            mouth.send_to(&udp(source, to, word), &SocketAddr::new(to, 0).into()).is_ok()
        };
        let forged: &[&str] = if v6 { &["::1"] } else { &["127.0.0.1", "127.9.9.9"] };
        let heard = |word: &[u8], source: IpAddr| {
            (0..10).any(|_| {
                for forged in forged {
                    send(forged.parse().unwrap(), b"forged");
                }
                assert!(send(source, word));
                let mut buf = [0; 16];
                std::iter::from_fn(|| ears.recv(&mut buf).ok().map(|n| buf[..n].to_vec())).any(|got| {
                    assert_ne!(got, b"forged");
                    got == word
                })
            })
        };
        assert!(heard(b"true", lab.addr(Outside, v6)));
    }
}
