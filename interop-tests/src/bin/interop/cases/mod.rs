//! The cases. Each is a function over a lab and a router; what it builds and what it checks is all in it.

mod basic;
mod control;
mod faults;
mod liveness;
mod paths;
mod restart;
mod scale;
mod security;
mod topologies;

use anyhow::Result;
use interop_tests::Lab;

use crate::flavors::Flavor;

/// A row of the table.
pub(crate) struct Case {
    /// As in `CASE=`.
    pub(crate) name: &'static str,
    /// One line for the table.
    pub(crate) what: &'static str,
    /// The source file, as the compiler names it.
    file: &'static str,
    pub(crate) run: fn(&Lab, &'static dyn Flavor) -> Result<()>,
    /// In the fast subset.
    pub(crate) fast: bool,
    /// Needs the computer for itself.
    pub(crate) heavy: bool,
    /// The routers it is for; all when empty.
    only: &'static [&'static str],
}

impl Case {
    const fn new(
        name: &'static str,
        what: &'static str,
        file: &'static str,
        run: fn(&Lab, &'static dyn Flavor) -> Result<()>,
    ) -> Self {
        Self { name, what, file, run, fast: false, heavy: false, only: &[] }
    }

    const fn fast(mut self) -> Self {
        self.fast = true;
        self
    }

    const fn heavy(mut self) -> Self {
        self.heavy = true;
        self
    }

    const fn only(mut self, routers: &'static [&'static str]) -> Self {
        self.only = routers;
        self
    }

    /// Whether the case is for that router at all.
    pub(crate) fn concerns(&self, router: &str) -> bool {
        if self.only.is_empty() { router != "injector" } else { self.only.contains(&router) }
    }

    /// The source file, seen from `interop-tests/`.
    pub(crate) fn source(&self) -> &'static str {
        self.file.strip_prefix("interop-tests/").unwrap_or(self.file)
    }
}

/// A case in the file that names it.
macro_rules! case {
    ($name:literal, $what:literal, $run:path) => {
        crate::cases::Case::new($name, $what, file!(), $run)
    };
}
pub(crate) use case;

/// All cases, in the order of the table.
pub(crate) fn all() -> Vec<&'static Case> {
    let groups: [&'static [Case]; 9] = [
        basic::CASES,
        security::CASES,
        liveness::CASES,
        paths::CASES,
        control::CASES,
        restart::CASES,
        faults::CASES,
        scale::CASES,
        topologies::CASES,
    ];
    groups.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_each_case_has_a_router() {
        let cases = all();
        let names: std::collections::BTreeSet<&str> = cases.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), cases.len());
        for case in cases {
            assert!(crate::flavors::ALL.iter().any(|flavor| case.concerns(flavor.name())), "{}", case.name);
        }
    }
}
