//! Our codec against bgpkit-parser's: both must read the same out of the same octets.
//!
//! UPDATEs are made from a fixed seed and written by us; MRT and BMP files are written by us and read by it; UPDATEs that it
//! writes are read by us.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, UNIX_EPOCH},
};

use bgpkit_parser::{
    models::{
        self, AsnLength, AttributeValue, Attributes, Bgp4MpEnum, BgpMessage, MetaCommunity, MrtMessage,
        NextHopAddress, TableDumpV2Message,
    },
    parser::bgp::parse_bgp_message,
};
use bytes::{Bytes, BytesMut};
use slash32::{
    bgp::{
        bmp, mrt,
        wire::{
            AsPath, AsSegment, AsSegmentKind, Capability, Community, DecodeContext, Disposition,
            EncodeContext, ExtCommunity, FrameReader, LargeCommunity, Message, Nlri, Notification, Open,
            Origin, PathAttributes, PeerKind, PerFamily, Reach, Unreach, Update, WireNextHop, decode, encode,
        },
    },
    model::{Family, Ipv4Prefix, Ipv6Prefix, Prefix},
};

/// What both make of an UPDATE, in words.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plain {
    withdrawn: Vec<(String, u32)>,
    announced: Vec<(String, u32, String)>,
    origin: Option<String>,
    as_path: String,
    med: Option<u32>,
    local_pref: Option<u32>,
    atomic_aggregate: bool,
    aggregator: Option<(u32, Ipv4Addr)>,
    communities: Vec<u32>,
    large_communities: Vec<String>,
    ext_communities: usize,
    originator_id: Option<Ipv4Addr>,
    cluster_list: Vec<u32>,
    otc: Option<u32>,
}

fn ours(update: &Update) -> Plain {
    let a = &update.attributes;
    let nlri = |n: &Nlri| (n.prefix.to_string(), n.path_id);
    Plain {
        withdrawn: update.unreach.iter().flat_map(|u| u.nlri.iter().map(nlri)).collect(),
        announced: update
            .reach
            .iter()
            .flat_map(|r| {
                r.nlri.iter().map(|n| (n.prefix.to_string(), n.path_id, next_hop_words(r.next_hop)))
            })
            .collect(),
        origin: a.origin.map(|o| format!("{o:?}").to_uppercase()),
        as_path: a.as_path.to_string(),
        med: a.med,
        local_pref: a.local_pref,
        atomic_aggregate: a.atomic_aggregate,
        aggregator: a.aggregator,
        communities: a.communities.iter().map(|c| c.0).collect(),
        large_communities: a.large_communities.iter().map(ToString::to_string).collect(),
        ext_communities: a.ext_communities.len(),
        originator_id: a.originator_id,
        cluster_list: a.cluster_list.iter().map(|c| c.to_bits()).collect(),
        otc: a.otc,
    }
}

fn next_hop_words(next_hop: WireNextHop) -> String {
    match next_hop {
        WireNextHop::V4(a) => a.to_string(),
        WireNextHop::V6(a) => a.to_string(),
        WireNextHop::V6LinkLocal { global, link_local } => format!("{global} {link_local}"),
    }
}

fn theirs(update: &models::BgpUpdateMessage) -> Plain {
    let nlri = |n: &models::NetworkPrefix| (n.prefix.to_string(), n.path_id.unwrap_or(0));
    let mut plain = theirs_attributes(&update.attributes);
    plain.withdrawn = update.withdrawn_prefixes.iter().map(nlri).collect();
    if let Some(mp) = update.attributes.get_unreachable_nlri() {
        plain.withdrawn.extend(mp.prefixes.iter().map(nlri));
    }
    let body = update.attributes.iter().find_map(|a| match a {
        AttributeValue::NextHop(addr) => Some(addr.to_string()),
        _ => None,
    });
    let announced = update.announced_prefixes.iter().map(nlri);
    plain.announced = announced.map(|(p, id)| (p, id, body.clone().unwrap_or_default())).collect();
    if let Some(mp) = update.attributes.get_reachable_nlri() {
        let next_hop = match mp.next_hop {
            Some(NextHopAddress::Ipv4(a)) => a.to_string(),
            Some(NextHopAddress::Ipv6(a)) => a.to_string(),
            Some(NextHopAddress::Ipv6LinkLocal(a, b)) => format!("{a} {b}"),
            _ => String::new(),
        };
        plain.announced.extend(mp.prefixes.iter().map(nlri).map(|(p, id)| (p, id, next_hop.clone())));
    }
    plain
}

