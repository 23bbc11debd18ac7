//! `make demo`: a rack in network namespaces, from nothing to policy, explained on the way.

mod page;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use interop_tests::{
    Agent, Container, Lab, Network, PATIENCE, Rack, Running, Switch, eventually, example, slash32,
};
use page::{Page, say};

/// A switch and two hosts in network namespaces, four containers, a policy. Everything is removed at the end.
#[derive(Parser)]
struct Options {
    /// What the switch is: slash32, bird, frr or gobgp.
    #[arg(long, default_value = "slash32")]
    switch: Switch,
    /// Leave everything up at the end, to look around, until Enter.
    #[arg(long)]
    keep: bool,
}

/// Container, host (0 or 1), role.
const CONTAINERS: [(&str, usize, &str); 4] =
    [("web-1", 0, "web"), ("db-1", 0, "db"), ("web-2", 1, "web"), ("job-2", 1, "job")];

const POLICY: &str = r#"[[policy]]
name = "db-from-web"
select = 'role == "db"'
ingress = [ { action = "allow", from = { selector = 'role == "web"' } } ]
"#;

/// Attachments of which the median is shown.
const TIMED: usize = 5;

fn main() -> std::process::ExitCode {
    let options = Options::parse();
    let mut page = Page::new();
    let start = Instant::now();
    let lab = match Lab::new("demo") {
        Ok(lab) => lab,
        Err(error) => {
            page.failure(&format!("{error:#}"));
            return std::process::ExitCode::FAILURE;
        }
    };
    let outcome = demo(&lab, &mut page, &options);
    match outcome {
        Ok(()) => {
            drop(lab);
            page.fact("removed", "every namespace, process, route and file of it");
            page.summary(&format!(
                "Done in {:.0} s, with {} as the switch",
                start.elapsed().as_secs_f32(),
                options.switch
            ));
            println!("\n   Next: README.md, \"On your hosts\"; the files used here are in config/examples/.");
            std::process::ExitCode::SUCCESS
        }
        Err(error) => {
            println!("\n{}", lab.keep());
            page.failure(&format!("{error:#}"));
            std::process::ExitCode::FAILURE
        }
    }
}

fn demo(lab: &Lab, page: &mut Page, options: &Options) -> Result<()> {
    slash32()?;
    println!("slash32: every container a /32 and a /128 of its own in everybody's routing table\n");
    println!("{}", drawing(options.switch));

    let rack = cable(lab, page, options.switch)?;
    let (switch, hosts) = start(page, &rack)?;
    let containers = attach(page, &rack)?;
    reach(page, &containers)?;
    show(page, &switch, &hosts)?;
    police(page, &hosts[0], &containers)?;
    time(page, &rack, &containers)?;
    withdraw(page, &hosts[1], containers)?;
    if options.keep {
        look_around(&rack)?;
    }
    Ok(())
}

fn drawing(switch: Switch) -> String {
    let name = format!("{switch:^10}");
    let ports = if switch == Switch::Gobgp { "one Ethernet segment" } else { "two routed ports" };
    format!(
        "              ┌────────────┐
              │ {name} │ AS 65000, {ports}
              └──┬──────┬──┘
        ┌────────┴──┐ ┌─┴─────────┐
        │ host1     │ │ host2     │
        │ AS 65001  │ │ AS 65002  │
        └─┬───────┬─┘ └─┬───────┬─┘
        web-1   db-1  web-2   job-2"
    )
}

