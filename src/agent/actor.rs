//! A thread that owns a value; others send it work as closures and wait for the answer.
//!
//! One owner for each mutable state, and no lock: the closure runs on the owner's thread with exclusive access.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{oneshot, watch};

use crate::api::SHUTTING_DOWN;

type Job<S> = Box<dyn FnOnce(&mut S) + Send>;

/// The state of an actor: what it does when nobody asks.
pub(super) trait State: Sized + 'static {
    /// Called between jobs; returns how long until it wants to be called again at the latest.
    fn tick(&mut self, now: Instant) -> Duration;
}

/// A way to reach the owner. Cheap to clone; the thread ends when the last one is dropped.
#[derive(Debug)]
pub(super) struct Actor<S> {
    jobs: Sender<Job<S>>,
    /// The thread holds the other end.
    alive: watch::Receiver<()>,
}

impl<S> Clone for Actor<S> {
    fn clone(&self) -> Self {
        Self { jobs: self.jobs.clone(), alive: self.alive.clone() }
    }
}

/// The owner is gone: the agent is shutting down, or that thread panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", SHUTTING_DOWN)]
pub(super) struct Gone;

impl<S: State> Actor<S> {
    /// Starts the thread; the state is made on it, so it need not be `Send`.
    pub(super) fn start<E: Send + 'static>(
        name: &str,
        make: impl FnOnce() -> Result<S, E> + Send + 'static,
    ) -> Result<Result<(Self, thread::JoinHandle<()>), E>, std::io::Error> {
        let (jobs, queue) = channel();
        let (ready, made) = channel();
        let (life, alive) = watch::channel(());
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            // Dropped when the thread ends, in whatever way.
            let _life = life;
            match make() {
                Ok(state) => {
                    // The starter waits for this and cannot be gone.
                    let _ = ready.send(Ok(()));
                    run(state, &queue);
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            }
        })?;
        Ok(match made.recv() {
            Ok(Ok(())) => Ok((Self { jobs, alive }, thread)),
            Ok(Err(error)) => Err(error),
            Err(_) => return Err(std::io::Error::other(format!("the {name} thread died at start"))),
        })
    }

    /// Gives the owner something to do and does not wait.
    pub(super) fn tell(&self, work: impl FnOnce(&mut S) + Send + 'static) -> Result<(), Gone> {
        self.jobs.send(Box::new(work)).map_err(|_| Gone)
    }

    /// Resolves when the thread has ended.
    pub(super) async fn ended(&self) {
        let mut alive = self.alive.clone();
        // Nothing is ever sent.
        while alive.changed().await.is_ok() {}
    }

    /// Waits for the owner's answer.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut S) -> T + Send + 'static,
    ) -> Result<T, Gone> {
        let (reply, answer) = oneshot::channel();
        self.tell(move |state| {
            // The asker may have gone away meanwhile; the work is done all the same.
            let _ = reply.send(work(state));
        })?;
        answer.await.map_err(|_| Gone)
    }
}

fn run<S: State>(mut state: S, queue: &Receiver<Job<S>>) {
    loop {
        let wait = state.tick(Instant::now());
        match queue.recv_timeout(wait) {
            Ok(job) => job(&mut state),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        // Drain what is queued before ticking again, but not for ever.
        for job in queue.try_iter().take(64) {
            job(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counter(u32);

    impl State for Counter {
        fn tick(&mut self, _: Instant) -> Duration {
            Duration::from_secs(60)
        }
    }

    #[tokio::test]
    async fn asks_tells_and_ends() {
        let (actor, thread) = Actor::start("t", || Ok::<_, ()>(Counter(1))).unwrap().unwrap();
        actor.tell(|c| c.0 += 1).unwrap();
        assert_eq!(actor.ask(|c| c.0).await, Ok(2));
        let early = tokio::time::timeout(Duration::from_millis(1), actor.ended()).await;
        assert!(early.is_err(), "it lives");
        drop(actor);
        thread.join().unwrap();
        assert!(matches!(Actor::<Counter>::start("t", || Err("no")).unwrap(), Err("no")));
        let (actor, thread) = Actor::start("t", || Ok::<_, ()>(Counter(1))).unwrap().unwrap();
        assert_eq!(actor.ask(|_| -> () { panic!("as the test wants") }).await, Err(Gone));
        actor.ended().await;
        thread.join().unwrap_err();
        assert_eq!(actor.ask(|c| c.0).await, Err(Gone));
    }
}
