//! The core: local endpoints and everything that must be true of them before an ADD answers.
//!
//! One thread owns the CNI handler (leases, links) and the policies. Requests are handled one after another; each
//! takes about a millisecond, and none waits for the table of learned routes, which has a thread of its own.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    actor::State,
    announce::{Announcer, Telling},
    cni_stats::CniStats,
    config::Config,
    flows::Flows,
    policies::{NotEnforced, Policies},
    state_dir::{self, StateDir},
    sysctls,
};
use crate::{
    api::{CniAnswer, CniRequest, Failure},
    bgp::{rib::LocalRoute, speaker::SpeakerHandle},
    cni::{
        attach::AttachConfig,
        attachment::Attachment,
        handler::{
            AttentionKind, Handler, HandlerConfig, Host, NotReleased, Now, Problem, Released,
            attention_lines, refusal,
        },
        ipam::{BlockUse, Ipam, IpamConfig, PoolConfig, Whose, left_out_line},
        types::{CniError, code},
    },
    model::{Endpoint, EndpointId, Family, Identity, Labels, Prefix},
    netlink::{Socket, addr, route},
    routes::thread::{FibCommand, FibHandle, FibStopped, OwnAddresses},
};

/// How often the handler looks after what is left over.
const TICK: Duration = Duration::from_secs(2);
/// How long after the kernel has told of a host end it is looked at: a change often comes in several steps, and an ADD is
/// over by then.
const LOOK: Duration = Duration::from_millis(50);

/// The owner's state.
#[derive(Debug)]
pub(super) struct Core {
    handler: Handler,
    outside: Outside,
    next_tick: Instant,
    /// When to look at host ends that have changed.
    next_look: Option<Instant>,
    cni_stats: CniStats,
    state_dir: StateDir,
}

/// What an attachment needs of the rest of the agent.
#[derive(Debug)]
pub(super) struct Outside {
    pub(super) policies: Policies,
    pub(super) announcer: Announcer,
    pub(super) fib: FibHandle,
    pub(super) flows: Flows,
}

/// A change of what is known of a remote endpoint.
pub(super) type RemoteChange = (Prefix, Word);

/// What neighbours say of who is behind an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// An endpoint with this identity.
    Known(Arc<Identity>),
    /// An endpoint with this identity, until the session was lost that told it.
    Lost(Arc<Identity>, Instant),
    /// Nobody, or nobody that is known.
    Nothing,
}

/// What other hosts do with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Elsewhere {
    /// One announces it, with its attachment number if it has one.
    Announced(Option<u32>),
    /// None announces it.
    Gone,
}

impl Core {
    /// Starts with what lives in the kernel and in the run directory. Returns when every living endpoint is enforced.
    pub(super) fn start(config: &Config, outside: Outside, own: &OwnAddresses) -> anyhow::Result<Self> {
        let state_dir = state_dir::take(config);
        let handler_config = HandlerConfig { state_dir: state_dir.path.clone(), ..handler_config(config) };
        let mut handler = Handler::start(handler_config)?;
        handler.set_surroundings(surroundings(own), Now::read());
        let mut core = Self {
            handler,
            outside,
            next_tick: Instant::now() + TICK,
            next_look: None,
            cni_stats: CniStats::default(),
            state_dir,
        };
        let recovery = core.handler.recover(&mut core.outside, Now::read())?;
        for problem in &recovery.problems {
            tracing::warn!("recovery: {problem}");
        }
        if recovery.adopted + recovery.cleaned > 0 {
            tracing::info!(
                adopted = recovery.adopted,
                cleaned = recovery.cleaned,
                "endpoints from before the start"
            );
        }
        if let Err(error) = core.outside.policies.load()
            && !core.outside.policies.blocked()
        {
            anyhow::bail!("the policy table cannot be loaded: {error}");
        }
        Ok(core)
    }

    /// Handles one CNI call, if it has passed the gate; `alive` says whether its caller still waits.
    pub(super) fn cni(
        &mut self,
        request: &CniRequest,
        passed: Result<(), CniError>,
        alive: &dyn Fn() -> bool,
    ) -> CniAnswer {
        let now = Now::read();
        let answer = match passed {
            Ok(()) => self.handler.handle(&mut self.outside, request, alive, now),
            Err(error) => refusal(request, error),
        };
        self.cni_stats.note(&request.command, &answer, now.mono.elapsed());
        answer
    }

