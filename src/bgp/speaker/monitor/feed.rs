//! What collectors are told, by the RIB's thread.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;
use tokio::sync::mpsc;

use super::{collector::CollectorCommand, status::CollectorShared};
use crate::{
    bgp::{
        PeerId,
        bmp::{self, PeerDown, PeerHeader, Statistic, Table},
        config::BmpCollector,
        rib::{Change, FamilyStats, OutCounts, Rejection, Rib, View},
        session::{Failure, Opens},
        speaker::{outbox::Outbox, socket::canonical, status::SharedStatus},
        wire::{
            Capability, EncodeContext, HEADER_LEN, Message, Notification, Open, Update, code, encode,
            encode_end_of_rib,
        },
    },
    model::{Family, Prefix},
};

/// Octets of a table dump that are put together at once.
const PIECE: usize = 64 << 10;
/// What one pass of the RIB may add to a full buffer, and more.
const SLACK: usize = 64 << 20;
/// What a change that waits to be told costs, about.
const BACKLOG_ENTRY: usize = 64;
/// Changes told before it is looked at whether there is still room.
const STEP: usize = 1024;
/// Between two times that neighbours are asked for what was not kept, because a collector was slow.
const REFRESH: Duration = Duration::from_secs(300);
/// The name of our only table (RFC 9069 section 4.4.1).
const TABLE: &str = "global";

/// A collector's number; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::bgp::speaker) struct CollectorId(pub(in crate::bgp::speaker) u32);

/// A session that has come up, for those who watch.
#[derive(Debug)]
pub(in crate::bgp::speaker) struct WatchedSession {
    /// As configured.
    pub(in crate::bgp::speaker) name: String,
    pub(in crate::bgp::speaker) asn: u32,
    pub(in crate::bgp::speaker) router_id: Ipv4Addr,
    pub(in crate::bgp::speaker) two_octet: bool,
    pub(in crate::bgp::speaker) local: SocketAddr,
    pub(in crate::bgp::speaker) peer: SocketAddr,
    pub(in crate::bgp::speaker) opens: Opens,
    pub(in crate::bgp::speaker) status: SharedStatus,
}

impl WatchedSession {
    fn header(&self, table: Table, time: SystemTime) -> PeerHeader {
        PeerHeader {
            table,
            address: canonical(self.peer).ip(),
            asn: self.asn,
            router_id: self.router_id,
            two_octet: self.two_octet,
            time,
        }
    }

    /// Whether a collector wants to hear of it.
    fn concerns(&self, config: &BmpCollector) -> bool {
        config.peers.is_empty() || {
            let address = canonical(self.peer).ip().to_string();
            config.peers.iter().any(|name| *name == self.name || *name == address)
        }
    }
}

/// A collector that has connected.
#[derive(Debug)]
pub(in crate::bgp::speaker) struct NewFeed {
    pub(in crate::bgp::speaker) id: CollectorId,
    pub(in crate::bgp::speaker) config: Arc<BmpCollector>,
    pub(in crate::bgp::speaker) outbox: Arc<Outbox>,
    pub(in crate::bgp::speaker) tell: mpsc::UnboundedSender<CollectorCommand>,
    pub(in crate::bgp::speaker) status: CollectorShared,
}

/// A table of which a collector gets a copy.
#[derive(Debug)]
struct Dump {
    view: View,
    family: Family,
    cursor: u32,
    /// What is not in it is withdrawn.
    again: bool,
}

/// What a collector that reads slowly is still to be told: not messages but what they would be about. Each is told once,
/// as it is by then, so a burst of changes costs no more than the routes that it is about.
#[derive(Debug, Default)]
struct Backlog {
    /// More waited than the buffer holds; from then on until this is empty, changes come here.
    behind: bool,
    /// That has just begun.
    news: bool,
    changes: BTreeSet<(View, Prefix, u32)>,
    /// Tables whose End-of-RIB came meanwhile.
    ends: BTreeSet<(View, Family)>,
    /// Neighbours whose rejected routes, which are not kept, may have been among it.
    refresh: BTreeSet<PeerId>,
    /// When neighbours were last asked for those.
    refreshed: Option<Instant>,
}

