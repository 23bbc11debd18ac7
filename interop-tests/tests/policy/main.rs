//! Policies across hosts: labels that travel in full, and the tools that tell what policies do.

mod across;
mod files;
mod forged;
mod former;
mod marks;
mod meddling;
mod protocols;
mod restart;

use anyhow::{Context, Result, ensure};
use interop_tests::{
    Agent, Lab, Machine, PATIENCE, Rack, Switch, check, eventually, labelled, reach, unreachable,
};
use serde_json::Value;

/// The number of the protocol.
const UDP: u8 = 17;

/// A datagram without its IP header, with four octets to know it by.
fn udp(source: u16, port: u16, mark: [u8; 4]) -> Vec<u8> {
    let fields = [source, port, 12, 0].map(u16::to_be_bytes).concat();
    [fields, mark.to_vec()].concat()
}

/// A host (192.0.2.1, 2001:db8::1), and what is beyond its uplink (.2, ::2).
fn host_and_outside(lab: &Lab) -> Result<(Machine, Machine)> {
    let (host, outside) = (lab.machine("host")?, lab.machine("outside")?);
    lab.link(
        host.port("eth0").address("192.0.2.1/24").address("2001:db8::1/64"),
        outside.port("eth0").address("192.0.2.2/24").address("2001:db8::2/64"),
    )?;
    Ok((host, outside))
}

const CONFIG: &str = "/etc/slash32/slash32.toml";

const WEB: &str = "[[policy]]\nname = 'web'\nselect = 'app == \"web\"'\n\
    ingress = [ { action = 'allow', from = { selector = 'app starts with \"front-\"' } } ]\n";

fn answer(agent: &Agent, line: &str) -> Result<Value> {
    serde_json::from_str(&agent.cli(&format!("--json {line}")).run()?).context("the answer is not JSON")
}

/// Adds a table to the agent's configuration.
fn expand(agent: &Agent, labels: &str) -> Result<()> {
    let config = agent.machine().read(CONFIG)?;
    agent.reconfigure(&format!("{config}\n[policy]\nexpand = {labels}\n")).map(drop)
}

#[test]
fn labels_in_full_pass_bird() {
    labels_in_full("policy-expand-bird", Switch::Bird);
}

#[test]
fn labels_in_full_pass_frr() {
    labels_in_full("policy-expand-frr", Switch::Frr);
}

#[test]
fn labels_in_full_pass_gobgp() {
    labels_in_full("policy-expand-gobgp", Switch::Gobgp);
}

/// The switch knows nothing of labels, and has its default configuration as far as communities are concerned.
fn labels_in_full(name: &str, switch: Switch) {
    Lab::run(name, |lab| {
        let rack = Rack::new(lab, switch)?;
        let (_switch, [host1, host2]) = rack.start()?;
        let web = rack.hosts[0].container("web", &labelled("app", "web")?)?;
        let front = rack.hosts[1].container("front", &labelled("app", "front-7")?)?;
        let back = rack.hosts[1].container("back", &labelled("app", "back-7")?)?;
        reach(&front, &web)?;
        reach(&back, &web)?;

        // Only hashes travel: the policy is refused, with its place, and nothing changes.
        host1.write_policy("web.toml", WEB)?;
        eventually("the policy is refused", PATIENCE, || {
            let status = answer(&host1, "status")?;
            let problems = status["problems"].to_string();
            check(problems.contains("web.toml:4:") && problems.contains("`expand`"), problems)
        })?;
        reach(&back, &web)?;

        // The one host asks, the other does not tell: who does not answer is not selected.
        expand(&host1, "['app']")?;
        unreachable(&back, &web)?;
        unreachable(&front, &web)?;
        eventually("status counts who does not tell", PATIENCE, || {
            let status = answer(&host1, "status")?;
            let problems = status["problems"].to_string();
            check(problems.contains("label `app`") && problems.contains("4 addresses"), problems)
        })?;

        // A changed configuration announces anew.
        expand(&host2, "['app']")?;
        eventually("front reaches web", PATIENCE, || front.ping(&web.ipv4()?))?;
        reach(&front, &web)?;
        ensure!(back.ping(&web.ipv4()?).is_err() && back.ping(&web.ipv6()?).is_err(), "back reaches web");
        let status = answer(&host1, "status")?;
        ensure!(status["problems"].as_array().is_some_and(Vec::is_empty), "{status}");

        // A new label takes effect on the other host.
        host2.cli("endpoints label back app=front-8").run()?;
        eventually("back reaches web under its new name", PATIENCE, || back.ping(&web.ipv4()?))
    });
}

