//! What the FIB asks of the kernel: reading, and writing in batches. The real one is netlink; tests have another.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use super::FibConfig;
use crate::{
    model::{Family, Prefix},
    netlink::{
        Batch, Error, KernelError, Socket,
        addr::{self, Address},
        feature,
        link::{self, Link},
        neigh::{self, Neighbour},
        nexthop::{self, Via},
        route::{self, Filter, Mode, Route, RouteKind},
    },
};

/// One message to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Creates or changes a next-hop object.
    Hop {
        /// Its id.
        id: u32,
        /// What it is.
        via: Via,
    },
    /// Creates or changes a next-hop group.
    Group {
        /// Its id.
        id: u32,
        /// Ids of objects and their weights.
        members: Vec<(u32, u16)>,
    },
    /// Deletes a next-hop object or group and every route that refers to it.
    DropObject {
        /// Its id.
        id: u32,
    },
    /// Writes a learned or blackhole route.
    Route {
        /// The destination.
        prefix: Prefix,
        /// Where it leads.
        way: Way,
        /// Whether it must be new or must exist.
        mode: Mode,
    },
    /// Deletes a route of ours, of this metric.
    DropRoute {
        /// The destination.
        prefix: Prefix,
        /// The metric.
        metric: u32,
    },
    /// Creates the route to a container.
    Local {
        /// The container's address.
        prefix: Prefix,
        /// The host end.
        ifindex: u32,
    },
    /// Deletes the route of ours to a container on a device.
    DropLocal {
        /// The container's address.
        prefix: Prefix,
        /// The host end.
        ifindex: u32,
        /// The metric, 0 for any.
        metric: u32,
    },
    /// Gives a host end the address that is its container's IPv6 gateway.
    Gateway {
        /// The host end.
        ifindex: u32,
        /// The link-local address.
        addr: Ipv6Addr,
    },
    /// Deletes a route of our protocol that is not as we write them.
    DropLeftover(Leftover),
    /// Asks for a neighbour.
    Probe {
        /// The device.
        ifindex: u32,
        /// The neighbour.
        addr: IpAddr,
    },
}

/// A route of our protocol number that is not as we write them: from an earlier configuration, or by somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// The destination.
    pub prefix: Prefix,
    /// The table.
    pub table: u32,
    /// The metric.
    pub metric: u32,
    /// What it does.
    pub kind: RouteKind,
    /// The device of a route that leads straight onto it.
    pub ifindex: Option<u32>,
}

/// Where a route leads, as the kernel is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// To a next-hop object.
    Object(u32),
    /// Through gateways.
    Via(Vec<(Via, u16)>),
    /// Nowhere.
    Blackhole,
}

/// See [`Kernel::alarm`].
pub type Alarm = Box<dyn FnMut() -> bool>;

/// How often an alarm looks at its links.
const GLANCE: Duration = Duration::from_millis(20);

/// A kernel to read and write.
pub trait Kernel {
    /// Whether it has next-hop objects.
    fn has_objects(&mut self) -> Result<bool, Error>;
    /// All links.
    fn links(&mut self) -> Result<Vec<Link>, Error>;
    /// A link as it is now, after the kernel has looked at its carrier; none when it is gone.
    fn link(&mut self, ifindex: u32) -> Result<Option<Link>, Error>;
    /// Something that tells, when asked now and then, whether one of these links, which run, has lost its carrier.
    fn alarm(&mut self, links: &[u32]) -> Alarm;
    /// All addresses.
    fn addresses(&mut self) -> Result<Vec<Address>, Error>;
    /// All neighbours.
    fn neighbours(&mut self) -> Result<Vec<Neighbour>, Error>;
    /// All next-hop objects.
    fn objects(&mut self) -> Result<Vec<nexthop::Object>, Error>;
    /// One next-hop object.
    fn object(&mut self, id: u32) -> Result<Option<nexthop::Object>, Error>;
    /// The routes of a family that pass a filter. `each` answers whether to go on; when it does not, the result is
    /// [`Error::Interrupted`].
    fn routes(
        &mut self,
        family: Family,
        filter: Filter,
        each: &mut dyn FnMut(Route) -> bool,
    ) -> Result<(), Error>;
    /// Executes the operations in order, each for itself; answers those that failed. An `Err` leaves the outcome
    /// unknown.
    fn write(&mut self, config: &FibConfig, ops: &[Op]) -> Result<Vec<KernelError>, Error>;
}

