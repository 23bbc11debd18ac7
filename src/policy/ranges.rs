//! Sets of addresses as sorted, disjoint ranges: the algebra behind CIDR lists, exceptions and negations.
//!
//! nftables refuses overlapping intervals, so lists are joined here; `10.0.0.0/8 except 10.1.0.0/16` becomes ranges
//! that one set lookup answers.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::{Serialize, Serializer};

use crate::model::{Family, Prefix};

/// A set of IPv4 and IPv6 addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ranges {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl Ranges {
    /// Every address of both families.
    pub fn everything() -> Self {
        Self { v4: vec![(0, u32::MAX)], v6: vec![(0, u128::MAX)] }
    }

    /// Whether no address is in the set.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Whether `addr` is in the set.
    pub fn contains(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(a) => find(&self.v4, a.to_bits()),
            IpAddr::V6(a) => find(&self.v6, a.to_bits()),
        }
    }

    /// Addresses in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self {
            v4: joined(self.v4.iter().chain(&other.v4).copied().collect()),
            v6: joined(self.v6.iter().chain(&other.v6).copied().collect()),
        }
    }

    /// Addresses in this set but not in the other.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        Self { v4: subtract(&self.v4, &other.v4), v6: subtract(&self.v6, &other.v6) }
    }

    /// Addresses in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.minus(&Self::everything().minus(other))
    }

    /// The IPv4 ranges, both ends inclusive, ascending and not touching.
    pub fn v4(&self) -> impl ExactSizeIterator<Item = (Ipv4Addr, Ipv4Addr)> {
        self.v4.iter().map(|&(a, b)| (Ipv4Addr::from_bits(a), Ipv4Addr::from_bits(b)))
    }

    /// The IPv6 ranges, both ends inclusive, ascending and not touching.
    pub fn v6(&self) -> impl ExactSizeIterator<Item = (Ipv6Addr, Ipv6Addr)> {
        self.v6.iter().map(|&(a, b)| (Ipv6Addr::from_bits(a), Ipv6Addr::from_bits(b)))
    }

    /// Whether the set is empty in one family.
    pub fn is_empty_in(&self, family: Family) -> bool {
        match family {
            Family::Ipv4 => self.v4.is_empty(),
            Family::Ipv6 => self.v6.is_empty(),
        }
    }

    /// Whether the set is everything in one family.
    pub fn is_everything_in(&self, family: Family) -> bool {
        match family {
            Family::Ipv4 => self.v4 == [(0, u32::MAX)],
            Family::Ipv6 => self.v6 == [(0, u128::MAX)],
        }
    }

    /// The prefix that equals the whole set in one family, if there is one.
    pub fn as_prefix(&self, family: Family) -> Option<Prefix> {
        let (addr, host_bits): (IpAddr, u32) = match family {
            Family::Ipv4 => match self.v4[..] {
                [(lo, hi)] => (Ipv4Addr::from_bits(lo).into(), aligned((hi - lo).into(), lo.into())?),
                _ => return None,
            },
            Family::Ipv6 => match self.v6[..] {
                [(lo, hi)] => (Ipv6Addr::from_bits(lo).into(), aligned(hi - lo, lo)?),
                _ => return None,
            },
        };
        Prefix::new(addr, family.bits() - host_bits as u8).ok()
    }
}

/// The number of host bits if `span` (size - 1) is all ones and `low` has none of them set.
fn aligned(span: u128, low: u128) -> Option<u32> {
    (span & span.wrapping_add(1) == 0 && low & span == 0).then(|| span.count_ones())
}

impl FromIterator<Prefix> for Ranges {
    fn from_iter<I: IntoIterator<Item = Prefix>>(prefixes: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for prefix in prefixes {
            match prefix {
                Prefix::V4(p) => {
                    let lo = p.addr().to_bits();
                    v4.push((lo, lo | u32::MAX.checked_shr(p.len().into()).unwrap_or(0)));
                }
                Prefix::V6(p) => {
                    let lo = p.addr().to_bits();
                    v6.push((lo, lo | u128::MAX.checked_shr(p.len().into()).unwrap_or(0)));
                }
            }
        }
        Self { v4: joined(v4), v6: joined(v6) }
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        let mut put = |f: &mut fmt::Formatter<'_>, lo: IpAddr, hi: IpAddr, one: Self| {
            if !std::mem::take(&mut first) {
                f.write_str(", ")?;
            }
            match one.as_prefix(Family::of(lo)) {
                Some(prefix) if prefix.is_host() => write!(f, "{lo}"),
                Some(prefix) => write!(f, "{prefix}"),
                None => write!(f, "{lo}-{hi}"),
            }
        };
        for (lo, hi) in self.v4() {
            put(f, lo.into(), hi.into(), Self { v4: vec![(lo.to_bits(), hi.to_bits())], v6: Vec::new() })?;
        }
        for (lo, hi) in self.v6() {
            put(f, lo.into(), hi.into(), Self { v4: Vec::new(), v6: vec![(lo.to_bits(), hi.to_bits())] })?;
        }
        if first { f.write_str("nothing") } else { Ok(()) }
    }
}

impl Serialize for Ranges {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An unsigned address number.
trait Number: Copy + Ord {
    fn next(self) -> Option<Self>;
    fn previous(self) -> Option<Self>;
}

impl Number for u32 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
    fn previous(self) -> Option<Self> {
        self.checked_sub(1)
    }
}

impl Number for u128 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
    fn previous(self) -> Option<Self> {
        self.checked_sub(1)
    }
}

