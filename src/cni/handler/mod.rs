//! The agent's side of every CNI verb.
//!
//! ```text
//!  ADD: parse -> addresses -> file -> policy -> kernel -> BGP -> result
//!  DEL: BGP -> kernel (link down) -> policy -> address to rest, file away
//! ```
//!
//! Policy comes before the interface exists and the file before the kernel is touched: there is no moment at which a
//! container is unprotected, and none at which something is in the kernel that no file tells of. Whatever fails is
//! undone in the opposite order. One verb at a time; each takes well under a millisecond of our own.

mod add;
mod again;
mod attention;
mod audit;
mod check;
mod host;
mod labels;
mod mend;
mod moves;
mod recover;
mod release;
mod remove;
mod siblings;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use serde_json::Value;

use super::{
    attach::{AttachConfig, AttachError, Attacher},
    attachment::Attachment,
    ipam::{Ipam, IpamConfig, Whose},
    store::{Store, StoreError, micros},
    types::{CniError, SpecVersion, code},
};
use crate::{
    api::{CniAnswer, CniFailure, CniRequest},
    model::{EndpointId, Labels, Prefix},
    netlink::{self, ns::NetnsId},
};
pub use attention::{Attention, AttentionKind, lines as attention_lines};
pub use audit::{Problem, ProblemKind};
pub use host::Host;
pub use labels::{LabelRule, glob};
pub use moves::Move;
pub use recover::Recovery;
pub use release::{NotReleased, Released};

/// What the handler is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandlerConfig {
    /// Where the files are.
    pub run_dir: PathBuf,
    /// Where what outlives that is; no other process uses it.
    pub state_dir: Option<PathBuf>,
    /// How endpoints are wired.
    pub attach: AttachConfig,
    /// What addresses there are.
    pub ipam: IpamConfig,
    /// The MTU of networks that say none; none: the uplink's.
    pub mtu: Option<u32>,
    /// The addresses of configured BGP neighbours: no container gets one.
    pub neighbours: Vec<IpAddr>,
    /// More addresses of switches and routers, which other IPAM plugins may not know of.
    pub infrastructure: Vec<Prefix>,
    /// Labels by name.
    pub label_rules: Vec<LabelRule>,
    /// How often [`Handler::tick`] looks for containers whose namespace is gone. The kernel tells at once
    /// ([`Handler::link_gone`]), but it may be too busy to be heard.
    pub look: Duration,
}

/// The time, by both clocks: durations by the monotonic one, names of incarnations by the other.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Does not jump.
    pub mono: Instant,
    /// Comparable between hosts.
    pub wall: SystemTime,
}

impl Now {
    /// Reads both clocks.
    pub fn read() -> Self {
        Self { mono: Instant::now(), wall: SystemTime::now() }
    }
}

/// Why the handler cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The run directory is not usable.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No netlink socket or helper thread.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// Links or routes cannot be listed.
    #[error(
        "cannot read which containers live ({0}); without that, an address of one could be given to another, so nothing is \
         done. Start the agent again"
    )]
    Unreadable(AttachError),
}

/// That a container uses a gateway number, for one of its attachments.
type GatewayUse = (NetnsId, u8, EndpointId);

fn gateway_of(attachment: &Attachment) -> GatewayUse {
    (attachment.netns_id, attachment.gateway, attachment.endpoint.id.clone())
}

/// Owner of endpoints and addresses.
#[derive(Debug)]
pub struct Handler {
    config: HandlerConfig,
    attacher: Attacher,
    ipam: Ipam,
    store: Store,
    attachments: BTreeMap<EndpointId, Attachment>,
    /// The gateway numbers in use, by container.
    gateways: BTreeSet<GatewayUse>,
    /// Adopted at start, but the agent's side of them has failed so far, and why.
    unfinished: BTreeMap<EndpointId, String>,
    /// Port mappings of living endpoints that are left out, one line each.
    unmapped: BTreeMap<EndpointId, Vec<String>>,
    /// Whose announcements are made better for now, because their addresses have moved here.
    taking_over: Vec<EndpointId>,
    /// The attachment numbers that other hosts announce addresses with: of the few that have moved.
    numbers: HashMap<IpAddr, u32>,
    /// Whose addresses were given up to other hosts, and which of them are announced by others as far as we know.
    given_up: HashMap<IpAddr, EndpointId>,
    held_elsewhere: HashSet<IpAddr>,
    /// What other hosts had of our blocks before the start and have not announced since, and until when that counts.
    remembered: (HashSet<IpAddr>, Option<Instant>),
    /// The host's own addresses and those of its gateways.
    surroundings: BTreeMap<IpAddr, Whose>,
    /// Whose copies are not up to date.
    uncopied: BTreeSet<EndpointId>,
    mending: mend::Mending,
    /// Removed, but their files could not be.
    left_over: Vec<Attachment>,
    last_sequence: u64,
    /// The uplink's MTU, once it has been asked for.
    uplink_mtu: Option<u32>,
    last_sweep: Option<Instant>,
    last_look: Option<Instant>,
}

