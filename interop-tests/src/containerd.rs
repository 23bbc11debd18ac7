//! containerd and runc on a machine (Debian packages containerd and runc), with real containers started by
//! `ctr run --cni`.

use anyhow::{Context, Result, ensure};

use crate::cni::Network;
use crate::image::{self, IMAGE};
use crate::machine::{Cmd, Machine, Process};
use crate::{PATIENCE, eventually, ping};

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
        // Becomes a part of cgroup names, which all machines of a computer share.
        let namespace = image::cgroup(machine);
        Self::start_with(machine, network, CONFIG, namespace)
    }

    /// The same with a configuration file, and the image in a namespace of containerd's.
    pub(crate) fn start_with(
        machine: &Machine,
        network: &Network,
        config: &str,
        namespace: String,
    ) -> Result<Self> {
        machine.write("/etc/containerd/config.toml", config)?;
        machine.write("/etc/cni/net.d/10-lab.conflist", network.conflist())?;
        machine.own("/var/lib/containerd")?;
        // Its library for networks keeps results here; on a computer that has the directory it would be read-only.
        machine.own("/var/lib/cni")?;
        let process =
            machine.command("containerd").spawn("containerd").context("Debian package containerd")?;
        let containerd = Self { machine: machine.clone(), process, namespace };
        eventually("containerd answers", PATIENCE, || {
            containerd.process.check()?;
            containerd.ctr(["version"]).run()
        })?;
        let image = image::archive(machine.log_dir())?;
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
