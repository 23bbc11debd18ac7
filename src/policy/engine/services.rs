//! Protocols and ports as a set with an algebra, so that a rule's `services` and `not_services` become plain matches.
//!
//! The space is (protocol, port) with 16 bits of port for every protocol: ICMP's type and code take its place, and
//! protocols without ports have only port 0 but match if any port is meant.

use std::collections::BTreeMap;

use crate::policy::{Ports, Protocol, Service};

/// Ranges of ports, both ends inclusive, ascending and not touching.
pub(in crate::policy) type PortRanges = Vec<(u16, u16)>;

/// Every port.
const FULL: (u16, u16) = (0, u16::MAX);

/// A set of (protocol, port).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceSet {
    /// What of the protocols in it; an absent one is there as `others` says.
    pub(super) listed: BTreeMap<Protocol, PortRanges>,
    /// Whether all protocols not listed are in the set.
    pub(super) others: bool,
}

impl ServiceSet {
    /// The services that are listed with numbers, or everything if the list is empty, less those of `not`. Names are
    /// not in it.
    pub(super) fn of(services: &[Service], not: &[Service]) -> Self {
        let mut set = Self { listed: BTreeMap::new(), others: services.is_empty() };
        for service in services {
            if let Some(range) = numbers(service) {
                set.listed.entry(service.protocol).or_default().push(range);
            }
        }
        for ranges in set.listed.values_mut() {
            join(ranges);
        }
        let mut holes: BTreeMap<Protocol, PortRanges> = BTreeMap::new();
        for service in not {
            if let Some(range) = numbers(service) {
                holes.entry(service.protocol).or_default().push(range);
            }
        }
        for (protocol, mut holes) in holes {
            join(&mut holes);
            let before = set.listed.remove(&protocol).or_else(|| set.others.then(|| vec![FULL]));
            let after = before.map(|ranges| subtract(&ranges, &holes)).unwrap_or_default();
            // Even an empty list must stay if unlisted protocols are in the set: it says that this one is not.
            if set.others || !after.is_empty() {
                set.listed.insert(protocol, after);
            }
        }
        set
    }

    /// Whether the ranges are all ports.
    pub(super) fn is_full(ranges: &[(u16, u16)]) -> bool {
        ranges == [FULL]
    }

    /// Whether everything is in the set.
    pub(super) fn is_everything(&self) -> bool {
        self.others && self.listed.values().all(|r| Self::is_full(r))
    }
}

/// The range a service stands for; none for names.
pub(super) fn numbers(service: &Service) -> Option<(u16, u16)> {
    match service.ports {
        Ports::Any => Some(FULL),
        Ports::Range(low, high) => Some((low, high)),
        Ports::Icmp(kind, Some(code)) => {
            let both = u16::from_be_bytes([kind, code]);
            Some((both, both))
        }
        Ports::Icmp(kind, None) => Some((u16::from_be_bytes([kind, 0]), u16::from_be_bytes([kind, 255]))),
        Ports::Named(_) => None,
    }
}

/// Sorts and joins ranges that meet.
pub(in crate::policy) fn join(ranges: &mut PortRanges) {
    ranges.sort_unstable();
    let mut out: PortRanges = Vec::with_capacity(ranges.len());
    for &(low, high) in &*ranges {
        match out.last_mut() {
            Some((_, end)) if u32::from(low) <= u32::from(*end) + 1 => *end = (*end).max(high),
            _ => out.push((low, high)),
        }
    }
    *ranges = out;
}

pub(in crate::policy) fn subtract(from: &[(u16, u16)], holes: &[(u16, u16)]) -> PortRanges {
    let mut out = Vec::new();
    for &(low, high) in from {
        let mut at = u32::from(low);
        for &(hole, end) in holes.iter().filter(|(hole, end)| *end >= low && *hole <= high) {
            if u32::from(hole) > at {
                out.push((at as u16, hole - 1));
            }
            at = at.max(u32::from(end) + 1);
        }
        if at <= u32::from(high) {
            out.push((at as u16, high));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn service() -> impl Strategy<Value = Service> {
        let protocol = prop::sample::select(vec![Protocol::TCP, Protocol::UDP, Protocol::ICMP, Protocol(47)]);
        let edge = prop::sample::select(vec![0u16, 1, 2, 3, 255, 256, 257, 65533, 65534, 65535]);
        (protocol, edge.clone(), edge, any::<bool>()).prop_map(|(protocol, a, b, all)| {
            let ports = match protocol {
                _ if all => Ports::Any,
                Protocol::ICMP => Ports::Icmp((a >> 8) as u8, (b > 2).then_some(a as u8)),
                Protocol(47) => Ports::Any,
                _ => Ports::Range(a.min(b), a.max(b)),
            };
            Service { protocol, ports }
        })
    }

    proptest! {
        #[test]
        fn algebra_is_membership(
            services in prop::collection::vec(service(), 0..5),
            not in prop::collection::vec(service(), 0..4),
            port in prop::sample::select(vec![0u16, 1, 2, 3, 4, 254, 255, 256, 257, 258, 65532, 65533, 65534, 65535]),
            protocol in prop::sample::select(vec![Protocol::TCP, Protocol::UDP, Protocol::ICMP, Protocol::SCTP]),
        ) {
            let hit = |s: &Service| s.protocol == protocol
                && numbers(s).is_some_and(|(a, b)| a <= port && port <= b);
            let want = (services.is_empty() || services.iter().any(hit)) && !not.iter().any(hit);
            let set = ServiceSet::of(&services, &not);
            let got = match set.listed.get(&protocol) {
                Some(ranges) => ranges.iter().any(|(a, b)| *a <= port && port <= *b),
                None => set.others,
            };
            prop_assert_eq!(got, want, "{:?}", set);
            if set.is_everything() {
                prop_assert!(got);
            }
            for ranges in set.listed.values() {
                prop_assert!(ranges.windows(2).all(|w| w[0].1 < w[1].0 - 1));
            }
        }
    }
}