#[test]
fn tools_tell_what_policies_do() {
    Lab::run("policy-tools", |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let (_switch, [mut host1, _host2]) = rack.start()?;
        let db = rack.hosts[0].container("db", &labelled("role", "db")?)?;
        let web = rack.hosts[1].container("web", &labelled("role", "web")?)?;
        let job = rack.hosts[1].container("job", &labelled("role", "job")?)?;
        let _echo = db.echo()?;
        reach(&web, &db)?;
        let policy = |port: u16| {
            format!(
                "[[policy]]\nname = 'db'\nselect = 'role == \"db\"'\n\
                 ingress = [ {{ action = 'allow', from = {{ selector = 'role == \"web\"' }}, protocol = 'tcp', ports = {port} }} ]\n"
            )
        };
        host1.write_policy("db.toml", &policy(7))?;
        unreachable(&job, &db)?;
        web.connect(&db.ipv4()?, 7)?;

        // Every step with the rule in the kernel and its counter.
        let (from, to) = (web.ipv4()?, db.ipv4()?);
        let explained = answer(&host1, &format!("policy explain {from} {to} tcp/7"))?;
        let rule = &explained["ingress"]["tiers"][0]["rules"][0];
        ensure!(explained["allowed"] == true && rule["matched"] == true, "{explained}");
        ensure!(rule["nft"][0]["packets"].as_u64().is_some_and(|n| n > 0), "{rule}");
        ensure!(
            explained["egress"].is_null() || explained["egress"]["enforced_here"] == false,
            "{explained}"
        );
        let shown = answer(&host1, "policy show")?;
        ensure!(shown["policies"][0]["packets"].as_u64().is_some_and(|n| n > 0), "{shown}");
        let nft = host1.cli("policy show --nft").run()?;
        ensure!(nft.contains("default/db ingress 1 allow") && !nft.contains("log prefix"), "{nft}");

        let matrix = answer(&host1, "policy matrix")?;
        let cell = |from: &str, to: &str| {
            let cells = matrix["cells"].as_array().into_iter().flatten();
            let mut found = cells.filter(|c| c["from"] == from && c["to"] == to);
            found.next().map(|c| c["allowed"].as_str().unwrap_or_default().to_owned())
        };
        ensure!(cell("role=web", "role=db").as_deref() == Some("tcp/7"), "{matrix}");
        ensure!(cell("role=?", "role=db").as_deref() == Some("nothing"), "{matrix}");

        // What a changed folder would do, before it does.
        rack.hosts[0].run("mkdir -p /etc/slash32/next")?;
        rack.hosts[0].write("/etc/slash32/next/db.toml", policy(9))?;
        let diff = host1.cli("policy diff /etc/slash32/next").run();
        let shown = format!("{diff:?}");
        ensure!(diff.is_err() && shown.contains("tcp/9") && shown.contains("tcp/7"), "{shown}");
        let same = host1.cli("policy diff /etc/slash32/policy.d").run()?;
        ensure!(same.contains("no connection is allowed or cut"), "{same}");

        // Refused packets as they happen, with the reason.
        let trace = rack.hosts[0]
            .command("slash32")
            .args(["--json", "policy", "trace", "--count", "1", "--seconds", "20"])
            .spawn("trace")?;
        eventually("the rules log", PATIENCE, || {
            let nft = host1.cli("policy show --nft").run()?;
            check(nft.contains("log prefix"), "not yet")
        })?;
        let wanted = job.ipv4()?;
        let mut told = String::new();
        eventually("the trace tells", PATIENCE, || {
            ensure!(job.connect(&db.ipv4()?, 7).is_err(), "job connects");
            told = trace.log();
            check(told.contains(&wanted) && told.contains("no rule of tier default matches"), told.clone())
        })?;
        eventually("the rules do not log any more", PATIENCE, || {
            let nft = host1.cli("policy show --nft").run()?;
            check(!nft.contains("log prefix"), "still")
        })?;
        host_policies_are_explained(&rack, &host1, &db.ipv4()?)?;
        translation_ends_with_its_setting(&rack, &host1)?;
        errors_outlast_a_restart(&rack, &mut host1, || unreachable(&job, &db))
    });
}