    /// How CNI verbs went.
    pub(super) fn cni_stats(&self) -> &CniStats {
        &self.cni_stats
    }

    /// How full the blocks are.
    pub(super) fn ipam_usage(&self) -> Vec<BlockUse> {
        self.handler.ipam().usage(Instant::now())
    }

    /// What the living endpoints are announced with.
    pub(super) fn local_routes(&self) -> Vec<(Prefix, LocalRoute)> {
        self.handler.attachments().flat_map(|a| self.outside.announcer.routes(a)).collect()
    }

    /// From now on announcements go to this speaker, which knows of the living endpoints already.
    pub(super) fn announce_with(&mut self, speaker: SpeakerHandle) {
        self.outside.announcer.set_speaker(speaker);
    }

    /// Remote endpoints came, went or changed their labels.
    pub(super) fn remote(&mut self, changes: Vec<RemoteChange>) {
        self.outside.policies.remote(changes);
    }

    /// There is no speaker: nobody is going to tell anything of other hosts' endpoints.
    pub(super) fn alone(&mut self) {
        self.outside.policies.alone();
    }

    /// The speaker waits for nobody: no process before us has left routes in the kernel.
    pub(super) fn not_restarting(&mut self) {
        self.outside.policies.converged();
    }

    /// Every neighbour has told what it knows.
    pub(super) fn converged(&mut self) {
        self.outside.policies.converged();
        self.handler.converged(&mut self.outside, Now::read());
    }

    /// Single addresses that other hosts announce, with their attachment numbers, or announce no longer. One of ours
    /// that has moved on is given up; one of our blocks' is not given to anybody meanwhile.
    pub(super) fn elsewhere(&mut self, changes: Vec<(IpAddr, Elsewhere)>) {
        for (addr, announced) in changes {
            let Elsewhere::Announced(number) = announced else {
                self.handler.no_longer_elsewhere(&mut self.outside, addr, Now::read());
                continue;
            };
            if let Err(error) = self.handler.announced_elsewhere(&mut self.outside, addr, number, Now::read())
            {
                tracing::error!(%addr, %error, "an address that has moved to another host is not given up yet");
            }
        }
    }

    /// An interface with the name of a host end is gone.
    pub(super) fn link_gone(&mut self, id: &EndpointId) {
        self.handler.link_gone(&mut self.outside, id, Now::read());
    }

    /// The kernel says that these interfaces, with indices of host ends, have changed.
    pub(super) fn ends_changed(&mut self, indices: Vec<u32>) {
        for index in indices {
            self.handler.end_changed(index);
        }
        self.next_look.get_or_insert_with(|| Instant::now() + LOOK);
    }

    /// An interface that may be the way out has changed.
    pub(super) fn uplink_changed(&mut self) {
        self.handler.uplink_changed();
    }

    /// The kernel has told more than was heard.
    pub(super) fn mend_all(&mut self) {
        self.uplink_changed();
        self.handler.mend_all();
    }

    /// How often a host end was put right.
    pub(super) fn mended(&self) -> u64 {
        self.handler.mended()
    }

    /// The run directory was removed: everything in it is written again.
    pub(super) fn write_files(&mut self) {
        self.handler.write_files();
        self.outside.policies.write_files();
    }

    /// A changed configuration.
    pub(super) fn reconfigure(&mut self, config: &Config) {
        self.handler.reconfigure(handler_config(config));
        self.outside.policies.reconfigure(config);
        self.handler.host_ports_changed(&mut self.outside);
        if self.outside.announcer.set_telling(Telling::of(&config.policy)) {
            self.outside.announcer.announce_again(self.handler.attachments());
        }
    }

    /// The host's own addresses, or those of its gateways, have changed.
    pub(super) fn own_addresses(&mut self, own: &OwnAddresses) {
        self.handler.set_surroundings(surroundings(own), Now::read());
    }

    /// Reads the policy folder again; what changed, or the errors.
    pub(super) fn reload_policies(&mut self) -> Result<Vec<String>, Vec<String>> {
        self.outside.policies.reload()
    }

