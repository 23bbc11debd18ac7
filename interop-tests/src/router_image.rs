//! Images of other people's routers (`interop-tests/images/`), run by an OCI runtime inside a machine.
//!
//! podman builds and stores them. A machine mounts an image's layers itself, with a layer of its own on top, and runs it
//! with `runc` (or `crun`) in the machine's network namespace: the container ends with the machine, whatever happens to
//! the test, and nothing is left in podman.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};

use crate::image::cgroup_prefix;
use crate::machine::{Cmd, Machine, Process, Signal};
use crate::{PATIENCE, eventually, programs};

/// The bundle's place in the machine.
const BUNDLE: &str = "/run/router";
/// The container's id; a machine has one at most.
const ID: &str = "router";
/// What routers need: ports below 1024, routes, raw sockets, users of their own; zebra asks for SYS_ADMIN.
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_ADMIN",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_ADMIN",
    "CAP_SYS_CHROOT",
    "CAP_SYS_NICE",
];

/// An image in podman's storage.
#[derive(Clone, Debug)]
pub struct Image {
    name: String,
    /// Its layers as overlayfs wants them, topmost first.
    layers: String,
    entrypoint: Vec<String>,
    env: Vec<String>,
    config_file: String,
}

/// An image that runs in a machine.
pub struct ImageRun {
    machine: Machine,
    image: Image,
    process: Process,
    pid: i32,
}

impl Image {
    /// The image of a router, by the name of its directory in `interop-tests/images/`.
    pub fn find(router: &str) -> Result<Self> {
        static FOUND: Mutex<Option<HashMap<String, Image>>> = Mutex::new(None);
        let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
        let found = found.get_or_insert_default();
        if let Some(image) = found.get(router) {
            return Ok(image.clone());
        }
        let image = Self::inspect(router)?;
        found.insert(router.to_owned(), image.clone());
        Ok(image)
    }

    /// Builds what is missing (`images/build.sh`).
    pub fn build(routers: &[&str]) -> Result<()> {
        let script = programs::repository().join("interop-tests/images/build.sh");
        let status = Command::new(&script).args(routers).status();
        let status = status.with_context(|| format!("start {}", script.display()))?;
        ensure!(status.success(), "{} {}: {status}", script.display(), routers.join(" "));
        Ok(())
    }

    /// What the image's router says of its version, without running a container.
    pub fn version(router: &str) -> Result<String> {
        let script = programs::repository().join("interop-tests/images/build.sh");
        let output = Command::new(&script).args(["--versions", router]).output();
        let output = output.with_context(|| format!("start {}", script.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        // A headline, then a line like `bird2  2.17  bird2 2.17-1  IMAGE`.
        let line = text.lines().nth(1).unwrap_or_default();
        let version = line.split_whitespace().nth(1).unwrap_or_default();
        ensure!(output.status.success() && !version.is_empty(), "no version of {router}: {text}");
        Ok(version.to_owned())
    }

    fn inspect(router: &str) -> Result<Self> {
        let name = format!("localhost/slash32-interop/{router}:trixie");
        let output = Command::new("podman").args(["image", "inspect", &name]).output();
        let output = output.context("start podman (Debian package podman)")?;
        if !output.status.success() {
            bail!("{name} is not there: run interop-tests/images/build.sh {router}");
        }
        let json: Value = serde_json::from_slice(&output.stdout).context("what podman says of the image")?;
        let image = &json[0];
        let words = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
        };
        let driver = &image["GraphDriver"];
        let layers = if driver["Name"] == "overlay" {
            let dirs = ["UpperDir", "LowerDir"].map(|key| driver["Data"][key].as_str().unwrap_or_default());
            dirs.into_iter().filter(|dir| !dir.is_empty()).collect::<Vec<_>>().join(":")
        } else {
            // With other storage drivers podman makes a directory of the whole, which stays mounted.
            let output = Command::new("podman").args(["image", "mount", &name]).output()?;
            ensure!(
                output.status.success(),
                "podman image mount: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        };
        ensure!(!layers.is_empty(), "{name}: podman names no layers: {driver}");
        let config_file = image["Labels"]["io.slash32.router.config"].as_str();
        Ok(Self {
            layers,
            entrypoint: words(&image["Config"]["Entrypoint"]),
            env: words(&image["Config"]["Env"]),
            config_file: config_file
                .with_context(|| format!("{name} names no configuration file"))?
                .to_owned(),
            name,
        })
    }
}

impl ImageRun {
    /// Runs an image with this text as its configuration, in the network namespace of the machine.
    pub fn start(machine: &Machine, image: &Image, config: &str, env: &[(&str, &str)]) -> Result<Self> {
        for dir in ["rootfs", "config", "layer"] {
            machine.own(&format!("{BUNDLE}/{dir}"))?;
        }
        // The layer of this machine's own needs a file system that an overlay may write to.
        machine.run(&format!("mount -t tmpfs tmpfs {BUNDLE}/layer"))?;
        machine.run(&format!("mkdir {BUNDLE}/layer/upper {BUNDLE}/layer/work"))?;
        let options =
            format!("lowerdir={},upperdir={BUNDLE}/layer/upper,workdir={BUNDLE}/layer/work", image.layers);
        machine
            .command("mount")
            .args(["-t", "overlay", "overlay", "-o", &options, &format!("{BUNDLE}/rootfs")])
            .run()
            .with_context(|| format!("mount {}", image.name))?;
        machine.write(&format!("{BUNDLE}/config/{}", image.config_file), config)?;
        let mut image = image.clone();
        image.env.extend(env.iter().map(|(key, value)| format!("{key}={value}")));
        let (process, pid) = run(machine, &image, &[])?;
        Ok(Self { machine: machine.clone(), image, process, pid })
    }

    /// The machine it runs on.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Replaces the configuration; the router does not know yet.
    pub fn write_config(&self, config: &str) -> Result<()> {
        self.machine.write(&format!("{BUNDLE}/config/{}", self.image.config_file), config)
    }

    /// A program to run in the container.
    pub fn command(&self, program: &str) -> Cmd {
        let mut command = self
            .machine
            .command("nsenter")
            .args([
                "--target",
                &self.pid.to_string(),
                "--mount",
                "--pid",
                "--root",
                "--wd",
                "--",
                "env",
                "-i",
            ])
            .args(&self.image.env);
        command = command.arg(program);
        command
    }

    /// Fails when it has ended, with the end of its log.
    pub fn check(&self) -> Result<()> {
        self.process.check()
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Signals the container's first process.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.machine.run(&format!("kill -{} {}", signal.as_raw(), self.pid)).map(drop)
    }

    /// Signals each process of the container with this command name.
    pub fn signal_daemon(&self, daemon: &str, signal: Signal) -> Result<()> {
        let pids = self.pids(daemon)?;
        ensure!(!pids.is_empty(), "{} runs no {daemon}", self.image.name);
        for pid in pids {
            self.machine.run(&format!("kill -{} {pid}", signal.as_raw()))?;
        }
        Ok(())
    }

    /// Resident memory of the processes with this command name, in KiB.
    pub fn rss_kib(&self, daemon: &str) -> Result<u64> {
        let mut sum = 0;
        for pid in self.pids(daemon)? {
            let status = self.machine.read(&format!("/proc/{pid}/status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
            sum += line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap_or(0);
        }
        Ok(sum)
    }

    /// A crash: every process of the container ends at once.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.process.wait(PATIENCE).map(drop)
    }

    /// Asks it to end, as a service manager does.
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)?;
        self.wait_end()
    }

    /// Waits for its end.
    pub fn wait_end(&self) -> Result<()> {
        self.process.wait(PATIENCE).map(drop)
    }

    /// Runs it again after its end, with arguments added to the entry point's. Files it wrote are still there.
    pub fn start_again(&mut self, args: &[&str]) -> Result<()> {
        ensure!(!self.process.running(), "{} still runs", self.image.name);
        // What the runtime noted of the old one; no error when there is nothing.
        drop(self.machine.command(runtime()?).args(["delete", "--force", ID]).output()?);
        (self.process, self.pid) = run(&self.machine, &self.image, args)?;
        Ok(())
    }

    fn pids(&self, daemon: &str) -> Result<Vec<i32>> {
        let listed = self.machine.run("ps -A -o pid=,comm=")?;
        let pids = listed.lines().filter_map(|line| {
            let (pid, name) = line.trim().split_once(' ')?;
            (name.trim() == daemon).then(|| pid.parse().ok())?
        });
        Ok(pids.collect())
    }
}

/// runc before crun, which refuses computers with cgroup versions 1 and 2 mixed.
fn runtime() -> Result<&'static str> {
    let dirs = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];
    ["runc", "crun"]
        .into_iter()
        .find(|name| dirs.iter().any(|dir| Path::new(dir).join(name).is_file()))
        .context("neither runc nor crun is installed (Debian package runc)")
}

