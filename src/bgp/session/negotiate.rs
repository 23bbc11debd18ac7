//! OPEN: what we offer, whether we accept what the peer says, and what follows from both.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use super::{Failure, SessionConfig};
use crate::{
    bgp::{
        config::{RemoteAs, Role},
        wire::{
            Capability, DecodeContext, EncodeContext, MAX_EXTENDED_MESSAGE, MAX_MESSAGE, Notification, Open,
            PeerKind, PerFamily, code,
        },
    },
    model::{Asn, Family, RouterId},
};

/// SAFI unicast.
const UNICAST: u8 = 1;
/// The longest restart time, 12 bits (RFC 4724 section 3).
const MAX_RESTART_TIME: u16 = 0x0FFF;
/// The longest stale time, 24 bits (RFC 9494 section 3).
const MAX_STALE_TIME: u32 = 0x00FF_FFFF;

const fn afi(family: Family) -> u16 {
    match family {
        Family::Ipv4 => 1,
        Family::Ipv6 => 2,
    }
}

const fn family_of(afi: u16, safi: u8) -> Option<Family> {
    match (afi, safi) {
        (1, UNICAST) => Some(Family::Ipv4),
        (2, UNICAST) => Some(Family::Ipv6),
        _ => None,
    }
}

/// The family of an AFI and SAFI.
pub(super) const fn family_from_wire(afi: u16, safi: u8) -> Option<Family> {
    family_of(afi, safi)
}

/// The AFI and SAFI of a family.
pub(super) const fn family_to_wire(family: Family) -> (u16, u8) {
    (afi(family), UNICAST)
}

/// What both sides agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// The peer's AS number.
    pub peer_asn: Asn,
    /// The AS number we presented.
    pub local_asn: Asn,
    /// Internal or external.
    pub kind: PeerKind,
    /// The peer's BGP identifier.
    pub peer_router_id: RouterId,
    /// The hold time; zero: none.
    pub hold_time: Duration,
    /// The one that the peer offered.
    pub peer_hold_time: Duration,
    /// The time between KEEPALIVEs; zero: none.
    pub keepalive: Duration,
    /// The families both sides offered.
    pub families: PerFamily<bool>,
    /// Four-octet AS numbers (RFC 6793).
    pub four_octet_as: bool,
    /// We may get several paths of a prefix.
    pub add_path_receive: PerFamily<bool>,
    /// We may send several paths of a prefix.
    pub add_path_send: PerFamily<bool>,
    /// IPv4 prefixes may have IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// The peer takes messages of up to 65,535 octets (RFC 8654).
    pub extended_message: bool,
    /// Routes can be asked for again (RFC 2918).
    pub route_refresh: bool,
    /// With marks for begin and end (RFC 7313).
    pub enhanced_refresh: bool,
    /// Graceful restart, if both sides offered it.
    pub graceful_restart: Option<PeerRestart>,
    /// Our role, and the peer's, if it told.
    pub roles: Option<(Role, Option<Role>)>,
    /// The peer's host name, from the FQDN capability.
    pub peer_hostname: Option<String>,
    /// All that the peer offered, in its order.
    pub peer_capabilities: Vec<Capability>,
}

/// What the peer said about restarts of its own (RFC 4724, RFC 8538, RFC 9494), for families in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRestart {
    /// R bit: it has restarted just now; do not wait for its End-of-RIB before sending ours.
    pub restarting: bool,
    /// N bit of both sides: a NOTIFICATION other than a hard reset keeps the routes.
    pub notification: bool,
    /// How long it may take to come back.
    pub restart_time: Duration,
    /// For each family it can restart: whether its forwarding state was kept.
    pub families: PerFamily<Option<bool>>,
    /// For each family with long-lived restart: whether forwarding state was kept, and the stale time.
    pub long_lived: PerFamily<Option<(bool, Duration)>>,
}

impl Negotiated {
    /// How to read what the peer sends.
    pub fn decode_context(&self) -> DecodeContext {
        DecodeContext {
            peer: self.kind,
            four_octet: self.four_octet_as,
            families: self.families,
            add_path: self.add_path_receive,
            extended_next_hop: self.extended_next_hop,
            // We always offer it, and who offers must accept (RFC 8654 section 4).
            extended_message: true,
        }
    }

    /// How to write what the peer reads.
    pub fn encode_context(&self) -> EncodeContext {
        EncodeContext {
            four_octet: self.four_octet_as,
            add_path: self.add_path_send,
            max_message: if self.extended_message { MAX_EXTENDED_MESSAGE } else { MAX_MESSAGE },
        }
    }
}

