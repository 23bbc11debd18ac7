use std::{
    collections::BTreeSet,
    io::Write,
    process::{Command, Stdio},
    sync::Arc,
};

use super::*;
use crate::{
    model::{EndpointId, Identity, Labels},
    netlink::ns::testing::private,
    policy::{
        Enforcer, PolicySet,
        engine::{Engine, EngineConfig, LocalEndpoint, PoolConfig, PortMap, REFUSING},
        ir::{Rule, Ruleset, Statement, Verdict},
        language,
    },
};

/// Everything the language can say, at once.
const KITCHEN_SINK: &str = r#"
    [[tier]]
    name = "security"
    order = 10
    default = "pass"
    [[network_set]]
    name = "partners"
    cidr = ["192.0.2.0/24", "2001:db8::/32", "198.51.100.7"]
    except = ["192.0.2.128/25"]
    [[named_port]]
    name = "http"
    select = 'role == "web"'
    port = 8080
    [[policy]]
    name = "first"
    tier = "security"
    select = "all()"
    ingress = [
      { action = "deny", from = { cidr = ["10.9.0.0/16"], except = ["10.9.1.0/24"] }, log = true },
      { action = "pass", protocol = ["tcp", "udp"], ports = [80, 443, "8000-8080"], limit = "100/second burst 50" },
    ]
    egress = []
    staged = true
    [[policy]]
    name = "quarantine"
    tier = "security"
    select = "has(bad)"
    ingress = [{ action = "pass", from = "self" }, { action = "reject" }]
    egress = [{ action = "allow", to = "host", protocol = "udp", ports = 53 }, { action = "deny", to = { set = "partners", selector = "has(x)" } }, { action = "log" }]
    [[policy]]
    name = "web"
    select = 'role == "web"'
    ingress = [
      { action = "allow", from = { selector = 'role == "lb" && env != "dev"' }, protocol = "tcp", ports = [80, "http"] },
      { action = "allow", from = ["world", { set = "partners" }], protocol = "tcp", ports = [443, 8443] },
      { action = "allow", protocol = "icmp", icmp_type = 8 },
      { action = "allow", protocol = ["icmpv6", 47, "sctp"] },
      { action = "deny", not_protocol = ["tcp", "udp"] },
      { action = "deny", protocol = "tcp", not_protocol = "tcp", not_ports = ["0-1023", 8080] },
    ]
    egress = [{ action = "allow", to = { cidr = ["0.0.0.0/0"] } }, { action = "allow", to = { except = ["fd00::/8"] } }]
    [[profile]]
    name = "closed"
    select = "has(secret)"
    ingress = "deny"
    [[host_policy]]
    name = "ssh"
    interfaces = ["eth*", "lan0"]
    ingress = [{ action = "allow", from = { selector = "has(admin)" }, protocol = "tcp", ports = [22, 9100] }, { action = "reject", from = "world" }]
    [[host_policy]]
    name = "watch"
    ingress = [{ action = "deny", protocol = "udp" }]
    staged = true
"#;

pub(crate) fn endpoint(id: &str, addresses: &[&str], labels: &[(&str, &str)]) -> LocalEndpoint {
    let mut all = Labels::new();
    for (k, v) in labels {
        all.insert(*k, *v).unwrap();
    }
    LocalEndpoint {
        shared: Vec::new(),
        id: EndpointId(id.into()),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        labels: all,
    }
}

