//! A long-lived thread that visits namespaces for others.

use std::{
    io,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use super::Netns;
use crate::netlink::{Error, Protocol, Socket};

type Job = Box<dyn FnOnce(&Netns) -> bool + Send>;

/// A thread that enters a namespace, does what it is asked, and returns. One job at a time, in order.
///
/// Dropping the last handle ends the thread. One that cannot return to its own namespace ends too, as it would do the
/// next job in the wrong one; the next job gets another thread.
#[derive(Clone, Debug)]
pub struct NsHelper {
    jobs: Arc<Mutex<mpsc::Sender<Job>>>,
    home: Arc<Netns>,
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
        let home = Arc::new(Netns::current()?);
        Ok(Self { jobs: Arc::new(Mutex::new(start(&home)?)), home })
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
            let entered = ns.enter();
            // Who has not left need not return.
            let left = entered.is_ok();
            let outcome = entered.and_then(|()| {
                catch_unwind(AssertUnwindSafe(work)).map_err(|_| Error::Helper("the work panicked"))
            });
            let returned = if left { home.enter() } else { Ok(()) };
            if let Err(error) = &returned {
                tracing::error!(%error, "the namespace helper cannot return to its own namespace: it is replaced");
            }
            // The caller may not want the result any more.
            let _ = answer.send(outcome);
            returned.is_ok()
        });
        self.queue(job)?;
        Ok(Pending(result))
    }

    /// Gives a job to the thread, or to a new one if that has ended.
    fn queue(&self, job: Job) -> Result<(), Error> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let Err(mpsc::SendError(job)) = jobs.send(job) else { return Ok(()) };
        *jobs = start(&self.home)?;
        jobs.send(job).map_err(|_| Error::Helper("it has stopped"))
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

fn start(home: &Arc<Netns>) -> Result<mpsc::Sender<Job>, Error> {
    let (jobs, queue) = mpsc::channel::<Job>();
    let home = Arc::clone(home);
    let work = move || {
        // Whoever asks for a new one may be in another namespace by now.
        if Netns::current().map(|now| now.id()).ok() != Some(home.id()) && home.enter().is_err() {
            return;
        }
        for job in queue {
            if !job(&home) {
                return;
            }
        }
    };
    thread::Builder::new().name("netns".into()).spawn(work).map_err(|e| Error::os("spawn thread", e))?;
    Ok(jobs)
}
