//! One JSON file an attachment, below the run directory.
//!
//! - `endpoints/<id>.json`: an attachment, written (temporary file and rename, in the same directory) before the
//!   kernel is touched and removed after it has been cleaned.
//! - `released/<id>.<sequence>.json`: the same file, renamed there by DEL; its addresses rest. The time of the rename
//!   (ctime) is the time of release. Removed when the rest is over.
//! - `tombstones/<id>.<sequence>.json`: a DEL that came while the agent was down, see [`Tombstone`].
//! - `copies/<id>.json`: the same as in `endpoints/`, written a moment later: should one be lost, the other tells.
//! - `elsewhere.json`: addresses of our blocks that other hosts have, so that a new process does not give them to anybody
//!   before it has heard of them.
//!   This and the copies are in `[agent] state_dir`, too ([`super::state`]).
//! - `damaged/`: files that could not be read, set aside for a person to look at.
//!
//! The run directory is on a tmpfs: after a reboot there are neither containers nor files. So nothing is synced.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{attachment::Attachment, state::State, types::CniError, types::code};
use crate::{
    model::{EndpointId, EndpointKey},
    netlink,
};

/// No file of ours comes near this; larger ones are damaged.
const MAX_FILE: u64 = 4 << 20;

/// So long a plugin is never busy with one file: a temporary file that is older belongs to nobody.
const ABANDONED: Duration = Duration::from_secs(60);

/// What an attachment's file takes at the most, nearly always.
const ROOM: usize = 4096;

/// A DEL that the agent was not there for: what the plugin leaves behind after it has taken the link down itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// What was deleted.
    pub key: EndpointKey,
    /// Which incarnation; a later ADD of the same key is not meant. None when the plugin found no file: then every
    /// attachment made before the tombstone is meant.
    pub sequence: Option<u64>,
    /// When, in microseconds since 1970.
    pub at: u64,
}

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {path}: {source}")]
pub struct StoreError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl From<StoreError> for CniError {
    fn from(error: StoreError) -> Self {
        let details = match error.source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "the file system of the run directory is full"
            }
            io::ErrorKind::ReadOnlyFilesystem => "the file system of the run directory is read-only",
            _ => "",
        };
        let short = netlink::is_out_of_descriptors(&error.source);
        let code = if short { code::TRY_AGAIN_LATER } else { code::IO_FAILURE };
        Self::new(code, error.to_string()).details(details)
    }
}

/// The files.
#[derive(Debug)]
pub struct Store {
    endpoints: PathBuf,
    released: PathBuf,
    tombstones: PathBuf,
    damaged: PathBuf,
    copies: PathBuf,
    run_dir: PathBuf,
    /// What outlives the run directory.
    state: Option<State>,
    /// Why there is nothing of that.
    stateless: Option<String>,
}

/// The name of the file of addresses that other hosts have.
const ELSEWHERE: &str = "elsewhere.json";

/// What was found at start.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The attachments.
    pub attachments: Vec<Attachment>,
    /// The endpoints whose files were damaged, and why. The files have been set aside.
    pub damaged: Vec<(EndpointId, String)>,
    /// Attachments that were released and how long ago.
    pub released: Vec<(Attachment, Duration)>,
}

impl Store {
    /// Opens the files below a run directory and makes the directories that are missing. What should outlive that is kept in
    /// the state directory as well, which no other process uses.
    pub fn open(run_dir: &Path, state_dir: Option<&Path>) -> Result<Self, StoreError> {
        let dir = |name: &str| run_dir.join(name);
        let (state, stateless) = match state_dir.map(State::open) {
            Some(Err(error)) => (None, Some(error.to_string())),
            opened => (opened.and_then(Result::ok), None),
        };
        let store = Self {
            endpoints: dir("endpoints"),
            released: dir("released"),
            tombstones: dir("tombstones"),
            damaged: dir("damaged"),
            copies: dir("copies"),
            run_dir: run_dir.to_owned(),
            state,
            stateless,
        };
        store.make_dirs()?;
        Ok(store)
    }

