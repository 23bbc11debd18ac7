//! Cables, what machines see of them, and BFD.

use super::{DETECTION, Due, World};
use crate::plan::Topology;
use slash32::bgp::session::{Input, Stop};

impl World {
    /// Whether packets get from a node to a neighbour.
    pub(crate) fn is_linked(&self, node: usize, peer: usize) -> bool {
        let neighbour = &self.nodes[node].neighbours[peer];
        self.cables[neighbour.cable] && self.nodes[node].powered && self.nodes[neighbour.node].powered
    }

    pub(super) fn links_changed(&mut self) {
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

    pub(super) fn set_kernel_links(&mut self, node: usize) {
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
    pub(super) fn bfd_alive(&self, node: usize, peer: usize) -> bool {
        let other = self.nodes[node].neighbours[peer].node;
        let runs = |n: usize| {
            self.nodes[n].process.is_some() && self.nodes[n].stalled.is_none_or(|until| until <= self.now)
        };
        self.is_linked(node, peer) && runs(node) && runs(other)
    }

    /// BFD at both ends of a node's sessions notices in a while.
    pub(super) fn bfd_changed(&mut self, node: usize) {
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

    pub(super) fn bfd_says(&mut self, node: usize, peer: usize) {
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
}
