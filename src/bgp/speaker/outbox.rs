//! The queue of encoded UPDATEs between the RIB thread and a peer's task.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::Notify;

/// The most bytes that wait for a peer. UPDATEs of an update group are shared, so it is less than it seems.
const LIMIT: usize = 256 << 10;

/// Filled by the RIB thread, emptied by the peer's task.
#[derive(Debug)]
pub(super) struct Outbox {
    inner: Mutex<Inner>,
    /// Wakes the peer's task.
    filled: Notify,
    /// Wakes the RIB thread; shared by all peers.
    hungry: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Inner {
    chunks: VecDeque<Bytes>,
    bytes: usize,
    /// The RIB thread found no room and waits to be woken.
    full: bool,
}

impl Outbox {
    pub(super) fn new(hungry: Arc<Notify>) -> Self {
        Self { inner: Mutex::default(), filled: Notify::new(), hungry }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here can be left half-done by a panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes may be pushed; with 0, the RIB thread is woken when there is room again.
    pub(super) fn room(&self) -> usize {
        let mut inner = self.lock();
        let room = LIMIT.saturating_sub(inner.bytes);
        inner.full = room == 0;
        room
    }

    /// Appends. A little more than [`Self::room`] does no harm.
    pub(super) fn push(&self, chunks: Vec<Bytes>) {
        let mut inner = self.lock();
        inner.bytes += chunks.iter().map(Bytes::len).sum::<usize>();
        inner.chunks.extend(chunks);
        drop(inner);
        self.filled.notify_one();
    }

    /// Moves chunks to `to`, until that has `enough` bytes more.
    pub(super) fn take(&self, to: &mut VecDeque<Bytes>, enough: usize) -> usize {
        let mut inner = self.lock();
        let mut taken = 0;
        while taken < enough {
            let Some(chunk) = inner.chunks.pop_front() else { break };
            taken += chunk.len();
            to.push_back(chunk);
        }
        inner.bytes = inner.bytes.saturating_sub(taken);
        if inner.full && inner.bytes <= LIMIT / 2 {
            inner.full = false;
            self.hungry.notify_one();
        }
        taken
    }

    /// Bytes that wait.
    pub(super) fn waiting(&self) -> usize {
        self.lock().bytes
    }

    /// Resolves when something may have been pushed since the last call.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_up_and_drains() {
        let outbox = Outbox::new(Arc::new(Notify::new()));
        assert_eq!(outbox.room(), LIMIT);
        outbox.push(vec![Bytes::from(vec![0; LIMIT / 2]), Bytes::from(vec![1; LIMIT])]);
        assert_eq!(outbox.room(), 0);
        let mut to = VecDeque::new();
        assert_eq!(outbox.take(&mut to, 1), LIMIT / 2);
        assert_eq!(outbox.room(), 0);
        assert_eq!(outbox.take(&mut to, 1), LIMIT);
        assert_eq!(to.len(), 2);
        assert_eq!(outbox.room(), LIMIT);
    }
}
