//! OPEN: what is offered, refused and agreed on.

use std::time::Duration;

use bytes::Bytes;

use super::hand::{Hand, graceful, open};
use crate::{
    bgp::{
        config::{AddPathConfig, RemoteAs, Role, RoleConfig},
        session::{Failure, Input, Negotiated, SessionConfig, State},
        wire::{Capability, Message, Notification, Open, PeerKind},
    },
    model::{Asn, Family},
};

fn asn(n: u32) -> Asn {
    Asn::new(n).unwrap()
}

/// The NOTIFICATION that an OPEN gets, with its data, and what was wrong.
fn refused(edit: impl FnOnce(&mut SessionConfig), open: Open) -> ((u8, u8), Bytes, String) {
    let mut hand = Hand::new(edit);
    let conn = hand.open_confirm_with(open);
    assert!(hand.closed(conn), "accepted");
    let failure = hand
        .events
        .iter()
        .find_map(|e| match e {
            crate::bgp::session::Event::Failed(failure) => Some(failure.to_string()),
            _ => None,
        })
        .unwrap();
    let notification = hand.notification().unwrap();
    ((notification.code, notification.subcode), notification.data.clone(), failure)
}

fn agreed(edit: impl FnOnce(&mut SessionConfig), open: Open) -> Negotiated {
    let mut hand = Hand::new(edit);
    hand.established_with(open);
    hand.session.negotiated().unwrap().clone()
}

fn with(edit: impl FnOnce(&mut Open)) -> Open {
    let mut open = open();
    edit(&mut open);
    open
}

fn sent_open(hand: &Hand) -> &Open {
    match &hand.sent[0].1 {
        Message::Open(open) => open,
        other => panic!("{other:?}"),
    }
}

#[test]
fn unacceptable_opens() {
    let is = |n| move |c: &mut SessionConfig| c.remote_asn = RemoteAs::Is(asn(n));
    let (codes, data, text) = refused(is(65001), open());
    assert_eq!((codes, &data[..]), ((2, 2), &65000u16.to_be_bytes()[..]));
    assert_eq!(text, "sent OPEN Message Error/Bad Peer AS: the peer is in AS 65000, expected AS 65001");
    assert_eq!(refused(|c| c.remote_asn = RemoteAs::Internal, open()).0, (2, 2));
    assert_eq!(refused(|c| c.remote_asn = RemoteAs::OneOf(vec![asn(1), asn(2)]), open()).0, (2, 2));
    // The two fields contradict each other.
    assert_eq!(refused(|_| {}, with(|o| o.my_as = 65001)).0, (2, 2));
    assert_eq!(refused(|_| {}, with(|o| o.my_as = 0)).0, (2, 2));
    assert_eq!(refused(|_| {}, with(|o| o.capabilities[1] = Capability::FourOctetAs(0))).0, (2, 2));
    let trans = with(|o| {
        o.my_as = 23456;
        o.capabilities[1] = Capability::FourOctetAs(23456);
    });
    assert_eq!(refused(|_| {}, trans).0, (2, 2));
    // Version: the data is what we support.
    let (codes, data, _) = refused(|_| {}, with(|o| o.version = 3));
    assert_eq!((codes, &data[..]), ((2, 1), &[0, 4][..]));
    assert_eq!(refused(|_| {}, with(|o| o.router_id = [0; 4].into())).0, (2, 3));
    for hold in [1, 2] {
        assert_eq!(refused(|_| {}, with(|o| o.hold_time = hold)).0, (2, 6));
    }
    // No family in common: the data is our capabilities.
    let v6 = with(|o| o.capabilities[0] = Capability::Multiprotocol { afi: 2, safi: 1 });
    let (codes, data, _) = refused(|c| c.families.ipv6 = false, v6);
    assert_eq!((codes, &data[..]), ((2, 7), &[1, 4, 0, 1, 0, 1][..]));
}

#[test]
fn identifiers_differ_inside_an_as_only() {
    let ours = [0, 0, 1, 0];
    assert_eq!(agreed(|_| {}, with(|o| o.router_id = ours.into())).kind, PeerKind::External);
    let internal = |c: &mut SessionConfig| c.remote_asn = RemoteAs::Internal;
    let same_as = |id: [u8; 4]| {
        with(|o| {
            o.my_as = 64512;
            o.capabilities[1] = Capability::FourOctetAs(64512);
            o.router_id = id.into();
        })
    };
    assert_eq!(refused(internal, same_as(ours)).0, (2, 3));
    assert_eq!(agreed(internal, same_as([9, 9, 9, 9])).kind, PeerKind::Internal);
}

