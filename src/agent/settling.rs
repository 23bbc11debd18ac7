//! When a policy folder that changes is read: once whoever writes to it is done.
//!
//! Editors and `cp` empty a file and write it in pieces. Half a file can be a whole one to a parser, and an empty one
//! says that there are no policies: read too early, either opens what it should close. So a folder is read when it has
//! looked the same twice. A file that somebody still has open for writing, and one that has become empty, get
//! [`DOUBT`] more, in which the last good policies stay in force. Nobody can hold a change off longer than [`MOST`].

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::files::Fingerprint;
use crate::{netlink::lease, policy::language};

/// How long a file that does not change may be empty, or open for writing, before it is taken as it is.
const DOUBT: Duration = Duration::from_secs(10);

/// How long after the first change the folder is read in any case.
const MOST: Duration = Duration::from_secs(60);

/// What a folder looked like when it was read, and what it has looked like since.
#[derive(Debug)]
pub(super) struct Settling {
    read: Fingerprint,
    seen: Fingerprint,
    /// When it began to look different, and when it has changed last.
    changing: Option<(Instant, Instant)>,
    /// Somebody was told that it is waited for.
    told: bool,
}

impl Settling {
    /// Of a folder that has just been read, or is to be.
    pub(super) fn new(read: Option<Fingerprint>) -> Self {
        let read = read.unwrap_or_default();
        Self { seen: read.clone(), read, changing: None, told: false }
    }

    /// Looks at a folder; whether it is to be read now.
    pub(super) fn look(&mut self, folder: &Path, now: Instant) -> bool {
        self.decide(Fingerprint::of_folder(folder), now, || written(folder))
    }

    /// `written`: a file that somebody is writing to.
    fn decide(
        &mut self,
        found: Fingerprint,
        now: Instant,
        written: impl FnOnce() -> Option<PathBuf>,
    ) -> bool {
        if found == self.read {
            (self.seen, self.changing, self.told) = (found, None, false);
            return false;
        }
        let (since, mut last) = self.changing.unwrap_or((now, now));
        let moves = found != self.seen;
        if moves {
            (self.seen, last) = (found, now);
        }
        self.changing = Some((since, last));
        let late = now.duration_since(since) >= MOST;
        if moves && !late {
            return false;
        }
        let emptied = self.seen.emptied_since(&self.read).next();
        let doubt = emptied.map(|file| format!("{} is empty (0 octets)", file.display()));
        if let Some(doubt) = doubt.or_else(|| written().map(|file| is_written(&file))) {
            if !late && now.duration_since(last) < DOUBT {
                if !std::mem::replace(&mut self.told, true) {
                    let most = DOUBT.as_secs();
                    tracing::warn!("policy folder: {doubt}; the last good policies stay for up to {most} s");
                }
                return false;
            }
            tracing::warn!("policy folder: {doubt} still; it is taken as it is");
        } else if moves {
            tracing::warn!("policy folder: it has changed for {} s; it is taken as it is", MOST.as_secs());
        }
        (self.read, self.changing, self.told) = (self.seen.clone(), None, false);
        true
    }
}

/// Why a folder should not be read yet by a process that has just started, if so; `had_text`: whether a file had any
/// when it was read last.
pub(super) fn doubt_at_start(folder: &Path, had_text: impl Fn(&str) -> bool) -> Option<String> {
    let files = language::policy_files(folder);
    let is_empty = |file: &PathBuf| fs::metadata(file).is_ok_and(|m| m.is_file() && m.len() == 0);
    let emptied = files.iter().find(|file| is_empty(file) && had_text(&file.display().to_string()));
    let emptied = emptied.map(|file| format!("{} has become empty (0 octets)", file.display()));
    emptied.or_else(|| written(folder).map(|file| is_written(&file)))
}

fn is_written(file: &Path) -> String {
    format!("somebody is writing to {}", file.display())
}

