//! `[bgp]`: the speaker and its neighbours.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use super::{Pool, Surroundings, auth, file, locate::Step, resolve::Errors};
use crate::{
    bgp::config::{
        AddPathConfig, BfdConfig, GracefulRestart, IdentityMode, ListenRange, MaxPrefixes, NextHopMode,
        PeerAddress, PeerConfig, PeerSettings, RemoteAs, Role, RoleConfig, SpeakerConfig, Timers,
    },
    bgp::rib::filter::Rule,
    model::{Asn, RouterId},
};

/// The identity domain when none is configured: a private AS number, the same for a whole cluster by default.
const DEFAULT_IDENTITY_DOMAIN: u32 = 4_200_000_000;
/// The most additional paths sent when `add_path` says `send` or `both`.
const ADD_PATH_SEND: u16 = 64;

/// What peers and ranges inherit and are checked against.
struct Context<'a> {
    asn: Asn,
    base: &'a Path,
    route_reflector: bool,
    graceful_restart: GracefulRestart,
    groups: std::collections::BTreeMap<String, file::Peer>,
}

pub(super) fn speaker(
    table: file::Bgp,
    hostname: &str,
    pools: &[Pool],
    base: &Path,
    surroundings: &Surroundings,
    errors: &mut Errors<'_>,
) -> Option<SpeakerConfig> {
    let Some(asn) = table.asn else {
        let help = "add `asn = 64512` or another one for private use (RFC 6996), or your own";
        errors.at_with_help(&["bgp".into()], "`[bgp] asn`, the AS number of this host, is missing", help);
        return None;
    };
    let Some(router_id) = table.router_id.or_else(|| RouterId::new(surroundings.router_id?).ok()) else {
        errors.at_with_help(
            &["bgp".into()],
            "no router id: the host has no IPv4 address to take it from",
            "set `router_id` to any unique IPv4-style number",
        );
        return None;
    };
    if let Some(multipath) = table.multipath.filter(|m| !(1..=64).contains(m)) {
        errors.at(&["bgp".into(), "multipath".into()], format!("multipath must be 1 to 64, not {multipath}"));
    }
    if table.restart_time.is_some_and(|t| t > 4095) {
        errors.at(
            &["bgp".into(), "restart_time".into()],
            "restart_time is at most 4095 seconds (RFC 4724, 12 bits)",
        );
    }
    if table.long_lived_stale_time.is_some_and(|t| t >= 1 << 24) {
        errors.at(
            &["bgp".into(), "long_lived_stale_time".into()],
            "long_lived_stale_time is at most 16777215 seconds (RFC 9494, 24 bits)",
        );
    }
    if table.cluster_id.is_some() && !table.route_reflector {
        errors.at(
            &["bgp".into(), "cluster_id".into()],
            "cluster_id has no meaning without `route_reflector = true`",
        );
    }
    let mut config = SpeakerConfig::new(asn, router_id);
    config.graceful_restart.enabled = table.graceful_restart.unwrap_or(true);
    if let Some(seconds) = table.restart_time {
        config.graceful_restart.restart_time = Duration::from_secs(seconds.into());
    }
    config.graceful_restart.long_lived = table.long_lived_stale_time.map(|s| Duration::from_secs(s.into()));
    if let Some(listen) = table.listen {
        config.listen = listen;
    }
    config.hostname = (!hostname.is_empty()).then(|| hostname.to_owned());
    config.route_reflector = table.route_reflector;
    config.cluster_id = table.cluster_id;
    config.transit = table.transit;
    config.multipath = table.multipath.map_or(64, u16::from);
    config.multipath_relax = table.multipath_relax.unwrap_or(true);
    config.identity_domain = match table.identity_domain {
        Some(0) => None,
        other => other.or(Some(DEFAULT_IDENTITY_DOMAIN)),
    };
    config.identity_pools = pools.iter().map(|pool| pool.cidr).collect();
    config.originate = table.originate;
    config.decision.always_compare_med = table.always_compare_med;
    config.decision.missing_med_worst = table.missing_med_worst;
    config.decision.prefer_oldest = table.prefer_oldest;
    config.next_hop_check = table.next_hop_check;

    let context = Context {
        asn,
        base,
        route_reflector: table.route_reflector,
        graceful_restart: config.graceful_restart,
        groups: table.group,
    };
    for (name, group) in &context.groups {
        let place = |key| [Step::Key("bgp"), Step::Key("group"), Step::Key(name), Step::Key(key)];
        if group.address.is_some() || group.interface.is_some() {
            let key = if group.address.is_some() { "address" } else { "interface" };
            errors.at(
                &place(key),
                "a group has no address or interface of its own; give it to each [[bgp.peer]]",
            );
        }
        if group.group.is_some() {
            errors.at(&place("group"), "a group cannot be in a group");
        }
    }
    let mut seen = BTreeSet::new();
    for (i, peer) in table.peer.into_iter().enumerate() {
        let place = [Step::Key("bgp"), Step::Key("peer"), Step::Index(i)];
        if let Some(peer) = context.peer(peer, &place, errors) {
            if !seen.insert(peer.address.clone()) {
                errors
                    .at(&with(&place, "address"), format!("neighbour {} is configured twice", peer.address));
            }
            config.peers.push(peer);
        }
    }
    for (i, range) in table.listen_range.into_iter().enumerate() {
        let place = [Step::Key("bgp"), Step::Key("listen_range"), Step::Index(i)];
        if let Some(range) = context.listen_range(range, &place, errors) {
            config.listen_ranges.push(range);
        }
    }
    auth::check_ranges(&config, errors);
    super::monitoring::collectors(table.bmp, &mut config, errors);
    config.mrt = super::monitoring::update_log(table.mrt, errors);
    Some(config)
}

