//! Routes: reading them typed, and writing the kinds that we write.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use smallvec::SmallVec;

use super::{
    Attrs, Batch, Error, RawMessage, Socket, Writer,
    addr::af,
    nexthop::{RTNH_F_ONLINK, Via},
};
use crate::model::{Family, Prefix};

/// `RTM_*` message types of linux/rtnetlink.h.
pub(super) const RTM_NEWROUTE: u16 = 24;
pub(super) const RTM_DELROUTE: u16 = 25;
pub(super) const RTM_GETROUTE: u16 = 26;
/// `struct rtmsg` is 12 bytes: family, dst_len, src_len, tos, table, protocol, scope, type, flags.
pub(super) const RTMSG: usize = 12;
/// Where `rtm_type` is in it.
const TYPE_AT: usize = 7;
/// `struct rtnexthop` is 8 bytes: length, flags, hops, interface index.
pub(super) const RTNEXTHOP: usize = 8;
/// Attributes of linux/rtnetlink.h.
pub(super) const RTA_DST: u16 = 1;
pub(super) const RTA_OIF: u16 = 4;
pub(super) const RTA_GATEWAY: u16 = 5;
pub(super) const RTA_PRIORITY: u16 = 6;
pub(super) const RTA_PREFSRC: u16 = 7;
pub(super) const RTA_MULTIPATH: u16 = 9;
pub(super) const RTA_TABLE: u16 = 15;
pub(super) const RTA_VIA: u16 = 18;
pub(super) const RTA_NH_ID: u16 = 30;
/// `RTM_F_CLONED`: an entry of the cache, not a route.
const RTM_F_CLONED: u32 = 0x200;
/// `RT_TABLE_MAIN`.
pub const TABLE_MAIN: u32 = 254;

/// The metric of the routes to local containers: better than any learned route. Not 0, which IPv6 takes for 1024.
pub const LOCAL_METRIC: u32 = 1;

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteKind {
    /// Forwards.
    Unicast,
    /// Drops without a word.
    Blackhole,
    /// Another `RTN_*` of linux/rtnetlink.h: local, broadcast, unreachable …
    Other(u8),
}

impl RouteKind {
    const fn of(value: u8) -> Self {
        match value {
            libc::RTN_UNICAST => Self::Unicast,
            libc::RTN_BLACKHOLE => Self::Blackhole,
            other => Self::Other(other),
        }
    }

    const fn value(self) -> u8 {
        match self {
            Self::Unicast => libc::RTN_UNICAST,
            Self::Blackhole => libc::RTN_BLACKHOLE,
            Self::Other(other) => other,
        }
    }
}

/// One way that a route forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hop {
    /// The gateway; none when the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The device.
    pub ifindex: u32,
    /// 1 to 256.
    pub weight: u16,
    /// `RTNH_F_*` of linux/rtnetlink.h.
    pub flags: u32,
}

/// A route of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The destination.
    pub prefix: Prefix,
    /// The table.
    pub table: u32,
    /// `RTPROT_*` of linux/rtnetlink.h, or a daemon's own number.
    pub protocol: u8,
    /// `RT_SCOPE_*`.
    pub scope: u8,
    /// What it does.
    pub kind: RouteKind,
    /// The metric (priority); lower wins.
    pub metric: u32,
    /// The next-hop object it refers to.
    pub nexthop_id: Option<u32>,
    /// Where it leads, inline or as the kernel shows it for an object.
    pub hops: SmallVec<[Hop; 1]>,
    /// Its preferred source address.
    pub source: Option<IpAddr>,
}

