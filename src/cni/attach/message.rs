//! The netlink messages of attaching and detaching, each with words for what it does.

use std::{
    net::{IpAddr, Ipv6Addr},
    os::fd::AsRawFd,
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};

use super::shape::Limit;
use crate::{
    cni::types::{Mac, Route},
    model::{Family, Prefix},
    netlink::{Batch, Error, KernelError, Socket, Writer, addr, devconf, link, ns::Netns, route},
};

/// Message types of linux/rtnetlink.h.
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_NEWQDISC: u16 = 36;
const RTM_SETNEIGHTBL: u16 = 67;
/// Attributes of linux/if_link.h.
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
/// `RTEXT_FILTER_SKIP_STATS` of linux/rtnetlink.h.
const SKIP_STATS: u32 = 8;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
/// `IN6_ADDR_GEN_MODE_NONE`.
const ADDR_GEN_NONE: u8 = 1;
/// Attributes of linux/neighbour.h.
const NDTA_NAME: u16 = 1;
const NDTA_PARMS: u16 = 6;
const NDTPA_IFINDEX: u16 = 1;
const NDTPA_PROXY_DELAY: u16 = 13;
/// Attributes of linux/rtnetlink.h and linux/fib_rules.h.
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_TABLE: u16 = 15;
const RTAX_MTU: u16 = 2;
const RTAX_ADVMSS: u16 = 8;
const RTNH_F_ONLINK: u32 = 4;
const FRA_SRC: u16 = 2;
const FRA_PRIORITY: u16 = 6;
const FRA_TABLE: u16 = 15;
const FR_ACT_TO_TBL: u8 = 1;
/// `RTPROT_STATIC`: routes inside the container are an administrator's, as far as its programs are concerned.
pub(super) const RTPROT_STATIC: u8 = 4;
/// `RTPROT_KERNEL` and `IP6_RT_PRIO_ADDRCONF`, as the kernel's own routes of a link have.
const RTPROT_KERNEL: u8 = 2;
const KERNEL_METRIC: u32 = 256;
/// `RT_TABLE_LOCAL`.
pub(super) const TABLE_LOCAL: u32 = 255;
/// The loopback's index, in every namespace.
pub(super) const LOOPBACK: u32 = 1;

/// Messages with words for each, for errors that say what failed.
#[derive(Debug, Default)]
pub(super) struct Steps {
    batch: Batch,
    words: Vec<&'static str>,
}

/// How steps went.
#[derive(Debug, Default)]
pub(super) struct StepReport {
    pub(super) errors: Vec<StepError>,
    /// The payloads of answers to questions.
    pub(super) replies: Vec<Vec<u8>>,
}

impl StepReport {
    /// What [`Steps::look`] has seen.
    pub(super) fn link(&self) -> Option<link::Link> {
        self.replies.iter().find_map(|payload| link::Link::parse(payload))
    }
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {source}")]
pub struct StepError {
    /// What was tried.
    pub what: &'static str,
    /// What the kernel said.
    pub source: Error,
}

/// A veth pair to make.
#[derive(Debug)]
pub(super) struct Veth<'a> {
    pub(super) name: &'a str,
    pub(super) index: u32,
    pub(super) peer: &'a str,
    pub(super) peer_index: u32,
    pub(super) peer_ns: &'a Netns,
    pub(super) peer_mac: Mac,
    pub(super) mtu: u32,
    pub(super) group: u32,
}

