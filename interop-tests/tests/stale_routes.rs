//! What restarts leave in the kernel, and when it goes: BIRD is the switch.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use interop_tests::{
    Agent, Lab, Machine, PATIENCE, Router, SwitchRestart, TwinRack, check, eventually, labelled, reach,
    steadily,
};

/// Seconds that the two wait for each other's return. What must not have happened yet is looked for during a quarter.
const RESTART: u16 = 12;
const A_WHILE: Duration = Duration::from_secs(3);

/// A host behind a switch that announces networks of its own.
struct Site {
    host: Machine,
    switch: Machine,
    router: Router,
    agent: Agent,
}

/// BIRD with one session a family and static routes.
fn bird(networks: &[&str]) -> String {
    let route = |six: bool| {
        let of_family = networks.iter().filter(|network| network.contains(':') == six);
        of_family.map(|network| format!("route {network} blackhole; ")).collect::<Vec<_>>().concat()
    };
    let session = |family: u8, ours: &str, theirs: &str| {
        format!(
            "protocol bgp host{family} {{ local {ours} as 65000; neighbor {theirs} as 65001; graceful restart on; \
             graceful restart time {RESTART}; hold time 9; connect retry time 1; connect delay time 1; \
             ipv{family} {{ import all; export where source = RTS_STATIC; next hop self; }}; }}\n"
        )
    };
    format!(
        "log stderr all;\nrouter id 192.0.2.0;\nprotocol device {{ }}\n\
         protocol static {{ ipv4; {} }}\nprotocol static {{ ipv6; {} }}\n{}{}",
        route(false),
        route(true),
        session(4, "192.0.2.0", "192.0.2.1"),
        session(6, "2001:db8::1", "2001:db8::2"),
    )
}

const AGENT: &str = "[bgp]\nasn = 65001\nrestart_time = 12\n[bgp.group.switch]\nasn = 65000\nhold_time = 9\nkeepalive = 3\n\
    [[bgp.peer]]\naddress = '192.0.2.0'\ngroup = 'switch'\nfamilies = ['ipv4']\n\
    [[bgp.peer]]\naddress = '2001:db8::1'\ngroup = 'switch'\nfamilies = ['ipv6']\n";

const STAYS: [&str; 2] = ["198.51.100.0/25", "2001:db8:a::/48"];
const GOES: [&str; 2] = ["198.51.100.128/25", "2001:db8:b::/48"];
const COMES: [&str; 2] = ["203.0.113.0/24", "2001:db8:c::/48"];

impl Site {
    fn start(lab: &Lab) -> Result<Self> {
        let (host, switch) = (lab.machine("host")?, lab.forwarder("switch")?);
        lab.link(
            switch.port("eth0").address("192.0.2.0/31").address("2001:db8::1/64"),
            host.port("eth0").address("192.0.2.1/31").address("2001:db8::2/64"),
        )?;
        let router = Router::bird(&switch, &bird(&[STAYS, GOES].concat()))?;
        let agent = Agent::start(&host, AGENT)?;
        agent.wait_established(2)?;
        let site = Self { host, switch, router, agent };
        site.eventually("has what BIRD announces", &[STAYS, GOES].concat(), &COMES)?;
        Ok(site)
    }

    /// Fails unless the kernel has routes of ours for all of one list and none of the other.
    fn kernel(&self, with: &[&str], without: &[&str]) -> Result<()> {
        let routes =
            self.host.run("ip -4 route show proto 32")? + &self.host.run("ip -6 route show proto 32")?;
        let has = |prefix: &&&str| routes.lines().any(|line| line.split(' ').next() == Some(**prefix));
        let missing: Vec<_> = with.iter().filter(|prefix| !has(prefix)).collect();
        let left: Vec<_> = without.iter().filter(has).collect();
        check(
            missing.is_empty() && left.is_empty(),
            format!("missing {missing:?}, left {left:?} in:\n{routes}"),
        )
    }

    fn eventually(&self, what: &str, with: &[&str], without: &[&str]) -> Result<()> {
        eventually(&format!("the kernel {what}"), PATIENCE, || self.kernel(with, without))
    }

