//! Deletes retired links in the background, many at once.

use std::{sync::mpsc, thread, time::Duration};

use super::{
    RETIRED,
    message::{StepError, Steps},
};
use crate::netlink::{Error, Socket};

/// How long after a link was retired the group is deleted: long enough for a runtime to remove the namespace itself
/// (then the kernel deletes the pair with it), and for links to gather, as the wait is one for all of them.
const DELAY: Duration = Duration::from_millis(500);

/// The thread's handle; it ends after a last round when this is dropped.
#[derive(Debug)]
pub(super) struct Reaper {
    notify: Option<mpsc::SyncSender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Reaper {
    /// Starts in the network namespace of the calling thread.
    pub(super) fn start() -> Result<Self, Error> {
        let mut socket = Socket::route()?;
        // One is enough: a notification says that there is something, not how much.
        let (notify, wake) = mpsc::sync_channel(1);
        let run = move || {
            while wake.recv().is_ok() {
                let ended = matches!(wake_after(&wake, DELAY), Ended::Yes);
                if let Err(error) = reap(&mut socket) {
                    tracing::warn!(%error, "retired interfaces stay for now");
                }
                if ended {
                    return;
                }
            }
        };
        let thread = thread::Builder::new()
            .name("reaper".into())
            .spawn(run)
            .map_err(|source| Error::Os { call: "spawn thread", source })?;
        Ok(Self { notify: Some(notify), thread: Some(thread) })
    }

    /// Says that there is something to delete.
    pub(super) fn notify(&self) {
        if let Some(notify) = &self.notify {
            // Full: it knows already. Closed: the thread has ended, and the next start of the agent will clean up.
            let _ = notify.try_send(());
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.notify = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the reaper panicked");
        }
    }
}

enum Ended {
    Yes,
    No,
}

/// Sleeps, but not when the handle is dropped meanwhile. Notifications that come meanwhile are served by this round.
fn wake_after(wake: &mpsc::Receiver<()>, delay: Duration) -> Ended {
    let until = std::time::Instant::now() + delay;
    loop {
        let left = until.saturating_duration_since(std::time::Instant::now());
        match wake.recv_timeout(left) {
            Ok(()) if left.is_zero() => return Ended::No,
            Ok(()) => {}
            Err(mpsc::RecvTimeoutError::Timeout) => return Ended::No,
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ended::Yes,
        }
    }
}

/// Deletes all retired links.
pub(super) fn reap(socket: &mut Socket) -> Result<(), StepError> {
    let mut steps = Steps::default();
    steps.delete_group(RETIRED);
    match steps.execute(socket) {
        Err(error) if !error.source.is_missing() => Err(error),
        _ => Ok(()),
    }
}
