//! Where a route points: one or several next hops with weights.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

/// One next hop of a learned route, as BGP gave it. Resolution to a device is the FIB's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NextHop {
    /// The gateway; of either family for either family of route (RFC 8950).
    pub gateway: IpAddr,
    /// The interface index, given when the gateway is link-local and 0 when the gateway must be resolved.
    pub ifindex: u32,
    /// The relative weight for ECMP, 1 to 256 (`nexthop_grp.weight + 1` of linux/nexthop.h).
    pub weight: u16,
}

impl NextHop {
    /// A next hop of weight 1 to be resolved by its address.
    pub const fn via(gateway: IpAddr) -> Self {
        Self { gateway, ifindex: 0, weight: 1 }
    }
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.gateway)?;
        if self.ifindex != 0 {
            write!(f, "%{}", self.ifindex)?;
        }
        if self.weight != 1 {
            write!(f, " weight {}", self.weight)?;
        }
        Ok(())
    }
}

/// The next hops that a route's traffic is spread over: sorted, without duplicates, never more than [`NextHopSet::MAX`].
///
/// Routes with equal sets share one next-hop object or group in the kernel, so the set is the key.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NextHopSet(Box<[NextHop]>);

impl NextHopSet {
    /// The most next hops kept in one set.
    pub const MAX: usize = 64;

    /// The next hops in order.
    pub fn hops(&self) -> &[NextHop] {
        &self.0
    }

    /// Whether there is none: the route is unreachable.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<NextHop> for NextHopSet {
    /// Sorts, keeps the first of next hops that differ only in weight, and keeps at most [`Self::MAX`].
    fn from_iter<I: IntoIterator<Item = NextHop>>(hops: I) -> Self {
        let mut hops: Vec<_> = hops.into_iter().collect();
        hops.sort_unstable();
        hops.dedup_by_key(|h| (h.gateway, h.ifindex));
        hops.truncate(Self::MAX);
        Self(hops.into())
    }
}

impl fmt::Display for NextHopSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, hop) in self.0.iter().enumerate() {
            write!(f, "{}{hop}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}
