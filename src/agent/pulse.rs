//! Whether the threads that own something do anything: one that waits for ever is told from one that works.

use std::{fmt, fs, time::Duration};

/// So long a thread may be silent and do nothing. Less than a client of the control socket waits for a sign of life.
pub(super) const SILENCE: Duration = Duration::from_millis(2500);
/// Less processor time than this, in hundredths of a second, is nothing.
const NOTHING: u64 = 2;

/// A thread that does not answer and does nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stuck {
    name: &'static str,
    thread: u32,
    /// Where in the kernel it waits, if that can be read.
    place: String,
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its thread `{}` ({}) answers nothing and does nothing", self.name, self.thread)?;
        if !self.place.is_empty() {
            write!(f, ": it waits in {}", self.place)?;
        }
        Ok(())
    }
}

/// Asks the owner, which is the thread of this name, anything; what is wrong when it neither answers nor works.
pub(super) async fn feel(name: &'static str, ask: impl Future<Output = ()>) -> Option<Stuck> {
    let before = Thread::find(name);
    if tokio::time::timeout(SILENCE, ask).await.is_ok() {
        return None;
    }
    let (before, now) = (before?, Thread::find(name)?);
    (before.id == now.id && now.ticks < before.ticks + NOTHING).then(|| Stuck {
        name,
        thread: now.id,
        place: fs::read_to_string(format!("/proc/self/task/{}/wchan", now.id))
            .map_or_else(|_| String::new(), |place| if place == "0" { String::new() } else { place }),
    })
}

/// A thread of this process.
#[derive(Debug)]
struct Thread {
    id: u32,
    /// Its processor time, in hundredths of a second (`USER_HZ`).
    ticks: u64,
}

impl Thread {
    fn find(name: &str) -> Option<Self> {
        let tasks = fs::read_dir("/proc/self/task").ok()?;
        tasks.flatten().find_map(|task| {
            let comm = fs::read_to_string(task.path().join("comm")).ok()?;
            if comm.trim_end() != name {
                return None;
            }
            let stat = fs::read_to_string(task.path().join("stat")).ok()?;
            // Behind the name in parentheses, which may contain spaces: state is the third field, utime the 14th.
            let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
            let time: u64 = fields.get(11..13)?.iter().filter_map(|t| t.parse::<u64>().ok()).sum();
            Some(Self { id: task.file_name().to_str()?.parse().ok()?, ticks: time })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        time::Instant,
    };

    use super::*;
    use crate::agent::actor::{Actor, State};

    struct Nothing;

    impl State for Nothing {
        fn tick(&mut self, _: Instant) -> Duration {
            Duration::from_secs(60)
        }
    }

    #[tokio::test]
    async fn who_waits_for_ever_is_told_from_who_works() {
        let start = |name| Actor::start(name, || Ok::<_, ()>(Nothing)).unwrap().unwrap().0;
        let (quick, stuck, busy) = (start("t-quick"), start("t-stuck"), start("t-busy"));
        let (hold, held) = std::sync::mpsc::channel::<()>();
        stuck.tell(move |_| _ = held.recv()).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&stop);
        busy.tell(move |_| while !end.load(Ordering::Relaxed) {}).unwrap();
        let ask = async |actor: &Actor<Nothing>| _ = actor.ask(|_| ()).await;
        let (a, b, c) = tokio::join!(
            feel("t-quick", ask(&quick)),
            feel("t-stuck", ask(&stuck)),
            feel("t-busy", ask(&busy)),
        );
        stop.store(true, Ordering::Relaxed);
        drop(hold);
        assert_eq!((a, c), (None, None));
        let said = b.expect("it is stuck").to_string();
        assert!(said.contains("`t-stuck`"), "{said}");
        // Held no longer, it is as any other.
        assert_eq!(feel("t-stuck", ask(&stuck)).await, None);
        assert_eq!(Thread::find("t-nobody").map(|t| t.id), None);
    }
}
