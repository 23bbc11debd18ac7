use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

const QUARANTINE: Duration = Duration::from_secs(30);

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn pool(name: &str, cidr: &str, blocks: &[&str], exclude: &[&str]) -> PoolConfig {
    PoolConfig {
        name: name.into(),
        cidr: prefix(cidr),
        blocks: blocks.iter().map(|b| prefix(b)).collect(),
        exclude: exclude.iter().map(|b| prefix(b)).collect(),
    }
}

fn ipam(pools: Vec<PoolConfig>) -> Ipam {
    Ipam::new(&IpamConfig { quarantine: QUARANTINE, pools })
}

fn owner(i: u32) -> EndpointId {
    EndpointId(format!("s32{i}"))
}

fn take(ipam: &mut Ipam, i: u32, now: Instant) -> Result<Grant, IpamError> {
    ipam.allocate(Wish { owner: &owner(i), pools: &[], families: &[], requested: &[] }, now)
}

fn asked(ipam: &mut Ipam, i: u32, addrs: &[&str], now: Instant) -> Result<Grant, IpamError> {
    let requested: Vec<IpAddr> = addrs.iter().map(|a| a.parse().unwrap()).collect();
    ipam.allocate(Wish { owner: &owner(i), pools: &[], families: &[], requested: &requested }, now)
}

fn v4(grant: &Grant) -> String {
    grant.ipv4.unwrap().to_string()
}

#[test]
fn what_is_somebodys_is_left_out_and_comes_back() {
    let mut ipam = ipam(vec![pool("p", "10.32.0.0/16", &["10.32.4.0/30"], &["10.32.4.3/32"])]);
    let start = Instant::now();
    let reserved: Vec<IpAddr> =
        ["10.32.4.0", "10.32.4.2", "10.32.4.3", "192.0.2.1"].map(|a| a.parse().unwrap()).to_vec();
    ipam.set_reserved(reserved.iter().map(|a| (*a, Whose::Host)).collect(), start);
    let usage = &ipam.usage(start)[0];
    assert_eq!((usage.size, usage.reserved, usage.free), (3, 2, 1));
    assert_eq!(ipam.left_out().map(|(a, ..)| a).collect::<Vec<_>>(), reserved[..2]);
    assert_eq!(v4(&take(&mut ipam, 0, start).unwrap()), "10.32.4.1");
    let error = take(&mut ipam, 1, start).unwrap_err();
    assert!(matches!(error, IpamError::Exhausted { reserved: 2, used: 1, retry: None, .. }), "{error}");
    // It is the host's no longer.
    ipam.set_reserved(BTreeMap::new(), start);
    assert!(matches!(take(&mut ipam, 1, start), Err(IpamError::Exhausted { resting: 2, .. })));
    assert_eq!(v4(&take(&mut ipam, 1, start + QUARANTINE).unwrap()), "10.32.4.0");
}

#[test]
fn what_is_excluded_while_it_rests_is_not_given_again() {
    let now = Instant::now();
    let pools = |exclude| vec![pool("p", "10.0.0.0/16", &["10.0.4.0/31"], exclude)];
    let mut ipam = ipam(pools(&[]));
    assert_eq!(v4(&take(&mut ipam, 0, now).unwrap()), "10.0.4.0");
    assert_eq!(v4(&take(&mut ipam, 1, now).unwrap()), "10.0.4.1");
    ipam.release(&owner(0), now);
    ipam.reconfigure(&IpamConfig { quarantine: QUARANTINE, pools: pools(&["10.0.4.0/32"]) });
    assert!(take(&mut ipam, 2, now + QUARANTINE).is_err());
    // Nor what a container has meanwhile.
    ipam.reconfigure(&IpamConfig { quarantine: QUARANTINE, pools: pools(&["10.0.4.0/31"]) });
    ipam.release(&owner(1), now);
    assert!(take(&mut ipam, 2, now + QUARANTINE).is_err());
}

