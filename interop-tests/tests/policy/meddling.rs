//! Somebody else clears the tables or changes ours: the agent puts it back, and how much got through or was lost until
//! then is counted in packets that are sent at a known rate.

use anyhow::{Context, Result, ensure};
use interop_tests::{
    Lab, Machine, PATIENCE, Process, Rack, Switch, check, eventually, labelled, reach, unreachable,
};

use crate::db_policy;

/// Packets a second, allowed and forbidden ones alike.
const RATE: u64 = 200;

/// The words of a listing in order, as the order in which sets were made is nothing, without stamps: a damaged table is
/// restored with a new generation.
fn words(listing: &str) -> Vec<String> {
    let is_stamp = |word: &&str| word.starts_with("0x") && word.len() > 6;
    let mut words: Vec<_> =
        listing.split([' ', ',', '\n', '\t']).filter(|w| !is_stamp(w)).map(str::to_owned).collect();
    words.sort();
    words
}

/// Somebody else clears the tables or changes ours: the agent puts it back, and connections do not notice.
#[test]
fn meddling_with_the_table_is_undone() {
    Lab::run("policy-meddling", |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let (_switch, [host, _other]) = rack.start()?;
        let db = rack.hosts[0].container("db", &labelled("role", "db")?)?;
        let web = rack.hosts[0].container("web", &labelled("role", "web")?)?;
        let job = rack.hosts[1].container("job", &labelled("role", "job")?)?;
        let _echo = db.echo()?;
        reach(&job, &db)?;
        host.write_policy("db.toml", &db_policy(false))?;
        unreachable(&job, &db)?;
        let (flow, probe) = (web.flow(&db.ipv6()?, 7)?, web.probe(&db.ipv4()?, 200)?);
        // Counters are not listed.
        let table = || -> Result<Vec<String>> {
            let text = rack.hosts[0].run("nft -s -n list table inet slash32")?;
            Ok(words(&text))
        };
        let before = table()?;
        let deeds = [
            "flush ruleset",
            "delete table inet slash32",
            "flush table inet slash32",
            "flush chain inet slash32 guard",
            "delete set inet slash32 src6; flush ruleset",
            "insert rule inet slash32 forward accept",
            "flush map inet slash32 ep_in",
            "add table inet slash32 { flags dormant; }",
        ];
        for (index, meddling) in deeds.into_iter().enumerate() {
            let done = rack.hosts[0].run(&format!("nft {meddling}"));
            // A set in use cannot be deleted; then nothing of the line was done.
            ensure!(done.is_ok() || meddling.starts_with("delete set"), "{meddling}: {done:?}");
            eventually(&format!("the table is back after `{meddling}`"), PATIENCE, || {
                let now = table()?;
                check(now == before, now.join(" "))
            })?;
            // To be refused takes a while.
            if index % 3 == 0 {
                ensure!(job.connect(&db.ipv4()?, 7).is_err(), "job connects after `{meddling}`");
            }
            web.connect(&db.ipv4()?, 7)?;
        }
        let (flow, probe) = (flow.stop()?, probe.stop()?);
        ensure!(flow.error.is_none(), "{flow:?}");
        ensure!(probe.lost() == 0, "{probe:?}");
        Ok(())
    });
}

/// The numbers of a running `ping`'s packets that were answered.
fn answered(ping: &Process) -> Vec<u64> {
    let number = |line: &str| line.split("icmp_seq=").nth(1)?.split(' ').next()?.parse().ok();
    ping.log().lines().filter(|l| l.contains("bytes from")).filter_map(number).collect()
}

/// The handle of a rule whose text contains `part`.
fn handle(host: &Machine, chain: &str, part: &str) -> Result<String> {
    let listed = host.run(&format!("nft -a list chain inet slash32 {chain}"))?;
    let line = listed.lines().find(|l| l.contains(part)).with_context(|| format!("{part}: {listed}"))?;
    Ok(line.rsplit("handle ").next().unwrap_or_default().trim().to_owned())
}

