//! The table: read from the file that is committed, compared with what was seen, written again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::cases::Case;

/// How a case went with a router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With a figure, or nothing.
    Pass(String),
    /// With the reason.
    Unsupported(String),
    /// With the error.
    Fail(String),
}

/// What is known: outcome by case and router, the versions of the routers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Results {
    pub(crate) versions: BTreeMap<String, String>,
    pub(crate) cells: BTreeMap<(String, String), Outcome>,
}

const PASS: &str = "pass";
const FAIL: &str = "**fail**";

impl Results {
    /// Reads what [`render`](Self::render) wrote. What it cannot read is not there.
    pub(crate) fn parse(text: &str) -> Self {
        let mut results = Self::default();
        let mut notes: BTreeMap<&str, &str> = BTreeMap::new();
        for line in text.lines() {
            if let Some((number, note)) = line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
                notes.insert(number, note.trim_end_matches("<br>"));
            }
        }
        let mut routers: Vec<String> = Vec::new();
        for line in text.lines().filter(|line| line.starts_with('|')) {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            match cells.as_slice() {
                ["case", "what", names @ ..] => {
                    routers = names.iter().map(|name| (*name).to_owned()).collect();
                }
                ["version", _, versions @ ..] => {
                    for (router, version) in routers.iter().zip(versions) {
                        results.versions.insert(router.clone(), (*version).to_owned());
                    }
                }
                [case, _, outcomes @ ..] if case.starts_with('[') => {
                    let case = case.trim_start_matches('[').split(']').next().unwrap_or_default();
                    for (router, cell) in routers.iter().zip(outcomes) {
                        let note = || {
                            let number =
                                cell.rsplit_once('[').map_or("", |(_, rest)| rest.trim_end_matches(']'));
                            notes.get(number).map_or_else(String::new, |note| (*note).to_owned())
                        };
                        let outcome = match *cell {
                            cell if cell.starts_with(PASS) => {
                                let figure =
                                    cell[PASS.len()..].trim().trim_start_matches('(').trim_end_matches(')');
                                Outcome::Pass(figure.to_owned())
                            }
                            cell if cell.starts_with(FAIL) => Outcome::Fail(note()),
                            cell if cell.starts_with("no") => Outcome::Unsupported(note()),
                            _ => continue,
                        };
                        results.cells.insert((case.to_owned(), router.clone()), outcome);
                    }
                }
                _ => {}
            }
        }
        results
    }

    /// Takes over what another run has seen.
    pub(crate) fn merge(&mut self, seen: &Self) {
        self.versions.extend(seen.versions.clone());
        self.cells.extend(seen.cells.clone());
    }

    /// Cells that were better before, and cells that fail and were not known to.
    pub(crate) fn regressions(&self, seen: &Self) -> Vec<String> {
        let mut list = Vec::new();
        for ((case, router), outcome) in &seen.cells {
            let before = self.cells.get(&(case.clone(), router.clone()));
            match (before, outcome) {
                (Some(Outcome::Fail(_)), _) | (_, Outcome::Pass(_)) => {}
                (_, Outcome::Fail(error)) => list.push(format!("{case} with {router} fails: {error}")),
                (Some(Outcome::Pass(_)), Outcome::Unsupported(why)) => {
                    list.push(format!("{case} with {router} passed before, and now: {why}"));
                }
                (_, Outcome::Unsupported(_)) => {}
            }
        }
        list
    }

    /// The whole file.
    pub(crate) fn render(&self, cases: &[&Case], routers: &[&str]) -> String {
        let mut text = String::from(
            "# Interoperation\n\n\
             Written by `make interop`, which runs each case with each router in a container of its own and checks that packets\n\
             cross. *pass*: the case ran and held. *no*: the router cannot do it, with the reason below. A cell that passed and\n\
             no longer does fails the run. Cases link to their source; [README](README.md) says how to run one.\n\n",
        );
        let notes: BTreeSet<&String> = self
            .cells
            .values()
            .filter_map(|outcome| match outcome {
                Outcome::Unsupported(why) | Outcome::Fail(why) => Some(why),
                Outcome::Pass(_) => None,
            })
            .collect();
        let number = |note: &String| notes.iter().position(|n| *n == note).map_or(0, |n| n + 1);
        let _ = writeln!(text, "| case | what | {} |", routers.join(" | "));
        let _ = writeln!(text, "|---|---|{}", "---|".repeat(routers.len()));
        let versions = routers.iter().map(|router| self.versions.get(*router).map_or("", String::as_str));
        let _ = writeln!(text, "| version | | {} |", versions.collect::<Vec<_>>().join(" | "));
        for case in cases {
            let cells = routers.iter().map(|router| {
                match self.cells.get(&(case.name.to_owned(), (*router).to_owned())) {
                    None => "·".to_owned(),
                    Some(Outcome::Pass(figure)) if figure.is_empty() => PASS.to_owned(),
                    Some(Outcome::Pass(figure)) => format!("{PASS} ({figure})"),
                    Some(Outcome::Unsupported(why)) => format!("no [{}]", number(why)),
                    Some(Outcome::Fail(why)) => format!("{FAIL} [{}]", number(why)),
                }
            });
            let _ = writeln!(
                text,
                "| [{}]({}) | {} | {} |",
                case.name,
                case.source(),
                case.what,
                cells.collect::<Vec<_>>().join(" | ")
            );
        }
        text.push('\n');
        for (number, note) in (1..).zip(&notes) {
            let _ = writeln!(text, "[{number}] {note}<br>");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut results = Results::default();
        results.versions.insert("frr".into(), "10.3".into());
        results.versions.insert("gobgp".into(), "3.36.0".into());
        let cases = &crate::cases::all()[..3];
        let cell = |case: usize, router: &str| (cases[case].name.to_owned(), router.to_owned());
        results.cells.insert(cell(0, "frr"), Outcome::Pass(String::new()));
        results.cells.insert(cell(2, "frr"), Outcome::Pass("3 lost".into()));
        results.cells.insert(cell(0, "gobgp"), Outcome::Unsupported("has no BFD".into()));
        results.cells.insert(cell(1, "frr"), Outcome::Fail("not within 30s".into()));
        let read = Results::parse(&results.render(cases, &["frr", "gobgp"]));
        assert_eq!(read.cells, results.cells);
        assert_eq!(read.versions, results.versions);
    }

    #[test]
    fn a_cell_that_passed_and_does_not_is_a_regression() {
        let key = ("a".to_owned(), "frr".to_owned());
        let with =
            |outcome: Outcome| Results { cells: [(key.clone(), outcome)].into(), ..Results::default() };
        let (pass, fail) = (with(Outcome::Pass(String::new())), with(Outcome::Fail("x".into())));
        let no = with(Outcome::Unsupported("y".into()));
        assert_eq!(pass.regressions(&fail).len(), 1);
        assert_eq!(pass.regressions(&no).len(), 1);
        assert_eq!(Results::default().regressions(&fail).len(), 1);
        assert!(fail.regressions(&fail).is_empty());
        assert!(no.regressions(&pass).is_empty());
        assert!(Results::default().regressions(&no).is_empty());
    }
}
