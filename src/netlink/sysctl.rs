//! Kernel settings below `/proc/sys`. Those of `net/` belong to the network namespace of the calling thread.

use std::{fs, io};

use super::Error;

/// Reads a setting by its path below `/proc/sys/`, without the final line break.
pub fn read(path: &str) -> Result<String, Error> {
    let text = fs::read_to_string(full(path)?).map_err(|source| failed(path, source))?;
    Ok(text.trim_end().to_owned())
}

/// Writes a setting by its path below `/proc/sys/`, for example `net/ipv4/conf/eth0/proxy_arp`. Interface names
/// with dots are no problem, as the separator is a slash.
pub fn write(path: &str, value: &str) -> Result<(), Error> {
    // Not `fs::write`: creating or truncating is refused there on some kernels.
    let mut file =
        fs::OpenOptions::new().write(true).open(full(path)?).map_err(|source| failed(path, source))?;
    io::Write::write_all(&mut file, value.as_bytes()).map_err(|source| failed(path, source))
}

fn failed(path: &str, source: io::Error) -> Error {
    Error::Sysctl { path: path.to_owned(), source }
}

fn full(path: &str) -> Result<String, Error> {
    if path.split('/').any(|part| part.is_empty() || part == "..") {
        return Err(failed(path, io::ErrorKind::InvalidInput.into()));
    }
    Ok(format!("/proc/sys/{path}"))
}
