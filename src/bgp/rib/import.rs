//! From a received announcement to an attribute set, or the reason why not.

use std::net::IpAddr;

use smallvec::SmallVec;

use super::{
    attrs::{AttrId, Attrs, Origination},
    config::{PeerParams, RibConfig},
    filter::{self, Evaluation, Matched, prepend},
    output::Rejection,
};
use crate::{
    bgp::{
        PeerId,
        config::{IdentityMode, Role},
        identity,
        wire::{Community, PathAttributes, PeerKind, WireNextHop},
    },
    model::Prefix,
};

/// Checks what holds for all prefixes of an announcement.
pub(super) fn check(
    config: &RibConfig,
    params: &PeerParams,
    attributes: &PathAttributes,
    next_hop: WireNextHop,
) -> Result<(), Rejection> {
    let external = params.kind == PeerKind::External;
    let path = &attributes.as_path;
    if external && params.enforce_first_as && super::attrs::neighbor_as(path) != params.peer_asn.get() {
        return Err(Rejection::FirstAs);
    }
    // RFC 4271 section 9.1.2; a number we only pose as on this session is ours too (RFC 7705 section 4).
    let ours = [Some(config.asn), params.local_as.map(|local| local.asn)];
    let count = (path.segments.iter().flat_map(|s| &s.asns))
        .filter(|asn| ours.iter().flatten().any(|ours| ours.get() == **asn))
        .count();
    if count > usize::from(params.allowas_in) {
        return Err(Rejection::AsLoop);
    }
    if attributes.originator_id == Some(config.router_id.addr()) {
        return Err(Rejection::OriginatorLoop);
    }
    if attributes.cluster_list.contains(&config.cluster_id) {
        return Err(Rejection::ClusterLoop);
    }
    if !next_hop_is_usable(config, params, next_hop) {
        return Err(Rejection::NextHop);
    }
    if external && is_leak(params, attributes) {
        return Err(Rejection::RouteLeak);
    }
    Ok(())
}

/// RFC 4271 section 5.1.3 and 6.3: a unicast address that is not ours. That it is on a shared subnet is not checked: the
/// FIB resolves it, or not.
fn next_hop_is_usable(config: &RibConfig, params: &PeerParams, next_hop: WireNextHop) -> bool {
    let local = &params.local;
    let ours = |addr: IpAddr| {
        config.local_addresses.contains(&addr)
            || local.ipv4.map(IpAddr::V4) == Some(addr)
            || [local.ipv6, local.link_local].into_iter().flatten().any(|a| IpAddr::V6(a) == addr)
    };
    let link_local = match next_hop {
        WireNextHop::V6LinkLocal { link_local, .. } => Some(link_local),
        WireNextHop::V6(addr) if addr.is_unicast_link_local() => Some(addr),
        _ => None,
    };
    let global = next_hop.global();
    let global_is_usable = is_unicast(global) && !ours(global);
    match link_local {
        // A link-local address means something only on the link that the peer is on.
        Some(addr) if params.ifindex != 0 => {
            addr.is_unicast_link_local() && !ours(addr.into()) && !(is_unicast(global) && ours(global))
        }
        Some(_) => global_is_usable && !is_link_local(global),
        None => global_is_usable,
    }
}

fn is_link_local(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local())
}

fn is_unicast(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => !(a.octets()[0] == 0 || a.is_loopback() || a.is_multicast() || a.is_broadcast()),
        IpAddr::V6(a) => match a.to_ipv4_mapped() {
            Some(mapped) => is_unicast(mapped.into()),
            None => !(a.is_unspecified() || a.is_loopback() || a.is_multicast()),
        },
    }
}

/// RFC 9234 section 5, ingress rules 1 and 2.
fn is_leak(params: &PeerParams, attributes: &PathAttributes) -> bool {
    match (params.role, attributes.otc) {
        (Some(Role::Provider | Role::RouteServer), Some(_)) => true,
        (Some(Role::Peer), Some(otc)) => otc != params.peer_asn.get(),
        _ => false,
    }
}

/// An announcement on its way in: attributes after everything that holds for all its prefixes, and the sets already made
/// for those of them that rules and identity treat alike.
pub(super) struct Announcement<'a> {
    params: &'a PeerParams,
    config: &'a RibConfig,
    peer: PeerId,
    /// As received, but with what every path from this peer gets.
    attributes: PathAttributes,
    next_hop: WireNextHop,
    evaluation: Evaluation<'a>,
    /// There are identity communities, and the peer may speak of identities.
    carries: Carries,
    made: SmallVec<[(Variant, AttrId); 2]>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Carries {
    Nothing,
    Believed,
    Unbelieved,
}

#[derive(Clone, PartialEq, Eq)]
struct Variant {
    strip: bool,
    matched: Matched,
}

