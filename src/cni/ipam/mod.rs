//! Which address goes to which endpoint. Pure: no I/O, and time is passed in.
//!
//! A pool is a range of the whole cluster; its blocks are this host's share. An endpoint gets one address of every
//! family its network has pools for. Addresses that were released rest for a while before they are given again, the
//! one released longest ago first, so that no late packet or stale cache reaches the wrong container. An address
//! that is asked for by name may rest or lie outside our blocks (it moves here with its container), but it must be
//! inside a pool, not excluded, and held by nobody on this host. What is the host's own, a neighbour's or a gateway's is
//! never given, however it is asked for.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod block;
mod reserved;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::model::{EndpointId, Family, Prefix};
use block::{Block, Pick};
pub use reserved::{Whose, left_out_line};

/// What addresses there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpamConfig {
    /// How long a released address rests.
    pub quarantine: Duration,
    /// The pools, in the order in which they are tried.
    pub pools: Vec<PoolConfig>,
}

/// A pool of addresses of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// The name that networks refer to; an IPv4 and an IPv6 pool may share one.
    pub name: String,
    /// The range of the whole cluster.
    pub cidr: Prefix,
    /// This host's share of it, in the order of use.
    pub blocks: Vec<Prefix>,
    /// Never given.
    pub exclude: Vec<Prefix>,
}

/// What an endpoint wants.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Who asks.
    pub owner: &'a EndpointId,
    /// The pools to choose from, in this order; empty: all.
    pub pools: &'a [String],
    /// The families to give; empty: all that the pools have.
    pub families: &'a [Family],
    /// Addresses asked for by name, at most one a family.
    pub requested: &'a [IpAddr],
}

/// What an endpoint got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// The IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// The IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Those of them that lie outside our blocks.
    pub moved: Vec<IpAddr>,
}

/// Why no address was given. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// The network names a pool that the agent's configuration does not have.
    #[error("there is no address pool named `{0}`")]
    NoSuchPool(String),
    /// No pool has a block of this host.
    #[error("no address pool has a block for this host{}", family.map(|f| format!(" ({f})")).unwrap_or_default())]
    NoBlock {
        /// The family that was asked for, if one was.
        family: Option<Family>,
    },
    /// Every address of the blocks is in use or rests.
    #[error("no free {family} address in {blocks}: {used} in use, {resting} resting{}{}",
        if *reserved > 0 { format!(", {reserved} not a container's") } else { String::new() },
        retry.map(|d| format!("; one will be free in {} s", d.as_secs() + 1)).unwrap_or_default())]
    Exhausted {
        /// The family.
        family: Family,
        /// The blocks that were tried.
        blocks: String,
        /// Addresses in use.
        used: usize,
        /// Addresses that rest.
        resting: usize,
        /// Addresses that are somebody's who is no container.
        reserved: usize,
        /// How long until the first of those is free.
        retry: Option<Duration>,
    },
    /// The address is in no pool the network may use.
    #[error("the requested address {0} is in none of the network's pools")]
    Outside(IpAddr),
    /// The address is excluded.
    #[error("the requested address {0} is excluded from its pool")]
    Excluded(IpAddr),
    /// It is somebody's who is no container.
    #[error("the requested address {addr} is {whose}")]
    Reserved {
        /// The address.
        addr: IpAddr,
        /// Who has it.
        whose: Whose,
    },
    /// Somebody else has it.
    #[error("the requested address {addr} is in use by {owner}")]
    InUse {
        /// The address.
        addr: IpAddr,
        /// Who has it.
        owner: EndpointId,
    },
    /// Several addresses of one family were requested.
    #[error("more than one {0} address was requested")]
    TooMany(Family),
}

/// Use of one block, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockUse {
    /// The pool's name.
    pub pool: String,
    /// The pool's range.
    pub cidr: Prefix,
    /// The block; the pool's range again for addresses that moved here from another host's block.
    pub block: Prefix,
    /// Whether the block is ours.
    pub local: bool,
    /// How many addresses can be given at all; saturates for large IPv6 blocks.
    pub size: u64,
    /// In use.
    pub used: u64,
    /// Released and not yet to be given again.
    pub resting: u64,
    /// Announced by another host, where they moved to.
    pub elsewhere: u64,
    /// Never given, because they are the host's, a neighbour's or a gateway's.
    pub reserved: u64,
    /// To be given at once.
    pub free: u64,
}

/// The addresses of this host.
#[derive(Debug)]
pub struct Ipam {
    quarantine: Duration,
    pools: Vec<Pool>,
    leases: HashMap<IpAddr, EndpointId>,
    owners: HashMap<EndpointId, Vec<IpAddr>>,
    /// Addresses of our blocks that another host announces.
    elsewhere: HashSet<IpAddr>,
    /// Addresses that no container can have, and whose they are.
    reserved: BTreeMap<IpAddr, Whose>,
}

