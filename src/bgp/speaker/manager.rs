//! The manager task: who the peers are, which connection is whose, and what a new configuration changes.

mod collectors;

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use self::collectors::Collector;
use super::{
    PeerAction, PeerStatus, ReconfigureReport, Shutdown, SpeakerError, SpeakerEvent,
    auth::{self, Keys},
    change,
    links::{LinkChange, Links},
    liveness::{Liveness, state_of},
    monitor::{CollectorCommand, CollectorStatus, collector_status},
    params::{self, HostAddresses},
    peer::{self, FromTask, PeerCommand, PeerContext},
    rib_thread::{Control, RibSender},
    socket::{self, canonical, scope},
    status::{PrefixCounts, SharedStatus, peer_status},
    unnumbered,
    update_log::{UpdateLog, UpdateLogStatus},
};
use crate::{
    bgp::{
        PeerId,
        bfd::{
            self,
            driver::{BfdHandle, BfdStatus},
        },
        config::{ListenRange, PeerAddress, PeerConfig, SpeakerConfig},
        rib,
        session::{State, Stop},
    },
    model::{Family, Prefix},
    netlink::{self, ns::ifindex},
};

/// How long the end of all sessions may take.
const SHUTDOWN: Duration = Duration::from_secs(2);
/// Between looks at whether all tasks are alive.
const PULSE: Duration = Duration::from_secs(1);
/// Between attempts to set up what another process stands in the way of.
const RETRY: Duration = Duration::from_secs(10);
/// After an error of `accept`, mostly too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What handles ask.
#[derive(Debug)]
pub(super) enum Request {
    Peers {
        done: oneshot::Sender<Vec<PeerStatus>>,
    },
    Reconfigure {
        config: Box<SpeakerConfig>,
        done: oneshot::Sender<Result<ReconfigureReport, SpeakerError>>,
    },
    Act {
        peer: String,
        action: PeerAction,
        done: oneshot::Sender<Result<(), SpeakerError>>,
    },
    Find {
        peer: String,
        done: oneshot::Sender<Result<PeerId, SpeakerError>>,
    },
    Collectors {
        done: oneshot::Sender<Vec<CollectorStatus>>,
    },
    UpdateLog {
        done: oneshot::Sender<Option<UpdateLogStatus>>,
    },
    Bfd {
        done: oneshot::Sender<Vec<BfdStatus>>,
    },
    #[cfg(test)]
    Fault {
        peer: String,
    },
    Shutdown {
        mode: Shutdown,
        done: oneshot::Sender<()>,
    },
}

#[derive(Debug)]
struct Accepted {
    stream: TcpStream,
    from: SocketAddr,
}

#[derive(Debug)]
struct Listener {
    addr: SocketAddr,
    socket: Arc<TcpListener>,
    task: JoinHandle<()>,
    /// The keys it has.
    keys: Vec<(Prefix, Keys)>,
}

#[derive(Debug)]
struct Peer {
    config: Arc<PeerConfig>,
    /// The range a dynamic neighbour came from.
    range: Option<Prefix>,
    commands: mpsc::UnboundedSender<PeerCommand>,
    status: SharedStatus,
    task: JoinHandle<()>,
    /// Counts up when a dynamic neighbour goes idle, so that an older wait for its end does not count.
    idle: u32,
    /// Looks for the neighbour of an unnumbered interface.
    _discovery: Option<AbortOnDrop>,
    /// The address that was found.
    neighbour: Option<IpAddr>,
}

/// A task that ends with its owner.
#[derive(Debug)]
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A dynamic neighbour whose wait is over, and the number of the wait.
type Expired = (PeerId, u32);

/// The senders given to listeners, tasks and waits.
#[derive(Debug)]
struct Own {
    accepted: mpsc::Sender<Accepted>,
    tasks: mpsc::UnboundedSender<FromTask>,
    expired: mpsc::UnboundedSender<Expired>,
}

