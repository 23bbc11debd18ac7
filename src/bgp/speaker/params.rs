//! From configuration and negotiation to what the RIB must know of a peer.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::socket::{canonical, scope};
use crate::{
    bgp::{
        config::{IdentityMode, PeerSettings, SpeakerConfig},
        rib::{
            AddPathSend, FamilyParams, GracefulParams, LocalAddresses, LocalAs, PeerParams, RemovePrivate,
            Restart, RibConfig, Tellers,
        },
        session::Negotiated,
        wire::{PeerKind, PerFamily},
    },
    model::{Family, Prefix},
    netlink::{Socket, addr},
};

/// How long best paths wait for neighbours after a restart. Those of a rack are back within our own connect retry, 5 s.
const GATHER: Duration = Duration::from_secs(6);

/// The RIB's configuration.
pub fn rib_config(config: &SpeakerConfig, host: &HostAddresses, restarting: bool) -> RibConfig {
    let mut rib = RibConfig::new(config.asn, config.router_id);
    rib.cluster_id = config.cluster_id.unwrap_or(rib.cluster_id);
    rib.route_reflector = config.route_reflector;
    rib.transit = config.transit;
    rib.multipath = usize::from(config.multipath);
    rib.multipath_relax = config.multipath_relax;
    rib.decision = config.decision;
    rib.next_hop_check = config.next_hop_check;
    rib.identity_domain = config.identity_domain.unwrap_or(rib.identity_domain);
    rib.identity_pools.clone_from(&config.identity_pools);
    rib.identity_hold = config.identity_hold;
    rib.tellers = Some(tellers(config));
    rib.unpromised = config.graceful_restart.connect_wait() / 2;
    rib.local_addresses = host.list().iter().map(|a| a.addr).collect();
    rib.restart = restarting.then(|| Restart {
        peers: config.peers.iter().filter(|peer| peer.settings.shutdown.is_none()).count(),
        connect_wait: config.graceful_restart.connect_wait(),
        gather: config.graceful_restart.restart_time.min(GATHER),
        deferral: config.graceful_restart.stale_time,
    });
    rib
}

/// Whose identities are believed.
pub fn tellers(config: &SpeakerConfig) -> Tellers {
    let believed = |settings: &PeerSettings| {
        let local = settings.local_asn.unwrap_or(config.asn);
        identity_mode(settings, settings.asn.accepts(local, local)) == IdentityMode::Accept
    };
    Tellers {
        listed: config.peers.iter().map(|p| (p.address.to_string(), believed(&p.settings))).collect(),
        ranges: config.listen_ranges.iter().map(|r| (r.prefix, believed(&r.settings))).collect(),
    }
}

/// What is done with the identities of a neighbour: where nothing is configured, those of internal ones are believed.
fn identity_mode(settings: &PeerSettings, internal: bool) -> IdentityMode {
    settings.identity.unwrap_or(if internal { IdentityMode::Accept } else { IdentityMode::Ignore })
}

/// The parameters of an established session between `local` and `peer`.
pub fn peer_params(
    settings: &PeerSettings,
    speaker: &SpeakerConfig,
    negotiated: &Negotiated,
    local: SocketAddr,
    peer: SocketAddr,
    host: &HostAddresses,
) -> PeerParams {
    let (local, peer) = (canonical(local), canonical(peer));
    let internal = negotiated.kind == PeerKind::Internal;
    PeerParams {
        name: peer.ip().to_string().into(),
        kind: negotiated.kind,
        peer_asn: negotiated.peer_asn,
        local_asn: negotiated.local_asn,
        local_as: (negotiated.local_asn != speaker.asn).then_some(LocalAs {
            asn: negotiated.local_asn,
            no_prepend: false,
            replace_as: false,
        }),
        peer_router_id: negotiated.peer_router_id,
        peer_addr: peer.ip(),
        ifindex: scope(peer),
        local: host.for_session(local),
        shared_networks: if internal { Vec::new() } else { host.shared_networks(local, peer) },
        families: PerFamily {
            ipv4: family_params(settings, speaker, negotiated, Family::Ipv4),
            ipv6: family_params(settings, speaker, negotiated, Family::Ipv6),
        },
        four_octet_as: negotiated.four_octet_as,
        extended_message: negotiated.extended_message,
        restarting: negotiated.graceful_restart.as_ref().is_some_and(|restart| restart.restarting),
        enhanced_refresh: negotiated.enhanced_refresh,
        route_reflector_client: settings.route_reflector_client,
        next_hop: settings.next_hop,
        allowas_in: settings.allowas_in,
        enforce_first_as: settings.enforce_first_as && !internal,
        as_override: settings.as_override,
        remove_private: if settings.remove_private { RemovePrivate::All } else { RemovePrivate::Off },
        identity: identity_mode(settings, internal),
        role: negotiated.roles.map(|(ours, _)| ours),
        import: settings.import.clone(),
        export: settings.export.clone(),
        send_link_bandwidth: settings.send_link_bandwidth,
    }
}

