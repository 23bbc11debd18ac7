//! On the real kernel: a "host" in a private namespace, containers in named ones.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Command,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    cni::{attachment::tests::sample, types::Route},
    netlink::{
        addr,
        ns::testing::{NamedNetns, private},
    },
};

struct Container {
    ns: NamedNetns,
    attachment: Attachment,
}

fn container(attacher: &mut Attacher, n: u8) -> Container {
    let ns = NamedNetns::create("s32a").unwrap();
    let mut attachment = sample(&format!("c{n}"), n.into());
    attachment.endpoint.netns = ns.path().to_str().unwrap().to_owned();
    attachment.netns_id = ns.netns().id();
    attachment.endpoint.ipv4 = Some([10, 32, 4, n].into());
    attachment.endpoint.ipv6 = Some(format!("fd00:32::{n:x}").parse().unwrap());
    attachment.mac = Mac::from_hash([2, 0, 0, 0, 0, n]);
    attachment.ifindex = attacher.next_index();
    Container { ns, attachment }
}

use crate::cni::types::Mac;

fn attached(attacher: &mut Attacher, n: u8) -> Container {
    let container = container(attacher, n);
    attacher
        .attach(&container.attachment, container.ns.netns(), &mut attacher.enter(container.ns.netns()), || {})
        .unwrap();
    container
}

fn host() -> Attacher {
    prepare::enable_forwarding().unwrap();
    // A host has an address of its own, which packets from it have as their source.
    addr::add(&mut Socket::route().unwrap(), 1, "192.0.2.1".parse().unwrap(), 32).unwrap();
    Attacher::start(AttachConfig::default()).unwrap()
}

/// Answers what it receives, until the socket's namespace or the test ends.
fn echo(addr: IpAddr) -> SocketAddr {
    let socket = UdpSocket::bind((addr, 0)).unwrap();
    let at = socket.local_addr().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    std::thread::spawn(move || {
        let mut buf = [0; 64];
        while let Ok((n, from)) = socket.recv_from(&mut buf) {
            let _ = socket.send_to(&buf[..n], from);
        }
    });
    at
}

/// Whether an answer comes back, and from which address the question seemed to come.
fn asks(to: SocketAddr) -> bool {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    // Loss before the route is there must show, so there is one question only.
    socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    socket.connect(to).unwrap();
    socket.send(b"x").is_ok() && socket.recv(&mut [0; 8]).is_ok()
}

fn ping(target: &str) -> bool {
    Command::new("ping").args(["-c1", "-W3", "-n", target]).output().is_ok_and(|o| o.status.success())
}

fn hide(attacher: &Attacher, attachment: &Attachment) {
    if let Some(mut inside) = attacher.enter_again(attachment) {
        attacher.hide(attachment, &mut inside).unwrap();
    }
}

#[test]
fn packets_flow_at_once_both_ways_without_a_default_route_on_the_host() {
    private(|| {
        let mut attacher = host();
        let (a, b) = (attached(&mut attacher, 1), attached(&mut attacher, 2));
        for (one, two) in [(&a, &b), (&b, &a)] {
            for addr in two.attachment.endpoint.addresses() {
                let at = two.ns.run(|| echo(addr));
                assert!(one.ns.run(|| asks(at)), "container to container, {addr}");
                assert!(asks(at), "host to container, {addr}");
            }
        }
        // The gateway is an ordinary neighbour that answers ARP and ping.
        assert!(a.ns.run(|| ping("169.254.1.1")));
        assert!(a.ns.run(|| ping(&format!("{}%eth0", a.attachment.gateway6()))));
        let neighbours = a.ns.run(|| crate::netlink::neigh::list(&mut Socket::route().unwrap()).unwrap());
        let gateway = neighbours.iter().find(|n| n.addr == IpAddr::V4(a.attachment.gateway4())).unwrap();
        assert_eq!(gateway.hardware, Mac::HOST_END.octets());
        assert_eq!(gateway.state & crate::netlink::neigh::Neighbour::PERMANENT, 0);
        assert_eq!(attacher.check(&a.attachment).unwrap(), []);
        // The kernel goes through all IPv6 routes of the host for each link that comes up: no more than are needed, which
        // are the container's, the gateway's, and the kernel's own for multicast packets.
        let routes = Command::new("ip")
            .args(["-6", "route", "show", "table", "all", "dev", a.attachment.endpoint.id.as_str()])
            .output()
            .unwrap();
        let routes = String::from_utf8(routes.stdout).unwrap();
        assert_eq!(routes.lines().count(), 3, "{routes}");
    });
}

