//! Walks a parsed document with the place of every key and value, and collects errors instead of stopping.

use std::{collections::BTreeSet, ops::Range};

use super::tree::{Data, Key, Node};
use crate::model::Diagnostic;

/// One file and the errors found in it.
pub(super) struct Source<'a> {
    pub(super) name: &'a str,
    pub(super) text: &'a str,
    /// Where lines end.
    line_ends: Vec<usize>,
    /// Labels that travel in full.
    pub(super) expand: &'a BTreeSet<String>,
    pub(super) errors: Vec<Diagnostic>,
}

impl<'a> Source<'a> {
    /// A file without errors yet.
    pub(super) fn new(name: &'a str, text: &'a str, expand: &'a BTreeSet<String>) -> Self {
        let line_ends = text.match_indices('\n').map(|(at, _)| at).collect();
        Self { name, text, line_ends, expand, errors: Vec::new() }
    }
}

impl Source<'_> {
    /// Records an error at a byte range.
    pub(super) fn error(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.errors.push(Diagnostic::new(self.name, self.text, span, message));
    }

    /// Records an error with advice.
    pub(super) fn error_with_help(
        &mut self,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.errors.push(Diagnostic::new(self.name, self.text, span, message).with_help(help));
    }

    /// The line of a byte offset, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        self.line_ends.partition_point(|end| *end < at) + 1
    }

    /// A string.
    pub(super) fn string<'v>(&mut self, value: &'v Node, what: &str) -> Option<&'v str> {
        if let Data::String(text) = &value.data {
            return Some(text);
        }
        let help = match value.data {
            Data::Integer(_) | Data::Float(_) | Data::Boolean(_) | Data::Date => {
                format!("put it in quotes: \"{}\"", self.text.get(value.span()).unwrap_or("…"))
            }
            _ => String::new(),
        };
        let message = format!("{what} must be a string, not {}", value.kind());
        self.error_with_help(value.span(), message, help);
        None
    }

    /// An integer in a range.
    pub(super) fn integer(
        &mut self,
        value: &Node,
        range: std::ops::RangeInclusive<i64>,
        what: &str,
    ) -> Option<i64> {
        let Data::Integer(parsed) = value.data else {
            // `8e1` is a whole number too, but not to other readers of the file.
            let digits = match value.data {
                Data::Float(number) if number.fract() == 0.0 && number.abs() < 1e15 => Some(number as i64),
                _ => None,
            };
            let help = digits.map_or_else(String::new, |digits| format!("write {digits}"));
            let message = format!("{what} must be a whole number, not {}", value.kind());
            self.error_with_help(value.span(), message, help);
            return None;
        };
        let found = parsed.filter(|n| range.contains(n));
        if found.is_none() {
            self.error(value.span(), format!("{what} must be between {} and {}", range.start(), range.end()));
        }
        found
    }

    /// A boolean.
    pub(super) fn boolean(&mut self, value: &Node, what: &str) -> Option<bool> {
        if let Data::Boolean(b) = &value.data {
            return Some(*b);
        }
        self.error(value.span(), format!("{what} must be true or false, not {}", value.kind()));
        None
    }

    /// One of several words.
    pub(super) fn word<T: Copy>(&mut self, value: &Node, what: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.string(value, what)?;
        let found = words.iter().find_map(|(w, t)| (*w == text).then_some(*t));
        if found.is_none() {
            let known: Vec<_> = words.iter().map(|(w, _)| format!("`{w}`")).collect();
            let close = words.iter().find(|(w, _)| w.eq_ignore_ascii_case(text) || near(w, text));
            let help = close.map_or_else(String::new, |(w, _)| format!("did you mean `{w}`?"));
            let message = format!("unknown {what} `{text}`: use {}", known.join(", "));
            self.error_with_help(value.span(), message, help);
        }
        found
    }

    /// A list, or one value that stands for a list of one.
    #[expect(clippy::unused_self, reason = "reads like its neighbours")]
    pub(super) fn list<'v>(&self, value: &'v Node) -> Vec<&'v Node> {
        match &value.data {
            Data::List(items) => items.iter().collect(),
            _ => vec![value],
        }
    }

    /// A table whose keys are to be taken one by one.
    pub(super) fn table<'v>(&mut self, value: &'v Node, what: &'static str) -> Option<Table<'v>> {
        if let Data::Table(map) = &value.data {
            return Some(Table { map, span: value.span(), what, seen: BTreeSet::new() });
        }
        self.error(value.span(), format!("{what} must be a table, not {}", value.kind()));
        None
    }
}

/// A table, the keys of which are taken one by one; what is left at the end is unknown.
pub(super) struct Table<'v> {
    map: &'v [(Key, Node)],
    pub(super) span: Range<usize>,
    what: &'static str,
    seen: BTreeSet<&'static str>,
}

impl<'v> Table<'v> {
    /// The value of a key, if it is there and says something: Kubernetes takes null for absent.
    pub(super) fn take(&mut self, key: &'static str) -> Option<&'v Node> {
        self.seen.insert(key);
        #[cfg(test)]
        asked::tell(key);
        let found = self.map.iter().find_map(|(k, v)| (k.name == key).then_some(v));
        found.filter(|v| !matches!(v.data, Data::Null))
    }

    /// The value of a key that must be there.
    pub(super) fn need(&mut self, source: &mut Source<'_>, key: &'static str) -> Option<&'v Node> {
        let value = self.take(key);
        if value.is_none() {
            source.error(self.span.clone(), format!("{} needs `{key}`", self.what));
        }
        value
    }

    /// Reports keys that nobody took.
    pub(super) fn finish(self, source: &mut Source<'_>) {
        for (key, _) in self.map {
            let name = key.name.as_str();
            if !self.seen.contains(name) {
                let near = self.seen.iter().find(|known| near(known, name));
                let help = match near {
                    Some(known) => format!("did you mean `{known}`?"),
                    None => {
                        format!("known keys: {}", self.seen.iter().copied().collect::<Vec<_>>().join(", "))
                    }
                };
                source.error_with_help(
                    key.span.clone(),
                    format!("unknown key `{name}` in {}", self.what),
                    help,
                );
            }
        }
    }
}

/// Whether two words differ by one letter inserted, removed or changed, by two swapped, or by a plural.
fn near(a: &str, b: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > 2 {
        return false;
    }
    let head = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let tail = a.iter().rev().zip(b.iter().rev()).take_while(|(x, y)| x == y).count();
    let longest = a.len().max(b.len());
    longest > 2 && head + tail + 2 >= longest && head.max(tail) >= longest.min(3)
}

/// Which keys are asked for, to compare with what documents say of them.
#[cfg(test)]
pub(super) mod asked {
    use std::{cell::RefCell, collections::BTreeSet};

    thread_local! {
        static KEYS: RefCell<BTreeSet<&'static str>> = const { RefCell::new(BTreeSet::new()) };
    }

    pub(super) fn tell(key: &'static str) {
        KEYS.with_borrow_mut(|keys| keys.insert(key));
    }

    /// The keys that this thread asked for so far.
    pub(in crate::policy::language) fn all() -> BTreeSet<&'static str> {
        KEYS.with_borrow(Clone::clone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likely_typing_errors() {
        assert!(near("selector", "selectr") && near("ports", "port") && near("protocol", "protcol"));
        assert!(near("egress", "egres") && near("cidr", "cidrs") && near("ingress", "ingerss"));
        assert!(!near("from", "to") && !near("selector", "cidr"));
    }
}
