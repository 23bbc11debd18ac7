//! What a restart needs, on a tmpfs.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::SessionKey;
use crate::bgp::bfd::SavedSession;

/// How often `alive` is renewed at most: well below any detection time. It is renewed when the thread wakes up anyway, which
/// is when packets are sent, and that is what a neighbour's patience counts from.
pub(super) const STAMP_INTERVAL: Duration = Duration::from_millis(20);

/// One session in `sessions.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) key: SessionKey,
    /// RFC 5881 section 4: a session keeps its source port.
    pub(super) source_port: u16,
    pub(super) session: SavedSession,
}

/// The directory, and what the last process left in it.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    alive: File,
    last_stamp: Option<Instant>,
    /// Sessions of the last process that may still be resumed.
    left: HashMap<SessionKey, Saved>,
    /// When the last process was last alive.
    left_at: SystemTime,
    /// What `sessions.json` says, once we have written it. What the last process wrote must not outlive its time stamp.
    written: Option<Vec<Saved>>,
}

impl Store {
    /// Opens the directory, creating it if need be.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let alive =
            File::options().read(true).write(true).create(true).truncate(false).open(dir.join("alive"))?;
        let mut stamp = [0; 8];
        let left_at = match alive.read_exact_at(&mut stamp, 0) {
            Ok(()) => UNIX_EPOCH.checked_add(Duration::from_millis(u64::from_be_bytes(stamp))),
            Err(_) => None,
        };
        // Whatever cannot be read is of no use: sessions then start anew.
        let text = fs::read(dir.join("sessions.json")).unwrap_or_default();
        let saved: Vec<Saved> = serde_json::from_slice(&text).unwrap_or_default();
        Ok(Self {
            dir: dir.to_owned(),
            alive,
            last_stamp: None,
            left: saved.into_iter().map(|s| (s.key.clone(), s)).collect(),
            left_at: left_at.unwrap_or(UNIX_EPOCH),
            written: None,
        })
    }

    /// The session to resume under this key, if the neighbour still has patience.
    pub(super) fn take(&mut self, key: &SessionKey) -> Option<Saved> {
        let saved = self.left.remove(key)?;
        // A clock set back in between makes this an error: then it is not known how long we were away.
        let away = SystemTime::now().duration_since(self.left_at).ok()?;
        (away < saved.session.patience()).then_some(saved)
    }

    /// Writes the sessions down if they have changed.
    pub(super) fn save(&mut self, sessions: Vec<Saved>) -> io::Result<()> {
        if self.written.as_ref() == Some(&sessions) {
            return Ok(());
        }
        let text = serde_json::to_vec(&sessions)?;
        let temporary = self.dir.join("sessions.json.new");
        fs::write(&temporary, text)?;
        fs::rename(temporary, self.dir.join("sessions.json"))?;
        self.written = Some(sessions);
        Ok(())
    }

    /// Renews the time stamp if it is time.
    pub(super) fn stamp(&mut self, now: Instant) -> io::Result<()> {
        if self.last_stamp.is_some_and(|last| now.saturating_duration_since(last) < STAMP_INTERVAL) {
            return Ok(());
        }
        self.last_stamp = Some(now);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.alive.write_all_at(&(since.as_millis() as u64).to_be_bytes(), 0)
    }

    /// Forgets all sessions.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.left.clear();
        self.save(Vec::new())
    }
}
