//! Addresses whose endpoint has its rules in force and no route to it yet.
//!
//! Until the route is there, packets of connections with such an address go where they went before and are judged for
//! their other end alone. Taken for judged then, they would be let through to the endpoint for ever, by policies that
//! were never asked. So they are let pass, but not stamped.

use std::net::IpAddr;

use super::{Engine, skeleton::ARRIVING};
use crate::{
    model::{EndpointId, Prefix},
    policy::ir::{Data, Key},
};

impl Engine {
    /// The routes to an endpoint's addresses are there.
    pub fn arrived(&mut self, id: &EndpointId) {
        for addr in self.arriving_of(id) {
            self.arriving.remove(&(addr, id.clone()));
            if !self.is_arriving(addr) {
                self.put(set_of(addr), Key::address(addr), Some(Data::None), None);
            }
        }
    }

    /// An endpoint's address has no route to it yet.
    pub(super) fn arrives(&mut self, id: &EndpointId, addr: IpAddr) {
        let was = self.is_arriving(addr);
        self.arriving.insert((addr, id.clone()));
        if !was {
            self.put(set_of(addr), Key::address(addr), None, Some(Data::None));
        }
    }

    /// The addresses of an endpoint that have no route to it yet.
    pub fn arriving_of(&self, id: &EndpointId) -> Vec<IpAddr> {
        self.arriving.iter().filter(|(_, of)| of == id).map(|(addr, _)| *addr).collect()
    }

    pub(super) fn is_arriving(&self, addr: IpAddr) -> bool {
        let from = (addr, EndpointId(String::new()));
        self.arriving.range(from..).next().is_some_and(|(next, _)| *next == addr)
    }

    /// Whether connections with an address may be known to the kernel that were judged before it was this host's
    /// endpoint's: it was another's, or is of no pool and may be anybody's.
    pub(super) fn may_be_known(&self, addr: IpAddr) -> bool {
        let prefix = Prefix::host(addr);
        self.remotes.contains_key(&prefix)
            || self.departed.contains(prefix)
            || !self.config.pools.iter().any(|pool| pool.cidr.contains_addr(addr))
    }

    /// The host has got or lost an address: what was judged as traffic of the one kind is of the other now.
    pub fn judge_anew(&mut self) {
        self.revokes = true;
    }
}

pub(super) fn set_of(addr: IpAddr) -> &'static str {
    ARRIVING[usize::from(addr.is_ipv6())]
}
