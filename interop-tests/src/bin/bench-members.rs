//! `make bench-policy PART=update`: from the UPDATE about an endpoint of another host to nftables. Prints one Markdown
//! table. The part of it that is the kernel's, and `nft -f` for the same, is `PART=remote`.

use anyhow::Result;
use clap::Parser;
use interop_tests::tool::member::Report;
use interop_tests::{Agent, Lab, Network};

/// Times a remote endpoint that joins and leaves a selector with many members.
#[derive(Parser)]
struct Options {
    /// Endpoints that the selector has.
    #[arg(long, default_value_t = 100_000)]
    members: u32,
    /// Endpoints that come and go, one after another.
    #[arg(long, default_value_t = 200)]
    rounds: u32,
}

const CONFIG: &str = r#"
[bgp]
asn = 65001

[[bgp.peer]]
address = "192.0.2.2"
asn = 65000
passive = true                          # it is a program on this host
identity = "accept"

[[ipam.pool]]
cidr = "10.32.0.0/11"
block = "10.32.1.0/24"
"#;

const POLICY: &str = r#"
[[policy]]
name = "web"
select = "role == 'db'"
ingress = [{ action = "allow", from = { selector = "role == 'web'" } }]
"#;

fn main() -> Result<()> {
    let options = Options::parse();
    let lab = Lab::new("bench-members")?;
    let host = lab.machine("host")?;
    host.bridge("sw0", &["192.0.2.1/29", "192.0.2.2/29"])?;
    host.own("/etc/slash32/policy.d")?;
    host.write("/etc/slash32/policy.d/web.toml", POLICY)?;
    let agent = Agent::start(&host, CONFIG)?;
    // Sets are there for the policies of endpoints that are.
    let container = host.container("db", &Network::slash32()?.label("role", "db"))?;
    eprintln!("{} members", options.members);
    let report: Report = host
        .command("lab-tool")
        .args(["member", "192.0.2.2", "192.0.2.1"])
        .args([65000, options.members, options.rounds])
        .json()?;
    container.remove()?;
    drop(agent);
    println!("| | p50 | p10 – p90 | target |\n|---|---|---|---|");
    for (what, times) in [("joins", report.joins), ("leaves", report.leaves)] {
        let [low, middle, high] = quantiles(times);
        println!(
            "| a remote endpoint {what} a selector of {}: from the UPDATE to nftables' notification | {middle:.2} ms | \
             {low:.2} – {high:.2} ms | ≤ 1 |",
            options.members
        );
    }
    println!("| all of them come at once | {:.0} ms | | |", report.filled);
    Ok(())
}

fn quantiles(mut times: Vec<f64>) -> [f64; 3] {
    times.sort_by(f64::total_cmp);
    [10, 50, 90]
        .map(|part| times.get(times.len().saturating_sub(1) * part / 100).copied().unwrap_or_default())
}
