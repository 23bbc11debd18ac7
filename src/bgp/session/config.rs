//! What one session is told.

use crate::{
    bgp::{
        config::{AddPathConfig, GracefulRestart, PeerSettings, RemoteAs, RoleConfig, SpeakerConfig, Timers},
        wire::PerFamily,
    },
    model::{Asn, Family, RouterId},
};

/// The configuration of one session: a neighbour's settings with the speaker's where they apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// The AS number we present.
    pub local_asn: Asn,
    /// Our BGP identifier.
    pub router_id: RouterId,
    /// Which AS numbers the neighbour may have.
    pub remote_asn: RemoteAs,
    /// Timers.
    pub timers: Timers,
    /// Never dial.
    pub passive: bool,
    /// Sent as FQDN capability.
    pub hostname: Option<String>,
    /// The families offered.
    pub families: PerFamily<bool>,
    /// Additional paths offered.
    pub add_path: AddPathConfig,
    /// Graceful restart offered.
    pub graceful_restart: GracefulRestart,
    /// Our role, sent on eBGP only (RFC 9234 section 4.1).
    pub role: Option<RoleConfig>,
    /// Nothing is dialed or accepted while BFD is down.
    pub bfd_strict: bool,
    /// The end of BFD is the beginning of a graceful restart, unless the neighbour's BFD is independent of what restarts.
    pub bfd_graceful: bool,
}

impl SessionConfig {
    /// The session of a neighbour with these settings.
    pub fn new(speaker: &SpeakerConfig, peer: &PeerSettings) -> Self {
        let offered = |family| peer.families.contains(&family);
        Self {
            local_asn: peer.local_asn.unwrap_or(speaker.asn),
            router_id: speaker.router_id,
            remote_asn: peer.asn.clone(),
            timers: peer.timers,
            passive: peer.passive,
            hostname: speaker.hostname.clone(),
            families: PerFamily { ipv4: offered(Family::Ipv4), ipv6: offered(Family::Ipv6) },
            add_path: peer.add_path,
            graceful_restart: peer.graceful_restart.unwrap_or(speaker.graceful_restart),
            role: peer.role,
            bfd_strict: peer.bfd.is_some_and(|bfd| bfd.strict),
            bfd_graceful: peer.bfd.is_some_and(|bfd| bfd.graceful),
        }
    }

    pub(super) fn offered_families(&self) -> impl Iterator<Item = Family> {
        let families = self.families;
        Family::ALL.into_iter().filter(move |family| families[*family])
    }
}