fn sink() -> Engine {
    let pool = |cidr: &str| PoolConfig { cidr: cidr.parse().unwrap(), nat_outgoing: true };
    let config = EngineConfig {
        pools: vec![pool("10.32.0.0/16"), pool("fd00:32::/48")],
        infrastructure: vec!["192.0.2.1/32".parse().unwrap(), "fe80::1/128".parse().unwrap()],
        trace: true,
        ..EngineConfig::default()
    };
    let mut engine = Engine::new(config);
    engine.set_policies(Arc::new(language::parse(&[("sink.toml", KITCHEN_SINK)]).unwrap()));
    engine.upsert_local(endpoint(
        "s32aaaaaaaaaaa",
        &["10.32.4.2", "fd00:32::2"],
        &[("role", "web"), ("env", "x")],
    ));
    engine.upsert_local(endpoint(
        "s32bbbbbbbbbbb",
        &["10.32.4.3"],
        &[("role", "lb"), ("bad", "y"), ("x", "y")],
    ));
    engine.upsert_local(endpoint("s32ccccccccccc", &["fd00:32::4"], &[("secret", "1")]));
    let map = |host: Option<&str>, port, target: &str| PortMap {
        host: host.map(|h| h.parse().unwrap()),
        protocol: crate::policy::Protocol::TCP,
        host_port: port,
        target: target.parse().unwrap(),
    };
    let maps = vec![
        map(None, 8080, "10.32.4.2:80"),
        map(Some("192.0.2.1"), 8443, "10.32.4.2:443"),
        map(None, 8080, "[fd00:32::2]:80"),
        map(Some("2001:db8::1"), 8443, "[fd00:32::2]:443"),
    ];
    engine.set_port_maps(&EndpointId("s32aaaaaaaaaaa".into()), maps).unwrap();
    for (addr, label) in [("10.32.5.9", "lb"), ("fd00:32:1::9", "lb"), ("10.32.5.10", "db")] {
        let identity = Identity::of(&Labels::try_from([("role", label)]).unwrap());
        assert!(engine.upsert_remote(addr.parse().unwrap(), Arc::new(identity)));
    }
    engine
}

/// Runs nft in the calling thread's namespace.
pub(crate) fn nft(args: &[&str], input: &str) -> Result<String, String> {
    let mut child = Command::new("nft")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("these tests compare with nft: install the package nftables");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    if out.status.success() { Ok(text(out.stdout)) } else { Err(text(out.stderr)) }
}

/// What nft prints for a table, without counters' values and without what only the way of loading decides.
fn normal(listing: &str) -> Vec<String> {
    let mut chains: Vec<String> = Vec::new();
    let squeezed = listing.replace("packets 0 bytes 0", "").replace('\t', "");
    for line in squeezed.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")) {
        if ["set ", "map ", "chain ", "limit "].iter().any(|kind| line.starts_with(kind))
            && line.ends_with('{')
        {
            chains.push(String::new());
        }
        if let Some(last) = chains.last_mut().filter(|_| !line.is_empty() && line != "}") {
            last.push_str(&line);
            last.push('\n');
        }
    }
    chains.sort();
    chains
}

#[test]
fn netlink_and_nft_load_the_same() {
    private(|| {
        let rules = sink().snapshot();
        let settings = Settings::default();
        let mut driver = Driver::open(settings.clone()).unwrap();
        driver.replace(&rules).unwrap();
        let by_us = nft(&["list", "table", "inet", "slash32"], "").unwrap();
        nft(&["delete", "table", "inet", "slash32"], "").unwrap();
        let text = Text::new(&rules, &settings, driver.generation()).to_string();
        nft(&["-c", "-f", "-"], &text).unwrap_or_else(|e| panic!("{text}\n{e}"));
        nft(&["-f", "-"], &text).unwrap();
        let by_nft = nft(&["list", "table", "inet", "slash32"], "").unwrap();
        for (a, b) in normal(&by_nft).iter().zip(&normal(&by_us)) {
            assert_eq!(a, b);
        }
        assert_eq!(normal(&by_nft).len(), normal(&by_us).len());
    });
}

