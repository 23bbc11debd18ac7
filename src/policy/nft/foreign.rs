//! Other people's chains that refuse our traffic.
//!
//! An accept in our table does not override a drop in another: every base chain at a hook has its say. Docker,
//! firewalld and ufw set the forward hook's policy to drop. We never touch such a table; we find it and say what
//! would help. See also `slash32 doctor`.

use std::fs;

use serde::Serialize;

use super::{
    Settings,
    encode::{INET, SUBSYSTEM},
};
use crate::{
    model::EndpointId,
    netlink::{Attr, Attrs, Error, Socket},
};

const GETCHAIN: u16 = 4;
const GETRULE: u16 = 7;
/// The numbers of `enum nf_inet_hooks`, whose names are in [`HOOKS`] in the same order.
const PREROUTING: u32 = 0;
const FORWARD: u32 = 2;
const HOOKS: [&str; 5] = ["prerouting", "input", "forward", "output", "postrouting"];
/// `NFPROTO_INET`, `NFPROTO_IPV4`, `NFPROTO_IPV6`.
const FAMILIES: [(u8, &str); 3] = [(1, "inet"), (2, "ip"), (10, "ip6")];

/// A chain of somebody else that drops or rejects what nobody accepted before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ForeignDrop {
    /// `ip`, `ip6` or `inet`; `iptables-legacy` for tables that nftables cannot see.
    pub family: &'static str,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// `forward`, `input` …
    pub hook: &'static str,
    /// How it refuses: by its policy, by its last rule, or by one about endpoints.
    pub how: &'static str,
    /// What lets our traffic through: commands, or advice where there is no such command.
    pub remedy: Vec<String>,
}

impl std::fmt::Display for ForeignDrop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { family, table, chain, hook, how, .. } = self;
        write!(f, "{family} {table} {chain} drops at the {hook} hook ({how})")
    }
}

/// In by an endpoint's interface (`i`), or out by one (`o`).
type Way = &'static str;

struct Base {
    family: u8,
    family_name: &'static str,
    table: String,
    chain: String,
    hook: u32,
    policy_drop: bool,
}

impl Base {
    fn hook_name(&self) -> &'static str {
        HOOKS.get(self.hook as usize).copied().unwrap_or("another")
    }

    /// The ways of endpoints' packets that the hook sees: in by an interface of theirs, out by one.
    fn ways(&self) -> &'static [Way] {
        match self.hook {
            FORWARD => &["i", "o"],
            hook if hook <= FORWARD => &["i"],
            _ => &["o"],
        }
    }
}

/// Foreign rules that write bits of the connection mark that are ours, of the chains that [`drops`] looks at.
pub(super) fn marks(socket: &mut Socket, settings: &Settings) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    for base in bases(socket, settings)?.0 {
        let bits = rules(socket, &base)?.iter().fold(0, |bits, rule| bits | rule.marks) & settings.mark_mask;
        if bits != 0 {
            let Base { family_name, table, chain, .. } = base;
            found.push(format!(
                "{family_name} {table} {chain} writes bits {bits:#010x} of the conntrack mark"
            ));
        }
    }
    Ok(found)
}

/// Finds foreign chains that refuse traffic of endpoints, unless they accept it by a rule for `s32*`.
pub(super) fn drops(socket: &mut Socket, settings: &Settings) -> Result<Vec<ForeignDrop>, Error> {
    let (chains, names) = bases(socket, settings)?;
    let mut found = Vec::new();
    for base in chains {
        let rules = rules(socket, &base)?;
        let how = match (base.policy_drop, rules.last()) {
            (true, _) => "policy drop",
            (false, Some(last)) if last.refuses && last.unconditional => "its last rule",
            _ if rules.iter().any(|r| r.refuses && r.names_endpoints) => {
                found.push(ForeignDrop {
                    family: base.family_name,
                    hook: base.hook_name(),
                    how: "a rule about s32*",
                    remedy: vec![format!(
                        "nft -a list chain {} {} {}   # and delete the rule if it is not meant so",
                        base.family_name, base.table, base.chain
                    )],
                    table: base.table,
                    chain: base.chain,
                });
                continue;
            }
            _ => continue,
        };
        let mut admits: Vec<Way> = rules.iter().filter_map(|rule| rule.admits).collect();
        // Whoever keeps his chain for himself has others write to one that he goes through first.
        for chain in rules.iter().filter_map(|rule| rule.enters.as_deref()) {
            admits.extend(rules_of(socket, &base, chain)?.iter().filter_map(|rule| rule.admits));
        }
        // What is forwarded needs a rule for either direction; traffic to the host itself has only one.
        if base.ways().iter().all(|way| admits.contains(way)) {
            continue;
        }
        let docker =
            names.iter().any(|(f, t, n)| *f == base.family && *t == base.table && n == "DOCKER-USER");
        found.push(ForeignDrop {
            family: base.family_name,
            hook: base.hook_name(),
            how,
            remedy: remedy(&base, docker),
            table: base.table,
            chain: base.chain,
        });
    }
    found.extend(legacy());
    Ok(found)
}

