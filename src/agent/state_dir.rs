//! The state directory: what outlives the run directory. One agent a directory, and none that has it is in the way of an
//! agent that does not: it goes on without, and says so.

use std::{
    fs::{DirBuilder, File, TryLockError},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::config::Config;

/// The locked file in it.
const LOCK: &str = "agent.lock";
/// An agent that is ending has so many times this long for it. It has let go of its run directory before.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(100);

/// The directory, if this agent has one.
#[derive(Debug, Default)]
pub(super) struct StateDir {
    /// Where it is.
    pub(super) path: Option<PathBuf>,
    /// Why there is none that should be.
    pub(super) trouble: Option<String>,
    /// Held as long as the agent lives.
    _lock: Option<File>,
}

/// Makes the directory and takes it.
pub(super) fn take(config: &Config) -> StateDir {
    let Some(path) = config.state_dir() else { return StateDir::default() };
    match lock(&path) {
        Ok(lock) => StateDir { path: Some(path), trouble: None, _lock: Some(lock) },
        Err(why) => {
            let trouble = format!("{}: {why}", path.display());
            tracing::warn!("{}", advice(&trouble));
            StateDir { trouble: Some(trouble), ..StateDir::default() }
        }
    }
}

fn lock(path: &Path) -> Result<File, String> {
    let failed = |error: std::io::Error| error.to_string();
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let file =
        File::options().create(true).truncate(false).write(true).open(path.join(LOCK)).map_err(failed)?;
    for _ in 0..TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {
                return Ok(file);
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
    Err("another agent uses it".to_owned())
}

/// What it means that it cannot be used, and what to do.
pub(super) fn advice(why: &str) -> String {
    format!(
        "the state directory cannot be used ({why}): a lost run directory would cost endpoints their labels, and after a \
         reboot it would not be known which of the host's addresses others have; free it or make room and start the agent \
         again, or name another one (`state_dir` of [agent], \"\" for none)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_agent_has_it_and_the_other_goes_without() {
        let dir = tempfile::tempdir().unwrap();
        let text = |path: &str| format!("[agent]\nstate_dir = {path:?}\n");
        let parse = |text: &str| {
            super::super::config::parse(
                Path::new("x.toml"),
                text,
                &super::super::config::Surroundings::default(),
            )
        };
        let state = dir.path().join("a/b");
        let config = parse(&text(state.to_str().unwrap())).unwrap();
        let first = take(&config);
        assert_eq!((first.path.as_deref(), &first.trouble), (Some(state.as_path()), &None));
        let second = take(&config);
        assert!(second.path.is_none() && second.trouble.unwrap().contains("another agent"));
        drop(first);
        assert!(take(&config).path.is_some());
        let none = take(&parse(&text("")).unwrap());
        assert!(none.path.is_none() && none.trouble.is_none());
        std::fs::write(dir.path().join("file"), "").unwrap();
        let broken = take(&parse(&text(dir.path().join("file/x").to_str().unwrap())).unwrap());
        assert!(broken.path.is_none() && broken.trouble.unwrap().contains("file/x"));
    }
}
