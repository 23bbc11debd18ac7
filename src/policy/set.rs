//! What policies say, after parsing: validated values that the compiler, the interpreter and the printer share.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use serde::Serialize;

use super::{ranges::Ranges, selector::Selector};

/// The direction of traffic as an endpoint sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the endpoint.
    Ingress,
    /// From the endpoint.
    Egress,
}

impl Direction {
    /// Both directions.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// The word used in files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// All policies of a host, ready to compile. Cheap to clone: the parts are shared.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PolicySet {
    /// The tiers in order; every policy's tier is among them.
    pub tiers: Vec<Tier>,
    /// The policies in order of evaluation: by tier, then order, then name.
    pub policies: Vec<Arc<Policy>>,
    /// What endpoints that no policy selects may do, first match wins.
    pub profiles: Vec<Profile>,
    /// Where named ports lead.
    pub named_ports: Vec<NamedPort>,
    /// Rules that protect the host itself, in order.
    pub host_policies: Vec<Arc<HostPolicy>>,
}

impl PolicySet {
    /// Whether anything that is in force depends on labels: which endpoints a policy or a profile is for, what a rule asks
    /// of either end, or where a named port leads. `all()` asks for none.
    pub fn asks_for_labels(&self) -> bool {
        let asks = |selector: &Selector| !selector.keys().is_empty();
        let of_peer = |peer: &Peer| peer.selector.iter().chain(&peer.not_selector).any(asks);
        let of_rule = |rule: &Rule| {
            rule.peers.iter().any(|peer| of_peer(peer) || peer.own.as_deref().is_some_and(of_peer))
        };
        let policies = self.policies.iter().filter(|policy| !policy.staged);
        let hosts = self.host_policies.iter().filter(|policy| !policy.staged);
        let named = self.named_ports.iter().any(|port| asks(&port.select));
        policies.clone().any(|policy| named || asks(&policy.select))
            || self.profiles.iter().any(|profile| asks(&profile.select))
            || policies.flat_map(|p| p.ingress.iter().chain(&p.egress)).flatten().any(of_rule)
            || hosts.flat_map(|policy| &policy.ingress).any(of_rule)
    }
}

/// A group of policies that is evaluated before the next group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tier {
    /// Its name.
    pub name: String,
    /// Lower is first; ties go by name.
    pub order: i64,
    /// What becomes of traffic that no rule matched, if a policy of the tier selects the endpoint in that direction.
    pub default: TierDefault,
}

/// The end of a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TierDefault {
    /// Refused.
    Deny,
    /// On to the next tier, after the last one to the profile.
    Pass,
    /// Permitted.
    Allow,
}

impl TierDefault {
    /// The word used in files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Pass => "pass",
            Self::Allow => "allow",
        }
    }
}

/// One policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// Unique within its tier.
    pub name: String,
    /// Index into [`PolicySet::tiers`].
    pub tier: usize,
    /// Lower is first; ties go by name.
    pub order: i64,
    /// The endpoints it applies to.
    pub select: Selector,
    /// Rules for traffic to the endpoint; `None` leaves the direction alone, an empty list denies it by the tier's default.
    pub ingress: Option<Vec<Rule>>,
    /// Rules for traffic from the endpoint.
    pub egress: Option<Vec<Rule>>,
    /// Counted but not enforced.
    pub staged: bool,
    /// Where it was written.
    pub origin: Origin,
}

impl Policy {
    /// Whether two policies differ in nothing but where they are written.
    fn says_the_same(&self, other: &Self) -> bool {
        let rules = |policy: &Self| {
            let nowhere = |rules: &Vec<Rule>| -> Vec<Rule> {
                rules.iter().cloned().map(|rule| Rule { origin: Origin::default(), ..rule }).collect()
            };
            (policy.ingress.as_ref().map(nowhere), policy.egress.as_ref().map(nowhere))
        };
        let head = |p: &Self| (p.order, p.select.clone(), p.staged);
        head(self) == head(other) && rules(self) == rules(other)
    }

