//! Another table than main (`[routes] table`), and the rules that lead packets there or elsewhere.

use anyhow::{Result, ensure};
use interop_tests::{Agent, Lab, Network, PATIENCE, Rack, Switch, check, eventually, reach_each_other};

/// What `doctor` says under a name.
fn finding(agent: &Agent, name: &str) -> Result<String> {
    let text = agent.cli("doctor").output()?.stdout;
    let found =
        text.split("\nok    ").flat_map(|part| part.split("\nFAIL  ")).find(|part| part.starts_with(name));
    Ok(found.unwrap_or(&text).to_owned())
}

#[test]
fn packets_take_a_table_of_their_own_where_a_rule_leads_there() {
    Lab::run("tables", |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let _switch = rack.start_switch()?;
        let agents = rack.start_hosts_with(|_, config| format!("{config}\n[routes]\ntable = 4242\n"))?;
        let rule = |verb: &str, text: &str| -> Result<()> {
            for host in &rack.hosts {
                for family in ["-4", "-6"] {
                    host.run(&format!("ip {family} rule {verb} {text}"))?;
                }
            }
            Ok(())
        };
        for agent in &agents {
            agent.wait_established(2)?;
        }
        let web = rack.hosts[0].container("web", &Network::slash32()?)?;
        let db = rack.hosts[1].container("db", &Network::slash32()?)?;
        let prefixes = [format!("{}/32", db.ipv4()?), format!("{}/128", db.ipv6()?)];
        eventually("the other host's routes are there", PATIENCE, || {
            let routes = agents[0].routes()?;
            let there = |p: &String| routes.iter().any(|r| r.prefix == *p && r.installed);
            check(prefixes.iter().all(there), format!("{routes:?}"))
        })?;
        // Nobody looks there yet.
        for agent in &agents {
            let said = finding(agent, "routing rules")?;
            ensure!(said.contains("no rule looks into table 4242"), "{said}");
            ensure!(said.contains("ip -6 rule"), "{said}");
        }
        ensure!(web.ping(&db.ipv4()?).is_err() && web.ping(&db.ipv6()?).is_err(), "how do packets find it?");
        rule("add", "pref 1000 lookup 4242")?;
        reach_each_other(&[&web, &db])?;
        for (agent, host) in agents.iter().zip(&rack.hosts) {
            let said = finding(agent, "routing rules")?;
            ensure!(said.contains("find our table"), "{said}");
            let verify = agent.cli("routes verify").output()?;
            ensure!(verify.exit.success(), "{}", verify.stdout);
            for family in ["-4", "-6"] {
                let main = host.run(&format!("ip {family} route show table main proto 32"))?;
                ensure!(main.is_empty(), "{main}");
                let ours = host.run(&format!("ip {family} route show table 4242 proto 32"))?;
                // The block, the own container and the other host's.
                ensure!(ours.lines().count() >= 3, "{ours}");
            }
        }
        // Rules that take packets away are named, and do what is said of them.
        for (text, said) in [
            ("pref 900 blackhole", "priority 900 (blackhole) drops packets of containers"),
            ("pref 901 iif eth0 prohibit", "priority 901 (prohibit)"),
            ("pref 902 goto 32766", "priority 902 (goto 32766) jumps over"),
        ] {
            rule("add", text)?;
            for (agent, family) in agents.iter().flat_map(|agent| [(agent, "ipv4"), (agent, "ipv6")]) {
                for page in [finding(agent, "routing rules")?, agent.cli("status").run()?] {
                    let named = page.lines().any(|line| line.contains(family) && line.contains(said));
                    ensure!(named, "{text}: {page}");
                }
            }
            // What gets no answer takes its time.
            let address = if text.contains("iif") { db.ipv6()? } else { db.ipv4()? };
            ensure!(web.ping(&address).is_err(), "{text}");
            rule("del", text)?;
        }
        reach_each_other(&[&web, &db])?;
        // Forwarding that somebody switched off is told at a glance.
        rack.hosts[0].sysctl("net.ipv4.ip_forward", "0")?;
        rack.hosts[0].sysctl("net.ipv6.conf.all.forwarding", "0")?;
        let status = agents[0].cli("status").run()?;
        for setting in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
            ensure!(status.contains(&format!("{setting} should be 1")), "{status}");
        }
        Ok(())
    });
}