pub(super) fn with<'a>(place: &[Step<'a>], key: &'a str) -> Vec<Step<'a>> {
    place.iter().copied().chain([Step::Key(key)]).collect()
}

impl Context<'_> {
    fn in_group(&self, peer: file::Peer, place: &[Step<'_>], errors: &mut Errors<'_>) -> Option<file::Peer> {
        let Some(name) = peer.group.clone() else { return Some(peer) };
        if let Some(group) = self.groups.get(&name) {
            return Some(peer.over(group.clone()));
        }
        let known: Vec<&str> = self.groups.keys().map(String::as_str).collect();
        let help = if known.is_empty() {
            format!("add a table [bgp.group.{name}]")
        } else {
            format!("the groups are: {}", known.join(", "))
        };
        errors.at_with_help(&with(place, "group"), format!("there is no group `{name}`"), help);
        None
    }

    fn peer(&self, peer: file::Peer, place: &[Step<'_>], errors: &mut Errors<'_>) -> Option<PeerConfig> {
        let peer = self.in_group(peer, place, errors)?;
        let address = match (peer.address, peer.interface.clone()) {
            (Some(IpAddr::V6(addr)), Some(interface)) if addr.is_unicast_link_local() => {
                PeerAddress::LinkLocal { addr, interface }
            }
            (Some(addr), None) => PeerAddress::Ip(addr),
            (None, Some(interface)) => PeerAddress::Interface(interface),
            (Some(addr), Some(_)) => {
                errors.at_with_help(
                    &with(place, "interface"),
                    format!("both `address` and `interface` are given, but {addr} is not link-local"),
                    "remove one of them",
                );
                return None;
            }
            (None, None) => {
                errors.at_with_help(
                    place,
                    "this peer has neither `address` nor `interface`",
                    "add `address = \"192.0.2.1\"`",
                );
                return None;
            }
        };
        if let PeerAddress::Ip(addr) = &address {
            let link_local = matches!(addr, IpAddr::V6(a) if a.is_unicast_link_local());
            if link_local {
                errors.at(
                    &with(place, "address"),
                    format!("{addr} is link-local: add `interface` to say where"),
                );
            } else if addr.is_unspecified()
                || addr.is_multicast()
                || *addr == IpAddr::V6(Ipv6Addr::LOCALHOST) && peer.port.is_none()
            {
                errors.at(&with(place, "address"), format!("{addr} cannot be a neighbour's address"));
            }
        }
        let port = peer.port.unwrap_or(SpeakerConfig::PORT);
        if port == 0 {
            errors.at(&with(place, "port"), "port 0 cannot be dialled");
        }
        let asn = match peer.asn {
            Some(file::PeerAsn::Number(asn)) => RemoteAs::Is(asn),
            Some(file::PeerAsn::Internal) => RemoteAs::Internal,
            Some(file::PeerAsn::External) => RemoteAs::External,
            None => {
                errors.at_with_help(
                    place,
                    format!("peer {address} has no AS number"),
                    "add `asn = 65000`, or `asn = \"internal\"` or `\"external\"`",
                );
                return None;
            }
        };
        if let (PeerAddress::Ip(remote), Some(local)) = (&address, peer.local_address)
            && remote.is_ipv4() != local.is_ipv4()
        {
            errors.at(
                &with(place, "local_address"),
                format!("{local} and the peer's {remote} are of different families"),
            );
        }
        Some(PeerConfig { address, port, settings: self.settings(peer, asn, place, errors) })
    }

    fn listen_range(
        &self,
        range: file::ListenRange,
        place: &[Step<'_>],
        errors: &mut Errors<'_>,
    ) -> Option<ListenRange> {
        let template = file::Peer { group: range.group, ..file::Peer::default() };
        let template = self.in_group(template, place, errors)?;
        let asn = match (range.asn.as_slice(), template.asn) {
            ([one], _) => RemoteAs::Is(*one),
            ([_, ..], _) => RemoteAs::OneOf(range.asn),
            ([], Some(file::PeerAsn::Number(asn))) => RemoteAs::Is(asn),
            ([], Some(file::PeerAsn::Internal)) => RemoteAs::Internal,
            ([], Some(file::PeerAsn::External)) => RemoteAs::External,
            ([], None) => {
                errors.at(
                    place,
                    format!("the range {} has no AS number: add `asn` or a group that has one", range.prefix),
                );
                return None;
            }
        };
        let limit = range.limit.unwrap_or(100);
        if limit == 0 {
            errors.at(&with(place, "limit"), "a limit of 0 lets nobody in");
        }
        Some(ListenRange {
            prefix: range.prefix,
            limit,
            settings: self.settings(template, asn, place, errors),
        })
    }

    fn settings(
        &self,
        peer: file::Peer,
        asn: RemoteAs,
        place: &[Step<'_>],
        errors: &mut Errors<'_>,
    ) -> PeerSettings {
        let internal = asn.accepts(self.asn, self.asn);
        let client = peer.route_reflector_client.unwrap_or(false);
        if client && !self.route_reflector {
            errors.at(
                &with(place, "route_reflector_client"),
                "a client needs `route_reflector = true` in [bgp]",
            );
        } else if client && !internal {
            errors.at(
                &with(place, "route_reflector_client"),
                "only an iBGP neighbour can be a route reflector client",
            );
        }
        let families = peer.families.clone().unwrap_or_else(|| crate::model::Family::ALL.to_vec());
        if families.is_empty() {
            errors.at(&with(place, "families"), "at least one family is needed");
        }
        let next_hop = match (peer.next_hop_self.unwrap_or(false), peer.next_hop_unchanged.unwrap_or(false)) {
            (true, true) => {
                errors.at(
                    &with(place, "next_hop_unchanged"),
                    "next_hop_self and next_hop_unchanged exclude each other",
                );
                NextHopMode::Auto
            }
            (true, false) => NextHopMode::Ourselves,
            (false, true) => NextHopMode::Unchanged,
            (false, false) => NextHopMode::Auto,
        };
        let ttl_security = peer.ttl_security.unwrap_or(false);
        if ttl_security && peer.multihop.is_some() {
            errors.at(&with(place, "ttl_security"), "ttl_security and multihop exclude each other");
        }
        if peer.multihop == Some(0) {
            errors.at(&with(place, "multihop"), "multihop is a TTL: 1 to 255");
        }
        PeerSettings {
            asn,
            local_asn: peer.local_asn,
            local_address: peer.local_address,
            passive: peer.passive.unwrap_or(false),
            multihop: peer.multihop,
            ttl_security: ttl_security.then_some(1),
            password: auth::password(&peer, self.base, place, errors),
            tcp_ao: auth::tcp_ao(&peer, self.base, place, errors),
            timers: timers(&peer, place, errors),
            families,
            route_reflector_client: client,
            next_hop,
            allowas_in: peer.allowas_in.unwrap_or(0),
            enforce_first_as: peer.enforce_first_as.unwrap_or(true),
            as_override: peer.as_override.unwrap_or(false),
            remove_private: peer.remove_private.unwrap_or(false),
            add_path: add_path(peer.add_path),
            max_prefixes: max_prefixes(&peer, place, errors),
            bfd: bfd(peer.bfd, peer.multihop.is_some(), place, errors),
            identity: peer.identity.map(|mode| match mode {
                file::IdentityMode::Accept => IdentityMode::Accept,
                file::IdentityMode::Ignore => IdentityMode::Ignore,
            }),
            graceful_restart: peer
                .graceful_restart
                .map(|enabled| GracefulRestart { enabled, ..self.graceful_restart }),
            role: role(&peer, place, errors),
            import: rules(peer.import.clone(), "import", place, errors),
            export: rules(peer.export.clone(), "export", place, errors),
            send_link_bandwidth: peer.send_link_bandwidth.unwrap_or(false),
            shutdown: peer.shutdown.unwrap_or(false).then(String::new),
            group: peer.group,
            description: peer.description,
            ..PeerSettings::default()
        }
    }
}

fn timers(peer: &file::Peer, place: &[Step<'_>], errors: &mut Errors<'_>) -> Timers {
    let defaults = Timers::default();
    let seconds = |value: Option<u16>, default| value.map_or(default, |s| Duration::from_secs(s.into()));
    if matches!(peer.hold_time, Some(1 | 2)) {
        errors
            .at(&with(place, "hold_time"), "the hold time is 0 or at least 3 seconds (RFC 4271 section 4.2)");
    }
    let timers = Timers {
        hold_time: seconds(peer.hold_time, defaults.hold_time),
        keepalive: peer.keepalive.map(|s| Duration::from_secs(s.into())),
        connect_retry: seconds(peer.connect_retry, defaults.connect_retry),
        delay_open: seconds(peer.delay_open, defaults.delay_open),
        idle_hold: seconds(peer.idle_hold, defaults.idle_hold),
        ..defaults
    };
    if timers.keepalive.is_some_and(|k| k.is_zero() || (k >= timers.hold_time && !timers.hold_time.is_zero()))
    {
        errors.at(
            &with(place, "keepalive"),
            "the keepalive interval must be at least 1 second and less than the hold time",
        );
    }
    if timers.connect_retry.is_zero() {
        errors.at(&with(place, "connect_retry"), "connect_retry must be at least 1 second");
    }
    timers
}

fn add_path(mode: Option<file::AddPath>) -> AddPathConfig {
    match mode {
        None => AddPathConfig::default(),
        Some(file::AddPath::Receive) => AddPathConfig { receive: true, send: 0 },
        Some(file::AddPath::Send) => AddPathConfig { receive: false, send: ADD_PATH_SEND },
        Some(file::AddPath::Both) => AddPathConfig { receive: true, send: ADD_PATH_SEND },
    }
}

fn max_prefixes(peer: &file::Peer, place: &[Step<'_>], errors: &mut Errors<'_>) -> Option<MaxPrefixes> {
    let warning_percent = peer.max_prefixes_warning.unwrap_or(75);
    if !(1..=100).contains(&warning_percent) {
        errors.at(&with(place, "max_prefixes_warning"), "the warning threshold is a percentage, 1 to 100");
    }
    let Some(limit) = peer.max_prefixes else {
        for (key, given) in [
            ("max_prefixes_warning", peer.max_prefixes_warning.is_some()),
            ("max_prefixes_restart", peer.max_prefixes_restart.is_some()),
        ] {
            if given {
                errors.at(&with(place, key), format!("{key} has no meaning without max_prefixes"));
            }
        }
        return None;
    };
    let restart = peer.max_prefixes_restart.map(|s| Duration::from_secs(s.into()));
    Some(MaxPrefixes { limit, warning_percent, restart })
}

fn bfd(
    setting: Option<file::Bfd>,
    multihop: bool,
    place: &[Step<'_>],
    errors: &mut Errors<'_>,
) -> Option<BfdConfig> {
    let defaults = BfdConfig { multihop, ..BfdConfig::default() };
    match setting? {
        file::Bfd::Switch(on) => on.then_some(defaults),
        file::Bfd::Table(table) => {
            let interval = table.interval_ms.unwrap_or(300);
            if !(10..=60_000).contains(&interval) {
                errors.at(&with(place, "bfd"), "interval_ms must be 10 to 60000");
            }
            if table.multiplier.is_some_and(|m| m < 2) {
                errors.at(
                    &with(place, "bfd"),
                    "a multiplier below 2 takes every lost packet for a failure; use 3",
                );
            }
            Some(BfdConfig {
                interval: Duration::from_millis(interval.into()),
                multiplier: table.multiplier.unwrap_or(defaults.multiplier),
                multihop: table.multihop.unwrap_or(multihop),
                strict: table.strict,
                graceful: table.graceful,
            })
        }
    }
}

fn rules(rules: Option<Vec<Rule>>, key: &str, place: &[Step<'_>], errors: &mut Errors<'_>) -> Arc<[Rule]> {
    let rules = rules.unwrap_or_default();
    for (i, rule) in rules.iter().enumerate() {
        let place: Vec<_> = place.iter().copied().chain([Step::Key(key), Step::Index(i)]).collect();
        if (rule.ge.is_some() || rule.le.is_some()) && rule.prefix.is_empty() {
            errors.at(&place, "`ge` and `le` have no meaning without `prefix`");
        }
        for prefix in &rule.prefix {
            let bits = prefix.family().bits();
            let (ge, le) = (rule.ge.unwrap_or(prefix.len()), rule.le.unwrap_or(bits));
            if ge < prefix.len() || le > bits || ge > le {
                errors.at(
                    &place,
                    format!(
                        "for {prefix}, `ge` and `le` must be {} to {bits}, `ge` not above `le`",
                        prefix.len()
                    ),
                );
            }
        }
    }
    rules.into()
}

fn role(peer: &file::Peer, place: &[Step<'_>], errors: &mut Errors<'_>) -> Option<RoleConfig> {
    let strict = peer.role_strict.unwrap_or(false);
    if strict && peer.role.is_none() {
        errors.at(&with(place, "role_strict"), "role_strict has no meaning without role");
    }
    let role = match peer.role? {
        file::Role::Provider => Role::Provider,
        file::Role::RouteServer => Role::RouteServer,
        file::Role::RouteServerClient => Role::RouteServerClient,
        file::Role::Customer => Role::Customer,
        file::Role::Peer => Role::Peer,
    };
    Some(RoleConfig { role, strict })
}