fn family_params(
    settings: &PeerSettings,
    speaker: &SpeakerConfig,
    negotiated: &Negotiated,
    family: Family,
) -> Option<FamilyParams> {
    if !negotiated.families[family] {
        return None;
    }
    let ours = settings.graceful_restart.unwrap_or(speaker.graceful_restart);
    let graceful = negotiated.graceful_restart.as_ref().and_then(|restart| {
        Some(GracefulParams {
            forwarding_preserved: restart.families[family]?,
            restart_time: restart.restart_time,
            long_lived: restart.long_lived[family].map(|(_, time)| time),
            stale_time: ours.stale_time,
        })
    });
    Some(FamilyParams {
        add_path_rx: negotiated.add_path_receive[family],
        add_path_tx: negotiated.add_path_send[family]
            .then(|| u8::try_from(settings.add_path.send).map_or(AddPathSend::All, AddPathSend::Best)),
        extended_next_hop: negotiated.extended_next_hop,
        max_prefixes: settings.max_prefixes,
        graceful,
        sends_end_of_rib: negotiated.graceful_restart.is_some(),
    })
}

/// The host's addresses, read again when they are older than a second: many sessions come up at once.
#[derive(Clone, Debug, Default)]
pub struct HostAddresses {
    listed: Arc<Mutex<Option<Listed>>>,
    /// The interfaces that sessions have run over.
    links: Arc<Mutex<HashSet<u32>>>,
}

#[derive(Debug)]
struct Listed {
    /// When they were read; `None`: they are as given, for ever.
    at: Option<Instant>,
    list: Arc<[addr::Address]>,
}

impl HostAddresses {
    /// Addresses that are given instead of read, for a host that exists in a simulation only.
    pub fn fixed(list: Vec<addr::Address>) -> Self {
        let listed = Some(Listed { at: None, list: list.into() });
        Self { listed: Arc::new(Mutex::new(listed)), links: Arc::default() }
    }

    /// Whether an address that came or went may be one of ours on a session; what was read before does not count then.
    pub(super) fn changed(&self, ifindex: u32, addr: IpAddr) -> bool {
        let on_a_link = || self.links.lock().unwrap_or_else(PoisonError::into_inner).contains(&ifindex);
        // Each container's interface has a link-local address too.
        let matters = match addr {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => on_a_link(),
            _ => true,
        };
        if matters {
            let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
            listed.take_if(|listed| listed.at.is_some());
        }
        matters
    }