#[derive(Debug)]
struct Pool {
    config: PoolConfig,
    blocks: Vec<Block>,
}

impl Ipam {
    /// All addresses free.
    pub fn new(config: &IpamConfig) -> Self {
        Self {
            quarantine: config.quarantine,
            pools: config.pools.iter().map(Pool::new).collect(),
            leases: HashMap::new(),
            owners: HashMap::new(),
            elsewhere: HashSet::new(),
            reserved: BTreeMap::new(),
        }
    }

    /// Takes a new configuration. Leases stay, also those that lie in no pool any more; what rests goes on resting.
    pub fn reconfigure(&mut self, config: &IpamConfig) {
        let old = std::mem::replace(self, Self::new(config));
        self.leases = old.leases;
        self.owners = old.owners;
        self.elsewhere = old.elsewhere;
        self.reserved = old.reserved;
        for pool in &old.pools {
            for (addr, since) in pool.blocks.iter().flat_map(Block::released) {
                self.rest(addr, since);
            }
        }
    }

    /// Gives addresses: all that the wish asks for, or none. An owner that has addresses already gets others only
    /// after it has released them.
    pub fn allocate(&mut self, wish: Wish<'_>, now: Instant) -> Result<Grant, IpamError> {
        self.have_pools(wish.pools)?;
        let mut grant = Grant::default();
        for family in Family::ALL {
            let addr = match wish.named(family)? {
                Some(addr) => Some(self.requested(wish, addr)?),
                None if wish.families.is_empty() || wish.families.contains(&family) => {
                    self.any(wish, family, now)?
                }
                None => None,
            };
            match addr {
                Some(IpAddr::V4(addr)) => grant.ipv4 = Some(addr),
                Some(IpAddr::V6(addr)) => grant.ipv6 = Some(addr),
                None => {}
            }
        }
        if grant.ipv4.is_none() && grant.ipv6.is_none() {
            return Err(IpamError::NoBlock { family: None });
        }
        for addr in grant.addresses() {
            if self.block_of(addr).is_none() || self.elsewhere.contains(&addr) {
                grant.moved.push(addr);
            }
            self.take(wish.owner, addr);
        }
        Ok(grant)
    }

    /// Whether the addresses that a wish names could be given: those that its owner has already, too, and whatever is given
    /// beside them.
    pub fn possible(&self, wish: Wish<'_>) -> Result<(), IpamError> {
        self.have_pools(wish.pools)?;
        for family in Family::ALL {
            let Some(addr) = wish.named(family)? else { continue };
            match self.requested(wish, addr) {
                Err(IpamError::InUse { owner, .. }) if owner == *wish.owner => {}
                other => _ = other?,
            }
        }
        Ok(())
    }

    fn have_pools(&self, names: &[String]) -> Result<(), IpamError> {
        match names.iter().find(|name| !self.pools.iter().any(|p| p.config.name == **name)) {
            Some(missing) => Err(IpamError::NoSuchPool(missing.clone())),
            None => Ok(()),
        }
    }

    /// Records that `owner` holds `addr`, wherever it lies: after a restart, or when another plugin gave it.
    pub fn adopt(&mut self, owner: &EndpointId, addr: IpAddr) -> Result<(), IpamError> {
        match self.leases.get(&addr) {
            Some(other) if other != owner => Err(IpamError::InUse { addr, owner: other.clone() }),
            Some(_) => Ok(()),
            None => {
                self.take(owner, addr);
                Ok(())
            }
        }
    }

    /// Takes back all addresses of an owner and puts them to rest.
    pub fn release(&mut self, owner: &EndpointId, now: Instant) -> Vec<IpAddr> {
        let addrs = self.owners.remove(owner).unwrap_or_default();
        for addr in &addrs {
            self.leases.remove(addr);
            self.rest(*addr, now);
        }
        addrs
    }

    /// Takes back all addresses of an owner that never used them: they can be given again at once.
    pub fn give_back(&mut self, owner: &EndpointId, now: Instant) {
        // An instant so early that the rest is over; where the clock cannot go back so far, it just rests.
        let long_ago = now.checked_sub(self.quarantine).unwrap_or(now);
        self.release(owner, long_ago);
    }

    /// Takes back one address of an owner that keeps its others; it does not rest.
    pub fn give_back_one(&mut self, addr: IpAddr, now: Instant) {
        let Some(owner) = self.leases.remove(&addr) else { return };
        if let Some(held) = self.owners.get_mut(&owner) {
            held.retain(|other| *other != addr);
            if held.is_empty() {
                self.owners.remove(&owner);
            }
        }
        self.rest(addr, now.checked_sub(self.quarantine).unwrap_or(now));
    }