    /// The endpoints, with whatever is known of them.
    pub(super) fn endpoints(&self) -> Vec<Value> {
        let mut attention: BTreeMap<EndpointId, Vec<Value>> = BTreeMap::new();
        for item in self.handler.attention() {
            let row = json!({ "kind": item.kind, "text": item.text, "hint": item.kind.hint() });
            attention.entry(item.endpoint).or_default().push(row);
        }
        self.handler
            .attachments()
            .map(|a| {
                let e = &a.endpoint;
                json!({
                    "id": e.id, "network": e.key.network, "container_id": e.key.container_id, "ifname": e.key.ifname,
                    "ipv4": e.ipv4, "ipv6": e.ipv6, "labels": e.labels, "netns": e.netns, "ifindex": a.ifindex,
                    "mac": a.mac.to_string(), "mtu": a.mtu, "port_mappings": a.port_mappings, "aliases": a.aliases,
                    "attention": attention.remove(&e.id).unwrap_or_default(),
                })
            })
            .collect()
    }

    /// What a person should know of endpoints and their files, in words.
    pub(super) fn attention(&self) -> Vec<String> {
        let storage = self.handler.storage_problem();
        let state = self.state_dir.trouble.clone().or_else(|| self.handler.state_trouble());
        let state = state.map(|why| state_dir::advice(&why));
        storage.into_iter().chain(state).chain(attention_lines(&self.handler.attention())).collect()
    }