impl Steps {
    /// Sends everything; fails with the first error.
    pub(super) fn execute(&mut self, socket: &mut Socket) -> Result<(), StepError> {
        match self.errors(socket)?.into_iter().next() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Sends everything and answers what failed.
    pub(super) fn errors(&mut self, socket: &mut Socket) -> Result<Vec<StepError>, StepError> {
        Ok(self.report(socket)?.errors)
    }

    /// Sends everything and answers what failed, and what was asked for.
    pub(super) fn report(&mut self, socket: &mut Socket) -> Result<StepReport, StepError> {
        if self.batch.is_empty() {
            return Ok(StepReport::default());
        }
        let what = self.words.first().copied().unwrap_or("talk to the kernel");
        let report = socket.transact(&mut self.batch).map_err(|source| StepError { what, source })?;
        let step = |index: usize| self.words.get(index).copied().unwrap_or("talk to the kernel");
        let failed = |error: KernelError| StepError { what: step(error.index), source: Error::Kernel(error) };
        Ok(StepReport {
            errors: report.errors.into_iter().map(failed).collect(),
            replies: report.replies.into_iter().map(|(_, _, payload)| payload).collect(),
        })
    }

    fn add(&mut self, what: &'static str, kind: u16, flags: u16, fill: impl FnOnce(&mut Writer<'_>)) {
        self.batch.add(kind, flags, fill);
        self.words.push(what);
    }

    /// Creates a veth pair with the peer directly in the container's namespace: moving it there costs 20 ms more. With one
    /// queue each, as a pair has no use for more: packets pass without waiting in any. By itself the kernel would make
    /// one for each processor, with an entry below `/sys` and memory for each.
    pub(super) fn create(&mut self, veth: &Veth<'_>) {
        self.add("create the interface pair", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, |w| {
            w.raw(&ifinfomsg(veth.index, 0, 0))
                .attr_str(IFLA_IFNAME, veth.name)
                .attr(IFLA_ADDRESS, &Mac::HOST_END.octets())
                .attr_u32(IFLA_MTU, veth.mtu)
                .attr_u32(IFLA_GROUP, veth.group)
                .attr_u32(IFLA_NUM_TX_QUEUES, 1)
                .attr_u32(IFLA_NUM_RX_QUEUES, 1)
                .nest(IFLA_LINKINFO, |w| {
                    w.attr_str(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |w| {
                        w.nest(VETH_INFO_PEER, |w| {
                            w.raw(&ifinfomsg(veth.peer_index, 0, 0))
                                .attr_str(IFLA_IFNAME, veth.peer)
                                .attr(IFLA_ADDRESS, &veth.peer_mac.octets())
                                .attr_u32(IFLA_MTU, veth.mtu)
                                .attr_u32(IFLA_NUM_TX_QUEUES, 1)
                                .attr_u32(IFLA_NUM_RX_QUEUES, 1)
                                .attr_u32(IFLA_NET_NS_FD, veth.peer_ns.as_raw_fd() as u32);
                        });
                    });
                });
        });
    }

    /// Marks the host end as ours and gives it its IPv4 settings, all in the message (no `/proc` writes), whatever the host
    /// has for new interfaces: with `arp_ignore` or `arp_filter` containers would not find their gateway.
    /// `localnet`: packets that were sent to 127.0.0.1 may be translated to the container.
    pub(super) fn configure_host_end(
        &mut self,
        index: u32,
        alias: &str,
        rp_filter: u32,
        localnet: bool,
        ipv6: bool,
    ) {
        self.add("configure the host end", RTM_NEWLINK, 0, |w| {
            w.raw(&ifinfomsg(index, 0, 0)).attr_str(IFLA_IFALIAS, alias).nest(IFLA_AF_SPEC, |w| {
                w.nest(libc::AF_INET as u16, |w| {
                    w.nest(devconf::IFLA_INET_CONF, |w| {
                        w.attr_u32(devconf::FORWARDING4, 1)
                            .attr_u32(devconf::PROXY_ARP, 1)
                            .attr_u32(devconf::RP_FILTER, rp_filter)
                            .attr_u32(devconf::ARP_FILTER, 0)
                            .attr_u32(devconf::ARP_IGNORE, 0)
                            .attr_u32(devconf::ROUTE_LOCALNET, u32::from(localnet));
                    });
                });
                no_automatic_ipv6(w, ipv6);
            });
        });
        // Answer at once for what proxy_arp answers; the default waits up to 0.8 s.
        self.add("set proxy_delay", RTM_SETNEIGHTBL, 0, |w| {
            w.raw(&[libc::AF_INET as u8, 0, 0, 0]).attr_str(NDTA_NAME, "arp_cache").nest(NDTA_PARMS, |w| {
                w.attr_u32(NDTPA_IFINDEX, index).attr_u64(NDTPA_PROXY_DELAY, 0);
            });
        });
    }

