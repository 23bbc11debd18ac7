//! Label selectors: `role == "web" && env not in {"dev", "test"}`.
//!
//! A selector is asked about an endpoint in two ways. A local endpoint's [`Labels`] are known in full. Of a remote
//! endpoint only the [`Identity`] is known, the hashes of its labels and some labels in full. That answers every
//! operator but the ones that look into a value (`contains`, `starts with`, `ends with`) of a label that did not travel
//! in full: an endpoint that cannot answer is not selected, whatever the rest says. For all others [`Selector::matches`]
//! and [`Selector::matches_identity`] agree, which a property test holds them to.
//!
//! As in Kubernetes and Calico, `!=` and `not in` are also true of an endpoint that lacks the label.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod parse;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

pub use self::parse::SelectorError;
use crate::model::{Identity, LabelHash, Labels};

/// A boolean expression over labels, normalised so that equal selectors written differently often compare equal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// `all()`: every endpoint.
    All,
    /// `!all()`: none. Also what an empty `in {}` becomes.
    Nothing,
    /// `key in {…}`; `key == "v"` is the set of one. Never empty.
    In(String, BTreeSet<String>),
    /// `has(key)`.
    Has(String),
    /// `key contains "v"` and its kin.
    Text(String, TextOp, String),
    /// `!inner`.
    Not(Box<Self>),
    /// All of them; at least two, none of them an `And`.
    And(BTreeSet<Self>),
    /// Any of them; at least two, none of them an `Or`.
    Or(BTreeSet<Self>),
}

/// An operator that looks into a label's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TextOp {
    /// The value contains the text.
    Contains,
    /// The value starts with the text.
    StartsWith,
    /// The value ends with the text.
    EndsWith,
}

impl Selector {
    /// `key == "value"`.
    pub fn equals(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self::In(key.into(), BTreeSet::from([value.into()]))
    }

    /// `key in {values}`; nothing if there are no values.
    pub fn any_value<V: Into<String>>(key: impl Into<String>, values: impl IntoIterator<Item = V>) -> Self {
        let values: BTreeSet<String> = values.into_iter().map(Into::into).collect();
        if values.is_empty() { Self::Nothing } else { Self::In(key.into(), values) }
    }

