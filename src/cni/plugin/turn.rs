//! One call at a time for a container's interface whose addresses another IPAM plugin gives.
//!
//! What the other plugin does and what the agent does then belong together: of two ADDs at once both would have addresses
//! given, and the one that the agent hears last would decide. The agent cannot wait for other plugins, so those who run them
//! wait for one another, by a lock on a file.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use crate::model::{EndpointId, EndpointKey};

/// How many files there are. Containers that share one only wait for each other.
const FILES: u8 = 64;
/// How long between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Waits for the turn; it lasts until the last descriptor of the file is closed, by whatever end of a process. None when
/// the time is over.
///
/// The files stay: whoever waits for one that is removed would wait for nobody.
pub(super) fn wait(run_dir: &Path, key: &EndpointKey, wait: Duration) -> io::Result<Option<File>> {
    let dir = run_dir.join("turns");
    DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(dir.join(number(key).to_string()))?;
    let until = Instant::now() + wait;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) if Instant::now() < until => thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

fn number(key: &EndpointKey) -> u8 {
    let id = EndpointId::of(key);
    id.as_str().bytes().fold(0u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte)) % FILES
}

/// Puts a text into the file, to be read from its beginning by a child that gets it: so the turn lasts as long as the child.
pub(super) fn fill(file: &File, text: &str) -> io::Result<File> {
    use io::{Seek, Write};
    let mut writer = file;
    file.set_len(0)?;
    writer.rewind()?;
    writer.write_all(text.as_bytes())?;
    writer.rewind()?;
    file.try_clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_children_count() {
        let dir = tempfile::tempdir().unwrap();
        let key = EndpointKey { network: "n".into(), container_id: "c".into(), ifname: "eth0".into() };
        let at_once = |run_dir: &Path| wait(run_dir, &key, Duration::ZERO).unwrap();
        let first = at_once(dir.path()).unwrap();
        assert!(at_once(dir.path()).is_none());
        let childs = fill(&first, "a longer text").unwrap();
        let childs = (childs, fill(&first, "text").unwrap());
        drop(first);
        assert!(at_once(dir.path()).is_none());
        assert_eq!(io::read_to_string(&childs.1).unwrap(), "text");
        drop(childs);
        assert!(at_once(dir.path()).is_some());
        assert_eq!(std::fs::read_dir(dir.path().join("turns")).unwrap().count(), 1);
        assert!(wait(Path::new("/proc/nowhere"), &key, Duration::ZERO).is_err());
    }
}
