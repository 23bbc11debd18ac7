//! What goes to which peers, and how it looks there.
//!
//! By default only what this host originates leaves it. `route_reflector` lets iBGP routes pass between clients and
//! others (RFC 4456), `transit` lets learned routes out to eBGP peers. RFC 8212 asks for an explicit policy on eBGP
//! sessions: on export these switches are it; on import everything is accepted, since a peer that is not wanted is not
//! configured, and a host that silently refuses its default route is of no use.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use super::{
    attrs::{AttrSet, Attrs, flag},
    config::{AddPathSend, LocalAddresses, LocalAs, PeerParams, RemovePrivate, RibConfig},
    filter::{Rule, prepend},
    hops::OURSELVES,
    store::Store,
};
use crate::{
    bgp::{
        config::{NextHopMode, Role},
        wire::{
            AsPath, Community, DecodeContext, EncodeContext, MAX_EXTENDED_MESSAGE, MAX_MESSAGE,
            PathAttributes, PeerKind, PerFamily, WireNextHop,
        },
    },
    model::{Asn, Family, Prefix},
};

/// Everything that makes what is sent to one peer different from what is sent to another: peers with equal keys share
/// one Adj-RIB-Out and its encoded messages.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ExportKey {
    kind: PeerKind,
    asn: Asn,
    /// The AS that stands for us in front of the path.
    local_asn: Asn,
    local_as: Option<LocalAs>,
    local: LocalAddresses,
    /// The peer and the networks shared with it, where third-party next hops are possible.
    third_party: Option<(IpAddr, Vec<Prefix>)>,
    pub(super) families: PerFamily<Option<FamilyKey>>,
    four_octet_as: bool,
    extended_message: bool,
    client: bool,
    next_hop: NextHopMode,
    /// The AS to override.
    as_override: Option<Asn>,
    remove_private: RemovePrivate,
    role: Option<Role>,
    pub(super) rules: Arc<[Rule]>,
    send_link_bandwidth: bool,
    draining: bool,
    transit: bool,
    /// The cluster we reflect for, if we do.
    cluster: Option<std::net::Ipv4Addr>,
}

/// One family of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FamilyKey {
    pub(super) add_path: Option<AddPathSend>,
    extended_next_hop: bool,
    long_lived: bool,
}

impl ExportKey {
    pub(super) fn new(config: &RibConfig, params: &PeerParams, draining: bool) -> Self {
        let external = params.kind == PeerKind::External;
        let third_party = external && config.transit && params.next_hop == NextHopMode::Auto;
        let mut families = PerFamily { ipv4: None, ipv6: None };
        for family in Family::ALL {
            families[family] = params.families[family].map(|f| FamilyKey {
                add_path: f.add_path_tx,
                extended_next_hop: f.extended_next_hop,
                long_lived: f.graceful.is_some_and(|g| g.long_lived.is_some()),
            });
        }
        Self {
            kind: params.kind,
            asn: config.asn,
            local_asn: params.local_asn,
            local_as: params.local_as.filter(|_| external),
            local: params.local,
            third_party: (third_party && !params.shared_networks.is_empty())
                .then(|| (params.peer_addr, params.shared_networks.clone())),
            families,
            four_octet_as: params.four_octet_as,
            extended_message: params.extended_message,
            client: params.route_reflector_client && !external,
            next_hop: params.next_hop,
            as_override: (external && params.as_override).then_some(params.peer_asn),
            remove_private: if external { params.remove_private } else { RemovePrivate::Off },
            role: params.role.filter(|_| external),
            rules: params.export.clone(),
            send_link_bandwidth: params.send_link_bandwidth,
            draining,
            transit: config.transit,
            cluster: config.route_reflector.then_some(config.cluster_id),
        }
    }

    pub(super) fn encode_context(&self) -> EncodeContext {
        let mut add_path = PerFamily::both(false);
        for family in Family::ALL {
            add_path[family] = self.add_path(family).is_some();
        }
        EncodeContext {
            four_octet: self.four_octet_as,
            add_path,
            max_message: if self.extended_message { MAX_EXTENDED_MESSAGE } else { MAX_MESSAGE },
        }
    }

    /// How to read what was encoded for the group.
    pub(super) fn decode_context(&self) -> DecodeContext {
        let EncodeContext { four_octet, add_path, .. } = self.encode_context();
        DecodeContext { four_octet, add_path, extended_message: true, ..DecodeContext::default() }
    }

