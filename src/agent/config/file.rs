//! The configuration file as it is written: one struct a table, every key named, unknown keys refused.
//!
//! Nothing here is a decision: defaults and contradictions are resolved in [`super::resolve`].

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Deserializer, de};

use crate::{
    bgp::{config::NextHopCheck, rib::filter::Rule},
    model::{Asn, Family, Labels, Prefix, RouterId},
};

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub(super) agent: Agent,
    pub(super) bgp: Option<Bgp>,
    pub(super) ipam: Ipam,
    pub(super) routes: Routes,
    pub(super) network: Network,
    pub(super) label_rule: Vec<LabelRule>,
    pub(super) policy: Policy,
}

/// `[agent]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Agent {
    pub(super) hostname: Option<String>,
    pub(super) run_dir: Option<PathBuf>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) policy_dir: Option<PathBuf>,
    pub(super) log: Option<String>,
    pub(super) metrics_listen: Option<SocketAddr>,
}

/// `[bgp]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bgp {
    /// Asked for where the error can say whose number is missing: peers have one too.
    #[serde(default, deserialize_with = "optional_asn")]
    pub(super) asn: Option<Asn>,
    pub(super) router_id: Option<RouterId>,
    pub(super) listen: Option<Vec<SocketAddr>>,
    #[serde(default)]
    pub(super) route_reflector: bool,
    pub(super) cluster_id: Option<Ipv4Addr>,
    #[serde(default)]
    pub(super) transit: bool,
    pub(super) multipath: Option<u8>,
    pub(super) multipath_relax: Option<bool>,
    #[serde(default)]
    pub(super) always_compare_med: bool,
    #[serde(default)]
    pub(super) missing_med_worst: bool,
    #[serde(default)]
    pub(super) prefer_oldest: bool,
    #[serde(default)]
    pub(super) next_hop_check: NextHopCheck,
    pub(super) identity_domain: Option<u32>,
    pub(super) graceful_restart: Option<bool>,
    pub(super) restart_time: Option<u16>,
    pub(super) long_lived_stale_time: Option<u32>,
    #[serde(default)]
    pub(super) originate: Vec<Prefix>,
    #[serde(default)]
    pub(super) group: BTreeMap<String, Peer>,
    #[serde(default)]
    pub(super) peer: Vec<Peer>,
    #[serde(default)]
    pub(super) listen_range: Vec<ListenRange>,
    #[serde(default)]
    pub(super) bmp: Vec<Bmp>,
    pub(super) mrt: Option<Mrt>,
}

/// `[bgp.mrt]`: a log of updates.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mrt {
    pub(super) file: PathBuf,
    pub(super) rotate_mb: Option<u32>,
    pub(super) rotate_seconds: Option<u32>,
    pub(super) keep: Option<u32>,
}

/// `[[bgp.bmp]]`: a BMP collector.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bmp {
    pub(super) address: IpAddr,
    pub(super) port: Option<u16>,
    pub(super) local_address: Option<IpAddr>,
    #[serde(default)]
    pub(super) peers: Vec<String>,
    pub(super) pre_policy: Option<bool>,
    pub(super) post_policy: Option<bool>,
    pub(super) loc_rib: Option<bool>,
    pub(super) out_pre_policy: Option<bool>,
    pub(super) out_post_policy: Option<bool>,
    pub(super) statistics_seconds: Option<u32>,
    pub(super) reconnect: Option<u16>,
    pub(super) buffer_mb: Option<u32>,
}

