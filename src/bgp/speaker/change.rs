//! What a new configuration means for what is running.

use super::auth;
use crate::bgp::{
    config::{PeerSettings, SpeakerConfig},
    session::{Negotiated, SessionConfig},
};

/// What a change of a peer's settings calls for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// Settings that are agreed on in OPEN or belong to the connection: the session must be reset.
    pub(super) reset: Vec<&'static str>,
    /// Settings that take effect on a running session.
    pub(super) live: Vec<&'static str>,
}

/// Compares a peer's settings, with those of the speaker that they fall back on. What is agreed on in OPEN and would be
/// agreed on again as it is (`negotiated`: by the session that is up) needs no reset.
pub(super) fn of_peer(
    old: (&SpeakerConfig, &PeerSettings),
    new: (&SpeakerConfig, &PeerSettings),
    negotiated: Option<&Negotiated>,
) -> Change {
    let of_speaker = old.0.asn != new.0.asn;
    let (old_session, new_session) = (SessionConfig::new(old.0, old.1), SessionConfig::new(new.0, new.1));
    let (old, new) = (old.1, new.1);
    let mut change = Change::default();
    let mut reset = |differs: bool, what| {
        if differs {
            change.reset.push(what);
        }
    };
    let local_asn = new_session.local_asn;
    let same_neighbour = negotiated.is_some_and(|n| new.asn.accepts(local_asn, n.peer_asn));
    let same_hold_time =
        negotiated.is_some_and(|n| new.timers.hold_time.min(n.peer_hold_time) == n.hold_time);
    reset(old.asn != new.asn && !same_neighbour, "asn");
    reset(old_session.local_asn != local_asn, if of_speaker { "bgp.asn" } else { "local_asn" });
    reset(old_session.router_id != new_session.router_id, "bgp.router_id");
    reset(old.local_address != new.local_address, "local_address");
    reset(old.bind_device != new.bind_device, "bind_device");
    reset(old.multihop != new.multihop, "multihop");
    reset(old.ttl_security != new.ttl_security, "ttl_security");
    reset(old.password != new.password, "password");
    let keys_change = old.tcp_ao != new.tcp_ao;
    let roll_over = auth::can_roll_over(&old.tcp_ao, &new.tcp_ao);
    reset(keys_change && !roll_over, "tcp_ao");
    reset(old.timers.hold_time != new.timers.hold_time && !same_hold_time, "hold_time");
    reset(old_session.families != new_session.families, "families");
    reset(old.add_path != new.add_path, "add_path");
    reset(old_session.graceful_restart != new_session.graceful_restart, "graceful_restart");
    reset(old.role != new.role, "role");
    let mut live = |differs: bool, what| {
        if differs {
            change.live.push(what);
        }
    };
    let plain_timers = |s: &PeerSettings| {
        let t = s.timers;
        (t.connect_retry, t.delay_open, t.idle_hold, t.idle_hold_max, t.open_hold, t.send_hold)
    };
    live(old.asn != new.asn && same_neighbour, "asn");
    live(old.timers.hold_time != new.timers.hold_time && same_hold_time, "hold_time");
    live(old.timers.keepalive != new.timers.keepalive, "keepalive");
    live(plain_timers(old) != plain_timers(new), "timers");
    live(keys_change && roll_over, "tcp_ao");
    live(old.group != new.group, "group");
    live(old.description != new.description, "description");
    live(old.passive != new.passive, "passive");
    live(old.route_reflector_client != new.route_reflector_client, "route_reflector_client");
    live(old.next_hop != new.next_hop, "next_hop");
    live(old.allowas_in != new.allowas_in, "allowas_in");
    live(old.as_override != new.as_override, "as_override");
    live(old.remove_private != new.remove_private, "remove_private");
    live(old.enforce_first_as != new.enforce_first_as, "enforce_first_as");
    live(old.max_prefixes != new.max_prefixes, "max_prefixes");
    live(old.bfd != new.bfd, "bfd");
    live(old.identity != new.identity, "identity");
    live(old.import != new.import, "import");
    live(old.export != new.export, "export");
    live(old.send_link_bandwidth != new.send_link_bandwidth, "send_link_bandwidth");
    live(old.shutdown != new.shutdown, "shutdown");
    change
}