impl Route {
    /// Reads the payload of an `RTM_NEWROUTE` or `RTM_DELROUTE`. None for what is not an IPv4 or IPv6 unicast route:
    /// other families, cache entries, source-specific routes and routes for one type of service.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let header = payload.first_chunk::<RTMSG>()?;
        let [family, dst_len, src_len, tos, table, protocol, scope, kind, f0, f1, f2, f3] = *header;
        let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
        let unspecified: IpAddr = match i32::from(family) {
            libc::AF_INET => [0; 4].into(),
            libc::AF_INET6 => [0; 16].into(),
            _ => return None,
        };
        if src_len != 0 || tos != 0 || flags & RTM_F_CLONED != 0 {
            return None;
        }
        let mut route = Self {
            prefix: Prefix::host(unspecified),
            table: table.into(),
            protocol,
            scope,
            kind: RouteKind::of(kind),
            metric: 0,
            nexthop_id: None,
            hops: SmallVec::new(),
            source: None,
        };
        let mut dst = unspecified;
        let (mut oif, mut gateway) = (None, None);
        for attr in Attrs::after(payload, RTMSG) {
            match attr.kind {
                RTA_DST => dst = attr.ip()?,
                RTA_OIF => oif = attr.u32(),
                RTA_GATEWAY => gateway = attr.ip(),
                RTA_VIA => gateway = parse_via(attr.data),
                RTA_PRIORITY => route.metric = attr.u32()?,
                RTA_PREFSRC => route.source = attr.ip(),
                RTA_TABLE => route.table = attr.u32()?,
                RTA_NH_ID => route.nexthop_id = attr.u32(),
                RTA_MULTIPATH => parse_multipath(attr.data, &mut route.hops),
                _ => {}
            }
        }
        route.prefix = Prefix::new(dst, dst_len).ok()?;
        if let (Some(ifindex), true) = (oif, route.hops.is_empty()) {
            // The flags of a single hop are in the message's.
            route.hops.push(Hop { gateway, ifindex, weight: 1, flags: flags & 0xff });
        }
        Some(route)
    }

    /// Whether it leads straight to the destination's link: no gateway, no object.
    pub fn is_on_link(&self) -> bool {
        self.kind == RouteKind::Unicast
            && self.nexthop_id.is_none()
            && !self.hops.is_empty()
            && self.hops.iter().all(|h| h.gateway.is_none())
    }
}

/// `struct rtvia`: family and address.
fn parse_via(data: &[u8]) -> Option<IpAddr> {
    let (family, addr) = data.split_first_chunk::<2>()?;
    match i32::from(u16::from_ne_bytes(*family)) {
        libc::AF_INET => <[u8; 4]>::try_from(addr).ok().map(IpAddr::from),
        libc::AF_INET6 => <[u8; 16]>::try_from(addr).ok().map(IpAddr::from),
        _ => None,
    }
}

fn parse_multipath(mut data: &[u8], hops: &mut SmallVec<[Hop; 1]>) {
    while let Some(&[l0, l1, flags, weight, i0, i1, i2, i3]) = data.first_chunk::<RTNEXTHOP>() {
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        let Some(attrs) = data.get(RTNEXTHOP..len) else { return };
        let mut gateway = None;
        for attr in Attrs::new(attrs) {
            match attr.kind {
                RTA_GATEWAY => gateway = attr.ip(),
                RTA_VIA => gateway = parse_via(attr.data),
                _ => {}
            }
        }
        hops.push(Hop {
            gateway,
            ifindex: u32::from_ne_bytes([i0, i1, i2, i3]),
            weight: u16::from(weight) + 1,
            flags: flags.into(),
        });
        data = data.get(super::align4(len)..).unwrap_or_default();
    }
}

/// Which routes to list. The kernel does the filtering (strict checking, kernel 4.20).
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    /// Only this table.
    pub table: Option<u32>,
    /// Only this protocol.
    pub protocol: Option<u8>,
}

/// Hands every route of a family that passes the filter to `each`; see [`Socket::dump_once`].
pub fn visit(
    socket: &mut Socket,
    family: Family,
    filter: Filter,
    mut each: impl FnMut(Route),
) -> Result<(), Error> {
    visit_while(socket, family, filter, |route| {
        each(route);
        true
    })
}

/// Like [`visit`], until `each` answers false; then the result is [`Error::Interrupted`], and the socket is of no use
/// any more.
pub fn visit_while(
    socket: &mut Socket,
    family: Family,
    filter: Filter,
    mut each: impl FnMut(Route) -> bool,
) -> Result<(), Error> {
    let passes = |route: &Route| {
        filter.table.is_none_or(|t| t == route.table) && filter.protocol.is_none_or(|p| p == route.protocol)
    };
    let result = socket.dump_once(
        RTM_GETROUTE,
        |w| dump_header(w, family, filter),
        |m: &RawMessage<'_>| {
            if m.kind == RTM_NEWROUTE {
                // Again here, for kernels that ignore the filter.
                let route = Route::parse(m.payload).filter(passes);
                if route.is_some_and(|route| !each(route)) {
                    return Err(Error::Interrupted);
                }
            }
            Ok(())
        },
    );
    match result {
        // A table that was never used does not exist.
        Err(Error::Kernel(e)) if e.errno == libc::ENOENT && filter.table.is_some() => Ok(()),
        other => other,
    }
}

/// Lists the routes of a family that pass the filter.
pub fn list(socket: &mut Socket, family: Family, filter: Filter) -> Result<Vec<Route>, Error> {
    let mut routes = Vec::new();
    visit(socket, family, filter, |route| routes.push(route))?;
    Ok(routes)
}

