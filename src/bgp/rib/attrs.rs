//! Attribute sets, interned: each distinct set is stored once, counted by its users and compared by number.
//!
//! A set is what one peer sent with some prefixes, after import rules, next hop included. Peers are part of the key:
//! sets of different peers differ in next hop, AS path or cluster list anyway, and so a path needs to name no peer.
//! What the decision process looks at is at hand; the rest is packed ([`super::blob`]).

use std::{
    hash::{BuildHasher, Hash, Hasher},
    sync::Arc,
};

use hashbrown::{DefaultHashBuilder, HashSet, HashTable, hash_table::Entry};

use super::{blob, hops::Hops, slab::Slab};
use crate::{
    bgp::{
        PeerId, identity,
        wire::{AsPath, AsSegmentKind, Community, Origin, PathAttributes},
    },
    model::Identity,
};

/// The peer of what we originate ourselves.
pub(super) const LOCAL: PeerId = PeerId(u32::MAX);

/// A set's number; 0 stands for none.
pub(super) type AttrId = u32;

/// Flags of a set, for decisions without unpacking.
pub(super) mod flag {
    pub(in super::super) const EBGP: u16 = 1;
    pub(in super::super) const HAS_MED: u16 = 1 << 1;
    pub(in super::super) const NO_EXPORT: u16 = 1 << 2;
    pub(in super::super) const NO_ADVERTISE: u16 = 1 << 3;
    pub(in super::super) const NO_EXPORT_SUBCONFED: u16 = 1 << 4;
    pub(in super::super) const LLGR_STALE: u16 = 1 << 5;
    pub(in super::super) const NO_LLGR: u16 = 1 << 6;
    pub(in super::super) const OTC: u16 = 1 << 7;
    /// The identity has been looked for.
    pub(super) const IDENTITY_KNOWN: u16 = 1 << 8;
    /// What makes sets different beyond their attributes.
    pub(super) const KEY: u16 = EBGP;
}

/// Where a set comes from, and what is not among its attributes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origination {
    /// The peer, or [`LOCAL`].
    pub(super) peer: PeerId,
    /// Whether it is an eBGP peer.
    pub(super) ebgp: bool,
    /// The peer's BGP identifier.
    pub(super) router_id: u32,
    /// The next hop, of which a reference is handed over.
    pub(super) hop: u32,
    /// LOCAL_PREF as the decision process sees it.
    pub(super) local_pref: u32,
    /// The set before import rules changed it, of which a reference is handed over; 0 if they did not.
    pub(super) original: AttrId,
}

/// One attribute set.
#[derive(Debug)]
pub(super) struct AttrSet {
    hash: u32,
    refs: u32,
    pub(super) peer: PeerId,
    pub(super) hop: u32,
    pub(super) original: AttrId,
    pub(super) local_pref: u32,
    /// Meaningful with [`flag::HAS_MED`], else 0.
    pub(super) med: u32,
    /// The AS that MED is compared within: the first of the AS path, 0 for an empty one.
    pub(super) neighbor_as: u32,
    /// ORIGINATOR_ID, or the BGP identifier of the peer (RFC 4456 section 9).
    pub(super) router_id: u32,
    /// Link bandwidth in bytes a second; 0 when there is none.
    pub(super) bandwidth: f32,
    /// AS path length of the decision process.
    pub(super) path_len: u16,
    /// Octets of the AS path in the blob.
    as_path: u16,
    flags: u16,
    pub(super) cluster_len: u8,
    pub(super) origin: Origin,
    /// The attachment number (`bgp::identity`).
    pub(super) sequence: Option<u32>,
    blob: Box<[u8]>,
    identity: Option<Arc<Identity>>,
}

impl AttrSet {
    pub(super) fn has(&self, flags: u16) -> bool {
        self.flags & flags != 0
    }

    pub(super) fn is_external(&self) -> bool {
        self.has(flag::EBGP)
    }

    pub(super) fn is_local(&self) -> bool {
        self.peer == LOCAL
    }

    /// The AS path, packed; equal paths are equal octets.
    pub(super) fn as_path_octets(&self) -> &[u8] {
        self.blob.get(..usize::from(self.as_path)).unwrap_or_default()
    }

    pub(super) fn med(&self) -> Option<u32> {
        self.has(flag::HAS_MED).then_some(self.med)
    }

