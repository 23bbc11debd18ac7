//! Routing policy rules (`ip rule`): which tables the kernel looks into, and in what order.

use super::{Attrs, Error, Socket, addr::af};
use crate::model::Family;

/// `RTM_*` message types of linux/rtnetlink.h.
pub(super) const RTM_NEWRULE: u16 = 32;
pub(super) const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;
/// `struct fib_rule_hdr` of linux/fib_rules.h is 12 bytes: family, lengths of destination and source, type of
/// service, table, 2 of padding, action, flags.
const HEADER: usize = 12;
/// `FRA_*` attributes and `FR_ACT_TO_TBL` of linux/fib_rules.h.
const FRA_PRIORITY: u16 = 6;
const FRA_TABLE: u16 = 15;
const FRA_L3MDEV: u16 = 19;
const FR_ACT_TO_TBL: u8 = 1;

/// A rule that has a table looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The lower, the earlier.
    pub priority: u32,
    /// The table; none for the rule that looks into the tables of VRF devices.
    pub table: Option<u32>,
}

/// Lists the rules of a family that have a table looked up, in the kernel's order.
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
    let [of, _, _, _, table, _, _, action, ..] = *payload.first_chunk::<HEADER>()?;
    if of != af(family) || action != FR_ACT_TO_TBL {
        return None;
    }
    let attrs = Attrs::after(payload, HEADER);
    let number = |kind| attrs.clone().find_kind(kind).and_then(super::Attr::u32);
    let vrf = attrs.clone().find_kind(FRA_L3MDEV).and_then(super::Attr::u8) == Some(1);
    let table = (!vrf).then(|| number(FRA_TABLE).unwrap_or(table.into()));
    Some(Rule { priority: number(FRA_PRIORITY).unwrap_or(0), table })
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
                list(socket, family).unwrap().into_iter().map(|r| (r.priority, r.table)).collect()
            };
            assert_eq!(read(&mut socket, Family::Ipv4), plain);
            assert_eq!(read(&mut socket, Family::Ipv6), plain[..2]);
            for rule in [
                "-4 rule add pref 90 lookup 7000",
                "-4 rule add pref 80 blackhole",
                "-6 rule add pref 9 lookup 5",
            ] {
                assert!(Command::new("ip").args(rule.split(' ')).status().unwrap().success());
            }
            assert_eq!(read(&mut socket, Family::Ipv4)[..2], [(0, Some(255)), (90, Some(7000))]);
            assert_eq!(read(&mut socket, Family::Ipv6)[1], (9, Some(5)));
        });
    }
}
