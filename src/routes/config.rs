//! How the FIB is to be run.

use std::time::Duration;

use crate::netlink::route::{LOCAL_METRIC, TABLE_MAIN};

/// The settings of a [`super::Fib`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FibConfig {
    /// The routing table for our routes. Next hops are resolved through this and the main table.
    pub table: u32,
    /// The metric of learned routes. Lower wins in the kernel, so a static route for the same prefix (metric 0 by
    /// default, or 1024 for IPv6, where ours then stays out and is reported) takes precedence.
    pub metric: u32,
    /// The metric of the routes to local containers: lower than [`Self::metric`], so that they win over a learned route
    /// for the same address. Not 0, which IPv6 takes for 1024.
    pub local_metric: u32,
    /// Whether every host end of a container with IPv6 has a link-local address, as the container's gateway
    /// ([`gateway6`](crate::model::gateway6)).
    pub gateway6: bool,
    /// The routing protocol number that marks routes and next-hop objects as ours (`ip route show proto N`).
    pub protocol: u8,
    /// Protocol numbers of earlier configurations: next-hop objects that have them, in the range of ids that belongs to
    /// the number, go when stale routes do.
    pub former: Vec<u8>,
    /// The most learned routes to put into the kernel; more are kept out and reported.
    pub max_routes: usize,
    /// Whether to use next-hop objects where the kernel has them.
    pub nexthop_objects: bool,
    /// How often the kernel is read and compared, however quiet it is.
    pub audit: Duration,
}

impl Default for FibConfig {
    fn default() -> Self {
        Self {
            table: TABLE_MAIN,
            metric: 1024,
            local_metric: LOCAL_METRIC,
            gateway6: false,
            protocol: 32,
            former: Vec::new(),
            max_routes: 2_000_000,
            nexthop_objects: true,
            audit: Duration::from_secs(300),
        }
    }
}

impl FibConfig {
    /// The first id of our next-hop objects: the protocol number is the highest byte, so that hosts with several
    /// routing daemons see at once whose an object is.
    pub(super) fn first_hop_id(&self) -> u32 {
        u32::from(self.protocol) << 24
    }

    /// The first id of our next-hop groups, in the upper half of our range.
    pub(super) fn first_group_id(&self) -> u32 {
        self.first_hop_id() | Self::HALF
    }

    /// Half of our range of ids.
    pub(super) const HALF: u32 = 1 << 23;

    /// Whether the tables that matter to us include this one.
    pub(super) fn follows_table(&self, table: u32) -> bool {
        table == self.table || table == TABLE_MAIN
    }
}