    fn bird(&self) -> Result<&interop_tests::Process> {
        self.router.processes().last().context("BIRD's process")
    }

    /// What the agent did to the kernel since it started: created, changed and deleted.
    fn written(&self) -> Result<[u64; 3]> {
        let status = self.agent.status()?;
        let counters = &status["routes"]["counters"];
        ["created", "changed", "deleted"]
            .map(|name| counters[name].as_u64())
            .into_iter()
            .collect::<Option<Vec<_>>>()
            .and_then(|list| list.try_into().ok())
            .with_context(|| format!("no counters in {status}"))
    }
}

#[test]
fn routes_that_the_switch_no_longer_has_go_at_end_of_rib_and_not_before() {
    Lab::run("stale-eor", |lab| {
        let mut site = Site::start(lab)?;
        site.agent.kill()?;
        site.switch.write("/etc/bird/bird.conf", bird(&[STAYS, COMES].concat()))?;
        site.switch.run("birdc configure")?;
        site.kernel(&[STAYS, GOES].concat(), &COMES)?;
        // The kernel of the switch accepts the connection, but nobody there speaks: no route, no End-of-RIB.
        site.bird()?.pause()?;
        site.agent.start_again()?;
        let before = || site.kernel(&[STAYS, GOES].concat(), &COMES);
        steadily("without End-of-RIB everything stays", A_WHILE, before)?;
        ensure!(site.written()? == [0, 0, 0], "{:?}", site.written()?);
        site.bird()?.resume()?;
        site.eventually("has what BIRD has now", &[STAYS, COMES].concat(), &GOES)?;
        // Nothing of what stayed was touched.
        ensure!(site.written()? == [2, 0, 2], "{:?}", site.written()?);
        ensure!(site.agent.cli("routes verify").output()?.exit.success(), "differences");
        Ok(())
    });
}

#[test]
fn routes_of_a_switch_that_never_comes_back_go_when_the_time_is_over() {
    Lab::run("stale-timer", |lab| {
        let mut site = Site::start(lab)?;
        let all = [STAYS, GOES].concat();
        // The agent sees the switch die. Without links down the packets may well get through.
        site.bird()?.kill()?;
        steadily("the routes stay for a while", A_WHILE, || site.kernel(&all, &[]))?;
        site.eventually("has none of them", &[], &all)?;
        // The switch dies while the agent is away.
        site.router = Router::bird(&site.switch, &bird(&all))?;
        site.eventually("has them again", &all, &[])?;
        site.agent.kill()?;
        site.bird()?.kill()?;
        site.agent.start_again()?;
        steadily("the routes stay for a while", A_WHILE, || site.kernel(&all, &[]))?;
        site.eventually("has none of them", &[], &all)?;
        ensure!(site.agent.cli("routes verify").output()?.exit.success(), "differences");
        Ok(())
    });
}

#[test]
fn another_protocol_number_leaves_nothing_behind() {
    Lab::run("stale-number", |lab| {
        let mut site = Site::start(lab)?;
        let all = [STAYS, GOES].concat();
        site.agent.stop()?;
        site.host.write("/etc/slash32/slash32.toml", format!("{AGENT}[routes]\nprotocol = 77\n"))?;
        site.agent.start_again()?;
        site.agent.wait_established(2)?;
        let left = || -> Result<String> {
            let four = site.host.run("ip -4 route show table all proto 32")?;
            let six = site.host.run("ip -6 route show table all proto 32")?;
            Ok(four + &six + &site.host.run("ip nexthop show proto 32")?)
        };
        eventually("nothing with the old number is left", PATIENCE, || {
            let left = left()?;
            check(left.is_empty(), left)
        })?;
        let new =
            site.host.run("ip -4 route show proto 77")? + &site.host.run("ip -6 route show proto 77")?;
        ensure!(all.iter().all(|prefix| new.contains(prefix)), "{new}");
        ensure!(site.agent.cli("routes verify").output()?.exit.success(), "differences");
        Ok(())
    });
}

