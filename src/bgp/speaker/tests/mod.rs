//! Speakers against each other over loopback, each test in a network namespace of its own.

mod harness;
mod reload;
mod sessions;
mod transport;
