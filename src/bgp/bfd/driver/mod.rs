//! The thread that runs BFD sessions on sockets.
//!
//! It shares nothing with route work but the processor, and asks for real-time priority to come first there too. Packets that
//! have arrived are always taken in before a silence is judged, so that a late wake-up is not blamed on a neighbour.
//!
//! ```text
//!  BfdHandle ── commands ──▶ thread "bfd" ── events ──▶ the sink (agent, speaker)
//!                              │  ▲
//!                   send, 1 socket a session   receive, 1 socket a family and port
//! ```
//!
//! What a restart needs is kept in a directory (see [`DriverConfig::state_dir`]): `sessions.json`, written when a session comes
//! up, goes down or changes, and `alive`, a time stamp renewed with the packets.

mod sockets;
mod store;
#[cfg(test)]
mod tests;
mod thread;

use std::{
    fmt, io,
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        mpsc::{self, Sender},
    },
    thread::JoinHandle,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{SessionConfig, SessionEvent, SessionStatus};

/// How long a caller waits for the thread, which answers in microseconds unless it is dead.
const PATIENCE: Duration = Duration::from_secs(2);

/// How the thread is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverConfig {
    /// Where to keep what a restart needs; `None`: nowhere. It should be on a tmpfs, such as `/run/slash32/bfd`.
    pub state_dir: Option<PathBuf>,
    /// Ask for real-time priority. Without the right to it the thread runs as any other.
    pub realtime: bool,
    /// The UDP port of single-hop sessions: 3784 (RFC 5881 section 4).
    pub single_hop_port: u16,
    /// The UDP port of multihop sessions: 4784 (RFC 5883 section 5).
    pub multihop_port: u16,
}

impl Default for DriverConfig {
    fn default() -> Self {
        Self { state_dir: None, realtime: true, single_hop_port: 3784, multihop_port: 4784 }
    }
}

/// What names a session.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionKey {
    /// The neighbour.
    pub peer: IpAddr,
    /// Our address; `None` leaves it to the routing table.
    pub local: Option<IpAddr>,
    /// The interface; needed for link-local neighbours.
    pub interface: Option<String>,
    /// RFC 5883: the neighbour may be several hops away.
    pub multihop: bool,
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.peer)?;
        if let Some(interface) = &self.interface {
            write!(f, "%{interface}")?;
        }
        if self.multihop { f.write_str(" multihop") } else { Ok(()) }
    }
}

/// How a session is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionParams {
    /// Intervals and multiplier.
    pub session: SessionConfig,
    /// The least TTL with which a multihop packet is taken; single-hop packets must have 255 (RFC 5881 section 5).
    pub min_ttl: u8,
}

/// What happened to which session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BfdEvent {
    /// The session.
    pub key: SessionKey,
    /// What happened.
    pub event: SessionEvent,
}

/// A session for `slash32 bfd`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BfdStatus {
    /// The session.
    #[serde(flatten)]
    pub key: SessionKey,
    /// Its state.
    #[serde(flatten)]
    pub status: SessionStatus,
    /// The source port of our packets; 0 while there is no socket.
    pub source_port: u16,
    /// Why the last packet could not be sent.
    pub send_error: Option<String>,
}

/// How to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Silently: the next process goes on with the sessions.
    Keep,
    /// As before, but the neighbours are asked for so much patience (RFC 5882 section 4.3.2.2).
    Restart(Duration),
    /// Tell the neighbours that it is on purpose (RFC 5880 section 6.8.16), and forget the sessions.
    AdminDown,
}

/// What the thread is told.
#[derive(Debug)]
enum Command {
    Set { key: SessionKey, params: SessionParams, done: Sender<io::Result<()>> },
    Remove { key: SessionKey },
    AdminDown { key: SessionKey, down: bool },
    Status { done: Sender<Vec<BfdStatus>> },
    Shutdown { how: Shutdown },
}

/// The thread's handle. Clones are alike; the thread ends with [`BfdHandle::shutdown`] or with the last of them.
#[derive(Clone, Debug)]
pub struct BfdHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    commands: Sender<Command>,
    waker: mio::Waker,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl BfdHandle {
    /// Starts the thread, in the network namespace of the caller.
    ///
    /// `sink` is called in the thread, so it must not wait: hand the event to a channel.
    pub fn start(config: DriverConfig, sink: impl FnMut(BfdEvent) + Send + 'static) -> io::Result<Self> {
        let (commands, receiver) = mpsc::channel();
        let poll = mio::Poll::new()?;
        let waker = mio::Waker::new(poll.registry(), thread::WAKER)?;
        let driver = thread::Driver::new(config, poll, receiver, Box::new(sink));
        let thread = std::thread::Builder::new().name("bfd".to_owned()).spawn(move || driver.run())?;
        Ok(Self { inner: Arc::new(Inner { commands, waker, thread: Mutex::new(Some(thread)) }) })
    }

    /// Adds a session, or changes how it runs without resetting it.
    ///
    /// Fails when the port cannot be listened on, which is when another BFD daemon runs.
    pub fn set(&self, key: SessionKey, params: SessionParams) -> io::Result<()> {
        self.ask(|done| Command::Set { key, params, done })?
    }

    /// Removes a session; the neighbour is told that it is on purpose.
    pub fn remove(&self, key: SessionKey) -> io::Result<()> {
        self.inner.send(Command::Remove { key })
    }

    /// Holds a session down, or lets it go.
    pub fn set_admin_down(&self, key: SessionKey, down: bool) -> io::Result<()> {
        self.inner.send(Command::AdminDown { key, down })
    }

    /// All sessions, in the order of their keys.
    pub fn status(&self) -> io::Result<Vec<BfdStatus>> {
        self.ask(|done| Command::Status { done })
    }

    /// Ends the thread and waits for it.
    pub fn shutdown(&self, how: Shutdown) {
        // It may have ended before.
        let _ = self.inner.send(Command::Shutdown { how });
        let thread = self.inner.thread.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the BFD thread has panicked");
        }
    }

    fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> io::Result<T> {
        let (done, answer) = mpsc::channel();
        self.inner.send(command(done))?;
        answer.recv_timeout(PATIENCE).map_err(|_| ended())
    }
}

impl Inner {
    fn send(&self, command: Command) -> io::Result<()> {
        self.commands.send(command).map_err(|_| ended())?;
        self.waker.wake()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Nobody listens any more. The thread goes by itself, as if killed: sessions may be resumed.
        let _ = self.send(Command::Shutdown { how: Shutdown::Keep });
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the BFD thread has ended")
}
