//! A machine: one box of the topology, be it a host, a switch or a router.
//!
//! It has its own network, mount, PID and UTS namespaces and its own `/run`, `/etc`, `/opt` and
//! `/var/lib`, so the programs in it run as on a computer of their own, with their usual paths.
//! Process 1 is `lab-tool init`, which starts programs on request. When the test ends, in whatever
//! way, the socket to it closes, it exits, and the kernel ends every process in the machine and
//! frees its mounts, interfaces and namespaces. There is nothing to clean up and nothing to leak.

mod command;
pub(crate) mod init;
mod mounts;
mod process;
mod protocol;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType};

pub use command::{Cmd, Output};
pub use init::serve;
pub use process::Process;
pub use protocol::Exit;
use protocol::{Event, Op, Request};
pub use rustix::process::Signal;

use crate::programs;

/// Setting up takes some 30 ms; this bounds it on a loaded computer.
const BOOT: Duration = Duration::from_secs(30);

/// A handle on a machine. Clones are the same machine, which lives as long as the
/// [`Lab`](crate::Lab) that made it.
#[derive(Clone)]
pub struct Machine {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    host_pid: i32,
    dir: PathBuf,
    sock: OwnedFd,
    state: Mutex<State>,
    changed: Condvar,
    unshare: Mutex<Child>,
}

/// What init has reported so far.
#[derive(Default)]
struct State {
    next_id: u64,
    replies: HashMap<u64, Result<i32, String>>,
    exits: HashMap<i32, Exit>,
    gone: bool,
}

impl Machine {
    /// Starts a machine whose logs go to `dir`, a directory that exists.
    pub(crate) fn boot(name: &str, dir: &Path) -> Result<Self> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .context("socket pair")?;
        let log = fs::File::create(dir.join("init.log")).context("create init.log")?;
        let mut command = std::process::Command::new("unshare");
        command
            .args(["--net", "--mount", "--pid", "--uts", "--fork", "--kill-child=KILL", "--"])
            .arg(programs::lab_tool()?)
            .args(["init", name])
            .args(programs::for_machines()?)
            .env_clear()
            .envs(environment())
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C on the terminal is for the test, not for the machines.
            .process_group(0);
        let unshare = command.spawn().context("start unshare (Debian package util-linux)")?;
        drop(command); // holds their end of the socket

