//! The thread that owns the RIB.
//!
//! Commands of peers come through a bounded queue, in order for each peer; those of the agent through another one
//! that goes first, so that a new container's prefix does not wait behind a table transfer. After each round of
//! commands the output of every peer with room is fetched, then changed best paths are handed on.

use bytes::Bytes;
use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
    thread,
    time::Duration,
    time::Instant,
};

use tokio::sync::{Notify, mpsc, oneshot};

use super::{
    SpeakerEvent,
    monitor::{CollectorId, Monitors, NewFeed, WatchedSession},
    outbox::Outbox,
    peer::PeerCommand,
};
use crate::{
    bgp::{
        PeerId,
        rib::{self, DownReason, LocalRoute, PeerParams, Rib, RibConfig, RibEvent},
        session::Failure,
        wire::Update,
    },
    model::{Family, Prefix},
};

/// Batches of UPDATEs that wait. Each comes from one read of at most 64 KiB.
const PEER_QUEUE: usize = 64;
/// Batches applied before output is looked at.
const ROUND: usize = 16;
/// Output fetched from the RIB for a peer at once.
const FETCH: usize = 64 << 10;
/// Best-path changes handed on at once.
const BEST_BATCH: usize = 1024;

/// What a peer's task tells the RIB.
#[derive(Debug)]
pub(super) struct FromPeer {
    pub(super) peer: PeerId,
    /// Sessions of a peer are numbered from 1, as the end of one overtakes its routes (see [`Control::Down`]).
    pub(super) session: u32,
    pub(super) news: News,
}

#[derive(Debug)]
pub(super) enum News {
    /// The session is established.
    Up {
        /// As configured, for the log.
        name: String,
        params: Box<PeerParams>,
        outbox: Arc<Outbox>,
        commands: mpsc::UnboundedSender<PeerCommand>,
        /// For those who watch.
        watched: Box<WatchedSession>,
    },
    /// Its settings have changed.
    Changed(Box<PeerParams>),
    Updates(Vec<Received>),
    Refresh(Family, rib::Refresh),
    /// The peer is no longer configured.
    Removed,
}

/// An UPDATE.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) update: Update,
    /// It had an error for which its routes are withdrawn.
    pub(super) malformed: bool,
    /// As it came.
    pub(super) raw: Bytes,
}

/// What goes before everything else.
pub(super) enum Control {
    /// A session is over: what waits of its routes need not be looked at any more.
    Down {
        peer: PeerId,
        session: u32,
        reason: DownReason,
        why: Failure,
    },
    /// Answered when the prefixes are in every established peer's queue, or when the time is over.
    Originate {
        routes: Vec<(Prefix, LocalRoute)>,
        wait: Duration,
        done: oneshot::Sender<bool>,
    },
    Withdraw {
        prefixes: Vec<Prefix>,
        wait: Duration,
        done: oneshot::Sender<bool>,
    },
    /// A peer that is not up forwards nothing any more: what is kept of it goes.
    ForwardingLost(PeerId),
    /// A peer whose task is no more.
    Removed(PeerId),
    Reconfigure(Box<RibConfig>),
    /// Next hops, interfaces and what they cost.
    NextHopCosts(Vec<(IpAddr, u32, Option<u32>)>),
    Query(Box<dyn FnOnce(&mut Rib) + Send>),
    /// A BMP collector has connected.
    Collector(Box<NewFeed>),
    /// Its connection is over.
    CollectorGone(CollectorId),
}

/// Both queues to the thread. It ends when all of these are gone.
#[derive(Clone, Debug)]
pub(super) struct RibSender {
    pub(super) peers: mpsc::Sender<FromPeer>,
    /// Not bounded: the agent waits for what it asks, and a session ends once.
    pub(super) control: mpsc::UnboundedSender<Control>,
    /// Wakes the thread when an [`Outbox`] has room again.
    pub(super) hungry: Arc<Notify>,
}

/// Starts the thread.
pub(super) fn start(
    config: RibConfig,
    events: mpsc::Sender<SpeakerEvent>,
) -> std::io::Result<(RibSender, thread::JoinHandle<()>)> {
    let (peers, from_peers) = mpsc::channel(PEER_QUEUE);
    let (control, from_control) = mpsc::unbounded_channel();
    let hungry = Arc::new(Notify::new());
    // Its own little runtime: the queues are tokio's, since the other ends must not block.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let owner = Owner {
        rib: Rib::new(config),
        members: HashMap::new(),
        ended: HashMap::new(),
        waiters: Vec::new(),
        events,
        hungry: hungry.clone(),
        best_waits: false,
        converged: false,
        completed: VecDeque::new(),
        monitors: Monitors::new(),
    };
    let thread = thread::Builder::new()
        .name("rib".into())
        .spawn(move || runtime.block_on(owner.run(from_peers, from_control)))?;
    Ok((RibSender { peers, control, hungry }, thread))
}

