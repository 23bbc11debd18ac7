//! The policy side of the core: the engine, the nftables driver, and the policy folder.

mod answers;
mod arriving;
mod aside;
mod explain;
mod figures;
mod folder;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{
    config::Config,
    core::{RemoteChange, Word},
    identities,
    kept::{Amount, Kept, News},
    last_good::{self, Folder},
    trace::Trace,
};
use crate::{
    bgp::{config::SpeakerConfig, speaker::tellers},
    cni::{
        attachment::Attachment,
        types::{L4, PortMapping},
    },
    model::{EndpointId, Family, Labels, Prefix},
    policy::{
        Ports, Protocol, Service,
        engine::{Engine, EngineConfig, Listener, LocalEndpoint, PoolConfig, PortMap},
        language,
        nft::{Driver, Settings},
    },
};

/// How long to wait before the kernel is tried again after it refused.
const RETRY: Duration = Duration::from_secs(5);

/// How long changes of remote endpoints are gathered before they are written.
const SAVE_AFTER: Duration = Duration::from_secs(1);

/// Why an endpoint is not protected, or not reachable, as it should be.
#[derive(Debug)]
pub(super) enum NotEnforced {
    /// A port of the host cannot lead to it.
    HostPort(String),
    /// The kernel does not take the rules.
    Policy(String),
}

/// Policies compiled and in force, or the reason why not.
#[derive(Debug)]
pub(super) struct Policies {
    engine: Engine,
    /// None when policy is switched off.
    driver: Option<Driver>,
    /// Whether the kernel's table is from this process. Until then nothing is changed in it.
    loaded: bool,
    /// The endpoints that live are known, and the table should be loaded.
    wanted: bool,
    /// Why nobody knows what should be in force. The kernel's table stays as the process before left it, and no endpoint
    /// is added.
    blocked: Option<String>,
    folder: PathBuf,
    options: language::Options,
    /// The folder when it had no error last, and where the next process finds it.
    last_good: Option<Folder>,
    last_good_file: PathBuf,
    /// Why the kernel does not have what the engine wants, if so.
    error: Option<String>,
    /// Errors of the policy folder; the last good state stays in force.
    file_errors: Vec<String>,
    /// What is in the folder and is not read, as it was told.
    unread: Vec<String>,
    /// At the start somebody was writing to the folder, so it was not read.
    unsettled: bool,
    retry: Option<Instant>,
    work: figures::Work,
    remembered: Remembered,
    /// Endpoints that have their routes, and since when: connections with their addresses may be stamped again.
    arrived: Vec<(EndpointId, Instant)>,
    /// Somebody watches what is refused.
    trace: Option<Trace>,
    aside: aside::Aside,
}

/// A port mapping of an attachment, for each of its addresses that the host's address can lead to; or why it leads to none.
fn port_maps(attachment: &Attachment, mapping: &PortMapping) -> Result<Vec<PortMap>, String> {
    let protocol = |l4| match l4 {
        L4::Tcp => Protocol::TCP,
        L4::Udp => Protocol::UDP,
        L4::Sctp => Protocol::SCTP,
    };
    let fits = |addr: &IpAddr| mapping.host_ip.is_none_or(|host| host.is_ipv4() == addr.is_ipv4());
    let maps: Vec<PortMap> = attachment
        .endpoint
        .addresses()
        .filter(fits)
        .map(|addr| PortMap {
            host: mapping.host_ip.filter(|ip| !ip.is_unspecified()),
            protocol: protocol(mapping.protocol),
            host_port: mapping.host_port,
            target: SocketAddr::new(addr, mapping.container_port),
        })
        .collect();
    match mapping.host_ip {
        Some(host) if maps.is_empty() => Err(format!(
            "host address {host} cannot lead to the container: it has no {} address",
            Family::of(host)
        )),
        _ => Ok(maps),
    }
}

/// What of the remote endpoints is in the run directory.
#[derive(Debug)]
struct Remembered {
    file: PathBuf,
    /// What of it nobody tells any more.
    kept: Kept,
    /// When the file has to be written, if it has to.
    due: Option<Instant>,
}

