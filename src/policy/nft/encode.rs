//! Encodes a compiled form as nftables netlink messages (linux/netfilter/nf_tables.h).
//!
//! A value of several parts lives in consecutive 4-byte registers, as the kernel's set lookups want it. Numbers in
//! attributes are in network order; values in registers are as packets or the kernel have them.

use std::collections::BTreeMap;

use super::{DEFAULT_MARK_MASK, Settings, text::comment};
use crate::{
    netlink::{Batch, Writer},
    policy::{
        Rate,
        ir::{
            Chain, Data, DataType, Delta, Field, GENERATION, GENERATION_SIZE, Key, KeyType, Limit, Name,
            Rule, Ruleset, Set, SetKind, Statement, Verdict,
        },
    },
};

/// `NFNL_SUBSYS_NFTABLES`.
pub(super) const SUBSYSTEM: u16 = 10;
/// `struct nfgenmsg` with `NFPROTO_INET`, version 0 and no resource id.
pub(super) const INET: [u8; 4] = [1, 0, 0, 0];

/// `enum nf_tables_msg_types`.
pub(super) mod msg {
    pub(in crate::policy::nft) const NEWTABLE: u16 = 0;
    pub(in crate::policy::nft) const DELTABLE: u16 = 2;
    pub(in crate::policy::nft) const NEWCHAIN: u16 = 3;
    pub(in crate::policy::nft) const DELCHAIN: u16 = 5;
    pub(in crate::policy::nft) const NEWRULE: u16 = 6;
    pub(in crate::policy::nft) const DELRULE: u16 = 8;
    pub(in crate::policy::nft) const NEWSET: u16 = 9;
    pub(in crate::policy::nft) const DELSET: u16 = 11;
    pub(in crate::policy::nft) const NEWSETELEM: u16 = 12;
    pub(in crate::policy::nft) const DELSETELEM: u16 = 14;
    pub(in crate::policy::nft) const NEWOBJ: u16 = 18;
    pub(in crate::policy::nft) const DELOBJ: u16 = 20;
}

const NLM_F_CREATE: u16 = 0x400;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_APPEND: u16 = 0x800;

/// Set flags.
const INTERVAL: u32 = 0x4;
const MAP: u32 = 0x8;
const CONCAT: u32 = 0x80;
/// `NFT_DATA_VERDICT`: the data type of verdict maps.
pub(super) const DATA_VERDICT: u32 = 0xffff_ff00;
/// `NFT_OBJECT_LIMIT`.
pub(super) const OBJECT_LIMIT: u32 = 4;
/// The list of elements is one attribute, whose length has 16 bits; this many of the largest elements fit.
const ELEMENTS_A_MESSAGE: usize = 400;

/// Registers: 0 is the verdict, 1 the first of 16 bytes, 8 and on are of 4 bytes (`NFT_REG32_00`).
const REG_VERDICT: u32 = 0;
const REG_1: u32 = 1;
const REG32: u32 = 8;

/// Private types within a rule's user data, beside nft's comment (0): what the rule was made from, and the generation.
pub(super) const UDATA_DIGEST: u8 = 0x53;
pub(super) const UDATA_GENERATION: u8 = 0x54;

/// Puts the whole table in the place of whatever table of that name there is, in one transaction.
pub(super) fn encode_replace(rules: &Ruleset, settings: &Settings, generation: u32) -> Batch {
    let mut encoder = Encoder::begin(settings, generation);
    encoder.batch = Batch::with_capacity(estimated_bytes(rules));
    encoder.batch.nfnl_begin(SUBSYSTEM, None);
    // Deleting what may not be there is an error, so make it first.
    encoder.table(msg::NEWTABLE, NLM_F_CREATE);
    encoder.table(msg::DELTABLE, 0);
    encoder.table(msg::NEWTABLE, NLM_F_CREATE | NLM_F_EXCL);
    let maps = encoder.sets(sets_in_order(&rules.sets));
    for (name, chain) in &rules.chains {
        encoder.chain(name, chain);
    }
    for (id, set) in maps {
        encoder.elements(msg::NEWSETELEM, SetRef::Id(id), &set.kind, set.elements.iter());
    }
    if let Some(set) = rules.sets.get(GENERATION) {
        let stamp = Key::host_u32(settings.stamp(generation));
        encoder.elements(msg::NEWSETELEM, SetRef::Name(GENERATION), &set.kind, [(&stamp, &Data::None)]);
    }
    for (name, limit) in &rules.limits {
        encoder.limit(name, limit);
    }
    for (name, chain) in &rules.chains {
        encoder.rules(name, chain);
    }
    encoder.end()
}

