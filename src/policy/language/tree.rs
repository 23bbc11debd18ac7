//! One kind of tree for TOML and YAML documents, with the place of every key and value.

use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::model::Diagnostic;

/// Nesting beyond this is refused, so that a hostile file cannot exhaust the stack.
const MAX_DEPTH: usize = 64;

/// A value and its place in the file, in bytes.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) data: Data,
    span: Range<usize>,
}

/// What a node is.
#[derive(Clone, Debug)]
pub(super) enum Data {
    String(String),
    /// None: beyond 64 bits.
    Integer(Option<i64>),
    Float(f64),
    Boolean(bool),
    Date,
    Null,
    List(Vec<Node>),
    Table(Vec<(Key, Node)>),
}

/// A table's key and its place.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) span: Range<usize>,
}

impl Node {
    /// Its place.
    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// What it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self.data {
            Data::String(_) => "a string",
            Data::Integer(_) => "a number",
            Data::Float(_) => "a fraction",
            Data::Boolean(_) => "true or false",
            Data::Date => "a date",
            Data::Null => "nothing",
            Data::List(_) => "a list",
            Data::Table(_) => "a table",
        }
    }

    /// The value of a key, if this is a table that has it.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match &self.data {
            Data::Table(entries) => entries.iter().find(|(k, _)| k.name == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The text, if this is a string.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.data {
            Data::String(text) => Some(text),
            _ => None,
        }
    }
}

/// Reads a TOML document.
pub(super) fn toml(name: &str, text: &str) -> Result<Node, Diagnostic> {
    match DeTable::parse(text) {
        Ok(table) => Ok(Node { span: table.span(), data: from_table(table.get_ref()) }),
        Err(error) => Err(Diagnostic::new(name, text, error.span().unwrap_or(0..0), error.message())),
    }
}

fn from_table(table: &DeTable<'_>) -> Data {
    let entry = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let name: &std::borrow::Cow<'_, str> = key.get_ref();
        (Key { name: name.to_string(), span: key.span() }, from_toml(value))
    };
    Data::Table(table.iter().map(entry).collect())
}

fn from_toml(value: &Spanned<DeValue<'_>>) -> Node {
    let data = match value.get_ref() {
        DeValue::String(text) => Data::String(text.to_string()),
        DeValue::Integer(number) => Data::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok()),
        DeValue::Float(number) => Data::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(b) => Data::Boolean(*b),
        DeValue::Datetime(_) => Data::Date,
        DeValue::Array(items) => Data::List(items.iter().map(from_toml).collect()),
        DeValue::Table(table) => from_table(table),
    };
    Node { data, span: value.span() }
}

/// Reads the documents of a YAML stream; empty ones are left out. Aliases are refused: policies have no use for them,
/// and a few of them can stand for gigabytes.
pub(super) fn yaml(name: &str, text: &str) -> Result<Vec<Node>, Diagnostic> {
    let places = Places::new(text);
    let mut builder = YamlBuilder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let at = places.byte(error.marker().index());
            Diagnostic::new(name, text, at..at + 1, error.info())
        })?;
        let span = places.span(span);
        builder.event(event, span.clone()).map_err(|message| Diagnostic::new(name, text, span, message))?;
    }
    Ok(builder.documents)
}

/// From characters, which the YAML parser counts, to bytes.
struct Places(Option<Vec<usize>>, usize);

impl Places {
    fn new(text: &str) -> Self {
        let bytes = (!text.is_ascii()).then(|| text.char_indices().map(|(at, _)| at).collect());
        Self(bytes, text.len())
    }

    fn byte(&self, character: usize) -> usize {
        match &self.0 {
            None => character.min(self.1),
            Some(bytes) => bytes.get(character).copied().unwrap_or(self.1),
        }
    }

    fn span(&self, span: Span) -> Range<usize> {
        let start = self.byte(span.start.index());
        start..self.byte(span.end.index()).max(start)
    }
}

#[derive(Default)]
struct YamlBuilder {
    documents: Vec<Node>,
    open: Vec<Open>,
}