    /// The rules for a direction.
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

/// Protection of the host: rules for traffic that ends at the host and does not come from an endpoint of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostPolicy {
    /// Its name.
    pub name: String,
    /// Lower is first; ties go by name.
    pub order: i64,
    /// The interfaces it applies to; empty for all. A trailing `*` matches any rest.
    pub interfaces: Vec<String>,
    /// Rules for traffic to the host. What none of the rules of any host policy for the interface matches is denied.
    pub ingress: Vec<Rule>,
    /// Counted but not enforced.
    pub staged: bool,
    /// Where it was written.
    pub origin: Origin,
}

impl HostPolicy {
    /// Whether two policies differ in nothing but where they are written.
    fn says_the_same(&self, other: &Self) -> bool {
        let rules = |policy: &Self| -> Vec<Rule> {
            policy.ingress.iter().cloned().map(|rule| Rule { origin: Origin::default(), ..rule }).collect()
        };
        let head = |p: &Self| (p.order, p.interfaces.clone(), p.staged);
        head(self) == head(other) && rules(self) == rules(other)
    }
}

/// The file and line something was written at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Origin {
    /// The file's name within the policy folder.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// One rule: all of its parts must match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// What happens on a match.
    pub action: Action,
    /// The other side: any of these; empty for anyone.
    pub peers: Vec<Peer>,
    /// Protocols and ports: any of these; empty for all.
    pub services: Vec<Service>,
    /// Protocols and ports that must not match: none of these.
    pub not_services: Vec<Service>,
    /// The ports it must come from, each with both ends inclusive, ascending and not touching; `None` for any. Then the
    /// services are of protocols with ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_ports: Option<Vec<(u16, u16)>>,
    /// Log a matching new connection as well, at most so often.
    pub log: Option<Rate>,
    /// Match at most so often; traffic beyond the rate goes on to the next rule.
    pub limit: Option<Rate>,
    /// Where it was written.
    pub origin: Origin,
}

impl Rule {
    /// Whether it matches what comes from a port.
    pub fn takes_source_port(&self, port: u16) -> bool {
        self.source_ports
            .as_ref()
            .is_none_or(|list| list.iter().any(|(low, high)| (*low..=*high).contains(&port)))
    }
}

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Permit; final for the direction.
    Allow,
    /// Refuse silently; final.
    Deny,
    /// Refuse with an answer (TCP reset or ICMP administratively prohibited); final.
    Reject,
    /// Leave the tier for the next one.
    Pass,
    /// Log and go on.
    Log,
}

/// How often something may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Rate {
    /// Events per `per`.
    pub events: u32,
    /// The unit, in seconds: 1, 60, 3600 or 86400.
    pub per: u32,
    /// How many may come at once.
    pub burst: u32,
}

/// The other side of a connection: all parts given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Peer {
    /// An endpoint, local or remote, with these labels. Its identity must be known.
    pub selector: Option<Selector>,
    /// An address in these ranges; CIDR lists, exceptions and network sets are already worked in.
    pub ranges: Option<Ranges>,
    /// One of the special places.
    pub entity: Option<Entity>,
    /// Not an endpoint with these labels: anything else is, also what is no endpoint or unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_selector: Option<Selector>,
    /// What must hold of the endpoint's own side as well; of it only `selector`, `not_selector` and `ranges` count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own: Option<Box<Self>>,
}

impl Peer {
    /// Whether one more endpoint can make it match less: then an endpoint that joins can revoke what a rule allows.
    pub fn excludes(&self) -> bool {
        self.not_selector.is_some() || self.own.as_ref().is_some_and(|own| own.excludes())
    }
}

