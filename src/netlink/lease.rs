//! Whether a file is being written to.

use std::{fs::File, path::Path};

use super::sys;

/// Whether somebody has a regular file open for writing, as far as the kernel tells: it gives nobody a lease on such a
/// file (fcntl(2), `F_SETLEASE`). On file systems without leases, and of files of others without `CAP_LEASE`, the answer
/// is no.
pub fn is_open_for_writing(path: &Path) -> bool {
    // Of others, such as pipes, even opening can wait.
    let regular = std::fs::metadata(path).is_ok_and(|m| m.is_file());
    regular && File::open(path).is_ok_and(|file| sys::has_writer(&file))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn writers_show_and_readers_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert!(!is_open_for_writing(&path), "it is not there");
        let writer = File::create(&path).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(is_open_for_writing(&path) && is_open_for_writing(&link));
        let reader = File::open(&path).unwrap();
        drop(writer);
        for _ in 0..3 {
            assert!(!is_open_for_writing(&path), "and nothing is left of having asked");
        }
        drop(reader);
        fs::write(&path, "goes on").unwrap();
        assert!(!is_open_for_writing(&path));
        assert!(!is_open_for_writing(dir.path()), "a folder");
    }
}
