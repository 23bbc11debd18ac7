//! The compiled form: tables, sets, maps and chains as values.
//!
//! Three things read it: the text renderer and the netlink encoder (in [`super::nft`]), and an evaluator
//! ([`Ruleset::judge`]) that stands in for the kernel in property tests. It says what the kernel is to have, without
//! handles, registers or counters' values, so two forms can be compared with `==`.
//!
//! Rules look at the *connection*, not at the packet, wherever the kernel lets them: the source is that of the
//! original direction, the destination and its port are those of the reply direction. So a rule means the same before
//! and after address translation, and the same for a reply as for the packet that opened the connection. That is what
//! lets a connection be judged anew after a change of policy at its next packet, whichever way that packet goes.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod element;
mod elements;
mod judge;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

pub use self::{
    element::{Data, Element, Key, KeyType},
    elements::Elements,
    judge::{Connection, Judgement, Packet},
};
use super::Rate;

/// The set of the present generation. The driver fills it, as no two loads have the same; a change of the generation
/// is a change of an element, for which the kernel need not validate the whole table as it does for rules with verdicts.
pub const GENERATION: &str = "generation";

/// How many elements the set of the generation may have, in the middle of a change too. Of a set of which the kernel
/// knows that, it looks keys of four bytes up in the quickest way that it has, and every packet asks for this one.
pub const GENERATION_SIZE: u32 = 4;

/// The name of a set, map or chain.
pub type Name = Arc<str>;

/// Everything in our table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Sets and maps.
    pub sets: BTreeMap<Name, Set>,
    /// Base chains and others.
    pub chains: BTreeMap<Name, Chain>,
    /// Limits that rules share.
    pub limits: BTreeMap<Name, Limit>,
}

/// A limit that several rules draw from, named after what it is for: another rate is another limit. While it is there
/// the kernel keeps how much of it is left, whatever else changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// How often.
    pub rate: Rate,
    /// For people: whose it is.
    pub comment: String,
}

/// A named set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// How its elements look.
    pub kind: SetKind,
    /// For people: what it holds.
    pub comment: String,
    /// The elements; for a map with their data.
    pub elements: Elements,
}

/// The type of a set's elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetKind {
    /// The parts of a key.
    pub key: Vec<KeyType>,
    /// The parts of a value; `None` for a plain set. Verdict maps have [`DataType::Verdict`].
    pub data: Option<DataType>,
    /// Whether elements are ranges. Of several parts each is a range by itself.
    pub interval: bool,
}

/// What a map maps to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataType {
    /// Verdicts.
    Verdict,
    /// Values with these parts.
    Parts(Vec<KeyType>),
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Chain {
    /// Where it is attached, for a base chain. Base chains always have policy accept; refusals are written out.
    pub hook: Option<BaseHook>,
    /// Its rules in order.
    pub rules: Vec<Rule>,
    /// For people: what it is.
    pub comment: String,
}

/// Where a base chain is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BaseHook {
    /// Whether it translates addresses (`type nat`) or filters.
    pub nat: bool,
    /// The hook.
    pub hook: HookPoint,
    /// The priority (linux/netfilter_ipv4.h, `enum nf_ip_hook_priorities`).
    pub priority: i32,
}

/// A netfilter hook, with the kernel's number (linux/netfilter.h, `enum nf_inet_hooks`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the kernel's names")]
pub enum HookPoint {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

impl HookPoint {
    /// The name in nft's language.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }
}

/// A rule: its statements in order, the first that does not match ends it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rule {
    /// What it does.
    pub statements: Vec<Statement>,
    /// For people, and for finding its counter: which policy's rule this is.
    pub comment: String,
}

/// One statement or match.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Statement {
    /// The field, after masking if there is a mask, equals (or not) the value. A value shorter than the field
    /// compares its beginning, which is how interface prefixes work.
    Compare {
        /// What to look at.
        field: Field,
        /// Bits to keep, of the value's length.
        mask: Option<Key>,
        /// Whether to match on difference.
        negate: bool,
        /// What to compare with.
        value: Key,
    },
    /// The field is within a range, both ends inclusive.
    Range(Field, Key, Key),
    /// The fields together are (or are not) in a set.
    Lookup {
        /// The parts of the key.
        fields: Vec<Field>,
        /// The set.
        set: Name,
        /// Whether to match if it is absent.
        negate: bool,
    },
    /// Do what the map says; go on if it says nothing.
    Vmap(Vec<Field>, Name),
    /// Count packets and bytes.
    Counter,
    /// Match at most so often.
    Limit(Rate),
    /// Match as often as a limit of the table has it, together with all other rules that ask it.
    SharedLimit(Name),
    /// Hand the packet's head to the nflog group of the driver's configuration.
    Log(String),
    /// Refuse with an answer: TCP reset, or ICMP administratively prohibited.
    Reject {
        /// Whether the answer is a TCP reset.
        tcp_reset: bool,
    },
    /// The connection's stamp is the present generation, which is the one element of the set [`GENERATION`].
    GenerationIsCurrent,
    /// Stamp the connection with the present generation.
    StampGeneration,
    /// Translate the source to the address of the interface it leaves by.
    Masquerade,
    /// Translate the destination to what the map says: an address and a port.
    DnatMap {
        /// The family of the address.
        ipv6: bool,
        /// The parts of the map's key.
        fields: Vec<Field>,
        /// The map.
        map: Name,
    },
    /// End with a verdict.
    Verdict(Verdict),
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Out of this hook; other tables may still refuse.
    Accept,
    /// Gone.
    Drop,
    /// Back to the chain that jumped here.
    Return,
    /// To a chain and back.
    Jump(Name),
    /// To a chain; its return is ours.
    Goto(Name),
}

