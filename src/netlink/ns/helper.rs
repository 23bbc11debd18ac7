//! A long-lived thread that visits namespaces for others.

use std::{
    io,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc,
    thread,
};

use super::Netns;
use crate::netlink::{Error, Protocol, Socket};

type Job = Box<dyn FnOnce(&Netns) -> bool + Send>;

/// A thread that enters a namespace, does what it is asked, and returns. One job at a time, in order.
///
/// Dropping the last handle ends the thread.
#[derive(Clone, Debug)]
pub struct NsHelper {
    jobs: mpsc::Sender<Job>,
}

/// The result of a job that has been begun.
#[derive(Debug)]
pub struct Pending<T>(mpsc::Receiver<Result<T, Error>>);

impl<T> Pending<T> {
    /// Waits for it.
    pub fn wait(self) -> Result<T, Error> {
        self.0.recv().map_err(|_| Error::Helper("it has stopped"))?
    }
}

impl NsHelper {
    /// Starts the thread in the caller's namespace.
    pub fn start() -> Result<Self, Error> {
        let home = Netns::current()?;
        let (jobs, queue) = mpsc::channel::<Job>();
        thread::Builder::new()
            .name("netns".into())
            .spawn(move || {
                for job in queue {
                    // A thread that cannot go home would do the next job in the wrong namespace: stop instead.
                    if !job(&home) {
                        tracing::error!("the namespace helper cannot return to its own namespace and stops");
                        return;
                    }
                }
            })
            .map_err(|e| Error::os("spawn thread", e))?;
        Ok(Self { jobs })
    }

    /// Runs a closure inside the namespace and waits for its result.
    pub fn run<T: Send + 'static>(
        &self,
        ns: &Netns,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        self.begin(ns, work)?.wait()
    }

    /// Has a closure run inside the namespace; the caller may do other things until it needs the result.
    pub fn begin<T: Send + 'static>(
        &self,
        ns: &Netns,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Pending<T>, Error> {
        use std::os::fd::AsFd;
        let (answer, result) = mpsc::sync_channel(1);
        // A duplicate, so that the job can outlive the caller's wait.
        let fd: OwnedFd = ns.as_fd().try_clone_to_owned().map_err(|e| Error::os("dup", e))?;
        let ns = Netns { file: fd.into(), id: ns.id };
        let job: Job = Box::new(move |home| {
            let outcome = ns.enter().and_then(|()| {
                catch_unwind(AssertUnwindSafe(work)).map_err(|_| Error::Helper("the work panicked"))
            });
            let returned = home.enter().is_ok();
            // The caller may not want the result any more.
            let _ = answer.send(outcome);
            returned
        });
        self.jobs.send(job).map_err(|_| Error::Helper("it has stopped"))?;
        Ok(Pending(result))
    }

    /// Opens a netlink socket inside the namespace.
    pub fn socket(&self, ns: &Netns, protocol: Protocol) -> Result<Socket, Error> {
        self.run(ns, move || Socket::open(protocol))?
    }

    /// Opens a routing socket inside the namespace.
    pub fn route_socket(&self, ns: &Netns) -> Result<Socket, Error> {
        self.socket(ns, Protocol::Route)
    }

    /// Opens a netfilter socket inside the namespace.
    pub fn netfilter_socket(&self, ns: &Netns) -> Result<Socket, Error> {
        self.socket(ns, Protocol::Netfilter)
    }

    /// Writes a sysctl of the namespace, by its path below `/proc/sys/`, for example `net/ipv4/ip_forward`.
    pub fn write_sysctl(&self, ns: &Netns, path: &str, value: &str) -> Result<(), Error> {
        let (path, value) = (path.to_owned(), value.to_owned());
        self.run(ns, move || crate::netlink::sysctl::write(&path, &value))?
    }

    /// Runs a fallible I/O closure inside the namespace.
    pub fn run_io<T: Send + 'static>(
        &self,
        ns: &Netns,
        call: &'static str,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        self.run(ns, work)?.map_err(|e| Error::os(call, e))
    }
}
