//! A kernel made of maps, with the kernel's manners: silent flushes, groups that shrink, exclusive creation; and
//! with faults on demand.

use std::collections::{BTreeMap, VecDeque};

use smallvec::SmallVec;

use super::{Alarm, FibConfig, Kernel, Op, Way};
use crate::{
    model::{Family, Prefix},
    netlink::{
        Error, KernelError,
        addr::Address,
        link::Link,
        neigh::Neighbour,
        nexthop::{Kind, Object, Via},
        route::{Filter, Hop, Mode, Route, RouteKind, TABLE_MAIN},
        watch::KernelEvent,
    },
};

/// The protocol of connected routes (`RTPROT_KERNEL`).
const KERNEL: u8 = 2;
/// The protocol of the routes that [`Fake::write_foreign`] writes (`RTPROT_STATIC`).
pub const STATIC: u8 = 4;

/// What goes wrong with one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Everything is executed, and the answer is lost.
    LostAnswer,
    /// Half is executed, and the answer is lost.
    HalfDone,
    /// Every message is refused for want of memory.
    NoMemory,
}

/// A link with its connected network.
#[derive(Clone, Debug)]
struct FakeLink {
    up: bool,
    connected: Prefix,
}

/// A kernel made of maps.
#[derive(Debug, Default)]
pub struct Fake {
    links: BTreeMap<u32, FakeLink>,
    objects: BTreeMap<u32, Object>,
    /// By prefix and metric, which identify a route.
    routes: BTreeMap<(Prefix, u32), Route>,
    events: VecDeque<KernelEvent>,
    fault: Option<Fault>,
    /// Messages handled.
    pub log: Vec<Op>,
}

impl Fake {
    /// Adds a running link with a connected network.
    pub fn add_link(&mut self, ifindex: u32, connected: Prefix) {
        self.links.insert(ifindex, FakeLink { up: false, connected });
        self.set_link(ifindex, true);
    }

    fn state_of(&self, ifindex: u32) -> Option<Link> {
        let link = self.links.get(&ifindex)?;
        let flags = if link.up { libc::IFF_UP as u32 | 1 << 16 } else { 0 };
        Some(Link {
            index: ifindex,
            name: format!("up{ifindex}"),
            flags,
            mtu: 1500,
            oper_state: 6,
            ..Link::default()
        })
    }

    /// Sets a link up or down, with all that the kernel does then.
    pub fn set_link(&mut self, ifindex: u32, up: bool) {
        let Some(link) = self.links.get_mut(&ifindex) else { return };
        if link.up == up {
            return;
        }
        link.up = up;
        let connected = link.connected;
        if up {
            let link = self.state_of(ifindex).unwrap();
            self.events.push_back(KernelEvent::Link(link));
            let hop = Hop { gateway: None, ifindex, weight: 1, flags: 0 };
            self.put(new_route(connected, KERNEL, 0, RouteKind::Unicast, &[hop]), false);
            return;
        }
        // Routes and next-hop objects go without a word.
        self.routes.retain(|_, r| r.nexthop_id.is_some() || r.hops.iter().all(|h| h.ifindex != ifindex));
        let on = |o: &Object| matches!(&o.kind, Kind::Via(via) if via.ifindex == ifindex);
        let gone: Vec<u32> = self.objects.values().filter(|o| on(o)).map(|o| o.id).collect();
        for id in gone {
            self.drop_object(id, false);
        }
        let link = self.state_of(ifindex).unwrap();
        self.events.push_back(KernelEvent::Link(link));
    }

    fn put(&mut self, route: Route, replaced: bool) {
        self.routes.insert((route.prefix, route.metric), route.clone());
        self.events.push_back(KernelEvent::Route { route, replaced });
    }

    /// Somebody writes a route with our metric; unless `force`, only if there is none.
    pub fn write_foreign(&mut self, prefix: Prefix, metric: u32, force: bool) -> bool {
        let exists = self.routes.contains_key(&(prefix, metric));
        if exists && !force {
            return false;
        }
        self.put(new_route(prefix, STATIC, metric, RouteKind::Blackhole, &[]), exists);
        true
    }

