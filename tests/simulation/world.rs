//! The network as it runs: a virtual clock, a queue of what is due, and the little glue that a driver of sessions, RIB
//! and FIB consists of.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::{Duration, Instant},
};

use bytes::Bytes;
use slash32::{
    bgp::{
        rib::{DownReason, Refresh, RibEvent},
        session::{ConnId, Event, Input, Session, State, Stop},
        speaker::peer_params,
    },
    routes::fake::Fault,
};

use crate::{
    check,
    net::{Connection, End, Fin},
    node::{self, Node, Process, local_route, peer_id, prefixes},
    plan::{Action, MAX_PREFIXES, Options, RESTART, SETTLE, Schedule, Topology},
    random::Random,
};

/// Something that is due.
#[derive(Clone, Debug)]
enum Due {
    Act(usize),
    Start { node: usize, generation: u32, restarting: bool },
    EndRestarting { node: usize, generation: u32 },
    Syn { conn: usize },
    SynAck { conn: usize, accepted: bool },
    Deliver { conn: usize, side: usize },
    SessionTimer { node: usize, peer: usize, generation: u32 },
    Run { node: usize, generation: u32 },
    Bfd { node: usize, peer: usize, generation: u32 },
    Detach { host: usize, endpoint: u32 },
    Sample,
    Settled(usize),
}

/// How long BFD takes to notice, at most; and a spell for what follows.
pub(crate) const DETECTION: Duration = Duration::from_secs(1);

pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) now: Instant,
    pub(crate) start: Instant,
    pub(crate) nodes: Vec<Node>,
    /// As the administrator has them.
    pub(crate) cables: Vec<bool>,
    /// Since when each cable carries nothing, with the machines at its ends taken into account.
    pub(crate) dead_since: BTreeMap<(usize, usize), Instant>,
    conns: BTreeMap<usize, Connection>,
    next_conn: usize,
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    due: BTreeMap<u64, Due>,
    sequence: u64,
    pub(crate) random: Random,
    schedule: Schedule,
    /// Attachment numbers given.
    moves: u32,
    pub(crate) calm: check::Calm,
    pub(crate) trace: bool,
    /// A digest of all that happened, to see that a seed repeats.
    pub(crate) digest: u64,
    pub(crate) steps: u64,
    pub(crate) compared: u64,
}

impl World {
    pub(crate) fn new(options: Options, schedule: Schedule, trace: bool) -> Self {
        let start = Instant::now();
        let nodes = node::build(&options);
        let random = Random::new(options.seed ^ 0x5EED);
        let mut world = Self {
            cables: vec![true; crate::plan::cables(&options)],
            calm: check::Calm::default(),
            options,
            now: start,
            start,
            nodes,
            dead_since: BTreeMap::new(),
            conns: BTreeMap::new(),
            next_conn: 0,
            queue: BinaryHeap::new(),
            due: BTreeMap::new(),
            sequence: 0,
            random,
            schedule,
            moves: 0,
            trace,
            digest: 0,
            steps: 0,
            compared: 0,
        };
        for node in 0..world.nodes.len() {
            let at = start + world.random.millis(0, 3000);
            world.at(at, Due::Start { node, generation: 0, restarting: false });
        }
        for i in 0..world.schedule.len() {
            let at = start + world.schedule[i].0;
            world.at(at, Due::Act(i));
        }
        world.at(start + Duration::from_secs(1), Due::Sample);
        world
    }

