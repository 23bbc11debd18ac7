//! The glue of one process: sessions, RIB and FIB.

use super::{Due, World};
use crate::node::{Process, peer_id};
use slash32::bgp::rib::{DownReason, Refresh, RibEvent};
use slash32::bgp::session::{Event, Input, Session, State, Stop};
use slash32::bgp::speaker::peer_params;
use std::time::{Duration, Instant};

impl World {
    pub(super) fn input(&mut self, node: usize, peer: usize, input: Input) {
        let now = self.now;
        let Some(entry) = self.peer_mut(node, peer) else { return };
        entry.session.handle_input(now, input);
        self.pump(node, peer);
    }

    /// Does everything that a session wants.
    pub(super) fn pump(&mut self, node: usize, peer: usize) {
        loop {
            while let Some(entry) = self.peer_mut(node, peer)
                && let Some(transmit) = entry.session.poll_transmit()
            {
                if let Some(conn) = entry.conns.get(&transmit.conn).copied() {
                    self.send(conn, node, transmit.bytes);
                }
            }
            let Some(entry) = self.peer_mut(node, peer) else { return };
            let Some(event) = entry.session.poll_event() else { break };
            self.session_event(node, peer, event);
        }
        let now = self.now;
        let generation = self.nodes[node].generation;
        let Some(entry) = self.peer_mut(node, peer) else { return };
        let wanted = entry.session.poll_timeout();
        if let Some(at) = wanted
            && entry.timer.is_none_or(|timer| at < timer || timer < now)
        {
            entry.timer = Some(at.max(now));
            self.at(at, Due::SessionTimer { node, peer, generation });
        }
    }

    pub(super) fn session_event(&mut self, node: usize, peer: usize, event: Event) {
        let now = self.now;
        let id = peer_id(peer);
        match event {
            Event::Dial(conn) => return self.dial(node, peer, conn),
            Event::Close { conn, abort } => {
                if let Some(number) =
                    self.peer_mut(node, peer).and_then(|entry| entry.conns.get(&conn).copied())
                {
                    self.close(number, node, abort);
                }
                return;
            }
            Event::Established { negotiated, .. } => {
                self.tell(|| format!("node {node} peer {peer} up"));
                let entry = &mut self.nodes[node];
                let neighbour = &entry.neighbours[peer];
                let params = peer_params(
                    &neighbour.settings,
                    &entry.config,
                    &negotiated,
                    neighbour.local,
                    neighbour.remote,
                    &entry.addresses,
                );
                let remote = neighbour.remote.ip();
                let Some(process) = &mut entry.process else { return };
                process.peers[peer].since = Some(now);
                process.rib.peer_up(id, params, now);
                if let Some(fib) = &mut process.fib {
                    fib.mark_next_hop_up(remote, 0);
                }
            }
            Event::Update { update, errors, .. } => {
                assert!(errors.is_empty(), "what we send is sound: {errors:?}");
                let Some(process) = &mut self.nodes[node].process else { return };
                process.rib.update(id, update, now);
            }
            Event::Refresh(family, kind) => {
                use slash32::bgp::session::Refresh as Told;
                let kind = match kind {
                    Told::Request => Refresh::Request,
                    Told::Begin => Refresh::Begin,
                    Told::End => Refresh::End,
                };
                let Some(process) = &mut self.nodes[node].process else { return };
                process.rib.refresh(id, family, kind, now);
            }
            Event::Down { reason, retain } => {
                self.tell(|| format!("node {node} peer {peer} down: {reason}, retain {retain}"));
                let remote = self.nodes[node].neighbours[peer].remote.ip();
                let Some(process) = &mut self.nodes[node].process else { return };
                process.peers[peer].since = None;
                let why = if retain { DownReason::Restarting } else { DownReason::Flush };
                process.rib.peer_down(id, why, now);
                if let Some(fib) = &mut process.fib
                    && !retain
                    && reason.neighbour_is_gone()
                {
                    fib.mark_next_hop_down(remote, 0);
                }
            }
            // Nobody here has a BFD that outlives its control plane.
            Event::ForwardingLost => return,
            Event::Failed(reason) => {
                self.tell(|| format!("node {node} peer {peer} failed: {reason}"));
                return;
            }
        }
        let soon = now + self.random.micros(0, 5000);
        self.wake(node, soon);
    }

    /// Looks at a node's RIB and FIB, at this time at the latest.
    pub(super) fn wake(&mut self, node: usize, at: Instant) {
        let generation = self.nodes[node].generation;
        let Some(process) = &mut self.nodes[node].process else { return };
        if process.run_at.is_none_or(|planned| at < planned) {
            process.run_at = Some(at);
            self.at(at, Due::Run { node, generation });
        }
    }

