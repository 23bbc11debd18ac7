//! What can be asked about the neighbours.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use serde::Serialize;

use crate::{
    bgp::{
        PeerId,
        config::{PeerConfig, RemoteAs},
        rib::{PeerStats, Rejection},
        session::{Counters, Negotiated, State},
        wire::{Capability, PeerKind, PerFamily, code},
    },
    model::{Asn, Family},
};

/// A neighbour as it is now.
#[derive(Clone, Debug, Serialize)]
pub struct PeerStatus {
    /// The name inside the speaker.
    #[serde(skip)]
    pub id: PeerId,
    /// Address or interface, as configured.
    pub peer: String,
    /// The address in use, when it is not `peer` itself.
    pub address: Option<String>,
    /// Our address of the session.
    pub local_address: Option<String>,
    /// The AS number: the peer's own once it has told, else the one configured.
    pub asn: Option<u32>,
    /// The AS number we present.
    pub local_asn: u32,
    /// `internal` or `external`, once known.
    pub kind: Option<&'static str>,
    /// The state of RFC 4271.
    pub state: State,
    /// Seconds since it was established; null when it is not.
    pub uptime_seconds: Option<u64>,
    /// Prefixes received that are kept: the same as `prefixes_accepted`, as nothing else is.
    pub prefixes_received: u64,
    /// Prefixes received and accepted.
    pub prefixes_accepted: u64,
    /// How many times a prefix was received and not accepted, since the peer was first up.
    pub prefixes_rejected: u64,
    /// The same by reason; every reason is there.
    pub rejected: BTreeMap<Rejection, u64>,
    /// Identity communities that were not believed, and taken out of routes that were accepted.
    pub identities_stripped: u64,
    /// The bound of each family in use; none without `max_prefixes`.
    pub prefix_limits: Vec<PrefixLimit>,
    /// Prefixes advertised to it.
    pub prefixes_sent: u64,
    /// Messages of any type, in.
    pub messages_received: u64,
    /// Messages of any type, out.
    pub messages_sent: u64,
    /// UPDATEs in.
    pub updates_received: u64,
    /// UPDATEs out.
    pub updates_sent: u64,
    /// UPDATEs in with an error for which their routes were withdrawn (RFC 7606).
    pub updates_withdrawn: u64,
    /// UPDATEs in that lost an attribute for an error (RFC 7606).
    pub updates_discarded: u64,
    /// How many times the session was established.
    pub established_count: u64,
    /// Why the last session or attempt ended, until the next one stays.
    pub last_error: Option<String>,
    /// Seconds since then.
    pub last_error_seconds: Option<u64>,
    /// Seconds until a session that is Idle begins again by itself; null when it waits for something else.
    pub restart_seconds: Option<u64>,
    /// The negotiated hold time, or the configured one.
    pub hold_time: u64,
    /// Seconds between our KEEPALIVEs.
    pub keepalive: Option<u64>,
    /// The families in use, or those offered.
    pub families: Vec<Family>,
    /// What the peer offered, by name.
    pub capabilities: Vec<String>,
    /// The peer's BGP identifier.
    pub router_id: Option<String>,
    /// The peer's host name, if it told.
    pub hostname: Option<String>,
    /// Whether graceful restart is in use.
    pub graceful_restart: bool,
    /// How the connection is authenticated: `md5`, `tcp_ao`, or null.
    pub authentication: Option<&'static str>,
    /// The group it is configured in.
    pub group: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// Not configured, but from a listen range.
    pub dynamic: bool,
    /// Never dialed.
    pub passive: bool,
    /// `up`, `down`, `init` or `admin_down`; null without BFD.
    pub bfd: Option<&'static str>,
}

/// How near a family of a neighbour is to `max_prefixes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PrefixLimit {
    /// The family.
    pub family: Family,
    /// More than this ends the session.
    pub limit: u32,
    /// From this on there is a warning; null when there is none.
    pub warning: Option<u32>,
    /// Prefixes kept.
    pub prefixes: u32,
    /// Where that is.
    pub state: PrefixLimitState,
}

/// Where a count of prefixes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PrefixLimitState {
    /// Below the warning.
    Ok,
    /// Near the limit.
    Warning,
    /// The session ended for it, and there is no new one yet.
    Exceeded,
}

/// What a peer's task tells of itself.
#[derive(Clone, Debug, Default)]
pub(super) struct TaskStatus {
    pub(super) state: State,
    pub(super) established: Option<Instant>,
    pub(super) negotiated: Option<Arc<Negotiated>>,
    pub(super) counters: Counters,
    pub(super) last_error: Option<(String, Instant)>,
    /// When a session that is Idle begins again by itself.
    pub(super) idle_until: Option<Instant>,
    pub(super) address: Option<String>,
    pub(super) local_address: Option<String>,
}

/// The shared copy of it.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedStatus(Arc<Mutex<TaskStatus>>);