/// Where what they send arrives.
#[derive(Debug)]
struct Inbox {
    accepted: mpsc::Receiver<Accepted>,
    tasks: mpsc::UnboundedReceiver<FromTask>,
    expired: mpsc::UnboundedReceiver<Expired>,
}

#[derive(Debug)]
pub(super) struct Manager {
    config: Arc<SpeakerConfig>,
    rib: RibSender,
    thread: Option<thread::JoinHandle<()>>,
    peers: BTreeMap<PeerId, Peer>,
    next_id: u32,
    collectors: Vec<Collector>,
    next_collector: u32,
    update_log: UpdateLog,
    listeners: Vec<Listener>,
    own: Own,
    inbox: Inbox,
    events: mpsc::UnboundedSender<SpeakerEvent>,
    host: HostAddresses,
    liveness: Liveness,
    /// None when the kernel does not tell: then hold timers and BFD notice a dead link.
    links: Option<Links>,
    restarting: bool,
}

impl Manager {
    pub(super) fn new(
        config: SpeakerConfig,
        rib: RibSender,
        thread: thread::JoinHandle<()>,
        events: mpsc::UnboundedSender<SpeakerEvent>,
    ) -> Result<Self, SpeakerError> {
        let (accepted, from_listeners) = mpsc::channel(64);
        let (tasks, from_tasks) = mpsc::unbounded_channel();
        let (expired, from_waits) = mpsc::unbounded_channel();
        let mut manager = Self {
            restarting: config.restarting,
            liveness: Liveness::new(config.bfd_state_dir.clone()),
            links: Links::open()
                .inspect_err(|error| tracing::warn!(%error, "links are not watched: only hold timers and BFD notice a dead one"))
                .ok(),
            config: Arc::new(config),
            rib,
            thread: Some(thread),
            peers: BTreeMap::new(),
            next_id: 0,
            collectors: Vec::new(),
            next_collector: 0,
            update_log: UpdateLog::default(),
            listeners: Vec::new(),
            own: Own { accepted, tasks, expired },
            inbox: Inbox { accepted: from_listeners, tasks: from_tasks, expired: from_waits },
            events,
            host: HostAddresses::default(),
        };
        manager.listen()?;
        manager.update_log.configure(manager.config.mrt.as_ref()).map_err(SpeakerError::Thread)?;
        for peer in manager.config.peers.clone() {
            manager.add(peer, None);
        }
        for collector in manager.config.bmp.clone() {
            manager.add_collector(collector);
        }
        Ok(manager)
    }

