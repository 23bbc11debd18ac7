//! One direction of a TCP connection, put in order and cut into messages.

use std::collections::BTreeMap;

use super::packet::{SYN, Segment};
use crate::bgp::wire::{HEADER_LEN, frame_length};

/// How many octets may wait for a missing segment before it is given up.
const MAX_WAITING: usize = 1 << 20;

/// One direction of a connection.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// The sequence number of the next octet that is wanted.
    next: Option<u32>,
    /// Segments that came early, by their distance from `base`, which never wraps in practice.
    early: BTreeMap<u64, Vec<u8>>,
    /// Octets taken so far; positions in `early` count the same way.
    taken: u64,
    waiting: usize,
    buffer: Vec<u8>,
    /// The buffer does not start at a message: look for a marker.
    lost: bool,
}

impl Stream {
    /// Takes a segment and gives the messages that are complete now.
    pub(super) fn segment(&mut self, segment: &Segment<'_>) -> Vec<Vec<u8>> {
        if segment.flags & SYN != 0 {
            *self = Self { next: Some(segment.sequence.wrapping_add(1)), ..Self::default() };
        }
        let sequence =
            if segment.flags & SYN != 0 { segment.sequence.wrapping_add(1) } else { segment.sequence };
        if segment.payload.is_empty() {
            return Vec::new();
        }
        // A capture may begin in the middle of a message.
        let next = *self.next.get_or_insert_with(|| {
            self.lost = true;
            sequence
        });
        let ahead = sequence.wrapping_sub(next) as i32;
        if ahead <= 0 {
            // Sent again, wholly or in part.
            let Some(fresh) = segment.payload.get(ahead.unsigned_abs() as usize..) else { return Vec::new() };
            self.take(fresh);
            self.take_early();
        } else {
            let at = self.taken + u64::from(ahead.unsigned_abs());
            let kept = self.early.entry(at).or_default();
            if kept.len() < segment.payload.len() {
                self.waiting += segment.payload.len() - kept.len();
                *kept = segment.payload.to_vec();
            }
            while self.waiting > MAX_WAITING {
                self.skip_gap();
            }
        }
        self.messages(false)
    }

    /// No more segments come: gives what is left behind gaps.
    pub(super) fn end(&mut self) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        while !self.early.is_empty() {
            self.skip_gap();
            messages.extend(self.messages(false));
        }
        messages.extend(self.messages(true));
        messages
    }

    fn take(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        self.taken += bytes.len() as u64;
        self.next = self.next.map(|n| n.wrapping_add(bytes.len() as u32));
    }

    /// Takes early segments that now follow.
    fn take_early(&mut self) {
        while let Some(entry) = self.early.first_entry() {
            if *entry.key() > self.taken {
                return;
            }
            let (at, bytes) = entry.remove_entry();
            self.waiting -= bytes.len();
            if let Some(fresh) = bytes.get((self.taken - at) as usize..) {
                self.take(fresh);
            }
        }
    }

    /// Gives up the octets before the first early segment.
    fn skip_gap(&mut self) {
        let Some((&at, _)) = self.early.first_key_value() else { return };
        let gap = at.saturating_sub(self.taken);
        self.taken += gap;
        self.next = self.next.map(|n| n.wrapping_add(gap as u32));
        self.buffer.clear();
        self.lost = true;
        self.take_early();
    }

    /// Cuts whole messages off the buffer; at the end also one that is not whole.
    fn messages(&mut self, end: bool) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        loop {
            if self.lost && !self.find_marker() {
                return messages;
            }
            // Whether a message may be that long is the decoder's question, not ours.
            match frame_length(&self.buffer, true) {
                Ok(Some(length)) if self.buffer.len() >= length => {
                    let rest = self.buffer.split_off(length);
                    messages.push(std::mem::replace(&mut self.buffer, rest));
                }
                Ok(_) if end && !self.buffer.is_empty() => {
                    messages.push(std::mem::take(&mut self.buffer));
                }
                Ok(_) => return messages,
                // A bad header: show it, then look for the next good one.
                Err(_) if self.buffer.len() >= HEADER_LEN || end => {
                    let shown = self.header_in_error();
                    messages.push(self.buffer.drain(..shown).collect());
                    self.lost = true;
                }
                Err(_) => return messages,
            }
        }
    }

    /// How many octets to show of a message with a bad header: up to its own length if that leads to another marker,
    /// else the header.
    fn header_in_error(&self) -> usize {
        let length = match self.buffer.get(16..18) {
            Some(&[high, low]) => usize::from(u16::from_be_bytes([high, low])),
            _ => 0,
        };
        let next_is_marker = |at: usize| {
            let rest = self.buffer.get(at..).unwrap_or_default();
            at >= HEADER_LEN
                && (at == self.buffer.len() || rest.get(..16).is_some_and(|m| m.iter().all(|&b| b == 0xFF)))
        };
        if next_is_marker(length) { length } else { HEADER_LEN.min(self.buffer.len()) }
    }

    /// Drops octets before the first good header; false when there is none yet.
    fn find_marker(&mut self) -> bool {
        let good = |at: usize| matches!(frame_length(&self.buffer[at..], true), Ok(Some(_)));
        if let Some(at) = (0..self.buffer.len()).find(|&at| good(at)) {
            self.buffer.drain(..at);
            self.lost = false;
            return true;
        }
        // A header may have begun in the last octets.
        let keep = self.buffer.len().min(HEADER_LEN - 1);
        self.buffer.drain(..self.buffer.len() - keep);
        false
    }
}