#[test]
fn fresh_first_then_oldest_released_after_its_rest() {
    let now = Instant::now();
    let mut ipam = ipam(vec![pool("p", "10.0.0.0/16", &["10.0.4.0/30"], &["10.0.4.1/32"])]);
    assert_eq!(v4(&take(&mut ipam, 0, now).unwrap()), "10.0.4.0");
    assert_eq!(v4(&take(&mut ipam, 1, now).unwrap()), "10.0.4.2");
    ipam.release(&owner(1), now);
    ipam.release(&owner(0), now + Duration::from_secs(1));
    // The one never used comes before those that rest.
    assert_eq!(v4(&take(&mut ipam, 2, now).unwrap()), "10.0.4.3");
    let error = take(&mut ipam, 3, now + Duration::from_secs(2)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no free ipv4 address in 10.0.4.0/30: 1 in use, 2 resting; one will be free in 29 s"
    );
    assert_eq!(v4(&take(&mut ipam, 3, now + QUARANTINE).unwrap()), "10.0.4.2");
    assert!(take(&mut ipam, 4, now + QUARANTINE).is_err());
    assert_eq!(v4(&take(&mut ipam, 4, now + QUARANTINE * 2).unwrap()), "10.0.4.0");
    let error = take(&mut ipam, 5, now + QUARANTINE * 2).unwrap_err();
    assert_eq!(error.to_string(), "no free ipv4 address in 10.0.4.0/30: 3 in use, 0 resting");
}

#[test]
fn both_families_or_none() {
    let now = Instant::now();
    let mut ipam = ipam(vec![
        pool("p", "10.0.0.0/16", &["10.0.4.0/24"], &[]),
        pool("p", "fd00::/64", &["fd00::4:0/126"], &[]),
    ]);
    for i in 0..3 {
        let grant = take(&mut ipam, i, now).unwrap();
        // The lowest IPv6 address is the routers'.
        assert_eq!(grant.ipv6.unwrap().to_string(), format!("fd00::4:{:x}", i + 1));
    }
    assert!(matches!(take(&mut ipam, 3, now), Err(IpamError::Exhausted { family: Family::Ipv6, .. })));
    assert_eq!(ipam.leases().count(), 6);
    let wish = Wish { owner: &owner(9), pools: &[], families: &[Family::Ipv4], requested: &[] };
    assert_eq!(ipam.allocate(wish, now).unwrap().ipv6, None);
    assert_eq!(
        ipam.usage(now).iter().map(|u| (u.size, u.used, u.free)).collect::<Vec<_>>(),
        [(256, 4, 252), (3, 3, 0)]
    );
}

#[test]
fn requested_addresses() {
    let now = Instant::now();
    let mut ipam = ipam(vec![
        pool("a", "10.0.0.0/16", &["10.0.4.0/24"], &["10.0.5.5/32"]),
        pool("b", "10.1.0.0/16", &["10.1.4.0/24"], &[]),
    ]);
    let grant = asked(&mut ipam, 0, &["10.0.4.0"], now).unwrap();
    assert_eq!((v4(&grant), grant.moved.len()), ("10.0.4.0".into(), 0));
    let error = asked(&mut ipam, 1, &["10.0.4.0"], now).unwrap_err();
    assert_eq!(error.to_string(), "the requested address 10.0.4.0 is in use by s320");
    // The cursor goes around it.
    assert_eq!(v4(&take(&mut ipam, 1, now).unwrap()), "10.0.4.1");
    // Outside our block: it moved here.
    let grant = asked(&mut ipam, 2, &["10.0.77.1"], now).unwrap();
    assert_eq!(grant.moved, ["10.0.77.1".parse::<IpAddr>().unwrap()]);
    let elsewhere = ipam.usage(now).into_iter().find(|u| !u.local).unwrap();
    assert_eq!((elsewhere.pool.as_str(), elsewhere.used), ("a", 1));
    assert!(matches!(asked(&mut ipam, 3, &["10.2.0.1"], now), Err(IpamError::Outside(_))));
    assert!(matches!(asked(&mut ipam, 3, &["10.0.5.5"], now), Err(IpamError::Excluded(_))));
    assert!(matches!(asked(&mut ipam, 3, &["10.0.4.9", "10.0.4.8"], now), Err(IpamError::TooMany(_))));
    // A resting address may be asked for, and is not given a second time when its rest is over.
    ipam.release(&owner(0), now);
    assert_eq!(v4(&asked(&mut ipam, 4, &["10.0.4.0"], now).unwrap()), "10.0.4.0");
    for i in 10..263 {
        let grant = take(&mut ipam, i, now + QUARANTINE);
        assert_ne!(grant.map(|g| v4(&g)).unwrap_or_default(), "10.0.4.0");
    }
}

