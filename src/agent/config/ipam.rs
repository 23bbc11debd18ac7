//! `[[ipam.pool]]`: this host's blocks, given or computed, inside their pool and apart from one another.

use std::net::IpAddr;

use super::{Pool, file, locate::Step, resolve::Errors};
use crate::model::{Family, Prefix};

pub(super) fn pools(tables: Vec<file::Pool>, errors: &mut Errors<'_>) -> Vec<Pool> {
    let mut pools: Vec<Pool> = Vec::new();
    for (i, table) in tables.into_iter().enumerate() {
        let place = |key| ["ipam".into(), "pool".into(), i.into(), Step::Key(key)];
        let cidr = table.cidr;
        let blocks = match (table.block, table.host_index) {
            (Some(_), Some(_)) => {
                errors.at(&place("host_index"), "give either `block` or `host_index`, not both");
                continue;
            }
            (Some(block), None) => block,
            (None, Some(index)) => {
                let len = table.block_len.unwrap_or(if cidr.family() == Family::Ipv4 { 24 } else { 112 });
                match nth_block(cidr, index, len) {
                    Ok(block) => vec![block],
                    Err(message) => {
                        errors.at(&place("host_index"), message);
                        continue;
                    }
                }
            }
            // A pool with no block of this host's: its prefixes are known as the cluster's, nothing is given out.
            (None, None) => Vec::new(),
        };
        if cidr.is_martian() {
            errors
                .at(&place("cidr"), format!("{cidr} is never routed: no host would accept it from another"));
        }
        for block in &blocks {
            if !cidr.covers(*block) {
                errors.at(&place("block"), format!("block {block} is not inside the pool {cidr}"));
            }
        }
        for (at, block) in blocks.iter().enumerate() {
            if let Some(other) = blocks[..at].iter().find(|other| other.overlaps(*block)) {
                errors.at(&place("block"), format!("block {block} overlaps block {other}"));
            }
        }
        for exclude in &table.exclude {
            if !cidr.covers(*exclude) {
                errors.at(&place("exclude"), format!("{exclude} is not inside the pool {cidr}"));
            }
        }
        if let Some(other) = pools.iter().find(|p| p.cidr.overlaps(cidr)) {
            errors.at(&place("cidr"), format!("pool {cidr} overlaps the pool {}", other.cidr));
        }
        pools.push(Pool {
            name: table.name.unwrap_or_else(|| "default".to_owned()),
            cidr,
            blocks,
            exclude: table.exclude,
            nat_outgoing: table.nat_outgoing,
        });
    }
    pools
}

/// The `index`-th block of `len` bits in `cidr`.
fn nth_block(cidr: Prefix, index: u32, len: u8) -> Result<Prefix, String> {
    if len < cidr.len() || len > cidr.family().bits() {
        return Err(format!("a block of /{len} does not fit into the pool {cidr}"));
    }
    let blocks_bits = u32::from(len - cidr.len());
    if blocks_bits < 32 && index >> blocks_bits != 0 {
        return Err(format!(
            "host index {index} is outside the pool {cidr}, which has {} blocks of /{len}",
            1u64 << blocks_bits
        ));
    }
    let shift = u32::from(cidr.family().bits() - len);
    let addr = match cidr.addr() {
        IpAddr::V4(a) => IpAddr::V4((a.to_bits() | index.checked_shl(shift).unwrap_or(0)).into()),
        IpAddr::V6(a) => IpAddr::V6((a.to_bits() | u128::from(index).checked_shl(shift).unwrap_or(0)).into()),
    };
    Prefix::new(addr, len).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_by_host_index() {
        let block =
            |cidr: &str, index, len| nth_block(cidr.parse().unwrap(), index, len).map(|p| p.to_string());
        assert_eq!(block("10.32.0.0/16", 4, 24).unwrap(), "10.32.4.0/24");
        assert_eq!(block("10.32.0.0/16", 0, 16).unwrap(), "10.32.0.0/16");
        assert_eq!(block("fd00:32::/48", 0x1_0004, 80).unwrap(), "fd00:32:0:1:4::/80");
        assert!(block("10.32.0.0/16", 256, 24).is_err());
        assert!(block("10.32.0.0/16", 0, 15).is_err());
        assert!(block("10.32.0.0/16", 1, 16).is_err());
    }
}
