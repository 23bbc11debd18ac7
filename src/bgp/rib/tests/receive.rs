//! What is accepted, what is not, and what is made of it.

use super::kit::*;
use crate::{
    bgp::{
        config::{IdentityMode, MaxPrefixes, Role},
        rib::{
            FamilyParams, LocalAs, PeerParams, Rejection, RibConfig, RibEvent, RouteFilter, RouteRow,
            RouteSource,
        },
        wire::{
            AsPath, AsSegment, AsSegmentKind, Community, LargeCommunity, PathAttributes, PeerKind, PerFamily,
            WireNextHop,
        },
    },
    model::{Identity, Labels},
};

const P: &str = "10.1.0.0/16";

fn received(lab: &mut Lab, n: u8) -> Vec<RouteRow> {
    lab.rib.routes(&RouteFilter { source: RouteSource::Received(id(n)), ..RouteFilter::default() })
}

/// Why an announcement of peer 1 is not accepted; `None` if it is.
fn verdict(
    params: &PeerParams,
    attributes: PathAttributes,
    next_hop: WireNextHop,
    text: &str,
) -> Option<Rejection> {
    let mut lab = Lab::new(RibConfig { local_addresses: vec!["192.0.2.101".parse().unwrap()], ..config() });
    lab.up(1, params.clone());
    lab.update(1, announce_via(next_hop, attributes, &[text]));
    let family = prefix(text).family();
    let stats = lab.rib.peer_stats(id(1)).unwrap().families[&family].clone();
    assert_eq!(stats.announced, 1);
    assert_eq!(stats.accepted as usize + stats.rejected.len(), 1);
    stats.rejected.into_keys().next()
}

fn v4(n: u8) -> WireNextHop {
    WireNextHop::V4([192, 0, 2, n].into())
}

#[test]
fn loops_and_first_as() {
    let path = |asns: &[u32]| PathAttributes { as_path: AsPath::sequence(asns), ..from(1) };
    let allow = |n| PeerParams { allowas_in: n, ..ebgp(1) };
    let posing = PeerParams {
        local_as: Some(LocalAs { asn: asn(77), no_prepend: true, replace_as: false }),
        local_asn: asn(77),
        ..ebgp(1)
    };
    let unforced = PeerParams { enforce_first_as: false, ..ebgp(1) };
    let set_first = AsPath { segments: vec![AsSegment { kind: AsSegmentKind::Set, asns: vec![65001] }] };
    for (what, params, attributes, expected) in [
        ("plain", ebgp(1), path(&[65001]), None),
        ("our AS", ebgp(1), path(&[65001, OUR_AS]), Some(Rejection::AsLoop)),
        ("our AS allowed once", allow(1), path(&[65001, OUR_AS]), None),
        ("but not twice", allow(1), path(&[65001, OUR_AS, OUR_AS]), Some(Rejection::AsLoop)),
        ("the AS we pose as", posing, path(&[65001, 77]), Some(Rejection::AsLoop)),
        ("wrong first AS", ebgp(1), path(&[65002, 65001]), Some(Rejection::FirstAs)),
        ("empty path", ebgp(1), path(&[]), Some(Rejection::FirstAs)),
        ("a set first", ebgp(1), PathAttributes { as_path: set_first, ..from(1) }, Some(Rejection::FirstAs)),
        ("wrong first AS allowed", unforced, path(&[65002]), None),
        ("internal: our AS", ibgp(1), path(&[OUR_AS]), Some(Rejection::AsLoop)),
        ("internal: any first AS", ibgp(1), path(&[7]), None),
    ] {
        assert_eq!(verdict(&params, attributes, v4(1), P), expected, "{what}");
    }
}

#[test]
fn reflection_loops() {
    let originator = PathAttributes { originator_id: Some([10, 0, 0, 100].into()), ..internal() };
    let cluster = PathAttributes { cluster_list: vec![[10, 0, 0, 100].into()], ..internal() };
    assert_eq!(verdict(&ibgp(1), originator, v4(1), P), Some(Rejection::OriginatorLoop));
    assert_eq!(verdict(&ibgp(1), cluster, v4(1), P), Some(Rejection::ClusterLoop));
}

