//! Runs cells of the table, several at once, each in a lab of its own.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use interop_tests::Lab;

use crate::cases::Case;
use crate::flavors::Flavor;
use crate::results::Outcome;
use crate::spec::Unsupported;

/// One case with one router.
#[derive(Clone, Copy)]
pub(crate) struct Cell {
    pub(crate) case: &'static Case,
    pub(crate) flavor: &'static dyn Flavor,
}

thread_local! {
    static REMARK: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What a case wants in the table beside its "pass": a figure it has counted.
pub(crate) fn remark(text: String) {
    REMARK.set(text);
}

/// How a cell went and how long it took.
pub(crate) struct Seen {
    pub(crate) cell: Cell,
    pub(crate) outcome: Outcome,
}

/// Runs all cells, `jobs` at once, heavy ones alone at the end, and prints a line for each.
pub(crate) fn run(cells: &[Cell], jobs: usize) -> Vec<Seen> {
    let (heavy, light): (Vec<Cell>, Vec<Cell>) = cells.iter().partition(|cell| cell.case.heavy);
    let progress = AtomicUsize::new(0);
    let mut seen = batch(&light, jobs, &progress, cells.len());
    seen.extend(batch(&heavy, 1, &progress, cells.len()));
    seen
}

fn batch(cells: &[Cell], jobs: usize, progress: &AtomicUsize, total: usize) -> Vec<Seen> {
    let next = AtomicUsize::new(0);
    let seen = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let start = Instant::now();
                    let (outcome, report) = run_one(*cell);
                    let number = progress.fetch_add(1, Ordering::Relaxed) + 1;
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    print(*cell, &outcome, &report, start.elapsed(), number, total);
                    seen.push(Seen { cell: *cell, outcome });
                }
            });
        }
    });
    seen.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Runs one cell; its outcome, and what to show of its logs.
fn run_one(cell: Cell) -> (Outcome, String) {
    let lab = match Lab::new(&format!("matrix-{}-{}", cell.case.name, cell.flavor.name())) {
        Ok(lab) => lab,
        Err(error) => return (Outcome::Fail(format!("{error:#}")), String::new()),
    };
    REMARK.take();
    let caught = catch_unwind(AssertUnwindSafe(|| (cell.case.run)(&lab, cell.flavor)));
    let result: Result<()> = caught.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(anyhow::anyhow!("panicked: {}", text.unwrap_or_default()))
    });
    match result {
        Ok(()) => (Outcome::Pass(REMARK.take()), String::new()),
        Err(error) => match error.downcast_ref::<Unsupported>() {
            Some(Unsupported(why)) => (Outcome::Unsupported(why.clone()), String::new()),
            None => (Outcome::Fail(one_line(&format!("{error:#}"))), lab.keep()),
        },
    }
}

/// Fit for a cell's note: one line, no table marks, not too long.
fn one_line(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "/");
    text.chars().take(1500).collect()
}

fn print(cell: Cell, outcome: &Outcome, report: &str, took: Duration, number: usize, total: usize) {
    let (case, router) = (cell.case.name, cell.flavor.name());
    let took = took.as_secs_f64();
    match outcome {
        Outcome::Pass(remark) => {
            println!("[{number}/{total}] {case:24} {router:14} pass  {took:.1} s  {remark}");
        }
        Outcome::Unsupported(why) => println!("[{number}/{total}] {case:24} {router:14} no: {why}"),
        Outcome::Fail(error) => {
            println!("[{number}/{total}] {case:24} {router:14} FAIL  {took:.1} s: {error}\n{report}");
        }
    }
}
