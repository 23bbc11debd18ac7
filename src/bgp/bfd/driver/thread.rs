//! The loop: receive, obey, time out, send; then sleep until the next of these is due.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{BuildHasher, RandomState},
    io,
    os::fd::AsRawFd,
    sync::mpsc::{Receiver, TryRecvError},
    time::{Duration, Instant},
};

use mio::{Interest, Token, unix::SourceFd};
use socket2::Socket;

use super::{
    BfdEvent, BfdStatus, Command, DriverConfig, SessionKey, SessionParams, Shutdown,
    sockets::{self, Sender},
    store::{Saved, Store},
};
use crate::{
    bgp::bfd::{ControlPacket, PACKET_LEN, Session},
    model::Family,
    netlink::sockopt::{self, Packet},
};

/// The token of commands; listening sockets have theirs from 0 on.
pub(super) const WAKER: Token = Token(usize::MAX);
/// The real-time priority that is asked for: above ordinary work, below what the kernel's own threads use.
const REALTIME_PRIORITY: u8 = 10;
/// Packets taken from one socket before timers are looked at again.
const BATCH: usize = 1024;
/// How long a session waits before it tries again to get a socket.
const RETRY: Duration = Duration::from_secs(1);
/// How often a neighbour is asked for patience before a restart.
const COPIES: usize = 3;

/// A listening socket and what it is for.
#[derive(Debug)]
struct Listener {
    family: Family,
    multihop: bool,
    socket: Socket,
}

/// A session with its socket.
#[derive(Debug)]
struct Entry {
    key: SessionKey,
    min_ttl: u8,
    session: Session,
    sender: Option<Sender>,
    /// The source port to have again.
    source_port: u16,
    ifindex: u32,
    send_error: Option<String>,
    /// When to try for a socket again.
    retry: Option<Instant>,
    /// When to forget a session that was removed.
    leaving: Option<Instant>,
    /// Its place in the timers.
    timer: Option<Instant>,
}

/// All that the thread owns.
pub(super) struct Driver {
    config: DriverConfig,
    poll: mio::Poll,
    commands: Receiver<Command>,
    sink: Box<dyn FnMut(BfdEvent) + Send>,
    listeners: Vec<Listener>,
    /// By our discriminator.
    sessions: HashMap<u32, Entry>,
    by_key: BTreeMap<SessionKey, u32>,
    timers: BTreeSet<(Instant, u32)>,
    store: Option<Store>,
    /// Sessions have changed in a way that a restart must know.
    dirty: bool,
    random: RandomState,
    draws: u64,
}

impl Driver {
    pub(super) fn new(
        config: DriverConfig,
        poll: mio::Poll,
        commands: Receiver<Command>,
        sink: Box<dyn FnMut(BfdEvent) + Send>,
    ) -> Self {
        Self {
            config,
            poll,
            commands,
            sink,
            listeners: Vec::new(),
            sessions: HashMap::new(),
            by_key: BTreeMap::new(),
            timers: BTreeSet::new(),
            store: None,
            dirty: true,
            random: RandomState::new(),
            draws: 0,
        }
    }

