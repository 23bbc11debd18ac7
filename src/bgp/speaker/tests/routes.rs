//! Routes from one speaker to another, and what becomes of them.

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::{
    harness::{Node, prefix},
    lab::{Lab, host_config as config, neighbour4, neighbour6, on_link4, on_link6, two_hosts, wait},
};
use crate::{
    bgp::{
        config::IdentityMode,
        rib::{self, LocalRoute},
        session::State,
        speaker::{PeerAction, Shutdown, SpeakerEvent},
    },
    model::{Identity, Labels, NextHop},
    netlink::{self, addr, ns::ifindex},
};

const WAIT: Duration = Duration::from_secs(5);

async fn originate(node: &Node, prefixes: &[&str]) {
    let routes = prefixes.iter().map(|p| (prefix(p), LocalRoute::default())).collect();
    assert!(node.handle.originate(routes, WAIT).await.unwrap());
}

#[test]
fn ebgp_and_ibgp_over_both_families_carry_both_families() {
    for other in [65000, 64512] {
        for neighbour in [neighbour4, neighbour6] {
            let lab = Lab::new(2, &[(1, 2)]);
            wait(async {
                let mut one = config(1, 64512);
                one.peers = vec![neighbour(1, 2, other)];
                let mut two = config(2, other);
                two.peers = vec![neighbour(2, 1, 64512)];
                let (one, mut two) = (lab.start(1, one), lab.start(2, two));
                one.established().await;
                originate(&one, &["10.32.4.7/32", "fd00:32::7/128"]).await;
                let v4_route = two.best("10.32.4.7/32").await.unwrap();
                assert_eq!(v4_route.next_hops.hops(), [NextHop::via(on_link4(1, 2))]);
                let v6_route = two.best("fd00:32::7/128").await.unwrap();
                let [v6_hop] = v6_route.next_hops.hops() else { panic!("{v6_route:?}") };
                assert!(v6_hop.gateway == on_link6(1, 2) || v6_hop.ifindex != 0, "{v6_hop}");
                let status = two.until("counted", |p| p.prefixes_accepted == 2).await;
                assert_eq!((status.prefixes_received, status.prefixes_sent), (2, 0));
                assert_eq!(one.only().await.prefixes_sent, 2);
                assert!(one.handle.withdraw(vec![prefix("10.32.4.7/32")], WAIT).await.unwrap());
                assert_eq!(two.best("10.32.4.7/32").await, None);
                // When the session ends for good, the rest goes too.
                let name = one.only().await.peer;
                one.handle.act(&name, PeerAction::Disable).await.unwrap();
                assert_eq!(two.best("fd00:32::7/128").await, None);
            });
        }
    }
}

#[test]
fn what_was_originated_before_the_session_and_identities() {
    let lab = Lab::new(2, &[(1, 2)]);
    wait(async {
        let mut one = config(1, 64512);
        one.peers = vec![neighbour4(1, 2, 65000)];
        one.identity_domain = Some(4_200_000_000);
        one.originate = vec![prefix("10.9.0.0/16")];
        let mut two = config(2, 65000);
        two.identity_domain = one.identity_domain;
        two.identity_pools = vec![prefix("10.32.0.0/16")];
        two.peers = vec![neighbour4(2, 1, 64512)];
        two.peers[0].settings.identity = Some(IdentityMode::Accept);
        let identity = Arc::new(Identity::of(&Labels::try_from([("role", "web")]).unwrap()));
        let route = LocalRoute { identity: Some(identity.clone()), ..LocalRoute::default() };
        let one = lab.start(1, one);
        one.handle.originate(vec![(prefix("10.32.4.7/32"), route)], WAIT).await.unwrap();
        let mut two = lab.start(2, two);
        let learned = two.best("10.32.4.7/32").await.unwrap();
        assert_eq!(learned.identity, Some(identity));
        two.until("both", |p| p.prefixes_accepted == 2).await;
    });
}

#[test]
fn a_reflector_and_its_clients() {
    let lab = Lab::new(3, &[(1, 2), (1, 3)]);
    wait(async {
        let mut hub = config(1, 64512);
        hub.route_reflector = true;
        hub.peers = vec![neighbour4(1, 2, 64512), neighbour4(1, 3, 64512)];
        for peer in &mut hub.peers {
            peer.settings.route_reflector_client = true;
        }
        let client = |n| {
            let mut config = config(n, 64512);
            config.peers = vec![neighbour4(n, 1, 64512)];
            lab.start(n, config)
        };
        let (_hub, two, mut three) = (lab.start(1, hub), client(2), client(3));
        two.established().await;
        three.established().await;
        originate(&two, &["10.32.2.1/32"]).await;
        let learned = three.best("10.32.2.1/32").await.unwrap();
        assert_eq!(learned.next_hops.hops(), [NextHop::via(on_link4(2, 1))]);
        two.handle.withdraw(vec![prefix("10.32.2.1/32")], WAIT).await.unwrap();
        assert_eq!(three.best("10.32.2.1/32").await, None);
    });
}