/// What a rule can look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// The interface a packet came in by.
    IifName,
    /// The interface a packet goes out by.
    OifName,
    /// The address family, `NFPROTO_IPV4` (2) or `NFPROTO_IPV6` (10).
    NfProto,
    /// The transport protocol.
    L4Proto,
    /// Connection tracking's opinion, one bit.
    CtState,
    /// 0 for packets in the direction of the first one, 1 for replies.
    CtDirection,
    /// Connection tracking's status bits (`IPS_*`).
    CtStatus,
    /// The connection's source, before translation.
    SourceV4,
    /// The connection's source, before translation.
    SourceV6,
    /// The connection's destination, after translation.
    DestinationV4,
    /// The connection's destination, after translation.
    DestinationV6,
    /// The connection's destination port, after translation.
    DestinationPort,
    /// The connection's source port, before translation.
    SourcePort,
    /// The ICMP type and code of the packet that opened the connection.
    IcmpTypeCode,
    /// The packet's own source.
    HeaderSourceV4,
    /// The packet's own source.
    HeaderSourceV6,
    /// The packet's own destination.
    HeaderDestinationV4,
    /// The packet's own destination.
    HeaderDestinationV6,
    /// The packet's own destination port.
    HeaderDestinationPort,
    /// The packet's ICMPv6 type.
    Icmpv6Type,
    /// What the routing table says of the packet's destination (`RTN_*`).
    DestinationKind,
}

impl Field {
    /// The type of its values.
    pub const fn key_type(self) -> KeyType {
        match self {
            Self::IifName | Self::OifName => KeyType::Interface,
            Self::NfProto => KeyType::NfProto,
            Self::L4Proto => KeyType::Protocol,
            Self::CtState => KeyType::CtState,
            Self::CtDirection => KeyType::CtDirection,
            Self::CtStatus => KeyType::CtStatus,
            Self::SourceV4 | Self::DestinationV4 | Self::HeaderSourceV4 | Self::HeaderDestinationV4 => {
                KeyType::Ipv4
            }
            Self::SourceV6 | Self::DestinationV6 | Self::HeaderSourceV6 | Self::HeaderDestinationV6 => {
                KeyType::Ipv6
            }
            Self::DestinationPort | Self::SourcePort | Self::HeaderDestinationPort | Self::IcmpTypeCode => {
                KeyType::Port
            }
            Self::Icmpv6Type => KeyType::Icmpv6Type,
            Self::DestinationKind => KeyType::FibType,
        }
    }
}

impl Statement {
    /// The field equals the value.
    pub fn is(field: Field, value: Key) -> Self {
        Self::Compare { field, mask: None, negate: false, value }
    }

    /// The field does not equal the value.
    pub fn is_not(field: Field, value: Key) -> Self {
        Self::Compare { field, mask: None, negate: true, value }
    }

    /// The field has one of the bits.
    pub fn has(field: Field, bits: u32) -> Self {
        Self::Compare { field, mask: Some(Key::host_u32(bits)), negate: true, value: Key::host_u32(0) }
    }

    /// The address is inside `addr/len`.
    pub fn in_prefix(field: Field, addr: IpAddr, len: u8) -> Self {
        let value = Key::address(addr);
        let mask = (usize::from(len) < value.bytes().len() * 8).then(|| value.prefix_mask(len));
        Self::Compare { field, mask, negate: false, value }
    }

    /// The fields are in the set.
    pub fn lookup(fields: impl Into<Vec<Field>>, set: &Name) -> Self {
        Self::Lookup { fields: fields.into(), set: set.clone(), negate: false }
    }

    /// The chain, set or limit that the statement refers to, if any.
    pub fn refers_to(&self) -> Option<&Name> {
        match self {
            Self::Lookup { set, .. } => Some(set),
            Self::SharedLimit(limit) => Some(limit),
            Self::Vmap(_, map) | Self::DnatMap { map, .. } => Some(map),
            Self::Verdict(verdict) => verdict.target(),
            _ => None,
        }
    }
}

