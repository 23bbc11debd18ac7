//! Reads our table back from the kernel and compares it with what it should be.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::Serialize;

use super::{
    Settings,
    driver::udata_entry,
    encode::{DATA_VERDICT, INET, OBJECT_LIMIT, RawKind, SUBSYSTEM, UDATA_DIGEST, rule_digest},
};
use crate::{
    netlink::{Attr, Attrs, Error, RawMessage, Socket},
    policy::{
        Rate,
        ir::{
            BaseHook, Chain, Data, Delta, Element, ElementChange, GENERATION, Key, Name, Rule, Ruleset, Set,
            SetKind, Statement, Verdict,
        },
    },
};

const GETTABLE: u16 = 1;
const GETCHAIN: u16 = 4;
const GETRULE: u16 = 7;
const GETSET: u16 = 10;
const GETSETELEM: u16 = 13;
const GETOBJ: u16 = 19;
/// `NFT_SET_ANONYMOUS`.
const ANONYMOUS: u32 = 1;

/// How the kernel's table differs from what it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "kind", content = "name", rename_all = "snake_case")]
pub enum Difference {
    /// There is no table of ours.
    NoTable,
    /// The table is switched off (`flags dormant`).
    Dormant,
    /// A chain is missing.
    ChainMissing(String),
    /// A chain is too many.
    ChainForeign(String),
    /// A chain is attached elsewhere than it should be, or with another policy.
    ChainHook(String),
    /// A chain's rules are not ours, or not in our order.
    ChainRules(String),
    /// A set or map is missing.
    SetMissing(String),
    /// A set or map is too many.
    SetForeign(String),
    /// A set's or map's elements are not what they should be.
    SetElements(String),
    /// A limit is missing.
    LimitMissing(String),
    /// A limit has another rate.
    LimitRate(String),
    /// A stateful object is too many.
    ObjectForeign(String),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTable => f.write_str("the table is gone"),
            Self::Dormant => f.write_str("the table is switched off"),
            Self::ChainMissing(name) => write!(f, "chain {name} is missing"),
            Self::ChainForeign(name) => write!(f, "chain {name} is not ours"),
            Self::ChainHook(name) => write!(f, "chain {name} is attached differently"),
            Self::ChainRules(name) => write!(f, "the rules of chain {name} were changed"),
            Self::SetMissing(name) => write!(f, "set {name} is missing"),
            Self::SetForeign(name) => write!(f, "set {name} is not ours"),
            Self::SetElements(name) => write!(f, "the elements of set {name} were changed"),
            Self::LimitMissing(name) => write!(f, "limit {name} is missing"),
            Self::LimitRate(name) => write!(f, "the rate of limit {name} was changed"),
            Self::ObjectForeign(name) => write!(f, "object {name} is not ours"),
        }
    }
}

/// A rule's live counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleCounter {
    /// The chain.
    pub chain: String,
    /// The rule's comment: which policy's rule it is.
    pub comment: String,
    /// Packets counted. Only the first packet of a connection, and one after each revocation, gets as far.
    pub packets: u64,
    /// Bytes counted.
    pub bytes: u64,
}

/// A rule as it was read.
struct DumpedRule {
    chain: String,
    digest: Option<Vec<u8>>,
    /// The chain that it leads to by itself. Not told by the digest: rules follow a chain that somebody renames.
    target: Option<String>,
    comment: String,
    counter: Option<(u64, u64)>,
}

/// What is in the kernel's table.
#[derive(Debug)]
pub(super) struct Actual {
    dormant: bool,
    chains: BTreeMap<String, ActualChain>,
    sets: BTreeMap<String, ActualSet>,
    /// Stateful objects; of what is no limit for packets, no rate.
    objects: BTreeMap<String, Option<Rate>>,
}

#[derive(Debug)]
struct ActualChain {
    hook: Hook,
    /// What each rule was made from, if we made it, and where it leads.
    rules: Vec<(Option<Vec<u8>>, Option<String>)>,
}

#[derive(Debug)]
struct ActualSet {
    kind: RawKind,
    elements: BTreeSet<RawElement>,
}

