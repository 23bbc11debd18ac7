//! containerd as a kubelet sees it: pods by the container runtime interface (gRPC, `runtime.v1`), which attach through
//! CNI by themselves.

mod grpc;
mod messages;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use self::messages::{
    Capability, ContainerConfig, ContainerMetadata, ContainerSecurity, CreateContainer, Empty, Exec,
    ExecAnswer, Id, ImageSpec, LinuxContainerConfig, LinuxSandboxConfig, PortMapping, RunSandbox,
    SandboxConfig, SandboxMetadata, SandboxStatusAnswer, StatusAnswer,
};
use crate::cni::Network;
use crate::containerd::Containerd;
use crate::image::{self, IMAGE};
use crate::machine::Machine;
use crate::{PATIENCE, eventually};

const SERVICE: &str = "/runtime.v1.RuntimeService";
/// The namespace of containerd in which its CRI plugin works.
const NAMESPACE: &str = "k8s.io";

/// What differs from the defaults is what a machine without all capabilities and cgroups needs.
fn config() -> String {
    format!(
        r#"version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs"]
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{IMAGE}"
restrict_oom_score_adj = true
disable_apparmor = true
disable_hugetlb_controller = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/opt/cni/bin"
conf_dir = "/etc/cni/net.d"
"#
    )
}

/// A running containerd with its CRI service.
pub struct Cri {
    containerd: Containerd,
    socket: PathBuf,
    cgroup: String,
}

/// What a pod is started with.
#[derive(Clone, Debug, Default)]
pub struct PodSpec {
    /// Its namespace.
    pub namespace: String,
    /// Its annotations.
    pub annotations: Vec<(String, String)>,
    /// Ports of the host that lead to ports of the pod, by TCP and UDP: (host's, pod's).
    pub ports: Vec<(u16, u16)>,
}

/// A pod sandbox with one container in it.
pub struct Pod<'a> {
    cri: &'a Cri,
    sandbox: String,
    container: String,
}

impl Cri {
    /// Starts containerd with CRI, imports the lab's image and configures the network, as for a kubelet.
    pub fn start(machine: &Machine, network: &Network) -> Result<Self> {
        let containerd = Containerd::start_with(machine, network, &config(), NAMESPACE.to_owned())?;
        let socket = machine.outside("/run/containerd/containerd.sock");
        let cri = Self { containerd, socket, cgroup: format!("/{}", image::cgroup(machine)) };
        eventually("CRI is ready", PATIENCE, || {
            cri.containerd.process().check()?;
            let answer: StatusAnswer = cri.call("Status", &Empty {})?;
            for condition in answer.status.context("no status")?.conditions {
                ensure!(condition.status, "{}: {} {}", condition.kind, condition.reason, condition.message);
            }
            Ok(())
        })?;
        Ok(cri)
    }

    /// RunPodSandbox, then a container in it that sleeps.
    pub fn pod(&self, name: &str, spec: &PodSpec) -> Result<Pod<'_>> {
        let port = |&(host, pod): &(u16, u16)| {
            [0, 1].map(|protocol| PortMapping {
                protocol,
                container_port: pod.into(),
                host_port: host.into(),
                host_ip: String::new(),
            })
        };
        let config = SandboxConfig {
            metadata: Some(SandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: spec.namespace.clone(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: "/run/pods".to_owned(),
            port_mappings: spec.ports.iter().flat_map(port).collect(),
            annotations: spec.annotations.iter().cloned().collect(),
            linux: Some(LinuxSandboxConfig { cgroup_parent: self.cgroup.clone() }),
            ..SandboxConfig::default()
        };
        let sandbox: Id = self.call("RunPodSandbox", &RunSandbox { config: Some(config.clone()) })?;
        let container = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "main".to_owned() }),
            image: Some(ImageSpec { image: IMAGE.to_owned() }),
            command: vec!["/bin/sleep".to_owned(), "infinity".to_owned()],
            log_path: format!("{name}.log"),
            // For ping.
            linux: Some(LinuxContainerConfig {
                security_context: Some(ContainerSecurity {
                    capabilities: Some(Capability { add: vec!["NET_RAW".to_owned()] }),
                }),
            }),
        };
        let request = CreateContainer {
            sandbox: sandbox.id.clone(),
            config: Some(container),
            sandbox_config: Some(config),
        };
        let container: Id = self.call("CreateContainer", &request)?;
        let _: Empty = self.call("StartContainer", &container)?;
        Ok(Pod { cri: self, sandbox: sandbox.id, container: container.id })
    }

    fn call<A: prost::Message + Default>(&self, method: &str, request: &impl prost::Message) -> Result<A> {
        grpc::call(&self.socket, &format!("{SERVICE}/{method}"), request)
    }
}

impl Pod<'_> {
    /// The identifier of the sandbox, which is the container id of CNI.
    pub fn id(&self) -> &str {
        &self.sandbox
    }

    /// The addresses that the runtime reports: the first family, then the others.
    pub fn addresses(&self) -> Result<Vec<String>> {
        let request = Id { id: self.sandbox.clone() };
        let answer: SandboxStatusAnswer = self.cri.call("PodSandboxStatus", &request)?;
        let network = answer.status.and_then(|status| status.network).context("no network in the status")?;
        Ok([network.ip].into_iter().chain(network.additional_ips.into_iter().map(|ip| ip.ip)).collect())
    }

    /// Runs a command in the container (ExecSync); its stdout.
    pub fn run(&self, line: &str) -> Result<String> {
        let command = line.split_whitespace().map(str::to_owned).collect();
        let request = Exec { container: self.container.clone(), command, timeout: 10 };
        let answer: ExecAnswer = self.cri.call("ExecSync", &request)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        ensure!(answer.exit_code == 0, "`{line}`: {} {}", text(&answer.stdout), text(&answer.stderr));
        Ok(text(&answer.stdout))
    }

    /// Pings once from inside.
    pub fn ping(&self, address: &str) -> Result<()> {
        self.run(&format!("ping -n -c 1 -W 1 {address}")).map(drop)
    }

    /// StopPodSandbox and RemovePodSandbox, as a kubelet does.
    pub fn remove(self) -> Result<()> {
        let request = Id { id: self.sandbox };
        let _: Empty = self.cri.call("StopPodSandbox", &request)?;
        // A kubelet stops twice often enough.
        let _: Empty = self.cri.call("StopPodSandbox", &request)?;
        let _: Empty = self.cri.call("RemovePodSandbox", &request)?;
        Ok(())
    }
}