    fn dirs(&self) -> [&PathBuf; 5] {
        [&self.endpoints, &self.released, &self.tombstones, &self.damaged, &self.copies]
    }

    /// Makes the directories that are missing.
    pub fn make_dirs(&self) -> Result<(), StoreError> {
        self.dirs().into_iter().try_for_each(|path| {
            make_dir(path).map_err(|source| StoreError { what: "create", path: path.clone(), source })
        })
    }

    /// Whether all of the directories are there.
    pub fn is_there(&self) -> bool {
        self.dirs().into_iter().all(|path| path.is_dir())
    }

    /// Reads everything. Files that cannot be understood are set aside; left-over temporary files are removed.
    pub fn load(&self, now: SystemTime) -> Result<Loaded, StoreError> {
        let mut loaded = Loaded::default();
        for path in list(&self.endpoints)? {
            let name = file_name(&path);
            let Some(id) = name.strip_suffix(".json").filter(|n| n.starts_with(EndpointId::PREFIX)) else {
                // A temporary file of a write that was interrupted. Whatever cannot be removed is in nobody's way.
                if name.starts_with('.') {
                    let _ = fs::remove_file(&path);
                }
                continue;
            };
            match read::<Attachment>(&path) {
                Ok(attachment) if attachment.endpoint.id.as_str() == id => {
                    loaded.attachments.push(attachment);
                }
                Ok(other) => {
                    self.set_aside(&path);
                    let why = format!("the file is about {}", other.endpoint.id);
                    loaded.damaged.push((EndpointId(id.to_owned()), why));
                }
                Err(why) => {
                    self.set_aside(&path);
                    loaded.damaged.push((EndpointId(id.to_owned()), why));
                }
            }
        }
        for path in list(&self.released)? {
            match (read::<Attachment>(&path), age(&path, now)) {
                (Ok(attachment), Some(age)) => loaded.released.push((attachment, age)),
                // Only a hint that an address should rest: not worth keeping, nor worth failing for.
                _ => _ = fs::remove_file(&path),
            }
        }
        Ok(loaded)
    }

    /// Writes an attachment.
    pub fn put(&self, attachment: &Attachment) -> Result<(), StoreError> {
        write(&self.endpoints, &format!("{}.json", attachment.endpoint.id), attachment)
    }

    /// The endpoints that have a file, whatever is in it.
    pub fn ids(&self) -> Result<Vec<EndpointId>, StoreError> {
        let names = list(&self.endpoints)?.into_iter().map(|path| file_name(&path));
        Ok(names
            .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
            .filter(|name| name.starts_with(EndpointId::PREFIX))
            .map(EndpointId)
            .collect())
    }

