//! The agent's side of every CNI verb.

mod host;

pub use host::Host;