#[test]
fn a_refresh_brings_nothing_new_and_loses_nothing() {
    let lab = Lab::new(2, &[(1, 2)]);
    wait(async {
        let mut one = config(1, 64512);
        one.peers = vec![neighbour4(1, 2, 65000)];
        let mut two = config(2, 65000);
        two.peers = vec![neighbour4(2, 1, 64512)];
        let (one, mut two) = (lab.start(1, one), lab.start(2, two));
        one.established().await;
        originate(&one, &["10.32.4.7/32"]).await;
        two.best("10.32.4.7/32").await;
        let before = two.only().await.updates_received;
        two.handle.act("10.1.2.1", PeerAction::RefreshIn).await.unwrap();
        two.until("refreshed", |p| p.updates_received > before).await;
        let before = two.only().await.updates_received;
        one.handle.act("10.1.2.2", PeerAction::RefreshOut).await.unwrap();
        let after = two.until("refreshed", |p| p.updates_received > before).await;
        assert_eq!(after.prefixes_accepted, 1);
    });
}

#[test]
fn a_planned_restart_keeps_routes_at_the_peer() {
    let lab = Lab::new(2, &[(1, 2)]);
    wait(async {
        let mut one = config(1, 64512);
        one.peers = vec![neighbour4(1, 2, 65000)];
        let mut two = config(2, 65000);
        two.peers = vec![neighbour4(2, 1, 64512)];
        let (node, mut two) = (lab.start(1, one.clone()), lab.start(2, two));
        node.established().await;
        originate(&node, &["10.32.4.7/32", "10.32.4.8/32"]).await;
        two.best("10.32.4.8/32").await.unwrap();
        node.handle.shutdown(Shutdown::Restart).await.unwrap();
        drop(node);
        two.event("down", |e| matches!(e, SpeakerEvent::PeerDown { .. }).then_some(())).await;
        // The new process knows one of the two.
        one.restarting = true;
        let mut node = lab.start(1, one);
        originate(&node, &["10.32.4.7/32"]).await;
        two.event("up", |e| matches!(e, SpeakerEvent::PeerUp { .. }).then_some(())).await;
        // After the End-of-RIB the other one is gone; the first one never was.
        loop {
            if two.best("10.32.4.8/32").await.is_none() {
                break;
            }
        }
        let kept = |c: &rib::BestChange| c.prefix != prefix("10.32.4.7/32") || c.best.is_some();
        assert!(two.log.iter().all(kept), "{:?}", two.log);
        // The restarted side has heard its only peer and is done.
        node.event("converged", |e| matches!(e, SpeakerEvent::Converged).then_some(())).await;
        assert_eq!(two.only().await.prefixes_accepted, 1);
    });
}

#[test]
fn too_many_prefixes() {
    use crate::bgp::config::MaxPrefixes;
    let lab = Lab::new(2, &[(1, 2)]);
    wait(async {
        let mut one = config(1, 64512);
        one.peers = vec![neighbour4(1, 2, 65000)];
        let mut two = config(2, 65000);
        two.peers = vec![neighbour4(2, 1, 64512)];
        two.peers[0].settings.max_prefixes =
            Some(MaxPrefixes { limit: 2, warning_percent: 75, restart: None });
        let (one, two) = (lab.start(1, one), lab.start(2, two));
        one.established().await;
        originate(&one, &["10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24"]).await;
        let down = one
            .until("told", |p| p.last_error.as_deref().is_some_and(|e| e.contains("Maximum Number")))
            .await;
        assert_eq!(
            down.last_error.as_deref(),
            Some("received Cease/Hard Reset (Cease/Maximum Number of Prefixes Reached)")
        );
        let idle = two.until("idle", |p| p.state == State::Idle).await;
        assert!(idle.last_error.unwrap().contains("Maximum Number of Prefixes Reached"));
        one.handle.withdraw(vec![prefix("10.1.0.0/24")], WAIT).await.unwrap();
        two.handle.act("10.1.2.1", PeerAction::Enable).await.unwrap();
        two.until("back", |p| p.state == State::Established && p.prefixes_accepted == 2).await;
    });
}

