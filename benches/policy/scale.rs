//! Many endpoints, policies and identities, and what a change of one costs.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    net::Ipv4Addr,
    process::{Command, Stdio},
    sync::Arc,
    time::Instant,
};

use slash32::{
    model::{EndpointId, Identity, Labels, Prefix},
    netlink::ns::testing::private,
    policy::{
        Enforcer, PolicySet,
        engine::{EngineConfig, LocalEndpoint, PoolConfig},
        language,
        nft::{Settings, Text},
    },
};

/// Times in milliseconds, one a round.
#[derive(Default)]
pub(crate) struct Times {
    pub(crate) ours: Vec<f64>,
    pub(crate) kernel: Vec<f64>,
    pub(crate) compile: Vec<f64>,
    pub(crate) nft: Vec<f64>,
    pub(crate) memory_mib: f64,
}

impl Times {
    pub(crate) fn ratios(&self) -> Vec<f64> {
        self.ours.iter().zip(&self.nft).map(|(a, b)| a / b).collect()
    }
}

/// A cluster with one pool, of IPv4.
fn config() -> EngineConfig {
    let cidr = "10.0.0.0/8".parse().expect("a valid prefix");
    EngineConfig { pools: vec![PoolConfig { cidr, nat_outgoing: false }], ..EngineConfig::default() }
}

/// The host's end of an endpoint.
pub(crate) fn interface(i: u32) -> String {
    format!("s32{i:011x}")
}

/// An endpoint whose labels say to which of so many applications it belongs.
pub(crate) fn endpoint(i: u32, applications: u32) -> LocalEndpoint {
    LocalEndpoint {
        shared: Vec::new(),
        id: EndpointId(interface(i)),
        addresses: vec![Ipv4Addr::from_bits(0x0a20_0000 + i).into()],
        labels: labels(i % applications),
    }
}

fn labels(application: u32) -> Labels {
    let mut labels = Labels::new();
    labels.insert("app", format!("app{application}")).expect("a valid label");
    labels.insert("env", "prod").expect("a valid label");
    labels
}

/// So many policies, one for each application, that allow so many others of them, the one before it first.
pub(crate) fn policies(count: u32, rules: u32) -> String {
    let mut out = String::new();
    for p in 0..count {
        let _ = writeln!(out, "[[policy]]\nname='p{p}'\nselect='app == \"app{p}\"'\ningress=[");
        for r in 0..rules {
            let peer = (p + count - 1 + r) % count;
            let _ = writeln!(
                out,
                "{{action='allow',from={{selector='app == \"app{peer}\" && env != \"dev\"'}},\
                 protocol='tcp',ports=[{},443]}},",
                8000 + r
            );
        }
        // Small packets are measured with UDP.
        let before = (p + count - 1) % count;
        let _ = writeln!(
            out,
            "{{action='allow',from={{selector='app == \"app{before}\"'}},protocol='udp',ports=8000}}]"
        );
    }
    out
}

fn parsed(text: &str) -> Arc<PolicySet> {
    Arc::new(language::parse(&[("bench.toml", text)]).expect("the policies are valid"))
}

/// Runs `nft -f -` in the calling thread's namespace; the time from its start to its end, in milliseconds.
pub(crate) fn nft(script: &str) -> f64 {
    let start = Instant::now();
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("the comparison needs the package nftables");
    child.stdin.take().expect("a pipe").write_all(script.as_bytes()).expect("nft reads");
    assert!(child.wait().expect("nft ends").success(), "nft failed");
    start.elapsed().as_secs_f64() * 1e3
}

fn milliseconds<T>(times: &mut Vec<f64>, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    times.push(start.elapsed().as_secs_f64() * 1e3);
    result
}

pub(crate) fn one_more_endpoint(present: u32, count: u32, rules: u32) -> Times {
    let text = policies(count, rules);
    private(move || {
        let mut enforcer = Enforcer::open(config(), Settings::default()).expect("nftables");
        enforcer.engine_mut().set_policies(parsed(&text));
        for i in 0..present {
            enforcer.engine_mut().upsert_local(endpoint(i, count));
        }
        enforcer.commit().expect("the rules are loaded");
        let mut times = Times::default();
        for i in present..present + 40 {
            let new = endpoint(i, count);
            let started = Instant::now();
            enforcer.engine_mut().upsert_local(new);
            let delta = enforcer.engine_mut().changes();
            milliseconds(&mut times.kernel, || enforcer.driver().apply(&delta)).expect("it is enforced");
            times.ours.push(started.elapsed().as_secs_f64() * 1e3);
            // The same by nft: what the change adds, for an endpoint of the same class.
            let script = script_of(&delta, &interface(i), &interface(i + 100_000));
            times.nft.push(nft(&script));
        }
        times
    })
}

