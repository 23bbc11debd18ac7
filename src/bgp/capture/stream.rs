//! One direction of a TCP connection, put in order and cut into messages.

use std::{collections::BTreeMap, time::Duration};

use super::packet::{SYN, Segment};
use crate::bgp::wire::{HEADER_LEN, frame_length};

/// How many octets may wait for a missing segment before it is given up.
const MAX_WAITING: usize = 1 << 20;

/// A message, and when its last octet was captured.
pub(super) type Cut = (Vec<u8>, Option<Duration>);

/// One direction of a connection.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// The sequence number of the connection's first octet, if its SYN was seen.
    first: Option<u32>,
    /// The sequence number of the next octet that is wanted.
    next: Option<u32>,
    /// Segments that came early, by their position in the stream.
    early: BTreeMap<u64, Cut>,
    /// Octets taken so far; positions in `early` count the same way.
    taken: u64,
    waiting: usize,
    buffer: Vec<u8>,
    /// When the last octet of the buffer was captured.
    time: Option<Duration>,
    /// The buffer does not start at a message: look for a marker.
    lost: bool,
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
            self.take_early();
            messages.extend(self.messages(false));
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
        messages.extend(self.messages(true));
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

    /// Takes early segments that now follow.
    fn take_early(&mut self) {
        while let Some(entry) = self.early.first_entry() {
            if *entry.key() > self.taken {
                return;
            }
            let (at, (bytes, time)) = entry.remove_entry();
            self.waiting -= bytes.len();
            if let Some(fresh) = bytes.get((self.taken - at) as usize..) {
                self.take(fresh, time);
            }
        }
    }

    /// Gives up the octets before the first early segment. The message that the gap cuts is shown as far as it is there.
    fn skip_gap(&mut self, messages: &mut Vec<Cut>) {
        let Some((&at, _)) = self.early.first_key_value() else { return };
        messages.extend(self.messages(true));
        let gap = at.saturating_sub(self.taken);
        self.taken += gap;
        self.next = self.next.map(|n| n.wrapping_add(gap as u32));
        self.buffer.clear();
        self.lost = true;
        self.take_early();
        messages.extend(self.messages(false));
    }

    /// Cuts whole messages off the buffer; at the end also one that is not whole.
    fn messages(&mut self, end: bool) -> Vec<Cut> {
        let mut messages = Vec::new();
        loop {
            if self.lost && !self.find_marker() {
                return messages;
            }
            // Whether a message may be that long is the decoder's question, not ours.
            match frame_length(&self.buffer, true) {
                Ok(Some(length)) if self.buffer.len() >= length => {
                    let rest = self.buffer.split_off(length);
                    messages.push((std::mem::replace(&mut self.buffer, rest), self.time));
                }
                Ok(_) if end && !self.buffer.is_empty() => {
                    messages.push((std::mem::take(&mut self.buffer), self.time));
                }
                Ok(_) => return messages,
                // A bad header: show it, then look for the next good one.
                Err(_) if self.buffer.len() >= HEADER_LEN || end => {
                    let shown = self.header_in_error();
                    messages.push((self.buffer.drain(..shown).collect(), self.time));
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
