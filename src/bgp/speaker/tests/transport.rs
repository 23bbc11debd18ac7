//! MD5, TTL security, ranges, sources: who may connect and who may not.

use std::{net::SocketAddr, time::Duration};

use super::harness::{alone, asn, config, peer, prefix, start, v4, v6};
use crate::{
    bgp::{
        config::{ListenRange, PeerSettings, RemoteAs, Secret, TcpAoKey},
        session::State,
        speaker::PeerAction,
    },
    netlink::tcp_ao::{self, Algorithm},
};

#[expect(clippy::unnecessary_wraps, reason = "as the setting wants it")]
fn secret(text: &str) -> Option<Secret> {
    Some(Secret(text.into()))
}

#[test]
fn md5_keys_must_match() {
    for (a, b) in [(v4(1), v4(2)), (v6(1), v6(2))] {
        alone(async || {
            let mut one = config(1, 64512);
            one.peers = vec![peer(a, b, 65000)];
            one.peers[0].settings.password = secret("right");
            let mut two = config(2, 65000);
            two.peers = vec![peer(b, a, 64512)];
            two.peers[0].settings.password = secret("wrong");
            let (one, node) = (start(one), start(two.clone()));
            // The kernel drops the segments, so that a dial ends by our own timer only.
            node.until("timed out", |p| p.last_error.as_deref() == Some("connection timed out")).await;
            assert_ne!(one.only().await.state, State::Established);
            two.peers[0].settings.password = secret("right");
            let report = node.handle.reconfigure(two).await.unwrap();
            assert_eq!(report.reset, [(a.to_string(), vec!["password"])]);
            one.established().await;
            node.established().await;
        });
    }
}

fn ao(id: u8, secret: &str) -> TcpAoKey {
    TcpAoKey { send_id: id, receive_id: id, algorithm: Algorithm::default(), secret: Secret(secret.into()) }
}

/// With keys there is a session where the kernel has TCP-AO, and none, with the reason, where it has not.
#[test]
fn tcp_ao_or_no_session() {
    for (a, b) in [(v4(1), v4(2)), (v6(1), v6(2))] {
        alone(async || {
            let mut one = config(1, 64512);
            one.peers = vec![peer(a, b, 65000)];
            one.peers[0].settings.tcp_ao = vec![ao(1, "secret"), ao(2, "other")];
            let mut two = config(2, 65000);
            two.peers = vec![peer(b, a, 64512)];
            two.peers[0].settings.tcp_ao = vec![ao(2, "other"), ao(1, "secret")];
            let (one, node) = (start(one), start(two.clone()));
            if tcp_ao::supported().unwrap() {
                one.established().await;
                node.established().await;
                // Roll over to a third key.
                two.peers[0].settings.tcp_ao.push(ao(3, "third"));
                let report = node.handle.reconfigure(two.clone()).await.unwrap();
                assert_eq!(report.changed, [(a.to_string(), vec!["tcp_ao"])]);
                assert_eq!(node.only().await.established_count, 1);
                return;
            }
            let says = |error: Option<&str>| error.is_some_and(|e| e.contains("this kernel has no TCP-AO"));
            node.until("told", |p| says(p.last_error.as_deref())).await;
            // A neighbour that dials without keys is refused, and told why here.
            two.peers[0].settings.tcp_ao.clear();
            let report = node.handle.reconfigure(two).await.unwrap();
            assert_eq!(report.reset, [(a.to_string(), vec!["tcp_ao"])]);
            let refused = |e: &str| e.starts_with("connection refused: this kernel has no TCP-AO");
            one.until("refused", |p| p.last_error.as_deref().is_some_and(refused)).await;
            assert_eq!(one.only().await.established_count, 0);
        });
    }
}

/// So is one from a range with keys.
#[test]
fn tcp_ao_for_a_range() {
    alone(async || {
        let mut one = config(1, 64512);
        let mut settings = PeerSettings::new(RemoteAs::Is(asn(65000)));
        settings.tcp_ao = vec![ao(1, "range")];
        one.listen_ranges = vec![ListenRange { prefix: prefix("127.0.0.0/8"), limit: 10, settings }];
        let mut two = config(2, 65000);
        two.peers = vec![peer(v4(2), v4(1), 64512)];
        let supported = tcp_ao::supported().unwrap();
        if supported {
            two.peers[0].settings.tcp_ao = vec![ao(1, "range")];
        }
        let (_one, two) = (start(one), start(two));
        if supported {
            two.established().await;
        } else {
            let seen = two.until("refused", |p| p.last_error.is_some()).await;
            assert_eq!(seen.established_count, 0);
        }
    });
}

#[test]
fn md5_for_a_range() {
    alone(async || {
        let mut one = config(1, 64512);
        let mut settings = PeerSettings::new(RemoteAs::Is(asn(65000)));
        settings.password = secret("range");
        one.listen_ranges = vec![ListenRange { prefix: prefix("127.0.0.0/8"), limit: 10, settings }];
        let mut two = config(2, 65000);
        two.peers = vec![peer(v4(2), v4(1), 64512)];
        two.peers[0].settings.password = secret("range");
        let (_one, two) = (start(one), start(two));
        two.established().await;
    });
}