impl Policies {
    /// Reads the folder and opens the driver. An error in the folder is kept for `status`; a kernel without nftables
    /// is an error, as containers would be unprotected without anybody knowing.
    pub(super) fn start(config: &Config) -> anyhow::Result<Self> {
        let driver = if config.policy.enabled {
            Some(Driver::open(settings(config)).map_err(|error| {
                anyhow::anyhow!(
                    "nftables cannot be used: {error}\nThe kernel needs CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET; \
                     to run without policy enforcement set `enabled = false` in [policy]"
                )
            })?)
        } else {
            switch_off();
            None
        };
        let mut policies = Self {
            engine: Engine::new(engine_config(config)),
            driver,
            loaded: false,
            wanted: false,
            blocked: None,
            folder: config.policy_dir.clone(),
            options: config.policy.language(),
            last_good: None,
            last_good_file: config.run_dir.join(last_good::FILE),
            error: None,
            file_errors: Vec::new(),
            unread: Vec::new(),
            unsettled: false,
            retry: None,
            work: figures::Work::default(),
            remembered: Remembered {
                file: config.run_dir.join(identities::FILE),
                kept: Kept::new(config.policy.identity_hold),
                due: None,
            },
            arrived: Vec::new(),
            trace: None,
            aside: aside::Aside::new(config.policy.audit),
        };
        let unreadable = match Folder::load(&policies.last_good_file) {
            Ok(known) => {
                policies.last_good = known;
                None
            }
            Err(error) => Some(error),
        };
        policies.first_read(unreadable);
        policies.remember();
        Ok(policies)
    }

    /// Nobody knows what should be in force.
    pub(super) fn blocked(&self) -> bool {
        self.blocked.is_some()
    }

    /// Starts with the remote endpoints that the process before us knew.
    fn remember(&mut self) {
        match identities::load(&self.remembered.file) {
            Ok(known) => {
                self.remembered.kept.recall(&known, Instant::now());
                for (prefix, identity, _) in known.entries {
                    self.engine.upsert_remote(prefix, identity);
                }
            }
            Err(error) => tracing::warn!(
                "{}: {error}; containers of other hosts are unknown until BGP tells of them",
                self.remembered.file.display()
            ),
        }
    }

    /// There is no speaker: nobody will tell anything.
    pub(super) fn alone(&mut self) {
        let gone = self.remembered.kept.alone();
        self.forget(gone);
    }

    /// After the start nobody else is waited for.
    pub(super) fn converged(&mut self) {
        let gone = self.remembered.kept.converged();
        self.forget(gone);
    }

    /// A neighbour has told all it knows of a family.
    pub(super) fn complete(&mut self, peer: String, family: Family) {
        let gone = self.remembered.kept.complete(peer, family);
        self.save_soon();
        self.forget(gone);
    }

    /// A neighbour's session is over.
    pub(super) fn session_over(&mut self, peer: &str) {
        self.remembered.kept.down(peer);
        self.save_soon();
    }

    /// How much is known only of sessions that were lost, or from before the start.
    pub(super) fn kept(&self) -> Amount {
        self.remembered.kept.amount(Instant::now())
    }

    /// For how long an address has been known only so.
    pub(super) fn kept_for(&self, addr: IpAddr) -> Option<Duration> {
        let prefix = Prefix::host(addr);
        let since = self.remembered.kept.since(prefix).filter(|_| self.engine.owner_of(prefix).is_none());
        since.map(|since| since.elapsed())
    }

    fn forget(&mut self, gone: Vec<Prefix>) {
        if gone.is_empty() {
            return;
        }
        self.save_soon();
        for prefix in gone {
            self.engine.remove_remote(prefix);
        }
        // A failure is kept and tried again.
        let _ = self.flush();
    }

    /// Writes again what the next process finds in the run directory.
    pub(super) fn write_files(&mut self) {
        self.save_soon();
        self.save_last_good();
    }

    fn save_soon(&mut self) {
        self.remembered.due.get_or_insert_with(|| Instant::now() + SAVE_AFTER);
    }

    /// Writes what is known of remote endpoints for the process after us. Not on this thread: there may be many.
    fn save_remotes(&mut self) {
        self.remembered.due = None;
        let Remembered { kept, .. } = &mut self.remembered;
        let neighbours = kept.tellers();
        let age = |prefix| kept.since(prefix).map(|since| since.elapsed());
        let entries = self.engine.remotes().map(|(p, identity)| (p, identity.clone(), age(p))).collect();
        let known = identities::Known { entries, neighbours };
        let file = self.remembered.file.clone();
        let work = move || {
            if let Err(error) = identities::save(&file, &known) {
                tracing::warn!("cannot write {}: {error}", file.display());
            }
        };
        if let Err(error) = std::thread::Builder::new().name("identities".into()).spawn(work) {
            tracing::warn!("cannot start a thread: {error}");
        }
    }