    /// Gives a host end another alias.
    pub(super) fn alias(&mut self, index: u32, alias: &str) {
        self.add("write the interface's alias", RTM_NEWLINK, 0, |w| {
            w.raw(&ifinfomsg(index, 0, 0)).attr_str(IFLA_IFALIAS, alias);
        });
    }

    /// Asks what a link is like; the answer is an `RTM_NEWLINK`.
    pub(super) fn look(&mut self, index: u32) {
        self.add("read the interface", RTM_GETLINK, 0, |w| {
            w.raw(&ifinfomsg(index, 0, 0)).attr_u32(IFLA_EXT_MASK, SKIP_STATS);
        });
    }

    /// Gives a host end the MAC address and the MTU that it should have had from the start.
    pub(super) fn set_host_end(&mut self, index: u32, mtu: u32) {
        self.add("set the host end's MAC address and MTU", RTM_NEWLINK, 0, |w| {
            w.raw(&ifinfomsg(index, 0, 0))
                .attr(IFLA_ADDRESS, &Mac::HOST_END.octets())
                .attr_u32(IFLA_MTU, mtu);
        });
    }

    /// Turns automatic link-local addresses off; must come before the link is up.
    pub(super) fn no_automatic_ipv6(&mut self, index: u32) {
        self.add("turn off automatic IPv6 addresses", RTM_NEWLINK, 0, |w| {
            w.raw(&ifinfomsg(index, 0, 0)).nest(IFLA_AF_SPEC, |w| no_automatic_ipv6(w, true));
        });
    }

    pub(super) fn up(&mut self, index: u32) {
        link::push_up(&mut self.batch, index);
        self.words.push("set the interface up");
    }

    /// Puts a link back into our group, out of a bridge or the like, and takes flags from it.
    pub(super) fn claim(&mut self, index: u32, group: u32, free: bool, no_flags: u32) {
        self.add("take the host end back", RTM_NEWLINK, 0, |w| {
            w.raw(&ifinfomsg(index, 0, no_flags)).attr_u32(IFLA_GROUP, group);
            if free {
                w.attr_u32(IFLA_MASTER, 0);
            }
        });
    }

    /// Gives a link another name, and sets it down before if that has to be.
    pub(super) fn rename(&mut self, index: u32, name: &str, down: bool) {
        if down {
            link::push_down(&mut self.batch, index);
            self.words.push("set the interface down");
        }
        self.add("give the interface its name back", RTM_NEWLINK, 0, |w| {
            w.raw(&ifinfomsg(index, 0, 0)).attr_str(IFLA_IFNAME, name);
        });
    }

    /// Sets a link down and into a group, by its name, so that no other link is hit whose index was reused.
    pub(super) fn retire(&mut self, name: &str, group: u32) {
        self.add("set the interface down", RTM_NEWLINK, 0, |w| {
            w.raw(&ifinfomsg(0, 0, libc::IFF_UP as u32))
                .attr_str(IFLA_IFNAME, name)
                .attr_u32(IFLA_GROUP, group);
        });
    }

    /// Sets a link down and gives it another name.
    pub(super) fn hide(&mut self, index: u32, name: &str) {
        link::push_down(&mut self.batch, index);
        self.words.push("set the container's interface down");
        self.add("rename the container's interface", RTM_NEWLINK, 0, |w| {
            w.raw(&ifinfomsg(index, 0, 0)).attr_str(IFLA_IFNAME, name);
        });
    }

    /// Deletes a link by its name.
    pub(super) fn delete(&mut self, name: &str) {
        self.add("delete the interface", RTM_DELLINK, 0, |w| {
            w.raw(&ifinfomsg(0, 0, 0)).attr_str(IFLA_IFNAME, name);
        });
    }