    /// How many endpoints a person should know of, by why.
    pub(super) fn attention_counts(&self) -> [(&'static str, u64); AttentionKind::ALL.len()] {
        let list = self.handler.attention();
        AttentionKind::ALL.map(|kind| {
            let of: HashSet<_> = list.iter().filter(|a| a.kind == kind).map(|a| &a.endpoint).collect();
            (kind.name(), of.len() as u64)
        })
    }

    /// How many endpoints have an IPv4 and how many an IPv6 address.
    pub(super) fn endpoints_by_family(&self) -> [usize; 2] {
        self.handler.attachments().fold([0, 0], |[four, six], a| {
            [four + usize::from(a.endpoint.ipv4.is_some()), six + usize::from(a.endpoint.ipv6.is_some())]
        })
    }

    pub(super) fn endpoint_count(&self) -> usize {
        self.handler.attachments().count()
    }

    /// Changes the labels of a running endpoint, here and, with the next UPDATE, everywhere.
    pub(super) fn label(&mut self, name: &str, set: &Labels, remove: &[String]) -> Result<Value, Failure> {
        let id = self.find(name)?.id.clone();
        self.handler.set_labels(&mut self.outside, &id, set, remove).map_err(failure)?;
        Ok(json!({ "id": id, "labels": self.handler.attachment(&id).map(|a| &a.endpoint.labels) }))
    }

    /// The endpoint that a person means: its id, its container's id or the beginning of one, or an address.
    fn find(&self, name: &str) -> Result<&Endpoint, Failure> {
        let all = || self.handler.attachments().map(|a| &a.endpoint);
        let addr: Option<IpAddr> = name.parse().ok();
        let exact = |e: &&Endpoint| {
            e.id.as_str() == name
                || e.key.container_id == name
                || addr.is_some_and(|a| e.addresses().any(|b| a == b))
        };
        let mut found: Vec<&Endpoint> = all().filter(exact).collect();
        if found.is_empty() && !name.is_empty() {
            found = all().filter(|e| e.key.container_id.starts_with(name)).collect();
        }
        match found.as_slice() {
            [one] => Ok(one),
            [] => Err(Failure::new(format!("no endpoint of this host is called `{name}`"))
                .with_hint("`slash32 endpoints` lists them")),
            several => Err(Failure::new(format!("`{name}` means {} endpoints", several.len()))
                .with_hint("use the id in the first column of `slash32 endpoints`")),
        }
    }

    /// The blocks and how full they are.
    pub(super) fn ipam(&self) -> Vec<Value> {
        let row = |block: BlockUse| {
            json!({
                "pool": block.pool, "cidr": block.cidr, "block": block.block, "local": block.local, "size": block.size,
                "in_use": block.used, "resting": block.resting, "elsewhere": block.elsewhere,
                "reserved": block.reserved, "free": block.free,
            })
        };
        let mut rows: Vec<Value> = self.handler.ipam().usage(Instant::now()).into_iter().map(row).collect();
        // One line each: there is no block to sum them up.
        let mut outside: Vec<_> = self.handler.ipam().outside().collect();
        outside.sort_unstable();
        rows.extend(outside.into_iter().map(|(addr, owner)| {
            let prefix = Prefix::host(addr);
            json!({
                "pool": null, "cidr": prefix, "block": prefix, "local": false, "size": 1, "in_use": 1, "resting": 0,
                "elsewhere": 0, "reserved": 0, "free": 0, "endpoint": owner,
            })
        }));
        rows
    }

    /// Releases an address whose container is gone, or ends its rest; one that is in use is not touched.
    pub(super) fn ipam_release(&mut self, address: IpAddr) -> Result<Value, Failure> {
        match self.handler.release_address(&mut self.outside, address, Now::read()) {
            Ok(Released::Leaked(owner)) => Ok(json!({ "released": address, "endpoint": owner })),
            Ok(Released::Resting) => Ok(json!({ "released": address, "endpoint": null })),
            Err(NotReleased::Failed(error)) => Err(failure(error)),
            Err(error) => Err(Failure::new(error.to_string()).with_hint(error.hint())),
        }
    }

    /// Compares leases, namespaces, links and routes, and repairs if asked.
    pub(super) fn ipam_check(&mut self, fix: bool) -> Result<Value, Failure> {
        let problems = self.handler.audit(&mut self.outside, fix, Now::read()).map_err(failure)?;
        let row = |p: &Problem| json!({ "subject": p.endpoint, "kind": p.kind, "problem": p.text, "fixed": p.fixed });
        Ok(problems.iter().map(row).collect())
    }

    /// The addresses of our blocks that no container gets because they are somebody's, in words.
    pub(super) fn left_out(&self) -> Vec<String> {
        self.handler.ipam().left_out().map(|(addr, block, whose)| left_out_line(addr, block, whose)).collect()
    }

    /// The addresses that containers of other hosts may have at the same time.
    pub(super) fn anycast(&mut self) -> HashSet<IpAddr> {
        let anycast = self.handler.attachments().filter(|a| a.anycast);
        anycast.flat_map(|a| a.endpoint.addresses()).collect()
    }

    /// Other firewalls' chains that drop forwarded packets: what, and what to do about it.
    pub(super) fn foreign_drops(&mut self) -> Vec<(String, String)> {
        self.outside.policies.foreign_drops()
    }

    /// Somebody may have changed our table.
    pub(super) fn table_changed(&mut self) {
        self.outside.policies.repair();
    }

    /// The findings of the address check, in words.
    pub(super) fn lease_problems(&mut self) -> Vec<String> {
        match self.handler.audit(&mut self.outside, false, Now::read()) {
            Ok(problems) => problems.into_iter().map(|p| format!("{}: {}", p.endpoint, p.text)).collect(),
            Err(error) => vec![error.to_string()],
        }
    }

    pub(super) fn policies(&self) -> &Policies {
        &self.outside.policies
    }

    pub(super) fn policies_mut(&mut self) -> &mut Policies {
        &mut self.outside.policies
    }

    /// Why a packet would pass or not.
    pub(super) fn explain_policy(
        &mut self,
        (src, dst): (&str, &str),
        service: &str,
        source_port: Option<u16>,
        interface: Option<&str>,
    ) -> Result<Value, Failure> {
        let address = |name: &str, family: Option<IpAddr>| -> Result<IpAddr, Failure> {
            if let Ok(addr) = name.parse() {
                return Ok(addr);
            }
            if name == HOST {
                return Policies::host_address(family.is_none_or(|f| f.is_ipv4()));
            }
            let endpoint = self.find(name)?;
            let mut addresses = endpoint.addresses();
            let wanted = family.map(|f| f.is_ipv4());
            addresses
                .find(|a| wanted.is_none_or(|v4| a.is_ipv4() == v4))
                .ok_or_else(|| Failure::new(format!("`{name}` has no address of that family")))
        };
        let literal = [src, dst].iter().find_map(|name| name.parse::<IpAddr>().ok());
        // The host has addresses of both families as a rule, so the other end decides.
        let (src, dst) = if src == HOST {
            let dst = address(dst, literal)?;
            (address(src, Some(dst))?, dst)
        } else {
            let src = address(src, literal)?;
            (src, address(dst, literal.or((dst == HOST).then_some(src)))?)
        };
        if src.is_ipv4() != dst.is_ipv4() {
            return Err(Failure::new(format!("{src} and {dst} are of different families")));
        }
        self.outside.policies.explain((src, dst), service, source_port, interface)
    }
}

/// What people call this host's own addresses.
const HOST: &str = "host";

impl State for Core {
    fn tick(&mut self, now: Instant) -> Duration {
        if self.next_tick <= now {
            self.handler.tick(&mut self.outside, Now::read());
            self.next_tick = now + TICK;
        }
        if self.next_look.is_some_and(|look| look <= now) {
            self.next_look = None;
            self.handler.look_at_told(Now::read());
        }
        let next = self.next_look.map_or(self.next_tick, |look| look.min(self.next_tick));
        self.outside.policies.tick(now).min(next.saturating_duration_since(now))
    }
}

/// What the handler must know of the configuration.
fn handler_config(config: &Config) -> HandlerConfig {
    let pool = |p: &super::config::Pool| PoolConfig {
        name: p.name.clone(),
        cidr: p.cidr,
        blocks: p.blocks.clone(),
        exclude: p.exclude.clone(),
    };
    HandlerConfig {
        run_dir: config.run_dir.clone(),
        // Named to the handler by whoever has taken it.
        state_dir: None,
        attach: AttachConfig {
            table: config.routes.table,
            protocol: config.routes.protocol,
            metric: config.routes.local_metric,
        },
        ipam: IpamConfig {
            quarantine: Duration::from_secs(config.quarantine_seconds),
            pools: config.pools.iter().map(pool).collect(),
        },
        mtu: (config.mtu != 0).then_some(config.mtu),
        neighbours: config.neighbours().collect(),
        infrastructure: config.policy.infrastructure.clone(),
        label_rules: config.label_rules.clone(),
        look: Duration::from_secs(config.ipam_audit_seconds),
    }
}

fn surroundings(own: &OwnAddresses) -> BTreeMap<IpAddr, Whose> {
    let gateways = own.gateways.iter().map(|addr| (*addr, Whose::Gateway));
    // The host's own count, should a route lead to one.
    gateways.chain(own.addresses.iter().map(|addr| (*addr, Whose::Host))).collect()
}

/// The addresses of the configured blocks that no container is going to get, because they are a neighbour's, or this
/// machine's or its default gateway's; in words. What cannot be asked of the kernel is not told.
pub(super) fn left_out(config: &Config) -> Vec<String> {
    let mut own = OwnAddresses::default();
    if let Ok(mut socket) = Socket::route() {
        own.addresses.extend(addr::list(&mut socket).unwrap_or_default().into_iter().map(|a| a.addr));
        own.gateways.extend(route::default_gateways(&mut socket));
    }
    let handler = handler_config(config);
    let mut ipam = Ipam::new(&handler.ipam);
    let neighbours = handler.neighbours.into_iter().map(|addr| (addr, Whose::Neighbour));
    let reserved = neighbours.chain(surroundings(&own)).collect();
    ipam.set_reserved(reserved, Instant::now());
    ipam.left_out().map(|(addr, block, whose)| left_out_line(addr, block, whose)).collect()
}

/// A failed verb as a failed request.
pub(super) fn failure(error: CniError) -> Failure {
    Failure { message: error.msg, hint: error.details }
}

impl Outside {
    fn fib_command(&self, command: FibCommand) -> Result<(), CniError> {
        let failed = |error: FibStopped| CniError::new(code::ANNOUNCE_FAILED, error.to_string());
        self.fib.send_blocking(command).map_err(failed)
    }