    /// The negation, with double negations removed.
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "a constructor beside `and` and `or`, not an operator")]
    pub fn not(self) -> Self {
        match self {
            Self::All => Self::Nothing,
            Self::Nothing => Self::All,
            Self::Not(inner) => *inner,
            other => Self::Not(Box::new(other)),
        }
    }

    /// The conjunction; flat, sorted, without duplicates.
    pub fn and(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut set = BTreeSet::new();
        for part in parts {
            match part {
                Self::All => {}
                Self::Nothing => return Self::Nothing,
                Self::And(inner) => set.extend(inner),
                other => _ = set.insert(other),
            }
        }
        match set.len() {
            0 => Self::All,
            1 => set.pop_first().unwrap_or(Self::All),
            _ => Self::And(set),
        }
    }

    /// The disjunction; flat, sorted, without duplicates, `in` sets over the same key joined.
    pub fn or(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut set = BTreeSet::new();
        let mut values: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut flat: Vec<Self> = Vec::new();
        for part in parts {
            match part {
                Self::Or(inner) => flat.extend(inner),
                other => flat.push(other),
            }
        }
        for part in flat {
            match part {
                Self::Nothing => {}
                Self::All => return Self::All,
                Self::In(key, more) => values.entry(key).or_default().extend(more),
                other => _ = set.insert(other),
            }
        }
        set.extend(values.into_iter().map(|(key, values)| Self::In(key, values)));
        match set.len() {
            0 => Self::Nothing,
            1 => set.pop_first().unwrap_or(Self::Nothing),
            _ => Self::Or(set),
        }
    }

    /// Whether an endpoint with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        match self {
            Self::All => true,
            Self::Nothing => false,
            Self::In(key, values) => labels.get(key).is_some_and(|v| values.contains(v)),
            Self::Has(key) => labels.has(key),
            Self::Text(key, op, text) => labels.get(key).is_some_and(|v| op.holds(v, text)),
            Self::Not(inner) => !inner.matches(labels),
            Self::And(parts) => parts.iter().all(|p| p.matches(labels)),
            Self::Or(parts) => parts.iter().any(|p| p.matches(labels)),
        }
    }

    /// Whether an endpoint of which only the identity is known is selected; false if it cannot be told. For repeated
    /// use, see [`Self::hashed`].
    pub fn matches_identity(&self, identity: &Identity) -> bool {
        self.hashed().matches(identity)
    }

    /// Every label whose value must be known in full, with the operator that asks.
    pub fn texts(&self) -> Vec<(&str, TextOp)> {
        match self {
            Self::Text(key, op, _) => vec![(key, *op)],
            Self::Not(inner) => inner.texts(),
            Self::And(parts) | Self::Or(parts) => parts.iter().flat_map(Self::texts).collect(),
            _ => Vec::new(),
        }
    }

    /// Reads a selector in which `global()` may stand: it becomes [`Self::GLOBAL`], for the caller to replace, and
    /// `all()` the opposite of it.
    pub fn parse_with_global(text: &str) -> Result<Self, SelectorError> {
        parse::parse(text, true)
    }

    /// What `has()` asks for in place of `global()`; no label has this key.
    pub const GLOBAL: &str = "global()";

    /// The same selector with each test of one label (`in`, `has`, the text operators) and each `all()` replaced.
    #[must_use]
    pub fn rewrite(&self, leaf: &dyn Fn(&Self) -> Self) -> Self {
        match self {
            Self::Not(inner) => inner.rewrite(leaf).not(),
            Self::And(parts) => Self::and(parts.iter().map(|p| p.rewrite(leaf))),
            Self::Or(parts) => Self::or(parts.iter().map(|p| p.rewrite(leaf))),
            Self::Nothing => Self::Nothing,
            other => leaf(other),
        }
    }

    /// Calls back for each label and value that it compares.
    pub fn for_values(&self, each: &mut dyn FnMut(&str, &str)) {
        match self {
            Self::In(key, values) => values.iter().for_each(|value| each(key, value)),
            Self::Not(inner) => inner.for_values(each),
            Self::And(parts) | Self::Or(parts) => parts.iter().for_each(|part| part.for_values(each)),
            _ => {}
        }
    }

    /// The keys it asks about, each as often as it is mentioned.
    pub fn keys(&self) -> Vec<&str> {
        match self {
            Self::All | Self::Nothing => Vec::new(),
            Self::In(key, _) | Self::Has(key) | Self::Text(key, ..) => vec![key],
            Self::Not(inner) => inner.keys(),
            Self::And(parts) | Self::Or(parts) => parts.iter().flat_map(Self::keys).collect(),
        }
    }

    /// The same selector about other keys.
    #[must_use]
    pub fn with_keys(&self, rename: &dyn Fn(&str) -> String) -> Self {
        match self {
            Self::All | Self::Nothing => self.clone(),
            Self::In(key, values) => Self::In(rename(key), values.clone()),
            Self::Has(key) => Self::Has(rename(key)),
            Self::Text(key, op, text) => Self::Text(rename(key), *op, text.clone()),
            Self::Not(inner) => inner.with_keys(rename).not(),
            Self::And(parts) => Self::and(parts.iter().map(|p| p.with_keys(rename))),
            Self::Or(parts) => Self::or(parts.iter().map(|p| p.with_keys(rename))),
        }
    }

    /// The selector with every label replaced by its hash.
    pub fn hashed(&self) -> HashedSelector {
        match self {
            Self::All => HashedSelector::Const(true),
            Self::Nothing => HashedSelector::Const(false),
            Self::Text(key, op, text) => HashedSelector::Text {
                hash: LabelHash::of_key(key),
                key: key.as_str().into(),
                op: *op,
                text: text.as_str().into(),
            },
            Self::In(key, values) => {
                HashedSelector::Any(values.iter().map(|v| LabelHash::of_label(key, v)).collect())
            }
            Self::Has(key) => HashedSelector::Any(Box::new([LabelHash::of_key(key)])),
            Self::Not(inner) => HashedSelector::Not(Box::new(inner.hashed())),
            Self::And(parts) => HashedSelector::And(parts.iter().map(Self::hashed).collect()),
            Self::Or(parts) => HashedSelector::Or(parts.iter().map(Self::hashed).collect()),
        }
    }
}

impl TextOp {
    fn holds(self, value: &str, text: &str) -> bool {
        match self {
            Self::Contains => value.contains(text),
            Self::StartsWith => value.starts_with(text),
            Self::EndsWith => value.ends_with(text),
        }
    }

    /// The operator as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Contains => "contains",
            Self::StartsWith => "starts with",
            Self::EndsWith => "ends with",
        }
    }
}

