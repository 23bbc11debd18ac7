//! What the schedule does to the network.

use super::{DETECTION, Due, World};
use crate::node;
use crate::node::{Process, local_route, prefixes};
use crate::plan::{Action, MAX_PREFIXES, RESTART, SETTLE};
use slash32::bgp::session::{Input, Stop};
use slash32::routes::fake::Fault;

impl World {
    pub(super) fn act(&mut self, i: usize) {
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

    pub(super) fn heal(&mut self) {
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

    pub(super) fn attach(&mut self, host: usize, endpoint: u32, sequence: Option<u32>) {
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

    pub(super) fn detach(&mut self, host: usize, endpoint: u32) {
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

    pub(super) fn start_process(&mut self, node: usize, generation: u32, restarting: bool) {
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
    pub(super) fn end_process(&mut self, node: usize, power: bool) {
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
}
