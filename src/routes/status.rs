//! What the routes look like, for people and programs.

use std::net::IpAddr;

use serde::Serialize;

use super::{
    Counters, Reason, Unresolved,
    foreign::ForeignRoute,
    state::State,
    table::{Meta, RouteRef, Target, flag},
};
use crate::{
    model::{Family, Prefix},
    netlink::route::RouteKind,
};

/// One route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteStatus {
    /// The destination.
    pub prefix: Prefix,
    /// What it is.
    pub kind: RouteOrigin,
    /// Where it leads.
    pub next_hops: Vec<NextHopStatus>,
    /// Whether the kernel has it as it should be.
    pub installed: bool,
    /// Whether it was found in the kernel at the start and nobody has asked for it yet.
    pub stale: bool,
    /// Why it is not installed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The reason in words, with the kernel's error if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Somebody else's route for the same prefix that the kernel prefers to ours, or that keeps ours out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreign: Option<ForeignStatus>,
}

/// What a route is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteOrigin {
    /// Learned by BGP.
    Learned,
    /// Of a container on this host.
    Local,
    /// One of the host's own blocks, dropped.
    Blackhole,
}

/// One next hop of a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NextHopStatus {
    /// The next hop as BGP named it; none for a device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// The interface that BGP named with it, or a container's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Its weight.
    pub weight: u16,
    /// The first hops on the host's links to which it resolves.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub via: Vec<FirstHopStatus>,
    /// Why it resolves to none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unresolved: Option<Unresolved>,
}

/// One first hop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FirstHopStatus {
    /// The gateway on the link.
    pub gateway: IpAddr,
    /// The link.
    pub interface: String,
    /// Whether packets take it: not if its neighbour does not answer or the kernel refused it.
    pub usable: bool,
    /// Why the kernel refused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Somebody else's route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ForeignStatus {
    /// Its routing protocol number (4 is static, 2 kernel, 3 boot).
    pub protocol: u8,
    /// Its metric.
    pub metric: u32,
    /// Its gateway, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// The state of all routes in numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Learned routes wanted, IPv4.
    pub ipv4: usize,
    /// Learned routes wanted, IPv6.
    pub ipv6: usize,
    /// Learned routes in the kernel as wanted.
    pub installed: usize,
    /// Routes waiting to be written.
    pub pending: usize,
    /// Routes found at the start that nobody has asked for yet.
    pub stale: usize,
    /// Routes kept out for want of a reachable next hop.
    pub unresolved: usize,
    /// Routes refused for what they are.
    pub rejected: usize,
    /// Routes kept out by somebody else's with the same metric.
    pub conflicts: usize,
    /// Routes in the kernel to which it prefers somebody else's, with a lower metric.
    pub shadowed: usize,
    /// Routes to containers and of the host's own blocks to which the kernel prefers somebody else's.
    pub local_shadowed: usize,
    /// Some of those, and what is in the way.
    pub local_shadows: Vec<String>,
    /// Some of the prefixes that are kept out or not used, and what is in the way.
    pub conflict_examples: Vec<String>,
    /// Of the rejected, those over the limit.
    pub over_limit: usize,
    /// Routes that the kernel refused.
    pub refused: usize,
    /// Routes to containers on this host.
    pub local: usize,
    /// Those of them that the kernel refused.
    pub local_refused: usize,
    /// Some of those, and why.
    pub local_examples: Vec<String>,
    /// The host's own blocks.
    pub blackholes: usize,
    /// Next hops in use.
    pub next_hops: usize,
    /// Those of them that resolve to nothing.
    pub next_hops_unresolved: usize,
    /// Sets of next hops, each a group in the kernel.
    pub groups: usize,
    /// First hops, each an object in the kernel.
    pub objects: usize,
    /// Whether next-hop objects are used; otherwise every route carries its next hops.
    pub nexthop_objects: bool,
    /// Prefixes for which others have routes.
    pub foreign: usize,
    /// Bytes of memory that the table of routes holds.
    pub table_bytes: usize,
    /// The last error of the kernel.
    pub last_error: Option<String>,
    /// What was done since the start.
    pub counters: Counters,
}

