//! The kernel's limits that many containers or routes reach: a full neighbour table makes containers unreachable at random.

use crate::netlink::sysctl;

/// Of a limit, in tenths: from here on it is too close.
const CLOSE: u64 = 9;

/// How much there is of what the kernel limits.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    /// Containers with an IPv4 and with an IPv6 address.
    pub(super) endpoints: [usize; 2],
    /// IPv6 routes of ours.
    pub(super) routes6: usize,
}

/// Limits that are reached or nearly so, one line each.
pub(super) fn problems(load: Load) -> Vec<String> {
    let number = |path: &str| sysctl::read(path).ok()?.trim().parse().ok();
    judge(load, &number, &|file| entries(&std::fs::read_to_string(file).ok()?))
}

fn judge(
    load: Load,
    setting: &dyn Fn(&str) -> Option<u64>,
    entries: &dyn Fn(&str) -> Option<u64>,
) -> Vec<String> {
    let mut found = Vec::new();
    let neighbours = [("ipv4", "/proc/net/stat/arp_cache"), ("ipv6", "/proc/net/stat/ndisc_cache")];
    for ((family, file), endpoints) in neighbours.into_iter().zip(load.endpoints) {
        let path = format!("net/{family}/neigh/default/gc_thresh3");
        // Namespaces other than the first have no such setting: the table is one for all of them.
        let Some(limit) = setting(&path) else { continue };
        // One entry for the container, and one in its namespace for the gateway.
        let wanted = (2 * endpoints as u64).max(entries(file).unwrap_or(0));
        if wanted * 10 > limit * CLOSE {
            found.push(format!(
                "{} = {limit}, and {wanted} neighbours are in use or to be expected with {endpoints} containers: \
                 beyond it containers are unreachable at random. Set it to {} or more, and gc_thresh2 to half of that",
                path.replace('/', "."),
                (4 * wanted).next_power_of_two()
            ));
        }
    }
    // Unlimited since Linux 6.3; 4096 before, where entries of the cache count.
    let path = "net/ipv6/route/max_size";
    if let Some(limit) = setting(path)
        && load.routes6 as u64 * 10 > limit * CLOSE
    {
        found.push(format!(
            "net.ipv6.route.max_size = {limit}, with {} IPv6 routes: set it to {} or more",
            load.routes6,
            (4 * load.routes6 as u64).next_power_of_two()
        ));
    }
    found
}

/// The first column of the first line below the names, in hexadecimal: entries in use.
fn entries(stat: &str) -> Option<u64> {
    u64::from_str_radix(stat.lines().nth(1)?.split_ascii_whitespace().next()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_told_before_they_are_reached() {
        let settings = |limit: u64, size: u64| {
            move |path: &str| Some(if path.ends_with("gc_thresh3") { limit } else { size })
        };
        let load = Load { endpoints: [500, 100], routes6: 2000 };
        let none = |_: &str| None;
        assert_eq!(judge(load, &settings(8192, 4096), &none), [""; 0]);
        assert_eq!(judge(load, &none, &none), [""; 0]);
        let found = judge(load, &settings(1024, 1024), &none);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("net.ipv4.neigh.default.gc_thresh3 = 1024") && found[0].contains("4096"));
        assert!(found[1].contains("max_size = 1024, with 2000 IPv6 routes") && found[1].contains("8192"));
        // Others use the table too.
        let found = judge(Load::default(), &settings(1024, 1 << 31), &|_| Some(1000));
        assert!(found.len() == 2 && found[1].contains("net.ipv6.neigh"), "{found:?}");
    }

    #[test]
    fn the_statistics_are_hexadecimal() {
        let stat = "entries  allocs   destroys\n0000001a  00000030 00000016\n0000001a  00000001 00000002\n";
        assert_eq!(entries(stat), Some(26));
        assert_eq!(entries("entries\n"), None);
    }
}
