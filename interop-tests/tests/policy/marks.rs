//! The bits of the connection mark that stamps are in, and what `doctor` and `policy explain` say of those who write
//! over them, or claim to be a container of the host.

use anyhow::{Context, Result, ensure};
use interop_tests::{Agent, Lab, ONE_HOST, PATIENCE, check, eventually, labelled};

use super::{UDP, host_and_outside, udp};

const POLICY: &str = "[[policy]]\nname = 'server'\nselect = 'app == \"server\"'\n\
    ingress = [{ action = 'allow', from = { selector = 'app == \"client\"' } }]\n";

#[test]
fn a_reload_moves_stamps_and_doctor_names_who_writes_over_them() {
    Lab::run("policy-marks", |lab| {
        let (host, outside) = host_and_outside(lab)?;
        let agent = Agent::start(&host, ONE_HOST)?;
        agent.write_policy("server.toml", POLICY)?;
        eventually("the policy is in force", PATIENCE, || {
            check(agent.cli("policy show").run()?.contains("server"), "it is not")
        })?;
        let client = host.container("client", &labelled("app", "client")?)?;
        let server = host.container("server", &labelled("app", "server")?)?;
        let (mut mouth, mut ears) = (client.raw(UDP)?, server.raw(UDP)?);
        let ends = [(client.ipv4()?, server.ipv4()?), (client.ipv6()?, server.ipv6()?)];
        let mut number = 0;
        let mut goes_on = || -> Result<()> {
            for (from, to) in &ends {
                number += 1;
                mouth.send(to, &udp(5000, 6000, [0xa1, 0, 0x3a, number]))?;
                ensure!(ears.hears(&[0xa1, 0, 0x3a, number], 10_000)?, "{from} does not reach {to}");
                ears.send(from, &udp(6000, 5000, [0xa2, 0, 0x3a, number]))?;
                ensure!(mouth.hears(&[0xa2, 0, 0x3a, number], 10_000)?, "{to} does not answer {from}");
            }
            Ok(())
        };
        goes_on()?;
        for mask in ["0x00ffff00", "0xffff0000", "0xffffff00"] {
            agent.reconfigure(&format!("{ONE_HOST}\n[policy]\nct_mark_mask = {mask}\n"))?;
            goes_on()?;
            let rules = host.run("nft list chain inet slash32 forward")?;
            ensure!(rules.contains(mask), "{mask}: {rules}");
        }
        ensure!(
            agent.reconfigure(&format!("{ONE_HOST}\n[policy]\nct_mark_mask = 0xff00\n")).is_err(),
            "eight bits are too few"
        );
        agent.reconfigure(ONE_HOST)?;
        goes_on()?;

        let doctor = || agent.cli("doctor").output().map(|output| output.stdout);
        ensure!(doctor()?.contains("no rule of others writes over ours"), "{}", doctor()?);
        let chain = "chain c { type filter hook forward priority 0; ct mark set 7; }";
        host.command("nft").arg(format!("table inet other {{ {chain}\n}}")).run()?;
        let text = doctor()?;
        ensure!(text.contains("inet other c writes bits 0xffffff00 of the conntrack mark"), "{text}");
        host.run("nft delete table inet other")?;

        // Who claims to be the client, and comes by the uplink.
        let mut forger = outside.raw(UDP)?;
        for (family, (from, to)) in ends.iter().enumerate() {
            let via = ["192.0.2.1", "2001:db8::1"].get(family).context("two families")?;
            outside.run(&format!("ip route add {to} via {via}"))?;
            let before = doctor()?;
            eventually("a forged packet is counted", PATIENCE, || {
                forger.forge(from, to, &udp(5009, 6000, [0xa3, family as u8, 0x3a, 1]))?;
                check(doctor()? != before, "it is not")
            })?;
            ensure!(!ears.hears(&[0xa3, family as u8, 0x3a, 1], 0)?, "{to} hears a forged packet");
            let told = agent.cli(&format!("policy explain {from} {to} udp/6000")).run()?;
            ensure!(told.contains("from elsewhere with this source (forged): denied"), "{told}");
            ensure!(!told.contains(" 0 packets: from_elsewhere"), "{told}");
        }
        ensure!(doctor()?.contains("packets from elsewhere claimed to be of containers"), "{}", doctor()?);
        Ok(())
    });
}
