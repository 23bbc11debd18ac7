//! Every system call of this room that the standard library and `socket2` lack, each behind a safe function.
#![expect(unsafe_code, reason = "the one file of the crate that calls libc")]

use std::{
    ffi::{CStr, CString},
    io,
    mem::{self, MaybeUninit},
    net::SocketAddr,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr,
};

use libc::{c_int, c_short, c_void, socklen_t};

/// `NSFS_MAGIC` of linux/magic.h.
const NSFS_MAGIC: u64 = 0x6e73_6673;
/// `NS_GET_NSTYPE` of linux/nsfs.h: `_IO(0xb7, 0x3)`.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

/// `F_SETSIG` of asm-generic/fcntl.h, which the C library's crate lacks.
const F_SETSIG: c_int = 10;

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check_len(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Opens a close-on-exec netlink socket and binds it to a port of the kernel's choice.
pub(super) fn netlink_socket(protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the result is checked before it is owned.
    let fd = check(unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: `fd` is a new descriptor that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: sockaddr_nl is plain data for which all zeroes is valid: port 0 lets the kernel choose.
    let mut addr: libc::sockaddr_nl = unsafe { mem::zeroed() };
    addr.nl_family = libc::AF_NETLINK as u16;
    // SAFETY: `addr` lives across the call and its true size is given.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const addr).cast(), socklen::<libc::sockaddr_nl>()) })?;
    Ok(fd)
}

const fn socklen<T>() -> socklen_t {
    mem::size_of::<T>() as socklen_t
}

/// `setsockopt` with an option value given as bytes.
pub(super) fn setsockopt(fd: RawFd, level: c_int, name: c_int, value: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length come from one slice, which the kernel only reads.
    check(unsafe { libc::setsockopt(fd, level, name, value.as_ptr().cast(), value.len() as socklen_t) })
        .map(drop)
}

/// `setsockopt` of an `int`.
pub(super) fn setsockopt_int(fd: RawFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    setsockopt(fd, level, name, &value.to_ne_bytes())
}

/// `getsockopt` of an `int`.
pub(super) fn getsockopt_int(fd: RawFd, level: c_int, name: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut len = socklen::<c_int>();
    // SAFETY: the kernel writes at most `len` bytes to `value`, which has that size.
    check(unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut len) })?;
    Ok(value)
}

/// `getsockopt` into a buffer; returns the length.
pub(super) fn getsockopt(fd: RawFd, level: c_int, name: c_int, value: &mut [u8]) -> io::Result<usize> {
    let mut len = value.len() as socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `value`, which has that size.
    check(unsafe { libc::getsockopt(fd, level, name, value.as_mut_ptr().cast(), &raw mut len) })?;
    Ok(len as usize)
}

