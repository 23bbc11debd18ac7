//! Which network names, container identifiers and interface names are acceptable.
//!
//! They end up in file names, interface aliases and log lines, so nothing passes here that could leave its place.

use super::error::{CniError, code};

/// The longest network name or container identifier accepted; runtimes use 64 hexadecimal digits, CRI-O less than 128.
const MAX_NAME: usize = 255;
/// The longest name in DNS, and the longest label of one (RFC 1035 section 2.3.4, in text).
const MAX_ALIAS: usize = 253;
const MAX_LABEL: usize = 63;
/// `IFNAMSIZ` of linux/if.h, with the final zero.
const IFNAMSIZ: usize = 16;

/// Checks a network's name: a letter or digit, then letters, digits, `_`, `.`, `-`.
pub fn network_name(name: &str) -> Result<(), CniError> {
    if name.is_empty() {
        return Err(CniError::new(code::INVALID_CONFIG, "the network configuration has no `name`"));
    }
    if plain(name) {
        Ok(())
    } else {
        Err(CniError::new(code::INVALID_CONFIG, format!("{name:?} is not a valid network name"))
            .details(RULE))
    }
}

/// Checks a further name of a container (`aliases`): a name of DNS as people write it, with `_` as well.
pub fn alias(name: &str) -> Result<(), &'static str> {
    let label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
    };
    if name.len() <= MAX_ALIAS && name.strip_suffix('.').unwrap_or(name).split('.').all(label) {
        return Ok(());
    }
    Err("is not a name: labels of 1 to 63 letters, digits, `-` or `_`, with dots between, at most 253 bytes")
}

/// Checks `CNI_CONTAINERID` by the same rule.
pub fn container_id(id: &str) -> Result<(), CniError> {
    if id.is_empty() {
        return Err(CniError::new(code::INVALID_ENVIRONMENT, "CNI_CONTAINERID is not set"));
    }
    if plain(id) {
        Ok(())
    } else {
        Err(CniError::new(code::INVALID_ENVIRONMENT, format!("CNI_CONTAINERID {id:?} is not valid"))
            .details(RULE))
    }
}

/// Checks `CNI_IFNAME` by the specification's words: not empty, not `.` or `..`, less than 16 characters, without
/// `/`, `:` or white space.
pub fn ifname(name: &str) -> Result<(), CniError> {
    if name.is_empty() {
        return Err(CniError::new(code::INVALID_ENVIRONMENT, "CNI_IFNAME is not set"));
    }
    let refused = |why: &str| {
        Err(CniError::new(code::INVALID_ENVIRONMENT, format!("CNI_IFNAME {name:?} is not valid"))
            .details(why))
    };
    if name == "." || name == ".." {
        return refused("it must not be `.` or `..`");
    }
    if name.len() >= IFNAMSIZ {
        return refused("it must be shorter than 16 bytes");
    }
    // `%` makes the kernel pick a number (`eth%d`); the name would not be the one asked for.
    if name.chars().any(|c| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control()) {
        return refused("it must not contain `/`, `:`, `%`, white space or control characters");
    }
    if name == "lo" {
        return refused("it is the loopback's");
    }
    if matches!(name, "all" | "default") {
        return refused("the kernel keeps it for the settings of all interfaces");
    }
    Ok(())
}

const RULE: &str = "it must start with a letter or digit, continue with letters, digits, `_`, `.` or `-`, and have at most 255 bytes";

fn plain(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "0", "slash32", "a.b-c_d", &"f".repeat(64)] {
            assert!(network_name(good).is_ok() && container_id(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "-a", "_a", "a/b", "a b", "a\n", "ä", "../x", &"f".repeat(256)] {
            assert_eq!(network_name(bad).unwrap_err().code, 7, "{bad}");
            assert_eq!(container_id(bad).unwrap_err().code, 4, "{bad}");
        }
    }

    #[test]
    fn aliases() {
        for good in ["web", "web-1", "_http._tcp", "a.example.net", "example.net.", "4f0d9a1c2b3e", "A"] {
            assert_eq!(alias(good), Ok(()), "{good}");
        }
        let (label, long) = ("a".repeat(64), format!("{}.", "a".repeat(63)).repeat(4));
        for bad in ["", ".", "a..b", "-a", "a-", "a b", "a\nb", "a/b", "ä", "*", &label, &long] {
            assert!(alias(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn interface_names() {
        for good in ["eth0", "net1", "a", "...", "äöü", "123456789012345"] {
            assert!(ifname(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a:b",
            "a b",
            "a\tb",
            "eth%d",
            "1234567890123456",
            "lo",
            "all",
            "default",
            "a\u{7f}",
        ] {
            assert_eq!(ifname(bad).unwrap_err().code, 4, "{bad}");
        }
    }
}
