//! Links of the host that go down and come up: a session over a dead link ends at once instead of with its hold timer.
//! And addresses that come and go: next hops are among them.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
};

use crate::netlink::{
    Error, Socket, link,
    watch::{KernelEvent, Topic, Watch},
};

/// Which links carry packets, and what changes about it.
#[derive(Debug)]
pub(super) struct Links {
    watch: Watch,
    up: HashMap<u32, bool>,
}

/// What is different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkChange {
    /// A link went down or came up.
    Link { ifindex: u32, up: bool },
    /// An address came, went, or became usable.
    Address { ifindex: u32, addr: IpAddr },
}

impl Links {
    /// Begins to watch. Inside a tokio runtime.
    pub(super) fn open() -> Result<Self, Error> {
        // Subscribed before the list is read, so that no change falls between.
        let watch = Watch::open(&[Topic::Links, Topic::Addresses], &[])?;
        let mut links = Self { watch, up: HashMap::new() };
        links.read()?;
        Ok(links)
    }

    /// The next changes. Losing the future loses none.
    pub(super) async fn next(&mut self) -> Result<Vec<LinkChange>, Error> {
        loop {
            let changes = match self.watch.next().await? {
                KernelEvent::Link(link) => self.set(link.index, link.is_running()).into_iter().collect(),
                KernelEvent::LinkGone(link) => {
                    let change = self.set(link.index, false);
                    self.up.remove(&link.index);
                    change.into_iter().collect()
                }
                KernelEvent::Address(address) | KernelEvent::AddressGone(address) => {
                    vec![LinkChange::Address { ifindex: address.ifindex, addr: address.addr }]
                }
                KernelEvent::Overrun => {
                    let anywhere = LinkChange::Address { ifindex: 0, addr: Ipv4Addr::UNSPECIFIED.into() };
                    [self.read()?, vec![anywhere]].concat()
                }
                _ => Vec::new(),
            };
            if !changes.is_empty() {
                return Ok(changes);
            }
        }
    }

    /// Reads all links anew; what is different.
    fn read(&mut self) -> Result<Vec<LinkChange>, Error> {
        let now: HashMap<u32, bool> =
            link::list(&mut Socket::route()?)?.into_iter().map(|l| (l.index, l.is_running())).collect();
        let gone: Vec<u32> = self.up.keys().filter(|index| !now.contains_key(index)).copied().collect();
        let mut changes: Vec<LinkChange> =
            gone.into_iter().filter_map(|index| self.set(index, false)).collect();
        changes.extend(now.iter().filter_map(|(index, up)| self.set(*index, *up)));
        self.up = now;
        Ok(changes)
    }

    fn set(&mut self, ifindex: u32, up: bool) -> Option<LinkChange> {
        let before = self.up.insert(ifindex, up);
        (before.unwrap_or(false) != up).then_some(LinkChange::Link { ifindex, up })
    }
}