#[test]
fn arp_ignore_on_the_host_does_not_matter() {
    private(|| {
        sysctl::write("net/ipv4/conf/all/arp_ignore", "2").unwrap();
        let mut attacher = host();
        let (a, b) = (attached(&mut attacher, 1), attached(&mut attacher, 2));
        let at = b.ns.run(|| echo(b.attachment.endpoint.ipv4.unwrap().into()));
        assert!(a.ns.run(|| asks(at)));
    });
}

#[test]
fn the_host_end_is_as_designed() {
    private(|| {
        let mut attacher = host();
        let mut a = container(&mut attacher, 1);
        a.attachment.port_mappings.push(crate::cni::types::PortMapping {
            host_port: 80,
            container_port: 80,
            protocol: crate::cni::types::L4::Tcp,
            host_ip: None,
        });
        attacher.attach(&a.attachment, a.ns.netns(), &mut attacher.enter(a.ns.netns()), || {}).unwrap();
        let id = &a.attachment.endpoint.id;
        let conf = |key: &str| sysctl::read(&format!("net/ipv4/conf/{id}/{key}")).unwrap();
        assert_eq!(
            (conf("forwarding"), conf("proxy_arp"), conf("rp_filter")),
            ("1".into(), "1".into(), "1".into())
        );
        assert_eq!(conf("route_localnet"), "1");
        assert_eq!(sysctl::read(&format!("net/ipv4/neigh/{id}/proxy_delay")).unwrap(), "0");
        assert_eq!(sysctl::read(&format!("net/ipv6/conf/{id}/forwarding")).unwrap(), "1");
        // What does no harm is not written: each setting of IPv6 would be a file to open.
        assert_eq!(sysctl::read(&format!("net/ipv6/conf/{id}/accept_ra")).unwrap(), "1");
        let mut socket = Socket::route().unwrap();
        let ends = attacher.list_ours().unwrap();
        assert_eq!(ends.len(), 1);
        let end = &ends[0];
        assert_eq!((&end.id, end.link.mtu, end.link.group), (id, 1500, LIVING));
        assert_eq!(end.link.alias.as_deref(), Some("slash32:net/c1/eth0 [role=web]"));
        let addresses: Vec<_> = addr::list(&mut socket)
            .unwrap()
            .into_iter()
            .filter(|x| x.ifindex == a.attachment.ifindex)
            .collect();
        assert_eq!(addresses.len(), 1, "{addresses:?}");
        assert_eq!(addresses[0].addr, IpAddr::V6(a.attachment.gateway6()));
        let mut routes = attacher.host_routes().unwrap();
        routes.sort_unstable();
        let expected: Vec<_> = a.attachment.endpoint.addresses().map(|x| (a.attachment.ifindex, x)).collect();
        assert_eq!(routes, expected);
    });
}

#[test]
fn detach_is_at_once_and_complete() {
    private(|| {
        let mut attacher = host();
        let a = attached(&mut attacher, 1);
        let id = a.attachment.endpoint.id.clone();
        assert!(attacher.is_alive(&a.attachment).unwrap());
        attacher.detach(&id).unwrap();
        attacher.detach(&id).unwrap();
        assert_eq!(attacher.host_routes().unwrap(), []);
        assert!(!attacher.is_alive(&a.attachment).unwrap());
        // To the container it is gone before the kernel has deleted it.
        hide(&attacher, &a.attachment);
        hide(&attacher, &a.attachment);
        assert!(a.ns.run(|| link::by_name(&mut Socket::route().unwrap(), "eth0")).unwrap_err().is_missing());
        attacher.reap().unwrap();
        attacher.reap().unwrap();
        assert!(attacher.list_ours().unwrap().is_empty());
        let inside = a.ns.run(|| link::list(&mut Socket::route().unwrap()).unwrap());
        assert_eq!(inside.len(), 1, "only lo is left in the container");
    });
}

