//! Links of the host that go down and come up: a session over a dead link ends at once instead of with its hold timer.

use std::collections::HashMap;

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

/// A link that went down or came up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkChange {
    pub(super) ifindex: u32,
    pub(super) up: bool,
}

impl Links {
    /// Begins to watch. Inside a tokio runtime.
    pub(super) fn open() -> Result<Self, Error> {
        // Subscribed before the list is read, so that no change falls between.
        let watch = Watch::open(&[Topic::Links], &[])?;
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
                KernelEvent::Overrun => self.read()?,
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
        (before.unwrap_or(false) != up).then_some(LinkChange { ifindex, up })
    }
}
