//! Whether the kernel looks into the table that our routes are in.

use crate::{
    api::Failure,
    model::Family,
    netlink::{
        Socket,
        route::TABLE_MAIN,
        rule::{self, Rule},
    },
};

/// What is wrong with the host's routing rules (`ip rule`) for routes in this table, one line each.
pub(super) fn problems(table: u32) -> Result<Vec<String>, Failure> {
    let read = |family| -> Result<_, crate::netlink::Error> {
        Ok(judge(table, family, &rule::list(&mut Socket::route()?, family)?))
    };
    Family::ALL
        .into_iter()
        .filter_map(|family| read(family).transpose())
        .collect::<Result<_, _>>()
        .map_err(|e| Failure::new(format!("cannot read the routing rules: {e}")))
}

/// The rules of one family, in order. A rule with a condition (a mark, a source) is the operator's affair and passes.
fn judge(table: u32, family: Family, rules: &[Rule]) -> Option<String> {
    let ip = match family {
        Family::Ipv4 => "ip rule",
        Family::Ipv6 => "ip -6 rule",
    };
    let position = |wanted| rules.iter().position(|r| r.table.is_none_or(|t| t == wanted));
    let Some(ours) = position(table) else {
        return Some(format!(
            "{family}: no rule looks into table {table}: its routes are never used (`{ip}`)"
        ));
    };
    let main = rules.iter().position(|r| r.table == Some(TABLE_MAIN));
    main.is_some_and(|main| main < ours).then(|| {
        let priority = rules[ours].priority;
        format!(
            "{family}: the rule for table {table} (priority {priority}) comes after the main table's: a default \
             route there wins over the containers' (`{ip}`)"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(list: &[(u32, Option<u32>)]) -> Vec<Rule> {
        list.iter().map(|&(priority, table)| Rule { priority, table }).collect()
    }

    #[test]
    fn a_table_that_nobody_looks_into_is_named() {
        let plain = rules(&[(0, Some(255)), (32766, Some(254)), (32767, Some(253))]);
        assert_eq!(judge(TABLE_MAIN, Family::Ipv4, &plain), None);
        let missing = judge(100, Family::Ipv6, &plain).unwrap();
        assert!(
            missing.contains("no rule looks into table 100") && missing.contains("ip -6 rule"),
            "{missing}"
        );
        let late = rules(&[(0, Some(255)), (32766, Some(254)), (40000, Some(100))]);
        let late = judge(100, Family::Ipv4, &late).unwrap();
        assert!(late.contains("priority 40000") && late.contains("after the main"), "{late}");
        let good = rules(&[(0, Some(255)), (1000, Some(100)), (32766, Some(254))]);
        assert_eq!(judge(100, Family::Ipv4, &good), None);
        // The table of a VRF device is found by the rule for all of them.
        let vrf = rules(&[(0, Some(255)), (1000, None), (32766, Some(254))]);
        assert_eq!(judge(100, Family::Ipv4, &vrf), None);
    }
}