/// Places that are not addresses in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Entity {
    /// The endpoint that the policy applies to.
    Myself,
    /// The endpoint's own host. As a source it matches nothing: a host can always reach its own endpoints.
    Host,
    /// Addresses outside of every pool.
    World,
}

/// A protocol and perhaps its ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Service {
    /// The protocol.
    pub protocol: Protocol,
    /// The destination ports, or type and code.
    pub ports: Ports,
}

/// An IP protocol number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(pub u8);

/// What of a protocol is meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ports {
    /// All of it.
    Any,
    /// Destination ports, both ends inclusive.
    Range(u16, u16),
    /// A port that goes by a name at the destination.
    Named(String),
    /// An ICMP or ICMPv6 type, and a code if given.
    Icmp(u8, Option<u8>),
}

impl Protocol {
    /// ICMP.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// ICMPv6.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);
    /// UDP-Lite.
    pub const UDPLITE: Self = Self(136);

    const NAMES: [(&'static str, Self); 6] = [
        ("tcp", Self::TCP),
        ("udp", Self::UDP),
        ("sctp", Self::SCTP),
        ("icmp", Self::ICMP),
        ("icmpv6", Self::ICMPV6),
        ("udplite", Self::UDPLITE),
    ];

    /// The protocol of a lower-case name or a number.
    pub fn parse(text: &str) -> Option<Self> {
        Self::NAMES
            .iter()
            .find_map(|(name, p)| (*name == text).then_some(*p))
            .or_else(|| text.parse().ok().map(Self))
    }

    /// Whether it has ports that connection tracking knows.
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::SCTP | Self::UDPLITE)
    }

    /// Whether it is ICMP or ICMPv6.
    pub const fn is_icmp(self) -> bool {
        matches!(self, Self::ICMP | Self::ICMPV6)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(_, p)| p == self) {
            Some((name, _)) => f.pad(name),
            None => fmt::Display::fmt(&self.0, f),
        }
    }
}

impl Serialize for Protocol {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.ports {
            Ports::Any => write!(f, "{}", self.protocol),
            Ports::Range(a, b) if a == b => write!(f, "{}/{a}", self.protocol),
            Ports::Range(a, b) => write!(f, "{}/{a}-{b}", self.protocol),
            Ports::Named(name) => write!(f, "{}/{name}", self.protocol),
            Ports::Icmp(kind, None) => write!(f, "{} type {kind}", self.protocol),
            Ports::Icmp(kind, Some(code)) => write!(f, "{} type {kind} code {code}", self.protocol),
        }
    }
}

/// A port that policies call by a name, at the endpoints that are selected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NamedPort {
    /// The name.
    pub name: String,
    /// The endpoints that have it.
    pub select: Selector,
    /// The protocol it is served by.
    pub protocol: Protocol,
    /// The number.
    pub port: u16,
}

/// What happens to endpoints that no policy selects in a direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// The endpoints it applies to.
    pub select: Selector,
    /// Permit traffic to them; `None` leaves it to the next profile.
    pub ingress: Option<bool>,
    /// Permit traffic from them.
    pub egress: Option<bool>,
}

/// A new connection, as policies judge it: source before and destination after address translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Flow {
    /// Who opens it.
    pub source: IpAddr,
    /// Where it leads; of the same family.
    pub destination: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The destination port; for ICMP the type in the high and the code in the low byte; otherwise 0.
    pub port: u16,
    /// The source port, of protocols with ports: [`Self::EPHEMERAL`] where nothing is known of it.
    pub source_port: u16,
}

impl Flow {
    /// A port that programs get that ask for none (RFC 6335 section 6), for questions in which it does not matter.
    pub const EPHEMERAL: u16 = 50_000;

    /// A connection from an ephemeral port.
    pub const fn new(source: IpAddr, destination: IpAddr, protocol: Protocol, port: u16) -> Self {
        Self { source, destination, protocol, port, source_port: Self::EPHEMERAL }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} {}", self.source, self.destination, self.protocol)?;
        if self.protocol.has_ports() {
            write!(f, "/{}", self.port)?;
        } else if self.protocol.is_icmp() {
            write!(f, " type {} code {}", self.port >> 8, self.port & 0xff)?;
        }
        Ok(())
    }
}