#[test]
fn a_table_that_no_rule_looks_up_is_told() {
    Lab::run("stale-table", |lab| {
        let mut site = Site::start(lab)?;
        site.agent.stop()?;
        site.host.write("/etc/slash32/slash32.toml", format!("{AGENT}[routes]\ntable = 1032\n"))?;
        site.agent.start_again()?;
        let told = || -> Result<String> {
            // Its exit code tells of everything that is found.
            Ok(site.agent.cli("doctor --json").output()?.stdout)
        };
        let text = told()?;
        for family in ["ipv4", "ipv6"] {
            ensure!(text.contains(&format!("{family}: no rule looks into table 1032")), "{text}");
        }
        let status = site.agent.cli("status").run()?;
        ensure!(status.contains("ipv6: no rule looks into table 1032"), "{status}");
        for ip in ["ip", "ip -6"] {
            site.host.run(&format!("{ip} rule add priority 32765 lookup 1032"))?;
        }
        let text = told()?;
        ensure!(!text.contains("table 1032"), "{text}");
        // And what was in the main table has gone.
        eventually("nothing is left in the main table", PATIENCE, || {
            let four = site.host.run("ip -4 route show table main proto 32")?;
            let left = four + &site.host.run("ip -6 route show table main proto 32")?;
            check(left.is_empty(), left)
        })
    });
}

/// `what` happens to the agent of host 1 while packets go from there to host 2 and back.
fn loses_nothing(name: &str, switches: SwitchRestart, what: impl FnOnce(&mut Agent) -> Result<()>) {
    Lab::run(name, |lab| {
        let rack = TwinRack::with(lab, switches)?;
        let mut running = rack.start()?;
        let web = rack.hosts[0].container("web", &labelled("role", "web")?)?;
        let db = rack.hosts[1].container("db", &labelled("role", "db")?)?;
        reach(&web, &db)?;
        rack.wait_both_ways(1, &db)?;
        rack.wait_both_ways(2, &web)?;
        let _echo = db.echo()?;
        let probes = [web.probe(&db.ipv4()?, 500)?, web.probe(&db.ipv6()?, 500)?];
        what(&mut running.agents[0])?;
        running.agents[0].wait_established(4)?;
        rack.wait_both_ways(1, &db)?;
        rack.wait_both_ways(2, &web)?;
        // What went wrong last shows only in what is sent after it.
        std::thread::sleep(Duration::from_secs(1));
        for probe in probes {
            let report = probe.stop()?;
            ensure!(report.sent > 500 && report.lost() == 0, "{report:?}");
        }
        Ok(())
    });
}

fn kill(agent: &mut Agent) -> Result<()> {
    agent.kill()?;
    std::thread::sleep(Duration::from_secs(1));
    agent.start_again()
}

fn upgrade(agent: &mut Agent) -> Result<()> {
    agent.replace_binary()?;
    agent.stop()?;
    agent.start_again()
}

fn reload(agent: &mut Agent) -> Result<()> {
    let config = TwinRack::agent_config(1)?;
    let more = "[[bgp.peer]]\naddress = '203.0.113.1'\nasn = 64999\npassive = true\nimport = [ { action = 'accept' } ]\n";
    agent.reconfigure(&format!("{config}{more}"))?;
    eventually("the neighbour is there", PATIENCE, || {
        let peers = agent.peers()?;
        check(peers.len() == 5, format!("{peers:?}"))
    })?;
    agent.reconfigure(&config).map(drop)
}

#[test]
fn a_killed_agent_behind_two_birds_loses_no_packet() {
    loses_nothing("lossless-kill", SwitchRestart::On, kill);
}

#[test]
fn a_new_binary_loses_no_packet() {
    loses_nothing("lossless-upgrade", SwitchRestart::On, upgrade);
}

/// Switches that promise no End-of-RIB: one lab for all, as each event ends as it began.
#[test]
fn behind_switches_that_only_help_nothing_loses_a_packet() {
    loses_nothing("lossless-helpers", SwitchRestart::Helper, |agent| {
        kill(agent)?;
        agent.wait_established(4)?;
        upgrade(agent)?;
        agent.wait_established(4)?;
        reload(agent)
    });
}