    /// Somebody deletes a route of a protocol.
    pub fn delete(&mut self, prefix: Prefix, metric: u32, protocol: u8) {
        let key = (prefix, metric);
        if self.routes.get(&key).is_some_and(|r| r.protocol == protocol) {
            let route = self.routes.remove(&key).unwrap();
            self.events.push_back(KernelEvent::RouteGone(route));
        }
    }

    /// Somebody deletes the object at a place in the list.
    pub fn delete_object(&mut self, place: usize) {
        if let Some(id) = self.objects.keys().nth(place).copied() {
            self.drop_object(id, true);
        }
    }

    fn drop_object(&mut self, id: u32, tell: bool) -> bool {
        let Some(object) = self.objects.remove(&id) else { return false };
        if tell {
            self.events.push_back(KernelEvent::NextHopGone(object));
        }
        let mut empty = Vec::new();
        for group in self.objects.values_mut() {
            let Kind::Group(members) = &mut group.kind else { continue };
            let before = members.len();
            members.retain(|(member, _)| *member != id);
            if members.is_empty() {
                empty.push(group.id);
            } else if members.len() != before && tell {
                self.events.push_back(KernelEvent::NextHop(group.clone()));
            }
        }
        // IPv4 routes go without a word.
        self.routes.retain(|_, r| r.nexthop_id != Some(id));
        for group in empty {
            self.drop_object(group, tell);
        }
        true
    }

    /// The next notification.
    pub fn event(&mut self) -> Option<KernelEvent> {
        self.events.pop_front()
    }

    /// The receive buffer overflows.
    pub fn lose_events(&mut self) {
        if !self.events.is_empty() {
            self.events.clear();
            self.events.push_back(KernelEvent::Overrun);
        }
    }

    /// The next write goes wrong, or nothing does.
    pub fn fail_next(&mut self, fault: Option<Fault>) {
        self.fault = fault;
    }

    /// The routes of a protocol: prefix and way, with the members of groups spelled out.
    pub fn table(&self, protocol: u8) -> BTreeMap<Prefix, Vec<(Via, u16)>> {
        let of = |r: &Route| {
            let Some(id) = r.nexthop_id else { return Vec::new() };
            let Some(Kind::Group(members)) = self.objects.get(&id).map(|o| &o.kind) else {
                panic!("a route to {id}, which is not there")
            };
            let via = |(id, weight): &(u32, u16)| match self.objects.get(id).map(|o| &o.kind) {
                Some(Kind::Via(via)) => (*via, *weight),
                other => panic!("a member {id} that is {other:?}"),
            };
            let mut ways: Vec<_> = members.iter().map(via).collect();
            ways.sort_unstable();
            ways
        };
        self.routes.values().filter(|r| r.protocol == protocol).map(|r| (r.prefix, of(r))).collect()
    }

    /// How many next-hop objects and groups there are.
    pub fn object_count(&self) -> usize {
        self.objects.len()
    }