fn find<T: Number>(ranges: &[(T, T)], value: T) -> bool {
    let after = ranges.partition_point(|(lo, _)| *lo <= value);
    after.checked_sub(1).and_then(|i| ranges.get(i)).is_some_and(|(_, hi)| value <= *hi)
}

fn joined<T: Number>(mut ranges: Vec<(T, T)>) -> Vec<(T, T)> {
    ranges.sort_unstable();
    let mut out: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (lo, hi) in ranges {
        match out.last_mut() {
            // Touching ranges are one range; a range that ends at the top touches everything after it.
            Some((_, end)) if end.next().is_none_or(|after| lo <= after) => *end = (*end).max(hi),
            _ => out.push((lo, hi)),
        }
    }
    out
}

fn subtract<T: Number>(from: &[(T, T)], holes: &[(T, T)]) -> Vec<(T, T)> {
    let mut out = Vec::new();
    let mut first = 0;
    for &(lo, hi) in from {
        // Holes that end before this range are before all later ranges too.
        while holes.get(first).is_some_and(|(_, end)| *end < lo) {
            first += 1;
        }
        let mut start = Some(lo);
        for &(hole, end) in holes.get(first..).unwrap_or_default() {
            let Some(at) = start else { break };
            if hole > hi {
                break;
            }
            if let Some(before) = hole.previous()
                && before >= at
            {
                out.push((at, before));
            }
            start = end.next().filter(|s| *s <= hi);
        }
        if let Some(at) = start {
            out.push((at, hi));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranges(list: &[&str]) -> Ranges {
        list.iter().map(|t| t.parse::<Prefix>().unwrap()).collect()
    }

    #[test]
    fn joins_and_subtracts() {
        assert_eq!(ranges(&["10.0.0.0/25", "10.0.0.128/25"]).to_string(), "10.0.0.0/24");
        assert_eq!(ranges(&["10.0.0.0/8", "10.1.0.0/16"]).to_string(), "10.0.0.0/8");
        let some = ranges(&["10.0.0.0/24", "::/0"]).minus(&ranges(&["10.0.0.7", "::/1"]));
        assert_eq!(some.to_string(), "10.0.0.0-10.0.0.6, 10.0.0.8-10.0.0.255, 8000::/1");
        assert!(ranges(&["0.0.0.0/0"]).minus(&ranges(&["0.0.0.0/0"])).is_empty());
        assert_eq!(ranges(&["255.255.255.255", "255.255.255.254"]).to_string(), "255.255.255.254/31");
        assert!(ranges(&["0.0.0.0/0"]).is_everything_in(Family::Ipv4));
        assert_eq!(ranges(&["0.0.0.0/0"]).as_prefix(Family::Ipv4), Some("0.0.0.0/0".parse().unwrap()));
        assert_eq!(ranges(&["::/0"]).as_prefix(Family::Ipv6), Some("::/0".parse().unwrap()));
        assert_eq!(Ranges::default().to_string(), "nothing");
    }

    /// Prefixes packed closely around both ends of the address space, so that they meet often.
    fn prefix() -> impl Strategy<Value = Prefix> {
        (any::<bool>(), 0u8..64, prop::sample::select(vec![0u8, 1, 2, 3, 4, 5, 6]), any::<bool>()).prop_map(
            |(v4, low, bits, top)| {
                let (addr, max): (IpAddr, u8) = if v4 {
                    (Ipv4Addr::from_bits(if top { !u32::from(low) } else { low.into() }).into(), 32)
                } else {
                    (Ipv6Addr::from_bits(if top { !u128::from(low) } else { low.into() }).into(), 128)
                };
                Prefix::new(addr, if bits == 6 { 0 } else { max - bits }).unwrap()
            },
        )
    }

    proptest! {
        #[test]
        fn algebra_is_membership(
            a in prop::collection::vec(prefix(), 0..6),
            b in prop::collection::vec(prefix(), 0..6),
            probes in prop::collection::vec(prefix(), 1..20),
        ) {
            let (ra, rb): (Ranges, Ranges) = (a.iter().copied().collect(), b.iter().copied().collect());
            for probe in probes.iter().map(|p| p.addr()) {
                let in_a = a.iter().any(|p| p.contains_addr(probe));
                let in_b = b.iter().any(|p| p.contains_addr(probe));
                prop_assert_eq!(ra.contains(probe), in_a);
                prop_assert_eq!(ra.union(&rb).contains(probe), in_a || in_b);
                prop_assert_eq!(ra.minus(&rb).contains(probe), in_a && !in_b);
                prop_assert_eq!(ra.intersection(&rb).contains(probe), in_a && in_b);
            }
            for r in [&ra, &ra.union(&rb), &ra.minus(&rb)] {
                prop_assert!(r.v4.windows(2).all(|w| w[0].1 < u32::MAX && w[0].1 + 1 < w[1].0));
                prop_assert!(r.v6.windows(2).all(|w| w[0].1 < u128::MAX && w[0].1 + 1 < w[1].0));
                prop_assert!(r.v4.iter().all(|(lo, hi)| lo <= hi) && r.v6.iter().all(|(lo, hi)| lo <= hi));
            }
        }

        #[test]
        fn a_prefix_survives(prefix in prefix()) {
            let family = prefix.family();
            let one: Ranges = [prefix].into_iter().collect();
            prop_assert_eq!(one.as_prefix(family), Some(prefix));
        }
    }
}