#[derive(Debug)]
struct Member {
    name: String,
    session: u32,
    outbox: Arc<Outbox>,
    commands: mpsc::UnboundedSender<PeerCommand>,
}

/// Somebody who waits until prefixes are handed to the peers.
#[derive(Debug)]
struct Waiter {
    prefixes: Vec<Prefix>,
    deadline: Instant,
    done: oneshot::Sender<bool>,
}

struct Owner {
    rib: Rib,
    members: HashMap<PeerId, Member>,
    /// The last session of each peer whose end has been told.
    ended: HashMap<PeerId, u32>,
    waiters: Vec<Waiter>,
    events: mpsc::Sender<SpeakerEvent>,
    hungry: Arc<Notify>,
    /// The agent does not take best-path changes as fast as they come; the RIB coalesces them meanwhile.
    best_waits: bool,
    /// Everybody has sent everything, and the agent has not been told yet.
    converged: bool,
    /// Who has told all it knows of a family, and the agent has not been told yet.
    completed: VecDeque<(Arc<str>, Family)>,
    monitors: Monitors,
}

impl Owner {
    async fn run(
        mut self,
        mut peers: mpsc::Receiver<FromPeer>,
        mut control: mpsc::UnboundedReceiver<Control>,
    ) {
        let hungry = self.hungry.clone();
        let events = self.events.clone();
        let mut control_open = true;
        loop {
            let deadline = self.deadline();
            let timeout = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                command = control.recv(), if control_open => match command {
                    Some(command) => self.control(command),
                    None => control_open = false,
                },
                permit = events.reserve(), if self.best_waits => {
                    self.best_waits = false;
                    drop(permit);
                }
                () = hungry.notified() => {}
                command = peers.recv() => match command {
                    Some(command) => self.peer_says(command),
                    None => return,
                },
                () = timeout => {}
            }
            for _ in 0..ROUND {
                match control.try_recv() {
                    Ok(command) => self.control(command),
                    Err(_) => match peers.try_recv() {
                        Ok(command) => self.peer_says(command),
                        Err(_) => break,
                    },
                }
            }
            self.rib.handle_timeout(Instant::now());
            self.monitors.journal(&mut self.rib);
            self.monitors.flush(&mut self.rib, Instant::now());
            self.events();
            self.output();
            self.monitors.flush(&mut self.rib, Instant::now());
            self.settle();
            self.next_hops();
            self.best();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let waiting = self.waiters.iter().map(|w| w.deadline).min();
        [self.rib.poll_timeout(), waiting, self.monitors.deadline()].into_iter().flatten().min()
    }

    fn control(&mut self, command: Control) {
        let now = Instant::now();
        match command {
            Control::Down { peer, session, reason, why } => {
                self.ended.insert(peer, session);
                if self.is_current(peer, session) {
                    self.members.remove(&peer);
                    self.monitors.journal(&mut self.rib);
                    self.monitors.session_down(peer, Some(&why));
                    self.rib.peer_down(peer, reason, now);
                }
            }
            Control::Originate { routes, wait, done } => {
                let prefixes = routes.iter().map(|(prefix, _)| *prefix).collect();
                for (prefix, route) in routes {
                    self.rib.originate(prefix, route, now);
                }
                self.waiters.push(Waiter { prefixes, deadline: now + wait, done });
            }
            Control::Withdraw { prefixes, wait, done } => {
                for prefix in &prefixes {
                    self.rib.withdraw_local(*prefix, now);
                }
                self.waiters.push(Waiter { prefixes, deadline: now + wait, done });
            }
            Control::ForwardingLost(peer) => self.rib.forwarding_lost(peer, now),
            Control::Removed(peer) => self.remove(peer, now),
            Control::Reconfigure(config) => self.rib.reconfigure(*config, now),
            Control::NextHopCosts(costs) => {
                for (next_hop, ifindex, cost) in costs {
                    self.rib.set_next_hop_cost(next_hop, ifindex, cost);
                }
            }
            Control::Query(query) => query(&mut self.rib),
            Control::Collector(feed) => self.monitors.connected(*feed, &mut self.rib, now),
            Control::CollectorGone(id) => self.monitors.gone(id, &mut self.rib),
        }
    }

    fn peer_says(&mut self, message: FromPeer) {
        let now = Instant::now();
        let FromPeer { peer, session, news } = message;
        match news {
            News::Up { name, params, outbox, commands, watched } => {
                if self.ended.get(&peer).is_none_or(|ended| *ended < session) {
                    self.members.insert(peer, Member { name, session, outbox, commands });
                    self.monitors.session_down(peer, None);
                    self.monitors.session_up(peer, *watched);
                    self.rib.peer_up(peer, *params, now);
                }
            }
            News::Removed => self.remove(peer, now),
            _ if !self.is_current(peer, session) => {}
            News::Changed(params) => self.rib.peer_changed(peer, *params, now),
            News::Updates(updates) => {
                for Received { update, malformed, raw } in updates {
                    if malformed {
                        self.rib.count_malformed(peer, &update);
                    }
                    if self.monitors.is_idle() {
                        self.rib.update(peer, update, now);
                        continue;
                    }
                    // What was swept away before comes first.
                    self.monitors.journal(&mut self.rib);
                    self.rib.update(peer, update.clone(), now);
                    self.monitors.received(peer, &update, malformed, &raw, &mut self.rib);
                }
            }
            News::Refresh(family, kind) => self.rib.refresh(peer, family, kind, now),
        }
    }

