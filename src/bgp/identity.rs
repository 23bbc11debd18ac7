//! Endpoint identities as large communities (RFC 8092).
//!
//! A route carries one community `DOMAIN:HIGH:LOW` for each label hash of its endpoint ([`LabelHash`]), DOMAIN being
//! one number for the whole cluster. Communities of that domain come from slash32 only: they are believed from
//! peers with `identity = "accept"` and for prefixes inside the pools, and stripped in every other case.
//!
//! An endpoint that moves with its address carries an attachment number beside its labels, `DOMAIN:4294967295:NUMBER`:
//! a host that learns of a higher number for an address it holds knows that the address has moved on. The place is
//! taken from the hashes that begin with 32 ones: a label with such a hash (one in four billion) is not sent.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

use crate::{
    bgp::wire::LargeCommunity,
    model::{Identity, LabelHash},
};

/// The high word that marks an attachment number.
pub const SEQUENCE: u32 = u32::MAX;

/// The communities for an identity and an attachment number, in ascending order of hash, the number last.
pub fn to_communities(
    domain: u32,
    identity: Option<&Identity>,
    sequence: Option<u32>,
) -> impl Iterator<Item = LargeCommunity> {
    let hashes = identity.map(Identity::hashes).unwrap_or_default().iter().map(|hash| hash.words());
    hashes
        .filter(|(high, _)| *high != SEQUENCE)
        .chain(sequence.map(|number| (SEQUENCE, number)))
        .map(move |(local1, local2)| LargeCommunity { global: domain, local1, local2 })
}

/// The identity and the attachment number among communities: nothing if none is of the domain. Of several numbers the
/// highest counts.
pub fn from_communities(domain: u32, communities: &[LargeCommunity]) -> (Option<Identity>, Option<u32>) {
    let ours = || communities.iter().filter(|c| c.global == domain);
    let identity: Identity =
        ours().filter(|c| c.local1 != SEQUENCE).map(|c| LabelHash::from_words(c.local1, c.local2)).collect();
    ((!identity.is_empty()).then_some(identity), sequence(domain, communities))
}

/// The attachment number among communities.
pub fn sequence(domain: u32, communities: &[LargeCommunity]) -> Option<u32> {
    communities.iter().filter(|c| c.global == domain && c.local1 == SEQUENCE).map(|c| c.local2).max()
}

/// Takes the domain's communities out; how many there were.
pub fn strip(domain: u32, communities: &mut Vec<LargeCommunity>) -> usize {
    let before = communities.len();
    communities.retain(|c| c.global != domain);
    before - communities.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Labels;

    const DOMAIN: u32 = 4_200_000_000;

    #[test]
    fn there_and_back() {
        let identity = Identity::of(&Labels::try_from([("role", "web"), ("env", "dev")]).unwrap());
        let mut communities: Vec<_> = to_communities(DOMAIN, Some(&identity), Some(7)).collect();
        assert_eq!(communities.len(), 5);
        assert_eq!(communities[4].to_string(), "4200000000:4294967295:7");
        communities.push(LargeCommunity { global: 1, local1: 2, local2: 3 });
        communities.push(LargeCommunity { global: DOMAIN, local1: SEQUENCE, local2: 3 });
        assert_eq!(from_communities(DOMAIN, &communities), (Some(identity), Some(7)));
        assert_eq!(strip(DOMAIN, &mut communities), 6);
        assert_eq!(communities, [LargeCommunity { global: 1, local1: 2, local2: 3 }]);
        assert_eq!(from_communities(DOMAIN, &communities), (None, None));
    }

    /// README, "Identity": `role=web` in domain 4200000000.
    #[test]
    fn published_vector() {
        let identity: Identity = [LabelHash::of_label("role", "web")].into_iter().collect();
        let community = to_communities(DOMAIN, Some(&identity), None).next().unwrap();
        assert_eq!(community.to_string(), "4200000000:2887707938:2663773584");
    }

    #[test]
    fn a_hash_in_the_place_of_numbers_is_not_sent() {
        let identity: Identity = [LabelHash::from_words(SEQUENCE, 1)].into_iter().collect();
        assert_eq!(to_communities(DOMAIN, Some(&identity), None).count(), 0);
    }
}
