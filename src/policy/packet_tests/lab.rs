//! A host, containers behind proxy-ARP veths and an outside machine, each a network namespace of its own.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::Arc,
    thread,
    time::Duration,
};

use crate::{
    model::{EndpointId, Labels},
    netlink::ns::testing::NamedNetns,
    policy::{
        Enforcer, Flow, Protocol,
        engine::{EngineConfig, LocalEndpoint, PoolConfig},
        explain::View,
        language,
        nft::Settings,
    },
};

/// How long an answer may take that must come. Machines can be slow; a wrong refusal is still found.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait for an answer that must not come.
const SILENCE: Duration = Duration::from_millis(250);

pub(super) struct Lab {
    pub(super) host: NamedNetns,
    pub(super) outside: NamedNetns,
    pub(super) containers: Vec<Container>,
    pub(super) enforcer: Enforcer,
}

pub(super) struct Container {
    pub(super) ns: NamedNetns,
    pub(super) id: EndpointId,
    number: u8,
}

/// Whom to talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    C(usize),
    Host,
    Outside,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    Tcp,
    Udp,
}

pub(super) const V4: bool = false;
pub(super) const V6: bool = true;

/// Ports that everybody serves, for TCP and UDP.
const PORTS: [u16; 9] = [53, 80, 179, 443, 3784, 3785, 4784, 8080, 9179];

impl Lab {
    /// A lab with so many containers, all attached but not known to policy yet.
    pub(super) fn new(containers: u8) -> Self {
        let lab = Self::silent(containers);
        for ns in lab.containers.iter().map(|c| &c.ns).chain([&lab.host, &lab.outside]) {
            serve(ns);
        }
        lab
    }