/// Which routes to show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteFilter {
    /// Only those inside this prefix, and those that cover it.
    pub prefix: Option<Prefix>,
    /// Only those that are not installed.
    pub problems: bool,
    /// At most so many; 0 is all.
    pub limit: usize,
}

impl State {
    /// The routes that pass a filter, in order of their prefixes.
    pub(super) fn routes(&self, filter: RouteFilter) -> Vec<RouteStatus> {
        let wanted = |prefix: Prefix| {
            filter.prefix.is_none_or(|p| p.covers(prefix) || (prefix.covers(p) && !prefix.is_default()))
        };
        let mut found: Vec<(Prefix, Option<RouteRef>)> = Vec::new();
        for (route, meta) in self.table.iter() {
            let prefix = self.table.prefix(route);
            let shown = meta.desired != Target::NONE || meta.has(flag::BLOCK | flag::STALE);
            if shown && wanted(prefix) && !(filter.problems && is_installed(meta)) {
                found.push((prefix, Some(route)));
            }
        }
        for (prefix, local) in &self.locals {
            let installed = self.device_routes.get(prefix).is_some_and(|r| r.ifindex == local.ifindex);
            if wanted(*prefix) && !(filter.problems && installed) {
                found.push((*prefix, None));
            }
        }
        found.sort_unstable();
        if filter.limit != 0 {
            found.truncate(filter.limit);
        }
        found
            .into_iter()
            .filter_map(|(prefix, route)| match route {
                Some(route) => Some(self.status_of(prefix, route)),
                None => self.local_status(prefix),
            })
            .collect()
    }

    fn local_status(&self, prefix: Prefix) -> Option<RouteStatus> {
        let local = self.locals.get(&prefix)?;
        let installed = self.device_routes.get(&prefix).is_some_and(|r| r.ifindex == local.ifindex);
        let device = NextHopStatus {
            gateway: None,
            interface: Some(self.link_name(local.ifindex)),
            weight: 1,
            via: Vec::new(),
            unresolved: None,
        };
        Some(RouteStatus {
            prefix,
            kind: RouteOrigin::Local,
            next_hops: vec![device],
            installed,
            stale: false,
            reason: (!installed && local.error.is_some()).then_some(Reason::Refused),
            detail: local.error.clone().filter(|_| !installed),
            foreign: self.preferred_foreign(prefix, self.config.local_metric),
        })
    }

    fn status_of(&self, prefix: Prefix, route: RouteRef) -> RouteStatus {
        let meta = self.table.meta(route);
        let reason = Reason::from_byte(meta.reason);
        let set = meta.desired.index().or(meta.actual.index()).and_then(|i| self.sets.get(i));
        let detail = match reason {
            Some(Reason::Refused) => {
                let route = self.troubles.get(&route).map(|t| t.error.clone());
                route.or_else(|| set?.trouble.as_ref().map(|t| t.error.clone()))
            }
            Some(Reason::Unresolved) => set.map(|set| self.unresolved(set)),
            other => other.map(|r| r.text().to_owned()),
        };
        let blackhole = meta.has(flag::BLOCK);
        RouteStatus {
            prefix,
            kind: if blackhole { RouteOrigin::Blackhole } else { RouteOrigin::Learned },
            next_hops: if blackhole { Vec::new() } else { set.map(|s| self.hops_of(s)).unwrap_or_default() },
            installed: is_installed(meta),
            stale: meta.has(flag::STALE),
            reason,
            detail,
            foreign: self.preferred_foreign(prefix, self.config.metric),
        }
    }

    /// Why none of a set's next hops can be reached.
    fn unresolved(&self, set: &super::sets::Set) -> String {
        let gateways = set.gateways.iter().filter_map(|index| self.gateways.slot(*index));
        let why = |gateway: &super::gateways::Gateway| Some((gateway.addr, gateway.failure?));
        let each = gateways.filter_map(why).map(|(addr, failure)| format!("; {addr}: {}", failure.text()));
        std::iter::once(Reason::Unresolved.text().to_owned()).chain(each).collect()
    }