/// What the kernel would do with a packet now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// `rtm_type` of the route it finds, one of `RTN_*`.
    pub kind: u8,
    /// The interface it would leave by.
    pub interface: Option<u32>,
    /// The gateway it would be handed to, of the address's family.
    pub gateway: Option<IpAddr>,
}

/// Asks the kernel for its way to an address; `device` is the interface that it must leave by, if any. No way at all is
/// an error, `ENETUNREACH` mostly.
pub fn way_to(socket: &mut Socket, addr: IpAddr, device: Option<u32>) -> Result<Option<Way>, Error> {
    let prefix = Prefix::host(addr);
    let report = socket.request(RTM_GETROUTE, 0, |w| {
        w.raw(&[af(prefix.family()), prefix.len(), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).attr_ip(RTA_DST, addr);
        if let Some(device) = device {
            w.attr_u32(RTA_OIF, device);
        }
    })?;
    let way = |payload: &[u8]| {
        let interface = Attrs::after(payload, RTMSG).find_kind(RTA_OIF).and_then(super::Attr::u32);
        let gateway = Attrs::after(payload, RTMSG).find_kind(RTA_GATEWAY).and_then(super::Attr::ip);
        Some(Way { kind: *payload.get(TYPE_AT)?, interface, gateway })
    };
    Ok(report.replies.first().and_then(|(_, _, payload)| way(payload)))
}

/// Addresses for documentation (RFC 5737, RFC 3849): only a default route leads there.
pub const FAR: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// The gateways that packets without a better way take, of both families.
pub fn default_gateways(socket: &mut Socket) -> Vec<IpAddr> {
    FAR.into_iter().filter_map(|addr| way_to(socket, addr, None).ok().flatten()?.gateway).collect()
}

fn dump_header(w: &mut Writer<'_>, family: Family, filter: Filter) {
    w.raw(&[af(family), 0, 0, 0, 0, filter.protocol.unwrap_or(0), 0, 0, 0, 0, 0, 0]);
    if let Some(table) = filter.table {
        w.attr_u32(RTA_TABLE, table);
    }
}

/// How a route is written. A route is identified by its prefix, table and metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Fails with `EEXIST` when there is a route with the same identity, whoever made it.
    Create,
    /// Changes the route that is there, whoever made it; fails with `ENOENT` when there is none.
    Change,
    /// Creates or changes.
    Replace,
    /// Adds beside others of the same identity.
    Append,
}

impl Mode {
    const fn flags(self) -> u16 {
        match self {
            Self::Create => NLM_F_CREATE | NLM_F_EXCL,
            Self::Change => NLM_F_REPLACE,
            Self::Replace => NLM_F_CREATE | NLM_F_REPLACE,
            Self::Append => NLM_F_CREATE | NLM_F_APPEND,
        }
    }
}

/// What names a route to be written or deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The destination.
    pub prefix: Prefix,
    /// The table.
    pub table: u32,
    /// The protocol number that marks it as ours. When deleting, 0 matches any.
    pub protocol: u8,
    /// The metric. 0 is 1024 to IPv6 when writing, and matches any when deleting.
    pub metric: u32,
}

/// Where a written route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// To a next-hop object.
    Object(u32),
    /// Through gateways with weights, inline.
    Via(&'a [(Via, u16)]),
    /// Straight onto a device (`scope link`).
    Device(u32),
    /// Nowhere.
    Blackhole,
}

impl Target<'_> {
    const fn kind(self) -> RouteKind {
        match self {
            Self::Blackhole => RouteKind::Blackhole,
            _ => RouteKind::Unicast,
        }
    }
}

/// Appends a message that writes a route.
pub fn push(batch: &mut Batch, key: &Key, target: Target<'_>, mode: Mode) -> usize {
    let scope = match target {
        Target::Device(_) if key.prefix.family() == Family::Ipv4 => libc::RT_SCOPE_LINK,
        _ => libc::RT_SCOPE_UNIVERSE,
    };
    batch.add(RTM_NEWROUTE, mode.flags(), |w| {
        let onlink = match target {
            Target::Via([(via, _)]) if via.onlink => RTNH_F_ONLINK,
            _ => 0,
        };
        header(w, key, scope, target.kind(), onlink);
        match target {
            Target::Object(id) => {
                w.attr_u32(RTA_NH_ID, id);
            }
            Target::Device(ifindex) => {
                w.attr_u32(RTA_OIF, ifindex);
            }
            Target::Via([(via, _)]) => {
                w.attr_u32(RTA_OIF, via.ifindex);
                gateway(w, key.prefix.family(), via.gateway);
            }
            Target::Via(hops) => {
                w.nest_bare(RTA_MULTIPATH, |w| multipath(w, key.prefix.family(), hops));
            }
            Target::Blackhole => {}
        }
    })
}

