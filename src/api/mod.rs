//! What travels on the agent's control socket, and a small blocking client.
//!
//! The socket is a Unix stream at `<run_dir>/agent.sock`, mode 0600. A request is one line of JSON, an answer is one
//! line of JSON: `{"ok": VALUE}` or `{"error": {"message": …, "hint": …}}`. A connection may carry any number of
//! requests, one after another; what waits when the asker closes it is not begun, except for CNI's verbs. The plugin
//! and the command line need nothing else of the agent.

pub mod client;
mod cni;
mod request;

pub use cni::{CniAnswer, CniFailure, CniRequest};
pub use request::{Answer, Failure, Request, RibQuery, SHUTTING_DOWN, ShutdownMode};

/// The socket's name inside the run directory.
pub const SOCKET_NAME: &str = "agent.sock";
/// The name of the plugin's own socket inside the run directory; `netlink::entry` has what travels on it.
pub const PLUGIN_SOCKET_NAME: &str = "plugin.sock";
/// The run directory when none is given.
pub const DEFAULT_RUN_DIR: &str = "/run/slash32";
/// The configuration file when none is given.
pub const DEFAULT_CONFIG: &str = "/etc/slash32/slash32.toml";
/// The longest line either side accepts, in bytes; a GC request lists every attachment of a host.
pub const MAX_LINE: usize = 16 << 20;
