//! The configuration: parsed, validated, and resolved into plain values for each room.
//!
//! Errors carry file, line, column and a caret, all of them at once. A configuration that does not load changes
//! nothing: the agent goes on with the one it has.

mod auth;
mod bgp;
mod file;
mod ipam;
mod locate;
mod monitoring;
mod resolve;

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    api,
    bgp::config::{PeerAddress, SpeakerConfig},
    cni::handler::LabelRule,
    model::{Diagnostic, Prefix},
    policy::language::Options,
};

/// The whole configuration, defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where it was read from.
    pub file: PathBuf,
    /// The host's name, as shown and as told to neighbours.
    pub hostname: String,
    /// Socket, endpoint files and everything else that lives as long as the containers.
    pub run_dir: PathBuf,
    /// As configured; [`Self::state_dir`] is what is meant.
    pub state: Option<PathBuf>,
    /// The folder of policy files.
    pub policy_dir: PathBuf,
    /// The `tracing` filter, such as `info` or `slash32::bgp=debug`.
    pub log: String,
    /// Where to answer HTTP requests for metrics.
    pub metrics_listen: Option<SocketAddr>,
    /// The speaker; absent: no BGP at all, containers of this host only.
    pub bgp: Option<SpeakerConfig>,
    /// Address pools.
    pub pools: Vec<Pool>,
    /// How long a released address rests, in seconds.
    pub quarantine_seconds: u64,
    /// How often to look for endpoints whose interface is gone, in seconds.
    pub ipam_audit_seconds: u64,
    /// How long after a start that knows nothing of this boot ADDs wait for what the neighbours know.
    pub neighbours_wait: Duration,
    /// The kernel's routes.
    pub routes: Routes,
    /// The MTU of attachments; 0: as the uplink.
    pub mtu: u32,
    /// Labels by name.
    pub label_rules: Vec<LabelRule>,
    /// Policy.
    pub policy: PolicyConfig,
}

/// Where an agent with the machine's own run directory keeps what outlives that.
const DEFAULT_STATE_DIR: &str = "/var/lib/slash32";

impl Config {
    /// Where what outlives the run directory is kept; none: nowhere. An agent with a run directory of its own has that below
    /// it unless configured: it must not share what is the machine's.
    pub fn state_dir(&self) -> Option<PathBuf> {
        match &self.state {
            Some(dir) => Some(dir.clone()).filter(|dir| !dir.as_os_str().is_empty()),
            None if self.run_dir == Path::new(api::DEFAULT_RUN_DIR) => Some(DEFAULT_STATE_DIR.into()),
            None => Some(self.run_dir.join("state")),
        }
    }

    /// The addresses of the configured BGP neighbours; not those that count on one link only.
    pub fn neighbours(&self) -> impl Iterator<Item = IpAddr> {
        let peers = self.bgp.iter().flat_map(|bgp| &bgp.peers);
        peers.filter_map(|peer| match peer.address {
            PeerAddress::Ip(addr) => Some(addr),
            PeerAddress::LinkLocal { .. } | PeerAddress::Interface(_) => None,
        })
    }
}

/// One `[[ipam.pool]]`, its blocks computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The name networks refer to.
    pub name: String,
    /// The cluster-wide range.
    pub cidr: Prefix,
    /// This host's share of it.
    pub blocks: Vec<Prefix>,
    /// Never given to a container.
    pub exclude: Vec<Prefix>,
    /// Whether what leaves the pools is masqueraded.
    pub nat_outgoing: bool,
}

/// `[routes]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes {
    /// Whether learned routes go into the kernel; a pure route reflector does not want them there.
    pub install: bool,
    /// The routing table.
    pub table: u32,
    /// The metric of learned routes.
    pub metric: u32,
    /// The metric of routes to local containers, lower than that of learned ones.
    pub local_metric: u32,
    /// The route protocol number that marks routes as ours.
    pub protocol: u8,
    /// The most learned routes.
    pub max_routes: usize,
    /// Whether to use next-hop objects where the kernel has them.
    pub nexthop_objects: bool,
    /// Seconds between audits of the kernel against the intent.
    pub audit_seconds: u64,
}

/// `[policy]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyConfig {
    /// Whether our nftables table exists at all.
    pub enabled: bool,
    /// Whether traffic to endpoints that no policy selects is allowed.
    pub default_ingress: bool,
    /// Whether traffic from endpoints that no policy selects is allowed.
    pub default_egress: bool,
    /// What endpoints may reach on their own host: `icmp`, `udp/53` and the like.
    pub endpoint_to_host: Vec<String>,
    /// Addresses of switches that are no BGP neighbours: endpoints do not reach routing protocols there either.
    pub infrastructure: Vec<Prefix>,
    /// Labels that travel in full, so that `contains` and its kin can ask for them at remote endpoints.
    pub expand: BTreeSet<String>,
    /// How long what a container of another host was known as is kept after the session it came by was lost.
    pub identity_hold: Duration,
    /// Whether an endpoint whose labels were lost is cut off while policies ask for labels; else it counts as one without.
    pub deny_unknown: bool,
    /// The bits of the conntrack mark that hold stamps: one run of at least 16.
    pub ct_mark_mask: u32,
    /// How often the kernel's table is compared with what it should be, beside when nftables tells of changes; none: never.
    pub audit: Option<Duration>,
}

impl PolicyConfig {
    /// What the reading of policy files depends on.
    pub fn language(&self) -> Options {
        Options { expand: self.expand.clone() }
    }
}

/// What the configuration takes from the machine when it says nothing itself.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The system's host name.
    pub hostname: String,
    /// An IPv4 address of the host, for the router id.
    pub router_id: Option<Ipv4Addr>,
}

/// Why a configuration does not load.
#[derive(Debug)]
pub enum ConfigError {
    /// The file cannot be read.
    Read(PathBuf, std::io::Error),
    /// What is wrong in it.
    Invalid(Vec<Diagnostic>),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path, error) => write!(f, "cannot read the configuration {}: {error}", path.display()),
            Self::Invalid(list) => {
                for (i, diagnostic) in list.iter().enumerate() {
                    write!(f, "{}{diagnostic}", if i == 0 { "" } else { "\n" })?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ConfigError {}

/// Reads, parses and validates a file.
pub fn load(path: &Path, surroundings: &Surroundings) -> Result<Config, ConfigError> {
    let source = std::fs::read_to_string(path).map_err(|e| ConfigError::Read(path.to_owned(), e))?;
    parse(path, &source, surroundings)
}

/// Reads a file and the policy folder it names, for `config check`: the errors of the policies, and what is not an error but
/// hardly meant. A router id that the file leaves to the machine is not looked for.
pub fn check(path: &Path) -> Result<(Vec<Diagnostic>, Vec<String>), ConfigError> {
    let anywhere =
        Surroundings { hostname: "localhost".into(), router_id: Some(Ipv4Addr::new(192, 0, 2, 1)) };
    let config = load(path, &anywhere)?;
    let policies = crate::policy::language::load_dir(&config.policy_dir, &config.policy.language());
    Ok((policies.err().unwrap_or_default(), super::core::left_out(&config)))
}

/// Parses and validates; the same text and surroundings always give the same value.
pub fn parse(path: &Path, source: &str, surroundings: &Surroundings) -> Result<Config, ConfigError> {
    let file: file::File = toml::from_str(source).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        ConfigError::Invalid(vec![Diagnostic::new(path, source, span, error.message())])
    })?;
    resolve::resolve(path, source, file, surroundings).map_err(ConfigError::Invalid)
}

#[cfg(test)]
mod tests;
