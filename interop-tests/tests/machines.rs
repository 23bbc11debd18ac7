//! The lab itself: machines, cables, processes, routers that are not ours.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use interop_tests::{Exit, Lab, Machine, PATIENCE, Router, Signal, check, eventually, steadily};

#[test]
fn a_cable_joins_two_machines() {
    Lab::run("cable", |lab| {
        let left = lab.machine("left")?;
        let right = lab.machine("right")?;
        lab.link(
            left.port("eth0").address("192.0.2.0/31").address("2001:db8::1/64").mtu(9000),
            right.port("eth0").address("192.0.2.1/31").address("2001:db8::2/64").mtu(9000),
        )?;
        left.ping("192.0.2.1")?;
        left.ping("2001:db8::2")?;
        right.link_down("eth0")?;
        ensure!(left.ping("192.0.2.1").is_err(), "the cable is cut, and still carries");
        right.link_up("eth0")?;
        eventually("the cable carries again", PATIENCE, || left.ping("192.0.2.1"))
    });
}

#[test]
fn a_machine_has_its_own_files_and_name() {
    Lab::run("files", |lab| {
        let one = lab.machine("one")?;
        let two = lab.machine("two")?;
        one.write("/etc/slash32/slash32.toml", "text")?;
        ensure!(one.read("/etc/slash32/slash32.toml")? == "text");
        ensure!(two.read("/etc/slash32/slash32.toml").is_err(), "machines share files");
        ensure!(one.run("cat /etc/slash32/slash32.toml")? == "text");
        ensure!(one.run("hostname")?.trim() == "one");
        ensure!(one.own("/usr/lib").is_err(), "a directory of the computer was given away");
        ensure!(one.own("/etc/../usr/lib").is_err(), "a directory of the computer was given away");
        // What it did not make is the computer's, and read-only.
        ensure!(one.read("/etc/passwd").is_err() && one.run("cat /etc/passwd")?.contains("root:"));
        ensure!(
            one.command("sh").args(["-c", "echo x >> /etc/passwd"]).run().is_err(),
            "wrote a file of the computer"
        );
        ensure!(one.run("ls /sys/class/net")?.trim() == "lo");
        Ok(())
    });
}

#[test]
fn processes_are_killed_paused_and_reaped() {
    Lab::run("processes", |lab| {
        let machine = lab.machine("box")?;
        let sleeper = machine.command("sleep").arg("1000").spawn("sleep")?;
        ensure!(sleeper.running());
        sleeper.kill()?;
        ensure!(sleeper.exit() == Some(Exit::Signal(Signal::KILL.as_raw())));
        ensure!(sleeper.check().is_err());

        let failing = machine.command("sh").args(["-c", "echo out; echo err >&2; exit 3"]);
        let output = failing.output()?;
        ensure!(output.exit == Exit::Code(3) && output.stdout == "out\n" && output.stderr == "err\n");
        ensure!(machine.command("cat").stdin("given").run()? == "given");
        ensure!(machine.run("no-such-program").is_err());
        let slow = machine.command("sleep").arg("100").limit(Duration::from_millis(50)).run();
        ensure!(slow.is_err_and(|error| error.to_string().contains("more than 50ms")));

        let ticker =
            machine.command("sh").args(["-c", "while :; do echo tick; sleep 0.01; done"]).spawn("ticker")?;
        eventually("it ticks", PATIENCE, || check(!ticker.log().is_empty(), "no tick"))?;
        ticker.pause()?;
        let length = ticker.log().len();
        steadily("no tick while paused", Duration::from_millis(300), || {
            // The shell's last `echo` may have been on its way.
            check(ticker.log().len() <= length + 5, "it ticks")
        })?;
        ticker.resume()?;
        eventually("it ticks again", PATIENCE, || check(ticker.log().len() > length + 10, "no tick"))
    });
}

#[test]
fn the_end_of_a_lab_is_the_end_of_everything_in_it() {
    let lab = Lab::new("end").unwrap();
    let machine = lab.machine("box").unwrap();
    let marker = format!("{}.5", 7_000_000 + std::process::id());
    // A daemon that left its group and session.
    let daemon = format!("setsid sleep {marker} & exec sleep {marker}");
    let process = machine.command("sh").args(["-c", &daemon]).spawn("sleep").unwrap();
    eventually("both sleep", PATIENCE, || check(sleeping(&marker) == 2, sleeping(&marker))).unwrap();
    let dir = lab.dir().to_owned();
    drop(lab);
    assert_eq!(sleeping(&marker), 0);
    assert!(!dir.exists());
    assert!(machine.run("true").is_err());
    drop(process);
}

