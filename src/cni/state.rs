//! What outlives the run directory: in `[agent] state_dir`, on a disk.
//!
//! - `copies/<boot id>/<id>.json`: the endpoints' files once more, should the run directory be lost. What another boot has
//!   left is removed: no container of it lives.
//! - `elsewhere.json`: addresses of our blocks that other hosts have. It counts after a reboot, too, until the neighbours
//!   have told what they know.
//!
//! A disk may take seconds for what a tmpfs does at once, or hang. So a thread of its own writes, and what is written again
//! meanwhile is written once. Nothing depends on it: what cannot be written is told, and tried again.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use super::store::{make_dir, open_file};

/// The folder of copies, one folder a boot in it.
const COPIES: &str = "copies";
/// The name of the file of addresses that other hosts have, as in the run directory.
const ELSEWHERE: &str = "elsewhere.json";
/// Which boot this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// When what could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(15);

/// The state directory of a running agent.
#[derive(Debug)]
pub(super) struct State {
    elsewhere: PathBuf,
    copies: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<Pending>,
    news: Condvar,
}

/// What is to be written.
#[derive(Debug, Default)]
struct Pending {
    /// By path: what should be in the file; none: nothing should be there.
    files: BTreeMap<PathBuf, Option<Vec<u8>>>,
    /// The thread is at work on some that are not in `files`.
    busy: bool,
    /// Why the last ones could not be written.
    trouble: Option<String>,
    over: bool,
}

impl Pending {
    fn note(&mut self, trouble: Option<String>) {
        if let Some(trouble) = trouble.as_ref().filter(|_| self.trouble.is_none()) {
            tracing::warn!("what should outlive the run directory cannot be written: {trouble}");
        }
        self.trouble = trouble;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Opens the directory, which no other process uses, and has what other boots have left in it removed.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let boot = fs::read_to_string(BOOT_ID)?.trim().to_owned();
        let state = Self {
            elsewhere: dir.join(ELSEWHERE),
            copies: dir.join(COPIES).join(&boot),
            shared: Arc::default(),
        };
        let (all, own, shared) = (dir.join(COPIES), state.copies.clone(), state.shared.clone());
        thread::Builder::new().name("state".into()).spawn(move || {
            let prepared = prepare(&all, &own);
            shared.lock().note(prepared.err().map(|error| format!("{}: {error}", all.display())));
            write_all(&shared);
        })?;
        Ok(state)
    }

    /// Where the copies of this boot are.
    pub(super) fn copies(&self) -> &Path {
        &self.copies
    }

    /// Where the addresses are that other hosts have.
    pub(super) fn elsewhere(&self) -> &Path {
        &self.elsewhere
    }

    /// Has a file written, or removed, in a moment.
    pub(super) fn put(&self, path: PathBuf, content: Option<Vec<u8>>) {
        self.shared.lock().files.insert(path, content);
        self.shared.news.notify_all();
    }

    /// Why something is not written that should be.
    pub(super) fn trouble(&self) -> Option<String> {
        self.shared.lock().trouble.clone()
    }

    /// Returns when all has been written that could be.
    #[cfg(test)]
    pub(super) fn settle(&self) {
        let at_work = |pending: &mut Pending| pending.busy || !pending.files.is_empty();
        drop(self.shared.news.wait_while(self.shared.lock(), at_work).unwrap());
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.shared.news.notify_all();
    }
}

fn prepare(all: &Path, own: &Path) -> io::Result<()> {
    make_dir(own)?;
    for entry in fs::read_dir(all)?.flatten() {
        if entry.path() != own {
            // Nothing reads what stays.
            fs::remove_dir_all(entry.path()).or_else(|_| fs::remove_file(entry.path()))?;
        }
    }
    Ok(())
}

/// The thread.
fn write_all(shared: &Shared) {
    let mut failed: BTreeMap<PathBuf, Option<Vec<u8>>> = BTreeMap::new();
    loop {
        let mut pending = shared.lock();
        pending.busy = false;
        shared.news.notify_all();
        while pending.files.is_empty() {
            if pending.over {
                return;
            }
            let wait = if failed.is_empty() { Duration::MAX } else { AGAIN };
            let waited = shared.news.wait_timeout(pending, wait).unwrap_or_else(PoisonError::into_inner);
            pending = waited.0;
            if waited.1.timed_out() && !failed.is_empty() {
                break;
            }
        }
        // What was asked for since counts more.
        failed.append(&mut pending.files);
        pending.busy = true;
        drop(pending);
        let mut trouble = None;
        for (path, content) in std::mem::take(&mut failed) {
            if let Err(error) = write_one(&path, content.as_deref()) {
                trouble = Some(format!("{}: {error}", path.display()));
                failed.insert(path, content);
            }
        }
        shared.lock().note(trouble);
    }
}

/// What is as it should be already is not touched: a start writes everything anew.
fn write_one(path: &Path, content: Option<&[u8]>) -> io::Result<()> {
    let Some(content) = content else {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    };
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    let dir = path.parent().unwrap_or(Path::new("/"));
    let temporary = dir.join(format!(".{}", path.file_name().unwrap_or_default().to_string_lossy()));
    make_dir(dir)?;
    let written = (|| {
        let mut file = open_file(&temporary)?;
        file.write_all(content)?;
        // A copy counts in this boot only, whatever reaches the disk; the other must be whole after a power cut.
        if path.ends_with(ELSEWHERE) {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_removed_and_of_this_boot_alone() {
        let dir = tempfile::tempdir().unwrap();
        let former = dir.path().join("copies/00000000-0000-0000-0000-000000000000");
        fs::create_dir_all(&former).unwrap();
        fs::write(former.join("s32a.json"), "{}").unwrap();
        let state = State::open(dir.path()).unwrap();
        let file = state.copies().join("s32b.json");
        state.put(file.clone(), Some(b"one".to_vec()));
        state.put(file.clone(), Some(b"two".to_vec()));
        state.put(state.elsewhere().to_owned(), Some(b"[]".to_vec()));
        state.settle();
        assert!(!former.exists(), "no container of another boot lives");
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert_eq!(fs::read(dir.path().join("elsewhere.json")).unwrap(), b"[]");
        state.put(file.clone(), None);
        state.settle();
        assert_eq!(fs::read_dir(state.copies()).unwrap().count(), 0);
        assert_eq!(state.trouble(), None);
    }

    #[test]
    fn what_cannot_be_written_is_told_and_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let file = state.copies().join("s32a.json");
        state.put(file.clone(), Some(b"one".to_vec()));
        state.settle();
        // As root nothing is unwritable by its mode.
        fs::remove_dir_all(state.copies()).unwrap();
        fs::write(state.copies(), "in the way").unwrap();
        state.put(file.clone(), Some(b"two".to_vec()));
        state.settle();
        assert!(state.trouble().unwrap().contains("s32a.json"), "{:?}", state.trouble());
        fs::remove_file(state.copies()).unwrap();
        state.put(state.elsewhere().to_owned(), Some(b"[]".to_vec()));
        // With the next that is written at the latest.
        while state.trouble().is_some() {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(fs::read(&file).unwrap(), b"two");
    }
}
