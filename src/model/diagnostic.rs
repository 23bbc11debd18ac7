//! An error in a text file, shown the way people expect: file, line, column, the line itself and a caret.

use std::{fmt, ops::Range, path::PathBuf};

/// One error with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, one sentence without a full stop.
    pub message: String,
    /// What to do, or empty.
    pub help: String,
    text: String,
    width: usize,
}

impl Diagnostic {
    /// An error at a byte range of `source`; a range outside it points at the end.
    pub fn new(
        file: impl Into<PathBuf>,
        source: &str,
        span: Range<usize>,
        message: impl Into<String>,
    ) -> Self {
        let start = floor_boundary(source, span.start);
        let end = floor_boundary(source, span.end.max(start));
        let line_start = source[..start].rfind('\n').map_or(0, |i| i + 1);
        let line_end = source[start..].find('\n').map_or(source.len(), |i| start + i);
        Self {
            file: file.into(),
            line: source[..start].matches('\n').count() + 1,
            column: source[line_start..start].chars().count() + 1,
            message: message.into(),
            help: String::new(),
            text: source[line_start..line_end].trim_end_matches('\r').replace('\t', " "),
            width: source[start..end.min(line_end).max(start)].chars().count().max(1),
        }
    }

    /// An error about a whole line, whose text is not at hand.
    pub fn at(file: impl Into<PathBuf>, line: usize, message: impl Into<String>) -> Self {
        Self { line, ..Self::new(file, "", 0..0, message) }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }
}

fn floor_boundary(source: &str, at: usize) -> usize {
    let mut at = at.min(source.len());
    while !source.is_char_boundary(at) {
        at -= 1;
    }
    at
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, message, text, .. } = self;
        let margin = line.to_string().len();
        write!(f, "{}:{line}:{column}: {message}", file.display())?;
        // What is wrong with a file as a whole has no line to show.
        if !text.is_empty() {
            writeln!(f, "\n{:margin$} |", "")?;
            writeln!(f, "{line} | {text}")?;
            write!(f, "{:margin$} | {:pad$}{}", "", "", "^".repeat(self.width), pad = column - 1)?;
        }
        if !self.help.is_empty() {
            write!(f, "\n{:margin$} = help: {}", "", self.help)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostic {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_at_the_place() {
        let source = "[bgp]\nasn = 0 # no\n";
        let shown =
            Diagnostic::new("a.toml", source, 12..13, "AS 0 is reserved").with_help("use 64512").to_string();
        assert_eq!(
            shown,
            "a.toml:2:7: AS 0 is reserved\n  |\n2 | asn = 0 # no\n  |       ^\n  = help: use 64512"
        );
    }

    #[test]
    fn any_span_is_safe() {
        let source = "ä = \"ö\"";
        for start in 0..20 {
            for end in 0..20 {
                let _ = Diagnostic::new("x", source, start..end, "m").to_string();
            }
        }
    }
}