#[test]
fn next_hops() {
    let v6 = |text: &str| WireNextHop::V6(text.parse().unwrap());
    let both = |global: &str, link_local: &str| WireNextHop::V6LinkLocal {
        global: global.parse().unwrap(),
        link_local: link_local.parse().unwrap(),
    };
    let on_link = PeerParams { ifindex: 7, ..ebgp(1) };
    let bad = Some(Rejection::NextHop);
    for (next_hop, params, expected) in [
        (v4(1), ebgp(1), None),
        (v4(100), ebgp(1), bad),
        (v4(101), ebgp(1), bad),
        (WireNextHop::V4([0, 0, 0, 0].into()), ebgp(1), bad),
        (WireNextHop::V4([127, 0, 0, 1].into()), ebgp(1), bad),
        (WireNextHop::V4([224, 0, 0, 5].into()), ebgp(1), bad),
        (WireNextHop::V4([255, 255, 255, 255].into()), ebgp(1), bad),
        (v6("2001:db8::1"), ebgp(1), None),
        (v6("2001:db8::100"), ebgp(1), bad),
        (v6("::"), ebgp(1), bad),
        (v6("ff02::1"), ebgp(1), bad),
        (v6("::ffff:127.0.0.1"), ebgp(1), bad),
        (v6("fe80::1"), ebgp(1), bad),
        (v6("fe80::1"), on_link.clone(), None),
        (both("2001:db8::1", "fe80::1"), ebgp(1), None),
        (both("::", "fe80::1"), ebgp(1), bad),
        (both("::", "fe80::1"), on_link.clone(), None),
        (both("fe80::1", "fe80::1"), on_link.clone(), None),
        (both("2001:db8::100", "fe80::1"), on_link, bad),
    ] {
        let text = if matches!(next_hop, WireNextHop::V4(_)) { P } else { "fd00:1::/32" };
        assert_eq!(verdict(&params, from(1), next_hop, text), expected, "{next_hop:?} {}", params.ifindex);
    }
}

#[test]
fn martians() {
    for (text, rejected) in [
        ("0.0.0.0/0", false),
        ("::/0", false),
        ("0.0.0.0/8", true),
        ("127.0.0.0/8", true),
        ("127.1.2.3/32", true),
        ("169.254.7.0/24", true),
        ("224.0.0.0/4", true),
        ("239.1.1.1/32", true),
        ("255.255.255.255/32", true),
        ("10.0.0.0/8", false),
        ("240.0.0.0/8", true),
        ("224.0.0.0/3", true),
        ("::1/128", true),
        ("::/128", true),
        ("fe80::/10", true),
        ("fe80:1::/32", true),
        ("ff02::/16", true),
        ("::ffff:10.0.0.0/104", true),
        ("fd00::/8", false),
        ("2000::/3", false),
    ] {
        let next_hop =
            if text.contains(':') { WireNextHop::V6("2001:db8::1".parse().unwrap()) } else { v4(1) };
        assert_eq!(
            verdict(&ebgp(1), from(1), next_hop, text),
            rejected.then_some(Rejection::Martian),
            "{text}"
        );
    }
}

/// RFC 9234 section 5.
#[test]
fn roles_on_receipt() {
    let otc = |value: Option<u32>| PathAttributes { otc: value, ..from(1) };
    for (role, value, expected) in [
        (Role::Provider, None, Ok(None)),
        (Role::Provider, Some(9), Err(Rejection::RouteLeak)),
        (Role::RouteServer, Some(65001), Err(Rejection::RouteLeak)),
        (Role::Peer, Some(65001), Ok(Some(65001))),
        (Role::Peer, Some(9), Err(Rejection::RouteLeak)),
        (Role::Peer, None, Ok(Some(65001))),
        (Role::Customer, None, Ok(Some(65001))),
        (Role::Customer, Some(9), Ok(Some(9))),
        (Role::RouteServerClient, None, Ok(Some(65001))),
    ] {
        let params = PeerParams { role: Some(role), ..ebgp(1) };
        let mut lab = Lab::new(config());
        lab.up(1, params.clone());
        lab.update(1, announce(1, otc(value), &[P]));
        match expected {
            Ok(kept) => assert_eq!(received(&mut lab, 1)[0].otc, kept, "{role:?} {value:?}"),
            Err(reason) => {
                assert_eq!(verdict(&params, otc(value), v4(1), P), Some(reason), "{role:?} {value:?}");
            }
        }
    }
    assert_eq!(verdict(&ebgp(1), otc(Some(9)), v4(1), P), None, "without a role nothing is checked");
}

