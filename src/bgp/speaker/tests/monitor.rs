//! BMP to a collector that another crate's parser reads for us.

use std::{
    collections::HashMap,
    io::Read,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use bgpkit_parser::{
    models::{AttributeValue, BgpMessage, BgpUpdateMessage, NetworkPrefix},
    parser::bmp::messages::{BmpMessage, BmpMessageBody, BmpPeerType, PerPeerFlags, StatsData},
};
use bytes::Bytes;
use serde_json::json;

use super::{
    harness::{Node, prefix},
    lab::{Lab, host_config as config, neighbour4, wait},
};
use crate::bgp::{
    config::BmpCollector,
    rib::LocalRoute,
    speaker::{CollectorStatus, PeerAction, Shutdown},
};

const WAIT: Duration = Duration::from_secs(5);
/// Long enough for any machine; no test that passes waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A listener on a host, and the lines that what came is told in.
struct Collector {
    address: SocketAddr,
    listener: TcpListener,
}

/// One connection of a collector.
struct Stream {
    lines: Arc<Mutex<Vec<String>>>,
    /// What was last said with more of its attributes, by the line in `lines`.
    last: Arc<Mutex<HashMap<String, String>>>,
    socket: TcpStream,
    _reader: thread::JoinHandle<()>,
}

impl Collector {
    fn on(lab: &Lab, host: u8) -> Self {
        let listener = lab.host(host).run(|| TcpListener::bind("127.0.0.1:0").unwrap());
        Self { address: listener.local_addr().unwrap(), listener }
    }

    fn config(&self) -> BmpCollector {
        let mut config = BmpCollector::new(self.address);
        config.reconnect = Duration::from_millis(50);
        config.statistics = Duration::ZERO;
        config
    }

    /// Waits for the speaker, and reads what it says from here on.
    fn accept(&self) -> Stream {
        Self::read(self.listener.accept().unwrap().0)
    }

    fn read(socket: TcpStream) -> Stream {
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let last = Arc::<Mutex<HashMap<String, String>>>::default();
        let (mut from, to, words_to) = (socket.try_clone().unwrap(), lines.clone(), last.clone());
        let reader = thread::spawn(move || {
            let mut head = [0; 6];
            while from.read_exact(&mut head).is_ok() {
                let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
                let mut message = vec![0; length];
                message[..6].copy_from_slice(&head);
                if from.read_exact(&mut message[6..]).is_err() {
                    break;
                }
                let mut message = Bytes::from(message);
                let parsed = bgpkit_parser::parse_bmp_msg(&mut message).expect("it reads what we write");
                words_to.lock().unwrap().extend(attributes(&parsed));
                to.lock().unwrap().extend(words(&parsed));
            }
            to.lock().unwrap().push("closed".to_owned());
        });
        Stream { lines, last, socket, _reader: reader }
    }
}

impl Stream {
    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Waits until a line has come, and returns its place.
    async fn until(&self, line: &str) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.lines.lock().unwrap().iter().position(|l| l == line) {
                return at;
            }
            assert!(Instant::now() < deadline, "no {line:?} in {:#?}", self.lines());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until the last word on a route is with these attributes.
    async fn until_last(&self, line: &str, attributes: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let last = self.last.lock().unwrap().get(line).cloned();
            if last.as_ref().is_some_and(|last| last.contains(attributes)) {
                return;
            }
            assert!(Instant::now() < deadline, "{line:?} is {last:?}, not {attributes:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn forget(&self) {
        self.lines.lock().unwrap().clear();
    }
}

/// Each announced prefix with MED and path.
fn attributes(message: &BmpMessage) -> Vec<(String, String)> {
    let BmpMessageBody::RouteMonitoring(route) = &message.message_body else { return Vec::new() };
    let BgpMessage::Update(update) = &route.bgp_message else { return Vec::new() };
    let mut text = String::new();
    for attribute in &update.attributes {
        match attribute {
            AttributeValue::MultiExitDiscriminator(med) => text.extend([format!(" med {med} ")]),
            AttributeValue::AsPath(path) => text.extend([format!(" path {path} ")]),
            _ => {}
        }
    }
    let who = who(message);
    update.announced_prefixes.iter().map(|p| (format!("{who} +{}", p.prefix), text.clone())).collect()
}

fn who(message: &BmpMessage) -> String {
    message.per_peer_header.as_ref().map_or_else(String::new, |header| {
        let table = match header.peer_flags {
            _ if header.peer_type == BmpPeerType::LocalRib => "loc",
            PerPeerFlags::PeerFlags(flags) => match (flags.is_adj_rib_out(), flags.is_post_policy()) {
                (false, false) => "pre",
                (false, true) => "post",
                (true, false) => "outpre",
                (true, true) => "outpost",
            },
            PerPeerFlags::LocalRibPeerFlags(_) => "pre",
        };
        format!("{table} {} AS{}", header.peer_ip, header.peer_asn.to_u32())
    })
}

/// A message in lines: one a prefix for routes.
fn words(message: &BmpMessage) -> Vec<String> {
    let who = who(message);
    match &message.message_body {
        BmpMessageBody::InitiationMessage(m) => {
            vec![format!(
                "initiation {}",
                m.tlvs.iter().map(|t| t.info.as_str()).collect::<Vec<_>>().join(", ")
            )]
        }
        BmpMessageBody::PeerUpNotification(up) => {
            let asn = |open: &BgpMessage| match open {
                BgpMessage::Open(open) => open.asn.to_u32(),
                other => panic!("{other:?} is no OPEN"),
            };
            vec![format!("up {who}, OPENs of {} and {}", asn(&up.sent_open), asn(&up.received_open))]
        }
        BmpMessageBody::PeerDownNotification(down) => {
            let data =
                down.data.as_deref().map(|d| hex::encode(d.get(19..).unwrap_or(d))).unwrap_or_default();
            vec![format!("down {who}, {:?} {data}", down.reason)]
        }
        BmpMessageBody::RouteMonitoring(route) => match &route.bgp_message {
            BgpMessage::Update(update) => routes(&who, update),
            other => panic!("{other:?} is no UPDATE"),
        },
        BmpMessageBody::StatsReport(stats) => (stats.counters.iter())
            .map(|c| match &c.stat_data {
                StatsData::Counter(n) => format!("statistic {who} {:?} {n}", c.stat_type),
                StatsData::Gauge(n) => format!("statistic {who} {:?} {n}", c.stat_type),
                StatsData::AfiSafiGauge(afi, _, n) => format!("statistic {who} {:?}({afi}) {n}", c.stat_type),
                StatsData::Unknown(_) => format!("statistic {who} {:?} unknown", c.stat_type),
            })
            .collect(),
        BmpMessageBody::TerminationMessage(_) => vec!["termination".to_owned()],
        BmpMessageBody::RouteMirroring(_) => vec!["mirroring".to_owned()],
    }
}

fn routes(who: &str, update: &BgpUpdateMessage) -> Vec<String> {
    let prefixes = |list: &[NetworkPrefix]| list.iter().map(|p| p.prefix.to_string()).collect::<Vec<_>>();
    let mut announced = prefixes(&update.announced_prefixes);
    let mut withdrawn = prefixes(&update.withdrawn_prefixes);
    if let Some(mp) = update.attributes.get_reachable_nlri() {
        announced.extend(prefixes(&mp.prefixes));
    }
    let unreach = update.attributes.get_unreachable_nlri();
    if let Some(mp) = unreach {
        withdrawn.extend(prefixes(&mp.prefixes));
    }
    if announced.is_empty() && withdrawn.is_empty() {
        return vec![format!("{who} end of {}", if unreach.is_some() { "IPv6" } else { "IPv4" })];
    }
    let local_pref = update.attributes.iter().find_map(|a| match a {
        AttributeValue::LocalPreference(value) => Some(format!(" preference {value}")),
        _ => None,
    });
    let local_pref = local_pref.unwrap_or_default();
    let lost = withdrawn.iter().map(|p| format!("{who} -{p}"));
    announced.iter().map(|p| format!("{who} +{p}{local_pref}")).chain(lost).collect()
}

async fn originate(node: &Node, prefixes: &[&str]) {
    let routes = prefixes.iter().map(|p| (prefix(p), LocalRoute::default())).collect();
    assert!(node.handle.originate(routes, WAIT).await.unwrap());
}

async fn collector_status(
    node: &Node,
    what: &str,
    fits: impl Fn(&CollectorStatus) -> bool,
) -> CollectorStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = node.handle.collectors().await.unwrap().remove(0);
        if fits(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "not {what}: {status:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Two hosts; the second has import rules and a collector that gets everything.
#[test]
fn a_collector_hears_of_sessions_and_routes_before_and_after_rules() {
    let lab = Lab::new(2, &[(1, 2)]);
    let collector = Collector::on(&lab, 2);
    wait(async {
        let mut one = config(1, 64512);
        one.peers = vec![neighbour4(1, 2, 65000)];
        let mut two = config(2, 65000);
        two.hostname = Some("host2".into());
        two.peers = vec![neighbour4(2, 1, 64512)];
        two.peers[0].settings.import = serde_json::from_value::<Vec<_>>(json!([
            { "prefix": ["10.1.0.0/16"], "action": "accept", "set_local_pref": 200 },
            { "prefix": ["10.2.0.0/16"], "action": "reject" },
        ]))
        .unwrap()
        .into();
        two.bmp = vec![BmpCollector { post_policy: true, loc_rib: true, ..collector.config() }];
        let (one, two) = (lab.start(1, one), lab.start(2, two));
        one.established().await;
        originate(&one, &["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "2001:db8::/32"]).await;
        two.until("three kept", |p| p.prefixes_accepted == 3).await;
        // Whether it connects before or after the routes came, it ends up with all of them.
        let stream = collector.accept();
        stream.until("initiation slash32 0.1.0, host2").await;
        let up = stream.until("up pre 10.1.2.1 AS64512, OPENs of 65000 and 64512").await;
        stream.until("up loc 0.0.0.0 AS65000, OPENs of 65000 and 65000").await;
        for (pre, post) in [
            ("+10.1.0.0/16", Some("+10.1.0.0/16 preference 200")),
            ("+10.2.0.0/16", None),
            ("+10.3.0.0/16", Some("+10.3.0.0/16 preference 100")),
            ("+2001:db8::/32", Some("+2001:db8::/32 preference 100")),
        ] {
            assert!(stream.until(&format!("pre 10.1.2.1 AS64512 {pre}")).await > up);
            if let Some(post) = post {
                stream.until(&format!("post 10.1.2.1 AS64512 {post}")).await;
                stream.until(&format!("loc 0.0.0.0 AS65000 {post}")).await;
            }
        }
        for family in ["IPv4", "IPv6"] {
            for who in ["pre 10.1.2.1 AS64512", "post 10.1.2.1 AS64512", "loc 0.0.0.0 AS65000"] {
                stream.until(&format!("{who} end of {family}")).await;
            }
        }
        let wrong =
            |line: &String| line.contains("10.2.0.0/16") && !line.starts_with("pre") && line.contains('+');
        assert!(!stream.lines().iter().any(wrong), "{:#?}", stream.lines());

        // Changes.
        stream.forget();
        one.handle.withdraw(vec![prefix("10.1.0.0/16")], WAIT).await.unwrap();
        for who in ["pre 10.1.2.1 AS64512", "post 10.1.2.1 AS64512", "loc 0.0.0.0 AS65000"] {
            stream.until(&format!("{who} -10.1.0.0/16")).await;
        }

        // Other rules change what is after them only.
        stream.forget();
        let mut other = without_third(&collector);
        two.handle.reconfigure(other.clone()).await.unwrap();
        stream.until("post 10.1.2.1 AS64512 -10.3.0.0/16").await;
        stream.until("loc 0.0.0.0 AS65000 -10.3.0.0/16").await;
        assert!(!stream.lines().iter().any(|line| line == "pre 10.1.2.1 AS64512 -10.3.0.0/16"));

        // The end of a session, by us, and by the neighbour with its text.
        two.handle.act("10.1.2.1", PeerAction::Reset).await.unwrap();
        stream.until("down pre 10.1.2.1 AS64512, LocalSystemClosedNotificationPduFollows 0604").await;
        stream.until("up pre 10.1.2.1 AS64512, OPENs of 65000 and 64512").await;
        stream.forget();
        one.handle.shutdown(Shutdown::Cease("cables".into())).await.unwrap();
        // A hard reset (RFC 8538) with the shutdown and its text (RFC 9003) inside.
        let text = hex::encode("cables");
        let down = format!(
            "down pre 10.1.2.1 AS64512, RemoteSystemClosedNotificationPduFollows 06090602{:02x}{text}",
            "cables".len()
        );
        stream.until(&down).await;
        stream.until("loc 0.0.0.0 AS65000 -2001:db8::/32").await;

        // Our end.
        other.bmp.clear();
        let report = two.handle.reconfigure(other).await.unwrap();
        assert_eq!(report.collectors, [(collector.address.to_string(), "removed")]);
        let end = stream.until("termination").await;
        assert_eq!(stream.until("closed").await, end + 1);
    });
}

/// RFC 8671: what a neighbour is sent, before and after export rules, with a collector that is there before the session and
/// one that comes later.
#[test]
fn a_collector_hears_of_what_neighbours_are_sent() {
    let lab = Lab::new(3, &[(1, 2), (2, 3)]);
    let (early, late) = (Collector::on(&lab, 2), Collector::on(&lab, 2));
    wait(async {
        let mut one = config(1, 64512);
        one.peers = vec![neighbour4(1, 2, 65000)];
        let mut two = config(2, 65000);
        two.transit = true;
        two.peers = vec![neighbour4(2, 1, 64512), neighbour4(2, 3, 64513)];
        two.peers[1].settings.export = export_rules(&json!([
            { "prefix": ["10.2.0.0/16"], "action": "reject" },
            { "prefix": ["10.3.0.0/16"], "action": "accept", "set_med": 7 },
        ]));
        let out = |collector: &Collector| BmpCollector {
            pre_policy: false,
            out_pre_policy: true,
            out_post_policy: true,
            statistics: Duration::from_millis(200),
            peers: vec!["10.2.3.3".to_owned()],
            ..collector.config()
        };
        two.bmp = vec![out(&early)];
        let mut three = config(3, 64513);
        three.peers = vec![neighbour4(3, 2, 65000)];
        let (one, two_node) = (lab.start(1, one), lab.start(2, two.clone()));
        let stream = early.accept();
        let three = lab.start(3, three);
        three.established().await;
        originate(&one, &["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "2001:db8::/32"]).await;
        three.until("what rules let out", |p| p.prefixes_accepted == 3).await;
        // The sessions are told of once, as ever.
        two.bmp.push(out(&late));
        two_node.handle.reconfigure(two.clone()).await.unwrap();
        let second = late.accept();
        for stream in [&stream, &second] {
            let up = stream.until("up pre 10.2.3.3 AS64513, OPENs of 65000 and 64513").await;
            for line in [
                "outpre 10.2.3.3 AS64513 +10.1.0.0/16",
                "outpre 10.2.3.3 AS64513 +10.2.0.0/16",
                "outpre 10.2.3.3 AS64513 +2001:db8::/32",
                "outpost 10.2.3.3 AS64513 +10.1.0.0/16",
                "outpost 10.2.3.3 AS64513 +2001:db8::/32",
                "outpre 10.2.3.3 AS64513 end of IPv4",
                "outpre 10.2.3.3 AS64513 end of IPv6",
                "outpost 10.2.3.3 AS64513 end of IPv4",
                "outpost 10.2.3.3 AS64513 end of IPv6",
                "statistic pre 10.2.3.3 AS64513 RoutesInPrePolicyAdjRibOut 4",
                "statistic pre 10.2.3.3 AS64513 RoutesInPostPolicyAdjRibOut 3",
                "statistic pre 10.2.3.3 AS64513 RoutesInPerAfiSafiPrePolicyAdjRibOut(1) 3",
                "statistic pre 10.2.3.3 AS64513 RoutesInPerAfiSafiPostPolicyAdjRibOut(2) 1",
            ] {
                assert!(stream.until(line).await > up, "{line}");
            }
            stream.until_last("outpre 10.2.3.3 AS64513 +10.3.0.0/16", " path 65000 64512 ").await;
            stream.until_last("outpost 10.2.3.3 AS64513 +10.3.0.0/16", " med 7 ").await;
            let wrong =
                |l: &String| l.starts_with("outpost") && l.contains("10.2.0.0/16") || l.contains("AS64512");
            assert!(!stream.lines().iter().any(wrong), "{:#?}", stream.lines());
            stream.forget();
        }
        one.handle.withdraw(vec![prefix("10.1.0.0/16"), prefix("10.2.0.0/16")], WAIT).await.unwrap();
        for stream in [&stream, &second] {
            stream.until("outpre 10.2.3.3 AS64513 -10.1.0.0/16").await;
            stream.until("outpre 10.2.3.3 AS64513 -10.2.0.0/16").await;
            stream.until("outpost 10.2.3.3 AS64513 -10.1.0.0/16").await;
            stream.forget();
        }
        // Other rules change what is after them; what may not go out at all is in neither.
        two.peers[1].settings.export =
            export_rules(&json!([{ "prefix": ["10.3.0.0/16"], "action": "reject" }]));
        two_node.handle.reconfigure(two.clone()).await.unwrap();
        for stream in [&stream, &second] {
            stream.until("outpost 10.2.3.3 AS64513 -10.3.0.0/16").await;
            stream.until("outpre 10.2.3.3 AS64513 +10.3.0.0/16").await;
            stream.forget();
        }
        two.transit = false;
        two_node.handle.reconfigure(two.clone()).await.unwrap();
        for stream in [&stream, &second] {
            stream.until("outpost 10.2.3.3 AS64513 -2001:db8::/32").await;
            stream.until("outpre 10.2.3.3 AS64513 -2001:db8::/32").await;
            stream.until("outpre 10.2.3.3 AS64513 -10.3.0.0/16").await;
        }
        let status = two_node.handle.collectors().await.unwrap().remove(0);
        assert_eq!(status.tables, ["out_pre_policy", "out_post_policy"]);
    });
}

fn export_rules<T: serde::de::DeserializeOwned>(rules: &serde_json::Value) -> Arc<[T]> {
    serde_json::from_value::<Vec<T>>(rules.clone()).unwrap().into()
}

/// Host 2 again, with other rules: nothing of 10.3.0.0/16 is wanted.
fn without_third(collector: &Collector) -> crate::bgp::config::SpeakerConfig {
    let mut two = config(2, 65000);
    two.hostname = Some("host2".into());
    two.peers = vec![neighbour4(2, 1, 64512)];
    two.peers[0].settings.import =
        serde_json::from_value::<Vec<_>>(json!([{ "prefix": ["10.3.0.0/16"], "action": "reject" }]))
            .unwrap()
            .into();
    two.bmp = vec![BmpCollector { post_policy: true, loc_rib: true, ..collector.config() }];
    two
}

/// A collector that does not read while much changes, often, is behind with bounded memory, and catches up on the same
/// connection; one that goes away is dialed again. The speaker goes on.
#[test]
fn a_collector_that_reads_late_or_goes_away_hinders_nobody() {
    const ROUTES: u32 = 10_000;
    let lab = Lab::new(2, &[(1, 2)]);
    let collector = Collector::on(&lab, 2);
    wait(async {
        let mut one = config(1, 64512);
        one.peers = vec![neighbour4(1, 2, 65000)];
        let mut two = config(2, 65000);
        two.peers = vec![neighbour4(2, 1, 64512)];
        let mut bmp = BmpCollector { post_policy: true, loc_rib: true, ..collector.config() };
        // Room for what has changed, but not for how.
        bmp.buffer = 2 << 20;
        two.bmp = vec![bmp];
        let (one, two) = (lab.start(1, one), lab.start(2, two));
        one.established().await;
        let late = collector.listener.accept().unwrap().0;
        collector_status(&two, "connected", |c| c.state == "connected").await;
        // More than the buffer and the sockets hold.
        let mut round = 0;
        loop {
            round += 1;
            change_all(&one, ROUTES, round).await;
            let status = two.handle.collectors().await.unwrap().remove(0);
            if status.overflows > 0 {
                break;
            }
            assert!(round < 100, "{status:?}");
        }
        // However often all of it changes again, no more waits.
        for _ in 0..3 {
            round += 1;
            change_all(&one, ROUTES, round).await;
        }
        one.handle.withdraw(vec![host(7)], WAIT).await.unwrap();
        let behind = collector_status(&two, "behind", |c| c.changes_waiting > 0).await;
        assert!(behind.changes_waiting <= u64::from(ROUTES) * 3, "{behind:?}");
        // The buffer, and the message that filled it.
        assert!(behind.bytes_waiting <= (2 << 20) + (64 << 10), "{behind:?}");

        let stream = Collector::read(late);
        let who = ["pre 10.1.2.1 AS64512", "post 10.1.2.1 AS64512", "loc 0.0.0.0 AS65000"];
        let status = collector_status(&two, "up to date", |c| c.changes_waiting == 0 && c.bytes_waiting == 0);
        let status = status.await;
        assert_eq!((status.connects, status.overflows, status.restarts, status.last_error), (1, 1, 0, None));
        for who in who {
            stream.until(&format!("{who} -{}", host(7))).await;
            for i in (0..ROUTES).step_by(1999) {
                stream.until_last(&format!("{who} +{}", host(i)), &format!(" med {} ", i / 2 + round)).await;
            }
        }
        assert_eq!(two.only().await.established_count, 1);

        // Nobody listens any more.
        stream.socket.shutdown(std::net::Shutdown::Both).unwrap();
        drop(collector.listener);
        collector_status(&two, "waiting", |c| {
            c.state != "connected" && c.last_error.as_deref() == Some("connection refused")
        })
        .await;
        assert_eq!(two.only().await.established_count, 1);
    });
}

/// When even remembering what has changed is too much, the collector forgets the tables and gets them anew, on the same
/// connection.
#[test]
fn a_collector_that_is_far_behind_starts_over() {
    const ROUTES: u32 = 20_000;
    let lab = Lab::new(2, &[(1, 2)]);
    let collector = Collector::on(&lab, 2);
    wait(async {
        let mut one = config(1, 64512);
        one.peers = vec![neighbour4(1, 2, 65000)];
        let mut two = config(2, 65000);
        two.peers = vec![neighbour4(2, 1, 64512)];
        let mut bmp = BmpCollector { loc_rib: true, ..collector.config() };
        bmp.buffer = 1 << 20;
        two.bmp = vec![bmp];
        let (one, two) = (lab.start(1, one), lab.start(2, two));
        one.established().await;
        let late = collector.listener.accept().unwrap().0;
        let mut round = 0;
        loop {
            round += 1;
            change_all(&one, ROUTES, round).await;
            let status = two.handle.collectors().await.unwrap().remove(0);
            assert!(status.changes_waiting <= u64::from(ROUTES) * 2, "{status:?}");
            if status.restarts > 0 {
                break;
            }
            assert!(round < 100, "{status:?}");
        }
        let stream = Collector::read(late);
        let status = collector_status(&two, "up to date", |c| c.changes_waiting == 0 && c.bytes_waiting == 0);
        assert_eq!(status.await.connects, 1);
        let down = stream.until("down pre 10.1.2.1 AS64512, PeerDeConfigured ").await;
        stream.until("down loc 0.0.0.0 AS65000, PeerDeConfigured ").await;
        for who in ["pre 10.1.2.1 AS64512", "loc 0.0.0.0 AS65000"] {
            let lines = stream.lines();
            let up = lines.iter().rposition(|l| l.starts_with(&format!("up {who}"))).unwrap();
            assert!(up > down, "up again after down");
            for i in (0..ROUTES).step_by(1999) {
                stream.until_last(&format!("{who} +{}", host(i)), &format!(" med {} ", i / 2 + round)).await;
            }
        }
    });
}

fn host(i: u32) -> crate::model::Prefix {
    crate::model::Prefix::host(std::net::Ipv4Addr::from_bits(0x0A00_0000 + i).into())
}

/// Announces so many routes with other attributes than before, and waits until they are sent.
async fn change_all(node: &Node, routes: u32, round: u32) {
    let routes =
        (0..routes).map(|i| (host(i), LocalRoute { med: Some(i / 2 + round), ..LocalRoute::default() }));
    assert!(node.handle.originate(routes.collect(), Duration::from_secs(60)).await.unwrap());
}

/// On a session in another AS's name, that AS is not in what the neighbour sent, live or in the table.
#[test]
fn what_came_before_rules_is_without_our_local_as() {
    let lab = Lab::new(2, &[(1, 2)]);
    let collector = Collector::on(&lab, 2);
    wait(async {
        let mut one = config(1, 64512);
        one.peers = vec![neighbour4(1, 2, 64999)];
        let mut two = config(2, 65000);
        two.peers = vec![neighbour4(2, 1, 64512)];
        two.peers[0].settings.local_asn = Some(64999.try_into().unwrap());
        two.bmp = vec![BmpCollector { post_policy: true, ..collector.config() }];
        let (one, two) = (lab.start(1, one), lab.start(2, two));
        one.established().await;
        let paths = |stream: Stream, what: &'static str| async move {
            for (who, path) in [("pre", "64512"), ("post", "64999 64512")] {
                let line = format!("{who} 10.1.2.1 AS64512 +{what}");
                stream.until_last(&line, &format!(" path {path} ")).await;
            }
            stream
        };
        let stream = collector.accept();
        stream.until("post 10.1.2.1 AS64512 end of IPv4").await;
        originate(&one, &["10.1.0.0/16"]).await;
        let stream = paths(stream, "10.1.0.0/16").await;
        stream.socket.shutdown(std::net::Shutdown::Both).unwrap();
        paths(collector.accept(), "10.1.0.0/16").await;
        drop(two);
    });
}

/// Only the neighbours that it is to hear of; and statistics.
#[test]
fn some_neighbours_and_statistics() {
    let lab = Lab::new(3, &[(1, 2), (2, 3)]);
    let collector = Collector::on(&lab, 2);
    wait(async {
        let mut two = config(2, 65000);
        two.peers = vec![neighbour4(2, 1, 64512), neighbour4(2, 3, 64513)];
        two.peers[1].settings.import =
            serde_json::from_value::<Vec<_>>(json!([{ "prefix": ["10.2.0.0/16"], "action": "reject" }]))
                .unwrap()
                .into();
        let mut bmp = BmpCollector { peers: vec!["10.2.3.3".into()], ..collector.config() };
        bmp.statistics = Duration::from_millis(50);
        two.bmp = vec![bmp];
        let two = lab.start(2, two);
        let leaf = |n: u8, number| {
            let mut leaf = config(n, number);
            leaf.peers = vec![neighbour4(n, 2, 65000)];
            lab.start(n, leaf)
        };
        let (one, three) = (leaf(1, 64512), leaf(3, 64513));
        one.established().await;
        three.established().await;
        originate(&one, &["10.1.0.0/16"]).await;
        originate(&three, &["10.2.0.0/16", "10.3.0.0/16", "10.4.0.0/16"]).await;
        let stream = collector.accept();
        let who = "pre 10.2.3.3 AS64513";
        for line in ["RoutesInAdjRibsIn 2", "PrefixesRejectedByInboundPolicy 1"] {
            let deadline = Instant::now() + PATIENCE;
            while !stream.lines().iter().any(|l| l.starts_with("statistic") && l.contains(line)) {
                let statistics: Vec<_> = stream
                    .lines()
                    .into_iter()
                    .filter(|l| l.starts_with("statistic"))
                    .rev()
                    .take(12)
                    .collect();
                assert!(Instant::now() < deadline, "no {line}: {statistics:#?}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        stream.until(&format!("{who} +10.2.0.0/16")).await;
        assert!(!stream.lines().iter().any(|line| line.contains("10.1.2.1")), "{:#?}", stream.lines());
        drop(two);
    });
}

/// The log of updates, read by us and by another crate.
#[test]
fn a_log_of_what_came() {
    use bgpkit_parser::{BgpkitParser, models::ElemType};

    use crate::bgp::{
        config::MrtLog,
        mrt::{MrtEntry, MrtReader},
    };

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("updates.mrt");
    let lab = Lab::new(2, &[(1, 2)]);
    wait(async {
        let mut one = config(1, 64512);
        one.peers = vec![neighbour4(1, 2, 65000)];
        let mut two = config(2, 65000);
        two.peers = vec![neighbour4(2, 1, 64512)];
        let log = MrtLog { file: file.clone(), rotate_bytes: 0, rotate_after: Duration::ZERO, keep: 0 };
        two.mrt = Some(log);
        let (one, two_node) = (lab.start(1, one), lab.start(2, two.clone()));
        one.established().await;
        originate(&one, &["10.1.0.0/16", "2001:db8::/32"]).await;
        two_node.until("both", |p| p.prefixes_accepted == 2).await;
        one.handle.withdraw(vec![prefix("10.1.0.0/16")], WAIT).await.unwrap();
        two_node.until("one", |p| p.prefixes_accepted == 1).await;
        one.handle.shutdown(Shutdown::Cease(String::new())).await.unwrap();
        two_node.until("down", |p| p.uptime_seconds.is_none()).await;
        let status = two_node.handle.update_log().await.unwrap().unwrap();
        assert_eq!((status.dropped, status.error), (0, None));
        two.mrt = None;
        assert!(two_node.handle.reconfigure(two).await.unwrap().update_log);
        assert_eq!(two_node.handle.update_log().await.unwrap(), None);
    });

    // We: every record, and the states in order.
    let bytes = std::fs::read(&file).unwrap();
    let mut states = Vec::new();
    let mut messages = 0;
    for record in MrtReader::new(&bytes[..]) {
        match record.unwrap().entry().unwrap() {
            MrtEntry::StateChange(change) => {
                assert_eq!(change.old, states.last().map_or(1, |(_, new)| *new), "{states:?}");
                states.push((change.old, change.new));
            }
            MrtEntry::Message(message) => {
                assert_eq!(states.last().map(|(_, new)| *new), Some(6), "updates only while established");
                assert_eq!((message.peer_asn, message.local_asn), (64512, 65000));
                assert_eq!(message.peer, "10.1.2.1".parse().ok());
                messages += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(messages >= 3 && states.iter().any(|(old, _)| *old == 6), "{messages} {states:?}");
    // They: the routes.
    let mut elems = Vec::new();
    for elem in BgpkitParser::from_reader(std::io::Cursor::new(bytes)) {
        let sign = if elem.elem_type == ElemType::ANNOUNCE { '+' } else { '-' };
        elems.push(format!("{sign}{} {}", elem.prefix.prefix, elem.peer_ip));
    }
    elems.sort();
    assert_eq!(elems, ["+10.1.0.0/16 10.1.2.1", "+2001:db8::/32 10.1.2.1", "-10.1.0.0/16 10.1.2.1"]);
}
