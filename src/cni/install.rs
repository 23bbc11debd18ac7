//! `slash32 cni install` and `uninstall`: the plugin and its network configuration, put in place by atomic renames.
//!
//! A binary that is running cannot be overwritten (ETXTBSY) but can be replaced by a rename. containerd does not
//! notice a configuration that is renamed into its directory from another one, so the temporary file lies beside it,
//! under a name no runtime reads.

use std::{
    env, fs,
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process,
};

use serde_json::Value;

use super::types::{CniError, names};
use crate::api::DEFAULT_RUN_DIR;

/// The plugin's file name, which network configurations give as `type`.
pub const BINARY: &str = "slash32";
/// The configuration's file name; runtimes take the first in alphabetical order.
pub const CONFLIST: &str = "10-slash32.conflist";
/// The configuration as it is shipped.
const TEMPLATE: &str = include_str!("../../config/10-slash32.conflist");

/// Why something could not be put in place or removed. What was done before stays.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A file operation failed.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The network's name is not valid.
    #[error("{0}")]
    Name(CniError),
    /// What is in the place is somebody else's.
    #[error(
        "{path} is not slash32's: it is {what}; move it away, or say `--force` to have it replaced or removed"
    )]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// What seems to be in it.
        what: String,
    },
}

/// Puts this program into `bin_dir` and a configuration for `network` into `conf_dir`, the binary first, so that no
/// runtime finds a configuration without its plugin. What is there and not slash32's stays unless `force`, and is an error
/// before anything has changed. Answers what has changed; a configuration that was there and
/// differs is kept beside the new one as `10-slash32.conflist.old` (or `.old.1` and so on), and that is told.
pub fn install(
    bin_dir: &Path,
    conf_dir: &Path,
    network: &str,
    run_dir: &Path,
    force: bool,
) -> Result<Vec<PathBuf>, InstallError> {
    let program = env::current_exe().map_err(failed("find", Path::new("/proc/self/exe")))?;
    if !force {
        nothing_of_others(&program, bin_dir, conf_dir)?;
    }
    install_program(&program, bin_dir, conf_dir, network, run_dir)
}

/// Removes what [`install`] put there, the configuration first. Answers what was removed. A configuration that somebody
/// has changed is kept, as by [`install`], and so is what is not slash32's, unless `force`.
pub fn uninstall(bin_dir: &Path, conf_dir: &Path, force: bool) -> Result<Vec<PathBuf>, InstallError> {
    if !force {
        let program = env::current_exe().map_err(failed("find", Path::new("/proc/self/exe")))?;
        nothing_of_others(&program, bin_dir, conf_dir)?;
    }
    let mut changed = Vec::new();
    if let Some(text) = fs::read(conf_dir.join(CONFLIST)).ok().filter(|text| !is_as_installed(text)) {
        keep(conf_dir, &text)?;
    }
    for path in [conf_dir.join(CONFLIST), bin_dir.join(BINARY)] {
        match fs::remove_file(&path) {
            Ok(()) => changed.push(path),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(InstallError::Io { what: "remove", path, source }),
        }
    }
    Ok(changed)
}

/// The configuration for a network.
pub fn conflist(network: &str, run_dir: &Path) -> Result<String, InstallError> {
    names::network_name(network).map_err(InstallError::Name)?;
    if (network, run_dir) == ("slash32", Path::new(DEFAULT_RUN_DIR)) {
        return Ok(TEMPLATE.to_owned());
    }
    let mut list: Value =
        serde_json::from_str(TEMPLATE).expect("the file in config/ is JSON, as a test makes sure");
    list["name"] = network.into();
    list["plugins"][0]["run_dir"] = run_dir.to_string_lossy().into();
    Ok(format!("{list:#}\n"))
}

fn install_program(
    program: &Path,
    bin_dir: &Path,
    conf_dir: &Path,
    network: &str,
    run_dir: &Path,
) -> Result<Vec<PathBuf>, InstallError> {
    let text = conflist(network, run_dir)?;
    let mut changed = Vec::new();
    for dir in [bin_dir, conf_dir] {
        fs::create_dir_all(dir).map_err(failed("create", dir))?;
    }
    let binary = bin_dir.join(BINARY);
    let usable = is_usable(&binary, 0o755);
    // A large file, which need not be read where it is started from.
    if !(usable && same_file(program, &binary)) {
        let bytes = fs::read(program).map_err(failed("read", program))?;
        if !usable || fs::read(&binary).ok().as_ref() != Some(&bytes) {
            replace(&binary, &bytes, 0o755)?;
            changed.push(binary);
        }
    }
    let conf = conf_dir.join(CONFLIST);
    match fs::read(&conf) {
        Ok(old) if old == text.as_bytes() && is_usable(&conf, 0o644) => return Ok(changed),
        Ok(old) if !is_as_installed(&old) => keep(conf_dir, &old)?,
        _ => {}
    }
    replace(&conf, text.as_bytes(), 0o644)?;
    changed.push(conf);
    Ok(changed)
}

