//! slash32: a BGP-routed, layer-3 container network for Linux hosts.
//!
//! The map of the crate, top floor to ground. Imports only ever point downwards, and the four rooms of the
//! middle floor (`bgp`, `cni`, `policy`, `routes`) never import one another; `tests/architecture.rs` checks it.
//!
//! - [`cli`]: the command line, one file a command. Every command prints tables for people or `--json`.
//! - [`agent`]: the daemon. Configuration, core state, reload, shutdown and metrics. It translates between the rooms.
//! - [`bgp`]: the speaker: wire codec, session state machine, BFD, RIB, and the sockets that drive them.
//! - [`routes`]: the kernel's FIB: desired against actual, next-hop objects, batches, watch and reconcile.
//! - [`policy`]: labels, selectors and rules compiled to one nftables table.
//! - [`cni`]: the CNI specification's types, the plugin (a thin client), attach and detach, address management.
//! - [`api`]: what travels on the control socket, and a small blocking client.
//! - [`netlink`]: raw netlink sockets, network-namespace switching and socket options; the only place with `unsafe`.
//! - [`model`]: the nouns that all rooms share. Imports nothing of ours.

pub mod agent;
pub mod api;
pub mod bgp;
pub mod cli;
pub mod cni;
pub mod model;
pub mod netlink;
pub mod policy;
pub mod routes;
