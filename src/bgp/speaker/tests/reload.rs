//! Reconfiguration of a running speaker.

use std::time::Duration;

use super::{
    harness::{alone, answering, config, peer, prefix, start, v4, v6},
    lab::{Lab, host_config, neighbour4, wait},
};
use crate::bgp::{
    config::{PeerAddress, RemoteAs},
    rib::RouteFilter,
    session::State,
    speaker::{ReconfigureReport, SpeakerError, manager::Request},
};

#[test]
fn only_what_must_is_reset() {
    alone(async || {
        let mut one = config(1, 64512);
        one.peers = vec![peer(v4(1), v4(2), 65000), peer(v4(1), v4(3), 65000)];
        let mut two = config(2, 65000);
        two.peers = vec![answering(v4(2), v4(1), 64512)];
        let mut three = config(3, 65000);
        three.peers = vec![answering(v4(3), v4(1), 64512), answering(v6(3), v6(1), 64512)];
        let (node, two, three) = (start(one.clone()), start(two), start(three));
        two.established().await;
        three.established().await;

        assert_eq!(node.handle.reconfigure(one.clone()).await.unwrap(), ReconfigureReport::default());
        one.peers[0].settings.allowas_in = 1;
        one.peers[0].settings.description = Some("two".into());
        one.peers[1].settings.timers.hold_time = Duration::from_secs(30);
        one.peers.push(peer(v6(1), v6(3), 65000));
        one.originate = vec![prefix("10.9.0.0/24")];
        let report = node.handle.reconfigure(one.clone()).await.unwrap();
        assert_eq!(report.speaker, ["originate"]);
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
fn a_bad_listener_changes_nothing() {
    alone(async || {
        let mut one = config(1, 64512);
        let node = start(one.clone());
        one.listen.push("192.0.2.1:179".parse().unwrap());
        one.peers = vec![crate::bgp::config::PeerConfig::new(PeerAddress::Ip(v4(9)), RemoteAs::External)];
        let error = node.handle.reconfigure(one).await.unwrap_err();
        assert!(matches!(error, SpeakerError::Listen { .. }), "{error}");
        assert!(node.peers().await.is_empty());
    });
}

/// Another AS number of ours: who sees it gets a new session, who sees `local_asn` keeps the one there is.
#[test]
fn our_own_numbers_change_in_a_running_speaker() {
    let lab = Lab::new(3, &[(1, 2), (1, 3)]);
    wait(async {
        let mut one = host_config(1, 64512);
        one.originate = vec![prefix("10.9.0.0/24")];
        one.peers = vec![neighbour4(1, 2, 65000), neighbour4(1, 3, 65003)];
        one.peers[1].settings.local_asn = Some(super::harness::asn(64999));
        let mut two = host_config(2, 65000);
        two.peers = vec![neighbour4(2, 1, 64512)];
        two.peers[0].settings.asn = RemoteAs::External;
        let mut three = host_config(3, 65003);
        three.peers = vec![neighbour4(3, 1, 64999)];
        let (node, mut two, mut three) = (lab.start(1, one.clone()), lab.start(2, two), lab.start(3, three));
        two.established().await;
        three.established().await;
        two.best("10.9.0.0/24").await.unwrap();
        three.best("10.9.0.0/24").await.unwrap();
        let path = async |node: &super::harness::Node| {
            let rows = node.handle.query(|rib| rib.routes(&RouteFilter::default())).await.unwrap();
            rows.iter().find(|r| r.prefix == prefix("10.9.0.0/24")).map(|r| r.as_path.clone())
        };
        assert_eq!(path(&three).await.as_deref(), Some("64999 64512"));

        one.asn = super::harness::asn(64513);
        let report = node.handle.reconfigure(one.clone()).await.unwrap();
        assert_eq!(report.speaker, ["asn"]);
        assert_eq!(report.reset, [("10.1.2.2".into(), vec!["bgp.asn"])]);
        two.until("another session", |p| p.established_count == 2 && p.asn == Some(64513)).await;
        for (node, expected) in [(&two, "64513"), (&three, "64999 64513")] {
            let shown = async {
                while path(node).await.as_deref() != Some(expected) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), shown).await.expect("the new path");
        }
        assert_eq!(three.only().await.established_count, 1);

        one.router_id = crate::model::RouterId::new([10, 0, 0, 99].into()).unwrap();
        let report = node.handle.reconfigure(one.clone()).await.unwrap();
        assert_eq!((report.speaker.as_slice(), report.reset.len()), (["router_id"].as_slice(), 2));
        three.until("the new id", |p| p.router_id.as_deref() == Some("10.0.0.99")).await;
    });
}

/// What both sides would agree on again as it is needs no new session.
#[test]
fn timers_and_expectations_that_change_nothing_reset_nothing() {
    alone(async || {
        let mut one = config(1, 64512);
        one.peers = vec![peer(v4(1), v4(2), 65000)];
        one.peers[0].settings.asn = RemoteAs::External;
        let mut two = config(2, 65000);
        two.peers = vec![answering(v4(2), v4(1), 64512)];
        two.peers[0].settings.timers.hold_time = Duration::from_secs(9);
        let (node, two) = (start(one.clone()), start(two));
        let before = node.established().await;
        assert_eq!((before.hold_time, before.keepalive), (9, Some(3)));
        let settings = &mut one.peers[0].settings;
        settings.timers.hold_time = Duration::from_secs(30);
        settings.timers.keepalive = Some(Duration::from_secs(1));
        settings.asn = RemoteAs::Is(super::harness::asn(65000));
        let report = node.handle.reconfigure(one.clone()).await.unwrap();
        assert_eq!(report.reset, []);
        assert_eq!(report.changed, [("127.0.0.2".into(), vec!["asn", "hold_time", "keepalive"])]);
        let seen = node.until("the new interval", |p| p.keepalive == Some(1)).await;
        assert_eq!((seen.hold_time, seen.established_count), (9, 1));
        let sent = node.only().await.messages_sent;
        node.until("sooner than after three seconds", |p| p.messages_sent >= sent + 2).await;
        // Less than the neighbour's is agreed on anew.
        one.peers[0].settings.timers.hold_time = Duration::from_secs(6);
        let report = node.handle.reconfigure(one).await.unwrap();
        assert_eq!(report.reset, [("127.0.0.2".into(), vec!["hold_time"])]);
        two.until("the new hold time", |p| p.hold_time == 6 && p.established_count == 2).await;
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
            config.peers = vec![answering(v4(n), v4(1), 64512)];
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
        two.peers = vec![answering(v4(2), v4(1), 64512)];
        let (mut node, two) = (start(one), start(two));
        two.established().await;
        node.handle.query(|_| panic!("as the test wants it")).await.unwrap_err();
        while node.events.recv().await.is_some() {}
        let error = two.until("down", |p| p.state != State::Established).await.last_error;
        assert_eq!(error.as_deref(), Some("connection closed by the peer"));
        assert!(matches!(node.handle.peers().await, Err(SpeakerError::Stopped)));
    });
}