#[test]
fn ttl_security_on_both_sides() {
    for (a, b) in [(v4(1), v4(2)), (v6(1), v6(2))] {
        alone(async || {
            let mut one = config(1, 64512);
            one.peers = vec![peer(a, b, 65000)];
            one.peers[0].settings.ttl_security = Some(1);
            let mut two = config(2, 65000);
            two.peers = vec![peer(b, a, 64512)];
            two.peers[0].settings.ttl_security = Some(1);
            let (one, node) = (start(one), start(two.clone()));
            node.established().await;
            // Both dialed: what ended by that is over once both are established.
            let before = one.established().await.established_count;
            // A neighbour that sends with another TTL is not heard.
            two.peers[0].settings.ttl_security = None;
            two.peers[0].settings.multihop = Some(200);
            let report = node.handle.reconfigure(two).await.unwrap();
            assert_eq!(report.reset[0].1, ["multihop", "ttl_security"]);
            one.until("down", |p| p.state != State::Established).await;
            // By whoever dials, it gets as far as the word of the one who is heard.
            node.until("stuck", |p| {
                p.last_error.as_deref() == Some("connection timed out") || p.state == State::OpenConfirm
            })
            .await;
            assert_eq!(one.only().await.established_count, before);
        });
    }
}

#[test]
fn neighbours_from_a_range() {
    alone(async || {
        let mut hub = config(1, 64512);
        let settings = PeerSettings {
            group: Some("hosts".into()),
            ..PeerSettings::new(RemoteAs::OneOf(vec![asn(65000), asn(65001)]))
        };
        hub.listen_ranges = vec![
            ListenRange { prefix: prefix("127.0.0.0/8"), limit: 2, settings: settings.clone() },
            ListenRange { prefix: prefix("fd00::/64"), limit: 2, settings },
        ];
        let hub = start(hub);
        let spoke = |n: u8, number: u32| {
            let mut config = config(n, number);
            config.peers = vec![peer(v4(n), v4(1), 64512)];
            start(config)
        };
        let (two, three) = (spoke(2, 65000), spoke(3, 65001));
        two.established().await;
        three.established().await;
        let seen = hub.until("known", |p| p.peer == "127.0.0.3").await;
        assert!(seen.dynamic && seen.group.as_deref() == Some("hosts") && seen.asn == Some(65001));
        // The range is full.
        let four = spoke(4, 65000);
        four.until("refused", |p| p.last_error.is_some()).await;
        // A place comes free, with no graceful restart at once.
        two.handle.act("127.0.0.1", PeerAction::Disable).await.unwrap();
        four.established().await;
        let mut v6 = config(5, 65000);
        v6.peers = vec![peer(super::harness::v6(5), super::harness::v6(1), 64512)];
        start(v6).established().await;
        let peers = hub.peers().await;
        let names: Vec<_> = peers.iter().map(|p| p.peer.as_str()).collect();
        assert!(names.contains(&"127.0.0.4") && !names.contains(&"127.0.0.2"), "{names:?}");
        // The wrong AS is told so, and does not stay in the list.
        three.handle.act("127.0.0.1", PeerAction::Disable).await.unwrap();
        let bad = spoke(6, 65002);
        let told = bad
            .until("refused", |p| p.last_error.as_deref().is_some_and(|e| e.contains("Bad Peer AS")))
            .await;
        assert_ne!(told.state, State::Established);
    });
}

#[test]
fn strangers_and_wrong_local_addresses_are_refused() {
    alone(async || {
        let mut one = config(1, 64512);
        one.listen.push(SocketAddr::new(v4(7), 179));
        one.peers = vec![peer(v4(1), v4(2), 65000)];
        one.peers[0].settings.passive = true;
        let one = start(one);
        let mut two = config(2, 65000);
        // The peer of .2 is .1; it also listens on .7, where it must not be let in.
        two.peers = vec![peer(v4(2), v4(7), 64512), peer(v4(3), v4(1), 64512)];
        let two = start(two);
        two.until("closed", |p| p.peer == "127.0.0.7" && p.last_error.is_some()).await;
        two.until("closed", |p| p.peer == "127.0.0.1" && p.last_error.is_some()).await;
        assert_eq!(one.only().await.state, State::Active);
        assert!(two.peers().await.iter().all(|p| p.state != State::Established));
    });
}

#[test]
fn hold_timer_expires_when_the_peer_goes_silent() {
    alone(async || {
        let mut one = config(1, 64512);
        one.peers = vec![peer(v4(1), v4(2), 65000)];
        one.peers[0].settings.timers.hold_time = Duration::from_secs(3);
        let one = start(one);
        // A peer that says the right words once, and then nothing.
        let listener = tokio::net::TcpListener::bind((v4(2), 179)).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let open = super::harness::open(65000, [10, 0, 0, 2]);
        tokio::io::AsyncWriteExt::write_all(&mut stream, &open).await.unwrap();
        let down = one.until("expired", |p| p.last_error.is_some()).await;
        assert_eq!(down.last_error.as_deref(), Some("sent Hold Timer Expired"));
        assert_eq!(down.established_count, 1);
    });
}