#[test]
fn every_change_is_one_transaction_and_ends_where_a_full_load_does() {
    private(|| {
        let mut engine = sink();
        let mut driver = Driver::open(Settings::default()).unwrap();
        driver.replace(&engine.snapshot()).unwrap();
        let first = driver.generation();
        let after = |changes: u32| (0..changes).fold(first, |g, _| Settings::default().next_generation(g));
        let listing = || normal(&nft(&["list", "table", "inet", "slash32"], "").unwrap());
        let mut mirror: Ruleset = engine.compiled();
        let mut step = |engine: &mut Engine, driver: &mut Driver, what: &str| {
            let delta = engine.changes();
            mirror.apply(&delta).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(mirror, engine.compiled(), "{what}");
            driver.apply(&delta).unwrap_or_else(|e| panic!("{what}: {e}\n{delta:#?}"));
        };
        engine.upsert_local(endpoint(
            "s32ddddddddddd",
            &["10.32.4.5", "fd00:32::5"],
            &[("role", "web"), ("env", "x")],
        ));
        step(&mut engine, &mut driver, "one more of a known class");
        engine.upsert_local(endpoint("s32ddddddddddd", &["10.32.4.5", "fd00:32::5"], &[("bad", "x")]));
        step(&mut engine, &mut driver, "a relabelled endpoint");
        engine.remove_remote("10.32.5.9".parse().unwrap());
        step(&mut engine, &mut driver, "a remote endpoint gone");
        engine.set_policies(Arc::new(
            language::parse(&[(
                "b.toml",
                "[[policy]]\nname='p'\nselect='has(bad)'\ningress=[{action='allow',from={selector='role == \"lb\"'}}]",
            )])
            .unwrap(),
        ));
        step(&mut engine, &mut driver, "other policies");
        engine.remove_local(&EndpointId("s32aaaaaaaaaaa".into()));
        engine.set_config(EngineConfig { default_ingress: false, ..EngineConfig::default() });
        step(&mut engine, &mut driver, "another configuration");
        assert_eq!(driver.generation(), after(4), "a new endpoint revokes nothing, each of the others does");
        driver.tidy().unwrap();
        let by_steps = listing();
        driver.replace(&engine.snapshot()).unwrap();
        let by_replacement = listing();
        let chains = |list: &[String]| -> Vec<String> {
            let stamped = |c: &String| c.starts_with("chain stamp") || c.starts_with("set generation");
            list.iter().filter(|c| !stamped(c)).cloned().collect()
        };
        assert_eq!(chains(&by_steps), chains(&by_replacement));
        assert_eq!(
            Driver::open(Settings::default()).unwrap().generation(),
            after(5),
            "the next agent goes on from here"
        );
        driver.remove().unwrap();
        assert_eq!(nft(&["list", "ruleset"], "").unwrap(), "");
    });
}

#[test]
fn stamps_stay_in_the_mask_and_are_never_zero() {
    for mask in [0xffff_ff00, 0xffff_ffff, 0x00ff_0000, 0x0000_ffff, 0xff00_0000] {
        let settings = Settings { mark_mask: mask, ..Settings::default() };
        assert!(settings.mask_is_usable());
        for generation in [0, 1, 2, 254, 255, 256, 65535, 65536, 0x00ff_ffff, 0x0100_0000, u32::MAX] {
            let stamp = settings.stamp(generation);
            assert!(stamp != 0 && stamp & !mask == 0, "{mask:x} {generation}");
        }
    }
    let settings = Settings { mark_mask: 0x0000_ff00, ..Settings::default() };
    assert_eq!((settings.next_generation(254), settings.stamp(255)), (255, 0xff00));
    assert_eq!((settings.next_generation(255), settings.stamp(1)), (1, 0x0100));
    for mask in [0, 1, 0x7f00, 0xff0f, 0xff00_ff00] {
        assert!(!Settings { mark_mask: mask, ..Settings::default() }.mask_is_usable(), "{mask:x}");
    }
}

