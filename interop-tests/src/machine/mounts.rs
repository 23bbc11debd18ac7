//! The files a machine has to itself.
//!
//! `/run`, `/etc`, `/opt` and `/var/lib` are fresh tmpfs of the machine's own mount namespace, so
//! daemons run with their usual paths, several on one computer, and nothing is written to the
//! computer. `/etc`, `/opt` and `/var/lib` start as links to the computer's files, read-only; a
//! directory that is to be written is made the machine's own first ([`own`]). `/proc` and `/sys` show the machine's own
//! processes and interfaces.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

/// Directories of which a machine has its own version.
const PRIVATE: [&str; 4] = ["/run", "/etc", "/opt", "/var/lib"];
/// Where the computer's own directories stay reachable.
const ORIGINALS: &str = "/run/computer";
/// Programs the machine has beside the computer's: first in `PATH`.
pub(super) const BIN: &str = "/run/lab/bin";

/// Makes the machine's view, with `bins` as commands in [`BIN`] and the CNI plugins in
/// `/opt/cni/bin`.
pub(super) fn set_up(name: &str, bins: &[PathBuf]) -> Result<()> {
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context("make mounts private")?;
    rustix::mount::mount("proc", "/proc", "proc", MountFlags::empty(), None).context("mount /proc")?;
    fresh_sys()?;
    tmpfs("/run")?;
    for dir in PRIVATE.iter().filter(|dir| **dir != "/run") {
        cover_with_links(Path::new(dir))?;
    }
    for dir in ["/run/netns", "/run/lock", BIN, "/etc/slash32", "/etc/cni/net.d", "/opt/cni/bin"] {
        own(Path::new(dir))?;
    }
    write_private("/etc/hostname", &format!("{name}\n"))?;
    write_private("/etc/hosts", &format!("127.0.0.1 localhost {name}\n::1 localhost {name}\n"))?;
    for plugins in ["/usr/lib/cni", "/usr/libexec/cni"] {
        if let Ok(entries) = fs::read_dir(plugins) {
            for entry in entries.flatten() {
                link(&entry.path(), &Path::new("/opt/cni/bin").join(entry.file_name()))?;
            }
        }
    }
    for bin in bins {
        let file = bin.file_name().context("a program has a name")?;
        link(bin, &Path::new(BIN).join(file))?;
        link(bin, &Path::new("/opt/cni/bin").join(file))?;
    }
    Ok(())
}

fn tmpfs(dir: &str) -> Result<()> {
    rustix::mount::mount("tmpfs", dir, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=755"))
        .with_context(|| format!("mount a tmpfs on {dir}"))
}

/// A sysfs of this network namespace, with the cgroup trees of the old one kept: runc needs them.
fn fresh_sys() -> Result<()> {
    let keep = tempfile_dir()?;
    let had_cgroups = rustix::mount::mount_bind_recursive("/sys/fs/cgroup", &keep).is_ok();
    rustix::mount::mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None).context("mount /sys")?;
    if had_cgroups {
        rustix::mount::mount_bind_recursive(&keep, "/sys/fs/cgroup").context("bring back /sys/fs/cgroup")?;
        rustix::mount::unmount(&keep, UnmountFlags::DETACH).context("unmount the kept cgroups")?;
    }
    fs::remove_dir(&keep).context("remove the directory of the kept cgroups")
}

fn tempfile_dir() -> Result<PathBuf> {
    Ok(tempfile::Builder::new().prefix("s32-lab-cgroup-").tempdir().context("temporary directory")?.keep())
}

/// Covers `dir` with a tmpfs of links to what was there, and makes what was there read-only.
fn cover_with_links(dir: &Path) -> Result<()> {
    let name = dir.to_string_lossy().trim_start_matches('/').replace('/', "-");
    let kept = Path::new(ORIGINALS).join(name);
    fs::create_dir_all(&kept).with_context(|| format!("create {}", kept.display()))?;
    rustix::mount::mount_bind_recursive(dir, &kept).with_context(|| format!("bind {}", dir.display()))?;
    rustix::mount::mount_remount(&kept, MountFlags::BIND | MountFlags::RDONLY, c"")
        .with_context(|| format!("make {} read-only", kept.display()))?;
    tmpfs(&dir.to_string_lossy())?;
    link_all(&kept, dir)
}

/// Gives the machine `dir` as its own: real directories all the way, empty at the end unless it
/// was the machine's already. Refuses what is not under a private mount.
pub(super) fn own(dir: &Path) -> Result<()> {
    if !PRIVATE.iter().any(|private| dir.starts_with(private))
        || dir.components().any(|c| c == Component::ParentDir)
    {
        bail!("{} is the computer's; a machine owns {} only", dir.display(), PRIVATE.join(", "));
    }
    let mut at = PathBuf::new();
    for part in dir.components() {
        at.push(part);
        if at.is_symlink() {
            let original = fs::read_link(&at).with_context(|| format!("read link {}", at.display()))?;
            fs::remove_file(&at).with_context(|| format!("remove link {}", at.display()))?;
            fs::create_dir(&at).with_context(|| format!("create {}", at.display()))?;
            if at != dir {
                link_all(&original, &at)?;
            }
        } else if !at.exists() {
            fs::create_dir(&at).with_context(|| format!("create {}", at.display()))?;
        }
    }
    Ok(())
}

fn link_all(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("list {}", from.display()))? {
        let entry = entry.with_context(|| format!("list {}", from.display()))?;
        link(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

fn link(target: &Path, at: &Path) -> Result<()> {
    if at.is_symlink() {
        fs::remove_file(at).with_context(|| format!("remove {}", at.display()))?;
    }
    symlink(target, at).with_context(|| format!("link {} to {}", at.display(), target.display()))
}

/// Writes a file that hides the computer's, instead of writing through the link to it.
fn write_private(path: &str, text: &str) -> Result<()> {
    if Path::new(path).is_symlink() {
        fs::remove_file(path).with_context(|| format!("remove {path}"))?;
    }
    fs::write(path, text).with_context(|| format!("write {path}"))
}
