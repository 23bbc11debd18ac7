//! The host as an end of connections: what its own endpoints reach on it, and what comes in from elsewhere, by each
//! interface that host policies tell apart.

use std::{collections::BTreeSet, net::IpAddr};

use super::groups::{Group, Pair};
use crate::{
    model::Family,
    policy::{HostPolicy, PolicySet},
};

/// The host whose policies are asked.
#[derive(Clone, Debug, Default)]
pub struct Here {
    /// Its addresses that others can send to, one of a family is enough. Without any the host is no party.
    pub addresses: Vec<IpAddr>,
    /// Whether the endpoints stand for those of any host, as those of a test file do: then they also come in from
    /// elsewhere.
    pub endpoints_anywhere: bool,
}

/// A way to the host.
pub(super) struct Door {
    /// How the party is called that the host is behind it.
    pub(super) name: String,
    /// The interface, where it makes a difference.
    pub(super) interface: Option<String>,
    /// Whether connections come from elsewhere, and not from the host's own endpoints.
    pub(super) outside: bool,
}

/// In no interface's name.
const ANOTHER: char = '\u{1}';

/// The ways to the host that policies tell apart.
pub(super) fn doors(sets: &[&PolicySet]) -> Vec<Door> {
    let mut doors = vec![Door { name: "host".to_owned(), interface: None, outside: false }];
    let policies = sets.iter().flat_map(|set| &set.host_policies).filter(|policy| !policy.staged);
    let patterns: BTreeSet<&str> = policies
        .flat_map(|policy| &policy.interfaces)
        .map(String::as_str)
        .filter(|p| *p != HostPolicy::LOOPBACK)
        .collect();
    let example = |pattern: &str| match pattern.strip_suffix('*') {
        Some(stem) => format!("{stem}{ANOTHER}"),
        None => pattern.to_owned(),
    };
    let others = if patterns.is_empty() { "host by any interface" } else { "host by other interfaces" };
    let named = patterns.iter().map(|pattern| (format!("host by {pattern}"), example(pattern)));
    let mut seen = BTreeSet::new();
    for (name, interface) in named.chain([(others.to_owned(), ANOTHER.to_string())]) {
        let holding: Vec<bool> =
            patterns.iter().map(|pattern| HostPolicy::is_like(&interface, pattern)).collect();
        if seen.insert(holding) {
            doors.push(Door { name, interface: Some(interface), outside: true });
        }
    }
    doors
}

/// Each group with each way to the host that it can take.
pub(super) fn pairs<'g>(groups: &'g [Group], doors: &'g [Door], here: &Here) -> Vec<Pair<'g>> {
    let mut pairs = Vec::new();
    for door in doors {
        for from in groups {
            let address = |addr: &&IpAddr| Family::of(**addr) == from.family;
            let Some(destination) = here.addresses.iter().find(address) else { continue };
            let (source, count) = match door.outside {
                false => (from.local, from.locals()),
                true if here.endpoints_anywhere => (from.local.or(from.elsewhere), from.count),
                true => (from.elsewhere, from.count - from.locals()),
            };
            let Some(source) = source else { continue };
            let (from, family) = (&from.name, from.family);
            pairs.push(Pair {
                from,
                to: &door.name,
                family,
                source,
                destination: *destination,
                count,
                door: Some(door),
            });
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::language;

    #[test]
    fn interfaces_that_are_told_apart() {
        let names = |text: &str| {
            let set = language::parse(&[("a.toml", text)]).unwrap();
            doors(&[&set]).into_iter().map(|door| door.name).collect::<Vec<_>>()
        };
        let policy = |name: &str, rest: &str| format!("[[host_policy]]\nname='{name}'\ningress=[]\n{rest}\n");
        assert_eq!(names(""), ["host", "host by any interface"]);
        assert_eq!(
            names(&policy("a", "staged=true\ninterfaces=['eth0']")),
            ["host", "host by any interface"]
        );
        assert_eq!(names(&policy("a", "")), ["host", "host by any interface"]);
        assert_eq!(names(&policy("a", "interfaces=['lo']")), ["host", "host by any interface"]);
        assert_eq!(names(&policy("a", "interfaces=['*']")), ["host", "host by *"]);
        let two =
            policy("a", "interfaces=['eth*','e*','eth']") + &policy("b", "interfaces=['eth0', 'eth0*']");
        let want =
            ["e*", "eth", "eth*", "eth0", "eth0*", "other interfaces"].map(|name| format!("host by {name}"));
        assert_eq!(names(&two)[1..], want);
        // What no interface's name tells apart is one.
        let same = policy("a", "interfaces=['eth*','wan']") + &policy("b", "interfaces=['eth*']");
        assert_eq!(names(&same), ["host", "host by eth*", "host by wan", "host by other interfaces"]);
    }
}
