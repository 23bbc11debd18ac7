//! Raw netlink.