#[test]
fn local_preference() {
    let shutdown = PathAttributes { communities: vec![Community::GRACEFUL_SHUTDOWN], ..from(1) };
    let given = PathAttributes { local_pref: Some(300), ..from(1) };
    let none = PathAttributes { local_pref: None, ..internal() };
    let inside = PathAttributes { communities: vec![Community::GRACEFUL_SHUTDOWN], ..internal() };
    for (what, params, attributes, expected) in [
        ("external: not theirs to say", ebgp(1), given, 100),
        ("external: graceful shutdown (RFC 8326)", ebgp(1), shutdown, 0),
        ("internal: theirs", ibgp(1), PathAttributes { local_pref: Some(300), ..internal() }, 300),
        ("internal: none", ibgp(1), none, 100),
        ("internal: what the border has decided", ibgp(1), inside, 100),
    ] {
        let mut lab = Lab::new(config());
        lab.up(1, params);
        lab.update(1, announce(1, attributes, &[P]));
        assert_eq!(received(&mut lab, 1)[0].local_pref, Some(expected), "{what}");
    }
}

/// RFC 7606: what is not accepted takes away what was.
#[test]
fn a_rejected_announcement_withdraws() {
    let mut lab = Lab::new(config());
    lab.up(1, ebgp(1));
    lab.update(1, announce(1, from(1), &[P]));
    assert!(lab.best(P).is_some());
    let looped = PathAttributes { as_path: AsPath::sequence([65001, OUR_AS]), ..from(1) };
    lab.update(1, announce(1, looped, &[P]));
    assert_eq!(lab.best(P), None);
}

#[test]
fn families_that_were_not_negotiated() {
    let params =
        PeerParams { families: PerFamily { ipv4: Some(FamilyParams::default()), ipv6: None }, ..ebgp(1) };
    let next_hop = WireNextHop::V6("2001:db8::1".parse().unwrap());
    assert_eq!(verdict(&params, from(1), next_hop, "fd00:1::/32"), Some(Rejection::Family));
    let mut lab = Lab::new(config());
    lab.up(1, params);
    lab.rib.originate(prefix("fd00::1/128"), crate::bgp::rib::LocalRoute::default(), lab.now);
    assert_eq!(lab.pull(1).ends, [crate::model::Family::Ipv4]);
    assert!(lab.receivers[&1].routes.is_empty());
}

#[test]
fn local_as_in_front_of_what_is_received() {
    for (no_prepend, expected) in [(false, "77 65001"), (true, "65001")] {
        let local_as = Some(LocalAs { asn: asn(77), no_prepend, replace_as: false });
        let mut lab = Lab::new(config());
        lab.up(1, PeerParams { local_as, local_asn: asn(77), ..ebgp(1) });
        lab.update(1, announce(1, from(1), &[P]));
        assert_eq!(received(&mut lab, 1)[0].as_path, expected);
    }
}

#[test]
fn identities_are_believed_only_where_they_may_be() {
    let identity = Identity::of(&Labels::try_from([("role", "web")]).unwrap());
    let domain = config().identity_domain;
    let mut large: Vec<_> = crate::bgp::identity::to_communities(domain, Some(&identity), Some(5)).collect();
    let foreign = LargeCommunity { global: 7, local1: 1, local2: 2 };
    large.push(foreign);
    let labelled = PathAttributes { large_communities: large, ..from(1) };
    for (what, mode, text, believed) in [
        ("accepted, in a pool", IdentityMode::Accept, "10.1.0.1/32", true),
        ("accepted, outside", IdentityMode::Accept, "172.16.0.1/32", false),
        ("covering the pool is not inside", IdentityMode::Accept, "0.0.0.0/0", false),
        ("ignored", IdentityMode::Ignore, "10.1.0.1/32", false),
    ] {
        let mut lab = Lab::transit();
        lab.up(1, PeerParams { identity: mode, ..ebgp(1) });
        lab.up(2, ebgp(2));
        lab.update(1, announce(1, labelled.clone(), &[text]));
        let best = lab.rib.poll_best(9)[0].best.clone().unwrap();
        let expected = believed.then(|| identity.clone());
        assert_eq!(best.identity.as_deref(), expected.as_ref(), "{what}");
        assert_eq!(best.sequence, believed.then_some(5), "{what}");
        let stats = lab.rib.peer_stats(id(1)).unwrap().families[&prefix(text).family()].clone();
        assert_eq!(stats.identities_stripped, if believed { 0 } else { 3 }, "{what}");
        // Nothing that is not believed goes on.
        let sent = lab.pull(2).route(text).unwrap().attributes.large_communities.clone();
        assert_eq!(sent.len(), if believed { 4 } else { 1 }, "{what}");
        assert!(sent.contains(&foreign));
    }
}