/// About how long the messages for everything get, so that megabytes need not be moved while they grow.
fn estimated_bytes(rules: &Ruleset) -> usize {
    let elements: usize = rules.sets.values().map(|set| 128 + 24 * set.elements.len()).sum();
    let chains: usize = rules.chains.values().map(|chain| 128 + 640 * chain.rules.len()).sum();
    elements + chains
}

/// Sets of addresses last. The kernel finds a set by going through all of a table's in the order in which they were made,
/// and there are thousands of those but few of the others, which rules and changes name all the time.
fn sets_in_order(sets: &BTreeMap<Name, Set>) -> impl Iterator<Item = (&Name, &Set)> {
    let of_addresses =
        |set: &Set| set.kind.data.is_none() && matches!(set.kind.key[..], [KeyType::Ipv4 | KeyType::Ipv6]);
    let others = sets.iter().filter(move |(_, set)| !of_addresses(set));
    others.chain(sets.iter().filter(move |(_, set)| of_addresses(set)))
}

/// Removes the table.
pub(super) fn encode_remove(settings: &Settings) -> Batch {
    let mut encoder = Encoder::begin(settings, 0);
    encoder.table(msg::NEWTABLE, NLM_F_CREATE);
    encoder.table(msg::DELTABLE, 0);
    encoder.end()
}

/// The first step of a change: what is new and what nothing refers to yet. `None` if nothing is new.
pub(super) fn encode_preparation(delta: &Delta, settings: &Settings, generation: u32) -> Option<Batch> {
    if delta.new_sets.is_empty() && delta.new_chains.is_empty() && delta.new_limits.is_empty() {
        return None;
    }
    let mut encoder = Encoder::begin(settings, generation);
    let maps = encoder.sets(delta.new_sets.iter().map(|(name, set)| (name, set)));
    for (name, chain) in &delta.new_chains {
        encoder.chain(name, chain);
    }
    for (id, set) in maps {
        encoder.elements(msg::NEWSETELEM, SetRef::Id(id), &set.kind, set.elements.iter());
    }
    for (name, limit) in &delta.new_limits {
        encoder.limit(name, limit);
    }
    for (name, chain) in &delta.new_chains {
        encoder.rules(name, chain);
    }
    Some(encoder.end())
}

/// The second step, which is the change itself: packets go another way from here on. `kinds` are the kinds of the sets
/// whose elements change. With the generation before this one, moves on from it; rewrites `stamps`, the chains that
/// stamp.
pub(super) fn encode_switch(
    delta: &Delta,
    settings: &Settings,
    generation: u32,
    kinds: impl Fn(&Name) -> Option<SetKind>,
    previous: Option<u32>,
    stamps: &[(Name, Chain)],
) -> Batch {
    let mut encoder = Encoder::begin(settings, generation);
    for (name, chain) in delta.changed_chains.iter().chain(stamps) {
        encoder.flush_chain(name);
        encoder.rules(name, chain);
    }
    if let (Some(previous), Some(kind)) = (previous, kinds(&GENERATION.into())) {
        for (message, generation) in [(msg::DELSETELEM, previous), (msg::NEWSETELEM, generation)] {
            let stamp = Key::host_u32(settings.stamp(generation));
            encoder.elements(message, SetRef::Name(GENERATION), &kind, [(&stamp, &Data::None)]);
        }
    }
    for (name, change) in &delta.elements {
        let Some(kind) = kinds(name) else { continue };
        for (message, list) in [(msg::DELSETELEM, &change.remove), (msg::NEWSETELEM, &change.add)] {
            let list = list.iter().map(|e| (&e.key, &e.data));
            encoder.elements(message, SetRef::Name(name), &kind, list);
        }
    }
    encoder.end()
}