        let machine = Self::meet(name, dir, ours, unshare);
        machine.with_context(|| {
            let log = fs::read_to_string(dir.join("init.log")).unwrap_or_default();
            format!("machine {name} did not start: {}", log.trim())
        })
    }

    /// Waits until init is ready and listens to it from then on.
    fn meet(name: &str, dir: &Path, sock: OwnedFd, unshare: Child) -> Result<Self> {
        let mut inner = Inner {
            name: name.to_owned(),
            host_pid: 0,
            dir: dir.to_owned(),
            sock,
            state: Mutex::default(),
            changed: Condvar::new(),
            unshare: Mutex::new(unshare),
        };
        // Before the reader thread exists, nobody else reads the first packet.
        let ready = wait_readable(&inner.sock, BOOT).and_then(|()| {
            protocol::receive::<Event>(&inner.sock).context("read from init")?.context("init ended")
        })?;
        let Event::Ready { host_pid } = ready.0 else { bail!("init spoke out of turn: {:?}", ready.0) };
        inner.host_pid = host_pid;
        let inner = Arc::new(inner);
        let sock = rustix::io::fcntl_dupfd_cloexec(&inner.sock, 3).context("duplicate the socket")?;
        let reader = Arc::downgrade(&inner);
        std::thread::Builder::new().name(format!("lab-{name}")).spawn(move || {
            loop {
                let event = protocol::receive::<Event>(&sock);
                let Some(inner) = reader.upgrade() else { return };
                let Ok(Some((event, _))) = event else {
                    inner.lock().gone = true;
                    inner.changed.notify_all();
                    return;
                };
                inner.note(event);
            }
        })?;
        Ok(Self { inner })
    }

    /// The name, which is also its host name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The directory of its logs, outside of it.
    pub fn log_dir(&self) -> &Path {
        &self.inner.dir
    }

    /// Pid of its process 1, seen from outside: `nsenter -t PID -a` gives a shell in it.
    pub fn host_pid(&self) -> i32 {
        self.inner.host_pid
    }

    /// A program to run in the machine.
    pub fn command(&self, program: impl AsRef<str>) -> Cmd {
        Cmd::new(self.clone(), program.as_ref())
    }

    /// Runs a command line split at white space; its stdout. For the many `ip …` of a test.
    pub fn run(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("empty command line")?;
        self.command(program).args(words).run()
    }

    /// Makes `dir` (under `/run`, `/etc`, `/opt` or `/var/lib`) the machine's own, empty
    /// unless it is its own already.
    pub fn own(&self, dir: &str) -> Result<()> {
        self.request(Op::Own { dir: dir.to_owned() }, &[]).map(drop)
    }

    /// Writes a file of the machine, in a directory of its own (which it becomes, see
    /// [`own`](Self::own)), in place: the way an editor does.
    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) -> Result<()> {
        let (dir, _) = path.rsplit_once('/').context("a file's path is absolute")?;
        self.own(dir)?;
        fs::write(self.outside(path), text).with_context(|| format!("write {}:{path}", self.name()))
    }

    /// Reads a file as the machine sees it.
    pub fn read(&self, path: &str) -> Result<String> {
        fs::read_to_string(self.outside(path)).with_context(|| format!("read {}:{path}", self.name()))
    }

    /// The path by which a file of the machine can be reached from outside.
    pub fn outside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.inner.host_pid))
    }

    /// Sets a sysctl, named with dots or slashes.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        // Interface names may hold dots; then the caller writes the key with slashes.
        let key = if key.contains('/') { key.to_owned() } else { key.replace('.', "/") };
        let script = format!("echo {value} > /proc/sys/{key}");
        self.command("sh").args(["-c", &script]).run().map(drop)
    }

    /// Takes a link of the machine down: a pulled cable (the other end loses its carrier).
    pub fn link_down(&self, interface: &str) -> Result<()> {
        self.run(&format!("ip link set {interface} down")).map(drop)
    }

    /// Brings a link back up.
    pub fn link_up(&self, interface: &str) -> Result<()> {
        self.run(&format!("ip link set {interface} up")).map(drop)
    }

    fn spawn(
        &self,
        argv: Vec<String>,
        env: Vec<(String, String)>,
        cwd: Option<String>,
        stdio: [BorrowedFd<'_>; 3],
    ) -> Result<i32> {
        self.request(Op::Spawn { argv, env, cwd }, &stdio)
    }

    fn signal(&self, pid: i32, signal: Signal, group: bool) -> Result<()> {
        self.request(Op::Signal { pid, signal: signal.as_raw(), group }, &[]).map(drop)
    }

    fn request(&self, op: Op, fds: &[BorrowedFd<'_>]) -> Result<i32> {
        let id = {
            let mut state = self.inner.lock();
            state.next_id += 1;
            state.next_id
        };
        protocol::send(&self.inner.sock, &Request { id, op }, fds)
            .with_context(|| format!("machine {} is gone", self.name()))?;
        let reply = self.inner.wait(None, |state| state.replies.remove(&id));
        match reply {
            Some(Ok(pid)) => Ok(pid),
            Some(Err(error)) => Err(anyhow!("{}: {error}", self.name())),
            None => bail!("machine {} is gone", self.name()),
        }
    }

    /// Waits for the end of a process, at most for `limit`.
    fn exit(&self, pid: i32, limit: Option<Duration>) -> Option<Exit> {
        self.inner.wait(limit, |state| state.exits.get(&pid).copied())
    }

    /// Ends the machine now and waits until all of it is gone.
    pub(crate) fn halt(&self) {
        rustix::net::shutdown(&self.inner.sock, Shutdown::Both).ok();
        // Init's exit is reported only when every process of its namespace is dead.
        drop(self.inner.unshare.lock().unwrap_or_else(PoisonError::into_inner).wait());
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, event: Event) {
        let mut state = self.lock();
        match event {
            Event::Ready { .. } => {}
            Event::Done { id, pid } => {
                state.exits.remove(&pid); // a pid used again
                state.replies.insert(id, Ok(pid));
            }
            Event::Failed { id, error } => {
                state.replies.insert(id, Err(error));
            }
            Event::Exited { pid, exit } => {
                state.exits.insert(pid, exit);
            }
        }
        self.changed.notify_all();
    }

    /// Waits until `look` finds what it wants; `None` when init is gone or the time is over.
    fn wait<T>(&self, limit: Option<Duration>, mut look: impl FnMut(&mut State) -> Option<T>) -> Option<T> {
        let end = limit.map(|limit| Instant::now() + limit);
        let mut state = self.lock();
        loop {
            if let Some(found) = look(&mut state) {
                return Some(found);
            }
            let left =
                end.map_or(Duration::from_secs(1), |end| end.saturating_duration_since(Instant::now()));
            if state.gone || left.is_zero() {
                return None;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        rustix::net::shutdown(&self.sock, Shutdown::Both).ok();
        drop(self.unshare.lock().unwrap_or_else(PoisonError::into_inner).wait());
    }
}

/// The environment of every program in a machine.
fn environment() -> Vec<(&'static str, OsString)> {
    let mut environment = vec![
        (
            "PATH",
            format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", mounts::BIN).into(),
        ),
        ("HOME", "/root".into()),
        ("LANG", "C.UTF-8".into()),
        ("TERM", "dumb".into()),
    ];
    for name in ["RUST_BACKTRACE", "RUST_LOG", "LLVM_PROFILE_FILE"] {
        if let Some(value) = std::env::var_os(name) {
            environment.push((name, value));
        }
    }
    environment
}

fn wait_readable(sock: &OwnedFd, limit: Duration) -> Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let limit = Timespec::try_from(limit).context("a time limit")?;
    let mut fds = [PollFd::new(sock, PollFlags::IN)];
    match poll(&mut fds, Some(&limit)).context("poll")? {
        0 => bail!("no answer from init"),
        _ => Ok(()),
    }
}
