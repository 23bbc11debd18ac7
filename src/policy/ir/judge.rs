//! Evaluates a compiled form over one packet, as the kernel would. For tests and for `policy explain`.

use std::net::IpAddr;

use super::{Chain, Data, Field, HookPoint, Key, KeyType, Name, Rule, Ruleset, Statement, Verdict};
use crate::policy::Flow;

use HookPoint as Hook;

/// A packet with what the kernel knows of it.
#[derive(Clone, Debug)]
pub struct Packet {
    /// The interface it came in by; empty at the output hook.
    pub iif: String,
    /// The interface it goes out by; empty before routing.
    pub oif: String,
    /// Its own source.
    pub source: IpAddr,
    /// Its own destination.
    pub destination: IpAddr,
    /// Its transport protocol.
    pub protocol: u8,
    /// Its destination port; for ICMP the type in the high byte.
    pub port: u16,
    /// Whether its destination is an address of the host.
    pub to_host: bool,
    /// The connection it belongs to; `None` if it is not tracked.
    pub connection: Option<Connection>,
}

/// What connection tracking knows.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// `NF_CT_STATE_*` bit: 1 invalid, 2 established, 4 related, 8 new.
    pub state: u32,
    /// Whether this packet goes the way of replies.
    pub reply: bool,
    /// Whether its destination was translated.
    pub dnat: bool,
    /// The connection as policies see it.
    pub flow: Flow,
    /// The generation it is stamped with, 0 for none.
    pub stamp: u32,
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Whether it passed.
    pub accepted: bool,
    /// The connection's stamp afterwards.
    pub stamp: Option<u32>,
    /// The rules that matched, as (chain, index, comment).
    pub trail: Vec<(Name, usize, String)>,
}

/// More jumps than this within one packet is a loop; the kernel refuses rulesets beyond 16 levels.
const MAX_DEPTH: usize = 16;

enum Outcome {
    Accept,
    Drop,
    /// The chain's end, or a return.
    Back,
}

struct Judge<'a> {
    rules: &'a Ruleset,
    packet: &'a Packet,
    generation: u32,
    stamp: Option<u32>,
    trail: Vec<(Name, usize, String)>,
}

impl Ruleset {
    /// Runs a packet through all filtering base chains at a hook, in order of priority. `generation` is the present one.
    pub fn judge(&self, hook: Hook, packet: &Packet, generation: u32) -> Judgement {
        let mut base: Vec<_> = self
            .chains
            .iter()
            .filter_map(|(name, chain)| {
                chain.hook.filter(|h| h.hook == hook && !h.nat).map(|h| (h.priority, name))
            })
            .collect();
        base.sort();
        let stamp = packet.connection.map(|c| c.stamp);
        let mut judge = Judge { rules: self, packet, generation, stamp, trail: Vec::new() };
        let mut accepted = true;
        for (_, name) in base {
            if matches!(judge.chain(name, 0), Outcome::Drop) {
                accepted = false;
                break;
            }
        }
        Judgement { accepted, stamp: judge.stamp, trail: judge.trail }
    }
}

impl<'a> Judge<'a> {
    fn chain(&mut self, name: &Name, depth: usize) -> Outcome {
        // A missing chain cannot be loaded into the kernel; here it drops so that a test notices.
        let Some(chain) = self.rules.chains.get(name).filter(|_| depth <= MAX_DEPTH) else {
            return Outcome::Drop;
        };
        let chain: &Chain = chain;
        for (index, rule) in chain.rules.iter().enumerate() {
            if let Some(outcome) = self.rule(name, index, rule, depth) {
                return outcome;
            }
        }
        Outcome::Back
    }