impl Backlog {
    fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.ends.is_empty()
    }

    /// Nothing about the neighbour's tables is to be told any more.
    fn forget(&mut self, peer: PeerId) {
        let theirs = |view: &View| view.peer() == Some(peer);
        self.changes.retain(|(view, ..)| !theirs(view));
        self.ends.retain(|(view, _)| !theirs(view));
        self.refresh.remove(&peer);
    }
}

#[derive(Debug)]
struct Feed {
    new: NewFeed,
    backlog: Backlog,
    dumps: VecDeque<Dump>,
    next_statistics: Option<Instant>,
    /// What waited to be sent after the last round.
    waiting: usize,
    /// What has been written in this round.
    out: BytesMut,
    messages: u64,
    overflown: bool,
}

impl Feed {
    fn wants(&self, view: View) -> bool {
        match view {
            View::PrePolicy(_) => self.new.config.pre_policy,
            View::PostPolicy(_) => self.new.config.post_policy,
            View::LocRib => self.new.config.loc_rib,
            View::OutPre(_) => self.new.config.out_pre_policy,
            View::OutPost(_) => self.new.config.out_post_policy,
        }
    }

    /// A table from the beginning, if it is wanted.
    fn want(&mut self, view: View, again: bool) {
        self.dumps.retain(|dump| dump.view != view);
        self.add_dumps(view, again);
    }

    /// The same of a table that is not to come yet.
    fn add_dumps(&mut self, view: View, again: bool) {
        if self.wants(view) {
            self.dumps.extend(Family::ALL.map(|family| Dump { view, family, cursor: 0, again }));
        }
    }

    /// Whether changes are merged: from when what is written in this round would not fit the buffer, too.
    fn is_behind(&mut self) -> bool {
        if !self.backlog.behind && self.waiting + self.out.len() > self.new.config.buffer {
            self.backlog.behind = true;
            self.backlog.news = true;
        }
        self.backlog.behind
    }

    /// Hands out what was written. More than the buffer holds: what comes next is merged.
    fn flush(&mut self) {
        if !self.out.is_empty() {
            self.new.outbox.push(vec![self.out.split().freeze()]);
        }
        let waiting = self.new.outbox.waiting();
        self.waiting = waiting;
        let before = self.backlog.behind;
        self.backlog.behind = waiting > self.new.config.buffer || before && !self.backlog.is_empty();
        let news = std::mem::take(&mut self.backlog.news) || self.backlog.behind && !before;
        // Sessions that come and go are told at once; that ends somewhere too.
        self.overflown = waiting > self.new.config.buffer.saturating_mul(2).saturating_add(SLACK);
        let messages = std::mem::take(&mut self.messages);
        if news {
            let collector = self.new.config.address;
            tracing::info!(%collector, waiting, "the BMP collector is slow: changes are merged until it has caught up");
        }
        self.new.status.update(|status| {
            status.messages += messages;
            status.waiting = waiting as u64;
            status.changes_waiting = self.backlog.changes.len() as u64;
            status.overflows += u64::from(news);
        });
        if self.overflown {
            // A task that has ended needs no command.
            let _ = self.new.tell.send(CollectorCommand::Overflow);
        }
    }
}

/// All collectors, and the sessions that they hear of.
#[derive(Debug)]
pub(in crate::bgp::speaker) struct Monitors {
    sessions: BTreeMap<PeerId, WatchedSession>,
    feeds: Vec<Feed>,
}

impl Monitors {
    pub(in crate::bgp::speaker) fn new() -> Self {
        Self { sessions: BTreeMap::new(), feeds: Vec::new() }
    }

    /// Whether nobody watches.
    pub(in crate::bgp::speaker) fn is_idle(&self) -> bool {
        self.feeds.is_empty()
    }

    /// A collector has connected: it hears of every session, then gets the tables.
    pub(in crate::bgp::speaker) fn connected(&mut self, new: NewFeed, rib: &mut Rib, now: Instant) {
        let interval = new.config.statistics;
        let mut feed = Feed {
            next_statistics: (!interval.is_zero()).then(|| now + interval),
            new,
            backlog: Backlog::default(),
            waiting: 0,
            dumps: VecDeque::new(),
            out: BytesMut::new(),
            messages: 0,
            overflown: false,
        };
        let config = feed.new.config.clone();
        for (id, session) in self.sessions.iter().filter(|(_, s)| s.concerns(&config)) {
            put_peer_up(&mut feed, session);
            if config.pre_policy {
                // What was not kept comes again.
                rib.refresh_rejected(*id);
            }
        }
        if config.loc_rib {
            put_loc_rib_up(&mut feed, rib);
        }
        want_tables(&mut feed, &self.sessions);
        feed.flush();
        self.feeds.push(feed);
        rib.set_journal(true);
    }

