//! Whether the kernel looks into the table that our routes are in, before anything else takes the packets of containers.

use crate::{
    api::Failure,
    model::{Family, Prefix},
    netlink::{
        self, Socket,
        route::{self, Filter, TABLE_MAIN},
        rule::{self, Action, Rule},
    },
};

/// `RT_TABLE_LOCAL`, the addresses of the host.
const TABLE_LOCAL: u32 = 255;

/// What is wrong with the host's routing rules (`ip rule`) for routes in this table to containers of these pools, one
/// line each.
pub(super) fn problems(table: u32, pools: &[Prefix]) -> Result<Vec<String>, Failure> {
    let read = |family| -> Result<_, netlink::Error> {
        let mut socket = Socket::route()?;
        let rules = rule::list(&mut socket, family)?;
        let mut routes = |table| {
            let list = route::list(&mut socket, family, Filter { table: Some(table), protocol: None });
            // A table that does not exist.
            list.unwrap_or_default().into_iter().map(|route| route.prefix).collect()
        };
        Ok(judge(table, family, &rules, pools, &mut routes))
    };
    let lists: Result<Vec<_>, _> = Family::ALL.into_iter().map(read).collect();
    let lists = lists.map_err(|e| Failure::new(format!("cannot read the routing rules: {e}")))?;
    Ok(lists.into_iter().flatten().collect())
}

/// The rules of one family, in order; `routes` are the destinations in a table. A rule for marked packets, ports or the
/// like is the operator's affair and passes.
fn judge(
    table: u32,
    family: Family,
    rules: &[Rule],
    pools: &[Prefix],
    routes: &mut dyn FnMut(u32) -> Vec<Prefix>,
) -> Vec<String> {
    let ip = match family {
        Family::Ipv4 => "ip rule",
        Family::Ipv6 => "ip -6 rule",
    };
    let looks = |r: &Rule| r.table() == Some(table) || r.action == Action::Vrf;
    let Some(ours) = rules.iter().position(looks) else {
        return vec![format!(
            "{family}: no rule looks into table {table}: its routes are never used (`{ip}`)"
        )];
    };
    let pools: Vec<Prefix> = pools.iter().copied().filter(|pool| pool.family() == family).collect();
    let priority = rules[ours].priority;
    let mut found = Vec::new();
    for rule in rules[..ours].iter().filter(|rule| concerns(rule, &pools)) {
        let at = format!("{family}: the rule with priority {}", rule.priority);
        match rule.action {
            Action::Drop(how) => found.push(format!(
                "{at} ({how}) drops packets of containers before table {table} is looked into (`{ip}`)"
            )),
            Action::Goto(to) if to > priority => {
                found.push(format!("{at} (goto {to}) jumps over the one for table {table} (`{ip}`)"));
            }
            Action::Table(TABLE_MAIN)
                if rule.from.is_none() && rule.to.is_none() && rule.suppressed.is_none() =>
            {
                found.push(format!(
                    "{family}: the rule for table {table} (priority {priority}) comes after the main table's: a \
                     default route there wins over the containers' (`{ip}`)"
                ));
            }
            Action::Table(other) if other != TABLE_LOCAL => {
                let takes = |route: &Prefix| {
                    rule.suppressed.is_none_or(|len| route.len() > len)
                        && (rule.from.is_some() || pools.iter().any(|pool| pool.overlaps(*route)))
                };
                if let Some(route) = routes(other).into_iter().find(takes) {
                    found.push(format!(
                        "{at} sends packets of containers to table {other}, which has a route for {route}, before \
                         table {table} is looked into (`{ip}`)"
                    ));
                }
            }
            _ => {}
        }
    }
    found
}

