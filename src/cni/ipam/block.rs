//! One block of addresses of this host: which are fresh, which rest, which can be given again.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::model::Prefix;

/// A block. It does not know which addresses are in use: the caller, who does, passes that in.
///
/// Giving an address costs O(1) amortised, whatever the block's size: fresh addresses come from a cursor that only
/// moves forward, released ones from a queue in the order of their release.
#[derive(Debug)]
pub(super) struct Block {
    prefix: Prefix,
    first: u128,
    last: u128,
    /// The lowest address never given nor skipped; beyond `last` when all were.
    cursor: Option<u128>,
    /// Sorted, merged ranges inside the block that are never given.
    excluded: Vec<(u128, u128)>,
    /// Released addresses, oldest first. An entry whose ticket is not the one in `tickets` is void.
    released: VecDeque<(u128, Instant, u64)>,
    tickets: HashMap<u128, u64>,
    next_ticket: u64,
}

/// What a block can give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pick {
    /// An address.
    Free(IpAddr),
    /// None now, one from then on.
    Rests(Instant),
    /// All are in use.
    Full,
}

impl Block {
    pub(super) fn new(prefix: Prefix, exclude: &[Prefix]) -> Self {
        let (first, last) = range(prefix);
        let mut excluded: Vec<_> = exclude
            .iter()
            .filter(|e| e.family() == prefix.family())
            .map(|e| range(*e))
            .filter(|(from, to)| *from <= last && *to >= first)
            .map(|(from, to)| (from.max(first), to.min(last)))
            .collect();
        // The lowest address of an IPv6 subnet is its routers' anycast address (RFC 4291 section 2.6.1).
        if matches!(prefix, Prefix::V6(_)) && last > first {
            excluded.push((first, first));
        }
        excluded.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::new();
        for (from, to) in excluded {
            match merged.last_mut() {
                Some(range) if from <= range.1.saturating_add(1) => range.1 = range.1.max(to),
                _ => merged.push((from, to)),
            }
        }
        Self {
            prefix,
            first,
            last,
            cursor: Some(first),
            excluded: merged,
            released: VecDeque::new(),
            tickets: HashMap::new(),
            next_ticket: 0,
        }
    }

    pub(super) const fn prefix(&self) -> Prefix {
        self.prefix
    }

    /// Whether the address may never be given.
    pub(super) fn is_excluded(&self, addr: IpAddr) -> bool {
        self.excluded_until(bits(addr)).is_some()
    }

    /// Finds an address to give, fresh ones first, then the one released longest ago, provided that it has rested.
    /// Nothing is taken until [`Block::take`].
    pub(super) fn pick(
        &mut self,
        now: Instant,
        quarantine: Duration,
        in_use: impl Fn(IpAddr) -> bool,
    ) -> Pick {
        while let Some(bits) = self.cursor {
            if let Some(end) = self.excluded_until(bits) {
                self.cursor = self.after(end);
                continue;
            }
            let addr = self.addr(bits);
            if !in_use(addr) && !self.tickets.contains_key(&bits) {
                return Pick::Free(addr);
            }
            self.cursor = self.after(bits);
        }
        while let Some((bits, since, ticket)) = self.released.front().copied() {
            let addr = self.addr(bits);
            if self.tickets.get(&bits) != Some(&ticket) || in_use(addr) {
                self.released.pop_front();
                continue;
            }
            let free_at = since + quarantine;
            return if free_at <= now { Pick::Free(addr) } else { Pick::Rests(free_at) };
        }
        Pick::Full
    }

    /// Marks an address as given.
    pub(super) fn take(&mut self, addr: IpAddr) {
        self.tickets.remove(&bits(addr));
    }

    /// Puts a released address to rest. Releases that were reported late are sorted in by their time.
    pub(super) fn release(&mut self, addr: IpAddr, since: Instant) {
        let bits = bits(addr);
        self.next_ticket += 1;
        self.tickets.insert(bits, self.next_ticket);
        let at = self.released.partition_point(|(_, other, _)| *other <= since);
        self.released.insert(at, (bits, since, self.next_ticket));
        // Void entries of addresses that were requested while they rested must not pile up.
        if self.released.len() > 2 * self.tickets.len() + 64 {
            let tickets = &self.tickets;
            self.released.retain(|(bits, _, ticket)| tickets.get(bits) == Some(ticket));
        }
    }

    /// The addresses that were released, with the times of release.
    pub(super) fn released(&self) -> impl Iterator<Item = (IpAddr, Instant)> + '_ {
        self.released
            .iter()
            .filter(|(bits, _, ticket)| self.tickets.get(bits) == Some(ticket))
            .map(|(bits, since, _)| (self.addr(*bits), *since))
    }

    /// How many addresses can be given at all.
    pub(super) fn size(&self) -> u128 {
        let excluded: u128 =
            self.excluded.iter().fold(0, |sum, (from, to)| sum.saturating_add((to - from).saturating_add(1)));
        (self.last - self.first).saturating_add(1).saturating_sub(excluded)
    }

    fn excluded_until(&self, bits: u128) -> Option<u128> {
        let at = self.excluded.partition_point(|(from, _)| *from <= bits);
        let (_, to) = self.excluded.get(at.checked_sub(1)?)?;
        (bits <= *to).then_some(*to)
    }

    fn after(&self, bits: u128) -> Option<u128> {
        bits.checked_add(1).filter(|next| *next <= self.last)
    }

    fn addr(&self, bits: u128) -> IpAddr {
        match self.prefix {
            Prefix::V4(_) => IpAddr::V4((bits as u32).into()),
            Prefix::V6(_) => IpAddr::V6(bits.into()),
        }
    }
}

fn bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(a) => a.to_bits().into(),
        IpAddr::V6(a) => a.to_bits(),
    }
}

/// The first and last address.
fn range(prefix: Prefix) -> (u128, u128) {
    let first = bits(prefix.addr());
    let host_bits = u32::from(prefix.family().bits() - prefix.len());
    let below = if host_bits >= 128 { u128::MAX } else { (1u128 << host_bits) - 1 };
    (first, first | below)
}