    pub(super) fn run(mut self) {
        if self.config.realtime
            && let Err(error) = sockopt::set_thread_realtime(REALTIME_PRIORITY)
        {
            tracing::debug!(%error, "BFD runs without real-time priority");
        }
        if let Some(dir) = &self.config.state_dir {
            match Store::open(dir) {
                Ok(store) => self.store = Some(store),
                Err(error) => {
                    tracing::warn!(dir = %dir.display(), %error, "BFD sessions will not survive a restart");
                }
            }
        }
        let mut events = mio::Events::with_capacity(16);
        let mut more = false;
        loop {
            let next = self.timers.first().map(|(at, _)| at.saturating_duration_since(Instant::now()));
            let timeout = if more { Some(Duration::ZERO) } else { next };
            if let Err(error) = self.poll.poll(&mut events, timeout)
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "BFD cannot wait for packets");
                return;
            }
            // Whatever woke us, packets come first: a silence is judged only when what has arrived is heard.
            more = self.receive();
            if let Some(how) = self.obey() {
                return self.end(how);
            }
            self.expire();
            self.keep();
        }
    }

    /// Takes in what has arrived; true when some may be left.
    fn receive(&mut self) -> bool {
        let mut buffer = [0; 128];
        let mut more = false;
        for i in 0..self.listeners.len() {
            for n in 0..=BATCH {
                if n == BATCH {
                    more = true;
                    break;
                }
                let Some(listener) = self.listeners.get(i) else { break };
                match sockopt::recv_packet(&listener.socket, &mut buffer) {
                    Ok(packet) => {
                        let multihop = listener.multihop;
                        let bytes = buffer.get(..packet.len).unwrap_or_default();
                        if let Ok(control) = ControlPacket::decode(bytes) {
                            self.packet(&packet, multihop, &control);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // Errors of single datagrams; the socket itself stays good.
                    Err(error) => {
                        tracing::debug!(%error, "a BFD packet could not be received");
                        break;
                    }
                }
            }
        }
        more
    }

    /// Finds the session of a packet (RFC 5880 section 6.8.6) and hands it over.
    fn packet(&mut self, packet: &Packet, multihop: bool, control: &ControlPacket) {
        let id = if control.your_discriminator == 0 {
            self.by_address(packet, multihop)
        } else {
            Some(control.your_discriminator)
        };
        let Some((id, entry)) = id.and_then(|id| Some((id, self.sessions.get_mut(&id)?))) else { return };
        // RFC 5881 section 5: 255, or it has come through a router. Multihop: as configured.
        let least = if multihop { entry.min_ttl } else { 255 };
        if !entry.matches(packet, multihop) || packet.ttl.unwrap_or(0) < least {
            return;
        }
        let now = Instant::now();
        let was = entry.session.save();
        entry.session.handle_packet(control, now);
        self.dirty |= entry.session.save() != was;
        self.act(id, now);
    }

    fn by_address(&self, packet: &Packet, multihop: bool) -> Option<u32> {
        let peer = packet.from.ip();
        // Keys of one peer lie next to each other.
        let from = SessionKey { peer, local: None, interface: None, multihop: false };
        let candidates = self.by_key.range(from..).take_while(|(key, _)| key.peer == peer);
        candidates
            .map(|(_, id)| *id)
            .find(|id| self.sessions.get(id).is_some_and(|entry| entry.matches(packet, multihop)))
    }

    /// Does the commands that wait.
    fn obey(&mut self) -> Option<Shutdown> {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Set { key, params, done }) => {
                    // Who does not wait for the answer does not need it.
                    let _ = done.send(self.set(key, params));
                }
                Ok(Command::Remove { key }) => self.remove(&key),
                Ok(Command::AdminDown { key, down }) => {
                    if let Some(&id) = self.by_key.get(&key)
                        && let Some(entry) = self.sessions.get_mut(&id)
                    {
                        entry.session.set_admin_down(down);
                        self.dirty = true;
                        self.act(id, Instant::now());
                    }
                }
                Ok(Command::Status { done }) => {
                    let _ = done.send(self.status());
                }
                Ok(Command::Shutdown { how }) => return Some(how),
                Err(TryRecvError::Empty) => return None,
                Err(TryRecvError::Disconnected) => return Some(Shutdown::Keep),
            }
        }
    }

    fn set(&mut self, key: SessionKey, params: SessionParams) -> io::Result<()> {
        let now = Instant::now();
        if let Some(&id) = self.by_key.get(&key)
            && let Some(entry) = self.sessions.get_mut(&id)
        {
            entry.min_ttl = params.min_ttl;
            entry.session.set_config(params.session, now);
            if entry.leaving.take().is_some() {
                entry.session.set_admin_down(false);
            }
            self.dirty = true;
            self.act(id, now);
            return Ok(());
        }
        self.listen(Family::of(key.peer), key.multihop)?;
        let saved = self.store.as_mut().and_then(|store| store.take(&key));
        let saved = saved.filter(|s| !self.sessions.contains_key(&s.session.local_discriminator));
        let seed = self.draw();
        let (session, source_port) = match &saved {
            Some(saved) => (Session::resume(params.session, &saved.session, seed, now), saved.source_port),
            None => (Session::new(params.session, self.fresh_discriminator(), seed, now), seed as u16),
        };
        let id = session.local_discriminator();
        let entry = Entry {
            key: key.clone(),
            min_ttl: params.min_ttl,
            session,
            sender: None,
            source_port,
            ifindex: sockets::interface_index(&key),
            send_error: None,
            retry: None,
            leaving: None,
            timer: None,
        };
        self.sessions.insert(id, entry);
        self.by_key.insert(key, id);
        self.dirty = true;
        self.act(id, now);
        Ok(())
    }

    fn listen(&mut self, family: Family, multihop: bool) -> io::Result<()> {
        if self.listeners.iter().any(|l| l.family == family && l.multihop == multihop) {
            return Ok(());
        }
        let socket = sockets::listen(family, self.port(multihop))?;
        let token = Token(self.listeners.len());
        self.poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE)?;
        self.listeners.push(Listener { family, multihop, socket });
        Ok(())
    }

    const fn port(&self, multihop: bool) -> u16 {
        if multihop { self.config.multihop_port } else { self.config.single_hop_port }
    }

    fn draw(&mut self) -> u64 {
        self.draws += 1;
        self.random.hash_one(self.draws)
    }

    fn fresh_discriminator(&mut self) -> u32 {
        loop {
            let id = self.draw() as u32;
            if id != 0 && !self.sessions.contains_key(&id) {
                return id;
            }
        }
    }

    /// RFC 5880 section 6.8.16: the neighbour is told for as long as it would take to notice our silence.
    fn remove(&mut self, key: &SessionKey) {
        let now = Instant::now();
        if let Some(&id) = self.by_key.get(key)
            && let Some(entry) = self.sessions.get_mut(&id)
        {
            let patience = entry.session.patience();
            entry.session.set_admin_down(true);
            entry.leaving = Some(now + patience);
            self.dirty = true;
            self.act(id, now);
        }
    }

    fn status(&self) -> Vec<BfdStatus> {
        let entries = self.by_key.values().filter_map(|id| self.sessions.get(id));
        entries
            .filter(|entry| entry.leaving.is_none())
            .map(|entry| BfdStatus {
                key: entry.key.clone(),
                status: entry.session.status(),
                source_port: entry.sender.as_ref().map_or(0, Sender::port),
                send_error: entry.send_error.clone(),
            })
            .collect()
    }

    /// Does what is due.
    fn expire(&mut self) {
        let now = Instant::now();
        while let Some(&(at, id)) = self.timers.first() {
            if at > now {
                return;
            }
            self.timers.pop_first();
            let Some(entry) = self.sessions.get_mut(&id) else { continue };
            entry.timer = None;
            if entry.leaving.is_some_and(|end| end <= now) {
                self.by_key.remove(&entry.key);
                self.sessions.remove(&id);
                continue;
            }
            let was = entry.session.save();
            entry.session.handle_timeout(now);
            self.dirty |= entry.session.save() != was;
            self.act(id, now);
        }
    }

    /// Sends what a session has to send, tells what it has to tell, and sets its timer.
    fn act(&mut self, id: u32, now: Instant) {
        let port = self.config.single_hop_port;
        let multihop_port = self.config.multihop_port;
        let Some(entry) = self.sessions.get_mut(&id) else { return };
        let port = if entry.key.multihop { multihop_port } else { port };
        while let Some(packet) = entry.session.poll_transmit(now) {
            entry.send(&packet.encode(), port, now);
        }
        while let Some(event) = entry.session.poll_event() {
            if entry.leaving.is_none() {
                (self.sink)(BfdEvent { key: entry.key.clone(), event });
            }
        }
        let next = [entry.session.poll_timeout(now), entry.leaving].into_iter().flatten().min();
        if entry.timer != next {
            if let Some(at) = entry.timer.take() {
                self.timers.remove(&(at, id));
            }
            self.timers.extend(next.map(|at| (at, id)));
            entry.timer = next;
        }
    }

    /// Keeps on disk what a restart needs.
    fn keep(&mut self) {
        let Some(store) = &mut self.store else { return };
        let mut failed = store.stamp(Instant::now()).err();
        if std::mem::take(&mut self.dirty) {
            let kept = self.by_key.values().filter_map(|id| self.sessions.get(id)?.saved()).collect();
            failed = failed.or(store.save(kept).err());
        }
        if let Some(error) = failed {
            tracing::warn!(%error, "BFD sessions will not survive a restart");
            self.store = None;
        }
    }

    fn end(&mut self, how: Shutdown) {
        match how {
            Shutdown::Keep => {
                self.dirty = true;
                self.keep();
            }
            Shutdown::Restart(time) => {
                let ids: Vec<u32> = self.sessions.keys().copied().collect();
                for id in ids {
                    // Each packet may get lost.
                    for _ in 0..COPIES {
                        let asks = |entry: &mut Entry| entry.session.ask_for_patience(time);
                        if self.sessions.get_mut(&id).is_some_and(asks) {
                            self.act(id, Instant::now());
                        }
                    }
                }
                self.dirty = true;
                self.keep();
            }
            Shutdown::AdminDown => {
                let now = Instant::now();
                let ids: Vec<u32> = self.sessions.keys().copied().collect();
                for id in ids {
                    if let Some(entry) = self.sessions.get_mut(&id) {
                        entry.session.set_admin_down(true);
                    }
                    self.act(id, now);
                }
                if let Some(Err(error)) = self.store.as_mut().map(Store::clear) {
                    tracing::warn!(%error, "old BFD sessions could not be forgotten");
                }
            }
        }
    }
}

