//! The task of one neighbour: it owns the sockets and drives the [`Session`].
//!
//! Nothing in its loop waits for the RIB: what the RIB shall know queues here, and while that queue is long the socket
//! is not read, but KEEPALIVEs go out.

mod connection;
mod events;
mod log;

use std::{
    collections::VecDeque,
    future::pending,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use tokio::{
    net::TcpStream,
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};

pub(super) use self::connection::plain;
use self::connection::{Connection, Ready, socket_ready};
use super::{
    SpeakerEvent, auth,
    outbox::Outbox,
    params::{HostAddresses, peer_params},
    rib_thread::{FromPeer, News, RibSender},
    status::SharedStatus,
    update_log::UpdateLog,
};
use crate::{
    bgp::{
        PeerId,
        config::{PeerConfig, SpeakerConfig},
        rib,
        session::{ConnId, Input, Negotiated, Session, SessionConfig, State, Stop},
    },
    model::Family,
};

/// Commands for the RIB that may wait here before reading stops.
const BEHIND: usize = 4;

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
    BfdWaiting,
    BfdDown {
        forwarding_lost: bool,
    },
    /// A link of the host went down or came up.
    Link {
        ifindex: u32,
        up: bool,
    },
    /// The host's addresses have changed.
    Addresses,
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
    /// The link of the last session, if the neighbour is on it.
    link: Option<u32>,
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
        link: None,
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
            PeerCommand::BfdWaiting => self.session.handle_input(now, Input::BfdWaiting),
            PeerCommand::BfdDown { forwarding_lost } => {
                self.notice_closed();
                self.session.handle_input(now, Input::Stop(Stop::BfdDown { forwarding_lost }));
            }
            PeerCommand::Link { ifindex, up } if self.link == Some(ifindex) => {
                if !up {
                    self.session.handle_input(now, Input::Stop(Stop::LinkDown));
                } else if self.session.state() < State::OpenSent {
                    self.session.handle_input(now, Input::RetryNow);
                }
            }
            PeerCommand::Link { .. } => {}
            PeerCommand::Addresses => self.tell_params(),
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

    fn configure(&mut self, config: Arc<PeerConfig>, speaker: Arc<SpeakerConfig>, mut reset: Option<Stop>) {
        let before = std::mem::take(&mut Arc::make_mut(&mut self.context.config).settings.tcp_ao);
        let keys = &config.settings.tcp_ao;
        if reset.is_none() && before != *keys {
            for connection in &self.connections {
                if let Err(error) = auth::roll_over(&connection.stream, &before, keys) {
                    tracing::warn!(peer = %config.address, %error, "cannot change the keys of a connection: reset");
                    reset = Some(Stop::ConfigChange);
                }
            }
        }
        let mut session = SessionConfig::new(&speaker, &config.settings);
        session.passive |= self.context.dynamic;
        self.context.config = config;
        self.context.speaker = speaker;
        self.session.set_config(Instant::now(), session);
        if let (Some(established), Some(negotiated)) = (&mut self.established, self.session.negotiated())
            && *established.negotiated != *negotiated
        {
            established.negotiated = Arc::new(negotiated.clone());
            self.context.status.update(|s| s.negotiated = Some(established.negotiated.clone()));
        }
        match (reset, &self.established) {
            (Some(stop), _) => self.session.handle_input(Instant::now(), Input::Stop(stop)),
            (None, Some(_)) => self.tell_params(),
            (None, None) => {}
        }
    }

    /// Tells the RIB what an established session is like now. The next hop may be an address that has only just become
    /// usable: a link that came up with the session has none of IPv6 for two seconds (RFC 4862 section 5.4).
    fn tell_params(&mut self) {
        let Some(established) = &self.established else { return };
        let params = Box::new(self.params(established));
        self.tell_rib(News::Changed(params));
    }

    fn params(&self, established: &Established) -> rib::PeerParams {
        let params = peer_params(
            &self.context.config.settings,
            &self.context.speaker,
            &established.negotiated,
            established.local,
            established.peer,
            &self.context.host,
        );
        rib::PeerParams { name: self.context.config.address.to_string().into(), ..params }
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
        let (state, idle_until) = (self.session.state(), self.session.idle_until());
        self.log_state(state);
        self.context.status.update(|status| {
            status.state = state;
            status.idle_until = idle_until;
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
}
