//! `make bench-fib`: the kernel's routes beside other routers, in the same run. Prints Markdown.
//!
//! `bench_fib load` feeds routes by BGP and times their way into the kernel; `bench_fib failover` lets one of two
//! switches die; `bench_fib loss` counts packets lost between two containers while things happen to the agent and to
//! a switch.

mod failover;
mod feed;
mod load;
mod loss;
mod router;
mod stats;
mod watch;

use clap::Parser;

/// Measures the kernel's routes.
#[derive(Debug, Parser)]
enum Bench {
    /// Routes from a neighbour into the kernel.
    Load(load::Options),
    /// Two switches, ECMP, one dies.
    Failover(failover::Options),
    /// Packets lost between two containers of two hosts.
    Loss(loss::Options),
}

fn main() -> anyhow::Result<()> {
    match Bench::parse() {
        Bench::Load(options) => load::run(&options),
        Bench::Failover(options) => failover::run(&options),
        Bench::Loss(options) => loss::run(&options),
    }
}
