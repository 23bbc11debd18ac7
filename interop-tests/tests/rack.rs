//! The rack with slash32 as the switch: containers come, talk, move on; agents die; policies change.

use std::time::Duration;

use anyhow::{Result, ensure};
use interop_tests::{
    Agent, Lab, PATIENCE, Rack, Switch, check, eventually, forgotten, labelled, reach, reach_each_other,
    steadily, unreachable,
};

#[test]
fn containers_of_two_hosts_reach_each_other_and_go() {
    Lab::run("rack-reach", |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let (switch, [host1, host2]) = rack.start()?;
        let web = rack.hosts[0].container("web", &labelled("role", "web")?)?;
        let db = rack.hosts[1].container("db", &labelled("role", "db")?)?;
        let near = rack.hosts[1].container("near", &labelled("role", "near")?)?;
        ensure!(web.ipv4()?.starts_with("10.32.1."), "{}", web.result());
        ensure!(web.ipv6()?.starts_with("fd00:32:0:1:"), "{}", web.result());
        reach_each_other(&[&web, &db, &near])?;
        // The host's own programs reach its containers, and so does the other host's container them.
        rack.hosts[0].ping(&web.ipv4()?)?;
        rack.hosts[0].ping(&web.ipv6()?)?;

        let endpoints = host1.endpoints()?;
        ensure!(endpoints.len() == 1 && endpoints[0].container_id == "web", "{endpoints:?}");
        let prefix = format!("{}/32", web.ipv4()?);
        let routes = host2.routes()?;
        ensure!(routes.iter().any(|route| route.prefix == prefix && route.installed), "{routes:?}");

        let (four, six) = (web.ipv4()?, web.ipv6()?);
        web.check()?;
        web.remove()?;
        forgotten(&host2, &[&four, &six])?;
        forgotten(switch.agent().expect("slash32 is the switch"), &[&four, &six])?;
        ensure!(host1.endpoints()?.is_empty(), "{:?}", host1.endpoints()?);
        eventually("the host end is gone", PATIENCE, || {
            let links = rack.hosts[0].run("ip -brief link show")?;
            check(!links.contains("s32"), links)
        })?;
        reach(&db, &near)?;
        // Nobody meddled, and nothing was asked of the kernel that it refuses.
        for host in [&host1, &host2] {
            let page = host.cli("metrics").run()?;
            for counter in ["repaired", "kernel_errors", "overruns"] {
                let line = format!("slash32_routes_{counter}_total 0\n");
                ensure!(page.contains(&line), "{counter}: {}\n{page}", host.process().log_tail(20));
            }
        }
        Ok(())
    });
}

#[test]
fn deleting_twice_and_adding_again_is_fine() {
    Lab::run("rack-again", |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let (_switch, _hosts) = rack.start()?;
        let mut web = rack.hosts[0].container("web", &labelled("role", "web")?)?;
        let db = rack.hosts[1].container("db", &labelled("role", "db")?)?;
        reach(&db, &web)?;
        web.detach()?;
        web.detach()?;
        // The host end goes down at once, and is deleted in the background.
        ensure!(web.ping(&db.ipv4()?).is_err(), "a detached container still sends");
        web.add()?;
        reach_each_other(&[&web, &db])
    });
}

#[test]
fn a_killed_agent_loses_no_packet_and_takes_up_where_it_was() {
    Lab::run("rack-kill", |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let (_switch, [mut host1, host2]) = rack.start()?;
        let web = rack.hosts[0].container("web", &labelled("role", "web")?)?;
        let db = rack.hosts[1].container("db", &labelled("role", "db")?)?;
        reach_each_other(&[&web, &db])?;
        let _echo = db.echo()?;
        let four = web.probe(&db.ipv4()?, 500)?;
        let six = web.probe(&db.ipv6()?, 500)?;
        host1.kill()?;
        std::thread::sleep(Duration::from_millis(500));
        host1.start_again()?;
        host1.wait_established(2)?;
        std::thread::sleep(Duration::from_secs(1));
        for probe in [four, six] {
            let report = probe.stop()?;
            ensure!(report.sent > 500 && report.lost() == 0, "{report:?}");
        }

        // It knows what it had, and takes orders for it.
        let endpoints = host1.endpoints()?;
        ensure!(endpoints.len() == 1 && endpoints[0].container_id == "web", "{endpoints:?}");
        let new = rack.hosts[0].container("new", &labelled("role", "web")?)?;
        ensure!(new.ipv4()? != web.ipv4()?, "an address was given twice: {}", new.ipv4()?);
        reach_each_other(&[&new, &db])?;
        let address = web.ipv4()?;
        web.remove()?;
        forgotten(&host2, &[&address])
    });
}

#[test]
fn an_agent_that_ends_lets_the_kernel_go_on() {
    Lab::run("rack-stop", |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let (_switch, [mut host1, _host2]) = rack.start()?;
        let web = rack.hosts[0].container("web", &labelled("role", "web")?)?;
        let near = rack.hosts[0].container("near", &labelled("role", "web")?)?;
        reach_each_other(&[&web, &near])?;
        let exit = host1.stop()?;
        ensure!(exit.success(), "{exit}");
        reach_each_other(&[&web, &near])?;
        // Without the agent there is no ADD, and DEL is honoured later.
        rack.hosts[0].sandbox("late")?;
        let error = rack.hosts[0].attach("late", &labelled("role", "web")?).err();
        ensure!(error.as_ref().is_some_and(|error| error.to_string().contains("error 11")), "{error:?}");
        near.remove()?;
        host1.start_again()?;
        eventually("the tombstone is honoured", PATIENCE, || {
            let endpoints = host1.endpoints()?;
            check(endpoints.len() == 1 && endpoints[0].container_id == "web", format!("{endpoints:?}"))
        })
    });
}