/// Whether a rule is for packets from or to containers of these pools, which come in by an interface.
fn concerns(rule: &Rule, pools: &[Prefix]) -> bool {
    if rule.invert {
        // For nearly everything, unless the condition is met by all packets of containers.
        let whole = |of: Option<Prefix>| of.is_some_and(|of| pools.iter().all(|pool| of.covers(*pool)));
        return !(whole(rule.from) || whole(rule.to));
    }
    let hits = |of: Option<Prefix>| of.is_none_or(|of| pools.iter().any(|pool| pool.overlaps(of)));
    // The host's own packets to containers are not looked at: operators send them where they like.
    !rule.narrow && rule.iif.as_deref() != Some("lo") && hits(rule.from) && hits(rule.to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn rule(priority: u32, action: Action) -> Rule {
        Rule {
            priority,
            action,
            invert: false,
            from: None,
            to: None,
            iif: None,
            narrow: false,
            suppressed: None,
        }
    }

    /// The rules that every host has, and more.
    fn with(more: &[Rule]) -> Vec<Rule> {
        let plain = [(0, 255), (32766, 254), (32767, 253)].map(|(at, table)| rule(at, Action::Table(table)));
        let mut rules: Vec<Rule> = plain.into_iter().chain(more.iter().cloned()).collect();
        rules.sort_by_key(|rule| rule.priority);
        rules
    }

    fn judged(table: u32, family: Family, rules: &[Rule]) -> Vec<String> {
        let routes = |table| match table {
            7 => vec![p("10.32.0.0/24")],
            8 => vec![p("0.0.0.0/0"), p("198.51.100.0/24")],
            9 => vec![p("198.51.100.0/24")],
            _ => Vec::new(),
        };
        judge(table, family, rules, &[p("10.32.0.0/16"), p("fd00:32::/48")], &mut { routes })
    }

    #[test]
    fn a_table_that_nobody_looks_into_is_named() {
        assert_eq!(judged(TABLE_MAIN, Family::Ipv4, &with(&[])), [""; 0]);
        let missing = judged(100, Family::Ipv6, &with(&[])).join("\n");
        assert!(
            missing.contains("no rule looks into table 100") && missing.contains("ip -6 rule"),
            "{missing}"
        );
        let late = judged(100, Family::Ipv4, &with(&[rule(40000, Action::Table(100))])).join("\n");
        assert!(late.contains("priority 40000") && late.contains("after the main"), "{late}");
        assert_eq!(judged(100, Family::Ipv4, &with(&[rule(1000, Action::Table(100))])), [""; 0]);
        // The table of a VRF device is found by the rule for all of them.
        assert_eq!(judged(100, Family::Ipv4, &with(&[rule(1000, Action::Vrf)])), [""; 0]);
    }

    #[test]
    fn rules_that_take_packets_of_containers_away_are_named() {
        let drop = Action::Drop("blackhole");
        let from = |mut r: Rule, prefix| {
            r.from = Some(p(prefix));
            r
        };
        let to = |mut r: Rule, prefix| {
            r.to = Some(p(prefix));
            r
        };
        let not = |mut r: Rule| {
            r.invert = true;
            r
        };
        let narrow = |mut r: Rule| {
            r.narrow = true;
            r
        };
        let by = |mut r: Rule, iif: &str| {
            r.iif = Some(iif.into());
            r
        };
        let rest = |mut r: Rule, len| {
            r.suppressed = Some(len);
            r
        };
        for (bad, said) in [
            (rule(80, drop), "priority 80 (blackhole) drops"),
            (rule(80, Action::Drop("prohibit")), "prohibit"),
            (from(rule(80, drop), "10.0.0.0/8"), "drops packets of containers"),
            (from(rule(80, drop), "10.32.7.1/32"), "drops"),
            (to(rule(80, drop), "10.32.1.0/24"), "drops"),
            (by(rule(80, drop), "s32abc"), "drops"),
            (not(from(rule(80, drop), "10.32.1.0/24")), "drops"),
            (not(narrow(rule(80, Action::Table(8)))), "to table 8"),
            (rule(80, Action::Goto(32767)), "jumps over"),
            (rule(80, Action::Table(7)), "to table 7, which has a route for 10.32.0.0/24"),
            (rule(80, Action::Table(8)), "a route for 0.0.0.0/0"),
            (from(rule(80, Action::Table(9)), "10.32.0.0/16"), "to table 9"),
            (rest(rule(80, Action::Table(7)), 0), "to table 7"),
        ] {
            let found = judged(TABLE_MAIN, Family::Ipv4, &with(std::slice::from_ref(&bad)));
            assert!(found.len() == 1 && found[0].contains(said), "{bad:?}: {found:?}");
        }
        for good in [
            from(rule(80, drop), "192.0.2.0/24"),
            to(rule(80, drop), "192.0.2.0/24"),
            narrow(rule(80, drop)),
            by(rule(80, drop), "lo"),
            not(from(rule(80, drop), "10.0.0.0/8")),
            rule(40000, drop),
            rule(80, Action::Goto(90)),
            rule(80, Action::Table(9)),
            rest(rule(80, Action::Table(8)), 0),
            rule(80, Action::Table(4711)),
            from(rule(80, Action::Table(8)), "192.0.2.0/24"),
            rule(80, Action::Other),
        ] {
            let found = judged(TABLE_MAIN, Family::Ipv4, &with(std::slice::from_ref(&good)));
            assert_eq!(found, [""; 0], "{good:?}");
        }
        // What wg-quick and the like make: the main table's own routes come first.
        let vpn = with(&[rest(rule(70, Action::Table(254)), 0), not(narrow(rule(80, Action::Table(8))))]);
        assert_eq!(judged(TABLE_MAIN, Family::Ipv4, &vpn), [""; 0]);
    }
}
