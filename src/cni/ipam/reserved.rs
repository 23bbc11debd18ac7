//! Addresses that are somebody's already, and that no container can have: the host's own, its neighbours', its gateways'.
//! A container with one would take it from whoever has it, and cut the host off.

use std::{collections::BTreeMap, fmt, net::IpAddr, time::Instant};

use super::Ipam;
use crate::model::Prefix;

/// Whose an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whose {
    /// Of an interface of this host, or one that means all hosts on a link of it.
    Host,
    /// A configured BGP neighbour's.
    Neighbour,
    /// Of a gateway that a route of this host leads to.
    Gateway,
    /// In `[policy] infrastructure`.
    Infrastructure,
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "an address of this host",
            Self::Neighbour => "a BGP neighbour's address",
            Self::Gateway => "a gateway of this host's routes",
            Self::Infrastructure => "an address of the infrastructure",
        })
    }
}

impl Ipam {
    /// Says which addresses are somebody's: all of them. One that is no longer rests before it is given.
    pub fn set_reserved(&mut self, reserved: BTreeMap<IpAddr, Whose>, now: Instant) {
        let old = std::mem::replace(&mut self.reserved, reserved);
        for addr in old.into_keys().filter(|addr| !self.reserved.contains_key(addr)).collect::<Vec<_>>() {
            self.rest(addr, now);
        }
    }

    /// Adds one address that is somebody's.
    pub fn reserve(&mut self, addr: IpAddr, whose: Whose) {
        self.reserved.insert(addr, whose);
    }

    /// Whose an address is that no container can have.
    pub fn whose(&self, addr: IpAddr) -> Option<Whose> {
        self.reserved.get(&addr).copied()
    }

    /// The addresses of our blocks that are left out because they are somebody's, each with its block; not those that the
    /// configuration excludes.
    pub fn left_out(&self) -> impl Iterator<Item = (IpAddr, Prefix, Whose)> {
        self.reserved.iter().filter_map(|(addr, whose)| {
            let block = self.block_of(*addr).filter(|block| !block.is_excluded(*addr))?;
            Some((*addr, block.prefix(), *whose))
        })
    }
}

/// What to say of such an address, wherever it is found.
pub fn left_out_line(addr: IpAddr, block: Prefix, whose: Whose) -> String {
    format!("{addr} in the block {block} is {whose}: no container gets it")
}