#[test]
fn the_reaper_comes_by_itself() {
    private(|| {
        let mut attacher = host();
        let a = attached(&mut attacher, 1);
        attacher.detach(&a.attachment.endpoint.id).unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while !attacher.list_ours().unwrap().is_empty() {
            assert!(Instant::now() < until);
            thread::sleep(Duration::from_millis(20));
        }
    });
}

#[test]
fn the_same_name_again_at_once() {
    private(|| {
        let mut attacher = host();
        let mut a = attached(&mut attacher, 1);
        for _ in 0..3 {
            attacher.detach(&a.attachment.endpoint.id).unwrap();
            a.attachment.ifindex = attacher.next_index();
            attacher.attach(&a.attachment, a.ns.netns(), &mut attacher.enter(a.ns.netns()), || {}).unwrap();
            assert_eq!(attacher.check(&a.attachment).unwrap(), []);
        }
        // Also over one that was never detached: the agent lost its memory.
        a.attachment.ifindex = attacher.next_index();
        attacher.attach(&a.attachment, a.ns.netns(), &mut attacher.enter(a.ns.netns()), || {}).unwrap();
        assert_eq!(attacher.check(&a.attachment).unwrap(), []);
        // Another network's retired interface of the same name in the same container.
        let mut b = container(&mut attacher, 2);
        b.attachment.endpoint.id = EndpointId("s32bbbbbbbbbbb".into());
        attacher.detach(&a.attachment.endpoint.id).unwrap();
        attacher.attach(&b.attachment, a.ns.netns(), &mut attacher.enter(a.ns.netns()), || {}).unwrap();
    });
}

#[test]
fn failures_leave_nothing() {
    private(|| {
        let mut attacher = host();
        let mut a = container(&mut attacher, 1);
        // The name is taken in the container by somebody else.
        a.ns.run(|| link::create_veth(&mut Socket::route().unwrap(), "eth0", "other", None).unwrap());
        assert!(matches!(
            attacher.attach(&a.attachment, a.ns.netns(), &mut attacher.enter(a.ns.netns()), || {}),
            Err(AttachError::InterfaceExists(_))
        ));
        a.attachment.endpoint.key.ifname = "eth1".into();
        // A route the kernel refuses (a gateway that is not one), late in the work.
        a.attachment.routes =
            Some(vec![Route::new(("10.0.0.0".parse().unwrap(), 8), Some("224.0.0.1".parse().unwrap()))]);
        let error = attacher
            .attach(&a.attachment, a.ns.netns(), &mut attacher.enter(a.ns.netns()), || {})
            .unwrap_err();
        assert!(error.to_string().starts_with("cannot add an IPv4 route in the container:"), "{error}");
        a.attachment.routes = None;
        a.attachment.sysctls = [("net.ipv4.no_such".to_owned(), "1".to_owned())].into();
        let error = attacher
            .attach(&a.attachment, a.ns.netns(), &mut attacher.enter(a.ns.netns()), || {})
            .unwrap_err();
        assert!(error.to_string().contains("sysctl"), "{error}");
        a.attachment.sysctls.clear();
        assert!(attacher.list_ours().unwrap().is_empty());
        assert_eq!(attacher.host_routes().unwrap(), []);
        // An index that is taken, by the loopback: that one is not touched.
        a.attachment.ifindex = 1;
        assert!(matches!(
            attacher.attach(&a.attachment, a.ns.netns(), &mut attacher.enter(a.ns.netns()), || {}),
            Err(AttachError::IndexTaken(1))
        ));
        let lo = link::by_name(&mut Socket::route().unwrap(), "lo").unwrap();
        assert_eq!((lo.alias, lo.group), (None, 0));
        a.attachment.ifindex = attacher.next_index();
        attacher.attach(&a.attachment, a.ns.netns(), &mut attacher.enter(a.ns.netns()), || {}).unwrap();
        // Namespaces that are none.
        assert!(matches!(attacher.open("/run/netns/s32-none"), Err(AttachError::Gone(_))));
        assert!(matches!(attacher.open("/dev/null"), Err(AttachError::NotNetns(_))));
        assert!(matches!(attacher.open("/proc/thread-self/ns/net"), Err(AttachError::NotNetns(_))));
    });
}

