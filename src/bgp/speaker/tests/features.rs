//! Features of the protocol from one configuration to what another speaker sees.

use std::time::Duration;

use super::{
    harness::{alone, answering, config, peer, prefix, start, v4},
    lab::{Lab, two_hosts, wait},
};
use crate::bgp::{
    config::{MaxPrefixes, Secret},
    rib::{LocalRoute, RouteFilter},
    session::State,
    speaker::{PeerAction, PeerStatus, PrefixLimitState as Limit},
    wire::Community,
};

const WAIT: Duration = Duration::from_secs(5);

#[expect(clippy::unnecessary_wraps, reason = "as the setting is")]
fn password(text: &str) -> Option<Secret> {
    Some(Secret(text.into()))
}

/// RFC 8654: a route whose attributes do not fit into 4,096 octets, and back to nothing.
#[test]
fn extended_messages() {
    let lab = Lab::new(2, &[(1, 2)]);
    wait(async {
        let (one, two) = two_hosts();
        let (one, mut two) = (lab.start(1, one), lab.start(2, two));
        one.established().await;
        let communities: Vec<Community> = (0..1500).map(|n| Community(64512 << 16 | n)).collect();
        let route = LocalRoute { communities, ..LocalRoute::default() };
        let small = (prefix("10.2.0.0/24"), LocalRoute::default());
        assert!(one.handle.originate(vec![(prefix("10.1.0.0/24"), route), small], WAIT).await.unwrap());
        assert!(two.best("10.1.0.0/24").await.is_some());
        assert!(two.best("10.2.0.0/24").await.is_some());
        let filter = RouteFilter { prefix: Some(prefix("10.1.0.0/24")), ..RouteFilter::default() };
        let rows = two.handle.query(move |rib| rib.routes(&filter)).await.unwrap();
        assert_eq!(rows[0].communities.len(), 1500);
        assert!(
            two.only()
                .await
                .capabilities
                .iter()
                .any(|c| c.contains("Extended Message") || c.contains("Extended message"))
        );
        assert!(one.handle.withdraw(vec![prefix("10.1.0.0/24")], WAIT).await.unwrap());
        assert_eq!(two.best("10.1.0.0/24").await, None);
    });
}

/// A session that ended for too many prefixes begins again by itself when its time is over.
#[test]
fn too_many_prefixes_for_a_while() {
    let lab = Lab::new(2, &[(1, 2)]);
    wait(async {
        let (one, mut two) = two_hosts();
        two.peers[0].settings.max_prefixes =
            Some(MaxPrefixes { limit: 2, warning_percent: 100, restart: Some(Duration::from_secs(3600)) });
        let mut config = two.clone();
        let (one, two) = (lab.start(1, one), lab.start(2, two));
        one.established().await;
        let state = |p: &PeerStatus| p.prefix_limits[0].state;
        one.handle.originate(vec![(prefix("10.1.0.0/24"), LocalRoute::default())], WAIT).await.unwrap();
        let seen = two.until("one", |p| p.prefixes_accepted == 1).await;
        let limit = seen.prefix_limits[0];
        assert_eq!((limit.limit, limit.warning, limit.prefixes, limit.state), (2, Some(2), 1, Limit::Ok));
        one.handle.originate(vec![(prefix("10.2.0.0/24"), LocalRoute::default())], WAIT).await.unwrap();
        two.until("warned", |p| p.prefixes_accepted == 2 && state(p) == Limit::Warning).await;
        let three = ["10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24"];
        let routes = three.iter().map(|p| (prefix(p), LocalRoute::default())).collect();
        one.handle.originate(routes, WAIT).await.unwrap();
        let ended = |p: &PeerStatus| {
            p.last_error.as_deref().is_some_and(|e| e.contains("Maximum Number of Prefixes Reached"))
                && p.state == State::Idle
        };
        let seen = two.until("too many", |p| ended(p) && state(p) == Limit::Exceeded).await;
        assert!(seen.restart_seconds.is_some_and(|s| (3000..=3600).contains(&s)), "{seen:?}");
        one.handle.withdraw(vec![prefix("10.1.0.0/24")], WAIT).await.unwrap();
        // An operator is sooner than the timer.
        two.handle.act("10.1.2.1", PeerAction::Reset).await.unwrap();
        two.until("back", |p| p.state == State::Established && p.prefixes_accepted == 2).await;
        // A lower limit counts at once, and the time of restart is over by itself.
        let limit = MaxPrefixes { limit: 1, warning_percent: 100, restart: Some(Duration::from_millis(300)) };
        config.peers[0].settings.max_prefixes = Some(limit);
        let report = two.handle.reconfigure(config).await.unwrap();
        assert_eq!(report.changed, [("10.1.2.1".into(), vec!["max_prefixes"])]);
        let before = two.until("too many again", |p| ended(p)).await.established_count;
        one.handle.withdraw(vec![prefix("10.2.0.0/24")], WAIT).await.unwrap();
        let seen = two
            .until("back by itself", |p| {
                p.state == State::Established && p.established_count > before && p.prefixes_accepted == 1
            })
            .await;
        assert_eq!((state(&seen), seen.restart_seconds), (Limit::Warning, None));
    });
}

/// The password of a neighbour changes while both run; the other neighbour notices nothing.
#[test]
fn md5_changes_live() {
    alone(async || {
        let mut one = config(1, 64512);
        one.peers = vec![peer(v4(1), v4(2), 65000), peer(v4(1), v4(3), 65003)];
        let mut two = config(2, 65000);
        two.peers = vec![peer(v4(2), v4(1), 64512)];
        let mut three = config(3, 65003);
        three.peers = vec![answering(v4(3), v4(1), 64512)];
        one.peers[0].settings.password = password("first");
        two.peers[0].settings.password = password("first");
        let (node, other, third) = (start(one.clone()), start(two.clone()), start(three));
        other.established().await;
        third.established().await;
        assert_eq!(other.only().await.authentication, Some("md5"));
        assert_eq!(third.only().await.authentication, None);
        one.peers[0].settings.password = password("second");
        let report = node.handle.reconfigure(one).await.unwrap();
        assert_eq!(report.reset, [("127.0.0.2".into(), vec!["password"])]);
        other.until("down", |p| p.state != State::Established).await;
        two.peers[0].settings.password = password("second");
        other.handle.reconfigure(two.clone()).await.unwrap();
        other.until("up with the new one", |p| p.state == State::Established).await;
        // And none at all, on both sides.
        two.peers[0].settings.password = None;
        other.handle.reconfigure(two).await.unwrap();
        other.until("down again", |p| p.state != State::Established).await;
        assert_eq!(third.only().await.established_count, 1);
    });
}