#[test]
fn policies_cut_what_they_deny_and_nothing_else() {
    Lab::run("rack-policy", |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let (_switch, [host1, _host2]) = rack.start()?;
        let db = rack.hosts[0].container("db", &labelled("role", "db")?)?;
        let web = rack.hosts[1].container("web", &labelled("role", "web")?)?;
        let job = rack.hosts[1].container("job", &labelled("role", "job")?)?;
        let near = rack.hosts[0].container("near", &labelled("role", "job")?)?;
        reach_each_other(&[&db, &web, &job, &near])?;
        let _echo = db.echo()?;
        let flows = [web.flow(&db.ipv4()?, 7)?, web.flow(&db.ipv6()?, 7)?];

        host1.write_policy(
            "db.toml",
            "[[policy]]\nname = 'db'\nselect = 'role == \"db\"'\n\
             ingress = [ { action = 'allow', from = { selector = 'role == \"web\"' }, protocol = 'tcp', ports = [7] } ]\n",
        )?;
        for from in [&job, &near] {
            unreachable(from, &db)?;
            ensure!(from.connect(&db.ipv4()?, 7).is_err(), "{} connects", from.name());
            ensure!(from.connect(&db.ipv6()?, 7).is_err(), "{} connects", from.name());
        }
        for address in [db.ipv4()?, db.ipv6()?] {
            web.connect(&address, 7)?;
            web.no_ping(&address)?; // TCP port 7 was allowed, not ICMP
            job.no_ping(&address)?;
        }
        // Ingress only: what the database begins is answered.
        reach(&db, &job)?;
        reach(&job, &web)?;
        // A connection that is still allowed has not noticed; one more policy does not disturb it either.
        host1.write_policy(
            "other.toml",
            "[[policy]]\nname = 'other'\nselect = 'role == \"none\"'\ningress = []\n",
        )?;
        std::thread::sleep(Duration::from_millis(500));
        for flow in flows {
            let report = flow.stop()?;
            ensure!(report.error.is_none() && report.echoed > 50, "{report:?}");
        }

        host1.remove_policy("db.toml")?;
        eventually("job reaches db again", PATIENCE, || job.ping(&db.ipv4()?))?;
        reach(&job, &db)
    });
}

#[test]
fn a_connection_that_is_no_longer_allowed_is_cut() {
    Lab::run("rack-revoke", |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let (_switch, [host1, _host2]) = rack.start()?;
        let db = rack.hosts[0].container("db", &labelled("role", "db")?)?;
        let job = rack.hosts[1].container("job", &labelled("role", "job")?)?;
        let _echo = db.echo()?;
        eventually("job reaches db", PATIENCE, || job.ping(&db.ipv4()?))?;
        let flow = job.flow(&db.ipv4()?, 7)?;
        host1
            .write_policy("db.toml", "[[policy]]\nname = 'db'\nselect = 'role == \"db\"'\ningress = []\n")?;
        unreachable(&job, &db)?;
        std::thread::sleep(Duration::from_secs(6)); // longer than the flow waits for an echo
        let report = flow.stop()?;
        ensure!(report.error.is_some(), "the connection lives on: {report:?}");
        Ok(())
    });
}

#[test]
fn a_broken_policy_file_keeps_the_last_good_state() {
    Lab::run("rack-broken", |lab| {
        let host = lab.machine("host")?;
        let agent = alone(&host)?;
        let db = host.container("db", &labelled("role", "db")?)?;
        let web = host.container("web", &labelled("role", "web")?)?;
        agent
            .write_policy("db.toml", "[[policy]]\nname = 'db'\nselect = 'role == \"db\"'\ningress = []\n")?;
        unreachable(&web, &db)?;
        agent.write_policy("db.toml", "[[policy]]\nname = 'db'\nselekt = 'role == \"db\"'\n")?;
        eventually("status tells of the error", PATIENCE, || {
            let status = agent.status()?.to_string();
            check(status.contains("selekt"), status)
        })?;
        steadily("the old policy holds", Duration::from_secs(1), || web.no_ping(&db.ipv4()?))
    });
}

#[test]
fn a_dead_switch_takes_its_routes_along() {
    Lab::run("rack-dead", |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let (switch, [host1, _host2]) = rack.start()?;
        let db = rack.hosts[1].container("db", &labelled("role", "db")?)?;
        let prefix = format!("{}/32", db.ipv4()?);
        let known = || {
            let routes = host1.routes()?;
            anyhow::Ok(routes.iter().any(|route| route.prefix == prefix && route.installed))
        };
        eventually("host1 has the route", PATIENCE, || check(known()?, "no route"))?;
        // The cable is pulled: the session ends and so do its routes.
        rack.hosts[0].link_down("eth0")?;
        eventually("host1 loses the route", PATIENCE, || check(!known()?, "still there"))?;
        rack.hosts[0].link_up("eth0")?;
        eventually("host1 has the route again", PATIENCE, || check(known()?, "no route"))?;
        drop(switch);
        Ok(())
    });
}

/// An agent with pools and no BGP.
fn alone(machine: &interop_tests::Machine) -> Result<Agent> {
    Agent::start(
        machine,
        "[[ipam.pool]]\ncidr = '10.32.0.0/16'\nblock = '10.32.1.0/24'\n\
         [[ipam.pool]]\ncidr = 'fd00:32::/48'\nblock = 'fd00:32:0:1::/64'\n",
    )
}
