//! Process 1 of a machine: sets up its file systems, starts what the test asks for, reaps, and
//! ends when the test's end of the socket closes. Its end takes every process, mount, interface
//! and namespace of the machine with it, whatever happened to the test.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions};

use super::mounts;
use super::protocol::{self, Event, Exit, Op, Request};

/// Runs as process 1 of new network, mount, PID and UTS namespaces with the socket on stdin,
/// until the other end closes it.
pub fn serve(name: &str, bins: &[PathBuf]) -> Result<()> {
    // The old /proc still shows the pid that the test's side knows us by.
    let host_pid = std::fs::read_link("/proc/self").context("read /proc/self")?;
    let host_pid = host_pid.to_string_lossy().parse().context("pid in /proc/self")?;
    let sock = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3).context("duplicate the control socket")?;
    rustix::system::sethostname(name.as_bytes()).context("set the host name")?;
    mounts::set_up(name, bins)?;
    link_up("lo")?;

    let init = Arc::new(Init { sock, children: Mutex::default(), started: Condvar::new() });
    init.send(&Event::Ready { host_pid }, "ready")?;
    let reaper = Arc::clone(&init);
    std::thread::Builder::new().name("reaper".into()).spawn(move || reaper.reap())?;
    while let Some((request, fds)) = protocol::receive::<Request>(&init.sock).context("receive a request")? {
        init.handle(request, fds)?;
    }
    Ok(())
}

struct Init {
    sock: OwnedFd,
    /// Processes whose end must be reported. Held locked from before a start until after its
    /// answer is sent, so an `Exited` never overtakes the `Done`.
    children: Mutex<HashSet<i32>>,
    started: Condvar,
}

impl Init {
    fn handle(&self, request: Request, fds: Vec<OwnedFd>) -> Result<()> {
        let id = request.id;
        let answer = match request.op {
            Op::Spawn { argv, env, cwd } => {
                let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
                let answer = start(&argv, env, cwd, fds).inspect(|pid| {
                    children.insert(*pid);
                    self.started.notify_all();
                });
                return self.answer(id, answer);
            }
            Op::Own { dir } => mounts::own(Path::new(&dir)).map(|()| 0),
            Op::Signal { pid, signal, group } => kill(pid, signal, group).map(|()| 0),
        };
        self.answer(id, answer)
    }

    fn answer(&self, id: u64, answer: Result<i32>) -> Result<()> {
        let event = match answer {
            Ok(pid) => Event::Done { id, pid },
            Err(error) => Event::Failed { id, error: format!("{error:#}") },
        };
        self.send(&event, "answer")
    }

    fn send(&self, event: &Event, what: &str) -> Result<()> {
        protocol::send(&self.sock, event, &[]).with_context(|| format!("send {what}"))
    }

    /// Reaps every child, also those inherited from daemons that forked away.
    fn reap(&self) {
        loop {
            // Look first, reap under the lock: a start that fails must be able to reap its own.
            let peek = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            if rustix::process::waitid(WaitId::All, peek).is_err() {
                let children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
                let pause = std::time::Duration::from_millis(100);
                drop(self.started.wait_timeout(children, pause));
                continue;
            }
            let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
            while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
                let pid = pid.as_raw_nonzero().get();
                if !children.remove(&pid) {
                    continue;
                }
                let exit = match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => Exit::Code(code),
                    (None, Some(signal)) => Exit::Signal(signal),
                    (None, None) => continue,
                };
                if self.send(&Event::Exited { pid, exit }, "exit").is_err() {
                    std::process::exit(0); // the test is gone
                }
            }
        }
    }
}

fn start(argv: &[String], env: Vec<(String, String)>, cwd: Option<String>, fds: Vec<OwnedFd>) -> Result<i32> {
    let Ok([stdin, stdout, stderr]) = <[OwnedFd; 3]>::try_from(fds) else {
        bail!("a start needs three descriptors");
    };
    let Some((program, args)) = argv.split_first() else { bail!("empty command") };
    let child = Command::new(resolve(program)?)
        .arg0(program)
        .args(args)
        .envs(env)
        .current_dir(cwd.as_deref().unwrap_or("/"))
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(stdout))
        .stderr(Stdio::from(stderr))
        .process_group(0)
        .spawn()
        .with_context(|| format!("start {program}"))?;
    Ok(child.id() as i32)
}

/// Looks the program up in `PATH`, so that a missing one is one clear line.
fn resolve(program: &str) -> Result<PathBuf> {
    if program.contains('/') {
        return Ok(PathBuf::from(program));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| Path::new(file).is_file())
        .with_context(|| format!("{program}: not installed (looked in {})", path.to_string_lossy()))
}

fn kill(pid: i32, signal: i32, group: bool) -> Result<()> {
    let target = Pid::from_raw(pid).context("pid 0")?;
    let signal = Signal::from_named_raw(signal).context("unknown signal")?;
    let done = if group {
        rustix::process::kill_process_group(target, signal)
    } else {
        rustix::process::kill_process(target, signal)
    };
    done.with_context(|| format!("signal {signal:?} to {pid}"))
}

fn link_up(name: &str) -> Result<()> {
    let status = Command::new("ip").args(["link", "set", name, "up"]).stdin(Stdio::null()).status();
    let status = status.context("start ip (Debian package iproute2)")?;
    if !status.success() {
        bail!("ip link set {name} up: {status}");
    }
    Ok(())
}