/// The last step: removes what nothing refers to any more.
pub(super) fn encode_removal(chains: &[Name], sets: &[Name], limits: &[Name], settings: &Settings) -> Batch {
    let mut encoder = Encoder::begin(settings, 0);
    for name in chains {
        encoder.flush_chain(name);
    }
    for name in sets {
        encoder.message(msg::DELSET, 0, |w, table| {
            w.attr_str(1, table).attr_str(2, name);
        });
    }
    for name in limits {
        encoder.message(msg::DELOBJ, 0, |w, table| {
            w.attr_str(1, table).attr_str(2, name).attr_be32(3, OBJECT_LIMIT);
        });
    }
    for name in chains {
        encoder.message(msg::DELCHAIN, 0, |w, table| {
            w.attr_str(1, table).attr_str(3, name);
        });
    }
    encoder.end()
}

/// How a message refers to a set.
#[derive(Clone, Copy)]
enum SetRef<'a> {
    Name(&'a str),
    /// One that the same transaction makes, which the kernel finds sooner than by a name among thousands.
    Id(u32),
}

struct Encoder<'a> {
    batch: Batch,
    settings: &'a Settings,
    generation: u32,
    next_set_id: u32,
}

impl<'a> Encoder<'a> {
    fn begin(settings: &'a Settings, generation: u32) -> Self {
        let mut batch = Batch::new();
        batch.nfnl_begin(SUBSYSTEM, None);
        Self { batch, settings, generation, next_set_id: 0 }
    }

    fn end(mut self) -> Batch {
        self.batch.nfnl_end(SUBSYSTEM);
        self.batch
    }

    fn message(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Writer<'_>, &str)) {
        let table = &self.settings.table;
        self.batch.add(SUBSYSTEM << 8 | kind, flags, |w| {
            w.raw(&INET);
            fill(w, table);
        });
    }

    fn table(&mut self, kind: u16, flags: u16) {
        self.message(kind, flags, |w, table| {
            w.attr_str(1, table); // NFTA_TABLE_NAME
            if kind == msg::NEWTABLE {
                w.attr_be32(2, 0); // NFTA_TABLE_FLAGS
            }
        });
    }