fn theirs_attributes(attributes: &Attributes) -> Plain {
    let mut plain = Plain::default();
    for attribute in attributes {
        match attribute {
            AttributeValue::Origin(origin) => plain.origin = Some(origin.to_string()),
            AttributeValue::MultiExitDiscriminator(med) => plain.med = Some(*med),
            AttributeValue::LocalPreference(value) => plain.local_pref = Some(*value),
            AttributeValue::AtomicAggregate => plain.atomic_aggregate = true,
            AttributeValue::OriginatorId(id) => plain.originator_id = Some(*id),
            AttributeValue::Clusters(list) => plain.cluster_list.clone_from(list),
            AttributeValue::OnlyToCustomer(asn) => plain.otc = Some(asn.to_u32()),
            _ => {}
        }
    }
    // Theirs merges AS4_PATH only when asked.
    plain.as_path = attributes.effective_as_path().map(|p| p.to_string()).unwrap_or_default();
    plain.aggregator = attributes.aggregator().map(|(asn, id)| (asn.to_u32(), id));
    for community in attributes.iter_communities() {
        match community {
            MetaCommunity::Plain(c) => plain.communities.push(match c {
                models::Community::NoExport => Community::NO_EXPORT.0,
                models::Community::NoAdvertise => Community::NO_ADVERTISE.0,
                models::Community::NoExportSubConfed => Community::NO_EXPORT_SUBCONFED.0,
                models::Community::Custom(asn, value) => asn.to_u32() << 16 | u32::from(value),
            }),
            MetaCommunity::Large(c) => plain.large_communities.push(c.to_string()),
            MetaCommunity::Extended(_) => plain.ext_communities += 1,
            MetaCommunity::Ipv6Extended(_) => {}
        }
    }
    plain
}

/// xorshift64, so that every run has the same UPDATEs.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32
    }

    fn below(&mut self, n: u32) -> u32 {
        self.next() % n
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(2) == 0).then(|| make(self))
    }

    fn list<T>(&mut self, most: u32, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| make(self)).collect()
    }

    fn asn(&mut self) -> u32 {
        if self.below(2) == 0 { 1 + self.below(65535) } else { 1 + self.next() / 2 }
    }

    fn v6(&mut self) -> Ipv6Addr {
        Ipv6Addr::from_bits(0x2001_0db8_u128 << 96 | u128::from(self.next()))
    }

    /// Not a default route: theirs takes the octet 0 at the start for a path identifier.
    fn prefix(&mut self, family: Family) -> Prefix {
        match family {
            Family::Ipv4 => Ipv4Prefix::new(self.next().into(), 1 + self.below(32) as u8).into(),
            Family::Ipv6 => Ipv6Prefix::new(self.v6(), 1 + self.below(128) as u8).into(),
        }
    }

    fn nlri(&mut self, family: Family, add_path: bool) -> Vec<Nlri> {
        let mut list = self.list(40, |r| {
            let prefix = r.prefix(family);
            Nlri { prefix, path_id: if add_path { r.next() } else { 0 } }
        });
        list.push(Nlri { prefix: self.prefix(family), path_id: 0 });
        list
    }

    fn attributes(&mut self, internal: bool) -> PathAttributes {
        let origin = [Origin::Igp, Origin::Egp, Origin::Incomplete][self.below(3) as usize];
        PathAttributes {
            origin: Some(origin),
            as_path: AsPath {
                segments: self.list(3, |r| AsSegment {
                    kind: [AsSegmentKind::Sequence, AsSegmentKind::Set][r.below(2) as usize],
                    asns: (0..=r.below(6)).map(|_| r.asn()).collect(),
                }),
            },
            med: self.maybe(Self::next),
            local_pref: internal.then(|| self.next()),
            atomic_aggregate: self.below(2) == 0,
            aggregator: self.maybe(|r| (r.asn(), r.next().into())),
            communities: self.list(80, |r| Community(r.next())),
            originator_id: if internal { self.maybe(|r| r.next().into()) } else { None },
            cluster_list: if internal { self.list(3, |r| r.next().into()) } else { Vec::new() },
            ext_communities: self.list(4, |r| {
                let [a, b, c, d] = r.next().to_be_bytes();
                ExtCommunity([0, 2, a, b, c, d, 0, 1])
            }),
            large_communities: self.list(30, |r| LargeCommunity {
                global: r.next(),
                local1: r.next(),
                local2: r.next(),
            }),
            otc: self.maybe(Self::asn),
            ..PathAttributes::default()
        }
    }

    fn update(&mut self, internal: bool, add_path: bool) -> Update {
        let family = Family::ALL[self.below(2) as usize];
        if self.below(4) == 0 {
            let unreach = vec![Unreach { family, nlri: self.nlri(family, add_path) }];
            return Update { unreach, ..Update::default() };
        }
        let next_hop = match (family, self.below(3)) {
            (Family::Ipv4, 0 | 1) => WireNextHop::V4((0x0A00_0000 | self.below(1 << 24)).into()),
            (_, 2) => WireNextHop::V6LinkLocal {
                global: self.v6(),
                link_local: Ipv6Addr::from_bits(0xFE80 << 112 | 1),
            },
            _ => WireNextHop::V6(self.v6()),
        };
        let nlri = self.nlri(family, add_path);
        Update {
            reach: vec![Reach { family, next_hop, nlri }],
            unreach: vec![],
            attributes: self.attributes(internal),
        }
    }
}

