//! Endpoint labels: small sorted `key=value` maps.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// The longest label key in bytes, as in Kubernetes (a 253-byte DNS prefix, a slash, a 63-byte name).
const MAX_KEY: usize = 317;
/// The longest label value in bytes.
const MAX_VALUE: usize = 255;

/// Why a label was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// The key is empty, too long or has a character outside `A-Z a-z 0-9 - _ . /`.
    #[error(
        "label key `{0}` is not valid: use letters, digits, `-`, `_`, `.` and `/`, at most {MAX_KEY} bytes"
    )]
    Key(String),
    /// The value is too long or has a control character, a quote or a backslash.
    #[error(
        "the value of label `{key}` is not valid: printable text without quotes, at most {MAX_VALUE} bytes"
    )]
    Value {
        /// The key it was given for.
        key: String,
    },
    /// More than an announcement has room for.
    #[error("{0} labels are too many: an endpoint has at most {most}, which is what one BGP UPDATE has room for", most = Labels::MOST)]
    TooMany(usize),
}

/// A set of labels, sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// The most labels of an endpoint: what a BGP UPDATE of 4096 octets has room for, see `bgp::identity`.
    pub const MOST: usize = 128;

    /// No labels.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Those of an endpoint whose labels nobody knows: one that says so ([`Identity::UNKNOWN`](super::Identity::UNKNOWN)).
    pub fn unknown() -> Self {
        Self(BTreeMap::from([(super::Identity::UNKNOWN.to_owned(), String::new())]))
    }

    /// Whether they are [`Self::unknown`].
    pub fn are_unknown(&self) -> bool {
        self.has(super::Identity::UNKNOWN)
    }

    /// Adds or replaces one label.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<String>) -> Result<(), LabelError> {
        let (key, value) = (key.into(), value.into());
        let key_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        if key.is_empty() || key.len() > MAX_KEY || !key.chars().all(key_char) {
            return Err(LabelError::Key(key));
        }
        if value.len() > MAX_VALUE || value.chars().any(|c| c.is_control() || matches!(c, '"' | '\\')) {
            return Err(LabelError::Value { key });
        }
        self.0.insert(key, value);
        Ok(())
    }

    /// Removes one label; true if it was there.
    pub fn remove(&mut self, key: &str) -> bool {
        self.0.remove(key).is_some()
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Whether `key` is present.
    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// The labels in order of key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// How many labels there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// That there are no more than [`Self::MOST`].
    pub fn check_count(&self) -> Result<(), LabelError> {
        if self.len() > Self::MOST { Err(LabelError::TooMany(self.len())) } else { Ok(()) }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Lays `over` on top: its labels replace ours of the same key.
    pub fn extend(&mut self, over: &Self) {
        self.0.extend(over.0.iter().map(|(k, v)| (k.clone(), v.clone())));
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (key, value)) in self.iter().enumerate() {
            write!(f, "{}{key}={value}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl TryFrom<BTreeMap<String, String>> for Labels {
    type Error = LabelError;
    fn try_from(map: BTreeMap<String, String>) -> Result<Self, LabelError> {
        let mut labels = Self::new();
        for (key, value) in map {
            labels.insert(key, value)?;
        }
        Ok(labels)
    }
}

impl From<Labels> for BTreeMap<String, String> {
    fn from(labels: Labels) -> Self {
        labels.0
    }
}

impl<K: Into<String>, V: Into<String>, const N: usize> TryFrom<[(K, V); N]> for Labels {
    type Error = LabelError;
    fn try_from(pairs: [(K, V); N]) -> Result<Self, LabelError> {
        let mut labels = Self::new();
        for (key, value) in pairs {
            labels.insert(key, value)?;
        }
        Ok(labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validates_and_prints() {
        let labels = Labels::try_from([("role", "web"), ("env", "prod"), ("k8s.io/app", "")]).unwrap();
        assert_eq!(labels.to_string(), "env=prod,k8s.io/app=,role=web");
        assert!(Labels::try_from([("", "x")]).is_err());
        assert!(Labels::try_from([("a b", "x")]).is_err());
        assert!(Labels::try_from([("a", "x\ny")]).is_err());
        assert!(serde_json::from_str::<Labels>(r#"{"a=b":"c"}"#).is_err());
    }
}