    /// A collector's connection is over.
    pub(in crate::bgp::speaker) fn gone(&mut self, id: CollectorId, rib: &mut Rib) {
        self.feeds.retain(|feed| feed.new.id != id);
        if self.feeds.is_empty() {
            rib.set_journal(false);
        }
    }

    pub(in crate::bgp::speaker) fn session_up(&mut self, id: PeerId, session: WatchedSession) {
        for feed in self.feeds.iter_mut().filter(|feed| session.concerns(&feed.new.config)) {
            put_peer_up(feed, &session);
            // After export rules everything is passed on as it is sent.
            feed.want(View::OutPre(id), false);
        }
        self.sessions.insert(id, session);
    }

    /// A session is over; `None` when it is of no more interest why.
    pub(in crate::bgp::speaker) fn session_down(&mut self, id: PeerId, why: Option<&Failure>) {
        let Some(session) = self.sessions.remove(&id) else { return };
        let header = session.header(Table::AdjRibInPre, SystemTime::now());
        for feed in self.feeds.iter_mut().filter(|feed| session.concerns(&feed.new.config)) {
            feed.backlog.forget(id);
            feed.dumps.retain(|dump| dump.view.peer() != Some(id));
            put_peer_down(&mut feed.out, &header, why);
            feed.messages += 1;
        }
    }

    /// A peer has sent an UPDATE, which the RIB knows already.
    pub(in crate::bgp::speaker) fn received(
        &mut self,
        id: PeerId,
        update: &Update,
        malformed: bool,
        raw: &Bytes,
        rib: &mut Rib,
    ) {
        let Some(session) = self.sessions.get(&id) else { return };
        let time = SystemTime::now();
        let end_of_rib = update.end_of_rib();
        let mut told = BytesMut::new();
        if malformed {
            // What the collector cannot read either is told as what it came to (RFC 7606 section 2): withdrawals.
            for unreach in &update.unreach {
                for nlri in &unreach.nlri {
                    rib.tell(View::PrePolicy(id), nlri.prefix, nlri.path_id, &mut told);
                }
            }
        }
        let octets = if malformed { &told[..] } else { raw };
        let pre = session.header(Table::AdjRibInPre, time);
        for feed in self.feeds.iter_mut().filter(|feed| session.concerns(&feed.new.config)) {
            if !feed.new.config.pre_policy {
                continue;
            }
            if !feed.is_behind() {
                put_updates(feed, &pre, octets);
                continue;
            }
            let view = View::PrePolicy(id);
            let changes = update.prefixes().map(|nlri| (view, nlri.prefix, nlri.path_id));
            feed.backlog.changes.extend(changes);
            feed.backlog.refresh.insert(id);
            feed.backlog.ends.extend(end_of_rib.map(|family| (view, family)));
        }
        if let Some(family) = end_of_rib {
            self.journal(rib);
            self.end_of_rib(View::PostPolicy(id), family);
        }
    }

    /// A peer is sent these messages.
    pub(in crate::bgp::speaker) fn sent(&mut self, id: PeerId, messages: &[Bytes], rib: &Rib) {
        let view = View::OutPost(id);
        let Some(session) = self.sessions.get(&id) else { return };
        let header = session.header(Table::AdjRibOutPost, SystemTime::now());
        let mut parsed = None;
        for feed in self.feeds.iter_mut().filter(|f| f.wants(view) && session.concerns(&f.new.config)) {
            if !feed.is_behind() {
                for bytes in messages {
                    put_updates(feed, &header, bytes);
                }
                continue;
            }
            let sent = parsed.get_or_insert_with(|| rib.sent_prefixes(id, messages));
            feed.backlog.changes.extend(sent.prefixes.iter().map(|(prefix, path)| (view, *prefix, *path)));
            feed.backlog.ends.extend(sent.ends.iter().map(|family| (view, *family)));
        }
    }