fn frames(bytes: &BytesMut) -> Vec<Bytes> {
    let mut reader = FrameReader::new();
    reader.push(bytes);
    std::iter::from_fn(|| reader.next_frame().unwrap()).collect()
}

#[test]
fn updates_that_we_write() {
    let mut random = Random(0x5332);
    for round in 0..3000 {
        let [internal, four_octet, add_path] = [0, 1, 2].map(|bit| round >> bit & 1 != 0);
        let update = random.update(internal, add_path);
        let encode_ctx =
            EncodeContext { four_octet, add_path: PerFamily::both(add_path), ..EncodeContext::default() };
        let decode_ctx = DecodeContext {
            peer: if internal { PeerKind::Internal } else { PeerKind::External },
            four_octet,
            add_path: PerFamily::both(add_path),
            ..DecodeContext::default()
        };
        let mut out = BytesMut::new();
        encode(&encode_ctx, &Message::Update(update.clone()), &mut out).unwrap();
        for frame in frames(&out) {
            let decoded = decode(&decode_ctx, &frame);
            assert_eq!(decoded.disposition, Disposition::Ok, "{:?}", decoded.errors);
            let Some(Message::Update(mine)) = decoded.message else { panic!() };
            let width = if four_octet { AsnLength::Bits32 } else { AsnLength::Bits16 };
            let other = parse_bgp_message(&mut frame.clone(), add_path, &width).unwrap();
            let BgpMessage::Update(other) = other else { panic!() };
            assert_eq!(ours(&mine), theirs(&other), "round {round}: {}", hex::encode(&frame));
        }
    }
}

#[test]
fn updates_that_they_write() {
    let mut random = Random(0x3253);
    for round in 0..1000 {
        let four_octet = round % 2 == 0;
        let width = if four_octet { AsnLength::Bits32 } else { AsnLength::Bits16 };
        let ctx = EncodeContext { four_octet, ..EncodeContext::default() };
        let mut out = BytesMut::new();
        encode(&ctx, &Message::Update(random.update(false, false)), &mut out).unwrap();
        for frame in frames(&out) {
            let BgpMessage::Update(update) = parse_bgp_message(&mut frame.clone(), false, &width).unwrap()
            else {
                panic!()
            };
            let body = update.encode(width).unwrap();
            let again = [&[0xFF; 16][..], &(body.len() as u16 + 19).to_be_bytes(), &[2], &body].concat();
            let decoded = decode(&DecodeContext { four_octet, ..DecodeContext::default() }, &again);
            assert_eq!(decoded.disposition, Disposition::Ok, "{:?}", decoded.errors);
            let Some(Message::Update(mine)) = decoded.message else { panic!() };
            assert_eq!(ours(&mine), theirs(&update), "round {round}");
        }
    }
}