impl PolicySet {
    /// The tier of a policy.
    pub fn tier_of(&self, policy: &Policy) -> Option<&Tier> {
        self.tiers.get(policy.tier)
    }

    /// A policy's name with its tier's, unique in the set.
    pub fn full_name(&self, policy: &Policy) -> String {
        format!("{}/{}", self.tier_of(policy).map_or("?", |t| &t.name), policy.name)
    }

    /// The policies that came, went or changed in another set, by name.
    pub fn differences(&self, after: &Self) -> Vec<String> {
        let (old, new) = (self.by_name(), after.by_name());
        let mut list: Vec<String> =
            old.keys().filter(|n| !new.contains_key(*n)).map(|n| format!("policy {n} removed")).collect();
        for (name, policy) in &new {
            match old.get(name) {
                None => list.push(format!("policy {name} added")),
                Some(was) if !was.says_the_same(policy) => list.push(format!("policy {name} changed")),
                Some(_) => {}
            }
        }
        let hosts = |set: &Self| -> BTreeMap<String, Arc<HostPolicy>> {
            set.host_policies.iter().map(|p| (p.name.clone(), p.clone())).collect()
        };
        let (old, new) = (hosts(self), hosts(after));
        for name in old.keys().chain(new.keys().filter(|n| !old.contains_key(*n))) {
            let what = match (old.get(name), new.get(name)) {
                (Some(_), None) => "removed",
                (None, _) => "added",
                (Some(a), Some(b)) if a.says_the_same(b) => continue,
                _ => "changed",
            };
            list.push(format!("host policy {name} {what}"));
        }
        list
    }

    /// The addresses behind a file's text, for tests and tools: one map a name.
    pub fn by_name(&self) -> BTreeMap<String, &Policy> {
        self.policies.iter().map(|p| (self.full_name(p), &**p)).collect()
    }
}

#[cfg(test)]
mod asking {
    use crate::policy::language;

    #[test]
    fn what_asks_for_labels() {
        let asks = |text: &str| {
            let parsed = language::parse(&[("x.toml", text)]).unwrap_or_else(|e| panic!("{text}: {}", e[0]));
            parsed.asks_for_labels()
        };
        for text in [
            "",
            "[[policy]]\nname = 'a'\nselect = 'all()'\ningress = [{ action = 'deny', from = { cidr = '10.0.0.0/8' } }]",
            "[[policy]]\nname = 'a'\nselect = 'all()'\ningress = [{ action = 'deny', from = { selector = 'all()' } }]",
            "[[policy]]\nname = 'a'\nstaged = true\nselect = 'has(x)'\ningress = []",
            "[[profile]]\nname = 'a'\nselect = 'all()'\ningress = 'deny'",
            "[[host_policy]]\nname = 'a'\ningress = [{ action = 'allow', from = { cidr = '10.0.0.0/8' } }]",
            "[[host_policy]]\nname = 'a'\nstaged = true\ningress = [{ action = 'allow', from = { selector = 'has(x)' } }]",
        ] {
            assert!(!asks(text), "{text}");
        }
        for text in [
            "[[policy]]\nname = 'a'\nselect = '!has(x)'\ningress = []",
            "[[policy]]\nname = 'a'\nselect = 'all()'\negress = [{ action = 'deny', to = { selector = 'x == \"y\"' } }]",
            "[[profile]]\nname = 'a'\nselect = 'x != \"y\"'\negress = 'deny'",
            "[[host_policy]]\nname = 'a'\ningress = [{ action = 'deny', from = { selector = 'has(x)' } }]",
        ] {
            assert!(asks(text), "{text}");
        }
    }
}