    /// Makes sets, each with its elements right behind it: the kernel looks for a set of the same transaction from the
    /// newest on. The answer are those whose elements lead to chains, which must be there first.
    fn sets<'s>(&mut self, sets: impl Iterator<Item = (&'s Name, &'s Set)>) -> Vec<(u32, &'s Set)> {
        let mut maps = Vec::new();
        for (name, set) in sets {
            let id = self.set(name, set);
            if matches!(set.kind.data, Some(DataType::Verdict)) {
                maps.push((id, set));
            } else {
                self.elements(msg::NEWSETELEM, SetRef::Id(id), &set.kind, set.elements.iter());
            }
        }
        maps
    }

    /// Makes a set; the answer is its id within the transaction.
    fn set(&mut self, name: &str, set: &Set) -> u32 {
        self.next_set_id += 1;
        let id = self.next_set_id;
        let kind = &set.kind;
        let concat = kind.key.len() > 1;
        let RawKind { flags, key, data } = RawKind::of(kind);
        self.message(msg::NEWSET, NLM_F_CREATE | NLM_F_EXCL, |w, table| {
            w.attr_str(1, table); // NFTA_SET_TABLE
            w.attr_str(2, name); // NFTA_SET_NAME
            w.attr_be32(3, flags); // NFTA_SET_FLAGS
            w.attr_be32(4, key.0); // NFTA_SET_KEY_TYPE
            w.attr_be32(5, key.1); // NFTA_SET_KEY_LEN
            if let Some((kind, len)) = data {
                w.attr_be32(6, kind); // NFTA_SET_DATA_TYPE
                w.attr_be32(7, len); // NFTA_SET_DATA_LEN; ignored for verdicts
            }
            w.attr_be32(10, id); // NFTA_SET_ID
            w.nest(9, |w| {
                // NFTA_SET_DESC. No size of other sets: it would be a limit, and they grow.
                if name == GENERATION {
                    w.attr_be32(1, GENERATION_SIZE); // NFTA_SET_DESC_SIZE
                }
                if concat && kind.interval {
                    // NFTA_SET_DESC_CONCAT
                    w.nest(2, |w| {
                        for part in &kind.key {
                            w.nest(1, |w| _ = w.attr_be32(1, part.len() as u32)); // NFTA_SET_FIELD_LEN
                        }
                    });
                }
            });
            w.attr(13, &set_udata(set)); // NFTA_SET_USERDATA
        });
        id
    }

    fn elements<'e>(
        &mut self,
        kind: u16,
        of: SetRef<'_>,
        set: &SetKind,
        list: impl IntoIterator<Item = (&'e Key, &'e Data)>,
    ) {
        let flags = if kind == msg::NEWSETELEM { NLM_F_CREATE | NLM_F_EXCL } else { 0 };
        let mut list = list.into_iter().peekable();
        while list.peek().is_some() {
            self.message(kind, flags, |w, table| {
                w.attr_str(1, table); // NFTA_SET_ELEM_LIST_TABLE
                match of {
                    SetRef::Name(name) => w.attr_str(2, name), // NFTA_SET_ELEM_LIST_SET
                    SetRef::Id(id) => w.attr_be32(4, id),      // NFTA_SET_ELEM_LIST_SET_ID
                };
                // NFTA_SET_ELEM_LIST_ELEMENTS
                w.nest(3, |w| {
                    for (key, data) in list.by_ref().take(ELEMENTS_A_MESSAGE) {
                        element(w, set, key, data);
                    }
                });
            });
        }
    }

    fn chain(&mut self, name: &str, chain: &Chain) {
        self.message(msg::NEWCHAIN, NLM_F_CREATE | NLM_F_EXCL, |w, table| {
            w.attr_str(1, table); // NFTA_CHAIN_TABLE
            w.attr_str(3, name); // NFTA_CHAIN_NAME
            if let Some(hook) = chain.hook {
                // NFTA_CHAIN_HOOK
                w.nest(4, |w| {
                    w.attr_be32(1, hook.hook as u32); // NFTA_HOOK_HOOKNUM
                    w.attr_be32(2, hook.priority as u32); // NFTA_HOOK_PRIORITY
                });
                w.attr_be32(5, 1); // NFTA_CHAIN_POLICY: NF_ACCEPT
                w.attr_str(7, if hook.nat { "nat" } else { "filter" }); // NFTA_CHAIN_TYPE
            }
            if !chain.comment.is_empty() {
                w.attr(12, &udata_comment(0, &chain.comment)); // NFTA_CHAIN_USERDATA
            }
        });
    }

    fn limit(&mut self, name: &str, limit: &Limit) {
        self.message(msg::NEWOBJ, NLM_F_CREATE | NLM_F_EXCL, |w, table| {
            w.attr_str(1, table); // NFTA_OBJ_TABLE
            w.attr_str(2, name); // NFTA_OBJ_NAME
            w.attr_be32(3, OBJECT_LIMIT); // NFTA_OBJ_TYPE
            w.nest(4, |w| rate(w, limit.rate)); // NFTA_OBJ_DATA
            w.attr(8, &udata_comment(0, &limit.comment)); // NFTA_OBJ_USERDATA
        });
    }

    fn flush_chain(&mut self, name: &str) {
        self.message(msg::DELRULE, 0, |w, table| {
            w.attr_str(1, table).attr_str(2, name);
        });
    }

    fn rules(&mut self, name: &str, chain: &Chain) {
        for rule in &chain.rules {
            let (settings, generation) = (self.settings, self.generation);
            self.message(msg::NEWRULE, NLM_F_CREATE | NLM_F_APPEND, |w, table| {
                w.attr_str(1, table); // NFTA_RULE_TABLE
                w.attr_str(2, name); // NFTA_RULE_CHAIN
                // NFTA_RULE_EXPRESSIONS
                w.nest(4, |w| {
                    let mut writer = Expressions { w, settings, generation };
                    for statement in &rule.statements {
                        writer.statement(statement);
                    }
                });
                w.attr(7, &rule_udata(rule, settings, generation)); // NFTA_RULE_USERDATA
            });
        }
    }
}