/// Looks into what is in our places.
fn nothing_of_others(program: &Path, bin_dir: &Path, conf_dir: &Path) -> Result<(), InstallError> {
    let places =
        [(bin_dir.join(BINARY), is_program as fn(&[u8]) -> bool), (conf_dir.join(CONFLIST), is_network)];
    for (path, is_ours) in places {
        if same_file(program, &path) {
            continue;
        }
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(InstallError::Io { what: "read", path, source }),
        };
        if !is_ours(&bytes) {
            return Err(InstallError::NotOurs { what: describe(&bytes), path });
        }
    }
    Ok(())
}

/// Whether a program is slash32, of whatever version: each has the words it introduces itself with as a plugin.
fn is_program(bytes: &[u8]) -> bool {
    const WORDS: &[u8] = b"CNI slash32 plugin v";
    bytes.starts_with(b"\x7fELF") && bytes.windows(WORDS.len()).any(|window| window == WORDS)
}

/// Whether a configuration has our plugin, or had it before somebody made a mistake in it.
fn is_network(bytes: &[u8]) -> bool {
    match serde_json::from_slice::<Value>(bytes) {
        Ok(list) => list["plugins"].as_array().into_iter().flatten().any(|plugin| plugin["type"] == BINARY),
        Err(_) => String::from_utf8_lossy(bytes).contains(BINARY),
    }
}

/// What a file seems to be, for people.
fn describe(bytes: &[u8]) -> String {
    match bytes {
        [] => "an empty file".to_owned(),
        [0x7f, b'E', b'L', b'F', ..] => "another program".to_owned(),
        [b'#', b'!', ..] => {
            let first: String =
                String::from_utf8_lossy(bytes).lines().next().unwrap_or_default().chars().take(60).collect();
            format!("a script ({first})")
        }
        _ if serde_json::from_slice::<Value>(bytes).is_ok() => {
            "a network configuration without slash32".to_owned()
        }
        _ => format!("a file of {} bytes", bytes.len()),
    }
}

/// Whether a file has at least these permissions, can be written by nobody else, and belongs to who runs this: root runs
/// what is in it.
fn is_usable(path: &Path, mode: u32) -> bool {
    let (Ok(file), Ok(we)) = (fs::metadata(path), fs::metadata("/proc/self")) else { return false };
    file.mode() & mode == mode && file.mode() & 0o022 == 0 && file.uid() == we.uid()
}

/// Whether a configuration is as [`conflist`] makes it, for whatever network and run directory.
fn is_as_installed(text: &[u8]) -> bool {
    let Ok(list) = serde_json::from_slice::<Value>(text) else { return false };
    let run_dir = list["plugins"][0]["run_dir"].as_str().unwrap_or(DEFAULT_RUN_DIR);
    let ours = list["name"].as_str().and_then(|network| conflist(network, Path::new(run_dir)).ok());
    ours.is_some_and(|ours| ours.as_bytes() == text)
}

/// Keeps a configuration that was changed, under the first of the names `.old`, `.old.1` … that is free or has it.
fn keep(conf_dir: &Path, text: &[u8]) -> Result<(), InstallError> {
    let mut path = conf_dir.join(format!("{CONFLIST}.old"));
    let mut number = 0;
    while let Ok(there) = fs::read(&path) {
        if there == text {
            return Ok(());
        }
        number += 1;
        path = conf_dir.join(format!("{CONFLIST}.old.{number}"));
    }
    replace(&path, text, 0o644)?;
    eprintln!("slash32: the network configuration was not as installed; it is kept as {}", path.display());
    Ok(())
}

