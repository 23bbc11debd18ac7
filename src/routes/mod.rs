//! The kernel's routes: what BGP knows is what the kernel does.
//!
//! [`Fib`] holds what is wanted and what the kernel has, and writes the difference. Routes refer to next-hop groups,
//! one for each set of next hops, so that the loss of a next hop costs one message a set and not one a route.
//!
//! # What is ours
//! Routes with our protocol number (32) in our table, and next-hop objects with that number and an id in our range
//! (the protocol number is the id's highest byte). Learned and blackhole routes also have our metric (1024); routes
//! of our protocol that lead straight onto a host end (`s32…`) are those of local containers, which the attachment
//! writes and this room repairs. What else has our number is left from another configuration, or somebody's mistake,
//! and is deleted. All without our number is foreign and never touched: a foreign route with the same prefix, table
//! and metric keeps ours out, one with a lower metric is preferred by the kernel, and both are reported.
//!
//! # Parts
//! `table` the routes, compactly; `gateways` and `sets` next hops and groups; `reach` who is told of next hops;
//! `foreign` other people's routes; `plan` what should be; [`fake`] a kernel made of maps for tests and simulations;
//! `write` steps; `reconcile` reading the kernel and verifying; `events` notifications; [`thread`] the thread that owns
//! it all.

mod checks;
mod config;
mod events;
pub mod fake;
mod fib;
mod foreign;
mod gateways;
mod kernel;
mod plan;
mod reach;
mod reconcile;
mod sets;
mod state;
mod status;
mod table;
pub mod thread;
mod write;

#[cfg(test)]
mod kernel_tests;
#[cfg(test)]
mod model_tests;

pub use checks::Reason;
pub use config::FibConfig;
pub use fib::{Fib, Step};
pub use gateways::Unresolved;
pub use kernel::{Alarm, Kernel, Leftover, Netlink, Op, Way};
pub use reach::Reach;
pub use reconcile::{Difference, DifferenceKind};
pub use state::Counters;
pub use status::{
    FirstHopStatus, ForeignStatus, NextHopStatus, RouteFilter, RouteOrigin, RouteStatus, Summary,
};
