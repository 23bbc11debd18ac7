//! Endpoint identities as large communities (RFC 8092).
//!
//! A route carries one community `DOMAIN:HIGH:LOW` for each label hash of its endpoint ([`LabelHash`]), DOMAIN being
//! one number for the whole cluster. Communities of that domain come from slash32 only: they are believed from
//! peers with `identity = "accept"` and for prefixes inside the pools, and stripped in every other case.
//!
//! An endpoint that moves with its address carries an attachment number beside its labels, `DOMAIN:4294967295:NUMBER`:
//! a host that learns of a higher number for an address it holds knows that the address has moved on. The place is
//! taken from the hashes that begin with 32 ones: a label with such a hash (one in four billion) is not sent.
//!
//! Labels that travel in full (`expand` in the configuration) are one text, `key=value` and a zero byte for each in
//! order of key, cut into words of four bytes, big endian, the last filled up with zeros: word I is the community
//! `DOMAIN:4294966784 + I:WORD`. A community list has no order, so each carries its number; 256 of them hold 1024 bytes, less
//! when there are more than 20 labels, and a label that does not fit any more is left out. The hash of each is sent as well, which a receiver compares. The
//! place is taken from the hashes that begin with FFFFFE: a label with such a hash (one in 17 million) is not sent.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

use crate::{
    bgp::wire::LargeCommunity,
    model::{Identity, LabelHash},
};

/// The high word that marks an attachment number.
pub const SEQUENCE: u32 = u32::MAX;

/// The high word of the first four bytes of labels in full; the low byte counts up.
pub const TEXT: u32 = 0xffff_fe00;
/// The most bytes of labels in full.
const MOST_TEXT: usize = 4 * 256;

/// The most communities of ours on a route. With 12 octets each they leave 500 of an UPDATE's 4096 to all else: header,
/// next hop, prefix, communities of others, and an AS path of a hundred.
const MOST: usize = 298;

/// Whether a high word is not that of a hash.
const fn is_reserved(high: u32) -> bool {
    high == SEQUENCE || high & !0xff == TEXT
}

/// The communities for an identity and an attachment number: hashes ascending, labels in full, the number.
pub fn to_communities(
    domain: u32,
    identity: Option<&Identity>,
    sequence: Option<u32>,
) -> impl Iterator<Item = LargeCommunity> {
    let hashes = identity.map(Identity::hashes).unwrap_or_default().iter().map(|hash| hash.words());
    hashes
        .filter(|(high, _)| !is_reserved(*high))
        .chain(identity.map(text_words).unwrap_or_default())
        .chain(sequence.map(|number| (SEQUENCE, number)))
        .map(move |(local1, local2)| LargeCommunity { global: domain, local1, local2 })
}

/// The identity and the attachment number among communities: nothing if none is of the domain. Of several numbers the
/// highest counts.
pub fn from_communities(domain: u32, communities: &[LargeCommunity]) -> (Option<Identity>, Option<u32>) {
    let ours = || communities.iter().filter(|c| c.global == domain);
    let hashes = ours().filter(|c| !is_reserved(c.local1));
    let mut identity: Identity = hashes.map(|c| LabelHash::from_words(c.local1, c.local2)).collect();
    let words: Vec<(u32, u32)> =
        ours().filter(|c| c.local1 & !0xff == TEXT).map(|c| (c.local1 & 0xff, c.local2)).collect();
    if !words.is_empty() {
        let text = text_of(words);
        let labels =
            text.split(|byte| *byte == 0).filter_map(|label| str::from_utf8(label).ok()?.split_once('='));
        identity = identity.with_full(labels);
    }
    ((!identity.is_empty()).then_some(identity), sequence(domain, communities))
}

