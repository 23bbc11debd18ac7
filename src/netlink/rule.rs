//! Routing policy rules (`ip rule`): which tables the kernel looks into, and in what order.

use super::{Attrs, Error, Socket, addr::af};
use crate::model::{Family, Prefix};

/// `RTM_*` message types of linux/rtnetlink.h.
pub(super) const RTM_NEWRULE: u16 = 32;
pub(super) const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;
/// `struct fib_rule_hdr` of linux/fib_rules.h is 12 bytes: family, lengths of destination and source, type of
/// service, table, 2 of padding, action, flags.
const HEADER: usize = 12;
/// `FRA_*` attributes, `FR_ACT_*` actions and `FIB_RULE_INVERT` of linux/fib_rules.h.
const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_GOTO: u16 = 4;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TUN_ID: u16 = 12;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_OIFNAME: u16 = 17;
const FRA_L3MDEV: u16 = 19;
const FRA_UID_RANGE: u16 = 20;
/// `FRA_IP_PROTO`, ports, and what later kernels look at in a packet.
const FRA_IP_PROTO: u16 = 22;
const FR_ACT_TO_TBL: u8 = 1;
const FR_ACT_GOTO: u8 = 2;
const FR_ACT_BLACKHOLE: u8 = 6;
const FR_ACT_UNREACHABLE: u8 = 7;
const FR_ACT_PROHIBIT: u8 = 8;
const FIB_RULE_INVERT: u32 = 2;

/// What a rule does with the packets that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Looks into a table.
    Table(u32),
    /// Looks into the table of the packet's VRF device.
    Vrf,
    /// Goes on at the first rule with at least this priority.
    Goto(u32),
    /// Drops them: `blackhole`, `unreachable` or `prohibit`.
    Drop(&'static str),
    /// Nothing, or something that we do not know.
    Other,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The lower, the earlier.
    pub priority: u32,
    /// What it does.
    pub action: Action,
    /// Whether it is for what does not meet the conditions.
    pub invert: bool,
    /// Only for packets from here.
    pub from: Option<Prefix>,
    /// Only for packets to here.
    pub to: Option<Prefix>,
    /// Only for packets that come in by this interface; `lo` are the host's own.
    pub iif: Option<String>,
    /// Whether it has other conditions: a mark, ports, an outgoing interface …
    pub narrow: bool,
    /// Routes of its table with at most this length are passed over.
    pub suppressed: Option<u8>,
}

impl Rule {
    /// The table it looks into, whatever its conditions.
    pub const fn table(&self) -> Option<u32> {
        match self.action {
            Action::Table(table) => Some(table),
            _ => None,
        }
    }
}

/// Lists the rules of a family in the kernel's order.
pub fn list(socket: &mut Socket, family: Family) -> Result<Vec<Rule>, Error> {
    let mut rules = socket.dump(
        RTM_GETRULE,
        |w| {
            let mut header = [0; HEADER];
            header[0] = af(family);
            w.raw(&header);
        },
        |m| Ok(if m.kind == RTM_NEWRULE { parse(m.payload, family) } else { None }),
    )?;
    rules.sort_by_key(|rule| rule.priority);
    Ok(rules)
}