/// `[[bgp.peer]]` and `[bgp.group.NAME]`: the same keys; a peer's own win over its group's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Peer {
    pub(super) address: Option<IpAddr>,
    pub(super) interface: Option<String>,
    pub(super) group: Option<String>,
    pub(super) port: Option<u16>,
    #[serde(deserialize_with = "peer_asn")]
    pub(super) asn: Option<PeerAsn>,
    pub(super) description: Option<String>,
    #[serde(deserialize_with = "optional_asn")]
    pub(super) local_asn: Option<Asn>,
    pub(super) local_address: Option<IpAddr>,
    pub(super) passive: Option<bool>,
    pub(super) multihop: Option<u8>,
    pub(super) ttl_security: Option<bool>,
    pub(super) password: Option<String>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) tcp_ao: Option<Vec<TcpAoKey>>,
    pub(super) hold_time: Option<u16>,
    pub(super) keepalive: Option<u16>,
    pub(super) connect_retry: Option<u16>,
    pub(super) delay_open: Option<u16>,
    pub(super) idle_hold: Option<u16>,
    pub(super) families: Option<Vec<Family>>,
    pub(super) route_reflector_client: Option<bool>,
    pub(super) next_hop_self: Option<bool>,
    pub(super) next_hop_unchanged: Option<bool>,
    pub(super) allowas_in: Option<u8>,
    pub(super) enforce_first_as: Option<bool>,
    pub(super) as_override: Option<bool>,
    pub(super) remove_private: Option<bool>,
    pub(super) add_path: Option<AddPath>,
    pub(super) max_prefixes: Option<u32>,
    pub(super) max_prefixes_warning: Option<u8>,
    pub(super) max_prefixes_restart: Option<u32>,
    pub(super) bfd: Option<Bfd>,
    pub(super) identity: Option<IdentityMode>,
    pub(super) graceful_restart: Option<bool>,
    pub(super) role: Option<Role>,
    pub(super) role_strict: Option<bool>,
    pub(super) send_link_bandwidth: Option<bool>,
    pub(super) shutdown: Option<bool>,
    pub(super) import: Option<Vec<Rule>>,
    pub(super) export: Option<Vec<Rule>>,
}

/// One key of `tcp_ao`; `id` stands for both identifiers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TcpAoKey {
    pub(super) id: Option<u8>,
    pub(super) send_id: Option<u8>,
    pub(super) receive_id: Option<u8>,
    #[serde(default)]
    pub(super) algorithm: TcpAoAlgorithm,
    pub(super) secret: Option<String>,
    pub(super) secret_file: Option<PathBuf>,
}

/// RFC 5926.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) enum TcpAoAlgorithm {
    #[default]
    #[serde(rename = "hmac-sha-1-96")]
    HmacSha1,
    #[serde(rename = "aes-128-cmac-96")]
    Aes128Cmac,
}

/// `asn` of a peer: a number, or what kind of neighbour it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeerAsn {
    Number(Asn),
    Internal,
    External,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum AddPath {
    Receive,
    Send,
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum IdentityMode {
    Accept,
    Ignore,
}

/// RFC 9234 roles: what we are to the neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Role {
    Provider,
    RouteServer,
    RouteServerClient,
    Customer,
    Peer,
}

/// `bfd = true` or a table.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "expected true, false or a table of interval_ms, multiplier, multihop, strict and graceful"
)]
pub(super) enum Bfd {
    Switch(bool),
    Table(BfdTable),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BfdTable {
    pub(super) interval_ms: Option<u32>,
    pub(super) multiplier: Option<u8>,
    pub(super) multihop: Option<bool>,
    #[serde(default)]
    pub(super) strict: bool,
    #[serde(default)]
    pub(super) graceful: bool,
}

/// `[[bgp.listen_range]]`: neighbours that call us.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListenRange {
    pub(super) prefix: Prefix,
    #[serde(default, deserialize_with = "asn_list")]
    pub(super) asn: Vec<Asn>,
    pub(super) group: Option<String>,
    pub(super) limit: Option<u32>,
}

/// `[ipam]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Ipam {
    pub(super) quarantine_seconds: Option<u32>,
    pub(super) audit_seconds: Option<u32>,
    pub(super) neighbours_wait_seconds: Option<u32>,
    pub(super) pool: Vec<Pool>,
}

/// `[[ipam.pool]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pool {
    pub(super) name: Option<String>,
    pub(super) cidr: Prefix,
    #[serde(default, deserialize_with = "some_prefixes")]
    pub(super) block: Option<Vec<Prefix>>,
    pub(super) host_index: Option<u32>,
    pub(super) block_len: Option<u8>,
    #[serde(default)]
    pub(super) exclude: Vec<Prefix>,
    #[serde(default)]
    pub(super) nat_outgoing: bool,
}

/// `"10.32.4.0/24"` or a list of such.
fn some_prefixes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Prefix>>, D::Error> {
    struct OneOrMany;

    // An untagged enum would forget what is wrong with a prefix, and say only that it is none.
    impl<'de> de::Visitor<'de> for OneOrMany {
        type Value = Vec<Prefix>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a prefix or a list of prefixes")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            text.parse().map(|prefix| vec![prefix]).map_err(E::custom)
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
            Vec::deserialize(de::value::SeqAccessDeserializer::new(list))
        }
    }

    deserializer.deserialize_any(OneOrMany).map(Some)
}