    /// Deletes all links of a group; one wait for the kernel's grace periods, however many there are.
    pub(super) fn delete_group(&mut self, group: u32) {
        self.add("delete retired interfaces", RTM_DELLINK, 0, |w| {
            w.raw(&ifinfomsg(0, 0, 0)).attr_u32(IFLA_GROUP, group);
        });
    }

    pub(super) fn address(&mut self, index: u32, address: IpAddr, len: u8) {
        addr::push_add(&mut self.batch, index, address, len);
        self.words.push("add an address");
    }

    /// The address of the container's IPv6 gateway. Without a route to a whole prefix: one on every host end would be a
    /// long list, which the kernel looks through for each new one.
    pub(super) fn gateway_address(&mut self, index: u32, address: Ipv6Addr) {
        addr::push_add_alone(&mut self.batch, index, address.into());
        self.words.push("add the gateway's address");
    }

    /// A route inside the container to its own gateway, with the container's address as source. Without it programs that
    /// call the gateway would do so from the interface's link-local address, to which the host has no route.
    pub(super) fn gateway_route(&mut self, index: u32, gateway: Ipv6Addr, source: Ipv6Addr) {
        self.add(
            "add the IPv6 gateway's route in the container",
            RTM_NEWROUTE,
            NLM_F_CREATE | NLM_F_EXCL,
            |w| {
                w.raw(&host_route6(route::TABLE_MAIN, RTPROT_STATIC, libc::RTN_UNICAST))
                    .attr_ip(RTA_DST, gateway.into())
                    .attr_ip(RTA_PREFSRC, source.into())
                    .attr_u32(RTA_OIF, index);
            },
        );
    }

    /// A route to ::1 by a host end, worse than the one of `lo`. What a container answers to a program that has called a
    /// mapped port by ::1 is translated back to that address, and IPv6 takes it only where the interface has a route to
    /// it. (For IPv4 `route_localnet` does this.) A packet that comes with ::1 in it is dropped before it is looked at.
    pub(super) fn loopback_route(&mut self, index: u32) {
        // Without NLM_F_EXCL, as every host end may have one; as the kernel makes those of a link itself.
        self.add("let answers to ::1 in", RTM_NEWROUTE, NLM_F_CREATE, |w| {
            w.raw(&host_route6(TABLE_LOCAL, RTPROT_KERNEL, libc::RTN_LOCAL))
                .attr_ip(RTA_DST, Ipv6Addr::LOCALHOST.into())
                .attr_u32(RTA_OIF, index)
                .attr_u32(RTA_PRIORITY, KERNEL_METRIC);
        });
    }

    /// A route onto the link.
    pub(super) fn device_route(&mut self, what: &'static str, key: &route::Key, index: u32, replace: bool) {
        let mode = if replace { route::Mode::Replace } else { route::Mode::Create };
        route::push(&mut self.batch, key, route::Target::Device(index), mode);
        self.words.push(what);
    }

    pub(super) fn remove_device_route(&mut self, key: &route::Key, index: u32) {
        route::push_delete(&mut self.batch, key, route::RouteKind::Unicast, Some(index));
        self.words.push("remove the route to the container");
    }

    /// Makes an address the host's own, without giving it to an interface (so it is never a source address).
    pub(super) fn local_address(&mut self, address: IpAddr, protocol: u8) {
        self.add("answer for the containers' gateway", RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, |w| {
            let family = family(address);
            let bits = Family::of(address).bits();
            w.raw(&[family, bits, 0, 0, TABLE_LOCAL as u8, protocol, libc::RT_SCOPE_HOST, libc::RTN_LOCAL])
                .raw(&[0; 4])
                .attr_ip(RTA_DST, address)
                .attr_u32(RTA_OIF, LOOPBACK);
        });
    }

