//! Other people's routers: runs the cases of the interoperation table and compares with `interop-tests/RESULTS.md`.

#![expect(clippy::format_push_string, reason = "configurations are short texts")]

mod cases;
mod flavors;
mod results;
mod runner;
mod site;
mod spec;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use interop_tests::Image;

use cases::Case;

use results::{Outcome, Results};
use runner::Cell;

/// Runs cases of the interoperation table in containers with other people's routers.
#[derive(Parser)]
struct Options {
    /// Only these routers, by name or its beginning, separated by commas.
    #[arg(long, value_delimiter = ',')]
    router: Vec<String>,
    /// Only these cases, by name or its beginning, separated by commas.
    #[arg(long, value_delimiter = ',')]
    case: Vec<String>,
    /// Only the cases that make up the fast subset.
    #[arg(long)]
    fast: bool,
    /// How many labs at once; by default two a processor, as most of a lab's time is waiting for timers.
    #[arg(long)]
    jobs: Option<usize>,
    /// Writes what was seen into RESULTS.md, the rest of it as it was. A run of everything writes it in any case.
    #[arg(long)]
    write: bool,
    /// Lists routers and cases.
    #[arg(long)]
    list: bool,
}

/// Exit code 1 when something got worse, 2 when nothing could be run.
fn main() -> ExitCode {
    let options = Options::parse();
    if options.list {
        // Nobody has to read it to its end.
        drop(std::io::stdout().write_all(list().as_bytes()));
        return ExitCode::SUCCESS;
    }
    run(&options).unwrap_or_else(|error| {
        // Without a stack trace, whatever the environment says: this is for people.
        eprintln!("interop: {}", error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": "));
        ExitCode::from(2)
    })
}

fn run(options: &Options) -> Result<ExitCode> {
    let flavors = choose(&flavors::ALL, &options.router, |flavor| flavor.name(), "router")?;
    let cases: Vec<&'static Case> = choose(&cases::all(), &options.case, |case| case.name, "case")?;
    let cells: Vec<Cell> = cases
        .iter()
        .flat_map(|case| flavors.iter().map(|flavor| Cell { case, flavor: *flavor }))
        .filter(|cell| cell.case.concerns(cell.flavor.name()))
        .filter(|cell| !options.fast || cell.case.is_fast(cell.flavor.name()))
        .collect();
    if cells.is_empty() {
        bail!("none of these cases is for these routers: --list shows them all");
    }

    let mut seen = Results::default();
    let mut images: Vec<&str> = cells.iter().filter_map(|cell| cell.flavor.image()).collect();
    images.sort_unstable();
    images.dedup();
    println!("images: {}", images.join(", "));
    Image::build(&images)?;
    interop_tests::slash32()?;
    for flavor in &flavors {
        let version = match flavor.image() {
            Some(image) => Image::version(image)?,
            None => env!("CARGO_PKG_VERSION").to_owned(),
        };
        println!("{} {version}", flavor.name());
        seen.versions.insert(flavor.name().to_owned(), version);
    }

    let processors = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    for done in runner::run(&cells, options.jobs.unwrap_or(2 * processors)) {
        seen.cells.insert((done.cell.case.name.to_owned(), done.cell.flavor.name().to_owned()), done.outcome);
    }
    run_again_alone(&cells, &mut seen);
    let all = options.router.is_empty() && options.case.is_empty() && !options.fast;
    conclude(&seen, all, options.write)
}

/// Tells what is broken from what a crowded computer makes other people's daemons miss: a few cells that got worse are
/// run once more, with nothing beside them. One that passes then says so in the table.
fn run_again_alone(cells: &[Cell], seen: &mut Results) {
    const FEW: usize = 5;
    let before = std::fs::read_to_string(file()).map(|text| Results::parse(&text)).unwrap_or_default();
    let key = |cell: &Cell| (cell.case.name.to_owned(), cell.flavor.name().to_owned());
    let worse: Vec<Cell> = cells
        .iter()
        .filter(|cell| {
            let now = seen.cells.get(&key(cell)).map(|outcome| (key(cell), outcome.clone()));
            let now = Results { cells: now.into_iter().collect(), ..Results::default() };
            !before.regressions(&now).is_empty()
        })
        .copied()
        .collect();
    if worse.is_empty() || worse.len() > FEW {
        return;
    }
    println!("worse than before, so once more, alone:");
    for done in runner::run(&worse, 1) {
        let outcome = match done.outcome {
            Outcome::Pass(_) => Outcome::Pass("second try, alone".to_owned()),
            other => other,
        };
        seen.cells.insert(key(&done.cell), outcome);
    }
}

