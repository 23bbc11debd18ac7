//! TCP and cables, as far as BGP notices them: ordered, reliable, slow, and gone without a word when a cable is.

use std::collections::VecDeque;

use bytes::Bytes;
use slash32::bgp::session::ConnId;

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fin {
    InOrder,
    Reset,
}

impl Fin {
    /// The error that a reader gets.
    pub(crate) fn error(self) -> Option<String> {
        (self == Self::Reset).then(|| "connection reset by peer".to_owned())
    }
}

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) node: usize,
    pub(crate) peer: usize,
    /// What the process there calls it; `None` when no process there knows of it (any more).
    pub(crate) conn: Option<ConnId>,
    /// On the way to this end.
    pub(crate) queue: VecDeque<Bytes>,
    pub(crate) octets: usize,
    /// The other end has closed. Comes behind what is queued.
    pub(crate) fin: Option<Fin>,
    /// A delivery is due.
    pub(crate) scheduled: bool,
}

impl End {
    pub(crate) fn new(node: usize, peer: usize, conn: Option<ConnId>) -> Self {
        Self { node, peer, conn, queue: VecDeque::new(), octets: 0, fin: None, scheduled: false }
    }

    /// Adds octets, cut as the network likes.
    pub(crate) fn push(&mut self, mut bytes: Bytes, chunk: usize) {
        self.octets += bytes.len();
        while !bytes.is_empty() {
            self.queue.push_back(bytes.split_to(chunk.min(bytes.len())));
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        let bytes = self.queue.pop_front()?;
        self.octets -= bytes.len();
        Some(bytes)
    }

    pub(crate) fn forget(&mut self) {
        self.queue.clear();
        self.octets = 0;
    }
}

/// A connection. The first end is the one that dialed.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) ends: [End; 2],
    /// Accepted.
    pub(crate) open: bool,
    /// Whoever dialed knows that.
    pub(crate) answered: bool,
}

impl Connection {
    /// The side that is not the node's.
    pub(crate) fn far_side(&self, node: usize) -> usize {
        usize::from(self.ends[0].node == node)
    }
}
