//! One agent a run directory, and one a network namespace: two would undo each other's routes and rules.
//!
//! The directory is held by a lock on a file. The namespace is held by a listening socket with an abstract name: such names
//! belong to the network namespace, so agents in other namespaces have their own, and the kernel frees both however a
//! process ends. Whoever finds the name taken asks the kernel who listens.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::{
        fd::OwnedFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};

use crate::netlink::sockopt::unix_peer;

/// The socket's abstract name.
const NAME: &str = "slash32-agent";
/// The locked file in the run directory.
pub(super) const LOCK: &str = "agent.lock";
/// One that is ending has so many times this long for it: sessions are ended in good order, which takes a few seconds.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

/// That no other agent has the run directory and the network namespace. The kernel ends it with the process.
#[derive(Debug)]
pub(super) struct Alone {
    _lock: File,
    /// None if somebody else's program has the name.
    name: Option<UnixListener>,
}

/// Another agent.
#[derive(Debug, PartialEq, Eq)]
struct Other {
    pid: Option<u32>,
    run_dir: Option<PathBuf>,
}

/// Makes sure of it; waits a moment for one that is just ending.
pub(super) fn ensure(run_dir: &Path) -> anyhow::Result<Alone> {
    let lock = lock(run_dir, TRIES)?;
    let mut tries = TRIES;
    loop {
        match take_name() {
            Ok(listener) => return Ok(Alone { _lock: lock, name: Some(listener) }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error).context("cannot mark the network namespace as ours"),
        }
        match other() {
            Ok(Some(other)) if tries == 0 => bail!("{}", refusal(&other)),
            Ok(Some(other)) if tries == TRIES => {
                tracing::info!(pid = other.pid, run_dir = ?other.run_dir, "another agent is here; waiting for its end");
            }
            Ok(Some(_)) => {}
            // It has just ended.
            Ok(None) => continue,
            Err(why) => {
                // Anybody may take such a name. It must not keep the agent from starting.
                tracing::warn!(
                    "the socket name @{NAME} is taken, but not by an agent ({why}): going on without"
                );
                return Ok(Alone { _lock: lock, name: None });
            }
        }
        tries -= 1;
        std::thread::sleep(PAUSE);
    }
}

impl Alone {
    /// Answers those who ask, by closing: the kernel has told them all by then. Else its queue would fill up.
    pub(super) fn attend(&mut self) -> io::Result<()> {
        let Some(listener) = self.name.take() else { return Ok(()) };
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        tokio::spawn(async move {
            loop {
                if listener.accept().await.is_err() {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        });
        Ok(())
    }
}

fn take_name() -> io::Result<UnixListener> {
    UnixListener::bind_addr(&SocketAddr::from_abstract_name(NAME)?)
}

/// Who has the name, none if nobody has by now, or why it is no agent.
fn other() -> Result<Option<Other>, String> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
    let socket = socket.map_err(|e| e.to_string())?;
    // A queue that is full does not answer.
    socket.set_nonblocking(true).map_err(|e| e.to_string())?;
    let address = socket2::SockAddr::unix(format!("\0{NAME}")).map_err(|e| e.to_string())?;
    match socket.connect(&address) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(None),
        Err(error) => return Err(error.to_string()),
    }
    let (pid, user) = unix_peer(&OwnedFd::from(socket)).map_err(|e| e.to_string())?;
    if user != 0 && Some(user) != own_user() {
        return Err(format!("process {} of user {user}", pid.unwrap_or(0)));
    }
    Ok(Some(Other { pid, run_dir: pid.and_then(run_dir_of) }))
}

/// Our effective user.
fn own_user() -> Option<u32> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().nth(1)?.parse().ok()
}

/// The run directory of a running agent: where the file is that it has locked.
fn run_dir_of(pid: u32) -> Option<PathBuf> {
    let mut open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
    open.find_map(|entry| {
        let path = fs::read_link(entry.path()).ok()?;
        (path.file_name()? == LOCK).then(|| path.parent().map(Path::to_owned))?
    })
}

fn refusal(other: &Other) -> String {
    let pid =
        other.pid.map_or_else(|| "a process of another PID namespace".to_owned(), |p| format!("process {p}"));
    let (with, stop) = match &other.run_dir {
        Some(dir) => {
            let dir = dir.display();
            (format!(" with the run directory {dir}"), format!("`slash32 --run-dir {dir} stop`"))
        }
        None => (String::new(), "`slash32 stop`".to_owned()),
    };
    format!(
        "another agent runs in this network namespace: {pid}{with}. Two would undo each other's routes and rules; stop it \
         first ({stop})"
    )
}

/// Holds the run directory for this process.
pub(super) fn lock(run_dir: &Path, mut tries: u32) -> anyhow::Result<File> {
    fs::create_dir_all(run_dir)
        .with_context(|| format!("cannot create the run directory {}", run_dir.display()))?;
    let path = run_dir.join(LOCK);
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if tries > 0 => {
                tries -= 1;
                std::thread::sleep(PAUSE);
            }
            Err(TryLockError::WouldBlock) => bail!(
                "another agent already runs with the run directory {}; stop it first. Agents in network namespaces of their own \
                 need run directories of their own (--run-dir)",
                run_dir.display()
            ),
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => return Ok(file),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::ns::testing::private;

    #[test]
    fn one_agent_a_run_directory() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path(), 0).unwrap();
        let error = lock(dir.path(), 0).unwrap_err().to_string();
        assert!(error.contains("another agent already runs"), "{error}");
        drop(held);
        lock(dir.path(), 0).unwrap();
    }

    #[test]
    fn one_agent_a_namespace_and_who_it_is() {
        private(|| {
            assert_eq!(other(), Ok(None));
            let dir = tempfile::tempdir().unwrap();
            let first = ensure(dir.path()).unwrap();
            assert_eq!(take_name().unwrap_err().kind(), io::ErrorKind::AddrInUse);
            let known = other().unwrap().unwrap();
            assert_eq!(known.pid, Some(std::process::id()));
            drop(first);
            assert_eq!(other(), Ok(None));
            ensure(dir.path()).unwrap();
        });
    }
}