/// Whether the kernel refuses a lease on a file because somebody has it open for writing.
pub(super) fn has_writer(file: &std::fs::File) -> bool {
    let fcntl = |command: c_int, value: c_int| {
        // SAFETY: an open descriptor and commands that take numbers.
        check(unsafe { libc::fcntl(file.as_raw_fd(), command, value) })
    };
    // Who opens the file while the lease is held makes the kernel send a signal, by default SIGIO, which would end us;
    // SIGURG is ignored by default.
    if fcntl(F_SETSIG, libc::SIGURG).is_err() {
        return false;
    }
    match fcntl(libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(_) => {
            // Closing the file ends the lease as well.
            let _ = fcntl(libc::F_SETLEASE, libc::F_UNLCK);
            false
        }
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// Room for control messages, aligned as `struct cmsghdr` wants.
#[repr(C, align(8))]
pub(super) struct Control(pub(super) [u8; 256]);

/// What `recvmsg` filled in.
pub(super) struct Received {
    /// Bytes of data.
    pub(super) len: usize,
    /// Bytes of control messages.
    pub(super) control_len: usize,
    /// `MSG_TRUNC`, `MSG_CTRUNC` …
    pub(super) flags: c_int,
    /// The sender.
    pub(super) from: Option<SocketAddr>,
}

/// Receives one datagram with its control messages.
pub(super) fn recvmsg(fd: RawFd, buf: &mut [u8], control: &mut Control) -> io::Result<Received> {
    let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: msghdr is plain data for which all zeroes is valid.
    let mut msg: libc::msghdr = unsafe { mem::zeroed() };
    msg.msg_iov = &raw mut iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control.0.as_mut_ptr().cast();
    msg.msg_controllen = control.0.len() as _;
    // SAFETY: the closure gets a zeroed sockaddr_storage and its true size; the kernel writes the address and its
    // length there, and all other pointers of `msg` are to live buffers of the sizes given.
    let (received, addr) = unsafe {
        socket2::SockAddr::try_init(|storage, len| {
            msg.msg_name = storage.cast();
            msg.msg_namelen = *len;
            let received = check_len(libc::recvmsg(fd, &raw mut msg, 0))?;
            *len = msg.msg_namelen;
            Ok(received)
        })
    }?;
    Ok(Received {
        len: received,
        control_len: (msg.msg_controllen as usize).min(control.0.len()),
        flags: msg.msg_flags,
        from: addr.as_socket(),
    })
}

/// Sends one datagram with control messages (the first `control_len` bytes of `control`).
pub(super) fn sendmsg(
    fd: RawFd,
    buf: &[u8],
    to: SocketAddr,
    control: &mut Control,
    control_len: usize,
) -> io::Result<usize> {
    let to = socket2::SockAddr::from(to);
    let mut iov = libc::iovec { iov_base: buf.as_ptr().cast_mut().cast(), iov_len: buf.len() };
    // SAFETY: msghdr is plain data for which all zeroes is valid.
    let mut msg: libc::msghdr = unsafe { mem::zeroed() };
    msg.msg_name = to.as_ptr().cast_mut().cast();
    msg.msg_namelen = to.len();
    msg.msg_iov = &raw mut iov;
    msg.msg_iovlen = 1;
    if control_len > 0 {
        msg.msg_control = control.0.as_mut_ptr().cast();
        msg.msg_controllen = control_len.min(control.0.len()) as _;
    }
    // SAFETY: all pointers of `msg` are to live buffers of the sizes given; the kernel only reads them.
    check_len(unsafe { libc::sendmsg(fd, &raw const msg, libc::MSG_NOSIGNAL) })
}

/// Gives the calling thread a real-time priority (`SCHED_FIFO`).
pub(super) fn sched_fifo(priority: c_int) -> io::Result<()> {
    // SAFETY: sched_param is plain data for which all zeroes is valid.
    let mut param: libc::sched_param = unsafe { mem::zeroed() };
    param.sched_priority = priority;
    // SAFETY: `param` lives across the call; pid 0 is the calling thread.
    check(unsafe {
        libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const param)
    })
    .map(drop)
}

/// `send` of one datagram.
pub(super) fn send(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: pointer and length come from one slice, which the kernel only reads.
    check_len(unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) })
}

/// The port (`nl_pid`) of a netlink socket.
pub(super) fn netlink_port(fd: RawFd) -> io::Result<u32> {
    // SAFETY: sockaddr_nl is plain data for which all zeroes is valid.
    let mut addr: libc::sockaddr_nl = unsafe { mem::zeroed() };
    let mut len = socklen::<libc::sockaddr_nl>();
    // SAFETY: the kernel writes at most `len` bytes to `addr`, which has that size.
    check(unsafe { libc::getsockname(fd, (&raw mut addr).cast(), &raw mut len) })?;
    Ok(addr.nl_pid)
}

/// Attaches a classic BPF program of (code, jt, jf, k) to a socket.
pub(super) fn attach_filter(fd: RawFd, program: &[(u16, u8, u8, u32)]) -> io::Result<()> {
    let mut filter: Vec<_> =
        program.iter().map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect();
    let len = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    // SAFETY: `program` points to `len` instructions that live across the call; the kernel copies them.
    check(unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            socklen::<libc::sock_fprog>(),
        )
    })
    .map(drop)
}