#[test]
fn a_killed_test_leaves_nothing() {
    for (signal, left) in [(Signal::KILL, true), (Signal::INT, false), (Signal::TERM, false)] {
        let marker = format!("{}.{}", 8_000_000 + std::process::id(), signal.as_raw());
        let mut child = Command::new(env!("CARGO_BIN_EXE_lab-tool"))
            .args(["hold", &marker])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("lab-tool was built with this test");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let dir = Path::new(line.trim());
        assert!(dir.is_dir(), "{line}");
        eventually("it sleeps", PATIENCE, || check(sleeping(&marker) == 1, sleeping(&marker))).unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, signal).expect("it runs");
        child.wait().expect("it was started");
        eventually("its processes are gone", PATIENCE, || check(sleeping(&marker) == 0, sleeping(&marker)))
            .unwrap();
        // Nobody is left to remove the logs after SIGKILL; the next lab does.
        assert_eq!(dir.exists(), left, "{signal:?}");
        drop(Lab::new("next").unwrap());
        assert!(!dir.exists());
    }
}

fn sleeping(marker: &str) -> usize {
    let processes = std::fs::read_dir("/proc").expect("/proc is mounted").flatten();
    processes
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok())
        .filter(|line| line.starts_with("sleep\0") && line.contains(marker))
        .count()
}

#[test]
fn captures_hold_what_passed() {
    Lab::run("capture", |lab| {
        let (left, right) = pair(lab)?;
        let capture = left.capture("eth0", "icmp")?;
        left.ping("192.0.2.1")?;
        drop(right);
        eventually("the echo request is in the file", PATIENCE, || {
            let file = left.log_dir().join("eth0.pcap");
            let shown = left.command("tcpdump").args(["-n", "-r"]).arg(file.display()).run()?;
            check(shown.contains("echo request"), shown)
        })?;
        capture.stop()
    });
}

#[test]
fn bird_and_gobgp_exchange_routes() {
    Lab::run("bird-gobgp", |lab| {
        let (left, right) = pair(lab)?;
        let bird = Router::bird(
            &left,
            "router id 192.0.2.0;
             protocol device { }
             protocol static { ipv4; route 10.1.0.0/24 blackhole; }
             protocol bgp right {
               local as 65001; neighbor 192.0.2.1 as 65002; passive; ipv4 { import all; export all; };
             }",
        )?;
        let gobgp = Router::gobgp(
            &right,
            "[global.config]\nas = 65002\nrouter-id = '192.0.2.1'\n
             [[neighbors]]\n[neighbors.config]\nneighbor-address = '192.0.2.0'\npeer-as = 65001\n
             [neighbors.timers.config]\nconnect-retry = 1\n",
        )?;
        bird.wait_established(1)?;
        gobgp.wait_established(1)?;
        right.run("gobgp global rib add 10.2.0.0/24")?;
        bird.wait_prefix("10.2.0.0/24")?;
        gobgp.wait_prefix("10.1.0.0/24")?;
        right.run("gobgp global rib del 10.2.0.0/24")?;
        bird.wait_no_prefix("10.2.0.0/24")
    });
}

#[test]
fn frr_and_bird_exchange_routes() {
    Lab::run("frr-bird", |lab| {
        let (left, right) = pair(lab)?;
        let frr = Router::frr(
            &left,
            "router bgp 65001
              bgp router-id 192.0.2.0
              no bgp ebgp-requires-policy
              no bgp network import-check
              neighbor 192.0.2.1 remote-as 65002
              neighbor 192.0.2.1 timers connect 1
              address-family ipv4 unicast
               network 10.1.0.0/24
              exit-address-family",
        )?;
        let bird = Router::bird(
            &right,
            "router id 192.0.2.1;
             protocol device { }
             protocol static { ipv4; route 10.2.0.0/24 blackhole; }
             protocol bgp left { local as 65002; neighbor 192.0.2.0 as 65001; ipv4 { import all; export all; }; }",
        )?;
        frr.wait_established(1)?;
        bird.wait_prefix("10.1.0.0/24")?;
        frr.wait_prefix("10.2.0.0/24")
    });
}

fn pair(lab: &Lab) -> Result<(Machine, Machine)> {
    let left = lab.machine("left")?;
    let right = lab.machine("right")?;
    lab.link(left.port("eth0").address("192.0.2.0/31"), right.port("eth0").address("192.0.2.1/31"))?;
    Ok((left, right))
}
