//! Reconfiguration of a running speaker.

use super::harness::{alone, config, peer, prefix, start, v4, v6};
use crate::bgp::{
    config::{PeerAddress, RemoteAs},
    session::State,
    speaker::{ReconfigureReport, SpeakerError, manager::Request},
};

#[test]
fn only_what_must_is_reset() {
    alone(async || {
        let mut one = config(1, 64512);
        one.peers = vec![peer(v4(1), v4(2), 65000), peer(v4(1), v4(3), 65000)];
        let mut two = config(2, 65000);
        two.peers = vec![peer(v4(2), v4(1), 64512)];
        let mut three = config(3, 65000);
        three.peers = vec![peer(v4(3), v4(1), 64512), peer(v6(3), v6(1), 64512)];
        let (node, two, three) = (start(one.clone()), start(two), start(three));
        two.established().await;
        three.established().await;

        assert_eq!(node.handle.reconfigure(one.clone()).await.unwrap(), ReconfigureReport::default());
        one.peers[0].settings.allowas_in = 1;
        one.peers[0].settings.description = Some("two".into());
        one.peers[1].settings.timers.hold_time = std::time::Duration::from_secs(30);
        one.peers.push(peer(v6(1), v6(3), 65000));
        one.originate = vec![prefix("10.9.0.0/24")];
        let report = node.handle.reconfigure(one.clone()).await.unwrap();
        assert_eq!(report.added, ["fd00::3"]);
        assert_eq!(report.changed, [("127.0.0.2".into(), vec!["description", "allowas_in"])]);
        assert_eq!(report.reset, [("127.0.0.3".into(), vec!["hold_time"])]);
        let seen =
            three.until("with the new hold time", |p| p.hold_time == 30 && p.uptime_seconds.is_some()).await;
        assert_eq!(seen.last_error.as_deref(), Some("received Cease/Other Configuration Change"));
        three.until("the new peer", |p| p.peer == "fd00::1" && p.state == State::Established).await;
        let untouched = two.only().await;
        assert_eq!((untouched.established_count, untouched.last_error), (1, None));

        // Shut, opened again, and gone.
        one.peers[0].settings.shutdown = Some("new cables".into());
        let report = node.handle.reconfigure(one.clone()).await.unwrap();
        assert_eq!(report.changed[0].1, ["shutdown"]);
        two.until("told", |p| p.last_error.as_deref().is_some_and(|e| e.contains("new cables"))).await;
        one.peers[0].settings.shutdown = None;
        node.handle.reconfigure(one.clone()).await.unwrap();
        two.established().await;
        one.peers.remove(0);
        let report = node.handle.reconfigure(one.clone()).await.unwrap();
        assert_eq!(report.removed, ["127.0.0.2"]);
        two.until("told", |p| p.last_error.as_deref().is_some_and(|e| e.contains("Peer De-configured")))
            .await;
    });
}

#[test]
fn what_cannot_change_is_told_and_a_bad_listener_changes_nothing() {
    alone(async || {
        let mut one = config(1, 64512);
        let node = start(one.clone());
        one.asn = super::harness::asn(64513);
        let report = node.handle.reconfigure(one.clone()).await.unwrap();
        assert_eq!(report.needs_restart, ["asn"]);
        one.listen.push("192.0.2.1:179".parse().unwrap());
        one.peers = vec![crate::bgp::config::PeerConfig::new(PeerAddress::Ip(v4(9)), RemoteAs::External)];
        let error = node.handle.reconfigure(one).await.unwrap_err();
        assert!(matches!(error, SpeakerError::Listen { .. }), "{error}");
        assert!(node.peers().await.is_empty());
    });
}

/// A listed peer takes the place of the dynamic one.
#[test]
fn a_dynamic_neighbour_becomes_a_listed_one() {
    use crate::bgp::config::{ListenRange, PeerSettings};
    alone(async || {
        let mut one = config(1, 64512);
        let settings = PeerSettings::new(RemoteAs::External);
        one.listen_ranges = vec![ListenRange { prefix: prefix("127.0.0.0/24"), limit: 9, settings }];
        let mut two = config(2, 65000);
        two.peers = vec![peer(v4(2), v4(1), 64512)];
        let (node, two) = (start(one.clone()), start(two));
        two.established().await;
        assert!(node.only().await.dynamic);
        one.peers = vec![peer(v4(1), v4(2), 65000)];
        node.handle.reconfigure(one.clone()).await.unwrap();
        node.until("listed", |p| !p.dynamic && p.state == State::Established).await;
        assert_eq!(node.peers().await.len(), 1);
        // Without the range nobody else gets in.
        one.listen_ranges.clear();
        one.peers.clear();
        node.handle.reconfigure(one).await.unwrap();
        two.until("refused", |p| p.last_error.as_deref() == Some("connection closed by the peer")).await;
        assert!(node.peers().await.is_empty());
    });
}

/// A defect in one peer's task costs that peer a session, and nobody else anything.
#[test]
fn a_task_that_dies_is_started_again() {
    alone(async || {
        let mut one = config(1, 64512);
        one.peers = vec![peer(v4(1), v4(2), 65000), peer(v4(1), v4(3), 65000)];
        let spoke = |n| {
            let mut config = config(n, 65000);
            config.peers = vec![peer(v4(n), v4(1), 64512)];
            start(config)
        };
        let (node, two, three) = (start(one), spoke(2), spoke(3));
        two.established().await;
        three.established().await;
        node.handle.requests.send(Request::Fault { peer: "127.0.0.2".into() }).await.unwrap();
        two.until("back", |p| p.established_count == 2 && p.state == State::Established).await;
        assert_eq!(node.peers().await.len(), 2);
        assert_eq!(three.only().await.established_count, 1);
    });
}

/// Without its RIB the speaker ends, as a restart would, so that whoever watches it can start it again.
#[test]
fn a_rib_that_dies_ends_the_speaker() {
    alone(async || {
        let mut one = config(1, 64512);
        one.peers = vec![peer(v4(1), v4(2), 65000)];
        let mut two = config(2, 65000);
        two.peers = vec![peer(v4(2), v4(1), 64512)];
        let (mut node, two) = (start(one), start(two));
        two.established().await;
        node.handle.query(|_| panic!("as the test wants it")).await.unwrap_err();
        while node.events.recv().await.is_some() {}
        let error = two.until("down", |p| p.state != State::Established).await.last_error;
        assert_eq!(error.as_deref(), Some("connection closed by the peer"));
        assert!(matches!(node.handle.peers().await, Err(SpeakerError::Stopped)));
    });
}