    fn list(&self) -> Arc<[addr::Address]> {
        let mut cached = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let fresh =
            |listed: &&Listed| listed.at.is_none_or(|at| now.duration_since(at) < Duration::from_secs(1));
        if let Some(listed) = cached.as_ref().filter(fresh) {
            return listed.list.clone();
        }
        let listed = Socket::route().and_then(|mut socket| addr::list(&mut socket));
        let list: Arc<[addr::Address]> = listed
            .unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot list the host's addresses");
                Vec::new()
            })
            .into();
        *cached = Some(Listed { at: Some(now), list: list.clone() });
        list
    }

    fn ifindex(list: &[addr::Address], local: SocketAddr) -> Option<u32> {
        match scope(local) {
            0 => list.iter().find(|a| a.addr == local.ip()).map(|a| a.ifindex),
            scope => Some(scope),
        }
    }

    /// The interface that the session runs over, if the peer is on that link.
    pub(super) fn link(&self, local: SocketAddr, peer: SocketAddr) -> Option<u32> {
        let (local, peer) = (canonical(local), canonical(peer));
        let link = match scope(peer) {
            0 if self.shared_networks(local, peer).is_empty() => None,
            0 => Self::ifindex(&self.list(), local),
            scope => Some(scope),
        };
        self.links.lock().unwrap_or_else(PoisonError::into_inner).extend(link);
        link
    }

    /// The networks of the link that the session runs over; none if the peer is not on it.
    fn shared_networks(&self, local: SocketAddr, peer: SocketAddr) -> Vec<Prefix> {
        let list = self.list();
        let ifindex = Self::ifindex(&list, local);
        let here = list.iter().filter(|a| ifindex == Some(a.ifindex) && !a.addr.is_loopback());
        let networks: Vec<_> = here.filter_map(addr::Address::prefix).collect();
        if networks.iter().any(|n| n.contains_addr(peer.ip())) { networks } else { Vec::new() }
    }

    /// Our addresses on a session: the socket's own, and for the other family one of the same interface, or else any.
    pub(super) fn for_session(&self, local: SocketAddr) -> LocalAddresses {
        let list = self.list();
        pick(&list, local.ip(), Self::ifindex(&list, local))
    }
}

fn pick(list: &[addr::Address], local: IpAddr, ifindex: Option<u32>) -> LocalAddresses {
    // IFA_F_TENTATIVE, IFA_F_DADFAILED: not usable (yet).
    let usable = |a: &&addr::Address| a.flags & (0x40 | 0x08) == 0;
    let here = |a: &&addr::Address| ifindex == Some(a.ifindex);
    let global = |family: Family| {
        let of = |a: &&addr::Address| Family::of(a.addr) == family && a.is_global() && usable(a);
        list.iter().filter(of).find(here).or_else(|| list.iter().find(of)).map(|a| a.addr)
    };
    let link_local = list.iter().filter(usable).filter(here).find_map(|a| match a.addr {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(v6),
        _ => None,
    });
    let mut found = LocalAddresses {
        ipv4: global(Family::Ipv4).and_then(|a| if let IpAddr::V4(v4) = a { Some(v4) } else { None }),
        ipv6: global(Family::Ipv6).and_then(|a| if let IpAddr::V6(v6) = a { Some(v6) } else { None }),
        link_local,
    };
    match local {
        IpAddr::V4(v4) => found.ipv4 = Some(v4),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => found.link_local = Some(v6),
        IpAddr::V6(v6) => found.ipv6 = Some(v6),
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(ifindex: u32, addr: &str, flags: u32) -> addr::Address {
        let addr: IpAddr = addr.parse().unwrap();
        let scope = match addr {
            IpAddr::V6(a) if a.is_unicast_link_local() => 253,
            a if a.is_loopback() => 254,
            _ => 0,
        };
        addr::Address { ifindex, addr, prefix_len: 24, scope, flags }
    }

    #[test]
    fn addresses_of_the_sessions_interface_are_preferred() {
        let list = [
            address(1, "127.0.0.1", 0),
            address(2, "10.0.0.2", 0),
            address(2, "2001:db8::2", 0x40),
            address(3, "10.0.0.3", 0),
            address(3, "2001:db8::3", 0),
            address(3, "fe80::3", 0),
        ];
        let over_v4 = pick(&list, "10.0.0.3".parse().unwrap(), Some(3));
        assert_eq!(over_v4.ipv4, Some("10.0.0.3".parse().unwrap()));
        assert_eq!(over_v4.ipv6, Some("2001:db8::3".parse().unwrap()));
        assert_eq!(over_v4.link_local, Some("fe80::3".parse().unwrap()));
        // A tentative address is not used; one of another interface is better than none.
        let other = pick(&list, "10.0.0.2".parse().unwrap(), Some(2));
        assert_eq!(other.ipv6, Some("2001:db8::3".parse().unwrap()));
        assert_eq!(other.link_local, None);
        let unnumbered = pick(&list, "fe80::3".parse().unwrap(), Some(3));
        assert_eq!(unnumbered.ipv4, Some("10.0.0.3".parse().unwrap()));
    }
}