/// A change's elements in nft's language, for another interface and its address.
fn script_of(delta: &slash32::policy::ir::Delta, interface: &str, other: &str) -> String {
    use slash32::policy::ir::{Data, KeyType, Verdict};
    let mut out = String::new();
    for (set, change) in &delta.elements {
        for element in &change.add {
            let parts: &[KeyType] = match &**set {
                "ep_in" | "ep_out" | "free_in" | "free_out" => &[KeyType::Interface],
                "src4" => &[KeyType::Interface, KeyType::Ipv4],
                _ => &[KeyType::Ipv4],
            };
            let key = element.key.show(parts).replace(interface, other).replace("10.32.", "10.33.");
            let data = match &element.data {
                Data::Verdict(Verdict::Goto(chain)) => format!(" : goto {chain}"),
                Data::Verdict(_) => " : return".into(),
                _ => String::new(),
            };
            let _ = writeln!(out, "add element inet slash32 {set} {{ {key}{data} }}");
        }
    }
    out
}

pub(crate) fn one_remote(members: u32, leaves: bool) -> Times {
    private(move || {
        let mut enforcer = Enforcer::open(config(), Settings::default()).expect("nftables");
        enforcer.engine_mut().set_policies(parsed(&policies(10, 10)));
        for i in 0..1000 {
            enforcer.engine_mut().upsert_local(endpoint(i, 10));
        }
        let identity = Arc::new(Identity::of(&labels(0)));
        let prefix = |i: u32| Prefix::host(Ipv4Addr::from_bits(0x0a40_0000 + i).into());
        for i in 0..members {
            enforcer.engine_mut().upsert_remote(prefix(i), identity.clone());
        }
        enforcer.commit().expect("the rules are loaded");
        let mut times = Times::default();
        for i in 0..40 {
            let mut change = |leave: bool, keep: bool| {
                let started = Instant::now();
                if leave {
                    enforcer.engine_mut().remove_remote(prefix(members + i));
                } else {
                    // As it comes from an UPDATE: hashes, not labels.
                    let identity = Arc::new(Identity::of(&labels(0)));
                    enforcer.engine_mut().upsert_remote(prefix(members + i), identity);
                }
                let delta = enforcer.engine_mut().changes();
                let mut kernel = Vec::new();
                milliseconds(&mut kernel, || enforcer.driver().apply(&delta)).expect("it is enforced");
                if keep {
                    times.ours.push(started.elapsed().as_secs_f64() * 1e3);
                    times.kernel.extend(kernel);
                }
                delta
            };
            let joined = change(false, !leaves);
            change(true, leaves);
            let verb = if leaves { "delete" } else { "add" };
            let mut script = String::new();
            for (set, change) in &joined.elements {
                for element in &change.add {
                    let key = element.key.show(&[slash32::policy::ir::KeyType::Ipv4]);
                    let _ = writeln!(script, "{verb} element inet slash32 {set} {{ {key} }}");
                }
            }
            if leaves {
                nft(&script.replace("delete ", "add "));
            }
            times.nft.push(nft(&script));
            if !leaves {
                nft(&script.replace("add ", "delete "));
            }
        }
        times
    })
}

pub(crate) fn full_load(endpoints: u32, count: u32, remotes: u32, rounds: u32) -> Times {
    let mut times = Times::default();
    let text = policies(count, 1);
    for _ in 0..rounds {
        let (mut compile, mut ours, mut nft_time) = (0.0, 0.0, 0.0);
        let before = resident_mib();
        private(|| {
            let identities: Vec<_> = (0..count).map(|a| Arc::new(Identity::of(&labels(a)))).collect();
            let start = Instant::now();
            let mut enforcer = Enforcer::open(config(), Settings::default()).expect("nftables");
            enforcer.engine_mut().set_policies(parsed(&text));
            for i in 0..endpoints {
                enforcer.engine_mut().upsert_local(endpoint(i, count));
            }
            for i in 0..remotes {
                let prefix = Prefix::host(Ipv4Addr::from_bits(0x0a40_0000 + i).into());
                enforcer.engine_mut().upsert_remote(prefix, identities[(i % count) as usize].clone());
            }
            let rules = enforcer.engine_mut().snapshot();
            compile = start.elapsed().as_secs_f64() * 1e3;
            enforcer.driver().replace(&rules).expect("the rules are loaded");
            ours = start.elapsed().as_secs_f64() * 1e3;
            let script = Text::new(&rules, &Settings::default(), 1).to_string();
            drop(rules);
            times.memory_mib = times.memory_mib.max(resident_mib() - before);
            enforcer.driver().remove().expect("the table goes");
            nft_time = nft(&script);
        });
        times.compile.push(compile);
        times.ours.push(ours);
        times.nft.push(nft_time);
    }
    times
}

/// `VmRSS` of this process.
fn resident_mib() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}
