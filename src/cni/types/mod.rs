//! The CNI specification in types: versions, configuration, arguments, results, errors.
//!
//! Versions 0.3.0 to 1.1.0 in full; 0.1.0 and 0.2.0 for their results. Everything a runtime sends is parsed and
//! checked here, once; what passes is trusted.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod args;
mod conf;
mod error;
mod json;
mod mac;
pub mod names;
mod result;
mod version;

pub use args::CniArgs;
pub use conf::{ArgsConf, Bandwidth, IpamConf, L4, NetConf, PortMapping, RuntimeConf, answer_version};
pub(crate) use conf::{DONE_KEY, IPAM_RESULT_KEY, LABELS_KEY, REMOVED_KEY, parse_labels};

pub use error::{CniError, code};
pub use mac::{Mac, MacError};
pub use result::{AddResult, Dns, Interface, IpConfig, Route};
pub use version::SpecVersion;
