//! Sessions over real sockets: who connects to whom, and what is told when they end.

use std::net::{SocketAddr, TcpListener};

use super::harness::{alone, answering, config, peer, start, v4, v6};
use crate::bgp::{
    session::State,
    speaker::{PeerAction, Shutdown, Speaker, SpeakerEvent},
};

#[test]
fn two_speakers_over_ipv4_and_over_ipv6() {
    for (a, b) in [(v4(1), v4(2)), (v6(1), v6(2))] {
        alone(async || {
            let mut one = config(1, 64512);
            one.hostname = Some("one".into());
            one.peers = vec![peer(a, b, 65000)];
            let mut two = config(2, 65000);
            two.peers = vec![peer(b, a, 64512)];
            let (mut one, two) = (start(one), start(two));
            let seen = two.established().await;
            assert_eq!(seen.hostname.as_deref(), Some("one"));
            assert_eq!((seen.asn, seen.kind, seen.hold_time), (Some(64512), Some("external"), 90));
            assert_eq!(seen.peer, a.to_string());
            assert!(seen.capabilities.iter().any(|c| c == "Graceful Restart"));
            one.event("up", |e| matches!(e, SpeakerEvent::PeerUp { .. }).then_some(())).await;
            one.handle.shutdown(Shutdown::Cease("moving to rack 7".into())).await.unwrap();
            let down = two.until("down", |p| p.state != State::Established).await;
            let error = down.last_error.unwrap();
            assert!(error.contains("Administrative Shutdown \"moving to rack 7\""), "{error}");
        });
    }
}

#[test]
fn a_taken_port_is_told_clearly() {
    alone(async || {
        let _other = TcpListener::bind(SocketAddr::new(v4(1), 179)).unwrap();
        let error = Speaker::start(config(1, 64512), Vec::new()).unwrap_err().to_string();
        assert!(error.starts_with("port 179 on 127.0.0.1 is taken by another process"), "{error}");
    });
}

#[test]
fn nobody_there_and_reset() {
    alone(async || {
        let mut one = config(1, 64512);
        one.peers = vec![peer(v4(1), v4(2), 65000)];
        let one = start(one);
        one.until("refused", |p| p.last_error.as_deref() == Some("connection refused")).await;
        let mut two = config(2, 65000);
        two.peers = vec![answering(v4(2), v4(1), 64512)];
        let two = start(two);
        two.established().await;
        two.handle.act("127.0.0.1", PeerAction::Reset).await.unwrap();
        let seen = one.until("up again", |p| p.established_count == 2 && p.state == State::Established).await;
        assert_eq!(seen.last_error.as_deref(), Some("received Cease/Administrative Reset"));
        assert!(two.handle.act("127.0.0.9", PeerAction::Reset).await.is_err());
    });
}
