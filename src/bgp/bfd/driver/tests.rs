//! The thread on real sockets, in network namespaces of its own. Nothing here asserts times, only what happens in the end.

use std::{
    net::IpAddr,
    sync::mpsc::{self, Receiver},
    time::{Duration, Instant},
};

use super::*;
use crate::{
    bgp::bfd::{Diagnostic, State},
    netlink::{
        Socket, addr, link,
        ns::{self, testing::NamedNetns},
    },
};

const DEADLINE: Duration = Duration::from_secs(20);

/// A host with an address on the link to the other one.
struct Host {
    ns: NamedNetns,
    bfd: BfdHandle,
    events: Receiver<BfdEvent>,
}

impl Host {
    fn start(ns: NamedNetns, config: DriverConfig) -> Self {
        let (sink, events) = mpsc::channel();
        let bfd = ns.run(|| BfdHandle::start(config, move |event| drop(sink.send(event)))).unwrap();
        Self { ns, bfd, events }
    }

    fn next_event(&self) -> SessionEvent {
        self.events.recv_timeout(DEADLINE).expect("an event comes").event
    }

    fn state(&self) -> State {
        self.bfd.status().unwrap()[0].status.state
    }
}

/// Two namespaces with a veth pair; both have an IPv4 and a link-local IPv6 address.
fn link_pair() -> (NamedNetns, NamedNetns) {
    let (a, b) = (NamedNetns::create("s32bfd").unwrap(), NamedNetns::create("s32bfd").unwrap());
    a.connect("b0", &b, "b0").unwrap();
    for (ns, address) in [(&a, 1), (&b, 2)] {
        ns.run(|| {
            let mut socket = Socket::route().unwrap();
            let index = ns::ifindex("b0").unwrap();
            addr::add(&mut socket, index, format!("10.99.0.{address}").parse().unwrap(), 24).unwrap();
        });
    }
    (a, b)
}

fn config() -> DriverConfig {
    DriverConfig { realtime: false, ..DriverConfig::default() }
}

fn params() -> SessionParams {
    let interval = Duration::from_millis(50);
    let session = crate::bgp::bfd::SessionConfig {
        desired_min_tx: interval,
        required_min_rx: interval,
        ..Default::default()
    };
    SessionParams { session, min_ttl: 254 }
}

fn key(peer: &str, multihop: bool) -> SessionKey {
    SessionKey { peer: peer.parse::<IpAddr>().unwrap(), local: None, interface: None, multihop }
}

fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !check() {
        assert!(Instant::now() < end, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn up_down_and_up_again_over_a_link() {
    let (a, b) = link_pair();
    let (a, b) = (Host::start(a, config()), Host::start(b, config()));
    for multihop in [false, true] {
        let (to_b, to_a) = (key("10.99.0.2", multihop), key("10.99.0.1", multihop));
        a.bfd.set(to_b.clone(), params()).unwrap();
        b.bfd.set(to_a.clone(), params()).unwrap();
        assert_eq!((a.next_event(), b.next_event()), (SessionEvent::Up, SessionEvent::Up));
        let status = &a.bfd.status().unwrap()[0];
        assert!(status.source_port >= 49152 && status.send_error.is_none(), "{status:?}");
        // Cut: both notice.
        let set_link = |up: bool| {
            a.ns.run(|| {
                let mut socket = Socket::route().unwrap();
                let index = ns::ifindex("b0").unwrap();
                if up { link::set_up(&mut socket, index) } else { link::set_down(&mut socket, index) }
                    .unwrap();
            });
        };
        set_link(false);
        let down =
            SessionEvent::Down { diagnostic: Diagnostic::DETECTION_TIME_EXPIRED, forwarding_lost: false };
        assert_eq!((a.next_event(), b.next_event()), (down, down));
        set_link(true);
        assert_eq!((a.next_event(), b.next_event()), (SessionEvent::Up, SessionEvent::Up));
        // Held down on purpose, and let go.
        a.bfd.set_admin_down(to_b.clone(), true).unwrap();
        assert_eq!(b.next_event(), SessionEvent::NeighborAdminDown);
        a.bfd.set_admin_down(to_b.clone(), false).unwrap();
        assert_eq!(b.next_event(), SessionEvent::NeighborAdminUp);
        assert_eq!((a.next_event(), b.next_event()), (SessionEvent::Up, SessionEvent::Up));
        // Removed: the neighbour learns that it is on purpose.
        a.bfd.remove(to_b).unwrap();
        assert_eq!(b.next_event(), SessionEvent::NeighborAdminDown);
        b.bfd.remove(to_a).unwrap();
        eventually("removal", || a.bfd.status().unwrap().is_empty() && b.bfd.status().unwrap().is_empty());
        // What has left says no more; start the next round with nothing in the queues.
        while a.events.try_recv().is_ok() || b.events.try_recv().is_ok() {}
    }
    a.bfd.shutdown(Shutdown::AdminDown);
    assert!(a.bfd.status().is_err());
}

#[test]
fn link_local_neighbours() {
    let (a, b) = link_pair();
    let link_local = |ns: &NamedNetns| {
        ns.run(|| {
            let mut socket = Socket::route().unwrap();
            let index = ns::ifindex("b0").unwrap();
            let address =
                format!("fe80::{}", ns.name().len() + index as usize + usize::from(ns.name() > a.name()));
            addr::add(&mut socket, index, address.parse().unwrap(), 64).unwrap();
            address
        })
    };
    let (at_a, at_b) = (link_local(&a), link_local(&b));
    let (a, b) = (Host::start(a, config()), Host::start(b, config()));
    let interface = Some("b0".to_owned());
    a.bfd.set(SessionKey { interface: interface.clone(), ..key(&at_b, false) }, params()).unwrap();
    b.bfd.set(SessionKey { interface, ..key(&at_a, false) }, params()).unwrap();
    assert_eq!((a.next_event(), b.next_event()), (SessionEvent::Up, SessionEvent::Up));
}

#[test]
fn a_restart_keeps_the_session() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = link_pair();
    let kept = DriverConfig { state_dir: Some(dir.path().to_owned()), ..config() };
    let (a, b) = (Host::start(a, kept.clone()), Host::start(b, config()));
    // Enough patience for a loaded machine.
    let mut patient = params();
    patient.session.multiplier = 100;
    a.bfd.set(key("10.99.0.2", false), patient).unwrap();
    b.bfd.set(key("10.99.0.1", false), patient).unwrap();
    assert_eq!((a.next_event(), b.next_event()), (SessionEvent::Up, SessionEvent::Up));
    eventually("the poll sequences", || {
        let end = |host: &Host| host.bfd.status().unwrap()[0].status.detection_time == Duration::from_secs(5);
        end(&a) && end(&b)
    });
    let before = a.bfd.status().unwrap()[0].clone();
    a.bfd.shutdown(Shutdown::Keep);
    let Host { ns, .. } = a;
    let a = Host::start(ns, kept);
    a.bfd.set(key("10.99.0.2", false), patient).unwrap();
    assert_eq!(a.next_event(), SessionEvent::Up);
    let after = a.bfd.status().unwrap()[0].clone();
    assert_eq!(
        (after.status.local_discriminator, after.status.remote_discriminator, after.source_port),
        (before.status.local_discriminator, before.status.remote_discriminator, before.source_port)
    );
    let received = |host: &Host| host.bfd.status().unwrap()[0].status.received;
    let (at_a, at_b) = (received(&a), received(&b));
    eventually("packets in both directions", || received(&a) > at_a + 3 && received(&b) > at_b + 3);
    assert_eq!((a.state(), b.state()), (State::Up, State::Up));
    // The neighbour has seen nothing of it.
    assert!(b.events.try_recv().is_err());
}

#[test]
fn packets_from_further_away_are_not_taken() {
    let (a, b) = link_pair();
    let b = Host::start(b, config());
    b.bfd.set(key("10.99.0.1", false), params()).unwrap();
    // A neighbour that says the right thing with a TTL of 64.
    let packet = crate::bgp::bfd::ControlPacket {
        diagnostic: Diagnostic::NONE,
        state: State::Down,
        poll: false,
        final_: false,
        control_plane_independent: false,
        demand: false,
        detect_multiplier: 3,
        my_discriminator: 1,
        your_discriminator: 0,
        desired_min_tx: 1_000_000,
        required_min_rx: 1_000_000,
        required_min_echo_rx: 0,
    };
    let send = |ttl: u32| {
        a.run(|| {
            let socket = std::net::UdpSocket::bind("10.99.0.1:49152").unwrap();
            socket.set_ttl(ttl).unwrap();
            socket.send_to(&packet.encode(), "10.99.0.2:3784").unwrap();
        });
    };
    let received = || b.bfd.status().unwrap()[0].status.received;
    eventually("a link that works", || {
        send(255);
        received() > 0
    });
    // Packets in order: when the second has come, the first has been looked at.
    let before = received();
    send(64);
    send(255);
    eventually("the good packet", || received() > before);
    assert_eq!(received(), before + 1);
    assert_eq!(b.state(), State::Init);
}

#[test]
fn a_port_that_is_taken_is_named() {
    ns::testing::private(|| {
        let _other = std::net::UdpSocket::bind("0.0.0.0:3784").unwrap();
        let bfd = BfdHandle::start(config(), |_| {}).unwrap();
        let error = bfd.set(key("127.0.0.1", false), params()).unwrap_err();
        assert!(
            error.to_string().contains("3784") && error.to_string().contains("another BFD daemon"),
            "{error}"
        );
        // The thread goes on.
        assert_eq!(bfd.status().unwrap(), []);
    });
}
