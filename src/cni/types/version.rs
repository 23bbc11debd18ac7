//! The specification's versions.

use std::{fmt, str::FromStr};

use super::error::{CniError, code};

/// A version of the CNI specification that we speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SpecVersion {
    /// 0.1.0: results as in 0.2.0, and what a configuration without `cniVersion` means (libcni reads it so).
    V0_1_0,
    /// 0.2.0: `ip4` and `ip6` (Mesos).
    V0_2_0,
    /// 0.3.0: `interfaces`, `ips` and chaining.
    V0_3_0,
    /// 0.3.1.
    V0_3_1,
    /// 0.4.0: CHECK, and `prevResult` on DEL.
    V0_4_0,
    /// 1.0.0: `ips[].version` is gone.
    V1_0_0,
    /// 1.1.0: GC, STATUS, `mtu` of interfaces and more about routes.
    V1_1_0,
}

impl SpecVersion {
    /// All of them, oldest first, as VERSION lists them.
    pub const ALL: [Self; 7] =
        [Self::V0_1_0, Self::V0_2_0, Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// The newest.
    pub const LATEST: Self = Self::V1_1_0;

    /// As it is written in `cniVersion`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }
}

impl fmt::Display for SpecVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for SpecVersion {
    type Err = CniError;

    /// Parses `cniVersion`; the empty text is 0.1.0. Anything else unknown is error 1.
    fn from_str(text: &str) -> Result<Self, CniError> {
        if text.is_empty() {
            return Ok(Self::V0_1_0);
        }
        Self::ALL.into_iter().find(|v| v.as_str() == text).ok_or_else(|| {
            CniError::new(code::INCOMPATIBLE_VERSION, format!("CNI version {text:?} is not supported"))
                .details(format!("supported: {}", Self::ALL.map(Self::as_str).join(", ")))
        })
    }
}