    /// Runs the whole schedule. The error tells what was wrong and when.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        let end = self.start + self.schedule.last().map_or(Duration::ZERO, |(at, _)| *at) + SETTLE;
        while let Some(Reverse((at, number))) = self.queue.pop() {
            if at > end {
                break;
            }
            let Some(due) = self.due.remove(&number) else { continue };
            self.now = self.now.max(at);
            if let Some(node) = self.target(&due)
                && let Some(until) = self.nodes[node].stalled.filter(|until| *until > self.now)
            {
                // What has come is read before timers are looked at.
                let timer =
                    matches!(due, Due::SessionTimer { .. } | Due::Run { .. } | Due::EndRestarting { .. });
                self.at(until + if timer { Duration::from_millis(1) } else { Duration::ZERO }, due);
                continue;
            }
            self.steps += 1;
            self.note(&due);
            self.happen(due).map_err(|error| format!("after {:.3} s: {error}", self.seconds()))?;
        }
        Ok(())
    }

    pub(crate) fn seconds(&self) -> f64 {
        (self.now - self.start).as_secs_f64()
    }

    fn note(&mut self, due: &Due) {
        let place = match due {
            Due::Act(i) => *i,
            Due::Start { node, .. } | Due::Run { node, .. } | Due::SessionTimer { node, .. } => *node,
            Due::Syn { conn } | Due::SynAck { conn, .. } | Due::Deliver { conn, .. } => *conn,
            _ => 0,
        };
        let time = (self.now - self.start).as_nanos() as u64;
        self.digest = (self.digest ^ time ^ place as u64).wrapping_mul(0x0100_0000_01B3);
    }

    fn tell(&self, text: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:10.3} {}", self.seconds(), text());
        }
    }

    fn at(&mut self, at: Instant, due: Due) {
        self.sequence += 1;
        self.queue.push(Reverse((at.max(self.now), self.sequence)));
        self.due.insert(self.sequence, due);
    }

    fn target(&self, due: &Due) -> Option<usize> {
        match due {
            Due::SessionTimer { node, .. }
            | Due::Run { node, .. }
            | Due::Bfd { node, .. }
            | Due::EndRestarting { node, .. } => Some(*node),
            Due::Deliver { conn, side } => Some(self.conns.get(conn)?.ends[*side].node),
            Due::Syn { conn } => Some(self.conns.get(conn)?.ends[1].node),
            Due::SynAck { conn, .. } => Some(self.conns.get(conn)?.ends[0].node),
            _ => None,
        }
    }

    fn happen(&mut self, due: Due) -> Result<(), String> {
        match due {
            Due::Act(i) => self.act(i),
            Due::Start { node, generation, restarting } => self.start_process(node, generation, restarting),
            Due::EndRestarting { node, generation } if self.is(node, generation) => {
                if let Some(process) = &mut self.nodes[node].process {
                    process.peers.iter_mut().for_each(|peer| peer.session.end_restarting());
                }
            }
            Due::Syn { conn } => self.syn(conn),
            Due::SynAck { conn, accepted } => self.syn_ack(conn, accepted),
            Due::Deliver { conn, side } => self.deliver(conn, side),
            Due::SessionTimer { node, peer, generation } if self.is(node, generation) => {
                let now = self.now;
                if let Some(entry) = self.peer_mut(node, peer)
                    && entry.timer == Some(now)
                {
                    entry.timer = None;
                    entry.session.handle_timeout(now);
                    self.pump(node, peer);
                } else if let Some(entry) = self.peer_mut(node, peer)
                    && entry.timer.is_some_and(|at| at < now)
                {
                    // It was due while the process stood still.
                    entry.timer = None;
                    entry.session.handle_timeout(now);
                    self.pump(node, peer);
                }
            }
            Due::Run { node, generation } if self.is(node, generation) => self.run_node(node),
            Due::Bfd { node, peer, generation } if self.is(node, generation) => self.bfd_says(node, peer),
            Due::Detach { host, endpoint } => self.detach(host, endpoint),
            Due::Sample => {
                check::sample(self)?;
                let wait = self.random.millis(200, 3000);
                self.at(self.now + wait, Due::Sample);
            }
            Due::Settled(i) => {
                self.tell(|| format!("check {i}"));
                check::settled(self)?;
            }
            Due::SessionTimer { .. } | Due::Run { .. } | Due::Bfd { .. } | Due::EndRestarting { .. } => {}
        }
        Ok(())
    }

    fn is(&self, node: usize, generation: u32) -> bool {
        self.nodes[node].process.is_some() && self.nodes[node].generation == generation
    }

    fn peer_mut(&mut self, node: usize, peer: usize) -> Option<&mut node::Peer> {
        self.nodes[node].process.as_mut()?.peers.get_mut(peer)
    }

    // ---- what is done to the network

    fn act(&mut self, i: usize) {
        let action = self.schedule[i].1.clone();
        self.tell(|| format!("{action:?}"));
        let now = self.now;
        match action {
            Action::Cable { cable, up } => {
                if std::mem::replace(&mut self.cables[cable], up) != up {
                    *self.calm.cables.entry(cable).or_default() += 1;
                    self.links_changed();
                }
            }
            Action::Restart { node, planned, outage } => {
                if self.nodes[node].process.is_none() {
                    return;
                }
                if outage < RESTART {
                    *self.calm.restarts.entry(node).or_default() += 1;
                } else {
                    self.calm.broken.insert(node);
                }
                if planned && self.nodes[node].stalled.is_none_or(|until| until <= now) {
                    for peer in 0..self.nodes[node].neighbours.len() {
                        self.input(node, peer, Input::Stop(Stop::PlannedRestart));
                    }
                }
                self.end_process(node, false);
                let generation = self.nodes[node].generation;
                self.at(now + outage, Due::Start { node, generation, restarting: true });
            }
            Action::PowerOff { node, outage } => {
                if !self.nodes[node].powered {
                    return;
                }
                self.calm.broken.insert(node);
                self.end_process(node, true);
                let entry = &mut self.nodes[node];
                entry.powered = false;
                entry.generation += 1;
                entry.draining = false;
                let generation = entry.generation;
                for endpoint in std::mem::take(&mut entry.endpoints).into_keys() {
                    self.calm.touched(endpoint, node, now);
                }
                self.links_changed();
                self.at(now + outage, Due::Start { node, generation, restarting: false });
            }
            Action::Stall { node, time } => {
                self.nodes[node].stalled = Some(now + time);
                self.calm.stalled(node, time, &self.options);
                self.bfd_changed(node);
                // BFD of the others looks again when it is over.
                let peers = self.nodes[node].neighbours.clone();
                for neighbour in peers {
                    let generation = self.nodes[neighbour.node].generation;
                    let due = Due::Bfd { node: neighbour.node, peer: neighbour.index, generation };
                    self.at(now + time + DETECTION, due);
                }
            }
            Action::Refresh { node, peer } => {
                let family = slash32::model::Family::ALL[usize::from(self.random.one_in(2))];
                self.input(node, peer, Input::RequestRefresh(family));
            }
            Action::Reset { node, peer } => {
                self.calm.broken.insert(node);
                self.calm.broken.insert(self.nodes[node].neighbours[peer].node);
                self.input(node, peer, Input::Stop(Stop::Reset("by hand".to_owned())));
            }
            Action::Drain { node, on } => {
                if self.nodes[node].powered && std::mem::replace(&mut self.nodes[node].draining, on) != on {
                    self.calm.broken.insert(node);
                    self.calm.drained = true;
                    if let Some(process) = &mut self.nodes[node].process {
                        process.rib.set_draining(on, now);
                    }
                    self.wake(node, now);
                }
            }
            Action::Attach { host, endpoint } => {
                if self.nodes[host].powered && self.nodes[host].endpoints.len() < MAX_PREFIXES as usize / 2 {
                    let highest = self.nodes.iter().filter_map(|n| n.endpoints.get(&endpoint)).max().copied();
                    self.attach(host, endpoint, highest.flatten());
                }
            }
            Action::Detach { host, endpoint } => self.detach(host, endpoint),
            Action::Move { endpoint, to, overlap } => {
                let from: Vec<usize> = (0..self.nodes.len())
                    .filter(|n| *n != to && self.nodes[*n].endpoints.contains_key(&endpoint))
                    .collect();
                if self.nodes[to].powered && self.nodes[to].endpoints.len() < MAX_PREFIXES as usize / 2 {
                    self.moves += 1;
                    self.attach(to, endpoint, Some(self.moves));
                    for host in from {
                        self.at(now + overlap, Due::Detach { host, endpoint });
                    }
                }
            }
            Action::Flood { host, time } => {
                if self.nodes[host].powered {
                    self.calm.broken.insert(host);
                    for extra in 0..MAX_PREFIXES + 4 {
                        let endpoint = 0x0001_0000 + ((host as u32) << 8) + extra;
                        self.attach(host, endpoint, None);
                        self.at(now + time, Due::Detach { host, endpoint });
                    }
                }
            }
            Action::Fault { node, kind } => {
                let fault = [Fault::LostAnswer, Fault::HalfDone, Fault::NoMemory][usize::from(kind)];
                if let Some(fib) = self.nodes[node].process.as_mut().and_then(|p| p.fib.as_mut()) {
                    fib.kernel_mut().fail_next(Some(fault));
                    self.calm.broken.insert(node);
                    self.calm.faulted.insert(node);
                }
            }
            Action::Heal => self.heal(),
            Action::Check => {
                // Routes of machines that are gone for good stay for as long as they asked for.
                self.at(now + SETTLE, Due::Settled(i));
            }
        }
    }

    fn heal(&mut self) {
        for cable in 0..self.cables.len() {
            if !std::mem::replace(&mut self.cables[cable], true) {
                *self.calm.cables.entry(cable).or_default() += 1;
            }
        }
        self.links_changed();
        let now = self.now;
        for node in 0..self.nodes.len() {
            if std::mem::take(&mut self.nodes[node].draining) {
                self.calm.broken.insert(node);
                self.calm.drained = true;
                if let Some(process) = &mut self.nodes[node].process {
                    process.rib.set_draining(false, now);
                }
                self.wake(node, now);
            }
            if self.nodes[node].process.is_none() {
                let generation = self.nodes[node].generation;
                let restarting = self.nodes[node].powered;
                self.at(now, Due::Start { node, generation, restarting });
            }
        }
    }

    fn attach(&mut self, host: usize, endpoint: u32, sequence: Option<u32>) {
        let now = self.now;
        self.calm.touched(endpoint, host, now);
        self.nodes[host].endpoints.insert(endpoint, sequence);
        if let Some(process) = &mut self.nodes[host].process {
            for prefix in prefixes(endpoint) {
                process.rib.originate(prefix, local_route(endpoint, sequence), now);
            }
            self.wake(host, now);
        }
    }

    fn detach(&mut self, host: usize, endpoint: u32) {
        let now = self.now;
        if self.nodes[host].endpoints.remove(&endpoint).is_none() {
            return;
        }
        self.calm.touched(endpoint, host, now);
        if let Some(process) = &mut self.nodes[host].process {
            for prefix in prefixes(endpoint) {
                process.rib.withdraw_local(prefix, now);
            }
            self.wake(host, now);
        }
    }

    // ---- processes

    fn start_process(&mut self, node: usize, generation: u32, restarting: bool) {
        let now = self.now;
        if self.nodes[node].process.is_some() || self.nodes[node].generation != generation {
            return;
        }
        let seed = self.random.next();
        let entry = &mut self.nodes[node];
        entry.generation += 1;
        entry.stalled = None;
        let was_off = !std::mem::replace(&mut entry.powered, true);
        if was_off {
            let mut fresh = node::build(&self.options).swap_remove(node).kernel;
            std::mem::swap(&mut entry.kernel, &mut fresh);
        }
        let process = Process::new(entry, restarting, seed, now);
        entry.process = Some(process);
        let generation = entry.generation;
        self.tell(|| format!("node {node} starts, restarting: {restarting}"));
        self.links_changed();
        self.set_kernel_links(node);
        if restarting {
            self.at(now + RESTART, Due::EndRestarting { node, generation });
        }
        for peer in 0..self.nodes[node].neighbours.len() {
            self.input(node, peer, Input::Start);
        }
        self.bfd_changed(node);
        self.wake(node, now);
    }

    /// The process ends. Its kernel closes the connections, unless the whole machine is gone.
    fn end_process(&mut self, node: usize, power: bool) {
        let Some(mut process) = self.nodes[node].process.take() else { return };
        self.tell(|| format!("node {node} ends"));
        if let Some(fib) = &mut process.fib {
            self.nodes[node].kernel = std::mem::take(fib.kernel_mut());
        }
        self.nodes[node].stalled = None;
        for conn in process.peers.iter().flat_map(|peer| peer.conns.values().copied()) {
            if power {
                // Nobody is told.
                if let Some(connection) = self.conns.get(&conn) {
                    self.forget(conn, 1 - connection.far_side(node));
                }
            } else {
                let abort = self.random.one_in(3);
                self.close(conn, node, abort);
            }
        }
        self.bfd_changed(node);
    }

    // ---- cables, kernels' links and BFD

    /// Whether packets get from a node to a neighbour.
    pub(crate) fn is_linked(&self, node: usize, peer: usize) -> bool {
        let neighbour = &self.nodes[node].neighbours[peer];
        self.cables[neighbour.cable] && self.nodes[node].powered && self.nodes[neighbour.node].powered
    }

    fn links_changed(&mut self) {
        for node in 0..self.nodes.len() {
            for peer in 0..self.nodes[node].neighbours.len() {
                if self.is_linked(node, peer) {
                    self.dead_since.remove(&(node, peer));
                } else {
                    self.dead_since.entry((node, peer)).or_insert(self.now);
                }
            }
            self.set_kernel_links(node);
            self.bfd_changed(node);
        }
        // What was on its way is sent again.
        let stuck: Vec<(usize, usize)> = self
            .conns
            .iter()
            .flat_map(|(id, conn)| [0, 1].map(|side| (*id, side, &conn.ends[side])))
            .filter(|(_, _, end)| !end.scheduled && (!end.queue.is_empty() || end.fin.is_some()))
            .map(|(id, side, _)| (id, side))
            .collect();
        for (conn, side) in stuck {
            let wait = self.random.millis(200, 1500);
            self.schedule_delivery(conn, side, wait);
        }
    }

    fn set_kernel_links(&mut self, node: usize) {
        let now = self.now;
        let rack = self.options.topology == Topology::Rack;
        for interface in self.nodes[node].interfaces.clone() {
            let other = self.nodes[node].neighbours.iter().position(|n| n.cable == interface.cable);
            let up = match other {
                // The carrier of a cable goes with the machine at its other end; that of a network does not.
                Some(peer) if rack => self.is_linked(node, peer),
                // The reflectors' own cables never break.
                _ => node < 2 || self.cables[interface.cable],
            };
            let entry = &mut self.nodes[node];
            match entry.process.as_mut().and_then(|p| p.fib.as_mut()) {
                Some(fib) => fib.kernel_mut().set_link(interface.ifindex, up),
                None => entry.kernel.set_link(interface.ifindex, up),
            }
        }
        self.wake(node, now);
    }

    /// Whether BFD packets go to and fro.
    fn bfd_alive(&self, node: usize, peer: usize) -> bool {
        let other = self.nodes[node].neighbours[peer].node;
        let runs = |n: usize| {
            self.nodes[n].process.is_some() && self.nodes[n].stalled.is_none_or(|until| until <= self.now)
        };
        self.is_linked(node, peer) && runs(node) && runs(other)
    }

    /// BFD at both ends of a node's sessions notices in a while.
    fn bfd_changed(&mut self, node: usize) {
        if !self.options.bfd {
            return;
        }
        for (peer, neighbour) in self.nodes[node].neighbours.clone().iter().enumerate() {
            for (end, index) in [(node, peer), (neighbour.node, neighbour.index)] {
                let Some(process) = &self.nodes[end].process else { continue };
                if process.peers[index].bfd_up != self.bfd_alive(end, index) {
                    let generation = self.nodes[end].generation;
                    let wait = self.random.millis(300, DETECTION.as_millis() as u64);
                    self.at(self.now + wait, Due::Bfd { node: end, peer: index, generation });
                }
            }
        }
    }

    fn bfd_says(&mut self, node: usize, peer: usize) {
        if !self.options.bfd {
            return;
        }
        let alive = self.bfd_alive(node, peer);
        let Some(entry) = self.peer_mut(node, peer) else { return };
        if std::mem::replace(&mut entry.bfd_up, alive) == alive {
            return;
        }
        // Nobody here has a BFD that outlives its control plane.
        let stop = Stop::BfdDown { forwarding_lost: false };
        self.input(node, peer, if alive { Input::BfdUp } else { Input::Stop(stop) });
    }

    // ---- connections

    fn latency(&mut self) -> Duration {
        self.random.micros(100, 100 + self.options.latency * 1000)
    }

    fn dial(&mut self, node: usize, peer: usize, id: ConnId) {
        let neighbour = &self.nodes[node].neighbours[peer];
        let ends = [End::new(node, peer, Some(id)), End::new(neighbour.node, neighbour.index, None)];
        let number = self.next_conn;
        self.next_conn += 1;
        self.conns.insert(number, Connection { ends, open: false, answered: false });
        if let Some(entry) = self.peer_mut(node, peer) {
            entry.conns.insert(id, number);
        }
        let at = self.now + self.latency();
        self.at(at, Due::Syn { conn: number });
    }

    fn syn(&mut self, conn: usize) {
        let Some(connection) = self.conns.get(&conn) else { return };
        let (node, peer) = (connection.ends[1].node, connection.ends[1].peer);
        if connection.ends[0].conn.is_none() || !self.is_linked(node, peer) {
            // Whoever dials gives up some time.
            return;
        }
        let now = self.now;
        let accepted = self.peer_mut(node, peer).and_then(|entry| {
            let id = entry.session.accept(now)?;
            entry.conns.insert(id, conn);
            Some(id)
        });
        if let Some(connection) = self.conns.get_mut(&conn) {
            connection.ends[1].conn = accepted;
            connection.open = accepted.is_some();
        }
        let at = now + self.latency();
        self.at(at, Due::SynAck { conn, accepted: accepted.is_some() });
        self.pump(node, peer);
    }

    fn syn_ack(&mut self, conn: usize, accepted: bool) {
        let Some(connection) = self.conns.get(&conn) else { return };
        let (node, peer, id) = (connection.ends[0].node, connection.ends[0].peer, connection.ends[0].conn);
        if !self.is_linked(node, peer) {
            return;
        }
        let Some(id) = id else {
            // Nobody is there any more.
            if accepted && let Some(connection) = self.conns.get_mut(&conn) {
                connection.ends[1].fin = Some(Fin::Reset);
                self.schedule_delivery(conn, 1, Duration::ZERO);
            }
            return;
        };
        if accepted {
            if let Some(connection) = self.conns.get_mut(&conn) {
                connection.answered = true;
                let end = &connection.ends[0];
                if !end.queue.is_empty() || end.fin.is_some() {
                    self.schedule_delivery(conn, 0, Duration::ZERO);
                }
            }
            self.input(node, peer, Input::Connected(id));
        } else {
            self.forget(conn, 0);
            self.input(node, peer, Input::DialFailed(id, "connection refused".to_owned()));
        }
    }

    /// An end is of no interest to its process any more.
    fn forget(&mut self, conn: usize, side: usize) {
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        let end = &mut connection.ends[side];
        let (node, peer, id) = (end.node, end.peer, end.conn.take());
        end.forget();
        let both_gone = connection.ends.iter().all(|end| end.conn.is_none());
        if both_gone {
            self.conns.remove(&conn);
        }
        if let (Some(id), Some(entry)) = (id, self.peer_mut(node, peer)) {
            entry.conns.remove(&id);
        }
    }

    fn send(&mut self, conn: usize, node: usize, bytes: Bytes) {
        let chunk = self.options.chunk;
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        let side = connection.far_side(node);
        connection.ends[side].push(bytes, chunk);
        let wait = self.latency();
        self.schedule_delivery(conn, side, wait);
    }

    fn close(&mut self, conn: usize, node: usize, abort: bool) {
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        let side = connection.far_side(node);
        let other = &mut connection.ends[side];
        if abort {
            other.forget();
        }
        other.fin = Some(if abort { Fin::Reset } else { Fin::InOrder });
        let wait = self.latency();
        self.schedule_delivery(conn, side, wait);
        self.forget(conn, 1 - side);
    }

    fn schedule_delivery(&mut self, conn: usize, side: usize, wait: Duration) {
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        if side == 0 && connection.open && !connection.answered {
            // Octets never overtake the answer to the SYN.
            return;
        }
        if !std::mem::replace(&mut connection.ends[side].scheduled, true) {
            let at = self.now + wait;
            self.at(at, Due::Deliver { conn, side });
        }
    }

    fn deliver(&mut self, conn: usize, side: usize) {
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        let end = &mut connection.ends[side];
        end.scheduled = false;
        let (node, peer, id) = (end.node, end.peer, end.conn);
        if !self.is_linked(node, peer) {
            return;
        }
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        let Some(id) = id else {
            if !connection.open {
                return;
            }
            // A process that knows nothing of it: the kernel resets the connection.
            connection.ends[side].forget();
            if connection.ends[side].fin.is_none() {
                connection.ends[1 - side].fin = Some(Fin::Reset);
                let wait = self.latency();
                self.schedule_delivery(conn, 1 - side, wait);
            }
            return;
        };
        let end = &mut connection.ends[side];
        if let Some(bytes) = end.pop() {
            let more = !end.queue.is_empty() || end.fin.is_some();
            let sender = (connection.ends[1 - side].node, connection.ends[1 - side].peer);
            let writer = connection.ends[1 - side].conn;
            let pending = connection.ends[side].octets > self.options.window;
            if more {
                let wait = self.random.micros(1, 50);
                self.schedule_delivery(conn, side, wait);
            }
            self.input(node, peer, Input::Bytes(id, bytes));
            if let Some(writer) = writer {
                self.input(sender.0, sender.1, Input::Wrote { conn: writer, progress: true, pending });
                self.wake(sender.0, self.now);
            }
        } else if let Some(reason) = end.fin.take() {
            self.forget(conn, side);
            self.input(node, peer, Input::Closed(id, reason.error()));
        }
    }

    // ---- the glue that a driver is

    fn input(&mut self, node: usize, peer: usize, input: Input) {
        let now = self.now;
        let Some(entry) = self.peer_mut(node, peer) else { return };
        entry.session.handle_input(now, input);
        self.pump(node, peer);
    }

    /// Does everything that a session wants.
    fn pump(&mut self, node: usize, peer: usize) {
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

    fn session_event(&mut self, node: usize, peer: usize, event: Event) {
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
    fn wake(&mut self, node: usize, at: Instant) {
        let generation = self.nodes[node].generation;
        let Some(process) = &mut self.nodes[node].process else { return };
        if process.run_at.is_none_or(|planned| at < planned) {
            process.run_at = Some(at);
            self.at(at, Due::Run { node, generation });
        }
    }

    fn run_node(&mut self, node: usize) {
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
    fn write(&mut self, node: usize, peers: &[slash32::bgp::PeerId]) {
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
    fn install(&mut self, node: usize) {
        let now = self.now;
        let Some(process) = &mut self.nodes[node].process else { return };
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
        if let Some(at) = wakeup {
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
