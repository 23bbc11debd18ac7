//! Figures, printed: `cargo test --release --lib policy::figures -- --ignored --nocapture`.

use std::{fmt::Write, sync::Arc, time::Instant};

use super::{
    Enforcer,
    engine::{EngineConfig, LocalEndpoint},
    language,
    nft::Settings,
};
use crate::{
    model::{EndpointId, Identity, Labels, Prefix},
    netlink::ns::testing::private,
};

fn endpoint(i: u32, classes: u32) -> LocalEndpoint {
    let mut labels = Labels::new();
    labels.insert("app", format!("app{}", i % classes)).unwrap();
    labels.insert("env", "prod").unwrap();
    LocalEndpoint {
        shared: Vec::new(),
        id: EndpointId(format!("s32{i:011x}")),
        addresses: vec![
            std::net::Ipv4Addr::from_bits(0x0a20_0000 + i).into(),
            std::net::Ipv6Addr::from_bits((0xfd00_0032u128 << 96) + u128::from(i)).into(),
        ],
        labels,
    }
}

fn policies(count: u32, rules: u32) -> String {
    let mut out = String::new();
    for p in 0..count {
        let _ = write!(out, "[[policy]]\nname='p{p}'\nselect='app == \"app{p}\"'\ningress=[\n");
        for r in 0..rules {
            let _ = writeln!(
                out,
                "{{action='allow',from={{selector='app == \"app{}\" && env != \"dev\"'}},protocol='tcp',ports=[{},443]}},",
                (p + r + 1) % count,
                8000 + r
            );
        }
        out += "]\n";
    }
    out
}

fn spread(mut times: Vec<f64>) -> String {
    times.sort_by(f64::total_cmp);
    let at = |q: f64| times[((times.len() - 1) as f64 * q) as usize];
    format!("p50 {:.3} ms, p99 {:.3} ms, max {:.3} ms", at(0.5), at(0.99), at(1.0))
}

#[test]
#[ignore = "prints figures"]
fn figures() {
    for (endpoints, count, rules, remotes) in
        [(1000, 1, 1, 10), (1000, 1, 100, 10), (1000, 100, 10, 10), (1000, 100, 1, 10), (100, 100, 10, 10)]
    {
        private(move || {
            let mut enforcer = Enforcer::open(EngineConfig::default(), Settings::default()).unwrap();
            let text = policies(count, rules);
            let start = Instant::now();
            let set = Arc::new(language::parse(&[("x.toml", &text)]).unwrap());
            println!("== {endpoints} endpoints, {count} policies x {rules} rules, {remotes} remote");
            println!("parse {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
            let start = Instant::now();
            enforcer.engine_mut().set_policies(set);
            for i in 0..endpoints {
                enforcer.engine_mut().upsert_local(endpoint(i, count));
            }
            let identities: Vec<Arc<Identity>> =
                (0..count).map(|i| Arc::new(Identity::of(&endpoint(i, count).labels))).collect();
            for i in 0..remotes {
                let prefix = Prefix::host(std::net::Ipv4Addr::from_bits(0x0a21_0000 + i).into());
                enforcer.engine_mut().upsert_remote(prefix, identities[(i % count) as usize].clone());
            }
            println!("engine {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
            let start = Instant::now();
            let rules = enforcer.engine_mut().snapshot();
            println!("snapshot {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
            let start = Instant::now();
            enforcer.driver().replace(&rules).unwrap();
            println!("load {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
            enforcer.reload().unwrap();
            let (mut engine, mut kernel) = (Vec::new(), Vec::new());
            for i in 0..100 {
                let start = Instant::now();
                enforcer.engine_mut().upsert_local(endpoint(1 << 20 | i, count));
                let delta = enforcer.engine_mut().changes();
                engine.push(start.elapsed().as_secs_f64() * 1e3);
                let start = Instant::now();
                enforcer.driver().apply(&delta).unwrap();
                kernel.push(start.elapsed().as_secs_f64() * 1e3);
            }
            println!("one more endpoint: engine {}; kernel {}", spread(engine), spread(kernel));
            let (mut engine, mut kernel) = (Vec::new(), Vec::new());
            for i in 0..100u32 {
                let prefix = Prefix::host(std::net::Ipv4Addr::from_bits(0x0a3f_0000 + i).into());
                for remove in [false, true] {
                    let start = Instant::now();
                    if remove {
                        enforcer.engine_mut().remove_remote(prefix);
                    } else {
                        enforcer.engine_mut().upsert_remote(prefix, identities[(i % count) as usize].clone());
                    }
                    let delta = enforcer.engine_mut().changes();
                    engine.push(start.elapsed().as_secs_f64() * 1e3);
                    let start = Instant::now();
                    enforcer.driver().apply(&delta).unwrap();
                    kernel.push(start.elapsed().as_secs_f64() * 1e3);
                }
            }
            println!("one remote joins or leaves: engine {}; kernel {}", spread(engine), spread(kernel));
        });
    }
}
