//! An agent that is stopped, or of which a part is: the command line says so, and does not wait.

use std::{
    io::{BufRead, BufReader},
    time::Duration,
};

use anyhow::ensure;
use interop_tests::{Agent, Exit, Lab, steadily};

const AGENT: &str = "[bgp]\nasn = 65001\nrouter_id = '192.0.2.1'\n[[bgp.peer]]\naddress = '192.0.2.0'\nasn = 65000\n\
    [[ipam.pool]]\ncidr = '10.32.0.0/16'\nblock = '10.32.1.0/24'\n";

/// Everything that asks the agent.
const ASKING: &[&str] = &[
    "status",
    "peers",
    "peers 192.0.2.0",
    "bgp peers",
    "bgp rib",
    "bgp explain 10.32.1.1",
    "bgp clear 192.0.2.0",
    "bgp collectors",
    "bgp dump-mrt /tmp/rib.mrt",
    "bfd",
    "routes",
    "routes verify",
    "endpoints",
    "endpoints label web role=db",
    "ipam show",
    "ipam check",
    "ipam release 10.32.1.7",
    "policy show",
    "policy explain 10.32.1.1 10.32.1.2 tcp/80",
    "policy matrix",
    "policy diff /etc/slash32/policy.d",
    "policy trace",
    "reload",
    "drain",
    "doctor",
    "metrics",
    "stop",
    "stop --restart",
];
/// And what does without.
const ALONE: [&str; 4] = ["agent", "cni", "config", "help"];

#[test]
fn no_command_waits_for_an_agent_that_is_stopped() {
    Lab::run("hung", |lab| {
        let host = lab.machine("host")?;
        let agent = Agent::start(&host, AGENT)?;
        let help = agent.cli("help").run()?;
        let commands = help.split("Commands:\n").nth(1).unwrap_or_default().split("\n\n").next();
        for line in commands.unwrap_or_default().lines().filter(|line| !line.starts_with("   ")) {
            let word = line.split_whitespace().next().unwrap_or_default();
            let tried = ASKING.iter().any(|asking| asking.split(' ').next() == Some(word));
            ensure!(tried || ALONE.contains(&word), "`slash32 {word}` is not tried");
        }
        agent.process().pause()?;
        let pid = agent.process().pid();
        // Less than `--timeout`, and more than a busy computer needs.
        let ask = |line: &str| agent.cli(line).limit(Duration::from_secs(25)).output();
        let answers: Vec<_> = std::thread::scope(|scope| {
            let asked = ASKING.iter().map(|line| (line, scope.spawn(move || ask(line)))).collect::<Vec<_>>();
            asked.into_iter().map(|(line, thread)| (line, thread.join())).collect()
        });
        for (line, answer) in answers {
            let answer = answer.expect("the thread does not panic")?;
            let said = &answer.stderr;
            ensure!(answer.exit == Exit::Code(1), "{line}: {}: {said}", answer.exit);
            ensure!(said.contains(&format!("kill -CONT {pid}")), "{line}: {said}");
            ensure!(answer.stdout.is_empty(), "{line}: {}", answer.stdout);
        }
        // Nothing of what was asked meanwhile is done now, least of all `stop`: the answer was that it failed.
        agent.process().resume()?;
        steadily("the agent goes on", Duration::from_secs(1), || agent.process().check())?;
        let status = agent.status()?;
        ensure!(status["ready"] == true, "{status}");
        ensure!(agent.stop()?.success(), "{}", agent.process().log_tail(20));
        // Nobody there is another matter.
        let answer = agent.cli("status").output()?;
        ensure!(
            answer.exit == Exit::Code(1) && answer.stderr.contains("Is it running?"),
            "{}",
            answer.stderr
        );
        Ok(())
    });
}

/// Holds a thread as a debugger does, until its standard input ends.
const HOLD: &str = r#"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
thread = int(sys.argv[1])
for request in (0x4206, 0x4207):  # PTRACE_SEIZE, PTRACE_INTERRUPT
    if libc.ptrace(request, thread, None, None) == -1:
        sys.exit(os.strerror(ctypes.get_errno()))
os.waitpid(thread, 0x40000000)  # __WALL
print("held", flush=True)
sys.stdin.read()
"#;

#[test]
fn no_command_waits_for_a_part_that_hangs() {
    Lab::run("hung-part", |lab| {
        let host = lab.machine("host")?;
        let agent = Agent::start(&host, AGENT)?;
        let pid = agent.process().pid();
        for (part, asking) in [
            ("core", &["status", "endpoints", "ipam show", "policy show", "doctor", "metrics"][..]),
            ("fib", &["status", "routes", "routes verify"]),
        ] {
            let find = format!("grep -lx {part} /proc/{pid}/task/*/comm | cut -d/ -f5");
            let thread = host.command("sh").args(["-c", &find]).run()?.trim().to_owned();
            let hold = host.command("python3").args(["-c", HOLD, &thread]);
            let (holder, stdin, stdout) = hold.spawn_piped("hold")?;
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line)?;
            ensure!(line == "held\n", "{}", holder.log());
            // Less than `--timeout`, and more than a busy computer needs.
            let ask = |line: &str| agent.cli(line).limit(Duration::from_secs(25)).output();
            let answers: Vec<_> = std::thread::scope(|scope| {
                let asked =
                    asking.iter().map(|line| (line, scope.spawn(move || ask(line)))).collect::<Vec<_>>();
                asked.into_iter().map(|(line, thread)| (line, thread.join())).collect()
            });
            for (line, answer) in answers {
                let answer = answer.expect("the thread does not panic")?;
                let said = &answer.stderr;
                ensure!(answer.exit == Exit::Code(1), "{part}, {line}: {}: {said}", answer.exit);
                ensure!(said.contains(&format!("its thread `{part}` ({thread})")), "{part}, {line}: {said}");
            }
            drop(stdin);
            holder.wait(Duration::from_secs(20))?;
            let status = agent.status()?;
            ensure!(status["ready"] == true, "{status}");
        }
        Ok(())
    });
}
