//! What the agent takes from the machine: host name, an address for the router id, its own privileges, and the lock
//! that keeps two agents out of one run directory.

use std::{
    fs::{File, TryLockError},
    io,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

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

/// Holds the run directory for this process; released by the kernel however we end.
pub(super) fn lock(run_dir: &Path) -> anyhow::Result<File> {
    std::fs::create_dir_all(run_dir)
        .with_context(|| format!("cannot create the run directory {}", run_dir.display()))?;
    let path = run_dir.join("agent.lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => anyhow::bail!(
            "another agent already runs with the run directory {}; stop it first. Two agents with run directories of their own \
             would undo each other's routes and rules, unless each is in a network namespace of its own",
            run_dir.display()
        ),
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(file),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_agent_a_run_directory() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        let error = lock(dir.path()).unwrap_err().to_string();
        assert!(error.contains("another agent already runs"), "{error}");
        drop(held);
        lock(dir.path()).unwrap();
    }
}
