//! Who gets which routes, and how they look there.

use std::{net::IpAddr, sync::Arc};

use super::kit::*;
use crate::{
    bgp::{
        config::{NextHopMode, Role},
        rib::{
            AddPathSend, FamilyParams, LocalAddresses, LocalAs, LocalRoute, PeerParams, RemovePrivate,
            RibConfig, filter::Rule,
        },
        wire::{
            AsPath, AsSegment, AsSegmentKind, Community, ExtCommunity, PathAttributes, PeerKind, PerFamily,
            RawAttribute, WireNextHop,
        },
    },
    model::Family,
};

const P: &str = "10.1.0.0/16";

/// What peer 2 gets of a route that peer 1 has announced.
fn passed(
    config: RibConfig,
    source: PeerParams,
    target: PeerParams,
    attributes: PathAttributes,
) -> Option<Received> {
    let mut lab = Lab::new(config);
    lab.up(1, source);
    lab.up(2, target);
    lab.update(1, announce(1, attributes, &[P]));
    lab.pull(2).route(P).cloned()
}

fn transit() -> RibConfig {
    RibConfig { transit: true, ..config() }
}

fn reflector() -> RibConfig {
    RibConfig { route_reflector: true, ..config() }
}

#[test]
fn who_gets_learned_routes() {
    let both = RibConfig { transit: true, route_reflector: true, ..config() };
    for (config, source, target, expected) in [
        (config(), ebgp(1), ebgp(2), false),
        (config(), ebgp(1), ibgp(2), false),
        (config(), ibgp(1), ebgp(2), false),
        (config(), client(1), client(2), false),
        (transit(), ebgp(1), ebgp(2), true),
        (transit(), ebgp(1), ibgp(2), true),
        (transit(), ibgp(1), ebgp(2), true),
        (transit(), ibgp(1), ibgp(2), false),
        (transit(), client(1), client(2), false),
        (reflector(), client(1), client(2), true),
        (reflector(), client(1), ibgp(2), true),
        (reflector(), ibgp(1), client(2), true),
        (reflector(), ibgp(1), ibgp(2), false),
        (reflector(), ebgp(1), client(2), true),
        (reflector(), ebgp(1), ibgp(2), true),
        (reflector(), client(1), ebgp(2), false),
        (both, client(1), ebgp(2), true),
    ] {
        let attributes = if source.kind == PeerKind::External { from(1) } else { internal() };
        let what = format!(
            "transit {} reflector {} {:?}/{} -> {:?}/{}",
            config.transit,
            config.route_reflector,
            source.kind,
            source.route_reflector_client,
            target.kind,
            target.route_reflector_client
        );
        assert_eq!(passed(config, source, target, attributes).is_some(), expected, "{what}");
    }
}

#[test]
fn never_back_to_where_it_came_from() {
    let mut lab = Lab::transit();
    lab.up(1, ebgp(1));
    lab.up(2, ebgp(2));
    lab.update(1, announce(1, from(1), &[P]));
    assert!(lab.pull(1).routes.is_empty());
    assert!(lab.pull(2).route(P).is_some());
    // The better path comes from 2 (shorter): 1 gets it, and 2 loses what it had.
    let longer = PathAttributes { as_path: AsPath::sequence([65001, 9]), ..from(1) };
    lab.update(1, announce(1, longer, &[P]));
    lab.update(2, announce(2, from(2), &[P]));
    assert!(lab.pull(1).route(P).is_some());
    assert!(lab.pull(2).routes.is_empty());
    // And back.
    lab.update(2, withdraw(&[P]));
    assert!(lab.pull(1).routes.is_empty());
    assert!(lab.pull(2).route(P).is_some());
    assert_eq!((lab.receivers[&1].withdrawn, lab.receivers[&2].withdrawn), (1, 1));
}