    /// Notes whether another host announces an address. One of our blocks' is not given to anybody meanwhile, unless
    /// it is asked for by name (it comes home), and rests afterwards.
    pub fn set_elsewhere(&mut self, addr: IpAddr, elsewhere: bool, now: Instant) -> bool {
        if elsewhere {
            // The other hosts' own addresses are most of the cluster and nothing that we would give.
            return self.is_local(addr) && self.elsewhere.insert(addr);
        }
        let known = self.elsewhere.remove(&addr);
        if known {
            self.rest(addr, now);
        }
        known
    }

    /// The addresses of our blocks that other hosts have.
    pub fn elsewhere(&self) -> impl Iterator<Item = IpAddr> {
        self.elsewhere.iter().copied()
    }

    /// Lets a free address rest since `since`: after a restart, from what was noted at its release. One that is excluded is
    /// never given again.
    pub fn rest(&mut self, addr: IpAddr, since: Instant) {
        if !self.leases.contains_key(&addr)
            && let Some(block) = self.block_of_mut(addr).filter(|block| !block.is_excluded(addr))
        {
            block.release(addr, since);
        }
    }

    /// Who holds an address.
    pub fn owner(&self, addr: IpAddr) -> Option<&EndpointId> {
        self.leases.get(&addr)
    }

    /// What an owner holds.
    pub fn held_by(&self, owner: &EndpointId) -> &[IpAddr] {
        self.owners.get(owner).map_or(&[], Vec::as_slice)
    }

    /// All leases, in no order.
    pub fn leases(&self) -> impl Iterator<Item = (IpAddr, &EndpointId)> {
        self.leases.iter().map(|(addr, owner)| (*addr, owner))
    }

    /// The leases that lie in no pool: of other IPAM plugins, or of pools that the configuration has no longer.
    pub fn outside(&self) -> impl Iterator<Item = (IpAddr, &EndpointId)> {
        self.leases().filter(|(addr, _)| !self.is_in_pool(*addr))
    }

    /// Whether an address is in any pool.
    pub fn is_in_pool(&self, addr: IpAddr) -> bool {
        self.pools.iter().any(|pool| pool.config.cidr.contains_addr(addr))
    }

    /// Whether an address is in one of this host's blocks.
    pub fn is_local(&self, addr: IpAddr) -> bool {
        self.block_of(addr).is_some()
    }

    /// Whether a wish could be fulfilled now, without doing it.
    pub fn available(
        &mut self,
        pools: &[String],
        families: &[Family],
        now: Instant,
    ) -> Result<(), IpamError> {
        let nobody = EndpointId(String::new());
        let wish = Wish { owner: &nobody, pools, families, requested: &[] };
        self.have_pools(pools)?;
        let mut any = false;
        for family in Family::ALL {
            if families.is_empty() || families.contains(&family) {
                any |= self.any(wish, family, now)?.is_some();
            }
        }
        if any { Ok(()) } else { Err(IpamError::NoBlock { family: None }) }
    }

    /// Use of every block, and of every pool that has addresses from elsewhere.
    pub fn usage(&self, now: Instant) -> Vec<BlockUse> {
        let mut usage: Vec<BlockUse> = Vec::new();
        for pool in &self.pools {
            let entry = |block: Prefix, local, size: u128| BlockUse {
                pool: pool.config.name.clone(),
                cidr: pool.config.cidr,
                block,
                local,
                size: size.try_into().unwrap_or(u64::MAX),
                used: self.leases.keys().filter(|a| block.contains_addr(**a)).count() as u64,
                resting: 0,
                elsewhere: 0,
                reserved: 0,
                free: 0,
            };
            let mut in_blocks = 0;
            for block in &pool.blocks {
                let mut entry = entry(block.prefix(), true, block.size());
                entry.resting = block
                    .released()
                    .filter(|(addr, since)| {
                        *since + self.quarantine > now
                            && !self.elsewhere.contains(addr)
                            && !self.reserved.contains_key(addr)
                    })
                    .count() as u64;
                let here = |a: &&IpAddr| block.prefix().contains_addr(**a) && !self.leases.contains_key(*a);
                let free = |a: &&IpAddr| here(a) && !self.reserved.contains_key(*a);
                entry.elsewhere = self.elsewhere.iter().filter(free).count() as u64;
                let included = |a: &&IpAddr| here(a) && !block.is_excluded(**a);
                entry.reserved = self.reserved.keys().filter(included).count() as u64;
                let taken = entry.used + entry.resting + entry.elsewhere + entry.reserved;
                entry.free = entry.size.saturating_sub(taken);
                in_blocks += entry.used;
                usage.push(entry);
            }
            let mut elsewhere = entry(pool.config.cidr, false, 0);
            elsewhere.used = elsewhere.used.saturating_sub(in_blocks);
            if elsewhere.used > 0 {
                usage.push(elsewhere);
            }
        }
        usage
    }