    /// A route inside the container. Gateways are reachable by definition (`onlink`): the host end answers for them.
    pub(super) fn container_route(&mut self, index: u32, route: &Route, metric: u32, table: Option<u32>) {
        let words = container_route_words(route.dst.0.is_ipv4());
        self.add(words, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, |w| {
            let (dst, len) = route.dst;
            let table = table.or(route.table).unwrap_or(route::TABLE_MAIN);
            let flags = if route.gw.is_some_and(|gw| gw.is_ipv4()) { RTNH_F_ONLINK } else { 0 };
            let scope = route.scope.unwrap_or(if route.gw.is_none() && dst.is_ipv4() {
                libc::RT_SCOPE_LINK
            } else {
                libc::RT_SCOPE_UNIVERSE
            });
            let short = u8::try_from(table).unwrap_or(0);
            w.raw(&[family(dst), len, 0, 0, short, RTPROT_STATIC, scope, libc::RTN_UNICAST])
                .raw(&flags.to_ne_bytes())
                .attr_u32(RTA_TABLE, table)
                .attr_u32(RTA_OIF, index);
            // The kernel refuses bits below the length.
            if let (Ok(prefix), true) = (Prefix::new(dst, len), len > 0) {
                w.attr_ip(RTA_DST, prefix.addr());
            }
            if let Some(gateway) = route.gw {
                w.attr_ip(RTA_GATEWAY, gateway);
            }
            if metric != 0 {
                w.attr_u32(RTA_PRIORITY, metric);
            }
            if route.mtu.is_some() || route.advmss.is_some() {
                w.nest(RTA_METRICS, |w| {
                    for (kind, value) in [(RTAX_MTU, route.mtu), (RTAX_ADVMSS, route.advmss)] {
                        if let Some(value) = value {
                            w.attr_u32(kind, value);
                        }
                    }
                });
            }
        });
    }

    /// Limits the rate at which an interface sends.
    pub(super) fn limit(&mut self, index: u32, limit: Limit) {
        self.add("limit the rate", RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, |w| limit.write(w, index));
    }

    /// A rule inside the container: what has this source address looks into this table.
    pub(super) fn source_rule(&mut self, source: IpAddr, table: u32, priority: u32) {
        self.add("add a routing rule in the container", RTM_NEWRULE, NLM_F_CREATE, |w| {
            source_rule(w, source, table, priority);
        });
    }

    pub(super) fn remove_source_rule(&mut self, source: IpAddr, table: u32, priority: u32) {
        self.add("remove a routing rule in the container", RTM_DELRULE, 0, |w| {
            source_rule(w, source, table, priority);
        });
    }
}

fn source_rule(w: &mut Writer<'_>, source: IpAddr, table: u32, priority: u32) {
    let bits = Family::of(source).bits();
    w.raw(&[family(source), 0, bits, 0, 0, 0, 0, FR_ACT_TO_TBL])
        .raw(&[0; 4])
        .attr_ip(FRA_SRC, source)
        .attr_u32(FRA_TABLE, table)
        .attr_u32(FRA_PRIORITY, priority);
}

/// What [`Steps::container_route`] does.
pub(super) const fn container_route_words(ipv4: bool) -> &'static str {
    if ipv4 { "add an IPv4 route in the container" } else { "add an IPv6 route in the container" }
}

fn no_automatic_ipv6(w: &mut Writer<'_>, ipv6: bool) {
    if ipv6 {
        w.nest(libc::AF_INET6 as u16, |w| {
            w.attr_u8(IFLA_INET6_ADDR_GEN_MODE, ADDR_GEN_NONE);
        });
    }
}

const fn family(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

/// `struct rtmsg` of a route to one IPv6 address, in one of the kernel's own tables, without flags.
const fn host_route6(table: u32, protocol: u8, kind: u8) -> [u8; 12] {
    [libc::AF_INET6 as u8, 128, 0, 0, table as u8, protocol, libc::RT_SCOPE_UNIVERSE, kind, 0, 0, 0, 0]
}

/// `struct ifinfomsg`: family, pad, type, index, flags, change.
fn ifinfomsg(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}
