//! What the host needs once, before its first endpoint.

use std::{fs, net::Ipv4Addr};

use super::{
    AttachConfig,
    message::{LOOPBACK, RTPROT_STATIC, StepError, Steps},
};
use crate::{
    model::{EndpointId, Prefix},
    netlink::{Error, Socket, route, sysctl},
};

/// Switches forwarding on for both families, in the calling thread's network namespace.
///
/// Forwarding IPv6 makes the kernel stop listening to router advertisements, which may be where the host's default
/// route comes from: interfaces that listen (`accept_ra` 1) go on listening (2).
pub fn enable_forwarding() -> Result<(), Error> {
    if sysctl::read("net/ipv4/ip_forward")? != "1" {
        sysctl::write("net/ipv4/ip_forward", "1")?;
    }
    let Ok(forwarding) = sysctl::read("net/ipv6/conf/all/forwarding") else {
        return Ok(()); // a kernel without IPv6
    };
    if forwarding != "1" {
        let interfaces = fs::read_dir("/proc/sys/net/ipv6/conf")
            .map_err(|source| Error::Os { call: "list /proc/sys/net/ipv6/conf", source })?;
        for entry in interfaces.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("net/ipv6/conf/{name}/accept_ra");
            let special = matches!(name.as_str(), "all" | "default" | "lo");
            if !special
                && !name.starts_with(EndpointId::PREFIX)
                && sysctl::read(&path).is_ok_and(|v| v == "1")
            {
                sysctl::write(&path, "2")?;
            }
        }
        sysctl::write("net/ipv6/conf/all/forwarding", "1")?;
    }
    Ok(())
}

/// The containers' gateways, 169.254.1.1 for the first network of a container, .2 for its second, and so on: local
/// addresses of the host.
///
/// `proxy_arp` alone answers only for addresses that the host has a route to, so 169.254.1.1 would be answered on
/// hosts with a default route and on no others. As a local address it is answered always, can be pinged, and shows
/// up in traceroute; being a route in the local table and on no interface, it never becomes a source address.
///
/// Where `arp_ignore` is set (hosts with LVS or kube-proxy's IPVS mode set it), the kernel answers ARP only for
/// addresses of the interface itself. There it is a plain route to the loopback, which `proxy_arp` answers for. That
/// one does not have our protocol number, as the FIB takes routes of ours onto a device for those of containers.
#[derive(Debug, Default)]
pub(super) struct Gateways {
    done: [u64; 4],
}

impl Gateways {
    /// Makes the host answer for a gateway. Costs nothing when it does already.
    pub(super) fn ensure(
        &mut self,
        number: u8,
        config: AttachConfig,
        socket: &mut Socket,
    ) -> Result<(), StepError> {
        let (word, bit) = (usize::from(number / 64), 1u64 << (number % 64));
        if self.done[word] & bit != 0 {
            return Ok(());
        }
        let gateway = Ipv4Addr::new(169, 254, 1, number);
        let mut steps = Steps::default();
        if sysctl::read("net/ipv4/conf/all/arp_ignore").is_ok_and(|v| v != "0") {
            let prefix = Prefix::host(gateway.into());
            let key = route::Key {
                prefix,
                table: route::TABLE_MAIN,
                protocol: RTPROT_STATIC,
                metric: config.metric,
            };
            steps.device_route("answer for the containers' gateway", &key, LOOPBACK, true);
        } else {
            steps.local_address(gateway.into(), config.protocol);
        }
        match steps.execute(socket) {
            Err(error) if !error.source.is_exists() => Err(error),
            _ => {
                self.done[word] |= bit;
                Ok(())
            }
        }
    }
}

/// The path below `/proc/sys/` of a setting that is written with dots or slashes; `IFNAME` stands for the interface.
pub(super) fn sysctl_path(name: &str, ifname: &str) -> String {
    let separator = if name.contains('/') { '/' } else { '.' };
    name.split(separator)
        .map(|part| if part == "IFNAME" { ifname } else { part })
        .collect::<Vec<_>>()
        .join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::ns::testing;

    #[test]
    fn sysctl_spellings() {
        assert_eq!(sysctl_path("net.ipv4.conf.IFNAME.rp_filter", "eth0.5"), "net/ipv4/conf/eth0.5/rp_filter");
        assert_eq!(sysctl_path("net/ipv4/conf/eth0.5/rp_filter", "x"), "net/ipv4/conf/eth0.5/rp_filter");
    }

    #[test]
    fn forwarding_keeps_router_advertisements() {
        let host = testing::NamedNetns::create("s32f").unwrap();
        let other = testing::NamedNetns::create("s32f").unwrap();
        host.connect("up0", &other, "x").unwrap();
        host.run(|| {
            enable_forwarding().unwrap();
            enable_forwarding().unwrap();
            assert_eq!(sysctl::read("net/ipv4/ip_forward").unwrap(), "1");
            assert_eq!(sysctl::read("net/ipv6/conf/default/forwarding").unwrap(), "1");
            assert_eq!(sysctl::read("net/ipv6/conf/up0/accept_ra").unwrap(), "2");
        });
    }
}