    /// The addresses that rest, with how long they still do.
    pub fn resting(&self, now: Instant) -> Vec<(IpAddr, Duration)> {
        let blocks = self.pools.iter().flat_map(|p| &p.blocks);
        blocks
            .flat_map(Block::released)
            .filter_map(|(addr, since)| {
                let left = (since + self.quarantine).checked_duration_since(now)?;
                (!left.is_zero()).then_some((addr, left))
            })
            .collect()
    }

    fn take(&mut self, owner: &EndpointId, addr: IpAddr) {
        if let Some(block) = self.block_of_mut(addr) {
            block.take(addr);
        }
        self.leases.insert(addr, owner.clone());
        self.owners.entry(owner.clone()).or_default().push(addr);
    }

    /// Checks an address that was asked for by name.
    fn requested(&self, wish: Wish<'_>, addr: IpAddr) -> Result<IpAddr, IpamError> {
        let pool = self
            .pools
            .iter()
            .find(|p| wish.allows(p) && p.config.cidr.contains_addr(addr))
            .ok_or(IpamError::Outside(addr))?;
        let excluded = pool.config.exclude.iter().any(|e| e.contains_addr(addr))
            || pool.blocks.iter().any(|b| b.is_excluded(addr));
        if excluded {
            return Err(IpamError::Excluded(addr));
        }
        if let Some(whose) = self.whose(addr) {
            return Err(IpamError::Reserved { addr, whose });
        }
        match self.leases.get(&addr) {
            Some(owner) => Err(IpamError::InUse { addr, owner: owner.clone() }),
            None => Ok(addr),
        }
    }

    /// Finds any address of a family; none when the pools have no block of that family and nobody insists on it.
    fn any(&mut self, wish: Wish<'_>, family: Family, now: Instant) -> Result<Option<IpAddr>, IpamError> {
        let Self { pools, leases, quarantine, elsewhere, reserved, .. } = self;
        let mut soonest: Option<Instant> = None;
        let mut tried = Vec::new();
        // In the order of the network's list, where it has one.
        let mut order: Vec<&mut Pool> =
            pools.iter_mut().filter(|p| wish.allows(p) && p.config.cidr.family() == family).collect();
        order.sort_by_key(|p| wish.pools.iter().position(|name| *name == p.config.name));
        for block in order.into_iter().flat_map(|p| &mut p.blocks) {
            let taken = |a| leases.contains_key(&a) || elsewhere.contains(&a) || reserved.contains_key(&a);
            match block.pick(now, *quarantine, taken) {
                Pick::Free(addr) => return Ok(Some(addr)),
                Pick::Rests(until) => soonest = Some(soonest.map_or(until, |s| s.min(until))),
                Pick::Full => {}
            }
            tried.push(block.prefix());
        }
        if tried.is_empty() {
            return if wish.families.contains(&family) {
                Err(IpamError::NoBlock { family: Some(family) })
            } else {
                Ok(None)
            };
        }
        let usage = self.usage(now);
        let sum = |f: fn(&BlockUse) -> u64| {
            usage.iter().filter(|u| u.local && tried.contains(&u.block)).map(f).sum::<u64>() as usize
        };
        Err(IpamError::Exhausted {
            family,
            blocks: tried.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            used: sum(|u| u.used),
            resting: sum(|u| u.resting),
            reserved: sum(|u| u.reserved),
            retry: soonest.map(|s| s.saturating_duration_since(now)),
        })
    }

    fn block_of(&self, addr: IpAddr) -> Option<&Block> {
        self.pools.iter().flat_map(|p| &p.blocks).find(|b| b.prefix().contains_addr(addr))
    }

    fn block_of_mut(&mut self, addr: IpAddr) -> Option<&mut Block> {
        self.pools.iter_mut().flat_map(|p| &mut p.blocks).find(|b| b.prefix().contains_addr(addr))
    }
}

impl Wish<'_> {
    /// The address of a family that is asked for by name.
    fn named(&self, family: Family) -> Result<Option<IpAddr>, IpamError> {
        let mut requested = self.requested.iter().copied().filter(|a| Family::of(*a) == family);
        let first = requested.next();
        if requested.any(|other| Some(other) != first) {
            return Err(IpamError::TooMany(family));
        }
        Ok(first)
    }

    fn allows(&self, pool: &Pool) -> bool {
        self.pools.is_empty() || self.pools.contains(&pool.config.name)
    }
}

impl Grant {
    /// The addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.ipv4.map(IpAddr::V4).into_iter().chain(self.ipv6.map(IpAddr::V6))
    }
}

impl Pool {
    fn new(config: &PoolConfig) -> Self {
        let blocks = config.blocks.iter().map(|b| Block::new(*b, &config.exclude)).collect();
        Self { config: config.clone(), blocks }
    }
}