fn parse(payload: &[u8], family: Family) -> Option<Rule> {
    let [of, to_len, from_len, tos, table, _, _, action, flags @ ..] = *payload.first_chunk::<HEADER>()?;
    if of != af(family) {
        return None;
    }
    let attrs = Attrs::after(payload, HEADER);
    let find = |kind| attrs.clone().find_kind(kind);
    let number = |kind| find(kind).and_then(super::Attr::u32);
    let name = |kind| find(kind).and_then(super::Attr::str).map(str::to_owned);
    let prefix = |kind, len| find(kind)?.ip().and_then(|addr| Prefix::new(addr, len).ok());
    let action = match action {
        FR_ACT_TO_TBL if find(FRA_L3MDEV).and_then(super::Attr::u8) == Some(1) => Action::Vrf,
        FR_ACT_TO_TBL => Action::Table(number(FRA_TABLE).unwrap_or(table.into())),
        FR_ACT_GOTO => Action::Goto(number(FRA_GOTO).unwrap_or(0)),
        FR_ACT_BLACKHOLE => Action::Drop("blackhole"),
        FR_ACT_UNREACHABLE => Action::Drop("unreachable"),
        FR_ACT_PROHIBIT => Action::Drop("prohibit"),
        _ => Action::Other,
    };
    let narrow =
        |kind| matches!(kind, FRA_FWMARK | FRA_TUN_ID | FRA_OIFNAME | FRA_UID_RANGE) || kind >= FRA_IP_PROTO;
    Some(Rule {
        priority: number(FRA_PRIORITY).unwrap_or(0),
        action,
        invert: u32::from_ne_bytes(flags) & FIB_RULE_INVERT != 0,
        from: prefix(FRA_SRC, from_len),
        to: prefix(FRA_DST, to_len),
        iif: name(FRA_IIFNAME),
        narrow: tos != 0 || attrs.clone().any(|attr| narrow(attr.kind)),
        // All bits set: none.
        suppressed: number(FRA_SUPPRESS_PREFIXLEN).and_then(|len| len.try_into().ok()),
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::netlink::ns::testing;

    #[test]
    fn rules_are_read_in_order() {
        testing::private(|| {
            let mut socket = Socket::route().unwrap();
            let plain = [(0, Some(255)), (32766, Some(254)), (32767, Some(253))];
            let read = |socket: &mut Socket, family| -> Vec<_> {
                list(socket, family).unwrap().into_iter().map(|r| (r.priority, r.table())).collect()
            };
            assert_eq!(read(&mut socket, Family::Ipv4), plain);
            assert_eq!(read(&mut socket, Family::Ipv6), plain[..2]);
            let rules = list(&mut socket, Family::Ipv4).unwrap();
            let bare = |r: &Rule| {
                !r.narrow
                    && !r.invert
                    && (&r.from, &r.to, &r.iif, r.suppressed) == (&None, &None, &None, None)
            };
            assert!(rules.iter().all(bare), "{rules:?}");
            for rule in [
                "-4 rule add pref 90 lookup 7000",
                "-4 rule add pref 80 blackhole",
                "-4 rule add pref 70 not from 10.1.0.0/16 to 10.2.0.0/16 iif lo prohibit",
                "-4 rule add pref 60 fwmark 7 lookup 7 suppress_prefixlength 0",
                "-4 rule add pref 65 goto 90",
                "-6 rule add pref 9 lookup 5",
                "-6 rule add pref 8 from fd00::/8 unreachable",
            ] {
                assert!(Command::new("ip").args(rule.split(' ')).status().unwrap().success(), "{rule}");
            }
            let rules = list(&mut socket, Family::Ipv4).unwrap();
            let [_, marked, jump, inverted, black, other, ..] = rules.as_slice() else { panic!("{rules:?}") };
            assert_eq!((marked.action, marked.narrow), (Action::Table(7), true));
            assert_eq!(marked.suppressed, Some(0));
            assert_eq!(jump.action, Action::Goto(90));
            assert_eq!((inverted.action, inverted.invert), (Action::Drop("prohibit"), true));
            assert_eq!(inverted.from.unwrap().to_string(), "10.1.0.0/16");
            assert_eq!(inverted.to.unwrap().to_string(), "10.2.0.0/16");
            assert_eq!(inverted.iif.as_deref(), Some("lo"));
            assert_eq!((black.priority, black.action, black.narrow), (80, Action::Drop("blackhole"), false));
            assert_eq!((other.priority, other.action), (90, Action::Table(7000)));
            let rules = list(&mut socket, Family::Ipv6).unwrap();
            assert_eq!(rules[1].action, Action::Drop("unreachable"));
            assert_eq!(rules[1].from.unwrap().to_string(), "fd00::/8");
            assert_eq!(rules[2].table(), Some(5));
        });
    }
}
