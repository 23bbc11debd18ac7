//! The speaker: sockets, tasks and the RIB's thread. The only place in `bgp` with tokio.
//!
//! ```text
//!  listeners ──accepted──▶ manager task ──commands──▶ one task a peer (socket, Session, KEEPALIVEs)
//!      SpeakerHandle ─────▶    │                        │ decoded UPDATEs,        ▲ encoded UPDATEs,
//!           │                  │ events                 ▼ bounded, in batches     │ bounded (Outbox)
//!           └──originate, queries────────────────▶ thread "rib" (owns bgp::rib::Rib) ──best paths──▶ SpeakerEvents
//! ```
//!
//! Nothing that a peer's task does waits for the RIB: with a slow RIB the task stops reading, and goes on sending
//! KEEPALIVEs; with a slow peer the RIB stops encoding for that peer, and goes on with the others.

mod auth;
mod change;
mod links;
mod liveness;
mod manager;
mod monitor;
mod outbox;
mod params;
mod peer;
mod rib_thread;
mod socket;
mod status;
#[cfg(test)]
mod tests;
mod unnumbered;
mod update_log;
mod wire_out;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use self::{
    manager::{Manager, Request},
    rib_thread::{Control, RibSender},
};
use super::{
    PeerId,
    bfd::driver::BfdStatus,
    config::SpeakerConfig,
    rib::{BestChange, LocalRoute, Rib},
};
use crate::model::{Family, Prefix};

pub use monitor::CollectorStatus;
pub use params::{HostAddresses, peer_params, rib_config, tellers};
pub use status::{PeerStatus, PrefixLimit, PrefixLimitState};
pub use update_log::UpdateLogStatus;

/// Events for the agent that may wait; best-path changes beyond that are coalesced in the RIB.
const EVENTS: usize = 64;

/// Why the speaker cannot do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum SpeakerError {
    /// An address cannot be listened on.
    #[error("{}", listen_error(addr, source))]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// TTL security or a key of TCP MD5 or TCP-AO cannot be set.
    #[error("cannot set the options of the listener {addr}: {source}")]
    Options {
        /// The listener.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// No such peer.
    #[error("there is no peer {0}")]
    NoPeer(String),
    /// The speaker has stopped.
    #[error("the BGP speaker has stopped")]
    Stopped,
}

fn listen_error(addr: &SocketAddr, source: &io::Error) -> String {
    let (ip, port) = (addr.ip(), addr.port());
    match source.kind() {
        io::ErrorKind::AddrInUse => format!("port {port} on {ip} is taken by another process: {source}"),
        io::ErrorKind::PermissionDenied => {
            format!("no permission to listen on port {port} of {ip}: {source}")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("cannot listen on {addr}: the host does not have {ip}: {source}")
        }
        _ => format!("cannot listen on {addr}: {source}"),
    }
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum SpeakerEvent {
    /// Best paths have changed; only the latest state of each prefix is told.
    Best(Vec<BestChange>),
    /// After a restart: every peer waited for has sent its routes, or the time is over (RFC 4724 section 4.1). Routes
    /// left from before can go.
    Converged,
    /// A neighbour has told all it knows of a family in its session, and [`Self::Best`] has told of it.
    Complete {
        /// As configured.
        peer: String,
        /// The family.
        family: Family,
    },
    /// A session is established.
    PeerUp {
        /// The peer.
        id: PeerId,
        /// As configured.
        peer: String,
        /// The address of its end of the session, and the interface of a link-local one (else 0).
        address: (IpAddr, u32),
    },
    /// Next hops, with the interface of link-local ones (else 0), that received paths use from now on, or no longer
    /// (`false`). What they cost is to be told with [`SpeakerHandle::set_next_hop_costs`].
    NextHops(Vec<(IpAddr, u32, bool)>),
    /// An established session is over.
    PeerDown {
        /// The peer.
        id: PeerId,
        /// As configured.
        peer: String,
        /// Why.
        reason: String,
        /// Set when BFD or silence says that the neighbour itself is gone: nothing more should be sent to this address
        /// (and interface), without waiting for each of its routes to go.
        gone: Option<(IpAddr, u32)>,
        /// Whether its routes are kept for now (RFC 4724): a neighbour that is gone may still forward, and is to be used
        /// only where there is no other.
        retained: bool,
    },
}

/// Where the events come out.
#[derive(Debug)]
pub struct SpeakerEvents {
    best: mpsc::Receiver<SpeakerEvent>,
    peers: mpsc::UnboundedReceiver<SpeakerEvent>,
}

impl SpeakerEvents {
    /// The next event; `None` when the speaker has stopped. Whoever is slow gets fewer, coalesced best-path changes.
    pub async fn recv(&mut self) -> Option<SpeakerEvent> {
        tokio::select! {
            biased;
            Some(event) = self.peers.recv() => Some(event),
            Some(event) = self.best.recv() => Some(event),
            else => None,
        }
    }
}

/// How the speaker shall end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// For good: Cease/Administrative Shutdown with a text for the peers' administrators (RFC 9003).
    Cease(String),
    /// Another process will take over: no NOTIFICATION where graceful restart is negotiated (RFC 4724).
    Restart,
}