impl Handler {
    /// Opens the files and the kernel's sockets, in the network namespace of the calling thread. The next thing to
    /// call is [`Handler::recover`].
    pub fn start(config: HandlerConfig) -> Result<Self, StartError> {
        let mut handler = Self {
            attacher: Attacher::start(config.attach)?,
            ipam: Ipam::new(&config.ipam),
            store: Store::open(&config.run_dir, config.state_dir.as_deref())?,
            attachments: BTreeMap::new(),
            gateways: BTreeSet::new(),
            unfinished: BTreeMap::new(),
            unmapped: BTreeMap::new(),
            taking_over: Vec::new(),
            mending: mend::Mending::default(),
            left_over: Vec::new(),
            numbers: HashMap::new(),
            given_up: HashMap::new(),
            held_elsewhere: HashSet::new(),
            surroundings: BTreeMap::new(),
            uncopied: BTreeSet::new(),
            remembered: Default::default(),
            last_sequence: 0,
            uplink_mtu: None,
            last_sweep: None,
            last_look: None,
            config,
        };
        handler.reserve(Instant::now());
        Ok(handler)
    }

    /// Takes a new configuration; what exists stays. Directories and the wiring need a restart to change.
    pub fn reconfigure(&mut self, config: HandlerConfig) {
        self.ipam.reconfigure(&config.ipam);
        self.uplink_mtu = None;
        let (run_dir, state_dir) = (self.config.run_dir.clone(), self.config.state_dir.clone());
        self.config = HandlerConfig { run_dir, state_dir, attach: self.config.attach, ..config };
        self.reserve(Instant::now());
    }

    /// Says which addresses are the host's, and its gateways'; no container gets one of them.
    pub fn set_surroundings(&mut self, surroundings: BTreeMap<IpAddr, Whose>, now: Now) {
        self.surroundings = surroundings;
        // Another gateway may be another way out.
        self.uplink_changed();
        self.reserve(now.mono);
    }

    fn reserve(&mut self, now: Instant) {
        let neighbours = self.config.neighbours.iter().map(|addr| (*addr, Whose::Neighbour));
        let mut reserved: BTreeMap<IpAddr, Whose> = neighbours.collect();
        // A neighbour that is the gateway, too, is better known as the former; what is the host's own is above all.
        for (addr, whose) in &self.surroundings {
            let known = reserved.entry(*addr).or_insert(*whose);
            *known = (*known).min(*whose);
        }
        self.ipam.set_reserved(reserved, now);
    }

    /// Answers a CNI verb.
    ///
    /// `alive` says whether the plugin still waits. Runtimes kill a plugin that takes too long and send DEL at once:
    /// an ADD whose caller is gone must not be begun any more, as its DEL may have been served already.
    pub fn handle(
        &mut self,
        host: &mut impl Host,
        request: &CniRequest,
        alive: &dyn Fn() -> bool,
        now: Now,
    ) -> CniAnswer {
        let result = match request.command.as_str() {
            "ADD" => self.add(host, request, alive, now),
            "DEL" => self.del(host, request, now),
            "CHECK" => self.check(host, request).map(|()| Value::Null),
            "GC" => self.gc(host, request, now),
            "STATUS" => self.status(host, request, now).map(|()| Value::Null),
            other => Err(CniError::new(code::INVALID_ENVIRONMENT, format!("unknown CNI_COMMAND {other:?}"))),
        };
        match result {
            Ok(value) => CniAnswer::Success(value),
            Err(error) => refusal(request, error),
        }
    }

    /// All attachments, by their identifiers.
    pub fn attachments(&self) -> impl ExactSizeIterator<Item = &Attachment> {
        self.attachments.values()
    }

    /// One attachment.
    pub fn attachment(&self, id: &EndpointId) -> Option<&Attachment> {
        self.attachments.get(id)
    }

    /// The addresses.
    pub fn ipam(&self) -> &Ipam {
        &self.ipam
    }

    /// Says that routes or interfaces of the host have changed, so that the MTU of the way out is looked up anew.
    pub fn uplink_changed(&mut self) {
        self.uplink_mtu = None;
    }

