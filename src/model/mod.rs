//! The nouns that all rooms share: prefixes, labels, identities, endpoints, next hops, and errors
//! in files.
//!
//! Values only: no I/O, no clock, and no import from the rest of the crate. Everything here is parsed once at an
//! edge (a file, the network, a runtime, the kernel) and trusted from then on.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod asn;
mod diagnostic;
mod endpoint;
mod identity;
mod labels;
mod martian;
mod next_hop;
mod prefix;

pub use asn::{Asn, AsnError, RouterId, RouterIdError};
pub use diagnostic::Diagnostic;
pub use endpoint::{Endpoint, EndpointId, EndpointKey, gateway6};
pub use identity::{Identity, LabelHash};
pub use labels::{LabelError, Labels};
pub use next_hop::{NextHop, NextHopSet};
pub use prefix::{Family, Ipv4Prefix, Ipv6Prefix, Prefix, PrefixError};
