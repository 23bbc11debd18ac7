//! Autonomous system numbers and BGP identifiers.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use serde::{Deserialize, Serialize};

/// A four-octet autonomous system number (RFC 6793). Never 0 when it comes from [`Asn::new`] or a parse (RFC 7607).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Asn(u32);

/// Why a number is not a usable AS number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AsnError {
    /// AS 0 is reserved (RFC 7607).
    #[error("AS 0 is reserved (RFC 7607) and cannot be used")]
    Zero,
    /// Not a number, or larger than 32 bits.
    #[error("`{0}` is not an AS number (1 to 4294967295, or asdot such as 64512.1)")]
    Syntax(String),
}

impl Asn {
    /// AS_TRANS, which stands for a four-octet number where only two octets fit (RFC 6793).
    pub const TRANS: Self = Self(23456);

    /// An AS number; 0 is refused.
    pub const fn new(value: u32) -> Result<Self, AsnError> {
        if value == 0 { Err(AsnError::Zero) } else { Ok(Self(value)) }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Whether the number is for private use (RFC 6996).
    pub const fn is_private(self) -> bool {
        matches!(self.0, 64512..=65534 | 4_200_000_000..=4_294_967_294)
    }
}

impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl TryFrom<u32> for Asn {
    type Error = AsnError;
    fn try_from(value: u32) -> Result<Self, AsnError> {
        Self::new(value)
    }
}

impl From<Asn> for u32 {
    fn from(asn: Asn) -> Self {
        asn.0
    }
}

impl FromStr for Asn {
    type Err = AsnError;

    /// Parses asplain (`65001`) or asdot (`1.10`) notation (RFC 5396).
    fn from_str(text: &str) -> Result<Self, AsnError> {
        let syntax = || AsnError::Syntax(text.to_owned());
        let value = match text.split_once('.') {
            Some((high, low)) => {
                let high: u16 = high.parse().map_err(|_| syntax())?;
                let low: u16 = low.parse().map_err(|_| syntax())?;
                u32::from(high) << 16 | u32::from(low)
            }
            None => text.parse().map_err(|_| syntax())?,
        };
        Self::new(value)
    }
}

/// A BGP identifier: any four octets but zero (RFC 6286), written as an IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Ipv4Addr", into = "Ipv4Addr")]
pub struct RouterId(u32);

/// Why an address is not a usable BGP identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a router id cannot be 0.0.0.0 (RFC 6286)")]
pub struct RouterIdError;

impl RouterId {
    /// A BGP identifier; 0.0.0.0 is refused.
    pub fn new(id: Ipv4Addr) -> Result<Self, RouterIdError> {
        if id.is_unspecified() { Err(RouterIdError) } else { Ok(Self(id.to_bits())) }
    }

    /// The identifier as a number, for comparison (RFC 4271 section 9.1.2.2 f).
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The identifier as it is written.
    pub const fn addr(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.0)
    }
}

impl fmt::Display for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.addr(), f)
    }
}

impl TryFrom<Ipv4Addr> for RouterId {
    type Error = RouterIdError;
    fn try_from(id: Ipv4Addr) -> Result<Self, RouterIdError> {
        Self::new(id)
    }
}

impl From<RouterId> for Ipv4Addr {
    fn from(id: RouterId) -> Self {
        id.addr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asn_notations() {
        assert_eq!("65001".parse::<Asn>().unwrap().get(), 65001);
        assert_eq!("1.10".parse::<Asn>().unwrap().get(), 65546);
        assert_eq!("0".parse::<Asn>(), Err(AsnError::Zero));
        for bad in ["", "x", "4294967296", "1.65536", "-1", "1.2.3"] {
            assert!(bad.parse::<Asn>().is_err(), "{bad}");
        }
        assert!(Asn::new(64512).unwrap().is_private() && !Asn::new(65535).unwrap().is_private());
    }
}