/// Starts the container; the runtime's process, which ends with it, and the pid of its first process.
fn run(machine: &Machine, image: &Image, args: &[&str]) -> Result<(Process, i32)> {
    machine.write(&format!("{BUNDLE}/config.json"), bundle(machine, image, args).to_string())?;
    let pid_file = format!("{BUNDLE}/pid");
    machine.run(&format!("rm -f {pid_file}"))?;
    let process = machine
        .command(runtime()?)
        .args(["run", "--bundle", BUNDLE, "--pid-file", &pid_file, ID])
        .spawn("router")?;
    let pid = eventually(&format!("{} has started", image.name), PATIENCE, || {
        // A router that refuses its configuration has ended by now: no use in waiting for it.
        match process.check() {
            Err(error) => Ok(Err(error)),
            Ok(()) => Ok(Ok(machine.read(&pid_file)?.trim().parse::<i32>().context("the pid file")?)),
        }
    })??;
    Ok((process, pid))
}

/// The bundle's `config.json` (OCI runtime specification 1.0).
fn bundle(machine: &Machine, image: &Image, args: &[&str]) -> Value {
    let argv: Vec<&str> = image.entrypoint.iter().map(String::as_str).chain(args.iter().copied()).collect();
    // Never more than we have: raising a limit needs a capability that may be missing.
    let limit = |kind: &str, resource, most: u64| {
        let least = getrlimit(resource).maximum.map_or(most, |maximum| maximum.min(most));
        json!({ "type": kind, "hard": least, "soft": least })
    };
    let mount = |to: &str, kind: &str, from: &str, options: &[&str]| json!({ "destination": to, "type": kind, "source": from, "options": options });
    let cgroup = format!("/{}-{}/router", cgroup_prefix(std::process::id()), machine.host_pid());
    json!({
        "ociVersion": "1.0.2",
        "hostname": machine.name(),
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": argv,
            "env": image.env,
            "cwd": "/",
            "capabilities": { "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES },
            "rlimits": [
                limit("RLIMIT_NOFILE", Resource::Nofile, 65536),
                limit("RLIMIT_NPROC", Resource::Nproc, 4096),
            ],
        },
        "root": { "path": "rootfs", "readonly": false },
        "mounts": [
            mount("/proc", "proc", "proc", &[]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/sys", "none", "/sys", &["rbind", "ro"]),
            mount("/config", "bind", &format!("{BUNDLE}/config"), &["rbind", "ro"]),
        ],
        "linux": {
            // The network is the machine's.
            "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }],
            "cgroupsPath": cgroup,
        },
    })
}
