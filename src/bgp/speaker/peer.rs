//! The task of one neighbour: it owns the sockets and drives the [`Session`].
//!
//! Nothing in its loop waits for the RIB: what the RIB shall know queues here, and while that queue is long the socket
//! is not read, but KEEPALIVEs go out.

use std::{
    collections::VecDeque,
    future::{Future, pending, poll_fn},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    sync::Arc,
    task::Poll,
    time::{Duration, Instant, SystemTime},
};

use bytes::BytesMut;
use tokio::{
    net::TcpStream,
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};

use super::{
    SpeakerEvent,
    monitor::WatchedSession,
    outbox::Outbox,
    params::{HostAddresses, peer_params},
    rib_thread::{Control, FromPeer, News, Received, RibSender},
    socket::{self, canonical},
    status::SharedStatus,
    update_log::UpdateLog,
    wire_out::WireOut,
};
use crate::{
    bgp::{
        PeerId,
        config::{PeerAddress, PeerConfig, RemoteAs, SpeakerConfig},
        mrt,
        rib::{self, DownReason},
        session::{
            ConnId, Event, Failure, Input, Negotiated, Opens, Refresh, Session, SessionConfig, State, Stop,
        },
        wire::{Action, Update, code},
    },
    model::Family,
    netlink::ns::ifindex,
};

/// Bytes read at once.
const READ: usize = 64 << 10;
/// Reads in a row before anything else is looked at.
const READS: usize = 4;
/// Commands for the RIB that may wait here before reading stops.
const BEHIND: usize = 4;
/// How long a closed connection may take to deliver what was written last.
const LINGER: Duration = Duration::from_secs(2);

/// Cease/Connection Collision Resolution.
const COLLISION: (u8, u8) = (code::error::CEASE, code::cease::COLLISION);

/// What others tell a peer's task.
#[derive(Debug)]
pub(super) enum PeerCommand {
    /// The neighbour has connected.
    Accept(TcpStream),
    Start,
    Stop(Stop),
    /// Another configuration, and how the session must end for it, if it must.
    Configure {
        config: Arc<PeerConfig>,
        speaker: Arc<SpeakerConfig>,
        reset: Option<Stop>,
    },
    /// Ask the neighbour for its routes.
    RequestRefresh(Family),
    /// The RIB counted too many.
    MaxPrefixes {
        family: Family,
        limit: u32,
    },
    BfdUp,
    BfdDown {
        forwarding_lost: bool,
    },
    /// The time of restarting is over.
    EndRestarting,
    /// The neighbour on an unnumbered interface.
    Neighbour(SocketAddr),
    /// What a defect would do.
    #[cfg(test)]
    Fault,
    /// End the session and the task. `quiet`: the RIB shall not notice, as the process ends.
    Terminate {
        stop: Stop,
        quiet: bool,
    },
}

/// What a peer's task tells the manager.
#[derive(Debug)]
pub(super) enum FromTask {
    /// For whoever listens to the speaker.
    Event(SpeakerEvent),
    /// The neighbour on an unnumbered interface.
    Neighbour { peer: PeerId, address: SocketAddr },
    /// A dynamic neighbour has no connection any more; its routes stay for so long.
    Idle { peer: PeerId, keep: Duration },
}

/// What a task starts with.
pub(super) struct PeerContext {
    pub(super) id: PeerId,
    pub(super) config: Arc<PeerConfig>,
    pub(super) speaker: Arc<SpeakerConfig>,
    pub(super) dynamic: bool,
    pub(super) restarting: bool,
    pub(super) rib: RibSender,
    pub(super) manager: mpsc::UnboundedSender<FromTask>,
    pub(super) status: SharedStatus,
    pub(super) host: HostAddresses,
    pub(super) update_log: UpdateLog,
}

struct Connection {
    id: ConnId,
    stream: TcpStream,
    out: WireOut,
    /// The socket took no more; wait until it is writable.
    blocked: bool,
}

struct Established {
    conn: ConnId,
    negotiated: Arc<Negotiated>,
    local: SocketAddr,
    peer: SocketAddr,
    outbox: Arc<Outbox>,
}