    pub(super) fn add_path(&self, family: Family) -> Option<AddPathSend> {
        self.families[family].and_then(|f| f.add_path)
    }

    /// Whether anything that was learned may go to these peers at all.
    pub(super) fn sends_learned(&self) -> bool {
        self.transit || self.cluster.is_some() && self.kind == PeerKind::Internal
    }

    /// Whether a route with this set may go to these peers, rules aside.
    pub(super) fn allows(&self, store: &Store, family: Family, set: &AttrSet) -> bool {
        let Some(negotiated) = self.families[family] else { return false };
        let external = self.kind == PeerKind::External;
        // RFC 1997: NO_EXPORT and its like; we are in no confederation.
        if set.has(flag::NO_ADVERTISE) || external && set.has(flag::NO_EXPORT | flag::NO_EXPORT_SUBCONFED) {
            return false;
        }
        if !set.is_local() && !self.allows_learned(store, set) {
            return false;
        }
        // RFC 9234 section 5, egress rule 2.
        let upward = matches!(self.role, Some(Role::Customer | Role::Peer | Role::RouteServerClient));
        if upward && set.has(flag::OTC) {
            return false;
        }
        // RFC 9494 section 4.3: not to those who do not know that they are stale.
        if set.has(flag::LLGR_STALE) && !negotiated.long_lived {
            return false;
        }
        self.next_hop(&store.attrs, family, set).is_some()
    }

    fn allows_learned(&self, store: &Store, set: &AttrSet) -> bool {
        match (self.kind, set.has(flag::EBGP)) {
            (PeerKind::External, _) => self.transit,
            (PeerKind::Internal, true) => self.transit || self.cluster.is_some(),
            // RFC 4456 section 6: from a client to all, from others to clients.
            (PeerKind::Internal, false) => {
                let from_client =
                    || store.peers.get(&set.peer).is_some_and(|peer| peer.params.route_reflector_client);
                self.cluster.is_some() && (self.client || from_client())
            }
        }
    }

    /// The next hop to send, or nothing when there is none that the peer can use.
    pub(super) fn next_hop(&self, attrs: &Attrs, family: Family, set: &AttrSet) -> Option<WireNextHop> {
        let extended = self.families[family]?.extended_next_hop;
        if set.hop == OURSELVES {
            return self.ourselves(family, extended);
        }
        let hop = &attrs.hops[set.hop];
        let unchanged = match (self.next_hop, self.kind) {
            (NextHopMode::Ourselves, _) => set.is_local(),
            (NextHopMode::Unchanged, _) | (NextHopMode::Auto, PeerKind::Internal) => true,
            (NextHopMode::Auto, PeerKind::External) => {
                set.is_local()
                    || self.third_party.as_ref().is_some_and(|(peer, networks)| {
                        let addr = hop.wire.global();
                        addr != *peer && networks.iter().any(|network| network.contains_addr(addr))
                    })
            }
        };
        let kept = if unchanged { without_link_local(hop.wire) } else { None };
        match kept {
            Some(kept) if family == Family::Ipv4 && matches!(kept, WireNextHop::V6(_)) => {
                extended.then_some(kept)
            }
            Some(kept) => Some(kept),
            // Not to draw what we cannot pass on.
            None if attrs.hops.cost(set.hop).is_none() => None,
            None => self.ourselves(family, extended),
        }
    }

    fn ourselves(&self, family: Family, extended: bool) -> Option<WireNextHop> {
        if let (Family::Ipv4, Some(addr)) = (family, self.local.ipv4) {
            return Some(WireNextHop::V4(addr));
        }
        if family == Family::Ipv4 && !extended {
            return None;
        }
        // RFC 2545 section 3: global and link-local on a shared link. A link without global addresses has both fields
        // link-local, as the implementations that speak BGP unnumbered read and write it.
        match (self.local.ipv6, self.local.link_local) {
            (Some(global), Some(link_local)) => Some(WireNextHop::V6LinkLocal { global, link_local }),
            (Some(global), None) => Some(WireNextHop::V6(global)),
            (None, Some(link_local)) => Some(WireNextHop::V6LinkLocal { global: link_local, link_local }),
            (None, None) => None,
        }
    }

