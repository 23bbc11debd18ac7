//! What the test and a machine's init say to each other: one JSON value a packet on a
//! `SOCK_SEQPACKET` pair, the three standard descriptors of a new process as `SCM_RIGHTS`.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longest packet, in bytes. Requests are command lines, answers a few numbers.
const PACKET: usize = 128 * 1024;

/// A request, with the number its answer will carry.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) id: u64,
    pub(super) op: Op,
}

/// What init can do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Op {
    /// Starts a process; the packet carries its stdin, stdout and stderr.
    Spawn { argv: Vec<String>, env: Vec<(String, String)>, cwd: Option<String> },
    /// Makes a directory the machine's own (see `mounts::own`).
    Own { dir: String },
    /// Signals a process or the whole group it leads.
    Signal { pid: i32, signal: i32, group: bool },
}

/// What init reports.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Event {
    /// The machine is set up; `host_pid` is init's pid as the test sees it.
    Ready { host_pid: i32 },
    /// Request `id` succeeded; `pid` is the process started, if one was, else 0.
    Done { id: u64, pid: i32 },
    /// Request `id` failed.
    Failed { id: u64, error: String },
    /// A process started by `Spawn` has ended.
    Exited { pid: i32, exit: Exit },
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// It returned this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl Exit {
    /// Code 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// Sends one value and the descriptors that go with it.
pub(super) fn send<T: Serialize>(sock: impl AsFd, value: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(value)?;
    if bytes.len() > PACKET {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "command line too long for one packet"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    sendmsg(sock, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one value and its descriptors; `None` when the other end is gone.
pub(super) fn receive<T: DeserializeOwned>(sock: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        match recvmsg(&sock, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            other => break other?,
        }
    };
    if message.bytes == 0 {
        return Ok(None);
    }
    if message.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "packet cut short"));
    }
    let mut fds = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    let value = serde_json::from_slice(&bytes[..message.bytes])?;
    Ok(Some((value, fds)))
}
