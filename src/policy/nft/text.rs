//! Prints a compiled form in nft's language, for people, for golden tests, and for `nft -c -f` to check.

use std::fmt::{self, Write};

use super::Settings;
use crate::policy::{
    Protocol, Rate,
    ir::{
        Chain, Data, DataType, Field, GENERATION, GENERATION_SIZE, Key, KeyType, Rule, Ruleset, Set,
        Statement, Verdict,
    },
};

/// A compiled form that prints itself as an nft script: `table inet slash32 { … }`.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    rules: &'a Ruleset,
    settings: &'a Settings,
    generation: u32,
}

impl<'a> Text<'a> {
    /// The form as it is loaded with these settings at this generation.
    pub const fn new(rules: &'a Ruleset, settings: &'a Settings, generation: u32) -> Self {
        Self { rules, settings, generation }
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {} {{", self.settings.table)?;
        for (name, limit) in &self.rules.limits {
            writeln!(f, "\tlimit {name} {{\n\t\tcomment \"{}\"", comment(&limit.comment))?;
            writeln!(f, "\t\trate {}\n\t}}\n", show_rate(&limit.rate))?;
        }
        for (i, (name, set)) in self.rules.sets.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            if &**name == GENERATION {
                let mut set = set.clone();
                let stamp = Key::host_u32(self.settings.stamp(self.generation));
                set.elements.insert(stamp, Data::None);
                write_set(f, name, &set)?;
            } else {
                write_set(f, name, set)?;
            }
        }
        for (name, chain) in &self.rules.chains {
            writeln!(f)?;
            self.write_chain(f, name, chain)?;
        }
        writeln!(f, "}}")
    }
}

fn write_set(f: &mut fmt::Formatter<'_>, name: &str, set: &Set) -> fmt::Result {
    let parts = |list: &[KeyType]| list.iter().map(|k| k.as_str()).collect::<Vec<_>>().join(" . ");
    let word = if set.kind.data.is_some() { "map" } else { "set" };
    write!(f, "\t{word} {name} {{\n\t\ttype {}", parts(&set.kind.key))?;
    match &set.kind.data {
        None => {}
        Some(DataType::Verdict) => f.write_str(" : verdict")?,
        Some(DataType::Parts(list)) => write!(f, " : {}", parts(list))?,
    }
    writeln!(f)?;
    if set.kind.interval {
        writeln!(f, "\t\tflags interval")?;
    }
    if name == GENERATION {
        writeln!(f, "\t\tsize {GENERATION_SIZE}")?;
    }
    if !set.comment.is_empty() {
        writeln!(f, "\t\tcomment \"{}\"", comment(&set.comment))?;
    }
    if !set.elements.is_empty() {
        f.write_str("\t\telements = { ")?;
        for (i, (key, data)) in set.elements.iter().enumerate() {
            if i > 0 {
                f.write_str(",\n\t\t             ")?;
            }
            f.write_str(&key.show(&set.kind.key))?;
            match (data, &set.kind.data) {
                (Data::Verdict(v), _) => write!(f, " : {}", show_verdict(v))?,
                (Data::Value(value), Some(DataType::Parts(list))) => write!(f, " : {}", value.show(list))?,
                _ => {}
            }
        }
        writeln!(f, " }}")?;
    }
    writeln!(f, "\t}}")
}

impl Text<'_> {
    fn write_chain(&self, f: &mut fmt::Formatter<'_>, name: &str, chain: &Chain) -> fmt::Result {
        writeln!(f, "\tchain {name} {{")?;
        if !chain.comment.is_empty() {
            writeln!(f, "\t\tcomment \"{}\"", comment(&chain.comment))?;
        }
        if let Some(hook) = chain.hook {
            let kind = if hook.nat { "nat" } else { "filter" };
            let (at, priority) = (hook.hook.as_str(), hook.priority);
            writeln!(f, "\t\ttype {kind} hook {at} priority {priority}; policy accept;")?;
        }
        for rule in &chain.rules {
            writeln!(f, "\t\t{}", self.rule(rule))?;
        }
        writeln!(f, "\t}}")
    }

    /// One rule on one line.
    pub fn rule(&self, rule: &Rule) -> String {
        let mut out = String::new();
        for statement in &rule.statements {
            if !out.is_empty() {
                out.push(' ');
            }
            self.statement(&mut out, statement);
        }
        if !rule.comment.is_empty() {
            let _ = write!(out, " comment \"{}\"", comment(&rule.comment));
        }
        out
    }