impl Verdict {
    /// The chain it leads to, if any.
    pub fn target(&self) -> Option<&Name> {
        match self {
            Self::Jump(name) | Self::Goto(name) => Some(name),
            _ => None,
        }
    }
}

impl Rule {
    /// A rule without a comment.
    pub fn new(statements: impl Into<Vec<Statement>>) -> Self {
        Self { statements: statements.into(), comment: String::new() }
    }

    /// Adds a comment.
    #[must_use]
    pub fn comment(mut self, comment: impl Into<String>) -> Self {
        self.comment = comment.into();
        self
    }
}

/// A change from one compiled form to another, in the order in which it is to be made, all in one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Sets and maps to make, with their elements.
    pub new_sets: Vec<(Name, Set)>,
    /// Limits to make.
    pub new_limits: Vec<(Name, Limit)>,
    /// Chains to make; each refers only to older ones or to ones before it.
    pub new_chains: Vec<(Name, Chain)>,
    /// Chains whose rules are to be replaced.
    pub changed_chains: Vec<(Name, Chain)>,
    /// Elements to remove and then to add.
    pub elements: BTreeMap<Name, ElementChange>,
    /// Chains to remove; each before those it refers to.
    pub old_chains: Vec<Name>,
    /// Sets to remove.
    pub old_sets: Vec<Name>,
    /// Limits to remove.
    pub old_limits: Vec<Name>,
    /// Whether something that was allowed may be so no longer: connections must be judged anew.
    pub revokes: bool,
}

/// A change of a set's elements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ElementChange {
    /// Elements to remove first; with the data they have, for maps.
    pub remove: Vec<Element>,
    /// Elements to add.
    pub add: Vec<Element>,
}

impl Delta {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Ruleset {
    /// Makes a change. What it removes must be there and what it adds must not; the answer names the first thing for
    /// which that does not hold, as the kernel would.
    pub fn apply(&mut self, delta: &Delta) -> Result<(), String> {
        for (name, set) in &delta.new_sets {
            if self.sets.insert(name.clone(), set.clone()).is_some() {
                return Err(format!("set {name} exists"));
            }
        }
        for (name, limit) in &delta.new_limits {
            if self.limits.insert(name.clone(), limit.clone()).is_some() {
                return Err(format!("limit {name} exists"));
            }
        }
        for (name, chain) in &delta.new_chains {
            if self.chains.insert(name.clone(), chain.clone()).is_some() {
                return Err(format!("chain {name} exists"));
            }
            self.check_references(name, chain)?;
        }
        for (name, chain) in &delta.changed_chains {
            if self.chains.insert(name.clone(), chain.clone()).is_none() {
                return Err(format!("chain {name} is not there"));
            }
            self.check_references(name, chain)?;
        }
        for (name, change) in &delta.elements {
            let Some(set) = self.sets.get_mut(name) else { return Err(format!("no set {name}")) };
            for element in &change.remove {
                if set.elements.remove(&element.key).as_ref() != Some(&element.data) {
                    return Err(format!("{name} has no {element:?}"));
                }
            }
            for element in &change.add {
                if set.elements.insert(element.key.clone(), element.data.clone()).is_some() {
                    return Err(format!("{name} has {element:?} already"));
                }
            }
        }
        for name in &delta.old_chains {
            if self.chains.remove(name).is_none() {
                return Err(format!("chain {name} is not there"));
            }
            if self.is_referred_to(name) {
                return Err(format!("chain {name} is still in use"));
            }
        }
        for name in &delta.old_sets {
            if self.sets.remove(name).is_none() {
                return Err(format!("set {name} is not there"));
            }
            if self.is_referred_to(name) {
                return Err(format!("set {name} is still in use"));
            }
        }
        for name in &delta.old_limits {
            if self.limits.remove(name).is_none() {
                return Err(format!("limit {name} is not there"));
            }
            if self.is_referred_to(name) {
                return Err(format!("limit {name} is still in use"));
            }
        }
        Ok(())
    }

    fn check_references(&self, name: &Name, chain: &Chain) -> Result<(), String> {
        for statement in chain.rules.iter().flat_map(|r| &r.statements) {
            if let Some(other) = statement.refers_to()
                && !self.sets.contains_key(other)
                && !self.chains.contains_key(other)
                && !self.limits.contains_key(other)
            {
                return Err(format!("chain {name} refers to {other}, which is not there"));
            }
        }
        Ok(())
    }

    fn is_referred_to(&self, name: &Name) -> bool {
        let by_rule = self
            .chains
            .values()
            .flat_map(|c| &c.rules)
            .flat_map(|r| &r.statements)
            .any(|s| s.refers_to() == Some(name));
        by_rule || self.sets.values().flat_map(|s| s.elements.iter()).any(|(_, d)| d.target() == Some(name))
    }
}