/// A set's kind in the kernel's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RawKind {
    /// Of the flags, those that say what elements look like.
    pub(super) flags: u32,
    /// Type and length in bytes.
    pub(super) key: (u32, u32),
    /// Type and length in bytes, 0 for verdicts.
    pub(super) data: Option<(u32, u32)>,
}

impl RawKind {
    /// The flags that matter.
    pub(super) const FLAGS: u32 = INTERVAL | MAP | CONCAT;

    pub(super) fn of(kind: &SetKind) -> Self {
        let mut flags = 0;
        if kind.interval {
            flags |= INTERVAL;
        }
        if kind.data.is_some() {
            flags |= MAP;
        }
        // The kernel wants the parts' lengths only for intervals of several parts.
        if kind.key.len() > 1 && kind.interval {
            flags |= CONCAT;
        }
        let data = kind.data.as_ref().map(|data| match data {
            DataType::Verdict => (DATA_VERDICT, 0),
            DataType::Parts(parts) => (nft_type(parts), key_len(parts)),
        });
        Self { flags, key: (nft_type(&kind.key), key_len(&kind.key)), data }
    }
}

fn nft_type(parts: &[KeyType]) -> u32 {
    parts.iter().fold(0, |all, part| all << 6 | part.nft_type())
}

fn key_len(parts: &[KeyType]) -> u32 {
    match parts {
        [one] => one.len() as u32,
        several => several.iter().map(|p| p.padded() as u32).sum(),
    }
}

fn element(w: &mut Writer<'_>, set: &SetKind, key: &Key, data: &Data) {
    let value = |w: &mut Writer<'_>, kind, bytes: &[u8]| _ = w.nest(kind, |w| _ = w.attr(1, bytes));
    // NFTA_LIST_ELEM; NFTA_SET_ELEM_KEY 1, NFTA_SET_ELEM_DATA 2, NFTA_SET_ELEM_FLAGS 3, NFTA_SET_ELEM_KEY_END 10
    let concat = set.key.len() > 1;
    w.nest(1, |w| {
        value(w, 1, key.bytes());
        if concat && set.interval {
            value(w, 10, key.upper());
        }
        match data {
            Data::None => {}
            Data::Verdict(v) => _ = w.nest(2, |w| verdict(w, v)),
            Data::Value(v) => value(w, 2, v.bytes()),
        }
    });
    // A range of one part is two elements: its start, and the first value after it, unless there is none.
    if set.interval && !concat {
        let mut end = key.upper().to_vec();
        if increment(&mut end) {
            w.nest(1, |w| {
                value(w, 1, &end);
                w.attr_be32(3, 1); // NFT_SET_ELEM_INTERVAL_END
            });
        }
    }
}

/// Adds one to a number in network order; false if it overflowed.
pub(super) fn increment(bytes: &mut [u8]) -> bool {
    for byte in bytes.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return true;
        }
    }
    false
}

/// `NFTA_DATA_VERDICT` with its code and chain.
fn verdict(w: &mut Writer<'_>, verdict: &Verdict) {
    let (code, chain): (i32, Option<&Name>) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(name) => (-3, Some(name)),
        Verdict::Goto(name) => (-4, Some(name)),
        Verdict::Return => (-5, None),
    };
    w.nest(2, |w| {
        w.attr_be32(1, code as u32); // NFTA_VERDICT_CODE
        if let Some(chain) = chain {
            w.attr_str(2, chain); // NFTA_VERDICT_CHAIN
        }
    });
}

/// `enum nft_limit_attributes`.
fn rate(w: &mut Writer<'_>, rate: Rate) {
    w.attr_be64(1, rate.events.into()); // NFTA_LIMIT_RATE
    w.attr_be64(2, rate.per.into()); // NFTA_LIMIT_UNIT, in seconds
    w.attr_be32(3, rate.burst); // NFTA_LIMIT_BURST
    w.attr_be32(4, 0); // NFTA_LIMIT_TYPE: packets
    w.attr_be32(5, 0); // NFTA_LIMIT_FLAGS
}

