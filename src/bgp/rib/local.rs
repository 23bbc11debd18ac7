//! What this host originates.

use std::{net::IpAddr, time::Instant};

use super::{
    Rib,
    attrs::{LOCAL, Origination},
    config::LocalRoute,
    hops::OURSELVES,
};
use crate::{
    bgp::{
        identity,
        wire::{Origin, PathAttributes, WireNextHop},
    },
    model::Prefix,
};

impl Rib {
    /// Originates a prefix, or changes what it carries. It goes out before anything learned.
    pub fn originate(&mut self, prefix: Prefix, route: LocalRoute, now: Instant) {
        self.tick(now);
        self.settle();
        let seconds = self.seconds(now);
        let config = &self.store.config;
        let mut large_communities = route.large_communities;
        // The domain's communities say what the endpoint is, and nothing else may.
        identity::strip(config.identity_domain, &mut large_communities);
        let identity = route.identity.as_deref();
        large_communities.extend(identity::to_communities(config.identity_domain, identity, route.sequence));
        let attributes = PathAttributes {
            origin: Some(route.origin.unwrap_or(Origin::Igp)),
            med: route.med,
            communities: route.communities,
            large_communities,
            ext_communities: route.ext_communities,
            ..PathAttributes::default()
        };
        let (local_pref, router_id) =
            (route.local_pref.unwrap_or(config.default_local_pref), config.router_id.get());
        let hops = &mut self.store.attrs.hops;
        let hop = if let Some(next_hop) = route.next_hop.map(wire) {
            hops.intern(next_hop, 0)
        } else {
            hops.retain(OURSELVES);
            OURSELVES
        };
        let from = Origination { peer: LOCAL, ebgp: false, router_id, hop, local_pref, original: 0 };
        let set = self.store.attrs.intern(&attributes, from);
        let family = prefix.family();
        let node = self.store.tables[family].find_or_insert(prefix);
        let known = self.store.path_of(family, node, LOCAL, 0);
        let effect = self.store.announce(family, node, known, LOCAL, 0, set, seconds);
        self.mark(family, node, effect);
        self.heard(prefix);
    }

    /// Ends the origination of a prefix; false if there was none.
    pub fn withdraw_local(&mut self, prefix: Prefix, now: Instant) -> bool {
        self.tick(now);
        self.settle();
        let Some((node, effect)) = self.store.withdraw(LOCAL, prefix, 0) else { return false };
        self.mark(prefix.family(), node, effect);
        true
    }
}

fn wire(addr: IpAddr) -> WireNextHop {
    match addr {
        IpAddr::V4(addr) => WireNextHop::V4(addr),
        IpAddr::V6(addr) => WireNextHop::V6(addr),
    }
}
