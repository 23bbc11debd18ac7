//! podman on a machine, with its CNI network backend and files of the machine's own (Debian packages podman and runc).

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cni::Network;
use crate::image::{self, IMAGE};
use crate::machine::{Cmd, Machine};

/// The locks of podman's default are in `/dev/shm`, which all machines of a computer share.
const CONTAINERS: &str = r#"[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
[network]
network_backend = "cni"
cni_plugin_dirs = ["/opt/cni/bin"]
network_config_dir = "/etc/cni/net.d"
[containers]
log_driver = "k8s-file"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
"#;
const STORAGE: &str = r#"[storage]
driver = "vfs"
graphroot = "/var/lib/containers/storage"
runroot = "/run/containers/storage"
"#;
const POLICY: &str = r#"{"default":[{"type":"insecureAcceptAnything"}]}"#;

/// podman, which needs no daemon.
pub struct Podman {
    machine: Machine,
    network: String,
    cgroup: String,
}

/// A container run by podman.
pub struct PodmanContainer<'a> {
    podman: &'a Podman,
    name: String,
}

impl Podman {
    /// Configures podman, loads the lab's image and puts the network where podman looks for networks.
    pub fn set_up(machine: &Machine, network: &Network) -> Result<Self> {
        for (file, text) in
            [("containers.conf", CONTAINERS), ("storage.conf", STORAGE), ("policy.json", POLICY)]
        {
            machine.write(&format!("/etc/containers/{file}"), text)?;
        }
        machine.own("/var/lib/containers")?;
        machine.own("/var/lib/cni")?;
        machine.write("/etc/cni/net.d/10-lab.conflist", network.conflist())?;
        let podman = Self {
            machine: machine.clone(),
            network: network.name()?,
            cgroup: format!("/{}", image::cgroup(machine)),
        };
        let image = image::archive(machine.log_dir())?;
        podman.command(["load", "-q", "-i"]).arg(image.display()).run().context("Debian package podman")?;
        Ok(podman)
    }

    /// A `podman` command line.
    pub fn command<T: ToString>(&self, args: impl IntoIterator<Item = T>) -> Cmd {
        self.machine.command("podman").args(args)
    }

    /// `podman run --network …` with these options: a container that sleeps.
    pub fn run(&self, name: &str, options: &[&str]) -> Result<PodmanContainer<'_>> {
        self.command(["run", "-d", "--pull", "never", "--no-hosts", "--cap-add", "NET_RAW"])
            .args(["--network", &self.network, "--cgroup-parent", &self.cgroup, "--name", name])
            .args(options)
            .arg(IMAGE)
            .run()?;
        Ok(PodmanContainer { podman: self, name: name.to_owned() })
    }
}

impl PodmanContainer<'_> {
    /// A program to run in it (`podman exec`).
    pub fn command(&self, program: &str) -> Cmd {
        self.podman.command(["exec", &self.name, program])
    }

    /// Starts a program in it that goes on.
    pub fn start(&self, line: &str) -> Result<()> {
        self.podman.command(["exec", "-d", &self.name]).args(line.split_whitespace()).run().map(drop)
    }

    /// Pings once from inside.
    pub fn ping(&self, address: &str) -> Result<()> {
        crate::ping::ping(self.command("ping"), address).with_context(|| format!("from {}", self.name))
    }

    /// What podman itself says of its network: IPv4, IPv6 and MAC address.
    pub fn network(&self) -> Result<(String, String, String)> {
        let shown = self.podman.command(["inspect", &self.name]).run()?;
        let shown: Value = serde_json::from_str(&shown).context("podman inspect prints JSON")?;
        let network = &shown[0]["NetworkSettings"]["Networks"][&self.podman.network];
        let text = |key: &str| network[key].as_str().unwrap_or_default().to_owned();
        let (four, six) = (text("IPAddress"), text("GlobalIPv6Address"));
        ensure!(!four.is_empty() && !six.is_empty(), "{network}");
        Ok((four, six, text("MacAddress")))
    }

    /// `podman rm -f`.
    pub fn remove(self) -> Result<()> {
        self.podman.command(["rm", "-f", "-t", "0", &self.name]).run().map(drop)
    }
}