#[test]
fn meddling_is_found_and_undone() {
    private(|| {
        let settings = Settings::default();
        let mut enforcer = Enforcer::open(EngineConfig::default(), settings).unwrap();
        *enforcer.engine_mut() = sink();
        enforcer.commit().unwrap();
        assert_eq!(enforcer.repair().unwrap(), [], "what we loaded is what is there");
        enforcer.engine_mut().remove_local(&EndpointId("s32ccccccccccc".into()));
        enforcer.engine_mut().remove_remote("10.32.5.10".parse().unwrap());
        enforcer.commit().unwrap();
        assert_eq!(enforcer.repair().unwrap(), [], "nor do our own changes count");
        let mut generation = enforcer.driver().generation();
        for (meddling, found) in [
            ("flush ruleset", "the table is gone"),
            ("delete table inet slash32", "the table is gone"),
            ("add table inet slash32 { flags dormant; }", "the table is switched off"),
            ("flush chain inet slash32 guard", "the rules of chain guard were changed"),
            ("insert rule inet slash32 guard accept", "the rules of chain guard were changed"),
            ("add rule inet slash32 refuse accept", "the rules of chain refuse were changed"),
            ("chain inet slash32 forward { policy drop; }", "chain forward is attached differently"),
            ("add chain inet slash32 mine", "chain mine is not ours"),
            ("add set inet slash32 mine { type ipv4_addr; }", "set mine is not ours"),
            ("flush map inet slash32 ep_in", "the elements of set ep_in were changed"),
            ("flush chain inet slash32 stamp", "the rules of chain stamp were changed"),
            (
                "delete element inet slash32 ep_out { \"s32aaaaaaaaaaa\" }; add element inet slash32 ep_out { \"s32aaaaaaaaaaa\" : accept }",
                "the elements of set ep_out were changed",
            ),
            ("add limit inet slash32 mine { rate 5/second; }", "object mine is not ours"),
            ("add counter inet slash32 mine", "object mine is not ours"),
            (
                "add element inet slash32 src4 { \"s32aaaaaaaaaaa\" . 192.0.2.77 }",
                "the elements of set src4 were changed",
            ),
            ("add element inet slash32 generation { 0 }", "the elements of set generation were changed"),
        ] {
            nft(&["-f", "-"], meddling).unwrap_or_else(|e| panic!("{meddling}: {e}"));
            let differences = enforcer.repair().unwrap();
            assert_eq!(
                differences.iter().map(ToString::to_string).collect::<Vec<_>>(),
                [found],
                "{meddling}"
            );
            assert_eq!(enforcer.repair().unwrap(), [], "after {meddling}");
            if found != "the table is gone" {
                generation = enforcer.driver().settings().next_generation(generation);
            }
            assert_eq!(
                enforcer.driver().generation(),
                generation,
                "after {meddling}: what a damaged table stamped must be judged again, without one nothing was stamped"
            );
        }
        // Rules follow a chain that gets another name; what is made in its place must not stay beside it.
        nft(&["rename", "chain", "inet", "slash32", "guard", "gone"], "").unwrap();
        let told: Vec<_> = enforcer.repair().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            ["the rules of chain forward were changed", "chain guard is missing", "chain gone is not ours"]
        );
        assert_eq!(enforcer.repair().unwrap(), []);
        let listed = nft(&["list", "chain", "inet", "slash32", "forward"], "").unwrap();
        assert!(listed.contains("goto guard"), "{listed}");
        // A change while the table is gone is no reason to fail.
        nft(&["flush", "ruleset"], "").unwrap();
        enforcer.engine_mut().remove_local(&EndpointId("s32aaaaaaaaaaa".into()));
        enforcer.commit().unwrap();
        assert_eq!(enforcer.repair().unwrap(), []);
        // A limit can go with the rules that ask it, and come back with another rate.
        let limit =
            enforcer.engine().compiled().limits.into_keys().find(|name| name.starts_with("limit")).unwrap();
        let listed = nft(&["-a", "list", "table", "inet", "slash32"], "").unwrap();
        let chain =
            listed.split("\tchain ").find(|c| c.contains(&*limit) && c.contains("limit name")).unwrap();
        let chain = chain.split_whitespace().next().unwrap();
        for (more, found) in [
            (String::new(), format!("limit {limit} is missing")),
            (
                format!("add limit inet slash32 {limit} {{ rate 7/second; }}"),
                format!("the rate of limit {limit} was changed"),
            ),
        ] {
            let script =
                format!("flush chain inet slash32 {chain}; delete limit inet slash32 {limit}; {more}");
            nft(&["-f", "-"], &script).unwrap_or_else(|e| panic!("{script}: {e}"));
            let told: Vec<_> = enforcer.repair().unwrap().iter().map(ToString::to_string).collect();
            assert_eq!(told, [format!("the rules of chain {chain} were changed"), found]);
            assert_eq!(enforcer.repair().unwrap(), []);
        }
        assert_eq!(enforcer.repairs(), 19);
    });
}