/// Appends a message that deletes a route: only one with this protocol (unless 0) and metric (unless 0), and only on
/// this device if one is given.
pub fn push_delete(batch: &mut Batch, key: &Key, kind: RouteKind, device: Option<u32>) -> usize {
    batch.add(RTM_DELROUTE, 0, |w| {
        // RT_SCOPE_NOWHERE matches any scope.
        header(w, key, libc::RT_SCOPE_NOWHERE, kind, 0);
        if let Some(ifindex) = device {
            w.attr_u32(RTA_OIF, ifindex);
        }
    })
}

fn header(w: &mut Writer<'_>, key: &Key, scope: u8, kind: RouteKind, flags: u32) {
    let table = u8::try_from(key.table).unwrap_or(0); // RT_TABLE_UNSPEC: see the attribute
    let [f0, f1, f2, f3] = flags.to_ne_bytes();
    let family = af(key.prefix.family());
    let len = key.prefix.len();
    w.raw(&[family, len, 0, 0, table, key.protocol, scope, kind.value(), f0, f1, f2, f3]);
    w.attr_ip(RTA_DST, key.prefix.addr());
    if table == 0 {
        w.attr_u32(RTA_TABLE, key.table);
    }
    if key.metric != 0 {
        w.attr_u32(RTA_PRIORITY, key.metric);
    }
}

/// A gateway of the route's own family, or of the other (`RTA_VIA`: RFC 8950).
fn gateway(w: &mut Writer<'_>, family: Family, gateway: IpAddr) {
    if Family::of(gateway) == family {
        w.attr_ip(RTA_GATEWAY, gateway);
        return;
    }
    let mut via = Vec::with_capacity(18);
    via.extend_from_slice(&u16::from(af(Family::of(gateway))).to_ne_bytes());
    match gateway {
        IpAddr::V4(a) => via.extend_from_slice(&a.octets()),
        IpAddr::V6(a) => via.extend_from_slice(&a.octets()),
    }
    w.attr(RTA_VIA, &via);
}

