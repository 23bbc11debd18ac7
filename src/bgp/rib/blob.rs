//! Path attributes as a compact run of octets: a third of the memory of the parsed form, and equal sets are equal octets.
//!
//! Not the wire format: nothing is lost (flags of unknown attributes, segments of any length), nothing depends on what a
//! peer negotiated, and ORIGIN, MULTI_EXIT_DISC and LOCAL_PREF are not in it, since [`super::attrs`] keeps them at hand.

use std::net::Ipv4Addr;

use bytes::Bytes;

use crate::bgp::wire::{
    AsSegment, AsSegmentKind, Community, ExtCommunity, LargeCommunity, PathAttributes, RawAttribute,
};

const ATOMIC_AGGREGATE: u8 = 1;
const AGGREGATOR: u8 = 2;
const COMMUNITIES: u8 = 3;
const ORIGINATOR_ID: u8 = 4;
const CLUSTER_LIST: u8 = 5;
const EXT_COMMUNITIES: u8 = 6;
const IPV6_EXT_COMMUNITIES: u8 = 7;
const LARGE_COMMUNITIES: u8 = 8;
const OTC: u8 = 9;
const UNKNOWN: u8 = 10;
const PARTIAL: u8 = 11;

/// Appends the attributes to `out` and returns how many octets of it, from its end before, are the AS path.
pub(super) fn pack(attributes: &PathAttributes, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    count(out, attributes.as_path.segments.len());
    for segment in &attributes.as_path.segments {
        out.push(segment.kind.code());
        count(out, segment.asns.len());
        for asn in &segment.asns {
            out.extend_from_slice(&asn.to_be_bytes());
        }
    }
    let as_path = out.len() - start;
    if attributes.atomic_aggregate {
        out.push(ATOMIC_AGGREGATE);
    }
    if let Some((asn, addr)) = attributes.aggregator {
        out.push(AGGREGATOR);
        out.extend_from_slice(&asn.to_be_bytes());
        out.extend_from_slice(&addr.octets());
    }
    list(out, COMMUNITIES, &attributes.communities, |c| c.0.to_be_bytes());
    if let Some(id) = attributes.originator_id {
        out.push(ORIGINATOR_ID);
        out.extend_from_slice(&id.octets());
    }
    list(out, CLUSTER_LIST, &attributes.cluster_list, Ipv4Addr::octets);
    list(out, EXT_COMMUNITIES, &attributes.ext_communities, |c| c.0);
    list(out, IPV6_EXT_COMMUNITIES, &attributes.ipv6_ext_communities, |c| *c);
    list(out, LARGE_COMMUNITIES, &attributes.large_communities, large_octets);
    if let Some(asn) = attributes.otc {
        out.push(OTC);
        out.extend_from_slice(&asn.to_be_bytes());
    }
    if attributes.partial != 0 {
        out.push(PARTIAL);
        out.extend_from_slice(&attributes.partial.to_be_bytes());
    }
    for raw in &attributes.unknown {
        out.extend_from_slice(&[UNKNOWN, raw.code, raw.flags]);
        count(out, raw.value.len());
        out.extend_from_slice(&raw.value);
    }
    as_path
}

/// The attributes that [`pack`] wrote.
pub(super) fn unpack(octets: &[u8]) -> PathAttributes {
    let mut r = Reader(octets);
    let mut attributes = PathAttributes::default();
    attributes.as_path.segments =
        r.many(|r| AsSegment { kind: segment_kind(r.octet()), asns: r.many(Reader::word) });
    while !r.0.is_empty() {
        match r.octet() {
            ATOMIC_AGGREGATE => attributes.atomic_aggregate = true,
            AGGREGATOR => attributes.aggregator = Some((r.word(), r.addr())),
            COMMUNITIES => attributes.communities = r.many(|r| Community(r.word())),
            ORIGINATOR_ID => attributes.originator_id = Some(r.addr()),
            CLUSTER_LIST => attributes.cluster_list = r.many(Reader::addr),
            EXT_COMMUNITIES => attributes.ext_communities = r.many(|r| ExtCommunity(r.array())),
            IPV6_EXT_COMMUNITIES => attributes.ipv6_ext_communities = r.many(Reader::array),
            LARGE_COMMUNITIES => {
                attributes.large_communities =
                    r.many(|r| LargeCommunity { global: r.word(), local1: r.word(), local2: r.word() });
            }
            OTC => attributes.otc = Some(r.word()),
            PARTIAL => attributes.partial = u64::from_be_bytes(r.array()),
            // Only UNKNOWN is left of what `pack` writes.
            _ => {
                let (code, flags, length) = (r.octet(), r.octet(), r.count());
                attributes.unknown.push(RawAttribute {
                    code,
                    flags,
                    value: Bytes::copy_from_slice(r.take(length)),
                });
            }
        }
    }
    attributes
}