/// Forbidden packets come all the time, and so do allowed ones of connections that are judged anew with each. Until the
/// table is back, what somebody else has done holds; that lasts less than a second's packets, each time.
#[test]
fn meddling_lasts_less_than_a_second() {
    Lab::run("policy-second", |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let (_switch, [host, _other]) = rack.start()?;
        let machine = &rack.hosts[0];
        let db = machine.container("db", &labelled("role", "db")?)?;
        let web = machine.container("web", &labelled("role", "web")?)?;
        let thief = machine.container("thief", &labelled("role", "thief")?)?;
        let _echo = db.echo()?;
        let to = [db.ipv4()?, db.ipv6()?];
        reach(&thief, &db)?;
        host.write_policy("db.toml", &db_policy(false))?;
        unreachable(&thief, &db)?;
        let interval = format!("{}", 1.0 / RATE as f64);
        let pings = to
            .iter()
            .map(|to| thief.command("ping").args(["-n", "-i", &interval, to]).spawn(&format!("thief-{to}")))
            .collect::<Result<Vec<_>>>()?;
        let probes = to.iter().map(|to| web.probe(to, RATE as u32)).collect::<Result<Vec<_>>>()?;
        let table = || -> Result<Vec<String>> {
            let text = machine.run("nft -s -n list table inet slash32")?;
            Ok(words(&text))
        };
        let before = table()?;
        let element = |map: &str, address: &str| -> Result<String> {
            let listed = machine
                .run(&format!("nft list map inet slash32 {map}"))
                .or_else(|_| machine.run(&format!("nft list set inet slash32 {map}")))?;
            let inner = listed.split("elements = {").nth(1).and_then(|rest| rest.split('}').next());
            let mut all = inner.with_context(|| listed.clone())?.split(',').map(str::trim);
            let found = all.find(|e| e.contains(address)).with_context(|| listed.clone())?;
            Ok(found.split(" : ").next().unwrap_or(found).to_owned())
        };
        let deeds = [
            "flush ruleset".to_owned(),
            "delete table inet slash32".to_owned(),
            "add table inet slash32 { flags dormant; }".to_owned(),
            "flush chain inet slash32 forward; delete chain inet slash32 guard".to_owned(),
            "delete rule inet slash32 forward handle FORWARD".to_owned(),
            "delete rule inet slash32 guard handle TO_EP".to_owned(),
            "rename chain inet slash32 guard gone".to_owned(),
            "insert rule inet slash32 guard accept".to_owned(),
            "insert rule inet slash32 prerouting drop".to_owned(),
            "add chain inet slash32 forward { policy drop; }".to_owned(),
            "add chain inet slash32 mine".to_owned(),
            format!("delete element inet slash32 ep_in {{ {} }}", element("ep_in", "s32")?),
            "EMPTY4".to_owned(),
            "flush set inet slash32 src4".to_owned(),
            "flush set inet slash32 src6".to_owned(),
            "flush map inet slash32 ep_in".to_owned(),
            "delete element inet slash32 generation { GENERATION }".to_owned(),
        ];
        let mut told = Vec::new();
        for deed in deeds {
            // What has a handle or an address is looked up now: it was made anew with the table.
            let deed = match &*deed {
                d if d.contains("FORWARD") => {
                    d.replace("FORWARD", &handle(machine, "forward", "goto guard")?)
                }
                d if d.contains("TO_EP") => d.replace("TO_EP", &handle(machine, "guard", "jump to_ep")?),
                "EMPTY4" => format!(
                    "delete element inet slash32 src4 {{ {} }}",
                    element("src4", &format!(" {}", web.ipv4()?))?
                ),
                d if d.contains("GENERATION") => d.replace("GENERATION", &element("generation", "0x")?),
                _ => deed,
            };
            let passed: Vec<usize> = pings.iter().map(|p| answered(p).len()).collect();
            machine.run(&format!("nft {deed}")).with_context(|| deed.clone())?;
            eventually(&format!("the table is back after `{deed}`"), PATIENCE, || {
                let now = table()?;
                check(now == before, now.join(" "))
            })?;
            let leaked: Vec<usize> =
                pings.iter().zip(&passed).map(|(p, before)| answered(p).len() - before).collect();
            ensure!(leaked.iter().all(|n| (*n as u64) < RATE), "after `{deed}` passed {leaked:?}");
            // Nothing more comes: what was let in meanwhile has no stamp.
            for (to, probe) in to.iter().zip(&pings) {
                web.connect(to, 7).with_context(|| format!("web after `{deed}`"))?;
                probe.check()?;
            }
            let later: Vec<usize> =
                pings.iter().zip(&passed).map(|(p, before)| answered(p).len() - before).collect();
            ensure!(later == leaked, "after `{deed}` was undone passed {later:?}, before {leaked:?}");
            told.push(format!("{leaked:?} of {RATE} a second passed until `{deed}` was undone"));
        }
        let cuts = told.len() as u64;
        for probe in probes {
            let report = probe.stop()?;
            // Most deeds take nothing away that is allowed; each that does is undone within a second.
            ensure!(report.lost() < RATE * cuts / 4, "{report:?}");
            told.push(format!(
                "allowed: {} of {} lost, at {:?} ms",
                report.lost(),
                report.sent,
                report.lost_at_ms
            ));
        }
        for line in told {
            println!("{line}");
        }
        Ok(())
    });
}