/// `nat_outgoing` switched off by a reload is off in the kernel.
fn translation_ends_with_its_setting(rack: &Rack, host: &Agent) -> Result<()> {
    let config = host.machine().read(CONFIG)?;
    let table = || rack.hosts[0].run("nft list table inet slash32");
    host.reconfigure(&config.replace("[[ipam.pool]]", "[[ipam.pool]]\nnat_outgoing = true"))?;
    let on = table()?;
    ensure!(on.contains("masquerade"), "{on}");
    host.reconfigure(&config)?;
    let off = table()?;
    ensure!(!off.contains("masquerade"), "{off}");
    eventually("nothing is left of it", PATIENCE, || check(!table()?.contains("nat_post"), "still there"))
}

/// A folder with an error, or that is gone, changes nothing; neither does a restart then.
fn errors_outlast_a_restart(rack: &Rack, host: &mut Agent, refused: impl Fn() -> Result<()>) -> Result<()> {
    let problem = |host: &Agent, text: &str| {
        eventually(text, PATIENCE, || {
            let problems = answer(host, "status")?["problems"].to_string();
            check(problems.contains(text), problems)
        })
    };
    host.write_policy("typo.toml", "[[polcy]]\n")?;
    problem(host, "typo.toml")?;
    host.kill()?;
    host.start_again()?;
    problem(host, "typo.toml")?;
    problem(host, "the last good policies stay in force")?;
    refused()?;
    // Nothing is known of the last good state: then nothing is changed, and nobody new comes.
    host.kill()?;
    rack.hosts[0].run("rm /run/slash32/policies.json")?;
    host.start_again()?;
    problem(host, "no earlier policies are known")?;
    refused()?;
    ensure!(rack.hosts[0].container("late", &labelled("role", "late")?).is_err(), "a container was attached");
    host.remove_policy("typo.toml")?;
    eventually("the folder is right", PATIENCE, || {
        let problems = answer(host, "status")?["problems"].to_string();
        check(!problems.contains("polic"), problems)
    })?;
    refused()?;
    rack.hosts[0].container("later", &labelled("role", "late")?)?;
    rack.hosts[0].run("mv /etc/slash32/policy.d /etc/slash32/elsewhere")?;
    problem(host, "the policy folder is gone")?;
    refused()?;
    host.kill()?;
    host.start_again()?;
    problem(host, "the policy folder is gone")?;
    refused()?;
    rack.hosts[0].run("mv /etc/slash32/elsewhere /etc/slash32/policy.d")?;
    refused()
}

const HOST_POLICIES: &str = "[[host_policy]]\nname = 'other-side'\norder = 1\ninterfaces = ['wan*']\ningress = []\n\
    [[host_policy]]\nname = 'trial'\norder = 2\nstaged = true\ningress = [{ action = 'deny', protocol = 'tcp' }]\n\
    [[host_policy]]\nname = 'rack'\norder = 3\ninterfaces = ['eth*']\n\
    ingress = [{ action = 'deny', protocol = 'tcp', ports = 9 }, { action = 'allow', from = { cidr = ['192.0.2.0', '2001:db8:0:1::1'] }, protocol = 'tcp', ports = [7, 9] }]\n";

