//! What a route tells about the endpoint behind it: the hashes of its labels, and some labels in full.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Labels;

/// The first 64 bits, big endian, of the SHA-256 of `key=value`, or of a bare `key` so that `has(key)` can be
/// answered. Travels as the last two words of a large community (RFC 8092): `DOMAIN:HIGH:LOW`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LabelHash(pub u64);

impl LabelHash {
    /// The hash of one label.
    pub fn of_label(key: &str, value: &str) -> Self {
        Self::of_bytes(&[key.as_bytes(), b"=", value.as_bytes()])
    }

    /// The hash that says only that `key` is present.
    pub fn of_key(key: &str) -> Self {
        Self::of_bytes(&[key.as_bytes()])
    }

    fn of_bytes(parts: &[&[u8]]) -> Self {
        let mut sha = Sha256::new();
        for part in parts {
            sha.update(part);
        }
        let digest = sha.finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        Self(u64::from_be_bytes(first))
    }

    /// The two words that go into the large community, high first.
    pub const fn words(self) -> (u32, u32) {
        ((self.0 >> 32) as u32, self.0 as u32)
    }

    /// The hash from the two words of a large community.
    pub const fn from_words(high: u32, low: u32) -> Self {
        Self((high as u64) << 32 | low as u64)
    }
}

impl fmt::Display for LabelHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for LabelHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The identity of an endpoint as other hosts see it: a sorted set of label hashes, and the labels that travel in full.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Identity {
    hashes: Box<[LabelHash]>,
    /// Each of them is among the hashes too. None rather than empty.
    full: Option<Box<Labels>>,
}

impl Identity {
    /// The identity of a set of labels: for each, the hash of `key=value` and the hash of `key`.
    pub fn of(labels: &Labels) -> Self {
        labels.iter().flat_map(|(k, v)| [LabelHash::of_label(k, v), LabelHash::of_key(k)]).collect()
    }

    /// What an endpoint announces: the identity of its labels and of the bare key [`Self::ENDPOINT`], which says that
    /// there is an endpoint even if it has no labels. A route without any identity is from somebody who tells nothing.
    pub fn of_endpoint(labels: &Labels) -> Self {
        let labels = Self::of(labels);
        labels.hashes.iter().copied().chain([LabelHash::of_key(Self::ENDPOINT)]).collect()
    }

    /// The identity of an endpoint of which every label is known in full: what it announces, and more. So an endpoint
    /// without labels is known here as it is elsewhere, and `all()` selects it.
    pub fn in_full(labels: &Labels) -> Self {
        Self { full: (!labels.is_empty()).then(|| Box::new(labels.clone())), ..Self::of_endpoint(labels) }
    }

    /// Adds labels in full. One whose hash is not in the identity is left out: a text that was damaged or made up on
    /// the way says nothing about the endpoint.
    #[must_use]
    pub fn with_full<'a>(mut self, labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut full = self.full.take().map_or_else(Labels::new, |full| *full);
        for (key, value) in labels {
            if self.contains(LabelHash::of_label(key, value)) {
                // What is not a label cannot have been hashed as one.
                let _ = full.insert(key, value);
            }
        }
        self.full = (!full.is_empty()).then(|| Box::new(full));
        self
    }

    /// The labels that are known in full.
    pub fn full(&self) -> impl Iterator<Item = (&str, &str)> {
        self.full.iter().flat_map(|labels| labels.iter())
    }

    /// The value of a label, if it is known in full.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.full.as_ref()?.get(key)
    }

    /// The key that every endpoint announces.
    pub const ENDPOINT: &str = "slash32.io/endpoint";

    /// The key of a label that stands for those of an endpoint of this host that nobody knows: its file was lost, and the
    /// kernel does not tell them. It is not announced.
    pub const UNKNOWN: &str = "slash32.io/labels-unknown";

    /// Whether the hash is in the set.
    pub fn contains(&self, hash: LabelHash) -> bool {
        self.hashes.binary_search(&hash).is_ok()
    }

    /// The hashes in ascending order.
    pub fn hashes(&self) -> &[LabelHash] {
        &self.hashes
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }
}

impl FromIterator<LabelHash> for Identity {
    fn from_iter<I: IntoIterator<Item = LabelHash>>(hashes: I) -> Self {
        let mut hashes: Vec<_> = hashes.into_iter().collect();
        hashes.sort_unstable();
        hashes.dedup();
        Self { hashes: hashes.into(), full: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published test vectors (README, "Identity"); `printf 'role=web' | sha256sum` gives the same.
    #[test]
    fn published_vectors() {
        assert_eq!(LabelHash::of_label("role", "web").to_string(), "ac1eed229ec5f590");
        assert_eq!(LabelHash::of_key("role").to_string(), "4b168d88dc872a77");
    }

    #[test]
    fn labels_in_full_must_be_hashed_too() {
        let labels = Labels::try_from([("role", "web"), ("env", "dev")]).unwrap();
        let identity = Identity::of(&labels).with_full([("role", "web"), ("env", "prod"), ("x", "y")]);
        assert_eq!(identity.full().collect::<Vec<_>>(), [("role", "web")]);
        assert_eq!((identity.value("role"), identity.value("env")), (Some("web"), None));
        assert_eq!(Identity::in_full(&labels).full().count(), 2);
        assert_eq!(Identity::of(&labels).with_full([("x", "y")]), Identity::of(&labels));
    }

    #[test]
    fn set_and_words() {
        let id = Identity::of(&Labels::try_from([("role", "web"), ("env", "dev")]).unwrap());
        assert_eq!(id.hashes().len(), 4);
        let hash = LabelHash::of_label("env", "dev");
        let (high, low) = hash.words();
        assert_eq!(LabelHash::from_words(high, low), hash);
        assert!(
            id.contains(hash)
                && id.contains(LabelHash::of_key("env"))
                && !id.contains(LabelHash::of_key("x"))
        );
    }
}
