//! A container with the address of one that is gone has nothing to do with that one's connections.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use interop_tests::{Agent, Lab, ONE_HOST, PATIENCE, check, eventually, labelled};
use serde_json::json;

const UDP: u8 = 17;
const ADDRESSES: [&str; 2] = ["10.32.4.77", "fd00:32:0:4::77"];
const CLOSED: &str = "[[policy]]\nname = 'closed'\nselect = 'zone == \"closed\"'\ningress = []\n";

fn udp(source: u16, port: u16, mark: [u8; 4]) -> Vec<u8> {
    [[source, port, 12, 0].map(u16::to_be_bytes).concat(), mark.to_vec()].concat()
}

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