/// A large table crosses, with a queue that is bounded everywhere, and both sides stay up.
#[test]
fn a_large_table() {
    let lab = Lab::new(2, &[(1, 2)]);
    wait(async {
        let mut one = config(1, 64512);
        one.peers = vec![neighbour4(1, 2, 65000)];
        let mut two = config(2, 65000);
        two.peers = vec![neighbour4(2, 1, 64512)];
        let (one, two) = (lab.start(1, one), lab.start(2, two));
        one.established().await;
        let count: u32 = 20_000;
        let prefixes = (0..count).map(|i| {
            let addr = std::net::Ipv4Addr::from_bits(0x0A00_0000 + i);
            // Every eighth has attributes of its own.
            let med = (i % 8 == 0).then_some(i);
            (crate::model::Prefix::host(addr.into()), LocalRoute { med, ..LocalRoute::default() })
        });
        assert!(one.handle.originate(prefixes.collect(), Duration::from_secs(60)).await.unwrap());
        two.until("complete", |p| p.prefixes_accepted == u64::from(count)).await;
        assert_eq!(one.only().await.established_count, 1);
    });
}

/// A session may be there before the host has an address that can be the other family's next hop: right after a boot it is
/// still being looked for duplicates.
#[test]
fn a_next_hop_that_comes_late() {
    let lab = Lab::bare(2, &[(1, 2)]);
    let change = |host: u8, add: bool, addr: IpAddr, len: u8| {
        lab.host(host).run(|| {
            let mut socket = netlink::Socket::route().unwrap();
            let index = ifindex(&format!("to{}", 3 - host)).unwrap();
            if add {
                addr::add(&mut socket, index, addr, len).unwrap();
            } else {
                addr::delete(&mut socket, index, addr, len).unwrap();
            }
        });
    };
    let link_local = |host: u8| {
        lab.host(host).run(|| {
            let mut socket = netlink::Socket::route().unwrap();
            let index = ifindex(&format!("to{}", 3 - host)).unwrap();
            let list = addr::list(&mut socket).unwrap();
            list.into_iter().find(|a| a.ifindex == index && a.addr.is_ipv6()).map(|a| a.addr)
        })
    };
    for host in [1, 2] {
        change(host, true, on_link4(host, 3 - host), 24);
    }
    while let Some(addr) = link_local(1) {
        change(1, false, addr, 64);
    }
    wait(async {
        let (one, two) = two_hosts();
        let (one, mut two) = (lab.start(1, one), lab.start(2, two));
        one.established().await;
        originate(&one, &["10.32.4.7/32", "fd00:32::7/128"]).await;
        assert!(two.best("10.32.4.7/32").await.is_some());
        assert_eq!(two.only().await.prefixes_received, 1, "there is no next hop for it");
        let next_hop = on_link6(1, 2);
        change(1, true, next_hop, 64);
        let route = two.best("fd00:32::7/128").await.unwrap();
        assert_eq!(route.next_hops.hops(), [NextHop::via(next_hop)]);
        assert_eq!(one.only().await.prefixes_sent, 2);
        // And one that goes takes its routes along.
        change(1, false, next_hop, 64);
        assert_eq!(two.best("fd00:32::7/128").await, None);
        // A link-local one counts on its link.
        change(1, true, "fe80::77".parse().unwrap(), 64);
        one.until("announced again", |p| p.prefixes_sent == 2).await;
        assert_eq!((one.only().await.established_count, two.only().await.established_count), (1, 1));
    });
}

/// While the RIB is busy for longer than the hold time, the session stays up and nothing is lost.
#[test]
fn a_busy_rib_does_not_end_sessions() {
    let lab = Lab::new(2, &[(1, 2)]);
    wait(async {
        let mut one = config(1, 64512);
        one.peers = vec![neighbour4(1, 2, 65000)];
        one.peers[0].settings.timers.hold_time = Duration::from_secs(6);
        let mut two = config(2, 65000);
        two.peers = vec![neighbour4(2, 1, 64512)];
        let (one, two) = (lab.start(1, one), lab.start(2, two));
        one.established().await;
        two.established().await;
        let (busy, done) = (two.handle.clone(), tokio::sync::oneshot::channel());
        let sleeper = tokio::spawn(async move {
            busy.query(|_| std::thread::sleep(Duration::from_millis(7500))).await.unwrap();
            let _ = done.0.send(());
        });
        let count: u32 = 30_000;
        let routes = (0..count).map(|i| {
            let prefix = crate::model::Prefix::host(std::net::Ipv4Addr::from_bits(0x0A00_0000 + i).into());
            // Attributes of its own for each: nothing can be packed.
            (prefix, LocalRoute { med: Some(i), ..LocalRoute::default() })
        });
        one.handle.originate(routes.collect(), Duration::from_secs(60)).await.unwrap();
        done.1.await.unwrap();
        sleeper.await.unwrap();
        two.until("complete", |p| p.prefixes_accepted == u64::from(count)).await;
        assert_eq!((one.only().await.established_count, two.only().await.established_count), (1, 1));
    });
}
