//! Patterns over AS paths, for filter rules.
//!
//! Words separated by spaces (or `_`): an AS number, a range `64512-65534`, `.` for any one AS, `*` for any number of
//! ASes. `^` at the start and `$` at the end tie the pattern to the path's ends; without them it may match anywhere.
//! `^$` is the empty path. Confederation segments do not take part; the members of a set are tried in wire order.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, de};

use crate::bgp::wire::{AsPath, AsSegmentKind};

/// A parsed pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AsPathPattern {
    text: Box<str>,
    words: Box<[Word]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Word {
    /// One AS in this range.
    One(u32, u32),
    /// Any number of ASes, none included.
    Any,
}

/// Why a text is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{word}` in AS path pattern `{pattern}` is none of: AS number, range 64512-65534, `.` (one AS), `*` (any), `^` first, `$` last"
)]
pub struct AsPathPatternError {
    pattern: String,
    word: String,
}

impl AsPathPattern {
    /// Whether the path matches.
    pub fn matches(&self, path: &AsPath) -> bool {
        let confed = |kind| matches!(kind, AsSegmentKind::ConfedSequence | AsSegmentKind::ConfedSet);
        let asns: Vec<u32> =
            path.segments.iter().filter(|s| !confed(s.kind)).flat_map(|s| s.asns.iter().copied()).collect();
        matches(&self.words, &asns)
    }
}

/// Greedy matching with one point of return, as for file name patterns: linear for the patterns people write.
fn matches(words: &[Word], asns: &[u32]) -> bool {
    let (mut w, mut a) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    loop {
        match (words.get(w), asns.get(a)) {
            (Some(Word::Any), _) => {
                retry = Some((w + 1, a));
                w += 1;
            }
            (Some(Word::One(low, high)), Some(asn)) if (low..=high).contains(&asn) => {
                w += 1;
                a += 1;
            }
            (None, None) => return true,
            _ => match retry {
                Some((word, from)) if from < asns.len() => {
                    retry = Some((word, from + 1));
                    (w, a) = (word, from + 1);
                }
                _ => return false,
            },
        }
    }
}

impl FromStr for AsPathPattern {
    type Err = AsPathPatternError;

    fn from_str(text: &str) -> Result<Self, AsPathPatternError> {
        let trimmed = text.trim();
        let (anchored_start, rest) = match trimmed.strip_prefix('^') {
            Some(rest) => (true, rest),
            None => (false, trimmed),
        };
        let (anchored_end, rest) = match rest.strip_suffix('$') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let mut words = Vec::new();
        if !anchored_start {
            words.push(Word::Any);
        }
        for word in rest.split(|c: char| c.is_whitespace() || c == '_').filter(|w| !w.is_empty()) {
            words.push(
                parse_word(word)
                    .ok_or_else(|| AsPathPatternError { pattern: text.to_owned(), word: word.to_owned() })?,
            );
        }
        if !anchored_end {
            words.push(Word::Any);
        }
        words.dedup_by(|b, a| *a == Word::Any && *b == Word::Any);
        Ok(Self { text: trimmed.into(), words: words.into() })
    }
}

fn parse_word(word: &str) -> Option<Word> {
    match word {
        "*" => return Some(Word::Any),
        "." => return Some(Word::One(0, u32::MAX)),
        _ => {}
    }
    let (low, high) = word.split_once('-').unwrap_or((word, word));
    let asn = |text: &str| text.parse::<crate::model::Asn>().ok().map(crate::model::Asn::get);
    let (low, high) = (asn(low)?, asn(high)?);
    (low <= high).then_some(Word::One(low, high))
}

impl fmt::Display for AsPathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for AsPathPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bgp::wire::AsSegment;

    fn path(asns: &[u32]) -> AsPath {
        if asns.is_empty() {
            return AsPath::default();
        }
        AsPath { segments: vec![AsSegment { kind: AsSegmentKind::Sequence, asns: asns.to_vec() }] }
    }

    #[test]
    fn table() {
        for (pattern, asns, expected) in [
            ("^$", &[][..], true),
            ("^$", &[1], false),
            ("", &[], true),
            ("65001", &[1, 65001, 2], true),
            ("65001", &[1, 2], false),
            ("^65001", &[65001, 2], true),
            ("^65001", &[1, 65001], false),
            ("65002$", &[1, 65002], true),
            ("65002$", &[65002, 1], false),
            ("^1 * 3$", &[1, 3], true),
            ("^1 * 3$", &[1, 2, 2, 3], true),
            ("^1 . 3$", &[1, 3], false),
            ("^1 . 3$", &[1, 9, 3], true),
            ("^64512-65534$", &[65000], true),
            ("^64512-65534$", &[65535], false),
            ("_2_3_", &[1, 2, 3, 4], true),
            ("2 3", &[2, 2, 3], true),
            ("^* 1 2 * 1 3$", &[1, 2, 1, 2, 1, 3], true),
            ("^* 1 2 * 1 3$", &[1, 2, 1, 2, 1, 4], false),
            ("1.10", &[65546], true),
        ] {
            let parsed: AsPathPattern = pattern.parse().unwrap();
            assert_eq!(parsed.matches(&path(asns)), expected, "{pattern} {asns:?}");
        }
    }

    #[test]
    fn sets_count_and_confederations_do_not() {
        let segment = |kind, asns: &[u32]| AsSegment { kind, asns: asns.to_vec() };
        let path = AsPath {
            segments: vec![
                segment(AsSegmentKind::ConfedSequence, &[7]),
                segment(AsSegmentKind::Sequence, &[1]),
                segment(AsSegmentKind::Set, &[2, 3]),
            ],
        };
        assert!("^1 2 3$".parse::<AsPathPattern>().unwrap().matches(&path));
        assert!(!"7".parse::<AsPathPattern>().unwrap().matches(&path));
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        for text in ["x", "0", "5-2", "1-", "^1 ^2", "1$2", "4294967296"] {
            assert!(text.parse::<AsPathPattern>().is_err(), "{text}");
        }
    }
}