/// What may be done to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAction {
    /// End the session and start it again (Cease/Administrative Reset).
    Reset,
    /// Ask the peer for its routes again (RFC 2918).
    RefreshIn,
    /// Send it all our routes again.
    RefreshOut,
    /// End the session and keep it down.
    Disable,
    /// End what [`PeerAction::Disable`], a prefix limit or the configuration's `shutdown` began.
    Enable,
}

/// What a new configuration changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReconfigureReport {
    /// Peers that are new.
    pub added: Vec<String>,
    /// Peers that are gone.
    pub removed: Vec<String>,
    /// Sessions that had to be reset, and the settings for which.
    pub reset: Vec<(String, Vec<&'static str>)>,
    /// Peers whose new settings took effect with no reset.
    pub changed: Vec<(String, Vec<&'static str>)>,
    /// BMP collectors that are new, gone, or connected to again for their changed settings, and which of these.
    pub collectors: Vec<(String, &'static str)>,
    /// The log of updates has other settings.
    pub update_log: bool,
    /// Changed settings of the speaker itself.
    pub speaker: Vec<&'static str>,
}

/// Starts speakers.
#[derive(Debug)]
pub struct Speaker;

impl Speaker {
    /// Listens, starts the RIB's thread and every peer. Must be called inside a tokio runtime, on which the peers run.
    /// `originated`, with what the configuration originates, is in the RIB before any session can come up: after a restart the first table that a peer gets,
    /// and the End-of-RIB behind it, must not miss what still lives (RFC 4724 section 4.1).
    pub fn start(
        config: SpeakerConfig,
        originated: Vec<(Prefix, LocalRoute)>,
    ) -> Result<(SpeakerHandle, SpeakerEvents), SpeakerError> {
        let (best_sender, best) = mpsc::channel(EVENTS);
        let (peer_sender, peers) = mpsc::unbounded_channel();
        let restarting = config.restarting;
        let (rib, thread) = rib_thread::start(
            params::rib_config(&config, &HostAddresses::default(), restarting),
            best_sender,
        )
        .map_err(SpeakerError::Thread)?;
        let (done, _) = oneshot::channel();
        let mut routes = originated;
        routes.extend(config.originate.iter().map(|prefix| (*prefix, LocalRoute::default())));
        let first = Control::Originate { routes, wait: Duration::ZERO, done };
        rib.control.send(first).map_err(|_| SpeakerError::Stopped)?;
        let (requests, from_handles) = mpsc::channel(16);
        let manager = Manager::new(config, rib.clone(), thread, peer_sender)?;
        tokio::spawn(manager.run(from_handles));
        Ok((SpeakerHandle { rib, requests }, SpeakerEvents { best, peers }))
    }
}

/// Prefixes on their way to the peers' transmit queues.
#[derive(Debug)]
pub struct HandingOver(oneshot::Receiver<bool>);

impl HandingOver {
    /// Resolves like [`SpeakerHandle::originate`].
    pub async fn done(self) -> Result<bool, SpeakerError> {
        self.0.await.map_err(|_| SpeakerError::Stopped)
    }
}

/// The way to a running speaker. Clones lead to the same one.
#[derive(Clone, Debug)]
pub struct SpeakerHandle {
    rib: RibSender,
    requests: mpsc::Sender<Request>,
}

impl SpeakerHandle {
    /// Originates prefixes, or changes what they carry. Resolves when the UPDATEs are in every established peer's
    /// transmit queue (`true`), or after `wait` (`false`: a peer is slow; the prefixes will be sent all the same).
    pub async fn originate(
        &self,
        routes: Vec<(Prefix, LocalRoute)>,
        wait: Duration,
    ) -> Result<bool, SpeakerError> {
        self.begin_originate(routes, wait)?.done().await
    }

    /// Begins what [`Self::originate`] does; the result can be waited for later.
    pub fn begin_originate(
        &self,
        routes: Vec<(Prefix, LocalRoute)>,
        wait: Duration,
    ) -> Result<HandingOver, SpeakerError> {
        let (done, answer) = oneshot::channel();
        self.control(Control::Originate { routes, wait, done })?;
        Ok(HandingOver(answer))
    }

    /// Ends the origination of prefixes. Resolves like [`Self::originate`].
    pub async fn withdraw(&self, prefixes: Vec<Prefix>, wait: Duration) -> Result<bool, SpeakerError> {
        self.begin_withdraw(prefixes, wait)?.done().await
    }

    /// Begins what [`Self::withdraw`] does; the result can be waited for later.
    pub fn begin_withdraw(&self, prefixes: Vec<Prefix>, wait: Duration) -> Result<HandingOver, SpeakerError> {
        let (done, answer) = oneshot::channel();
        self.control(Control::Withdraw { prefixes, wait, done })?;
        Ok(HandingOver(answer))
    }

    /// Asks the RIB anything; the closure runs on its thread, so it should be short.
    pub async fn query<T: Send + 'static>(
        &self,
        query: impl FnOnce(&mut Rib) -> T + Send + 'static,
    ) -> Result<T, SpeakerError> {
        let (done, answer) = oneshot::channel();
        let query = Box::new(move |rib: &mut Rib| {
            // The asker may have gone.
            let _ = done.send(query(rib));
        });
        self.control(Control::Query(query))?;
        answer.await.map_err(|_| SpeakerError::Stopped)
    }

    /// Says what next hops (with the interface of link-local ones, else 0) cost; `None` for one that no route leads to. See
    /// [`NextHopCheck`](crate::bgp::config::NextHopCheck). Until something is said, a next hop costs 0.
    pub fn set_next_hop_costs(&self, costs: Vec<(IpAddr, u32, Option<u32>)>) -> Result<(), SpeakerError> {
        self.control(Control::NextHopCosts(costs))
    }

    /// While draining, what is sent carries GRACEFUL_SHUTDOWN (RFC 8326), so that traffic moves away before we go.
    pub async fn drain(&self, draining: bool) -> Result<(), SpeakerError> {
        self.query(move |rib| rib.set_draining(draining, Instant::now())).await
    }

    fn control(&self, control: Control) -> Result<(), SpeakerError> {
        self.rib.control.send(control).map_err(|_| SpeakerError::Stopped)
    }

    /// The peers, configured ones first in the order of their addresses.
    pub async fn peers(&self) -> Result<Vec<PeerStatus>, SpeakerError> {
        self.request(|done| Request::Peers { done }).await
    }

    /// Takes a new configuration; resets only the sessions that must be.
    pub async fn reconfigure(&self, config: SpeakerConfig) -> Result<ReconfigureReport, SpeakerError> {
        self.request(|done| Request::Reconfigure { config: Box::new(config), done }).await?
    }

    /// Does something to a peer, named as configured or by its address.
    pub async fn act(&self, peer: &str, action: PeerAction) -> Result<(), SpeakerError> {
        let peer = peer.to_owned();
        self.request(|done| Request::Act { peer, action, done }).await?
    }

    /// The id of a peer, named as configured or by its address.
    pub async fn find(&self, peer: &str) -> Result<PeerId, SpeakerError> {
        let peer = peer.to_owned();
        self.request(|done| Request::Find { peer, done }).await?
    }

    /// The BMP collectors, in the order of the configuration.
    pub async fn collectors(&self) -> Result<Vec<CollectorStatus>, SpeakerError> {
        self.request(|done| Request::Collectors { done }).await
    }

    /// The log of updates, if there is one.
    pub async fn update_log(&self) -> Result<Option<UpdateLogStatus>, SpeakerError> {
        self.request(|done| Request::UpdateLog { done }).await
    }

    /// All BFD sessions.
    pub async fn bfd(&self) -> Result<Vec<BfdStatus>, SpeakerError> {
        self.request(|done| Request::Bfd { done }).await
    }

    /// Ends every session and the speaker. Resolves when the peers have been told, after two seconds at most.
    pub async fn shutdown(&self, mode: Shutdown) -> Result<(), SpeakerError> {
        self.request(|done| Request::Shutdown { mode, done }).await
    }

    async fn request<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, SpeakerError> {
        let (done, answer) = oneshot::channel();
        self.requests.send(make(done)).await.map_err(|_| SpeakerError::Stopped)?;
        answer.await.map_err(|_| SpeakerError::Stopped)
    }
}
