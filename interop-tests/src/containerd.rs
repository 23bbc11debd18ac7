//! containerd and runc on a machine (Debian packages containerd and runc), with real containers started by
//! `ctr run --cni`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::cni::Network;
use crate::machine::{Cmd, Machine, Process};
use crate::{PATIENCE, eventually, ping, programs};

/// Name of the image in every containerd of a lab.
const IMAGE: &str = "localhost/lab:1";
/// What is in the image, with the libraries it needs.
const IMAGE_PROGRAMS: [&str; 4] = ["sh", "sleep", "ping", "ip"];

/// No CRI: `ctr` does not use it, and it wants to manage the network itself.
const CONFIG: &str = r#"version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs"]
"#;

/// A running containerd, its files in the machine's own directories.
pub struct Containerd {
    machine: Machine,
    process: Process,
    namespace: String,
}

/// A container run by containerd.
pub struct CtrContainer<'a> {
    containerd: &'a Containerd,
    id: String,
    run: Process,
}

impl Containerd {
    /// Starts containerd, imports the lab's image and configures the network for `ctr run --cni`.
    pub fn start(machine: &Machine, network: &Network) -> Result<Self> {
        machine.write("/etc/containerd/config.toml", CONFIG)?;
        machine.write("/etc/cni/net.d/10-lab.conflist", network.conflist())?;
        machine.own("/var/lib/containerd")?;
        let process =
            machine.command("containerd").spawn("containerd").context("Debian package containerd")?;
        // Becomes a part of cgroup names, which all machines of a computer share.
        let namespace = format!("{}-{}", cgroup_prefix(std::process::id()), machine.host_pid());
        let containerd = Self { machine: machine.clone(), process, namespace };
        eventually("containerd answers", PATIENCE, || {
            containerd.process.check()?;
            containerd.ctr(["version"]).run()
        })?;
        let image = image(machine.log_dir())?;
        containerd.ctr(["images", "import"]).arg(image.display()).run()?;
        Ok(containerd)
    }

    /// The daemon.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// A `ctr` command line.
    pub fn ctr<T: ToString>(&self, args: impl IntoIterator<Item = T>) -> Cmd {
        self.machine.command("ctr").args(["--namespace", &self.namespace]).args(args)
    }

    /// `ctr run --cni`: a container that sleeps, attached to the network. In the foreground, because only then does `ctr` detach it
    /// in the end.
    pub fn run(&self, id: &str) -> Result<CtrContainer<'_>> {
        let run =
            self.ctr(["run", "--cni", IMAGE, id, "/bin/sleep", "infinity"]).spawn(&format!("ctr-{id}"))?;
        let container = CtrContainer { containerd: self, id: id.to_owned(), run };
        eventually(&format!("{id} runs"), PATIENCE, || {
            container.run.check()?;
            container.address(false)
        })?;
        Ok(container)
    }
}

impl CtrContainer<'_> {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A program to run in it (`ctr task exec`).
    pub fn command(&self, program: &str) -> Cmd {
        // Needs an id for the process, of no meaning to us.
        let args = ["task", "exec", "--exec-id", "exec", &self.id, program];
        self.containerd.ctr(args)
    }

    /// Pings once from inside.
    pub fn ping(&self, address: &str) -> Result<()> {
        ping::ping(self.command("ping"), address).with_context(|| format!("from {}", self.id))
    }

    /// The address of `eth0`, without its length, as the container itself sees it.
    pub fn address(&self, six: bool) -> Result<String> {
        let family = if six { "-6" } else { "-4" };
        let shown = self
            .command("ip")
            .args([family, "-o", "address", "show", "dev", "eth0", "scope", "global"])
            .run()?;
        let address = shown.split_whitespace().nth(3).with_context(|| format!("no address: {shown:?}"))?;
        Ok(address.split('/').next().unwrap_or(address).to_owned())
    }

    /// Kills the container's process; `ctr` then detaches (CNI DEL) and removes it.
    pub fn remove(self) -> Result<()> {
        self.containerd.ctr(["task", "kill", "--signal", "SIGKILL", &self.id]).run()?;
        self.run.wait(PATIENCE).map(drop)?;
        // It exits with the code of the container's process, so its words tell how it went.
        ensure!(self.run.log().trim().is_empty(), "ctr said: {}", self.run.log());
        self.containerd.ctr(["container", "delete", &self.id]).run().map(drop)
    }
}

/// The lab's image as an archive for `ctr images import`, made of programs of this computer: nothing is downloaded.
fn image(dir: &Path) -> Result<PathBuf> {
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
        "config": { "Env": ["PATH=/bin"] },
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
