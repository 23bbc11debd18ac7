//! The MTU of the way out, for containers whose configuration does not say one.

use std::net::IpAddr;

use crate::{
    model::EndpointId,
    netlink::{Error, Socket, link, route},
};

/// Without any way out.
const FALLBACK: u32 = 1500;

/// The MTU of the device that the default route uses, of both families the smaller; without a default route, the
/// smallest MTU of all devices that are up (other than our own); 1500 when there is none.
pub fn uplink_mtu(socket: &mut Socket) -> u32 {
    let links = match link::list(socket) {
        Ok(links) => links,
        Err(error) => {
            tracing::warn!(%error, "cannot list interfaces to find the MTU: using {FALLBACK}");
            return FALLBACK;
        }
    };
    let by_route = route::FAR
        .into_iter()
        .filter_map(|probe| device_towards(socket, probe).ok().flatten())
        .filter_map(|index| links.iter().find(|l| l.index == index && !l.is_loopback()))
        .map(|l| l.mtu)
        .min();
    let ours = |l: &link::Link| l.name.starts_with(EndpointId::PREFIX);
    by_route
        .or_else(|| {
            links.iter().filter(|l| l.is_running() && !l.is_loopback() && !ours(l)).map(|l| l.mtu).min()
        })
        // Less does not carry IPv6; more than a veth takes is a loopback-like device.
        .map_or(FALLBACK, |mtu| mtu.clamp(1280, 65535))
}

/// The device the kernel would send a packet through.
pub(super) fn device_towards(socket: &mut Socket, addr: IpAddr) -> Result<Option<u32>, Error> {
    Ok(route::way_to(socket, addr, None)?.and_then(|way| way.interface))
}

/// What the kernel does with packets to an address, one of `RTN_*`; none without a way.
pub(super) fn kind_of(socket: &mut Socket, addr: IpAddr) -> Option<u8> {
    route::way_to(socket, addr, None).ok().flatten().map(|way| way.kind)
}

/// Whether packets to an address are for this host itself, or for all on a link.
pub(super) fn is_own(socket: &mut Socket, addr: IpAddr) -> bool {
    matches!(
        kind_of(socket, addr),
        Some(libc::RTN_LOCAL | libc::RTN_BROADCAST | libc::RTN_ANYCAST | libc::RTN_MULTICAST)
    )
}
