//! The image that real runtimes run, and the cgroups they leave.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{Machine, programs};

/// Its name in every runtime of a lab.
pub(crate) const IMAGE: &str = "localhost/lab:1";
/// What is in it, with the libraries it needs.
const IMAGE_PROGRAMS: [&str; 4] = ["sh", "sleep", "ping", "ip"];

/// A cgroup for the containers of a machine: all machines of a computer share one tree.
pub(crate) fn cgroup(machine: &Machine) -> String {
    format!("{}-{}", cgroup_prefix(std::process::id()), machine.host_pid())
}

/// The lab's image as an archive for `ctr images import` and `podman load`, made of programs of this computer: nothing is downloaded.
pub(crate) fn archive(dir: &Path) -> Result<PathBuf> {
    let work = tempfile::tempdir_in(dir).context("temporary directory")?;
    let root = work.path().join("root");
    for program in IMAGE_PROGRAMS {
        copy_program(&find(program)?, &root)?;
    }
    copy_program(&programs::lab_tool()?, &root)?;
    for empty in ["proc", "sys", "dev", "tmp", "etc"] {
        fs::create_dir_all(root.join(empty)).with_context(|| format!("create {empty}"))?;
    }

    let layer = work.path().join("layer.tar");
    tar(&root, &layer)?;
    let digest = hex::encode(Sha256::digest(fs::read(&layer).context("read the layer")?));
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "architecture": architecture, "os": "linux",
        "config": { "Env": ["PATH=/bin"], "Cmd": ["/bin/sleep", "infinity"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    let manifest = json!([{ "Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"] }]);
    let image = work.path().join("image");
    fs::create_dir(&image).context("create image")?;
    fs::rename(&layer, image.join("layer.tar")).context("move the layer")?;
    fs::write(image.join("config.json"), config.to_string()).context("write config.json")?;
    fs::write(image.join("manifest.json"), manifest.to_string()).context("write manifest.json")?;
    let archive = dir.join("image.tar");
    tar(&image, &archive)?;
    Ok(archive)
}

/// Copies a program to `/bin` of `root`, and its libraries to where they are here.
fn copy_program(program: &Path, root: &Path) -> Result<()> {
    let name = program.file_name().context("a program has a name")?;
    copy(program, &root.join("bin").join(name))?;
    let output = Command::new("ldd").arg(program).output().context("start ldd")?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        // `libc.so.6 => /lib/… (0x…)` or `/lib64/ld-linux… (0x…)`
        if let Some(path) = line.split_whitespace().find(|word| word.starts_with('/')) {
            copy(Path::new(path), &root.join(path.trim_start_matches('/')))?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let dir = to.parent().context("a file is in a directory")?;
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    fs::copy(from, to).map(drop).with_context(|| format!("copy {}", from.display()))
}

fn find(program: &str) -> Result<PathBuf> {
    ["/bin", "/usr/bin", "/sbin", "/usr/sbin"]
        .iter()
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.is_file())
        .with_context(|| format!("{program} is not installed"))
}

fn tar(dir: &Path, archive: &Path) -> Result<()> {
    let status = Command::new("tar")
        .arg("-C")
        .arg(dir)
        .arg("-cf")
        .arg(archive)
        .arg(".")
        .status()
        .context("start tar")?;
    if !status.success() {
        bail!("tar of {}: {status}", dir.display());
    }
    Ok(())
}

/// The beginning of the containerd namespaces, and so of the cgroups, of a test process.
pub(crate) fn cgroup_prefix(pid: u32) -> String {
    format!("s32lab-{pid}")
}

/// Removes the empty cgroups that runc leaves when everything in it is killed at once, of processes for which `gone`
/// says they are gone.
pub(crate) fn remove_cgroups(gone: impl Fn(u32) -> bool) {
    let Ok(trees) = fs::read_dir("/sys/fs/cgroup") else { return };
    let trees = trees.flatten().map(|entry| entry.path());
    for tree in trees.chain([PathBuf::from("/sys/fs/cgroup")]) {
        let Ok(entries) = fs::read_dir(tree) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let pid = name.strip_prefix("s32lab-").and_then(|rest| rest.split('-').next()?.parse().ok());
            if pid.is_some_and(&gone) {
                remove_cgroup(&entry.path());
            }
        }
    }
}

/// Only directories can be removed from a cgroup tree, the innermost first.
fn remove_cgroup(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    drop(fs::remove_dir(dir));
}