fn segment_kind(octet: u8) -> AsSegmentKind {
    [AsSegmentKind::Set, AsSegmentKind::Sequence, AsSegmentKind::ConfedSequence, AsSegmentKind::ConfedSet]
        .into_iter()
        .find(|kind| kind.code() == octet)
        .unwrap_or(AsSegmentKind::Sequence)
}

fn large_octets(c: &LargeCommunity) -> [u8; 12] {
    let mut octets = [0; 12];
    octets[..4].copy_from_slice(&c.global.to_be_bytes());
    octets[4..8].copy_from_slice(&c.local1.to_be_bytes());
    octets[8..].copy_from_slice(&c.local2.to_be_bytes());
    octets
}

/// A count as octets of seven bits, lowest first.
fn count(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn list<T, const N: usize>(out: &mut Vec<u8>, tag: u8, items: &[T], octets: impl Fn(&T) -> [u8; N]) {
    if !items.is_empty() {
        out.push(tag);
        count(out, items.len());
        for item in items {
            out.extend_from_slice(&octets(item));
        }
    }
}

/// Reads what `pack` wrote; past the end it reads zeros rather than to panic.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        self.take(N).try_into().unwrap_or([0; N])
    }

    fn octet(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    fn word(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    fn addr(&mut self) -> Ipv4Addr {
        Ipv4Addr::from(self.array::<4>())
    }

    fn count(&mut self) -> usize {
        let (mut value, mut shift) = (0, 0);
        loop {
            let octet = self.octet();
            value |= usize::from(octet & 0x7F) << shift;
            shift += 7;
            if octet < 0x80 || shift > 28 {
                return value;
            }
        }
    }

    fn many<T>(&mut self, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.count()).map(|_| one(self)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bgp::wire::AsPath;

    #[test]
    fn everything_comes_back() {
        let full = PathAttributes {
            as_path: AsPath {
                segments: vec![
                    AsSegment { kind: AsSegmentKind::ConfedSequence, asns: vec![64512] },
                    AsSegment { kind: AsSegmentKind::Sequence, asns: (1..=300).collect() },
                    AsSegment { kind: AsSegmentKind::Set, asns: vec![7, 8] },
                    AsSegment { kind: AsSegmentKind::ConfedSet, asns: vec![9] },
                ],
            },
            atomic_aggregate: true,
            aggregator: Some((4_200_000_000, Ipv4Addr::new(192, 0, 2, 1))),
            communities: vec![Community(1), Community(u32::MAX)],
            originator_id: Some(Ipv4Addr::new(192, 0, 2, 2)),
            cluster_list: vec![Ipv4Addr::new(192, 0, 2, 3)],
            ext_communities: vec![ExtCommunity([1, 2, 3, 4, 5, 6, 7, 8])],
            ipv6_ext_communities: vec![[9; 20]],
            large_communities: vec![LargeCommunity { global: 1, local1: 2, local2: 3 }],
            otc: Some(65000),
            partial: 1 << 8,
            unknown: vec![
                RawAttribute { code: 99, flags: 0xE0, value: Bytes::from(vec![1; 200]) },
                RawAttribute { code: 100, flags: 0xC0, value: Bytes::new() },
            ],
            ..PathAttributes::default()
        };
        for attributes in [full, PathAttributes::default()] {
            let mut octets = vec![0xAA];
            let as_path = pack(&attributes, &mut octets);
            assert_eq!(unpack(&octets[1..]), attributes);
            assert!(as_path < octets.len());
        }
    }
}
