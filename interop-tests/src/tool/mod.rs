//! The subcommands of `lab-tool`, which the library runs inside machines.

pub mod cni_call;
pub mod connect;
pub mod echo;
pub mod feed;
pub mod first_answer;
pub mod floor;
pub mod flow;
pub mod hold;
pub mod inject;
pub mod member;
pub mod probe;
pub mod raw;
pub mod who;

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that is raised when stdin ends: the library wants the report.
fn stop_at_end_of_stdin() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&stop);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        while matches!(stdin.read(&mut [0; 64]), Ok(1..)) {}
        raised.store(true, Ordering::Relaxed);
    });
    stop
}

fn milliseconds(span: std::time::Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}
