//! The MTU of the way out, for containers whose configuration does not say one.

use std::{collections::HashMap, net::IpAddr};

use crate::{
    model::EndpointId,
    netlink::{Error, Socket, link, route, watch::KernelEvent},
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
    by_route
        .or_else(|| {
            links.iter().filter(|l| l.is_running() && !l.is_loopback() && !is_ours(l)).map(|l| l.mtu).min()
        })
        // Less does not carry IPv6; more than a veth takes is a loopback-like device.
        .map_or(FALLBACK, |mtu| mtu.clamp(1280, 65535))
}

fn is_ours(link: &link::Link) -> bool {
    link.name.starts_with(EndpointId::PREFIX)
}

/// Finds in the kernel's notifications what [`uplink_mtu`] may depend on: containers that come and go are not.
#[derive(Debug, Default)]
pub struct Uplinks {
    /// MTU and carrier of each interface that has been heard of.
    last: HashMap<u32, (u32, bool)>,
}

impl Uplinks {
    /// Whether the MTU of the way out is to be looked up anew. Of an interface that is heard of for the first time nobody
    /// knows what it was.
    pub fn changed(&mut self, event: &KernelEvent) -> bool {
        match event {
            KernelEvent::Link(link) if !link.is_loopback() && !is_ours(link) => {
                let now = (link.mtu, link.is_running());
                self.last.insert(link.index, now) != Some(now)
            }
            KernelEvent::LinkGone(link) => {
                self.last.remove(&link.index);
                !is_ours(link)
            }
            _ => false,
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_mtu_may_depend_on() {
        let link = |name: &str, mtu, flags: libc::c_int| link::Link {
            index: 7,
            name: name.to_owned(),
            mtu,
            flags: flags as u32,
            ..link::Link::default()
        };
        let mut uplinks = Uplinks::default();
        let mut changed = |link: link::Link| uplinks.changed(&KernelEvent::Link(link));
        let up = libc::IFF_UP | (1 << 16);
        assert!(changed(link("eth0", 1500, up)));
        assert!(!changed(link("eth0", 1500, up)));
        assert!(changed(link("eth0", 9000, up)));
        assert!(changed(link("eth0", 9000, libc::IFF_UP)), "without a carrier");
        assert!(!changed(link("s32aaaaaaaaaaaa", 1400, up)));
        assert!(!changed(link("lo", 65536, up | libc::IFF_LOOPBACK)));
        assert!(uplinks.changed(&KernelEvent::LinkGone(link("eth0", 9000, 0))));
        assert!(!uplinks.changed(&KernelEvent::LinkGone(link("s32aaaaaaaaaaaa", 1400, 0))));
        assert!(uplinks.changed(&KernelEvent::Link(link("eth0", 9000, libc::IFF_UP))), "it was away");
    }
}
