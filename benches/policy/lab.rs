//! Two containers behind a host, each a namespace, with a connection between them.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use slash32::{
    netlink::{Socket, addr, link, ns, ns::testing::NamedNetns, route, sysctl},
    policy::{Enforcer, engine::EngineConfig, language, nft::Settings},
};

use crate::scale;

/// What the host does with packets.
pub(crate) enum Rules {
    None,
    /// Nothing but what every stateful firewall does first.
    Tracking,
    Policies {
        endpoints: u32,
        policies: u32,
    },
}

pub(crate) struct Lab {
    _host: NamedNetns,
    client: NamedNetns,
    server: NamedNetns,
    sender: UdpSocket,
    /// Keeps the port open; what comes after the first packet is dropped at its full buffer.
    _receiver: UdpSocket,
    _enforcer: Option<Enforcer>,
}

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 32, 0, 0);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 32, 0, 1);
/// How long one stream runs.
const STREAM: Duration = Duration::from_millis(700);

impl Lab {
    pub(crate) fn new(rules: Rules) -> Self {
        let host = NamedNetns::create("s32bench-h").expect("a namespace");
        let client = NamedNetns::create("s32bench-c").expect("a namespace");
        let server = NamedNetns::create("s32bench-s").expect("a namespace");
        host.run(|| sysctl::write("net/ipv4/ip_forward", "1")).expect("forwarding");
        for (i, (ns, address)) in [(&client, CLIENT), (&server, SERVER)].into_iter().enumerate() {
            attach(&host, ns, &scale::interface(i as u32), address);
        }
        let enforcer = host.run(|| load(rules));
        let receiver = server.run(|| UdpSocket::bind((SERVER, 8000))).expect("a socket");
        let sender = client.run(|| UdpSocket::bind((CLIENT, 4000))).expect("a socket");
        sender.connect((SERVER, 8000)).expect("a route");
        // One question and one answer: the connection is established.
        receiver.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        sender.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        for _ in 0..2 {
            sender.send(b"?").expect("sent");
            let (_, from) = receiver.recv_from(&mut [0; 8]).expect("the policy allows it");
            receiver.send_to(b"!", from).expect("sent");
            sender.recv(&mut [0; 8]).expect("an answer is allowed");
        }
        socket2::SockRef::from(&receiver).set_recv_buffer_size(1).expect("a small buffer");
        Self { _host: host, client, server, sender, _receiver: receiver, _enforcer: enforcer }
    }

    /// The time of one packet of so many, in seconds: sending, forwarding, and the receiver's full buffer.
    pub(crate) fn packets(&mut self, count: u32) -> f64 {
        let start = Instant::now();
        for _ in 0..count {
            self.sender.send(b"0123456789").expect("sent");
        }
        start.elapsed().as_secs_f64() / f64::from(count)
    }

    /// Gbit/s of one TCP stream.
    pub(crate) fn stream(&self) -> f64 {
        let listener = self.server.run(|| TcpListener::bind((SERVER, 8000))).expect("a listener");
        let mut out = self.client.run(|| TcpStream::connect((SERVER, 8000))).expect("the policy allows it");
        let (mut incoming, _) = listener.accept().expect("a connection");
        let sink = thread::spawn(move || {
            let mut buffer = vec![0; 256 << 10];
            let mut bytes = 0u64;
            while let Ok(n @ 1..) = incoming.read(&mut buffer) {
                bytes += n as u64;
            }
            bytes
        });
        let data = vec![0; 128 << 10];
        let start = Instant::now();
        while start.elapsed() < STREAM {
            out.write_all(&data).expect("the stream goes on");
        }
        let time = start.elapsed().as_secs_f64();
        drop(out);
        sink.join().expect("the sink ends") as f64 * 8.0 / time / 1e9
    }
}

/// A container with one address, as the agent would attach it.
fn attach(host: &NamedNetns, ns: &NamedNetns, name: &str, address: Ipv4Addr) {
    host.connect(name, ns, "eth0").expect("a veth pair");
    let add = |device: &str, prefix: &str| {
        let mut socket = Socket::route()?;
        let mut batch = slash32::netlink::Batch::new();
        let key = route::Key {
            prefix: prefix.parse().expect("a valid prefix"),
            table: route::TABLE_MAIN,
            protocol: 32,
            metric: 1,
        };
        route::push(&mut batch, &key, route::Target::Device(ns::ifindex(device)?), route::Mode::Create);
        socket.execute(&mut batch)
    };
    host.run(|| {
        sysctl::write(&format!("net/ipv4/conf/{name}/proxy_arp"), "1")?;
        sysctl::write(&format!("net/ipv4/neigh/{name}/proxy_delay"), "0")?;
        add(name, &format!("{address}/32")).map(drop)
    })
    .expect("the host's end");
    ns.run(|| {
        let mut socket = Socket::route()?;
        let index = link::by_name(&mut socket, "eth0")?.index;
        addr::add(&mut socket, index, IpAddr::V4(address), 32)?;
        add("eth0", "0.0.0.0/0").map(drop)
    })
    .expect("the container's end");
}

fn load(rules: Rules) -> Option<Enforcer> {
    match rules {
        Rules::None => None,
        Rules::Tracking => {
            scale::nft(
                "table inet t {\n chain f {\n type filter hook forward priority 0;\n ct state established accept\n }\n}\n",
            );
            None
        }
        Rules::Policies { endpoints, policies } => {
            let mut enforcer =
                Enforcer::open(EngineConfig::default(), Settings::default()).expect("nftables");
            let text = scale::policies(policies, 10);
            let set = language::parse(&[("bench.toml", &text)]).expect("the policies are valid");
            enforcer.engine_mut().set_policies(Arc::new(set));
            for i in 0..endpoints {
                let endpoint = scale::endpoint(i, policies);
                let id = endpoint.id.clone();
                enforcer.engine_mut().upsert_local(endpoint);
                // Of no pool, so somebody may have had its address: only now are its connections stamped.
                enforcer.engine_mut().arrived(&id);
            }
            enforcer.commit().expect("the rules are loaded");
            Some(enforcer)
        }
    }
}
