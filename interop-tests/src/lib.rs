//! Topologies of namespaces, containers and other people's routers, for tests on real kernels
//! with real daemons.
//!
//! A [`Lab`] is a set of [`Machine`]s joined by virtual cables. A machine has its own network,
//! process, mount and host name space, its own `/run` and `/etc`: programs run in it with their
//! usual paths. On a machine one starts an [`Agent`] (slash32 itself), a [`Router`] (BIRD, FRR,
//! GoBGP), a [`Containerd`], [`Cri`] or [`Podman`], and attaches [`Container`]s through the CNI binary, as a runtime
//! does.
//!
//! ```no_run
//! use interop_tests::{Lab, eventually, PATIENCE};
//!
//! Lab::run("two-machines", |lab| {
//!     let left = lab.machine("left")?;
//!     let right = lab.machine("right")?;
//!     lab.link(left.port("eth0").address("192.0.2.0/31"), right.port("eth0").address("192.0.2.1/31"))?;
//!     eventually("left reaches right", PATIENCE, || left.ping("192.0.2.1"))
//! });
//! ```
//!
//! Labs share nothing, not even addresses or names, so tests run in parallel. When the test
//! process ends, by success, panic, Ctrl-C or `kill -9`, the kernel removes all of its machines.
//! Logs and captures of a failed lab are kept in `target/lab/NAME.failed/`.

mod agent;
mod capture;
mod cni;
mod containerd;
mod cri;
mod eventually;
mod handshake;
mod image;
mod inject;
mod lab;
mod link;
mod machine;
mod pcap;
mod ping;
mod podman;
mod probe;
mod programs;
mod rack;
mod raw;
mod reach;
mod router;
mod router_image;
mod timed;
#[doc(hidden)]
pub mod tool;
mod twin;

pub use agent::{Agent, EndpointRow, ONE_HOST, PeerRow, RouteRow};
pub use capture::Capture;
pub use cni::{CniError, Container, Network};
pub use containerd::{Containerd, CtrContainer};
pub use cri::{Cri, Pod, PodSpec};
pub use eventually::{PATIENCE, check, eventually, steadily};
pub use handshake::establish;
pub use inject::{Feed, Heard, Injector};
pub use lab::Lab;
pub use link::Port;
#[doc(hidden)]
pub use machine::serve as init;
pub use machine::{Cmd, Exit, Machine, Output, Process, Signal};
pub use pcap::Packet;
pub use podman::{Podman, PodmanContainer};
pub use probe::{Flow, FlowReport, Probe, ProbeReport, Watcher};
pub use programs::slash32;
pub use rack::{Rack, Running, Switch, example, example_path};
pub use raw::Raw;
pub use reach::{forgotten, labelled, reach, reach_each_other, unreachable};
pub use router::Router;
pub use router_image::{Image, ImageRun};
pub use timed::{Floor, TimedPlugin};
pub use twin::{SwitchRestart, TwinRack, TwinRunning};

/// The last `lines` lines of `text`.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
