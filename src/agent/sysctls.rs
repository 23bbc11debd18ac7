//! The host settings that routing needs: forwarding in both families.

use crate::{
    model::Family,
    netlink::{self, Socket, route, sysctl},
};

/// What must be set on the host for packets to flow between containers and the network.
const REQUIRED: [(Family, &str, &str); 2] =
    [(Family::Ipv4, "net/ipv4/ip_forward", "1"), (Family::Ipv6, "net/ipv6/conf/all/forwarding", "1")];

/// With this a host answers ARP only for addresses of the interface that was asked. The containers' gateway is none's; it
/// is made so that this does not matter, if it is set when the agent starts.
const ARP_IGNORE: &str = "net/ipv4/conf/all/arp_ignore";

/// Switches forwarding on where it is off. An interface that took its default route from router advertisements keeps
/// taking them: with forwarding on the kernel ignores them unless `accept_ra` is 2 (Documentation/networking/ip-sysctl).
pub(super) fn apply() -> Result<(), netlink::Error> {
    for (family, name, wanted) in REQUIRED {
        if sysctl::read(name)?.trim() == wanted {
            continue;
        }
        if family == Family::Ipv6 {
            keep_router_advertisements();
        }
        sysctl::write(name, wanted)?;
        tracing::info!("set {} = {wanted}", name.replace('/', "."));
    }
    Ok(())
}

/// Whether the containers' gateway is a local address of the host, for which `arp_ignore` counts.
fn gateway_is_local() -> bool {
    let way =
        Socket::route().and_then(|mut socket| route::way_to(&mut socket, [169, 254, 1, 1].into(), None));
    way.is_ok_and(|way| way.is_some_and(|way| way.kind == libc::RTN_LOCAL))
}

/// The settings that are not as required now, for `doctor` and `status`.
pub(super) fn missing() -> Vec<String> {
    missing_for(&Family::ALL)
}

/// Those that containers with addresses of these families need, for CHECK and STATUS.
pub(super) fn missing_for(families: &[Family]) -> Vec<String> {
    let ignores = families.contains(&Family::Ipv4)
        && sysctl::read(ARP_IGNORE).is_ok_and(|value| !matches!(value.trim(), "0" | "3"))
        && gateway_is_local();
    let arp = ignores.then(|| {
        "net.ipv4.conf.all.arp_ignore should be 0: containers get no answer from their IPv4 gateway (set it on the interfaces \
         that need it)"
            .to_owned()
    });
    REQUIRED
        .iter()
        .filter(|(family, ..)| families.contains(family))
        .filter(|(_, name, wanted)| sysctl::read(name).map_or(true, |value| value.trim() != *wanted))
        .map(|(_, name, wanted)| format!("{} should be {wanted}", name.replace('/', ".")))
        .chain(arp)
        .collect()
}

fn keep_router_advertisements() {
    let Ok(routes) = std::fs::read_to_string("/proc/net/ipv6_route") else { return };
    for interface in default_route_interfaces(&routes) {
        let name = format!("net/ipv6/conf/{interface}/accept_ra");
        if sysctl::read(&name).is_ok_and(|value| value.trim() == "1") && sysctl::write(&name, "2").is_ok() {
            tracing::info!("set {} = 2, so that its IPv6 default route stays", name.replace('/', "."));
        }
    }
}

/// Interfaces with a default route from a router advertisement: destination and length zero, RTF_ADDRCONF set
/// (linux/ipv6_route.h).
fn default_route_interfaces(table: &str) -> Vec<&str> {
    const RTF_ADDRCONF: u32 = 0x0004_0000;
    let fields = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    fields
        .filter_map(|f| match f.as_slice() {
            [destination, "00", .., flags, interface]
                if destination.bytes().all(|b| b == b'0')
                    && u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & RTF_ADDRCONF != 0) =>
            {
                Some(*interface)
            }
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{Batch, addr, link, ns::testing::private};

    /// Set before the gateway was made it does no harm, and is not told.
    #[test]
    fn arp_ignore_counts_for_a_local_gateway() {
        private(|| {
            sysctl::write("net/ipv4/ip_forward", "1").unwrap();
            sysctl::write(ARP_IGNORE, "1").unwrap();
            assert_eq!(missing_for(&[Family::Ipv4]), [] as [String; 0]);
            let mut batch = Batch::new();
            link::push_up(&mut batch, 1);
            addr::push_add(&mut batch, 1, [169, 254, 1, 1].into(), 32);
            Socket::route().unwrap().execute(&mut batch).unwrap();
            let missing = missing_for(&[Family::Ipv4]);
            assert!(missing.len() == 1 && missing[0].contains("arp_ignore should be 0"), "{missing:?}");
            assert_eq!(missing_for(&[]), [] as [String; 0]);
            sysctl::write(ARP_IGNORE, "0").unwrap();
            assert_eq!(missing_for(&[Family::Ipv4]), [] as [String; 0]);
        });
    }

    #[test]
    fn default_routes_from_advertisements() {
        let zero = "0".repeat(32);
        let line = |destination: &str, len: &str, flags: &str, dev: &str| {
            format!("{destination} {len} {zero} 00 {zero} 00000400 00000001 00000000 {flags} {dev}\n")
        };
        let table = line(&zero, "00", "00450003", "eth0")
            + &line(&zero, "00", "00000003", "eth1")
            + &line(&"f".repeat(32), "00", "00450003", "eth2")
            + &line(&zero, "08", "00450003", "eth3");
        assert_eq!(default_route_interfaces(&table), ["eth0"]);
    }
}