    /// Loads the whole table. Called once the endpoints that live are known, so that a restart replaces the table of
    /// the process before by an equal one.
    pub(super) fn load(&mut self) -> Result<(), String> {
        self.wanted = true;
        if let Some(why) = &self.blocked {
            return Err(why.clone());
        }
        let first = !std::mem::replace(&mut self.loaded, true);
        let Some(driver) = &mut self.driver else { return Ok(()) };
        let rules = self.engine.snapshot();
        let start = Instant::now();
        let result = if first { driver.take_over(&rules).map(drop) } else { driver.replace(&rules) };
        if first && driver.found() {
            self.engine.continued();
        }
        self.work.changed(start);
        let result = result.map_err(|e| e.to_string());
        self.note(result)
    }

    fn note(&mut self, result: Result<(), String>) -> Result<(), String> {
        match &result {
            Ok(()) => (self.error, self.retry) = (None, None),
            Err(error) => {
                tracing::error!("policy: {error}");
                self.error = Some(error.clone());
                self.retry = Some(Instant::now() + RETRY);
            }
        }
        result
    }

    /// Brings the kernel up to date with the engine, in one transaction.
    fn flush(&mut self) -> Result<(), String> {
        if !self.loaded {
            return if self.wanted { self.load() } else { Ok(()) };
        }
        // What the kernel has refused as a whole is tried again now and then, not with every route that comes.
        if let Some(error) = self.error.as_ref().filter(|_| self.retry.is_some_and(|at| at > Instant::now()))
        {
            return Err(error.clone());
        }
        self.note_arrived();
        let delta = self.engine.changes();
        let Some(driver) = &mut self.driver else { return Ok(()) };
        if self.error.is_some() {
            return self.load();
        }
        let start = Instant::now();
        let result = driver.apply(&delta);
        if !delta.is_empty() {
            self.work.changed(start);
        }
        match result {
            Ok(()) => Ok(()),
            Err(error) => {
                tracing::warn!("policy: {error}; loading the whole table");
                self.load()
            }
        }
    }

    pub(super) fn enforce(&mut self, attachment: &Attachment) -> Result<(), NotEnforced> {
        let mut maps = Vec::new();
        for mapping in &attachment.port_mappings {
            self.maps_ports().map_err(NotEnforced::HostPort)?;
            maps.extend(port_maps(attachment, mapping).map_err(NotEnforced::HostPort)?);
        }
        self.upsert(attachment);
        if let Err(error) = self.engine.set_port_maps(&attachment.endpoint.id, maps) {
            self.engine.remove_local(&attachment.endpoint.id);
            return Err(NotEnforced::HostPort(error.to_string()));
        }
        self.flush().map_err(NotEnforced::Policy)
    }

    /// As [`Policies::enforce`], without the port mappings that are not possible. Those, by their place in the list, and
    /// why.
    pub(super) fn enforce_possible(
        &mut self,
        attachment: &Attachment,
    ) -> Result<BTreeMap<usize, String>, String> {
        let id = &attachment.endpoint.id;
        let (mut maps, mut refused) = (Vec::new(), BTreeMap::new());
        for (at, mapping) in attachment.port_mappings.iter().enumerate() {
            let possible = self.maps_ports().and_then(|()| port_maps(attachment, mapping)).and_then(|list| {
                let each = list.iter().map(|map| self.engine.port_map_possible(id, map));
                each.collect::<Result<(), _>>().map_err(|error| error.to_string()).map(|()| list)
            });
            match possible {
                Ok(list) => maps.extend(list),
                Err(why) => _ = refused.insert(at, why),
            }
        }
        self.upsert(attachment);
        // It lives, with its routes.
        self.engine.arrived(id);
        self.engine.set_port_maps(id, maps).map_err(|error| error.to_string())?;
        self.flush()?;
        Ok(refused)
    }

    /// Port mappings are rules of our table.
    fn maps_ports(&self) -> Result<(), String> {
        let off = "policy is switched off ([policy] enabled), and port mappings with it";
        self.driver.as_ref().map(|_| ()).ok_or_else(|| off.to_owned())
    }