/// One entry of user data: type, length, value.
fn udata(kind: u8, value: &[u8]) -> Vec<u8> {
    let len = u8::try_from(value.len()).unwrap_or(u8::MAX);
    let mut out = vec![kind, len];
    out.extend_from_slice(value.get(..usize::from(len)).unwrap_or_default());
    out
}

fn udata_comment(kind: u8, text: &str) -> Vec<u8> {
    let mut bytes = comment(text).into_bytes();
    bytes.push(0);
    udata(kind, &bytes)
}

/// What nft needs to print the set: in which byte order keys and values are, and the comment.
fn set_udata(set: &Set) -> Vec<u8> {
    let order = |parts: &[KeyType]| match parts {
        [KeyType::Ipv4 | KeyType::Ipv6 | KeyType::Port] => 2u32,
        [KeyType::Interface | KeyType::CtState | KeyType::CtStatus | KeyType::FibType | KeyType::Mark] => 1,
        _ => 0,
    };
    let mut out = udata(0, &order(&set.kind.key).to_ne_bytes());
    if let Some(DataType::Parts(parts)) = &set.kind.data {
        out.extend(udata(1, &order(parts).to_ne_bytes()));
    }
    if !set.comment.is_empty() {
        out.extend(udata_comment(7, &set.comment));
    }
    out
}

/// The comment, and what tells us later that the rule is the one we made.
fn rule_udata(rule: &Rule, settings: &Settings, generation: u32) -> Vec<u8> {
    let mut out = Vec::new();
    if !rule.comment.is_empty() {
        out.extend(udata_comment(0, &rule.comment));
    }
    out.extend(udata(UDATA_DIGEST, &rule_digest(rule, settings)));
    if mentions_generation(rule) {
        out.extend(udata(UDATA_GENERATION, &generation.to_be_bytes()));
    }
    out
}

/// Eight bytes that differ for different rules, and for stamps under different masks.
pub(super) fn rule_digest(rule: &Rule, settings: &Settings) -> [u8; 8] {
    use std::hash::{Hash, Hasher};
    let mut hasher = rustc_hash::FxHasher::default();
    rule.hash(&mut hasher);
    let stamps = |s: &Statement| matches!(s, Statement::GenerationIsCurrent | Statement::StampGeneration);
    if settings.mark_mask != DEFAULT_MARK_MASK && rule.statements.iter().any(stamps) {
        settings.mark_mask.hash(&mut hasher);
    }
    hasher.finish().to_be_bytes()
}

/// Whether a rule has the generation in it.
pub(super) fn mentions_generation(rule: &Rule) -> bool {
    rule.statements.contains(&Statement::StampGeneration)
}

struct Expressions<'a, 'b> {
    w: &'a mut Writer<'b>,
    settings: &'a Settings,
    generation: u32,
}

