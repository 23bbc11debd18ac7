//! The next hops that BGP names, and the first hops on the host's links to which they resolve.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
};

use serde::Serialize;
use smallvec::SmallVec;

use crate::{
    model::{Family, Prefix},
    netlink::nexthop::Via,
};

/// First hops with weights.
pub(super) type Ways = SmallVec<[(Via, u16); 1]>;

/// Why a next hop has no first hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unresolved {
    /// It was marked down: its session or its BFD session failed.
    Down,
    /// No route leads there.
    NoRoute,
    /// The link is down, has no carrier, or does not exist.
    LinkDown,
    /// A link-local address without an interface.
    NoInterface,
    /// It is an address of this host.
    OwnAddress,
    /// It is no host's address: unspecified, loopback, multicast.
    Invalid,
    /// The route there is a blackhole or unreachable.
    Unreachable,
    /// It resolves through itself, or through too many others.
    Loop,
}

impl Unresolved {
    /// The reason in words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Down => "its session or BFD session is down",
            Self::NoRoute => "no route leads there",
            Self::LinkDown => "the link there is down",
            Self::NoInterface => "a link-local address without an interface",
            Self::OwnAddress => "an address of this host",
            Self::Invalid => "no host's address",
            Self::Unreachable => "the route there is a blackhole or unreachable",
            Self::Loop => "the way there leads through itself, or through too many routes",
        }
    }
}

/// In place of a set: somebody wants to know whether the next hop can be reached.
pub(super) const WATCHED: u32 = u32::MAX;

/// A next hop in use.
#[derive(Clone, Debug)]
pub(super) struct Gateway {
    pub(super) addr: IpAddr,
    /// The interface, or 0 when the address must be resolved.
    pub(super) ifindex: u32,
    /// The next-hop sets that use it, and [`WATCHED`].
    pub(super) sets: BTreeSet<u32>,
    /// What it resolves to; empty when it does not.
    pub(super) ways: Ways,
    /// What it costs to get there: see [`super::reach`].
    pub(super) cost: u32,
    /// Why it does not resolve.
    pub(super) failure: Option<Unresolved>,
    /// Whether it resolves (or failed to) through routes of our own, which change more often than the host's.
    pub(super) recursive: bool,
    queued: bool,
}

/// The next hops in use, by a stable index.
#[derive(Debug, Default)]
pub(super) struct Gateways {
    slots: Vec<Option<Gateway>>,
    free: Vec<u32>,
    by_key: BTreeMap<(IpAddr, u32), u32>,
    /// Marked down, whether in use or not. An interface of 0 stands for any.
    down: HashSet<(IpAddr, u32)>,
    /// Suspected to be down, in the same way.
    suspect: HashSet<(IpAddr, u32)>,
    queue: Vec<u32>,
}

impl Gateways {
    /// The index of a next hop, which gains `set` as a user. The second is true when it is new (and queued).
    pub(super) fn acquire(&mut self, addr: IpAddr, ifindex: u32, set: u32) -> (u32, bool) {
        if let Some(index) = self.find(addr, ifindex) {
            if let Some(gateway) = self.slot_mut(index) {
                gateway.sets.insert(set);
            }
            return (index, false);
        }
        let gateway = Gateway {
            addr,
            ifindex,
            sets: BTreeSet::from([set]),
            ways: Ways::new(),
            cost: 0,
            failure: None,
            recursive: false,
            queued: false,
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        self.slots[index as usize] = Some(gateway);
        self.by_key.insert((addr, ifindex), index);
        self.enqueue(index);
        (index, true)
    }

    /// Takes a user away; answers the address when it was the last.
    pub(super) fn release(&mut self, index: u32, set: u32) -> Option<IpAddr> {
        let gateway = self.slot_mut(index)?;
        gateway.sets.remove(&set);
        if !gateway.sets.is_empty() {
            return None;
        }
        let key = (gateway.addr, gateway.ifindex);
        self.slots[index as usize] = None;
        self.by_key.remove(&key);
        self.queue.retain(|i| *i != index);
        self.free.push(index);
        Some(key.0)
    }

    /// The next hop at an index that [`Self::acquire`] gave.
    pub(super) fn slot(&self, index: u32) -> Option<&Gateway> {
        self.slots.get(index as usize)?.as_ref()
    }

    pub(super) fn slot_mut(&mut self, index: u32) -> Option<&mut Gateway> {
        self.slots.get_mut(index as usize)?.as_mut()
    }

    /// The index of a next hop in use.
    pub(super) fn find(&self, addr: IpAddr, ifindex: u32) -> Option<u32> {
        self.by_key.get(&(addr, ifindex)).copied()
    }

    /// All next hops in use.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Gateway)> {
        self.slots.iter().enumerate().filter_map(|(i, slot)| Some((i as u32, slot.as_ref()?)))
    }

