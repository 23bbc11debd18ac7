//! One kind of tree for TOML and YAML documents, with the place of every key and value.

use std::{collections::BTreeMap, ops::Range};

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::model::Diagnostic;

/// Nesting beyond this is refused, so that a hostile file cannot exhaust the stack.
const MAX_DEPTH: usize = 64;

/// How many values all aliases of a file may stand for: a few short lines could otherwise mean gigabytes.
const MAX_ALIASED: usize = 100_000;

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
    /// A table without keys, at the place of something else.
    pub(super) const fn empty_table(span: Range<usize>) -> Self {
        Self { data: Data::Table(Vec::new()), span }
    }

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

    /// Whether it is a number, be it a fraction.
    pub(super) fn is_number(&self) -> bool {
        matches!(self.data, Data::Integer(_) | Data::Float(_))
    }

    /// The value of a key, if this is a table that has it and says something there: YAML's null is as good as absent.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        let Data::Table(entries) = &self.data else { return None };
        let found = entries.iter().find(|(k, _)| k.name == key).map(|(_, v)| v);
        found.filter(|v| !matches!(v.data, Data::Null))
    }

    /// How many values it consists of, and how deep they are nested.
    fn size(&self) -> (usize, usize) {
        let parts: Vec<&Self> = match &self.data {
            Data::List(items) => items.iter().collect(),
            Data::Table(entries) => entries.iter().map(|(_, v)| v).collect(),
            _ => Vec::new(),
        };
        let sizes = parts.into_iter().map(Self::size);
        let (count, depth) = sizes.fold((1, 0), |(count, depth), (c, d)| (count + c, depth.max(d)));
        (count, depth + 1)
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

/// Reads the documents of a YAML stream; empty ones are left out. Aliases and merge keys (`<<`) are worked in, as long
/// as they do not stand for more than a file can reasonably say.
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
    /// What has a name, by its number, with how much that is.
    anchors: BTreeMap<usize, (Node, (usize, usize))>,
    aliased: usize,
}

/// A list or table that is not read to its end, and the number of its anchor; 0: none.
enum Open {
    List(Range<usize>, usize, Vec<Node>),
    Table(Range<usize>, usize, Vec<(Key, Node)>, Option<Key>),
}

