//! The cases. Each is a function over a lab and a router; what it builds and what it checks is all in it.

mod basic;
mod control;
mod faults;
mod liveness;
mod odd;
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
    /// The routers with which it is in the fast subset.
    fast: Fast,
    /// Needs the computer for itself.
    pub(crate) heavy: bool,
    /// The routers it is for; all when empty.
    only: &'static [&'static str],
}

/// Which cells of a row the fast subset has.
#[derive(Clone, Copy)]
enum Fast {
    No,
    All,
    With(&'static [&'static str]),
}

impl Case {
    const fn new(
        name: &'static str,
        what: &'static str,
        file: &'static str,
        run: fn(&Lab, &'static dyn Flavor) -> Result<()>,
    ) -> Self {
        Self { name, what, file, run, fast: Fast::No, heavy: false, only: &[] }
    }

    const fn fast(mut self) -> Self {
        self.fast = Fast::All;
        self
    }

    /// In the fast subset with these routers alone: enough to notice, quick enough for every run.
    const fn fast_with(mut self, routers: &'static [&'static str]) -> Self {
        self.fast = Fast::With(routers);
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

    /// Whether the fast subset has it with that router.
    pub(crate) fn is_fast(&self, router: &str) -> bool {
        match self.fast {
            Fast::No => false,
            Fast::All => true,
            Fast::With(routers) => routers.contains(&router),
        }
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
    let groups: [&'static [Case]; 10] = [
        basic::CASES,
        security::CASES,
        liveness::CASES,
        paths::CASES,
        control::CASES,
        restart::CASES,
        faults::CASES,
        odd::CASES,
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
            let names = crate::flavors::ALL.map(Flavor::name);
            assert!(names.iter().any(|name| case.concerns(name)), "{}", case.name);
            if let Fast::With(routers) = case.fast {
                assert!(
                    routers.iter().all(|name| names.contains(name) && case.concerns(name)),
                    "{}",
                    case.name
                );
            }
        }
    }
}