    pub(super) async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let restart_over = tokio::time::sleep(self.config.graceful_restart.restarting_time());
        tokio::pin!(restart_over);
        let mut again = tokio::time::interval(RETRY);
        let mut pulse = tokio::time::interval(PULSE);
        loop {
            tokio::select! {
                request = requests.recv() => match request {
                    Some(Request::Shutdown { mode, done }) => {
                        self.shutdown(mode).await;
                        // The asker may have gone.
                        let _ = done.send(());
                        return;
                    }
                    Some(request) => self.request(request),
                    // Every handle is gone: nobody wants the speaker any more.
                    None => return self.shutdown(Shutdown::Cease(String::new())).await,
                },
                Some(accepted) = self.inbox.accepted.recv() => self.accept(accepted),
                Some(message) = self.inbox.tasks.recv() => self.task_says(message),
                Some((peer, idle)) = self.inbox.expired.recv() => self.expire(peer, idle),
                changes = link_changes(&mut self.links) => match changes {
                    Ok(changes) => self.links_changed(&changes),
                    Err(error) => {
                        tracing::warn!(%error, "links are no longer watched: only hold timers and BFD notice a dead one");
                        self.links = None;
                    }
                },
                _ = again.tick() => self.watch_again(),
                _ = pulse.tick() => {
                    if self.thread.as_ref().is_some_and(thread::JoinHandle::is_finished) {
                        // Nothing works without it. The neighbours keep our routes until the agent is there again.
                        tracing::error!("the RIB thread has ended by a fault: ending the speaker");
                        return self.shutdown(Shutdown::Restart).await;
                    }
                    self.revive();
                }
                () = &mut restart_over, if self.restarting => {
                    self.restarting = false;
                    for peer in self.peers.values() {
                        peer.tell(PeerCommand::EndRestarting);
                    }
                }
            }
        }
    }

    fn request(&mut self, request: Request) {
        // None of the askers must still be there for the answer.
        match request {
            Request::Peers { done } => self.statuses(done),
            Request::Reconfigure { config, done } => {
                let _ = done.send(self.reconfigure(*config));
            }
            Request::Act { peer, action, done } => {
                let result = match self.find(&peer) {
                    Ok(id) => {
                        self.act(id, action);
                        Ok(())
                    }
                    Err(error) => Err(error),
                };
                let _ = done.send(result);
            }
            Request::Find { peer, done } => {
                let _ = done.send(self.find(&peer));
            }
            Request::Collectors { done } => {
                let _ = done
                    .send(self.collectors.iter().map(|c| collector_status(&c.config, &c.status)).collect());
            }
            Request::UpdateLog { done } => {
                let _ = done.send(self.update_log.status());
            }
            Request::Bfd { done } => {
                let handle = self.liveness.handle();
                tokio::task::spawn_blocking(move || done.send(bfd_sessions(handle.as_ref())));
            }
            #[cfg(test)]
            Request::Fault { peer } => {
                let id = self.find(&peer).expect("the test knows the peer");
                self.peers[&id].tell(PeerCommand::Fault);
            }
            // Taken by `run`.
            Request::Shutdown { .. } => {}
        }
    }

    fn find(&self, name: &str) -> Result<PeerId, SpeakerError> {
        let matches = |peer: &Peer| {
            peer.config.address.to_string() == name || peer.status.read().address.as_deref() == Some(name)
        };
        self.peers
            .iter()
            .find(|(_, peer)| matches(peer))
            .map(|(id, _)| *id)
            .ok_or_else(|| SpeakerError::NoPeer(name.to_owned()))
    }

    fn act(&self, id: PeerId, action: PeerAction) {
        let Some(peer) = self.peers.get(&id) else { return };
        match action {
            PeerAction::Reset => {
                peer.tell(PeerCommand::Stop(Stop::Reset(String::new())));
                // A session that a prefix limit has stopped comes back only so.
                if peer.config.settings.shutdown.is_none() {
                    peer.tell(PeerCommand::Start);
                }
            }
            PeerAction::Disable => peer.tell(PeerCommand::Stop(Stop::Shutdown(String::new()))),
            PeerAction::Enable => peer.tell(PeerCommand::Start),
            PeerAction::RefreshIn => {
                for family in Family::ALL {
                    peer.tell(PeerCommand::RequestRefresh(family));
                }
            }
            PeerAction::RefreshOut => {
                let refresh = move |rib: &mut rib::Rib| {
                    for family in Family::ALL {
                        rib.refresh(id, family, rib::Refresh::Request, std::time::Instant::now());
                    }
                };
                // A RIB that has ended has nothing to send.
                let _ = self.rib.control.send(Control::Query(Box::new(refresh)));
            }
        }
    }

    /// Answers with all peers. The RIB may be busy, so the manager does not wait for it.
    fn statuses(&self, done: oneshot::Sender<Vec<PeerStatus>>) {
        let mut list: Vec<_> = self
            .peers
            .iter()
            .map(|(id, peer)| (*id, peer.config.clone(), peer.range.is_some(), peer.status.clone()))
            .collect();
        list.sort_by(|a, b| (a.2, &a.1.address).cmp(&(b.2, &b.1.address)));
        let asn = self.config.asn.get();
        let (keys, handle) = (self.liveness.keys(), self.liveness.handle());
        let (counted, counts) = oneshot::channel();
        let count = move |rib: &mut rib::Rib| {
            let counts = rib.all_peer_stats().into_iter().map(|(id, stats)| (id, PrefixCounts::of(&stats)));
            // The asker may have gone.
            let _ = counted.send(counts.collect::<HashMap<_, _>>());
        };
        // Without a RIB there are no prefixes.
        let _ = self.rib.control.send(Control::Query(Box::new(count)));
        tokio::spawn(async move {
            let counts = counts.await.unwrap_or_default();
            let bfd = tokio::task::spawn_blocking(move || bfd_sessions(handle.as_ref())).await;
            let bfd = bfd.unwrap_or_default();
            let status = |(id, config, dynamic, status): (PeerId, Arc<PeerConfig>, bool, SharedStatus)| {
                let counts = counts.get(&id).cloned().unwrap_or_default();
                let bfd = keys.get(&id).and_then(|key| state_of(&bfd, key));
                peer_status(id, &config, asn, dynamic, &status.read(), counts, bfd)
            };
            // The asker may have gone.
            let _ = done.send(list.into_iter().map(status).collect());
        });
    }

    fn add(&mut self, config: PeerConfig, range: Option<Prefix>) -> PeerId {
        let id = PeerId(self.next_id);
        self.next_id += 1;
        let config = Arc::new(config);
        let status = SharedStatus::default();
        let (commands, task) = peer::spawn(PeerContext {
            id,
            config: config.clone(),
            speaker: self.config.clone(),
            dynamic: range.is_some(),
            restarting: self.restarting,
            rib: self.rib.clone(),
            manager: self.own.tasks.clone(),
            status: status.clone(),
            host: self.host.clone(),
            update_log: self.update_log.clone(),
        });
        let discovery = match &config.address {
            PeerAddress::Interface(name) => {
                let discover = unnumbered::discover(id, name.clone(), self.own.tasks.clone());
                Some(AbortOnDrop(tokio::spawn(discover)))
            }
            PeerAddress::Ip(_) | PeerAddress::LinkLocal { .. } => None,
        };
        let peer =
            Peer { config, range, commands, status, task, idle: 0, _discovery: discovery, neighbour: None };
        if peer.config.settings.shutdown.is_none() {
            peer.tell(PeerCommand::Start);
        }
        self.peers.insert(id, peer);
        self.watch(id);
        id
    }

    /// Starts peers again whose task has ended by a fault: one neighbour less must not become for ever.
    fn revive(&mut self) {
        let ended: Vec<_> =
            self.peers.iter().filter(|(_, peer)| peer.task.is_finished()).map(|(id, _)| *id).collect();
        for id in ended {
            self.liveness.remove(id);
            let Some(peer) = self.peers.remove(&id) else { continue };
            tracing::error!(peer = %peer.config.address, "the peer's task has ended by a fault: starting it again");
            // A RIB that has ended knows no peers.
            let _ = self.rib.control.send(Control::Removed(id));
            if peer.range.is_none() {
                self.add((*peer.config).clone(), None);
            }
        }
    }

    fn links_changed(&self, changes: &[LinkChange]) {
        let mut addresses = false;
        for change in changes {
            match *change {
                LinkChange::Link { ifindex, up } => {
                    for peer in self.peers.values() {
                        peer.tell(PeerCommand::Link { ifindex, up });
                    }
                }
                LinkChange::Address { ifindex, addr } => addresses |= self.host.changed(ifindex, addr),
            }
        }
        if addresses {
            for peer in self.peers.values() {
                peer.tell(PeerCommand::Addresses);
            }
        }
    }

    /// Tries again where BFD could not be set up, as another daemon may have had the port.
    fn watch_again(&mut self) {
        let without =
            |(id, peer): &(&PeerId, &Peer)| peer.config.settings.bfd.is_some() && !self.liveness.has(**id);
        let list: Vec<_> = self.peers.iter().filter(without).map(|(id, _)| *id).collect();
        for id in list {
            self.watch(id);
        }
    }

    /// Gives a peer its BFD session, if it is to have one.
    fn watch(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        if let Err(error) = self.liveness.set(id, &peer.config, peer.neighbour, &peer.commands) {
            let peer_name = &peer.config.address;
            tracing::error!(peer = %peer_name, %error, "no BFD for this peer");
            let text = format!("BFD: {}", peer::plain(&error));
            peer.status.update(|status| status.last_error = Some((text, Instant::now())));
        }
    }

    fn remove(&mut self, id: PeerId) {
        self.liveness.remove(id);
        if let Some(peer) = self.peers.remove(&id) {
            // The task ends by itself, after it has told the neighbour.
            peer.tell(PeerCommand::Terminate { stop: Stop::Deconfigured, quiet: false });
        }
    }

    /// Listens on what is configured and no longer on what is not; gives listeners their keys.
    fn listen(&mut self) -> Result<(), SpeakerError> {
        let config = self.config.clone();
        self.listeners.retain(|listener| {
            let keep = config.listen.contains(&listener.addr);
            if !keep {
                listener.task.abort();
            }
            keep
        });
        for addr in &config.listen {
            if self.listeners.iter().any(|l| l.addr == *addr) {
                continue;
            }
            let Some(socket) = socket::listen(*addr)? else {
                tracing::info!(%addr, "not listening: the host does not have this family");
                continue;
            };
            let socket = Arc::new(socket);
            let task = tokio::spawn(accept_loop(socket.clone(), self.own.accepted.clone()));
            self.listeners.push(Listener { addr: *addr, socket, task, keys: Vec::new() });
        }
        for listener in &mut self.listeners {
            let options = socket::set_listener_ttl(&listener.socket, &config)
                .and_then(|()| auth::set_listener_keys(&listener.socket, &config, &listener.keys));
            let failed = |source| SpeakerError::Options { addr: listener.addr, source };
            listener.keys = options.map_err(failed)?;
        }
        Ok(())
    }

    /// Gives a connection to its peer.
    fn accept(&mut self, accepted: Accepted) {
        let Accepted { stream, from } = accepted;
        let from = canonical(from);
        let local = stream.local_addr().ok().map(canonical);
        let id = self.configured_peer(from, local).or_else(|| self.dynamic_peer(from));
        if let Some(peer) = id.and_then(|id| self.peers.get(&id)) {
            peer.tell(PeerCommand::Accept(stream));
        } else {
            tracing::debug!(%from, "connection refused: no such peer");
        }
    }

    fn configured_peer(&self, from: SocketAddr, local: Option<SocketAddr>) -> Option<PeerId> {
        let here = |peer: &Peer| match &peer.config.address {
            PeerAddress::Ip(addr) => *addr == from.ip(),
            PeerAddress::LinkLocal { addr, interface } => {
                IpAddr::V6(*addr) == from.ip() && on(interface, from)
            }
            PeerAddress::Interface(name) => scope(from) != 0 && on(name, from),
        };
        let local_fits = |peer: &Peer| {
            peer.config.settings.local_address.is_none_or(|wanted| local.is_none_or(|l| l.ip() == wanted))
        };
        self.peers.iter().find(|(_, peer)| here(peer) && local_fits(peer)).map(|(id, _)| *id)
    }

    /// A new peer for an address of a listen range, if the range is not full.
    fn dynamic_peer(&mut self, from: SocketAddr) -> Option<PeerId> {
        let fits = |range: &&ListenRange| range.prefix.contains_addr(from.ip());
        let range = self.config.listen_ranges.iter().filter(fits).max_by_key(|r| r.prefix.len())?.clone();
        // A listed peer that refuses the connection for its own reasons is not let in as somebody else.
        if self.peers.values().any(|p| matches!(&p.config.address, PeerAddress::Ip(a) if *a == from.ip())) {
            return None;
        }
        let members = self.peers.values().filter(|p| p.range == Some(range.prefix)).count();
        if members >= usize::try_from(range.limit).unwrap_or(usize::MAX) {
            tracing::warn!(%from, range = %range.prefix, limit = range.limit, "connection refused: the range is full");
            return None;
        }
        let address = PeerAddress::Ip(from.ip());
        let config = PeerConfig { address, port: SpeakerConfig::PORT, settings: range.settings };
        tracing::info!(%from, range = %range.prefix, "new neighbour from a range");
        Some(self.add(config, Some(range.prefix)))
    }

    fn task_says(&mut self, message: FromTask) {
        match message {
            FromTask::Event(event) => {
                // Nobody may be listening.
                let _ = self.events.send(event);
            }
            FromTask::Neighbour { peer: id, address } => {
                let Some(peer) = self.peers.get_mut(&id) else { return };
                peer.neighbour = Some(address.ip());
                peer.tell(PeerCommand::Neighbour(address));
                self.watch(id);
            }
            FromTask::Idle { peer: id, keep } => {
                let Some(peer) = self.peers.get_mut(&id) else { return };
                peer.idle += 1;
                let (idle, expired) = (peer.idle, self.own.expired.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(keep).await;
                    // The manager may have ended meanwhile.
                    let _ = expired.send((id, idle));
                });
            }
        }
    }

    /// The time of an idle dynamic neighbour is over.
    fn expire(&mut self, id: PeerId, idle: u32) {
        let gone = self.peers.get(&id).is_some_and(|peer| {
            peer.range.is_some() && peer.idle == idle && peer.status.read().state < State::OpenSent
        });
        if gone {
            self.remove(id);
        }
    }

    fn reconfigure(&mut self, new: SpeakerConfig) -> Result<ReconfigureReport, SpeakerError> {
        let old = self.config.clone();
        let mut report = ReconfigureReport { speaker: change::of_speaker(&old, &new), ..Default::default() };
        self.config = Arc::new(new);
        if let Err(error) = self.listen() {
            // Nothing else has changed yet.
            self.config = old;
            let _ = self.listen();
            return Err(error);
        }
        let new = self.config.clone();
        // A RIB that has ended needs no configuration.
        let rib = params::rib_config(&new, &self.host, false);
        let _ = self.rib.control.send(Control::Reconfigure(Box::new(rib)));
        self.originate_configured(&old.originate);
        self.reconfigure_collectors(&old, &mut report);
        report.update_log = old.mrt != new.mrt;
        if let Err(error) = self.update_log.configure(new.mrt.as_ref()) {
            tracing::error!(%error, "cannot start the log of updates");
        }
        let ids: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in ids {
            self.reconfigure_peer(id, &old, &mut report);
        }
        for config in &new.peers {
            let known = |peer: &Peer| peer.range.is_none() && peer.config.address == config.address;
            if !self.peers.values().any(known) {
                report.added.push(config.address.to_string());
                // A neighbour that was dynamic is now listed.
                let dynamic =
                    self.peers.iter().find(|(_, p)| p.config.address == config.address).map(|(id, _)| *id);
                if let Some(id) = dynamic {
                    self.remove(id);
                }
                self.add(config.clone(), None);
            }
        }
        Ok(report)
    }

    fn reconfigure_peer(&mut self, id: PeerId, old: &SpeakerConfig, report: &mut ReconfigureReport) {
        let new = self.config.clone();
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let name = peer.config.address.to_string();
        let config = match peer.range {
            None => new.peers.iter().find(|p| p.address == peer.config.address).cloned(),
            Some(prefix) => new
                .listen_ranges
                .iter()
                .find(|range| range.prefix == prefix)
                .map(|range| PeerConfig { settings: range.settings.clone(), ..(*peer.config).clone() }),
        };
        let Some(config) = config else {
            report.removed.push(name);
            return self.remove(id);
        };
        let mut change = change::of_peer(
            (old, &peer.config.settings),
            (&new, &config.settings),
            peer.status.read().negotiated.as_deref(),
        );
        if peer.config.port != config.port {
            change.live.push("port");
        }
        let was_shut = peer.config.settings.shutdown.clone();
        let is_shut = config.settings.shutdown.clone();
        // What the session takes from the speaker may differ as well.
        peer.config = Arc::new(config);
        let reset = (!change.reset.is_empty()).then_some(Stop::ConfigChange);
        let (config, speaker) = (peer.config.clone(), new);
        peer.tell(PeerCommand::Configure { config, speaker, reset });
        match (was_shut, is_shut) {
            (None, Some(text)) => peer.tell(PeerCommand::Stop(Stop::Shutdown(text))),
            (Some(_), None) => peer.tell(PeerCommand::Start),
            _ => {}
        }
        self.watch(id);
        if !change.reset.is_empty() {
            report.reset.push((name.clone(), change.reset));
        }
        if !change.live.is_empty() {
            report.changed.push((name, change.live));
        }
    }

    /// Originates the configured prefixes, and no longer those that were.
    fn originate_configured(&self, before: &[Prefix]) {
        let now = &self.config.originate;
        let gone = before.iter().filter(|p| !now.contains(p)).copied().collect();
        let fresh =
            now.iter().filter(|p| !before.contains(p)).map(|p| (*p, rib::LocalRoute::default())).collect();
        let wait = Duration::ZERO;
        // Nobody waits for the answers, and a RIB that has ended originates nothing.
        let done = oneshot::channel().0;
        let _ = self.rib.control.send(Control::Withdraw { prefixes: gone, wait, done });
        let done = oneshot::channel().0;
        let _ = self.rib.control.send(Control::Originate { routes: fresh, wait, done });
    }

    async fn shutdown(mut self, mode: Shutdown) {
        for listener in self.listeners.drain(..) {
            listener.task.abort();
        }
        let stop = match mode {
            Shutdown::Cease(text) => Stop::Shutdown(text),
            Shutdown::Restart => Stop::PlannedRestart,
        };
        let bfd = match stop {
            Stop::PlannedRestart if self.config.graceful_restart.enabled => {
                bfd::driver::Shutdown::Restart(self.config.graceful_restart.restart_time)
            }
            Stop::PlannedRestart => bfd::driver::Shutdown::Keep,
            _ => bfd::driver::Shutdown::AdminDown,
        };
        let mut tasks = Vec::new();
        for (_, peer) in std::mem::take(&mut self.peers) {
            peer.tell(PeerCommand::Terminate { stop: stop.clone(), quiet: true });
            tasks.push(peer.task);
        }
        for collector in std::mem::take(&mut self.collectors) {
            // A task that has ended needs no command.
            let _ = collector.commands.send(CollectorCommand::Stop("the speaker ends"));
            tasks.push(collector.task);
        }
        let all = async {
            for task in tasks {
                // A task that panicked has ended too.
                let _ = task.await;
            }
        };
        if tokio::time::timeout(SHUTDOWN, all).await.is_err() {
            tracing::warn!("some peers could not be told of the shutdown in time");
        }
        // Writes what waits.
        if let Err(error) = self.update_log.configure(None) {
            tracing::error!(%error, "cannot end the log of updates");
        }
        // After the sessions, so that none goes down by it.
        let mut liveness = self.liveness;
        if let Err(error) = tokio::task::spawn_blocking(move || liveness.shutdown(bfd)).await {
            tracing::error!(%error, "BFD did not end in order");
        }
        // The thread ends when the senders of the tasks and of this manager are gone; handles may keep them longer.
        drop(self.thread.take());
    }
}

impl Peer {
    fn tell(&self, command: PeerCommand) {
        // A task that has ended, by a panic, is past being told.
        let _ = self.commands.send(command);
    }
}

/// Blocks for microseconds.
fn bfd_sessions(handle: Option<&BfdHandle>) -> Vec<BfdStatus> {
    handle.and_then(|handle| handle.status().ok()).unwrap_or_default()
}

fn on(interface: &str, from: SocketAddr) -> bool {
    ifindex(interface).is_ok_and(|index| index == scope(from))
}

/// The next changes of links; never, when they are not watched.
async fn link_changes(links: &mut Option<Links>) -> Result<Vec<LinkChange>, netlink::Error> {
    match links {
        Some(links) => links.next().await,
        None => std::future::pending().await,
    }
}

async fn accept_loop(socket: Arc<TcpListener>, accepted: mpsc::Sender<Accepted>) {
    loop {
        match socket.accept().await {
            Ok((stream, from)) => {
                if accepted.send(Accepted { stream, from }).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a BGP connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
