//! The network as it runs: a virtual clock, a queue of what is due, and the little glue that a driver of sessions, RIB
//! and FIB consists of.

mod actions;
mod links;
mod process;
mod tcp;

use crate::net::Connection;
use crate::node::Node;
use crate::plan::{Options, SETTLE, Schedule};
use crate::random::Random;
use crate::{check, node};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

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
}
