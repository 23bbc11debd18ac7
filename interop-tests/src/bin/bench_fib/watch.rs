//! Looks at a kernel's routes from outside of its routers: when all are there, and when none uses a gateway any more.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use slash32::{
    model::Family,
    netlink::{
        Socket,
        ns::Netns,
        route::{self, Filter, Route, TABLE_MAIN},
    },
};

use super::feed;

/// `RTM_GETROUTE` and `RTM_F_FIB_MATCH` of linux/rtnetlink.h: which route a packet would take, and all of it.
const RTM_GETROUTE: u16 = 26;
const FIB_MATCH: u32 = 0x2000;
const RTA_DST: u16 = 1;
/// The same on every architecture of Linux.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `RTNH_F_DEAD`: the kernel does not use this hop of a multipath route.
const DEAD: u32 = 1;
/// Between two looks at a route that still leads to the dead gateway.
const GLANCE: Duration = Duration::from_micros(100);
/// Asked one by one; everything is counted at the end.
const SAMPLES: u32 = 1000;

pub(super) struct Watch {
    socket: Socket,
    family: Family,
    limit: Duration,
}

impl Watch {
    /// In the network namespace of a machine, for the routes of one family.
    pub(super) fn open(ns: &Netns, family: Family, limit: Duration) -> Result<Self> {
        Ok(Self { socket: ns.run(Socket::route)??, family, limit })
    }

    /// Waits until the first `count` routes are in the kernel; the instant of the last.
    pub(super) fn present(&mut self, count: u32) -> Result<Instant> {
        self.wait(count, "routes to come", |routes| routes.is_some())?;
        loop {
            // Counting takes a while: the time before it is the one meant.
            let at = Instant::now();
            let found = self.count(|_| true)?;
            if found >= count {
                return Ok(at);
            }
        }
    }

    /// Waits until none of the first `count` routes leads through a device; the instant at which one did so last,
    /// to a few tenths of a millisecond, however many routes there are to look through.
    pub(super) fn left(&mut self, count: u32, device: u32) -> Result<Instant> {
        let deadline = Instant::now() + self.limit;
        let step = (count / SAMPLES).max(1);
        let mut last = Instant::now();
        loop {
            for number in (0..count).step_by(step as usize).chain(count.checked_sub(1)) {
                while self
                    .lookup(feed::address(self.family, number))?
                    .is_some_and(|route| uses(&route, device))
                {
                    last = Instant::now();
                    ensure!(last < deadline, "waited too long for route {number} of {count} to leave");
                    std::thread::sleep(GLANCE);
                }
            }
            // Between the samples.
            let before = Instant::now();
            if self.count(|route| uses(route, device))? == 0 {
                return Ok(last);
            }
            last = before;
        }
    }

    /// How many of the routes fulfil a condition.
    pub(super) fn count(&mut self, mut which: impl FnMut(&Route) -> bool) -> Result<u32> {
        let mut found = 0;
        let filter = Filter { table: Some(TABLE_MAIN), protocol: None };
        route::visit(&mut self.socket, self.family, filter, |route| {
            found += u32::from(feed::is_one(route.prefix) && which(&route));
        })?;
        Ok(found)
    }

    fn wait(&mut self, count: u32, what: &str, done: impl Fn(Option<&Route>) -> bool) -> Result<()> {
        let deadline = Instant::now() + self.limit;
        let step = (count / SAMPLES).max(1);
        let mut number = 0;
        while number < count {
            let route = self.lookup(feed::address(self.family, number))?;
            if done(route.as_ref()) {
                // The last one always.
                number = if number + 1 < count { (number + step).min(count - 1) } else { count };
            } else {
                ensure!(Instant::now() < deadline, "waited too long for {what} (at {number} of {count})");
                std::thread::sleep(Duration::from_micros(500));
            }
        }
        Ok(())
    }

    /// The route of an address alone.
    fn lookup(&mut self, addr: IpAddr) -> Result<Option<Route>> {
        let (family, octets) = match addr {
            IpAddr::V4(a) => (AF_INET, a.octets().to_vec()),
            IpAddr::V6(a) => (AF_INET6, a.octets().to_vec()),
        };
        let mut header = [0; 12];
        header[0] = family;
        header[1] = self.family.bits();
        header[8..12].copy_from_slice(&FIB_MATCH.to_ne_bytes());
        let report = self.socket.request(RTM_GETROUTE, 0, |w| {
            w.raw(&header).attr(RTA_DST, &octets);
        });
        match report {
            Ok(report) => {
                let (_, _, payload) = report.replies.first().context("the kernel answers with a route")?;
                Ok(Route::parse(payload).filter(|r| r.prefix.is_host()))
            }
            // No route, or a blackhole.
            Err(error) if error.errno().is_some() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn uses(route: &Route, device: u32) -> bool {
    route.hops.iter().any(|hop| hop.ifindex == device && hop.flags & DEAD == 0)
}