/// Writes a file beside the target and renames it.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), InstallError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", process::id()));
    let written = (|| {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        // Whatever the umask.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        // These files, unlike those in /run, must survive a power failure.
        file.sync_all()?;
        drop(file);
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(failed("write", path))
}

/// Whether two paths lead to one file.
pub(super) fn same_file(a: &Path, b: &Path) -> bool {
    match (fs::metadata(a), fs::metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError::Io { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::types::NetConf;

    #[test]
    fn the_shipped_configuration_is_valid() {
        for text in [TEMPLATE.to_owned(), conflist("blue", Path::new("/tmp/x")).unwrap()] {
            let list: Value = serde_json::from_str(&text).unwrap();
            for version in list["cniVersions"].as_array().unwrap() {
                // As libcni hands it to a plugin.
                let mut plugin = list["plugins"][0].clone();
                plugin["cniVersion"] = version.clone();
                plugin["name"] = list["name"].clone();
                assert!(NetConf::parse(&plugin).is_ok());
                assert_eq!(plugin["type"], BINARY);
            }
        }
        assert_eq!(conflist("a/b", Path::new("/x")).unwrap_err().to_string().lines().count(), 1);
        let list: Value = serde_json::from_str(&conflist("blue", Path::new("/tmp/x")).unwrap()).unwrap();
        assert_eq!((&list["name"], &list["plugins"][0]["run_dir"]), (&"blue".into(), &"/tmp/x".into()));
    }

    #[test]
    fn installed_again_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (bin, conf) = (dir.path().join("opt/bin"), dir.path().join("net.d"));
        let program = dir.path().join("program");
        let bytes = |name: &str| format!("\x7fELF {name} CNI slash32 plugin v0.0.1");
        fs::write(&program, bytes("one")).unwrap();
        let run = || install_program(&program, &bin, &conf, "net", Path::new("/run/slash32")).unwrap();
        assert_eq!(run(), [bin.join(BINARY), conf.join(CONFLIST)]);
        assert_eq!(run(), [] as [PathBuf; 0]);
        assert_eq!(fs::metadata(bin.join(BINARY)).unwrap().permissions().mode() & 0o777, 0o755);
        // An update while the plugin runs, and a configuration that somebody has edited.
        fs::write(&program, bytes("two")).unwrap();
        fs::write(conf.join(CONFLIST), "edited slash32").unwrap();
        let open = fs::File::open(bin.join(BINARY)).unwrap();
        assert_eq!(run().len(), 2);
        assert_eq!(io::read_to_string(open).unwrap(), bytes("one"));
        assert_eq!(fs::read_to_string(bin.join(BINARY)).unwrap(), bytes("two"));
        assert_eq!(fs::read_to_string(conf.join("10-slash32.conflist.old")).unwrap(), "edited slash32");
        assert_eq!(fs::read_dir(&conf).unwrap().count(), 2);
        // Started from where it is to be.
        let own = bin.join(BINARY);
        assert_eq!(
            install_program(&own, &bin, &conf, "net", Path::new("/run/slash32")).unwrap(),
            [] as [PathBuf; 0]
        );
        // Nothing that somebody has written is lost, however often.
        fs::write(conf.join(CONFLIST), "edited again: slash32").unwrap();
        assert_eq!(uninstall(&bin, &conf, false).unwrap().len(), 2);
        assert_eq!(uninstall(&bin, &conf, false).unwrap().len(), 0);
        assert_eq!(
            fs::read_to_string(conf.join("10-slash32.conflist.old.1")).unwrap(),
            "edited again: slash32"
        );
        run();
        assert_eq!(uninstall(&bin, &conf, false).unwrap().len(), 2);
        assert_eq!(fs::read_dir(&conf).unwrap().count(), 2);
    }

    /// Equal in content and yet not to be trusted, or of no use.
    #[test]
    fn what_is_there_with_a_wrong_mode_or_owner_is_mended() {
        let dir = tempfile::tempdir().unwrap();
        let (bin, conf) = (dir.path().join("bin"), dir.path().join("net.d"));
        let program = dir.path().join("program");
        fs::write(&program, "program").unwrap();
        let run = || install_program(&program, &bin, &conf, "net", Path::new("/run/slash32")).unwrap();
        assert_eq!(run().len(), 2);
        for (path, wrong, right) in [
            (bin.join(BINARY), [0o644, 0o777, 0o775], 0o755),
            (conf.join(CONFLIST), [0o600, 0o666, 0o664], 0o644),
        ] {
            for mode in wrong {
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                assert_eq!(run(), std::slice::from_ref(&path), "{mode:o}");
                assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, right);
            }
            std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
            assert_eq!(run(), std::slice::from_ref(&path));
            assert_eq!(fs::metadata(&path).unwrap().uid(), 0);
        }
        assert_eq!(run(), [] as [PathBuf; 0]);
    }

    #[test]
    fn what_is_somebody_elses_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (bin, conf) = (dir.path().join("bin"), dir.path().join("net.d"));
        let (program, list) = (bin.join(BINARY), conf.join(CONFLIST));
        let us = dir.path().join("program");
        fs::write(&us, "\x7fELF CNI slash32 plugin v9").unwrap();
        let install = || install_program(&us, &bin, &conf, "net", Path::new("/run/slash32")).unwrap();
        let others = [
            (&program, "#!/bin/sh\nexec other", "a script (#!/bin/sh)"),
            (&program, "\x7fELF other", "another program"),
            (&program, "", "an empty file"),
            (&list, r#"{"plugins":[{"type":"bridge"}]}"#, "a network configuration without"),
            (&list, "something", "a file of 9 bytes"),
        ];
        for (path, text, what) in others {
            install();
            nothing_of_others(&us, &bin, &conf).unwrap();
            fs::write(path, text).unwrap();
            let said = nothing_of_others(&us, &bin, &conf).unwrap_err().to_string();
            assert!(said.contains(what) && said.contains(path.to_str().unwrap()), "{said}");
            assert!(said.contains("--force"), "{said}");
            assert!(uninstall(&bin, &conf, false).is_err());
            let before = |path: &PathBuf| fs::read(path).unwrap().len();
            assert!(before(path) == text.len() && before(&program) + before(&list) > text.len());
            assert_eq!(uninstall(&bin, &conf, true).unwrap().len(), 2);
        }
        // A folder, which nobody means.
        fs::create_dir(&program).unwrap();
        assert!(nothing_of_others(&us, &bin, &conf).is_err());
    }
}