    /// Changes the labels of a living endpoint, with everything that follows from them.
    pub fn set_labels(
        &mut self,
        host: &mut impl Host,
        id: &EndpointId,
        set: &Labels,
        remove: &[String],
    ) -> Result<(), CniError> {
        let unknown = || CniError::new(code::UNKNOWN_CONTAINER, format!("there is no endpoint {id}"));
        let old = self.attachments.get(id).ok_or_else(unknown)?;
        let mut new = old.clone();
        for key in remove {
            new.endpoint.labels.remove(key);
        }
        new.endpoint.labels.extend(set);
        (new.rebuilt, new.labels_told) = (false, false);
        new.endpoint
            .labels
            .check_count()
            .map_err(|error| CniError::new(code::INVALID_CONFIG, error.to_string()))?;
        self.store.put(&new)?;
        let old = old.clone();
        // The alias last, as no error of it is undone by the next start.
        let changed = self
            .enforce_living(host, &new)
            .and_then(|()| host.announce(&new))
            .and_then(|()| Ok(self.attacher.write_alias(&new)?));
        match changed {
            Ok(()) => {
                self.keep(new);
                Ok(())
            }
            Err(error) => {
                let mut failures = Vec::new();
                let mut note = |what: &str, result: Result<(), CniError>| {
                    if let Err(error) = result {
                        failures.push(format!("{what}: {error}"));
                    }
                };
                note("announce the old labels", host.announce(&old));
                note("enforce the old labels", self.enforce_living(host, &old));
                note("write the old labels", self.store.put(&old).map_err(Into::into));
                note("write the old alias", self.attacher.write_alias(&old).map_err(Into::into));
                Err(error.and_rollback(&failures))
            }
        }
    }

    /// What has to be done now and then: tombstones, containers that died without a DEL, files of addresses that
    /// have rested, and what failed at start. Call it every few seconds.
    pub fn tick(&mut self, host: &mut impl Host, now: Now) {
        if !self.store.is_there() {
            tracing::warn!("the folders of endpoints were removed: written again");
            self.write_files();
        }
        self.honour_tombstones(host, now);
        self.finish_adoptions(host);
        self.end_takeovers(host, now);
        self.forget_remembered(host, now);
        self.remove_left_over();
        self.write_copies();
        if self.last_look.is_none_or(|last| now.mono.saturating_duration_since(last) >= self.config.look) {
            self.last_look = Some(now.mono);
            self.uplink_changed();
            self.release_gone(host, now);
            self.mend_all();
            self.write_missing_files();
            self.retry_mappings(host);
        }
        let rest = self.config.ipam.quarantine;
        if self.last_sweep.is_none_or(|last| now.mono.saturating_duration_since(last) > rest) {
            self.last_sweep = Some(now.mono);
            if let Err(error) = self.store.sweep(rest, now.wall) {
                tracing::warn!(%error, "cannot remove files of released addresses");
            }
        }
    }

    /// Deletes what waits to be deleted. For the end of the agent.
    pub fn finish(&mut self) {
        if let Err(error) = self.attacher.reap() {
            tracing::warn!(%error, "retired interfaces stay until the next start");
        }
    }

    /// Adds an attachment, or changes one.
    fn keep(&mut self, attachment: Attachment) {
        self.forget(&attachment.endpoint.id);
        self.gateways.insert(gateway_of(&attachment));
        let id = &attachment.endpoint.id;
        self.uncopied.insert(id.clone());
        self.given_up.extend(attachment.given_up.iter().map(|addr| (*addr, id.clone())));
        self.attachments.insert(attachment.endpoint.id.clone(), attachment);
    }

    /// Removes an attachment.
    fn forget(&mut self, id: &EndpointId) {
        if let Some(old) = self.attachments.remove(id) {
            self.gateways.remove(&gateway_of(&old));
            self.given_up.retain(|_, of| of != id);
            self.uncopied.insert(id.clone());
        }
    }

    /// A number for a new incarnation, larger than all before.
    fn next_sequence(&mut self, now: Now) -> u64 {
        self.last_sequence = micros(now.wall).max(self.last_sequence + 1);
        self.last_sequence
    }
}

/// The answer to a call that has failed; it is logged.
pub fn refusal(request: &CniRequest, error: CniError) -> CniAnswer {
    let (verb, container) = (&request.command, &request.container_id);
    tracing::warn!(verb, container, ifname = request.ifname, %error, "CNI request failed");
    CniAnswer::Failure(CniFailure { code: error.code, msg: error.msg, details: error.details })
}

/// Refuses a verb that the configuration's version does not have.
fn needs(version: SpecVersion, least: SpecVersion, verb: &str) -> Result<(), CniError> {
    if version >= least {
        return Ok(());
    }
    Err(CniError::new(
        code::INCOMPATIBLE_VERSION,
        format!("{verb} needs cniVersion {least} or later, the network configuration has {version}"),
    ))
}
