//! The host's own addresses. Traffic with an address that the host gets or loses was judged as that of somebody else:
//! connections that policies let through the host are let into it no more without being asked, nor the other way round.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use super::{actor::Actor, core::Core};
use crate::netlink::{
    Error, Socket,
    addr::{self, Address},
    watch::{KernelEvent, Topic, Watch},
};

/// What the host has, by interface. Link-local addresses are no end of what is routed, and come with every container.
#[derive(Debug, Default, PartialEq, Eq)]
struct Known(HashSet<(u32, IpAddr)>);

impl Known {
    fn read() -> Result<Self, Error> {
        let list = addr::list(&mut Socket::route()?)?;
        Ok(Self(list.iter().filter(|a| counts(a)).map(|a| (a.ifindex, a.addr)).collect()))
    }

    /// Notes what has happened; whether the host has other addresses than before. The kernel also tells of addresses
    /// whose lifetime goes on.
    fn note(&mut self, event: &KernelEvent) -> bool {
        match event {
            KernelEvent::Address(a) if counts(a) => self.0.insert((a.ifindex, a.addr)),
            KernelEvent::AddressGone(a) => self.0.remove(&(a.ifindex, a.addr)),
            KernelEvent::Overrun => match Self::read() {
                Ok(now) => {
                    let changed = now != *self;
                    *self = now;
                    changed
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot read the host's addresses");
                    true
                }
            },
            _ => false,
        }
    }
}

fn counts(address: &Address) -> bool {
    match address.addr {
        IpAddr::V4(addr) => !addr.is_link_local(),
        IpAddr::V6(addr) => !addr.is_unicast_link_local(),
    }
}

/// Tells the core of every change until it has ended. Call it inside a tokio runtime.
pub(super) fn watch(core: Actor<Core>) -> Result<(), Error> {
    let mut watch = Watch::open(&[Topic::Addresses], &[])?;
    let mut known = Known::read()?;
    tokio::spawn(async move {
        loop {
            let event = match watch.next().await {
                Ok(event) => event,
                Err(error) => {
                    tracing::error!(%error, "cannot read notifications of addresses");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    KernelEvent::Overrun
                }
            };
            if known.note(&event) && core.tell(|core| core.policies_mut().host_addresses_changed()).is_err() {
                return;
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_count() {
        let address = |addr: &str| Address {
            ifindex: 2,
            addr: addr.parse().unwrap(),
            prefix_len: 32,
            scope: 0,
            flags: 0,
        };
        let mut known = Known::default();
        for addr in ["192.0.2.1", "2001:db8::1"] {
            let (new, gone) = (KernelEvent::Address(address(addr)), KernelEvent::AddressGone(address(addr)));
            assert!(known.note(&new) && !known.note(&new), "a longer lifetime");
            assert!(known.note(&gone) && !known.note(&gone));
        }
        for addr in ["169.254.1.1", "fe80::1"] {
            assert!(!known.note(&KernelEvent::Address(address(addr))), "{addr}");
        }
    }
}
