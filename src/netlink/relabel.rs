//! Giving routes another protocol number, in place: no packet sees a moment without them.

use netlink_packet_core::NLM_F_REPLACE;

use super::{
    Attrs, Batch, Error, RawMessage, Socket, Writer,
    nexthop::RTNH_F_ONLINK,
    route::{
        RTA_DST, RTA_GATEWAY, RTA_MULTIPATH, RTA_NH_ID, RTA_OIF, RTA_PREFSRC, RTA_PRIORITY, RTA_TABLE,
        RTA_VIA, RTM_GETROUTE, RTM_NEWROUTE, RTMSG, RTNEXTHOP, Route,
    },
};
use crate::{model::Family, netlink::addr::af};

/// `RTA_METRICS` of linux/rtnetlink.h: the MTU and the like of a route.
const RTA_METRICS: u16 = 8;
/// `RT_TABLE_LOCAL`: the host's addresses, which are nobody's to route.
const RT_TABLE_LOCAL: u32 = 255;
/// Messages a send.
const CHUNK: usize = 1024;

/// Gives all routes with protocol number `from`, of both families and in every table, the number `to`; everything
/// else about them stays. The answer is how many were changed. Routes that vanish meanwhile are passed over; another
/// refusal is an error, after all others were tried.
pub fn relabel(socket: &mut Socket, from: u8, to: u8) -> Result<usize, Error> {
    let mut changed = 0;
    for family in Family::ALL {
        let routes = with_protocol(socket, family, from)?;
        for chunk in routes.chunks(CHUNK) {
            let mut batch = Batch::new();
            for payload in chunk {
                batch.add(RTM_NEWROUTE, NLM_F_REPLACE, |w| write(w, payload, to));
            }
            let report = socket.transact(&mut batch)?;
            changed += chunk.len() - report.errors.len();
            // Gone since it was read, with its link for instance.
            let gone = [libc::ENOENT, libc::ESRCH, libc::ENODEV, libc::ENETDOWN];
            if let Some(error) = report.errors.into_iter().find(|e| !gone.contains(&e.errno)) {
                return Err(Error::Kernel(error));
            }
        }
    }
    Ok(changed)
}

/// The messages about the routes of a family that have this protocol number.
fn with_protocol(socket: &mut Socket, family: Family, protocol: u8) -> Result<Vec<Vec<u8>>, Error> {
    socket.dump(
        RTM_GETROUTE,
        |w| {
            w.raw(&[af(family), 0, 0, 0, 0, protocol, 0, 0, 0, 0, 0, 0]);
        },
        |m: &RawMessage<'_>| {
            // Again here, for kernels that ignore the filter.
            let ours = |r: Route| r.protocol == protocol && r.table != RT_TABLE_LOCAL;
            let take = m.kind == RTM_NEWROUTE && Route::parse(m.payload).is_some_and(ours);
            Ok(take.then(|| m.payload.to_vec()))
        },
    )
}

/// Writes the message that a route was read from, as one that sets it, with another protocol number.
fn write(w: &mut Writer<'_>, payload: &[u8], protocol: u8) {
    let Some(header) = payload.first_chunk::<RTMSG>() else { return };
    let mut header = *header;
    header[5] = protocol;
    // What the kernel says about the state of the next hop is not for it to be told.
    let onlink = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]) & RTNH_F_ONLINK;
    header[8..].copy_from_slice(&onlink.to_ne_bytes());
    w.raw(&header);
    // Beside an object the kernel also shows where it leads, and takes only one of the two.
    let object = Attrs::after(payload, RTMSG).any(|a| a.kind == RTA_NH_ID);
    for attr in Attrs::after(payload, RTMSG) {
        match attr.kind {
            RTA_DST | RTA_TABLE | RTA_PRIORITY | RTA_PREFSRC | RTA_METRICS | RTA_NH_ID => {
                w.attr(attr.kind, attr.data);
            }
            RTA_OIF | RTA_GATEWAY | RTA_VIA if !object => {
                w.attr(attr.kind, attr.data);
            }
            RTA_MULTIPATH if !object => {
                w.attr(attr.kind, &without_state(attr.data));
            }
            _ => {}
        }
    }
}

