//! BFD and unnumbered neighbours.

use std::time::Duration;

use super::{
    harness::prefix,
    lab::{Lab, host_config, neighbour4, neighbour6, wait},
};
use crate::{
    bgp::{
        config::{BfdConfig, PeerAddress, PeerConfig, RemoteAs},
        rib::LocalRoute,
        session::State,
        speaker::{Shutdown, SpeakerEvent},
    },
    netlink::{self, addr, link, ns::ifindex},
};

const QUICK: BfdConfig = BfdConfig {
    interval: Duration::from_millis(100),
    multiplier: 3,
    multihop: false,
    strict: false,
    graceful: false,
};

fn cut(lab: &Lab, host: u8, interface: &str) {
    lab.host(host).run(|| {
        let index = ifindex(interface).unwrap();
        link::set_down(&mut netlink::Socket::route().unwrap(), index).unwrap();
    });
}

/// The link stays up, and the host does not answer any more.
fn silence(lab: &Lab, host: u8, interface: &str) {
    lab.host(host).run(|| {
        let index = ifindex(interface).unwrap();
        let mut socket = netlink::Socket::route().unwrap();
        for a in addr::list(&mut socket).unwrap().into_iter().filter(|a| a.ifindex == index) {
            addr::delete(&mut socket, index, a.addr, a.prefix_len).unwrap();
        }
    });
}

fn mend(lab: &Lab, host: u8, interface: &str) {
    lab.host(host).run(|| {
        let index = ifindex(interface).unwrap();
        link::set_up(&mut netlink::Socket::route().unwrap(), index).unwrap();
    });
}

#[test]
fn bfd_ends_the_session_long_before_the_hold_timer() {
    for neighbour in [neighbour4, neighbour6] {
        let lab = Lab::new(2, &[(1, 2)]);
        wait(async {
            let mut one = host_config(1, 64512);
            one.peers = vec![neighbour(1, 2, 65000)];
            one.peers[0].settings.bfd = Some(QUICK);
            let mut two = host_config(2, 65000);
            two.peers = vec![neighbour(2, 1, 64512)];
            two.peers[0].settings.bfd = Some(QUICK);
            let (mut node, two) = (lab.start(1, one), lab.start(2, two));
            node.until("up twice", |p| p.state == State::Established && p.bfd == Some("up")).await;
            two.until("up twice", |p| p.state == State::Established && p.bfd == Some("up")).await;
            assert_eq!(node.handle.bfd().await.unwrap().len(), 1);
            silence(&lab, 2, "to1");
            let reason = node
                .event("down", |event| match event {
                    SpeakerEvent::PeerDown { reason, .. } => Some(reason),
                    _ => None,
                })
                .await;
            assert!(reason.contains("BFD Down"), "{reason}");
        });
    }
}

#[test]
fn a_dead_link_ends_the_session_at_once() {
    for neighbour in [neighbour4, neighbour6] {
        let lab = Lab::new(2, &[(1, 2)]);
        wait(async {
            let mut one = host_config(1, 64512);
            one.peers = vec![neighbour(1, 2, 65000)];
            let mut two = host_config(2, 65000);
            two.peers = vec![neighbour(2, 1, 64512)];
            let (mut node, two) = (lab.start(1, one), lab.start(2, two));
            node.established().await;
            two.handle
                .originate(vec![(prefix("10.32.4.7/32"), LocalRoute::default())], Duration::from_secs(5))
                .await
                .unwrap();
            // No BFD here, and the hold time is longer than this test may take.
            cut(&lab, 2, "to1");
            let (reason, retained) = node
                .event("down", |event| match event {
                    SpeakerEvent::PeerDown { reason, retained, .. } => Some((reason, retained)),
                    _ => None,
                })
                .await;
            assert_eq!(reason, "the link to the neighbour is down");
            assert!(!retained);
        });
    }
}