struct PeerTask {
    context: PeerContext,
    session: Session,
    commands: mpsc::UnboundedReceiver<PeerCommand>,
    own: mpsc::UnboundedSender<PeerCommand>,
    connections: Vec<Connection>,
    dial: Option<(ConnId, JoinHandle<io::Result<TcpStream>>)>,
    closing: JoinSet<()>,
    established: Option<Established>,
    /// Counts the sessions of this peer.
    sessions: u32,
    to_rib: VecDeque<FromPeer>,
    neighbour: Option<SocketAddr>,
    paused: bool,
    ending: bool,
    quiet: bool,
    buffer: BytesMut,
    /// The state that the log knows.
    logged: State,
}

/// Starts a peer's task.
pub(super) fn spawn(context: PeerContext) -> (mpsc::UnboundedSender<PeerCommand>, JoinHandle<()>) {
    let (own, commands) = mpsc::unbounded_channel();
    let mut config = SessionConfig::new(&context.speaker, &context.config.settings);
    config.passive |= context.dynamic;
    // Different on every start, and different for every peer: sessions of a rebooted rack must not move in step.
    let seed =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
            ^ u64::from(context.id.0) << 48
            ^ u64::from(std::process::id()) << 32;
    let session = Session::new(config, context.restarting, seed);
    let task = PeerTask {
        session,
        commands,
        own: own.clone(),
        connections: Vec::new(),
        dial: None,
        closing: JoinSet::new(),
        established: None,
        sessions: 0,
        to_rib: VecDeque::new(),
        neighbour: None,
        paused: false,
        ending: false,
        quiet: false,
        buffer: BytesMut::new(),
        logged: State::Idle,
        context,
    };
    (own, tokio::spawn(task.run()))
}

enum Ready {
    Read(usize),
    Write(usize),
}

enum Wake {
    Command(Option<PeerCommand>),
    Timer,
    Dialed(io::Result<TcpStream>),
    Rib(Option<mpsc::OwnedPermit<FromPeer>>),
    Output,
    Socket(Ready),
}

impl PeerTask {
    async fn run(mut self) {
        loop {
            self.settle();
            if self.ending && self.connections.is_empty() && (self.quiet || self.to_rib.is_empty()) {
                break;
            }
            match self.wake().await {
                Wake::Command(Some(command)) => self.command(command),
                // The manager never drops its sender before `Terminate`.
                Wake::Command(None) => {
                    self.command(PeerCommand::Terminate { stop: Stop::Deconfigured, quiet: false });
                }
                Wake::Timer => self.timeout(),
                Wake::Dialed(result) => self.dialed(result),
                Wake::Rib(Some(permit)) => {
                    if let Some(message) = self.to_rib.pop_front() {
                        permit.send(message);
                    }
                }
                Wake::Rib(None) => self.to_rib.clear(),
                Wake::Output => {}
                Wake::Socket(Ready::Read(index)) => self.read(index),
                Wake::Socket(Ready::Write(index)) => {
                    if let Some(connection) = self.connections.get_mut(index) {
                        connection.blocked = false;
                    }
                }
            }
        }
        while self.closing.join_next().await.is_some() {}
    }