/// What changes from one OPEN of ours to the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenState {
    /// R bit: we have restarted and not been established with this peer since.
    pub(super) restarting: bool,
    /// F bits: our forwarding state survived (a restart of ours, or the loss of the last session).
    pub(super) forwarding: bool,
    /// The peer does not understand optional parameters (RFC 5492 section 3).
    pub(super) bare: bool,
}

/// Our OPEN.
pub(super) fn our_open(config: &SessionConfig, state: OpenState) -> Open {
    let asn = config.local_asn.get();
    Open {
        version: 4,
        my_as: u16::try_from(asn).unwrap_or(Asn::TRANS.get() as u16),
        hold_time: seconds(config.timers.hold_time),
        router_id: config.router_id.addr(),
        capabilities: if state.bare { Vec::new() } else { our_capabilities(config, state) },
    }
}

fn seconds(time: Duration) -> u16 {
    u16::try_from(time.as_secs()).unwrap_or(u16::MAX)
}

fn our_capabilities(config: &SessionConfig, state: OpenState) -> Vec<Capability> {
    let mut list: Vec<_> = config
        .offered_families()
        .map(|family| Capability::Multiprotocol { afi: afi(family), safi: UNICAST })
        .collect();
    list.push(Capability::RouteRefresh);
    if config.families.ipv4 {
        list.push(Capability::ExtendedNextHop(vec![(1, u16::from(UNICAST), 2)]));
    }
    list.push(Capability::ExtendedMessage);
    if let Some(role) = config.role.filter(|_| may_be_external(config)) {
        list.push(Capability::Role(role.role as u8));
    }
    let restart = config.graceful_restart;
    if restart.enabled {
        list.push(Capability::GracefulRestart {
            restart_state: state.restarting,
            notification: true,
            restart_time: seconds(restart.restart_time).min(MAX_RESTART_TIME),
            families: config.offered_families().map(|f| (afi(f), UNICAST, state.forwarding)).collect(),
        });
    }
    list.push(Capability::FourOctetAs(config.local_asn.get()));
    let add_path = u8::from(config.add_path.receive) | if config.add_path.send > 0 { 2 } else { 0 };
    if add_path != 0 {
        list.push(Capability::AddPath(
            config.offered_families().map(|f| (afi(f), UNICAST, add_path)).collect(),
        ));
    }
    list.push(Capability::EnhancedRouteRefresh);
    // RFC 9494 section 4.1: without graceful restart it would be ignored.
    if let Some(time) = restart.long_lived.filter(|_| restart.enabled) {
        let time = u32::try_from(time.as_secs()).unwrap_or(u32::MAX).min(MAX_STALE_TIME);
        list.push(Capability::LongLivedGracefulRestart(
            config.offered_families().map(|f| (afi(f), UNICAST, state.forwarding, time)).collect(),
        ));
    }
    if let Some(hostname) = &config.hostname {
        list.push(Capability::Fqdn { hostname: hostname.clone(), domain: String::new() });
    }
    list
}

fn may_be_external(config: &SessionConfig) -> bool {
    match &config.remote_asn {
        RemoteAs::Is(asn) => *asn != config.local_asn,
        RemoteAs::Internal => false,
        RemoteAs::External => true,
        RemoteAs::OneOf(list) => list.iter().any(|asn| *asn != config.local_asn),
    }
}