#[test]
fn well_known_communities_are_obeyed() {
    let with = |community| PathAttributes { communities: vec![community], ..from(1) };
    for (community, external, internal) in [
        (Community::NO_EXPORT, false, true),
        (Community::NO_EXPORT_SUBCONFED, false, true),
        (Community::NO_ADVERTISE, false, false),
        (Community::BLACKHOLE, true, true),
        (Community::NO_LLGR, true, true),
        (Community(65000 << 16 | 1), true, true),
    ] {
        let to = |target| passed(transit(), ebgp(1), target, with(community)).is_some();
        assert_eq!((to(ebgp(2)), to(ibgp(2))), (external, internal), "{community}");
    }
    // Also on what we originate.
    let mut lab = Lab::new(config());
    lab.up(2, ebgp(2));
    let route = LocalRoute { communities: vec![Community::NO_EXPORT], ..LocalRoute::default() };
    lab.rib.originate(prefix(P), route, lab.now);
    assert!(lab.pull(2).routes.is_empty());
}

#[test]
fn attributes_towards_another_as() {
    let unknown = RawAttribute { code: 99, flags: 0xE0, value: vec![1, 2, 3].into() };
    let attributes = PathAttributes {
        med: Some(5),
        local_pref: Some(300),
        originator_id: Some([10, 9, 9, 9].into()),
        cluster_list: vec![[1, 1, 1, 1].into()],
        ext_communities: vec![
            ExtCommunity([0x00, 2, 0, 1, 0, 0, 0, 1]),
            ExtCommunity([0x40, 2, 0, 1, 0, 0, 0, 1]),
            ExtCommunity::link_bandwidth(1, 1e9),
        ],
        unknown: vec![unknown.clone()],
        as_path: AsPath {
            segments: vec![
                AsSegment { kind: AsSegmentKind::ConfedSequence, asns: vec![64700] },
                AsSegment { kind: AsSegmentKind::Sequence, asns: vec![7, 8] },
            ],
        },
        ..internal()
    };
    let sent = passed(transit(), ibgp(1), ebgp(2), attributes.clone()).unwrap();
    let mut expected = PathAttributes {
        as_path: AsPath::sequence([OUR_AS, 7, 8]),
        med: None,
        local_pref: None,
        originator_id: None,
        cluster_list: vec![],
        ext_communities: vec![ExtCommunity([0x00, 2, 0, 1, 0, 0, 0, 1])],
        ..attributes.clone()
    };
    assert_eq!(sent.attributes, expected);
    assert_eq!(sent.next_hop, WireNextHop::V4([192, 0, 2, 100].into()));
    let target = PeerParams { send_link_bandwidth: true, ..ebgp(2) };
    let sent = passed(transit(), ibgp(1), target, attributes).unwrap();
    expected.ext_communities.push(ExtCommunity::link_bandwidth(1, 1e9));
    assert_eq!(sent.attributes, expected);
}

/// RFC 4456 section 8, and what an internal peer gets unchanged.
#[test]
fn reflection() {
    let attributes = PathAttributes { med: Some(5), local_pref: Some(300), ..internal() };
    let sent = passed(reflector(), client(1), client(2), attributes.clone()).unwrap();
    assert_eq!(sent.next_hop, WireNextHop::V4([192, 0, 2, 1].into()), "the next hop stays");
    let expected = PathAttributes {
        originator_id: Some([10, 0, 0, 1].into()),
        cluster_list: vec![[10, 0, 0, 100].into()],
        ..attributes.clone()
    };
    assert_eq!(sent.attributes, expected);
    // An originator that is known stays, and the cluster goes in front.
    let again = PathAttributes {
        originator_id: Some([10, 9, 9, 9].into()),
        cluster_list: vec![[1, 1, 1, 1].into()],
        ..attributes.clone()
    };
    let sent = passed(reflector(), client(1), client(2), again).unwrap();
    assert_eq!(sent.attributes.originator_id, Some([10, 9, 9, 9].into()));
    assert_eq!(sent.attributes.cluster_list, [IpAddr::from([10, 0, 0, 100]), [1, 1, 1, 1].into()]);
    // Learned by eBGP, nothing was reflected yet.
    let sent = passed(reflector(), ebgp(1), client(2), from(1)).unwrap();
    assert_eq!((sent.attributes.originator_id, sent.attributes.cluster_list.len()), (None, 0));
    assert_eq!(sent.attributes.local_pref, Some(100));
}