impl YamlBuilder {
    fn event(&mut self, event: Event<'_>, span: Range<usize>) -> Result<(), String> {
        if self.open.len() > MAX_DEPTH {
            return Err("this is nested too deeply".into());
        }
        match event {
            Event::DocumentStart(_) => {
                self.anchors.clear();
                Ok(())
            }
            Event::Alias(anchor) => {
                let Some((node, (count, depth))) = self.anchors.get(&anchor) else {
                    return Err("this alias is inside of what it stands for".into());
                };
                self.aliased += count;
                if self.aliased > MAX_ALIASED {
                    return Err(format!("the aliases up to here stand for more than {MAX_ALIASED} values"));
                }
                if self.open.len() + depth > MAX_DEPTH {
                    return Err("with what this alias stands for, this is nested too deeply".into());
                }
                let node = node.clone();
                self.put(Node { span, ..node }, 0)
            }
            Event::SequenceStart(anchor, _) => {
                self.open.push(Open::List(span, anchor, Vec::new()));
                Ok(())
            }
            Event::MappingStart(anchor, _) => {
                self.open.push(Open::Table(span, anchor, Vec::new(), None));
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List(start, anchor, items)) => {
                    let span = start.start..span.end.max(start.end);
                    self.put(Node { data: Data::List(items), span }, anchor)
                }
                Some(Open::Table(start, anchor, entries, _)) => {
                    let span = start.start..span.end.max(start.end);
                    self.put(Node { data: Data::Table(merged(entries)?), span }, anchor)
                }
                None => Ok(()),
            },
            Event::Scalar(text, style, anchor, tag) => {
                let data = if tag.is_some() || style != ScalarStyle::Plain {
                    Data::String(text.into_owned())
                } else if text.len() > 1 && text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit())
                {
                    return Err(format!(
                        "`{text}` is one number in YAML 1.1, octal, and another one in YAML 1.2: write it without the zero, \
                         or in quotes if it is text"
                    ));
                } else {
                    plain(&text)
                };
                self.put(Node { data, span }, anchor)
            }
            _ => Ok(()),
        }
    }

    fn put(&mut self, node: Node, anchor: usize) -> Result<(), String> {
        if anchor != 0 {
            let size = node.size();
            self.anchors.insert(anchor, (node.clone(), size));
        }
        match self.open.last_mut() {
            None => {
                if !matches!(node.data, Data::Null) {
                    self.documents.push(node);
                }
            }
            Some(Open::List(_, _, items)) => items.push(node),
            Some(Open::Table(_, _, entries, key)) => {
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

/// A table with those of its merge key worked in: what it says itself comes first, then the tables in their order.
fn merged(mut entries: Vec<(Key, Node)>) -> Result<Vec<(Key, Node)>, String> {
    let Some(at) = entries.iter().position(|(key, _)| key.name == "<<") else { return Ok(entries) };
    let tables = match entries.remove(at).1 {
        Node { data: Data::List(items), .. } => items,
        node => vec![node],
    };
    for table in tables {
        let Data::Table(more) = table.data else {
            return Err(format!("`<<` merges tables, not {}", table.kind()));
        };
        for (key, value) in more {
            if !entries.iter().any(|(k, _)| k.name == key.name) {
                entries.push((key, value));
            }
        }
    }
    Ok(entries)
}

/// A scalar without quotes, by the core schema of YAML 1.2.
fn plain(text: &str) -> Data {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Data::Null,
        "true" | "True" | "TRUE" => return Data::Boolean(true),
        "false" | "False" | "FALSE" => return Data::Boolean(false),
        _ => {}
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(digits) = text.strip_prefix(prefix).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))
            && let Ok(number) = i64::from_str_radix(digits, radix)
        {
            return Data::Integer(Some(number));
        }
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
        let tagged = yaml("a.yaml", "a: !!str 5\nb: 5\n").unwrap();
        assert_eq!(["a", "b"].map(|key| tagged[0].get(key).unwrap().text()), [Some("5"), None]);
    }

    #[test]
    fn yaml_that_is_refused() {
        for (text, part) in [
            ("a: 1\na: 2\n", "twice"),
            ("a: &x [*x]\n", "inside of what it stands for"),
            ("a: &x 1\nb:\n  <<: *x\n", "merges tables"),
            ("a: &x {b: 1}\n---\na: *x\n", ""),
            ("1: 2\n", "a key must be a string"),
            ("a: [1\n", ""),
            ("port: 010\n", "octal"),
        ] {
            let error = yaml("a.yaml", text).unwrap_err();
            assert!(error.message.contains(part), "{error}");
        }
        let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(yaml("a.yaml", &deep).is_err());
        // Short lines that mean a great deal, in width and in depth.
        let lines = |line: &dyn Fn(usize) -> String| (1..100).map(line).collect::<String>();
        let wide = lines(&|n| format!("b{n}: &b{n} [*b{}, *b{}]\n", n - 1, n - 1));
        let error = yaml("a.yaml", &format!("b0: &b0 1\n{wide}")).unwrap_err();
        assert!(error.message.contains("more than 100000 values"), "{error}");
        let deep = lines(&|n| format!("b{n}: &b{n} [*b{}]\n", n - 1));
        let error = yaml("a.yaml", &format!("b0: &b0 1\n{deep}")).unwrap_err();
        assert!(error.message.contains("nested too deeply"), "{error}");
    }

    #[test]
    fn aliases_and_merge_keys() {
        let text = "a: &x {b: 1, c: 0x50}\nd:\n  <<: *x\n  b: 2\ne: [*x, *x]\nf:\n  <<: [{b: 3}, *x]\n";
        let documents = yaml("a.yaml", text).unwrap();
        let number = |path: [&str; 2]| match documents[0].get(path[0]).and_then(|n| n.get(path[1])) {
            Some(Node { data: Data::Integer(n), .. }) => *n,
            other => panic!("{other:?}"),
        };
        assert_eq!([number(["d", "b"]), number(["d", "c"])], [Some(2), Some(80)]);
        assert_eq!([number(["f", "b"]), number(["f", "c"])], [Some(3), Some(80)]);
        let Data::List(items) = &documents[0].get("e").unwrap().data else { panic!() };
        assert_eq!(&text[items[1].span()], "*x", "an error is where the alias is");
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[\\[\\]{}:,&*!|>'\"#% \\n\\-?a-z0-9ä]{0,60}") {
            let _ = yaml("a.yaml", &text);
        }
    }
}
