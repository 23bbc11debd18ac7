//! What waits to be written on one connection.

use std::{collections::VecDeque, io, io::IoSlice};

use bytes::{Buf, Bytes};
use tokio::net::TcpStream;

use super::outbox::Outbox;
use crate::bgp::wire::{HEADER_LEN, code};

/// The most slices in one write (Linux allows 1024).
const SLICES: usize = 64;
/// UPDATEs are fetched from the outbox up to so many bytes ahead.
const AHEAD: usize = 64 << 10;

/// Messages to write: those of the session go before UPDATEs, but never into one that is partly written.
#[derive(Debug, Default)]
pub(super) struct WireOut {
    /// The rest of a chunk that is partly written.
    started: Bytes,
    session: VecDeque<Bytes>,
    updates: VecDeque<Bytes>,
    /// Bytes in `updates`.
    ahead: usize,
}

/// What one write did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) bytes: usize,
    /// UPDATEs among the chunks that were begun.
    pub(super) updates: u64,
}

impl WireOut {
    pub(super) fn push_session(&mut self, bytes: Bytes) {
        self.session.push_back(bytes);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.started.is_empty() && self.session.is_empty() && self.updates.is_empty()
    }

    /// Forgets UPDATEs that have not been begun: the session is over.
    pub(super) fn drop_updates(&mut self) {
        self.updates.clear();
        self.ahead = 0;
    }

    /// Fetches more UPDATEs if there is room.
    pub(super) fn fetch(&mut self, outbox: &Outbox) {
        if self.ahead < AHEAD {
            self.ahead += outbox.take(&mut self.updates, AHEAD - self.ahead);
        }
    }

    /// Writes as much as the socket takes at once.
    pub(super) fn try_write(&mut self, stream: &TcpStream) -> io::Result<Written> {
        let mut slices = Vec::with_capacity(SLICES);
        let chunks = [&self.started].into_iter().chain(&self.session).chain(&self.updates);
        slices.extend(chunks.filter(|c| !c.is_empty()).take(SLICES).map(|c| IoSlice::new(c)));
        if slices.is_empty() {
            return Ok(Written::default());
        }
        let bytes = stream.try_write_vectored(&slices)?;
        drop(slices);
        if bytes == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(Written { bytes, updates: self.advance(bytes) })
    }

    fn advance(&mut self, mut written: usize) -> u64 {
        let mut updates = 0;
        while written > 0 {
            if self.started.is_empty() {
                self.started = if let Some(chunk) = self.session.pop_front() {
                    chunk
                } else {
                    let Some(chunk) = self.updates.pop_front() else { break };
                    self.ahead -= chunk.len();
                    updates += count_updates(&chunk);
                    chunk
                };
            }
            let step = written.min(self.started.len());
            self.started.advance(step);
            written -= step;
        }
        updates
    }
}

fn count_updates(mut chunk: &[u8]) -> u64 {
    let mut count = 0;
    while let Some(&[high, low, kind]) = chunk.get(HEADER_LEN - 3..HEADER_LEN) {
        count += u64::from(kind == code::message::UPDATE);
        let length = usize::from(u16::from_be_bytes([high, low])).max(HEADER_LEN);
        chunk = chunk.get(length..).unwrap_or_default();
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, length: u8) -> Vec<u8> {
        let mut bytes = vec![0xFF; 16];
        bytes.extend_from_slice(&[0, length, kind]);
        bytes.resize(usize::from(length), 0);
        bytes
    }

    #[test]
    fn session_messages_wait_for_a_started_chunk_only() {
        let mut out = WireOut::default();
        out.updates.push_back([message(2, 30), message(2, 23)].concat().into());
        out.updates.push_back(message(2, 40).into());
        out.ahead = 93;
        assert_eq!(out.advance(10), 2);
        out.push_session(message(4, 19).into());
        assert_eq!(out.advance(43), 0);
        assert!(out.started.is_empty() && out.session.len() == 1 && out.updates.len() == 1);
        assert_eq!(out.advance(19), 0);
        assert_eq!(out.advance(40), 1);
        assert!(out.is_empty() && out.ahead == 0);
    }

    #[test]
    fn counting_is_safe_on_anything() {
        assert_eq!(count_updates(&[0; 18]), 0);
        assert_eq!(count_updates(&[2; 19 * 3]), 1);
        assert_eq!(count_updates(&message(2, 0x13)), 1);
    }
}