    fn remove(&mut self, peer: PeerId, now: Instant) {
        self.members.remove(&peer);
        self.ended.remove(&peer);
        self.monitors.session_down(peer, None);
        self.rib.peer_removed(peer, now);
    }

    fn is_current(&self, peer: PeerId, session: u32) -> bool {
        self.members.get(&peer).is_some_and(|member| member.session == session)
    }

    fn events(&mut self) {
        while let Some(event) = self.rib.poll_event() {
            match event {
                RibEvent::MaxPrefixExceeded { peer, family, limit } => {
                    self.tell(peer, PeerCommand::MaxPrefixes { family, limit });
                }
                RibEvent::RefreshNeeded { peer, family } => {
                    self.tell(peer, PeerCommand::RequestRefresh(family));
                }
                RibEvent::MaxPrefixWarning { peer, family, count, limit } => {
                    tracing::warn!(peer = self.name(peer), %family, count, limit, "many prefixes");
                }
                RibEvent::EndOfRib { peer, family } => {
                    tracing::debug!(peer = self.name(peer), %family, "End-of-RIB received");
                }
                RibEvent::StaleExpired { peer, family, paths } => {
                    tracing::info!(peer = self.name(peer), %family, paths, "stale routes removed");
                }
                RibEvent::Converged => self.converged = true,
            }
        }
    }

    /// A peer as configured; its number when it is not up.
    fn name(&self, peer: PeerId) -> String {
        self.members.get(&peer).map_or_else(|| peer.to_string(), |member| member.name.clone())
    }

    fn tell(&self, peer: PeerId, command: PeerCommand) {
        if let Some(member) = self.members.get(&peer) {
            // A task that has ended needs no command.
            let _ = member.commands.send(command);
        }
    }

    /// Fetches output for every peer that has room for it.
    fn output(&mut self) {
        for peer in self.rib.peers_with_output() {
            let Some(member) = self.members.get(&peer) else { continue };
            loop {
                let room = member.outbox.room();
                if room == 0 {
                    break;
                }
                let chunks = self.rib.poll_output(peer, room.min(FETCH));
                if chunks.is_empty() {
                    break;
                }
                if !self.monitors.is_idle() {
                    self.monitors.sent(peer, &chunks, &self.rib);
                }
                member.outbox.push(chunks);
            }
        }
    }

    /// Answers those whose prefixes are handed out, or whose time is over.
    fn settle(&mut self) {
        if self.waiters.is_empty() {
            return;
        }
        let now = Instant::now();
        for waiter in std::mem::take(&mut self.waiters) {
            let settled = waiter.prefixes.iter().all(|prefix| self.rib.settled(*prefix));
            if settled || waiter.deadline <= now {
                // The asker may have gone.
                let _ = waiter.done.send(settled);
            } else {
                self.waiters.push(waiter);
            }
        }
    }

    /// Tells which next hops are of interest, before the best paths that use them.
    fn next_hops(&mut self) {
        if self.best_waits {
            return;
        }
        match self.events.try_reserve() {
            Ok(permit) => {
                let uses = self.rib.poll_next_hops();
                if !uses.is_empty() {
                    permit.send(SpeakerEvent::NextHops(uses));
                }
            }
            Err(_) => self.best_waits = !self.events.is_closed(),
        }
    }

    fn best(&mut self) {
        while !self.best_waits && self.rib.has_best_changes() {
            let Ok(permit) = self.events.try_reserve() else {
                self.best_waits = !self.events.is_closed();
                return;
            };
            let changes = self.rib.poll_best(BEST_BATCH);
            if changes.is_empty() {
                break;
            }
            permit.send(SpeakerEvent::Best(changes));
        }
        // Behind the last change: whoever hears it deletes what has not been confirmed by then.
        self.completed.extend(self.rib.poll_complete());
        while let Some((peer, family)) = self.completed.front()
            && !self.best_waits
        {
            match self.events.try_reserve() {
                Ok(permit) => {
                    permit.send(SpeakerEvent::Complete { peer: peer.to_string(), family: *family });
                    self.completed.pop_front();
                }
                Err(_) => self.best_waits = !self.events.is_closed(),
            }
        }
        if self.converged && !self.best_waits {
            match self.events.try_reserve() {
                Ok(permit) => {
                    permit.send(SpeakerEvent::Converged);
                    self.converged = false;
                }
                Err(_) => self.best_waits = !self.events.is_closed(),
            }
        }
    }
}
