//! Speakers on hosts of their own: a network namespace each, joined by veth pairs.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
};

use tokio::sync::oneshot;

use super::harness::{Node, answering, config, peer};
use crate::{
    bgp::{
        config::{PeerConfig, SpeakerConfig},
        speaker::Speaker,
    },
    netlink::{
        self, addr,
        ns::{ifindex, testing::NamedNetns},
    },
};

/// The address of host `own` on its link to `other`: 10.L.H.own, where L and H are the two in order.
pub(super) fn on_link4(own: u8, other: u8) -> IpAddr {
    IpAddr::from([10, own.min(other), own.max(other), own])
}

/// The same in IPv6: fd00:L:H::own.
pub(super) fn on_link6(own: u8, other: u8) -> IpAddr {
    let (low, high) = (own.min(other), own.max(other));
    IpAddr::from([0xfd00, low.into(), high.into(), 0, 0, 0, 0, own.into()])
}

/// Hosts numbered from 1.
pub(super) struct Lab {
    hosts: Vec<NamedNetns>,
}

impl Lab {
    /// So many hosts, with links between these pairs that have no addresses but link-local ones.
    pub(super) fn bare(hosts: u8, links: &[(u8, u8)]) -> Self {
        let hosts: Vec<_> = (0..hosts).map(|_| NamedNetns::create("s32bgp").unwrap()).collect();
        let lab = Self { hosts };
        for &(a, b) in links {
            lab.host(a).connect(&format!("to{b}"), lab.host(b), &format!("to{a}")).unwrap();
        }
        lab
    }

    /// So many hosts, with links between these pairs.
    pub(super) fn new(hosts: u8, links: &[(u8, u8)]) -> Self {
        let lab = Self::bare(hosts, links);
        for &(a, b) in links {
            for (own, other) in [(a, b), (b, a)] {
                lab.host(own).run(|| {
                    let mut socket = netlink::Socket::route().unwrap();
                    let mut batch = netlink::Batch::default();
                    let index = ifindex(&format!("to{other}")).unwrap();
                    addr::push_add(&mut batch, index, on_link4(own, other), 24);
                    addr::push_add(&mut batch, index, on_link6(own, other), 64);
                    socket.execute(&mut batch).unwrap();
                });
            }
        }
        lab
    }

    pub(super) fn host(&self, number: u8) -> &NamedNetns {
        &self.hosts[usize::from(number) - 1]
    }

    /// Starts a speaker on a host.
    pub(super) fn start(&self, number: u8, config: SpeakerConfig) -> Node {
        let (ready, started) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let netns = self.host(number).path().to_owned();
        let thread = thread::spawn(move || {
            netlink::ns::Netns::open(netns).unwrap().enter().unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                ready.send(Speaker::start(config, Vec::new()).unwrap()).unwrap();
                // Ends when the test drops the node.
                let _ = stopped.await;
            });
        });
        let (handle, events) = started.recv().unwrap();
        Node {
            handle,
            events,
            log: Vec::new(),
            _keeper: Some(Keeper { stop: Some(stop), thread: Some(thread) }),
        }
    }
}

/// Ends a host's speaker abruptly, as a crash would, when it is dropped.
pub(super) struct Keeper {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It panics only with the test.
            let _ = thread.join();
        }
    }
}

/// A speaker for a host, which listens everywhere.
pub(super) fn host_config(number: u8, asn: u32) -> SpeakerConfig {
    let mut config = config(number, asn);
    config.listen = vec![SocketAddr::from(([0, 0, 0, 0], 179)), SocketAddr::from(([0; 16], 179))];
    config
}

/// Hosts 1 (AS 64512) and 2 (AS 65000), which are neighbours over their link's IPv4 addresses.
pub(super) fn two_hosts() -> (SpeakerConfig, SpeakerConfig) {
    let (mut one, mut two) = (host_config(1, 64512), host_config(2, 65000));
    one.peers = vec![neighbour4(1, 2, 65000)];
    two.peers = vec![neighbour4(2, 1, 64512)];
    (one, two)
}

/// The neighbour `other` over the link's IPv4 addresses. The host with the lower number dials.
pub(super) fn neighbour4(own: u8, other: u8, asn: u32) -> PeerConfig {
    let neighbour = if own < other { peer } else { answering };
    neighbour(on_link4(own, other), on_link4(other, own), asn)
}

/// The same over its IPv6 addresses.
pub(super) fn neighbour6(own: u8, other: u8, asn: u32) -> PeerConfig {
    let neighbour = if own < other { peer } else { answering };
    neighbour(on_link6(own, other), on_link6(other, own), asn)
}

/// Runs a test that only waits; the speakers have runtimes of their own.
pub(super) fn wait(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}
