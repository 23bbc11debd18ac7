//! BFD for the peers that want it: which session belongs to which peer.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::mpsc;

use super::peer::PeerCommand;
use crate::bgp::{
    PeerId,
    bfd::{
        SessionConfig, SessionEvent,
        driver::{BfdHandle, BfdStatus, DriverConfig, SessionKey, SessionParams, Shutdown},
    },
    config::{PeerAddress, PeerConfig},
};

/// Where events of each session go. Read by the BFD thread, which tells the peer's task directly.
type Routes = Arc<Mutex<HashMap<SessionKey, mpsc::UnboundedSender<PeerCommand>>>>;

/// The BFD sessions of all peers. The thread is started with the first one.
#[derive(Debug)]
pub(super) struct Liveness {
    state_dir: Option<PathBuf>,
    driver: Option<BfdHandle>,
    routes: Routes,
    sessions: HashMap<PeerId, (SessionKey, SessionParams)>,
}

impl Liveness {
    pub(super) fn new(state_dir: Option<PathBuf>) -> Self {
        Self { state_dir, driver: None, routes: Routes::default(), sessions: HashMap::new() }
    }

    /// Gives a peer the session that its configuration asks for, or none. Nothing happens if it has that already.
    pub(super) fn set(
        &mut self,
        id: PeerId,
        peer: &PeerConfig,
        neighbour: Option<IpAddr>,
        commands: &mpsc::UnboundedSender<PeerCommand>,
    ) -> io::Result<()> {
        let wanted = session(peer, neighbour);
        let had = self.sessions.get(&id);
        if had == wanted.as_ref() {
            return Ok(());
        }
        if had.map(|(key, _)| key) != wanted.as_ref().map(|(key, _)| key) {
            self.remove(id);
        }
        let Some((key, params)) = wanted else { return Ok(()) };
        if !self.sessions.contains_key(&id) {
            // Whatever another session said before; a task that has ended hears nothing.
            let _ = commands.send(PeerCommand::BfdWaiting);
        }
        self.lock().insert(key.clone(), commands.clone());
        let set = self.driver().and_then(|driver| driver.set(key.clone(), params));
        if set.is_err() {
            self.lock().remove(&key);
            return set;
        }
        self.sessions.insert(id, (key, params));
        Ok(())
    }

    /// Whether a peer has a session.
    pub(super) fn has(&self, id: PeerId) -> bool {
        self.sessions.contains_key(&id)
    }

    /// Ends a peer's session; the neighbour is told that it is on purpose.
    pub(super) fn remove(&mut self, id: PeerId) {
        if let Some((key, _)) = self.sessions.remove(&id) {
            self.lock().remove(&key);
            if let Some(driver) = &self.driver {
                // A thread that has ended has no sessions.
                let _ = driver.remove(key);
            }
        }
    }

    /// What each peer's session is.
    pub(super) fn keys(&self) -> HashMap<PeerId, SessionKey> {
        self.sessions.iter().map(|(id, (key, _))| (*id, key.clone())).collect()
    }

    /// The thread, if there is one.
    pub(super) fn handle(&self) -> Option<BfdHandle> {
        self.driver.clone()
    }

    pub(super) fn shutdown(&mut self, how: Shutdown) {
        if let Some(driver) = self.driver.take() {
            driver.shutdown(how);
        }
    }

    fn driver(&mut self) -> io::Result<&BfdHandle> {
        if self.driver.is_none() {
            let routes = self.routes.clone();
            let config = DriverConfig { state_dir: self.state_dir.clone(), ..DriverConfig::default() };
            let driver = BfdHandle::start(config, move |event| {
                let command = match event.event {
                    SessionEvent::Up => PeerCommand::BfdUp,
                    SessionEvent::Down { forwarding_lost, .. } => PeerCommand::BfdDown { forwarding_lost },
                    // No reason to act (RFC 5882 section 3.2), nor to wait (section 4.1).
                    SessionEvent::NeighborAdminDown => PeerCommand::BfdUp,
                    SessionEvent::NeighborAdminUp => PeerCommand::BfdWaiting,
                };
                let routes = routes.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(commands) = routes.get(&event.key) {
                    // A task that has ended has no session to end.
                    let _ = commands.send(command);
                }
            })?;
            self.driver = Some(driver);
        }
        self.driver.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SessionKey, mpsc::UnboundedSender<PeerCommand>>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state of a session in a list of all, in lower case.
pub(super) fn state_of(list: &[BfdStatus], key: &SessionKey) -> Option<&'static str> {
    use crate::bgp::bfd::State;
    list.iter().find(|s| s.key == *key).map(|s| match s.status.state {
        State::AdminDown => "admin_down",
        State::Down => "down",
        State::Init => "init",
        State::Up => "up",
    })
}

/// The session that a configuration asks for; none while the neighbour's address is not known.
fn session(peer: &PeerConfig, neighbour: Option<IpAddr>) -> Option<(SessionKey, SessionParams)> {
    let settings = &peer.settings;
    let bfd = settings.bfd?;
    let (address, interface) = match &peer.address {
        PeerAddress::Ip(addr) => (*addr, settings.bind_device.clone()),
        PeerAddress::LinkLocal { addr, interface } => (IpAddr::V6(*addr), Some(interface.clone())),
        PeerAddress::Interface(name) => (neighbour?, Some(name.clone())),
    };
    let key = SessionKey { peer: address, local: settings.local_address, interface, multihop: bfd.multihop };
    let params = SessionParams {
        session: SessionConfig {
            desired_min_tx: bfd.interval,
            required_min_rx: bfd.interval,
            multiplier: bfd.multiplier,
            ..SessionConfig::default()
        },
        min_ttl: settings.ttl_security.map_or(0, |hops| 255_u8.saturating_sub(hops.saturating_sub(1))),
    };
    Some((key, params))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bgp::config::{BfdConfig, RemoteAs};

    #[test]
    fn sessions_follow_the_configuration() {
        let mut peer = PeerConfig::new(PeerAddress::Ip("192.0.2.1".parse().unwrap()), RemoteAs::External);
        assert_eq!(session(&peer, None), None);
        peer.settings.bfd = Some(BfdConfig { multihop: true, multiplier: 5, ..BfdConfig::default() });
        peer.settings.local_address = Some("192.0.2.2".parse().unwrap());
        let (key, params) = session(&peer, None).unwrap();
        assert_eq!(
            (key.peer, key.local, key.multihop),
            ("192.0.2.1".parse().unwrap(), Some("192.0.2.2".parse().unwrap()), true)
        );
        assert_eq!(params.session.multiplier, 5);
        peer.address = PeerAddress::Interface("eth1".into());
        assert_eq!(session(&peer, None), None);
        let (key, _) = session(&peer, Some("fe80::1".parse().unwrap())).unwrap();
        assert_eq!((key.peer, key.interface.as_deref()), ("fe80::1".parse().unwrap(), Some("eth1")));
    }
}
