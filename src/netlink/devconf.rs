//! Settings of an interface, as links and the kernel's notifications tell of them: what `/proc/sys/net/ipv4/conf/` and
//! `/proc/sys/net/ipv6/conf/` have, of many interfaces at once and without a name.

use super::{Attr, Attrs};
use crate::model::Family;

/// `RTM_NEWNETCONF` of linux/rtnetlink.h.
pub(super) const RTM_NEWNETCONF: u16 = 80;
/// `struct netconfmsg` is one byte, the family; attributes begin at the next multiple of four.
const NETCONFMSG: usize = 4;
const NETCONFA_IFINDEX: u16 = 1;
/// Attribute of linux/if_link.h, as the next.
pub const IFLA_INET_CONF: u16 = 1;
const IFLA_INET6_CONF: u16 = 2;
/// `IPV4_DEVCONF_FORWARDING` of linux/ip.h, where the first is 1. They are attributes in messages to the kernel, and places
/// in an array in those from it.
pub const FORWARDING4: u16 = 1;
/// `IPV4_DEVCONF_PROXY_ARP`.
pub const PROXY_ARP: u16 = 3;
/// `IPV4_DEVCONF_RP_FILTER`.
pub const RP_FILTER: u16 = 8;
/// `IPV4_DEVCONF_ARPFILTER`.
pub const ARP_FILTER: u16 = 13;
/// `IPV4_DEVCONF_ARP_IGNORE`.
pub const ARP_IGNORE: u16 = 19;
/// `IPV4_DEVCONF_ROUTE_LOCALNET`.
pub const ROUTE_LOCALNET: u16 = 26;
/// `DEVCONF_*` of linux/ipv6.h, where the first is 0.
const FORWARDING6: usize = 0;
const ACCEPT_RA: usize = 3;
const DISABLE_IPV6: usize = 26;

/// Of an interface's IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Settings {
    /// Packets that come by it are forwarded.
    pub forwarding: bool,
    /// It answers ARP for what is behind the host.
    pub proxy_arp: bool,
    /// How strictly the way back is checked: 0 not, 1 strictly, 2 loosely.
    pub rp_filter: u32,
    /// 127.0.0.0/8 may be behind it.
    pub route_localnet: bool,
}

/// Of an interface's IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Settings {
    /// Packets that come by it are forwarded.
    pub forwarding: bool,
    /// Router advertisements are heard: 0 never, 1 unless it forwards, 2 always.
    pub accept_ra: u32,
    /// It has no IPv6.
    pub off: bool,
}

/// Reads `IFLA_AF_SPEC`; nothing of a family that the kernel does not tell of.
pub(super) fn of_link(attr: Attr<'_>) -> (Option<Ipv4Settings>, Option<Ipv6Settings>) {
    let family = |family: i32, conf: u16| {
        let inside = attr.nested().find_kind(family as u16)?.nested();
        inside.clone().find_kind(conf).map(|attr| attr.data)
    };
    let number = |data: &[u8], at: usize| {
        data.get(4 * at..)?.first_chunk::<4>().map(|bytes| u32::from_ne_bytes(*bytes))
    };
    let ipv4 = family(libc::AF_INET, IFLA_INET_CONF).and_then(|data| {
        let number = |at: u16| number(data, usize::from(at) - 1);
        Some(Ipv4Settings {
            forwarding: number(FORWARDING4)? != 0,
            proxy_arp: number(PROXY_ARP)? != 0,
            rp_filter: number(RP_FILTER)?,
            route_localnet: number(ROUTE_LOCALNET)? != 0,
        })
    });
    let ipv6 = family(libc::AF_INET6, IFLA_INET6_CONF).and_then(|data| {
        Some(Ipv6Settings {
            forwarding: number(data, FORWARDING6)? != 0,
            accept_ra: number(data, ACCEPT_RA)?,
            off: number(data, DISABLE_IPV6)? != 0,
        })
    });
    (ipv4, ipv6)
}

/// Whose settings a notification is about. None when it is about those of all interfaces, or of future ones.
pub(super) fn told(payload: &[u8]) -> Option<(Family, u32)> {
    let family = match i32::from(*payload.first()?) {
        libc::AF_INET => Family::Ipv4,
        libc::AF_INET6 => Family::Ipv6,
        _ => return None,
    };
    let index = Attrs::after(payload, NETCONFMSG).find_kind(NETCONFA_IFINDEX)?.u32()?;
    // Negative numbers are those of `all` and `default`.
    i32::try_from(index).is_ok().then_some((family, index))
}

#[cfg(test)]
mod tests {
    use crate::{
        model::Family,
        netlink::{
            Socket, link,
            ns::testing::private,
            sysctl,
            watch::{self, KernelEvent, Topic},
        },
    };

    /// The kernel is asked the same by another way.
    #[test]
    fn settings_of_a_link_are_those_below_proc() {
        private(|| {
            let mut socket = Socket::route().unwrap();
            link::create_veth(&mut socket, "va", "vb", None).unwrap();
            let read = |family: &str, key: &str| -> u32 {
                sysctl::read(&format!("net/{family}/conf/va/{key}")).unwrap().parse().unwrap()
            };
            for value in ["0", "1", "0"] {
                for key in ["forwarding", "proxy_arp", "rp_filter", "route_localnet"] {
                    sysctl::write(&format!("net/ipv4/conf/va/{key}"), value).unwrap();
                    let now = link::by_name(&mut socket, "va").unwrap().ipv4.unwrap();
                    assert_eq!(u32::from(now.forwarding), read("ipv4", "forwarding"), "{key}");
                    assert_eq!(u32::from(now.proxy_arp), read("ipv4", "proxy_arp"), "{key}");
                    assert_eq!(now.rp_filter, read("ipv4", "rp_filter"), "{key}");
                    assert_eq!(u32::from(now.route_localnet), read("ipv4", "route_localnet"), "{key}");
                }
                for key in ["forwarding", "accept_ra", "disable_ipv6"] {
                    sysctl::write(&format!("net/ipv6/conf/va/{key}"), value).unwrap();
                    let now = link::by_name(&mut socket, "va").unwrap().ipv6.unwrap();
                    assert_eq!(u32::from(now.forwarding), read("ipv6", "forwarding"), "{key}");
                    assert_eq!(now.accept_ra, read("ipv6", "accept_ra"), "{key}");
                    assert_eq!(u32::from(now.off), read("ipv6", "disable_ipv6"), "{key}");
                }
            }
        });
    }

    #[test]
    fn changes_are_told_with_their_interface() {
        private(|| {
            let mut socket = Socket::route().unwrap();
            link::create_veth(&mut socket, "va", "vb", None).unwrap();
            let index = link::by_name(&mut socket, "va").unwrap().index;
            let (tx, rx) = std::sync::mpsc::channel();
            watch::spawn("test-watch", &[Topic::Settings], &[], move |e| tx.send(e).is_ok()).unwrap();
            for (path, family) in [
                ("net/ipv4/conf/va/proxy_arp", Family::Ipv4),
                ("net/ipv4/conf/va/forwarding", Family::Ipv4),
                ("net/ipv6/conf/va/forwarding", Family::Ipv6),
            ] {
                sysctl::write(path, "1").unwrap();
                assert_eq!(rx.recv().unwrap(), KernelEvent::Settings(family, index), "{path}");
            }
        });
    }
}
