//! Import and export rules.
//!
//! A rule is a flat table in the configuration: what must match (all of what is given), what to do, what to change.
//! Rules are tried in order; the first that matches with `accept` or `reject` decides, one with `next` only applies its
//! changes and goes on. Without a match the route is accepted.

use serde::{Deserialize, Deserializer};

use super::as_path_pattern::AsPathPattern;
use super::community_match::{AnyCommunity, CommunityMatch};
use crate::model::{Family, Prefix};

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// A name for `explain`; the position in the list otherwise.
    pub name: Option<String>,
    /// Prefixes to match, exactly unless `ge` or `le` are given.
    #[serde(deserialize_with = "one_or_many")]
    pub prefix: Vec<Prefix>,
    /// Longer prefixes inside `prefix` match too, from this length on.
    pub ge: Option<u8>,
    /// Longer prefixes inside `prefix` match too, up to this length.
    pub le: Option<u8>,
    /// The address family to match.
    pub family: Option<Family>,
    /// Communities that must all be there (standard, extended or large, `*` as a wildcard field).
    #[serde(deserialize_with = "one_or_many")]
    pub community: Vec<CommunityMatch>,
    /// The AS path to match.
    pub as_path: Option<AsPathPattern>,
    /// The network that the next hop must be in.
    #[serde(deserialize_with = "one_or_many")]
    pub next_hop: Vec<Prefix>,
    /// What to do.
    pub action: Action,
    /// Sets LOCAL_PREF.
    pub set_local_pref: Option<u32>,
    /// Sets MULTI_EXIT_DISC.
    pub set_med: Option<u32>,
    /// Adds communities.
    #[serde(deserialize_with = "one_or_many")]
    pub add_community: Vec<AnyCommunity>,
    /// Removes the communities that match.
    #[serde(deserialize_with = "one_or_many")]
    pub remove_community: Vec<CommunityMatch>,
    /// Puts our AS in front so many more times.
    pub prepend: u8,
}

/// What a rule does with a route that matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Takes it, with the rule's changes.
    #[default]
    Accept,
    /// Leaves it out.
    Reject,
    /// Applies the changes and tries the next rule.
    Next,
}

fn one_or_many<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany<T> {
        One(T),
        Many(Vec<T>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}