/// Reads the kernel's table, of sets that nobody wants no elements; `None` if there is no table.
pub(super) fn read(
    socket: &mut Socket,
    settings: &Settings,
    want: &Ruleset,
) -> Result<Option<Actual>, Error> {
    let Some(flags) = table_flags(socket, settings)? else { return Ok(None) };
    let mut rules: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for rule in dump_rules(socket, settings, None)? {
        rules.entry(rule.chain).or_default().push((rule.digest, rule.target));
    }
    let chains = dump_chains(socket, settings)?
        .into_iter()
        .map(|(name, hook)| {
            let rules = rules.remove(&name).unwrap_or_default();
            (name, ActualChain { hook, rules })
        })
        .collect();
    let mut sets = BTreeMap::new();
    for (name, kind) in dump_sets(socket, settings)? {
        let wanted = want.sets.contains_key(&*name);
        let elements = if wanted { dump_elements(socket, settings, &name)? } else { BTreeSet::new() };
        sets.insert(name, ActualSet { kind, elements });
    }
    let objects = dump_objects(socket, settings)?;
    Ok(Some(Actual { dormant: flags != 0, chains, sets, objects }))
}

impl ActualChain {
    fn has_hook_of(&self, chain: &Chain) -> bool {
        self.hook == chain.hook.map(|h| (h, ACCEPT))
    }

    fn has_rules_of(&self, chain: &Chain, settings: &Settings) -> bool {
        let same = |(rule, (digest, target)): (&Rule, &(Option<Vec<u8>>, Option<String>))| {
            digest.as_deref() == Some(&rule_digest(rule, settings)[..])
                && target.as_deref() == target_of(rule)
        };
        self.rules.len() == chain.rules.len() && chain.rules.iter().zip(&self.rules).all(same)
    }
}

/// The chain that a rule's own verdict leads to.
fn target_of(rule: &Rule) -> Option<&str> {
    rule.statements.iter().find_map(|s| match s {
        Statement::Verdict(verdict) => verdict.target().map(|name| &**name),
        _ => None,
    })
}

/// A set's elements as the kernel should list them.
fn expected(name: &str, set: &Set, settings: &Settings, generation: u32) -> BTreeSet<RawElement> {
    let mut expected = raw_elements(set);
    if name == GENERATION {
        expected.insert(raw_key(&Key::host_u32(settings.stamp(generation)), RawData::None));
    }
    expected
}

impl Actual {
    /// How it differs from what it should be.
    pub(super) fn differences(
        &self,
        want: &Ruleset,
        settings: &Settings,
        generation: u32,
    ) -> Vec<Difference> {
        let mut found = Vec::new();
        if self.dormant {
            found.push(Difference::Dormant);
        }
        for (name, chain) in &want.chains {
            let Some(actual) = self.chains.get(&**name) else {
                found.push(Difference::ChainMissing(name.to_string()));
                continue;
            };
            if !actual.has_hook_of(chain) {
                found.push(Difference::ChainHook(name.to_string()));
            }
            if !actual.has_rules_of(chain, settings) {
                found.push(Difference::ChainRules(name.to_string()));
            }
        }
        let foreign = self.chains.keys().filter(|n| !want.chains.contains_key(n.as_str()));
        found.extend(foreign.cloned().map(Difference::ChainForeign));
        for (name, set) in &want.sets {
            match self.sets.get(&**name) {
                None => found.push(Difference::SetMissing(name.to_string())),
                Some(actual)
                    if actual.kind != RawKind::of(&set.kind)
                        || actual.elements != expected(name, set, settings, generation) =>
                {
                    found.push(Difference::SetElements(name.to_string()));
                }
                Some(_) => {}
            }
        }
        let foreign = self.sets.keys().filter(|n| !want.sets.contains_key(n.as_str()));
        found.extend(foreign.cloned().map(Difference::SetForeign));
        for (name, limit) in &want.limits {
            match self.objects.get(&**name) {
                None => found.push(Difference::LimitMissing(name.to_string())),
                Some(rate) if *rate != Some(limit.rate) => {
                    found.push(Difference::LimitRate(name.to_string()));
                }
                Some(_) => {}
            }
        }
        let foreign = self.objects.keys().filter(|n| !want.limits.contains_key(n.as_str()));
        found.extend(foreign.cloned().map(Difference::ObjectForeign));
        found
    }

