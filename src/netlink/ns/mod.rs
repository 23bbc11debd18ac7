//! Network namespaces: open, identify, run code inside.
//!
//! A namespace belongs to a thread, so code that must run inside runs on a thread of its own: [`NsHelper`] keeps
//! one for the agent's life (moving in and out costs microseconds, a thread a hundred), [`Netns::run`] makes one
//! for a single call. A socket stays in the namespace where it was opened, so most callers only fetch a socket.

mod helper;
pub mod testing;

use std::{
    ffi::CString,
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    thread,
};

pub use helper::{NsHelper, Pending};

use super::{Error, sys};

/// What identifies a network namespace while it exists: device and inode of its nsfs file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct NetnsId {
    /// `st_dev`.
    pub dev: u64,
    /// `st_ino`, the number in `net:[4026531840]`.
    pub inode: u64,
}

/// An open network namespace. It lives at least as long as this value.
#[derive(Debug)]
pub struct Netns {
    file: File,
    id: NetnsId,
}

impl Netns {
    /// Opens a namespace by its path (`/run/netns/…`, `/proc/…/ns/net`), and checks that it is one: a runtime may
    /// hand us the path of a namespace that is gone, which is then an empty file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let file = OpenOptions::new()
            .read(true)
            // Never wait on a FIFO, never acquire a terminal. O_CLOEXEC is the default.
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .map_err(|source| Error::OpenNetns { path: path.to_owned(), source })?;
        let not = |what| Error::NotNetns { path: path.to_owned(), what };
        if !sys::is_nsfs(file.as_fd()).map_err(|e| Error::os("fstatfs", e))? {
            let dir = file.metadata().is_ok_and(|m| m.is_dir());
            return Err(not(if dir {
                "a directory"
            } else {
                "an ordinary file: the namespace was deleted or never mounted"
            }));
        }
        if sys::ns_type(file.as_fd()).map_err(|e| Error::os("ioctl(NS_GET_NSTYPE)", e))? != libc::CLONE_NEWNET
        {
            return Err(not("a namespace of another kind"));
        }
        let meta = file.metadata().map_err(|source| Error::OpenNetns { path: path.to_owned(), source })?;
        Ok(Self { id: NetnsId { dev: meta.dev(), inode: meta.ino() }, file })
    }

    /// The calling thread's namespace.
    pub fn current() -> Result<Self, Error> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// The namespace of a process.
    pub fn of_process(pid: u32) -> Result<Self, Error> {
        Self::open(PathBuf::from(format!("/proc/{pid}/ns/net")))
    }

    /// What identifies it.
    pub const fn id(&self) -> NetnsId {
        self.id
    }

    /// Runs a closure inside, on a thread made for it; a panic of the closure goes on in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                self.enter()?;
                Ok(work())
            });
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread into the namespace. For threads that stay there: everything the thread does from
    /// now on happens inside.
    pub fn enter(&self) -> Result<(), Error> {
        sys::setns_net(self.file.as_fd()).map_err(|e| Error::os("setns(CLONE_NEWNET)", e))
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Netns {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Moves the calling thread into a new, empty network namespace whose loopback is still down.
pub fn unshare() -> Result<(), Error> {
    sys::unshare_net().map_err(|e| Error::os("unshare(CLONE_NEWNET)", e))
}

/// The index of an interface in the calling thread's namespace.
pub fn ifindex(name: &str) -> Result<u32, Error> {
    let name = CString::new(name)
        .map_err(|_| Error::Os { call: "if_nametoindex", source: io::ErrorKind::InvalidInput.into() })?;
    sys::if_index(&name).map_err(|e| Error::os("if_nametoindex", e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{Socket, link, sysctl};

    #[test]
    fn only_network_namespaces_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("gone");
        std::fs::write(&file, "").unwrap();
        assert!(Netns::open(&file).unwrap_err().to_string().contains("deleted or never mounted"));
        assert!(matches!(Netns::open("/proc/self/ns/mnt"), Err(Error::NotNetns { .. })));
        assert!(matches!(Netns::open(dir.path().join("none")), Err(Error::OpenNetns { .. })));
        assert!(matches!(Netns::open("/dev/null"), Err(Error::NotNetns { .. })));
        assert_eq!(Netns::current().unwrap().id(), Netns::of_process(std::process::id()).unwrap().id());
    }

    #[test]
    fn the_helper_visits_and_returns() {
        let home = Netns::current().unwrap().id();
        let ns = testing::NamedNetns::create("s32t").unwrap();
        let helper = NsHelper::start().unwrap();
        let inside = helper.run(ns.netns(), || Netns::current().unwrap().id()).unwrap();
        assert_eq!(inside, ns.netns().id());
        assert_ne!(inside, home);
        assert_eq!(Netns::open(ns.path()).unwrap().id(), inside);
        // A panic inside neither kills the helper nor leaves it in the other namespace.
        assert!(matches!(helper.run(ns.netns(), || panic!("expected by the test")), Err(Error::Helper(_))));
        let current = Netns::current().unwrap();
        assert_eq!(helper.run(&current, || Netns::current().unwrap().id()).unwrap(), home);

        let mut socket = helper.route_socket(ns.netns()).unwrap();
        assert_eq!(link::list(&mut socket).unwrap().len(), 1);
        helper.write_sysctl(ns.netns(), "net/ipv4/ip_forward", "1").unwrap();
        assert_eq!(ns.run(|| sysctl::read("net/ipv4/ip_forward").unwrap()), "1");
        assert!(sysctl::write("net/../kernel/hostname", "x").is_err());
    }

    /// What is refused once does not end it for good.
    #[test]
    fn the_helper_survives_what_it_may_not() {
        let ns = testing::NamedNetns::create("s32t").unwrap();
        let home = Netns::current().unwrap().id();
        let inside = |helper: &NsHelper| helper.run(ns.netns(), || Netns::current().unwrap().id());
        let refused = |result: Result<NetnsId, Error>| result.unwrap_err().errno() == Some(libc::EPERM);
        // One that may enter nothing goes on saying so.
        thread::scope(|scope| {
            scope.spawn(|| {
                sys::drop_capabilities().unwrap();
                let helper = NsHelper::start().unwrap();
                assert!(refused(inside(&helper)) && refused(inside(&helper)));
            });
        });
        // One that cannot go home has done its work, and does no more: another takes its place.
        let helper = NsHelper::start().unwrap();
        helper.run(ns.netns(), || sys::drop_capabilities().unwrap()).unwrap();
        // It may be on its way out still: then this is not done, and is told.
        _ = inside(&helper);
        assert_eq!(inside(&helper).unwrap(), ns.netns().id());
        let current = Netns::current().unwrap();
        assert_eq!(helper.run(&current, || Netns::current().unwrap().id()).unwrap(), home);
    }

    #[test]
    fn names_vanish_and_pairs_connect() {
        let a = testing::NamedNetns::create("s32t").unwrap();
        let b = testing::NamedNetns::create("s32t").unwrap();
        a.connect("to-b", &b, "to-a").unwrap();
        let link = a.run(|| link::by_name(&mut Socket::route().unwrap(), "to-b").unwrap());
        assert!(link.is_running());
        assert!(b.run(|| ifindex("to-a")).is_ok());
        let path = a.path().to_owned();
        drop(a);
        assert!(!path.exists());
    }
}
