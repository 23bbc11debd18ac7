//! The log of what neighbours send, as MRT: records from the peers' tasks, written by a thread of its own.
//!
//! Nothing waits for the disk: of what it does not take in time, the newest is left out and counted.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::BytesMut;
use serde::Serialize;

use crate::bgp::config::MrtLog;

/// The most octets that wait to be written.
const WAITING: usize = 16 << 20;
/// Between attempts to write after one has failed.
const RETRY: Duration = Duration::from_secs(5);

/// The log as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UpdateLogStatus {
    /// Where it is written.
    pub file: PathBuf,
    /// Records written since it was configured.
    pub records: u64,
    /// Octets written.
    pub bytes: u64,
    /// Records left out because the disk was too slow, or could not be written.
    pub dropped: u64,
    /// Files that are complete.
    pub rotations: u64,
    /// Why the last attempt to write failed, if it did.
    pub error: Option<String>,
}

/// The way to the log, for those who have something to write. Clones lead to the same one.
#[derive(Clone, Debug, Default)]
pub(super) struct UpdateLog(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    on: AtomicBool,
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    config: MrtLog,
    records: mpsc::Sender<BytesMut>,
    progress: Arc<Progress>,
    thread: thread::JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Progress {
    waiting: AtomicUsize,
    counts: Mutex<Counts>,
}

#[derive(Clone, Debug, Default)]
struct Counts {
    records: u64,
    bytes: u64,
    dropped: u64,
    rotations: u64,
    error: Option<String>,
}

impl Progress {
    fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl UpdateLog {
    fn open(&self) -> std::sync::MutexGuard<'_, Option<Open>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes to where the configuration says from now on. What waits for the place before is written first.
    pub(super) fn configure(&self, config: Option<&MrtLog>) -> io::Result<()> {
        if self.open().as_ref().map(|open| &open.config) == config {
            return Ok(());
        }
        self.0.on.store(false, Ordering::Relaxed);
        // Not while the lock is held: the peers' tasks must not wait for the disk.
        let before = self.open().take();
        if let Some(Open { records, thread, .. }) = before {
            drop(records);
            // It panics only by a defect, and the log is over then anyway.
            let _ = thread.join();
        }
        let Some(config) = config.cloned() else { return Ok(()) };
        let (records, from_peers) = mpsc::channel();
        let progress = Arc::<Progress>::default();
        let writer = Writer::new(config.clone(), progress.clone());
        let thread = thread::Builder::new().name("mrt".into()).spawn(move || writer.run(&from_peers))?;
        *self.open() = Some(Open { config, records, progress, thread });
        self.0.on.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Lets `record` make a record, if there is a log.
    pub(super) fn write(&self, record: impl FnOnce(&mut BytesMut)) {
        if !self.0.on.load(Ordering::Relaxed) {
            return;
        }
        let mut bytes = BytesMut::new();
        record(&mut bytes);
        let open = self.open();
        let Some(Open { records, progress, .. }) = &*open else { return };
        let length = bytes.len();
        if progress.waiting.fetch_add(length, Ordering::Relaxed) > WAITING || records.send(bytes).is_err() {
            progress.waiting.fetch_sub(length, Ordering::Relaxed);
            progress.count(|counts| counts.dropped += 1);
        }
    }

    pub(super) fn status(&self) -> Option<UpdateLogStatus> {
        let open = self.open();
        let Open { config, progress, .. } = open.as_ref()?;
        let counts = progress.counts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Some(UpdateLogStatus {
            file: config.file.clone(),
            records: counts.records,
            bytes: counts.bytes,
            dropped: counts.dropped,
            rotations: counts.rotations,
            error: counts.error,
        })
    }
}

/// Owns the file.
struct Writer {
    config: MrtLog,
    progress: Arc<Progress>,
    file: Option<Current>,
    /// No attempt before this, after one that failed.
    not_before: Option<Instant>,
}

struct Current {
    file: File,
    bytes: u64,
    begun: Instant,
}

impl Writer {
    fn new(config: MrtLog, progress: Arc<Progress>) -> Self {
        Self { config, progress, file: None, not_before: None }
    }

    fn run(mut self, records: &mpsc::Receiver<BytesMut>) {
        loop {
            let record = match self.due() {
                None => match records.recv() {
                    Ok(record) => record,
                    Err(mpsc::RecvError) => return,
                },
                Some(wait) => match records.recv_timeout(wait) {
                    Ok(record) => record,
                    Err(mpsc::RecvTimeoutError::Timeout) => {
                        self.rotate();
                        continue;
                    }
                    Err(mpsc::RecvTimeoutError::Disconnected) => return,
                },
            };
            // What waits already goes with one write.
            let (mut bytes, mut count) = (record, 1u64);
            while bytes.len() < 1 << 20
                && let Ok(more) = records.try_recv()
            {
                bytes.extend_from_slice(&more);
                count += 1;
            }
            self.progress.waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
            self.put(&bytes, count);
        }
    }

    /// How long until the file is old enough for another one. One with nothing in it never is.
    fn due(&self) -> Option<Duration> {
        let file = self.file.as_ref().filter(|file| file.bytes > 0)?;
        let after = Some(self.config.rotate_after).filter(|after| !after.is_zero())?;
        Some(after.saturating_sub(file.begun.elapsed()))
    }

    fn put(&mut self, bytes: &[u8], count: u64) {
        if self.due().is_some_and(|wait| wait.is_zero()) {
            self.rotate();
        }
        if self.not_before.is_some_and(|at| Instant::now() < at) {
            return self.progress.count(|counts| counts.dropped += count);
        }
        match self.try_put(bytes) {
            Ok(()) => {
                self.not_before = None;
                self.progress.count(|counts| {
                    counts.records += count;
                    counts.bytes += bytes.len() as u64;
                    counts.error = None;
                });
            }
            Err(error) => {
                let text = format!("cannot write {}: {error}", self.config.file.display());
                let mut news = false;
                self.progress.count(|counts| {
                    counts.dropped += count;
                    news = counts.error.as_ref() != Some(&text);
                    counts.error = Some(text.clone());
                });
                // What fails again and again in the same way is told once.
                if news {
                    tracing::error!(error = text, "the log of updates has gaps");
                }
                self.not_before = Some(Instant::now() + RETRY);
            }
        }
        let full = self.config.rotate_bytes;
        if full > 0 && self.file.as_ref().is_some_and(|file| file.bytes >= full) {
            self.rotate();
        }
    }

    /// Writes whole records or nothing: a reader must not lose its place over half of one.
    fn try_put(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut current = match self.file.take() {
            Some(current) => current,
            None => open(&self.config.file)?,
        };
        if let Err(error) = current.file.write_all(bytes) {
            current.file.set_len(current.bytes)?;
            return Err(error);
        }
        current.bytes += bytes.len() as u64;
        self.file = Some(current);
        Ok(())
    }

    /// Puts the file aside, and deletes the oldest beyond those to be kept.
    fn rotate(&mut self) {
        if self.file.take().is_none() {
            return;
        }
        let path = &self.config.file;
        let done = fs::rename(path, aside(path)).and_then(|()| delete_oldest(path, self.config.keep));
        self.progress.count(|counts| counts.rotations += 1);
        if let Err(error) = done {
            tracing::error!(file = %path.display(), %error, "cannot put a log of updates aside");
        }
    }
}

/// Opens the log to go on with what is there.
fn open(path: &Path) -> io::Result<Current> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    let bytes = file.metadata()?.len();
    Ok(Current { file, bytes, begun: Instant::now() })
}

/// `FILE.SECONDS.NUMBER`: sorts by time, also within a second.
fn aside(path: &Path) -> PathBuf {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let name = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{seconds:010}.{number:04}"));
        PathBuf::from(name)
    };
    (0..=u32::MAX).map(name).find(|path| !path.exists()).expect("there are fewer than 2^32 files")
}

fn delete_oldest(path: &Path, keep: usize) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    if keep == 0 {
        return Ok(());
    }
    let prefix = format!("{}.", name.to_string_lossy());
    let ours = |name: &str| {
        let rest = name.strip_prefix(&prefix)?;
        rest.chars().all(|c| c.is_ascii_digit() || c == '.').then(|| name.to_owned())
    };
    let mut old: Vec<String> =
        fs::read_dir(folder)?.flatten().filter_map(|e| ours(&e.file_name().to_string_lossy())).collect();
    old.sort_unstable();
    let gone = old.len().saturating_sub(keep);
    old.into_iter().take(gone).try_for_each(|name| fs::remove_file(folder.join(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(folder: &Path) -> MrtLog {
        MrtLog {
            file: folder.join("log/updates.mrt"),
            rotate_bytes: 10,
            rotate_after: Duration::ZERO,
            keep: 2,
        }
    }

    fn wait(log: &UpdateLog, fits: impl Fn(&UpdateLogStatus) -> bool) -> UpdateLogStatus {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let status = log.status().unwrap();
            if fits(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "{status:?}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn files_are_put_aside_by_size_and_the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        let log = UpdateLog::default();
        log.write(|_| panic!("nobody wants a record"));
        log.configure(Some(&config(folder.path()))).unwrap();
        for round in 0..4u64 {
            log.write(|out| out.extend_from_slice(b"0123456789"));
            wait(&log, |status| status.rotations == round + 1);
        }
        log.write(|out| out.extend_from_slice(b"rest"));
        log.configure(None).unwrap();
        let mut names: Vec<_> = fs::read_dir(folder.path().join("log")).unwrap().flatten().collect();
        names.sort_by_key(fs::DirEntry::file_name);
        assert_eq!(names.len(), 3, "{names:?}");
        assert_eq!(fs::read(names[0].path()).unwrap(), b"rest");
        assert_eq!(fs::read(names[2].path()).unwrap(), b"0123456789");
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_told() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("log"), "a file where a folder should be").unwrap();
        let log = UpdateLog::default();
        log.configure(Some(&config(folder.path()))).unwrap();
        log.write(|out| out.extend_from_slice(b"x"));
        let status = wait(&log, |status| status.dropped == 1);
        assert!(status.error.unwrap().contains("cannot write"));
    }
}