/// Receives one netlink datagram. Returns its true length, which may exceed the buffer, and the sender's port
/// (0 is the kernel).
pub(super) fn recv_netlink(fd: RawFd, buf: &mut [u8], dont_wait: bool) -> io::Result<(usize, u32)> {
    // SAFETY: sockaddr_nl is plain data for which all zeroes is valid.
    let mut addr: libc::sockaddr_nl = unsafe { mem::zeroed() };
    let mut addr_len = socklen::<libc::sockaddr_nl>();
    let flags = libc::MSG_TRUNC | if dont_wait { libc::MSG_DONTWAIT } else { 0 };
    // SAFETY: the kernel writes at most `buf.len()` bytes to `buf` and `addr_len` bytes to `addr`.
    let len = check_len(unsafe {
        libc::recvfrom(
            fd,
            buf.as_mut_ptr().cast(),
            buf.len(),
            flags,
            (&raw mut addr).cast(),
            &raw mut addr_len,
        )
    })?;
    Ok((len, addr.nl_pid))
}

/// Whether the file is on nsfs, the file system of namespaces.
pub(super) fn is_nsfs(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut stat = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the kernel fills the whole struct on success.
    check(unsafe { libc::fstatfs(fd.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: initialised by the successful call above.
    let stat = unsafe { stat.assume_init() };
    Ok(stat.f_type as u64 == NSFS_MAGIC)
}

/// The kind of a namespace as its `CLONE_NEW…` flag.
pub(super) fn ns_type(fd: BorrowedFd<'_>) -> io::Result<c_int> {
    // SAFETY: NS_GET_NSTYPE takes no argument.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE) })
}

/// Moves the calling thread into a network namespace.
pub(super) fn setns_net(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers; affects only the calling thread.
    check(unsafe { libc::setns(fd.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// Takes all capabilities from the calling thread, for tests of what happens without them.
#[cfg(test)]
pub(super) fn drop_capabilities() -> io::Result<()> {
    // _LINUX_CAPABILITY_VERSION_3 and this thread; effective, permitted and inheritable ones, twice 32 of each.
    let (header, none) = ([0x2008_0522_u32, 0], [0_u32; 6]);
    // SAFETY: both point to what the kernel reads, of the size that this version has.
    let done = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    check_len(done as isize).map(drop)
}

/// Gives the calling thread a new network namespace.
pub(super) fn unshare_net() -> io::Result<()> {
    // SAFETY: no pointers; affects only the calling thread.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map(drop)
}

/// Binds a file over another (`MS_BIND`).
pub(super) fn mount_bind(from: &Path, to: &Path) -> io::Result<()> {
    let from = c_path(from)?;
    let to = c_path(to)?;
    // SAFETY: both strings are NUL-terminated and outlive the call; type and data may be null for a bind mount.
    check(unsafe {
        libc::mount(from.as_ptr(), to.as_ptr(), ptr::null(), libc::MS_BIND, ptr::null::<c_void>())
    })
    .map(drop)
}

/// Detaches the topmost mount on a path (`MNT_DETACH`).
pub(super) fn umount(path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: the string is NUL-terminated and outlives the call.
    check(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) }).map(drop)
}

/// Waits until one of `events`, an error or a hang-up is there; answers those that are, none after `milliseconds`.
pub(super) fn poll(fd: BorrowedFd<'_>, events: c_short, milliseconds: c_int) -> io::Result<c_short> {
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    // SAFETY: one entry, which lives across the call.
    check(unsafe { libc::poll(&raw mut entry, 1, milliseconds) }).map(|_| entry.revents)
}

/// The index of an interface of the calling thread's network namespace.
pub(super) fn if_index(name: &CStr) -> io::Result<u32> {
    // SAFETY: the string is NUL-terminated and outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}
