//! What policies cost: packets, changes, loading, memory; beside no rules, and beside `nft -f` with the same rules.
//!
//! `make bench-policy`, or `cargo bench --bench policy [-- PART…]` as root with PART of `packet`, `endpoint`, `remote`,
//! `load`, `stream`. Prints a Markdown table. Everything happens in namespaces of its own.

#[path = "policy/lab.rs"]
mod lab;
#[path = "policy/measure.rs"]
mod measure;
#[path = "policy/scale.rs"]
mod scale;

use measure::Table;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let part = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    let mut table = Table::new();
    if part("packet") {
        packet(&mut table);
    }
    if part("stream") {
        stream(&mut table);
    }
    if part("endpoint") {
        for (policies, rules) in [(100, 1), (100, 10), (1000, 1)] {
            endpoint(&mut table, policies, rules);
        }
    }
    if part("remote") {
        remote(&mut table);
    }
    if part("load") {
        load(&mut table);
    }
    println!("\n{table}");
}

/// Small packets of an established connection through the host, in rounds of all rulesets in turn.
fn packet(table: &mut Table) {
    let names = ["no rules", "connection tracking", "10", "100", "1,000"];
    let mut labs = vec![lab::Lab::new(lab::Rules::None), lab::Lab::new(lab::Rules::Tracking)];
    labs.extend(
        [10, 100, 1000].map(|n| lab::Lab::new(lab::Rules::Policies { endpoints: n, policies: n.min(100) })),
    );
    let mut times = vec![Vec::new(); labs.len()];
    for lab in &mut labs {
        lab.packets(20_000);
    }
    // Short turns, so that what else the machine does hits all alike.
    for round in 0..60 {
        for turn in 0..labs.len() {
            let i = (round + turn) % labs.len();
            times[i].push(labs[i].packets(4_000));
        }
    }
    let against =
        |a: usize, b: usize| -> Vec<f64> { times[a].iter().zip(&times[b]).map(|(x, y)| x / y).collect() };
    for (i, time) in times.iter().enumerate() {
        let nanoseconds: Vec<f64> = time.iter().map(|t| t * 1e9).collect();
        let what = if i < 2 { names[i].to_owned() } else { format!("{} endpoints", names[i]) };
        table.row(&format!("a packet, established: {what}"), "ns", &nanoseconds, "");
    }
    table.ratio("a packet: 1,000 endpoints x 100 policies / no rules", &against(4, 0), "at most 1.25");
    table.ratio("a packet: 1,000 endpoints x 100 policies / connection tracking", &against(4, 1), "");
    table.ratio("a packet: 1,000 endpoints / 10 endpoints", &against(4, 2), "1.0 within noise");
}

/// One TCP stream between two containers of the host, policies off and on in turn.
fn stream(table: &mut Table) {
    let off = lab::Lab::new(lab::Rules::None);
    let on = lab::Lab::new(lab::Rules::Policies { endpoints: 1000, policies: 100 });
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 0..11 {
        if round % 2 == 0 {
            without.push(off.stream());
            with.push(on.stream());
        } else {
            with.push(on.stream());
            without.push(off.stream());
        }
    }
    let ratios: Vec<f64> = with.iter().zip(&without).map(|(a, b)| a / b).collect();
    table.row("one TCP stream, no rules", "Gbit/s", &without, "");
    table.row("one TCP stream, 1,000 endpoints x 100 policies", "Gbit/s", &with, "");
    table.ratio("one TCP stream: policies on / off", &ratios, "at least 0.95");
}

/// One more endpoint whose labels others have.
fn endpoint(table: &mut Table, policies: u32, rules: u32) {
    let what = format!("one more endpoint, 1,000 present, {policies} policies x {rules} rules");
    let times = scale::one_more_endpoint(1000, policies, rules);
    let target = if policies == 100 { "at most 0.3" } else { "" };
    table.row(&format!("{what}: enforced"), "ms", &times.ours, target);
    table.row(&format!("{what}: of it the kernel"), "ms", &times.kernel, "");
    table.row(&format!("{what}: nft -f"), "ms", &times.nft, "");
    table.ratio(&format!("{what}: ours / nft -f"), &times.ratios(), "");
}

/// One member more or less of a set of 100,000.
fn remote(table: &mut Table) {
    for gone in [false, true] {
        let what =
            format!("a remote endpoint {} a selector of 100,000", if gone { "leaves" } else { "joins" });
        let times = scale::one_remote(100_000, gone);
        table.row(&format!("{what}: from identity to enforced"), "ms", &times.ours, "at most 1");
        table.row(&format!("{what}: of it the kernel"), "ms", &times.kernel, "at most 0.1");
        table.row(&format!("{what}: nft -f"), "ms", &times.nft, "");
    }
}

/// Everything from nothing.
fn load(table: &mut Table) {
    let loaded = scale::full_load(1000, 1000, 100_000, 3);
    table.row("1,000 endpoints x 1,000 policies, 100,000 remote: compile", "ms", &loaded.compile, "");
    table.row("the same: compile and load", "ms", &loaded.ours, "");
    table.row("the same rules by nft -f", "ms", &loaded.nft, "");
    table.ratio("compile and load / nft -f", &loaded.ratios(), "at most 0.5");
    table.row("the same: memory of engine and driver", "MiB", &[loaded.memory_mib], "");
}