/// Foreign base chains that filter, and family, table and name of all foreign chains.
type Bases = (Vec<Base>, Vec<(u8, String, String)>);

fn bases(socket: &mut Socket, settings: &Settings) -> Result<Bases, Error> {
    let mut chains = Vec::new();
    let mut names = Vec::new();
    for (family, family_name) in FAMILIES {
        let header = [family, 0, 0, 0];
        let list = socket.dump(
            SUBSYSTEM << 8 | GETCHAIN,
            |w| _ = w.raw(&header),
            |message| {
                // An inet dump lists inet only; be sure all the same.
                Ok((message.payload.first() == Some(&family))
                    .then(|| message.attrs(INET.len()))
                    .and_then(chain))
            },
        )?;
        for (table, name, base) in list {
            if table == settings.table && family == 1 {
                continue;
            }
            if let Some((hook, policy_drop)) = base.filter(|(hook, _)| HOOKS.get(*hook as usize).is_some()) {
                let (table, chain) = (table.clone(), name.clone());
                chains.push(Base { family, family_name, table, chain, hook, policy_drop });
            }
            names.push((family, table, name));
        }
    }
    Ok((chains, names))
}

type ChainEntry = (String, String, Option<(u32, bool)>);

/// Table, name, and for base chains that filter: the hook, and whether the policy is drop.
fn chain(attrs: Attrs<'_>) -> Option<ChainEntry> {
    let find = |kind| attrs.clone().find_kind(kind);
    let base = find(4).and_then(|hook| {
        let number = hook.nested().find_kind(1)?.be32()?;
        (find(7)?.str()? == "filter").then_some((number, find(5).and_then(Attr::be32) == Some(0)))
    });
    Some((find(1)?.str()?.to_owned(), find(3)?.str()?.to_owned(), base))
}

/// What matters about a rule.
struct RuleSummary {
    refuses: bool,
    /// It accepts all that comes in, or goes out, by endpoints' interfaces.
    admits: Option<Way>,
    /// The chain that everything goes through here.
    enters: Option<String>,
    /// Nothing but counting and logging comes before the verdict.
    unconditional: bool,
    /// It compares something with `s32`.
    names_endpoints: bool,
    /// The bits of the connection mark that it may change.
    marks: u32,
}

fn rules(socket: &mut Socket, base: &Base) -> Result<Vec<RuleSummary>, Error> {
    rules_of(socket, base, &base.chain)
}

/// The rules of a chain of the same table.
fn rules_of(socket: &mut Socket, base: &Base, chain: &str) -> Result<Vec<RuleSummary>, Error> {
    let header = [base.family, 0, 0, 0];
    socket.dump(
        SUBSYSTEM << 8 | GETRULE,
        |w| _ = w.raw(&header).attr_str(1, &base.table).attr_str(2, chain),
        |message| {
            let attrs = message.attrs(INET.len());
            let find = |kind| attrs.clone().find_kind(kind);
            let here = message.payload.first() == Some(&base.family)
                && find(1).and_then(Attr::str) == Some(base.table.as_str())
                && find(2).and_then(Attr::str) == Some(chain);
            Ok(here.then(|| summarise(find(4).map_or(Attrs::new(&[]), Attr::nested))))
        },
    )
}