impl Expressions<'_, '_> {
    /// One expression: `NFTA_LIST_ELEM { NFTA_EXPR_NAME, NFTA_EXPR_DATA { … } }`.
    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Writer<'_>)) {
        self.w.nest(1, |w| {
            w.attr_str(1, name);
            w.nest(2, fill);
        });
    }

    fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::Compare { field, mask, negate, value } => {
                self.load(*field, REG_1);
                if let Some(mask) = mask {
                    self.bitwise(mask.bytes(), &vec![0; mask.bytes().len()]);
                }
                self.compare(value.bytes(), *negate);
            }
            Statement::Range(field, low, high) => {
                self.load(*field, REG_1);
                self.expression("range", |w| {
                    w.attr_be32(1, REG_1); // NFTA_RANGE_SREG
                    w.attr_be32(2, 0); // NFTA_RANGE_OP: NFT_RANGE_EQ
                    w.nest(3, |w| _ = w.attr(1, low.bytes())); // NFTA_RANGE_FROM_DATA
                    w.nest(4, |w| _ = w.attr(1, high.bytes())); // NFTA_RANGE_TO_DATA
                });
            }
            Statement::Lookup { fields, set, negate } => {
                let register = self.load_all(fields);
                self.lookup(set, register, None, *negate);
            }
            Statement::Vmap(fields, map) => {
                let register = self.load_all(fields);
                self.lookup(map, register, Some(REG_VERDICT), false);
            }
            Statement::Counter => self.expression("counter", |_| {}),
            Statement::Limit(limit) => self.expression("limit", |w| rate(w, *limit)),
            Statement::SharedLimit(name) => self.expression("objref", |w| {
                w.attr_be32(1, OBJECT_LIMIT); // NFTA_OBJREF_IMM_TYPE
                w.attr_str(2, name); // NFTA_OBJREF_IMM_NAME
            }),
            Statement::Log(prefix) => {
                let group = self.settings.log_group;
                self.expression("log", |w| {
                    w.attr_be16(1, group); // NFTA_LOG_GROUP
                    w.attr_str(2, &comment(prefix)); // NFTA_LOG_PREFIX
                });
            }
            Statement::Reject { tcp_reset } => self.expression("reject", |w| {
                if *tcp_reset {
                    w.attr_be32(1, 1); // NFTA_REJECT_TYPE: NFT_REJECT_TCP_RST
                } else {
                    w.attr_be32(1, 2); // NFT_REJECT_ICMPX_UNREACH
                    w.attr_u8(2, 3); // NFTA_REJECT_ICMP_CODE: NFT_REJECT_ICMPX_ADMIN_PROHIBITED
                }
            }),
            Statement::GenerationIsCurrent => {
                self.load_mark();
                self.bitwise(&self.settings.mark_mask.to_ne_bytes(), &[0; 4]);
                self.lookup(GENERATION, REG_1, None, false);
            }
            Statement::StampGeneration => {
                self.load_mark();
                let stamp = self.settings.stamp(self.generation);
                self.bitwise(&(!self.settings.mark_mask).to_ne_bytes(), &stamp.to_ne_bytes());
                self.expression("ct", |w| {
                    w.attr_be32(2, 3); // NFTA_CT_KEY: NFT_CT_MARK
                    w.attr_be32(4, REG_1); // NFTA_CT_SREG
                });
            }
            Statement::Masquerade => self.expression("masq", |_| {}),
            Statement::DnatMap { ipv6, fields, map } => {
                let register = self.load_all(fields);
                self.lookup(map, register, Some(REG_1), false);
                // The address is first in the value, the port in the register after it.
                let port = REG32 + if *ipv6 { 4 } else { 1 };
                self.expression("nat", |w| {
                    w.attr_be32(1, 1); // NFTA_NAT_TYPE: NFT_NAT_DNAT
                    w.attr_be32(2, if *ipv6 { 10 } else { 2 }); // NFTA_NAT_FAMILY
                    w.attr_be32(3, REG_1); // NFTA_NAT_REG_ADDR_MIN
                    w.attr_be32(5, port); // NFTA_NAT_REG_PROTO_MIN
                });
            }
            Statement::Verdict(v) => self.expression("immediate", |w| {
                w.attr_be32(1, REG_VERDICT); // NFTA_IMMEDIATE_DREG
                w.nest(2, |w| verdict(w, v)); // NFTA_IMMEDIATE_DATA
            }),
        }
    }

    /// Loads one or several fields for a lookup; the answer is the register they start at.
    fn load_all(&mut self, fields: &[Field]) -> u32 {
        if let [one] = fields {
            self.load(*one, REG_1);
            return REG_1;
        }
        let mut at = REG32;
        for field in fields {
            self.load(*field, at);
            at += field.key_type().padded() as u32 / 4;
        }
        REG32
    }

    fn load(&mut self, field: Field, register: u32) {
        // NFTA_META_DREG, NFTA_META_KEY
        let meta = |me: &mut Self, key: u32| {
            me.expression("meta", |w| _ = w.attr_be32(1, register).attr_be32(2, key));
        };
        // NFTA_CT_DREG, NFTA_CT_KEY, NFTA_CT_DIRECTION
        let ct = |me: &mut Self, key: u32, direction: Option<u8>| {
            me.expression("ct", |w| {
                w.attr_be32(1, register).attr_be32(2, key);
                if let Some(direction) = direction {
                    w.attr_u8(3, direction);
                }
            });
        };
        // NFTA_PAYLOAD_DREG, BASE (1 network, 2 transport), OFFSET, LEN
        let payload = |me: &mut Self, base: u32, offset: u32, len: u32| {
            me.expression("payload", |w| {
                w.attr_be32(1, register).attr_be32(2, base).attr_be32(3, offset).attr_be32(4, len);
            });
        };
        const ORIGINAL: Option<u8> = Some(0);
        const REPLY: Option<u8> = Some(1);
        match field {
            Field::IifName => meta(self, 6),
            Field::OifName => meta(self, 7),
            Field::NfProto => meta(self, 15),
            Field::L4Proto => meta(self, 16),
            Field::CtState => ct(self, 0, None),
            Field::CtDirection => ct(self, 1, None),
            Field::CtStatus => ct(self, 2, None),
            Field::SourceV4 => ct(self, 19, ORIGINAL),
            Field::SourceV6 => ct(self, 21, ORIGINAL),
            // The source of replies is the destination after translation.
            Field::DestinationV4 => ct(self, 19, REPLY),
            Field::DestinationV6 => ct(self, 21, REPLY),
            Field::DestinationPort => ct(self, 11, REPLY),
            Field::SourcePort => ct(self, 11, ORIGINAL),
            Field::IcmpTypeCode => ct(self, 12, ORIGINAL),
            Field::HeaderSourceV4 => payload(self, 1, 12, 4),
            Field::HeaderDestinationV4 => payload(self, 1, 16, 4),
            Field::HeaderSourceV6 => payload(self, 1, 8, 16),
            Field::HeaderDestinationV6 => payload(self, 1, 24, 16),
            Field::HeaderDestinationPort => payload(self, 2, 2, 2),
            Field::Icmpv6Type => payload(self, 2, 0, 1),
            // NFTA_FIB_DREG; RESULT: NFT_FIB_RESULT_ADDRTYPE; FLAGS: NFTA_FIB_F_DADDR
            Field::DestinationKind => {
                self.expression("fib", |w| _ = w.attr_be32(1, register).attr_be32(2, 3).attr_be32(3, 2));
            }
        }
    }

    fn load_mark(&mut self) {
        self.expression("ct", |w| _ = w.attr_be32(1, REG_1).attr_be32(2, 3)); // NFT_CT_MARK
    }

    fn bitwise(&mut self, mask: &[u8], xor: &[u8]) {
        self.expression("bitwise", |w| {
            w.attr_be32(1, REG_1); // NFTA_BITWISE_SREG
            w.attr_be32(2, REG_1); // NFTA_BITWISE_DREG
            w.attr_be32(3, mask.len() as u32); // NFTA_BITWISE_LEN
            w.nest(4, |w| _ = w.attr(1, mask)); // NFTA_BITWISE_MASK
            w.nest(5, |w| _ = w.attr(1, xor)); // NFTA_BITWISE_XOR
        });
    }

    fn compare(&mut self, value: &[u8], negate: bool) {
        self.expression("cmp", |w| {
            w.attr_be32(1, REG_1); // NFTA_CMP_SREG
            w.attr_be32(2, negate.into()); // NFTA_CMP_OP: NFT_CMP_EQ or NFT_CMP_NEQ
            w.nest(3, |w| _ = w.attr(1, value)); // NFTA_CMP_DATA
        });
    }

    fn lookup(&mut self, set: &str, source: u32, destination: Option<u32>, negate: bool) {
        self.expression("lookup", |w| {
            w.attr_str(1, set); // NFTA_LOOKUP_SET
            w.attr_be32(2, source); // NFTA_LOOKUP_SREG
            if let Some(register) = destination {
                w.attr_be32(3, register); // NFTA_LOOKUP_DREG
            }
            if negate {
                w.attr_be32(5, 1); // NFTA_LOOKUP_FLAGS: NFT_LOOKUP_F_INV
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_up() {
        let mut bytes = [0, 255];
        assert!(increment(&mut bytes));
        assert_eq!(bytes, [1, 0]);
        assert!(!increment(&mut [255, 255]));
    }
}