    /// Removes an attachment and remembers that its addresses rest. No error when there is none.
    pub fn release(&self, attachment: &Attachment) -> Result<(), StoreError> {
        let id = &attachment.endpoint.id;
        let from = self.endpoints.join(format!("{id}.json"));
        let to = self.released.join(format!("{id}.{}.json", attachment.sequence));
        match fs::rename(&from, to) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => remove(&from),
            // A full file system may refuse the new name; forgetting the rest is better than keeping the lease.
            Err(_) => remove(&from),
        }
    }

    /// Writes an attachment's copies: that in the state directory a moment later.
    pub fn put_copy(&self, attachment: &Attachment) -> Result<(), StoreError> {
        let name = copy_name(&attachment.endpoint.id);
        if let Some(state) = &self.state {
            state.put(state.copies().join(&name), serde_json::to_vec(attachment).ok());
        }
        write(&self.copies, &name, attachment)
    }

    /// Removes an attachment's copies. No error when there is none.
    pub fn drop_copy(&self, id: &EndpointId) -> Result<(), StoreError> {
        let name = copy_name(id);
        if let Some(state) = &self.state {
            state.put(state.copies().join(&name), None);
        }
        remove(&self.copies.join(name))
    }

    /// An attachment's copy, if there is a sound one that is about the interface with this index.
    pub fn copy(&self, id: &EndpointId, ifindex: u32) -> Option<Attachment> {
        let read = |dir: &Path| read::<Attachment>(&dir.join(copy_name(id))).ok();
        let right = |copy: &Attachment| copy.endpoint.id == *id && copy.ifindex == ifindex;
        let nearer = read(&self.copies).filter(right);
        nearer.or_else(|| read(self.state.as_ref()?.copies()).filter(right))
    }

    /// The endpoints that have a copy.
    pub fn copies(&self) -> Result<Vec<EndpointId>, StoreError> {
        let mut paths = list(&self.copies)?;
        // What is not there yet holds nothing.
        paths.extend(self.state.iter().flat_map(|state| list(state.copies()).unwrap_or_default()));
        let names = paths.iter().map(|path| file_name(path));
        Ok(names.filter_map(|name| name.strip_suffix(".json").map(|id| EndpointId(id.to_owned()))).collect())
    }

    /// Remembers which addresses of our blocks other hosts have, also beyond a reboot.
    pub fn put_elsewhere(&self, addresses: &[IpAddr]) -> Result<(), StoreError> {
        if let Some(state) = &self.state {
            state.put(state.elsewhere().to_owned(), serde_json::to_vec(addresses).ok());
        }
        write(&self.run_dir, ELSEWHERE, &addresses)
    }

    /// What [`Self::put_elsewhere`] has remembered last; nothing if that is damaged, as BGP tells it again.
    pub fn elsewhere(&self) -> Vec<IpAddr> {
        let here = read(&self.run_dir.join(ELSEWHERE)).ok();
        here.or_else(|| read(self.state.as_ref()?.elsewhere()).ok()).unwrap_or_default()
    }

    /// Why the state directory does not have what it should.
    pub fn state_trouble(&self) -> Option<String> {
        self.stateless.clone().or_else(|| self.state.as_ref()?.trouble())
    }

    /// Returns when the state directory has what it should.
    #[cfg(test)]
    pub(super) fn settle(&self) {
        self.state.iter().for_each(State::settle);
    }

    /// Whether the file of a new attachment could be written.
    pub fn check_room(&self) -> Result<(), StoreError> {
        let path = self.endpoints.join(".room");
        let written = fs::write(&path, [b' '; ROOM]);
        let removed = remove(&path);
        written.map_err(|source| StoreError { what: "write", path, source })?;
        removed
    }

    /// Removes an attachment that never came to be.
    pub fn forget(&self, id: &EndpointId) -> Result<(), StoreError> {
        remove(&self.endpoints.join(format!("{id}.json")))
    }

    /// Removes what rested longer than `rest`, but not what is [owed](Self::owed).
    pub fn sweep(&self, rest: Duration, now: SystemTime) -> Result<(), StoreError> {
        for path in list(&self.released)? {
            let rested = age(&path, now).is_none_or(|age| age > rest);
            if rested && !read::<Attachment>(&path).is_ok_and(|attachment| attachment.delegate.is_some()) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Forgets that an address rests, and remembers it of the others that were released with it.
    pub fn end_rest(&self, addr: IpAddr) -> Result<(), StoreError> {
        for path in list(&self.released)? {
            let Ok(mut attachment) = read::<Attachment>(&path) else { continue };
            let endpoint = &mut attachment.endpoint;
            if attachment.delegate.is_some() || !endpoint.addresses().any(|other| other == addr) {
                continue;
            }
            match addr {
                IpAddr::V4(_) => endpoint.ipv4 = None,
                IpAddr::V6(_) => endpoint.ipv6 = None,
            }
            // The time of the file is that of the release.
            let at = fs::metadata(&path).and_then(|file| file.modified());
            write(&self.released, &file_name(&path), &attachment)?;
            at.and_then(|at| fs::File::options().write(true).open(&path)?.set_modified(at))
                .map_err(|source| StoreError { what: "set the time of", path, source })?;
        }
        Ok(())
    }

    /// The released attachments whose addresses another IPAM plugin manages, which may not know of their end: a DEL or
    /// GC of the runtime's has to tell it.
    pub fn owed(&self) -> Result<Vec<Attachment>, StoreError> {
        let released = list(&self.released)?.into_iter().filter_map(|path| read::<Attachment>(&path).ok());
        Ok(released.filter(|attachment| attachment.delegate.is_some()).collect())
    }

    /// As [`Self::owed`], of one endpoint.
    pub fn owed_of(&self, id: &EndpointId) -> Result<Vec<Attachment>, StoreError> {
        Ok(self.owed_files(id)?.into_iter().map(|(_, attachment)| attachment).collect())
    }

    /// Forgets that the other IPAM plugin has to be told.
    pub fn forget_owed(&self, id: &EndpointId) -> Result<(), StoreError> {
        self.owed_files(id)?.into_iter().try_for_each(|(path, _)| remove(&path))
    }

    fn owed_files(&self, id: &EndpointId) -> Result<Vec<(PathBuf, Attachment)>, StoreError> {
        let prefix = format!("{id}.");
        let of_id = list(&self.released)?.into_iter().filter(|path| file_name(path).starts_with(&prefix));
        let read = |path: PathBuf| Some((path.clone(), read::<Attachment>(&path).ok()?));
        Ok(of_id.filter_map(read).filter(|(_, attachment)| attachment.delegate.is_some()).collect())
    }

    /// The tombstones; those that cannot be read are set aside.
    pub fn tombstones(&self) -> Result<Vec<Tombstone>, StoreError> {
        self.tombstones_at(SystemTime::now())
    }

    fn tombstones_at(&self, now: SystemTime) -> Result<Vec<Tombstone>, StoreError> {
        let mut tombstones = Vec::new();
        for path in list(&self.tombstones)? {
            if file_name(&path).starts_with('.') {
                // A plugin may be writing it right now, or was killed over it.
                if age(&path, now).is_some_and(|age| age > ABANDONED) {
                    let _ = fs::remove_file(&path);
                }
                continue;
            }
            match read(&path) {
                Ok(tombstone) => tombstones.push(tombstone),
                Err(why) => {
                    tracing::warn!(path = %path.display(), why, "setting a damaged tombstone aside");
                    self.set_aside(&path);
                }
            }
        }
        Ok(tombstones)
    }

    /// Removes a tombstone that has been honoured.
    pub fn bury(&self, tombstone: &Tombstone) -> Result<(), StoreError> {
        remove(&self.tombstones.join(tombstone.file_name()))
    }

    fn set_aside(&self, path: &Path) {
        if let Err(error) = fs::rename(path, self.damaged.join(file_name(path))) {
            tracing::warn!(path = %path.display(), %error, "cannot set a damaged file aside");
        }
    }
}

impl Tombstone {
    /// Leaves a tombstone. For the plugin, when the agent does not answer.
    pub fn leave(run_dir: &Path, key: &EndpointKey, at: SystemTime) -> Result<(), StoreError> {
        let id = EndpointId::of(key);
        let sequence = peek(run_dir, &id).map(|attachment| attachment.sequence);
        let tombstone = Self { key: key.clone(), sequence, at: micros(at) };
        let dir = run_dir.join("tombstones");
        make_dir(&dir).map_err(|source| StoreError { what: "create", path: dir.clone(), source })?;
        write(&dir, &tombstone.file_name(), &tombstone)
    }

    /// Whether it means this attachment.
    pub fn means(&self, attachment: &Attachment) -> bool {
        self.key == attachment.endpoint.key
            && match self.sequence {
                Some(sequence) => sequence == attachment.sequence,
                None => attachment.sequence <= self.at,
            }
    }

    fn file_name(&self) -> String {
        format!("{}.{}.json", EndpointId::of(&self.key), self.sequence.unwrap_or(self.at))
    }
}

/// What is known of an endpoint from its file, if that is sound. For the plugin, when the agent does not answer.
pub fn peek(run_dir: &Path, id: &EndpointId) -> Option<Attachment> {
    read(&run_dir.join("endpoints").join(format!("{id}.json"))).ok()
}

/// Microseconds since 1970.
pub fn micros(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64)
}

