//! The driver: a kernel, and what we want of it.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::AtomicUsize},
    time::Instant,
};

use super::{
    Difference, FibConfig, Kernel, Reach,
    state::State,
    status::{RouteFilter, RouteStatus, Summary},
    thread::OwnAddresses,
};
use crate::{
    model::{Family, NextHopSet, Prefix},
    netlink::{Error, watch::KernelEvent},
};

/// The routes of a kernel, wanted and actual.
///
/// Commands ([`Self::set`], [`Self::set_local`] …) and notifications ([`Self::handle_event`]) only note what is
/// wanted or what happened, and queue what they touch; [`Self::step`] writes. First sync, changes, notifications and
/// audits all end in the same queue, and the queue's only question is whether the kernel's route is the wanted one.
#[derive(Debug)]
pub struct Fib<K> {
    kernel: K,
    pub(super) state: State,
}

/// What a step left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Whether there is more to do right now.
    pub more: bool,
    /// When to come back at the latest if nothing else happens.
    pub wakeup: Option<Instant>,
}

impl<K: Kernel> Fib<K> {
    /// Reads the kernel. Routes of ours found there are kept as stale until [`Self::sweep_stale`].
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn new(config: FibConfig, mut kernel: K, now: Instant) -> Result<Self, Error> {
        let objects = config.nexthop_objects && kernel.has_objects()?;
        if config.nexthop_objects && !objects {
            tracing::warn!(
                "this kernel has no next-hop objects (they came with 5.3): routes carry their next hops inline, \
                 and losing a next hop costs one message for every route instead of one in all"
            );
        }
        if !config.nexthop_objects {
            tracing::info!("next-hop objects are switched off: routes carry their next hops inline");
        }
        let mut state = State::new(config, objects);
        let mut attempts = 0;
        loop {
            match state.reconcile(&mut kernel, now) {
                // Others write at the same time.
                Err(Error::DumpInterrupted) if attempts < 20 => attempts += 1,
                Err(error) => return Err(error),
                Ok(()) => return Ok(Self { kernel, state }),
            }
        }
    }

    /// The kernel driven, to look at.
    pub fn kernel(&self) -> &K {
        &self.kernel
    }

