//! What communities mean, as far as the speaker cares.

use std::fmt;

use super::{Community, ExtCommunity};

impl Community {
    /// The registered name, upper case as IANA has it; `None` for an ordinary community.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::GRACEFUL_SHUTDOWN => "GRACEFUL_SHUTDOWN",
            Self::LLGR_STALE => "LLGR_STALE",
            Self::NO_LLGR => "NO_LLGR",
            Self::BLACKHOLE => "BLACKHOLE",
            Self::NO_EXPORT => "NO_EXPORT",
            Self::NO_ADVERTISE => "NO_ADVERTISE",
            Self::NO_EXPORT_SUBCONFED => "NO_EXPORT_SUBCONFED",
            _ => return None,
        })
    }
}

impl ExtCommunity {
    /// A link bandwidth community (draft-ietf-idr-link-bandwidth), non-transitive as the draft defines it.
    ///
    /// `bytes_per_second` is carried as an IEEE single; `asn` is the lower 16 bits of the AS that sets it.
    pub fn link_bandwidth(asn: u16, bytes_per_second: f32) -> Self {
        let [a, b] = asn.to_be_bytes();
        let [c, d, e, f] = bytes_per_second.to_be_bytes();
        Self([0x40, 0x04, a, b, c, d, e, f])
    }

    /// The bytes a second of a link bandwidth community, transitive (as some send it) or not.
    ///
    /// `None` for other communities and for values that are no bandwidth: negative, infinite or not a number.
    pub fn as_link_bandwidth(self) -> Option<f32> {
        let [0x00 | 0x40, 0x04, _, _, c, d, e, f] = self.0 else { return None };
        let value = f32::from_be_bytes([c, d, e, f]);
        (value.is_finite() && value >= 0.0).then_some(value)
    }

    /// Whether it may cross AS borders (RFC 4360 section 2: the T bit is 0).
    pub const fn is_transitive(self) -> bool {
        self.0[0] & 0x40 == 0
    }
}

impl fmt::Display for ExtCommunity {
    /// `rt:65001:100`, `soo:192.0.2.1:5`, `bandwidth:65001:125000000`; 16 hexadecimal digits for the rest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [kind, sub, a, b, c, d, e, g] = self.0;
        if let Some(bandwidth) = self.as_link_bandwidth() {
            return write!(f, "bandwidth:{}:{bandwidth}", u16::from_be_bytes([a, b]));
        }
        let name = match sub {
            0x02 => "rt",
            0x03 => "soo",
            _ => return write!(f, "{:016x}", u64::from_be_bytes(self.0)),
        };
        match kind {
            0x00 => write!(f, "{name}:{}:{}", u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, g])),
            0x01 => write!(f, "{name}:{a}.{b}.{c}.{d}:{}", u16::from_be_bytes([e, g])),
            0x02 => write!(f, "{name}:{}:{}", u32::from_be_bytes([a, b, c, d]), u16::from_be_bytes([e, g])),
            _ => write!(f, "{:016x}", u64::from_be_bytes(self.0)),
        }
    }
}
