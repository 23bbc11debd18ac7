//! Tracked connections that outlive what they began with: a port mapping, or the container that opened them.
//!
//! A client that keeps sending to a mapped port holds on to the kernel's entry of its first packet, and with it to a
//! container that has gone, or to none. So a change of mappings forgets the entries that contradict it. Entries that
//! lead where they should stay: a restart of the agent disturbs nobody.
//!
//! What somebody sends on a connection that a container opened counts as an answer, which is always let in. When the
//! address is another container's, nobody there has asked: so the connections of a container go when it goes.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use crate::{
    cni::{
        attachment::Attachment,
        types::{L4, PortMapping},
    },
    netlink::{
        Error, Socket, addr,
        conntrack::{self, Flow},
    },
};

/// How long after a container went its connections are forgotten: for more of them to gather, as it takes a look at all
/// that the host tracks.
const DELAY: Duration = Duration::from_millis(500);

/// Forgets connections. The socket stays open: closing one of netfilter's waits for a grace period.
#[derive(Debug, Default)]
pub(super) struct Flows {
    socket: Option<Socket>,
    former: Arc<Former>,
    /// Wakes the thread that forgets; it starts with the first container that goes.
    wake: Option<mpsc::SyncSender<()>>,
}

/// Addresses of containers that are gone.
#[derive(Debug, Default)]
struct Former {
    queue: Mutex<Queue>,
    /// Held while connections are being forgotten.
    work: Mutex<()>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: HashSet<IpAddr>,
    current: HashSet<IpAddr>,
}

impl Former {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) -> MutexGuard<'_, ()> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what waits.
    fn round(&self, socket: &mut Socket) {
        let _work = self.work();
        let gone = {
            let mut queue = self.queue();
            queue.current = std::mem::take(&mut queue.waiting);
            queue.current.clone()
        };
        if let Err(error) = forget_from(socket, &gone) {
            tracing::warn!(%error, "connections of containers that are gone stay for now");
        }
        self.queue().current.clear();
    }
}

fn forget_from(socket: &mut Socket, gone: &HashSet<IpAddr>) -> Result<(), Error> {
    for ipv4 in [true, false] {
        if gone.iter().any(|addr| addr.is_ipv4() == ipv4) {
            conntrack::forget_from(socket, ipv4, |from| gone.contains(&from))?;
        }
    }
    Ok(())
}

impl Flows {
    /// A container has gone: in a moment the connections that it opened are forgotten.
    pub(super) fn gone(&mut self, attachment: &Attachment) {
        self.former.queue().waiting.extend(attachment.endpoint.addresses());
        if self.wake.is_none() {
            match self.start() {
                Ok(wake) => self.wake = Some(wake),
                Err(error) => {
                    tracing::warn!(%error, "connections of containers that are gone stay for now");
                    return;
                }
            }
        }
        if let Some(wake) = &self.wake {
            // Full: it is awake already.
            let _ = wake.try_send(());
        }
    }

    /// A thread in the network namespace of this one; it ends when this is dropped.
    fn start(&self) -> Result<mpsc::SyncSender<()>, Error> {
        let mut socket = Socket::netfilter()?;
        let (wake, woken) = mpsc::sync_channel(1);
        let former = self.former.clone();
        let run = move || {
            while woken.recv().is_ok() {
                thread::sleep(DELAY);
                former.round(&mut socket);
            }
        };
        thread::Builder::new()
            .name("former".into())
            .spawn(run)
            .map_err(|source| Error::Os { call: "spawn thread", source })?;
        Ok(wake)
    }

    /// A container comes: connections of one that had its address before, if that has just gone, do not wait.
    pub(super) fn comes(&mut self, attachment: &Attachment) {
        let addresses: HashSet<IpAddr> = attachment.endpoint.addresses().collect();
        {
            let queue = self.former.queue();
            if queue.waiting.is_disjoint(&addresses) && queue.current.is_disjoint(&addresses) {
                return;
            }
        }
        // When those of the thread are forgotten, it does not touch those of the newcomer any more.
        let former = self.former.clone();
        let _work = former.work();
        former.queue().waiting.retain(|addr| !addresses.contains(addr));
        let result = self.with_socket(|socket| forget_from(socket, &addresses));
        if let Err(error) = result {
            tracing::warn!(endpoint = %attachment.endpoint.key, %error, "connections of who had the address before stay");
        }
    }

    fn with_socket<T>(&mut self, work: impl FnOnce(&mut Socket) -> Result<T, Error>) -> Result<T, Error> {
        let mut socket = match self.socket.take() {
            Some(socket) => socket,
            None => Socket::netfilter()?,
        };
        let result = work(&mut socket)?;
        self.socket = Some(socket);
        Ok(result)
    }

    /// After mappings came into force.
    pub(super) fn mapped(&mut self, attachment: &Attachment) {
        self.forget(attachment, |flow, target| flow.answers != target);
    }

    /// After mappings went.
    pub(super) fn unmapped(&mut self, attachment: &Attachment) {
        self.forget(attachment, |flow, target| flow.answers == target);
    }

    fn forget(&mut self, attachment: &Attachment, stale: impl Fn(&Flow, SocketAddr) -> bool) {
        if !attachment.port_mappings.iter().any(|m| m.protocol == L4::Udp) {
            return;
        }
        if let Err(error) = self.try_forget(attachment, stale) {
            tracing::warn!(endpoint = %attachment.endpoint.key, %error, "old UDP connections keep their way for now");
        }
    }

    fn try_forget(
        &mut self,
        attachment: &Attachment,
        stale: impl Fn(&Flow, SocketAddr) -> bool,
    ) -> Result<(), Error> {
        let udp = || attachment.port_mappings.iter().filter(|mapping| mapping.protocol == L4::Udp);
        let any_address = |mapping: &PortMapping| mapping.host_ip.is_none_or(|ip| ip.is_unspecified());
        let ours: Vec<IpAddr> = if udp().any(any_address) {
            addr::list(&mut Socket::route()?)?.into_iter().map(|a| a.addr).collect()
        } else {
            Vec::new()
        };
        self.with_socket(|socket| {
            for (address, mapping) in attachment.endpoint.addresses().flat_map(|a| udp().map(move |m| (a, m)))
            {
                let target = SocketAddr::new(address, mapping.container_port);
                let mut flows = conntrack::list_udp_to(socket, address.is_ipv4(), mapping.host_port)?;
                flows.retain(|flow| is_meant(mapping, flow.to, &ours) && stale(flow, target));
                conntrack::forget(socket, &flows)?;
            }
            Ok(())
        })
    }
}

/// Whether a packet to `to` is one for this mapping.
fn is_meant(mapping: &PortMapping, to: SocketAddr, ours: &[IpAddr]) -> bool {
    mapping.host_port == to.port()
        && mapping.host_ip.is_none_or(|ip| ip.is_ipv4() == to.is_ipv4())
        && match mapping.host_ip.filter(|ip| !ip.is_unspecified()) {
            Some(ip) => ip == to.ip(),
            None => ours.contains(&to.ip()),
        }
}