    /// Waits for the next thing to do.
    async fn wake(&mut self) -> Wake {
        let deadline = self.session.poll_timeout();
        let timer = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => pending().await,
            }
        };
        let dial = self.dial.as_mut();
        let dialed = async {
            match dial {
                Some((_, handle)) => match handle.await {
                    Ok(result) => result,
                    Err(error) => Err(io::Error::other(error)),
                },
                None => pending().await,
            }
        };
        let outbox = self.established.as_ref().map(|e| e.outbox.clone());
        let output = async {
            match outbox {
                Some(outbox) => outbox.filled().await,
                None => pending().await,
            }
        };
        let to_rib = !self.to_rib.is_empty();
        let permit = self.context.rib.peers.clone().reserve_owned();
        let connections = &self.connections;
        let reading = !self.paused;
        tokio::select! {
            biased;
            command = self.commands.recv() => Wake::Command(command),
            () = timer => Wake::Timer,
            result = dialed => Wake::Dialed(result),
            permit = permit, if to_rib => Wake::Rib(permit.ok()),
            ready = socket_ready(connections, reading) => Wake::Socket(ready),
            () = output => Wake::Output,
        }
    }

    fn command(&mut self, command: PeerCommand) {
        let now = Instant::now();
        match command {
            PeerCommand::Accept(stream) => self.accept(stream),
            PeerCommand::Start => self.session.handle_input(now, Input::Start),
            PeerCommand::Stop(stop) => self.session.handle_input(now, Input::Stop(stop)),
            PeerCommand::Configure { config, speaker, reset } => self.configure(config, speaker, reset),
            PeerCommand::RequestRefresh(family) => {
                self.session.handle_input(now, Input::RequestRefresh(family));
            }
            PeerCommand::MaxPrefixes { family, limit } => {
                let restart = self.context.config.settings.max_prefixes.and_then(|max| max.restart);
                self.session.handle_input(now, Input::Stop(Stop::MaxPrefixes { family, limit, restart }));
            }
            PeerCommand::BfdUp => self.session.handle_input(now, Input::BfdUp),
            PeerCommand::BfdDown { forwarding_lost } => {
                self.session.handle_input(now, Input::Stop(Stop::BfdDown { forwarding_lost }));
            }
            PeerCommand::EndRestarting => self.session.end_restarting(),
            PeerCommand::Neighbour(address) => {
                self.neighbour = Some(address);
                // A wait that was for nothing but the address ends.
                if self.session.state() < State::OpenSent {
                    self.session.handle_input(now, Input::RetryNow);
                }
            }
            #[cfg(test)]
            PeerCommand::Fault => panic!("as the test wants it"),
            PeerCommand::Terminate { stop, quiet } => {
                self.quiet = quiet;
                self.ending = true;
                self.session.handle_input(now, Input::Stop(stop));
                self.settle();
                self.tell_rib(News::Removed);
            }
        }
    }

    fn configure(&mut self, config: Arc<PeerConfig>, speaker: Arc<SpeakerConfig>, reset: Option<Stop>) {
        let mut session = SessionConfig::new(&speaker, &config.settings);
        session.passive |= self.context.dynamic;
        self.context.config = config;
        self.context.speaker = speaker;
        self.session.set_config(Instant::now(), session);
        match (reset, &self.established) {
            (Some(stop), _) => self.session.handle_input(Instant::now(), Input::Stop(stop)),
            (None, Some(established)) => {
                let params = Box::new(self.params(established));
                self.tell_rib(News::Changed(params));
            }
            (None, None) => {}
        }
    }

    fn params(&self, established: &Established) -> rib::PeerParams {
        peer_params(
            &self.context.config.settings,
            &self.context.speaker,
            &established.negotiated,
            established.local,
            established.peer,
            &self.context.host,
        )
    }

    fn accept(&mut self, stream: TcpStream) {
        let settings = &self.context.config.settings;
        let usable = socket::adopt(&stream, self.context.speaker.asn, settings);
        if let Err(error) = usable {
            tracing::warn!(peer = %self.context.config.address, %error, "cannot use an accepted connection");
            return;
        }
        if let Some(id) = self.session.accept(Instant::now()) {
            self.connections.push(Connection { id, stream, out: WireOut::default(), blocked: false });
        } else {
            tracing::debug!(peer = %self.context.config.address, "connection refused: the session is idle");
        }
    }

    fn dialed(&mut self, result: io::Result<TcpStream>) {
        let Some((id, _)) = self.dial.take() else { return };
        let input = match result {
            Ok(stream) => {
                self.connections.push(Connection { id, stream, out: WireOut::default(), blocked: false });
                Input::Connected(id)
            }
            Err(error) => Input::DialFailed(id, plain(&error)),
        };
        self.session.handle_input(Instant::now(), input);
    }

    /// Where to dial.
    fn target(&self) -> io::Result<SocketAddr> {
        let port = self.context.config.port;
        let scope =
            |name: &str| ifindex(name).map_err(|_| io::Error::other(format!("there is no interface {name}")));
        match &self.context.config.address {
            PeerAddress::Ip(addr) => Ok(SocketAddr::new(*addr, port)),
            PeerAddress::LinkLocal { addr, interface } => {
                Ok(SocketAddr::V6(SocketAddrV6::new(*addr, port, 0, scope(interface)?)))
            }
            PeerAddress::Interface(name) => match self.neighbour {
                Some(mut addr) => {
                    addr.set_port(port);
                    Ok(addr)
                }
                None => Err(io::Error::other(format!("no neighbour seen on {name} yet"))),
            },
        }
    }

    fn timeout(&mut self) {
        // What has come already counts before a hold timer does.
        for index in (0..self.connections.len()).rev() {
            if !self.paused {
                self.read(index);
            }
        }
        self.session.handle_timeout(Instant::now());
    }

    /// Reads what is there, up to a bound.
    fn read(&mut self, index: usize) {
        for _ in 0..READS {
            let Some(connection) = self.connections.get(index) else { return };
            let id = connection.id;
            self.buffer.reserve(READ);
            let input = match connection.stream.try_read_buf(&mut self.buffer) {
                Ok(0) => Input::Closed(id, None),
                Ok(_) => Input::Bytes(id, self.buffer.split().freeze()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Most peers are silent most of the time: a reflector with hundreds of them needs the memory.
                    self.buffer = BytesMut::new();
                    return;
                }
                Err(error) => Input::Closed(id, Some(plain(&error))),
            };
            let last = matches!(input, Input::Closed(..));
            self.session.handle_input(Instant::now(), input);
            self.drain();
            if last || self.paused {
                return;
            }
        }
    }

    /// Does everything that can be done without waiting.
    fn settle(&mut self) {
        loop {
            self.drain();
            self.hand_over();
            if !self.write() {
                break;
            }
        }
        let counters = self.session.counters();
        let state = self.session.state();
        self.log_state(state);
        self.context.status.update(|status| {
            status.state = state;
            status.counters = counters;
        });
    }

    /// Gives the RIB what it takes at once.
    fn hand_over(&mut self) {
        while let Some(message) = self.to_rib.pop_front() {
            match self.context.rib.peers.try_send(message) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(message)) => {
                    self.to_rib.push_front(message);
                    break;
                }
                Err(mpsc::error::TrySendError::Closed(_)) => self.to_rib.clear(),
            }
        }
        let paused = self.to_rib.len() >= BEHIND;
        if paused != self.paused {
            self.paused = paused;
            for connection in &self.connections {
                self.session.handle_input(Instant::now(), Input::ReadPaused(connection.id, paused));
            }
        }
    }

    /// Writes what the sockets take at once. Whether the session has something new to say.
    fn write(&mut self) -> bool {
        let mut news = false;
        let mut broken = Vec::new();
        for connection in &mut self.connections {
            let outbox =
                self.established.as_ref().filter(|e| e.conn == connection.id).map(|e| e.outbox.clone());
            let mut progress = false;
            let mut failed = None;
            while !connection.blocked {
                if let Some(outbox) = &outbox {
                    connection.out.fetch(outbox);
                }
                if connection.out.is_empty() {
                    break;
                }
                match connection.out.try_write(&connection.stream) {
                    Ok(written) => {
                        progress = true;
                        self.session.count_sent(written.updates);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => connection.blocked = true,
                    Err(error) => {
                        failed = Some(plain(&error));
                        break;
                    }
                }
            }
            let now = Instant::now();
            let conn = connection.id;
            if let Some(error) = failed {
                // The peer's last words may still be there to read; if not, the read fails too.
                connection.blocked = true;
                news = true;
                broken.push((conn, error));
            } else if progress || connection.blocked {
                let pending = !connection.out.is_empty();
                self.session.handle_input(now, Input::Wrote { conn, progress, pending });
            }
        }
        for (conn, error) in broken {
            // The peer's last words, a NOTIFICATION perhaps, may still be there to read. If the reading does not end
            // the connection too, the error does.
            if let Some(index) = self.connections.iter().position(|c| c.id == conn) {
                self.read(index);
            }
            self.session.handle_input(Instant::now(), Input::Closed(conn, Some(error)));
        }
        news
    }

    /// Takes everything that the session wants or tells.
    fn drain(&mut self) {
        let mut updates = Vec::new();
        loop {
            while let Some(transmit) = self.session.poll_transmit() {
                if let Some(connection) = self.connections.iter_mut().find(|c| c.id == transmit.conn) {
                    connection.out.push_session(transmit.bytes);
                }
            }
            let Some(event) = self.session.poll_event() else { break };
            if let Event::Update { update, errors, raw } = event {
                if let Some(error) = errors.first() {
                    let peer = &self.context.config.address;
                    tracing::warn!(%peer, %error, action = %error.action, errors = errors.len(), "UPDATE in error");
                }
                self.log_update(&update, &raw);
                let malformed = errors.iter().any(|error| error.action >= Action::Withdraw);
                updates.push(Received { update, malformed, raw });
            } else {
                // The order of what the RIB hears is the order in which it happened.
                self.pass_on(&mut updates);
                self.event(event);
            }
        }
        self.pass_on(&mut updates);
    }

    fn pass_on(&mut self, updates: &mut Vec<Received>) {
        if !updates.is_empty() {
            let updates = std::mem::take(updates);
            self.tell_rib(News::Updates(updates));
        }
    }

    fn tell_rib(&mut self, news: News) {
        if !self.quiet {
            self.to_rib.push_back(FromPeer { peer: self.context.id, session: self.sessions, news });
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Dial(id) => {
                let target = self.target();
                let config = self.context.config.clone();
                let asn = self.context.speaker.asn;
                let dial = async move { socket::dial(target?, asn, &config.settings).await };
                if let Some((_, old)) = self.dial.replace((id, tokio::spawn(dial))) {
                    old.abort();
                }
            }
            Event::Close { conn, abort } => self.close(conn, abort),
            Event::Established { conn, negotiated, opens } => self.up(conn, Arc::from(negotiated), *opens),
            // Taken out by `drain`.
            Event::Update { .. } => {}
            Event::Refresh(family, kind) => {
                let kind = match kind {
                    Refresh::Request => rib::Refresh::Request,
                    Refresh::Begin => rib::Refresh::Begin,
                    Refresh::End => rib::Refresh::End,
                };
                self.tell_rib(News::Refresh(family, kind));
            }
            Event::Down { reason, retain } => self.down(&reason, retain),
            Event::ForwardingLost => {
                if !self.quiet {
                    // A RIB that has ended has no routes.
                    let _ = self.context.rib.control.send(Control::ForwardingLost(self.context.id));
                }
            }
            Event::Failed(failure) => {
                self.note(&failure);
                self.idle(Duration::ZERO);
            }
        }
    }

    fn close(&mut self, id: ConnId, abort: bool) {
        if self.dial.as_ref().is_some_and(|(conn, _)| *conn == id)
            && let Some((_, handle)) = self.dial.take()
        {
            handle.abort();
        }
        let Some(index) = self.connections.iter().position(|c| c.id == id) else { return };
        let mut connection = self.connections.swap_remove(index);
        connection.out.drop_updates();
        if !abort {
            self.closing.spawn(linger(connection));
        }
    }

    fn up(&mut self, conn: ConnId, negotiated: Arc<Negotiated>, opens: Opens) {
        let Some(connection) = self.connections.iter().find(|c| c.id == conn) else { return };
        let addresses = connection.stream.local_addr().and_then(|l| Ok((l, connection.stream.peer_addr()?)));
        let (local, peer) = match addresses {
            Ok(addresses) => addresses,
            Err(error) => {
                // The connection broke in this instant.
                let input = Input::Closed(conn, Some(plain(&error)));
                return self.session.handle_input(Instant::now(), input);
            }
        };
        let outbox = Arc::new(Outbox::new(self.context.rib.hungry.clone()));
        let established =
            Established { conn, negotiated: negotiated.clone(), local, peer, outbox: outbox.clone() };
        let params = Box::new(self.params(&established));
        self.established = Some(established);
        self.log_state(State::Established);
        let id = self.context.id;
        self.sessions += 1;
        let watched = Box::new(WatchedSession {
            name: self.context.config.address.to_string(),
            asn: negotiated.peer_asn.get(),
            router_id: negotiated.peer_router_id.addr(),
            two_octet: !negotiated.four_octet_as,
            local,
            peer,
            opens,
            status: self.context.status.clone(),
        });
        self.tell_rib(News::Up {
            name: self.context.config.address.to_string(),
            params,
            outbox,
            commands: self.own.clone(),
            watched,
        });
        tracing::info!(
            peer = %self.context.config.address, asn = %negotiated.peer_asn, hold = negotiated.hold_time.as_secs(),
            "established"
        );
        self.context.status.update(|status| {
            status.established = Some(Instant::now());
            status.negotiated = Some(negotiated);
            status.address = Some(canonical(peer).ip().to_string());
            status.local_address = Some(canonical(local).ip().to_string());
        });
        let name = self.context.config.address.to_string();
        self.tell_manager(FromTask::Event(SpeakerEvent::PeerUp { id, peer: name, address: place(peer) }));
    }

    fn down(&mut self, reason: &Failure, retain: bool) {
        self.log_state(State::Idle);
        let id = self.context.id;
        let rib_reason = if retain { DownReason::Restarting } else { DownReason::Flush };
        if !self.quiet {
            let down =
                Control::Down { peer: id, session: self.sessions, reason: rib_reason, why: reason.clone() };
            // A RIB that has ended has no routes.
            let _ = self.context.rib.control.send(down);
        }
        let gone = self.established.as_ref().filter(|_| reason.neighbour_is_gone()).map(|e| place(e.peer));
        let retained = retain && self.established.as_ref().is_some_and(|e| keeps_routes(&e.negotiated));
        let keep = self.established.take().filter(|_| retain).map_or(Duration::ZERO, |e| kept(&e.negotiated));
        self.note(reason);
        self.context.status.update(|status| {
            status.established = None;
            status.negotiated = None;
        });
        let peer = self.context.config.address.to_string();
        tracing::warn!(%peer, %reason, retained, "session down");
        self.tell_manager(FromTask::Event(SpeakerEvent::PeerDown {
            id,
            peer,
            reason: reason.to_string(),
            gone,
            retained,
        }));
        self.idle(keep);
    }

    /// The ends of the session, for the log.
    fn log_session(&self) -> mrt::write::Session {
        let peer_asn = |asn: &RemoteAs| match asn {
            RemoteAs::Is(asn) => asn.get(),
            RemoteAs::Internal => self.context.speaker.asn.get(),
            RemoteAs::External | RemoteAs::OneOf(_) => 0,
        };
        let settings = &self.context.config.settings;
        if let Some(e) = &self.established {
            return mrt::write::Session {
                peer_asn: e.negotiated.peer_asn.get(),
                local_asn: e.negotiated.local_asn.get(),
                ifindex: u16::try_from(socket::scope(canonical(e.peer))).unwrap_or(0),
                peer: canonical(e.peer).ip(),
                local: canonical(e.local).ip(),
            };
        }
        let peer = match &self.context.config.address {
            PeerAddress::Ip(addr) => *addr,
            PeerAddress::LinkLocal { addr, .. } => IpAddr::V6(*addr),
            PeerAddress::Interface(_) => {
                self.neighbour.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |addr| addr.ip())
            }
        };
        let unspecified = match peer {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        mrt::write::Session {
            peer_asn: peer_asn(&settings.asn),
            local_asn: settings.local_asn.unwrap_or(self.context.speaker.asn).get(),
            ifindex: 0,
            peer,
            local: settings.local_address.unwrap_or(unspecified),
        }
    }

    fn log_state(&mut self, state: State) {
        let before = std::mem::replace(&mut self.logged, state);
        if before != state {
            self.context.update_log.write(|out| {
                let time = SystemTime::now();
                mrt::write::state_change(out, time, &self.log_session(), before.number(), state.number());
            });
        }
    }

    fn log_update(&self, update: &Update, raw: &[u8]) {
        let Some(established) = &self.established else { return };
        let negotiated = &established.negotiated;
        self.context.update_log.write(|out| {
            let mut families = (update.reach.iter().filter(|r| !r.nlri.is_empty()).map(|r| r.family))
                .chain(update.unreach.iter().filter(|u| !u.nlri.is_empty()).map(|u| u.family));
            let encoding = mrt::write::Encoding {
                two_octet: !negotiated.four_octet_as,
                add_path: families.any(|family| negotiated.add_path_receive[family]),
            };
            mrt::write::message(out, SystemTime::now(), &self.log_session(), false, encoding, raw);
        });
    }

    fn note(&self, failure: &Failure) {
        let text = failure.to_string();
        let mut news = false;
        let collision = matches!(failure, Failure::Received(n) if (n.code, n.subcode) == COLLISION);
        self.context.status.update(|status| {
            // A connection that lost a collision explains nothing, if anything else does.
            if !collision || status.last_error.is_none() {
                news = status.last_error.as_ref().is_none_or(|(last, _)| *last != text);
                status.last_error = Some((text.clone(), Instant::now()));
            }
        });
        // What fails again and again in the same way is told once.
        if news {
            tracing::info!(peer = %self.context.config.address, error = text, "no session");
        }
    }

    fn idle(&self, keep: Duration) {
        if self.context.dynamic && self.session.state() < State::OpenSent {
            self.tell_manager(FromTask::Idle { peer: self.context.id, keep });
        }
    }

    fn tell_manager(&self, message: FromTask) {
        // The manager outlives the tasks, except when the runtime is shut down under it.
        let _ = self.context.manager.send(message);
    }
}