/// A selector over label hashes, ready to be asked many times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashedSelector {
    /// Always or never.
    Const(bool),
    /// One of the hashes is in the identity.
    Any(Box<[LabelHash]>),
    /// An operator that looks into the value of a label.
    Text {
        /// The hash of the bare key.
        hash: LabelHash,
        /// The key.
        key: Box<str>,
        /// The operator.
        op: TextOp,
        /// What to look for.
        text: Box<str>,
    },
    /// Negation.
    Not(Box<Self>),
    /// All parts.
    And(Box<[Self]>),
    /// Any part.
    Or(Box<[Self]>),
}

impl HashedSelector {
    /// Whether the endpoint behind the identity is selected; false if that cannot be told.
    pub fn matches(&self, identity: &Identity) -> bool {
        self.answer(identity).unwrap_or(false)
    }

    /// The same; none if it depends on a value that is not known. A part that decides alone needs no other.
    fn answer(&self, identity: &Identity) -> Option<bool> {
        match self {
            Self::Const(value) => Some(*value),
            Self::Any(hashes) => Some(hashes.iter().any(|h| identity.contains(*h))),
            Self::Text { hash, key, op, text } => match identity.value(key) {
                Some(value) => Some(op.holds(value, text)),
                None if identity.contains(*hash) => None,
                None => Some(false),
            },
            Self::Not(inner) => inner.answer(identity).map(|answer| !answer),
            Self::And(parts) => decide(parts, identity, false),
            Self::Or(parts) => decide(parts, identity, true),
        }
    }

    /// Hashes of which every matching identity has at least one; `None` if a match needs none of any finite list. Where
    /// there is a choice, those with the least `weight` together.
    ///
    /// This is what selectors are indexed by: an identity is compared only with selectors it shares such a hash with.
    /// A selector for which this is `None` has its [`Self::excluded`].
    pub fn required(&self, weight: &dyn Fn(LabelHash) -> usize) -> Option<Vec<LabelHash>> {
        match self {
            Self::Const(true) => None,
            Self::Const(false) => Some(Vec::new()),
            Self::Any(hashes) => Some(hashes.to_vec()),
            Self::Text { hash, .. } => Some(vec![*hash]),
            Self::Not(inner) => inner.excluded(weight),
            Self::And(parts) => lightest(parts.iter().filter_map(|p| p.required(weight)), weight),
            Self::Or(parts) => united(parts.iter().map(|p| p.required(weight))),
        }
    }

    /// Hashes of which every identity that does not match, or of which that cannot be told, has at least one; `None` if
    /// there is no finite list of them.
    ///
    /// Of [`Self::required`] and this at least one is a list: tests of labels have the first, a negation has the other
    /// of what it negates, a conjunction has the first as soon as one part has it, and the second if all have.
    pub fn excluded(&self, weight: &dyn Fn(LabelHash) -> usize) -> Option<Vec<LabelHash>> {
        match self {
            Self::Const(true) => Some(Vec::new()),
            Self::Const(false) | Self::Any(_) | Self::Text { .. } => None,
            Self::Not(inner) => inner.required(weight),
            Self::And(parts) => united(parts.iter().map(|p| p.excluded(weight))),
            Self::Or(parts) => lightest(parts.iter().filter_map(|p| p.excluded(weight)), weight),
        }
    }
}

fn lightest(
    lists: impl Iterator<Item = Vec<LabelHash>>,
    weight: &dyn Fn(LabelHash) -> usize,
) -> Option<Vec<LabelHash>> {
    lists.min_by_key(|list| list.iter().map(|hash| 1 + weight(*hash)).sum::<usize>())
}

fn united(lists: impl Iterator<Item = Option<Vec<LabelHash>>>) -> Option<Vec<LabelHash>> {
    let mut all = lists.collect::<Option<Vec<_>>>()?.concat();
    all.sort_unstable();
    all.dedup();
    Some(all)
}

/// `deciding` if any part says so, none if that depends on an unknown part, and otherwise the opposite.
fn decide(parts: &[HashedSelector], identity: &Identity, deciding: bool) -> Option<bool> {
    let mut unknown = false;
    for part in parts {
        match part.answer(identity) {
            Some(answer) if answer == deciding => return Some(deciding),
            Some(_) => {}
            None => unknown = true,
        }
    }
    (!unknown).then_some(!deciding)
}

impl FromStr for Selector {
    type Err = SelectorError;
    fn from_str(text: &str) -> Result<Self, SelectorError> {
        parse::parse(text, false)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all()"),
            Self::Nothing => f.write_str("!all()"),
            Self::In(key, values) => write_in(f, key, values, false),
            Self::Has(key) => write!(f, "has({key})"),
            Self::Text(key, op, text) => write!(f, "{key} {} {}", op.as_str(), Quoted(text)),
            Self::Not(inner) => match &**inner {
                Self::In(key, values) => write_in(f, key, values, true),
                Self::Has(key) => write!(f, "!has({key})"),
                other => write!(f, "!({other})"),
            },
            Self::And(parts) => write_joined(f, parts, " && "),
            Self::Or(parts) => write_joined(f, parts, " || "),
        }
    }
}