    /// Somebody else's route that the kernel prefers to ours, which has this metric.
    fn preferred_foreign(&self, prefix: Prefix, metric: u32) -> Option<ForeignStatus> {
        let wins = |r: &&ForeignRoute| r.table == self.config.table && r.metric <= metric;
        let route = self.foreign.of(prefix).iter().find(wins)?;
        let gateway = route.hops.first().and_then(|h| h.gateway).filter(|_| route.kind == RouteKind::Unicast);
        Some(ForeignStatus { protocol: route.protocol, metric: route.metric, gateway })
    }

    fn hops_of(&self, set: &super::sets::Set) -> Vec<NextHopStatus> {
        let first_hop = |via: &crate::netlink::nexthop::Via| FirstHopStatus {
            gateway: via.gateway,
            interface: self.link_name(via.ifindex),
            usable: set.content.iter().any(|(v, _)| v == via),
            error: self.broken.get(via).map(|b| b.error.clone()),
        };
        let Some(key) = &set.key else {
            // Found in the kernel: all we know is what it consists of.
            let known = set.content.iter().map(|(via, weight)| NextHopStatus {
                gateway: Some(via.gateway),
                interface: Some(self.link_name(via.ifindex)),
                weight: *weight,
                via: vec![first_hop(via)],
                unresolved: None,
            });
            return known.collect();
        };
        key.hops()
            .iter()
            .zip(&set.gateways)
            .map(|(hop, gateway)| {
                let gateway = self.gateways.slot(*gateway);
                let via = gateway.map(|g| g.ways.iter().map(|(v, _)| first_hop(v)).collect());
                NextHopStatus {
                    gateway: Some(hop.gateway),
                    interface: (hop.ifindex != 0).then(|| self.link_name(hop.ifindex)),
                    weight: hop.weight,
                    via: via.unwrap_or_default(),
                    unresolved: gateway.and_then(|g| g.failure),
                }
            })
            .collect()
    }

    /// Everything in numbers.
    pub(super) fn summary(&self) -> Summary {
        let mut summary = Summary {
            pending: self.queue.len(),
            local: self.locals.len(),
            next_hops: self.gateways.used().count(),
            next_hops_unresolved: self.gateways.used().filter(|g| g.failure.is_some()).count(),
            groups: self.sets.len(),
            objects: self.hops.len(),
            nexthop_objects: self.objects,
            foreign: self.foreign.len(),
            table_bytes: self.table.memory(),
            last_error: self.last_error.clone(),
            counters: self.counters,
            ..Summary::default()
        };
        for (prefix, local) in &self.locals {
            let installed = self.device_routes.get(prefix).is_some_and(|r| r.ifindex == local.ifindex);
            if let Some(error) = local.error.as_ref().filter(|_| !installed) {
                summary.local_refused += 1;
                if summary.local_examples.len() < ENOUGH {
                    summary.local_examples.push(format!("{prefix} ({error})"));
                }
            }
        }
        for (route, meta) in self.table.iter() {
            if meta.has(flag::BLOCK) {
                summary.blackholes += 1;
            }
            if meta.has(flag::STALE) {
                summary.stale += 1;
            }
            if meta.desired == Target::NONE {
                continue;
            }
            match super::table::Table::family(route) {
                Family::Ipv4 => summary.ipv4 += 1,
                Family::Ipv6 => summary.ipv6 += 1,
            }
            summary.installed += usize::from(is_installed(meta) && !meta.has(flag::BLOCK));
            match Reason::from_byte(meta.reason) {
                Some(Reason::Unresolved) => summary.unresolved += 1,
                Some(Reason::Conflict) => {
                    summary.conflicts += 1;
                    summary.example(self.table.prefix(route), self.taken_by(self.table.prefix(route)));
                }
                Some(Reason::Refused) => summary.refused += 1,
                Some(reason) => {
                    summary.rejected += 1;
                    summary.over_limit += usize::from(reason == Reason::OverLimit);
                }
                None => {}
            }
        }
        for (prefix, theirs) in self.shadowed() {
            if self.locals.contains_key(&prefix) || self.blocks.contains(&prefix) {
                summary.local_shadowed += 1;
                if summary.local_shadows.len() < ENOUGH {
                    summary.local_shadows.push(in_words(prefix, theirs));
                }
            } else {
                summary.shadowed += 1;
                summary.example(prefix, Some(theirs));
            }
        }
        summary
    }