    pub(super) fn run_node(&mut self, node: usize) {
        let now = self.now;
        let entry = &mut self.nodes[node];
        let Some(process) = &mut entry.process else { return };
        if process.run_at.is_none_or(|at| at > now) {
            return;
        }
        process.run_at = None;
        process.rib.handle_timeout(now);
        let mut orders = Vec::new();
        while let Some(event) = process.rib.poll_event() {
            match event {
                RibEvent::MaxPrefixExceeded { peer, family, limit } => {
                    let peer = peer.0 as usize;
                    let restart = entry.neighbours[peer].settings.max_prefixes.and_then(|max| max.restart);
                    orders.push((peer, Input::Stop(Stop::MaxPrefixes { family, limit, restart })));
                }
                RibEvent::RefreshNeeded { peer, family } => {
                    orders.push((peer.0 as usize, Input::RequestRefresh(family)));
                }
                RibEvent::Converged => {
                    if let Some(fib) = &mut process.fib {
                        fib.sweep_stale(None);
                    }
                }
                RibEvent::MaxPrefixWarning { .. }
                | RibEvent::EndOfRib { .. }
                | RibEvent::StaleExpired { .. } => {}
            }
        }
        let mut peers = process.rib.peers_with_output();
        peers.sort_unstable();
        self.write(node, &peers);
        self.install(node);
        for (peer, input) in orders {
            self.input(node, peer, input);
        }
        let Some(process) = &self.nodes[node].process else { return };
        if let Some(at) = process.rib.poll_timeout() {
            self.wake(node, at);
        }
    }

    /// Hands UPDATEs to connections that have room.
    pub(super) fn write(&mut self, node: usize, peers: &[slash32::bgp::PeerId]) {
        for id in peers {
            let peer = id.0 as usize;
            loop {
                let Some(process) = &mut self.nodes[node].process else { return };
                let Some(conn) = process.peers[peer].session.established() else { break };
                let Some(number) = process.peers[peer].conns.get(&conn).copied() else { break };
                let Some(connection) = self.conns.get(&number) else { break };
                let side = connection.far_side(node);
                let room = self.options.window.saturating_sub(connection.ends[side].octets);
                if room == 0 {
                    let input = Input::Wrote { conn, progress: false, pending: true };
                    self.input(node, peer, input);
                    break;
                }
                let pieces = process.rib.poll_output(*id, room.min(64 << 10));
                if pieces.is_empty() {
                    break;
                }
                for piece in pieces {
                    self.send(number, node, piece);
                }
            }
        }
    }

    /// Hands best paths to the FIB and lets it write.
    pub(super) fn install(&mut self, node: usize) {
        let now = self.now;
        let Some(process) = &mut self.nodes[node].process else { return };
        if let Some(fib) = &mut process.fib {
            for (gateway, ifindex, on) in process.rib.poll_next_hops() {
                if on {
                    fib.watch_next_hop(gateway, ifindex);
                } else {
                    fib.unwatch_next_hop(gateway, ifindex);
                }
            }
        }
        loop {
            let changes = process.rib.poll_best(1024);
            if changes.is_empty() {
                break;
            }
            for change in changes {
                let best = change.best.filter(|best| !best.local);
                match &best {
                    Some(best) => process.identities.insert(change.prefix, best.identity.clone()),
                    None => process.identities.remove(&change.prefix),
                };
                let Some(fib) = &mut process.fib else { continue };
                match best {
                    Some(best) => fib.set(change.prefix, &best.next_hops),
                    None => fib.remove(change.prefix),
                }
            }
        }
        let Some(fib) = &mut process.fib else { return };
        let wakeup = loop {
            while let Some(event) = fib.kernel_mut().event() {
                fib.handle_event(event, now);
            }
            match fib.step(now, 512) {
                Ok(step) if step.more => {}
                Ok(step) => break step.wakeup,
                // A resync is due soon.
                Err(_) => break Some(now + Duration::from_secs(1)),
            }
        };
        // What leads to next hops decides between paths, in turn.
        let (news, more_news) = fib.poll_reach(now);
        for reach in &news {
            process.rib.set_next_hop_cost(reach.gateway, reach.ifindex, reach.cost);
        }
        let again = (!news.is_empty()).then_some(now);
        if let Some(at) = [wakeup, more_news, again].into_iter().flatten().min() {
            self.wake(node, at.max(now + Duration::from_millis(1)));
        }
    }

    /// Whether a session is up at both ends.
    pub(crate) fn is_up(&self, node: usize, peer: usize) -> bool {
        let state = |n: usize, p: usize| {
            self.nodes[n].process.as_ref().map(|process: &Process| {
                let session: &Session = &process.peers[p].session;
                session.state()
            })
        };
        let neighbour = &self.nodes[node].neighbours[peer];
        state(node, peer) == Some(State::Established)
            && state(neighbour.node, neighbour.index) == Some(State::Established)
    }
}
