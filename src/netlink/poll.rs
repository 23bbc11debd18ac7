//! Waiting for a descriptor, but not for ever.

use std::{
    io,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use super::sys;

/// Waits until a read would return at once: with bytes, at the end, or with an error. False when `until` comes first.
pub fn readable(fd: impl AsFd, until: Instant) -> io::Result<bool> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // Rounded up, so that the last millisecond is waited for and not spun through.
        let milliseconds = (left + Duration::from_micros(999)).as_millis().min(i32::MAX as u128) as i32;
        match sys::poll(fd.as_fd(), libc::POLLIN, milliseconds) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) if milliseconds == i32::MAX => {}
            other => return other.map(|events| events != 0),
        }
    }
}

/// Whether the other end of a stream socket is gone: closed, and not only done with sending. Does not wait.
pub fn hung_up(fd: impl AsFd) -> io::Result<bool> {
    sys::poll(fd.as_fd(), 0, 0).map(|events| events & (libc::POLLHUP | libc::POLLERR) != 0)
}

#[cfg(test)]
mod tests {
    use std::{io::Write, net::Shutdown, os::unix::net::UnixStream};

    use super::*;

    #[test]
    fn bytes_the_end_and_the_deadline() {
        let (mut a, b) = UnixStream::pair().unwrap();
        assert!(!readable(&b, Instant::now()).unwrap());
        assert!(!readable(&b, Instant::now() + Duration::from_millis(5)).unwrap());
        a.write_all(b"x").unwrap();
        assert!(readable(&b, Instant::now()).unwrap());
        drop(a);
        assert!(readable(&b, Instant::now() + Duration::from_secs(60)).unwrap());
        let (a, b) = UnixStream::pair().unwrap();
        a.shutdown(Shutdown::Write).unwrap();
        assert!(!hung_up(&b).unwrap());
        drop(a);
        assert!(hung_up(&b).unwrap());
        // Files never wait.
        assert!(readable(std::fs::File::open("/dev/null").unwrap(), Instant::now()).unwrap());
    }
}
