//! What the session wants and tells, passed on to the sockets, the RIB, the manager and the status.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    super::{
        SpeakerEvent,
        monitor::WatchedSession,
        outbox::Outbox,
        rib_thread::{Control, FromPeer, News, Received},
        socket::{self, canonical},
    },
    Established, FromTask, PeerTask,
    connection::plain,
};
use crate::{
    bgp::{
        rib::{self, DownReason},
        session::{ConnId, Event, Failure, Input, Negotiated, Opens, Refresh, State},
        wire::{Action, code},
    },
    model::Family,
};

/// Cease/Connection Collision Resolution.
const COLLISION: (u8, u8) = (code::error::CEASE, code::cease::COLLISION);

impl PeerTask {
    /// Takes everything that the session wants or tells.
    pub(super) fn drain(&mut self) {
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

    pub(super) fn tell_rib(&mut self, news: News) {
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
        self.link = self.context.host.link(local, peer);
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

    pub(super) fn note(&self, failure: &Failure) {
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

    pub(super) fn tell_manager(&self, message: FromTask) {
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

/// An address with the interface that a link-local one needs.
fn place(addr: SocketAddr) -> (IpAddr, u32) {
    let addr = canonical(addr);
    (addr.ip(), socket::scope(addr))
}