    /// The same with nobody who answers.
    pub(super) fn silent(containers: u8) -> Self {
        let host = NamedNetns::create("s32pol-h").unwrap();
        let outside = NamedNetns::create("s32pol-o").unwrap();
        host.connect("eth0", &outside, "eth0").unwrap();
        for setting in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            host.run(|| crate::netlink::sysctl::write(setting, "1")).unwrap();
        }
        ip(&host, "addr add 192.0.2.1/24 dev eth0");
        ip(&host, "addr add 2001:db8::1/64 dev eth0 nodad");
        // Proxy ARP answers for what is routed elsewhere, so the host needs a default route.
        ip(&host, "route add default via 192.0.2.2");
        ip(&outside, "addr add 192.0.2.2/24 dev eth0");
        ip(&outside, "addr add 2001:db8::2/64 dev eth0 nodad");
        ip(&outside, "route add 10.32.0.0/16 via 192.0.2.1");
        ip(&outside, "route add fd00:32::/48 via 2001:db8::1");
        let containers: Vec<_> = (0..containers).map(|number| Container::attach(&host, number)).collect();
        let enforcer = host.run(|| Enforcer::open(config(), Settings::default())).unwrap();
        Self { host, outside, containers, enforcer }
    }

    /// Tells policy about a container that has its routes.
    pub(super) fn know(&mut self, container: usize, labels: &[(&str, &str)]) {
        self.expect_container(container, labels);
        self.arrived(container);
    }

    /// A container has its routes.
    pub(super) fn arrived(&mut self, container: usize) {
        self.enforcer.engine_mut().arrived(&self.containers[container].id);
        self.enforcer.commit().unwrap();
    }

    /// Tells policy about a container whose routes are to come.
    pub(super) fn expect_container(&mut self, container: usize, labels: &[(&str, &str)]) {
        let mut all = Labels::new();
        for (k, v) in labels {
            all.insert(*k, *v).unwrap();
        }
        let c = &self.containers[container];
        let addresses = vec![c.addr(V4), c.addr(V6)];
        self.enforcer.engine_mut().upsert_local(LocalEndpoint {
            shared: Vec::new(),
            id: c.id.clone(),
            addresses,
            labels: all,
        });
        self.enforcer.commit().unwrap();
    }

    pub(super) fn policies(&mut self, text: &str) {
        let set = language::parse(&[("test.toml", text)]).unwrap_or_else(|e| panic!("{}", e[0]));
        self.enforcer.engine_mut().set_policies(Arc::new(set));
        self.enforcer.commit().unwrap();
    }

    pub(super) fn ns(&self, who: Who) -> &NamedNetns {
        match who {
            Who::C(i) => &self.containers[i].ns,
            Who::Host => &self.host,
            Who::Outside => &self.outside,
        }
    }

    pub(super) fn addr(&self, who: Who, v6: bool) -> IpAddr {
        match (who, v6) {
            (Who::C(i), _) => self.containers[i].addr(v6),
            (Who::Host, V4) => Ipv4Addr::new(192, 0, 2, 1).into(),
            (Who::Outside, V4) => Ipv4Addr::new(192, 0, 2, 2).into(),
            (Who::Host, V6) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
            (Who::Outside, V6) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2).into(),
        }
    }

    /// Asserts that a fresh exchange works, or does not, in both families.
    pub(super) fn expect(&self, from: Who, to: Who, via: Via, port: u16, works: bool) {
        for v6 in [V4, V6] {
            let got = self.reaches(from, to, v6, via, port, works);
            assert_eq!(got, works, "{from:?} -> {to:?} {via:?}/{port} {}", if v6 { "IPv6" } else { "IPv4" });
        }
    }

    pub(super) fn reaches(&self, from: Who, to: Who, v6: bool, via: Via, port: u16, hopeful: bool) -> bool {
        let addr = SocketAddr::new(self.addr(to, v6), port);
        let wait = if hopeful { PATIENCE } else { SILENCE };
        self.ns(from).run(|| match via {
            Via::Tcp => Talk::open(addr, wait).is_some_and(|mut t| t.works(hopeful)),
            Via::Udp => Chat::open(addr).works(hopeful),
        })
    }

    /// What the interpreter says of it, the same in both families.
    pub(super) fn told(&self, from: Who, to: Who, via: Via, port: u16) -> bool {
        let engine = self.enforcer.engine();
        let is_host = |addr: IpAddr| [V4, V6].iter().any(|v6| self.addr(Who::Host, *v6) == addr);
        let mut view = View::new(engine, engine.policies(), &is_host);
        view.interface = Some("eth0".into());
        let protocol = if via == Via::Tcp { Protocol::TCP } else { Protocol::UDP };
        let flow = |v6| Flow::new(self.addr(from, v6), self.addr(to, v6), protocol, port);
        let [four, six] = [V4, V6].map(|v6| view.explain(&flow(v6)));
        assert_eq!(four.allowed, six.allowed, "{four:#?} {six:#?}");
        four.allowed
    }

    /// A TCP connection that stays open.
    pub(super) fn talk_to(&self, from: Who, to: Who, v6: bool, port: u16) -> Talk {
        let addr = SocketAddr::new(self.addr(to, v6), port);
        self.ns(from).run(|| Talk::open(addr, PATIENCE)).expect("the connection is allowed")
    }

    /// A UDP exchange with one pair of ports.
    pub(super) fn chat(&self, from: Who, to: Who, v6: bool, port: u16) -> Chat {
        let addr = SocketAddr::new(self.addr(to, v6), port);
        self.ns(from).run(|| Chat::open(addr))
    }
}

pub(super) fn config() -> EngineConfig {
    let pool = |cidr: &str| PoolConfig { cidr: cidr.parse().unwrap(), nat_outgoing: false };
    EngineConfig {
        pools: vec![pool("10.32.0.0/16"), pool("fd00:32::/48")],
        protected: EngineConfig::protected_ports(&[9179]),
        infrastructure: vec!["192.0.2.2/32".parse().unwrap(), "2001:db8::2/128".parse().unwrap()],
        ..EngineConfig::default()
    }
}