#[test]
fn ipv6_switched_off_by_default() {
    private(|| {
        let mut attacher = host();
        sysctl::write("net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        let a = container(&mut attacher, 1);
        a.ns.run(|| sysctl::write("net/ipv6/conf/default/disable_ipv6", "1").unwrap());
        attacher.attach(&a.attachment, a.ns.netns(), &mut attacher.enter(a.ns.netns()), || {}).unwrap();
        assert_eq!(attacher.check(&a.attachment).unwrap(), []);
        let at = a.ns.run(|| echo(a.attachment.endpoint.ipv6.unwrap().into()));
        assert!(asks(at));
    });
}

#[test]
fn further_networks_do_not_disturb_the_first() {
    private(|| {
        let mut attacher = host();
        let other = attached(&mut attacher, 9);
        let first = attached(&mut attacher, 1);
        let mut second = sample("c1", 2).clone();
        second.endpoint.key.ifname = "net1".into();
        second.endpoint.id = EndpointId::of(&second.endpoint.key);
        second.endpoint.netns.clone_from(&first.attachment.endpoint.netns);
        second.netns_id = first.attachment.netns_id;
        second.endpoint.ipv4 = Some([10, 33, 0, 1].into());
        second.endpoint.ipv6 = Some("fd00:33::1".parse().unwrap());
        second.gateway = 2;
        second.ifindex = attacher.next_index();
        attacher.attach(&second, first.ns.netns(), &mut attacher.enter(first.ns.netns()), || {}).unwrap();
        assert_eq!(attacher.check(&second).unwrap(), []);
        assert_eq!(attacher.check(&first.attachment).unwrap(), []);
        // Strict reverse path checks on the host end drop what leaves by the wrong interface, so these show that the
        // answer to a question that came in by net1 leaves by net1.
        for addr in second.endpoint.addresses().chain(first.attachment.endpoint.addresses()) {
            let at = first.ns.run(|| echo(addr));
            assert!(other.ns.run(|| asks(at)), "{addr}");
        }
        let at = other.ns.run(|| echo(other.attachment.endpoint.ipv4.unwrap().into()));
        assert!(first.ns.run(|| asks(at)));
        let rules = || first.ns.run(|| Command::new("ip").args(["rule"]).output().unwrap().stdout);
        assert!(String::from_utf8_lossy(&rules()).contains("from 10.33.0.1 lookup 3202"));
        attacher.detach(&second.endpoint.id).unwrap();
        hide(&attacher, &second);
        assert!(!String::from_utf8_lossy(&rules()).contains("3202"));
    });
}

#[test]
fn check_names_every_difference() {
    private(|| {
        let mut attacher = host();
        let a = attached(&mut attacher, 1);
        a.ns.run(|| {
            let mut socket = Socket::route().unwrap();
            let eth0 = link::by_name(&mut socket, "eth0").unwrap().index;
            addr::delete(&mut socket, eth0, a.attachment.endpoint.ipv6.unwrap().into(), 128).unwrap();
            link::set_down(&mut socket, eth0).unwrap();
        });
        let findings = attacher.check(&a.attachment).unwrap();
        assert!(findings.contains(&Finding::Address(a.attachment.endpoint.ipv6.unwrap().into())));
        assert!(findings.contains(&Finding::Interface("the container's eth0 is down".into())));
        assert!(findings.contains(&Finding::Route("0.0.0.0/0".parse().unwrap())));
        let mut socket = Socket::route().unwrap();
        let key = route::Key { prefix: "10.32.4.1/32".parse().unwrap(), table: 254, protocol: 32, metric: 0 };
        let mut batch = netlink::Batch::new();
        route::push_delete(&mut batch, &key, route::RouteKind::Unicast, None);
        socket.execute(&mut batch).unwrap();
        let findings = attacher.check(&a.attachment).unwrap();
        assert!(findings.contains(&Finding::HostRoute("10.32.4.1".parse().unwrap())), "{findings:?}");
        attacher.detach(&a.attachment.endpoint.id).unwrap();
        let findings = attacher.check(&a.attachment).unwrap();
        assert!(findings.iter().any(|f| f.to_string().ends_with("has been retired")), "{findings:?}");
    });
}

#[test]
fn mtu_of_the_way_out() {
    let here = NamedNetns::create("s32a").unwrap();
    let there = NamedNetns::create("s32a").unwrap();
    here.run(|| assert_eq!(uplink_mtu(&mut Socket::route().unwrap()), 1500));
    here.connect("up0", &there, "x").unwrap();
    here.run(|| {
        let mut socket = Socket::route().unwrap();
        let up0 = link::by_name(&mut socket, "up0").unwrap().index;
        let mut batch = netlink::Batch::new();
        batch.add(16, 0, |w| {
            let mut header = [0; 16];
            header[4..8].copy_from_slice(&up0.to_ne_bytes());
            w.raw(&header).attr_u32(4, 9000);
        });
        socket.execute(&mut batch).unwrap();
        assert_eq!(uplink_mtu(&mut socket), 9000);
        link::create_veth(&mut socket, "small", "small2", None).unwrap();
        for name in ["small", "small2"] {
            let index = link::by_name(&mut socket, name).unwrap().index;
            link::set_up(&mut socket, index).unwrap();
        }
        assert_eq!(uplink_mtu(&mut socket), 1500);
        addr::add(&mut socket, up0, "198.51.100.1".parse().unwrap(), 24).unwrap();
        let key = route::Key { prefix: "0.0.0.0/0".parse().unwrap(), table: 254, protocol: 4, metric: 0 };
        let mut batch = netlink::Batch::new();
        route::push(&mut batch, &key, route::Target::Device(up0), route::Mode::Create);
        socket.execute(&mut batch).unwrap();
        assert_eq!(uplink_mtu(&mut socket), 9000);
    });
}

#[test]
fn rates_are_limited_both_ways() {
    private(|| {
        let mut attacher = host();
        let mut a = container(&mut attacher, 1);
        a.attachment.bandwidth = Some(crate::cni::types::Bandwidth {
            ingress_rate: 80_000_000_000,
            ingress_burst: 8_000_000,
            egress_rate: 8_000_000,
            egress_burst: 0,
        });
        attacher.attach(&a.attachment, a.ns.netns(), &mut attacher.enter(a.ns.netns()), || {}).unwrap();
        let qdisc = |dev: &str| {
            let output = Command::new("tc").args(["qdisc", "show", "dev", dev]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let host_end = qdisc(a.attachment.endpoint.id.as_str());
        assert!(host_end.contains("tbf 1: root") && host_end.contains("rate 80Gbit"), "{host_end}");
        let inside = a.ns.run(|| qdisc("eth0"));
        assert!(inside.contains("tbf 1: root") && inside.contains("rate 8Mbit burst 20000b"), "{inside}");
        // A repair does not mind that it is there.
        attacher.repair_host_side(&a.attachment).unwrap();
        let at = a.ns.run(|| echo(a.attachment.endpoint.ipv4.unwrap().into()));
        assert!(asks(at));
    });
}