#[test]
fn stamps_of_a_table_that_is_gone_do_not_count() {
    private(|| {
        let rules = sink().snapshot();
        let mut generations = BTreeSet::new();
        for _ in 0..4 {
            let mut driver = Driver::open(Settings::default()).unwrap();
            assert!(!driver.take_over(&rules).unwrap());
            generations.insert(driver.generation());
            nft(&["flush", "ruleset"], "").unwrap();
        }
        // Two of them are the same once in some three million runs.
        assert_eq!(generations.len(), 4, "{generations:?}");
    });
}

#[test]
fn an_unchanged_table_is_taken_over_and_a_changed_one_replaced() {
    private(|| {
        let mut engine = sink();
        let mut before = Driver::open(Settings::default()).unwrap();
        assert!(!before.take_over(&engine.snapshot()).unwrap(), "there was no table");
        let generation = before.generation();
        drop(before);

        let mut after = Driver::open(Settings::default()).unwrap();
        assert!(after.take_over(&engine.snapshot()).unwrap());
        assert_eq!(after.generation(), generation);
        // It can go on with it.
        engine.set_policies(Arc::new(PolicySet::default()));
        after.apply(&engine.changes()).unwrap();
        assert!(after.differences(&engine.compiled()).unwrap().is_empty());

        // Of one with other rules only those are changed: what is the same keeps its handle.
        let handle = |what: &str| {
            let list = nft(&["-a", "list", "table", "inet", "slash32"], "").unwrap();
            let line = list.lines().find(|line| line.contains(what)).map(|line| line.trim().to_owned());
            line.unwrap_or_else(|| panic!("no {what} in {list}"))
        };
        let before = ["table inet slash32", "chain guard {", "map ep_in {", "set src4 {"].map(handle);
        let mut other = Driver::open(Settings::default()).unwrap();
        let want = sink().snapshot();
        assert!(!other.take_over(&want).unwrap(), "the table has other rules");
        assert_eq!(other.generation(), generation + 2);
        assert!(other.differences(&want).unwrap().is_empty());
        assert_eq!(["table inet slash32", "chain guard {", "map ep_in {", "set src4 {"].map(handle), before);
    });
}

#[test]
fn counters_are_read_by_their_comments() {
    private(|| {
        let mut driver = Driver::open(Settings::default()).unwrap();
        assert_eq!(driver.counters().unwrap(), [], "no table, no counters");
        driver.replace(&sink().snapshot()).unwrap();
        let counters = driver.counters().unwrap();
        let of_rule = |c: &&RuleCounter| c.comment == "default/web ingress 1 allow";
        assert_eq!(counters.iter().filter(of_rule).map(|c| c.packets).collect::<Vec<_>>(), [0; 4]);
        // Where packets end, and nothing else.
        let ends = driver.counters_of(&REFUSING).unwrap();
        assert!(ends.iter().all(|c| REFUSING.contains(&&*c.chain)), "{ends:#?}");
        assert_eq!(ends.len(), counters.iter().filter(|c| REFUSING.contains(&&*c.chain)).count());
    });
}

#[test]
fn packets_end_in_few_chains() {
    let rules = sink().snapshot();
    let ends = |rule: &Rule| {
        rule.statements.contains(&Statement::Counter)
            && rule
                .statements
                .iter()
                .any(|s| matches!(s, Statement::Verdict(Verdict::Drop) | Statement::Reject { .. }))
    };
    let found: BTreeSet<&str> =
        rules.chains.iter().filter(|(_, c)| c.rules.iter().any(ends)).map(|(name, _)| &**name).collect();
    assert_eq!(found, BTreeSet::from(REFUSING));
    for name in REFUSING {
        let chain = &rules.chains[name];
        assert!(chain.rules.iter().all(|r| !r.statements.contains(&Statement::Counter) || ends(r)), "{name}");
    }
    // Each tells why.
    assert!(rules.chains.values().flat_map(|c| &c.rules).all(|r| !ends(r) || !r.comment.is_empty()));
    private(|| {
        let mut driver = Driver::open(Settings::default()).unwrap();
        assert_eq!(driver.counters_of(&REFUSING).unwrap(), [], "no table, no counters");
    });
}