/// A policy file that somebody has open for writing.
fn written(folder: &Path) -> Option<PathBuf> {
    language::policy_files(folder).into_iter().find(|file| lease::is_open_for_writing(file))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A folder on a clock of half seconds.
    struct Watched {
        folder: tempfile::TempDir,
        settling: Settling,
        start: Instant,
        looks: u32,
    }

    impl Watched {
        fn new(text: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("a.toml"), text).unwrap();
            let settling = Settling::new(Some(Fingerprint::of_folder(folder.path())));
            Self { folder, settling, start: Instant::now(), looks: 0 }
        }

        fn file(&self) -> PathBuf {
            self.folder.path().join("a.toml")
        }

        fn look(&mut self) -> bool {
            self.looks += 1;
            self.settling.look(self.folder.path(), self.start + self.looks * Duration::from_millis(500))
        }

        /// After how many looks from now it is read, if within so many.
        fn read_within(&mut self, looks: u32) -> Option<u32> {
            (1..=looks).find(|_| self.look())
        }
    }

    #[test]
    fn a_change_is_read_when_it_is_over() {
        let mut watched = Watched::new("x");
        assert_eq!(watched.read_within(5), None);
        for n in 0..20 {
            fs::write(watched.file(), "y".repeat(n + 2)).unwrap();
            assert!(!watched.look());
        }
        assert_eq!(watched.read_within(5), Some(1));
        assert_eq!(watched.read_within(5), None);
        fs::remove_file(watched.file()).unwrap();
        assert_eq!(watched.read_within(5), Some(2), "a file that is gone says so");
    }

    #[test]
    fn who_writes_is_waited_for_but_not_for_ever() {
        let mut watched = Watched::new("old");
        let mut file = fs::File::create(watched.file()).unwrap();
        file.write_all(b"half").unwrap();
        assert_eq!(watched.read_within(15), None);
        file.write_all(b" and more").unwrap();
        assert_eq!(watched.read_within(15), None);
        drop(file);
        assert_eq!(watched.read_within(1), Some(1));
        // One that never closes it.
        fs::write(watched.file(), "ends").unwrap();
        let open = fs::File::options().append(true).open(watched.file()).unwrap();
        assert_eq!(watched.read_within(100), Some(21), "10 s after the last change");
        drop(open);
        // And one that never ends.
        let mut file = fs::File::create(watched.file()).unwrap();
        let mut within = 0..200;
        let read = within.find(|_| {
            file.write_all(b"more").unwrap();
            watched.look()
        });
        assert_eq!(read, Some(120), "60 s after the first");
    }

    #[test]
    fn an_empty_file_is_believed_later() {
        let mut watched = Watched::new("old");
        fs::write(watched.file(), "").unwrap();
        assert_eq!(watched.read_within(15), None);
        fs::write(watched.file(), "newer").unwrap();
        assert_eq!(watched.read_within(5), Some(2));
        fs::write(watched.file(), "").unwrap();
        assert_eq!(watched.read_within(100), Some(21));
        assert_eq!(watched.read_within(100), None);
        // One that was never anything else is nothing to wait for.
        fs::write(watched.folder.path().join("b.toml"), "").unwrap();
        assert_eq!(watched.read_within(5), Some(2));
    }

    #[test]
    fn a_new_process_waits_as_well() {
        let watched = Watched::new("");
        let folder = watched.folder.path();
        assert_eq!(doubt_at_start(folder, |_| false), None);
        let doubt = doubt_at_start(folder, |name| name.ends_with("/a.toml")).unwrap();
        assert!(doubt.ends_with("a.toml has become empty (0 octets)"), "{doubt}");
        let open = fs::File::create(watched.file()).unwrap();
        let doubt = doubt_at_start(folder, |_| false).unwrap();
        assert!(doubt.starts_with("somebody is writing to "), "{doubt}");
        drop(open);
        assert_eq!(doubt_at_start(folder, |_| false), None);
    }
}