#[test]
fn strict_bfd_comes_first() {
    let lab = Lab::new(2, &[(1, 2)]);
    wait(async {
        let strict = BfdConfig { strict: true, ..QUICK };
        let mut one = host_config(1, 64512);
        one.peers = vec![neighbour4(1, 2, 65000)];
        one.peers[0].settings.bfd = Some(strict);
        let mut two = host_config(2, 65000);
        two.peers = vec![neighbour4(2, 1, 64512)];
        two.peers[0].settings.passive = false;
        let (node, other) = (lab.start(1, one), lab.start(2, two.clone()));
        other.until("refused", |p| p.last_error.is_some()).await;
        assert_eq!(node.only().await.state, State::Idle);
        two.peers[0].settings.bfd = Some(QUICK);
        let report = other.handle.reconfigure(two.clone()).await.unwrap();
        assert_eq!(report.changed[0].1, ["bfd"]);
        node.established().await;
        // Taken away on purpose it tells so, and is no failure.
        two.peers[0].settings.bfd = None;
        other.handle.reconfigure(two).await.unwrap();
        node.until("told", |p| p.bfd == Some("down")).await;
        assert_eq!(node.only().await.state, State::Established);
    });
}

/// The new process goes on with the BFD session before the neighbour misses anything.
#[test]
fn a_planned_restart_leaves_bfd_up() {
    let lab = Lab::new(2, &[(1, 2)]);
    let run = tempfile::tempdir().unwrap();
    wait(async {
        let slow = BfdConfig { interval: Duration::from_millis(500), multiplier: 10, ..QUICK };
        let mut one = host_config(1, 64512);
        one.bfd_state_dir = Some(run.path().to_owned());
        one.peers = vec![neighbour4(1, 2, 65000)];
        one.peers[0].settings.bfd = Some(slow);
        let mut two = host_config(2, 65000);
        two.peers = vec![neighbour4(2, 1, 64512)];
        two.peers[0].settings.bfd = Some(slow);
        let (node, two) = (lab.start(1, one.clone()), lab.start(2, two));
        node.until("up", |p| p.state == State::Established && p.bfd == Some("up")).await;
        two.until("up", |p| p.state == State::Established && p.bfd == Some("up")).await;
        node.handle.shutdown(Shutdown::Restart).await.unwrap();
        drop(node);
        one.restarting = true;
        let _node = lab.start(1, one);
        let seen = two.until("back", |p| p.established_count == 2).await;
        assert_eq!(seen.bfd, Some("up"));
        assert_eq!(two.handle.bfd().await.unwrap()[0].status.ups, 1);
        assert_eq!(seen.last_error.as_deref(), Some("connection closed by the peer"));
    });
}

/// No address but the link-local ones: the neighbours find each other, and IPv4 goes over IPv6 next hops (RFC 8950).
#[test]
fn unnumbered() {
    let lab = Lab::bare(2, &[(1, 2)]);
    wait(async {
        let host = |own: u8, other: u8, number: u32| {
            let mut config = host_config(own, number);
            let address = PeerAddress::Interface(format!("to{other}"));
            config.peers = vec![PeerConfig::new(address, RemoteAs::External)];
            config.peers[0].settings.timers.connect_retry = Duration::from_millis(300);
            config.peers[0].settings.bfd = Some(QUICK);
            config
        };
        let (one, mut two) = (lab.start(1, host(1, 2, 64512)), lab.start(2, host(2, 1, 65000)));
        let seen = two.established().await;
        assert_eq!(seen.peer, "to1");
        assert!(seen.address.unwrap().starts_with("fe80::"));
        let routes = ["10.32.4.7/32", "fd00:32::7/128"].map(|p| (prefix(p), LocalRoute::default()));
        one.handle.originate(routes.to_vec(), Duration::from_secs(5)).await.unwrap();
        for text in ["10.32.4.7/32", "fd00:32::7/128"] {
            let best = two.best(text).await.unwrap();
            let [hop] = best.next_hops.hops() else { panic!("{best:?}") };
            assert!(hop.gateway.to_string().starts_with("fe80::") && hop.ifindex != 0, "{hop}");
        }
        one.until("with BFD", |p| p.bfd == Some("up")).await;
        // The link goes and comes.
        cut(&lab, 2, "to1");
        two.until("down", |p| p.state != State::Established).await;
        mend(&lab, 2, "to1");
        two.until("back", |p| p.state == State::Established && p.prefixes_accepted == 2).await;
    });
}