    /// `None` goes on with the next rule.
    fn rule(&mut self, chain: &Name, index: usize, rule: &Rule, depth: usize) -> Option<Outcome> {
        for statement in &rule.statements {
            let verdict = match statement {
                Statement::Compare { field, mask, negate, value } => {
                    let found = self.load(*field)?;
                    let found = found.bytes().get(..value.bytes().len())?;
                    let equal = match mask {
                        None => found == value.bytes(),
                        Some(mask) => {
                            found.iter().zip(mask.bytes()).zip(value.bytes()).all(|((f, m), v)| f & m == *v)
                        }
                    };
                    if equal == *negate {
                        return None;
                    }
                    continue;
                }
                Statement::Range(field, low, high) => {
                    let found = self.load(*field)?;
                    if found.bytes() < low.bytes() || found.bytes() > high.bytes() {
                        return None;
                    }
                    continue;
                }
                Statement::Lookup { fields, set, negate } => {
                    if self.find(fields, set)?.is_some() == *negate {
                        return None;
                    }
                    continue;
                }
                Statement::Vmap(fields, map) => match self.find(fields, map)? {
                    Some(Data::Verdict(verdict)) => verdict,
                    _ => return None,
                },
                Statement::GenerationIsCurrent => {
                    if self.stamp? != self.generation {
                        return None;
                    }
                    continue;
                }
                Statement::StampGeneration => {
                    self.stamp = self.stamp.map(|_| self.generation);
                    continue;
                }
                Statement::Reject { .. } => {
                    self.trail.push((chain.clone(), index, rule.comment.clone()));
                    return Some(Outcome::Drop);
                }
                // No clock and no log here: a limit never binds.
                Statement::Counter | Statement::Limit(_) | Statement::SharedLimit(_) | Statement::Log(_) => {
                    continue;
                }
                Statement::Masquerade | Statement::DnatMap { .. } => return Some(Outcome::Accept),
                Statement::Verdict(verdict) => verdict,
            };
            self.trail.push((chain.clone(), index, rule.comment.clone()));
            return match verdict {
                Verdict::Accept => Some(Outcome::Accept),
                Verdict::Drop => Some(Outcome::Drop),
                Verdict::Return => Some(Outcome::Back),
                Verdict::Goto(name) => Some(self.chain(name, depth + 1)),
                Verdict::Jump(name) => match self.chain(name, depth + 1) {
                    Outcome::Back => None,
                    end => Some(end),
                },
            };
        }
        None
    }

    /// The element of a set that the fields match.
    #[expect(
        clippy::option_option,
        reason = "outside: a field cannot be read, which ends the rule; inside: no element"
    )]
    fn find(&self, fields: &[Field], set: &Name) -> Option<Option<&'a Data>> {
        let mut parts = Vec::new();
        for field in fields {
            parts.push(self.load(*field)?);
        }
        let key = match &parts[..] {
            [one] => one.clone(),
            several => Key::join(&several.iter().collect::<Vec<_>>()),
        };
        let rules: &'a Ruleset = self.rules;
        let Some(set) = rules.sets.get(set) else { return Some(None) };
        if !set.kind.interval {
            return Some(set.elements.get(&key));
        }
        let kinds: &[KeyType] = &set.kind.key;
        Some(set.elements.iter().find(|(k, _)| k.covers(key.bytes(), kinds)).map(|(_, data)| data))
    }

    /// A field's value; `None` if this packet has none, which ends the rule as in the kernel.
    fn load(&self, field: Field) -> Option<Key> {
        let packet = self.packet;
        let v4 = |addr: IpAddr| addr.is_ipv4().then(|| Key::address(addr));
        let v6 = |addr: IpAddr| addr.is_ipv6().then(|| Key::address(addr));
        let flow = || packet.connection.map(|c| c.flow);
        Some(match field {
            Field::IifName => Key::interface(&packet.iif),
            Field::OifName => Key::interface(&packet.oif),
            Field::NfProto => Key::byte(if packet.source.is_ipv4() { 2 } else { 10 }),
            Field::L4Proto => Key::byte(packet.protocol),
            Field::CtState => Key::host_u32(packet.connection.map_or(64, |c| c.state)),
            Field::CtDirection => Key::byte(packet.connection?.reply.into()),
            Field::CtStatus => Key::host_u32(if packet.connection?.dnat { 0x20 } else { 0 }),
            Field::SourceV4 => v4(flow()?.source)?,
            Field::SourceV6 => v6(flow()?.source)?,
            Field::DestinationV4 => v4(flow()?.destination)?,
            Field::DestinationV6 => v6(flow()?.destination)?,
            Field::DestinationPort | Field::IcmpTypeCode => Key::port(flow()?.port),
            Field::SourcePort => Key::port(flow()?.source_port),
            Field::HeaderSourceV4 => v4(packet.source)?,
            Field::HeaderSourceV6 => v6(packet.source)?,
            Field::HeaderDestinationV4 => v4(packet.destination)?,
            Field::HeaderDestinationV6 => v6(packet.destination)?,
            Field::HeaderDestinationPort => Key::port(packet.port),
            Field::Icmpv6Type => Key::byte((packet.port >> 8) as u8),
            Field::DestinationKind => Key::host_u32(if packet.to_host { 2 } else { 1 }),
        })
    }
}