    /// Where the set comes from, for another one like it. References are the caller's to add.
    pub(super) fn origination(&self) -> Origination {
        Origination {
            peer: self.peer,
            ebgp: self.has(flag::EBGP),
            router_id: self.router_id,
            hop: self.hop,
            local_pref: self.local_pref,
            original: self.original,
        }
    }

    /// All attributes, LOCAL_PREF as it is in effect.
    pub(super) fn attributes(&self) -> PathAttributes {
        PathAttributes {
            origin: Some(self.origin),
            med: self.med(),
            local_pref: Some(self.local_pref),
            ..blob::unpack(&self.blob)
        }
    }
}

/// All attribute sets.
#[derive(Debug)]
pub(super) struct Attrs {
    sets: Slab<AttrSet>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    pub(super) hops: Hops,
    identities: HashSet<Arc<Identity>>,
    /// Identities are looked through for unused ones when there are this many.
    identities_limit: usize,
    scratch: Vec<u8>,
    domain: u32,
}

impl Attrs {
    /// No sets yet; identities are communities of `domain`.
    pub(super) fn new(domain: u32) -> Self {
        let mut sets = Slab::default();
        // Number 0 is nothing.
        sets.insert(AttrSet {
            hash: 0,
            refs: 1,
            peer: LOCAL,
            hop: 0,
            original: 0,
            local_pref: 0,
            med: 0,
            neighbor_as: 0,
            router_id: 0,
            bandwidth: 0.0,
            path_len: 0,
            as_path: 0,
            flags: 0,
            cluster_len: 0,
            origin: Origin::Incomplete,
            sequence: None,
            blob: Box::default(),
            identity: None,
        });
        Self {
            sets,
            index: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            hops: Hops::default(),
            identities: HashSet::default(),
            identities_limit: 1024,
            scratch: Vec::new(),
            domain,
        }
    }

    /// The identities' domain has changed: identities are looked for anew.
    pub(super) fn set_domain(&mut self, domain: u32) {
        self.domain = domain;
        for id in 1..self.sets.places() {
            let set = &mut self.sets[id];
            if set.refs > 0 {
                set.flags &= !flag::IDENTITY_KNOWN;
                set.identity = None;
                set.sequence = identity::sequence(domain, &set.attributes().large_communities);
            }
        }
    }
}

impl std::ops::Index<AttrId> for Attrs {
    type Output = AttrSet;
    fn index(&self, id: AttrId) -> &AttrSet {
        &self.sets[id]
    }
}

impl Attrs {
    /// How many distinct sets there are.
    pub(super) fn len(&self) -> usize {
        self.sets.len() - 1
    }

    /// The number of a set, with one more reference to it.
    pub(super) fn intern(&mut self, attributes: &PathAttributes, from: Origination) -> AttrId {
        self.scratch.clear();
        let as_path = blob::pack(attributes, &mut self.scratch);
        let mut flags = flags_of(attributes);
        if from.ebgp {
            flags |= flag::EBGP;
        }
        let med = attributes.med.unwrap_or(0);
        let origin = attributes.origin.unwrap_or(Origin::Incomplete);
        let hash = {
            // Seeded: peers choose what is hashed.
            let mut hasher = self.hasher.build_hasher();
            (from.peer, from.hop, from.local_pref, from.original, from.router_id, flags & flag::KEY)
                .hash(&mut hasher);
            (attributes.med, origin).hash(&mut hasher);
            hasher.write(&self.scratch);
            spread(hasher.finish() as u32)
        };
        let (sets, scratch) = (&mut self.sets, &self.scratch);
        let same = |id: &u32| {
            let set = &sets[*id];
            set.hash == hash as u32
                && set.peer == from.peer
                && set.hop == from.hop
                && set.local_pref == from.local_pref
                && set.original == from.original
                && (set.flags ^ flags) & (flag::KEY | flag::HAS_MED) == 0
                && (set.med, set.origin) == (med, origin)
                && *set.blob == **scratch
        };
        match self.index.entry(hash, same, |id| spread_of(&sets[*id])) {
            Entry::Occupied(found) => {
                let id = *found.get();
                self.sets[id].refs += 1;
                // The set has its own references to these.
                self.hops.release(from.hop);
                if from.original != 0 {
                    self.release(from.original);
                }
                id
            }
            Entry::Vacant(vacant) => {
                let bandwidth = attributes.ext_communities.iter().find_map(|c| c.as_link_bandwidth());
                let id = self.sets.insert(AttrSet {
                    hash: hash as u32,
                    refs: 1,
                    peer: from.peer,
                    hop: from.hop,
                    original: from.original,
                    local_pref: from.local_pref,
                    med,
                    neighbor_as: neighbor_as(&attributes.as_path),
                    router_id: attributes.originator_id.map_or(from.router_id, std::net::Ipv4Addr::to_bits),
                    bandwidth: bandwidth.unwrap_or(0.0),
                    path_len: attributes.as_path.hop_count().try_into().unwrap_or(u16::MAX),
                    as_path: as_path.try_into().unwrap_or(u16::MAX),
                    flags,
                    cluster_len: attributes.cluster_list.len().try_into().unwrap_or(u8::MAX),
                    origin,
                    sequence: identity::sequence(self.domain, &attributes.large_communities),
                    blob: self.scratch.as_slice().into(),
                    identity: None,
                });
                vacant.insert(id);
                id
            }
        }
    }