    /// A neighbour may have come to where a container is that has its address of another IPAM plugin.
    fn not_a_neighbours(&self, attachment: &Attachment) -> Result<(), CniError> {
        let mut addresses = attachment.endpoint.addresses();
        match addresses.find(|addr| attachment.delegate.is_some() && self.policies.is_neighbour(*addr)) {
            Some(addr) => {
                Err(CniError::new(code::ADDRESS_REFUSED, format!("{addr} is a BGP neighbour's address")))
            }
            None => Ok(()),
        }
    }
}

fn not_enforced(why: String) -> CniError {
    CniError::new(code::POLICY_FAILED, "the endpoint's policy could not be put in force").details(why)
}

impl Host for Outside {
    fn enforce(&mut self, attachment: &Attachment) -> Result<(), CniError> {
        self.flows.comes(attachment);
        self.policies.enforce(attachment).map_err(|error| match error {
            NotEnforced::HostPort(why) => CniError::new(code::HOST_PORT_REFUSED, why),
            NotEnforced::Policy(why) => not_enforced(why),
        })?;
        self.flows.mapped(attachment);
        Ok(())
    }

    fn enforce_living(&mut self, attachment: &Attachment) -> Result<Vec<String>, CniError> {
        self.not_a_neighbours(attachment)?;
        let refused = self.policies.enforce_possible(attachment).map_err(not_enforced)?;
        let mut mapped = attachment.clone();
        let mut at = 0..;
        mapped.port_mappings.retain(|_| at.next().is_none_or(|at| !refused.contains_key(&at)));
        self.flows.mapped(&mapped);
        Ok(refused.into_values().collect())
    }