    /// The change that leads from here to what should be there at a generation; `None` if only a replacement of the
    /// whole table does: when it does not see packets as it should, or has something of another kind under our name.
    pub(super) fn plan(&self, want: &Ruleset, settings: &Settings, generation: u32) -> Option<Delta> {
        if self.dormant {
            return None;
        }
        let mut delta = Delta::default();
        for (name, chain) in &want.chains {
            match self.chains.get(&**name) {
                None if chain.hook.is_some_and(|h| !h.nat) => return None,
                None => delta.new_chains.push((name.clone(), chain.clone())),
                Some(actual) if !actual.has_hook_of(chain) => return None,
                Some(actual) if !actual.has_rules_of(chain, settings) => {
                    delta.changed_chains.push((name.clone(), chain.clone()));
                }
                Some(_) => {}
            }
        }
        let foreign = self.chains.keys().filter(|n| !want.chains.contains_key(n.as_str()));
        delta.old_chains.extend(foreign.map(|n| Name::from(n.as_str())));
        for (name, set) in &want.sets {
            let expected = expected(name, set, settings, generation);
            let Some(actual) = self.sets.get(&**name) else {
                let mut set = set.clone();
                if &**name == GENERATION {
                    set.elements.insert(Key::host_u32(settings.stamp(generation)), Data::None);
                }
                delta.new_sets.push((name.clone(), set));
                continue;
            };
            if actual.kind != RawKind::of(&set.kind) {
                return None;
            }
            if actual.elements == expected {
                continue;
            }
            // Ranges of one part are listed as their ends.
            if set.kind.interval && set.kind.key.len() == 1 {
                return None;
            }
            let list = |from: &BTreeSet<RawElement>, to: &BTreeSet<RawElement>| {
                from.difference(to).map(|raw| cooked(raw, &set.kind)).collect()
            };
            let change = ElementChange {
                remove: list(&actual.elements, &expected),
                add: list(&expected, &actual.elements),
            };
            delta.elements.insert(name.clone(), change);
        }
        let foreign = self.sets.keys().filter(|n| !want.sets.contains_key(n.as_str()));
        delta.old_sets.extend(foreign.map(|n| Name::from(n.as_str())));
        for (name, limit) in &want.limits {
            match self.objects.get(&**name) {
                None => delta.new_limits.push((name.clone(), limit.clone())),
                // The kernel changes none that it has.
                Some(rate) if *rate != Some(limit.rate) => return None,
                Some(_) => {}
            }
        }
        for (name, rate) in self.objects.iter().filter(|(n, _)| !want.limits.contains_key(n.as_str())) {
            if rate.is_none() {
                return None;
            }
            delta.old_limits.push(name.as_str().into());
        }
        Some(delta)
    }
}

/// The element that the kernel lists like this.
fn cooked((low, high, _, data): &RawElement, kind: &SetKind) -> Element {
    let low = Key::raw(low);
    let key = if kind.interval { Key::range(&low, &Key::raw(high)) } else { low };
    let data = match data {
        RawData::None => Data::None,
        RawData::Value(value) => Data::Value(Key::raw(value)),
        RawData::Verdict(code, chain) => Data::Verdict(match code {
            1 => Verdict::Accept,
            -3 => Verdict::Jump(chain.as_str().into()),
            -4 => Verdict::Goto(chain.as_str().into()),
            -5 => Verdict::Return,
            _ => Verdict::Drop,
        }),
    };
    Element { key, data }
}

/// The counters of all rules that have one, of a chain or of all, in the order of the kernel's list.
pub(super) fn counters(
    socket: &mut Socket,
    settings: &Settings,
    chain: Option<&str>,
) -> Result<Vec<RuleCounter>, Error> {
    let rules = dump_rules(socket, settings, chain)?;
    Ok(rules
        .into_iter()
        .filter_map(|rule| {
            let (packets, bytes) = rule.counter?;
            Some(RuleCounter { chain: rule.chain, comment: rule.comment, packets, bytes })
        })
        .collect())
}

/// `NF_ACCEPT`, the policy of our base chains.
const ACCEPT: u32 = 1;

fn of_table<'a>(message: &RawMessage<'a>, settings: &Settings) -> Option<Attrs<'a>> {
    let attrs = message.attrs(INET.len());
    let family = message.payload.first() == INET.first();
    (family && attrs.clone().find_kind(1)?.str() == Some(settings.table.as_str())).then_some(attrs)
}

