//! The error object a plugin prints.

use std::fmt;

use serde_json::{Value, json};

use super::SpecVersion;

/// The numbers of the specification (section "Error") and of libcni, and ours from 100.
pub mod code {
    /// The configuration's `cniVersion` is not one we speak.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field of the configuration has a value we do not support.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is unknown or gone; the runtime need not clean up.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A `CNI_*` environment variable is missing or not valid.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub const IO_FAILURE: u32 = 5;
    /// The configuration is not JSON.
    pub const DECODING_FAILURE: u32 = 6;
    /// The configuration is JSON, but not valid.
    pub const INVALID_CONFIG: u32 = 7;
    /// `CNI_NETNS` is not a network namespace we may work in (libcni's `ErrInvalidNetNS`).
    pub const INVALID_NETNS: u32 = 8;
    /// A condition that will pass: the runtime should call again.
    pub const TRY_AGAIN_LATER: u32 = 11;
    /// STATUS: an ADD would fail now.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: an ADD would fail now and living containers may have limited connectivity.
    pub const LIMITED_CONNECTIVITY: u32 = 51;
    /// Ours: no free address in the pools of the network.
    pub const OUT_OF_ADDRESSES: u32 = 100;
    /// Ours: the requested address cannot be given.
    pub const ADDRESS_REFUSED: u32 = 101;
    /// Ours: the kernel refused a link, address or route.
    pub const ATTACH_FAILED: u32 = 102;
    /// Ours: the policy could not be put in force.
    pub const POLICY_FAILED: u32 = 103;
    /// Ours: the address could not be handed to BGP.
    pub const ANNOUNCE_FAILED: u32 = 104;
    /// Ours: CHECK found a difference from what ADD made.
    pub const CHECK_FAILED: u32 = 105;
    /// Ours: a delegated IPAM plugin failed without an error object of its own.
    pub const DELEGATE_FAILED: u32 = 106;
    /// Ours: a port of the host cannot be mapped to the container: it leads to another, or nowhere.
    pub const HOST_PORT_REFUSED: u32 = 107;
    /// Ours: a fault inside slash32 (libcni's `ErrInternal`).
    pub const INTERNAL: u32 = 999;
}

/// A failure with the number a runtime acts upon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct CniError {
    /// One of [`code`].
    pub code: u32,
    /// What went wrong, in a sentence.
    pub msg: String,
    /// More, for the person who reads the log; may be empty.
    pub details: String,
}

impl CniError {
    /// An error without details.
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    /// The same with details.
    #[must_use]
    pub fn details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// The same, with failures of the clean-up after it added to the details.
    #[must_use]
    pub fn and_rollback(mut self, failures: &[String]) -> Self {
        for failure in failures {
            if !self.details.is_empty() {
                self.details.push_str("; ");
            }
            self.details.push_str("while rolling back: ");
            self.details.push_str(failure);
        }
        self
    }

    /// What goes to standard output.
    pub fn to_json(&self, version: SpecVersion) -> Value {
        let mut object = json!({"cniVersion": version.as_str(), "code": self.code, "msg": self.msg});
        if !self.details.is_empty() {
            object["details"] = Value::String(self.details.clone());
        }
        object
    }

    /// Reads another plugin's error object; `None` when the value is not one.
    pub fn from_json(value: &Value) -> Option<Self> {
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let code = value.get("code")?.as_u64()?.try_into().ok()?;
        Some(Self { code, msg: text("msg"), details: text("details") })
    }
}

impl fmt::Display for CniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.msg, self.code)?;
        if !self.details.is_empty() {
            write!(f, ": {}", self.details)?;
        }
        Ok(())
    }
}