    fn end_of_rib(&mut self, view: View, family: Family) {
        let View::PostPolicy(id) = view else { return };
        let Some(session) = self.sessions.get(&id) else { return };
        let header = session.header(Table::AdjRibInPost, SystemTime::now());
        let mut marker = BytesMut::new();
        encode_end_of_rib(family, &mut marker);
        for feed in &mut self.feeds {
            // While the table is still on its way, its end is not there.
            let dumping = feed.dumps.iter().any(|dump| dump.view == view && dump.family == family);
            if !feed.wants(view) || !session.concerns(&feed.new.config) || dumping {
                continue;
            }
            if feed.is_behind() {
                feed.backlog.ends.insert((view, family));
            } else {
                put_updates(feed, &header, &marker);
            }
        }
    }

    /// Tells what has changed in the RIB.
    pub(in crate::bgp::speaker) fn journal(&mut self, rib: &mut Rib) {
        if self.feeds.is_empty() {
            return;
        }
        let (time, loc_rib) = (SystemTime::now(), loc_rib_header(rib));
        let mut update = BytesMut::new();
        for change in rib.poll_journal() {
            let mut views: SmallVec<[View; 2]> = SmallVec::new();
            let (prefix, path_id) = match change {
                Change::Path { peer, prefix, path_id, swept } => {
                    views.push(View::PostPolicy(peer));
                    views.extend(swept.then_some(View::PrePolicy(peer)));
                    (prefix, path_id)
                }
                Change::Best(prefix) => {
                    views.push(View::LocRib);
                    if self.feeds.iter().any(|feed| feed.new.config.out_pre_policy) {
                        views.extend(self.sessions.keys().map(|id| View::OutPre(*id)));
                    }
                    (prefix, 0)
                }
                Change::Regrouped(peer) => {
                    let Some(session) = self.sessions.get(&peer) else { continue };
                    for feed in self.feeds.iter_mut().filter(|feed| session.concerns(&feed.new.config)) {
                        feed.want(View::OutPre(peer), true);
                    }
                    continue;
                }
            };
            for view in views {
                if !self.feeds.iter().any(|feed| feed.wants(view)) {
                    continue;
                }
                let (header, session) = match view.peer() {
                    None => (PeerHeader { time, ..loc_rib }, None),
                    Some(peer) => {
                        let Some(session) = self.sessions.get(&peer) else { continue };
                        (session.header(table_of(view), time), Some(session))
                    }
                };
                // Encoded when somebody is to get it now.
                let mut told = false;
                for feed in &mut self.feeds {
                    if !feed.wants(view) || session.is_some_and(|s| !s.concerns(&feed.new.config)) {
                        continue;
                    }
                    if feed.is_behind() {
                        feed.backlog.changes.insert((view, prefix, path_id));
                        continue;
                    }
                    if !std::mem::replace(&mut told, true) {
                        update.clear();
                        rib.tell(view, prefix, path_id, &mut update);
                    }
                    put_updates(feed, &header, &update);
                }
            }
        }
    }

    /// Writes on in the tables that collectors are to have, as far as there is room; hands out everything.
    pub(in crate::bgp::speaker) fn flush(&mut self, rib: &mut Rib, now: Instant) {
        if self.feeds.is_empty() {
            return;
        }
        for feed in &mut self.feeds {
            feed.flush();
            if feed.backlog.changes.len() * BACKLOG_ENTRY > feed.new.config.buffer {
                start_over(feed, &self.sessions, rib);
            }
            while !feed.overflown
                && (!feed.dumps.is_empty() || !feed.backlog.is_empty())
                && feed.new.outbox.room() > 0
            {
                if feed.backlog.is_empty() {
                    dump(feed, &self.sessions, rib);
                } else {
                    tell_backlog(feed, &self.sessions, rib);
                }
                feed.flush();
            }
            ask_again(feed, rib, now);
            if feed.next_statistics.is_some_and(|at| at <= now) {
                feed.next_statistics = Some(now + feed.new.config.statistics);
                put_all_statistics(feed, &self.sessions, rib);
                feed.flush();
            }
        }
        self.feeds.retain(|feed| !feed.overflown);
        if self.feeds.is_empty() {
            rib.set_journal(false);
        }
    }

    /// When statistics are due next.
    pub(in crate::bgp::speaker) fn deadline(&self) -> Option<Instant> {
        self.feeds.iter().filter_map(|feed| feed.next_statistics).min()
    }
}