/// A list of `struct rtnexthop` without the flags that tell a next hop's state.
fn without_state(list: &[u8]) -> Vec<u8> {
    let mut list = list.to_vec();
    let mut at = 0;
    while let Some(&[l0, l1, ..]) = list.get(at..).and_then(<[u8]>::first_chunk::<RTNEXTHOP>) {
        list[at + 2] &= RTNH_F_ONLINK as u8;
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        if len < RTNEXTHOP {
            break;
        }
        at += super::align4(len);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{
        addr, link,
        nexthop::{self, Via},
        ns::testing,
        route::{self, Filter, Key, Mode, TABLE_MAIN, Target},
    };

    fn all(socket: &mut Socket, protocol: u8) -> Vec<Route> {
        let filter = Filter { table: None, protocol: Some(protocol) };
        let list = |f| route::list(socket, f, filter).unwrap();
        let mut routes: Vec<_> = Family::ALL.map(list).into_iter().flatten().collect();
        routes.sort_by_key(|r| (r.prefix, r.table, r.metric));
        routes
    }

    #[test]
    fn only_the_number_changes_and_only_of_the_routes_meant() {
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
            let onlink = [(via("198.51.100.1", true), 1)];
            let two = [(via("192.0.2.1", false), 3), (via("192.0.2.2", false), 256)];
            let mixed = [(via("192.0.2.1", false), 1), (via("fe80::1", false), 1)];
            let six = [(via("2001:db8::2", false), 1), (via("fe80::1", false), 2)];
            let mut batch = Batch::new();
            nexthop::push_via(&mut batch, 5, 32, &two[0].0, nexthop::Mode::Create);
            nexthop::push_group(&mut batch, 6, 32, &[(5, 1)], nexthop::Mode::Create);
            nexthop::push_via(&mut batch, 7, 32, &via("2001:db8::2", false), nexthop::Mode::Create);
            let key = |prefix: &str, table, protocol, metric| Key {
                prefix: prefix.parse().unwrap(),
                table,
                protocol,
                metric,
            };
            let cases: [(Key, Target<'_>); 12] = [
                (key("10.0.0.1/32", TABLE_MAIN, 32, 1024), Target::Object(6)),
                (key("10.0.0.2/32", TABLE_MAIN, 32, 1024), Target::Via(&onlink)),
                (key("10.0.0.3/32", 7000, 32, 7), Target::Via(&two)),
                (key("10.0.0.4/32", TABLE_MAIN, 32, 1024), Target::Via(&mixed)),
                (key("10.0.0.5/32", TABLE_MAIN, 32, 1), Target::Device(dev)),
                (key("10.0.1.0/24", TABLE_MAIN, 32, 1024), Target::Blackhole),
                (key("fd00::1/128", TABLE_MAIN, 32, 1024), Target::Via(&six)),
                (key("fd00::2/128", 100, 32, 1024), Target::Object(7)),
                (key("fd00::3/128", TABLE_MAIN, 32, 1), Target::Device(dev)),
                (key("fd00::/64", TABLE_MAIN, 32, 1024), Target::Blackhole),
                // Not to be touched: others' routes.
                (key("10.0.0.1/32", TABLE_MAIN, 33, 7), Target::Object(6)),
                (key("fd00::1/128", TABLE_MAIN, 33, 7), Target::Device(dev)),
            ];
            for (key, target) in &cases {
                route::push(&mut batch, key, *target, Mode::Create);
            }
            socket.execute(&mut batch).unwrap();
            let (before, others) = (all(&mut socket, 32), all(&mut socket, 33));
            assert_eq!((before.len(), others.len()), (10, 2));
            assert_eq!(relabel(&mut socket, 32, 77).unwrap(), 10);
            assert_eq!(all(&mut socket, 32), []);
            assert_eq!(all(&mut socket, 33), others);
            let expected: Vec<_> = before.into_iter().map(|r| Route { protocol: 77, ..r }).collect();
            assert_eq!(all(&mut socket, 77), expected);
            assert_eq!(relabel(&mut socket, 32, 77).unwrap(), 0);
        });
    }
}