/// Compares with the table, writes it if wanted, and says how it went.
fn conclude(seen: &Results, all: bool, write: bool) -> Result<ExitCode> {
    let path = file();
    let before = std::fs::read_to_string(&path).map(|text| Results::parse(&text)).unwrap_or_default();
    let regressions = before.regressions(seen);
    // What got worse must not become the measure of the next run by itself.
    if write || (all && regressions.is_empty()) {
        let mut results = if all { Results::default() } else { before.clone() };
        results.merge(seen);
        let routers: Vec<&str> = flavors::ALL.iter().map(|flavor| flavor.name()).collect();
        std::fs::write(&path, results.render(&cases::all(), &routers))
            .with_context(|| format!("write {}", path.display()))?;
        println!("wrote {}", path.display());
    }
    let count = |of: fn(&Outcome) -> bool| seen.cells.values().filter(|outcome| of(outcome)).count();
    println!(
        "{} pass, {} unsupported by the router, {} fail",
        count(|outcome| matches!(outcome, Outcome::Pass(_))),
        count(|outcome| matches!(outcome, Outcome::Unsupported(_))),
        count(|outcome| matches!(outcome, Outcome::Fail(_))),
    );
    let known = |key: &(String, String)| matches!(before.cells.get(key), Some(Outcome::Fail(_)));
    let failing =
        seen.cells.iter().filter(|(key, outcome)| matches!(outcome, Outcome::Fail(_)) && known(key));
    for ((case, router), _) in failing {
        println!("KNOWN TO FAIL: {case} with {router}, as in {}", path.display());
    }
    if regressions.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("worse than {} (--write takes it over):", path.display());
    for regression in regressions {
        println!("  {regression}");
    }
    Ok(ExitCode::FAILURE)
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("RESULTS.md")
}

/// Those named, by whole name where one is, else by its beginning; all when none is.
fn choose<T: Copy>(
    all: &[T],
    wanted: &[String],
    name: impl Fn(&T) -> &'static str,
    what: &str,
) -> Result<Vec<T>> {
    if wanted.is_empty() {
        return Ok(all.to_vec());
    }
    let mut chosen = Vec::new();
    for word in wanted {
        let exact: Vec<T> = all.iter().filter(|item| name(item) == word).copied().collect();
        let begins = |item: &&T| !word.is_empty() && name(item).starts_with(word.as_str());
        let begins = || all.iter().filter(begins).copied().collect();
        let found: Vec<T> = if exact.is_empty() { begins() } else { exact };
        if found.is_empty() {
            let names: Vec<&str> = all.iter().map(&name).collect();
            bail!("no {what} `{word}`; there are: {}", names.join(", "));
        }
        chosen.extend(found);
    }
    Ok(chosen)
}

fn list() -> String {
    let mut text = String::from("routers:\n");
    for flavor in flavors::ALL {
        text += &format!("  {}\n", flavor.name());
    }
    text += "cases (* in the fast subset, + in it with some routers):\n";
    for case in cases::all() {
        let concerned: Vec<&str> =
            flavors::ALL.iter().map(|flavor| flavor.name()).filter(|name| case.concerns(name)).collect();
        let fast = concerned.iter().filter(|name| case.is_fast(name)).count();
        let mark = match fast {
            0 => " ",
            all if all == concerned.len() => "*",
            _ => "+",
        };
        text += &format!("  {:24}{mark} {}\n", case.name, case.what);
    }
    text
}
