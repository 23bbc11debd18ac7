//! A container with the address of one that is gone has nothing to do with that one's connections.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use interop_tests::{Agent, Lab, ONE_HOST, PATIENCE, check, eventually, labelled};
use serde_json::json;

use super::{UDP, host_and_outside, udp};

const ADDRESSES: [&str; 2] = ["10.32.4.77", "fd00:32:0:4::77"];
const CLOSED: &str = "[[policy]]\nname = 'closed'\nselect = 'zone == \"closed\"'\ningress = []\n";

#[test]
fn connections_of_a_former_owner_are_not_inherited() {
    Lab::run("policy-former", |lab| {
        let host = lab.machine("host")?;
        let agent = Agent::start(&host, ONE_HOST)?;
        agent.write_policy("closed.toml", CLOSED)?;
        eventually("the policy is in force", PATIENCE, || {
            check(agent.cli("policy show").run()?.contains("closed"), "it is not")
        })?;
        let friend = host.container("friend", &labelled("app", "friend")?)?;
        let mut friends = friend.raw(UDP)?;
        let friends_own = [friend.ipv4()?, friend.ipv6()?];
        // At once, and when what is left has been tidied up; the address is used again in both.
        for (round, rest) in [0, 1500].into_iter().enumerate() {
            let network =
                |zone: &str| -> Result<_> { Ok(labelled("zone", zone)?.capability("ips", json!(ADDRESSES))) };
            let mark = |what: u8, family: usize| [what, (2 * round + family) as u8, 0x5c, 0xa7];
            let first = host.container("first", &network("open")?)?;
            {
                let mut own = first.raw(UDP)?;
                for (family, (address, to)) in ADDRESSES.iter().zip(&friends_own).enumerate() {
                    own.send(to, &udp(5000, 6000, mark(1, family)))?;
                    ensure!(friends.hears(&mark(1, family), 10_000)?, "the first does not reach its friend");
                    friends.send(address, &udp(6000, 5000, mark(2, family)))?;
                    ensure!(own.hears(&mark(2, family), 10_000)?, "the answer does not arrive");
                }
            }
            first.remove()?;
            thread::sleep(Duration::from_millis(rest));
            let second = host.container("second", &network("closed")?)?;
            let mut own = second.raw(UDP)?;
            for (family, (address, to)) in ADDRESSES.iter().zip(&friends_own).enumerate() {
                // What would be an answer to the first.
                friends.send(address, &udp(6000, 5000, mark(3, family)))?;
                // Its own connections have answers, which come after what was sent before.
                own.send(to, &udp(5001, 6001, mark(4, family)))?;
                ensure!(friends.hears(&mark(4, family), 10_000)?, "the second does not reach the friend");
                friends.send(address, &udp(6001, 5001, mark(5, family)))?;
                ensure!(own.hears(&mark(5, family), 10_000)?, "its answer does not arrive");
                let inherited = own.hears(&mark(3, family), 0)?;
                ensure!(!inherited, "round {round}: {address} has the connections of who had it before");
            }
            second.remove().context("second")?;
        }
        Ok(())
    });
}

/// What policies let through the host is not let into it because its destination is the host's now.
#[test]
fn a_new_address_of_the_host_is_judged_anew() {
    Lab::run("policy-new-address", |lab| {
        let (host, outside) = host_and_outside(lab)?;
        let _agent = Agent::start(&host, ONE_HOST)?;
        let client = host.container("client", &labelled("app", "client")?)?;
        let (mut mouth, mut there, mut here) = (client.raw(UDP)?, outside.raw(UDP)?, host.raw(UDP)?);
        for (family, (address, pool, via, host_via)) in [
            ("10.99.0.1", "10.32.0.0/16", "192.0.2.2", "192.0.2.1"),
            ("fd00:99::1", "fd00:32::/48", "2001:db8::2", "2001:db8::1"),
        ]
        .into_iter()
        .enumerate()
        {
            let mark = |what: u8, n: u8| [what, family as u8, 0x5d, n];
            let own = if address.contains(':') { client.ipv6()? } else { client.ipv4()? };
            let nodad = if address.contains(':') { " nodad" } else { "" };
            outside.run(&format!("ip addr add {address} dev lo{nodad}"))?;
            outside.run(&format!("ip route add {pool} via {host_via}"))?;
            host.run(&format!("ip route add {address} via {via}"))?;
            eventually("the client reaches the address", PATIENCE, || {
                mouth.send(address, &udp(5000, 6000, mark(1, 0)))?;
                check(there.hears(&mark(1, 0), 500)?, "it does not")
            })?;
            there.forge(address, &own, &udp(6000, 5000, mark(2, 0)))?;
            ensure!(mouth.hears(&mark(2, 0), 10_000)?, "the answer does not arrive");
            host.run(&format!("ip addr add {address} dev lo{nodad}"))?;
            let mut number = 0;
            eventually("the host does not listen to what was another's", PATIENCE, || {
                number += 1;
                mouth.send(address, &udp(5000, 6000, mark(3, number)))?;
                check(!here.hears(&mark(3, number), 200)?, "it does")
            })?;
        }
        Ok(())
    });
}
