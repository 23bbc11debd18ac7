//! Policy files that are written slowly, in place: nothing opens meanwhile.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use interop_tests::{Agent, Lab, ONE_HOST, PATIENCE, check, eventually, labelled};

use super::{UDP, udp};

const FILE: &str = "/etc/slash32/policy.d/closed.toml";

fn closed(name: &str) -> String {
    format!("[[policy]]\nname = '{name}'\nselect = 'zone == \"closed\"'\ningress = []\n")
}

#[test]
fn a_file_written_slowly_opens_nothing() {
    Lab::run("policy-slow-writer", |lab| {
        let host = lab.machine("host")?;
        let agent = Agent::start(&host, ONE_HOST)?;
        let in_force = |name: &str| {
            eventually(&format!("policy {name} is in force"), PATIENCE, || {
                check(agent.cli("policy show").run()?.contains(name), "it is not")
            })
        };
        agent.write_policy("closed.toml", &closed("first"))?;
        in_force("first")?;
        let victim = host.container("victim", &labelled("zone", "closed")?)?;
        let friend = host.container("friend", &labelled("zone", "open")?)?;
        let to = [victim.ipv4()?, victim.ipv6()?];
        let (mut mouth, mut ears) = (friend.raw(UDP)?, victim.raw(UDP)?);
        let mut number = 0u16;
        let mut stays_closed = || -> Result<()> {
            for to in &to {
                number += 1;
                let [high, low] = number.to_be_bytes();
                let mark = [0xf1, 0x1e, high, low];
                mouth.send(to, &udp(5000, 6000, mark))?;
                ensure!(!ears.hears(&mark, 40)?, "{to} is open");
            }
            Ok(())
        };
        stays_closed()?;
        // Empty first, then a part that is a whole file to a parser, then the rest.
        let script = format!(
            "exec 3>{FILE}; sleep 2; printf '%s\\n' \"$0\" >&3; sleep 3; printf '%s\\n' \"$1\" >&3; sleep 1; exec 3>&-"
        );
        let another = "[[policy]]\nname = 'another'\nselect = 'zone == \"nowhere\"'\ningress = []";
        let writer =
            host.command("bash").args(["-c", &script, another, &closed("second")]).spawn("writer")?;
        while writer.running() {
            stays_closed()?;
        }
        writer.wait(PATIENCE)?;
        eventually("the new file is in force", PATIENCE, || {
            stays_closed()?;
            check(agent.cli("policy show").run()?.contains("second"), "it is not")
        })?;

        // An agent that starts in the middle of it goes on with what was in force.
        let script = format!("exec 3>{FILE}; sleep 4; printf '%s\\n' \"$0\" >&3; exec 3>&-");
        let writer = host.command("bash").args(["-c", &script, &closed("third")]).spawn("writer-2")?;
        eventually("the file is empty", PATIENCE, || check(host.read(FILE)?.is_empty(), "it is not"))?;
        agent.process().kill()?;
        let mut agent = agent;
        agent.start_again()?;
        while writer.running() {
            stays_closed()?;
        }
        eventually("the third file is in force", PATIENCE, || {
            stays_closed()?;
            check(agent.cli("policy show").run()?.contains("third"), "it is not")
        })?;

        // A file that stays empty says so in the end.
        host.write(FILE, "")?;
        for _ in 0..20 {
            stays_closed()?;
            thread::sleep(Duration::from_millis(50));
        }
        eventually("the empty file is believed", PATIENCE, || {
            check(!agent.cli("policy show").run()?.contains("third"), "it is not")
        })?;
        let log = agent.process().log();
        ensure!(log.contains("closed.toml is empty (0 octets)"), "{log}");
        let mark = [0xf1, 0x1e, 0xff, 0xff];
        eventually("the victim is open", PATIENCE, || {
            mouth.send(&to[0], &udp(5000, 6000, mark))?;
            check(ears.hears(&mark, 100)?, "it is not")
        })
    });
}
