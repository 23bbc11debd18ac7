//! A topology: machines, the cables between them, and its end.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::image::remove_cgroups;
use crate::machine::Machine;
use crate::programs;

/// Lines of each log shown when a lab fails; all of it is in the directory that is kept.
const SHOWN: usize = 25;

/// A set of machines. Dropping it ends and removes all of them.
pub struct Lab {
    name: String,
    dir: PathBuf,
    machines: Mutex<Vec<Machine>>,
}

impl Lab {
    /// A new, empty lab. The name need not be unique.
    pub fn new(name: &str) -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            bail!("a lab makes network namespaces: run it as root (sudo -E make test)");
        }
        let parent = programs::target_dir()?.join("lab");
        remove_stale(&parent);
        remove_on_signal();
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let dir = parent.join(format!("{name}-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        directories().push(dir.clone());
        let lab = Self { name: name.to_owned(), dir, machines: Mutex::default() };
        drop(fs::remove_dir_all(lab.kept())); // of an earlier run
        Ok(lab)
    }

    /// Runs a test on a new lab. When it fails, shows the end of each log, keeps the directory
    /// with all of them in `target/lab/NAME.failed` and panics.
    pub fn run(name: &str, test: impl FnOnce(&Self) -> Result<()>) {
        let lab = Self::new(name).unwrap_or_else(|error| panic!("lab {name}: {error:#}"));
        match catch_unwind(AssertUnwindSafe(|| test(&lab))) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let report = lab.keep();
                panic!("lab {name}: {error:#}\n{report}");
            }
            Err(panic) => {
                eprintln!("{}", lab.keep());
                resume_unwind(panic);
            }
        }
    }

    /// Adds a machine. Its name is its host name too.
    pub fn machine(&self, name: &str) -> Result<Machine> {
        let dir = self.dir.join(name);
        fs::create_dir(&dir).with_context(|| format!("{}: a second machine {name}", self.name))?;
        let machine = Machine::boot(name, &dir)?;
        self.lock().push(machine.clone());
        Ok(machine)
    }

    /// Adds a machine that forwards packets.
    pub fn forwarder(&self, name: &str) -> Result<Machine> {
        let machine = self.machine(name)?;
        machine.sysctl("net.ipv4.ip_forward", "1")?;
        machine.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        Ok(machine)
    }

    /// The directory of the lab's logs: one directory a machine.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Keeps the logs under `NAME.failed`; what to show of them.
    pub fn keep(&self) -> String {
        let kept = self.kept();
        let shown = logs(&self.dir);
        drop(fs::remove_dir_all(&kept));
        match fs::rename(&self.dir, &kept) {
            Ok(()) => format!("{shown}all logs: {}", kept.display()),
            Err(error) => format!("{shown}logs could not be kept: {error}"),
        }
    }

    fn kept(&self) -> PathBuf {
        self.dir.with_file_name(format!("{}.failed", self.name))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Machine>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for machine in self.lock().drain(..) {
            machine.halt();
        }
        drop(fs::remove_dir_all(&self.dir));
        let own = std::process::id();
        if directories().len() == 1 {
            remove_cgroups(|pid| pid == own);
        }
        directories().retain(|dir| *dir != self.dir);
    }
}

/// The end of each log below `dir`.
fn logs(dir: &Path) -> String {
    let mut shown = String::new();
    let Ok(entries) = fs::read_dir(dir) else { return shown };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            shown += &logs(&path);
        } else if path.extension().is_some_and(|extension| extension == "log") {
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
            if !text.trim().is_empty() {
                shown.extend(["--- ", &path.to_string_lossy(), "\n", &crate::tail(&text, SHOWN), "\n"]);
            }
        }
    }
    shown
}

/// Removes what a killed process left: `NAME-PID-N` whose PID is no more.
fn remove_stale(parent: &Path) {
    let gone = |pid: u32| !Path::new("/proc").join(pid.to_string()).exists();
    remove_cgroups(gone);
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if owner(&entry.file_name().to_string_lossy()).is_some_and(gone) {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}

/// The process that a lab's directory belongs to; none for one that is kept, whatever its name looks like.
fn owner(directory: &str) -> Option<u32> {
    let mut parts = directory.rsplitn(3, '-');
    let (number, pid) = (parts.next()?, parts.next()?);
    number.parse::<u32>().ok()?;
    pid.parse().ok()
}

/// Directories of this process's labs, for the signal handler.
fn directories() -> std::sync::MutexGuard<'static, Vec<PathBuf>> {
    static DIRECTORIES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
    DIRECTORIES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// On Ctrl-C and the like: remove the directories and die of the signal. The machines end by
/// themselves, with this process.
fn remove_on_signal() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGHUP]) else { return };
        std::thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                for dir in directories().drain(..) {
                    drop(fs::remove_dir_all(dir));
                }
                drop(signal_hook::low_level::emulate_default_handler(signal));
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_belongs_to_no_process() {
        assert_eq!(owner("rack-4711-0"), Some(4711));
        assert_eq!(owner("matrix-flap-100-frr-4711-12"), Some(4711));
        assert_eq!(owner("matrix-flap-100-frr.failed"), None);
        assert_eq!(owner("rack.failed"), None);
    }
}