    fn statement(&self, out: &mut String, statement: &Statement) {
        let mask = self.settings.mark_mask;
        let _ = match statement {
            Statement::Compare { field, mask, negate, value } => {
                let flag = matches!(field, Field::CtStatus | Field::CtState) && mask.is_some();
                let not = if *negate && !flag { "!= " } else { "" };
                write!(out, "{} {not}{}", field_text(*field), show_value(*field, mask.as_ref(), value))
            }
            Statement::Range(field, low, high) => {
                let kind = [field.key_type()];
                write!(out, "{} {}-{}", field_text(*field), low.show(&kind), high.show(&kind))
            }
            Statement::Lookup { fields, set, negate } => {
                write!(out, "{} {}@{set}", fields_text(fields), if *negate { "!= " } else { "" })
            }
            Statement::Vmap(fields, map) => write!(out, "{} vmap @{map}", fields_text(fields)),
            Statement::Counter => write!(out, "counter"),
            Statement::Limit(rate) => write!(out, "limit rate {}", show_rate(rate)),
            Statement::SharedLimit(name) => write!(out, "limit name \"{name}\""),
            Statement::Log(prefix) => {
                write!(out, "log prefix \"{}\" group {}", comment(prefix), self.settings.log_group)
            }
            Statement::Reject { tcp_reset: true } => write!(out, "reject with tcp reset"),
            Statement::Reject { tcp_reset: false } => write!(out, "reject with icmpx admin-prohibited"),
            Statement::GenerationIsCurrent => {
                write!(out, "ct mark and {mask:#010x} == @{GENERATION}")
            }
            Statement::StampGeneration => {
                let stamp = self.settings.stamp(self.generation);
                write!(out, "ct mark set ct mark and {:#010x} or {stamp:#010x}", !mask)
            }
            Statement::Masquerade => write!(out, "masquerade"),
            Statement::DnatMap { ipv6, fields, map } => {
                let family = if *ipv6 { "ip6" } else { "ip" };
                write!(out, "dnat {family} to {} map @{map}", fields_text(fields))
            }
            Statement::Verdict(verdict) => write!(out, "{}", show_verdict(verdict)),
        };
    }
}

fn fields_text(fields: &[Field]) -> String {
    fields.iter().map(|f| field_text(*f)).collect::<Vec<_>>().join(" . ")
}

const fn field_text(field: Field) -> &'static str {
    match field {
        Field::IifName => "iifname",
        Field::OifName => "oifname",
        Field::NfProto => "meta nfproto",
        Field::L4Proto => "meta l4proto",
        Field::CtState => "ct state",
        Field::CtDirection => "ct direction",
        Field::CtStatus => "ct status",
        Field::SourceV4 => "ct original ip saddr",
        Field::SourceV6 => "ct original ip6 saddr",
        Field::DestinationV4 => "ct reply ip saddr",
        Field::DestinationV6 => "ct reply ip6 saddr",
        Field::DestinationPort => "ct reply proto-src",
        Field::SourcePort => "ct original proto-src",
        Field::IcmpTypeCode => "ct original proto-dst",
        Field::HeaderSourceV4 => "ip saddr",
        Field::HeaderSourceV6 => "ip6 saddr",
        Field::HeaderDestinationV4 => "ip daddr",
        Field::HeaderDestinationV6 => "ip6 daddr",
        Field::HeaderDestinationPort => "th dport",
        Field::Icmpv6Type => "icmpv6 type",
        Field::DestinationKind => "fib daddr type",
    }
}

fn show_value(field: Field, mask: Option<&Key>, value: &Key) -> String {
    let kind = field.key_type();
    match (kind, mask) {
        // `ct status dnat` is how nft writes that the bit is not zero.
        (KeyType::CtStatus | KeyType::CtState, Some(mask)) => mask.show(&[kind]),
        (KeyType::Interface, _) if value.bytes().len() < kind.len() => {
            format!("\"{}*\"", String::from_utf8_lossy(value.bytes()))
        }
        (KeyType::Protocol, _) => Protocol(value.bytes().first().copied().unwrap_or(0)).to_string(),
        (KeyType::Ipv4 | KeyType::Ipv6, Some(mask)) => {
            let len: u32 = mask.bytes().iter().map(|b| b.count_ones()).sum();
            format!("{}/{len}", value.show(&[kind]))
        }
        (_, Some(mask)) => format!("and {} == {}", mask.show(&[kind]), value.show(&[kind])),
        _ => value.show(&[kind]),
    }
}

fn show_rate(rate: &Rate) -> String {
    let unit = match rate.per {
        1 => "second",
        60 => "minute",
        3600 => "hour",
        _ => "day",
    };
    format!("{}/{unit} burst {} packets", rate.events, rate.burst)
}

fn show_verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accept => "accept".into(),
        Verdict::Drop => "drop".into(),
        Verdict::Return => "return".into(),
        Verdict::Jump(name) => format!("jump {name}"),
        Verdict::Goto(name) => format!("goto {name}"),
    }
}

/// A comment as nft and the kernel take it: at most 127 bytes, without quotes.
pub(super) fn comment(text: &str) -> String {
    let mut out: String = text.chars().map(|c| if c == '"' || c.is_control() { '\'' } else { c }).collect();
    while out.len() > 127 {
        out.pop();
    }
    out
}
