//! Where in a file a part of a string is: strings have escapes, doubled quotes, indentation and folded lines.

use std::{iter::Peekable, str::CharIndices};

/// The byte of `raw`, a string as it is written, that stands for byte `at` of `text`, which it means. None if they
/// cannot be brought together.
///
/// White space is where the two differ most, so it is the other characters that are counted; of white space the
/// character after it is meant.
pub(super) fn inside(raw: &str, text: &str, at: usize, yaml: bool) -> Option<usize> {
    if let Some(offset) = raw.find(text) {
        return Some(offset + at);
    }
    let (before, after) = text.split_at_checked(at)?;
    let solid = |c: &char| !c.is_whitespace();
    let count = before.chars().filter(solid).count();
    let start = body(raw, yaml);
    let quote = raw.chars().next().filter(|c| matches!(c, '"' | '\''));
    let mut written = Written { raw, chars: raw.get(start..)?.char_indices().peekable(), start, quote, yaml };
    match after.chars().find(solid) {
        Some(wanted) => written.nth(count).filter(|(_, found)| *found == wanted).map(|(at, _)| at),
        // Behind the last one.
        None => written.nth(count.checked_sub(1)?).map(|(at, c)| at + c.len_utf8()),
    }
}

/// Where the text begins: after a quotation mark, or after the line that begins a block.
fn body(raw: &str, yaml: bool) -> usize {
    for quotes in ["\"\"\"", "'''"] {
        if !yaml && raw.starts_with(quotes) {
            return quotes.len();
        }
    }
    if raw.starts_with(['"', '\'']) {
        return 1;
    }
    let (head, _) = raw.split_once('\n').unwrap_or((raw, ""));
    let is_head = head.strip_prefix(['|', '>']).is_some_and(|rest| {
        let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+')).trim();
        rest.is_empty() || rest.starts_with('#')
    });
    if yaml && is_head { head.len() } else { 0 }
}

/// The characters that a string means and that are no white space, each with its place.
struct Written<'a> {
    raw: &'a str,
    chars: Peekable<CharIndices<'a>>,
    start: usize,
    quote: Option<char>,
    yaml: bool,
}

impl Written<'_> {
    /// The character that a backslash and what follows it stand for.
    fn escaped(&mut self) -> Option<char> {
        let (at, c) = self.chars.next()?;
        let digits = match c {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            't' | 'n' | 'r' | 'v' | 'f' | 'N' | 'L' | 'P' | '_' => return Some(' '),
            c => return Some(c),
        };
        let from = self.start + at + 1;
        let number = self.raw.get(from..from + digits)?;
        self.chars.nth(digits - 1)?;
        char::from_u32(u32::from_str_radix(number, 16).ok()?)
    }
}

impl Iterator for Written<'_> {
    type Item = (usize, char);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (at, mut c) = self.chars.next()?;
            match (c, self.quote) {
                ('\\', Some('"')) => c = self.escaped()?,
                ('\'', Some('\'')) if self.yaml => {
                    self.chars.next_if(|(_, c)| *c == '\'');
                }
                _ => {}
            }
            if !c.is_whitespace() {
                return Some((self.start + at, c));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_of_all_kinds() {
        for (raw, text, part, yaml, want) in [
            ("'a == b'", "a == b", "b", true, "b'"),
            (r#""a == \"x\" & b""#, r#"a == "x" & b"#, "&", true, "& b"),
            (r#""a == \"x\" & b""#, r#"a == "x" & b"#, "\"x", false, r#"\"x"#),
            ("'a == ''x'' & b'", "a == 'x' & b", "x", true, "x''"),
            ("|\n    a\n    & b\n", "a\n& b\n", "&", true, "& b"),
            ("a\n    & b\n", "a\n& b\n", "&", true, "& b"),
            (">2- # why\n  a &\n\n   & b", "a &\n & b", "& b", true, "& b"),
            ("\"\"\"\na \\\n   & \"b\\\"\"\"\"", "a & \"b\"", "b", false, "b\\"),
            (r#""\u00e4\t& \x41b""#, "ä\t& Ab", "Ab", true, "\\x41b"),
            ("a\n  b", "a b", "b", true, "b"),
        ] {
            let at = text.find(part).unwrap();
            let found = inside(raw, text, at, yaml).map(|at| &raw[at..]);
            assert!(found.is_some_and(|f| f.starts_with(want)), "{raw:?}: {found:?}");
        }
        assert_eq!(inside("'it''s'", "it's", 4, true), Some(6), "behind the last one");
        assert_eq!(inside("abc", "xyz", 1, true), None);
        assert_eq!(inside(r#""\u00""#, "ää", 2, true), None);
    }

    proptest::proptest! {
        #[test]
        fn any_two_texts_are_safe(raw in "[\"'|>\\\\a-cxu0-9ä \n]{0,20}", text in "[\"'a-cä \n]{0,9}", at in 0usize..12, yaml: bool) {
            if let Some(at) = inside(&raw, &text, at.min(text.len()), yaml) {
                assert!(at <= raw.len());
            }
        }
    }
}