    /// The attributes as these peers get them. `changes` are those of the rules that matched.
    pub(super) fn attributes(
        &self,
        set: &AttrSet,
        changes: impl FnOnce(&mut PathAttributes),
    ) -> PathAttributes {
        let mut attributes = set.attributes();
        let learned = !set.is_local();
        match self.kind {
            PeerKind::External => {
                // RFC 4271 sections 5.1.4 and 5.1.5: neither goes on to another AS, but our own MED does.
                attributes.local_pref = None;
                if learned {
                    attributes.med = None;
                }
                attributes.originator_id = None;
                attributes.cluster_list.clear();
                let bandwidth = self.send_link_bandwidth;
                attributes
                    .ext_communities
                    .retain(|c| if c.as_link_bandwidth().is_some() { bandwidth } else { c.is_transitive() });
                self.rewrite_as_path(&mut attributes.as_path);
                // RFC 9234 section 5, egress rule 1.
                let downward = matches!(self.role, Some(Role::Provider | Role::Peer | Role::RouteServer));
                if downward && attributes.otc.is_none() {
                    attributes.otc = Some(self.local_asn.get());
                }
            }
            PeerKind::Internal => {
                if learned && !set.has(flag::EBGP) {
                    // RFC 4456 section 8.
                    attributes.originator_id = Some(set.router_id.into());
                    if let Some(cluster) = self.cluster {
                        attributes.cluster_list.insert(0, cluster);
                    }
                }
                // A bandwidth is that of the link to the next hop it came with.
                if learned && self.next_hop == NextHopMode::Ourselves && !self.send_link_bandwidth {
                    attributes.ext_communities.retain(|c| c.as_link_bandwidth().is_none());
                }
            }
        }
        changes(&mut attributes);
        match self.kind {
            PeerKind::External => attributes.local_pref = None,
            PeerKind::Internal if self.draining => attributes.local_pref = Some(0),
            PeerKind::Internal => {}
        }
        if self.draining && !attributes.communities.contains(&Community::GRACEFUL_SHUTDOWN) {
            attributes.communities.push(Community::GRACEFUL_SHUTDOWN);
        }
        attributes
    }

    /// The AS that rules put in front when they prepend.
    pub(super) fn prepended(&self) -> Asn {
        self.local_asn
    }

    fn rewrite_as_path(&self, path: &mut AsPath) {
        // RFC 5065 section 4.1: confederation segments end at the border.
        path.segments.retain(|segment| !segment.kind.is_confed());
        self.remove_private(path);
        if let Some(theirs) = self.as_override {
            for asn in path.segments.iter_mut().flat_map(|segment| &mut segment.asns) {
                if *asn == theirs.get() {
                    *asn = self.local_asn.get();
                }
            }
        }
        // RFC 7705 section 3: the number that the peer knows us by comes first, our own behind it.
        if let Some(local) = self.local_as.filter(|local| !local.replace_as && local.asn != self.asn) {
            prepend(path, self.asn, 1);
            prepend(path, local.asn, 1);
        } else {
            prepend(path, self.local_asn, 1);
        }
    }

    fn remove_private(&self, path: &mut AsPath) {
        let private = |asn: u32| Asn::new(asn).is_ok_and(Asn::is_private);
        let mut all = path.segments.iter().flat_map(|segment| &segment.asns);
        match self.remove_private {
            RemovePrivate::Off => {}
            RemovePrivate::OnlyIfAll if !all.all(|asn| private(*asn)) => {}
            RemovePrivate::OnlyIfAll | RemovePrivate::All => {
                for segment in &mut path.segments {
                    segment.asns.retain(|asn| !private(*asn));
                }
                path.segments.retain(|segment| !segment.asns.is_empty());
            }
            RemovePrivate::Replace => {
                for asn in path.segments.iter_mut().flat_map(|segment| &mut segment.asns) {
                    if private(*asn) {
                        *asn = self.local_asn.get();
                    }
                }
            }
        }
    }
}

/// A next hop as it may be passed on: a link-local address means nothing beyond its link.
fn without_link_local(wire: WireNextHop) -> Option<WireNextHop> {
    let usable = |addr: Ipv6Addr| !addr.is_unspecified() && !addr.is_unicast_link_local();
    match wire {
        WireNextHop::V6LinkLocal { global, .. } => usable(global).then_some(WireNextHop::V6(global)),
        WireNextHop::V6(addr) => usable(addr).then_some(wire),
        WireNextHop::V4(_) => Some(wire),
    }
}
