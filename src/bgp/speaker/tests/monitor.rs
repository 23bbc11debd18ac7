//! BMP to a collector that another crate's parser reads for us.

use std::{
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
const PATIENCE: Duration = Duration::from_secs(20);

/// A listener on a host, and the lines that what came is told in.
struct Collector {
    address: SocketAddr,
    listener: TcpListener,
}

/// One connection of a collector.
struct Stream {
    lines: Arc<Mutex<Vec<String>>>,
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
        let (socket, _) = self.listener.accept().unwrap();
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let (mut from, to) = (socket.try_clone().unwrap(), lines.clone());
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
                to.lock().unwrap().extend(words(&parsed));
            }
            to.lock().unwrap().push("closed".to_owned());
        });
        Stream { lines, socket, _reader: reader }
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
            let lines = self.lines();
            if let Some(at) = lines.iter().position(|l| l == line) {
                return at;
            }
            assert!(Instant::now() < deadline, "no {line:?} in {lines:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Whether a line comes before the connection ends.
    async fn reaches(&self, line: &str) -> bool {
        loop {
            let lines = self.lines();
            if lines.iter().any(|l| l == line) || lines.iter().any(|l| l == "closed") {
                return lines.iter().any(|l| l == line);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn forget(&self) {
        self.lines.lock().unwrap().clear();
    }
}

/// A message in lines: one a prefix for routes.
fn words(message: &BmpMessage) -> Vec<String> {
    let who = message.per_peer_header.as_ref().map_or_else(String::new, |header| {
        let table = match header.peer_flags {
            _ if header.peer_type == BmpPeerType::LocalRib => "loc",
            PerPeerFlags::PeerFlags(flags) if flags.is_post_policy() => "post",
            _ => "pre",
        };
        format!("{table} {} AS{}", header.peer_ip, header.peer_asn.to_u32())
    });
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

/// A collector that is away is dialed again; one that does not read is cut off, and the speaker goes on.
#[test]
fn a_collector_that_is_away_or_does_not_read_hinders_nobody() {
    let lab = Lab::new(2, &[(1, 2)]);
    let collector = Collector::on(&lab, 2);
    wait(async {
        let mut one = config(1, 64512);
        one.peers = vec![neighbour4(1, 2, 65000)];
        let mut two = config(2, 65000);
        two.peers = vec![neighbour4(2, 1, 64512)];
        let mut bmp = BmpCollector { post_policy: true, ..collector.config() };
        bmp.buffer = 1 << 20;
        two.bmp = vec![bmp];
        let (one, two) = (lab.start(1, one), lab.start(2, two));
        one.established().await;
        let silent = collector.listener.accept().unwrap().0;
        collector_status(&two, "connected", |c| c.state == "connected").await;
        // More than the buffer and the sockets hold.
        let mut round = 0;
        let cut = loop {
            round += 1;
            let routes = (0..20_000u32).map(|i| {
                let route = LocalRoute { med: Some(i / 2 + round), ..LocalRoute::default() };
                (crate::model::Prefix::host(std::net::Ipv4Addr::from_bits(0x0A00_0000 + i).into()), route)
            });
            assert!(one.handle.originate(routes.collect(), Duration::from_secs(60)).await.unwrap());
            let status = two.handle.collectors().await.unwrap().remove(0);
            if status.overflows > 0 {
                break status;
            }
            assert!(round < 50, "{status:?}");
        };
        // The buffer, and what one pass of the RIB adds before it is looked at: at most all routes in both tables.
        assert!(cut.bytes_waiting <= (1 << 20) + 20_000 * 2 * 150, "{cut:?}");
        drop(silent);
        // It comes back to the whole table, as soon as the changes that still come fit the buffer.
        let stream = loop {
            let stream = collector.accept();
            if stream.reaches("pre 10.1.2.1 AS64512 end of IPv4").await {
                break stream;
            }
        };
        let status = collector_status(&two, "back", |c| c.state == "connected").await;
        assert!(status.last_error.unwrap().contains("too slow"));
        let lines = stream.lines();
        for i in (0..20_000u32).step_by(1999) {
            let line = format!("pre 10.1.2.1 AS64512 +{}/32", std::net::Ipv4Addr::from_bits(0x0A00_0000 + i));
            assert!(lines.contains(&line), "no {line}");
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
