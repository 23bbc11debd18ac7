//! Neighbours behind a VRF device. Sessions, routes and containers are those of the default VRF: what is behind another has
//! routes of its own, in a table of its own.

use std::net::IpAddr;

use crate::{
    api::Failure,
    bgp::config::PeerAddress,
    model::Prefix,
    netlink::{
        self, Socket,
        addr::{self, Address},
        link::{self, Link},
    },
};

/// Neighbours that are behind a link that belongs to a VRF, one line each.
pub(super) fn problems<'a>(peers: impl Iterator<Item = &'a PeerAddress>) -> Result<Vec<String>, Failure> {
    let read = || -> Result<_, netlink::Error> {
        let mut socket = Socket::route()?;
        Ok((link::list(&mut socket)?, addr::list(&mut socket)?))
    };
    let (links, addresses) = read().map_err(|e| Failure::new(format!("cannot read the links: {e}")))?;
    Ok(judge(&links, &addresses, peers))
}

fn judge<'a>(
    links: &[Link],
    addresses: &[Address],
    peers: impl Iterator<Item = &'a PeerAddress>,
) -> Vec<String> {
    let vrf_of = |link: &Link| {
        let master = links.iter().find(|l| link.master != 0 && l.index == link.master)?;
        (master.kind.as_deref() == Some("vrf")).then(|| master.name.clone())
    };
    let inside: Vec<(&Link, String)> = links.iter().filter_map(|l| Some((l, vrf_of(l)?))).collect();
    if inside.is_empty() {
        return Vec::new();
    }
    let on_network = |link: &Link, peer: IpAddr| {
        addresses
            .iter()
            .filter(|a| a.ifindex == link.index)
            .any(|a| Prefix::new(a.addr, a.prefix_len).is_ok_and(|p| p.contains_addr(peer)))
    };
    peers
        .filter_map(|peer| {
            let behind = |(link, _): &&(&Link, String)| match peer {
                PeerAddress::Ip(addr) => on_network(link, *addr),
                PeerAddress::LinkLocal { interface, .. } | PeerAddress::Interface(interface) => {
                    *interface == link.name
                }
            };
            let (link, vrf) = inside.iter().find(behind)?;
            Some(format!(
                "neighbour {peer} is behind {}, which belongs to the VRF {vrf}: sessions and containers' routes are \
                 those of the default VRF, so it is not reached",
                link.name
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_behind_a_vrf_are_named() {
        let link = |index, name: &str, kind: Option<&str>, master| Link {
            index,
            name: name.into(),
            kind: kind.map(str::to_owned),
            mtu: 1500,
            master,
            oper_state: 6,
            ..Link::default()
        };
        let links = [
            link(2, "eth0", None, 7),
            link(3, "eth1", None, 8),
            link(4, "eth2", None, 0),
            link(7, "red", Some("vrf"), 0),
            link(8, "br0", Some("bridge"), 0),
        ];
        let address = |ifindex, addr: &str, prefix_len| Address {
            addr: addr.parse().unwrap(),
            ifindex,
            prefix_len,
            scope: 0,
            flags: 0,
        };
        let addresses = [
            address(2, "192.0.2.1", 31),
            address(2, "2001:db8::2", 64),
            address(3, "192.0.2.3", 31),
            address(4, "192.0.2.5", 31),
        ];
        let peers = [
            PeerAddress::Ip("192.0.2.0".parse().unwrap()),
            PeerAddress::Ip("2001:db8::1".parse().unwrap()),
            PeerAddress::Ip("192.0.2.2".parse().unwrap()),
            PeerAddress::Ip("192.0.2.4".parse().unwrap()),
            PeerAddress::Ip("203.0.113.1".parse().unwrap()),
            PeerAddress::Interface("eth0".into()),
            PeerAddress::Interface("eth2".into()),
        ];
        let found = judge(&links, &addresses, peers.iter());
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(
            found.iter().all(|line| line.contains("behind eth0") && line.contains("VRF red")),
            "{found:?}"
        );
        assert_eq!(judge(&links[2..], &addresses, peers.iter()), [""; 0]);
    }
}