/// `[routes]`.
#[expect(clippy::struct_field_names, reason = "the keys of the file")]
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Routes {
    pub(super) install: Option<bool>,
    pub(super) table: Option<u32>,
    pub(super) metric: Option<u32>,
    pub(super) local_metric: Option<u32>,
    pub(super) protocol: Option<u8>,
    pub(super) max_routes: Option<usize>,
    pub(super) nexthop_objects: Option<bool>,
    pub(super) audit_seconds: Option<u32>,
}

/// `[network]`: defaults of attachments.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Network {
    pub(super) mtu: Option<u32>,
}

/// `[[label_rule]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LabelRule {
    pub(super) match_name: Option<String>,
    pub(super) match_network: Option<String>,
    pub(super) labels: Labels,
}

/// `[policy]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Policy {
    pub(super) enabled: Option<bool>,
    pub(super) default_ingress: Option<DefaultAction>,
    pub(super) default_egress: Option<DefaultAction>,
    pub(super) endpoint_to_host: Option<Vec<String>>,
    pub(super) infrastructure: Vec<String>,
    #[serde(default)]
    pub(super) expand: Vec<String>,
    pub(super) identity_hold_seconds: Option<u64>,
    pub(super) unknown_labels: Option<UnknownLabels>,
    pub(super) ct_mark_mask: Option<i64>,
    pub(super) audit_seconds: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum UnknownLabels {
    Deny,
    Unlabelled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum DefaultAction {
    Allow,
    Deny,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected an AS number (64512) or a string (\"1.10\")")]
enum AsnText {
    Number(u32),
    Text(String),
}

impl AsnText {
    fn parse<E: de::Error>(self) -> Result<Asn, E> {
        let asn = match self {
            Self::Number(n) => Asn::new(n).map_err(E::custom),
            Self::Text(t) => t.parse().map_err(E::custom),
        }?;
        if asn == Asn::TRANS {
            return Err(E::custom(
                "AS 23456 is nobody's own: it stands for numbers that do not fit two octets (RFC 6793)",
            ));
        }
        Ok(asn)
    }
}

fn asn<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Asn, D::Error> {
    AsnText::deserialize(deserializer)?.parse()
}

fn optional_asn<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Asn>, D::Error> {
    asn(deserializer).map(Some)
}

fn peer_asn<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PeerAsn>, D::Error> {
    match AsnText::deserialize(deserializer)? {
        AsnText::Text(t) if t == "internal" => Ok(Some(PeerAsn::Internal)),
        AsnText::Text(t) if t == "external" => Ok(Some(PeerAsn::External)),
        other => Ok(Some(PeerAsn::Number(other.parse()?))),
    }
}

fn asn_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Asn>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected an AS number or a list of them")]
    enum List {
        One(AsnText),
        Many(Vec<AsnText>),
    }
    match List::deserialize(deserializer)? {
        List::One(one) => Ok(vec![one.parse()?]),
        List::Many(many) => many.into_iter().map(AsnText::parse).collect(),
    }
}

/// Lays a peer's own keys over its group's.
macro_rules! overlay {
    ($own:ident, $base:ident, $($key:ident),* $(,)?) => {
        Peer { address: $own.address, interface: $own.interface, group: $own.group, $($key: $own.$key.or($base.$key),)* }
    };
}

impl Peer {
    /// This peer with what it does not say itself taken from its group.
    pub(super) fn over(self, mut base: Self) -> Self {
        let own = self;
        // Of the ways to authenticate a peer has one: its own, whichever its group has.
        if own.password.is_some() || own.password_file.is_some() || own.tcp_ao.is_some() {
            (base.password, base.password_file, base.tcp_ao) = (None, None, None);
        }
        overlay!(
            own,
            base,
            port,
            asn,
            description,
            local_asn,
            local_address,
            passive,
            multihop,
            ttl_security,
            password,
            password_file,
            tcp_ao,
            hold_time,
            keepalive,
            connect_retry,
            delay_open,
            idle_hold,
            families,
            route_reflector_client,
            next_hop_self,
            next_hop_unchanged,
            allowas_in,
            enforce_first_as,
            as_override,
            remove_private,
            add_path,
            max_prefixes,
            max_prefixes_warning,
            max_prefixes_restart,
            bfd,
            identity,
            graceful_restart,
            role,
            role_strict,
            send_link_bandwidth,
            shutdown,
            import,
            export,
        )
    }
}