    fn unenforce(&mut self, attachment: &Attachment) -> Result<(), CniError> {
        self.policies.unenforce(attachment).map_err(|error| {
            CniError::new(code::POLICY_FAILED, "the endpoint's policy could not be removed").details(error)
        })?;
        self.flows.unmapped(attachment);
        self.flows.gone(attachment);
        Ok(())
    }

    fn begin_announcement(&mut self, attachment: &Attachment) {
        self.announcer.begin(attachment);
    }

    fn announce(&mut self, attachment: &Attachment) -> Result<(), CniError> {
        for addr in attachment.endpoint.addresses() {
            self.fib_command(FibCommand::SetLocal(Prefix::host(addr), attachment.ifindex))?;
        }
        self.policies.arrived(&attachment.endpoint.id);
        self.announcer.announce(attachment);
        Ok(())
    }

    fn withdraw(&mut self, attachment: &Attachment) -> Result<(), CniError> {
        let begun = self.begin_withdrawal(attachment);
        self.end_withdrawal(attachment);
        begun
    }

    fn begin_withdrawal(&mut self, attachment: &Attachment) -> Result<(), CniError> {
        self.announcer.begin_withdrawal(attachment);
        for addr in attachment.endpoint.addresses() {
            self.fib_command(FibCommand::RemoveLocal(Prefix::host(addr)))?;
        }
        Ok(())
    }

    fn end_withdrawal(&mut self, attachment: &Attachment) {
        self.announcer.end_withdrawal(attachment);
    }

    fn check(&mut self, attachment: &Attachment) -> Result<(), CniError> {
        let families = attachment.endpoint.addresses().map(Family::of).collect::<Vec<_>>();
        let off = sysctls::missing_for(&families);
        if !off.is_empty() {
            return Err(CniError::new(
                code::CHECK_FAILED,
                "the host does not forward the container's packets",
            )
            .details(off.join(", ")));
        }
        if self.policies.protects(attachment) {
            Ok(())
        } else {
            Err(CniError::new(code::POLICY_FAILED, "the endpoint's policy is not in force")
                .details(self.policies.failed().unwrap_or_default()))
        }
    }

    fn ready(&mut self) -> Result<(), CniError> {
        let off = sysctls::missing_for(&self.policies.families());
        if !off.is_empty() {
            return Err(CniError::new(
                code::LIMITED_CONNECTIVITY,
                "the host does not forward the containers' packets",
            )
            .details(off.join(", ")));
        }
        match self.policies.failed() {
            None => Ok(()),
            Some(error) => {
                // Containers that live may wait for a change of policy that does not come.
                Err(CniError::new(code::LIMITED_CONNECTIVITY, "policies cannot be enforced").details(error))
            }
        }
    }
}
