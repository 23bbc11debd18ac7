//! The one printer: aligned tables from JSON answers.

use std::{fmt::Write as _, io::Write as _};

use serde_json::{Value, json};

use crate::model::Diagnostic;

/// Prints JSON, one document, ending with a newline. A closed pipe (`| head`) is not an error.
pub(super) fn json(value: &Value) {
    let text = serde_json::to_string_pretty(value).unwrap_or_else(|e| format!("{{\"error\":\"{e}\"}}"));
    text_line(&text);
}

/// Prints text as it is, ending with one newline.
pub(super) fn text(text: &str) {
    if !text.is_empty() {
        text_line(text.trim_end_matches('\n'));
    }
}

fn text_line(text: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody is left to tell when standard output is closed.
    let _ = writeln!(out, "{text}");
}

/// Errors with their places, as JSON.
pub(super) fn diagnostics(errors: &[Diagnostic]) -> Vec<Value> {
    errors
        .iter()
        .map(|e| json!({ "file": e.file, "line": e.line, "column": e.column, "message": e.message, "help": e.help }))
        .collect()
}

/// Files that cannot be used, with the reasons.
#[derive(Debug)]
pub(super) struct Unusable(pub(super) Vec<Diagnostic>);

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }
}

impl std::error::Error for Unusable {}

/// Why a command failed, as JSON; with the places in files if it is those.
pub(super) fn failure(error: &anyhow::Error) -> Value {
    let mut value = json!({ "error": format!("{error:#}") });
    if let Some(Unusable(errors)) = error.downcast_ref() {
        value["errors"] = diagnostics(errors).into();
    }
    value
}

/// A column: its heading, and what a row shows in it.
pub(super) type Column<'a> = (&'a str, fn(&Value) -> String);

/// A table of the elements of an array; `empty` when there is none.
pub(super) fn table(rows: &Value, columns: &[Column<'_>], empty: &str) -> String {
    let rows = rows.as_array().map_or(&[][..], Vec::as_slice);
    if rows.is_empty() {
        return format!("{empty}\n");
    }
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| columns.iter().map(|(_, show)| show(row)).collect()).collect();
    let headings: Vec<String> = columns.iter().map(|(heading, _)| (*heading).to_owned()).collect();
    grid(&headings, &cells)
}

/// Rows of cells under headings, columns as wide as their widest cell, numbers to the right.
pub(super) fn grid(headings: &[String], rows: &[Vec<String>]) -> String {
    let width = |i: usize| {
        rows.iter()
            .filter_map(|r| r.get(i))
            .chain(headings.get(i))
            .map(|c| c.chars().count())
            .max()
            .unwrap_or(0)
    };
    let numeric = |i: usize| {
        let mut cells =
            rows.iter().filter_map(|r| r.get(i)).filter(|c| !c.is_empty() && *c != "-").peekable();
        cells.peek().is_some() && cells.all(|c| c.parse::<f64>().is_ok())
    };
    let layout: Vec<(usize, bool)> = (0..headings.len()).map(|i| (width(i), numeric(i))).collect();
    let line = |cells: &[String]| {
        let mut line = String::new();
        for (cell, (width, right)) in cells.iter().zip(&layout) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            let _ = if *right { write!(line, "{cell:>width$}") } else { write!(line, "{cell:<width$}") };
        }
        format!("{}\n", line.trim_end())
    };
    std::iter::once(line(headings)).chain(rows.iter().map(|row| line(row))).collect()
}

/// A field as text: strings bare, lists joined with commas, null and absent as `-`.
pub(super) fn field(row: &Value, name: &str) -> String {
    row.get(name).map_or_else(|| "-".to_owned(), plain)
}

/// A value as text; see [`field`].
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(s) if s.is_empty() => "-".to_owned(),
        Value::String(s) => s.clone(),
        Value::Bool(b) => if *b { "yes" } else { "no" }.to_owned(),
        Value::Number(n) => n.to_string(),
        Value::Array(list) if list.is_empty() => "-".to_owned(),
        Value::Array(list) => list.iter().map(plain).collect::<Vec<_>>().join(","),
        Value::Object(map) if map.is_empty() => "-".to_owned(),
        Value::Object(map) => {
            map.iter().map(|(k, v)| format!("{k}={}", plain(v))).collect::<Vec<_>>().join(",")
        }
    }
}

/// Seconds as people read them: `45s`, `12m05s`, `3h20m`, `8d04h`.
pub(super) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn aligns_and_right_justifies_numbers() {
        let rows = json!([{"peer": "192.0.2.1", "n": 5}, {"peer": "::1", "n": 1200}, {"peer": "x"}]);
        let text = table(&rows, &[("PEER", |r| field(r, "peer")), ("N", |r| field(r, "n"))], "none");
        assert_eq!(text, "PEER          N\n192.0.2.1     5\n::1        1200\nx             -\n");
        assert_eq!(table(&json!([]), &[], "no peers"), "no peers\n");
    }

    #[test]
    fn failures_are_documents_too() {
        let error = Diagnostic::new("a.toml", "x = 1", 4..5, "no");
        let value = failure(&anyhow::Error::from(Unusable(vec![error])));
        assert_eq!(value["errors"][0]["column"], 5);
        assert!(value["error"].as_str().unwrap().starts_with("a.toml:1:5: no"), "{value}");
        assert_eq!(failure(&anyhow::anyhow!("gone")), json!({ "error": "gone" }));
    }

    #[test]
    fn durations() {
        assert_eq!([5, 65, 3700, 90_000].map(duration), ["5s", "1m05s", "1h01m", "1d01h"]);
    }
}