fn multipath(w: &mut Writer<'_>, family: Family, hops: &[(Via, u16)]) {
    for (via, weight) in hops {
        let mut attrs = Vec::with_capacity(24);
        gateway(&mut Writer::new(&mut attrs), family, via.gateway);
        let [l0, l1] = ((RTNEXTHOP + attrs.len()) as u16).to_ne_bytes();
        let [i0, i1, i2, i3] = via.ifindex.to_ne_bytes();
        let flags = if via.onlink { RTNH_F_ONLINK as u8 } else { 0 };
        w.raw(&[l0, l1, flags, (weight.clamp(&1, &256) - 1) as u8, i0, i1, i2, i3]).raw(&attrs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{addr, link, nexthop, ns::testing};

    fn key(prefix: &str) -> Key {
        Key { prefix: prefix.parse().unwrap(), table: TABLE_MAIN, protocol: 32, metric: 1024 }
    }

    #[test]
    fn every_target_is_written_and_read_back() {
        testing::private(|| {
            let mut socket = Socket::route().unwrap();
            link::create_veth(&mut socket, "va", "vb", None).unwrap();
            let dev = link::by_name(&mut socket, "va").unwrap().index;
            let peer = link::by_name(&mut socket, "vb").unwrap().index;
            link::set_up(&mut socket, dev).unwrap();
            link::set_up(&mut socket, peer).unwrap();
            addr::add(&mut socket, dev, "192.0.2.0".parse().unwrap(), 29).unwrap();
            addr::add(&mut socket, dev, "2001:db8::1".parse().unwrap(), 64).unwrap();
            let via = |g: &str, onlink| Via { gateway: g.parse().unwrap(), ifindex: dev, onlink };
            let one = [(via("192.0.2.1", false), 1)];
            let onlink = [(via("198.51.100.1", true), 1)];
            let two = [(via("192.0.2.1", false), 3), (via("192.0.2.2", false), 256)];
            let other_family = [(via("fe80::1", false), 1)];
            let mixed = [(via("192.0.2.1", false), 1), (via("fe80::1", false), 1)];
            let six = [(via("2001:db8::2", false), 1), (via("fe80::1", false), 2)];
            let mut batch = Batch::new();
            nexthop::push_via(&mut batch, 5, 32, &two[0].0, nexthop::Mode::Create);
            nexthop::push_group(&mut batch, 6, 32, &[(5, 1)], nexthop::Mode::Create);
            let cases: [(&str, Target<'_>); 10] = [
                ("10.0.0.1/32", Target::Object(6)),
                ("10.0.0.2/32", Target::Via(&one)),
                ("10.0.0.3/32", Target::Via(&onlink)),
                ("10.0.0.4/32", Target::Via(&two)),
                ("10.0.0.5/32", Target::Via(&other_family)),
                ("10.0.0.6/32", Target::Via(&mixed)),
                ("10.0.0.7/32", Target::Device(dev)),
                ("10.0.1.0/24", Target::Blackhole),
                ("fd00::1/128", Target::Via(&six)),
                ("fd00::/64", Target::Blackhole),
            ];
            for (prefix, target) in cases {
                push(&mut batch, &key(prefix), target, Mode::Create);
            }
            push(&mut batch, &Key { table: 1000, ..key("0.0.0.0/0") }, Target::Via(&one), Mode::Create);
            socket.execute(&mut batch).unwrap();

            let ours = Filter { table: Some(TABLE_MAIN), protocol: Some(32) };
            let mut found = list(&mut socket, Family::Ipv4, ours).unwrap();
            found.extend(list(&mut socket, Family::Ipv6, ours).unwrap());
            assert_eq!(found.len(), cases.len());
            for (prefix, target) in cases {
                let route = found.iter().find(|r| r.prefix.to_string() == prefix).unwrap();
                assert_eq!((route.metric, route.protocol, route.table), (1024, 32, TABLE_MAIN));
                assert_eq!(route.kind, target.kind(), "{prefix}");
                assert_eq!(route.is_on_link(), matches!(target, Target::Device(_)), "{prefix}");
                match target {
                    Target::Object(id) => assert_eq!(route.nexthop_id, Some(id)),
                    Target::Via(hops) => {
                        let mut read: Vec<_> =
                            route.hops.iter().map(|h| (h.gateway, h.ifindex, h.weight)).collect();
                        let mut written: Vec<_> =
                            hops.iter().map(|(v, w)| (Some(v.gateway), v.ifindex, *w)).collect();
                        read.sort_unstable();
                        written.sort_unstable();
                        assert_eq!(read, written, "{prefix}");
                    }
                    Target::Device(dev) => assert_eq!(route.hops[0].ifindex, dev),
                    Target::Blackhole => {}
                }
            }
            let far = Filter { table: Some(1000), protocol: None };
            assert_eq!(list(&mut socket, Family::Ipv4, far).unwrap().len(), 1);
            assert_eq!(list(&mut socket, Family::Ipv4, Filter { table: Some(1001), ..far }).unwrap(), []);
            assert_eq!(list(&mut socket, Family::Ipv6, Filter { table: Some(1001), ..far }).unwrap(), []);

            // Exclusive creation sees routes of others; changing needs one; deletion minds the protocol.
            let foreign = Key { protocol: 4, ..key("10.0.9.0/24") };
            let mut batch = Batch::new();
            push(&mut batch, &foreign, Target::Blackhole, Mode::Create);
            push(&mut batch, &key("10.0.9.0/24"), Target::Object(6), Mode::Create);
            push(&mut batch, &key("10.0.8.0/24"), Target::Object(6), Mode::Change);
            push_delete(&mut batch, &key("10.0.9.0/24"), RouteKind::Blackhole, None);
            push_delete(&mut batch, &key("10.0.0.7/32"), RouteKind::Unicast, Some(dev + 1000));
            push_delete(&mut batch, &key("10.0.0.7/32"), RouteKind::Unicast, Some(dev));
            push(&mut batch, &key("10.0.0.1/32"), Target::Via(&one), Mode::Change);
            let errors = socket.transact(&mut batch).unwrap().errors;
            let failed: Vec<_> = errors.iter().map(|e| (e.index, e.errno)).collect();
            assert_eq!(
                failed,
                [(1, libc::EEXIST), (2, libc::ENOENT), (3, libc::ESRCH), (4, libc::ESRCH)],
                "{errors:?}"
            );
        });
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics(payload: Vec<u8>) {
            let _ = Route::parse(&payload);
            let _ = nexthop::Object::parse(&payload);
            let _ = link::Link::parse(&payload);
            let _ = addr::Address::parse(&payload);
            let _ = crate::netlink::neigh::Neighbour::parse(&payload);
        }
    }
}
