//! What can go wrong between us and the kernel.

use std::{fmt, io, path::PathBuf};

/// An error the kernel reported for one netlink message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelError {
    /// Which message of the batch, from 0.
    pub index: usize,
    /// The positive error number (`libc::EEXIST` …).
    pub errno: i32,
    /// The kernel's extended acknowledgement text (`NLMSGERR_ATTR_MSG`), if it gave one.
    pub message: Option<String>,
    /// The byte offset in the message of the attribute the kernel objects to (`NLMSGERR_ATTR_OFFS`).
    pub offset: Option<u32>,
}

impl KernelError {
    /// Whether the object exists already (`EEXIST`).
    pub fn is_exists(&self) -> bool {
        self.errno == libc::EEXIST
    }

    /// Whether what was to be changed or removed is not there: `ENOENT`, `ESRCH` (routes), `ENODEV` (links),
    /// `EADDRNOTAVAIL` (addresses).
    pub fn is_missing(&self) -> bool {
        [libc::ENOENT, libc::ESRCH, libc::ENODEV, libc::EADDRNOTAVAIL].contains(&self.errno)
    }
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `io::Error` appends " (os error N)", which is the number people search for.
        write!(f, "{}", io::Error::from_raw_os_error(self.errno))?;
        if let Some(message) = &self.message {
            write!(f, ": {message}")?;
        }
        if self.errno == libc::EPERM {
            f.write_str("; this needs root or CAP_NET_ADMIN")?;
        }
        Ok(())
    }
}

impl std::error::Error for KernelError {}

/// Whether this process or the host has no file descriptors left (`EMFILE`, `ENFILE`), which passes.
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Why a netlink or namespace operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a message.
    #[error("{0}")]
    Kernel(#[from] KernelError),
    /// A system call failed.
    #[error("{call}: {source}{}", if source.raw_os_error() == Some(libc::EPERM) { "; this needs root or CAP_NET_ADMIN" } else { "" })]
    Os {
        /// What we were doing.
        call: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A setting below `/proc/sys` cannot be read or written.
    #[error("{path}: {source}")]
    Sysctl {
        /// The path below `/proc/sys/`.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The receive buffer overflowed (`ENOBUFS`): answers or notifications were lost, so the state must be read anew.
    #[error("netlink receive buffer overflow (ENOBUFS): messages were lost")]
    Overrun,
    /// No answer within the socket's timeout.
    #[error("no answer from the kernel in time")]
    Timeout,
    /// The objects changed during a dump (`NLM_F_DUMP_INTR`) more often than we retry.
    #[error("the kernel's objects kept changing while they were listed")]
    DumpInterrupted,
    /// Whoever asked for a dump did not want the rest of it.
    #[error("something more urgent came between")]
    Interrupted,
    /// An attribute of the message at this index does not fit its 16-bit length.
    #[error("netlink message {index}: attribute {kind} is longer than 65535 bytes")]
    AttributeTooLong {
        /// Which message of the batch, from 0.
        index: usize,
        /// The attribute's type.
        kind: u16,
    },
    /// The kernel sent something that does not parse.
    #[error("malformed netlink message: {0}")]
    Malformed(String),
    /// The path cannot be opened as a namespace.
    #[error("cannot open network namespace {path}: {source}")]
    OpenNetns {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The path is not a network namespace.
    #[error("{path} is not a network namespace ({what})")]
    NotNetns {
        /// The path.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// The namespace helper thread is gone, or the closure it ran panicked.
    #[error("the namespace helper thread failed: {0}")]
    Helper(&'static str),
}

impl Error {
    /// Wraps the error of a system call; `EAGAIN` and `ENOBUFS` get their own variants.
    pub(super) fn os(call: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::ENOBUFS) => Self::Overrun,
            Some(libc::EAGAIN) => Self::Timeout,
            _ => Self::Os { call, source },
        }
    }

    /// The positive error number, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel(e) => Some(e.errno),
            Self::Os { source, .. } | Self::OpenNetns { source, .. } | Self::Sysctl { source, .. } => {
                source.raw_os_error()
            }
            Self::Overrun => Some(libc::ENOBUFS),
            _ => None,
        }
    }

    /// Whether it failed for want of privilege (`EPERM`, `EACCES`).
    pub fn is_permission(&self) -> bool {
        matches!(self.errno(), Some(libc::EPERM | libc::EACCES))
    }

    /// Whether the kernel says that the object exists already.
    pub fn is_exists(&self) -> bool {
        matches!(self, Self::Kernel(e) if e.is_exists())
    }

    /// Whether the kernel says that the object is not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Kernel(e) if e.is_missing())
    }

    /// Whether the kernel does not know the operation or family (`EOPNOTSUPP`, `EPROTONOSUPPORT`, `EAFNOSUPPORT`,
    /// `ENOPROTOOPT`): a feature was not built in.
    pub fn is_unsupported(&self) -> bool {
        matches!(
            self.errno(),
            Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::ENOPROTOOPT)
        )
    }
}