/// The collector gets every table that it is to have, from the beginning.
fn want_tables(feed: &mut Feed, sessions: &BTreeMap<PeerId, WatchedSession>) {
    let concerned = sessions.iter().filter(|(_, s)| s.concerns(&feed.new.config));
    let views: Vec<View> = concerned
        .flat_map(|(id, _)| {
            [View::PrePolicy(*id), View::PostPolicy(*id), View::OutPre(*id), View::OutPost(*id)]
        })
        .chain([View::LocRib])
        .collect();
    feed.dumps.clear();
    for view in views {
        feed.add_dumps(view, false);
    }
}

/// Too much has changed to remember it: the collector forgets all tables, as sessions end and begin for it, and gets them
/// anew. Its connection stays.
fn start_over(feed: &mut Feed, sessions: &BTreeMap<PeerId, WatchedSession>, rib: &Rib) {
    let config = feed.new.config.clone();
    let collector = config.address;
    tracing::info!(%collector, "the BMP collector is far behind: it gets the tables anew");
    feed.backlog.changes.clear();
    feed.backlog.ends.clear();
    let time = SystemTime::now();
    for session in sessions.values().filter(|s| s.concerns(&config)) {
        put_peer_down(&mut feed.out, &session.header(Table::AdjRibInPre, time), None);
        feed.messages += 1;
        put_peer_up(feed, session);
    }
    if config.loc_rib {
        put_peer_down(&mut feed.out, &PeerHeader { time, ..loc_rib_header(rib) }, None);
        feed.messages += 1;
        put_loc_rib_up(feed, rib);
    }
    want_tables(feed, sessions);
    feed.new.status.update(|status| status.restarts += 1);
}

/// Tells some of what waits, as it is now.
fn tell_backlog(feed: &mut Feed, sessions: &BTreeMap<PeerId, WatchedSession>, rib: &mut Rib) {
    let time = SystemTime::now();
    let header = |view: View, rib: &Rib| match view.peer() {
        None => Some(PeerHeader { time, ..loc_rib_header(rib) }),
        Some(id) => sessions.get(&id).map(|session| session.header(table_of(view), time)),
    };
    let mut update = BytesMut::new();
    for _ in 0..STEP {
        let Some((view, prefix, path_id)) = feed.backlog.changes.pop_first() else { break };
        if let Some(header) = header(view, rib) {
            update.clear();
            rib.tell(view, prefix, path_id, &mut update);
            put_updates(feed, &header, &update);
        }
    }
    if feed.backlog.changes.is_empty() {
        for (view, family) in std::mem::take(&mut feed.backlog.ends) {
            let dumping = feed.dumps.iter().any(|dump| dump.view == view && dump.family == family);
            if let Some(header) = header(view, rib).filter(|_| !dumping) {
                update.clear();
                encode_end_of_rib(family, &mut update);
                put_updates(feed, &header, &update);
            }
        }
    }
}

/// What import rules reject is not kept: a collector that has caught up gets it by a route refresh.
fn ask_again(feed: &mut Feed, rib: &mut Rib, now: Instant) {
    let backlog = &mut feed.backlog;
    let due = backlog.refreshed.is_none_or(|at| now.saturating_duration_since(at) >= REFRESH);
    if !backlog.behind && !backlog.refresh.is_empty() && due {
        backlog.refreshed = Some(now);
        for peer in std::mem::take(&mut backlog.refresh) {
            rib.refresh_rejected(peer);
        }
    }
}

fn table_of(view: View) -> Table {
    match view {
        View::PrePolicy(_) => Table::AdjRibInPre,
        View::PostPolicy(_) => Table::AdjRibInPost,
        View::LocRib => Table::LocRib,
        View::OutPre(_) => Table::AdjRibOutPre,
        View::OutPost(_) => Table::AdjRibOutPost,
    }
}

/// The peer that stands for our own table (RFC 9069 section 4.1).
fn loc_rib_header(rib: &Rib) -> PeerHeader {
    PeerHeader {
        table: Table::LocRib,
        address: Ipv4Addr::UNSPECIFIED.into(),
        asn: rib.config().asn.get(),
        router_id: rib.config().router_id.addr(),
        two_octet: false,
        time: SystemTime::UNIX_EPOCH,
    }
}