    /// Our routes, learned and to containers, to which the kernel prefers somebody else's.
    pub(super) fn shadowed(&self) -> impl Iterator<Item = (Prefix, &ForeignRoute)> {
        self.foreign.iter().filter_map(|(prefix, routes)| {
            let wanted = |meta: &Meta| {
                // A neighbour that announces the network between us is refused, and nothing to worry about.
                let refused = Reason::from_byte(meta.reason).is_some_and(Reason::is_rejection);
                (meta.desired != Target::NONE && !refused) || meta.has(flag::BLOCK)
            };
            let metric = if self.locals.contains_key(prefix) {
                self.config.local_metric
            } else {
                self.table
                    .find(*prefix)
                    .filter(|r| wanted(self.table.meta(*r)))
                    .map(|_| self.config.metric)?
            };
            let theirs = routes.iter().find(|r| r.table == self.config.table && r.metric < metric)?;
            Some((*prefix, theirs))
        })
    }
}

impl Summary {
    fn example(&mut self, prefix: Prefix, theirs: Option<&ForeignRoute>) {
        if self.conflict_examples.len() < ENOUGH {
            let text = theirs.map_or_else(|| prefix.to_string(), |theirs| in_words(prefix, theirs));
            self.conflict_examples.push(text);
        }
    }

    /// What somebody should look at, one line each.
    pub fn problems(&self) -> Vec<String> {
        let mut list = Vec::new();
        let mut say = |count: usize, [one, many]: [&str; 2], what: &str| match count {
            0 => {}
            1 => list.push(format!("1 learned route {one} {what}")),
            _ => list.push(format!("{count} learned routes {many} {what}")),
        };
        let examples = self.conflict_examples.join(", ");
        say(
            self.conflicts,
            ["is", "are"],
            &format!("kept out of the kernel by routes of others with the same metric: {examples}"),
        );
        say(
            self.shadowed,
            ["is", "are"],
            &format!("not used: the kernel prefers routes of others: {examples}"),
        );
        say(self.over_limit, ["is", "are"], "over the limit ([routes] max_routes)");
        say(self.unresolved, ["has", "have"], "no reachable next hop");
        let error = self.last_error.as_deref().unwrap_or_default();
        say(self.refused, ["was", "were"], &format!("refused by the kernel: {error}"));
        if self.local_refused > 0 {
            let routes =
                if self.local_refused == 1 { "route to a container is" } else { "routes to containers are" };
            let examples = self.local_examples.join(", ");
            list.push(format!("{} {routes} not in the kernel: {examples}", self.local_refused));
        }
        if self.local_shadowed > 0 {
            let routes = if self.local_shadowed == 1 { "route is" } else { "routes are" };
            let examples = self.local_shadows.join(", ");
            list.push(format!(
                "{} {routes} not used to containers or blocks of this host: the kernel prefers routes of others: {examples}",
                self.local_shadowed
            ));
        }
        list
    }
}

fn in_words(prefix: Prefix, theirs: &ForeignRoute) -> String {
    format!("{prefix} (route of protocol {}, metric {})", theirs.protocol, theirs.metric)
}

/// How many examples are told of what is wrong.
const ENOUGH: usize = 3;

fn is_installed(meta: &Meta) -> bool {
    if meta.has(flag::BLOCK) {
        return meta.actual == Target::BLACKHOLE;
    }
    if meta.desired == Target::NONE {
        return meta.has(flag::STALE) && meta.actual != Target::NONE;
    }
    meta.actual == meta.desired && !meta.has(flag::OUTDATED)
}
