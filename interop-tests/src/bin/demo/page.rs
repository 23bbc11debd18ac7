//! What the demo prints.

use std::io::{IsTerminal, Write};

/// The screen, with colours when it is one.
pub(crate) struct Page {
    colours: bool,
    step: u32,
    facts: Vec<(String, String)>,
}

/// A sentence or two.
pub(crate) fn say(text: &str) {
    for line in text.trim().lines() {
        println!("   {}", line.trim());
    }
    std::io::stdout().flush().ok();
}

impl Page {
    pub(crate) fn new() -> Self {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { colours, step: 0, facts: Vec::new() }
    }

    /// A numbered headline.
    pub(crate) fn step(&mut self, title: &str) {
        self.step += 1;
        println!("\n{}", self.bold(&format!("{}. {title}", self.step)));
    }

    /// A command as one would type it on `host`.
    pub(crate) fn command(&self, host: &str, line: &str) {
        println!("   {}", self.paint("36", &format!("{host}# {line}")));
    }

    /// What a command printed.
    pub(crate) fn output(&self, text: &str) {
        for line in text.trim_end().lines() {
            println!("   {}", self.paint("2", line));
        }
    }

    /// A file's name and text.
    pub(crate) fn file(&self, host: &str, path: &str, text: &str) {
        println!("   {}", self.paint("36", &format!("{host}:{path}")));
        self.output(text);
    }

    /// Something that was checked and holds.
    pub(crate) fn good(&self, text: &str) {
        println!("   {} {text}", self.paint("32", "✓"));
    }

    /// A line of the summary.
    pub(crate) fn fact(&mut self, what: &str, value: impl Into<String>) {
        self.facts.push((what.to_owned(), value.into()));
    }

    /// A table with a heading row; the first column is to the left, all others to the right.
    pub(crate) fn table(&self, rows: &[Vec<String>]) {
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
        };
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        for (number, row) in rows.iter().enumerate() {
            let cells = row.iter().zip(&widths).enumerate();
            let cells = cells.map(|(column, (cell, width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
            let line = cells.collect::<Vec<_>>().join("  ");
            println!("   {}", if number == 0 { self.bold(&line) } else { line });
        }
    }

    /// The summary.
    pub(crate) fn summary(&self, title: &str) {
        println!("\n{}", self.bold(title));
        let width = self.facts.iter().map(|(what, _)| what.chars().count()).max().unwrap_or(0);
        for (what, value) in &self.facts {
            println!("   {} {what:<width$}  {value}", self.paint("32", "✓"));
        }
    }

    /// The end when something failed.
    pub(crate) fn failure(&self, text: &str) {
        println!("\n{} {text}", self.paint("31", "✗ failed:"));
    }

    fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