/// What is said of the host's own ports is what packets find, each step with its rule in the kernel and its counter.
fn host_policies_are_explained(rack: &Rack, host: &Agent, container: &str) -> Result<()> {
    let serve = |port: u16| {
        let command = rack.hosts[0].command("lab-tool").args(["echo", &port.to_string()]);
        let process = command.spawn(&format!("echo-host-{port}"))?;
        eventually("the echo server listens", PATIENCE, || {
            check(process.log().contains(&format!("listening on {port}")), process.log())
        })?;
        Ok::<_, anyhow::Error>(process)
    };
    let _servers = [serve(7)?, serve(9)?, serve(8)?];
    let connects = |to: &str, port: u16| {
        rack.tor.command("lab-tool").args(["connect", to, &port.to_string()]).run().is_ok()
    };
    eventually("the host is reached without policies", PATIENCE, || {
        check([7, 8, 9].iter().all(|port| connects("192.0.2.1", *port)), "not yet")
    })?;
    // Open before there are host policies, and cut by them.
    let words = "exec 3<>/dev/tcp/192.0.2.1/8; echo open; while echo x >&3 && read -t 2 -u 3 line; do sleep 0.1; done";
    let open = rack.tor.command("bash").args(["-c", words]).spawn("open")?;
    eventually("the connection is open", PATIENCE, || check(open.log().contains("open"), open.log()))?;
    host.write_policy("host.toml", HOST_POLICIES)?;
    eventually("the host policies are in force", PATIENCE, || check(!connects("192.0.2.1", 8), "not yet"))?;
    eventually("what was open is cut", PATIENCE, || check(!open.running(), "it goes on"))?;
    let outcomes = |answer: &Value| -> Vec<String> {
        let steps = answer["host"]["steps"].as_array().into_iter().flatten();
        steps.map(|s| s["outcome"].as_str().unwrap_or_default().to_owned()).collect()
    };
    for (from, to) in [("192.0.2.0", "192.0.2.1"), ("2001:db8:0:1::1", "2001:db8:0:1::2")] {
        for (port, allowed) in [(7, true), (8, false), (9, false)] {
            ensure!(connects(to, port) == allowed, "tcp/{port} of {to}");
            let told = answer(host, &format!("policy explain {from} {to} tcp/{port}"))?;
            ensure!(told["allowed"] == allowed && told["host"]["interface"] == "eth0", "{told}");
            let steps = &told["host"]["steps"];
            ensure!(steps[1]["because"] == "for wan* only", "{told}");
            let rack = &steps[3]["rules"];
            let counted = |step: &Value| step["nft"][0]["packets"].as_u64().is_some_and(|n| n > 0);
            let trial = &steps[2]["rules"][0];
            ensure!(trial["staged"] == true && trial["matched"] == true && counted(trial), "{told}");
            match port {
                7 => ensure!(
                    counted(&rack[1]) && outcomes(&told).last().is_some_and(|o| o == "allowed"),
                    "{told}"
                ),
                8 => ensure!(steps[4]["what"] == "default" && counted(&steps[4]), "{told}"),
                _ => ensure!(counted(&rack[0]) && rack[1].is_null(), "{told}"),
            }
        }
        // Failsafe ports stay open; another interface has another policy.
        let failsafe = answer(host, &format!("policy explain {from} {to} tcp/22"))?;
        ensure!(failsafe["allowed"] == true && outcomes(&failsafe) == ["allowed"], "{failsafe}");
        ensure!(failsafe["host"]["steps"][0]["nft"][0]["chain"] == "input_host", "{failsafe}");
        let elsewhere = answer(host, &format!("policy explain {from} {to} tcp/7 --interface wan1"))?;
        ensure!(elsewhere["allowed"] == false, "{elsewhere}");
    }
    // An endpoint and its host: what is protected, what is open, what is not; and the host is never refused.
    for (port, allowed, steps) in [
        ("tcp/179", false, &["denied"][..]),
        ("udp/53", true, &["passed", "allowed"]),
        ("tcp/7", false, &["passed", "denied"]),
    ] {
        let told = answer(host, &format!("policy explain {container} host {port}"))?;
        ensure!(told["allowed"] == allowed && outcomes(&told) == steps, "{told}");
        ensure!(
            told["host"]["steps"]
                .as_array()
                .is_some_and(|s| s.iter().all(|s| s["nft"][0]["chain"] == "input_ep")),
            "{told}"
        );
    }
    let told = answer(host, &format!("policy explain host {container} tcp/1"))?;
    ensure!(
        told["allowed"] == true && told["source"]["kind"] == "host" && told["ingress"].is_null(),
        "{told}"
    );
    let text = host.cli("policy explain 192.0.2.0 host tcp/9").run()?;
    ensure!(
        text.contains("host (enforced on this host, in by eth0): denied: rule 1 of host policy rack"),
        "{text}"
    );
    Ok(())
}

