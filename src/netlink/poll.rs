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
        match sys::poll_in(fd.as_fd(), milliseconds) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(false) if milliseconds == i32::MAX => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::net::UnixStream};

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
        // Files never wait.
        assert!(readable(std::fs::File::open("/dev/null").unwrap(), Instant::now()).unwrap());
    }
}