#[test]
fn foreign_chains_that_drop_are_found() {
    private(|| {
        let mut driver = Driver::open(Settings::default()).unwrap();
        driver.replace(&sink().snapshot()).unwrap();
        let shown = |driver: &mut Driver| -> Vec<String> {
            driver.foreign_drops().unwrap().iter().map(ToString::to_string).collect()
        };
        assert_eq!(shown(&mut driver), [""; 0], "our own chains are not foreign");
        nft(
            &["-f", "-"],
            "table ip filter {
                chain FORWARD { type filter hook forward priority filter; policy drop; }
                chain DOCKER-USER { return; }
                chain INPUT { type filter hook input priority filter; policy accept; ct state new accept; }
            }
            table ip6 mine {
                chain in { type filter hook input priority filter; policy accept; tcp dport 22 accept; counter reject; }
            }
            table inet other {
                chain f { type filter hook forward priority 10; policy drop; iifname \"s32*\" accept; oifname \"s32*\" accept; }
                chain o { type filter hook output priority 10; policy drop; }
                chain p { type filter hook postrouting priority 10; policy drop; oifname \"eth0\" accept; }
                chain r { type filter hook forward priority 11; iifname \"s32*\" reject; ip saddr 10.0.0.1 accept; }
                chain n { type nat hook prerouting priority dstnat; }
            }",
        )
        .unwrap();
        let found = [
            "inet other o drops at the output hook (policy drop)",
            "inet other p drops at the postrouting hook (policy drop)",
            "inet other r drops at the forward hook (a rule about s32*)",
            "ip filter FORWARD drops at the forward hook (policy drop)",
            "ip6 mine in drops at the input hook (its last rule)",
        ];
        assert_eq!(shown(&mut driver), found);
        let drops = driver.foreign_drops().unwrap();
        assert_eq!(drops[1].remedy[0], "nft insert rule inet other p oifname \"s32*\" accept");
        assert_eq!(drops[3].remedy[0], "iptables -I DOCKER-USER -i s32+ -j ACCEPT");
        assert_eq!(drops[4].remedy, ["nft insert rule ip6 mine in iifname \"s32*\" accept"]);
        // The remedy helps.
        nft(&["insert", "rule", "ip6", "mine", "in", "iifname", "s32*", "accept"], "").unwrap();
        assert_eq!(shown(&mut driver), &found[..4]);
        // Also where others go through Docker's chain for them; but not half of it, nor what lets some traffic through.
        let user =
            |rule: &str| nft(&["-f", "-"], &format!("insert rule ip filter DOCKER-USER {rule}")).unwrap();
        nft(&["insert", "rule", "ip", "filter", "FORWARD", "counter", "jump", "DOCKER-USER"], "").unwrap();
        user("iifname \"s32*\" counter accept");
        for other in [
            "iifname \"s32*\" accept",
            "oifname \"s32*\" tcp dport 80 accept",
            "oifname != \"s32*\" accept",
            "oifname \"s32a\" accept",
            "oifname \"s32*\" limit rate 1/second accept",
            "iifname \"s32*\" oifname \"s32*\" accept",
        ] {
            user(other);
            assert_eq!(shown(&mut driver), &found[..4], "{other}");
        }
        user("oifname \"s32*\" counter accept");
        assert_eq!(shown(&mut driver), &found[..3]);
    });
}

/// Other programs keep things in the connection mark, too; only bits that are ours matter.
#[test]
fn foreign_rules_that_write_over_stamps_are_named() {
    private(|| {
        let chain = |name: &str, rule: &str| {
            format!("chain {name} {{ type filter hook forward priority 0; {rule}; }}\n")
        };
        let chains = [
            chain("low", "ct mark set ct mark and 0xffffff00 or 0x5"),
            chain("whole", "ct mark set 7"),
            chain("packet", "ct mark set meta mark"),
            chain("reads", "ct mark 0x100 accept"),
            chain("one", "ct mark and 0xff == 0 ct mark set ct mark or 0x100"),
            chain("looks", "ct mark and 0xff == 0x2 ct mark set 0x300"),
        ];
        nft(&["-f", "-"], &format!("table inet other {{ {} }}", chains.concat())).unwrap();
        let named = |mask: u32| {
            let settings = Settings { mark_mask: mask, ..Settings::default() };
            Driver::open(settings).unwrap().foreign_marks().unwrap()
        };
        let writes =
            |chain: &str, bits: &str| format!("inet other {chain} writes bits {bits} of the conntrack mark");
        let all = "0xffffff00";
        assert_eq!(
            named(DEFAULT_MARK_MASK),
            [writes("whole", all), writes("packet", all), writes("one", "0x00000100"), writes("looks", all)]
        );
        assert!(named(0xffff).contains(&writes("low", "0x000000ff")));
        nft(&["delete", "table", "inet", "other"], "").unwrap();
        assert!(named(DEFAULT_MARK_MASK).is_empty());
    });
}

/// What was stamped last under one mask is no stamp of the first generation under another.
#[test]
fn another_mask_begins_apart_from_the_stamps_before_it() {
    let of = |mark_mask| Settings { mark_mask, ..Settings::default() };
    let masks = [DEFAULT_MARK_MASK, 0x00ff_ff00, 0xffff_0000, 0x0000_ffff, u32::MAX];
    for (before, after) in masks.iter().flat_map(|a| masks.map(|b| (of(*a), of(b)))) {
        for generation in [1, 5, 255, 256, 511, 4096, 65_535] {
            let start = after.apart_from(&before, generation);
            let first = after.stamp(after.next_generation(start));
            let most = i64::from(before.generations());
            let earlier = (0..1000).map(|back| (i64::from(generation) - 1 - back).rem_euclid(most) + 1);
            for generation in earlier {
                let seen = before.stamp(generation as u32) & after.mark_mask;
                assert_ne!(seen, first, "{:#x} to {:#x}", before.mark_mask, after.mark_mask);
            }
        }
    }
}

#[test]
fn a_look_is_one_question_while_nobody_else_changes_anything() {
    private(|| {
        let mut engine = sink();
        let mut driver = Driver::open(Settings::default()).unwrap();
        driver.replace(&engine.snapshot()).unwrap();
        let mut socket = crate::netlink::Socket::netfilter().unwrap();
        let mut look = |driver: &mut Driver, engine: &Engine| -> Option<Looked> {
            let looked = driver.look(|| engine.compiled()).unwrap()?.take(&mut socket).unwrap();
            driver.looked(&looked);
            Some(looked)
        };
        assert!(matches!(look(&mut driver, &engine), Some(Looked::Right(_))), "nobody has looked yet");
        assert_eq!(look(&mut driver, &engine), None);
        // Our own changes, with and without something left to tidy up, are no reason.
        engine.upsert_local(endpoint("s32ddddddddddd", &["10.32.4.5"], &[("role", "web"), ("env", "x")]));
        driver.apply(&engine.changes()).unwrap();
        assert_eq!(look(&mut driver, &engine), None);
        engine.set_policies(Arc::default());
        driver.apply(&engine.changes()).unwrap();
        driver.apply(&engine.changes()).unwrap();
        assert_eq!(look(&mut driver, &engine), None);
        nft(&["add", "table", "ip", "theirs"], "").unwrap();
        assert!(matches!(look(&mut driver, &engine), Some(Looked::Right(_))), "somebody did something");
        assert_eq!(look(&mut driver, &engine), None);
        let begun = driver.look(|| unreachable!("nothing has changed")).unwrap();
        assert!(begun.is_none());
        nft(&["add", "rule", "inet", "slash32", "refuse", "accept"], "").unwrap();
        let wrong = Some(Looked::Wrong(vec![Difference::ChainRules("refuse".into())]));
        assert_eq!(look(&mut driver, &engine), wrong);
        assert_eq!(look(&mut driver, &engine), wrong, "until it is put right");
        let begun = driver.look(|| engine.compiled()).unwrap().unwrap();
        nft(&["delete", "table", "ip", "theirs"], "").unwrap();
        let mut socket = crate::netlink::Socket::netfilter().unwrap();
        assert_eq!(begun.take(&mut socket).unwrap(), Looked::Moved);
    });
}
