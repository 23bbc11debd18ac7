//! `config/examples/`: the command line accepts the hosts' files, and a switch's file and those of its hosts agree.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use interop_tests::{example, slash32};

/// A switch's files and the directory of its hosts.
const RACKS: [(&[&str], &str); 11] = [
    (&["slash32/switch.toml"], "rack"),
    (&["bird2/bird.conf"], "rack"),
    (&["frr/frr.conf"], "rack"),
    (&["gobgp/gobgpd.toml"], "gobgp"),
    (&["openbgpd/bgpd.conf"], "openbgpd"),
    (&["exabgp/exabgp.conf"], "exabgp"),
    (&["sonic/frr.conf", "sonic/config_db.json"], "sonic"),
    (&["arista-eos/tor.cfg"], "arista-eos"),
    (&["cisco-nxos/tor.cfg"], "cisco-nxos"),
    (&["juniper/tor.conf"], "juniper"),
    (&["mikrotik/tor.rsc"], "mikrotik"),
];
/// Those that no test runs: here nothing but this test holds both sides together.
const NOT_RUN: [&str; 5] = ["sonic", "arista-eos", "cisco-nxos", "juniper", "mikrotik"];

/// The files of a directory of examples that are slash32's: hosts, and a switch.
fn own_files(directory: &str) -> Result<Vec<String>> {
    let names = ["host1.toml", "host2.toml", "switch.toml"];
    let files = names.iter().map(|name| format!("{directory}/{name}"));
    let files: Vec<String> = files.filter(|file| example(file).is_ok()).collect();
    ensure!(!files.is_empty(), "{directory} has no host");
    Ok(files)
}

#[test]
fn the_command_line_accepts_every_file() -> Result<()> {
    let directories: BTreeSet<&str> = RACKS.iter().map(|(_, hosts)| *hosts).chain(["slash32"]).collect();
    for directory in directories {
        for file in own_files(directory)? {
            let path = interop_tests::example_path(&file);
            let output = Command::new(slash32()?).args(["config", "check"]).arg(&path).output()?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            ensure!(
                output.status.success() && said.contains("is valid"),
                "{file}: {said}{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
    Ok(())
}

#[test]
fn switches_and_hosts_agree() -> Result<()> {
    for (files, hosts) in RACKS {
        let text = files.iter().map(|file| example(file)).collect::<Result<Vec<_>>>()?.join("\n");
        let switch = Switch::new(&text);
        for file in own_files(hosts)?.iter().filter(|file| file.contains("host")) {
            let host = example(file)?;
            agree(&switch, &host, NOT_RUN.contains(&hosts))
                .with_context(|| format!("{files:?} and {file}"))?;
        }
        let says = text.contains("NOT RUN IN TESTS");
        ensure!(says == NOT_RUN.contains(&hosts), "{files:?}: what it says of tests is not so");
        ensure!(!says || text.contains("Confirmed in"), "{files:?} does not say what is confirmed");
    }
    Ok(())
}

/// The words of a switch's files, comments left out.
struct Switch<'a> {
    words: BTreeSet<&'a str>,
    lines: Vec<&'a str>,
}

impl<'a> Switch<'a> {
    fn new(text: &'a str) -> Self {
        let comment = |line: &&str| !line.trim_start().starts_with(['#', '!', '*']);
        let lines: Vec<&str> = text.lines().filter(comment).collect();
        // An address and its length are apart, a range of AS numbers is one word.
        let apart = |c: char| !(c.is_ascii_alphanumeric() || ".:-_".contains(c));
        let words = lines.iter().flat_map(|line| line.split(apart));
        Self { words: words.map(|word| word.trim_end_matches([':', '.'])).collect(), lines }
    }

    fn has(&self, word: &str) -> bool {
        self.words.contains(word)
    }

    /// Whether it takes this AS number of a host's: named, within a range, or any that is not its own.
    fn takes_as(&self, asn: u32) -> bool {
        let within = |word: &&str| {
            let ends = word.split_once('-').map(|(low, high)| (low.parse::<u32>(), high.parse::<u32>()));
            matches!(ends, Some((Ok(low), Ok(high))) if (low..=high).contains(&asn))
        };
        // OpenBGPD has `AS` for its own number, and takes any from a neighbour without `remote-as`.
        let any = self.has("external") || (self.has("AS") && !self.has("remote-as"));
        self.has(&asn.to_string()) || self.words.iter().any(within) || any
    }
}

/// The values of a key of a host's file, in order.
fn values(host: &str, key: &str) -> Vec<String> {
    let lines = host.lines().filter_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix('='));
    let bare = |value: &str| value.split('#').next().unwrap_or_default().trim().trim_matches('"').to_owned();
    lines.map(bare).collect()
}

fn agree(switch: &Switch<'_>, host: &str, alone: bool) -> Result<()> {
    let numbers = values(host, "asn");
    let own: u32 = numbers.first().context("no asn")?.parse()?;
    ensure!(switch.takes_as(own), "the switch does not take AS {own}");
    let theirs = numbers.get(1).context("the switch has no asn")?;
    ensure!(switch.has(theirs), "the switch is not AS {theirs}");
    let hold = values(host, "hold_time").first().context("no hold_time")?.clone();
    ensure!(
        switch.has(&hold) || switch.has(&format!("{hold}s")),
        "the switch has another hold time than {hold} s"
    );
    if !alone {
        return Ok(());
    }
    let addresses = values(host, "address");
    ensure!(addresses.len() == 2, "{addresses:?}");
    for address in addresses {
        // With the length of a port's: a router id and the range that may call look like addresses too.
        let port = ["/31", "/32", "/64"].map(|length| format!("{address}{length}"));
        let has = |line: &&str| port.iter().any(|port| line.contains(port.as_str()));
        ensure!(switch.lines.iter().any(has), "no port of the switch has {address}");
    }
    for pool in values(host, "cidr") {
        ensure!(switch.lines.iter().any(|line| line.contains(&pool)), "no filter of the switch names {pool}");
    }
    let bfd = switch.lines.iter().any(|line| line.contains("300"))
        && switch.words.iter().any(|w| w.contains("bfd"));
    ensure!(bfd == host.contains("interval_ms = 300"), "BFD on one side only");
    Ok(())
}