/// Lists objects of our table; none if there is no such table.
fn list<T>(
    socket: &mut Socket,
    settings: &Settings,
    kind: u16,
    parse: impl Fn(Attrs<'_>) -> Option<T>,
) -> Result<Vec<T>, Error> {
    list_of(socket, settings, kind, None, parse)
}

/// As [`list`], of what belongs to a chain or a set.
fn list_of<T>(
    socket: &mut Socket,
    settings: &Settings,
    kind: u16,
    of: Option<&str>,
    parse: impl Fn(Attrs<'_>) -> Option<T>,
) -> Result<Vec<T>, Error> {
    let result = socket.dump(
        SUBSYSTEM << 8 | kind,
        |w| {
            w.raw(&INET).attr_str(1, &settings.table);
            if let Some(name) = of {
                w.attr_str(2, name); // NFTA_RULE_CHAIN
            }
        },
        |message| Ok(of_table(message, settings).and_then(&parse)),
    );
    match result {
        Err(error) if error.is_missing() => Ok(Vec::new()),
        other => other,
    }
}

fn table_flags(socket: &mut Socket, settings: &Settings) -> Result<Option<u32>, Error> {
    let flags = list(socket, settings, GETTABLE, |a| Some(a.find_kind(2).and_then(Attr::be32).unwrap_or(0)))?;
    Ok(flags.first().copied())
}

type Hook = Option<(BaseHook, u32)>;

fn dump_chains(socket: &mut Socket, settings: &Settings) -> Result<BTreeMap<String, Hook>, Error> {
    use crate::policy::ir::HookPoint;
    let chains = list(socket, settings, GETCHAIN, |attrs| {
        let name = attrs.clone().find_kind(3)?.str()?.to_owned();
        let hook = attrs.clone().find_kind(4).and_then(|hook| {
            let number = hook.nested().find_kind(1)?.be32()?;
            let priority = hook.nested().find_kind(2)?.be32()? as i32;
            let points = [
                HookPoint::Prerouting,
                HookPoint::Input,
                HookPoint::Forward,
                HookPoint::Output,
                HookPoint::Postrouting,
            ];
            let hook = *points.iter().find(|p| **p as u32 == number)?;
            let nat = attrs.clone().find_kind(7)?.str()? == "nat";
            let policy = attrs.clone().find_kind(5)?.be32()?;
            Some((BaseHook { nat, hook, priority }, policy))
        });
        Some((name, hook))
    })?;
    Ok(chains.into_iter().collect())
}

fn dump_rules(
    socket: &mut Socket,
    settings: &Settings,
    chain: Option<&str>,
) -> Result<Vec<DumpedRule>, Error> {
    list_of(socket, settings, GETRULE, chain, |attrs| {
        let chain = attrs.clone().find_kind(2)?.str()?.to_owned();
        let udata = attrs.clone().find_kind(7).map(|a| a.data).unwrap_or_default();
        let comment = udata_entry(udata, 0)
            .map(|bytes| String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned());
        let expressions = attrs.clone().find_kind(4);
        let target = expressions.and_then(|expressions| {
            expressions.nested().find_map(|expression| {
                let parts = expression.nested();
                (parts.clone().find_kind(1)?.str()? == "immediate").then_some(())?;
                // NFTA_IMMEDIATE_DATA, NFTA_DATA_VERDICT, NFTA_VERDICT_CHAIN
                let data = parts.find_kind(2)?.nested().find_kind(2)?;
                data.nested().find_kind(2)?.nested().find_kind(2)?.str().map(str::to_owned)
            })
        });
        let counter = attrs.find_kind(4).and_then(|expressions| {
            expressions.nested().find_map(|expression| {
                let parts = expression.nested();
                (parts.clone().find_kind(1)?.str()? == "counter").then_some(())?;
                let data = parts.find_kind(2)?.nested();
                Some((data.clone().find_kind(2)?.be64()?, data.find_kind(1)?.be64()?))
            })
        });
        Some(DumpedRule {
            chain,
            digest: udata_entry(udata, UDATA_DIGEST).map(<[u8]>::to_vec),
            target,
            comment: comment.unwrap_or_default(),
            counter,
        })
    })
}

fn dump_sets(socket: &mut Socket, settings: &Settings) -> Result<BTreeMap<String, RawKind>, Error> {
    let sets = list(socket, settings, GETSET, |attrs| {
        let number = |kind| attrs.clone().find_kind(kind).and_then(Attr::be32);
        let flags = number(3).unwrap_or(0);
        if flags & ANONYMOUS != 0 {
            return None;
        }
        // A verdict's length is the kernel's affair.
        let data = number(6).map(|kind| match kind {
            DATA_VERDICT => (kind, 0),
            _ => (kind, number(7).unwrap_or(0)),
        });
        let key = (number(4).unwrap_or(0), number(5).unwrap_or(0));
        let kind = RawKind { flags: flags & RawKind::FLAGS, key, data };
        Some((attrs.clone().find_kind(2)?.str()?.to_owned(), kind))
    })?;
    Ok(sets.into_iter().collect())
}

fn dump_objects(socket: &mut Socket, settings: &Settings) -> Result<BTreeMap<String, Option<Rate>>, Error> {
    let objects = list(socket, settings, GETOBJ, |attrs| {
        let name = attrs.clone().find_kind(2)?.str()?.to_owned();
        let limit = attrs.clone().find_kind(3).and_then(Attr::be32) == Some(OBJECT_LIMIT);
        let rate = attrs.find_kind(4).filter(|_| limit).and_then(|data| {
            let of = |kind| data.nested().find_kind(kind);
            let number = |kind| u32::try_from(of(kind)?.be64()?).ok();
            // Of packets, and not of what is beyond the rate.
            let plain = [4, 5].iter().all(|kind| of(*kind).and_then(Attr::be32).unwrap_or(0) == 0);
            let (events, per, burst) = (number(1)?, number(2)?, of(3)?.be32()?);
            plain.then_some(Rate { events, per, burst })
        });
        Some((name, rate))
    })?;
    Ok(objects.into_iter().collect())
}

/// An element as the kernel lists it: key, upper end, whether it ends an interval, data.
type RawElement = (Vec<u8>, Vec<u8>, bool, RawData);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum RawData {
    None,
    Verdict(i32, String),
    Value(Vec<u8>),
}

fn raw_key(key: &Key, data: RawData) -> RawElement {
    (key.bytes().to_vec(), Vec::new(), false, data)
}

fn raw_elements(set: &Set) -> BTreeSet<RawElement> {
    let mut out = BTreeSet::new();
    for (key, data) in &set.elements {
        let data = match data {
            Data::None => RawData::None,
            Data::Value(value) => RawData::Value(value.bytes().to_vec()),
            Data::Verdict(verdict) => {
                let code = match verdict {
                    Verdict::Drop => 0,
                    Verdict::Accept => 1,
                    Verdict::Jump(_) => -3,
                    Verdict::Goto(_) => -4,
                    Verdict::Return => -5,
                };
                RawData::Verdict(code, verdict.target().map(ToString::to_string).unwrap_or_default())
            }
        };
        let concat = set.kind.key.len() > 1;
        if set.kind.interval && concat {
            out.insert((key.bytes().to_vec(), key.upper().to_vec(), false, data));
        } else {
            out.insert(raw_key(key, data));
            let mut end = key.upper().to_vec();
            if set.kind.interval && super::encode::increment(&mut end) {
                out.insert((end, Vec::new(), true, RawData::None));
            }
        }
    }
    out
}

fn dump_elements(socket: &mut Socket, settings: &Settings, set: &str) -> Result<BTreeSet<RawElement>, Error> {
    let mut out = BTreeSet::new();
    let result = socket.dump_once(
        SUBSYSTEM << 8 | GETSETELEM,
        |w| _ = w.raw(&INET).attr_str(1, &settings.table).attr_str(2, set),
        |message| {
            let elements = of_table(message, settings).and_then(|a| a.find_kind(3));
            out.extend(elements.into_iter().flat_map(Attr::nested).filter_map(|e| element(e.nested())));
            Ok(())
        },
    );
    match result {
        Err(error) if error.is_missing() => Ok(BTreeSet::new()),
        Err(error) => Err(error),
        Ok(()) => Ok(out),
    }
}

fn element(attrs: Attrs<'_>) -> Option<RawElement> {
    let value = |attr: Attr<'_>| attr.nested().find_kind(1).map(|v| v.data.to_vec());
    let key = value(attrs.clone().find_kind(1)?)?;
    let end = attrs.clone().find_kind(10).and_then(value).unwrap_or_default();
    let closes = attrs.clone().find_kind(3).and_then(Attr::be32).unwrap_or(0) & 1 != 0;
    let data = match attrs.find_kind(2) {
        None => RawData::None,
        Some(data) => match data.nested().find_kind(2) {
            Some(verdict) => {
                let code = verdict.nested().find_kind(1)?.be32()? as i32;
                let chain = verdict.nested().find_kind(2).and_then(Attr::str).unwrap_or_default();
                RawData::Verdict(code, chain.to_owned())
            }
            None => RawData::Value(value(data)?),
        },
    };
    Some((key, end, closes, data))
}
