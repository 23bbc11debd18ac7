//! Requests and answers of the control socket.

use serde::{Deserialize, Serialize};

use super::CniRequest;
use crate::model::{Labels, Prefix};

/// Something asked of the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// A CNI verb.
    Cni(CniRequest),
    /// Whether the agent lives: answered at once, whatever else it works on.
    Ping,
    /// Readiness, version, what is wrong.
    Status,
    /// The neighbours and their sessions.
    Peers,
    /// Routes of the RIB.
    Rib(RibQuery),
    /// Why the best path to a prefix won.
    Explain {
        /// The prefix; a bare address means its longest match.
        prefix: Prefix,
    },
    /// Reset a neighbour's session, or refresh its routes without a reset.
    ClearPeer {
        /// The neighbour's address or interface; `*` for all.
        peer: String,
        /// Ask for a route refresh and send ours again, without closing the session.
        #[serde(default)]
        soft: bool,
    },
    /// Announce everything with GRACEFUL_SHUTDOWN (RFC 8326), or stop doing so.
    Drain {
        /// On or off.
        on: bool,
    },
    /// Routes of the kernel as the FIB wants them.
    Routes,
    /// Compare the kernel with the intent.
    RoutesVerify,
    /// The local endpoints.
    Endpoints,
    /// Change the labels of a running endpoint.
    Label {
        /// Endpoint id, container id (or an unambiguous beginning of one), or an address.
        endpoint: String,
        /// Labels to add or replace.
        #[serde(default)]
        set: Labels,
        /// Keys to remove.
        #[serde(default)]
        remove: Vec<String>,
    },
    /// The address pools.
    IpamShow,
    /// Compare leases, namespaces, links and routes.
    IpamCheck {
        /// Repair what is found.
        #[serde(default)]
        fix: bool,
    },
    /// Release an address whose container is gone.
    IpamRelease {
        /// The address.
        address: std::net::IpAddr,
    },
    /// The policies in force.
    PolicyShow {
        /// As nftables text.
        #[serde(default)]
        nft: bool,
    },
    /// Every rule a packet would meet.
    PolicyExplain {
        /// Source: endpoint id, container id, address, or `host`.
        src: String,
        /// Destination: endpoint id, container id, address, or `host`.
        dst: String,
        /// Protocol and port: `tcp/80`, `udp/53`, `icmp`.
        service: String,
        /// The source port; without it one that no program asks for.
        #[serde(default)]
        source_port: Option<u16>,
        /// The interface by which it comes to the host; without it the one that leads to the source.
        #[serde(default)]
        interface: Option<String>,
    },
    /// Who may talk to whom.
    PolicyMatrix,
    /// What other policies would allow and cut, for the endpoints this host knows of.
    PolicyDiff {
        /// The policy files to compare with, (name, text); those in force when absent.
        #[serde(default)]
        old: Option<Vec<(String, String)>>,
        /// The policy files in question.
        new: Vec<(String, String)>,
    },
    /// Packets that policies refuse, from now on; ends when nobody has asked for ten seconds.
    PolicyTrace {
        /// Only packets after this number.
        #[serde(default)]
        after: u64,
    },
    /// BFD sessions.
    Bfd,
    /// BMP collectors.
    Collectors,
    /// Write the RIB into a file as MRT.
    DumpMrt {
        /// The whole path of the file.
        file: std::path::PathBuf,
    },
    /// Read configuration and policies again.
    Reload,
    /// Everything that looks wrong.
    Doctor,
    /// Counters in the Prometheus text format.
    Metrics,
    /// End the agent.
    Shutdown {
        /// How to leave.
        mode: ShutdownMode,
    },
}

/// Which routes of the RIB to show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RibQuery {
    /// Only this prefix.
    #[serde(default)]
    pub prefix: Option<Prefix>,
    /// With `prefix`: more specific ones too.
    #[serde(default)]
    pub longer: bool,
    /// What this neighbour sent us, after import rules.
    #[serde(default)]
    pub received: Option<String>,
    /// What we send to this neighbour, after export rules.
    #[serde(default)]
    pub advertised: Option<String>,
    /// At most so many; 0 means no limit.
    #[serde(default)]
    pub limit: usize,
}

/// How the agent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShutdownMode {
    /// We will be back: sessions close without a Cease, so that graceful restart keeps the routes (RFC 4724).
    Restart,
    /// We leave: Cease, Administrative Shutdown (RFC 4486).
    Leave,
}

/// An answer line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Done; what was asked for.
    Ok(serde_json::Value),
    /// Not done.
    Error(Failure),
}

/// The failure of a request that came when its thread had ended: there is no agent any more.
pub const SHUTTING_DOWN: &str = "the agent is shutting down";

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}{}{hint}", if hint.is_empty() { "" } else { "\nhint: " })]
pub struct Failure {
    /// What went wrong.
    pub message: String,
    /// What to do about it, or empty.
    #[serde(default)]
    pub hint: String,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: String::new() }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_are_what_the_documentation_says() {
        let line = |v: &Request| serde_json::to_string(v).unwrap();
        assert_eq!(line(&Request::Status), r#"{"op":"status"}"#);
        assert_eq!(line(&Request::IpamCheck { fix: true }), r#"{"op":"ipam_check","fix":true}"#);
        let answer = serde_json::to_string(&Answer::Error(Failure::new("no").with_hint("do"))).unwrap();
        assert_eq!(answer, r#"{"error":{"message":"no","hint":"do"}}"#);
        let request: Request = serde_json::from_str(r#"{"op":"rib","received":"192.0.2.1"}"#).unwrap();
        assert_eq!(
            request,
            Request::Rib(RibQuery { received: Some("192.0.2.1".into()), ..RibQuery::default() })
        );
    }
}
