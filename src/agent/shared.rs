//! Whether another host gives addresses of this host's blocks, because it was configured with the same block.
//!
//! What another host announces of our blocks has a number if it has been asked to move there. What has none was given there
//! by chance, unless it is anycast. Two things look the same for a moment and are left out: our own announcement that comes
//! back by a neighbour who may say so (`allow_own_as` and the like), and what we have withdrawn a moment ago.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    time::Duration,
};

use super::{core::Core, metrics::Page, rib_queries, service::Service};
use crate::{
    bgp::{
        rib::{RouteFilter, RouteRow, RouteSource},
        speaker::{SpeakerError, SpeakerHandle},
    },
    model::Prefix,
};

/// How often to look. What two looks in a row find is told.
const LOOK: Duration = Duration::from_secs(5);
/// How many addresses of a block are enough to be sure.
const MANY: usize = 64;
/// How many addresses a line names.
const NAMED: usize = 4;

/// What others announce of one block: the addresses, by next hop.
pub(super) type Found = BTreeMap<(Prefix, IpAddr), Vec<IpAddr>>;

/// Looks until the end of the agent.
pub(super) async fn watch(service: Service, speaker: SpeakerHandle) {
    let mut look = tokio::time::interval(LOOK);
    let mut before = Found::new();
    let mut told = Vec::new();
    loop {
        look.tick().await;
        let Ok(now) = find(&service, &speaker).await else { return };
        let twice = both(&before, &now);
        before = now;
        let lines = lines(&twice);
        for line in lines.iter().filter(|line| !told.contains(*line)) {
            tracing::warn!("{line}");
        }
        told = lines;
        service.set_shared(twice);
    }
}

/// What both looks have found.
fn both(one: &Found, other: &Found) -> Found {
    let in_one = |key: &(Prefix, IpAddr), addr: &IpAddr| one.get(key).is_some_and(|list| list.contains(addr));
    let mut both = other.clone();
    for (key, list) in &mut both {
        list.retain(|addr| in_one(key, addr));
    }
    both.retain(|_, list| !list.is_empty());
    both
}

/// One line for each block and next hop.
pub(super) fn lines(found: &Found) -> Vec<String> {
    let line = |((block, next_hop), addresses): (&(Prefix, IpAddr), &Vec<IpAddr>)| {
        let mut names: Vec<String> = addresses.iter().take(NAMED).map(ToString::to_string).collect();
        if addresses.len() > NAMED {
            names.push("…".to_owned());
        }
        format!(
            "another host, behind the next hop {next_hop}, gives addresses of this host's block {block}, too: {}; give every \
             host a block of its own (or make the containers `anycast` on both)",
            names.join(", ")
        )
    };
    found.iter().map(line).collect()
}

/// How many addresses of each block others give.
pub(super) fn write(page: &mut Page, blocks: &[Prefix], found: &Found) {
    const NAME: &str = "slash32_ipam_shared_addresses";
    page.metric(
        NAME,
        "gauge",
        "Addresses of this host's blocks that another host has given to its containers.",
    );
    for block in blocks {
        let of_block = found.iter().filter(|((of, _), _)| of == block);
        let addresses: HashSet<&IpAddr> = of_block.flat_map(|(_, list)| list).collect();
        page.sample(NAME, &[("block", &block.to_string())], addresses.len() as u64);
    }
}

async fn find(service: &Service, speaker: &SpeakerHandle) -> Result<Found, SpeakerError> {
    let config = service.config();
    let asn = config.bgp.as_ref().map(|bgp| bgp.asn.get().to_string()).unwrap_or_default();
    let anycast = service.core().ask(Core::anycast).await.unwrap_or_default();
    let mut found = Found::new();
    for block in config.pools.iter().flat_map(|pool| &pool.blocks) {
        let filter = RouteFilter {
            prefix: Some(*block),
            longer: true,
            source: RouteSource::All,
            ..RouteFilter::default()
        };
        let mut count = 0;
        rib_queries::each_piece(speaker, filter, |piece| {
            for (addr, next_hop) in given_elsewhere(&piece, &asn) {
                if !anycast.contains(&addr) && count < MANY {
                    count += 1;
                    let list = found.entry((*block, next_hop)).or_default();
                    if !list.contains(&addr) {
                        list.push(addr);
                    }
                }
            }
            count < MANY
        })
        .await?;
    }
    Ok(found)
}

/// The addresses that others have given, with their next hops. `asn` is ours.
fn given_elsewhere(rows: &[RouteRow], asn: &str) -> Vec<(IpAddr, IpAddr)> {
    let ours: HashMap<Prefix, &[String]> =
        rows.iter().filter(|r| r.from.is_none()).map(|r| (r.prefix, r.identity.as_slice())).collect();
    let given = |row: &&RouteRow| {
        let theirs = row.from.is_some() && row.prefix.is_host() && row.sequence.is_none() && !row.stale;
        let through_us = || row.as_path.split(|c: char| !c.is_ascii_digit()).any(|word| word == asn);
        let echo = || ours.get(&row.prefix).is_some_and(|own| *own == row.identity && through_us());
        theirs && !echo()
    };
    rows.iter().filter(given).filter_map(|row| Some((row.prefix.addr(), row.next_hop?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_twice_is_told() {
        let key = |hop: &str| ("10.32.4.0/24".parse().unwrap(), hop.parse().unwrap());
        let addrs = |list: &[u8]| list.iter().map(|n| IpAddr::from([10, 32, 4, *n])).collect::<Vec<_>>();
        let one = Found::from([(key("192.0.2.1"), addrs(&[1, 2, 3])), (key("192.0.2.2"), addrs(&[9]))]);
        let other = Found::from([(key("192.0.2.1"), addrs(&[2, 3, 4, 5])), (key("192.0.2.3"), addrs(&[9]))]);
        let twice = both(&one, &other);
        assert_eq!(twice, Found::from([(key("192.0.2.1"), addrs(&[2, 3]))]));
        let [line] = &lines(&twice)[..] else { panic!("{twice:?}") };
        for word in ["192.0.2.1,", "10.32.4.0/24", "10.32.4.2, 10.32.4.3;"] {
            assert!(line.contains(word), "{word}: {line}");
        }
        let mut page = Page::default();
        write(&mut page, &["10.32.4.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()], &twice);
        let text = page.finish();
        assert!(text.contains("{block=\"10.32.4.0/24\"} 2\n") && text.contains("{block=\"fd00::/64\"} 0\n"));
    }
}