#[test]
fn next_hop_modes() {
    let ours = WireNextHop::V4([192, 0, 2, 100].into());
    let theirs = WireNextHop::V4([192, 0, 2, 1].into());
    let mode = |params: PeerParams, next_hop| PeerParams { next_hop, ..params };
    let shared = |networks: &str| PeerParams { shared_networks: vec![prefix(networks)], ..ebgp(2) };
    for (what, target, expected) in [
        ("external", ebgp(2), ours),
        ("external, unchanged", mode(ebgp(2), NextHopMode::Unchanged), theirs),
        ("internal", ibgp(2), theirs),
        ("internal, self", mode(ibgp(2), NextHopMode::Ourselves), ours),
        ("third party on a shared network", shared("192.0.2.0/24"), theirs),
        ("not on that network", shared("192.0.3.0/24"), ours),
    ] {
        assert_eq!(passed(transit(), ebgp(1), target, from(1)).unwrap().next_hop, expected, "{what}");
    }
    // RFC 4271 section 5.1.3: never the peer's own address.
    let target = PeerParams { peer_addr: addr(1), ..shared("192.0.2.0/24") };
    assert_eq!(passed(transit(), ebgp(1), target, from(1)).unwrap().next_hop, ours);
}

#[test]
fn next_hops_of_our_own() {
    let v6 = |text: &str| text.parse().unwrap();
    let local = |ipv4: bool, ipv6: bool, link_local: bool| LocalAddresses {
        ipv4: ipv4.then(|| [192, 0, 2, 100].into()),
        ipv6: ipv6.then(|| v6("2001:db8::100")),
        link_local: link_local.then(|| v6("fe80::100")),
    };
    let v4 = Some(WireNextHop::V4([192, 0, 2, 100].into()));
    let global = Some(WireNextHop::V6(v6("2001:db8::100")));
    let both = Some(WireNextHop::V6LinkLocal { global: v6("2001:db8::100"), link_local: v6("fe80::100") });
    let unnumbered = Some(WireNextHop::V6LinkLocal { global: v6("fe80::100"), link_local: v6("fe80::100") });
    for (what, local, extended, ipv4, ipv6) in [
        ("all addresses", local(true, true, true), false, v4, both),
        ("no IPv6", local(true, false, false), false, v4, None),
        ("no IPv4", local(false, true, false), false, None, global),
        ("no IPv4, RFC 8950", local(false, true, true), true, both, both),
        ("unnumbered", local(false, false, true), true, unnumbered, unnumbered),
    ] {
        let family = Some(FamilyParams { extended_next_hop: extended, ..FamilyParams::default() });
        let mut lab = Lab::new(config());
        lab.up(1, PeerParams { local, families: PerFamily::both(family), ..ebgp(1) });
        for text in [P, "fd00::/64"] {
            lab.rib.originate(prefix(text), LocalRoute::default(), lab.now);
        }
        let receiver = lab.pull(1);
        assert_eq!(receiver.route(P).map(|r| r.next_hop), ipv4, "{what}");
        assert_eq!(receiver.route("fd00::/64").map(|r| r.next_hop), ipv6, "{what}");
    }
    // A next hop that was asked for.
    let mut lab = Lab::new(config());
    lab.up(1, ebgp(1));
    let route = LocalRoute { next_hop: Some(addr(77)), med: Some(3), ..LocalRoute::default() };
    lab.rib.originate(prefix(P), route, lab.now);
    let sent = lab.pull(1).route(P).unwrap().clone();
    assert_eq!(sent.next_hop, WireNextHop::V4([192, 0, 2, 77].into()));
    assert_eq!(sent.attributes.med, Some(3), "our own MED goes to other ASes");
    assert_eq!(lab.rib.poll_best(9)[0].best.as_ref().unwrap().next_hops.to_string(), "192.0.2.77");
}