/// Judges the peer's OPEN and combines it with ours. The error is the NOTIFICATION to send.
///
/// The decoder has refused version, hold time, identifier 0 and AS 0 already.
pub(super) fn negotiate(
    config: &SessionConfig,
    state: OpenState,
    open: &Open,
) -> Result<Negotiated, Failure> {
    let theirs = &open.capabilities;
    let asn_capability = theirs.iter().find_map(|c| match c {
        Capability::FourOctetAs(asn) => Some(*asn),
        _ => None,
    });
    let peer_asn = peer_asn(config, open.my_as, asn_capability)?;
    let kind = if peer_asn == config.local_asn { PeerKind::Internal } else { PeerKind::External };
    let peer_router_id = RouterId::new(open.router_id).map_err(|_| bad_id("BGP identifier 0.0.0.0"))?;
    // RFC 6286 section 2.2: identifiers must differ within an AS only.
    if kind == PeerKind::Internal && peer_router_id == config.router_id {
        return Err(bad_id("the internal peer has our BGP identifier"));
    }
    let families = families(config, state, theirs)?;
    let roles = roles(config, kind, theirs)?;
    let peer_hold_time = Duration::from_secs(open.hold_time.into());
    // The smaller of both (RFC 4271 section 4.2), as it was told: in whole seconds.
    let hold_time = Duration::from_secs(seconds(config.timers.hold_time).into()).min(peer_hold_time);
    let both = |ours: bool, test: fn(&Capability) -> bool| ours && !state.bare && theirs.iter().any(test);
    let (add_path_receive, add_path_send) = add_path(config, state, families, theirs);
    Ok(Negotiated {
        peer_asn,
        local_asn: config.local_asn,
        kind,
        peer_router_id,
        hold_time,
        peer_hold_time,
        keepalive: keepalive(config, hold_time),
        families,
        four_octet_as: both(true, |c| matches!(c, Capability::FourOctetAs(_))),
        add_path_receive,
        add_path_send,
        extended_next_hop: families.ipv4
            && both(true, |c| match c {
                Capability::ExtendedNextHop(list) => list.contains(&(1, u16::from(UNICAST), 2)),
                _ => false,
            }),
        extended_message: both(true, |c| *c == Capability::ExtendedMessage),
        route_refresh: both(true, |c| *c == Capability::RouteRefresh),
        enhanced_refresh: both(true, |c| *c == Capability::EnhancedRouteRefresh),
        graceful_restart: graceful_restart(config, state, families, theirs),
        roles,
        peer_hostname: theirs.iter().find_map(|c| match c {
            Capability::Fqdn { hostname, domain } if domain.is_empty() => Some(hostname.clone()),
            Capability::Fqdn { hostname, domain } => Some(format!("{hostname}.{domain}")),
            _ => None,
        }),
        peer_capabilities: theirs.clone(),
    })
}

fn open_error(subcode: u8, data: Bytes, detail: impl Into<String>) -> Failure {
    Failure::Sent {
        notification: Notification { code: code::error::OPEN, subcode, data },
        detail: detail.into(),
    }
}

fn bad_id(detail: &str) -> Failure {
    open_error(3, Bytes::new(), detail)
}

fn peer_asn(config: &SessionConfig, my_as: u16, capability: Option<u32>) -> Result<Asn, Failure> {
    let bad = |detail: String| open_error(2, Bytes::copy_from_slice(&my_as.to_be_bytes()), detail);
    let claimed = match capability {
        // RFC 6793 section 4.2.1: the two-octet field has the number itself where it fits.
        Some(asn) if u32::from(my_as) != asn && u32::from(my_as) != Asn::TRANS.get() => {
            return Err(bad(format!("the OPEN says AS {my_as} and its capability AS {asn}")));
        }
        Some(asn) => asn,
        None => u32::from(my_as),
    };
    let asn = Asn::new(claimed).map_err(|e| bad(e.to_string()))?;
    if asn == Asn::TRANS && capability.is_some() {
        return Err(bad("AS_TRANS is not a speaker's number".to_owned()));
    }
    if config.remote_asn.accepts(config.local_asn, asn) {
        Ok(asn)
    } else {
        Err(bad(format!("the peer is in AS {asn}, expected {}", config.remote_asn)))
    }
}

/// RFC 4760 section 8: a family is used when both sides offer it. Who offers none speaks IPv4 unicast.
fn families(
    config: &SessionConfig,
    state: OpenState,
    theirs: &[Capability],
) -> Result<PerFamily<bool>, Failure> {
    let only_ipv4 = PerFamily { ipv4: true, ipv6: false };
    let mut offered = PerFamily::both(false);
    let mut any = false;
    for capability in theirs {
        if let Capability::Multiprotocol { afi, safi } = capability {
            any = true;
            if let Some(family) = family_of(*afi, *safi) {
                offered[family] = true;
            }
        }
    }
    let theirs = if any { offered } else { only_ipv4 };
    let ours = if state.bare { only_ipv4 } else { config.families };
    let common = PerFamily { ipv4: ours.ipv4 && theirs.ipv4, ipv6: ours.ipv6 && theirs.ipv6 };
    if common.ipv4 || common.ipv6 {
        return Ok(common);
    }
    // RFC 5492 section 4: the data lists the capabilities that we miss.
    let mut data = BytesMut::new();
    for family in config.offered_families() {
        data.put_slice(&[code::capability::MULTIPROTOCOL, 4]);
        data.put_u16(afi(family));
        data.put_slice(&[0, UNICAST]);
    }
    Err(open_error(7, data.freeze(), "no address family in common"))
}