fn summarise(expressions: Attrs<'_>) -> RuleSummary {
    let mut summary = RuleSummary {
        refuses: false,
        admits: None,
        enters: None,
        unconditional: true,
        names_endpoints: false,
        marks: 0,
    };
    let mut accepts = false;
    // Which name of an interface was loaded last; which one was compared with all of the endpoints'; and whether the rule
    // asks for anything else.
    let (mut interface, mut way, mut narrow): (Option<Way>, Option<Way>, bool) = (None, None, false);
    // Whether the connection mark is what was loaded last, and the bits that were changed of it since.
    let mut loaded: Option<u32> = None;
    for expression in expressions {
        let parts = expression.nested();
        let name = parts.clone().find_kind(1).and_then(Attr::str).unwrap_or_default();
        let data = parts.find_kind(2).map_or(Attrs::new(&[]), Attr::nested);
        match name {
            "immediate" => {
                // NFTA_IMMEDIATE_DATA, NFTA_DATA_VERDICT, NFTA_VERDICT_CODE
                let verdict = data.find_kind(2).and_then(|d| d.nested().find_kind(2)).map(Attr::nested);
                let code = verdict.clone().and_then(|v| v.find_kind(1)?.be32());
                loaded = None;
                accepts |= code == Some(1);
                summary.refuses |= code == Some(0);
                // NFTA_VERDICT_CHAIN, of a rule that asks for nothing.
                if summary.unconditional {
                    summary.enters = verdict.and_then(|v| v.find_kind(2)?.str()).map(str::to_owned);
                }
            }
            "reject" => summary.refuses = true,
            // NFTA_CT_KEY: NFT_CT_MARK; NFTA_CT_SREG, or it loads the mark.
            "ct" if data.clone().find_kind(2).and_then(Attr::be32) == Some(3) => {
                narrow = true;
                if data.find_kind(4).is_some() {
                    summary.marks |= loaded.unwrap_or(u32::MAX);
                } else {
                    summary.unconditional = false;
                    loaded = Some(0);
                }
            }
            // NFTA_BITWISE_MASK and NFTA_BITWISE_XOR: what is kept, and what is turned over.
            "bitwise" => {
                (summary.unconditional, narrow) = (false, true);
                let word = |kind| {
                    let value = data.clone().find_kind(kind)?.nested().find_kind(1)?;
                    Some(u32::from_ne_bytes(value.data.try_into().ok()?))
                };
                loaded = loaded.map(|bits| match (word(4), word(5)) {
                    (Some(kept), Some(turned)) => bits | !kept | turned,
                    _ => u32::MAX,
                });
            }
            // NFTA_META_KEY: NFT_META_IIFNAME, NFT_META_OIFNAME.
            "meta" => {
                summary.unconditional = false;
                loaded = None;
                interface = match data.find_kind(2).and_then(Attr::be32) {
                    Some(6) => Some("i"),
                    Some(7) => Some("o"),
                    _ => None,
                };
                narrow |= interface.is_none();
            }
            // iptables' CONNMARK: struct xt_connmark_tginfo1 with ctmark, ctmask, nfmask and the mode, of which 2 restores the
            // packet's mark from the connection's.
            "target" => {
                (summary.unconditional, narrow) = (false, true);
                let is_it = data.clone().find_kind(1).and_then(Attr::str) == Some("CONNMARK");
                if let Some([_, _, _, _, a, b, c, d, _, _, _, _, mode, ..]) =
                    data.find_kind(3).map(|info| info.data).filter(|_| is_it)
                    && *mode != 2
                {
                    summary.marks |= u32::from_ne_bytes([*a, *b, *c, *d]);
                }
            }
            "counter" | "log" => {}
            "limit" => narrow = true,
            "cmp" => {
                summary.unconditional = false;
                // NFTA_CMP_OP: NFT_CMP_EQ
                let equal = data.clone().find_kind(2).and_then(Attr::be32) == Some(0);
                let value = data.find_kind(3).and_then(|d| d.nested().find_kind(1)).map(|v| v.data);
                summary.names_endpoints |=
                    value.is_some_and(|v| v.starts_with(EndpointId::PREFIX.as_bytes()));
                let all = equal && value == Some(EndpointId::PREFIX.as_bytes());
                match interface.take().filter(|_| all && way.is_none()) {
                    Some(found) => way = Some(found),
                    None => narrow = true,
                }
            }
            _ => (summary.unconditional, narrow) = (false, true),
        }
    }
    summary.admits = way.filter(|_| accepts && !narrow);
    summary
}

fn remedy(base: &Base, docker: bool) -> Vec<String> {
    let prefix = EndpointId::PREFIX;
    let both = base.ways();
    let iptables = if base.family == 10 { "ip6tables" } else { "iptables" };
    // Chains that iptables made are best changed by iptables, which would not understand others' rules.
    if docker && base.hook == FORWARD {
        return both.iter().map(|d| format!("{iptables} -I DOCKER-USER -{d} {prefix}+ -j ACCEPT")).collect();
    }
    if base.table == "filter" && ["FORWARD", "INPUT"].contains(&base.chain.as_str()) {
        return both
            .iter()
            .map(|d| format!("{iptables} -I {} -{d} {prefix}+ -j ACCEPT", base.chain))
            .collect();
    }
    if base.table == "firewalld" {
        return vec![format!(
            "firewall-cmd --permanent --zone=trusted --add-interface={prefix}+ && firewall-cmd --reload"
        )];
    }
    let (family, table, chain) = (base.family_name, &base.table, &base.chain);
    let insert = format!("nft insert rule {family} {table} {chain}");
    let mut remedy: Vec<String> =
        both.iter().map(|d| format!("{insert} {d}ifname \"{prefix}*\" accept")).collect();
    // These hooks see one end of the way only.
    match base.hook {
        PREROUTING => {
            remedy.push(format!("{insert} ip daddr POOL accept   # what comes to them, for each pool"));
        }
        hook if hook == HOOKS.len() as u32 - 1 => {
            remedy.push(format!("{insert} ip saddr POOL accept   # what they send, for each pool"));
        }
        _ => {}
    }
    remedy
}

/// Tables of the old iptables, which nftables cannot look into.
fn legacy() -> Vec<ForeignDrop> {
    let mut found = Vec::new();
    for (file, tool) in [("ip_tables_names", "iptables-legacy"), ("ip6_tables_names", "ip6tables-legacy")] {
        let names = fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
        if names.lines().any(|l| l == "filter") {
            found.push(ForeignDrop {
                family: "iptables-legacy",
                table: "filter".into(),
                chain: "FORWARD".into(),
                hook: "forward",
                how: "a table of the old iptables is loaded; it may drop",
                remedy: vec![format!(
                    "{tool} -S FORWARD   # and, if it drops, {tool} -I FORWARD -i s32+ -j ACCEPT"
                )],
            });
        }
    }
    found
}