/// IPv4 routes with IPv6 next hops, learned on a link without IPv4.
#[test]
fn a_link_local_next_hop_stays_on_its_link() {
    let extended = Some(FamilyParams { extended_next_hop: true, ..FamilyParams::default() });
    let unnumbered = |n| PeerParams { families: PerFamily::both(extended), ifindex: 7, ..ebgp(n) };
    let fe80 = "fe80::1".parse().unwrap();
    let mut lab = Lab::transit();
    lab.up(1, unnumbered(1));
    lab.up(
        2,
        PeerParams { next_hop: NextHopMode::Unchanged, families: PerFamily::both(extended), ..ebgp(2) },
    );
    lab.up(3, PeerParams { local: LocalAddresses::default(), ..ebgp(3) });
    lab.update(1, announce_via(WireNextHop::V6LinkLocal { global: fe80, link_local: fe80 }, from(1), &[P]));
    let best = lab.rib.poll_best(9)[0].best.clone().unwrap();
    assert_eq!(best.next_hops.to_string(), "fe80::1%7");
    assert_eq!(lab.pull(2).route(P).unwrap().next_hop, WireNextHop::V4([192, 0, 2, 100].into()));
    assert!(lab.pull(3).routes.is_empty(), "without a next hop of the right family nothing can be said");
}

#[test]
fn as_path_rewriting() {
    let path = |asns: &[u32]| PathAttributes { as_path: AsPath::sequence(asns), ..internal() };
    let remove = |mode| PeerParams { remove_private: mode, ..ebgp(2) };
    let posing = |replace_as| PeerParams {
        local_as: Some(LocalAs { asn: asn(77), no_prepend: false, replace_as }),
        local_asn: asn(77),
        ..ebgp(2)
    };
    for (what, target, given, expected) in [
        ("prepended", ebgp(2), &[7, 8][..], "64512 7 8"),
        ("empty", ebgp(2), &[], "64512"),
        ("override", PeerParams { as_override: true, ..ebgp(2) }, &[7, 65002, 65002], "64512 7 64512 64512"),
        ("private stay", remove(RemovePrivate::Off), &[65010, 7], "64512 65010 7"),
        ("private only if all", remove(RemovePrivate::OnlyIfAll), &[65010, 7], "64512 65010 7"),
        ("private if all", remove(RemovePrivate::OnlyIfAll), &[65010, 4_200_000_001], "64512"),
        ("private all", remove(RemovePrivate::All), &[65010, 7, 65011], "64512 7"),
        ("private replaced", remove(RemovePrivate::Replace), &[65010, 7], "64512 64512 7"),
        ("posing", posing(false), &[7], "77 64512 7"),
        ("posing, replaced", posing(true), &[7], "77 7"),
        ("internal", ibgp(2), &[7, 65010], "7 65010"),
    ] {
        // From an external source an internal target gets it too.
        let (source, attributes) = if target.kind == PeerKind::Internal {
            (PeerParams { enforce_first_as: false, ..ebgp(1) }, path(given))
        } else {
            (ibgp(1), path(given))
        };
        let sent = passed(transit(), source, target, attributes).unwrap();
        assert_eq!(sent.attributes.as_path.to_string(), expected, "{what}");
    }
}

/// RFC 9234 section 5.
#[test]
fn roles_on_sending() {
    for (role, otc, expected) in [
        (Role::Provider, None, Some(Some(OUR_AS))),
        (Role::Provider, Some(9), Some(Some(9))),
        (Role::Peer, None, Some(Some(OUR_AS))),
        (Role::Peer, Some(9), None),
        (Role::RouteServer, None, Some(Some(OUR_AS))),
        (Role::Customer, None, Some(None)),
        (Role::Customer, Some(9), None),
        (Role::RouteServerClient, Some(9), None),
    ] {
        let target = PeerParams { role: Some(role), ..ebgp(2) };
        let sent = passed(transit(), ebgp(1), target, PathAttributes { otc, ..from(1) });
        assert_eq!(sent.map(|r| r.attributes.otc), expected, "{role:?} {otc:?}");
    }
}

fn rules(text: &str) -> Arc<[Rule]> {
    #[derive(serde::Deserialize)]
    struct File {
        rule: Vec<Rule>,
    }
    toml::from_str::<File>(text).unwrap().rule.into()
}