fn copy_name(id: &EndpointId) -> String {
    format!("{id}.json")
}

/// Makes a directory that is ours alone, with those above it.
pub(super) fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Opens a file that is ours alone, to be written anew.
pub(super) fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let failed = |source| StoreError { what: "list", path: dir.to_owned(), source };
    fs::read_dir(dir).map_err(failed)?.map(|entry| entry.map(|e| e.path()).map_err(failed)).collect()
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let meta = fs::symlink_metadata(path).map_err(|e| e.to_string())?;
    if !meta.is_file() || meta.len() > MAX_FILE {
        return Err("not a file of a sensible size".to_owned());
    }
    let bytes = fs::read(path).map_err(|e| e.to_string())?;
    serde_json::from_slice(&bytes).map_err(|e| e.to_string())
}

/// Writes beside the target and renames, so that a reader sees the old file or the new one and nothing between.
fn write<T: Serialize>(dir: &Path, name: &str, value: &T) -> Result<(), StoreError> {
    let temporary = dir.join(format!(".{name}"));
    let failed = |source| StoreError { what: "write", path: dir.join(name), source };
    let open = || open_file(&temporary);
    let written = (|| {
        let bytes = serde_json::to_vec(value)?;
        let mut file = match open() {
            // Somebody has removed the run directory: no reason to refuse a container.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_dir(dir)?;
                open()?
            }
            other => other?,
        };
        file.write_all(&bytes)?;
        fs::rename(&temporary, dir.join(name))
    })();
    if written.is_err() {
        // The first error is the one to report; a left-over is removed at the next start.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(failed)
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        // A read-only file system says so before it looks whether there is anything to remove.
        Err(source)
            if source.kind() == io::ErrorKind::ReadOnlyFilesystem && fs::symlink_metadata(path).is_err() =>
        {
            Ok(())
        }
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(StoreError { what: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// How long ago the file was last renamed; none when that cannot be told.
fn age(path: &Path, now: SystemTime) -> Option<Duration> {
    let meta = fs::symlink_metadata(path).ok()?;
    let changed = Duration::new(meta.ctime().try_into().ok()?, meta.ctime_nsec().try_into().ok()?);
    let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    // A clock that was set back makes it look young, which is the safe side.
    Some(now.saturating_sub(changed))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::attachment::tests::sample;

    #[test]
    fn written_loaded_released_swept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), None).unwrap();
        let (one, two) = (sample("c1", 1), sample("c2", 2));
        store.put(&one).unwrap();
        store.put(&two).unwrap();
        store.put(&two).unwrap();
        let now = SystemTime::now();
        let mut loaded = Store::open(dir.path(), None).unwrap().load(now).unwrap();
        loaded.attachments.sort_by_key(|a| a.sequence);
        assert_eq!(loaded.attachments, [one.clone(), two.clone()]);
        store.release(&one).unwrap();
        store.release(&one).unwrap();
        store.forget(&two.endpoint.id).unwrap();
        let later = now + Duration::from_secs(100);
        let loaded = store.load(later).unwrap();
        assert!(loaded.attachments.is_empty() && loaded.damaged.is_empty());
        assert_eq!(loaded.released[0].0, one);
        assert!(loaded.released[0].1 > Duration::from_secs(90));
        store.sweep(Duration::from_secs(200), later).unwrap();
        assert_eq!(store.load(later).unwrap().released.len(), 1);
        store.sweep(Duration::from_secs(10), later).unwrap();
        assert!(store.load(later).unwrap().released.is_empty());
    }

    #[test]
    fn damaged_files_are_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), None).unwrap();
        let good = sample("c1", 1);
        store.put(&good).unwrap();
        let endpoints = dir.path().join("endpoints");
        let text = fs::read(endpoints.join(format!("{}.json", good.endpoint.id))).unwrap();
        fs::write(endpoints.join("s32aaaaaaaaaaa.json"), &text[..text.len() / 2]).unwrap();
        fs::write(endpoints.join("s32bbbbbbbbbbb.json"), &text).unwrap();
        fs::write(endpoints.join("s32ccccccccccc.json"), "").unwrap();
        fs::write(endpoints.join(".s32ddddddddddd.json"), &text).unwrap();
        fs::create_dir(endpoints.join("s32eeeeeeeeeee.json")).unwrap();
        fs::write(endpoints.join("README"), "not ours").unwrap();
        fs::write(dir.path().join("tombstones/x.json"), "{").unwrap();
        let loaded = store.load(SystemTime::now()).unwrap();
        assert_eq!(loaded.attachments, [good]);
        assert_eq!(loaded.damaged.len(), 4);
        assert_eq!(store.tombstones().unwrap(), []);
        assert_eq!(fs::read_dir(dir.path().join("damaged")).unwrap().count(), 5);
        assert_eq!(list(&endpoints).unwrap().len(), 2);
        assert!(store.load(SystemTime::now()).unwrap().damaged.is_empty());
    }

    #[test]
    fn tombstones_mean_one_incarnation() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), None).unwrap();
        let first = sample("c1", 7);
        let key = &first.endpoint.key;
        store.put(&first).unwrap();
        Tombstone::leave(dir.path(), key, SystemTime::now()).unwrap();
        Tombstone::leave(dir.path(), key, SystemTime::now()).unwrap();
        let found = store.tombstones().unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[0].means(&first));
        assert!(!found[0].means(&sample("c1", 8)) && !found[0].means(&sample("c2", 7)));
        store.bury(&found[0]).unwrap();
        assert_eq!(store.tombstones().unwrap(), []);
        // Without a file: everything up to now is meant, nothing after.
        store.forget(&first.endpoint.id).unwrap();
        let at = SystemTime::now();
        Tombstone::leave(dir.path(), key, at).unwrap();
        let found = store.tombstones().unwrap();
        assert!(found[0].means(&first) && !found[0].means(&sample("c1", micros(at) + 1)));
    }

    /// A plugin that is killed while it writes leaves a temporary file.
    #[test]
    fn abandoned_files_go() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), None).unwrap();
        let [young, old] =
            [".s32a.1.json", ".s32b.2.json"].map(|name| dir.path().join("tombstones").join(name));
        fs::write(&young, "{").unwrap();
        assert_eq!(store.tombstones_at(SystemTime::now()).unwrap(), []);
        assert!(young.exists());
        fs::rename(&young, &old).unwrap();
        assert_eq!(store.tombstones_at(SystemTime::now() + 2 * ABANDONED).unwrap(), []);
        assert!(!old.exists());
    }

    #[test]
    fn room_is_tried() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), None).unwrap();
        store.check_room().unwrap();
        assert_eq!(list(&dir.path().join("endpoints")).unwrap(), [] as [PathBuf; 0]);
        fs::remove_dir(dir.path().join("endpoints")).unwrap();
        store.check_room().unwrap_err();
    }

    #[test]
    fn failures_leave_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), None).unwrap();
        let one = sample("c1", 1);
        // The target is a directory: the rename fails, and the temporary file goes.
        fs::create_dir(dir.path().join(format!("endpoints/{}.json", one.endpoint.id))).unwrap();
        let error = CniError::from(store.put(&one).unwrap_err());
        assert_eq!(error.code, code::IO_FAILURE);
        assert_eq!(list(&dir.path().join("endpoints")).unwrap().len(), 1);
        fs::remove_dir_all(dir.path().join("endpoints")).unwrap();
        assert!(!store.is_there() && store.load(SystemTime::now()).is_err());
        store.release(&one).unwrap();
        store.put(&one).unwrap();
        assert!(store.is_there());
        fs::remove_dir_all(dir.path().join("endpoints")).unwrap();
        fs::write(dir.path().join("endpoints"), "not a folder").unwrap();
        assert!(store.put(&one).is_err() && !store.is_there());
    }
}
