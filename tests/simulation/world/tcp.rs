//! Connections: how they are made, carry octets and end.

use super::{Due, World};
use crate::net::{Connection, End, Fin};
use bytes::Bytes;
use slash32::bgp::session::{ConnId, Input};
use std::time::Duration;

impl World {
    pub(super) fn latency(&mut self) -> Duration {
        self.random.micros(100, 100 + self.options.latency * 1000)
    }

    pub(super) fn dial(&mut self, node: usize, peer: usize, id: ConnId) {
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

    pub(super) fn syn(&mut self, conn: usize) {
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

    pub(super) fn syn_ack(&mut self, conn: usize, accepted: bool) {
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
    pub(super) fn forget(&mut self, conn: usize, side: usize) {
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

    pub(super) fn send(&mut self, conn: usize, node: usize, bytes: Bytes) {
        let chunk = self.options.chunk;
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        let side = connection.far_side(node);
        connection.ends[side].push(bytes, chunk);
        let wait = self.latency();
        self.schedule_delivery(conn, side, wait);
    }

    pub(super) fn close(&mut self, conn: usize, node: usize, abort: bool) {
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

    pub(super) fn schedule_delivery(&mut self, conn: usize, side: usize, wait: Duration) {
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

    pub(super) fn deliver(&mut self, conn: usize, side: usize) {
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
}
