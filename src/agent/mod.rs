//! The daemon: wiring, core state, reload, shutdown, metrics. Translates between the rooms below.

pub mod config;