enum Open {
    List(Range<usize>, Vec<Node>),
    Table(Range<usize>, Vec<(Key, Node)>, Option<Key>),
}

impl YamlBuilder {
    fn event(&mut self, event: Event<'_>, span: Range<usize>) -> Result<(), String> {
        if self.open.len() > MAX_DEPTH {
            return Err("this is nested too deeply".into());
        }
        match event {
            Event::Alias(_) => Err("aliases (`*name`) are not supported in policy files".into()),
            Event::SequenceStart(..) => {
                self.open.push(Open::List(span, Vec::new()));
                Ok(())
            }
            Event::MappingStart(..) => {
                self.open.push(Open::Table(span, Vec::new(), None));
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List(start, items)) => {
                    self.put(Node { data: Data::List(items), span: start.start..span.end.max(start.end) })
                }
                Some(Open::Table(start, entries, _)) => {
                    self.put(Node { data: Data::Table(entries), span: start.start..span.end.max(start.end) })
                }
                None => Ok(()),
            },
            Event::Scalar(text, style, _, tag) => {
                let data = if tag.is_some() || style != ScalarStyle::Plain {
                    Data::String(text.into_owned())
                } else {
                    plain(&text)
                };
                self.put(Node { data, span })
            }
            _ => Ok(()),
        }
    }

    fn put(&mut self, node: Node) -> Result<(), String> {
        match self.open.last_mut() {
            None => {
                if !matches!(node.data, Data::Null) {
                    self.documents.push(node);
                }
            }
            Some(Open::List(_, items)) => items.push(node),
            Some(Open::Table(_, entries, key)) => {
                if let Some(key) = key.take() {
                    entries.push((key, node));
                    return Ok(());
                }
                let Data::String(name) = node.data else {
                    return Err(format!("a key must be a string, not {}", node.kind()));
                };
                if entries.iter().any(|(k, _)| k.name == name) {
                    return Err(format!("the key `{name}` is there twice"));
                }
                *key = Some(Key { name, span: node.span });
            }
        }
        Ok(())
    }
}

/// A scalar without quotes, by the core schema of YAML 1.2.
fn plain(text: &str) -> Data {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Data::Null,
        "true" | "True" | "TRUE" => return Data::Boolean(true),
        "false" | "False" | "FALSE" => return Data::Boolean(false),
        _ => {}
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Data::Integer(text.parse().ok());
    }
    if digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'))
        && let Ok(number) = text.parse()
    {
        return Data::Float(number);
    }
    Data::String(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_values_and_places() {
        let text = "ä: \"1\"\nb: [1, 2.5, true, ~, x, -3]\n---\n---\nc:\n  - d: 10.0.0.0/8\n";
        let documents = yaml("a.yaml", text).unwrap();
        let [first, second] = &documents[..] else { panic!("{documents:?}") };
        let quoted = first.get("ä").unwrap();
        assert_eq!((quoted.text(), &text[quoted.span()]), (Some("1"), "\"1\""));
        let Data::List(items) = &first.get("b").unwrap().data else { panic!() };
        let kinds: Vec<_> = items.iter().map(Node::kind).collect();
        assert_eq!(kinds, ["a number", "a fraction", "true or false", "nothing", "a string", "a number"]);
        let Data::List(items) = &second.get("c").unwrap().data else { panic!() };
        assert_eq!(items[0].get("d").unwrap().text(), Some("10.0.0.0/8"));
    }

    #[test]
    fn yaml_that_is_refused() {
        for (text, part) in [
            ("a: 1\na: 2\n", "twice"),
            ("a: &x 1\nb: *x\n", "aliases"),
            ("1: 2\n", "a key must be a string"),
            ("a: [1\n", ""),
        ] {
            let error = yaml("a.yaml", text).unwrap_err();
            assert!(error.message.contains(part), "{error}");
        }
        let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(yaml("a.yaml", &deep).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[\\[\\]{}:,&*!|>'\"#% \\n\\-?a-z0-9ä]{0,60}") {
            let _ = yaml("a.yaml", &text);
        }
    }
}