fn dump(feed: &mut Feed, sessions: &BTreeMap<PeerId, WatchedSession>, rib: &mut Rib) {
    let Some(dump) = feed.dumps.front_mut() else { return };
    let header = match dump.view.peer() {
        None => loc_rib_header(rib),
        // Zero: when the routes came is not told (RFC 7854 section 4.2), as one message has many.
        Some(id) => {
            let Some(session) = sessions.get(&id) else {
                feed.dumps.pop_front();
                return;
            };
            session.header(table_of(dump.view), SystemTime::UNIX_EPOCH)
        }
    };
    let mut updates = BytesMut::new();
    let done = if dump.again {
        rib.dump_again(dump.view, dump.family, &mut dump.cursor, PIECE, &mut updates)
    } else {
        rib.dump(dump.view, dump.family, &mut dump.cursor, PIECE, &mut updates)
    };
    if done {
        encode_end_of_rib(dump.family, &mut updates);
        feed.dumps.pop_front();
    }
    put_updates(feed, &header, &updates);
}

/// One route monitoring message for each UPDATE (RFC 7854 section 4.6); other messages are not told.
fn put_updates(feed: &mut Feed, header: &PeerHeader, mut updates: &[u8]) {
    while let Some(&[high, low]) = updates.get(HEADER_LEN - 3..HEADER_LEN - 1) {
        let length = usize::from(u16::from_be_bytes([high, low])).clamp(HEADER_LEN, updates.len());
        let (update, rest) = updates.split_at(length);
        updates = rest;
        if update.get(HEADER_LEN - 1) == Some(&code::message::UPDATE) {
            bmp::route_monitoring(&mut feed.out, header, update);
            feed.messages += 1;
        }
    }
}

fn put_peer_up(feed: &mut Feed, session: &WatchedSession) {
    let header = session.header(Table::AdjRibInPre, SystemTime::now());
    let (local, peer) = (canonical(session.local), canonical(session.peer));
    let (sent, received) = (&session.opens.sent, &session.opens.received);
    bmp::peer_up(&mut feed.out, &header, local.ip(), (local.port(), peer.port()), sent, received, None);
    feed.messages += 1;
}

/// RFC 9069 section 4.4: both OPENs say what the table can hold.
fn put_loc_rib_up(feed: &mut Feed, rib: &Rib) {
    let asn = rib.config().asn.get();
    let open = Open {
        version: 4,
        my_as: u16::try_from(asn).unwrap_or(23456),
        hold_time: 0,
        router_id: rib.config().router_id.addr(),
        capabilities: vec![
            Capability::Multiprotocol { afi: 1, safi: 1 },
            Capability::Multiprotocol { afi: 2, safi: 1 },
            Capability::FourOctetAs(asn),
        ],
    };
    let mut bytes = BytesMut::new();
    encode(&EncodeContext::default(), &Message::Open(open), &mut bytes)
        .expect("an OPEN with three short capabilities fits");
    let header = PeerHeader { time: SystemTime::now(), ..loc_rib_header(rib) };
    let unspecified = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    bmp::peer_up(&mut feed.out, &header, unspecified, (0, 0), &bytes, &bytes, Some(TABLE));
    feed.messages += 1;
}

/// Events of RFC 4271 section 8.1 and RFC 9687.
mod event {
    pub(super) const NONE: u16 = 0;
    pub(super) const AUTOMATIC_STOP: u16 = 8;
    pub(super) const TCP_CONFIRMED: u16 = 17;
    pub(super) const SEND_HOLD_EXPIRES: u16 = 29;
}

