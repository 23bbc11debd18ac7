//! Ethernet addresses.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use serde::{Deserialize, Serialize};

/// An Ethernet address that an interface can have: not zero, not a group address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

/// Why a text is not a usable Ethernet address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    /// Not six octets.
    #[error("{0:?} is not a MAC address (expected something like 02:00:00:00:00:01)")]
    Syntax(String),
    /// Zero, or with the group bit (the lowest of the first octet).
    #[error("{0} cannot be an interface's address: it is zero or a group address")]
    NotUnicast(String),
}

impl Mac {
    /// The address of every host end: locally administered, and the same everywhere, so that a container that is
    /// moved or whose host end is rebuilt keeps a valid neighbour entry.
    pub const HOST_END: Self = Self([0xee; 6]);

    /// An address; zero and group addresses are refused.
    pub fn new(octets: [u8; 6]) -> Result<Self, MacError> {
        if octets == [0; 6] || octets[0] & 1 != 0 {
            return Err(MacError::NotUnicast(Self(octets).to_string()));
        }
        Ok(Self(octets))
    }

    /// A locally administered address made of the first octets of a hash.
    pub fn from_hash(hash: [u8; 6]) -> Self {
        let [first, rest @ ..] = hash;
        let mut octets = [first & 0xfc | 0x02, 0, 0, 0, 0, 0];
        octets[1..].copy_from_slice(&rest);
        Self(octets)
    }

    /// The octets.
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// The link-local IPv6 address that belongs to it (RFC 4291 appendix A).
    pub fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        let pair = |high: u8, low: u8| u16::from_be_bytes([high, low]);
        Ipv6Addr::new(0xfe80, 0, 0, 0, pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, f))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let syntax = || MacError::Syntax(text.to_owned());
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut octets = [0; 6];
        let mut parts = text.split(separator);
        for octet in &mut octets {
            let part = parts.next().filter(|p| matches!(p.len(), 1 | 2)).ok_or_else(syntax)?;
            if !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(syntax());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| syntax())?;
        }
        if parts.next().is_some() {
            return Err(syntax());
        }
        Self::new(octets)
    }
}

impl TryFrom<String> for Mac {
    type Error = MacError;
    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_prints_and_refuses() {
        assert_eq!("02:0:0A:00:00:ff".parse::<Mac>().unwrap().to_string(), "02:00:0a:00:00:ff");
        assert_eq!("02-00-00-00-00-01".parse::<Mac>().unwrap().octets()[5], 1);
        for bad in ["", "02:00:00:00:00", "02:00:00:00:00:00:00", "g2:00:00:00:00:00", "+2:00:00:00:00:00"] {
            assert!(matches!(bad.parse::<Mac>(), Err(MacError::Syntax(_))), "{bad}");
        }
        for bad in ["00:00:00:00:00:00", "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff"] {
            assert!(matches!(bad.parse::<Mac>(), Err(MacError::NotUnicast(_))), "{bad}");
        }
        assert!(Mac::new(Mac::from_hash([0xff; 6]).octets()).is_ok());
        assert_eq!(Mac::HOST_END.link_local().to_string(), "fe80::ecee:eeff:feee:eeee");
    }
}