#[test]
fn networks_choose_pools() {
    let now = Instant::now();
    let mut ipam = ipam(vec![
        pool("a", "10.0.0.0/16", &["10.0.4.0/32"], &[]),
        pool("b", "10.1.0.0/16", &["10.1.4.0/32"], &[]),
        pool("c", "10.2.0.0/16", &["10.2.4.0/24"], &[]),
    ]);
    let names = ["b".to_owned(), "a".to_owned()];
    let mut from = |i, pools: &[String]| {
        let wish = Wish { owner: &owner(i), pools, families: &[], requested: &[] };
        ipam.allocate(wish, now).map(|g| v4(&g))
    };
    assert_eq!(from(1, &names).unwrap(), "10.1.4.0");
    assert_eq!(from(2, &names).unwrap(), "10.0.4.0");
    assert!(from(3, &names).is_err());
    assert_eq!(from(3, &[]).unwrap(), "10.2.4.0");
    assert_eq!(from(4, &["x".to_owned()]).unwrap_err(), IpamError::NoSuchPool("x".into()));
}

#[test]
fn a_whole_sixteen_and_a_huge_block() {
    let now = Instant::now();
    let mut ipam = ipam(vec![
        pool("p", "10.0.0.0/16", &["10.0.0.0/16"], &["10.0.128.0/17"]),
        pool("p", "fd00::/32", &["fd00:0:4::/48"], &[]),
    ]);
    let mut seen = HashSet::new();
    for i in 0..32768 {
        assert!(seen.insert(take(&mut ipam, i, now).unwrap().ipv4));
    }
    assert!(take(&mut ipam, 1 << 20, now).is_err());
    assert_eq!(ipam.usage(now)[1].size, u64::MAX);
}