    /// Somebody waits: what has failed is not put off.
    fn try_at_once(&mut self) {
        if self.retry.is_some() {
            self.retry = Some(Instant::now());
        }
    }

    fn upsert(&mut self, attachment: &Attachment) {
        self.try_at_once();
        let mut local = LocalEndpoint::from(&attachment.endpoint);
        if attachment.lacks_labels() {
            local.labels = Labels::unknown();
        }
        local.addresses.extend(attachment.spoofed());
        // What it may use beside its own is not its alone, and an anycast address is that of others, too.
        local.shared.extend(attachment.spoofed());
        if attachment.anycast {
            local.shared.extend(attachment.endpoint.addresses());
        }
        // What another host's container was known as at this address counts no more, not even when ours is gone.
        for addr in attachment.endpoint.addresses() {
            if self.remembered.kept.taken(Prefix::host(addr)) {
                self.engine.remove_remote(Prefix::host(addr));
                self.save_soon();
            }
        }
        self.engine.upsert_local(local);
    }

    /// Whether an address is that of a configured BGP neighbour, or of the infrastructure, and outside of the pools.
    pub(super) fn is_neighbour(&self, addr: IpAddr) -> bool {
        let config = self.engine.config();
        let pools = &mut config.pools.iter();
        config.infrastructure.iter().any(|prefix| prefix.contains_addr(addr))
            && !pools.any(|pool| pool.cidr.contains_addr(addr))
    }

    /// The families of the pools.
    pub(super) fn families(&self) -> Vec<Family> {
        self.engine.config().pools.iter().map(|pool| pool.cidr.family()).collect()
    }

    pub(super) fn unenforce(&mut self, attachment: &Attachment) -> Result<(), String> {
        self.try_at_once();
        self.engine.remove_local(&attachment.endpoint.id);
        // What is left of it in the kernel goes with the first table that is loaded.
        if self.blocked() { Ok(()) } else { self.flush() }
    }

    /// Remote endpoints came, went or changed their labels.
    pub(super) fn remote(&mut self, changes: Vec<RemoteChange>) {
        if !changes.is_empty() {
            self.save_soon();
        }
        for (prefix, word) in changes {
            let news = match word {
                Word::Lost(_, since) => News::Lost(since),
                Word::Known(_) | Word::Nothing => News::Told,
            };
            self.remembered.kept.note(prefix, news);
            match word {
                // With nothing new the sets stay as they are, and so does the kernel.
                Word::Known(identity) | Word::Lost(identity, _) => {
                    self.engine.upsert_remote(prefix, identity);
                }
                Word::Nothing => self.engine.remove_remote(prefix),
            }
        }
        // A failure is kept and tried again.
        let _ = self.flush();
    }

    pub(super) fn reconfigure(&mut self, config: &Config) {
        let trace = self.trace.is_some();
        let new = EngineConfig { trace, ..engine_config(config) };
        if new.pools != self.engine.config().pools {
            self.aside.other_pools();
        }
        self.engine.set_config(new);
        self.folder.clone_from(&config.policy_dir);
        self.options = config.policy.language();
        self.compare_every(config.policy.audit);
        let tellers = config.bgp.as_ref().map(tellers).unwrap_or_default();
        let in_pools = |prefix| config.pools.iter().any(|pool| pool.cidr.covers(prefix));
        let kept = &mut self.remembered.kept;
        let mut gone = kept.reconfigure(
            config.policy.identity_hold,
            |name| tellers.believed(name),
            in_pools,
            Instant::now(),
        );
        // Identities are believed inside the pools only, and nobody tells of the others any more.
        gone.extend(self.engine.remotes().map(|(prefix, _)| prefix).filter(|prefix| !in_pools(*prefix)));
        for prefix in &gone {
            self.remembered.kept.note(*prefix, News::Told);
        }
        self.forget(gone);
        let _ = self.flush();
        self.move_stamps(config.policy.ct_mark_mask);
    }

    /// Stamps under another mask from now on.
    fn move_stamps(&mut self, mask: u32) {
        let Some(driver) = &mut self.driver else { return };
        match driver.set_mark_mask(mask) {
            // A failure is kept and tried again.
            Ok(true) if self.loaded => _ = self.load(),
            Ok(_) => {}
            Err(error) => tracing::error!("policy: {error}"),
        }
    }