    fn execute(&mut self, config: &FibConfig, op: &Op) -> Result<(), i32> {
        self.log.push(op.clone());
        match op {
            Op::Hop { id, via } => {
                if self.links.get(&via.ifindex).is_none_or(|l| !l.up) {
                    return Err(libc::ENETDOWN);
                }
                self.objects
                    .insert(*id, Object { id: *id, protocol: config.protocol, kind: Kind::Via(*via) });
            }
            Op::Group { id, members } => {
                if members.is_empty() || !members.iter().all(|(m, _)| self.objects.contains_key(m)) {
                    return Err(libc::EINVAL);
                }
                let kind = Kind::Group(members.clone());
                self.objects.insert(*id, Object { id: *id, protocol: config.protocol, kind });
            }
            Op::DropObject { id } => {
                if !self.drop_object(*id, false) {
                    return Err(libc::ENOENT);
                }
            }
            Op::Route { prefix, way, mode } => {
                let mut route = new_route(*prefix, config.protocol, config.metric, RouteKind::Unicast, &[]);
                match way {
                    Way::Object(id) if !self.objects.contains_key(id) => return Err(libc::EINVAL),
                    Way::Object(id) => route.nexthop_id = Some(*id),
                    Way::Blackhole => route.kind = RouteKind::Blackhole,
                    Way::Via(hops) => {
                        let hop = |(via, weight): &(Via, u16)| Hop {
                            gateway: Some(via.gateway),
                            ifindex: via.ifindex,
                            weight: *weight,
                            flags: 0,
                        };
                        route.hops = hops.iter().map(hop).collect();
                    }
                }
                let key = (*prefix, config.metric);
                match (mode, self.routes.contains_key(&key)) {
                    (Mode::Create, true) => return Err(libc::EEXIST),
                    (Mode::Change, false) => return Err(libc::ENOENT),
                    _ => drop(self.routes.insert(key, route)),
                }
            }
            Op::DropRoute { prefix, metric } => {
                let key = (*prefix, *metric);
                if self.routes.get(&key).is_none_or(|r| r.protocol != config.protocol) {
                    return Err(libc::ESRCH);
                }
                self.routes.remove(&key);
            }
            Op::DropLeftover(leftover) => {
                let (prefix, metric) = (leftover.prefix, leftover.metric);
                return self.execute(config, &Op::DropRoute { prefix, metric });
            }
            Op::Local { .. } | Op::DropLocal { .. } | Op::Gateway { .. } | Op::Probe { .. } => {}
        }
        Ok(())
    }
}

fn new_route(prefix: Prefix, protocol: u8, metric: u32, kind: RouteKind, hops: &[Hop]) -> Route {
    Route {
        prefix,
        table: TABLE_MAIN,
        protocol,
        scope: 0,
        kind,
        metric,
        nexthop_id: None,
        hops: SmallVec::from_slice(hops),
        source: None,
    }
}

impl Kernel for Fake {
    fn has_objects(&mut self) -> Result<bool, Error> {
        Ok(true)
    }

    fn links(&mut self) -> Result<Vec<Link>, Error> {
        Ok(self.links.keys().filter_map(|i| self.state_of(*i)).collect())
    }

    fn link(&mut self, ifindex: u32) -> Result<Option<Link>, Error> {
        Ok(self.state_of(ifindex))
    }

    fn alarm(&mut self, _links: &[u32]) -> Alarm {
        Box::new(|| false)
    }

    fn addresses(&mut self) -> Result<Vec<Address>, Error> {
        Ok(Vec::new())
    }

    fn neighbours(&mut self) -> Result<Vec<Neighbour>, Error> {
        Ok(Vec::new())
    }

    fn objects(&mut self) -> Result<Vec<Object>, Error> {
        Ok(self.objects.values().cloned().collect())
    }

    fn object(&mut self, id: u32) -> Result<Option<Object>, Error> {
        Ok(self.objects.get(&id).cloned())
    }

    fn routes(
        &mut self,
        family: Family,
        filter: Filter,
        each: &mut dyn FnMut(Route) -> bool,
    ) -> Result<(), Error> {
        let wanted = |r: &&Route| {
            r.prefix.family() == family
                && filter.table.is_none_or(|t| t == r.table)
                && filter.protocol.is_none_or(|p| p == r.protocol)
        };
        if self.routes.values().filter(wanted).cloned().all(each) { Ok(()) } else { Err(Error::Interrupted) }
    }

    fn write(&mut self, config: &FibConfig, ops: &[Op]) -> Result<Vec<KernelError>, Error> {
        let error = |index, errno| KernelError { index, errno, message: None, offset: None };
        let fault = self.fault.take();
        if fault == Some(Fault::NoMemory) {
            return Ok((0..ops.len()).map(|i| error(i, libc::ENOMEM)).collect());
        }
        let count = if fault == Some(Fault::HalfDone) { ops.len() / 2 } else { ops.len() };
        let mut errors = Vec::new();
        for (i, op) in ops.iter().take(count).enumerate() {
            errors.extend(self.execute(config, op).err().map(|errno| error(i, errno)));
        }
        if fault.is_some() { Err(Error::Overrun) } else { Ok(errors) }
    }
}
