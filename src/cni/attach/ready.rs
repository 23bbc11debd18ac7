//! IPv6 addresses that work.
//!
//! The kernel answers that an IPv6 address is there before it is: a task of its own joins the multicast group by which
//! neighbours ask for the address, and adds the local route by which it is recognised, in this order. A neighbour
//! that asks too early hears nothing, and asks again only a second later.

use std::{
    net::{IpAddr, Ipv6Addr},
    thread,
    time::Duration,
};

use super::message::StepError;
use crate::{
    cni::attachment::Attachment,
    netlink::{Error, Socket, route},
};

/// How often to look, and how long to wait between, at first; the task is seldom later than the first look.
const LOOKS: u32 = 40;
const PAUSE: Duration = Duration::from_micros(100);
const LONGEST: Duration = Duration::from_millis(20);

/// Waits until the container can be found by its IPv6 address, and its gateway by the container. An address that
/// takes longer than half a second is left to itself.
pub(super) fn wait(attachment: &Attachment, host: &mut Socket, inside: &mut Socket) -> Result<(), StepError> {
    let Some(address) = attachment.endpoint.ipv6 else { return Ok(()) };
    let gateway = attachment.gateway6();
    let ends = [(inside, address, attachment.ifindex + 1), (host, gateway, attachment.ifindex)];
    for (socket, address, index) in ends {
        let mut pause = PAUSE;
        for look in 1..=LOOKS {
            let local = is_local(socket, address, index)
                .map_err(|source| StepError { what: "look for an IPv6 address", source })?;
            if local {
                break;
            }
            if look == LOOKS {
                tracing::warn!(endpoint = %attachment.endpoint.key, %address, "the kernel is slow to take up the address");
            }
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST);
        }
    }
    Ok(())
}

/// Whether packets to an address of an interface are for this machine.
fn is_local(socket: &mut Socket, address: Ipv6Addr, index: u32) -> Result<bool, Error> {
    match route::way_to(socket, IpAddr::V6(address), Some(index)) {
        Ok(way) => Ok(way.is_some_and(|way| way.kind == libc::RTN_LOCAL)),
        // No route at all yet.
        Err(error) if matches!(error.errno(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => Ok(false),
        Err(error) => Err(error),
    }
}