/// What became of one prefix.
#[derive(Clone, Copy)]
pub(super) struct Imported {
    /// The set, of which the announcement keeps the reference.
    pub(super) set: AttrId,
    /// Identity communities taken out.
    pub(super) stripped: usize,
}

impl<'a> Announcement<'a> {
    /// An announcement as it comes from the peer; call [`check`] first.
    pub(super) fn received(
        config: &'a RibConfig,
        params: &'a PeerParams,
        peer: PeerId,
        mut attributes: PathAttributes,
        next_hop: WireNextHop,
    ) -> Self {
        let external = params.kind == PeerKind::External;
        if external {
            // RFC 7606 section 7: these are discarded from an external peer.
            attributes.originator_id = None;
            attributes.cluster_list.clear();
            if let Some(local) = params.local_as.filter(|local| !local.no_prepend) {
                prepend(&mut attributes.as_path, local.asn, 1);
            }
            // RFC 9234 section 5, ingress rule 3.
            let from_above =
                matches!(params.role, Some(Role::Customer | Role::Peer | Role::RouteServerClient));
            if from_above && attributes.otc.is_none() {
                attributes.otc = Some(params.peer_asn.get());
            }
        }
        Self::again(config, params, peer, attributes, next_hop)
    }

    /// One that has been through [`Announcement::received`] before, for other rules.
    pub(super) fn again(
        config: &'a RibConfig,
        params: &'a PeerParams,
        peer: PeerId,
        mut attributes: PathAttributes,
        next_hop: WireNextHop,
    ) -> Self {
        if params.kind == PeerKind::External {
            attributes.local_pref = None;
        }
        let in_domain = attributes.large_communities.iter().any(|c| c.global == config.identity_domain);
        let carries = match params.identity {
            _ if !in_domain => Carries::Nothing,
            IdentityMode::Accept => Carries::Believed,
            IdentityMode::Ignore => Carries::Unbelieved,
        };
        let evaluation = Evaluation::new(&params.import, &attributes, Some(next_hop.global()));
        Self { params, config, peer, attributes, next_hop, evaluation, carries, made: SmallVec::new() }
    }

    /// The set for a prefix.
    pub(super) fn import(&mut self, attrs: &mut Attrs, prefix: Prefix) -> Result<Imported, Rejection> {
        if prefix.is_martian() {
            return Err(Rejection::Martian);
        }
        let Some(matched) = self.evaluation.verdict(prefix) else { return Err(Rejection::Policy) };
        let strip = match self.carries {
            Carries::Nothing => false,
            Carries::Unbelieved => true,
            Carries::Believed => !self.config.identity_pools.iter().any(|pool| pool.covers(prefix)),
        };
        let stripped = if strip { self.identity_communities() } else { 0 };
        let variant = Variant { strip, matched };
        if let Some((_, set)) = self.made.iter().find(|(known, _)| *known == variant) {
            return Ok(Imported { set: *set, stripped });
        }
        let set = self.make(attrs, &variant);
        self.made.push((variant, set));
        Ok(Imported { set, stripped })
    }

    fn identity_communities(&self) -> usize {
        let domain = self.config.identity_domain;
        self.attributes.large_communities.iter().filter(|c| c.global == domain).count()
    }

    fn make(&self, attrs: &mut Attrs, variant: &Variant) -> AttrId {
        let mut attributes = self.attributes.clone();
        if variant.strip {
            identity::strip(self.config.identity_domain, &mut attributes.large_communities);
        }
        if variant.matched.is_empty() {
            return self.intern(attrs, attributes, 0);
        }
        let original = self.intern(attrs, attributes.clone(), 0);
        filter::apply(&self.params.import, &variant.matched, &mut attributes, self.config.asn);
        // Rules must not forge identities.
        if self.carries == Carries::Nothing || variant.strip {
            identity::strip(self.config.identity_domain, &mut attributes.large_communities);
        }
        self.intern(attrs, attributes, original)
    }

    fn intern(&self, attrs: &mut Attrs, mut attributes: PathAttributes, original: AttrId) -> AttrId {
        let external = self.params.kind == PeerKind::External;
        let mut local_pref = attributes.local_pref.take().unwrap_or(self.config.default_local_pref);
        // RFC 8326 section 4.3: the route of a neighbour that goes away is the last resort.
        if external && attributes.communities.contains(&Community::GRACEFUL_SHUTDOWN) {
            local_pref = 0;
        }
        let hop = attrs.hops.intern(self.next_hop, self.params.ifindex);
        attrs.intern(
            &attributes,
            Origination {
                peer: self.peer,
                ebgp: external,
                router_id: self.params.peer_router_id.get(),
                hop,
                local_pref,
                original,
            },
        )
    }

    /// Gives back the references that were kept while prefixes were imported.
    pub(super) fn finish(self, attrs: &mut Attrs) {
        for (_, set) in self.made {
            attrs.release(set);
        }
    }
}
