//! One direction of a TCP connection, put in order and cut into messages.

use std::{collections::BTreeMap, time::Duration};

use bytes::{Buf, BytesMut};

use super::packet::{SYN, Segment};
use crate::bgp::wire::{HEADER_LEN, frame_length};

/// How many octets may wait for a missing segment before it is given up.
const MAX_WAITING: usize = 1 << 20;

/// A message of a stream.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) message: Vec<u8>,
    /// When its last octet was captured.
    pub(super) time: Option<Duration>,
    /// Octets before it that were not captured.
    pub(super) missing: u64,
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// The sequence number of the connection's first octet, if its SYN was seen.
    first: Option<u32>,
    /// The sequence number of the next octet that is wanted.
    next: Option<u32>,
    /// Segments that came early, by their position in the stream.
    early: BTreeMap<u64, (Vec<u8>, Option<Duration>)>,
    /// Octets taken so far; positions in `early` count the same way.
    taken: u64,
    waiting: usize,
    buffer: BytesMut,
    /// When the last octet of the buffer was captured.
    time: Option<Duration>,
    /// The buffer does not start at a message: look for a marker.
    lost: bool,
    /// Octets that were not captured since the last message.
    missing: u64,
}

impl Stream {
    /// Takes a segment and gives the messages that are complete now.
    pub(super) fn segment(&mut self, segment: &Segment<'_>, time: Option<Duration>) -> Vec<Cut> {
        let mut messages = Vec::new();
        let syn = segment.flags & SYN != 0;
        let sequence = if syn { segment.sequence.wrapping_add(1) } else { segment.sequence };
        // A new connection of the same ports; the same number again is the same SYN, sent again.
        if syn && self.first != Some(sequence) {
            messages = self.end();
            *self = Self { first: Some(sequence), next: Some(sequence), ..Self::default() };
        }
        if segment.payload.is_empty() {
            return messages;
        }
        // A capture may begin in the middle of a message.
        let next = *self.next.get_or_insert_with(|| {
            self.lost = !segment.payload.starts_with(&[0xFF; 16]);
            sequence
        });
        let ahead = sequence.wrapping_sub(next) as i32;
        if ahead <= 0 {
            // Sent again, wholly or in part.
            let Some(fresh) = segment.payload.get(ahead.unsigned_abs() as usize..) else { return messages };
            self.take(fresh, time);
            self.messages(false, &mut messages);
            self.take_early(&mut messages);
        } else {
            let at = self.taken + u64::from(ahead.unsigned_abs());
            let (kept, kept_time) = self.early.entry(at).or_default();
            if kept.len() < segment.payload.len() {
                self.waiting += segment.payload.len() - kept.len();
                *kept = segment.payload.to_vec();
                *kept_time = time;
            }
            while self.waiting > MAX_WAITING {
                self.skip_gap(&mut messages);
            }
        }
        messages
    }

    /// The other side has everything before the sequence number `acknowledged`: what is not here of it was lost by the
    /// capture, not by the network, and does not come any more.
    pub(super) fn acknowledged(&mut self, acknowledged: u32) -> Vec<Cut> {
        let mut messages = Vec::new();
        while let (Some(next), Some((&at, _))) = (self.next, self.early.first_key_value())
            && u64::try_from(acknowledged.wrapping_sub(next) as i32)
                .is_ok_and(|ahead| ahead >= at.saturating_sub(self.taken))
        {
            self.skip_gap(&mut messages);
        }
        messages
    }

    /// No more segments come: gives what is left behind gaps.
    pub(super) fn end(&mut self) -> Vec<Cut> {
        let mut messages = Vec::new();
        while !self.early.is_empty() {
            self.skip_gap(&mut messages);
        }
        self.messages(true, &mut messages);
        messages
    }

    fn take(&mut self, bytes: &[u8], time: Option<Duration>) {
        if !bytes.is_empty() {
            self.time = self.time.max(time);
        }
        self.buffer.extend_from_slice(bytes);
        self.taken += bytes.len() as u64;
        self.next = self.next.map(|n| n.wrapping_add(bytes.len() as u32));
    }

    /// Takes early segments that now follow, each with the time at which it came.
    fn take_early(&mut self, messages: &mut Vec<Cut>) {
        while let Some(entry) = self.early.first_entry() {
            if *entry.key() > self.taken {
                return;
            }
            let (at, (bytes, time)) = entry.remove_entry();
            self.waiting -= bytes.len();
            if let Some(fresh) = bytes.get((self.taken - at) as usize..) {
                self.take(fresh, time);
                self.messages(false, messages);
            }
        }
    }

    /// Gives up the octets before the first early segment. The message that the gap cuts is shown as far as it is there.
    fn skip_gap(&mut self, messages: &mut Vec<Cut>) {
        let Some((&at, _)) = self.early.first_key_value() else { return };
        self.messages(true, messages);
        let gap = at.saturating_sub(self.taken);
        self.taken += gap;
        self.next = self.next.map(|n| n.wrapping_add(gap as u32));
        self.missing += gap;
        self.buffer.clear();
        // What follows is later than what the gap has cut, in whatever order it came.
        self.time = None;
        self.lost = true;
        self.take_early(messages);
    }

    /// Cuts whole messages off the buffer; at the end also one that is not whole.
    fn messages(&mut self, end: bool, messages: &mut Vec<Cut>) {
        loop {
            if self.lost && !self.find_marker() {
                return;
            }
            // Whether a message may be that long is the decoder's question, not ours.
            let length = match frame_length(&self.buffer, true) {
                Ok(Some(length)) if self.buffer.len() >= length => length,
                Ok(_) if end && !self.buffer.is_empty() => self.buffer.len(),
                Ok(_) => return,
                // A bad header: show it, then look for the next good one.
                Err(_) if self.buffer.len() >= HEADER_LEN || end => {
                    self.lost = true;
                    self.header_in_error()
                }
                Err(_) => return,
            };
            // A copy of its own: a message that is kept must not keep the buffer.
            let message = self.buffer.split_to(length).to_vec();
            messages.push(Cut { message, time: self.time, missing: std::mem::take(&mut self.missing) });
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
            self.buffer.advance(at);
            self.lost = false;
            return true;
        }
        // A header may have begun in the last octets.
        let keep = self.buffer.len().min(HEADER_LEN - 1);
        self.buffer.advance(self.buffer.len() - keep);
        false
    }
}