#[test]
fn restart_and_reconfiguration_keep_leases_and_rests() {
    let now = Instant::now() + Duration::from_secs(3600);
    let config = |block: &str| IpamConfig {
        quarantine: QUARANTINE,
        pools: vec![pool("p", "10.0.0.0/16", &[block], &[])],
    };
    let mut ipam = Ipam::new(&config("10.0.4.0/30"));
    ipam.adopt(&owner(0), "10.0.4.0".parse().unwrap()).unwrap();
    assert!(ipam.adopt(&owner(1), "10.0.4.0".parse().unwrap()).is_err());
    ipam.adopt(&owner(1), "192.0.2.1".parse().unwrap()).unwrap();
    ipam.rest("10.0.4.1".parse().unwrap(), now.checked_sub(Duration::from_secs(10)).unwrap());
    ipam.rest("10.0.4.0".parse().unwrap(), now); // in use: ignored
    ipam.reconfigure(&config("10.0.4.0/31"));
    assert!(take(&mut ipam, 2, now).is_err());
    assert_eq!(v4(&take(&mut ipam, 2, now + Duration::from_secs(20)).unwrap()), "10.0.4.1");
    assert_eq!(ipam.release(&owner(1), now), ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    assert!(ipam.release(&owner(1), now).is_empty());
    // An address that was never used does not rest.
    ipam.give_back(&owner(2), now);
    assert_eq!(v4(&take(&mut ipam, 3, now).unwrap()), "10.0.4.1");
}

#[test]
fn what_another_host_announces_is_not_given() {
    let now = Instant::now();
    let mut ipam = ipam(vec![pool("p", "10.0.0.0/16", &["10.0.4.0/31"], &[])]);
    let (zero, one) = ("10.0.4.0".parse().unwrap(), "10.0.4.1".parse().unwrap());
    ipam.set_elsewhere(zero, true, now);
    assert_eq!(v4(&take(&mut ipam, 1, now).unwrap()), "10.0.4.1");
    assert!(take(&mut ipam, 2, now).is_err());
    let usage = ipam.usage(now).remove(0);
    assert_eq!((usage.used, usage.resting, usage.elsewhere, usage.free), (1, 0, 1, 0));
    // It moves home when it is asked for.
    assert_eq!(asked(&mut ipam, 3, &["10.0.4.0"], now).unwrap().moved, [zero]);
    ipam.release(&owner(3), now);
    assert!(take(&mut ipam, 2, now + QUARANTINE).is_err());
    ipam.set_elsewhere(zero, false, now + QUARANTINE);
    assert!(take(&mut ipam, 2, now + QUARANTINE).is_err(), "it rests after its return");
    assert_eq!(v4(&take(&mut ipam, 2, now + QUARANTINE * 2).unwrap()), "10.0.4.0");
    ipam.give_back_one(one, now + QUARANTINE);
    assert_eq!(v4(&take(&mut ipam, 4, now + QUARANTINE).unwrap()), "10.0.4.1");
}

#[derive(Clone, Debug)]
enum Op {
    Any(u8),
    Ask(u8, u8),
    Release(u8),
    GiveBack(u8),
    Wait(u8),
    Blocks(u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => any::<u8>().prop_map(|o| Op::Any(o % 24)),
        2 => (any::<u8>(), 0u8..20).prop_map(|(o, a)| Op::Ask(o % 24, a)),
        4 => any::<u8>().prop_map(|o| Op::Release(o % 24)),
        1 => any::<u8>().prop_map(|o| Op::GiveBack(o % 24)),
        3 => (0u8..40).prop_map(Op::Wait),
        1 => (0u8..3).prop_map(Op::Blocks),
    ]
}

proptest! {
    /// No address is ever held by two, none outside the blocks or excluded is given unasked, none before its rest
    /// is over, and addresses are only refused when there is none.
    #[test]
    fn no_address_twice(ops in proptest::collection::vec(op(), 1..200)) {
        let configs = ["10.0.0.0/29", "10.0.0.0/28", "10.0.0.8/29"].map(|block| IpamConfig {
            quarantine: QUARANTINE,
            pools: vec![pool("p", "10.0.0.0/16", &[block], &["10.0.0.2/31", "10.0.0.9/32"])],
        });
        let usable = |config: &IpamConfig, a: Ipv4Addr| {
            config.pools[0].blocks[0].contains_addr(a.into())
                && !config.pools[0].exclude.iter().any(|e| e.contains_addr(a.into()))
        };
        let mut config = &configs[1];
        let mut ipam = Ipam::new(config);
        let mut now = Instant::now() + Duration::from_secs(3600);
        let mut held: HashMap<u8, Ipv4Addr> = HashMap::new();
        let mut released: HashMap<Ipv4Addr, Instant> = HashMap::new();
        for op in ops {
            match op {
                Op::Any(o) if !held.contains_key(&o) => {
                    let free = (0..16).map(|i| Ipv4Addr::new(10, 0, 0, i)).filter(|a| {
                        usable(config, *a)
                            && !held.values().any(|h| h == a)
                            && released.get(a).is_none_or(|since| now >= *since + QUARANTINE)
                    }).count();
                    let Ok(grant) = take(&mut ipam, o.into(), now) else {
                        prop_assert_eq!(free, 0);
                        continue;
                    };
                    let addr = grant.ipv4.unwrap();
                    prop_assert!(usable(config, addr));
                    prop_assert!(!held.values().any(|h| *h == addr), "given twice: {addr}");
                    prop_assert!(released.get(&addr).is_none_or(|since| now >= *since + QUARANTINE));
                    held.insert(o, addr);
                }
                Op::Ask(o, a) if !held.contains_key(&o) => {
                    let addr = Ipv4Addr::new(10, 0, 0, a);
                    if asked(&mut ipam, o.into(), &[&addr.to_string()], now).is_ok() {
                        prop_assert!(!held.values().any(|h| *h == addr), "given twice: {addr}");
                        held.insert(o, addr);
                    }
                }
                Op::Release(o) => {
                    ipam.release(&owner(o.into()), now);
                    if let Some(addr) = held.remove(&o) {
                        // Only addresses of our blocks rest; a later block does not know of earlier ones.
                        if ipam.is_local(addr.into()) { released.insert(addr, now); } else { released.remove(&addr); }
                    }
                }
                Op::GiveBack(o) => {
                    ipam.give_back(&owner(o.into()), now);
                    if let Some(addr) = held.remove(&o) { released.remove(&addr); }
                }
                Op::Wait(seconds) => now += Duration::from_secs(seconds.into()),
                Op::Blocks(i) => {
                    config = &configs[usize::from(i)];
                    ipam.reconfigure(config);
                    released.retain(|a, _| ipam.is_local((*a).into()));
                }
                _ => {}
            }
            prop_assert_eq!(ipam.leases().count(), held.len());
            for (o, addr) in &held {
                prop_assert_eq!(ipam.owner((*addr).into()), Some(&owner((*o).into())));
            }
        }
    }
}
