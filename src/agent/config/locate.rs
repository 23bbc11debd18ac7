//! Finds the place of a key in the file, for errors that are found after parsing.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// One step of a path: a key or an index.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

impl<'a> From<&'a str> for Step<'a> {
    fn from(key: &'a str) -> Self {
        Self::Key(key)
    }
}

impl From<usize> for Step<'_> {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

/// The bytes of the value at a path, or of the nearest thing around it that is there.
pub(super) fn locate(source: &str, path: &[Step<'_>]) -> Range<usize> {
    let Ok(root) = DeTable::parse(source) else { return 0..0 };
    let mut span = 0..0;
    let mut value = DeValue::Table(root.into_inner());
    for step in path {
        let next = match (step, &value) {
            (Step::Key(key), DeValue::Table(table)) => table.get(*key),
            (Step::Index(index), DeValue::Array(list)) => list.get(*index),
            _ => None,
        };
        let Some(next) = next else { break };
        span = next.span();
        value = next.get_ref().clone();
    }
    span
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_values_and_the_nearest_around() {
        let source = "[bgp]\nasn = 1\n[[bgp.peer]]\naddress = \"192.0.2.1\"\n[[bgp.peer]]\ngroup = \"tor\"\n";
        let at = |path: &[Step<'_>]| &source[locate(source, path)];
        assert_eq!(at(&["bgp".into(), "peer".into(), 1.into(), "group".into()]), "\"tor\"");
        assert_eq!(at(&["bgp".into(), "asn".into()]), "1");
        assert!(at(&["bgp".into(), "peer".into(), 1.into(), "address".into()]).starts_with("[[bgp.peer]]"));
        assert_eq!(at(&["nothing".into()]), "");
    }
}