/// The labels in full as words with their numbers.
fn text_words(identity: &Identity) -> Vec<(u32, u32)> {
    let mut text = Vec::new();
    // Hashes first, and an attachment number.
    let room = MOST_TEXT.min(4 * MOST.saturating_sub(identity.hashes().len() + 1));
    for (key, value) in identity.full() {
        // A label is sent in full only if its hash is.
        let hash = LabelHash::of_label(key, value);
        if text.len() + key.len() + value.len() + 2 <= room && !is_reserved(hash.words().0) {
            text.extend_from_slice(key.as_bytes());
            text.push(b'=');
            text.extend_from_slice(value.as_bytes());
            text.push(0);
        }
    }
    let word = |(number, bytes): (usize, &[u8])| {
        let mut four = [0; 4];
        four.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        (TEXT + number as u32, u32::from_be_bytes(four))
    };
    text.chunks(4).enumerate().map(word).collect()
}

/// The text of numbered words; nothing if one is missing or there twice.
fn text_of(mut words: Vec<(u32, u32)>) -> Vec<u8> {
    words.sort_unstable();
    words.dedup();
    if words.iter().enumerate().any(|(i, (number, _))| *number as usize != i) {
        return Vec::new();
    }
    words.into_iter().flat_map(|(_, word)| word.to_be_bytes()).collect()
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

    /// README, "Identity": `role=web` in full.
    #[test]
    fn labels_in_full() {
        let labels = Labels::try_from([("role", "web"), ("app", "shop-front"), ("env", "dev")]).unwrap();
        let identity = Identity::of(&labels).with_full([("role", "web")]);
        let mut communities: Vec<_> = to_communities(DOMAIN, Some(&identity), None).collect();
        let shown: Vec<String> = communities[6..].iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "4200000000:4294966784:1919904869",
                "4200000000:4294966785:1031234914",
                "4200000000:4294966786:0"
            ]
        );
        communities.reverse();
        assert_eq!(from_communities(DOMAIN, &communities), (Some(identity), None));
        // With a word missing, changed or there twice, only the hashes count.
        let hashes = Some(Identity::of(&labels));
        for damage in 0..3 {
            let mut damaged = communities.clone();
            match damage {
                0 => _ = damaged.remove(1),
                1 => damaged[1].local2 += 1,
                _ => damaged.push(LargeCommunity { local2: 7, ..damaged[1] }),
            }
            assert_eq!(from_communities(DOMAIN, &damaged).0, hashes, "{damage}");
        }
        assert_eq!(strip(DOMAIN, &mut communities), 9);
    }

    #[test]
    fn long_labels_are_left_out_in_full() {
        let value = "x".repeat(250);
        let labels = Labels::try_from(["a", "b", "c", "d", "e"].map(|k| (k, value.as_str()))).unwrap();
        let identity = Identity::in_full(&labels);
        let communities: Vec<_> = to_communities(DOMAIN, Some(&identity), None).collect();
        let (received, _) = from_communities(DOMAIN, &communities);
        let received = received.unwrap();
        assert_eq!(received.full().map(|(k, _)| k).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
        assert_eq!(received.hashes(), identity.hashes());
    }

    /// An UPDATE has 4096 octets, and a route that does not fit is not announced at all.
    #[test]
    fn the_most_labels_fit() {
        let mut labels = Labels::new();
        for n in 0..Labels::MOST {
            labels.insert(format!("key-{n}"), "x".repeat(20)).unwrap();
        }
        labels.check_count().unwrap();
        let count =
            |labels: &Labels| to_communities(DOMAIN, Some(&Identity::in_full(labels)), Some(7)).count();
        let most = count(&labels);
        assert!(most > 2 * Labels::MOST + 20 && most <= MOST, "{most}");
        labels.insert("one", "more").unwrap();
        labels.check_count().unwrap_err();
    }

    proptest::proptest! {
        #[test]
        fn any_communities_are_read(words in proptest::collection::vec((0u32..8, proptest::prelude::any::<u32>()), 0..12)) {
            let communities: Vec<_> = words
                .into_iter()
                .map(|(n, local2)| LargeCommunity { global: DOMAIN, local1: TEXT + n, local2 })
                .collect();
            proptest::prop_assert_eq!(from_communities(DOMAIN, &communities), (None, None));
        }
    }

    #[test]
    fn a_hash_in_the_place_of_numbers_is_not_sent() {
        let identity: Identity = [LabelHash::from_words(SEQUENCE, 1)].into_iter().collect();
        assert_eq!(to_communities(DOMAIN, Some(&identity), None).count(), 0);
    }
}