/// What `db` takes: always `web`, and now and then `job`, which is on the other host.
fn db_policy(job: bool) -> String {
    let roles = if job { "'web', 'job'" } else { "'web'" };
    format!(
        "[[policy]]\nname = 'db'\nselect = 'role == \"db\"'\n\
         ingress = [ {{ action = 'allow', from = {{ selector = \"role in {{{roles}}}\" }}, protocol = ['tcp', 'udp'], ports = 7 }} ]\n"
    )
}

/// Stopped, killed, and another program in its place; each time with other policies when it comes back.
#[test]
fn restarts_with_changed_policies_lose_and_leak_nothing() {
    Lab::run("policy-restarts", |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let (_switch, [mut host, _other]) = rack.start()?;
        let db = rack.hosts[0].container("db", &labelled("role", "db")?)?;
        let web = rack.hosts[0].container("web", &labelled("role", "web")?)?;
        let thief = rack.hosts[0].container("thief", &labelled("role", "thief")?)?;
        let job = rack.hosts[1].container("job", &labelled("role", "job")?)?;
        let _echo = db.echo()?;
        let [db4, db6] = [db.ipv4()?, db.ipv6()?];
        reach(&job, &db)?;
        reach(&thief, &db)?;
        host.write_policy("db.toml", &db_policy(false))?;
        unreachable(&job, &db)?;
        unreachable(&thief, &db)?;
        let allowed = [web.flow(&db4, 7)?, web.flow(&db6, 7)?];
        let packets = [web.probe(&db4, 200)?, web.probe(&db6, 200)?];
        let ping = |to: &str| thief.command("ping").args(["-n", "-i", "0.01", to]).spawn("thief");
        let forbidden = [ping(&db4)?, ping(&db6)?];

        let mut jobs = Vec::new();
        for round in 0..12 {
            let permitted = round % 2 == 0;
            if round % 3 == 2 {
                host.replace_binary()?;
            }
            if round % 3 == 0 {
                host.stop()?;
            } else {
                host.kill()?;
            }
            host.write_policy("db.toml", &db_policy(permitted))?;
            host.start_again()?;
            if permitted {
                // What is allowed anew works as soon as the agent says that it is ready; the other host announced it long ago.
                jobs = vec![job.flow(if round == 0 { &db4 } else { &db6 }, 7)?];
            } else {
                let to = if round % 4 == 1 { &db4 } else { &db6 };
                ensure!(job.connect(to, 7).is_err(), "round {round}: job connects to {to}");
                // A cut connection takes seconds to say so, and the next round would revive it.
                if round == 1 {
                    for flow in jobs.drain(..) {
                        let report = flow.stop()?;
                        ensure!(
                            report.error.is_some(),
                            "job's connection outlived its permission: {report:?}"
                        );
                    }
                }
            }
            ensure!(web.connect(&db4, 7).is_ok() && web.connect(&db6, 7).is_ok(), "round {round}: web");
        }
        for flow in allowed {
            let report = flow.stop()?;
            ensure!(report.error.is_none() && report.echoed > 100, "{report:?}");
        }
        for probe in packets {
            let report = probe.stop()?;
            ensure!(report.lost() == 0 && report.sent > 1000, "{report:?}");
        }
        for process in forbidden {
            process.check()?;
            ensure!(!process.log().contains("bytes from"), "{}", process.log());
        }
        Ok(())
    });
}