fn cable(lab: &Lab, page: &mut Page, switch: Switch) -> Result<Rack> {
    page.step("Cable a switch and two hosts");
    say("Each is a set of namespaces with its own network, processes, /run and /etc: what runs in it could
         run on a computer of its own.");
    let rack = Rack::new(lab, switch)?;
    let mut rows = vec![row(["", "interface", "addresses"])];
    for machine in [&rack.tor, &rack.hosts[0], &rack.hosts[1]] {
        let shown = machine.run("ip -brief address show scope global")?;
        for line in shown.lines() {
            let mut words = line.split_whitespace();
            let interface = words.next().unwrap_or_default().split('@').next().unwrap_or_default();
            let addresses: Vec<&str> = words.filter(|word| word.contains('/')).collect();
            rows.push(row([machine.name(), interface, &addresses.join(" ")]));
        }
    }
    page.table(&rows);
    Ok(rack)
}

fn start(page: &mut Page, rack: &Rack) -> Result<(Running, [Agent; 2])> {
    page.step(&format!("Start the switch ({}) and the agent on both hosts", rack.switch));
    say(&format!(
        "The switch runs config/examples/{}, a host config/examples/{}:",
        rack.switch.config_file(),
        rack.switch.host_file(1)
    ));
    page.output(&without_comments(&example(&rack.switch.host_file(1))?));
    page.command("host1", "slash32 agent --config /etc/slash32/slash32.toml &");
    let began = Instant::now();
    let (switch, hosts) = rack.start()?;
    page.good(&format!(
        "BGP is up: two sessions for each host, IPv4 and IPv6, {:.1} s after the start of the switch",
        began.elapsed().as_secs_f32()
    ));
    if let Some(router) = switch.router() {
        page.fact("switch", router.version()?);
    }
    page.fact("BGP", "4 sessions established");
    Ok((switch, hosts))
}

fn attach(page: &mut Page, rack: &Rack) -> Result<Vec<Container>> {
    page.step("Attach two containers to each host");
    say(
        "As any CNI runtime does: the plugin gets its orders in the environment and the network on stdin. Labels
         come with the network; they will travel with the routes.",
    );
    page.command(
        "host1",
        "CNI_COMMAND=ADD CNI_CONTAINERID=web-1 CNI_NETNS=/run/netns/web-1 CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin \\",
    );
    page.command("host1", "  /opt/cni/bin/slash32   < 10-slash32.conflist");
    let mut containers = Vec::new();
    let mut rows = vec![row(["container", "host", "labels", "IPv4", "IPv6", "ADD"])];
    for (name, host, role) in CONTAINERS {
        let machine = &rack.hosts[host];
        machine.sandbox(name)?;
        let began = Instant::now();
        let container = machine.attach(name, &network(role)?)?;
        let took = milliseconds(began.elapsed());
        let label = format!("role={role}");
        rows.push(row([name, machine.name(), &label, &container.ipv4()?, &container.ipv6()?, &took]));
        containers.push(container);
    }
    page.table(&rows);
    page.fact("containers", format!("{} attached through the CNI binary", containers.len()));
    Ok(containers)
}

fn reach(page: &mut Page, containers: &[Container]) -> Result<()> {
    page.step("Reach every container from every other");
    say("Round trip of one ping, IPv4 / IPv6, from the row to the column:");
    let mut rows = vec![vec![String::new()]];
    rows[0].extend(containers.iter().map(|to| to.name().to_owned()));
    let mut paths = 0;
    for from in containers {
        let mut cells = vec![from.name().to_owned()];
        for to in containers {
            if from.name() == to.name() {
                cells.push("·".to_owned());
                continue;
            }
            let mut times = Vec::new();
            for address in [to.ipv4()?, to.ipv6()?] {
                // The first packet may be on its way while the route still is.
                let time = eventually(&format!("{} reaches {address}", from.name()), PATIENCE, || {
                    ping(from, &address)
                })?;
                times.push(time);
                paths += 1;
            }
            cells.push(format!("{} ms", times.join(" / ")));
        }
        rows.push(cells);
    }
    page.table(&rows);
    page.good(&format!(
        "{paths} of {paths} paths answer, with no bridge, tunnel or address translation on the way"
    ));
    page.fact("reachability", format!("{paths} of {paths} paths, IPv4 and IPv6"));
    Ok(())
}

fn show(page: &mut Page, switch: &Running, hosts: &[Agent; 2]) -> Result<()> {
    page.step("See what each of them knows");
    for line in ["peers", "endpoints", "routes"] {
        page.command("host1", &format!("slash32 {line}"));
        page.output(&hosts[0].cli(line).run()?);
    }
    say("The kernel's view: one route for each container, 'proto 32' is slash32's mark:");
    page.command("host1", "ip route show proto 32");
    page.output(&hosts[0].machine().run("ip route show proto 32")?);
    let (line, text) = match switch {
        Running::Slash32(agent) => ("slash32 peers".to_owned(), agent.cli("peers").run()?),
        Running::Router(router) => router.show_sessions()?,
    };
    page.command("switch", &line);
    page.output(&text);
    Ok(())
}

fn police(page: &mut Page, host1: &Agent, containers: &[Container]) -> Result<()> {
    let [_, db, web, job] = containers else { bail!("four containers") };
    let (four, six) = (db.ipv4()?, db.ipv6()?);
    page.step("Say who may talk to the database");
    say(
        "A file in the policy folder of host1, effective as soon as it is written. The roles of the containers on
         host2 are known to host1 by the large communities on their routes.",
    );
    page.file("host1", "/etc/slash32/policy.d/db.toml", POLICY);
    let began = Instant::now();
    host1.write_policy("db.toml", POLICY)?;
    // When the first ping left that was not answered.
    let took = eventually("the policy is in force", PATIENCE, || {
        let left = began.elapsed();
        ensure!(ping(job, &four).is_err(), "job-2 still reaches db-1");
        Ok(left)
    })?;

    let mut rows = vec![row(["from", "to", "", "before", "now"])];
    for (from, allowed) in [(web, true), (job, false)] {
        for (family, address) in [("IPv4", &four), ("IPv6", &six)] {
            let answered = ping(from, address).is_ok();
            let now = if answered { "answers" } else { "no answer" };
            rows.push(row([from.name(), db.name(), family, "answers", now]));
            if answered != allowed {
                page.table(&rows);
                bail!("{} to {} by {family}: {now}, and should be the opposite", from.name(), db.name());
            }
        }
    }
    page.table(&rows);
    for (from, verdict) in [(web, "ALLOWED"), (job, "DENIED")] {
        let line = format!("policy explain {} {four} tcp/5432", from.ipv4()?);
        page.command("host1", &format!("slash32 {line}"));
        // The exit code tells the verdict too.
        let output = host1.cli(&line).output()?;
        page.output(&output.stdout);
        ensure!(output.stdout.starts_with(verdict), "{} explained as: {}", from.name(), output.stderr);
    }
    page.good(&format!(
        "web-2 passes, job-2 does not; in force {} after the file was written",
        milliseconds(took)
    ));
    page.fact("policy", "web-2 → db-1 allowed, job-2 → db-1 denied, IPv4 and IPv6");
    Ok(())
}

fn time(page: &mut Page, rack: &Rack, containers: &[Container]) -> Result<()> {
    let web2 = &containers[2];
    page.step("How soon is a new container reachable from the other host?");
    say(&format!(
        "{TIMED} times: CNI ADD of a container on host1 while web-2 on host2 pings its address. The clock starts
         before the plugin does.",
    ));
    let mut watcher = web2.watcher()?;
    let network = network("web")?;
    let (mut adds, mut pings) = (Vec::new(), Vec::new());
    for number in 0..TIMED {
        let name = format!("new-{number}");
        rack.hosts[0].sandbox(&name)?;
        let began = Instant::now();
        let container = rack.hosts[0].attach(&name, &network)?;
        adds.push(began.elapsed());
        watcher.wait(&container.ipv4()?)?;
        pings.push(began.elapsed());
        container.remove()?;
    }
    let mut rows = vec![row(["", "ADD answered", "first ping answered on host2"])];
    for (number, (add, ping)) in adds.iter().zip(&pings).enumerate() {
        rows.push(row([&format!("{}", number + 1), &milliseconds(*add), &milliseconds(*ping)]));
    }
    let (add, ping) = (median(&mut adds), median(&mut pings));
    rows.push(row(["median", &add, &ping]));
    page.table(&rows);
    page.fact(
        "ADD to first ping",
        format!("{ping} from the start of the plugin, {add} of them until ADD answered"),
    );
    Ok(())
}

fn withdraw(page: &mut Page, host2: &Agent, mut containers: Vec<Container>) -> Result<()> {
    page.step("Detach a container");
    let web1 = containers.remove(0);
    let prefix = format!("{}/32", web1.ipv4()?);
    page.command("host1", "CNI_COMMAND=DEL CNI_CONTAINERID=web-1 … /opt/cni/bin/slash32");
    web1.remove()?;
    eventually("host2 has forgotten web-1", PATIENCE, || {
        let table = host2.machine().run("ip route show proto 32")?;
        let address = prefix.trim_end_matches("/32");
        ensure!(!table.split_whitespace().any(|word| word == address), "{table}");
        Ok(())
    })?;
    page.good(&format!("the route to {prefix} is gone from host2"));
    page.fact("DEL", "withdrawn from the other host");
    Ok(())
}

fn look_around(rack: &Rack) -> Result<()> {
    println!("\nEverything stays up until you press Enter. A shell in each, as root:");
    for machine in [&rack.tor, &rack.hosts[0], &rack.hosts[1]] {
        println!("   {:<7} nsenter -t {} -a", machine.name(), machine.host_pid());
    }
    println!("There, slash32 and nsenter --net=/run/netns/web-2 work as on a real host.");
    std::io::stdin().read_line(&mut String::new()).context("wait for Enter").map(drop)
}

fn network(role: &str) -> Result<Network> {
    Ok(Network::slash32()?.label("role", role))
}

/// Pings once; the time in milliseconds as ping prints it.
fn ping(from: &Container, address: &str) -> Result<String> {
    let output = from.command("ping").args(["-n", "-c", "1", "-W", "1", address]).run()?;
    let time = output.split("time=").nth(1).and_then(|rest| rest.split_whitespace().next());
    Ok(time.with_context(|| format!("no time in {output:?}"))?.to_owned())
}

fn without_comments(text: &str) -> String {
    let code = text.lines().map(|line| line.split(" #").next().unwrap_or(line).trim_end());
    let mut code: Vec<&str> = code.filter(|line| !line.starts_with('#')).collect();
    code.dedup();
    code.join("\n").trim().to_owned()
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn milliseconds(span: Duration) -> String {
    format!("{:.1} ms", span.as_secs_f64() * 1000.0)
}

fn median(times: &mut [Duration]) -> String {
    times.sort();
    milliseconds(times[times.len() / 2])
}