#[test]
fn asn_of_four_and_of_two_octets() {
    let big = with(|o| {
        o.my_as = 23456;
        o.capabilities[1] = Capability::FourOctetAs(4_200_000_001);
    });
    let negotiated = agreed(|_| {}, big);
    assert_eq!((negotiated.peer_asn, negotiated.four_octet_as), (asn(4_200_000_001), true));
    let old = agreed(|_| {}, with(|o| o.capabilities.truncate(1)));
    assert_eq!((old.peer_asn, old.four_octet_as), (asn(65000), false));
    assert!(!old.encode_context().four_octet && !old.decode_context().four_octet);
    // Ours does not fit two octets.
    let mut hand = Hand::new(|c| c.local_asn = asn(4_200_000_000));
    hand.open_sent();
    let sent = sent_open(&hand);
    assert_eq!(sent.my_as, 23456);
    assert!(sent.capabilities.contains(&Capability::FourOctetAs(4_200_000_000)));
}

#[test]
fn hold_and_keepalive_times() {
    let times = |ours: u64, keepalive: Option<u64>, theirs: u16| {
        let negotiated = agreed(
            |c| {
                c.timers.hold_time = Duration::from_secs(ours);
                c.timers.keepalive = keepalive.map(Duration::from_secs);
            },
            with(|o| o.hold_time = theirs),
        );
        (negotiated.hold_time.as_secs(), negotiated.keepalive.as_secs())
    };
    assert_eq!(times(90, None, 180), (90, 30));
    assert_eq!(times(90, None, 9), (9, 3));
    assert_eq!(times(90, Some(5), 60), (60, 5));
    assert_eq!(times(90, Some(60), 9), (9, 3));
    assert_eq!(times(3, None, 90), (3, 1));
    assert_eq!(times(0, None, 90), (0, 0));
    assert_eq!(times(90, Some(30), 0), (0, 0));
}

#[test]
fn families() {
    let none = agreed(|_| {}, with(|o| drop(o.capabilities.remove(0))));
    assert!(none.families.ipv4 && !none.families.ipv6);
    let both = agreed(|_| {}, with(|o| o.capabilities.push(Capability::Multiprotocol { afi: 2, safi: 1 })));
    assert!(both.families.ipv4 && both.families.ipv6);
    // Families that we do not know are no obstacle.
    let odd = with(|o| {
        o.capabilities.push(Capability::Multiprotocol { afi: 25, safi: 70 });
        o.capabilities.push(Capability::Unknown { code: 200, value: Bytes::from_static(b"x") });
    });
    assert!(agreed(|_| {}, odd).families.ipv4);
}

#[test]
fn add_path_and_next_hops() {
    let offer = |mode| {
        with(|o| {
            o.capabilities.push(Capability::AddPath(vec![(1, 1, mode), (2, 1, 3), (1, 128, 3)]));
            o.capabilities.push(Capability::ExtendedNextHop(vec![(1, 1, 2)]));
        })
    };
    let ours = |receive, send| move |c: &mut SessionConfig| c.add_path = AddPathConfig { receive, send };
    for (receive, send, mode, expected) in [
        (true, 8, 3, (true, true)),
        (true, 8, 1, (false, true)),
        (true, 8, 2, (true, false)),
        (true, 0, 3, (true, false)),
        (false, 8, 3, (false, true)),
        (false, 0, 3, (false, false)),
        (true, 8, 4, (false, false)),
    ] {
        let negotiated = agreed(ours(receive, send), offer(mode));
        let got = (negotiated.add_path_receive.ipv4, negotiated.add_path_send.ipv4);
        assert_eq!(got, expected, "{receive} {send} {mode}");
        // IPv6 was not negotiated.
        assert!(!negotiated.add_path_receive.ipv6 && !negotiated.add_path_send.ipv6);
        assert!(negotiated.extended_next_hop);
    }
    assert!(!agreed(|_| {}, open()).extended_next_hop);
}

#[test]
fn messages_and_refresh() {
    let all = with(|o| {
        o.capabilities.push(Capability::ExtendedMessage);
        o.capabilities.push(Capability::EnhancedRouteRefresh);
        o.capabilities.push(Capability::Fqdn { hostname: "tor1".into(), domain: "example".into() });
    });
    let negotiated = agreed(|_| {}, all);
    assert!(negotiated.extended_message && negotiated.enhanced_refresh && negotiated.route_refresh);
    assert_eq!(negotiated.encode_context().max_message, 65535);
    assert_eq!(negotiated.peer_hostname.as_deref(), Some("tor1.example"));
    let plain = agreed(|_| {}, open());
    assert!(!plain.extended_message && !plain.enhanced_refresh);
    assert_eq!(plain.encode_context().max_message, 4096);
    // We offered it, so we accept them.
    assert!(plain.decode_context().extended_message);
}