/// Settings of the speaker that have changed, by their names in the configuration. What each means for sessions is told
/// by neighbour.
pub(super) fn of_speaker(old: &SpeakerConfig, new: &SpeakerConfig) -> Vec<&'static str> {
    let mut list = Vec::new();
    let mut say = |differs: bool, what| {
        if differs {
            list.push(what);
        }
    };
    say(old.asn != new.asn, "asn");
    say(old.router_id != new.router_id, "router_id");
    say(old.listen != new.listen, "listen");
    say(old.route_reflector != new.route_reflector, "route_reflector");
    say(old.cluster_id != new.cluster_id, "cluster_id");
    say(old.transit != new.transit, "transit");
    say(old.multipath != new.multipath, "multipath");
    say(old.multipath_relax != new.multipath_relax, "multipath_relax");
    say(old.decision.always_compare_med != new.decision.always_compare_med, "always_compare_med");
    say(old.decision.missing_med_worst != new.decision.missing_med_worst, "missing_med_worst");
    say(old.decision.prefer_oldest != new.decision.prefer_oldest, "prefer_oldest");
    say(old.next_hop_check != new.next_hop_check, "next_hop_check");
    say(old.identity_domain != new.identity_domain, "identity_domain");
    say(old.originate != new.originate, "originate");
    list
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        bgp::config::GracefulRestart,
        model::{Asn, RouterId},
    };

    fn speaker() -> SpeakerConfig {
        SpeakerConfig::new(Asn::new(64512).unwrap(), RouterId::new([10, 0, 0, 1].into()).unwrap())
    }

    fn change(edit: impl FnOnce(&mut SpeakerConfig, &mut PeerSettings)) -> Change {
        let (mut config, mut settings) = (speaker(), PeerSettings::default());
        edit(&mut config, &mut settings);
        of_peer((&speaker(), &PeerSettings::default()), (&config, &settings), None)
    }

    #[test]
    fn only_what_must_resets() {
        assert_eq!(change(|_, _| {}), Change::default());
        assert_eq!(change(|_, s| s.timers.hold_time = Duration::from_secs(9)).reset, ["hold_time"]);
        assert_eq!(change(|_, s| s.families.pop().map_or((), drop)).reset, ["families"]);
        // The order of families means nothing.
        assert_eq!(change(|_, s| s.families.reverse()), Change::default());
        let live = change(|_, s| {
            s.description = Some("x".into());
            s.allowas_in = 1;
        });
        assert_eq!((live.reset.len(), live.live.as_slice()), (0, ["description", "allowas_in"].as_slice()));
    }

    /// Every setting: whether its change resets the session, and by which name it is told.
    #[test]
    fn every_setting() {
        use crate::bgp::config::{
            AddPathConfig, BfdConfig, IdentityMode, MaxPrefixes, NextHopMode, RemoteAs, Role, RoleConfig,
            Secret, TcpAoKey,
        };
        // A new setting does not compile before it is here, and below.
        let PeerSettings {
            asn: _,
            group: _,
            description: _,
            local_asn: _,
            local_address: _,
            bind_device: _,
            passive: _,
            multihop: _,
            ttl_security: _,
            password: _,
            tcp_ao: _,
            timers: _,
            families: _,
            route_reflector_client: _,
            next_hop: _,
            allowas_in: _,
            as_override: _,
            remove_private: _,
            enforce_first_as: _,
            add_path: _,
            max_prefixes: _,
            bfd: _,
            identity: _,
            graceful_restart: _,
            role: _,
            import: _,
            export: _,
            send_link_bandwidth: _,
            shutdown: _,
        } = PeerSettings::default();
        type Edit = fn(&mut PeerSettings);
        let rules = || serde_json::from_str::<Vec<_>>(r#"[{ "action": "accept" }]"#).unwrap().into();
        let key = |id| TcpAoKey {
            send_id: id,
            receive_id: id,
            algorithm: crate::netlink::tcp_ao::Algorithm::default(),
            secret: Secret("x".into()),
        };
        let reset: [(&str, Edit); 12] = [
            ("asn", |s| s.asn = RemoteAs::Internal),
            ("local_asn", |s| s.local_asn = Asn::new(64999).ok()),
            ("local_address", |s| s.local_address = "10.0.0.1".parse().ok()),
            ("bind_device", |s| s.bind_device = Some("eth0".into())),
            ("multihop", |s| s.multihop = Some(2)),
            ("ttl_security", |s| s.ttl_security = Some(1)),
            ("password", |s| s.password = Some(Secret("x".into()))),
            ("hold_time", |s| s.timers.hold_time = Duration::from_secs(9)),
            ("families", |s| s.families.truncate(1)),
            ("add_path", |s| s.add_path = AddPathConfig { receive: true, send: 0 }),
            ("graceful_restart", |s| {
                s.graceful_restart = Some(GracefulRestart { enabled: false, ..GracefulRestart::default() });
            }),
            ("role", |s| s.role = Some(RoleConfig { role: Role::Customer, strict: false })),
        ];
        for (name, edit) in reset {
            assert_eq!(change(|_, s| edit(s)), Change { reset: vec![name], live: vec![] });
        }
        let live: [(&str, Edit); 22] = [
            ("keepalive", |s| s.timers.keepalive = Some(Duration::from_secs(1))),
            ("timers", |s| s.timers.connect_retry += Duration::from_secs(1)),
            ("timers", |s| s.timers.delay_open += Duration::from_secs(1)),
            ("timers", |s| s.timers.idle_hold += Duration::from_secs(1)),
            ("timers", |s| s.timers.idle_hold_max += Duration::from_secs(1)),
            ("timers", |s| s.timers.open_hold += Duration::from_secs(1)),
            ("timers", |s| s.timers.send_hold = Some(Duration::from_secs(1))),
            ("group", |s| s.group = Some("x".into())),
            ("description", |s| s.description = Some("x".into())),
            ("passive", |s| s.passive = true),
            ("route_reflector_client", |s| s.route_reflector_client = true),
            ("next_hop", |s| s.next_hop = NextHopMode::Ourselves),
            ("allowas_in", |s| s.allowas_in = 1),
            ("as_override", |s| s.as_override = true),
            ("remove_private", |s| s.remove_private = true),
            ("enforce_first_as", |s| s.enforce_first_as = false),
            ("max_prefixes", |s| {
                s.max_prefixes = Some(MaxPrefixes { limit: 1, warning_percent: 80, restart: None });
            }),
            ("bfd", |s| s.bfd = Some(BfdConfig::default())),
            ("identity", |s| s.identity = Some(IdentityMode::Ignore)),
            ("send_link_bandwidth", |s| s.send_link_bandwidth = true),
            ("shutdown", |s| s.shutdown = Some("x".into())),
            ("group", |s| s.group = Some(String::new())),
        ];
        for (name, edit) in live {
            assert_eq!(change(|_, s| edit(s)), Change { reset: vec![], live: vec![name] });
        }
        assert_eq!(change(|_, s| s.tcp_ao = vec![key(1)]).reset, ["tcp_ao"]);
        assert_eq!(change(|_, s| s.import = rules()).live, ["import"]);
        assert_eq!(change(|_, s| s.export = rules()).live, ["export"]);
    }

    #[test]
    fn the_numbers_of_the_speaker() {
        let other = Asn::new(64513).unwrap();
        assert_eq!(change(|config, _| config.asn = other).reset, ["bgp.asn"]);
        let own_number = change(|config, settings| {
            config.asn = other;
            settings.local_asn = Asn::new(64512).ok();
        });
        assert_eq!(own_number.reset, [""; 0], "what the neighbour sees is the same");
        let id = RouterId::new([10, 0, 0, 2].into()).unwrap();
        assert_eq!(change(|config, _| config.router_id = id).reset, ["bgp.router_id"]);
    }

    #[test]
    fn every_setting_of_the_speaker() {
        type Edit = fn(&mut SpeakerConfig);
        let list: [(&str, Edit); 14] = [
            ("asn", |c| c.asn = Asn::new(1).unwrap()),
            ("router_id", |c| c.router_id = RouterId::new([1, 1, 1, 1].into()).unwrap()),
            ("listen", |c| c.listen.clear()),
            ("route_reflector", |c| c.route_reflector = true),
            ("cluster_id", |c| c.cluster_id = Some([1, 1, 1, 1].into())),
            ("transit", |c| c.transit = true),
            ("multipath", |c| c.multipath = 2),
            ("multipath_relax", |c| c.multipath_relax = false),
            ("always_compare_med", |c| c.decision.always_compare_med = true),
            ("missing_med_worst", |c| c.decision.missing_med_worst = true),
            ("prefer_oldest", |c| c.decision.prefer_oldest = true),
            ("next_hop_check", |c| c.next_hop_check = crate::bgp::config::NextHopCheck::Off),
            ("identity_domain", |c| c.identity_domain = Some(7)),
            ("originate", |c| c.originate = vec!["10.0.0.0/8".parse().unwrap()]),
        ];
        for (name, edit) in list {
            let mut new = speaker();
            edit(&mut new);
            assert_eq!(of_speaker(&speaker(), &new), [name]);
        }
    }

    #[test]
    fn the_speakers_defaults_count_where_the_peer_has_none() {
        let off = |config: &mut SpeakerConfig| config.graceful_restart.enabled = false;
        assert_eq!(change(|config, _| off(config)).reset, ["graceful_restart"]);
        let own = change(|config, settings| {
            off(config);
            settings.graceful_restart = Some(GracefulRestart::default());
        });
        assert_eq!(own, Change::default());
    }
}