impl SharedStatus {
    pub(super) fn update(&self, change: impl FnOnce(&mut TaskStatus)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn read(&self) -> TaskStatus {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Prefix counts, from the RIB.
#[derive(Clone, Debug, Default)]
pub(super) struct PrefixCounts {
    pub(super) accepted: u64,
    /// Of each family: how many, and whether there were too many.
    pub(super) families: PerFamily<(u32, bool)>,
    pub(super) rejected: BTreeMap<Rejection, u64>,
    pub(super) identities_stripped: u64,
    pub(super) sent: u64,
}

impl PrefixCounts {
    pub(super) fn of(stats: &PeerStats) -> Self {
        let mut counts = Self::default();
        for (name, family) in &stats.families {
            counts.families[*name] = (family.accepted, family.over_limit);
            counts.accepted += u64::from(family.accepted);
            for (reason, count) in &family.rejected {
                *counts.rejected.entry(*reason).or_default() += count;
            }
            counts.identities_stripped += family.identities_stripped;
            counts.sent += family.sent as u64;
        }
        counts
    }
}

pub(super) fn peer_status(
    id: PeerId,
    config: &PeerConfig,
    speaker_asn: u32,
    dynamic: bool,
    task: &TaskStatus,
    counts: PrefixCounts,
    bfd: Option<&'static str>,
) -> PeerStatus {
    let negotiated = task.negotiated.as_deref();
    let settings = &config.settings;
    let configured_asn = match &settings.asn {
        RemoteAs::Is(asn) => Some(asn.get()),
        RemoteAs::Internal => Some(speaker_asn),
        RemoteAs::OneOf(list) => match list.as_slice() {
            [only] => Some(only.get()),
            _ => None,
        },
        RemoteAs::External => None,
    };
    let peer = config.address.to_string();
    let families = match negotiated {
        Some(n) => Family::ALL.into_iter().filter(|f| n.families[*f]).collect(),
        None => settings.families.clone(),
    };
    let prefix_limits = prefix_limits(config, &families, &counts);
    PeerStatus {
        id,
        address: task.address.clone().filter(|address| *address != peer),
        peer,
        local_address: task.local_address.clone(),
        asn: negotiated.map(|n| n.peer_asn.get()).or(configured_asn),
        local_asn: settings.local_asn.map_or(speaker_asn, Asn::get),
        kind: negotiated.map(|n| match n.kind {
            PeerKind::Internal => "internal",
            PeerKind::External => "external",
        }),
        state: task.state,
        uptime_seconds: task.established.map(|since| since.elapsed().as_secs()),
        prefixes_received: counts.accepted,
        prefixes_accepted: counts.accepted,
        prefixes_rejected: counts.rejected.values().sum(),
        rejected: Rejection::ALL.map(|r| (r, counts.rejected.get(&r).copied().unwrap_or(0))).into(),
        identities_stripped: counts.identities_stripped,
        prefixes_sent: counts.sent,
        messages_received: task.counters.messages_received,
        messages_sent: task.counters.messages_sent,
        updates_received: task.counters.updates_received,
        updates_sent: task.counters.updates_sent,
        updates_withdrawn: task.counters.updates_withdrawn,
        updates_discarded: task.counters.updates_discarded,
        established_count: task.counters.established,
        last_error: task.last_error.as_ref().map(|(text, _)| text.clone()),
        last_error_seconds: task.last_error.as_ref().map(|(_, at)| at.elapsed().as_secs()),
        hold_time: negotiated.map_or(settings.timers.hold_time, |n| n.hold_time).as_secs(),
        keepalive: negotiated.map(|n| n.keepalive.as_secs()),
        families,
        prefix_limits,
        restart_seconds: (task.idle_until)
            .map(|at| at.saturating_duration_since(Instant::now()).as_millis().div_ceil(1000) as u64),
        capabilities: negotiated.map(|n| capability_names(&n.peer_capabilities)).unwrap_or_default(),
        router_id: negotiated.map(|n| n.peer_router_id.to_string()),
        hostname: negotiated.and_then(|n| n.peer_hostname.clone()),
        graceful_restart: negotiated.is_some_and(|n| n.graceful_restart.is_some()),
        authentication: if settings.tcp_ao.is_empty() {
            settings.password.as_ref().map(|_| "md5")
        } else {
            Some("tcp_ao")
        },
        group: settings.group.clone(),
        description: settings.description.clone(),
        dynamic,
        passive: settings.passive,
        bfd,
    }
}

fn prefix_limits(config: &PeerConfig, families: &[Family], counts: &PrefixCounts) -> Vec<PrefixLimit> {
    let Some(max) = config.settings.max_prefixes else { return Vec::new() };
    let of_family = |family: &Family| {
        let (prefixes, exceeded) = counts.families[*family];
        let state = match (exceeded, max.is_near(prefixes)) {
            (true, _) => PrefixLimitState::Exceeded,
            (_, true) => PrefixLimitState::Warning,
            _ => PrefixLimitState::Ok,
        };
        PrefixLimit { family: *family, limit: max.limit, warning: max.warning(), prefixes, state }
    };
    families.iter().map(of_family).collect()
}

fn capability_names(list: &[Capability]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for capability in list {
        let number = capability_code(capability);
        let name = match code::capability_name(number) {
            "Unknown" => format!("Unknown ({number})"),
            known => known.to_owned(),
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

const fn capability_code(capability: &Capability) -> u8 {
    use code::capability as c;
    match capability {
        Capability::Multiprotocol { .. } => c::MULTIPROTOCOL,
        Capability::RouteRefresh => c::ROUTE_REFRESH,
        Capability::ExtendedNextHop(_) => c::EXTENDED_NEXT_HOP,
        Capability::ExtendedMessage => c::EXTENDED_MESSAGE,
        Capability::Role(_) => c::ROLE,
        Capability::GracefulRestart { .. } => c::GRACEFUL_RESTART,
        Capability::FourOctetAs(_) => c::FOUR_OCTET_AS,
        Capability::AddPath(_) => c::ADD_PATH,
        Capability::EnhancedRouteRefresh => c::ENHANCED_ROUTE_REFRESH,
        Capability::LongLivedGracefulRestart(_) => c::LONG_LIVED_GRACEFUL_RESTART,
        Capability::Fqdn { .. } => c::FQDN,
        Capability::Unknown { code, .. } => *code,
    }
}