    /// Compares the table in the kernel with what it should be and puts it back. Connections that are allowed do not
    /// notice.
    pub(super) fn repair(&mut self) {
        if self.blocked() {
            return;
        }
        // What waits to be written is no damage. A failure is kept and tried again.
        let _ = self.flush();
        let want = self.engine.compiled();
        let Some(driver) = &mut self.driver else { return };
        let differences = driver.differences(&want);
        if differences.as_ref().is_ok_and(Vec::is_empty) {
            return;
        }
        self.work.repaired();
        let result = match differences {
            Ok(list) => {
                tracing::warn!(
                    "somebody changed the table inet slash32 in {} places; putting it back",
                    list.len()
                );
                driver.restore(&want, &list)
            }
            Err(error) => {
                tracing::warn!("the table inet slash32 cannot be read back ({error}); loading it again");
                driver.replace(&want)
            }
        };
        // A failure is kept and tried again.
        let _ = self.note(result.map_err(|e| e.to_string()));
    }

    /// The port of the driver's netlink socket, whose own changes nobody needs to be told of.
    pub(super) fn port(&self) -> Option<u32> {
        self.driver.as_ref().and_then(|driver| driver.port().ok())
    }

    /// Other firewalls' chains that drop forwarded packets: what, and what to do about it.
    pub(super) fn foreign_drops(&mut self) -> Vec<(String, String)> {
        let Some(driver) = &mut self.driver else { return Vec::new() };
        match driver.foreign_drops() {
            Ok(list) => list.iter().map(|drop| (drop.to_string(), drop.remedy.join("\n"))).collect(),
            Err(error) => {
                tracing::warn!("cannot look for other firewalls: {error}");
                Vec::new()
            }
        }
    }

    /// Rules of others that write over stamps.
    pub(super) fn foreign_marks(&mut self) -> Vec<String> {
        let Some(driver) = &mut self.driver else { return Vec::new() };
        driver.foreign_marks().unwrap_or_else(|error| {
            tracing::warn!("cannot look for other firewalls: {error}");
            Vec::new()
        })
    }

    /// How many packets from elsewhere claimed to be of an endpoint of this host.
    pub(super) fn forged(&mut self) -> u64 {
        let counters = self.driver.as_mut().map(|driver| driver.counters_of(&["from_elsewhere"]));
        counters.and_then(Result::ok).into_iter().flatten().map(|counter| counter.packets).sum()
    }

    /// Tries again what failed; how long until the next look.
    pub(super) fn tick(&mut self, now: Instant) -> Duration {
        if self.retry.is_some_and(|at| at <= now) {
            // The failure is kept and shown.
            let _ = self.load();
        }
        let gone = self.remembered.kept.expire(now);
        self.forget(gone);
        if self.remembered.due.is_some_and(|at| at <= now) {
            self.save_remotes();
        }
        if self.trace.as_ref().is_some_and(|trace| trace.until() <= now) {
            self.stop_trace();
        }
        if self.arrived_at().is_some_and(|at| at <= now) {
            let _ = self.flush();
        }
        if let Some(driver) = &mut self.driver
            && driver.tidy_at().is_some_and(|at| at <= now)
            && let Err(error) = driver.tidy()
        {
            tracing::warn!("policy: what is not used any more cannot be removed: {error}");
        }
        let aside = self.tick_aside(now);
        let tidy = self.driver.as_ref().and_then(Driver::tidy_at);
        let trace = self.trace.as_ref().map(Trace::until);
        let arrived = self.arrived_at();
        let next =
            [self.retry, self.remembered.due, self.remembered.kept.next(), trace, tidy, arrived, aside]
                .into_iter()
                .flatten()
                .min();
        next.map_or(Duration::from_secs(60), |at| at.saturating_duration_since(now))
    }

    /// Whether the endpoint's rules are in force.
    pub(super) fn protects(&self, attachment: &Attachment) -> bool {
        self.driver.is_none()
            || self.error.is_none() && self.engine.locals().any(|local| local.id == attachment.endpoint.id)
    }

    /// Why the kernel does not have what it should.
    pub(super) fn failed(&self) -> Option<String> {
        self.error.clone()
    }

    pub(super) fn file_errors(&self) -> &[String] {
        &self.file_errors
    }

