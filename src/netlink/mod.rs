//! Raw netlink, network namespaces and the socket options that BGP needs: the only room with `unsafe`.
//!
//! - [`Socket`]: a small blocking netlink socket. [`Batch`] holds many messages that go out in one send; only the
//!   last asks for an acknowledgement (the kernel always reports errors), and every error is mapped back to the
//!   index of its message with the kernel's own words.
//! - [`Writer`] and [`Attrs`]: hand encoding and decoding of messages and nested attributes, without unchecked
//!   lengths. Messages of `netlink-packet-route` can be mixed in with [`Batch::push_route`].
//! - [`link`], [`addr`], [`route`], [`nexthop`], [`neigh`]: typed lists and messages for the kernel's objects.
//! - [`rule`]: which tables are looked up. [`relabel`]: another protocol number for routes.
//! - [`conntrack`]: tracked UDP connections.
//! - [`watch`]: the kernel's notifications as typed events.
//! - [`NfLog`]: packets that nftables' rules log.
//! - [`feature`]: what the running kernel can do.
//! - [`sockopt`]: what BGP and BFD sockets need: MD5, TTL security, packet information.
//! - [`sysctl`]: kernel settings.
//! - [`lease`]: whether a file is being written to.
//! - [`poll`]: waiting for a descriptor, but not for ever.
//! - [`ns`]: network namespaces: open, identify, run inside, and private ones for tests.
//!
//! - [`entry`]: where the program starts, and the plugin's short way to the agent.
//!
//! Every system call is in the file `sys.rs`, but for those of `entry.rs`, which come before the C library's start;
//! nothing else in the crate contains `unsafe`.

pub mod addr;
mod attr;
mod batch;
pub mod conntrack;
pub mod devconf;
pub mod entry;
mod error;
pub mod feature;
pub mod lease;
pub mod link;
pub mod neigh;
pub mod nexthop;
mod nflog;
mod nft_watch;
pub mod ns;
pub mod poll;
mod relabel;
pub mod route;
pub mod rule;
mod socket;
pub mod sockopt;
mod sys;
pub mod sysctl;
pub mod tcp_ao;
pub mod watch;
mod writer;

pub use attr::{Attr, Attrs};
pub use batch::Batch;
pub use devconf::{Ipv4Settings, Ipv6Settings};
pub use error::{Error, KernelError, is_out_of_descriptors};
pub use nflog::{LoggedPacket, NfLog};
pub use nft_watch::{NftEvent, NftWatch};
pub use relabel::relabel;
pub use socket::{BatchReport, Protocol, RawMessage, Socket};
pub use writer::Writer;

/// `struct nlmsghdr` of linux/netlink.h is 16 bytes: length, type, flags, sequence, port.
const NLMSG_HDRLEN: usize = 16;

/// Netlink aligns messages and attributes to 4 bytes (`NLMSG_ALIGN`, `NLA_ALIGN`).
const fn align4(len: usize) -> usize {
    (len + 3) & !3
}
