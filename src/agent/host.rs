//! What the agent takes from the machine: host name, an address for the router id, and its own privileges.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Context;

use super::config::Surroundings;
use crate::netlink::{self, Socket};

/// CAP_NET_ADMIN, linux/capability.h.
const CAP_NET_ADMIN: u32 = 12;

/// Host name and router id of this machine (of this network namespace).
pub(super) fn surroundings() -> Surroundings {
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    Surroundings { hostname, router_id: first_ipv4().ok().flatten() }
}

/// The first global IPv4 address of the interface with the lowest index.
fn first_ipv4() -> Result<Option<Ipv4Addr>, netlink::Error> {
    let mut socket = Socket::route()?;
    let mut addresses = netlink::addr::list(&mut socket)?;
    addresses.sort_by_key(|a| a.ifindex);
    Ok(addresses.into_iter().find_map(|a| match a.addr {
        IpAddr::V4(v4) if a.is_global() && !v4.is_loopback() && !v4.is_link_local() => Some(v4),
        _ => None,
    }))
}

/// Fails with what to do unless we may change the network.
pub(super) fn require_privileges() -> anyhow::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    if effective >> CAP_NET_ADMIN & 1 == 0 {
        anyhow::bail!(
            "the agent needs root, or the capability CAP_NET_ADMIN (and CAP_SYS_ADMIN for container namespaces)"
        );
    }
    Ok(())
}