    pub(super) fn count(&self) -> usize {
        self.engine.policies().policies.len()
    }

    /// Everything that needs attention.
    pub(super) fn problems(&self) -> Vec<String> {
        let silent = self.engine.unanswered().into_iter().map(|(key, count)| {
            format!(
                "policies ask for the value of label `{key}`, and {count} addresses of other hosts do not tell it: they \
                 match no selector that depends on it; list `{key}` in `expand` of [policy] on their hosts too"
            )
        });
        let stale = (!self.file_errors.is_empty() && !self.blocked())
            .then(|| "the policy folder has errors; the last good policies stay in force".to_owned());
        self.error
            .iter()
            .cloned()
            .chain(stale)
            .chain(self.file_errors.iter().cloned())
            .chain(silent)
            .collect()
    }
}

/// Nothing is enforced any more: what an earlier process has put in force goes. Its table would refuse what it does not
/// know, which is every container that comes.
fn switch_off() {
    // A kernel without nftables is a reason to switch policy off.
    let Ok(mut driver) = Driver::open(Settings::default()) else { return };
    if !driver.found() {
        return;
    }
    match driver.remove() {
        Ok(()) => tracing::warn!("policy is switched off: the table inet slash32 is removed"),
        Err(error) => {
            tracing::error!(
                "policy is switched off, but its table cannot be removed ({error}): `nft delete table inet slash32`"
            );
        }
    }
}

fn settings(config: &Config) -> Settings {
    Settings { mark_mask: config.policy.ct_mark_mask, ..Settings::default() }
}

/// What the engine must know of the configuration.
pub(super) fn engine_config(config: &Config) -> EngineConfig {
    let bgp = config.bgp.as_ref();
    let mut agent_ports: Vec<u16> = config.metrics_listen.iter().map(SocketAddr::port).collect();
    agent_ports.extend(bgp.iter().flat_map(|b| b.listen.iter().map(SocketAddr::port)));
    agent_ports.sort_unstable();
    agent_ports.dedup();
    let infrastructure = config.neighbours().map(Prefix::host);
    EngineConfig {
        default_ingress: config.policy.default_ingress,
        default_egress: config.policy.default_egress,
        pools: config
            .pools
            .iter()
            .map(|p| PoolConfig { cidr: p.cidr, nat_outgoing: p.nat_outgoing })
            .collect(),
        deny_unknown: config.policy.deny_unknown,
        endpoint_to_host: config.policy.endpoint_to_host.iter().flat_map(|text| services(text)).collect(),
        protected: EngineConfig::protected_ports(&agent_ports),
        infrastructure: infrastructure.chain(config.policy.infrastructure.iter().copied()).collect(),
        neighbours: bgp.iter().flat_map(|b| &b.listen_ranges).map(|range| range.prefix).collect(),
        listeners: bgp.map(listeners).unwrap_or_default(),
        ..EngineConfig::default()
    }
}

/// Where the speaker listens; for BFD only if a neighbour may have it.
fn listeners(bgp: &SpeakerConfig) -> Vec<Listener> {
    let peers = bgp.peers.iter().map(|peer| &peer.settings);
    let bfd = peers.chain(bgp.listen_ranges.iter().map(|range| &range.settings)).any(|s| s.bfd.is_some());
    let of_bfd = EngineConfig::BFD_PORTS.into_iter().filter(|_| bfd);
    let tcp = |at: &SocketAddr| Listener { address: at.ip(), protocol: Protocol::TCP, port: at.port() };
    bgp.listen
        .iter()
        .map(tcp)
        .chain(of_bfd.flat_map(|port| Listener::anywhere(Protocol::UDP, port)))
        .collect()
}

/// `icmp` stands for both families; the configuration has checked the rest.
fn services(text: &str) -> Vec<Service> {
    let any = |protocol| Service { protocol, ports: Ports::Any };
    match text.split_once('/') {
        None => vec![any(Protocol::ICMP), any(Protocol::ICMPV6)],
        Some((name, port)) => {
            let protocol = match name {
                "tcp" => Protocol::TCP,
                "udp" => Protocol::UDP,
                _ => Protocol::SCTP,
            };
            port.parse()
                .map(|port| Service { protocol, ports: Ports::Range(port, port) })
                .into_iter()
                .collect()
        }
    }
}
