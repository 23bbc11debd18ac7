//! Import and export rules.
//!
//! A rule is a flat table in the configuration: what must match (all of what is given), what to do, what to change.
//! Rules are tried in order; the first that matches with `accept` or `reject` decides, one with `next` only applies its
//! changes and goes on. Without a match the route is accepted. Matches look at the route as it came to the list, not at
//! what rules before have changed.

use std::net::IpAddr;

use serde::{Deserialize, Deserializer};
use smallvec::SmallVec;

use super::{
    as_path_pattern::AsPathPattern,
    community_match::{AnyCommunity, CommunityMatch},
};
use crate::{
    bgp::wire::{AsPath, AsSegment, AsSegmentKind, PathAttributes},
    model::{Asn, Family, Prefix},
};

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

impl Rule {
    /// Why the rule can never match or makes no sense, if so.
    pub fn contradiction(&self) -> Option<String> {
        let (ge, le) = (self.ge, self.le);
        if self.prefix.is_empty() && (ge.is_some() || le.is_some()) {
            return Some("`ge` and `le` need a `prefix`".into());
        }
        if let (Some(ge), Some(le)) = (ge, le)
            && ge > le
        {
            return Some(format!("ge = {ge} is above le = {le}"));
        }
        for prefix in &self.prefix {
            let bits = prefix.family().bits();
            if self.family.is_some_and(|family| family != prefix.family()) {
                return Some(format!("{prefix} is not of the family of the rule"));
            }
            if [ge, le].into_iter().flatten().any(|limit| limit < prefix.len() || limit > bits) {
                return Some(format!("`ge` and `le` must be from {} to {bits} for {prefix}", prefix.len()));
            }
        }
        None
    }

    /// Whether the rule changes anything of a route.
    pub(super) fn changes(&self) -> bool {
        self.set_local_pref.is_some()
            || self.set_med.is_some()
            || !self.add_community.is_empty()
            || !self.remove_community.is_empty()
            || self.prepend > 0
    }

    fn matches_prefix(&self, prefix: Prefix) -> bool {
        if self.family.is_some_and(|family| family != prefix.family()) {
            return false;
        }
        self.prefix.is_empty()
            || self.prefix.iter().any(|base| {
                let (low, high) = match (self.ge, self.le) {
                    (None, None) => (base.len(), base.len()),
                    (ge, le) => (ge.unwrap_or(base.len()), le.unwrap_or(base.family().bits())),
                };
                base.covers(prefix) && (low..=high).contains(&prefix.len())
            })
    }

    fn matches_attributes(&self, attributes: &PathAttributes, next_hop: Option<IpAddr>) -> bool {
        self.community.iter().all(|c| c.matches(attributes))
            && self.as_path.as_ref().is_none_or(|pattern| pattern.matches(&attributes.as_path))
            && (self.next_hop.is_empty()
                || next_hop.is_some_and(|addr| self.next_hop.iter().any(|net| net.contains_addr(addr))))
    }

    /// Makes the rule's changes; `asn` is what is put in front.
    pub(super) fn apply(&self, attributes: &mut PathAttributes, asn: Asn) {
        if self.set_local_pref.is_some() {
            attributes.local_pref = self.set_local_pref;
        }
        if self.set_med.is_some() {
            attributes.med = self.set_med;
        }
        for pattern in &self.remove_community {
            pattern.remove_from(attributes);
        }
        for community in &self.add_community {
            community.add_to(attributes);
        }
        prepend(&mut attributes.as_path, asn, self.prepend.into());
    }
}

/// Puts an AS number in front of a path, `times` times (RFC 4271 section 5.1.2 a).
pub(super) fn prepend(path: &mut AsPath, asn: Asn, times: usize) {
    if times == 0 {
        return;
    }
    match path.segments.first_mut() {
        Some(first) if first.kind == AsSegmentKind::Sequence => {
            first.asns.splice(..0, std::iter::repeat_n(asn.get(), times));
        }
        _ => {
            let asns = vec![asn.get(); times];
            path.segments.insert(0, AsSegment { kind: AsSegmentKind::Sequence, asns });
        }
    }
}

/// The rules whose changes apply, by their place in the list.
pub(super) type Matched = SmallVec<[u16; 4]>;

/// A list of rules against one set of attributes: what does not depend on the prefix is tried once.
#[derive(Debug)]
pub(super) struct Evaluation<'a> {
    rules: &'a [Rule],
    /// Places of the rules that the attributes match.
    candidates: Matched,
}

impl<'a> Evaluation<'a> {
    pub(super) fn new(rules: &'a [Rule], attributes: &PathAttributes, next_hop: Option<IpAddr>) -> Self {
        let matching =
            rules.iter().enumerate().filter(|(_, rule)| rule.matches_attributes(attributes, next_hop));
        Self { rules, candidates: matching.map(|(place, _)| place as u16).collect() }
    }

    /// No rules.
    pub(super) fn none() -> Self {
        Self { rules: &[], candidates: Matched::new() }
    }

