//! Released addresses rest, and come back in the order in which they were released.

use anyhow::{Context, Result, ensure};
use interop_tests::{Lab, Network, Rack, Switch, example};

use crate::kit::{refused, tidy};

#[test]
fn released_addresses_rest_and_the_oldest_comes_back_first() {
    Lab::run("rest", |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let config = |rest: u32| -> Result<String> {
            Ok(example(&Switch::Slash32.host_file(1))?.replace("10.32.1.0/24", "10.32.1.0/30").replacen(
                "[[ipam.pool]]",
                &format!("[ipam]\nquarantine_seconds = {rest}\n\n[[ipam.pool]]"),
                1,
            ))
        };
        let _switch = rack.start_switch()?;
        let mut agent = interop_tests::Agent::start(&rack.hosts[0], &config(3600)?)?;
        let host = &rack.hosts[0];
        let network = Network::slash32()?;
        let mut all = Vec::new();
        for name in ["a", "b", "c", "d"] {
            all.push(host.container(name, &network)?);
        }
        host.sandbox("e")?;
        host.sandbox("f")?;
        let full = refused(host.attach("e", &network))?;
        ensure!(full.code == 100 && full.msg.contains("4 in use"), "{full}");
        tidy(&agent, 4)?;
        // The last one first.
        let mut released = Vec::new();
        for _ in 0..2 {
            let container = all.pop().context("there are four")?;
            released.push(container.ipv4()?);
            container.remove()?;
        }
        for killed in [false, true] {
            if killed {
                agent.kill()?;
                agent.start_again()?;
            }
            let resting = refused(host.attach("e", &network))?;
            ensure!(resting.code == 11 && resting.msg.contains("2 resting"), "{resting}");
            tidy(&agent, 2)?;
        }
        agent.reconfigure(&config(0)?)?;
        for (name, address) in ["e", "f"].iter().zip(&released) {
            let container = host.attach(name, &network)?;
            ensure!(container.ipv4()? == *address, "{} instead of {address}", container.ipv4()?);
            all.push(container);
        }
        tidy(&agent, 4)?;
        for container in all {
            container.remove()?;
        }
        tidy(&agent, 0)
    });
}