/// RFC 9234 section 4.2.
fn roles(
    config: &SessionConfig,
    kind: PeerKind,
    theirs: &[Capability],
) -> Result<Option<(Role, Option<Role>)>, Failure> {
    let Some(ours) = config.role.filter(|_| kind == PeerKind::External) else { return Ok(None) };
    let mut told = theirs.iter().filter_map(|c| match c {
        Capability::Role(code) => Some(*code),
        _ => None,
    });
    let mismatch = |detail: String| open_error(11, Bytes::new(), detail);
    let Some(first) = told.next() else {
        return if ours.strict {
            Err(mismatch("the peer tells no role and ours is strict".to_owned()))
        } else {
            Ok(Some((ours.role, None)))
        };
    };
    if let Some(second) = told.find(|code| *code != first) {
        return Err(mismatch(format!("the peer tells two roles, {first} and {second}")));
    }
    match Role::from_code(first) {
        Some(role) if role == ours.role.counterpart() => Ok(Some((ours.role, Some(role)))),
        Some(role) => Err(mismatch(format!("we are {:?} and the peer is {role:?}", ours.role))),
        None => Err(mismatch(format!("the peer's role {first} does not exist"))),
    }
}

/// The time between KEEPALIVEs: a third of the hold time at most (RFC 4271 section 4.4).
pub(super) fn keepalive(config: &SessionConfig, hold_time: Duration) -> Duration {
    let third = hold_time / 3;
    // Not more than one a second (section 4.4); a hold time of 3 s gives exactly that.
    let keepalive = config.timers.keepalive.map_or(third, |k| k.min(third));
    if hold_time.is_zero() { Duration::ZERO } else { keepalive.max(Duration::from_secs(1)) }
}

fn add_path(
    config: &SessionConfig,
    state: OpenState,
    families: PerFamily<bool>,
    theirs: &[Capability],
) -> (PerFamily<bool>, PerFamily<bool>) {
    let (mut receive, mut send) = (PerFamily::both(false), PerFamily::both(false));
    if state.bare {
        return (receive, send);
    }
    let told = theirs.iter().flat_map(|c| match c {
        Capability::AddPath(list) => list.as_slice(),
        _ => &[],
    });
    for &(afi, safi, mode) in told {
        // RFC 7911 section 4: any other value is ignored.
        if let (Some(family), 1..=3) = (family_of(afi, safi), mode) {
            receive[family] = families[family] && config.add_path.receive && mode & 2 != 0;
            send[family] = families[family] && config.add_path.send > 0 && mode & 1 != 0;
        }
    }
    (receive, send)
}

fn graceful_restart(
    config: &SessionConfig,
    state: OpenState,
    in_use: PerFamily<bool>,
    theirs: &[Capability],
) -> Option<PeerRestart> {
    if !config.graceful_restart.enabled || state.bare {
        return None;
    }
    // Of several instances the last one counts (RFC 4724 section 3).
    let mut found = theirs.iter().rev().filter_map(|c| match c {
        Capability::GracefulRestart { restart_state, notification, restart_time, families } => {
            let mut kept = PerFamily::both(None);
            for &(afi, safi, forwarding) in families {
                if let Some(family) = family_of(afi, safi).filter(|f| in_use[*f]) {
                    kept[family] = Some(forwarding);
                }
            }
            Some(PeerRestart {
                restarting: *restart_state,
                notification: *notification,
                restart_time: Duration::from_secs(u64::from(*restart_time)),
                families: kept,
                long_lived: PerFamily::both(None),
            })
        }
        _ => None,
    });
    let mut restart = found.next()?;
    let long_lived = theirs.iter().rev().find_map(|c| match c {
        Capability::LongLivedGracefulRestart(list) => Some(list),
        _ => None,
    });
    // RFC 9494 section 4.2: used when both sides offer it.
    if let Some(list) = long_lived.filter(|_| config.graceful_restart.long_lived.is_some()) {
        for &(afi, safi, forwarding, time) in list {
            if let Some(family) = family_of(afi, safi).filter(|f| in_use[*f]) {
                restart.long_lived[family] = Some((forwarding, Duration::from_secs(u64::from(time))));
            }
        }
    }
    Some(restart)
}