#[test]
fn opens_and_notifications() {
    let open = Open {
        version: 4,
        my_as: 23456,
        hold_time: 90,
        router_id: Ipv4Addr::new(10, 0, 0, 1),
        capabilities: vec![
            Capability::Multiprotocol { afi: 1, safi: 1 },
            Capability::Multiprotocol { afi: 2, safi: 1 },
            Capability::RouteRefresh,
            Capability::ExtendedMessage,
            Capability::Role(3),
            Capability::FourOctetAs(4_200_000_001),
            Capability::AddPath(vec![(1, 1, 3)]),
        ],
    };
    let mut out = BytesMut::new();
    encode(&EncodeContext::default(), &Message::Open(open), &mut out).unwrap();
    let BgpMessage::Open(theirs) = parse_bgp_message(&mut out.freeze(), false, &AsnLength::Bits16).unwrap()
    else {
        panic!()
    };
    assert_eq!(
        (theirs.version, theirs.hold_time, theirs.bgp_identifier),
        (4, 90, Ipv4Addr::new(10, 0, 0, 1))
    );
    let text = format!("{:?}", theirs.opt_params);
    for part in ["4200000001", "AddPath", "Customer"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let mut out = BytesMut::new();
    let notification = Notification::shutdown(2, "bye");
    encode(&EncodeContext::default(), &Message::Notification(notification), &mut out).unwrap();
    let theirs = parse_bgp_message(&mut out.freeze(), false, &AsnLength::Bits16).unwrap();
    let BgpMessage::Notification(theirs) = theirs else { panic!() };
    let error = format!("{:?}", theirs.error);
    assert!(error.to_uppercase().contains("SHUTDOWN"), "{error}");
    assert_eq!(theirs.data, b"\x03bye");
}

#[test]
fn table_dumps_and_update_logs() {
    let mut random = Random(0x4D52);
    let time = UNIX_EPOCH + Duration::new(1_700_000_000, 500_000_000);
    let mut file = BytesMut::new();
    let peers = [
        mrt::PeerIndexEntry {
            router_id: [10, 0, 0, 1].into(),
            address: IpAddr::from([192, 0, 2, 1]),
            asn: 65001,
        },
        mrt::PeerIndexEntry {
            router_id: [10, 0, 0, 2].into(),
            address: "2001:db8::2".parse().unwrap(),
            asn: 4_200_000_000,
        },
    ];
    mrt::write::peer_index(&mut file, time, [10, 0, 0, 9].into(), "view", &peers);
    let mut dumped = Vec::new();
    for sequence in 0..200 {
        let family = Family::ALL[random.below(2) as usize];
        let prefix = random.prefix(family);
        let attributes = random.attributes(true);
        let next_hop = match family {
            Family::Ipv4 => WireNextHop::V4([192, 0, 2, 1].into()),
            Family::Ipv6 => WireNextHop::V6(random.v6()),
        };
        let add_path = random.below(2) == 0;
        let route = mrt::write::Route {
            peer_index: 1,
            originated: time,
            path_id: 9,
            attributes: &attributes,
            next_hop,
        };
        mrt::write::rib(&mut file, time, sequence, prefix, add_path, &[route, route]);
        dumped.push((prefix, add_path, attributes, next_hop));
    }
    let session = mrt::write::Session {
        peer_asn: 65001,
        local_asn: 65002,
        ifindex: 0,
        peer: IpAddr::from([192, 0, 2, 1]),
        local: IpAddr::from([192, 0, 2, 2]),
    };
    let mut message = BytesMut::new();
    encode(&EncodeContext::default(), &Message::Keepalive, &mut message).unwrap();
    mrt::write::message(&mut file, time, &session, false, mrt::write::Encoding::default(), &message);
    mrt::write::state_change(&mut file, time, &session, 5, 6);

    let mut input = &file[..];
    let mut next = || bgpkit_parser::parse_mrt_record(&mut input).map_err(|e| e.to_string());
    let first = next().unwrap().message;
    let MrtMessage::TableDumpV2Message(TableDumpV2Message::PeerIndexTable(table)) = first else { panic!() };
    assert_eq!(table.view_name, "view");
    assert_eq!(format!("{:?}", table.id_peer_map[&1].peer_asn), "4200000000");
    for (prefix, add_path, attributes, next_hop) in dumped {
        let MrtMessage::TableDumpV2Message(TableDumpV2Message::RibAfi(rib)) = next().unwrap().message else {
            panic!()
        };
        assert_eq!(rib.prefix.prefix.to_string(), prefix.to_string());
        assert_eq!(rib.rib_entries.len(), 2);
        let entry = &rib.rib_entries[0];
        assert_eq!((entry.peer_index, entry.originated_time), (1, 1_700_000_000));
        assert_eq!(entry.path_id, add_path.then_some(9));
        let expected = ours(&Update { attributes, ..Update::default() });
        assert_eq!(theirs_attributes(&entry.attributes), expected);
        let mp = entry.attributes.get_reachable_nlri().and_then(|mp| mp.next_hop);
        let theirs = match (entry.attributes.next_hop(), mp) {
            (Some(addr), _) => addr.to_string(),
            (None, Some(NextHopAddress::Ipv6(addr))) => addr.to_string(),
            _ => String::new(),
        };
        assert_eq!(theirs, next_hop_words(next_hop));
    }
    let record = next().unwrap();
    assert_eq!(record.common_header.microsecond_timestamp, Some(500_000));
    let MrtMessage::Bgp4Mp(Bgp4MpEnum::Message(m)) = record.message else { panic!() };
    assert_eq!((m.peer_asn.to_u32(), m.local_asn.to_u32(), m.peer_ip), (65001, 65002, session.peer));
    assert!(matches!(m.bgp_message, BgpMessage::KeepAlive));
    assert!(matches!(next().unwrap().message, MrtMessage::Bgp4Mp(Bgp4MpEnum::StateChange(_))));
    assert!(next().is_err(), "the end");
}

#[test]
fn monitoring_streams() {
    use bgpkit_parser::parser::bmp::messages::BmpMessageBody;
    let peer = bmp::PeerHeader {
        table: bmp::Table::AdjRibInPre,
        address: IpAddr::from([192, 0, 2, 1]),
        asn: 65001,
        router_id: [10, 0, 0, 1].into(),
        two_octet: false,
        time: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
    };
    let message = |m: &Message| {
        let mut out = BytesMut::new();
        encode(&EncodeContext::default(), m, &mut out).unwrap();
        out
    };
    let open = message(&Message::Open(Open {
        version: 4,
        my_as: 65001,
        hold_time: 90,
        router_id: [10, 0, 0, 1].into(),
        capabilities: vec![Capability::FourOctetAs(65001)],
    }));
    let notification = message(&Message::Notification(Notification::new(6, 2)));
    let update = Random(7).update(false, false);
    let update = frames(&message(&Message::Update(update)))[0].clone();
    let mut kinds = Vec::new();
    for part in [
        |o: &mut BytesMut, _: &Parts<'_>| bmp::initiation(o, "host1", "slash32"),
        |o: &mut BytesMut, p: &Parts<'_>| {
            bmp::peer_up(o, p.peer, IpAddr::from([192, 0, 2, 2]), (179, 40000), p.open, p.open, None);
        },
        |o: &mut BytesMut, p: &Parts<'_>| bmp::route_monitoring(o, p.peer, p.update),
        |o: &mut BytesMut, p: &Parts<'_>| bmp::statistics(o, p.peer, &[bmp::Statistic::AdjRibIn(5)]),
        |o: &mut BytesMut, p: &Parts<'_>| {
            bmp::peer_down(o, p.peer, bmp::PeerDown::RemoteNotification(p.notification));
        },
        |o: &mut BytesMut, _: &Parts<'_>| bmp::termination(o, "done"),
    ] {
        let mut out = BytesMut::new();
        part(&mut out, &Parts { peer: &peer, open: &open, update: &update, notification: &notification });
        let parsed = bgpkit_parser::parse_bmp_msg(&mut out.freeze()).unwrap();
        if let Some(header) = &parsed.per_peer_header {
            assert_eq!((header.peer_ip, header.peer_asn.to_u32()), (peer.address, 65001));
        }
        kinds.push(match parsed.message_body {
            BmpMessageBody::InitiationMessage(_) => "initiation",
            BmpMessageBody::PeerUpNotification(up) => {
                assert_eq!((up.local_port, up.remote_port), (179, 40000));
                "up"
            }
            BmpMessageBody::RouteMonitoring(_) => "route",
            BmpMessageBody::StatsReport(_) => "statistics",
            BmpMessageBody::PeerDownNotification(_) => "down",
            BmpMessageBody::TerminationMessage(_) => "termination",
            BmpMessageBody::RouteMirroring(_) => "mirroring",
        });
    }
    assert_eq!(kinds, ["initiation", "up", "route", "statistics", "down", "termination"]);
}

/// What the messages of a stream are made of.
struct Parts<'a> {
    peer: &'a bmp::PeerHeader,
    open: &'a [u8],
    update: &'a [u8],
    notification: &'a [u8],
}
