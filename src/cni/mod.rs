//! The container's side: the CNI specification's types, the plugin (a thin client), attach and detach, and address
//! management.
//!
//! - [`types`]: configuration, arguments, results and errors of every version of the specification.
//! - [`plugin_main`]: the plugin a runtime starts; it asks the agent by the control socket.
//! - [`handler`]: the agent's side of every verb, which uses all the others:
//!   [`ipam`] (addresses), [`store`] (one file an attachment) and [`attach`] (the kernel).
//! - [`attachment`]: everything known of one attachment, which is what the agent gets to see.

pub mod attach;
pub mod attachment;
mod fault;
pub mod handler;
pub mod install;
pub mod ipam;
pub mod plugin;
mod state;
pub mod store;
pub mod types;

pub use plugin::{about, is_plugin_call, plugin_main};
