//! Walks a parsed TOML document with the place of every key and value, and collects errors instead of stopping.

use std::{collections::BTreeSet, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::model::Diagnostic;

/// A value with its place.
pub(super) type Value<'a> = Spanned<DeValue<'a>>;

/// One file and the errors found in it.
pub(super) struct Source<'a> {
    pub(super) name: &'a str,
    pub(super) text: &'a str,
    pub(super) errors: Vec<Diagnostic>,
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
        self.text.get(..at).unwrap_or_default().matches('\n').count() + 1
    }

    /// A string.
    pub(super) fn string<'v>(&mut self, value: &'v Value<'_>, what: &str) -> Option<&'v str> {
        if let DeValue::String(text) = value.get_ref() {
            return Some(text);
        }
        self.error(value.span(), format!("{what} must be a string, not {}", kind(value)));
        None
    }

    /// An integer in a range.
    pub(super) fn integer(
        &mut self,
        value: &Value<'_>,
        range: std::ops::RangeInclusive<i64>,
        what: &str,
    ) -> Option<i64> {
        let DeValue::Integer(number) = value.get_ref() else {
            self.error(value.span(), format!("{what} must be a whole number, not {}", kind(value)));
            return None;
        };
        let parsed = i64::from_str_radix(number.as_str(), number.radix()).ok();
        let found = parsed.filter(|n| range.contains(n));
        if found.is_none() {
            self.error(
                value.span(),
                format!("{what} must be between {} and {}, not {number}", range.start(), range.end()),
            );
        }
        found
    }

    /// A boolean.
    pub(super) fn boolean(&mut self, value: &Value<'_>, what: &str) -> Option<bool> {
        if let DeValue::Boolean(b) = value.get_ref() {
            return Some(*b);
        }
        self.error(value.span(), format!("{what} must be true or false, not {}", kind(value)));
        None
    }

    /// One of several words.
    pub(super) fn word<T: Copy>(&mut self, value: &Value<'_>, what: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.string(value, what)?;
        let found = words.iter().find_map(|(w, t)| (*w == text).then_some(*t));
        if found.is_none() {
            let known: Vec<_> = words.iter().map(|(w, _)| format!("`{w}`")).collect();
            self.error(value.span(), format!("unknown {what} `{text}`: use {}", known.join(", ")));
        }
        found
    }

    /// A list, or one value that stands for a list of one.
    #[expect(clippy::unused_self, reason = "reads like its neighbours")]
    pub(super) fn list<'v, 'i>(&self, value: &'v Value<'i>) -> Vec<&'v Value<'i>> {
        match value.get_ref() {
            DeValue::Array(items) => items.iter().collect(),
            _ => vec![value],
        }
    }

    /// A table whose keys are to be taken one by one.
    pub(super) fn table<'v, 'i>(
        &mut self,
        value: &'v Value<'i>,
        what: &'static str,
    ) -> Option<Table<'v, 'i>> {
        if let DeValue::Table(map) = value.get_ref() {
            return Some(Table { map, span: value.span(), what, seen: BTreeSet::new() });
        }
        self.error(value.span(), format!("{what} must be a table, not {}", kind(value)));
        None
    }
}

/// A table, the keys of which are taken one by one; what is left at the end is unknown.
pub(super) struct Table<'v, 'i> {
    map: &'v DeTable<'i>,
    pub(super) span: Range<usize>,
    what: &'static str,
    seen: BTreeSet<&'static str>,
}

impl<'v, 'i> Table<'v, 'i> {
    /// The top of a document.
    pub(super) fn top(map: &'v DeTable<'i>) -> Self {
        Self { map, span: 0..0, what: "a policy file", seen: BTreeSet::new() }
    }

    /// The value of a key, if it is there.
    pub(super) fn take(&mut self, key: &'static str) -> Option<&'v Value<'i>> {
        self.seen.insert(key);
        self.map.iter().find_map(|(k, v)| (k.get_ref() == key).then_some(v))
    }

    /// The value of a key that must be there.
    pub(super) fn need(&mut self, source: &mut Source<'_>, key: &'static str) -> Option<&'v Value<'i>> {
        let value = self.take(key);
        if value.is_none() {
            source.error(self.span.clone(), format!("{} needs `{key}`", self.what));
        }
        value
    }

    /// Reports keys that nobody took.
    pub(super) fn finish(self, source: &mut Source<'_>) {
        for key in self.map.keys() {
            let name: &str = key.get_ref();
            if !self.seen.contains(name) {
                let near = self.seen.iter().find(|known| near(known, name));
                let help = match near {
                    Some(known) => format!("did you mean `{known}`?"),
                    None => {
                        format!("known keys: {}", self.seen.iter().copied().collect::<Vec<_>>().join(", "))
                    }
                };
                source.error_with_help(key.span(), format!("unknown key `{name}` in {}", self.what), help);
            }
        }
    }
}

/// What a value is, for messages.
fn kind(value: &Value<'_>) -> &'static str {
    match value.get_ref() {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
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