#[test]
fn roles() {
    let ours = |role, strict| move |c: &mut SessionConfig| c.role = Some(RoleConfig { role, strict });
    let theirs =
        |codes: &[u8]| with(|o| o.capabilities.extend(codes.iter().map(|code| Capability::Role(*code))));
    assert_eq!(agreed(|_| {}, theirs(&[0])).roles, None);
    let pair = agreed(ours(Role::Customer, true), theirs(&[0])).roles;
    assert_eq!(pair, Some((Role::Customer, Some(Role::Provider))));
    assert_eq!(agreed(ours(Role::Peer, true), theirs(&[4, 4])).roles, Some((Role::Peer, Some(Role::Peer))));
    assert_eq!(agreed(ours(Role::Customer, false), open()).roles, Some((Role::Customer, None)));
    assert_eq!(refused(ours(Role::Customer, true), open()).0, (2, 11));
    assert_eq!(refused(ours(Role::Customer, false), theirs(&[3])).0, (2, 11));
    assert_eq!(refused(ours(Role::Customer, false), theirs(&[0, 1])).0, (2, 11));
    assert_eq!(refused(ours(Role::Customer, false), theirs(&[9])).0, (2, 11));
    // Not on iBGP (RFC 9234 section 4).
    let mut hand = Hand::new(|c| {
        c.role = Some(RoleConfig { role: Role::Peer, strict: true });
        c.remote_asn = RemoteAs::Internal;
    });
    let conn = hand.open_sent();
    assert!(!sent_open(&hand).capabilities.iter().any(|c| matches!(c, Capability::Role(_))));
    let internal = with(|o| {
        o.my_as = 64512;
        o.capabilities[1] = Capability::FourOctetAs(64512);
    });
    hand.receive(conn, &Message::Open(internal));
    assert_eq!(hand.session.state(), State::OpenConfirm);
}

#[test]
fn restart_times() {
    let negotiated = agreed(
        |c| c.graceful_restart.long_lived = Some(Duration::from_secs(3600)),
        with(|o| {
            o.capabilities.push(graceful(true, true));
            o.capabilities
                .push(Capability::LongLivedGracefulRestart(vec![(1, 1, true, 7200), (2, 1, true, 1)]));
        }),
    );
    let restart = negotiated.graceful_restart.unwrap();
    assert_eq!(restart.restart_time, Duration::from_secs(60));
    assert!(restart.notification && !restart.restarting);
    assert_eq!(restart.families[Family::Ipv4], Some(true));
    assert_eq!(restart.families[Family::Ipv6], None);
    assert_eq!(restart.long_lived[Family::Ipv4], Some((true, Duration::from_secs(7200))));
    assert_eq!(restart.long_lived[Family::Ipv6], None);
    // Not offered by us, so not used.
    let plain =
        agreed(|c| c.graceful_restart.enabled = false, with(|o| o.capabilities.push(graceful(true, true))));
    assert_eq!(plain.graceful_restart, None);
}

/// RFC 5492 section 3: a peer that knows no optional parameters gets an OPEN without any.
#[test]
fn once_more_without_capabilities() {
    let mut hand = Hand::new(|_| {});
    let conn = hand.open_sent();
    assert!(!sent_open(&hand).capabilities.is_empty());
    hand.sent.clear();
    hand.receive(conn, &Message::Notification(Notification::new(2, 4)));
    assert_eq!(hand.session.state(), State::Active);
    let conn = hand.open_sent();
    assert_eq!(sent_open(&hand).capabilities, []);
    hand.receive(conn, &Message::Open(with(|o| o.capabilities.clear())));
    hand.receive(conn, &Message::Keepalive);
    let negotiated = hand.session.negotiated().unwrap();
    assert!(negotiated.families.ipv4 && !negotiated.families.ipv6 && !negotiated.four_octet_as);
    // Even if the peer has learned it meanwhile, what we did not offer is not in use.
    hand.input(Input::Closed(conn, None));
    let conn = hand.open_sent();
    hand.receive(conn, &Message::Open(with(|o| o.capabilities.push(Capability::EnhancedRouteRefresh))));
    hand.receive(conn, &Message::Keepalive);
    let negotiated = hand.session.negotiated().unwrap();
    assert!(!negotiated.enhanced_refresh && !negotiated.route_refresh && !negotiated.four_octet_as);
    // An error of another kind ends it.
    hand.receive(conn, &Message::Notification(Notification::new(6, 4)));
    assert!(matches!(hand.down(), Some((Failure::Received(_), false))));
    hand.wait(Duration::from_secs(120));
    hand.sent.clear();
    hand.open_sent();
    assert!(!sent_open(&hand).capabilities.is_empty());
}
