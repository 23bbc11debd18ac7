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

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(offset: usize, more: bool, protocol: u8, data: &[u8]) -> Fragment<'_> {
        let [source, destination] = [1, 2].map(|last| IpAddr::from([192, 0, 2, last]));
        Fragment { key: Key { source, destination, id: 7, protocol: None }, protocol, offset, more, data }
    }

    /// The datagram after each of these pieces, which must be whole with the last one only.
    fn joined(pieces: &[Fragment<'_>]) -> Option<Datagram> {
        let mut fragments = Fragments::default();
        let (last, others) = pieces.split_last()?;
        assert!(others.iter().all(|piece| fragments.add(piece).is_none()), "whole too early: {pieces:?}");
        fragments.add(last)
    }

    #[test]
    fn overlapping_octets_count_once() {
        let (head, tail) = ([1; 16], [2; 12]);
        let whole = joined(&[piece(0, true, 6, &head), piece(8, false, 6, &tail)]).unwrap();
        assert_eq!(whole.payload, [[1; 16].as_slice(), &[2; 4]].concat());
        // In the other order too, and with a piece that is inside another.
        let whole = joined(&[piece(8, false, 6, &tail), piece(0, true, 6, &head)]).unwrap();
        assert_eq!(whole.payload.len(), 20);
        let inside = piece(8, true, 6, &[3; 8]);
        let whole = joined(&[piece(0, true, 6, &[1; 24]), inside, piece(24, false, 6, &[2; 1])]).unwrap();
        assert_eq!(whole.payload, [[1; 24].as_slice(), &[2]].concat());
    }

    #[test]
    fn a_datagram_with_a_hole_is_never_whole() {
        assert_eq!(joined(&[piece(0, true, 6, &[1; 8]), piece(16, false, 6, &[2; 4])]), None);
        assert_eq!(joined(&[piece(8, true, 6, &[1; 8]), piece(16, false, 6, &[2; 4])]), None);
        // Nor one without an end, or with pieces that no sender makes.
        assert_eq!(joined(&[piece(0, true, 6, &[1; 8]), piece(8, true, 6, &[2; 8])]), None);
        assert_eq!(joined(&[piece(8, false, 6, &[2; 4]), piece(0, true, 6, &[1; 7])]), None);
        assert_eq!(joined(&[piece(0, true, 6, &[1; 8]), piece(65_528, false, 6, &[2; 16])]), None);
    }

    #[test]
    fn the_protocol_is_the_first_pieces() {
        let whole = joined(&[piece(8, false, 17, &[2; 4]), piece(0, true, 6, &[1; 8])]).unwrap();
        assert_eq!((whole.protocol, whole.payload.len()), (6, 12));
    }

    #[test]
    fn old_pieces_make_room_for_new_ones() {
        let mut fragments = Fragments::default();
        for id in 0..2 * MAX_WAITING as u32 {
            let mut one = piece(0, true, 6, &[1; 8]);
            one.key.id = id;
            assert_eq!(fragments.add(&one), None);
            assert!(fragments.waiting.len() <= MAX_WAITING);
        }
        // The newest ones are those that are kept.
        let mut last = piece(8, false, 6, &[2; 4]);
        last.key.id = 2 * MAX_WAITING as u32 - 1;
        assert!(fragments.add(&last).is_some());
        last.key.id = 0;
        assert!(fragments.add(&last).is_none());
    }
}