    /// The rules to apply to a prefix; `None` when it is rejected.
    pub(super) fn verdict(&self, prefix: Prefix) -> Option<Matched> {
        let mut matched = Matched::new();
        for &place in &self.candidates {
            let rule = &self.rules[usize::from(place)];
            if !rule.matches_prefix(prefix) {
                continue;
            }
            if rule.action == Action::Reject {
                return None;
            }
            if rule.changes() {
                matched.push(place);
            }
            if rule.action == Action::Accept {
                break;
            }
        }
        Some(matched)
    }
}

/// Makes the changes of the rules at the places that [`Evaluation::verdict`] gave; `asn` is what they prepend.
pub(super) fn apply(rules: &[Rule], matched: &[u16], attributes: &mut PathAttributes, asn: Asn) {
    for rule in matched.iter().filter_map(|place| rules.get(usize::from(*place))) {
        rule.apply(attributes, asn);
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bgp::wire::Community;

    fn rules(text: &str) -> Vec<Rule> {
        #[derive(Deserialize)]
        struct File {
            rule: Vec<Rule>,
        }
        toml::from_str::<File>(text).unwrap().rule
    }

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn prefix_lengths() {
        let list = rules(
            r#"
            rule = [
              { prefix = "10.0.0.0/8", action = "reject" },
              { prefix = ["10.1.0.0/16", "fd00::/16"], ge = 24, action = "reject" },
              { prefix = "10.2.0.0/16", le = 20, action = "reject" },
              { prefix = "10.3.0.0/16", ge = 18, le = 20, action = "reject" },
            ]"#,
        );
        let evaluation = Evaluation::new(&list, &PathAttributes::default(), None);
        for (text, rejected) in [
            ("10.0.0.0/8", true),
            ("10.0.0.0/9", false),
            ("10.1.0.0/16", false),
            ("10.1.2.0/24", true),
            ("10.1.2.3/32", true),
            ("fd00:1::/32", true),
            ("10.2.0.0/16", true),
            ("10.2.0.0/20", true),
            ("10.2.0.0/21", false),
            ("10.3.0.0/17", false),
            ("10.3.0.0/18", true),
            ("10.3.0.0/21", false),
        ] {
            assert_eq!(evaluation.verdict(prefix(text)).is_none(), rejected, "{text}");
        }
    }

    #[test]
    fn first_match_decides_and_next_goes_on() {
        let list = rules(
            r#"
            rule = [
              { community = "65000:1", set_med = 5, action = "next" },
              { family = "ipv4", set_local_pref = 200, add_community = "no-export", remove_community = "65000:*", prepend = 2 },
              { action = "reject" },
            ]"#,
        );
        let attributes = PathAttributes {
            communities: vec![Community(65000 << 16 | 1)],
            as_path: AsPath::sequence([7]),
            ..Default::default()
        };
        let evaluation = Evaluation::new(&list, &attributes, None);
        let matched = evaluation.verdict(prefix("10.0.0.0/8")).unwrap();
        assert_eq!(matched.as_slice(), [0, 1]);
        let mut changed = attributes.clone();
        apply(&list, &matched, &mut changed, Asn::new(9).unwrap());
        assert_eq!(
            changed,
            PathAttributes {
                med: Some(5),
                local_pref: Some(200),
                communities: vec![Community::NO_EXPORT],
                as_path: AsPath::sequence([9, 9, 7]),
                ..Default::default()
            }
        );
        assert_eq!(evaluation.verdict(prefix("fd00::/8")), None);
    }

    #[test]
    fn next_hop_and_as_path() {
        let list = rules(r#"rule = [{ next_hop = "192.0.2.0/24", as_path = "^65001", action = "reject" }]"#);
        let with = |asn: u32, hop: &str| {
            let attributes = PathAttributes { as_path: AsPath::sequence([asn]), ..Default::default() };
            Evaluation::new(&list, &attributes, hop.parse().ok()).verdict(prefix("10.0.0.0/8")).is_none()
        };
        assert!(with(65001, "192.0.2.7"));
        assert!(!with(65002, "192.0.2.7"));
        assert!(!with(65001, "192.0.3.7"));
        assert!(!with(65001, ""));
    }

    #[test]
    fn contradictions_are_found() {
        for (text, wrong) in [
            (r#"rule = [{ prefix = "10.0.0.0/8", ge = 8, le = 32 }]"#, false),
            (r"rule = [{ ge = 8 }]", true),
            (r#"rule = [{ prefix = "10.0.0.0/8", ge = 7 }]"#, true),
            (r#"rule = [{ prefix = "10.0.0.0/8", le = 33 }]"#, true),
            (r#"rule = [{ prefix = "10.0.0.0/8", ge = 24, le = 20 }]"#, true),
            (r#"rule = [{ prefix = "10.0.0.0/8", family = "ipv6" }]"#, true),
        ] {
            assert_eq!(rules(text)[0].contradiction().is_some(), wrong, "{text}");
        }
        assert!(toml::from_str::<Rule>("unknown = 1").is_err());
    }

    #[test]
    fn prepends_in_front_of_sets() {
        let mut path = AsPath { segments: vec![AsSegment { kind: AsSegmentKind::Set, asns: vec![1, 2] }] };
        prepend(&mut path, Asn::new(9).unwrap(), 1);
        assert_eq!(path.to_string(), "9 {1,2}");
    }
}
