//! Endpoints that have lost their labels: cut off where policies ask for labels, on real hosts.

use anyhow::{Context, Result, ensure};
use interop_tests::{Agent, Container, Lab, Machine, PATIENCE, Rack, Switch, check, eventually, labelled};
use serde_json::Value;

use crate::kit::tidy;

const POLICY: &str = r#"
[[policy]]
name = "db"
select = 'role == "db"'
ingress = [{ action = "deny", from = { selector = 'role == "web"' } }, { action = "allow" }]
"#;

/// The agent dies and loses what it has written of endpoints. The alias of `older` is from an agent that wrote no labels.
fn lose(agent: &mut Agent, host: &Machine, older: &Container) -> Result<()> {
    agent.kill()?;
    let result = older.result();
    let end = result["interfaces"][0]["name"].as_str().context("a name")?;
    let shown = host.run(&format!("ip link show {end}"))?;
    let alias = shown.split_once("alias ").context(shown.clone())?.1;
    let name = alias.split([' ', '\n']).next().unwrap_or_default();
    host.run(&format!("ip link set {end} alias {name}"))?;
    host.command("sh")
        .args(["-c", "rm /run/slash32/endpoints/* /run/slash32/copies/* /var/lib/slash32/copies/*/*"])
        .run()?;
    agent.start_again()?;
    agent.wait_established(2)
}

fn explain(agent: &Agent, from: &str, to: &str) -> Result<Value> {
    let told = agent.cli(&format!("policy explain {from} {to} tcp/80 --json")).output()?;
    Ok(serde_json::from_str(&told.stdout)?)
}

/// What another host takes an address for.
fn known_as(agent: &Agent, address: &str, kind: &str) -> Result<()> {
    eventually("the other host knows", PATIENCE, || {
        let from = if address.contains(':') { "2001:db8:ffff::1" } else { "203.0.113.1" };
        let told = explain(agent, from, address)?;
        check(told["destination"]["kind"] == kind, told["destination"].to_string())
    })
}

fn metric(agent: &Agent, name: &str) -> Result<u64> {
    let page = agent.cli("metrics").run()?;
    let value = page.lines().find_map(|line| line.strip_prefix(name)).with_context(|| name.to_owned())?;
    Ok(value.trim().parse()?)
}

#[test]
fn labels_that_were_lost() {
    Lab::run("lost-labels", |lab| {
        let rack = Rack::new(lab, Switch::Bird)?;
        let (_switch, [mut host1, host2]) = rack.start()?;
        let here = &rack.hosts[0];
        let web = here.container("web", &labelled("role", "web")?)?;
        let db = here.container("db", &labelled("role", "db")?)?;
        let far = rack.hosts[1].container("far", &labelled("role", "far")?)?;
        for agent in [&host1, &host2] {
            agent.write_policy("db.toml", POLICY)?;
        }
        let addresses = |of: &Container| Ok::<_, anyhow::Error>([of.ipv4()?, of.ipv6()?]);
        let (to_web, to_db, to_far) = (addresses(&web)?, addresses(&db)?, addresses(&far)?);
        let reached = |from: &Container, to: &[String; 2]| {
            to.iter().try_for_each(|to| eventually("it is reached", PATIENCE, || from.ping(to)))
        };
        let refused = |from: &Container, to: &[String; 2]| {
            let is_refused = |to: &String| check(from.ping(to).is_err(), format!("{to} is reached"));
            to.iter().try_for_each(|to| eventually("it is refused", PATIENCE, || is_refused(to)))
        };
        reached(&far, &to_web)?;
        refused(&web, &to_db)?;

        lose(&mut host1, here, &web)?;
        // The kernel has told who the one is, and not who the other is.
        let rows = host1.endpoints()?;
        let labels: Vec<_> = rows.iter().filter(|row| !row.labels.is_empty()).collect();
        ensure!(labels.len() == 1 && labels[0].labels.get("role").is_some_and(|r| r == "db"), "{rows:?}");
        ensure!(metric(&host1, "slash32_endpoints_attention{reason=\"labels_unknown\"} ")? == 1);
        for (from, to) in [(&web, &to_db), (&web, &to_far), (&far, &to_web), (&db, &to_web)] {
            for to in to {
                ensure!(from.ping(to).is_err(), "{to} is reached after the start");
            }
        }
        reached(&far, &to_db)?;
        reached(&db, &to_far)?;
        ensure!(
            metric(
                &host1,
                "slash32_policy_refused_packets_total{reason=\"labels of the endpoint unknown\"} "
            )? > 0
        );
        for (to_web, to_db) in to_web.iter().zip(&to_db) {
            let told = explain(&host1, to_db, to_web)?;
            let reason = told["reason"].as_str().unwrap_or_default();
            ensure!(told["allowed"] == false && reason.contains("unknown_labels of [policy]"), "{told}");
            ensure!(told["ingress"]["nft"][0]["packets"].as_u64().is_some_and(|n| n > 0), "{told}");
            // Elsewhere it is nobody: not one without labels.
            known_as(&host2, to_web, "unknown")?;
            known_as(&host2, to_db, "remote")?;
        }
        let doctor = host1.cli("doctor").output()?.stdout;
        ensure!(doctor.contains("labels that policies select by are unknown"), "{doctor}");

        // No policy asks for labels: as ever.
        host1.remove_policy("db.toml")?;
        reached(&web, &to_db)?;
        reached(&far, &to_web)?;
        host1.write_policy("db.toml", POLICY)?;
        refused(&far, &to_web)?;

        // Somebody tells them; and a CHECK finds all in order.
        host1.cli("endpoints label web role=web").run()?;
        reached(&far, &to_web)?;
        refused(&web, &to_db)?;
        for to in &to_web {
            known_as(&host2, to, "remote")?;
        }
        ensure!(metric(&host1, "slash32_endpoints_attention{reason=\"labels_unknown\"} ")? == 0);
        web.check()?;

        // Whoever wants it otherwise: it counts as one without labels, here and elsewhere.
        lose(&mut host1, here, &web)?;
        refused(&far, &to_web)?;
        let config = here.read("/etc/slash32/slash32.toml")?;
        host1.reconfigure(&format!("{config}\n[policy]\nunknown_labels = \"unlabelled\"\n"))?;
        reached(&far, &to_web)?;
        reached(&web, &to_db)?;
        for to in &to_web {
            known_as(&host2, to, "remote")?;
        }
        host1.reconfigure(&config)?;
        refused(&far, &to_web)?;

        // So does another ADD, which makes it anew.
        web.remove()?;
        let web = here.container("web", &labelled("role", "web")?)?;
        reached(&far, &addresses(&web)?)?;
        refused(&web, &to_db)?;
        tidy(&host1, 2)
    });
}