/// Whether a peer that restarts keeps forwarding for any family; some only help others to restart.
fn keeps_routes(negotiated: &Negotiated) -> bool {
    let restart = negotiated.graceful_restart.as_ref();
    restart.is_some_and(|r| {
        Family::ALL.into_iter().any(|f| r.families[f].is_some() || r.long_lived[f].is_some())
    })
}

/// How long the RIB may keep the routes of a peer that restarts.
fn kept(negotiated: &Negotiated) -> Duration {
    let Some(restart) = &negotiated.graceful_restart else { return Duration::ZERO };
    let long = Family::ALL.into_iter().filter_map(|f| restart.long_lived[f]).map(|(_, time)| time).max();
    restart.restart_time + long.unwrap_or_default()
}

/// Resolves when a connection can be read, or written after it could not.
fn socket_ready(connections: &[Connection], reading: bool) -> impl Future<Output = Ready> {
    poll_fn(move |cx| {
        for (index, connection) in connections.iter().enumerate() {
            if reading && connection.stream.poll_read_ready(cx).is_ready() {
                return Poll::Ready(Ready::Read(index));
            }
            if connection.blocked && connection.stream.poll_write_ready(cx).is_ready() {
                return Poll::Ready(Ready::Write(index));
            }
        }
        Poll::Pending
    })
}

/// Delivers what was written last, a NOTIFICATION mostly, then closes.
///
/// A socket closed with unread bytes sends a RST, at which the peer's kernel may throw away the NOTIFICATION: so what
/// comes is read until the peer closes too.
async fn linger(mut connection: Connection) {
    let deliver = async {
        while !connection.out.is_empty() {
            connection.stream.writable().await?;
            match connection.out.try_write(&connection.stream) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
        tokio::io::AsyncWriteExt::shutdown(&mut connection.stream).await?;
        let mut sink = vec![0; READ];
        while tokio::io::AsyncReadExt::read(&mut connection.stream, &mut sink).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    // Whatever goes wrong, the connection is over.
    let _ = tokio::time::timeout(LINGER, deliver).await;
}

/// An I/O error as people write it: `connection refused`.
pub(super) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error ").next().unwrap_or(&text);
    let mut letters = text.chars();
    match letters.next() {
        // `TCP …` stays.
        Some(first) if letters.clone().next().is_some_and(char::is_lowercase) => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

/// An address with the interface that a link-local one needs.
fn place(addr: SocketAddr) -> (IpAddr, u32) {
    let addr = canonical(addr);
    (addr.ip(), socket::scope(addr))
}
