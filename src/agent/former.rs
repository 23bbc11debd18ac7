//! A changed `[routes] protocol`: the run directory says which number the agent before this one marked its routes
//! with, and they are given the new one where they are, so that no packet notices.

use std::{fs, io::ErrorKind, path::Path};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use super::files::replace;
use crate::netlink::{Socket, relabel};

/// The file's name in the run directory: what it tells about the kernel is true until the next boot, as that is.
const FILE: &str = "routes.json";

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// The number that marks routes as ours.
    protocol: u8,
    /// Numbers that did, and still mark next-hop objects as ours if an agent ended before it could delete them.
    #[serde(default)]
    former: Vec<u8>,
}

/// Makes the routes of an earlier protocol number those of this one. The answer is the numbers that next-hop objects
/// of ours may have beside it.
///
/// # Errors
/// When the file cannot be read or written, or the kernel refuses to change a route.
pub(super) fn take_over(run_dir: &Path, protocol: u8) -> anyhow::Result<Vec<u8>> {
    let path = run_dir.join(FILE);
    let before = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice::<Record>(&bytes)
            .inspect_err(|error| tracing::warn!(file = %path.display(), %error, "damaged, and written anew"))
            .ok(),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let after = next(before.clone(), protocol);
    if let Some(before) = before.as_ref().filter(|b| b.protocol != protocol) {
        ensure!(before.protocol > 4, "{}: protocol {} is not ours", path.display(), before.protocol);
        let routes = relabel(&mut Socket::route()?, before.protocol, protocol)
            .context("cannot give the routes their new protocol number")?;
        let from = before.protocol;
        tracing::info!(from, to = protocol, routes, "[routes] protocol has changed: routes taken over");
    }
    // Only now: if this process dies before, the next one does it again.
    if before.as_ref() != Some(&after) {
        write(&path, &after).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(after.former)
}

fn next(before: Option<Record>, protocol: u8) -> Record {
    let mut former = Vec::new();
    if let Some(before) = before {
        former = before.former;
        former.push(before.protocol);
        former.sort_unstable();
        former.dedup();
        former.retain(|p| *p != protocol && *p > 4);
    }
    Record { protocol, former }
}

fn write(path: &Path, record: &Record) -> std::io::Result<()> {
    replace(path, &serde_json::to_vec(record)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_remembered_once() {
        let dir = tempfile::tempdir().unwrap();
        let take = |protocol| {
            next(fs::read(dir.path().join(FILE)).ok().map(|b| serde_json::from_slice(&b).unwrap()), protocol)
        };
        for (protocol, former) in [(32, &[][..]), (32, &[]), (77, &[32]), (78, &[32, 77]), (32, &[77, 78])] {
            let record = take(protocol);
            assert_eq!((record.protocol, record.former.as_slice()), (protocol, former));
            write(&dir.path().join(FILE), &record).unwrap();
        }
    }

    #[test]
    fn a_damaged_file_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(take_over(dir.path(), 32).unwrap(), [0_u8; 0]);
        let text = fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert_eq!(text, r#"{"protocol":32,"former":[]}"#);
    }
}
