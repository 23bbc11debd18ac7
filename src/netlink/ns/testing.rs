//! Private namespaces for tests and benches. They need root, and say so.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use super::{Netns, unshare};
use crate::netlink::{Error, Socket, link, sys};

/// Where `ip netns` keeps its names.
const RUN_NETNS: &str = "/run/netns";

/// Runs a test in a network namespace of its own, with loopback up, on a fresh thread; nothing is left behind.
/// Panics go on in the caller.
///
/// # Panics
/// Without the privilege to create a namespace: a test that cannot run must not pass.
pub fn private<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            enter_fresh().expect("network namespaces need root (CAP_SYS_ADMIN): run the tests as root");
            test()
        });
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn enter_fresh() -> Result<(), Error> {
    unshare()?;
    link::set_up(&mut Socket::route()?, 1)
}

/// A namespace with a name in `/run/netns`, for tests with several hosts or with programs started by
/// `ip netns exec`. Dropping it removes the name; the namespace goes with its last user.
#[derive(Debug)]
pub struct NamedNetns {
    name: String,
    path: PathBuf,
    ns: Netns,
}

impl NamedNetns {
    /// Creates a namespace with loopback up, and a name that starts with `prefix` and is unique on the machine.
    pub fn create(prefix: &str) -> Result<Self, Error> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{prefix}-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(RUN_NETNS).join(&name);
        let open = |source| Error::OpenNetns { path: path.clone(), source };
        fs::create_dir_all(RUN_NETNS).map_err(open)?;
        fs::File::create_new(&path).map_err(open)?;
        let made = thread::scope(|scope| {
            let worker = scope.spawn(|| {
                enter_fresh()?;
                sys::mount_bind(Path::new("/proc/thread-self/ns/net"), &path)
                    .map_err(|e| Error::os("mount(MS_BIND)", e))
            });
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        match made.and_then(|()| Netns::open(&path)) {
            Ok(ns) => Ok(Self { name, path, ns }),
            Err(error) => {
                remove(&path);
                Err(error)
            }
        }
    }

    /// The name, for `ip netns exec`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path, as a container runtime would give it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open namespace.
    pub fn netns(&self) -> &Netns {
        &self.ns
    }

    /// Runs a closure inside.
    ///
    /// # Panics
    /// When the namespace cannot be entered, and with the closure's own panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.ns.run(work).expect("the namespace is open and we could create it, so we may enter it")
    }

    /// Connects two namespaces with a veth pair of the given names, both ends up.
    pub fn connect(&self, name: &str, other: &Self, other_name: &str) -> Result<(), Error> {
        self.run(|| {
            let mut socket = Socket::route()?;
            link::create_veth(&mut socket, name, other_name, Some(other.netns()))?;
            link::set_up(&mut socket, super::ifindex(name)?)
        })?;
        other.run(|| link::set_up(&mut Socket::route()?, super::ifindex(other_name)?))
    }
}

impl Drop for NamedNetns {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    if let Err(error) = sys::umount(path) {
        tracing::debug!(?path, %error, "cannot unmount a test namespace");
    }
    if let Err(error) = fs::remove_file(path) {
        tracing::debug!(?path, %error, "cannot remove a test namespace's name");
    }
}