    /// One more user of a set.
    pub(super) fn retain(&mut self, id: AttrId) {
        self.sets[id].refs += 1;
    }

    /// One user less; the last one frees the set.
    pub(super) fn release(&mut self, id: AttrId) {
        let mut id = id;
        while id != 0 {
            let set = &mut self.sets[id];
            set.refs -= 1;
            if set.refs > 0 {
                return;
            }
            let (hash, hop, original) = (spread_of(set), set.hop, set.original);
            set.blob = Box::default();
            set.identity = None;
            if let Ok(entry) = self.index.find_entry(hash, |other| *other == id) {
                entry.remove();
            }
            self.hops.release(hop);
            self.sets.release(id);
            id = original;
        }
    }

    /// The identity that a set carries. Only sets whose identity is believed still have one.
    pub(super) fn identity(&mut self, id: AttrId) -> Option<Arc<Identity>> {
        if !self.sets[id].has(flag::IDENTITY_KNOWN) {
            let attributes = self.sets[id].attributes();
            let (identity, _) = identity::from_communities(self.domain, &attributes.large_communities);
            let identity = identity.map(|identity| self.shared_identity(identity));
            let set = &mut self.sets[id];
            set.flags |= flag::IDENTITY_KNOWN;
            set.identity = identity;
        }
        self.sets[id].identity.clone()
    }

    fn shared_identity(&mut self, identity: Identity) -> Arc<Identity> {
        if let Some(known) = self.identities.get(&identity) {
            return known.clone();
        }
        if self.identities.len() >= self.identities_limit {
            self.identities.retain(|known| Arc::strong_count(known) > 1);
            self.identities_limit = (self.identities.len() * 2).max(1024);
        }
        let identity = Arc::new(identity);
        self.identities.insert(identity.clone());
        identity
    }
}

fn flags_of(attributes: &PathAttributes) -> u16 {
    let mut flags = 0;
    if attributes.med.is_some() {
        flags |= flag::HAS_MED;
    }
    if attributes.otc.is_some() {
        flags |= flag::OTC;
    }
    for community in &attributes.communities {
        flags |= match *community {
            Community::NO_EXPORT => flag::NO_EXPORT,
            Community::NO_ADVERTISE => flag::NO_ADVERTISE,
            Community::NO_EXPORT_SUBCONFED => flag::NO_EXPORT_SUBCONFED,
            Community::LLGR_STALE => flag::LLGR_STALE,
            Community::NO_LLGR => flag::NO_LLGR,
            _ => 0,
        };
    }
    flags
}

/// The AS of the neighbour the route was learned from (RFC 4271 section 9.1.2.2 c): the first number of the path, if it
/// begins with a sequence; confederation segments do not count.
pub(super) fn neighbor_as(path: &AsPath) -> u32 {
    match path.segments.iter().find(|segment| !segment.kind.is_confed()) {
        Some(first) if first.kind == AsSegmentKind::Sequence => first.asns.first().copied().unwrap_or(0),
        _ => 0,
    }
}

/// The table takes its tags from the top bits and its places from the bottom ones: half a word must fill both.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_0000_0001)
}

fn spread_of(set: &AttrSet) -> u64 {
    spread(set.hash)
}