fn put_peer_down(out: &mut BytesMut, header: &PeerHeader, why: Option<&Failure>) {
    let message = |notification: &Notification| {
        let mut bytes = BytesMut::new();
        // One that came or went has room in a message.
        let ctx = EncodeContext { max_message: usize::from(u16::MAX), ..EncodeContext::default() };
        let _ = encode(&ctx, &Message::Notification(notification.clone()), &mut bytes);
        bytes
    };
    match why {
        None => bmp::peer_down(out, header, PeerDown::Unmonitored),
        Some(Failure::Sent { notification, .. }) => {
            bmp::peer_down(out, header, PeerDown::LocalNotification(&message(notification)));
        }
        Some(Failure::Received(notification)) => {
            bmp::peer_down(out, header, PeerDown::RemoteNotification(&message(notification)));
        }
        Some(Failure::Closed | Failure::Dial(_)) => bmp::peer_down(out, header, PeerDown::RemoteClosed),
        Some(Failure::LinkDown) => bmp::peer_down(out, header, PeerDown::LocalEvent(event::NONE)),
        Some(Failure::Lost(text)) if text == Failure::BFD_DOWN => {
            bmp::peer_down(out, header, PeerDown::LocalEvent(event::NONE));
        }
        Some(Failure::Lost(_)) => bmp::peer_down(out, header, PeerDown::RemoteClosed),
        Some(Failure::SendHold) => {
            bmp::peer_down(out, header, PeerDown::LocalEvent(event::SEND_HOLD_EXPIRES));
        }
        Some(Failure::PlannedRestart) => {
            bmp::peer_down(out, header, PeerDown::LocalEvent(event::AUTOMATIC_STOP));
        }
        Some(Failure::Replaced) => bmp::peer_down(out, header, PeerDown::LocalEvent(event::TCP_CONFIRMED)),
    }
}

fn put_all_statistics(feed: &mut Feed, sessions: &BTreeMap<PeerId, WatchedSession>, rib: &mut Rib) {
    let time = SystemTime::now();
    for (id, session) in sessions.iter().filter(|(_, s)| s.concerns(&feed.new.config)) {
        let Some(families) = rib.received_stats(*id) else { continue };
        let withdrawn = session.status.read().counters.updates_withdrawn;
        let header = session.header(Table::AdjRibInPre, time);
        let mut list = peer_statistics(&families, withdrawn);
        if feed.new.config.out_pre_policy || feed.new.config.out_post_policy {
            list.extend(
                rib.out_counts(*id).iter().flat_map(|counts| out_statistics(&feed.new.config, counts)),
            );
        }
        bmp::statistics(&mut feed.out, &header, &list);
        feed.messages += 1;
    }
    if feed.new.config.loc_rib {
        let counts = rib.best_counts();
        let mut list = vec![Statistic::LocRib(counts.iter().map(|(_, n)| n).sum())];
        list.extend(counts.map(|(family, count)| Statistic::LocRibFamily(family, count)));
        bmp::statistics(&mut feed.out, &PeerHeader { time, ..loc_rib_header(rib) }, &list);
        feed.messages += 1;
    }
}

/// RFC 8671 section 6.2.
fn out_statistics(config: &BmpCollector, counts: &[OutCounts]) -> Vec<Statistic> {
    let mut list = Vec::new();
    if config.out_pre_policy {
        list.push(Statistic::AdjRibOutPre(counts.iter().map(|c| c.pre).sum()));
        list.extend(counts.iter().map(|c| Statistic::AdjRibOutPreFamily(c.family, c.pre)));
    }
    if config.out_post_policy {
        list.push(Statistic::AdjRibOutPost(counts.iter().map(|c| c.post).sum()));
        list.extend(counts.iter().map(|c| Statistic::AdjRibOutPostFamily(c.family, c.post)));
    }
    list
}

fn peer_statistics(families: &[(Family, FamilyStats)], withdrawn: u64) -> Vec<Statistic> {
    // Counters wrap at 32 bits (RFC 7854 section 4.8).
    let rejected = |wanted: &[Rejection]| {
        let counts = families.iter().flat_map(|(_, stats)| &stats.rejected);
        counts.filter(|(reason, _)| wanted.contains(reason)).map(|(_, count)| *count).sum::<u64>() as u32
    };
    let mut list = vec![
        Statistic::RejectedPrefixes(rejected(&[Rejection::Policy])),
        Statistic::ClusterLoops(rejected(&[Rejection::ClusterLoop])),
        Statistic::AsPathLoops(rejected(&[Rejection::AsLoop])),
        Statistic::OriginatorLoops(rejected(&[Rejection::OriginatorLoop])),
        Statistic::AdjRibIn(families.iter().map(|(_, stats)| u64::from(stats.accepted)).sum()),
    ];
    list.extend(families.iter().map(|(f, stats)| Statistic::AdjRibInFamily(*f, stats.accepted.into())));
    list.push(Statistic::TreatedAsWithdraw(withdrawn as u32));
    list.push(Statistic::PrefixesTreatedAsWithdraw(rejected(&[Rejection::Malformed])));
    list
}