#[test]
fn equal_identities_are_one_allocation() {
    let identity = Identity::of(&Labels::try_from([("role", "web")]).unwrap());
    let large: Vec<_> =
        crate::bgp::identity::to_communities(config().identity_domain, Some(&identity), None).collect();
    let mut lab = Lab::new(config());
    for n in [1, 2] {
        lab.up(n, ebgp(n));
        let attributes = PathAttributes { large_communities: large.clone(), ..from(n) };
        lab.update(n, announce(n, attributes, &[["10.1.0.1/32"], ["10.1.0.2/32"]][usize::from(n - 1)]));
    }
    let changes = lab.rib.poll_best(9);
    let identity = |i: usize| changes[i].best.as_ref().unwrap().identity.clone().unwrap();
    assert!(std::sync::Arc::ptr_eq(&identity(0), &identity(1)));
}

#[test]
fn too_many_prefixes() {
    let max_prefixes = Some(MaxPrefixes { limit: 2, warning_percent: 100, restart: None });
    let families = PerFamily::both(Some(FamilyParams { max_prefixes, ..FamilyParams::default() }));
    let mut lab = Lab::new(config());
    lab.up(1, PeerParams { families, ..ebgp(1) });
    lab.update(1, announce(1, from(1), &["10.1.0.0/16", "10.2.0.0/16"]));
    let family = crate::model::Family::Ipv4;
    let warning = RibEvent::MaxPrefixWarning { peer: id(1), family, count: 2, limit: 2 };
    assert_eq!((lab.rib.poll_event(), lab.rib.poll_event()), (Some(warning), None));
    // One announced again is none more.
    lab.update(1, announce(1, from(1), &["10.1.0.0/16"]));
    assert_eq!(lab.rib.poll_event(), None);
    lab.update(1, announce(1, from(1), &["10.3.0.0/16", "10.4.0.0/16"]));
    let exceeded = RibEvent::MaxPrefixExceeded { peer: id(1), family, limit: 2 };
    assert_eq!((lab.rib.poll_event(), lab.rib.poll_event()), (Some(exceeded), None));
    assert_eq!(received(&mut lab, 1).len(), 2);
    assert_eq!(lab.rib.peer_stats(id(1)).unwrap().families[&family].rejected[&Rejection::MaxPrefix], 2);
    // A new session starts counting again.
    lab.rib.peer_down(id(1), crate::bgp::rib::DownReason::Flush, lab.now);
    lab.up(1, PeerParams { families, ..ebgp(1) });
    lab.update(1, announce(1, from(1), &["10.3.0.0/16"]));
    assert_eq!(received(&mut lab, 1).len(), 1);
}

#[test]
fn updates_of_peers_that_are_not_up_are_ignored() {
    let mut lab = Lab::new(config());
    lab.update(1, announce(1, from(1), &[P]));
    lab.up(1, params(1, PeerKind::External));
    lab.rib.peer_down(id(1), crate::bgp::rib::DownReason::Flush, lab.now);
    lab.update(1, announce(1, from(1), &[P]));
    assert_eq!(lab.best(P), None);
}

#[test]
fn paths_by_identifier() {
    let families = PerFamily::both(Some(FamilyParams { add_path_rx: true, ..FamilyParams::default() }));
    let mut lab = Lab::new(config());
    lab.up(1, PeerParams { families, ..ibgp(1) });
    for (path_id, next_hop) in [(1, 11), (2, 12), (1, 13)] {
        let mut update = announce_via(v4(next_hop), internal(), &[P]);
        update.reach[0].nlri[0].path_id = path_id;
        lab.update(1, update);
    }
    let hops: Vec<_> = received(&mut lab, 1).iter().map(|row| (row.path_id, row.next_hop.unwrap())).collect();
    assert_eq!(hops.len(), 2);
    assert!(hops.contains(&(1, addr(13))) && hops.contains(&(2, addr(12))));
    let mut gone = withdraw(&[P]);
    gone.unreach[0].nlri[0].path_id = 1;
    lab.update(1, gone);
    assert_eq!(received(&mut lab, 1)[0].path_id, 2);
}

/// Who reads a RIB piece by piece goes on after the last prefix seen until nothing comes.
#[test]
fn reading_on_ends_for_every_filter() {
    let mut lab = Lab::new(config());
    lab.up(1, ebgp(1));
    lab.update(1, announce(1, from(1), &[P]));
    for (exact, address) in [(Some(prefix(P)), None), (None, Some("10.1.2.3".parse().unwrap())), (None, None)]
    {
        let mut filter = RouteFilter { prefix: exact, address, ..RouteFilter::default() };
        let rows = lab.rib.routes(&filter);
        assert_eq!(rows.len(), 1);
        filter.after = rows.last().map(|row| row.prefix);
        assert_eq!(lab.rib.routes(&filter).len(), 0, "{exact:?} {address:?}");
    }
}