    /// Those that routes use.
    pub(super) fn used(&self) -> impl Iterator<Item = &Gateway> {
        self.iter().map(|(_, gateway)| gateway).filter(|g| g.sets.iter().any(|set| *set != WATCHED))
    }

    /// The number known.
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// The next hops inside a prefix whose address must be resolved.
    pub(super) fn within(&self, prefix: Prefix) -> impl Iterator<Item = u32> {
        let range = (prefix.addr(), 0)..=(last_address(prefix), 0);
        self.by_key.range(range).filter(|((_, ifindex), _)| *ifindex == 0).map(|(_, index)| *index)
    }

    /// Queues a next hop for resolution.
    pub(super) fn enqueue(&mut self, index: u32) {
        if let Some(gateway) = self.slot_mut(index)
            && !gateway.queued
        {
            gateway.queued = true;
            self.queue.push(index);
        }
    }

    /// Queues the next hops for which `which` holds.
    pub(super) fn enqueue_if(&mut self, mut which: impl FnMut(&Gateway) -> bool) {
        let found: Vec<_> = self.iter().filter(|(_, g)| which(g)).map(|(i, _)| i).collect();
        for i in found {
            self.enqueue(i);
        }
    }

    /// Queues the next hops inside a prefix.
    pub(super) fn enqueue_within(&mut self, prefix: Prefix) {
        // The common case by far is none.
        if self.within(prefix).next().is_some() {
            let found: Vec<_> = self.within(prefix).collect();
            for i in found {
                self.enqueue(i);
            }
        }
    }

    /// The next one to be resolved.
    pub(super) fn dequeue(&mut self) -> Option<u32> {
        let index = self.queue.pop()?;
        if let Some(gateway) = self.slot_mut(index) {
            gateway.queued = false;
        }
        Some(index)
    }

    /// Whether any waits to be resolved.
    pub(super) fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Marks a next hop down or up; an interface of 0 stands for any. Queues it when it is in use.
    pub(super) fn mark(&mut self, addr: IpAddr, ifindex: u32, down: bool) {
        let changed =
            if down { self.down.insert((addr, ifindex)) } else { remove_mark(&mut self.down, addr, ifindex) };
        if changed {
            // Others may resolve through it.
            self.enqueue_if(|g| g.recursive || (g.addr == addr && (ifindex == 0 || g.ifindex == ifindex)));
        }
    }

    /// Suspects a next hop, or no longer; answers the sets that are to be computed anew. Those that resolve through it
    /// are queued.
    pub(super) fn suspect(&mut self, addr: IpAddr, ifindex: u32, on: bool) -> BTreeSet<u32> {
        let changed = if on {
            self.suspect.insert((addr, ifindex))
        } else {
            remove_mark(&mut self.suspect, addr, ifindex)
        };
        if !changed {
            return BTreeSet::new();
        }
        self.enqueue_if(|g| g.recursive);
        let concerned = |g: &&Gateway| g.addr == addr && (ifindex == 0 || g.ifindex == ifindex);
        self.iter().map(|(_, g)| g).filter(concerned).flat_map(|g| g.sets.iter().copied()).collect()
    }

    /// Whether a next hop is suspected to be down: it is used only where there is no other.
    pub(super) fn is_suspect(&self, addr: IpAddr, ifindex: u32) -> bool {
        !self.suspect.is_empty()
            && (self.suspect.contains(&(addr, ifindex)) || self.suspect.contains(&(addr, 0)))
    }

    /// Whether a next hop is marked down.
    pub(super) fn is_down(&self, addr: IpAddr, ifindex: u32) -> bool {
        !self.down.is_empty() && (self.down.contains(&(addr, ifindex)) || self.down.contains(&(addr, 0)))
    }
}