impl Entry {
    /// Whether a packet from and to these addresses can be this session's.
    fn matches(&self, packet: &Packet, multihop: bool) -> bool {
        self.key.multihop == multihop
            && self.key.peer == packet.from.ip()
            && (self.key.interface.is_none() || self.ifindex == packet.ifindex)
            && (self.key.local.is_none() || packet.local.is_none() || self.key.local == packet.local)
    }

    fn saved(&self) -> Option<Saved> {
        if self.leaving.is_some() {
            return None;
        }
        let session = self.session.save()?;
        Some(Saved { key: self.key.clone(), source_port: self.source_port, session })
    }

    fn send(&mut self, packet: &[u8; PACKET_LEN], port: u16, now: Instant) {
        if self.sender.is_none() && self.retry.is_none_or(|at| at <= now) {
            // The interface may have come back under another index.
            self.ifindex = sockets::interface_index(&self.key);
            self.retry = Some(now + RETRY);
            match Sender::open(&self.key, port, self.source_port) {
                Ok(sender) => {
                    self.source_port = sender.port();
                    self.sender = Some(sender);
                }
                Err(error) => self.send_error = Some(error.to_string()),
            }
        }
        let Some(sender) = &self.sender else { return };
        match sender.send(packet) {
            Ok(()) => self.send_error = None,
            // A full queue is no reason for a new socket.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                self.send_error = Some(error.to_string());
                // The device is gone or another: start over, at most once a second.
                if self.retry.is_none_or(|at| at <= now) {
                    self.sender = None;
                }
            }
        }
    }
}
