//! MRT files (RFC 6396, RFC 8050): what collectors and other speakers dump, and what we dump ourselves.
//!
//! [`MrtReader`] gives the records of a file, [`MrtRecord::entry`] what one holds; [`write`] makes records.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod entry;
mod reader;
#[cfg(test)]
mod tests;
pub mod write;

pub use entry::{
    ForeignRib, MessageRecord, MrtEntry, PeerIndex, PeerIndexEntry, RibEntry, RibRecord, StateChange,
};
pub use reader::{MrtError, MrtReader, MrtRecord};

/// Record types (RFC 6396 section 4).
mod kind {
    pub(super) const TABLE_DUMP: u16 = 12;
    pub(super) const TABLE_DUMP_V2: u16 = 13;
    pub(super) const BGP4MP: u16 = 16;
    pub(super) const BGP4MP_ET: u16 = 17;
}

/// Subtypes of TABLE_DUMP_V2 (RFC 6396 section 4.3, RFC 8050 section 4).
mod table_dump {
    pub(super) const PEER_INDEX_TABLE: u16 = 1;
    pub(super) const RIB_IPV4_UNICAST: u16 = 2;
    pub(super) const RIB_IPV4_MULTICAST: u16 = 3;
    pub(super) const RIB_IPV6_UNICAST: u16 = 4;
    pub(super) const RIB_IPV6_MULTICAST: u16 = 5;
    pub(super) const RIB_GENERIC: u16 = 6;
    pub(super) const RIB_IPV4_UNICAST_ADDPATH: u16 = 8;
    pub(super) const RIB_IPV4_MULTICAST_ADDPATH: u16 = 9;
    pub(super) const RIB_IPV6_UNICAST_ADDPATH: u16 = 10;
    pub(super) const RIB_IPV6_MULTICAST_ADDPATH: u16 = 11;
    pub(super) const RIB_GENERIC_ADDPATH: u16 = 12;
}

/// Subtypes of BGP4MP and BGP4MP_ET (RFC 6396 section 4.4, RFC 8050 section 3).
mod bgp4mp {
    pub(super) const STATE_CHANGE: u16 = 0;
    pub(super) const MESSAGE: u16 = 1;
    pub(super) const MESSAGE_AS4: u16 = 4;
    pub(super) const STATE_CHANGE_AS4: u16 = 5;
    pub(super) const MESSAGE_LOCAL: u16 = 6;
    pub(super) const MESSAGE_AS4_LOCAL: u16 = 7;
    pub(super) const MESSAGE_ADDPATH: u16 = 8;
    pub(super) const MESSAGE_AS4_ADDPATH: u16 = 9;
    pub(super) const MESSAGE_LOCAL_ADDPATH: u16 = 10;
    pub(super) const MESSAGE_AS4_LOCAL_ADDPATH: u16 = 11;
}
