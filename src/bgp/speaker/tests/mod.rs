//! Speakers against each other over loopback, each test in a network namespace of its own.

mod bird;
mod features;
mod harness;
mod lab;
mod liveness;
mod monitor;
mod reload;
mod routes;
mod sessions;
mod transport;