impl Container {
    fn attach(host: &NamedNetns, number: u8) -> Self {
        let ns = NamedNetns::create("s32pol-c").unwrap();
        let id = EndpointId(format!("s32{number:011x}"));
        host.connect(id.as_str(), &ns, "eth0").unwrap();
        let container = Self { ns, id, number };
        let (v4, v6) = (container.addr(V4), container.addr(V6));
        let dev = container.id.as_str();
        host.run(|| {
            crate::netlink::sysctl::write(&format!("net/ipv4/conf/{dev}/proxy_arp"), "1").unwrap();
            crate::netlink::sysctl::write(&format!("net/ipv4/neigh/{dev}/proxy_delay"), "0").unwrap();
        });
        ip(host, &format!("addr add fe80::1/64 dev {dev} nodad"));
        ip(host, &format!("route add {v4}/32 dev {dev}"));
        ip(host, &format!("route add {v6}/128 dev {dev}"));
        ip(&container.ns, &format!("addr add {v4}/32 dev eth0"));
        ip(&container.ns, &format!("addr add {v6}/128 dev eth0 nodad"));
        ip(&container.ns, "route add 169.254.1.1 dev eth0");
        ip(&container.ns, "route add default via 169.254.1.1");
        ip(&container.ns, "route add default via fe80::1 dev eth0");
        container
    }

    pub(super) fn addr(&self, v6: bool) -> IpAddr {
        let n = self.number;
        if v6 {
            // The last part reads like that of the IPv4 address.
            format!("fd00:32::{}", n + 2).parse().unwrap()
        } else {
            Ipv4Addr::new(10, 32, 4, n + 2).into()
        }
    }
}

/// Runs `ip` inside a namespace.
pub(super) fn ip(ns: &NamedNetns, args: &str) {
    let out = Command::new("ip").args(["-n", ns.name()]).args(args.split(' ')).output();
    let out = out.expect("these tests need the package iproute2");
    assert!(out.status.success(), "ip {args}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Echoes on all ports until the process ends; the sockets keep their namespace alive no longer than that.
fn serve(ns: &NamedNetns) {
    for port in PORTS {
        let (tcp, udp) = ns.run(|| {
            let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
            (TcpListener::bind(any).unwrap(), UdpSocket::bind(any).unwrap())
        });
        thread::spawn(move || {
            for stream in tcp.incoming() {
                let Ok(mut stream) = stream else { break };
                thread::spawn(move || {
                    let mut buf = [0; 4096];
                    while let Ok(n) = stream.read(&mut buf)
                        && n > 0
                        && stream.write_all(&buf[..n]).is_ok()
                    {}
                });
            }
        });
        thread::spawn(move || {
            let mut buf = [0; 4096];
            while let Ok((n, from)) = udp.recv_from(&mut buf) {
                let _ = udp.send_to(&buf[..n], from);
            }
        });
    }
}

/// An open TCP connection to an echo server.
pub(super) struct Talk {
    stream: TcpStream,
    next: u8,
}

impl Talk {
    fn open(addr: SocketAddr, wait: Duration) -> Option<Self> {
        Some(Self { stream: TcpStream::connect_timeout(&addr, wait).ok()?, next: 0 })
    }

    /// Whether what is said now comes back. After a silence the stream may hold old words; they are read over.
    pub(super) fn works(&mut self, hopeful: bool) -> bool {
        self.next = self.next.wrapping_add(1);
        self.stream.set_read_timeout(Some(if hopeful { PATIENCE } else { SILENCE })).unwrap();
        if self.stream.write_all(&[self.next]).is_err() {
            return false;
        }
        let mut byte = [0];
        while self.stream.read_exact(&mut byte).is_ok() {
            if byte[0] == self.next {
                return true;
            }
        }
        false
    }
}

/// A UDP socket connected to an echo server.
pub(super) struct Chat {
    socket: UdpSocket,
    next: u8,
}

impl Chat {
    fn open(addr: SocketAddr) -> Self {
        let any: IpAddr =
            if addr.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.connect(addr).unwrap();
        Self { socket, next: 0 }
    }

    pub(super) fn works(&mut self, hopeful: bool) -> bool {
        let tries = if hopeful { 5 } else { 1 };
        self.socket.set_read_timeout(Some(if hopeful { PATIENCE / 5 } else { SILENCE })).unwrap();
        for _ in 0..tries {
            self.next = self.next.wrapping_add(1);
            match self.socket.send(&[self.next]) {
                // A rejection by ICMP shows up here or at the receive.
                Err(e) if e.kind() == ErrorKind::ConnectionRefused => return false,
                Err(e) => panic!("{e}"),
                Ok(_) => {}
            }
            let mut byte = [0];
            while let Ok(1) = self.socket.recv(&mut byte) {
                if byte[0] == self.next {
                    return true;
                }
            }
        }
        false
    }
}
