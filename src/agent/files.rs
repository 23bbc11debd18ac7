//! Files that others change, and files of our own that are read by the next process.
//!
//! Changes are noticed by looking: a fingerprint of the policy folder and of the files in it, twice a second. Polling
//! sees every way of changing a file (editors that rename, symbolic links that a configuration manager swaps, network
//! file systems), which notifications do not.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// Writes a file anew: first beside it, then in its place.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file =
        fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    fs::rename(&temporary, path)
}

/// How often to look.
pub(super) const INTERVAL: Duration = Duration::from_millis(500);

/// What a folder looks like: names, sizes and times of its files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fingerprint(Vec<(PathBuf, u64, Option<SystemTime>)>);

impl Fingerprint {
    /// Of a folder as it is now; a folder that is not there is an empty one.
    pub(super) fn of_folder(folder: &Path) -> Self {
        let mut entries: Vec<_> = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| {
                // Follows links: what counts is the file that will be read.
                let metadata = std::fs::metadata(entry.path()).ok();
                let size = metadata.as_ref().map_or(0, std::fs::Metadata::len);
                (entry.path(), size, metadata.and_then(|m| m.modified().ok()))
            })
            .collect();
        entries.sort();
        Self(entries)
    }

    /// The files that have no octet now and had some before.
    pub(super) fn emptied_since(&self, before: &Self) -> impl Iterator<Item = &Path> {
        let had = |path: &PathBuf| before.0.iter().any(|(other, size, _)| other == path && *size > 0);
        self.0.iter().filter(move |(path, size, _)| *size == 0 && had(path)).map(|(path, ..)| path.as_path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_show() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.toml");
        let empty = Fingerprint::of_folder(dir.path());
        assert_eq!(empty, Fingerprint::of_folder(Path::new("/nonexistent")));
        std::fs::write(&file, "x").unwrap();
        let one = Fingerprint::of_folder(dir.path());
        assert_ne!(one, empty);
        assert_eq!(one, Fingerprint::of_folder(dir.path()));
        std::fs::write(&file, "xy").unwrap();
        assert_ne!(one, Fingerprint::of_folder(dir.path()));
        std::os::unix::fs::symlink(&file, dir.path().join("b.toml")).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_ne!(empty, Fingerprint::of_folder(dir.path()));
    }
}
