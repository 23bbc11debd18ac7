//! Speakers in one process, on addresses 127.0.0.N and fd00::N of a private namespace.

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use crate::{
    bgp::{
        config::{PeerAddress, PeerConfig, RemoteAs, SpeakerConfig},
        rib::{Best, BestChange},
        session::State,
        speaker::{PeerStatus, Speaker, SpeakerEvent, SpeakerEvents, SpeakerHandle},
    },
    model::{Asn, Prefix, RouterId},
    netlink::{self, addr, ns::testing},
};

/// Long enough for any machine; no test that passes waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a test in a private namespace whose loopback has 127.0.0.0/8 and fd00::1 to fd00::9.
pub(super) fn alone<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    testing::private(|| {
        let mut socket = netlink::Socket::route().unwrap();
        let mut batch = netlink::Batch::default();
        for n in 1..10 {
            addr::push_add(&mut batch, 1, v6(n), 128);
        }
        socket.execute(&mut batch).unwrap();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    });
}

/// 127.0.0.n
pub(super) fn v4(n: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, n])
}

/// fd00::n
pub(super) fn v6(n: u8) -> IpAddr {
    IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(n)])
}

pub(super) fn asn(number: u32) -> Asn {
    Asn::new(number).unwrap()
}

pub(super) fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// A speaker on 127.0.0.n and fd00::n, router id n, with no peers.
pub(super) fn config(n: u8, number: u32) -> SpeakerConfig {
    let mut config = SpeakerConfig::new(asn(number), RouterId::new([10, 0, 0, n].into()).unwrap());
    config.listen = vec![SocketAddr::new(v4(n), 179), SocketAddr::new(v6(n), 179)];
    config
}

/// The peer at `remote`, from `local`, with quick timers.
pub(super) fn peer(local: IpAddr, remote: IpAddr, number: u32) -> PeerConfig {
    let mut peer = PeerConfig::new(PeerAddress::Ip(remote), RemoteAs::Is(asn(number)));
    peer.settings.local_address = Some(local);
    peer.settings.timers.connect_retry = Duration::from_millis(200);
    peer.settings.timers.idle_hold = Duration::from_millis(100);
    peer
}

/// The same, and only the other side dials. When both do, the side that loses the collision (RFC 4271 section 6.8) may be
/// established on the lost connection already: its session goes down once and comes up again, which a test that counts
/// sessions or waits for the first end of one must not take for its own doing.
pub(super) fn answering(local: IpAddr, remote: IpAddr, number: u32) -> PeerConfig {
    let mut peer = peer(local, remote, number);
    peer.settings.passive = true;
    peer
}

/// A running speaker.
pub(super) struct Node {
    pub(super) handle: SpeakerHandle,
    pub(super) events: SpeakerEvents,
    /// Changes that came and were not asked for yet.
    pub(super) log: Vec<BestChange>,
    /// What ends a speaker that runs elsewhere.
    pub(super) _keeper: Option<super::lab::Keeper>,
}

pub(super) fn start(config: SpeakerConfig) -> Node {
    let (handle, events) = Speaker::start(config, Vec::new()).unwrap();
    Node { handle, events, log: Vec::new(), _keeper: None }
}

impl Node {
    pub(super) async fn peers(&self) -> Vec<PeerStatus> {
        self.handle.peers().await.unwrap()
    }

    /// The only peer.
    pub(super) async fn only(&self) -> PeerStatus {
        let mut peers = self.peers().await;
        assert_eq!(peers.len(), 1);
        peers.remove(0)
    }

    /// Waits until the only peer fits.
    pub(super) async fn until(&self, what: &str, fits: impl Fn(&PeerStatus) -> bool) -> PeerStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let peers = self.peers().await;
            if let Some(peer) = peers.iter().find(|p| fits(p)) {
                return peer.clone();
            }
            assert!(Instant::now() < deadline, "not {what}: {peers:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(super) async fn established(&self) -> PeerStatus {
        self.until("established", |p| p.state == State::Established).await
    }

    /// Waits until the best path of a prefix changes: to this, or (`None`) to nothing.
    pub(super) async fn best(&mut self, text: &str) -> Option<Best> {
        let wanted = prefix(text);
        loop {
            if let Some(index) = self.log.iter().position(|c| c.prefix == wanted) {
                return self.log.remove(index).best;
            }
            let changes = self
                .event(text, |event| match event {
                    SpeakerEvent::Best(changes) => Some(changes),
                    _ => None,
                })
                .await;
            self.log.extend(changes);
        }
    }

    /// Waits for an event that fits.
    pub(super) async fn event<T>(&mut self, what: &str, fits: impl Fn(SpeakerEvent) -> Option<T>) -> T {
        let wait = async {
            loop {
                let event = self.events.recv().await.expect("the speaker runs");
                if let Some(found) = fits(event) {
                    return found;
                }
            }
        };
        let Ok(found) = tokio::time::timeout(PATIENCE, wait).await else { panic!("no event: {what}") };
        found
    }
}

/// An OPEN and a KEEPALIVE, for peers that are only bytes.
pub(super) fn open(number: u16, id: [u8; 4]) -> Vec<u8> {
    use crate::bgp::wire::{Capability, EncodeContext, Message, Open, encode};
    let open = Open {
        version: 4,
        my_as: number,
        hold_time: 90,
        router_id: id.into(),
        capabilities: vec![
            Capability::Multiprotocol { afi: 1, safi: 1 },
            Capability::Multiprotocol { afi: 2, safi: 1 },
            Capability::FourOctetAs(number.into()),
        ],
    };
    let mut bytes = bytes::BytesMut::new();
    for message in [Message::Open(open), Message::Keepalive] {
        encode(&EncodeContext::default(), &message, &mut bytes).unwrap();
    }
    bytes.to_vec()
}