#[test]
fn export_rules() {
    let export = rules(
        r#"rule = [
            { prefix = "10.2.0.0/16", le = 32, action = "reject" },
            { prefix = "10.3.0.0/16", set_med = 7, prepend = 2, add_community = "65000:9" },
        ]"#,
    );
    let mut lab = Lab::transit();
    lab.up(1, ebgp(1));
    lab.up(2, PeerParams { export, ..ebgp(2) });
    lab.update(1, announce(1, from(1), &["10.1.0.0/16", "10.2.0.0/16", "10.2.1.0/24", "10.3.0.0/16"]));
    let receiver = lab.pull(2);
    assert_eq!(receiver.prefixes(), ["10.1.0.0/16", "10.3.0.0/16"]);
    let plain = &receiver.route("10.1.0.0/16").unwrap().attributes;
    assert_eq!((plain.as_path.to_string(), plain.med), ("64512 65001".to_owned(), None));
    let changed = &receiver.route("10.3.0.0/16").unwrap().attributes;
    assert_eq!(changed.as_path.to_string(), "64512 64512 64512 65001");
    assert_eq!((changed.med, changed.communities.as_slice()), (Some(7), &[Community(65000 << 16 | 9)][..]));
}

/// A change of rules, without a new session, brings the peer to what the new rules say.
#[test]
fn changed_export_rules() {
    let mut lab = Lab::transit();
    lab.up(1, ebgp(1));
    lab.up(2, ebgp(2));
    lab.up(3, ebgp(3));
    lab.update(1, announce(1, from(1), &["10.1.0.0/16", "10.2.0.0/16"]));
    lab.pull(2);
    lab.pull(3);
    let export = rules(r#"rule = [{ prefix = "10.2.0.0/16", action = "reject" }, { set_med = 1 }]"#);
    lab.rib.peer_changed(id(2), PeerParams { export, ..ebgp(2) }, lab.now);
    let receiver = lab.pull(2);
    assert_eq!(receiver.prefixes(), ["10.1.0.0/16"]);
    assert_eq!(receiver.route("10.1.0.0/16").unwrap().attributes.med, Some(1));
    assert_eq!(receiver.ends.len(), 2, "no second End-of-RIB");
    assert_eq!(lab.pull(3).order.len(), 2, "others are not disturbed");
    lab.rib.peer_changed(id(2), ebgp(2), lab.now);
    assert_eq!(lab.pull(2).prefixes(), ["10.1.0.0/16", "10.2.0.0/16"]);
    assert_eq!(lab.rib.stats().update_groups, 1, "they get the same again");
}

#[test]
fn draining() {
    let mut lab = Lab::new(config());
    lab.up(1, ebgp(1));
    lab.up(2, ibgp(2));
    lab.rib.originate(prefix(P), LocalRoute::default(), lab.now);
    for drained in [false, true, false] {
        lab.rib.set_draining(drained, lab.now);
        let external = lab.pull(1).route(P).unwrap().attributes.clone();
        assert_eq!(external.communities.contains(&Community::GRACEFUL_SHUTDOWN), drained);
        let internal = lab.pull(2).route(P).unwrap().attributes.clone();
        assert_eq!(internal.local_pref, Some(if drained { 0 } else { 100 }));
    }
}

#[test]
fn several_paths() {
    let send = |send| {
        let family = FamilyParams { add_path_tx: Some(send), ..FamilyParams::default() };
        PeerParams { families: PerFamily::both(Some(family)), ..client(9) }
    };
    let mut lab = Lab::reflector();
    for n in 1..=3 {
        lab.up(n, client(n));
    }
    lab.up(8, PeerParams { peer_addr: addr(8), ..send(AddPathSend::Best(2)) });
    lab.up(9, send(AddPathSend::All));
    for n in 1..=3 {
        lab.update(n, announce(n, PathAttributes { med: Some(n.into()), ..internal() }, &[P]));
    }
    let hops = |receiver: &Receiver| {
        let mut hops: Vec<_> = receiver.routes.values().map(|r| r.next_hop.global().to_string()).collect();
        hops.sort();
        hops
    };
    assert_eq!(hops(lab.pull(9)), ["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
    assert_eq!(hops(lab.pull(8)), ["192.0.2.1", "192.0.2.2"]);
    let ids: Vec<u32> = lab.receivers[&9].routes.keys().map(|(_, id)| *id).collect();
    // Paths keep their identifiers, whatever happens to others.
    lab.update(1, withdraw(&[P]));
    assert_eq!(hops(lab.pull(9)), ["192.0.2.2", "192.0.2.3"]);
    assert!(lab.receivers[&9].routes.keys().all(|(_, id)| ids.contains(id)));
    assert_eq!(lab.receivers[&9].withdrawn, 1);
    assert_eq!(hops(lab.pull(8)), ["192.0.2.2", "192.0.2.3"]);
    // A member gets the paths of others, not its own.
    lab.update(9, announce(9, internal(), &[P]));
    assert_eq!(hops(lab.pull(9)), ["192.0.2.2", "192.0.2.3"]);
    lab.rib.set_next_hop_cost(addr(2), 0, None);
    assert_eq!(hops(lab.pull(9)), ["192.0.2.3"]);
    assert_eq!(hops(lab.pull(8)), ["192.0.2.3", "192.0.2.9"]);
}

/// RFC 9494 section 4.3: long-lived stale routes go only to those who know what that is.
#[test]
fn long_lived_stale_routes_go_to_few() {
    let stale = PathAttributes { communities: vec![Community::LLGR_STALE], ..from(1) };
    let graceful = crate::bgp::rib::GracefulParams {
        long_lived: Some(std::time::Duration::from_secs(9)),
        ..Default::default()
    };
    let knows = PerFamily::both(Some(FamilyParams { graceful: Some(graceful), ..FamilyParams::default() }));
    assert!(passed(transit(), ebgp(1), ebgp(2), stale.clone()).is_none());
    assert!(passed(transit(), ebgp(1), PeerParams { families: knows, ..ebgp(2) }, stale).is_some());
}

/// RFC 8654 section 4: what does not fit into the peer's messages is not announced.
#[test]
fn attributes_that_leave_no_room() {
    let huge = PathAttributes { communities: (0..1100).map(Community).collect(), ..internal() };
    let mut lab = Lab::reflector();
    let extended = |n| PeerParams { extended_message: true, ..client(n) };
    lab.up(1, extended(1));
    lab.up(2, extended(2));
    lab.up(3, client(3));
    lab.update(1, announce(1, internal(), &[P]));
    assert!(lab.pull(2).route(P).is_some() && lab.pull(3).route(P).is_some());
    lab.update(1, announce(1, huge, &[P]));
    assert_eq!(lab.pull(2).route(P).unwrap().attributes.communities.len(), 1100);
    assert!(lab.pull(3).routes.is_empty());
}

#[test]
fn two_octet_peers_get_as_trans() {
    let target = PeerParams { four_octet_as: false, ..ebgp(2) };
    let attributes = PathAttributes { as_path: AsPath::sequence([4_200_000_001]), ..internal() };
    let sent = passed(transit(), ibgp(1), target, attributes).unwrap();
    assert_eq!(sent.attributes.as_path.to_string(), "64512 4200000001", "joined from AS4_PATH again");
}

#[test]
fn one_group_for_peers_alike() {
    let mut lab = Lab::reflector();
    for n in 1..=50 {
        lab.up(n, client(n));
    }
    assert_eq!(lab.rib.stats().update_groups, 1);
    lab.update(1, announce(1, internal(), &[P]));
    let pieces: Vec<_> = (2..=50).map(|n| lab.rib.poll_output(id(n), 1 << 20)).collect();
    // The members share the very same octets: End-of-RIB marks are their own.
    let shared: Vec<_> = pieces.iter().map(|p| p.iter().find(|b| b.len() > 40).unwrap()).collect();
    assert!(shared.iter().all(|piece| piece.len() == shared[0].len()));
    lab.update(1, announce(1, PathAttributes { med: Some(1), ..internal() }, &[P]));
    let pieces: Vec<_> = (2..=50).map(|n| lab.rib.poll_output(id(n), 1 << 20)).collect();
    assert!(pieces.iter().all(|p| p.len() == 1 && p[0].as_ptr() == pieces[0][0].as_ptr()));
    assert_eq!(lab.rib.poll_output(id(1), 1 << 20).len(), 2, "the source gets its End-of-RIB only");
    assert_eq!(lab.rib.peer_stats(id(2)).unwrap().families[&Family::Ipv4].sent, 1);
    assert_eq!(lab.rib.peer_stats(id(1)).unwrap().families[&Family::Ipv4].sent, 0);
}