impl serde::Serialize for Selector {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn write_in(f: &mut fmt::Formatter<'_>, key: &str, values: &BTreeSet<String>, not: bool) -> fmt::Result {
    if let (Some(value), 1) = (values.first(), values.len()) {
        return write!(f, "{key} {} {}", if not { "!=" } else { "==" }, Quoted(value));
    }
    write!(f, "{key} {}in {{", if not { "not " } else { "" })?;
    for (i, value) in values.iter().enumerate() {
        write!(f, "{}{}", if i == 0 { "" } else { ", " }, Quoted(value))?;
    }
    f.write_str("}")
}

fn write_joined(f: &mut fmt::Formatter<'_>, parts: &BTreeSet<Selector>, by: &str) -> fmt::Result {
    for (i, part) in parts.iter().enumerate() {
        let open = if i == 0 { "" } else { by };
        if matches!(part, Selector::And(_) | Selector::Or(_)) {
            write!(f, "{open}({part})")?;
        } else {
            write!(f, "{open}{part}")?;
        }
    }
    Ok(())
}

/// A value in quotes. A label's value never has a double quote or a backslash, but a selector's text may have one of
/// the two kinds of quotes.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('"') { '\'' } else { '"' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let mut labels = Labels::new();
        for (k, v) in pairs {
            labels.insert(*k, *v).unwrap();
        }
        labels
    }

    #[test]
    fn truth() {
        let web = labels(&[("role", "web"), ("env", "prod"), ("k8s.io/app", "a-b-c")]);
        for (text, want) in [
            ("all()", true),
            ("!all()", false),
            ("role == 'web'", true),
            (r#"role != "web""#, false),
            ("absent != 'x'", true),
            ("absent == 'x'", false),
            ("role in {'db', 'web'}", true),
            ("role not in {'db', 'web'}", false),
            ("absent not in {'db'}", true),
            ("role in {}", false),
            ("role not in {}", true),
            ("has(env)", true),
            ("!has(env)", false),
            ("has(k8s.io/app) && k8s.io/app starts with 'a-'", true),
            ("k8s.io/app ends with 'c' && k8s.io/app contains 'b'", true),
            ("absent contains ''", false),
            ("role == 'db' || env == 'prod' && role == 'web'", true),
            ("(role == 'db' || env == 'prod') && role == 'x'", false),
            ("!(role == 'db') && !!has(env)", true),
        ] {
            let selector: Selector = text.parse().unwrap();
            assert_eq!(selector.matches(&web), want, "{text} parsed as {selector}");
        }
    }

    #[test]
    fn normal_form() {
        for (text, want) in [
            ("b == 'x' && a == 'y'", r#"a == "y" && b == "x""#),
            ("a == 'x' || a == 'y'", r#"a in {"x", "y"}"#),
            ("a != 'x'", r#"a != "x""#),
            ("!(a in {'x', 'y'})", r#"a not in {"x", "y"}"#),
            ("all() && a == 'x'", r#"a == "x""#),
            ("has(a) || (has(b) && has(c))", "has(a) || (has(b) && has(c))"),
            ("!(has(a) && has(b))", "!(has(a) && has(b))"),
        ] {
            assert_eq!(text.parse::<Selector>().unwrap().to_string(), want);
        }
    }

    #[test]
    fn index_hashes() {
        let required = |t: &str| t.parse::<Selector>().unwrap().hashed().required(&|_| 0);
        let excluded = |t: &str| t.parse::<Selector>().unwrap().hashed().excluded(&|_| 0);
        let web = LabelHash::of_label("role", "web");
        assert_eq!(required("role == 'web' && env != 'dev'"), Some(vec![web]));
        assert_eq!(required("role == 'web' || env != 'dev'"), None);
        assert_eq!(required("all()"), None);
        assert_eq!(required("!all()"), Some(vec![]));
        assert_eq!(required("has(a) || has(b)").map(|r| r.len()), Some(2));
        assert_eq!(required("role == 'web' && has(env) && x in {'a','b'}").map(|r| r.len()), Some(1));
        assert_eq!(excluded("role == 'web'"), None);
        assert_eq!(excluded("role != 'web'"), Some(vec![web]));
        assert_eq!(excluded("has(a) || role != 'web'"), Some(vec![web]));
        assert_eq!(excluded("!has(a) && role not in {'web', 'db'}").map(|r| r.len()), Some(3));
        assert_eq!(required("!(env != 'dev' || role != 'web')").map(|r| r.len()), Some(1));
        let common = "env == 'prod' && role == 'web'".parse::<Selector>().unwrap().hashed();
        let env = LabelHash::of_label("env", "prod");
        assert_eq!(common.required(&|hash| if hash == env { 2 } else { 1 }), Some(vec![web]));
        assert_eq!(common.required(&|hash| if hash == env { 1 } else { 2 }), Some(vec![env]));
    }

    #[test]
    fn values_are_needed_only_by_text_operators() {
        let s: Selector = "has(a) && !(role contains 'w')".parse().unwrap();
        assert_eq!(s.texts(), [("role", TextOp::Contains)]);
        let asked = |pairs, full: &[(&str, &str)]| {
            let identity = Identity::of(&labels(pairs)).with_full(full.iter().copied());
            (s.matches_identity(&identity), s.clone().not().matches_identity(&identity))
        };
        assert_eq!(asked(&[("a", "b")], &[]), (true, false), "without the label there is nothing to know");
        assert_eq!(
            asked(&[("a", "b"), ("role", "db")], &[]),
            (false, false),
            "what cannot be told is not selected"
        );
        assert_eq!(asked(&[("role", "db")], &[]), (false, true), "the other part decides");
        assert_eq!(asked(&[("a", "b"), ("role", "db")], &[("role", "db")]), (true, false));
        assert_eq!(asked(&[("a", "b"), ("role", "web")], &[("role", "web")]), (false, true));
        assert_eq!("role in {'w'}".parse::<Selector>().unwrap().texts(), []);
    }

    fn key() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["a", "b", "c.d/e", "in", "not", "has"]).prop_map(str::to_owned)
    }

    fn value() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["", "x", "y", "a=b", "it's", "in {"]).prop_map(str::to_owned)
    }

    pub(crate) fn any_selector() -> impl Strategy<Value = Selector> {
        let leaf = prop_oneof![
            1 => Just(Selector::All),
            1 => Just(Selector::Nothing),
            4 => (key(), value()).prop_map(|(k, v)| Selector::equals(k, v)),
            3 => (key(), prop::collection::vec(value(), 0..3)).prop_map(|(k, v)| Selector::any_value(k, v)),
            2 => key().prop_map(Selector::Has),
            2 => (key(), prop::sample::select(vec![TextOp::Contains, TextOp::StartsWith, TextOp::EndsWith]), value())
                .prop_map(|(key, op, text)| Selector::Text(key, op, text)),
        ];
        leaf.prop_recursive(4, 24, 3, |inner| {
            prop_oneof![
                inner.clone().prop_map(Selector::not),
                prop::collection::vec(inner.clone(), 1..4).prop_map(Selector::and),
                prop::collection::vec(inner, 1..4).prop_map(Selector::or),
            ]
        })
    }

    proptest! {
        #[test]
        fn labels_and_hashes_agree(
            selector in any_selector(),
            pairs in prop::collection::btree_map(key(), value(), 0..4),
        ) {
            let labels = Labels::try_from(pairs).unwrap();
            let identity = Identity::in_full(&labels);
            let hashed = selector.hashed();
            prop_assert_eq!(selector.matches(&labels), selector.matches_identity(&identity));
            // Of less than everything, less can be told, but nothing wrong.
            let less = Identity::of(&labels);
            prop_assert!(!hashed.matches(&less) || selector.matches(&labels));
            prop_assert!(selector.matches_identity(&less) == selector.matches(&labels) || !selector.texts().is_empty());
            let (required, excluded) = (hashed.required(&|_| 0), hashed.excluded(&|_| 0));
            prop_assert!(required.is_some() || excluded.is_some(), "nothing to index it by");
            for identity in [&identity, &less] {
                let has = |list: &Vec<LabelHash>| list.iter().any(|h| identity.contains(*h));
                let needed = if hashed.matches(identity) { &required } else { &excluded };
                prop_assert!(needed.as_ref().is_none_or(has), "the index would miss it");
            }
        }

        #[test]
        fn prints_what_it_parses(selector in any_selector()) {
            let text = selector.to_string();
            prop_assert_eq!(text.parse::<Selector>().map_err(|e| e.to_string()), Ok(selector), "{}", text);
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = text.parse::<Selector>();
        }
    }
}
