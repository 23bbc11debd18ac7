//! IP datagrams that were sent in pieces (RFC 791 section 3.2, RFC 8200 section 4.5).

use std::{collections::HashMap, net::IpAddr};

/// Datagrams that wait for the rest of their pieces. Older ones are given up for newer ones.
const MAX_WAITING: usize = 1024;
/// No datagram is longer.
const MAX_LENGTH: usize = 65_535;

/// The pieces of one datagram have this in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) id: u32,
    /// What the datagram holds, in IPv4. Not in IPv6, where only the first piece's word counts.
    pub(super) protocol: Option<u8>,
}

/// One piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fragment<'a> {
    pub(super) key: Key,
    /// The protocol of what the datagram holds, as this piece has it.
    pub(super) protocol: u8,
    /// Where the piece belongs, in octets.
    pub(super) offset: usize,
    /// It is not the last one.
    pub(super) more: bool,
    pub(super) data: &'a [u8],
}

/// A whole datagram without its IP header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Datagram {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    pub(super) payload: Vec<u8>,
}

#[derive(Debug, Default)]
struct Partial {
    /// By offset; the first to come of equal ones.
    pieces: std::collections::BTreeMap<usize, Vec<u8>>,
    protocol: Option<u8>,
    length: Option<usize>,
    /// When its first piece came, in pieces.
    number: u64,
}

/// Puts datagrams together.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    waiting: HashMap<Key, Partial>,
    seen: u64,
}

impl Fragments {
    /// Takes a piece; gives the datagram that is whole with it.
    pub(super) fn add(&mut self, fragment: &Fragment<'_>) -> Option<Datagram> {
        let end = fragment.offset + fragment.data.len();
        // All but the last piece have whole units of eight octets.
        if end > MAX_LENGTH || fragment.more && !fragment.data.len().is_multiple_of(8) {
            return None;
        }
        self.seen += 1;
        let partial = self
            .waiting
            .entry(fragment.key)
            .or_insert_with(|| Partial { number: self.seen, ..Partial::default() });
        if fragment.offset == 0 {
            partial.protocol = Some(fragment.protocol);
        }
        if !fragment.more {
            partial.length = Some(end);
        }
        partial.pieces.entry(fragment.offset).or_insert_with(|| fragment.data.to_vec());
        if let Some(payload) = partial.whole() {
            let protocol = partial.protocol.unwrap_or(fragment.protocol);
            self.waiting.remove(&fragment.key);
            let Key { source, destination, .. } = fragment.key;
            return Some(Datagram { source, destination, protocol, payload });
        }
        if self.waiting.len() > MAX_WAITING {
            let oldest = self.waiting.iter().min_by_key(|(_, p)| p.number).map(|(key, _)| *key);
            oldest.and_then(|key| self.waiting.remove(&key));
        }
        None
    }
}

impl Partial {
    fn whole(&self) -> Option<Vec<u8>> {
        let length = self.length?;
        let mut payload = Vec::with_capacity(length);
        for (offset, piece) in &self.pieces {
            // Pieces may overlap; what came first in order counts.
            let fresh = payload.len().checked_sub(*offset)?;
            payload.extend_from_slice(piece.get(fresh..).unwrap_or_default());
        }
        (payload.len() == length).then_some(payload)
    }
}
