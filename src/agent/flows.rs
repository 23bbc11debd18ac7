//! UDP connections that began before a port mapping, or outlive one.
//!
//! A client that keeps sending to a mapped port holds on to the kernel's entry of its first packet, and with it to a
//! container that has gone, or to none. So a change of mappings forgets the entries that contradict it. Entries that
//! lead where they should stay: a restart of the agent disturbs nobody.

use std::net::{IpAddr, SocketAddr};

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

/// Forgets UDP connections. The socket stays open: closing one of netfilter's waits for a grace period.
#[derive(Debug, Default)]
pub(super) struct Flows {
    socket: Option<Socket>,
}

impl Flows {
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
        let mut socket = match self.socket.take() {
            Some(socket) => socket,
            None => Socket::netfilter()?,
        };
        let ours: Vec<IpAddr> = addr::list(&mut Socket::route()?)?.into_iter().map(|a| a.addr).collect();
        for address in attachment.endpoint.addresses() {
            let mut flows = conntrack::list_udp(&mut socket, address.is_ipv4())?;
            flows.retain(|flow| {
                attachment.port_mappings.iter().any(|mapping| {
                    is_meant(mapping, flow.to, &ours)
                        && stale(flow, SocketAddr::new(address, mapping.container_port))
                })
            });
            conntrack::forget(&mut socket, &flows)?;
        }
        self.socket = Some(socket);
        Ok(())
    }
}

/// Whether a packet to `to` is one for this mapping.
fn is_meant(mapping: &PortMapping, to: SocketAddr, ours: &[IpAddr]) -> bool {
    mapping.protocol == L4::Udp
        && mapping.host_port == to.port()
        && mapping.host_ip.is_none_or(|ip| ip.is_ipv4() == to.is_ipv4())
        && match mapping.host_ip.filter(|ip| !ip.is_unspecified()) {
            Some(ip) => ip == to.ip(),
            None => ours.contains(&to.ip()),
        }
}