fn remove_mark(marks: &mut HashSet<(IpAddr, u32)>, addr: IpAddr, ifindex: u32) -> bool {
    let before = marks.len();
    marks.retain(|(a, i)| *a != addr || (ifindex != 0 && *i != ifindex));
    before != marks.len()
}

/// The last address of a prefix.
pub(super) fn last_address(prefix: Prefix) -> IpAddr {
    let len = prefix.len();
    match prefix.addr() {
        IpAddr::V4(a) => (a | std::net::Ipv4Addr::from(u32::MAX.checked_shr(len.into()).unwrap_or(0))).into(),
        IpAddr::V6(a) => {
            (a | std::net::Ipv6Addr::from(u128::MAX.checked_shr(len.into()).unwrap_or(0))).into()
        }
    }
}

/// Whether a gateway is an IPv6 link-local address, which means nothing without an interface.
pub(super) const fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(_) => false,
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}

/// Whether an address can be a host's.
pub(super) fn is_host_address(addr: IpAddr) -> bool {
    let broadcast = matches!(addr, IpAddr::V4(a) if a.is_broadcast());
    !(addr.is_unspecified() || addr.is_loopback() || addr.is_multicast() || broadcast)
}

/// Whether routes of a family can have a gateway: IPv4 through IPv6 works (RFC 8950), the reverse does not in Linux.
pub(super) const fn family_fits(route: Family, gateway: IpAddr) -> bool {
    matches!((route, gateway), (Family::Ipv4, _) | (Family::Ipv6, IpAddr::V6(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn users_come_and_go() {
        let mut gateways = Gateways::default();
        let (a, new) = gateways.acquire(ip("192.0.2.1"), 0, 1);
        assert!(new);
        assert_eq!(gateways.acquire(ip("192.0.2.1"), 0, 2), (a, false));
        let (b, _) = gateways.acquire(ip("fe80::1"), 3, 1);
        assert_eq!(gateways.len(), 2);
        assert_eq!(gateways.release(a, 1), None);
        assert_eq!(gateways.release(a, 2), Some(ip("192.0.2.1")));
        assert_eq!(gateways.dequeue(), Some(b));
        assert_eq!(gateways.dequeue(), None);
        assert_eq!(gateways.acquire(ip("192.0.2.9"), 0, 2).0, a);
    }

    #[test]
    fn finds_those_inside_a_prefix() {
        let mut gateways = Gateways::default();
        let (a, _) = gateways.acquire(ip("192.0.2.1"), 0, 1);
        let (b, _) = gateways.acquire(ip("192.0.2.254"), 0, 1);
        gateways.acquire(ip("192.0.2.7"), 4, 1);
        let (c, _) = gateways.acquire(ip("2001:db8::1"), 0, 1);
        let within = |p: &str| gateways.within(p.parse().unwrap()).collect::<Vec<_>>();
        assert_eq!(within("0.0.0.0/0"), [a, b]);
        assert_eq!(within("192.0.2.0/24"), [a, b]);
        assert_eq!(within("192.0.2.0/25"), [a]);
        assert_eq!(within("192.0.2.254/32"), [b]);
        assert_eq!(within("192.0.2.7/32"), [0; 0]);
        assert_eq!(within("::/0"), [c]);
        assert_eq!(within("2001:db8::1/128"), [c]);
    }

    #[test]
    fn marks_reach_those_in_use_and_those_to_come() {
        let mut gateways = Gateways::default();
        let (a, _) = gateways.acquire(ip("fe80::1"), 3, 1);
        gateways.acquire(ip("fe80::1"), 4, 1);
        while gateways.dequeue().is_some() {}
        gateways.mark(ip("fe80::1"), 3, true);
        assert_eq!(gateways.dequeue(), Some(a));
        assert_eq!(gateways.dequeue(), None);
        assert!(gateways.is_down(ip("fe80::1"), 3) && !gateways.is_down(ip("fe80::1"), 4));
        gateways.mark(ip("fe80::1"), 0, true);
        assert!(gateways.is_down(ip("fe80::1"), 4));
        gateways.mark(ip("fe80::1"), 0, false);
        assert!(!gateways.is_down(ip("fe80::1"), 3) && !gateways.is_down(ip("fe80::1"), 4));
    }
}