/// The kernel of a network namespace, through netlink.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    /// For long lists of routes: a list that is not read to its end makes a socket useless.
    reader: Option<Socket>,
    batch: Batch,
}

impl Netlink {
    /// The kernel behind a routing socket.
    pub fn new(socket: Socket) -> Self {
        Self { socket, reader: None, batch: Batch::new() }
    }

    /// The socket's port, to leave our own changes out of the notifications.
    pub fn port(&self) -> Result<u32, Error> {
        self.socket.port()
    }
}

impl Kernel for Netlink {
    fn has_objects(&mut self) -> Result<bool, Error> {
        feature::nexthop_objects(&mut self.socket)
    }

    fn links(&mut self) -> Result<Vec<Link>, Error> {
        link::list(&mut self.socket)
    }

    fn link(&mut self, ifindex: u32) -> Result<Option<Link>, Error> {
        match link::by_index(&mut self.socket, ifindex) {
            Ok(link) => Ok(Some(link)),
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn alarm(&mut self, links: &[u32]) -> Alarm {
        // The socket that reads meanwhile is busy with its list.
        let Ok(mut socket) = Socket::route() else { return Box::new(|| false) };
        let (links, mut last) = (links.to_vec(), Instant::now());
        Box::new(move || {
            if last.elapsed() < GLANCE {
                return false;
            }
            let lost = links.iter().any(|i| !link::by_index(&mut socket, *i).is_ok_and(|l| l.is_running()));
            last = Instant::now();
            lost
        })
    }

    fn addresses(&mut self) -> Result<Vec<Address>, Error> {
        addr::list(&mut self.socket)
    }

    fn neighbours(&mut self) -> Result<Vec<Neighbour>, Error> {
        neigh::list(&mut self.socket)
    }

    fn objects(&mut self) -> Result<Vec<nexthop::Object>, Error> {
        nexthop::list(&mut self.socket)
    }

    fn object(&mut self, id: u32) -> Result<Option<nexthop::Object>, Error> {
        nexthop::fetch(&mut self.socket, id)
    }

    fn routes(
        &mut self,
        family: Family,
        filter: Filter,
        each: &mut dyn FnMut(Route) -> bool,
    ) -> Result<(), Error> {
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => Socket::route()?,
        };
        route::visit_while(&mut reader, family, filter, each)?;
        self.reader = Some(reader);
        Ok(())
    }

    fn write(&mut self, config: &FibConfig, ops: &[Op]) -> Result<Vec<KernelError>, Error> {
        self.batch.clear();
        for op in ops {
            encode(&mut self.batch, config, op);
        }
        Ok(self.socket.transact(&mut self.batch)?.errors)
    }
}

fn encode(batch: &mut Batch, config: &FibConfig, op: &Op) {
    let key = |prefix: &Prefix, metric| route::Key {
        prefix: *prefix,
        table: config.table,
        protocol: config.protocol,
        metric,
    };
    match op {
        Op::Hop { id, via } => nexthop::push_via(batch, *id, config.protocol, via, nexthop::Mode::Replace),
        Op::Group { id, members } => {
            nexthop::push_group(batch, *id, config.protocol, members, nexthop::Mode::Replace)
        }
        Op::DropObject { id } => nexthop::push_delete(batch, *id),
        Op::Route { prefix, way, mode } => {
            let target = match way {
                Way::Object(id) => route::Target::Object(*id),
                Way::Via(hops) => route::Target::Via(hops),
                Way::Blackhole => route::Target::Blackhole,
            };
            route::push(batch, &key(prefix, config.metric), target, *mode)
        }
        Op::DropRoute { prefix, metric } => {
            route::push_delete(batch, &key(prefix, *metric), RouteKind::Other(0), None)
        }
        Op::Local { prefix, ifindex } => {
            let target = route::Target::Device(*ifindex);
            route::push(batch, &key(prefix, config.local_metric), target, Mode::Create)
        }
        Op::DropLocal { prefix, ifindex, metric } => {
            route::push_delete(batch, &key(prefix, *metric), RouteKind::Unicast, Some(*ifindex))
        }
        Op::Gateway { ifindex, addr } => addr::push_add_alone(batch, *ifindex, (*addr).into()),
        Op::DropLeftover(Leftover { prefix, table, metric, kind, ifindex }) => {
            let key =
                route::Key { prefix: *prefix, table: *table, protocol: config.protocol, metric: *metric };
            route::push_delete(batch, &key, *kind, *ifindex)
        }
        Op::Probe { ifindex, addr } => neigh::push_probe(batch, *ifindex, *addr),
    };
}
