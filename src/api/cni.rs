//! A CNI call as the plugin hands it to the agent.

use serde::{Deserialize, Serialize};

/// One CNI call: the environment variables of the specification and the configuration from standard input.
///
/// Nothing in it has been validated: the plugin is a courier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CniRequest {
    /// `CNI_COMMAND`: ADD, DEL, CHECK, GC or STATUS.
    pub command: String,
    /// `CNI_CONTAINERID`, empty when absent.
    #[serde(default)]
    pub container_id: String,
    /// `CNI_NETNS`, empty when absent.
    #[serde(default)]
    pub netns: String,
    /// `CNI_IFNAME`, empty when absent.
    #[serde(default)]
    pub ifname: String,
    /// `CNI_ARGS`, empty when absent.
    #[serde(default)]
    pub args: String,
    /// `CNI_PATH`, empty when absent.
    #[serde(default)]
    pub path: String,
    /// The network configuration from standard input.
    pub stdin: serde_json::Value,
}

/// The agent's answer to a CNI call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CniAnswer {
    /// Success: the result in the caller's `cniVersion`, null for verbs that print nothing.
    Success(serde_json::Value),
    /// Failure, to be printed as the specification's error object.
    Failure(CniFailure),
}

/// The error object of the CNI specification, without its `cniVersion`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniFailure {
    /// 1 to 99 are the specification's, 100 and more ours.
    pub code: u32,
    /// One sentence.
    pub msg: String,
    /// What to do, or where to look.
    #[serde(default)]
    pub details: String,
}