    /// The kernel driven.
    pub fn kernel_mut(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// Wants a learned route. A set without next hops is as good as [`Self::remove`].
    pub fn set(&mut self, prefix: Prefix, next_hops: &Arc<NextHopSet>) {
        self.state.set(prefix, next_hops);
    }

    /// No longer wants a learned route.
    pub fn remove(&mut self, prefix: Prefix) {
        self.state.remove(prefix);
    }

    /// Wants the route to a local container: straight onto the device, better than any learned route. One that the
    /// attachment wrote already (same protocol number, table and device) is taken as it is.
    pub fn set_local(&mut self, prefix: Prefix, ifindex: u32) {
        self.state.set_local(prefix, ifindex);
    }

    /// No longer wants the route to a local container.
    pub fn remove_local(&mut self, prefix: Prefix) {
        self.state.remove_local(prefix);
    }

    /// Wants traffic to a prefix dropped unless something more specific is known: the host's own block.
    pub fn set_blackhole(&mut self, prefix: Prefix) {
        self.state.set_blackhole(prefix);
    }

    /// No longer wants traffic to a prefix dropped.
    pub fn remove_blackhole(&mut self, prefix: Prefix) {
        self.state.remove_blackhole(prefix);
    }

    /// Stops using a next hop at once: its session or BFD session failed. Costs one message for each set of next
    /// hops that contains it. An interface of 0 stands for any. Lasts until [`Self::mark_next_hop_up`].
    pub fn mark_next_hop_down(&mut self, gateway: IpAddr, ifindex: u32) {
        self.state.gateways.mark(gateway, ifindex, true);
    }

    /// Uses a next hop only where there is no other: it may be down, and may be restarting. Costs and lasts as
    /// [`Self::mark_next_hop_down`].
    pub fn suspect_next_hop(&mut self, gateway: IpAddr, ifindex: u32) {
        self.state.suspect(gateway, ifindex, true);
    }

    /// Uses a next hop again: its session is up. Protects it as [`Self::protect`] does.
    pub fn mark_next_hop_up(&mut self, gateway: IpAddr, ifindex: u32) {
        self.state.gateways.mark(gateway, ifindex, false);
        self.state.suspect(gateway, ifindex, false);
        if ifindex == 0 {
            self.state.heard(gateway);
        }
    }

    /// Tells from now on, through [`Self::poll_reach`], whether a next hop can be reached.
    pub fn watch_next_hop(&mut self, gateway: IpAddr, ifindex: u32) {
        self.state.watch_next_hop(gateway, ifindex);
    }

    /// Tells of a next hop no longer.
    pub fn unwatch_next_hop(&mut self, gateway: IpAddr, ifindex: u32) {
        self.state.unwatch_next_hop(gateway, ifindex);
    }

    /// What has changed of the next hops watched, after [`Self::step`]; and when to ask again although nothing happens.
    pub fn poll_reach(&mut self, now: Instant) -> (Vec<Reach>, Option<Instant>) {
        self.state.watched.poll(now)
    }

    /// Lets no learned route take over the way to these neighbours, and to no others, while they are on a link.
    pub fn protect(&mut self, neighbours: impl IntoIterator<Item = IpAddr>) {
        self.state.protect(neighbours.into_iter().collect());
    }

    /// The addresses of the host and of its gateways that count beyond a link.
    pub fn own_addresses(&self) -> OwnAddresses {
        let beyond = |addr: &IpAddr| match addr {
            IpAddr::V4(a) => !a.is_link_local() && !a.is_loopback(),
            IpAddr::V6(a) => !a.is_unicast_link_local() && !a.is_loopback(),
        };
        OwnAddresses {
            addresses: self.state.addrs.keys().copied().filter(beyond).collect(),
            gateways: self.state.foreign.gateways().filter(beyond).collect(),
        }
    }

    /// Reading the kernel is given up while this is not 0: something waits that is more urgent.
    pub fn urgent(&self) -> Arc<AtomicUsize> {
        self.state.urgent.clone()
    }

    /// Says that all wanted routes of a family (or of both) are known: those found in the kernel at the start and
    /// not wanted since are deleted, now and from now on.
    pub fn sweep_stale(&mut self, family: Option<Family>) {
        self.state.sweep_stale(family);
    }

    /// No longer wants any learned or blackhole route, nor those found at the start.
    pub fn clear(&mut self) {
        self.state.clear();
    }

    /// The routes that pass a filter, in order of their prefixes.
    pub fn routes(&self, filter: RouteFilter) -> Vec<RouteStatus> {
        self.state.routes(filter)
    }

    /// Everything in numbers.
    pub fn summary(&self) -> Summary {
        self.state.summary()
    }

    /// Notes what happened in the kernel.
    pub fn handle_event(&mut self, event: KernelEvent, now: Instant) {
        self.state.handle_event(event, now);
    }

    /// Has the kernel look at the carriers of the links in use. It may take up to a second to tell the loss of one by
    /// itself, and to stop using the link, on hosts where other links come and go (linkwatch lets one event that is not
    /// urgent pass a second); asked about the link it does so at once.
    pub fn look_at_links(&mut self) {
        let links = self.state.links_in_use();
        self.state.counters.looks += u64::from(!links.is_empty());
        for ifindex in &links {
            // What it finds comes as a notification; a link that is gone has told so.
            if let Err(error) = self.kernel.link(*ifindex) {
                tracing::debug!(ifindex, %error, "cannot look at a link");
            }
        }
    }

    /// Whether there are links to look at.
    pub fn uses_links(&self) -> bool {
        !self.state.links_in_use().is_empty()
    }

    /// Reads the kernel anew with the next step and writes the differences.
    pub fn resync(&mut self, now: Instant) {
        self.state.resync_at = Some(now);
    }

    /// Does a bounded part of what is to be done: next-hop objects first, then at most `budget` routes.
    ///
    /// # Errors
    /// When the kernel cannot be read or written at all; a resync is due soon, and later steps try again.
    pub fn step(&mut self, now: Instant, budget: usize) -> Result<Step, Error> {
        self.state.step(&mut self.kernel, now, budget)
    }

    /// Reads the kernel and tells how it differs from what is wanted, without changing anything. What waits to be
    /// written counts as a difference, so let [`Self::step`] finish first.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn verify(&mut self) -> Result<Vec<Difference>, Error> {
        self.state.verify(&mut self.kernel)
    }
}
